//! Times training steps as a user runs them, uploads and readback included, and appends JSON lines to
//! `benches/results/step.jsonl`.
//!
//! `cargo bench --bench step -- [--adapter A] [--precision P] [--steps N] [--together K] [--results DIR] [WORKLOAD…]`.
//! `--table` measures nothing: it rewrites the table in `benches/README.md` from the newest line of each workload and
//! device.

mod record;

use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use anyhow::Context;
use clap::Parser;
use serde::Serialize;
use serde_json::Value;
use stssad::engine::gpu::{Choice, Device};
use stssad::engine::kernel::Precision;
use stssad::measure::figures::{Measure, Origin};
use stssad::measure::profile::noise;
use stssad::ssad::config::Config;
use stssad::ssad::workload::Workload;
use stssad::training::trainer::Trainer;

#[derive(Debug, Parser)]
struct Arguments {
    /// Workloads to run: digits-small, pyramid-64, resnet18-32 or resnet18-256; the last two need a GPU
    #[arg(default_value = "digits-small")]
    workloads: Vec<Workload>,
    /// Number of the adapter, or part of its name
    #[arg(long)]
    adapter: Option<String>,
    /// Rounding of the factors of convolutions and matrix products
    #[arg(long, value_enum, default_value_t)]
    precision: Precision,
    /// Steps to time, after five warm-up steps
    #[arg(long, default_value_t = 20)]
    steps: usize,
    /// Also time a step of K starts side by side, alternating with that of one start
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u16).range(2..))]
    together: Option<u16>,
    /// Folder for step.jsonl [default: benches/results]
    #[arg(long, value_name = "DIR")]
    results: Option<PathBuf>,
    /// Rewrite the table in benches/README.md from the recorded lines
    #[arg(long)]
    table: bool,
    /// Passed by cargo
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
    /// Milliseconds from the end of a step to that of the next, by the host's clock.
    milliseconds: Measure,
    /// Milliseconds of its dispatches in passes as long as the step's, by the clock named.
    pass: Option<Measure>,
    /// The same for a step that does not tune, alternating with the other.
    plain_pass: Option<Measure>,
    /// The same for a step that tunes several starts side by side, alternating with the others.
    #[serde(skip_serializing_if = "Option::is_none")]
    together: Option<Together>,
    clock: stssad::engine::gpu::Clock,
    dispatches: usize,
    slot_bytes: u64,
    live_bytes: u64,
    /// From opening the device to the end of the first step.
    ready_seconds: f64,
}

#[derive(Debug, Serialize)]
struct Together {
    starts: usize,
    pass: Measure,
    dispatches: usize,
}

/// Steps before those that are timed: the first four at most are timed by the executor too, one by one, and only then is the
/// device a step ahead.
const WARM_UP: usize = 5;

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
        if let (Some(pass), Some(Together { starts, pass: together, .. })) = (row.pass, &row.together) {
            let ratio = together.median / pass.median;
            println!("  {starts} starts together: {:.1} ms, {ratio:.2} times as long as one", together.median);
        }
        record::record(arguments.results.as_deref().unwrap_or(&record::results()), "step.jsonl", &row)?;
    }
    Ok(())
}

/// Lines of benches/README.md around the table.
const TABLE: [&str; 2] = ["<!-- from benches/results/step.jsonl -->", "<!-- end -->"];

fn write_table() -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut newest: Vec<Value> = Vec::new();
    for line in std::fs::read_to_string(record::results().join("step.jsonl"))?.lines() {
        let row: Value = serde_json::from_str(line)?;
        let is_other = |other: &Value| {
            ["workload", "device", "driver"].iter().any(|key| other[key] != row[key])
                || precision(other) != precision(&row)
        };
        newest.retain(is_other);
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
            "| {} | {}{} | {} ms | {} ms | {} ms | {:.2} | {:.1} s | {:.2} |\n",
            text("workload"),
            text("driver"),
            if precision(row) == "f32" { String::new() } else { format!(", {}", precision(row)) },
            rounded(figure("/milliseconds/median")),
            rounded(pass),
            rounded(plain),
            pass / plain,
            figure("/ready_seconds"),
            figure("/slot_bytes") / figure("/live_bytes"),
        );
    }
    let path = root.join("benches/README.md");
    let readme = std::fs::read_to_string(&path)?;
    let parts = readme.split_once(TABLE[0]).and_then(|(before, rest)| Some((before, rest.split_once(TABLE[1])?.1)));
    let (before, after) =
        parts.with_context(|| format!("benches/README.md has no lines `{}` and `{}`", TABLE[0], TABLE[1]))?;
    Ok(std::fs::write(path, format!("{before}{}\n\n{table}\n{}{after}", TABLE[0], TABLE[1]))?)
}

/// Milliseconds for the table.
fn rounded(milliseconds: f64) -> String {
    if milliseconds < 10.0 { format!("{milliseconds:.1}") } else { format!("{milliseconds:.0}") }
}

/// Old rows have no precision: they are f32.
fn precision(row: &Value) -> &str {
    row["precision"].as_str().unwrap_or("f32")
}

fn run(workload: &Workload, arguments: &Arguments) -> anyhow::Result<Row> {
    let begun = Instant::now();
    let device = Device::open(&arguments.adapter.as_deref().map_or(Choice::Best, Choice::from))?
        .with_precision(arguments.precision)?;
    // One more, since the last step begins no other.
    let config = workload.config(WARM_UP + arguments.steps + 1);
    let task = noise(workload)?;
    let mut trainer = Trainer::new(&device, &config, task.visible(), |_, _| {})?;
    trainer.step()?;
    let mut ends = vec![begun.elapsed().as_secs_f64()];
    while trainer.step_ahead()?.is_some() {
        ends.push(begun.elapsed().as_secs_f64());
    }
    let steps = ends.windows(2).skip(WARM_UP - 1).take(arguments.steps).map(|pair| 1e3 * (pair[1] - pair[0]));
    let side_by_side = arguments.together.map(|starts| Config {
        starts: vec![config.starts[0].clone(); starts.into()],
        together: starts.into(),
        ..workload.config(1)
    });
    let trainer_of = |config| Trainer::new(&device, config, task.visible(), |_, _| {});
    let mut trainer_together = side_by_side.as_ref().map(trainer_of).transpose()?;
    if let Some(trainer) = &mut trainer_together {
        // On some drivers the first run compiles the pipelines.
        trainer.full_step()?.time_pass(device.clock())?;
    }
    let (mut passes, mut plain_passes, mut passes_together) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..arguments.steps {
        passes.extend(trainer.full_step()?.time_pass(device.clock())?);
        plain_passes.extend(trainer.plain_step()?.time_pass(device.clock())?);
        if let Some(trainer) = &mut trainer_together {
            passes_together.extend(trainer.full_step()?.time_pass(device.clock())?);
        }
    }
    let milliseconds = |passes: Vec<f64>| Measure::of(passes.into_iter().map(|seconds| 1e3 * seconds));
    let together = match (&side_by_side, &mut trainer_together, milliseconds(passes_together)) {
        (Some(config), Some(trainer), Some(pass)) => {
            let dispatches = trainer.full_step()?.plan().steps.len();
            Some(Together { starts: config.starts.len(), pass, dispatches })
        }
        _ => None,
    };
    let plan = trainer.full_step()?.plan();
    Ok(Row {
        workload: workload.name,
        time: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs(),
        origin: Origin::of(&device),
        milliseconds: Measure::of(steps).expect("at least one step is timed"),
        pass: milliseconds(passes),
        plain_pass: milliseconds(plain_passes),
        together,
        clock: device.clock(),
        dispatches: plan.steps.len(),
        slot_bytes: plan.slot_bytes(),
        live_bytes: plan.live_bytes,
        ready_seconds: ends[0],
    })
}
