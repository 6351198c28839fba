//! Public datasets of one category each, by the layouts of their folders; and a task written in MVTec AD's.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::{Deserialize, Serialize};

use super::decode::{Channels, Stored};
use super::files::{self, Entry, LeftOut, Mask, Masks};
use super::records::{Columns, Records};
use super::source::{Listed, Purpose};
use super::{DataError, KEPT_STREAM, Loading, Set, Task, Truth, component};
use crate::engine::philox::Stream;

/// One category of a dataset in a known layout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Category {
    #[serde(skip)]
    pub layout: Layout,
    /// Folder of the categories.
    pub root: PathBuf,
    /// Such as `bottle`.
    pub category: String,
    /// The only defect to test, such as `broken_large`; by default all defects are tested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub defect: Option<String>,
}

/// The layouts of public datasets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    #[default]
    Mvtec,
    MvtecAd2,
    MvtecLoco,
    Mpdd,
    Btad,
    Visa,
    Kolektor,
    Kolektor2,
    Dagm,
}

/// Folders below a category's: those of normal training images, and that of folders of test images.
struct Tree {
    train: &'static [&'static str],
    test: &'static str,
    masks: &'static str,
    /// The name of the folder of normal test images.
    good: &'static str,
}

/// Folders below a category's in which images lie beside their masks.
struct Beside {
    /// `None` if train and test are not told apart.
    train: Option<&'static str>,
    test: &'static str,
    /// What follows an image's name in that of its mask, which lies beside it or in a folder `Label`.
    suffix: &'static str,
    /// Whether normal images have a mask, too.
    all_have_masks: bool,
}

enum Rule {
    Tree(Tree),
    Beside(Beside),
    /// A table of all categories below the root.
    Table(&'static str),
}

impl Layout {
    pub const ALL: [Self; 9] = {
        use Layout::*;
        [Mvtec, MvtecAd2, MvtecLoco, Mpdd, Btad, Visa, Kolektor, Kolektor2, Dagm]
    };

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Layout::Mvtec => "mvtec",
            Layout::MvtecAd2 => "mvtec-ad2",
            Layout::MvtecLoco => "mvtec-loco",
            Layout::Mpdd => "mpdd",
            Layout::Btad => "btad",
            Layout::Visa => "visa",
            Layout::Kolektor => "kolektor",
            Layout::Kolektor2 => "kolektor2",
            Layout::Dagm => "dagm",
        }
    }

    /// What it is, for help.
    pub fn about(self) -> &'static str {
        match self {
            Layout::Mvtec => "MVTec AD",
            Layout::MvtecAd2 => "MVTec AD 2: the public test images",
            Layout::MvtecLoco => "MVTec LOCO",
            Layout::Mpdd => "MPDD",
            Layout::Btad => "BTAD",
            Layout::Visa => "VisA with its split_csv/1cls.csv",
            Layout::Kolektor => "KolektorSDD: the category is the name of its folder",
            Layout::Kolektor2 => "KolektorSDD2: the category is the name of its folder",
            Layout::Dagm => "DAGM 2007: categories Class1 and so on",
        }
    }

    fn rule(self) -> Rule {
        let (train, test, masks, good) = (&["train/good"][..], "test", "ground_truth", "good");
        let tree = Tree { train, test, masks, good };
        match self {
            Layout::Mvtec | Layout::Mpdd => Rule::Tree(tree),
            Layout::MvtecLoco => Rule::Tree(Tree { train: &["train/good", "validation/good"], ..tree }),
            Layout::MvtecAd2 => Rule::Tree(Tree {
                train: &["train/good", "validation/good"],
                test: "test_public",
                masks: "test_public/ground_truth",
                good,
            }),
            Layout::Btad => Rule::Tree(Tree { train: &["train/ok"], good: "ok", ..tree }),
            Layout::Visa => Rule::Table("split_csv/1cls.csv"),
            Layout::Kolektor => Rule::Beside(Beside { train: None, test: "", suffix: "_label", all_have_masks: true }),
            Layout::Kolektor2 => {
                Rule::Beside(Beside { train: Some("train"), test: "test", suffix: "_GT", all_have_masks: true })
            }
            Layout::Dagm => {
                Rule::Beside(Beside { train: Some("Train"), test: "Test", suffix: "_label", all_have_masks: false })
            }
        }
    }

    /// The layout as a drawing, for errors.
    fn drawn(self) -> String {
        let lines: Vec<String> = match self.rule() {
            Rule::Tree(Tree { train, test, masks, good }) => train
                .iter()
                .map(|train| format!("<category>/{train}/000.png …"))
                .chain([
                    format!("<category>/{test}/{good}/000.png …"),
                    format!("<category>/{test}/<defect>/000.png …"),
                    format!(
                        "<category>/{masks}/<defect>/000_mask.png, 000.png or a folder 000 of masks …, if there are masks"
                    ),
                ])
                .collect(),
            Rule::Beside(Beside { train, test, suffix, .. }) => train
                .into_iter()
                .chain([test])
                .map(|folder| {
                    let folder = if folder.is_empty() { "…" } else { folder };
                    format!("<category>/{folder}/000.png … with masks 000{suffix}.png beside them or in a folder Label")
                })
                .collect(),
            Rule::Table(file) => vec![
                format!("{file}: a table with the columns object, split, label, image and mask"),
                "<category>/Data/Images/… as the table says".to_owned(),
            ],
        };
        lines.iter().map(|line| format!("    <root>/{line}")).collect::<Vec<_>>().join("\n")
    }
}

impl Category {
    pub(super) fn check(&self) -> Result<(), DataError> {
        let setting = |problem: String| Err(DataError::Setting(problem));
        if self.category.is_empty() {
            return setting("--category is empty: it must be a folder's name, such as `bottle`".to_owned());
        }
        let good = match self.layout.rule() {
            Rule::Tree(tree) => tree.good,
            _ if self.defect.is_some() => {
                return setting(format!("--defect: the images of {} have one kind of defect", self.layout.name()));
            }
            _ => return Ok(()),
        };
        match self.defect.as_deref() {
            Some(defect) if defect == good => {
                setting(format!("--defect is `{good}`: it must be a defect, such as `broken_large`"))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn list(&self, loading: &Loading, purpose: Purpose) -> Result<Listed, DataError> {
        if !self.root.is_dir() {
            return Err(DataError::NoFolder { path: self.root.clone() });
        }
        let mut left_out = LeftOut::default();
        let (train, test) = match self.layout.rule() {
            Rule::Tree(tree) => self.list_tree(&tree, purpose, &mut left_out)?,
            Rule::Beside(beside) => self.list_beside(&beside, loading, purpose, &mut left_out)?,
            Rule::Table(file) => self.list_table(file, purpose)?,
        };
        let conversion = loading.conversion(files::SIDE, Channels::Rgb).for_files(loading, [&train, &test]);
        let [train, test] = files::sets([train, test], conversion, loading)?;
        let category = match &self.defect {
            Some(defect) => format!("{}-{}", component(&self.category), component(defect)),
            None => component(&self.category),
        };
        let dataset = self.layout.name().to_owned();
        let task = Task { dataset, category, train, held_out: None, tune: None, test };
        Ok(Listed { task, conversion, left_out })
    }

    fn wrong(&self, problem: String, shown: &Path) -> DataError {
        DataError::Layout {
            dataset: self.layout.name(),
            root: self.root.clone(),
            problem,
            expected: self.layout.drawn(),
            found: found(shown),
        }
    }

    /// The folder of the category.
    fn folder(&self) -> Result<PathBuf, DataError> {
        let folder = self.root.join(&self.category);
        match folder.is_dir() {
            true => Ok(folder),
            false => {
                Err(self.wrong(format!("there is no category `{}`", files::printable(&self.category)), &self.root))
            }
        }
    }

    /// The images to train and to test on, where each kind of test image has its folder.
    fn list_tree(
        &self,
        tree: &Tree,
        purpose: Purpose,
        left_out: &mut LeftOut,
    ) -> Result<(Vec<Entry>, Vec<Entry>), DataError> {
        let folder = self.folder()?;
        let trains = if purpose == Purpose::Train { tree.train } else { &[] };
        if let Some(part) = trains.iter().chain([&tree.test]).find(|part| !folder.join(part).is_dir()) {
            return Err(self.wrong(format!("{} has no {part}", folder.display()), &folder));
        }
        let test_folder = folder.join(tree.test);
        let mut kinds = files::folders(&test_folder)?;
        // MVTec AD 2 has its masks among the test images.
        kinds.retain(|kind| test_folder.join(kind) != folder.join(tree.masks));
        if let Some(defect) = self.defect.as_ref().filter(|&defect| !kinds.iter().any(|kind| kind == defect.as_str())) {
            let problem = format!("there is no defect `{}` in {}", files::printable(defect), test_folder.display());
            return Err(self.wrong(problem, &test_folder));
        }

        let mut train = Vec::new();
        for part in trains {
            let listed = files::list(&folder.join(part), &format!("{part}/"), left_out)?;
            train.extend(listed.into_iter().map(Entry::good));
        }
        let has_masks = folder.join(tree.masks).is_dir();
        if !has_masks && folder.join(tree.masks).exists() {
            return Err(self.wrong(format!("{} is not a folder", folder.join(tree.masks).display()), &folder));
        }
        let train_folders = trains.iter().filter_map(|part| Some(folder.join(part).parent()?.to_owned()));
        for beside in train_folders.chain([test_folder.clone()]) {
            (0..files::loose(&beside)).for_each(|_| left_out.add("beside the folders of kinds"));
        }
        let mut test = Vec::new();
        let wanted =
            |kind: &&OsString| **kind == *tree.good || self.defect.as_ref().is_none_or(|defect| **kind == **defect);
        for kind in kinds.iter().filter(wanted) {
            let (masks, name) = (folder.join(tree.masks).join(kind), files::printable(kind));
            let (is_good, anomaly) = (name == tree.good, Truth::anomaly(&name));
            let masks = match masks.is_dir() && !is_good {
                true => Masks::list(&masks, left_out)?,
                false => Masks::default(),
            };
            for entry in files::list(&test_folder.join(kind), &format!("{}/{name}/", tree.test), left_out)? {
                test.push(match is_good {
                    true => Entry { mask: if has_masks { Mask::Blank } else { Mask::Unknown }, ..entry.good() },
                    false => Entry { mask: masks.of(entry.name.below()), truth: anomaly.clone(), ..entry },
                });
            }
            left_out.add_unused([&masks], &test);
        }
        Ok((train, test))
    }

    /// The images to train and to test on, where a mask beside an image tells whether it has a defect. Training images with a defect
    /// are left out.
    fn list_beside(
        &self,
        beside: &Beside,
        loading: &Loading,
        purpose: Purpose,
        left_out: &mut LeftOut,
    ) -> Result<(Vec<Entry>, Vec<Entry>), DataError> {
        let folder = self.folder()?;
        if let Some(part) = beside.train.iter().chain([&beside.test]).find(|part| !folder.join(part).is_dir()) {
            return Err(self.wrong(format!("{} has no {part}", folder.display()), &folder));
        }
        let mut labelled = |part: &str| -> Result<Vec<Entry>, DataError> {
            let prefix = if part.is_empty() { String::new() } else { format!("{part}/") };
            let listed = files::list(&folder.join(part), &prefix, left_out)?;
            let labelled = with_masks(listed, beside.suffix, loading.max_pixels);
            match labelled.iter().find(|entry| beside.all_have_masks && entry.mask == Mask::Blank) {
                Some(bare) => Err(self.wrong(format!("{} has no mask", bare.name.path().display()), &folder)),
                None => Ok(labelled),
            }
        };
        let test = labelled(beside.test)?;
        let mut train = match (beside.train, purpose) {
            (_, Purpose::Test) => return Ok((Vec::new(), test)),
            (Some(part), _) => labelled(part)?,
            (None, _) => return Ok(kept_apart(test, 0.2, loading.seed)),
        };
        let all = train.len();
        train.retain(Entry::is_normal);
        (train.len()..all).for_each(|_| left_out.add("as training images with a defect"));
        Ok((train, test))
    }

    /// The images to train and to test on, as a table says.
    fn list_table(&self, file: &str, purpose: Purpose) -> Result<(Vec<Entry>, Vec<Entry>), DataError> {
        let path = self.root.join(file);
        if !path.is_file() {
            return Err(self.wrong(format!("there is no {file}"), &self.root));
        }
        let columns = Columns { path: "image", category: Some(("object", &self.category)) };
        let records = Records::read(&path, &self.root, columns)?;
        if records.is_empty() {
            let problem = format!("{file} has no images of a category `{}`", files::printable(&self.category));
            return Err(self.wrong(problem, &self.root));
        }
        let [train, _, test] = records.sets(&path, purpose)?;
        Ok((train, test))
    }
}

/// The images with their masks, which are listed among them. An image is an anomaly if its mask marks a defect.
fn with_masks(listed: Vec<Entry>, suffix: &str, max_pixels: u64) -> Vec<Entry> {
    let (masks, images): (Vec<Entry>, Vec<Entry>) =
        listed.into_iter().partition(|entry| stem(entry.name.below()).ends_with(suffix));
    let known: HashMap<PathBuf, PathBuf> = masks
        .into_iter()
        .map(|mask| {
            // A folder `Label` lies beside the images.
            let is_label = |folder: &&Path| folder.file_name().is_some_and(|name| name.eq_ignore_ascii_case("label"));
            let beside = mask.name.below().parent().filter(is_label).unwrap_or(mask.name.below());
            let image = beside.with_file_name(stem(mask.name.below()).trim_end_matches(suffix));
            (image, mask.name.path())
        })
        .collect();
    let marked = |path: &PathBuf| Stored::read(path, max_pixels).map_or(true, |mask| mask.has_defects());
    let defect = Truth::anomaly("defect");
    let labelled = images.into_iter().map(|entry| match known.get(&entry.name.below().with_extension("")) {
        Some(mask) => {
            let truth = if marked(mask) { defect.clone() } else { Truth::good() };
            Entry { truth, mask: Mask::Files([mask.clone()].into()), ..entry }
        }
        None => Entry { mask: Mask::Blank, ..entry.good() },
    });
    labelled.collect()
}

fn stem(path: &Path) -> String {
    path.file_stem().map(files::printable).unwrap_or_default()
}

/// Normal images to train on; and to test on, this share of the normal images, drawn by `seed`, and all anomalies.
pub(super) fn kept_apart(entries: Vec<Entry>, share: f64, seed: u64) -> (Vec<Entry>, Vec<Entry>) {
    let (normal, mut test): (Vec<Entry>, Vec<Entry>) = entries.into_iter().partition(Entry::is_normal);
    let kept = (normal.len() as f64 * share).round() as usize;
    let order = Stream::new(seed, KEPT_STREAM).permutation(normal.len());
    let kept: BTreeSet<usize> = order.into_iter().take(kept).collect();
    let (mut train, mut kept_normal) = (Vec::new(), Vec::new());
    for (index, entry) in normal.into_iter().enumerate() {
        if kept.contains(&index) { kept_normal.push(entry) } else { train.push(entry) }
    }
    kept_normal.append(&mut test);
    (train, kept_normal)
}

/// The folders in `folder`, one per line, with their contents.
fn found(folder: &Path) -> String {
    const LINES: usize = 16;
    let names = files::folders(folder).unwrap_or_default();
    let mut lines: Vec<String> = names
        .iter()
        .take(LINES)
        .map(|name| {
            let inner = files::folders(&folder.join(name)).unwrap_or_default();
            let count = folder.join(name).read_dir().map_or(0, Iterator::count) - inner.len();
            let inner: String = inner.iter().map(|name| format!(" {}/", files::printable(name))).collect();
            format!("    {}/{}/  {count} files{inner}", folder.display(), files::printable(name))
        })
        .collect();
    match names.len() {
        0 => lines.push(format!("    {}/  without folders", folder.display())),
        count if count > LINES => lines.push(format!("    and {} more", count - LINES)),
        _ => {}
    }
    lines.join("\n")
}

/// Writes a transductive task to `root/<category>` in MVTec AD's layout: `train/good`, `test/good`, `test/<kind>`, and masks in
/// `ground_truth/<kind>/NNN_mask.png`. Images are 8 bit PNGs, numbered from 000 in each folder. Held-out images are written to
/// `train/good` after the training images; whoever reads the folder holds out its own share.
///
/// # Errors
/// When the folder already exists, or cannot be written to.
///
/// # Panics
/// When the images are neither grey nor RGB.
pub fn write(root: &Path, task: &Task) -> Result<PathBuf, DataError> {
    let folder = root.join(component(&task.category));
    let unwritable = |path: &Path, source: io::Error| DataError::Unwritable { path: path.to_owned(), source };
    fs::create_dir_all(root).map_err(|error| unwritable(root, error))?;
    match fs::create_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(DataError::Occupied { path: folder });
        }
        other => other.map_err(|error| unwritable(&folder, error))?,
    }
    let train = match &task.held_out {
        Some(held_out) => &task.train.clone().join(held_out.clone()),
        None => &task.train,
    };
    write_set(&folder, "train", train)?;
    write_set(&folder, "test", &task.test)?;
    Ok(folder)
}

fn write_set(folder: &Path, name: &str, set: &Set) -> Result<(), DataError> {
    let [_, channels, height, width] = set.images.shape();
    assert!(set.images.len() == set.len(), "images that are not cut into tiles");
    assert!(channels == 1 || channels == 3, "{channels} channels are neither grey nor RGB");
    let mut numbers = BTreeMap::new();
    for (row, truth) in set.truths.iter().enumerate() {
        let image = set.images.read(&[row])?;
        let image = image.data();
        let kind = match truth.anomalous {
            Some(true) => component(&truth.kind),
            _ => "good".to_owned(),
        };
        let number = numbers.entry(kind.clone()).or_insert(0);
        let levels: Vec<u8> = (0..height * width)
            .flat_map(|pixel| (0..channels).map(move |channel| image[channel * height * width + pixel]))
            .map(|level| (255.0 * level.clamp(0.0, 1.0)).round() as u8)
            .collect();
        let colour = if channels == 1 { image::ColorType::L8 } else { image::ColorType::Rgb8 };
        save(&folder.join(name).join(&kind).join(format!("{number:03}.png")), &levels, [width, height], colour)?;
        if let Some(mask) = set.images.mask(row)?.filter(|_| truth.anomalous == Some(true)) {
            let levels: Vec<u8> = mask.iter().map(|&covered| if covered { 255 } else { 0 }).collect();
            let path = folder.join("ground_truth").join(&kind).join(format!("{number:03}_mask.png"));
            save(&path, &levels, [width, height], image::ColorType::L8)?;
        }
        *number += 1;
    }
    Ok(())
}

fn save(path: &Path, levels: &[u8], [width, height]: [usize; 2], colour: image::ColorType) -> Result<(), DataError> {
    let unwritable = |source: io::Error| DataError::Unwritable { path: path.to_owned(), source };
    fs::create_dir_all(path.parent().expect("a folder")).map_err(unwritable)?;
    image::save_buffer(path, levels, width as u32, height as u32, colour)
        .map_err(|error| unwritable(io::Error::other(error)))
}
