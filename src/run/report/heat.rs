//! Heat maps of scored images in a folder: for people as overlays, for programs as arrays.

use std::path::{Path, PathBuf};

use image::{DynamicImage, GrayImage, ImageFormat, Luma};

use super::ReportError;
use super::samples::{paint, scaled};
use super::strips::{Stems, overlay, range};
use crate::data::{Geometry, Raster};
use crate::run::claim::{Claim, ClaimError, Owner};
use crate::run::store;
use crate::training::pixels::regions;

/// What `stssad predict --maps` writes.
const OWNER: Owner = Owner { command: "predict", files: &["overlays", "values"] };

/// Approximate longer side of an overlay in pixels; a smaller image is enlarged.
const SIDE: u32 = 384;

/// A folder of heat maps: `overlays/NAME.png` shows an image as the detector sees it under its map, and `values/NAME.npy` has the
/// map's values, `[H, W]` in f32.
#[derive(Debug)]
pub struct HeatMaps {
    claim: Claim,
    stems: Stems,
    /// Of the first images; the colours of all span it.
    range: Option<(f32, f32)>,
}

impl HeatMaps {
    /// Claims a folder, or makes it.
    ///
    /// # Errors
    /// When it belongs to another command, holds files of these names that stssad did not write, or cannot be written to.
    pub fn claim(folder: &Path) -> Result<Self, ClaimError> {
        Ok(HeatMaps { claim: Claim::take(folder, OWNER)?, stems: Stems::default(), range: None })
    }

    /// Writes the map of an image, both of one size, and returns the path of the overlay. Colours go from blue, the smallest value of
    /// `first`, to red, the largest there, so that images can be compared; only the `first` of the first call counts.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&mut self, name: &str, image: &Raster, heat: &Raster, first: &[f32]) -> Result<PathBuf, ReportError> {
        let [_, h, w] = heat.extents;
        assert_eq!(image.extents[1..], [h, w], "a map of the image's size");
        let range = *self.range.get_or_insert_with(|| range(first));
        let stem = self.stems.unique("", name);
        // A small image is enlarged; no pixel of a large one is lost.
        let side = SIDE.max(h.max(w) as u32);
        let shown = scaled(&overlay(&paint(&image.values, image.extents), &heat.values, range), side);
        let overlay = put(&self.claim, &format!("overlays/{stem}.png"), &png(&shown.into())?)?;
        put(&self.claim, &format!("values/{stem}.npy"), &npy(&heat.values, [h, w]))?;
        Ok(overlay)
    }
}

/// What `stssad predict --masks` writes.
const MASKS: Owner = Owner { command: "predict", files: &["masks"] };

/// A folder of masks: `masks/NAME.png` has the size of the image file; white pixels belong to a defect.
#[derive(Debug)]
pub struct Masks {
    claim: Claim,
    stems: Stems,
}

/// The pixels of a map that belong to a defect are those with at least this share of its greatest value.
const SHARE: f32 = 0.5;

impl Masks {
    /// Claims a folder, or makes it.
    ///
    /// # Errors
    /// As [`HeatMaps::claim`].
    pub fn claim(folder: &Path) -> Result<Self, ClaimError> {
        Ok(Masks { claim: Claim::take(folder, MASKS)?, stems: Stems::default() })
    }

    /// Writes the mask of an image file of this width and height, and returns its path and the bounding boxes of its parts, each
    /// `[left, top, width, height]` in pixels of the file, the largest first. It marks where the map is at least half of its greatest
    /// value if the image is an anomaly, and nothing otherwise. `geometry` says where the map's pixels are in the file.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(
        &mut self,
        name: &str,
        heat: &Raster,
        is_anomaly: bool,
        [width, height]: [u32; 2],
        geometry: Geometry,
    ) -> Result<(PathBuf, Vec<[u32; 4]>), ReportError> {
        let [_, h, w] = heat.extents;
        let greatest = heat.values.iter().copied().fold(0.0, f32::max);
        let marked: Vec<bool> =
            heat.values.iter().map(|&value| is_anomaly && greatest > 0.0 && value >= SHARE * greatest).collect();
        let Geometry { origin, scale } = geometry;
        let inside = |pixel: u32, axis: usize, extent: usize| {
            let at = ((f64::from(pixel) + 0.5 - origin[axis]) / scale[axis]).floor();
            (0.0..extent as f64).contains(&at).then_some(at as usize)
        };
        let mask = GrayImage::from_fn(width, height, |x, y| {
            let is_marked = inside(x, 0, w).zip(inside(y, 1, h)).is_some_and(|(x, y)| marked[y * w + x]);
            Luma([if is_marked { 255 } else { 0 }])
        });
        let stem = self.stems.unique("", name);
        let path = put(&self.claim, &format!("masks/{stem}.png"), &png(&mask.into())?)?;
        let limits = [width, height];
        let placed = |[left, top, right, bottom]: [usize; 4]| {
            let at = |pixel: usize, axis: usize| {
                // The first pixel whose centre is not before the edge.
                let place = (origin[axis] + scale[axis] * pixel as f64 - 0.5).ceil();
                place.clamp(0.0, f64::from(limits[axis])) as u32
            };
            let [left, top, right, bottom] = [at(left, 0), at(top, 1), at(right, 0), at(bottom, 1)];
            [left, top, right - left, bottom - top]
        };
        let boxes = parts(&marked, w).into_iter().map(placed).filter(|[_, _, width, height]| width * height > 0);
        Ok((path, boxes.collect()))
    }
}

/// The bounding boxes, left, top, right and bottom, of the connected parts of a mask, those with the most pixels first.
fn parts(marked: &[bool], width: usize) -> Vec<[usize; 4]> {
    let bounds = |region: Vec<usize>| {
        region.into_iter().fold([usize::MAX, usize::MAX, 0, 0], |[left, top, right, bottom], pixel| {
            let (x, y) = (pixel % width, pixel / width);
            [left.min(x), top.min(y), right.max(x + 1), bottom.max(y + 1)]
        })
    };
    regions(marked, width).into_iter().map(bounds).collect()
}

fn png(image: &DynamicImage) -> Result<Vec<u8>, ReportError> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let encoded = image.write_to(&mut bytes, ImageFormat::Png);
    encoded.map_err(|error| ReportError::Encode { file: "a PNG", source: error.into() })?;
    Ok(bytes.into_inner())
}

fn put(claim: &Claim, name: &str, bytes: &[u8]) -> Result<PathBuf, ReportError> {
    let path = claim.path().join(name);
    let failed = |source| ReportError::Write { path: path.clone(), source };
    std::fs::create_dir_all(store::folder_of(&path)).map_err(failed)?;
    store::write(&path, bytes).map_err(failed)?;
    Ok(path)
}

/// A matrix in NumPy's format, version 1.0: magic bytes, the length of the header, a Python dictionary padded so that the numbers
/// begin at a multiple of 64 bytes, and the numbers row by row.
fn npy(values: &[f32], [rows, columns]: [usize; 2]) -> Vec<u8> {
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {columns}), }}");
    let length = (10 + header.len() + 1).next_multiple_of(64) - 10;
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((length as u16).to_le_bytes());
    bytes.extend(format!("{header:<width$}\n", width = length - 1).bytes());
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_array_is_as_numpy_writes_it() {
        let bytes = npy(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [2, 3]);
        assert_eq!(bytes.len(), 128 + 24);
        assert_eq!(&bytes[..10], b"\x93NUMPY\x01\x00\x76\x00");
        let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }";
        assert_eq!(&bytes[10..10 + header.len()], header.as_bytes());
        assert!(bytes[10 + header.len()..127].iter().all(|&byte| byte == b' ') && bytes[127] == b'\n');
        assert_eq!(&bytes[132..136], 2.0f32.to_le_bytes());
    }

    #[test]
    fn maps_have_one_range_and_names_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("maps");
        let mut maps = HeatMaps::claim(&folder).unwrap();
        let raster = |values: [f32; 2]| Raster { extents: [1, 1, 2], values: values.into() };
        let mut write = |name: &str, heat: [f32; 2], first: &[f32]| {
            maps.write(name, &raster([0.0; 2]), &raster(heat), first).unwrap()
        };
        let first = [0.0, 1.0, 1.0, 1.0];
        let written = [write("a/1.png", [0.0, 1.0], &first), write("b/1.png", [1.0, 1.0], &first)];
        assert_eq!(written, ["overlays/1.png", "overlays/1-2.png"].map(|name| folder.join(name)));
        // A later map that is hotter has the colour of the hottest.
        let later = write("c.png", [9.0, 9.0], &[9.0, 9.0]);
        let corner = |path: &Path| image::open(path).unwrap().into_rgb8().get_pixel(0, 0).0;
        assert_eq!(corner(&later), corner(&written[1]));
        assert_ne!(corner(&written[0]), corner(&written[1]));
        assert!(folder.join("values/1-2.npy").is_file());
        drop(maps);
        HeatMaps::claim(&folder).unwrap();

        let foreign = tempfile::tempdir().unwrap();
        std::fs::create_dir(foreign.path().join("values")).unwrap();
        assert!(HeatMaps::claim(foreign.path()).unwrap_err().to_string().contains("values"));
    }

    /// A map of 4×2 pixels of an image of 100×60, cropped to its middle 80×40.
    #[test]
    fn masks_and_boxes_are_in_pixels_of_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let mut masks = Masks::claim(folder.path()).unwrap();
        let heat = Raster { extents: [1, 2, 4], values: vec![8.0, 1.0, 1.0, 4.0, 8.0, 1.0, 3.9, 1.0] };
        let geometry = Geometry { origin: [10.0, 10.0], scale: [20.0, 20.0] };
        let mut write = |is_anomaly| masks.write("a.png", &heat, is_anomaly, [100, 60], geometry).unwrap();
        let (path, boxes) = write(true);
        assert_eq!(boxes, [[10, 10, 20, 40], [70, 10, 20, 20]]);
        let mask = image::open(&path).unwrap().into_luma8();
        assert_eq!(mask.dimensions(), (100, 60));
        let white = |[left, top, width, height]: [u32; 4]| {
            (left..left + width).all(|x| (top..top + height).all(|y| mask.get_pixel(x, y).0[0] == 255))
        };
        assert!(boxes.into_iter().all(white));
        assert_eq!(mask.iter().filter(|&&level| level > 0).count(), 20 * 40 + 20 * 20);
        let (path, boxes) = write(false);
        assert!(boxes.is_empty() && image::open(path).unwrap().into_luma8().iter().all(|&level| level == 0));
        // Diagonal neighbours belong together.
        assert_eq!(parts(&[true, false, false, false, true, false, false, false, true], 3), [[0, 0, 3, 3]]);
        assert_eq!(parts(&[true, false, true, true, false, false], 3), [[0, 0, 1, 2], [2, 0, 3, 1]]);
    }
}
