"""Writes the corpus of this folder by Pillow, and what Pillow reads from it.

    python3 -m pip install pillow numpy && python3 make.py

`expected.txt` has one line for each file: its name, channels, bits, width and height. The levels are those of `levels.zz` in the same
order, as Pillow's `convert` gives them once the EXIF orientation is applied and transparent pixels are blended with white; 16 bit
levels, which Pillow reads only of grey images, are those that were written, and so are floating-point levels and integers of other
types. `mask` marks a mask; its levels are 1 where there is a defect. `refused` marks a file that stssad refuses, with a part of the
reason. Files named `hand-*` are written byte by byte, since Pillow does not write them; `odd-*` are what few programs write.
"""
import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

HERE = Path(__file__).parent
W, H = 5, 4
expected = {}


def levels(shape, step=37, top=256):
    """All levels differ, and none repeats from row to row."""
    count = int(np.prod(shape))
    return ((np.arange(count) * step + 11) % top).reshape(shape)


GREY = levels((H, W)).astype(np.uint8)
COLOURS = levels((H, W, 3), 53).astype(np.uint8)
ALPHA = np.array([0, 255, 128, 1, 254] * H, np.uint8).reshape(H, W)
DEEP = levels((H, W), 3271, 65536).astype(np.uint16)
DEEP_COLOURS = levels((H, W, 3), 3271, 65536).astype(np.uint16)
# Smooth, as photographs are: what JPEG is for.
y, x = np.mgrid[0:17, 0:18]
SMOOTH = np.stack([40 + 9 * x, 200 - 7 * y, 60 + 3 * x + 2 * y], 2).astype(np.uint8)
# A coloured edge, which subsampled colours blur.
EDGE = np.where((x < 9)[..., None], np.uint8([200, 40, 30]), np.uint8([20, 60, 180])).astype(np.uint8)

grey = Image.fromarray(GREY)
rgb = Image.fromarray(COLOURS)
rgba = Image.fromarray(np.dstack([COLOURS, ALPHA]))
la = Image.merge("LA", [grey, Image.fromarray(ALPHA)])
bits = Image.fromarray((GREY > 100).astype(np.uint8) * 255).convert("1")
palette = Image.new("P", (W, H))
palette.putpalette([200, 100, 50, 0, 0, 0, 0, 255, 0, 9, 99, 199, 255, 255, 255, 1, 2, 3, 77, 66, 55])
palette.putdata([int(v) for v in levels((H, W), 3, 7).flatten()])
smooth, edge = Image.fromarray(SMOOTH), Image.fromarray(EDGE)


def shown(image):
    """The image as stssad is to read it."""
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I;16", "I;16B", "I;16L"):
        return image
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        grey = image.mode in ("LA", "La") or image.mode == "L"
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image).convert("RGB")
        return image.convert("L") if grey else image
    if image.mode in ("1", "L"):
        return image.convert("L")
    return image.convert("RGB")


def note(name, refused=None, image=None, deep=None):
    if refused:
        expected[name] = f"refused {refused}", b""
        return
    if deep is None:
        image = shown(image or Image.open(HERE / name))
        deep = np.asarray(image)
    channels = 1 if deep.ndim == 2 else deep.shape[2]
    about = f"{channels} {8 * deep.itemsize} {deep.shape[1]} {deep.shape[0]}"
    expected[name] = about, (deep.astype(">u2") if deep.itemsize == 2 else deep).tobytes()


def put(name, image, deep=None, refused=None, **settings):
    image.save(HERE / name, **settings)
    note(name, refused, deep=deep)


def write(name, data, image=None, deep=None, refused=None):
    (HERE / name).write_bytes(data)
    note(name, refused, image, deep)


def saved(image, kind, **settings):
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


def exif(orientation):
    data = Image.Exif()
    data[274] = orientation
    return data.tobytes()


# PNG
def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_by_hand(depth, colour, rows, interlaced=False, extra=b"", width=W, height=H):
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def adam7(array, pack):
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    rows = b""
    for left, top, right, down in passes:
        for row in array[top::down, left::right]:
            if row.size:
                rows += b"\0" + pack(row)
    return rows


def plain(array, pack=lambda row: row.tobytes()):
    return b"".join(b"\0" + pack(row) for row in array)


def packed(depth):
    def pack(row):
        text = "".join(format(int(value), f"0{depth}b") for value in row)
        text += "0" * (-len(text) % 8)
        return bytes(int(text[at : at + 8], 2) for at in range(0, len(text), 8))

    return pack


put("png-1.png", bits)
put("png-l.png", grey)
for depth in (2, 4):
    few = GREY >> (8 - depth)
    write(f"hand-png-grey{depth}.png", png_by_hand(depth, 0, plain(few, packed(depth))),
          Image.fromarray((few.astype(int) * 255 // (2**depth - 1)).astype(np.uint8)))
put("png-i16.png", Image.fromarray(DEEP), deep=DEEP)
put("png-la.png", la)
put("png-rgb.png", rgb)
put("png-rgba.png", rgba)
put("png-l-trns.png", grey, transparency=int(GREY[1, 2]))
put("png-rgb-trns.png", rgb, transparency=tuple(int(v) for v in COLOURS[1, 2]))
for depth in (1, 2, 4, 8):
    few = palette.point(lambda index: index % 2**depth)
    few.putpalette(palette.getpalette())
    put(f"png-p{depth}.png", few, bits=depth)
put("png-p-trns.png", palette, transparency=bytes([0, 128, 255]))
put("png-p-trns-index.png", palette, transparency=2)
write("hand-png-rgb16.png", png_by_hand(16, 2, plain(DEEP_COLOURS.astype(">u2"))), deep=DEEP_COLOURS)
write("hand-png-rgb-interlaced.png", png_by_hand(8, 2, adam7(COLOURS, lambda row: row.tobytes()), True), rgb)
write("hand-png-grey1-interlaced.png", png_by_hand(1, 0, adam7(GREY > 100, packed(1)), True), bits)
put("png-exif6.png", rgb, exif=exif(6))
write("hand-png-gamma.png", png_by_hand(8, 2, plain(COLOURS), extra=chunk(b"gAMA", struct.pack(">I", 100000))), rgb)

# JPEG
put("jpeg-l.jpg", smooth.convert("L"))
put("jpeg-rgb-444.jpg", smooth, subsampling="4:4:4", quality=95)
put("jpeg-rgb-422.jpg", smooth, subsampling="4:2:2")
put("jpeg-rgb-420.jpg", smooth, subsampling="4:2:0")
put("jpeg-rgb-q10.jpg", smooth, quality=10)
put("jpeg-rgb-q100.jpg", smooth, quality=100)
put("jpeg-edge-444.jpg", edge, subsampling="4:4:4")
put("jpeg-edge-420.jpg", edge, subsampling="4:2:0")
put("jpeg-progressive.jpg", smooth, progressive=True)
put("jpeg-keep-rgb.jpg", smooth, keep_rgb=True)
put("jpeg-restart.jpg", smooth, restart_marker_blocks=1)
put("jpeg-optimised.jpg", smooth, optimize=True)
put("jpeg-cmyk.jpg", smooth.convert("CMYK"))
for orientation in range(1, 9):
    put(f"jpeg-exif{orientation}.jpg", smooth.crop((0, 0, 16, 8)), exif=exif(orientation), quality=95)
jpeg = saved(smooth, "JPEG")
undamaged = Image.open(io.BytesIO(jpeg))
write("hand-jpeg-no-end.jpg", jpeg[:-2], undamaged)
write("hand-jpeg-stray-after-start.jpg", jpeg[:2] + bytes(16) + jpeg[2:], undamaged)
write("hand-jpeg-stray-between-headers.jpg", jpeg[:20] + bytes(16) + jpeg[20:], undamaged)


def segment(kind, data):
    return bytes([255, kind]) + struct.pack(">H", len(data) + 2) + data


def adobe(transform):
    return segment(0xEE, b"Adobe" + struct.pack(">HHHB", 100, 0, 0, transform))


def named(jpeg, names):
    """The same with other names of its three components."""
    jpeg = bytearray(jpeg)
    frame, scan = jpeg.index(b"\xff\xc0"), jpeg.index(b"\xff\xda")
    jpeg[frame + 10 : frame + 19 : 3] = jpeg[scan + 5 : scan + 11 : 2] = names
    return bytes(jpeg)


# Marked as of another coding; none is encoded so.
for coding, kind, precision in (("lossless", 0xC3, 8), ("arithmetic", 0xC9, 8), ("hierarchical", 0xC5, 8), ("12-bit", 0xC1, 12)):
    at = jpeg.index(b"\xff\xc0")
    other = jpeg[:at] + bytes([255, kind]) + jpeg[at + 2 : at + 4] + bytes([precision]) + jpeg[at + 5 :]
    write(f"hand-jpeg-{coding}.jpg", other, refused=coding.replace("-", " "))

# After the marker of JFIF.
start, rest = jpeg[:20], jpeg[20:]
fine = saved(smooth, "JPEG", subsampling="4:4:4")
write("hand-jpeg-jfif-adobe-rgb.jpg", start + adobe(0) + rest)
write("hand-jpeg-jfif-adobe-rgb-444.jpg", fine[:20] + adobe(0) + fine[20:])
write("hand-jpeg-jfif-named-rgb.jpg", named(jpeg, b"RGB"))
write("hand-jpeg-adobe-ycbcr-named-rgb.jpg", jpeg[:2] + adobe(1) + named(rest, b"RGB"))
write("hand-jpeg-adobe-rgb-named-ycbcr.jpg", jpeg[:2] + adobe(0) + rest)
write("hand-jpeg-named-rgb.jpg", jpeg[:2] + named(rest, b"RGB"))
small = saved(smooth.crop((0, 0, 16, 8)), "JPEG", quality=95)
for first, second in ((6, 1), (1, 6), (3, 8)):
    exifs = segment(0xE1, exif(first)) + segment(0xE1, exif(second))
    write(f"hand-jpeg-exif{first}-exif{second}.jpg", small[:20] + exifs + small[20:])
write("hand-jpeg-exif-empty-exif6.jpg", small[:20] + segment(0xE1, b"Exif\0\0") + segment(0xE1, exif(6)) + small[20:])

# BMP
put("bmp-1.bmp", bits)
put("bmp-l.bmp", grey)
put("bmp-p.bmp", palette)
put("bmp-rgb.bmp", rgb)
put("bmp-rgba.bmp", rgba)


def bmp_by_hand(depth, compression, pixels, palette=b"", top_down=False):
    start = 14 + 40 + len(palette)
    header = struct.pack("<IiiHHIIiiII", 40, W, -H if top_down else H, 1, depth, compression, len(pixels), 0, 0, len(palette) // 4, 0)
    return b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + header + palette + pixels


entries = b"".join(bytes([b, g, r, 0]) for r, g, b in np.array(palette.getpalette()[:21]).reshape(7, 3))
index = np.asarray(palette)
write("hand-bmp-p4.bmp", bmp_by_hand(4, 0, b"".join(packed(4)(row).ljust(4, b"\0") for row in index[::-1]), entries), palette)
runs = b"".join(b"".join(bytes([1, v]) for v in row) + b"\0\0" for row in index[::-1]) + b"\0\1"
write("hand-bmp-rle8.bmp", bmp_by_hand(8, 1, runs, entries), palette)
runs = b"".join(b"".join(bytes([1, v << 4]) for v in row) + b"\0\0" for row in index[::-1]) + b"\0\1"
write("hand-bmp-rle4.bmp", bmp_by_hand(4, 2, runs, entries), palette)
write("hand-bmp-top-down.bmp", bmp_by_hand(24, 0, b"".join(row[:, ::-1].tobytes().ljust(16, b"\0") for row in COLOURS), top_down=True), rgb)
write("hand-bmp-16.bmp", bmp_by_hand(16, 0, b"".join(((row[:, 0].astype("<u2") >> 3 << 10) | (row[:, 1].astype("<u2") >> 3 << 5)
      | (row[:, 2].astype("<u2") >> 3)).astype("<u2").tobytes().ljust(12, b"\0") for row in COLOURS[::-1])))

# TIFF
for name, image in {"1": bits, "l": grey, "la": la, "p": palette, "rgb": rgb, "rgba": rgba, "cmyk": rgb.convert("CMYK"),
                    "ycbcr": rgb.convert("YCbCr")}.items():
    put(f"tiff-{name}.tif", image)
for name, compression in {"lzw": "tiff_lzw", "deflate": "tiff_adobe_deflate", "packbits": "packbits"}.items():
    put(f"tiff-rgb-{name}.tif", rgb, compression=compression)
put("tiff-p-lzw-predicted.tif", palette, compression="tiff_lzw", tiffinfo={317: 2})
put("tiff-rgb-lzw-predicted.tif", rgb, compression="tiff_lzw", tiffinfo={317: 2})
put("tiff-rgba-lzw-predicted.tif", rgba, compression="tiff_lzw", tiffinfo={317: 2})
put("tiff-i16-lzw-predicted.tif", Image.fromarray(DEEP), deep=DEEP, compression="tiff_lzw", tiffinfo={317: 2})
put("tiff-la-deflate.tif", la, compression="tiff_adobe_deflate")
put("tiff-1-group4.tif", bits, compression="group4")
put("tiff-1-group3.tif", bits, compression="group3", refused="Fax3")
put("tiff-1-ccitt.tif", bits, compression="tiff_ccitt", refused="Huffman")
put("tiff-rgb-jpeg.tif", smooth, compression="jpeg")
put("tiff-ycbcr-jpeg.tif", smooth.convert("YCbCr"), compression="jpeg")
put("tiff-l-jpeg.tif", smooth.convert("L"), compression="jpeg")
put("tiff-cmyk-jpeg.tif", smooth.convert("CMYK"), compression="jpeg")
put("tiff-i16.tif", Image.fromarray(DEEP), deep=DEEP)
put("tiff-i16-big-endian.tif", Image.fromarray(DEEP.astype(">u2")), deep=DEEP)
wide = DEEP.astype(np.int32)
put("tiff-i32.tif", Image.fromarray(wide), deep=DEEP)
put("tiff-i32-large.tif", Image.fromarray(wide * 2), refused="from 22 to 124320")
put("tiff-i32-negative.tif", Image.fromarray(wide - 20), refused="-9")
unit = np.linspace(0, 1, W * H).reshape(H, W).astype(np.float32)
put("tiff-f32.tif", Image.fromarray(unit), deep=np.round(unit.astype(float) * 65535).astype(np.uint16))
put("tiff-f32-255.tif", Image.fromarray(unit * 255), refused="from 0 to 255")
put("tiff-f32-nan.tif", Image.fromarray(np.where(unit > 0.5, np.nan, unit).astype(np.float32)), refused="NaN")
put("tiff-big.tif", rgb, big_tiff=True)
put("tiff-p-big.tif", palette, big_tiff=True)
put("tiff-exif6.tif", rgb, exif=exif(6))
put("tiff-pages.tif", rgb, save_all=True, append_images=[rgb.transpose(Image.Transpose.ROTATE_180)])


def group4(image):
    """The compressed rows of an image, of which 0 bits are black."""
    file = Image.open(io.BytesIO(saved(image, "TIFF", compression="group4")))
    (start,), (length,) = file.tag_v2[273], file.tag_v2[279]
    return saved(image, "TIFF", compression="group4")[start : start + length]


def tiff(pixels, tags, order="<", width=W, height=H, chunks=None, following=False):
    """`tags` are (tag, type, values); types 1 byte, 3 short, 4 long."""
    size = {1: 1, 2: 1, 3: 2, 4: 4}
    code = {1: "B", 2: "B", 3: "H", 4: "I"}
    chunks = chunks or [pixels]
    tags = [(256, 4, [width]), (257, 4, [height]), *tags]
    if not any(tag == 324 for tag, *_ in tags):
        starts = [8 + sum(map(len, chunks[:at])) for at in range(len(chunks))]
        tags += [(273, 4, starts), (279, 4, [len(chunk) for chunk in chunks])]
    body = b"".join(chunks)
    body += b"\0" * (len(body) % 2)
    where = 8 + len(body)
    end = where + 2 + 12 * len(tags) + 4
    entries, beyond = b"", b""
    for tag, kind, values in sorted(tags):
        data = struct.pack(f"{order}{len(values)}{code[kind]}", *values)
        if len(data) > 4:
            value = struct.pack(order + "I", end + len(beyond))
            beyond += data + b"\0" * (len(data) % 2)
        else:
            value = data.ljust(4, b"\0")
        entries += struct.pack(order + "HHI", tag, kind, len(values)) + value
    magic = b"II*\0" if order == "<" else b"MM\0*"
    directory = struct.pack(order + "H", len(tags)) + entries
    second = struct.pack(order + "I", end + len(beyond)) if following else bytes(4)
    start = magic + struct.pack(order + "I", where) + body + directory + second + beyond
    return start + directory + bytes(4) if following else start


def kind(photometric, depths, compression=1, **more):
    tags = [(258, 3, depths), (259, 3, [compression]), (262, 3, [photometric]), (277, 3, [len(depths)])]
    names = {"extra": 338, "planar": 284, "format": 339, "colours": 320, "fill": 266, "rows": 278, "predictor": 317,
             "subsampling": 530, "orientation": 274}
    return tags + [(names[name], 3, value) for name, value in more.items()]


planes = [COLOURS[..., channel].tobytes() for channel in range(3)]
write("hand-tiff-planar.tif", tiff(None, kind(2, [8, 8, 8], planar=[2]), chunks=planes), rgb)
cmyk = np.asarray(rgb.convert("CMYK"))
write("hand-tiff-planar-cmyk.tif", tiff(None, kind(5, [8] * 4, planar=[2]), chunks=[cmyk[..., c].tobytes() for c in range(4)]),
      rgb.convert("CMYK"))
write("hand-tiff-white-is-zero.tif", tiff((255 - GREY).tobytes(), kind(0, [8])), grey)
write("hand-tiff-white-is-zero16.tif", tiff((65535 - DEEP).tobytes(), kind(0, [16])), deep=DEEP)
for depth in (2, 4):
    few = GREY >> (8 - depth)
    write(f"hand-tiff-grey{depth}.tif", tiff(b"".join(map(packed(depth), few)), kind(1, [depth])))
half = levels((H, W), 3, 7)
colours = np.zeros((3, 16), int)
colours[:, :7] = np.array(palette.getpalette()[:21]).reshape(7, 3).T
write("hand-tiff-p4.tif", tiff(b"".join(map(packed(4), half)), kind(3, [4], colours=[int(v) * 257 for v in colours.flatten()])), palette)
write("hand-tiff-p4-small-colours.tif", tiff(b"".join(map(packed(4), half)), kind(3, [4], colours=[int(v) for v in colours.flatten()])), palette)
few = palette.point(lambda index: index % 2)
few.putpalette(palette.getpalette())
write("hand-tiff-p1.tif", tiff(b"".join(map(packed(1), half % 2)), kind(3, [1], colours=[200 * 257, 0, 100 * 257, 0, 50 * 257, 0])), few)
write("hand-tiff-p-alpha.tif", tiff(np.dstack([half, ALPHA]).astype(np.uint8).tobytes(), kind(3, [8, 8], extra=[2],
      colours=[int(v) * 257 for v in np.pad(colours, ((0, 0), (0, 240))).flatten()])))
share = ALPHA[..., None].astype(float) / 255
weighted = np.round(COLOURS * share).astype(np.uint8)
write("hand-tiff-associated.tif", tiff(np.dstack([weighted, ALPHA]).tobytes(), kind(2, [8] * 4, extra=[1])))
write("hand-tiff-unspecified-extra.tif", tiff(np.dstack([COLOURS, ALPHA]).tobytes(), kind(2, [8] * 4, extra=[0])))
write("hand-tiff-two-extras.tif", tiff(np.dstack([COLOURS, ALPHA, GREY]).tobytes(), kind(2, [8] * 5, extra=[2, 0])))
write("hand-tiff-rgba-without-extra.tif", tiff(np.dstack([COLOURS, ALPHA]).tobytes(), kind(2, [8] * 4)))
write("hand-tiff-rgb16.tif", tiff(DEEP_COLOURS.tobytes(), kind(2, [16] * 3)), deep=DEEP_COLOURS)
write("hand-tiff-rgb16-big-endian.tif", tiff(DEEP_COLOURS.astype(">u2").tobytes(), kind(2, [16] * 3), ">"), deep=DEEP_COLOURS)
write("hand-tiff-signed16.tif", tiff((DEEP // 2).tobytes(), kind(1, [16], format=[2])), deep=DEEP // 2)
write("hand-tiff-f64.tif", tiff(unit.astype("<f8").tobytes(), kind(1, [64], format=[3])),
      deep=np.round(unit.astype(float) * 65535).astype(np.uint16))
write("hand-tiff-rgb-f32.tif", tiff((COLOURS / 255).astype("<f4").tobytes(), kind(2, [32] * 3, format=[3] * 3)),
      deep=COLOURS.astype(np.uint16) * 257)
swapped = bytes(int(format(byte, "08b")[::-1], 2) for byte in b"".join(map(packed(1), GREY > 100)))
write("hand-tiff-reversed-bits.tif", tiff(swapped, kind(1, [1], fill=[2])), refused="reverse")
write("hand-tiff-subsampled.tif", tiff(bytes(6 * 6), kind(6, [8] * 3, subsampling=[2, 2])), refused="subsampled")
write("hand-tiff-five-bands.tif", tiff(bytes(5 * W * H), kind(1, [8] * 5)), refused="channels")
write("hand-tiff-12-bit.tif", tiff(b"".join(map(packed(12), GREY.astype(int) << 4)), kind(1, [12])), refused="12 bit")
tiles = np.zeros((16, 16, 3), np.uint8)
tiles[:H, :W] = COLOURS
write("hand-tiff-tiled.tif", tiff(tiles.tobytes(), kind(2, [8] * 3) + [(322, 3, [16]), (323, 3, [16]), (324, 4, [8]), (325, 4, [768])]), rgb)
large = np.pad(np.asarray(smooth), ((0, 15), (0, 14), (0, 0)))
tiles = [zlib.compress(large[top : top + 16, left : left + 16].tobytes()) for top in (0, 16) for left in (0, 16)]
starts = [8 + sum(map(len, tiles[:at])) for at in range(4)]
write("hand-tiff-four-tiles.tif", tiff(None, kind(2, [8] * 3, 8) + [(322, 3, [16]), (323, 3, [16]), (324, 4, starts),
      (325, 4, list(map(len, tiles)))], width=18, height=17, chunks=tiles), smooth)
strips = [zlib.compress(row.tobytes()) for row in COLOURS]
write("hand-tiff-strips.tif", tiff(None, kind(2, [8] * 3, 8, rows=[1]), chunks=strips), rgb)
write("hand-tiff-multiband-planar-la.tif", tiff(None, kind(1, [8, 8], planar=[2], extra=[2]), chunks=[GREY.tobytes(), ALPHA.tobytes()]), la)

# WebP
put("webp-lossy.webp", smooth, quality=80)
put("webp-lossy-edge.webp", edge, quality=80)
put("webp-lossy-alpha.webp", Image.merge("RGBA", [*smooth.split(), Image.fromarray(np.tile(np.uint8([0, 128, 255]), (17, 6)))]), quality=80)
put("webp-lossless.webp", rgb, lossless=True)
put("webp-lossless-alpha.webp", rgba, lossless=True)
put("webp-lossless-exact.webp", rgba, lossless=True, exact=True)
put("webp-exif6.webp", rgb, lossless=True, exif=exif(6))
put("webp-animated.webp", rgb, save_all=True, append_images=[rgb.transpose(Image.Transpose.ROTATE_180)], lossless=True)
put("webp-animated-alpha.webp", rgba, save_all=True, append_images=[rgba.transpose(Image.Transpose.ROTATE_180)], lossless=True)

# GIF
put("gif-l.gif", grey, interlace=False)
put("gif-1.gif", bits)
put("gif-p.gif", palette)
put("gif-p-transparent.gif", palette, transparency=3)
put("gif-interlaced.gif", palette, interlace=True)
put("gif-animated.gif", palette, save_all=True, append_images=[palette.transpose(Image.Transpose.ROTATE_180)])

# Odd files.
write("odd-png-la16.png", png_by_hand(16, 4, plain(np.dstack([DEEP, ALPHA.astype(np.uint16) * 257]).astype(">u2"))),
      deep=np.round(65535 + (DEEP - 65535.0) * ALPHA / 255).astype(np.uint16))
write("odd-png-grey1-trns.png", png_by_hand(1, 0, plain(GREY > 100, packed(1)), extra=chunk(b"tRNS", b"\0\0")))
write("odd-png-grey16-trns.png", png_by_hand(16, 0, plain(DEEP.astype(">u2")), extra=chunk(b"tRNS", struct.pack(">H", DEEP[1, 2]))),
      deep=np.where(DEEP == DEEP[1, 2], 65535, DEEP).astype(np.uint16))
turn = exif(6)
whole = saved(rgb, "PNG")
write("odd-png-exif-last.png", whole[:-12] + chunk(b"eXIf", turn[6:]) + whole[-12:])
inks = bytearray(saved(smooth.convert("CMYK"), "JPEG"))
adobe = inks.index(b"Adobe")
ycck = inks.copy()
ycck[adobe + 11] = 2
write("odd-jpeg-ycck.jpg", bytes(ycck))
write("odd-jpeg-cmyk-without-adobe.jpg", bytes(inks[: adobe - 4] + inks[adobe + 12 :]))
write("odd-jpeg-grey-exif6.jpg", saved(smooth.convert("L"), "JPEG", exif=turn))
rows = b"".join(row[:, ::-1].tobytes().ljust(16, b"\0") for row in COLOURS[::-1])
write("odd-bmp-os2.bmp", b"BM" + struct.pack("<IHHIIHHHH", 26 + len(rows), 0, 0, 26, 12, W, H, 1, 24) + rows, rgb)
masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
header = struct.pack("<IiiHHIIiiII", 108, W, H, 1, 32, 3, 4 * W * H, 0, 0, 0, 0) + masks + b"BGRs" + bytes(48)
rows = np.dstack([COLOURS[..., ::-1], ALPHA])[::-1].tobytes()
write("odd-bmp-alpha.bmp", b"BM" + struct.pack("<IHHI", 14 + len(header) + len(rows), 0, 0, 14 + len(header)) + header + rows)
frame = saved(palette, "GIF")
at = frame.index(b"\x2c", 13 + 3 * 2 ** ((frame[10] & 7) + 1))
inner = bytearray(frame)
inner[6:10] = struct.pack("<HH", W + 3, H + 2)
inner[at + 1 : at + 5] = struct.pack("<HH", 2, 1)
canvas = Image.new("RGB", (W + 3, H + 2), "white")
canvas.paste(palette, (2, 1))
write("odd-gif-frame-within-canvas.gif", bytes(inner), canvas)
write("odd-webp-exif-prefixed.webp", saved(rgb, "WEBP", lossless=True, exif=turn))
for order, mark in (("<", b"II*\0"), (">", b"MM\0*")):
    about = mark + struct.pack(order + "IHHHIII", 8, 1, 274, 4, 1, 6, 0)
    long, name = b"Exif\0\0" + about, {"<": "little", ">": "big"}[order]
    write(f"odd-jpeg-exif6-long-{name}.jpg", small[:20] + segment(0xE1, long) + small[20:])
    write(f"odd-png-exif6-long-{name}.png", whole[:33] + chunk(b"eXIf", about) + whole[33:])
    write(f"odd-webp-exif6-long-{name}.webp", saved(rgb, "WEBP", lossless=True, exif=long))
write("odd-tiff-reduced.tif", tiff(GREY.tobytes(), kind(1, [8]) + [(254, 4, [1])]), grey)
write("odd-tiff-reduced-first.tif", tiff(GREY.tobytes(), kind(1, [8]) + [(254, 4, [1])], following=True), refused="reduced image before")
write("odd-tiff-one-strip.tif", tiff(COLOURS.tobytes(), kind(2, [8] * 3) + [(278, 4, [2**32 - 1])]), rgb)
write("odd-tiff-group4-one-strip.tif", tiff(None, kind(1, [1], 4) + [(278, 4, [2**32 - 1])], chunks=[group4(bits)]), bits)
write("odd-tiff-photometric-long.tif", tiff(GREY.tobytes(), [(258, 3, [8]), (259, 3, [1]), (262, 4, [0]), (277, 3, [1])], ">"))
put("odd-tiff-zstd.tif", rgb, compression="zstd", refused="ZSTD")
write("odd-tiff-group4-white-is-zero.tif", tiff(None, kind(0, [1], 4), chunks=[group4(bits)]))
put("odd-tiff-lzma.tif", rgb, compression="lzma", refused="compression method")
put("odd-tiff-old-deflate.tif", rgb, compression="tiff_deflate")
put("odd-png-animated.png", rgb, save_all=True, append_images=[rgb.transpose(Image.Transpose.ROTATE_180)])
write("odd-tiff-signed8.tif", tiff((GREY // 2).tobytes(), kind(1, [8], format=[2])))
write("odd-tiff-three-grey.tif", tiff(bytes(3 * W * H), kind(1, [8] * 3, extra=[0, 0])), refused="3 channels")

# Masks: what is a defect, 1, and what is not.
SIDE = 64
v, u = np.mgrid[0:SIDE, 0:SIDE]
DISC, SQUARE = np.hypot(u - 24, v - 26) < 14, (u >= 44) & (u < 56) & (v >= 40) & (v < 52)
BOTH = DISC | SQUARE


def mask(name, image, truth=BOTH, **settings):
    name = f"mask-{name}"
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(HERE / name, **settings)
    expected[name] = f"mask {truth.shape[1]} {truth.shape[0]}", truth.astype(np.uint8).tobytes()


def indexed(background, disc, square, colours, truth=BOTH):
    indices = np.select([DISC & truth, SQUARE & truth], [disc, square], background).astype(np.uint8)
    image = Image.frombytes("P", (SIDE, SIDE), indices.tobytes())
    image.putpalette(colours)
    return image


def over(clear, solid):
    return np.where(BOTH[..., None], np.uint8(solid), np.uint8(clear))


black_first, road_first = [0, 0, 0, 128, 0, 0, 0, 128, 0], [128, 64, 128, 220, 20, 60, 0, 0, 142]
full = BOTH.astype(np.uint8) * 255
nothing = np.zeros_like(BOTH)
mask("255.png", full)
mask("1.png", full // 255)
mask("classes.png", (DISC + 2 * SQUARE).astype(np.uint8))
mask("palette.png", indexed(0, 1, 2, black_first))
mask("palette-road.png", indexed(0, 1, 2, road_first))
mask("palette-road-empty.png", indexed(0, 1, 2, road_first, nothing), nothing)
mask("palette-white-first.png", indexed(1, 0, 0, [255, 255, 255, 0, 0, 0]))
mask("palette-transparent.png", indexed(2, 0, 1, road_first), transparency=2)
mask("palette.gif", indexed(0, 1, 2, black_first))
mask("palette-road.gif", indexed(0, 1, 2, road_first), optimize=False)
mask("palette-road.tif", indexed(0, 1, 2, road_first), compression="tiff_adobe_deflate")
mask("palette-road.bmp", indexed(0, 1, 1, road_first[:6]).convert("P"))
mask("transparent.png", over([0, 0, 0, 0], [255, 255, 255, 255]))
mask("transparent-black.png", over([0, 0, 0, 0], [0, 0, 0, 255]))
mask("transparent-white.webp", over([255, 255, 255, 0], [255, 0, 0, 255]), lossless=True, exact=True)
mask("grey-alpha.png", Image.fromarray(over([0, 0, 0, 0], [255, 255, 255, 255])).convert("LA"))
mask("grey-alpha.tif", Image.fromarray(over([0, 0, 0, 0], [255, 255, 255, 255])).convert("LA"), compression="tiff_adobe_deflate")
fine = np.hypot(*[(axis + 0.5) / 4 - 0.5 - centre for axis, centre in zip(np.mgrid[0:256, 0:256], (26, 24))]) < 14
soft = np.asarray(Image.fromarray(fine.astype(np.uint8) * 255).resize((SIDE, SIDE), Image.Resampling.BOX))
mask("soft.png", soft, soft > 127)
mask("jpeg.jpg", full, quality=75)
mask("jpeg-colours.jpg", over([0, 0, 0], [255, 0, 0]), quality=75)
mask("lossy.webp", full, quality=75)
mask("16-bit.png", (BOTH * 65535).astype(np.uint16))
mask("16-bit-1.png", BOTH.astype(np.uint16))
mask("1-bit.png", Image.fromarray(full).convert("1"))
mask("1-bit-group4.tif", Image.fromarray(full).convert("1"), compression="group4")
mask("tiff-lzw.tif", full, compression="tiff_lzw")
mask("32-bit-classes.tif", (DISC + 300 * SQUARE).astype(np.int32), compression="tiff_adobe_deflate")
mask("float-1.tif", BOTH.astype(np.float32), compression="tiff_adobe_deflate")
mask("float-255.tif", full.astype(np.float32), compression="tiff_adobe_deflate")
mask("255.bmp", Image.fromarray(full).convert("1"))
mask("inverted.png", 255 - full)
mask("exif6.png", full[:48], np.rot90(BOTH[:48], -1), exif=exif(6))
mask("line.png", ((v == 21) * 255).astype(np.uint8), v == 21)
mask("pixel.png", ((v == 33) & (u == 5)).astype(np.uint8) * 255, (v == 33) & (u == 5))
specks = (v % 16 == 7) & (u % 16 == 3)
mask("specks.png", specks.astype(np.uint8) * 255, specks)
mask("empty.png", nothing.astype(np.uint8), nothing)
mask("all.png", np.full_like(full, 255), ~nothing)
mask("all.gif", np.full_like(full, 255), ~nothing)

(HERE / "expected.txt").write_text("".join(f"{name} {about}\n" for name, (about, _) in sorted(expected.items())))
(HERE / "levels.zz").write_bytes(zlib.compress(b"".join(levels for _, (_, levels) in sorted(expected.items())), 9))
