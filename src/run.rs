//! A run: a task and a configuration become a folder with a model, scores, pictures and a report.

use std::path::{Path, PathBuf};
use std::time::Instant;
use std::{fs, io};

use crate::archive::ArchiveError;
use crate::augment::Setting;
use crate::checkpoint::Checkpoint;
use crate::config::{ConfigError, RunConfig};
use crate::data::{Loaded, Set, Task, component};
use crate::gpu::{Device, GpuError};
use crate::method::Method;
use crate::model::{Judge, Model};
use crate::report::{
    Adapter, Augmentation as Found, Counts, Maps, Metrics, Outcome, Page, PictureRow, ReportError, RunFolder, Scored,
    Start, Step, metrics,
};
use crate::score::auroc;
use crate::tensor::Tensor;
use crate::train::{Config, Progress, TrainError, Trained, Trainer, choose};

/// Whom a run tells of its progress, and who may stop it.
pub trait Watch {
    /// So many of the kernels are compiled.
    fn compiling(&mut self, done: usize, of: usize);
    /// A step was done.
    fn step(&mut self, progress: &Progress, setting: &Setting, config: &Config);
    /// A file of the report was written, or so many of many.
    fn reporting(&mut self, what: &str);
    /// Whether to save a checkpoint and end.
    fn wants_stop(&self) -> bool;
}

/// How a run came to its end.
#[derive(Clone, Debug, PartialEq)]
pub enum Ending {
    Finished(Box<Outcome>),
    /// It can go on from its checkpoint.
    Stopped,
}

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Train(#[from] TrainError),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    Report(#[from] ReportError),
    #[error("the checkpoint in {} is of {what}: go on with what it began with, or start anew in another folder", folder.display())]
    Foreign { folder: PathBuf, what: &'static str },
    #[error("cannot make {}: check that the folder may be written to", path.display())]
    Folder { path: PathBuf, source: io::Error },
}

impl From<GpuError> for RunError {
    fn from(error: GpuError) -> Self {
        RunError::Train(error.into())
    }
}

/// The file of the trained detector in a run's folder.
pub const MODEL: &str = "model.safetensors";
/// The file of the configuration in a run's folder.
pub const CONFIG: &str = "config.toml";

/// Makes the next free `root/<dataset>/<category>/vN`, and `latest` beside it lead there. Two runs that begin at once get
/// two folders.
///
/// # Errors
/// When a folder cannot be made.
pub fn next_folder(root: &Path, task: &Task) -> Result<PathBuf, RunError> {
    let parent = root.join(component(&task.dataset)).join(component(&task.category));
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| RunError::Folder { path, source }
    };
    fs::create_dir_all(&parent).map_err(failed(&parent))?;
    let mut version = 0;
    let folder = loop {
        let folder = parent.join(format!("v{version}"));
        match fs::create_dir(&folder) {
            Ok(()) => break folder,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => version += 1,
            Err(error) => return Err(failed(&folder)(error)),
        }
    };
    // Another run may do the same at once: either is the latest.
    let latest = parent.join("latest");
    let _ = fs::remove_file(&latest);
    #[cfg(unix)]
    let _ = std::os::unix::fs::symlink(format!("v{version}"), &latest);
    #[cfg(not(unix))]
    let _ = fs::write(&latest, format!("v{version}"));
    Ok(folder)
}

/// What the report of a run holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Every file.
    Full,
    /// The model, the scores and the figures: what a comparison of many runs needs.
    Figures,
}

/// A run about to begin.
#[derive(Debug)]
pub struct Run<'a> {
    pub device: &'a Device,
    pub config: &'a RunConfig,
    pub loaded: &'a Loaded,
    pub folder: &'a RunFolder,
    pub extent: Extent,
}

impl Run<'_> {
    /// Trains, from a checkpoint where one is given, tests, and writes the report.
    ///
    /// # Errors
    /// When the configuration cannot be followed, training fails, or a file cannot be written. The checkpoints that were
    /// written stay.
    pub fn train(&self, checkpoint: Option<Checkpoint>, watch: &mut dyn Watch) -> Result<Ending, RunError> {
        let task = &self.loaded.task;
        let visible = task.visible();
        let [normals, c, h, w] = visible.train.shape().images().expect("a set holds pictures");
        let config = self.config.training([c, h, w], normals, visible.val.shape()[0])?;
        let text = self.config.to_toml();
        let fingerprint = task.fingerprint();
        let foreign = |what| RunError::Foreign { folder: self.folder.path().to_owned(), what };
        if checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.config != text) {
            return Err(foreign("another configuration"));
        }
        if checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.fingerprint != fingerprint) {
            return Err(foreign("other pictures"));
        }
        self.folder.write(CONFIG, text.as_bytes())?;

        let mut trainer = Trainer::new(self.device, &config, visible, |done, of| watch.compiling(done, of))?;
        let begun = Instant::now();
        let (mut finished, mut history, mut before, mut position) = (Vec::new(), Vec::new(), 0.0, None);
        if let Some(checkpoint) = checkpoint {
            (finished, history, before) = (checkpoint.finished, checkpoint.history, checkpoint.seconds);
            position = Some(checkpoint.snapshot);
        }
        let save = |trainer: &Trainer, finished: &[Trained], history: &[Progress]| -> Result<(), RunError> {
            let checkpoint = Checkpoint {
                config: text.clone(),
                fingerprint: fingerprint.clone(),
                seconds: before + begun.elapsed().as_secs_f64(),
                snapshot: trainer.snapshot()?,
                finished: finished.to_vec(),
                history: history.to_vec(),
            };
            Ok(checkpoint.save(self.folder.path())?)
        };
        while finished.len() < config.starts.len() {
            match position.take() {
                Some(snapshot) if snapshot.start == finished.len() => trainer.restore(&snapshot)?,
                _ => trainer.begin(finished.len())?,
            }
            while let Some(progress) = trainer.step()? {
                watch.step(&progress, &config.augmentation.setting_of(&progress.a), &config);
                let due = progress.step % self.config.training.checkpoint_every == 0;
                history.push(progress);
                if due || watch.wants_stop() {
                    save(&trainer, &finished, &history)?;
                }
                if watch.wants_stop() {
                    return Ok(Ending::Stopped);
                }
            }
            finished.push(trainer.assess()?);
            save(&trainer, &finished, &history)?;
        }
        let seconds = before + begun.elapsed().as_secs_f64();
        let chosen = choose(&finished).expect("at least one start");
        let outcome = self.report(&mut trainer, &config, &finished, chosen, &history, seconds, watch)?;
        Checkpoint::remove(self.folder.path());
        Ok(Ending::Finished(Box::new(outcome)))
    }
}
