//! The result of a run: the contents of `result.json`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::{Deserialize, Deserializer, Serialize};

use crate::data::{Set, Split, Task};
use crate::engine::gpu::{AdapterSummary, Device};
use crate::engine::kernel::Precision;
use crate::run::found::Found;
use crate::run::scored::{Alarms, Metrics};
use crate::ssad::augment::Setting;

/// The result of a run: the contents of `result.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Of the chosen start on the test set; `None`, in the file `null`, without labels of both classes.
    #[serde(rename = "image_AUROC")]
    pub image_auroc: Option<f64>,
    /// The augmentation that the chosen start found.
    pub augmentation: Augmentation,
    /// Order of the hyper-gradient: 2, or 1 without the second-order term.
    pub order: u8,
    /// Precision of convolutions and matrix products in training.
    #[serde(default)]
    pub precision: Precision,
    /// Seed of all random draws.
    pub seed: u64,
    /// Training steps of each start that is no heat, warm-up included.
    pub steps: usize,
    /// Wall-clock time of the training of all starts.
    pub seconds: f64,
    /// The device.
    pub adapter: Adapter,
    /// Further devices, on which starts were trained at the same time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub beside: Vec<Adapter>,
    /// By their numbers.
    pub starts: Vec<Start>,
    /// The kind of dataset, as on the command line. This field and the following ones may be absent from the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset: Option<String>,
    /// The part of the dataset, such as `bottle`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category: Option<String>,
    /// The method, as on the command line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Of the chosen start on the test set.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metrics: Metrics,
    /// The score from which on an image counts as an anomaly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
    /// How many normal images the threshold flags.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alarms: Option<Alarms>,
    /// What the augmentation imitates; absent where it has no name for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<Found>,
    /// Number of images in each set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts: Option<Counts>,
    /// Images that could not be used, each with the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<String>,
    /// The version of stssad.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The fingerprint of the images, labels and masks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// The fingerprint of the same images whatever sets they are in; absent where other seeds have other images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seedless_fingerprint: Option<String>,
}

/// Number of images in each set of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub train: usize,
    /// Normal images that were held out of training, for the threshold.
    #[serde(default)]
    pub held_out: usize,
    /// Unlabelled images to tune on; in a transductive run the test set.
    pub tune: usize,
    pub test: usize,
    /// Whether the test images were tuned on; absent in results of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<Split>,
}

/// An augmentation and its hyper-parameters; in the file one flat object.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Augmentation {
    /// `rotation`, `cutdiff`, …
    pub name: String,
    /// At least one hyper-parameter.
    #[serde(flatten, deserialize_with = "setting")]
    pub values: Setting,
}

/// The device that computed a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Adapter {
    /// The name that the driver gives.
    pub name: String,
    /// The driver, with its version if known.
    pub driver: String,
    /// `discrete`, `integrated`, `virtual`, `cpu` or `other`.
    pub class: String,
}

/// One of the starting values that a run tries.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// Hyper-parameters at the start.
    #[serde(deserialize_with = "setting")]
    pub start: Setting,
    /// Hyper-parameters at the end.
    #[serde(deserialize_with = "setting")]
    pub end: Setting,
    /// [`exceedance`](crate::training::score::exceedance) of the scores of the unlabelled images, by which the start is chosen; absent
    /// if the start failed, and in results of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exceedance: Option<f64>,
    /// As [`Outcome::image_auroc`], on the images to tune on. It plays no part in the choice.
    #[serde(rename = "image_AUROC")]
    pub image_auroc: Option<f64>,
    /// The same for the second score, the head's logit.
    #[serde(rename = "image_AUROC_logit")]
    pub image_auroc_logit: Option<f64>,
    /// Name of its augmentation; absent in results of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub augmentation: Option<String>,
    /// Whether it ended with its heat, and did not go on.
    #[serde(default)]
    pub heat: bool,
    /// Its training steps; absent in results of earlier versions, where all have [`Outcome::steps`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<usize>,
    /// Whether this start was chosen.
    pub chosen: bool,
    /// Why the start failed; absent if it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

/// JSON has no NaN: it is written as `null` and read back as NaN.
fn setting<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Setting, D::Error> {
    let values = BTreeMap::<String, Option<f64>>::deserialize(deserializer)?;
    Ok(values.into_iter().map(|(name, value)| (name, value.unwrap_or(f64::NAN))).collect())
}

/// Why a result could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The file or folder could not be written.
    #[error("cannot write {}: check that the folder is writable and the disk is not full", path.display())]
    Write { path: PathBuf, source: io::Error },
    /// The contents could not be encoded.
    #[error("cannot encode {file}")]
    Encode { file: &'static str, source: Box<dyn std::error::Error + Send + Sync> },
    /// There is a `result.json` that cannot be read.
    #[error("{} is incomplete or damaged: restore it from a copy, or delete it to repeat the run", path.display())]
    Result { path: PathBuf, source: io::Error },
    /// There is a result of another job in the folder of a sweep's job.
    #[error("{} has the result of another job: restore its own, or delete the folder and run the sweep again", path.display())]
    OfAnother { path: PathBuf },
}

/// A version of the program and the devices that compute, each kind once.
pub(crate) fn origin<'a>(version: &str, adapters: impl Iterator<Item = &'a Adapter>) -> String {
    let mut named: Vec<String> = adapters.map(|Adapter { name, driver, .. }| format!("{name} ({driver})")).collect();
    named.dedup();
    format!("stssad {version} on {}", named.join(" and "))
}

impl Counts {
    /// The sets of a task.
    pub fn of(task: &Task) -> Self {
        Counts {
            train: task.train.len(),
            held_out: task.held_out.as_ref().map_or(0, Set::len),
            tune: task.tune.as_ref().unwrap_or(&task.test).len(),
            test: task.test.len(),
            split: Some(task.split()),
        }
    }
}

impl From<&Device> for Adapter {
    fn from(device: &Device) -> Self {
        let AdapterSummary { name, driver, class, .. } = device.adapter().clone();
        Adapter { name, driver, class }
    }
}

impl Outcome {
    /// The program and the devices that computed the run.
    pub fn origin(&self) -> String {
        let version = self.version.as_deref().unwrap_or("of an earlier version");
        origin(version, std::iter::once(&self.adapter).chain(&self.beside))
    }

    /// Training steps of all starts.
    pub fn all_steps(&self) -> usize {
        self.starts.iter().map(|start| start.steps.unwrap_or(self.steps)).sum()
    }

    /// The result of the run in a folder; `None` if there is no `result.json`.
    ///
    /// # Errors
    /// When there is a `result.json` that cannot be read or is something else.
    pub fn load(folder: &Path) -> Result<Option<Self>, ReportError> {
        let path = folder.join("result.json");
        let read = match fs::read(&path) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            read => read.and_then(|bytes| serde_json::from_slice(&bytes).map_err(io::Error::from)),
        };
        let read = read.and_then(|outcome: Outcome| match outcome.image_auroc {
            Some(auroc) if !(0.0..=1.0).contains(&auroc) => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("image_AUROC is {auroc}, but it is from 0 to 1"),
            )),
            _ => Ok(outcome),
        });
        read.map(Some).map_err(|source| ReportError::Result { path, source })
    }
}
