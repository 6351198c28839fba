//! Lists the image files of a folder by name, and decodes them.
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

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::Utf8Chunk;
use std::sync::Arc;

use image::{DynamicImage, GrayImage};
use rayon::prelude::*;
use walkdir::WalkDir;

use super::decode::{self, Channels, Conversion, DecodeError, Size, Stored};
use super::images::{Decoded, File, Origin, Original, Views};
use super::names::{Name, Names};
use super::tiles::{self, Place};
use super::{DataError, Images, Loading, MARKER, REPORT_IMAGES, Set, Truth};

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

    pub(super) fn add(&mut self, reason: impl Into<String>) {
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

/// A path as text, in which each byte that is not UTF-8 is written as `\xff`, as it is in names. All else stays as it is.
pub fn as_text(path: &Path) -> Cow<'_, str> {
    let escaped = |chunk: Utf8Chunk| {
        let bytes: String = chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")).collect();
        chunk.valid().to_owned() + &bytes
    };
    match path.to_str() {
        Some(text) => text.into(),
        None => path.as_os_str().as_encoded_bytes().utf8_chunks().map(escaped).collect(),
    }
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
    Files(Box<[PathBuf]>),
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
                for entry in listed? {
                    masks.entry(entry.name.below().with_extension("")).or_default().push(entry.name.path());
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
            Some(files) => Mask::Files(files.into()),
            None => Mask::Unknown,
        }
    }
}

/// An image file that is not yet read.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub name: Name,
    pub truth: Arc<Truth>,
    pub mask: Mask,
}

impl Entry {
    /// A file of which nothing is known.
    pub fn unknown(name: Name) -> Self {
        Entry { name, truth: Truth::unknown(), mask: Mask::Unknown }
    }

    pub fn good(self) -> Self {
        Entry { truth: Truth::good(), ..self }
    }

    pub fn is_normal(&self) -> bool {
        self.truth.anomalous == Some(false)
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
    let (mut names, mut counted) = (Names::of(folder, prefix), LeftOut::default());
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
            Some(ending) if ENDINGS.contains(&ending.as_str()) => names.push_file(&path),
            _ if leads_nowhere => skipped.borrow_mut().add("as dangling or circular links"),
            Some(ending) => skipped.borrow_mut().add(format!(".{ending}")),
            None => skipped.borrow_mut().add("without an ending"),
        }
    }
    let mut entries: Vec<Entry> = names.each().map(Entry::unknown).collect();
    if entries.is_empty() {
        return Err(DataError::NoImages { path: folder.to_owned(), left_out: counted });
    }
    left_out.join(counted);
    entries.sort_unstable_by(|Entry { name: one, .. }, Entry { name: other, .. }| {
        one.cmp(other).then_with(|| one.path().cmp(&other.path()))
    });
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

/// The number of files directly in a folder, except those that are [never read](self).
pub(super) fn loose(folder: &Path) -> usize {
    let entries = folder.read_dir().into_iter().flatten().flatten();
    entries.filter(|entry| entry.path().is_file() && hidden(&entry.path()).is_none()).count()
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

/// Default side of images from files, in pixels.
pub(super) const SIDE: usize = 256;

impl Conversion {
    /// This conversion for the files of these sets. If `loading` sets no size and all images are smaller than the default, the side is
    /// the longest side among them: enlarging them would cost time and add nothing. All channels are those of the first image.
    pub(super) fn for_files<const SETS: usize>(mut self, loading: &Loading, sets: [&Vec<Entry>; SETS]) -> Self {
        if loading.channels == Some(Channels::All) {
            let mut entries = sets.into_iter().flatten();
            let stored = entries.find_map(|entry| Channels::stored(&entry.name.path(), loading.max_pixels));
            self.channels = stored.unwrap_or(self.channels);
        }
        if loading.size.is_some() || loading.tiles.is_some() {
            return self;
        }
        let entries: Vec<&Entry> = sets.into_iter().flatten().collect();
        let longest = entries.par_iter().filter_map(|entry| decode::longer_side(&entry.name.path())).max();
        Conversion { size: longest.map_or(self.size, |longest| Size::square(longest.min(SIDE))), ..self }
    }
}

/// The sets of these entries. No image is decoded yet.
///
/// # Errors
/// When two images have one mask.
pub(super) fn sets<const SETS: usize>(
    sets: [Vec<Entry>; SETS],
    conversion: Conversion,
    loading: &Loading,
) -> Result<[Set; SETS], DataError> {
    check_masks(sets.iter().flatten())?;
    let mut files = Vec::with_capacity(sets.iter().map(Vec::len).sum());
    let labelled = sets.map(|entries| {
        let labelled = entries.into_iter().map(|Entry { name, truth, mask }| {
            files.push(File { name: name.clone(), mask });
            (name, truth)
        });
        labelled.unzip::<_, _, Vec<_>, Vec<_>>()
    });
    let views = match loading.tiles {
        Some(tile) => Views::Tiles(tiled(&files, tile, conversion.channels, loading.max_pixels)),
        None => Views::Whole,
    };
    // The first tile of each file, and the number of all.
    let tiles: Option<Vec<usize>> = match &views {
        Views::Whole => None,
        Views::Tiles(tiles) => {
            Some((0..=files.len()).map(|file| tiles.partition_point(|&(own, _)| (own as usize) < file)).collect())
        }
    };
    let origin = Origin::Files { files, views, max_pixels: loading.max_pixels };
    let (images, mut end) = (Images::new(origin, conversion, loading.cache_bytes), 0);
    Ok(labelled.map(|(names, truths)| {
        let start = end;
        end += names.len();
        let (rows, views) = match &tiles {
            Some(tiles) => {
                let first = tiles[start];
                (first..tiles[end], Some(tiles[start..=end].iter().map(|tile| tile - first).collect()))
            }
            None => (start..end, None),
        };
        Set { images: images.select(&rows.collect::<Vec<_>>()), names, truths, views }
    }))
}

/// The tiles of all files. A file that cannot be read is not cut; its fault is found when it is decoded.
fn tiled(files: &[File], tile: Size, channels: Channels, max_pixels: u64) -> Vec<(u32, Option<Place>)> {
    let places = files.par_iter().map(|file| match decode::upright_size(&file.name.path(), channels, max_pixels) {
        Some(size) => tiles::places(size, tile).into_iter().map(Some).collect(),
        None => vec![None],
    });
    let places: Vec<Vec<Option<Place>>> = places.collect();
    (0..).zip(places).flat_map(|(file, places)| places.into_iter().map(move |place| (file, place))).collect()
}

/// What was found out about the files of a dataset.
#[derive(Debug, Default)]
pub struct Files {
    /// Files and folders that cannot be used.
    pub skipped: Vec<BadImage>,
    /// Number of images of each size and pixel format before the conversion.
    pub originals: BTreeMap<Original, usize>,
    /// Files and folders beside the images that were not read.
    pub left_out: LeftOut,
    /// Images of damaged files that have all pixels.
    pub mended: Vec<PathBuf>,
    /// The greatest level of all 16 bit images; `None` without such images.
    pub brightest: Option<u16>,
}

/// A decoded file, of which all of it or tiles are converted.
pub(super) struct Opened {
    /// The image, or each channel of it if they are taken as they are stored.
    planes: Vec<DynamicImage>,
    mask: Marks,
    is_mended: bool,
}

/// Which pixels of an image belong to a defect.
enum Marks {
    Unknown,
    Blank,
    /// Those that are not 0.
    Pixels(GrayImage),
}

impl Opened {
    /// Decodes an image and its mask.
    ///
    /// # Errors
    /// When one of them cannot be decoded, or has another size or other channels than it must have.
    pub fn read(file: &File, channels: Channels, max_pixels: u64) -> Result<Self, DecodeError> {
        let stored = Stored::read_for(&file.name.path(), channels, max_pixels)?;
        let mask = match &file.mask {
            Mask::Unknown => Marks::Unknown,
            Mask::Blank => Marks::Blank,
            Mask::Files(paths) => Marks::Pixels(union(paths, &stored, max_pixels)?),
        };
        let is_mended = stored.is_mended;
        Ok(Opened { planes: stored.upright_planes()?, mask, is_mended })
    }

    /// Width and height in pixels.
    pub fn size(&self) -> [u32; 2] {
        [self.planes[0].width(), self.planes[0].height()]
    }

    /// The greatest level of all channels, if they have 16 bits.
    pub fn brightest(&self) -> Option<u16> {
        self.planes.iter().filter_map(decode::brightest).max()
    }

    /// Converts the image, or a part of it.
    pub fn view(&self, place: Option<Place>, conversion: Conversion) -> Decoded {
        let mask = match &self.mask {
            Marks::Unknown => None,
            Marks::Blank => Some(vec![false; conversion.size.pixels()]),
            Marks::Pixels(defects) => Some(match place {
                Some([left, top, width, height]) => {
                    conversion.apply_mask(&image::imageops::crop_imm(defects, left, top, width, height).to_image())
                }
                None => conversion.apply_mask(defects),
            }),
        };
        let levels = |plane: &DynamicImage| match place {
            Some([left, top, width, height]) => conversion.apply(&plane.crop_imm(left, top, width, height)),
            None => conversion.apply(plane),
        };
        Decoded {
            levels: self.planes.iter().flat_map(levels).collect(),
            mask,
            original: Original::of(&self.planes),
            is_mended: self.is_mended,
            brightest: self.brightest(),
        }
    }
}

/// The union of an image's masks.
fn union(paths: &[PathBuf], image: &Stored, max_pixels: u64) -> Result<GrayImage, DecodeError> {
    let size = image.upright_size();
    let mut union = GrayImage::new(size[0], size[1]);
    for path in paths {
        let defects = Stored::read(path, max_pixels).map(|mask| mask.defects(image));
        let defects = defects.and_then(|defects| match [defects.width(), defects.height()] {
            mask if mask == size => Ok(defects),
            mask => Err(DecodeError::MaskSize { mask, image: size }),
        });
        let defects = defects.map_err(|reason| DecodeError::Mask { name: printable(path), reason: reason.into() })?;
        union.iter_mut().zip(defects.iter()).for_each(|(marked, &defect)| *marked |= defect);
    }
    Ok(union)
}

/// Refuses one mask for two images: it would be wrong for one of them.
fn check_masks<'a>(entries: impl Iterator<Item = &'a Entry>) -> Result<(), DataError> {
    let mut owners = HashMap::new();
    // Normal images may share a mask, which is empty; the table tells if it is not.
    for entry in entries.filter(|entry| !entry.is_normal()) {
        let Mask::Files(files) = &entry.mask else { continue };
        for mask in files {
            if let Some(other) = owners.insert(mask, entry) {
                let (mask, one, other) = (mask.clone(), other.name.path(), entry.name.path());
                return Err(DataError::SharedMask { mask, one, other });
            }
        }
    }
    Ok(())
}
