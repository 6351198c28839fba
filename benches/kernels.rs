//! Each kernel at the shapes of a workload's step, or of one convolution in its three roles (`--workload conv-64`): rows
//! printed, and JSON lines in `benches/results/kernels.jsonl`.
//!
//! `cargo bench --bench kernels -- [--adapter A] [--workload W] [--seconds S] [--compare OLD.jsonl] [KERNEL…]`

mod workloads;

use anyhow::Context;
use clap::Parser;
use stssad::bench::{self, Options};
use stssad::gpu::{Choice, Device};
use stssad::ops::conv2d::{Conv2d, Geometry, Role};
use stssad::plan::{Plan, Reuse};
use stssad::tape::Tape;
use stssad::train::TrainingStep;
use workloads::{WORKLOADS, record};

#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    options: Options,
    /// Number or part of the name of the adapter
    #[arg(long)]
    adapter: Option<String>,
    /// Whose step the shapes are taken from, or `conv-64`
    #[arg(long, default_value = "digits-small")]
    workload: String,
    /// What cargo passes
    #[arg(long, hide = true)]
    bench: bool,
}

/// A 3×3 convolution of 64 pictures from 64 to 64 channels at 32×32, and its adjoints.
fn conv_64(device: &Device) -> Plan {
    let geometry = Geometry { image: [32, 32], window: [3, 3], stride: 1, padding: 1 };
    let mut t = Tape::new();
    let (x, w, ct_y) = (t.feed("x", [64, 64, 32, 32]), t.feed("w", [64, 64, 3, 3]), t.feed("ct_y", [64, 64, 32, 32]));
    let roles = [(Role::Output, [x, w]), (Role::Input, [ct_y, w]), (Role::Kernel, [x, ct_y])];
    let solved = roles.map(|(solve_for, operands)| t.push(Conv2d { solve_for, geometry, groups: 1 }, &operands));
    Plan::new(&t, &solved, &[], device.class(), Reuse::On)
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let device = Device::open(&arguments.adapter.as_deref().map_or(Choice::Best, Choice::from))?;
    let plan = if arguments.workload == "conv-64" {
        conv_64(&device)
    } else {
        let workload = WORKLOADS.iter().find(|workload| workload.name == arguments.workload);
        let workload = workload.with_context(|| format!("there is no workload {}", arguments.workload))?;
        let step = TrainingStep::record(&workload.config(1), workload.picture)?;
        step.tuning_plan(&device, Reuse::On).expect("ST-SSAD tunes")
    };
    let report = bench::run(&device, &arguments.options, &plan, |name| eprintln!("{name}"))?;
    print!("{report}");
    report.rows.iter().try_for_each(|row| record("kernels.jsonl", row))
}
