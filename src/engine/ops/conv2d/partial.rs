//! The adjoint in the kernel as partial sums: what the plan computes in its place where a device would be idle otherwise.

use super::{Conv2d, Problem, Role};
use crate::engine::bounds::product_bound;
use crate::engine::tape::{Application, Arithmetic, Array, Cotangent, Primitive, Tape, Value};
use crate::engine::tensor::Shape;

/// w̄ `[runs, K, C / G, R, S]` from x `[N, C, H, W]` and ȳ `[N, K, P, Q]`: what [`Role::Kernel`] sums over all images, for
/// each run of images by itself. The sum over the first axis is the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PartialKernel {
    /// Solves for [`Role::Kernel`].
    pub whole: Conv2d,
    /// Images of a run; the last may have fewer.
    pub run: usize,
}

impl PartialKernel {
    /// The problem of inputs that [`shape`](Primitive::shape) has accepted.
    pub(super) fn accepted(&self, inputs: &[&Shape]) -> Problem {
        self.whole.accepted(inputs)
    }
}

impl Primitive for PartialKernel {
    fn name(&self) -> &'static str {
        "conv2d/partial_kernel"
    }

    fn parameters(&self, inputs: &[&Shape]) -> Option<String> {
        Some(format!("{},run={}", self.whole.parameters(inputs)?, self.run))
    }

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape, String> {
        let images = inputs[0][0];
        if self.whole.solve_for != Role::Kernel || self.run == 0 {
            return Err(format!("{self:?} solves for no kernel of runs of images"));
        }
        let whole = self.whole.shape(inputs)?;
        Ok([&[images.div_ceil(self.run)], &whole[..]].concat().into())
    }

    /// Run by run, the rules of the whole.
    fn vjp(&self, tape: &mut Tape, at: Application) -> Vec<Cotangent> {
        let images = tape.shape(at.inputs[0])[0];
        let kernel: Shape = tape.shape(at.cotangent)[1..].into();
        let runs = (0..images).step_by(self.run).enumerate();
        let of_runs: Vec<[Value; 2]> = runs
            .map(|(index, first)| {
                let cotangent = tape.slice(at.cotangent, 0, index, 1);
                let cotangent = tape.reshape(cotangent, kernel.clone());
                let [x, y] = [0, 1].map(|input| tape.slice(at.inputs[input], 0, first, self.run.min(images - first)));
                let mut solve = |role, operand| tape.push(self.whole.with(role), &[operand, cotangent]);
                [solve(Role::Input, y), solve(Role::Output, x)]
            })
            .collect();
        [0, 1]
            .map(|input| tape.concat(0, &of_runs.iter().map(|run| run[input]).collect::<Vec<_>>()))
            .map(Cotangent::Of)
            .into()
    }

    fn eval(&self, inputs: &[Array], output: &Shape) -> Vec<f64> {
        let problem = self.accepted(&[inputs[0].shape, inputs[1].shape]);
        let (x, y) = (inputs[0].data, inputs[1].data);
        let mut result = vec![0.0; output.count()];
        let [per_run, per_kernel] =
            [inputs[0].shape[1..].iter().product::<usize>() * self.run, output[1..].iter().product()];
        problem.for_each_term(|at_x, at_w, at_y| result[at_x / per_run * per_kernel + at_w] += x[at_x] * y[at_y]);
        result
    }

    fn bound(&self, inputs: &[Array], output: &Shape, arithmetic: Arithmetic) -> Vec<f64> {
        let Problem { n, p, q, .. } = self.accepted(&[inputs[0].shape, inputs[1].shape]);
        product_bound(arithmetic, n.min(self.run) * p * q, inputs, |inputs| self.eval(inputs, output))
    }

    fn sample(&self, inputs: &[Array], output: &Shape, arithmetic: Arithmetic, elements: &[usize]) -> [Vec<f64>; 2] {
        let problem = self.accepted(&[inputs[0].shape, inputs[1].shape]);
        let Problem { n, p, q, .. } = problem;
        let per_kernel: usize = output[1..].iter().product();
        let images = |place: usize| {
            let first = elements[place] / per_kernel * self.run;
            first..n.min(first + self.run)
        };
        let of_kernel = || elements.iter().map(|element| element % per_kernel);
        let eval = |inputs: &[Array]| problem.eval_at(Role::Kernel, inputs, of_kernel(), images);
        [eval(inputs), product_bound(arithmetic, n.min(self.run) * p * q, inputs, eval)]
    }
}
