//! Lowering of warps and their backward rules: one invocation per pixel, or per row of pixels.

use super::{Affine, AffineImageVjp, AffineMatrixVjp, Outside};
use crate::engine::kernel::{DeviceClass, Kernel};
use crate::engine::lower::Lower;
use crate::engine::ops::Shaders;
use crate::engine::tensor::Shape;

pub(super) const SHADERS: Shaders = shaders!["warp/affine", "warp/affine_image_vjp", "warp/affine_matrix_vjp"];

lowers!(Affine, AffineImageVjp, AffineMatrixVjp);

impl Lower for Affine {
    fn kernel(&self, _: &[&Shape], output: &Shape, _: DeviceClass) -> Kernel {
        let [n, c, h, w] = output.images().expect("checked when recorded");
        pixel_grid(
            Kernel::new("warp/affine").constant("NEAREST", u32::from(self.outside == Outside::Nearest)),
            [n, c, h, w],
        )
    }

    fn flops(&self, _: &[&Shape], output: &Shape) -> u64 {
        16 * output.count() as u64
    }
}

impl Lower for AffineMatrixVjp {
    fn kernel(&self, inputs: &[&Shape], _: &Shape, _: DeviceClass) -> Kernel {
        let [n, c, h, w] = inputs[0].images().expect("checked when recorded");
        Kernel::new("warp/affine_matrix_vjp")
            .immediate("n", n)
            .immediate("c", c)
            .immediate("h", h)
            .immediate("w", w)
            .over(n * h, 64)
    }

    fn flops(&self, inputs: &[&Shape], _: &Shape) -> u64 {
        24 * inputs[0].count() as u64
    }
}

impl Lower for AffineImageVjp {
    fn kernel(&self, _: &[&Shape], output: &Shape, _: DeviceClass) -> Kernel {
        let [n, c, h, w] = output.images().expect("checked when recorded");
        pixel_grid(Kernel::new("warp/affine_image_vjp"), [n, c, h, w])
    }

    fn flops(&self, _: &[&Shape], output: &Shape) -> u64 {
        64 * output.count() as u64
    }
}

fn pixel_grid(kernel: Kernel, [n, c, h, w]: [usize; 4]) -> Kernel {
    kernel.immediate("n", n).immediate("c", c).immediate("h", h).immediate("w", w).grid([
        (h * w).div_ceil(64).min(65_535),
        n.min(65_535),
        1,
    ])
}
