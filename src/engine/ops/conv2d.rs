//! Two-dimensional cross-correlation and its adjoints: the three ways to solve one trilinear form.
//!
//! `T(x, w, y) = Σ x[n,c,h,v] · w[k,c,r,s] · y[n,k,p,q]` over all terms with `h = p·stride + r − padding` and
//! `v = q·stride + s − padding` inside the image. The derivative of T in any one operand is a primitive of this family
//! in the other two, and its own derivatives are the other two primitives: the family is closed under `vjp`.
//! The channels of x and y may fall into as many groups, one after another, of which each has a form of its own:
//! networks side by side.
//! See Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", arXiv:1603.07285, sections 2 and 4.

mod lower;
mod partial;
mod transposed;

use std::ops::Range;

use crate::engine::bounds::product_bound;
use crate::engine::case::ShapeClass::{Folded, Ones, Prime, Small, Tiled, Training, Uneven};
use crate::engine::case::{Fill, Parameters, Parts, ShapeClass};
pub use crate::engine::geometry::Geometry;
use crate::engine::ops::{Family, listed, no_role};
use crate::engine::tape::{Application, Arithmetic, Array, Cotangent, Primitive, Tape, Value};
use crate::engine::tensor::Shape;
pub use partial::PartialKernel;
pub use transposed::OfTransposed;

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

    /// Output position, tap and pixel of every meeting of a window with a pixel, along rows and along columns.
    fn meetings(&self) -> [Meetings; 2] {
        [self.geometry.meetings(0, self.p), self.geometry.meetings(1, self.q)]
    }

    /// Calls `term` with the indices into x, w and y of every term of the trilinear form.
    fn for_each_term(&self, term: impl FnMut(usize, usize, usize)) {
        let Problem { n, groups, c, k, .. } = *self;
        let [rows, columns] = &self.meetings();
        self.for_each_term_in(&Part { images: 0..n, groups: 0..groups, to: 0..k, from: 0..c, rows, columns }, term);
    }

    /// The same for the terms of one element of the operand that is solved for, of the images in a range.
    fn for_each_term_of(
        &self,
        (solve_for, element): (Role, usize),
        images: Range<usize>,
        [rows, columns]: &[Meetings; 2],
        term: impl FnMut(usize, usize, usize),
    ) {
        let Problem { groups, c, k, p, q, geometry, .. } = *self;
        let one = |index: usize| index..index + 1;
        let [height, width] = match solve_for {
            Role::Output => [p, q],
            Role::Input => geometry.image,
            Role::Kernel => geometry.window,
        };
        let (row, column, plane) = (element / width % height, element % width, element / width / height);
        let along = |meetings: &Meetings, place: usize| -> Meetings {
            let meets = |&&(output, tap, pixel): &&(usize, usize, usize)| match solve_for {
                Role::Output => output == place,
                Role::Input => pixel == place,
                Role::Kernel => tap == place,
            };
            meetings.iter().filter(meets).copied().collect()
        };
        let (rows, columns) = (&along(rows, row), &along(columns, column));
        let part = match solve_for {
            Role::Output => {
                let (image, group, to) = (plane / k / groups, plane / k % groups, plane % k);
                Part { images: one(image), groups: one(group), to: one(to), from: 0..c, rows, columns }
            }
            Role::Input => {
                let (image, group, from) = (plane / c / groups, plane / c % groups, plane % c);
                Part { images: one(image), groups: one(group), to: 0..k, from: one(from), rows, columns }
            }
            Role::Kernel => {
                let (group, to, from) = (plane / c / k, plane / c % k, plane % c);
                Part { images, groups: one(group), to: one(to), from: one(from), rows, columns }
            }
        };
        self.for_each_term_in(&part, term);
    }

    fn for_each_term_in(&self, part: &Part, mut term: impl FnMut(usize, usize, usize)) {
        let Problem { groups, c, k, p, q, geometry, .. } = *self;
        let ([h, w], [r, s]) = (geometry.image, geometry.window);
        for (image, group) in part.images.clone().flat_map(|image| part.groups.clone().map(move |group| (image, group)))
        {
            for (to, from) in part.to.clone().flat_map(|to| part.from.clone().map(move |from| (to, from))) {
                for &(out_row, tap_row, row) in part.rows {
                    let x = (((image * groups + group) * c + from) * h + row) * w;
                    let kernel = (((group * k + to) * c + from) * r + tap_row) * s;
                    let y = (((image * groups + group) * k + to) * p + out_row) * q;
                    for &(out_column, tap_column, column) in part.columns {
                        term(x + column, kernel + tap_column, y + out_column);
                    }
                }
            }
        }
    }
}

/// `(output, tap, pixel)` along one axis, as [`Geometry::meetings`] lists them.
type Meetings = Vec<(usize, usize, usize)>;

impl Problem {
    /// The sums of these elements of the operand that is solved for; `images` gives those that take part in each.
    fn eval_at(
        &self,
        solve_for: Role,
        inputs: &[Array],
        elements: impl Iterator<Item = usize>,
        images: impl Fn(usize) -> Range<usize>,
    ) -> Vec<f64> {
        let (meetings, first, second) = (self.meetings(), inputs[0].data, inputs[1].data);
        let sum = |(place, element): (usize, usize)| {
            let mut sum = 0.0;
            self.for_each_term_of((solve_for, element), images(place), &meetings, |x, w, y| {
                sum += match solve_for {
                    Role::Output => first[x] * second[w],
                    Role::Input => first[y] * second[w],
                    Role::Kernel => first[x] * second[y],
                };
            });
            sum
        };
        elements.enumerate().map(sum).collect()
    }
}

/// Some of the terms of the trilinear form.
struct Part<'a> {
    images: Range<usize>,
    groups: Range<usize>,
    /// Channels of y in a group.
    to: Range<usize>,
    /// Channels of x in a group.
    from: Range<usize>,
    rows: &'a Meetings,
    columns: &'a Meetings,
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

    fn parameters(&self, inputs: &[&Shape]) -> Option<String> {
        let Geometry { image: [h, w], window: [r, s], stride, padding } = self.geometry;
        let [first, second] = [inputs[0].images().ok()?, inputs[1].images().ok()?];
        let [n, c, k] = match self.solve_for {
            Role::Output => [first[0], first[1], second[0]],
            Role::Input => [first[0], second[1] * self.groups, first[1]],
            Role::Kernel => [first[0], first[1], second[1]],
        };
        let groups = if self.groups > 1 { format!(",groups={}", self.groups) } else { String::new() };
        Some(format!("n={n},c={c},h={h},w={w},k={k},r={r},s={s},stride={stride},padding={padding}{groups}"))
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

    fn bound(&self, inputs: &[Array], output: &Shape, arithmetic: Arithmetic) -> Vec<f64> {
        let terms = self.terms(&self.accepted(&[inputs[0].shape, inputs[1].shape]));
        product_bound(arithmetic, terms, inputs, |inputs| self.eval(inputs, output))
    }

    fn sample(&self, inputs: &[Array], _: &Shape, arithmetic: Arithmetic, elements: &[usize]) -> [Vec<f64>; 2] {
        let problem = self.accepted(&[inputs[0].shape, inputs[1].shape]);
        let images = |_| 0..problem.n;
        let eval = |inputs: &[Array]| problem.eval_at(self.solve_for, inputs, elements.iter().copied(), images);
        [eval(inputs), product_bound(arithmetic, self.terms(&problem), inputs, eval)]
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

/// The family, with the cases that it is checked at.
pub(super) const FAMILY: Family =
    Family { name: "conv2d", describe, cases, shaders: lower::SHADERS, lowering: lower::lowering };

fn describe(role: &str, p: &mut Parameters) -> Result<Parts, String> {
    let [n, c, h, w] = p.numbers(["n", "c", "h", "w"])?;
    let [k, r, s, stride, padding] = p.numbers(["k", "r", "s", "stride", "padding"])?;
    let groups = p.number_or("groups", 1)?;
    if groups == 0 || !c.is_multiple_of(groups) || !k.is_multiple_of(groups) {
        return Err(format!("groups={groups} does not divide c={c} and k={k}"));
    }
    let geometry = Geometry { image: [h, w], window: [r, s], stride, padding };
    let [out_h, out_w] = geometry.output()?;
    let [image, kernel, output] = [[n, c, h, w], [k, c / groups, r, s], [n, k, out_h, out_w]].map(Shape::from);
    let matrix = |rows: usize, columns: usize| Shape::from([rows, columns]);
    let whole = |solve_for| Conv2d { solve_for, geometry, groups };
    let (parts, first, second) = match role {
        "output" => (Parts::new(whole(Role::Output)), image, kernel),
        "input" => (Parts::new(whole(Role::Input)), output, kernel),
        "kernel" => (Parts::new(whole(Role::Kernel)), image, output),
        "partial_kernel" => {
            let partial = PartialKernel { whole: whole(Role::Kernel), run: p.number_or("run", n)? };
            (Parts::new(partial), image, output)
        }
        "output_of_transposed" => {
            (Parts::new(OfTransposed { whole: whole(Role::Output) }), image, matrix(c / groups * r * s, k))
        }
        "input_of_transposed" => {
            (Parts::new(OfTransposed { whole: whole(Role::Input) }), output, matrix(r * s, k * (c / groups)))
        }
        _ => return Err(no_role("conv2d", role)),
    };
    Ok(parts.exact(true).linear_in(&[&[0], &[1]]).input(first, Fill::ANY).input(second, Fill::ANY))
}

/// Geometries that are run in all three roles.
const GEOMETRIES: &[(ShapeClass, &str)] = &[
    (Prime, "n=2,c=3,h=7,w=5,k=5,r=3,s=3,stride=1,padding=1"),
    (Prime, "n=3,c=11,h=13,w=17,k=13,r=5,s=3,stride=1,padding=2"),
    (Prime, "n=2,c=33,h=7,w=5,k=39,r=3,s=3,stride=1,padding=1,groups=3"),
    (Small, "n=1,c=2,h=4,w=4,k=2,r=2,s=2,stride=1,padding=0"),
    (Small, "n=2,c=4,h=3,w=4,k=6,r=2,s=2,stride=1,padding=0,groups=2"),
    (Ones, "n=1,c=1,h=1,w=1,k=1,r=1,s=1,stride=1,padding=0"),
    (Ones, "n=1,c=1,h=1,w=9,k=1,r=1,s=3,stride=1,padding=1"),
    (Ones, "n=5,c=1,h=6,w=1,k=9,r=3,s=1,stride=1,padding=0"),
    (Ones, "n=2,c=8,h=6,w=6,k=5,r=1,s=1,stride=2,padding=0"),
    (Ones, "n=1,c=5,h=4,w=3,k=5,r=3,s=3,stride=1,padding=1,groups=5"),
    (Ones, "n=9,c=21,h=1,w=1,k=3,r=1,s=1,stride=1,padding=0,groups=3"),
    (Uneven, "n=2,c=3,h=7,w=5,k=4,r=3,s=3,stride=2,padding=1"),
    (Uneven, "n=1,c=4,h=11,w=10,k=3,r=5,s=4,stride=3,padding=2"),
    (Uneven, "n=3,c=2,h=9,w=10,k=6,r=2,s=2,stride=3,padding=0"),
    (Uneven, "n=2,c=5,h=6,w=7,k=3,r=2,s=3,stride=2,padding=3"),
    (Uneven, "n=2,c=9,h=8,w=9,k=10,r=4,s=4,stride=2,padding=1"),
    (Uneven, "n=9,c=10,h=9,w=8,k=4,r=5,s=4,stride=3,padding=2,groups=2"),
    (Tiled, "n=2,c=70,h=12,w=11,k=67,r=3,s=3,stride=1,padding=1"),
    (Tiled, "n=9,c=17,h=21,w=19,k=33,r=3,s=3,stride=2,padding=1"),
    (Tiled, "n=2,c=134,h=7,w=9,k=138,r=3,s=3,stride=2,padding=1,groups=2"),
    (Tiled, "n=5,c=449,h=3,w=3,k=450,r=1,s=1,stride=1,padding=0"),
    (Training, "n=32,c=3,h=32,w=32,k=16,r=3,s=3,stride=1,padding=1"),
    (Training, "n=32,c=16,h=14,w=14,k=32,r=3,s=3,stride=2,padding=1"),
    (Training, "n=32,c=64,h=14,w=14,k=128,r=3,s=3,stride=2,padding=1,groups=4"),
];

fn cases() -> Vec<(ShapeClass, String)> {
    let roles = GEOMETRIES.iter().flat_map(|&(class, geometry)| {
        ["output", "input", "kernel"].map(|role| (class, format!("conv2d/{role}({geometry})")))
    });
    roles.chain(listed(CASES)).collect()
}

const CASES: &[(ShapeClass, &str)] = &[
    (Prime, "conv2d/partial_kernel(n=7,c=3,h=7,w=5,k=5,r=3,s=3,stride=1,padding=1,run=3)"),
    (Small, "conv2d/partial_kernel(n=2,c=4,h=3,w=4,k=6,r=2,s=2,stride=1,padding=0,groups=2,run=1)"),
    (Ones, "conv2d/partial_kernel(n=3,c=8,h=6,w=6,k=5,r=1,s=1,stride=2,padding=0,run=2)"),
    (Uneven, "conv2d/partial_kernel(n=5,c=10,h=9,w=8,k=4,r=5,s=4,stride=3,padding=2,groups=2,run=2)"),
    (Prime, "conv2d/output_of_transposed(n=2,c=3,h=7,w=5,k=5,r=3,s=3,stride=1,padding=1)"),
    (Prime, "conv2d/input_of_transposed(n=2,c=3,h=7,w=5,k=5,r=3,s=3,stride=1,padding=1)"),
    (Small, "conv2d/output_of_transposed(n=1,c=2,h=4,w=4,k=2,r=2,s=2,stride=1,padding=0)"),
    (Small, "conv2d/input_of_transposed(n=1,c=2,h=4,w=4,k=2,r=2,s=2,stride=1,padding=0)"),
    (Ones, "conv2d/output_of_transposed(n=3,c=8,h=6,w=6,k=5,r=1,s=1,stride=2,padding=0)"),
    (Ones, "conv2d/input_of_transposed(n=3,c=8,h=6,w=6,k=5,r=1,s=1,stride=2,padding=0)"),
    (Uneven, "conv2d/output_of_transposed(n=3,c=10,h=9,w=8,k=4,r=5,s=4,stride=3,padding=2,groups=2)"),
    (Uneven, "conv2d/input_of_transposed(n=3,c=10,h=9,w=8,k=4,r=5,s=4,stride=3,padding=2,groups=2)"),
    (Tiled, "conv2d/output_of_transposed(n=2,c=70,h=12,w=11,k=67,r=3,s=3,stride=1,padding=1)"),
    (Tiled, "conv2d/input_of_transposed(n=2,c=70,h=12,w=11,k=67,r=3,s=3,stride=2,padding=1)"),
    (Training, "conv2d/output_of_transposed(n=32,c=16,h=14,w=14,k=32,r=3,s=3,stride=2,padding=1)"),
    (Training, "conv2d/input_of_transposed(n=32,c=16,h=14,w=14,k=32,r=3,s=3,stride=2,padding=1)"),
    // Few channels of a stride: the rows of all its phases are of one product on GPUs.
    (Uneven, "conv2d/input(n=2,c=3,h=12,w=10,k=9,r=7,s=7,stride=2,padding=3)"),
    (Uneven, "conv2d/input(n=2,c=2,h=9,w=6,k=5,r=4,s=2,stride=3,padding=1)"),
    (Training, "conv2d/partial_kernel(n=32,c=16,h=16,w=16,k=32,r=3,s=3,stride=1,padding=1,run=4)"),
    // One pixel a workgroup on CPU drivers, 128 on GPUs.
    (Folded, "conv2d/output(n=65600,c=1,h=1,w=1,k=4,r=1,s=1,stride=1,padding=0)"),
    (Folded, "conv2d/input(n=65600,c=4,h=1,w=1,k=1,r=1,s=1,stride=1,padding=0)"),
    (Folded, "conv2d/output(n=1,c=1,h=2900,w=2900,k=1,r=1,s=1,stride=1,padding=0)"),
    (Folded, "conv2d/input(n=1,c=1,h=2900,w=2900,k=1,r=1,s=1,stride=1,padding=0)"),
];

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
