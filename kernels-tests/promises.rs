//! Promises of the command line: files, exit codes, consistent figures, and runs that resume bit-identically.

mod process;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use process::{Running, Said, command, finish, folder, json, steps_of, stssad, text};
use serde_json::Value;
use stssad::data::paint::{Defect, Material, Texture};
use stssad::data::{Loading, Size, Source, Task, category, load};
use stssad::engine::philox::Stream;
use stssad::run::checkpoint::Checkpoint;
use stssad::ssad::{augment, loss};

/// A run of a few seconds, with one kind of augmentation.
const TINY: [&str; 16] = [
    "--augmentation",
    "cutdiff",
    "--size",
    "16",
    "--max-train",
    "24",
    "--max-normals",
    "8",
    "--max-anomalies",
    "8",
    "--batch",
    "8",
    "--batch-val",
    "8",
    "--warm-up",
    "2",
];
const GRAVEL: [&str; 6] = ["--data", "texture", "--texture", "gravel", "--defect", "blob"];

/// A column of a CSV file, keyed by the column `path`.
fn column(csv_text: &str, name: &str) -> BTreeMap<String, String> {
    let mut reader = csv::Reader::from_reader(csv_text.as_bytes());
    let header = reader.headers().unwrap().clone();
    let at = |name: &str| header.iter().position(|column| column == name).unwrap_or_else(|| panic!("no {name}"));
    let (path, value) = (at("path"), at(name));
    reader.records().map(Result::unwrap).map(|row| (row[path].to_owned(), row[value].to_owned())).collect()
}

fn read(folder: &Path, name: &str) -> String {
    fs::read_to_string(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// All files below a folder with their bytes, by their relative paths, except the marker and the lock.
fn files(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = walkdir::WalkDir::new(root).into_iter().map(Result::unwrap);
    let is_claim = |name: &std::ffi::OsStr| name == "stssad.json" || name == ".stssad.lock";
    entries
        .filter(|entry| entry.file_type().is_file() && !is_claim(entry.file_name()))
        .map(|entry| (text(entry.path().strip_prefix(root).unwrap()).to_owned(), fs::read(entry.path()).unwrap()))
        .collect()
}

fn painted() -> Task {
    let texture = Texture::new(Material::Gravel, Defect::Blob);
    let loading = Loading {
        size: Some(Size::square(16)),
        max_train: Some(24),
        max_normals: Some(8),
        max_anomalies: Some(8),
        ..Loading::default()
    };
    load(&Source::Texture(texture), &loading, |_, _| {}).unwrap().task
}

/// A finished run on an MVTec tree, shared by several tests.
struct Finished {
    /// `<category>` in the tree.
    category: PathBuf,
    run: PathBuf,
    said: Said,
}

fn finished() -> &'static Finished {
    static FINISHED: OnceLock<Finished> = OnceLock::new();
    FINISHED.get_or_init(|| {
        let folder = folder("mvtec");
        let category = category::write(&folder.join("tree"), &painted()).unwrap();
        let run = folder.join("run");
        let name = category.file_name().unwrap().to_str().unwrap();
        let tree = folder.join("tree");
        let data = ["--data", "mvtec", "--root", text(&tree), "--category", name];
        let rest = ["--steps", "6", "--starts", "2", "--progress", "json", "--json", "--out", text(&run)];
        let said = stssad(&[&["train"], &data, &TINY, &rest]).with(0);
        Finished { category, run, said }
    })
}

#[test]
fn a_finished_run_has_every_file_and_no_partial_one() {
    let Finished { run, said, .. } = finished();
    let found = files(run);
    let names: BTreeSet<&str> = found.keys().map(String::as_str).filter(|name| !name.starts_with("test/")).collect();
    for name in [
        "config.toml",
        "metrics.csv",
        "result.json",
        "scores.csv",
        "curves.png",
        "pictures.png",
        "histogram.png",
        "roc.png",
        "report.html",
        "model.safetensors",
        "seen.bin",
        "images/good/000.png",
        "images/blob/007.png",
    ] {
        assert!(found.get(name).is_some_and(|bytes| !bytes.is_empty()), "no {name} in {names:?}");
    }
    assert_eq!(names.iter().filter(|name| name.contains("tfevents")).count(), 1, "{names:?}");
    assert_eq!(names.len(), 12 + 16, "{names:?}");

    let result = json(&run.join("result.json"));
    assert_eq!(serde_json::from_str::<Value>(&said.out).unwrap(), result, "--json prints the file");
    for key in ["image_AUROC", "augmentation", "order", "seed", "steps", "seconds", "adapter", "starts"] {
        assert!(!result[key].is_null(), "no {key}");
    }
    for key in ["image_AUROC", "pixel_AUROC"] {
        assert!(result["metrics"][key].as_f64().is_some_and(|auroc| (0.0..=1.0).contains(&auroc)), "{key}");
    }
    assert_eq!(result["starts"].as_array().map(Vec::len), Some(2));
    assert_eq!(
        result["counts"],
        serde_json::json!({ "train": 18, "held_out": 6, "split": "transductive", "tune": 16, "test": 16 })
    );
    assert_eq!(read(run, "metrics.csv").lines().count(), 1 + 2 * 6);
}

#[test]
fn train_test_and_predict_give_the_same_scores() {
    let Finished { category, run, .. } = finished();
    let test = folder("tested");
    stssad(&[&["test", text(run), "--out", text(&test)]]).with(0);
    let trained = column(&read(run, "scores.csv"), "score");
    assert_eq!(trained.len(), 16);
    assert_eq!(trained, column(&read(&test, "scores.csv"), "score"));
    assert_eq!(json(&test.join("test.json"))["metrics"], json(&run.join("result.json"))["metrics"]);

    let kinds = ["good", "blob"].map(|kind| category.join("test").join(kind));
    let predicted = stssad(&[&["predict", text(run)], &[text(&kinds[0]), text(&kinds[1])]]).with(0);
    let below = |path: &String| path[path.rfind("test/").expect("the whole path")..].to_owned();
    let predicted: BTreeMap<_, _> =
        column(&predicted.out, "score").iter().map(|(path, score)| (below(path), score.clone())).collect();
    assert_eq!(trained, predicted);

    let lines = stssad(&[&["predict", text(run), text(&kinds[1]), "--json"]]).with(0).out;
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 8);
    assert!(lines.iter().all(|line| trained[&below(&line["path"].as_str().unwrap().to_owned())]
        == line["score"].as_f64().unwrap().to_string()));
}

#[test]
fn json_progress_has_one_line_per_step() {
    let lines: Vec<Value> = steps_of(&finished().said.err);
    assert_eq!(lines.len(), 12);
    assert!(lines.iter().all(|line| line["inner"].as_f64().is_some_and(f64::is_finite)), "{lines:?}");
    assert!(lines.iter().all(|line| line["outer"].is_null() == (line["step"].as_u64().unwrap() <= 2)), "{lines:?}");
}

#[test]
fn a_reader_that_stops_ends_predict_without_a_message() {
    let Finished { category, run, .. } = finished();
    let images = category.join("test");
    for flags in ["", "--json"] {
        // The output must be larger than the buffer of a pipe.
        let many = vec![text(&images); 150].join(" ");
        let script = format!("{} predict {} {many} {flags} | head -1", env!("CARGO_BIN_EXE_stssad"), text(run));
        let mut shell = Command::new("sh");
        shell.args(["-c", &script]);
        let said = finish(shell).with(0);
        assert_eq!(said.out.lines().count(), 1, "{}", said.out);
        assert!(!said.err.contains("error"), "{}", said.err);
    }
}

#[test]
fn a_finished_run_is_not_overwritten() {
    let Finished { run, .. } = finished();
    let before = files(run);
    let said = stssad(&[&["train"], &GRAVEL, &TINY, &["--steps", "6", "--out", text(run)]]).with(2);
    said.error(&["contains a finished run", "choose another --out"]);
    stssad(&[&["train", "--resume", text(run)]]).with(2).error(&["is finished"]);
    stssad(&[&["test", text(run), "--out", text(run)]]).with(2).error(&["contains a finished run"]);
    let after = files(run);
    assert!(before.iter().all(|(name, bytes)| after.get(name) == Some(bytes)), "a file was changed");
}

/// Flags of a run that is long enough to be stopped, with frequent checkpoints.
fn long(steps: &str) -> Vec<&str> {
    let rest = ["--steps", steps, "--starts", "2", "--checkpoint-every", "2"];
    [&GRAVEL[..], &TINY, &rest].concat()
}

/// Three starts, two of which train together.
fn side_by_side() -> Vec<&'static str> {
    let rest = ["--steps", "12", "--starts", "3", "--together", "2", "--checkpoint-every", "2"];
    [&GRAVEL[..], &TINY, &rest].concat()
}

const QUIET: [&str; 3] = ["--no-report", "--progress", "json"];

/// All files that depend only on the configuration.
fn bits(run: &Path) -> BTreeMap<String, Vec<u8>> {
    let names = ["model.safetensors", "metrics.csv", "scores.csv", "config.toml"];
    names
        .map(|name| (name.to_owned(), fs::read(run.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))))
        .into()
}

fn uninterrupted(steps: &str, name: &str) -> BTreeMap<String, Vec<u8>> {
    let run = folder(name);
    stssad(&[&["train"], &long(steps), &QUIET, &["--out", text(&run)]]).with(0);
    bits(&run)
}

#[test]
fn a_stopped_run_resumes_bit_identically() {
    let expected = uninterrupted("40", "stopped-whole");
    let run = folder("stopped");
    let mut running = Running::begin(&[&["train"], &long("40"), &QUIET, &["--out", text(&run)]]);
    for (done, signal) in [(3, "-TERM"), (15, "-INT"), (30, "-USR1")] {
        running.until(done);
        running.signal(signal);
        let (said, _) = running.end();
        said.with(75).notice(&["stopped after ", "; resume with: stssad train --resume"]);
        assert!(!run.join("result.json").exists() && run.join("checkpoint.safetensors").exists());
        let refused = stssad(&[&["train"], &long("40"), &QUIET, &["--out", text(&run)]]).with(2);
        refused.error(&["contains an unfinished run", "--resume"]);
        running = Running::begin(&[&["train", "--resume", text(&run)], &QUIET]);
    }
    running.end().0.with(0);
    assert_eq!(bits(&run), expected);
    assert_eq!(leftovers(&run), BTreeSet::new());
}

#[test]
fn starts_that_train_together_report_separately_and_resume_bit_identically() {
    let whole = folder("together-whole");
    let said = stssad(&[&["train"], &side_by_side(), &QUIET, &["--out", text(&whole)]]).with(0);
    let number = |line: &Value, key: &str| line[key].as_u64().unwrap();
    let steps: Vec<(u64, u64)> =
        steps_of(&said.err).iter().map(|line| (number(line, "start"), number(line, "step"))).collect();
    let group = |starts: &'static [u64]| (1..=12).flat_map(move |step| starts.iter().map(move |&start| (start, step)));
    assert_eq!(steps, group(&[0, 1]).chain(group(&[2])).collect::<Vec<_>>());

    let run = folder("together");
    let mut running = Running::begin(&[&["train"], &side_by_side(), &QUIET, &["--out", text(&run)]]);
    for done in [5, 15] {
        running.until(done);
        running.signal("-TERM");
        running.end().0.with(75);
        running = Running::begin(&[&["train", "--resume", text(&run)], &QUIET]);
    }
    running.end().0.with(0);
    assert_eq!(bits(&run), bits(&whole));
}

/// Two devices of one driver, which race four starts of each kind, and are stopped in the heats and in the finals.
#[test]
fn starts_on_two_devices_give_the_result_of_one() {
    let race = ["--augmentation", "auto", "--steps", "16", "--warm-up", "2", "--checkpoint-every", "2"];
    let race = [&["train"], &GRAVEL[..], &TINY, &race, &QUIET].concat();
    let whole = folder("one-device");
    let one = stssad(&[&race, &["--out", text(&whole)]]).with(0);
    let run = folder("both");
    let two = ["--adapters", "0,0"];
    let both = stssad(&[&race, &two, &["--out", text(&run)]]).with(0);
    let starts = |said: &Said| steps_of(&said.err).iter().map(|line| line["start"].clone()).collect::<Vec<_>>();
    assert_ne!(starts(&both), starts(&one), "both devices train");
    assert_eq!(bits(&run), bits(&whole));
    let beside = |run: &Path| json(&run.join("result.json"))["beside"].as_array().map_or(0, Vec::len);
    assert_eq!([beside(&run), beside(&whole)], [1, 0]);

    let run = folder("two-devices");
    let mut running = Running::begin(&[&race, &two, &["--out", text(&run)]]);
    for done in [9, 80] {
        running.until(done);
        running.signal("-TERM");
        running.end().0.with(75);
        running = Running::begin(&[&["train", "--resume", text(&run)], &two, &QUIET]);
    }
    running.end().0.with(0);
    assert_eq!(bits(&run), bits(&whole));

    let run = folder("moved-to-one");
    let mut running = Running::begin(&[&race, &two, &["--out", text(&run)]]);
    running.until(9);
    running.signal("-TERM");
    running.end().0.with(75);
    stssad(&[&["train", "--resume", text(&run)], &QUIET]).with(0);
    assert_eq!(bits(&run), bits(&whole), "another number of devices goes on");
}

/// Checkpoints and partial files.
fn leftovers(run: &Path) -> BTreeSet<String> {
    let is_left = |name: &String| name.contains("checkpoint") || name.ends_with(".partial");
    files(run).into_keys().filter(is_left).collect()
}

/// Number of steps before a checkpoint, over all starts.
fn position(checkpoint: &Checkpoint, steps: usize) -> usize {
    let under_way = checkpoint.groups.values().map(|standing| standing.snapshot.step);
    checkpoint.finished.len() * steps + under_way.sum::<usize>()
}

#[test]
fn after_twenty_kills_at_random_moments_the_result_is_bit_identical() {
    let expected = uninterrupted("40", "killed-whole");
    let run = folder("killed");
    // The state after a kill during the first checkpoint.
    fs::write(run.join("stssad.json"), r#"{ "command": "train", "host": "here", "pid": 1, "since": "" }"#).unwrap();
    fs::write(run.join(".checkpoint.safetensors.1.partial"), "half").unwrap();
    let mut stream = Stream::new(20, 97);
    let mut saved = 0;
    let begin = |saved: usize| match saved {
        // Nothing was saved, so the same command starts again.
        0 => Running::begin(&[&["train"], &long("40"), &QUIET, &["--out", text(&run)]]),
        _ => Running::begin(&[&["train", "--resume", text(&run)], &QUIET]),
    };
    for kill in 0..20 {
        let mut running = begin(saved);
        // After some steps and part of another; sometimes before the first.
        running.until(stream.below(5));
        std::thread::sleep(Duration::from_millis(stream.below(40) as u64));
        running.child.kill().unwrap();
        let (said, steps) = running.end();
        assert_eq!(said.code, None, "kill {kill} came too late: {}", said.err);
        let seen = steps.last().map_or(0, |step| 40 * step["start"].as_u64().unwrap() + step["step"].as_u64().unwrap());
        let found = Checkpoint::load(&run).unwrap_or_else(|error| panic!("kill {kill}: {error}"));
        let now = found.map_or(0, |(checkpoint, _)| position(&checkpoint, 40));
        assert!(now >= saved, "kill {kill}: {now} is behind {saved}");
        assert!(now + 2 >= seen as usize, "kill {kill}: {now} is more than two steps behind {seen}");
        saved = now;
    }
    assert!(saved > 0);
    begin(saved).end().0.with(0);
    assert_eq!(bits(&run), expected);
    assert_eq!(leftovers(&run), BTreeSet::new());
}

/// A run that was stopped with two checkpoints, in a folder of this name.
fn stopped(name: &str, data: &[&str]) -> PathBuf {
    let run = folder(name);
    let rest = ["--steps", "40", "--starts", "1", "--checkpoint-every", "2", "--out", text(&run)];
    let mut running = Running::begin(&[&["train"], data, &TINY, &QUIET, &rest]);
    running.until(5);
    running.signal("-TERM");
    running.end().0.with(75);
    run
}

/// Flips a bit in the middle of a file.
fn damage(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_damaged_checkpoint_is_replaced_by_the_previous_one_and_two_are_an_error() {
    let run = stopped("damaged", &GRAVEL);
    let [last, previous] = ["checkpoint.safetensors", "checkpoint.previous.safetensors"].map(|name| run.join(name));
    let whole = fs::read(&last).unwrap();
    damage(&last);
    let mut running = Running::begin(&[&["train", "--resume", text(&run)], &QUIET]);
    running.until(2);
    running.signal("-TERM");
    running.end().0.with(75).notice(&["warning  ", "is damaged", "from the previous checkpoint"]);

    fs::write(&last, whole).unwrap();
    damage(&last);
    damage(&previous);
    let before = files(&run);
    let parts = [text(&last), text(&previous)].map(str::to_owned).join(" and ");
    let parts = ["checkpoint.safetensors is damaged", "checksum", &format!("to start the run again, delete {parts}")];
    let again = || stssad(&[&["train"], &long("4"), &QUIET, &["--out", text(&run)]]);
    stssad(&[&["train", "--resume", text(&run)]]).with(74).error(&parts);
    again().with(74).error(&parts);
    assert_eq!(files(&run), before);
    // The advice works.
    fs::remove_file(&last).unwrap();
    fs::remove_file(&previous).unwrap();
    again().with(0);
}

#[test]
fn a_resumed_run_remembers_no_report() {
    for (flags, has_report) in [(&QUIET[..], false), (&QUIET[1..], true)] {
        let run = folder(&format!("report-{has_report}"));
        let mut running = Running::begin(&[&["train"], &long("8"), flags, &["--out", text(&run)]]);
        running.until(5);
        running.signal("-TERM");
        running.end().0.with(75);
        stssad(&[&["train", "--resume", text(&run)]]).with(0);
        assert!(run.join("result.json").exists());
        assert_eq!([run.join("report.html").exists(), run.join("images").exists()], [has_report; 2]);
    }
}

#[test]
fn a_run_does_not_resume_with_other_images() {
    let tree = folder("foreign-tree");
    let category = category::write(&tree, &painted()).unwrap();
    let name = category.file_name().unwrap().to_str().unwrap();
    let run = stopped("foreign", &["--data", "mvtec", "--root", text(&tree), "--category", name]);
    let before = files(&run);
    fs::copy(category.join("train/good/001.png"), category.join("train/good/000.png")).unwrap();
    let said = stssad(&[&["train", "--resume", text(&run)], &QUIET]).with(3);
    said.error(&["was made with other images", "or remove this folder and start the run again"]);
    assert_eq!(files(&run), before);
    stssad(&[&["train", "--resume", text(&run), "--steps", "9"]]).with(2).error(&["omit --steps; only --root"]);
    let empty = folder("foreign-empty");
    stssad(&[&["train", "--resume", text(&empty)]]).with(2).error(&["has no checkpoint", "--out"]);
}

#[test]
fn a_checkpoint_that_cannot_be_written_is_an_error_and_the_previous_one_stays() {
    let run = stopped("full", &GRAVEL);
    let checkpoint = fs::read(run.join("checkpoint.safetensors")).unwrap();
    // A folder in its place stops even root.
    fs::remove_file(run.join("checkpoint.previous.safetensors")).unwrap();
    fs::create_dir(run.join("checkpoint.previous.safetensors")).unwrap();
    let said = stssad(&[&["train", "--resume", text(&run), "--no-report"]]).with(74);
    said.error(&["cannot write", "checkpoint.safetensors", "the disk is not full"]);
    assert_eq!(fs::read(run.join("checkpoint.safetensors")).unwrap(), checkpoint);
    assert!(leftovers(&run).iter().all(|name| !name.ends_with(".partial")));
    Checkpoint::load(&run).unwrap().unwrap();
}

/// Folders `good` with `normals` images and `bad` with `anomalies`, below a new one.
fn folders(name: &str, normals: usize, anomalies: usize) -> PathBuf {
    let root = folder(name);
    let mut stream = Stream::new(1, 96);
    for (kind, count) in [("good", normals), ("bad", anomalies)] {
        fs::create_dir_all(root.join(kind)).unwrap();
        for number in 0..count {
            let pixel = |_, y| image::Luma([(stream.below(128) as u32 + if kind == "bad" { 6 * y } else { 0 }) as u8]);
            image::GrayImage::from_fn(16, 16, pixel).save(root.join(kind).join(format!("{number:03}.png"))).unwrap();
        }
    }
    root
}

/// Trains three steps on `good` and `bad` below a root.
fn on_folders(root: &Path, flags: &[&str]) -> Said {
    let run = root.join("run");
    let data = ["--data", "folder", "--root", text(root), "--normal-dir", "good"];
    stssad(&[&["train"], &data, &TINY, &["--steps", "3", "--starts", "1", "--no-report", "--out", text(&run)], flags])
}

#[test]
fn folders_with_too_few_images_are_refused() {
    let bad = ["--abnormal-dir", "bad"];
    let missing = on_folders(&folder("missing").join("nowhere"), &bad).with(3);
    missing.error(&["there is no folder", "nowhere", "check the path"]);
    on_folders(&folders("empty", 0, 4), &bad).with(3).error(&["good contains no images"]);
    on_folders(&folders("empty-bad", 8, 0), &bad).with(3).error(&["bad contains no images"]);
    on_folders(&folders("one", 1, 4), &bad).with(3).error(&["images"]);
    on_folders(&folders("two", 3, 4), &bad).with(3).error(&["training", "images"]);
    on_folders(&folders("nothing", 8, 0), &[]).with(2).error(&["there are no images to tune on"]);
}

#[test]
fn figures_that_need_missing_labels_are_absent() {
    // No labels at all.
    let root = folders("unlabelled", 12, 6);
    let said = on_folders(&root, &["--unlabelled-dir", "bad"]).with(0);
    assert!(said.err.contains("n/a"), "{}", said.err);
    assert!(json(&root.join("run/result.json"))["image_AUROC"].is_null());

    // Only one class.
    let root = folders("no-anomalies", 12, 6);
    let said = on_folders(&root, &["--normal-test-dir", "bad", "--unlabelled-dir", "more"]);
    assert_eq!(said.code, Some(3), "{}", said.err);
    fs::create_dir(root.join("more")).unwrap();
    fs::copy(root.join("bad/000.png"), root.join("more/000.png")).unwrap();
    fs::copy(root.join("bad/001.png"), root.join("more/001.png")).unwrap();
    let said = on_folders(&root, &["--normal-test-dir", "bad", "--unlabelled-dir", "more"]).with(0);
    assert!(said.err.contains("image_AUROC n/a"), "{}", said.err);
    let result = json(&root.join("run/result.json"));
    assert!(result["image_AUROC"].is_null() && result["metrics"]["pixel_AUROC"].is_null(), "{result}");

    // Both classes, but no masks.
    let root = folders("no-masks", 12, 6);
    on_folders(&root, &["--abnormal-dir", "bad"]).with(0);
    let result = json(&root.join("run/result.json"));
    assert!(result["image_AUROC"].is_f64() && result["metrics"]["pixel_AUROC"].is_null(), "{result}");
}

#[test]
fn corrupt_images_are_listed_or_skipped() {
    let root = folders("corrupt", 12, 6);
    fs::write(root.join("good/broken.png"), "no image").unwrap();
    fs::write(root.join("bad/cut.png"), &fs::read(root.join("bad/000.png")).unwrap()[..60]).unwrap();
    let bad = ["--abnormal-dir", "bad"];
    let said = on_folders(&root, &bad).with(3);
    said.error(&["2 of 20 images cannot be used", "broken.png", "cut.png", "--on-bad-image skip"]);
    on_folders(&root, &[&bad[..], &["--on-bad-image", "skip"]].concat()).with(0);
    let skipped = json(&root.join("run/result.json"))["skipped"].to_string();
    assert!(skipped.contains("broken.png") && skipped.contains("cut.png"), "{skipped}");

    let predicted = stssad(&[&["predict", text(&root.join("run")), text(&root.join("bad"))]]).with(3);
    assert!(predicted.err.contains("cut.png") && predicted.out.lines().count() == 8, "{predicted:?}");
}

#[test]
fn every_valid_file_name_is_accepted() {
    let root = folders("names", 12, 6);
    for (number, name) in ["two words.png", "größer—图.png", "line\nbreak.png", "quote\"comma,.png"].iter().enumerate()
    {
        fs::rename(root.join(format!("bad/00{number}.png")), root.join("bad").join(name)).unwrap();
    }
    let run = root.join("run");
    let data = ["--data", "folder", "--root", text(&root), "--normal-dir", "good", "--abnormal-dir", "bad"];
    stssad(&[&["train"], &data, &TINY, &["--steps", "3", "--starts", "1", "--out", text(&run)]]).with(0);
    let names: BTreeSet<String> = column(&read(&run, "scores.csv"), "score").into_keys().collect();
    for name in ["bad/two words.png", "bad/größer—图.png", "bad/line\\nbreak.png", "bad/quote\"comma,.png"] {
        assert!(names.contains(name), "no {name} in {names:?}");
    }
    let broken = root.join("bad/line\nbreak.png");
    let said = stssad(&[&["predict", text(&run), text(&broken)]]).with(0);
    assert!(column(&said.out, "score").contains_key(text(&broken)), "{}", said.out);
}

#[test]
fn flags_override_the_file_and_the_printed_configuration_is_valid() {
    let folder = folder("config");
    let path = folder.join("config.toml");
    fs::write(&path, "seed = 5\naugmentation = 'rotation'\n[data]\nkind = 'digits'\nnormal = 6\nanomaly = 9\n")
        .unwrap();
    let printed = stssad(&[&["train", "-c", text(&path), "--seed", "7", "--print-config"]]).with(0).out;
    assert!(printed.contains("seed = 7\n") && printed.contains("augmentation = \"rotation\""), "{printed}");
    fs::write(&path, &printed).unwrap();
    assert_eq!(stssad(&[&["train", "-c", text(&path), "--print-config"]]).with(0).out, printed);

    let cases =
        [("sed = 1", 2, "did you mean `seed`?"), ("seed = ", 2, "config.toml"), ("[training]\nsteps = 0", 2, "steps")];
    for (content, code, part) in cases {
        fs::write(&path, content).unwrap();
        let said =
            stssad(&[&["train", "-c", text(&path)], &GRAVEL, &["--size", "16", "--out", text(&folder.join("run"))]]);
        said.with(code).error(&[part]);
    }
    stssad(&[&["train", "-c", text(&folder.join("none.toml"))]]).with(74).error(&["cannot read", "none.toml"]);
    stssad(&[&["train"]]).with(2).error(&["give --data"]);
}

/// Trains three steps in a folder of this name.
fn three_steps(name: &str, flags: &[&str]) {
    let run = folder(name);
    let rest = ["--steps", "3", "--starts", "1", "--no-report", "--progress", "none", "--out", text(&run)];
    stssad(&[&["train"], &GRAVEL, &TINY, &rest, flags]).with(0);
    let result = json(&run.join("result.json"));
    assert!(result["image_AUROC"].is_f64() && result["seconds"].is_f64(), "{name}: {result}");
}

#[test]
fn every_method_trains() {
    for method in ["random-static", "random-dynamic", "auto-encoder", "deep-svdd", "nearest-patch", "raw-pixels"] {
        three_steps(&format!("method-{method}"), &["--method", method]);
    }
}

#[test]
fn every_augmentation_trains() {
    for name in augment::names().chain(["rotation+cutdiff"]) {
        three_steps(&format!("augmentation-{name}"), &["--augmentation", name]);
    }
}

#[test]
fn every_alignment_trains() {
    for name in loss::names() {
        three_steps(&format!("alignment-{name}"), &["--alignment", name]);
    }
}

const GRID: &str = "
seeds = [0]
reference = 'st-ssad'
[common.images]
size = 16
max_train = 24
max_normals = 8
max_anomalies = 8
[common.training]
steps = 3
warm_up = 1
starts = 1
batch = 8
batch_val = 8
[[task]]
name = 'gravel'
config.data = { kind = 'texture', texture = 'gravel', defect = 'blob' }
[[task]]
name = 'brick'
config.data = { kind = 'texture', texture = 'brick', defect = 'blob' }
[[method]]
name = 'st-ssad'
[[method]]
name = 'auto-encoder'
config.method = 'auto-encoder'
";

#[test]
fn a_sweep_runs_the_missing_jobs_and_shards_give_the_same_results() {
    let folder = folder("sweep");
    let grid = folder.join("grid.toml");
    fs::write(&grid, GRID).unwrap();
    let (whole, shards) = (folder.join("whole"), folder.join("shards"));
    let sweep = |out: &Path, flags: &[&str]| command(&[&["sweep", "run", text(&grid), "--out", text(out)], flags]);
    finish(sweep(&whole, &[])).with(0);
    let done = files(&whole);
    let results: Vec<String> = done.keys().filter(|name| name.ends_with("result.json")).cloned().collect();
    assert_eq!(results.len(), 4, "{results:?}");
    let modified = || -> Vec<_> {
        let times = done.keys().map(|name| fs::metadata(whole.join(name)).unwrap().modified().unwrap());
        times.collect()
    };
    let before = modified();
    finish(sweep(&whole, &[])).with(0);
    assert_eq!((files(&whole), modified()), (done.clone(), before), "the second run had nothing to do");

    let mut both =
        ["0/2", "1/2"].map(|shard| sweep(&shards, &["--shard", shard]).stderr(Stdio::null()).spawn().unwrap());
    both.iter_mut().for_each(|child| assert!(child.wait().unwrap().success()));
    for name in &results {
        let [one, other] = [&whole, &shards].map(|sweep| json(&sweep.join(name)));
        assert!(one["image_AUROC"].is_f64(), "{name}");
        assert_eq!((&one["image_AUROC"], &one["metrics"]), (&other["image_AUROC"], &other["metrics"]), "{name}");
    }

    finish(sweep(&whole, &["--index", "4"])).with(2).error(&["there is no job 4: the jobs of the grid are 0 to 3"]);

    let merge = || stssad(&[&["sweep", "merge", text(&grid), "--out", text(&whole)]]);
    let table = merge().with(0).out;
    assert!(["gravel", "brick", "st-ssad", "auto-encoder"].iter().all(|name| table.contains(name)), "{table}");
    let lost = results.iter().find(|name| name.contains("brick/auto-encoder")).unwrap();
    fs::remove_file(whole.join(lost)).unwrap();
    let said = merge().with(1);
    let (_, missing) = said.out.split_once("Missing runs: 1").unwrap_or_default();
    assert!(missing.contains("brick") && missing.contains("auto-encoder"), "{}", said.out);
}

#[test]
fn an_invalid_array_task_is_refused() {
    let folder = folder("shares");
    let grid = folder.join("grid.toml");
    fs::write(&grid, GRID).unwrap();
    for (variables, complaint) in [
        (&[("SLURM_ARRAY_TASK_ID", "one")][..], "SLURM_ARRAY_TASK_ID is `one`"),
        (&[("SGE_TASK_ID", "-1")], "SGE_TASK_ID is `-1`: it must be a whole number"),
        (&[("JOB_COMPLETION_INDEX", "1"), ("AWS_BATCH_JOB_ARRAY_INDEX", "1")], "both"),
    ] {
        let mut sweep = command(&[&["sweep", "run", text(&grid), "--out", text(&folder.join("out"))]]);
        sweep.envs(variables.iter().copied());
        finish(sweep).with(2).error(&[complaint]);
    }
}

#[test]
fn a_folder_without_shaders_is_refused() {
    stssad(&[&["profile", "--shaders", text(&folder("no-shaders"))]])
        .with(2)
        .error(&["contains none of stssad's shaders"]);
}

#[test]
fn the_precision_is_recorded_or_refused_without_matrix_units() {
    let devices: Value = serde_json::from_str(&stssad(&[&["devices", "--json"]]).with(0).out).unwrap();
    let out = folder("precision").join("run");
    let flags = ["--precision", "f16", "--steps", "3", "--starts", "1", "--no-report", "--out", text(&out)];
    let said = stssad(&[&["train"], &GRAVEL, &TINY, &flags]);
    if devices[0]["tiles"].as_array().unwrap().is_empty() {
        said.with(4).error(&["precision f16 needs matrix units, but it has no", "f32 runs everywhere"]);
        assert!(!out.join("result.json").exists());
        return;
    }
    said.with(0);
    assert_eq!(json(&out.join("result.json"))["precision"], "f16");
    assert!(read(&out, "config.toml").contains("precision = \"f16\""));
    // Scores are always computed in f32.
    let tested = folder("precision-test");
    stssad(&[&["test", text(&out), "--out", text(&tested)]]).with(0);
    assert_eq!(read(&tested, "scores.csv"), read(&out, "scores.csv"));
}

#[test]
fn the_packaged_grids_are_valid() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/grids");
    let mut tasks = BTreeMap::new();
    for entry in fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        let jobs = stssad(&[&["sweep", "plan", text(&path)]]).with(0).out;
        let jobs: Vec<Value> = jobs.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let names: BTreeSet<String> = jobs.iter().map(|job| job["task"].to_string()).collect();
        tasks.insert(path.file_stem().unwrap().to_str().unwrap().to_owned(), names.len());
    }
    assert!(tasks.len() >= 3 && tasks.values().all(|&count| count > 0), "{tasks:?}");
    assert_eq!(tasks["paper"], 41);
    let broken = folder("grids").join("grid.toml");
    fs::write(&broken, "seeds = [0]\nfoo = 1").unwrap();
    stssad(&[&["sweep", "plan", text(&broken)]]).with(2).error(&["grid.toml, line 2: there is no key `foo`"]);
}

#[test]
fn eight_simultaneous_runs_get_eight_folders() {
    let root = folder("eight");
    let rest = ["--steps", "1", "--warm-up", "1", "--starts", "1", "--no-report", "--progress", "none"];
    let small =
        ["--size", "16", "--max-train", "4", "--max-normals", "2", "--max-anomalies", "2", "--method", "auto-encoder"];
    let begin = |_| {
        let mut command = command(&[&["train"], &GRAVEL, &small, &rest]);
        command.current_dir(&root).stderr(Stdio::null()).spawn().unwrap()
    };
    let mut children: Vec<Child> = (0..8).map(begin).collect();
    children.iter_mut().for_each(|child| assert!(child.wait().unwrap().success()));
    let runs = root.join("results/stssad/texture/gravel-blob");
    for version in 0..8 {
        assert!(runs.join(format!("v{version}/result.json")).exists(), "v{version}");
    }
    assert_eq!(fs::read_dir(&runs).unwrap().count(), 9);
    let latest = fs::read_link(runs.join("latest")).unwrap();
    assert!((0..8).any(|version| latest == Path::new(&format!("v{version}"))), "{}", latest.display());
}

#[test]
fn without_a_terminal_progress_is_plain_lines() {
    let run = folder("plain");
    let said =
        stssad(&[&["train"], &GRAVEL, &TINY, &["--steps", "3", "--starts", "1", "--no-report", "--out", text(&run)]]);
    let said = said.with(0);
    assert!(said.err.lines().any(|line| line.starts_with("train    start 1/1  step 3/3  loss ")), "{}", said.err);
    assert!(!said.err.contains(['\u{1b}', '\r']) && said.out.is_empty(), "{said:?}");
}
