//! Training steps as a user runs them, uploads and readback included: a JSON line each in `benches/results/step.jsonl`.
//!
//! `cargo bench --bench step -- [--adapter A] [--steps N] [WORKLOAD…]`, and with `--table` nothing is measured: the README's
//! table is written anew from the newest line of each workload and device.

mod record;

use std::path::Path;
use std::time::{Instant, SystemTime};

use anyhow::Context;
use clap::Parser;
use serde::Serialize;
use serde_json::Value;
use stssad::gpu::{Choice, Device};
use stssad::measure::{Measure, Origin};
use stssad::train::Trainer;
use stssad::workload::Workload;

#[derive(Debug, Parser)]
struct Arguments {
    /// Workloads to run: digits-small, pyramid-64, resnet18-32 or resnet18-256, of which only a GPU can bear the last two
    #[arg(default_value = "digits-small")]
    workloads: Vec<Workload>,
    /// Number or part of the name of the adapter
    #[arg(long)]
    adapter: Option<String>,
    /// Steps to time, after three that warm up
    #[arg(long, default_value_t = 20)]
    steps: usize,
    /// Write the README's table from the lines that are there
    #[arg(long)]
    table: bool,
    /// What cargo passes
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Serialize)]
struct Row {
    workload: &'static str,
    /// Seconds since 1970.
    time: u64,
    #[serde(flatten)]
    origin: Origin,
    /// Milliseconds of a step, by the host's clock.
    milliseconds: Measure,
    /// Milliseconds of its dispatches as one pass, by the clock named.
    pass: Option<Measure>,
    /// The same of a step that does not tune, taken in turn with the other.
    plain_pass: Option<Measure>,
    clock: stssad::gpu::Clock,
    dispatches: usize,
    slot_bytes: u64,
    live_bytes: u64,
    /// From opening the device to the end of the first step.
    ready_seconds: f64,
}

const WARM_UP: usize = 3;

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if arguments.table {
        return write_table();
    }
    for workload in &arguments.workloads {
        let row = run(workload, &arguments)?;
        let Measure { median, low, high, .. } = row.milliseconds;
        println!("{}: {median:.1} ms a step ({low:.1}–{high:.1}), {}", workload.name, row.origin);
        if let (Some(pass), Some(plain)) = (row.pass, row.plain_pass) {
            let (tunes, plain) = (pass.median, plain.median);
            println!("  dispatches: {tunes:.1} ms, {plain:.1} ms without tuning, {:.2} times as long", tunes / plain);
        }
        record::record("step.jsonl", &row)?;
    }
    Ok(())
}

/// Lines of the README that the table stands between.
const TABLE: [&str; 2] = ["<!-- from benches/results/step.jsonl -->", "<!-- end -->"];

fn write_table() -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut newest: Vec<Value> = Vec::new();
    for line in std::fs::read_to_string(root.join("benches/results/step.jsonl"))?.lines() {
        let row: Value = serde_json::from_str(line)?;
        newest.retain(|other| ["workload", "device", "driver"].iter().any(|key| other[key] != row[key]));
        newest.push(row);
    }
    let mut table = String::from(
        "| workload | driver | a step | of which on the device | a step without tuning, on the device | ratio | ready | \
         slots / live at once |\n| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |\n",
    );
    for row in &newest {
        let figure = |pointer: &str| row.pointer(pointer).and_then(Value::as_f64).unwrap_or(f64::NAN);
        let [pass, plain] = ["/pass/median", "/plain_pass/median"].map(figure);
        let text = |key: &str| row[key].as_str().unwrap_or_default();
        table += &format!(
            "| {} | {} | {:.0} ms | {pass:.0} ms | {plain:.0} ms | {:.2} | {:.1} s | {:.2} |\n",
            text("workload"),
            text("driver"),
            figure("/milliseconds/median"),
            pass / plain,
            figure("/ready_seconds"),
            figure("/slot_bytes") / figure("/live_bytes"),
        );
    }
    let path = root.join("README.md");
    let readme = std::fs::read_to_string(&path)?;
    let parts = readme.split_once(TABLE[0]).and_then(|(before, rest)| Some((before, rest.split_once(TABLE[1])?.1)));
    let (before, after) = parts.with_context(|| format!("README.md has no lines `{}` and `{}`", TABLE[0], TABLE[1]))?;
    Ok(std::fs::write(path, format!("{before}{}\n\n{table}\n{}{after}", TABLE[0], TABLE[1]))?)
}

fn run(workload: &Workload, arguments: &Arguments) -> anyhow::Result<Row> {
    let begun = Instant::now();
    let device = Device::open(&arguments.adapter.as_deref().map_or(Choice::Best, Choice::from))?;
    let config = workload.config(WARM_UP + arguments.steps);
    let task = workload.task()?;
    let mut trainer = Trainer::new(&device, &config, task.visible(), |_, _| {})?;
    let mut ends = Vec::new();
    trainer.train(0, |_| ends.push(begun.elapsed().as_secs_f64()))?;
    let steps = ends.windows(2).skip(WARM_UP - 1).map(|pair| 1e3 * (pair[1] - pair[0]));
    let (mut passes, mut plain_passes) = (Vec::new(), Vec::new());
    for _ in 0..arguments.steps {
        passes.extend(trainer.full_step()?.time_pass(device.clock())?);
        plain_passes.extend(trainer.plain_step()?.time_pass(device.clock())?);
    }
    let milliseconds = |passes: Vec<f64>| Measure::of(passes.into_iter().map(|seconds| 1e3 * seconds));
    let plan = trainer.full_step()?.plan();
    Ok(Row {
        workload: workload.name,
        time: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs(),
        origin: Origin::of(&device),
        milliseconds: Measure::of(steps).expect("at least one step is timed"),
        pass: milliseconds(passes),
        plain_pass: milliseconds(plain_passes),
        clock: device.clock(),
        dispatches: plan.steps.len(),
        slot_bytes: plan.slot_bytes(),
        live_bytes: plan.live_bytes,
        ready_seconds: ends[0],
    })
}
