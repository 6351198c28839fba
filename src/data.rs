//! Pictures from disk, the sets that a run works on, and the order in which batches are drawn from them.

use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::{fs, io};

use image::{DynamicImage, ImageReader};

use crate::philox::Stream;
use crate::tensor::Tensor;

/// The stream that splits are drawn from; streams of other purposes have other numbers.
const SPLIT_STREAM: u32 = 0x5711;

/// What is wrong with the data, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The file could not be read from disk.
    #[error("cannot read {}: check that the file exists and may be read", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    /// The contents are no picture, or a damaged one.
    #[error("{} is not a readable picture: write it anew, as a grey PNG", path.display())]
    Undecodable { path: PathBuf, source: image::ImageError },
    /// The pixels have colour or transparency.
    #[error("{} holds {found} pixels: convert it to 8 or 16 bit grey without transparency", path.display())]
    NotGrey { path: PathBuf, found: String },
    /// Width and height, in pixels, are not multiples of the tile's side.
    #[error(
        "{} measures {width}×{height} pixels, which is no whole number of {tile}×{tile} tiles: \
         check the tile size, and that the sheet has no border or gaps",
        path.display()
    )]
    Ragged { path: PathBuf, width: u32, height: u32, tile: usize },
    /// A class has fewer pictures than a split takes from it.
    #[error("there are {found} {kind} pictures, but the split asks for {wanted}: supply more or ask for fewer")]
    TooFew { kind: &'static str, found: usize, wanted: usize },
    /// A set without pictures: nothing can be computed from it.
    #[error("the split leaves the {set} set empty: ask for at least one picture")]
    Empty { set: &'static str },
    /// The classes differ in channels, height or width.
    #[error(
        "normal pictures have shape {normal:?} and anomalies {anomaly:?} (channels, height, width): \
         convert both to one size and one number of channels"
    )]
    Mismatch { normal: Vec<usize>, anomaly: Vec<usize> },
    /// A batch that is empty, or larger than the set it is drawn from.
    #[error("a batch of {batch} cannot be drawn from {count} pictures: use a batch between 1 and {count}")]
    Batch { batch: usize, count: usize },
}

/// Reads a grey PNG of square tiles without gaps, row by row: `[N, 1, tile, tile]`, black 0, white 1.
///
/// # Errors
/// When the file cannot be read or decoded, is not grey, or is no whole number of tiles wide and high.
pub fn read_sheet(path: impl AsRef<Path>, tile: usize) -> Result<Tensor, DataError> {
    let path = path.as_ref();
    let bytes = fs::read(path).map_err(|source| DataError::Unreadable { path: path.into(), source })?;
    decode_sheet(&bytes, path, tile)
}

/// [`read_sheet`] of a file's contents; `path` only names them in errors.
///
/// # Errors
/// When the contents cannot be decoded, are not grey, or are no whole number of tiles wide and high.
pub fn decode_sheet(bytes: &[u8], path: impl AsRef<Path>, tile: usize) -> Result<Tensor, DataError> {
    let path = || path.as_ref().to_owned();
    // `decode` of a reader keeps to the crate's memory limits, unlike a decoder used by hand.
    let sheet = ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(Into::into)
        .and_then(ImageReader::decode)
        .map_err(|source| DataError::Undecodable { path: path(), source })?;
    let (width, height) = (sheet.width(), sheet.height());
    let pixels: Vec<f32> = match sheet {
        DynamicImage::ImageLuma8(grey) => grey.iter().map(|&level| f32::from(level) / 255.0).collect(),
        DynamicImage::ImageLuma16(grey) => grey.iter().map(|&level| f32::from(level) / 65_535.0).collect(),
        other => return Err(DataError::NotGrey { path: path(), found: format!("{:?}", other.color()) }),
    };
    let (columns, rows) = match tile {
        0 => (0, 0),
        tile => (width as usize / tile, height as usize / tile),
    };
    if columns * tile != width as usize || rows * tile != height as usize {
        return Err(DataError::Ragged { path: path(), width, height, tile });
    }

    let mut tiles = Vec::with_capacity(pixels.len());
    for row in 0..rows {
        for column in 0..columns {
            for y in row * tile..(row + 1) * tile {
                let start = y * columns * tile + column * tile;
                tiles.extend_from_slice(&pixels[start..start + tile]);
            }
        }
    }
    Ok(Tensor::new([rows * columns, 1, tile, tile], tiles))
}

/// What is known of a picture. Only metrics and reports may look: training and tuning get [`Visible`] sets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Truth {
    /// Whether it is an anomaly; `None` where nobody said.
    pub anomalous: Option<bool>,
    /// `good`, the defect's or class's name, or empty where nobody said.
    pub kind: String,
    /// For each pixel, row by row, whether a defect covers it; `None` where there is no mask.
    pub mask: Option<Vec<bool>>,
}

/// Pictures with what is known of each.
#[derive(Clone, Debug, PartialEq)]
pub struct Set {
    /// `[N, C, H, W]`, black 0 and white 1.
    pub pictures: Tensor,
    /// Where each comes from: its path below the dataset's root with `/` between the parts, or `6.png#17` for a tile.
    pub names: Vec<String>,
    pub truths: Vec<Truth>,
}

/// A detection task: the method's sets.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// `mvtec`, `folder`, …: as it is called on the command line and in the results' folder.
    pub dataset: String,
    /// Such as `bottle-crack` or `6-9`; fit to name a folder.
    pub category: String,
    /// `D_trn`: normal pictures.
    pub train: Set,
    /// `D_val` of an inductive split, disjoint from `test`; `None` in a transductive one, where it is `test` unlabelled.
    pub tune: Option<Set>,
    /// What is scored.
    pub test: Set,
}

/// The part of a task that training and tuning see: no labels, no masks, no names.
#[derive(Clone, Copy, Debug)]
pub struct Visible<'a> {
    /// `D_trn`, `[N, C, H, W]`.
    pub train: &'a Tensor,
    /// `D_val`, `[M, C, H, W]`.
    pub val: &'a Tensor,
}

impl Task {
    /// The sets without their labels.
    pub fn visible(&self) -> Visible<'_> {
        Visible { train: &self.train.pictures, val: &self.tune.as_ref().unwrap_or(&self.test).pictures }
    }
}

/// The two sets of a task. `D_trn` of the method is `train`, `D_val` is `val`.
#[derive(Clone, Debug, PartialEq)]
pub struct Split {
    /// Normal pictures `[N, C, H, W]`.
    pub train: Tensor,
    /// Unlabelled normals and anomalies `[M, C, H, W]` in random order, disjoint from `train`.
    pub val: Tensor,
    /// For each row of `val` whether it is an anomaly. Only the final score may look: training and tuning never read it.
    pub val_labels: Vec<bool>,
}

impl Split {
    /// The sets without their labels.
    pub fn visible(&self) -> Visible<'_> {
        Visible { train: &self.train, val: &self.val }
    }

    /// Draws a task of semantic classes from all pictures of a normal class `[_, C, H, W]` and of an anomalous one
    /// `[_, C, H, W]`: `train` and `val_normals` different normals, and `val_anomalies` anomalies. The draw depends on
    /// `seed` alone.
    ///
    /// # Errors
    /// When a class has too few pictures, the classes differ in shape, or a set would be empty.
    pub fn semantic(
        normal: &Tensor,
        anomaly: &Tensor,
        train: usize,
        val_normals: usize,
        val_anomalies: usize,
        seed: u64,
    ) -> Result<Self, DataError> {
        let ([normals, picture @ ..], [anomalies, other @ ..]) = (&normal.shape()[..], &anomaly.shape()[..]) else {
            return Err(DataError::Empty { set: "source" });
        };
        if picture != other {
            return Err(DataError::Mismatch { normal: picture.to_vec(), anomaly: other.to_vec() });
        }
        let checks = [("normal", *normals, train + val_normals), ("anomalous", *anomalies, val_anomalies)];
        if let Some((kind, found, wanted)) = checks.into_iter().find(|(_, found, wanted)| found < wanted) {
            return Err(DataError::TooFew { kind, found, wanted });
        }
        if let Some((set, _)) = [("training", train), ("validation", val_normals + val_anomalies)]
            .into_iter()
            .find(|&(_, count)| count == 0)
        {
            return Err(DataError::Empty { set });
        }

        let mut stream = Stream::new(seed, SPLIT_STREAM);
        let drawn_normals = stream.permutation(*normals);
        let drawn_anomalies = stream.permutation(*anomalies);
        let order = stream.permutation(val_normals + val_anomalies);

        let mut val = normal.gather_rows(&drawn_normals[train..train + val_normals]).into_data();
        val.extend(anomaly.gather_rows(&drawn_anomalies[..val_anomalies]).into_data());
        let shape: Vec<usize> = [&[order.len()], picture].concat();
        Ok(Split {
            train: normal.gather_rows(&drawn_normals[..train]),
            val: Tensor::new(shape, val).gather_rows(&order),
            val_labels: order.iter().map(|&row| row >= val_normals).collect(),
        })
    }
}

/// An endless sequence of batches of row indices. An epoch is a random order of all rows, cut into whole batches: no
/// row comes twice in it, and the few rows that do not fill a batch wait for the next. The sequence depends on `seed`
/// and `stream` alone.
#[derive(Clone, Debug)]
pub struct Batches {
    count: usize,
    batch: usize,
    seed: u64,
    stream: u32,
    /// Where the orders are drawn from, one epoch after the other.
    orders: Stream,
    order: Vec<usize>,
    position: usize,
}

impl Batches {
    /// Batches of `batch` out of the rows `0..count`.
    ///
    /// # Errors
    /// When `batch` is zero or exceeds `count`.
    pub fn new(count: usize, batch: usize, seed: u64, stream: u32) -> Result<Self, DataError> {
        if !(1..=count).contains(&batch) {
            return Err(DataError::Batch { batch, count });
        }
        Ok(Batches { count, batch, seed, stream, orders: Stream::new(seed, stream), order: Vec::new(), position: 0 })
    }

    /// How many batches have been drawn.
    pub fn position(&self) -> usize {
        self.position
    }

    /// This sequence as it is after `position` batches: what a resumed run goes on with.
    pub fn at(self, position: usize) -> Self {
        let per_epoch = self.count / self.batch;
        let mut orders = Stream::new(self.seed, self.stream);
        let order = (0..position.div_ceil(per_epoch)).map(|_| orders.permutation(self.count)).last();
        Batches { orders, order: order.unwrap_or_default(), position, ..self }
    }

    /// The next batch: `batch` different indices.
    #[expect(clippy::should_implement_trait, reason = "it never ends, so there is no `None` for callers to handle")]
    pub fn next(&mut self) -> &[usize] {
        let within = self.position % (self.count / self.batch);
        if within == 0 {
            self.order = self.orders.permutation(self.count);
        }
        self.position += 1;
        &self.order[within * self.batch..(within + 1) * self.batch]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{GrayImage, ImageFormat, RgbImage};

    fn png(image: impl Into<DynamicImage>) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        image.into().write_to(&mut bytes, ImageFormat::Png).expect("a PNG in memory");
        bytes.into_inner()
    }

    /// `count` pictures of one pixel, which tells them apart.
    fn pixels(count: usize, first: usize) -> Tensor {
        Tensor::new([count, 1, 1, 1], (first..first + count).map(|value| value as f32).collect())
    }

    #[test]
    fn a_sheet_is_cut_row_by_row() {
        let sheet = GrayImage::from_fn(6, 4, |x, y| image::Luma([(10 * y + x) as u8]));
        let tiles = decode_sheet(&png(sheet), "sheet.png", 2).unwrap();
        assert_eq!(&tiles.shape()[..], [6, 1, 2, 2]);
        let levels: Vec<u32> = tiles.data().iter().map(|value| (value * 255.0).round() as u32).collect();
        assert_eq!(levels[4..8], [2, 3, 12, 13]);
        assert_eq!(levels[12..16], [20, 21, 30, 31]);
        assert_eq!(tiles.data()[0], 0.0);
    }

    #[test]
    fn sixteen_bits_reach_one() {
        let sheet = image::ImageBuffer::from_fn(2, 2, |x, _| image::Luma([65_535 * x as u16]));
        assert_eq!(decode_sheet(&png(sheet), "deep.png", 1).unwrap().data(), [0.0, 1.0, 0.0, 1.0]);
    }

    #[test]
    fn errors_name_the_file_and_the_remedy() {
        let grey = png(GrayImage::new(6, 4));
        for (result, part) in [
            (read_sheet("no/such/sheet.png", 28), "cannot read no/such/sheet.png"),
            (decode_sheet(&grey[..40], "cut.png", 2), "cut.png is not a readable picture"),
            (decode_sheet(b"GIF?", "cut.png", 2), "cut.png is not a readable picture"),
            (decode_sheet(&png(RgbImage::new(6, 4)), "colour.png", 2), "colour.png holds Rgb8 pixels: convert"),
            (decode_sheet(&grey, "sheet.png", 4), "6×4 pixels, which is no whole number of 4×4 tiles"),
            (decode_sheet(&grey, "sheet.png", 0), "check the tile size"),
        ] {
            let message = result.unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn a_split_is_disjoint_and_its_labels_are_true() {
        let split = Split::semantic(&pixels(50, 0), &pixels(20, 100), 30, 15, 10, 3).unwrap();
        assert_eq!((&split.train.shape()[..], &split.val.shape()[..]), (&[30, 1, 1, 1][..], &[25, 1, 1, 1][..]));
        let mut seen: Vec<f32> = [split.train.data(), split.val.data()].concat();
        seen.sort_by(f32::total_cmp);
        seen.dedup();
        assert_eq!(seen.len(), 55);
        assert!(split.train.data().iter().all(|&value| value < 50.0));
        let truth: Vec<bool> = split.val.data().iter().map(|&value| value >= 100.0).collect();
        assert_eq!(split.val_labels, truth);
        assert!(truth[..10].contains(&true) && truth[..10].contains(&false), "the order is random: {truth:?}");
    }

    #[test]
    fn a_split_depends_on_its_seed_alone() {
        let split = |seed| Split::semantic(&pixels(50, 0), &pixels(20, 100), 30, 15, 10, seed).unwrap();
        assert_eq!(split(1), split(1));
        assert_ne!(split(1).train, split(2).train);
    }

    #[test]
    fn impossible_splits_are_refused() {
        let split = |anomaly: &Tensor, counts: [usize; 3]| {
            Split::semantic(&pixels(5, 0), anomaly, counts[0], counts[1], counts[2], 0).unwrap_err().to_string()
        };
        assert!(split(&pixels(5, 0), [4, 2, 1]).starts_with("there are 5 normal pictures, but the split asks for 6"));
        assert!(split(&pixels(5, 0), [4, 1, 6]).starts_with("there are 5 anomalous pictures"));
        assert!(split(&pixels(5, 0), [0, 1, 1]).contains("training set empty"));
        assert!(split(&pixels(5, 0), [1, 0, 0]).contains("validation set empty"));
        assert!(split(&Tensor::full([5, 1, 2, 2], 0.0), [1, 1, 1]).contains("[1, 1, 1] and anomalies [1, 2, 2]"));
    }

    #[test]
    fn an_epoch_holds_no_row_twice() {
        let mut batches = Batches::new(10, 3, 1, 2).unwrap();
        let mut epochs = Vec::new();
        for _ in 0..4 {
            let epoch: Vec<usize> = (0..3).flat_map(|_| batches.next().to_vec()).collect();
            let mut rows = epoch.clone();
            rows.sort_unstable();
            rows.dedup();
            assert_eq!(rows.len(), 9);
            epochs.push(epoch);
        }
        assert_ne!(epochs[0], epochs[1]);
    }

    #[test]
    fn a_restarted_sequence_goes_on_alike() {
        let fresh = Batches::new(10, 3, 1, 2).unwrap();
        let mut whole = fresh.clone();
        for position in 0..8 {
            let mut restarted = fresh.clone().at(position);
            let mut on = whole.clone();
            for _ in 0..5 {
                assert_eq!(restarted.next(), on.next(), "from {position}");
            }
            assert_eq!(whole.position(), position);
            whole.next();
        }
    }

    #[test]
    fn a_batch_fits_its_set() {
        assert!(Batches::new(3, 4, 0, 0).unwrap_err().to_string().contains("between 1 and 3"));
        assert!(Batches::new(3, 0, 0, 0).is_err());
        assert_eq!(Batches::new(3, 3, 0, 0).unwrap().next().len(), 3);
    }
}
