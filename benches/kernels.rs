//! Each kernel at the shapes of a workload's step: rows printed, and JSON lines in `benches/results/kernels.jsonl`.
//!
//! `cargo bench --bench kernels -- [--adapter A] [--workload W] [--precision P,…] [--seconds S] [--compare OLD.jsonl]
//! [KERNEL…]`. With `--precision f32,f16` both are run one after the other, and held against each other at the end.

mod record;

use clap::Parser;
use stssad::bench::{self, Options, Row};
use stssad::gpu::{Choice, Device};
use stssad::kernel::Precision;
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
    /// What the factors of convolutions and matrix products are rounded to; one after the other
    #[arg(long, value_enum, value_delimiter = ',', default_value = "f32")]
    precision: Vec<Precision>,
    /// What cargo passes
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let device = Device::open(&arguments.adapter.as_deref().map_or(Choice::Best, Choice::from))?;
    let mut rows = Vec::new();
    for &precision in &arguments.precision {
        let device = device.with_precision(precision)?;
        let (_, plan) = arguments.workload.plan(device.class(), Reuse::On)?;
        let report = bench::run(&device, &arguments.options, &plan, |name| eprintln!("{name}"))?;
        print!("{report}");
        report.rows.iter().try_for_each(|row| record::record("kernels.jsonl", row))?;
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
