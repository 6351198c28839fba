//! Image files as users have them: each kind of `formats/` gives the levels that Pillow gives, within what its README states.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use image::DynamicImage;
use proptest::prelude::*;
use stssad::data::decode::{self, MAX_PIXELS, Stored};
use stssad::data::{Channels, Conversion, Levels, Resize, Size};

fn corpus(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/formats").join(name)
}

fn text(name: &str) -> String {
    fs::read_to_string(corpus(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// What is to be read from a file.
#[derive(Debug)]
enum Expected {
    /// Pillow's levels, from 0 to 255, of one channel or three.
    Image { size: [u32; 2], channels: usize, levels: Vec<f64> },
    /// The pixels of a mask that belong to a defect, 1.
    Mask { size: [u32; 2], defects: Vec<u8> },
    /// A part of the reason why it is not read.
    Refused(String),
}

/// Of each file.
fn expected() -> BTreeMap<String, Expected> {
    let mut stored = Vec::new();
    flate2::read::ZlibDecoder::new(fs::File::open(corpus("levels.zz")).unwrap()).read_to_end(&mut stored).unwrap();
    let mut rest = &stored[..];
    let mut take = |count: usize| -> Vec<u8> { rest.split_off(..count).unwrap().to_vec() };
    let mut read = |line: &str| {
        let (name, about) = line.split_once(' ').unwrap();
        let number = |text: &str| text.parse::<usize>().unwrap_or_else(|error| panic!("{line}: {error}"));
        let expected = match about.split(' ').collect::<Vec<_>>()[..] {
            ["refused", ..] => Expected::Refused(about["refused ".len()..].to_owned()),
            ["mask", width, height] => {
                let [width, height] = [width, height].map(number);
                Expected::Mask { size: [width as u32, height as u32], defects: take(width * height) }
            }
            [channels, bits, width, height] => {
                let [channels, bits, width, height] = [channels, bits, width, height].map(number);
                let stored = take(channels * width * height * bits / 8);
                let levels = match bits {
                    8 => stored.iter().map(|&level| f64::from(level)).collect(),
                    _ => {
                        stored.chunks(2).map(|pair| f64::from(u16::from_be_bytes([pair[0], pair[1]])) / 257.0).collect()
                    }
                };
                Expected::Image { size: [width as u32, height as u32], channels, levels }
            }
            _ => panic!("{line}"),
        };
        (name.to_owned(), expected)
    };
    let read: BTreeMap<_, _> = text("expected.txt").lines().map(&mut read).collect();
    assert!(rest.is_empty(), "{} levels belong to no file", rest.len());
    read
}

/// The rows of README's tables with this many cells: the files, and the other cells.
fn rows(cells: usize) -> Vec<(Vec<String>, Vec<String>)> {
    let row = |line: &str| {
        let found: Vec<String> =
            line.strip_prefix("| `")?.strip_suffix(" |")?.split(" | ").map(str::to_owned).collect();
        let files = found[0].split('`').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect();
        (found.len() == cells).then(|| (files, found[1..].to_vec()))
    };
    text("README.md").lines().filter_map(row).collect()
}

/// The levels of an image, from 0 to 255, and its channels.
fn levels(image: &DynamicImage) -> (usize, Vec<f64>) {
    let channels = usize::from(image.color().channel_count());
    let levels = match image {
        DynamicImage::ImageLuma8(image) => image.iter().map(|&level| f64::from(level)).collect(),
        DynamicImage::ImageRgb8(image) => image.iter().map(|&level| f64::from(level)).collect(),
        DynamicImage::ImageLuma16(image) => image.iter().map(|&level| f64::from(level) / 257.0).collect(),
        DynamicImage::ImageRgb16(image) => image.iter().map(|&level| f64::from(level) / 257.0).collect(),
        _ => panic!("{:?}", image.color()),
    };
    (channels, levels)
}

/// The largest difference of two images' levels; grey is compared with each colour.
fn difference(found: &(usize, Vec<f64>), expected: &(usize, Vec<f64>)) -> f64 {
    let colours = found.0.max(expected.0);
    let at = |(channels, levels): &(usize, Vec<f64>), place: usize| levels[place * channels / colours];
    assert_eq!(found.1.len() / found.0, expected.1.len() / expected.0);
    let places = 0..found.1.len() / found.0 * colours;
    places.map(|place| (at(found, place) - at(expected, place)).abs()).fold(0.0, f64::max)
}

/// What README states of the images: the colour type that they are read as, and the largest difference; `None` if refused.
fn stated() -> BTreeMap<String, (String, Option<f64>)> {
    let mut stated = BTreeMap::new();
    for (files, cells) in rows(5) {
        let number = || cells[2].parse().unwrap_or_else(|_| panic!("{files:?}: {cells:?}"));
        let difference = (cells[1] != "refused").then(number);
        assert!(difference == Some(0.0) || !cells[3].is_empty(), "{files:?}: the reason is missing");
        for file in files {
            assert_eq!(stated.insert(file.clone(), (cells[1].clone(), difference)), None, "{file} is there twice");
        }
    }
    stated
}

#[test]
fn every_file_has_one_row() {
    let mut rows: Vec<String> = [5, 6].into_iter().flat_map(rows).flat_map(|(files, _)| files).collect();
    rows.sort();
    assert_eq!(rows, expected().into_keys().collect::<Vec<_>>());
    let mut files: Vec<String> = fs::read_dir(corpus(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !["README.md", "make.py", "expected.txt", "levels.zz"].contains(&name.as_str()))
        .collect();
    files.sort();
    assert_eq!(rows, files);
}

/// README states the largest difference from Pillow of each kind. JPEG may differ by less on another processor.
#[test]
fn every_kind_of_image_has_the_levels_that_pillow_gives_it() {
    let stated = stated();
    for (name, expected) in expected() {
        let found = decode::read(&corpus(&name), MAX_PIXELS);
        let (kind, most) = match expected {
            Expected::Mask { .. } => continue,
            _ => stated.get(&name).cloned().unwrap_or_default(),
        };
        match (found, expected) {
            (Ok(image), Expected::Image { size, channels, levels: pillow }) => {
                assert_eq!([image.width(), image.height()], size, "{name}");
                let (found, pillow) = (levels(&image), (channels, pillow));
                let largest = difference(&found, &pillow);
                println!("{name} | {:?} | {largest:.2}", image.color());
                let most = most.unwrap_or_else(|| panic!("{name} is read"));
                assert!(largest <= most + 0.005 && format!("{:?}", image.color()) == kind, "{name}: {largest}");
                // The comparison notices a wrong level anywhere.
                for place in 0..found.1.len() {
                    let mut wrong = found.clone();
                    wrong.1[place] += if wrong.1[place] > 127.0 { -most - 9.0 } else { most + 9.0 };
                    assert!(difference(&wrong, &pillow) > most + 0.005, "{name}: a wrong level at {place}");
                }
            }
            (Err(error), Expected::Refused(reason)) => {
                assert!(error.to_string().contains(&reason) && most.is_none(), "{name} {error}");
            }
            (found, expected) => panic!("{name}: {expected:?}, but {found:?}"),
        }
    }
}

/// The pixels at which a mask is wrong, by the true area; infinite if that is 0.
fn deviation(found: &[bool], truth: &[bool]) -> f64 {
    assert_eq!(found.len(), truth.len());
    let area = truth.iter().filter(|&&defect| defect).count();
    let other = found.iter().zip(truth).filter(|(found, truth)| found != truth).count();
    if other == 0 { 0.0 } else { other as f64 / area as f64 }
}

/// README states the area of each mask in truth, as read, and of 16 × 16 pixels when shrunk to a quarter.
#[test]
fn every_kind_of_mask_has_its_area() {
    let (expected, rows) = (expected(), rows(6));
    let conversion =
        Conversion { size: Size::square(16), channels: Channels::Grey, resize: Resize::Stretch, levels: Levels::FULL };
    assert!(!rows.is_empty());
    for (files, cells) in rows {
        let number = |cell: usize| cells[cell].parse::<usize>().unwrap_or_else(|_| panic!("{files:?}: {cells:?}"));
        let ([area, as_read, as_shrunk], has_reason) = ([1, 2, 3].map(number), !cells[4].is_empty());
        for name in files {
            let Some(Expected::Mask { size, defects }) = expected.get(&name) else { panic!("{name}") };
            let truth: Vec<bool> = defects.iter().map(|&defect| defect == 1).collect();
            let stored = Stored::read(&corpus(&name), MAX_PIXELS).unwrap_or_else(|error| panic!("{name} {error}"));
            let found = stored.defects(&stored);
            assert_eq!([found.width(), found.height()], *size, "{name}");
            let count = |mask: &[bool]| mask.iter().filter(|&&defect| defect).count();
            let read: Vec<bool> = found.iter().map(|&level| level == 1).collect();
            let shrunk = conversion.apply_mask(&found);
            println!("{name} | {} | {} | {}", count(&truth), count(&read), count(&shrunk));
            // JPEG and WebP may differ by little on another processor.
            let near = |found: usize, stated: usize| found.abs_diff(stated) * 100 <= 2 * stated;
            assert!(count(&truth) == area && near(count(&read), as_read) && near(count(&shrunk), as_shrunk), "{name}");
            let cells = (size[0] * size[1]) as f64 / 256.0;
            let kept = (count(&shrunk) as f64 * cells - area as f64).abs() <= 0.02 * area as f64;
            let is_right = |mask: &[bool]| deviation(mask, &truth) <= 0.02;
            assert_eq!(is_right(&read) && kept, !has_reason, "{name}: a reason is given exactly where one is needed");
            // The comparison notices that other pixels are marked.
            let inverse: Vec<bool> = read.iter().map(|&defect| !defect).collect();
            assert!(has_reason || !is_right(&inverse), "{name}");
        }
    }
}

/// A file that lacks its end is refused, or it has the pixels of the whole one; so is a JPEG with zeros in place of its end, as a file
/// system leaves it after a power cut. (PNG and GIF have checksums or lengths; in the other formats such zeros are pixels.)
#[test]
fn a_cut_file_is_complete_or_refused() {
    for (name, expected) in expected() {
        let whole = fs::read(corpus(&name)).unwrap();
        let Ok(image) = decode::decode(&whole, MAX_PIXELS) else { continue };
        // Masks are of the same kinds. An orientation that lies after the pixels may be lost.
        if matches!(expected, Expected::Mask { .. }) || name == "odd-png-exif-last.png" {
            continue;
        }
        for length in 1..whole.len() {
            // A progressive file that ends between two scans is a whole file with fewer scans.
            let ends_a_scan = name.contains("progressive") && matches!(whole[length..], [0xff, 0xc4 | 0xda, ..]);
            let cut = decode::decode(&whole[..length], MAX_PIXELS);
            assert!(ends_a_scan || cut.is_err() || cut.is_ok_and(|cut| cut == image), "{name} cut to {length}");
            if name.ends_with(".jpg") {
                let padded = decode::decode(&[&whole[..length], &[0; 512]].concat(), MAX_PIXELS);
                let is_as_whole = padded.is_err() || padded.is_ok_and(|padded| padded == image);
                assert!(ends_a_scan || is_as_whole, "{name} cut to {length} and padded");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    /// A changed file gives an image or an error, but no panic.
    #[test]
    fn a_changed_file_never_panics(
        name in prop::sample::select(expected().into_keys().collect::<Vec<_>>()),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = fs::read(corpus(&name)).unwrap();
        for (index, value) in changes {
            let at = index.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(stored) = Stored::decode(&bytes, 1 << 20) {
            stored.defects(&stored);
            let _ = stored.upright();
        }
    }
}
