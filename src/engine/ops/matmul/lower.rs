//! Lowering of matrix products: tiles in workgroup memory on GPUs, matrix units, and SIMD vectors on CPU drivers.

use super::Matmul;
use crate::engine::kernel::{DeviceClass, Kernel};
use crate::engine::lower::Lower;
use crate::engine::lower::gemm::{Product, Tiles};
use crate::engine::ops::Shaders;
use crate::engine::tensor::Shape;

pub(super) const SHADERS: Shaders = shaders!["matmul/product", "matmul/product_broadcast", "matmul/product_matrix"];

lowers!(Matmul);

impl Lower for Matmul {
    fn kernel(&self, inputs: &[&Shape], _output: &Shape, class: DeviceClass) -> Kernel {
        let extents @ [m, n, _] = self.accepted(inputs);
        match class {
            DeviceClass::Gpu | DeviceClass::Matrix(_) => {
                self.tiled(extents, Tiles::choose(self.product(extents), class))
            }
            DeviceClass::Cpu(_) => {
                let (along, across) = (m.max(n), m.min(n));
                // Small products are cut finer, so that each core has some.
                let (micro_along, micro_across) = if along * across >= 64 * 64 {
                    (8.min(along.div_ceil(8)), 8.min(across))
                } else {
                    (1, 8.min(across))
                };
                self.broadcast(extents, [micro_along, micro_across])
            }
        }
    }

    fn tilings(&self, inputs: &[&Shape], _output: &Shape, class: DeviceClass) -> Vec<Kernel> {
        let extents = self.accepted(inputs);
        match class {
            DeviceClass::Gpu | DeviceClass::Matrix(_) => {
                Tiles::of(class, self.product(extents)).into_iter().map(|tiles| self.tiled(extents, tiles)).collect()
            }
            DeviceClass::Cpu(_) => {
                let micros = [1, 2, 4, 8].into_iter().flat_map(|along| [1, 2, 4, 8].map(|across| [along, across]));
                micros.map(|micros| self.broadcast(extents, micros)).collect()
            }
        }
    }

    fn flops(&self, inputs: &[&Shape], _output: &Shape) -> u64 {
        let [m, n, k] = self.accepted(inputs);
        2 * (m * n) as u64 * k as u64
    }
}

impl Matmul {
    fn product(&self, [m, n, k]: [usize; 3]) -> Product {
        Product { m, n, k, layers: 1, along_k: usize::from(!self.transpose_a) + usize::from(self.transpose_b) }
    }

    fn of_problem(&self, kernel: Kernel, [m, n, k]: [usize; 3]) -> Kernel {
        kernel
            .constant("TRANSPOSE_A", u32::from(self.transpose_a))
            .constant("TRANSPOSE_B", u32::from(self.transpose_b))
            .immediate("m", m)
            .immediate("n", n)
            .immediate("k", k)
    }

    /// Slabs of both factors pass through workgroup memory.
    fn tiled(&self, extents: [usize; 3], tiles: Tiles) -> Kernel {
        let [m, n, k] = extents;
        let kernel = self.of_problem(tiles.kernel("matmul/product", "matmul/product_matrix"), extents);
        let kernel = kernel.grid([n.div_ceil(tiles.n), m.div_ceil(tiles.m), 1]);
        match kernel.tile() {
            Some(_) => kernel.storable(0, "StoredA", m * k).storable(1, "StoredB", k * n),
            None => kernel,
        }
    }

    /// The longer side along the lanes, so many times as the first number says, and the second number of the other.
    fn broadcast(&self, extents: [usize; 3], [micro_along, micro_across]: [usize; 2]) -> Kernel {
        let [m, n, _] = extents;
        self.of_problem(Kernel::new("matmul/product_broadcast"), extents)
            .constant("LANES_ALONG_M", u32::from(m > n))
            .constant("MICRO_ALONG", micro_along)
            .constant("MICRO_ACROSS", micro_across)
            .grid([m.max(n).div_ceil(8 * micro_along), m.min(n).div_ceil(micro_across), 1])
    }
}
