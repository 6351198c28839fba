"""Golden vectors for CutBlend: values, and the vector-Jacobian product by its seven hyper-parameters.

`python cutblend.py cutblend.safetensors`; needs numpy and safetensors. Derivatives are complex steps: no differentiation rule is used.
"""
import sys

import numpy as np
from safetensors.numpy import save_file

N, C, H, W = 3, 2, 7, 9
rng = np.random.default_rng(20)


def cutblend(x, a, cx, cy):
    """x + strength * mask * (colour - x), with mask = sigmoid((1 - 4 (u^2 + v^2)) / softness)."""
    area, aspect, phi, softness, strength = a[:5]
    colour = a[5:]
    dx = np.arange(W)[None, None, :] - cx[:, None, None]
    dy = np.arange(H)[None, :, None] - cy[:, None, None]
    c, s = np.cos(phi), np.sin(phi)
    u = (c * dx + s * dy) / (W * np.sqrt(area * aspect))
    v = (-s * dx + c * dy) / (H * np.sqrt(area / aspect))
    mask = 1 / (1 + np.exp(-(1 - 4 * (u * u + v * v)) / softness))
    return x + strength * mask[:, None] * (colour[None, :, None, None] - x)


x = rng.uniform(size=(N, C, H, W))
a = np.array([0.12, 1.7, 0.6, 0.4, 0.7, 0.9, 0.2])
cx, cy = rng.uniform(0, W, N), rng.uniform(0, H, N)
ct = rng.normal(size=(N, C, H, W))
y = cutblend(x, a, cx, cy)


def derivative(index, step=1e-30):
    moved = a.astype(complex)
    moved[index] += 1j * step
    return (ct * cutblend(x, moved, cx, cy).imag / step).sum()


ct_a = np.array([[derivative(index) for index in range(len(a))]])
values = {"x": x, "a": a[None], "cx": cx[:, None], "cy": cy[:, None], "ct": ct, "y": y, "ct_a": ct_a}
save_file({f"cutblend/{name}": np.ascontiguousarray(value) for name, value in values.items()}, sys.argv[1])
