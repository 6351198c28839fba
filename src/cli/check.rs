//! `stssad check`: whether this device computes correctly.

mod foreign;
mod supervised;

use std::io::{BufRead, IsTerminal};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use stssad::engine::gpu::Device;
use stssad::engine::ops::FAMILIES;
use stssad::proof::check::{Checks, Options};
use stssad::ssad::workload::Workload;

use super::{DeviceArguments, UsageError, progress_bar, quoted, shell_word};
use foreign::Foreign;

/// Time between two lines of progress where there is no terminal.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// Seconds of a check with `--shaders`, and runs of a kernel on the same numbers.
const LIMIT: u64 = 120;
const REPEAT: u32 = 2;

/// Arguments of `stssad check`.
#[derive(Debug, Args)]
pub struct Check {
    /// Cases to run: the full name of one, as printed, or part of the names of several, or of kernels such as
    /// conv2d/output_broadcast [default: all].
    #[arg(value_name = "CASE")]
    filter: Option<String>,
    #[arg(long, value_name = "F", help = format!("Check only this family: {}", FAMILIES.iter().map(|family| family.name).collect::<Vec<_>>().join(", ")))]
    family: Option<String>,
    /// Check only the backward rules, of first and second order, in f64 on the CPU: no shader is run.
    #[arg(long, conflicts_with = "shaders")]
    grad: bool,
    /// Check only the training step, node by node.
    #[arg(long)]
    step: bool,
    /// Check only the dispatches of this workload's step, each at its own shape: digits-small, pyramid-64, resnet18-32 or
    /// resnet18-256. Without it one shape of each of their kernels is among the checks.
    #[arg(long, value_name = "W", conflicts_with_all = ["grad", "step", "sanitize"])]
    workload: Option<Workload>,
    /// Check each kernel at one shape of each class. Leave out large shapes, the workloads' dispatches and the backward rules. On CPU
    /// drivers the whole check takes many minutes.
    #[arg(long, conflicts_with_all = ["grad", "step", "workload"])]
    quick: bool,
    /// Run small cases of each kernel in the sanitizer first, as is always done with shaders of --shaders: races, reads outside of
    /// buffers, missing barriers.
    #[arg(long, conflicts_with_all = ["grad", "step"])]
    sanitize: bool,
    /// Seed of the kernels' random inputs.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Runs of each kernel on the same numbers, whose results must be the same bits: a race shows in some.
    #[arg(long, value_name = "N", default_value_t = REPEAT, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// End with the first check that fails.
    #[arg(long)]
    fail_fast: bool,
    /// Seconds after which a check is ended, with --shaders.
    #[arg(long, value_name = "S", default_value_t = LIMIT, value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
    /// Print also which shapes each kernel was run at.
    #[arg(long, conflicts_with = "json")]
    coverage: bool,
    #[command(flatten)]
    foreign: Foreign,
    #[command(flatten)]
    device: DeviceArguments,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Run the checks whose numbers come on standard input, and answer each with a line of JSON.
    #[arg(long, hide = true)]
    worker: bool,
}

impl Check {
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        if let Some(files) = self.foreign.files() {
            return self.foreign.run(files, &self.device, self.json);
        }
        let device = self.device.open()?;
        // Shaders that are being worked on may be wrong in any way.
        let is_tried = self.device.shaders.is_some();
        let device = if is_tried { device.with_runtime_checks() } else { device };
        let checks = Checks::of(&device, &self.options())?;
        if self.worker {
            return answer(&device, &checks);
        }
        let (bar, mut told) = (progress_bar(0, "check    {bar:28} {pos}/{len}  {wide_msg}"), Instant::now());
        let mut progress = |done: usize, of: usize, name: &str| {
            bar.set_length(of as u64);
            bar.set_position(done as u64);
            bar.set_message(name.to_owned());
            if !std::io::stderr().is_terminal() && told.elapsed() >= TOLD_EVERY {
                told = Instant::now();
                note!("check    {done} of {of}");
            }
        };
        let report = match is_tried {
            true => supervised::run(&device, &checks, Duration::from_secs(self.limit), &mut progress)?,
            false => checks.run(&device, progress),
        };
        bar.finish_and_clear();
        match self.json {
            true => result!("{}", serde_json::to_string_pretty(&report)?)?,
            false => result!("{report}")?,
        }
        if self.coverage {
            result!("\n{}", report.table())?;
        }
        Ok(if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn options(&self) -> Options {
        let adapter = self.device.adapter.iter().map(|adapter| format!(" --adapter {}", quoted(adapter)));
        let shaders = self.device.shaders.iter().map(|folder| format!(" --shaders {}", shell_word(folder)));
        let limit = (self.limit != LIMIT).then(|| format!(" --limit {}", self.limit));
        let repeat = (self.repeat != REPEAT).then(|| format!(" --repeat {}", self.repeat));
        Options {
            filter: self.filter.clone(),
            family: self.family.clone(),
            grad: self.grad,
            step: self.step,
            workload: self.workload,
            quick: self.quick,
            sanitize: self.sanitize,
            seed: self.seed,
            repeat: self.repeat as usize,
            fail_fast: self.fail_fast,
            command: ["stssad check".to_owned()]
                .into_iter()
                .chain(adapter)
                .chain(shaders)
                .chain(limit)
                .chain(repeat)
                .collect(),
        }
    }
}

/// Runs the checks that standard input asks for.
fn answer(device: &Device, checks: &Checks) -> anyhow::Result<ExitCode> {
    for line in std::io::stdin().lock().lines() {
        let at = line?.parse().ok().filter(|at| *at < checks.count());
        let at = at.ok_or_else(|| UsageError("a worker is given numbers of checks".into()))?;
        result!("{}", serde_json::to_string(&checks.run_one(device, at))?)?;
    }
    Ok(ExitCode::SUCCESS)
}
