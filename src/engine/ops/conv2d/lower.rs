//! Lowering of convolutions: implicit GEMM on GPUs, matrix units where there are some, and SIMD vectors on CPU drivers.

mod cpu;

use std::sync::Arc;

use super::{Conv2d, OfTransposed, PartialKernel, Problem, Role};
use crate::engine::kernel::{DeviceClass, Kernel, Tile};
use crate::engine::lower::gemm::{Product, TILES, Tiles};
use crate::engine::lower::{Detour, Lower};
use crate::engine::ops::Shaders;
use crate::engine::tape::Primitive;
use crate::engine::tensor::Shape;

pub(super) const SHADERS: Shaders = shaders![
    "conv2d/input",
    "conv2d/input_broadcast",
    "conv2d/input_matrix",
    "conv2d/kernel",
    "conv2d/kernel_broadcast",
    "conv2d/kernel_matrix",
    "conv2d/output",
    "conv2d/output_broadcast",
    "conv2d/output_matrix"
];

lowers!(Conv2d, OfTransposed, PartialKernel);

impl Lower for Conv2d {
    fn kernel(&self, inputs: &[&Shape], _output: &Shape, class: DeviceClass) -> Kernel {
        let problem = self.accepted(inputs);
        let class = match class {
            // The matrices of a group are too small to fill units.
            DeviceClass::Matrix(_) if problem.groups > 1 => DeviceClass::Gpu,
            class => class,
        };
        match (self.solve_for, class) {
            (_, DeviceClass::Gpu) => self.tiled(&problem, Tiles::choose(self.gemm(&problem)), problem.n),
            (role, DeviceClass::Cpu(lanes)) => cpu::kernel(&problem, role, lanes),
            (_, DeviceClass::Matrix(tile)) => self.matrix(&problem, tile, self.blocks(&problem, tile)),
        }
    }

    fn tilings(&self, inputs: &[&Shape], _output: &Shape, class: DeviceClass) -> Vec<Kernel> {
        let problem = self.accepted(inputs);
        match (self.solve_for, class) {
            (_, DeviceClass::Gpu) => TILES.into_iter().map(|tiles| self.tiled(&problem, tiles, problem.n)).collect(),
            (role, DeviceClass::Cpu(lanes)) => cpu::tilings(&problem, role, lanes),
            (_, DeviceClass::Matrix(_)) if problem.groups > 1 => Vec::new(),
            (Role::Output | Role::Input, DeviceClass::Matrix(tile)) => {
                let blocks = [1, 2].into_iter().flat_map(|m| [1, 2, 4].map(|n| [m, n, 1]));
                blocks.map(|blocks| self.matrix(&problem, tile, blocks)).collect()
            }
            (Role::Kernel, DeviceClass::Matrix(tile)) => {
                let blocks = [[1, 1, 1], [1, 1, 2], [1, 1, 4], [1, 1, 8], [2, 2, 1], [2, 2, 2]];
                blocks.map(|blocks| self.matrix(&problem, tile, blocks)).to_vec()
            }
        }
    }

    fn detour(&self, inputs: &[&Shape], class: DeviceClass) -> Option<Detour> {
        /// Elements of w that all workgroups read together, from which on its transposition pays: a GPU loads eight
        /// neighbours in the time of one that has none.
        const READS: usize = 1 << 26;
        if class != DeviceClass::Gpu {
            return None;
        }
        let problem = self.accepted(inputs);
        let (product, [r, s]) = (self.gemm(&problem), problem.geometry.window);
        if self.solve_for == Role::Kernel {
            let run = product.part(problem.n);
            return (run < problem.n).then(|| Detour::Sum(Arc::new(PartialKernel { whole: *self, run })));
        }
        let reads = product.m * product.k * product.layers * product.n.div_ceil(Tiles::choose(product).n);
        let rows =
            if self.solve_for == Role::Output { problem.groups * problem.k } else { inputs[1].count() / (r * s) };
        (r * s > 1 && reads >= READS && self.phases(&problem) == 1)
            .then(|| Detour::OfTransposed(rows, Arc::new(OfTransposed { whole: *self })))
    }

    fn flops(&self, inputs: &[&Shape], _output: &Shape) -> u64 {
        self.accepted(inputs).flops()
    }
}

/// The same kernel on all devices: the plan asks for it on GPUs alone.
impl Lower for OfTransposed {
    fn kernel(&self, inputs: &[&Shape], _output: &Shape, _: DeviceClass) -> Kernel {
        let problem = self.accepted(inputs);
        let tiles = Tiles::choose(self.whole.gemm(&problem));
        self.whole.tiled(&problem, tiles, problem.n).constant("TRANSPOSED", 1u32)
    }

    fn flops(&self, inputs: &[&Shape], _output: &Shape) -> u64 {
        self.accepted(inputs).flops()
    }
}

/// The same kernel on all devices: the plan asks for it on GPUs alone.
impl Lower for PartialKernel {
    fn kernel(&self, inputs: &[&Shape], _output: &Shape, _: DeviceClass) -> Kernel {
        let problem = self.accepted(inputs);
        let run = self.run.min(problem.n);
        let part = self.whole.gemm(&problem).in_parts(problem.n, run);
        self.whole.tiled(&problem, Tiles::choose(part), run)
    }

    fn flops(&self, inputs: &[&Shape], _output: &Shape) -> u64 {
        self.accepted(inputs).flops()
    }
}

impl Problem {
    fn flops(&self) -> u64 {
        let [r, s] = self.geometry.window;
        2 * (self.n * self.groups * self.k * self.p * self.q) as u64 * (self.c * r * s) as u64
    }
}

/// The constants and the immediate that all kernels of the family have in common.
fn kernel_of_problem(name: &'static str, problem: &Problem) -> Kernel {
    let Problem { n, groups, c, k, geometry, .. } = *problem;
    let ([h, w], [r, s]) = (geometry.image, geometry.window);
    let kernel = Kernel::new(name)
        .constant("H", h)
        .constant("W", w)
        .constant("K", k)
        .constant("R", r)
        .constant("S", s)
        .constant("STRIDE", geometry.stride)
        .constant("PADDING", geometry.padding)
        .immediate("n", n);
    match name.ends_with("_matrix") {
        // A module with cooperative matrices can declare no `C`: it is one of their roles.
        true => kernel.constant("CHANNELS", c),
        false => kernel.constant("C", c).constant("GROUPS", groups),
    }
}

impl Conv2d {
    /// The output's channels, its pixels, and the channels that are summed over, of the matrix product that an output or
    /// input comes to.
    fn product(&self, problem: &Problem) -> [usize; 3] {
        let [h, w] = problem.geometry.image;
        match self.solve_for {
            Role::Output => [problem.k, problem.n * problem.p * problem.q, problem.c],
            _ => [problem.c, problem.n * h * w, problem.k],
        }
    }

    /// Blocks of 2 × 2 matrices of a workgroup on matrix units: how many lie side by side in rows and columns of the product,
    /// and how many share a sum. An output or input has 2 × 4, or fewer where there are few channels or pixels; the kernel is
    /// small, so that where it has few tiles a workgroup takes a smaller one of them and shares its sum out.
    fn blocks(&self, problem: &Problem, tile: Tile) -> [usize; 3] {
        let block = 2 * tile.side();
        match self.solve_for {
            Role::Output | Role::Input => {
                let [channels, pixels, _] = self.product(problem);
                let m = channels.div_ceil(block).min(2);
                [m, pixels.div_ceil(block).next_power_of_two().min(8 / m).min(4), 1]
            }
            Role::Kernel => {
                let [_, w, _] = problem.elements();
                let tiles = problem.k.div_ceil(2 * block) * (w / problem.k).div_ceil(2 * block);
                if tiles >= 64 { [2, 2, 2] } else { [1, 1, 4] }
            }
        }
    }

    /// On matrix units, with such [`blocks`](Self::blocks).
    fn matrix(&self, problem: &Problem, tile: Tile, [blocks_m, blocks_n, shares]: [usize; 3]) -> Kernel {
        let [x, w, y] = problem.elements();
        let (name, [left, right]) = match self.solve_for {
            Role::Output => ("conv2d/output_matrix", [("StoredX", x), ("StoredW", w)]),
            Role::Input => ("conv2d/input_matrix", [("StoredY", y), ("StoredW", w)]),
            Role::Kernel => ("conv2d/kernel_matrix", [("StoredX", x), ("StoredY", y)]),
        };
        let block = 2 * tile.side();
        let kernel = kernel_of_problem(name, problem)
            .with_tile(tile)
            .constant("BLOCKS_M", blocks_m)
            .constant("BLOCKS_N", blocks_n)
            .storable(0, left.0, left.1)
            .storable(1, right.0, right.1);
        match self.solve_for {
            Role::Output | Role::Input => {
                let [channels, pixels, summed] = self.product(problem);
                let kernel = kernel.constant("TILE_K", summed.next_multiple_of(tile.side()).min(32));
                kernel.over_layers(pixels, block * blocks_n, channels.div_ceil(block * blocks_m))
            }
            Role::Kernel => {
                let taps = w / problem.k;
                let grid = [taps.div_ceil(block * blocks_n), problem.k.div_ceil(block * blocks_m), 1];
                kernel.constant("SHARES", shares).grid(grid)
            }
        }
    }

    /// The phases of a stride whose channels are rows of one product: all, where that takes less time than a product for
    /// each.
    fn phases(&self, problem: &Problem) -> usize {
        let ([h, w], stride) = (problem.geometry.image, problem.geometry.stride);
        if self.solve_for != Role::Input || h % stride > 0 || w % stride > 0 {
            return 1;
        }
        let cost = |phases: &usize| {
            let product = self.gemm_of(problem, *phases);
            Tiles::choose(product).cost(product)
        };
        [1, stride * stride].into_iter().min_by(|a, b| cost(a).total_cmp(&cost(b))).expect("two")
    }

    fn gemm(&self, problem: &Problem) -> Product {
        self.gemm_of(problem, self.phases(problem))
    }

    /// The implicit GEMM: rows are the channels of a group of the output, columns its pixels; or, of the kernel, its taps. An
    /// input's falls into one for each phase of the stride, with a share of the taps, or for all these phases together.
    fn gemm_of(&self, problem: &Problem, phases: usize) -> Product {
        let Problem { n, groups, c, k, p, q, geometry } = *problem;
        let ([h, w], [r, s], stride) = (geometry.image, geometry.window, geometry.stride);
        match self.solve_for {
            Role::Output => Product { m: k, n: n * p * q, k: c * r * s, layers: groups },
            Role::Input => {
                let pixels = n * h.div_ceil(stride) * w.div_ceil(stride);
                // The taps of a phase, or those that any of them has.
                let taps = |window: usize| match phases {
                    1 => window.div_ceil(stride),
                    _ => (window + 2 * stride - 2 - (stride - 1 + geometry.padding) % stride) / stride,
                };
                Product {
                    m: c * phases,
                    n: pixels,
                    k: k * taps(r) * taps(s),
                    layers: groups * stride * stride / phases,
                }
            }
            Role::Kernel => Product { m: k, n: c * r * s, k: n * p * q, layers: groups },
        }
    }

    /// By `gemm/tile`; a kernel in runs of so many images.
    fn tiled(&self, problem: &Problem, tiles: Tiles, run: usize) -> Kernel {
        let product = self.gemm(problem);
        let kernel = tiles.constants(kernel_of_problem(self.name(), problem));
        let [rows, columns] = [product.m.div_ceil(tiles.m), product.n.div_ceil(tiles.n)];
        let Problem { n, groups, c, k, p, q, geometry } = *problem;
        let [r, s] = geometry.window;
        match self.solve_for {
            Role::Output => {
                let block = block(tiles.k, c, r * s);
                kernel.constant("BLOCK", block).over_layers(columns, 1, groups * rows)
            }
            Role::Input => {
                let block = block(tiles.k, k, product.k / k);
                let kernel = kernel.constant("BLOCK", block).constant("PHASES", product.m / c);
                kernel.over_layers(columns * (product.layers / groups), 1, groups * rows)
            }
            Role::Kernel => {
                let block = tiles.k / block(tiles.k, p * q, run);
                let kernel = kernel.constant("BLOCK", block).immediate("run", run);
                kernel.grid([columns, rows, groups * n.div_ceil(run)])
            }
        }
    }
}

/// How many of one kind, such as channels, a slab of `depth` has, and others, such as taps, for the rest: those that least of
/// the slabs is in vain with, and of such the most.
fn block(depth: usize, kind: usize, others: usize) -> usize {
    let slabs = |block: usize| kind.div_ceil(block) * others.div_ceil(depth / block);
    let blocks = (0..=depth.ilog2()).map(|power| depth >> power);
    blocks.min_by_key(|&block| slabs(block)).expect("there is a block of one")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slabs_have_as_many_channels_as_fill_them() {
        // Many channels; three, or one, of many taps; so few of both that some of it is in vain.
        for (channels, taps, expected) in [(64, 9, 8), (3, 49, 1), (1, 9, 1), (12, 9, 4), (3, 1, 8)] {
            assert_eq!(block(8, channels, taps), expected, "{channels} channels of {taps} taps");
        }
    }
}
