//! Soft masks of a rotated patch, and their backward rules: CutDiff's ellipse, the box of CutOut, CutAvg and CutPaste,
//! and the disc of CutBlend.
//!
//! In patch coordinates u = m₀·dx + m₁·dy, v = m₂·dx + m₃·dy, where (dx, dy) is a pixel's offset from the patch's centre
//! and m = matrix[n, :], the ellipse is exp(−(u² + v²) / (2 · SOFTNESS)), the box is edge(u) · edge(v) with
//! edge(t) = σ((1 − 2·|t|) / SOFTNESS), and the disc is σ((1 − 4·(u² + v²)) / softness\[n\]): ½ where the ellipse with the
//! patch's sides as axes ends.

mod lower;

use crate::engine::bounds::{Approx, sum_bound};
use crate::engine::case::ShapeClass::{Folded, Large, Ones, Prime, Small, Tiled, Training, Uneven};
use crate::engine::case::{Fill, Parameters, Parts, ShapeClass};
use crate::engine::ops::{Family, no_role};
use crate::engine::tape::{Application, Arithmetic, Array, Cotangent, Primitive, Tape, Value};
use crate::engine::tensor::Shape;

/// Variance of the ellipse's Gaussian and width of the box's edge, in units of the patch's sides.
pub const SOFTNESS: f64 = 0.1;

/// Shape of a mask in patch coordinates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Profile {
    Ellipse,
    Box,
    /// With a softness of its own for each image.
    Disc,
}

/// A mask in one place, and its slopes: ∂mask/∂u = −mask · p / softness, ∂mask/∂v = −mask · q / softness and
/// ∂mask/∂softness = −mask · r / softness. Only a disc has r; the softness of the others is constant.
struct Point {
    mask: Approx,
    slopes: [Approx; 2],
    by_softness: Option<Approx>,
}

impl Profile {
    /// The mask at (u, v).
    fn at(self, [u, v]: [Approx; 2], softness: Approx) -> Point {
        let [one, two, four, eight] = [1.0, 2.0, 4.0, 8.0].map(Approx::exact);
        match self {
            Profile::Ellipse => {
                let mask = (-(u * u + v * v) / Approx::rounded(2.0 * SOFTNESS)).exp();
                Point { mask, slopes: [u, v], by_softness: None }
            }
            Profile::Box => {
                let depth = |t: Approx| (one - two * t.abs()) / softness;
                let [x, y] = [depth(u), depth(v)];
                let slopes = [two * sign(u) * sigmoid(-x), two * sign(v) * sigmoid(-y)];
                Point { mask: sigmoid(x) * sigmoid(y), slopes, by_softness: None }
            }
            Profile::Disc => {
                let depth = (one - four * (u * u + v * v)) / softness;
                let outside = sigmoid(-depth);
                let slopes = [u, v].map(|t| eight * t * outside);
                Point { mask: sigmoid(depth), slopes, by_softness: Some(depth * outside) }
            }
        }
    }

    /// The softness of image `n`; `inputs` are those of the mask.
    fn softness(self, inputs: &[Array], n: usize) -> Approx {
        match self {
            Profile::Disc => Approx::exact(inputs[2].data[n]),
            _ => Approx::rounded(SOFTNESS),
        }
    }

    /// Number of inputs of the mask, and of the numbers that shape a patch in the cotangent's rows: the matrix, and a softness.
    fn counts(self) -> [usize; 2] {
        if self == Profile::Disc { [3, 5] } else { [2, 4] }
    }
}

/// The overflow-free form of the kernels.
fn sigmoid(x: Approx) -> Approx {
    let one = Approx::exact(1.0);
    let e = (-x.abs()).exp();
    if x.value >= 0.0 { one / (one + e) } else { e / (one + e) }
}

/// The derivative of |x|, 0 at 0. Near 0 rounding may give either sign.
fn sign(x: Approx) -> Approx {
    let value = if x.value == 0.0 { 0.0 } else { x.value.signum() };
    let is_sure = x.error == 0.0 || x.value.abs() > x.error;
    Approx { value, error: if is_sure { 0.0 } else { 1.0 + value.abs() } }
}

/// Masks `[N, 1, H, W]`. Inputs: matrix `[N, 4]`, centre `[N, 2]` as (x, y) in pixels, and for a disc softness `[N, 1]`.
#[derive(Clone, Debug)]
pub struct Mask {
    pub profile: Profile,
    pub size: [usize; 2],
}

/// The cotangents of the matrix and of a disc's softness, as sums over image rows: `[N, 4, H]`, for a disc `[N, 5, H]`. Inputs: those
/// of the mask, and the cotangent of the mask.
#[derive(Clone, Debug)]
pub struct MaskVjp {
    pub profile: Profile,
}

/// One pixel's offset from the centre, and the mask there.
struct Pixel {
    offset: [Approx; 2],
    point: Point,
}

impl Pixel {
    /// Pixel (i, j) of image `n`; `inputs` are those of the mask.
    fn new(profile: Profile, inputs: &[Array], [n, i, j]: [usize; 3]) -> Self {
        let (matrix, centre) = (&inputs[0].data[4 * n..][..4], &inputs[1].data[2 * n..][..2]);
        let offset = [(j, centre[0]), (i, centre[1])];
        let [dx, dy] = offset.map(|(place, centre)| Approx::exact(place as f64) - Approx::exact(centre));
        let coordinate = |m: &[f64]| Approx::exact(m[0]) * dx + Approx::exact(m[1]) * dy;
        let coordinates = [coordinate(&matrix[..2]), coordinate(&matrix[2..])];
        Pixel { offset: [dx, dy], point: profile.at(coordinates, profile.softness(inputs, n)) }
    }
}

impl Primitive for Mask {
    fn name(&self) -> &'static str {
        match self.profile {
            Profile::Ellipse => "cutdiff/mask",
            Profile::Box => "softbox/mask",
            Profile::Disc => "softdisc/mask",
        }
    }

    fn parameters(&self, inputs: &[&Shape]) -> Option<String> {
        Some(format!("n={},h={},w={}", inputs[0].first()?, self.size[0], self.size[1]))
    }

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape, String> {
        let [n, four] = inputs[0].matrix()?;
        let is_soft = |shape: &&Shape| shape.matrix() == Ok([n, 1]);
        match four == 4 && inputs[1].matrix()? == [n, 2] && inputs[2..].iter().all(is_soft) {
            true => Ok([n, 1, self.size[0], self.size[1]].into()),
            false => {
                Err(format!("matrices [N, 4], centres [N, 2] and a disc's softness [N, 1] expected, got {inputs:?}"))
            }
        }
    }

    fn vjp(&self, tape: &mut Tape, at: Application) -> Vec<Cotangent> {
        let rows = tape.push(MaskVjp { profile: self.profile }, &[at.inputs, &[at.cotangent]].concat());
        let [n, shaping, _] = tape.shape(rows)[..] else { unreachable!("the cotangents of each row") };
        let sums = tape.sum(rows, &[2]);
        let sums = tape.reshape(sums, [n, shaping]);
        let matrix = Cotangent::Of(tape.slice(sums, 1, 0, 4));
        let softness = (shaping > 4).then(|| Cotangent::Of(tape.slice(sums, 1, 4, 1)));
        [matrix, Cotangent::Missing].into_iter().chain(softness).collect()
    }

    fn eval(&self, inputs: &[Array], output: &Shape) -> Vec<f64> {
        self.pixels(inputs, output).map(|pixel| pixel.point.mask.value).collect()
    }

    fn bound(&self, inputs: &[Array], output: &Shape, _: Arithmetic) -> Vec<f64> {
        self.pixels(inputs, output).map(|pixel| pixel.point.mask.error).collect()
    }
}

impl Mask {
    fn pixels<'a>(&self, inputs: &'a [Array], output: &Shape) -> impl Iterator<Item = Pixel> + 'a {
        let (profile, [h, w]) = (self.profile, self.size);
        (0..output.count()).map(move |index| Pixel::new(profile, inputs, [index / (h * w), index / w % h, index % w]))
    }
}

impl MaskVjp {
    /// Calls `visit(output index, term of its sum)` for every pixel and component.
    fn for_each_term(&self, inputs: &[Array], mut visit: impl FnMut(usize, Approx)) {
        let cotangent = inputs.last().expect("the cotangent");
        let [_, _, h, w] = cotangent.shape.images().expect("checked when recorded");
        let [_, shaping] = self.profile.counts();
        for (index, &ct) in cotangent.data.iter().enumerate() {
            let (n, i) = (index / (h * w), index / w % h);
            let Pixel { offset: [dx, dy], point } = Pixel::new(self.profile, inputs, [n, i, index % w]);
            let Point { mask, slopes: [p, q], by_softness } = point;
            let weight = -(Approx::exact(ct) * mask / self.profile.softness(inputs, n));
            let factors = [p * dx, p * dy, q * dx, q * dy].into_iter().chain(by_softness);
            for (component, factor) in factors.enumerate() {
                visit((shaping * n + component) * h + i, weight * factor);
            }
        }
    }
}

impl Primitive for MaskVjp {
    fn name(&self) -> &'static str {
        match self.profile {
            Profile::Ellipse => "cutdiff/mask_vjp",
            Profile::Box => "softbox/mask_vjp",
            Profile::Disc => "softdisc/mask_vjp",
        }
    }

    fn parameters(&self, inputs: &[&Shape]) -> Option<String> {
        let [n, _, h, w] = inputs.last()?.images().ok()?;
        Some(format!("n={n},h={h},w={w}"))
    }

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape, String> {
        let (cotangent, of_mask) = inputs.split_last().expect("the cotangent");
        let [n, _, h, w] = cotangent.images()?;
        let mask = Mask { profile: self.profile, size: [h, w] }.shape(of_mask)?;
        match mask == **cotangent {
            true => Ok([n, self.profile.counts()[1], h].into()),
            false => Err(format!("the cotangent {cotangent:?} does not have the masks' shape {mask:?}")),
        }
    }

    fn vjp(&self, _: &mut Tape, at: Application) -> Vec<Cotangent> {
        vec![Cotangent::Missing; at.inputs.len()]
    }

    fn eval(&self, inputs: &[Array], output: &Shape) -> Vec<f64> {
        let mut rows = vec![0.0; output.count()];
        self.for_each_term(inputs, |at, term| rows[at] += term.value);
        rows
    }

    fn bound(&self, inputs: &[Array], output: &Shape, _: Arithmetic) -> Vec<f64> {
        let [_, _, _, w] = inputs.last().expect("the cotangent").shape.images().expect("checked when recorded");
        let (mut magnitude, mut error) = (vec![0.0; output.count()], vec![0.0; output.count()]);
        self.for_each_term(inputs, |at, term| {
            magnitude[at] += term.value.abs() + term.error;
            error[at] += term.error;
        });
        magnitude.iter().zip(error).map(|(&magnitude, error)| error + sum_bound(w, magnitude)).collect()
    }
}

impl Tape {
    /// CutDiff's masks `[N, 1, H, W]`, 1 at `centre` `[N, 2]` and falling off along the axes of `matrix` `[N, 4]`.
    ///
    /// # Panics
    /// When the shapes do not fit.
    pub fn cutdiff_mask(&mut self, matrix: Value, centre: Value, size: [usize; 2]) -> Value {
        self.push(Mask { profile: Profile::Ellipse, size }, &[matrix, centre])
    }

    /// Soft boxes `[N, 1, H, W]`: about 1 inside the rectangle at `centre` `[N, 2]` whose sides `matrix` `[N, 4]` maps
    /// to 1, about 0 outside.
    ///
    /// # Panics
    /// When the shapes do not fit.
    pub fn box_mask(&mut self, matrix: Value, centre: Value, size: [usize; 2]) -> Value {
        self.push(Mask { profile: Profile::Box, size }, &[matrix, centre])
    }

    /// Soft discs `[N, 1, H, W]`: about 1 inside the ellipse at `centre` `[N, 2]` whose axes `matrix` `[N, 4]` maps to 1, about 0
    /// outside; `softness` `[N, 1]` is positive.
    ///
    /// # Panics
    /// When the shapes do not fit.
    pub fn disc_mask(&mut self, matrix: Value, centre: Value, softness: Value, size: [usize; 2]) -> Value {
        self.push(Mask { profile: Profile::Disc, size }, &[matrix, centre, softness])
    }
}

/// The family of the ellipse and its cases.
pub(super) const CUTDIFF: Family = Family {
    name: "cutdiff",
    describe: |role, p| describe(Profile::Ellipse, role, p),
    cases: || cases("cutdiff"),
    shaders: lower::CUTDIFF,
    lowering: lower::lowering,
};

/// The family of the box.
pub(super) const SOFTBOX: Family = Family {
    name: "softbox",
    describe: |role, p| describe(Profile::Box, role, p),
    cases: || cases("softbox"),
    shaders: lower::SOFTBOX,
    lowering: lower::lowering,
};

/// The family of the disc.
pub(super) const SOFTDISC: Family = Family {
    name: "softdisc",
    describe: |role, p| describe(Profile::Disc, role, p),
    cases: || cases("softdisc"),
    shaders: lower::SOFTDISC,
    lowering: lower::lowering,
};

fn cases(family: &str) -> Vec<(ShapeClass, String)> {
    CASES.iter().map(|(class, name)| (*class, format!("{family}/{name}"))).collect()
}

fn describe(profile: Profile, role: &str, p: &mut Parameters) -> Result<Parts, String> {
    let [n, h, w] = p.numbers(["n", "h", "w"])?;
    let parts = match role {
        "mask" => {
            Parts::new(Mask { profile, size: [h, w] }).without_rule(&[1]).nan_of(&[0, 1, 2][..profile.counts()[0]])
        }
        "mask_vjp" => {
            let inputs = &[0, 1, 2, 3][..=profile.counts()[0]];
            Parts::new(MaskVjp { profile }).without_rule(inputs).nan_of(inputs)
        }
        _ => return Err(no_role("a patch", role)),
    };
    let parts = parts.input([n, 4], Fill::PatchMatrix([h, w])).input([n, 2], Fill::Centre([h, w]));
    let parts = if profile == Profile::Disc { parts.input([n, 1], Fill::Range(0.1, 2.0)) } else { parts };
    Ok(if role == "mask_vjp" { parts.input([n, 1, h, w], Fill::ANY) } else { parts })
}

/// The cases of each profile, without the family name.
const CASES: &[(ShapeClass, &str)] = &[
    (Tiled, "mask(n=2,h=71,w=67)"),
    (Tiled, "mask_vjp(n=2,h=5,w=131)"),
    (Training, "mask_vjp(n=96,h=9,w=11)"),
    (Prime, "mask(n=3,h=7,w=11)"),
    (Small, "mask(n=1,h=3,w=2)"),
    (Ones, "mask(n=1,h=1,w=1)"),
    (Uneven, "mask(n=2,h=1,w=13)"),
    (Tiled, "mask(n=5,h=19,w=23)"),
    (Folded, "mask(n=65600,h=1,w=2)"),
    (Training, "mask(n=48,h=28,w=28)"),
    (Prime, "mask_vjp(n=3,h=7,w=11)"),
    (Small, "mask_vjp(n=1,h=3,w=2)"),
    (Ones, "mask_vjp(n=1,h=1,w=1)"),
    (Uneven, "mask_vjp(n=2,h=1,w=13)"),
    (Tiled, "mask_vjp(n=7,h=19,w=23)"),
    (Training, "mask_vjp(n=48,h=28,w=28)"),
    // More rows than 65535 workgroups of 64.
    (Large, "mask_vjp(n=65600,h=64,w=1)"),
];
