//! Counter-based random numbers: the device draws the same bits as the f64 replay.

use crate::kernel::{DeviceClass, Kernel};
use crate::philox::{philox4x32, unit};
use crate::tape::{Application, Array, Cotangent, Primitive, Tape, Value};
use crate::tensor::{Shape, Tensor};

/// Uniform numbers in [0, 1) from Philox4x32-10 under a [`key`]; `stream` tells draws within one step apart.
#[derive(Clone, Debug)]
pub struct Uniform {
    pub stream: u32,
    pub shape: Shape,
}

/// Words that f32 holds exactly: a seed of 64 bits and a step of 32, in halves of 16 bits, lowest first.
pub fn key(seed: u64, step: u32) -> Tensor {
    let half = |word: u64, index: u32| ((word >> (16 * index)) & 0xffff) as f32;
    let seed = (0..4).map(|index| half(seed, index));
    Tensor::new([6], seed.chain((0..2).map(|index| half(u64::from(step), index))).collect())
}

impl Primitive for Uniform {
    fn name(&self) -> &'static str {
        "random/uniform"
    }

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape, String> {
        match inputs[0].count() {
            6 => Ok(self.shape.clone()),
            count => Err(format!("a key has 6 words, not {count}")),
        }
    }

    fn vjp(&self, _: &mut Tape, _: Application) -> Vec<Cotangent> {
        vec![Cotangent::None]
    }

    fn eval(&self, inputs: &[Array], output: &Shape) -> Vec<f64> {
        let word = |index: usize| inputs[0].data[2 * index] as u32 | (inputs[0].data[2 * index + 1] as u32) << 16;
        let (key, step) = ([word(0), word(1)], word(2));
        (0..output.count())
            .map(|index| unit(philox4x32([(index / 4) as u32, step, self.stream, 0], key)[index % 4]))
            .collect()
    }

    fn bound(&self, _: &[Array], output: &Shape) -> Vec<f64> {
        vec![0.0; output.count()]
    }

    fn kernel(&self, _: &[&Shape], output: &Shape, _: DeviceClass) -> Kernel {
        Kernel::new("random/uniform").immediate("stream", self.stream).over(output.count().div_ceil(4), 64)
    }

    fn flops(&self, _: &[&Shape], output: &Shape) -> u64 {
        output.count() as u64
    }

    fn is_cheap(&self) -> bool {
        true
    }
}

impl Tape {
    /// Uniform numbers in [0, 1).
    pub fn uniform(&mut self, key: Value, stream: u32, shape: impl Into<Shape>) -> Value {
        self.push(Uniform { stream, shape: shape.into() }, &[key])
    }

    /// A key for draws that are independent of those under `key` itself and under others derived from it: six numbers of
    /// `stream`, as words of 16 bits. Their fractions mean nothing; a key's words are cut off at the point.
    pub fn derived_key(&mut self, key: Value, stream: u32) -> Value {
        let words = self.uniform(key, stream, [6]);
        self.scale(words, 65_536.0)
    }

    /// Standard normal numbers, by Box and Muller's transform of two uniform draws.
    pub fn normal(&mut self, key: Value, stream: u32, shape: impl Into<Shape>) -> Value {
        use crate::ops::elementwise::Unary;
        let shape = shape.into();
        let pairs: Shape = [&[2], &shape[..]].concat().into();
        let draws = self.uniform(key, stream, pairs);
        let [first, second] = [0, 1].map(|row| {
            let draw = self.slice(draws, 0, row, 1);
            self.reshape(draw, shape.clone())
        });
        // 1 − u lies in (0, 1], where the logarithm is finite.
        let open = self.unary(Unary::Affine { scale: -1.0, offset: 1.0 }, first);
        let log = self.unary(Unary::Log, open);
        let square = self.scale(log, -2.0);
        // WGSL's log may err to either side of 0 at 1; the root must not see a negative number.
        let square = self.relu(square);
        let radius = self.unary(Unary::Sqrt, square);
        let angle = self.scale(second, std::f32::consts::TAU);
        let cosine = self.unary(Unary::Cos, angle);
        self.mul(radius, cosine)
    }
}
