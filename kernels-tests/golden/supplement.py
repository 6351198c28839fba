"""Golden vectors for what oracle.safetensors has none of: MMD, and the forward and backward pass of a narrow ResNet-18.

`python supplement.py oracle.safetensors supplement.safetensors`; needs torch, numpy and safetensors. All in float64.
"""
import sys

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

torch.set_default_dtype(torch.float64)


def mmd(zt, za, zv, mass=0.5):
    """Squared maximum mean discrepancy, all pairs counted, of k(x, y) = exp(-|x - y|^2 / 2)."""
    x = torch.cat([zt, za])
    wx = torch.cat([torch.full((len(zt),), (1 - mass) / len(zt)), torch.full((len(za),), mass / len(za))])
    wv = torch.full((len(zv),), 1 / len(zv))
    k = lambda a, b: torch.exp(-0.5 * ((a[:, None] - b[None]) ** 2).sum(-1))
    return wx @ k(x, x) @ wx + wv @ k(zv, zv) @ wv - 2 * wx @ k(x, zv) @ wv


def wave(shape, phase, scale, offset=0.0):
    """Numbers that the test can make as well: offset + scale * sin(phase + 1.7 * i)."""
    count = int(torch.tensor(shape).prod())
    return (offset + scale * torch.sin(phase + 1.7 * torch.arange(count).double())).reshape(shape)


def norm(x, phase):
    """Batch norm over everything but the channels, with gamma and beta by formula."""
    axes = [0] + list(range(2, x.dim()))
    shape = [1, x.shape[1]] + [1] * (x.dim() - 2)
    mean = x.mean(axes, keepdim=True)
    var = ((x - mean) ** 2).mean(axes, keepdim=True)
    gamma, beta = wave([x.shape[1]], phase + 0.1, 0.3, 1.0), wave([x.shape[1]], phase + 0.2, 0.2)
    return (x - mean) / (var + 1e-5).sqrt() * gamma.reshape(shape) + beta.reshape(shape)


def resnet18(x, width, large, head):
    """He et al.'s ResNet-18; the stem is 7x7/2 with a 3x3/2 max-pool, or 3x3/1. Layers are numbered as they are used."""
    layer = iter(range(100))
    kernels = []

    def conv(h, channels, window, stride):
        i = next(layer)
        fan_in = h.shape[1] * window**2
        kernels.append(wave([channels, h.shape[1], window, window], i, (4 / fan_in) ** 0.5).requires_grad_())
        return norm(F.conv2d(h, kernels[-1], stride=stride, padding=window // 2), i)

    h = F.relu(conv(x, width, 7 if large else 3, 2 if large else 1))
    if large:
        h = F.max_pool2d(h, 3, 2, 1)
    for stage in range(4):
        for block in range(2):
            stride = 2 if stage > 0 and block == 0 else 1
            channels = width << stage
            inner = F.relu(conv(h, channels, 3, stride))
            inner = conv(inner, channels, 3, 1)
            h = F.relu(inner + (conv(h, channels, 1, stride) if stride == 2 else h))
    z = h.mean((2, 3))
    hidden = z
    for width in head:
        i = next(layer)
        hidden = F.relu(norm(hidden @ wave([hidden.shape[1], width], i, (4 / hidden.shape[1]) ** 0.5), i))
    i = next(layer)
    return kernels[0], z, hidden @ wave([hidden.shape[1], 1], i, 0.5) + wave([1, 1], i + 0.1, 0.5)


def main(oracle, path):
    out = {}
    given = load_file(oracle)
    z = given["align/z"].requires_grad_()
    sizes = given["align/sizes"].long().tolist()
    zc = z - z.mean(0, keepdim=True)
    normalised = zc * len(z) ** 0.5 / (zc.norm() + 1e-6)
    for name, mass in (("mmd", 0.5), ("mmd_mass15", 0.15)):
        value = mmd(*torch.split(normalised, sizes), mass=mass)
        out[f"align/{name}/value"] = value
        out[f"align/{name}/grad_z"] = torch.autograd.grad(value, z, retain_graph=True)[0]

    for name, large, size in (("small_stem", False, (13, 18)), ("large_stem", True, (43, 38))):
        x = wave([6, 2, *size], 0.5, 0.5, 0.5)
        stem, z, logit = resnet18(x, 4, large, [6, 5])
        loss = (logit * wave([6, 1], 0.3, 1.0)).sum() + (z * wave([6, 32], 0.7, 1.0)).sum()
        out[f"resnet18/{name}/z"], out[f"resnet18/{name}/logit"] = z, logit
        out[f"resnet18/{name}/grad_stem"] = torch.autograd.grad(loss, stem)[0]
    save_file({name: value.detach().clone().contiguous() for name, value in out.items()}, path)


if __name__ == "__main__":
    main(*sys.argv[1:])
