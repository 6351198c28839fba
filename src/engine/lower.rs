//! Lowering: from a primitive, which is mathematics, to the kernel that computes it on a class of devices.

pub(in crate::engine) mod gemm;

use std::sync::Arc;

use crate::engine::kernel::{DeviceClass, Kernel};
use crate::engine::tape::{Application, Arithmetic, Array, Cotangent, Primitive, Tape};
use crate::engine::tensor::Shape;

/// A primitive computed by a kernel. [`ops::lowering`](crate::engine::ops::lowering) finds it for any primitive.
pub trait Lower: Primitive {
    /// The dispatch that computes the output.
    fn kernel(&self, inputs: &[&Shape], output: &Shape, class: DeviceClass) -> Kernel;

    /// The kernel with every admissible tiling, for `bench` to compare; empty if there is no choice. The chosen tiling
    /// may be among them.
    fn tilings(&self, _inputs: &[&Shape], _output: &Shape, _class: DeviceClass) -> Vec<Kernel> {
        Vec::new()
    }

    /// How a device of the class computes the same sooner in several dispatches.
    fn detour(&self, _inputs: &[&Shape], _class: DeviceClass) -> Option<Detour> {
        None
    }

    /// Floating-point operations of one evaluation, a multiply-add counted as two.
    fn flops(&self, inputs: &[&Shape], output: &Shape) -> u64;

    /// Whether it takes little longer to compute than to write, so that it may be recomputed instead of stored.
    fn is_cheap(&self) -> bool {
        false
    }

    /// Whether an invocation of the kernel reads of an input of the output's shape only the elements that it alone then
    /// writes, each before it writes it.
    fn is_elementwise(&self) -> bool {
        false
    }

    /// Whether the output may lie where this input does.
    fn updates(&self, input: usize, inputs: &[&Shape], output: &Shape) -> bool {
        self.is_elementwise() && inputs[input] == output
    }
}

/// A way to compute a primitive in several dispatches.
#[derive(Clone, Debug)]
pub enum Detour {
    /// As the sum over the first axis of what this one computes: where results are few and their sums long, more
    /// invocations take part.
    Sum(Arc<dyn Primitive>),
    /// By this one, from the second input as a matrix of so many rows, transposed.
    OfTransposed(usize, Arc<dyn Primitive>),
}

/// A kernel without a definition in the form of a primitive, for measurements.
#[derive(Clone, Debug)]
pub struct Opaque {
    pub kernel: Kernel,
    pub output: Shape,
}

impl Primitive for Opaque {
    fn name(&self) -> &'static str {
        self.kernel.name
    }

    fn shape(&self, _: &[&Shape]) -> Result<Shape, String> {
        Ok(self.output.clone())
    }

    fn vjp(&self, _: &mut Tape, at: Application) -> Vec<Cotangent> {
        vec![Cotangent::Missing; at.inputs.len()]
    }

    /// # Panics
    /// Always: there is no definition.
    fn eval(&self, _: &[Array], _: &Shape) -> Vec<f64> {
        panic!("{} has no definition to evaluate", self.name())
    }

    /// # Panics
    /// Always: there is no definition.
    fn bound(&self, _: &[Array], _: &Shape, _: Arithmetic) -> Vec<f64> {
        panic!("{} has no definition to be compared with", self.name())
    }
}

impl Lower for Opaque {
    fn kernel(&self, _: &[&Shape], _: &Shape, _: DeviceClass) -> Kernel {
        self.kernel.clone()
    }

    fn flops(&self, _: &[&Shape], _: &Shape) -> u64 {
        0
    }
}
