//! Folders that one process at a time writes to, and in which only files that stssad wrote are overwritten.
//!
//! A claimed folder contains `stssad.json`, which names the command that owns it, and `.stssad.lock`, which is locked while a
//! process works there. The system releases the lock when the process ends, however it ends. A claim that wrote no file
//! removes `stssad.json` again, so a call that failed early leaves the folder to the user.
//!
//! Some network file systems have no locks, or locks that other hosts do not see. So the holder touches `.stssad.lock` every few
//! seconds, and whoever finds a folder held from another host, or without locks, watches that file: if it is touched, the folder is in
//! use; if it is not touched for [`EXPIRY`], its holder is dead. No clocks are compared.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use crate::data::MARKER;
use crate::run::store;

/// The lock is a file of its own, since Windows does not let other processes read a locked file.
const LOCK: &str = ".stssad.lock";

/// Time between two signs of life of a holder.
const BEAT: Duration = Duration::from_secs(3);
/// Time without a sign of life after which a holder that the system's locks do not tell of is dead.
pub const EXPIRY: Duration = Duration::from_secs(20);

/// How the work in a folder stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkState {
    /// A process works there, or did until it was killed.
    Running,
    /// It ended early, and can be resumed if it saved a checkpoint.
    Stopped,
    /// It cannot be resumed: it would fail again.
    Failed,
    Finished,
}

/// A command that owns a folder, and the files and folders that it writes there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    pub command: &'static str,
    pub files: &'static [&'static str],
}

/// The contents of `stssad.json`: the command that owns the folder, and the process that worked there last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// As [`Owner::command`].
    pub command: String,
    pub host: String,
    pub pid: u32,
    /// When the process claimed the folder, in UTC, in the format of RFC 3339.
    pub since: String,
    /// Absent where earlier versions wrote it, and for commands whose work cannot be resumed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<WorkState>,
    /// Why it is stopped or failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Why a folder cannot be written to.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    #[error("{} is in use by {}: wait until that process ends, or choose another folder", path.display(), who(holder))]
    InUse { path: PathBuf, holder: Option<Box<Holder>> },
    #[error(
        "{} contains {file}, which stssad did not write and would overwrite: choose another folder, or move the file", path.display()
    )]
    NotOurs { path: PathBuf, file: String },
    #[error("{} is a file: give the path of a folder", path.display())]
    File { path: PathBuf },
    #[error("{} is a folder of `stssad {command}`: choose another folder", path.display())]
    OtherCommand { path: PathBuf, command: String },
    #[error("cannot write to {}: check that the folder is writable and the disk is not full", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error(
        "{} is not the folder any more in which this process works: that one was moved, replaced or removed; if it was moved, resume \
         the run where it is now", path.display()
    )]
    Moved { path: PathBuf },
}

fn who(holder: &Option<Box<Holder>>) -> String {
    match holder.as_deref() {
        Some(Holder { host, pid, since, .. }) => format!("process {pid} on {host}, since {since}"),
        None => "another process".into(),
    }
}

/// The right to write to a folder, until it is dropped.
#[derive(Debug)]
pub struct Claim {
    path: PathBuf,
    owner: Owner,
    /// Locked while it is open; `Err` with the reason if the file system has no locks.
    lock: Result<File, io::Error>,
    own: Holder,
    /// What the folder's record was before.
    before: Option<Holder>,
    /// Whether [`end`](Claim::end) was called.
    ended: AtomicBool,
    beating: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Claim {
    /// Claims a folder for a command; makes it if there is none. Partial files of killed processes are removed.
    ///
    /// # Errors
    /// When another process works in the folder, it belongs to another command, it contains a file that stssad did not write
    /// and would overwrite, or it cannot be written to. Nothing in it is changed then.
    pub fn take(path: &Path, owner: Owner) -> Result<Self, ClaimError> {
        Self::check(path, owner)?;
        fs::create_dir_all(path).map_err(|source| ClaimError::Write { path: path.into(), source })?;
        Self::mark(path, owner)
    }

    /// Claims a folder for the one of `owners` that it belongs to; the first if it is not marked. The caller has made sure
    /// that stssad wrote its files.
    ///
    /// # Errors
    /// When another process works in the folder, it belongs to another command, or it cannot be written to.
    pub fn resume(path: &Path, owners: [Owner; 2]) -> Result<Self, ClaimError> {
        let owner = match Holder::read(path) {
            None => owners[0],
            Some(Holder { command, .. }) => *owners
                .iter()
                .find(|owner| owner.command == command)
                .ok_or(ClaimError::OtherCommand { path: path.into(), command })?,
        };
        Self::mark(path, owner)
    }

    /// Refuses a folder that belongs to another command, or contains a file that stssad did not write and would overwrite.
    ///
    /// # Errors
    /// When it is such a folder, or a file.
    pub fn check(path: &Path, owner: Owner) -> Result<(), ClaimError> {
        if path.is_file() {
            return Err(ClaimError::File { path: path.into() });
        }
        // In this order: a process that claims the folder meanwhile marks it before it writes its first file.
        let exists = |name: &&&str| path.join(name).symlink_metadata().is_ok();
        let file = [MARKER].iter().chain(owner.files).find(exists);
        match (Holder::read(path), file) {
            (Some(holder), _) if holder.command == owner.command => Ok(()),
            (Some(holder), _) => Err(ClaimError::OtherCommand { path: path.into(), command: holder.command }),
            (None, Some(file)) => Err(ClaimError::NotOurs { path: path.into(), file: (*file).into() }),
            (None, None) => Ok(()),
        }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Why the folder is not locked, if its file system has no locks; another process might then write to it too.
    pub fn unlocked(&self) -> Option<&io::Error> {
        self.lock.as_ref().err()
    }

    /// Records how the work ended, and why.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub fn end(&self, state: WorkState, reason: Option<String>) -> Result<(), ClaimError> {
        self.ended.store(true, Ordering::Relaxed);
        self.check_held()?;
        Holder { state: Some(state), reason, ..self.own.clone() }.write(&self.path)
    }

    /// Checks that the folder is still the one that was claimed, and that no other process has taken it: one that was frozen
    /// may find it taken.
    ///
    /// # Errors
    /// When another process has, or another folder is at its path.
    pub fn check_held(&self) -> Result<(), ClaimError> {
        if self.is_moved() {
            return Err(ClaimError::Moved { path: self.path.clone() });
        }
        let of = |holder: &Holder| (holder.host.clone(), holder.pid, holder.since.clone());
        match Holder::read(&self.path) {
            Some(other) if of(&other) != of(&self.own) => {
                Err(ClaimError::InUse { path: self.path.clone(), holder: Some(other.into()) })
            }
            _ => Ok(()),
        }
    }

    /// Whether the lock in the folder at this path is another file than the one that is held. Where there is none, the folder
    /// may still be the same.
    #[cfg(unix)]
    fn is_moved(&self) -> bool {
        use std::os::unix::fs::MetadataExt;
        let of = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let held = self.lock.as_ref().ok().and_then(|file| file.metadata().ok()).map(of);
        let there = fs::metadata(self.path.join(LOCK)).ok().map(of);
        !self.path.exists() || matches!((held, there), (Some(held), Some(there)) if held != there)
    }

    /// Windows keeps the folder of an open file where it is.
    #[cfg(not(unix))]
    fn is_moved(&self) -> bool {
        false
    }

    fn lock(path: &Path) -> Result<Result<File, io::Error>, ClaimError> {
        let unwritable = |source| ClaimError::Write { path: path.into(), source };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(path.join(LOCK)).map_err(unwritable)?;
        match file.try_lock() {
            Ok(()) => Ok(Ok(file)),
            Err(TryLockError::Error(reason)) => Ok(Err(reason)),
            Err(TryLockError::WouldBlock) => {
                Err(ClaimError::InUse { path: path.into(), holder: Holder::read(path).map(Box::new) })
            }
        }
    }

    /// Locks a folder, marks it, and removes the partial files of killed processes.
    fn mark(path: &Path, owner: Owner) -> Result<Self, ClaimError> {
        let lock = Self::lock(path)?;
        let before = Holder::read(path);
        if let Some(holder) = before.as_ref().filter(|holder| holder.may_live(lock.is_ok()))
            && shows_life(path, EXPIRY)
        {
            return Err(ClaimError::InUse { path: path.into(), holder: Some(holder.clone().into()) });
        }
        let own = Holder {
            command: owner.command.into(),
            host: store::host(),
            pid: std::process::id(),
            since: humantime::format_rfc3339_micros(SystemTime::now()).to_string(),
            state: Some(WorkState::Running),
            reason: None,
        };
        let beating = lock.as_ref().ok().and_then(|file| file.try_clone().ok()).map(beat);
        let claim = Claim { path: path.into(), owner, lock, own, before, ended: false.into(), beating };
        claim.own.write(path)?;
        claim.remove_partial();
        Ok(claim)
    }

    /// Removes partial files of the owner's files, and those in the owner's folders. Without the lock another process may
    /// still be writing them.
    fn remove_partial(&self) {
        if self.lock.is_err() {
            return;
        }
        let files = self.owner.files;
        let entries = walkdir::WalkDir::new(&self.path).min_depth(1).into_iter();
        let ours = entries.filter_entry(|entry| {
            let name = entry.file_name().to_string_lossy();
            let whole = store::whole_name(&name).unwrap_or(&name);
            entry.depth() > 1 || whole == MARKER || files.contains(&whole)
        });
        for entry in ours.flatten() {
            if entry.file_type().is_file() && store::whole_name(&entry.file_name().to_string_lossy()).is_some() {
                store::discard(entry.path());
            }
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let exists = |name: &&str| self.path.join(name).symlink_metadata().is_ok();
        let is_held = self.check_held().is_ok();
        if is_held && self.lock.is_ok() && !self.owner.files.iter().any(exists) {
            store::discard(&self.path.join(MARKER));
        } else if is_held && !*self.ended.get_mut() {
            // A call that was refused, or a command whose work has no state.
            let left = self.before.take().unwrap_or(Holder { state: None, ..self.own.clone() });
            let _ = left.write(&self.path);
        }
        if let Some((stop, thread)) = self.beating.take() {
            drop(stop);
            let _ = thread.join();
        }
    }
}

/// Touches a file now and then, until the sender is dropped.
fn beat(file: File) -> (Sender<()>, JoinHandle<()>) {
    let (stop, stopped) = mpsc::channel();
    let touch = move || {
        while stopped.recv_timeout(BEAT) == Err(RecvTimeoutError::Timeout) {
            let _ = file.set_modified(SystemTime::now());
        }
    };
    (stop, thread::spawn(touch))
}

/// Whether the holder of a folder touches its lock within this time.
fn shows_life(path: &Path, within: Duration) -> bool {
    // Opened anew, since a network file system keeps the times of files.
    let touched = || File::open(path.join(LOCK)).and_then(|file| file.metadata()?.modified()).ok();
    let (first, begun) = (touched(), Instant::now());
    while begun.elapsed() < within {
        thread::sleep(within / 50);
        if touched() != first {
            return true;
        }
    }
    false
}

impl Holder {
    /// Whether the process may live although its folder's lock is free: the system's locks tell only of processes on this host.
    fn may_live(&self, has_locks: bool) -> bool {
        self.state == Some(WorkState::Running) && !(has_locks && self.host == store::host())
    }

    fn write(&self, folder: &Path) -> Result<(), ClaimError> {
        let mut bytes = serde_json::to_vec(self).expect("plain data with names for keys");
        bytes.push(b'\n');
        let written = store::replace(&folder.join(MARKER), &bytes, None);
        written.map_err(|source| ClaimError::Write { path: folder.into(), source })
    }

    /// The contents of a folder's marker; `None` if there is none that can be read.
    pub(crate) fn read(folder: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(folder.join(MARKER)).ok()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRAIN: Owner = Owner { command: "train", files: &["result.json", "images"] };
    const TEST: Owner = Owner { command: "test", files: &["test.json"] };

    #[test]
    fn a_folder_has_one_claim_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/run");
        let claim = Claim::take(&path, TRAIN).unwrap();
        assert!(claim.unlocked().is_none());
        let refused = Claim::take(&path, TRAIN).unwrap_err();
        let ClaimError::InUse { holder: Some(holder), .. } = &refused else { panic!("{refused}") };
        assert_eq!((holder.pid, &*holder.command), (std::process::id(), "train"));
        assert!(!holder.host.is_empty());
        let said = refused.to_string();
        assert!(said.contains(&format!("process {} on {}, since 2", holder.pid, holder.host)), "{said}");
        assert!(matches!(Claim::resume(&path, [TRAIN, TEST]), Err(ClaimError::InUse { .. })));
        drop(claim);
        Claim::take(&path, TRAIN).unwrap();
    }

    #[test]
    fn files_that_stssad_did_not_write_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        fs::write(path.join("notes.txt"), "mine").unwrap();
        fs::write(path.join("result.json"), "mine").unwrap();
        let refused = Claim::take(path, TRAIN).unwrap_err().to_string();
        assert!(refused.contains("result.json, which stssad did not write"), "{refused}");
        assert_eq!(fs::read_dir(path).unwrap().count(), 2, "nothing was added");
        // Another command writes other files here; then the folder belongs to it.
        let tested = Claim::take(path, TEST).unwrap();
        fs::write(path.join("test.json"), "").unwrap();
        drop(tested);
        let refused = Claim::take(path, TRAIN).unwrap_err().to_string();
        assert!(refused.contains("a folder of `stssad test`"), "{refused}");
        drop(Claim::take(path, TEST).unwrap());

        let other = folder.path().join("other");
        fs::create_dir(&other).unwrap();
        fs::write(other.join(MARKER), "mine").unwrap();
        assert!(matches!(Claim::take(&other, TRAIN), Err(ClaimError::NotOurs { file, .. }) if file == MARKER));
    }

    #[test]
    fn a_claim_that_wrote_nothing_leaves_the_folder_to_the_user() {
        let folder = tempfile::tempdir().unwrap();
        drop(Claim::take(folder.path(), TRAIN).unwrap());
        assert!(!folder.path().join(MARKER).exists());
        fs::write(folder.path().join("result.json"), "mine").unwrap();
        assert!(matches!(Claim::take(folder.path(), TRAIN), Err(ClaimError::NotOurs { .. })));
        fs::remove_file(folder.path().join("result.json")).unwrap();

        let claim = Claim::take(folder.path(), TRAIN).unwrap();
        fs::write(folder.path().join("result.json"), "").unwrap();
        drop(claim);
        assert!(folder.path().join(MARKER).exists());
    }

    #[test]
    fn partial_files_are_removed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        fs::create_dir_all(path.join("images/good")).unwrap();
        fs::create_dir_all(path.join("mine")).unwrap();
        drop(Claim::take(&path.join("again"), TRAIN).unwrap());
        let left = [".result.json.7.partial", "images/good/.a.png.7.partial"];
        let kept = [".notes.7.partial", "mine/.result.json.7.partial", ".result.json.partial", "images/good/a.png"];
        left.iter().chain(&kept).for_each(|name| fs::write(path.join(name), "").unwrap());
        fs::remove_dir_all(path.join("again")).unwrap();
        fs::write(path.join(MARKER), r#"{ "command": "train", "host": "here", "pid": 1, "since": "" }"#).unwrap();
        let mut unlocked = Claim::take(path, TRAIN).unwrap();
        left.iter().for_each(|name| fs::write(path.join(name), "").unwrap());
        unlocked.lock = Err(io::Error::other("no locks here"));
        unlocked.remove_partial();
        assert!(left.iter().all(|name| path.join(name).exists()), "without a lock nothing is removed");
        drop(unlocked);
        Claim::take(path, TRAIN).unwrap();
        assert!(left.iter().all(|name| !path.join(name).exists()));
        assert!(kept.iter().all(|name| path.join(name).exists()));
    }

    #[test]
    fn a_holder_on_another_host_is_alive_while_it_touches_its_lock() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let lock = File::create(path.join(LOCK)).unwrap();
        assert!(!shows_life(path, Duration::from_millis(50)));
        let beats = (1..).map(|second| SystemTime::UNIX_EPOCH + Duration::from_secs(second));
        let (stop, stopped) = mpsc::channel::<()>();
        let holder = thread::spawn(move || {
            let alive =
                |_: &SystemTime| stopped.recv_timeout(Duration::from_millis(1)) == Err(RecvTimeoutError::Timeout);
            beats.take_while(alive).for_each(|time| lock.set_modified(time).unwrap());
        });
        assert!(shows_life(path, Duration::from_secs(60)));
        drop(stop);
        holder.join().unwrap();

        let other = |state| Holder {
            command: "train".into(),
            host: "another host".into(),
            pid: 1,
            since: String::new(),
            state,
            reason: None,
        };
        assert!(other(Some(WorkState::Running)).may_live(true) && !other(Some(WorkState::Stopped)).may_live(true));
        let here = Holder { host: store::host(), ..other(Some(WorkState::Running)) };
        assert!(here.may_live(false) && !here.may_live(true));
    }

    #[test]
    fn a_record_tells_how_the_work_ended_and_a_refused_call_does_not_change_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let claim = Claim::take(path, TRAIN).unwrap();
        fs::write(path.join("result.json"), "").unwrap();
        assert_eq!(Holder::read(path).unwrap().state, Some(WorkState::Running));
        claim.end(WorkState::Stopped, Some("the disk is full".into())).unwrap();
        drop(claim);
        let stopped = Holder::read(path).unwrap();
        assert_eq!((stopped.state, stopped.reason.as_deref()), (Some(WorkState::Stopped), Some("the disk is full")));
        drop(Claim::take(path, TRAIN).unwrap());
        assert_eq!(Holder::read(path).unwrap(), stopped);

        // Another process takes the folder from one that was frozen.
        let frozen = Claim::take(path, TRAIN).unwrap();
        let other = Holder { pid: 1, ..frozen.own.clone() };
        other.write(path).unwrap();
        assert!(matches!(frozen.check_held(), Err(ClaimError::InUse { holder: Some(holder), .. }) if *holder == other));
        drop(frozen);
        assert_eq!(Holder::read(path).unwrap(), other);
    }

    #[cfg(unix)]
    #[test]
    fn a_folder_that_takes_the_place_of_the_claimed_one_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let [path, away] = ["run", "away"].map(|name| root.path().join(name));
        let claim = Claim::take(&path, TRAIN).unwrap();
        claim.check_held().unwrap();
        fs::rename(&path, &away).unwrap();
        assert!(matches!(claim.check_held(), Err(ClaimError::Moved { .. })), "there is none");
        // A finished run comes in its place.
        let other = Claim::take(&path, TRAIN).unwrap();
        fs::write(path.join("result.json"), "").unwrap();
        other.end(WorkState::Finished, None).unwrap();
        drop(other);
        let finished = Holder::read(&path).unwrap();
        assert!(matches!(claim.check_held(), Err(ClaimError::Moved { .. })), "there is another");
        assert!(claim.end(WorkState::Stopped, None).is_err());
        drop(claim);
        assert_eq!(Holder::read(&path).unwrap(), finished);
        assert_eq!(Holder::read(&away).unwrap().state, Some(WorkState::Running), "the lock tells that it has ended");
    }
}
