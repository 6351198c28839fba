//! Where images come from and how they are read, as plain data; and loading them as a task.

use clap::{Args, ValueEnum};
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer, Serialize};
use toml::{Table, Value};

use super::decode::{Channels, Conversion, Levels, MAX_PIXELS, Resize};
use super::folder::Folder;
use super::mvtec::Mvtec;
use super::paint::Texture;
use super::sheet::{Digits, Sheet};
use super::svhn::Svhn;
use super::{DataError, Files, SAMPLE_STREAM, Set, SplitTable, Task};
use crate::engine::philox::Stream;

/// Where a task's images come from. In TOML `kind` names the variant: `kind = "mvtec"`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Source {
    Sheet(Sheet),
    Digits(Digits),
    Texture(Texture),
    Mvtec(Mvtec),
    Folder(Folder),
    Svhn(Svhn),
}

/// Not derived, because serde's errors for tagged enums do not name the key.
impl<'de> Deserialize<'de> for Source {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        fn read<T: DeserializeOwned, E: Error>(table: Table, source: fn(T) -> Source) -> Result<Source, E> {
            table.try_into().map(source).map_err(E::custom)
        }
        let mut table = Table::deserialize(deserializer)?;
        let kind = match table.remove("kind") {
            Some(Value::String(kind)) => kind,
            Some(other) => {
                let message = format!("invalid type: {}, expected a string\nin `kind`", other.type_str());
                return Err(D::Error::custom(message));
            }
            None => return Err(D::Error::missing_field("kind")),
        };
        match kind.as_str() {
            "sheet" => read(table, Source::Sheet),
            "digits" => read(table, Source::Digits),
            "texture" => read(table, Source::Texture),
            "mvtec" => read(table, Source::Mvtec),
            "folder" => read(table, Source::Folder),
            "svhn" => read(table, Source::Svhn),
            _ => {
                let known = "`mvtec`, `folder`, `svhn`, `digits`, `texture`, `sheet`";
                Err(D::Error::custom(format!("unknown variant `{kind}`, expected one of {known}\nin `kind`")))
            }
        }
    }
}

impl Source {
    /// Checks everything that can be checked without reading a file.
    ///
    /// # Errors
    /// When a setting is out of range or contradicts another.
    pub fn check(&self, loading: &Loading) -> Result<(), DataError> {
        loading.check()?;
        match self {
            Source::Sheet(sheet) => sheet.check(),
            Source::Digits(digits) => digits.check(),
            Source::Texture(texture) => texture.check(loading),
            Source::Mvtec(mvtec) => mvtec.check(),
            Source::Folder(folder) => folder.check(),
            Source::Svhn(svhn) => svhn.check(),
        }
    }

    /// Whether each image is a separate file.
    fn has_files(&self) -> bool {
        matches!(self, Source::Mvtec(_) | Source::Folder(_))
    }

    /// Settings without effect, each with the reason, such as `--mask-dir: there is no --abnormal-dir`.
    pub fn without_effect(&self, loading: &Loading) -> Vec<String> {
        let folder = match self {
            Source::Folder(folder) => folder.without_effect(loading),
            _ => Vec::new(),
        };
        let skips = loading.on_bad_image == OnBadImage::Skip && !self.has_files();
        let deep = loading.levels.is_some() && !self.has_files() && !matches!(self, Source::Sheet(_));
        folder
            .into_iter()
            .chain(skips.then_some("--on-bad-image: the images of this dataset are not single files"))
            .chain(deep.then_some("--levels: the images of this dataset have 8 bits"))
            .map(str::to_owned)
            .collect()
    }
}

/// Parses a whole number within the range of TOML.
///
/// # Errors
/// When the text is anything else.
pub fn whole<T: TryFrom<i64>>(text: &str) -> Result<T, String> {
    let number = text.parse().ok().and_then(|number: i64| T::try_from(number).ok());
    number.ok_or_else(|| format!("it must be a whole number from 0 to {}", i64::MAX))
}

/// How the images are read and the sets drawn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Args)]
#[command(next_help_heading = "Images")]
#[serde(default, deny_unknown_fields)]
pub struct Loading {
    /// Resize every image to this height and width, in pixels [default: the dataset's own size; for image files 256, or the longest
    /// side among them if that is less].
    #[arg(long, value_name = "PIXELS", value_parser = whole::<usize>)]
    pub size: Option<usize>,
    /// Channels of each image [default: grey for digits, sheet and texture, rgb otherwise].
    #[arg(long, value_enum)]
    pub channels: Option<Channels>,
    /// How to make an image square.
    #[arg(long, value_enum, default_value_t)]
    pub resize: Resize,
    /// Levels of 16 bit images: N is white, or LO is black and HI white; `auto` finds the bits that the training images use
    /// [default: 65535].
    #[arg(long, value_name = "auto|N|LO,HI")]
    pub levels: Option<Levels>,
    /// Which images to tune on.
    #[arg(long, value_enum, default_value_t)]
    pub split: Split,
    /// What to do if an image cannot be read.
    #[arg(long, value_enum, default_value_t)]
    pub on_bad_image: OnBadImage,
    /// Refuse images with more pixels than this, before decoding them.
    #[arg(long, value_name = "N", value_parser = whole::<u64>, default_value_t = MAX_PIXELS)]
    pub max_pixels: u64,
    /// Limit on the memory of all decoded images together, in bytes.
    #[arg(long, value_name = "BYTES", value_parser = whole::<u64>, default_value_t = MAX_BYTES)]
    pub max_bytes: u64,
    /// Train on at most N normal images, including those held out for the threshold [default: all].
    #[arg(long, value_name = "N", value_parser = whole::<usize>)]
    pub max_train: Option<usize>,
    /// Test on at most N normal images [default: all].
    #[arg(long, value_name = "N", value_parser = whole::<usize>)]
    pub max_normals: Option<usize>,
    /// Test on at most N anomalous images [default: all].
    #[arg(long, value_name = "N", value_parser = whole::<usize>)]
    pub max_anomalies: Option<usize>,
    /// Seed of all random draws; it is the seed of the run, so it is not stored here.
    #[arg(skip)]
    #[serde(skip)]
    pub seed: u64,
}

/// Default limit on the memory of all converted images, in bytes.
const MAX_BYTES: u64 = 8 << 30;

impl Default for Loading {
    fn default() -> Self {
        Loading {
            size: None,
            channels: None,
            resize: Resize::default(),
            levels: None,
            split: Split::default(),
            on_bad_image: OnBadImage::default(),
            max_pixels: MAX_PIXELS,
            max_bytes: MAX_BYTES,
            max_train: None,
            max_normals: None,
            max_anomalies: None,
            seed: 0,
        }
    }
}

/// The images to tune on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    /// The test images themselves, without their labels.
    #[default]
    Transductive,
    /// Other images: half of each kind of test image is used for tuning, the other half for the test. A dataset with both unlabelled
    /// and labelled images is always inductive.
    Inductive,
}

/// What to do if an image cannot be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum OnBadImage {
    /// Stop with an error that lists every such image.
    #[default]
    Error,
    /// Leave these images out, and list them in the report.
    Skip,
}

/// A task, and how it was loaded.
#[derive(Debug)]
pub struct Loaded {
    pub task: Task,
    /// How every image was converted; scores are valid only for this conversion.
    pub conversion: Conversion,
    pub files: Files,
}

impl Loading {
    /// Checks that the numbers are in range.
    fn check(&self) -> Result<(), DataError> {
        let setting = |problem: String| Err(DataError::Setting(problem));
        if let Some(side) = self.size {
            check_side(side)?;
        }
        if self.max_pixels == 0 {
            return setting("--max-pixels is 0: it must be at least 1".to_owned());
        }
        match self.max_train {
            Some(most) if most < LEAST_TRAIN => {
                setting(format!("--max-train is {most}: training needs at least {LEAST_TRAIN} images"))
            }
            _ => Ok(()),
        }
    }

    /// The conversion; `side` and `channels` are the defaults of the source.
    ///
    /// # Errors
    /// When the size is 0 or above 4096.
    pub fn conversion(&self, side: usize, channels: Channels) -> Result<Conversion, DataError> {
        let side = self.size.unwrap_or(side);
        check_side(side)?;
        Ok(Conversion {
            side,
            channels: self.channels.unwrap_or(channels),
            resize: self.resize,
            levels: self.levels.unwrap_or(Levels::FULL),
        })
    }

    /// Checks that this many images fit in the memory that they may take.
    pub(super) fn check_memory(
        &self,
        count: usize,
        Conversion { side, channels, .. }: Conversion,
    ) -> Result<(), DataError> {
        let (channels, max) = (channels.count(), self.max_bytes);
        let bytes = (4 * channels * side * side) as u64;
        match bytes.saturating_mul(count as u64) {
            bytes if bytes > max => Err(DataError::TooLarge { count, channels, side, bytes, max }),
            _ => Ok(()),
        }
    }

    /// Draws at most as many images of each class as the limits allow, in their original order.
    fn sample(&self, task: Task) -> Task {
        let mut stream = Stream::new(self.seed, SAMPLE_STREAM);
        let mut draw = |rows: Vec<usize>, most: Option<usize>| -> Vec<usize> {
            let drawn = stream.permutation(rows.len()).into_iter().take(most.unwrap_or(usize::MAX));
            drawn.map(|index| rows[index]).collect()
        };
        let kept = |set: Set, rows: Vec<usize>| match rows.len() == set.len() {
            true => set,
            false => {
                let mut rows = rows;
                rows.sort_unstable();
                set.select(&rows)
            }
        };
        let train = draw((0..task.train.len()).collect(), self.max_train);
        let test = [
            draw(task.test.rows(Some(false)), self.max_normals),
            draw(task.test.rows(Some(true)), self.max_anomalies),
            task.test.rows(None),
        ]
        .concat();
        Task { train: kept(task.train, train), test: kept(task.test, test), ..task }
    }
}

fn check_side(side: usize) -> Result<(), DataError> {
    match (1..=4096).contains(&side) {
        true => Ok(()),
        false => Err(DataError::Setting(format!("--size is {side}: it must be from 1 to 4096 pixels"))),
    }
}

/// The covariance of the embeddings cannot be estimated from fewer images.
const LEAST_TRAIN: usize = 3;

/// Loads a task. `on_file` is called from several threads, after each file, with the number of files done and of all files.
///
/// # Errors
/// When images are missing, cannot be used, or are too few.
pub fn load(source: &Source, loading: &Loading, on_file: impl Fn(usize, usize) + Sync) -> Result<Loaded, DataError> {
    source.check(loading)?;
    let loaded = match source {
        Source::Sheet(sheet) => sheet.load(loading),
        Source::Digits(digits) => digits.load(loading),
        Source::Texture(texture) => texture.load(loading),
        Source::Mvtec(mvtec) => mvtec.load(loading, &on_file),
        Source::Folder(folder) => folder.load(loading, &on_file),
        Source::Svhn(svhn) => svhn.load(loading),
    }?;
    let mut task = loading.sample(loaded.task);
    if loading.split == Split::Inductive && task.tune.is_none() {
        task = task.halved(loading.seed);
    }
    let images = [Some(&task.train), task.tune.as_ref(), Some(&task.test)].into_iter().flatten();
    let rows: Vec<&[f32]> = images.flat_map(|set| set.images.data().chunks(row_of(set))).collect();
    if rows.len() > 1 && rows.iter().all(|row| *row == rows[0]) {
        return Err(DataError::Identical { count: rows.len() });
    }
    let sets = [("training", &task.train, LEAST_TRAIN), ("test", &task.test, 2)].into_iter();
    for (kind, set, wanted) in sets.chain(task.tune.as_ref().map(|tune| ("tuning", tune, 2))) {
        if set.len() < wanted {
            return Err(DataError::TooFew { kind, found: set.len(), wanted });
        }
    }
    Ok(Loaded { task: task.held_out(loading.seed), ..loaded })
}

/// Number of levels of each image.
fn row_of(set: &Set) -> usize {
    set.images.shape()[1..].iter().product()
}

impl Loaded {
    /// A table of the sets, to print before training.
    pub fn table(&self) -> SplitTable<'_> {
        SplitTable(self)
    }
}
