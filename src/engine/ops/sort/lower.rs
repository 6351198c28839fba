//! Lowering of sorting: one invocation per element.

use super::{Gather, Order, Scatter};
use crate::engine::kernel::{DeviceClass, Kernel};
use crate::engine::lower::Lower;
use crate::engine::ops::Shaders;
use crate::engine::tensor::Shape;

pub(super) const SHADERS: Shaders = shaders!["sort/gather", "sort/order", "sort/scatter"];

lowers!(Order, Gather, Scatter);

impl Lower for Order {
    fn kernel(&self, _: &[&Shape], output: &Shape, _: DeviceClass) -> Kernel {
        Kernel::new("sort/order").immediate("rows", output[0]).immediate("columns", output[1]).over(output.count(), 64)
    }

    /// Comparisons.
    fn flops(&self, _: &[&Shape], output: &Shape) -> u64 {
        (output[0] * output.count()) as u64
    }
}

impl Lower for Gather {
    fn kernel(&self, inputs: &[&Shape], output: &Shape, _: DeviceClass) -> Kernel {
        Kernel::new("sort/gather")
            .immediate("rows", inputs[0][0])
            .immediate("columns", output[1])
            .over(output.count(), 64)
    }

    fn flops(&self, _: &[&Shape], _: &Shape) -> u64 {
        0
    }
}

impl Lower for Scatter {
    fn kernel(&self, inputs: &[&Shape], output: &Shape, _: DeviceClass) -> Kernel {
        Kernel::new("sort/scatter")
            .immediate("terms", inputs[0][0])
            .immediate("rows", output[0])
            .immediate("columns", output[1])
            .over(output.count(), 64)
    }

    fn flops(&self, inputs: &[&Shape], _: &Shape) -> u64 {
        inputs[0].count() as u64
    }
}
