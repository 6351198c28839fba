//! Unlabelled images to score, read batch by batch: memory does not grow with their number.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rayon::prelude::*;

use super::files::{self, BadImage, Entry, Opened};
use super::images::{Decoded, File, ahead};
use super::names::Names;
use super::tiles::{self, Place};
use super::{Conversion, DataError, Geometry, LeftOut, Loading, OnBadImage, Raster};
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
    /// Those that could be read, or their tiles, `[N, C, H, W]`.
    pub images: Tensor,
    /// Each file in the order of the listing.
    pub files: Vec<Result<ReadFile, BadImage>>,
}

/// An image file that could be read.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadFile {
    pub path: PathBuf,
    /// Its path below the folder that was listed.
    pub name: String,
    /// Width and height in pixels.
    pub size: [u32; 2],
    /// Its tiles, if it was cut into tiles.
    pub tiles: Option<Vec<Place>>,
    /// Whether it is damaged but has all pixels.
    pub is_mended: bool,
}

impl ReadFile {
    /// How many of a batch's images show it.
    pub fn views(&self) -> usize {
        self.tiles.as_ref().map_or(1, Vec::len)
    }

    /// The values `[N, C, H, W]` of its views as one image.
    pub fn whole(&self, values: &[f32], [c, h, w]: [usize; 3]) -> Raster {
        match &self.tiles {
            Some(places) => tiles::blend(values, [c, h, w], places, self.size),
            None => Raster { extents: [c, h, w], values: values.to_vec() },
        }
    }

    /// Where the pixels of its [whole](Self::whole) are in the file.
    pub fn geometry(&self, conversion: &Conversion) -> Geometry {
        match self.tiles.as_ref().and_then(|places| places.first()) {
            Some(&[_, _, width, height]) => {
                let scale = [
                    f64::from(width) / conversion.size.width as f64,
                    f64::from(height) / conversion.size.height as f64,
                ];
                Geometry { origin: [0.0; 2], scale }
            }
            None => conversion.geometry(self.size),
        }
    }
}

impl Listing {
    /// Each path is a file, a folder whose images are listed recursively, or a pattern with `*`, `?` or `[…]` of such. A folder without
    /// images is an unusable one.
    ///
    /// # Errors
    /// When there is no path, or no file fits a pattern; and unless `loading` skips unusable images, when a folder has no image or
    /// cannot be read.
    pub fn of(paths: &[PathBuf], loading: &Loading) -> Result<Listing, DataError> {
        if paths.is_empty() {
            return Err(DataError::Empty { set: "prediction" });
        }
        let mut listing = Listing { entries: Vec::new(), left_out: LeftOut::default() };
        let paths = paths.iter().map(|path| matching(path)).collect::<Result<Vec<_>, _>>()?.concat();
        let is_folder: Vec<bool> = paths.iter().map(|path| path.is_dir()).collect();
        let each = || paths.iter().map(PathBuf::as_path).zip(&is_folder);
        let mut files = Names::of_files(each().filter_map(|(path, &is_folder)| (!is_folder).then_some(path))).each();
        for (path, is_folder) in each() {
            match is_folder {
                true => match files::list(path, "", &mut listing.left_out) {
                    Ok(listed) => listing.entries.extend(listed.into_iter().map(Ok)),
                    Err(error) if loading.on_bad_image == OnBadImage::Skip => {
                        listing.entries.push(Err(files::bad_folder(path, error)));
                    }
                    Err(error) => return Err(error),
                },
                false => listing.entries.extend(files.next().map(Entry::unknown).map(Ok)),
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

/// What a path stands for: itself if it exists or is no pattern.
fn matching(path: &Path) -> Result<Vec<PathBuf>, DataError> {
    let pattern = path.to_str().filter(|text| !path.exists() && text.contains(['*', '?', '[']));
    let Some(pattern) = pattern else { return Ok(vec![path.to_owned()]) };
    let wrong = |problem: String| DataError::Setting(format!("{pattern}: {problem}"));
    let found = glob::glob(pattern).map_err(|error| wrong(format!("this is not a pattern: {error}")))?;
    let found: Vec<PathBuf> = found.flatten().collect();
    match found.is_empty() {
        true => Err(wrong("no file fits this pattern: check the path".to_owned())),
        false => Ok(found),
    }
}

/// A folder into which files are put while it is watched.
#[derive(Debug)]
pub struct Watched {
    folder: PathBuf,
    seen: HashMap<PathBuf, Seen>,
}

/// A file that a watched folder has.
#[derive(Debug)]
struct Seen {
    /// Its size and time of change.
    state: (u64, Option<SystemTime>),
    /// For how many looks it has been so.
    looks: usize,
}

/// A file that has not changed for so many looks is complete.
const SETTLED: usize = 2;

impl Watched {
    pub fn new(folder: &Path) -> Self {
        Watched { folder: folder.to_owned(), seen: HashMap::new() }
    }

    /// The image files that have come, or changed, and have settled since: those that are as they were in the last two calls, and were
    /// not returned so before. Files that were removed are forgotten.
    ///
    /// # Errors
    /// When the folder does not exist or cannot be read.
    pub fn arrived(&mut self) -> Result<Listing, DataError> {
        let listed = match files::list(&self.folder, "", &mut LeftOut::default()) {
            Err(DataError::NoImages { .. }) => Vec::new(),
            listed => listed?,
        };
        let present: HashSet<PathBuf> = listed.iter().map(|entry| entry.name.path()).collect();
        self.seen.retain(|path, _| present.contains(path));
        let mut entries = Vec::new();
        for entry in listed {
            let path = entry.name.path();
            let state = path.metadata().map_or((0, None), |about| (about.len(), about.modified().ok()));
            let seen = self.seen.entry(path).or_insert(Seen { state, looks: 0 });
            if seen.state != state {
                *seen = Seen { state, looks: 0 };
            }
            seen.looks += 1;
            if seen.looks == SETTLED + 1 {
                entries.push(Ok(entry));
            }
        }
        Ok(Listing { entries, left_out: LeftOut::default() })
    }
}

fn read(entries: Vec<Result<Entry, BadImage>>, conversion: Conversion, loading: &Loading) -> Result<Batch, DataError> {
    let of = entries.len();
    let decoded = entries.into_par_iter().map(|entry| {
        let Entry { name, mask, .. } = entry?;
        let (path, file) = (name.path(), File { name, mask });
        match Opened::read(&file, conversion.channels, loading.max_pixels) {
            Ok(opened) => {
                let size = opened.size();
                let tiles = loading.tiles.map(|tile| tiles::places(size, tile));
                let places = tiles.iter().flatten().copied().map(Some);
                let places = if tiles.is_some() { places.collect() } else { vec![None] };
                let views: Vec<Decoded> = places.into_iter().map(|place| opened.view(place, conversion)).collect();
                let is_mended = views[0].is_mended;
                let levels: Vec<Vec<f32>> = views.into_iter().map(|view| view.levels).collect();
                let name = file.name.to_string();
                Ok((ReadFile { path, name, size, tiles, is_mended }, levels.concat()))
            }
            Err(reason) => Err(BadImage { path, reason }),
        }
    });
    let decoded: Vec<Result<_, BadImage>> = decoded.collect();
    let mut levels = Vec::new();
    let files: Vec<Result<ReadFile, BadImage>> = decoded
        .into_iter()
        .map(|image| {
            image.map(|(file, own)| {
                levels.extend(own);
                file
            })
        })
        .collect();
    if loading.on_bad_image == OnBadImage::Error && files.iter().any(Result::is_err) {
        return Err(DataError::BadImages { bad: files.into_iter().filter_map(Result::err).collect(), of });
    }
    let [c, h, w] = conversion.image();
    let views = files.iter().flatten().map(ReadFile::views).sum();
    Ok(Batch { images: Tensor::new([views, c, h, w], levels), files })
}
