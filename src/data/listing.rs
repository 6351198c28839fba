//! Unlabelled images to score, read batch by batch: memory does not grow with their number.

use std::path::PathBuf;

use rayon::prelude::*;

use super::files::{self, BadImage, Entry};
use super::images::{File, ahead};
use super::{Conversion, DataError, LeftOut, Loading, OnBadImage};
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
    /// Those that could be read, `[N, C, H, W]`.
    pub images: Tensor,
    /// Their names.
    pub names: Vec<String>,
    /// Each file in the order of the listing. Those that could be read are as many as the images.
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
        let mut entries = self.entries.into_iter().peekable();
        let batches = std::iter::from_fn(move || {
            entries.peek()?;
            Some(entries.by_ref().take(size).collect::<Vec<_>>())
        });
        ahead(batches, |entries| read(entries, conversion, loading), |batch| each(batch?))
    }
}

fn read(entries: Vec<Result<Entry, BadImage>>, conversion: Conversion, loading: &Loading) -> Result<Batch, DataError> {
    let of = entries.len();
    let decoded = entries.into_par_iter().map(|entry| {
        let Entry { path, name, mask, .. } = entry?;
        let file = File { path: path.into(), mask };
        let decoded = files::decode(&file, conversion, loading.max_pixels);
        let path = file.path.into_path_buf();
        decoded.map(|decoded| (path.clone(), name, decoded)).map_err(|reason| BadImage { path, reason })
    });
    let decoded: Vec<Result<_, BadImage>> = decoded.collect();
    let (mut files, mut names, mut levels, mut mended) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for image in decoded {
        files.push(image.map(|(path, name, decoded)| {
            names.push(name);
            levels.extend(decoded.levels);
            mended.extend(decoded.is_mended.then(|| path.clone()));
            path
        }));
    }
    if loading.on_bad_image == OnBadImage::Error && files.iter().any(Result::is_err) {
        return Err(DataError::BadImages { bad: files.into_iter().filter_map(Result::err).collect(), of });
    }
    let [c, h, w] = conversion.image();
    Ok(Batch { images: Tensor::new([names.len(), c, h, w], levels), names, files, mended })
}
