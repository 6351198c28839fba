//! How a convolution is cut for CPU drivers, whose SIMD vectors are the workgroups.
//!
//! Their compilers unroll little and hold few values in registers, so that a tile is chosen by what the body of its innermost
//! loop costs: a search over some thousand cuts takes less than compiling one of them.

use super::{Problem, Role, kernel_of_problem};
use crate::kernel::{Kernel, Lanes};

/// Cores that a cut is to keep at work.
const CORES: usize = 4;

// What the body of the innermost loop costs on lavapipe of Mesa 25 (LLVM 15, AVX2), in multiply-adds of a vector. Those
// overlap with loads, and the more, the more loads there are: what solves for the kernel has figures of its own.

/// Time of a load: eight branches, one after another.
const LOAD: usize = 16;
/// Time of a load from a field that moves with each iteration.
const MOVING_LOAD: usize = 45;
/// Time of a load whose lanes lie in cache lines of their own, and of the same of a vec4 a lane.
const SCATTERED_LOAD: usize = 110;
const SCATTERED_LOAD_4: usize = 150;
/// Time of a store after the loop.
const STORE: usize = 24;
/// Code of a load, and of one of a vec4 a lane.
const LOAD_CODE: usize = 27;
const LOAD_4_CODE: usize = 54;
/// Code that fits the instruction cache.
const CODE: usize = 1280;
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
}

/// What an iteration of the innermost loop does, in vectors.
#[derive(Debug)]
struct Body {
    load_time: usize,
    load_code: usize,
    multiply_adds: usize,
    /// Sums that are carried from one iteration to the next.
    sums: usize,
    /// Whether no array is indexed by a loop's counter, which would be as slow as a load.
    is_unrolled: bool,
}

/// Pixels of ȳ that a lane loads at once when the kernel is solved for.
fn width(problem: &Problem, cut: &Cut) -> usize {
    if problem.q.is_multiple_of(4) && cut.columns.is_multiple_of(4) { 4 } else { 1 }
}

impl Body {
    fn of(problem: &Problem, role: Role, cut: &Cut) -> Body {
        let ([r, s], stride, padding) = (problem.geometry.window, problem.geometry.stride, problem.geometry.padding);
        let Cut { channel_lanes, micro, inputs, rows, columns } = *cut;
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
        // What each lane loads for itself, the time and code of it, and the time of a load that all share.
        let (own, own_time, own_code, shared_time) = match (role, width(problem, cut)) {
            (Role::Output | Role::Input, _) => (taps * micro, LOAD, LOAD_CODE, LOAD),
            (Role::Kernel, 1) => (area * micro, SCATTERED_LOAD, LOAD_CODE, MOVING_LOAD),
            (Role::Kernel, width) => (area * micro / width, SCATTERED_LOAD_4, LOAD_4_CODE, MOVING_LOAD),
        };
        let shared = field.div_ceil(channel_lanes);
        let nest = match role {
            Role::Output | Role::Input => columns * taps * micro,
            Role::Kernel => taps * micro * area,
        };
        let sums = match role {
            Role::Output => micro * area,
            Role::Input => micro * area * stride * stride,
            Role::Kernel => taps * micro * inputs,
        };
        Body {
            load_time: own * own_time + shared * shared_time,
            load_code: own * own_code + shared * LOAD_CODE,
            multiply_adds: taps * micro * inputs * area,
            sums,
            is_unrolled: sums <= SUMS && nest <= NEST && field <= NEST && shared <= TRIPS && 4 * own <= NEST,
        }
    }

    /// Code beyond what fits.
    fn excess(&self) -> usize {
        let code = self.multiply_adds + self.load_code;
        if self.is_unrolled { code.saturating_sub(CODE) } else { usize::MAX / 2 + code }
    }

    /// A sum that is carried is blended by the loop's mask, and seldom stays in a register.
    fn time(&self) -> usize {
        self.multiply_adds + self.load_time + 3 * self.sums / 2
    }
}

/// Extents of a tile along an axis, `most` at most: of those that cut it into as many pieces, the smallest.
fn tiles(length: usize, most: usize) -> impl Iterator<Item = usize> {
    let even = move |extent: usize| length.div_ceil(length.div_ceil(extent));
    (1..=length.min(most)).filter(move |&extent| even(extent) == extent)
}

/// Cuts that a sweep compares.
const COMPARED: usize = 16;

/// The cuts that take the shortest time by the figures above, the shortest first; those whose body fits before others.
fn ranked(problem: &Problem, role: Role, lanes: usize) -> Vec<Cut> {
    let ([h, w], stride) = (problem.geometry.image, problem.geometry.stride);
    let (channels, [rows, columns]) = match role {
        Role::Output | Role::Kernel => (problem.k, [problem.p, problem.q]),
        Role::Input => (problem.c, [h.div_ceil(stride), w.div_ceil(stride)]),
    };
    // A lane of its own image loads all of its field, which therefore has to be small.
    let [r, s] = problem.geometry.window;
    let by_images = role != Role::Kernel && channels < lanes && problem.n >= lanes && r * s <= TRIPS;
    let channel_lanes = if by_images { 1 } else { lanes };
    let time = |cut: &Cut| {
        let body = Body::of(problem, role, cut);
        let blocks = problem.groups * channels.div_ceil(channel_lanes * cut.micro);
        let tiles = rows.div_ceil(cut.rows) * columns.div_ceil(cut.columns);
        let images = problem.n.div_ceil(lanes / channel_lanes);
        let (workgroups, iterations) = match role {
            Role::Output => (blocks * images * tiles, problem.c),
            Role::Input => (blocks * images * tiles, problem.k),
            Role::Kernel => (blocks * problem.c.div_ceil(cut.inputs), images * tiles),
        };
        (body.excess(), workgroups.max(CORES) * (iterations * body.time() + STORE * body.sums))
    };
    let (inputs, row_calls) = if role == Role::Kernel { (problem.c.min(CALLS), 16) } else { (1, CALLS) };
    let micros = (1..=channels.div_ceil(channel_lanes).min(4)).flat_map(|micro| (1..=inputs).map(move |i| (micro, i)));
    let cuts = micros.flat_map(|(micro, inputs)| {
        let areas = tiles(rows, row_calls).flat_map(move |rows| tiles(columns, 16).map(move |columns| (rows, columns)));
        areas.map(move |(rows, columns)| Cut { channel_lanes, micro, inputs, rows, columns })
    });
    let mut cuts: Vec<Cut> = cuts.collect();
    cuts.sort_by_cached_key(time);
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
    let Cut { channel_lanes, micro, inputs, rows, columns } = cut;
    let ([h, w], stride) = (problem.geometry.image, problem.geometry.stride);
    let tiled = |name, micro_name, channels: usize, [height, width]: [usize; 2]| {
        let images = problem.n.div_ceil(lanes.count() / channel_lanes);
        let mut kernel = kernel_of_problem(name, problem)
            .constant("CHANNEL_LANES", channel_lanes)
            .constant(micro_name, micro)
            .over(images * height.div_ceil(rows) * width.div_ceil(columns), 1);
        kernel.workgroups[2] = (problem.groups * channels.div_ceil(channel_lanes * micro)) as u32;
        kernel
    };
    let kernel = match role {
        Role::Output => tiled("conv2d/output_broadcast", "MICRO_K", problem.k, [problem.p, problem.q]),
        Role::Input => tiled("conv2d/input_broadcast", "MICRO_C", problem.c, [h.div_ceil(stride), w.div_ceil(stride)]),
        Role::Kernel => {
            let width = width(problem, &cut);
            let kernel = kernel_of_problem("conv2d/kernel_broadcast", problem)
                .constant("MICRO_K", micro)
                .constant("MICRO_C", inputs)
                .constant("WIDTH", width)
                .grid([problem.c.div_ceil(inputs), problem.groups * problem.k.div_ceil(lanes.count() * micro), 1]);
            if width > 1 { kernel.vector("V") } else { kernel }
        }
    };
    kernel.with_lanes(lanes).constant("TILE_ROWS", rows).constant("TILE_COLUMNS", columns)
}

#[cfg(test)]
mod tests {
    use super::super::Geometry;
    use super::*;

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
