//! How a convolution is cut for CPU drivers, whose SIMD vectors are the workgroups.
//!
//! Their compilers unroll little and hold few values in registers, so that a tile is chosen by what the body of its innermost
//! loop costs: a search over some thousand cuts takes less than compiling one of them.

use super::super::{Problem, Role};
use super::of_problem;
use crate::engine::kernel::{CLASS_WORKGROUP_BYTES, Kernel, Lanes};

/// Cores that a cut is to keep at work, and the workgroups that it is to have for them.
const CORES: usize = 4;
const WORKGROUPS: usize = 16;
/// Tiles of a workgroup at most: the taps that it loads for them are a small part by then.
const TILES: usize = 64;

// What the body of the innermost loop costs on lavapipe of Mesa 25 (LLVM 15, AVX2), in multiply-adds of a vector: fitted to
// some thirty cuts of a 3×3 convolution of 64 channels, whose times it tells to 4 %. What solves for the kernel has figures of
// its own: its sums are blended by the loop's mask, one by one.

/// Time of a load: eight branches, one after another; of one whose lanes lie in cache lines of their own, and of one from
/// workgroup memory, whose bounds are not checked.
const LOAD: usize = 15;
const SCATTERED_LOAD: usize = 25;
const STAGED_LOAD: usize = 17;
/// Time of bringing a value to workgroup memory.
const STAGE: usize = 35;
/// Times of loads when the kernel is solved for: as above, and of a vec4 a lane.
const KERNEL_LOAD: usize = 36;
const SCATTERED_KERNEL_LOAD: usize = 72;
const SCATTERED_KERNEL_LOAD_4: usize = 98;
/// Time of a store after the loop.
const STORE: usize = 40;
/// Code of a load, of one of a vec4 a lane, of a load from workgroup memory, and of a sum that is carried to the next
/// iteration.
const LOAD_CODE: usize = 46;
const LOAD_4_CODE: usize = 145;
const STAGED_LOAD_CODE: usize = 29;
const SUM_CODE: usize = 2;
/// Code that fits the instruction cache.
const CODE: usize = 1900;
/// Multiply-adds, or shuffles, of a loop nest that is still unrolled; a load counts as four.
const NEST: usize = 200;
/// Trips of a loop that is still unrolled.
const TRIPS: usize = 32;
/// Sums of a lane: more take long to compile.
const SUMS: usize = 256;
/// Calls of a function that a shader has for the rows of a tile, or for its input channels.
const CALLS: usize = 8;

/// What a workgroup owns.
#[derive(Clone, Copy, Debug)]
struct Cut {
    /// Channels side by side in the lanes; the others hold other images.
    channel_lanes: usize,
    /// Channels of a lane.
    micro: usize,
    /// Input channels of a workgroup when the kernel is solved for, else 1.
    inputs: usize,
    /// Pixels of y, or of every STRIDE-th row and column of x̄.
    rows: usize,
    columns: usize,
    /// Tiles of a workgroup, one after another; if they are several, its taps are staged in workgroup memory. 1 when the
    /// kernel is solved for: then each goes through all tiles.
    tiles: usize,
}

/// What a role cuts: channels of a group, and the pixels that a tile is part of.
struct Domain {
    channels: usize,
    rows: usize,
    columns: usize,
}

impl Domain {
    fn of(problem: &Problem, role: Role) -> Domain {
        let ([h, w], stride) = (problem.geometry.image, problem.geometry.stride);
        match role {
            Role::Output | Role::Kernel => Domain { channels: problem.k, rows: problem.p, columns: problem.q },
            Role::Input => Domain { channels: problem.c, rows: h.div_ceil(stride), columns: w.div_ceil(stride) },
        }
    }

    /// Blocks of channels, in all groups.
    fn blocks(&self, problem: &Problem, cut: &Cut) -> usize {
        problem.groups * self.channels.div_ceil(cut.channel_lanes * cut.micro)
    }

    /// Tiles of a block of channels, in all images.
    fn tiles(&self, problem: &Problem, cut: &Cut, lanes: usize) -> usize {
        let images = problem.n.div_ceil(lanes / cut.channel_lanes);
        images * self.rows.div_ceil(cut.rows) * self.columns.div_ceil(cut.columns)
    }
}

/// An iteration of the innermost loop.
#[derive(Debug)]
struct Body {
    time: usize,
    code: usize,
    /// Sums that are carried from one iteration to the next.
    sums: usize,
    /// Whether no array in registers is indexed by a loop's counter, which would be as slow as a load.
    is_unrolled: bool,
}

/// Pixels of ȳ that a lane loads at once when the kernel is solved for.
fn width(problem: &Problem, cut: &Cut) -> usize {
    if problem.q.is_multiple_of(4) && cut.columns.is_multiple_of(4) { 4 } else { 1 }
}

impl Body {
    fn of(problem: &Problem, role: Role, cut: &Cut) -> Body {
        let ([r, s], stride, padding) = (problem.geometry.window, problem.geometry.stride, problem.geometry.padding);
        let Cut { channel_lanes, micro, inputs, rows, columns, .. } = *cut;
        let (area, taps) = (rows * columns, r * s);
        let extent = |tile: usize, window: usize| match role {
            Role::Output | Role::Kernel => (tile - 1) * window.min(stride) + window,
            // As in conv2d/input_broadcast: from the tile's last pixel to what its first one meets.
            Role::Input => {
                let margin = (window + stride - 2 + padding * stride - padding) / stride;
                (stride * tile - 1 + padding) / stride + 1 + margin - padding
            }
        };
        let field = inputs * extent(rows, r) * extent(columns, s);
        // What each lane reads for itself, the time and code of it, and what is loaded for all.
        let (own, own_time, own_code) = match (role, width(problem, cut)) {
            (Role::Output | Role::Input, _) if cut.tiles > 1 => (taps * micro, STAGED_LOAD, STAGED_LOAD_CODE),
            (Role::Output | Role::Input, _) => (taps * micro, SCATTERED_LOAD, LOAD_CODE),
            (Role::Kernel, 1) => (area * micro, SCATTERED_KERNEL_LOAD, LOAD_CODE),
            (Role::Kernel, width) => (area * micro / width, SCATTERED_KERNEL_LOAD_4, LOAD_4_CODE),
        };
        let (shared, shared_time) = match role {
            Role::Output | Role::Input => (field.div_ceil(channel_lanes), LOAD),
            Role::Kernel => (rows * r.min(stride) * (inputs * extent(columns, s)).div_ceil(channel_lanes), KERNEL_LOAD),
        };
        let nest = match role {
            Role::Output | Role::Input => columns * taps * micro,
            Role::Kernel => taps * micro * area,
        };
        let sums = match role {
            Role::Output => micro * area,
            Role::Input => micro * area * stride * stride,
            Role::Kernel => taps * micro * inputs,
        };
        let multiply_adds = taps * micro * inputs * area;
        let shuffles = if channel_lanes == 1 { 0 } else { field };
        Body {
            time: multiply_adds + own * own_time + shared * shared_time + if role == Role::Kernel { sums } else { 0 },
            code: multiply_adds + shuffles + own * own_code + shared * LOAD_CODE + SUM_CODE * sums,
            sums,
            is_unrolled: sums <= SUMS && nest <= NEST && field <= NEST && shared <= TRIPS && 4 * own <= NEST,
        }
    }

    /// Code beyond what fits.
    fn excess(&self) -> usize {
        if self.is_unrolled { self.code.saturating_sub(CODE) } else { usize::MAX / 2 + self.code }
    }
}

/// Extents of a tile along an axis, `most` at most: of those that cut it into as many pieces, the smallest.
fn extents(length: usize, most: usize) -> impl Iterator<Item = usize> {
    let even = move |extent: usize| length.div_ceil(length.div_ceil(extent));
    (1..=length.min(most)).filter(move |&extent| even(extent) == extent)
}

/// Cuts that a sweep compares.
const COMPARED: usize = 16;

/// Time of a convolution by the figures above, on a few cores.
fn time(problem: &Problem, role: Role, lanes: usize, cut: &Cut) -> usize {
    let body = Body::of(problem, role, cut);
    let domain = Domain::of(problem, role);
    let (blocks, tiles) = (domain.blocks(problem, cut), domain.tiles(problem, cut, lanes));
    let [r, s] = problem.geometry.window;
    let (workgroups, time) = match role {
        Role::Output | Role::Input => {
            let iterations = if role == Role::Output { problem.c } else { problem.k };
            let stage = if cut.tiles > 1 { STAGE * iterations * r * s * cut.micro } else { 0 };
            (blocks * tiles.div_ceil(cut.tiles), stage + cut.tiles * (iterations * body.time + STORE * body.sums))
        }
        Role::Kernel => (blocks * problem.c.div_ceil(cut.inputs), tiles * body.time + STORE * body.sums),
    };
    workgroups.max(CORES) * time
}

/// The cuts that take the shortest time, the shortest first; those whose body fits before others.
fn ranked(problem: &Problem, role: Role, lanes: usize) -> Vec<Cut> {
    let domain = Domain::of(problem, role);
    // A lane of its own image loads all of its field, which therefore has to be small.
    let [r, s] = problem.geometry.window;
    let by_images = role != Role::Kernel && domain.channels < lanes && problem.n >= lanes && r * s <= TRIPS;
    let channel_lanes = if by_images { 1 } else { lanes };
    let (inputs, row_calls) = if role == Role::Kernel { (problem.c.min(CALLS), 16) } else { (1, CALLS) };
    let taps = r * s * if role == Role::Output { problem.c } else { problem.k };
    let micros = 1..=domain.channels.div_ceil(channel_lanes).min(4);
    let mut cuts = Vec::new();
    for (micro, inputs) in micros.flat_map(|micro| (1..=inputs).map(move |inputs| (micro, inputs))) {
        for rows in extents(domain.rows, row_calls) {
            for columns in extents(domain.columns, 16) {
                let mut cut = Cut { channel_lanes, micro, inputs, rows, columns, tiles: 1 };
                cuts.push(cut);
                let tiles = domain.tiles(problem, &cut, lanes);
                let most = (tiles * domain.blocks(problem, &cut) / WORKGROUPS).clamp(1, TILES);
                cut.tiles = tiles.div_ceil(tiles.div_ceil(most));
                let staged = micro * taps * lanes * size_of::<f32>();
                if role != Role::Kernel && cut.tiles > 1 && staged <= CLASS_WORKGROUP_BYTES as usize {
                    cuts.push(cut);
                }
            }
        }
    }
    cuts.sort_by_cached_key(|cut| (Body::of(problem, role, cut).excess(), time(problem, role, lanes, cut)));
    cuts
}

/// The kernel of any role.
pub(super) fn kernel(problem: &Problem, role: Role, lanes: Lanes) -> Kernel {
    let best = ranked(problem, role, lanes.count()).into_iter().next();
    cut_kernel(problem, role, lanes, best.expect("no extent is zero"))
}

/// The kernel by each of the most promising cuts.
pub(super) fn tilings(problem: &Problem, role: Role, lanes: Lanes) -> Vec<Kernel> {
    let cuts = ranked(problem, role, lanes.count()).into_iter().take(COMPARED);
    cuts.map(|cut| cut_kernel(problem, role, lanes, cut)).collect()
}

fn cut_kernel(problem: &Problem, role: Role, lanes: Lanes, cut: Cut) -> Kernel {
    let domain = Domain::of(problem, role);
    let blocks = domain.blocks(problem, &cut);
    let tiled = |name, micro_name| {
        let tiles = domain.tiles(problem, &cut, lanes.count());
        of_problem(Kernel::new(name), problem)
            .constant("CHANNEL_LANES", cut.channel_lanes)
            .constant(micro_name, cut.micro)
            .constant("TILES", cut.tiles)
            .over_layers(tiles, cut.tiles, blocks)
    };
    let kernel = match role {
        Role::Output => tiled("conv2d/output_broadcast", "MICRO_K"),
        Role::Input => tiled("conv2d/input_broadcast", "MICRO_C"),
        Role::Kernel => {
            let width = width(problem, &cut);
            let kernel = of_problem(Kernel::new("conv2d/kernel_broadcast"), problem)
                .constant("MICRO_K", cut.micro)
                .constant("MICRO_C", cut.inputs)
                .constant("WIDTH", width)
                .grid([problem.c.div_ceil(cut.inputs), blocks, 1]);
            if width > 1 { kernel.vector("V") } else { kernel }
        }
    };
    kernel.with_lanes(lanes).constant("TILE_ROWS", cut.rows).constant("TILE_COLUMNS", cut.columns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::geometry::Geometry;

    fn excess(channels: [usize; 2], image: usize, window: usize, stride: usize, role: Role) -> usize {
        let geometry = Geometry { image: [image; 2], window: [window; 2], stride, padding: window / 2 };
        let ([c, k], [p, q]) = (channels, geometry.output().unwrap());
        let problem = Problem { n: 48, groups: 1, c, k, p, q, geometry };
        Body::of(&problem, role, &ranked(&problem, role, 8)[0]).excess()
    }

    #[test]
    fn bodies_fit_and_those_of_large_windows_nearly() {
        for role in [Role::Output, Role::Input, Role::Kernel] {
            for (channels, image) in [([1, 16], 28), ([3, 5], 64), ([64, 64], 32), ([256, 512], 8), ([64, 3], 1)] {
                for (window, stride) in [(1, 1), (1, 2), (2, 3), (3, 1), (3, 2)] {
                    assert_eq!(
                        excess(channels, image, window, stride, role),
                        0,
                        "{channels:?} {image} {window} {role:?}"
                    );
                }
                for (window, stride) in [(5, 1), (7, 2)] {
                    assert!(
                        excess(channels, image, window, stride, role) < CODE,
                        "{channels:?} {image} {window} {role:?}"
                    );
                }
            }
        }
    }
}
