//! Unlabelled images to score, read batch by batch: memory does not grow with their number.

use std::path::PathBuf;
use std::sync::mpsc::sync_channel;
use std::thread;

use super::files::{self, BadImage, Entry, Files, Read, Reading};
use super::{Conversion, DataError, LeftOut, Loading, OnBadImage, Set};
use crate::engine::tensor::Tensor;

/// The image files that paths stand for, in their order. None is read yet.
#[derive(Debug)]
pub struct Listing {
    entries: Vec<Result<Entry, BadImage>>,
    /// Files and folders beside the images that are not read.
    pub left_out: LeftOut,
}

/// Some of the images of a [`Listing`].
#[derive(Debug)]
pub struct Batch {
    /// Those that could be read.
    pub set: Set,
    /// Each file in the order of the listing. Those that could be read are as many as the images of `set`.
    pub files: Vec<Result<PathBuf, BadImage>>,
    /// Of these, those that are damaged but have all pixels.
    pub mended: Vec<PathBuf>,
}

impl Listing {
    /// Each path is a file, or a folder whose images are listed recursively. A folder without images is an unusable one.
    ///
    /// # Errors
    /// When there is no path; and unless `loading` skips unusable images, when a folder has no image or cannot be read.
    pub fn of(paths: &[PathBuf], loading: &Loading) -> Result<Listing, DataError> {
        if paths.is_empty() {
            return Err(DataError::Empty { set: "prediction" });
        }
        let mut listing = Listing { entries: Vec::new(), left_out: LeftOut::default() };
        for path in paths {
            match path.is_dir() {
                true => match files::list(path, "", &mut listing.left_out) {
                    Ok(listed) => listing.entries.extend(listed.into_iter().map(Ok)),
                    Err(error) if loading.on_bad_image == OnBadImage::Skip => {
                        listing.entries.push(Err(files::bad_folder(path, error)));
                    }
                    Err(error) => return Err(error),
                },
                false => listing.entries.push(Ok(Entry::of_file(path))),
            }
        }
        Ok(listing)
    }

    /// How many files and unusable folders there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Calls `each` with batches of so many files, in order. Another thread reads the next batch meanwhile.
    ///
    /// # Errors
    /// The first of `each`. When an image is unusable and `loading` does not skip such images.
    pub fn for_each_batch<E: From<DataError>>(
        self,
        size: usize,
        conversion: Conversion,
        loading: &Loading,
        mut each: impl FnMut(Batch) -> Result<(), E>,
    ) -> Result<(), E> {
        thread::scope(|scope| {
            // One batch waits while one is in use and one is read.
            let (sender, receiver) = sync_channel(1);
            scope.spawn(move || {
                let mut entries = self.entries.into_iter().peekable();
                while entries.peek().is_some() {
                    let batch = read(entries.by_ref().take(size).collect(), conversion, loading, &|_, _| {});
                    // Nobody receives after an error.
                    if sender.send(batch).is_err() {
                        break;
                    }
                }
            });
            receiver.into_iter().try_for_each(|batch| each(batch?))
        })
    }

    /// All images as one batch. `on_file` is called with the number of files read and of all.
    ///
    /// # Errors
    /// When an image is unusable and `loading` does not skip such images, or all images together exceed its limit of memory.
    pub fn read(
        self,
        conversion: Conversion,
        loading: &Loading,
        on_file: impl Fn(usize, usize) + Sync,
    ) -> Result<Batch, DataError> {
        read(self.entries, conversion, loading, &on_file)
    }
}

fn read(
    entries: Vec<Result<Entry, BadImage>>,
    conversion: Conversion,
    loading: &Loading,
    on_file: &(dyn Fn(usize, usize) + Sync),
) -> Result<Batch, DataError> {
    let usable: Vec<Entry> = entries.iter().filter_map(|entry| entry.as_ref().ok().cloned()).collect();
    let (set, found) = match (Reading { conversion, loading, on_file }).read([usable]) {
        Ok(Read { sets: [set], files }) => (set, files),
        Err(DataError::BadImages { bad, .. }) if loading.on_bad_image == OnBadImage::Skip => {
            let none = Tensor::new([0, conversion.channels.count(), conversion.side, conversion.side], Vec::new());
            let found = Files { skipped: bad, ..Files::default() };
            (Set { images: none, names: Vec::new(), truths: Vec::new() }, found)
        }
        Err(error) => return Err(error),
    };
    // Both are in the order of the entries.
    let mut bad = found.skipped.into_iter().peekable();
    let files = entries.into_iter().map(|entry| {
        let path = entry?.path;
        match bad.next_if(|bad| bad.path == path) {
            Some(bad) => Err(bad),
            None => Ok(path),
        }
    });
    Ok(Batch { set, files: files.collect(), mended: found.mended })
}
