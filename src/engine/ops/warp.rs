//! Images resampled bilinearly through an affine map, such as a rotation; zero outside.
//!
//! With dx = j − (W−1)/2 and dy = i − (H−1)/2, output pixel (i, j) of image n reads the input at
//! xs = m₀·dx + m₁·dy + m₂ + (W−1)/2, ys = m₃·dx + m₄·dy + m₅ + (H−1)/2, where m = matrix[n, :].

mod lower;

use crate::engine::bounds::{chain_bound, sum_bound};
use crate::engine::case::ShapeClass::{Folded, Large, Ones, Prime, Small, Tiled, Training, Uneven};
use crate::engine::case::{Fill, Parameters, Parts, ShapeClass, Special};
use crate::engine::ops::elementwise::Unary;
use crate::engine::ops::{Family, listed, no_role};
use crate::engine::tape::{Application, Arithmetic, Array, Cotangent, Primitive, Tape, Value};
use crate::engine::tensor::{Shape, Tensor};

/// What a sample outside the image reads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outside {
    Zero,
    /// The nearest pixel. It has no backward rule: it is meant for images that are data.
    Nearest,
}

/// y = x resampled. Inputs: x `[N, C, H, W]`, matrix `[N, 6]`.
#[derive(Clone, Debug)]
pub struct Affine {
    pub outside: Outside,
}

/// The cotangent of the matrix, as sums over the rows of the image: `[N, 6, H]`. Inputs: x, matrix, cotangent of y.
#[derive(Clone, Debug)]
pub struct AffineMatrixVjp;

/// The cotangent of x. Inputs: matrix, cotangent of y.
#[derive(Clone, Debug)]
pub struct AffineImageVjp;

/// The position an output pixel reads, and how far f32 arithmetic may move it.
struct Sample {
    xs: f64,
    ys: f64,
    dx: f64,
    dy: f64,
    slack: f64,
}

impl Sample {
    fn new(matrix: &[f64], [h, w]: [usize; 2], i: usize, j: usize) -> Self {
        let (middle_x, middle_y) = ((w - 1) as f64 / 2.0, (h - 1) as f64 / 2.0);
        let (dx, dy) = (j as f64 - middle_x, i as f64 - middle_y);
        let reach = |m: &[f64], middle: f64| (m[0] * dx).abs() + (m[1] * dy).abs() + m[2].abs() + middle;
        Sample {
            xs: matrix[0] * dx + matrix[1] * dy + matrix[2] + middle_x,
            ys: matrix[3] * dx + matrix[4] * dy + matrix[5] + middle_y,
            dx,
            dy,
            slack: chain_bound(4, reach(&matrix[..3], middle_x).max(reach(&matrix[3..], middle_y))),
        }
    }

    /// The position read instead when this one lies outside an image of `h` × `w`. Its slack remains an upper bound.
    fn clamped(self, outside: Outside, [h, w]: [usize; 2]) -> Self {
        match outside {
            Outside::Zero => self,
            Outside::Nearest => {
                Sample { xs: self.xs.clamp(0.0, (w - 1) as f64), ys: self.ys.clamp(0.0, (h - 1) as f64), ..self }
            }
        }
    }

    /// The four neighbours with weights and slopes of the weights: (row, column, weight, ∂x, ∂y). At infinity none is in the
    /// image.
    fn corners(&self) -> [(f64, f64, f64, f64, f64); 4] {
        let (x0, y0) = (self.xs.floor(), self.ys.floor());
        let [fx, fy] = [self.xs, self.ys].map(|at| if at.is_infinite() { 0.0 } else { at - at.floor() });
        [
            (y0, x0, (1.0 - fx) * (1.0 - fy), fy - 1.0, fx - 1.0),
            (y0, x0 + 1.0, fx * (1.0 - fy), 1.0 - fy, -fx),
            (y0 + 1.0, x0, (1.0 - fx) * fy, -fy, 1.0 - fx),
            (y0 + 1.0, x0 + 1.0, fx * fy, fy, fx),
        ]
    }

    /// Whether f32 may round the position into the next cell, where the slope differs.
    fn near_kink(&self) -> bool {
        let distance = |v: f64| (v - v.round()).abs();
        distance(self.xs) <= self.slack || distance(self.ys) <= self.slack
    }
}

fn pixel(plane: &[f64], [h, w]: [usize; 2], row: f64, column: f64) -> f64 {
    let inside = row >= 0.0 && row < h as f64 && column >= 0.0 && column < w as f64;
    if inside { plane[row as usize * w + column as usize] } else { 0.0 }
}

/// Largest magnitude in the 4 × 4 pixels around a sample: an upper bound for every bilinear cell it may fall into.
fn neighbourhood(plane: &[f64], size: [usize; 2], at: &Sample) -> f64 {
    let (row, column) = (at.ys.floor() - 1.0, at.xs.floor() - 1.0);
    (0..16).map(|k| pixel(plane, size, row + f64::from(k / 4), column + f64::from(k % 4)).abs()).fold(0.0, f64::max)
}

/// Shape of images resampled through the matrices.
fn resampled(images: &Shape, matrices: &Shape) -> Result<Shape, String> {
    let [n, ..] = images.images()?;
    match matrices.matrix()? == [n, 6] {
        true => Ok(images.clone()),
        false => Err(format!("{n} images need matrices [{n}, 6], got {matrices:?}")),
    }
}

/// The parameters of a case on images of this shape.
fn described(images: &Shape) -> Option<String> {
    let [n, c, h, w] = images.images().ok()?;
    Some(format!("n={n},c={c},h={h},w={w}"))
}

impl Primitive for Affine {
    fn name(&self) -> &'static str {
        "warp/affine"
    }

    fn parameters(&self, inputs: &[&Shape]) -> Option<String> {
        let outside = match self.outside {
            Outside::Zero => "zero",
            Outside::Nearest => "nearest",
        };
        Some(format!("{},outside={outside}", described(inputs[0])?))
    }

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape, String> {
        resampled(inputs[0], inputs[1])
    }

    fn vjp(&self, tape: &mut Tape, at: Application) -> Vec<Cotangent> {
        if self.outside == Outside::Nearest {
            return vec![Cotangent::Missing; 2];
        }
        let (x, matrix) = (at.inputs[0], at.inputs[1]);
        let ct_x = tape.push(AffineImageVjp, &[matrix, at.cotangent]);
        let rows = tape.push(AffineMatrixVjp, &[x, matrix, at.cotangent]);
        let sum = tape.sum(rows, &[2]);
        let ct_matrix = tape.reshape(sum, tape.shape(matrix).clone());
        vec![Cotangent::Of(ct_x), Cotangent::Of(ct_matrix)]
    }

    fn eval(&self, inputs: &[Array], output: &Shape) -> Vec<f64> {
        let [_, c, h, w] = output.images().expect("checked when recorded");
        (0..output.count())
            .map(|index| {
                let (plane, i, j) = (index / (h * w), index / w % h, index % w);
                let sample =
                    Sample::new(&inputs[1].data[plane / c * 6..][..6], [h, w], i, j).clamped(self.outside, [h, w]);
                let image = &inputs[0].data[plane * h * w..][..h * w];
                sample
                    .corners()
                    .iter()
                    .map(|&(row, column, weight, ..)| weight * pixel(image, [h, w], row, column))
                    .sum()
            })
            .collect()
    }

    fn bound(&self, inputs: &[Array], output: &Shape, _: Arithmetic) -> Vec<f64> {
        let [_, c, h, w] = output.images().expect("checked when recorded");
        (0..output.count())
            .map(|index| {
                let (plane, i, j) = (index / (h * w), index / w % h, index % w);
                let sample =
                    Sample::new(&inputs[1].data[plane / c * 6..][..6], [h, w], i, j).clamped(self.outside, [h, w]);
                let largest = neighbourhood(&inputs[0].data[plane * h * w..][..h * w], [h, w], &sample);
                // The slope of a bilinear image along each axis is at most twice its largest value.
                4.0 * sample.slack * largest + chain_bound(8, largest)
            })
            .collect()
    }
}

impl AffineMatrixVjp {
    /// Calls `visit(output index of component 0, sample, image, cotangent)` for every pixel.
    fn for_each_pixel(inputs: &[Array], mut visit: impl FnMut(usize, Sample, &[f64], f64)) {
        let [_, c, h, w] = inputs[0].shape.images().expect("checked when recorded");
        for (index, &ct) in inputs[2].data.iter().enumerate() {
            let (plane, i, j) = (index / (h * w), index / w % h, index % w);
            let sample = Sample::new(&inputs[1].data[plane / c * 6..][..6], [h, w], i, j);
            visit(plane / c * 6 * h + i, sample, &inputs[0].data[plane * h * w..][..h * w], ct);
        }
    }
}

impl Primitive for AffineMatrixVjp {
    fn name(&self) -> &'static str {
        "warp/affine_matrix_vjp"
    }

    fn parameters(&self, inputs: &[&Shape]) -> Option<String> {
        described(inputs[0])
    }

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape, String> {
        let [n, _, h, _] = resampled(inputs[0], inputs[1])?.images()?;
        match inputs[2] == inputs[0] {
            true => Ok([n, 6, h].into()),
            false => Err(format!("the cotangent {:?} does not have the images' shape {:?}", inputs[2], inputs[0])),
        }
    }

    fn vjp(&self, _: &mut Tape, _: Application) -> Vec<Cotangent> {
        vec![Cotangent::Missing; 3]
    }

    fn eval(&self, inputs: &[Array], output: &Shape) -> Vec<f64> {
        let [_, _, h, w] = inputs[0].shape.images().expect("checked when recorded");
        let mut rows = vec![0.0; output.count()];
        Self::for_each_pixel(inputs, |first, sample, image, ct| {
            let (mut slope_x, mut slope_y) = (0.0, 0.0);
            for (row, column, _, along_x, along_y) in sample.corners() {
                let value = pixel(image, [h, w], row, column);
                slope_x += along_x * value;
                slope_y += along_y * value;
            }
            let terms = [sample.dx, sample.dy, 1.0].map(|offset| [ct * slope_x * offset, ct * slope_y * offset]);
            for (component, [x, y]) in terms.into_iter().enumerate() {
                rows[first + component * h] += x;
                rows[first + (3 + component) * h] += y;
            }
        });
        rows
    }

    fn bound(&self, inputs: &[Array], output: &Shape, _: Arithmetic) -> Vec<f64> {
        let [_, c, h, w] = inputs[0].shape.images().expect("checked when recorded");
        let (mut magnitude, mut slack) = (vec![0.0; output.count()], vec![0.0; output.count()]);
        Self::for_each_pixel(inputs, |first, sample, image, ct| {
            // The slope is at most twice the largest value; in the wrong cell it is off by as much again.
            let slope = 2.0 * neighbourhood(image, [h, w], &sample) * ct.abs();
            let moved = if sample.near_kink() { 2.0 * slope } else { 2.0 * sample.slack * slope };
            for (component, offset) in [sample.dx, sample.dy, 1.0].into_iter().enumerate() {
                for component in [component, 3 + component] {
                    magnitude[first + component * h] += slope * offset.abs();
                    slack[first + component * h] += moved * offset.abs();
                }
            }
        });
        magnitude.iter().zip(slack).map(|(&m, slack)| slack + sum_bound(c * w, m) + chain_bound(8, m)).collect()
    }
}

impl Primitive for AffineImageVjp {
    fn name(&self) -> &'static str {
        "warp/affine_image_vjp"
    }

    fn parameters(&self, inputs: &[&Shape]) -> Option<String> {
        described(inputs[1])
    }

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape, String> {
        resampled(inputs[1], inputs[0])
    }

    fn vjp(&self, tape: &mut Tape, at: Application) -> Vec<Cotangent> {
        let (matrix, ct_y) = (at.inputs[0], at.inputs[1]);
        // Linear in ȳ, with the resampling as its adjoint. In the matrix it is ⟨ȳ, resample(x̄̄)⟩, like the primal.
        let rows = tape.push(AffineMatrixVjp, &[at.cotangent, matrix, ct_y]);
        let sum = tape.sum(rows, &[2]);
        let ct_matrix = tape.reshape(sum, tape.shape(matrix).clone());
        vec![Cotangent::Of(ct_matrix), Cotangent::Of(tape.affine_warp(at.cotangent, matrix))]
    }

    fn eval(&self, inputs: &[Array], output: &Shape) -> Vec<f64> {
        let [_, c, h, w] = output.images().expect("checked when recorded");
        let mut ct_x = vec![0.0; output.count()];
        for (index, &ct) in inputs[1].data.iter().enumerate() {
            let (plane, i, j) = (index / (h * w), index / w % h, index % w);
            for (row, column, weight, ..) in Sample::new(&inputs[0].data[plane / c * 6..][..6], [h, w], i, j).corners()
            {
                if row >= 0.0 && row < h as f64 && column >= 0.0 && column < w as f64 {
                    ct_x[plane * h * w + row as usize * w + column as usize] += weight * ct;
                }
            }
        }
        ct_x
    }

    fn bound(&self, inputs: &[Array], output: &Shape, _: Arithmetic) -> Vec<f64> {
        let [_, c, h, w] = output.images().expect("checked when recorded");
        let (mut magnitude, mut terms) = (vec![0.0; output.count()], vec![0; output.count()]);
        // Error of the weights: that of the position, along either axis.
        let mut moved = vec![0.0; output.count()];
        for (index, &ct) in inputs[1].data.iter().enumerate() {
            let (plane, i, j) = (index / (h * w), index / w % h, index % w);
            let sample = Sample::new(&inputs[0].data[plane / c * 6..][..6], [h, w], i, j);
            // Every pixel that the sample may read after rounding.
            for k in 0..16 {
                let (row, column) =
                    (sample.ys.floor() - 1.0 + f64::from(k / 4), sample.xs.floor() - 1.0 + f64::from(k % 4));
                if row >= 0.0 && row < h as f64 && column >= 0.0 && column < w as f64 {
                    let at = plane * h * w + row as usize * w + column as usize;
                    moved[at] += 2.0 * sample.slack * ct.abs();
                    magnitude[at] += ct.abs();
                    terms[at] += 1;
                }
            }
        }
        // Each weight takes a difference and a complement along each axis, then two products: 6 roundings.
        let sums = magnitude.iter().zip(terms).map(|(&m, n)| sum_bound(n, m) + chain_bound(6, m));
        moved.iter().zip(sums).map(|(moved, sum)| moved + sum).collect()
    }
}

impl Tape {
    /// `x` `[N, C, H, W]` resampled through `matrix` `[N, 6]`; see the [module](self).
    ///
    /// # Panics
    /// When the shapes do not fit.
    pub fn affine_warp(&mut self, x: Value, matrix: Value) -> Value {
        self.push(Affine { outside: Outside::Zero }, &[x, matrix])
    }

    /// Each image of `x` `[N, C, H, W]` read at `offset` `[N, 2]`, (x, y) in pixels, from its place. Outside, the
    /// nearest pixel is read. Has no gradient.
    ///
    /// # Panics
    /// When the shapes do not fit.
    pub fn translate(&mut self, x: Value, offset: Value) -> Value {
        let [along_x, along_y] = [0, 1].map(|axis| self.slice(offset, 1, axis, 1));
        let identity = self.constant(Tensor::new([1, 6], vec![1.0, 0.0, 0.0, 0.0, 1.0, 0.0]));
        let by_x = self.placed(along_x, [0.0, 0.0, 1.0, 0.0, 0.0, 0.0]);
        let by_y = self.placed(along_y, [0.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
        let both = self.add(by_x, by_y);
        let matrix = self.add(both, identity);
        self.push(Affine { outside: Outside::Nearest }, &[x, matrix])
    }

    /// Each image of `x` `[N, C, H, W]` rotated about its centre by `angle` `[N, 1]` in radians, counter-clockwise on
    /// the screen.
    ///
    /// # Panics
    /// When the shapes do not fit.
    pub fn rotate(&mut self, x: Value, angle: Value) -> Value {
        let cos = self.unary(Unary::Cos, angle);
        let sin = self.unary(Unary::Sin, angle);
        let of_cos = self.placed(cos, [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]);
        let of_sin = self.placed(sin, [0.0, -1.0, 0.0, 1.0, 0.0, 0.0]);
        let matrix = self.add(of_cos, of_sin);
        self.affine_warp(x, matrix)
    }
}

/// The family, with the cases that it is checked at.
pub(super) const FAMILY: Family =
    Family { name: "warp", describe, cases: || listed(CASES), shaders: lower::SHADERS, lowering: lower::lowering };

fn describe(role: &str, p: &mut Parameters) -> Result<Parts, String> {
    let [n, c, h, w] = p.numbers(["n", "c", "h", "w"])?;
    let (images, matrices, map) = ([n, c, h, w], [n, 6], Fill::AffineMatrix([h, w]));
    Ok(match role {
        "affine" => {
            let outside = match p.text("outside")? {
                "zero" => Outside::Zero,
                "nearest" => Outside::Nearest,
                outside => return Err(format!("`outside` must be zero or nearest, not `{outside}`")),
            };
            let parts = Parts::new(Affine { outside })
                .exact(true)
                .nan_of(&[0])
                .special(Special::In(&[1]))
                .input(images, Fill::ANY)
                .input(matrices, map);
            match outside {
                Outside::Zero => parts.linear_in(&[&[0]]),
                // Linear as well, but no hyper-parameter is tuned through a shift.
                Outside::Nearest => parts.without_rule(&[0, 1]),
            }
        }
        "affine_image_vjp" => {
            let parts = Parts::new(AffineImageVjp).exact(true).nan_of(&[1]).linear_in(&[&[1]]);
            parts.input(matrices, map).input(images, Fill::ANY)
        }
        "affine_matrix_vjp" => Parts::new(AffineMatrixVjp)
            .exact(true)
            .nan_of(&[1, 2])
            .without_rule(&[0, 1, 2])
            .input(images, Fill::ANY)
            .input(matrices, map)
            .input(images, Fill::ANY),
        _ => return Err(no_role("warp", role)),
    })
}

const CASES: &[(ShapeClass, &str)] = &[
    (Prime, "warp/affine(n=3,c=2,h=7,w=11,outside=zero)"),
    (Prime, "warp/affine(n=3,c=2,h=7,w=11,outside=nearest)"),
    (Small, "warp/affine(n=1,c=1,h=3,w=3,outside=zero)"),
    (Small, "warp/affine(n=1,c=1,h=3,w=3,outside=nearest)"),
    (Ones, "warp/affine(n=2,c=1,h=1,w=1,outside=zero)"),
    (Ones, "warp/affine(n=2,c=1,h=1,w=1,outside=nearest)"),
    (Uneven, "warp/affine(n=2,c=3,h=2,w=9,outside=zero)"),
    (Uneven, "warp/affine(n=2,c=3,h=2,w=9,outside=nearest)"),
    (Tiled, "warp/affine(n=4,c=3,h=19,w=23,outside=zero)"),
    (Folded, "warp/affine(n=65600,c=1,h=1,w=1,outside=zero)"),
    (Training, "warp/affine(n=48,c=1,h=28,w=28,outside=zero)"),
    (Training, "warp/affine(n=48,c=1,h=28,w=28,outside=nearest)"),
    (Prime, "warp/affine_matrix_vjp(n=3,c=2,h=7,w=11)"),
    (Small, "warp/affine_matrix_vjp(n=1,c=1,h=3,w=3)"),
    (Ones, "warp/affine_matrix_vjp(n=2,c=1,h=1,w=1)"),
    (Uneven, "warp/affine_matrix_vjp(n=2,c=3,h=2,w=9)"),
    (Tiled, "warp/affine_matrix_vjp(n=5,c=3,h=19,w=23)"),
    (Training, "warp/affine_matrix_vjp(n=48,c=1,h=28,w=28)"),
    // More rows than 65535 workgroups of 64.
    (Large, "warp/affine_matrix_vjp(n=65600,c=1,h=64,w=1)"),
    (Prime, "warp/affine_image_vjp(n=3,c=2,h=7,w=11)"),
    (Small, "warp/affine_image_vjp(n=1,c=1,h=3,w=3)"),
    (Ones, "warp/affine_image_vjp(n=2,c=1,h=1,w=1)"),
    (Uneven, "warp/affine_image_vjp(n=2,c=3,h=2,w=9)"),
    (Tiled, "warp/affine_image_vjp(n=4,c=3,h=19,w=23)"),
    (Folded, "warp/affine_image_vjp(n=65600,c=1,h=1,w=1)"),
    (Training, "warp/affine_image_vjp(n=48,c=1,h=28,w=28)"),
];
