//! Lowering of Adam's update: one invocation per parameter.

use super::AdamUpdate;
use crate::engine::kernel::{DeviceClass, Kernel};
use crate::engine::lower::Lower;
use crate::engine::ops::Shaders;
use crate::engine::tensor::Shape;

pub(super) const SHADERS: Shaders = shaders!["optimiser/adam"];

lowers!(AdamUpdate);

impl Lower for AdamUpdate {
    fn kernel(&self, _: &[&Shape], output: &Shape, _: DeviceClass) -> Kernel {
        Kernel::new("optimiser/adam").over(output.count(), 64)
    }

    fn flops(&self, _: &[&Shape], output: &Shape) -> u64 {
        7 * output.count() as u64
    }

    fn is_elementwise(&self) -> bool {
        true
    }
}
