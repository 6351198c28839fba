//! Functions of one or two values, element by element, the two-valued ones with NumPy's broadcasting.
//!
//! A function is one row in the tables below and one `case` in `shaders/elementwise/`.

mod multiply_add;

pub use multiply_add::MultiplyAdd;

use crate::engine::bounds::{Approx, chain_bound};
use crate::engine::kernel::{DeviceClass, Kernel};
use crate::engine::tape::{Application, Array, Cotangent, Primitive, Tape, Value};
use crate::engine::tensor::Shape;

/// Invocations in a workgroup of the elementwise kernels.
const WORKGROUP: usize = 64;
/// Elements that a workgroup is given on a CPU driver, which pays for each workgroup.
const LONG_ROW: usize = 16 * WORKGROUP;

/// A function of one value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Unary {
    Identity,
    Exp,
    Log,
    Sqrt,
    /// 1 / x
    Reciprocal,
    /// By a polynomial of ours: WGSL promises only 2⁻¹¹ for its own.
    Sin,
    Cos,
    /// 1 / (1 + exp(−x))
    Sigmoid,
    /// log(1 + exp(x))
    Softplus,
    /// max(x, 0), and NaN of NaN
    Relu,
    /// Between two limits, and NaN of NaN
    Clamp {
        low: f32,
        high: f32,
    },
}

impl Unary {
    /// The `case` in `elementwise/unary.wgsl`.
    fn selector(self) -> u32 {
        match self {
            Unary::Identity => 0,
            Unary::Exp => 1,
            Unary::Log => 2,
            Unary::Sqrt => 3,
            Unary::Reciprocal => 4,
            Unary::Sin => 5,
            Unary::Cos => 6,
            Unary::Sigmoid => 7,
            Unary::Softplus => 8,
            Unary::Relu => 9,
            Unary::Clamp { .. } => 10,
        }
    }

    fn value(self, x: f64) -> f64 {
        match self {
            Unary::Identity => x,
            Unary::Exp => x.exp(),
            Unary::Log => x.ln(),
            Unary::Sqrt => x.sqrt(),
            Unary::Reciprocal => 1.0 / x,
            Unary::Sin => x.sin(),
            Unary::Cos => x.cos(),
            Unary::Sigmoid => 1.0 / (1.0 + (-x).exp()),
            Unary::Softplus => positive_part(x) + (-x.abs()).exp().ln_1p(),
            Unary::Relu => positive_part(x),
            Unary::Clamp { low, high } => x.clamp(f64::from(low), f64::from(high)),
        }
    }

    /// The kernel's formula on a number known up to an error.
    fn error(self, v: Approx) -> f64 {
        let (x, one) = (v.value, Approx::exact(1.0));
        let result = match self {
            Unary::Exp => v.exp(),
            Unary::Log => v.ln(),
            Unary::Sqrt => v.sqrt(),
            Unary::Reciprocal => one / v,
            // Range reduction loses ULPs of x, the polynomial a few of 1.
            Unary::Sin | Unary::Cos => return v.error + chain_bound(4, 1.0 + x.abs()),
            Unary::Sigmoid => {
                let e = (-v.abs()).exp();
                if x >= 0.0 { one / (one + e) } else { e / (one + e) }
            }
            Unary::Softplus => v.max(Approx::exact(0.0)) + (one + (-v.abs()).exp()).ln(),
            Unary::Identity | Unary::Relu | Unary::Clamp { .. } => v,
        };
        result.error
    }
}

/// max(x, 0), and NaN of NaN, which `f64::max` would take for 0.
fn positive_part(x: f64) -> f64 {
    if x < 0.0 { 0.0 } else { x }
}

/// y = f(scale · x + offset), of x's shape; the two are rounded to f32 on the device.
#[derive(Clone, Copy, Debug)]
pub struct UnaryMap {
    pub function: Unary,
    pub scale: f64,
    pub offset: f64,
}

impl From<Unary> for UnaryMap {
    /// f(x)
    fn from(function: Unary) -> Self {
        UnaryMap { function, scale: 1.0, offset: 0.0 }
    }
}

impl Primitive for UnaryMap {
    fn name(&self) -> &'static str {
        "elementwise/unary"
    }

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape, String> {
        Ok(inputs[0].clone())
    }

    fn vjp(&self, tape: &mut Tape, at: Application) -> Vec<Cotangent> {
        let (y, ct) = (at.output, at.cotangent);
        let x = tape.affine(at.inputs[0], self.scale, self.offset);
        let ct_x = match self.function {
            Unary::Identity => ct,
            Unary::Exp => tape.mul(ct, y),
            Unary::Log => tape.div(ct, x),
            // The slope at 0 is taken for 0: the length of a vector that vanishes pulls nowhere.
            Unary::Sqrt => tape.binary(Binary::DivideOrZero { factor: 0.5 }, ct, y),
            Unary::Reciprocal => {
                let square = tape.mul(y, y);
                let product = tape.mul(ct, square);
                tape.scale(product, -1.0)
            }
            Unary::Sin => {
                let slope = tape.unary(Unary::Cos, x);
                tape.mul(ct, slope)
            }
            Unary::Cos => {
                let slope = tape.unary(Unary::Sin, x);
                let product = tape.mul(ct, slope);
                tape.scale(product, -1.0)
            }
            Unary::Sigmoid => {
                let complement = tape.affine(y, -1.0, 1.0);
                let slope = tape.mul(y, complement);
                tape.mul(ct, slope)
            }
            Unary::Softplus => {
                let slope = tape.unary(Unary::Sigmoid, x);
                tape.mul(ct, slope)
            }
            // The output is positive where x is, and x need not be kept.
            Unary::Relu => tape.binary(Binary::WherePositive, ct, y),
            Unary::Clamp { low, high } => tape.binary(Binary::WhereInside { low, high }, ct, x),
        };
        vec![Cotangent::Of(tape.scale(ct_x, self.scale))]
    }

    fn eval(&self, inputs: &[Array], _: &Shape) -> Vec<f64> {
        inputs[0].data.iter().map(|&x| self.function.value(self.scale * x + self.offset)).collect()
    }

    fn bound(&self, inputs: &[Array], _: &Shape) -> Vec<f64> {
        let affine = |x: f64| match (scaled(self.scale, Approx::exact(x)), self.offset) {
            (product, 0.0) => product,
            (product, offset) => product + Approx::rounded(offset),
        };
        inputs[0].data.iter().map(|&x| self.function.error(affine(x))).collect()
    }

    fn kernel(&self, _: &[&Shape], output: &Shape, class: DeviceClass) -> Kernel {
        let [low, high] = match self.function {
            Unary::Clamp { low, high } => [low, high],
            _ => [0.0; 2],
        };
        let kernel = Kernel::new("elementwise/unary")
            .constant("FUNCTION", self.function.selector())
            .immediate("scale", self.scale as f32)
            .immediate("offset", self.offset as f32)
            .immediate("low", low)
            .immediate("high", high);
        let width = vector_width(output.count(), class);
        let kernel = if width > 1 { kernel.vector("X").vector("StoredY") } else { kernel };
        let kernel = kernel.storable(1, "StoredY", output.count());
        let each = if let DeviceClass::Cpu(_) = class { LONG_ROW } else { WORKGROUP };
        kernel.grid([(output.count() / width).div_ceil(each).min(65_535), 1, 1])
    }

    fn flops(&self, _: &[&Shape], output: &Shape) -> u64 {
        output.count() as u64
    }

    fn is_cheap(&self) -> bool {
        true
    }
}

/// A function of two values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Binary {
    /// p · a + q · b, both rounded to f32 on the device: sums, differences, moving averages.
    Linear { p: f64, q: f64 },
    /// factor · a · b, the factor rounded to f32 on the device.
    Multiply { factor: f64 },
    /// factor · a / b, the factor rounded to f32 on the device.
    Divide { factor: f64 },
    /// factor · a / b, and 0 where b is 0, the factor rounded to f32 on the device: the pull-back of a root.
    DivideOrZero { factor: f64 },
    /// The greater, and NaN where either is.
    Maximum,
    /// The smaller, and NaN where either is.
    Minimum,
    /// a where b > 0, NaN where b is, else 0: ReLU's pull-back.
    WherePositive,
    /// a where low ≤ b ≤ high, NaN where b is, else 0: the pull-back of a clamp.
    WhereInside { low: f32, high: f32 },
    /// weight · a + (1 − weight) · b²
    AverageSquare { weight: f32 },
}

impl Binary {
    /// weight · a + (1 − weight) · b: a moving average.
    pub fn average(weight: f32) -> Self {
        Binary::Linear { p: weight.into(), q: (1.0 - weight).into() }
    }

    /// The `case` in `elementwise/binary.wgsl`, and the function's two parameters.
    fn selector(self) -> (u32, [f32; 2]) {
        match self {
            Binary::Linear { p, q } => (0, [p as f32, q as f32]),
            Binary::Multiply { factor } => (1, [factor as f32, 0.0]),
            Binary::Divide { factor } => (2, [factor as f32, 0.0]),
            Binary::Maximum => (3, [0.0; 2]),
            Binary::Minimum => (4, [0.0; 2]),
            Binary::WherePositive => (5, [0.0; 2]),
            Binary::WhereInside { low, high } => (6, [low, high]),
            Binary::AverageSquare { weight } => (7, [weight, 1.0 - weight]),
            Binary::DivideOrZero { factor } => (8, [factor as f32, 0.0]),
        }
    }

    fn value(self, a: f64, b: f64) -> f64 {
        let [p, q] = self.selector().1.map(f64::from);
        match self {
            Binary::Linear { p, q } => p * a + q * b,
            Binary::Multiply { factor } => factor * a * b,
            Binary::DivideOrZero { .. } if b == 0.0 => 0.0,
            Binary::Divide { factor } | Binary::DivideOrZero { factor } => factor * a / b,
            // The methods `max` and `min` of f64 prefer the number.
            Binary::Maximum | Binary::Minimum if a.is_nan() || b.is_nan() => f64::NAN,
            Binary::Maximum => a.max(b),
            Binary::Minimum => a.min(b),
            Binary::WherePositive | Binary::WhereInside { .. } if b.is_nan() => b,
            Binary::WherePositive => {
                if b > 0.0 {
                    a
                } else {
                    0.0
                }
            }
            Binary::WhereInside { .. } => {
                if (p..=q).contains(&b) {
                    a
                } else {
                    0.0
                }
            }
            Binary::AverageSquare { .. } => p * a + q * b * b,
        }
    }

    /// The kernel's formula on numbers known up to an error.
    fn error(self, a: f64, b: f64) -> f64 {
        let [p, q] = self.selector().1.map(|parameter| Approx::exact(f64::from(parameter)));
        let (a, b) = (Approx::exact(a), Approx::exact(b));
        let result = match self {
            Binary::Linear { p, q } => scaled(p, a) + scaled(q, b),
            Binary::Multiply { factor } => scaled(factor, a) * b,
            Binary::DivideOrZero { .. } if b.value == 0.0 => Approx::exact(0.0),
            Binary::Divide { factor } | Binary::DivideOrZero { factor } => scaled(factor, a) / b,
            Binary::Maximum | Binary::Minimum => a.max(b),
            Binary::WherePositive | Binary::WhereInside { .. } => a,
            Binary::AverageSquare { .. } => p * a + q * b * b,
        };
        result.error
    }
}

/// factor · x, the factor rounded to f32 but if it is ±1.
pub(super) fn scaled(factor: f64, x: Approx) -> Approx {
    match factor.abs() == 1.0 {
        true => Approx { value: factor * x.value, ..x },
        false => Approx::rounded(factor) * x,
    }
}

/// y = f(a, b), the operands broadcast to a shape in common.
#[derive(Clone, Copy, Debug)]
pub struct BinaryMap(pub Binary);

impl Primitive for BinaryMap {
    fn name(&self) -> &'static str {
        "elementwise/binary"
    }

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape, String> {
        let shape = broadcast_shape(inputs[0], inputs[1])?;
        Collapsed::new(&shape, inputs)?;
        Ok(shape)
    }

    fn vjp(&self, tape: &mut Tape, at: Application) -> Vec<Cotangent> {
        let (a, b, ct) = (at.inputs[0], at.inputs[1], at.cotangent);
        if let Binary::Multiply { factor } = self.0
            && a == b
        {
            return tape.cotangents_of_square(factor, a, ct);
        }
        let (ct_a, ct_b) = match self.0 {
            Binary::Linear { p, q } => {
                // Scaled after the sum over broadcast axes, where it is smaller.
                let mut scaled = |factor: f64, operand: Value| {
                    let sum = tape.sum_to(ct, &tape.shape(operand).clone());
                    tape.scale(sum, factor)
                };
                (scaled(p, a), Some(scaled(q, b)))
            }
            Binary::Multiply { factor } => (tape.product(factor, ct, b), Some(tape.product(factor, ct, a))),
            Binary::Divide { factor } | Binary::DivideOrZero { factor } => {
                let ct_a = tape.binary(self.0, ct, b);
                let product = tape.product(1.0 / factor, ct_a, at.output);
                (ct_a, Some(tape.scale(product, -1.0)))
            }
            Binary::Maximum | Binary::Minimum => {
                let (greater, smaller) = (tape.sub(a, b), tape.sub(b, a));
                let (for_a, for_b) = if self.0 == Binary::Maximum { (greater, smaller) } else { (smaller, greater) };
                let ct_a = tape.binary(Binary::WherePositive, ct, for_a);
                (ct_a, Some(tape.binary(Binary::WherePositive, ct, for_b)))
            }
            Binary::WherePositive | Binary::WhereInside { .. } => (tape.binary(self.0, ct, b), None),
            Binary::AverageSquare { weight } => {
                let product = tape.mul(ct, b);
                (tape.scale(ct, weight), Some(tape.scale(product, 2.0 * (1.0 - weight))))
            }
        };
        let ct_b = ct_b.map(|ct_b| tape.sum_to(ct_b, &tape.shape(b).clone()));
        let ct_a = tape.sum_to(ct_a, &tape.shape(a).clone());
        vec![Cotangent::Of(ct_a), ct_b.map_or(Cotangent::None, Cotangent::Of)]
    }

    fn eval(&self, inputs: &[Array], output: &Shape) -> Vec<f64> {
        zip_broadcast(inputs, output, |operands| self.0.value(operands[0], operands[1]))
    }

    fn bound(&self, inputs: &[Array], output: &Shape) -> Vec<f64> {
        zip_broadcast(inputs, output, |operands| self.0.error(operands[0], operands[1]))
    }

    fn kernel(&self, inputs: &[&Shape], output: &Shape, class: DeviceClass) -> Kernel {
        let (function, [p, q]) = self.0.selector();
        let axes = Collapsed::new(output, inputs).expect("checked when recorded");
        let kernel = axes
            .dispatch(Kernel::new("elementwise/binary").constant("FUNCTION", function), &Operand::ALL[..2], class)
            .immediate("p", p)
            .immediate("q", q);
        let kernel = vector_result(kernel).storable(2, "StoredY", output.count());
        // Of a sign no more is asked than f16 has.
        let is_mask = self.0 == Binary::WherePositive && inputs[1] == output;
        if is_mask { kernel.storable(1, "B", output.count()) } else { kernel }
    }

    fn flops(&self, _: &[&Shape], output: &Shape) -> u64 {
        output.count() as u64
    }

    fn is_cheap(&self) -> bool {
        true
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

    /// The two factors' cotangents are the same where both are x: one product makes their sum, which the first is given.
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

/// A broadcast brought to three axes by merging neighbours that all operands treat alike: the form the kernels take.
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
            return Err(format!("{operands:?} alternate too often to be broadcast to {output:?} in one go"));
        }
        // Two groups are the outer and the inner axis, one is the inner axis.
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

    /// Counts the inner axis in vectors of `width` elements, and with it the operands that span it.
    fn in_vectors(mut self, width: usize) -> Self {
        self.extents[2] /= width;
        for [outer, middle, _] in self.strides.iter_mut().filter(|[_, _, inner]| *inner == 1) {
            (*outer, *middle) = (*outer / width, *middle / width);
        }
        self
    }

    /// A single row as some of `length`, if it is made of such.
    fn in_rows(mut self, length: usize) -> Self {
        if self.extents[0] == 1 && self.extents[2].is_multiple_of(length) {
            self.extents = [self.extents[2] / length, 1, length];
            self.strides.iter_mut().for_each(|[outer, _, inner]| *outer = *inner * length);
        }
        self
    }

    /// Sets the extents, the operands' strides and the grid: inner along x, middle along y, outer along z. Of long rows
    /// four elements are taken at once, but of what a row repeats.
    pub fn dispatch(self, kernel: Kernel, operands: &[Operand], class: DeviceClass) -> Kernel {
        let width = vector_width(self.extents[2], class);
        let mut axes = self.in_vectors(width);
        if let DeviceClass::Cpu(_) = class {
            axes = axes.in_rows(WORKGROUP);
        }
        let [outer, middle, inner] = axes.extents;
        let grid = match class {
            DeviceClass::Gpu | DeviceClass::Matrix(_) => [inner.div_ceil(WORKGROUP), middle, outer],
            // Workgroups take several rows each, of the outer axis first: what those have in common is loaded once.
            DeviceClass::Cpu(_) => {
                let rows = (LONG_ROW / inner).max(1);
                [inner.div_ceil(LONG_ROW), middle.div_ceil((rows / outer).max(1)), outer.div_ceil(rows)]
            }
        };
        let mut kernel = kernel
            .immediate("outer", outer)
            .immediate("middle", middle)
            .immediate("inner", inner)
            .grid(grid.map(|groups| groups.min(65_535)));
        for (operand, strides) in operands.iter().zip(axes.strides) {
            for (name, stride) in operand.strides.into_iter().zip(strides) {
                kernel = kernel.immediate(name, stride);
            }
            if width > 1 && strides[2] == 1 {
                kernel = kernel.vector(operand.alias);
            }
        }
        if width > 1 { kernel.vector("Y") } else { kernel }
    }
}

/// Has what is computed in vectors stored in vectors.
fn vector_result(kernel: Kernel) -> Kernel {
    if kernel.vectors.contains(&"Y") { kernel.vector("StoredY") } else { kernel }
}

/// How kernels call an operand that may be broadcast: the alias of its elements, and its strides along outer, middle and
/// inner.
pub(crate) struct Operand {
    alias: &'static str,
    strides: [&'static str; 3],
}

impl Operand {
    /// Of kernels that take several.
    const ALL: [Operand; 5] = [
        Operand { alias: "A", strides: ["a_outer", "a_middle", "a_inner"] },
        Operand { alias: "B", strides: ["b_outer", "b_middle", "b_inner"] },
        Operand { alias: "C", strides: ["c_outer", "c_middle", "c_inner"] },
        Operand { alias: "D", strides: ["d_outer", "d_middle", "d_inner"] },
        Operand { alias: "E", strides: ["e_outer", "e_middle", "e_inner"] },
    ];
}

pub(super) const X: Operand = Operand { alias: "X", strides: ["x_outer", "x_middle", "x_inner"] };

/// Elements that are taken at once of a row of `count`: 4, or 1 where lanes would be left without any.
pub(super) fn vector_width(count: usize, class: DeviceClass) -> usize {
    let lanes = match class {
        DeviceClass::Gpu | DeviceClass::Matrix(_) => WORKGROUP,
        DeviceClass::Cpu(lanes) => lanes.count(),
    };
    if count.is_multiple_of(4) && count >= 4 * lanes { 4 } else { 1 }
}

/// f of the operands broadcast to `output`, element by element.
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
        let rows = axes.in_vectors(4).in_rows(56);
        assert_eq!((rows.extents, &rows.strides[0]), ([5, 1, 56], &[56, 0, 1]));

        let axes = Collapsed::new(&output, &[&output, &[4, 8, 1, 1].into()]).unwrap();
        assert_eq!((axes.extents, &axes.strides[..]), ([32, 1, 35], &[[35, 0, 1], [1, 0, 0]][..]));
    }

    #[test]
    fn shapes_that_do_not_broadcast_are_refused() {
        assert!(broadcast_shape(&[2, 3].into(), &[2, 4].into()).is_err());
        assert_eq!(broadcast_shape(&[3].into(), &[2, 1].into()), Ok([2, 3].into()));
    }
}
