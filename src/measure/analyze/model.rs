//! What a model says of kernels: counts of the [lockstep interpreter](crate::proof::sanitizer::Program::count), over
//! the rates of a [`Machine`], are a time that a dispatch cannot beat.
//!
//! A few workgroups of each dispatch are interpreted and the rest extrapolated. Each resource then takes a time of its
//! own: the work of a workgroup over the rate of a unit, as often as the busiest unit runs one; for the caches and
//! memory that all units share, bytes over bandwidth. The largest of these times is the bound, since the resources can
//! work at once but none faster. Not in it: registers and how few subgroups they leave, instructions that a compiler
//! adds or saves, the start of a dispatch. It is a model, not a measurement, and is called one wherever it is printed.
//!
//! It was held against a published kernel before it was believed of ours: ggml's Vulkan convolution reaches 43 to 45 % of
//! the peak of an RTX 3090; its bound is 61.5 % and workgroup memory binds. A test holds it between 45 and 75 %.
//!
//! Caches are taken to be as good as they can be: memory moves inputs and output once, the second cache gives each
//! workgroup each sector once.

mod machine;

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{AnalyzeError, Dispatch, Subject};
use crate::engine::shaders::Replaced;
use crate::engine::units::{figure, percent};
use crate::measure::figures::Table;
use crate::proof::sanitizer::{Counted, Launch, Prepared, SECTOR_BYTES, Tally, Unit, lower};
pub use machine::{MACHINES, Machine};

/// Most instructions of a workgroup that is interpreted, of all its subgroups.
const LIMIT: u64 = 50_000_000;
/// Workgroups of a dispatch that are interpreted, at most.
const SAMPLES: usize = 4;
/// Largest terms of a step's bound that are printed.
const TERMS: usize = 5;
/// What the columns of the table count.
const LEGEND: &str = "\
FMA %: share of multiply-adds in arithmetic. sectors/fewest: 32-byte sectors that global memory moves, over the fewest possible.
conflicts %: passes of workgroup memory beyond the fewest. idle %: lanes that take no part. units %: units that have work.
line: of the shader, where the time goes.";

/// What a dispatch takes time of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    /// Multiply-adds and other arithmetic of floats.
    Floats,
    Integers,
    /// Roots and transcendental functions.
    Special,
    /// Slots in which a unit issues instructions.
    Issue,
    /// Banks of workgroup memory.
    WorkgroupMemory,
    /// Sectors that instructions touch, from the cache of a unit.
    FirstCache,
    /// Sectors that a workgroup touches, from the cache of all units.
    SecondCache,
    /// Inputs and output, once each.
    Memory,
    /// Loads that all resident workgroups wait for between barriers.
    Latency,
}

impl Resource {
    fn name(self) -> &'static str {
        match self {
            Resource::Floats => "floats",
            Resource::Integers => "integers",
            Resource::Special => "special functions",
            Resource::Issue => "instruction issue",
            Resource::WorkgroupMemory => "workgroup memory",
            Resource::FirstCache => "first cache",
            Resource::SecondCache => "second cache",
            Resource::Memory => "memory",
            Resource::Latency => "latency",
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Counts of a source line, or of all of them: of a dispatch, extrapolated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    /// Instructions of multiply-adds, one a subgroup; a vector's are as many as it has components.
    pub fma: f64,
    /// Of other float arithmetic at full rate.
    pub float: f64,
    /// Of roots and transcendental functions.
    pub special: f64,
    /// Of integers, comparisons, selections and conversions.
    pub integer: f64,
    /// Of these, what is the same in all lanes of a subgroup.
    pub uniform: f64,
    pub loads: f64,
    pub stores: f64,
    pub workgroup_loads: f64,
    pub workgroup_stores: f64,
    pub shuffles: f64,
    /// A subgroup each.
    pub barriers: f64,
    /// Sectors of 32 bytes that loads and stores touch.
    pub sectors: f64,
    pub fewest_sectors: f64,
    /// Clocks of the banks of workgroup memory.
    pub passes: f64,
    pub fewest_passes: f64,
    /// Lanes of all vector instructions, and those of them that took part.
    pub lanes: f64,
    pub active_lanes: f64,
}

impl Counts {
    fn add(&mut self, unit: Unit, tally: &Tally, weight: f64, subgroup: u32) {
        let issues = weight * tally.issues as f64;
        *match unit {
            Unit::Fma => &mut self.fma,
            Unit::Float => &mut self.float,
            Unit::Special => &mut self.special,
            Unit::Integer => &mut self.integer,
            Unit::Uniform => &mut self.uniform,
            Unit::Load => &mut self.loads,
            Unit::Store => &mut self.stores,
            Unit::WorkgroupLoad => &mut self.workgroup_loads,
            Unit::WorkgroupStore => &mut self.workgroup_stores,
            Unit::Shuffle => &mut self.shuffles,
            Unit::Barrier => &mut self.barriers,
        } += issues;
        self.sectors += weight * tally.sectors as f64;
        self.fewest_sectors += weight * tally.fewest_sectors as f64;
        self.passes += weight * tally.passes as f64;
        self.fewest_passes += weight * tally.fewest_passes as f64;
        if !matches!(unit, Unit::Uniform | Unit::Barrier) {
            self.lanes += issues * f64::from(subgroup);
            self.active_lanes += weight * tally.lanes as f64;
        }
    }

    /// Share of multiply-adds among arithmetic of the vector units; 0 without any.
    pub fn fma_share(&self) -> f64 {
        share(self.fma, self.fma + self.float + self.special + self.integer)
    }

    /// Passes beyond the fewest, as a share of the fewest.
    pub fn conflicts(&self) -> f64 {
        share(self.passes - self.fewest_passes, self.fewest_passes)
    }

    /// Share of lanes that took no part.
    pub fn idle(&self) -> f64 {
        share(self.lanes - self.active_lanes, self.lanes)
    }

    /// Issue slots that a unit of this machine needs, in instructions.
    fn slots(&self, machine: &Machine) -> f64 {
        let floats = (self.fma + self.float) * if machine.is_dual { 0.5 } else { 1.0 };
        let memory = self.loads + self.stores + self.workgroup_loads + self.workgroup_stores + self.barriers;
        let uniform = if machine.has_scalar_unit { 0.0 } else { self.uniform };
        let memory = if machine.issues_memory { memory } else { 0.0 };
        floats + self.integer + self.special + self.shuffles + uniform + memory
    }

    /// What a unit takes for these, in clocks, by resource.
    fn clocks(&self, machine: &Machine) -> [(Resource, f64); 6] {
        let lanes = |count: f64, rate: u32| count * f64::from(machine.subgroup) / f64::from(rate);
        [
            (Resource::Floats, lanes(self.fma + self.float, machine.float_lanes)),
            (Resource::Integers, lanes(self.integer, machine.integer_lanes)),
            (Resource::Special, lanes(self.special, machine.special_lanes)),
            (Resource::Issue, lanes(self.slots(machine), machine.issue_lanes)),
            (Resource::WorkgroupMemory, self.passes / machine.passes),
            (Resource::FirstCache, self.sectors / machine.sectors),
        ]
    }
}

/// `part / whole`, 0 of nothing.
fn share(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

/// A source line.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// From 1 on.
    pub line: u32,
    pub counts: Counts,
}

/// What a dispatch takes in all, and in each line: instructions, sectors and clocks of the banks, on any GPU.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Counters {
    pub counts: Counts,
    /// In their order; those without counts are left out.
    pub lines: Vec<Line>,
}

impl Counters {
    /// Counts of some workgroups, each with the number of those that it stands for.
    fn new(counted: &[Counted], samples: &[(u64, f64)], subgroup: u32) -> Counters {
        let mut counts = Counts::default();
        let mut lines: BTreeMap<u32, Counts> = BTreeMap::new();
        for (result, &(_, weight)) in counted.iter().zip(samples) {
            for (&(line, unit), tally) in &result.tallies {
                counts.add(unit, tally, weight, subgroup);
                lines.entry(line).or_default().add(unit, tally, weight, subgroup);
            }
        }
        Counters { counts, lines: lines.into_iter().map(|(line, counts)| Line { line, counts }).collect() }
    }

    /// Counts a kernel that may be anybody's.
    ///
    /// # Errors
    /// When it uses something that is not counted, or a workgroup does not end.
    pub fn of(prepared: &Prepared) -> Result<Counters, String> {
        let samples = samples(prepared.workgroups);
        let chosen: Vec<u64> = samples.iter().map(|&(index, _)| index).collect();
        let counted = prepared.count(&chosen, LIMIT)?;
        Ok(Counters::new(&counted, &samples, prepared.subgroup))
    }

    /// The source with what each line takes in front of it.
    pub fn annotated(&self, title: &str, text: &str) -> String {
        annotated(title, text, &self.counts, &self.lines)
    }
}

/// The least time that a dispatch takes, by the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bound {
    pub seconds: f64,
    /// Its floating-point operations in this time, over the GPU's peak in f32.
    pub of_peak: f64,
    /// What binds, and what is next with its time over the bound's.
    pub resource: Resource,
    pub next: Resource,
    pub next_share: f64,
    /// The line that takes most of what binds.
    pub line: Option<u32>,
    /// Workgroups over those that all units could run in as many rounds.
    pub units: f64,
    /// Seconds by resource.
    pub times: BTreeMap<Resource, f64>,
    pub counts: Counts,
    /// In their order; those without counts are left out.
    pub lines: Vec<Line>,
}

/// A dispatch of a step, or a case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// As [`title`](crate::ssad::workload::title).
    pub name: String,
    /// Its shader.
    pub kernel: String,
    /// Equal dispatches of the step.
    pub dispatches: usize,
    pub workgroups: u64,
    /// Floating-point operations of one.
    pub flops: u64,
    /// Why there is no bound, if so.
    pub refused: Option<String>,
    pub bound: Option<Bound>,
    #[serde(skip)]
    pub text: String,
}

/// What the model says of all dispatches, those that take longest together first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// As `--gpu` names it.
    pub machine: String,
    pub rows: Vec<Row>,
}

/// Workgroups to interpret, each with the number of those that it stands for. Those at the edges of the grid may have
/// less to do, so that it is cut into first, middle and last along each axis, and its largest parts are sampled. Of a grid that is
/// nearly all middle, these are neighbours: different work may take turns along it, such as the phases of a stride.
fn samples(grid: [u32; 3]) -> Vec<(u64, f64)> {
    let total = grid.iter().map(|&extent| u64::from(extent)).product::<u64>();
    let [width, height, _] = grid.map(u64::from);
    let at = |[x, y, z]: [u32; 3]| u64::from(x) + width * (u64::from(y) + height * u64::from(z));
    // [first, extent] of each part of an axis
    let parts = |extent: u32| match extent {
        0 | 1 => vec![(0, extent)],
        2 => vec![(0, 1), (1, 1)],
        _ => vec![(0, 1), (1, extent - 2), (extent - 1, 1)],
    };
    let mut found: Vec<(u64, u64)> = Vec::new();
    for z in parts(grid[2]) {
        for y in parts(grid[1]) {
            for x in parts(grid[0]) {
                let size = u64::from(x.1) * u64::from(y.1) * u64::from(z.1);
                // Not in the very middle, which may be an edge of what the grid is folded from.
                let inner = |(first, extent): (u32, u32)| first + (u64::from(extent) * 5 / 13) as u32;
                found.push((size, at([inner(x), inner(y), inner(z)])));
            }
        }
    }
    found.sort_by_key(|&(size, index)| (std::cmp::Reverse(size), index));
    let (size, index) = found[0];
    if total > 16 && 16 * size >= 15 * total {
        return (0..SAMPLES as u64).map(|next| (index + next, total as f64 / SAMPLES as f64)).collect();
    }
    found.truncate(SAMPLES);
    let sampled: u64 = found.iter().map(|(size, _)| size).sum();
    found.into_iter().map(|(size, index)| (index, size as f64 / sampled as f64 * total as f64)).collect()
}

/// Counts a dispatch on a machine and bounds its time.
fn bound(dispatch: &Dispatch, text: &str, machine: &Machine) -> Result<Bound, String> {
    let program = lower(dispatch.kernel.name, text).map_err(|refusal| refusal.to_string())?;
    let immediates: Vec<u32> = dispatch.kernel.immediates.iter().map(|(_, value)| value.to_bits()).collect();
    let grid = dispatch.kernel.workgroups();
    let launch = Launch {
        workgroups: grid,
        immediates: &immediates,
        lengths: &dispatch.lengths,
        contents: None,
        subgroup: machine.subgroup,
        limit: LIMIT,
    };
    let samples = samples(grid);
    let chosen: Vec<u64> = samples.iter().map(|&(index, _)| index).collect();
    let counted = program.count(&launch, &chosen)?;
    let workgroups: f64 = grid.iter().map(|&extent| f64::from(extent)).product();

    let Counters { counts, lines } = Counters::new(&counted, &samples, machine.subgroup);
    let average = |of: fn(&Counted) -> u64| {
        let sum: f64 = counted.iter().zip(&samples).map(|(it, (_, weight))| of(it) as f64 * weight).sum();
        sum / workgroups
    };
    // The busiest unit runs so many workgroups, of which it holds some at once.
    let rounds = (workgroups / f64::from(machine.units)).ceil();
    let most = |limit: u32, each: u32| limit.checked_div(each).unwrap_or(u32::MAX);
    let resident = machine
        .workgroups
        .min(most(machine.invocations, program.invocations()))
        .min(most(machine.workgroup_bytes, program.workgroup_bytes()))
        .max(1);
    let turns = (rounds / f64::from(resident)).ceil();

    let of_units = rounds / workgroups / machine.clock;
    let mut times: BTreeMap<Resource, f64> =
        counts.clocks(machine).into_iter().map(|(resource, clocks)| (resource, clocks * of_units)).collect();
    let touched = average(|it| it.sectors) * workgroups * SECTOR_BYTES as f64;
    times.insert(Resource::SecondCache, touched / machine.cache);
    times.insert(Resource::Memory, dispatch.bytes as f64 / machine.memory);
    times.insert(Resource::Latency, turns * average(|it| it.waits) * machine.latency / machine.clock);

    let mut order: Vec<(Resource, f64)> = times.iter().map(|(&resource, &time)| (resource, time)).collect();
    order.sort_by(|one, other| other.1.total_cmp(&one.1));
    let [(resource, seconds), (next, second), ..] = order[..] else { unreachable!("there are nine") };
    let weight = |counts: &Counts| match resource {
        Resource::SecondCache | Resource::Memory => counts.sectors,
        Resource::Latency => counts.loads,
        _ => counts.clocks(machine).iter().find(|(other, _)| *other == resource).map_or(0.0, |&(_, clocks)| clocks),
    };
    let heaviest = lines.iter().max_by(|one, other| weight(&one.counts).total_cmp(&weight(&other.counts)));
    Ok(Bound {
        seconds,
        of_peak: share(dispatch.flops as f64, seconds * machine.flops()),
        resource,
        next,
        next_share: share(second, seconds),
        line: heaviest.filter(|line| weight(&line.counts) > 0.0).map(|line| line.line),
        units: workgroups / (rounds * f64::from(machine.units)),
        times,
        counts,
        lines,
    })
}

/// Models all dispatches of the subjects. One that cannot be interpreted has the reason in its row.
///
/// # Errors
/// When a text lacks a constant of its kernel.
pub fn model(machine: &Machine, subjects: &[Subject], replaced: &Replaced) -> Result<Model, AnalyzeError> {
    let mut tasks: Vec<(&Dispatch, String)> = Vec::new();
    for subject in subjects {
        for dispatch in &subject.distinct {
            tasks.push((dispatch, replaced.specialise(&dispatch.kernel)?));
        }
    }
    let row = |(dispatch, text): (&Dispatch, String)| {
        let result = bound(dispatch, &text, machine);
        Row {
            name: dispatch.name.clone(),
            kernel: dispatch.kernel.name.into(),
            dispatches: dispatch.count,
            workgroups: dispatch.kernel.workgroups().iter().map(|&extent| u64::from(extent)).product(),
            flops: dispatch.flops,
            refused: result.as_ref().err().cloned(),
            bound: result.ok(),
            text,
        }
    };
    let mut rows: Vec<Row> = tasks.into_par_iter().map(row).collect();
    rows.sort_by(|one, other| other.seconds().total_cmp(&one.seconds()).then_with(|| one.name.cmp(&other.name)));
    Ok(Model { machine: machine.name.into(), rows })
}

impl Row {
    /// Of all equal dispatches; 0 where there is no bound.
    pub fn seconds(&self) -> f64 {
        self.bound.as_ref().map_or(0.0, |bound| bound.seconds * self.dispatches as f64)
    }

    /// The source with what each line takes in front of it.
    fn annotated(&self) -> String {
        self.bound
            .as_ref()
            .map_or(String::new(), |bound| annotated(&self.name, &self.text, &bound.counts, &bound.lines))
    }
}

/// A source with what each line takes in front of it.
fn annotated(title: &str, text: &str, all: &Counts, lines: &[Line]) -> String {
    let counts: HashMap<u32, &Counts> = lines.iter().map(|line| (line.line, &line.counts)).collect();
    let of = |part: f64, whole: f64| match part > 0.0 {
        true => percent(share(part, whole)),
        false => String::new(),
    };
    let ratio = |part: f64, fewest: f64| match fewest > 0.0 {
        true => figure(part / fewest),
        false => String::new(),
    };
    let row = |(number, text): (u32, &str)| {
        let cells = match counts.get(&number) {
            None => [const { String::new() }; 7],
            Some(counts) => [
                of(counts.fma, all.fma),
                of(counts.integer + counts.float + counts.special, all.integer + all.float + all.special),
                of(counts.sectors, all.sectors),
                ratio(counts.sectors, counts.fewest_sectors),
                of(counts.passes, all.passes),
                ratio(counts.passes, counts.fewest_passes),
                of(counts.idle(), 1.0),
            ],
        };
        let [fma, other, sectors, spread, passes, conflicts, idle] = cells;
        format!(
            "{fma:>6} {other:>6} {sectors:>6} {spread:>6} {passes:>6} {conflicts:>6} {idle:>6} {number:>4}  {text}\n"
        )
    };
    let head = format!(
        "\n{}\n% of: multiply-adds, other arithmetic, sectors (over fewest), passes (over fewest), idle lanes\n{}\n",
        title,
        format_args!(
            "{:>6} {:>6} {:>6} {:>6} {:>6} {:>6} {:>6} {:>4}",
            "FMA", "other", "sect.", "/few.", "pass.", "/few.", "idle", "line"
        ),
    );
    head + &(1..).zip(text.lines()).map(row).collect::<String>()
}

impl Model {
    /// The source of every kernel with what each line takes, for each of its dispatches that takes longest.
    pub fn annotated(&self) -> String {
        let mut shown: Vec<&str> = Vec::new();
        let mut text = String::new();
        for row in &self.rows {
            if !shown.contains(&row.text.as_str()) {
                shown.push(&row.text);
                text += &row.annotated();
            }
        }
        text
    }

    /// The least time of all dispatches one after another, in seconds.
    pub fn seconds(&self) -> f64 {
        self.rows.iter().map(Row::seconds).sum()
    }

    /// Whether every dispatch has a bound.
    pub fn is_whole(&self) -> bool {
        self.rows.iter().all(|row| row.bound.is_some())
    }

    /// Seconds by kernel and by what binds it, the largest first.
    pub fn terms(&self) -> Vec<(String, Resource, f64)> {
        let mut sums: BTreeMap<(&str, Resource), f64> = BTreeMap::new();
        for row in &self.rows {
            if let Some(bound) = &row.bound {
                *sums.entry((&row.kernel, bound.resource)).or_default() += row.seconds();
            }
        }
        let mut terms: Vec<_> =
            sums.into_iter().map(|((kernel, resource), seconds)| (kernel.to_owned(), resource, seconds)).collect();
        terms.sort_by(|one, other| other.2.total_cmp(&one.2));
        terms
    }
}

/// A table.
impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let machine = Machine::named(&self.machine);
        if let Some(machine) = machine {
            writeln!(
                f,
                "What a model says of {} ({}): bounds that no run beats, none of",
                machine.product, self.machine
            )?;
            writeln!(f, "them measured. {}.", machine.source)?;
            writeln!(f, "Assumed: {}.\n", machine.assumed)?;
        }
        let row = |row: &Row| {
            let of = |get: &dyn Fn(&Bound) -> String| row.bound.as_ref().map_or("–".into(), get);
            [
                row.name.clone(),
                row.dispatches.to_string(),
                row.workgroups.to_string(),
                of(&|it| percent(it.counts.fma_share())),
                of(&|it| match it.counts.fewest_sectors > 0.0 {
                    true => figure(it.counts.sectors / it.counts.fewest_sectors),
                    false => "–".into(),
                }),
                of(&|it| percent(it.counts.conflicts())),
                of(&|it| percent(it.counts.idle())),
                of(&|it| percent(it.units)),
                of(&|it| figure(1e6 * it.seconds)),
                of(&|it| percent(it.of_peak)),
                of(&|it| it.resource.to_string()),
                of(&|it| it.line.map_or("–".into(), |line| line.to_string())),
                of(&|it| format!("{} {} %", it.next, percent(it.next_share))),
            ]
        };
        let header = [
            "kernel",
            "calls",
            "workgroups",
            "FMA %",
            "sectors/fewest",
            "conflicts %",
            "idle %",
            "units %",
            "bound µs",
            "% of peak",
            "waits for",
            "line",
            "then for",
        ];
        write!(f, "{}", Table { header, rows: self.rows.iter().map(row).collect() })?;
        writeln!(f, "\n{LEGEND}")?;
        let total = self.seconds();
        let flops: f64 = self
            .rows
            .iter()
            .filter(|row| row.bound.is_some())
            .map(|row| row.flops as f64 * row.dispatches as f64)
            .sum();
        write!(f, "\nTogether at least {} ms by the model", figure(1e3 * total))?;
        if let Some(machine) = machine {
            write!(f, ", at most {} % of the peak in f32", percent(share(flops, total * machine.flops())))?;
        }
        writeln!(f, "; its largest terms:")?;
        for (kernel, resource, seconds) in self.terms().into_iter().take(TERMS) {
            writeln!(f, "  {:>5} %  {kernel}, which waits for {resource}", percent(share(seconds, total)))?;
        }
        for row in &self.rows {
            if let Some(reason) = &row.refused {
                writeln!(f, "no model of {}: {reason}", row.name)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::kernel::Kernel;

    /// A kernel of `grid` workgroups with buffers of so many scalars each.
    fn dispatch(grid: [usize; 3], lengths: &[usize], flops: u64) -> Dispatch {
        let bytes = lengths.iter().map(|&length| 4 * length as u64).sum();
        let kernel = Kernel::new("planted").grid(grid);
        Dispatch { name: "planted".into(), kernel, lengths: lengths.to_vec(), bytes, flops, count: 1 }
    }

    fn bound_of(body: &str, machine: &str) -> Bound {
        let text = format!(
            "@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
var<workgroup> s: array<f32, 2048>;
@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) lane: u32, @builtin(workgroup_id) group: vec3<u32>) {{
var sum = 0.0;
for (var i = 0u; i < 1000u; i++) {{
{body}
}}
y[group.x * 64u + lane] = sum;
}}"
        );
        let machine = Machine::named(machine).unwrap();
        bound(&dispatch([13_200, 1, 1], &[1 << 20; 2], 1), &text, machine).unwrap()
    }

    fn heaviest(bound: &Bound, of: impl Fn(&Counts) -> f64) -> u32 {
        bound.lines.iter().max_by(|one, other| of(&one.counts).total_cmp(&of(&other.counts))).unwrap().line
    }

    /// Each fault binds, at its line, and its repair does not.
    #[test]
    fn planted_faults_are_found_with_their_line() {
        for machine in MACHINES {
            let conflict = "s[lane] = sum;\nsum = fma(s[(32u * lane + i) % 2048u], 2.0, sum);";
            let found = bound_of(conflict, machine.name);
            assert_eq!((found.resource, found.line), (Resource::WorkgroupMemory, Some(9)), "{}", machine.name);
            assert!((found.counts.passes / found.counts.fewest_passes - 16.5).abs() < 1e-9, "{:?}", found.counts);
            let repaired = bound_of(&conflict.replace("32u * lane", "33u * lane"), machine.name);
            assert!(repaired.counts.conflicts() == 0.0 && repaired.seconds < found.seconds / 2.0, "{repaired:?}");

            let strided = "sum += x[8u * lane + i];";
            let found = bound_of(strided, machine.name);
            assert_eq!((found.resource, found.line), (Resource::FirstCache, Some(8)), "{}", machine.name);
            assert!(found.counts.sectors / found.counts.fewest_sectors > 7.5);
            let repaired = bound_of(&strided.replace("8u * ", ""), machine.name);
            assert!(repaired.counts.sectors / repaired.counts.fewest_sectors < 1.3);
            assert!(repaired.seconds < found.seconds / 2.0);

            let idle = "if lane % 4u == 0u {\nsum = fma(sum, sum, 1.0);\n}";
            let found = bound_of(idle, machine.name);
            assert_eq!(heaviest(&found, |counts| counts.lanes - counts.active_lanes), 9, "{}", machine.name);
            assert!(found.counts.idle() > 0.3, "{}", found.counts.idle());
            assert_eq!(bound_of(&idle.replace("lane % 4u == 0u", "i < 5000u"), machine.name).counts.idle(), 0.0);
        }
    }

    /// 132 000 workgroups of two subgroups run a thousand multiply-adds: 100 rounds of 2000 on each of 132 units, at four
    /// a clock.
    #[test]
    fn a_bound_is_work_over_rate() {
        let body = "sum = fma(sum, 2.0, 1.0);";
        let found = bound_of(body, "h100");
        let floats = 100.0 * 2000.0 / 4.0 / 1.98e9;
        assert!((found.times[&Resource::Floats] / floats - 1.0).abs() < 1e-9, "{found:?}");
        assert_eq!(found.units, 1.0);
        // Two at once on each of two SIMDs, in 138 rounds of 96 units.
        let found = bound_of(body, "rx7900xtx");
        assert!((found.times[&Resource::Floats] / (138.0 * 2000.0 / 4.0 / 2.5e9) - 1.0).abs() < 1e-9, "{found:?}");
        assert!(found.seconds < 1.01 * found.times[&Resource::Floats], "{found:?}");
    }

    #[test]
    fn samples_stand_for_all_workgroups() {
        for grid in [[1, 1, 1], [2, 1, 1], [3, 2, 1], [1000, 1, 1], [65_535, 7, 3], [65_535, 65_535, 64]] {
            let samples = samples(grid);
            let total: f64 = grid.iter().map(|&extent| f64::from(extent)).product();
            let sum: f64 = samples.iter().map(|(_, weight)| weight).sum();
            assert!((sum / total - 1.0).abs() < 1e-12 && samples.len() <= SAMPLES, "{grid:?}: {samples:?}");
            assert!(samples.iter().all(|&(index, _)| (index as f64) < total), "{grid:?}: {samples:?}");
        }
        assert_eq!(samples([4, 1, 1]), [(1, 2.0), (0, 1.0), (3, 1.0)]);
        let phases = samples([4096, 1, 1]).into_iter().map(|(index, weight)| (index % 4, weight));
        assert_eq!(phases.collect::<std::collections::BTreeMap<_, _>>().into_values().collect::<Vec<_>>(), [1024.0; 4]);
    }

    /// Implicit GEMM with the tiles of ggml's Vulkan convolution: 128 channels by 128 pixels by 16 taps, 8 × 8 of them
    /// an invocation, read from workgroup memory without a pad. llama.cpp's pull requests 14316 and 14933 give 15.41 and
    /// 16.12 TFLOPS for this shape on an RTX 3090: 43 and 45 % of its peak.
    #[test]
    fn the_bound_of_a_published_convolution_lies_above_its_measurement() {
        let text = "
            const C = 256u; const H = 19u; const W = 19u; const K = 4096u; const P = 16u; const Q = 16u; const N = 16u;
            const TAPS = C * 16u;
            @group(0) @binding(0) var<storage, read> w: array<f32>;
            @group(0) @binding(1) var<storage, read> x: array<f32>;
            @group(0) @binding(2) var<storage, read_write> y: array<f32>;
            var<workgroup> a: array<f32, 2048>;
            var<workgroup> b: array<f32, 2048>;
            @compute @workgroup_size(256)
            fn main(@builtin(local_invocation_index) lane: u32, @builtin(workgroup_id) group: vec3<u32>) {
                let channel_0 = group.x * 128u;
                let pixel_0 = group.y * 128u;
                let row = lane / 16u;
                let column = lane % 16u;
                var sums: array<array<f32, 8>, 8>;
                for (var tap_0 = 0u; tap_0 < TAPS; tap_0 += 16u) {
                    let tap_a = tap_0 + column;
                    for (var i = 0u; i < 128u; i += 16u) {
                        a[(i + row) * 16u + column] = w[(channel_0 + i + row) * TAPS + tap_a];
                    }
                    for (var i = 0u; i < 16u; i += 2u) {
                        let tap = tap_0 + i + lane / 128u;
                        let pixel = pixel_0 + lane % 128u;
                        let h = pixel / Q % P + tap / 4u % 4u;
                        let v = pixel % Q + tap % 4u;
                        b[(i + lane / 128u) * 128u + lane % 128u] =
                            x[((pixel / (P * Q) * C + tap / 16u) * H + h) * W + v];
                    }
                    workgroupBarrier();
                    for (var k = 0u; k < 16u; k++) {
                        var left: array<f32, 8>;
                        var right: array<f32, 8>;
                        for (var i = 0u; i < 8u; i++) { left[i] = a[(row * 8u + i) * 16u + k]; }
                        for (var j = 0u; j < 8u; j++) { right[j] = b[k * 128u + column * 8u + j]; }
                        for (var i = 0u; i < 8u; i++) {
                            for (var j = 0u; j < 8u; j++) { sums[i][j] = fma(left[i], right[j], sums[i][j]); }
                        }
                    }
                    workgroupBarrier();
                }
                for (var i = 0u; i < 8u; i++) {
                    for (var j = 0u; j < 8u; j++) {
                        let pixel = pixel_0 + column * 8u + j;
                        y[((pixel / (P * Q)) * K + channel_0 + row * 8u + i) * (P * Q) + pixel % (P * Q)] = sums[i][j];
                    }
                }
            }";
        let (weights, image, output) = (4096 * 4096, 16 * 256 * 19 * 19, 16 * 4096 * 256);
        let flops = 2 * 4096 * output as u64;
        assert!((flops as f64 / 137.42e9 - 1.0).abs() < 1e-3, "the published number of operations");
        let dispatch = dispatch([32, 32, 1], &[weights, image, output], flops);
        let found = bound(&dispatch, text, Machine::named("rtx3090").unwrap()).unwrap();
        println!("{:.1} % of peak by {} {:?}, {:?}", 100.0 * found.of_peak, found.resource, found.line, found.times);
        assert!(found.of_peak >= 16.12e12 / Machine::named("rtx3090").unwrap().flops(), "{}", found.of_peak);
        assert!(found.of_peak <= 0.75, "{}", found.of_peak);
        assert_eq!(found.resource, Resource::WorkgroupMemory);
    }
}
