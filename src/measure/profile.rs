//! Where the time of a step goes: by kernel, scope, family and order of differentiation, each compared with its lower
//! bound on this device. Output: tables, a page, and a Perfetto trace.

mod memory;
mod trace;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::data::{DataError, Images, Set, Task};
use crate::engine::gpu::{Clock, Device, Executor, Span, Tally};
use crate::engine::philox::Stream;
use crate::engine::plan::memory::Memory;
use crate::engine::plan::{Plan, Step};
use crate::engine::tensor::Tensor;
use crate::engine::units::{figure, percent};
use crate::measure::analyze;
use crate::measure::figures::{Measure, MeasureError, Origin, Table, read, write};
use crate::measure::page::{Entry, Page, Slice};
use crate::measure::peak::{self, Peak};
use crate::run::claim::Owner;
use crate::ssad::workload::{Distinct, Workload};

/// How `stssad profile` measures.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Steps to take the medians of
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub repetitions: u32,
    /// Folder for page.html (kernels, roofline, timeline, memory), profile.json and trace.json (for ui.perfetto.dev)
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Earlier profile.json to compare with, case by case. Other load may have slowed one of the two
    #[arg(long, value_name = "OLD.json")]
    pub compare: Option<PathBuf>,
    /// What `stssad analyze --json` said of the kernels, for the page
    #[arg(long, value_name = "FILE.json", requires = "out")]
    pub analysis: Option<PathBuf>,
    /// Levels of the scopes to list
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub depth: usize,
}

/// What `stssad profile --out` writes.
pub const OWNER: Owner = Owner { command: "profile", files: &["page.html", "profile.json", "trace.json"] };

impl Default for Options {
    fn default() -> Self {
        Options { repetitions: 10, out: None, compare: None, analysis: None, depth: 3 }
    }
}

/// Noise images for a step of `workload`, whose time does not depend on the pixels.
///
/// # Errors
/// When the sets cannot be split.
pub fn noise(workload: &Workload) -> Result<Task, DataError> {
    let (Workload { image: [c, h, w], batch, batch_val, .. }, mut stream) = (*workload, Stream::new(0, 0));
    let mut draw = |count: usize| {
        let data = (0..count * c * h * w).map(|_| stream.uniform() as f32).collect();
        Images::of(Tensor::new([count, c, h, w], data))
    };
    let normal = Set::of_class(draw(batch + batch_val), "normal", "normal", false);
    let anomaly = Set::of_class(draw(batch_val), "anomaly", "anomaly", true);
    Task::semantic(&normal, &anomaly, batch, batch_val, batch_val, 0)
}

/// The time of one dispatch.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Dispatch {
    /// The value it computes, as the plan prints it.
    pub value: String,
    /// Its place in [`Report::cases`].
    pub case: usize,
    pub kernel: &'static str,
    pub scope: String,
    /// Backward passes behind it: 0 forward, 1 gradient, 2 gradient of a gradient.
    pub order: usize,
    pub inputs: Vec<Vec<usize>>,
    pub output: Vec<usize>,
    pub flops: u64,
    /// Bytes of the inputs and the output.
    pub bytes: u64,
    /// Median over the repetitions; `None` if the clock gave no valid time in any.
    pub microseconds: Option<f64>,
    /// Lower bound of the time in microseconds.
    pub bound: f64,
}

/// What `--compare` reads of an earlier report.
#[derive(Deserialize)]
struct Earlier {
    origin: Origin,
    cases: Vec<Entry>,
}

impl Earlier {
    fn read(path: &Path) -> Result<Earlier, MeasureError> {
        read(path, |text| serde_json::from_str(text))
    }
}

/// Dispatches added up by something they have in common.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Group {
    pub name: String,
    pub calls: usize,
    pub microseconds: f64,
    /// Share of the time of all kernels, up to 1.
    pub share: f64,
    pub flops: u64,
    pub bytes: u64,
    /// 10⁹ operations a second.
    pub gflops: f64,
    /// 10⁹ bytes a second, counting inputs and outputs.
    pub gbs: f64,
    /// Sum of the dispatches' lower bounds, in microseconds.
    pub bound: f64,
    /// Lower bound / time: 1 is as fast as the roofs allow; above 1, data came from a cache.
    pub of_bound: f64,
}

/// The time of a whole step, in microseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepTime {
    /// All dispatches, in passes as long as the step's, by the report's clock.
    pub pass: Measure,
    /// Sum over the kernels, each timed in a pass of its own.
    pub kernels: f64,
    /// Sum of the kernels' lower bounds.
    pub bound: f64,
    /// From the call until the device has finished, copies of states included, by the host's clock.
    pub wall: Measure,
    /// Recording and submitting alone: the host's share of a training step.
    pub host: Measure,
    /// `host` per dispatch.
    pub host_per_dispatch: f64,
    /// Objects created on the device and submits in one call.
    pub made: Tally,
}

/// Where the time of a step goes.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub origin: Origin,
    /// The clock that timed the kernels: the host's if the device has none.
    pub clock: Clock,
    /// Roofs: FLOP/s and bytes/s.
    pub flops: f64,
    pub bandwidth: f64,
    pub repetitions: u32,
    /// Times dropped because the clock ran backwards or was not written.
    pub dropped: usize,
    pub step: StepTime,
    pub cases: Vec<Entry>,
    pub kernels: Vec<Group>,
    /// By dotted prefix: the row of a scope includes its inner scopes.
    pub scopes: Vec<Group>,
    pub families: Vec<Group>,
    /// `forward`, `gradient`, `second order`.
    pub orders: Vec<Group>,
    pub memory: Memory,
    pub dispatches: Vec<Dispatch>,
    /// The file of `--compare`, and where its figures are of.
    pub compared_with: Option<(PathBuf, Origin)>,
    #[serde(skip)]
    depth: usize,
}

/// Profiles the plan of `executor`, which must be fed. The states advance by several training steps.
///
/// # Errors
/// When the device fails, its clock gives no valid time, or a file cannot be written.
pub fn run(
    device: &Device,
    options: &Options,
    executor: &mut Executor,
    progress: impl FnMut(&str),
) -> Result<Report, MeasureError> {
    // Read first: measuring takes long, and the files may be unreadable.
    let earlier = options.compare.as_deref().map(Earlier::read).transpose()?;
    let analysis = options.analysis.as_deref().map(analyze::Report::read).transpose()?;
    let peak = peak::run(device, &peak::Options::default(), progress)?;
    let clock = device.clock();
    let mut times = Times::default();
    // On some drivers the first run compiles pipelines, and the first runs are timed submit by submit.
    while !executor.is_settled() {
        executor.run()?;
    }
    executor.wait()?;
    for _ in 0..options.repetitions.max(1) {
        // The measurements alternate, so that other load affects all of them alike.
        times.spans.push(executor.profile(clock)?);
        times.pass.extend(executor.time_pass(clock)?);
        // Wait first: a software device would compete with the host for the same cores.
        executor.wait()?;
        let (before, start) = (device.tally(), Instant::now());
        executor.run()?;
        times.host.push(start.elapsed().as_secs_f64());
        times.made = device.tally() - before;
        executor.wait()?;
        times.wall.push(start.elapsed().as_secs_f64());
    }
    let mut report = report(executor.plan(), Origin::of(device), clock, &peak, &times)
        .ok_or_else(|| MeasureError::NoTime("the step".into()))?;
    report.depth = options.depth;
    if let Some((path, earlier)) = options.compare.as_deref().zip(earlier) {
        report.compare(path, earlier);
    }
    if let Some(folder) = &options.out {
        let median = times.median_repetition();
        let trace = trace::events(executor.plan(), &times.spans[median], &report);
        write(&folder.join("profile.json"), &json(&report))?;
        write(&folder.join("trace.json"), &json(&trace))?;
        report.page(analysis.as_ref()).write(&folder.join("page.html"))?;
    }
    Ok(report)
}

fn json(value: &impl Serialize) -> Vec<u8> {
    let mut text = serde_json::to_vec(value).expect("plain data with string keys");
    text.push(b'\n');
    text
}

/// The times of the repetitions, in seconds.
#[derive(Clone, Debug, Default)]
struct Times {
    spans: Vec<Vec<Option<Span>>>,
    pass: Vec<f64>,
    host: Vec<f64>,
    wall: Vec<f64>,
    made: Tally,
}

impl Times {
    /// The repetition with the median kernel time: the trace shows a run that happened.
    fn median_repetition(&self) -> usize {
        let total = |index: &usize| self.spans[*index].iter().flatten().map(|span| span.seconds).sum::<f64>();
        let mut order: Vec<usize> = (0..self.spans.len()).collect();
        order.sort_by(|a, b| total(a).total_cmp(&total(b)));
        order[order.len() / 2]
    }
}

/// `None` if the whole step has no valid time.
fn report(plan: &Plan, origin: Origin, clock: Clock, peak: &Peak, times: &Times) -> Option<Report> {
    let micro = |seconds: &[f64]| Measure::of(seconds.iter().copied()).map(|measure| measure.scaled(1e6));
    let distinct = Distinct::of(plan);
    let dispatch = |(index, step): (usize, &Step)| {
        let seconds = times.spans.iter().filter_map(|spans| spans[index]).map(|span| span.seconds);
        Dispatch {
            value: format!("{:?}", step.value),
            case: distinct.places[index],
            kernel: step.kernel.name,
            scope: step.scope.to_string(),
            order: step.order,
            inputs: step.inputs.iter().map(|input| input.shape.to_vec()).collect(),
            output: step.output.shape.to_vec(),
            flops: step.flops,
            bytes: step.bytes(),
            microseconds: Measure::of(seconds).map(|measure| 1e6 * measure.median),
            bound: 1e6 * peak.lower_bound(&step.kernel, step.flops, step.bytes()),
        }
    };
    let dispatches: Vec<Dispatch> = plan.steps.iter().enumerate().map(dispatch).collect();
    let host = micro(&times.host)?;
    Some(Report {
        origin,
        clock,
        flops: peak.flops_of_plan(plan),
        bandwidth: peak.bandwidth(),
        repetitions: times.spans.len() as u32,
        dropped: times.spans.iter().flatten().filter(|span| span.is_none()).count(),
        step: StepTime {
            pass: micro(&times.pass)?,
            kernels: dispatches.iter().filter_map(|dispatch| dispatch.microseconds).sum(),
            bound: dispatches.iter().map(|dispatch| dispatch.bound).sum(),
            wall: micro(&times.wall)?,
            host,
            host_per_dispatch: host.median / plan.steps.len().max(1) as f64,
            made: times.made,
        },
        cases: cases(plan, &distinct, &dispatches),
        kernels: groups(&dispatches, |dispatch| vec![dispatch.kernel.to_owned()]),
        scopes: groups(&dispatches, |dispatch| prefixes(&dispatch.scope)),
        families: groups(&dispatches, |dispatch| vec![family(dispatch.kernel).to_owned()]),
        orders: groups(&dispatches, |dispatch| vec![order(dispatch.order)]),
        memory: Memory::of(plan),
        dispatches,
        compared_with: None,
        depth: Options::default().depth,
    })
}

/// The distinct dispatches with the times of all that are equal, in the order of their first.
fn cases(plan: &Plan, distinct: &Distinct, dispatches: &[Dispatch]) -> Vec<Entry> {
    let mut cases: Vec<Entry> = Vec::new();
    for (step, dispatch) in plan.steps.iter().zip(dispatches) {
        if dispatch.case == cases.len() {
            cases.push(Entry {
                name: distinct.names[dispatch.case].clone(),
                kernel: step.kernel.name.into(),
                specialisation: step.kernel.specialisation(),
                calls: 0,
                microseconds: 0.0,
                bound: 0.0,
                flops: step.flops,
                bytes: step.bytes(),
                old: None,
                finding: None,
            });
        }
        let case = &mut cases[dispatch.case];
        case.calls += 1;
        // A bound without a time would make the case look faster.
        if let Some(microseconds) = dispatch.microseconds {
            case.microseconds += microseconds;
            case.bound += dispatch.bound;
        }
    }
    cases
}

impl Report {
    fn compare(&mut self, path: &Path, earlier: Earlier) {
        for case in &mut self.cases {
            let old = earlier.cases.iter().find(|old| old.name == case.name);
            case.old = old.map(|old| old.microseconds);
        }
        self.compared_with = Some((path.to_owned(), earlier.origin));
    }

    /// The step as a page.
    pub fn page(&self, analysis: Option<&analyze::Report>) -> Page<'_> {
        let slice = |dispatch: &Dispatch| Slice {
            case: dispatch.case,
            scope: dispatch.scope.clone(),
            microseconds: dispatch.microseconds.unwrap_or(0.0),
        };
        let mut notes = vec![
            format!(
                "Median of {} steps by the {} clock, each dispatch in a pass of its own.",
                self.repetitions, self.clock
            ),
            self.totals(),
        ];
        notes
            .extend(self.compared_with.as_ref().map(|(path, origin)| format!("Before: {}, {origin}.", path.display())));
        Page {
            title: "Profile of a training step".into(),
            origin: &self.origin,
            notes,
            flops: self.flops,
            bandwidth: self.bandwidth,
            cases: self.cases.clone(),
            dispatches: self.dispatches.iter().map(slice).collect(),
            memory: Some(&self.memory),
        }
        .with_analysis(analysis)
    }

    /// The cases whose time changed most, with their times before and now.
    fn changes(&self) -> Table<5> {
        let change = |case: &Entry| case.old.map_or(0.0, |old| (case.microseconds - old).abs());
        let mut changed: Vec<&Entry> = self.cases.iter().filter(|case| case.old.is_some()).collect();
        changed.sort_by(|a, b| change(b).total_cmp(&change(a)));
        let row = |case: &&Entry| {
            let old = case.old.unwrap_or(f64::NAN);
            let ratio = format!("{:.2}", case.microseconds / old);
            [case.name.clone(), case.calls.to_string(), figure(old), figure(case.microseconds), ratio]
        };
        let header = ["most changed", "calls", "µs before", "µs now", "now ÷ before"];
        Table { header, rows: changed.iter().take(CHANGES).map(row).collect() }
    }

    /// The time of the step, in a line.
    fn totals(&self) -> String {
        let StepTime { pass, kernels, bound, .. } = &self.step;
        format!(
            "{} µs in its passes (±{} %), kernels {} µs ({:+.1} %), lower bound {} µs",
            figure(pass.median),
            percent(pass.spread()),
            figure(*kernels),
            100.0 * (kernels / pass.median - 1.0),
            figure(*bound),
        )
    }
}

/// Cases of which a comparison is printed.
const CHANGES: usize = 10;

fn family(kernel: &str) -> &str {
    kernel.split('/').next().unwrap_or(kernel)
}

fn order(order: usize) -> String {
    match order {
        0 => "forward".into(),
        1 => "gradient".into(),
        2 => "second order".into(),
        more => format!("order {more}"),
    }
}

/// The scope `a.b.c` lies in `a`, `a.b` and `a.b.c`.
fn prefixes(scope: &str) -> Vec<String> {
    let ends = scope.match_indices('.').map(|(at, _)| at).chain([scope.len()]);
    ends.map(|end| scope[..end].to_owned()).map(|name| if name.is_empty() { "(none)".into() } else { name }).collect()
}

/// Adds up the dispatches by the names that `names` gives them, the slowest group first.
fn groups(dispatches: &[Dispatch], names: impl Fn(&Dispatch) -> Vec<String>) -> Vec<Group> {
    let total: f64 = dispatches.iter().filter_map(|dispatch| dispatch.microseconds).sum();
    let mut sums: BTreeMap<String, Group> = BTreeMap::new();
    for dispatch in dispatches {
        for name in names(dispatch) {
            let group = sums.entry(name).or_insert_with_key(|name| Group {
                name: name.clone(),
                calls: 0,
                microseconds: 0.0,
                share: 0.0,
                flops: 0,
                bytes: 0,
                gflops: 0.0,
                gbs: 0.0,
                bound: 0.0,
                of_bound: 0.0,
            });
            group.calls += 1;
            // Counting work without a time would make the group look faster.
            if let Some(microseconds) = dispatch.microseconds {
                group.microseconds += microseconds;
                group.flops += dispatch.flops;
                group.bytes += dispatch.bytes;
                group.bound += dispatch.bound;
            }
        }
    }
    let mut groups: Vec<Group> = sums.into_values().collect();
    for group in &mut groups {
        let of = |amount: f64, whole: f64| if whole > 0.0 { amount / whole } else { 0.0 };
        group.share = of(group.microseconds, total);
        group.gflops = of(group.flops as f64, 1e3 * group.microseconds);
        group.gbs = of(group.bytes as f64, 1e3 * group.microseconds);
        group.of_bound = of(group.bound, group.microseconds);
    }
    groups.sort_by(|a, b| b.microseconds.total_cmp(&a.microseconds));
    groups
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Report { clock, step, .. } = self;
        writeln!(f, "{}", self.origin)?;
        writeln!(
            f,
            "{} dispatches, median of {} steps by the {clock} clock; {} times dropped",
            self.dispatches.len(),
            self.repetitions,
            self.dropped
        )?;
        writeln!(f, "roofs: {} GFLOP/s, {} GB/s", figure(self.flops / 1e9), figure(self.bandwidth / 1e9))?;
        for (title, groups) in [("kernel", &self.kernels), ("family", &self.families), ("order", &self.orders)] {
            writeln!(f, "\n{}", table(title, groups))?;
        }
        let mut scopes: Vec<Group> =
            self.scopes.iter().filter(|group| prefixes(&group.name).len() <= self.depth).cloned().collect();
        // In tree order: each scope below its parent.
        scopes.sort_by(|a, b| a.name.split('.').cmp(b.name.split('.')));
        for group in &mut scopes {
            let (depth, last) = (group.name.matches('.').count(), group.name.rsplit('.').next().unwrap_or_default());
            group.name = format!("{}{last}", "  ".repeat(depth));
        }
        writeln!(f, "{}", table("scope", &scopes))?;
        writeln!(f, "{}", self.memory)?;
        if let Some((path, origin)) = &self.compared_with {
            writeln!(f, "compared with {}: {origin}\n{}", path.display(), self.changes())?;
        }
        writeln!(f, "step     {}", self.totals())?;
        writeln!(
            f,
            "run()    {} µs until done, {} µs of it on the host ({} µs per dispatch); {} buffers and {} bind groups, \
             {} submits",
            figure(step.wall.median),
            figure(step.host.median),
            figure(step.host_per_dispatch),
            step.made.buffers,
            step.made.bind_groups,
            step.made.submits,
        )
    }
}

fn table(title: &'static str, groups: &[Group]) -> Table<8> {
    let row = |group: &Group| {
        [
            group.name.clone(),
            group.calls.to_string(),
            figure(group.microseconds),
            percent(group.share),
            figure(group.gflops),
            figure(group.gbs),
            figure(group.bound),
            percent(group.of_bound),
        ]
    };
    let header = [title, "calls", "µs", "share %", "GFLOP/s", "GB/s", "bound µs", "of bound %"];
    Table { header, rows: groups.iter().map(row).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::kernel::DeviceClass;
    use crate::engine::ops::elementwise::Unary;
    use crate::engine::plan::Reuse;
    use crate::engine::tape::Tape;
    use crate::measure::peak::tests::roofs;

    /// y = Σ x · exp(x) in scope `a.b`, its gradient and the sum of that, with all spans of one microsecond.
    pub fn example() -> (Plan, Vec<Option<Span>>, Report) {
        let mut tape = Tape::new();
        let x = tape.feed("x", [1000]);
        let y = tape.scope("a", |t| {
            t.scope("b", |t| {
                let exponential = t.unary(Unary::Exp, x);
                let product = t.mul(x, exponential);
                t.total(product)
            })
        });
        let gradient = tape.grad(y, &[x]).unwrap()[0];
        let sum = tape.scope("c", |t| t.total(gradient));
        let plan = Plan::new(&tape, &[sum], &[], DeviceClass::Gpu, Reuse::On);
        let spans: Vec<Option<Span>> =
            (0..plan.steps.len()).map(|index| Some(Span { start: 2e-6 * index as f64, seconds: 1e-6 })).collect();
        let peak = roofs(1.0, 1.0);
        let times = Times {
            spans: vec![spans.clone()],
            pass: vec![5e-6],
            host: vec![2e-6],
            wall: vec![9e-6],
            made: Tally::default(),
        };
        let report = report(&plan, peak.origin.clone(), Clock::Gpu, &peak, &times).unwrap();
        (plan, spans, report)
    }

    fn dispatch(kernel: &'static str, scope: &str, microseconds: Option<f64>) -> Dispatch {
        Dispatch {
            value: "%0".into(),
            case: 0,
            kernel,
            scope: scope.into(),
            order: 0,
            inputs: Vec::new(),
            output: Vec::new(),
            flops: 2000,
            bytes: 4000,
            microseconds,
            bound: 1.0,
        }
    }

    #[test]
    fn groups_add_up() {
        let dispatches = [
            dispatch("conv2d/output", "a.b", Some(3.0)),
            dispatch("conv2d/output", "a", Some(1.0)),
            dispatch("matmul/product", "", Some(4.0)),
            dispatch("matmul/product", "", None),
        ];
        let kernels = groups(&dispatches, |dispatch| vec![dispatch.kernel.to_owned()]);
        let conv = kernels.iter().find(|group| group.name == "conv2d/output").unwrap();
        assert_eq!((conv.calls, conv.microseconds, conv.share), (2, 4.0, 0.5));
        assert_eq!((conv.gflops, conv.gbs, conv.of_bound), (1.0, 2.0, 0.5));
        let matmul = kernels.iter().find(|group| group.name == "matmul/product").unwrap();
        assert_eq!((matmul.calls, matmul.flops, matmul.share), (2, 2000, 0.5));

        let scopes = groups(&dispatches, |dispatch| prefixes(&dispatch.scope));
        let time = |name: &str| scopes.iter().find(|group| group.name == name).unwrap().microseconds;
        assert_eq!((time("a"), time("a.b"), time("(none)")), (4.0, 3.0, 4.0));
    }

    #[test]
    fn a_report_counts_orders_and_sums() {
        let (plan, _, report) = example();
        assert_eq!(report.step.kernels.round() as usize, plan.steps.len());
        assert_eq!(report.orders.iter().map(|group| group.calls).sum::<usize>(), plan.steps.len());
        assert!(report.orders.iter().any(|group| group.name == "gradient"));
        let text = report.to_string();
        assert!(text.contains("elementwise") && text.contains("by the gpu clock"), "{text}");
        let json: serde_json::Value = serde_json::to_value(&report).unwrap();
        assert_eq!(json["dispatches"].as_array().unwrap().len(), plan.steps.len());
        assert_eq!(json["clock"], "gpu");
    }

    #[test]
    fn cases_add_up_and_are_compared_by_name() {
        let (plan, _, mut report) = example();
        let calls: usize = report.cases.iter().map(|case| case.calls).sum();
        let time: f64 = report.cases.iter().map(|case| case.microseconds).sum();
        assert_eq!((calls, time.round() as usize), (plan.steps.len(), plan.steps.len()));

        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), json(&report)).unwrap();
        let mut earlier = Earlier::read(file.path()).unwrap();
        earlier.cases[0].microseconds *= 4.0;
        earlier.cases.truncate(1);
        report.compare(file.path(), earlier);
        let text = report.changes().to_string();
        assert!(text.contains("0.25") && text.contains(&report.cases[0].name), "{text}");
        assert!(report.cases[1..].iter().all(|case| case.old.is_none()));
    }
}
