//! The folder of a run: who may write to it, the state of its run, and which run is the latest.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use walkdir::WalkDir;

use crate::data::MARKER;
use crate::run::checkpoint::Checkpoint;
use crate::run::claim::{Claim, ClaimError, Holder, Owner, WorkState};
use crate::run::config::RunConfig;
use crate::run::outcome::{Outcome, ReportError};
use crate::run::store;

/// The file of the configuration in a run's folder.
const CONFIG: &str = "config.toml";
/// Everything that a run writes to its folder.
const RUN_FILES: &[&str] = &[
    CONFIG,
    "model.safetensors",
    "seen.bin",
    "checkpoint.safetensors",
    "checkpoint.previous.safetensors",
    "metrics.csv",
    "events.out.tfevents.0.stssad",
    "scores.csv",
    "curves.png",
    "pictures.png",
    "histogram.png",
    "roc.png",
    "images",
    "report.html",
    "result.json",
    FAILED,
];
/// The file that tells why a run failed.
const FAILED: &str = "failed.json";
const TRAIN: Owner = Owner { command: "train", files: RUN_FILES };
const DEMO: Owner = Owner { command: "demo", files: RUN_FILES };
const TEST: Owner = Owner { command: "test", files: &["scores.csv", "test.json"] };
const SWEEP: Owner =
    Owner { command: "sweep", files: &["comparison.md", "comparison.csv", "comparison.json", "comparison.png"] };

/// The name that leads to the latest of the numbered runs in a folder: a link, or on systems without links a text file.
const LATEST: &str = "latest";

/// The folder of a run, a test or a comparison, claimed so that no other process writes to it.
#[derive(Debug)]
pub struct RunFolder {
    claim: Claim,
    /// Whether it is one of the numbered folders.
    numbered: bool,
}

/// How a run failed: the contents of `failed.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub reason: String,
    /// Whether it may succeed on another device.
    #[serde(default)]
    pub is_of_device: bool,
}

/// The state of the run in a folder.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// It has neither a result nor a checkpoint.
    Nothing,
    /// It has a checkpoint, and no result.
    Unfinished,
    Finished(Box<Outcome>),
}

/// Why a run's folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    #[error(transparent)]
    Claim(#[from] ClaimError),
    #[error(transparent)]
    Report(#[from] ReportError),
    #[error("cannot make {}: check that the folder is writable and the disk is not full", path.display())]
    Make { path: PathBuf, source: io::Error },
    #[error("cannot read {}: check the disk and the file's permissions", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("there is no run below {}: start one, or give the folder of a run after --resume", root.display())]
    NoRun { root: PathBuf },
    /// With the state of each run.
    #[error("no run below {} is unfinished:{}\nstart a new run, or give the folder of a run after --resume", root.display(), lines(runs))]
    NoneUnfinished { root: PathBuf, runs: Vec<(PathBuf, String)> },
}

/// The newest few runs, one per line.
fn lines(runs: &[(PathBuf, String)]) -> String {
    const SHOWN: usize = 10;
    let shown = runs.iter().take(SHOWN).map(|(run, state)| format!("\n  {} {state}", run.display()));
    let more = runs.len().saturating_sub(SHOWN);
    shown.chain((more > 0).then(|| format!("\n  and {more} more"))).collect()
}

impl State {
    /// The state of the run in a folder.
    ///
    /// # Errors
    /// When there is a result that cannot be read: then the run is neither finished, nor may it be repeated.
    pub fn of(folder: &Path) -> Result<Self, ReportError> {
        Ok(match Outcome::load(folder)? {
            Some(outcome) => State::Finished(Box::new(outcome)),
            None if Checkpoint::exists(folder) => State::Unfinished,
            None => State::Nothing,
        })
    }
}

impl RunFolder {
    fn claim(path: &Path, owner: Owner) -> Result<Self, ClaimError> {
        Ok(RunFolder { claim: Claim::take(path, owner)?, numbered: false })
    }

    /// Claims a folder for a run; makes it, with its parents, if there is none. An existing run in it is not changed.
    ///
    /// # Errors
    /// When another process works in it, it contains other files that the run would overwrite, or it cannot be written to.
    pub fn create(path: impl Into<PathBuf>) -> Result<Self, ClaimError> {
        Self::claim(&path.into(), TRAIN)
    }

    /// As [`create`](RunFolder::create), for the demo.
    ///
    /// # Errors
    /// As [`create`](RunFolder::create).
    pub fn for_demo(path: impl Into<PathBuf>) -> Result<Self, ClaimError> {
        Self::claim(&path.into(), DEMO)
    }

    /// Claims a folder for the scores of a test.
    ///
    /// # Errors
    /// As [`create`](RunFolder::create).
    pub fn for_test(path: impl Into<PathBuf>) -> Result<Self, ClaimError> {
        Self::claim(&path.into(), TEST)
    }

    /// Claims the folder of a sweep for a comparison of its jobs, each of which has its own folder in it.
    ///
    /// # Errors
    /// As [`create`](RunFolder::create).
    pub fn for_comparison(path: impl Into<PathBuf>) -> Result<Self, ClaimError> {
        Self::claim(&path.into(), SWEEP)
    }

    /// Checks that a folder can become the folder of a sweep; there need not be one.
    ///
    /// # Errors
    /// When it belongs to another command, contains other files that the comparison would overwrite, or is a file.
    pub fn check_for_comparison(path: &Path) -> Result<(), ClaimError> {
        Claim::check(path, SWEEP)
    }

    /// Claims the folder of a run that has a checkpoint.
    ///
    /// # Errors
    /// When another process works in it, it belongs to another command, or it cannot be written to.
    pub fn resume(path: &Path) -> Result<Self, ClaimError> {
        Ok(RunFolder { claim: Claim::resume(path, [TRAIN, DEMO])?, numbered: false })
    }

    /// Claims the run below `root/<dataset>/<category>` that a process began or resumed last of those that are unfinished or whose
    /// report is not complete, except runs that another process is working on. Their records say which that is, not the times of files.
    ///
    /// # Errors
    /// When there is no such run, or it cannot be written to.
    pub fn resume_newest(root: &Path) -> Result<Self, FolderError> {
        // Where runs are put without --out, and whatever a process has worked in.
        let depth = WalkDir::new(root).min_depth(1).max_depth(DEEPEST).into_iter().flatten();
        let is_run = |entry: &walkdir::DirEntry| {
            entry.file_type().is_dir() && (entry.depth() == NUMBERED || entry.path().join(MARKER).is_file())
        };
        let runs: Vec<PathBuf> = depth.filter(is_run).map(walkdir::DirEntry::into_path).collect();
        let (mut unfinished, mut others) = (Vec::new(), Vec::new());
        for run in runs {
            let record = Holder::read(&run);
            let (state, reason) = record.as_ref().map_or((None, None), |it| (it.state, it.reason.as_deref()));
            let has_result = run.join("result.json").symlink_metadata().is_ok();
            let since = record.as_ref().map(|it| it.since.clone());
            let has_checkpoint = Checkpoint::exists(&run);
            // A run that was killed after its result stood is still recorded as running.
            let is_unreported = match state {
                Some(WorkState::Running) => true,
                Some(WorkState::Finished) => reason.is_some(),
                _ => false,
            };
            match state {
                _ if has_result && has_checkpoint && is_unreported => unfinished.push((since, run)),
                _ if has_result => others.push((since, run, "is finished".into())),
                Some(WorkState::Failed) => others.push((since, run, format!("failed: {}", reason.unwrap_or_default()))),
                _ if has_checkpoint => unfinished.push((since, run)),
                _ => others.push((since, run, "has no checkpoint".into())),
            }
        }
        unfinished.sort();
        let mut held = None;
        for (_, run) in unfinished.iter().rev() {
            match Self::resume(run) {
                Err(error @ ClaimError::InUse { .. }) => held = held.or(Some(error)),
                other => return Ok(RunFolder { numbered: true, ..other? }),
            }
        }
        others.sort();
        let others: Vec<(PathBuf, String)> = others.into_iter().rev().map(|(_, run, state)| (run, state)).collect();
        Err(match held {
            Some(held) => held.into(),
            None if others.is_empty() => FolderError::NoRun { root: root.into() },
            None => FolderError::NoneUnfinished { root: root.into(), runs: others },
        })
    }

    /// Makes and claims the next free `parent/vN`. Two runs that begin at once get two folders.
    ///
    /// # Errors
    /// When a folder cannot be made.
    pub fn next(parent: &Path) -> Result<Self, FolderError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| FolderError::Make { path, source }
        };
        fs::create_dir_all(parent).map_err(failed(parent))?;
        let mut version = 0;
        loop {
            let path = parent.join(format!("v{version}"));
            match fs::create_dir(&path) {
                Ok(()) => return Ok(RunFolder { numbered: true, ..Self::claim(&path, TRAIN)? }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => version += 1,
                Err(error) => return Err(failed(&path)(error)),
            }
        }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.claim.path()
    }

    /// Why the folder is not locked, if its file system has no locks; another process might then write to it too.
    pub fn unlocked(&self) -> Option<&io::Error> {
        self.claim.unlocked()
    }

    /// Records how the run ended, and why.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub(crate) fn end(&self, state: WorkState, reason: Option<String>) -> Result<(), FolderError> {
        Ok(self.claim.end(state, reason)?)
    }

    /// Records in `failed.json` that the run failed.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn fail(&self, failure: &Failure) -> Result<(), ReportError> {
        self.write(FAILED, format!("{}\n", serde_json::json!(failure)).as_bytes())
    }

    /// Removes the record that the run failed, as it is to be tried again.
    pub fn forgive(&self) {
        store::discard(&self.path().join(FAILED));
    }

    /// How the run in a folder failed; `None` if it did not, or its record cannot be read.
    pub fn failure(folder: &Path) -> Option<Failure> {
        serde_json::from_slice(&fs::read(folder.join(FAILED)).ok()?).ok()
    }

    /// As [`Claim::check_held`].
    ///
    /// # Errors
    /// When another process has taken the folder.
    pub(crate) fn check_held(&self) -> Result<(), FolderError> {
        Ok(self.claim.check_held()?)
    }

    /// Removes the result and the checkpoints of the run in the folder, so that another can begin.
    ///
    /// # Errors
    /// When there is a result that cannot be read, or it cannot be removed.
    pub fn start_over(&self) -> Result<(), ReportError> {
        if let State::Finished(_) = State::of(self.path())? {
            let result = self.path().join("result.json");
            fs::remove_file(&result).map_err(|source| ReportError::Write { path: result, source })?;
        }
        Checkpoint::remove(self.path());
        Ok(())
    }

    /// Makes `latest` lead to this run, if its folder is numbered. If another run does the same at once, either may win.
    pub(crate) fn begun(&self) {
        if !self.numbered {
            return;
        }
        let (parent, name) = (store::folder_of(self.path()), self.path().file_name().unwrap_or_default());
        let latest = parent.join(LATEST);
        // A run must not fail because of its link, so an error is ignored.
        let _ = link(&latest, name.as_ref()).or_else(|_| store::write(&latest, name.to_string_lossy().as_bytes()));
    }

    /// Whether there is a `config.toml` that does not describe this configuration: an edited one, or that of another run.
    pub fn has_other_config(&self, config: &RunConfig) -> bool {
        let path = self.path().join(CONFIG);
        let found = fs::read_to_string(&path).ok().and_then(|found| RunConfig::parse(&found).ok());
        path.exists() && !found.is_some_and(|found| found.completed_by(config).trains_as(config))
    }

    /// Writes `config.toml`. A file that describes this configuration stays as it is, with its comments; it may omit what the run
    /// chose.
    ///
    /// # Errors
    /// When the file cannot be written, or there is one that cannot be read, or that has another configuration and that stssad did not
    /// write.
    pub(crate) fn write_config(&self, config: &RunConfig) -> Result<(), FolderError> {
        let path = self.path().join(CONFIG);
        if path.symlink_metadata().is_ok() {
            let found = match fs::read_to_string(&path) {
                // What is no text is not ours.
                Err(error) if [io::ErrorKind::InvalidData, io::ErrorKind::IsADirectory].contains(&error.kind()) => {
                    String::new()
                }
                found => found.map_err(|source| FolderError::Read { path, source })?,
            };
            if RunConfig::parse(&found).is_ok_and(|found| found.completed_by(config) == *config) {
                return Ok(());
            }
            let is_ours = found.split_once('\n').is_some_and(|(first, toml)| first == heading(toml));
            if !is_ours {
                return Err(ClaimError::NotOurs { path: self.path().into(), file: CONFIG.into() }.into());
            }
        }
        let toml = config.to_toml();
        Ok(self.write(CONFIG, format!("{}\n{toml}", heading(&toml)).as_bytes())?)
    }

    /// Writes a file of the folder whole or not at all, so that it survives a power cut.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), ReportError> {
        self.write_by(name, |file| file.write_all(bytes))
    }

    /// As [`write`](Self::write), of what `write` writes.
    pub(super) fn write_by(
        &self,
        name: &str,
        write: impl FnOnce(&mut dyn io::Write) -> io::Result<()>,
    ) -> Result<(), ReportError> {
        let path = self.path().join(name);
        let written = store::write_by(&path, write).and_then(|()| store::sync_folder(self.path()));
        written.map_err(|source| ReportError::Write { path, source })
    }
}

/// The first line of a `config.toml` that stssad wrote: with its checksum, stssad knows that nobody has changed the file since.
fn heading(toml: &str) -> String {
    let checksum = &blake3::hash(toml.as_bytes()).to_hex()[..16];
    format!("# Written by stssad, checksum {checksum}. Once you change this file, stssad does not overwrite it.")
}

/// The folder of the run that a path leads to: if `latest` is a text file, as on systems without links, the folder that it names.
pub fn follow(path: &Path) -> PathBuf {
    let is_text = path.file_name().is_some_and(|name| name == LATEST) && path.is_file();
    let text = is_text.then(|| fs::read_to_string(path).ok()).flatten();
    let name = text.as_deref().map(str::trim).filter(|name| !name.is_empty() && !name.contains(['/', '\\', '\n']));
    name.map_or_else(|| path.to_owned(), |name| path.with_file_name(name))
}

/// How deep runs lie below a folder of them, at most, and those that are numbered by dataset and category.
const DEEPEST: usize = 5;
const NUMBERED: usize = 3;

/// The run in a folder below this one, with this file, that a process began or resumed last. As for [`RunFolder::resume_newest`], records say which
/// that is; a run without one counts as older than all others.
pub fn newest_below(folder: &Path, file: &str) -> Option<PathBuf> {
    let files = WalkDir::new(folder)
        .min_depth(2)
        .max_depth(DEEPEST)
        .into_iter()
        .flatten()
        .filter(|entry| entry.file_name() == file);
    let runs = files.filter_map(|entry| Some(entry.path().parent()?.to_owned()));
    runs.max_by_key(|run| (Holder::read(run).map(|record| record.since), run.clone()))
}

/// Replaces a link atomically.
#[cfg(unix)]
fn link(at: &Path, target: &Path) -> io::Result<()> {
    let partial = store::partial(at);
    std::os::unix::fs::symlink(target, &partial)?;
    fs::rename(&partial, at).inspect_err(|_| store::discard(&partial))
}

/// On Windows links need a privilege.
#[cfg(not(unix))]
fn link(_at: &Path, _target: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run with these files, begun at this second, as an earlier version recorded it or with a state.
    fn run(root: &Path, name: &str, files: &[&str], second: u64, state: &str) -> PathBuf {
        let path = root.join(name);
        fs::create_dir_all(&path).unwrap();
        files.iter().for_each(|file| fs::write(path.join(file), "").unwrap());
        let since = format!("2026-01-01T00:00:0{second}Z");
        let record = format!(r#"{{ "command": "train", "host": "here", "pid": 1, "since": "{since}"{state} }}"#);
        fs::write(path.join(crate::data::MARKER), record).unwrap();
        path
    }

    #[test]
    fn the_newest_unfinished_run_is_found_by_its_record() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let said = |error: FolderError| error.to_string();
        assert!(said(RunFolder::resume_newest(root).unwrap_err()).contains("there is no run below"));
        run(root, "folder/parts/v0", &["result.json", "checkpoint.safetensors"], 9, "");
        run(root, "folder/parts/v1", &["config.toml"], 9, "");
        let none = said(RunFolder::resume_newest(root).unwrap_err());
        assert!(none.contains("v0 is finished") && none.contains("v1 has no checkpoint"), "{none}");

        let stopped = r#", "state": "stopped", "reason": "the disk is full""#;
        let newer = run(root, "digits/6-9/v0", &["checkpoint.previous.safetensors"], 5, stopped);
        let older = run(root, "folder/parts/v2", &["checkpoint.safetensors"], 4, "");
        let failed = r#", "state": "failed", "reason": "it diverged""#;
        run(root, "folder/parts/v3", &["checkpoint.safetensors"], 8, failed);
        // Other new files in a folder do not make its run newer.
        fs::write(older.join("notes.txt"), "").unwrap();
        assert_eq!(newest_below(root, "checkpoint.safetensors"), Some(root.join("folder/parts/v0")));
        assert_eq!(newest_below(&root.join("digits"), "config.toml"), None);
        let found = RunFolder::resume_newest(root).unwrap();
        assert_eq!(found.path(), newer);
        // A run that another process works on is skipped.
        let next = RunFolder::resume_newest(root).unwrap();
        assert_eq!(next.path(), older);
        // That one was then resumed last.
        let held = RunFolder::resume_newest(root).unwrap_err();
        assert!(matches!(held, FolderError::Claim(ClaimError::InUse { path, .. }) if path == older));
        // One that was put there with --out.
        let mine = run(root, "mine", &["checkpoint.safetensors"], 1, stopped);
        assert_eq!(RunFolder::resume_newest(root).unwrap().path(), mine);
    }

    #[test]
    fn latest_moves_when_a_run_has_begun_and_may_be_a_text_file() {
        let parent = tempfile::tempdir().unwrap();
        let latest = parent.path().join(LATEST);
        let [first, second] = [(); 2].map(|()| RunFolder::next(parent.path()).unwrap());
        assert!(!latest.exists());
        first.begun();
        assert_eq!(fs::canonicalize(&latest).unwrap(), fs::canonicalize(first.path()).unwrap());
        second.begun();
        assert_eq!(fs::canonicalize(&latest).unwrap(), fs::canonicalize(second.path()).unwrap());
        assert_eq!(follow(&latest), latest, "links need no following");
        RunFolder::create(parent.path().join("named")).unwrap().begun();
        assert_eq!(fs::canonicalize(&latest).unwrap(), fs::canonicalize(second.path()).unwrap());

        fs::remove_file(&latest).unwrap();
        for (text, leads) in [("v1", "v1"), ("v1\r\n", "v1"), ("../v1", "latest"), ("", "latest"), ("a\nb", "latest")] {
            fs::write(&latest, text).unwrap();
            assert_eq!(follow(&latest), parent.path().join(leads), "{text:?}");
        }
        let other = parent.path().join("other");
        fs::write(&other, "v1").unwrap();
        assert_eq!(follow(&other), other);
    }

    /// What a later run must not read as images of its dataset.
    #[test]
    fn every_image_of_a_report_is_left_out_of_datasets() {
        let is_image = |name: &&&str| name.ends_with(".png") || !name.contains('.');
        let images: Vec<&str> = RUN_FILES.iter().filter(is_image).copied().collect();
        assert_eq!(images, crate::data::REPORT_IMAGES);
    }

    #[test]
    fn a_run_with_an_unreadable_result_is_neither_finished_nor_unfinished() {
        let folder = tempfile::tempdir().unwrap();
        let folder = RunFolder::for_demo(folder.path()).unwrap();
        assert_eq!(State::of(folder.path()).unwrap(), State::Nothing);
        fs::write(folder.path().join("checkpoint.safetensors"), "").unwrap();
        assert_eq!(State::of(folder.path()).unwrap(), State::Unfinished);
        for text in ["", "{}", "half of a res", "\u{fffd}"] {
            folder.write("result.json", text.as_bytes()).unwrap();
            let error = State::of(folder.path()).unwrap_err().to_string();
            assert!(error.contains("result.json") && error.contains("delete"), "{error}");
            assert!(folder.start_over().is_err());
            assert_eq!(fs::read_to_string(folder.path().join("result.json")).unwrap(), text, "nothing was removed");
        }
        folder.write_result(&Outcome::default()).unwrap();
        assert!(matches!(State::of(folder.path()).unwrap(), State::Finished(_)));
        folder.start_over().unwrap();
        assert_eq!(State::of(folder.path()).unwrap(), State::Nothing);
    }
}
