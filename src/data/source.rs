//! Where pictures come from and how they are read, as plain data; and the task that becomes of it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::files::{self, Read, Reading};
use super::folder::Folder;
use super::mvtec::Mvtec;
use super::paint::Texture;
use super::picture::{Channels, Conversion, MAX_PIXELS, Resize};
use super::sheet::{Digits, Sheet};
use super::svhn::Svhn;
use super::{BadPicture, DataError, SAMPLE_STREAM, Set, SplitTable, Task};
use crate::philox::Stream;
use crate::tensor::Tensor;

/// Where a task's pictures come from. In TOML `kind` names the variant: `kind = "mvtec"`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Source {
    Sheet(Sheet),
    Digits(Digits),
    Texture(Texture),
    Mvtec(Mvtec),
    Folder(Folder),
    Svhn(Svhn),
}

/// How the pictures are read and the sets drawn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Loading {
    /// Height and width that every picture gets, in pixels; by default the source's own: a tile's or crop's side, 32 for
    /// SVHN, and for files 256, or the longest side of all where that is less.
    pub size: Option<usize>,
    /// By default grey for digits, sheets and textures and RGB for all others.
    pub channels: Option<Channels>,
    pub resize: Resize,
    pub split: Split,
    pub on_bad_image: OnBadImage,
    /// Pictures with more pixels are refused before they are decoded.
    pub max_pixels: u64,
    /// Most memory that all converted pictures may take, in bytes.
    pub max_bytes: u64,
    /// Most normal images to train on, those held out included, drawn by `seed`; by default all. Painted textures are made in
    /// these numbers.
    pub max_train: Option<usize>,
    /// Most normal pictures to test on, drawn by `seed`, before an inductive split.
    pub max_normals: Option<usize>,
    /// Most anomalies to test on, drawn by `seed`, before an inductive split.
    pub max_anomalies: Option<usize>,
    /// Seed of every draw, and of what is painted: the run's, so no file says it.
    #[serde(skip)]
    pub seed: u64,
}

impl Default for Loading {
    fn default() -> Self {
        Loading {
            size: None,
            channels: None,
            resize: Resize::default(),
            split: Split::default(),
            on_bad_image: OnBadImage::default(),
            max_pixels: MAX_PIXELS,
            max_bytes: 8 << 30,
            max_train: None,
            max_normals: None,
            max_anomalies: None,
            seed: 0,
        }
    }
}

/// What is tuned on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    /// The test pictures themselves, without their labels.
    #[default]
    Transductive,
    /// Other pictures: half of the test candidates, each kind halved by itself. A source that has unlabelled pictures
    /// besides labelled ones is inductive as it is.
    Inductive,
}

/// What a picture that cannot be used leads to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum OnBadImage {
    /// An error that lists every one.
    #[default]
    Error,
    /// The run goes on without them, and counts them.
    Skip,
}

/// A task, and what happened on the way to it.
#[derive(Debug)]
pub struct Loaded {
    pub task: Task,
    /// How every picture was converted; scores hold for pictures converted alike.
    pub conversion: Conversion,
    pub skipped: Vec<BadPicture>,
    /// How many pictures there were of each size and kind of pixels before the conversion, such as `900×900 Rgb8`.
    pub originals: BTreeMap<String, usize>,
}

/// Pictures of which nothing is known.
#[derive(Debug)]
pub struct Pictures {
    pub set: Set,
    /// The file of each, as it was named or found.
    pub paths: Vec<PathBuf>,
    /// The files, and folders, that cannot be used.
    pub skipped: Vec<BadPicture>,
}

impl Loading {
    /// The conversion, with a source's own side and channels where nothing else is asked for.
    ///
    /// # Errors
    /// When the size is zero or beyond 4096.
    pub fn conversion(&self, side: usize, channels: Channels) -> Result<Conversion, DataError> {
        let side = self.size.unwrap_or(side);
        if !(1..=4096).contains(&side) {
            return Err(DataError::Setting(format!("pictures of {side}×{side} pixels: use a `--size` from 1 to 4096")));
        }
        Ok(Conversion { side, channels: self.channels.unwrap_or(channels), resize: self.resize })
    }

    /// At most so many of each class as asked for, in the order they were in.
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

/// Reads a task. `on_file` hears after each file how many of how many are done, from several threads.
///
/// # Errors
/// When pictures are missing, cannot be used, or are too few.
pub fn load(source: &Source, loading: &Loading, on_file: impl Fn(usize, usize) + Sync) -> Result<Loaded, DataError> {
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
    // One picture has neither a spread nor a neighbour, and two do not tell how sure their covariance is.
    let sets = [("training", &task.train, 3), ("test", &task.test, 2)].into_iter();
    for (kind, set, wanted) in sets.chain(task.tune.as_ref().map(|tune| ("tuning", tune, 2))) {
        if set.len() < wanted {
            return Err(DataError::TooFew { kind, found: set.len(), wanted });
        }
    }
    Ok(Loaded { task: task.held_out(loading.seed), ..loaded })
}

impl Loaded {
    /// What went where, to print before training.
    pub fn table(&self) -> SplitTable<'_> {
        SplitTable(self)
    }
}

/// Reads pictures of which nothing is known: each path is a file, or a folder with all that lies below it. Of `loading`
/// only `on_bad_image`, `max_pixels` and `max_bytes` are read; with [`OnBadImage::Skip`] the set may come out empty.
///
/// # Errors
/// When there is no path, all images together need too much memory, or, where bad ones are not skipped, a path is not there,
/// a folder holds no picture, or a picture cannot be used.
pub fn read_pictures(
    paths: &[PathBuf],
    conversion: Conversion,
    loading: &Loading,
    on_file: impl Fn(usize, usize) + Sync,
) -> Result<Pictures, DataError> {
    let skips = loading.on_bad_image == OnBadImage::Skip;
    let (mut entries, mut skipped) = (Vec::new(), Vec::new());
    for path in paths {
        match path.is_dir() {
            true => match files::list(path, "") {
                Ok(listed) => entries.extend(listed),
                Err(error) if skips => skipped.push(files::bad_folder(path, error)),
                Err(error) => return Err(error),
            },
            false => entries.push(files::Entry::of_file(path)),
        }
    }
    if paths.is_empty() {
        return Err(DataError::Empty { set: "prediction" });
    }
    let (set, paths, bad) = match (Reading { conversion, loading, on_file: &on_file }).read([entries]) {
        Ok(Read { sets: [set], paths, skipped, .. }) => (set, paths, skipped),
        Err(DataError::BadPictures { bad, .. }) if skips => {
            let none = Tensor::new([0, conversion.channels.count(), conversion.side, conversion.side], Vec::new());
            (Set { pictures: none, names: Vec::new(), truths: Vec::new() }, Vec::new(), bad)
        }
        Err(error) => return Err(error),
    };
    skipped.extend(bad);
    Ok(Pictures { set, paths, skipped })
}
