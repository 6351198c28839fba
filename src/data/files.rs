//! Lists the image files of a folder by name, and reads and converts them in parallel.
//!
//! What lies in a folder, or in the folders below it, and is not read:
//!
//! * files with other endings than those of image files, in whatever case;
//! * hidden files and folders, whose names start with a dot, such as `.DS_Store`, `._000.png` and `.ipynb_checkpoints`;
//! * folders that file servers and systems make, such as `@eaDir` and `__MACOSX`;
//! * links that lead nowhere, and links to a folder that contains them or that was read already;
//! * the images of stssad's own reports;
//! * masks that are not those of an image.
//!
//! They are counted by reason as [`LeftOut`]. A link with an image's ending that leads nowhere is an unusable image instead, since its
//! image is missing. Names need not be UTF-8. Empty folders are passed over, but a folder without any image is an error.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use image::{DynamicImage, GrayImage};
use rayon::prelude::*;
use walkdir::WalkDir;

use super::decode::{self, Conversion, DecodeError, Levels, Stored};
use super::{DataError, Loading, MARKER, OnBadImage, REPORT_IMAGES, Set, Truth};
use crate::engine::tensor::Tensor;

const ENDINGS: [&str; 10] = ["png", "jpg", "jpeg", "jfif", "jpe", "bmp", "tif", "tiff", "webp", "gif"];

/// Folders that macOS, Synology, QNAP, Windows and Linux make on their own. Some contain small copies of the images beside them.
const SYSTEM_FOLDERS: [&str; 8] = [
    "__MACOSX",
    "@eaDir",
    "#recycle",
    "@Recycle",
    ".@__thumb",
    "$RECYCLE.BIN",
    "System Volume Information",
    "lost+found",
];

/// Files and folders that are not read, counted by reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeftOut(BTreeMap<String, usize>);

impl LeftOut {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn add(&mut self, reason: impl Into<String>) {
        *self.0.entry(reason.into()).or_insert(0) += 1;
    }

    /// Counts the masks that no entry has.
    pub(super) fn add_unused<'a>(&mut self, masks: impl IntoIterator<Item = &'a Masks>, entries: &[Entry]) {
        let used = entries.iter().filter_map(|entry| match &entry.mask {
            Mask::Files(files) => Some(files),
            _ => None,
        });
        let used: HashSet<&PathBuf> = used.flatten().collect();
        let all = masks.into_iter().flat_map(|masks| masks.0.values().flatten());
        all.filter(|mask| !used.contains(mask)).for_each(|_| self.add("as masks without an image"));
    }

    fn join(&mut self, other: LeftOut) {
        other.0.into_iter().for_each(|(reason, count)| *self.0.entry(reason).or_insert(0) += count);
    }
}

/// `1 .txt, 2 hidden`; empty if nothing is left out.
impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let counts: Vec<String> = self.0.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        f.write_str(&counts.join(", "))
    }
}

/// An unusable file.
#[derive(Debug)]
pub struct BadImage {
    pub path: PathBuf,
    pub reason: DecodeError,
}

impl fmt::Display for BadImage {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} {}", printable(&self.path), self.reason)
    }
}

/// A name from the file system as text, with its control characters and its bytes that are not UTF-8 escaped.
pub(super) fn printable(name: impl AsRef<OsStr>) -> String {
    let mut text = String::new();
    for chunk in name.as_ref().as_encoded_bytes().utf8_chunks() {
        text += &escaped(chunk.valid());
        text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    text
}

fn escaped(text: &str) -> String {
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
    /// The union of what these files mark.
    Files(Vec<PathBuf>),
}

/// The masks in a folder, by their paths below it without endings.
#[derive(Debug, Default)]
pub(super) struct Masks(BTreeMap<PathBuf, Vec<PathBuf>>);

impl Masks {
    /// All masks in a folder and in the folders below it; there need not be any.
    ///
    /// # Errors
    /// When the folder does not exist or cannot be read.
    pub fn list(folder: &Path, left_out: &mut LeftOut) -> Result<Self, DataError> {
        let mut masks = BTreeMap::<_, Vec<PathBuf>>::new();
        match list(folder, "", left_out) {
            Err(DataError::NoImages { .. }) => {}
            listed => {
                for Entry { below, path, .. } in listed? {
                    masks.entry(below.with_extension("")).or_default().push(path);
                }
            }
        }
        Ok(Masks(masks))
    }

    /// The mask of the image `a/003.jpg`: the file `a/003_mask.png` or else `a/003.png`, or all files in a folder `a/003_mask` or else
    /// `a/003`.
    pub fn of(&self, image: &Path) -> Mask {
        let plain = image.with_extension("");
        let mut suffixed = plain.clone().into_os_string();
        suffixed.push("_mask");
        let stems = [PathBuf::from(suffixed), plain];
        let inside = |stem: &PathBuf| -> Vec<PathBuf> {
            let below = self.0.range(stem.clone()..).take_while(|(mask, _)| mask.starts_with(stem));
            below.filter(|(mask, _)| mask.parent() == Some(stem)).flat_map(|(_, files)| files.clone()).collect()
        };
        let files = stems.iter().filter_map(|stem| self.0.get(stem).cloned());
        match files.chain(stems.iter().map(inside)).find(|files| !files.is_empty()) {
            Some(files) => Mask::Files(files),
            None => Mask::Unknown,
        }
    }
}

/// An image file that is not yet read.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub path: PathBuf,
    /// Its path below the folder that was listed.
    pub below: PathBuf,
    pub name: String,
    pub kind: String,
    pub anomalous: Option<bool>,
    pub mask: Mask,
}

impl Entry {
    /// A file, named by its whole path.
    pub fn of_file(path: &Path) -> Self {
        let parts = path.components().filter(|part| matches!(part, Component::Normal(_)));
        let below = parts.collect::<PathBuf>();
        let name = name_of(&below);
        Entry { path: path.to_owned(), below, name, kind: String::new(), anomalous: None, mask: Mask::Unknown }
    }

    pub fn good(self) -> Self {
        Entry { kind: "good".to_owned(), anomalous: Some(false), ..self }
    }

    pub fn anomaly(self, kind: &str) -> Self {
        Entry { kind: kind.to_owned(), anomalous: Some(true), ..self }
    }
}

/// All images in a folder and in the folders below it, sorted by name. The name of each is `prefix` followed by its path below the
/// folder; its class is unknown. What is not read is counted in `left_out`.
///
/// # Errors
/// When the folder does not exist, cannot be read, or contains no image.
pub(super) fn list(folder: &Path, prefix: &str, left_out: &mut LeftOut) -> Result<Vec<Entry>, DataError> {
    if !folder.is_dir() {
        return Err(DataError::NoFolder { path: folder.to_owned() });
    }
    let (mut entries, mut counted) = (Vec::new(), LeftOut::default());
    let skipped = RefCell::new(&mut counted);
    // A folder that is reached again through a link is not read twice.
    let mut visited = HashSet::new();
    let wanted = |entry: &walkdir::DirEntry| {
        let mut is_new =
            || !entry.file_type().is_dir() || entry.path().canonicalize().map_or(true, |path| visited.insert(path));
        let reason = match entry.depth() {
            0 => None,
            _ => hidden(entry.path()),
        };
        let reason = reason.or_else(|| (!is_new()).then_some("as links to folders that are read already"));
        reason.map(|reason| skipped.borrow_mut().add(reason)).is_none()
    };
    for entry in WalkDir::new(folder).follow_links(true).into_iter().filter_entry(wanted) {
        let (path, leads_nowhere) = match entry {
            Ok(entry) if entry.file_type().is_dir() => continue,
            Ok(entry) => (entry.into_path(), false),
            Err(error) if error.depth() > 0 && leads_nowhere(&error) => match error.path() {
                Some(path) => (path.to_owned(), true),
                None => continue,
            },
            Err(error) => {
                let path = error.path().unwrap_or(folder).to_owned();
                return Err(DataError::Unreadable { path, source: error.into() });
            }
        };
        let ending = path.extension().map(|ending| printable(ending).to_lowercase());
        match ending {
            Some(ending) if ENDINGS.contains(&ending.as_str()) => {
                let below = path.strip_prefix(folder).expect("a path below the folder").to_owned();
                let name = format!("{prefix}{}", name_of(&below));
                entries.push(Entry { below, name, ..Entry::of_file(&path) });
            }
            _ if leads_nowhere => skipped.borrow_mut().add("as dangling or circular links"),
            Some(ending) => skipped.borrow_mut().add(format!(".{ending}")),
            None => skipped.borrow_mut().add("without an ending"),
        }
    }
    if entries.is_empty() {
        return Err(DataError::NoImages { path: folder.to_owned(), left_out: counted });
    }
    left_out.join(counted);
    entries.sort_by(|one, other| (&one.name, &one.path).cmp(&(&other.name, &other.path)));
    Ok(entries)
}

fn leads_nowhere(error: &walkdir::Error) -> bool {
    error.loop_ancestor().is_some() || error.path().is_some_and(|path| path.is_symlink() && !path.exists())
}

/// A folder that could not be [listed](list), as an unusable image.
pub(super) fn bad_folder(path: &Path, error: DataError) -> BadImage {
    let reason = match error {
        DataError::Unreadable { source, .. } => DecodeError::Unreadable(source),
        DataError::NoImages { left_out, .. } => DecodeError::Folder(no_images(&left_out)),
        error => DecodeError::Folder(error.to_string()),
    };
    BadImage { path: path.to_owned(), reason }
}

/// Why a folder contains no image.
pub(super) fn no_images(left_out: &LeftOut) -> String {
    let (last, others) = ENDINGS.split_last().expect("there are formats");
    let found = if left_out.is_empty() { String::new() } else { format!(" (left out: {left_out})") };
    format!("contains no images{found}: their names must end in {} or {last}", others.join(", "))
}

/// The names of the folders in a folder, sorted, except those that are [never read](self).
///
/// # Errors
/// When the folder cannot be read.
pub(super) fn folders(folder: &Path) -> Result<Vec<OsString>, DataError> {
    let unreadable = |source| DataError::Unreadable { path: folder.to_owned(), source };
    let mut names = Vec::new();
    for entry in folder.read_dir().map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.is_dir() && hidden(&path).is_none() {
            names.extend(path.file_name().map(OsStr::to_owned));
        }
    }
    names.sort();
    Ok(names)
}

/// Why a file or folder is not looked at, if it is not.
fn hidden(path: &Path) -> Option<&'static str> {
    let name = path.file_name()?;
    if SYSTEM_FOLDERS.iter().any(|known| name == *known) && path.is_dir() {
        Some("as system folders")
    } else if name.as_encoded_bytes().starts_with(b".") {
        Some("hidden")
    } else if REPORT_IMAGES.iter().any(|report| name == *report) && path.with_file_name(MARKER).is_file() {
        Some("as images of a report")
    } else {
        None
    }
}

/// A relative path as a name, with `/` as the separator on every system.
fn name_of(path: &Path) -> String {
    let parts: Vec<String> = path.iter().map(printable).collect();
    parts.join("/")
}

/// The files of these entries.
pub(super) fn paths(entries: &[Entry]) -> Vec<&Path> {
    entries.iter().map(|entry| entry.path.as_path()).collect()
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

    /// This conversion with the levels that suit the training files, if they are to be found.
    pub(super) fn for_training(self, loading: &Loading, files: &[&Path]) -> Self {
        if self.levels != Levels::Auto {
            return self;
        }
        let read = |path: &&Path| decode::brightest(&decode::read(path, loading.max_pixels).ok()?);
        Conversion { levels: Levels::up_to(files.par_iter().filter_map(read).max()), ..self }
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
    pub files: Files,
}

/// What was found out about the files of a dataset.
#[derive(Debug, Default)]
pub struct Files {
    /// Files and folders that cannot be used.
    pub skipped: Vec<BadImage>,
    /// Number of images of each size and pixel format before the conversion, such as `900×900 Rgb8`.
    pub originals: BTreeMap<String, usize>,
    /// Files and folders beside the images that were not read.
    pub left_out: LeftOut,
    /// Images of damaged files that have all pixels.
    pub mended: Vec<PathBuf>,
    /// The greatest level of all 16 bit images; `None` without such images.
    pub brightest: Option<u16>,
}

/// What is known of an image besides its pixels.
struct About {
    original: String,
    truth: Truth,
    is_mended: bool,
    brightest: Option<u16>,
}

/// `640×480 Rgb8`.
pub(super) fn describe(image: &DynamicImage) -> String {
    format!("{}×{} {:?}", image.width(), image.height(), image.color())
}

impl Reading<'_> {
    /// Reads every image even if some are unusable, so that one error can list all of them.
    ///
    /// # Errors
    /// When an image is unusable and such images are not skipped, all images together exceed the memory limit, or two images have one
    /// mask.
    pub fn read<const SETS: usize>(&self, sets: [Vec<Entry>; SETS]) -> Result<Read<SETS>, DataError> {
        let Conversion { side, channels, .. } = self.conversion;
        let row = channels.count() * side * side;
        let counts = sets.each_ref().map(Vec::len);
        let entries: Vec<Entry> = sets.into_iter().flatten().collect();
        let count = entries.len();
        self.loading.check_memory(count, self.conversion)?;
        check_masks(&entries)?;

        let done = AtomicUsize::new(0);
        let mut pixels = vec![0.0; row * count];
        let outcomes: Vec<Result<About, DecodeError>> = pixels
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
        let (mut good, mut files) = (Vec::new(), Files::default());
        for (index, (outcome, entry)) in outcomes.into_iter().zip(entries).enumerate() {
            match outcome {
                Ok(about) => {
                    *files.originals.entry(about.original).or_insert(0) += 1;
                    files.brightest = files.brightest.max(about.brightest);
                    files.mended.extend(about.is_mended.then(|| entry.path.clone()));
                    all.truths[index] = about.truth;
                    good.push(index);
                }
                Err(reason) => files.skipped.push(BadImage { path: entry.path, reason }),
            }
        }
        if !files.skipped.is_empty() && (self.loading.on_bad_image == OnBadImage::Error || good.is_empty()) {
            return Err(DataError::BadImages { bad: files.skipped, of: count });
        }
        let mut end = 0;
        let sets = counts.map(|count| {
            let start = end;
            end += count;
            let rows: Vec<usize> = good.iter().copied().filter(|row| (start..end).contains(row)).collect();
            all.select(&rows)
        });
        Ok(Read { sets, files })
    }

    /// Converts an image into `pixels`.
    fn read_entry(&self, entry: &Entry, pixels: &mut [f32]) -> Result<About, DecodeError> {
        let stored = Stored::read(&entry.path, self.loading.max_pixels)?;
        let mask = match &entry.mask {
            Mask::Unknown => None,
            Mask::Blank => Some(vec![false; self.conversion.side.pow(2)]),
            Mask::Files(paths) => Some(self.read_mask(paths, &stored)?),
        };
        let is_mended = stored.is_mended;
        let image = stored.upright()?;
        pixels.copy_from_slice(&self.conversion.apply(&image));
        let truth = Truth { anomalous: entry.anomalous, kind: entry.kind.clone(), mask };
        Ok(About { original: describe(&image), truth, is_mended, brightest: decode::brightest(&image) })
    }

    /// The union of an image's masks, converted.
    fn read_mask(&self, paths: &[PathBuf], image: &Stored) -> Result<Vec<bool>, DecodeError> {
        let size = image.upright_size();
        let mut union = GrayImage::new(size[0], size[1]);
        for path in paths {
            let defects = Stored::read(path, self.loading.max_pixels).map(|mask| mask.defects(image));
            let defects = defects.and_then(|defects| match [defects.width(), defects.height()] {
                mask if mask == size => Ok(defects),
                mask => Err(DecodeError::MaskSize { mask, image: size }),
            });
            let defects =
                defects.map_err(|reason| DecodeError::Mask { name: printable(path), reason: reason.into() })?;
            union.iter_mut().zip(defects.iter()).for_each(|(marked, &defect)| *marked |= defect);
        }
        Ok(self.conversion.apply_mask(&union))
    }
}

/// Refuses one mask for two images: it would be wrong for one of them.
fn check_masks(entries: &[Entry]) -> Result<(), DataError> {
    let mut owners = HashMap::new();
    for entry in entries {
        let Mask::Files(files) = &entry.mask else { continue };
        for mask in files {
            if let Some(other) = owners.insert(mask, entry) {
                let (mask, one, other) = (mask.clone(), other.path.clone(), entry.path.clone());
                return Err(DataError::SharedMask { mask, one, other });
            }
        }
    }
    Ok(())
}
