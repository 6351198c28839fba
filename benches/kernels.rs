//! Each kernel at the shapes of a workload's step: rows printed, and JSON lines in `benches/results/kernels.jsonl`.
//!
//! `cargo bench --bench kernels -- [--adapter A] [--workload W] [--seconds S] [--compare OLD.jsonl] [KERNEL…]`

mod workloads;

use anyhow::Context;
use clap::Parser;
use stssad::bench::{self, Options};
use stssad::gpu::{Choice, Device};
use stssad::plan::Reuse;
use stssad::train::TrainingStep;
use workloads::{WORKLOADS, record};

#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    options: Options,
    /// Number or part of the name of the adapter
    #[arg(long)]
    adapter: Option<String>,
    /// Whose step the shapes are taken from
    #[arg(long, default_value = "digits-small")]
    workload: String,
    /// What cargo passes
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let workload = WORKLOADS.iter().find(|workload| workload.name == arguments.workload);
    let workload = workload.with_context(|| format!("there is no workload {}", arguments.workload))?;
    let device = Device::open(&arguments.adapter.as_deref().map_or(Choice::Best, Choice::from))?;
    let step = TrainingStep::record(&workload.config(1), workload.picture)?;
    let plan = step.tuning_plan(&device, Reuse::On).expect("ST-SSAD tunes");
    let report = bench::run(&device, &arguments.options, &plan, |name| eprintln!("{name}"))?;
    print!("{report}");
    report.rows.iter().try_for_each(|row| record("kernels.jsonl", row))
}
