//! Functions of two values and their backward rules.

use super::{Collapsed, broadcast_shape, scaled, zip_broadcast};
use crate::engine::bounds::Approx;
use crate::engine::case::{Fill, Parameters, Parts, Special};
use crate::engine::tape::{Application, Arithmetic, Array, Cotangent, Primitive, Tape, Value};
use crate::engine::tensor::Shape;

/// A function of two values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Binary {
    /// p · a + q · b, both rounded to f32 on the device: sums, differences, moving averages.
    Linear { p: f64, q: f64 },
    /// factor · a · b, the factor rounded to f32 on the device.
    Multiply { factor: f64 },
    /// factor · a / b, the factor rounded to f32 on the device.
    Divide { factor: f64 },
    /// factor · a / b, or 0 where b is 0; the factor is rounded to f32 on the device. The backward rule of a root.
    DivideOrZero { factor: f64 },
    /// The greater; NaN if either is NaN.
    Maximum,
    /// The smaller; NaN if either is NaN.
    Minimum,
    /// a where b > 0, NaN where b is NaN, else 0: the backward rule of ReLU.
    WherePositive,
    /// a where low ≤ b ≤ high, NaN where b is NaN, else 0: the backward rule of a clamp.
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
    pub(super) fn selector(self) -> (u32, [f32; 2]) {
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
            // `f64::max` and `f64::min` drop NaN.
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

    /// Error of the kernel's formula on inputs with known errors.
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

/// y = f(a, b), with the operands broadcast to a common shape.
#[derive(Clone, Copy, Debug)]
pub struct BinaryMap(pub Binary);

impl Primitive for BinaryMap {
    fn name(&self) -> &'static str {
        "elementwise/binary"
    }

    fn parameters(&self, inputs: &[&Shape]) -> Option<String> {
        let factor = |factor| if factor == 1.0 { String::new() } else { format!(",factor={factor}") };
        let function = match self.0 {
            Binary::Linear { p: 1.0, q: 1.0 } => "add".into(),
            Binary::Linear { p: 1.0, q: -1.0 } => "subtract".into(),
            Binary::Linear { p, .. } if Binary::average(p as f32) == self.0 => format!("average,weight={p}"),
            Binary::Linear { .. } => return None,
            Binary::Multiply { factor: f } => format!("multiply{}", factor(f)),
            Binary::Divide { factor: f } => format!("divide{}", factor(f)),
            Binary::DivideOrZero { factor: f } => format!("divide-or-zero{}", factor(f)),
            Binary::Maximum => "maximum".into(),
            Binary::Minimum => "minimum".into(),
            Binary::WherePositive => "where-positive".into(),
            Binary::WhereInside { low, high } => format!("where-inside,low={low},high={high}"),
            Binary::AverageSquare { weight } => format!("average-square,weight={weight}"),
        };
        Some(format!("f={function},a={},b={}", inputs[0], inputs[1]))
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
                // Scale after the sum over broadcast axes, where there are fewer elements.
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

    fn bound(&self, inputs: &[Array], output: &Shape, _: Arithmetic) -> Vec<f64> {
        zip_broadcast(inputs, output, |operands| self.0.error(operands[0], operands[1]))
    }
}

/// The map described by `f` and its parameters.
pub(super) fn describe(p: &mut Parameters) -> Result<Parts, String> {
    let function = p.text("f")?;
    let (function, [fill_a, fill_b], exact) = match function {
        "add" => (Binary::Linear { p: 1.0, q: 1.0 }, [Fill::ANY; 2], true),
        "subtract" => (Binary::Linear { p: 1.0, q: -1.0 }, [Fill::ANY; 2], true),
        "multiply" => {
            let factor: f64 = p.number_or("factor", 1.0)?;
            (Binary::Multiply { factor }, [Fill::ANY; 2], factor.fract() == 0.0)
        }
        "divide" => (Binary::Divide { factor: p.number_or("factor", 1.0)? }, [Fill::ANY, Fill::POSITIVE], false),
        "divide-or-zero" => {
            (Binary::DivideOrZero { factor: p.number_or("factor", 1.0)? }, [Fill::ANY, Fill::POSITIVE], false)
        }
        "maximum" => (Binary::Maximum, [Fill::Lattice(0.0), Fill::Lattice(0.125)], true),
        "minimum" => (Binary::Minimum, [Fill::Lattice(0.0), Fill::Lattice(0.125)], true),
        "where-positive" => (Binary::WherePositive, [Fill::ANY, Fill::Lattice(0.125)], true),
        "where-inside" => {
            let (low, high) = (p.number("low")?, p.number("high")?);
            (Binary::WhereInside { low, high }, [Fill::ANY, Fill::Lattice(0.125)], true)
        }
        "average" => (Binary::average(p.number("weight")?), [Fill::ANY; 2], false),
        "average-square" => (Binary::AverageSquare { weight: p.number("weight")? }, [Fill::ANY; 2], false),
        _ => return Err(format!("there is no function `{function}` of two values")),
    };
    let parts = Parts::new(BinaryMap(function)).exact(exact).input(p.shape("a")?, fill_a).input(p.shape("b")?, fill_b);
    Ok(match function {
        Binary::WherePositive | Binary::WhereInside { .. } => parts.constant_in(&[1]).special(Special::All),
        Binary::Maximum | Binary::Minimum => parts.special(Special::All),
        _ => parts,
    })
}
