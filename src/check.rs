//! Error bounds of f32 arithmetic as WGSL promises it, from which every tolerance is derived.
//!
//! Source: "Floating Point Accuracy" in the WGSL specification. Sums, differences and products are *correctly rounded*
//! in WGSL's sense: either neighbour of the exact result, so the relative error reaches one unit in the last place.

/// One unit in the last place, relative to the value: the error of one WGSL operation.
pub const ULP: f64 = 1.0 / (1u32 << 23) as f64;

/// Results below this may be flushed to zero.
pub const TINY: f64 = f32::MIN_POSITIVE as f64;

/// Error of an f32 sum of `terms` products, of which the absolute values sum to `magnitude`.
///
/// Rounding errors of either sign accumulate like √n; each product and its addition contribute a rounding of their own.
pub fn sum_bound(terms: usize, magnitude: f64) -> f64 {
    ((terms as f64).sqrt() + 1.0) * ULP * magnitude + terms as f64 * TINY
}

/// Error of a result reached by `roundings` dependent operations on values up to `magnitude`.
pub fn chain_bound(roundings: usize, magnitude: f64) -> f64 {
    roundings as f64 * (ULP * magnitude + TINY)
}

/// Error of WGSL's `exp(x)`: 3 + 2·|x| ULP of the result.
pub fn exp_bound(x: f64) -> f64 {
    (3.0 + 2.0 * x.abs()) * ULP * x.exp() + TINY
}

/// Error of WGSL's `log(x)`: 2⁻²¹ absolute on [0.5, 2], 3 ULP of the result elsewhere.
pub fn log_bound(x: f64) -> f64 {
    if (0.5..=2.0).contains(&x) { 2f64.powi(-21) } else { 3.0 * ULP * x.ln().abs() }
}
