//! What is told of each kernel, as rows, as text, and against an earlier report.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::assembly::{self, Class, Code, HotLoop, Mix};
use super::compiler::{Compiler, Gpu};
use super::model::Model;
use super::radv::{Executable, Target};
use super::{AnalyzeError, Subject};
use crate::engine::kernel::DeviceClass;
use crate::engine::units::{bytes, counted, figure, percent};
use crate::measure::figures::{MeasureError, Table, commit, read, write};

/// The form of the JSON. It changes when a key changes its name or its meaning.
pub const FORMAT: u32 = 2;

/// What the columns of the table count.
const LEGEND: &str = "\
Of a wave: vector registers, spilled registers, bytes of scratch memory; LDS: bytes of a workgroup's memory; waves: most on a SIMD.
clocks: how long a wave keeps the busiest unit busy, by the driver's guess of its loops.
hot loop: instructions of an iteration. FMA %: share of multiply-adds in its vector operations. in flight: most global loads of
it before a wait, asked for in so many groups.";

/// How far the share of multiply-adds in the hot loop may fall before a comparison fails.
pub const ALLOWED_FALL: f64 = 0.02;

/// Who compiled what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Origin {
    /// Of stssad.
    pub version: String,
    /// As `git describe` names it; empty where that is not known.
    pub commit: String,
    /// Mesa with its version.
    pub driver: String,
    /// The GPU that is not there, as the driver names it.
    pub device: String,
    /// As `--gpu` names it.
    pub gpu: String,
    /// The class of devices that the kernels are chosen for.
    pub class: String,
    /// The training step that they are of.
    pub workload: String,
}

impl Origin {
    /// Without a compiler where there is none of this GPU.
    pub fn new(compiler: Option<&Compiler>, gpu: Gpu, class: DeviceClass, workload: &str) -> Origin {
        let target = |get: fn(&Target) -> &String| compiler.map_or(String::new(), |it| get(&it.target).clone());
        Origin {
            version: env!("CARGO_PKG_VERSION").into(),
            commit: commit().unwrap_or_default(),
            driver: target(|it| &it.driver),
            device: target(|it| &it.device),
            gpu: gpu.name().into(),
            class: class.to_string(),
            workload: workload.into(),
        }
    }
}

/// What a pipeline takes of a GPU, and the driver's estimate of its speed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Vector registers of a lane.
    pub vgprs: u64,
    /// Scalar registers of a wave; RDNA gives every wave all 128.
    pub sgprs: u64,
    /// Vector registers that had to be kept in memory.
    pub spilled_vgprs: u64,
    /// Scalar registers that had to be kept in vector registers.
    pub spilled_sgprs: u64,
    /// Bytes of memory of a wave, for spills and for arrays that do not fit the registers.
    pub scratch_bytes: u64,
    /// Workgroup memory.
    pub lds_bytes: u64,
    /// Waves that a SIMD holds at once. On RDNA the driver counts waves of 32 lanes, on GCN of 64.
    pub waves_per_simd: u64,
    pub code_bytes: u64,
    /// Clocks from the first instruction of a wave to its last, with a guess of how often loops run.
    pub latency: u64,
    /// Clocks for which a wave keeps the busiest unit busy, with the same guess.
    pub inverse_throughput: u64,
}

impl Resources {
    /// None when the driver leaves one out.
    fn of(statistics: &BTreeMap<String, u64>) -> Option<Resources> {
        let get = |name: &str| statistics.get(name).copied();
        Some(Resources {
            vgprs: get("VGPRs")?,
            sgprs: get("SGPRs")?,
            spilled_vgprs: get("Spilled VGPRs")?,
            spilled_sgprs: get("Spilled SGPRs")?,
            scratch_bytes: get("Scratch size")?,
            lds_bytes: get("LDS size")?,
            waves_per_simd: get("Subgroups per SIMD")?,
            code_bytes: get("Code size")?,
            latency: get("Latency")?,
            inverse_throughput: get("Inverse Throughput")?,
        })
    }

    fn spilled(&self) -> u64 {
        self.spilled_vgprs + self.spilled_sgprs
    }
}

/// What the compiler made of a kernel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Found {
    pub resources: Resources,
    /// Of all code, each instruction once.
    pub mix: Mix,
    /// None where there is no loop.
    pub hot: Option<HotLoop>,
}

impl Found {
    /// Reads what the driver says of a pipeline with so many invocations in a workgroup.
    ///
    /// # Errors
    /// When there is less of it than this reads.
    pub(super) fn new(executable: &Executable, invocations: u32) -> Result<Found, String> {
        let names = || executable.statistics.keys().cloned().collect::<Vec<_>>().join(", ");
        let unknown = || format!("this version of the driver has other statistics than are known here: {}", names());
        let resources = Resources::of(&executable.statistics).ok_or_else(unknown)?;
        let code = Code::parse(&executable.assembly, invocations)?;
        Ok(Found { resources, mix: code.mix(), hot: code.hot_loop() })
    }

    /// Of the hot loop, or of all code where there is no loop.
    fn fma_share(&self) -> f64 {
        self.hot.as_ref().map_or(self.mix.fma_share(), |hot| hot.fma_share)
    }
}

/// The texts of a pipeline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Text {
    pub wgsl: String,
    pub assembly: String,
}

/// A pipeline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Of its largest dispatch, as [`title`](crate::ssad::workload::title); what rows are compared by.
    pub name: String,
    /// Its shader.
    pub kernel: String,
    /// The constants and types that it is compiled with.
    pub specialisation: String,
    /// How many dispatches of the step it is for.
    pub dispatches: usize,
    /// Floating-point operations of all of them.
    pub flops: u64,
    /// Their share of the step's; `None` for a case that was asked for.
    pub share: Option<f64>,
    /// Of a workgroup.
    pub invocations: u32,
    /// Why it was not compiled, if so.
    pub refused: Option<String>,
    pub found: Option<Found>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<Text>,
}

impl Row {
    pub(super) fn new(subject: &Subject) -> Row {
        Row {
            name: subject.name.clone(),
            kernel: subject.kernel.name.into(),
            specialisation: subject.kernel.specialisation(),
            dispatches: subject.dispatches(),
            flops: subject.flops(),
            share: subject.share,
            invocations: 0,
            refused: None,
            found: None,
            text: None,
        }
    }

    /// The kernel's text, and the assembly with the hot loop marked.
    fn listing(&self) -> Option<String> {
        let Text { wgsl, assembly } = self.text.as_ref()?;
        let marked = assembly::marked(assembly, self.found.as_ref().and_then(|found| found.hot.as_ref()));
        Some(format!("\n{}\n\n{wgsl}\n{marked}", self.name))
    }
}

/// All rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub format: u32,
    pub origin: Origin,
    /// What the compiler says.
    pub rows: Vec<Row>,
    /// What the model says, of a GPU that has one.
    #[serde(default)]
    pub model: Option<Model>,
}

impl Report {
    /// With the texts if `texts`; they are a hundred times as long as the rest.
    pub fn new(origin: Origin, mut rows: Vec<Row>, texts: bool) -> Report {
        rows.iter_mut().for_each(|row| row.text = row.text.take().filter(|_| texts));
        Report { format: FORMAT, origin, rows, model: None }
    }

    /// Writes the report as JSON.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), MeasureError> {
        let text = serde_json::to_string_pretty(self).expect("a report is plain data") + "\n";
        write(path, text.as_bytes())
    }

    /// Reads what [`write`](Report::write) has written.
    ///
    /// # Errors
    /// When the file cannot be read, or is of another format.
    pub fn read(path: &Path) -> Result<Report, MeasureError> {
        read(path, |text| {
            let report: Report = serde_json::from_str(text).map_err(|error| error.to_string())?;
            match report.format == FORMAT {
                true => Ok(report),
                false => Err(format!("it is of format {}, and this stssad reads {FORMAT}", report.format)),
            }
        })
    }

    /// Everything of each row: a paragraph, and the texts where there are any.
    pub fn details(&self) -> String {
        let row = |row: &Row| format!("\n{row}{}", row.listing().unwrap_or_default());
        self.rows.iter().map(row).collect()
    }

    /// Whether every kernel was compiled.
    pub fn is_whole(&self) -> bool {
        self.rows.iter().all(|row| row.found.is_some())
    }

    /// Holds the rows against those of an earlier report, read from `path`, by name.
    ///
    /// # Errors
    /// When that is of another GPU or class, or has none of the rows.
    pub fn compare(&self, old: &Report, path: &Path) -> Result<Comparison, AnalyzeError> {
        let target = |report: &Report| format!("{}, class {}", report.origin.gpu, report.origin.class);
        if target(old) != target(self) {
            return Err(AnalyzeError::Incomparable { path: path.to_owned(), old: target(old), new: target(self) });
        }
        let pair = |new: &Row| {
            let old = old.rows.iter().find(|old| old.name == new.name)?;
            Some(Change { name: new.name.clone(), old: old.found.clone()?, new: new.found.clone() })
        };
        let changes: Vec<Change> = self.rows.iter().filter_map(pair).collect();
        let drivers = [&old.origin, &self.origin].map(|origin| origin.driver.clone());
        let alone = self.rows.len() - changes.len();
        match changes.is_empty() {
            true => Err(AnalyzeError::NothingInCommon(path.to_owned())),
            false => Ok(Comparison { drivers, changes, alone }),
        }
    }
}

/// `12 fma, 3 vector, …`
impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let names = |class| match class {
            Class::Fma => ["multiply-add", "multiply-adds"],
            Class::Matrix => ["matrix product", "matrix products"],
            Class::Vector => ["other vector"; 2],
            Class::Scalar => ["scalar"; 2],
            Class::ScalarLoad => ["scalar load", "scalar loads"],
            Class::Lds => ["workgroup memory"; 2],
            Class::GlobalLoad => ["global load", "global loads"],
            Class::GlobalStore => ["global store", "global stores"],
            Class::Scratch => ["scratch"; 2],
            Class::Wait => ["wait", "waits"],
            Class::Barrier => ["barrier", "barriers"],
            Class::Branch => ["branch", "branches"],
            Class::Other => ["other"; 2],
        };
        let parts: Vec<String> = self.operations.iter().map(|(&class, &n)| counted(n as usize, names(class))).collect();
        write!(f, "{}: {}", counted(self.instructions as usize, ["instruction", "instructions"]), parts.join(", "))
    }
}

impl fmt::Display for HotLoop {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let trips = self.trips.map_or("an unknown number of times".into(), |trips| format!("{trips} times"));
        let [first, last] = self.lines;
        writeln!(
            f,
            "  hot loop   {}, lines {first} to {last} of the assembly, runs {trips}; an iteration has",
            self.label
        )?;
        writeln!(f, "             {}", self.mix)?;
        let share = percent(self.fma_share);
        let loads = counted(self.loads_in_flight, ["global load", "global loads"]);
        let groups = counted(self.load_groups, ["group", "groups"]);
        let barriers = counted(self.barriers as usize, ["barrier", "barriers"]);
        write!(f, "             {share} % of vector operations are multiply-adds; ")?;
        write!(f, "up to {loads} in flight, asked for in {groups}; {barriers}")?;
        match self.unknown.is_empty() {
            true => writeln!(f),
            false => writeln!(f, "\n             counted once, their trips unknown: loops {}", self.unknown.join(", ")),
        }
    }
}

/// A paragraph.
impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        writeln!(f, "{}", self.name)?;
        if let Some(share) = self.share {
            let dispatches = counted(self.dispatches, ["dispatch", "dispatches"]);
            writeln!(f, "  step       {dispatches}, {} % of the floating-point operations", percent(share))?;
        }
        writeln!(f, "  compiled   {}, workgroups of {}", self.specialisation, self.invocations)?;
        if let Some(reason) = &self.refused {
            writeln!(f, "  refused    {reason}")?;
        }
        let Some(Found { resources: it, mix, hot }) = &self.found else { return Ok(()) };
        write!(f, "  registers  {} vector, {} scalar; ", it.vgprs, it.sgprs)?;
        writeln!(f, "spilled {} and {}, scratch {}", it.spilled_vgprs, it.spilled_sgprs, bytes(it.scratch_bytes))?;
        write!(f, "  occupancy  {} waves a SIMD, {} of workgroup memory", it.waves_per_simd, bytes(it.lds_bytes))?;
        writeln!(f, ", {} of code", bytes(it.code_bytes))?;
        write!(f, "  estimate   a wave takes {} clocks and keeps ", it.latency)?;
        writeln!(f, "the busiest unit busy for {}, by the driver's guess of its loops", it.inverse_throughput)?;
        writeln!(f, "  all code   {mix}")?;
        hot.as_ref().map_or(Ok(()), |hot| write!(f, "{hot}"))
    }
}

/// A table.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Origin { driver, device, class, workload, version, commit, gpu } = &self.origin;
        if driver.is_empty() {
            writeln!(f, "There is no compiler for {gpu}: what follows is a model's alone. Nothing was run.")?;
            return writeln!(f, "Kernels of class {class}, step of {workload}, stssad {version} {commit}");
        }
        writeln!(f, "What the compiler says, for a GPU that is not there: {driver}, {device}. Nothing was run.")?;
        writeln!(f, "Kernels of class {class}, step of {workload}, stssad {version} {commit}\n")?;
        let row = |row: &Row| {
            let found = |get: &dyn Fn(&Found) -> String| row.found.as_ref().map_or(String::new(), get);
            let hot = |get: &dyn Fn(&HotLoop) -> String| found(&|found| found.hot.as_ref().map_or("–".into(), get));
            [
                row.name.clone(),
                row.dispatches.to_string(),
                row.share.map_or("–".into(), |share| figure(100.0 * share)),
                found(&|it| it.resources.vgprs.to_string()),
                found(&|it| it.resources.spilled().to_string()),
                found(&|it| it.resources.scratch_bytes.to_string()),
                found(&|it| it.resources.lds_bytes.to_string()),
                found(&|it| it.resources.waves_per_simd.to_string()),
                found(&|it| it.resources.inverse_throughput.to_string()),
                hot(&|hot| hot.mix.instructions.to_string()),
                hot(&|hot| percent(hot.fma_share)),
                hot(&|hot| hot.loads_in_flight.to_string()),
                hot(&|hot| hot.load_groups.to_string()),
                hot(&|hot| hot.barriers.to_string()),
            ]
        };
        let header = [
            "kernel",
            "calls",
            "% of flop",
            "VGPRs",
            "spills",
            "scratch",
            "LDS",
            "waves",
            "clocks",
            "hot loop",
            "FMA %",
            "in flight",
            "groups",
            "barriers",
        ];
        write!(f, "{}", Table { header, rows: self.rows.iter().map(row).collect() })?;
        writeln!(f, "\n{LEGEND}")?;
        for row in &self.rows {
            if let Some(reason) = &row.refused {
                writeln!(f, "\nrefused: {} in {}: {reason}", row.kernel, row.name)?;
            }
        }
        Ok(())
    }
}

/// A kernel before and after.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    pub name: String,
    pub old: Found,
    /// None where it is refused now.
    pub new: Option<Found>,
}

impl Change {
    /// Why the new one is worse, if it is: what makes a comparison fail.
    pub fn fault(&self) -> Option<String> {
        let Some(new) = &self.new else { return Some("refused".into()) };
        let [before, after] = [&self.old, new].map(|found| found.resources.spilled());
        if after > before {
            return Some(format!("{} more spills", after - before));
        }
        let fall = self.old.fma_share() - new.fma_share();
        // A share that is no number is no pass.
        let is_within = fall <= ALLOWED_FALL;
        (!is_within).then(|| format!("{} points fewer multiply-adds", percent(fall)))
    }
}

/// A report against an earlier one.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// Before and after.
    pub drivers: [String; 2],
    pub changes: Vec<Change>,
    /// Rows that the earlier report does not have.
    pub alone: usize,
}

impl Comparison {
    pub fn passed(&self) -> bool {
        self.changes.iter().all(|change| change.fault().is_none())
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let row = |change: &Change| {
            let both = |get: &dyn Fn(&Found) -> String| {
                let (old, new) = (get(&change.old), change.new.as_ref().map_or("–".into(), get));
                if old == new { old } else { format!("{old} → {new}") }
            };
            let hot = |get: &dyn Fn(&HotLoop) -> String| both(&|it| it.hot.as_ref().map_or("–".into(), get));
            [
                change.name.clone(),
                both(&|it| it.resources.vgprs.to_string()),
                both(&|it| it.resources.spilled().to_string()),
                both(&|it| it.resources.lds_bytes.to_string()),
                both(&|it| it.resources.waves_per_simd.to_string()),
                both(&|it| it.resources.inverse_throughput.to_string()),
                hot(&|hot| hot.mix.instructions.to_string()),
                both(&|it| percent(it.fma_share())),
                hot(&|hot| hot.loads_in_flight.to_string()),
                hot(&|hot| hot.barriers.to_string()),
                change.fault().unwrap_or_default(),
            ]
        };
        let header = [
            "kernel",
            "VGPRs",
            "spills",
            "LDS",
            "waves",
            "clocks",
            "hot loop",
            "FMA %",
            "in flight",
            "barriers",
            "worse",
        ];
        let (changed, same): (Vec<&Change>, Vec<&Change>) =
            self.changes.iter().partition(|change| change.new.as_ref() != Some(&change.old));
        let [old, new] = &self.drivers;
        if old != new {
            writeln!(f, "note: before by {old}, now by {new}: not every change is the kernels'")?;
        }
        if !changed.is_empty() {
            writeln!(f, "before → after\n")?;
            write!(f, "{}", Table { header, rows: changed.into_iter().map(row).collect() })?;
        }
        writeln!(f, "{} kernels as before, {} that are new", same.len(), self.alone)
    }
}
