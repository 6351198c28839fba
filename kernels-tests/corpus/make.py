"""Makes the pictures of this folder, with Pillow, NumPy and SciPy: `python make.py`.

Each JPEG, PNG, BMP and TIFF shows 32×16 pixels in four quarters: red and green above, blue and white below.
"""

from pathlib import Path

import numpy
import scipy.io
from PIL import Image

folder = Path(__file__).parent
quarters = numpy.zeros((16, 32, 3), numpy.uint8)
quarters[:8, :16] = [255, 0, 0]
quarters[:8, 16:] = [0, 255, 0]
quarters[8:, :16] = [0, 0, 255]
quarters[8:, 16:] = [255, 255, 255]
rgb = Image.fromarray(quarters)
sharp = {"quality": 95, "subsampling": 0}


def save(image, name, **options):
    image.save(folder / name, **options)


def exif(orientation):
    data = Image.Exif()
    data[0x0112] = orientation
    return data


# Turned so that the orientation brings it back upright.
undo = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}

save(rgb, "rgb.jpg", **sharp)
save(rgb, "progressive.jpg", progressive=True, **sharp)
save(rgb.convert("CMYK"), "cmyk.jpg", quality=95)
save(rgb.convert("L"), "grey.jpg", quality=95)
for orientation, turn in undo.items():
    save(rgb.transpose(turn), f"exif{orientation}.jpg", exif=exif(orientation), **sharp)
save(rgb.transpose(undo[6]), "exif6.png", exif=exif(6))
save(rgb, "rgb.png")
save(rgb.quantize(4), "palette.png")
save(rgb.convert("L"), "grey.png")
save(Image.fromarray((numpy.asarray(rgb.convert("L"), numpy.uint16) * 257)), "grey16.png")
rgba = numpy.dstack([quarters, numpy.full((16, 32), 255, numpy.uint8)])
rgba[8:, 16:] = 0  # transparent where all others are white
save(Image.fromarray(rgba), "rgba.png")
save(Image.fromarray(rgba).convert("LA"), "la.png")
save(rgb.transpose(undo[6]), "exif6.tif", tiffinfo={274: 6})
save(rgb, "rgb.tif", compression="tiff_lzw")
save(rgb.convert("CMYK"), "cmyk.tif")
save(rgb.convert("F"), "float.tif")
save(rgb, "rgb.bmp")
save(rgb.quantize(4), "palette.bmp")

# Digits as SVHN has them: label 10 is 0; picture i has level 16·i, but for one bright pixel at row 1, column 2, red.
for name, labels in (("train_32x32", [1, 10, 2, 1, 1, 2]), ("test_32x32", [2, 1, 10, 10, 1])):
    x = numpy.zeros((32, 32, 3, len(labels)), numpy.uint8)
    x[...] = 16 * numpy.arange(len(labels))
    x[1, 2, 0] = 255
    y = numpy.array(labels, numpy.uint8)[:, None]
    scipy.io.savemat(folder / f"{name}.mat", {"X": x, "y": y}, do_compression=True)
scipy.io.savemat(
    folder / "kinds.mat",
    {"d": numpy.array([[1.5, -2.0]]), "i": numpy.array([[-3]], numpy.int16), "text": "abc", "z": numpy.array([[1j]])},
)
