//! Heat maps of scored images in a folder: for people as overlays, for programs as arrays.

use std::path::{Path, PathBuf};

use image::ImageFormat;

use super::ReportError;
use super::samples::{paint, scaled};
use super::strips::{Stems, overlay, range};
use crate::engine::tensor::Tensor;
use crate::run::claim::{Claim, ClaimError, Owner};
use crate::run::disk;

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

    /// Writes the maps `heat` `[N, 1, H, W]` of `images` `[N, C, H, W]`, which are called `names`, and returns the paths of the
    /// overlays. Colours go from blue, the smallest value in the first call, to red, the largest there, so that images can be compared.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&mut self, names: &[String], images: &Tensor, heat: &Tensor) -> Result<Vec<PathBuf>, ReportError> {
        let [count, c, h, w] = images.shape().images().expect("a batch of images");
        assert_eq!((names.len(), heat.shape().count()), (count, count * h * w), "a name and a map for each image");
        let range = *self.range.get_or_insert_with(|| range(heat.data()));
        let rows = images.data().chunks_exact(c * h * w).zip(heat.data().chunks_exact(h * w));
        let mut overlays = Vec::new();
        for (name, (image, heat)) in names.iter().zip(rows) {
            let stem = self.stems.unique("", name);
            let shown = scaled(&overlay(&paint(image, [c, h, w]), heat, range), SIDE);
            let mut png = std::io::Cursor::new(Vec::new());
            let encoded = shown.write_to(&mut png, ImageFormat::Png);
            encoded.map_err(|error| ReportError::Encode { file: "an overlay", source: error.into() })?;
            let overlay = self.put(&format!("overlays/{stem}.png"), png.get_ref())?;
            self.put(&format!("values/{stem}.npy"), &npy(heat, [h, w]))?;
            overlays.push(overlay);
        }
        Ok(overlays)
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<PathBuf, ReportError> {
        let path = self.claim.path().join(name);
        let folder = disk::folder_of(&path);
        let failed = |source| ReportError::Write { path: path.clone(), source };
        std::fs::create_dir_all(folder).map_err(failed)?;
        disk::write(&path, bytes).map_err(failed)?;
        Ok(path)
    }
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
        let images = Tensor::full([2, 1, 1, 2], 0.0);
        let names = ["a/1.png", "b/1.png"].map(str::to_owned);
        let first = Tensor::new([2, 1, 1, 2], vec![0.0, 1.0, 1.0, 1.0]);
        let written = maps.write(&names, &images, &first).unwrap();
        assert_eq!(written, ["overlays/1.png", "overlays/1-2.png"].map(|name| folder.join(name)));
        // A later map that is hotter has the colour of the hottest.
        let later =
            maps.write(&["c.png".to_owned()], &Tensor::full([1, 1, 1, 2], 0.0), &Tensor::full([1, 1, 1, 2], 9.0));
        let corner = |path: &Path| image::open(path).unwrap().into_rgb8().get_pixel(0, 0).0;
        assert_eq!(corner(&later.unwrap()[0]), corner(&written[1]));
        assert_ne!(corner(&written[0]), corner(&written[1]));
        assert!(folder.join("values/1-2.npy").is_file());
        drop(maps);
        HeatMaps::claim(&folder).unwrap();

        let foreign = tempfile::tempdir().unwrap();
        std::fs::create_dir(foreign.path().join("values")).unwrap();
        assert!(HeatMaps::claim(foreign.path()).unwrap_err().to_string().contains("values"));
    }
}
