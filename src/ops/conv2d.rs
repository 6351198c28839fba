//! Two-dimensional cross-correlation and its adjoints: the three ways to solve one trilinear form.
//!
//! `T(x, w, y) = Σ x[n,c,h,v] · w[k,c,r,s] · y[n,k,p,q]` over all terms with `h = p·stride + r − padding` and
//! `v = q·stride + s − padding` inside the image. The derivative of T in any one operand is a primitive of this family
//! in the other two, and its own derivatives are the other two primitives: the family is closed under `vjp`.
//! See Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", arXiv:1603.07285, sections 2 and 4.

use super::matmul::Tiles;
use crate::check::sum_bound;
use crate::kernel::{DeviceClass, Kernel};
use crate::tape::{Application, Array, Cotangent, Primitive, Tape, Value};
use crate::tensor::Shape;

/// The operand that a [`Conv2d`] solves for, given the other two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// y from (x, w): the convolution itself.
    Output,
    /// x̄ from (ȳ, w): the adjoint in the image.
    Input,
    /// w̄ from (x, ȳ): the adjoint in the kernel.
    Kernel,
}

/// The extents that the operands' shapes have in common. The image's is part of it because a stride above one forgets
/// it: several images lead to the same output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Geometry {
    /// `[H, W]`.
    pub image: [usize; 2],
    /// `[R, S]`.
    pub window: [usize; 2],
    /// Image pixels from one output pixel to the next, the same in both axes.
    pub stride: usize,
    /// Rows and columns of zeros around the image.
    pub padding: usize,
}

impl Geometry {
    /// `[P, Q]`, the extents of the output.
    ///
    /// # Errors
    /// A sentence, when the stride is zero or the window does not fit into the padded image.
    pub fn output(&self) -> Result<[usize; 2], String> {
        if self.stride == 0 {
            return Err("a stride of zero".into());
        }
        let along = |axis: usize| {
            let slack = (self.image[axis] + 2 * self.padding).checked_sub(self.window[axis])?;
            Some(slack / self.stride + 1)
        };
        match (along(0), along(1)) {
            (Some(p), Some(q)) => Ok([p, q]),
            _ => Err(format!("a window of {:?} in {:?} pixels padded by {}", self.window, self.image, self.padding)),
        }
    }

    /// The pixels h · W + w that the window of output `(p, q)` has inside of the image, in ascending order.
    pub fn pixels_of(&self, p: usize, q: usize) -> impl Iterator<Item = usize> {
        let inside = |axis: usize, output: usize| {
            let first = output * self.stride;
            let end = (first + self.window[axis]).saturating_sub(self.padding);
            first.saturating_sub(self.padding)..end.min(self.image[axis])
        };
        let (rows, columns, width) = (inside(0, p), inside(1, q), self.image[1]);
        rows.flat_map(move |row| columns.clone().map(move |column| row * width + column))
    }

    /// `(output, tap, pixel)` of each pair of output position and window tap, along one axis, that meets the image.
    fn meetings(&self, axis: usize, outputs: usize) -> Vec<(usize, usize, usize)> {
        let taps = (0..outputs).flat_map(|output| (0..self.window[axis]).map(move |tap| (output, tap)));
        taps.filter_map(|(output, tap)| {
            let pixel = (output * self.stride + tap).checked_sub(self.padding)?;
            (pixel < self.image[axis]).then_some((output, tap, pixel))
        })
        .collect()
    }
}

/// Solves the trilinear form of the [module](self) for one of its operands.
///
/// | role | inputs | output |
/// |---|---|---|
/// | `Output` | x `[N, C, H, W]`, w `[K, C, R, S]` | y `[N, K, P, Q]` |
/// | `Input` | ȳ `[N, K, P, Q]`, w `[K, C, R, S]` | x̄ `[N, C, H, W]` |
/// | `Kernel` | x `[N, C, H, W]`, ȳ `[N, K, P, Q]` | w̄ `[K, C, R, S]` |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conv2d {
    pub solve_for: Role,
    pub geometry: Geometry,
}

/// Every extent of one application.
#[derive(Clone, Copy, Debug)]
struct Problem {
    n: usize,
    c: usize,
    k: usize,
    p: usize,
    q: usize,
    geometry: Geometry,
}

impl Problem {
    /// Calls `term` with the indices into x, w and y of every term of the trilinear form.
    fn for_each_term(&self, mut term: impl FnMut(usize, usize, usize)) {
        let Problem { n, c, k, p, q, geometry } = *self;
        let ([h, w], [r, s]) = (geometry.image, geometry.window);
        let (rows, columns) = (geometry.meetings(0, p), geometry.meetings(1, q));
        for image in 0..n {
            for (to, from) in (0..k).flat_map(|to| (0..c).map(move |from| (to, from))) {
                for &(out_row, tap_row, row) in &rows {
                    let x = ((image * c + from) * h + row) * w;
                    let kernel = ((to * c + from) * r + tap_row) * s;
                    let y = ((image * k + to) * p + out_row) * q;
                    for &(out_column, tap_column, column) in &columns {
                        term(x + column, kernel + tap_column, y + out_column);
                    }
                }
            }
        }
    }
}

impl Conv2d {
    fn with(&self, solve_for: Role) -> Self {
        Conv2d { solve_for, geometry: self.geometry }
    }

    fn problem(&self, inputs: &[&Shape]) -> Result<Problem, String> {
        let [first, second] = [inputs[0].images()?, inputs[1].images()?];
        let geometry = self.geometry;
        let [p, q] = geometry.output()?;
        let expect = |operand: &str, axes: &[usize], expected: [usize; 2]| match axes == expected {
            true => Ok(()),
            false => Err(format!("{operand} has extents {axes:?} where {geometry:?} needs {expected:?}")),
        };
        let same = |axis: &str, first: usize, second: usize| match first == second {
            true => Ok(()),
            false => Err(format!("{axis} is {first} in one operand and {second} in the other")),
        };
        match self.solve_for {
            Role::Output => {
                expect("x", &first[2..], geometry.image)?;
                expect("w", &second[2..], geometry.window)?;
                same("C", first[1], second[1])?;
                Ok(Problem { n: first[0], c: first[1], k: second[0], p, q, geometry })
            }
            Role::Input => {
                expect("ȳ", &first[2..], [p, q])?;
                expect("w", &second[2..], geometry.window)?;
                same("K", first[1], second[0])?;
                Ok(Problem { n: first[0], c: second[1], k: first[1], p, q, geometry })
            }
            Role::Kernel => {
                expect("x", &first[2..], geometry.image)?;
                expect("ȳ", &second[2..], [p, q])?;
                same("N", first[0], second[0])?;
                Ok(Problem { n: first[0], c: first[1], k: second[1], p, q, geometry })
            }
        }
    }

    /// The problem of inputs that [`shape`](Primitive::shape) has accepted.
    fn accepted(&self, inputs: &[&Shape]) -> Problem {
        self.problem(inputs).expect("shapes are checked when recorded")
    }

    /// The number of terms in the sum for one output element, at most.
    fn terms(&self, problem: &Problem) -> usize {
        let [r, s] = problem.geometry.window;
        match self.solve_for {
            Role::Output => problem.c * r * s,
            Role::Input => problem.k * r * s,
            Role::Kernel => problem.n * problem.p * problem.q,
        }
    }
}

impl Primitive for Conv2d {
    fn name(&self) -> &'static str {
        match self.solve_for {
            Role::Output => "conv2d/output",
            Role::Input => "conv2d/input",
            Role::Kernel => "conv2d/kernel",
        }
    }

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape, String> {
        let Problem { n, c, k, p, q, geometry } = self.problem(inputs)?;
        let ([h, w], [r, s]) = (geometry.image, geometry.window);
        Ok(match self.solve_for {
            Role::Output => [n, k, p, q],
            Role::Input => [n, c, h, w],
            Role::Kernel => [k, c, r, s],
        }
        .into())
    }

    fn vjp(&self, tape: &mut Tape, at: Application) -> Vec<Cotangent> {
        let (inputs, cotangent) = (at.inputs, at.cotangent);
        let mut solve = |role, first, second| Cotangent::Of(tape.push(self.with(role), &[first, second]));
        match self.solve_for {
            Role::Output => {
                vec![solve(Role::Input, cotangent, inputs[1]), solve(Role::Kernel, inputs[0], cotangent)]
            }
            Role::Input => {
                vec![solve(Role::Output, cotangent, inputs[1]), solve(Role::Kernel, cotangent, inputs[0])]
            }
            Role::Kernel => {
                vec![solve(Role::Input, inputs[1], cotangent), solve(Role::Output, inputs[0], cotangent)]
            }
        }
    }

    fn eval(&self, inputs: &[Array], output: &Shape) -> Vec<f64> {
        let problem = self.accepted(&[inputs[0].shape, inputs[1].shape]);
        let (first, second) = (inputs[0].data, inputs[1].data);
        let mut result = vec![0.0; output.count()];
        problem.for_each_term(|x, w, y| match self.solve_for {
            Role::Output => result[y] += first[x] * second[w],
            Role::Input => result[x] += first[y] * second[w],
            Role::Kernel => result[w] += first[x] * second[y],
        });
        result
    }

    fn bound(&self, inputs: &[Array], output: &Shape) -> Vec<f64> {
        let magnitudes: Vec<Vec<f64>> =
            inputs.iter().map(|input| input.data.iter().map(|v| v.abs()).collect()).collect();
        let absolute = [0, 1].map(|index| Array { shape: inputs[index].shape, data: &magnitudes[index] });
        let terms = self.terms(&self.accepted(&[inputs[0].shape, inputs[1].shape]));
        self.eval(&absolute, output).into_iter().map(|sum| sum_bound(terms, sum)).collect()
    }

    fn kernel(&self, inputs: &[&Shape], _output: &Shape, class: DeviceClass) -> Kernel {
        let problem = self.accepted(inputs);
        match (self.solve_for, class) {
            (Role::Output | Role::Input, DeviceClass::Gpu) => self.tiled(&problem, self.tiles(&problem)),
            (Role::Output | Role::Input, DeviceClass::Cpu) => self.broadcast(&problem),
            (Role::Kernel, DeviceClass::Gpu) => kernel_shared_sum(&problem),
            (Role::Kernel, DeviceClass::Cpu) => kernel_broadcast(&problem),
        }
    }

    fn tilings(&self, inputs: &[&Shape], _output: &Shape, class: DeviceClass) -> Vec<Kernel> {
        let problem = self.accepted(inputs);
        match (self.solve_for, class) {
            (Role::Output | Role::Input, DeviceClass::Gpu) => {
                Tiles::admissible().map(|tiles| self.tiled(&problem, tiles)).collect()
            }
            _ => Vec::new(),
        }
    }

    fn flops(&self, inputs: &[&Shape], _output: &Shape) -> u64 {
        let Problem { n, c, k, p, q, geometry } = self.accepted(inputs);
        let [r, s] = geometry.window;
        2 * (n * k * p * q) as u64 * (c * r * s) as u64
    }
}

/// The constants and the immediate that all kernels of the family have in common.
fn kernel_of_problem(name: &'static str, problem: &Problem) -> Kernel {
    let Problem { n, c, k, geometry, .. } = *problem;
    let ([h, w], [r, s]) = (geometry.image, geometry.window);
    Kernel::new(name)
        .constant("C", c)
        .constant("H", h)
        .constant("W", w)
        .constant("K", k)
        .constant("R", r)
        .constant("S", s)
        .constant("STRIDE", geometry.stride)
        .constant("PADDING", geometry.padding)
        .immediate("n", n)
}

/// The smallest extent that cuts `length` into as many pieces as pieces of `most` would.
fn even_tile(length: usize, most: usize) -> usize {
    length.div_ceil(length.div_ceil(most))
}

/// Lanes of a CPU driver's SIMD unit, and so the workgroup size of the broadcast kernels.
const LANES: usize = 8;

/// Pixels of a tile in the broadcast kernels. Each load is unrolled to some 150 instructions by lavapipe of Mesa 25, so
/// that larger bodies outgrow the instruction cache, and compile slowly.
const TILE: usize = 16;

impl Conv2d {
    /// Channels and pixels of the output.
    fn rows_and_columns(&self, problem: &Problem) -> (usize, usize) {
        let [h, w] = problem.geometry.image;
        match self.solve_for {
            Role::Output => (problem.k, problem.n * problem.p * problem.q),
            _ => (problem.c, problem.n * h * w),
        }
    }

    fn tiles(&self, problem: &Problem) -> Tiles {
        let (m, n) = match self.rows_and_columns(problem).0 {
            0..=8 => (8, 128),
            9..=16 => (16, 128),
            17..=32 => (32, 128),
            _ => (64, 64),
        };
        Tiles { m, n, k: 16, micro_m: 4, micro_n: 4 }
    }

    /// Implicit GEMM: rows are the output's channels, columns its pixels.
    fn tiled(&self, problem: &Problem, tiles: Tiles) -> Kernel {
        let (channels, pixels) = self.rows_and_columns(problem);
        let mut kernel = tiles.constants(kernel_of_problem(self.name(), problem)).over(pixels, tiles.n);
        kernel.workgroups[2] = channels.div_ceil(tiles.m) as u32;
        kernel
    }

    /// Output channels along the lanes, or images where there are too few channels, and a tile of pixels in each lane.
    fn broadcast(&self, problem: &Problem) -> Kernel {
        let Geometry { image, stride, .. } = problem.geometry;
        let (name, micro_name, channels, [rows, columns], step) = match self.solve_for {
            Role::Output => ("conv2d/output_broadcast", "MICRO_K", problem.k, [problem.p, problem.q], 1),
            _ => ("conv2d/input_broadcast", "MICRO_C", problem.c, image, stride),
        };
        let channel_lanes = if channels >= LANES || problem.n < LANES { LANES } else { 1 };
        let micro = channels.div_ceil(channel_lanes).min(4);
        let tile_columns = even_tile(columns, 8).next_multiple_of(step);
        // A pixel of y meets `stride` columns of x, and one of x̄ only so small a part of ȳ.
        let area = if self.solve_for == Role::Output { TILE.div_ceil(stride) } else { TILE * stride };
        let tile_rows = even_tile(rows.div_ceil(step), area.div_ceil(tile_columns));
        let row_tiles = rows.div_ceil(step * tile_rows) * step;
        let images = problem.n.div_ceil(LANES / channel_lanes);
        let mut kernel = kernel_of_problem(name, problem)
            .constant("CHANNEL_LANES", channel_lanes)
            .constant(micro_name, micro)
            .constant("TILE_ROWS", tile_rows)
            .constant("TILE_COLUMNS", tile_columns)
            .over(images * row_tiles * columns.div_ceil(tile_columns), 1);
        kernel.workgroups[2] = channels.div_ceil(channel_lanes * micro) as u32;
        kernel
    }
}

/// Few long sums: the invocations of a workgroup share each of them.
fn kernel_shared_sum(problem: &Problem) -> Kernel {
    let [r, s] = problem.geometry.window;
    // 72 accumulators a thread at most, unless a single window row of one channel has more.
    let window_rows = if r * s <= 9 { r } else { 1 };
    let taps = window_rows * s;
    let micro_c = (9 / taps).clamp(1, problem.c.min(8));
    let micro_k = (72 / (taps * micro_c)).clamp(1, problem.k.min(8));
    kernel_of_problem("conv2d/kernel", problem)
        .constant("MICRO_K", micro_k)
        .constant("MICRO_C", micro_c)
        .constant("WINDOW_ROWS", window_rows)
        .grid([problem.c.div_ceil(micro_c), problem.k.div_ceil(micro_k), r / window_rows])
}

/// Output channels along the lanes, and a window row a workgroup.
fn kernel_broadcast(problem: &Problem) -> Kernel {
    let [r, _] = problem.geometry.window;
    let tile_columns = even_tile(problem.q, 8);
    let micro_k = problem.k.div_ceil(LANES).min(2);
    let micro_c = (4 / micro_k).min(problem.c);
    kernel_of_problem("conv2d/kernel_broadcast", problem)
        .constant("MICRO_K", micro_k)
        .constant("MICRO_C", micro_c)
        .constant("TILE_COLUMNS", tile_columns)
        .grid([problem.c.div_ceil(micro_c), problem.k.div_ceil(LANES * micro_k), r])
}

impl Tape {
    /// y `[N, K, P, Q]` from x `[N, C, H, W]` and w `[K, C, R, S]`:
    /// `y[n,k,p,q] = Σ_{c,r,s} x[n, c, p·stride + r − padding, q·stride + s − padding] · w[k,c,r,s]`, x being zero
    /// outside of the image.
    ///
    /// # Panics
    /// When an operand does not have four axes, the channels differ, or the window does not fit.
    pub fn conv2d(&mut self, x: Value, w: Value, stride: usize, padding: usize) -> Value {
        let axes = |value: Value| self.shape(value).images().unwrap_or_else(|reason| panic!("conv2d: {reason}"));
        let ([_, _, h, width], [_, _, r, s]) = (axes(x), axes(w));
        let geometry = Geometry { image: [h, width], window: [r, s], stride, padding };
        self.push(Conv2d { solve_for: Role::Output, geometry }, &[x, w])
    }
}
