//! Elementwise functions of one or two values; those of two broadcast as in NumPy.
//!
//! To add a function of one value, see [`Unary`].

mod binary;
mod lower;
mod multiply_add;
mod unary;

pub use binary::{Binary, BinaryMap};
pub(super) use lower::{X, vector_width};
pub use multiply_add::MultiplyAdd;
pub use unary::{Unary, UnaryMap};

use crate::engine::bounds::Approx;
use crate::engine::case::ShapeClass::{Folded, Large, Ones, Prime, Small, Tiled, Training, Uneven};
use crate::engine::case::{Parameters, Parts, ShapeClass};
use crate::engine::ops::{Family, listed, no_role};
use crate::engine::tape::{Array, Cotangent, Tape, Value};
use crate::engine::tensor::Shape;

/// factor · x; the factor is rounded to f32 unless it is ±1.
pub(super) fn scaled(factor: f64, x: Approx) -> Approx {
    match factor.abs() == 1.0 {
        true => Approx { value: factor * x.value, ..x },
        false => Approx::rounded(factor) * x,
    }
}

impl Tape {
    /// f(x), of x's shape.
    pub fn unary(&mut self, function: Unary, x: Value) -> Value {
        self.push(UnaryMap::from(function), &[x])
    }

    /// scale · x + offset
    pub fn affine(&mut self, x: Value, scale: f64, offset: f64) -> Value {
        match (scale, offset) {
            (1.0, 0.0) => x,
            _ => self.push(UnaryMap { function: Unary::Identity, scale, offset }, &[x]),
        }
    }

    /// f(a, b) with NumPy's broadcasting.
    ///
    /// # Panics
    /// When the shapes do not broadcast, or alternate between the operands more than twice.
    pub fn binary(&mut self, function: Binary, a: Value, b: Value) -> Value {
        self.push(BinaryMap(function), &[a, b])
    }

    /// The cotangents of the product x · x: both are equal, so one product gives their sum, assigned to the first
    /// input.
    pub(super) fn cotangents_of_square(&mut self, factor: f64, x: Value, ct: Value) -> Vec<Cotangent> {
        vec![Cotangent::Of(self.product(2.0 * factor, ct, x)), Cotangent::None]
    }

    /// factor · a · b with NumPy's broadcasting.
    ///
    /// # Panics
    /// As [`binary`](Tape::binary).
    pub fn product(&mut self, factor: f64, a: Value, b: Value) -> Value {
        self.binary(Binary::Multiply { factor }, a, b)
    }

    /// p · a + q · b of the terms (p, a) and (q, b), with NumPy's broadcasting.
    ///
    /// # Panics
    /// As [`binary`](Tape::binary).
    pub fn linear(&mut self, [(p, a), (q, b)]: [(f64, Value); 2]) -> Value {
        self.binary(Binary::Linear { p, q }, a, b)
    }

    /// a + b with NumPy's broadcasting.
    ///
    /// # Panics
    /// As [`binary`](Tape::binary).
    pub fn add(&mut self, a: Value, b: Value) -> Value {
        self.linear([(1.0, a), (1.0, b)])
    }

    /// a − b with NumPy's broadcasting.
    ///
    /// # Panics
    /// As [`binary`](Tape::binary).
    pub fn sub(&mut self, a: Value, b: Value) -> Value {
        self.linear([(1.0, a), (-1.0, b)])
    }

    /// a · b with NumPy's broadcasting.
    ///
    /// # Panics
    /// As [`binary`](Tape::binary).
    pub fn mul(&mut self, a: Value, b: Value) -> Value {
        self.product(1.0, a, b)
    }

    /// a / b with NumPy's broadcasting.
    ///
    /// # Panics
    /// As [`binary`](Tape::binary).
    pub fn div(&mut self, a: Value, b: Value) -> Value {
        self.binary(Binary::Divide { factor: 1.0 }, a, b)
    }

    /// factor · x
    pub fn scale(&mut self, x: Value, factor: impl Into<f64>) -> Value {
        self.affine(x, factor.into(), 0.0)
    }

    /// x + offset
    pub fn offset(&mut self, x: Value, offset: impl Into<f64>) -> Value {
        self.affine(x, 1.0, offset.into())
    }

    /// max(x, 0), and NaN of NaN; its derivative at 0 is 0.
    pub fn relu(&mut self, x: Value) -> Value {
        self.unary(Unary::Relu, x)
    }
}

/// The shape that both operands broadcast to, aligned at the last axis.
///
/// # Errors
/// A sentence, when two extents differ and neither is 1.
pub fn broadcast_shape(a: &Shape, b: &Shape) -> Result<Shape, String> {
    let rank = a.len().max(b.len());
    let extent = |shape: &Shape, axis: usize| (axis + shape.len()).checked_sub(rank).map_or(1, |axis| shape[axis]);
    (0..rank)
        .map(|axis| match (extent(a, axis), extent(b, axis)) {
            (a, b) if a == b || b == 1 => Ok(a),
            (1, b) => Ok(b),
            _ => Err(format!("{a:?} and {b:?} do not broadcast")),
        })
        .collect::<Result<Vec<usize>, String>>()
        .map(Shape::from)
}

/// A broadcast with at most three axes, as the kernels take it: neighbouring axes that every operand treats alike are
/// merged.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Collapsed {
    pub extents: [usize; 3],
    /// Element strides of each operand along outer, middle and inner; 0 where it is broadcast.
    pub strides: Vec<[usize; 3]>,
}

impl Collapsed {
    pub fn new(output: &Shape, operands: &[&Shape]) -> Result<Self, String> {
        let spans = |operand: &Shape, axis: usize| {
            (axis + operand.len()).checked_sub(output.len()).is_some_and(|axis| operand[axis] > 1)
        };
        let mut groups: Vec<(usize, Vec<bool>)> = Vec::new();
        for (axis, &extent) in output.iter().enumerate().filter(|&(_, &extent)| extent > 1) {
            let pattern: Vec<bool> = operands.iter().map(|operand| spans(operand, axis)).collect();
            match groups.last_mut() {
                Some((merged, last)) if *last == pattern => *merged *= extent,
                _ => groups.push((extent, pattern)),
            }
        }
        if groups.len() > 3 {
            return Err(format!("{operands:?} alternate too often to broadcast to {output:?} at once"));
        }
        // Two groups become the outer and inner axis, one the inner axis.
        let axes = if groups.len() == 2 { &[0, 2][..] } else { &[0, 1, 2][3 - groups.len()..] };
        let mut extents = [1; 3];
        let mut strides = vec![[0; 3]; operands.len()];
        let mut inside = vec![1; operands.len()];
        for (&axis, (extent, pattern)) in axes.iter().zip(&groups).rev() {
            extents[axis] = *extent;
            for (operand, _) in pattern.iter().enumerate().filter(|&(_, &spanned)| spanned) {
                strides[operand][axis] = inside[operand];
                inside[operand] *= extent;
            }
        }
        Ok(Collapsed { extents, strides })
    }

    /// Index into each operand for every element of the output, in order.
    fn indices(&self) -> impl Iterator<Item = Vec<usize>> {
        let [outer, middle, inner] = self.extents;
        (0..outer * middle * inner).map(move |index| {
            let at = [index / (middle * inner), index / inner % middle, index % inner];
            self.strides.iter().map(|stride| (0..3).map(|axis| at[axis] * stride[axis]).sum()).collect()
        })
    }
}

/// f of the operands broadcast to `output`, for each element.
fn zip_broadcast(inputs: &[Array], output: &Shape, f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let shapes: Vec<&Shape> = inputs.iter().map(|input| input.shape).collect();
    let axes = Collapsed::new(output, &shapes).expect("checked when recorded");
    let operands = |at: Vec<usize>| inputs.iter().zip(at).map(|(input, at)| input.data[at]).collect::<Vec<f64>>();
    axes.indices().map(|at| f(&operands(at))).collect()
}

/// The elements of `input` broadcast to `output`.
pub(super) fn spread(input: Array, output: &Shape) -> Vec<f64> {
    let axes = Collapsed::new(output, &[input.shape]).expect("checked when recorded");
    axes.indices().map(|at| input.data[at[0]]).collect()
}

/// The family and its cases.
pub(super) const FAMILY: Family = Family {
    name: "elementwise",
    describe,
    cases: || unary::cases().chain(listed(CASES)).collect(),
    shaders: lower::SHADERS,
    lowering: lower::lowering,
};

fn describe(role: &str, p: &mut Parameters) -> Result<Parts, String> {
    match role {
        "unary" => unary::describe(p),
        "binary" => binary::describe(p),
        "multiply_add" => multiply_add::describe(["a", "b", "c"], ["p", "q"], p),
        "multiply_add_2" => multiply_add::describe(["a", "b", "c", "d", "e"], ["p", "q", "r"], p),
        _ => Err(no_role("elementwise", role)),
    }
}

const CASES: &[(ShapeClass, &str)] = &[
    (Prime, "elementwise/unary(f=identity,scale=-3,offset=2,x=13x7)"),
    (Prime, "elementwise/unary(f=identity,scale=0.3333333333333333,offset=0.1,x=13x7)"),
    (Prime, "elementwise/unary(f=log,scale=0.5,offset=0.75,x=131)"),
    (Prime, "elementwise/unary(f=sqrt,scale=0.3,offset=0.1,x=131)"),
    (Prime, "elementwise/unary(f=cos,scale=-0.5,offset=1.5,x=131)"),
    (Prime, "elementwise/unary(f=relu,scale=-3,offset=0,x=131)"),
    (Prime, "elementwise/unary(f=clamp,low=-0.5,high=1,scale=2,offset=0,x=131)"),
    (Small, "elementwise/unary(f=relu,x=3)"),
    (Ones, "elementwise/unary(f=exp,x=1x1)"),
    (Tiled, "elementwise/unary(f=sigmoid,x=5x1031)"),
    (Folded, "elementwise/unary(f=relu,x=4194305)"),
    (Large, "elementwise/unary(f=relu,x=16777259)"),
    (Large, "elementwise/binary(f=subtract,a=16777259,b=1)"),
    (Large, "elementwise/multiply_add(a=16777259,b=1,c=1)"),
    (Training, "elementwise/unary(f=softplus,x=96x1)"),
    (Training, "elementwise/unary(f=relu,x=64x16x14x14)"),
    (Prime, "elementwise/binary(f=add,a=5x13x7,b=5x13x7)"),
    (Prime, "elementwise/binary(f=subtract,a=5x13x7,b=5x13x7)"),
    (Prime, "elementwise/binary(f=multiply,a=5x13x7,b=5x13x7)"),
    (Prime, "elementwise/binary(f=divide,a=5x13x7,b=5x13x7)"),
    (Prime, "elementwise/binary(f=divide-or-zero,a=5x13x7,b=5x13x7)"),
    (Uneven, "elementwise/binary(f=divide-or-zero,a=3x1x5,b=1x7x1)"),
    (Prime, "elementwise/binary(f=maximum,a=13x7,b=13x7)"),
    (Prime, "elementwise/binary(f=minimum,a=13x7,b=13x7)"),
    (Prime, "elementwise/binary(f=where-positive,a=13x7,b=13x7)"),
    (Prime, "elementwise/binary(f=where-inside,low=-0.5,high=0.75,a=13x7,b=13x7)"),
    (Prime, "elementwise/binary(f=average,weight=0.9,a=13x7,b=13x7)"),
    (Prime, "elementwise/binary(f=average-square,weight=0.999,a=13x7,b=13x7)"),
    (Small, "elementwise/binary(f=subtract,a=3,b=3)"),
    (Ones, "elementwise/binary(f=subtract,a=1,b=1)"),
    (Ones, "elementwise/binary(f=subtract,a=1,b=7x1x3)"),
    (Ones, "elementwise/binary(f=divide,a=4x1x3,b=1)"),
    (Prime, "elementwise/binary(f=divide,factor=-0.7,a=1x13x1,b=5x13x7)"),
    (Uneven, "elementwise/binary(f=subtract,a=4x8x5x7,b=1x8x1x1)"),
    (Uneven, "elementwise/binary(f=multiply,a=3x1x5,b=1x7x1)"),
    (Uneven, "elementwise/binary(f=subtract,a=7,b=5x1)"),
    (Uneven, "elementwise/binary(f=average,weight=0.25,a=6x5,b=5)"),
    (Uneven, "elementwise/binary(f=maximum,a=2x3x4,b=3x1)"),
    (Tiled, "elementwise/binary(f=subtract,a=3x4x1300,b=4x1)"),
    (Folded, "elementwise/binary(f=subtract,a=3x65600x2,b=65600x1)"),
    (Folded, "elementwise/binary(f=subtract,a=65600x2x3,b=65600x1x3)"),
    (Prime, "elementwise/binary(f=multiply,factor=-3,a=5x13x7,b=5x13x7)"),
    (Prime, "elementwise/binary(f=multiply,factor=0.3,a=5x13x7,b=5x13x7)"),
    (Training, "elementwise/binary(f=multiply,a=64x16x14x14,b=1x16x1x1)"),
    (Prime, "elementwise/multiply_add(a=5x13x7,b=5x13x7,c=5x13x7)"),
    (Small, "elementwise/multiply_add(a=3,b=3,c=3)"),
    (Ones, "elementwise/multiply_add(a=1,b=1,c=1)"),
    (Ones, "elementwise/multiply_add(a=1,b=7x1x3,c=1)"),
    (Uneven, "elementwise/multiply_add(a=4x8x5x7,b=1x8x1x1,c=1x8x1x1)"),
    (Uneven, "elementwise/multiply_add(a=8x1x1,b=4x8x5x7,c=4x1x1x1)"),
    (Uneven, "elementwise/multiply_add(a=3x1x5,b=1x7x1,c=7x5)"),
    (Uneven, "elementwise/multiply_add(a=6x1,b=5,c=6x5)"),
    (Tiled, "elementwise/multiply_add(a=3x4x1300,b=4x1,c=3x4x1300)"),
    (Folded, "elementwise/multiply_add(a=3x65600x2,b=65600x1,c=2)"),
    (Folded, "elementwise/multiply_add(a=65600x2x3,b=65600x1x3,c=65600x1x1)"),
    (Training, "elementwise/multiply_add(a=64x16x14x14,b=1x16x1x1,c=1x16x1x1)"),
    (Prime, "elementwise/multiply_add(p=-2,q=3,a=5x13x7,b=5x13x7,c=5x13x7)"),
    (Uneven, "elementwise/multiply_add(p=0.1,q=-0.7,a=4x8x5x7,b=1x8x1x1,c=1x8x1x1)"),
    (Prime, "elementwise/multiply_add(relu=1,a=5x13x7,b=5x13x7,c=5x13x7)"),
    (Uneven, "elementwise/multiply_add(relu=1,a=4x8x5x7,b=1x8x1x1,c=1x8x1x1)"),
    (Training, "elementwise/multiply_add(relu=1,a=64x16x14x14,b=1x16x1x1,c=1x16x1x1)"),
    (Prime, "elementwise/multiply_add_2(a=5x13x7,b=5x13x7,c=5x13x7,d=5x13x7,e=5x13x7)"),
    (Small, "elementwise/multiply_add_2(a=3,b=3,c=3,d=3,e=3)"),
    (Ones, "elementwise/multiply_add_2(a=1,b=1,c=1,d=1,e=7x1x3)"),
    (Uneven, "elementwise/multiply_add_2(a=4x8x5x7,b=1x8x1x1,c=4x8x5x7,d=1x8x1x1,e=1x8x1x1)"),
    (Uneven, "elementwise/multiply_add_2(a=8x1x1,b=4x8x5x7,c=1x8x1x1,d=4x8x5x7,e=4x8x5x7)"),
    (Uneven, "elementwise/multiply_add_2(a=3x1x5,b=1x7x1,c=3x7x5,d=1,e=7x5)"),
    (Tiled, "elementwise/multiply_add_2(a=3x4x1300,b=4x1,c=1300,d=3x4x1,e=3x4x1300)"),
    (Folded, "elementwise/multiply_add_2(a=3x65600x2,b=65600x1,c=2,d=1,e=65600x2)"),
    (Folded, "elementwise/multiply_add_2(a=65600x2x3,b=65600x1x3,c=65600x1x1,d=65600x2x3,e=1)"),
    (Training, "elementwise/multiply_add_2(a=64x16x14x14,b=1x16x1x1,c=64x16x14x14,d=1x16x1x1,e=1x16x1x1)"),
    (Prime, "elementwise/multiply_add_2(p=2,q=-3,r=-2,a=5x13x7,b=5x13x7,c=5x13x7,d=5x13x7,e=5x13x7)"),
    (Uneven, "elementwise/multiply_add_2(p=0.1,q=-0.7,r=3.3,a=4x8x5x7,b=1x8x1x1,c=4x8x5x7,d=1,e=1x8x1x1)"),
    (Prime, "elementwise/multiply_add_2(relu=1,a=5x13x7,b=5x13x7,c=5x13x7,d=5x13x7,e=5x13x7)"),
    (Uneven, "elementwise/multiply_add_2(relu=1,a=4x8x5x7,b=1x8x1x1,c=4x8x5x7,d=1,e=1x8x1x1)"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_axes_merge() {
        let output = Shape::from([4, 8, 5, 7]);
        let channel = Shape::from([1, 8, 1, 1]);
        let axes = Collapsed::new(&output, &[&output, &channel]).unwrap();
        assert_eq!(axes.extents, [4, 8, 35]);
        assert_eq!(axes.strides, [[280, 35, 1], [0, 1, 0]]);

        let axes = Collapsed::new(&output, &[&output, &output]).unwrap();
        assert_eq!((axes.extents, &axes.strides[0]), ([1, 1, 1120], &[0, 0, 1]));

        let axes = Collapsed::new(&output, &[&output, &[4, 8, 1, 1].into()]).unwrap();
        assert_eq!((axes.extents, &axes.strides[..]), ([32, 1, 35], &[[35, 0, 1], [1, 0, 0]][..]));
    }

    #[test]
    fn shapes_that_do_not_broadcast_are_refused() {
        assert!(broadcast_shape(&[2, 3].into(), &[2, 4].into()).is_err());
        assert_eq!(broadcast_shape(&[3].into(), &[2, 1].into()), Ok([2, 3].into()));
    }
}
