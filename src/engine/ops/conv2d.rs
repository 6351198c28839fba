//! Two-dimensional cross-correlation and its adjoints: the three ways to solve one trilinear form.
//!
//! `T(x, w, y) = Σ x[n,c,h,v] · w[k,c,r,s] · y[n,k,p,q]` over all terms with `h = p·stride + r − padding` and
//! `v = q·stride + s − padding` inside the image. The derivative of T in any one operand is a primitive of this family
//! in the other two, and its own derivatives are the other two primitives: the family is closed under `vjp`.
//! The channels of x and y may fall into as many groups, one after another, of which each has a form of its own:
//! networks side by side.
//! See Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", arXiv:1603.07285, sections 2 and 4.

mod broadcast;

use super::matmul::Tiles;
use crate::engine::bounds::{matrix_bound, sum_bound};
use crate::engine::kernel::{DeviceClass, Kernel, Tile, WORKGROUP_BYTES};
use crate::engine::tape::{Application, Array, Cotangent, Primitive, Tape, Value};
use crate::engine::tensor::Shape;

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

/// Solves the trilinear form of the [module](self) for one of its operands, in each of G groups.
///
/// | role | inputs | output |
/// |---|---|---|
/// | `Output` | x `[N, C, H, W]`, w `[K, C / G, R, S]` | y `[N, K, P, Q]` |
/// | `Input` | ȳ `[N, K, P, Q]`, w `[K, C / G, R, S]` | x̄ `[N, C, H, W]` |
/// | `Kernel` | x `[N, C, H, W]`, ȳ `[N, K, P, Q]` | w̄ `[K, C / G, R, S]` |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conv2d {
    pub solve_for: Role,
    pub geometry: Geometry,
    /// Runs of channels: the K / G of a group read the C / G of the same group alone.
    pub groups: usize,
}

/// Every extent of one application.
#[derive(Clone, Copy, Debug)]
struct Problem {
    n: usize,
    groups: usize,
    /// Channels of x in one group.
    c: usize,
    /// Channels of y in one group.
    k: usize,
    p: usize,
    q: usize,
    geometry: Geometry,
}

impl Problem {
    /// Elements of x, w and y.
    fn elements(&self) -> [usize; 3] {
        let Problem { n, groups, c, k, p, q, geometry } = *self;
        let ([h, w], [r, s]) = (geometry.image, geometry.window);
        [n * groups * c * h * w, groups * k * c * r * s, n * groups * k * p * q]
    }

    /// Calls `term` with the indices into x, w and y of every term of the trilinear form.
    fn for_each_term(&self, mut term: impl FnMut(usize, usize, usize)) {
        let Problem { n, groups, c, k, p, q, geometry } = *self;
        let ([h, w], [r, s]) = (geometry.image, geometry.window);
        let (rows, columns) = (geometry.meetings(0, p), geometry.meetings(1, q));
        for (image, group) in (0..n).flat_map(|image| (0..groups).map(move |group| (image, group))) {
            for (to, from) in (0..k).flat_map(|to| (0..c).map(move |from| (to, from))) {
                for &(out_row, tap_row, row) in &rows {
                    let x = (((image * groups + group) * c + from) * h + row) * w;
                    let kernel = (((group * k + to) * c + from) * r + tap_row) * s;
                    let y = (((image * groups + group) * k + to) * p + out_row) * q;
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
        Conv2d { solve_for, ..*self }
    }

    fn problem(&self, inputs: &[&Shape]) -> Result<Problem, String> {
        let [first, second] = [inputs[0].images()?, inputs[1].images()?];
        let Conv2d { geometry, groups, .. } = *self;
        let [p, q] = geometry.output()?;
        let expect = |operand: &str, axes: &[usize], expected: [usize; 2]| match axes == expected {
            true => Ok(()),
            false => Err(format!("{operand} has extents {axes:?} where {geometry:?} needs {expected:?}")),
        };
        let same = |axis: &str, first: usize, second: usize| match first == second {
            true => Ok(()),
            false => Err(format!("{axis} is {first} in one operand and {second} in the other")),
        };
        let of_group = |axis: &str, channels: usize| match groups > 0 && channels.is_multiple_of(groups) {
            true => Ok(channels / groups),
            false => Err(format!("{axis} is {channels}, which {groups} groups do not divide")),
        };
        let problem = |n, c, k| Problem { n, groups, c, k, p, q, geometry };
        match self.solve_for {
            Role::Output => {
                expect("x", &first[2..], geometry.image)?;
                expect("w", &second[2..], geometry.window)?;
                let (c, k) = (of_group("C", first[1])?, of_group("K", second[0])?);
                same("C / G", c, second[1])?;
                Ok(problem(first[0], c, k))
            }
            Role::Input => {
                expect("ȳ", &first[2..], [p, q])?;
                expect("w", &second[2..], geometry.window)?;
                same("K", first[1], second[0])?;
                Ok(problem(first[0], second[1], of_group("K", first[1])?))
            }
            Role::Kernel => {
                expect("x", &first[2..], geometry.image)?;
                expect("ȳ", &second[2..], [p, q])?;
                same("N", first[0], second[0])?;
                Ok(problem(first[0], of_group("C", first[1])?, of_group("K", second[1])?))
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
        let Problem { n, groups, c, k, p, q, geometry } = self.problem(inputs)?;
        let ([h, w], [r, s]) = (geometry.image, geometry.window);
        Ok(match self.solve_for {
            Role::Output => [n, groups * k, p, q],
            Role::Input => [n, groups * c, h, w],
            Role::Kernel => [groups * k, c, r, s],
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

    fn bound_matrix(&self, inputs: &[Array], output: &Shape) -> Vec<f64> {
        let terms = self.terms(&self.accepted(&[inputs[0].shape, inputs[1].shape]));
        matrix_bound(terms, inputs, |inputs| self.eval(inputs, output))
    }

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
            (role, DeviceClass::Cpu(lanes)) => broadcast::kernel(&problem, role, lanes),
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
            (role, DeviceClass::Cpu(lanes)) => broadcast::tilings(&problem, role, lanes),
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

impl Tape {
    /// y `[N, K, P, Q]` from x `[N, C, H, W]` and w `[K, C, R, S]`:
    /// `y[n,k,p,q] = Σ_{c,r,s} x[n, c, p·stride + r − padding, q·stride + s − padding] · w[k,c,r,s]`, x being zero
    /// outside of the image.
    ///
    /// # Panics
    /// When an operand does not have four axes, the channels differ, or the window does not fit.
    pub fn conv2d(&mut self, x: Value, w: Value, stride: usize, padding: usize) -> Value {
        self.grouped_conv2d(x, w, stride, padding, 1)
    }

    /// As [`conv2d`](Tape::conv2d) in each of G groups of channels: y `[N, K, P, Q]` from x `[N, C, H, W]` and w
    /// `[K, C / G, R, S]`.
    ///
    /// # Panics
    /// As [`conv2d`](Tape::conv2d), or when the groups do not divide the channels.
    pub fn grouped_conv2d(&mut self, x: Value, w: Value, stride: usize, padding: usize, groups: usize) -> Value {
        let axes = |value: Value| self.shape(value).images().unwrap_or_else(|reason| panic!("conv2d: {reason}"));
        let ([_, _, h, width], [_, _, r, s]) = (axes(x), axes(w));
        let geometry = Geometry { image: [h, width], window: [r, s], stride, padding };
        self.push(Conv2d { solve_for: Role::Output, geometry, groups }, &[x, w])
    }

    /// The matrix product in each of G groups of columns: y `[N, G · M]` from x `[N, G · F]` and w `[G · F, M]`.
    ///
    /// # Panics
    /// When an operand is no matrix, or the groups do not divide the columns of x.
    pub fn grouped_matmul(&mut self, x: Value, w: Value, groups: usize) -> Value {
        if groups == 1 {
            return self.matmul(x, w);
        }
        let matrix = |value: Value| self.shape(value).matrix().unwrap_or_else(|reason| panic!("matmul: {reason}"));
        let ([rows, inputs], [_, columns]) = (matrix(x), matrix(w));
        // A convolution of single pixels. In the place of ȳ, x meets w's rows: w is not transposed.
        let geometry = Geometry { image: [1, 1], window: [1, 1], stride: 1, padding: 0 };
        let [x, w] = [(x, [rows, inputs]), (w, [inputs, columns])]
            .map(|(value, [rows, columns])| self.reshape(value, [rows, columns, 1, 1]));
        let y = self.push(Conv2d { solve_for: Role::Input, geometry, groups }, &[x, w]);
        self.reshape(y, [rows, groups * columns])
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::engine::reference::Reference;

    #[test]
    fn groups_are_convolutions_side_by_side() {
        let geometry = Geometry { image: [5, 4], window: [3, 2], stride: 2, padding: 1 };
        let [p, q] = geometry.output().unwrap();
        let (groups, x, w, y) = (3, [2, 6, 5, 4], [3, 2, 3, 2], [2, 3, p, q]);
        // The axis of each operand that the groups divide.
        for (solve_for, [first, second], axes, joined) in
            [(Role::Output, [x, w], [1, 0], 1), (Role::Input, [y, w], [1, 0], 1), (Role::Kernel, [x, y], [1, 1], 0)]
        {
            let mut t = Tape::new();
            let (a, b) = (t.feed("a", first), t.feed("b", second));
            let whole = t.push(Conv2d { solve_for, geometry, groups }, &[a, b]);
            let parts: Vec<Value> = (0..groups)
                .map(|group| {
                    let [a, b] = [(a, axes[0]), (b, axes[1])].map(|(operand, axis)| {
                        let extent = t.shape(operand)[axis] / groups;
                        t.slice(operand, axis, group * extent, extent)
                    });
                    t.push(Conv2d { solve_for, geometry, groups: 1 }, &[a, b])
                })
                .collect();
            let apart = t.concat(joined, &parts);

            let wave = |shape: [usize; 4]| (0..shape.iter().product()).map(|i| (1.7 * i as f64).sin()).collect();
            let sources: HashMap<String, Vec<f64>> = [("a".into(), wave(first)), ("b".into(), wave(second))].into();
            let mut reference = Reference::new(&t, &sources);
            assert_eq!(t.shape(whole), t.shape(apart));
            assert_eq!(reference.eval(whole).unwrap().to_vec(), reference.eval(apart).unwrap().to_vec());
        }
    }

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

    #[test]
    fn operands_that_do_not_fit_are_refused() {
        let geometry = Geometry { image: [4, 4], window: [1, 1], stride: 1, padding: 0 };
        let error = |solve_for, groups, first: [usize; 4], second: [usize; 4]| {
            let (first, second) = (first.into(), second.into());
            Conv2d { solve_for, geometry, groups }.shape(&[&first, &second]).unwrap_err()
        };
        for (message, part) in [
            (error(Role::Output, 3, [1, 4, 4, 4], [3, 1, 1, 1]), "C is 4"),
            (error(Role::Output, 2, [1, 4, 4, 4], [3, 2, 1, 1]), "K is 3"),
            (error(Role::Output, 2, [1, 4, 4, 4], [2, 4, 1, 1]), "C / G is 2 in one operand and 4"),
            (error(Role::Input, 2, [1, 3, 4, 4], [3, 2, 1, 1]), "K is 3"),
            (error(Role::Kernel, 2, [1, 4, 4, 4], [1, 3, 4, 4]), "K is 3"),
            (error(Role::Kernel, 0, [1, 4, 4, 4], [1, 4, 4, 4]), "C is 4, which 0 groups"),
        ] {
            assert!(message.contains(part), "{message}");
        }
    }
}
