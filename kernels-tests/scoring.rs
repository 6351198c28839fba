//! What trains can be scored: batches that fit the device, defaults that run to the end, predictions in spite of bad files,
//! and a threshold that says what it was taken on.

mod process;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::OnceLock;

use process::{Said, command, folder, json, stssad, text};
use serde_json::Value;
use stssad::data::sheet::Digits;
use stssad::data::{Loaded, Loading, Size, Source, load};
use stssad::engine::gpu::{Choice, Device, States};
use stssad::engine::philox::Stream;
use stssad::engine::tensor::Tensor;
use stssad::run::checkpoint::Checkpoint;
use stssad::run::config::{RunConfig, Training};
use stssad::run::execute::{Ending, Extent, Run, RunError, Watch, test};
use stssad::run::fit::{FitError, Fitted, fitted};
use stssad::run::folder::RunFolder;
use stssad::run::model::{Model, Predictor};
use stssad::run::outcome::Start;
use stssad::run::race::Leg;
use stssad::ssad::method::{Method, Network};
use stssad::ssad::nn::{Detector, ResNet18, Stem};
use stssad::training::scorer::Scorer;
use stssad::training::trainer::Progress;

fn device() -> Device {
    Device::open(&Choice::Best).unwrap_or_else(|error| panic!("{error}"))
}

/// A few small digits, a step of which has values of some hundred KiB.
fn digits() -> RunConfig {
    RunConfig {
        data: Some(Source::Digits(Digits { normal: 6, anomaly: 9 })),
        augmentation: "rotation".into(),
        images: Loading { max_train: Some(40), max_normals: Some(20), max_anomalies: Some(20), ..Loading::default() },
        training: Training {
            batch: 24,
            batch_val: 40,
            steps: 3,
            warm_up: Some(1),
            starts: Some(1),
            checkpoint_every: 1,
            ..Training::default()
        },
        ..RunConfig::default()
    }
}

fn loaded(config: &RunConfig) -> Loaded {
    load(config.source().unwrap(), &config.loading(), |_, _| {}).unwrap()
}

/// A device on which a step of these digits has to be cut, and the number of micro-batches that it is cut into.
fn narrow(config: &RunConfig, loaded: &Loaded, share: u64) -> (Device, Fitted) {
    let device = device();
    let folder = RunFolder::create(folder("narrow")).unwrap();
    let run = Run { device: &device, beside: &[], config, loaded, folder: &folder, extent: Extent::Figures };
    let narrow = device.limited(run.plan().unwrap().largest().1 / share);
    let fitted = fitted(&narrow, config, loaded).unwrap();
    (narrow, fitted)
}

/// Stops after so many steps.
struct Steps(usize);

impl Watch for Steps {
    fn compiling(&mut self, _: usize, _: usize) {}
    fn fitted(&mut self, _: &Fitted) {}
    fn step(&mut self, _: &[Progress], _: &Leg, _: usize) {
        self.0 = self.0.saturating_sub(1);
    }
    fn reporting(&mut self, _: &str) {}
    fn wants_stop(&self) -> bool {
        self.0 == 0
    }
}

#[test]
fn scores_do_not_depend_on_how_many_images_are_scored_at_once() {
    let device = device();
    let resnet =
        Detector::new(3, Arc::new(ResNet18 { width: 2, stem: Stem::Large, stages: ResNet18::STAGES }), vec![5]);
    for (method, detector, image) in [
        (Method::StSsad, Detector::small(1), [1, 28, 28]),
        (Method::StSsad, resnet, [3, 40, 40]),
        (Method::AutoEncoder, Detector::small(3), [3, 17, 17]),
        (Method::DeepSvdd, Detector::small(3), [3, 17, 17]),
        (Method::NearestPatch, Detector::small(3), [3, 17, 17]),
        (Method::RawPixels, Detector::small(3), [3, 17, 17]),
        (Method::RawPixels, Detector::small(1), [1, 4, 70]),
    ] {
        let (network, mut states, mut stream) =
            (Network::new(method, &detector, image), States::new(&device), Stream::new(3, 1));
        let parameters = network.parameters(&mut stream).into_iter();
        let all = parameters.chain(network.statistics().into_iter().flatten()).chain(network.fixed());
        for (name, tensor) in all.collect::<Vec<_>>() {
            // As after some training: no shift is 0 and no scale is 1.
            let moved = tensor.data().iter().map(|value| value + 0.4 * stream.uniform() as f32).collect();
            states.set(&name, &Tensor::new(tensor.shape().clone(), moved)).unwrap();
        }
        let [c, h, w] = image;
        let images = Tensor::new([7, c, h, w], (0..7 * c * h * w).map(|_| stream.uniform() as f32).collect());
        let scorer = |device: &Device, most: usize| {
            let mut scorer = Scorer::new(device, &network, image, most, &states).unwrap();
            (scorer.batch(), scorer.read(&images).unwrap())
        };
        let (fewest, alone) = scorer(&device, 1);
        assert!(fewest == 2 && alone.z.iter().chain(&alone.direct).all(|value| value.is_finite()));
        for most in [3, 5, 7, 64] {
            assert_eq!(scorer(&device, most), (most, alone.clone()), "{method:?}, {most} at once");
        }
        let largest = Scorer::plan(device.class(), &network, image, 64).0.largest().1;
        let (fewer, read) = scorer(&device.limited(largest / 3), 64);
        assert!((2..=22).contains(&fewer), "{fewer} of 64 fit a third of the memory");
        assert_eq!(read, alone, "{method:?}, as many as fit");
    }
}

#[test]
fn one_image_is_scored_by_itself_and_gets_the_score_that_it_has_among_others() {
    let run = colour().join("run");
    let model = Model::load(&run.join("model.safetensors")).unwrap();
    let device = device();
    let mut judge = Predictor::new(&device, &model).unwrap();
    let images = Tensor::new([3, 3, 64, 64], (0..3 * 3 * 4096).map(|i| (i % 251) as f32 / 251.0).collect());
    let together = judge.judge(&images).unwrap().scores;
    assert_eq!(together.len(), 3);
    for (row, score) in together.into_iter().enumerate() {
        assert_eq!(judge.judge(&images.gather_rows(&[row])).unwrap().scores, [score]);
    }
}

#[test]
fn a_run_on_a_device_that_binds_little_is_cut_trains_is_scored_and_goes_on_with_the_same_bits() {
    let config = digits();
    let loaded = loaded(&config);
    let (narrow, fitted) = narrow(&config, &loaded, 3);
    assert_eq!(fitted.config.training.micro_batches, Some(4), "3 would do, but 4 leave out no image");
    assert_eq!(fitted.config.images.size, Some(Size::square(28)));
    let told = fitted.to_string();
    assert!(told.contains("4 micro-batches of 6 + 10 images: this device binds at most"), "{told}");
    assert!(told.contains("cost     images of 28×28 pixels, encoder small; a step of 24 + 40 images"), "{told}");

    let train = |name: &str, device: &Device, checkpoint: Option<Checkpoint>, steps: usize| {
        let folder = RunFolder::create(kept_folder(name)).unwrap();
        let run = Run { device, beside: &[], config: &config, loaded: &loaded, folder: &folder, extent: Extent::Full };
        (run.train(checkpoint, &mut Steps(steps)).unwrap(), folder.path().to_owned())
    };
    let (ending, whole) = train("cut-whole", &narrow, None, 99);
    let Ending::Finished(outcome) = ending else { panic!("it was stopped") };
    assert!(outcome.image_auroc.is_some());
    assert!(fs::read_to_string(whole.join("config.toml")).unwrap().contains("micro_batches = 4"));

    let (ending, stopped) = train("cut-stopped", &narrow, None, 1);
    assert_eq!(ending, Ending::Stopped);
    let (checkpoint, _) = Checkpoint::load(&stopped).unwrap().unwrap();
    // The configuration leaves the number open, and this device would choose another.
    assert!(matches!(train("cut-stopped", &device(), Some(checkpoint), 99).0, Ending::Finished(_)));
    for name in ["model.safetensors", "scores.csv", "metrics.csv", "config.toml"] {
        assert_eq!(fs::read(whole.join(name)).unwrap(), fs::read(stopped.join(name)).unwrap(), "{name}");
    }
}

/// Six heats of three steps, of which four go on to eight.
#[test]
fn a_race_is_resumed_wherever_it_was_stopped() {
    let config = digits();
    let training = Training { steps: 8, warm_up: Some(4), starts: Some(2), ..config.training.clone() };
    let config = RunConfig { augmentation: "auto".into(), training, ..config };
    let (device, loaded) = (device(), loaded(&config));
    let train_as = |config: &RunConfig, name: &str, checkpoint: Option<Checkpoint>, steps: usize| {
        let folder = RunFolder::create(kept_folder(name)).unwrap();
        let (beside, extent) = (&[][..], Extent::Figures);
        let run = Run { device: &device, beside, config, loaded: &loaded, folder: &folder, extent };
        (run.train(checkpoint, &mut Steps(steps)).unwrap(), folder.path().to_owned())
    };
    let train = |name: &str, checkpoint, steps| train_as(&config, name, checkpoint, steps);
    let (ending, whole) = train("race-whole", None, 99);
    let Ending::Finished(outcome) = ending else { panic!("it was stopped") };
    let kinds: Vec<&str> = outcome.starts.iter().map(|start| start.augmentation.as_deref().unwrap()).collect();
    assert_eq!(kinds, ["cutblend", "cutblend", "cutpaste", "cutpaste", "rotation", "rotation"]);
    assert!(outcome.starts.iter().all(|start| start.steps == Some(if start.heat { 3 } else { 8 })));
    let finals: Vec<usize> = (0..6).filter(|&start| !outcome.starts[start].heat).collect();
    assert_eq!(finals.len(), 4);
    let chosen: Vec<usize> = (0..6).filter(|&start| outcome.starts[start].chosen).collect();
    let best = finals.iter().map(|&start| outcome.starts[start].exceedance.unwrap()).fold(0.0, f64::max);
    let has_best = |start: &usize| finals.contains(start) && outcome.starts[*start].exceedance == Some(best);
    assert!(chosen.len() == 1 && has_best(&chosen[0]), "{chosen:?} of {finals:?}");
    assert_eq!(outcome.augmentation.name, kinds[chosen[0]]);

    // What a start comes to by its heat and then to the end is what it comes to in one go.
    let alone = |kind: &str| {
        let training = Training { warm_up: Some(2), ..config.training.clone() };
        let config = RunConfig { augmentation: kind.into(), training, ..config.clone() };
        let Ending::Finished(outcome) = train_as(&config, &format!("race-{kind}"), None, 99).0 else {
            panic!("it was stopped")
        };
        outcome.starts
    };
    for start in finals {
        let of = |started: &Start| (started.end.clone(), started.exceedance, started.image_auroc);
        assert_eq!(of(&alone(kinds[start])[start % 2]), of(&outcome.starts[start]), "{start}");
    }

    // In a heat, after a heat, after all heats, in the first that goes on, and after the last step of all.
    for steps in [1, 3, 18, 20, 38] {
        let name = format!("race-{steps}");
        assert_eq!(train(&name, None, steps).0, Ending::Stopped, "{steps}");
        let folder = kept_folder(&name);
        let (checkpoint, _) = Checkpoint::load(&folder).unwrap().unwrap();
        assert!(matches!(train(&name, Some(checkpoint), 99).0, Ending::Finished(_)), "{steps}");
        for file in ["model.safetensors", "scores.csv", "metrics.csv"] {
            assert_eq!(fs::read(whole.join(file)).unwrap(), fs::read(folder.join(file)).unwrap(), "{steps}: {file}");
        }
    }
}

/// A folder that stays as an earlier call left it.
fn kept_folder(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("scoring-runs").join(name);
    let _ = fs::remove_file(path.join("result.json"));
    path
}

#[test]
fn what_does_not_fit_is_refused_with_settings_that_run() {
    let mut config = digits();
    let loaded = loaded(&config);
    let (narrow, _) = narrow(&config, &loaded, 3);
    config.training.micro_batches = Some(2);
    let refused = fitted(&narrow, &config, &loaded).unwrap_err();
    let FitError::MicroBatches { fitting, .. } = &refused else { panic!("{refused}") };
    assert!(refused.to_string().contains(&format!("--micro-batches {fitting}")), "{refused}");
    config.training.micro_batches = Some(*fitting);
    assert_eq!(fitted(&narrow, &config, &loaded).unwrap().config.training.micro_batches, Some(*fitting));

    // A device that does not bind one of these images' values: sizes that it names have to run.
    let config = RunConfig { encoder: "resnet18".into(), training: digits().training, ..digits() };
    let loaded = load_at(&config, 28);
    let tiny = device().limited(12 << 20);
    let fitting = fitted(&tiny, &config, &loaded).unwrap();
    assert!(fitting.config.training.micro_batches >= Some(1), "its weights fit");
    let large = load_at(&config, 160);
    let tiny = device().limited(10 << 20);
    let refused = fitted(&tiny, &RunConfig { training: micro(Some(3)), ..config.clone() }, &large);
    match refused {
        Err(FitError::Size { size: Size { height: 160, .. }, alternatives, .. }) => {
            for alternative in &alternatives {
                let mut other = config.clone();
                let words: Vec<&str> = alternative.split(' ').collect();
                assert!(alternative.ends_with(" without --micro-batches"), "{alternative}");
                let images = match words[..2] {
                    ["--size", side] => load_at(&config, side.parse().unwrap()),
                    ["--encoder", "small"] => {
                        other.encoder = "small".into();
                        load_at(&config, 160)
                    }
                    _ => panic!("{alternative}"),
                };
                fitted(&tiny, &other, &images).unwrap_or_else(|error| panic!("{alternative}: {error}"));
            }
            assert!(!alternatives.is_empty());
        }
        other => panic!("{other:?}"),
    }
    let nothing = fitted(&device().limited(1000), &config, &large).unwrap_err().to_string();
    assert!(nothing.contains("no smaller size fits either"), "{nothing}");
}

fn micro(micro_batches: Option<usize>) -> Training {
    Training { micro_batches, ..digits().training }
}

fn load_at(config: &RunConfig, side: usize) -> Loaded {
    let loading = Loading { size: Some(Size::square(side)), ..config.loading() };
    load(config.source().unwrap(), &loading, |_, _| {}).unwrap()
}

/// Writes colour noise of 64×64 pixels; an anomaly has a dark bar.
fn put(path: &Path, stream: &mut Stream, anomalous: bool) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let pixel = |_, y| {
        let level = |_: usize| if anomalous && (20..30).contains(&y) { 10 } else { 100 + stream.below(80) as u8 };
        image::Rgb([0, 1, 2].map(level))
    };
    image::RgbImage::from_fn(64, 64, pixel).save(path).unwrap();
}

/// An MVTec-style folder of 64×64 colour images, `tree`, and a run on it at the defaults but for two steps, `run`.
fn colour() -> &'static PathBuf {
    &trained_on_colour().0
}

/// What this run said.
fn colour_said() -> &'static Said {
    &trained_on_colour().1
}

fn trained_on_colour() -> &'static (PathBuf, Said) {
    static COLOUR: OnceLock<(PathBuf, Said)> = OnceLock::new();
    COLOUR.get_or_init(|| {
        let root = folder("colour");
        let mut stream = Stream::new(1, 95);
        let mut many = |below: &str, count: usize, anomalous: bool| {
            for number in 0..count {
                let path = root.join("tree/part").join(below).join(format!("{number:03}.png"));
                put(&path, &mut stream, anomalous);
            }
        };
        many("train/good", 24, false);
        many("test/good", 5, false);
        many("test/bar", 4, true);
        let (tree, run) = (root.join("tree"), root.join("run"));
        let data = ["--data", "mvtec", "--root", text(&tree), "--category", "part"];
        let said = stssad(&[&["train"], &data, &["--steps", "2", "--out", text(&run)]]).with(0);
        (root, said)
    })
}

#[test]
fn a_folder_of_small_colour_images_runs_to_the_end_at_the_defaults() {
    let run = colour().join("run");
    let config = fs::read_to_string(run.join("config.toml")).unwrap();
    assert!(config.contains("size = 64") && config.contains("micro_batches = 1"), "{config}");
    let scores = fs::read_to_string(run.join("scores.csv")).unwrap();
    assert_eq!(scores.lines().count(), 1 + 9);
    let model = Model::load(&run.join("model.safetensors")).unwrap();
    assert_eq!((model.image, model.config.images.size), ([3, 64, 64], Some(Size::square(64))));
    assert!(model.states.iter().any(|(name, _)| name == "encoder.2.kernel"), "the small encoder");
}

#[test]
fn the_threshold_says_what_it_was_taken_on_and_what_it_flags() {
    let run = colour().join("run");
    let result = json(&run.join("result.json"));
    assert_eq!(
        result["counts"],
        serde_json::json!({ "train": 18, "held_out": 6, "split": "transductive", "tune": 9, "test": 9 })
    );
    let alarms = &result["alarms"];
    assert_eq!(
        (&alarms["held_out"], &alarms["held_out_flagged"], &alarms["normal"]),
        (&6.into(), &0.into(), &5.into())
    );
    let mut scores = csv::Reader::from_path(run.join("scores.csv")).unwrap();
    let threshold = result["threshold"].as_f64().unwrap();
    let flagged = scores.records().map(Result::unwrap).filter(|row| {
        let score: f64 = row[2].parse().unwrap();
        assert_eq!(&row[5] == "1", score >= threshold);
        &row[1] == "0" && score >= threshold
    });
    let flagged = flagged.count();
    assert_eq!(alarms["normal_flagged"], flagged);
    assert_eq!(alarms["false_alarm_rate"], flagged as f64 / 5.0);
    assert_eq!((&alarms["asked_rate"], &alarms["promised_rate"]), (&0.01.into(), &(1.0 / 7.0).into()));
    // Beta(1, 6): 1 − 0.975^⅙ to 1 − 0.025^⅙.
    let rates: Vec<f64> = alarms["true_rate_interval"].as_array().unwrap().iter().flat_map(Value::as_f64).collect();
    assert!((rates[0] - 0.00421).abs() < 1e-5 && (rates[1] - 0.45926).abs() < 1e-5, "{rates:?}");
    assert_eq!(alarms["normal_flagged_interval"], serde_json::json!([0, 3]));
    colour_said().notice(&[
        "warning  a false-alarm rate of 1 % needs 99 normal images held out of training, and there are 6: ask for 15 % or more",
        "; promises 14 % false alarms, since so few do not bear 1 % (the true rate: 0.42 % to 46 % in 95 of 100 runs); ",
    ]);

    let tested = folder("tested");
    let said = stssad(&[&["test", text(&run), "--out", text(&tested)]]).with(0);
    said.notice(&["held out, for threshold         6", ": exceeded by 0 of 6 held-out normal images; promises 14 %"]);
    assert_eq!(json(&tested.join("test.json"))["alarms"], *alarms);
    assert_eq!(json(&tested.join("test.json"))["metrics"], result["metrics"]);
    assert!(!said.err.contains("note     these are not"), "{}", said.err);

    // No image whose score the threshold was taken on was trained on.
    let config = RunConfig::parse(&fs::read_to_string(run.join("config.toml")).unwrap()).unwrap();
    let loaded = load(config.source().unwrap(), &config.loading(), |_, _| {}).unwrap();
    let held_out = loaded.task.held_out.unwrap();
    assert!(held_out.names.iter().all(|name| !loaded.task.train.names.contains(name)));
    let model = Model::load(&run.join("model.safetensors")).unwrap();
    let scores = Predictor::new(&device(), &model).unwrap().judge(&held_out.images.all().unwrap()).unwrap().scores;
    let highest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    assert_eq!(threshold, highest.next_up());
}

/// Three images, one of which is a text, and a path that is not there.
fn mixed(name: &str) -> [PathBuf; 2] {
    let root = folder(name);
    let mut stream = Stream::new(2, 95);
    put(&root.join("new/a.png"), &mut stream, false);
    put(&root.join("new/c.png"), &mut stream, true);
    fs::write(root.join("new/b.png"), "no image").unwrap();
    [root.join("new"), root.join("missing.png")]
}

#[test]
fn predict_scores_the_good_images_names_the_bad_ones_and_exits_3() {
    let run = colour().join("run");
    let [new, missing] = mixed("mixed");
    let predict = |flags: &[&str]| stssad(&[&["predict", text(&run), text(&new), text(&missing)], flags]);
    let said = predict(&[]).with(3);
    for part in ["b.png: is not a PNG, JPEG", "missing.png: cannot be read", "2 of 4 images could not be scored"] {
        assert!(said.err.contains(part), "no `{part}` in {}", said.err);
    }
    let rows: Vec<csv::StringRecord> =
        csv::Reader::from_reader(said.out.as_bytes()).records().map(Result::unwrap).collect();
    assert_eq!(rows.len(), 4, "{}", said.out);
    let good = rows.iter().filter(|row| row[1].parse::<f64>().is_ok_and(f64::is_finite) && row[4].is_empty());
    // Of seven images, six held out and one new.
    let is_p = |text: &str| text.parse::<f64>().is_ok_and(|p| (1..=7).any(|count| p == f64::from(count) / 7.0));
    assert_eq!(good.filter(|row| is_p(&row[2]) && ["0", "1"].contains(&&row[3])).count(), 2, "{}", said.out);
    let bad = rows.iter().filter(|row| (1..4).all(|column| row[column].is_empty()) && !row[4].is_empty());
    assert_eq!(bad.count(), 2, "{}", said.out);

    let lines: Vec<Value> =
        predict(&["--json"]).with(3).out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let with = |key: &str| lines.iter().filter(|line| line[key] != Value::Null).count();
    assert_eq!((with("path"), with("score"), with("p_value"), with("error")), (4, 2, 2, 2), "{lines:?}");
    // The threshold is the highest of the held-out scores.
    let is_alike =
        |line: &Value| line["score"].is_null() || (line["p_value"] == 1.0 / 7.0) == (line["anomalous"] == true);
    assert!(lines.iter().all(is_alike), "{lines:?}");

    assert_eq!(predict(&["--on-bad-image", "skip"]).with(0).out, said.out);
    let none = predict(&["--on-bad-image", "error"]).with(3);
    none.error(&["2 of 4 images cannot be used", "--on-bad-image skip"]);
    assert!(none.out.is_empty(), "{}", none.out);
    let large = stssad(&[&["predict", text(&run), text(&new.join("a.png")), "--max-pixels", "100"]]).with(3);
    assert!(large.err.contains("more than the limit of 100 (--max-pixels)"), "{}", large.err);
    let empty = folder("mixed-empty");
    let said = stssad(&[&["predict", text(&run), text(&empty), text(&new.join("a.png"))]]).with(3);
    assert!(said.err.contains("contains no images") && said.out.lines().count() == 3, "{said:?}");
}

/// 600 files, more than two batches: rows come in the order of the files, scores are those of the same image alone, and nothing
/// changes if the paths come on standard input.
#[test]
fn predict_is_a_stream() {
    let run = colour().join("run");
    let root = folder("stream");
    let mut stream = Stream::new(2, 96);
    for (index, blot) in [false, true, false].into_iter().enumerate() {
        put(&root.join(format!("own/{index}.png")), &mut stream, blot);
    }
    fs::create_dir_all(root.join("many")).unwrap();
    let path = |index: usize| root.join(format!("many/{index:03}.png"));
    for index in 0..600 {
        match index {
            300 => fs::write(path(index), "no image").unwrap(),
            _ => fs::hard_link(root.join(format!("own/{}.png", index % 3)), path(index)).unwrap(),
        }
    }
    let rows = |said: &Said| -> Vec<csv::StringRecord> {
        csv::Reader::from_reader(said.out.as_bytes()).records().map(Result::unwrap).collect()
    };
    let said = stssad(&[&["predict", text(&run), text(&root.join("many"))]]).with(3);
    let found = rows(&said);
    assert_eq!(found.len(), 600);
    let alone = rows(&stssad(&[&["predict", text(&run), text(&root.join("own"))]]).with(0));
    for (index, row) in found.iter().enumerate() {
        assert_eq!(&row[0], text(&path(index)));
        match index {
            300 => assert!(row[1].is_empty() && row[4].contains("is not a PNG"), "{row:?}"),
            _ => {
                let [found, alone] = [&row[1], &alone[index % 3][1]].map(|score| score.parse::<f64>().unwrap());
                assert!((found - alone).abs() <= 1e-4 * alone.abs().max(1.0), "{index}: {found} and {alone}");
            }
        }
    }
    assert!(said.err.contains("1 of 600 images could not be scored"), "{}", said.err);

    let piped = |lines: &[u8]| {
        use std::io::Write;
        let mut command = command(&[&["predict", text(&run), "-", "--threshold", "-1e9"]]);
        let mut child =
            command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(lines).unwrap();
        let output = child.wait_with_output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let lines = format!("{}\n{}\n", text(&path(1)), text(&path(2)));
    let (code, out) = piped(lines.as_bytes());
    assert_eq!((code, out.lines().count()), (Some(0), 3), "{out}");
    assert!(out.lines().skip(1).all(|line| line.ends_with(",1,")), "all are above this threshold: {out}");
    assert_eq!(piped(lines.replace('\n', "\0").as_bytes()).1, out);
    // As Windows' editors write it.
    assert_eq!(piped(format!("\u{feff}{}", lines.replace('\n', "\r\n")).as_bytes()).1, out);
    assert_eq!(piped(b"").0, Some(2));
    assert_eq!(piped(b"\xff\xfe/\0\n\0"), (Some(74), String::new()), "UTF-16 is refused");
    stssad(&[&["predict", text(&run), text(&path(1)), "--threshold", "nan"]]).with(2);
}

#[test]
fn predict_writes_a_heat_map_of_each_image() {
    let run = colour().join("run");
    let [new, missing] = mixed("mapped");
    let maps = new.with_file_name("maps");
    let predict =
        |flags: &[&str]| stssad(&[&["predict", text(&run), text(&new), text(&missing), "--maps", text(&maps)], flags]);
    let said = predict(&[]).with(3);
    let mut rows = csv::Reader::from_reader(said.out.as_bytes());
    assert_eq!(rows.headers().unwrap(), vec!["path", "score", "p_value", "anomalous", "error", "map"]);
    let rows: Vec<csv::StringRecord> = rows.records().map(Result::unwrap).collect();
    let with_map = |row: &&csv::StringRecord| !row[5].is_empty();
    assert_eq!(rows.iter().filter(with_map).count(), 2, "{}", said.out);
    for row in rows.iter().filter(with_map) {
        assert!(row[4].is_empty() && image::open(&row[5]).unwrap().width() >= 128, "{row:?}");
        let values = Path::new(&row[5].replace("overlays", "values")).with_extension("npy");
        let side = Model::load(&run.join("model.safetensors")).unwrap().image[1];
        assert_eq!(fs::metadata(values).unwrap().len(), 128 + 4 * (side * side) as u64);
    }
    // Again into the same folder, which is stssad's own; not into a run's.
    assert_eq!(predict(&["--json"]).with(3).out.lines().filter(|line| line.contains("\"map\":")).count(), 2);
    let into_run = stssad(&[&["predict", text(&run), text(&new), "--maps", text(&run)]]).with(2);
    into_run.error(&["choose another folder"]);
}

/// Masks have the size of the files, and boxes lie in them.
#[test]
fn predict_writes_masks_and_boxes_of_anomalies() {
    let run = colour().join("run");
    let root = folder("masked");
    // 96×48 pixels, which the detector sees as 64×64.
    let wide = image::RgbImage::from_fn(96, 48, |x, y| image::Rgb([(x * 2) as u8, (y * 4) as u8, 90]));
    fs::create_dir_all(root.join("new")).unwrap();
    wide.save(root.join("new/wide.png")).unwrap();
    let masks = root.join("masks");
    let pattern = root.join("new/w*.png");
    let predict = |threshold: &str| {
        let said = stssad(&[
            &["predict", text(&run), text(&pattern), "--json", "--masks", text(&masks)],
            &["--threshold", threshold],
        ]);
        let lines = said.with(0).out;
        let line: Value = serde_json::from_str(lines.trim_end()).unwrap();
        let mask = image::open(line["mask"].as_str().unwrap()).unwrap().into_luma8();
        assert_eq!(mask.dimensions(), (96, 48));
        (line["boxes"].as_array().unwrap().clone(), mask)
    };
    let (boxes, mask) = predict("-1e9");
    assert!(!boxes.is_empty());
    let inside = |x: u32, y: u32| {
        boxes.iter().any(|own| {
            let [left, top, width, height] = [0, 1, 2, 3].map(|index| own[index].as_u64().unwrap() as u32);
            (left..left + width).contains(&x) && (top..top + height).contains(&y)
        })
    };
    let white: Vec<(u32, u32)> =
        mask.enumerate_pixels().filter(|(.., level)| level.0[0] > 0).map(|(x, y, _)| (x, y)).collect();
    assert!(!white.is_empty() && white.iter().all(|&(x, y)| inside(x, y)), "{boxes:?}");
    let (boxes, mask) = predict("1e9");
    assert!(boxes.is_empty() && mask.iter().all(|&level| level == 0), "no anomaly, no mask");

    let none = root.join("new/x*.png");
    stssad(&[&["predict", text(&run), text(&none)]]).with(2).error(&["no file fits this pattern"]);
    let one = ["--maps", text(&masks), "--masks", text(&masks)];
    stssad(&[&["predict", text(&run), text(&pattern)], &one]).with(2).error(&["give each its own"]);
}

/// The model keeps the scores of the images that were held out. A rate that they cannot bear is refused.
#[test]
fn the_rate_of_false_alarms_may_be_set_anew() {
    let run = colour().join("run");
    let new = colour().join("tree/part/test/good");
    let predict = |flags: &[&str]| stssad(&[&["predict", text(&run), text(&new)], flags]);
    let model = Model::load(&run.join("model.safetensors")).unwrap();
    assert_eq!(model.held_out.len(), 6);
    // The highest of six scores is exceeded by one in seven.
    assert_eq!(predict(&["--false-alarms", "15%"]).with(0).out, predict(&[]).with(0).out);
    assert_eq!(predict(&["--false-alarms", "0.15"]).with(0).out, predict(&[]).with(0).out);
    let refusal =
        ["a false-alarm rate of 5 % needs 19 normal images", "there are 6: ask for 15 % or more", "--held-out 19"];
    predict(&["--false-alarms", "5%"]).with(2).error(&refusal);
    for wrong in [["--false-alarms", "0%"], ["--false-alarms", "1"], ["--threshold", "5%"]] {
        predict(&wrong).with(2);
    }
    predict(&["--threshold", "1", "--false-alarms", "50%"]).with(2);

    // At 50 % above the fourth of the six scores: two are flagged.
    let tested = folder("tested-at-half");
    let test = |rate: &str| stssad(&[&["test", text(&run), "--out", text(&tested), "--false-alarms", rate]]);
    test("5%").with(2).error(&refusal);
    test("50%").with(0).notice(&[": exceeded by 2 of 6 held-out normal images; promises at most 50 % false alarms"]);
    let alarms = &json(&tested.join("test.json"))["alarms"];
    assert_eq!((&alarms["asked_rate"], &alarms["promised_rate"]), (&0.5.into(), &(3.0 / 7.0).into()));
}

#[test]
fn as_many_images_are_held_out_as_asked() {
    let (tree, root) = (colour().join("tree"), folder("held-out"));
    let data = ["--data", "mvtec", "--root", text(&tree), "--category", "part", "--steps", "1", "--starts", "1"];
    let train = |name: &str, flags: &[&str]| stssad(&[&["train"], &data, &["--out", text(&root.join(name))], flags]);
    let said = train("nine", &["--held-out", "9", "--false-alarms", "10%"]).with(0);
    said.notice(&["held out, for threshold         9", "promises at most 10 % false alarms"]);
    assert!(!said.err.contains("warning"), "{}", said.err);
    train("none", &["--held-out", "0"]).with(0).notice(&["no threshold: no normal images were held out of training"]);
    let new = tree.join("part/test/good");
    let said = stssad(&[&["predict", text(&root.join("none")), text(&new)]]).with(0);
    assert!(said.out.lines().nth(1).unwrap().ends_with(",,,"), "neither p-value nor verdict: {}", said.out);
    train("all", &["--held-out", "22"]).with(2).error(&["--held-out is 22: there are 24 normal images"]);
    train("rate", &["--false-alarms", "100%"]).with(2).error(&["between 0% and 100%, both excluded"]);
}

/// Files that are put into a folder are scored once each, as they come, until a signal.
#[cfg(unix)]
#[test]
fn predict_watches_a_folder() {
    use std::io::{BufRead, BufReader};
    let run = colour().join("run");
    let root = folder("watched");
    let mut stream = Stream::new(2, 97);
    put(&root.join("first.png"), &mut stream, false);
    let mut command = command(&[&["predict", text(&run), "--json", "--watch", text(&root)]]);
    let mut child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    assert!(next()["path"].as_str().unwrap().ends_with("first.png"));
    put(&root.join("second.png"), &mut stream, true);
    fs::write(root.join("notes.txt"), "no image").unwrap();
    let second = next();
    assert!(second["path"].as_str().unwrap().ends_with("second.png") && second["score"].is_f64());
    fs::write(root.join("third.png"), "no image").unwrap();
    assert!(next()["error"].as_str().unwrap().contains("is not a PNG"));
    assert!(std::process::Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(3), "one image could not be scored");
    assert!(lines.next().is_none());
    stssad(&[&["predict", text(&run), "--watch", text(&root.join("none"))]]).with(3);
}

#[test]
fn test_takes_other_images_and_finds_its_own_elsewhere() {
    let run = colour().join("run");
    let root = folder("moved");
    let copied = |name: &str| {
        let to = root.join(name);
        for file in walkdir::WalkDir::new(colour().join("tree")).into_iter().flatten().filter(|it| it.path().is_file())
        {
            let path = to.join(file.path().strip_prefix(colour().join("tree")).unwrap());
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::copy(file.path(), path).unwrap();
        }
        to
    };
    let test = |flags: &[&str], out: &str| {
        let out = root.join(out);
        let said = stssad(&[&["test", text(&run), "--out", text(&out)], flags]).with(0);
        let rows = fs::read_to_string(out.join("scores.csv")).unwrap().lines().count() - 1;
        (said.err, rows, json(&out.join("test.json")))
    };
    let (_, _, own) = test(&[], "own");
    let (said, rows, moved) = test(&["--root", text(&copied("tree"))], "a");
    assert!(said.contains("these are the images of the run") && rows == 9, "{said}");
    assert_eq!(moved["metrics"], own["metrics"]);
    // Other images in the same layout: all labelled ones.
    let other = copied("other");
    fs::remove_file(other.join("part/test/good/000.png")).unwrap();
    let (said, rows, _) = test(&["--root", text(&other)], "b");
    assert!(!said.contains("the images of the run") && rows == 8, "{said}");
    // Other folders; nothing is set aside.
    let lab = ["--data", "folder", "--root", text(&other), "--normal-dir", "part/train/good"];
    let (_, rows, report) = test(&[&lab[..], &["--abnormal-dir", "part/test/bar"]].concat(), "c");
    assert_eq!((rows, &report["alarms"]["normal"]), (24 + 4, &Value::from(24)));
    let (_, rows, report) = test(&[&lab[..4], &["--unlabelled-dir", "part/test/bar"]].concat(), "d");
    assert_eq!((rows, &report["metrics"]["image_AUROC"]), (4, &Value::Null));
    let nowhere = stssad(&[&["test", text(&run), "--root", text(&root.join("none"))]]).with(3);
    nowhere.error(&["there is no folder"]);
}

#[test]
fn a_test_on_images_that_the_run_has_seen_says_so() {
    let (tree, run, root) = (colour().join("tree/part"), colour().join("run"), folder("seen"));
    let mut stream = Stream::new(7, 95);
    (0..3).for_each(|number| put(&root.join(format!("new/{number}.png")), &mut stream, false));
    // A run of an earlier version, and one whose file was cut.
    for name in ["earlier", "cut"] {
        fs::create_dir(root.join(name)).unwrap();
        fs::copy(run.join("model.safetensors"), root.join(name).join("model.safetensors")).unwrap();
    }
    fs::write(root.join("cut/seen.bin"), &fs::read(run.join("seen.bin")).unwrap()[1..]).unwrap();
    let test = |run: &Path, out: &str| {
        let data = ["--data", "folder", "--root", text(&root), "--normal-dir", "new"];
        let said = stssad(&[&["test", text(run)], &data, &["--out", text(&root.join(out))]]).with(0);
        let warnings: Vec<String> =
            said.err.lines().filter(|line| line.contains("warning")).map(str::to_owned).collect();
        (warnings, json(&root.join(out).join("test.json"))["seen"].clone())
    };
    assert_eq!(test(&run, "a"), (vec![], 0.into()));
    // Of those trained on, held out and tuned on, under other names and in another format.
    for (number, image) in ["train/good/000.png", "train/good/001.png", "test/bar/000.png"].into_iter().enumerate() {
        image::open(tree.join(image)).unwrap().save(root.join(format!("new/copy {number}.bmp"))).unwrap();
    }
    let (warnings, seen) = test(&run, "b");
    assert!(matches!(&warnings[..], [it] if it.contains("trained or tuned on 3 of these 6 images")), "{warnings:?}");
    assert_eq!(seen, 3);
    for (run, out) in [("earlier", "c"), ("cut", "d")] {
        let (warnings, seen) = test(&root.join(run), out);
        assert!(matches!(&warnings[..], [it] if it.contains("seen.bin is missing or damaged")), "{warnings:?}");
        assert_eq!(seen, Value::Null);
    }
}

/// Images of 64×64 pixels in tiles of 32: an image's score is the greatest of its tiles', in training, test and prediction.
#[test]
fn large_images_are_scored_by_their_tiles() {
    let root = folder("tiles");
    let (tree, run) = (colour().join("tree"), root.join("run"));
    let data = ["--data", "mvtec", "--root", text(&tree), "--category", "part", "--tiles", "32", "--size", "16"];
    let said = stssad(&[&["train"], &data, &["--steps", "2", "--starts", "1", "--out", text(&run)]]).with(0);
    // Nine tiles of each of 33 images.
    said.notice(&["tiles of 32×32 pixels (297 in all)", "becomes 16×16 RGB", "the greatest of its tiles'"]);
    let result = json(&run.join("result.json"));
    assert_eq!((&result["counts"]["train"], &result["counts"]["test"]), (&18.into(), &9.into()));
    let scores = |path: &Path| -> Vec<f64> {
        let mut rows = csv::Reader::from_path(path).unwrap();
        rows.records().map(|row| row.unwrap()[2].parse().unwrap()).collect()
    };
    let trained = scores(&run.join("scores.csv"));
    assert_eq!(trained.len(), 9);
    stssad(&[&["test", text(&run), "--out", text(&root.join("again"))]]).with(0);
    assert_eq!(scores(&root.join("again/scores.csv")), trained);
    let (maps, masks) = (root.join("maps"), root.join("masks"));
    let pictures = ["--maps", text(&maps), "--masks", text(&masks), "--threshold", "-1e9", "--json"];
    let said = stssad(&[&["predict", text(&run), text(&tree.join("part/test"))], &pictures]).with(0);
    let lines: Vec<Value> = said.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let predicted: Vec<f64> = lines.iter().map(|line| line["score"].as_f64().unwrap()).collect();
    for (predicted, tested) in predicted.iter().zip(&trained) {
        assert!((predicted - tested).abs() <= 1e-4 * tested.abs().max(1.0), "{predicted} and {tested}");
    }
    // The tiles of 32 pixels become 16, and the image of 64 pixels 32.
    assert_eq!(fs::metadata(maps.join("values/000.npy")).unwrap().len(), 128 + 4 * 32 * 32);
    let mask = image::open(lines[0]["mask"].as_str().unwrap()).unwrap();
    assert_eq!((mask.width(), mask.height()), (64, 64));
    assert!(lines.iter().all(|line| !line["boxes"].as_array().unwrap().is_empty()));
}

/// A link that leads nowhere, one to a folder that it lies in, and a pipe that nobody writes to.
#[cfg(unix)]
#[test]
fn predict_goes_past_links_and_pipes() {
    let run = colour().join("run");
    let [new, _] = mixed("links");
    std::os::unix::fs::symlink("/nonexistent", new.join("x.png")).unwrap();
    std::os::unix::fs::symlink(&new, new.join("self")).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(new.join("y.png")).status().unwrap().success());
    let said = stssad(&[&["predict", text(&run), text(&new)]]).with(3);
    for part in ["x.png: cannot be read", "y.png: ", "3 of 5 images could not be scored"] {
        assert!(said.err.contains(part), "no `{part}` in {}", said.err);
    }
}

#[test]
fn a_score_that_is_no_number_is_marked_and_ends_a_test() {
    let run = colour().join("run");
    let mut model = Model::load(&run.join("model.safetensors")).unwrap();
    let broken = folder("broken");
    for (name, tensor) in &mut model.states {
        if name == "head.1.weight" {
            *tensor = Tensor::full(tensor.shape().clone(), f32::MAX);
        }
    }
    model.save(&broken.join("model.safetensors")).unwrap();
    let [new, _] = mixed("broken-images");
    let said = stssad(&[&["predict", text(&broken), text(&new.join("a.png"))]]).with(3);
    assert!(said.err.contains("its score is not finite"), "{}", said.err);
    let row = csv::Reader::from_reader(said.out.as_bytes()).records().next().unwrap().unwrap();
    assert!((1..4).all(|column| row[column].is_empty()) && row[4].contains("not finite"), "{}", said.out);
    stssad(&[&["test", text(&broken)]]).with(70).error(&["scores are not finite", "smaller --learning-rate"]);

    let config = RunConfig::parse(&fs::read_to_string(run.join("config.toml")).unwrap()).unwrap();
    let loaded = load(config.source().unwrap(), &config.loading(), |_, _| {}).unwrap();
    for (_, tensor) in &mut model.states {
        *tensor = Tensor::full(tensor.shape().clone(), f32::NAN);
    }
    let refused = test(&device(), &model, &loaded.task.test, Extent::Full);
    assert!(matches!(refused, Err(RunError::Score(_))), "{refused:?}");
}

#[test]
fn paths_in_the_wrong_order_or_of_no_run_are_told_apart() {
    let root = colour();
    let (run, tree) = (root.join("run"), root.join("tree"));
    let said = stssad(&[&["predict", text(&tree), text(&run)]]).with(2);
    said.error(&["is not the folder of a run, but", "give the run first, as in stssad predict"]);
    let image = tree.join("part/test/bar/000.png");
    stssad(&[&["predict", text(&image), text(&run)]]).with(2).error(&["give the run first"]);
    stssad(&[&["test", text(root)]]).with(2).error(&["is a folder of runs: give one of them", text(&run)]);
    stssad(&[&["test", text(&root.join("nowhere"))]]).with(2).error(&["nowhere does not exist"]);
    stssad(&[&["predict", text(&tree), text(&tree)]]).with(2).error(&["contains no model.safetensors"]);
}
