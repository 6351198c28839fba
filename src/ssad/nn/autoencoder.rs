//! A convolutional auto-encoder, the reconstruction baseline.

use crate::engine::ops::conv2d::{Conv2d, Geometry, Role};
use crate::engine::ops::elementwise::Unary;
use crate::engine::philox::Stream;
use crate::engine::tape::{Tape, Value};
use crate::engine::tensor::Tensor;

/// Length of the code.
const LATENT: usize = 32;
/// A stage halves the picture until neither side is longer.
const SMALLEST: usize = 8;
const FIRST_CHANNELS: usize = 16;
const MOST_CHANNELS: usize = 64;

/// Convolutions of stride 2 down to at most 8 × 8 pixels, a code of 32 numbers, and the same way back by transposed
/// convolutions. No batch norm: a reconstruction should not depend on the batch.
#[derive(Clone, Debug, PartialEq)]
pub struct AutoEncoder {
    /// Extents `[C, H, W]` from the picture to the last stage.
    stages: Vec<[usize; 3]>,
}

impl AutoEncoder {
    /// For pictures `[C, H, W]`.
    pub fn new(picture: [usize; 3]) -> Self {
        let mut stages = vec![picture];
        let (mut channels, mut last) = (FIRST_CHANNELS, picture);
        while last[1].max(last[2]) > SMALLEST {
            last = [channels, last[1].div_ceil(2), last[2].div_ceil(2)];
            channels = (2 * channels).min(MOST_CHANNELS);
            stages.push(last);
        }
        AutoEncoder { stages }
    }

    /// Length of the code.
    pub fn latent(&self) -> usize {
        LATENT
    }

    /// Names and initial values of the parameters, in the order that [`forward`](AutoEncoder::forward) takes them: kernels
    /// and weights normal with variance 2 / fan-in, biases 0.
    pub fn parameters(&self, stream: &mut Stream) -> Vec<(String, Tensor)> {
        let mut parameters = Vec::new();
        let mut layer = |name: String, shape: &[usize], fan_in: usize, bias: &[usize]| {
            let deviation = (2.0 / fan_in as f64).sqrt();
            let values = (0..shape.iter().product()).map(|_| (deviation * stream.normal()) as f32).collect();
            parameters.push((format!("{name}.weight"), Tensor::new(shape, values)));
            parameters.push((format!("{name}.bias"), Tensor::full(bias, 0.0)));
        };
        for (index, pair) in self.stages.windows(2).enumerate() {
            let [from, to] = [pair[0][0], pair[1][0]];
            layer(format!("encoder.{index}"), &[to, from, 3, 3], 9 * from, &[1, to, 1, 1]);
        }
        let flat: usize = self.stages.last().expect("the picture at least").iter().product();
        layer("code".into(), &[flat, LATENT], flat, &[1, LATENT]);
        layer("decode".into(), &[LATENT, flat], LATENT, &[1, flat]);
        for (index, pair) in self.stages.windows(2).enumerate().rev() {
            let [to, from] = [pair[0][0], pair[1][0]];
            // At stride 2 a pixel gets 9 / 4 taps of each channel.
            layer(format!("decoder.{index}"), &[from, to, 3, 3], 9 * from / 4, &[1, to, 1, 1]);
        }
        parameters
    }

    /// Codes `[N, 32]` and reconstructions `[N, C, H, W]` of `x` `[N, C, H, W]`; or those of G auto-encoders side by side, as
    /// [`Detector::forward`](super::Detector::forward) has them.
    pub fn forward(&self, t: &mut Tape, theta: &[Value], x: Value) -> (Value, Value) {
        let mut parameters = theta.iter().copied();
        let mut next = |t: &mut Tape, shape: &[usize]| {
            let parameter = parameters.next().expect("as many parameters as layers");
            t.reshape(parameter, shape)
        };
        let (rows, groups) = (t.shape(x)[0], t.shape(x)[1] / self.stages[0][0]);
        let mut h = x;
        for pair in self.stages.windows(2) {
            let [from, to] = [pair[0][0], pair[1][0]];
            let kernel = next(t, &[groups * to, from, 3, 3]);
            let conv = t.grouped_conv2d(h, kernel, 2, 1, groups);
            let bias = next(t, &[1, groups * to, 1, 1]);
            let biased = t.add(conv, bias);
            h = t.relu(biased);
        }
        let [c, height, width] = *self.stages.last().expect("the picture at least");
        let flat = c * height * width;
        let mut linear = |t: &mut Tape, x: Value, [inputs, outputs]: [usize; 2]| {
            let weight = next(t, &[groups * inputs, outputs]);
            let product = t.grouped_matmul(x, weight, groups);
            let bias = next(t, &[1, groups * outputs]);
            t.add(product, bias)
        };
        let pixels = t.reshape(h, [rows, groups * flat]);
        let code = linear(t, pixels, [flat, LATENT]);
        let biased = linear(t, code, [LATENT, flat]);
        let active = t.relu(biased);
        h = t.reshape(active, [rows, groups * c, height, width]);
        for (index, pair) in self.stages.windows(2).enumerate().rev() {
            let [[to, height, width], [from, ..]] = [pair[0], pair[1]];
            let geometry = Geometry { image: [height, width], window: [3, 3], stride: 2, padding: 1 };
            let kernel = next(t, &[groups * from, to, 3, 3]);
            let wide = t.push(Conv2d { solve_for: Role::Input, geometry, groups }, &[h, kernel]);
            let bias = next(t, &[1, groups * to, 1, 1]);
            let biased = t.add(wide, bias);
            // The last stage gives pixels, which lie between 0 and 1.
            h = if index == 0 { t.unary(Unary::Sigmoid, biased) } else { t.relu(biased) };
        }
        (code, h)
    }
}
