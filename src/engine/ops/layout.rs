//! Rearranged values: reshape, broadcast, transposition, slice, pad, concatenation.

mod lower;

use crate::engine::case::ShapeClass::{Folded, Large, Ones, Prime, Small, Tiled, Training, Uneven};
use crate::engine::case::{Fill, Parameters, Parts, ShapeClass, Special};
use crate::engine::ops::elementwise::{Collapsed, spread};
use crate::engine::ops::{Family, listed, no_role};
use crate::engine::tape::{Application, Arithmetic, Array, Cotangent, Primitive, Tape, Value};
use crate::engine::tensor::{Shape, Tensor};

/// The same elements under another shape, without a kernel.
#[derive(Clone, Debug)]
pub struct Reshape {
    pub to: Shape,
}

impl Primitive for Reshape {
    fn name(&self) -> &'static str {
        "layout/reshape"
    }

    fn parameters(&self, inputs: &[&Shape]) -> Option<String> {
        Some(format!("x={},to={}", inputs[0], self.to))
    }

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape, String> {
        match inputs[0].count() == self.to.count() {
            true => Ok(self.to.clone()),
            false => Err(format!("{:?} and {:?} differ in their number of elements", inputs[0], self.to)),
        }
    }

    fn vjp(&self, tape: &mut Tape, at: Application) -> Vec<Cotangent> {
        let shape = tape.shape(at.inputs[0]).clone();
        vec![Cotangent::Of(tape.reshape(at.cotangent, shape))]
    }

    fn eval(&self, inputs: &[Array], _: &Shape) -> Vec<f64> {
        inputs[0].data.to_vec()
    }

    fn bound(&self, _: &[Array], output: &Shape, _: Arithmetic) -> Vec<f64> {
        vec![0.0; output.count()]
    }
}

/// y = x repeated along the axes that it lacks or where it has extent 1.
#[derive(Clone, Debug)]
pub struct Broadcast {
    pub to: Shape,
}

impl Primitive for Broadcast {
    fn name(&self) -> &'static str {
        "layout/broadcast"
    }

    fn parameters(&self, inputs: &[&Shape]) -> Option<String> {
        Some(format!("x={},to={}", inputs[0], self.to))
    }

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape, String> {
        let fits = super::elementwise::broadcast_shape(inputs[0], &self.to)? == self.to;
        if !fits {
            return Err(format!("{:?} does not broadcast to {:?}", inputs[0], self.to));
        }
        Collapsed::new(&self.to, inputs)?;
        Ok(self.to.clone())
    }

    fn vjp(&self, tape: &mut Tape, at: Application) -> Vec<Cotangent> {
        let shape = tape.shape(at.inputs[0]).clone();
        vec![Cotangent::Of(tape.sum_to(at.cotangent, &shape))]
    }

    fn eval(&self, inputs: &[Array], output: &Shape) -> Vec<f64> {
        spread(inputs[0], output)
    }

    fn bound(&self, _: &[Array], output: &Shape, _: Arithmetic) -> Vec<f64> {
        vec![0.0; output.count()]
    }
}

/// y = xᵀ: `[N, M]` from x `[M, N]`.
#[derive(Clone, Copy, Debug)]
pub struct Transpose;

impl Primitive for Transpose {
    fn name(&self) -> &'static str {
        "layout/transpose"
    }

    fn parameters(&self, inputs: &[&Shape]) -> Option<String> {
        Some(format!("x={}", inputs[0]))
    }

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape, String> {
        let [m, n] = inputs[0].matrix()?;
        Ok([n, m].into())
    }

    fn vjp(&self, tape: &mut Tape, at: Application) -> Vec<Cotangent> {
        vec![Cotangent::Of(tape.transpose(at.cotangent))]
    }

    fn eval(&self, inputs: &[Array], output: &Shape) -> Vec<f64> {
        let [n, m] = output.matrix().expect("checked when recorded");
        (0..n).flat_map(|column| (0..m).map(move |row| inputs[0].data[row * n + column])).collect()
    }

    fn bound(&self, _: &[Array], output: &Shape, _: Arithmetic) -> Vec<f64> {
        vec![0.0; output.count()]
    }
}

/// [product of the extents before `axis`, product of those from it on].
fn rows(shape: &Shape, axis: usize) -> [usize; 2] {
    [shape[..axis].iter().product(), shape[axis..].iter().product()]
}

/// Product of the extents after `axis`.
fn inside(shape: &Shape, axis: usize) -> usize {
    shape[axis + 1..].iter().product()
}

fn with_extent(shape: &Shape, axis: usize, extent: usize) -> Shape {
    let mut shape = shape.to_vec();
    shape[axis] = extent;
    shape.into()
}

/// y[.., j, ..] = x[.., start + j, ..] for j < extent along `axis`.
#[derive(Clone, Debug)]
pub struct Slice {
    pub axis: usize,
    pub start: usize,
    pub extent: usize,
}

impl Slice {
    /// The first element of the slice, if its elements are one run of those of an input of this shape.
    pub(crate) fn run_of(&self, input: &Shape) -> Option<usize> {
        let is_run = input[..self.axis].iter().all(|&extent| extent == 1);
        is_run.then(|| self.start * inside(input, self.axis))
    }
}

impl Primitive for Slice {
    fn name(&self) -> &'static str {
        "layout/slice"
    }

    fn parameters(&self, inputs: &[&Shape]) -> Option<String> {
        Some(format!("x={},axis={},start={},extent={}", inputs[0], self.axis, self.start, self.extent))
    }

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape, String> {
        match inputs[0].get(self.axis) {
            Some(&extent) if self.start + self.extent <= extent => Ok(with_extent(inputs[0], self.axis, self.extent)),
            _ => Err(format!("{self:?} lies outside {:?}", inputs[0])),
        }
    }

    fn vjp(&self, tape: &mut Tape, at: Application) -> Vec<Cotangent> {
        let extent = tape.shape(at.inputs[0])[self.axis];
        vec![Cotangent::Of(tape.pad(at.cotangent, self.axis, self.start, extent))]
    }

    fn eval(&self, inputs: &[Array], output: &Shape) -> Vec<f64> {
        let ([_, row], [outer, width]) = (rows(inputs[0].shape, self.axis), rows(output, self.axis));
        let first = self.start * inside(output, self.axis);
        (0..outer).flat_map(|o| inputs[0].data[o * row + first..][..width].to_vec()).collect()
    }

    fn bound(&self, _: &[Array], output: &Shape, _: Arithmetic) -> Vec<f64> {
        vec![0.0; output.count()]
    }
}

/// y[.., start + j, ..] = x[.., j, ..] along `axis`, 0 elsewhere.
#[derive(Clone, Debug)]
pub struct Pad {
    pub axis: usize,
    pub start: usize,
    pub extent: usize,
}

impl Primitive for Pad {
    fn name(&self) -> &'static str {
        "layout/pad"
    }

    fn parameters(&self, inputs: &[&Shape]) -> Option<String> {
        Some(format!("x={},axis={},start={},extent={}", inputs[0], self.axis, self.start, self.extent))
    }

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape, String> {
        match inputs[0].get(self.axis) {
            Some(&extent) if self.start + extent <= self.extent => Ok(with_extent(inputs[0], self.axis, self.extent)),
            _ => Err(format!("{:?} does not fit {self:?}", inputs[0])),
        }
    }

    fn vjp(&self, tape: &mut Tape, at: Application) -> Vec<Cotangent> {
        let extent = tape.shape(at.inputs[0])[self.axis];
        vec![Cotangent::Of(tape.slice(at.cotangent, self.axis, self.start, extent))]
    }

    fn eval(&self, inputs: &[Array], output: &Shape) -> Vec<f64> {
        let ([_, width], [outer, row]) = (rows(inputs[0].shape, self.axis), rows(output, self.axis));
        let first = self.start * inside(output, self.axis);
        let mut padded = vec![0.0; outer * row];
        for o in 0..outer {
            padded[o * row + first..][..width].copy_from_slice(&inputs[0].data[o * width..][..width]);
        }
        padded
    }

    fn bound(&self, _: &[Array], output: &Shape, _: Arithmetic) -> Vec<f64> {
        vec![0.0; output.count()]
    }
}

/// y = a, then b, along `axis`.
#[derive(Clone, Debug)]
pub struct Concat {
    pub axis: usize,
}

impl Primitive for Concat {
    fn name(&self) -> &'static str {
        "layout/concat"
    }

    fn parameters(&self, inputs: &[&Shape]) -> Option<String> {
        Some(format!("a={},b={},axis={}", inputs[0], inputs[1], self.axis))
    }

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape, String> {
        let [a, b] = [inputs[0], inputs[1]];
        let agree = a.len() == b.len() && self.axis < a.len() && *a == with_extent(b, self.axis, a[self.axis]);
        if !agree {
            return Err(format!("{a:?} and {b:?} differ in more than axis {}", self.axis));
        }
        Ok(with_extent(a, self.axis, a[self.axis] + b[self.axis]))
    }

    fn vjp(&self, tape: &mut Tape, at: Application) -> Vec<Cotangent> {
        let [a, b] = [0, 1].map(|input| tape.shape(at.inputs[input])[self.axis]);
        let ct_a = tape.slice(at.cotangent, self.axis, 0, a);
        let ct_b = tape.slice(at.cotangent, self.axis, a, b);
        vec![Cotangent::Of(ct_a), Cotangent::Of(ct_b)]
    }

    fn eval(&self, inputs: &[Array], _: &Shape) -> Vec<f64> {
        let ([outer, a], [_, b]) = (rows(inputs[0].shape, self.axis), rows(inputs[1].shape, self.axis));
        (0..outer).flat_map(|o| [&inputs[0].data[o * a..][..a], &inputs[1].data[o * b..][..b]].concat()).collect()
    }

    fn bound(&self, _: &[Array], output: &Shape, _: Arithmetic) -> Vec<f64> {
        vec![0.0; output.count()]
    }
}

/// Places in one array for several, each at a multiple of [`ALIGNMENT`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Packing {
    /// The first element of each.
    pub starts: Vec<usize>,
    /// Elements of all, with those between.
    pub len: usize,
}

/// Elements from which on a part of a buffer can be bound on every device: 256 bytes.
pub const ALIGNMENT: usize = 64;

impl Packing {
    /// For arrays of so many elements, one after another.
    pub fn new(counts: impl IntoIterator<Item = usize>) -> Self {
        let mut packing = Packing::default();
        for count in counts {
            packing.starts.push(packing.len);
            packing.len += count.next_multiple_of(ALIGNMENT);
        }
        packing
    }
}

/// y `[len]`: each input's elements from its start on, and zeros between. A plan computes the inputs in their places: there is
/// nothing to run.
#[derive(Clone, Debug)]
pub struct Pack {
    pub packing: Packing,
}

impl Primitive for Pack {
    fn name(&self) -> &'static str {
        "layout/pack"
    }

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape, String> {
        match Packing::new(inputs.iter().map(|input| input.count())) == self.packing {
            true => Ok([self.packing.len].into()),
            false => Err(format!("{inputs:?} are not the arrays of {:?}", self.packing)),
        }
    }

    fn vjp(&self, tape: &mut Tape, at: Application) -> Vec<Cotangent> {
        let part = |(&input, &start): (&Value, &usize)| {
            let shape = tape.shape(input).clone();
            let part = tape.slice(at.cotangent, 0, start, shape.count());
            Cotangent::Of(tape.reshape(part, shape))
        };
        at.inputs.iter().zip(&self.packing.starts).map(part).collect()
    }

    fn eval(&self, inputs: &[Array], output: &Shape) -> Vec<f64> {
        let mut packed = vec![0.0; output.count()];
        for (input, &start) in inputs.iter().zip(&self.packing.starts) {
            packed[start..][..input.data.len()].copy_from_slice(input.data);
        }
        packed
    }

    fn bound(&self, _: &[Array], output: &Shape, _: Arithmetic) -> Vec<f64> {
        vec![0.0; output.count()]
    }
}

impl Tape {
    /// The elements of `x` under the shape `to`; no copy is made.
    ///
    /// # Panics
    /// When the element counts differ.
    pub fn reshape(&mut self, x: Value, to: impl Into<Shape>) -> Value {
        let to = to.into();
        if *self.shape(x) == to { x } else { self.push(Reshape { to }, &[x]) }
    }

    /// `x` as another value; no copy is made. A gradient with respect to one ignores the uses of the other.
    pub fn renamed(&mut self, x: Value) -> Value {
        let to = self.shape(x).clone();
        self.push(Reshape { to }, &[x])
    }

    /// `x` repeated to the shape `to`, aligned at the last axis.
    ///
    /// # Panics
    /// When the shapes do not broadcast.
    pub fn broadcast(&mut self, x: Value, to: &Shape) -> Value {
        if self.shape(x) == to {
            return x;
        }
        if self.shape(x).count() == to.count() {
            return self.reshape(x, to.clone());
        }
        self.push(Broadcast { to: to.clone() }, &[x])
    }

    /// `[N, M]` from x `[M, N]`.
    ///
    /// # Panics
    /// When x is no matrix.
    pub fn transpose(&mut self, x: Value) -> Value {
        self.push(Transpose, &[x])
    }

    /// `extent` elements of `axis`, from `start`.
    ///
    /// # Panics
    /// When they lie outside.
    pub fn slice(&mut self, x: Value, axis: usize, start: usize, extent: usize) -> Value {
        let whole = self.shape(x).get(axis) == Some(&extent);
        if whole { x } else { self.push(Slice { axis, start, extent }, &[x]) }
    }

    /// All of `parts` in one array, as [`Packing`] has them: `[len]`.
    ///
    /// # Panics
    /// When there are none.
    pub fn pack(&mut self, parts: &[Value]) -> Value {
        let packing = Packing::new(parts.iter().map(|&part| self.shape(part).count()));
        self.push(Pack { packing }, parts)
    }

    /// Zeros round `x`, so that `axis` has `extent` elements and x's begin at `start`.
    ///
    /// # Panics
    /// When x does not fit.
    pub fn pad(&mut self, x: Value, axis: usize, start: usize, extent: usize) -> Value {
        let whole = self.shape(x).get(axis) == Some(&extent);
        if whole { x } else { self.push(Pad { axis, start, extent }, &[x]) }
    }

    /// Each of `values` `[N, 1]` times a row: `[N, M]`. A sum of such products fills the columns of a matrix in one
    /// pass.
    ///
    /// # Panics
    /// When `values` is not a column.
    pub fn placed<const M: usize>(&mut self, values: Value, row: [f32; M]) -> Value {
        let row = self.constant(Tensor::new([1, M], row.to_vec()));
        self.mul(values, row)
    }

    /// Concatenates `parts` along `axis`.
    ///
    /// # Panics
    /// When there are none, or they differ in another axis.
    pub fn concat(&mut self, axis: usize, parts: &[Value]) -> Value {
        let (&first, rest) = parts.split_first().expect("at least one part");
        rest.iter().fold(first, |joined, &part| self.push(Concat { axis }, &[joined, part]))
    }
}

/// The family and its cases.
pub(super) const FAMILY: Family =
    Family { name: "layout", describe, cases: || listed(CASES), shaders: lower::SHADERS, lowering: lower::lowering };

fn describe(role: &str, p: &mut Parameters) -> Result<Parts, String> {
    Ok(match role {
        "reshape" => Parts::new(Reshape { to: p.shape("to")? }).exact(true).input(p.shape("x")?, Fill::ANY),
        "pack" => {
            let shapes = ["a", "b", "c"].map(|name| p.shape(name));
            let shapes = shapes.into_iter().collect::<Result<Vec<Shape>, String>>()?;
            let packing = Packing::new(shapes.iter().map(|shape| shape.count()));
            let parts = Parts::new(Pack { packing }).exact(true);
            shapes.into_iter().fold(parts, |parts, shape| parts.input(shape, Fill::ANY))
        }
        "broadcast" => Parts::new(Broadcast { to: p.shape("to")? })
            .exact(true)
            .special(Special::All)
            .linear_in(&[&[0]])
            .input(p.shape("x")?, Fill::ANY),
        "transpose" => {
            Parts::new(Transpose).exact(true).special(Special::All).linear_in(&[&[0]]).input(p.shape("x")?, Fill::ANY)
        }
        "slice" => {
            let [axis, start, extent] = p.numbers(["axis", "start", "extent"])?;
            Parts::new(Slice { axis, start, extent })
                .exact(true)
                .special(Special::All)
                .linear_in(&[&[0]])
                .input(p.shape("x")?, Fill::ANY)
        }
        "pad" => {
            let [axis, start, extent] = p.numbers(["axis", "start", "extent"])?;
            Parts::new(Pad { axis, start, extent })
                .exact(true)
                .special(Special::All)
                .linear_in(&[&[0]])
                .input(p.shape("x")?, Fill::ANY)
        }
        "concat" => {
            let axis = p.number("axis")?;
            Parts::new(Concat { axis })
                .exact(true)
                .special(Special::All)
                .linear_in(&[&[0, 1]])
                .input(p.shape("a")?, Fill::ANY)
                .input(p.shape("b")?, Fill::ANY)
        }
        _ => return Err(no_role("layout", role)),
    })
}

const CASES: &[(ShapeClass, &str)] = &[
    (Large, "layout/slice(x=16777261,axis=0,start=1,extent=16777259)"),
    (Large, "layout/broadcast(x=1,to=16777259)"),
    (Prime, "layout/reshape(x=6x5,to=3x10)"),
    (Prime, "layout/pack(a=5x13,b=64,c=7)"),
    (Prime, "layout/broadcast(x=5x1x7,to=5x13x7)"),
    (Small, "layout/broadcast(x=2x1,to=2x3)"),
    (Ones, "layout/broadcast(x=1,to=3x5)"),
    (Uneven, "layout/broadcast(x=8x1x1,to=4x8x5x7)"),
    (Uneven, "layout/broadcast(x=3x1x5,to=3x7x5)"),
    (Tiled, "layout/broadcast(x=1x5x1,to=3x5x1111)"),
    (Folded, "layout/broadcast(x=65600x1,to=65600x2)"),
    (Training, "layout/broadcast(x=1x16x1x1,to=64x16x14x14)"),
    (Prime, "layout/transpose(x=13x37)"),
    (Small, "layout/transpose(x=2x3)"),
    (Ones, "layout/transpose(x=1x5)"),
    (Uneven, "layout/transpose(x=65x33)"),
    (Tiled, "layout/transpose(x=320x96)"),
    (Folded, "layout/transpose(x=2097200x1)"),
    (Training, "layout/transpose(x=512x9)"),
    (Prime, "layout/slice(x=5x13x7,axis=1,start=3,extent=7)"),
    (Small, "layout/slice(x=3x4,axis=1,start=1,extent=2)"),
    (Ones, "layout/slice(x=7,axis=0,start=6,extent=1)"),
    (Uneven, "layout/slice(x=5x3x2,axis=0,start=2,extent=3)"),
    (Tiled, "layout/slice(x=4x401x3,axis=1,start=1,extent=399)"),
    (Folded, "layout/slice(x=65600x3,axis=1,start=1,extent=1)"),
    (Training, "layout/slice(x=192x32,axis=0,start=48,extent=48)"),
    (Prime, "layout/pad(x=5x7x3,axis=1,start=4,extent=13)"),
    (Small, "layout/pad(x=3x2,axis=1,start=1,extent=4)"),
    (Ones, "layout/pad(x=1,axis=0,start=4,extent=5)"),
    (Uneven, "layout/pad(x=2x3,axis=0,start=0,extent=5)"),
    (Tiled, "layout/pad(x=4x133x3,axis=1,start=100,extent=399)"),
    (Folded, "layout/pad(x=65600x1,axis=1,start=1,extent=3)"),
    (Training, "layout/pad(x=48x32,axis=0,start=48,extent=192)"),
    (Prime, "layout/concat(a=3x5x7,b=3x11x7,axis=1)"),
    (Small, "layout/concat(a=2x1,b=2x2,axis=1)"),
    (Ones, "layout/concat(a=1,b=1,axis=0)"),
    (Uneven, "layout/concat(a=5x3,b=2x3,axis=0)"),
    (Tiled, "layout/concat(a=4x133x3,b=4x57x3,axis=1)"),
    (Folded, "layout/concat(a=65600x1,b=65600x2,axis=1)"),
    (Training, "layout/concat(a=48x1x28x28,b=48x1x28x28,axis=0)"),
];
