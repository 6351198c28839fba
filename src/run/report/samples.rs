//! `pictures.png`: rows of images, as the detector sees them.

use std::error::Error;
use std::io::Cursor;

use image::imageops::{self, FilterType};
use image::{ImageFormat, Rgb, RgbImage};
use kuva::RasterBackend;
use kuva::render::render::{Primitive, Scene, TextAnchor};

use crate::engine::tensor::Tensor;

/// Approximate side of an image on the sheet, in pixels.
const SIDE: u32 = 104;
const GAP: u32 = 10;
const MARGIN: u32 = 24;
/// Space above a row for its title, and below it for the scores.
const TITLE: u32 = 34;
const SCORES: u32 = 20;

/// A row of images under a title.
#[derive(Clone, Copy, Debug)]
pub struct ImageRow<'a> {
    /// Written above the row.
    pub title: &'a str,
    /// Grey or RGB `[N, 1 or 3, H, W]`, from black 0 to white 1; other values are clamped.
    pub images: &'a Tensor,
    /// Anomaly scores to write below the first images; may be empty.
    pub scores: &'a [f64],
}

/// A PNG of the rows on white.
pub(super) fn draw(rows: &[ImageRow]) -> Result<Vec<u8>, Box<dyn Error + Send + Sync>> {
    let rows: Vec<(&ImageRow, Vec<RgbImage>)> = rows.iter().map(|row| (row, enlarged(row.images))).collect();
    let size = |of: fn(&RgbImage) -> u32| rows.iter().flat_map(|(_, images)| images).map(of).max().unwrap_or(SIDE);
    let (side, height) = (size(RgbImage::width), size(RgbImage::height));
    let longest = rows.iter().map(|(_, images)| images.len() as u32).max().expect("a sheet has rows");
    let pitch = |row: &ImageRow| TITLE + height + if row.scores.is_empty() { 0 } else { SCORES };

    // The text is drawn first, in the font of the plots; then the images are copied into the pixels.
    let width = 2 * MARGIN + longest * (side + GAP) - GAP;
    let tall = 2 * MARGIN - GAP + rows.iter().map(|(row, _)| pitch(row)).sum::<u32>();
    let mut text = Scene::new(f64::from(width), f64::from(tall)).with_background(Some("white"));
    let mut placed = Vec::new();
    let mut top = MARGIN - GAP;
    for (row, images) in rows {
        text.add(write(MARGIN, top + TITLE - 11, 16, TextAnchor::Start, row.title.into()));
        for (column, image) in images.into_iter().enumerate() {
            let left = MARGIN + column as u32 * (side + GAP);
            if let Some(score) = row.scores.get(column) {
                let (middle, baseline) = (left + side / 2, top + TITLE + height + 15);
                text.add(write(middle, baseline, 13, TextAnchor::Middle, format!("{score:.2}")));
            }
            placed.push((image, left, top + TITLE));
        }
        top += pitch(row);
    }
    compose(&text, &placed)
}

/// A PNG of the text, with each image copied to its (left, top).
pub(super) fn compose(text: &Scene, images: &[(RgbImage, u32, u32)]) -> Result<Vec<u8>, Box<dyn Error + Send + Sync>> {
    let drawn = RasterBackend::new().with_scale(1.0).render_scene(text)?;
    let mut sheet = image::load_from_memory_with_format(&drawn, ImageFormat::Png)?.into_rgb8();
    for (image, left, top) in images {
        imageops::replace(&mut sheet, image, (*left).into(), (*top).into());
    }
    let mut bytes = Cursor::new(Vec::new());
    sheet.write_to(&mut bytes, ImageFormat::Png)?;
    Ok(bytes.into_inner())
}

/// Text with its baseline at `y`.
pub(super) fn write(x: u32, y: u32, size: u32, anchor: TextAnchor, content: String) -> Primitive {
    let colour = Some("#222222".into());
    Primitive::Text { x: x.into(), y: y.into(), content, size, anchor, rotate: None, bold: false, color: colour }
}

/// The images at about [`SIDE`].
fn enlarged(images: &Tensor) -> Vec<RgbImage> {
    let [_, channels, height, width] = images.shape().images().expect("images have four axes");
    let pixels = images.data().chunks_exact(channels * height * width);
    pixels.map(|pixels| scaled(&paint(pixels, [channels, height, width]), SIDE)).collect()
}

/// The pixels of one image `[C, H, W]`, from black 0 to white 1; other values are clamped. The first channel is shown as grey, or the
/// first three as RGB.
pub(super) fn paint(pixels: &[f32], [channels, height, width]: [usize; 3]) -> RgbImage {
    let shown = if channels < 3 { 1 } else { 3 };
    RgbImage::from_fn(width as u32, height as u32, |x, y| {
        let level = |channel: usize| {
            let value = pixels[(channel % shown * height + y as usize) * width + x as usize];
            (255.0 * value.clamp(0.0, 1.0)).round() as u8
        };
        Rgb([level(0), level(1), level(2)])
    })
}

/// Scales an image so that its longer side is about `side`: a small image by a whole factor, so that its pixels stay sharp. An
/// image of less than twice the side keeps its size.
pub(super) fn scaled(image: &RgbImage, side: u32) -> RgbImage {
    let (w, h) = image.dimensions();
    let longer = w.max(h);
    let (target, filter) = match (f64::from(side) / f64::from(longer)).round() as u32 {
        0 => ((w * side / longer, h * side / longer), FilterType::Triangle),
        factor => ((w * factor, h * factor), FilterType::Nearest),
    };
    imageops::resize(image, target.0.max(1), target.1.max(1), filter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_enlarged_by_whole_factors() {
        for (side, expected) in [(28, 112), (32, 96), (64, 128), (128, 128), (256, 104)] {
            assert_eq!(
                enlarged(&Tensor::full([2, 1, side, side], 0.5))[1].dimensions(),
                (expected, expected),
                "{side}"
            );
        }
        let colours = Tensor::new([1, 3, 1, 2], vec![0.0, 1.0, 2.0, -1.0, 0.5, 0.0]);
        let image = &enlarged(&colours)[0];
        assert_eq!(image.dimensions(), (104, 52));
        assert_eq!((image.get_pixel(0, 0).0, image.get_pixel(103, 51).0), ([0, 255, 128], [255, 0, 0]));
    }

    #[test]
    fn a_sheet_shows_its_images_on_white() {
        let (black, score) = (Tensor::full([3, 1, 28, 28], 0.0), [1.5, f64::NAN]);
        let rows = [
            ImageRow { title: "normal", images: &black, scores: &score },
            ImageRow { title: "augmented", images: &black, scores: &[] },
        ];
        let sheet = image::load_from_memory(&draw(&rows).unwrap()).unwrap().into_rgb8();
        assert_eq!(sheet.get_pixel(0, 0).0, [255; 3]);
        let black_pixels = sheet.pixels().filter(|pixel| pixel.0 == [0; 3]).count();
        assert_eq!(black_pixels, 6 * 112 * 112);
    }
}
