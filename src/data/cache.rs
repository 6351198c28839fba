//! A cache of converted images in a file, which the system keeps in memory as far as there is room.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

/// Converted images with their masks, in a file without a name in the system's temporary folder: it takes no memory of the process,
/// and vanishes with it. Levels are kept as 16 bits, to which every conversion rounds, so a cached image equals a decoded one.
#[derive(Debug)]
pub(super) struct Cache {
    levels: usize,
    pixels: usize,
    /// How many images the file may hold.
    most: u32,
    used: AtomicU32,
    file: Mutex<Option<File>>,
    /// Whether the disk is full, or there is no place for the file.
    is_closed: AtomicBool,
}

/// An image of the cache.
#[derive(Debug)]
pub(super) struct Cached {
    pub levels: Vec<f32>,
    pub mask: Option<Vec<bool>>,
}

/// The first byte of an image's place.
const WITHOUT_MASK: u8 = 0;
const WITH_MASK: u8 = 1;

/// What levels are counted in: all 16 bit and all 8 bit levels are exact.
pub(crate) const STEPS: f32 = 65_535.0;

impl Cache {
    /// The place of an image that is not in the cache.
    pub const NOWHERE: u32 = u32::MAX;

    /// A cache of images `[C, H, W]` in at most so many bytes.
    pub fn new([c, h, w]: [usize; 3], bytes: u64) -> Self {
        let (levels, pixels) = (c * h * w, h * w);
        let most = (bytes / Self::bytes(levels, pixels) as u64).min(u64::from(Self::NOWHERE)) as u32;
        Cache { levels, pixels, most, used: AtomicU32::new(0), file: Mutex::new(None), is_closed: false.into() }
    }

    /// A cache that keeps nothing.
    pub fn none() -> Self {
        Self::new([1, 1, 1], 0)
    }

    fn bytes(levels: usize, pixels: usize) -> usize {
        1 + 2 * levels + pixels.div_ceil(8)
    }

    fn start(&self, place: u32) -> SeekFrom {
        SeekFrom::Start(u64::from(place) * Self::bytes(self.levels, self.pixels) as u64)
    }

    /// Keeps an image and returns its place; `None` if there is no room.
    pub fn put(&self, levels: &[f32], mask: Option<&[bool]>) -> Option<u32> {
        let has_room = self.used.load(Ordering::Relaxed) < self.most && !self.is_closed.load(Ordering::Relaxed);
        let place = has_room.then(|| self.used.fetch_add(1, Ordering::Relaxed)).filter(|&place| place < self.most)?;
        let mut bytes = Vec::with_capacity(Self::bytes(self.levels, self.pixels));
        bytes.push(if mask.is_some() { WITH_MASK } else { WITHOUT_MASK });
        bytes.extend(levels.iter().flat_map(|level| ((level * STEPS).round() as u16).to_ne_bytes()));
        let packed = |pixels: &[bool]| pixels.iter().rev().fold(0, |byte, &covered| byte << 1 | u8::from(covered));
        bytes.extend(mask.unwrap_or_default().chunks(8).map(packed));
        bytes.resize(Self::bytes(self.levels, self.pixels), 0);
        match self.write(place, &bytes) {
            Ok(()) => Some(place),
            Err(_) => {
                self.is_closed.store(true, Ordering::Relaxed);
                None
            }
        }
    }

    fn write(&self, place: u32, bytes: &[u8]) -> io::Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let file = match &mut *file {
            Some(file) => file,
            none => none.insert(tempfile::tempfile()?),
        };
        file.seek(self.start(place))?;
        file.write_all(bytes)
    }

    /// The image at a place; `None` if it is nowhere or cannot be read.
    pub fn get(&self, place: u32) -> Option<Cached> {
        if place == Self::NOWHERE {
            return None;
        }
        let mut bytes = vec![0; Self::bytes(self.levels, self.pixels)];
        self.read(place, &mut bytes).ok()?;
        let (has_mask, bytes) = bytes.split_first()?;
        let (levels, mask) = bytes.split_at(2 * self.levels);
        let level = |pair: &[u8]| f32::from(u16::from_ne_bytes([pair[0], pair[1]])) / STEPS;
        let covered = |pixel: usize| mask[pixel / 8] >> (pixel % 8) & 1 == 1;
        Some(Cached {
            levels: levels.chunks_exact(2).map(level).collect(),
            mask: (*has_mask == WITH_MASK).then(|| (0..self.pixels).map(covered).collect()),
        })
    }

    fn read(&self, place: u32, bytes: &mut [u8]) -> io::Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let file = file.as_mut().ok_or(io::ErrorKind::NotFound)?;
        file.seek(self.start(place))?;
        file.read_exact(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_read_as_it_was_kept() {
        let cache = Cache::new([2, 1, 3], 2 * 14);
        let levels: Vec<f32> = [0.0, 1.0, 7.0 / 255.0, 254.0 / 255.0, 1.0 / STEPS, 65_534.0 / STEPS].into();
        let other = vec![(0.5 * STEPS).round() / STEPS; 6];
        let mask = [true, false, true];
        let places = [cache.put(&levels, Some(&mask)), cache.put(&other, None)];
        assert_eq!(places, [Some(0), Some(1)]);
        assert_eq!(cache.put(&levels, None), None, "there is no room for a third");
        let read = places.map(|place| cache.get(place.unwrap()).unwrap());
        assert_eq!((&read[0].levels, read[0].mask.as_deref()), (&levels, Some(&mask[..])));
        assert_eq!((&read[1].levels, &read[1].mask), (&other, &None));
        assert!(cache.get(Cache::NOWHERE).is_none() && cache.get(2).is_none());
        assert_eq!(Cache::none().put(&levels, None), None);
    }

    #[test]
    fn every_level_of_8_and_16_bits_is_exact() {
        let levels: Vec<f32> = (0..=255).map(|level| level as f32 / 255.0).collect();
        let deep: Vec<f32> = (0..=65_535).map(|level| level as f32 / STEPS).collect();
        for levels in [levels, deep] {
            let cache = Cache::new([1, 1, levels.len()], 1 << 20);
            let place = cache.put(&levels, None).unwrap();
            assert_eq!(cache.get(place).unwrap().levels, levels);
        }
    }
}
