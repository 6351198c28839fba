//! What came of a run: the contents of `result.json`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::{Deserialize, Deserializer, Serialize};

use crate::engine::kernel::Precision;
use crate::run::disk;
use crate::run::scored::{Alarms, Metrics};
use crate::ssad::augment::Setting;

/// What came of a run: the contents of `result.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Of the kept start, on the validation set; `None`, in the file `null`, when there is nothing to compare.
    #[serde(rename = "image_AUROC")]
    pub image_auroc: Option<f64>,
    /// What the kept start found.
    pub augmentation: Augmentation,
    /// 2 when the hyper-gradient had its second-order part, 1 when not.
    pub order: u8,
    /// Of convolutions and matrix products in training.
    #[serde(default)]
    pub precision: Precision,
    /// What all random draws of the run followed from.
    pub seed: u64,
    /// Training steps of each start, warm-up included.
    pub steps: usize,
    /// Wall-clock time of training all starts.
    pub seconds: f64,
    /// Where it was computed.
    pub adapter: Adapter,
    /// In the order they were run.
    pub starts: Vec<Start>,
    /// As it is called on the command line; this and what follows is absent from the file where nobody said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset: Option<String>,
    /// The part of the dataset, such as `bottle`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category: Option<String>,
    /// As it is called in comparisons.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Of the kept start on the test set.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metrics: Metrics,
    /// The score from which on an image counts as an anomaly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
    /// How many normal images the threshold flags.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alarms: Option<Alarms>,
    /// How many images each set has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts: Option<Counts>,
    /// Images that could not be used, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<String>,
}

/// Images in each set of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub train: usize,
    /// Normal images that were held out of training, for the threshold.
    #[serde(default)]
    pub held_out: usize,
    /// Unlabelled images to tune on; in a transductive run those of the test set.
    pub tune: usize,
    pub test: usize,
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

/// The device that a run was computed on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Adapter {
    /// As the driver gives it.
    pub name: String,
    /// With its version where the driver tells.
    pub driver: String,
    /// `discrete`, `integrated`, `virtual`, `cpu` or `other`.
    pub class: String,
}

/// One of the starting values that a run tries.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// Where the search began.
    #[serde(deserialize_with = "setting")]
    pub start: Setting,
    /// Where it ended.
    #[serde(deserialize_with = "setting")]
    pub end: Setting,
    /// The selection statistic, [`spread`](crate::training::score::spread) of the validation scores; absent of a start that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spread: Option<f64>,
    /// As [`Outcome::image_auroc`]. Not used for the choice.
    #[serde(rename = "image_AUROC")]
    pub image_auroc: Option<f64>,
    /// The same of the second score, the head's logit.
    #[serde(rename = "image_AUROC_logit")]
    pub image_auroc_logit: Option<f64>,
    /// Whether this is the start that is kept.
    pub chosen: bool,
    /// Why the start came to nothing; absent where it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

/// JSON has no NaN: what diverged is written as `null`, and read back as NaN.
fn setting<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Setting, D::Error> {
    let values = BTreeMap::<String, Option<f64>>::deserialize(deserializer)?;
    Ok(values.into_iter().map(|(name, value)| (name, value.unwrap_or(f64::NAN))).collect())
}

/// Why a file of the report was not written.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The file or the folder could not be written.
    #[error("cannot write {}: check that the folder is writable and the disk is not full", path.display())]
    Write { path: PathBuf, source: io::Error },
    /// The contents could not be made into a file of this kind.
    #[error("cannot encode {file}")]
    Encode { file: &'static str, source: Box<dyn std::error::Error + Send + Sync> },
    /// There is a result, which says nothing.
    #[error("{} is incomplete or damaged: restore it from a copy, or delete it to repeat the run", path.display())]
    Result { path: PathBuf, source: io::Error },
}

impl Outcome {
    /// What came of the run in a folder; `None` while there is no `result.json`.
    ///
    /// # Errors
    /// When there is a `result.json` that cannot be read, or holds something else.
    pub fn load(folder: &Path) -> Result<Option<Self>, ReportError> {
        let path = folder.join("result.json");
        let read = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.and_then(|bytes| serde_json::from_slice(&bytes).map_err(io::Error::from)),
        };
        read.map(Some).map_err(|source| ReportError::Result { path, source })
    }
}

/// Writes a file whole or not at all, and so that it outlasts a power cut.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), ReportError> {
    disk::write(path, bytes)
        .and_then(|()| disk::sync_folder(disk::folder_of(path)))
        .map_err(|source| ReportError::Write { path: path.into(), source })
}
