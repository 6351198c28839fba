//! Sorting of columns in two parts: the order, which is discrete, and rows gathered by index.
//!
//! A sorted column is its elements gathered in its order. The order is constant around almost every point, so gradients
//! flow through the gathered elements alone, to any order of derivative.

mod lower;

use crate::engine::bounds::sum_bound;
use crate::engine::case::ShapeClass::{Folded, Ones, Prime, Small, Tiled, Training, Uneven};
use crate::engine::case::{Fill, Parameters, Parts, ShapeClass, Special};
use crate::engine::ops::{Family, listed, no_role};
use crate::engine::tape::{Application, Arithmetic, Array, Cotangent, Primitive, Tape, Value};
use crate::engine::tensor::Shape;

/// y[k, l] = the row of the k-th smallest element in column l of x. Of equal elements the earlier row comes first; NaNs
/// come after all numbers. So every row has a unique place. Rows are whole numbers, exact in f32.
#[derive(Clone, Debug)]
pub struct Order;

/// y[k, l] = x[index[k, l], l]. Inputs: x `[rows, columns]`, index `[K, columns]` of whole numbers. An index beyond the
/// last row means the last row.
#[derive(Clone, Debug)]
pub struct Gather;

/// x̄[r, l] = Σ_k ȳ[k, l] where index[k, l] = r: the adjoint of [`Gather`], with the same limit. Inputs: ȳ and index,
/// both `[K, columns]`.
#[derive(Clone, Debug)]
pub struct Scatter {
    pub rows: usize,
}

/// The row that an index means among `rows`.
fn row(index: f64, rows: usize) -> usize {
    (index.round() as usize).min(rows - 1)
}

/// Whether `a` comes before `b` in its column: numbers ascending, then NaNs; of equals the earlier row.
fn is_before((a, row_a): (f64, usize), (b, row_b): (f64, usize)) -> bool {
    let is_equal = a == b || (a.is_nan() && b.is_nan());
    a < b || (b.is_nan() && !a.is_nan()) || (is_equal && row_a < row_b)
}

impl Primitive for Order {
    fn name(&self) -> &'static str {
        "sort/order"
    }

    fn parameters(&self, inputs: &[&Shape]) -> Option<String> {
        Some(format!("rows={},columns={}", inputs[0].first()?, inputs[0].get(1)?))
    }

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape, String> {
        inputs[0].matrix().map(Shape::from)
    }

    fn vjp(&self, _: &mut Tape, _: Application) -> Vec<Cotangent> {
        vec![Cotangent::None]
    }

    fn eval(&self, inputs: &[Array], output: &Shape) -> Vec<f64> {
        let [rows, columns] = [output[0], output[1]];
        let x = inputs[0].data;
        let mut order = vec![0.0; output.count()];
        for (index, &value) in x.iter().enumerate() {
            let (r, l) = (index / columns, index % columns);
            let rank = (0..rows).filter(|&j| is_before((x[j * columns + l], j), (value, r))).count();
            order[rank * columns + l] = r as f64;
        }
        order
    }

    fn bound(&self, _: &[Array], output: &Shape, _: Arithmetic) -> Vec<f64> {
        vec![0.0; output.count()]
    }
}

impl Primitive for Gather {
    fn name(&self) -> &'static str {
        "sort/gather"
    }

    fn parameters(&self, inputs: &[&Shape]) -> Option<String> {
        Some(format!("rows={},columns={},k={}", inputs[0].first()?, inputs[0].get(1)?, inputs[1].first()?))
    }

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape, String> {
        let ([_, columns], [places, index_columns]) = (inputs[0].matrix()?, inputs[1].matrix()?);
        match columns == index_columns {
            true => Ok([places, columns].into()),
            false => Err(format!("{:?} and the index {:?} differ in their columns", inputs[0], inputs[1])),
        }
    }

    fn vjp(&self, tape: &mut Tape, at: Application) -> Vec<Cotangent> {
        let rows = tape.shape(at.inputs[0])[0];
        vec![Cotangent::Of(tape.push(Scatter { rows }, &[at.cotangent, at.inputs[1]])), Cotangent::None]
    }

    fn eval(&self, inputs: &[Array], output: &Shape) -> Vec<f64> {
        let (rows, columns) = (inputs[0].shape[0], output[1]);
        let places = inputs[1].data.iter().enumerate();
        places.map(|(place, &index)| inputs[0].data[row(index, rows) * columns + place % columns]).collect()
    }

    fn bound(&self, _: &[Array], output: &Shape, _: Arithmetic) -> Vec<f64> {
        vec![0.0; output.count()]
    }
}

impl Primitive for Scatter {
    fn name(&self) -> &'static str {
        "sort/scatter"
    }

    fn parameters(&self, inputs: &[&Shape]) -> Option<String> {
        Some(format!("rows={},columns={},k={}", self.rows, inputs[0].get(1)?, inputs[0].first()?))
    }

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape, String> {
        let [_, columns] = inputs[0].matrix()?;
        match inputs[0] == inputs[1] {
            true => Ok([self.rows, columns].into()),
            false => Err(format!("{:?} and the index {:?} differ", inputs[0], inputs[1])),
        }
    }

    fn vjp(&self, tape: &mut Tape, at: Application) -> Vec<Cotangent> {
        vec![Cotangent::Of(tape.gather(at.cotangent, at.inputs[1])), Cotangent::None]
    }

    fn eval(&self, inputs: &[Array], output: &Shape) -> Vec<f64> {
        let [rows, columns] = [output[0], output[1]];
        let mut ct_x = vec![0.0; output.count()];
        for (place, (&ct, &index)) in inputs[0].data.iter().zip(inputs[1].data).enumerate() {
            ct_x[row(index, rows) * columns + place % columns] += ct;
        }
        ct_x
    }

    fn bound(&self, inputs: &[Array], output: &Shape, _: Arithmetic) -> Vec<f64> {
        let sums = |terms: &dyn Fn(f64) -> f64| {
            let terms: Vec<f64> = inputs[0].data.iter().map(|&ct| terms(ct)).collect();
            self.eval(&[Array { data: &terms, ..inputs[0] }, inputs[1]], output)
        };
        let (counts, magnitudes) = (sums(&|_| 1.0), sums(&f64::abs));
        // Adding the first term to 0 is exact.
        let additions = counts.iter().map(|&count| (count as usize).max(2) - 1);
        additions.zip(magnitudes).map(|(additions, magnitude)| sum_bound(additions, magnitude)).collect()
    }
}

impl Tape {
    /// For each column of `x` `[rows, columns]`, its rows in ascending order of their elements. Has no gradient.
    ///
    /// # Panics
    /// When x is not a matrix.
    pub fn order(&mut self, x: Value) -> Value {
        self.push(Order, &[x])
    }

    /// y `[K, columns]` from x `[rows, columns]`: `y[k,l] = x[index[k,l], l]`; see [`Gather`].
    ///
    /// # Panics
    /// When x and index are not matrices with the same number of columns.
    pub fn gather(&mut self, x: Value, index: Value) -> Value {
        self.push(Gather, &[x, index])
    }
}

/// The family, with the cases that it is checked at.
pub(super) const FAMILY: Family =
    Family { name: "sort", describe, cases: || listed(CASES), shaders: lower::SHADERS, lowering: lower::lowering };

fn describe(role: &str, p: &mut Parameters) -> Result<Parts, String> {
    let [rows, columns] = p.numbers(["rows", "columns"])?;
    if role == "order" {
        return Ok(Parts::new(Order)
            .exact(true)
            .special(Special::All)
            .constant_in(&[0])
            .input([rows, columns], Fill::ANY));
    }
    let places = [p.number("k")?, columns];
    Ok(match role {
        "gather" => Parts::new(Gather)
            .exact(true)
            .special(Special::In(&[0]))
            .linear_in(&[&[0]])
            .constant_in(&[1])
            .input([rows, columns], Fill::ANY),
        "scatter" => Parts::new(Scatter { rows })
            .exact(true)
            .special(Special::In(&[0]))
            .linear_in(&[&[0]])
            .constant_in(&[1])
            .input(places, Fill::ANY),
        _ => return Err(no_role("sort", role)),
    }
    .input(places, Fill::Index(rows)))
}

const CASES: &[(ShapeClass, &str)] = &[
    (Tiled, "sort/order(rows=261,columns=5)"),
    (Prime, "sort/order(rows=13,columns=7)"),
    (Small, "sort/order(rows=3,columns=2)"),
    (Ones, "sort/order(rows=1,columns=1)"),
    (Uneven, "sort/order(rows=31,columns=1)"),
    (Tiled, "sort/order(rows=67,columns=71)"),
    (Folded, "sort/order(rows=2,columns=2097153)"),
    (Training, "sort/order(rows=96,columns=64)"),
    (Prime, "sort/gather(rows=13,columns=7,k=11)"),
    (Small, "sort/gather(rows=2,columns=3,k=2)"),
    (Ones, "sort/gather(rows=1,columns=1,k=1)"),
    (Uneven, "sort/gather(rows=2,columns=5,k=31)"),
    (Tiled, "sort/gather(rows=67,columns=71,k=70)"),
    (Folded, "sort/gather(rows=2,columns=2097153,k=2)"),
    (Training, "sort/gather(rows=96,columns=64,k=64)"),
    (Prime, "sort/scatter(rows=13,columns=7,k=11)"),
    (Small, "sort/scatter(rows=2,columns=3,k=2)"),
    (Ones, "sort/scatter(rows=1,columns=1,k=1)"),
    (Uneven, "sort/scatter(rows=2,columns=5,k=31)"),
    (Tiled, "sort/scatter(rows=67,columns=71,k=70)"),
    (Folded, "sort/scatter(rows=2,columns=2097153,k=2)"),
    (Training, "sort/scatter(rows=96,columns=64,k=64)"),
];
