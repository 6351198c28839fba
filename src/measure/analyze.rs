//! What a compiler makes of kernels, told without a device: RADV, Mesa's driver for AMD GPUs, compiles each for a GPU
//! that is not there. And what a [model](fn@model) says of them, for GPUs that no compiler here compiles for as well.
//!
//! The specialised WGSL becomes SPIR-V as wgpu would have it, RADV compiles that in [a process of its own](Compiler),
//! and its assembly is read. Nothing is run and no clock is read: the same stssad and the same Mesa give the same
//! report. That a GPU is fast does not follow from it, but what keeps one from being fast often does: spills, few
//! waves, loads that are waited for one by one, loops of which little is multiply-adds.
//!
//! # The report as JSON
//!
//! | key | what it holds |
//! | --- | --- |
//! | `format` | [`FORMAT`] |
//! | `origin` | [`Origin`]: who compiled what: stssad's `version`, Mesa's (`driver`), `gpu`, `class`, `workload` |
//! | `rows` | a [`Row`] for each pipeline: its names, its part of the step, and either `refused` or `found` |
//! | `rows[].found` | [`Found`]: `resources` ([`Resources`]), `mix` ([`Mix`] of all code), `hot` ([`HotLoop`] or null) |
//! | `rows[].text` | with `--asm` a [`Text`]: `wgsl` and `assembly` |
//! | `model` | [`Model`]: what a model says of the GPU, or null where there is none: `rows` for each dispatch |
//!
//! The keys of each are its fields, which say what they count and in which units.
//! A [`Mix`] has `instructions` and, by [`Class`], `operations`.

mod agreement;
mod assembly;
mod compiler;
mod model;
mod radv;
mod report;
mod spirv;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use crate::engine::case::{Case, CaseError, is_full_name};
use crate::engine::kernel::{DeviceClass, Kernel};
use crate::engine::ops::lowering;
use crate::engine::plan::{Plan, Reuse};
use crate::engine::shaders::{Replaced, SpecialiseError};
use crate::engine::tape::GradError;
use crate::engine::tensor::Shape;
use crate::measure::figures::MeasureError;
use crate::ssad::workload::{Workload, title};
pub use agreement::Agreement;
pub use assembly::{Class, HotLoop, Mix};
pub use compiler::{Compiler, Family, Gpu, manifest, serve};
pub use model::{Bound, Counters, Counts, Line, MACHINES, Machine, Model, Resource, Row as Modelled, model};
pub use radv::Target;
pub use report::{ALLOWED_FALL, Change, Comparison, FORMAT, Found, Origin, Report, Resources, Row, Text};

/// Why kernels could not be analysed.
#[derive(Debug, thiserror::Error)]
pub enum AnalyzeError {
    #[error(
        "RADV is not installed, Mesa's driver for AMD GPUs, which compiles without one (Debian, Ubuntu: \
         apt-get install mesa-vulkan-drivers libvulkan1; Fedora: dnf install mesa-vulkan-drivers vulkan-loader)"
    )]
    NoDriver,
    #[error("the compiler's process does not start")]
    Start(#[source] std::io::Error),
    #[error(
        "RADV does not compile for {family}: {reason}; install Mesa 25 or newer (Debian, Ubuntu: apt-get install \
         mesa-vulkan-drivers libvulkan1), or try another --gpu"
    )]
    Refused { family: &'static str, reason: String },
    #[error("RADV crashed while it compiled {kernel}: {reason}")]
    Crashed { kernel: String, reason: String },
    #[error("{} cannot be compared with this: it is for {old}, and this is for {new}", path.display())]
    Incomparable { path: PathBuf, old: String, new: String },
    #[error("{} has none of these kernels", .0.display())]
    NothingInCommon(PathBuf),
    #[error(transparent)]
    Case(#[from] CaseError),
    #[error(transparent)]
    Grad(#[from] GradError),
    #[error(transparent)]
    Specialise(#[from] SpecialiseError),
    #[error(transparent)]
    Measure(#[from] MeasureError),
}

/// A pipeline to compile.
#[derive(Clone, Debug)]
pub struct Subject {
    /// As [`Row::name`].
    pub name: String,
    pub kernel: Kernel,
    /// Of the step's floating-point operations; `None` for a case that was asked for.
    pub share: Option<f64>,
    /// Its dispatches, each kind once.
    pub distinct: Vec<Dispatch>,
}

impl Subject {
    /// How many dispatches of the step it computes.
    pub fn dispatches(&self) -> usize {
        self.distinct.iter().map(|dispatch| dispatch.count).sum()
    }

    /// Floating-point operations of all its dispatches.
    pub fn flops(&self) -> u64 {
        self.distinct.iter().map(|dispatch| dispatch.count as u64 * dispatch.flops).sum()
    }
}

/// A dispatch, or several equal ones.
#[derive(Clone, Debug)]
pub struct Dispatch {
    /// As [`title`].
    pub name: String,
    pub kernel: Kernel,
    /// Scalars of each buffer, in the order of bindings.
    pub lengths: Vec<usize>,
    /// Bytes of inputs and output.
    pub bytes: u64,
    /// Floating-point operations.
    pub flops: u64,
    /// How many of the step are equal.
    pub count: usize,
}

/// The pipelines that `names` stand for. A name with both parentheses is a case; the others are parts of names of what the
/// step of a workload runs, which is asked for in full where there are no names at all.
///
/// # Errors
/// When a name is no case, or no pipeline of the step fits the others.
pub fn subjects(names: &[String], workload: &Workload, class: DeviceClass) -> Result<Vec<Subject>, AnalyzeError> {
    let (cases, parts): (Vec<&String>, Vec<&String>) = names.iter().partition(|name| is_full_name(name));
    let mut subjects = Vec::new();
    if cases.is_empty() || !parts.is_empty() {
        let step = of_step(&workload.plan(class, Reuse::On)?);
        let mut known: Vec<&str> = step.iter().map(|subject| subject.kernel.name).collect();
        known.sort_unstable();
        known.dedup();
        let no_such = |part: &String| MeasureError::NoSuchKernel(part.clone(), known.join(", "));
        let fits = |subject: &Subject, part: &String| {
            subject.name.contains(part.as_str()) || subject.kernel.name.contains(part.as_str())
        };
        if let Some(part) = parts.iter().find(|part| !step.iter().any(|subject| fits(subject, part))) {
            return Err(no_such(part).into());
        }
        subjects.extend(step.into_iter().filter(|it| parts.is_empty() || parts.iter().any(|part| fits(it, part))));
    }
    for name in cases {
        let case: Case = name.parse()?;
        let (shapes, output) = (case.shapes(), case.output());
        let Some(lowered) = lowering(&*case.primitive) else { continue };
        let operands = || shapes.iter().copied().chain([&output]);
        let dispatch = Dispatch {
            name: case.to_string(),
            kernel: lowered.kernel(&shapes, &output, class),
            lengths: operands().map(Shape::count).collect(),
            bytes: operands().map(Shape::bytes).sum(),
            flops: lowered.flops(&shapes, &output),
            count: 1,
        };
        let (name, kernel) = (dispatch.name.clone(), dispatch.kernel.clone());
        subjects.push(Subject { name, kernel, share: None, distinct: vec![dispatch] });
    }
    Ok(subjects)
}

/// The distinct pipelines of a plan, those with most operations first. Each is named by its largest dispatch.
fn of_step(plan: &Plan) -> Vec<Subject> {
    let mut subjects: Vec<Subject> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for step in &plan.steps {
        let place = *places.entry(step.kernel.specialisation()).or_insert(subjects.len());
        if place == subjects.len() {
            let kernel = step.kernel.clone();
            subjects.push(Subject { name: String::new(), kernel, share: None, distinct: Vec::new() });
        }
        let distinct = &mut subjects[place].distinct;
        let name = title(plan, step);
        match distinct.iter_mut().find(|it| it.name == name && it.kernel == step.kernel) {
            Some(dispatch) => dispatch.count += 1,
            None => distinct.push(Dispatch {
                name,
                kernel: step.kernel.clone(),
                lengths: step.inputs.iter().chain([&step.output]).map(|operand| operand.shape.count()).collect(),
                bytes: step.bytes(),
                flops: step.flops,
                count: 1,
            }),
        }
    }
    let total: u64 = subjects.iter().map(Subject::flops).sum();
    let mut named: BTreeMap<String, usize> = BTreeMap::new();
    for subject in &mut subjects {
        subject.share = Some(subject.flops() as f64 / total.max(1) as f64);
        // The first of the largest.
        let largest = subject.distinct.iter().rev().max_by_key(|dispatch| dispatch.flops);
        subject.name.clone_from(&largest.expect("a pipeline has a dispatch").name);
        // The same case under other constants, such as operands in f16, is told apart by number.
        let number = named.entry(subject.name.clone()).and_modify(|number| *number += 1).or_insert(1);
        if *number > 1 {
            subject.name += &format!(" #{number}");
        }
    }
    subjects.sort_by_key(|subject| std::cmp::Reverse(subject.flops()));
    subjects
}

/// Compiles each of the subjects. One that naga or the driver refuses has the reason in its row.
///
/// # Errors
/// When a text lacks a constant of its kernel, or the driver crashes.
pub fn run(compiler: &mut Compiler, subjects: &[Subject], replaced: &Replaced) -> Result<Vec<Row>, AnalyzeError> {
    let row = |subject: &Subject| {
        let wgsl = replaced.specialise(&subject.kernel)?;
        let mut row = Row::new(subject);
        let binary = match spirv::translate(&wgsl) {
            Ok(binary) => binary,
            Err(reason) => return Ok(Row { refused: Some(reason), ..row }),
        };
        row.invocations = binary.invocations;
        let crashed = |reason| AnalyzeError::Crashed { kernel: subject.name.clone(), reason };
        match compiler.compile(&binary).map_err(crashed)? {
            Ok(executable) => {
                let found = Found::new(&executable, binary.invocations);
                found.map_or_else(|reason| row.refused = Some(reason), |found| row.found = Some(found));
                row.text = Some(Text { wgsl, assembly: executable.assembly });
            }
            Err(reason) => row.refused = Some(reason),
        }
        Ok(row)
    };
    subjects.iter().map(row).collect()
}
