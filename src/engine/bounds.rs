//! Error bounds of f32 arithmetic under WGSL's rules; every tolerance is derived from them.
//!
//! Source: "Floating Point Accuracy" in the WGSL specification. Sums, differences and products are *correctly rounded*
//! in WGSL's sense: either neighbour of the exact result, so the relative error reaches one unit in the last place.
//! Subnormal numbers may be flushed to zero anywhere.

use std::ops::{Add, Div, Mul, Neg, Sub};

use crate::engine::tape::{Arithmetic, Array};

/// One unit in the last place, relative to the value: the error of one WGSL operation.
pub const ULP: f64 = 1.0 / (1u32 << 23) as f64;

/// Results below this may be flushed to zero.
pub const TINY: f64 = f32::MIN_POSITIVE as f64;

/// Error of an f32 sum, in any order, of `terms` products whose absolute values sum to `magnitude`.
///
/// The products contribute one ULP of `magnitude` together. A chain of n additions contributes at most n ULP, which is
/// the bound up to four terms. Longer chains are bounded by 2·√n. If roundings have random directions, the worst case
/// (equal signs, evenly growing partial sums) has a standard deviation of √(n/3) roundings; one rounding deviates by
/// 1/√3 of the gap between neighbours, which is 0.73 ULP in root mean square. That gives 0.25·√n ULP, and 2·√n is eight
/// of these deviations (Higham and Mary, "A New Approach to Probabilistic Rounding Error Analysis", 2019).
pub fn sum_bound(terms: usize, magnitude: f64) -> f64 {
    let n = terms as f64;
    (1.0 + n.min(2.0 * n.sqrt())) * ULP * magnitude + 2.0 * n * TINY
}

/// Error of sums of `terms` products, which `eval` computes from its two inputs.
///
/// For f32 it is [`sum_bound`]. Matrix units round the factors to f16; their products are exact in f32. The units align
/// the products of a block and the running sum to the largest of them and truncate the rest towards zero (Fasi et al.,
/// "Numerical Behavior of NVIDIA Tensor Cores", 2021). Truncation has no random direction, unlike the roundings in
/// [`sum_bound`], so each term counts in full: one ULP for its own truncation and one for the sum's.
pub fn product_bound(
    arithmetic: Arithmetic,
    terms: usize,
    inputs: &[Array],
    eval: impl Fn(&[Array]) -> Vec<f64>,
) -> Vec<f64> {
    let sums = |magnitude: fn(f64) -> f64| {
        let data: Vec<Vec<f64>> =
            inputs.iter().map(|input| input.data.iter().map(|&x| magnitude(x)).collect()).collect();
        let arrays: Vec<Array> =
            inputs.iter().zip(&data).map(|(input, data)| Array { shape: input.shape, data }).collect();
        eval(&arrays)
    };
    let plain = sums(f64::abs);
    match arithmetic {
        Arithmetic::F32 => plain.into_iter().map(|sum| sum_bound(terms, sum)).collect(),
        Arithmetic::MatrixUnits => {
            let n = terms as f64;
            let bound = |(plain, largest): (f64, f64)| largest - plain + 2.0 * n * (ULP * largest + TINY);
            plain.into_iter().zip(sums(|x| x.abs() + f16_error(x))).map(bound).collect()
        }
    }
}

/// The smallest normal f16.
const F16_TINY: f64 = 1.0 / (1u32 << 14) as f64;

/// For `x ≥ 0`, the f16 at or below it and the next one above.
pub fn f16_neighbours(x: f64) -> [f64; 2] {
    let unit = x.max(F16_TINY).log2().floor().exp2() / 1024.0;
    let below = (x / unit).floor() * unit;
    [below, below + unit]
}

/// Error of WGSL's conversion of an f32 to f16: the result is either neighbour, subnormals included, and infinite
/// beyond 65504. WGSL would also allow flushing subnormals to 0. Loss scaling relies on devices that do not, so the
/// bound excludes it and the check finds such a device.
fn f16_error(x: f64) -> f64 {
    let x = x.abs();
    let [below, above] = f16_neighbours(x);
    match x {
        _ if x > 65_504.0 => f64::INFINITY,
        _ if x == below => 0.0,
        _ => (x - below).max(above - x),
    }
}

/// Error bound of a value that is within `error` of this one and then stored as f16.
pub fn stored_f16_bound(value: f64, error: f64) -> f64 {
    let largest = value.abs() + error;
    let [below, above] = f16_neighbours(largest);
    match error {
        0.0 => f16_error(value),
        _ if largest > 65_504.0 => f64::INFINITY,
        _ => error + above - below,
    }
}

/// The nearest f16 of a number between ±65504, the lower one in a tie. NaN and infinities are unchanged.
pub fn to_f16(x: f32) -> f32 {
    if !x.is_finite() {
        return x;
    }
    let magnitude = f64::from(x.abs());
    let [below, above] = f16_neighbours(magnitude);
    let nearest = if magnitude - below <= above - magnitude { below } else { above };
    (nearest as f32).copysign(x)
}

/// Error of a result after `roundings` dependent operations on values up to `magnitude`.
pub fn chain_bound(roundings: usize, magnitude: f64) -> f64 {
    roundings as f64 * (ULP * magnitude + TINY)
}

/// A number in f32 arithmetic: within `error` of the exact `value`.
///
/// Arithmetic on these composes the accuracies of the specification: evaluate a kernel's formula, and the error of the
/// result is its bound. The error is infinite where the specification gives no accuracy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Approx {
    pub value: f64,
    pub error: f64,
}

impl Approx {
    /// An f32 read from memory.
    pub fn exact(value: f64) -> Self {
        let flushed = if value.abs() < TINY { value.abs() } else { 0.0 };
        Approx { value, error: flushed }
    }

    /// A constant, rounded to f32 by the compiler.
    pub fn rounded(value: f64) -> Self {
        let nearest = f64::from(value as f32);
        Approx { value, error: (value - nearest).abs() + Approx::exact(nearest).error }
    }

    /// Whether it is 0, without error.
    fn is_zero(self) -> bool {
        self.value == 0.0 && self.error == 0.0
    }

    /// The result of an operation accurate to `ulps`, given the error `inherited` from its operands.
    fn operation(value: f64, inherited: f64, ulps: f64) -> Self {
        let largest = value.abs() + inherited;
        let error = inherited + ulps * ULP * largest + TINY;
        // Beyond the largest f32 the result is indeterminate.
        let defined = largest + error <= f64::from(f32::MAX);
        Approx { value, error: if defined { error } else { f64::INFINITY } }
    }

    /// Largest change of a monotonic `f` from the middle of the interval to its ends.
    fn spread(self, f: impl Fn(f64) -> f64) -> f64 {
        let middle = f(self.value);
        let distance = |x: f64| (f(x) - middle).abs();
        distance(self.value - self.error).max(distance(self.value + self.error))
    }

    pub fn abs(self) -> Self {
        Approx { value: self.value.abs(), ..self }
    }

    pub fn max(self, other: Self) -> Self {
        Approx { value: self.value.max(other.value), error: self.error.max(other.error) }
    }

    /// 3 + 2·|x| ULP.
    pub fn exp(self) -> Self {
        let ulps = 3.0 + 2.0 * (self.value.abs() + self.error);
        Approx::operation(self.value.exp(), self.spread(f64::exp), ulps)
    }

    /// 2⁻²¹ absolute on [0.5, 2], 3 ULP elsewhere.
    pub fn ln(self) -> Self {
        let (low, high) = (self.value - self.error, self.value + self.error);
        if low < TINY {
            return Approx { value: self.value.ln(), error: f64::INFINITY };
        }
        let mut result = Approx::operation(self.value.ln(), self.spread(f64::ln), 3.0);
        if low <= 2.0 && high >= 0.5 {
            result.error += 2f64.powi(-21);
        }
        result
    }

    /// sqrt inherits its accuracy from 1 / inverseSqrt(x): 2 ULP, the quotient's 2.5, and a little for their product.
    pub fn sqrt(self) -> Self {
        let root = |x: f64| x.max(0.0).sqrt();
        Approx::operation(root(self.value), self.spread(root), 4.5 + 10.0 * ULP)
    }
}

impl Neg for Approx {
    type Output = Self;
    fn neg(self) -> Self {
        Approx { value: -self.value, ..self }
    }
}

impl Add for Approx {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        // Results that f32 has are exact: a sum with 0, and that of a number and its negative.
        if other.is_zero() {
            return self;
        }
        if self.is_zero() || (self.error + other.error == 0.0 && self.value == -other.value) {
            return Approx { value: self.value + other.value, error: other.error };
        }
        Approx::operation(self.value + other.value, self.error + other.error, 1.0)
    }
}

impl Sub for Approx {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        self + -other
    }
}

impl Mul for Approx {
    type Output = Self;
    fn mul(self, other: Self) -> Self {
        let is_finite = |it: Self| it.value.is_finite() && it.error.is_finite();
        if (self.is_zero() && is_finite(other)) || (other.is_zero() && is_finite(self)) {
            return Approx::exact(0.0);
        }
        let inherited = self.value.abs() * other.error + other.value.abs() * self.error + self.error * other.error;
        Approx::operation(self.value * other.value, inherited, 1.0)
    }
}

/// 2.5 ULP for divisors between 2⁻¹²⁶ and 2¹²⁶.
impl Div for Approx {
    type Output = Self;
    fn div(self, other: Self) -> Self {
        let value = self.value / other.value;
        let nearest = other.value.abs() - other.error;
        if nearest < TINY || other.value.abs() + other.error > 2f64.powi(126) {
            return Approx { value, error: f64::INFINITY };
        }
        let inherited = (self.error + value.abs() * other.error) / nearest;
        Approx::operation(value, inherited, 2.5)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::tensor::Shape;

    #[test]
    fn short_sums_are_bounded_rigorously() {
        assert!(sum_bound(3, 1.0) >= 4.0 * ULP);
        assert!(sum_bound(10_000, 1.0) < 202.0 * ULP);
        assert_eq!(sum_bound(0, 0.0), 0.0);
    }

    #[test]
    fn a_stored_half_adds_one_f16_rounding_to_its_error() {
        let nearest = |x: f64| f64::from(to_f16(x as f32));
        for (value, error) in [(1.0003, 1e-6), (-3.7, 1e-3), (1000.4, 0.0), (0.5, 0.0), (3e-5, 1e-9), (0.0, 1e-7)] {
            let bound = stored_f16_bound(value, error);
            for before in [value - error, value, value + error] {
                assert!((nearest(before) - value).abs() <= bound, "{value} {error}");
            }
            assert!(bound <= error + (value.abs() / 512.0).max(1e-7), "{value} {error}: {bound}");
        }
        // A value exact in f16 stays; one beyond the largest may become anything.
        assert_eq!(stored_f16_bound(0.5, 0.0), 0.0);
        assert_eq!(stored_f16_bound(65_504.0, 1.0), f64::INFINITY);
    }

    #[test]
    fn f16_neighbours_of_a_number() {
        assert_eq!(f16_neighbours(1.0), [1.0, 1.0 + 1.0 / 1024.0]);
        assert_eq!(f16_neighbours(2049.0), [2048.0, 2050.0]);
        // Above the largest is only infinity; subnormals are 2⁻²⁴ apart.
        assert_eq!(f16_neighbours(65_504.0), [65_504.0, 65_536.0]);
        assert_eq!(f16_neighbours(1e-7), [1.0 / (1u32 << 24) as f64, 2.0 / (1u32 << 24) as f64]);

        assert_eq!([1.0, -0.5, 65_504.0, 0.0].map(f16_error), [0.0; 4]);
        assert_eq!(f16_error(-2049.0), 1.0);
        assert_eq!(f16_error(65_505.0), f64::INFINITY);
        // Subnormals are kept: the bound is their spacing, not the whole number.
        assert!(f16_error(1e-5) < 6e-8 && f16_error(2e-8) < 6e-8);
        assert_eq!([-0.1f32, 2e-8, 1.0 / 3.0].map(to_f16), [-0.099_975_586, 0.0, 0.333_251_95]);
    }

    #[test]
    fn factors_exact_in_f16_leave_only_the_error_of_the_sums() {
        let shape = Shape::from([2]);
        let product =
            |inputs: &[Array]| vec![inputs[0].data[0] * inputs[1].data[0] + inputs[0].data[1] * inputs[1].data[1]];
        let bound = |data: [[f64; 2]; 2]| {
            let inputs = data.each_ref().map(|data| Array { shape: &shape, data });
            product_bound(Arithmetic::MatrixUnits, 2, &inputs, product)[0]
        };
        assert_eq!(bound([[3.0, -4.0], [0.5, 2.0]]), 4.0 * (ULP * 9.5 + TINY));
        let rounded = bound([[3.0001, -4.0], [0.5, 2.0]]);
        assert!(rounded > 0.5 / 1024.0 && rounded < 1.0 / 1024.0, "{rounded}");
    }

    #[test]
    fn composed_errors_contain_every_rounding() {
        let [a, b] = [0.1f32, 0.3].map(|x| Approx::exact(f64::from(x)));
        assert_eq!(a.error, 0.0);
        let result = (a * b + a).exp() / b;
        let f32_result = (0.1f32 * 0.3 + 0.1).exp() / 0.3;
        assert!((f64::from(f32_result) - result.value).abs() <= result.error);
        assert!(result.error < 10.0 * ULP * result.value, "{result:?}");
        // f32 has these results.
        let zero = Approx::exact(0.0);
        assert_eq!([a - a, a * zero, zero * a + zero].map(|exact| (exact.value, exact.error)), [(0.0, 0.0); 3]);
        assert_eq!([a + zero, zero + a], [a; 2]);
    }

    #[test]
    fn errors_are_infinite_outside_the_domain() {
        let [zero, one, large] = [0.0, 1.0, 3e38].map(Approx::exact);
        assert_eq!((one / zero).error, f64::INFINITY);
        assert_eq!(zero.ln().error, f64::INFINITY);
        assert_eq!((large + large).error, f64::INFINITY);
        assert_eq!((large * large).error, f64::INFINITY);
        assert_eq!((zero * (large + large)).error, f64::INFINITY);
        assert!(Approx::exact(1e-40).error > 0.0);
    }
}
