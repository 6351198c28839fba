#!/usr/bin/env python3
"""Fails system calls of short commands one by one, and shows what became of their work.

    kernels-tests/faults.py target/release/stssad [--every N] [--only train,resume,test,sweep,merge] [--planted | --device]

Needs Linux with strace. For each command, and for each of some system calls and faults, the n-th such call on the command's files
fails, or the process is killed there, for n = 1, 1 + N, … up to as many as an undisturbed command makes. A line of the table counts:
the calls that were failed, the commands that went on to the end nevertheless, the exit codes of the others, those whose files were
the undisturbed ones to the bit in the end (at once if it went on, else after the same command or --resume), and those that were lost
or wrong. Exits 1 if there is one of the last.

With --planted the n-th rename is not done but reported as done, as no honest disk does: then each command must be found wrong
somewhere, or this script could not see a lost file. Exits 1 if one is not.

With --device the n-th submit loses the device, or the n-th allocation of its memory fails, by the layer in faulty-driver/, which
`cargo build` makes there.
"""
import argparse
import collections
import dataclasses
import itertools
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

SMALL = """--data texture --texture gravel --defect blob --size 16 --max-train 8 --max-normals 4 --max-anomalies 4 --batch 4
--batch-val 4 --method auto-encoder --augmentation cutpaste --starts 1 --steps 6 --warm-up 1 --checkpoint-every 2 --no-report
--progress none""".split()
GRID = """
seeds = [0, 1]
reference = "auto-encoder"
common.images = { size = 16, max_train = 8, max_normals = 4, max_anomalies = 4 }
common.training = { batch = 4, batch_val = 4, starts = 1, steps = 4, warm_up = 1, checkpoint_every = 2 }
common.augmentation = "cutpaste"
task = [{ name = "blob", config.data = { kind = "texture", texture = "gravel", defect = "blob" } }]
method = [{ name = "auto-encoder", config.method = "auto-encoder" }]
"""
CALLS = ["write", "fsync", "rename", "openat", "ftruncate"]
FAULTS = ["error=ENOSPC", "error=EIO", "signal=SIGKILL"]
LAYER = pathlib.Path(__file__).resolve().parent / "faulty-driver"
DEVICE_FAULTS = {"submit": "LOSE_AT", "allocation": "EXHAUST_AT"}
# The documented codes, and those of a process that a signal ended.
DOCUMENTED = {1, 2, 3, 4, 70, 74, 75, 137, -9}
RUN = ["model.safetensors", "metrics.csv", "scores.csv"]


@dataclasses.dataclass
class Work:
    """A command that works in the folder `out`."""

    command: list
    # Commands that end what it left undone; the first that can.
    mend: list
    # Patterns of the files whose bits count.
    files: list
    # What `out` contains before.
    before: pathlib.Path | None = None


def call(program, arguments, strace=(), **variables):
    environment = {**os.environ, **variables}
    return subprocess.run([*strace, program, *arguments], capture_output=True, text=True, env=environment)


def bits(out, patterns):
    paths = sorted(path for pattern in patterns for path in out.glob(pattern))
    return {str(path.relative_to(out)): path.read_bytes() for path in paths}


def works(program, root, out):
    """Each command's work, with what it needs in other folders of `root`."""
    trained, stopped, grid, swept = (root / name for name in ["trained", "stopped", "grid.toml", "swept"])
    train = ["train", *SMALL, "--out", out]
    resume = ["train", "--resume", out, "--no-report", "--progress", "none"]
    assert call(program, ["train", *SMALL, "--out", trained]).returncode == 0
    # Killed as it saves its last checkpoint.
    kill = ["strace", "-f", "-qq", "-o", root / "trace", "-e", "trace=rename", "-e", "inject=rename:signal=SIGKILL:when=9"]
    call(program, train, kill)
    assert (out / "checkpoint.safetensors").exists() and not (out / "result.json").exists()
    out.rename(stopped)
    grid.write_text(GRID)
    sweep, merge = (["sweep", action, grid, "--out", out] for action in ["run", "merge"])
    assert call(program, ["sweep", "run", grid, "--out", swept]).returncode == 0
    test = ["test", trained, "--out", out]
    return {
        "train": Work(train, [resume, train], RUN),
        "resume": Work(resume, [resume, train], RUN, stopped),
        "test": Work(test, [test], ["scores.csv", "test.json"]),
        "sweep": Work(sweep, [sweep], [f"*/*/*/{name}" for name in RUN]),
        "merge": Work(merge, [merge], ["comparison.*"], swept),
    }


class Trial:
    """One work, done in the same folder again and again."""

    def __init__(self, program, root, out, work):
        self.program, self.root, self.out, self.work = program, root, out, work
        self.trace = root / "trace"
        self.begin()
        assert call(program, work.command).returncode == 0
        self.expected = bits(out, work.files)
        assert self.expected

    def begin(self):
        shutil.rmtree(self.out, ignore_errors=True)
        if self.work.before:
            shutil.copytree(self.work.before, self.out)

    def calls(self, name):
        """The numbers, within their threads, of the calls on files of the work: strace counts those of each thread by itself."""
        self.begin()
        call(self.program, self.work.command, ["strace", "-f", "-y", "-e", f"trace={name}", "-o", self.trace])
        count, own = collections.Counter(), set()
        for line in self.trace.read_text().splitlines():
            if re.search(rf"\b{name}\(", line):
                thread = line.split()[0]
                count[thread] += 1
                if str(self.out) in line:
                    own.add(count[thread])
        return sorted(own)

    def fail(self, name, fault, n):
        """The exit code with the n-th call failed, whether the files are right in the end, and what was said; None if no call was."""
        self.begin()
        inject = ["strace", "-f", "-qq", "-e", f"trace={name}", "-e", f"inject={name}:{fault}:when={n}", "-o", self.trace]
        code = call(self.program, self.work.command, inject).returncode
        if "(INJECTED)" not in self.trace.read_text() and code != -9:
            return None
        return self.end(code)

    def all_of(self, name, fault, numbers):
        """The ends of all that failed, by number."""
        return {n: end for n in numbers if (end := self.fail(name, fault, n))}

    def all_of_device(self, variable, every):
        """As `all_of`, up to the first number that is no call's."""
        ends = ((n, self.fail_device(variable, n)) for n in itertools.count(1, every))
        return dict(itertools.takewhile(lambda end: end[1], ends))

    def fail_device(self, variable, n):
        """As `fail`, for the n-th call of the driver."""
        self.begin()
        told = self.root / "told"
        told.unlink(missing_ok=True)
        layer = {"VK_LAYER_PATH": str(LAYER), "VK_INSTANCE_LAYERS": "VK_LAYER_FAULTY_driver", "FAULT_TOLD": str(told)}
        code = call(self.program, self.work.command, **layer, **{variable: str(n)}).returncode
        return self.end(code) if told.exists() else None

    def end(self, code):
        """Mends what a command left with this code, and compares the files."""
        said = ""
        if code != 0:
            for command in self.work.mend:
                mended = call(self.program, command)
                said = mended.stderr[-300:]
                if mended.returncode == 0 or "is finished" in said:
                    break
        found = bits(self.out, self.work.files)
        wrong = [file for file in sorted({*found, *self.expected}) if found.get(file) != self.expected.get(file)]
        return code, code in DOCUMENTED | {0} and not wrong, f"{', '.join(wrong)}; {said}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program", type=lambda path: pathlib.Path(path).resolve())
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--only", type=lambda names: names.split(","))
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument("--planted", action="store_true")
    modes.add_argument("--device", action="store_true")
    chosen = parser.parse_args()
    if chosen.device and not (LAYER / "target/debug/libfaulty_driver.so").exists():
        sys.exit(f"the layer is missing: (cd {LAYER} && cargo build)")
    root = pathlib.Path(tempfile.mkdtemp())
    out = root / "out"
    failed, total = 0, collections.Counter()
    faults = [("rename", ["retval=0"])] if chosen.planted else [(name, FAULTS) for name in CALLS]
    if chosen.device:
        faults = [(name, [variable]) for name, variable in DEVICE_FAULTS.items()]
    columns = "{:8} {:10} {:15} {:>6} {:>7} {:>9} {:>13}  {}"
    print(f"every {chosen.every}. call of each kind on files of the work")
    print(columns.format("command", "call", "fault", "failed", "went on", "same bits", "lost or wrong", "exit codes"))
    for command, work in works(chosen.program, root, out).items():
        if (chosen.only and command not in chosen.only) or (chosen.device and command == "merge"):
            continue
        trial, wrong = Trial(chosen.program, root, out, work), 0
        for name, kinds in faults:
            own = None if chosen.device else trial.calls(name)[:: chosen.every]
            for fault in kinds:
                ended = trial.all_of_device(fault, chosen.every) if chosen.device else trial.all_of(name, fault, own)
                codes = collections.Counter(code for code, _, _ in ended.values())
                bad = {n: end for n, end in ended.items() if not end[1]}
                wrong += len(bad)
                went_on = codes.pop(0, 0)
                listed = ", ".join(f"{code}: {count}" for code, count in sorted(codes.items()))
                same = len(ended) - len(bad)
                total.update({"failed": len(ended), "went on": went_on, "same": same, "bad": len(bad)})
                print(columns.format(command, name, fault, len(ended), went_on, same, len(bad), listed), flush=True)
                for n, (code, _, told) in bad.items():
                    print(f"    call {n}, code {code}: {told}")
        failed += (wrong == 0) if chosen.planted else wrong
    print(columns.format("all", "", "", *total.values(), ""))
    shutil.rmtree(root)
    if total["failed"] == 0:
        sys.exit("nothing was made to fail, so nothing is shown")
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())
