//! Backward rules against central differences, in f64 on the host.
//!
//! A rule is right when ⟨ct, J·v⟩ = ⟨Jᵀ·ct, v⟩ for a random cotangent ct and a random tangent v. J·v is a central
//! difference of the definition; Jᵀ·ct is what the rule records. The recorded gradient is then checked in the same way.

use std::collections::HashMap;

use crate::engine::case::{Case, Description, Draws, Fill, widen};
use crate::engine::reference::Reference;
use crate::engine::tape::{Application, Cotangent, GradError, Tape, Value};
use crate::engine::tensor::Shape;

/// Half the distance between the two points of a difference, for a tangent of size 1.
const STEP: f64 = 1e-6;

/// 100 times the rounding error of the difference, 1e-16 / STEP, and its cubic term, STEP².
const TOLERANCE: f64 = 1e-7;

/// What a check of a rule covered.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RuleReport {
    /// Inputs whose cotangent was compared.
    pub inputs: Vec<usize>,
    /// Inputs declared to have no cotangent, for which the definition's derivative is 0.
    pub none: Vec<usize>,
    /// Inputs declared to have no cotangent because the output is stationary at their only valid value. The check uses
    /// other values, so it compares nothing: review these inputs by hand.
    pub stationary: Vec<usize>,
    /// Inputs declared to lack a rule, which do lack it.
    pub missing: Vec<usize>,
    /// (first, second) inputs whose second derivative was compared. The cotangent counts as the last input.
    pub second: Vec<[usize; 2]>,
    /// The same, where differentiation stopped at a primitive without a rule, with its name.
    pub second_missing: Vec<([usize; 2], &'static str)>,
}

/// Checks the backward rule of the case's primitive for all of its inputs, and the derivatives of that rule.
///
/// # Errors
/// A sentence with both sides of an identity that fails.
pub fn check_rule(case: &Case, seed: u64) -> Result<RuleReport, String> {
    let mut tape = Tape::new();
    let inputs: Vec<Value> = case
        .inputs
        .iter()
        .enumerate()
        .map(|(index, input)| tape.feed(&format!("x{index}"), input.shape.clone()))
        .collect();
    let y = tape.apply(case.primitive.clone(), &inputs);
    let ct = tape.feed("ct", case.output());
    let declared = case.primitive.vjp(&mut tape, Application { inputs: &inputs, output: y, cotangent: ct });
    let mut check = Check::new(case, seed);

    let mut report = RuleReport::default();
    for (index, declared) in declared.into_iter().enumerate() {
        let Description { constant, stationary, without_rule, .. } = case.says;
        let said = match declared {
            Cotangent::Of(_) => ![constant, stationary, without_rule].concat().contains(&index),
            Cotangent::None => constant.contains(&index),
            Cotangent::Stationary => stationary.contains(&index),
            Cotangent::Missing => without_rule.contains(&index),
        };
        if !said {
            return Err(format!(
                "{case}: the rule has {declared:?} for input {index}, but its family declares otherwise"
            ));
        }
        let pulled = tape.pull_back(y, ct, &[inputs[index]]);
        match (declared, pulled) {
            (Cotangent::Of(_), Ok(gradient)) => {
                check.identity(&tape, (y, ct), (inputs[index], gradient[0]))?;
                report.inputs.push(index);
                check.second_order(&mut tape, index, gradient[0], &[&inputs[..], &[ct]].concat(), &mut report)?;
            }
            (Cotangent::None, Err(GradError::Independent { .. })) => {
                check.compare(&tape, (y, ct), inputs[index], None)?;
                report.none.push(index);
            }
            (Cotangent::Stationary, Err(GradError::Independent { .. })) => report.stationary.push(index),
            (Cotangent::Missing, Err(GradError::MissingRule { primitive, input, .. }))
                if primitive == case.primitive.name() && input == index =>
            {
                report.missing.push(index);
            }
            (declared, pulled) => {
                return Err(format!("{case}: input {index} is declared {declared:?}, but the sweep gave {pulled:?}"));
            }
        }
    }
    check.accumulation(&report)?;
    Ok(report)
}

struct Check<'a> {
    case: &'a Case,
    sources: HashMap<String, Vec<f64>>,
    seed: u64,
    draws: Draws,
}

impl<'a> Check<'a> {
    fn new(case: &'a Case, seed: u64) -> Self {
        let mut sources = HashMap::new();
        for (index, (input, tensor)) in case.inputs.iter().zip(case.floats(seed)).enumerate() {
            // A key's words are truncated to integers: half-way between two, a small step changes nothing.
            let shift = if input.fill == Fill::Key { 0.5 } else { 0.0 };
            sources.insert(format!("x{index}"), widen(&tensor).into_iter().map(|x| x + shift).collect());
        }
        let mut draws = Draws::new(seed, u32::MAX);
        sources.insert("ct".into(), random(&mut draws, &case.output()));
        Check { case, sources, seed, draws }
    }

    fn eval(&self, tape: &Tape, value: Value) -> Result<Vec<f64>, String> {
        let mut reference = Reference::new(tape, &self.sources);
        reference.eval(value).map(<[f64]>::to_vec).map_err(|error| error.to_string())
    }

    /// Checks ⟨ct, ∂y/∂x · v⟩ = ⟨gradient, v⟩ for a random v. `y` and `gradient` may be any values of the tape.
    fn identity(&mut self, tape: &Tape, (y, ct): (Value, Value), (x, gradient): (Value, Value)) -> Result<(), String> {
        let gradient = self.eval(tape, gradient)?;
        self.compare(tape, (y, ct), x, Some(gradient))
    }

    /// As [`identity`](Check::identity). Without a gradient, the derivative is compared with 0.
    fn compare(
        &mut self,
        tape: &Tape,
        (y, ct): (Value, Value),
        x: Value,
        gradient: Option<Vec<f64>>,
    ) -> Result<(), String> {
        let tangent = random(&mut self.draws, tape.shape(x));
        let name = source_name(tape, x);
        let middle = self.sources[&name].clone();
        let mut at = |distance: f64| {
            let moved = middle.iter().zip(&tangent).map(|(x, v)| x + distance * v).collect();
            self.sources.insert(name.clone(), moved);
            self.eval(tape, y)
        };
        let (up, down) = (at(STEP)?, at(-STEP)?);
        self.sources.insert(name.clone(), middle);
        let jvp: Vec<f64> = up.iter().zip(&down).map(|(up, down)| (up - down) / (2.0 * STEP)).collect();
        let ct = self.eval(tape, ct)?;
        let gradient = gradient.unwrap_or_else(|| vec![0.0; tangent.len()]);

        let (numeric, recorded) = (dot(&ct, &jvp), dot(&gradient, &tangent));
        // The rounding error of the difference scales with the two values subtracted.
        let scale = norm(&ct) * (norm(&jvp) + norm(&up)) + norm(&gradient) * norm(&tangent);
        let holds = (numeric - recorded).abs() <= TOLERANCE * scale.max(1e-3);
        if holds {
            return Ok(());
        }
        Err(format!(
            "{}: by {name}, the definition's derivative is {numeric:e} along a random tangent, the rule's {recorded:e} \
             (seed {})",
            self.case, self.seed
        ))
    }

    /// Differentiates the cotangent `gradient` of input `first` again, by every source it can depend on.
    fn second_order(
        &mut self,
        tape: &mut Tape,
        first: usize,
        gradient: Value,
        sources: &[Value],
        report: &mut RuleReport,
    ) -> Result<(), String> {
        let name = format!("u{first}");
        let u = tape.feed(&name, tape.shape(gradient).clone());
        let data = random(&mut self.draws, tape.shape(u));
        self.sources.insert(name, data);
        for (second, &source) in sources.iter().enumerate() {
            match tape.pull_back(gradient, u, &[source]) {
                Ok(again) => {
                    self.identity(tape, (gradient, u), (source, again[0]))?;
                    report.second.push([first, second]);
                }
                // The tape records no dependence, so the derivative must be 0.
                Err(GradError::Independent { .. }) => self.compare(tape, (gradient, u), source, None)?,
                Err(GradError::MissingRule { primitive, .. }) => {
                    report.second_missing.push(([first, second], primitive));
                }
            }
        }
        Ok(())
    }

    /// The cotangent of a value used twice is the sum over both uses: y(x) + y(x) against 2·y(x).
    fn accumulation(&mut self, report: &RuleReport) -> Result<(), String> {
        let Some(&index) = report.inputs.first() else { return Ok(()) };
        let mut tape = Tape::new();
        let inputs: Vec<Value> = self
            .case
            .inputs
            .iter()
            .enumerate()
            .map(|(index, input)| tape.feed(&format!("x{index}"), input.shape.clone()))
            .collect();
        let [once, again] = [0, 1].map(|_| tape.apply(self.case.primitive.clone(), &inputs));
        let sum = tape.add(once, again);
        let ct = tape.feed("ct", self.case.output());
        let gradient = tape.pull_back(sum, ct, &[inputs[index]]).map_err(|error| error.to_string())?[0];
        self.identity(&tape, (sum, ct), (inputs[index], gradient))
    }
}

fn source_name(tape: &Tape, value: Value) -> String {
    match &tape.node(value).origin {
        crate::engine::tape::Origin::Feed(name) => name.to_string(),
        _ => unreachable!("only feeds are differentiated by"),
    }
}

fn random(draws: &mut Draws, shape: &Shape) -> Vec<f64> {
    (0..shape.count()).map(|_| draws.uniform(-1.0, 1.0)).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn norm(a: &[f64]) -> f64 {
    dot(a, a).sqrt()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::engine::case::Input;
    use crate::engine::tape::{Arithmetic, Array, Primitive};

    /// a · b, with a settable declaration for b.
    #[derive(Debug)]
    struct Product(Cotangent);

    impl Primitive for Product {
        fn name(&self) -> &'static str {
            "planted/product"
        }

        fn shape(&self, inputs: &[&Shape]) -> Result<Shape, String> {
            Ok(inputs[0].clone())
        }

        fn vjp(&self, tape: &mut Tape, at: Application) -> Vec<Cotangent> {
            vec![Cotangent::Of(tape.mul(at.cotangent, at.inputs[1])), self.0]
        }

        fn eval(&self, inputs: &[Array], _: &Shape) -> Vec<f64> {
            inputs[0].data.iter().zip(inputs[1].data).map(|(a, b)| a * b).collect()
        }

        fn bound(&self, _: &[Array], output: &Shape, _: Arithmetic) -> Vec<f64> {
            vec![0.0; output.count()]
        }
    }

    fn checked(declared: Cotangent, says: Description) -> Result<RuleReport, String> {
        let input = Input { shape: [2, 3].into(), fill: Fill::ANY, edges: Fill::ANY };
        let primitive = Arc::new(Product(declared));
        let case = Case { name: "planted/product()".into(), primitive, inputs: vec![input.clone(), input], says };
        check_rule(&case, 1)
    }

    #[test]
    fn a_forgotten_cotangent_fails() {
        let says = Description { constant: &[1], ..Description::default() };
        let failure = checked(Cotangent::None, says).unwrap_err();
        assert!(
            failure.contains("by x1, the definition's derivative is") && failure.contains("the rule's 0e0"),
            "{failure}"
        );
        // These two declarations are not compared with anything, so the family must state them.
        let says = Description { stationary: &[1], ..Description::default() };
        assert_eq!(checked(Cotangent::Stationary, says).unwrap().stationary, [1]);
        let says = Description { without_rule: &[1], ..Description::default() };
        assert_eq!(checked(Cotangent::Missing, says).unwrap().missing, [1]);
        for declared in [Cotangent::None, Cotangent::Stationary, Cotangent::Missing] {
            let failure = checked(declared, Description::default()).unwrap_err();
            assert!(failure.contains("its family declares otherwise"), "{failure}");
        }
    }
}
