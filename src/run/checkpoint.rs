//! Checkpoints, from which a run resumes bit-identically.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::engine::tensor::Tensor;
use crate::run::archive::{Archive, ArchiveError, Numbers};
use crate::run::groups::Standing;
use crate::run::race::Starts;
use crate::training::score::LedoitWolf;
use crate::training::trainer::{Failure, Progress, Snapshot, Trained};

/// A run between two steps.
#[derive(Clone, Debug, Default, PartialEq)]
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
    /// The groups of starts in training, and those that may go on after their heats, by their first starts.
    pub groups: BTreeMap<usize, Standing>,
    /// What the starts had come to at the end of their heats, without their states.
    pub heats: Starts,
    pub finished: Starts,
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
        let firsts = |starts: Vec<usize>| Numbers::Double(starts.into_iter().map(|start| start as f64).collect());
        for (what, starts) in [("heats", &self.heats), ("finished", &self.finished)] {
            for (start, trained) in starts {
                put_trained(&mut archive, &format!("{what}/{start}/"), trained);
            }
            archive.numbers.insert(what.into(), firsts(starts.keys().copied().collect()));
        }
        for (first, Standing { snapshot, good, again, waiting }) in &self.groups {
            let group = format!("group/{first}/");
            put(&mut archive, &group, snapshot);
            if let Some(good) = good {
                put(&mut archive, &format!("{group}good/"), good);
            }
            for (index, again) in again.iter().enumerate() {
                put(&mut archive, &format!("{group}again/{index}/"), again);
            }
            for (index, trained) in waiting.iter().enumerate() {
                put_trained(&mut archive, &format!("{group}waiting/{index}/"), trained);
            }
            archive.numbers.insert(format!("{group}counts"), firsts(vec![again.len(), waiting.len()]));
        }
        archive.numbers.insert("groups".into(), firsts(self.groups.keys().copied().collect()));
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
            let table = Tensor::new([rows.len() / width, width], rows);
            archive.numbers.insert(format!("history/{width}"), Numbers::Single(table));
        }
        archive.numbers.insert("seconds".into(), Numbers::Double(vec![self.seconds]));
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
        let &[seconds] = &archive.take_double("seconds")?[..] else { return Err("its time is malformed".into()) };
        let mut numbers = |name: &str| -> Result<Vec<usize>, String> {
            Ok(archive.take_double(name)?.into_iter().map(|number| number as usize).collect())
        };
        let [heats, finished, groups] = [numbers("heats")?, numbers("finished")?, numbers("groups")?];
        let mut starts = |what: &str, numbers: Vec<usize>| -> Result<Starts, String> {
            let trained = |start| Ok((start, take_trained(&mut archive, &format!("{what}/{start}/"))?));
            numbers.into_iter().map(trained).collect()
        };
        let (heats, finished) = (starts("heats", heats)?, starts("finished", finished)?);
        let standing = |first| Ok((first, take_standing(&mut archive, &format!("group/{first}/"))?));
        let groups = groups.into_iter().map(standing).collect::<Result<_, String>>()?;
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
        let checkpoint = Checkpoint {
            config: archive.take_text("config")?,
            fingerprint: archive.take_text("fingerprint")?,
            origin: archive.texts.remove("origin").unwrap_or_default(),
            seconds,
            full_report: archive.texts.remove("report").is_none_or(|report| report == FULL),
            groups,
            heats,
            finished,
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

/// Removes where a group stands, which lies under `prefix`, and returns it.
fn take_standing(archive: &mut Archive, prefix: &str) -> Result<Standing, String> {
    let counts = archive.take_double(&format!("{prefix}counts"))?;
    let &[again, waiting] = &counts[..] else { return Err("its counts are malformed".into()) };
    let has_good = archive.numbers.contains_key(&format!("{prefix}good/position"));
    Ok(Standing {
        good: has_good.then(|| take(archive, &format!("{prefix}good/"))).transpose()?,
        again: (0..again as usize)
            .map(|index| take(archive, &format!("{prefix}again/{index}/")))
            .collect::<Result<_, _>>()?,
        waiting: (0..waiting as usize)
            .map(|index| take_trained(archive, &format!("{prefix}waiting/{index}/")))
            .collect::<Result<_, _>>()?,
        snapshot: take(archive, prefix)?,
    })
}

/// Adds a trained start, with this before each name.
fn put_trained(archive: &mut Archive, prefix: &str, trained: &Trained) {
    if let Some(reason) = &trained.failed {
        archive.texts.insert(format!("{prefix}failed"), reason.clone());
    }
    let mut single = |name: String, tensor: Tensor| archive.numbers.insert(name, Numbers::Single(tensor));
    for (name, tensor) in &trained.states {
        single(format!("{prefix}state/{name}"), tensor.clone());
    }
    for (name, values) in [("start", &trained.start), ("end", &trained.end)] {
        single(format!("{prefix}{name}"), Tensor::new([values.len()], values.clone()));
    }
    let mut double = |name: String, values: Vec<f64>| archive.numbers.insert(name, Numbers::Double(values));
    let logits = trained.logits.iter().map(|logits| ("logits", logits));
    for (name, sets) in [("scores", &trained.scores)].into_iter().chain(logits) {
        for (set, values) in SETS.iter().zip(sets) {
            double(format!("{prefix}{name}/{set}"), values.clone());
        }
    }
    for (name, values) in trained.fit.iter().flat_map(fit_numbers) {
        double(format!("{prefix}{name}"), values);
    }
}

/// Removes the trained start that [`put_trained`] added under `prefix` and returns it.
fn take_trained(archive: &mut Archive, prefix: &str) -> Result<Trained, String> {
    let mut both = |name: &str| -> Result<[Vec<f64>; 2], String> {
        let [trn, val] = SETS.map(|set| archive.take_double(&format!("{prefix}{name}/{set}")));
        Ok([trn?, val?])
    };
    let scores = both("scores")?;
    let logits = both("logits").ok();
    let fit = take_fit(archive, prefix)?;
    let failed = archive.texts.remove(&format!("{prefix}failed"));
    let mut coordinates = |name: &str| archive.take_single(&format!("{prefix}{name}")).map(Tensor::into_data);
    let (start, end) = (coordinates("start")?, coordinates("end")?);
    Ok(Trained { start, end, fit, scores, logits, states: archive.take_group(&format!("{prefix}state/")), failed })
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
    use std::collections::VecDeque;
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
        let standing = Standing {
            snapshot: snapshot(step, 0),
            good: Some(snapshot(step - 1, 0)),
            again: [snapshot(2, 1), snapshot(1, 3)].into(),
            waiting: vec![collapsed, failed.clone()],
        };
        let other =
            Standing { snapshot: snapshot(step + 1, 0), good: None, again: VecDeque::new(), waiting: Vec::new() };
        Checkpoint {
            config: "seed = 1\n".into(),
            fingerprint: "f00d".into(),
            seconds: 1.5,
            origin: "stssad 1 on a device".into(),
            full_report: false,
            groups: [(1, standing), (4, other)].into(),
            heats: [(0, Trained { states: Vec::new(), ..trained.clone() })].into(),
            finished: [(0, trained), (3, failed)].into(),
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
        let empty = Checkpoint { full_report: true, ..Checkpoint::default() };
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
            refused(|archive| drop(archive.numbers.remove("finished/0/scores/val"))),
            "the vector `finished/0/scores/val` is missing"
        );
        assert_eq!(
            refused(|archive| drop(archive.numbers.insert("junk".into(), Numbers::Double(vec![1.0])))),
            "`junk` is unknown"
        );
        assert!(
            refused(|archive| drop(
                archive.numbers.insert("finished/0/fit/root".into(), Numbers::Double(vec![0.0; 4]))
            ))
            .contains("no inverse")
        );
    }
}
