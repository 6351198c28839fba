//! `stssad peak`, `bench` and `profile`: what the device can do, and what the demo's training step makes of it.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use stssad::{bench, peak, profile};

use super::{DeviceArguments, PrecisionArguments, demo};

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

/// Arguments of `stssad bench`.
#[derive(Debug, Args)]
pub struct Bench {
    #[command(flatten)]
    options: bench::Options,
    #[command(flatten)]
    precision: PrecisionArguments,
    #[command(flatten)]
    device: DeviceArguments,
}

/// Arguments of `stssad profile`.
#[derive(Debug, Args)]
pub struct Profile {
    #[command(flatten)]
    options: profile::Options,
    #[command(flatten)]
    precision: PrecisionArguments,
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
        let (loaded, training) = demo::prepared(&demo::config(2, 0))?;
        let mut trainer = demo::trainer(&device, &training, &loaded)?;
        let plan = trainer.full_step()?.plan().clone();
        let report = bench::run(&device, &self.options, &plan, announce)?;
        print!("{report}");
        Ok(ExitCode::SUCCESS)
    }
}

impl Profile {
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        let device = self.device.open()?.with_precision(self.precision.precision)?;
        let (loaded, training) = demo::prepared(&demo::config(2, 0))?;
        let mut trainer = demo::trainer(&device, &training, &loaded)?;
        print(&profile::run(&device, &self.options, trainer.full_step()?, announce)?, self.json)
    }
}

fn announce(what: &str) {
    eprintln!("measuring {what}");
}

fn print(report: &(impl Serialize + std::fmt::Display), json: bool) -> anyhow::Result<ExitCode> {
    match json {
        true => println!("{}", serde_json::to_string_pretty(report)?),
        false => print!("{report}"),
    }
    Ok(ExitCode::SUCCESS)
}
