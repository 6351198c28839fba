//! ST-SSAD's bilevel step.
//!
//! Yoo, Zhao, Akoglu, "Self-Tuning Self-Supervised Image Anomaly Detection", arXiv 2306.12033. A detector learns to
//! separate normal from augmented images. The augmentation's hyper-parameters `a` follow the gradient of an alignment
//! loss through a look-ahead step of the detector.

use crate::engine::tape::{GradError, Tape, Value};
use crate::engine::tensor::Tensor;

/// The terms of the hyper-gradient to include.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Only the direct dependence of the look-ahead embeddings on `a`: an ablation.
    First,
    /// Also the dependence through the look-ahead parameters: ∂²inner/∂a∂θ.
    Second,
}

/// The parts of the bilevel problem.
pub trait Problem {
    /// Augments x at `a`: x_aug.
    fn augment(&self, t: &mut Tape, x: Value, a: Value) -> Value;
    /// The training loss on x and x_aug.
    fn inner(&self, t: &mut Tape, theta: &[Value], x: Value, x_aug: Value) -> Inner;
    /// Embeddings of `x`, with batch norm over `x`.
    fn embed(&self, t: &mut Tape, theta: &[Value], x: Value) -> Value;
    /// Normalises the embeddings of all sets together, for each start separately; see
    /// [`total_distance_normalise`](crate::ssad::loss::total_distance_normalise).
    fn normalise(&self, t: &mut Tape, z: Value) -> Value;
    /// The alignment loss of normalised embeddings, one value per start.
    fn align(&self, t: &mut Tape, z_trn: Value, z_aug: Value, z_val: Value) -> Value;
    /// Scales of the training loss and the alignment loss while their gradients are computed.
    fn scales(&self) -> LossScales {
        LossScales::NONE
    }
}

/// Powers of two that scale losses while their gradients are computed. The gradients are then divided by them; both
/// steps are exact. Without them, factors rounded to f16 would become 0: f16 has no number between 0 and 6e-8 and loses
/// bits below 6e-5, while the cotangents of a batch's mean loss are about 1e-5.
///
/// The scales are fixed, so a resumed run needs no further state and no step is repeated or skipped. A value that
/// exceeds f16 nevertheless becomes infinite, shows in the gradient's magnitude, and ends the start.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossScales {
    /// Scale of the training loss.
    pub inner: f32,
    /// Scale of the alignment loss. The backward pass through g = ∇_θ inner has cotangents scaled by `outer / inner`,
    /// so this is the larger of the two.
    pub outer: f32,
}

impl LossScales {
    /// No scaling.
    pub const NONE: LossScales = LossScales { inner: 1.0, outer: 1.0 };
    /// For factors in f16.
    pub const F16: LossScales = LossScales { inner: 1024.0, outer: 16_384.0 };
}

/// Gradients of the sum of the elements of `of`, computed with `of` scaled by a power of two.
///
/// # Errors
/// As [`Tape::grad`].
pub fn scaled_grad(t: &mut Tape, of: Value, wrt: &[Value], scale: f32) -> Result<Vec<Value>, GradError> {
    let seed = t.constant(Tensor::full(t.shape(of).clone(), scale));
    let scaled = t.pull_back(of, seed, wrt)?;
    Ok(scaled.into_iter().map(|gradient| t.scale(gradient, 1.0 / scale)).collect())
}

/// The training loss and the batch-norm moments of its forward pass.
#[derive(Clone, Debug)]
pub struct Inner {
    /// One value per start.
    pub loss: Value,
    /// Mean and variance at each batch norm, for the running statistics.
    pub moments: Vec<[Value; 2]>,
}

/// The values of one bilevel step.
#[derive(Clone, Debug)]
pub struct Bilevel {
    pub x_aug: Value,
    pub inner: Inner,
    /// ∇_θ inner, of the trained parameters.
    pub g: Vec<Value>,
    /// One value per start.
    pub outer: Value,
    /// ∇_a outer
    pub g_a: Value,
}

/// Records one bilevel step, where `trained` are the indices in θ of the parameters that it changes:
///
/// ```text
/// x_aug = augment(x; a)
/// g     = ∇_θ inner(θ, x, x_aug)
/// θ'    = θ − α · g
/// outer = align(normalise(embed(θ', x ⧺ x_aug ⧺ x_val)))
/// g_a   = ∂_a outer − α · [∂² inner / ∂a ∂θ] · ∇_θ' outer
/// ```
///
/// The second term of `g_a` needs no extra line: g is on the tape, so the backward pass runs through it. With several
/// starts side by side, each loss depends only on its own parameters and its own `a`, so the gradients of the sums are
/// those of each start.
///
/// # Errors
/// When a primitive on the path lacks a rule of the required order.
pub fn bilevel(
    t: &mut Tape,
    problem: &impl Problem,
    (theta, trained): (&[Value], &[usize]),
    a: Value,
    [x, x_val]: [Value; 2],
    look_ahead: f32,
    order: Order,
) -> Result<Bilevel, GradError> {
    let x_aug = t.scope("augment", |t| problem.augment(t, x, a));
    let inner = t.scope("inner", |t| problem.inner(t, theta, x, x_aug));
    let scales = problem.scales();
    let wrt: Vec<Value> = trained.iter().map(|&index| theta[index]).collect();
    let g = scaled_grad(t, inner.loss, &wrt, scales.inner)?;
    let mut theta_1 = theta.to_vec();
    t.scope("look_ahead", |t| {
        for (&index, &g) in trained.iter().zip(&g) {
            let step = t.scale(g, look_ahead);
            theta_1[index] = t.sub(theta[index], step);
        }
    });
    // At first order the outer loss reads `a` as a second value, and only that one is differentiated.
    let (direct, x_aug_outer) = match order {
        Order::Second => (a, x_aug),
        Order::First => {
            let direct = t.renamed(a);
            (direct, t.scope("augment", |t| problem.augment(t, x, direct)))
        }
    };
    let outer = t.scope("outer", |t| {
        let rows = [x, x_aug_outer, x_val].map(|set| t.shape(set)[0]);
        let all = t.concat(0, &[x, x_aug_outer, x_val]);
        let z = problem.embed(t, &theta_1, all);
        let z = t.scope("align", |t| problem.normalise(t, z));
        let z_trn = t.slice(z, 0, 0, rows[0]);
        let z_aug = t.slice(z, 0, rows[0], rows[1]);
        let z_val = t.slice(z, 0, rows[0] + rows[1], rows[2]);
        t.scope("align", |t| problem.align(t, z_trn, z_aug, z_val))
    });
    let g_a = scaled_grad(t, outer, &[direct], scales.outer)?[0];
    Ok(Bilevel { x_aug, inner, g, outer, g_a })
}
