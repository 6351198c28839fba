//! A convolutional auto-encoder, the reconstruction baseline.

use super::{Declared, Initial, Layers, Statistics};
use crate::engine::ops::conv2d::{Conv2d, Geometry, Role};
use crate::engine::ops::elementwise::Unary;
use crate::engine::tape::{Tape, Value};

/// Length of the code.
const LATENT: usize = 32;
/// A stage halves the image until neither side is longer.
const SMALLEST: usize = 8;
const FIRST_CHANNELS: usize = 16;
const MOST_CHANNELS: usize = 64;

/// Convolutions of stride 2 down to at most 8 × 8 pixels, a code of 32 numbers, and the same way back by transposed
/// convolutions. No batch norm: a reconstruction should not depend on the batch.
#[derive(Clone, Debug, PartialEq)]
pub struct AutoEncoder {
    /// Extents `[C, H, W]` from the image to the last stage.
    stages: Vec<[usize; 3]>,
}

impl AutoEncoder {
    /// For images `[C, H, W]`.
    pub fn new(image: [usize; 3]) -> Self {
        let mut stages = vec![image];
        let (mut channels, mut last) = (FIRST_CHANNELS, image);
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

    /// Its parameters, in the order that [`forward`](AutoEncoder::forward) takes them: kernels and weights normal with variance
    /// 2 / fan-in, biases 0.
    pub fn declared(&self) -> Declared {
        let [c, h, w] = self.stages[0];
        Layers::declare([1, c, h, w], |t, layers, x| self.record(t, layers, x)).0
    }

    /// Codes `[N, 32]` and reconstructions `[N, C, H, W]` of `x` `[N, C, H, W]`; or those of G auto-encoders side by side, as
    /// [`Detector::forward`](super::Detector::forward) has them.
    pub fn forward(&self, t: &mut Tape, theta: &[Value], x: Value) -> [Value; 2] {
        let groups = t.shape(x)[1] / self.stages[0][0];
        self.record(t, &mut Layers::new(groups, theta, Statistics::Batch), x)
    }

    fn record(&self, t: &mut Tape, layers: &mut Layers, x: Value) -> [Value; 2] {
        let (rows, groups) = (t.shape(x)[0], layers.groups());
        let mut h = x;
        for (index, pair) in self.stages.windows(2).enumerate() {
            let [from, to] = [pair[0][0], pair[1][0]];
            h = layers.scope(t, &format!("encoder.{index}"), |t, layers| {
                let initial = Initial::He { fan_in: 9 * from };
                let kernel = layers.parameter(t, ("weight", &[to, from, 3, 3], initial), [groups * to, from, 3, 3]);
                let convolved = t.grouped_conv2d(h, kernel, 2, 1, groups);
                let biased = layers.bias(t, convolved);
                t.relu(biased)
            });
        }
        let [c, height, width] = *self.stages.last().expect("the image at least");
        let flat = c * height * width;
        let mut linear = |t: &mut Tape, name: &str, x: Value, features: usize| {
            layers.scope(t, name, |t, layers| {
                let product = layers.linear(t, x, features, |fan_in| Initial::He { fan_in });
                layers.bias(t, product)
            })
        };
        let pixels = t.reshape(h, [rows, groups * flat]);
        let code = linear(t, "code", pixels, LATENT);
        let biased = linear(t, "decode", code, flat);
        let active = t.relu(biased);
        h = t.reshape(active, [rows, groups * c, height, width]);
        for (index, pair) in self.stages.windows(2).enumerate().rev() {
            let [[to, height, width], [from, ..]] = [pair[0], pair[1]];
            h = layers.scope(t, &format!("decoder.{index}"), |t, layers| {
                let geometry = Geometry { image: [height, width], window: [3, 3], stride: 2, padding: 1 };
                // At stride 2 a pixel gets 9 / 4 taps of each channel.
                let initial = Initial::He { fan_in: 9 * from / 4 };
                let kernel = layers.parameter(t, ("weight", &[from, to, 3, 3], initial), [groups * from, to, 3, 3]);
                let wide = t.push(Conv2d { solve_for: Role::Input, geometry, groups }, &[h, kernel]);
                let biased = layers.bias(t, wide);
                // The last stage gives pixels, which lie between 0 and 1.
                if index == 0 { t.unary(Unary::Sigmoid, biased) } else { t.relu(biased) }
            });
        }
        [code, h]
    }
}
