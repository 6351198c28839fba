//! Adam's update (Kingma and Ba, arXiv 1412.6980, algorithm 1).

mod lower;

use crate::engine::bounds::Approx;
use crate::engine::case::ShapeClass::{Folded, Large, Ones, Prime, Small, Tiled, Training};
use crate::engine::case::{Fill, Parameters, Parts, ShapeClass};
use crate::engine::ops::{Family, listed, no_role};
use crate::engine::tape::{Application, Arithmetic, Array, Cotangent, Primitive, Tape, Value};
use crate::engine::tensor::Shape;

/// θ' = θ − rate · (m / bias₁) / (√(v / bias₂) + EPSILON), with `[rate, bias₁, bias₂]` in the last input.
#[derive(Clone, Debug)]
pub struct AdamUpdate;

/// Keeps the quotient finite for a parameter that never had a gradient.
pub const EPSILON: f32 = 1e-8;

impl AdamUpdate {
    fn step(inputs: &[Array], index: usize) -> f64 {
        let [rate, bias_1, bias_2] = [0, 1, 2].map(|k| inputs[3].data[k]);
        let (m, v) = (inputs[1].data[index], inputs[2].data[index]);
        rate * (m / bias_1) / ((v / bias_2).sqrt() + f64::from(EPSILON))
    }
}

impl Primitive for AdamUpdate {
    fn name(&self) -> &'static str {
        "optimiser/adam"
    }

    fn parameters(&self, inputs: &[&Shape]) -> Option<String> {
        Some(format!("theta={}", inputs[0]))
    }

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape, String> {
        let [theta, m, v, rates] = [inputs[0], inputs[1], inputs[2], inputs[3]];
        if theta != m || theta != v || rates.count() != 3 {
            return Err(format!("parameters {theta:?}, moments {m:?} and {v:?}, rates {rates:?} do not agree"));
        }
        Ok(theta.clone())
    }

    fn vjp(&self, _: &mut Tape, _: Application) -> Vec<Cotangent> {
        vec![Cotangent::Missing; 4]
    }

    fn eval(&self, inputs: &[Array], output: &Shape) -> Vec<f64> {
        (0..output.count()).map(|i| inputs[0].data[i] - Self::step(inputs, i)).collect()
    }

    fn bound(&self, inputs: &[Array], output: &Shape, _: Arithmetic) -> Vec<f64> {
        // The kernel's formula on inputs with known errors.
        let value = |input: usize, index: usize| Approx::exact(inputs[input].data[index]);
        let [rate, bias_1, bias_2] = [0, 1, 2].map(|k| value(3, k));
        let epsilon = Approx::exact(f64::from(EPSILON));
        (0..output.count())
            .map(|i| {
                let root = (value(2, i) / bias_2).sqrt();
                let updated = value(0, i) - rate * (value(1, i) / bias_1) / (root + epsilon);
                updated.error
            })
            .collect()
    }
}

impl Tape {
    /// Adam's new parameters from the updated moments `m` and `v` and `rates` = `[rate, 1 − β₁ᵗ, 1 − β₂ᵗ]`.
    ///
    /// # Panics
    /// When the shapes of parameters and moments differ.
    pub fn adam_update(&mut self, theta: Value, m: Value, v: Value, rates: Value) -> Value {
        self.push(AdamUpdate, &[theta, m, v, rates])
    }
}

/// The family and its cases.
pub(super) const FAMILY: Family =
    Family { name: "optimiser", describe, cases: || listed(CASES), shaders: lower::SHADERS, lowering: lower::lowering };

fn describe(role: &str, p: &mut Parameters) -> Result<Parts, String> {
    if role != "adam" {
        return Err(no_role("optimiser", role));
    }
    let x = p.shape("theta")?;
    Ok(Parts::new(AdamUpdate)
        .without_rule(&[0, 1, 2, 3])
        .input(x.clone(), Fill::ANY)
        .input(x.clone(), Fill::ANY)
        .input_up_to(x, Fill::Range(0.0, 2.0), Fill::WIDE_POSITIVE)
        .input([3], Fill::Range(0.05, 1.0)))
}

const CASES: &[(ShapeClass, &str)] = &[
    (Large, "optimiser/adam(theta=16777259)"),
    (Prime, "optimiser/adam(theta=7x13)"),
    (Small, "optimiser/adam(theta=3)"),
    (Ones, "optimiser/adam(theta=1)"),
    (Tiled, "optimiser/adam(theta=1031)"),
    (Folded, "optimiser/adam(theta=4194305)"),
    (Training, "optimiser/adam(theta=32x16x3x3)"),
];
