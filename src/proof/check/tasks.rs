//! The checks that `stssad check` can run, one by one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::thread;

use super::adjoint::{check_adjoint, has_adjoint};
use super::dispatches::{of_specialisations, of_workload};
use super::interpreted::{check_interpreted, is_small};
use super::kernels::{Failure, Fault, Trial, check_kernel, variants};
use super::report::{Coverage, Finding, Kind, Outcome, Report};
use super::rules::check_rule;
use super::step::check_step;
use crate::engine::case::{Case, CaseError, Draws, ShapeClass, is_full_name};
use crate::engine::gpu::Device;
use crate::engine::kernel::{DeviceClass, Kernel};
use crate::engine::ops::cases;
use crate::engine::ops::random;
use crate::engine::shaders::Replaced;
use crate::engine::tape::GradError;
use crate::engine::tensor::{Shape, Tensor};
use crate::engine::units::counted;
use crate::ssad::augment;
use crate::ssad::config::Config;
use crate::ssad::loss::Alignment;
use crate::ssad::method::{Network, side_by_side};
use crate::ssad::nn::{Detector, Plain, Stage};
use crate::ssad::step::{TrainingStep, initial_states};
use crate::ssad::workload::Workload;

/// Rules with more elements than this are skipped: each check evaluates the definition about twenty times.
const RULE_ELEMENTS: usize = 2500;
/// Most checks that run at once; each holds its inputs and outputs.
const AT_ONCE: usize = 8;

/// What to check.
#[derive(Clone, Debug)]
pub struct Options {
    /// A case's full name, to run it alone, or a part of the names of cases or shaders.
    pub filter: Option<String>,
    /// `conv2d`, `warp`, …
    pub family: Option<String>,
    /// Only the backward rules.
    pub grad: bool,
    /// Only the training step, node by node.
    pub step: bool,
    /// Only the dispatches of this workload, at their shapes.
    pub workload: Option<Workload>,
    /// Each kernel at one shape of each class, but the large ones, and neither backward rules nor workloads' dispatches.
    pub quick: bool,
    /// Kernels in the sanitizer too, at small shapes. Those whose text is replaced always are.
    pub sanitize: bool,
    pub seed: u64,
    /// Runs of each kernel on the same numbers, which must not differ in a bit.
    pub repeat: usize,
    /// Ends with the first check that fails.
    pub fail_fast: bool,
    /// How a command begins that runs a check again.
    pub command: String,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            filter: None,
            family: None,
            grad: false,
            step: false,
            workload: None,
            quick: false,
            sanitize: false,
            seed: 0,
            repeat: 2,
            fail_fast: false,
            command: "stssad check".into(),
        }
    }
}

impl Options {
    /// Whether a case is asked for by its name.
    fn names(&self, case: &Case) -> bool {
        self.is_in_family(case) && case.to_string().contains(&self.part())
    }

    /// Whether a kernel of a case is asked for, by the name of either.
    fn selects(&self, case: &Case, kernel: &Kernel) -> bool {
        self.names(case) || (self.is_in_family(case) && kernel.name.contains(&self.part()))
    }

    fn is_in_family(&self, case: &Case) -> bool {
        self.family.as_deref().is_none_or(|family| family == case.family())
    }

    /// The filter without spaces, as names have none.
    fn part(&self) -> String {
        self.filter.iter().flat_map(|filter| filter.split_whitespace()).collect()
    }
}

/// Why there is nothing to check.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CheckError {
    #[error(transparent)]
    Case(#[from] CaseError),
    #[error(transparent)]
    Grad(#[from] GradError),
}

/// One thing to check.
#[derive(Clone, Debug)]
enum Task {
    Sanitizer(Case, Kernel),
    Kernel(ShapeClass, Case, Kernel),
    Dispatch(Case, Kernel),
    Adjoint(Case, DeviceClass),
    Rule(Case),
    Step(&'static Parts, DeviceClass),
}

/// The checks that some [`Options`] select on a device.
#[derive(Debug)]
pub struct Checks {
    tasks: Vec<Task>,
    options: Options,
    left_out: Vec<String>,
}

impl Checks {
    /// # Errors
    /// When the filter is a malformed case name, nothing matches it, or a workload has no gradient.
    pub fn of(device: &Device, options: &Options) -> Result<Checks, CheckError> {
        let mut left_out: Vec<String> = Vec::new();
        let classes = device.classes();
        let other = DeviceClass::ALL.iter().filter(|class| !classes.contains(class)).map(|class| class.to_string());
        let other: Vec<String> = other.collect();
        // Dispatches and steps are those of the device's classes.
        let mut is_for_other = !other.is_empty() && (options.step || options.workload.is_some());
        let mut tasks = Vec::new();
        let Options { grad, step, quick, sanitize, .. } = *options;
        let filter = options.filter.as_deref().unwrap_or_default();
        let whole_name = is_full_name(filter);
        let selects = |case: &Case, kernel: &Kernel| options.selects(case, kernel);
        if let Some(workload) = &options.workload {
            let (dispatches, unbound) = of_workload(device, workload, |it| selects(&it.case, &it.kernel))?;
            if unbound > 0 {
                let dispatches = counted(unbound, ["dispatch", "dispatches"]);
                left_out.push(format!("{dispatches} that the device cannot bind"));
            }
            tasks.extend(dispatches.into_iter().map(|it| Task::Dispatch(it.case, it.kernel)));
        } else if !step || grad {
            let all = if whole_name { the_case(filter)? } else { cases() };
            let replaced = device.replaced_shaders();
            let (mut kernels, mut rest) = (Vec::new(), Vec::new());
            let quick = quick && !whole_name;
            if quick {
                left_out.push(
                    "further shapes of each class, large ones, workloads' dispatches and rules in f64 (--quick)".into(),
                );
            }
            let mut seen = BTreeSet::new();
            let mut is_wanted = |class: ShapeClass, case: &Case, kernel: &Kernel| {
                let kind = (class, case.primitive.name(), kernel.name, kernel.halves.is_empty());
                !quick || (class != ShapeClass::Large && device.runs(kernel) && seen.insert(kind))
            };
            for (class, case) in all {
                let own = variants(&case).into_iter().filter(|kernel| selects(&case, kernel));
                for kernel in own.filter(|_| !grad) {
                    is_for_other |= !device.runs(&kernel);
                    if !is_wanted(class, &case, &kernel) {
                        continue;
                    }
                    if is_small(&case)
                        && (sanitize || replaced.kernels.contains_key(kernel.name))
                        && kernel.tile().is_none()
                    {
                        tasks.push(Task::Sanitizer(case.clone(), kernel.clone()));
                    }
                    if device.runs(&kernel) {
                        kernels.push(Task::Kernel(class, case.clone(), kernel));
                    }
                }
                if !options.names(&case) {
                    continue;
                }
                if !grad && has_adjoint(&case) && (class == ShapeClass::Training || whole_name) {
                    rest.extend(classes.iter().map(|&class| Task::Adjoint(case.clone(), class)));
                }
                if case.elements() <= RULE_ELEMENTS && !quick {
                    rest.push(Task::Rule(case));
                }
            }
            if tasks.is_empty() && (sanitize || kernels.iter().any(|task: &Task| task.is_replaced(&replaced))) {
                left_out.push("the sanitizer, since none of these cases is small enough".into());
            }
            tasks.extend(kernels);
            if !grad && !whole_name && !quick {
                let (dispatches, long) = of_specialisations(device, |it| selects(&it.case, &it.kernel))?;
                if long > 0 {
                    let kernels = counted(long, ["kernel", "kernels"]);
                    left_out.push(format!("{kernels} of workloads at shapes that take long; --workload runs them"));
                }
                tasks.extend(dispatches.into_iter().map(|it| Task::Dispatch(it.case, it.kernel)));
            }
            tasks.extend(rest);
        }
        let whole = options.filter.is_none() && options.family.is_none() && options.workload.is_none();
        if step || (!grad && whole) {
            tasks.extend(classes.iter().flat_map(|&class| STEPS.iter().map(move |parts| Task::Step(parts, class))));
        }
        if is_for_other {
            left_out.insert(0, format!("kernels for other devices ({})", other.join(", ")));
        }
        if tasks.is_empty() {
            let name = options.filter.clone().or(options.family.clone()).unwrap_or_default();
            return Err(CaseError { name, reason: "no check has this in its name".into() }.into());
        }
        Ok(Checks { tasks, options: options.clone(), left_out })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.tasks.len()
    }

    /// Whether the check runs one of these kernels on the device, as far as that can be told: an adjoint may run any kernel of
    /// the family, and a step any at all.
    fn runs(&self, at: usize, kernels: &BTreeSet<String>) -> bool {
        match &self.tasks[at] {
            Task::Kernel(_, _, kernel) | Task::Dispatch(_, kernel) => kernels.contains(kernel.name),
            Task::Adjoint(case, _) => kernels.iter().any(|kernel| kernel.split('/').next() == Some(case.family())),
            Task::Step(..) => !kernels.is_empty(),
            Task::Sanitizer(..) | Task::Rule(_) => false,
        }
    }

    /// The checks without a device that come first: what they find may crash a driver.
    fn first(&self) -> usize {
        self.tasks.iter().take_while(|task| matches!(task, Task::Sanitizer(..))).count()
    }

    /// Runs one.
    ///
    /// # Panics
    /// When there is none at this place.
    pub fn run_one(&self, device: &Device, at: usize) -> Outcome {
        self.outcome(at, self.tasks[at].run(device, &self.options).err())
    }

    /// The outcome of the check at this place, which found this fault, if any.
    ///
    /// # Panics
    /// When there is none at this place.
    pub fn outcome(&self, at: usize, fault: Option<Fault>) -> Outcome {
        let task = &self.tasks[at];
        let (check, variant) = task.describe();
        let failure = fault.map(|fault| Finding::of(fault, self.again(task)));
        Outcome { check, name: task.name(), variant, failure }
    }

    /// The command that runs a check again.
    fn again(&self, task: &Task) -> String {
        let what = match task {
            Task::Step(..) => "--step".to_owned(),
            Task::Rule(case) => format!("--grad '{case}'"),
            Task::Sanitizer(case, _) => format!("--sanitize '{case}'"),
            Task::Kernel(_, case, _) | Task::Dispatch(case, _) | Task::Adjoint(case, _) => format!("'{case}'"),
        };
        format!("{} --seed {} {what}", self.options.command, self.options.seed)
    }

    /// Runs all, several at once: the definitions in f64 take as long as the device. `progress` is called after each with
    /// (done, total, name).
    pub fn run(&self, device: &Device, mut progress: impl FnMut(usize, usize, &str)) -> Report {
        let threads = thread::available_parallelism().map_or(1, |count| count.get().min(AT_ONCE));
        self.run_by(device, threads, |at| self.run_one(device, at), &mut progress)
    }

    /// Has `run_one` run each check, in so many threads, and reports. Those without a device go first, and what may
    /// run a kernel in which they find something does not run.
    pub fn run_by(
        &self,
        device: &Device,
        threads: usize,
        run_one: impl Fn(usize) -> Outcome + Sync,
        progress: &mut dyn FnMut(usize, usize, &str),
    ) -> Report {
        let (mut outcomes, is_over): (Vec<(usize, Outcome)>, _) = (Vec::new(), AtomicBool::new(false));
        let mut faulty: BTreeSet<String> = BTreeSet::new();
        let mut total = self.count();
        for round in [0..self.first(), self.first()..self.count()] {
            let sound: Vec<usize> = round.clone().filter(|&at| !self.runs(at, &faulty)).collect();
            total -= round.len() - sound.len();
            let (next, (sender, receiver)) = (AtomicUsize::new(0), channel());
            thread::scope(|scope| {
                for _ in 0..threads.min(sound.len()) {
                    let (sender, next, sound, is_over, run_one) = (sender.clone(), &next, &sound, &is_over, &run_one);
                    scope.spawn(move || {
                        while !is_over.load(Ordering::Relaxed)
                            && let Some(&at) = sound.get(next.fetch_add(1, Ordering::Relaxed))
                        {
                            // The receiver lives as long as the scope, unless `progress` panics.
                            let _ = sender.send((at, run_one(at)));
                        }
                    });
                }
                drop(sender);
                for (at, outcome) in receiver {
                    progress(outcomes.len() + 1, total, &outcome.name);
                    if outcome.failure.is_some() {
                        is_over.fetch_or(self.options.fail_fast, Ordering::Relaxed);
                        if outcome.check == Kind::Sanitizer {
                            faulty.insert(outcome.variant.clone());
                        }
                    }
                    outcomes.push((at, outcome));
                }
            });
        }
        outcomes.sort_by_key(|(at, _)| *at);
        let mut left_out = self.left_out.clone();
        if !faulty.is_empty() {
            let names: Vec<String> = faulty.into_iter().collect();
            left_out.push(format!(
                "on the device, what may run a kernel that the sanitizer finds faults in ({})",
                names.join(", ")
            ));
        }
        if outcomes.len() < total {
            let checks = counted(total - outcomes.len(), ["check", "checks"]);
            left_out.push(format!("{checks} after the first that failed"));
        }
        Report {
            adapter: device.adapter().clone(),
            seed: self.options.seed,
            outcomes: outcomes.into_iter().map(|(_, outcome)| outcome).collect(),
            coverage: coverage(&self.tasks, &self.options),
            left_out,
        }
    }
}

/// The case of this name, which need not be in the catalogue, with its class there.
fn the_case(name: &str) -> Result<Vec<(ShapeClass, Case)>, CaseError> {
    let case: Case = name.parse()?;
    let listed = cases().into_iter().find(|(_, listed)| listed.to_string() == case.to_string());
    Ok(vec![(listed.map_or(ShapeClass::Prime, |(class, _)| class), case)])
}

impl Task {
    /// Whether its kernel has another text than the built-in one.
    fn is_replaced(&self, replaced: &Replaced) -> bool {
        matches!(self, Task::Kernel(_, _, kernel) if replaced.kernels.contains_key(kernel.name))
    }

    fn name(&self) -> String {
        match self {
            Task::Sanitizer(case, _)
            | Task::Kernel(_, case, _)
            | Task::Dispatch(case, _)
            | Task::Adjoint(case, _)
            | Task::Rule(case) => case.to_string(),
            Task::Step(Parts { augmentation, alignment, starts: 1 }, _) => {
                format!("training step with {augmentation} and {alignment}")
            }
            Task::Step(Parts { augmentation, alignment, starts }, _) => {
                format!("training step of {starts} starts with {augmentation} and {alignment}")
            }
        }
    }

    /// The kind of check, and its kernel or class of kernels.
    fn describe(&self) -> (Kind, String) {
        match self {
            Task::Sanitizer(_, kernel) => (Kind::Sanitizer, kernel.name.to_owned()),
            Task::Kernel(_, _, kernel) => (Kind::Kernel, kernel.name.to_owned()),
            Task::Dispatch(_, kernel) => (Kind::Dispatch, kernel.name.to_owned()),
            Task::Adjoint(_, class) => (Kind::Adjoint, class.to_string()),
            Task::Rule(_) => (Kind::Rule, "f64".to_owned()),
            Task::Step(_, class) => (Kind::Step, class.to_string()),
        }
    }

    fn run(&self, device: &Device, options: &Options) -> Result<(), Fault> {
        let (seed, whole) = (options.seed, Trial::Whole { runs: options.repeat });
        let of_failure = |failure: Failure| failure.fault;
        match self {
            Task::Sanitizer(case, kernel) => {
                check_interpreted(case, kernel, &device.replaced_shaders(), seed).map_err(of_failure)
            }
            Task::Kernel(class, case, kernel) => {
                let trial = if *class == ShapeClass::Large { Trial::Brief } else { whole };
                check_kernel(device, case, kernel, trial, seed).map_err(of_failure)
            }
            Task::Dispatch(case, kernel) => {
                let trial = if options.workload.is_none() { Trial::Brief } else { whole };
                check_kernel(device, case, kernel, trial, seed).map_err(of_failure)
            }
            Task::Adjoint(case, class) => check_adjoint(device, case, *class, seed).map_err(Fault::Broken),
            Task::Rule(case) => check_rule(case, seed).map(drop).map_err(Fault::Broken),
            Task::Step(parts, class) => training_step(device, parts, *class, seed),
        }
    }
}

/// The parts of a training step, by name.
#[derive(Debug)]
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

/// The bilevel step of a small detector on noise images.
fn training_step(device: &Device, parts: &Parts, class: DeviceClass, seed: u64) -> Result<(), Fault> {
    let (step, sources) = small_step(parts, seed).map_err(Fault::Broken)?;
    let tuning = step.tuning.as_ref().expect("ST-SSAD tunes");
    let carries = [&step.carries[..], &tuning.carries[..]].concat();
    let fetches = [&[tuning.figures, tuning.g_a], &step.g[..]].concat();
    let report = check_step(device, &step.tape, &fetches, &carries, &sources, class)
        .map_err(|error| Fault::Gpu(Box::new(error)))?;
    match (report.first_bad, report.planner) {
        (Some(bad), _) => Err(Fault::Broken(bad.to_string())),
        (None, Some(planner)) => Err(Fault::Broken(planner)),
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

/// How much of the catalogue `tasks` covers, for each kernel that is asked for.
fn coverage(tasks: &[Task], options: &Options) -> Vec<Coverage> {
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
        let own = variants(&case).into_iter().filter(|kernel| options.selects(&case, kernel));
        own.for_each(|kernel| count(class, &case, &kernel, 1));
    }
    for task in tasks {
        if let Task::Kernel(class, case, kernel) = task {
            count(*class, case, kernel, 0);
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::gpu::Choice;

    #[test]
    fn quick_checks_run_each_kernel_at_each_class_of_shapes_but_the_large() {
        let device = Device::open(&Choice::Best).unwrap();
        let checks = |quick| Checks::of(&device, &Options { quick, ..Options::default() }).unwrap();
        let (quick, whole) = (checks(true), checks(false));
        let kinds = |checks: &Checks| -> BTreeSet<(ShapeClass, &str, &str, bool)> {
            let kind = |task: &Task| match task {
                Task::Kernel(class, case, kernel) => {
                    Some((*class, case.primitive.name(), kernel.name, kernel.halves.is_empty()))
                }
                _ => None,
            };
            checks.tasks.iter().filter_map(kind).collect()
        };
        let but_large = kinds(&whole).into_iter().filter(|(class, ..)| *class != ShapeClass::Large).collect();
        assert_eq!(kinds(&quick), but_large);
        assert!(2 * quick.count() < whole.count(), "{} of {}", quick.count(), whole.count());
        let is_left_out = |task: &Task| matches!(task, Task::Dispatch(..) | Task::Rule(_));
        assert!(!quick.tasks.iter().any(is_left_out) && whole.tasks.iter().any(is_left_out));
    }
}
