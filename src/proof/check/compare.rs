//! Compares device output with the reference. A NaN always fails.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::pattern;
use crate::engine::bounds::{TINY, ULP};
use crate::engine::tensor::Tensor;

/// What differs: the first element outside its bound, and what all such elements have in common.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mismatch {
    pub coordinates: Vec<usize>,
    #[serde(with = "any_number")]
    pub got: f64,
    #[serde(with = "any_number")]
    pub want: f64,
    #[serde(with = "any_number")]
    pub tolerance: f64,
    /// [elements outside their bounds, elements compared].
    pub bad: [usize; 2],
    /// All elements, of which those compared may be a sample.
    pub elements: usize,
    /// Such as `axis 2 is 0`; empty if nothing confines them.
    pub pattern: Vec<String>,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Mismatch { coordinates, got, want, tolerance, bad: [bad, all], elements, pattern } = self;
        let are = if *bad == 1 { "is" } else { "are" };
        match all == elements {
            true => write!(f, "{bad} of {all} elements {are} wrong")?,
            false => write!(f, "{bad} of {all} elements, a sample of {elements}, {are} wrong")?,
        }
        if !pattern.is_empty() {
            write!(f, " ({})", pattern.join(", "))?;
        }
        write!(f, ", the first at {coordinates:?}: got {}, want {}", number(*got), number(*want))?;
        if *tolerance == 0.0 { Ok(()) } else { write!(f, " ± {}", number(*tolerance)) }
    }
}

/// A number as people write it.
fn number(x: f64) -> String {
    let magnitude = x.abs();
    // What f32 has of it.
    let short = x as f32;
    match magnitude == 0.0 || (1e-3..1e6).contains(&magnitude) {
        true => short.to_string(),
        false => format!("{short:e}"),
    }
}

/// Numbers in JSON, which has no NaN and no infinities: these are strings.
mod any_number {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Any {
        Number(f64),
        Other(String),
    }

    pub fn serialize<S: Serializer>(x: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        if x.is_finite() { Any::Number(*x) } else { Any::Other(x.to_string()) }.serialize(serializer)
    }

    pub fn deserialize<'a, D: Deserializer<'a>>(deserializer: D) -> Result<f64, D::Error> {
        match Any::deserialize(deserializer)? {
            Any::Number(x) => Ok(x),
            Any::Other(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

fn is_within(got: f32, want: f64, tolerance: f64) -> bool {
    (f64::from(got) - want).abs() <= tolerance
}

/// Compares each element of `got` with `want`, within its tolerance.
///
/// # Errors
/// What differs.
///
/// # Panics
/// When the lengths differ.
pub fn compare(got: &Tensor, want: &[f64], tolerance: &[f64]) -> Result<(), Mismatch> {
    assert!(
        got.data().len() == want.len() && want.len() == tolerance.len(),
        "one reference and one tolerance an element"
    );
    compare_at(got, 0..want.len(), |index| (want[index], tolerance[index]))
}

/// The same for the elements in `looked_at`; `reference` gives what the one at each place there should be, and its tolerance.
pub(super) fn compare_at(
    got: &Tensor,
    looked_at: impl Iterator<Item = usize> + Clone,
    reference: impl Fn(usize) -> (f64, f64),
) -> Result<(), Mismatch> {
    let data = got.data();
    let is_bad = |&(place, element): &(usize, usize)| {
        let (want, tolerance) = reference(place);
        !is_within(data[element], want, tolerance)
    };
    let bad: Vec<(usize, usize)> = looked_at.clone().enumerate().filter(is_bad).collect();
    let Some(&(place, element)) = bad.first() else { return Ok(()) };
    let elements: Vec<usize> = bad.iter().map(|&(_, element)| element).collect();
    let pairs = bad.iter().map(|&(place, element)| (data[element].into(), reference(place).0));
    let pattern = pattern::common(got.shape(), &elements, looked_at.clone(), pairs);
    let (want, tolerance) = reference(place);
    Err(Mismatch {
        coordinates: got.shape().coordinates(element),
        got: data[element].into(),
        want,
        tolerance,
        bad: [bad.len(), looked_at.count()],
        elements: data.len(),
        pattern,
    })
}

/// Checks that the comparison of this element can fail: with the reference moved by ten tolerances, and with a NaN.
///
/// # Errors
/// A sentence, if it accepts either.
pub fn control(got: &Tensor, element: usize, want: f64, tolerance: f64) -> Result<(), String> {
    let one = |x: f32| Tensor::scalar(x);
    let value = got.data()[element];
    let moved = want + 10.0 * tolerance.max(ULP * want.abs()).max(TINY);
    let place = || format!("at {:?}", got.shape().coordinates(element));
    if compare(&one(value), &[moved], &[tolerance]).is_ok() {
        return Err(format!("the comparison accepts a reference moved by ten tolerances {}", place()));
    }
    if compare(&one(f32::NAN), &[want], &[tolerance]).is_ok() {
        return Err(format!("the comparison accepts a NaN {}", place()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numbers_within_tolerance_pass() {
        let one = Tensor::new([2, 1], vec![0.0, 1.0]);
        assert!(compare(&one, &[0.0, 1.1], &[0.0, 0.2]).is_ok());
        let mismatch = compare(&one, &[0.0, 1.1], &[0.0, 0.05]).unwrap_err();
        assert_eq!((mismatch.coordinates.as_slice(), mismatch.bad), ([1, 0].as_slice(), [1, 2]));
        for (got, want, tolerance) in [
            (f32::NAN, 1.0, 1.0),
            (1.0, f64::NAN, 1.0),
            (1.0, 1.0, f64::NAN),
            (f32::NAN, 1.0, f64::INFINITY),
            (f32::INFINITY, 1.0, 1.0),
        ] {
            assert!(compare(&Tensor::scalar(got), &[want], &[tolerance]).is_err(), "{got} {want} {tolerance}");
        }
    }

    #[test]
    fn a_sample_is_compared_at_its_elements() {
        let got = Tensor::new([2, 3], vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        let sample = [1usize, 5];
        let at = |want: [f64; 2]| compare_at(&got, sample.into_iter(), |place| (want[place], 0.0));
        assert_eq!(at([1.0, 5.0]), Ok(()));
        let mismatch = at([1.0, 6.0]).unwrap_err();
        assert_eq!((mismatch.coordinates.as_slice(), mismatch.bad, mismatch.got), ([1, 2].as_slice(), [1, 2], 5.0));
    }

    #[test]
    fn the_control_detects_an_infinite_bound() {
        let one = Tensor::scalar(1.0);
        assert!(control(&one, 0, 1.0, 0.0).is_ok());
        assert!(control(&one, 0, 1.0, 1e-6).is_ok());
        assert!(control(&one, 0, 1.0, f64::INFINITY).is_err());
    }

    #[cfg(feature = "program")]
    #[test]
    fn mismatches_survive_json_with_what_it_has_no_numbers_for() {
        let one = compare(&Tensor::scalar(f32::NAN), &[f64::NEG_INFINITY], &[0.1]).unwrap_err();
        let json = serde_json::to_string(&one).unwrap();
        assert!(json.contains("\"NaN\"") && json.contains("\"-inf\""), "{json}");
        let again: Mismatch = serde_json::from_str(&json).unwrap();
        assert!(again.got.is_nan() && again.want == f64::NEG_INFINITY && again.tolerance == 0.1);
    }

    #[test]
    fn numbers_are_written_as_people_write_them() {
        for (x, text) in [(-3.0, "-3"), (0.1, "0.1"), (1e-9, "1e-9"), (f64::NAN, "NaN"), (0.0, "0"), (2.5e8, "2.5e8")] {
            assert_eq!(number(x), text);
        }
    }
}
