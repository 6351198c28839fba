//! Sums of values and of products over axes, minima over axes, and log-sum-exp over rows.

mod lower;

use std::ops::Range;

use crate::engine::bounds::{Approx, sum_bound};
use crate::engine::case::ShapeClass::{Folded, Ones, Prime, Small, Tiled, Training, Uneven};
use crate::engine::case::{Fill, Parameters, Parts, ShapeClass, Special};
use crate::engine::ops::elementwise::{Unary, scaled};
use crate::engine::ops::{Family, listed, no_role};
use crate::engine::tape::{Application, Arithmetic, Array, Cotangent, Primitive, Tape, Value};
use crate::engine::tensor::Shape;

/// y[o, k] = Σ_j x[o, j, k]: the sum over a range of neighbouring axes, which keep extent 1.
#[derive(Clone, Debug)]
pub struct Sum {
    pub axes: Range<usize>,
}

/// Products of the extents before, within and after the summed axes.
fn extents(axes: &Range<usize>, input: &Shape) -> [usize; 3] {
    [0..axes.start, axes.start..axes.end, axes.end..input.len()].map(|axes| input[axes].iter().product())
}

/// The input's shape with 1 in place of the summed extents.
fn summed_shape(axes: &Range<usize>, input: &Shape) -> Result<Shape, String> {
    let mut shape = input.to_vec();
    shape.get_mut(axes.clone()).ok_or_else(|| format!("{input:?} has no axes {axes:?}"))?.fill(1);
    Ok(shape.into())
}

/// Sums `term(index)` of an input of this shape over `axes`.
fn fold(axes: &Range<usize>, input: &Shape, term: impl Fn(usize) -> f64) -> Vec<f64> {
    let [outer, terms, inner] = extents(axes, input);
    let mut sums = vec![0.0; outer * inner];
    for o in 0..outer {
        for j in 0..terms {
            for k in 0..inner {
                sums[o * inner + k] += term((o * terms + j) * inner + k);
            }
        }
    }
    sums
}

impl Primitive for Sum {
    fn name(&self) -> &'static str {
        "reduce/sum"
    }

    fn parameters(&self, inputs: &[&Shape]) -> Option<String> {
        Some(format!("x={},from={},to={}", inputs[0], self.axes.start, self.axes.end))
    }

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape, String> {
        summed_shape(&self.axes, inputs[0])
    }

    fn vjp(&self, tape: &mut Tape, at: Application) -> Vec<Cotangent> {
        let shape = tape.shape(at.inputs[0]).clone();
        vec![Cotangent::Of(tape.broadcast(at.cotangent, &shape))]
    }

    fn eval(&self, inputs: &[Array], _: &Shape) -> Vec<f64> {
        let [x] = inputs else { unreachable!("one input") };
        fold(&self.axes, x.shape, |index| x.data[index])
    }

    fn bound(&self, inputs: &[Array], _: &Shape, _: Arithmetic) -> Vec<f64> {
        let [x] = inputs else { unreachable!("one input") };
        let terms = extents(&self.axes, x.shape)[1];
        let magnitudes = fold(&self.axes, x.shape, |index| x.data[index].abs());
        magnitudes.into_iter().map(|magnitude| sum_bound(terms, magnitude)).collect()
    }
}

/// y[o, k] = Σ_j a[o, j, k] · b[o, j, k], for two inputs of equal shape. The product is not written to memory.
#[derive(Clone, Debug)]
pub struct SumProduct {
    pub axes: Range<usize>,
}

impl Primitive for SumProduct {
    fn name(&self) -> &'static str {
        "reduce/sum_product"
    }

    fn parameters(&self, inputs: &[&Shape]) -> Option<String> {
        Some(format!("x={},from={},to={}", inputs[0], self.axes.start, self.axes.end))
    }

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape, String> {
        if inputs[0] != inputs[1] {
            return Err(format!("{:?} and {:?} differ", inputs[0], inputs[1]));
        }
        summed_shape(&self.axes, inputs[0])
    }

    fn vjp(&self, tape: &mut Tape, at: Application) -> Vec<Cotangent> {
        let [a, b] = [0, 1].map(|index| at.inputs[index]);
        if a == b {
            return tape.cotangents_of_square(1.0, a, at.cotangent);
        }
        vec![Cotangent::Of(tape.mul(at.cotangent, b)), Cotangent::Of(tape.mul(at.cotangent, a))]
    }

    fn eval(&self, inputs: &[Array], _: &Shape) -> Vec<f64> {
        let [a, b] = inputs else { unreachable!("two inputs") };
        fold(&self.axes, a.shape, |index| a.data[index] * b.data[index])
    }

    fn bound(&self, inputs: &[Array], _: &Shape, _: Arithmetic) -> Vec<f64> {
        let [a, b] = inputs else { unreachable!("two inputs") };
        let terms = extents(&self.axes, a.shape)[1];
        let magnitudes = fold(&self.axes, a.shape, |index| (a.data[index] * b.data[index]).abs());
        magnitudes.into_iter().map(|magnitude| sum_bound(terms, magnitude)).collect()
    }
}

/// y[o, k] = Σ_j (x[o, j, k] − scale · m[o, k])². scale · m must be the mean of x over `axes` and possibly axes after
/// them: m has the shape of y, or extent 1 along its last axes. The scale is rounded to f32 on the device.
///
/// At the mean, the sum over all elements averaged in m is stationary in m. By the chain rule, to any order, the
/// cotangent of m would contribute 0, so m has none. For any other m the gradient would be wrong, so record this
/// primitive by [`moments`](Tape::moments).
#[derive(Clone, Debug)]
pub struct SquaredDeviation {
    pub axes: Range<usize>,
    pub scale: f64,
}

impl SquaredDeviation {
    /// How often each element of m is used.
    fn repeat(output: &Shape, mean: &Shape) -> Option<usize> {
        let spanned = (0..output.len()).rev().find(|&axis| mean.get(axis) != Some(&1)).map_or(0, |axis| axis + 1);
        let fits = mean.len() == output.len() && mean[..spanned] == output[..spanned];
        fits.then(|| output[spanned..].iter().product())
    }

    /// `term(x, m)` for each element of x.
    fn each<T>(&self, inputs: &[Array], output: &Shape, term: impl Fn(f64, f64) -> T) -> Vec<T> {
        let [x, mean] = inputs else { unreachable!("two inputs") };
        let [_, terms, inner] = extents(&self.axes, x.shape);
        let repeat = Self::repeat(output, mean.shape).expect("checked when recorded");
        let mean_of = |index: usize| mean.data[(index / (terms * inner) * inner + index % inner) / repeat];
        x.data.iter().enumerate().map(|(index, &x)| term(x, mean_of(index))).collect()
    }
}

impl Primitive for SquaredDeviation {
    fn name(&self) -> &'static str {
        "reduce/squared_deviation"
    }

    fn parameters(&self, inputs: &[&Shape]) -> Option<String> {
        let scale = if self.scale == 1.0 { String::new() } else { format!(",scale={}", self.scale) };
        Some(format!("x={},m={},from={},to={}{scale}", inputs[0], inputs[1], self.axes.start, self.axes.end))
    }

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape, String> {
        let output = summed_shape(&self.axes, inputs[0])?;
        match Self::repeat(&output, inputs[1]) {
            Some(_) => Ok(output),
            None => {
                Err(format!("{:?} cannot be the means of {:?} over the axes {:?}", inputs[1], inputs[0], self.axes))
            }
        }
    }

    /// x̄ = 2 · ȳ · x − 2 · scale · ȳ · m
    fn vjp(&self, tape: &mut Tape, at: Application) -> Vec<Cotangent> {
        let [x, mean] = [at.inputs[0], at.inputs[1]];
        let offset = tape.product(2.0 * self.scale, at.cotangent, mean);
        let slope = tape.product(2.0, at.cotangent, x);
        vec![Cotangent::Of(tape.sub(slope, offset)), Cotangent::Stationary]
    }

    fn eval(&self, inputs: &[Array], output: &Shape) -> Vec<f64> {
        let squares = self.each(inputs, output, |x, m| (x - self.scale * m).powi(2));
        fold(&self.axes, inputs[0].shape, |index| squares[index])
    }

    fn bound(&self, inputs: &[Array], output: &Shape, _: Arithmetic) -> Vec<f64> {
        let squares = self.each(inputs, output, |x, m| {
            let deviation = Approx::exact(x) - scaled(self.scale, Approx::exact(m));
            deviation * deviation
        });
        let terms = extents(&self.axes, inputs[0].shape)[1];
        let errors = fold(&self.axes, inputs[0].shape, |index| squares[index].error);
        let magnitudes = fold(&self.axes, inputs[0].shape, |index| squares[index].value + squares[index].error);
        errors.into_iter().zip(magnitudes).map(|(error, sum)| error + sum_bound(terms, sum)).collect()
    }
}

/// y[o, k] = min_j x[o, j, k]: the least of a range of neighbouring axes, which keep extent 1. No gradient runs through it.
#[derive(Clone, Debug)]
pub struct Min {
    pub axes: Range<usize>,
}

impl Primitive for Min {
    fn name(&self) -> &'static str {
        "reduce/min"
    }

    fn parameters(&self, inputs: &[&Shape]) -> Option<String> {
        Some(format!("x={},from={},to={}", inputs[0], self.axes.start, self.axes.end))
    }

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape, String> {
        summed_shape(&self.axes, inputs[0])
    }

    fn vjp(&self, _: &mut Tape, _: Application) -> Vec<Cotangent> {
        vec![Cotangent::Missing]
    }

    fn eval(&self, inputs: &[Array], output: &Shape) -> Vec<f64> {
        let [x] = inputs else { unreachable!("one input") };
        let [_, terms, inner] = extents(&self.axes, x.shape);
        let least = |index: usize| {
            let first = index / inner * terms * inner + index % inner;
            (0..terms).map(|j| x.data[first + j * inner]).fold(f64::INFINITY, f64::min)
        };
        (0..output.count()).map(least).collect()
    }

    fn bound(&self, _: &[Array], output: &Shape, _: Arithmetic) -> Vec<f64> {
        vec![0.0; output.count()]
    }
}

/// y[o, 0] = log Σ_j exp(x[o, j]), without overflow.
#[derive(Clone, Debug)]
pub struct LogSumExp;

impl Primitive for LogSumExp {
    fn name(&self) -> &'static str {
        "reduce/log_sum_exp"
    }

    fn parameters(&self, inputs: &[&Shape]) -> Option<String> {
        Some(format!("x={}", inputs[0]))
    }

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape, String> {
        let [rows, _] = inputs[0].matrix()?;
        Ok([rows, 1].into())
    }

    /// x̄ = ȳ · exp(x − y): the share of each term in the sum.
    fn vjp(&self, tape: &mut Tape, at: Application) -> Vec<Cotangent> {
        let relative = tape.sub(at.inputs[0], at.output);
        let shares = tape.unary(Unary::Exp, relative);
        vec![Cotangent::Of(tape.mul(shares, at.cotangent))]
    }

    fn eval(&self, inputs: &[Array], _: &Shape) -> Vec<f64> {
        Self::rows(inputs[0])
            .map(|(row, largest)| largest + row.iter().map(|x| (x - largest).exp()).sum::<f64>().ln())
            .collect()
    }

    fn bound(&self, inputs: &[Array], _: &Shape, _: Arithmetic) -> Vec<f64> {
        Self::rows(inputs[0])
            .map(|(row, largest)| {
                let largest = Approx::exact(largest);
                let terms = row.iter().map(|&x| (Approx::exact(x) - largest).exp());
                let sum = terms.fold(Approx { value: 0.0, error: 0.0 }, |sum, term| Approx {
                    value: sum.value + term.value,
                    error: sum.error + term.error,
                });
                let sum = Approx { error: sum.error + sum_bound(row.len(), sum.value + sum.error), ..sum };
                (largest + sum.ln()).error
            })
            .collect()
    }
}

impl LogSumExp {
    /// Each row with its largest element.
    fn rows(input: Array<'_>) -> impl Iterator<Item = (&[f64], f64)> {
        let rows = input.data.chunks_exact(input.shape[1]);
        rows.map(|row| (row, row.iter().copied().fold(f64::NEG_INFINITY, f64::max)))
    }
}

/// Most arrays that [`Magnitude`] reads: with the output, as many buffers as every device can bind.
const ARRAYS: usize = 7;

/// y[g, l] = Σ_k Σ_j |x_k[g, j]| over the first `arrays` inputs and all j with j mod `lanes` = l: partial sums of
/// magnitudes. Inputs: seven arrays `[G, …]`; those after the first `arrays` are not read.
///
/// A sum of magnitudes is finite only if every element is: nothing cancels, and NaN stays NaN.
#[derive(Clone, Debug)]
pub struct Magnitude {
    pub arrays: usize,
    pub lanes: usize,
}

impl Magnitude {
    /// Elements per row that are summed, for each input.
    fn terms<'a>(&'a self, inputs: &'a [&Shape]) -> impl Iterator<Item = usize> + 'a {
        let terms = |(index, shape): (usize, &&Shape)| if index < self.arrays { shape.count() / shape[0] } else { 0 };
        inputs.iter().enumerate().map(terms)
    }
}

impl Primitive for Magnitude {
    fn name(&self) -> &'static str {
        "reduce/magnitude"
    }

    fn parameters(&self, inputs: &[&Shape]) -> Option<String> {
        let rows = *inputs[0].first()?;
        let terms: Vec<String> = inputs.iter().map(|input| (input.count() / rows).to_string()).collect();
        Some(format!("rows={rows},lanes={},arrays={},terms={}", self.lanes, self.arrays, terms.join("x")))
    }

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape, String> {
        let rows = inputs[0].first().copied().unwrap_or_default();
        let fits = (1..=ARRAYS).contains(&self.arrays) && self.lanes > 0;
        match fits && inputs.len() == ARRAYS && inputs.iter().all(|input| input.first() == Some(&rows)) {
            true => Ok([rows, self.lanes].into()),
            false => Err(format!("expected {ARRAYS} arrays with equal rows, {} of them read: {inputs:?}", self.arrays)),
        }
    }

    fn vjp(&self, _: &mut Tape, _: Application) -> Vec<Cotangent> {
        vec![Cotangent::Missing; ARRAYS]
    }

    fn eval(&self, inputs: &[Array], output: &Shape) -> Vec<f64> {
        let mut sums = vec![0.0; output.count()];
        for input in &inputs[..self.arrays] {
            let terms = input.data.len() / output[0];
            for (index, x) in input.data.iter().enumerate() {
                sums[index / terms * self.lanes + index % terms % self.lanes] += x.abs();
            }
        }
        sums
    }

    fn bound(&self, inputs: &[Array], output: &Shape, _: Arithmetic) -> Vec<f64> {
        let shapes: Vec<&Shape> = inputs.iter().map(|input| input.shape).collect();
        let terms = self.terms(&shapes).map(|terms| terms.div_ceil(self.lanes)).sum();
        self.eval(inputs, output).into_iter().map(|sum| sum_bound(terms, sum)).collect()
    }
}

impl Tape {
    /// Σ |x| over all elements of `arrays`, for each of `rows` equal consecutive parts of each array: `[rows]`.
    /// Infinite or NaN if any element is. Many arrays take few passes.
    ///
    /// # Panics
    /// When there is no array, or one cannot be divided into `rows` parts.
    pub fn magnitude(&mut self, arrays: &[Value], rows: usize) -> Value {
        let reshape = |t: &mut Tape, array: Value| t.reshape(array, [rows, t.shape(array).count() / rows]);
        let arrays: Vec<Value> = arrays.iter().map(|&array| reshape(self, array)).collect();
        let longest = arrays.iter().map(|&array| self.shape(array)[1]).max().expect("at least one array");
        // Enough lanes to occupy a GPU for a large array, and few enough to sum quickly for a small one.
        let lanes = (longest / 16).clamp(64, 8192);
        let mut sums = None;
        let mut rest = &arrays[..];
        while !rest.is_empty() {
            // The partial sums so far are not negative, so they equal their magnitudes.
            let (next, later) = rest.split_at(rest.len().min(ARRAYS - usize::from(sums.is_some())));
            let mut inputs: Vec<Value> = sums.into_iter().chain(next.iter().copied()).collect();
            let count = inputs.len();
            inputs.resize(ARRAYS, inputs[0]);
            sums = Some(self.push(Magnitude { arrays: count, lanes }, &inputs));
            rest = later;
        }
        let sum = self.sum(sums.expect("at least one array"), &[1]);
        self.reshape(sum, [rows])
    }

    /// log Σ exp over each row of `x` `[rows, terms]`, as `[rows, 1]`.
    ///
    /// # Panics
    /// When x is not a matrix.
    pub fn log_sum_exp(&mut self, x: Value) -> Value {
        self.push(LogSumExp, &[x])
    }

    /// Sum over `axes`, given in ascending order; they keep extent 1. Outer axes are summed first: a long sum becomes a
    /// tree of shorter ones, and neighbouring invocations read neighbouring elements.
    ///
    /// # Panics
    /// When an axis lies outside x's rank.
    pub fn sum(&mut self, x: Value, axes: &[usize]) -> Value {
        let mut sum = x;
        for run in axes.chunk_by(|a, b| a + 1 == *b) {
            let axes = run[0]..run[0] + run.len();
            let is_one = self.shape(sum)[axes.clone()].iter().all(|&extent| extent == 1);
            if !is_one {
                sum = self.push(Sum { axes }, &[sum]);
            }
        }
        sum
    }

    /// The least element over a range of neighbouring axes, which keep extent 1.
    ///
    /// # Panics
    /// When an axis lies outside x's rank.
    pub fn min(&mut self, x: Value, axes: Range<usize>) -> Value {
        self.push(Min { axes }, &[x])
    }

    /// Mean over `axes`, which keep extent 1.
    pub fn mean(&mut self, x: Value, axes: &[usize]) -> Value {
        let terms: usize = axes.iter().map(|&axis| self.shape(x)[axis]).product();
        let sum = self.sum(x, axes);
        self.scale(sum, 1.0 / terms as f64)
    }

    /// Mean and biased variance of `x` over `axes`, given in ascending order; they keep extent 1.
    ///
    /// # Panics
    /// When there are no axes, one lies outside x's rank, or they are several ranges and the last ends before x's last
    /// axis.
    pub fn moments(&mut self, x: Value, axes: &[usize]) -> [Value; 2] {
        let terms: usize = axes.iter().map(|&axis| self.shape(x)[axis]).product();
        let run = axes.chunk_by(|a, b| a + 1 == *b).next().expect("at least one axis");
        let mean = self.mean(x, axes);
        let deviation = SquaredDeviation { axes: run[0]..run[0] + run.len(), scale: 1.0 };
        let squares = self.push(deviation, &[x, mean]);
        let sum = self.sum(squares, &axes[run.len()..]);
        [mean, self.scale(sum, 1.0 / terms as f64)]
    }

    /// Sum of all elements, a scalar of shape `[]`.
    pub fn total(&mut self, x: Value) -> Value {
        let axes: Vec<usize> = (0..self.shape(x).len()).collect();
        // Rows in parallel first, then the sum over the first axis.
        let rows = if axes.len() > 1 { self.sum(x, &axes[1..]) } else { x };
        let sum = self.sum(rows, &axes[..axes.len().min(1)]);
        self.reshape(sum, Shape::scalar())
    }

    /// Mean of all elements, a scalar of shape `[]`.
    pub fn average(&mut self, x: Value) -> Value {
        let terms = self.shape(x).count();
        let sum = self.total(x);
        self.scale(sum, 1.0 / terms as f64)
    }

    /// Sums `x` over the axes along which `shape` was broadcast to x's: the adjoint of that broadcast.
    pub fn sum_to(&mut self, x: Value, shape: &Shape) -> Value {
        let from = self.shape(x).clone();
        let missing = from.len() - shape.len();
        let is_summed = |axis: usize| axis < missing || (shape[axis - missing] == 1 && from[axis] > 1);
        let axes: Vec<usize> = (0..from.len()).filter(|&axis| is_summed(axis)).collect();
        let sum = self.sum(x, &axes);
        self.reshape(sum, shape.clone())
    }
}

/// The family and its cases.
pub(super) const FAMILY: Family =
    Family { name: "reduce", describe, cases: || listed(CASES), shaders: lower::SHADERS, lowering: lower::lowering };

fn describe(role: &str, p: &mut Parameters) -> Result<Parts, String> {
    Ok(match role {
        "sum" => {
            let [from, to] = p.numbers(["from", "to"])?;
            Parts::new(Sum { axes: from..to }).exact(true).linear_in(&[&[0]]).input(p.shape("x")?, Fill::ANY)
        }
        "min" => {
            let [from, to] = p.numbers(["from", "to"])?;
            Parts::new(Min { axes: from..to }).exact(true).without_rule(&[0]).input(p.shape("x")?, Fill::ANY)
        }
        "sum_product" => {
            let [from, to] = p.numbers(["from", "to"])?;
            let shape = p.shape("x")?;
            Parts::new(SumProduct { axes: from..to })
                .exact(true)
                .linear_in(&[&[0], &[1]])
                .input(shape.clone(), Fill::ANY)
                .input(shape, Fill::ANY)
        }
        "squared_deviation" => {
            let [from, to] = p.numbers(["from", "to"])?;
            let scale: f64 = p.number_or("scale", 1.0)?;
            let deviation = SquaredDeviation { axes: from..to, scale };
            Parts::new(deviation)
                .exact(scale.fract() == 0.0)
                .stationary_in(&[1])
                .input(p.shape("x")?, Fill::ANY)
                // A deviation from a far greater m is m for every term, and roundings of equal terms do not cancel as the bound of
                // a sum takes it.
                .input_up_to(p.shape("m")?, Fill::ANY, Fill::ANY)
        }
        "magnitude" => {
            let [rows, lanes, arrays] = p.numbers(["rows", "lanes", "arrays"])?;
            let shape = p.shape("terms")?;
            let parts = Parts::new(Magnitude { arrays, lanes })
                .exact(true)
                .special(Special::All)
                .without_rule(&[0, 1, 2, 3, 4, 5, 6]);
            shape.iter().fold(parts, |parts, &terms| parts.input([rows, terms], Fill::ANY))
        }
        "log_sum_exp" => Parts::new(LogSumExp).input_up_to(p.shape("x")?, Fill::Range(-20.0, 20.0), Fill::WIDE),
        _ => return Err(no_role("reduce", role)),
    })
}

const CASES: &[(ShapeClass, &str)] = &[
    (Training, "reduce/sum(x=3x16411x2,from=1,to=2)"),
    (Prime, "reduce/sum(x=5x13x7,from=1,to=2)"),
    (Prime, "reduce/sum(x=5x13x131,from=2,to=3)"),
    (Small, "reduce/sum(x=2x3,from=1,to=2)"),
    (Ones, "reduce/sum(x=3x1x4,from=1,to=2)"),
    (Ones, "reduce/sum(x=1x1x130,from=2,to=3)"),
    (Uneven, "reduce/sum(x=4x5x6x7,from=0,to=2)"),
    (Uneven, "reduce/sum(x=4x5x6x7,from=2,to=4)"),
    (Uneven, "reduce/sum(x=3x129,from=1,to=2)"),
    (Tiled, "reduce/sum(x=70x1031,from=1,to=2)"),
    (Tiled, "reduce/sum(x=1031x70,from=0,to=1)"),
    (Folded, "reduce/sum(x=2x4194305,from=0,to=1)"),
    (Folded, "reduce/sum(x=65600x128,from=1,to=2)"),
    (Training, "reduce/sum(x=96x16x14x14,from=2,to=4)"),
    (Training, "reduce/sum(x=96x16,from=0,to=1)"),
    (Prime, "reduce/min(x=5x13x7,from=1,to=2)"),
    (Prime, "reduce/min(x=5x13x131,from=2,to=3)"),
    (Small, "reduce/min(x=2x3,from=1,to=2)"),
    (Ones, "reduce/min(x=3x1x4,from=1,to=2)"),
    (Uneven, "reduce/min(x=4x5x6x7,from=0,to=2)"),
    (Uneven, "reduce/min(x=3x129,from=1,to=2)"),
    (Uneven, "reduce/min(x=2x3x256,from=1,to=2)"),
    (Tiled, "reduce/min(x=1031x72,from=0,to=1)"),
    (Folded, "reduce/min(x=2x4194305,from=0,to=1)"),
    (Training, "reduce/min(x=16x1024x64,from=1,to=2)"),
    (Prime, "reduce/sum_product(x=5x13x7,from=1,to=2)"),
    (Prime, "reduce/sum_product(x=5x13x131,from=2,to=3)"),
    (Small, "reduce/sum_product(x=2x3,from=1,to=2)"),
    (Ones, "reduce/sum_product(x=3x1x4,from=1,to=2)"),
    (Ones, "reduce/sum_product(x=1x1x130,from=2,to=3)"),
    (Uneven, "reduce/sum_product(x=4x5x6x7,from=0,to=2)"),
    (Uneven, "reduce/sum_product(x=3x129,from=1,to=2)"),
    (Tiled, "reduce/sum_product(x=70x1031,from=1,to=2)"),
    (Tiled, "reduce/sum_product(x=1031x70,from=0,to=1)"),
    (Folded, "reduce/sum_product(x=2x4194305,from=0,to=1)"),
    (Folded, "reduce/sum_product(x=65600x128,from=1,to=2)"),
    (Training, "reduce/sum_product(x=96x16x14x14,from=2,to=4)"),
    (Training, "reduce/sum_product(x=96x16,from=0,to=1)"),
    (Prime, "reduce/squared_deviation(x=5x13x7,m=5x1x7,from=1,to=2)"),
    (Prime, "reduce/squared_deviation(x=11x7x3x5,m=1x7x1x1,from=0,to=1)"),
    (Small, "reduce/squared_deviation(x=2x3,m=2x1,from=1,to=2)"),
    (Prime, "reduce/squared_deviation(x=5x13x7,m=5x1x7,from=1,to=2,scale=0.3)"),
    (Ones, "reduce/squared_deviation(x=3x1x4,m=3x1x1,from=1,to=2)"),
    (Ones, "reduce/squared_deviation(x=1x1x130,m=1x1x1,from=2,to=3)"),
    (Uneven, "reduce/squared_deviation(x=4x5x6x7,m=1x1x6x1,from=0,to=2)"),
    (Uneven, "reduce/squared_deviation(x=129x3,m=1x3,from=0,to=1)"),
    (Tiled, "reduce/squared_deviation(x=131x70x8,m=1x70x1,from=0,to=1)"),
    (Tiled, "reduce/squared_deviation(x=131x512,m=1x512,from=0,to=1)"),
    (Folded, "reduce/squared_deviation(x=2x4194305,m=1x4194305,from=0,to=1)"),
    (Training, "reduce/squared_deviation(x=96x16x14x14,m=1x16x1x1,from=0,to=1)"),
    (Training, "reduce/squared_deviation(x=96x16,m=1x16,from=0,to=1)"),
    (Prime, "reduce/magnitude(rows=3,lanes=5,arrays=7,terms=7x13x5x1x11x3x17)"),
    (Small, "reduce/magnitude(rows=1,lanes=2,arrays=2,terms=2x3x1x1x1x1x1)"),
    (Ones, "reduce/magnitude(rows=1,lanes=1,arrays=1,terms=1x1x1x1x1x1x1)"),
    (Uneven, "reduce/magnitude(rows=2,lanes=7,arrays=5,terms=20x4x1x9x7x30x2)"),
    (Tiled, "reduce/magnitude(rows=3,lanes=70,arrays=3,terms=1031x517x211x1x1x1x1)"),
    (Folded, "reduce/magnitude(rows=2,lanes=2097153,arrays=1,terms=2097154x1x1x1x1x1x1)"),
    (Training, "reduce/magnitude(rows=4,lanes=576,arrays=7,terms=144x16x16x4608x32x32x9216)"),
    (Prime, "reduce/log_sum_exp(x=7x13)"),
    (Small, "reduce/log_sum_exp(x=2x3)"),
    (Ones, "reduce/log_sum_exp(x=1x1)"),
    (Uneven, "reduce/log_sum_exp(x=5x1)"),
    (Tiled, "reduce/log_sum_exp(x=131x67)"),
    (Folded, "reduce/log_sum_exp(x=4194305x2)"),
    (Training, "reduce/log_sum_exp(x=96x96)"),
];
