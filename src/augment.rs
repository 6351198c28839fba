//! The differentiable augmentations, from tape methods only.
//!
//! Hyper-parameters are tuned in *raw* coordinates, in which a step has the same meaning everywhere (area and aspect as
//! logarithms, angles in radians), and shown in plain units.
//!
//! A new augmentation is a type with a name and a recording. One that changes a patch at a random place implements
//! [`Patched`], and has its hyper-parameters, their bounds and starts from there:
//!
//! ```
//! use stssad::augment::{Patched, cutdiff};
//! use stssad::tape::{Tape, Value};
//!
//! /// CutDiff on the upside-down scale: the patch becomes white.
//! #[derive(Clone, Debug)]
//! struct CutWhite;
//!
//! impl Patched for CutWhite {
//!     fn name(&self) -> &'static str {
//!         "cutwhite"
//!     }
//!
//!     fn change(&self, t: &mut Tape, x: Value, matrix: Value, centre: Value, _key: Value) -> Value {
//!         let negative = t.scale(x, -1.0);
//!         let negative = t.offset(negative, 1.0);
//!         let changed = cutdiff(t, negative, matrix, centre);
//!         let positive = t.scale(changed, -1.0);
//!         t.offset(positive, 1.0)
//!     }
//! }
//! ```
//!
//! What the tape has no method for is a new primitive in [`ops`](crate::ops), with its backward rule and its kernel.

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

    /// Smallest and largest raw coordinates that the random baselines draw from, uniformly.
    fn prior(&self) -> [Vec<f32>; 2];

    /// Adam's rate in raw coordinates.
    fn rate(&self) -> f64;

    /// Raw coordinates that runs start from.
    fn starts(&self) -> Vec<Vec<f32>>;
}

/// Streams of random numbers within a step; each draw of an augmentation has its own.
mod stream {
    pub const ANGLE: u32 = 1;
    pub const CENTRE: u32 = 2;
    pub const SOURCE: u32 = 3;
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

    fn prior(&self) -> [Vec<f32>; 2] {
        [vec![0.0], vec![std::f32::consts::TAU]]
    }

    fn rate(&self) -> f64 {
        4f64.to_radians()
    }

    fn starts(&self) -> Vec<Vec<f32>> {
        [60f32, 130.0, 230.0, 300.0].map(|degrees| vec![degrees.to_radians()]).to_vec()
    }
}

/// An augmentation that changes a patch at a random place, `a` = \[log area, log aspect, angle\].
pub trait Patched: fmt::Debug {
    /// As [`Augmentation::name`].
    fn name(&self) -> &'static str;

    /// Changes pictures `x` `[N, C, H, W]` in the patch with map `matrix` `[1, 4]` at `centre` `[N, 2]`; further random
    /// numbers are drawn under `key`.
    fn change(&self, t: &mut Tape, x: Value, matrix: Value, centre: Value, key: Value) -> Value;
}

/// A soft elliptical patch subtracted.
#[derive(Clone, Debug, Default)]
pub struct CutDiff;

/// A soft box painted black.
#[derive(Clone, Debug, Default)]
pub struct CutOut;

/// A soft box painted with the mean colour under it.
#[derive(Clone, Debug, Default)]
pub struct CutAvg;

/// A soft box filled with what lies round another random place of the same picture, not turned.
#[derive(Clone, Debug, Default)]
pub struct CutPaste;

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

/// Soft boxes `[N, 1, H, W]` with map `matrix` `[1, 4]` at `centre` `[N, 2]`, for pictures `x`.
fn boxes(t: &mut Tape, x: Value, matrix: Value, centre: Value) -> Value {
    let [pictures, _, height, width] = t.shape(x).images().expect("a batch of pictures");
    let matrices = t.broadcast(matrix, &[pictures, 4].into());
    t.box_mask(matrices, centre, [height, width])
}

/// `(1 − mask) · x + mask · filling`.
fn blend(t: &mut Tape, x: Value, mask: Value, filling: Value) -> Value {
    let change = t.sub(filling, x);
    let masked = t.mul(change, mask);
    t.add(x, masked)
}

/// `x` black inside a soft box with map `matrix` `[1, 4]` at `centre` `[N, 2]`.
pub fn cutout(t: &mut Tape, x: Value, matrix: Value, centre: Value) -> Value {
    let mask = boxes(t, x, matrix, centre);
    let kept = t.unary(Unary::Affine { scale: -1.0, offset: 1.0 }, mask);
    t.mul(x, kept)
}

/// `x` with its mean under a soft box with map `matrix` `[1, 4]` at `centre` `[N, 2]` painted there, channel by channel.
pub fn cutavg(t: &mut Tape, x: Value, matrix: Value, centre: Value) -> Value {
    let mask = boxes(t, x, matrix, centre);
    let masked = t.mul(x, mask);
    let [total, weight] = [masked, mask].map(|value| {
        let [pictures, channels, ..] = t.shape(value).images().expect("a batch of pictures");
        let sum = t.sum(value, &[2, 3]);
        t.reshape(sum, [pictures, channels, 1, 1])
    });
    // A box that has no pixel has no mean.
    let weight = t.offset(weight, 1e-6);
    let mean = t.div(total, weight);
    blend(t, x, mask, mean)
}

/// `x` with what lies round `source` `[N, 2]` pasted into a soft box with map `matrix` `[1, 4]` at `centre` `[N, 2]`.
pub fn cutpaste(t: &mut Tape, x: Value, matrix: Value, centre: Value, source: Value) -> Value {
    let mask = boxes(t, x, matrix, centre);
    let offset = t.sub(source, centre);
    let copy = t.translate(x, offset);
    blend(t, x, mask, copy)
}

/// Places `[N, 2]` uniform over the picture, as (x, y) in pixels.
fn random_places(t: &mut Tape, x: Value, key: Value, stream: u32) -> Value {
    let [pictures, _, height, width] = t.shape(x).images().expect("a batch of pictures");
    let unit = t.uniform(key, stream, [pictures, 2]);
    let extent = t.constant(Tensor::new([1, 2], vec![width as f32, height as f32]));
    t.mul(unit, extent)
}

impl Patched for CutDiff {
    fn name(&self) -> &'static str {
        "cutdiff"
    }

    fn change(&self, t: &mut Tape, x: Value, matrix: Value, centre: Value, _: Value) -> Value {
        cutdiff(t, x, matrix, centre)
    }
}

impl Patched for CutOut {
    fn name(&self) -> &'static str {
        "cutout"
    }

    fn change(&self, t: &mut Tape, x: Value, matrix: Value, centre: Value, _: Value) -> Value {
        cutout(t, x, matrix, centre)
    }
}

impl Patched for CutAvg {
    fn name(&self) -> &'static str {
        "cutavg"
    }

    fn change(&self, t: &mut Tape, x: Value, matrix: Value, centre: Value, _: Value) -> Value {
        cutavg(t, x, matrix, centre)
    }
}

impl Patched for CutPaste {
    fn name(&self) -> &'static str {
        "cutpaste"
    }

    fn change(&self, t: &mut Tape, x: Value, matrix: Value, centre: Value, key: Value) -> Value {
        let source = random_places(t, x, key, stream::SOURCE);
        cutpaste(t, x, matrix, centre, source)
    }
}

impl<P: Patched> Augmentation for P {
    fn name(&self) -> &'static str {
        Patched::name(self)
    }

    fn apply(&self, t: &mut Tape, x: Value, a: Value, key: Value) -> Value {
        let [_, _, height, width] = t.shape(x).images().expect("a batch of pictures");
        let row = t.reshape(a, [1, 3]);
        let [log_area, log_aspect, angle] = [0, 1, 2].map(|index| t.slice(row, 1, index, 1));
        let [area, aspect] = [log_area, log_aspect].map(|log| t.unary(Unary::Exp, log));
        let matrix = patch_matrix(t, [area, aspect, angle], [height, width]);
        let centre = random_places(t, x, key, stream::CENTRE);
        self.change(t, x, matrix, centre, key)
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

    fn prior(&self) -> [Vec<f32>; 2] {
        [vec![0.01f32.ln(), -3f32.ln(), 0.0], vec![0.3f32.ln(), 3f32.ln(), std::f32::consts::PI]]
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
