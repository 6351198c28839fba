//! Where images come from and how they are read, as plain data; and loading them as a task.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use clap::{Args, ValueEnum};
use rayon::prelude::*;
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use toml::{Table, Value};

use super::category::{Category, Layout};
use super::decode::{Channels, Conversion, Levels, MAX_PIXELS, Resize, Size};
use super::files::LeftOut;
use super::folder::Folder;
use super::images::Decoded;
use super::paint::Texture;
use super::records;
use super::sheet::{Digits, Sheet};
use super::svhn::Svhn;
use super::{DataError, Files, Identical, SAMPLE_STREAM, Set, SplitTable, Task};
use crate::engine::philox::Stream;

/// Where a task's images come from. In TOML `kind` names the variant: `kind = "folder"`, or for a [`Category`] its layout:
/// `kind = "mvtec"`.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    Category(Category),
    Folder(Folder),
    Table(records::Table),
    Svhn(Svhn),
    Digits(Digits),
    Texture(Texture),
    Sheet(Sheet),
}

/// The names of the kinds that have no layout, with their help.
pub const KINDS: [(&str, &str); 6] = [
    ("folder", "Your own folders of images: --root, --normal-dir, --unlabelled-dir and the other --…-dir flags"),
    ("table", "Images that a CSV file lists: --file, --root"),
    ("svhn", "SVHN's .mat files: --root, --normal, --anomaly"),
    ("digits", "The packaged digits: --normal, --anomaly"),
    ("texture", "Packaged materials and objects with painted defects: --texture, --defect, --slant, --strength"),
    ("sheet", "Two images that are sheets of square tiles: --normal, --anomaly, --tile"),
];

impl Serialize for Source {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let table = match self {
            Source::Category(own) => Table::try_from(own),
            Source::Folder(own) => Table::try_from(own),
            Source::Table(own) => Table::try_from(own),
            Source::Svhn(own) => Table::try_from(own),
            Source::Digits(own) => Table::try_from(own),
            Source::Texture(own) => Table::try_from(own),
            Source::Sheet(own) => Table::try_from(own),
        };
        let mut table = table.map_err(serde::ser::Error::custom)?;
        table.insert("kind".into(), self.kind().into());
        table.serialize(serializer)
    }
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
        if let Some(layout) = Layout::ALL.into_iter().find(|layout| layout.name() == kind) {
            let category: Category = table.try_into().map_err(D::Error::custom)?;
            return Ok(Source::Category(Category { layout, ..category }));
        }
        match kind.as_str() {
            "folder" => read(table, Source::Folder),
            "table" => read(table, Source::Table),
            "svhn" => read(table, Source::Svhn),
            "digits" => read(table, Source::Digits),
            "texture" => read(table, Source::Texture),
            "sheet" => read(table, Source::Sheet),
            _ => {
                let known = Layout::ALL.map(Layout::name).into_iter().chain(KINDS.map(|(name, _)| name));
                let known = known.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
                Err(D::Error::custom(format!("unknown variant `{kind}`, expected one of {known}\nin `kind`")))
            }
        }
    }
}

/// What images are listed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A task: images to train on, to tune on and to test on.
    Train,
    /// A test alone: every labelled image is to be scored.
    Test,
}

impl Source {
    /// Checks everything that can be checked without reading a file.
    ///
    /// # Errors
    /// When a setting is out of range or contradicts another.
    pub fn check(&self, loading: &Loading) -> Result<(), DataError> {
        self.check_for(loading, Purpose::Train)
    }

    fn check_for(&self, loading: &Loading, purpose: Purpose) -> Result<(), DataError> {
        loading.check()?;
        match self {
            Source::Category(category) => category.check(),
            Source::Folder(folder) => folder.check(purpose),
            Source::Table(_) => Ok(()),
            Source::Svhn(svhn) => svhn.check(),
            Source::Digits(digits) => digits.check(),
            Source::Texture(texture) => texture.check(loading),
            Source::Sheet(sheet) => sheet.check(),
        }
    }

    /// This source with its relative paths taken from `folder`, where such a path exists.
    pub fn within(&self, folder: &Path) -> Self {
        let place =
            |path: &PathBuf| Some(folder.join(path)).filter(|there| there.exists()).unwrap_or_else(|| path.clone());
        let mut source = self.clone();
        source.paths().into_iter().for_each(|path| *path = place(path));
        source
    }

    /// This source with the same images in another root folder; `None` if it has no root.
    pub fn rooted(&self, root: &Path) -> Option<Self> {
        let mut source = self.clone();
        match &mut source {
            Source::Category(Category { root: own, .. }) | Source::Folder(Folder { root: own, .. }) => {
                *own = root.into();
            }
            Source::Svhn(own) => own.root = root.into(),
            Source::Table(own) => own.root = Some(root.into()),
            Source::Digits(_) | Source::Texture(_) | Source::Sheet(_) => return None,
        }
        Some(source)
    }

    /// The paths that are relative to the working folder.
    fn paths(&mut self) -> Vec<&mut PathBuf> {
        match self {
            Source::Category(Category { root, .. }) | Source::Folder(Folder { root, .. }) => vec![root],
            Source::Svhn(svhn) => vec![&mut svhn.root],
            Source::Table(table) => std::iter::once(&mut table.file).chain(&mut table.root).collect(),
            Source::Sheet(sheet) => vec![&mut sheet.normal, &mut sheet.anomaly],
            Source::Digits(_) | Source::Texture(_) => Vec::new(),
        }
    }

    /// Its name on the command line.
    fn kind(&self) -> &'static str {
        match self {
            Source::Category(category) => category.layout.name(),
            Source::Folder(_) => "folder",
            Source::Table(_) => "table",
            Source::Svhn(_) => "svhn",
            Source::Digits(_) => "digits",
            Source::Texture(_) => "texture",
            Source::Sheet(_) => "sheet",
        }
    }

    /// Lists all images, without decoding those that are files of their own.
    fn list(&self, loading: &Loading, purpose: Purpose) -> Result<Listed, DataError> {
        self.check_for(loading, purpose)?;
        match self {
            Source::Category(category) => category.list(loading, purpose),
            Source::Folder(folder) => folder.list(loading, purpose),
            Source::Table(table) => table.list(loading, purpose),
            Source::Svhn(svhn) => svhn.list(loading),
            Source::Digits(digits) => digits.list(loading),
            Source::Texture(texture) => texture.list(loading),
            Source::Sheet(sheet) => sheet.list(loading),
        }
    }

    /// Whether each image is a separate file.
    fn has_files(&self) -> bool {
        matches!(self, Source::Category(_) | Source::Folder(_) | Source::Table(_))
    }

    /// Settings without effect, each with the reason, such as `--mask-dir: there is no --abnormal-dir`.
    pub fn without_effect(&self, loading: &Loading) -> Vec<String> {
        let folder = match self {
            Source::Folder(folder) => folder.without_effect(loading),
            _ => Vec::new(),
        };
        let skips = loading.on_bad_image == OnBadImage::Skip && !self.has_files();
        let tiled = loading.tiles.is_some() && !self.has_files();
        let deep = loading.levels.is_some() && !self.has_files() && !matches!(self, Source::Sheet(_));
        folder
            .into_iter()
            .chain(skips.then_some("--on-bad-image: the images of this dataset are not single files"))
            .chain(tiled.then_some("--tiles: the images of this dataset are not single files"))
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
    #[arg(long, value_name = "SIDE|H,W")]
    pub size: Option<Size>,
    /// Channels of each image; `all` takes up to eight as the files store them, transparency among them [default: grey for digits,
    /// sheets and photographed textures, rgb otherwise].
    #[arg(long, value_name = "grey|rgb|all")]
    pub channels: Option<Channels>,
    /// Cut every image into overlapping tiles of this height and width, in pixels of the file, and resize each to --size [default: no
    /// tiles; --size is then that of a tile]. An image's score is the greatest of its tiles'.
    #[arg(long, value_name = "SIDE|H,W")]
    pub tiles: Option<Size>,
    /// How to give an image this size if its proportions differ.
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
    /// Keep decoded images in a temporary file of up to this size (in TMPDIR); images beyond are decoded for each use.
    #[arg(long, value_name = "BYTES", value_parser = whole::<u64>, default_value_t = CACHE_BYTES)]
    pub cache_bytes: u64,
    /// Hold N normal images out of training, for the threshold [default: a tenth, but as many as --false-alarms needs if a quarter
    /// suffices; of fewer than a hundred ten, but at most a quarter].
    #[arg(long, value_name = "N", value_parser = whole::<usize>)]
    pub held_out: Option<usize>,
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
    /// Images to hold out if a quarter of the normal ones suffices; it follows from the run's rate of false alarms, so it is not
    /// stored here.
    #[arg(skip)]
    #[serde(skip)]
    pub bearing: usize,
}

/// Default limit on the cache of converted images, in bytes.
const CACHE_BYTES: u64 = 8 << 30;

impl Default for Loading {
    fn default() -> Self {
        Loading {
            size: None,
            tiles: None,
            channels: None,
            resize: Resize::default(),
            levels: None,
            split: Split::default(),
            on_bad_image: OnBadImage::default(),
            max_pixels: MAX_PIXELS,
            cache_bytes: CACHE_BYTES,
            held_out: None,
            max_train: None,
            max_normals: None,
            max_anomalies: None,
            seed: 0,
            bearing: 0,
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

impl Split {
    /// What figures on the test images say.
    pub fn meaning(self) -> &'static str {
        match self {
            Split::Transductive => {
                "transductive: the test images were tuned on too, without their labels; on other images figures may be lower"
            }
            Split::Inductive => "inductive: the test images took no part in training and tuning",
        }
    }
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
    /// The size of tiles, if images are cut into tiles, in pixels of the files.
    pub tiles: Option<Size>,
    pub files: Files,
    pub identical: Identical,
    /// Whether every seed has these images, though in other sets: none was painted, or left out by a limit.
    pub is_whole: bool,
}

impl Loading {
    /// Checks that the numbers are in range.
    fn check(&self) -> Result<(), DataError> {
        let setting = |problem: String| Err(DataError::Setting(problem));
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

    /// How many of so many normal images to hold out of training. Of fewer than ten images little can be said about a threshold, and
    /// training needs the rest.
    fn to_hold_out(&self, normals: usize) -> Result<usize, DataError> {
        let tenth = (normals / 10).max((normals / 4).min(10));
        match self.held_out {
            Some(held) if held.saturating_add(LEAST_TRAIN) > normals => Err(DataError::Setting(format!(
                "--held-out is {held}: there are {normals} normal images, and training needs at least {LEAST_TRAIN} of them"
            ))),
            Some(held) => Ok(held),
            None if self.bearing <= normals / 4 => Ok(tenth.max(self.bearing)),
            None => Ok(tenth),
        }
    }

    /// The conversion; `side` and `channels` are the defaults of the source. A source that is not in image files has its default
    /// channels if all are asked for.
    pub(super) fn conversion(&self, side: usize, channels: Channels) -> Conversion {
        Conversion {
            size: self.size.or(self.tiles).unwrap_or(Size::square(side)),
            channels: self.channels.filter(|&asked| asked != Channels::All).unwrap_or(channels),
            resize: self.resize,
            levels: self.levels.unwrap_or(Levels::FULL),
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

/// The covariance of the embeddings cannot be estimated from fewer images.
const LEAST_TRAIN: usize = 3;

/// The images of a source, listed but not decoded.
pub(super) struct Listed {
    /// All images, before any limit, split or hold-out is applied.
    pub task: Task,
    pub conversion: Conversion,
    pub left_out: LeftOut,
}

/// Loads a task. `on_file` is called from several threads, after each image, with the number of images done and of all.
///
/// # Errors
/// When images are missing, cannot be used, or are too few.
pub fn load(source: &Source, loading: &Loading, on_file: impl Fn(usize, usize) + Sync) -> Result<Loaded, DataError> {
    let Listed { task, conversion, left_out } = source.list(loading, Purpose::Train)?;
    let count = |task: &Task| task.sets().map(|(_, set)| set.len()).sum::<usize>();
    let listed = count(&task);
    let task = loading.sample(task);
    // Levels that are found may be others for other training images.
    let is_whole = source.has_files() && loading.levels != Some(Levels::Auto) && count(&task) == listed;
    let levels = found_levels(&task, conversion.levels);
    let (mut task, files) = decoded(task, loading.on_bad_image, &on_file)?;
    if loading.split == Split::Inductive && task.tune.is_none() {
        task = task.halved(loading.seed);
    }
    let sets = [("training", &task.train, LEAST_TRAIN), ("test", &task.test, 2)].into_iter();
    for (kind, set, wanted) in sets.chain(task.tune.as_ref().map(|tune| ("tuning", tune, 2))) {
        if set.len() < wanted {
            return Err(DataError::TooFew { kind, found: set.len(), wanted });
        }
    }
    let held = loading.to_hold_out(task.train.len())?;
    let task = task.held_out(held, loading.seed);
    let identical = Identical::of(&task)?;
    if let Some(count) = identical.all {
        return Err(DataError::Identical { count });
    }
    let (conversion, files) = (Conversion { levels, ..conversion }, Files { left_out, ..files });
    Ok(Loaded { task, conversion, tiles: loading.tiles, files, identical, is_whole })
}

/// Loads the images of a source to test a detector on: all labelled ones, without a limit, a split or a hold-out of their own. The
/// task has no training images. `on_file` is called as by [`load`].
///
/// # Errors
/// When there are no images, or some cannot be used.
pub fn load_test(
    source: &Source,
    loading: &Loading,
    on_file: impl Fn(usize, usize) + Sync,
) -> Result<Loaded, DataError> {
    let Listed { task, conversion, left_out } = source.list(loading, Purpose::Test)?;
    let task = Task { train: task.train.select(&[]), tune: None, ..task };
    let (task, files) = decoded(task, loading.on_bad_image, &on_file)?;
    if task.test.is_empty() {
        return Err(DataError::Empty { set: "test" });
    }
    let identical = Identical::of(&task)?;
    let files = Files { left_out, ..files };
    Ok(Loaded { task, conversion, tiles: loading.tiles, files, identical, is_whole: false })
}

/// The levels that suit the training images, if they are to be found.
fn found_levels(task: &Task, levels: Levels) -> Levels {
    if levels != Levels::Auto {
        return levels;
    }
    let levels = Levels::up_to(task.train.images.brightest());
    task.sets().for_each(|(_, set)| set.images.set_levels(levels));
    levels
}

/// Images that are decoded between two looks at what was found.
const AT_ONCE: usize = 256;

/// Decodes every image of a task once, even if some are unusable, so that one error can list all of them. The unusable ones are
/// left out.
fn decoded(
    mut task: Task,
    on_bad: OnBadImage,
    on_file: &(impl Fn(usize, usize) + Sync),
) -> Result<(Task, Files), DataError> {
    let of = task.sets().map(|(_, set)| set.len()).sum();
    let (done, mut files) = (AtomicUsize::new(0), Files::default());
    let Task { train, tune, test, .. } = &mut task;
    for set in [Some(train), tune.as_mut(), Some(test)].into_iter().flatten() {
        let mut good = Vec::with_capacity(set.len());
        for first in (0..set.len()).step_by(AT_ONCE) {
            let rows = first..set.len().min(first + AT_ONCE);
            let examined = rows.clone().into_par_iter().map(|row| {
                let decoded = set.images.examine(set.views(row));
                on_file(done.fetch_add(1, Ordering::Relaxed) + 1, of);
                // The levels are in the cache.
                let of_file = |mut views: Vec<Decoded>| views.swap_remove(0);
                decoded
                    .map(of_file)
                    .map(|Decoded { original, is_mended, brightest, .. }| (original, is_mended, brightest))
            });
            for (row, outcome) in rows.zip(examined.collect::<Vec<_>>()) {
                match outcome {
                    Ok((original, is_mended, brightest)) => {
                        *files.originals.entry(original).or_insert(0) += 1;
                        files.brightest = files.brightest.max(brightest);
                        files.mended.extend(is_mended.then(|| set.images.path(set.views(row).start)));
                        good.push(row);
                    }
                    Err(bad) => files.skipped.push(bad),
                }
            }
        }
        if good.len() < set.len() {
            *set = set.select(&good);
        }
    }
    match !files.skipped.is_empty() && (on_bad == OnBadImage::Error || files.skipped.len() == of) {
        true => Err(DataError::BadImages { bad: files.skipped, of }),
        false => Ok((task, files)),
    }
}

impl Loaded {
    /// A fingerprint of the images, labels and masks that is the same for every seed; `None` if seeds have other images.
    ///
    /// # Errors
    /// When an image that was not decoded before cannot be.
    pub fn seedless_fingerprint(&self) -> Result<Option<String>, DataError> {
        self.is_whole.then(|| self.task.pooled_fingerprint()).transpose()
    }

    /// A table of the sets, to print before training.
    pub fn table(&self) -> SplitTable<'_> {
        SplitTable(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_is_held_out_or_what_the_rate_needs_if_a_quarter_suffices() {
        let held = |loading: Loading| move |normals: usize| loading.to_hold_out(normals);
        let tenth = held(Loading::default());
        for (normals, expected) in [(3, 0), (4, 1), (12, 3), (40, 10), (99, 10), (300, 30), (1000, 100)] {
            assert_eq!(tenth(normals).unwrap(), expected, "{normals}");
        }
        let one_percent = held(Loading { bearing: 99, ..Loading::default() });
        for (normals, expected) in [(4, 1), (300, 30), (395, 39), (396, 99), (989, 99), (1000, 100)] {
            assert_eq!(one_percent(normals).unwrap(), expected, "{normals}");
        }
        let given = held(Loading { held_out: Some(20), bearing: 99, ..Loading::default() });
        assert_eq!((given(23).unwrap(), given(1000).unwrap()), (20, 20));
        let refused = given(22).unwrap_err().to_string();
        assert!(refused.contains("--held-out is 20: there are 22 normal images"), "{refused}");
        assert_eq!(held(Loading { held_out: Some(0), ..Loading::default() })(300).unwrap(), 0);
    }
}
