//! Mean pooling over windows that tile the picture, and its adjoint.

use crate::check::{chain_bound, sum_bound};
use crate::kernel::{DeviceClass, Kernel};
use crate::tape::{Application, Array, Cotangent, Primitive, Tape, Value};
use crate::tensor::Shape;

/// y[n, c, p, q] = mean of x over the window at (p · window₀, q · window₁).
#[derive(Clone, Debug)]
pub struct MeanPool {
    pub window: [usize; 2],
}

/// x̄[n, c, h, w] = ȳ[n, c, h / window₀, w / window₁] / (window₀ · window₁): the adjoint of [`MeanPool`].
#[derive(Clone, Debug)]
pub struct MeanPoolVjp {
    pub window: [usize; 2],
}

impl Primitive for MeanPool {
    fn name(&self) -> &'static str {
        "pool/mean"
    }

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape, String> {
        let [n, c, h, w] = inputs[0].images()?;
        let [r, s] = self.window;
        if r == 0 || s == 0 || h % r != 0 || w % s != 0 {
            return Err(format!("windows of {r} × {s} do not tile {h} × {w}"));
        }
        Ok([n, c, h / r, w / s].into())
    }

    fn vjp(&self, tape: &mut Tape, at: Application) -> Vec<Cotangent> {
        vec![Cotangent::Of(tape.push(MeanPoolVjp { window: self.window }, &[at.cotangent]))]
    }

    fn eval(&self, inputs: &[Array], output: &Shape) -> Vec<f64> {
        let [r, s] = self.window;
        let (height, width) = (output[2] * r, output[3] * s);
        let mut y = vec![0.0; output.count()];
        for (index, &x) in inputs[0].data.iter().enumerate() {
            let (plane, h, w) = (index / (height * width), index / width % height, index % width);
            y[(plane * output[2] + h / r) * output[3] + w / s] += x / (r * s) as f64;
        }
        y
    }

    fn bound(&self, inputs: &[Array], output: &Shape) -> Vec<f64> {
        let magnitudes: Vec<f64> = inputs[0].data.iter().map(|x| x.abs()).collect();
        let means = self.eval(&[Array { shape: inputs[0].shape, data: &magnitudes }], output);
        let terms = self.window[0] * self.window[1];
        // The division's 2.5 ULP come on top of the sum's error.
        means.into_iter().map(|magnitude| sum_bound(terms, magnitude) + chain_bound(3, magnitude)).collect()
    }

    fn kernel(&self, _: &[&Shape], output: &Shape, _: DeviceClass) -> Kernel {
        Kernel::new("pool/mean")
            .immediate("p", output[2])
            .immediate("q", output[3])
            .immediate("r", self.window[0])
            .immediate("s", self.window[1])
            .over(output.count(), 64)
    }

    fn flops(&self, inputs: &[&Shape], _: &Shape) -> u64 {
        inputs[0].count() as u64
    }
}

impl Primitive for MeanPoolVjp {
    fn name(&self) -> &'static str {
        "pool/mean_vjp"
    }

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape, String> {
        let [n, c, p, q] = inputs[0].images()?;
        Ok([n, c, p * self.window[0], q * self.window[1]].into())
    }

    fn vjp(&self, tape: &mut Tape, at: Application) -> Vec<Cotangent> {
        vec![Cotangent::Of(tape.mean_pool(at.cotangent, self.window))]
    }

    fn eval(&self, inputs: &[Array], output: &Shape) -> Vec<f64> {
        let [r, s] = self.window;
        let (height, width) = (output[2], output[3]);
        (0..output.count())
            .map(|index| {
                let (plane, h, w) = (index / (height * width), index / width % height, index % width);
                inputs[0].data[(plane * (height / r) + h / r) * (width / s) + w / s] / (r * s) as f64
            })
            .collect()
    }

    fn bound(&self, inputs: &[Array], output: &Shape) -> Vec<f64> {
        self.eval(inputs, output).into_iter().map(|y| chain_bound(3, y.abs())).collect()
    }

    fn kernel(&self, _: &[&Shape], output: &Shape, _: DeviceClass) -> Kernel {
        Kernel::new("pool/mean_vjp")
            .immediate("h", output[2])
            .immediate("w", output[3])
            .immediate("r", self.window[0])
            .immediate("s", self.window[1])
            .over(output.count(), 64)
    }

    fn flops(&self, _: &[&Shape], output: &Shape) -> u64 {
        output.count() as u64
    }
}

impl Tape {
    /// Means over windows that tile the picture. `x` is `[N, C, H, W]`.
    ///
    /// # Panics
    /// When the windows do not tile the picture.
    pub fn mean_pool(&mut self, x: Value, window: [usize; 2]) -> Value {
        self.push(MeanPool { window }, &[x])
    }
}
