//! Times each kernel by itself, at the shapes of a recorded training step, so the benchmark cannot drift from the
//! product.
//!
//! A case runs as a plan that repeats one dispatch of the step, each time on another set of buffers, so that the sets
//! together exceed the caches. Between two dispatches runs a fence: a dispatch of one element that reads the output of
//! the first and writes an input of the second, so that the device cannot overlap them. Only the case's own dispatches
//! are counted. So caches are cold, while in the step an input was often written just before.

mod against;
mod sweep;

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::engine::gpu::{Clock, Device, Executor, States};
use crate::engine::kernel::{DeviceClass, Precision};
use crate::engine::ops::elementwise::Unary;
use crate::engine::philox::Stream;
use crate::engine::plan::{Place, Plan, Reuse, Step};
use crate::engine::tape::Tape;
use crate::engine::tensor::{Shape, Tensor};
use crate::engine::units::{figure, percent};
use crate::measure::analyze;
use crate::measure::figures::{Measure, MeasureError, Origin, Table, positive_seconds, read, repeat};
use crate::measure::page::{Entry, Page};
use crate::measure::peak::{self, Peak};
use crate::ssad::workload::Distinct;
pub use against::{Against, Pair, against};
pub use sweep::{Sweep, Tiling, sweep};

/// How `stssad bench` measures.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Kernels to run, by part of their file's name or of their case's: `conv2d`, `f=exp`; all kernels of the step by default
    #[arg(value_name = "KERNEL")]
    pub kernels: Vec<String>,
    /// Least time to measure each case in seconds; setup and compilation come on top
    #[arg(long, default_value_t = 1.0, value_name = "S", value_parser = positive_seconds)]
    pub seconds: f64,
    /// How to print the rows [default: a table for people]
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    pub output: Option<Format>,
    /// Earlier rows (`-o jsonl`) to compare with, case by case. Other load may have slowed one of the runs, so this changes no
    /// exit code; --against measures both sides at once
    #[arg(long, value_name = "OLD.jsonl")]
    pub compare: Option<PathBuf>,
    /// Write the rows as one self-contained page, with the roofline; with --compare, before beside after
    #[arg(long, value_name = "FILE.html")]
    pub page: Option<PathBuf>,
    /// What `stssad analyze --json` said of the kernels, for the page
    #[arg(long, value_name = "FILE.json", requires = "page")]
    pub analysis: Option<PathBuf>,
    /// Measure the roofs again, even if an earlier run has stored them: the speed of a machine varies
    #[arg(long)]
    pub refresh: bool,
}

impl Default for Options {
    fn default() -> Self {
        let (page, analysis) = (None, None);
        Options { kernels: Vec::new(), seconds: 1.0, output: None, compare: None, page, analysis, refresh: false }
    }
}

/// Formats of the rows, for machines and for issues.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Markdown
    Md,
    /// Comma-separated values
    Csv,
    /// A JSON object a line
    Jsonl,
}

/// What limits the speed of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bound {
    /// The arithmetic rate.
    Compute,
    /// The memory bandwidth.
    Memory,
    /// The cost of an empty dispatch.
    Dispatch,
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(match self {
            Bound::Compute => "compute",
            Bound::Memory => "memory",
            Bound::Dispatch => "dispatch",
        })
    }
}

/// The figures of a case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    pub device: String,
    pub driver: String,
    pub commit: String,
    /// Precision of the step. Kernels on matrix units have their own names.
    #[serde(default)]
    pub precision: Precision,
    /// As [`title`](crate::ssad::workload::title); `--compare` matches rows by it.
    pub case: String,
    pub kernel: String,
    /// The constants and types that the kernel is compiled with.
    #[serde(default)]
    pub specialisation: String,
    /// Dispatches of this case in the step.
    pub calls: usize,
    pub clock: Clock,
    /// Median microseconds of a dispatch, and the quartiles.
    pub microseconds: f64,
    pub low: f64,
    pub high: f64,
    /// Dispatches timed.
    pub count: usize,
    pub flops: u64,
    /// Bytes of the inputs and the output.
    pub bytes: u64,
    /// 10⁹ operations a second.
    pub gflops: f64,
    /// 10⁹ bytes a second.
    pub gbs: f64,
    /// Operations per byte.
    pub intensity: f64,
    /// Shares of the device's roofs. One above 1 tells of a cache, or of a kernel that does not do its work.
    pub of_compute: f64,
    pub of_memory: f64,
    pub bound: Bound,
    /// Whether the buffers together exceed the caches. If not, `of_memory` may exceed 1.
    pub beyond_cache: bool,
    /// As [`Origin::shaders`].
    #[serde(default)]
    pub shaders: String,
    /// With `--compare`, where an earlier row is of the same case: its microseconds.
    #[serde(default)]
    pub old: Option<f64>,
    /// Microseconds now / then: below 1 is faster.
    #[serde(default)]
    pub ratio: Option<f64>,
    /// How far noise alone may move the ratio from 1, given the spreads of both runs. It does not cover a slowdown of a
    /// whole run.
    #[serde(default)]
    pub noise: Option<f64>,
    #[serde(default)]
    pub verdict: Option<Verdict>,
}

impl Row {
    fn time(&self) -> Measure {
        Measure { median: self.microseconds, low: self.low, high: self.high, count: self.count }
    }
}

/// The figures of all cases, those first that take the most time of the step.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub origin: Origin,
    pub rows: Vec<Row>,
    /// The roofs in FLOP/s and bytes/s, and when they were measured.
    pub flops: f64,
    pub bandwidth: f64,
    pub roofs: String,
    /// The file of `--compare`.
    pub compared_with: Option<PathBuf>,
    #[serde(skip)]
    output: Option<Format>,
}

/// The verdict of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Faster,
    Slower,
    /// Within the noise.
    Same,
    /// Its output is not what the kernel is to compute, so its time was not measured.
    Wrong,
}

/// Seconds that a GPU is kept busy before its kernels are timed. While the host prepares a case, an idle GPU lowers its clock, to a
/// sixth on one, and takes some 0.1 s of work to raise it again.
const WARM_UP: f64 = 0.25;

/// Smaller changes count as noise, however small the spread.
const LEAST_NOISE: f64 = 0.02;

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(match self {
            Verdict::Faster => "faster",
            Verdict::Slower => "slower",
            Verdict::Same => "same",
            Verdict::Wrong => "WRONG",
        })
    }
}

impl Row {
    /// The row with what is said of an earlier one.
    fn compared_with(self, old: &Row) -> Row {
        let ratio = self.microseconds / old.microseconds;
        let noise = LEAST_NOISE + 2.0 * old.time().spread().hypot(self.time().spread());
        let verdict = match ratio.max(1.0 / ratio) > 1.0 + noise {
            false => Verdict::Same,
            true if ratio < 1.0 => Verdict::Faster,
            true => Verdict::Slower,
        };
        let [old, ratio, noise] = [old.microseconds, ratio, noise].map(Some);
        Row { old, ratio, noise, verdict: Some(verdict), ..self }
    }

    /// Microseconds of all such dispatches of the step.
    fn total(&self) -> f64 {
        self.calls as f64 * self.microseconds
    }
}

/// Runs the distinct dispatches of `plan` one after another. `progress` is called with the name of each.
///
/// # Errors
/// When no kernel fits, the device fails, or the rows to compare with cannot be read.
pub fn run(
    device: &Device,
    options: &Options,
    plan: &Plan,
    mut progress: impl FnMut(&str),
) -> Result<Report, MeasureError> {
    // Read first: measuring takes long, and the file may be unreadable.
    let old = options.compare.as_deref().map(|path| read(path, rows_of)).transpose()?.unwrap_or_default();
    let analysis = options.analysis.as_deref().map(analyze::Report::read).transpose()?;
    let cases = wanted(plan, options, |_| true)?;
    let peak = peak::run(device, &peak::Options { refresh: options.refresh, ..Default::default() }, &mut progress)?;
    let origin = Origin::of(device);
    let mut rows = Vec::new();
    for case in cases {
        progress(&case.name);
        let (time, beyond_cache) = case.time(device, options.seconds)?;
        rows.push(case.row(&origin, device.clock(), &time, &peak, beyond_cache));
    }
    rows.sort_by(|a, b| b.total().total_cmp(&a.total()));
    let rows = compare(&old, rows);
    let report = Report {
        origin,
        rows,
        flops: peak.flops_of_plan(plan),
        bandwidth: peak.bandwidth(),
        roofs: peak.measured(),
        compared_with: options.compare.clone(),
        output: options.output,
    };
    if let Some(path) = &options.page {
        report.page(analysis.as_ref()).write(path)?;
    }
    Ok(report)
}

/// The cases of a plan that satisfy `is_fit` and match the options. An error if there are none.
fn wanted(plan: &Plan, options: &Options, is_fit: impl Fn(&Case) -> bool) -> Result<Vec<Case>, MeasureError> {
    let fit: Vec<Case> = cases(plan).into_iter().filter(is_fit).collect();
    let mut names: Vec<&str> = fit.iter().map(|case| case.step.kernel.name).collect();
    names.sort_unstable();
    names.dedup();
    let no_such = MeasureError::NoSuchKernel(options.kernels.join(", "), names.join(", "));
    let fits = |case: &Case, name: &String| case.name.contains(name) || case.step.kernel.name.contains(name.as_str());
    let is_named = |case: &Case| options.kernels.is_empty() || options.kernels.iter().any(|name| fits(case, name));
    let cases: Vec<Case> = fit.into_iter().filter(is_named).collect();
    if cases.is_empty() { Err(no_such) } else { Ok(cases) }
}

fn jsonl(rows: &[impl Serialize]) -> String {
    let line = |row| serde_json::to_string(row).expect("a row is plain data") + "\n";
    rows.iter().map(line).collect()
}

fn csv(rows: &[impl Serialize]) -> String {
    let mut table = csv::Writer::from_writer(Vec::new());
    rows.iter().for_each(|row| table.serialize(row).expect("a row is flat"));
    String::from_utf8(table.into_inner().expect("writing to memory succeeds")).expect("text")
}

/// The new rows, each compared with the last old one of its case, if any.
fn compare(old: &[Row], new: Vec<Row>) -> Vec<Row> {
    let key = |row: &Row| (row.case.clone(), row.device.clone(), row.precision);
    let compared = |row: Row| match old.iter().rev().find(|old| key(old) == key(&row)) {
        Some(before) => row.compared_with(before),
        None => row,
    };
    new.into_iter().map(compared).collect()
}

fn rows_of(jsonl: &str) -> Result<Vec<Row>, serde_json::Error> {
    jsonl.lines().filter(|line| !line.trim().is_empty()).map(serde_json::from_str).collect()
}

/// A distinct dispatch of the step, and how many like it the step has.
#[derive(Clone, Debug)]
struct Case {
    name: String,
    step: Step,
    calls: usize,
}

fn cases(plan: &Plan) -> Vec<Case> {
    let Distinct { names, places } = Distinct::of(plan);
    let mut cases: Vec<Case> = Vec::new();
    for (step, place) in plan.steps.iter().zip(places) {
        match cases.get_mut(place) {
            Some(case) => case.calls += 1,
            None => cases.push(Case { name: names[place].clone(), step: step.clone(), calls: 1 }),
        }
    }
    cases
}

/// The buffers of all sets together should exceed this size in bytes; [`SETS`] limits their number.
fn beyond_cache(device: &Device) -> u64 {
    if device.is_cpu() { 128 << 20 } else { 512 << 20 }
}

/// The name of an operand's buffer, inputs first.
fn buffer(set: usize, operand: usize) -> String {
    format!("set {set}, operand {operand}")
}

/// Least and most sets of buffers to rotate through.
const SETS: std::ops::RangeInclusive<u64> = 2..=256;

impl Case {
    /// The time of a dispatch in seconds, and whether the buffers exceeded the caches.
    fn time(&self, device: &Device, seconds: f64) -> Result<(Measure, bool), MeasureError> {
        let mut stream = Stream::new(0, 0);
        // Away from 0, so that nothing divides by zero or becomes subnormal. A prime number of them, so that no two rows are
        // equal; as many as a large input has elements would take longer than to time the kernel.
        let random: Vec<f32> = (0..65_521).map(|_| 0.5 + stream.uniform() as f32).collect();
        let mut values: HashMap<Shape, Tensor> = HashMap::new();
        for input in &self.step.inputs {
            values.entry(input.shape.clone()).or_insert_with_key(|shape| {
                Tensor::new(shape.clone(), random.iter().copied().cycle().take(shape.count()).collect())
            });
        }
        let inputs: Vec<&Tensor> = self.step.inputs.iter().map(|input| &values[&input.shape]).collect();
        let (sets, beyond_cache) = self.sets(device);
        let buffers = self.buffers(device, &inputs, sets)?;
        let mut executor = self.executor(device, &buffers, sets)?;
        let mut times = Vec::new();
        repeat(seconds, || {
            times.extend(Self::times(&mut executor, device.clock())?);
            Ok::<(), MeasureError>(())
        })?;
        let time = Measure::of(times).ok_or_else(|| MeasureError::NoTime(self.name.clone()))?;
        Ok((time, beyond_cache))
    }

    /// How many sets of buffers there are, and whether they exceed the caches.
    fn sets(&self, device: &Device) -> (usize, bool) {
        let wanted = beyond_cache(device).div_ceil(self.step.bytes().max(1));
        let sets = wanted.clamp(*SETS.start(), *SETS.end());
        (sets as usize, sets >= wanted)
    }

    /// So many sets of buffers, each with `inputs`.
    fn buffers(&self, device: &Device, inputs: &[&Tensor], sets: usize) -> Result<States, MeasureError> {
        let (mut states, output) = (States::new(device), Tensor::full(self.step.output.shape.clone(), 0.0));
        for set in 0..sets {
            for (operand, value) in inputs.iter().copied().chain([&output]).enumerate() {
                states.set(&buffer(set, operand), value)?;
            }
        }
        Ok(states)
    }

    /// What runs the dispatch on each of so many sets of buffers, after a first run, and as many as raise a GPU's clock.
    fn executor(&self, device: &Device, buffers: &States, sets: usize) -> Result<Executor, MeasureError> {
        let mut executor = Executor::new(device, self.rotated(sets, device.class()), buffers, |_, _| ())?;
        let begun = Instant::now();
        loop {
            executor.run()?;
            executor.wait()?;
            if device.is_cpu() || begun.elapsed().as_secs_f64() > WARM_UP {
                break;
            }
        }
        Ok(executor)
    }

    /// The valid times of one round over all sets, in seconds.
    fn times(executor: &mut Executor, clock: Clock) -> Result<impl Iterator<Item = f64> + use<>, MeasureError> {
        let spans = executor.profile(clock)?;
        Ok(spans.into_iter().step_by(2).flatten().map(|span| span.seconds).filter(|&seconds| seconds > 0.0))
    }

    /// The dispatch once on each set of buffers, each followed by a fence.
    fn rotated(&self, sets: usize, class: DeviceClass) -> Plan {
        let mut plan = Plan::default();
        let fence = fence(class);
        let output = self.step.inputs.len();
        for set in 0..sets {
            let mut step = self.step.clone();
            for (index, operand) in step.inputs.iter_mut().chain([&mut step.output]).enumerate() {
                let name: Arc<str> = buffer(set, index).into();
                plan.states.push((name.clone(), operand.shape.clone()));
                (operand.place, operand.offset) = (Place::State(name), 0);
            }
            let mut between = fence.clone();
            between.inputs[0].place = step.output.place.clone();
            between.output.place = Place::State(buffer((set + 1) % sets, output).into());
            plan.steps.extend([step, between]);
        }
        plan
    }

    fn row(&self, origin: &Origin, clock: Clock, time: &Measure, peak: &Peak, beyond_cache: bool) -> Row {
        let (flops, bytes) = (self.step.flops, self.step.bytes());
        let (work, traffic) = (flops as f64 / peak.flops_of(&self.step.kernel), bytes as f64 / peak.bandwidth());
        let bound = match work.max(traffic) {
            least if least < peak.dispatch() => Bound::Dispatch,
            least if least > traffic => Bound::Compute,
            _ => Bound::Memory,
        };
        Row {
            device: origin.device.clone(),
            driver: origin.driver.clone(),
            commit: origin.commit.clone(),
            precision: origin.precision,
            case: self.name.clone(),
            kernel: self.step.kernel.name.into(),
            specialisation: self.step.kernel.specialisation(),
            calls: self.calls,
            clock,
            microseconds: 1e6 * time.median,
            low: 1e6 * time.low,
            high: 1e6 * time.high,
            count: time.count,
            flops,
            bytes,
            gflops: 1e-9 * flops as f64 / time.median,
            gbs: 1e-9 * bytes as f64 / time.median,
            intensity: flops as f64 / bytes as f64,
            of_compute: work / time.median,
            of_memory: traffic / time.median,
            bound,
            beyond_cache,
            shaders: origin.shaders.clone(),
            old: None,
            ratio: None,
            noise: None,
            verdict: None,
        }
    }
}

/// A dispatch of one element.
fn fence(class: DeviceClass) -> Step {
    let mut tape = Tape::new();
    let x = tape.feed("x", [1]);
    let y = tape.unary(Unary::Exp, x);
    let plan = Plan::new(&tape, &[y], &[], class, Reuse::On);
    plan.steps.into_iter().next().expect("one dispatch")
}

impl Report {
    /// The rows in `format`.
    pub fn rows(&self, format: Format) -> String {
        match format {
            Format::Md => self.table().markdown(),
            Format::Csv => csv(&self.rows),
            Format::Jsonl => jsonl(&self.rows),
        }
    }

    /// The rows as a page.
    pub fn page(&self, analysis: Option<&analyze::Report>) -> Page<'_> {
        let entry = |row: &Row| Entry {
            name: row.case.clone(),
            kernel: row.kernel.clone(),
            specialisation: row.specialisation.clone(),
            calls: row.calls,
            microseconds: row.total(),
            old: row.old.map(|old| row.calls as f64 * old),
            flops: row.flops,
            bytes: row.bytes,
            bound: row.of_compute.max(row.of_memory) * row.total(),
            finding: None,
        };
        let mut notes = vec![format!("Each kernel by itself, from cold caches; roofs {}.", self.roofs)];
        notes.extend(self.compared_with.as_ref().map(|path| format!("Before: {}.", path.display())));
        Page {
            title: "Kernels of a training step".into(),
            origin: &self.origin,
            notes,
            flops: self.flops,
            bandwidth: self.bandwidth,
            cases: self.rows.iter().map(entry).collect(),
            dispatches: Vec::new(),
            memory: None,
        }
        .with_analysis(analysis)
    }

    fn table(&self) -> Table<10> {
        let total: f64 = self.rows.iter().map(Row::total).sum();
        let mark = |share: f64, marks: &str| format!("{}{}{marks}", percent(share), if share > 1.0 { "!" } else { "" });
        let row = |row: &Row| {
            [
                row.case.clone(),
                row.calls.to_string(),
                figure(row.microseconds),
                percent(row.time().spread()),
                percent(row.total() / total),
                figure(row.gflops),
                figure(row.gbs),
                mark(row.of_compute, ""),
                mark(row.of_memory, if row.beyond_cache { "" } else { "*" }),
                row.bound.to_string(),
            ]
        };
        let header = ["case", "calls", "µs", "± %", "% of all", "GFLOP/s", "GB/s", "% compute", "% memory", "bound"];
        Table { header, rows: self.rows.iter().map(row).collect() }
    }

    fn comparison(&self) -> Table<6> {
        let row = |row: &Row| {
            let verdict = row.verdict?.to_string();
            let ratio = format!("{:.3}", row.ratio?);
            Some([row.case.clone(), figure(row.old?), figure(row.microseconds), ratio, percent(row.noise?), verdict])
        };
        let header = ["case", "old µs", "new µs", "new/old", "noise ± %", "verdict"];
        Table { header, rows: self.rows.iter().filter_map(row).collect() }
    }

    /// How the figures are to be read: sentences, a line each.
    fn remarks(&self) -> String {
        let total = self.rows.iter().map(Row::total).sum::<f64>() / 1e3;
        let calls: usize = self.rows.iter().map(|row| row.calls).sum();
        let mut text =
            format!("{} ms in all for {calls} dispatches, each timed alone and from cold caches; ", figure(total));
        text += &format!("`profile` times them within the step.\nThe roofs were {}.\n", self.roofs);
        if self.rows.iter().any(|row| !row.beyond_cache) {
            text += "* The buffers fit into a cache.\n";
        }
        if self.rows.iter().any(|row| row.of_compute.max(row.of_memory) > 1.0) {
            text += "! Above a roof: data came from a cache, other load slowed the roof's measurement (--refresh), or the kernel does \
                     not do its work, which `check` tells.\n";
        }
        text
    }

    /// What the user is told apart from the rows: where `--compare` found nothing to compare.
    pub fn warning(&self) -> Option<String> {
        let path = self.compared_with.as_ref()?;
        let is_compared = self.rows.iter().any(|row| row.verdict.is_some());
        let why = "rows match by case, device and precision";
        (!is_compared).then(|| format!("no row of {} matches one of these: {why}", path.display()))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let is_compared = self.rows.iter().any(|row| row.verdict.is_some());
        match self.output {
            Some(Format::Md) => {
                write!(f, "{}\n\n{}\n{}", self.origin, self.rows(Format::Md), self.remarks())?;
                if is_compared { write!(f, "\n{}", self.comparison().markdown()) } else { Ok(()) }
            }
            Some(format) => f.write_str(&self.rows(format)),
            None => {
                write!(f, "{}\n\n{}\n{}", self.origin, self.table(), self.remarks())?;
                if is_compared { write!(f, "\n{}", self.comparison()) } else { Ok(()) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::gpu::Choice;
    use crate::engine::kernel::Lanes;
    use crate::measure::peak::tests::roofs;

    fn plan() -> Plan {
        let mut tape = Tape::new();
        let (x, w) = (tape.feed("x", [8, 16]), tape.feed("w", [16, 4]));
        let y = tape.matmul(x, w);
        let once = tape.relu(y);
        let twice = tape.relu(once);
        let z = tape.unary(Unary::Exp, twice);
        let sum = tape.total(z);
        Plan::new(&tape, &[sum], &[], DeviceClass::Cpu(Lanes::Eight), Reuse::On)
    }

    fn row(case: &str, microseconds: f64, spread: f64) -> Row {
        let case = Case { name: case.into(), step: plan().steps[0].clone(), calls: 2 };
        let seconds = 1e-6 * microseconds;
        let time =
            Measure { median: seconds, low: seconds * (1.0 - spread), high: seconds * (1.0 + spread), count: 10 };
        let peak = roofs(1.0, 1.0);
        case.row(&peak.origin, Clock::Gpu, &time, &peak, true)
    }

    #[test]
    fn cases_are_the_distinct_dispatches() {
        let cases = cases(&plan());
        let names: Vec<&str> = cases.iter().map(|case| case.name.as_str()).collect();
        assert_eq!(names[0], "matmul/product(m=8,n=4,k=16,ta=0,tb=0)");
        let relu = cases.iter().find(|case| case.calls == 2).expect("two equal dispatches are one case");
        assert!(relu.step.kernel.name.starts_with("elementwise"));
        assert_eq!(names.len(), names.iter().collect::<std::collections::HashSet<_>>().len(), "{names:?}");
    }

    /// As parameters that lie in one array have them.
    #[test]
    fn operands_within_an_array_are_measured_in_buffers_of_their_own() {
        let mut step = plan().steps[0].clone();
        step.inputs.iter_mut().chain([&mut step.output]).for_each(|operand| operand.offset = 256);
        let case = Case { name: "a".into(), step, calls: 1 };
        let device = Device::open(&Choice::Best).unwrap();
        let inputs: Vec<Tensor> = case.step.inputs.iter().map(|input| Tensor::full(input.shape.clone(), 1.0)).collect();
        let buffers = case.buffers(&device, &inputs.iter().collect::<Vec<_>>(), 2).unwrap();
        case.executor(&device, &buffers, 2).unwrap();
    }

    #[test]
    fn roofs_are_shares_of_what_the_device_can_do() {
        // 2·8·16·4 FLOP and 4·(128 + 64 + 32) bytes at 1 GFLOP/s and 1 GB/s.
        let row = row("a", 2.048, 0.0);
        assert_eq!((row.flops, row.bytes, row.bound), (1024, 896, Bound::Compute));
        assert!((row.of_compute - 0.5).abs() < 1e-9 && (row.of_memory - 0.4375).abs() < 1e-9);
        assert!((row.gflops - 0.5).abs() < 1e-9 && (row.intensity - 1024.0 / 896.0).abs() < 1e-9);
    }

    #[test]
    fn a_change_within_the_noise_is_same() {
        let verdict = |old: &Row, new: &Row| new.clone().compared_with(old).verdict.unwrap();
        assert_eq!(verdict(&row("a", 100.0, 0.0), &row("a", 101.0, 0.0)), Verdict::Same);
        assert_eq!(verdict(&row("a", 100.0, 0.0), &row("a", 110.0, 0.0)), Verdict::Slower);
        assert_eq!(verdict(&row("a", 100.0, 0.0), &row("a", 90.0, 0.0)), Verdict::Faster);
        assert_eq!(verdict(&row("a", 100.0, 0.1), &row("a", 110.0, 0.0)), Verdict::Same);
        let (old, new) = ([row("a", 2.0, 0.0), row("b", 1.0, 0.0)], vec![row("c", 1.0, 0.0), row("a", 1.0, 0.0)]);
        let compared = compare(&old, new.clone());
        assert_eq!((compared[0].ratio, compared[1].ratio), (None, Some(0.5)));

        let report = |rows| Report { compared_with: Some("old.jsonl".into()), ..report(rows, None) };
        assert!(report(compared.clone()).to_string().contains("faster") && report(compared).warning().is_none());
        assert!(report(new).warning().unwrap().starts_with("no row of old.jsonl matches"));
    }

    fn report(rows: Vec<Row>, output: Option<Format>) -> Report {
        let (origin, roofs) = (roofs(1.0, 1.0).origin, "measured now".into());
        Report { origin, rows, flops: 1e9, bandwidth: 1e9, roofs, compared_with: None, output }
    }

    /// 1024 FLOP at 1 GFLOP/s take 1.024 µs.
    #[test]
    fn what_is_above_a_roof_is_marked_and_explained() {
        let told = |microseconds| report(vec![row("a", microseconds, 0.0)], None).to_string();
        assert!(!told(2.0).contains('!'), "{}", told(2.0));
        assert!(told(0.9).contains("113.8!") && told(0.9).contains("! Above a roof"), "{}", told(0.9));
        assert!(told(2.0).contains("0.004 ms in all for 2 dispatches"), "{}", told(2.0));
    }

    #[test]
    fn rows_survive_jsonl_and_csv() {
        let rows = vec![row("a [1,2] → [3]", 2.0, 0.1)];
        let rows = compare(&[row("a [1,2] → [3]", 3.0, 0.1)], rows);
        let report = report(rows, None);
        let read: Row = serde_json::from_str(report.rows(Format::Jsonl).trim_end()).unwrap();
        assert_eq!(read, report.rows[0]);
        let csv = report.rows(Format::Csv);
        let read: Row = csv::Reader::from_reader(csv.as_bytes()).deserialize().next().unwrap().unwrap();
        assert_eq!(read, report.rows[0]);
        assert!(report.rows(Format::Md).lines().nth(1).unwrap().starts_with("|:--"));
    }

    #[test]
    fn a_case_runs_on_rotated_buffers() {
        let device = Device::open(&Choice::Best).unwrap();
        for case in cases(&plan()) {
            let rotated = case.rotated(3, device.class());
            assert_eq!((rotated.steps.len(), rotated.states.len()), (6, 3 * (case.step.inputs.len() + 1)));
            let (time, _) = case.time(&device, 0.0).unwrap();
            assert!(time.median > 0.0 && time.median.is_finite(), "{}", case.name);
        }
    }
}
