//! The Street View House Numbers in their published format: `train_32x32.mat` and `test_32x32.mat`.

use std::fs;
use std::path::{Path, PathBuf};

use image::RgbImage;
use serde::{Deserialize, Serialize};

use super::decode::{Channels, Conversion};
use super::files::LeftOut;
use super::images::Origin;
use super::mat::{self, MatError, Values};
use super::source::Listed;
use super::{DataError, Images, Loading, Name, Set, Task};

/// One digit is normal and another is the anomaly. Unless the loading limits them, all training images of the normal digit and all
/// test images of both are used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Svhn {
    /// The folder with the two files.
    pub root: PathBuf,
    pub normal: u8,
    pub anomaly: u8,
}

/// Side of an image, in pixels.
const SIDE: usize = 32;
/// The label of the digit 0 in the files.
const ZERO: u8 = 10;

impl Svhn {
    pub(super) fn check(&self) -> Result<(), DataError> {
        let (normal, anomaly) = (self.normal, self.anomaly);
        match normal > 9 || anomaly > 9 || normal == anomaly {
            true => Err(DataError::Setting(format!(
                "--normal is {normal} and --anomaly is {anomaly}: they must be two different digits from 0 to 9"
            ))),
            false => Ok(()),
        }
    }

    pub(super) fn list(&self, loading: &Loading) -> Result<Listed, DataError> {
        if !self.root.is_dir() {
            return Err(DataError::NoFolder { path: self.root.clone() });
        }
        let conversion = loading.conversion(SIDE, Channels::Rgb);
        let (train_file, test_file) = (self.root.join("train_32x32.mat"), self.root.join("test_32x32.mat"));
        let [train] = read(&train_file, [(self.normal, false)], conversion, loading)?;
        let [normals, anomalies] = read(&test_file, [(self.normal, false), (self.anomaly, true)], conversion, loading)?;
        let (dataset, category) = ("svhn".to_owned(), format!("{}-{}", self.normal, self.anomaly));
        let task = Task { dataset, category, train, held_out: None, tune: None, test: normals.join(anomalies) };
        Ok(Listed { task, conversion, left_out: LeftOut::default() })
    }
}

/// The largest array that is read, in bytes: three times the largest of the published files.
const MOST_BYTES: u64 = 5 << 30;

/// The images of each digit, labelled as an anomaly or not.
fn read<const DIGITS: usize>(
    path: &Path,
    digits: [(u8, bool); DIGITS],
    conversion: Conversion,
    loading: &Loading,
) -> Result<[Set; DIGITS], DataError> {
    let bytes = fs::read(path).map_err(|source| DataError::Unreadable { path: path.to_owned(), source })?;
    let mat = |source| DataError::Mat { path: path.to_owned(), source };
    let (images, labels) = arrays(&bytes, MOST_BYTES).map_err(mat)?;
    drop(bytes);
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    Ok(digits.map(|(digit, anomalous)| {
        let label = if digit == 0 { ZERO } else { digit };
        let rows: Vec<usize> = (0..labels.len()).filter(|&row| labels[row] == label).collect();
        let own: Vec<u8> = rows.iter().flat_map(|row| images[row * IMAGE..][..IMAGE].iter().copied()).collect();
        let make = Box::new(move |row: usize| upright(&own[row * IMAGE..][..IMAGE]).into());
        let origin = Origin::Made { make, count: rows.len(), what: "images" };
        let images = Images::new(origin, conversion, loading.cache_bytes);
        let set = Set::of_class(images, "", &digit.to_string(), anomalous);
        Set { names: Name::all(rows.iter().map(|row| format!("{file}#{row}"))).collect(), ..set }
    }))
}

/// Number of levels of an image. The row runs fastest, then the column, then the colour.
const IMAGE: usize = SIDE * SIDE * 3;

fn upright(levels: &[u8]) -> RgbImage {
    RgbImage::from_fn(SIDE as u32, SIDE as u32, |x, y| {
        let pixel = y as usize + SIDE * x as usize;
        image::Rgb([0, 1, 2].map(|colour| levels[pixel + colour * SIDE * SIDE]))
    })
}

/// `X`, bytes of `[32, 32, 3, N]`, and `y`, N labels.
fn arrays(bytes: &[u8], max: u64) -> Result<(Vec<u8>, Vec<u8>), MatError> {
    let mut arrays = mat::read(bytes, max)?;
    let found = arrays.keys().cloned().collect::<Vec<_>>().join(", ");
    let mut take = |name| arrays.remove(name).ok_or_else(|| MatError::Missing { name, found: found.clone() });
    let (images, labels) = (take("X")?, take("y")?);

    let found = format!("{:?}", images.extents);
    let (Values::Bytes(levels), [SIDE, SIDE, 3, ..]) = (images.values, &images.extents[..]) else {
        return Err(MatError::Shape { name: "X", found, expected: "bytes of [32, 32, 3, N]" });
    };
    let found = format!("{:?}", labels.extents);
    let labels: Vec<u8> = match labels.values {
        Values::Bytes(labels) => labels,
        Values::Numbers(labels) => labels.iter().map(|&label| label as u8).collect(),
    };
    match labels.len() * IMAGE == levels.len() && labels.iter().all(|label| (1..=ZERO).contains(label)) {
        true => Ok((levels, labels)),
        false => Err(MatError::Shape { name: "y", found, expected: "a label from 1 to 10 for each image" }),
    }
}
