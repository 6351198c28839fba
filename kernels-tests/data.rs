//! Datasets as users have them: all formats, faulty files and folders, and all sources.

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use image::{DynamicImage, GrayImage, ImageBuffer, ImageEncoder, ImageFormat, Luma, LumaA, Pixel, Rgb, RgbImage, Rgba};
use proptest::prelude::*;
use stssad::data::category::{self, Category, Layout};
use stssad::data::decode::{self, MAX_PIXELS};
use stssad::data::folder::Folder;
use stssad::data::mat::{self, MatError, Values};
use stssad::data::paint::{Defect, Material, Texture};
use stssad::data::sheet::{Digits, Sheet};
use stssad::data::svhn::Svhn;
use stssad::data::*;
use stssad::engine::tensor::Tensor;
use tempfile::TempDir;

fn corpus(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/corpus").join(name)
}

fn bytes(name: &str) -> Vec<u8> {
    fs::read(corpus(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn reason(bytes: &[u8]) -> String {
    decode::decode(bytes, MAX_PIXELS)
        .map(|image| (image.width(), image.height()))
        .expect_err("no image to work with")
        .to_string()
}

/// Levels at the middle of the four quarters, `[quarter][channel]`.
fn quarters(levels: &[f32], [width, height]: [usize; 2]) -> [[f32; 3]; 4] {
    [(1, 1), (3, 1), (1, 3), (3, 3)].map(|(x, y)| {
        let pixel = height * y / 4 * width + width * x / 4;
        [0, 1, 2].map(|channel| levels[channel * width * height + pixel])
    })
}

/// All images of `paths` as one batch, and what lies beside them.
fn read_images(paths: &[PathBuf], conversion: Conversion, loading: &Loading) -> Result<(Batch, LeftOut), DataError> {
    let listing = Listing::of(paths, loading)?;
    let left_out = listing.left_out.clone();
    let mut all = None;
    listing.for_each_batch(usize::MAX, conversion, loading, |batch| {
        all = Some(batch);
        Ok::<(), DataError>(())
    })?;
    Ok((all.expect("one batch"), left_out))
}

/// The names of those that could be read.
fn names(batch: &Batch) -> Vec<String> {
    batch.files.iter().flatten().map(|file| file.name.clone()).collect()
}

const RGB: Conversion =
    Conversion { size: Size::square(16), channels: Channels::Rgb, resize: Resize::Stretch, levels: Levels::FULL };
const COLOURS: [[f32; 3]; 4] = [[1., 0., 0.], [0., 1., 0.], [0., 0., 1.], [1., 1., 1.]];

fn assert_near(name: &str, found: [[f32; 3]; 4], expected: [[f32; 3]; 4], tolerance: f32) {
    for (found, expected) in found.as_flattened().iter().zip(expected.as_flattened()) {
        assert!((found - expected).abs() <= tolerance, "{name}: {found} is not {expected}");
    }
}

#[test]
fn every_format_gives_the_same_upright_image() {
    let lossless =
        ["rgb.png", "palette.png", "rgba.png", "exif6.png", "rgb.bmp", "palette.bmp", "rgb.tif", "exif6.tif"];
    let jpegs = ["rgb.jpg", "progressive.jpg", "exif2.jpg", "exif3.jpg", "exif4.jpg", "exif5.jpg", "exif6.jpg"];
    let more = ["exif7.jpg", "exif8.jpg", "cmyk.jpg", "cmyk.tif"];
    for (name, tolerance) in lossless
        .map(|name| (name, 0.0))
        .into_iter()
        .chain(jpegs.map(|name| (name, 0.02)))
        .chain(more.map(|name| (name, 0.02)))
    {
        let image = decode::decode(&bytes(name), MAX_PIXELS).unwrap_or_else(|error| panic!("{name} {error}"));
        assert_eq!((image.width(), image.height()), (32, 16), "{name}");
        let levels = RGB.apply(&image);
        assert_near(name, quarters(&levels, [16, 16]), COLOURS, tolerance);
    }
}

#[test]
fn every_grey_format_gives_the_same_levels() {
    let grey = Conversion { channels: Channels::Grey, ..RGB };
    let luma = [0.299, 0.587, 0.114, 1.0];
    for name in ["grey.jpg", "grey.png", "grey16.png", "la.png", "rgb.png"] {
        let image = decode::decode(&bytes(name), MAX_PIXELS).unwrap();
        let levels = grey.apply(&image);
        assert_eq!(levels.len(), 256);
        for (quarter, (x, y)) in [(4, 4), (12, 4), (4, 12), (12, 12)].into_iter().enumerate() {
            let level = levels[16 * y + x];
            assert!((level - luma[quarter]).abs() < 0.005, "{name}: {level} is not {}", luma[quarter]);
        }
        let copies = RGB.apply(&image);
        if name != "rgb.png" {
            assert_eq!((&copies[..256], &copies[256..512]), (&levels[..], &levels[..]), "{name}");
        }
    }
}

#[test]
fn the_format_is_recognised_by_the_bytes_and_not_by_the_name() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("png-inside.jpg");
    fs::copy(corpus("rgb.png"), &path).unwrap();
    assert_eq!(decode::read(&path, MAX_PIXELS).unwrap(), decode::read(&corpus("rgb.png"), MAX_PIXELS).unwrap());
}

#[test]
fn truncated_files_are_refused() {
    for name in ["rgb.jpg", "progressive.jpg", "cmyk.jpg", "grey.jpg", "rgb.png", "grey16.png", "rgb.bmp", "rgb.tif"] {
        let whole = bytes(name);
        for length in [whole.len() / 2, whole.len() - 20, 30] {
            // The last chunk of a PNG, of 12 bytes, has no pixels.
            let error = reason(&whole[..length]);
            assert!(error.starts_with("is damaged"), "{name} cut to {length}: {error}");
        }
    }
    assert_eq!(reason(&[]), "is empty");
    assert!(reason(b"a text, whatever its name").starts_with("is not a PNG, JPEG, BMP, TIFF, WebP or GIF file"));
    let float = reason(&bytes("float.tif"));
    assert!(float.contains("has floating-point levels from 29") && float.contains("8 or 16 bit"), "{float}");
    let mut flipped = bytes("rgb.png");
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0x10;
    assert!(reason(&flipped).starts_with("is damaged"));
}

/// A cut file is refused, or it has the pixels of the whole one: only what lies after the pixels is missing.
#[test]
fn a_cut_file_is_complete_or_refused() {
    let noise = |x: u32, y: u32| (x * 37 + y * 91 + x * y % 7 * 29) as u8;
    let rgb = RgbImage::from_fn(24, 20, |x, y| Rgb([noise(x, y), noise(y, x), noise(x + y, 3)]));
    let made =
        [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::Bmp, ImageFormat::Tiff, ImageFormat::WebP, ImageFormat::Gif];
    let made = made.map(|format| (format!("{format:?}"), encoded(rgb.clone(), format)));
    let stored = ["progressive.jpg", "rgb.jpg", "grey.jpg", "palette.png"].map(|name| (name.to_owned(), bytes(name)));
    for (name, whole) in made.into_iter().chain(stored) {
        let image = decode::decode(&whole, MAX_PIXELS).unwrap_or_else(|error| panic!("{name} {error}"));
        let mut shortest = whole.len();
        for length in (1..whole.len()).rev() {
            // A progressive file that ends between two scans is a whole file with fewer scans.
            let ends_a_scan = name == "progressive.jpg" && matches!(whole[length..], [0xff, 0xc4 | 0xda, ..]);
            match decode::decode(&whole[..length], MAX_PIXELS) {
                Ok(cut) if cut == image => shortest = length,
                Ok(_) => assert!(ends_a_scan, "{name} cut to {length} of {} has other pixels", whole.len()),
                Err(_) => {}
            }
        }
        let mended = decode::decode(
            &whole[..whole.len() - if name.contains("png") || name == "Png" { 12 } else { 2 }],
            MAX_PIXELS,
        );
        if ["progressive.jpg", "rgb.jpg", "palette.png", "Png", "Jpeg"].contains(&name.as_str()) {
            assert!(mended.is_ok_and(|mended| mended == image), "{name} lacks only its end");
        }
        println!("{name}: {shortest} of {} bytes are enough", whole.len());
    }
    // BigTIFF, which the encoder does not write: its header, one directory of 20 byte entries, and the pixels.
    let tags: [(u16, u16, u64); 8] =
        [(256, 3, 4), (257, 3, 2), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 192), (277, 3, 1), (279, 4, 8)];
    let mut big = [b"II+\0\x08\0\0\0".to_vec(), 16u64.to_le_bytes().to_vec(), 8u64.to_le_bytes().to_vec()].concat();
    for (tag, kind, value) in tags {
        big.extend([&tag.to_le_bytes()[..], &kind.to_le_bytes(), &1u64.to_le_bytes(), &value.to_le_bytes()].concat());
    }
    big.extend(0u64.to_le_bytes());
    assert_eq!(big.len(), 192);
    big.extend([0, 30, 60, 90, 120, 150, 180, 210]);
    let pixels = decode::decode(&big, MAX_PIXELS).unwrap().into_luma8();
    assert_eq!((pixels.width(), &pixels.into_raw()[..]), (4, &[0, 30, 60, 90, 120, 150, 180, 210][..]));

    // Stray bytes between the headers of a JPEG, as some cameras write them.
    let whole = bytes("rgb.jpg");
    let stray = [&whole[..20], &[0; 16], &whole[20..]].concat();
    assert_eq!(decode::decode(&stray, MAX_PIXELS).unwrap(), decode::decode(&whole, MAX_PIXELS).unwrap());
    assert!(reason(&stray[..stray.len() / 2]).starts_with("is damaged"));
}

/// A PNG whose header states `side`² pixels.
fn png_of(side: u32) -> Vec<u8> {
    let mut png = bytes("rgb.png");
    png[16..20].copy_from_slice(&side.to_be_bytes());
    png[20..24].copy_from_slice(&side.to_be_bytes());
    let mut crc = flate2::Crc::new();
    crc.update(&png[12..29]);
    png[29..33].copy_from_slice(&crc.sum().to_be_bytes());
    png
}

#[test]
fn a_decompression_bomb_is_refused_by_its_header() {
    assert!(reason(&png_of(60_000)).contains("has 60000×60000 pixels, more than the limit of 89478485 (--max-pixels)"));
    let mut jpeg = bytes("rgb.jpg");
    let frame = jpeg.windows(2).position(|marker| marker == [0xff, 0xc0]).unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0xff; 4]);
    assert!(reason(&jpeg).contains("has 65535×65535 pixels"), "{}", reason(&jpeg));
    let mut bmp = bytes("rgb.bmp");
    bmp[18..22].copy_from_slice(&60_000u32.to_le_bytes());
    bmp[22..26].copy_from_slice(&60_000u32.to_le_bytes());
    assert!(reason(&bmp).contains("60000×60000"), "{}", reason(&bmp));

    let refused = decode::decode(&bytes("rgb.png"), 511).unwrap_err().to_string();
    assert!(refused.contains("has 32×16 pixels, more than the limit of 511"), "{refused}");
    assert!(decode::decode(&bytes("rgb.png"), 512).is_ok());
    // The header states a size within the limit, but the pixels are missing.
    assert!(reason(&png_of(2_000)).starts_with("is damaged"));
    // A file larger than any image of this many pixels is not read.
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("long.png");
    fs::File::create(&path).unwrap().set_len((16 << 20) + 16_001).unwrap();
    assert!(decode::read(&path, 1_000).unwrap_err().to_string().contains("has 16793217 bytes"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// A changed file gives an image or an error, but no panic.
    #[test]
    fn a_changed_file_never_panics(
        name in prop::sample::select(vec!["rgb.webp", "rgb.gif", "rgb.jpg", "progressive.jpg", "cmyk.jpg", "palette.png", "grey16.png", "rgb.bmp",
            "palette.bmp", "rgb.tif", "cmyk.tif", "exif6.tif", "exif6.jpg"]),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        keep in 0.2f64..1.2,
    ) {
        let mut bytes = match name.split_once('.') {
            Some((_, "webp" | "gif")) => {
                let image = decode::read(&corpus("rgb.png"), MAX_PIXELS).unwrap();
                encoded(image, ImageFormat::from_path(name).unwrap())
            }
            _ => bytes(name),
        };
        for (index, value) in changes {
            let at = index.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate((keep * bytes.len() as f64) as usize);
        let _ = decode::decode(&bytes, 1 << 20);
    }

    #[test]
    fn a_changed_mat_file_never_panics(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        keep in 0.2f64..1.2,
    ) {
        let mut bytes = bytes("kinds.mat");
        for (index, value) in changes {
            let at = index.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate((keep * bytes.len() as f64) as usize);
        let _ = mat::read(&bytes, 1 << 20);
    }

    /// No name leaves its folder.
    #[test]
    fn a_component_is_one_part_of_a_path(name in ".*") {
        let path = Path::new("root").join(component(&name));
        prop_assert_eq!(path.components().count(), 2);
        prop_assert!(path.starts_with("root") && path != Path::new("root/.."));
    }
}

/// Writes a grey image of one level, 8×8.
fn put(path: &Path, level: u8) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    GrayImage::from_pixel(8, 8, image::Luma([level])).save(path).unwrap();
}

fn small() -> Loading {
    Loading { size: Some(Size::square(8)), channels: Some(Channels::Grey), ..Loading::default() }
}

/// The error with its causes, as the command line prints it.
fn message(source: &Source, loading: &Loading) -> String {
    format!("{:#}", anyhow::Error::from(load(source, loading, |_, _| {}).expect_err("no task")))
}

/// The level, out of 255, of each image of a set of one-level images.
fn levels(set: &Set) -> Vec<u32> {
    firsts(&set.images.all().unwrap())
}

fn firsts(images: &Tensor) -> Vec<u32> {
    images.data().chunks_exact(64).map(|image| (image[0] * 255.0).round() as u32).collect()
}

/// The levels of all images.
fn all(set: &Set) -> Vec<f32> {
    set.images.all().unwrap().into_data()
}

fn mask(set: &Set, row: usize) -> Option<Vec<bool>> {
    set.images.mask(row).unwrap()
}

/// What tells tasks apart.
fn print(task: &Task) -> String {
    task.fingerprint().unwrap()
}

/// A tree with four good images, two good test images and two defects of two images, the first masked.
fn tree() -> (TempDir, Category) {
    let folder = TempDir::new().unwrap();
    let at = |path: &str| folder.path().join("bottle").join(path);
    for index in 0..4 {
        put(&at(&format!("train/good/{index:03}.png")), index);
    }
    for index in 0..2 {
        put(&at(&format!("test/good/{index:03}.png")), 100 + index);
        put(&at(&format!("test/crack/{index:03}.PNG")), 110 + index);
        put(&at(&format!("test/hole/{index:03}.jpg")), 120 + index);
    }
    let half = GrayImage::from_fn(8, 8, |x, _| image::Luma([if x < 4 { 255 } else { 0 }]));
    fs::create_dir_all(at("ground_truth/crack")).unwrap();
    half.save(at("ground_truth/crack/000_mask.png")).unwrap();
    half.save(at("ground_truth/crack/001.png")).unwrap();
    fs::write(at("test/crack/notes.txt"), "no image").unwrap();
    fs::write(at("test/crack/._000.png"), "what another system left").unwrap();
    let mvtec =
        Category { layout: Layout::Mvtec, root: folder.path().to_owned(), category: "bottle".to_owned(), defect: None };
    (folder, mvtec)
}

#[test]
fn an_mvtec_tree_is_read_with_its_masks() {
    let (_folder, mvtec) = tree();
    let (most, calls) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let loaded = load(&Source::Category(mvtec.clone()), &small(), |done, of| {
        assert_eq!(of, 10);
        most.fetch_max(done, Ordering::Relaxed);
        calls.fetch_add(1, Ordering::Relaxed);
    })
    .unwrap();
    assert_eq!((most.into_inner(), calls.into_inner()), (10, 10));
    let Task { dataset, category, train, held_out, tune, test } = &loaded.task;
    assert_eq!((dataset.as_str(), category.as_str(), tune.is_none()), ("mvtec", "bottle", true));
    let mut normal = [levels(train), levels(held_out.as_ref().unwrap())].concat();
    assert_eq!((train.len(), normal.len()), (3, 4));
    normal.sort_unstable();
    assert_eq!(normal, [0, 1, 2, 3]);
    assert_eq!(levels(test), [110, 111, 100, 101, 120, 121]);
    assert_eq!(
        test.names[..3].to_vec(),
        ["test/crack/000.PNG", "test/crack/001.PNG", "test/good/000.png"].map(Name::from)
    );
    assert_eq!(&*test.truths[0].kind, "crack");
    assert_eq!(test.labels().unwrap(), [true, true, false, false, true, true]);
    let half: Vec<bool> = (0..64).map(|pixel| pixel % 8 < 4).collect();
    assert_eq!(mask(test, 0).as_ref(), Some(&half));
    assert_eq!(mask(test, 1).as_ref(), Some(&half));
    assert_eq!(mask(test, 2), Some(vec![false; 64]));
    assert_eq!(mask(test, 4), None);
    let table = loaded.table().to_string();
    for part in [
        "train ",
        "held out, for threshold         1",
        "tune = test",
        "crack 2, good 2, hole 2",
        "8×8 grey, stretched from 8×8 L8 (10)",
    ] {
        assert!(table.contains(part), "{table}");
    }

    let one =
        load(&Source::Category(Category { defect: Some("hole".into()), ..mvtec }), &small(), |_, _| {}).unwrap().task;
    assert_eq!(one.category, "bottle-hole");
    assert_eq!(levels(&one.test), [100, 101, 120, 121]);
}

/// By default images become 256 pixels large, but they are not enlarged if all are smaller.
#[test]
fn small_images_are_not_enlarged() {
    let (folder, mvtec) = tree();
    let add = |width: u32, height: u32| {
        GrayImage::new(width, height).save(folder.path().join("bottle/test/good/large.png")).unwrap();
    };
    let side = |size: Option<usize>| {
        let loading = Loading { size: size.map(Size::square), ..Loading::default() };
        let loaded =
            load(&Source::Category(Category { defect: Some("hole".into()), ..mvtec.clone() }), &loading, |_, _| {});
        loaded.unwrap().conversion.size.height
    };
    assert_eq!(side(None), 8);
    add(20, 48);
    assert_eq!((side(None), side(Some(32))), (48, 32));
    add(300, 200);
    assert_eq!(side(None), 256);
}

#[test]
fn a_wrong_layout_is_shown_with_the_expected_one() {
    let (folder, mvtec) = tree();
    let source = |change: &dyn Fn(&mut Category)| {
        let mut mvtec = mvtec.clone();
        change(&mut mvtec);
        message(&Source::Category(mvtec), &small())
    };
    let message = source(&|mvtec| mvtec.category = "bottel".into());
    for part in
        ["no category `bottel`", "<root>/<category>/train/good/000.png", "/bottle/", "ground_truth/ test/ train/"]
    {
        assert!(message.contains(part), "{message}");
    }
    assert!(source(&|mvtec| mvtec.root = "no/such/place".into()).starts_with("there is no folder no/such/place"));
    let message = source(&|mvtec| mvtec.defect = Some("crock".into()));
    assert!(message.contains("no defect `crock`") && message.contains("/crack/  4 files"), "{message}");
    assert!(source(&|mvtec| mvtec.defect = Some("good".into())).contains("--defect is `good`: it must be a defect"));
    let message = source(&|mvtec| (mvtec.root, mvtec.category) = (folder.path().join("bottle"), "test".into()));
    assert!(message.contains("has no train/good"), "{message}");
    fs::remove_dir_all(folder.path().join("bottle/train/good")).unwrap();
    fs::create_dir(folder.path().join("bottle/train/good")).unwrap();
    assert!(source(&|_| {}).contains("train/good contains no images: their names must end in png, jpg"));
}

#[test]
fn bad_images_are_all_listed_or_skipped() {
    let (folder, mvtec) = tree();
    let at = |path: &str| folder.path().join("bottle").join(path);
    let cut = bytes("rgb.jpg");
    fs::write(at("train/good/001.png"), &cut[..cut.len() / 2]).unwrap();
    fs::write(at("test/good/000.png"), "").unwrap();
    GrayImage::new(4, 4).save(at("ground_truth/crack/000_mask.png")).unwrap();
    let source = Source::Category(mvtec);
    let message = message(&source, &small());
    assert_eq!(message.lines().count(), 4, "{message}");
    for part in [
        "3 of 10 images cannot be used",
        "train/good/001.png is damaged",
        "test/good/000.png is empty",
        "000.PNG has the mask",
        "has 4×4 pixels, but its image has 8×8",
    ] {
        assert!(message.contains(part), "no `{part}` in {message}");
    }
    let loaded = load(&source, &Loading { on_bad_image: OnBadImage::Skip, ..small() }, |_, _| {}).unwrap();
    assert_eq!((levels(&loaded.task.train), levels(&loaded.task.test)), (vec![0, 2, 3], vec![111, 101, 120, 121]));
    assert_eq!(loaded.files.skipped.len(), 3);
    let table = loaded.table().to_string();
    assert!(table.contains("left out 3 images that cannot be used") && table.contains("000.png is empty"), "{table}");
}

/// The pixels that a mask marks, and those that its image, of the same content, has.
fn marked(bytes: &[u8]) -> Vec<bool> {
    let stored = decode::Stored::decode(bytes, MAX_PIXELS).unwrap();
    stored.defects(&stored).iter().map(|&level| level == 1).collect()
}

fn encoded(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.into().write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// 32×32 pixels, of which an 8×8 square is of the first value and another of the second.
fn squares<P: Pixel + 'static>(around: P, one: P, other: P) -> ImageBuffer<P, Vec<P::Subpixel>> {
    let within = |from: u32, x: u32, y: u32| (from..from + 8).contains(&x) && (from..from + 8).contains(&y);
    ImageBuffer::from_fn(32, 32, |x, y| match (within(4, x, y), within(20, x, y)) {
        (true, _) => one,
        (_, true) => other,
        _ => around,
    })
}

#[test]
fn every_kind_of_mask_marks_the_same_defects() {
    let expected: Vec<bool> = squares(Luma([0u8]), Luma([1]), Luma([1])).iter().map(|&level| level == 1).collect();
    let grey = |one: u8, other: u8| squares(Luma([0]), Luma([one]), Luma([other]));
    let (clear, black, white) = (Rgba([0u8, 0, 0, 0]), Rgba([0, 0, 0, 255]), Rgba([255; 4]));
    let masks: [(&str, Vec<u8>); 17] = [
        ("0 and 1", encoded(grey(1, 1), ImageFormat::Png)),
        ("0 and 255", encoded(grey(255, 255), ImageFormat::Bmp)),
        ("class numbers", encoded(grey(1, 3), ImageFormat::Png)),
        ("distant class numbers", encoded(grey(255, 1), ImageFormat::Tiff)),
        ("16 bit", encoded(squares(Luma([0u16]), Luma([1]), Luma([65_535])), ImageFormat::Png)),
        ("colours", encoded(squares(Rgb([0u8; 3]), Rgb([0, 0, 1]), Rgb([128, 0, 0])), ImageFormat::Png)),
        ("16 bit colours", encoded(squares(Rgb([0u16; 3]), Rgb([0, 0, 1]), Rgb([9, 0, 0])), ImageFormat::Tiff)),
        ("opaque on transparent", encoded(squares(clear, white, white), ImageFormat::Png)),
        ("transparent white", encoded(squares(Rgba([255, 255, 255, 0]), white, white), ImageFormat::Png)),
        ("black on transparent", encoded(squares(clear, black, black), ImageFormat::Png)),
        ("half transparent", encoded(squares(clear, Rgba([255, 0, 0, 128]), white), ImageFormat::Png)),
        ("opaque throughout", encoded(squares(black, white, Rgba([0, 9, 0, 255])), ImageFormat::Png)),
        ("grey with alpha", encoded(squares(LumaA([7u8, 0]), LumaA([7, 255]), LumaA([9, 1])), ImageFormat::Png)),
        ("a palette", encoded(squares(black, Rgba([128, 0, 0, 255]), Rgba([0, 128, 0, 255])), ImageFormat::Gif)),
        ("a palette with a transparent colour", encoded(squares(clear, white, white), ImageFormat::Gif)),
        ("lossless WebP", encoded(squares(Rgb([0u8; 3]), Rgb([1; 3]), Rgb([3; 3])), ImageFormat::WebP)),
        ("JPEG", encoded(grey(255, 255), ImageFormat::Jpeg)),
    ];
    for (name, bytes) in masks {
        assert!(marked(&bytes) == expected, "{name}");
    }
    let blank = encoded(GrayImage::new(32, 32), ImageFormat::Png);
    assert!(
        !marked(&blank).contains(&true)
            && !marked(&encoded(squares(clear, clear, clear), ImageFormat::Png)).contains(&true)
    );
    assert!(!marked(&encoded(squares(black, black, black), ImageFormat::Png)).contains(&true));
}

/// The image and its mask with a white pixel and a defect in the same stored place, the image with each orientation.
#[test]
fn a_mask_is_turned_with_its_image() {
    for orientation in 1..=8 {
        let folder = TempDir::new().unwrap();
        let at = |path: &str| folder.path().join(path);
        let dot = GrayImage::from_fn(8, 4, |x, y| Luma([if (x, y) == (1, 0) { 255 } else { 0 }]));
        for name in ["train/0", "train/1", "train/2", "un/0"] {
            put(&at(&format!("{name}.png")), name.len() as u8);
        }
        fs::create_dir_all(at("bad")).unwrap();
        let mut bytes = Vec::new();
        let mut encoder = image::codecs::png::PngEncoder::new(&mut bytes);
        encoder
            .set_exif_metadata(
                [&b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0"[..], &[orientation, 0, 0, 0, 0, 0, 0, 0]].concat(),
            )
            .unwrap();
        encoder.write_image(&dot, 8, 4, image::ExtendedColorType::L8).unwrap();
        fs::write(at("bad/0.png"), bytes).unwrap();
        let own = Folder {
            root: folder.path().into(),
            normal_dir: vec!["train".into()],
            abnormal_dir: vec!["bad".into()],
            normal_test_dir: vec!["un".into()],
            mask_dir: vec!["masks".into()],
            ..Folder::default()
        };
        fs::create_dir_all(at("masks")).unwrap();
        dot.save(at("masks/0.png")).unwrap();
        let loading = Loading { resize: Resize::Letterbox, ..small() };
        let check = |case: &str| {
            let test = load(&Source::Folder(own.clone()), &loading, |_, _| {}).unwrap().task.test.select(&[1]);
            let white: Vec<bool> = all(&test).iter().map(|&level| level > 0.5).collect();
            assert_eq!(white.iter().filter(|&&level| level).count(), 1, "{orientation}");
            assert_eq!(mask(&test, 0).as_ref(), Some(&white), "{case} {orientation}");
        };
        check("stored");
        // A mask that was drawn on the upright image has its size.
        if orientation > 4 {
            let upright = decode::read(&at("bad/0.png"), MAX_PIXELS).unwrap();
            assert_eq!(upright.width(), 4);
            upright.save(at("masks/0.png")).unwrap();
            check("upright");
        }
    }
}

/// The share of the pixels that a mask covers, before and after conversion.
fn areas(side: usize, mask: &GrayImage) -> [f64; 2] {
    let conversion = Conversion {
        size: Size::square(side),
        channels: Channels::Grey,
        resize: Resize::Stretch,
        levels: Levels::FULL,
    };
    let found = conversion.apply_mask(mask).into_iter().filter(|&marked| marked).count();
    let stored = mask.iter().filter(|&&level| level > 0).count();
    [stored as f64 / mask.len() as f64, found as f64 / (side * side) as f64]
}

#[test]
fn shrinking_a_mask_keeps_the_area_of_large_defects() {
    let disc = |radius: f64, x: f64, y: f64| move |[u, v]: [f64; 2]| (u - x).hypot(v - y) < radius;
    let bar = |left: f64, top: f64, right: f64, bottom: f64| {
        move |[u, v]: [f64; 2]| (left..right).contains(&u) && (top..bottom).contains(&v)
    };
    type Shape = Box<dyn Fn([f64; 2]) -> bool>;
    let shapes: [Shape; 5] = [
        Box::new(disc(0.11, 0.5, 0.5)),
        Box::new(disc(0.2, 0.31, 0.62)),
        Box::new(bar(0.1003, 0.2017, 0.3021, 0.4009)),
        Box::new(bar(0.1003, 0.0, 0.2021, 1.0)),
        Box::new(move |[u, v]| disc(0.3, 0.5, 0.5)([u, v]) && !disc(0.2, 0.5, 0.5)([u, v])),
    ];
    for (index, shape) in shapes.iter().enumerate() {
        for [width, height, side] in
            [[900, 900, 256], [1024, 1024, 256], [700, 500, 64], [333, 777, 100], [100, 90, 256]]
        {
            let mask = GrayImage::from_fn(width, height, |x, y| {
                let at = [(f64::from(x) + 0.5) / f64::from(width), (f64::from(y) + 0.5) / f64::from(height)];
                Luma([u8::from(shape(at))])
            });
            let [stored, found] = areas(side as usize, &mask);
            assert!(
                (found / stored - 1.0).abs() <= 0.02,
                "shape {index}, {width}×{height} to {side}: {stored} {found}"
            );
        }
    }
}

/// Lines of widths around that of a result's pixel, which is 10 wide, keep their whole length.
#[test]
fn a_line_is_marked_over_its_whole_length() {
    let conversion =
        Conversion { size: Size::square(32), channels: Channels::Grey, resize: Resize::Stretch, levels: Levels::FULL };
    for (width, from) in [(1, 109), (5, 100), (6, 102), (10, 105), (12, 104), (15, 100), (19, 103)] {
        let mask = GrayImage::from_fn(320, 320, |x, _| Luma([u8::from((from..from + width).contains(&x))]));
        let marked = conversion.apply_mask(&mask);
        assert!(marked.chunks_exact(32).all(|row| row.contains(&true)), "{width} wide");
    }
}

/// Every defect pixel lies in a marked pixel, or beside one where a defect is wide.
#[test]
fn shrinking_a_mask_loses_no_thin_defect() {
    let conversion =
        Conversion { size: Size::square(32), channels: Channels::Grey, resize: Resize::Stretch, levels: Levels::FULL };
    type Shape = fn(u32, u32) -> bool;
    let thin: [Shape; 5] = [
        |_, y| y == 411,
        |x, y| x == y,
        |x, y| x / 3 == y,
        |x, y| x % 100 == 37 && y % 90 == 11,
        |x, y| (x, y) == (898, 0),
    ];
    for (index, shape) in thin.iter().enumerate() {
        let mask = GrayImage::from_fn(900, 900, |x, y| Luma([u8::from(shape(x, y))]));
        let found = conversion.apply_mask(&mask);
        for (x, y, _) in mask.enumerate_pixels().filter(|(_, _, level)| level.0[0] == 1) {
            assert!(found[(y * 32 / 900 * 32 + x * 32 / 900) as usize], "shape {index}: the defect at {x}, {y}");
        }
    }
    // A thin scratch that leaves a large stain.
    let mask = GrayImage::from_fn(900, 900, |x, y| Luma([u8::from(x < 300 && y < 300 || y == 150)]));
    let found = conversion.apply_mask(&mask);
    assert!((12..32).all(|column| found[150 * 32 / 900 * 32 + column]));
}

#[test]
fn masks_are_found_by_the_path_below_their_folder() {
    let folder = TempDir::new().unwrap();
    let at = |path: &str| folder.path().join(path);
    for index in 0..8 {
        put(&at(&format!("good/{index}.png")), index);
    }
    // The mask of an image is the column with the number of its level.
    let column = |path: &str, column: u32| {
        fs::create_dir_all(at(path).parent().unwrap()).unwrap();
        GrayImage::from_fn(8, 8, |x, _| Luma([u8::from(x == column)])).save(at(path)).unwrap();
    };
    for (image, level) in
        [("bad/a/0.png", 101), ("bad/a/1.png", 102), ("bad/b/0.JPG", 103), ("bad/c.d.png", 104), ("bad/e.png", 105)]
    {
        put(&at(image), level);
    }
    column("masks/a/0.png", 1);
    column("masks/a/1_mask.Tiff", 2);
    column("masks/b/0_mask.png", 3);
    // A folder of masks, as in MVTec LOCO.
    column("masks/c.d/000.png", 4);
    column("masks/c.d/001.png", 0);
    let own = Folder {
        root: folder.path().into(),
        normal_dir: vec!["good".into()],
        abnormal_dir: vec!["bad".into()],
        mask_dir: vec!["masks".into()],
        ..Folder::default()
    };
    let loaded = load(&Source::Folder(own.clone()), &small(), |_, _| {}).unwrap();
    let test = &loaded.task.test;
    let rows = test.rows(Some(true));
    assert_eq!(rows.len(), 5);
    for row in rows {
        let level = levels(test)[row] as usize;
        let columns = mask(test, row).map(|mask| (0..8).filter(|&x| mask[x]).collect::<Vec<_>>());
        let expected = [vec![1], vec![2], vec![3], vec![0, 4]].into_iter().nth(level - 101);
        assert_eq!(columns, expected, "{}", test.names[row]);
    }
    let table = loaded.table().to_string();
    assert!(
        table.contains("1 of 5 anomalous test images have no mask")
            && !table.contains("left out")
            && table.contains("such as bad/e.png"),
        "{table}"
    );

    column("masks/f.png", 7);
    column("masks/b/1.png", 7);
    let table = load(&Source::Folder(own.clone()), &small(), |_, _| {}).unwrap().table().to_string();
    assert!(table.contains("left out: 2 as masks without an image"), "{table}");

    // One mask is never used for two images.
    let refused = |own: Folder| message(&Source::Folder(own), &small());
    put(&at("bad/a/0.bmp"), 106);
    let said = refused(own.clone());
    for part in ["masks/a/0.png would be the mask of both", "bad/a/0.bmp and", "bad/a/0.png:", "its own --mask-dir"] {
        assert!(said.contains(part), "no `{part}` in {said}");
    }
    fs::remove_file(at("bad/a/0.bmp")).unwrap();
    put(&at("other/e.png"), 107);
    put(&at("masks/e.png"), 0);
    let two = Folder { abnormal_dir: vec!["bad".into(), "other".into()], ..own.clone() };
    assert!(refused(two.clone()).contains("masks/e.png would be the mask of both"));
    // The advice works.
    column("others/e.png", 7);
    let apart = Folder { mask_dir: vec!["masks".into(), "others".into()], ..two };
    let loaded = load(&Source::Folder(apart), &small(), |_, _| {}).unwrap();
    let table = loaded.table().to_string();
    assert!(table.contains("1 of 6 anomalous test images have a mask without a defect, such as bad/e.png"), "{table}");
    put(&at("masks/e.png"), 255);
    let table = load(&Source::Folder(own), &small(), |_, _| {}).unwrap().table().to_string();
    assert!(table.contains("1 of 5 anomalous test images have a mask that is a defect all over"), "{table}");
}

/// The layout of MVTec LOCO, with an anomaly without masks.
#[test]
fn an_mvtec_anomaly_may_have_several_masks_or_none() {
    let (folder, mvtec) = tree();
    let masks = folder.path().join("bottle/ground_truth/hole/000");
    fs::create_dir_all(&masks).unwrap();
    for index in 0..2 {
        let row = GrayImage::from_fn(8, 8, |_, y| Luma([if y == index { 240 } else { 0 }]));
        row.save(masks.join(format!("{index:03}.png"))).unwrap();
    }
    let loaded = load(&Source::Category(mvtec), &small(), |_, _| {}).unwrap();
    let test = &loaded.task.test;
    assert_eq!(mask(test, 4), Some((0..64).map(|pixel| pixel < 16).collect()));
    assert_eq!((test.truths[5].anomalous, mask(test, 5)), (Some(true), None));
    let table = loaded.table().to_string();
    assert!(table.contains("1 of 4 anomalous test images have no mask"), "{table}");
}

#[test]
fn sets_with_too_few_images_are_refused() {
    let (folder, mvtec) = tree();
    let source = Source::Category(mvtec);
    for most in [2, 0] {
        let said = message(&source, &Loading { max_train: Some(most), ..small() });
        assert_eq!(said, format!("--max-train is {most}: training needs at least 3 images"));
    }
    let none = Loading { max_anomalies: Some(0), ..small() };
    let loaded = load(&source, &none, |_, _| {}).unwrap();
    assert_eq!(loaded.task.test.labels(), Some(vec![false; 2]));
    assert!(loaded.table().to_string().contains("figures that need both are n/a"));
    let all = load(&source, &small(), |_, _| {}).unwrap();
    let few = Loading { max_normals: Some(1), max_anomalies: Some(3), max_train: Some(3), ..small() };
    let task = load(&source, &few, |_, _| {}).unwrap().task;
    assert_eq!((task.train.len(), task.test.rows(Some(false)).len(), task.test.rows(Some(true)).len()), (3, 1, 3));
    assert_ne!(print(&task), print(&all.task));

    let halved = load(&source, &Loading { split: Split::Inductive, ..small() }, |_, _| {}).unwrap();
    assert_eq!((halved.task.tune.as_ref().unwrap().len(), halved.task.test.len()), (3, 3));
    assert!(halved.table().to_string().contains("tune, labels unused"));
    drop(folder);
}

#[test]
fn the_users_own_folders_are_read() {
    let folder = TempDir::new().unwrap();
    let at = |path: &str| folder.path().join(path);
    for index in 0..10 {
        put(&at(&format!("fine/day {}/{index}.png", index % 2)), index);
    }
    for index in 0..3 {
        put(&at(&format!("broken/{index}.png")), 50 + index);
        put(&at(&format!("masks/{index}.png")), 255);
        put(&at(&format!("bent/{index}.bmp")), 60 + index);
        put(&at(&format!("belt/{index}.png")), 70 + index);
    }
    let own = Folder {
        root: folder.path().to_owned(),
        name: Some("my parts/v2".into()),
        normal_dir: vec!["fine".into()],
        abnormal_dir: vec!["broken".into(), "bent".into()],
        ..Folder::default()
    };
    let read = |own: &Folder| load(&Source::Folder(own.clone()), &small(), |_, _| {}).unwrap().task;
    let task = read(&own);
    assert!(task.category.starts_with("my_parts_v2-"), "{}", task.category);
    let held_out = task.held_out.as_ref().unwrap();
    assert_eq!((task.train.len(), held_out.len(), task.test.len(), task.tune.is_none()), (6, 2, 8, true));
    let mut seen = [levels(&task.train), levels(held_out), levels(&task.test)].concat();
    seen.sort_unstable();
    assert_eq!(seen, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 50, 51, 52, 60, 61, 62]);
    assert_eq!(&*task.test.names[2], "broken/0.png");
    assert!(task.train.names[0].starts_with("fine/day 0/"));
    assert_eq!(&*task.test.truths[7].kind, "bent");
    assert_eq!(print(&task), print(&read(&own)));

    let only_unlabelled = Folder { abnormal_dir: Vec::new(), unlabelled_dir: vec!["belt".into()], ..own.clone() };
    let task = read(&only_unlabelled);
    assert_eq!((task.train.len(), levels(&task.test), task.test.labels()), (8, vec![70, 71, 72], None));
    let both = read(&Folder { unlabelled_dir: vec!["belt".into()], ..own.clone() });
    assert_eq!((levels(both.tune.as_ref().unwrap()), both.test.len()), (vec![70, 71, 72], 8));

    let masked = Folder { abnormal_dir: vec!["broken".into()], mask_dir: vec!["masks".into()], ..own.clone() };
    let task = read(&masked);
    assert_eq!(mask(&task.test, 2), Some(vec![true; 64]));
    assert_eq!(mask(&task.test, 0), Some(vec![false; 64]));

    let refused = |own: Folder| message(&Source::Folder(own), &small());
    assert!(refused(Folder { normal_dir: Vec::new(), ..own.clone() }).contains("add --normal-dir"));
    assert!(refused(Folder { abnormal_dir: Vec::new(), ..own.clone() }).contains("add --unlabelled-dir"));
    assert!(refused(Folder { normal_split_ratio: f64::NAN, ..own.clone() }).contains("--normal-split-ratio"));
    assert!(
        refused(Folder { mask_dir: vec!["masks".into(); 3], ..own.clone() })
            .contains("--mask-dir is given 3 times and --abnormal-dir 2 times")
    );
    assert!(refused(Folder { mask_dir: vec!["mask".into()], ..own.clone() }).contains("there is no folder"));
    assert!(refused(Folder { abnormal_dir: vec!["brocken".into()], ..own.clone() }).contains("there is no folder"));
    let nested = refused(Folder { normal_dir: vec![".".into()], ..own.clone() });
    assert!(nested.contains("the folder broken is the same as . or is inside it"), "{nested}");
    assert!(refused(Folder { unlabelled_dir: vec!["bent/../fine".into()], ..own.clone() }).contains("is inside"));
    let absolute = Folder { unlabelled_dir: vec![at("belt")], abnormal_dir: Vec::new(), ..own.clone() };
    assert_eq!(&*read(&absolute).test.names[0], "belt/0.png");
    let no_test = Folder { normal_split_ratio: 0.0, ..own.clone() };
    assert_eq!(read(&no_test).test.rows(Some(false)).len(), 0);
    fs::create_dir(at("empty")).unwrap();
    assert!(refused(Folder { normal_dir: vec!["empty".into()], ..own.clone() }).contains("contains no images"));
    let one = Folder { normal_dir: vec!["one".into()], normal_test_dir: vec!["fine".into()], ..own };
    put(&at("one/1.png"), 1);
    assert!(refused(one).starts_with("there are 1 training images, but 3 are needed"));
}

/// A run, and several below `results`, write their reports among the images that they are about.
#[test]
fn the_images_of_reports_are_not_read() {
    let (folder, mut tree) = tree();
    let own = Folder { root: folder.path().to_owned(), normal_dir: vec!["own".into()], ..Folder::default() };
    let own = Folder { unlabelled_dir: vec!["belt".into()], ..own };
    for index in 0..4 {
        put(&folder.path().join(format!("own/{index}.png")), index);
        put(&folder.path().join(format!("belt/{index}.png")), 50 + index);
    }
    tree.defect = None;
    let read = || {
        [Source::Folder(own.clone()), Source::Category(tree.clone())]
            .map(|source| load(&source, &small(), |_, _| {}).unwrap().task)
    };
    let before = read().map(|task| print(&task));
    for run in ["own", "own/results/v0", "belt/run", "bottle/test", "bottle/test/good/run"] {
        let run = folder.path().join(run);
        let images = ["curves.png", "pictures.png", "histogram.png", "roc.png", "images/good/000.png"];
        images.iter().for_each(|name| put(&run.join(name), 200));
        fs::write(run.join("stssad.json"), "{}").unwrap();
    }
    assert_eq!(read().map(|task| print(&task)), before);
    // In other folders these names are ordinary images.
    put(&folder.path().join("belt/images/curves.png"), 99);
    assert_eq!(levels(&read()[0].test), [50, 51, 52, 53, 99]);
}

#[cfg(unix)]
#[test]
fn unusual_file_names_are_accepted() {
    let folder = TempDir::new().unwrap();
    for name in ["a b.png", "naïve.png", "new\nline.png", "\u{1b}[31mred.png", "-rf.png", "$(x).png"] {
        put(&folder.path().join("good").join(name), 1);
    }
    std::os::unix::fs::symlink(folder.path(), folder.path().join("good/loop")).unwrap();
    let images = |path: PathBuf| read_images(&[path], RGB, &Loading::default());
    // A link to a folder that it lies in is not followed again.
    let names = names(&images(folder.path().join("good")).unwrap().0);
    assert_eq!(names.len(), 6);
    assert!(names.iter().all(|name| !name.contains(char::is_control)), "{names:?}");
    assert!(names.contains(&"new\\nline.png".to_owned()));
    fs::write(folder.path().join("good/bad\nname.png"), "").unwrap();
    let message = images(folder.path().join("good")).unwrap_err().to_string();
    assert_eq!(message.lines().count(), 2, "{message}");
}

/// What lies in folders besides images is not read, and is counted.
#[test]
fn what_is_left_out_is_counted() {
    let folder = TempDir::new().unwrap();
    let at = |path: &str| folder.path().join(path);
    for (index, name) in
        ["0.png", "1.PNG", "2.JpG", "3.jfif", "4.JPE", "5.webp", "6.GIF", "7.Tiff", "empty-is-below/8.bmp"]
            .iter()
            .enumerate()
    {
        let format = ImageFormat::from_path(name).unwrap_or(ImageFormat::Jpeg);
        fs::create_dir_all(at("good").join(name).parent().unwrap()).unwrap();
        let image = RgbImage::from_pixel(8, 8, Rgb([8 * index as u8; 3]));
        fs::write(at("good").join(name), encoded(image, format)).unwrap();
    }
    let junk = ["notes.txt", "a/more.TXT", "raw.heic", "README", ".DS_Store", "a/._0.png", "Thumbs.db", "desktop.ini"];
    let copies = [
        "@eaDir/0.png/SYNOPHOTO_THUMB_M.jpg",
        "__MACOSX/good/._0.png",
        ".ipynb_checkpoints/0-checkpoint.png",
        "a/$RECYCLE.BIN/x.png",
    ];
    for name in junk.iter().chain(&copies) {
        let path = at("good").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "left by another program").unwrap();
    }
    fs::create_dir_all(at("good/empty")).unwrap();
    fs::create_dir_all(at("good/empty.png")).unwrap();
    let (images, left_out) = read_images(&[at("good")], RGB, &Loading::default()).unwrap();
    assert_eq!(names(&images).len(), 9, "{images:?}");
    let told = "1 .db, 1 .heic, 1 .ini, 2 .txt, 3 as system folders, 3 hidden, 1 without an ending";
    assert_eq!(left_out.to_string(), told);

    put(&at("un/0.png"), 200);
    put(&at("un/1.png"), 201);
    let own = Folder {
        root: folder.path().into(),
        normal_dir: vec!["good".into()],
        unlabelled_dir: vec!["un".into()],
        ..Folder::default()
    };
    let table = load(&Source::Folder(own.clone()), &small(), |_, _| {}).unwrap().table().to_string();
    assert!(table.lines().any(|line| line == format!("left out: {told}")), "{table}");

    fs::create_dir_all(at("raw")).unwrap();
    fs::write(at("raw/0.HEIC"), "no image that can be read").unwrap();
    let refused = message(&Source::Folder(Folder { unlabelled_dir: vec!["raw".into()], ..own }), &small());
    assert!(
        refused.contains("raw contains no images (left out: 1 .heic): their names must end in png, jpg"),
        "{refused}"
    );
}

#[cfg(unix)]
#[test]
fn links_are_followed_once_and_names_need_not_be_utf8() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;
    let folder = TempDir::new().unwrap();
    let at = |path: &str| folder.path().join(path);
    put(&at("store/0.png"), 10);
    put(&at("good/1.png"), 11);
    for (target, link) in [
        ("../store/0.png", "0.png"),
        ("../store", "days"),
        ("../store", "days-again"),
        ("..", "up"),
        ("/no/where", "README"),
        ("round", "round"),
    ] {
        symlink(target, at("good").join(link)).unwrap();
    }
    let read = |skip| {
        let on_bad_image = if skip { OnBadImage::Skip } else { OnBadImage::Error };
        read_images(&[at("good")], RGB, &Loading { on_bad_image, ..Loading::default() })
    };
    let (images, left_out) = read(false).unwrap();
    // Below `up` the folder `store` is met again.
    assert_eq!(names(&images).len(), 3, "{images:?}");
    let told = left_out.to_string();
    assert_eq!(told, "2 as dangling or circular links, 3 as links to folders that are read already");
    // A link with the name of an image is an image that is missing.
    symlink("/no/where", at("good/9.png")).unwrap();
    assert!(read(false).unwrap_err().to_string().contains("good/9.png cannot be read"));
    assert_eq!(read(true).unwrap().0.files.iter().filter(|file| file.is_err()).count(), 1);
    fs::remove_file(at("good/9.png")).unwrap();

    for name in [&b"caf\xe9.png"[..], b"caf\xe8.png"] {
        put(&at("latin").join(OsStr::from_bytes(name)), 1);
    }
    let names = names(&read_images(&[at("latin")], RGB, &Loading::default()).unwrap().0);
    assert_eq!(names, ["caf\\xe8.png", "caf\\xe9.png"]);
    assert_eq!(as_text(Path::new(OsStr::from_bytes(b"a\n/caf\xe9.png"))), "a\n/caf\\xe9.png");
    let kinds = |kind: &[u8]| at("tree/c/test").join(OsStr::from_bytes(kind));
    for index in 0..4 {
        put(&at(&format!("tree/c/train/good/{index}.png")), index);
        put(&kinds(b"good").join(format!("{index}.png")), 50 + index);
        put(&kinds(b"fl\xe4che").join(format!("{index}.png")), 60 + index);
    }
    let tree = Category { layout: Layout::Mvtec, root: at("tree"), category: "c".into(), defect: None };
    let test = load(&Source::Category(tree), &small(), |_, _| {}).unwrap().task.test;
    assert_eq!((test.len(), &*test.truths[0].kind), (8, "fl\\xe4che"));
}

/// 16 bit images with 12 bits of content: the levels are chosen once, on the training images.
#[test]
fn levels_of_deep_images_are_found_on_the_training_images() {
    let folder = TempDir::new().unwrap();
    let deep = |path: &str, level: u16| {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        ImageBuffer::from_fn(16, 16, |x, y| Luma([level + (x * y) as u16])).save(path).unwrap();
    };
    for index in 0..8 {
        deep(&format!("good/{index}.png"), 2000 + 10 * index);
        deep(&format!("un/{index}.tif"), 4095 + 10 * index);
    }
    let own = Folder {
        root: folder.path().into(),
        normal_dir: vec!["good".into()],
        unlabelled_dir: vec!["un".into()],
        ..Folder::default()
    };
    let read = |levels: Option<&str>| {
        let loading = Loading {
            channels: Some(Channels::Grey),
            levels: levels.map(|text| text.parse().unwrap()),
            ..Loading::default()
        };
        load(&Source::Folder(own.clone()), &loading, |_, _| {}).unwrap()
    };
    let dark = read(None);
    assert_eq!(all(&dark.task.test)[0], 4095.0 / 65_535.0);
    let told = dark.table().to_string();
    assert!(
        told.contains("0 is black and 65535 white") && told.contains("--levels auto would make 8191 white"),
        "{told}"
    );
    let found = read(Some("auto"));
    assert_eq!(found.conversion.levels, Levels::Between(0, 4095));
    assert_eq!(all(&found.task.test)[0], 1.0);
    assert!(all(&found.task.train).iter().all(|level| (0.4..0.6).contains(level)));
    assert!(
        found.table().to_string().contains("0 is black and 4095 white; no level is above 4390"),
        "{}",
        found.table()
    );
    assert_eq!(print(&read(Some("0,4095")).task), print(&found.task));

    // A run keeps the levels that it found, and `predict` applies them.
    let config = predicts_as_it_trained(folder.path(), &["--levels", "auto"]);
    assert!(config.contains("levels = \"0,4095\""), "{config}");
}

/// Trains on `good` and `un`, checks that `predict` gives the scores of the run, and returns the run's configuration.
fn predicts_as_it_trained(folder: &Path, flags: &[&str]) -> String {
    let run = folder.join("run");
    let stssad = |flags: &[&str], paths: &[&Path]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_stssad"));
        let output = command.args(flags).args(paths).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let data = "train --data folder --normal-dir good --unlabelled-dir un --encoder small --steps 2 --starts 1 --batch 4 \
                --batch-val 4";
    let data: Vec<&str> = data.split_whitespace().chain(flags.iter().copied()).chain(["--root"]).collect();
    stssad(&data, &[folder, Path::new("--out"), &run]);
    let scores = |csv: &str| {
        let mut rows = csv::Reader::from_reader(csv.as_bytes());
        let column = rows.headers().unwrap().iter().position(|name| name == "score").unwrap();
        rows.records().map(|row| row.unwrap()[column].to_owned()).collect::<Vec<_>>()
    };
    let predicted = scores(&stssad(&["predict"], &[&run, &folder.join("un")]));
    assert_eq!((predicted.len(), &predicted), (8, &scores(&fs::read_to_string(run.join("scores.csv")).unwrap())));
    fs::read_to_string(run.join("config.toml")).unwrap()
}

/// An uncompressed TIFF of 8×8 pixels; each channel has one 8 bit level and no stated meaning.
fn bands(path: &Path, levels: &[u8]) {
    const SHORT: u16 = 3;
    let (count, entries, directory) = (levels.len() as u32, 9u16, 8u32);
    // The depths follow the directory, and the pixels follow them.
    let depths = directory + 2 + 12 * u32::from(entries) + 4;
    let tags: [(u16, u32, u32); 9] = [
        (256, 1, 8),
        (257, 1, 8),
        (258, count, depths),
        (259, 1, 1),
        (262, 1, 1),
        (273, 1, depths + 2 * count),
        (277, 1, count),
        (278, 1, 8),
        (279, 1, 64 * count),
    ];
    let mut bytes = [&b"II*\0"[..], &directory.to_le_bytes(), &entries.to_le_bytes()].concat();
    for (tag, count, value) in tags {
        let field = [&tag.to_le_bytes()[..], &SHORT.to_le_bytes(), &count.to_le_bytes(), &value.to_le_bytes()];
        bytes.extend(field.concat());
    }
    bytes.extend([0; 4]);
    bytes.extend([8, 0].repeat(levels.len()));
    bytes.extend(levels.repeat(64));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

#[test]
fn all_channels_are_taken_as_the_files_store_them() {
    let folder = TempDir::new().unwrap();
    let at = |path: &str| folder.path().join(path);
    for index in 0..8 {
        bands(&at(&format!("good/{index}.tif")), &[index, 51, 102, 153, 255]);
        bands(&at(&format!("un/{index}.tif")), &[index, 0, 204, 153, 255]);
        for folder in ["clear", "other"] {
            fs::create_dir_all(at(folder)).unwrap();
            let image = image::RgbaImage::from_pixel(8, 8, Rgba([index, 51, 102, 0]));
            image.save(at(&format!("{folder}/{index}.png"))).unwrap();
        }
    }
    let source = |normal: &str| {
        Source::Folder(Folder {
            root: folder.path().into(),
            normal_dir: vec![normal.into()],
            unlabelled_dir: vec!["un".into()],
            ..Folder::default()
        })
    };
    let loading = Loading { channels: Some(Channels::All), ..Loading::default() };
    let channels = |set: &Set, count: usize| {
        let image = all(set)[..64 * count].to_vec();
        assert_eq!(set.images.shape()[1..], [count, 8, 8]);
        image.chunks_exact(64).map(|plane| (plane[63] * 255.0).round() as u32).collect::<Vec<_>>()
    };
    let loaded = load(&source("good"), &loading, |_, _| {}).unwrap();
    assert_eq!(loaded.conversion.channels, Channels::Stored(5));
    assert_eq!(channels(&loaded.task.train, 5)[1..], [51, 102, 153, 255]);
    assert_eq!(channels(&loaded.task.test, 5)[1..], [0, 204, 153, 255]);
    assert!(
        loaded.table().to_string().contains("8×8 of 5 channels, stretched from 8×8 5 channels of L8 (16)"),
        "{}",
        loaded.table()
    );

    // Transparency is a channel, and images of other channels are refused.
    let told = message(&source("clear"), &loading);
    assert!(told.contains("has 5 channels, but each image must have 4 (--channels)"), "{told}");
    let Source::Folder(clear) = source("clear") else { unreachable!() };
    let clear = Source::Folder(Folder { unlabelled_dir: Vec::new(), abnormal_dir: vec!["other".into()], ..clear });
    assert_eq!(channels(&load(&clear, &loading, |_, _| {}).unwrap().task.train, 4)[1..], [51, 102, 0]);

    // Without a meaning they are neither grey nor RGB.
    let told = message(&source("good"), &Loading::default());
    assert!(told.contains("has 5 channels, which are neither grey nor RGB: --channels all takes up to 8"), "{told}");
    assert_eq!("9".parse::<Channels>().ok(), None);

    let config = predicts_as_it_trained(folder.path(), &["--channels", "all"]);
    assert!(config.contains("channels = \"5\""), "{config}");
}

#[test]
fn identical_images_are_told() {
    let folder = TempDir::new().unwrap();
    let at = |path: &str| folder.path().join(path);
    for index in 0..8 {
        put(&at(&format!("good/{index}.png")), index / 2 * 2);
        put(&at(&format!("un/{index}.png")), if index < 3 { index } else { 100 + index });
        put(&at(&format!("bad/{index}.png")), if index < 1 { 103 } else { 200 + index });
        put(&at(&format!("black/{index}.png")), 0);
        put(&at(&format!("dark/{index}.png")), 0);
    }
    let own = Folder {
        root: folder.path().into(),
        normal_dir: vec!["good".into()],
        unlabelled_dir: vec!["un".into()],
        ..Folder::default()
    };
    let table = |own: &Folder| load(&Source::Folder(own.clone()), &small(), |_, _| {}).unwrap().table().to_string();
    let told = table(&own);
    assert!(told.contains("\nwarning: identical images: 4 within train, 2 of test also in train"), "{told}");
    let labelled = Folder {
        normal_test_dir: vec!["un".into()],
        abnormal_dir: vec!["bad".into()],
        unlabelled_dir: Vec::new(),
        ..own.clone()
    };
    let told = table(&labelled);
    assert!(
        told.contains("4 within train, 1 within test, 2 of test also in train, 1 anomalous in test but also normal"),
        "{told}"
    );
    let apart = Folder { normal_dir: vec!["bad".into()], ..own.clone() };
    assert!(
        !load(&Source::Folder(apart), &Loading { max_train: Some(5), ..small() }, |_, _| {})
            .unwrap()
            .table()
            .to_string()
            .contains("within")
    );
    let flat = Folder { normal_dir: vec!["black".into()], ..own };
    assert!(table(&flat).contains("training images are identical"));
    let refused = message(&Source::Folder(Folder { unlabelled_dir: vec!["dark".into()], ..flat }), &small());
    assert!(refused.starts_with("all 16 images are identical"), "{refused}");
}

#[test]
fn images_to_score_may_be_files_and_folders() {
    let (folder, _) = tree();
    let at = |path: &str| folder.path().join("bottle").join(path);
    let paths = [at("test/hole"), at("train/good/002.png")];
    let conversion =
        Conversion { size: Size::square(8), channels: Channels::Grey, resize: Resize::Stretch, levels: Levels::FULL };
    let loading = Loading::default();
    let (images, _) = read_images(&paths, conversion, &loading).unwrap();
    assert_eq!(firsts(&images.images), [120, 121, 2]);
    let names = names(&images);
    assert_eq!(names[..2], ["000.jpg", "001.jpg"]);
    let files: Vec<&PathBuf> = images.files.iter().flatten().map(|file| &file.path).collect();
    assert_eq!(files, [&at("test/hole/000.jpg"), &at("test/hole/001.jpg"), &paths[1]]);
    assert!(names[2].ends_with("bottle/train/good/002.png") && !names[2].starts_with('/'));
    let refused = |paths: &[PathBuf]| read_images(paths, conversion, &loading).unwrap_err().to_string();
    assert!(refused(&[at("test/none.png")]).contains("none.png cannot be read"));
    assert!(refused(&[]).contains("the prediction set is empty"));
}

#[test]
fn svhn_is_read_from_its_own_files() {
    let svhn = Svhn { root: corpus(""), normal: 1, anomaly: 0 };
    let loaded = load(&Source::Svhn(svhn.clone()), &Loading::default(), |_, _| {}).unwrap();
    let Task { dataset, category, train, test, .. } = &loaded.task;
    assert_eq!((dataset.as_str(), category.as_str()), ("svhn", "1-0"));
    assert_eq!(train.names, ["train_32x32.mat#0", "train_32x32.mat#3", "train_32x32.mat#4"].map(Name::from));
    assert_eq!(
        test.names,
        ["test_32x32.mat#1", "test_32x32.mat#4", "test_32x32.mat#2", "test_32x32.mat#3"].map(Name::from)
    );
    assert_eq!(test.labels().unwrap(), [false, false, true, true]);
    assert_eq!(&*test.truths[2].kind, "0");
    assert_eq!(&train.images.shape()[..], [3, 3, 32, 32]);
    let image = &all(train)[3072..6144];
    for (pixel, level) in [(0, 48), (32 + 2, 255), (2 * 32 + 1, 48), (1024 + 32 + 2, 48)] {
        assert_eq!((image[pixel] * 255.0).round() as u32, level, "pixel {pixel}");
    }
    let refused = |svhn: Svhn| message(&Source::Svhn(svhn), &Loading::default());
    assert!(refused(Svhn { anomaly: 1, ..svhn.clone() }).contains("they must be two different digits"));
    assert!(refused(Svhn { anomaly: 10, ..svhn.clone() }).contains("they must be two different digits"));
    assert!(refused(Svhn { root: "no/such/place".into(), ..svhn.clone() }).contains("there is no folder"));
    let empty = TempDir::new().unwrap();
    assert!(
        refused(Svhn { root: empty.path().into(), ..svhn.clone() }).contains("train_32x32.mat: check that it exists")
    );
    fs::copy(corpus("kinds.mat"), empty.path().join("train_32x32.mat")).unwrap();
    assert!(refused(Svhn { root: empty.path().into(), ..svhn.clone() }).contains("it has no array `X`, only d, i"));
}

#[test]
fn mat_files_are_read_strictly() {
    let arrays = mat::read(&bytes("kinds.mat"), 1 << 20).unwrap();
    assert_eq!(arrays["d"].values, Values::Numbers(vec![1.5, -2.0]));
    assert_eq!(arrays["d"].extents, [1, 2]);
    assert_eq!(arrays["i"].values, Values::Numbers(vec![-3.0]));
    assert_eq!(arrays.len(), 2, "text and complex numbers are passed over");

    let whole = bytes("train_32x32.mat");
    assert!(matches!(mat::read(&whole[..100], 1 << 20), Err(MatError::Header)));
    assert!(matches!(mat::read(&whole[..250], 1 << 20), Err(MatError::Cut)));
    assert!(matches!(mat::read(&whole, 1_000), Err(MatError::TooLarge { .. })));
    let changed = |at: usize, byte: u8| {
        let mut bytes = whole.clone();
        bytes[at] = byte;
        mat::read(&bytes, 1 << 20).map(|_| ())
    };
    assert!(matches!(changed(126, b'M'), Err(MatError::Header)));
    assert!(matches!(changed(200, whole[200] ^ 1), Err(MatError::Compression(_))));
    let mut hdf5 = whole.clone();
    hdf5[..10].copy_from_slice(b"MATLAB 7.3");
    assert!(matches!(mat::read(&hdf5, 1 << 20), Err(MatError::Hdf5)));
    let mut big = whole.clone();
    big[126..128].copy_from_slice(b"MI");
    assert!(matches!(mat::read(&big, 1 << 20), Err(MatError::BigEndian)));
}

#[test]
fn digits_and_sheets_are_drawn_in_the_same_way() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/digits");
    let digits = load(&Source::Digits(Digits { normal: 6, anomaly: 9 }), &Loading::default(), |_, _| {}).unwrap().task;
    let sheet = Sheet { normal: root.join("6.png"), anomaly: root.join("9.png"), tile: 28 };
    let sheet = load(&Source::Sheet(sheet), &Loading::default(), |_, _| {}).unwrap().task;
    assert_eq!((sheet.dataset.as_str(), print(&sheet)), ("sheet", print(&digits)));
    assert_eq!(
        (digits.train.len(), digits.test.rows(Some(false)).len(), digits.test.rows(Some(true)).len()),
        (360, 100, 100)
    );
    assert_eq!(digits.held_out.as_ref().map(Set::len), Some(40));
    assert_eq!((&digits.train.images.shape()[1..], digits.category.as_str()), (&[1, 28, 28][..], "6-9"));
    let large = Loading { size: Some(Size::square(32)), channels: Some(Channels::Rgb), ..Loading::default() };
    let task = load(&Source::Digits(Digits { normal: 0, anomaly: 1 }), &large, |_, _| {}).unwrap().task;
    assert_eq!(task.test.images.shape()[1..], [3, 32, 32]);
    let refused = |normal, anomaly| message(&Source::Digits(Digits { normal, anomaly }), &Loading::default());
    assert!(refused(4, 1).contains("--normal is 4: the packaged digits are 0, 1, 2, 3, 5, 6, 9"));
    assert!(refused(1, 1).contains("give two digits"));
    let cut = Sheet { normal: corpus("rgb.png"), anomaly: corpus("rgb.png"), tile: 5 };
    assert!(
        message(&Source::Sheet(cut), &Loading::default()).contains("32×16 pixels, which is not a whole number of 5×5")
    );
    let missing = Sheet { normal: "no.png".into(), anomaly: "no.png".into(), tile: 5 };
    assert!(message(&Source::Sheet(missing), &Loading::default()).contains("no.png cannot be read"));
}

#[test]
fn a_painted_task_is_bit_identical_when_it_is_read_from_files() {
    let folder = TempDir::new().unwrap();
    let texture = Texture { slant: Some(0.9), ..Texture::new(Material::Gravel, Defect::Slash) };
    let few = Loading { max_train: Some(6), max_normals: Some(4), max_anomalies: Some(5), ..Loading::default() };
    let painted = load(&Source::Texture(texture), &few, |_, _| {}).unwrap().task;
    assert_eq!((painted.dataset.as_str(), painted.category.as_str()), ("texture", "gravel-slash"));
    let written = category::write(folder.path(), &painted).unwrap();
    assert_eq!(written, folder.path().join("gravel-slash"));
    assert!(written.join("ground_truth/slash/004_mask.png").is_file());
    let mvtec = Category {
        layout: Layout::Mvtec,
        root: folder.path().into(),
        category: "gravel-slash".into(),
        defect: Some("slash".into()),
    };
    let loading = Loading { size: Some(Size::square(32)), channels: Some(Channels::Grey), ..Loading::default() };
    let read = load(&Source::Category(mvtec), &loading, |_, _| {}).unwrap().task;
    // The layout has no place for held-out images: they are drawn again.
    let normal = |task: &Task| {
        let all = all(&task.train.clone().join(task.held_out.clone().unwrap()));
        let mut rows: Vec<Vec<u32>> =
            all.chunks_exact(1024).map(|row| row.iter().map(|level| level.to_bits()).collect()).collect();
        rows.sort_unstable();
        rows
    };
    assert_eq!((normal(&painted).len(), normal(&read)), (6, normal(&painted)));
    assert_eq!(all(&read.test), all(&painted.test));
    (0..9).for_each(|row| assert_eq!(mask(&read.test, row), mask(&painted.test, row)));
    assert_eq!(read.test.truths, painted.test.truths);
    let again = category::write(folder.path(), &painted).unwrap_err().to_string();
    assert!(again.contains("already exists"), "{again}");
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(category::write(&file, &painted).unwrap_err().to_string().contains("cannot write"));
}

#[test]
fn a_source_can_be_written_as_toml() {
    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Data {
        source: Source,
        #[serde(default)]
        loading: Loading,
    }
    for text in [
        "kind = 'sheet'\nnormal = 'a.png'\nanomaly = 'b.png'\ntile = 28",
        "kind = 'digits'\nnormal = 6\nanomaly = 9",
        "kind = 'texture'\ntexture = 'brick'\ndefect = 'scratch'",
        "kind = 'texture'\ntexture = 'gravel'\ndefect = 'slash'\nslant = 0.9\nstrength = 0.5",
        "kind = 'mvtec'\nroot = 'MVTec'\ncategory = 'cable'\ndefect = 'bent_wire'",
        "kind = 'folder'\nnormal_dir = 'good'\nabnormal_dir = ['crack', 'hole']",
        "kind = 'svhn'\nroot = 'svhn'\nnormal = 2\nanomaly = 0",
        "kind = 'visa'\nroot = 'VisA'\ncategory = 'candle'",
        "kind = 'table'\nfile = 'images.csv'\nroot = 'images'",
    ] {
        let data: Data = toml::from_str(&format!("[source]\n{text}")).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(data.loading, Loading::default());
        let again: Data = toml::from_str(&toml::to_string(&data).unwrap()).unwrap();
        assert_eq!(again, data);
        assert!(toml::from_str::<Data>(&format!("[source]\n{text}\ncolour = 1")).is_err(), "{text}: an unknown key");
    }
    let text = "size = 64\nchannels = 'grey'\nresize = 'letterbox'\nsplit = 'inductive'\non_bad_image = 'skip'";
    let loading: Loading = toml::from_str(text).unwrap();
    assert_eq!(
        (loading.size, loading.resize, loading.split),
        (Some(Size::square(64)), Resize::Letterbox, Split::Inductive)
    );
    for (text, levels) in
        [("4095", Levels::Between(0, 4095)), ("'auto'", Levels::Auto), ("'9,400'", Levels::Between(9, 400))]
    {
        let loading: Loading = toml::from_str(&format!("levels = {text}")).unwrap();
        assert_eq!(loading.levels, Some(levels));
    }
    for (text, height, width) in [("64", 64, 64), ("'64'", 64, 64), ("'48, 64'", 48, 64)] {
        let loading: Loading = toml::from_str(&format!("size = {text}")).unwrap();
        assert_eq!(loading.size, Some(Size { height, width }));
        assert_eq!(toml::from_str::<Loading>(&toml::to_string(&loading).unwrap()).unwrap(), loading);
    }
    for wrong in ["0", "4097", "'8,0'", "'8,8,8'", "'x'", "-1"] {
        assert!(toml::from_str::<Loading>(&format!("size = {wrong}")).is_err(), "{wrong}");
    }
    assert!(toml::from_str::<Loading>("levels = '9,4'").unwrap_err().to_string().contains("LO below HI"));
    assert!(toml::from_str::<Loading>("sise = 64").is_err() && toml::from_str::<Loading>("seed = 3").is_err());
    assert!(toml::from_str::<Source>("kind = 'cifar'").unwrap_err().to_string().contains("mvtec"));
}

/// Images are not changed if they need no scaling.
#[test]
fn an_image_of_the_right_size_is_unchanged() {
    let grey = GrayImage::from_fn(16, 16, |x, y| image::Luma([(x * 16 + y) as u8]));
    for resize in [Resize::Stretch, Resize::Crop, Resize::Letterbox] {
        let conversion = Conversion { size: Size::square(16), channels: Channels::Grey, resize, levels: Levels::FULL };
        let levels = conversion.apply(&DynamicImage::from(grey.clone()));
        let expected: Vec<f32> = grey.iter().map(|&level| f32::from(level) / 255.0).collect();
        assert_eq!(levels, expected, "{resize:?}");
    }
}

#[test]
fn images_come_in_batches_in_their_order_whatever_cannot_be_read() {
    let folder = TempDir::new().unwrap();
    let at = |index: u8| folder.path().join(format!("{index:03}.png"));
    for index in 0..25 {
        put(&at(index), index);
    }
    for bad in [3, 10, 11, 12, 13, 14, 24] {
        fs::write(at(bad), "no image").unwrap();
    }
    // Named twice, once bad and once good; and a folder without images.
    let empty = folder.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let paths = [folder.path().to_owned(), at(3), empty.clone(), at(1)];
    let grey =
        Conversion { size: Size::square(8), channels: Channels::Grey, resize: Resize::Stretch, levels: Levels::FULL };
    let skip = Loading { on_bad_image: OnBadImage::Skip, ..Loading::default() };
    for size in [1, 5, 256] {
        let (mut files, mut seen) = (Vec::new(), Vec::new());
        Listing::of(&paths, &skip)
            .unwrap()
            .for_each_batch(size, grey, &skip, |batch| {
                assert!(batch.files.len() <= size);
                assert_eq!(batch.files.iter().flatten().count(), batch.images.shape()[0]);
                seen.extend(firsts(&batch.images));
                files.extend(batch.files.into_iter().map(|file| match file {
                    Ok(file) => (file.path, true),
                    Err(bad) => (bad.path, false),
                }));
                Ok::<(), DataError>(())
            })
            .unwrap();
        let is_good = |index: u8| ![3, 10, 11, 12, 13, 14, 24].contains(&index);
        let expected: Vec<(PathBuf, bool)> = (0..25)
            .map(|index| (at(index), is_good(index)))
            .chain([(at(3), false), (empty.clone(), false), (at(1), true)])
            .collect();
        assert_eq!(files, expected, "{size} at once");
        assert_eq!(seen, (0..25).filter(|&index| is_good(index)).chain([1]).map(u32::from).collect::<Vec<_>>());
    }
    // An error of the caller ends the reading.
    let mut batches = 0;
    let ended = Listing::of(&paths, &skip).unwrap().for_each_batch(2, RGB, &skip, |_| {
        batches += 1;
        Err(DataError::Empty { set: "test" })
    });
    assert!(ended.is_err() && batches == 1);
    let stops = Listing::of(&paths[..1], &Loading::default()).unwrap();
    let mut scored = 0;
    let ended = stops.for_each_batch(2, RGB, &Loading::default(), |batch| {
        scored += batch.files.iter().flatten().count();
        Ok::<(), DataError>(())
    });
    assert!(ended.unwrap_err().to_string().contains("003.png") && scored == 2);
}
