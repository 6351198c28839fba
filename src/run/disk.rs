//! Atomic writes: a file is written under another name, flushed to the disk, and renamed.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Writes a file whole or not at all. [`sync_folder`] then flushes its name to the disk.
///
/// # Errors
/// When the file cannot be written; a previous file at `path` stays.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_by(path, |file| file.write_all(bytes))
}

/// As [`write`], of what `write` writes.
pub(crate) fn write_by(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let partial = beside_by(path, write)?;
    fs::rename(&partial, path).inspect_err(|_| discard(&partial))
}

/// Writes a partial file in the folder of `path`, flushes it to the disk, and returns its path; renaming it completes the write.
///
/// # Errors
/// When the file cannot be written; no partial file is left.
pub(crate) fn beside(path: &Path, bytes: &[u8]) -> io::Result<PathBuf> {
    beside_by(path, |file| file.write_all(bytes))
}

fn beside_by(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<PathBuf> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let partial = path.with_file_name(format!(".{name}.{}.partial", std::process::id()));
    File::create(&partial)
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
    (!process.is_empty() && process.bytes().all(|digit| digit.is_ascii_digit())).then_some(name)
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

    /// Two processes that write the same file must not share a partial file.
    #[test]
    fn the_name_of_a_partial_file_has_its_process() {
        let folder = tempfile::tempdir().unwrap();
        let partial = beside(&folder.path().join("result.json"), b"half").unwrap();
        let name = partial.file_name().unwrap().to_str().unwrap();
        assert_eq!(name, format!(".result.json.{}.partial", std::process::id()));
        assert_eq!(whole_name(name), Some("result.json"));
        for other in [".result.json.partial", "result.json.1.partial", ".result.json.x1.partial", ".result.json.1"] {
            assert_eq!(whole_name(other), None, "{other}");
        }
    }
}
