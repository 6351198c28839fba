//! The detector: a convolutional encoder and an MLP head, from tape methods only.

mod autoencoder;
mod encoders;
mod layers;

use std::sync::Arc;

pub use autoencoder::AutoEncoder;
pub use encoders::{ENCODERS, Encoder, Named, Normalised, Plain, ResNet18, Stage, Stem};
pub use layers::{Declared, Initial, Layers, MOMENTS, Norm, Parameter, Statistics};

use crate::engine::ops::elementwise::Binary;
use crate::engine::tape::{Tape, Value};
use crate::engine::tensor::Tensor;

/// Added to a variance before its root.
const BN_EPSILON: f32 = 1e-5;
/// Weight of the past in the running statistics.
const BN_MOMENTUM: f32 = 0.9;

/// The scopes of the encoder's and the head's layers, with which the names of their parameters begin.
pub const ENCODER: &str = "encoder";
const HEAD: &str = "head";

/// Images that a network is recorded on to find its parameters, which depend on their channels alone.
const SAMPLE: [usize; 2] = [64, 64];

/// An encoder with a head that tells normal (logit below 0) from augmented images.
#[derive(Clone, Debug)]
pub struct Detector {
    pub input_channels: usize,
    pub encoder: Arc<dyn Encoder>,
    /// Widths of the head's hidden layers, each with batch norm and ReLU.
    pub head: Vec<usize>,
    /// Whether the encoder is as it was given: training changes neither its parameters nor its batch norms' statistics.
    pub frozen: bool,
}

/// One forward pass.
#[derive(Clone, Debug)]
pub struct Pass {
    /// Feature maps, `[N, G · features, P, Q]`.
    pub maps: Value,
    /// Embeddings, `[N, G · features]`: the means of the feature maps.
    pub z: Value,
    /// `[N, G]`
    pub logit: Value,
    /// The batch's mean and variance at each batch norm, in order; the running ones where these are used.
    pub moments: Vec<[Value; 2]>,
}

impl Detector {
    /// A detector of images with so many channels, with hidden layers of these widths in its head.
    pub fn new(input_channels: usize, encoder: Arc<dyn Encoder>, head: Vec<usize>) -> Self {
        Detector { input_channels, encoder, head, frozen: false }
    }

    /// Its parameters and batch norms, in the order that [`forward`](Detector::forward) takes them.
    pub fn declared(&self) -> Declared {
        self.recorded().0
    }

    /// Length of an embedding.
    pub fn features(&self) -> usize {
        self.recorded().1
    }

    fn recorded(&self) -> (Declared, usize) {
        Layers::declare([1, self.input_channels, SAMPLE[0], SAMPLE[1]], |t, layers, x| {
            let [_, z] = self.embed(t, layers, x);
            self.classify(t, layers, z);
            t.shape(z)[1]
        })
    }

    /// Embeds `x` `[N, C, H, W]` and classifies the embeddings; or those of G detectors side by side, of which each has its
    /// own C channels in `x` `[N, G · C, H, W]` and its own parameters along a leading axis of each of `theta`.
    pub fn forward(&self, t: &mut Tape, theta: &[Value], x: Value, statistics: Statistics) -> Pass {
        let mut layers = Layers::new(t.shape(x)[1] / self.input_channels, theta, statistics);
        let [maps, z] = self.embed(t, &mut layers, x);
        let logit = self.classify(t, &mut layers, z);
        Pass { maps, z, logit, moments: layers.moments }
    }

    /// The logits `[N, G]` of embeddings `[N, G · features]`, with the parameters and running statistics of the whole detector.
    pub fn logit(&self, t: &mut Tape, theta: &[Value], z: Value, running: &[[Value; 2]]) -> Value {
        let (Declared { parameters, norms }, features) = self.recorded();
        let first = parameters.iter().position(|parameter| parameter.name.starts_with(HEAD)).unwrap_or(theta.len());
        let first_norm = norms.iter().position(|(layer, _)| layer.starts_with(HEAD)).unwrap_or(running.len());
        let groups = t.shape(z)[1] / features;
        let mut layers = Layers::new(groups, &theta[first..], Statistics::Running(&running[first_norm..]));
        self.classify(t, &mut layers, z)
    }

    /// Feature maps and embeddings without a head's logits, as [`forward`](Detector::forward) has them. `theta` need hold no more than
    /// the encoder's parameters.
    pub fn embed_alone(&self, t: &mut Tape, theta: &[Value], x: Value, statistics: Statistics) -> [Value; 2] {
        let mut layers = Layers::new(t.shape(x)[1] / self.input_channels, theta, statistics);
        self.embed(t, &mut layers, x)
    }

    /// Feature maps and embeddings.
    fn embed(&self, t: &mut Tape, layers: &mut Layers, x: Value) -> [Value; 2] {
        layers.scope(t, ENCODER, |t, layers| {
            let maps = match self.frozen {
                true => layers.frozen(t, |t, layers| self.encoder.record(t, layers, x)),
                false => self.encoder.record(t, layers, x),
            };
            let z = t.scope("pool", |t| {
                let [n, c, _, _] = t.shape(maps).images().expect("a batch of feature maps");
                let pooled = t.mean(maps, &[2, 3]);
                t.reshape(pooled, [n, c])
            });
            [maps, z]
        })
    }

    /// Logits of embeddings.
    fn classify(&self, t: &mut Tape, layers: &mut Layers, z: Value) -> Value {
        layers.scope(t, HEAD, |t, layers| {
            let hidden = self.head.iter().enumerate().fold(z, |h, (index, &width)| {
                layers.scope(t, &index.to_string(), |t, layers| {
                    let product = layers.linear(t, h, width, |fan_in| Initial::He { fan_in });
                    let normalised = layers.batch_norm(t, product, &[0]);
                    t.relu(normalised)
                })
            });
            layers.scope(t, &self.head.len().to_string(), |t, layers| {
                let product = layers.linear(t, hidden, 1, |fan_in| Initial::Uniform { fan_in });
                layers.bias(t, product)
            })
        })
    }
}

/// The running statistics after a batch with these `moments`.
pub fn update_statistics(t: &mut Tape, running: Value, moment: Value) -> Value {
    t.binary(Binary::average(BN_MOMENTUM), running, moment)
}

/// Adam's two moment decay rates and the moments' states; see [`Tape::adam_update`].
#[derive(Clone, Copy, Debug)]
pub struct Adam {
    pub beta_1: f32,
    pub beta_2: f32,
}

impl Adam {
    /// `[rate, 1 − β₁ᵗ, 1 − β₂ᵗ]` for update number `t`, which counts from 1.
    pub fn rates(&self, rate: f64, t: usize) -> Tensor {
        let correction = |beta: f32| (1.0 - f64::from(beta).powi(t as i32)) as f32;
        Tensor::new([3], vec![rate as f32, correction(self.beta_1), correction(self.beta_2)])
    }

    /// New parameters and moments: `[theta, m, v]`.
    pub fn update(&self, t: &mut Tape, [theta, m, v]: [Value; 3], gradient: Value, rates: Value) -> [Value; 3] {
        let m = t.binary(Binary::average(self.beta_1), m, gradient);
        let v = t.binary(Binary::AverageSquare { weight: self.beta_2 }, v, gradient);
        [t.adam_update(theta, m, v, rates), m, v]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::kernel::DeviceClass;
    use crate::engine::plan::{Plan, Reuse};

    #[test]
    fn resnet18_has_the_parameters_of_the_original() {
        let count = |detector: &Detector| -> usize {
            let parameters = detector.declared().parameters;
            let encoder = parameters.iter().filter(|parameter| parameter.name.starts_with("encoder"));
            encoder.map(|parameter| parameter.shape.count()).sum()
        };
        // torchvision's 11 689 512 less the 513 000 of its classifier.
        let large = Detector::resnet18(3, [224, 224]);
        assert_eq!((count(&large), large.features()), (11_176_512, 512));
        // 3 × 3 instead of 7 × 7.
        assert_eq!(count(&Detector::resnet18(3, [32, 32])), 11_176_512 - 64 * 3 * (49 - 9));
        assert_eq!(large.declared().norms.len(), 20 + 2);
    }

    #[test]
    fn batch_norm_goes_over_its_images_three_times_forwards_and_four_times_back() {
        let mut t = Tape::new();
        let [x, v] = ["x", "v"].map(|name| t.feed(name, [8, 4, 6, 6]));
        let [gamma, beta] = ["gamma", "beta"].map(|name| t.feed(name, [1, 4, 1, 1]));
        let y = Layers::new(1, &[gamma, beta], Statistics::Batch).batch_norm(&mut t, x, &[0, 2, 3]);
        let y = t.relu(y);
        let gradients = t.pull_back(y, v, &[x, gamma, beta]).unwrap();
        let passes = |fetches: &[Value]| -> Vec<&str> {
            let plan = Plan::new(&t, fetches, &[], DeviceClass::Gpu, Reuse::On);
            let large = plan.steps.iter().filter(|step| step.bytes() > t.shape(x).bytes());
            large.map(|step| step.kernel.name).collect()
        };
        let forwards = ["reduce/sum", "reduce/squared_deviation", "elementwise/multiply_add"];
        // ReLU's, β's and γ's cotangents, and x's.
        let back = ["elementwise/binary", "reduce/sum", "reduce/sum_product", "elementwise/multiply_add_2"];
        assert_eq!(passes(&[y]), forwards);
        assert_eq!(passes(&gradients), [&forwards[..], &back].concat());
    }

    #[test]
    fn the_stem_follows_the_images() {
        let stem = |size: usize| ResNet18::for_images([size, size]).stem;
        assert_eq!((stem(64), stem(65)), (Stem::Small, Stem::Large));
    }

    #[test]
    fn a_forward_pass_uses_every_parameter() {
        let size = [1, 12, 9];
        let narrow =
            |stem| Detector::new(1, Arc::new(ResNet18 { width: 2, stem, stages: ResNet18::STAGES }), vec![3, 2]);
        let without_head = Detector { head: Vec::new(), ..Detector::small(1) };
        for detector in [Detector::small(1), without_head, narrow(Stem::Small), narrow(Stem::Large)] {
            let mut t = Tape::new();
            let x = t.feed("x", [2, size[0], size[1], size[2]]);
            let Declared { parameters, norms } = detector.declared();
            let theta: Vec<Value> =
                parameters.iter().map(|parameter| t.state(&parameter.name, parameter.shape.clone())).collect();
            let pass = detector.forward(&mut t, &theta, x, Statistics::Batch);
            let sum = t.total(pass.logit);
            assert_eq!(t.grad(sum, &theta).map(|gradients| gradients.len()), Ok(theta.len()));
            assert_eq!(pass.moments.len(), norms.len());
            for (moments, (name, shape)) in pass.moments.iter().zip(&norms) {
                assert!(moments.iter().all(|&moment| t.shape(moment) == shape), "{name}");
            }
            assert_eq!((&t.shape(pass.z)[..], &t.shape(pass.logit)[..]), (&[2, detector.features()][..], &[2, 1][..]));
        }
    }
}
