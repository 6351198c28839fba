//! The one way in which files of a run reach the disk.
//!
//! The rows of a run in training are appended to its curves, in whole rows but without flushing; a resumed run writes them anew. Every
//! other file is written under a name that no other process or thread uses, flushed, and renamed; `replace` also reads it back, may
//! keep the file before it, and flushes the folder before and after. So what survives what: after a crash of the process, `kill -9`,
//! a full disk or a failed call, each file is the old one or the new one, whole. After a power cut that holds for models, checkpoints,
//! results and the record of a folder, as far as the disk keeps what it has confirmed. A damaged newest checkpoint costs the steps
//! since the one before it. Two processes never write the same temporary file, and only the process that holds a folder's claim
//! ([`claim`](crate::run::claim)) removes those of processes that died. Not promised: one process writes the folder of a run at a
//! time where the file system has no locks between hosts *and* a process was frozen for longer than a claim takes to expire; it finds
//! out at its next checkpoint, which it does not write.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

/// Writes a file whole or not at all. [`sync_folder`] then flushes its name to the disk.
///
/// # Errors
/// When the file cannot be written; a previous file at `path` stays.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_by(path, |file| file.write_all(bytes))
}

/// As [`write`], of what `write` writes.
pub(crate) fn write_by(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let partial = beside(path, write)?;
    fs::rename(&partial, path).inspect_err(|_| discard(&partial))
}

/// As [`write`], so that the file survives a power cut. What it replaces is first renamed to `kept`, if given.
///
/// # Errors
/// When the file cannot be written, or does not read back as it was written. Then, or after a crash, the file before it is at `path`
/// or at `kept`.
pub(crate) fn replace(path: &Path, bytes: &[u8], kept: Option<&Path>) -> io::Result<()> {
    let partial = beside(path, |file| file.write_all(bytes))?;
    let sync = || sync_folder(folder_of(path));
    let put = || {
        if fs::read(&partial)? != bytes {
            return Err(io::Error::other("the file does not read back as it was written"));
        }
        // The new file must survive a power cut before the oldest one is removed.
        sync()?;
        if let Some(kept) = kept {
            match fs::rename(path, kept) {
                // Somebody has removed it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                renamed => renamed?,
            }
        }
        fs::rename(&partial, path)?;
        sync()
    };
    put().inspect_err(|_| discard(&partial))
}

/// Adds to the end of a file that another process may be reading.
///
/// # Errors
/// When there is no such file, or it cannot be written.
pub(crate) fn append(path: &Path, bytes: &[u8]) -> io::Result<()> {
    File::options().append(true).open(path)?.write_all(bytes)
}

/// The name of a temporary file that is to become `path`; no two are equal, also not those of two hosts.
pub(crate) fn partial(path: &Path) -> PathBuf {
    static PROCESS: OnceLock<String> = OnceLock::new();
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let process = PROCESS.get_or_init(|| {
        let unique = format!("{} {} {:?}", host(), std::process::id(), SystemTime::now());
        blake3::hash(unique.as_bytes()).to_hex()[..16].to_owned()
    });
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{process}{:04x}.partial", COUNT.fetch_add(1, Ordering::Relaxed)))
}

/// Writes a temporary file in the folder of `path`, flushes it to the disk, and returns its path. No file is left by a failure.
fn beside(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<PathBuf> {
    let partial = partial(path);
    File::create_new(&partial)
        .and_then(|file| {
            let mut file = BufWriter::new(file);
            write(&mut file)?;
            file.into_inner()?.sync_all()
        })
        .inspect_err(|_| discard(&partial))?;
    Ok(partial)
}

/// Removes a file that is no longer needed; if that fails, the leftover does no harm.
pub(crate) fn discard(partial: &Path) {
    let _ = fs::remove_file(partial);
}

/// The name of the file that a partial file, of whatever process, would have become.
pub(crate) fn whole_name(partial: &str) -> Option<&str> {
    let (name, process) = partial.strip_prefix('.')?.strip_suffix(".partial")?.rsplit_once('.')?;
    (!process.is_empty() && process.bytes().all(|digit| digit.is_ascii_hexdigit())).then_some(name)
}

/// Flushes the names in a folder to the disk, so that renames survive a power cut. Does nothing on systems that cannot flush
/// folders.
///
/// # Errors
/// When the disk fails.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    match File::open(folder) {
        Ok(folder) if cfg!(unix) => folder.sync_all(),
        _ => Ok(()),
    }
}

/// This machine's name.
#[cfg(unix)]
pub(crate) fn host() -> String {
    let mut name = [0_u8; 256];
    // SAFETY: the call writes at most as many bytes as it is told.
    let failed = unsafe { libc::gethostname(name.as_mut_ptr().cast(), name.len()) } != 0;
    let length = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
    if failed { "an unnamed host".into() } else { String::from_utf8_lossy(&name[..length]).into_owned() }
}

#[cfg(not(unix))]
pub(crate) fn host() -> String {
    std::env::var("COMPUTERNAME").unwrap_or_else(|_| "an unnamed host".into())
}

/// The folder of a file; the empty path stands for the working folder.
pub(crate) fn folder_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        write(&path, b"one").unwrap();
        write(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        // A folder in its place stops even root.
        let taken = folder.path().join("taken");
        fs::create_dir(&taken).unwrap();
        fs::write(taken.join("inside"), "").unwrap();
        assert!(write(&taken, b"three").is_err());
        let names = fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(names, 2, "nothing partial is left");
    }

    #[test]
    fn a_file_that_somebody_removed_is_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let [path, kept] = ["new", "kept"].map(|name| folder.path().join(name));
        replace(&path, b"one", Some(&kept)).unwrap();
        replace(&path, b"two", Some(&kept)).unwrap();
        assert_eq!((fs::read(&path).unwrap(), fs::read(&kept).unwrap()), (b"two".to_vec(), b"one".to_vec()));
        fs::remove_file(&path).unwrap();
        replace(&path, b"three", Some(&kept)).unwrap();
        assert_eq!((fs::read(&path).unwrap(), fs::read(&kept).unwrap()), (b"three".to_vec(), b"one".to_vec()));
    }

    #[test]
    fn no_two_temporary_files_have_the_same_name() {
        let [one, other] = [(); 2].map(|()| partial(Path::new("a/result.json")));
        assert_ne!(one, other);
        for name in [one.file_name().unwrap().to_str().unwrap(), ".result.json.17.partial"] {
            assert_eq!(whole_name(name), Some("result.json"));
        }
        for other in [".result.json.partial", "result.json.1.partial", ".result.json.x1.partial", ".result.json.1"] {
            assert_eq!(whole_name(other), None, "{other}");
        }
    }
}
