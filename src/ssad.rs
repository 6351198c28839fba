//! ST-SSAD's bilevel step.
//!
//! Yoo, Zhao, Akoglu, "Self-Tuning Self-Supervised Image Anomaly Detection", arXiv 2306.12033. A detector learns to tell
//! normal from augmented pictures; the augmentation's hyper-parameters `a` follow the gradient of an alignment loss
//! through a look-ahead step of the detector.

use crate::tape::{GradError, Tape, Value};

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
    /// [`total_distance_normalise`](crate::loss::total_distance_normalise).
    fn normalise(&self, t: &mut Tape, z: Value) -> Value;
    /// The alignment loss of normalised embeddings, one for each start.
    fn align(&self, t: &mut Tape, z_trn: Value, z_aug: Value, z_val: Value) -> Value;
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
    let g = t.grad_of_sum(inner.loss, theta)?;
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
    let g_a = t.grad_of_sum(outer, &[direct])?[0];
    Ok(Bilevel { x_aug, inner, g, outer, g_a })
}
