//! Folders that one process at a time writes to, and only over files of stssad's own.
//!
//! A claimed folder has `stssad.json`, which says whose it is, and `.stssad.lock`, which is locked while a process works
//! there. The system releases the lock when the process ends, however it ends.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::run::disk;

/// The file that says whose a folder is. The lock is a file of its own, since Windows lets nobody read what is locked.
const MARKER: &str = "stssad.json";
const LOCK: &str = ".stssad.lock";

/// A command that keeps a folder, and the files and folders that it writes there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keeper {
    pub command: &'static str,
    pub files: &'static [&'static str],
}

/// The contents of `stssad.json`: whose the folder is, and which process worked there last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// As [`Keeper::command`].
    pub command: String,
    pub host: String,
    pub pid: u32,
    /// When the process claimed the folder, in UTC as RFC 3339 has it.
    pub since: String,
}

/// Why a folder cannot be written to.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    #[error("{} is in use by {}: wait until that process ends, or choose another folder", path.display(), who(holder))]
    Held { path: PathBuf, holder: Option<Holder> },
    #[error(
        "{} contains {file}, which stssad did not write and would overwrite: choose another folder, or move the file", path.display()
    )]
    Foreign { path: PathBuf, file: String },
    #[error("{} is a folder of `stssad {command}`: choose another folder", path.display())]
    Kept { path: PathBuf, command: String },
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
    /// Locked while it is open; `Err` with the reason where the file system has no locks.
    lock: Result<File, io::Error>,
}

impl Claim {
    /// Claims a folder for a command, and makes it where there is none. What processes that were killed left half written
    /// is removed.
    ///
    /// # Errors
    /// When another process works in the folder, it is another command's, it holds a file that is not stssad's and would be
    /// overwritten, or it cannot be written to. Nothing in it is changed then.
    pub fn take(path: &Path, keeper: Keeper) -> Result<Self, ClaimError> {
        Self::check(path, keeper)?;
        fs::create_dir_all(path).map_err(|source| ClaimError::Write { path: path.into(), source })?;
        let claim = Self::lock(path)?;
        claim.mark(keeper.command)?;
        claim.remove_partial(keeper.files);
        Ok(claim)
    }

    /// Claims a folder with the work of a command, whichever of `keepers` it is; the first where the folder does not say.
    /// The caller has made sure that the work is stssad's.
    ///
    /// # Errors
    /// When another process works in the folder, it is of another command, or it cannot be written to.
    pub fn go_on(path: &Path, keepers: [Keeper; 2]) -> Result<Self, ClaimError> {
        let keeper = match Holder::read(path) {
            None => keepers[0],
            Some(Holder { command, .. }) => *keepers
                .iter()
                .find(|keeper| keeper.command == command)
                .ok_or(ClaimError::Kept { path: path.into(), command })?,
        };
        let claim = Self::lock(path)?;
        claim.mark(keeper.command)?;
        claim.remove_partial(keeper.files);
        Ok(claim)
    }

    /// Refuses a folder that is another command's, or holds a file that is not stssad's and would be overwritten.
    fn check(path: &Path, keeper: Keeper) -> Result<(), ClaimError> {
        // In this order: whoever claims the folder meanwhile marks it before the first file.
        let is_there = |name: &&&str| path.join(name).symlink_metadata().is_ok();
        let file = [MARKER].iter().chain(keeper.files).find(is_there);
        match (Holder::read(path), file) {
            (Some(holder), _) if holder.command == keeper.command => Ok(()),
            (Some(holder), _) => Err(ClaimError::Kept { path: path.into(), command: holder.command }),
            (None, Some(file)) => Err(ClaimError::Foreign { path: path.into(), file: (*file).into() }),
            (None, None) => Ok(()),
        }
    }

    /// Where the folder is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Why the folder is not locked, where its file system has no locks: then another process may write to it as well.
    pub fn unlocked(&self) -> Option<&io::Error> {
        self.lock.as_ref().err()
    }

    fn lock(path: &Path) -> Result<Self, ClaimError> {
        let unwritable = |source| ClaimError::Write { path: path.into(), source };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(path.join(LOCK)).map_err(unwritable)?;
        let lock = match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::Error(reason)) => Err(reason),
            Err(TryLockError::WouldBlock) => {
                return Err(ClaimError::Held { path: path.into(), holder: Holder::read(path) });
            }
        };
        Ok(Claim { path: path.into(), lock })
    }

    fn mark(&self, command: &str) -> Result<(), ClaimError> {
        let since = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let holder = Holder { command: command.into(), host: host(), pid: std::process::id(), since };
        let mut bytes = serde_json::to_vec(&holder).expect("plain data with names for keys");
        bytes.push(b'\n');
        let marker = self.path.join(MARKER);
        disk::write(&marker, &bytes).map_err(|source| ClaimError::Write { path: self.path.clone(), source })
    }

    /// Removes what was begun under one of these names, or in a folder of such a name, and never became whole. Without the
    /// lock nobody knows whether another process is still writing it.
    fn remove_partial(&self, files: &[&str]) {
        if self.lock.is_err() {
            return;
        }
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

impl Holder {
    /// What a folder's marker says; `None` where there is none that can be read.
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

    const TRAIN: Keeper = Keeper { command: "train", files: &["result.json", "images"] };
    const TEST: Keeper = Keeper { command: "test", files: &["test.json"] };

    #[test]
    fn one_claim_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/run");
        let claim = Claim::take(&path, TRAIN).unwrap();
        assert!(claim.unlocked().is_none());
        let refused = Claim::take(&path, TRAIN).unwrap_err();
        let ClaimError::Held { holder: Some(holder), .. } = &refused else { panic!("{refused}") };
        assert_eq!((holder.pid, &*holder.command), (std::process::id(), "train"));
        assert!(!holder.host.is_empty());
        let said = refused.to_string();
        assert!(said.contains(&format!("process {} on {}, since 2", holder.pid, holder.host)), "{said}");
        assert!(matches!(Claim::go_on(&path, [TRAIN, TEST]), Err(ClaimError::Held { .. })));
        drop(claim);
        Claim::take(&path, TRAIN).unwrap();
    }

    #[test]
    fn what_stssad_did_not_write_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        fs::write(path.join("notes.txt"), "mine").unwrap();
        fs::write(path.join("result.json"), "mine").unwrap();
        let refused = Claim::take(path, TRAIN).unwrap_err().to_string();
        assert!(refused.contains("result.json, which stssad did not write"), "{refused}");
        assert_eq!(fs::read_dir(path).unwrap().count(), 2, "nothing was added");
        // Another command writes other files here; then the folder is its own.
        drop(Claim::take(path, TEST).unwrap());
        let refused = Claim::take(path, TRAIN).unwrap_err().to_string();
        assert!(refused.contains("a folder of `stssad test`"), "{refused}");
        drop(Claim::take(path, TEST).unwrap());

        let other = folder.path().join("other");
        fs::create_dir(&other).unwrap();
        fs::write(other.join(MARKER), "mine").unwrap();
        assert!(matches!(Claim::take(&other, TRAIN), Err(ClaimError::Foreign { file, .. }) if file == MARKER));
    }

    #[test]
    fn what_was_left_half_written_goes_and_nothing_else() {
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
        let unlocked = Claim { path: path.into(), lock: Err(io::Error::other("no locks here")) };
        unlocked.remove_partial(TRAIN.files);
        assert!(left.iter().all(|name| path.join(name).exists()), "without a lock nothing is removed");
        Claim::take(path, TRAIN).unwrap();
        assert!(left.iter().all(|name| !path.join(name).exists()));
        assert!(kept.iter().all(|name| path.join(name).exists()));
    }
}
