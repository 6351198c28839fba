//! Losses, from tape methods only. Embeddings are `[rows, features]`; every loss is a scalar of shape `[]`.
//!
//! Definitions: Yoo, Zhao and Akoglu, arXiv 2306.12033 (normalisation, mean distance); the Wasserstein distance of two
//! Gaussians with diagonal covariances is the Fréchet distance with the off-diagonal terms left out.

use std::fmt;

use crate::ops::elementwise::Unary;
use crate::tape::{Tape, Value};

/// Guards the scale of [`total_distance_normalise`] against a cloud of equal points.
const SCALE_EPSILON: f32 = 1e-6;
/// Variance added to each feature before the root in [`diagonal_w2`].
const RIDGE: f32 = 1e-8;

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
}

impl fmt::Display for Alignment {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Alignment::MeanDistance => "mean-distance",
            Alignment::DiagonalW2 { .. } => "diagonal-w2",
        })
    }
}

impl Alignment {
    /// The loss of already normalised rows.
    pub fn record(self, t: &mut Tape, z_trn: Value, z_aug: Value, z_val: Value) -> Value {
        match self {
            Alignment::MeanDistance => mean_distance(t, z_trn, z_aug, z_val),
            Alignment::DiagonalW2 { mass } => diagonal_w2(t, z_trn, z_aug, z_val, mass),
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

/// Mean and standard deviation, `[1, features]`, of the mixture of clouds with the given weights.
fn mixture_moments(t: &mut Tape, clouds: &[(Value, f64)]) -> [Value; 2] {
    let weighted = |t: &mut Tape, moment: fn(&mut Tape, Value) -> Value| {
        let parts: Vec<Value> = clouds
            .iter()
            .map(|&(z, weight)| {
                let values = moment(t, z);
                let mean = t.mean(values, &[0]);
                t.scale(mean, weight)
            })
            .collect();
        parts.into_iter().reduce(|sum, part| t.add(sum, part)).expect("at least one cloud")
    };
    let mean = weighted(t, |_, z| z);
    let second = weighted(t, |t, z| t.mul(z, z));
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
    let mut squared_gap = |a: Value, b: Value| {
        let gap = t.sub(a, b);
        let square = t.mul(gap, gap);
        t.total(square)
    };
    let of_means = squared_gap(mean, mean_val);
    let of_deviations = squared_gap(deviation, deviation_val);
    t.add(of_means, of_deviations)
}
