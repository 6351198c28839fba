//! Folders that one process at a time writes to, and in which only files that stssad wrote are overwritten.
//!
//! A claimed folder contains `stssad.json`, which names the command that owns it, and `.stssad.lock`, which is locked while a
//! process works there. The system releases the lock when the process ends, however it ends. A claim that wrote no file
//! removes `stssad.json` again, so a call that failed early leaves the folder to the user.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::data::MARKER;
use crate::run::disk;

/// The lock is a file of its own, since Windows does not let other processes read a locked file.
const LOCK: &str = ".stssad.lock";

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
}

/// Why a folder cannot be written to.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    #[error("{} is in use by {}: wait until that process ends, or choose another folder", path.display(), who(holder))]
    InUse { path: PathBuf, holder: Option<Holder> },
    #[error(
        "{} contains {file}, which stssad did not write and would overwrite: choose another folder, or move the file", path.display()
    )]
    NotOurs { path: PathBuf, file: String },
    #[error("{} is a folder of `stssad {command}`: choose another folder", path.display())]
    OtherCommand { path: PathBuf, command: String },
    #[error("cannot write to {}: check that the folder is writable and the disk is not full", path.display())]
    Write { path: PathBuf, source: io::Error },
}

fn who(holder: &Option<Holder>) -> String {
    match holder {
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
    fn check(path: &Path, owner: Owner) -> Result<(), ClaimError> {
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

    fn lock(path: &Path) -> Result<Result<File, io::Error>, ClaimError> {
        let unwritable = |source| ClaimError::Write { path: path.into(), source };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(path.join(LOCK)).map_err(unwritable)?;
        match file.try_lock() {
            Ok(()) => Ok(Ok(file)),
            Err(TryLockError::Error(reason)) => Ok(Err(reason)),
            Err(TryLockError::WouldBlock) => Err(ClaimError::InUse { path: path.into(), holder: Holder::read(path) }),
        }
    }

    /// Locks a folder, marks it, and removes the partial files of killed processes.
    fn mark(path: &Path, owner: Owner) -> Result<Self, ClaimError> {
        let claim = Claim { path: path.into(), owner, lock: Self::lock(path)? };
        let since = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let holder = Holder { command: owner.command.into(), host: host(), pid: std::process::id(), since };
        let mut bytes = serde_json::to_vec(&holder).expect("plain data with names for keys");
        bytes.push(b'\n');
        disk::write(&path.join(MARKER), &bytes).map_err(|source| ClaimError::Write { path: path.into(), source })?;
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
            let whole = disk::whole_name(&name).unwrap_or(&name);
            entry.depth() > 1 || whole == MARKER || files.contains(&whole)
        });
        for entry in ours.flatten() {
            if entry.file_type().is_file() && disk::whole_name(&entry.file_name().to_string_lossy()).is_some() {
                disk::discard(entry.path());
            }
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let exists = |name: &&str| self.path.join(name).symlink_metadata().is_ok();
        if self.lock.is_ok() && !self.owner.files.iter().any(exists) {
            disk::discard(&self.path.join(MARKER));
        }
    }
}

impl Holder {
    /// The contents of a folder's marker; `None` if there is none that can be read.
    fn read(folder: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(folder.join(MARKER)).ok()?).ok()
    }
}

/// This machine's name.
#[cfg(unix)]
fn host() -> String {
    let mut name = [0_u8; 256];
    // SAFETY: the call writes at most as many bytes as it is told.
    let failed = unsafe { libc::gethostname(name.as_mut_ptr().cast(), name.len()) } != 0;
    let length = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
    if failed { "an unnamed host".into() } else { String::from_utf8_lossy(&name[..length]).into_owned() }
}

#[cfg(not(unix))]
fn host() -> String {
    std::env::var("COMPUTERNAME").unwrap_or_else(|_| "an unnamed host".into())
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
        let unlocked = Claim { path: path.into(), owner: TRAIN, lock: Err(io::Error::other("no locks here")) };
        unlocked.remove_partial();
        assert!(left.iter().all(|name| path.join(name).exists()), "without a lock nothing is removed");
        Claim::take(path, TRAIN).unwrap();
        assert!(left.iter().all(|name| !path.join(name).exists()));
        assert!(kept.iter().all(|name| path.join(name).exists()));
    }
}
