"""Training steps of a workload in PyTorch, on noise: prints a JSON line for the plain step and one for the step that tunes.

python pytorch.py [WORKLOAD] [SECONDS] [DEVICE]

The plain step is forward, backward and Adam's update on normal and augmented images. The step that tunes also takes the gradient of
an alignment loss, the sliced Wasserstein distance of embeddings, through a look-ahead step of the detector. Precision is PyTorch's
default, which on NVIDIA GPUs is TF32 for convolutions.
"""

import json
import sys
import time

import torch
from torch import nn
from torch.func import functional_call

BEGUN = time.perf_counter()
WORKLOAD = sys.argv[1] if len(sys.argv) > 1 else "pyramid-64"
SECONDS = float(sys.argv[2]) if len(sys.argv) > 2 else 20.0
DEVICE = sys.argv[3] if len(sys.argv) > 3 else ("cuda" if torch.cuda.is_available() else "cpu")

# Channels, side, normal images and unlabelled images, as in src/measure/workload.rs.
WORKLOADS = {
    "digits-small": (1, 28, 48, 96),
    "pyramid-64": (3, 64, 16, 32),
    "resnet18-32": (3, 32, 64, 128),
    "resnet18-256": (3, 256, 32, 64),
}
CHANNELS, SIDE, BATCH, BATCH_VAL = WORKLOADS[WORKLOAD]
# Inputs, outputs and stride of each convolution, and the hidden layers of the head.
PLAIN = {
    "digits-small": ([(1, 16, 2), (16, 32, 2), (32, 32, 1)], [32]),
    "pyramid-64": ([(3, 32, 2), (32, 64, 2), (64, 128, 2), (128, 256, 2)], [64]),
}
PROJECTIONS = 64
RATE = 1e-3


def convolution(inputs: int, outputs: int, window: int, stride: int) -> nn.Sequential:
    layer = nn.Conv2d(inputs, outputs, window, stride, window // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs))


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = convolution(inputs, outputs, 3, stride)
        self.second = convolution(outputs, outputs, 3, 1)
        self.shortcut = convolution(inputs, outputs, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.second(self.first(x).relu()) + self.shortcut(x)).relu()


class Detector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        if WORKLOAD in PLAIN:
            shapes, hidden = PLAIN[WORKLOAD]
            layers = [[convolution(i, o, 3, s), nn.ReLU()] for i, o, s in shapes]
            width = shapes[-1][1]
        else:
            stem = [convolution(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
            stem = [convolution(3, 64, 3, 1), nn.ReLU()] if SIDE <= 64 else stem
            shapes = [(64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)]
            layers = [stem] + [[Block(i, o, s), Block(o, o, 1)] for i, o, s in shapes]
            width, hidden = 512, [512, 128]
        self.encoder = nn.Sequential(*sum(layers, []), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        head = []
        for inputs, outputs in zip([width] + hidden, hidden):
            head += [nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU()]
        self.hidden, self.last = nn.Sequential(*head), nn.Linear(hidden[-1], 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        embedding = self.hidden(self.encoder(x))
        return embedding, self.last(embedding)


def augmented(x: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
    """Darkens a soft patch of area and slant `a` at a random place in each image."""
    line = torch.linspace(-1, 1, SIDE, device=x.device)
    place = torch.rand(x.shape[0], 2, 1, 1, device=x.device) * 2 - 1
    v, u = (line[None, :, None] - place[:, 0]), (line[None, None, :] - place[:, 1])
    along, across = u * a[1].cos() + v * a[1].sin(), v * a[1].cos() - u * a[1].sin()
    mask = torch.sigmoid(10 * (a[0] - along.abs())) * torch.sigmoid(10 * (a[0] / 3 - across.abs()))
    return x * (1 - mask[:, None])


def sliced(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    directions = nn.functional.normalize(torch.randn(one.shape[1], PROJECTIONS, device=one.device), dim=0)
    one, other = (rows @ directions for rows in (one, other))
    return (one.sort(0).values - other.sort(0).values).square().mean()


def main() -> None:
    model = Detector().to(DEVICE)
    optimiser = torch.optim.Adam(model.parameters(), RATE)
    a = torch.tensor([0.3, 0.5], device=DEVICE, requires_grad=True)
    optimiser_a = torch.optim.Adam([a], 1e-2)
    x = torch.rand(BATCH, CHANNELS, SIDE, SIDE, device=DEVICE)
    unlabelled = torch.rand(BATCH_VAL, CHANNELS, SIDE, SIDE, device=DEVICE)
    target = torch.cat([torch.zeros(BATCH, 1), torch.ones(BATCH, 1)]).to(DEVICE)
    entropy = nn.functional.binary_cross_entropy_with_logits

    def step(tunes: bool) -> None:
        both = torch.cat([x, augmented(x, a if tunes else a.detach())])
        loss = entropy(model(both)[1], target)
        parameters = dict(model.named_parameters())
        gradients = torch.autograd.grad(loss, list(parameters.values()), create_graph=tunes)
        if tunes:
            ahead = {name: p - RATE * g for (name, p), g in zip(parameters.items(), gradients)}
            embeddings = functional_call(model, ahead, (torch.cat([both, unlabelled]),))[0]
            outer = sliced(embeddings[: 2 * BATCH], embeddings[2 * BATCH :])
            (a.grad,) = torch.autograd.grad(outer, [a])
            optimiser_a.step()
            assert torch.isfinite(outer), outer
        for parameter, gradient in zip(parameters.values(), gradients):
            parameter.grad = gradient.detach()
        optimiser.step()
        assert torch.isfinite(loss), loss  # waits for the device

    framework = f"PyTorch {torch.__version__} {DEVICE}, {torch.get_num_threads()} threads"
    if DEVICE.startswith("cuda"):
        framework = f"PyTorch {torch.__version__} {torch.cuda.get_device_name()}"
    for name, tunes in [("plain", False), ("tuning", True)]:
        begun = BEGUN if name == "plain" else time.perf_counter()
        step(tunes)
        ready = time.perf_counter() - begun
        for _ in range(3):
            step(tunes)
        times, measured = [], time.perf_counter()
        while len(times) < 5 or time.perf_counter() - measured < SECONDS:
            start = time.perf_counter()
            step(tunes)
            times.append(1e3 * (time.perf_counter() - start))
        times.sort()
        low, median, high = (round(times[round(share * (len(times) - 1))], 2) for share in (0.25, 0.5, 0.75))
        figures = {"median": median, "low": low, "high": high, "count": len(times)}
        row = {"framework": framework, "workload": WORKLOAD, "step": name, "milliseconds": figures}
        print(json.dumps(row | {"ready_seconds": round(ready, 2)}), flush=True)


main()
