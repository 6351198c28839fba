//! Lowering of copies: one invocation per element, of a transposition one for four.

use super::{Broadcast, Concat, Pad, Slice, Transpose, inside, rows};
use crate::engine::kernel::{DeviceClass, Kernel};
use crate::engine::lower::Lower;
use crate::engine::ops::Shaders;
use crate::engine::ops::elementwise::{Collapsed, X};
use crate::engine::tensor::Shape;

pub(super) const SHADERS: Shaders =
    shaders!["layout/broadcast", "layout/concat", "layout/pad", "layout/slice", "layout/transpose"];

lowers!(Broadcast, Transpose, Slice, Pad, Concat);

impl Lower for Broadcast {
    fn kernel(&self, inputs: &[&Shape], output: &Shape, class: DeviceClass) -> Kernel {
        let axes = Collapsed::new(output, inputs).expect("checked when recorded");
        axes.dispatch(Kernel::new("layout/broadcast"), &[X], class)
    }

    fn flops(&self, _: &[&Shape], _: &Shape) -> u64 {
        0
    }

    fn is_cheap(&self) -> bool {
        true
    }
}

impl Lower for Transpose {
    fn kernel(&self, inputs: &[&Shape], _: &Shape, _: DeviceClass) -> Kernel {
        /// Rows and columns of a workgroup's tile.
        const TILE: usize = 32;
        let [m, n] = inputs[0].matrix().expect("checked when recorded");
        let tiles = |extent: usize| extent.div_ceil(TILE).min(65_535);
        Kernel::new("layout/transpose").immediate("m", m).immediate("n", n).grid([tiles(n), tiles(m), 1])
    }

    fn flops(&self, _: &[&Shape], _: &Shape) -> u64 {
        0
    }
}

impl Lower for Slice {
    fn kernel(&self, inputs: &[&Shape], output: &Shape, _: DeviceClass) -> Kernel {
        let ([_, x_row], [outer, y_row]) = (rows(inputs[0], self.axis), rows(output, self.axis));
        let kernel = Kernel::new("layout/slice")
            .immediate("outer", outer)
            .immediate("x_row", x_row)
            .immediate("y_row", y_row)
            .immediate("first", self.start * inside(output, self.axis));
        row_grid(kernel, outer, y_row)
    }

    fn flops(&self, _: &[&Shape], _: &Shape) -> u64 {
        0
    }

    fn is_cheap(&self) -> bool {
        true
    }
}

impl Lower for Pad {
    fn kernel(&self, inputs: &[&Shape], output: &Shape, _: DeviceClass) -> Kernel {
        let ([_, x_row], [outer, y_row]) = (rows(inputs[0], self.axis), rows(output, self.axis));
        let kernel = Kernel::new("layout/pad")
            .immediate("outer", outer)
            .immediate("x_row", x_row)
            .immediate("y_row", y_row)
            .immediate("first", self.start * inside(output, self.axis));
        row_grid(kernel, outer, y_row)
    }

    fn flops(&self, _: &[&Shape], _: &Shape) -> u64 {
        0
    }

    fn is_cheap(&self) -> bool {
        true
    }
}

impl Lower for Concat {
    fn kernel(&self, inputs: &[&Shape], output: &Shape, _: DeviceClass) -> Kernel {
        let ([outer, a_row], [_, b_row]) = (rows(inputs[0], self.axis), rows(inputs[1], self.axis));
        let kernel =
            Kernel::new("layout/concat").immediate("outer", outer).immediate("a_row", a_row).immediate("b_row", b_row);
        row_grid(kernel, outer, rows(output, self.axis)[1])
    }

    fn flops(&self, _: &[&Shape], _: &Shape) -> u64 {
        0
    }

    fn is_cheap(&self) -> bool {
        true
    }
}

fn row_grid(kernel: Kernel, outer: usize, row: usize) -> Kernel {
    kernel.grid([row.div_ceil(64).min(65_535), outer.min(65_535), 1])
}
