//! The soft elliptical patch that CutDiff subtracts, and its pull-back.
//!
//! In patch coordinates u = m₀·dx + m₁·dy, v = m₂·dx + m₃·dy, where (dx, dy) is a pixel's offset from the patch's centre
//! and m = matrix[n, :], the mask is exp(−(u² + v²) / (2 · SOFTNESS)).

use crate::check::{TINY, ULP, chain_bound, sum_bound};
use crate::kernel::{DeviceClass, Kernel};
use crate::tape::{Application, Array, Cotangent, Primitive, Tape, Value};
use crate::tensor::Shape;

/// Variance of the mask's Gaussian in units of the patch's sides.
pub const SOFTNESS: f64 = 0.1;

/// Masks `[N, 1, H, W]`. Inputs: matrix `[N, 4]`, centre `[N, 2]` as (x, y) in pixels.
#[derive(Clone, Debug)]
pub struct Mask {
    pub size: [usize; 2],
}

/// The cotangent of the matrix, as sums over picture rows: `[N, 4, H]`. Inputs: matrix, centre, cotangent of the mask.
#[derive(Clone, Debug)]
pub struct MaskVjp;

/// One pixel in patch coordinates.
struct Pixel {
    dx: f64,
    dy: f64,
    u: f64,
    v: f64,
    mask: f64,
    /// Relative error of an f32 mask.
    error: f64,
}

impl Pixel {
    fn new(matrix: &[f64], centre: &[f64], i: usize, j: usize) -> Self {
        let (dx, dy) = (j as f64 - centre[0], i as f64 - centre[1]);
        let coordinate = |m: &[f64]| (m[0] * dx + m[1] * dy, (m[0] * dx).abs() + (m[1] * dy).abs());
        let ((u, reach_u), (v, reach_v)) = (coordinate(&matrix[..2]), coordinate(&matrix[2..]));
        let exponent = (u * u + v * v) / (2.0 * SOFTNESS);
        // The exponent inherits the coordinates' rounding (4 operations each) and has its own: a square, a sum, a quotient
        // of 2.5 ULP, and SOFTNESS as an f32. Then comes exp's 3 + 2·|x| ULP.
        let exponent_error = 4.0 * ULP * (u.abs() * reach_u + v.abs() * reach_v) / SOFTNESS + 5.0 * ULP * exponent;
        let error = exponent_error.exp_m1() + (3.0 + 2.0 * exponent) * ULP;
        Pixel { dx, dy, u, v, mask: (-exponent).exp(), error }
    }
}

impl Primitive for Mask {
    fn name(&self) -> &'static str {
        "cutdiff/mask"
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
        let rows = tape.push(MaskVjp, &[matrix, centre, at.cotangent]);
        let sum = tape.sum(rows, &[2]);
        vec![Cotangent::Of(tape.reshape(sum, tape.shape(matrix).clone())), Cotangent::Missing]
    }

    fn eval(&self, inputs: &[Array], output: &Shape) -> Vec<f64> {
        self.pixels(inputs, output).map(|pixel| pixel.mask).collect()
    }

    fn bound(&self, inputs: &[Array], output: &Shape) -> Vec<f64> {
        self.pixels(inputs, output).map(|pixel| pixel.error * pixel.mask + TINY).collect()
    }

    fn kernel(&self, inputs: &[&Shape], _: &Shape, _: DeviceClass) -> Kernel {
        let [h, w] = self.size;
        let n = inputs[0][0];
        Kernel::new("cutdiff/mask").immediate("n", n).immediate("h", h).immediate("w", w).grid([
            (h * w).div_ceil(64).min(65_535),
            n.min(65_535),
            1,
        ])
    }

    fn flops(&self, _: &[&Shape], output: &Shape) -> u64 {
        12 * output.count() as u64
    }
}

impl Mask {
    fn pixels<'a>(&self, inputs: &'a [Array], output: &Shape) -> impl Iterator<Item = Pixel> + 'a {
        let [h, w] = self.size;
        (0..output.count()).map(move |index| {
            let n = index / (h * w);
            Pixel::new(&inputs[0].data[4 * n..][..4], &inputs[1].data[2 * n..][..2], index / w % h, index % w)
        })
    }
}

impl MaskVjp {
    /// Calls `visit(output index of component 0, pixel, cotangent, cotangent · slope of the mask)` for every pixel.
    fn for_each_pixel(inputs: &[Array], mut visit: impl FnMut(usize, Pixel, f64, f64)) {
        let [_, _, h, w] = inputs[2].shape.images().expect("checked when recorded");
        for (index, &ct) in inputs[2].data.iter().enumerate() {
            let (n, i) = (index / (h * w), index / w % h);
            let pixel = Pixel::new(&inputs[0].data[4 * n..][..4], &inputs[1].data[2 * n..][..2], i, index % w);
            let weight = -ct * pixel.mask / SOFTNESS;
            visit(n * 4 * h + i, pixel, ct, weight);
        }
    }
}

impl Primitive for MaskVjp {
    fn name(&self) -> &'static str {
        "cutdiff/mask_vjp"
    }

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape, String> {
        let [n, _, h, w] = inputs[2].images()?;
        let mask = Mask { size: [h, w] }.shape(&inputs[..2])?;
        match mask == *inputs[2] {
            true => Ok([n, 4, h].into()),
            false => Err(format!("the cotangent {:?} has not the masks' shape {mask:?}", inputs[2])),
        }
    }

    fn vjp(&self, _: &mut Tape, _: Application) -> Vec<Cotangent> {
        vec![Cotangent::Missing; 3]
    }

    fn eval(&self, inputs: &[Array], output: &Shape) -> Vec<f64> {
        let h = output[2];
        let mut rows = vec![0.0; output.count()];
        Self::for_each_pixel(inputs, |first, pixel, _, weight| {
            let Pixel { dx, dy, u, v, .. } = pixel;
            for (component, factor) in [u * dx, u * dy, v * dx, v * dy].into_iter().enumerate() {
                rows[first + component * h] += weight * factor;
            }
        });
        rows
    }

    fn bound(&self, inputs: &[Array], output: &Shape) -> Vec<f64> {
        let [_, _, h, w] = inputs[2].shape.images().expect("checked when recorded");
        let (mut magnitude, mut slack) = (vec![0.0; output.count()], vec![0.0; output.count()]);
        Self::for_each_pixel(inputs, |first, pixel, ct, weight| {
            let n = first / (4 * h);
            let m = &inputs[0].data[4 * n..][..4];
            let Pixel { dx, dy, error, .. } = pixel;
            // u and v by their magnitudes: the rounding of a sum scales with its terms, not with what is left of them.
            let (u, v) = ((m[0] * dx).abs() + (m[1] * dy).abs(), (m[2] * dx).abs() + (m[3] * dy).abs());
            for (component, factor) in [u * dx, u * dy, v * dx, v * dy].into_iter().enumerate() {
                magnitude[first + component * h] += (weight * factor).abs();
                // Where the mask is flushed to zero, all of it is lost.
                let flushed = ct.abs() * TINY / SOFTNESS * factor.abs();
                slack[first + component * h] += (weight * factor).abs() * (error + 10.0 * ULP) + flushed;
            }
        });
        magnitude.iter().zip(slack).map(|(&m, slack)| slack + sum_bound(w, m) + chain_bound(2, m)).collect()
    }

    fn kernel(&self, inputs: &[&Shape], _: &Shape, _: DeviceClass) -> Kernel {
        let [n, _, h, w] = inputs[2].images().expect("checked when recorded");
        Kernel::new("cutdiff/mask_vjp").immediate("n", n).immediate("h", h).immediate("w", w).over(n * h, 64)
    }

    fn flops(&self, inputs: &[&Shape], _: &Shape) -> u64 {
        20 * inputs[2].count() as u64
    }
}

impl Tape {
    /// CutDiff's masks `[N, 1, H, W]`, 1 at `centre` `[N, 2]` and falling off along the axes of `matrix` `[N, 4]`.
    ///
    /// # Panics
    /// When the shapes do not fit.
    pub fn cutdiff_mask(&mut self, matrix: Value, centre: Value, size: [usize; 2]) -> Value {
        self.push(Mask { size }, &[matrix, centre])
    }
}
