//! Lists the image files of a folder by name, and reads and converts them in parallel.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use image::DynamicImage;
use rayon::prelude::*;
use walkdir::WalkDir;

use super::decode::{self, Conversion, DecodeError};
use super::{DataError, Loading, MARKER, OnBadImage, REPORT_IMAGES, Set, Truth};
use crate::engine::tensor::Tensor;

const ENDINGS: [&str; 6] = ["png", "jpg", "jpeg", "bmp", "tif", "tiff"];

/// An unusable file.
#[derive(Debug)]
pub struct BadImage {
    pub path: PathBuf,
    pub reason: DecodeError,
}

impl fmt::Display for BadImage {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} {}", printable(&self.path.to_string_lossy()), self.reason)
    }
}

/// Escapes the control characters in a text from the file system.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|c| match c.is_control() {
            true => c.escape_default().collect::<Vec<_>>(),
            false => vec![c],
        })
        .collect()
}

/// The mask of an image.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Mask {
    Unknown,
    /// No pixel belongs to a defect.
    Blank,
    File(PathBuf),
    /// A file with one of these names is missing.
    Missing(String),
}

/// An image file that is not yet read.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub path: PathBuf,
    pub name: String,
    pub kind: String,
    pub anomalous: Option<bool>,
    pub mask: Mask,
}

impl Entry {
    /// A file, named by its whole path.
    pub fn of_file(path: &Path) -> Self {
        let parts = path.components().filter(|part| matches!(part, Component::Normal(_)));
        let name = name_of(&parts.collect::<PathBuf>());
        Entry { path: path.to_owned(), name, kind: String::new(), anomalous: None, mask: Mask::Unknown }
    }

    pub fn good(self) -> Self {
        Entry { kind: "good".to_owned(), anomalous: Some(false), ..self }
    }

    pub fn anomaly(self, kind: &str) -> Self {
        Entry { kind: kind.to_owned(), anomalous: Some(true), ..self }
    }
}

/// All images in a folder and in the folders below it, sorted by name, except hidden files and the images of reports. The name
/// of each is `prefix` followed by its path below the folder; its class is unknown.
///
/// # Errors
/// When the folder does not exist, cannot be read, or contains no image.
pub(super) fn list(folder: &Path, prefix: &str) -> Result<Vec<Entry>, DataError> {
    if !folder.is_dir() {
        return Err(DataError::NoFolder { path: folder.to_owned() });
    }
    let mut entries = Vec::new();
    // A folder that is reached again through a link is not read twice.
    let mut visited = std::collections::HashSet::new();
    let wanted = |entry: &walkdir::DirEntry| {
        let is_shown = entry.depth() == 0 || !is_left_out(entry.path());
        let is_new =
            !entry.file_type().is_dir() || entry.path().canonicalize().map_or(true, |path| visited.insert(path));
        is_shown && is_new
    };
    for entry in WalkDir::new(folder).follow_links(true).into_iter().filter_entry(wanted) {
        let path = match entry {
            Ok(entry) if entry.file_type().is_dir() => continue,
            Ok(entry) => entry.into_path(),
            // A broken link, or a link to a folder that contains it, is one unusable image if it has the name of one.
            Err(error) if error.depth() > 0 && leads_nowhere(&error) => match error.path() {
                Some(path) => path.to_owned(),
                None => continue,
            },
            Err(error) => {
                let path = error.path().unwrap_or(folder).to_owned();
                return Err(DataError::Unreadable { path, source: error.into() });
            }
        };
        if is_image(&path) {
            let below = path.strip_prefix(folder).expect("a path below the folder");
            let name = format!("{prefix}{}", name_of(below));
            entries.push(Entry { name, ..Entry::of_file(&path) });
        }
    }
    if entries.is_empty() {
        return Err(DataError::NoImages { path: folder.to_owned() });
    }
    entries.sort_by(|one, other| (&one.name, &one.path).cmp(&(&other.name, &other.path)));
    Ok(entries)
}

fn leads_nowhere(error: &walkdir::Error) -> bool {
    let is_missing = error.io_error().is_some_and(|error| error.kind() == std::io::ErrorKind::NotFound);
    is_missing || error.loop_ancestor().is_some()
}

/// A folder that could not be [listed](list), as an unusable image.
pub(super) fn bad_folder(path: &Path, error: DataError) -> BadImage {
    let reason = match error {
        DataError::Unreadable { source, .. } => DecodeError::Unreadable(source),
        _ => DecodeError::Folder("contains no images: their names must end in png, jpg, jpeg, bmp, tif or tiff".into()),
    };
    BadImage { path: path.to_owned(), reason }
}

/// The names of the folders in a folder, sorted, except hidden ones and those of reports.
///
/// # Errors
/// When the folder cannot be read.
pub(super) fn folders(folder: &Path) -> Result<Vec<String>, DataError> {
    let unreadable = |source| DataError::Unreadable { path: folder.to_owned(), source };
    let mut names = Vec::new();
    for entry in folder.read_dir().map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.is_dir() && !is_left_out(&path) {
            names.extend(path.file_name().map(|name| name.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}

/// Whether a file or folder is hidden, or belongs to a report of stssad.
fn is_left_out(path: &Path) -> bool {
    let Some(name) = path.file_name() else { return false };
    let is_report = || REPORT_IMAGES.iter().any(|report| name == *report) && path.with_file_name(MARKER).is_file();
    name.to_string_lossy().starts_with('.') || is_report()
}

fn is_image(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ENDINGS.iter().any(|known| ending.eq_ignore_ascii_case(known)))
}

/// A relative path as a name, with `/` as the separator on every system.
fn name_of(path: &Path) -> String {
    let parts: Vec<String> = path.iter().map(|part| printable(&part.to_string_lossy())).collect();
    parts.join("/")
}

/// The image file in `folder` whose name without its ending is one of `stems`.
pub(super) fn find(folder: &Path, stems: &[String]) -> Option<PathBuf> {
    let candidates = stems.iter().flat_map(|stem| {
        ENDINGS.iter().flat_map(move |ending| [format!("{stem}.{ending}"), format!("{stem}.{}", ending.to_uppercase())])
    });
    candidates.map(|name| folder.join(name)).find(|path| path.is_file())
}

/// Default side of images from files, in pixels.
pub(super) const SIDE: usize = 256;

impl Conversion {
    /// This conversion for the files of these sets. If `loading` sets no size and all images are smaller than the default, the side is
    /// the longest side among them: enlarging them would cost time and add nothing.
    pub(super) fn for_files<const SETS: usize>(self, loading: &Loading, sets: [&Vec<Entry>; SETS]) -> Self {
        if loading.size.is_some() {
            return self;
        }
        let entries: Vec<&Entry> = sets.into_iter().flatten().collect();
        let longest = entries.par_iter().filter_map(|entry| decode::longer_side(&entry.path)).max();
        Conversion { side: longest.map_or(self.side, |longest| longest.min(self.side)), ..self }
    }
}

/// How files are read.
pub(super) struct Reading<'a> {
    pub conversion: Conversion,
    pub loading: &'a Loading,
    pub on_file: &'a (dyn Fn(usize, usize) + Sync),
}

/// The images of several sets.
#[derive(Debug)]
pub(super) struct Read<const SETS: usize> {
    pub sets: [Set; SETS],
    /// The files of all sets, in order.
    pub paths: Vec<PathBuf>,
    pub skipped: Vec<BadImage>,
    /// Number of files of each size and pixel format.
    pub originals: BTreeMap<String, usize>,
}

/// `640×480 Rgb8`.
pub(super) fn describe(image: &DynamicImage) -> String {
    format!("{}×{} {:?}", image.width(), image.height(), image.color())
}

impl Reading<'_> {
    /// Reads every image even if some are unusable, so that one error can list all of them.
    ///
    /// # Errors
    /// When an image is unusable and such images are not skipped, or all images together exceed the memory limit.
    pub fn read<const SETS: usize>(&self, sets: [Vec<Entry>; SETS]) -> Result<Read<SETS>, DataError> {
        let Conversion { side, channels, .. } = self.conversion;
        let row = channels.count() * side * side;
        let counts = sets.each_ref().map(Vec::len);
        let entries: Vec<Entry> = sets.into_iter().flatten().collect();
        let count = entries.len();
        self.loading.check_memory(count, self.conversion)?;

        let done = AtomicUsize::new(0);
        let mut pixels = vec![0.0; row * count];
        let outcomes: Vec<Result<(String, Truth), DecodeError>> = pixels
            .par_chunks_exact_mut(row)
            .zip(&entries)
            .map(|(pixels, entry)| {
                let outcome = self.read_entry(entry, pixels);
                (self.on_file)(done.fetch_add(1, Ordering::Relaxed) + 1, count);
                outcome
            })
            .collect();

        let mut all = Set {
            images: Tensor::new([count, channels.count(), side, side], pixels),
            names: entries.iter().map(|entry| entry.name.clone()).collect(),
            truths: vec![Truth::default(); count],
        };
        let (mut good, mut paths, mut skipped, mut originals) = (Vec::new(), Vec::new(), Vec::new(), BTreeMap::new());
        for (index, (outcome, entry)) in outcomes.into_iter().zip(entries).enumerate() {
            match outcome {
                Ok((original, truth)) => {
                    *originals.entry(original).or_insert(0) += 1;
                    all.truths[index] = truth;
                    good.push(index);
                    paths.push(entry.path);
                }
                Err(reason) => skipped.push(BadImage { path: entry.path, reason }),
            }
        }
        if !skipped.is_empty() && (self.loading.on_bad_image == OnBadImage::Error || good.is_empty()) {
            return Err(DataError::BadImages { bad: skipped, of: count });
        }
        let mut end = 0;
        let sets = counts.map(|count| {
            let start = end;
            end += count;
            let rows: Vec<usize> = good.iter().copied().filter(|row| (start..end).contains(row)).collect();
            all.select(&rows)
        });
        Ok(Read { sets, paths, skipped, originals })
    }

    /// Converts an image into `pixels`; returns its original format and its labels.
    fn read_entry(&self, entry: &Entry, pixels: &mut [f32]) -> Result<(String, Truth), DecodeError> {
        let max_pixels = self.loading.max_pixels;
        let image = decode::read(&entry.path, max_pixels)?;
        let mask = match &entry.mask {
            Mask::Unknown => None,
            Mask::Blank => Some(vec![false; self.conversion.side.pow(2)]),
            Mask::Missing(expected) => return Err(DecodeError::MaskMissing { expected: expected.clone() }),
            Mask::File(path) => {
                let size = |image: &DynamicImage| [image.width(), image.height()];
                let mask = decode::read(path, max_pixels).and_then(|mask| match size(&mask) == size(&image) {
                    true => Ok(self.conversion.apply_mask(&mask)),
                    false => Err(DecodeError::MaskSize { mask: size(&mask), image: size(&image) }),
                });
                let name = || printable(&path.to_string_lossy());
                Some(mask.map_err(|reason| DecodeError::Mask { name: name(), reason: reason.into() })?)
            }
        };
        pixels.copy_from_slice(&self.conversion.apply(&image));
        Ok((describe(&image), Truth { anomalous: entry.anomalous, kind: entry.kind.clone(), mask }))
    }
}
