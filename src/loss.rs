//! Losses, from tape methods only. Embeddings are `[rows, features]`; every loss is a scalar of shape `[]`.
//!
//! Definitions: Yoo, Zhao and Akoglu, arXiv 2306.12033 (normalisation, mean distance); Dowson and Landau, "The Fréchet
//! distance between multivariate normal distributions", 1982 (the Wasserstein distance of two Gaussians; with diagonal
//! covariances its off-diagonal terms are left out).

use std::fmt;

use crate::ops::elementwise::{Binary, Unary};
use crate::tape::{Tape, Value};
use crate::tensor::Tensor;

/// Guards the scale of [`total_distance_normalise`] against a cloud of equal points.
const SCALE_EPSILON: f32 = 1e-6;
/// Variance added to each feature before the root in [`diagonal_w2`].
const RIDGE: f32 = 1e-8;
/// Variance added in every direction by [`gaussian_w2`], which keeps singular values off 0 where gradients have no limit.
const COVARIANCE_RIDGE: f64 = 1e-4;
/// Newton–Schulz steps of [`nuclear_norm`].
const POLAR_STEPS: usize = 32;

/// Binary cross-entropy with logits: mean of softplus(l) − l · target, all of one shape.
pub fn bce_with_logits(t: &mut Tape, logits: Value, targets: Value) -> Value {
    let softplus = t.unary(Unary::Softplus, logits);
    let chosen = t.mul(logits, targets);
    let losses = t.sub(softplus, chosen);
    t.average(losses)
}

/// Centres the rows of `z` and scales them so that their mean squared norm is 1. Gradients flow through mean and scale.
pub fn total_distance_normalise(t: &mut Tape, z: Value) -> Value {
    let rows = t.shape(z)[0];
    let mean = t.mean(z, &[0]);
    let centred = t.sub(z, mean);
    let squares = t.mul(centred, centred);
    let square = t.total(squares);
    let norm = t.unary(Unary::Sqrt, square);
    let guarded = t.offset(norm, SCALE_EPSILON);
    let scale = t.unary(Unary::Reciprocal, guarded);
    let scale = t.scale(scale, (rows as f64).sqrt());
    t.mul(centred, scale)
}

/// How far the training and augmented embeddings are from the unlabelled ones.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Alignment {
    /// The paper's: ½ [ mean_v ‖z_v − mean(Z_trn)‖ + mean_v ‖z_v − mean(Z_aug)‖ ].
    MeanDistance,
    /// Squared 2-Wasserstein distance, diagonal covariances, between (1 − mass) · Z_trn + mass · Z_aug and Z_val. `mass`
    /// stands for the unknown share of anomalies.
    DiagonalW2 { mass: f64 },
    /// The same with full covariances, each plus 1e-4 · I.
    GaussianW2 { mass: f64 },
}

impl fmt::Display for Alignment {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Alignment::MeanDistance => "mean-distance",
            Alignment::DiagonalW2 { .. } => "diagonal-w2",
            Alignment::GaussianW2 { .. } => "gaussian-w2",
        })
    }
}

#[derive(Debug, thiserror::Error)]
#[error("no loss {0}")]
pub struct NameError(String);

impl Alignment {
    pub fn by_name(name: &str, mass: f64) -> Result<Self, NameError> {
        match name {
            "mean-distance" => Ok(Alignment::MeanDistance),
            "diagonal-w2" => Ok(Alignment::DiagonalW2 { mass }),
            "gaussian-w2" => Ok(Alignment::GaussianW2 { mass }),
            _ => Err(NameError(name.into())),
        }
    }

    /// The loss of already normalised rows.
    pub fn record(self, t: &mut Tape, z_trn: Value, z_aug: Value, z_val: Value) -> Value {
        match self {
            Alignment::MeanDistance => mean_distance(t, z_trn, z_aug, z_val),
            Alignment::DiagonalW2 { mass } => diagonal_w2(t, z_trn, z_aug, z_val, mass),
            Alignment::GaussianW2 { mass } => gaussian_w2(t, z_trn, z_aug, z_val, mass),
        }
    }
}

/// Mean over the rows of `z` of the distance to the mean of `to`.
fn distance_to_mean(t: &mut Tape, z: Value, to: Value) -> Value {
    let mean = t.mean(to, &[0]);
    let difference = t.sub(z, mean);
    let squares = t.mul(difference, difference);
    let square = t.sum(squares, &[1]);
    let distance = t.unary(Unary::Sqrt, square);
    t.average(distance)
}

fn mean_distance(t: &mut Tape, z_trn: Value, z_aug: Value, z_val: Value) -> Value {
    let to_trn = distance_to_mean(t, z_val, z_trn);
    let to_aug = distance_to_mean(t, z_val, z_aug);
    let sum = t.add(to_trn, to_aug);
    t.scale(sum, 0.5)
}

/// Mean of `moment` over the mixture of clouds with the given weights, `[1, features]`.
fn mixture_mean(t: &mut Tape, clouds: &[(Value, f64)], moment: fn(&mut Tape, Value) -> Value) -> Value {
    let parts: Vec<Value> = clouds
        .iter()
        .map(|&(z, weight)| {
            let values = moment(t, z);
            let mean = t.mean(values, &[0]);
            t.scale(mean, weight)
        })
        .collect();
    parts.into_iter().reduce(|sum, part| t.add(sum, part)).expect("at least one cloud")
}

/// Mean and standard deviation, `[1, features]`, of the mixture of clouds with the given weights.
fn mixture_moments(t: &mut Tape, clouds: &[(Value, f64)]) -> [Value; 2] {
    let mean = mixture_mean(t, clouds, |_, z| z);
    let second = mixture_mean(t, clouds, |t, z| t.mul(z, z));
    let square = t.mul(mean, mean);
    let variance = t.sub(second, square);
    // Rounding can leave a constant feature with a variance just below 0.
    let variance = t.relu(variance);
    let guarded = t.offset(variance, RIDGE);
    [mean, t.unary(Unary::Sqrt, guarded)]
}

fn diagonal_w2(t: &mut Tape, z_trn: Value, z_aug: Value, z_val: Value, mass: f64) -> Value {
    let [mean, deviation] = mixture_moments(t, &[(z_trn, 1.0 - mass), (z_aug, mass)]);
    let [mean_val, deviation_val] = mixture_moments(t, &[(z_val, 1.0)]);
    let of_means = squared_gap(t, mean, mean_val);
    let of_deviations = squared_gap(t, deviation, deviation_val);
    t.add(of_means, of_deviations)
}

/// ‖a − b‖²
fn squared_gap(t: &mut Tape, a: Value, b: Value) -> Value {
    let gap = t.sub(a, b);
    inner_product(t, gap, gap)
}

/// Σ a · b, a scalar.
fn inner_product(t: &mut Tape, a: Value, b: Value) -> Value {
    let products = t.mul(a, b);
    t.total(products)
}

/// Mean `[1, features]` of a mixture of clouds with the given weights, and a factor F with FᵀF = covariance + ridge · I: the
/// centred rows, each by the root of its own weight, above √ridge · I.
fn mixture_factor(t: &mut Tape, clouds: &[(Value, f64)]) -> [Value; 2] {
    let mean = mixture_mean(t, clouds, |_, z| z);
    let mut parts: Vec<Value> = clouds
        .iter()
        .map(|&(z, weight)| {
            let rows = t.shape(z)[0];
            let centred = t.sub(z, mean);
            t.scale(centred, (weight / rows as f64).sqrt())
        })
        .collect();
    let features = t.shape(mean)[1];
    let identity = (0..features * features).map(|index| if index % (features + 1) == 0 { 1.0 } else { 0.0 }).collect();
    let identity = t.constant(Tensor::new([features, features], identity));
    parts.push(t.scale(identity, COVARIANCE_RIDGE.sqrt()));
    [mean, t.concat(0, &parts)]
}

/// Squared 2-Wasserstein distance of two Gaussians, ‖m − m'‖² + tr A + tr B − 2 · tr (B^½ · A · B^½)^½.
///
/// With A = FᵀF and B = GᵀG the last trace is that of (X · Xᵀ)^½ for X = F · Gᵀ, the sum of X's singular values. No root of a
/// matrix is taken, and X has only the root of the condition number of B^½ · A · B^½, which f32 could not hold: 1e8.
fn gaussian_w2(t: &mut Tape, z_trn: Value, z_aug: Value, z_val: Value, mass: f64) -> Value {
    let [mean, factor] = mixture_factor(t, &[(z_trn, 1.0 - mass), (z_aug, mass)]);
    let [mean_val, factor_val] = mixture_factor(t, &[(z_val, 1.0)]);
    let of_means = squared_gap(t, mean, mean_val);
    let traces = [factor, factor_val].map(|factor| inner_product(t, factor, factor));
    let of_both = t.add(traces[0], traces[1]);
    let cross = t.matmul_transposed(factor, false, factor_val, true);
    let overlap = nuclear_norm(t, cross);
    let overlap = t.scale(overlap, -2.0);
    let of_covariances = t.add(of_both, overlap);
    t.add(of_means, of_covariances)
}

/// Sum of the singular values of the matrix `x`, which must not be 0: ⟨U, x⟩, where U is the orthogonal factor of x's polar
/// decomposition, by Newton–Schulz steps U ← 1.5 · U − 0.5 · U · Uᵀ · U from x / ‖x‖ (Higham, "Functions of Matrices",
/// section 8.3).
///
/// Each step takes every singular value s of U, at most 1, to s · (3 − s²) / 2. A small one grows by 1.5, then 1 − s falls to
/// less than 1.5 · (1 − s)²: after 32 steps all that were at least 5e-5 of ‖x‖ lie within 1e-12 of 1. A value of 0 stays
/// there, and one that rounding has moved off it counts with its own size, not with its root, so no step can diverge.
pub fn nuclear_norm(t: &mut Tape, x: Value) -> Value {
    let square = inner_product(t, x, x);
    let norm = t.unary(Unary::Sqrt, square);
    let mut u = t.div(x, norm);
    for _ in 0..POLAR_STEPS {
        let gram = t.matmul_transposed(u, true, u, false);
        let cubic = t.matmul(u, gram);
        u = t.binary(Binary::Average { weight: 1.5 }, u, cubic);
    }
    inner_product(t, u, x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polar_steps_suffice_for_the_smallest_singular_value() {
        let after = |s: f64| (0..POLAR_STEPS).fold(s, |s, _| s * (3.0 - s * s) / 2.0);
        for s in [5e-5, 1e-4, 1e-2, 0.5, 1.0] {
            assert!((1.0 - after(s)).abs() < 1e-12, "{s:e} becomes 1 − {:e}", 1.0 - after(s));
        }
    }
}
