//! Decodes an image file and converts it to the detector's input.
//!
//! The format is recognised by the first bytes of the file, never by its name. The EXIF orientation is applied, palettes and CMYK
//! become RGB, transparent pixels are blended with white, and colour profiles are ignored. 8 bit levels are divided by 255 and
//! 16 bit levels by 65535, unless [`Levels`] says otherwise: black is 0 and white is 1. Integers of more bits are 16 bit levels, and
//! floating-point numbers from 0 to 1 become such; files with other numbers are refused. Of an animation the first frame is read, of
//! a TIFF the first image. `kernels-tests/formats/README.md` compares each kind with Pillow.
//!
//! A damaged file is refused, except a JPEG or PNG with all of its pixels: one that lacks its end marker, or a JPEG with stray bytes
//! before or between its headers. A progressive JPEG that was cut exactly between two scans cannot be told from such a file.
//!
//! In a mask every pixel that is neither black nor transparent belongs to a defect, so 0 and 1, 0 and 255, class numbers, palettes
//! and soft edges all work. If the opaque part of a mask with transparent pixels is black throughout, the opaque part is the defect.
//! If no pixel of a mask with a palette is black or transparent, index 0 is the background. JPEG and lossy WebP change levels, so
//! there a defect is brighter than half of the mask's brightest pixel.

mod formats;
mod tiff;

use std::cmp::Reverse;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::str::FromStr;

use clap::ValueEnum;
use image::imageops::FilterType;
use image::metadata::Orientation;
use image::{DynamicImage, GrayImage, ImageBuffer, ImageError, ImageFormat, Luma, LumaA, Primitive, Rgba};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use formats::{alike, first_colour, is_lossy_webp, mended};

use super::cache::STEPS;

/// Default limit on the pixels of an image; about 9,450 × 9,450.
pub const MAX_PIXELS: u64 = 89_478_485;

/// The weights of red, green and blue in grey by Rec. 601, as in Pillow, OpenCV and torchvision.
pub(crate) const LUMA: [f64; 3] = [0.299, 0.587, 0.114];

/// How every image of a run is converted to `[C, H, W]`. It belongs to the model: scores are valid only for this conversion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conversion {
    pub size: Size,
    pub channels: Channels,
    pub resize: Resize,
    pub levels: Levels,
}

/// Height and width in pixels. Written `256` if both are equal, else `200,320`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub height: usize,
    pub width: usize,
}

impl Size {
    pub const fn square(side: usize) -> Self {
        Size { height: side, width: side }
    }

    pub fn pixels(self) -> usize {
        self.height * self.width
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let extent = |text: &str| match text.trim().parse() {
            Ok(extent) if (1..=4096).contains(&extent) => Ok(extent),
            _ => Err("it must be a side, or HEIGHT,WIDTH, from 1 to 4096 pixels".to_owned()),
        };
        match text.split_once(',') {
            Some((height, width)) => Ok(Size { height: extent(height)?, width: extent(width)? }),
            None => extent(text).map(Size::square),
        }
    }
}

/// `256`, or `200,320`.
impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.height == self.width {
            true => write!(f, "{}", self.height),
            false => write!(f, "{},{}", self.height, self.width),
        }
    }
}

/// A number if height and width are equal.
impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.height == self.width {
            true => serializer.serialize_u64(self.height as u64),
            false => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Written { expected: "a side in pixels, or `HEIGHT,WIDTH`", read: str::parse })
    }
}

/// How a setting is written in TOML: a text, or a number, which is read as its digits.
struct Written<T> {
    expected: &'static str,
    read: fn(&str) -> Result<T, String>,
}

impl<T> Visitor<'_> for Written<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        (self.read)(text).map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }
}

/// Which levels of 16 bit images are black and white; levels beyond become black or white. Many cameras write 10, 12 or 14 bits into
/// files of 16. Written `auto`, `4095` or `256,4095`. Images of 8 bit do not depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Levels {
    /// Black is 0; white is the least 2ⁿ − 1, from 255, that no training image exceeds.
    Auto,
    /// The levels of black and of white.
    Between(u16, u16),
}

impl Levels {
    /// Black is 0 and white is 65535.
    pub const FULL: Self = Levels::Between(0, u16::MAX);

    /// The levels that suit images up to this level; `None` without 16 bit images.
    pub(super) fn up_to(brightest: Option<u16>) -> Self {
        let Some(brightest) = brightest else { return Levels::FULL };
        let bits = (u16::BITS - brightest.leading_zeros()).max(8);
        Levels::Between(0, (u32::MAX >> (u32::BITS - bits)) as u16)
    }

    /// A level as a share of the way from black, 0, to white, 1.
    fn share(self, level: u16) -> f32 {
        let (black, white) = match self {
            Levels::Auto => (0, u16::MAX),
            Levels::Between(black, white) => (black, white),
        };
        (f32::from(level.clamp(black, white) - black)) / f32::from(white - black)
    }
}

impl FromStr for Levels {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "it must be auto, the level of white, or LO,HI with LO below HI, up to 65535".to_owned();
        let level = |text: &str| text.trim().parse().map_err(|_| wrong());
        let (black, white) = match text.split_once(',') {
            _ if text == "auto" => return Ok(Levels::Auto),
            Some((black, white)) => (level(black)?, level(white)?),
            None => (0, level(text)?),
        };
        if black < white { Ok(Levels::Between(black, white)) } else { Err(wrong()) }
    }
}

impl fmt::Display for Levels {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Levels::Auto => f.write_str("auto"),
            Levels::Between(black, white) => write!(f, "{black},{white}"),
        }
    }
}

impl Serialize for Levels {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Levels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Written { expected: "`auto`, a level, or `LO,HI`", read: str::parse })
    }
}

/// What a pixel holds. Written `grey`, `rgb`, `all`, or a number of channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channels {
    /// One channel; colours by Rec. 601's luma, 0.299 R + 0.587 G + 0.114 B.
    Grey,
    /// Three channels; grey is copied to each.
    Rgb,
    /// As many channels as the first training image has, as its file stores them.
    All,
    /// So many channels, as the files store them: transparency is one of them, and CMYK has four.
    Stored(u8),
}

/// The most channels of a pixel.
const MOST_CHANNELS: u8 = 8;

impl FromStr for Channels {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "grey" | "gray" => Ok(Channels::Grey),
            "rgb" => Ok(Channels::Rgb),
            "all" => Ok(Channels::All),
            number => match number.parse() {
                Ok(count) if (1..=MOST_CHANNELS).contains(&count) => Ok(Channels::Stored(count)),
                _ => Err(format!("it must be grey, rgb, all, or a number of channels up to {MOST_CHANNELS}")),
            },
        }
    }
}

impl fmt::Display for Channels {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Channels::Grey => f.write_str("grey"),
            Channels::Rgb => f.write_str("rgb"),
            Channels::All => f.write_str("all"),
            Channels::Stored(count) => write!(f, "{count}"),
        }
    }
}

impl Serialize for Channels {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Channels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expected = "`grey`, `rgb`, `all`, or a number of channels";
        deserializer.deserialize_any(Written { expected, read: str::parse })
    }
}

/// How an image gets its size. Scaling uses a triangle filter whose support grows with the reduction, so that nothing is aliased
/// (Pillow's `BILINEAR`). An image of the right size is not changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Resize {
    /// Scale height and width separately: shows the whole image, distorted.
    #[default]
    Stretch,
    /// Cut out the largest central part with the proportions of the size and scale it: undistorted, but the ends of the longer side
    /// are lost.
    Crop,
    /// Scale the image to fit and fill the rest with black: shows the whole image, undistorted.
    Letterbox,
}

/// Why an image file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("cannot be read: {0}")]
    Unreadable(io::Error),
    #[error("is a folder, a pipe or a device, not a file")]
    NotAFile,
    #[error("is empty")]
    Empty,
    #[error("is not a PNG, JPEG, BMP, TIFF, WebP or GIF file, whatever its name says")]
    Unknown,
    #[error("has {width}×{height} pixels, more than the limit of {max} (--max-pixels)")]
    TooManyPixels { width: u64, height: u64, max: u64 },
    #[error("has {bytes} bytes, more than the {max} that an image within --max-pixels can need")]
    TooManyBytes { bytes: u64, max: u64 },
    #[error("is of an unsupported kind ({0}): convert it to 8 or 16 bit grey or RGB, such as a PNG")]
    Unsupported(String),
    /// Numbers of which black and white are not known.
    #[error(
        "has {kind} levels from {least} to {most}: scale them to 0 to {white}, or convert it to 8 or 16 bit grey or RGB"
    )]
    Levels { kind: &'static str, least: f64, most: f64, white: u16 },
    /// Neither grey nor RGB.
    #[error("has {0} channels, which are neither grey nor RGB: --channels all takes up to {MOST_CHANNELS} as they are")]
    Unnamed(usize),
    #[error("has {found} channels, but each image must have {wanted} (--channels)")]
    OtherChannels { found: usize, wanted: u8 },
    #[error("is damaged: {0}")]
    Damaged(String),
    /// Sizes are `[width, height]` in pixels.
    #[error("has {}×{} pixels, but its image has {}×{}", mask[0], mask[1], image[0], image[1])]
    MaskSize { mask: [u32; 2], image: [u32; 2] },
    /// A folder without usable images.
    #[error("{0}")]
    Folder(String),
    #[error("has the mask {name}, which {reason}")]
    Mask { name: String, reason: Box<DecodeError> },
}

/// The message of a decoder, on one line.
fn damaged(error: impl std::fmt::Display) -> DecodeError {
    DecodeError::Damaged(error.to_string().split_whitespace().collect::<Vec<_>>().join(" "))
}

fn undecodable(error: ImageError) -> DecodeError {
    match error {
        ImageError::Unsupported(error) => DecodeError::Unsupported(error.to_string()),
        error => damaged(error),
    }
}

/// Reads an image file: upright and opaque, 8 or 16 bit, grey or RGB.
///
/// # Errors
/// When the file cannot be read or decoded, or its header states more than `max_pixels` pixels; then nothing is allocated.
pub fn read(path: &Path, max_pixels: u64) -> Result<DynamicImage, DecodeError> {
    Stored::read(path, max_pixels)?.upright()
}

/// As [`read`], for the contents of a file.
///
/// # Errors
/// As [`read`].
pub fn decode(bytes: &[u8], max_pixels: u64) -> Result<DynamicImage, DecodeError> {
    Stored::decode(bytes, max_pixels)?.upright()
}

/// The longer side of an image file in pixels, from its header; `None` if the header cannot be read.
pub(super) fn longer_side(path: &Path) -> Option<usize> {
    // Opening a named pipe would block.
    let (width, height) = path.is_file().then(|| formats::dimensions(path)).flatten()?;
    Some(width.max(height) as usize).filter(|&side| side > 0)
}

/// Width and height of an image file as it is shown; `None` if it cannot be read. It is decoded for that, since its orientation may
/// lie after the pixels.
pub(super) fn upright_size(path: &Path, channels: Channels, max_pixels: u64) -> Option<[u32; 2]> {
    Some(Stored::read_for(path, channels, max_pixels).ok()?.upright_size())
}

/// Width and height after turning.
fn turned([width, height]: [u32; 2], orientation: Orientation) -> [u32; 2] {
    use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
    match orientation {
        Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH => [height, width],
        _ => [width, height],
    }
}

/// The bytes of an image file, if it is not longer than one within `max_pixels` can be.
fn contents(path: &Path, max_pixels: u64) -> Result<Vec<u8>, DecodeError> {
    // Checked before the file is opened: opening a named pipe would block until another process writes to it.
    let about = std::fs::metadata(path).map_err(DecodeError::Unreadable)?;
    if !about.is_file() {
        return Err(DecodeError::NotAFile);
    }
    let file = File::open(path).map_err(DecodeError::Unreadable)?;
    // Uncompressed 16 bit levels of eight channels, plus a header and a colour profile.
    let max = max_pixels.saturating_mul(16).saturating_add(16 << 20);
    if about.len() > max {
        return Err(DecodeError::TooManyBytes { bytes: about.len(), max });
    }
    let mut bytes = Vec::with_capacity(about.len() as usize);
    file.take(max).read_to_end(&mut bytes).map_err(DecodeError::Unreadable)?;
    Ok(bytes)
}

/// An image as it is stored: not turned yet, and with its transparency.
#[derive(Debug)]
pub struct Stored {
    /// One image, or each channel of it as a grey image.
    planes: Vec<DynamicImage>,
    orientation: Orientation,
    /// Whether the format changes levels.
    is_lossy: bool,
    /// The colour of index 0, if the pixels are indices of a palette.
    first_colour: Option<[u8; 3]>,
    /// Whether the file is damaged but has all pixels.
    pub(super) is_mended: bool,
}

impl Stored {
    /// Reads an image file.
    ///
    /// # Errors
    /// As [`read`].
    pub fn read(path: &Path, max_pixels: u64) -> Result<Self, DecodeError> {
        Self::decode(&contents(path, max_pixels)?, max_pixels)
    }

    /// Reads an image file to be converted to these channels.
    ///
    /// # Errors
    /// As [`read`], and when its channels are stored ones and it has another number.
    pub(super) fn read_for(path: &Path, channels: Channels, max_pixels: u64) -> Result<Self, DecodeError> {
        let Channels::Stored(wanted) = channels else { return Self::read(path, max_pixels) };
        let stored = Self::read_planes(path, max_pixels)?;
        match stored.planes.len() {
            found if found == usize::from(wanted) => Ok(stored),
            found => Err(DecodeError::OtherChannels { found, wanted }),
        }
    }

    /// Reads an image file with each of its channels as a grey image.
    fn read_planes(path: &Path, max_pixels: u64) -> Result<Self, DecodeError> {
        Self::decode_by(&contents(path, max_pixels)?, |format, bytes| formats::planes(format, bytes, max_pixels))
    }

    /// Decodes the contents of a file.
    ///
    /// # Errors
    /// As [`read`].
    pub fn decode(bytes: &[u8], max_pixels: u64) -> Result<Self, DecodeError> {
        Self::decode_by(bytes, |format, bytes| {
            let (image, orientation) = formats::decode(format, bytes, max_pixels)?;
            Ok((vec![image], orientation))
        })
    }

    fn decode_by(
        bytes: &[u8],
        decode: impl Fn(ImageFormat, &[u8]) -> Result<(Vec<DynamicImage>, Orientation), DecodeError>,
    ) -> Result<Self, DecodeError> {
        if bytes.is_empty() {
            return Err(DecodeError::Empty);
        }
        let format = formats::format(bytes).ok_or(DecodeError::Unknown)?;
        // Some decoders panic on a few damaged files; such a file must not end a run.
        let decode = |bytes: &[u8]| {
            let decoded = catch_unwind(AssertUnwindSafe(|| decode(format, bytes)));
            decoded.unwrap_or_else(|_| Err(damaged("its decoder fails at it")))
        };
        let (variants, has_end) = mended(format, bytes);
        let (decoded, is_mended) = match decode(bytes) {
            Err(DecodeError::Damaged(reason)) => (alike(&variants, decode).ok_or(DecodeError::Damaged(reason))?, true),
            // The decoder fills a few missing bytes up.
            Ok(_) if !has_end => (alike(&variants, decode).ok_or_else(|| damaged("it has no end"))?, true),
            decoded => (decoded?, false),
        };
        let (planes, orientation) = decoded;
        let is_lossy = match format {
            ImageFormat::WebP => is_lossy_webp(bytes),
            format => format == ImageFormat::Jpeg,
        };
        Ok(Stored { planes, orientation, is_lossy, first_colour: first_colour(format, bytes), is_mended })
    }

    /// Width and height in pixels, before turning.
    pub fn size(&self) -> [u32; 2] {
        [self.planes[0].width(), self.planes[0].height()]
    }

    /// Width and height in pixels, after turning.
    pub fn upright_size(&self) -> [u32; 2] {
        turned(self.size(), self.orientation)
    }

    /// The image as it is shown: turned by its EXIF orientation, transparent pixels blended with white.
    ///
    /// # Errors
    /// When its pixels are floating-point numbers beyond 0 to 1.
    pub fn upright(self) -> Result<DynamicImage, DecodeError> {
        Ok(self.upright_planes()?.swap_remove(0))
    }

    /// As [`upright`](Self::upright), each plane.
    pub(super) fn upright_planes(self) -> Result<Vec<DynamicImage>, DecodeError> {
        let orientation = self.orientation;
        let upright = |plane| {
            let mut plane = opaque(plane)?;
            plane.apply_orientation(orientation);
            Ok(plane)
        };
        self.planes.into_iter().map(upright).collect()
    }

    /// Whether a mask marks a defect anywhere.
    pub(super) fn has_defects(&self) -> bool {
        self.defects(self).iter().any(|&defect| defect > 0)
    }

    /// The pixels of a mask that belong to a defect, 1, and the others, 0, turned like `image`, the mask's image, if both are stored
    /// with the same size and only the image has an orientation.
    pub fn defects(&self, image: &Stored) -> GrayImage {
        let pixels = self.planes[0].to_rgba16();
        let level = |pixel: &Rgba<u16>| pixel.0[..3].iter().copied().max().unwrap_or(0);
        let opaque = |pixel: &&Rgba<u16>| pixel.0[3] > 0;
        let brightest = pixels.pixels().filter(opaque).map(level).max().unwrap_or(0);
        let least = match brightest {
            0 if pixels.pixels().all(|pixel| opaque(&pixel)) => 1,
            0 => 0,
            _ if self.is_lossy => brightest / 2 + 1,
            _ => 1,
        };
        // A palette without black.
        let has_background = pixels.pixels().any(|pixel| !opaque(&pixel) || level(pixel) == 0);
        let first =
            self.first_colour.filter(|_| !has_background).map(|colour| colour.map(|level| u16::from(level) * 257));
        let is_first = |pixel: &Rgba<u16>| first.is_some_and(|first| pixel.0[..3] == first);
        let mut defects = DynamicImage::from(GrayImage::from_fn(pixels.width(), pixels.height(), |x, y| {
            let pixel = pixels.get_pixel(x, y);
            Luma([u8::from(opaque(&pixel) && level(pixel) >= least && !is_first(pixel))])
        }));
        let turns_along = self.orientation == Orientation::NoTransforms && self.size() == image.size();
        defects.apply_orientation(if turns_along { image.orientation } else { self.orientation });
        defects.into_luma8()
    }
}

/// The greatest level of a 16 bit image; `None` for 8 bit.
pub(super) fn brightest(image: &DynamicImage) -> Option<u16> {
    match image {
        DynamicImage::ImageLuma16(image) => image.iter().copied().max(),
        DynamicImage::ImageRgb16(image) => image.iter().copied().max(),
        _ => None,
    }
}

/// Blends transparent pixels with white. Floating-point levels become 16 bit.
fn opaque(image: DynamicImage) -> Result<DynamicImage, DecodeError> {
    let (width, height) = (image.width(), image.height());
    let opaque = match image {
        DynamicImage::ImageLumaA8(image) => {
            ImageBuffer::from_raw(width, height, over_white(&image, 2, |level| level as u8))
                .map(DynamicImage::ImageLuma8)
        }
        DynamicImage::ImageRgba8(image) => {
            ImageBuffer::from_raw(width, height, over_white(&image, 4, |level| level as u8))
                .map(DynamicImage::ImageRgb8)
        }
        DynamicImage::ImageLumaA16(image) => {
            ImageBuffer::from_raw(width, height, over_white(&image, 2, |level| level as u16))
                .map(DynamicImage::ImageLuma16)
        }
        DynamicImage::ImageRgba16(image) => {
            ImageBuffer::from_raw(width, height, over_white(&image, 4, |level| level as u16))
                .map(DynamicImage::ImageRgb16)
        }
        DynamicImage::ImageLuma8(_)
        | DynamicImage::ImageRgb8(_)
        | DynamicImage::ImageLuma16(_)
        | DynamicImage::ImageRgb16(_) => Some(image),
        image => return opaque(sixteen_bit(image)?),
    };
    opaque.ok_or_else(|| damaged("its pixels do not fill it"))
}

/// Floating-point levels from 0 to 1 as 16 bit ones; others are refused.
fn sixteen_bit(image: DynamicImage) -> Result<DynamicImage, DecodeError> {
    let pixels = image.into_rgba32f();
    if !pixels.iter().all(|level| (0.0..=1.0).contains(level)) {
        let levels = || pixels.pixels().flat_map(|pixel| &pixel.0[..3]).copied();
        let [least, most] = [levels().fold(f32::INFINITY, f32::min), levels().fold(f32::NEG_INFINITY, f32::max)];
        return Err(DecodeError::Levels { kind: "floating-point", least: least.into(), most: most.into(), white: 1 });
    }
    let is_grey = pixels.pixels().all(|pixel| pixel.0[..3].iter().all(|&level| level == pixel.0[0]));
    let deep = DynamicImage::from(pixels).into_rgba16();
    let grey = |x, y| LumaA([deep.get_pixel(x, y).0[0], deep.get_pixel(x, y).0[3]]);
    Ok(match is_grey {
        true => DynamicImage::ImageLumaA16(ImageBuffer::from_fn(deep.width(), deep.height(), grey)),
        false => deep.into(),
    })
}

/// Blends pixels of `channels` levels, the last of which is alpha, with white, and drops alpha.
fn over_white<T: Primitive + Into<f32>>(levels: &[T], channels: usize, level: fn(f32) -> T) -> Vec<T> {
    let white: f32 = T::DEFAULT_MAX_VALUE.into();
    let blend = |pixel: &[T]| -> Vec<T> {
        let (alpha, colours) = pixel.split_last().expect("a pixel has channels");
        let share: f32 = (*alpha).into() / white;
        colours.iter().map(|&colour| level((white + share * (colour.into() - white)).round())).collect()
    };
    levels.chunks_exact(channels).flat_map(blend).collect()
}

/// The way from the pixels of a converted image to those of the file's: origin + scale · pixel, for x and y.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Geometry {
    pub origin: [f64; 2],
    pub scale: [f64; 2],
}

impl Default for Conversion {
    /// Of images that are converted already.
    fn default() -> Self {
        let (size, resize) = (Size::square(1), Resize::default());
        Conversion { size, channels: Channels::Grey, resize, levels: Levels::FULL }
    }
}

impl Conversion {
    /// `[C, H, W]` of the result.
    pub fn image(&self) -> [usize; 3] {
        [self.channels.count(), self.size.height, self.size.width]
    }

    /// Converts an image to `[C, H, W]`, or one plane of it to `[H, W]` if each channel is stored, row-major. Levels are rounded to
    /// 16 bits, which 8 bit levels need not be.
    pub fn apply(&self, image: &DynamicImage) -> Vec<f32> {
        let fitted = self.fit(image);
        let centre = |plane: Vec<f32>| self.centre(plane, fitted.width() as usize, 0.0);
        let byte = |&level: &u8| f32::from(level) / 255.0;
        let round = |level: f32| (level * STEPS).round() / STEPS;
        let deep = |level: u16| round(self.levels.share(level));
        let luma = |rgb: [f32; 3]| round(rgb.iter().zip(LUMA).map(|(level, weight)| level * weight as f32).sum());
        let is_rgb = self.channels == Channels::Rgb;
        let copies = if is_rgb { 3 } else { 1 };
        match &fitted {
            DynamicImage::ImageLuma8(grey) => centre(grey.iter().map(byte).collect()).repeat(copies),
            DynamicImage::ImageLuma16(grey) => centre(grey.iter().map(|&level| deep(level)).collect()).repeat(copies),
            DynamicImage::ImageRgb16(rgb) if !is_rgb => {
                centre(rgb.pixels().map(|pixel| luma(pixel.0.map(|level| self.levels.share(level)))).collect())
            }
            DynamicImage::ImageRgb16(rgb) => (0..3)
                .flat_map(|channel| centre(rgb.iter().skip(channel).step_by(3).map(|&level| deep(level)).collect()))
                .collect(),
            other if !is_rgb => {
                centre(other.to_rgb8().pixels().map(|pixel| luma(pixel.0.map(|level| byte(&level)))).collect())
            }
            other => {
                let rgb = other.to_rgb8();
                (0..3).flat_map(|channel| centre(rgb.iter().skip(channel).step_by(3).map(byte).collect())).collect()
            }
        }
    }

    /// Converts the [`defects`](Stored::defects) of a mask like its image, to its size, row by row. Of the pixels that a defect
    /// covers whole and those up to two beside them, as many are marked as it covers in sum, those that it covers most. Elsewhere it is
    /// thin, and every pixel that it touches is marked, so no part of a defect is lost.
    pub fn apply_mask(&self, defects: &GrayImage) -> Vec<bool> {
        let ([left, top, width, height], [columns, rows]) = self.frame(defects.width(), defects.height());
        let [width, height, columns, rows] = [width, height, columns, rows].map(|extent| extent as usize);
        let mut covered = vec![0; columns * rows];
        for y in 0..height {
            let mut line = vec![0; columns];
            for x in (0..width).filter(|&x| defects.get_pixel(left + x as u32, top + y as u32).0[0] > 0) {
                overlaps(x, width, columns).for_each(|(column, part)| line[column] += part);
            }
            for (row, part) in overlaps(y, height, rows) {
                let row = &mut covered[row * columns..][..columns];
                row.iter_mut().zip(&line).for_each(|(sum, share)| *sum += part * share);
            }
        }
        let whole = width as u64 * height as u64;
        let mut marked = vec![false; columns * rows];
        let mut wide: Vec<usize> = Vec::new();
        for cell in (0..covered.len()).filter(|&cell| covered[cell] > 0) {
            let (row, column) = (cell / columns, cell % columns);
            let mut around = (row.saturating_sub(2)..rows.min(row + 3))
                .flat_map(|row| (column.saturating_sub(2)..columns.min(column + 3)).map(move |column| (row, column)));
            match around.any(|(row, column)| covered[row * columns + column] == whole) {
                true => wide.push(cell),
                false => marked[cell] = true,
            }
        }
        let area = wide.iter().map(|&cell| covered[cell]).sum::<u64>();
        let area = (area + whole / 2) / whole;
        wide.sort_by_key(|&cell| Reverse(covered[cell]));
        wide.into_iter().take(area as usize).for_each(|cell| marked[cell] = true);
        self.centre(marked, columns, false)
    }

    /// The part of an image that is used, `[left, top, width, height]`, and the width and height to which it is scaled; for a
    /// letterbox, one of them may be less than that of the size.
    fn frame(&self, width: u32, height: u32) -> ([u32; 4], [u32; 2]) {
        let target = [self.size.width as u32, self.size.height as u32];
        let whole = [0, 0, width, height];
        // An extent times a fraction, rounded, and at least a pixel.
        let times = |extent: u32, over: u32, under: u32| {
            let exact = u64::from(extent) * u64::from(over);
            ((exact + u64::from(under) / 2) / u64::from(under)).max(1) as u32
        };
        let is_wide = u64::from(width) * u64::from(target[1]) >= u64::from(height) * u64::from(target[0]);
        match self.resize {
            Resize::Stretch => (whole, target),
            Resize::Crop => {
                let [width_of, height_of] = match is_wide {
                    true => [times(target[0], height, target[1]).min(width), height],
                    false => [width, times(target[1], width, target[0]).min(height)],
                };
                ([(width - width_of) / 2, (height - height_of) / 2, width_of, height_of], target)
            }
            Resize::Letterbox if is_wide => (whole, [target[0], times(height, target[0], width).min(target[1])]),
            Resize::Letterbox => (whole, [times(width, target[1], height).min(target[0]), target[1]]),
        }
    }

    /// Where the pixels of a converted image were in an image of this width and height.
    pub fn geometry(&self, [width, height]: [u32; 2]) -> Geometry {
        let ([left, top, width, height], [columns, rows]) = self.frame(width, height);
        let margin = |whole: usize, part: u32| f64::from((whole as u32 - part) / 2);
        let scale = [f64::from(width) / f64::from(columns), f64::from(height) / f64::from(rows)];
        let [x, y] = [margin(self.size.width, columns), margin(self.size.height, rows)];
        Geometry { origin: [f64::from(left) - x * scale[0], f64::from(top) - y * scale[1]], scale }
    }

    /// Crops and scales an image to its [frame](Self::frame).
    fn fit(&self, image: &DynamicImage) -> DynamicImage {
        let size = [image.width(), image.height()];
        let ([left, top, width, height], target) = self.frame(size[0], size[1]);
        let cropped = ([width, height] != size).then(|| image.crop_imm(left, top, width, height));
        let image = cropped.as_ref().unwrap_or(image);
        match [width, height] == target {
            true => image.clone(),
            false => image.resize_exact(target[0], target[1], FilterType::Triangle),
        }
    }

    /// Centres rows of `width` values in an image of the size, surrounded by `around`.
    fn centre<T: Copy>(&self, values: Vec<T>, width: usize, around: T) -> Vec<T> {
        let (size, height) = (self.size, values.len() / width);
        if (width, height) == (size.width, size.height) {
            return values;
        }
        let (left, top) = ((size.width - width) / 2, (size.height - height) / 2);
        let mut whole = vec![around; size.pixels()];
        for (y, row) in values.chunks_exact(width).enumerate() {
            let start = (top + y) * size.width + left;
            whole[start..start + width].copy_from_slice(row);
        }
        whole
    }
}

/// The cells that a pixel overlaps when a line of `pixels` pixels is divided into `cells` cells, each with the length of the overlap;
/// a cell has the length `pixels`.
fn overlaps(pixel: usize, pixels: usize, cells: usize) -> impl Iterator<Item = (usize, u64)> {
    let (start, end) = (pixel * cells, (pixel + 1) * cells);
    (start / pixels..=(end - 1) / pixels)
        .map(move |cell| (cell, (end.min((cell + 1) * pixels) - start.max(cell * pixels)) as u64))
}

impl Channels {
    /// Number of channels.
    ///
    /// # Panics
    /// For [`Channels::All`], whose number the first image tells.
    pub fn count(self) -> usize {
        match self {
            Channels::Grey => 1,
            Channels::Rgb => 3,
            Channels::All => panic!("the number of channels is not known before an image is read"),
            Channels::Stored(count) => count.into(),
        }
    }

    /// The channels of this image file; `None` if it cannot be read.
    pub(super) fn stored(path: &Path, max_pixels: u64) -> Option<Self> {
        let planes = Stored::read_planes(path, max_pixels).ok()?.planes.len();
        Some(Channels::Stored(planes.min(MOST_CHANNELS.into()) as u8))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::ImageEncoder;

    const GREY: Conversion =
        Conversion { size: Size::square(4), channels: Channels::Grey, resize: Resize::Stretch, levels: Levels::FULL };

    /// 8×4 pixels, black but for a white column on the left and another on the right.
    fn wide() -> DynamicImage {
        GrayImage::from_fn(8, 4, |x, _| Luma([if x == 0 || x == 7 { 255 } else { 0 }])).into()
    }

    fn rows(values: &[f32]) -> Vec<&[f32]> {
        values.chunks_exact(4).collect()
    }

    #[test]
    fn stretching_keeps_the_whole_image_and_cropping_its_proportions() {
        let stretched = GREY.apply(&wide());
        assert!(rows(&stretched).iter().all(|row| row[0] > 0.3 && row[3] > 0.3 && row[1] < 0.2), "{stretched:?}");
        let cropped = Conversion { resize: Resize::Crop, ..GREY }.apply(&wide());
        assert_eq!(cropped, [0.0; 16]);
        let tall = wide().rotate90();
        assert_eq!(Conversion { resize: Resize::Crop, ..GREY }.apply(&tall), [0.0; 16]);
    }

    #[test]
    fn a_letterbox_is_black_above_and_below() {
        let white = DynamicImage::from(GrayImage::from_pixel(8, 4, Luma([255])));
        let boxed = Conversion { resize: Resize::Letterbox, ..GREY };
        assert_eq!(boxed.apply(&white), [[0.0; 4], [1.0; 4], [1.0; 4], [0.0; 4]].as_flattened());
        assert_eq!(rows(&boxed.apply(&white.rotate90())), [[0.0, 1.0, 1.0, 0.0]; 4]);
        let thin = DynamicImage::from(GrayImage::from_pixel(1000, 1, Luma([255])));
        assert_eq!(boxed.apply(&thin).iter().sum::<f32>(), 4.0, "a line is left of it");
        let colours = Conversion { channels: Channels::Rgb, ..boxed };
        assert_eq!(colours.apply(&white).len(), 48);
    }

    /// A chessboard becomes grey at any reduction: nothing is aliased.
    #[test]
    fn reduction_averages_pixels() {
        let chessboard = GrayImage::from_fn(256, 256, |x, y| Luma([if (x + y) % 2 == 0 { 255 } else { 0 }]));
        for level in GREY.apply(&chessboard.into()) {
            assert!((level - 0.5).abs() < 0.01, "{level}");
        }
    }

    #[test]
    fn a_mask_is_converted_like_its_image() {
        let mask = wide().into_luma8();
        let stretched = GREY.apply_mask(&mask);
        assert_eq!(stretched, [[true, false, false, true]; 4].as_flattened());
        assert_eq!(Conversion { resize: Resize::Crop, ..GREY }.apply_mask(&mask), [false; 16]);
        let boxed = Conversion { resize: Resize::Letterbox, ..GREY };
        let full = GrayImage::from_pixel(8, 4, Luma([1]));
        let rows = [[false; 4], [true; 4], [true; 4], [false; 4]];
        assert_eq!(boxed.apply_mask(&full), rows.as_flattened());
        assert_eq!(boxed.apply_mask(&GrayImage::new(8, 4)), [false; 16]);
    }

    fn png(levels: &[u8], colour: image::ExtendedColorType) -> Vec<u8> {
        let mut bytes = Vec::new();
        image::codecs::png::PngEncoder::new(&mut bytes).write_image(levels, 1, 1, colour).unwrap();
        bytes
    }

    #[test]
    fn transparency_is_blended_with_white() {
        let pixel = |levels: &[u8], colour| decode(&png(levels, colour), 1).unwrap();
        let half = pixel(&[0, 100, 255, 128], image::ExtendedColorType::Rgba8);
        assert_eq!(half.into_rgb8().get_pixel(0, 0).0, [127, 177, 255]);
        assert_eq!(pixel(&[0, 0], image::ExtendedColorType::La8).into_luma8().get_pixel(0, 0).0, [255]);
        let deep = [[0x80, 0x00], [0x12, 0x34], [0, 0], [0xff, 0xff]].concat();
        let levels: Vec<u8> = deep.chunks_exact(2).flat_map(|pair| [pair[1], pair[0]]).collect();
        let DynamicImage::ImageRgb16(deep) = pixel(&levels, image::ExtendedColorType::Rgba16) else {
            panic!("16 bit stay 16 bit");
        };
        assert_eq!(deep.get_pixel(0, 0).0, [0x8000, 0x1234, 0]);
        let opaque: DynamicImage = image::RgbaImage::from_pixel(1, 1, Rgba([9, 8, 7, 255])).into();
        assert_eq!(super::opaque(opaque).unwrap().into_rgb8().get_pixel(0, 0).0, [9, 8, 7]);
    }

    #[test]
    fn sixteen_bits_keep_their_precision() {
        let deep = ImageBuffer::from_fn(4, 4, |x, _| Luma([257 * x as u16 + 1]));
        let levels = GREY.apply(&DynamicImage::ImageLuma16(deep));
        assert_eq!(levels[..4], [0u16, 1, 2, 3].map(|x| f32::from(257 * x + 1) / 65_535.0));
    }

    #[test]
    fn levels_are_black_and_white_as_set() {
        let deep = DynamicImage::ImageLuma16(ImageBuffer::from_fn(4, 4, |x, _| Luma([100 * x as u16])));
        let of = |levels: &str| Conversion { levels: levels.parse().unwrap(), ..GREY }.apply(&deep)[..4].to_vec();
        assert_eq!(of("300"), [0.0, 100.0 / 300.0, 200.0 / 300.0, 1.0]);
        assert_eq!(of("100, 200"), [0.0, 0.0, 1.0, 1.0]);
        let shallow = DynamicImage::from(GrayImage::from_fn(4, 4, |x, _| Luma([x as u8])));
        let small = Conversion { levels: Levels::Between(1, 2), ..GREY };
        assert_eq!(small.apply(&shallow), GREY.apply(&shallow));
        for wrong in ["", "full", "0", "-1", "65536", "5,5", "6,5", "1,2,3", "1.5"] {
            assert!(wrong.parse::<Levels>().unwrap_err().contains("auto"), "{wrong}");
        }
        for (brightest, white) in [(0, 255), (255, 255), (256, 511), (1023, 1023), (2400, 4095), (65_535, 65_535)] {
            assert_eq!(Levels::up_to(Some(brightest)), Levels::Between(0, white), "{brightest}");
        }
        assert_eq!(Levels::up_to(None), Levels::FULL);
        assert_eq!(Levels::Between(3, 9).to_string().parse(), Ok(Levels::Between(3, 9)));
    }

    #[test]
    fn settings_are_texts_or_numbers_in_toml() {
        fn read<T: serde::de::DeserializeOwned>(value: impl Into<toml::Value>) -> Result<T, String> {
            value.into().try_into().map_err(|error| error.to_string())
        }
        assert_eq!((read(5), read("5")), (Ok(Channels::Stored(5)), Ok(Channels::Stored(5))));
        assert_eq!((read(4095), read("auto")), (Ok(Levels::Between(0, 4095)), Ok(Levels::Auto)));
        assert_eq!((read(64), read("64,64"), read("64,32")), {
            (Ok(Size::square(64)), Ok(Size::square(64)), Ok(Size { height: 64, width: 32 }))
        });
        assert!(read::<Channels>(9).unwrap_err().contains("it must be grey, rgb, all, or a number"));
        assert!(read::<Size>(-1).unwrap_err().contains("it must be a side"));
        assert!(read::<Levels>(70_000).unwrap_err().contains("it must be auto"));
        assert!(read::<Channels>(true).unwrap_err().contains("expected `grey`, `rgb`, `all`, or a number of channels"));
        assert_eq!(toml::Value::try_from(Size::square(64)), Ok(64.into()));
        assert_eq!(toml::Value::try_from(Channels::Stored(5)), Ok("5".into()));
    }

    #[test]
    fn a_folder_is_not_an_image() {
        let error = read(Path::new(env!("CARGO_MANIFEST_DIR")), MAX_PIXELS).unwrap_err().to_string();
        assert!(error.contains("is a folder") || error.contains("cannot be read"), "{error}");
    }
}
