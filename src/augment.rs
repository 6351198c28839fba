//! The differentiable augmentations, from tape methods only.
//!
//! Hyper-parameters are tuned in *raw* coordinates, in which a step has the same meaning everywhere (area and aspect as
//! logarithms, angles in radians), and shown in plain units.

use std::collections::BTreeMap;
use std::f64::consts::{PI, TAU};
use std::fmt;

use crate::ops::elementwise::{Binary, Unary};
use crate::tape::{Tape, Value};
use crate::tensor::Tensor;

/// Hyper-parameters in plain units, by name: `angle_degrees`, `area` (share of the picture), `aspect`.
pub type Setting = BTreeMap<String, f64>;

/// An augmentation with hyper-parameters `a`, a vector in raw coordinates.
pub trait Augmentation: fmt::Debug {
    /// As it is called on the command line and in records.
    fn name(&self) -> &'static str;

    /// Augments pictures `x` `[N, C, H, W]` at random places drawn under `key`; `a` is a vector in raw coordinates.
    fn apply(&self, t: &mut Tape, x: Value, a: Value, key: Value) -> Value;

    /// Plain units of raw coordinates, angles brought into one period.
    fn setting(&self, a: &[f32]) -> Setting;

    /// Smallest and largest raw coordinates; infinite where there is no bound.
    fn bounds(&self) -> [Vec<f32>; 2];

    /// Adam's rate in raw coordinates.
    fn rate(&self) -> f64;

    /// Raw coordinates that runs start from.
    fn starts(&self) -> Vec<Vec<f32>>;
}

/// Streams of random numbers within a step; each draw of an augmentation has its own.
mod stream {
    pub const ANGLE: u32 = 1;
    pub const CENTRE: u32 = 2;
}

fn named<const N: usize>(values: [(&str, f64); N]) -> Setting {
    values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Rotation about the picture's middle, `a` = \[angle\]. Each picture's angle is normal round it with a fixed spread, which
/// smooths the landscape: without it the angle freezes as soon as the detector is sure of itself.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// Standard deviation of the pictures' angles, in radians.
    pub spread: f32,
}

impl Default for Rotation {
    fn default() -> Self {
        Rotation { spread: 12f32.to_radians() }
    }
}

impl Augmentation for Rotation {
    fn name(&self) -> &'static str {
        "rotation"
    }

    fn apply(&self, t: &mut Tape, x: Value, a: Value, key: Value) -> Value {
        let pictures = t.shape(x)[0];
        let noise = t.normal(key, stream::ANGLE, [pictures, 1]);
        let noise = t.scale(noise, self.spread);
        let angles = t.add(noise, a);
        t.rotate(x, angles)
    }

    fn setting(&self, a: &[f32]) -> Setting {
        named([("angle_degrees", f64::from(a[0]).rem_euclid(TAU).to_degrees())])
    }

    fn bounds(&self) -> [Vec<f32>; 2] {
        [vec![f32::NEG_INFINITY], vec![f32::INFINITY]]
    }

    fn rate(&self) -> f64 {
        4f64.to_radians()
    }

    fn starts(&self) -> Vec<Vec<f32>> {
        [60f32, 130.0, 230.0, 300.0].map(|degrees| vec![degrees.to_radians()]).to_vec()
    }
}

/// A soft elliptical patch subtracted at a random place, `a` = \[log area, log aspect, angle\].
#[derive(Clone, Debug, Default)]
pub struct CutDiff;

/// Map `[1, 4]` from pixel offsets to units of a patch's sides, from its `area` (share of the picture), `aspect` and
/// `angle` (radians), each `[1, 1]`.
pub fn patch_matrix(t: &mut Tape, [area, aspect, angle]: [Value; 3], [height, width]: [usize; 2]) -> Value {
    let inverse_side = |t: &mut Tape, squared: Value, extent: usize| {
        let root = t.unary(Unary::Sqrt, squared);
        let side = t.scale(root, extent as f32);
        t.unary(Unary::Reciprocal, side)
    };
    let product = t.mul(area, aspect);
    let quotient = t.div(area, aspect);
    let per_x = inverse_side(t, product, width);
    let per_y = inverse_side(t, quotient, height);
    let [cos, sin] = [Unary::Cos, Unary::Sin].map(|function| t.unary(function, angle));
    let minus_sin = t.scale(sin, -1.0);
    let entries = [(cos, per_x), (sin, per_x), (minus_sin, per_y), (cos, per_y)].map(|(a, b)| t.mul(a, b));
    t.concat(1, &entries)
}

/// `x` less the mask of a patch with map `matrix` `[1, 4]` at `centre` `[N, 2]`, clamped to \[0, 1\].
pub fn cutdiff(t: &mut Tape, x: Value, matrix: Value, centre: Value) -> Value {
    let [pictures, _, height, width] = t.shape(x).images().expect("a batch of pictures");
    let matrices = t.broadcast(matrix, &[pictures, 4].into());
    let mask = t.cutdiff_mask(matrices, centre, [height, width]);
    let difference = t.sub(x, mask);
    t.unary(Unary::Clamp { low: 0.0, high: 1.0 }, difference)
}

/// Centres `[N, 2]` uniform over the picture, as (x, y) in pixels.
fn random_centres(t: &mut Tape, x: Value, key: Value) -> Value {
    let [pictures, _, height, width] = t.shape(x).images().expect("a batch of pictures");
    let unit = t.uniform(key, stream::CENTRE, [pictures, 2]);
    let extent = t.constant(Tensor::new([1, 2], vec![width as f32, height as f32]));
    t.mul(unit, extent)
}

impl Augmentation for CutDiff {
    fn name(&self) -> &'static str {
        "cutdiff"
    }

    fn apply(&self, t: &mut Tape, x: Value, a: Value, key: Value) -> Value {
        let [_, _, height, width] = t.shape(x).images().expect("a batch of pictures");
        let row = t.reshape(a, [1, 3]);
        let [log_area, log_aspect, angle] = [0, 1, 2].map(|index| t.slice(row, 1, index, 1));
        let [area, aspect] = [log_area, log_aspect].map(|log| t.unary(Unary::Exp, log));
        let matrix = patch_matrix(t, [area, aspect, angle], [height, width]);
        let centre = random_centres(t, x, key);
        cutdiff(t, x, matrix, centre)
    }

    fn setting(&self, a: &[f32]) -> Setting {
        let [log_area, log_aspect, angle] = [a[0], a[1], a[2]].map(f64::from);
        named([
            ("area", log_area.exp()),
            ("aspect", log_aspect.exp()),
            ("angle_degrees", angle.rem_euclid(PI).to_degrees()),
        ])
    }

    fn bounds(&self) -> [Vec<f32>; 2] {
        let [area, aspect] = [[1e-4f32, 0.6], [1.0 / 6.0, 6.0]];
        let bound = |end: usize, unbounded: f32| vec![area[end].ln(), aspect[end].ln(), unbounded];
        [bound(0, f32::NEG_INFINITY), bound(1, f32::INFINITY)]
    }

    fn rate(&self) -> f64 {
        0.05
    }

    fn starts(&self) -> Vec<Vec<f32>> {
        let quarter = std::f32::consts::FRAC_PI_4;
        [(0.05f32, 0.5), (0.05, 0.5 + 2.0 * quarter), (0.2, 0.5 + quarter), (0.2, 0.5 + 3.0 * quarter)]
            .map(|(area, angle)| vec![area.ln(), 3f32.ln(), angle])
            .to_vec()
    }
}

/// `a` kept within the augmentation's bounds.
pub fn project(t: &mut Tape, augmentation: &dyn Augmentation, a: Value) -> Value {
    let [low, high] = augmentation.bounds().map(|bound| {
        let finite = bound.iter().map(|bound| bound.clamp(f32::MIN, f32::MAX)).collect();
        Tensor::new([bound.len()], finite)
    });
    let [low, high] = [t.constant(low), t.constant(high)];
    let raised = t.binary(Binary::Maximum, a, low);
    t.binary(Binary::Minimum, raised, high)
}
