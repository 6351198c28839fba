//! Convolutions that read w as a transposed matrix: what the plan computes in their place where w's rows are read so often
//! that it pays to lay them out as the kernel reads them.

use super::{Conv2d, Problem, Role};
use crate::engine::bounds::product_bound;
use crate::engine::ops::layout::Transpose;
use crate::engine::tape::{Application, Arithmetic, Array, Cotangent, Primitive, Tape};
use crate::engine::tensor::Shape;

/// What `whole` solves for, from its first input and w transposed.
///
/// | `whole` | w as a matrix | transposed |
/// |---|---|---|
/// | [`Role::Output`] | `[K, C / G · R · S]` | `[C / G · R · S, K]` |
/// | [`Role::Input`] | `[K · C / G, R · S]` | `[R · S, K · C / G]` |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OfTransposed {
    /// Solves for [`Role::Output`] or [`Role::Input`].
    pub whole: Conv2d,
}

impl OfTransposed {
    /// The shape of w, whose transpose has this shape.
    fn kernel(&self, first: &Shape, transposed: &Shape) -> Result<Shape, String> {
        let [rows, columns] = transposed.matrix()?;
        let [r, s] = self.whole.geometry.window;
        let (k, channels) = match self.whole.solve_for {
            Role::Output => (columns, rows / (r * s)),
            Role::Input => (first.images()?[1], columns / first.images()?[1].max(1)),
            Role::Kernel => return Err(format!("{self:?} has no kernel as an operand")),
        };
        let kernel: Shape = [k, channels, r, s].into();
        match kernel.count() == rows * columns {
            true => Ok(kernel),
            false => Err(format!("{rows} × {columns} elements are no kernel of {r} × {s} taps for {k} channels")),
        }
    }

    /// The problem of inputs that [`shape`](Primitive::shape) has accepted.
    pub(super) fn accepted(&self, inputs: &[&Shape]) -> Problem {
        let kernel = self.kernel(inputs[0], inputs[1]).expect("shapes are checked when recorded");
        self.whole.accepted(&[inputs[0], &kernel])
    }
}

impl OfTransposed {
    /// The shape and the elements of w.
    fn transposed_back(&self, inputs: &[Array]) -> (Shape, Vec<f64>) {
        let kernel = self.kernel(inputs[0].shape, inputs[1].shape).expect("shapes are checked when recorded");
        let [rows, columns] = inputs[1].shape.matrix().expect("checked when recorded");
        (kernel, Transpose.eval(&inputs[1..], &[columns, rows].into()))
    }
}

impl Primitive for OfTransposed {
    fn name(&self) -> &'static str {
        match self.whole.solve_for {
            Role::Input => "conv2d/input_of_transposed",
            _ => "conv2d/output_of_transposed",
        }
    }

    fn parameters(&self, inputs: &[&Shape]) -> Option<String> {
        let kernel = self.kernel(inputs[0], inputs[1]).ok()?;
        self.whole.parameters(&[inputs[0], &kernel])
    }

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape, String> {
        let kernel = self.kernel(inputs[0], inputs[1])?;
        self.whole.shape(&[inputs[0], &kernel])
    }

    /// The rules of the whole, with w transposed back.
    fn vjp(&self, tape: &mut Tape, at: Application) -> Vec<Cotangent> {
        let [first, transposed] = [at.inputs[0], at.inputs[1]];
        let [rows, columns] = tape.shape(transposed).matrix().expect("checked when recorded");
        let kernel = self.kernel(tape.shape(first), tape.shape(transposed)).expect("checked when recorded");
        let w = tape.transpose(transposed);
        let w = tape.reshape(w, kernel);
        let mut cotangents = self.whole.vjp(tape, Application { inputs: &[first, w], ..at });
        if let Some(Cotangent::Of(of_kernel)) = cotangents.pop() {
            let matrix = tape.reshape(of_kernel, [columns, rows]);
            cotangents.push(Cotangent::Of(tape.transpose(matrix)));
        }
        cotangents
    }

    fn eval(&self, inputs: &[Array], output: &Shape) -> Vec<f64> {
        let (kernel, w) = self.transposed_back(inputs);
        self.whole.eval(&[inputs[0], Array { shape: &kernel, data: &w }], output)
    }

    fn bound(&self, inputs: &[Array], output: &Shape, arithmetic: Arithmetic) -> Vec<f64> {
        let terms = self.whole.terms(&self.accepted(&[inputs[0].shape, inputs[1].shape]));
        product_bound(arithmetic, terms, inputs, |inputs| self.eval(inputs, output))
    }

    fn sample(&self, inputs: &[Array], output: &Shape, arithmetic: Arithmetic, elements: &[usize]) -> [Vec<f64>; 2] {
        let (kernel, w) = self.transposed_back(inputs);
        self.whole.sample(&[inputs[0], Array { shape: &kernel, data: &w }], output, arithmetic, elements)
    }
}
