//! Sheets, which are images of square tiles of one class without gaps; and the packaged digits, which are such sheets.

use std::path::{Path, PathBuf};

use image::DynamicImage;
use serde::{Deserialize, Serialize};

use super::decode::{self, Channels, Conversion, DecodeError};
use super::files::LeftOut;
use super::images::Origin;
use super::source::Listed;
use super::{BadImage, DataError, Images, Loading, Set, Task};

/// Two sheets of tiles. Unless the loading sets other numbers, a fifth of the normal tiles is kept for the test, with as many
/// anomalies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sheet {
    /// Image of the normal tiles.
    pub normal: PathBuf,
    /// Image of the anomalous tiles.
    pub anomaly: PathBuf,
    /// Side of a tile, in pixels.
    pub tile: usize,
}

/// The packaged handwritten digits: 500 images of 28×28 pixels for each of 0, 1, 2, 3, 5, 6 and 9; drawn like sheets.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Digits {
    pub normal: u8,
    pub anomaly: u8,
}

/// From MNIST; see `assets/README.md`.
const DIGITS: [(u8, &[u8]); 7] = [
    (0, include_bytes!("../../assets/digits/0.png")),
    (1, include_bytes!("../../assets/digits/1.png")),
    (2, include_bytes!("../../assets/digits/2.png")),
    (3, include_bytes!("../../assets/digits/3.png")),
    (5, include_bytes!("../../assets/digits/5.png")),
    (6, include_bytes!("../../assets/digits/6.png")),
    (9, include_bytes!("../../assets/digits/9.png")),
];
/// Side of a packaged digit, in pixels.
const DIGIT: usize = 28;

impl Sheet {
    pub(super) fn check(&self) -> Result<(), DataError> {
        match self.tile {
            0 => Err(DataError::Setting("--tile is 0: it must be the side of a tile in pixels".to_owned())),
            _ => Ok(()),
        }
    }

    pub(super) fn list(&self, loading: &Loading) -> Result<Listed, DataError> {
        let conversion = loading.conversion(self.tile, Channels::Grey);
        let read = |path: &PathBuf, anomalous: bool| -> Result<Set, DataError> {
            let sheet = decode::read(path, loading.max_pixels).map_err(|reason| bad(path, reason))?;
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let kind = path.file_stem().unwrap_or_default().to_string_lossy();
            Ok(Set::of_class(cut(sheet, path, self.tile, conversion, loading)?, &name, &kind, anomalous))
        };
        let (normal, anomaly) = (read(&self.normal, false)?, read(&self.anomaly, true)?);
        draw("sheet", &normal, &anomaly, loading, conversion)
    }
}

impl Digits {
    pub(super) fn check(&self) -> Result<(), DataError> {
        for (flag, digit) in [("--normal", self.normal), ("--anomaly", self.anomaly)] {
            if !DIGITS.iter().any(|(packaged, _)| *packaged == digit) {
                let known = DIGITS.map(|(digit, _)| digit.to_string()).join(", ");
                return Err(DataError::Setting(format!("{flag} is {digit}: the packaged digits are {known}")));
            }
        }
        match self.normal == self.anomaly {
            true => {
                Err(DataError::Setting(format!("--normal and --anomaly are both {}: give two digits", self.normal)))
            }
            false => Ok(()),
        }
    }

    pub(super) fn list(&self, loading: &Loading) -> Result<Listed, DataError> {
        let conversion = loading.conversion(DIGIT, Channels::Grey);
        let read = |digit: u8, anomalous: bool| -> Result<Set, DataError> {
            let (_, bytes) = DIGITS.iter().find(|(packaged, _)| *packaged == digit).expect("checked");
            let name = format!("{digit}.png");
            let sheet = decode::decode(bytes, loading.max_pixels).map_err(|reason| bad(Path::new(&name), reason))?;
            let tiles = cut(sheet, Path::new(&name), DIGIT, conversion, loading)?;
            Ok(Set::of_class(tiles, &name, &digit.to_string(), anomalous))
        };
        let (normal, anomaly) = (read(self.normal, false)?, read(self.anomaly, true)?);
        draw("digits", &normal, &anomaly, loading, conversion)
    }
}

fn bad(path: &Path, reason: DecodeError) -> DataError {
    DataError::BadImages { bad: vec![BadImage { path: path.to_owned(), reason }], of: 1 }
}

fn draw(
    dataset: &str,
    normal: &Set,
    anomaly: &Set,
    loading: &Loading,
    conversion: Conversion,
) -> Result<Listed, DataError> {
    let normals = loading.max_normals.unwrap_or(normal.len() / 5);
    let train = loading.max_train.unwrap_or(normal.len().saturating_sub(normals));
    let anomalies = loading.max_anomalies.unwrap_or(normals.min(anomaly.len()));
    let task = Task::semantic(normal, anomaly, train, normals, anomalies, loading.seed)?;
    Ok(Listed { task: Task { dataset: dataset.to_owned(), ..task }, conversion, left_out: LeftOut::default() })
}

/// The tiles of a sheet, row by row. `path` is only used in errors.
///
/// # Errors
/// When the width or height is not a whole number of tiles.
fn cut(
    sheet: DynamicImage,
    path: &Path,
    tile: usize,
    conversion: Conversion,
    loading: &Loading,
) -> Result<Images, DataError> {
    let (width, height) = (sheet.width(), sheet.height());
    let whole = |extent: u32| tile != 0 && (extent as usize).is_multiple_of(tile);
    if !whole(width) || !whole(height) {
        return Err(DataError::Ragged { path: path.to_owned(), width, height, tile });
    }
    let (columns, count) = (width as usize / tile, (width as usize / tile) * (height as usize / tile));
    let make = move |index: usize| {
        let (x, y) = (index % columns * tile, index / columns * tile);
        sheet.crop_imm(x as u32, y as u32, tile as u32, tile as u32)
    };
    Ok(Images::new(Origin::Made { make: Box::new(make), count, what: "tiles" }, conversion, loading.cache_bytes))
}
