#!/usr/bin/env python3
"""Trains for many steps, and shows that memory does not grow with them.

    kernels-tests/memory.py target/release/stssad [STEPS]

Prints the resident memory of the process after each power of ten of steps from 100 on. Exits 1 if it is more than 10 % greater in the
end than after a tenth of the steps. Needs Linux.
"""
import json
import pathlib
import re
import subprocess
import sys
import tempfile

PROGRAM = sys.argv[1]
STEPS = int(sys.argv[2]) if len(sys.argv) > 2 else 10_000
FLAGS = """--data digits --normal 6 --anomaly 9 --encoder small --augmentation rotation --size 16 --max-train 32 --max-normals 8
--max-anomalies 8 --batch 4 --batch-val 4 --starts 1 --warm-up 1 --no-report --progress json""".split()


def resident(pid):
    """Resident memory in MiB."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1024


def main():
    with tempfile.TemporaryDirectory() as out:
        command = [PROGRAM, "train", *FLAGS, "--steps", str(STEPS), "--out", f"{out}/run"]
        training = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        marks, found = {10**power for power in range(2, 9)} | {STEPS // 10, STEPS // 2, STEPS}, {}
        for line in training.stderr:
            if not line.startswith("{"):
                continue
            step = json.loads(line).get("step")
            # The last step's line comes before what follows the training.
            if step in marks:
                found[step] = resident(training.pid)
                print(f"step {step:8}  {found[step]:.1f} MiB", flush=True)
    return not (training.wait() == 0 and found[STEPS] <= 1.1 * found[STEPS // 10])


if __name__ == "__main__":
    sys.exit(main())
