//! TIFF of any colours, layout and depth.

use std::io::Cursor;

use image::metadata::Orientation;
use image::{DynamicImage, ImageBuffer, Luma, LumaA, Pixel, Primitive, Rgb, Rgba};
use tiff::TiffError;
use tiff::decoder::{Decoder, DecodingResult, Limits};
use tiff::tags::{PhotometricInterpretation as Photometric, Tag};

use super::formats::{check_size, grey_planes};
use super::{DecodeError, damaged};

type Reader<'a> = Decoder<Cursor<&'a [u8]>>;

/// What the samples of a pixel mean: grey or colours, alpha if there is, and others, which are not used.
struct Meaning {
    photometric: Photometric,
    samples: usize,
    colours: usize,
    alpha: Option<Alpha>,
    /// Whether they are grey or colours, with alpha or without, and none that the file does not name.
    is_named: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Alpha {
    /// Colours were multiplied by it.
    Associated,
    Unassociated,
}

/// Samples pixel by pixel.
enum Samples {
    U8(Vec<u8>),
    U16(Vec<u16>),
    F32(Vec<f32>),
}

fn unsupported<T>(kind: impl Into<String>) -> Result<T, DecodeError> {
    Err(DecodeError::Unsupported(kind.into()))
}

fn refused(error: TiffError) -> DecodeError {
    match error {
        TiffError::UnsupportedError(kind) => DecodeError::Unsupported(kind.to_string()),
        error => damaged(error),
    }
}

/// Decodes the first image of a file: 8 or 16 bit, or RGBA of floating-point numbers. Integers of other types become 16 bit.
pub(super) fn decode(bytes: &[u8], max_pixels: u64) -> Result<(DynamicImage, Orientation), DecodeError> {
    let Decoded { meaning, samples, size, orientation } = Decoded::of(bytes, max_pixels)?;
    if !meaning.is_named {
        return Err(DecodeError::Unnamed(meaning.samples));
    }
    let image = match samples {
        Samples::U8(samples) => meaning.image(samples, |level| level.round() as u8, size),
        Samples::U16(samples) => meaning.image(samples, |level| level.round() as u16, size),
        Samples::F32(samples) => floating(meaning.levels(samples, |level| level), size),
    };
    Ok((image.ok_or_else(|| damaged("its pixels do not fill it"))?, orientation))
}

/// Decodes each channel of the first image of a file as a grey image. YCbCr and palettes become RGB.
pub(super) fn planes(bytes: &[u8], max_pixels: u64) -> Result<(Vec<DynamicImage>, Orientation), DecodeError> {
    let Decoded { meaning, samples, size, orientation } = Decoded::of(bytes, max_pixels)?;
    let planes = match samples {
        Samples::U8(samples) => {
            grey_planes(&meaning.channels(samples, |level| level.round() as u8), meaning.samples, size)
        }
        Samples::U16(samples) => {
            grey_planes(&meaning.channels(samples, |level| level.round() as u16), meaning.samples, size)
        }
        Samples::F32(samples) => {
            let levels = meaning.channels(samples, |level| level);
            let plane = |channel| levels.iter().skip(channel).step_by(meaning.samples).copied().collect();
            (0..meaning.samples).map(|channel| floating((1, plane(channel)), size)).collect()
        }
    };
    Ok((planes.ok_or_else(|| damaged("its pixels do not fill it"))?, orientation))
}

/// The first image of a file as its decoder gives it.
struct Decoded {
    meaning: Meaning,
    samples: Samples,
    size: [u32; 2],
    orientation: Orientation,
}

impl Decoded {
    fn of(bytes: &[u8], max_pixels: u64) -> Result<Self, DecodeError> {
        let mut about = Decoder::new(Cursor::new(bytes)).map_err(refused)?;
        let (width, height) = about.dimensions().map_err(refused)?;
        check_size(width.into(), height.into(), max_pixels)?;
        let memory = usize::try_from(max_pixels.saturating_mul(16).saturating_add(64 << 20)).unwrap_or(usize::MAX);
        let mut limits = Limits::default();
        (limits.decoding_buffer_size, limits.intermediate_buffer_size, limits.ifd_value_size) =
            (memory, memory, memory);
        let mut about = about.with_limits(limits.clone());
        let meaning = Meaning::read(&mut about, bytes.len() as u64)?;
        let orientation = numbers(&mut about, Tag::Orientation)?.first().map_or(1, |&value| value.min(255) as u8);
        let stored = as_grey(bytes, height).ok_or_else(|| damaged("its directory cannot be read"))?;
        let stored = Decoder::new(Cursor::new(&stored[..])).map_err(refused)?.with_limits(limits);
        let samples = meaning.samples(stored, width as usize)?;
        let (meaning, samples) = match (samples, palette(&mut about)?) {
            (Samples::U8(indices), Some(palette)) => meaning.through(&indices, &palette)?,
            (samples, None) => (meaning, samples),
            _ => return unsupported("a palette of more than 256 colours"),
        };
        let orientation = Orientation::from_exif(orientation).unwrap_or(Orientation::NoTransforms);
        Ok(Decoded { meaning, samples, size: [width, height], orientation })
    }
}

/// The colour of a palette's index 0; `None` if the image has no palette.
pub(super) fn first_colour(bytes: &[u8]) -> Option<[u8; 3]> {
    let mut tiff = Decoder::new(Cursor::new(bytes)).ok()?;
    palette(&mut tiff).ok()??.first().copied()
}

/// The values of a tag; none if it is missing.
fn numbers(tiff: &mut Reader, tag: Tag) -> Result<Vec<u64>, DecodeError> {
    Ok(tiff.find_tag_unsigned_vec(tag).map_err(refused)?.unwrap_or_default())
}

fn photometric(tiff: &mut Reader) -> Result<Photometric, DecodeError> {
    let number = numbers(tiff, Tag::PhotometricInterpretation)?.first().and_then(|&number| number.try_into().ok());
    number.and_then(Photometric::from_u16).ok_or_else(|| DecodeError::Unsupported("unknown colours".to_owned()))
}

/// The colours of a palette: first all red levels, then green, then blue, of 16 bit; some programs write levels of 8 bit.
fn palette(tiff: &mut Reader) -> Result<Option<Vec<[u8; 3]>>, DecodeError> {
    if photometric(tiff)? != Photometric::RGBPalette {
        return Ok(None);
    }
    let levels = numbers(tiff, Tag::ColorMap)?;
    let shift = if levels.iter().all(|&level| level < 256) { 0 } else { 8 };
    let count = levels.len() / 3;
    let colour = |index: usize| [0, 1, 2].map(|channel| (levels[channel * count + index] >> shift) as u8);
    Ok(Some((0..count).map(colour).collect()))
}

/// The file with its colours called grey, for which the decoder gives the samples as they are stored, whatever they mean. No strip has
/// more rows than the image, for which some decoders would set memory aside.
fn as_grey(bytes: &[u8], height: u32) -> Option<Vec<u8>> {
    const SHORT: u64 = 3;
    const GREY: u64 = 1;
    let is_little = bytes.starts_with(b"II");
    let number = |field: &[u8]| {
        let join = |sum: u64, &byte: &u8| sum << 8 | u64::from(byte);
        if is_little { field.iter().rev().fold(0, join) } else { field.iter().fold(0, join) }
    };
    // BigTIFF has wider fields.
    let is_big = number(bytes.get(2..4)?) == 43;
    let (offset, count, entry, value) = if is_big { (8..16, 8, 20, 12) } else { (4..8, 2, 12, 8) };
    let directory = usize::try_from(number(bytes.get(offset)?)).ok()?;
    let mut grey = bytes.to_vec();
    let (entries, rest) = grey.get_mut(directory..)?.split_at_mut_checked(count)?;
    for entry in rest.chunks_exact_mut(entry).take(usize::try_from(number(entries)).ok()?) {
        let tag = Tag::from_u16_exhaustive(number(&entry[..2]) as u16);
        let length = if number(&entry[2..4]) == SHORT { 2 } else { 4 };
        let field = &mut entry[value..value + length];
        let changed = match tag {
            Tag::PhotometricInterpretation => GREY,
            Tag::RowsPerStrip => number(field).min(height.into()),
            _ => continue,
        };
        let [little, big] = [changed.to_le_bytes(), changed.to_be_bytes()];
        field.copy_from_slice(if is_little { &little[..length] } else { &big[8 - length..] });
    }
    Some(grey)
}

impl Meaning {
    /// Reads it from the tags of a file of this length, and refuses what is not read as it is meant.
    fn read(tiff: &mut Reader, length: u64) -> Result<Self, DecodeError> {
        const UNCOMPRESSED: u64 = 1;
        const JPEG: u64 = 7;
        let mut first = |tag, default| Ok(numbers(tiff, tag)?.first().copied().unwrap_or(default));
        let (bits, compression) = (first(Tag::BitsPerSample, 1)?, first(Tag::Compression, UNCOMPRESSED)?);
        let (samples, order) = (first(Tag::SamplesPerPixel, 1)? as usize, first(Tag::FillOrder, 1)?);
        let is_reduced = first(Tag::NewSubfileType, 0)? & 1 == 1;
        let photometric = photometric(tiff)?;
        let colours = match photometric {
            Photometric::WhiteIsZero | Photometric::BlackIsZero | Photometric::RGBPalette => 1,
            Photometric::RGB | Photometric::YCbCr => 3,
            Photometric::CMYK => 4,
            other => return unsupported(format!("{other:?}")),
        };
        let subsampling = numbers(tiff, Tag::ChromaSubsampling)?;
        match photometric {
            _ if ![1, 2, 4, 8, 16, 32, 64].contains(&bits) => return unsupported(format!("{bits} bit")),
            _ if is_reduced && tiff.more_images() => return unsupported("a reduced image before the image itself"),
            _ if order != 1 => return unsupported("bits in reverse order"),
            Photometric::YCbCr if bits != 8 => return unsupported(format!("YCbCr of {bits} bit")),
            Photometric::YCbCr if compression != JPEG && subsampling != [1, 1] => {
                return unsupported("subsampled colours");
            }
            _ => {}
        }
        if compression != UNCOMPRESSED {
            // Decoders of JPEG and fax fill up what is missing.
            for [offsets, lengths] in
                [[Tag::StripOffsets, Tag::StripByteCounts], [Tag::TileOffsets, Tag::TileByteCounts]]
            {
                let (offsets, lengths) = (numbers(tiff, offsets)?, numbers(tiff, lengths)?);
                if offsets.iter().zip(&lengths).any(|(&offset, &own)| offset.saturating_add(own) > length) {
                    return Err(damaged("it ends before its pixels do"));
                }
            }
        }
        let alpha = match (&numbers(tiff, Tag::ExtraSamples)?[..], samples.checked_sub(colours)) {
            (_, None) => return Err(damaged(format_args!("it has {samples} of {colours} channels"))),
            (_, Some(0)) => None,
            ([1, ..], _) => Some(Alpha::Associated),
            ([2 | 999, ..], _) => Some(Alpha::Unassociated),
            ([], Some(1)) if photometric == Photometric::RGB => Some(Alpha::Unassociated),
            ([_], Some(1)) => None,
            (_, Some(_)) if photometric == Photometric::RGB => None,
            _ => return Ok(Meaning { photometric, samples, colours, alpha: None, is_named: false }),
        };
        Ok(Meaning { photometric, samples, colours, alpha, is_named: true })
    }

    /// The samples of a file whose colours are called grey.
    fn samples(&self, mut tiff: Reader, width: usize) -> Result<Samples, DecodeError> {
        let bits = usize::from(tiff.colortype().map_err(refused)?.bit_depth());
        let mut stored = DecodingResult::U8(Vec::new());
        let layout = tiff.read_image_to_buffer(&mut stored).map_err(refused)?;
        if stored.as_buffer(0).byte_len() < layout.complete_len {
            return Err(damaged("it needs more memory than an image within --max-pixels"));
        }
        let planes = layout.planes;
        let is_inverted = self.photometric == Photometric::WhiteIsZero;
        Ok(match stored {
            DecodingResult::U8(packed) if bits < 8 => {
                let row = layout.row_stride.map_or(1, |bytes| bytes.get());
                let values =
                    packed.chunks_exact(row).flat_map(|row| unpacked(row, bits, width * self.samples / planes));
                // Indices of a palette are no levels.
                let white = if self.photometric == Photometric::RGBPalette { 1 } else { 255 / ((1 << bits) - 1) };
                Samples::U8(interleaved(values.map(|value| value * white).collect(), planes))
            }
            DecodingResult::U8(values) => Samples::U8(interleaved(values, planes)),
            DecodingResult::U16(values) => Samples::U16(interleaved(values, planes)),
            DecodingResult::F16(values) => finite(values.into_iter().map(f32::from), planes)?,
            DecodingResult::F32(values) => finite(values.into_iter(), planes)?,
            DecodingResult::F64(values) => finite(values.into_iter().map(|value| value as f32), planes)?,
            _ if is_inverted => return unsupported(format!("white is zero, of {bits} bit or signed")),
            DecodingResult::I8(values) => Samples::U8(narrowed(&values, 127, planes)?),
            DecodingResult::I16(values) => Samples::U16(narrowed(&values, u16::MAX, planes)?),
            DecodingResult::I32(values) => Samples::U16(narrowed(&values, u16::MAX, planes)?),
            DecodingResult::I64(values) => Samples::U16(narrowed(&values, u16::MAX, planes)?),
            DecodingResult::U32(values) => Samples::U16(narrowed(&values, u16::MAX, planes)?),
            DecodingResult::U64(values) => Samples::U16(narrowed(&values, u16::MAX, planes)?),
        })
    }

    /// The samples of which the first was an index of a palette, and what they mean.
    fn through(&self, indices: &[u8], palette: &[[u8; 3]]) -> Result<(Self, Samples), DecodeError> {
        let mut samples = Vec::with_capacity(indices.len() * 3);
        for pixel in indices.chunks_exact(self.samples) {
            samples.extend(palette.get(usize::from(pixel[0])).ok_or_else(|| damaged("its palette lacks a colour"))?);
            samples.extend(&pixel[1..]);
        }
        let meaning = Meaning { photometric: Photometric::RGB, samples: self.samples + 2, colours: 3, ..*self };
        Ok((meaning, Samples::U8(samples)))
    }

    /// The samples as channels: black is 0, and YCbCr is RGB. `level` is the nearest level.
    fn channels<T: Primitive + Into<f32>>(&self, mut samples: Vec<T>, level: fn(f32) -> T) -> Vec<T> {
        for pixel in samples.chunks_exact_mut(self.samples) {
            match self.photometric {
                Photometric::WhiteIsZero => pixel[0] = T::DEFAULT_MAX_VALUE - pixel[0],
                Photometric::YCbCr => {
                    let colours = rgb([0, 1, 2].map(|sample| pixel[sample].into()));
                    pixel[..3].copy_from_slice(&colours.map(level));
                }
                _ => {}
            }
        }
        samples
    }

    /// Channels of grey or RGB, with alpha if there is, and their number. `level` is the nearest level.
    fn levels<T: Primitive + Into<f32>>(&self, samples: Vec<T>, level: fn(f32) -> T) -> (usize, Vec<T>) {
        let shown = if self.colours == 1 { 1 } else { 3 };
        let channels = shown + usize::from(self.alpha.is_some());
        let as_stored = matches!(self.photometric, Photometric::BlackIsZero | Photometric::RGB);
        if as_stored && self.samples == channels && self.alpha != Some(Alpha::Associated) {
            return (channels, samples);
        }
        let white: f32 = T::DEFAULT_MAX_VALUE.into();
        let mut levels = Vec::with_capacity(samples.len() / self.samples * channels);
        for pixel in samples.chunks_exact(self.samples) {
            let sample = |index: usize| -> f32 { pixel[index].into() };
            let colours = match self.photometric {
                Photometric::WhiteIsZero => [white - sample(0); 3],
                Photometric::CMYK => [0, 1, 2].map(|ink| (white - sample(ink)) * (white - sample(3)) / white),
                Photometric::YCbCr => rgb([0, 1, 2].map(sample)),
                _ => [0, 1, 2].map(|channel: usize| sample(channel.min(self.colours - 1))),
            };
            let alpha = self.alpha.map(|_| sample(self.colours));
            let scale = alpha.filter(|&alpha| alpha > 0.0 && self.alpha == Some(Alpha::Associated));
            let scale = scale.map_or(1.0, |alpha| white / alpha);
            levels.extend(colours[..shown].iter().map(|colour| level(colour * scale)));
            levels.extend(alpha.map(level));
        }
        (channels, levels)
    }

    fn image<T>(&self, samples: Vec<T>, level: fn(f32) -> T, [width, height]: [u32; 2]) -> Option<DynamicImage>
    where
        T: Primitive + Into<f32>,
        Rgb<T>: Pixel<Subpixel = T>,
        Rgba<T>: Pixel<Subpixel = T>,
        DynamicImage: From<ImageBuffer<Luma<T>, Vec<T>>>
            + From<ImageBuffer<LumaA<T>, Vec<T>>>
            + From<ImageBuffer<Rgb<T>, Vec<T>>>
            + From<ImageBuffer<Rgba<T>, Vec<T>>>,
    {
        let (channels, levels) = self.levels(samples, level);
        Some(match channels {
            1 => ImageBuffer::<Luma<T>, _>::from_raw(width, height, levels)?.into(),
            2 => ImageBuffer::<LumaA<T>, _>::from_raw(width, height, levels)?.into(),
            3 => ImageBuffer::<Rgb<T>, _>::from_raw(width, height, levels)?.into(),
            _ => ImageBuffer::<Rgba<T>, _>::from_raw(width, height, levels)?.into(),
        })
    }
}

/// RGBA of floating-point channels: grey three times, opaque without alpha.
fn floating((channels, levels): (usize, Vec<f32>), [width, height]: [u32; 2]) -> Option<DynamicImage> {
    let rgba = levels.chunks_exact(channels).flat_map(|pixel| match *pixel {
        [grey] => [grey, grey, grey, 1.0],
        [grey, alpha] => [grey, grey, grey, alpha],
        [red, green, blue] => [red, green, blue, 1.0],
        _ => [pixel[0], pixel[1], pixel[2], pixel[3]],
    });
    Some(ImageBuffer::<Rgba<f32>, _>::from_raw(width, height, rgba.collect())?.into())
}

/// RGB of YCbCr by Rec. 601, of 8 bit and full range.
fn rgb([luma, blue, red]: [f32; 3]) -> [f32; 3] {
    let (blue, red) = (blue - 128.0, red - 128.0);
    [luma + 1.402 * red, luma - 0.344_136 * blue - 0.714_136 * red, luma + 1.772 * blue]
}

/// The first `count` values of 1, 2 or 4 bits in a row.
fn unpacked(row: &[u8], bits: usize, count: usize) -> impl Iterator<Item = u8> {
    let value = move |byte: u8, place: usize| byte >> (8 - bits * (place + 1)) & ((1 << bits) - 1);
    row.iter().flat_map(move |&byte| (0..8 / bits).map(move |place| value(byte, place))).take(count)
}

/// Planes pixel by pixel.
fn interleaved<T: Copy>(planes: Vec<T>, count: usize) -> Vec<T> {
    if count < 2 {
        return planes;
    }
    let pixels = planes.len() / count;
    (0..pixels).flat_map(|pixel| (0..count).map(move |plane| plane * pixels + pixel)).map(|at| planes[at]).collect()
}

fn finite(values: impl Iterator<Item = f32>, planes: usize) -> Result<Samples, DecodeError> {
    let values: Vec<f32> = values.collect();
    match values.iter().all(|value| value.is_finite()) {
        true => Ok(Samples::F32(interleaved(values, planes))),
        false => unsupported("levels that are NaN or infinite"),
    }
}

/// Integers as levels of 8 or 16 bit, the greatest of which is `white`.
fn narrowed<T: Copy + Into<i128>, L: Copy + TryFrom<i128>>(
    values: &[T],
    white: u16,
    planes: usize,
) -> Result<Vec<L>, DecodeError> {
    let levels: Option<Vec<L>> = values.iter().map(|&value| value.into().try_into().ok()).collect();
    levels.map(|levels| interleaved(levels, planes)).ok_or_else(|| {
        let values = || values.iter().map(|&value| value.into());
        let [least, most] = [values().min(), values().max()].map(|value| value.unwrap_or_default() as f64);
        DecodeError::Levels { kind: "integer", least, most, white }
    })
}
