//! Checkpoints, from which a run resumes bit-identically.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::engine::tensor::Tensor;
use crate::run::archive::{Archive, ArchiveError, Numbers};
use crate::training::score::LedoitWolf;
use crate::training::trainer::{Failure, Progress, Snapshot, Trained};

/// A run between two steps.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// The run's configuration, as TOML.
    pub config: String,
    /// Fingerprint of the data, to notice if they change.
    pub fingerprint: String,
    /// The program and the device that made the last steps; empty in checkpoints of earlier versions.
    pub origin: String,
    /// Seconds spent on training so far.
    pub seconds: f64,
    /// Whether the run ends with a full report.
    pub full_report: bool,
    pub snapshot: Snapshot,
    /// The last good state of the group, to which a start that diverges goes back; `None` if it is `snapshot`.
    pub good: Option<Snapshot>,
    /// The starts of the group that diverged and are to be trained again, each from its last good state.
    pub again: Vec<Snapshot>,
    /// The finished starts, in order.
    pub finished: Vec<Trained>,
    /// The starts of the group whose training is over, while others of it are trained again.
    pub waiting: Vec<Trained>,
    /// Every step so far, those of each start in order.
    pub history: Vec<Progress>,
}

const KIND: &str = "checkpoint";
/// What the text `report` says of a run with a full report, and of one without.
const FULL: &str = "full";
const FIGURES_ONLY: &str = "figures only";

/// The newest checkpoint in a run's folder, and the one before it.
pub const FILES: [&str; 2] = ["checkpoint.safetensors", "checkpoint.previous.safetensors"];

fn files(folder: &Path) -> [PathBuf; 2] {
    FILES.map(|name| folder.join(name))
}

impl Checkpoint {
    /// Writes the checkpoint to a run's folder, and keeps the previous one.
    ///
    /// # Errors
    /// When the file cannot be written; earlier checkpoints stay.
    pub fn save(&self, folder: &Path) -> Result<(), ArchiveError> {
        let [last, previous] = files(folder);
        self.archive().write_keeping(&last, &previous)
    }

    /// The newest checkpoint in a run's folder that can be read, and why it is not the newest, if so; `None` if there is none.
    ///
    /// # Errors
    /// When there are checkpoints, but none can be read.
    pub fn load(folder: &Path) -> Result<Option<(Self, Option<ArchiveError>)>, ArchiveError> {
        let [last, previous] = files(folder);
        match Self::read(&last) {
            Ok(checkpoint) => Ok(Some((checkpoint, None))),
            Err(_) if !last.exists() && !previous.exists() => Ok(None),
            Err(reason) => match Self::read(&previous) {
                Ok(checkpoint) => Ok(Some((checkpoint, Some(reason)))),
                Err(_) => Err(reason),
            },
        }
    }

    /// Whether a run's folder has a checkpoint, damaged or not.
    pub fn exists(folder: &Path) -> bool {
        files(folder).iter().any(|file| file.symlink_metadata().is_ok())
    }

    /// Removes the checkpoints of a run that no longer needs them.
    pub fn remove(folder: &Path) {
        for file in files(folder) {
            // A leftover checkpoint does no harm.
            let _ = std::fs::remove_file(file);
        }
    }

    /// The checkpoint as an archive.
    pub fn archive(&self) -> Archive {
        let mut archive = Archive::new(KIND);
        archive.texts.insert("config".into(), self.config.clone());
        archive.texts.insert("fingerprint".into(), self.fingerprint.clone());
        archive.texts.insert("origin".into(), self.origin.clone());
        archive.texts.insert("report".into(), if self.full_report { FULL } else { FIGURES_ONLY }.into());
        let trained = || self.finished.iter().chain(&self.waiting).enumerate();
        for (index, trained) in trained() {
            if let Some(reason) = &trained.failed {
                archive.texts.insert(format!("{index}/failed"), reason.clone());
            }
        }
        put(&mut archive, "", &self.snapshot);
        if let Some(good) = &self.good {
            put(&mut archive, "good/", good);
        }
        for (index, again) in self.again.iter().enumerate() {
            put(&mut archive, &format!("again/{index}/"), again);
        }
        let mut single = |name: String, tensor: Tensor| archive.numbers.insert(name, Numbers::Single(tensor));
        for (index, trained) in trained() {
            for (name, tensor) in &trained.states {
                single(format!("{index}/state/{name}"), tensor.clone());
            }
            for (name, values) in [("start", &trained.start), ("end", &trained.end)] {
                single(format!("{index}/{name}"), Tensor::new([values.len()], values.clone()));
            }
        }
        let row = |progress: &Progress| {
            let Progress { start, step, inner, outer, a } = progress;
            let figures =
                [*start as f32, *step as f32, *inner, f32::from(u8::from(outer.is_some())), outer.unwrap_or(0.0)];
            figures.into_iter().chain(a.iter().copied()).collect::<Vec<f32>>()
        };
        // A table for each augmentation's number of coordinates.
        let mut tables: BTreeMap<usize, Vec<f32>> = BTreeMap::new();
        for progress in &self.history {
            tables.entry(FIGURES + progress.a.len()).or_default().extend(row(progress));
        }
        for (width, rows) in tables {
            single(format!("history/{width}"), Tensor::new([rows.len() / width, width], rows));
        }

        let mut double = |name: String, values: Vec<f64>| archive.numbers.insert(name, Numbers::Double(values));
        for (index, trained) in trained() {
            let logits = trained.logits.iter().map(|logits| ("logits", logits));
            for (name, sets) in [("scores", &trained.scores)].into_iter().chain(logits) {
                for (set, values) in SETS.iter().zip(sets) {
                    double(format!("{index}/{name}/{set}"), values.clone());
                }
            }
            if let Some(fit) = &trained.fit {
                for (name, values) in fit_numbers(fit) {
                    double(format!("{index}/{name}"), values);
                }
            }
        }
        let counts = [&self.finished, &self.waiting].map(Vec::len);
        double("counts".into(), [counts[0], counts[1], self.again.len()].map(|count| count as f64).to_vec());
        double("seconds".into(), vec![self.seconds]);
        archive
    }

    fn read(path: &Path) -> Result<Self, ArchiveError> {
        let archive = Archive::read(path, KIND)?;
        Self::from_archive(archive).map_err(|reason| ArchiveError::Damaged { path: path.into(), reason })
    }

    /// The checkpoint that an archive describes.
    ///
    /// # Errors
    /// When something is missing, unknown or malformed; the error names it.
    pub fn from_archive(mut archive: Archive) -> Result<Self, String> {
        let counts = archive.take_double("counts")?;
        let &[finished, waiting, again] = &counts[..] else { return Err("its counts are malformed".into()) };
        let &[seconds] = &archive.take_double("seconds")?[..] else { return Err("its time is malformed".into()) };
        let trained = (0..(finished + waiting) as usize).map(|index| {
            let mut both = |name: &str| -> Result<[Vec<f64>; 2], String> {
                let [trn, val] = SETS.map(|set| archive.take_double(&format!("{index}/{name}/{set}")));
                Ok([trn?, val?])
            };
            let scores = both("scores")?;
            let logits = both("logits").ok();
            let fit = take_fit(&mut archive, &format!("{index}/"))?;
            let failed = archive.texts.remove(&format!("{index}/failed"));
            let mut coordinates = |name: &str| archive.take_single(&format!("{index}/{name}")).map(Tensor::into_data);
            Ok(Trained {
                start: coordinates("start")?,
                end: coordinates("end")?,
                fit,
                scores,
                logits,
                states: archive.take_group(&format!("{index}/state/")),
                failed,
            })
        });
        let mut trained = trained.collect::<Result<Vec<_>, String>>()?;
        if trained.len() < finished as usize {
            return Err("its counts are malformed".into());
        }
        let waiting = trained.split_off(finished as usize);
        let row = |row: &[f32]| Progress {
            start: row[0] as usize,
            step: row[1] as usize,
            inner: row[2],
            outer: (row[3] != 0.0).then_some(row[4]),
            a: row[FIGURES..].to_vec(),
        };
        let mut history = Vec::new();
        for (_, table) in archive.take_group("history/") {
            let [_, width] = table.shape().matrix()?;
            if width < FIGURES {
                return Err("its history is malformed".into());
            }
            history.extend(table.data().chunks_exact(width).map(row));
        }
        let snapshot = take(&mut archive, "")?;
        let good = archive.numbers.contains_key("good/position").then(|| take(&mut archive, "good/")).transpose()?;
        let again = (0..again as usize).map(|index| take(&mut archive, &format!("again/{index}/")));
        let again = again.collect::<Result<_, String>>()?;
        let checkpoint = Checkpoint {
            config: archive.take_text("config")?,
            fingerprint: archive.take_text("fingerprint")?,
            origin: archive.texts.remove("origin").unwrap_or_default(),
            seconds,
            full_report: archive.texts.remove("report").is_none_or(|report| report == FULL),
            snapshot,
            good,
            again,
            finished: trained,
            waiting,
            history,
        };
        archive.end().map(|()| checkpoint)
    }
}

/// Adds a snapshot, with this before each name.
fn put(archive: &mut Archive, prefix: &str, snapshot: &Snapshot) {
    let Snapshot { start, step, halvings, states, failed } = snapshot;
    let position = vec![*start as f64, *step as f64, f64::from(*halvings)];
    archive.numbers.insert(format!("{prefix}position"), Numbers::Double(position));
    let mut single = |name: String, tensor: Tensor| archive.numbers.insert(name, Numbers::Single(tensor));
    for (name, tensor) in states {
        single(format!("{prefix}state/{name}"), tensor.clone());
    }
    for (start, Failure { reason, a }) in failed {
        single(format!("{prefix}failed/{start}"), Tensor::new([a.len()], a.clone()));
        archive.texts.insert(format!("{prefix}failed/{start}"), reason.clone());
    }
}

/// Removes the snapshot that [`put`] added under `prefix` and returns it.
fn take(archive: &mut Archive, prefix: &str) -> Result<Snapshot, String> {
    let position = archive.take_double(&format!("{prefix}position"))?;
    let &[start, step, halvings] = &position[..] else { return Err("its position is malformed".into()) };
    let group = format!("{prefix}failed/");
    let failed = archive.take_group(&group).into_iter().map(|(start, a)| {
        let reason = archive.take_text(&format!("{group}{start}"))?;
        let start = start.parse().map_err(|_| format!("`{start}` is no number of a start"))?;
        Ok((start, Failure { reason, a: a.into_data() }))
    });
    let failed = failed.collect::<Result<_, String>>()?;
    let states = archive.take_group(&format!("{prefix}state/"));
    Ok(Snapshot { start: start as usize, step: step as usize, halvings: halvings as u32, states, failed })
}

/// The training set and the unlabelled one.
const SETS: [&str; 2] = ["trn", "val"];

/// Columns of the history before the raw coordinates: start, step, inner, whether outer exists, outer.
const FIGURES: usize = 5;

/// The parts of a fitted score, by name.
pub(crate) fn fit_numbers(fit: &LedoitWolf) -> [(&'static str, Vec<f64>); 3] {
    let (mean, root) = fit.parts();
    [("fit/mean", mean.to_vec()), ("fit/root", root.to_vec()), ("fit/shrinkage", vec![fit.shrinkage()])]
}

/// Removes the fitted score that [`fit_numbers`] wrote under `prefix` and returns it, if there is one.
pub(crate) fn take_fit(archive: &mut Archive, prefix: &str) -> Result<Option<LedoitWolf>, String> {
    if !archive.numbers.contains_key(&format!("{prefix}fit/mean")) {
        return Ok(None);
    }
    let mut take = |name: &str| archive.take_double(&format!("{prefix}fit/{name}"));
    let (mean, root, shrinkage) = (take("mean")?, take("root")?, take("shrinkage")?);
    let &[shrinkage] = &shrinkage[..] else { return Err("its shrinkage is malformed".into()) };
    LedoitWolf::from_parts(mean, root, shrinkage).map(Some).ok_or("its covariance has no inverse".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn checkpoint(step: usize) -> Checkpoint {
        let state = |value: f32| vec![("a".to_owned(), Tensor::new([2], vec![value, 1.0]))];
        let trained = Trained {
            start: vec![0.5, 1.0],
            end: vec![0.75, 1.0],
            fit: LedoitWolf::fit(&[0.0, 1.0, 2.0, 4.0, 1.0, 3.0], 2).ok(),
            scores: [vec![0.5, 0.25], vec![1.0, 3.0]],
            logits: Some([vec![-0.5], vec![-0.5, 0.5]]),
            states: state(7.0),
            failed: None,
        };
        let failure = |reason: &str| Failure { reason: reason.into(), a: vec![0.5, -1.0] };
        let failed = Trained::failed(vec![1.0, 2.0], failure("diverged at step 3"));
        // Without a distance only the logits are scores.
        let collapsed = Trained { fit: None, scores: [vec![], vec![]], ..trained.clone() };
        let progress = |step, outer| Progress { start: 0, step, inner: 0.1, outer, a: vec![0.5, -1.0] };
        let snapshot = |step: usize, halvings| {
            let failed = [(2, failure("diverged at step 1"))].into();
            Snapshot { start: 1, step, halvings, states: state(step as f32), failed }
        };
        Checkpoint {
            config: "seed = 1\n".into(),
            fingerprint: "f00d".into(),
            seconds: 1.5,
            origin: "stssad 1 on a device".into(),
            full_report: false,
            snapshot: snapshot(step, 0),
            good: Some(snapshot(step - 1, 0)),
            again: vec![snapshot(2, 1), snapshot(1, 3)],
            finished: vec![trained.clone(), failed.clone()],
            waiting: vec![collapsed, failed],
            history: vec![progress(1, None), progress(2, Some(0.0))],
        }
    }

    #[test]
    fn a_checkpoint_is_loaded_as_it_was_saved() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        assert!(Checkpoint::load(folder).unwrap().is_none());
        checkpoint(3).save(folder).unwrap();
        assert_eq!(Checkpoint::load(folder).unwrap().unwrap().0, checkpoint(3));
        let empty =
            Checkpoint { finished: Vec::new(), waiting: Vec::new(), again: Vec::new(), good: None, ..checkpoint(1) };
        let empty = Checkpoint { history: Vec::new(), full_report: true, ..empty };
        empty.save(folder).unwrap();
        assert_eq!(Checkpoint::load(folder).unwrap().unwrap().0, empty);
        Checkpoint::remove(folder);
        assert!(Checkpoint::load(folder).unwrap().is_none());
    }

    #[test]
    fn the_previous_checkpoint_is_used_if_the_last_is_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        checkpoint(3).save(folder).unwrap();
        checkpoint(4).save(folder).unwrap();
        let [last, previous] = files(folder);
        fs::write(&last, b"torn").unwrap();
        let (loaded, reason) = Checkpoint::load(folder).unwrap().unwrap();
        assert_eq!(loaded, checkpoint(3));
        assert!(reason.unwrap().to_string().contains("checkpoint.safetensors is damaged"));
        // After a crash between the two renames only the previous checkpoint is left.
        fs::remove_file(&last).unwrap();
        assert_eq!(Checkpoint::load(folder).unwrap().unwrap().0, checkpoint(3));
        fs::write(&last, b"torn").unwrap();
        fs::write(&previous, b"torn").unwrap();
        assert!(Checkpoint::load(folder).is_err());
    }

    #[test]
    fn missing_and_unknown_entries_are_named() {
        let refused = |change: fn(&mut Archive)| {
            let mut archive = checkpoint(3).archive();
            change(&mut archive);
            Checkpoint::from_archive(archive).unwrap_err()
        };
        assert_eq!(refused(|archive| drop(archive.texts.remove("config"))), "the text `config` is missing");
        assert_eq!(
            refused(|archive| drop(archive.numbers.remove("0/scores/val"))),
            "the vector `0/scores/val` is missing"
        );
        assert_eq!(
            refused(|archive| drop(archive.numbers.insert("junk".into(), Numbers::Double(vec![1.0])))),
            "`junk` is unknown"
        );
        assert!(
            refused(|archive| drop(archive.numbers.insert("0/fit/root".into(), Numbers::Double(vec![0.0; 4]))))
                .contains("no inverse")
        );
    }
}
