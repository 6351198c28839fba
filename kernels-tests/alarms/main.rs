//! Whether false alarms on fresh normal images are as many as thresholds promise: small runs on packaged images, each with other
//! images, weights and batches.
//!
//! `cargo run --release --example alarms -- RUNS` prints a table, and fails if too few runs keep their promise on images that are
//! like the held-out ones.

use std::collections::BTreeMap;
use std::process::ExitCode;

use stssad::data::paint::{Defect, Material, Texture};
use stssad::data::sheet::Digits;
use stssad::data::{Loading, Set, Source, Split, load};
use stssad::engine::gpu::{Choice, Device};
use stssad::run::config::{RunConfig, Training};
use stssad::run::execute::{Extent, MODEL, Run, Watch, test};
use stssad::run::fit::Fitted;
use stssad::run::folder::RunFolder;
use stssad::run::model::Model;
use stssad::run::race::Leg;
use stssad::training::conformal::{Threshold, is_flagged};
use stssad::training::trainer::Progress;

type Failed = Box<dyn std::error::Error>;

const RATES: [f64; 3] = [0.01, 0.05, 0.1];
/// Normal images to train on and to set the threshold on.
const NORMALS: usize = 200;
const HELD_OUT: usize = 99;
/// Other normal images, half of which are tuned on.
const OTHERS: usize = 300;

/// Kinds of packaged images; runs take the sources of a kind in turns.
const TASKS: [(&str, &[Source]); 3] = [
    ("digits", &[digits(6, 9), digits(9, 6), digits(0, 3), digits(2, 5), digits(5, 1)]),
    ("gravel", &[texture(Material::Gravel, Defect::Blob), texture(Material::Gravel, Defect::Scratch)]),
    ("brick", &[texture(Material::Brick, Defect::Blob), texture(Material::Brick, Defect::Scratch)]),
];

const fn digits(normal: u8, anomaly: u8) -> Source {
    Source::Digits(Digits { normal, anomaly })
}

const fn texture(texture: Material, defect: Defect) -> Source {
    Source::Texture(Texture::new(texture, defect))
}

/// Nothing is shown and nothing stops.
struct Quiet;

impl Watch for Quiet {
    fn compiling(&mut self, _: usize, _: usize) {}
    fn fitted(&mut self, _: &Fitted) {}
    fn step(&mut self, _: &[Progress], _: &Leg, _: usize) {}
    fn reporting(&mut self, _: &str) {}
    fn wants_stop(&self) -> bool {
        false
    }
}

/// Scores of a run's normal images.
struct Scored {
    held_out: Vec<f64>,
    /// Of each set of others, with its name.
    sets: Vec<(&'static str, Vec<f64>)>,
}

/// The runs of a kind of images on one set of normal images, at one rate.
#[derive(Default)]
struct Row {
    /// How many runs flag as many as chance explains.
    within: usize,
    images: usize,
    promised: f64,
    /// How many images each run flags.
    flagged: Vec<usize>,
}

fn main() -> Result<ExitCode, Failed> {
    let runs: usize = std::env::args().nth(1).map_or(Ok(20), |runs| runs.parse())?;
    let device = Device::open(&Choice::Best)?;
    let mut rows = BTreeMap::<(usize, usize, &str), Row>::new();
    for run in 0..runs {
        for (kind, (name, sources)) in TASKS.iter().enumerate() {
            let Scored { held_out, sets } = scored(&device, &sources[run % sources.len()], run as u64)?;
            for (rate, &asked) in RATES.iter().enumerate() {
                let threshold = Threshold::promising(&held_out, asked)?;
                for (set, scores) in &sets {
                    let flagged = scores.iter().filter(|&&score| is_flagged(score, threshold.score)).count();
                    let [least, most] = threshold.false_alarms(scores.len()).expect("held-out images");
                    let row = rows.entry((kind, rate, set)).or_default();
                    row.within += usize::from((least..=most).contains(&flagged));
                    row.images += scores.len();
                    row.promised = threshold.promised().expect("held-out images");
                    row.flagged.push(flagged);
                }
            }
            eprintln!("run {} of {runs}: {name}", run + 1);
        }
    }
    println!("| images | normal images tested | promised | measured | runs within 95 % | false alarms of each run |");
    println!("| --- | --- | ---: | ---: | ---: | --- |");
    let mut is_kept = true;
    for ((kind, _, set), row) in rows {
        let counts = row.flagged.iter().map(usize::to_string).collect::<Vec<_>>().join(" ");
        let (name, promised, within) = (TASKS[kind].0, 100.0 * row.promised, row.within);
        let measured = 100.0 * row.flagged.iter().sum::<usize>() as f64 / row.images as f64;
        println!("| {name} | {set} | {promised:.1} % | {measured:.1} % | {within} of {runs} | {counts} |");
        // Fewer than 16 of 20 are so three times in a thousand.
        is_kept &= !ALIKE.contains(&set) || 20 * within >= 16 * runs;
    }
    Ok(if is_kept { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Sets that are drawn as the held-out images are.
const ALIKE: [&str; 2] = ["fresh", "fresh, same fields"];

/// Trains on images of a source, and scores the held-out images, and sets of other normal images.
fn scored(device: &Device, source: &Source, seed: u64) -> Result<Scored, Failed> {
    let is_digits = matches!(source, Source::Digits(_));
    let config = RunConfig {
        seed,
        data: Some(source.clone()),
        augmentation: if is_digits { "rotation".into() } else { "cutdiff".into() },
        images: Loading {
            split: Split::Inductive,
            held_out: Some(HELD_OUT),
            max_train: Some(NORMALS),
            max_normals: Some(OTHERS),
            max_anomalies: Some(60),
            ..Loading::default()
        },
        training: Training { steps: 30, starts: Some(1), ..Training::default() },
        ..RunConfig::default()
    };
    let loaded = load(source, &config.loading(), |_, _| {})?;
    let folder = tempfile::tempdir()?;
    let folder = RunFolder::create(folder.path())?;
    let run = Run { device, beside: &[], config: &config, loaded: &loaded, folder: &folder, extent: Extent::Figures };
    run.train(None, &mut Quiet)?;
    let model = Model::load(&folder.path().join(MODEL))?;

    let normal = |set: &Set| -> Result<Vec<f64>, Failed> {
        let normal = set.select(&set.rows(Some(false)));
        Ok(test(device, &model, &normal, Extent::Figures)?.scored.iter().map(|image| image.score).collect())
    };
    let tune = loaded.task.tune.as_ref().expect("an inductive split");
    let mut sets = Vec::new();
    if is_digits {
        sets.push(("fresh", normal(&loaded.task.test)?));
        sets.push(("tuned on", normal(tune)?));
    } else {
        // Crops of a texture are drawn one after another, so these are those that training would have had next.
        let more = Loading { max_train: Some(NORMALS + OTHERS / 2), held_out: Some(0), ..config.loading() };
        let more = load(source, &more, |_, _| {})?.task.train;
        sets.push(("fresh, same fields", normal(&more.select(&(NORMALS..more.len()).collect::<Vec<_>>()))?));
        sets.push(("fresh, test fields", normal(&loaded.task.test)?));
        sets.push(("tuned on, test fields", normal(tune)?));
    }
    Ok(Scored { held_out: model.held_out, sets })
}
