//! What a kernel left, against what was expected. A NaN fails unless the reference has one too.

use std::fmt;

use half::f16;
use serde::Serialize;

use super::interface::Number;
use super::{Expected, Value};
use crate::engine::bounds::{TINY, ULP};
use crate::proof::check::pattern;

/// What elements without contents hold before each of the two runs: NaN as f32, and integers that no kernel means.
const UNWRITTEN: [u32; 2] = [0x7fca_cafe, 0x7fcb_face];
const UNWRITTEN_HALVES: [u16; 2] = [0x7dca, 0x7dcb];

impl Number {
    /// What an element without contents holds before the first or the second run.
    pub fn unwritten(self, run: usize) -> Vec<u8> {
        match self {
            Number::F16 => UNWRITTEN_HALVES[run].to_le_bytes().to_vec(),
            Number::F32 | Number::I32 | Number::U32 => UNWRITTEN[run].to_le_bytes().to_vec(),
        }
    }

    fn read(self, bytes: &[u8]) -> f64 {
        match (self, bytes) {
            (Number::F16, &[a, b]) => f16::from_le_bytes([a, b]).to_f64(),
            (Number::F32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]).into(),
            (Number::I32, &[a, b, c, d]) => i32::from_le_bytes([a, b, c, d]).into(),
            (Number::U32, &[a, b, c, d]) => u32::from_le_bytes([a, b, c, d]).into(),
            _ => unreachable!("an element has as many bytes as its type"),
        }
    }

    /// In as few digits as tell it from its neighbours.
    fn show(self, number: f64) -> String {
        match self {
            Number::I32 | Number::U32 => number.to_string(),
            Number::F16 | Number::F32 if f64::from(number as f32) == number => format!("{:e}", number as f32),
            Number::F16 | Number::F32 => format!("{number:e}"),
        }
    }
}

/// Elements outside their tolerance, and the first of them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Wrong {
    pub elements: usize,
    pub coordinates: Vec<usize>,
    pub got: f64,
    pub want: f64,
    pub tolerance: f64,
    /// In words, to the last digit.
    pub text: String,
    /// What all of them have in common, such as `axis 2 is 0`; empty if nothing confines them.
    pub pattern: Vec<String>,
}

/// How an output compares.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Compared {
    /// The tolerance, in words.
    pub bound: String,
    /// Of both runs; infinite where a NaN or an infinity is wrong.
    pub largest_error: f64,
    /// The largest error as a share of its element's tolerance.
    pub largest_share: f64,
    pub wrong: Option<Wrong>,
    /// Elements that were never written, of those without contents.
    pub unwritten: usize,
    /// Whether zeros would hold as well.
    pub is_vacuous: bool,
    /// Why the comparison says nothing, if it accepted a wrong answer.
    pub control: Option<String>,
}

/// A variable, or a member of one, that the kernel may write.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Output {
    pub name: String,
    /// `f32`, `f16`, `i32` or `u32`.
    pub element: &'static str,
    pub shape: Vec<usize>,
    /// Elements that are not equal, bit for bit, after both runs.
    pub undetermined: usize,
    /// `None` where the file expects nothing of it.
    pub compared: Option<Compared>,
}

impl Output {
    /// What the two runs left of a value, in the bytes of its buffer.
    pub(super) fn of(value: &Value, runs: [&[u8]; 2]) -> Output {
        let number = value.number;
        let element = |run: usize, place: &u64| &runs[run][*place as usize..*place as usize + number.bytes()];
        let is_unwritten =
            |place: &&u64| !value.is_given && [0, 1].iter().all(|run| element(*run, place) == number.unwritten(*run));
        let unwritten = value.places.iter().filter(is_unwritten).count();
        let differs = |place: &&u64| element(0, place) != element(1, place) && !is_unwritten(place);
        Output {
            name: value.name.clone(),
            element: number.name(),
            shape: value.shape.to_vec(),
            undetermined: value.places.iter().filter(differs).count(),
            compared: value.expected.as_ref().map(|expected| {
                let got = [0, 1].map(|run| value.places.iter().map(|it| number.read(element(run, it))).collect());
                compare(value, expected, &got, unwritten)
            }),
        }
    }

    /// Whether every element is within its tolerance, by a comparison that refused wrong answers.
    pub fn holds(&self) -> bool {
        self.compared.as_ref().is_none_or(|it| it.wrong.is_none() && it.control.is_none())
    }
}

/// How far apart two numbers are; infinitely where one is NaN or infinite and the other is not the same.
fn error(got: f64, want: f64) -> f64 {
    let error = (got - want).abs();
    match got == want || (got.is_nan() && want.is_nan()) {
        true => 0.0,
        false if error.is_nan() => f64::INFINITY,
        false => error,
    }
}

/// The elements outside their tolerance.
fn outside<'a>(got: &'a [f64], Expected { want, tolerance, .. }: &'a Expected) -> impl Iterator<Item = usize> + 'a {
    (0..want.len()).filter(|&at| error(got[at], want[at]) > tolerance[at])
}

fn compare(value: &Value, expected: &Expected, runs: &[Vec<f64>; 2], unwritten: usize) -> Compared {
    let Expected { want, tolerance, bound } = expected;
    let errors = runs.iter().flat_map(|got| (0..want.len()).map(|at| (error(got[at], want[at]), tolerance[at])));
    let (mut largest_error, mut largest_share) = (0.0, 0.0);
    for (error, tolerance) in errors.filter(|(error, _)| *error > 0.0) {
        largest_error = f64::max(largest_error, error);
        largest_share = f64::max(largest_share, error / tolerance);
    }
    let wrong = runs.iter().find_map(|got| {
        let all: Vec<usize> = outside(got, expected).collect();
        let first = *all.first()?;
        let pairs = all.iter().map(|&at| (got[at], want[at]));
        let pattern = pattern::common(&value.shape, &all, 0..want.len(), pairs);
        let (number, coordinates) = (value.number, value.shape.coordinates(first));
        let [shown, wanted] = [got[first], want[first]].map(|it| number.show(it));
        let text = format!("at {coordinates:?}: got {shown}, want {wanted} ± {:e}", tolerance[first]);
        let (got, want, tolerance) = (got[first], want[first], tolerance[first]);
        Some(Wrong { elements: all.len(), coordinates, got, want, tolerance, text, pattern })
    });
    Compared {
        bound: bound.clone(),
        largest_error,
        largest_share,
        is_vacuous: outside(&vec![0.0; want.len()], expected).next().is_none(),
        control: if wrong.is_none() { control(value, expected, &runs[0]).err() } else { None },
        wrong,
        unwritten,
    }
}

/// Checks that the comparison refuses wrong answers: the element with the largest tolerance moved by ten tolerances, and made
/// NaN, or a number where NaN is wanted.
fn control(value: &Value, expected: &Expected, got: &[f64]) -> Result<(), String> {
    let Expected { want, tolerance, .. } = expected;
    let largest = (0..want.len()).max_by(|a, b| tolerance[*a].total_cmp(&tolerance[*b]));
    let Some(at) = largest else { return Ok(()) };
    let step = 10.0 * tolerance[at].max(ULP * want[at].abs()).max(TINY);
    let poisons = match want[at] {
        want if want.is_nan() => vec![0.0, f64::INFINITY],
        want if want.is_infinite() => vec![0.0, -want, f64::NAN],
        want => vec![want + step, want - step, f64::NAN, f64::INFINITY],
    };
    for poison in poisons {
        let mut poisoned = got.to_vec();
        poisoned[at] = poison;
        if !outside(&poisoned, expected).any(|wrong| wrong == at) {
            let (place, poison) = (value.shape.coordinates(at), value.number.show(poison));
            return Err(format!("the comparison accepts {poison} at {place:?}, where {} is wanted", want[at]));
        }
    }
    Ok(())
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Output { name, element, shape, undetermined, compared } = self;
        let all = shape.iter().product::<usize>();
        let it = format!("{name}: {element} {shape:?}");
        match compared {
            None => write!(f, "note    {it} is not compared: the file has no `{name}.after`")?,
            Some(Compared { control: Some(control), .. }) => write!(f, "FAILED  {it}: {control}")?,
            Some(Compared { wrong: Some(wrong), unwritten, largest_error, bound, .. }) => {
                let Wrong { elements, text, pattern, .. } = wrong;
                write!(f, "FAILED  {it}: {elements} of {all} elements {} wrong", are(*elements))?;
                if !pattern.is_empty() {
                    write!(f, " ({})", pattern.join(", "))?;
                }
                write!(f, ", the first {text}")?;
                if *unwritten > 0 {
                    write!(f, "; {unwritten} {} never written", if *unwritten == 1 { "was" } else { "were" })?;
                }
                write!(f, "; the largest error is {largest_error:.2e}, the tolerance {bound}")?;
            }
            Some(Compared { largest_error, largest_share, bound, is_vacuous, .. }) => {
                write!(f, "holds   {it}: largest error {largest_error:.2e}")?;
                if *largest_error > 0.0 {
                    write!(f, ", {largest_share:.2} of its tolerance")?;
                }
                write!(f, " ({bound})")?;
                if *is_vacuous {
                    write!(f, "\nnote    {name}: zeros would hold as well")?;
                }
            }
        }
        match undetermined {
            0 => Ok(()),
            some => write!(
                f,
                "\nnote    {name}: {some} of {all} elements {} undetermined, with other values in the second run",
                are(*some)
            ),
        }
    }
}

fn are(count: usize) -> &'static str {
    if count == 1 { "is" } else { "are" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::tensor::Shape;

    fn value() -> Value {
        Value {
            name: "y".into(),
            number: Number::F32,
            shape: Shape::from([2]),
            buffer: 0,
            places: vec![0, 4],
            is_given: true,
            expected: None,
        }
    }

    fn expected(want: [f64; 2], tolerance: f64) -> Expected {
        Expected { want: want.to_vec(), tolerance: vec![tolerance; 2], bound: String::new() }
    }

    #[test]
    fn the_control_detects_a_comparison_that_takes_everything() {
        for want in [[1.0, 2.0], [0.0, 0.0], [f64::NAN, f64::INFINITY], [f64::NEG_INFINITY, 1e30]] {
            for tolerance in [0.0, 1e-6, 1e9] {
                assert_eq!(control(&value(), &expected(want, tolerance), &want), Ok(()), "{want:?}");
            }
        }
        let refused = control(&value(), &expected([1.0, 2.0], f64::INFINITY), &[1.0, 2.0]).unwrap_err();
        assert!(refused.contains("accepts"), "{refused}");
        // Then the output does not hold, though no element is outside.
        let endless = compare(&value(), &expected([1.0, 2.0], f64::INFINITY), &[vec![1.0, 2.0], vec![1.0, 2.0]], 0);
        assert!(endless.wrong.is_none() && endless.control.is_some());
    }

    #[test]
    fn the_worse_of_two_runs_counts() {
        let right = vec![1.0, 2.0];
        for (runs, is_right) in [
            ([right.clone(), right.clone()], true),
            ([right.clone(), vec![1.0, 2.5]], false),
            ([vec![f64::NAN, 2.0], right], false),
        ] {
            let compared = compare(&value(), &expected([1.0, 2.0], 0.1), &runs, 0);
            assert_eq!((compared.wrong.is_none(), compared.largest_share <= 1.0), (is_right, is_right), "{compared:?}");
        }
    }

    #[test]
    fn what_wrong_elements_share_is_told() {
        let compared = |got: [f64; 2]| compare(&value(), &expected([1.0, 2.0], 0.1), &[got.to_vec(), got.to_vec()], 0);
        let pattern = |got| compared(got).wrong.unwrap().pattern;
        assert_eq!(pattern([1.0, 2.5]), [""; 0]);
        assert_eq!(pattern([3.0, 6.0]), ["all are 3.000000 times what they should be"]);
        let of_both = compared([f64::NAN, f64::NAN]);
        let output =
            Output { name: "y".into(), element: "f32", shape: vec![2], undetermined: 0, compared: Some(of_both) };
        let told = "2 of 2 elements are wrong (all are NaN), the first at [0]";
        assert!(output.to_string().contains(told), "{output}");
    }
}
