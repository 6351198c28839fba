//! Each kernel at the shapes of a workload's step: rows printed, and JSON lines in `benches/results/kernels.jsonl`.
//!
//! `cargo bench --bench kernels -- [--adapter A] [--workload W] [--precision P,…] [--seconds S] [--compare OLD.jsonl]
//! [KERNEL…]`. With `--precision f32,f16` both are run one after the other, and held against each other at the end.

mod workloads;

use anyhow::Context;
use clap::Parser;
use stssad::bench::{self, Options, Row};
use stssad::gpu::{Choice, Device};
use stssad::kernel::Precision;
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
    /// What the factors of convolutions and matrix products are rounded to; one after the other
    #[arg(long, value_enum, value_delimiter = ',', default_value = "f32")]
    precision: Vec<Precision>,
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
    let mut rows = Vec::new();
    for &precision in &arguments.precision {
        let device = device.with_precision(precision)?;
        let plan = step.tuning_plan(&device, Reuse::On).expect("ST-SSAD tunes");
        let report = bench::run(&device, &arguments.options, &plan, |name| eprintln!("{name}"))?;
        print!("{report}");
        report.rows.iter().try_for_each(|row| record("kernels.jsonl", row))?;
        rows.extend(report.rows);
    }
    for row in rows.iter().filter(|row| row.kernel.ends_with("_matrix")) {
        let plain = rows.iter().find(|plain| plain.precision == Precision::F32 && work(plain) == work(row));
        if let Some(plain) = plain {
            let ratio = plain.microseconds / row.microseconds;
            println!("{}: {ratio:.2} times as fast as {}", row.case, plain.kernel);
        }
    }
    Ok(())
}

/// The case whichever variant of the kernel does it.
fn work(row: &Row) -> String {
    row.case.replace("_matrix ", " ").replace("_broadcast ", " ")
}
