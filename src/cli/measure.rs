//! `stssad peak`, `bench` and `profile`: the limits of the device, and the speed of kernels and of a training step.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use stssad::engine::kernel::{DeviceClass, Lanes};
use stssad::engine::plan::Reuse;
use stssad::measure::{bench, peak, profile};
use stssad::run::claim::Claim;
use stssad::ssad::config::Config;
use stssad::ssad::workload::Workload;

use super::{DeviceArguments, PrecisionArguments, read_shaders, trainer};

/// Arguments of `stssad peak`.
#[derive(Debug, Args)]
pub struct Peak {
    #[command(flatten)]
    options: peak::Options,
    #[command(flatten)]
    device: DeviceArguments,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// The classes of devices whose kernels run on every device.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum ClassArgument {
    Gpu,
    Cpu,
}

/// Arguments of `stssad bench`.
#[derive(Debug, Args)]
pub struct Bench {
    #[command(flatten)]
    options: bench::Options,
    #[command(flatten)]
    precision: PrecisionArguments,
    #[command(flatten)]
    step: StepArguments,
    /// Time each kernel with every possible choice of tiles.
    #[arg(long, conflicts_with_all = ["compare", "page"])]
    sweep_tiles: bool,
    /// Compare with the shaders in DIR, in turns: of the kernels that differ, or of those named. Outputs are compared first.
    ///
    /// The first set is the built-in one, or that of --shaders; the second is DIR's. A kernel is slower or faster where the 99.9 %
    /// confidence interval of the median ratio of paired rounds (that of the sign test) lies beyond 5 %. Exits 1 if a kernel is
    /// wrong or slower.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["compare", "sweep_tiles", "refresh", "page"])]
    against: Option<PathBuf>,
    /// Use the kernels chosen for this class of device [default: the class of this device].
    #[arg(long, value_enum, conflicts_with = "precision")]
    class: Option<ClassArgument>,
    #[command(flatten)]
    device: DeviceArguments,
}

/// Which training step to measure.
#[derive(Debug, Args)]
struct StepArguments {
    /// Training step to measure: digits-small (the demo's step), pyramid-64, resnet18-32 or resnet18-256.
    #[arg(long, value_name = "NAME", default_value = "digits-small")]
    workload: Workload,
    /// Recompute cheap values instead of storing them.
    #[arg(long)]
    recompute: bool,
}

impl StepArguments {
    fn reuse(&self) -> Reuse {
        if self.recompute { Reuse::Recompute } else { Reuse::On }
    }
}

/// Arguments of `stssad profile`.
#[derive(Debug, Args)]
pub struct Profile {
    #[command(flatten)]
    options: profile::Options,
    #[command(flatten)]
    precision: PrecisionArguments,
    #[command(flatten)]
    step: StepArguments,
    #[command(flatten)]
    device: DeviceArguments,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Peak {
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        let device = self.device.open()?;
        print(&peak::run(&device, &self.options, announce)?, self.json)
    }
}

impl Bench {
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        let device = self.device.open()?.with_precision(self.precision.precision)?;
        let class = match self.class {
            Some(ClassArgument::Gpu) => DeviceClass::Gpu,
            Some(ClassArgument::Cpu) => DeviceClass::Cpu(device.lanes().unwrap_or(Lanes::Eight)),
            None => device.class(),
        };
        let plan = self.step.workload.plan(class, self.step.reuse())?;
        if let Some(folder) = &self.against {
            let second = device.with_shaders(read_shaders(folder)?);
            let sources = self.step.workload.sources(&plan);
            let report = bench::against([&device, &second], &self.options, &plan, &sources, announce)?;
            result!("{report}")?;
            return Ok(if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        if self.sweep_tiles {
            result!("{}", bench::sweep(&device, &self.options, &plan, class, announce)?)?;
            return Ok(ExitCode::SUCCESS);
        }
        let report = bench::run(&device, &self.options, &plan, announce)?;
        result!("{report}")?;
        if let Some(warning) = report.warning() {
            note!("note     {warning}");
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Profile {
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        let _claim = self.options.out.as_deref().map(|out| Claim::take(out, profile::OWNER)).transpose()?;
        let device = self.device.open()?.with_precision(self.precision.precision)?;
        let task = profile::noise(&self.step.workload)?;
        let config = Config { reuse: self.step.reuse(), ..self.step.workload.config(1) };
        let mut trainer = trainer(&device, &config, task.visible())?;
        print(&profile::run(&device, &self.options, trainer.full_step()?, announce)?, self.json)
    }
}

fn announce(what: &str) {
    note!("measuring {what}");
}

fn print(report: &(impl Serialize + std::fmt::Display), json: bool) -> anyhow::Result<ExitCode> {
    match json {
        true => result!("{}", serde_json::to_string_pretty(report)?)?,
        false => result!("{report}")?,
    }
    Ok(ExitCode::SUCCESS)
}
