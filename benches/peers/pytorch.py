"""The plain step of the workload `pyramid-64` in PyTorch: prints a JSON line.

python pytorch.py [SECONDS] [DEVICE]
"""

import json
import sys
import time

import torch
from torch import nn

BEGUN = time.perf_counter()
BATCH = 32
SECONDS = float(sys.argv[1]) if len(sys.argv) > 1 else 20.0
DEVICE = sys.argv[2] if len(sys.argv) > 2 else "cpu"


def detector() -> nn.Module:
    layers = []
    for inputs, channels in [(3, 32), (32, 64), (64, 128), (128, 256)]:
        layers += [nn.Conv2d(inputs, channels, 3, 2, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]
    head = [nn.Linear(256, 64, bias=False), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), *head)


def main() -> None:
    model = detector().to(DEVICE)
    x = torch.rand(BATCH, 3, 64, 64, device=DEVICE)
    target = torch.cat([torch.zeros(BATCH // 2, 1), torch.ones(BATCH // 2, 1)]).to(DEVICE)

    def step() -> None:
        model.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(model(x), target)
        loss.backward()
        assert torch.isfinite(loss), loss  # waits for the device

    step()
    ready = time.perf_counter() - BEGUN
    for _ in range(3):
        step()
    times, measured = [], time.perf_counter()
    while len(times) < 5 or time.perf_counter() - measured < SECONDS:
        start = time.perf_counter()
        step()
        times.append(1e3 * (time.perf_counter() - start))
    times.sort()
    low, median, high = (round(times[round(share * (len(times) - 1))], 2) for share in (0.25, 0.5, 0.75))
    framework = f"PyTorch {torch.__version__} {DEVICE}, {torch.get_num_threads()} threads"
    figures = {"median": median, "low": low, "high": high, "count": len(times)}
    row = {"framework": framework, "workload": "pyramid-64", "milliseconds": figures, "ready_seconds": round(ready, 2)}
    print(json.dumps(row))


main()
