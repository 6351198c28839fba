//! Lowering of convolutions: implicit GEMM on GPUs, matrix units where there are some, and SIMD vectors on CPU drivers.

mod cpu;

use super::{Conv2d, Problem, Role};
use crate::engine::kernel::{DeviceClass, Kernel};
use crate::engine::kernel::{Tile, WORKGROUP_BYTES};
use crate::engine::lower::Lower;
use crate::engine::ops::Shaders;
use crate::engine::ops::matmul::Tiles;
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

lowers!(Conv2d);

impl Lower for Conv2d {
    fn kernel(&self, inputs: &[&Shape], _output: &Shape, class: DeviceClass) -> Kernel {
        let problem = self.accepted(inputs);
        let class = match class {
            // The matrices of a group are too small to fill units.
            DeviceClass::Matrix(_) if problem.groups > 1 => DeviceClass::Gpu,
            class => class,
        };
        match (self.solve_for, class) {
            (Role::Output | Role::Input, DeviceClass::Gpu) => self.tiled(&problem, self.tiles(&problem)),
            (Role::Kernel, DeviceClass::Gpu) => Shared::fitting(&problem).kernel(&problem),
            (role, DeviceClass::Cpu(lanes)) => cpu::kernel(&problem, role, lanes),
            (_, DeviceClass::Matrix(tile)) => self.matrix(&problem, tile, self.blocks(&problem, tile)),
        }
    }

    fn tilings(&self, inputs: &[&Shape], _output: &Shape, class: DeviceClass) -> Vec<Kernel> {
        let problem = self.accepted(inputs);
        match (self.solve_for, class) {
            (Role::Output | Role::Input, DeviceClass::Gpu) => {
                Tiles::admissible().map(|tiles| self.tiled(&problem, tiles)).collect()
            }
            (Role::Kernel, DeviceClass::Gpu) => Shared::admissible(&problem).map(|cut| cut.kernel(&problem)).collect(),
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

    fn flops(&self, inputs: &[&Shape], _output: &Shape) -> u64 {
        let Problem { n, groups, c, k, p, q, geometry } = self.accepted(inputs);
        let [r, s] = geometry.window;
        2 * (n * groups * k * p * q) as u64 * (c * r * s) as u64
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

    fn tiles(&self, problem: &Problem) -> Tiles {
        let [channels, _, _] = self.product(problem);
        let (m, n) = match channels {
            0..=8 => (8, 128),
            9..=16 => (16, 128),
            17..=32 => (32, 128),
            _ => (64, 64),
        };
        Tiles { m, n, k: 16, micro_m: 4, micro_n: 4 }
    }

    /// Implicit GEMM: rows are the channels of a group of the output, columns its pixels.
    fn tiled(&self, problem: &Problem, tiles: Tiles) -> Kernel {
        let [channels, pixels, _] = self.product(problem);
        let kernel = tiles.constants(kernel_of_problem(self.name(), problem));
        kernel.over_layers(pixels, tiles.n, problem.groups * channels.div_ceil(tiles.m))
    }
}

/// What a workgroup owns that solves for the kernel: few long sums, each of which its invocations share.
#[derive(Clone, Copy)]
struct Shared {
    micro_k: usize,
    micro_c: usize,
    window_rows: usize,
}

impl Shared {
    /// 72 accumulators a thread at most, unless a single window row of one channel has more.
    const ACCUMULATORS: usize = 72;
    /// Invocations of a workgroup, where their partial sums fit.
    const INVOCATIONS: usize = 128;

    fn fitting(problem: &Problem) -> Shared {
        let [r, s] = problem.geometry.window;
        let window_rows = if r * s <= 9 { r } else { 1 };
        let taps = window_rows * s;
        let micro_c = (9 / taps).clamp(1, problem.c.min(8));
        let micro_k = (Shared::ACCUMULATORS / (taps * micro_c)).clamp(1, problem.k.min(8));
        Shared { micro_k, micro_c, window_rows }
    }

    /// Those whose accumulators and partial sums fit.
    fn admissible(problem: &Problem) -> impl Iterator<Item = Shared> {
        let [r, s] = problem.geometry.window;
        let micros = (1..=problem.k.min(8)).flat_map(move |k| (1..=problem.c.min(8)).map(move |c| (k, c)));
        let cuts = micros.flat_map(move |(micro_k, micro_c)| {
            let rows = (1..=r).filter(move |&rows| r.is_multiple_of(rows));
            rows.map(move |window_rows| Shared { micro_k, micro_c, window_rows })
        });
        cuts.filter(move |cut| {
            let taps = cut.taps(s);
            taps * cut.micro_k <= Shared::ACCUMULATORS && Shared::invocations(taps) == Shared::INVOCATIONS
        })
    }

    /// Taps of a workgroup in windows of so many columns.
    fn taps(&self, columns: usize) -> usize {
        self.micro_c * self.window_rows * columns
    }

    /// Invocations of a workgroup: each has a partial sum of every tap in workgroup memory. Half as many hold a row of wider
    /// windows, and so on.
    fn invocations(taps: usize) -> usize {
        let halves = std::iter::successors(Some(Shared::INVOCATIONS), |invocations| Some(invocations / 2));
        let mut fitting = halves.take_while(|invocations| *invocations > 0);
        let fits = |invocations: &usize| taps * invocations * size_of::<f32>() <= WORKGROUP_BYTES as usize;
        fitting.find(fits).expect("a row of a window has at most 4096 columns")
    }

    fn kernel(self, problem: &Problem) -> Kernel {
        let Shared { micro_k, micro_c, window_rows } = self;
        let [r, s] = problem.geometry.window;
        kernel_of_problem("conv2d/kernel", problem)
            .constant("INVOCATIONS", Shared::invocations(self.taps(s)))
            .constant("MICRO_K", micro_k)
            .constant("MICRO_C", micro_c)
            .constant("WINDOW_ROWS", window_rows)
            .grid([problem.c.div_ceil(micro_c), problem.groups * problem.k.div_ceil(micro_k), r / window_rows])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::geometry::Geometry;

    #[test]
    fn partial_sums_fit_the_workgroup_memory_of_every_device() {
        for window in (1..=100).chain([4096]) {
            let geometry = Geometry { image: [window; 2], window: [window; 2], stride: 1, padding: 0 };
            let problem = Problem { n: 1, groups: 1, c: 3, k: 5, p: 1, q: 1, geometry };
            let kernel = Shared::fitting(&problem).kernel(&problem);
            let [invocations, channels, rows] = ["INVOCATIONS", "MICRO_C", "WINDOW_ROWS"].map(|name| {
                let (_, value) = kernel.constants.iter().find(|(other, _)| *other == name).unwrap();
                value.to_bits() as usize
            });
            assert!(invocations.is_power_of_two() && (window > 32 || invocations == 128), "{window}: {invocations}");
            let bytes = channels * rows * window * invocations * size_of::<f32>();
            assert!(bytes <= WORKGROUP_BYTES as usize, "{window}: {bytes} bytes");
        }
    }
}
