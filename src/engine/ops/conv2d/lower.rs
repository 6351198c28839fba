//! Lowering of convolutions: implicit GEMM on GPUs, matrix units where there are some, and SIMD vectors on CPU drivers.

mod cpu;

use std::sync::Arc;

use super::{Conv2d, Geometry, OfTransposed, PartialKernel, Problem, Role};
use crate::engine::kernel::{DeviceClass, Kernel};
use crate::engine::lower::gemm::{Product, Tiles};
use crate::engine::lower::{Detour, Lower};
use crate::engine::ops::Shaders;
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
        match class {
            DeviceClass::Cpu(lanes) => cpu::kernel(&problem, self.solve_for, lanes),
            _ => {
                let class = problem.class(class);
                self.chosen(&problem, self.gemm(&problem, class), class, problem.n)
            }
        }
    }

    fn tilings(&self, inputs: &[&Shape], _output: &Shape, class: DeviceClass) -> Vec<Kernel> {
        let problem = self.accepted(inputs);
        match class {
            DeviceClass::Cpu(lanes) => cpu::tilings(&problem, self.solve_for, lanes),
            _ => {
                let class = problem.class(class);
                self.all_tilings(&problem, self.gemm(&problem, class), class, problem.n)
            }
        }
    }

    fn detour(&self, inputs: &[&Shape], class: DeviceClass) -> Option<Detour> {
        /// Elements of w that all workgroups read together, from which on its transposition pays: a GPU loads eight
        /// neighbours in the time of one that has none.
        const READS: usize = 1 << 26;
        if matches!(class, DeviceClass::Cpu(_)) {
            return None;
        }
        let problem = self.accepted(inputs);
        let class = problem.class(class);
        let (product, [r, s]) = (self.gemm(&problem, class), problem.geometry.window);
        if self.solve_for == Role::Kernel {
            let run = product.part(problem.n, class);
            return (run < problem.n).then(|| Detour::Sum(Arc::new(PartialKernel { whole: *self, run })));
        }
        let reads = product.m * product.k * product.layers * product.n.div_ceil(Tiles::choose(product, class).n);
        let rows =
            if self.solve_for == Role::Output { problem.groups * problem.k } else { inputs[1].count() / (r * s) };
        (r * s > 1 && reads >= READS && self.phases(&problem, class) == 1)
            .then(|| Detour::OfTransposed(rows, Arc::new(OfTransposed { whole: *self })))
    }

    fn flops(&self, inputs: &[&Shape], _output: &Shape) -> u64 {
        self.accepted(inputs).flops()
    }
}

/// CPU drivers run the kernel of GPUs, in tests: their plans do not ask for it.
impl Lower for OfTransposed {
    fn kernel(&self, inputs: &[&Shape], _output: &Shape, class: DeviceClass) -> Kernel {
        let problem = self.accepted(inputs);
        let (class, product) = self.gemm(&problem, class);
        self.whole.chosen(&problem, product, class, problem.n).constant("TRANSPOSED", 1u32)
    }

    fn tilings(&self, inputs: &[&Shape], _output: &Shape, class: DeviceClass) -> Vec<Kernel> {
        let problem = self.accepted(inputs);
        let (class, product) = self.gemm(&problem, class);
        let all = self.whole.all_tilings(&problem, product, class, problem.n).into_iter();
        all.map(|kernel| kernel.constant("TRANSPOSED", 1u32)).collect()
    }

    fn flops(&self, inputs: &[&Shape], _output: &Shape) -> u64 {
        self.accepted(inputs).flops()
    }
}

/// CPU drivers run the kernel of GPUs, in tests: their plans do not ask for it.
impl Lower for PartialKernel {
    fn kernel(&self, inputs: &[&Shape], _output: &Shape, class: DeviceClass) -> Kernel {
        let problem = self.accepted(inputs);
        let class = problem.class(class);
        self.whole.chosen(&problem, self.whole.gemm(&problem, class), class, self.run.min(problem.n))
    }

    fn tilings(&self, inputs: &[&Shape], _output: &Shape, class: DeviceClass) -> Vec<Kernel> {
        let problem = self.accepted(inputs);
        let class = problem.class(class);
        self.whole.all_tilings(&problem, self.whole.gemm(&problem, class), class, self.run.min(problem.n))
    }

    fn flops(&self, inputs: &[&Shape], _output: &Shape) -> u64 {
        self.accepted(inputs).flops()
    }
}

impl OfTransposed {
    /// The class whose kernel it runs, and the product that it comes to, both factors of which are loaded along their rows.
    fn gemm(&self, problem: &Problem, class: DeviceClass) -> (DeviceClass, Product) {
        let class = problem.class(class);
        (class, Product { along_k: 0, ..self.whole.gemm(problem, class) })
    }
}

impl Problem {
    /// The class whose kernels a device of this class runs: the matrices of a group are too small to fill matrix units.
    fn class(&self, class: DeviceClass) -> DeviceClass {
        match class {
            DeviceClass::Matrix(_) if self.groups == 1 => class,
            _ => DeviceClass::Gpu,
        }
    }

    fn flops(&self) -> u64 {
        let [r, s] = self.geometry.window;
        2 * (self.n * self.groups * self.k * self.p * self.q) as u64 * (self.c * r * s) as u64
    }
}

/// With the constants and the immediate that all kernels of the family have in common.
fn of_problem(kernel: Kernel, problem: &Problem) -> Kernel {
    let Problem { n, groups, c, k, geometry, .. } = *problem;
    let ([h, w], [r, s]) = (geometry.image, geometry.window);
    kernel
        .constant("CHANNELS", c)
        .constant("H", h)
        .constant("W", w)
        .constant("K", k)
        .constant("R", r)
        .constant("S", s)
        .constant("STRIDE", geometry.stride)
        .constant("PADDING", geometry.padding)
        .constant("GROUPS", groups)
        .immediate("n", n)
}

impl Conv2d {
    /// By the quickest tiles; a kernel in runs of so many images.
    fn chosen(&self, problem: &Problem, product: Product, class: DeviceClass, run: usize) -> Kernel {
        let part = if self.solve_for == Role::Kernel { product.in_parts(problem.n, run) } else { product };
        self.tiled(problem, product, Tiles::choose(part, class), run)
    }

    /// By all tiles that there are.
    fn all_tilings(&self, problem: &Problem, product: Product, class: DeviceClass, run: usize) -> Vec<Kernel> {
        Tiles::of(class, product).into_iter().map(|tiles| self.tiled(problem, product, tiles, run)).collect()
    }

    /// The phases of a stride whose channels are rows of one product: all, where that takes less time than a product for
    /// each.
    fn phases(&self, problem: &Problem, class: DeviceClass) -> usize {
        let ([h, w], stride) = (problem.geometry.image, problem.geometry.stride);
        if self.solve_for != Role::Input || h % stride > 0 || w % stride > 0 {
            return 1;
        }
        let cost = |phases: &usize| {
            let product = self.gemm_of(problem, *phases);
            Tiles::choose(product, class).cost(product)
        };
        [1, stride * stride].into_iter().min_by(|a, b| cost(a).total_cmp(&cost(b))).expect("two")
    }

    /// The taps along one axis of a window that any phase of the stride has.
    fn taps(&self, window: usize) -> usize {
        let Geometry { stride, padding, .. } = self.geometry;
        (window + 2 * stride - 2 - (stride - 1 + padding) % stride) / stride
    }

    fn gemm(&self, problem: &Problem, class: DeviceClass) -> Product {
        self.gemm_of(problem, self.phases(problem, class))
    }

    /// The implicit GEMM: rows are the channels of a group of the output, columns its pixels; or, of the kernel, its taps. An
    /// input's falls into one for each phase of the stride, with a share of the taps, or for all these phases together.
    fn gemm_of(&self, problem: &Problem, phases: usize) -> Product {
        let Problem { n, groups, c, k, p, q, geometry } = *problem;
        let ([h, w], [r, s], stride) = (geometry.image, geometry.window, geometry.stride);
        match self.solve_for {
            Role::Output => Product { m: k, n: n * p * q, k: c * r * s, layers: groups, along_k: 1 },
            Role::Input => {
                let pixels = n * h.div_ceil(stride) * w.div_ceil(stride);
                // A phase has its share of the taps; phases together have those that any of them has.
                let depth = match phases {
                    1 => (k * r * s).div_ceil(stride * stride),
                    _ => k * self.taps(r) * self.taps(s),
                };
                Product { m: c * phases, n: pixels, k: depth, layers: groups * stride * stride / phases, along_k: 0 }
            }
            Role::Kernel => Product { m: k, n: c * r * s, k: n * p * q, layers: groups, along_k: 2 },
        }
    }

    /// By `gemm/tile` or `gemm/matrix`, as the product that it comes to; a kernel in runs of so many images.
    fn tiled(&self, problem: &Problem, product: Product, tiles: Tiles, run: usize) -> Kernel {
        let Problem { n, groups, c, k, p, q, geometry } = *problem;
        let ([r, s], [x, w, y]) = (geometry.window, problem.elements());
        let [rows, columns] = [product.m.div_ceil(tiles.m), product.n.div_ceil(tiles.n)];
        let (kernel, [b, a]) = match self.solve_for {
            Role::Output => {
                let block = block(tiles.k, c, r * s);
                let kernel = tiles.kernel("conv2d/output", "conv2d/output_matrix").constant("BLOCK", block);
                (kernel.over_layers(columns, 1, groups * rows), [x, w])
            }
            Role::Input => {
                let block = block(tiles.k, k, self.taps(r) * self.taps(s));
                let kernel = tiles.kernel("conv2d/input", "conv2d/input_matrix").constant("BLOCK", block);
                let kernel = kernel.constant("PHASES", product.m / c);
                (kernel.over_layers(columns * (product.layers / groups), 1, groups * rows), [y, w])
            }
            Role::Kernel => {
                let block = tiles.k / block(tiles.k, p * q, run);
                let kernel = tiles.kernel("conv2d/kernel", "conv2d/kernel_matrix").constant("BLOCK", block);
                (kernel.grid([columns, rows, groups * n.div_ceil(run)]), [x, y])
            }
        };
        let kernel = of_problem(kernel, problem);
        let kernel = if self.solve_for == Role::Kernel { kernel.immediate("run", run) } else { kernel };
        match kernel.tile() {
            Some(_) => kernel.storable(0, "StoredB", b).storable(1, "StoredA", a),
            None => kernel,
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
    fn phases_are_of_one_product_where_it_has_few_rows() {
        let phases = |c: usize, k: usize, image: usize, window: usize| {
            let geometry = Geometry { image: [image; 2], window: [window; 2], stride: 2, padding: window / 2 };
            let conv = Conv2d { solve_for: Role::Input, geometry, groups: 1 };
            let [p, q] = geometry.output().unwrap();
            let problem = conv.problem(&[&[128, k, p, q].into(), &[k, c, window, window].into()]).unwrap();
            (conv.phases(&problem, DeviceClass::Gpu), conv.gemm(&problem, DeviceClass::Gpu))
        };
        // Of 16 products of taps and phases, 9 are not in vain.
        let (apart, product) = phases(64, 128, 64, 3);
        assert_eq!((apart, product.m, product.k, product.layers), (1, 64, 128 * 9 / 4, 4));
        let (together, product) = phases(3, 64, 256, 7);
        assert_eq!((together, product.m, product.k, product.layers), (4, 12, 64 * 16, 1));
    }

    #[test]
    fn slabs_have_as_many_channels_as_fill_them() {
        // Many channels; three, or one, of many taps; so few of both that some of it is in vain.
        for (channels, taps, expected) in [(64, 9, 8), (3, 49, 1), (1, 9, 1), (12, 9, 4), (3, 1, 8)] {
            assert_eq!(block(8, channels, taps), expected, "{channels} channels of {taps} taps");
        }
    }
}
