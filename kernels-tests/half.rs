//! The step in f16 against f64: first-order gradients, and the hyper-gradient with its second-order term.

use std::collections::HashMap;
use std::sync::Arc;

use stssad::engine::gpu::{Device, Executor, States};
use stssad::engine::kernel::Precision;
use stssad::engine::ops::random;
use stssad::engine::philox::Stream;
use stssad::engine::plan::{Plan, Reuse};
use stssad::engine::reference::Reference;
use stssad::engine::tape::Value;
use stssad::engine::tensor::{Shape, Tensor};
use stssad::ssad::augment;
use stssad::ssad::config::Config;
use stssad::ssad::loss::Alignment;
use stssad::ssad::method::{Method, Network};
use stssad::ssad::nn::{Detector, Plain, Stage};
use stssad::ssad::step::{Packed, TrainingStep, initial_states};

use crate::{announce, device};

/// Largest error relative to the norm: twice the measured one.
const WITH_SCALING: f64 = 0.15;

const IMAGE: [usize; 3] = [1, 48, 48];

/// Scales the encoder's initial kernels. Batch norm cancels it in the forward pass, but cotangents before batch norm
/// shrink by the same factor, to below 1e-6, where f16 has few numbers.
const LOUD: f32 = 256.0;

/// Large feature maps, whose mean has small cotangents, and a look-ahead rate at which the second-order term dominates
/// the hyper-gradient (2 for the initial kernels).
fn config(alignment: &str) -> Config {
    let stages = [(4, 1), (8, 2)].map(|(channels, stride)| Stage { channels, stride }).to_vec();
    let detector = Detector::new(1, Arc::new(Plain(stages)), vec![8]);
    let alignment = Alignment::by_name(alignment, 0.5).unwrap();
    let mut config = Config::new(detector, augment::by_name("cutdiff", 1).unwrap());
    config.starts.truncate(1);
    Config {
        method: Method::StSsad,
        alignment,
        batch: 12,
        batch_val: 16,
        look_ahead: 2.0 * LOUD * LOUD,
        seed: 3,
        ..config
    }
}

fn sources(config: &Config) -> HashMap<String, Tensor> {
    let network = Network::new(config.method, &config.detector, IMAGE);
    let packed = Packed::new(&network, config.group());
    let mut states = packed.unpack(initial_states(config, &network, 0));
    let mut kernels: Vec<&mut Tensor> =
        states.iter_mut().filter(|(name, _)| name.ends_with(".kernel")).map(|(_, kernel)| kernel).collect();
    assert_eq!(kernels.len(), 2, "one for each stage of the encoder");
    for kernel in &mut kernels {
        **kernel = Tensor::new(kernel.shape().clone(), kernel.data().iter().map(|weight| LOUD * weight).collect());
    }
    let mut sources: HashMap<String, Tensor> = packed.pack(states).into_iter().collect();
    let mut noise = Stream::new(7, 0);
    let mut images = |count: usize| {
        let shape = Shape::from([count, IMAGE[0], IMAGE[1], IMAGE[2]]);
        let data = (0..shape.count()).map(|_| noise.uniform() as f32).collect();
        Tensor::new(shape, data)
    };
    sources.insert("x".into(), images(config.batch));
    sources.insert("x_val".into(), images(config.batch_val));
    sources.insert("key".into(), random::key(11, 1));
    sources.insert("rates".into(), Tensor::new([3], vec![0.01, 0.1, 0.001]));
    sources.insert("rates_a".into(), Tensor::new([3], vec![1.0, 0.1, 0.01]));
    sources
}

/// Gradients of the encoder's kernels, and the hyper-gradient.
fn wanted(step: &TrainingStep) -> [Value; 3] {
    [step.g[0], step.g[3], step.tuning.as_ref().expect("ST-SSAD tunes").g_a]
}

fn on_device(device: &Device, step: &TrainingStep, sources: &HashMap<String, Tensor>) -> [Vec<f64>; 3] {
    let fetches = wanted(step);
    let plan = Plan::new(&step.tape, &fetches, &[], device.class(), Reuse::On);
    let mut states = States::new(device);
    for (name, _) in &plan.states {
        states.set(name, &sources[&**name]).unwrap();
    }
    let feeds: Vec<_> = plan.feeds.iter().map(|(name, _)| name.clone()).collect();
    let mut executor = Executor::new(device, plan, &states, |_, _| {}).unwrap();
    for name in feeds {
        executor.feed(&name, &sources[&*name]).unwrap();
    }
    executor.run().unwrap();
    fetches.map(|value| executor.fetch(value).unwrap().data().iter().map(|&x| f64::from(x)).collect())
}

/// ‖got − want‖ / ‖want‖
fn error(got: &[f64], want: &[f64]) -> f64 {
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    norm(&mut got.iter().zip(want).map(|(got, want)| got - want)) / norm(&mut want.iter().copied())
}

#[test]
fn gradients_in_f16_are_those_of_f64_because_losses_are_scaled() {
    let Ok(halved) = device().with_precision(Precision::F16) else {
        return announce("f16 is left out: this device has no matrix units");
    };
    for alignment in ["diagonal-w2", "mean-distance"] {
        let config = config(alignment);
        let sources = sources(&config);
        let [plain, scaled] = [Precision::F32, Precision::F16]
            .map(|precision| TrainingStep::record_for(precision, &config, IMAGE).unwrap());
        let wide =
            sources.iter().map(|(name, tensor)| (name.clone(), tensor.data().iter().map(|&x| f64::from(x)).collect()));
        let wide: HashMap<String, Vec<f64>> = wide.collect();
        let exact = |step: &TrainingStep| {
            let mut reference = Reference::new(&step.tape, &wide);
            wanted(step).map(|value| reference.eval(value).unwrap().to_vec())
        };
        let want = exact(&plain);
        let errors = |got: &[Vec<f64>; 3]| [0, 1, 2].map(|index| error(&got[index], &want[index]));
        let without_rounding = errors(&exact(&scaled));
        assert!(without_rounding.iter().all(|error| *error < 1e-12), "scaling is undone: {without_rounding:?}");
        let [with, without] = [&scaled, &plain].map(|step| errors(&on_device(&halved, step, &sources)));
        announce(&format!("{alignment}: errors {with:.3?} with scaled losses, {without:.3?} without"));
        // Rounded factors have errors of 2⁻¹¹. Batch norm's backward rule subtracts nearly equal numbers and raises
        // them to a few hundredths. A value rounded to 0 has an error of 1.
        assert!(with.iter().all(|error| *error <= WITH_SCALING), "{alignment}: {with:?}");
        assert!(
            without.iter().all(|error| *error > WITH_SCALING || error.is_nan()),
            "{alignment}: {without:?} shows nothing"
        );
    }
}
