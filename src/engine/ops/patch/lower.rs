//! Lowering of masks and their backward rules: one invocation per pixel, or per row of pixels.

use super::{Mask, MaskVjp};
use crate::engine::kernel::{DeviceClass, Kernel};
use crate::engine::lower::Lower;
use crate::engine::ops::Shaders;
use crate::engine::tape::Primitive;
use crate::engine::tensor::Shape;

pub(super) const CUTDIFF: Shaders = shaders!["cutdiff/mask", "cutdiff/mask_vjp"];
pub(super) const SOFTBOX: Shaders = shaders!["softbox/mask", "softbox/mask_vjp"];

pub(super) const SOFTDISC: Shaders = shaders!["softdisc/mask", "softdisc/mask_vjp"];

lowers!(Mask, MaskVjp);

impl Lower for Mask {
    fn kernel(&self, inputs: &[&Shape], _: &Shape, _: DeviceClass) -> Kernel {
        let [h, w] = self.size;
        let n = inputs[0][0];
        Kernel::new(self.name()).immediate("n", n).immediate("h", h).immediate("w", w).grid([
            (h * w).div_ceil(64).min(65_535),
            n.min(65_535),
            1,
        ])
    }

    fn flops(&self, _: &[&Shape], output: &Shape) -> u64 {
        12 * output.count() as u64
    }

    fn is_cheap(&self) -> bool {
        true
    }
}

impl Lower for MaskVjp {
    fn kernel(&self, inputs: &[&Shape], _: &Shape, _: DeviceClass) -> Kernel {
        let [n, _, h, w] = inputs.last().and_then(|shape| shape.images().ok()).expect("checked when recorded");
        Kernel::new(self.name()).immediate("n", n).immediate("h", h).immediate("w", w).over(n * h, 64)
    }

    fn flops(&self, inputs: &[&Shape], _: &Shape) -> u64 {
        20 * inputs.last().expect("the cotangent").count() as u64
    }
}
