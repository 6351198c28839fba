//! ST-SSAD's bilevel step.
//!
//! Yoo, Zhao, Akoglu, "Self-Tuning Self-Supervised Image Anomaly Detection", arXiv 2306.12033. A detector learns to tell
//! normal from augmented images; the augmentation's hyper-parameters `a` follow the gradient of an alignment loss
//! through a look-ahead step of the detector.

use crate::engine::tape::{GradError, Tape, Value};
use crate::engine::tensor::Tensor;

/// Which terms of the hyper-gradient are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Only the direct dependence of the look-ahead embeddings on `a`: the ablation.
    First,
    /// Also that through the look-ahead parameters: ∂²inner/∂a∂θ.
    Second,
}

/// The parts of the bilevel problem that the step is recorded from.
pub trait Problem {
    /// x_aug of x at `a`.
    fn augment(&self, t: &mut Tape, x: Value, a: Value) -> Value;
    /// The training loss on x and x_aug.
    fn inner(&self, t: &mut Tape, theta: &[Value], x: Value, x_aug: Value) -> Inner;
    /// Embeddings of `x`, batch norm taken over it.
    fn embed(&self, t: &mut Tape, theta: &[Value], x: Value) -> Value;
    /// Embeddings of the union of all sets made fit to be compared, each start's apart; see
    /// [`total_distance_normalise`](crate::ssad::loss::total_distance_normalise).
    fn normalise(&self, t: &mut Tape, z: Value) -> Value;
    /// The alignment loss of normalised embeddings, one for each start.
    fn align(&self, t: &mut Tape, z_trn: Value, z_aug: Value, z_val: Value) -> Value;
    /// What the training loss and the alignment loss are scaled by while their gradients are taken.
    fn scales(&self) -> LossScales {
        LossScales::NONE
    }
}

/// Powers of two by which losses are scaled while their gradients are taken, and by which the gradients are divided
/// afterwards, both exactly. Factors that are rounded to f16 would otherwise be rounded to 0: f16 has nothing between 0 and
/// 6e-8, and not all bits below 6e-5, while a batch's mean loss has cotangents of 1e-5.
///
/// The scales are fixed, so that a run needs no state to be resumed with the same bits, and no step is taken again or left
/// out. What exceeds f16 in spite of their reserve becomes infinite, is seen in the gradient's magnitude, and ends the start.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossScales {
    /// Of the training loss.
    pub inner: f32,
    /// Of the alignment loss. The sweep through g = ∇_θ inner has cotangents of `outer / inner` times their size, so this is
    /// the larger of the two.
    pub outer: f32,
}

impl LossScales {
    /// Losses as they are.
    pub const NONE: LossScales = LossScales { inner: 1.0, outer: 1.0 };
    /// For factors in f16.
    pub const F16: LossScales = LossScales { inner: 1024.0, outer: 16_384.0 };
}

/// Gradients of the sum of the elements of `of`, which is scaled by a power of two on the way.
///
/// # Errors
/// As [`Tape::grad`].
pub fn scaled_grad(t: &mut Tape, of: Value, wrt: &[Value], scale: f32) -> Result<Vec<Value>, GradError> {
    let seed = t.constant(Tensor::full(t.shape(of).clone(), scale));
    let scaled = t.pull_back(of, seed, wrt)?;
    Ok(scaled.into_iter().map(|gradient| t.scale(gradient, 1.0 / scale)).collect())
}

/// The training loss with what the forward pass leaves behind.
#[derive(Clone, Debug)]
pub struct Inner {
    /// One for each start.
    pub loss: Value,
    /// Mean and variance at each batch norm, for the running statistics.
    pub moments: Vec<[Value; 2]>,
}

/// The values of one bilevel step.
#[derive(Clone, Debug)]
pub struct Bilevel {
    pub x_aug: Value,
    pub inner: Inner,
    /// ∇_θ inner
    pub g: Vec<Value>,
    /// One for each start.
    pub outer: Value,
    /// ∇_a outer
    pub g_a: Value,
}

/// Records one bilevel step:
///
/// ```text
/// x_aug = augment(x; a)
/// g     = ∇_θ inner(θ, x, x_aug)
/// θ'    = θ − α · g
/// outer = align(normalise(embed(θ', x ⧺ x_aug ⧺ x_val)))
/// g_a   = ∂_a outer − α · [∂² inner / ∂a ∂θ] · ∇_θ' outer
/// ```
///
/// The second term of `g_a` needs no line of its own: g is on the tape, so the sweep goes through it. Of several starts side
/// by side each loss depends on its own parameters and its own `a` alone, so gradients of the sums are those of each.
///
/// # Errors
/// When a primitive on the way has no rule for the order of derivative asked for.
pub fn bilevel(
    t: &mut Tape,
    problem: &impl Problem,
    theta: &[Value],
    a: Value,
    [x, x_val]: [Value; 2],
    look_ahead: f32,
    order: Order,
) -> Result<Bilevel, GradError> {
    let x_aug = t.scope("augment", |t| problem.augment(t, x, a));
    let inner = t.scope("inner", |t| problem.inner(t, theta, x, x_aug));
    let scales = problem.scales();
    let g = scaled_grad(t, inner.loss, theta, scales.inner)?;
    let theta_1: Vec<Value> = t.scope("look_ahead", |t| {
        let step = |(&theta, &g): (&Value, &Value)| {
            let step = t.scale(g, look_ahead);
            t.sub(theta, step)
        };
        theta.iter().zip(&g).map(step).collect()
    });
    // At first order `a` enters the outer loss a second time under another name, and only that one is differentiated.
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
