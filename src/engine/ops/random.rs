//! Counter-based random numbers: the device and the f64 reference draw the same bits.

mod lower;

use crate::engine::case::ShapeClass::{Large, Ones, Prime, Small, Tiled, Training, Uneven};
use crate::engine::case::{Fill, Parameters, Parts, ShapeClass};
use crate::engine::ops::{Family, listed, no_role};
use crate::engine::philox::{philox4x32, unit};
use crate::engine::tape::{Application, Arithmetic, Array, Cotangent, Primitive, Tape, Value};
use crate::engine::tensor::{Shape, Tensor};

/// Uniform numbers in [0, 1) from Philox4x32-10 under a [`key`]; `stream` separates draws within one step.
///
/// Under K keys `[K, 6]` the rows along the last axis are interleaved: row r is drawn under key r mod K and equals row
/// r / K of that key's own draw.
#[derive(Clone, Debug)]
pub struct Uniform {
    pub stream: u32,
    pub shape: Shape,
}

/// The six words of a key, each exact in f32: a 64-bit seed and a 32-bit step in 16-bit parts, lowest first.
pub fn key(seed: u64, step: u32) -> Tensor {
    let half = |word: u64, index: u32| ((word >> (16 * index)) & 0xffff) as f32;
    let seed = (0..4).map(|index| half(seed, index));
    Tensor::new([6], seed.chain((0..2).map(|index| half(u64::from(step), index))).collect())
}

impl Primitive for Uniform {
    fn name(&self) -> &'static str {
        "random/uniform"
    }

    fn parameters(&self, inputs: &[&Shape]) -> Option<String> {
        let keys = if inputs[0].count() > 6 { format!(",keys={}", inputs[0].count() / 6) } else { String::new() };
        Some(format!("stream={}{keys},y={}", self.stream, self.shape))
    }

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape, String> {
        let words = inputs[0].count();
        if words == 0 || !words.is_multiple_of(6) {
            return Err(format!("a key has 6 words, not {words}"));
        }
        match (self.shape.count() / self.row()).is_multiple_of(words / 6) {
            true => Ok(self.shape.clone()),
            false => Err(format!("{} keys for the rows of {:?}", words / 6, self.shape)),
        }
    }

    fn vjp(&self, _: &mut Tape, _: Application) -> Vec<Cotangent> {
        vec![Cotangent::None]
    }

    fn eval(&self, inputs: &[Array], output: &Shape) -> Vec<f64> {
        let (row, keys) = (self.row(), inputs[0].data.len() / 6);
        let draw = |index: usize| {
            let (key, element) = (index / row % keys, index / row / keys * row + index % row);
            let half = |at: usize| inputs[0].data[6 * key + at] as u32;
            let [low, high, step] = [0, 2, 4].map(|at| half(at) | half(at + 1) << 16);
            unit(philox4x32([(element / 4) as u32, step, self.stream, 0], [low, high])[element % 4])
        };
        (0..output.count()).map(draw).collect()
    }

    fn bound(&self, _: &[Array], output: &Shape, _: Arithmetic) -> Vec<f64> {
        vec![0.0; output.count()]
    }
}

impl Uniform {
    /// Length of a row.
    fn row(&self) -> usize {
        self.shape.last().map_or(1, |&extent| extent.max(1))
    }
}

impl Tape {
    /// Uniform numbers in [0, 1) under one key or several interleaved ones; see [`Uniform`].
    pub fn uniform(&mut self, key: Value, stream: u32, shape: impl Into<Shape>) -> Value {
        self.push(Uniform { stream, shape: shape.into() }, &[key])
    }

    /// Derives a key from each of `key`, for draws independent of those under the key itself and under its other
    /// derived keys: six numbers of `stream`, scaled to 16-bit words. Their fractions are truncated on use.
    pub fn derived_key(&mut self, key: Value, stream: u32) -> Value {
        let words = self.uniform(key, stream, self.shape(key).clone());
        self.scale(words, 65_536.0)
    }

    /// Standard normal numbers, by the Box-Muller transform of two uniform draws.
    pub fn normal(&mut self, key: Value, stream: u32, shape: impl Into<Shape>) -> Value {
        use crate::engine::ops::elementwise::Unary;
        let shape = shape.into();
        let pairs: Shape = [&[2], &shape[..]].concat().into();
        let draws = self.uniform(key, stream, pairs);
        let [first, second] = [0, 1].map(|row| {
            let draw = self.slice(draws, 0, row, 1);
            self.reshape(draw, shape.clone())
        });
        // 1 − u lies in (0, 1], where the logarithm is finite.
        let open = self.affine(first, -1.0, 1.0);
        let log = self.unary(Unary::Log, open);
        let square = self.scale(log, -2.0);
        // WGSL's log may give either sign near 1; the root must not see a negative number.
        let square = self.relu(square);
        let radius = self.unary(Unary::Sqrt, square);
        let angle = self.scale(second, std::f32::consts::TAU);
        let cosine = self.unary(Unary::Cos, angle);
        self.mul(radius, cosine)
    }
}

/// The family and its cases.
pub(super) const FAMILY: Family =
    Family { name: "random", describe, cases: || listed(CASES), shaders: lower::SHADERS, lowering: lower::lowering };

fn describe(role: &str, p: &mut Parameters) -> Result<Parts, String> {
    if role != "uniform" {
        return Err(no_role("random", role));
    }
    let (stream, shape) = (p.number("stream")?, p.shape("y")?);
    let keys = p.number_or("keys", 1)?;
    Ok(Parts::new(Uniform { stream, shape }).exact(true).constant_in(&[0]).input([keys, 6], Fill::Key))
}

const CASES: &[(ShapeClass, &str)] = &[
    (Tiled, "random/uniform(stream=2,keys=37,y=74x11)"),
    (Large, "random/uniform(stream=2,y=16777259)"),
    (Prime, "random/uniform(stream=3,y=7x13)"),
    (Small, "random/uniform(stream=0,y=3)"),
    (Ones, "random/uniform(stream=1,y=1)"),
    (Ones, "random/uniform(stream=1,keys=3,y=3x1)"),
    (Uneven, "random/uniform(stream=4294967295,y=257)"),
    (Uneven, "random/uniform(stream=1,keys=3,y=15x7)"),
    (Tiled, "random/uniform(stream=2,y=1031)"),
    (Tiled, "random/uniform(stream=2,keys=5,y=2x35x11)"),
    (Training, "random/uniform(stream=1,y=2x48x1)"),
    (Training, "random/uniform(stream=1,keys=8,y=2x384x1)"),
];
