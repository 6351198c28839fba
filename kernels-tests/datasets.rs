//! Public datasets by their layouts, tables of images, and what is listed, drawn and decoded of them.

use std::fs;
use std::path::Path;

use image::{GrayImage, Luma, RgbImage};
use stssad::data::category::{Category, Layout};
use stssad::data::folder::Folder;
use stssad::data::records::Table;
use stssad::data::*;
use tempfile::TempDir;

/// An image of one level.
fn put(path: &Path, level: u8) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    GrayImage::from_pixel(8, 8, Luma([level])).save(path).unwrap();
}

/// A mask whose defect is the columns below `columns`.
fn mask(path: &Path, columns: u32) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    GrayImage::from_fn(8, 8, |x, _| Luma([if x < columns { 255 } else { 0 }])).save(path).unwrap();
}

fn small() -> Loading {
    Loading { size: Some(Size::square(8)), channels: Some(Channels::Grey), ..Loading::default() }
}

fn message(source: &Source) -> String {
    format!("{:#}", anyhow::Error::from(load(source, &small(), |_, _| {}).expect_err("no task")))
}

/// The level, out of 255, of each image of sets of one-level images, sorted.
fn levels<'a>(sets: impl IntoIterator<Item = &'a Set>) -> Vec<u32> {
    let mut levels: Vec<u32> = sets
        .into_iter()
        .flat_map(|set| set.images.all().unwrap().into_data().into_iter().step_by(64).collect::<Vec<_>>())
        .map(|level| (level * 255.0).round() as u32)
        .collect();
    levels.sort_unstable();
    levels
}

/// A test image: its level, whether it is an anomaly, its kind, and the columns of its mask.
type Told = (u32, bool, String, Option<usize>);

/// The levels of the normal training images, and for each test image its level, whether it is an anomaly, its kind, and the share of
/// its mask.
fn told(task: &Task) -> (Vec<u32>, Vec<Told>) {
    let train = levels([Some(&task.train), task.held_out.as_ref()].into_iter().flatten());
    let mut test: Vec<_> = (0..task.test.len())
        .map(|row| {
            let level = levels([&task.test.select(&[row])])[0];
            let covered = task.test.images.mask(row).unwrap();
            let truth = &task.test.truths[row];
            let columns = covered.map(|mask| mask.iter().filter(|&&covered| covered).count() / 8);
            (level, truth.anomalous.unwrap(), truth.kind.to_string(), columns)
        })
        .collect();
    test.sort();
    (train, test)
}

/// A dataset with the normal images 1 to 4 (5 and 6 for validation), and tested with 10, 11 and the anomaly 20 under a mask of two
/// columns, and its expected kind.
fn dataset(layout: Layout, root: &Path) -> (&'static str, &'static str, Vec<u32>) {
    let at = |path: &str| root.join(path);
    let many = |folder: &str, levels: &[u8], ending: &str| {
        levels.iter().for_each(|&level| put(&at(&format!("{folder}/{level:03}.{ending}")), level));
    };
    let (train, good) = ([1, 2, 3, 4], [10, 11]);
    match layout {
        Layout::Mvtec | Layout::Mpdd => {
            many("c/train/good", &train, "png");
            many("c/test/good", &good, "png");
            many("c/test/crack", &[20], "png");
            mask(&at("c/ground_truth/crack/020_mask.png"), 2);
            ("c", "crack", train.map(u32::from).into())
        }
        Layout::MvtecAd2 => {
            many("c/train/good", &train, "png");
            many("c/validation/good", &[5, 6], "png");
            many("c/test_public/good", &good, "png");
            many("c/test_public/bad", &[20], "png");
            many("c/test_private", &[77], "png");
            mask(&at("c/test_public/ground_truth/bad/020_mask.png"), 2);
            ("c", "bad", vec![1, 2, 3, 4, 5, 6])
        }
        Layout::MvtecLoco => {
            many("c/train/good", &train, "png");
            many("c/validation/good", &[5, 6], "png");
            many("c/test/good", &good, "png");
            many("c/test/logical_anomalies", &[20], "png");
            mask(&at("c/ground_truth/logical_anomalies/020/000.png"), 1);
            mask(&at("c/ground_truth/logical_anomalies/020/001.png"), 2);
            ("c", "logical_anomalies", vec![1, 2, 3, 4, 5, 6])
        }
        Layout::Btad => {
            many("01/train/ok", &train, "bmp");
            many("01/test/ok", &good, "bmp");
            many("01/test/ko", &[20], "bmp");
            mask(&at("01/ground_truth/ko/020.png"), 2);
            ("01", "ko", train.map(u32::from).into())
        }
        Layout::Visa => {
            many("candle/Data/Images/Normal", &[1, 2, 3, 4, 10, 11], "png");
            many("candle/Data/Images/Anomaly", &[20], "png");
            mask(&at("candle/Data/Masks/Anomaly/020.png"), 2);
            let mut table = "object,split,label,image,mask\nother,train,normal,none.png,\n".to_owned();
            for (split, levels) in [("train", &train[..]), ("test", &good[..])] {
                for level in levels {
                    table += &format!("candle,{split},normal,candle/Data/Images/Normal/{level:03}.png,\n");
                }
            }
            table += "candle,test,anomaly,candle/Data/Images/Anomaly/020.png,candle/Data/Masks/Anomaly/020.png\n";
            fs::create_dir_all(at("split_csv")).unwrap();
            fs::write(at("split_csv/1cls.csv"), table).unwrap();
            ("candle", "anomaly", train.map(u32::from).into())
        }
        Layout::Kolektor => {
            for (index, level) in [1, 2, 3, 4, 10, 20].into_iter().enumerate() {
                let part = format!("k/kos{:02}/Part{}", index / 2, index % 2);
                put(&at(&format!("{part}.png")), level);
                mask(&at(&format!("{part}_label.bmp")), if level == 20 { 2 } else { 0 });
            }
            ("k", "defect", Vec::new())
        }
        Layout::Kolektor2 => {
            for (folder, level) in [("train", 1), ("train", 2), ("train", 3), ("train", 4), ("train", 30), ("test", 10)]
                .into_iter()
                .chain([("test", 11), ("test", 20)])
            {
                put(&at(&format!("k/{folder}/{level}.png")), level);
                mask(&at(&format!("k/{folder}/{level}_GT.png")), if level == 20 || level == 30 { 2 } else { 0 });
            }
            ("k", "defect", train.map(u32::from).into())
        }
        Layout::Dagm => {
            for (folder, level) in [("Train", 1), ("Train", 2), ("Train", 3), ("Train", 4), ("Train", 30), ("Test", 10)]
                .into_iter()
                .chain([("Test", 11), ("Test", 20)])
            {
                put(&at(&format!("Class1/{folder}/{level:04}.PNG")), level);
                if level == 20 || level == 30 {
                    mask(&at(&format!("Class1/{folder}/Label/{level:04}_label.PNG")), 2);
                }
                fs::create_dir_all(at(&format!("Class1/{folder}/Label"))).unwrap();
                fs::write(at(&format!("Class1/{folder}/Label/Labels.txt")), "1\n").unwrap();
            }
            ("Class1", "defect", train.map(u32::from).into())
        }
    }
}

#[test]
fn public_datasets_are_read_by_their_layouts() {
    for layout in Layout::ALL {
        let name = layout.name();
        let folder = TempDir::new().unwrap();
        let (category, kind, train) = dataset(layout, folder.path());
        let source = Category { layout, root: folder.path().into(), category: category.into(), defect: None };
        let loaded = load(&Source::Category(source.clone()), &small(), |_, _| {});
        let loaded = loaded.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(loaded.task.dataset, name);
        let (found, test) = told(&loaded.task);
        let anomaly = (20, true, kind.to_owned(), Some(2));
        if layout == Layout::Kolektor {
            // Train and test are not told apart: a fifth of the normal images is kept for the test.
            assert_eq!((found.len(), test.len(), test.last()), (4, 2, Some(&anomaly)));
        } else {
            let good = |level| (level, false, "good".to_owned(), Some(0));
            assert_eq!((found, test), (train, vec![good(10), good(11), anomaly]), "{name}");
        }
        if matches!(layout, Layout::Kolektor2 | Layout::Dagm) {
            let told = loaded.files.left_out.to_string();
            assert!(told.contains("1 as training images with a defect"), "{name}: {told}");
        }
        // Each image of these has a mask, and without one nobody knows what it is.
        if matches!(layout, Layout::Kolektor | Layout::Kolektor2) {
            let bare = folder.path().join(if layout == Layout::Kolektor { "k/kos00/x.png" } else { "k/train/x.png" });
            put(&bare, 9);
            let said = message(&Source::Category(source.clone()));
            assert!(said.contains("x.png has no mask"), "{said}");
        }
        // What is wrong is shown with what is expected.
        let missing = Source::Category(Category { category: "none".into(), ..source.clone() });
        let said = message(&missing);
        assert!(said.contains(&format!("does not have the layout of `{name}`")) && said.contains("<root>/"), "{said}");
    }
    let folder = TempDir::new().unwrap();
    let (category, ..) = dataset(Layout::Dagm, folder.path());
    let defect = Category {
        layout: Layout::Dagm,
        root: folder.path().into(),
        category: category.into(),
        defect: Some("x".into()),
    };
    assert!(message(&Source::Category(defect)).contains("--defect: the images of dagm have one kind of defect"));
}

#[test]
fn a_table_says_where_images_belong() {
    let folder = TempDir::new().unwrap();
    let at = |path: &str| folder.path().join(path);
    for level in 1..=6 {
        put(&at(&format!("in/{level}.png")), level);
    }
    for level in [10, 11, 20, 21, 30, 31] {
        put(&at(&format!("out/{level}.png")), level);
    }
    mask(&at("m/20.png"), 3);
    let rows = "path,split,label,mask\nin/1.png,train,normal,\nin/2.png,train,,\nin/3.png,train,0.0,\nin/4.png,TRAIN,good,\n\
                out/10.png,test,normal,\nout/20.png,test,scratch,m/20.png\nout/21.png,test,1,\nout/30.png,unlabelled,,\n\
                out/31.png,val,,\n";
    let file = at("images.csv");
    let table = Source::Table(Table { file: file.clone(), root: None, name: None });
    let read = |text: &str| {
        fs::write(&file, text).unwrap();
        load(&table, &small(), |_, _| {})
    };
    // As Excel writes it, and with other columns, which may share a name.
    let others = rows.replace('\n', ",,\n").replacen(",,", ",note,note", 1);
    for text in [rows.to_owned(), format!("\u{feff}{}", rows.replace('\n', "\r\n")), others] {
        let task = read(&text).unwrap().task;
        assert_eq!((task.dataset.as_str(), task.category.as_str()), ("table", "images"));
        let (train, test) = told(&task);
        assert_eq!(train, [1, 2, 3, 4]);
        let expected = [
            (10, false, "good".to_owned(), Some(0)),
            (20, true, "scratch".to_owned(), Some(3)),
            (21, true, "anomaly".to_owned(), None),
        ];
        assert_eq!(test, expected);
        assert_eq!(levels([task.tune.as_ref().unwrap()]), [30, 31]);
    }
    let said = |text: &str| format!("{:#}", anyhow::Error::from(read(text).unwrap_err()));
    for (text, expected) in [
        ("file,split\na,train\n", "line 1: there is no column `path`; there are file, split"),
        ("path,split\nin/1.png,tran\n", "line 2: split is `tran`: it must be train, test or unlabelled"),
        ("path,split\n,train\n", "line 2: the column `path` is empty"),
        ("path,split,label\nin/1.png,train,crack\n", "line 2: an anomaly has the split train"),
        (
            "path,split,label\nin/1.png,test,False\n",
            "line 2: the label `False` may mean either: write normal, anomaly or",
        ),
        ("path,split,label\nin/1.png,test,nan\n", "or nothing if it is unknown"),
        ("path,split\nin/1.png,train\n", "has no image of the split unlabelled or test"),
        ("path,split\nin/1.png\n", "line 2: this row has 1 fields and the header 2: put fields"),
        (
            "path;split\nin/1.png;train\n",
            "line 1: there is no column `path` in `path;split`: separate columns by commas",
        ),
        ("path,split,label,label\nin/1.png,train,good,1\n", "line 1: two columns are called `label`: rename or remove"),
        ("", "the file is empty"),
        ("path,split\nno.png,train\nin/1.png,train\nin/2.png,train\nout/30.png,test\n", "no.png cannot be read"),
    ] {
        let said = said(text);
        assert!(said.contains(expected), "{text:?}: {said}");
    }
    // Normal images may share a mask, which a warning names if it marks a defect; anomalies may not.
    mask(&at("m/none.png"), 0);
    let shared = rows.replace("normal,\n", "normal,m/none.png\n").replace("good,\n", "good,m/none.png\n");
    assert!(!read(&shared).unwrap().table().to_string().contains("warning: 1 normal"));
    let marked = rows.replace("10.png,test,normal,", "10.png,test,normal,m/20.png");
    let told = read(&marked).unwrap().table().to_string();
    assert!(told.contains("warning: 1 normal test images have a mask with a defect, such as out/10.png"), "{told}");
    assert!(said(&rows.replace("21.png,test,1,", "21.png,test,1,m/20.png")).contains("give each anomaly its own mask"));
    // For a test alone all images of the split `test`, or all.
    fs::write(&file, rows).unwrap();
    assert_eq!(levels([&load_test(&table, &small(), |_, _| {}).unwrap().task.test]), [10, 20, 21]);
    fs::write(&file, "path,split\nin/1.png,train\nin/2.png,train\n").unwrap();
    assert_eq!(levels([&load_test(&table, &small(), |_, _| {}).unwrap().task.test]), [1, 2]);
}

/// `test` sets nothing aside: every labelled image is scored.
#[test]
fn all_labelled_images_are_tested() {
    let folder = TempDir::new().unwrap();
    let at = |path: &str| folder.path().join(path);
    (1..=20).for_each(|level| put(&at(&format!("good/{level}.png")), level));
    (31..=35).for_each(|level| put(&at(&format!("bad/{level}.png")), level));
    let own = Folder {
        root: folder.path().into(),
        normal_dir: vec!["good".into()],
        abnormal_dir: vec!["bad".into()],
        ..Folder::default()
    };
    let all: Vec<u32> = (1..=20).chain(31..=35).collect();
    for own in [
        own.clone(),
        Folder { normal_dir: Vec::new(), normal_test_dir: vec!["good".into()], ..own.clone() },
        Folder { normal_split_ratio: 0.5, ..own.clone() },
    ] {
        let loading = Loading { split: Split::Inductive, max_train: Some(5), ..small() };
        let loaded = load_test(&Source::Folder(own), &loading, |_, _| {}).unwrap();
        assert_eq!(levels([&loaded.task.test]), all);
        assert!(loaded.task.train.is_empty() && loaded.task.tune.is_none() && loaded.task.held_out.is_none());
        let table = loaded.table().to_string();
        assert!(table.contains("test ") && !table.contains("train"), "{table}");
    }
    let only = Folder { normal_dir: Vec::new(), abnormal_dir: Vec::new(), ..own.clone() };
    let unlabelled = Folder { unlabelled_dir: vec!["good".into()], ..only.clone() };
    let loaded = load_test(&Source::Folder(unlabelled), &small(), |_, _| {}).unwrap();
    assert_eq!((loaded.task.test.len(), loaded.task.test.labels()), (20, None));
    let none = load_test(&Source::Folder(only), &small(), |_, _| {}).unwrap_err().to_string();
    assert!(none.contains("there is no folder of images"), "{none}");
    // A category needs no training images.
    let (category, ..) = dataset(Layout::Mvtec, &at("tree"));
    fs::remove_dir_all(at("tree/c/train")).unwrap();
    let source = Category { layout: Layout::Mvtec, root: at("tree"), category: category.into(), defect: None };
    assert_eq!(load_test(&Source::Category(source), &small(), |_, _| {}).unwrap().task.test.len(), 3);
}

/// Folders of 20 normal and 12 unlabelled images.
fn folders() -> (TempDir, Source) {
    let folder = TempDir::new().unwrap();
    let at = |path: String| folder.path().join(path);
    (0..20).for_each(|level| put(&at(format!("good/{level:02}.png")), level));
    (0..12).for_each(|level| put(&at(format!("un/{level:02}.png")), 100 + level));
    let root = folder.path().into();
    let own = Folder { root, normal_dir: vec!["good".into()], unlabelled_dir: vec!["un".into()], ..Folder::default() };
    (folder, Source::Folder(own))
}

#[test]
fn only_what_is_drawn_is_decoded() {
    let (folder, source) = folders();
    let few = Loading { max_train: Some(5), ..small() };
    let calls = std::sync::atomic::AtomicUsize::new(0);
    let drawn = load(&source, &few, |_, of| {
        assert_eq!(of, 17);
        calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    })
    .unwrap()
    .task;
    assert_eq!(calls.into_inner(), 17);
    let trained = levels([&drawn.train, drawn.held_out.as_ref().unwrap()]);
    assert_eq!(trained.len(), 5);
    // Junk that is not drawn does no harm, and junk that is drawn does.
    for level in (0..20).filter(|level| !trained.contains(level)) {
        fs::write(folder.path().join(format!("good/{level:02}.png")), "no image").unwrap();
    }
    assert_eq!(load(&source, &few, |_, _| {}).unwrap().task.fingerprint().unwrap(), drawn.fingerprint().unwrap());
    assert!(message(&source).starts_with("15 of 32 images cannot be used"));
}

/// Without a cache each image is decoded for each use, and is the same.
#[test]
fn the_cache_changes_nothing() {
    let (folder, source) = folders();
    mask(&folder.path().join("m/00.png"), 2);
    let cached = |cache_bytes: u64| load(&source, &Loading { cache_bytes, ..small() }, |_, _| {}).unwrap().task;
    let (without, with) = (cached(0), cached(8 << 30));
    // Room for a few of them.
    let some = cached(5 * (1 + 2 * 64 + 8));
    for task in [&without, &some] {
        assert_eq!(task.fingerprint().unwrap(), with.fingerprint().unwrap());
        assert_eq!(levels([&task.test]), levels([&with.test]));
    }
    fs::remove_dir_all(folder.path().join("un")).unwrap();
    assert_eq!(levels([&with.test]).len(), 12);
    let vanished = without.test.images.all().unwrap_err().to_string();
    assert!(vanished.contains("un/") && vanished.contains("although it could be read before"), "{vanished}");
}

#[test]
fn images_need_not_be_square() {
    let folder = TempDir::new().unwrap();
    let at = |path: String| folder.path().join(path);
    for (set, count) in [("good", 6), ("un", 4)] {
        for index in 0..count {
            // A bright left half; wide, except for one.
            let (width, height) = if set == "un" && index == 3 { (10, 40) } else { (40, 20) };
            let image = RgbImage::from_fn(width, height, |x, _| {
                image::Rgb([if x < width / 2 { 200 + index as u8 } else { 10 }; 3])
            });
            fs::create_dir_all(at(set.into())).unwrap();
            image.save(at(format!("{set}/{index}.png"))).unwrap();
        }
    }
    let own = Folder {
        root: folder.path().into(),
        normal_dir: vec!["good".into()],
        unlabelled_dir: vec!["un".into()],
        ..Folder::default()
    };
    let read = |size: &str, resize: Resize| {
        let loading = Loading { size: Some(size.parse().unwrap()), resize, ..Loading::default() };
        load(&Source::Folder(own.clone()), &loading, |_, _| {}).unwrap()
    };
    let wide = read("10,20", Resize::Stretch);
    assert_eq!(wide.task.train.images.shape()[1..], [3, 10, 20]);
    let first = wide.task.test.images.read(&[0]).unwrap();
    let row = &first.data()[20 * 5..20 * 6];
    assert!(row[..9].iter().all(|&level| level > 0.7) && row[11..].iter().all(|&level| level < 0.1), "{row:?}");
    // A letterbox of the tall image is black on both sides, and a crop shows its middle.
    let boxed = read("10,20", Resize::Letterbox).task.test.images.read(&[3]).unwrap();
    let row = &boxed.data()[20 * 5..20 * 6];
    assert!(row.iter().filter(|&&level| level > 0.5).count() <= 2 && row[..8].iter().all(|&level| level == 0.0));
    let cropped = read("10,20", Resize::Crop).task.test.images.read(&[3]).unwrap();
    assert_eq!(cropped.data().iter().filter(|&&level| level > 0.5).count(), 3 * 100);

    let told = wide.table().to_string();
    assert!(told.contains("every image becomes 20×10 RGB") && told.contains("40×20 Rgb8 (9)"), "{told}");
    assert!(told.contains("warning: the images differ in proportions"), "{told}");
    assert!(!read("10,20", Resize::Letterbox).table().to_string().contains("proportions"));
    fs::remove_file(at("un/3.png".into())).unwrap();
    assert!(!read("10,20", Resize::Stretch).table().to_string().contains("proportions"));
    let told = read("20", Resize::Stretch).table().to_string();
    assert!(told.contains("stretching changes the images' proportions by a factor of 2.0"), "{told}");
}

#[test]
fn a_stored_source_is_found_from_another_folder() {
    let (folder, source) = folders();
    let Source::Folder(own) = &source else { unreachable!() };
    let relative = Source::Folder(Folder { root: ".".into(), ..own.clone() });
    let found = relative.within(folder.path());
    assert_eq!(load(&found, &small(), |_, _| {}).unwrap().task.train.len(), 15);
    // A folder that is not there any more is looked for from where one is.
    assert_eq!(Source::Folder(Folder { root: "x".into(), ..own.clone() }).within(Path::new("/no/where")), {
        Source::Folder(Folder { root: "x".into(), ..own.clone() })
    });
    let moved = source.rooted(Path::new("elsewhere")).unwrap();
    assert!(matches!(moved, Source::Folder(Folder { root, .. }) if *root == *"elsewhere"));
}
