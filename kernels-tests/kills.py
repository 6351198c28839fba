#!/usr/bin/env python3
"""Kills a small training at random moments, again and again, and shows that no more is lost than the steps since a checkpoint.

    kernels-tests/kills.py target/release/stssad [KILLS] [--seed N]

A run is begun, killed by kill -9 after a random time, resumed, killed, …, until it ends by itself; then the next is begun. The time
begins with the process, or, in half of the cases, with its first step, since most of a small run is preparation. Each run must end with the files of an undisturbed one, to the bit. The last step that a killed process printed and the first one of the
process that resumes it tell how many steps were lost: at most those since the last checkpoint. Exits 1 otherwise.
"""
import argparse
import collections
import json
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time

STEPS, EVERY = 300, 10
FLAGS = f"""--data texture --texture gravel --defect blob --size 16 --max-train 8 --max-normals 4 --max-anomalies 4 --batch 4
--batch-val 4 --method auto-encoder --augmentation cutpaste --starts 1 --steps {STEPS} --warm-up 1 --checkpoint-every {EVERY}
--no-report""".split()
FILES = ["model.safetensors", "metrics.csv", "scores.csv"]


def begin(program, out):
    resumes = any((out / name).exists() for name in ["checkpoint.safetensors", "checkpoint.previous.safetensors"])
    chosen = ["--resume", out, "--no-report"] if resumes else [*FLAGS, "--out", out]
    arguments = [program, "train", *chosen, "--progress", "json"]
    return subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def steps(said):
    """The steps of a process, from its lines of JSON."""
    lines = (line for line in said.splitlines() if line.startswith("{") and line.endswith("}"))
    return [step for line in lines if (step := json.loads(line).get("step"))]


def end(process, after, trains):
    """What a process said that is killed after this time, from its first step on if `trains`; never if the time is None."""
    lines = []
    reader = threading.Thread(target=lambda: [lines.append(line) for line in process.stderr])
    reader.start()
    while trains and process.poll() is None and not any(line.startswith("{") for line in lines):
        time.sleep(0.005)
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    reader.join()
    return "".join(lines)


def bits(out):
    return [(out / name).read_bytes() if (out / name).exists() else None for name in FILES]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program", type=lambda path: pathlib.Path(path).resolve())
    parser.add_argument("kills", type=int, nargs="?", default=1000)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    draw = random.Random(chosen.seed)
    root = pathlib.Path(tempfile.mkdtemp())
    begun = time.monotonic()
    undisturbed = begin(chosen.program, root / "undisturbed")
    said = end(undisturbed, None, False)
    duration = time.monotonic() - begun
    assert undisturbed.returncode == 0, said
    expected, out = bits(root / "undisturbed"), root / "run"
    kills, trained, runs, before, wrong, lost = 0, 0, 0, 0, [], collections.Counter()
    while kills < chosen.kills or out.exists():
        # A run whose last process was killed after its work was done is finished.
        if (out / "result.json").exists() and not any(out.glob("checkpoint*")):
            runs += 1
            if bits(out) != expected:
                wrong.append(f"run {runs} is finished, with other files")
            shutil.rmtree(out)
            before = 0
            continue
        process = begin(chosen.program, out)
        trains = draw.random() < 0.5
        after = draw.uniform(0, (0.5 if trains else 1.2) * duration)
        # Once there were enough kills, the last run ends by itself.
        said = end(process, after if kills < chosen.kills else None, trains)
        if made := steps(said):
            if before > 0:
                lost[before - made[0] + 1] += 1
                if before - made[0] + 1 > EVERY:
                    wrong.append(f"{before} steps were done, but the next process began with step {made[0]}")
            before = made[-1]
        if process.returncode == -9:
            kills += 1
            trained += bool(made)
            continue
        runs += 1
        if process.returncode != 0 or bits(out) != expected:
            wrong.append(f"run {runs} ended with code {process.returncode} and other files: {said[-300:]}")
        shutil.rmtree(out)
        before = 0
    print(f"{kills} kills, {trained} of them while it trained; {runs} runs of {STEPS} steps with a checkpoint every {EVERY}; {time.monotonic() - begun:.0f} s")
    table = ", ".join(f"{steps}: {count}" for steps, count in sorted(lost.items()))
    print(f"steps done again after a kill, and how often: {table}")
    print(f"lost or wrong: {len(wrong)}")
    for line in wrong:
        print(f"    {line}")
    shutil.rmtree(root)
    return len(wrong) != 0


if __name__ == "__main__":
    sys.exit(main())
