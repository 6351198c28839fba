//! Matrix products, with either factor transposed as it is read.

mod lower;

use crate::engine::bounds::product_bound;
use crate::engine::case::ShapeClass::{Ones, Prime, Small, Tiled, Training};
use crate::engine::case::{Fill, Parameters, Parts, ShapeClass};
use crate::engine::ops::{Family, listed, no_role};
use crate::engine::tape::{Application, Arithmetic, Array, Cotangent, Primitive, Tape, Value};
use crate::engine::tensor::Shape;

/// `z[m,n] = Σ_k A(m,k) · B(k,n)`, shape `[M, N]`. A is stored `[M, K]`, or `[K, M]` if `transpose_a`; B is stored
/// `[K, N]`, or `[N, K]` if `transpose_b`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Matmul {
    pub transpose_a: bool,
    pub transpose_b: bool,
}

impl Matmul {
    /// `[M, N, K]`.
    fn extents(&self, inputs: &[&Shape]) -> Result<[usize; 3], String> {
        let ([mut m, mut k], [mut inner, mut n]) = (inputs[0].matrix()?, inputs[1].matrix()?);
        if self.transpose_a {
            (m, k) = (k, m);
        }
        if self.transpose_b {
            (inner, n) = (n, inner);
        }
        match k == inner {
            true => Ok([m, n, k]),
            false => Err(format!("{:?} and {:?} do not agree in K under {self:?}", inputs[0], inputs[1])),
        }
    }

    /// These elements of the product.
    fn eval_at(&self, inputs: &[Array], elements: impl Iterator<Item = usize>) -> Vec<f64> {
        let [m, n, k] = self.accepted(&[inputs[0].shape, inputs[1].shape]);
        let (a, b) = (inputs[0].data, inputs[1].data);
        let sum = |element: usize| {
            let (row, column) = (element / n, element % n);
            let term = |inner: usize| {
                let a = if self.transpose_a { a[inner * m + row] } else { a[row * k + inner] };
                let b = if self.transpose_b { b[column * k + inner] } else { b[inner * n + column] };
                a * b
            };
            (0..k).map(term).sum()
        };
        elements.map(sum).collect()
    }

    /// The extents of inputs that [`shape`](Primitive::shape) has accepted.
    fn accepted(&self, inputs: &[&Shape]) -> [usize; 3] {
        self.extents(inputs).expect("shapes are checked when recorded")
    }
}

impl Primitive for Matmul {
    fn name(&self) -> &'static str {
        "matmul/product"
    }

    fn parameters(&self, inputs: &[&Shape]) -> Option<String> {
        let [rows, columns] = inputs[0].matrix().ok()?;
        let [second_rows, second_columns] = inputs[1].matrix().ok()?;
        let [m, k] = if self.transpose_a { [columns, rows] } else { [rows, columns] };
        let n = if self.transpose_b { second_rows } else { second_columns };
        Some(format!("m={m},n={n},k={k},ta={},tb={}", u8::from(self.transpose_a), u8::from(self.transpose_b)))
    }

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape, String> {
        let [m, n, _] = self.extents(inputs)?;
        Ok([m, n].into())
    }

    /// With op(A)·op(B) = Z: the cotangent of op(A) is Z̄·op(B)ᵀ, that of op(B) is op(A)ᵀ·Z̄. A factor stored
    /// transposed takes the transpose of that product, which exchanges and transposes its factors.
    fn vjp(&self, tape: &mut Tape, at: Application) -> Vec<Cotangent> {
        let ([a, b], ct_z) = ([at.inputs[0], at.inputs[1]], at.cotangent);
        let ct_a = match self.transpose_a {
            false => tape.matmul_transposed(ct_z, false, b, !self.transpose_b),
            true => tape.matmul_transposed(b, self.transpose_b, ct_z, true),
        };
        let ct_b = match self.transpose_b {
            false => tape.matmul_transposed(a, !self.transpose_a, ct_z, false),
            true => tape.matmul_transposed(ct_z, true, a, self.transpose_a),
        };
        vec![Cotangent::Of(ct_a), Cotangent::Of(ct_b)]
    }

    fn eval(&self, inputs: &[Array], output: &Shape) -> Vec<f64> {
        self.eval_at(inputs, 0..output.count())
    }

    fn bound(&self, inputs: &[Array], output: &Shape, arithmetic: Arithmetic) -> Vec<f64> {
        let [_, _, k] = self.accepted(&[inputs[0].shape, inputs[1].shape]);
        product_bound(arithmetic, k, inputs, |inputs| self.eval(inputs, output))
    }

    fn sample(&self, inputs: &[Array], _: &Shape, arithmetic: Arithmetic, elements: &[usize]) -> [Vec<f64>; 2] {
        let [_, _, k] = self.accepted(&[inputs[0].shape, inputs[1].shape]);
        let eval = |inputs: &[Array]| self.eval_at(inputs, elements.iter().copied());
        [eval(inputs), product_bound(arithmetic, k, inputs, eval)]
    }
}

impl Tape {
    /// z `[M, N]` = A·B of a `[M, K]` and b `[K, N]`.
    ///
    /// # Panics
    /// When an operand is not a matrix or K differs.
    pub fn matmul(&mut self, a: Value, b: Value) -> Value {
        self.matmul_transposed(a, false, b, false)
    }

    /// z `[M, N]` = A·B where a holds A `[M, K]` or, with `transpose_a`, its transpose `[K, M]`; and likewise b.
    ///
    /// # Panics
    /// When an operand is not a matrix or K differs.
    pub fn matmul_transposed(&mut self, a: Value, transpose_a: bool, b: Value, transpose_b: bool) -> Value {
        self.push(Matmul { transpose_a, transpose_b }, &[a, b])
    }
}

/// The family, with the cases that it is checked at.
pub(super) const FAMILY: Family =
    Family { name: "matmul", describe, cases: || listed(CASES), shaders: lower::SHADERS, lowering: lower::lowering };

fn describe(role: &str, p: &mut Parameters) -> Result<Parts, String> {
    let [m, n, k] = p.numbers(["m", "n", "k"])?;
    let [transpose_a, transpose_b] = p.numbers(["ta", "tb"])?.map(|transposed| transposed == 1);
    if role != "product" {
        return Err(no_role("matmul", role));
    }
    let stored = |rows: usize, columns: usize, transposed: bool| match transposed {
        true => [columns, rows],
        false => [rows, columns],
    };
    Ok(Parts::new(Matmul { transpose_a, transpose_b })
        .exact(true)
        .linear_in(&[&[0], &[1]])
        .input(stored(m, k, transpose_a), Fill::ANY)
        .input(stored(k, n, transpose_b), Fill::ANY))
}

const CASES: &[(ShapeClass, &str)] = &[
    (Prime, "matmul/product(m=7,n=5,k=11,ta=0,tb=0)"),
    (Prime, "matmul/product(m=13,n=37,k=19,ta=1,tb=0)"),
    (Prime, "matmul/product(m=37,n=13,k=17,ta=0,tb=1)"),
    (Small, "matmul/product(m=2,n=3,k=2,ta=1,tb=1)"),
    (Ones, "matmul/product(m=1,n=1,k=1,ta=0,tb=0)"),
    (Ones, "matmul/product(m=1,n=33,k=1,ta=0,tb=1)"),
    (Ones, "matmul/product(m=70,n=1,k=9,ta=1,tb=0)"),
    (Tiled, "matmul/product(m=67,n=71,k=33,ta=0,tb=0)"),
    (Tiled, "matmul/product(m=71,n=67,k=35,ta=1,tb=0)"),
    (Tiled, "matmul/product(m=530,n=523,k=18,ta=0,tb=1)"),
    (Tiled, "matmul/product(m=515,n=540,k=17,ta=1,tb=1)"),
    (Training, "matmul/product(m=192,n=32,k=128,ta=0,tb=0)"),
    (Training, "matmul/product(m=128,n=32,k=192,ta=1,tb=0)"),
    (Training, "matmul/product(m=192,n=128,k=32,ta=0,tb=1)"),
];
