//! Times each kernel at the shapes of a workload's step, or of one convolution in its three roles (`--workload
//! conv-64`). Prints rows and appends JSON lines to `benches/results/kernels.jsonl`.
//!
//! `cargo bench --bench kernels -- [--adapter A] [--workload W] [--precision P,…] [--seconds S] [--refresh] [--compare
//! OLD.jsonl] [KERNEL…]`. With `--precision f32,f16` both run one after another and are compared at the end.

mod record;

use std::str::FromStr;

use clap::Parser;
use stssad::engine::gpu::{Choice, Device};
use stssad::engine::kernel::{DeviceClass, Precision};
use stssad::engine::ops::conv2d::{Conv2d, Geometry, Role};
use stssad::engine::plan::{Plan, Reuse};
use stssad::engine::tape::Tape;
use stssad::measure::bench::{self, Options, Row};
use stssad::ssad::workload::{NoSuchWorkload, Workload};

#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    options: Options,
    /// Number of the adapter, or part of its name
    #[arg(long)]
    adapter: Option<String>,
    /// Workload whose step gives the shapes, or `conv-64`
    #[arg(long, default_value = "digits-small")]
    workload: Shapes,
    /// Rounding of the factors of convolutions and matrix products; several run one after another
    #[arg(long, value_enum, value_delimiter = ',', default_value = "f32")]
    precision: Vec<Precision>,
    /// Passed by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

/// The origin of the kernels.
#[derive(Clone, Copy, Debug)]
enum Shapes {
    Step(Workload),
    Conv64,
}

impl FromStr for Shapes {
    type Err = NoSuchWorkload;

    fn from_str(name: &str) -> Result<Self, NoSuchWorkload> {
        if name == "conv-64" { Ok(Shapes::Conv64) } else { name.parse().map(Shapes::Step) }
    }
}

/// A 3×3 convolution of 64 images from 64 to 64 channels at 32×32, and its adjoints.
fn conv_64(class: DeviceClass) -> Plan {
    let geometry = Geometry { image: [32, 32], window: [3, 3], stride: 1, padding: 1 };
    let mut t = Tape::new();
    let (x, w, ct_y) = (t.feed("x", [64, 64, 32, 32]), t.feed("w", [64, 64, 3, 3]), t.feed("ct_y", [64, 64, 32, 32]));
    let roles = [(Role::Output, [x, w]), (Role::Input, [ct_y, w]), (Role::Kernel, [x, ct_y])];
    let solved = roles.map(|(solve_for, operands)| t.push(Conv2d { solve_for, geometry, groups: 1 }, &operands));
    Plan::new(&t, &solved, &[], class, Reuse::On)
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let device = Device::open(&arguments.adapter.as_deref().map_or(Choice::Best, Choice::from))?;
    let mut rows = Vec::new();
    for &precision in &arguments.precision {
        let device = device.with_precision(precision)?;
        let plan = match arguments.workload {
            Shapes::Step(workload) => workload.plan(device.class(), Reuse::On)?,
            Shapes::Conv64 => conv_64(device.class()),
        };
        let report = bench::run(&device, &arguments.options, &plan, |name| eprintln!("{name}"))?;
        print!("{report}");
        report.rows.iter().try_for_each(|row| record::record(&record::results(), "kernels.jsonl", row))?;
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

/// The case without the variant of its kernel.
fn work(row: &Row) -> String {
    row.case.replace("_matrix ", " ").replace("_broadcast ", " ")
}
