//! The differentiable augmentations, from tape methods only.
//!
//! Hyper-parameters are tuned in *raw* coordinates, in which a step means the same everywhere (logarithms of area,
//! aspect and spread; angles in radians), and reported in plain units. [`by_name`] gives every augmentation below, and
//! any sequence of them, tuned together: `cutpaste+rotation`.
//!
//! A new augmentation is a type with a name and a recording. One that changes a patch at a random place implements
//! [`Patched`] and inherits its hyper-parameters, their bounds, prior and starts:
//!
//! ```
//! use stssad::ssad::augment::{Augmentation, Composed, Patched, Rotation, cutdiff};
//! use stssad::engine::tape::{Tape, Value};
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
//!
//! // Tuned together with a rotation.
//! let both = Composed::new(vec![Box::new(CutWhite), Box::new(Rotation::default())])?;
//! assert_eq!(both.name(), "cutwhite+rotation");
//! let mut t = Tape::new();
//! let (x, a, key) = (t.feed("x", [8, 1, 28, 28]), t.feed("a", [4]), t.feed("key", [6]));
//! let x_aug = both.apply(&mut t, x, a, key);
//! assert_eq!(t.shape(x_aug), t.shape(x));
//! # Ok::<(), stssad::ssad::augment::NameError>(())
//! ```
//!
//! An operation that the tape lacks becomes a new primitive in [`ops`](crate::engine::ops), with a backward rule and a
//! kernel.

mod cutblend;

use std::collections::BTreeMap;
use std::f64::consts::{PI, TAU};
use std::fmt;

use crate::engine::ops::elementwise::{Binary, Unary};
use crate::engine::tape::{Tape, Value};
use crate::engine::tensor::Tensor;

pub use self::cutblend::{CutBlend, cutblend, level_names};

/// Hyper-parameters in plain units, by name: `angle_degrees`, `area` (share of the image), `aspect`. In a
/// [composition](Composed) the names are prefixed by the part: `rotation.angle_degrees`.
pub type Setting = BTreeMap<String, f64>;

/// An augmentation with P hyper-parameters `a` in raw coordinates.
pub trait Augmentation: fmt::Debug + Send + Sync {
    /// Its name on the command line and in records.
    fn name(&self) -> &str;

    /// Augments images `x` `[N, C, H, W]`, at random places drawn under `key`. `a` is in raw coordinates: `[P]` for all
    /// images, or `[N, P]` with a row per image.
    fn apply(&self, t: &mut Tape, x: Value, a: Value, key: Value) -> Value;

    /// Raw coordinates in plain units, angles reduced to one period.
    fn setting(&self, a: &[f32]) -> Setting;

    /// Smallest and largest raw coordinates; infinite if unbounded.
    fn bounds(&self) -> [Vec<f32>; 2];

    /// Range of the raw coordinates from which random baselines draw uniformly; finite.
    fn prior(&self) -> [Vec<f32>; 2];

    /// Adam's learning rate for each raw coordinate.
    fn rates(&self) -> Vec<f64>;

    /// Raw coordinates that runs start from.
    fn starts(&self) -> Vec<Vec<f32>>;

    /// Whether gradients pass through it to the images. If not, it can only be the first part of a
    /// [composition](Composed).
    fn passes_gradients(&self) -> bool {
        true
    }
}

/// Random streams within a step; each draw of an augmentation has its own.
mod stream {
    pub const ANGLE: u32 = 1;
    pub const CENTRE: u32 = 2;
    pub const SOURCE: u32 = 3;
    pub const SPREAD: u32 = 4;
    /// First stream of the keys of a composition's parts.
    pub const PARTS: u32 = 5;
    pub const COLOUR: u32 = 0x100;
}

fn named<const N: usize>(values: [(&str, f64); N]) -> Setting {
    values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Both ends of a range as logarithms.
fn logarithms(range: [f32; 2]) -> [f32; 2] {
    range.map(f32::ln)
}

/// The ends of each coordinate's range as the two vectors of [`Augmentation::bounds`].
fn ends(ranges: &[[f32; 2]]) -> [Vec<f32>; 2] {
    [0, 1].map(|end| ranges.iter().map(|range| range[end]).collect())
}

const UNBOUNDED: [f32; 2] = [f32::NEG_INFINITY, f32::INFINITY];

/// The `count` raw coordinates from `first` on, as rows `[1, count]` or `[N, count]`; `a` is `[P]` or `[N, P]`.
fn coordinates(t: &mut Tape, a: Value, first: usize, count: usize) -> Value {
    let rows = match t.shape(a)[..] {
        [parameters] => t.reshape(a, [1, parameters]),
        _ => a,
    };
    t.slice(rows, 1, first, count)
}

/// Rotation about the image's centre, `a` = \[angle\] or \[angle, log spread\]. The angle of each image is normally
/// distributed around `angle`, which smooths the loss: without a spread, the angle stops moving once the detector is
/// certain.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// Standard deviation of the images' angles, in radians; the initial one if it is tuned.
    pub spread: f32,
    /// Whether the spread is tuned too.
    pub tunes_spread: bool,
}

impl Default for Rotation {
    fn default() -> Self {
        Rotation { spread: 12f32.to_radians(), tunes_spread: false }
    }
}

impl Rotation {
    /// Smallest and largest tuned spread: 1° and 60°, in radians.
    const SPREADS: [f32; 2] = [PI as f32 / 180.0, PI as f32 / 3.0];

    /// The entry for the angle, and that for the spread if it is tuned.
    fn each<T>(&self, angle: T, spread: T) -> Vec<T> {
        if self.tunes_spread { vec![angle, spread] } else { vec![angle] }
    }
}

impl Augmentation for Rotation {
    fn name(&self) -> &str {
        if self.tunes_spread { "rotation-spread" } else { "rotation" }
    }

    fn apply(&self, t: &mut Tape, x: Value, a: Value, key: Value) -> Value {
        let images = t.shape(x)[0];
        let noise = t.normal(key, stream::ANGLE, [images, 1]);
        let noise = if self.tunes_spread {
            let log_spread = coordinates(t, a, 1, 1);
            let spread = t.unary(Unary::Exp, log_spread);
            t.mul(noise, spread)
        } else {
            t.scale(noise, self.spread)
        };
        let angle = coordinates(t, a, 0, 1);
        let angles = t.add(noise, angle);
        t.rotate(x, angles)
    }

    fn setting(&self, a: &[f32]) -> Setting {
        let mut setting = named([("angle_degrees", f64::from(a[0]).rem_euclid(TAU).to_degrees())]);
        if self.tunes_spread {
            setting.insert("spread_degrees".to_owned(), f64::from(a[1]).exp().to_degrees());
        }
        setting
    }

    fn bounds(&self) -> [Vec<f32>; 2] {
        ends(&self.each(UNBOUNDED, logarithms(Self::SPREADS)))
    }

    fn prior(&self) -> [Vec<f32>; 2] {
        ends(&self.each([0.0, TAU as f32], logarithms(Self::SPREADS)))
    }

    fn rates(&self) -> Vec<f64> {
        self.each(4f64.to_radians(), 0.05)
    }

    fn starts(&self) -> Vec<Vec<f32>> {
        [60f32, 130.0, 230.0, 300.0].map(|degrees| self.each(degrees.to_radians(), self.spread.ln())).to_vec()
    }
}

/// Standard deviations of the images' log area, log aspect and angle around those of `a`. As for [`Rotation`], this
/// smooths the loss: from any initial angle, tuning then finds that of the anomalies.
const PATCH_SPREAD: [f32; PATCH] = [0.3, 0.2, 0.2];

/// Coordinates of a patch's form: log area, log aspect, angle.
const PATCH: usize = 3;

/// Ranges from which random baselines draw area, aspect and angle.
const PATCH_PRIOR: [[f32; 2]; PATCH] = [[0.01, 0.3], [1.0 / 3.0, 3.0], [0.0, PI as f32]];

/// An augmentation that changes a patch at a random place, `a` = \[log area, log aspect, angle\]. The patch varies
/// slightly between images.
pub trait Patched: fmt::Debug + Send + Sync {
    /// As [`Augmentation::name`].
    fn name(&self) -> &'static str;

    /// Changes images `x` `[N, C, H, W]` inside the patch with map `matrix` `[1, 4]` or `[N, 4]` at `centre` `[N, 2]`.
    /// Further random numbers are drawn under `key`.
    fn change(&self, t: &mut Tape, x: Value, matrix: Value, centre: Value, key: Value) -> Value;

    /// As [`Augmentation::passes_gradients`].
    fn passes_gradients(&self) -> bool {
        true
    }
}

/// A soft elliptical patch subtracted.
#[derive(Clone, Debug, Default)]
pub struct CutDiff;

/// A soft box filled with black.
#[derive(Clone, Debug, Default)]
pub struct CutOut;

/// A soft box filled with its mean colour.
#[derive(Clone, Debug, Default)]
pub struct CutAvg;

/// A soft box filled with the surroundings of another random place of the same image, not rotated.
#[derive(Clone, Debug, Default)]
pub struct CutPaste;

/// Map `[1, 4]` from pixel offsets to units of a patch's sides, from its `area` (share of the image), `aspect` and
/// `angle` (radians), each `[1, 1]`; or N maps from N of each.
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
    // [cos, sin] along x and [−sin, cos] along y, each divided by its side.
    let rows =
        [([1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], per_x), ([0.0, 0.0, 0.0, 1.0], [0.0, 0.0, -1.0, 0.0], per_y)];
    let [along_x, along_y] = rows.map(|(of_cos, of_sin, per_pixel)| {
        let (of_cos, of_sin) = (t.placed(cos, of_cos), t.placed(sin, of_sin));
        let direction = t.add(of_cos, of_sin);
        t.mul(direction, per_pixel)
    });
    t.add(along_x, along_y)
}

/// `x` minus the mask of a patch with map `matrix` `[1, 4]` or `[N, 4]` at `centre` `[N, 2]`, clamped to \[0, 1\].
pub fn cutdiff(t: &mut Tape, x: Value, matrix: Value, centre: Value) -> Value {
    let [images, _, height, width] = t.shape(x).images().expect("a batch of images");
    let matrices = t.broadcast(matrix, &[images, 4].into());
    let mask = t.cutdiff_mask(matrices, centre, [height, width]);
    let difference = t.sub(x, mask);
    t.unary(Unary::Clamp { low: 0.0, high: 1.0 }, difference)
}

/// Soft boxes `[N, 1, H, W]` with map `matrix` `[1, 4]` or `[N, 4]` at `centre` `[N, 2]`, for images `x`.
fn boxes(t: &mut Tape, x: Value, matrix: Value, centre: Value) -> Value {
    let [images, _, height, width] = t.shape(x).images().expect("a batch of images");
    let matrices = t.broadcast(matrix, &[images, 4].into());
    t.box_mask(matrices, centre, [height, width])
}

/// `(1 − mask) · x + mask · filling`.
fn blend(t: &mut Tape, x: Value, mask: Value, filling: Value) -> Value {
    let change = t.sub(filling, x);
    let masked = t.mul(change, mask);
    t.add(x, masked)
}

/// `x` black inside a soft box with map `matrix` `[1, 4]` or `[N, 4]` at `centre` `[N, 2]`.
pub fn cutout(t: &mut Tape, x: Value, matrix: Value, centre: Value) -> Value {
    let mask = boxes(t, x, matrix, centre);
    let kept = t.affine(mask, -1.0, 1.0);
    t.mul(x, kept)
}

/// `x` with a soft box, with map `matrix` `[1, 4]` or `[N, 4]` at `centre` `[N, 2]`, filled with its mean in each
/// channel.
pub fn cutavg(t: &mut Tape, x: Value, matrix: Value, centre: Value) -> Value {
    let mask = boxes(t, x, matrix, centre);
    let masked = t.mul(x, mask);
    let [total, weight] = [masked, mask].map(|value| {
        let [images, channels, ..] = t.shape(value).images().expect("a batch of images");
        let sum = t.sum(value, &[2, 3]);
        t.reshape(sum, [images, channels, 1, 1])
    });
    // A box without pixels has no mean.
    let weight = t.offset(weight, 1e-6);
    let mean = t.div(total, weight);
    blend(t, x, mask, mean)
}

/// `x` with the surroundings of `source` `[N, 2]` pasted into a soft box with map `matrix` `[1, 4]` or `[N, 4]` at
/// `centre` `[N, 2]`.
pub fn cutpaste(t: &mut Tape, x: Value, matrix: Value, centre: Value, source: Value) -> Value {
    let mask = boxes(t, x, matrix, centre);
    let offset = t.sub(source, centre);
    let copy = t.translate(x, offset);
    blend(t, x, mask, copy)
}

/// Places `[N, 2]` uniform over the image, as (x, y) in pixels.
fn random_places(t: &mut Tape, x: Value, key: Value, stream: u32) -> Value {
    let [images, _, height, width] = t.shape(x).images().expect("a batch of images");
    let unit = t.uniform(key, stream, [images, 2]);
    let extent = t.constant(Tensor::new([1, 2], vec![width as f32, height as f32]));
    t.mul(unit, extent)
}

/// The map `[N, 4]` and centre `[N, 2]` of a random patch for each image of `x`; the first coordinates of `a` are log area, log aspect
/// and angle.
fn random_patch(t: &mut Tape, x: Value, a: Value, key: Value) -> [Value; 2] {
    let [images, _, height, width] = t.shape(x).images().expect("a batch of images");
    let spread = t.normal(key, stream::SPREAD, [images, PATCH]);
    let scale = t.constant(Tensor::new([1, PATCH], PATCH_SPREAD.to_vec()));
    let spread = t.mul(spread, scale);
    let middle = coordinates(t, a, 0, PATCH);
    let a = t.add(middle, spread);
    let [log_area, log_aspect, angle] = [0, 1, 2].map(|index| coordinates(t, a, index, 1));
    let [area, aspect] = [log_area, log_aspect].map(|log| t.unary(Unary::Exp, log));
    let matrix = patch_matrix(t, [area, aspect, angle], [height, width]);
    [matrix, random_places(t, x, key, stream::CENTRE)]
}

/// Log area, log aspect and angle in plain units.
fn patch_setting(a: &[f32]) -> Setting {
    let [log_area, log_aspect, angle] = [a[0], a[1], a[2]].map(f64::from);
    // A tall patch is a wide one rotated by 90°; report the angle of the longer side.
    let quarter = if log_aspect < 0.0 { PI / 2.0 } else { 0.0 };
    named([
        ("area", log_area.exp()),
        ("aspect", log_aspect.abs().exp()),
        ("angle_degrees", (angle + quarter).rem_euclid(PI).to_degrees()),
    ])
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

    /// The pasted copy passes no gradients.
    fn passes_gradients(&self) -> bool {
        false
    }
}

impl<P: Patched> Augmentation for P {
    fn name(&self) -> &str {
        Patched::name(self)
    }

    fn apply(&self, t: &mut Tape, x: Value, a: Value, key: Value) -> Value {
        let [matrix, centre] = random_patch(t, x, a, key);
        self.change(t, x, matrix, centre, key)
    }

    fn setting(&self, a: &[f32]) -> Setting {
        patch_setting(a)
    }

    fn bounds(&self) -> [Vec<f32>; 2] {
        ends(&[logarithms([1e-4, 0.6]), logarithms([1.0 / 6.0, 6.0]), UNBOUNDED])
    }

    fn prior(&self) -> [Vec<f32>; 2] {
        let [area, aspect, angle] = PATCH_PRIOR;
        ends(&[logarithms(area), logarithms(aspect), angle])
    }

    fn rates(&self) -> Vec<f64> {
        vec![0.06; 3]
    }

    fn starts(&self) -> Vec<Vec<f32>> {
        let quarter = std::f32::consts::FRAC_PI_4;
        [(0.05f32, 0.5), (0.05, 0.5 + 2.0 * quarter), (0.2, 0.5 + quarter), (0.2, 0.5 + 3.0 * quarter)]
            .map(|(area, angle)| vec![area.ln(), 3f32.ln(), angle])
            .to_vec()
    }

    fn passes_gradients(&self) -> bool {
        Patched::passes_gradients(self)
    }
}

/// Several augmentations applied one after another and tuned together; `a` concatenates their coordinates. Each part
/// draws under its own key, so that two patches lie in different places.
#[derive(Debug)]
pub struct Composed {
    name: String,
    parts: Vec<Box<dyn Augmentation>>,
}

impl Composed {
    /// The composition of `parts`, in the order of application.
    ///
    /// # Errors
    /// When there is no part, or a part other than the first passes no gradients: the parts before it could not be
    /// tuned.
    pub fn new(parts: Vec<Box<dyn Augmentation>>) -> Result<Self, NameError> {
        let names: Vec<&str> = parts.iter().map(|part| part.name()).collect();
        let name = names.join("+");
        if parts.is_empty() {
            return Err(NameError::Unknown(name));
        }
        match parts.iter().skip(1).find(|part| !part.passes_gradients()) {
            Some(part) => Err(NameError::NotFirst { part: part.name().to_owned(), name }),
            None => Ok(Composed { name, parts }),
        }
    }

    /// Splits a slice with one entry per coordinate into [(part, its entries)].
    fn shares<'a, T>(&'a self, mut whole: &'a [T]) -> impl Iterator<Item = (&'a dyn Augmentation, &'a [T])> {
        self.parts.iter().map(move |part| {
            let (share, rest) = whole.split_at(part.rates().len());
            whole = rest;
            (part.as_ref(), share)
        })
    }

    fn joined(&self, ends: impl Fn(&dyn Augmentation) -> [Vec<f32>; 2]) -> [Vec<f32>; 2] {
        let of_parts: Vec<[Vec<f32>; 2]> = self.parts.iter().map(|part| ends(part.as_ref())).collect();
        [0, 1].map(|end| of_parts.iter().flat_map(|ends| ends[end].clone()).collect())
    }
}

impl Augmentation for Composed {
    fn name(&self) -> &str {
        &self.name
    }

    fn apply(&self, t: &mut Tape, x: Value, a: Value, key: Value) -> Value {
        let (mut augmented, mut first) = (x, 0);
        for (stream, part) in (stream::PARTS..).zip(&self.parts) {
            let count = part.rates().len();
            let a = coordinates(t, a, first, count);
            let key = t.derived_key(key, stream);
            augmented = part.apply(t, augmented, a, key);
            first += count;
        }
        augmented
    }

    /// Names are prefixed by their part, with a number if it is not the first of its kind: `cutout.area`,
    /// `cutout-2.area`.
    fn setting(&self, a: &[f32]) -> Setting {
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        let mut setting = Setting::new();
        for (part, a) in self.shares(a) {
            let count = seen.entry(part.name()).or_default();
            *count += 1;
            let label = if *count == 1 { part.name().to_owned() } else { format!("{}-{count}", part.name()) };
            setting.extend(part.setting(a).into_iter().map(|(name, value)| (format!("{label}.{name}"), value)));
        }
        setting
    }

    fn bounds(&self) -> [Vec<f32>; 2] {
        self.joined(|part| part.bounds())
    }

    fn prior(&self) -> [Vec<f32>; 2] {
        self.joined(|part| part.prior())
    }

    fn rates(&self) -> Vec<f64> {
        self.parts.iter().flat_map(|part| part.rates()).collect()
    }

    /// As many as the part with the most; the other parts repeat theirs.
    fn starts(&self) -> Vec<Vec<f32>> {
        let of_parts: Vec<Vec<Vec<f32>>> = self.parts.iter().map(|part| part.starts()).collect();
        let most = of_parts.iter().map(Vec::len).max().unwrap_or_default();
        (0..most).map(|run| of_parts.iter().flat_map(|starts| starts[run % starts.len()].clone()).collect()).collect()
    }

    fn passes_gradients(&self) -> bool {
        self.parts.iter().all(|part| part.passes_gradients())
    }
}

/// The name and constructor of an augmentation of images with so many channels.
type Named = (&'static str, fn(usize) -> Box<dyn Augmentation>);

/// The single augmentations that [`by_name`] knows; a new one is a row here.
const KINDS: &[Named] = &[
    ("rotation", |_| Box::new(Rotation::default())),
    ("rotation-spread", |_| Box::new(Rotation { tunes_spread: true, ..Rotation::default() })),
    ("cutblend", |channels| Box::new(CutBlend { channels })),
    ("cutdiff", |_| Box::new(CutDiff)),
    ("cutout", |_| Box::new(CutOut)),
    ("cutavg", |_| Box::new(CutAvg)),
    ("cutpaste", |_| Box::new(CutPaste)),
];

/// The augmentations that compete where the kind of the anomalies is unknown.
pub const COMPETING: [&str; 3] = ["cutblend", "cutpaste", "rotation"];

/// The names of the single augmentations.
pub fn names() -> impl Iterator<Item = &'static str> {
    KINDS.iter().map(|(name, _)| *name)
}

/// A name that is not an augmentation.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum NameError {
    #[error("there is no augmentation `{0}`; there are {list}, and several of them joined by +", list = names().collect::<Vec<_>>().join(", "))]
    Unknown(String),
    #[error(
        "`{name}`: no gradient passes through {part}, so it has to be the first part, or what precedes it stays untuned"
    )]
    NotFirst { part: String, name: String },
}

/// One of the [`names`], or several joined by `+`, applied from left to right, for images with so many channels.
///
/// # Errors
/// When a name is unknown, or a part other than the first passes no gradients.
pub fn by_name(name: &str, channels: usize) -> Result<Box<dyn Augmentation>, NameError> {
    if name.contains('+') {
        let parts = name.split('+').map(|part| by_name(part, channels)).collect::<Result<_, _>>()?;
        return Ok(Box::new(Composed::new(parts)?));
    }
    let kind = KINDS.iter().find(|(known, _)| *known == name);
    kind.map(|(_, make)| make(channels)).ok_or_else(|| NameError::Unknown(name.to_owned()))
}

/// `a` clamped to the augmentation's bounds.
pub fn project(t: &mut Tape, augmentation: &dyn Augmentation, a: Value) -> Value {
    let [low, high] = augmentation.bounds().map(|bound| {
        let finite = bound.iter().map(|bound| bound.clamp(f32::MIN, f32::MAX)).collect();
        Tensor::new([bound.len()], finite)
    });
    let [low, high] = [t.constant(low), t.constant(high)];
    let raised = t.binary(Binary::Maximum, a, low);
    t.binary(Binary::Minimum, raised, high)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ops::random;
    use crate::engine::reference::Reference;
    use std::collections::HashMap;

    const IMAGES: [usize; 4] = [3, 1, 8, 9];

    fn noise() -> Vec<f64> {
        let mut stream = crate::engine::philox::Stream::new(5, 0);
        (0..IMAGES.iter().product()).map(|_| stream.uniform()).collect()
    }

    /// The augmented images, and ∂ (Σ x_aug²) / ∂a where gradients pass.
    fn augmented(augmentation: &dyn Augmentation, a_shape: &[usize], a: &[f32]) -> (Vec<f64>, Vec<f64>) {
        let mut t = Tape::new();
        let (x, key) = (t.feed("x", IMAGES), t.feed("key", [6]));
        let a_value = t.feed("a", a_shape);
        let y = augmentation.apply(&mut t, x, a_value, key);
        let squares = t.mul(y, y);
        let sum = t.total(squares);
        let gradient = t.grad(sum, &[a_value]).unwrap()[0];
        let widened = |values: &[f32]| values.iter().map(|&v| f64::from(v)).collect::<Vec<f64>>();
        let sources = HashMap::from([
            ("x".to_owned(), noise()),
            ("key".to_owned(), widened(random::key(1, 2).data())),
            ("a".to_owned(), widened(a)),
        ]);
        let mut reference = Reference::new(&t, &sources);
        (reference.eval(y).unwrap().to_vec(), reference.eval(gradient).unwrap().to_vec())
    }

    const COMPOSED: [&str; 4] = ["cutpaste+rotation-spread", "rotation+cutdiff", "cutout+cutout", "cutavg+cutdiff"];

    fn all() -> Vec<Box<dyn Augmentation>> {
        names().chain(COMPOSED).map(|name| by_name(name, 1).unwrap()).collect()
    }

    #[test]
    fn names_parse_and_unknown_ones_are_refused() {
        for (augmentation, name) in all().iter().zip(names().chain(COMPOSED)) {
            assert_eq!(augmentation.name(), name);
        }
        for name in ["", "twist", "rotation+", "rotation+twist"] {
            let message = by_name(name, 1).unwrap_err().to_string();
            assert!(message.contains("rotation-spread, cutblend"), "{message}");
        }
        let late = by_name("rotation+cutpaste", 1).unwrap_err();
        assert!(matches!(&late, NameError::NotFirst { part, .. } if part == "cutpaste"), "{late}");
        assert_eq!(Composed::new(Vec::new()).unwrap_err(), NameError::Unknown(String::new()));
    }

    #[test]
    fn bounds_prior_rates_and_starts_agree() {
        for augmentation in all() {
            let [low, high] = augmentation.bounds();
            let [from, to] = augmentation.prior();
            let count = augmentation.rates().len();
            let within = |a: &[f32]| a.iter().zip(low.iter().zip(&high)).all(|(a, (low, high))| low <= a && a <= high);
            assert!([&low, &high, &from, &to].iter().all(|ends| ends.len() == count), "{augmentation:?}");
            assert!(from.iter().zip(&to).all(|(from, to)| from < to && from.is_finite() && to.is_finite()));
            assert!(within(&from) && within(&to), "{augmentation:?}");
            assert!(augmentation.starts().iter().all(|start| start.len() == count && within(start)));
            assert_eq!(augmentation.setting(&from).len(), count, "{augmentation:?}: duplicate names");
        }
    }

    #[test]
    fn images_with_their_own_hyper_parameters() {
        for augmentation in all() {
            let starts = augmentation.starts();
            let rows: Vec<&Vec<f32>> = (0..IMAGES[0]).map(|n| &starts[n % starts.len()]).collect();
            let count = rows[0].len();
            let each: Vec<f32> = rows.iter().flat_map(|row| row.to_vec()).collect();
            let (together, gradients) = augmented(augmentation.as_ref(), &[IMAGES[0], count], &each);
            let image = together.len() / IMAGES[0];
            for (n, row) in rows.iter().enumerate() {
                let (alone, _) = augmented(augmentation.as_ref(), &[count], row);
                assert_eq!(alone[n * image..][..image], together[n * image..][..image], "{augmentation:?}");
                assert!(gradients[n * count..][..count].iter().all(|g| g.abs() > 0.0), "{augmentation:?}");
            }
        }
    }

    #[test]
    fn gradients_of_every_coordinate_equal_differences() {
        for augmentation in all() {
            let a = &augmentation.starts()[1];
            let (_, gradient) = augmented(augmentation.as_ref(), &[a.len()], a);
            for (index, g) in gradient.iter().enumerate() {
                let sum_at = |step: f32| {
                    let mut a = a.clone();
                    a[index] += step;
                    let (y, _) = augmented(augmentation.as_ref(), &[a.len()], &a);
                    (y.iter().map(|y| y * y).sum::<f64>(), f64::from(a[index]))
                };
                let ((up, a_up), (down, a_down)) = (sum_at(1e-4), sum_at(-1e-4));
                let difference = (up - down) / (a_up - a_down);
                assert!((g - difference).abs() <= 1e-2 * difference.abs() + 1e-4, "{augmentation:?} {g} {difference}");
            }
        }
    }

    #[test]
    fn equal_parts_lie_in_different_places() {
        let start = &CutOut.starts()[0];
        let (one, _) = augmented(&CutOut, &[3], start);
        let (two, _) = augmented(by_name("cutout+cutout", 1).unwrap().as_ref(), &[6], &[&start[..], start].concat());
        let darkened = |y: &[f64]| y.iter().zip(noise()).filter(|(y, x)| **y < 0.5 * x).count();
        assert!(darkened(&two) as f64 > 1.3 * darkened(&one) as f64, "{} {}", darkened(&two), darkened(&one));
    }
}
