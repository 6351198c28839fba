//! The detector: a convolutional encoder and an MLP head, from tape methods only.

mod autoencoder;

pub use autoencoder::AutoEncoder;

use crate::ops::elementwise::{Binary, Unary};
use crate::philox::Stream;
use crate::tape::{Tape, Value};
use crate::tensor::Tensor;

/// Added to a variance before its root.
const BN_EPSILON: f32 = 1e-5;
/// Weight of the past in the running statistics.
const BN_MOMENTUM: f32 = 0.9;

/// One 3 × 3 convolution of the encoder, followed by batch norm and ReLU.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stage {
    pub channels: usize,
    pub stride: usize,
}

/// An encoder with a head that tells normal (logit below 0) from augmented pictures.
#[derive(Clone, Debug, PartialEq)]
pub struct Detector {
    pub input_channels: usize,
    pub stages: Vec<Stage>,
    /// Width of the head's hidden layer.
    pub head: usize,
}

/// What batch norm divides by.
#[derive(Clone, Copy, Debug)]
pub enum Statistics<'a> {
    /// The batch's own moments: training.
    Batch,
    /// Running mean and variance of each layer, in order: scoring.
    Running(&'a [[Value; 2]]),
}

/// One forward pass.
#[derive(Clone, Debug)]
pub struct Pass {
    /// Embeddings, `[N, features]`.
    pub z: Value,
    /// `[N, 1]`
    pub logit: Value,
    /// The batch's mean and variance at each batch norm, in order; empty with running statistics.
    pub moments: Vec<[Value; 2]>,
}

impl Detector {
    /// Three 3 × 3 convolutions, for pictures of about 28 to 64 pixels.
    pub fn small(input_channels: usize) -> Self {
        let stages = [(16, 2), (32, 2), (32, 1)];
        let stages = stages.map(|(channels, stride)| Stage { channels, stride }).to_vec();
        Detector { input_channels, stages, head: 32 }
    }

    /// Length of an embedding.
    pub fn features(&self) -> usize {
        self.stages.last().map_or(self.input_channels, |stage| stage.channels)
    }

    /// Names and initial values of the parameters, in the order that [`forward`](Detector::forward) takes them.
    ///
    /// Convolutions and the hidden layer start normal with variance 2 / fan-in (He et al., arXiv 1502.01852), the last
    /// layer uniform within 1 / √fan-in.
    pub fn parameters(&self, stream: &mut Stream) -> Vec<(String, Tensor)> {
        let mut parameters = Vec::new();
        let mut normal = |shape: &[usize], fan_in: usize| {
            let deviation = (2.0 / fan_in as f64).sqrt();
            let count = shape.iter().product();
            Tensor::new(shape, (0..count).map(|_| (deviation * stream.normal()) as f32).collect())
        };
        let mut inputs = self.input_channels;
        let batch_norm = |parameters: &mut Vec<(String, Tensor)>, layer: &str, shape: &[usize]| {
            parameters.push((format!("{layer}.gamma"), Tensor::full(shape, 1.0)));
            parameters.push((format!("{layer}.beta"), Tensor::full(shape, 0.0)));
        };
        for (index, stage) in self.stages.iter().enumerate() {
            let kernel = normal(&[stage.channels, inputs, 3, 3], 9 * inputs);
            parameters.push((format!("encoder.{index}.kernel"), kernel));
            batch_norm(&mut parameters, &format!("encoder.{index}"), &[1, stage.channels, 1, 1]);
            inputs = stage.channels;
        }
        parameters.push(("head.0.weight".into(), normal(&[inputs, self.head], inputs)));
        batch_norm(&mut parameters, "head.0", &[1, self.head]);
        let reach = 1.0 / (self.head as f64).sqrt();
        let weights = (0..self.head).map(|_| (reach * (2.0 * stream.uniform() - 1.0)) as f32).collect();
        parameters.push(("head.1.weight".into(), Tensor::new([self.head, 1], weights)));
        parameters.push(("head.1.bias".into(), Tensor::full([1, 1], 0.0)));
        parameters
    }

    /// Names and initial values of the running mean and variance of each batch norm.
    pub fn statistics(&self) -> Vec<[(String, Tensor); 2]> {
        let encoder = self.stages.iter().enumerate();
        let encoder = encoder.map(|(index, stage)| (format!("encoder.{index}"), vec![1, stage.channels, 1, 1]));
        encoder
            .chain([("head.0".to_owned(), vec![1, self.head])])
            .map(|(layer, shape)| {
                let mean = (format!("{layer}.mean"), Tensor::full(shape.clone(), 0.0));
                [mean, (format!("{layer}.variance"), Tensor::full(shape, 1.0))]
            })
            .collect()
    }

    /// Embeds `x` `[N, C, H, W]` and classifies the embeddings.
    pub fn forward(&self, t: &mut Tape, theta: &[Value], x: Value, statistics: Statistics) -> Pass {
        let mut parameters = theta.iter().copied();
        let mut next = || parameters.next().expect("as many parameters as layers");
        let mut norm = BatchNorm { statistics, moments: Vec::new() };
        let mut h = x;
        for (index, stage) in self.stages.iter().enumerate() {
            h = t.scope(&format!("encoder.{index}"), |t| {
                let conv = t.conv2d(h, next(), stage.stride, 1);
                let normalised = norm.record(t, conv, &[0, 2, 3], next(), next());
                t.relu(normalised)
            });
        }
        let z = t.scope("encoder.pool", |t| {
            let [n, c, height, width] = t.shape(h).images().expect("a batch of pictures");
            let pooled = t.mean_pool(h, [height, width]);
            t.reshape(pooled, [n, c])
        });
        let logit = t.scope("head", |t| {
            let hidden = t.matmul(z, next());
            let normalised = norm.record(t, hidden, &[0], next(), next());
            let active = t.relu(normalised);
            let logit = t.matmul(active, next());
            t.add(logit, next())
        });
        Pass { z, logit, moments: norm.moments }
    }
}

/// Batch normalisation (Ioffe and Szegedy, arXiv 1502.03167) with biased variance.
struct BatchNorm<'a> {
    statistics: Statistics<'a>,
    moments: Vec<[Value; 2]>,
}

impl BatchNorm<'_> {
    /// γ · (x − mean) / √(variance + ε) + β, the moments taken over `axes`.
    fn record(&mut self, t: &mut Tape, x: Value, axes: &[usize], gamma: Value, beta: Value) -> Value {
        let layer = self.moments.len();
        let (centred, [mean, variance]) = match self.statistics {
            Statistics::Batch => {
                let mean = t.mean(x, axes);
                let centred = t.sub(x, mean);
                let squares = t.mul(centred, centred);
                (centred, [mean, t.mean(squares, axes)])
            }
            Statistics::Running(moments) => (t.sub(x, moments[layer][0]), moments[layer]),
        };
        self.moments.push([mean, variance]);
        let guarded = t.offset(variance, BN_EPSILON);
        let deviation = t.unary(Unary::Sqrt, guarded);
        let scale = t.div(gamma, deviation);
        let scaled = t.mul(centred, scale);
        t.add(scaled, beta)
    }
}

/// The running statistics after a batch with these `moments`.
pub fn update_statistics(t: &mut Tape, running: Value, moment: Value) -> Value {
    t.binary(Binary::Average { weight: BN_MOMENTUM }, running, moment)
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
        let m = t.binary(Binary::Average { weight: self.beta_1 }, m, gradient);
        let v = t.binary(Binary::AverageSquare { weight: self.beta_2 }, v, gradient);
        [t.adam_update(theta, m, v, rates), m, v]
    }
}
