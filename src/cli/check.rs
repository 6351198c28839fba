//! `stssad check`: whether this device computes correctly.

mod foreign;

use std::process::ExitCode;

use clap::Args;
use stssad::engine::ops::FAMILIES;
use stssad::proof::check::{self, Options};

use super::{DeviceArguments, progress_bar};
use foreign::Foreign;

/// Arguments of `stssad check`.
#[derive(Debug, Args)]
pub struct Check {
    /// Cases to run: the full name of one, as printed, or part of the names of several [default: all].
    #[arg(value_name = "CASE")]
    filter: Option<String>,
    #[arg(long, value_name = "F", help = format!("Check only this family: {}", FAMILIES.iter().map(|family| family.name).collect::<Vec<_>>().join(", ")))]
    family: Option<String>,
    /// Check only the backward rules, of first and second order.
    #[arg(long)]
    grad: bool,
    /// Check only the training step, node by node.
    #[arg(long)]
    step: bool,
    /// Seed of the kernels' random inputs.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    foreign: Foreign,
    #[command(flatten)]
    device: DeviceArguments,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Check {
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        if let Some(files) = self.foreign.files() {
            return self.foreign.run(files, &self.device, self.json);
        }
        let device = self.device.open()?;
        let options = Options {
            filter: self.filter.clone(),
            family: self.family.clone(),
            grad: self.grad,
            step: self.step,
            seed: self.seed,
        };
        let bar = progress_bar(0, "check    {bar:28} {pos}/{len}  {wide_msg}");
        let report = check::run(&device, &options, |done, of, name| {
            bar.set_length(of as u64);
            bar.set_position(done as u64);
            bar.set_message(name.to_owned());
        })?;
        bar.finish_and_clear();
        match self.json {
            true => result!("{}", serde_json::to_string_pretty(&report)?)?,
            false => result!("{report}")?,
        }
        Ok(if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
