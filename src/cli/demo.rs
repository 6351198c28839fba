//! `stssad demo`: 6 is normal, 9 is the anomaly, and the program finds the rotation between them.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use stssad::data::sheet::Digits;
use stssad::data::{Loaded, Loading, Source, load};
use stssad::run::config::{RunConfig, Training};
use stssad::run::folder::RunFolder;
use stssad::run::web;
use stssad::ssad::config::Config;

use super::progress::Mode;
use super::train::{OutputArguments, execute, open};
use super::{DeviceArguments, PrecisionArguments, trainer};

/// Arguments of `stssad demo`.
#[derive(Debug, Args)]
pub struct Demo {
    /// Folder for the demo's files [default: results/demo], or the page's file with `--format web` [default: demo.html]; files of an
    /// earlier demo are overwritten.
    #[arg(long, value_name = "PATH")]
    out: Option<PathBuf>,
    /// What to write instead of training here.
    #[arg(long, value_enum, conflicts_with_all = ["recompute", "memory", "precision", "adapter", "shaders", "progress", "json", "print_plan"])]
    format: Option<Format>,
    /// Seed of all random draws: split, initial weights, batches.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Order of the hyper-gradient: 1 omits the second-order term, for comparison.
    #[arg(long, value_name = "1|2", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=2))]
    order: u8,
    /// Recompute cheap values instead of storing them: less memory, more time, the same results.
    #[arg(long)]
    recompute: bool,
    /// Print how much device memory a training step needs, before training.
    #[arg(long)]
    memory: bool,
    #[command(flatten)]
    precision: PrecisionArguments,
    #[command(flatten)]
    device: DeviceArguments,
    /// How to show progress on standard error.
    #[arg(long, value_enum, default_value_t, value_name = "HOW")]
    progress: Mode,
    /// Print result.json to standard output when done.
    #[arg(long)]
    json: bool,
    /// Print the plan of a training step, one line per dispatch, and exit.
    #[arg(long)]
    print_plan: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// One HTML page that trains in browsers with WebGPU, by the same kernels
    Web,
}

/// Where the page begins, in degrees.
const FROM: f32 = 230.0;

/// The demo's configuration.
fn config(order: u8, seed: u64) -> RunConfig {
    let most = Some(100);
    RunConfig {
        seed,
        augmentation: "rotation".into(),
        data: Some(Source::Digits(Digits { normal: 6, anomaly: 9 })),
        images: Loading { max_train: Some(300), max_normals: most, max_anomalies: most, ..Loading::default() },
        training: Training { order, batch: 48, batch_val: 96, ..Training::default() },
        ..RunConfig::default()
    }
}

/// The demo's images and its training configuration.
fn prepared(config: &RunConfig) -> anyhow::Result<(Loaded, Config)> {
    let loaded = load(config.source()?, &config.loading(), |_, _| {})?;
    let visible = loaded.task.visible();
    let [normals, c, h, w] = visible.train.shape();
    let training = config.training([c, h, w], normals, visible.val.len())?;
    Ok((loaded, training))
}

impl Demo {
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        if let Some(Format::Web) = self.format {
            return self.page();
        }
        let device = open(&self.device)?;
        let mut config = config(self.order, self.seed);
        config.training.precision = self.precision.precision;
        config.training.recompute = self.recompute;
        config.check()?;
        let at_precision = device.with_precision(self.precision.precision)?;
        let (loaded, training) = prepared(&config)?;
        if self.print_plan {
            result!("{}", trainer(&at_precision, &training, loaded.task.visible())?.full_step()?.plan())?;
            return Ok(ExitCode::SUCCESS);
        }
        let output = OutputArguments {
            out: None,
            no_report: false,
            memory: self.memory,
            fast_dev_run: false,
            max_time: None,
            progress: self.progress,
            json: self.json,
        };
        let folder = RunFolder::for_demo(self.out.as_deref().unwrap_or(Path::new("results/demo")))?;
        folder.start_over()?;
        note!("{}", loaded.table());
        execute(&[device], &config, &loaded, &folder, None, &output, output.stop()?)
    }

    fn page(&self) -> anyhow::Result<ExitCode> {
        let config = config(self.order, self.seed);
        let (loaded, training) = prepared(&config)?;
        let training = Config { starts: vec![vec![FROM.to_radians()]], ..training };
        let out = self.out.as_deref().unwrap_or(Path::new("demo.html"));
        web::save(&web::training(&training, &loaded.task)?, out)?;
        result!("{}", out.display())?;
        Ok(ExitCode::SUCCESS)
    }
}
