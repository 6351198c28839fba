//! Images that are decoded when they are needed, so that memory does not grow with their number.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;

use image::DynamicImage;
use rayon::prelude::*;

use super::DataError;
use super::cache::{Cache, Cached};
use super::decode::{self, Conversion, DecodeError, Levels};
use super::files::{BadImage, Mask, Opened};
use super::names::Name;
use super::tiles::Place;
use crate::engine::tensor::Tensor;

/// Images `[C, H, W]` in an order, with their masks. Each is decoded when it is read, unless it was before: a cache keeps it.
#[derive(Clone)]
pub struct Images {
    image: [usize; 3],
    stores: Vec<Arc<Store>>,
    /// The store of each image and its row there.
    rows: Vec<(u32, u32)>,
}

/// Images from one place.
struct Store {
    origin: Origin,
    conversion: Conversion,
    /// Those of the conversion, unless they are found on the training images.
    levels: OnceLock<Levels>,
    cache: Cache,
    /// Where the cache has each image.
    places: Vec<AtomicU32>,
    /// What tells each image apart, once it is known.
    hashes: Vec<OnceLock<Hash>>,
    /// The same of their masks, which most images lack.
    masks: Mutex<HashMap<usize, MaskDigest>>,
}

/// Where images come from.
pub(super) enum Origin {
    /// Levels `[N, C, H, W]` as they are, with masks.
    Held(Tensor, Vec<Option<Vec<bool>>>),
    /// Views of image files.
    Files { files: Vec<File>, views: Views, max_pixels: u64 },
    /// What a function makes for each of so many rows, and what the table calls it.
    Made { make: Box<dyn Fn(usize) -> DynamicImage + Send + Sync>, count: usize, what: &'static str },
}

/// What is seen of files.
pub(super) enum Views {
    /// Each file whole.
    Whole,
    /// Tiles, each with the number of its file; those of a file follow each other. A file whose size is unknown is whole.
    Tiles(Vec<(u32, Option<Place>)>),
}

impl Views {
    /// The file of a row, and its part if it is not whole.
    fn of(&self, row: usize) -> (usize, Option<Place>) {
        match self {
            Views::Whole => (row, None),
            Views::Tiles(tiles) => (tiles[row].0 as usize, tiles[row].1),
        }
    }
}

/// An image before the conversion. Written `900×600 Rgb8`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Original {
    /// In pixels.
    pub width: u32,
    pub height: u32,
    /// The kind of pixels, or what the images are.
    pub what: String,
}

impl Original {
    /// Of an image, or of its channels.
    pub(super) fn of(planes: &[DynamicImage]) -> Self {
        let (first, count) = (&planes[0], planes.len());
        let what = match count {
            1 => format!("{:?}", first.color()),
            _ => format!("{count} channels of {:?}", first.color()),
        };
        Original { width: first.width(), height: first.height(), what }
    }
}

impl fmt::Display for Original {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}×{} {}", self.width, self.height, self.what)
    }
}

/// An image file with its mask.
#[derive(Clone, Debug)]
pub(super) struct File {
    pub name: Name,
    pub mask: Mask,
}

/// What tells images and masks apart, without their pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Digest {
    /// Equal for equal levels.
    pub image: Hash,
    pub mask: Option<MaskDigest>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct MaskDigest {
    pub hash: Hash,
    /// The share of the pixels that a defect covers.
    pub share: f32,
}

impl Digest {
    /// That of an image, given those of its tiles.
    pub fn of_tiles(tiles: &[Digest]) -> Self {
        let all = |hashes: Vec<Hash>| hash(hashes.as_flattened());
        let masks: Option<Vec<MaskDigest>> = tiles.iter().map(|tile| tile.mask).collect();
        Digest {
            image: all(tiles.iter().map(|tile| tile.image).collect()),
            mask: masks.map(|masks| MaskDigest {
                hash: all(masks.iter().map(|mask| mask.hash).collect()),
                share: masks.iter().map(|mask| mask.share).sum::<f32>() / masks.len() as f32,
            }),
        }
    }
}

/// The first half of BLAKE3.
pub(super) type Hash = [u8; 16];

fn hash(bytes: &[u8]) -> Hash {
    *blake3::hash(bytes).as_bytes().first_chunk().expect("a hash of 32 bytes")
}

/// A decoded image.
pub(super) struct Decoded {
    pub levels: Vec<f32>,
    pub mask: Option<Vec<bool>>,
    pub original: Original,
    /// Whether its file is damaged but has all pixels.
    pub is_mended: bool,
    /// The greatest level, if it has 16 bits.
    pub brightest: Option<u16>,
}

impl Decoded {
    fn digest(&self) -> Digest {
        let mask = self.mask.as_ref().map(|mask| {
            let bytes: Vec<u8> = mask.iter().map(|&covered| u8::from(covered)).collect();
            let covered = mask.iter().filter(|&&covered| covered).count();
            MaskDigest { hash: hash(&bytes), share: covered as f32 / mask.len() as f32 }
        });
        Digest { image: hash(bytemuck::cast_slice(&self.levels)), mask }
    }
}

impl Store {
    fn len(&self) -> usize {
        self.places.len()
    }

    fn conversion(&self) -> Conversion {
        Conversion { levels: *self.levels.get_or_init(|| self.conversion.levels), ..self.conversion }
    }

    /// What tells an image apart, if it was decoded before.
    fn digest(&self, row: usize) -> Option<Digest> {
        let image = *self.hashes[row].get()?;
        Some(Digest { image, mask: self.masks.lock().unwrap_or_else(PoisonError::into_inner).get(&row).copied() })
    }

    /// Keeps what tells an image apart.
    fn note(&self, row: usize, decoded: &Decoded) -> Digest {
        let digest = decoded.digest();
        if let Some(mask) = digest.mask {
            self.masks.lock().unwrap_or_else(PoisonError::into_inner).insert(row, mask);
        }
        self.hashes[row].get_or_init(|| digest.image);
        digest
    }

    /// A file, or a name for what is not in files.
    fn path(&self, row: usize) -> PathBuf {
        match &self.origin {
            Origin::Files { files, views, .. } => files[views.of(row).0].name.path(),
            Origin::Held(..) => "an image in memory".into(),
            Origin::Made { what, .. } => (*what).into(),
        }
    }

    /// Decodes an image, and caches it.
    fn decode(&self, row: usize) -> Result<Decoded, DecodeError> {
        Ok(self.decode_all(row..row + 1)?.remove(0))
    }

    /// Decodes images, those of one file if they are views of files, and caches them.
    fn decode_all(&self, rows: Range<usize>) -> Result<Vec<Decoded>, DecodeError> {
        let decoded: Vec<Decoded> = match &self.origin {
            Origin::Held(levels, masks) => {
                let [_, c, h, w] = levels.shape().images().expect("images have four axes");
                let original = Original { width: w as u32, height: h as u32, what: "crops".into() };
                let of = |row: usize| Decoded {
                    levels: levels.data()[row * c * h * w..][..c * h * w].to_vec(),
                    mask: masks[row].clone(),
                    original: original.clone(),
                    is_mended: false,
                    brightest: None,
                };
                return Ok(rows.map(of).collect());
            }
            Origin::Files { files, views, max_pixels } => {
                let opened = Opened::read(&files[views.of(rows.start).0], self.conversion.channels, *max_pixels)?;
                rows.clone().map(|row| opened.view(views.of(row).1, self.conversion())).collect()
            }
            Origin::Made { make, what, .. } => {
                let of = |row: usize| {
                    let image = make(row);
                    let original = Original { what: (*what).into(), ..Original::of(std::slice::from_ref(&image)) };
                    let (levels, brightest) = (self.conversion().apply(&image), decode::brightest(&image));
                    Decoded { levels, mask: None, original, is_mended: false, brightest }
                };
                rows.clone().map(of).collect()
            }
        };
        for (row, decoded) in rows.zip(&decoded) {
            if let Some(place) = self.cache.put(&decoded.levels, decoded.mask.as_deref()) {
                self.places[row].store(place, Ordering::Release);
            }
        }
        Ok(decoded)
    }

    /// The greatest level of an image, if it has 16 bits and can be read.
    fn brightest(&self, row: usize) -> Option<u16> {
        match &self.origin {
            Origin::Held(..) => None,
            Origin::Files { files, views, max_pixels } => {
                let file = File { name: files[views.of(row).0].name.clone(), mask: Mask::Unknown };
                Opened::read(&file, self.conversion.channels, *max_pixels).ok()?.brightest()
            }
            Origin::Made { make, .. } => decode::brightest(&make(row)),
        }
    }

    /// The levels and the mask of an image.
    fn read(&self, row: usize) -> Result<Cached, DataError> {
        let place = self.places[row].load(Ordering::Acquire);
        if let Some(cached) = self.cache.get(place) {
            return Ok(cached);
        }
        match self.decode(row) {
            Ok(Decoded { levels, mask, .. }) => Ok(Cached { levels, mask }),
            Err(reason) => Err(DataError::Vanished(BadImage { path: self.path(row), reason })),
        }
    }
}

impl Images {
    /// Images `[N, C, H, W]` in memory, without masks.
    ///
    /// # Panics
    /// When they do not have four axes.
    pub fn of(levels: Tensor) -> Self {
        let count = levels.shape()[0];
        Self::with_masks(levels, vec![None; count])
    }

    /// Images `[N, C, H, W]` in memory. A mask holds for each pixel, row by row, whether a defect covers it.
    ///
    /// # Panics
    /// When the images do not have four axes, or there are not as many masks, or a mask has another size.
    pub fn with_masks(levels: Tensor, masks: Vec<Option<Vec<bool>>>) -> Self {
        let [count, c, h, w] = levels.shape().images().unwrap_or_else(|error| panic!("{error}"));
        assert!(
            masks.len() == count && masks.iter().flatten().all(|mask| mask.len() == h * w),
            "a mask of {h}×{w} pixels, or none, for each of {count} images"
        );
        Self::stored(Origin::Held(levels, masks), [c, h, w], Conversion::default(), Cache::none())
    }

    /// All images of a place, converted.
    pub(super) fn new(origin: Origin, conversion: Conversion, cache_bytes: u64) -> Self {
        let image = conversion.image();
        Self::stored(origin, image, conversion, Cache::new(image, cache_bytes))
    }

    fn stored(origin: Origin, image: [usize; 3], conversion: Conversion, cache: Cache) -> Self {
        let count = match &origin {
            Origin::Held(_, masks) => masks.len(),
            Origin::Files { files, views: Views::Whole, .. } => files.len(),
            Origin::Files { views: Views::Tiles(tiles), .. } => tiles.len(),
            Origin::Made { count, .. } => *count,
        };
        let store = Store {
            origin,
            conversion,
            levels: OnceLock::new(),
            cache,
            places: (0..count).map(|_| AtomicU32::new(Cache::NOWHERE)).collect(),
            hashes: vec![OnceLock::new(); count],
            masks: Mutex::default(),
        };
        Images { image, rows: (0..count as u32).map(|row| (0, row)).collect(), stores: vec![store.into()] }
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// `[N, C, H, W]`.
    pub fn shape(&self) -> [usize; 4] {
        let [c, h, w] = self.image;
        [self.len(), c, h, w]
    }

    /// The images `rows`, in that order.
    ///
    /// # Panics
    /// When a row is out of range.
    pub fn select(&self, rows: &[usize]) -> Self {
        let rows = rows.iter().map(|&row| self.rows[row]).collect();
        Images { image: self.image, stores: self.stores.clone(), rows }
    }

    /// These images, then those of `other`.
    ///
    /// # Panics
    /// When they differ in shape.
    pub fn join(mut self, other: Self) -> Self {
        assert_eq!(self.image, other.image, "images of one shape");
        let stores = other.stores.iter().map(|store| {
            let same = |known: &Arc<Store>| Arc::ptr_eq(known, store);
            self.stores.iter().position(same).unwrap_or_else(|| {
                self.stores.push(store.clone());
                self.stores.len() - 1
            }) as u32
        });
        let stores: Vec<u32> = stores.collect();
        self.rows.extend(other.rows.iter().map(|&(store, row)| (stores[store as usize], row)));
        self
    }

    fn place(&self, row: usize) -> (&Store, usize) {
        let (store, row) = self.rows[row];
        (&self.stores[store as usize], row as usize)
    }

    /// The images `rows`, `[rows, C, H, W]`: black is 0 and white is 1.
    ///
    /// # Errors
    /// When a file can no longer be read.
    ///
    /// # Panics
    /// When a row is out of range.
    pub fn read(&self, rows: &[usize]) -> Result<Tensor, DataError> {
        let [c, h, w] = self.image;
        let mut levels = vec![0.0; rows.len() * c * h * w];
        levels.par_chunks_exact_mut(c * h * w).zip(rows).try_for_each(|(levels, &row)| {
            let (store, row) = self.place(row);
            match &store.origin {
                Origin::Held(held, _) => levels.copy_from_slice(&held.data()[row * levels.len()..][..levels.len()]),
                _ => levels.copy_from_slice(&store.read(row)?.levels),
            }
            Ok::<_, DataError>(())
        })?;
        Ok(Tensor::new([rows.len(), c, h, w], levels))
    }

    /// All images.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn all(&self) -> Result<Tensor, DataError> {
        self.read(&(0..self.len()).collect::<Vec<_>>())
    }

    /// For each pixel of an image, row by row, whether a defect covers it; `None` if there is no mask.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn mask(&self, row: usize) -> Result<Option<Vec<bool>>, DataError> {
        let (store, row) = self.place(row);
        match (&store.origin, store.digest(row)) {
            (Origin::Held(_, masks), _) => Ok(masks[row].clone()),
            (_, Some(Digest { mask: None, .. })) => Ok(None),
            _ => Ok(store.read(row)?.mask),
        }
    }

    /// Whether an image has a mask, even if it marks nothing.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn has_mask(&self, row: usize) -> Result<bool, DataError> {
        Ok(self.digest(row)?.mask.is_some())
    }

    /// Calls `each` with the number of the first image and the images of each batch, in order. Another thread reads the next batch
    /// meanwhile.
    ///
    /// # Errors
    /// The first of `each`, or as [`read`](Self::read).
    pub fn for_each_batch<E: From<DataError>>(
        &self,
        size: usize,
        mut each: impl FnMut(usize, Tensor) -> Result<(), E>,
    ) -> Result<(), E> {
        let batches = (0..self.len()).step_by(size.max(1));
        let read = |first: usize| {
            let rows: Vec<usize> = (first..self.len().min(first + size)).collect();
            (first, self.read(&rows))
        };
        ahead(batches, read, |(first, batch)| each(first, batch?))
    }

    /// What tells an image apart.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub(super) fn digest(&self, row: usize) -> Result<Digest, DataError> {
        let (store, own) = self.place(row);
        if let Some(digest) = store.digest(own) {
            return Ok(digest);
        }
        let decoded = store.decode(own);
        let decoded = decoded.map_err(|reason| DataError::Vanished(BadImage { path: store.path(own), reason }))?;
        Ok(store.note(own, &decoded))
    }

    /// Decodes images for the first time, and keeps what tells them apart. They are the views of one file, or a single image.
    pub(super) fn examine(&self, rows: Range<usize>) -> Result<Vec<Decoded>, BadImage> {
        let (store, first) = self.place(rows.start);
        let decoded = store.decode_all(first..first + rows.len());
        let decoded = decoded.map_err(|reason| BadImage { path: store.path(first), reason })?;
        for (row, decoded) in (first..).zip(&decoded) {
            store.note(row, decoded);
        }
        Ok(decoded)
    }

    /// The greatest level of all images of 16 bits; `None` without such images.
    pub(super) fn brightest(&self) -> Option<u16> {
        let rows = self.rows.par_iter();
        rows.filter_map(|&(store, row)| self.stores[store as usize].brightest(row as usize)).max()
    }

    /// Sets the levels of 16 bit images, before any image is read.
    pub(super) fn set_levels(&self, levels: Levels) {
        for store in &self.stores {
            store.levels.get_or_init(|| levels);
        }
    }

    /// The path of an image's file.
    pub(super) fn path(&self, row: usize) -> PathBuf {
        let (store, row) = self.place(row);
        store.path(row)
    }
}

impl fmt::Debug for Images {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let held: usize = self.stores.iter().map(|store| store.len()).sum();
        write!(f, "Images {:?} of {held}", self.shape())
    }
}

/// Calls `each` with what `make` makes of each item, in order. Another thread makes the next one meanwhile.
///
/// # Errors
/// The first of `each`.
pub(super) fn ahead<I, T: Send, E>(
    items: impl Iterator<Item = I> + Send,
    make: impl Fn(I) -> T + Send,
    mut each: impl FnMut(T) -> Result<(), E>,
) -> Result<(), E> {
    thread::scope(|scope| {
        // One waits while one is in use and one is made.
        let (sender, receiver) = sync_channel(1);
        scope.spawn(move || {
            for item in items {
                // Nobody receives after an error.
                if sender.send(make(item)).is_err() {
                    break;
                }
            }
        });
        receiver.into_iter().try_for_each(&mut each)
    })
}
