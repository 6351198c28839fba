//! File formats: what their decoders make of a file, and which damage leaves all pixels.

use std::io::Cursor;
use std::iter::{from_fn, successors};
use std::ops::Range;
use std::path::Path;

use image::codecs::bmp::BmpDecoder;
use image::metadata::Orientation;
use image::{
    DynamicImage, GrayImage, ImageBuffer, ImageDecoder, ImageFormat, ImageReader, Limits, Luma, Pixel, Primitive,
    RgbImage,
};
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::{DecodeError, damaged, tiff, undecodable};

/// The format of a file, by its first bytes.
pub(super) fn format(bytes: &[u8]) -> Option<ImageFormat> {
    use ImageFormat::{Bmp, Gif, Jpeg, Png, Tiff, WebP};
    // Neither BigTIFF nor a JPEG with stray bytes before its first header is known to `guess_format`.
    match bytes {
        [b'I', b'I', b'+', 0, ..] | [b'M', b'M', 0, b'+', ..] => Some(Tiff),
        [0xff, 0xd8, ..] => Some(Jpeg),
        _ => image::guess_format(bytes).ok().filter(|format| [Bmp, Gif, Png, Tiff, WebP].contains(format)),
    }
}

/// Width and height in pixels, from a file's header.
pub(super) fn dimensions(path: &Path) -> Option<(u32, u32)> {
    let file = ImageReader::open(path).ok()?.with_guessed_format().ok()?;
    match file.format() {
        Some(ImageFormat::Tiff) | None => ::tiff::decoder::Decoder::new(file.into_inner()).ok()?.dimensions().ok(),
        Some(_) => file.into_dimensions().ok(),
    }
}

pub(super) fn decode(
    format: ImageFormat,
    bytes: &[u8],
    max_pixels: u64,
) -> Result<(DynamicImage, Orientation), DecodeError> {
    match format {
        ImageFormat::Jpeg => decode_jpeg(bytes, max_pixels),
        ImageFormat::Tiff => tiff::decode(bytes, max_pixels),
        _ => decode_by(format, bytes, max_pixels),
    }
}

/// Each channel as a grey image, with transparency as a channel.
pub(super) fn planes(
    format: ImageFormat,
    bytes: &[u8],
    max_pixels: u64,
) -> Result<(Vec<DynamicImage>, Orientation), DecodeError> {
    if format == ImageFormat::Tiff {
        return tiff::planes(bytes, max_pixels);
    }
    let (image, orientation) = decode(format, bytes, max_pixels)?;
    let (width, height, channels) = (image.width(), image.height(), image.color().channel_count().into());
    let planes = match (image.as_flat_samples_u8(), image.as_flat_samples_u16()) {
        (Some(flat), _) => grey_planes(flat.samples, channels, [width, height]),
        (_, Some(flat)) => grey_planes(flat.samples, channels, [width, height]),
        _ => return Err(DecodeError::Unsupported(format!("{:?}", image.color()))),
    };
    Ok((planes.ok_or_else(|| damaged("its pixels do not fill it"))?, orientation))
}

/// Each channel of samples that lie pixel by pixel.
pub(super) fn grey_planes<T>(samples: &[T], channels: usize, [width, height]: [u32; 2]) -> Option<Vec<DynamicImage>>
where
    T: Primitive,
    Luma<T>: Pixel<Subpixel = T>,
    DynamicImage: From<ImageBuffer<Luma<T>, Vec<T>>>,
{
    let plane = |channel| {
        let levels = samples.iter().skip(channel).step_by(channels).copied().collect();
        Some(ImageBuffer::<Luma<T>, _>::from_raw(width, height, levels)?.into())
    };
    (0..channels).map(plane).collect()
}

/// The colour of a palette's index 0; `None` if the image has no palette.
pub(super) fn first_colour(format: ImageFormat, bytes: &[u8]) -> Option<[u8; 3]> {
    let first = |palette: &[u8]| palette.first_chunk().copied();
    match format {
        ImageFormat::Png => {
            let png = png::Decoder::new(Cursor::new(bytes)).read_info().ok()?;
            let is_indexed = png.info().color_type == png::ColorType::Indexed;
            png.info().palette.as_deref().filter(|_| is_indexed).and_then(first)
        }
        ImageFormat::Gif => {
            let mut gif = gif::Decoder::new(bytes).ok()?;
            let own = gif.next_frame_info().ok()??.palette.clone();
            own.as_deref().or(gif.global_palette()).and_then(first)
        }
        ImageFormat::Bmp => BmpDecoder::new(Cursor::new(bytes)).ok()?.get_palette()?.first().copied(),
        ImageFormat::Tiff => tiff::first_colour(bytes),
        _ => None,
    }
}

/// What all variants of a file decode to; `None` if one cannot be decoded, or if two differ.
pub(super) fn alike<T: PartialEq>(variants: &[Vec<u8>], decode: impl Fn(&[u8]) -> Result<T, DecodeError>) -> Option<T> {
    let mut decoded = variants.iter().map(|variant| decode(variant).ok());
    let first = decoded.next()??;
    decoded.all(|other| other.as_ref() == Some(&first)).then_some(first)
}

/// The marker of a scan's header in a JPEG.
const START_OF_SCAN: u8 = 0xda;

/// Variants of a damaged file that decode alike if all pixels are there, and whether the file has its end marker. A PNG gets an end
/// marker. A JPEG loses stray bytes between its headers; without an end marker it loses [padding](without_padding) and gets an end
/// marker after each of some fillings, which decode to different pixels where some are missing.
pub(super) fn mended(format: ImageFormat, bytes: &[u8]) -> (Vec<Vec<u8>>, bool) {
    const END: [u8; 2] = [0xff, 0xd9];
    let whole = match format {
        ImageFormat::Png => return (vec![[bytes, b"\0\0\0\0IEND\xae\x42\x60\x82"].concat()], true),
        ImageFormat::Jpeg => without_stray_bytes(bytes),
        _ => None,
    };
    match whole {
        Some((headers, scans)) if !scans.windows(2).any(|pair| pair == END) => {
            let scans = without_padding(scans);
            // Without 0xff, which starts a marker.
            let next = |byte: &u8| Some(byte.wrapping_mul(77).wrapping_add(29));
            let filling =
                |seed| successors(Some(seed), next).skip(1).take(64).map(|byte| byte & 0xfe).collect::<Vec<u8>>();
            let filled = |seed| [&headers, scans, &filling(seed), &END].concat();
            (if ends_within_scan(scans) { (0..8).map(filled).collect() } else { Vec::new() }, false)
        }
        Some((headers, scans)) => (vec![[&headers, scans].concat()], true),
        None => (Vec::new(), true),
    }
}

/// Without the zeros at its end: after a power cut or a download that was broken off they stand for what was never written, and would
/// be read as pixels. A few zeros may be pixels.
fn without_padding(scans: &[u8]) -> &[u8] {
    const FEW: usize = 3;
    let end = scans.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    if scans.len() - end > FEW { &scans[..end] } else { scans }
}

/// Whether what follows the first scan's header ends with the data of a scan, not within a header or after one that a scan is to follow.
fn ends_within_scan(scans: &[u8]) -> bool {
    let is_header = |pair: &[u8]| pair[0] == 0xff && !matches!(pair[1], 0 | 0xd0..=0xd7 | 0xff);
    scans.windows(2).rposition(is_header).is_none_or(|last| match scans[last + 1..] {
        [START_OF_SCAN, high, low, ref rest @ ..] => rest.len() + 2 >= usize::from(u16::from_be_bytes([high, low])),
        _ => false,
    })
}

/// The header segments of a JPEG file up to the first scan, and what follows them.
fn without_stray_bytes(bytes: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut headers = bytes.get(..2)?.to_vec();
    segments(bytes).find_map(|(kind, segment)| {
        headers.extend(&bytes[segment.clone()]);
        (kind == START_OF_SCAN).then(|| (std::mem::take(&mut headers), &bytes[segment.end..]))
    })
}

/// The segments of a JPEG file, each with its kind and its bytes; those after the header of a scan are none.
fn segments(bytes: &[u8]) -> impl Iterator<Item = (u8, Range<usize>)> {
    let mut at = 2;
    from_fn(move || {
        let is_marker = |pair: &[u8]| pair[0] == 0xff && !matches!(pair[1], 0 | 0xff);
        let start = at + bytes.get(at..)?.windows(2).position(is_marker)?;
        let [_, kind, high, low] = *bytes[start..].first_chunk()?;
        at = start + 2 + usize::from(u16::from_be_bytes([high, low]));
        bytes.get(start..at).map(|_| (kind, start..at))
    })
}

/// The contents of a JPEG's header segments of this kind that begin with an identifier, without it.
fn identified<'a>(bytes: &'a [u8], kind: u8, identifier: &'static [u8]) -> impl Iterator<Item = &'a [u8]> {
    let headers = segments(bytes).take_while(|(kind, _)| *kind != START_OF_SCAN);
    headers
        .filter(move |(found, _)| *found == kind)
        .filter_map(move |(_, segment)| bytes[segment].get(4..)?.strip_prefix(identifier))
}

/// The EXIF orientation of a JPEG, where the decoder takes the last of several segments. They are one text in parts, as in Pillow, so
/// the first says what it is.
fn jpeg_orientation(bytes: &[u8]) -> Option<Orientation> {
    let exif: Vec<&[u8]> = identified(bytes, 0xe1, b"Exif\0\0").collect();
    orientation(&exif.concat())
}

/// The orientation in EXIF data. The decoder's own reading refuses one that is written as a long number.
fn orientation(exif: &[u8]) -> Option<Orientation> {
    const ORIENTATION: usize = 274;
    let is_big_endian = match exif.first_chunk()? {
        b"II*\0" => false,
        b"MM\0*" => true,
        _ => return None,
    };
    let number = |from: &[u8], at: usize, length: usize| -> Option<usize> {
        let bytes = from.get(at..at + length)?;
        let join = |number, &byte| (number << 8) | usize::from(byte);
        Some(if is_big_endian { bytes.iter().fold(0, join) } else { bytes.iter().rev().fold(0, join) })
    };
    let directory = exif.get(number(exif, 4, 4)?..)?;
    let entries = directory.get(2..)?.chunks_exact(12).take(number(directory, 0, 2)?);
    let entry = entries.into_iter().find(|entry| number(entry, 0, 2) == Some(ORIENTATION))?;
    let length = match [number(entry, 2, 2)?, number(entry, 4, 4)?] {
        [3, 1] => 2,
        [4, 1] => 4,
        _ => return None,
    };
    Orientation::from_exif(u8::try_from(number(entry, 8, length)?).ok()?)
}

/// Whether the three components of a JPEG are YCbCr although the decoder takes them for RGB. As in libjpeg, JFIF's marker outweighs
/// Adobe's, and this outweighs R, G and B as the components' names.
fn is_ycbcr(bytes: &[u8]) -> bool {
    let is_jfif = identified(bytes, 0xe0, b"JFIF\0").any(|about| about.len() >= 9);
    let transform = identified(bytes, 0xee, b"Adobe").filter_map(|about| about.get(6).copied()).last();
    is_jfif || transform.is_some_and(|transform| transform != 0)
}

/// Turns YCbCr, pixel by pixel, into RGB by JFIF's rule.
fn to_rgb(pixels: &mut [u8]) {
    for pixel in pixels.chunks_exact_mut(3) {
        let [y, cb, cr] = [f32::from(pixel[0]), f32::from(pixel[1]) - 128.0, f32::from(pixel[2]) - 128.0];
        let rgb = [y + 1.402 * cr, y - 0.344_136 * cb - 0.714_136 * cr, y + 1.772 * cb];
        pixel.copy_from_slice(&rgb.map(|level| level.round() as u8));
    }
}

/// Whether a chunk of this WebP file holds pixels in the lossy format.
pub(super) fn is_lossy_webp(bytes: &[u8]) -> bool {
    let mut chunks = bytes.get(12..).unwrap_or_default();
    while let Some((header, rest)) = chunks.split_first_chunk::<8>() {
        let [kind @ .., a, b, c, d] = *header;
        if kind == *b"VP8 " {
            return true;
        }
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        chunks = rest.get(length.saturating_add(length % 2)..).unwrap_or_default();
    }
    false
}

pub(super) fn check_size(width: u64, height: u64, max: u64) -> Result<(), DecodeError> {
    match width * height {
        0 => Err(damaged("it has no pixels")),
        pixels if pixels > max => Err(DecodeError::TooManyPixels { width, height, max }),
        _ => Ok(()),
    }
}

fn decode_by(format: ImageFormat, bytes: &[u8], max_pixels: u64) -> Result<(DynamicImage, Orientation), DecodeError> {
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(max_pixels.saturating_mul(16).saturating_add(64 << 20));
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits.clone());
    let mut decoder = reader.into_decoder().map_err(undecodable)?;
    let (width, height) = decoder.dimensions();
    check_size(width.into(), height.into(), max_pixels)?;
    // `into_decoder` does not check this limit.
    limits.reserve(decoder.total_bytes()).map_err(undecodable)?;
    decoder.set_limits(limits).map_err(undecodable)?;
    let turned = match format {
        ImageFormat::Png => png_orientation(bytes),
        _ => decoder.exif_metadata().map_err(undecodable)?.as_deref().and_then(orientation),
    };
    let turned = turned.unwrap_or(Orientation::NoTransforms);
    Ok((DynamicImage::from_decoder(decoder).map_err(undecodable)?, turned))
}

/// The EXIF orientation of a PNG; the decoder does not look for it after the pixels, where some programs write it.
fn png_orientation(bytes: &[u8]) -> Option<Orientation> {
    let mut chunks = bytes.get(8..)?;
    loop {
        let (&[a, b, c, d, ref kind @ ..], rest) = chunks.split_first_chunk::<8>()?;
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if kind == b"eXIf" {
            return orientation(rest.get(..length)?);
        }
        chunks = rest.get(length..)?.get(4..)?;
    }
}

/// Refuses a JPEG whose coding the decoder does not know: it would call the file damaged.
fn check_coding(bytes: &[u8]) -> Result<(), DecodeError> {
    let headers = segments(bytes).take_while(|(kind, _)| *kind != START_OF_SCAN);
    let frame =
        headers.filter(|(kind, _)| matches!(kind, 0xc0..=0xcf)).find(|(kind, _)| !matches!(kind, 0xc4 | 0xc8 | 0xcc));
    let coding = match frame.map(|(kind, segment)| (kind, bytes[segment].get(4))) {
        Some((0xc0..=0xc2, Some(&bits))) if bits != 8 => format!("{bits} bit JPEG"),
        None | Some((0xc0..=0xc2, _)) => return Ok(()),
        Some((0xc3 | 0xcb, _)) => "lossless JPEG".into(),
        Some((0xc9 | 0xca, _)) => "JPEG with arithmetic coding".into(),
        Some(_) => "hierarchical JPEG".into(),
    };
    Err(DecodeError::Unsupported(coding))
}

/// Decodes JPEG in strict mode; otherwise a truncated file would decode to a half-grey image.
fn decode_jpeg(bytes: &[u8], max_pixels: u64) -> Result<(DynamicImage, Orientation), DecodeError> {
    check_coding(bytes)?;
    let options = DecoderOptions::default().set_strict_mode(true).set_max_width(usize::MAX).set_max_height(usize::MAX);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(damaged)?;
    let (width, height) = decoder.dimensions().ok_or_else(|| damaged("no header"))?;
    check_size(width as u64, height as u64, max_pixels)?;
    let orientation = jpeg_orientation(bytes);
    let stored = decoder.input_colorspace();
    let grey = stored == Some(ColorSpace::Luma);
    // With three components, what is CMYK so far becomes RGB.
    let is_rgb = matches!(stored, Some(ColorSpace::RGB | ColorSpace::CMYK))
        && decoder.info().is_some_and(|about| about.components == 3);
    let colours = if grey { ColorSpace::Luma } else { ColorSpace::RGB };
    decoder.set_options(options.jpeg_set_out_colorspace(colours));
    let mut pixels = decoder.decode().map_err(damaged)?;
    if is_rgb && is_ycbcr(bytes) {
        to_rgb(&mut pixels);
    }
    let (width, height) = (width as u32, height as u32);
    let image = match grey {
        true => GrayImage::from_raw(width, height, pixels).map(DynamicImage::from),
        false => RgbImage::from_raw(width, height, pixels).map(DynamicImage::from),
    };
    let image = image.ok_or_else(|| damaged("its pixels do not fill it"))?;
    Ok((image, orientation.unwrap_or(Orientation::NoTransforms)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_tell_the_size() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/formats");
        for name in
            ["tiff-p.tif", "tiff-big.tif", "tiff-la.tif", "tiff-f32.tif", "png-rgb.png", "gif-p.gif", "bmp-1.bmp"]
        {
            assert_eq!(dimensions(&folder.join(name)), Some((5, 4)), "{name}");
        }
        assert_eq!(dimensions(&folder.join("jpeg-l.jpg")), Some((18, 17)));
        assert_eq!(dimensions(&folder.join("make.py")), None);
    }
}
