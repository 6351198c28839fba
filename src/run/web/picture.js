// From the bytes of an image file to the detector's input, step by step as `stssad predict` does it, roundings included.
// A picture is { width, height, channels, white, levels }: rows of pixels, white is 255 or 65535.

// PNG is decoded here, since a canvas has 8 bits and multiplies by alpha; all else is the browser's to decode.
async function decode(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  return (await decodePng(bytes)) ?? browserDecoded(file);
}

async function browserDecoded(file) {
  const options = { colorSpaceConversion: "none", premultiplyAlpha: "none", imageOrientation: "from-image" };
  const bitmap = await createImageBitmap(file, options);
  return drawn(bitmap, bitmap.width, bitmap.height);
}

// What the browser draws: a bitmap, or a frame of a video.
function drawn(source, width, height) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(source, 0, 0);
  return { width, height, channels: 4, white: 255, levels: context.getImageData(0, 0, width, height).data };
}

// Where the pixels of each pass of an interlaced PNG begin, and how far apart they are: x, y, x, y.
const ADAM7 = [[0, 0, 8, 8], [4, 0, 8, 8], [0, 4, 4, 8], [2, 0, 4, 4], [0, 2, 2, 4], [1, 0, 2, 2], [0, 1, 1, 2]];

// Undefined for another format.
async function decodePng(bytes) {
  if ([137, 80, 78, 71, 13, 10, 26, 10].some((byte, at) => bytes[at] !== byte)) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const chunks = {};
  const data = [];
  for (let at = 8; at + 12 <= bytes.length; at += 12 + view.getUint32(at)) {
    const kind = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    const content = bytes.subarray(at + 8, at + 8 + view.getUint32(at));
    if (kind === "IDAT") data.push(content);
    chunks[kind] ??= content;
    if (kind === "IEND") break;
  }
  if (!chunks.IHDR || data.length === 0) throw new Error("is damaged: it has no pixels");
  const header = new DataView(chunks.IHDR.buffer, chunks.IHDR.byteOffset);
  const [width, height, depth, kind] = [header.getUint32(0), header.getUint32(4), header.getUint8(8), header.getUint8(9)];
  const stored = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 }[kind];
  const stream = new Blob(data).stream().pipeThrough(new DecompressionStream("deflate"));
  const packed = new Uint8Array(await new Response(stream).arrayBuffer());
  const samples = new (depth === 8 ? Uint8Array : Uint16Array)(width * height * stored);
  let from = 0;
  for (const [left, top, right, down] of header.getUint8(12) === 0 ? [[0, 0, 1, 1]] : ADAM7) {
    const [columns, lines] = [Math.ceil((width - left) / right), Math.ceil((height - top) / down)];
    if (columns <= 0 || lines <= 0) continue;
    const line = Math.ceil((columns * stored * depth) / 8);
    const end = from + (line + 1) * lines;
    if (packed.length < end) throw new Error("is damaged: pixels are missing");
    const bytes = unfiltered(packed.subarray(from, end), line, lines, Math.max(1, (stored * depth) / 8));
    const own = unpacked(bytes, line, lines, columns * stored, depth);
    for (let at = 0; at < columns * lines; at += 1) {
      const place = (top + down * Math.floor(at / columns)) * width + left + right * (at % columns);
      samples.set(own.subarray(at * stored, (at + 1) * stored), place * stored);
    }
    from = end;
  }
  const white = depth === 16 ? 65535 : 255;
  const picture = (channels, pixel) => {
    const levels = new (depth === 16 ? Uint16Array : Uint8Array)(width * height * channels);
    for (let at = 0; at < width * height; at += 1) levels.set(pixel(samples.subarray(at * stored, (at + 1) * stored)), at * channels);
    return turned({ width, height, channels, white, levels }, orientation(chunks.eXIf));
  };
  const { PLTE: palette, tRNS: clear } = chunks;
  const scale = depth < 8 ? 255 / (2 ** depth - 1) : 1;
  if (kind === 3) {
    const colour = ([index]) => [...palette.subarray(3 * index, 3 * index + 3)];
    return picture(clear ? 4 : 3, (pixel) => (clear ? [...colour(pixel), clear[pixel[0]] ?? 255] : colour(pixel)));
  }
  if (!clear) return picture(stored, (pixel) => (scale === 1 ? pixel : pixel.map((level) => level * scale)));
  const key = Array.from({ length: stored }, (_, at) => (clear[2 * at] << 8) | clear[2 * at + 1]);
  const alpha = (pixel) => (key.every((level, at) => level === pixel[at]) ? 0 : white);
  return picture(stored + 1, (pixel) => [...pixel.map((level) => level * scale), alpha(pixel)]);
}

// The orientation that EXIF data names, 1 to 8; 1, which is as stored, where they name none.
function orientation(exif) {
  if (!exif || exif.length < 8) return 1;
  const view = new DataView(exif.buffer, exif.byteOffset, exif.length);
  const isLittle = view.getUint16(0) === 0x4949;
  const short = (at) => (at + 2 <= exif.length ? view.getUint16(at, isLittle) : 0);
  const long = (at) => (at + 4 <= exif.length ? view.getUint32(at, isLittle) : 0);
  const directory = long(4);
  for (let entry = 0; entry < short(directory); entry += 1) {
    const at = directory + 2 + 12 * entry;
    if (short(at) !== 0x0112) continue;
    const value = short(at + 2) === 4 ? long(at + 8) : short(at + 8);
    return value >= 1 && value <= 8 ? value : 1;
  }
  return 1;
}

// The picture as its orientation has it shown.
function turned(picture, orientation) {
  if (orientation === 1) return picture;
  const { width, height, channels, levels } = picture;
  const size = orientation < 5 ? [width, height] : [height, width];
  // The pixel as stored that is shown in column x and row y.
  const stored = (x, y) => {
    const [column, row] = orientation < 5 ? [x, y] : [y, x];
    return [[2, 3, 7, 8].includes(orientation) ? width - 1 - column : column, [3, 4, 6, 7].includes(orientation) ? height - 1 - row : row];
  };
  const shown = new levels.constructor(levels.length);
  for (let at = 0; at < width * height; at += 1) {
    const [column, row] = stored(at % size[0], Math.floor(at / size[0]));
    const from = (row * width + column) * channels;
    shown.set(levels.subarray(from, from + channels), at * channels);
  }
  return { ...picture, width: size[0], height: size[1], levels: shown };
}

// The lines of a PNG without their filters; `apart` is the distance in bytes of the pixel to the left.
function unfiltered(packed, line, height, apart) {
  const out = new Uint8Array(line * height);
  for (let y = 0; y < height; y += 1) {
    const [filter, from, to] = [packed[y * (line + 1)], y * (line + 1) + 1, y * line];
    for (let x = 0; x < line; x += 1) {
      const left = x < apart ? 0 : out[to + x - apart];
      const up = y === 0 ? 0 : out[to + x - line];
      const corner = x < apart || y === 0 ? 0 : out[to + x - line - apart];
      out[to + x] = packed[from + x] + [0, left, up, (left + up) >> 1, paeth(left, up, corner)][filter];
    }
  }
  return out;
}

function paeth(left, up, corner) {
  const [a, b, c] = [left, up, corner].map((value) => Math.abs(left + up - corner - value));
  return a <= b && a <= c ? left : b <= c ? up : corner;
}

function unpacked(bytes, line, height, width, depth) {
  if (depth === 8) return bytes;
  const samples = new Uint16Array(width * height);
  for (let at = 0; at < samples.length; at += 1) {
    const [row, bit] = [Math.floor(at / width) * line, (at % width) * depth];
    const byte = row + (bit >> 3);
    samples[at] = depth === 16 ? (bytes[byte] << 8) | bytes[byte + 1] : (bytes[byte] >> (8 - depth - (bit & 7))) & (2 ** depth - 1);
  }
  return samples;
}

// A picture as the detector's [C, H, W].
function convert(model, picture) {
  const [channels, height, width] = model.image;
  const fitted = fit(model, overWhite(picture));
  const deep = fitted.white === 65535;
  const [black, white] = deep ? model.levels : [0, 255];
  const share = (level) => f32((Math.min(Math.max(level, black), white) - black) / (white - black));
  const rounded = (level) => f32(Math.round(f32(level * 65535)) / 65535);
  const luma = [0.299, 0.587, 0.114].map(f32);
  const [left, top] = [(width - fitted.width) >> 1, (height - fitted.height) >> 1];
  const image = new Float32Array(channels * height * width);
  for (let at = 0; at < fitted.width * fitted.height; at += 1) {
    const [x, y] = [at % fitted.width, Math.floor(at / fitted.width)];
    const pixel = Array.from(fitted.levels.subarray(at * fitted.channels, (at + 1) * fitted.channels), share);
    for (let channel = 0; channel < channels; channel += 1) {
      const level = fitted.channels === 1 || channels === 3
        ? pixel[fitted.channels === 1 ? 0 : channel]
        : pixel.reduce((sum, level, index) => f32(sum + f32(level * luma[index])), 0);
      image[(channel * height + top + y) * width + left + x] = rounded(level);
    }
  }
  return image;
}

// Transparent pixels blended with white, and alpha dropped.
function overWhite({ width, height, channels, white, levels }) {
  if (channels % 2 === 1) return { width, height, channels, white, levels };
  const colours = channels - 1;
  const opaque = new levels.constructor(width * height * colours);
  for (let at = 0; at < width * height; at += 1) {
    const share = f32(levels[at * channels + colours] / white);
    for (let colour = 0; colour < colours; colour += 1) {
      const level = levels[at * channels + colour];
      opaque[at * colours + colour] = Math.round(f32(white + f32(share * (level - white))));
    }
  }
  return { width, height, channels: colours, white, levels: opaque };
}

// Crops and scales a picture to the part of the detector's image that it fills.
function fit(model, picture) {
  const target = [model.image[2], model.image[1]];
  const { width, height } = picture;
  const times = (extent, over, under) => Math.max(1, Math.floor((extent * over + Math.floor(under / 2)) / under));
  const isWide = width * target[1] >= height * target[0];
  let [part, size] = [[width, height], target];
  if (model.resize === "crop") {
    part = isWide
      ? [Math.min(times(target[0], height, target[1]), width), height]
      : [width, Math.min(times(target[1], width, target[0]), height)];
  } else if (model.resize === "letterbox") {
    size = isWide
      ? [target[0], Math.min(times(height, target[0], width), target[1])]
      : [Math.min(times(width, target[1], height), target[0]), target[1]];
  }
  const [left, top] = [(width - part[0]) >> 1, (height - part[1]) >> 1];
  return scaled(cropped(picture, left, top, ...part), ...size);
}

function cropped(picture, left, top, width, height) {
  if (width === picture.width && height === picture.height) return picture;
  const { channels, levels } = picture;
  const part = new levels.constructor(width * height * channels);
  for (let y = 0; y < height; y += 1) {
    const start = ((top + y) * picture.width + left) * channels;
    part.set(levels.subarray(start, start + width * channels), y * width * channels);
  }
  return { ...picture, width, height, levels: part };
}

// The weights of each of `to` pixels over `from`: a triangle whose support grows with the reduction.
function weights(from, to) {
  const ratio = f32(from / to);
  const support = Math.max(ratio, 1);
  return Array.from({ length: to }, (_, at) => {
    const centre = f32(f32(at + 0.5) * ratio);
    const first = Math.min(Math.max(Math.floor(f32(centre - support)), 0), from - 1);
    const end = Math.min(Math.max(Math.ceil(f32(centre + support)), first + 1), from);
    const middle = f32(centre - 0.5);
    const raw = Array.from({ length: end - first }, (_, index) => {
      const distance = Math.abs(f32(f32(first + index - middle) / support));
      return distance < 1 ? f32(1 - distance) : 0;
    });
    const sum = raw.reduce((sum, weight) => f32(sum + weight), 0);
    return { first, weights: raw.map((weight) => f32(weight / sum)) };
  });
}

// Rows first, in f32, then columns, which are rounded to levels.
function scaled(picture, width, height) {
  if (width === picture.width && height === picture.height) return picture;
  const { channels, levels, white } = picture;
  const line = picture.width * channels;
  const tall = new Float32Array(line * height);
  weights(picture.height, height).forEach(({ first, weights }, y) => {
    weights.forEach((weight, index) => {
      const start = (first + index) * line;
      for (let x = 0; x < line; x += 1) tall[y * line + x] += f32(levels[start + x] * weight);
    });
  });
  const out = new levels.constructor(width * height * channels);
  weights(picture.width, width).forEach(({ first, weights }, x) => {
    for (let y = 0; y < height; y += 1) {
      for (let channel = 0; channel < channels; channel += 1) {
        const start = y * line + first * channels + channel;
        const sum = weights.reduce((sum, weight, index) => f32(sum + f32(tall[start + index * channels] * weight)), 0);
        out[(y * width + x) * channels + channel] = Math.min(Math.max(Math.round(sum), 0), white);
      }
    }
  });
  return { ...picture, width, height, levels: out };
}
