//! Training steps of fixed sizes, which `check`, `profile`, `bench` and the benches run.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::Arc;

use crate::engine::case::name_of;
use crate::engine::kernel::DeviceClass;
use crate::engine::ops::random::key;
use crate::engine::philox::Stream;
use crate::engine::plan::{Plan, Reuse, Step};
use crate::engine::tape::GradError;
use crate::engine::tensor::{Shape, Tensor};
use crate::ssad::augment::{Augmentation, Rotation};
use crate::ssad::config::Config;
use crate::ssad::method::Network;
use crate::ssad::nn::{Detector, Plain, Stage};
use crate::ssad::step::{TrainingStep, initial_states};

/// A training step of a fixed size.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    pub name: &'static str,
    /// `[C, H, W]` of an image.
    pub image: [usize; 3],
    /// Normal images in a batch, which holds as many augmented ones; `batch_val` counts unlabelled images.
    pub batch: usize,
    pub batch_val: usize,
    pub detector: fn() -> Detector,
}

/// Four convolutions of stride 2: 32-64-128-256 channels.
fn pyramid() -> Detector {
    let stages = [32, 64, 128, 256].map(|channels| Stage { channels, stride: 2 }).to_vec();
    Detector::new(3, Arc::new(Plain(stages)), vec![64])
}

/// A batch holds as many augmented as normal images, and the unlabelled batch as many as both together.
pub const WORKLOADS: &[Workload] = &[
    // The step of `stssad demo`.
    Workload { name: "digits-small", image: [1, 28, 28], batch: 48, batch_val: 96, detector: || Detector::small(1) },
    // Its plain step, of 32 images, is the training step that `benches/peers` runs in other frameworks.
    Workload { name: "pyramid-64", image: [3, 64, 64], batch: 16, batch_val: 32, detector: pyramid },
    Workload {
        name: "resnet18-32",
        image: [3, 32, 32],
        batch: 64,
        batch_val: 128,
        detector: || Detector::resnet18(3, [32, 32]),
    },
    Workload {
        name: "resnet18-256",
        image: [3, 256, 256],
        batch: 32,
        batch_val: 64,
        detector: || Detector::resnet18(3, [256, 256]),
    },
];

/// What `bench` calls a dispatch of `plan`: the name of its case, which `check` takes, or
/// `kernel [inputs] → [output]` if it has none.
pub fn title(plan: &Plan, step: &Step) -> String {
    let node = plan.graph.node(step.value);
    let shapes: Vec<&Shape> = node.inputs().iter().map(|&input| plan.graph.shape(input)).collect();
    node.primitive().and_then(|primitive| name_of(primitive, &shapes)).unwrap_or_else(|| {
        let shapes: Vec<String> = step.inputs.iter().map(|input| format!("{:?}", input.shape)).collect();
        format!("{} {} → {:?}", step.kernel.name, shapes.join(" "), step.output.shape).replace(", ", ",")
    })
}

/// The distinct dispatches of a plan: of kernel, constants and shapes. Immediates either follow from the shapes or are factors,
/// which do not affect the time.
#[derive(Clone, Debug, Default)]
pub struct Distinct {
    /// The name of each, as [`title`]. What differs in nothing that the name tells, such as operands stored in f16, is numbered.
    pub names: Vec<String>,
    /// Which of them each dispatch of the plan is.
    pub places: Vec<usize>,
}

impl Distinct {
    pub fn of(plan: &Plan) -> Distinct {
        let mut distinct = Distinct::default();
        let mut seen: HashMap<String, usize> = HashMap::new();
        let mut named: HashMap<String, usize> = HashMap::new();
        for step in &plan.steps {
            let name = title(plan, step);
            let key = format!("{name} {} {:?}", step.kernel.specialisation(), step.kernel.workgroups());
            let place = *seen.entry(key).or_insert_with(|| {
                let number = named.entry(name.clone()).and_modify(|number| *number += 1).or_insert(1);
                distinct.names.push(if *number == 1 { name } else { format!("{name} #{number}") });
                distinct.names.len() - 1
            });
            distinct.places.push(place);
        }
        distinct
    }
}

/// No workload has this name.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("there is no workload `{0}`; there are digits-small, pyramid-64, resnet18-32 and resnet18-256")]
pub struct NoSuchWorkload(String);

impl FromStr for Workload {
    type Err = NoSuchWorkload;

    fn from_str(name: &str) -> Result<Self, NoSuchWorkload> {
        let found = WORKLOADS.iter().find(|workload| workload.name == name);
        found.copied().ok_or_else(|| NoSuchWorkload(name.into()))
    }
}

impl Workload {
    /// The configuration of a run of `steps` steps, all of which tune.
    pub fn config(&self, steps: usize) -> Config {
        let augmentation = Box::new(Rotation::default());
        let starts = vec![augmentation.starts()[0].clone()];
        let (batch, batch_val) = (self.batch, self.batch_val);
        Config { starts, steps, warm_up: 0, batch, batch_val, ..Config::new((self.detector)(), augmentation) }
    }

    /// The plan of a step that tunes, for devices of a class.
    ///
    /// # Errors
    /// When a gradient cannot be taken.
    pub fn plan(&self, class: DeviceClass, reuse: Reuse) -> Result<Plan, GradError> {
        let step = TrainingStep::record(&self.config(1), self.image)?;
        let tuning = step.tuning.expect("ST-SSAD tunes");
        let carries = [step.carries, tuning.carries].concat();
        Ok(Plan::new(&step.tape, &[tuning.figures], &carries, class, reuse))
    }

    /// Values for the feeds and states of such a [plan](Workload::plan): those of a first step on noise images.
    pub fn sources(&self, plan: &Plan) -> HashMap<String, Tensor> {
        let config = self.config(1);
        let network = Network::new(config.method, &config.detector, self.image);
        let mut sources: HashMap<String, Tensor> = initial_states(&config, &network, 0).into_iter().collect();
        let mut stream = Stream::new(0, 0);
        for (name, shape) in &plan.feeds {
            let value = match &**name {
                "key" => key(0, 1).into_data(),
                "rates" | "rates_a" => vec![0.1; shape.count()],
                _ => (0..shape.count()).map(|_| stream.uniform() as f32).collect(),
            };
            sources.insert(name.to_string(), Tensor::new(shape.clone(), value));
        }
        sources
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::case::Case;

    #[test]
    fn workloads_are_found_by_name_and_the_error_lists_them() {
        for workload in WORKLOADS {
            assert_eq!(workload.name.parse::<Workload>().unwrap().name, workload.name);
        }
        let refused = "digits".parse::<Workload>().unwrap_err().to_string();
        assert!(WORKLOADS.iter().all(|workload| refused.contains(workload.name)), "{refused}");
    }

    #[test]
    fn dispatches_are_called_by_their_cases() {
        let workload: Workload = "digits-small".parse().unwrap();
        let plan = workload.plan(DeviceClass::Gpu, Reuse::On).unwrap();
        let titles: Vec<String> = plan.steps.iter().map(|step| title(&plan, step)).collect();
        let cases = titles.iter().filter(|title| title.parse::<Case>().is_ok()).count();
        println!("{cases} of {} dispatches are called by a case", titles.len());
        assert!(10 * cases >= 9 * titles.len());
        assert!(titles.iter().any(|title| title.starts_with("conv2d/output(n=")), "{titles:#?}");
    }

    /// Dispatches and slots of a whole step that tunes: more than these means that a rule no longer applies. Of ResNet-18, 40
    /// dispatches transpose weights.
    #[test]
    fn a_step_takes_no_more_than_it_did() {
        for (name, most_dispatches, most_bytes) in
            [("digits-small", 427, 24_024_780), ("pyramid-64", 515, 87_780_364), ("resnet18-32", 2067, 2_746_406_920)]
        {
            let workload: Workload = name.parse().unwrap();
            let plan = workload.plan(DeviceClass::Gpu, Reuse::On).unwrap();
            let step = TrainingStep::record(&workload.config(1), workload.image).unwrap();
            let plain = Plan::new(&step.tape, &[step.figures], &step.carries, DeviceClass::Gpu, Reuse::On);
            for plan in [&plan, &plain] {
                let carried: u64 = plan.carries.iter().map(|carry| carry.state.bytes()).sum();
                println!("{name}: {} states take new values, {carried} bytes", plan.carries.len());
                assert_eq!(plan.copies().count(), 0, "{name} copies states");
            }
            let (dispatches, bytes) = (plan.steps.len(), plan.slot_bytes());
            println!("{name}: {dispatches} dispatches, {bytes} bytes in slots");
            assert!(dispatches <= most_dispatches, "{name} takes {dispatches} dispatches");
            assert!(bytes <= most_bytes, "{name} takes {bytes} bytes");
        }
    }
}
