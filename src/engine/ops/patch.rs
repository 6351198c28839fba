//! Soft masks of a rotated patch, and their backward rules: CutDiff's ellipse and the box of CutOut, CutAvg and
//! CutPaste.
//!
//! In patch coordinates u = m₀·dx + m₁·dy, v = m₂·dx + m₃·dy, where (dx, dy) is a pixel's offset from the patch's centre
//! and m = matrix[n, :], the ellipse is exp(−(u² + v²) / (2 · SOFTNESS)), and the box is edge(u) · edge(v) with
//! edge(t) = σ((1 − 2·|t|) / SOFTNESS).

mod lower;

use crate::engine::bounds::{Approx, sum_bound};
use crate::engine::case::ShapeClass::{Folded, Ones, Prime, Small, Tiled, Training, Uneven};
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
}

impl Profile {
    /// The mask at (u, v), and p, q with ∂mask/∂u = −mask · p / SOFTNESS, ∂mask/∂v = −mask · q / SOFTNESS.
    fn at(self, [u, v]: [Approx; 2]) -> (Approx, [Approx; 2]) {
        let (one, two) = (Approx::exact(1.0), Approx::exact(2.0));
        match self {
            Profile::Ellipse => ((-(u * u + v * v) / Approx::rounded(2.0 * SOFTNESS)).exp(), [u, v]),
            Profile::Box => {
                let depth = |t: Approx| (one - two * t.abs()) / Approx::rounded(SOFTNESS);
                let [x, y] = [depth(u), depth(v)];
                (sigmoid(x) * sigmoid(y), [two * sign(u) * sigmoid(-x), two * sign(v) * sigmoid(-y)])
            }
        }
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
    Approx { value, error: if x.value.abs() <= x.error { 1.0 + value.abs() } else { 0.0 } }
}

/// Masks `[N, 1, H, W]`. Inputs: matrix `[N, 4]`, centre `[N, 2]` as (x, y) in pixels.
#[derive(Clone, Debug)]
pub struct Mask {
    pub profile: Profile,
    pub size: [usize; 2],
}

/// The cotangent of the matrix, as sums over image rows: `[N, 4, H]`. Inputs: matrix, centre, cotangent of the mask.
#[derive(Clone, Debug)]
pub struct MaskVjp {
    pub profile: Profile,
}

/// One pixel's offset from the centre, its mask, and the slopes p and q of [`Profile::at`].
struct Pixel {
    offset: [Approx; 2],
    mask: Approx,
    slopes: [Approx; 2],
}

impl Pixel {
    fn new(profile: Profile, matrix: &[f64], centre: &[f64], i: usize, j: usize) -> Self {
        let offset = [(j, centre[0]), (i, centre[1])];
        let [dx, dy] = offset.map(|(place, centre)| Approx::exact(place as f64) - Approx::exact(centre));
        let coordinate = |m: &[f64]| Approx::exact(m[0]) * dx + Approx::exact(m[1]) * dy;
        let (mask, slopes) = profile.at([coordinate(&matrix[..2]), coordinate(&matrix[2..])]);
        Pixel { offset: [dx, dy], mask, slopes }
    }
}

impl Primitive for Mask {
    fn name(&self) -> &'static str {
        match self.profile {
            Profile::Ellipse => "cutdiff/mask",
            Profile::Box => "softbox/mask",
        }
    }

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape, String> {
        let [n, four] = inputs[0].matrix()?;
        match four == 4 && inputs[1].matrix()? == [n, 2] {
            true => Ok([n, 1, self.size[0], self.size[1]].into()),
            false => Err(format!("matrices [N, 4] and centres [N, 2] expected, got {:?}, {:?}", inputs[0], inputs[1])),
        }
    }

    fn vjp(&self, tape: &mut Tape, at: Application) -> Vec<Cotangent> {
        let (matrix, centre) = (at.inputs[0], at.inputs[1]);
        let rows = tape.push(MaskVjp { profile: self.profile }, &[matrix, centre, at.cotangent]);
        let sum = tape.sum(rows, &[2]);
        vec![Cotangent::Of(tape.reshape(sum, tape.shape(matrix).clone())), Cotangent::Missing]
    }

    fn eval(&self, inputs: &[Array], output: &Shape) -> Vec<f64> {
        self.pixels(inputs, output).map(|pixel| pixel.mask.value).collect()
    }

    fn bound(&self, inputs: &[Array], output: &Shape, _: Arithmetic) -> Vec<f64> {
        self.pixels(inputs, output).map(|pixel| pixel.mask.error).collect()
    }
}

impl Mask {
    fn pixels<'a>(&self, inputs: &'a [Array], output: &Shape) -> impl Iterator<Item = Pixel> + 'a {
        let (profile, [h, w]) = (self.profile, self.size);
        (0..output.count()).map(move |index| {
            let n = index / (h * w);
            let (matrix, centre) = (&inputs[0].data[4 * n..][..4], &inputs[1].data[2 * n..][..2]);
            Pixel::new(profile, matrix, centre, index / w % h, index % w)
        })
    }
}

impl MaskVjp {
    /// Calls `visit(output index, term of its sum)` for every pixel and component.
    fn for_each_term(&self, inputs: &[Array], mut visit: impl FnMut(usize, Approx)) {
        let [_, _, h, w] = inputs[2].shape.images().expect("checked when recorded");
        let softness = Approx::rounded(SOFTNESS);
        for (index, &ct) in inputs[2].data.iter().enumerate() {
            let (n, i) = (index / (h * w), index / w % h);
            let (matrix, centre) = (&inputs[0].data[4 * n..][..4], &inputs[1].data[2 * n..][..2]);
            let Pixel { offset: [dx, dy], mask, slopes: [p, q] } =
                Pixel::new(self.profile, matrix, centre, i, index % w);
            let weight = -(Approx::exact(ct) * mask / softness);
            for (component, factor) in [p * dx, p * dy, q * dx, q * dy].into_iter().enumerate() {
                visit((4 * n + component) * h + i, weight * factor);
            }
        }
    }
}

impl Primitive for MaskVjp {
    fn name(&self) -> &'static str {
        match self.profile {
            Profile::Ellipse => "cutdiff/mask_vjp",
            Profile::Box => "softbox/mask_vjp",
        }
    }

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape, String> {
        let [n, _, h, w] = inputs[2].images()?;
        let mask = Mask { profile: self.profile, size: [h, w] }.shape(&inputs[..2])?;
        match mask == *inputs[2] {
            true => Ok([n, 4, h].into()),
            false => Err(format!("the cotangent {:?} does not have the masks' shape {mask:?}", inputs[2])),
        }
    }

    fn vjp(&self, _: &mut Tape, _: Application) -> Vec<Cotangent> {
        vec![Cotangent::Missing; 3]
    }

    fn eval(&self, inputs: &[Array], output: &Shape) -> Vec<f64> {
        let mut rows = vec![0.0; output.count()];
        self.for_each_term(inputs, |at, term| rows[at] += term.value);
        rows
    }

    fn bound(&self, inputs: &[Array], output: &Shape, _: Arithmetic) -> Vec<f64> {
        let [_, _, _, w] = inputs[2].shape.images().expect("checked when recorded");
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

fn cases(family: &str) -> Vec<(ShapeClass, String)> {
    CASES.iter().map(|(class, name)| (*class, format!("{family}/{name}"))).collect()
}

fn describe(profile: Profile, role: &str, p: &mut Parameters) -> Result<Parts, String> {
    let [n, h, w] = p.numbers(["n", "h", "w"])?;
    let parts = match role {
        "mask" => Parts::new(Mask { profile, size: [h, w] }).without_rule(&[1]),
        "mask_vjp" => Parts::new(MaskVjp { profile }).without_rule(&[0, 1, 2]),
        _ => return Err(no_role("a patch", role)),
    };
    let parts = parts.input([n, 4], Fill::PatchMatrix([h, w])).input([n, 2], Fill::Centre([h, w]));
    Ok(if role == "mask_vjp" { parts.input([n, 1, h, w], Fill::ANY) } else { parts })
}

/// The cases of either profile, without the family name.
const CASES: &[(ShapeClass, &str)] = &[
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
];
