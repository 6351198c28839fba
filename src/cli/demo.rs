//! `stssad demo`: 6 is normal, 9 is the anomaly, and the rotation that leads from one to the other is not told.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Args;
use stssad::augment::Rotation;
use stssad::data::{DataError, Split, Visible, decode_sheet};
use stssad::gpu::Device;
use stssad::loss::Alignment;
use stssad::nn::Detector;
use stssad::report::{Adapter, Augmentation as Found, Outcome, PictureRow, RunFolder, Start, Step, Table};
use stssad::score::auroc;
use stssad::ssad::{Config, Order, Progress, Trained, Trainer, choose};
use stssad::tensor::Tensor;

use super::{DeviceArguments, progress_bar};

/// 500 handwritten digits each, from MNIST.
const NORMAL: (&str, &[u8]) = ("assets/digits/6.png", include_bytes!("../../assets/digits/6.png"));
const ANOMALY: (&str, &[u8]) = ("assets/digits/9.png", include_bytes!("../../assets/digits/9.png"));
/// Side of a digit in pixels.
const TILE: usize = 28;
/// Pictures in a row of `pictures.png`.
const PICTURES: usize = 10;

/// Arguments of `stssad demo`.
#[derive(Debug, Args)]
pub struct Demo {
    /// Folder for result.json, metrics.csv and the pictures.
    #[arg(long, value_name = "DIR", default_value = "results/demo")]
    out: PathBuf,
    /// Seed of the split, the initial weights, the batches and the random places.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Order of the hyper-gradient: 1 leaves out the second-order term, for comparison.
    #[arg(long, value_name = "1|2", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=2))]
    order: u8,
    #[command(flatten)]
    device: DeviceArguments,
    /// Print result.json to standard output when done.
    #[arg(long)]
    json: bool,
    /// Print the planned step, a line a dispatch, and stop.
    #[arg(long)]
    print_plan: bool,
}

/// The demo's training: the recipe that the packaged digits are known to work with.
pub fn config(order: Order, seed: u64) -> Config {
    Config {
        detector: Detector::small(1),
        augmentation: Box::new(Rotation::default()),
        alignment: Alignment::DiagonalW2 { mass: 0.5 },
        order,
        steps: 180,
        warm_up: 40,
        batch: 48,
        batch_val: 96,
        rate: 1e-3,
        look_ahead: 0.01,
        seed,
    }
}

/// The packaged task: 6 is normal, 9 is not.
pub fn split(seed: u64) -> Result<Split, DataError> {
    let [normal, anomaly] = [NORMAL, ANOMALY].map(|(path, bytes)| decode_sheet(bytes, path, TILE));
    Split::semantic(&normal?, &anomaly?, 300, 100, 100, seed)
}

impl Demo {
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        let device = self.device.open()?;
        let adapter = device.adapter().clone();
        eprintln!("device   {} ({}; {})", adapter.name, adapter.class, adapter.driver);
        let split = split(self.seed)?;
        let config = config(if self.order == 1 { Order::First } else { Order::Second }, self.seed);
        eprintln!(
            "data     train on {} normal pictures, tune on {} unlabelled ones; labels are read for the AUROC alone",
            split.train.shape()[0],
            split.val.shape()[0]
        );

        let mut trainer = prepare(&device, &config, split.visible())?;
        if self.print_plan {
            print!("{}", trainer.tuning_step()?.plan());
            return Ok(ExitCode::SUCCESS);
        }
        let folder = RunFolder::create(&self.out)?;
        let starts = config.augmentation.starts();
        let mut steps = Vec::new();
        let bar =
            progress_bar((config.steps * starts.len()) as u64, "train    {bar:28} {pos}/{len} steps  {per_sec}  {msg}");
        let begun = Instant::now();
        let mut trained = Vec::new();
        for (index, start) in starts.iter().enumerate() {
            trained.push(trainer.train(index, start, |progress| {
                let setting = config.augmentation.setting(&progress.a);
                bar.set_message(format!(
                    "start {}/{}  loss {:.3}  angle {:.0}°",
                    index + 1,
                    starts.len(),
                    progress.inner,
                    setting["angle_degrees"]
                ));
                bar.inc(1);
                let Progress { start, step, inner, outer, .. } = progress;
                steps.push(Step { start, step, inner, outer, setting });
            })?);
        }
        let seconds = begun.elapsed().as_secs_f64();
        bar.finish_and_clear();

        let chosen = choose(&trained).expect("at least one start");
        let outcome = Outcome {
            image_auroc: auroc(&trained[chosen].scores, &split.val_labels),
            augmentation: Found {
                name: config.augmentation.name().to_owned(),
                values: config.augmentation.setting(&trained[chosen].end),
            },
            order: self.order,
            seed: self.seed,
            steps: config.steps,
            seconds,
            adapter: Adapter { name: adapter.name, driver: adapter.driver, class: adapter.class },
            starts: trained
                .iter()
                .enumerate()
                .map(|(index, trained)| Start {
                    start: config.augmentation.setting(&trained.start),
                    end: config.augmentation.setting(&trained.end),
                    spread: trained.spread,
                    image_auroc: auroc(&trained.scores, &split.val_labels),
                    image_auroc_logit: auroc(&trained.logits, &split.val_labels),
                    chosen: index == chosen,
                })
                .collect(),
            ..Outcome::default()
        };
        folder.write_metrics(&steps)?;
        folder.write_curves(&outcome, &steps)?;
        let augmented = [&trained[chosen].start, &trained[chosen].end].map(|a| trainer.augment(a));
        let [at_start, at_end] = augmented;
        write_pictures(&folder, &split, &trained[chosen], [&at_start?, &at_end?])?;
        folder.write_result(&outcome)?;

        eprintln!("{}", Table(&outcome.starts));
        eprintln!(
            "{:.1} steps/s; everything is in {}",
            (config.steps * starts.len()) as f64 / seconds,
            folder.path().display()
        );
        if self.json {
            println!("{}", serde_json::to_string_pretty(&outcome)?);
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Builds the pipelines under a progress bar; some drivers take seconds.
pub fn prepare<'a>(device: &Device, config: &'a Config, pictures: Visible<'a>) -> anyhow::Result<Trainer<'a>> {
    let bar = progress_bar(0, "compile  {bar:28} {pos}/{len} dispatches");
    let trainer = Trainer::new(device, config, pictures, |done, of| {
        bar.set_length(of as u64);
        bar.set_position(done as u64);
    })?;
    bar.finish_and_clear();
    Ok(trainer)
}

/// The strip: normal pictures, what they became at the chosen start's two ends, and the anomalies, with scores.
fn write_pictures(
    folder: &RunFolder,
    split: &Split,
    chosen: &Trained,
    [at_start, at_end]: [&Tensor; 2],
) -> anyhow::Result<()> {
    let first: Vec<usize> = (0..PICTURES).collect();
    let of_class = |anomalous: bool| -> Vec<usize> {
        let rows = (0..split.val_labels.len()).filter(|&row| split.val_labels[row] == anomalous);
        rows.take(PICTURES).collect()
    };
    let [normals, anomalies] = [false, true].map(of_class);
    let scores = |rows: &[usize]| -> Vec<f64> { rows.iter().map(|&row| chosen.scores[row]).collect() };
    let rows = [
        ("normal", split.val.gather_rows(&normals), scores(&normals)),
        ("augmented at the start", at_start.gather_rows(&first), Vec::new()),
        ("augmented at the end", at_end.gather_rows(&first), Vec::new()),
        ("anomalies", split.val.gather_rows(&anomalies), scores(&anomalies)),
    ];
    let rows: Vec<PictureRow> =
        rows.iter().map(|(title, pictures, scores)| PictureRow { title, pictures, scores }).collect();
    folder.write_pictures(&rows)?;
    Ok(())
}
