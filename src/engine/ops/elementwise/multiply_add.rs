//! Sums of products in one pass: batch norm and its derivatives have this form, with a factor and an addend per
//! channel.

use std::ops::{Add, Mul};

use super::unary::positive_part;
use super::{Binary, Collapsed, broadcast_shape, scaled, zip_broadcast};
use crate::engine::bounds::Approx;
use crate::engine::case::{Fill, Parameters, Parts};
use crate::engine::tape::{Application, Arithmetic, Array, Cotangent, Primitive, Tape, Value};
use crate::engine::tensor::Shape;

/// y = p · a · b + q · c, or with two products p · a · b + q · c · d + r · e; with `relu`, its positive part. The
/// operands are broadcast to a common shape; p, q and r are rounded to f32 on the device. No intermediate is written to
/// memory.
#[derive(Clone, Debug)]
pub struct MultiplyAdd {
    /// One for each product (one or two), then one for the addend.
    pub factors: Vec<f64>,
    pub relu: bool,
}

impl MultiplyAdd {
    /// The sum; `scaled(factor, x)` computes factor · x.
    fn sum<T>(&self, operands: &[T], scaled: impl Fn(f64, T) -> T) -> T
    where
        T: Copy + Mul<Output = T> + Add<Output = T>,
    {
        let terms = operands.chunks(2).zip(&self.factors).map(|(operands, &factor)| match *operands {
            [a, b] => scaled(factor, a) * b,
            _ => scaled(factor, operands[0]),
        });
        terms.reduce(Add::add).expect("at least one product")
    }
}

impl Primitive for MultiplyAdd {
    fn name(&self) -> &'static str {
        if self.factors.len() == 2 { "elementwise/multiply_add" } else { "elementwise/multiply_add_2" }
    }

    fn parameters(&self, inputs: &[&Shape]) -> Option<String> {
        let relu = if self.relu { "relu=1," } else { "" };
        let factors = ["p", "q", "r"].iter().zip(&self.factors).filter(|&(_, factor)| *factor != 1.0);
        let factors: String = factors.map(|(name, factor)| format!("{name}={factor},")).collect();
        let operands = ["a", "b", "c", "d", "e"].iter().zip(inputs).map(|(name, shape)| format!("{name}={shape}"));
        Some(format!("{relu}{factors}{}", operands.collect::<Vec<_>>().join(",")))
    }

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape, String> {
        let first = Ok(inputs[0].clone());
        let shape = inputs[1..].iter().fold(first, |shape, operand| broadcast_shape(&shape?, operand))?;
        Collapsed::new(&shape, inputs)?;
        Ok(shape)
    }

    fn vjp(&self, tape: &mut Tape, at: Application) -> Vec<Cotangent> {
        let ct = match self.relu {
            true => tape.binary(Binary::WherePositive, at.cotangent, at.output),
            false => at.cotangent,
        };
        let mut cotangents = Vec::with_capacity(at.inputs.len());
        for (operands, &factor) in at.inputs.chunks(2).zip(&self.factors) {
            let fitted = |tape: &mut Tape, ct: Value, input: Value| tape.sum_to(ct, &tape.shape(input).clone());
            match *operands {
                [a, b] => {
                    let [ct_a, ct_b] = [b, a].map(|other| tape.product(factor, ct, other));
                    cotangents.extend([fitted(tape, ct_a, a), fitted(tape, ct_b, b)]);
                }
                _ => {
                    let sum = fitted(tape, ct, operands[0]);
                    cotangents.push(tape.scale(sum, factor));
                }
            }
        }
        cotangents.into_iter().map(Cotangent::Of).collect()
    }

    fn eval(&self, inputs: &[Array], output: &Shape) -> Vec<f64> {
        let finish = if self.relu { positive_part } else { |sum| sum };
        zip_broadcast(inputs, output, |operands| finish(self.sum(operands, Mul::mul)))
    }

    fn bound(&self, inputs: &[Array], output: &Shape, _: Arithmetic) -> Vec<f64> {
        zip_broadcast(inputs, output, |operands| {
            let operands: Vec<Approx> = operands.iter().map(|&operand| Approx::exact(operand)).collect();
            let sum = self.sum(&operands, scaled);
            // The positive part of a certainly negative sum is exactly 0.
            if self.relu { (sum.value.min(0.0) + sum.error).max(0.0) } else { sum.error }
        })
    }
}

/// The sum whose operands and factors have these names.
pub(super) fn describe<const N: usize, const M: usize>(
    operands: [&str; N],
    names: [&str; M],
    p: &mut Parameters,
) -> Result<Parts, String> {
    let relu = p.number_or("relu", 0)? == 1;
    let factors = names.iter().map(|name| p.number_or(name, 1.0)).collect::<Result<Vec<f64>, String>>()?;
    // Products of quarters are multiples of 1/16, so a sum with an odd multiple of 1/32 never lies on the kink.
    let [factor, addend] = if relu { [Fill::Lattice(0.0), Fill::Lattice(1.0 / 32.0)] } else { [Fill::ANY; 2] };
    let exact = factors.iter().all(|factor| factor.fract() == 0.0);
    let mut parts = Parts::new(MultiplyAdd { factors, relu }).exact(exact);
    for (index, operand) in operands.into_iter().enumerate() {
        parts = parts.input(p.shape(operand)?, if index + 1 < N { factor } else { addend });
    }
    Ok(parts)
}
