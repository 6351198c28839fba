//! Datasets as users have them: all formats, faulty files and folders, and all sources.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use image::{DynamicImage, GrayImage};
use proptest::prelude::*;
use stssad::data::decode::{self, MAX_PIXELS};
use stssad::data::folder::Folder;
use stssad::data::mat::{self, MatError, Values};
use stssad::data::mvtec::{self, Mvtec};
use stssad::data::paint::{Defect, Photograph, Texture};
use stssad::data::sheet::{Digits, Sheet};
use stssad::data::svhn::Svhn;
use stssad::data::*;
use tempfile::TempDir;

fn corpus(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/corpus").join(name)
}

fn bytes(name: &str) -> Vec<u8> {
    fs::read(corpus(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn reason(bytes: &[u8]) -> String {
    decode::decode(bytes, MAX_PIXELS).expect_err("no image to work with").to_string()
}

/// Levels at the middle of the four quarters, `[quarter][channel]`.
fn quarters(levels: &[f32], [width, height]: [usize; 2]) -> [[f32; 3]; 4] {
    [(1, 1), (3, 1), (1, 3), (3, 3)].map(|(x, y)| {
        let pixel = height * y / 4 * width + width * x / 4;
        [0, 1, 2].map(|channel| levels[channel * width * height + pixel])
    })
}

const RGB: Conversion = Conversion { side: 16, channels: Channels::Rgb, resize: Resize::Stretch };
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
    assert!(reason(b"a text, whatever its name").starts_with("is not a PNG, JPEG, BMP or TIFF file"));
    let float = reason(&bytes("float.tif"));
    assert!(float.contains("is of an unsupported kind") && float.contains("8 or 16 bit"), "{float}");
    let mut flipped = bytes("rgb.png");
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0x10;
    assert!(reason(&flipped).starts_with("is damaged"));
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
    fs::File::create(&path).unwrap().set_len((16 << 20) + 8_001).unwrap();
    assert!(decode::read(&path, 1_000).unwrap_err().to_string().contains("has 16785217 bytes"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// A changed file gives an image or an error, but no panic.
    #[test]
    fn a_changed_file_never_panics(
        name in prop::sample::select(vec!["rgb.jpg", "progressive.jpg", "cmyk.jpg", "palette.png", "grey16.png", "rgb.bmp",
            "palette.bmp", "rgb.tif", "cmyk.tif", "exif6.tif", "exif6.jpg"]),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        keep in 0.2f64..1.2,
    ) {
        let mut bytes = bytes(name);
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
    Loading { size: Some(8), channels: Some(Channels::Grey), ..Loading::default() }
}

/// The error with its causes, as the command line prints it.
fn message(source: &Source, loading: &Loading) -> String {
    format!("{:#}", anyhow::Error::from(load(source, loading, |_, _| {}).expect_err("no task")))
}

/// The level, out of 255, of each image of a set of one-level images.
fn levels(set: &Set) -> Vec<u32> {
    set.images.data().chunks_exact(64).map(|image| (image[0] * 255.0).round() as u32).collect()
}

/// A tree with four good images, two good test images and two defects of two images, the first masked.
fn tree() -> (TempDir, Mvtec) {
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
    let mvtec = Mvtec { root: folder.path().to_owned(), category: "bottle".to_owned(), defect: None };
    (folder, mvtec)
}

#[test]
fn an_mvtec_tree_is_read_with_its_masks() {
    let (_folder, mvtec) = tree();
    let (most, calls) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let loaded = load(&Source::Mvtec(mvtec.clone()), &small(), |done, of| {
        assert_eq!(of, 10);
        most.fetch_max(done, Ordering::Relaxed);
        calls.fetch_add(1, Ordering::Relaxed);
    })
    .unwrap();
    assert_eq!((most.into_inner(), calls.into_inner()), (10, 10));
    let Task { dataset, category, train, held_out, tune, test } = &loaded.task;
    assert_eq!((dataset.as_str(), category.as_str(), tune), ("mvtec", "bottle", &None));
    let mut normal = [levels(train), levels(held_out.as_ref().unwrap())].concat();
    assert_eq!((train.len(), normal.len()), (3, 4));
    normal.sort_unstable();
    assert_eq!(normal, [0, 1, 2, 3]);
    assert_eq!(levels(test), [110, 111, 100, 101, 120, 121]);
    assert_eq!(test.names[..3], ["test/crack/000.PNG", "test/crack/001.PNG", "test/good/000.png"]);
    assert_eq!(test.truths[0].kind, "crack");
    assert_eq!(test.labels().unwrap(), [true, true, false, false, true, true]);
    let half: Vec<bool> = (0..64).map(|pixel| pixel % 8 < 4).collect();
    assert_eq!(test.truths[0].mask.as_ref(), Some(&half));
    assert_eq!(test.truths[1].mask.as_ref(), Some(&half));
    assert_eq!(test.truths[2].mask, Some(vec![false; 64]));
    assert_eq!(test.truths[4].mask, None);
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

    let one = load(&Source::Mvtec(Mvtec { defect: Some("hole".into()), ..mvtec }), &small(), |_, _| {}).unwrap().task;
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
        let loading = Loading { size, ..Loading::default() };
        let loaded = load(&Source::Mvtec(Mvtec { defect: Some("hole".into()), ..mvtec.clone() }), &loading, |_, _| {});
        loaded.unwrap().conversion.side
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
    let source = |change: &dyn Fn(&mut Mvtec)| {
        let mut mvtec = mvtec.clone();
        change(&mut mvtec);
        message(&Source::Mvtec(mvtec), &small())
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
    fs::remove_file(at("ground_truth/crack/001.png")).unwrap();
    let source = Source::Mvtec(mvtec);
    let message = message(&source, &small());
    assert_eq!(message.lines().count(), 5, "{message}");
    for part in [
        "4 of 10 images cannot be used",
        "train/good/001.png is damaged",
        "test/good/000.png is empty",
        "000.PNG has the mask",
        "has 4×4 pixels, but its image has 8×8",
        "001.PNG has no mask",
        "001_mask.png or 001.png does not exist",
    ] {
        assert!(message.contains(part), "no `{part}` in {message}");
    }
    let loaded = load(&source, &Loading { on_bad_image: OnBadImage::Skip, ..small() }, |_, _| {}).unwrap();
    assert_eq!((levels(&loaded.task.train), levels(&loaded.task.test)), (vec![0, 2, 3], vec![101, 120, 121]));
    assert_eq!(loaded.skipped.len(), 4);
    let table = loaded.table().to_string();
    assert!(table.contains("left out 4 images that cannot be used") && table.contains("000.png is empty"), "{table}");
}

#[test]
fn sets_with_too_few_images_are_refused() {
    let (folder, mvtec) = tree();
    let source = Source::Mvtec(mvtec);
    for most in [2, 0] {
        let said = message(&source, &Loading { max_train: Some(most), ..small() });
        assert_eq!(said, format!("--max-train is {most}: training needs at least 3 images"));
    }
    let none = Loading { max_anomalies: Some(0), ..small() };
    let loaded = load(&source, &none, |_, _| {}).unwrap();
    assert_eq!(loaded.task.test.labels(), Some(vec![false; 2]));
    assert!(loaded.table().to_string().contains("figures that need both are n/a"));
    assert!(message(&source, &Loading { size: Some(0), ..small() }).contains("--size is 0: it must be from 1 to 4096"));
    let much = message(&source, &Loading { max_bytes: 2_559, ..small() });
    assert!(much.contains("10 images of 1×8×8 need 2560 bytes") && much.contains("--max-bytes"), "{much}");
    let all = load(&source, &Loading { max_bytes: 2_560, ..small() }, |_, _| {}).unwrap();
    let few = Loading { max_normals: Some(1), max_anomalies: Some(3), max_train: Some(3), ..small() };
    let task = load(&source, &few, |_, _| {}).unwrap().task;
    assert_eq!((task.train.len(), task.test.rows(Some(false)).len(), task.test.rows(Some(true)).len()), (3, 1, 3));
    assert_ne!(task.fingerprint(), all.task.fingerprint());

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
    assert_eq!((task.train.len(), held_out.len(), task.test.len(), &task.tune), (6, 2, 8, &None));
    let mut seen = [levels(&task.train), levels(held_out), levels(&task.test)].concat();
    seen.sort_unstable();
    assert_eq!(seen, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 50, 51, 52, 60, 61, 62]);
    assert_eq!(task.test.names[2], "broken/0.png");
    assert!(task.train.names[0].starts_with("fine/day 0/"));
    assert_eq!(task.test.truths[7].kind, "bent");
    assert_eq!(task, read(&own));

    let only_unlabelled = Folder { abnormal_dir: Vec::new(), unlabelled_dir: vec!["belt".into()], ..own.clone() };
    let task = read(&only_unlabelled);
    assert_eq!((task.train.len(), levels(&task.test), task.test.labels()), (8, vec![70, 71, 72], None));
    let both = read(&Folder { unlabelled_dir: vec!["belt".into()], ..own.clone() });
    assert_eq!((levels(both.tune.as_ref().unwrap()), both.test.len()), (vec![70, 71, 72], 8));

    let masked = Folder { abnormal_dir: vec!["broken".into()], mask_dir: vec!["masks".into()], ..own.clone() };
    let task = read(&masked);
    assert_eq!(task.test.truths[2].mask, Some(vec![true; 64]));
    assert_eq!(task.test.truths[0].mask, Some(vec![false; 64]));

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
    assert_eq!(read(&absolute).test.names[0], "belt/0.png");
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
        [Source::Folder(own.clone()), Source::Mvtec(tree.clone())]
            .map(|source| load(&source, &small(), |_, _| {}).unwrap().task)
    };
    let before = read();
    for run in ["own", "own/results/v0", "belt/run", "bottle/test", "bottle/test/good/run"] {
        let run = folder.path().join(run);
        let images = ["curves.png", "pictures.png", "histogram.png", "roc.png", "images/good/000.png"];
        images.iter().for_each(|name| put(&run.join(name), 200));
        fs::write(run.join("stssad.json"), "{}").unwrap();
    }
    assert_eq!(read(), before);
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
    let images = |path: PathBuf| read_images(&[path], RGB, &Loading::default(), |_, _| {});
    // A link to a folder that it lies in is not followed again.
    let set = images(folder.path().join("good")).unwrap().set;
    assert_eq!(set.len(), 6);
    assert!(set.names.iter().all(|name| !name.contains(char::is_control)), "{:?}", set.names);
    assert!(set.names.contains(&"new\\nline.png".to_owned()));
    fs::write(folder.path().join("good/bad\nname.png"), "").unwrap();
    let message = images(folder.path().join("good")).unwrap_err().to_string();
    assert_eq!(message.lines().count(), 2, "{message}");
}

#[test]
fn images_to_score_may_be_files_and_folders() {
    let (folder, _) = tree();
    let at = |path: &str| folder.path().join("bottle").join(path);
    let paths = [at("test/hole"), at("train/good/002.png")];
    let conversion = Conversion { side: 8, channels: Channels::Grey, resize: Resize::Stretch };
    let loading = Loading::default();
    let images = read_images(&paths, conversion, &loading, |_, _| {}).unwrap();
    assert_eq!(levels(&images.set), [120, 121, 2]);
    assert_eq!(images.set.names[..2], ["000.jpg", "001.jpg"]);
    assert_eq!(images.paths, [at("test/hole/000.jpg"), at("test/hole/001.jpg"), paths[1].clone()]);
    assert!(images.set.names[2].ends_with("bottle/train/good/002.png") && !images.set.names[2].starts_with('/'));
    assert!(images.set.truths.iter().all(|truth| *truth == Truth::default()));
    let refused = |paths: &[PathBuf]| read_images(paths, conversion, &loading, |_, _| {}).unwrap_err().to_string();
    assert!(refused(&[at("test/none.png")]).contains("none.png cannot be read"));
    assert!(refused(&[]).contains("the prediction set is empty"));
}

#[test]
fn svhn_is_read_from_its_own_files() {
    let svhn = Svhn { root: corpus(""), normal: 1, anomaly: 0 };
    let loaded = load(&Source::Svhn(svhn.clone()), &Loading::default(), |_, _| {}).unwrap();
    let Task { dataset, category, train, test, .. } = &loaded.task;
    assert_eq!((dataset.as_str(), category.as_str()), ("svhn", "1-0"));
    assert_eq!(train.names, ["train_32x32.mat#0", "train_32x32.mat#3", "train_32x32.mat#4"]);
    assert_eq!(test.names, ["test_32x32.mat#1", "test_32x32.mat#4", "test_32x32.mat#2", "test_32x32.mat#3"]);
    assert_eq!(test.labels().unwrap(), [false, false, true, true]);
    assert_eq!(test.truths[2].kind, "0");
    assert_eq!(&train.images.shape()[..], [3, 3, 32, 32]);
    let image = &train.images.data()[3072..6144];
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
    let small = Loading { max_bytes: 100, ..Loading::default() };
    assert!(message(&Source::Svhn(svhn), &small).contains("more than the limit of 100: raise --max-bytes"));
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
    assert_eq!(sheet, Task { dataset: "sheet".into(), ..digits.clone() });
    assert_eq!(
        (digits.train.len(), digits.test.rows(Some(false)).len(), digits.test.rows(Some(true)).len()),
        (360, 100, 100)
    );
    assert_eq!(digits.held_out.as_ref().map(Set::len), Some(40));
    assert_eq!((&digits.train.images.shape()[1..], digits.category.as_str()), (&[1, 28, 28][..], "6-9"));
    let large = Loading { size: Some(32), channels: Some(Channels::Rgb), ..Loading::default() };
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
    let texture = Texture { texture: Photograph::Gravel, defect: Defect::Slash, slant: Some(0.9) };
    let few = Loading { max_train: Some(6), max_normals: Some(4), max_anomalies: Some(5), ..Loading::default() };
    let painted = load(&Source::Texture(texture), &few, |_, _| {}).unwrap().task;
    assert_eq!((painted.dataset.as_str(), painted.category.as_str()), ("texture", "gravel-slash"));
    let written = mvtec::write(folder.path(), &painted).unwrap();
    assert_eq!(written, folder.path().join("gravel-slash"));
    assert!(written.join("ground_truth/slash/004_mask.png").is_file());
    let mvtec = Mvtec { root: folder.path().into(), category: "gravel-slash".into(), defect: Some("slash".into()) };
    let loading = Loading { size: Some(32), channels: Some(Channels::Grey), ..Loading::default() };
    let read = load(&Source::Mvtec(mvtec), &loading, |_, _| {}).unwrap().task;
    // The layout has no place for held-out images: they are drawn again.
    let normal = |task: &Task| {
        let all = task.train.clone().join(task.held_out.clone().unwrap()).images;
        let mut rows: Vec<Vec<u32>> =
            all.data().chunks_exact(1024).map(|row| row.iter().map(|level| level.to_bits()).collect()).collect();
        rows.sort_unstable();
        rows
    };
    assert_eq!((normal(&painted).len(), normal(&read)), (6, normal(&painted)));
    assert_eq!(read.test.images, painted.test.images);
    assert_eq!(read.test.truths, painted.test.truths);
    let again = mvtec::write(folder.path(), &painted).unwrap_err().to_string();
    assert!(again.contains("already exists"), "{again}");
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(mvtec::write(&file, &painted).unwrap_err().to_string().contains("cannot write"));
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
        "kind = 'texture'\ntexture = 'gravel'\ndefect = 'slash'\nslant = 0.9",
        "kind = 'mvtec'\nroot = 'MVTec'\ncategory = 'cable'\ndefect = 'bent_wire'",
        "kind = 'folder'\nnormal_dir = 'good'\nabnormal_dir = ['crack', 'hole']",
        "kind = 'svhn'\nroot = 'svhn'\nnormal = 2\nanomaly = 0",
    ] {
        let data: Data = toml::from_str(&format!("[source]\n{text}")).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(data.loading, Loading::default());
        let again: Data = toml::from_str(&toml::to_string(&data).unwrap()).unwrap();
        assert_eq!(again, data);
        assert!(toml::from_str::<Data>(&format!("[source]\n{text}\ncolour = 1")).is_err(), "{text}: an unknown key");
    }
    let text = "size = 64\nchannels = 'grey'\nresize = 'letterbox'\nsplit = 'inductive'\non_bad_image = 'skip'";
    let loading: Loading = toml::from_str(text).unwrap();
    assert_eq!((loading.size, loading.resize, loading.split), (Some(64), Resize::Letterbox, Split::Inductive));
    assert!(toml::from_str::<Loading>("sise = 64").is_err() && toml::from_str::<Loading>("seed = 3").is_err());
    assert!(toml::from_str::<Source>("kind = 'cifar'").unwrap_err().to_string().contains("mvtec"));
}

/// Images are not changed if they need no scaling.
#[test]
fn an_image_of_the_right_size_is_unchanged() {
    let grey = GrayImage::from_fn(16, 16, |x, y| image::Luma([(x * 16 + y) as u8]));
    for resize in [Resize::Stretch, Resize::Crop, Resize::Letterbox] {
        let conversion = Conversion { side: 16, channels: Channels::Grey, resize };
        let levels = conversion.apply(&DynamicImage::from(grey.clone()));
        let expected: Vec<f32> = grey.iter().map(|&level| f32::from(level) / 255.0).collect();
        assert_eq!(levels, expected, "{resize:?}");
    }
}
