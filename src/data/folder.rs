//! Folders of the user's own images, with the arguments of anomalib's `Folder`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize};

use super::category::kept_apart;
use super::decode::Channels;
use super::files::{self, Entry, LeftOut, Mask, Masks};
use super::source::{Listed, Purpose};
use super::{DataError, Loading, Split, Task, Truth, component, names};

/// Folders of normal images, anomalies and unlabelled images. In TOML each list may be a single path.
///
/// * With `abnormal_dir` but without `normal_test_dir`, a share of the normal images is kept for the test.
/// * Unlabelled images are used for tuning. Without labelled test images they are also the test set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Folder {
    /// Name of the task; by default the name of the root folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The folder to which the other paths are relative.
    pub root: PathBuf,
    #[serde(deserialize_with = "one_or_many")]
    pub normal_dir: Vec<PathBuf>,
    /// Each folder is a kind of anomaly, named after the folder.
    #[serde(deserialize_with = "one_or_many")]
    pub abnormal_dir: Vec<PathBuf>,
    #[serde(deserialize_with = "one_or_many")]
    pub normal_test_dir: Vec<PathBuf>,
    /// Masks of the anomalies: one folder for all, or one for each `abnormal_dir`. The mask of `a/003.jpg` below its `abnormal_dir` is
    /// `a/003_mask.png` or `a/003.png` below its `mask_dir`, or all images in a folder `a/003_mask` or `a/003`. Anomalies without a mask
    /// count for the metrics of images, not for those of pixels.
    #[serde(deserialize_with = "one_or_many")]
    pub mask_dir: Vec<PathBuf>,
    #[serde(deserialize_with = "one_or_many")]
    pub unlabelled_dir: Vec<PathBuf>,
    /// The share of the normal images that is kept for the test.
    pub normal_split_ratio: f64,
}

impl Default for Folder {
    fn default() -> Self {
        Folder {
            name: None,
            root: PathBuf::from("."),
            normal_dir: Vec::new(),
            abnormal_dir: Vec::new(),
            normal_test_dir: Vec::new(),
            mask_dir: Vec::new(),
            unlabelled_dir: Vec::new(),
            normal_split_ratio: 0.2,
        }
    }
}

fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<PathBuf>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a path or a list of paths")]
    enum OneOrMany {
        One(PathBuf),
        Many(Vec<PathBuf>),
    }
    OneOrMany::deserialize(deserializer).map(|paths| match paths {
        OneOrMany::One(path) => vec![path],
        OneOrMany::Many(paths) => paths,
    })
}

impl Folder {
    pub(super) fn list(&self, loading: &Loading, purpose: Purpose) -> Result<Listed, DataError> {
        self.check(purpose)?;
        self.check_apart()?;
        let mut left_out = LeftOut::default();
        let normal = self.images(&self.normal_dir, &mut left_out)?.into_iter().map(Entry::good).collect();
        let (train, mut test) = match purpose {
            Purpose::Train if self.normal_test_dir.is_empty() && !self.abnormal_dir.is_empty() => {
                kept_apart(normal, self.normal_split_ratio, loading.seed)
            }
            Purpose::Train => (normal, Vec::new()),
            Purpose::Test => (Vec::new(), normal),
        };
        test.extend(self.images(&self.normal_test_dir, &mut left_out)?.into_iter().map(Entry::good));
        if !self.mask_dir.is_empty() {
            test.iter_mut().for_each(|entry| entry.mask = Mask::Blank);
        }
        let masks: Vec<Masks> = self
            .mask_dir
            .iter()
            .map(|masks| Masks::list(&self.root.join(masks), &mut left_out))
            .collect::<Result<_, _>>()?;
        for (index, folder) in self.abnormal_dir.iter().enumerate() {
            let truth = Truth::anomaly(&name(&self.root.join(folder)));
            let masks = masks.get(index).or(masks.first());
            for entry in self.images(std::slice::from_ref(folder), &mut left_out)? {
                let mask = masks.map_or(Mask::Unknown, |masks| masks.of(entry.name.below()));
                test.push(Entry { truth: truth.clone(), mask, ..entry });
            }
        }
        left_out.add_unused(&masks, &test);
        let mut unlabelled = self.images(&self.unlabelled_dir, &mut left_out)?;
        if purpose == Purpose::Test {
            test.append(&mut unlabelled);
        }

        let category = component(&self.name.clone().unwrap_or_else(|| name(&self.root)));
        let conversion =
            loading.conversion(files::SIDE, Channels::Rgb).for_files(loading, [&train, &test, &unlabelled]);
        let [train, test, unlabelled] = files::sets([train, test, unlabelled], conversion, loading)?;
        let task = Task { dataset: "folder".to_owned(), category, train, held_out: None, tune: None, test };
        Ok(Listed { task: Task::tuned_on(unlabelled, task), conversion, left_out })
    }

    pub(super) fn check(&self, purpose: Purpose) -> Result<(), DataError> {
        let lists = [&self.normal_dir, &self.abnormal_dir, &self.normal_test_dir, &self.unlabelled_dir];
        let is_training = purpose == Purpose::Train;
        let problem = if lists.iter().all(|list| list.is_empty()) {
            "there is no folder of images: add --normal-dir, --abnormal-dir or --unlabelled-dir".to_owned()
        } else if is_training && self.normal_dir.is_empty() {
            "there is no folder of normal images: add --normal-dir".to_owned()
        } else if is_training && self.abnormal_dir.is_empty() && self.unlabelled_dir.is_empty() {
            "there are no images to tune on: add --unlabelled-dir, with images that may contain anomalies, or --abnormal-dir"
                .to_owned()
        } else if !(0.0..1.0).contains(&self.normal_split_ratio) {
            format!("--normal-split-ratio is {}: it must be from 0 to below 1", self.normal_split_ratio)
        } else if self.mask_dir.len() > 1 && self.mask_dir.len() != self.abnormal_dir.len() {
            format!(
                "--mask-dir is given {} times and --abnormal-dir {} times: give one --mask-dir for all, or one for each",
                self.mask_dir.len(),
                self.abnormal_dir.len()
            )
        } else {
            return Ok(());
        };
        Err(DataError::Setting(problem))
    }

    /// Settings without effect, each with the reason.
    pub(super) fn without_effect(&self, loading: &Loading) -> Vec<&'static str> {
        let share = self.normal_split_ratio != Folder::default().normal_split_ratio;
        let labelled = !self.abnormal_dir.is_empty() || !self.normal_test_dir.is_empty();
        let inductive = loading.split == Split::Inductive && labelled && !self.unlabelled_dir.is_empty();
        let cases = [
            (
                share && !self.normal_test_dir.is_empty(),
                "--normal-split-ratio: the normal test images are those of --normal-test-dir",
            ),
            (
                share && self.abnormal_dir.is_empty(),
                "--normal-split-ratio: there is no --abnormal-dir, so there is no such test",
            ),
            (!self.mask_dir.is_empty() && self.abnormal_dir.is_empty(), "--mask-dir: there is no --abnormal-dir"),
            (inductive, "--split: with both labelled and unlabelled images the split is always inductive"),
        ];
        cases.into_iter().filter_map(|(idle, reason)| idle.then_some(reason)).collect()
    }

    /// Folders are read recursively, so none may contain another: an image would be in two sets, or a mask would be read as an image.
    fn check_apart(&self) -> Result<(), DataError> {
        let lists = [&self.normal_dir, &self.abnormal_dir, &self.normal_test_dir, &self.unlabelled_dir, &self.mask_dir];
        let folders: Vec<(&PathBuf, PathBuf)> = lists
            .into_iter()
            .flatten()
            .map(|folder| {
                let path = self.root.join(folder);
                (folder, path.canonicalize().unwrap_or(path))
            })
            .collect();
        for (index, (inner, below)) in folders.iter().enumerate() {
            for (other, (outer, above)) in folders.iter().enumerate() {
                if index != other && below.starts_with(above) {
                    return Err(DataError::Setting(format!(
                        "the folder {} is the same as {} or is inside it, so its images would be used twice: give folders that \
                         do not overlap",
                        files::printable(inner),
                        files::printable(outer)
                    )));
                }
            }
        }
        Ok(())
    }

    /// All images of the folders. The name of each is its folder, as given, or only the last part of an absolute path, followed by its
    /// path below the folder.
    fn images(&self, folders: &[PathBuf], left_out: &mut LeftOut) -> Result<Vec<Entry>, DataError> {
        let mut entries = Vec::new();
        for folder in folders {
            let prefix = match folder.is_absolute() {
                true => files::printable(name(folder)),
                false => names::of_file(folder),
            };
            let prefix = if prefix.is_empty() { prefix } else { format!("{prefix}/") };
            entries.extend(files::list(&self.root.join(folder), &prefix, left_out)?);
        }
        Ok(entries)
    }
}

/// The last part of a folder's path, even for `.`.
fn name(folder: &Path) -> String {
    let path = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    path.file_name().map_or_else(|| "root".to_owned(), |name| name.to_string_lossy().into_owned())
}
