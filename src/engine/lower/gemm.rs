//! How kernels that come to a matrix product are cut into tiles: what `shaders/gemm/tile.wgsl` and `shaders/gemm/matrix.wgsl` are
//! told.

use crate::engine::kernel::{DeviceClass, Kernel, Tile, WORKGROUP_BYTES};

/// Units of a large GPU.
const UNITS: usize = 128;

/// A matrix product `[M, K] · [K, N]`, once for each of `layers`: groups of channels, phases of a stride, or parts of a
/// longer sum.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine) struct Product {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub layers: usize,
    /// How many of the factors are loaded along the depth: their slabs take a vector more for each k.
    pub along_k: usize,
}

impl Product {
    /// As partial sums, of `part` of the `units` that the depth consists of each.
    pub fn in_parts(self, units: usize, part: usize) -> Product {
        Product { k: self.k / units * part, layers: self.layers * units.div_ceil(part), ..self }
    }

    /// How many of the `units` that the depth consists of a partial sum best has: all, where the sum stays whole.
    pub fn part(self, units: usize, class: DeviceClass) -> usize {
        /// What it takes a unit to write a partial sum and read it again: 8 bytes of memory, at 13 bytes a clock.
        const PARTIAL: f64 = 0.3;
        /// Fewer parts take less memory, and are chosen unless they take so much longer.
        const SLOWER: f64 = 1.05;
        let cost = |&part: &usize| {
            let product = self.in_parts(units, part);
            let results = (self.m * self.n * product.layers).div_ceil(UNITS);
            let again = if part < units { PARTIAL * results as f64 } else { 0.0 };
            Tiles::choose(product, class).cost(product) + again
        };
        let mut halves = std::iter::successors(Some(units), |&part| (part > 1).then(|| part.div_ceil(2)));
        let least = halves.clone().map(|part| cost(&part)).fold(f64::INFINITY, f64::min);
        halves.find(|part| cost(part) <= SLOWER * least).expect("one of them takes least")
    }
}

/// Tiles of a product that passes through workgroup memory: of the whole workgroup, and of an invocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) struct Tiles {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    by: By,
}

/// What adds up a part of the tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// An invocation, so many rows and columns of it; several may share the sums.
    Invocations { micro: [usize; 2], shares: usize },
    /// Blocks of 32 invocations with 4 × 2 matrices each: so many blocks in rows and columns.
    Blocks { tile: Tile, blocks: [usize; 2] },
}

/// Those that there is a choice of, from large products to small ones. All keep within what every device has, and leave
/// no invocation idle; others of that kind are no quicker by [`Tiles::cost`], but for a few percent.
#[rustfmt::skip]
pub(in crate::engine) const TILES: [Tiles; 20] = [
    tiles(128, 128, 8, [8, 8], 1),
    tiles(64, 128, 8, [8, 8], 1),
    tiles(128, 64, 8, [8, 8], 1),
    tiles(64, 64, 8, [8, 8], 1),
    tiles(64, 64, 16, [8, 8], 2),
    tiles(64, 64, 8, [8, 8], 2),
    tiles(64, 64, 8, [4, 8], 1),
    tiles(32, 128, 8, [8, 8], 1),
    tiles(32, 64, 16, [8, 8], 4),
    tiles(32, 64, 16, [4, 4], 1),
    tiles(32, 32, 16, [4, 4], 2),
    tiles(16, 128, 8, [4, 8], 1),
    tiles(16, 64, 16, [4, 4], 1),
    tiles(16, 32, 32, [4, 4], 4),
    tiles(16, 16, 32, [4, 4], 8),
    tiles(8, 128, 8, [4, 4], 1),
    tiles(8, 64, 16, [4, 4], 2),
    tiles(8, 16, 16, [4, 4], 8),
    tiles(4, 128, 8, [4, 4], 2),
    tiles(4, 64, 16, [4, 4], 4),
];

/// Vectors of four that workgroup memory has room for on every device.
const VECTORS: usize = WORKGROUP_BYTES as usize / 16;

const fn tiles(m: usize, n: usize, k: usize, micro: [usize; 2], shares: usize) -> Tiles {
    Tiles { m, n, k, by: By::Invocations { micro, shares } }
}

impl Tiles {
    /// Those that devices of the class have a choice of for a product; devices that are no GPUs run those of GPUs.
    pub fn of(class: DeviceClass, product: Product) -> Vec<Tiles> {
        match class {
            DeviceClass::Matrix(tile) => {
                let blocks = [[2, 4], [1, 4], [2, 2], [1, 2], [1, 1]];
                blocks.map(|blocks| Tiles::of_matrices(tile, blocks)).to_vec()
            }
            _ => TILES.into_iter().filter(|tiles| tiles.vectors(product.along_k) <= VECTORS).collect(),
        }
    }

    /// Vectors of four of workgroup memory that hold two slabs of both factors.
    fn vectors(&self, along_k: usize) -> usize {
        2 * self.k * (self.m / 4 + self.n / 4 + along_k)
    }

    fn of_matrices(tile: Tile, blocks: [usize; 2]) -> Tiles {
        let [m, n] = [4 * blocks[0], 2 * blocks[1]].map(|matrices| matrices * tile.side());
        Tiles { m, n, k: 16, by: By::Blocks { tile, blocks } }
    }

    /// The quickest for a product by [`cost`](Self::cost).
    pub fn choose(product: Product, class: DeviceClass) -> Tiles {
        let of_cost = |tiles: &Tiles| tiles.cost(product);
        let all = Tiles::of(class, product).into_iter();
        all.min_by(|a, b| of_cost(a).total_cmp(&of_cost(b))).expect("there are some")
    }

    fn invocations(&self) -> usize {
        match self.by {
            By::Invocations { micro, shares } => (self.m / micro[0]) * (self.n / micro[1]) * shares,
            By::Blocks { blocks, .. } => 32 * blocks[0] * blocks[1],
        }
    }

    /// Vectors of four that an invocation loads of a slab, of A and of B.
    fn loads(&self) -> usize {
        let of = |extent: usize| (extent / 4 * self.k).div_ceil(self.invocations());
        of(self.m) + of(self.n)
    }

    /// An estimate in instructions: those of an invocation, as many times as a GPU has to take turns. On an NVIDIA H200 the
    /// times of 27 tiles for each of three convolutions were proportional to it within 20 % in 58 of 81 cases; tiles of fewer
    /// than 16 rows took up to twice as long as it says. `stssad bench --sweep-tiles` measures them.
    pub fn cost(&self, product: Product) -> f64 {
        /// Instructions for an element that is loaded, and for a vector that is read from workgroup memory.
        const LOAD: f64 = 4.0;
        const READ: f64 = 2.0;
        /// For a product of two matrices of 16 × 16, and for an element of it that is written.
        const MATRICES: f64 = 12.0;
        const WRITE: f64 = 0.1;
        let Tiles { m, n, k, by } = *self;
        // Invocations that a unit runs side by side at the pace of one: more where they wait for loads, not for arithmetic.
        let (products, epilogue, lanes) = match by {
            By::Invocations { micro: [rows, columns], shares } => {
                let (own, reads) = ((rows * columns) as f64, (rows + columns) as f64 / 4.0);
                ((k / shares) as f64 * (own + READ * reads), own * if shares > 1 { 4.0 } else { 2.0 }, 170.0)
            }
            By::Blocks { blocks: [rows, columns], .. } => {
                let own = (m / rows * (n / columns)) as f64;
                (MATRICES * own * k as f64 / 4096.0, WRITE * own, 512.0)
            }
        };
        let slab = products + LOAD * 4.0 * self.loads() as f64 + 16.0;
        let instructions = product.k.div_ceil(k) as f64 * slab + epilogue;
        let workgroups = product.m.div_ceil(m) * product.n.div_ceil(n) * product.layers;
        // The unit that has most workgroups decides.
        instructions * ((workgroups.div_ceil(UNITS) * self.invocations()) as f64 / lanes).max(1.0)
    }

    /// The kernel of these tiles, of the two that compute the same: on invocations' own arithmetic, or on matrix units.
    pub fn kernel(self, name: &'static str, name_on_matrices: &'static str) -> Kernel {
        match self.by {
            By::Invocations { micro: [rows, columns], shares } => Kernel::new(name)
                .constant("TILE_M", self.m)
                .constant("TILE_N", self.n)
                .constant("TILE_K", self.k)
                .constant("MICRO_M", rows)
                .constant("MICRO_N", columns)
                .constant("SHARES", shares),
            By::Blocks { tile, blocks: [rows, columns] } => {
                Kernel::new(name_on_matrices).with_tile(tile).constant("BLOCKS_M", rows).constant("BLOCKS_N", columns)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_device_runs_all_tiles_and_none_leaves_an_invocation_idle() {
        for tiles in TILES {
            let Tiles { m, n, k, by: By::Invocations { micro: [_, micro_n], shares } } = tiles else { unreachable!() };
            let invocations = tiles.invocations();
            assert!((64..=256).contains(&invocations) && shares < k, "{tiles:?}");
            // What `gemm/tile` takes for granted where it deals the loads out.
            assert!([m / 4, n / 4, k].iter().all(|extent| invocations.is_multiple_of(*extent)), "{tiles:?}");
            assert!((2..=6).contains(&tiles.loads()), "{tiles:?}: several loads are in flight, and registers suffice");
            // In the end, a row of sums of each invocation lies where the slabs did.
            let vectors = tiles.vectors(0);
            assert!(vectors <= VECTORS && invocations * micro_n / 4 <= vectors, "{tiles:?}");
        }
    }

    #[test]
    fn tiles_are_as_large_as_occupies_the_device() {
        let chosen = |m, n, k, layers| Tiles::choose(Product { m, n, k, layers, along_k: 2 }, DeviceClass::Gpu);
        assert_eq!(chosen(64, 128 * 64 * 64, 576, 1), tiles(64, 128, 8, [8, 8], 1));
        assert_eq!(chosen(3, 128 * 64 * 64, 576, 1).m, 4);
        let shares = |tiles: Tiles| match tiles.by {
            By::Invocations { shares, .. } => shares,
            By::Blocks { .. } => 1,
        };
        assert_eq!(shares(chosen(64, 64, 4096, 1)), 8);
        assert_eq!(shares(chosen(64, 64, 4096, 1024)), 1);
    }

    #[test]
    fn long_sums_of_few_results_fall_into_parts() {
        // The kernel's adjoint at 64 channels of 64 × 64 pixels, and one with many results.
        assert!(Product { m: 64, n: 576, k: 128 * 64 * 64, layers: 1, along_k: 2 }.part(128, DeviceClass::Gpu) <= 8);
        assert_eq!(Product { m: 512, n: 4096, k: 128 * 8 * 8, layers: 1, along_k: 2 }.part(128, DeviceClass::Gpu), 128);
        // 288 workgroups on 128 units: some would have three, others two.
        assert_eq!(Product { m: 512, n: 4608, k: 128 * 8 * 8, layers: 1, along_k: 2 }.part(128, DeviceClass::Gpu), 64);
        assert_eq!(Product { m: 64, n: 576, k: 4096, layers: 1, along_k: 2 }.part(1, DeviceClass::Gpu), 1);
    }
}
