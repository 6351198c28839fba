//! How kernels that come to a matrix product are cut into tiles: what `shaders/gemm/tile.wgsl` is told.

use crate::engine::kernel::Kernel;

/// Units of a large GPU, and invocations that each runs side by side at the pace of one.
const UNITS: usize = 128;
const LANES: f64 = 256.0;

/// A matrix product `[M, K] · [K, N]`, once for each of `layers`: groups of channels, phases of a stride, or parts of a
/// longer sum.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine) struct Product {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub layers: usize,
}

impl Product {
    /// As partial sums, of `part` of the `units` that the depth consists of each.
    pub fn in_parts(self, units: usize, part: usize) -> Product {
        Product { k: self.k / units * part, layers: self.layers * units.div_ceil(part), ..self }
    }

    /// How many of the `units` that the depth consists of a partial sum best has: all, where the sum stays whole.
    pub fn part(self, units: usize) -> usize {
        /// What it takes a unit to write a partial sum and read it again: 8 bytes of memory, at 13 bytes a clock.
        const PARTIAL: f64 = 0.3;
        /// Fewer parts take less memory, and are chosen unless they take so much longer.
        const SLOWER: f64 = 1.05;
        let cost = |&part: &usize| {
            let product = self.in_parts(units, part);
            let results = (self.m * self.n * product.layers).div_ceil(UNITS);
            let again = if part < units { PARTIAL * results as f64 } else { 0.0 };
            Tiles::choose(product).cost(product) + again
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
    micro_m: usize,
    micro_n: usize,
    /// Invocations that add up the same part of the tile.
    shares: usize,
}

/// Those that there is a choice of, from large products to small ones. All keep within what every device has, and leave
/// no invocation idle; others of that kind are no quicker by [`Tiles::cost`], but for a few percent.
#[rustfmt::skip]
pub(in crate::engine) const TILES: [Tiles; 18] = [
    tiles(64, 128, 8, [8, 8], 1),
    tiles(128, 64, 8, [8, 8], 1),
    tiles(64, 64, 8, [8, 8], 1),
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

const fn tiles(m: usize, n: usize, k: usize, [micro_m, micro_n]: [usize; 2], shares: usize) -> Tiles {
    Tiles { m, n, k, micro_m, micro_n, shares }
}

impl Tiles {
    /// The quickest for a product by [`cost`](Self::cost).
    pub fn choose(product: Product) -> Tiles {
        let of_cost = |tiles: &Tiles| tiles.cost(product);
        TILES.into_iter().min_by(|a, b| of_cost(a).total_cmp(&of_cost(b))).expect("there are some")
    }

    fn invocations(&self) -> usize {
        (self.m / self.micro_m) * (self.n / self.micro_n) * self.shares
    }

    /// Vectors of four that an invocation loads of a slab, of A and of B.
    fn loads(&self) -> usize {
        let of = |extent: usize| (extent / 4 * self.k).div_ceil(self.invocations());
        of(self.m) + of(self.n)
    }

    /// An estimate in instructions: those of an invocation, as many times as a GPU has to take turns.
    pub fn cost(&self, product: Product) -> f64 {
        /// Instructions for an element that is loaded, and for a vector that is read from workgroup memory.
        const LOAD: f64 = 4.0;
        const READ: f64 = 2.0;
        let Tiles { m, n, k, micro_m, micro_n, shares } = *self;
        let terms = (k / shares) as f64;
        let reads = (micro_m + micro_n) as f64 / 4.0;
        let slab = terms * ((micro_m * micro_n) as f64 + READ * reads) + LOAD * 4.0 * self.loads() as f64 + 16.0;
        let epilogue = (micro_m * micro_n) as f64 * if shares > 1 { 4.0 } else { 2.0 };
        let instructions = product.k.div_ceil(k) as f64 * slab + epilogue;
        let workgroups = product.m.div_ceil(m) * product.n.div_ceil(n) * product.layers;
        // The unit that has most workgroups decides.
        instructions * ((workgroups.div_ceil(UNITS) * self.invocations()) as f64 / LANES).max(1.0)
    }

    /// Sets the constants of a kernel.
    pub fn constants(self, kernel: Kernel) -> Kernel {
        kernel
            .constant("TILE_M", self.m)
            .constant("TILE_N", self.n)
            .constant("TILE_K", self.k)
            .constant("MICRO_M", self.micro_m)
            .constant("MICRO_N", self.micro_n)
            .constant("SHARES", self.shares)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::kernel::WORKGROUP_BYTES;

    #[test]
    fn every_device_runs_all_tiles_and_none_leaves_an_invocation_idle() {
        for tiles in TILES {
            let Tiles { m, n, k, micro_m: _, micro_n, shares } = tiles;
            let invocations = tiles.invocations();
            assert!((64..=256).contains(&invocations) && shares < k, "{tiles:?}");
            // What `gemm/tile` takes for granted where it deals the loads out.
            assert!([m / 4, n / 4, k].iter().all(|extent| invocations.is_multiple_of(*extent)), "{tiles:?}");
            assert!((2..=6).contains(&tiles.loads()), "{tiles:?}: several loads are in flight, and registers suffice");
            // Two slabs of both factors, with a vector more in each row; in the end, a row of sums of each invocation.
            let vectors = 2 * k * (m / 4 + 1 + n / 4 + 1);
            assert!(vectors * 16 <= WORKGROUP_BYTES as usize && invocations * micro_n / 4 <= vectors, "{tiles:?}");
        }
    }

    #[test]
    fn tiles_are_as_large_as_occupies_the_device() {
        let chosen = |m, n, k, layers| Tiles::choose(Product { m, n, k, layers });
        assert_eq!(chosen(64, 128 * 64 * 64, 576, 1), tiles(64, 128, 8, [8, 8], 1));
        assert_eq!(chosen(3, 128 * 64 * 64, 576, 1).m, 4);
        assert_eq!(chosen(64, 64, 4096, 1).shares, 8);
        assert_eq!(chosen(64, 64, 4096, 1024).shares, 1);
    }

    #[test]
    fn long_sums_of_few_results_fall_into_parts() {
        // The kernel's adjoint at 64 channels of 64 × 64 pixels, and one with many results.
        assert!(Product { m: 64, n: 576, k: 128 * 64 * 64, layers: 1 }.part(128) <= 8);
        assert_eq!(Product { m: 512, n: 4096, k: 128 * 8 * 8, layers: 1 }.part(128), 128);
        // 288 workgroups on 128 units: some would have three, others two.
        assert_eq!(Product { m: 512, n: 4608, k: 128 * 8 * 8, layers: 1 }.part(128), 64);
        assert_eq!(Product { m: 64, n: 576, k: 4096, layers: 1 }.part(1), 1);
    }
}
