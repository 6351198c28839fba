//! `stssad check`: selects the checks, runs them and reports.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::thread;

use serde::Serialize;

use super::adjoint::{check_adjoint, has_adjoint};
use super::kernels::{check_kernel, variants};
use super::rules::check_rule;
use super::step::check_step;
use crate::engine::case::ShapeClass;
use crate::engine::case::{Case, CaseError, Draws};
use crate::engine::gpu::{AdapterSummary, Device, GpuError};
use crate::engine::kernel::{DeviceClass, Kernel};
use crate::engine::ops::cases;
use crate::engine::ops::random;
use crate::engine::tensor::{Shape, Tensor};
use crate::ssad::augment;
use crate::ssad::config::Config;
use crate::ssad::loss::Alignment;
use crate::ssad::method::{Network, side_by_side};
use crate::ssad::nn::{Detector, Plain, Stage};
use crate::ssad::step::{TrainingStep, initial_states};

/// Rules with more elements than this are skipped: each check evaluates the definition about twenty times.
const RULE_ELEMENTS: usize = 2500;

/// What to check.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    /// A case's full name, to run it alone, or a part of names.
    pub filter: Option<String>,
    /// `conv2d`, `warp`, …
    pub family: Option<String>,
    /// Only the backward rules.
    pub grad: bool,
    /// Only the training step, node by node.
    pub step: bool,
    pub seed: u64,
}

/// One check of one case.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// `kernel`, `adjoint`, `rule` or `step`.
    pub check: &'static str,
    /// The case's name, or a description of the training step.
    pub name: String,
    /// The shader, `gpu`, `cpu` or `matrix 16x16` for the kernels of a class, or `f64`.
    pub variant: String,
    /// Why it failed; `None` if it passed.
    pub failure: Option<String>,
}

/// On which shape classes a kernel was run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Coverage {
    pub primitive: &'static str,
    /// The shader, by the name of its file.
    pub variant: &'static str,
    /// For each class of shapes, [cases run, cases in the catalogue].
    pub classes: BTreeMap<ShapeClass, [usize; 2]>,
}

/// What was checked on which device.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    pub adapter: AdapterSummary,
    pub seed: u64,
    pub outcomes: Vec<Outcome>,
    pub coverage: Vec<Coverage>,
    /// Device classes whose kernels this device does not run.
    pub left_out: Vec<String>,
}

impl Report {
    pub fn passed(&self) -> bool {
        self.outcomes.iter().all(|outcome| outcome.failure.is_none())
    }
}

/// Runs the checks that `options` select, several at once: the definitions in f64 take as long as the device. `progress` is called
/// after each with (done, total, name).
///
/// # Errors
/// When the filter is a malformed case name, or nothing matches it.
pub fn run(
    device: &Device,
    options: &Options,
    mut progress: impl FnMut(usize, usize, &str),
) -> Result<Report, CaseError> {
    let tasks = tasks(device, options)?;
    let classes = device.classes();
    let left_out = DeviceClass::ALL.iter().filter(|class| !classes.contains(class));
    let mut outcomes: Vec<(usize, Outcome)> = Vec::with_capacity(tasks.len());
    let (next, (sender, receiver)) = (AtomicUsize::new(0), channel());
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, |count| count.get().min(AT_ONCE)) {
            let (sender, next, tasks) = (sender.clone(), &next, &tasks);
            scope.spawn(move || {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(task) = tasks.get(at) else { break };
                    // The receiver lives as long as the scope, unless `progress` panics.
                    let _ = sender.send((at, task.run(device, options.seed)));
                }
            });
        }
        drop(sender);
        for (at, outcome) in receiver {
            outcomes.push((at, outcome));
            progress(outcomes.len(), tasks.len(), &tasks[at].name());
        }
    });
    outcomes.sort_by_key(|(at, _)| *at);
    Ok(Report {
        adapter: device.adapter().clone(),
        seed: options.seed,
        outcomes: outcomes.into_iter().map(|(_, outcome)| outcome).collect(),
        coverage: coverage(&tasks),
        left_out: left_out.map(|class| class.to_string()).collect(),
    })
}

/// Most checks that run at once; each holds its inputs and outputs.
const AT_ONCE: usize = 8;

/// One thing to check.
enum Task {
    Kernel(ShapeClass, Case, Kernel),
    Adjoint(Case, DeviceClass),
    Rule(Case),
    Step(&'static Parts, DeviceClass),
}

/// The parts of a training step, by name.
struct Parts {
    augmentation: &'static str,
    alignment: &'static str,
    /// Starts trained side by side.
    starts: usize,
}

const STEPS: [Parts; 4] = [
    Parts { augmentation: "rotation", alignment: "mean-distance", starts: 1 },
    Parts { augmentation: "cutdiff", alignment: "diagonal-w2", starts: 1 },
    Parts { augmentation: "cutpaste+rotation-spread", alignment: "sliced-w2", starts: 1 },
    Parts { augmentation: "cutout+rotation", alignment: "diagonal-w2", starts: 3 },
];

fn tasks(device: &Device, options: &Options) -> Result<Vec<Task>, CaseError> {
    let only = options.grad || options.step;
    let classes = device.classes();
    let mut tasks = Vec::new();
    for (class, case) in chosen(options)? {
        if !only {
            tasks.extend(
                variants(&case)
                    .into_iter()
                    .filter(|kernel| device.runs(kernel))
                    .map(|kernel| Task::Kernel(class, case.clone(), kernel)),
            );
            let named = options.filter.as_deref() == Some(&case.to_string());
            if has_adjoint(&case) && (class == ShapeClass::Training || named) {
                tasks.extend(classes.iter().map(|&class| Task::Adjoint(case.clone(), class)));
            }
        }
        if (options.grad || !only) && case.elements() <= RULE_ELEMENTS {
            tasks.push(Task::Rule(case));
        }
    }
    let whole = options.filter.is_none() && options.family.is_none();
    if options.step || (!only && whole) {
        for &class in &classes {
            tasks.extend(STEPS.iter().map(|parts| Task::Step(parts, class)));
        }
    }
    if tasks.is_empty() {
        let name = options.filter.clone().or(options.family.clone()).unwrap_or_default();
        return Err(CaseError { name, reason: "no check has this in its name".into() });
    }
    Ok(tasks)
}

/// The cases that the filter selects. A full name need not be in the catalogue.
fn chosen(options: &Options) -> Result<Vec<(ShapeClass, Case)>, CaseError> {
    let all = cases();
    if options.step && !options.grad {
        return Ok(Vec::new());
    }
    let filter = options.filter.as_deref().unwrap_or_default();
    if filter.contains('(') && filter.ends_with(')') {
        let case: Case = filter.parse()?;
        let listed = all.iter().find(|(_, listed)| listed.to_string() == case.to_string());
        return Ok(vec![(listed.map_or(ShapeClass::Prime, |(class, _)| *class), case)]);
    }
    let fits = |case: &Case| {
        case.to_string().contains(filter) && options.family.as_deref().is_none_or(|family| family == case.family())
    };
    Ok(all.into_iter().filter(|(_, case)| fits(case)).collect())
}

impl Task {
    fn name(&self) -> String {
        match self {
            Task::Kernel(_, case, _) | Task::Adjoint(case, _) | Task::Rule(case) => case.to_string(),
            Task::Step(Parts { augmentation, alignment, starts: 1 }, _) => {
                format!("training step with {augmentation} and {alignment}")
            }
            Task::Step(Parts { augmentation, alignment, starts }, _) => {
                format!("training step of {starts} starts with {augmentation} and {alignment}")
            }
        }
    }

    fn run(&self, device: &Device, seed: u64) -> Outcome {
        let again = |failure: String| format!("{failure}\n    reproduce: stssad check --seed {seed} '{}'", self.name());
        let (check, variant, result) = match self {
            Task::Kernel(_, case, kernel) => {
                let result = check_kernel(device, case, kernel, seed).map_err(|failure| failure.to_string());
                ("kernel", kernel.name.to_owned(), result)
            }
            Task::Adjoint(case, class) => {
                let result = check_adjoint(device, case, *class, seed).map_err(again);
                ("adjoint", class.to_string(), result)
            }
            Task::Rule(case) => ("rule", "f64".to_owned(), check_rule(case, seed).map(drop).map_err(again)),
            Task::Step(parts, class) => {
                let result = training_step(device, parts, *class, seed);
                ("step", class.to_string(), result)
            }
        };
        Outcome { check, name: self.name(), variant, failure: result.err() }
    }
}

/// The bilevel step of a small detector on noise images.
fn training_step(device: &Device, parts: &Parts, class: DeviceClass, seed: u64) -> Result<(), String> {
    let (step, sources) = small_step(parts, seed)?;
    let tuning = step.tuning.as_ref().expect("ST-SSAD tunes");
    let carries = [&step.carries[..], &tuning.carries[..]].concat();
    let fetches = [&[tuning.figures, tuning.g_a], &step.g[..]].concat();
    let report = check_step(device, &step.tape, &fetches, &carries, &sources, class)
        .map_err(|error: GpuError| error.to_string())?;
    match (report.first_bad, report.planner) {
        (Some(bad), _) => Err(format!("{bad}\n    reproduce: stssad check --step --seed {seed}")),
        (None, Some(planner)) => Err(planner),
        (None, None) => Ok(()),
    }
}

/// A recorded training step, with values for all of its sources.
fn small_step(parts: &Parts, seed: u64) -> Result<(TrainingStep, HashMap<String, Tensor>), String> {
    let augmentation = augment::by_name(parts.augmentation, 1).map_err(|error| error.to_string())?;
    let alignment = Alignment::by_name(parts.alignment, 0.5).map_err(|error| error.to_string())?;
    let stages = [(4, 1), (8, 2)].map(|(channels, stride)| Stage { channels, stride }).to_vec();
    let detector = Detector::new(1, Arc::new(Plain(stages)), vec![8]);
    let mut config =
        Config { alignment, batch: 3, batch_val: 4, look_ahead: 0.1, seed, ..Config::new(detector, augmentation) };
    config.starts.truncate(parts.starts);
    config.together = parts.starts;
    let [c, h, w] = [1, 12, 11];
    let step = TrainingStep::record(&config, [c, h, w]).map_err(|error| error.to_string())?;
    let network = Network::new(config.method, &config.detector, [c, h, w]);
    let mut sources: HashMap<String, Tensor> = initial_states(&config, &network, 0).into_iter().collect();
    let mut draws = Draws::new(seed, u32::MAX);
    let mut images = |n: usize| {
        let shape = Shape::from([n, parts.starts * c, h, w]);
        let data = (0..shape.count()).map(|_| draws.uniform(0.0, 1.0) as f32).collect();
        Tensor::new(shape, data)
    };
    let keys = (0..parts.starts).flat_map(|start| random::key(seed ^ start as u64, 1).into_data()).collect();
    sources.insert("x".into(), images(config.batch));
    sources.insert("x_val".into(), images(config.batch_val));
    sources.insert("key".into(), Tensor::new(side_by_side(parts.starts, &[6].into()), keys));
    sources.insert("rates".into(), Tensor::new([3], vec![0.01, 0.1, 0.001]));
    sources.insert("rates_a".into(), Tensor::new([3], vec![1.0, 0.1, 0.01]));
    Ok((step, sources))
}

/// How much of the catalogue `tasks` covers, for each kernel.
fn coverage(tasks: &[Task]) -> Vec<Coverage> {
    let mut rows: Vec<Coverage> = Vec::new();
    let mut count = |class: ShapeClass, case: &Case, kernel: &Kernel, which: usize| {
        let (primitive, variant) = (case.primitive.name(), kernel.name);
        let at = rows.iter().position(|row| (row.primitive, row.variant) == (primitive, variant));
        let at = at.unwrap_or_else(|| {
            rows.push(Coverage { primitive, variant, classes: BTreeMap::new() });
            rows.len() - 1
        });
        rows[at].classes.entry(class).or_default()[which] += 1;
    };
    for (class, case) in cases() {
        variants(&case).iter().for_each(|kernel| count(class, &case, kernel, 1));
    }
    for task in tasks {
        if let Task::Kernel(class, case, kernel) = task {
            count(*class, case, kernel, 0);
        }
    }
    rows
}

/// One line for each kernel, the failures in full, and the count.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let AdapterSummary { name, driver, class, .. } = &self.adapter;
        writeln!(f, "{name} ({class}, {driver}), seed {}", self.seed)?;
        if self.outcomes.iter().any(|outcome| outcome.check == "kernel") {
            write!(f, "\n{:<26}", "kernel: cases run / all")?;
            ShapeClass::ALL.iter().try_for_each(|class| write!(f, "{class:>9}"))?;
            for row in &self.coverage {
                write!(f, "\n{:<26}", row.variant)?;
                for class in ShapeClass::ALL {
                    match row.classes.get(&class) {
                        Some([run, all]) => write!(f, "{:>9}", format!("{run}/{all}"))?,
                        None => write!(f, "{:>9}", "-")?,
                    }
                }
            }
            writeln!(f)?;
            if !self.left_out.is_empty() {
                let classes = self.left_out.join(", ");
                writeln!(f, "\nnot run: kernels for other devices ({classes})")?;
            }
        }
        for outcome in &self.outcomes {
            if let Some(failure) = &outcome.failure {
                writeln!(f, "\nFAILED {} {} ({})\n    {failure}", outcome.check, outcome.name, outcome.variant)?;
            }
        }
        writeln!(f)?;
        for check in ["kernel", "adjoint", "rule", "step"] {
            let all = self.outcomes.iter().filter(|outcome| outcome.check == check);
            let failed = all.clone().filter(|outcome| outcome.failure.is_some()).count();
            let count = all.count();
            if count > 0 {
                writeln!(f, "{check:<8} {} of {count} hold", count - failed)?;
            }
        }
        Ok(())
    }
}
