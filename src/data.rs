//! Datasets: images with their labels and masks, read from files or painted.
//!
//! [`load`] makes a [`Task`] from a [`Source`], which says where the images come from, and a [`Loading`], which says how they are
//! read. Both are plain data that a TOML file or the command line can set. Training sees only the [`Visible`] part of a task.
//!
//! Images go one road. They are listed, the sets are drawn, each image that was drawn is decoded once and put into a cache, and from
//! then on batches are read from there. So memory does not grow with the number of images, and nothing is decoded that is not used.

mod batches;
mod cache;
pub mod category;
mod files;
pub mod folder;
mod identical;
mod images;
mod listing;
pub mod mat;
pub mod decode;
mod names;
pub mod paint;
pub mod records;
pub mod sheet;
mod source;
pub mod svhn;
mod table;
pub mod tiles;

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

pub use batches::Batches;
pub(crate) use cache::STEPS;
pub(crate) use decode::LUMA;
pub use decode::{Channels, Conversion, DecodeError, Geometry, Levels, Resize, Size};
pub use files::{BadImage, Files, LeftOut, as_text};
pub use identical::{Identical, Seen};
pub use images::{Images, Original};
pub use listing::{Batch, Listing, ReadFile, Watched};
pub use names::Name;
pub use source::{KINDS, Loaded, Loading, OnBadImage, Source, Split, load, load_test, whole};
pub use table::SplitTable;
pub use tiles::Raster;

use crate::engine::philox::Stream;
use images::Digest;

/// The random streams for drawing tasks; streams for other purposes have other numbers.
const SPLIT_STREAM: u32 = 0x5711;
const HALVES_STREAM: u32 = 0x5712;
const SAMPLE_STREAM: u32 = 0x5713;
const KEPT_STREAM: u32 = 0x5714;
const HELD_OUT_STREAM: u32 = 0x5715;

/// The file that marks a folder to which stssad writes results.
pub const MARKER: &str = "stssad.json";
/// The images, and the folder of images, that stssad writes to such a folder. They are never read as images of a dataset, so
/// results may lie among the images that they are about.
pub const REPORT_IMAGES: [&str; 5] = ["curves.png", "pictures.png", "histogram.png", "roc.png", "images"];

/// What is wrong with the data, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    #[error("{}", no_folder(path))]
    NoFolder { path: PathBuf },
    /// A file or folder could not be read.
    #[error("cannot read {}: check that it exists and is readable", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("cannot write {}: check that the folder is writable and the disk is not full", path.display())]
    Unwritable { path: PathBuf, source: io::Error },
    #[error("{} already exists: choose another folder", path.display())]
    Occupied { path: PathBuf },
    #[error("{} {}", path.display(), files::no_images(left_out))]
    NoImages { path: PathBuf, left_out: LeftOut },
    /// A mask was found for two images.
    #[error(
        "{} would be the mask of both {} and {}: put each mask at its image's path below the folder of masks, as in a/003_mask.png for \
         a/003.jpg, or give each --abnormal-dir its own --mask-dir; in a table, give each anomaly its own mask",
        files::printable(mask),
        files::printable(one),
        files::printable(other)
    )]
    SharedMask { mask: PathBuf, one: PathBuf, other: PathBuf },
    #[error("{} does not have the layout of `{dataset}`: {problem}\n  expected\n{expected}\n  found\n{found}", root.display())]
    Layout { dataset: &'static str, root: PathBuf, problem: String, expected: String, found: String },
    /// All unusable images, each with the reason.
    #[error(
        "{} of {of} images cannot be used; repair or remove them, or leave them out with --on-bad-image skip{}",
        bad.len(), lines(bad)
    )]
    BadImages { bad: Vec<BadImage>, of: usize },
    /// An image that was decoded before can no longer be.
    #[error("{0}, although it could be read before: keep the files in place until the run is finished")]
    Vanished(BadImage),
    #[error("{} is not a readable MATLAB file", path.display())]
    Mat { path: PathBuf, source: mat::MatError },
    /// A setting is out of range, or contradicts another setting or the data.
    #[error("{0}")]
    Setting(String),
    /// The width or height of the sheet is not a multiple of the tile's side.
    #[error(
        "{} has {width}×{height} pixels, which is not a whole number of {tile}×{tile} tiles: \
         check the tile size, and that the sheet has no border or gaps",
        path.display()
    )]
    Ragged { path: PathBuf, width: u32, height: u32, tile: usize },
    /// A class or set has too few images.
    #[error("there are {found} {kind} images, but {wanted} are needed: add images, or use fewer")]
    TooFew { kind: &'static str, found: usize, wanted: usize },
    /// A set has no images.
    #[error("the {set} set is empty: it needs at least one image")]
    Empty { set: &'static str },
    /// The two classes differ in channels, height or width.
    #[error(
        "normal images have shape {normal:?} and anomalies {anomaly:?} (channels, height, width): \
         convert both to one size and one number of channels"
    )]
    Mismatch { normal: Vec<usize>, anomaly: Vec<usize> },
    /// No two images of the task differ.
    #[error("all {count} images are identical, so there is nothing to learn and nothing to find: check the folders")]
    Identical { count: usize },
    /// A batch is empty, or larger than its set.
    #[error("a batch of {batch} cannot be drawn from {count} images: use a batch between 1 and {count}")]
    Batch { batch: usize, count: usize },
}

fn no_folder(path: &Path) -> String {
    match path.is_file() {
        true => format!("{} is a file: give the folder that it lies in", path.display()),
        false => format!("there is no folder {}: check the path", path.display()),
    }
}

fn lines(bad: &[BadImage]) -> String {
    bad.iter().map(|image| format!("\n  {image}")).collect()
}

/// The label of an image. Only metrics and reports use labels and masks: training and tuning get [`Visible`] sets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Truth {
    /// Whether it is an anomaly; `None` if unknown.
    pub anomalous: Option<bool>,
    /// `good`, the name of the defect or class, or empty if unknown.
    pub kind: Arc<str>,
}

static UNKNOWN: LazyLock<Arc<Truth>> = LazyLock::new(Arc::default);
static GOOD: LazyLock<Arc<Truth>> = LazyLock::new(|| Truth { anomalous: Some(false), kind: "good".into() }.into());

/// Images of one kind share their label, since there may be many.
impl Truth {
    fn unknown() -> Arc<Self> {
        UNKNOWN.clone()
    }

    fn good() -> Arc<Self> {
        GOOD.clone()
    }

    fn anomaly(kind: &str) -> Arc<Self> {
        Truth { anomalous: Some(true), kind: kind.into() }.into()
    }
}

/// Images with their labels.
#[derive(Clone, Debug)]
pub struct Set {
    pub images: Images,
    pub names: Vec<Name>,
    /// Images of one kind share theirs.
    pub truths: Vec<Arc<Truth>>,
    /// If each image is cut into tiles: the first row in `images` of each, and the number of all rows. Training sees the tiles as
    /// images of their own.
    views: Option<Vec<usize>>,
}

/// Ends every text of a fingerprint: a byte that UTF-8 never contains, so that different lists never hash alike.
const END: &[u8] = &[0xff];

impl Set {
    /// Images of one class, named `name#0`, `name#1`, …
    pub fn of_class(images: Images, name: &str, kind: &str, anomalous: bool) -> Self {
        let (count, truth) = (images.len(), Arc::new(Truth { anomalous: Some(anomalous), kind: kind.into() }));
        let names = Name::all((0..count).map(|row| format!("{name}#{row}")));
        Set { images, names: names.collect(), truths: vec![truth; count], views: None }
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The images `rows`, in that order.
    ///
    /// # Panics
    /// When a row is out of range.
    pub fn select(&self, rows: &[usize]) -> Set {
        let mut views = self.views.as_ref().map(|_| vec![0]);
        let mut seen = Vec::with_capacity(rows.len());
        for &row in rows {
            seen.extend(self.views(row));
            views.iter_mut().for_each(|views| views.push(seen.len()));
        }
        Set {
            images: self.images.select(&seen),
            names: rows.iter().map(|&row| self.names[row].clone()).collect(),
            truths: rows.iter().map(|&row| self.truths[row].clone()).collect(),
            views,
        }
    }

    /// The rows in `images` of an image: itself, or its tiles.
    pub fn views(&self, row: usize) -> Range<usize> {
        self.views.as_ref().map_or(row..row + 1, |views| views[row]..views[row + 1])
    }

    /// The score of each image, given those of its tiles: the greatest of them, and its row in `images`.
    ///
    /// # Panics
    /// When there is not a score for each row of `images`.
    pub fn most_anomalous(&self, scores: &[f64]) -> impl ExactSizeIterator<Item = (f64, usize)> {
        assert_eq!(scores.len(), self.images.len(), "a score for each view");
        (0..self.len()).map(|row| tiles::greatest(scores, self.views(row)))
    }

    /// What tells an image apart.
    fn digest(&self, row: usize) -> Result<Digest, DataError> {
        let views = self.views(row);
        if views.len() == 1 {
            return self.images.digest(views.start);
        }
        Ok(Digest::of_tiles(&views.map(|view| self.images.digest(view)).collect::<Result<Vec<_>, _>>()?))
    }

    /// An image for a fingerprint, with its mask or without.
    fn described(&self, row: usize, with_mask: bool) -> Result<Vec<u8>, DataError> {
        let (digest, truth) = (self.digest(row)?, &self.truths[row]);
        let mask = digest.mask.filter(|_| with_mask).map(|mask| mask.hash);
        let what = format!("{:?} {:?} {mask:?}", truth.anomalous, digest.image);
        let texts = [self.names[row].to_string(), truth.kind.to_string(), what];
        Ok(texts.iter().flat_map(|text| [text.as_bytes(), END].concat()).collect())
    }

    /// The images of `self`, then those of `other`.
    ///
    /// # Panics
    /// When they differ in shape.
    pub fn join(self, other: Set) -> Set {
        assert_eq!(self.views.is_some(), other.views.is_some(), "both sets are cut into tiles, or none is");
        let count = self.images.len();
        let views = self.views.zip(other.views).map(|(mut views, others)| {
            views.extend(others.into_iter().skip(1).map(|view| count + view));
            views
        });
        let (names, truths) = ([self.names, other.names].concat(), [self.truths, other.truths].concat());
        Set { images: self.images.join(other.images), names, truths, views }
    }

    /// Whether each image is an anomaly; `None` if that is unknown for any image.
    pub fn labels(&self) -> Option<Vec<bool>> {
        self.truths.iter().map(|truth| truth.anomalous).collect()
    }

    /// The rows with this label: anomalies, normal images, or with `None` unlabelled images.
    pub fn rows(&self, anomalous: Option<bool>) -> Vec<usize> {
        (0..self.len()).filter(|&row| self.truths[row].anomalous == anomalous).collect()
    }
}

/// A detection task: the sets of images.
#[derive(Clone, Debug)]
pub struct Task {
    /// `mvtec`, `folder`, …: the name on the command line and in the path of the results.
    pub dataset: String,
    /// Such as `bottle-crack` or `6-9`; a valid name for a folder.
    pub category: String,
    /// `D_trn`: normal images.
    pub train: Set,
    /// Normal images that are used neither for training nor for tuning: their scores set the threshold. `None` if there are too few
    /// normal images to hold any out.
    pub held_out: Option<Set>,
    /// `D_val` of an inductive split, disjoint from `test`; `None` in a transductive one, where it is `test` unlabelled.
    pub tune: Option<Set>,
    /// The images to score.
    pub test: Set,
}

/// The part of a task that training and tuning see: no labels, no masks, no names.
#[derive(Clone, Copy, Debug)]
pub struct Visible<'a> {
    /// `D_trn`.
    pub train: &'a Images,
    /// `D_val`.
    pub val: &'a Images,
}

impl Task {
    /// This task, tuned on unlabelled images if there are any; without test images they are also the test.
    fn tuned_on(unlabelled: Set, task: Task) -> Task {
        match (task.test.is_empty(), unlabelled.is_empty()) {
            (true, false) => Task { test: unlabelled, ..task },
            (false, false) => Task { tune: Some(unlabelled), ..task },
            (_, true) => task,
        }
    }

    /// The sets, each with its name.
    fn sets(&self) -> impl Iterator<Item = (&'static str, &Set)> {
        let sets = [
            ("train", Some(&self.train)),
            ("held out", self.held_out.as_ref()),
            ("tune", self.tune.as_ref()),
            ("test", Some(&self.test)),
        ];
        sets.into_iter().filter_map(|(name, set)| Some((name, set?)))
    }

    /// Whether the test images are tuned on.
    pub fn split(&self) -> Split {
        if self.tune.is_some() { Split::Inductive } else { Split::Transductive }
    }

    /// The sets without their labels.
    pub fn visible(&self) -> Visible<'_> {
        Visible { train: &self.train.images, val: &self.tune.as_ref().unwrap_or(&self.test).images }
    }

    /// Draws a transductive task from a normal and an anomalous class: `train` normal images to train on, and in random order
    /// `test_normals` other normal images and `test_anomalies` anomalies to test on. The draw depends on `seed` only. The dataset is
    /// named `semantic`, and the category after the kinds, such as `6-9`.
    ///
    /// # Errors
    /// When a class has too few images, the classes differ in shape, or a set would be empty.
    pub fn semantic(
        normal: &Set,
        anomaly: &Set,
        train: usize,
        test_normals: usize,
        test_anomalies: usize,
        seed: u64,
    ) -> Result<Self, DataError> {
        let (image, other) = (&normal.images.shape()[1..], &anomaly.images.shape()[1..]);
        if image != other {
            return Err(DataError::Mismatch { normal: image.to_vec(), anomaly: other.to_vec() });
        }
        let normals = train.saturating_add(test_normals);
        let checks = [("normal", normal.len(), normals), ("anomalous", anomaly.len(), test_anomalies)];
        if let Some((kind, found, wanted)) = checks.into_iter().find(|(_, found, wanted)| found < wanted) {
            return Err(DataError::TooFew { kind, found, wanted });
        }
        if let Some((set, _)) =
            [("training", train), ("test", test_normals + test_anomalies)].into_iter().find(|&(_, count)| count == 0)
        {
            return Err(DataError::Empty { set });
        }

        let mut stream = Stream::new(seed, SPLIT_STREAM);
        let drawn_normals = stream.permutation(normal.len());
        let drawn_anomalies = stream.permutation(anomaly.len());
        let order = stream.permutation(test_normals + test_anomalies);
        let normals = normal.select(&drawn_normals[train..train + test_normals]);
        let anomalies = anomaly.select(&drawn_anomalies[..test_anomalies]);
        let kind = |set: &Set| component(&set.truths[0].kind);
        Ok(Task {
            dataset: "semantic".to_owned(),
            category: match anomaly.is_empty() {
                true => kind(normal),
                false => format!("{}-{}", kind(normal), kind(anomaly)),
            },
            train: normal.select(&drawn_normals[..train]),
            held_out: None,
            tune: None,
            test: normals.join(anomalies).select(&order),
        })
    }

    /// The inductive form of a transductive task: half of the images of each kind in `test`, drawn by `seed`, become the images to
    /// tune on.
    pub fn halved(self, seed: u64) -> Self {
        let mut strata = BTreeMap::<_, Vec<usize>>::new();
        for (row, truth) in self.test.truths.iter().enumerate() {
            strata.entry((truth.anomalous, &truth.kind)).or_default().push(row);
        }
        let mut stream = Stream::new(seed, HALVES_STREAM);
        let dealt: Vec<usize> = strata
            .values()
            .flat_map(|rows| stream.permutation(rows.len()).into_iter().map(|index| rows[index]))
            .collect();
        let half = |first: usize| {
            let mut rows: Vec<usize> = dealt.iter().copied().skip(first).step_by(2).collect();
            rows.sort_unstable();
            self.test.select(&rows)
        };
        Task { tune: Some(half(0)), test: half(1), ..self }
    }

    /// Holds `held` training images out, drawn by `seed`.
    ///
    /// # Panics
    /// When there are fewer.
    pub fn held_out(self, held: usize, seed: u64) -> Self {
        if held == 0 {
            return self;
        }
        let order = Stream::new(seed, HELD_OUT_STREAM).permutation(self.train.len());
        let (held, trained) = order.split_at(held);
        let [held, trained] = [held, trained].map(|rows| {
            let mut rows = rows.to_vec();
            rows.sort_unstable();
            self.train.select(&rows)
        });
        Task { train: trained, held_out: Some(held), ..self }
    }

    /// A fingerprint of the data, 32 hexadecimal digits of BLAKE3: it is equal exactly for the same images, names and labels in the
    /// same sets.
    ///
    /// # Errors
    /// When an image that was not decoded before cannot be.
    pub fn fingerprint(&self) -> Result<String, DataError> {
        let mut hasher = blake3::Hasher::new();
        for (name, set) in self.sets() {
            hasher.update(format!("{name} {:?}", set.images.shape()).as_bytes());
            hasher.update(END);
            for row in 0..set.len() {
                hasher.update(&set.described(row, true)?);
            }
        }
        Ok(hasher.finalize().to_hex()[..32].to_owned())
    }

    /// As [`fingerprint`](Self::fingerprint), whatever sets the images are in.
    ///
    /// # Errors
    /// As [`fingerprint`](Self::fingerprint).
    fn pooled_fingerprint(&self) -> Result<String, DataError> {
        let mut images = Vec::new();
        for (_, set) in self.sets() {
            for row in 0..set.len() {
                // A normal image has a blank mask or none, as its set needs it.
                images.push(set.described(row, set.truths[row].anomalous == Some(true))?);
            }
        }
        images.sort_unstable();
        let mut hasher = blake3::Hasher::new();
        hasher.update(format!("{:?}", &self.train.images.shape()[1..]).as_bytes());
        hasher.update(END);
        images.iter().for_each(|image| {
            hasher.update(image);
        });
        Ok(hasher.finalize().to_hex()[..32].to_owned())
    }
}

/// Turns `name` into one component of a path that is valid on every system: ASCII letters, digits, `-`, `_` and inner dots stay, all
/// other characters become `_`. A changed or long name gets eight digits of its hash, so that different names stay different.
pub fn component(name: &str) -> String {
    const LONGEST: usize = 80;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let safe: String = name.chars().take(LONGEST).map(|c| if plain(c) { c } else { '_' }).collect();
    let safe = safe.trim_matches('.');
    match safe == name && !name.is_empty() {
        true => safe.to_owned(),
        false => format!("{safe}-{}", &blake3::hash(name.as_bytes()).to_hex()[..8]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::tensor::Tensor;

    /// `count` images of one pixel each, all different.
    fn pixels(count: usize, first: usize, kind: &str, anomalous: bool) -> Set {
        let levels = (first..first + count).map(|value| value as f32).collect();
        Set::of_class(Images::of(Tensor::new([count, 1, 1, 1], levels)), kind, kind, anomalous)
    }

    fn levels(set: &Set) -> Vec<f32> {
        set.images.all().unwrap().into_data()
    }

    fn print(task: &Task) -> String {
        task.fingerprint().unwrap()
    }

    fn normals(count: usize) -> Set {
        pixels(count, 0, "six", false)
    }

    fn anomalies(count: usize) -> Set {
        pixels(count, 100, "nine", true)
    }

    #[test]
    fn the_sets_of_a_task_are_disjoint_and_its_labels_are_right() {
        let task = Task::semantic(&normals(50), &anomalies(20), 30, 15, 10, 3).unwrap();
        assert_eq!((task.dataset.as_str(), task.category.as_str()), ("semantic", "six-nine"));
        assert_eq!((task.train.len(), task.test.len()), (30, 25));
        let mut seen = [levels(&task.train), levels(&task.test)].concat();
        seen.sort_by(f32::total_cmp);
        seen.dedup();
        assert_eq!(seen.len(), 55);
        assert!(levels(&task.train).iter().all(|&value| value < 50.0));
        let truth: Vec<bool> = levels(&task.test).iter().map(|&value| value >= 100.0).collect();
        assert_eq!(task.test.labels().unwrap(), truth);
        assert!(truth[..10].contains(&true) && truth[..10].contains(&false), "the order is random: {truth:?}");
        let first = levels(&task.test)[0] as usize;
        assert_eq!(
            &*task.test.names[0],
            if first < 100 { format!("six#{first}") } else { format!("nine#{}", first - 100) }
        );
        assert_eq!(task.visible().val.all().unwrap().data(), levels(&task.test));
    }

    #[test]
    fn a_task_depends_only_on_its_seed() {
        let task = |seed| Task::semantic(&normals(50), &anomalies(20), 30, 15, 10, seed).unwrap();
        assert_eq!(print(&task(1)), print(&task(1)));
        assert_ne!(levels(&task(1).train), levels(&task(2).train));
    }

    #[test]
    fn impossible_tasks_are_refused() {
        let task = |anomaly: &Set, counts: [usize; 3]| {
            Task::semantic(&normals(5), anomaly, counts[0], counts[1], counts[2], 0).unwrap_err().to_string()
        };
        assert!(task(&anomalies(5), [4, 2, 1]).starts_with("there are 5 normal images, but 6 are needed"));
        assert!(task(&anomalies(5), [4, 1, 6]).starts_with("there are 5 anomalous images"));
        assert!(task(&anomalies(5), [0, 1, 1]).contains("the training set is empty"));
        assert!(task(&anomalies(5), [1, 0, 0]).contains("the test set is empty"));
        let large = Set::of_class(Images::of(Tensor::full([5, 1, 2, 2], 0.0)), "large", "large", true);
        assert!(task(&large, [1, 1, 1]).contains("[1, 1, 1] and anomalies [1, 2, 2]"));
    }

    #[test]
    fn halves_are_disjoint_and_have_half_of_every_kind() {
        let test = normals(21).join(anomalies(10)).join(pixels(5, 200, "seven", true));
        let (dataset, category) = (String::new(), String::new());
        let task = Task { dataset, category, train: normals(1), held_out: None, tune: None, test };
        let halved = task.clone().halved(1);
        let (tune, test) = (halved.tune.clone().unwrap(), halved.test.clone());
        for kind in ["six", "nine", "seven"] {
            let count = |set: &Set| set.truths.iter().filter(|truth| &*truth.kind == kind).count();
            assert_eq!(count(&tune) + count(&test), count(&task.test), "{kind}");
            assert!(count(&tune).abs_diff(count(&test)) <= 1, "{kind}");
        }
        assert!(tune.names.iter().all(|name| !test.names.contains(name)));
        assert_eq!(halved.visible().val.all().unwrap().data(), levels(&tune));
        assert_eq!(print(&halved), print(&task.clone().halved(1)));
        assert_ne!(print(&halved), print(&task.halved(2)));
    }

    #[test]
    fn held_out_images_are_normal_images_that_are_not_trained_on() {
        let whole = Task::semantic(&normals(60), &anomalies(5), 50, 10, 5, 3).unwrap();
        let task = whole.clone().held_out(10, 1);
        let held = task.held_out.as_ref().unwrap();
        assert_eq!((task.train.len(), held.len(), &task.test.names), (40, 10, &whole.test.names));
        let mut all = [task.train.names.clone(), held.names.clone()].concat();
        all.sort();
        let mut expected = whole.train.names.clone();
        expected.sort();
        assert_eq!(all, expected, "every normal image is in one of both");
        assert_eq!(task.visible().train.all().unwrap().data(), levels(&task.train));
        assert_eq!(print(&task), print(&whole.clone().held_out(10, 1)));
        assert_ne!(print(&task), print(&whole.clone().held_out(10, 2)));

        assert!(whole.held_out(0, 2).held_out.is_none());
    }

    #[test]
    fn labels_exist_for_all_images_or_for_none() {
        let mut set = normals(2).join(anomalies(1));
        assert_eq!(set.labels(), Some(vec![false, false, true]));
        assert_eq!(set.rows(Some(true)), [2]);
        set.truths[1] = Truth::unknown();
        assert_eq!((set.labels(), set.rows(None)), (None, vec![1]));
    }

    #[test]
    fn a_fingerprint_changes_with_every_part_of_the_data() {
        let task = Task::semantic(&normals(9), &anomalies(9), 4, 2, 2, 0).unwrap();
        let changed = |change: fn(&mut Task)| {
            let mut task = task.clone();
            change(&mut task);
            print(&task)
        };
        let masked = |task: &mut Task| {
            let images = task.test.images.all().unwrap();
            let masks = (0..images.shape()[0]).map(|row| (row == 1).then(|| vec![true])).collect();
            task.test.images = Images::with_masks(images, masks);
        };
        let whole = changed(|_| {});
        assert_eq!((whole.len(), &whole), (32, &print(&task)));
        let changes: [fn(&mut Task); 6] = [
            |task| task.held_out = Some(normals(2)),
            |task| task.train.images = Images::of(Tensor::full([4, 1, 1, 1], 0.5)),
            |task| task.test.names[1] = "x".into(),
            |task| Arc::make_mut(&mut task.test.truths[1]).anomalous = None,
            |task| Arc::make_mut(&mut task.test.truths[1]).kind = "x".into(),
            |task| task.tune = Some(task.test.clone()),
        ];
        for (index, change) in changes.into_iter().enumerate() {
            assert_ne!(changed(change), whole, "change {index}");
        }
        assert_ne!(changed(masked), whole);
    }

    #[test]
    fn a_component_stays_in_its_folder() {
        for plain in ["bottle-crack", "6-9", "a.b_c"] {
            assert_eq!(component(plain), plain);
        }
        let long = "x".repeat(3000);
        let odd = ["", ".", "..", "../../etc/passwd", "/", "a\\b", "a\nb", "naïve", "con:", ".hidden", "a b", &long];
        let mut seen: Vec<String> = odd.iter().map(|name| component(name)).collect();
        for name in &seen {
            let path = std::path::Path::new("root").join(name);
            assert_eq!(path.components().count(), 2, "{name}");
            assert!(
                name.is_ascii() && !name.contains(['/', '\\']) && !name.starts_with('.') && name.len() < 100,
                "{name}"
            );
        }
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), odd.len());
    }
}
