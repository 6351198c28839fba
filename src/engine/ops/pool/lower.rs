//! Lowering of pooling: one invocation per output pixel, or per image pixel.

use super::{Argmax, Select, Unpool};
use crate::engine::kernel::{DeviceClass, Kernel};
use crate::engine::lower::Lower;
use crate::engine::ops::Shaders;
use crate::engine::ops::conv2d::Geometry;
use crate::engine::tensor::Shape;

pub(super) const SHADERS: Shaders = shaders!["pool/argmax", "pool/select", "pool/unpool"];

lowers!(Argmax, Select, Unpool);

impl Lower for Argmax {
    fn kernel(&self, _: &[&Shape], output: &Shape, _: DeviceClass) -> Kernel {
        over_windows("pool/argmax", &self.geometry, output.count())
    }

    /// Comparisons.
    fn flops(&self, _: &[&Shape], output: &Shape) -> u64 {
        (output.count() * self.geometry.window.iter().product::<usize>()) as u64
    }
}

impl Lower for Select {
    fn kernel(&self, _: &[&Shape], output: &Shape, _: DeviceClass) -> Kernel {
        Kernel::new("pool/select")
            .immediate("pixels", self.geometry.image.iter().product::<usize>())
            .immediate("windows", output[2] * output[3])
            .over(output.count(), 64)
    }

    fn flops(&self, _: &[&Shape], _: &Shape) -> u64 {
        0
    }
}

impl Lower for Unpool {
    fn kernel(&self, _: &[&Shape], output: &Shape, _: DeviceClass) -> Kernel {
        over_windows("pool/unpool", &self.geometry, output.count())
    }

    fn flops(&self, inputs: &[&Shape], _: &Shape) -> u64 {
        inputs[0].count() as u64
    }
}

/// The kernel `name`, one invocation for each of `count` elements, with all extents of `geometry`.
fn over_windows(name: &'static str, geometry: &Geometry, count: usize) -> Kernel {
    let ([h, w], [r, s]) = (geometry.image, geometry.window);
    let [p, q] = geometry.output().expect("checked when recorded");
    Kernel::new(name)
        .immediate("h", h)
        .immediate("w", w)
        .immediate("p", p)
        .immediate("q", q)
        .immediate("r", r)
        .immediate("s", s)
        .immediate("stride", geometry.stride)
        .immediate("padding", geometry.padding)
        .over(count, 64)
}
