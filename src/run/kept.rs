//! What is kept between runs in the user's cache folder. Without such a folder, or where it cannot be read or written, nothing is
//! kept, and everything else is the same.

use std::fs;
use std::path::PathBuf;

use crate::engine::gpu::Device;
use crate::run::store;

/// `stssad` in the user's cache folder; `None` where the environment names none.
pub fn folder() -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let caches = match folder("XDG_CACHE_HOME") {
        Some(given) => given,
        None if cfg!(windows) => folder("LOCALAPPDATA")?,
        None if cfg!(target_os = "macos") => folder("HOME")?.join("Library/Caches"),
        None => folder("HOME")?.join(".cache"),
    };
    Some(caches.join("stssad"))
}

/// Bytes beyond which a file is begun anew: pipelines of shaders that are no more stay in it.
const MOST: usize = 256 << 20;
/// Bytes of the digest that a file begins with.
const DIGEST: usize = blake3::OUT_LEN;

/// The pipelines of a device, from a file, and back to it when this is dropped.
#[derive(Debug)]
pub struct Pipelines {
    device: Device,
    path: PathBuf,
    /// Bytes that were kept before.
    before: usize,
}

impl Pipelines {
    /// Has a device take its pipelines from the file of its adapter, unless that is damaged. `None` where none are kept.
    pub fn of(device: &Device) -> Option<Pipelines> {
        Pipelines::at(device, folder()?)
    }

    fn at(device: &Device, folder: PathBuf) -> Option<Pipelines> {
        let path = folder.join(device.pipelines_key()?);
        let file = fs::read(&path).ok();
        let kept = file.as_deref().and_then(whole).filter(|kept| kept.len() <= MOST);
        // SAFETY: the digest tells that these are the bytes that a device once gave, as far as the user's own files can.
        unsafe { device.keep_pipelines(kept) };
        Some(Pipelines { device: device.clone(), path, before: kept.map_or(0, <[u8]>::len) })
    }

    /// Writes the file if more is to be kept than was.
    fn save(&self) -> Option<()> {
        let kept = self.device.kept_pipelines().filter(|kept| kept.len() > self.before)?;
        fs::create_dir_all(store::folder_of(&self.path)).ok()?;
        store::write(&self.path, &[&blake3::hash(&kept).as_bytes()[..], &kept].concat()).ok()
    }
}

impl Drop for Pipelines {
    fn drop(&mut self) {
        // Without the file the next run compiles.
        let _ = self.save();
    }
}

/// What follows the digest, if it is the digest's.
fn whole(file: &[u8]) -> Option<&[u8]> {
    let (digest, kept) = file.split_at_checked(DIGEST)?;
    (blake3::hash(kept) == blake3::Hash::from_slice(digest).ok()?).then_some(kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::gpu::{Choice, Executor, States};
    use crate::engine::plan::{Plan, Reuse};
    use crate::engine::tape::Tape;

    #[test]
    fn a_second_run_finds_all_that_the_first_compiled_and_a_damaged_file_is_ignored() {
        let folder = tempfile::tempdir().unwrap();
        let run = || {
            let device = Device::open(&Choice::Best).unwrap();
            let kept = Pipelines::at(&device, folder.path().join("stssad"))?;
            let before = kept.before;
            let mut t = Tape::new();
            let x = t.feed("x", [8, 8]);
            let y = t.matmul(x, x);
            let plan = Plan::new(&t, &[y], &[], device.class(), Reuse::On);
            Executor::new(&device, plan, &States::new(&device), |_, _| ()).unwrap();
            let path = kept.path.clone();
            drop(kept);
            Some((before, path))
        };
        let Some((0, path)) = run() else { return println!("this device keeps no pipelines") };
        let first = fs::read(&path).unwrap();
        assert_eq!(run().unwrap().0, first.len() - DIGEST);
        assert_eq!(fs::read(&path).unwrap(), first, "nothing was added");

        let mut flipped = first.clone();
        flipped[first.len() / 2] ^= 1;
        for damaged in [&flipped[..], &first[..first.len() - 1], &first[..DIGEST - 1], b""] {
            fs::write(&path, damaged).unwrap();
            assert_eq!(run().unwrap().0, 0);
            assert!(whole(&fs::read(&path).unwrap()).is_some(), "a sound file is in its place");
        }
        let names = fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(names, 1, "nothing partial is left");
    }
}
