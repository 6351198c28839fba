//! Arguments, and what each command does with them.

mod arguments;
mod check;
mod demo;
mod devices;
mod measure;
mod paint;
mod progress;
mod sweep;
mod train;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use stssad::archive::ArchiveError;
use stssad::check::CaseError;
use stssad::config::ConfigError;
use stssad::data::{DataError, Visible};
use stssad::gpu::{Choice, Device, GpuError};
use stssad::kernel::Precision;
use stssad::report::ReportError;
use stssad::run::RunError;
use stssad::shaders::{PROBES, SOURCES};
use stssad::sweep::SweepError;
use stssad::train::{Config, TrainError, Trainer};

/// Self-tuning self-supervised anomaly detection on any Vulkan, Metal or DX12 device.
///
/// Exit codes: 0 done, 1 a check failed, 2 bad arguments, 3 bad data, 4 no usable device, 70 training diverged, 74 a
/// file cannot be read or written, 75 stopped and resumable.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
#[expect(clippy::large_enum_variant, reason = "a process has one")]
enum Command {
    /// Find the rotation that tells handwritten 6 from 9, without a label, on the packaged digits.
    Demo(demo::Demo),
    /// Train a detector on your own pictures, tune its augmentation, test it and report.
    Train(train::Train),
    /// Test a trained detector again, on the same or on other labelled pictures.
    Test(train::Test),
    /// Score pictures with a trained detector.
    Predict(train::Predict),
    /// Compare methods over tasks and seeds, in as many processes as you like.
    Sweep(sweep::Sweep),
    /// Write a dataset in MVTec AD's layout: a packaged photograph with painted defects.
    Paint(paint::Paint),
    /// List the adapters that can be trained on.
    Devices(devices::Devices),
    /// Tell kernel by kernel whether this device computes what it should; exits 1 if not.
    Check(check::Check),
    /// Measure what the device can do at most: arithmetic, bandwidth, dispatch and transfer costs.
    Peak(measure::Peak),
    /// Measure each kernel by itself, at the shapes of the demo's training step.
    Bench(measure::Bench),
    /// Show where the time of the demo's training step goes, kernel by kernel and scope by scope.
    Profile(measure::Profile),
}

/// Which device to use; part of every command that computes.
#[derive(Debug, clap::Args)]
struct DeviceArguments {
    /// Adapter to use: its number in `stssad devices`, or a part of its name [default: the best].
    #[arg(long, value_name = "A")]
    adapter: Option<String>,
    /// Take the shaders that DIR holds (`conv2d/input.wgsl`, …) instead of the built-in ones: to try a kernel without
    /// building anew.
    #[arg(long, value_name = "DIR")]
    shaders: Option<PathBuf>,
}

impl DeviceArguments {
    fn open(&self) -> anyhow::Result<Device> {
        let device = Device::open(&self.adapter.as_deref().map_or(Choice::Best, Choice::from))?;
        let Some(folder) = &self.shaders else { return Ok(device) };
        let mut replaced = 0;
        for (name, _) in SOURCES.iter().chain(PROBES) {
            let path = folder.join(name).with_extension("wgsl");
            match std::fs::read_to_string(&path) {
                Ok(text) => {
                    device.replace_shader(name, text);
                    replaced += 1;
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
            }
        }
        if replaced == 0 {
            let problem = format!("{} holds none of stssad's shaders (conv2d/input.wgsl, …)", folder.display());
            return Err(Unfit(problem).into());
        }
        eprintln!("shaders  {replaced} taken from {}", folder.display());
        Ok(device)
    }
}

/// What convolutions and matrix products are computed in.
#[derive(Debug, clap::Args)]
struct PrecisionArguments {
    /// What the factors of convolutions and matrix products are rounded to.
    #[arg(long, value_enum, default_value_t, value_name = "P")]
    precision: Precision,
}

fn progress_bar(length: u64, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).expect("a valid template").progress_chars("━╸─");
    let bar = ProgressBar::new(length).with_style(style);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// Builds the pipelines of a training step under a progress bar; some drivers take seconds.
fn trainer<'a>(device: &Device, config: &'a Config, pictures: Visible<'a>) -> anyhow::Result<Trainer<'a>> {
    let bar = progress_bar(0, "compile  {bar:28} {pos}/{len} dispatches");
    let trainer = Trainer::new(device, config, pictures, |done, of| {
        bar.set_length(of as u64);
        bar.set_position(done as u64);
    })?;
    bar.finish_and_clear();
    Ok(trainer)
}

/// A command line that asks for what cannot be done.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Unfit(String);

/// Whoever reads our output may stop, as `head` does: that ends the program without a word, as it ends others. Rust would
/// have us panic.
pub fn end_with_reader() {
    #[cfg(unix)]
    {
        use signal_hook::{consts::SIGPIPE, flag};
        let always = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
        flag::register_conditional_default(SIGPIPE, always).expect("the system lets this signal be handled");
    }
}

/// Parses the command line and runs the command.
pub fn run() -> anyhow::Result<ExitCode> {
    match Arguments::parse().command {
        Command::Demo(demo) => demo.run(),
        Command::Train(train) => train.run(),
        Command::Test(test) => test.run(),
        Command::Predict(predict) => predict.run(),
        Command::Sweep(sweep) => sweep.run(),
        Command::Paint(paint) => paint.run(),
        Command::Devices(devices) => devices.run(),
        Command::Check(check) => check.run(),
        Command::Peak(peak) => peak.run(),
        Command::Bench(bench) => bench.run(),
        Command::Profile(profile) => profile.run(),
    }
}

/// The exit code of a command that some of its data cannot be used for.
const BAD_DATA: u8 = 3;

/// The exit code of a run that was stopped and can go on: `EX_TEMPFAIL` of sysexits.h.
const STOPPED: u8 = 75;

/// The documented exit code of an error.
pub fn exit_code(error: &anyhow::Error) -> ExitCode {
    let run = error.downcast_ref::<RunError>();
    let train = match run {
        Some(RunError::Train(train)) => Some(train),
        _ => error.downcast_ref::<TrainError>(),
    };
    let gpu = match train {
        Some(TrainError::Gpu(gpu)) => Some(gpu),
        _ => error.downcast_ref::<GpuError>(),
    };
    let bad_data = error.is::<DataError>()
        || matches!(train, Some(TrainError::Data(_) | TrainError::Foreign { .. }))
        || matches!(run, Some(RunError::Foreign { .. }));
    let bad_arguments = error.is::<Unfit>()
        || error.is::<CaseError>()
        || error.is::<ConfigError>()
        || error.is::<SweepError>()
        || error.is::<toml::de::Error>()
        || matches!(run, Some(RunError::Config(_)));
    let diverged = matches!(train, Some(TrainError::Diverged { .. } | TrainError::Score { .. }))
        || matches!(run, Some(RunError::Score(_)));
    let unwritten = error.is::<ReportError>()
        || matches!(run, Some(RunError::Report(_) | RunError::Archive(_) | RunError::Folder { .. }))
        || error.is::<ArchiveError>()
        || error.is::<std::io::Error>();
    let too_large = matches!(run, Some(RunError::Fit(_)));
    ExitCode::from(match gpu {
        _ if too_large => 4,
        Some(
            GpuError::NoAdapter(_)
            | GpuError::Unusable { .. }
            | GpuError::OutOfMemory { .. }
            | GpuError::TooLarge { .. },
        ) => 4,
        _ if bad_arguments => 2,
        _ if bad_data => BAD_DATA,
        _ if diverged => 70,
        _ if unwritten => 74,
        _ => 1,
    })
}
