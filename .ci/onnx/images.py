"""Writes images that `score.py` compares: `python images.py FOLDER`. In FOLDER/digits are 100 digits, as detectors see them, and in
FOLDER/others 100 images of all sizes and proportions, grey and RGB, cut from the packaged pictures."""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

folder = Path(sys.argv[1])
sheets = [np.asarray(Image.open(f"assets/digits/{digit}.png")) for digit in (6, 9)]
photographs = [np.asarray(Image.open(path)) for path in sorted(Path("assets/textures").glob("*.png"))]
random = np.random.default_rng(0)


def save(kind, number, levels):
    (folder / kind).mkdir(parents=True, exist_ok=True)
    Image.fromarray(levels).save(folder / kind / f"{number:03}.png")


for number in range(100):
    row, column = divmod(number // 2, sheets[0].shape[1] // 28)
    save("digits", number, sheets[number % 2][28 * row : 28 * (row + 1), 28 * column : 28 * (column + 1)])
    source = random.choice([0, 1, 2])
    source = np.concatenate(sheets) if source == 0 else photographs[source % len(photographs)]
    # From one pixel to the whole, most of them small.
    height, width = (max(1, int(extent * random.uniform() ** 2)) for extent in source.shape[:2])
    top, left = (random.integers(0, extent - part + 1) for extent, part in zip(source.shape, (height, width)))
    part = source[top : top + height, left : left + width]
    colour = random.uniform(0.5, 1.0, 3)
    save("others", number, part if number % 2 or part.ndim == 3 else (part[..., None] * colour).astype(np.uint8))
