//! Lowering of sums: one invocation per sum, or one workgroup if rows are long.

use std::ops::Range;

use super::{LogSumExp, Magnitude, Min, SquaredDeviation, Sum, SumProduct, extents};
use crate::engine::kernel::{DeviceClass, Kernel};
use crate::engine::lower::Lower;
use crate::engine::ops::Shaders;
use crate::engine::ops::elementwise::vector_width;
use crate::engine::tensor::Shape;

pub(super) const SHADERS: Shaders = shaders![
    "reduce/log_sum_exp",
    "reduce/magnitude",
    "reduce/min",
    "reduce/squared_deviation",
    "reduce/sum",
    "reduce/sum_product",
    "reduce/sum_product_row",
    "reduce/sum_row"
];

lowers!(Sum, SumProduct, SquaredDeviation, Min, LogSumExp, Magnitude);

impl Lower for Sum {
    fn kernel(&self, inputs: &[&Shape], _: &Shape, class: DeviceClass) -> Kernel {
        kernel(["reduce/sum", "reduce/sum_row"], &self.axes, inputs[0], class)
    }

    fn flops(&self, inputs: &[&Shape], _: &Shape) -> u64 {
        inputs[0].count() as u64
    }
}

impl Lower for SumProduct {
    fn kernel(&self, inputs: &[&Shape], _: &Shape, class: DeviceClass) -> Kernel {
        kernel(["reduce/sum_product", "reduce/sum_product_row"], &self.axes, inputs[0], class)
    }

    fn flops(&self, inputs: &[&Shape], _: &Shape) -> u64 {
        2 * inputs[0].count() as u64
    }
}

impl Lower for SquaredDeviation {
    fn kernel(&self, inputs: &[&Shape], output: &Shape, class: DeviceClass) -> Kernel {
        let [outer, terms, inner] = extents(&self.axes, inputs[0]);
        let repeat = Self::repeat(output, inputs[1]).expect("checked when recorded");
        let width = if repeat == 1 || repeat.is_multiple_of(4) { vector_width(inner, class) } else { 1 };
        let kernel = Kernel::new("reduce/squared_deviation")
            .immediate("terms", terms)
            .immediate("inner", inner / width)
            .immediate("repeat", repeat.div_ceil(width))
            .immediate("scale", self.scale as f32);
        let kernel = if width > 1 { kernel.vector("X") } else { kernel };
        let kernel = if width > 1 && repeat == 1 { kernel.vector("M") } else { kernel };
        kernel.over(outer * inner / width, 64)
    }

    fn flops(&self, inputs: &[&Shape], _: &Shape) -> u64 {
        3 * inputs[0].count() as u64
    }
}

impl Lower for Min {
    fn kernel(&self, inputs: &[&Shape], output: &Shape, class: DeviceClass) -> Kernel {
        let [_, terms, inner] = extents(&self.axes, inputs[0]);
        let width = vector_width(inner, class);
        let kernel = Kernel::new("reduce/min").immediate("terms", terms).immediate("inner", inner / width);
        let kernel = if width > 1 { kernel.vector("X") } else { kernel };
        kernel.over(output.count() / width, 64)
    }

    fn flops(&self, inputs: &[&Shape], _: &Shape) -> u64 {
        inputs[0].count() as u64
    }
}

impl Lower for LogSumExp {
    fn kernel(&self, inputs: &[&Shape], output: &Shape, _: DeviceClass) -> Kernel {
        Kernel::new("reduce/log_sum_exp").immediate("terms", inputs[0][1]).over(output.count(), 64)
    }

    /// A comparison, a difference, an exponential and an addition per element.
    fn flops(&self, inputs: &[&Shape], _: &Shape) -> u64 {
        4 * inputs[0].count() as u64
    }
}

impl Lower for Magnitude {
    fn kernel(&self, inputs: &[&Shape], output: &Shape, _: DeviceClass) -> Kernel {
        let names = ["terms_a", "terms_b", "terms_c", "terms_d", "terms_e", "terms_f", "terms_g"];
        let kernel = Kernel::new("reduce/magnitude").immediate("lanes", self.lanes);
        let kernel = names
            .into_iter()
            .zip(self.terms(inputs))
            .fold(kernel, |kernel, (name, terms)| kernel.immediate(name, terms));
        kernel.over(output.count(), 64)
    }

    /// An absolute value and an addition per element.
    fn flops(&self, inputs: &[&Shape], output: &Shape) -> u64 {
        2 * (output[0] * self.terms(inputs).sum::<usize>()) as u64
    }
}

/// The kernel of a sum: `by_invocation`, or for long rows on a GPU `by_workgroup`.
fn kernel(
    [by_invocation, by_workgroup]: [&'static str; 2],
    axes: &Range<usize>,
    input: &Shape,
    class: DeviceClass,
) -> Kernel {
    let [outer, terms, inner] = extents(axes, input);
    // A GPU has idle lanes for a long row; CPU drivers, and short or strided sums, are fastest with one invocation per
    // sum.
    if !matches!(class, DeviceClass::Cpu(_)) && inner == 1 && terms >= 128 {
        return Kernel::new(by_workgroup).immediate("terms", terms).over(outer, 1);
    }
    let width = vector_width(inner, class);
    let kernel = Kernel::new(by_invocation).immediate("terms", terms).immediate("inner", inner / width);
    let kernel = if width > 1 { kernel.vector("X") } else { kernel };
    kernel.over(outer * inner / width, 64)
}
