//! The detector: a convolutional encoder and an MLP head, from tape methods only.

mod autoencoder;

pub use autoencoder::AutoEncoder;

use crate::engine::ops::elementwise::{Binary, Unary};
use crate::engine::philox::Stream;
use crate::engine::tape::{Tape, Value};
use crate::engine::tensor::{Shape, Tensor};

/// Added to a variance before its root.
const BN_EPSILON: f32 = 1e-5;
/// Weight of the past in the running statistics.
const BN_MOMENTUM: f32 = 0.9;

/// One 3 × 3 convolution of a plain encoder, followed by batch norm and ReLU.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stage {
    pub channels: usize,
    pub stride: usize,
}

/// What turns pictures into embeddings: convolutions, then the mean over all places.
#[derive(Clone, Debug, PartialEq)]
pub enum Encoder {
    /// 3 × 3 convolutions one after another.
    Plain(Vec<Stage>),
    /// ResNet-18 (He et al., arXiv 1512.03385): after the stem four stages of two basic blocks each, of `width`, 2 · `width`,
    /// 4 · `width` and 8 · `width` channels; the original's width is 64.
    ResNet18 { width: usize, stem: Stem },
}

/// The first layer of a ResNet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stem {
    /// A 3 × 3 convolution at full resolution: for pictures of up to 64 pixels.
    Small,
    /// A 7 × 7 convolution of stride 2, then maxima over 3 × 3 windows of stride 2.
    Large,
}

/// A square convolution without bias, padded by half its window and followed by batch norm.
#[derive(Clone, Debug)]
struct Convolution {
    /// Of the layer within the encoder: `stem`, `3.0.shortcut`.
    name: String,
    inputs: usize,
    channels: usize,
    window: usize,
    stride: usize,
}

impl Encoder {
    /// Channels that the last layer puts out.
    fn features(&self, input_channels: usize) -> usize {
        match self {
            Encoder::Plain(stages) => stages.last().map_or(input_channels, |stage| stage.channels),
            Encoder::ResNet18 { width, .. } => 8 * width,
        }
    }

    /// All convolutions, in the order of their use.
    fn convolutions(&self, input_channels: usize) -> Vec<Convolution> {
        let mut layers = Vec::new();
        let mut layer = |name: String, inputs: usize, channels: usize, window: usize, stride: usize| {
            layers.push(Convolution { name, inputs, channels, window, stride });
            channels
        };
        let mut inputs = input_channels;
        match self {
            Encoder::Plain(stages) => {
                for (index, stage) in stages.iter().enumerate() {
                    inputs = layer(index.to_string(), inputs, stage.channels, 3, stage.stride);
                }
            }
            Encoder::ResNet18 { width, stem } => {
                let (window, stride) = if *stem == Stem::Large { (7, 2) } else { (3, 1) };
                inputs = layer("stem".to_owned(), inputs, *width, window, stride);
                for (stage, block) in blocks() {
                    let (channels, stride) = (width << stage, stride_of(stage, block));
                    layer(format!("{stage}.{block}.first"), inputs, channels, 3, stride);
                    layer(format!("{stage}.{block}.second"), channels, channels, 3, 1);
                    if stride > 1 {
                        layer(format!("{stage}.{block}.shortcut"), inputs, channels, 1, stride);
                    }
                    inputs = channels;
                }
            }
        }
        layers
    }
}

/// Stage and number of each basic block of a ResNet-18.
fn blocks() -> impl Iterator<Item = (usize, usize)> {
    (0..4).flat_map(|stage| (0..2).map(move |block| (stage, block)))
}

/// Every stage but the first begins by halving the resolution, and with it the shortcut's.
fn stride_of(stage: usize, block: usize) -> usize {
    if stage > 0 && block == 0 { 2 } else { 1 }
}

/// An encoder with a head that tells normal (logit below 0) from augmented pictures.
#[derive(Clone, Debug, PartialEq)]
pub struct Detector {
    pub input_channels: usize,
    pub encoder: Encoder,
    /// Widths of the head's hidden layers, each with batch norm and ReLU.
    pub head: Vec<usize>,
}

/// What batch norm divides by.
#[derive(Clone, Copy, Debug)]
pub enum Statistics<'a> {
    /// The batch's own moments: training.
    Batch,
    /// Running mean and variance of each layer of one detector, in order: scoring.
    Running(&'a [[Value; 2]]),
}

/// One forward pass.
#[derive(Clone, Debug)]
pub struct Pass {
    /// Embeddings, `[N, G · features]`.
    pub z: Value,
    /// `[N, G]`
    pub logit: Value,
    /// The batch's mean and variance at each batch norm, in order; empty with running statistics.
    pub moments: Vec<[Value; 2]>,
}

impl Detector {
    /// Three 3 × 3 convolutions, for pictures of about 28 to 64 pixels.
    pub fn small(input_channels: usize) -> Self {
        let stages = [(16, 2), (32, 2), (32, 1)];
        let stages = stages.map(|(channels, stride)| Stage { channels, stride }).to_vec();
        Detector { input_channels, encoder: Encoder::Plain(stages), head: vec![32] }
    }

    /// ResNet-18 with 512 features, its stem by the pictures' `[height, width]`, and a head of two hidden layers.
    pub fn resnet18(input_channels: usize, size: [usize; 2]) -> Self {
        let stem = if size.iter().all(|&extent| extent <= 64) { Stem::Small } else { Stem::Large };
        Detector { input_channels, encoder: Encoder::ResNet18 { width: 64, stem }, head: vec![512, 128] }
    }

    /// Length of an embedding.
    pub fn features(&self) -> usize {
        self.encoder.features(self.input_channels)
    }

    /// Name and shape of one entry a channel for each batch norm, in the order of their use.
    fn norms(&self) -> Vec<(String, Vec<usize>)> {
        let encoder = self.encoder.convolutions(self.input_channels).into_iter();
        let encoder = encoder.map(|layer| (format!("encoder.{}", layer.name), vec![1, layer.channels, 1, 1]));
        let head = self.head.iter().enumerate().map(|(index, &width)| (format!("head.{index}"), vec![1, width]));
        encoder.chain(head).collect()
    }

    /// Names and initial values of the parameters, in the order that [`forward`](Detector::forward) takes them.
    ///
    /// Convolutions and hidden layers start normal with variance 2 / fan-in (He et al., arXiv 1502.01852), the last layer
    /// uniform within 1 / √fan-in, batch norms as the identity.
    pub fn parameters(&self, stream: &mut Stream) -> Vec<(String, Tensor)> {
        let mut normal = |shape: Vec<usize>, fan_in: usize| {
            let deviation = (2.0 / fan_in as f64).sqrt();
            let count = shape.iter().product();
            Tensor::new(shape, (0..count).map(|_| (deviation * stream.normal()) as f32).collect())
        };
        let mut weights = Vec::new();
        for Convolution { inputs, channels, window, .. } in self.encoder.convolutions(self.input_channels) {
            let shape = vec![channels, inputs, window, window];
            weights.push(("kernel", normal(shape, inputs * window * window)));
        }
        let mut inputs = self.features();
        for &width in &self.head {
            weights.push(("weight", normal(vec![inputs, width], inputs)));
            inputs = width;
        }
        let mut parameters = Vec::new();
        for ((kind, weight), (layer, shape)) in weights.into_iter().zip(self.norms()) {
            parameters.push((format!("{layer}.{kind}"), weight));
            parameters.push((format!("{layer}.gamma"), Tensor::full(shape.clone(), 1.0)));
            parameters.push((format!("{layer}.beta"), Tensor::full(shape, 0.0)));
        }
        let (last, reach) = (self.head.len(), 1.0 / (inputs as f64).sqrt());
        let weights = (0..inputs).map(|_| (reach * (2.0 * stream.uniform() - 1.0)) as f32).collect();
        parameters.push((format!("head.{last}.weight"), Tensor::new([inputs, 1], weights)));
        parameters.push((format!("head.{last}.bias"), Tensor::full([1, 1], 0.0)));
        parameters
    }

    /// Names and initial values of the running mean and variance of each batch norm.
    pub fn statistics(&self) -> Vec<[(String, Tensor); 2]> {
        let statistics = |(layer, shape): (String, Vec<usize>)| {
            let mean = (format!("{layer}.mean"), Tensor::full(shape.clone(), 0.0));
            [mean, (format!("{layer}.variance"), Tensor::full(shape, 1.0))]
        };
        self.norms().into_iter().map(statistics).collect()
    }

    /// Embeds `x` `[N, C, H, W]` and classifies the embeddings; or those of G detectors side by side, of which each has its
    /// own C channels in `x` `[N, G · C, H, W]` and its own parameters along a leading axis of each of `theta`.
    pub fn forward(&self, t: &mut Tape, theta: &[Value], x: Value, statistics: Statistics) -> Pass {
        let mut layers = Layers {
            groups: t.shape(x)[1] / self.input_channels,
            parameters: theta.iter().copied(),
            convolutions: self.encoder.convolutions(self.input_channels).into_iter(),
            norm: BatchNorm { statistics, moments: Vec::new() },
        };
        let z = t.scope("encoder", |t| {
            let h = layers.encode(t, &self.encoder, x);
            t.scope("pool", |t| {
                let [n, c, _, _] = t.shape(h).images().expect("a batch of pictures");
                let pooled = t.mean(h, &[2, 3]);
                t.reshape(pooled, [n, c])
            })
        });
        let logit = t.scope("head", |t| layers.classify(t, &self.head, z));
        Pass { z, logit, moments: layers.norm.moments }
    }
}

/// The layers of a forward pass that are still to come.
struct Layers<'a, Parameters> {
    /// Detectors side by side: their channels, and features, are the groups of all layers.
    groups: usize,
    parameters: Parameters,
    convolutions: std::vec::IntoIter<Convolution>,
    norm: BatchNorm<'a>,
}

impl<Parameters: Iterator<Item = Value>> Layers<'_, Parameters> {
    fn parameter(&mut self) -> Value {
        self.parameters.next().expect("as many parameters as layers")
    }

    /// The next parameter, `[G, …]`, as `shape`.
    fn parameter_as(&mut self, t: &mut Tape, shape: impl Into<Shape>) -> Value {
        let parameter = self.parameter();
        t.reshape(parameter, shape)
    }

    /// The next convolution and its batch norm, and what `finish` makes of them, in a scope of the layer's name.
    fn convolution(&mut self, t: &mut Tape, x: Value, finish: impl FnOnce(&mut Tape, Value) -> Value) -> Value {
        let layer = self.convolutions.next().expect("as many convolutions as layers");
        t.scope(&layer.name, |t| {
            let channels = self.groups * layer.channels;
            let kernel = self.parameter_as(t, [channels, layer.inputs, layer.window, layer.window]);
            let convolved = t.grouped_conv2d(x, kernel, layer.stride, layer.window / 2, self.groups);
            let [gamma, beta] = [0, 1].map(|_| self.parameter_as(t, [1, channels, 1, 1]));
            let normalised = self.norm.record(t, convolved, &[0, 2, 3], gamma, beta);
            finish(t, normalised)
        })
    }

    fn encode(&mut self, t: &mut Tape, encoder: &Encoder, x: Value) -> Value {
        match encoder {
            Encoder::Plain(stages) => stages.iter().fold(x, |h, _| self.convolution(t, h, Tape::relu)),
            Encoder::ResNet18 { stem, .. } => {
                let mut h = self.convolution(t, x, Tape::relu);
                if *stem == Stem::Large {
                    h = t.scope("stem", |t| t.max_pool(h, 3, 2, 1));
                }
                blocks().fold(h, |h, (stage, block)| {
                    let first = self.convolution(t, h, Tape::relu);
                    let second = self.convolution(t, first, |_, y| y);
                    let shortcut = if stride_of(stage, block) > 1 { self.convolution(t, h, |_, y| y) } else { h };
                    t.scope(&format!("{stage}.{block}"), |t| {
                        let sum = t.add(second, shortcut);
                        t.relu(sum)
                    })
                })
            }
        }
    }

    /// Logits of embeddings, after hidden layers of these `widths`.
    fn classify(&mut self, t: &mut Tape, widths: &[usize], z: Value) -> Value {
        let last = widths.iter().fold(z, |h, &width| {
            let product = self.linear(t, h, width);
            let [gamma, beta] = [0, 1].map(|_| self.parameter_as(t, [1, self.groups * width]));
            let normalised = self.norm.record(t, product, &[0], gamma, beta);
            t.relu(normalised)
        });
        let product = self.linear(t, last, 1);
        let bias = self.parameter_as(t, [1, self.groups]);
        t.add(product, bias)
    }

    /// The product with the next parameter, `width` columns in each group.
    fn linear(&mut self, t: &mut Tape, x: Value, width: usize) -> Value {
        let weight = self.parameter_as(t, [t.shape(x)[1], width]);
        t.grouped_matmul(x, weight, self.groups)
    }
}

/// Batch normalisation (Ioffe and Szegedy, arXiv 1502.03167) with biased variance.
struct BatchNorm<'a> {
    statistics: Statistics<'a>,
    moments: Vec<[Value; 2]>,
}

impl BatchNorm<'_> {
    /// γ · (x − mean) / √(variance + ε) + β, the moments taken over `axes`: x by a factor and an addend for each channel, so that
    /// x − mean is never written to memory.
    fn record(&mut self, t: &mut Tape, x: Value, axes: &[usize], gamma: Value, beta: Value) -> Value {
        let [mean, variance] = match self.statistics {
            Statistics::Batch => t.moments(x, axes),
            Statistics::Running(moments) => moments[self.moments.len()],
        };
        self.moments.push([mean, variance]);
        let guarded = t.offset(variance, BN_EPSILON);
        let deviation = t.unary(Unary::Sqrt, guarded);
        let scale = t.div(gamma, deviation);
        let scaled_mean = t.mul(mean, scale);
        let shift = t.sub(beta, scaled_mean);
        let scaled = t.mul(x, scale);
        t.add(scaled, shift)
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
            let parameters = detector.parameters(&mut Stream::new(0, 0));
            let encoder = parameters.iter().filter(|(name, _)| name.starts_with("encoder"));
            encoder.map(|(_, initial)| initial.shape().count()).sum()
        };
        // torchvision's 11 689 512 less the 513 000 of its classifier.
        let large = Detector::resnet18(3, [224, 224]);
        assert_eq!((count(&large), large.features()), (11_176_512, 512));
        // 3 × 3 instead of 7 × 7.
        assert_eq!(count(&Detector::resnet18(3, [32, 32])), 11_176_512 - 64 * 3 * (49 - 9));
        assert_eq!(large.statistics().len(), 20 + 2);
    }

    #[test]
    fn batch_norm_goes_over_its_pictures_three_times_forwards_and_four_times_back() {
        let mut t = Tape::new();
        let [x, v] = ["x", "v"].map(|name| t.feed(name, [8, 4, 6, 6]));
        let [gamma, beta] = ["gamma", "beta"].map(|name| t.feed(name, [1, 4, 1, 1]));
        let mut norm = BatchNorm { statistics: Statistics::Batch, moments: Vec::new() };
        let y = norm.record(&mut t, x, &[0, 2, 3], gamma, beta);
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
    fn the_stem_follows_the_pictures() {
        let stem = |size: usize| match Detector::resnet18(3, [size, size]).encoder {
            Encoder::ResNet18 { stem, .. } => stem,
            Encoder::Plain(_) => panic!("not a ResNet"),
        };
        assert_eq!((stem(64), stem(65)), (Stem::Small, Stem::Large));
    }

    #[test]
    fn a_forward_pass_uses_every_parameter() {
        let size = [1, 12, 9];
        let resnet = |stem| Encoder::ResNet18 { width: 2, stem };
        let narrow = |encoder| Detector { input_channels: 1, encoder, head: vec![3, 2] };
        let without_head = Detector { head: Vec::new(), ..Detector::small(1) };
        for detector in [Detector::small(1), without_head, narrow(resnet(Stem::Small)), narrow(resnet(Stem::Large))] {
            let mut t = Tape::new();
            let x = t.feed("x", [2, size[0], size[1], size[2]]);
            let parameters = detector.parameters(&mut Stream::new(0, 0));
            let theta: Vec<Value> =
                parameters.iter().map(|(name, initial)| t.state(name, initial.shape().clone())).collect();
            let pass = detector.forward(&mut t, &theta, x, Statistics::Batch);
            let sum = t.total(pass.logit);
            assert_eq!(t.grad(sum, &theta).map(|gradients| gradients.len()), Ok(theta.len()));
            assert_eq!(pass.moments.len(), detector.statistics().len());
            for (moments, statistics) in pass.moments.iter().zip(detector.statistics()) {
                assert!(moments.iter().zip(&statistics).all(|(&moment, (_, at))| t.shape(moment) == at.shape()));
            }
            assert_eq!((&t.shape(pass.z)[..], &t.shape(pass.logit)[..]), (&[2, detector.features()][..], &[2, 1][..]));
        }
    }
}
