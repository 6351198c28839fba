//! Lowering of elementwise functions: one invocation per element, or per four elements of a long row.

use super::{Binary, BinaryMap, Collapsed, MultiplyAdd, UnaryMap};
use crate::engine::kernel::{DeviceClass, Kernel};
use crate::engine::lower::Lower;
use crate::engine::ops::Shaders;
use crate::engine::tape::Primitive;
use crate::engine::tensor::Shape;

pub(super) const SHADERS: Shaders =
    shaders!["elementwise/binary", "elementwise/multiply_add", "elementwise/multiply_add_2", "elementwise/unary"];

lowers!(UnaryMap, BinaryMap, MultiplyAdd);

/// Invocations in a workgroup of the elementwise kernels.
const WORKGROUP: usize = 64;

/// Elements per workgroup on a CPU driver, where each workgroup has a cost.
const LONG_ROW: usize = 16 * WORKGROUP;

impl Lower for UnaryMap {
    fn kernel(&self, _: &[&Shape], output: &Shape, class: DeviceClass) -> Kernel {
        let [low, high] = self.function.limits();
        let kernel = Kernel::new("elementwise/unary")
            .constant("FUNCTION", self.function.selector())
            .immediate("scale", self.scale as f32)
            .immediate("offset", self.offset as f32)
            .immediate("low", low)
            .immediate("high", high);
        let width = vector_width(output.count(), class);
        let kernel = if width > 1 { kernel.vector("X").vector("StoredY") } else { kernel };
        let kernel = kernel.storable(1, "StoredY", output.count());
        let each = if let DeviceClass::Cpu(_) = class { LONG_ROW } else { WORKGROUP };
        kernel.grid([(output.count() / width).div_ceil(each).min(65_535), 1, 1])
    }

    fn flops(&self, _: &[&Shape], output: &Shape) -> u64 {
        output.count() as u64
    }

    fn is_cheap(&self) -> bool {
        true
    }

    fn is_elementwise(&self) -> bool {
        true
    }
}

impl Lower for BinaryMap {
    fn kernel(&self, inputs: &[&Shape], output: &Shape, class: DeviceClass) -> Kernel {
        let (function, [p, q]) = self.0.selector();
        let axes = Collapsed::new(output, inputs).expect("checked when recorded");
        let kernel = axes
            .dispatch(Kernel::new("elementwise/binary").constant("FUNCTION", function), &Operand::ALL[..2], class)
            .immediate("p", p)
            .immediate("q", q);
        let kernel = vector_result(kernel).storable(2, "StoredY", output.count());
        // f16 keeps the sign, which is all that is read.
        let is_mask = self.0 == Binary::WherePositive && inputs[1] == output;
        if is_mask { kernel.storable(1, "B", output.count()) } else { kernel }
    }

    fn flops(&self, _: &[&Shape], output: &Shape) -> u64 {
        output.count() as u64
    }

    fn is_cheap(&self) -> bool {
        true
    }

    fn is_elementwise(&self) -> bool {
        true
    }
}

impl Lower for MultiplyAdd {
    fn kernel(&self, inputs: &[&Shape], output: &Shape, class: DeviceClass) -> Kernel {
        let axes = Collapsed::new(output, inputs).expect("checked when recorded");
        let kernel = Kernel::new(self.name()).constant("RELU", u32::from(self.relu));
        let mut kernel = axes.dispatch(kernel, &Operand::ALL[..inputs.len()], class);
        for (name, &factor) in ["p", "q", "r"].into_iter().zip(&self.factors) {
            kernel = kernel.immediate(name, factor as f32);
        }
        vector_result(kernel).storable(inputs.len(), "StoredY", output.count())
    }

    fn flops(&self, _: &[&Shape], output: &Shape) -> u64 {
        2 * ((self.factors.len() - 1) * output.count()) as u64
    }

    fn is_cheap(&self) -> bool {
        true
    }

    fn is_elementwise(&self) -> bool {
        true
    }
}

impl Collapsed {
    /// Counts the inner axis, and the operands that span it, in vectors of `width` elements.
    fn in_vectors(mut self, width: usize) -> Self {
        self.extents[2] /= width;
        for [outer, middle, _] in self.strides.iter_mut().filter(|[_, _, inner]| *inner == 1) {
            (*outer, *middle) = (*outer / width, *middle / width);
        }
        self
    }

    /// Splits a single row into rows of `length`, if divisible.
    fn in_rows(mut self, length: usize) -> Self {
        if self.extents[0] == 1 && self.extents[2].is_multiple_of(length) {
            self.extents = [self.extents[2] / length, 1, length];
            self.strides.iter_mut().for_each(|[outer, _, inner]| *outer = *inner * length);
        }
        self
    }

    /// Sets the extents, the operands' strides and the grid: inner along x, middle along y, outer along z. Long rows
    /// are computed in vectors of four; an operand broadcast along the row stays scalar.
    pub(in crate::engine::ops) fn dispatch(self, kernel: Kernel, operands: &[Operand], class: DeviceClass) -> Kernel {
        let width = vector_width(self.extents[2], class);
        let mut axes = self.in_vectors(width);
        if let DeviceClass::Cpu(_) = class {
            axes = axes.in_rows(WORKGROUP);
        }
        let [outer, middle, inner] = axes.extents;
        let grid = match class {
            DeviceClass::Gpu | DeviceClass::Matrix(_) => [inner.div_ceil(WORKGROUP), middle, outer],
            // A workgroup takes several rows, along the outer axis first: operands broadcast along it are loaded once.
            DeviceClass::Cpu(_) => {
                let rows = (LONG_ROW / inner).max(1);
                [inner.div_ceil(LONG_ROW), middle.div_ceil((rows / outer).max(1)), outer.div_ceil(rows)]
            }
        };
        let mut kernel = kernel
            .immediate("outer", outer)
            .immediate("middle", middle)
            .immediate("inner", inner)
            .grid(grid.map(|groups| groups.min(65_535)));
        for (operand, strides) in operands.iter().zip(axes.strides) {
            for (name, stride) in operand.strides.into_iter().zip(strides) {
                kernel = kernel.immediate(name, stride);
            }
            if width > 1 && strides[2] == 1 {
                kernel = kernel.vector(operand.alias);
            }
        }
        if width > 1 { kernel.vector("Y") } else { kernel }
    }
}

/// Stores a vectorised result as vectors.
fn vector_result(kernel: Kernel) -> Kernel {
    if kernel.vectors.contains(&"Y") { kernel.vector("StoredY") } else { kernel }
}

/// Names that kernels use for an operand that may be broadcast: the alias of its elements, and its strides along outer,
/// middle and inner.
pub(in crate::engine::ops) struct Operand {
    alias: &'static str,
    strides: [&'static str; 3],
}

impl Operand {
    /// The operands of kernels with several.
    const ALL: [Operand; 5] = [
        Operand { alias: "A", strides: ["a_outer", "a_middle", "a_inner"] },
        Operand { alias: "B", strides: ["b_outer", "b_middle", "b_inner"] },
        Operand { alias: "C", strides: ["c_outer", "c_middle", "c_inner"] },
        Operand { alias: "D", strides: ["d_outer", "d_middle", "d_inner"] },
        Operand { alias: "E", strides: ["e_outer", "e_middle", "e_inner"] },
    ];
}

pub(in crate::engine::ops) const X: Operand = Operand { alias: "X", strides: ["x_outer", "x_middle", "x_inner"] };

/// Vector width for rows of `count` elements: 4, or 1 if vectors would leave lanes idle.
pub(in crate::engine::ops) fn vector_width(count: usize, class: DeviceClass) -> usize {
    let lanes = match class {
        DeviceClass::Gpu | DeviceClass::Matrix(_) => WORKGROUP,
        DeviceClass::Cpu(lanes) => lanes.count(),
    };
    if count.is_multiple_of(4) && count >= 4 * lanes { 4 } else { 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_row_of_vectors_is_split_into_rows() {
        let output = Shape::from([4, 8, 5, 7]);
        let axes = Collapsed::new(&output, &[&output, &output]).unwrap();
        assert_eq!((axes.extents, &axes.strides[0]), ([1, 1, 1120], &[0, 0, 1]));
        let rows = axes.in_vectors(4).in_rows(56);
        assert_eq!((rows.extents, &rows.strides[0]), ([5, 1, 56], &[56, 0, 1]));
    }
}
