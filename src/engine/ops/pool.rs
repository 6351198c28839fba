//! Max pooling over windows that may overlap. The mean over a whole image is a reduction.
//!
//! A maximum is the pixel whose index [`Argmax`] computes, read by [`Select`]. The index is constant around almost
//! every image, so gradients flow through the selected pixels alone: [`Select`] and [`Unpool`] are each other's
//! adjoints.

mod lower;

use crate::engine::bounds::sum_bound;
use crate::engine::case::ShapeClass::{Folded, Ones, Prime, Small, Tiled, Training, Uneven};
use crate::engine::case::{Fill, Parameters, Parts, ShapeClass, Special};
use crate::engine::ops::conv2d::Geometry;
use crate::engine::ops::{Family, listed, no_role};
use crate::engine::tape::{Application, Arithmetic, Array, Cotangent, Primitive, Tape, Value};
use crate::engine::tensor::Shape;

/// y[n, c, p, q] = h · W + w of the largest x[n, c, h, w] in the window at (p, q), the first of equals. A NaN counts as
/// the largest, so that the maximum shows it. Pixels are whole numbers, exact in f32; padding takes no part.
#[derive(Clone, Debug)]
pub struct Argmax {
    pub geometry: Geometry,
}

/// y[n, c, p, q] = x[n, c, index[n, c, p, q]]. Inputs: x `[N, C, H, W]`, index `[N, C, P, Q]` of pixels h · W + w, each in
/// its own window.
#[derive(Clone, Debug)]
pub struct Select {
    pub geometry: Geometry,
}

/// x̄[n, c, h, w] = Σ_{p, q} ȳ[n, c, p, q] where index[n, c, p, q] = h · W + w: the adjoint of [`Select`]. Inputs: ȳ and index.
#[derive(Clone, Debug)]
pub struct Unpool {
    pub geometry: Geometry,
}

/// Shape of the windows of images `x`.
fn windows(geometry: &Geometry, x: &Shape) -> Result<Shape, String> {
    let [n, c, h, w] = x.images()?;
    let [p, q] = geometry.output()?;
    if geometry.image != [h, w] {
        return Err(format!("images {x:?} under {geometry:?}"));
    }
    if h * w > 1 << 24 {
        return Err(format!("{h} × {w} pixels are too many for exact f32 indices"));
    }
    if geometry.window.iter().any(|&extent| extent <= geometry.padding) {
        return Err(format!("windows of {:?} may lie entirely in a padding of {}", geometry.window, geometry.padding));
    }
    Ok([n, c, p, q].into())
}

/// The parameters of a case with images of shape `x`.
fn described(geometry: &Geometry, x: &Shape) -> String {
    let Geometry { window: [r, s], stride, padding, .. } = geometry;
    format!("x={x},r={r},s={s},stride={stride},padding={padding}")
}

impl Primitive for Argmax {
    fn name(&self) -> &'static str {
        "pool/argmax"
    }

    fn parameters(&self, inputs: &[&Shape]) -> Option<String> {
        Some(described(&self.geometry, inputs[0]))
    }

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape, String> {
        windows(&self.geometry, inputs[0])
    }

    fn vjp(&self, _: &mut Tape, _: Application) -> Vec<Cotangent> {
        vec![Cotangent::None]
    }

    fn eval(&self, inputs: &[Array], output: &Shape) -> Vec<f64> {
        let [_, _, p, q] = output.images().expect("checked when recorded");
        let pixels: usize = self.geometry.image.iter().product();
        let window = |index: usize| {
            let plane = &inputs[0].data[index / (p * q) * pixels..][..pixels];
            let inside = self.geometry.pixels_of(index / q % p, index % q);
            let is_larger = |one: f64, other: f64| one > other || (one.is_nan() && !other.is_nan());
            inside.reduce(|largest, pixel| if is_larger(plane[pixel], plane[largest]) { pixel } else { largest })
        };
        (0..output.count()).map(|index| window(index).expect("a window contains a pixel") as f64).collect()
    }

    fn bound(&self, _: &[Array], output: &Shape, _: Arithmetic) -> Vec<f64> {
        vec![0.0; output.count()]
    }
}

impl Primitive for Select {
    fn name(&self) -> &'static str {
        "pool/select"
    }

    fn parameters(&self, inputs: &[&Shape]) -> Option<String> {
        Some(described(&self.geometry, inputs[0]))
    }

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape, String> {
        let shape = windows(&self.geometry, inputs[0])?;
        match shape == *inputs[1] {
            true => Ok(shape),
            false => Err(format!("the index {:?} does not fit windows {shape:?}", inputs[1])),
        }
    }

    fn vjp(&self, tape: &mut Tape, at: Application) -> Vec<Cotangent> {
        let unpool = Unpool { geometry: self.geometry };
        vec![Cotangent::Of(tape.push(unpool, &[at.cotangent, at.inputs[1]])), Cotangent::None]
    }

    fn eval(&self, inputs: &[Array], output: &Shape) -> Vec<f64> {
        let (pixels, windows) = (self.geometry.image.iter().product::<usize>(), output[2] * output[3]);
        let select = |(at, &index): (usize, &f64)| inputs[0].data[at / windows * pixels + index.round() as usize];
        inputs[1].data.iter().enumerate().map(select).collect()
    }

    fn bound(&self, _: &[Array], output: &Shape, _: Arithmetic) -> Vec<f64> {
        vec![0.0; output.count()]
    }
}

impl Primitive for Unpool {
    fn name(&self) -> &'static str {
        "pool/unpool"
    }

    fn parameters(&self, inputs: &[&Shape]) -> Option<String> {
        let ([n, c, ..], [h, w]) = (inputs[0].images().ok()?, self.geometry.image);
        Some(described(&self.geometry, &[n, c, h, w].into()))
    }

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape, String> {
        let [n, c, ..] = inputs[0].images()?;
        let [h, w] = self.geometry.image;
        let x: Shape = [n, c, h, w].into();
        let shape = windows(&self.geometry, &x)?;
        match shape == *inputs[0] && shape == *inputs[1] {
            true => Ok(x),
            false => Err(format!("{:?} and the index {:?} do not fit windows {shape:?}", inputs[0], inputs[1])),
        }
    }

    fn vjp(&self, tape: &mut Tape, at: Application) -> Vec<Cotangent> {
        let select = Select { geometry: self.geometry };
        vec![Cotangent::Of(tape.push(select, &[at.cotangent, at.inputs[1]])), Cotangent::None]
    }

    fn eval(&self, inputs: &[Array], output: &Shape) -> Vec<f64> {
        let (pixels, windows) = (output[2] * output[3], inputs[0].shape[2] * inputs[0].shape[3]);
        let mut ct_x = vec![0.0; output.count()];
        for (at, (&ct, &index)) in inputs[0].data.iter().zip(inputs[1].data).enumerate() {
            ct_x[at / windows * pixels + index.round() as usize] += ct;
        }
        ct_x
    }

    fn bound(&self, inputs: &[Array], output: &Shape, _: Arithmetic) -> Vec<f64> {
        let magnitudes: Vec<f64> = inputs[0].data.iter().map(|ct| ct.abs()).collect();
        let sums = self.eval(&[Array { data: &magnitudes, ..inputs[0] }, inputs[1]], output);
        let windows = self.geometry.window.iter().map(|extent| extent.div_ceil(self.geometry.stride));
        let terms = windows.product();
        sums.into_iter().map(|magnitude| sum_bound(terms, magnitude)).collect()
    }
}

impl Tape {
    /// Maxima over windows of `window` × `window` pixels, `stride` apart, of images `x` `[N, C, H, W]`. The `padding`
    /// pixels around an image take no part.
    ///
    /// # Panics
    /// When a window does not fit, or could lie entirely in the padding.
    pub fn max_pool(&mut self, x: Value, window: usize, stride: usize, padding: usize) -> Value {
        let [_, _, h, w] = self.shape(x).images().unwrap_or_else(|reason| panic!("max_pool: {reason}"));
        let geometry = Geometry { image: [h, w], window: [window; 2], stride, padding };
        let index = self.push(Argmax { geometry }, &[x]);
        self.push(Select { geometry }, &[x, index])
    }
}

/// The family, with the cases that it is checked at.
pub(super) const FAMILY: Family =
    Family { name: "pool", describe, cases: || listed(CASES), shaders: lower::SHADERS, lowering: lower::lowering };

fn describe(role: &str, p: &mut Parameters) -> Result<Parts, String> {
    let window = p.numbers(["r", "s"])?;
    let (x, [stride, padding]) = (p.shape("x")?, p.numbers(["stride", "padding"])?);
    let [_, _, h, w] = x.images()?;
    let geometry = Geometry { image: [h, w], window, stride, padding };
    let argmax = Argmax { geometry };
    let windows = argmax.shape(&[&x])?;
    let index = Fill::PixelOf(geometry);
    Ok(match role {
        "argmax" => Parts::new(argmax).exact(true).special(Special::All).constant_in(&[0]).input(x, Fill::ANY),
        "select" => Parts::new(Select { geometry })
            .exact(true)
            .special(Special::In(&[0]))
            .linear_in(&[&[0]])
            .constant_in(&[1])
            .input(x, Fill::ANY)
            .input(windows, index),
        "unpool" => Parts::new(Unpool { geometry })
            .exact(true)
            .special(Special::In(&[0]))
            .linear_in(&[&[0]])
            .constant_in(&[1])
            .input(windows.clone(), Fill::ANY)
            .input(windows, index),
        _ => return Err(no_role("pool", role)),
    })
}

const CASES: &[(ShapeClass, &str)] = &[
    (Uneven, "pool/unpool(x=2x3x23x29,r=9,s=8,stride=2,padding=3)"),
    (Uneven, "pool/unpool(x=2x3x23x29,r=3,s=2,stride=5,padding=0)"),
    (Prime, "pool/argmax(x=2x3x11x7,r=3,s=3,stride=2,padding=1)"),
    (Small, "pool/argmax(x=1x2x4x4,r=2,s=2,stride=2,padding=0)"),
    (Ones, "pool/argmax(x=1x1x1x1,r=1,s=1,stride=1,padding=0)"),
    (Uneven, "pool/argmax(x=3x2x7x10,r=4,s=2,stride=3,padding=1)"),
    (Uneven, "pool/argmax(x=2x2x9x8,r=2,s=3,stride=1,padding=0)"),
    (Tiled, "pool/argmax(x=3x5x19x23,r=3,s=5,stride=2,padding=2)"),
    (Folded, "pool/argmax(x=1x1x2051x2051,r=2,s=2,stride=1,padding=0)"),
    (Training, "pool/argmax(x=8x16x32x32,r=3,s=3,stride=2,padding=1)"),
    (Prime, "pool/select(x=2x3x11x7,r=3,s=3,stride=2,padding=1)"),
    (Small, "pool/select(x=1x2x4x4,r=2,s=2,stride=2,padding=0)"),
    (Ones, "pool/select(x=1x1x1x1,r=1,s=1,stride=1,padding=0)"),
    (Uneven, "pool/select(x=3x2x7x10,r=4,s=2,stride=3,padding=1)"),
    (Uneven, "pool/select(x=2x2x9x8,r=2,s=3,stride=1,padding=0)"),
    (Tiled, "pool/select(x=3x5x19x23,r=3,s=5,stride=2,padding=2)"),
    (Folded, "pool/select(x=1x1x2051x2051,r=2,s=2,stride=1,padding=0)"),
    (Training, "pool/select(x=8x16x32x32,r=3,s=3,stride=2,padding=1)"),
    (Prime, "pool/unpool(x=2x3x11x7,r=3,s=3,stride=2,padding=1)"),
    (Small, "pool/unpool(x=1x2x4x4,r=2,s=2,stride=2,padding=0)"),
    (Ones, "pool/unpool(x=1x1x1x1,r=1,s=1,stride=1,padding=0)"),
    (Uneven, "pool/unpool(x=3x2x7x10,r=4,s=2,stride=3,padding=1)"),
    (Uneven, "pool/unpool(x=2x2x9x8,r=2,s=3,stride=1,padding=0)"),
    (Tiled, "pool/unpool(x=3x5x19x23,r=3,s=5,stride=2,padding=2)"),
    (Folded, "pool/unpool(x=1x1x2051x2051,r=2,s=2,stride=1,padding=0)"),
    (Training, "pool/unpool(x=8x16x32x32,r=3,s=3,stride=2,padding=1)"),
];
