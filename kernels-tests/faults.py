#!/usr/bin/env python3
"""Fails system calls of a short training one by one, and shows what became of the run.

    kernels-tests/faults.py target/debug/stssad [EVERY]

Needs Linux with strace. For each of some system calls and faults, the n-th such call fails (or the process is killed there), for
n = 1, 1 + EVERY, … up to as many as an undisturbed run makes. A line of the table counts: the calls that were failed, the runs
that went on to the end nevertheless, the exit codes of the others, those that were resumed or run again, by the same command or
with --resume, to the same bits, and those that were lost or wrong. Exits 1 if there is one of the last.
"""
import collections
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

PROGRAM = pathlib.Path(sys.argv[1]).resolve()
EVERY = int(sys.argv[2]) if len(sys.argv) > 2 else 1
FLAGS = """--data texture --texture gravel --defect blob --size 16 --max-train 8 --max-normals 4 --max-anomalies 4 --batch 4
--batch-val 4 --method auto-encoder --starts 1 --steps 6 --warm-up 1 --checkpoint-every 2 --no-report --progress none""".split()
CALLS = ["write", "fsync", "rename", "openat", "ftruncate"]
FAULTS = ["error=ENOSPC", "error=EIO", "signal=SIGKILL"]
BITS = ["model.safetensors", "metrics.csv", "scores.csv"]
# The documented codes, and those of a process that a signal ended.
DOCUMENTED = {1, 2, 3, 4, 70, 74, 75, 137, -9}


def train(out, before=()):
    command = [*before, PROGRAM, "train", *FLAGS, "--out", out]
    return subprocess.run(command, capture_output=True, text=True)


def mend(out):
    """The run's end, by --resume or by the same command."""
    resumed = subprocess.run([PROGRAM, "train", "--resume", out, "--no-report"], capture_output=True, text=True)
    if resumed.returncode == 0 or "is finished" in resumed.stderr:
        return resumed
    return train(out)


def bits(out):
    return [(out / name).read_bytes() if (out / name).exists() else None for name in BITS]


def main():
    root = pathlib.Path(tempfile.mkdtemp())
    expected_at = root / "expected"
    assert train(expected_at).returncode == 0
    expected, wrong = bits(expected_at), 0
    print(f"every {EVERY}. call of each kind on the files of the run")
    print(f"{'call':10} {'fault':15} {'failed':>6} {'went on':>7} {'same bits':>9} {'lost or wrong':>13}  exit codes")
    for call in CALLS:
        trace = root / "trace"
        shutil.rmtree(root / "counted", ignore_errors=True)
        train(root / "counted", ["strace", "-f", "-y", "-e", f"trace={call}", "-o", trace])
        lines = [line for line in trace.read_text().splitlines() if re.search(rf"\b{call}\(", line)]
        # strace counts the calls of each thread by itself.
        count, own = collections.Counter(), set()
        for line in lines:
            thread = line.split()[0]
            count[thread] += 1
            if f"{root}/counted" in line:
                own.add(count[thread])
        own = sorted(own)
        for fault in FAULTS:
            codes, failed, went_on, same, bad = collections.Counter(), 0, 0, 0, []
            chosen = own[::EVERY]
            for n in chosen:
                out = root / "run"
                shutil.rmtree(out, ignore_errors=True)
                inject = f"inject={call}:{fault}:when={n}"
                code = train(out, ["strace", "-f", "-qq", "-e", f"trace={call}", "-e", inject, "-o", trace]).returncode
                if "(INJECTED)" not in trace.read_text() and code != -9:
                    continue
                failed += 1
                went_on += code == 0
                codes[code] += code != 0
                mended = mend(out)
                if bits(out) == expected and code in DOCUMENTED | {0}:
                    same += 1
                else:
                    bad.append((n, code, mended.stderr[-300:]))
            wrong += len(bad)
            listed = ", ".join(f"{code}: {count}" for code, count in sorted(codes.items()) if count)
            print(f"{call:10} {fault:15} {failed:6} {went_on:7} {same:9} {len(bad):13}  {listed}", flush=True)
            for n, code, told in bad:
                print(f"    call {n}, code {code}: {told}")
    shutil.rmtree(root)
    return wrong != 0


if __name__ == "__main__":
    sys.exit(main())
