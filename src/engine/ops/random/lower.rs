//! Lowering of random draws: one invocation per four numbers.

use super::Uniform;
use crate::engine::kernel::{DeviceClass, Kernel};
use crate::engine::lower::Lower;
use crate::engine::ops::Shaders;
use crate::engine::tensor::Shape;

pub(super) const SHADERS: Shaders = shaders!["random/uniform"];

lowers!(Uniform);

impl Lower for Uniform {
    fn kernel(&self, inputs: &[&Shape], output: &Shape, _: DeviceClass) -> Kernel {
        let keys = inputs[0].count() / 6;
        Kernel::new("random/uniform")
            .immediate("stream", self.stream)
            .immediate("keys", keys)
            .immediate("row", self.row())
            .over(keys * (output.count() / keys).div_ceil(4), 64)
    }

    fn flops(&self, _: &[&Shape], output: &Shape) -> u64 {
        output.count() as u64
    }

    fn is_cheap(&self) -> bool {
        true
    }
}
