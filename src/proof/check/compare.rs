//! Compares device output with the reference. A NaN always fails.

use std::fmt;

use crate::engine::bounds::{TINY, ULP};
use crate::engine::tensor::{Shape, Tensor};

/// The first element outside its bound.
#[derive(Clone, Debug, PartialEq)]
pub struct Mismatch {
    pub coordinates: Vec<usize>,
    pub got: f32,
    pub want: f64,
    pub tolerance: f64,
    /// [elements outside their bounds, all elements].
    pub bad: [usize; 2],
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Mismatch { coordinates, got, want, tolerance, bad: [bad, all] } = self;
        write!(f, "at {coordinates:?}: got {got:e}, want {want:e} ± {tolerance:e} ({bad} of {all} elements are wrong)")
    }
}

fn is_within(got: f32, want: f64, tolerance: f64) -> bool {
    (f64::from(got) - want).abs() <= tolerance
}

/// Compares each element of `got` with `want`, within its tolerance.
///
/// # Errors
/// The first element outside its tolerance.
///
/// # Panics
/// When the lengths differ.
pub fn compare(got: &Tensor, want: &[f64], tolerance: &[f64]) -> Result<(), Mismatch> {
    let data = got.data();
    assert!(data.len() == want.len() && want.len() == tolerance.len(), "one reference and one tolerance an element");
    let is_bad = |&index: &usize| !is_within(data[index], want[index], tolerance[index]);
    let Some(first) = (0..data.len()).find(is_bad) else { return Ok(()) };
    Err(Mismatch {
        coordinates: got.shape().coordinates(first),
        got: data[first],
        want: want[first],
        tolerance: tolerance[first],
        bad: [(first..data.len()).filter(is_bad).count(), data.len()],
    })
}

/// Checks that [`compare`] can fail here: with one element of the reference moved by ten tolerances, and with a NaN.
///
/// # Errors
/// A sentence, if it accepts either.
pub fn control(got: &Tensor, want: &[f64], tolerance: &[f64], element: usize) -> Result<(), String> {
    let mut moved = want.to_vec();
    moved[element] += 10.0 * tolerance[element].max(ULP * want[element].abs()).max(TINY);
    if compare(got, &moved, tolerance).is_ok() {
        return Err(format!("the comparison accepts a reference moved by ten tolerances {}", place(got, element)));
    }
    let mut poisoned = got.clone().into_data();
    poisoned[element] = f32::NAN;
    if compare(&Tensor::new(got.shape().clone(), poisoned), want, tolerance).is_ok() {
        return Err(format!("the comparison accepts a NaN {}", place(got, element)));
    }
    Ok(())
}

fn place(tensor: &Tensor, element: usize) -> String {
    let shape: &Shape = tensor.shape();
    format!("at {:?}", shape.coordinates(element))
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
    fn the_control_detects_an_infinite_bound() {
        let one = Tensor::scalar(1.0);
        assert!(control(&one, &[1.0], &[0.0], 0).is_ok());
        assert!(control(&one, &[1.0], &[1e-6], 0).is_ok());
        assert!(control(&one, &[1.0], &[f64::INFINITY], 0).is_err());
    }
}
