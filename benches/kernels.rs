//! Each kernel at the shapes of a workload's step: rows printed, and JSON lines in `benches/results/kernels.jsonl`.
//!
//! `cargo bench --bench kernels -- [--adapter A] [--workload W] [--seconds S] [--compare OLD.jsonl] [KERNEL…]`

mod record;

use clap::Parser;
use stssad::bench::{self, Options};
use stssad::gpu::{Choice, Device};
use stssad::plan::Reuse;
use stssad::workload::Workload;

#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    options: Options,
    /// Number or part of the name of the adapter
    #[arg(long)]
    adapter: Option<String>,
    /// Whose step the shapes are taken from
    #[arg(long, default_value = "digits-small")]
    workload: Workload,
    /// What cargo passes
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let device = Device::open(&arguments.adapter.as_deref().map_or(Choice::Best, Choice::from))?;
    let (_, plan) = arguments.workload.plan(device.class(), Reuse::On)?;
    let report = bench::run(&device, &arguments.options, &plan, |name| eprintln!("{name}"))?;
    print!("{report}");
    report.rows.iter().try_for_each(|row| record::record("kernels.jsonl", row))
}
