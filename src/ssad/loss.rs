//! Losses, from tape methods only. Embeddings are `[rows, starts, features]`, with the networks of all starts side by
//! side, and a loss has one value per start, `[starts]`. Functions for a single network take `[rows, features]` and
//! give a scalar of shape `[]`.
//!
//! Definitions: Yoo, Zhao and Akoglu, arXiv 2306.12033 (normalisation, mean distance); Dowson and Landau, "The Fréchet
//! distance between multivariate normal distributions", 1982 (the Wasserstein distance of two Gaussians; with diagonal
//! covariances its off-diagonal terms are left out); Bonneel et al., "Sliced and Radon Wasserstein barycenters of measures",
//! 2015; Feydy et al., "Interpolating between optimal transport and MMD using Sinkhorn divergences", arXiv 1810.08278;
//! Gretton et al., "A kernel two-sample test", 2012.

use std::fmt;
use std::mem::discriminant;

use crate::engine::ops::elementwise::{Binary, Unary};
use crate::engine::tape::{Tape, Value};
use crate::engine::tensor::Tensor;

/// Keeps the scale of [`total_distance_normalise`] finite for equal points; their gradient is guarded by that of
/// [`Sqrt`](Unary::Sqrt), which is 0 at 0.
const SCALE_EPSILON: f32 = 1e-6;
/// Variance added to each feature before the root in [`diagonal_w2`].
const RIDGE: f32 = 1e-8;
/// Variance added in every direction by [`gaussian_w2`], to keep singular values off 0, where gradients have no limit.
const COVARIANCE_RIDGE: f64 = 1e-4;
/// Newton–Schulz steps of [`nuclear_norm`].
const POLAR_STEPS: usize = 32;

/// Random directions of [`Alignment::SlicedW2`].
const DIRECTIONS: usize = 64;
/// Quantiles compared along each direction, at the mid-points of equal parts.
const LEVELS: usize = 64;
/// A cumulative weight may fall short of a level by this much and still reach it: more than the rounding error of f32
/// sums.
const LEVEL_SLACK: f64 = 1e-6;
/// Entropic regularisation of [`Alignment::Sinkhorn`], for rows of mean squared norm 1.
const SINKHORN_EPSILON: f64 = 0.05;
/// Updates of each potential.
const SINKHORN_STEPS: usize = 50;

/// Random stream of the directions; augmentations use the lowest streams.
const DIRECTION_STREAM: u32 = 1 << 16;

/// Binary cross-entropy with logits `[rows, starts]`: the mean over each column of softplus(l) − l · target,
/// `[starts]`. Targets have the same shape, or `[rows, 1]`.
pub fn bce_with_logits(t: &mut Tape, logits: Value, targets: Value) -> Value {
    let softplus = t.unary(Unary::Softplus, logits);
    let chosen = t.mul(logits, targets);
    let losses = t.sub(softplus, chosen);
    column_means(t, losses)
}

/// Mean over the rows of `x` `[rows, starts]`: `[starts]`.
pub fn column_means(t: &mut Tape, x: Value) -> Value {
    let mean = t.mean(x, &[0]);
    t.reshape(mean, [t.shape(x)[1]])
}

/// Centres the rows of `z` `[rows, starts, features]` and scales them to mean squared norm 1, for each start
/// separately. Gradients flow through mean and scale.
pub fn total_distance_normalise(t: &mut Tape, z: Value) -> Value {
    let rows = t.shape(z)[0];
    let mean = t.mean(z, &[0]);
    let centred = t.sub(z, mean);
    let squares = t.mul(centred, centred);
    let square = t.sum(squares, &[0, 2]);
    let norm = t.unary(Unary::Sqrt, square);
    let guarded = t.offset(norm, SCALE_EPSILON);
    let scale = t.unary(Unary::Reciprocal, guarded);
    let scale = t.scale(scale, (rows as f64).sqrt());
    t.mul(centred, scale)
}

/// The distance of the training and augmented embeddings from the unlabelled ones.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Alignment {
    /// The paper's: ½ [ mean_v ‖z_v − mean(Z_trn)‖ + mean_v ‖z_v − mean(Z_aug)‖ ].
    MeanDistance,
    /// Squared 2-Wasserstein distance between Gaussians with diagonal covariances, of (1 − mass) · Z_trn + mass · Z_aug
    /// and Z_val. `mass` stands for the unknown share of anomalies.
    DiagonalW2 { mass: f64 },
    /// The same with full covariances, each plus 1e-4 · I.
    GaussianW2 { mass: f64 },
    /// Squared 2-Wasserstein distance along a direction, averaged over 64 random directions redrawn in each step, times
    /// the number of features. It compares the points themselves, not Gaussians.
    SlicedW2 { mass: f64 },
    /// Sinkhorn divergence with the cost ½‖x − y‖², 50 updates at ε = 0.05: optimal transport blurred by √ε, minus the
    /// cost of the blur itself.
    Sinkhorn { mass: f64 },
    /// Squared maximum mean discrepancy with the kernel exp(−½‖x − y‖²). After [`total_distance_normalise`] rows have a
    /// mean squared distance of 2, so the bandwidth is the mean distance.
    Mmd { mass: f64 },
}

/// An alignment loss by its name, made for a mass.
type Kind = (&'static str, fn(f64) -> Alignment);

/// The alignment losses.
const KINDS: &[Kind] = &[
    ("mean-distance", |_| Alignment::MeanDistance),
    ("diagonal-w2", |mass| Alignment::DiagonalW2 { mass }),
    ("gaussian-w2", |mass| Alignment::GaussianW2 { mass }),
    ("sliced-w2", |mass| Alignment::SlicedW2 { mass }),
    ("sinkhorn", |mass| Alignment::Sinkhorn { mass }),
    ("mmd", |mass| Alignment::Mmd { mass }),
];

/// The names of the alignment losses, as [`Alignment::by_name`] knows them.
pub fn names() -> impl Iterator<Item = &'static str> {
    KINDS.iter().map(|(name, _)| *name)
}

/// A name or mass that gives no alignment loss.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum NameError {
    #[error("there is no alignment loss `{0}`; there are {list}", list = names().collect::<Vec<_>>().join(", "))]
    Unknown(String),
    #[error("the mass of the anomalies must be above 0 and below 1, not {0}")]
    Mass(f64),
}

impl fmt::Display for Alignment {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let is_it = |(_, make): &&Kind| discriminant(&make(0.5)) == discriminant(self);
        f.write_str(KINDS.iter().find(is_it).expect("every loss has a row").0)
    }
}

impl Alignment {
    /// The loss with this name, one of the [`names`]; `mean-distance` ignores the mass.
    ///
    /// # Errors
    /// When the name is unknown, or the mass is not between 0 and 1.
    pub fn by_name(name: &str, mass: f64) -> Result<Self, NameError> {
        let kind = KINDS.iter().find(|(known, _)| *known == name);
        let (_, make) = kind.ok_or_else(|| NameError::Unknown(name.to_owned()))?;
        let is_share = mass > 0.0 && mass < 1.0;
        if is_share { Ok(make(mass)) } else { Err(NameError::Mass(mass)) }
    }

    /// The loss of normalised rows, `[starts]`. Random numbers are drawn under `key` `[starts, 6]`.
    pub fn record(self, t: &mut Tape, z_trn: Value, z_aug: Value, z_val: Value, key: Value) -> Value {
        let z = [z_trn, z_aug, z_val];
        match self {
            Alignment::MeanDistance => mean_distance(t, z),
            Alignment::DiagonalW2 { mass } => diagonal_w2(t, z, mass),
            Alignment::GaussianW2 { mass } => one_by_one(t, z, key, |t, z, _| gaussian_w2(t, z, mass)),
            Alignment::SlicedW2 { mass } => one_by_one(t, z, key, |t, [z_trn, z_aug, z_val], key| {
                let features = t.shape(z_val)[1];
                let directions = random_directions(t, key, features);
                sliced_w2(t, z_trn, z_aug, z_val, directions, mass)
            }),
            Alignment::Sinkhorn { mass } => one_by_one(t, z, key, |t, z, _| sinkhorn_divergence(t, z, mass)),
            Alignment::Mmd { mass } => one_by_one(t, z, key, |t, z, _| mmd(t, z, mass)),
        }
    }
}

/// Applies `loss` to each start separately, with its `[rows, features]` and its key `[1, 6]`.
fn one_by_one(t: &mut Tape, z: [Value; 3], key: Value, loss: impl Fn(&mut Tape, [Value; 3], Value) -> Value) -> Value {
    let starts = t.shape(z[0])[1];
    let keys = t.reshape(key, [starts, 6]);
    let losses: Vec<Value> = (0..starts)
        .map(|start| {
            let own = z.map(|z| {
                let own = t.slice(z, 1, start, 1);
                t.reshape(own, [t.shape(z)[0], t.shape(z)[2]])
            });
            let key = t.slice(keys, 0, start, 1);
            let loss = loss(t, own, key);
            t.reshape(loss, [1])
        })
        .collect();
    t.concat(0, &losses)
}

/// Mean distance of the rows of `z` from the mean of `to`, `[1, starts, 1]`.
fn distance_to_mean(t: &mut Tape, z: Value, to: Value) -> Value {
    let mean = t.mean(to, &[0]);
    let difference = t.sub(z, mean);
    let squares = t.mul(difference, difference);
    let square = t.sum(squares, &[2]);
    let distance = t.unary(Unary::Sqrt, square);
    t.mean(distance, &[0])
}

fn mean_distance(t: &mut Tape, [z_trn, z_aug, z_val]: [Value; 3]) -> Value {
    let to_trn = distance_to_mean(t, z_val, z_trn);
    let to_aug = distance_to_mean(t, z_val, z_aug);
    let sum = t.add(to_trn, to_aug);
    let mean = t.scale(sum, 0.5);
    t.reshape(mean, [t.shape(z_val)[1]])
}

/// Mean of `moment` over the rows of a mixture of clouds with the given weights: one row.
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

/// Mean and standard deviation of a mixture of clouds with the given weights, one row each.
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

fn diagonal_w2(t: &mut Tape, [z_trn, z_aug, z_val]: [Value; 3], mass: f64) -> Value {
    let of_both = mixture_moments(t, &[(z_trn, 1.0 - mass), (z_aug, mass)]);
    let of_val = mixture_moments(t, &[(z_val, 1.0)]);
    let [of_means, of_deviations] = [0, 1].map(|moment| {
        let gap = t.sub(of_both[moment], of_val[moment]);
        let squares = t.mul(gap, gap);
        t.sum(squares, &[2])
    });
    let sum = t.add(of_means, of_deviations);
    t.reshape(sum, [t.shape(z_val)[1]])
}

/// Σ a · b, a scalar.
fn inner_product(t: &mut Tape, a: Value, b: Value) -> Value {
    let products = t.mul(a, b);
    t.total(products)
}

/// Mean `[1, features]` of a mixture of clouds with the given weights, and a factor F with FᵀF = covariance + ridge ·
/// I: the centred rows, each times the root of its weight, stacked on √ridge · I.
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
/// With A = FᵀF and B = GᵀG, the last trace is that of (X · Xᵀ)^½ for X = F · Gᵀ: the sum of X's singular values. This
/// avoids matrix roots, and the condition number of X is only the root of that of B^½ · A · B^½, which at 1e8 would
/// exceed f32.
fn gaussian_w2(t: &mut Tape, [z_trn, z_aug, z_val]: [Value; 3], mass: f64) -> Value {
    let [mean, factor] = mixture_factor(t, &[(z_trn, 1.0 - mass), (z_aug, mass)]);
    let [mean_val, factor_val] = mixture_factor(t, &[(z_val, 1.0)]);
    let gap = t.sub(mean, mean_val);
    let of_means = inner_product(t, gap, gap);
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
/// A step maps each singular value s ≤ 1 of U to s · (3 − s²) / 2. A small s grows by a factor of 1.5; later 1 − s
/// falls below 1.5 · (1 − s)². After 32 steps, all that were at least 5e-5 of ‖x‖ are within 1e-12 of 1. A singular
/// value of 0 stays 0, and one that rounding has moved off 0 contributes its own size, not its root, so no step can
/// diverge.
pub fn nuclear_norm(t: &mut Tape, x: Value) -> Value {
    let square = inner_product(t, x, x);
    let norm = t.unary(Unary::Sqrt, square);
    let mut u = t.div(x, norm);
    for _ in 0..POLAR_STEPS {
        let gram = t.matmul_transposed(u, true, u, false);
        let cubic = t.matmul(u, gram);
        u = t.binary(Binary::average(1.5), u, cubic);
    }
    inner_product(t, u, x)
}

/// A cloud of weighted points.
struct Cloud {
    /// `[rows, features]`
    z: Value,
    /// [(number of rows, weight of each)] for consecutive rows of equal weight.
    runs: Vec<(usize, f64)>,
}

impl Cloud {
    /// A mixture of clouds with the given weights.
    fn mixture(t: &mut Tape, clouds: &[(Value, f64)]) -> Self {
        let run = |&(z, weight): &(Value, f64)| (t.shape(z)[0], weight / t.shape(z)[0] as f64);
        let runs = clouds.iter().map(run).collect();
        let parts: Vec<Value> = clouds.iter().map(|&(z, _)| z).collect();
        Cloud { z: t.concat(0, &parts), runs }
    }

    /// `function` of each row's weight, `[1, rows]`.
    fn weights(&self, t: &mut Tape, function: fn(f64) -> f64) -> Value {
        let parts: Vec<Value> = self
            .runs
            .iter()
            .map(|&(rows, weight)| {
                let ones = t.constant(Tensor::full([1, rows], 1.0));
                t.scale(ones, function(weight))
            })
            .collect();
        t.concat(1, &parts)
    }
}

/// ½‖x − y‖² for all pairs of rows, `[rows of x, rows of y]`.
fn half_squared_distances(t: &mut Tape, x: Value, y: Value) -> Value {
    let [of_x, of_y] = [x, y].map(|z| {
        let squares = t.mul(z, z);
        let norms = t.sum(squares, &[1]);
        t.scale(norms, 0.5)
    });
    let products = t.matmul_transposed(x, false, y, true);
    let difference = t.sub(of_x, products);
    let columns = t.shape(y)[0];
    let of_y = t.reshape(of_y, [1, columns]);
    t.add(difference, of_y)
}

/// Random directions `[features, DIRECTIONS]` of length 1.
fn random_directions(t: &mut Tape, key: Value, features: usize) -> Value {
    let normal = t.normal(key, DIRECTION_STREAM, [features, DIRECTIONS]);
    let squares = t.mul(normal, normal);
    let square = t.sum(squares, &[0]);
    let length = t.unary(Unary::Sqrt, square);
    t.div(normal, length)
}

/// [`Alignment::SlicedW2`] along given `directions` `[features, count]`, columns of length 1.
pub fn sliced_w2(t: &mut Tape, z_trn: Value, z_aug: Value, z_val: Value, directions: Value, mass: f64) -> Value {
    let both = Cloud::mixture(t, &[(z_trn, 1.0 - mass), (z_aug, mass)]);
    let val = Cloud::mixture(t, &[(z_val, 1.0)]);
    let [a, b] = [both, val].map(|cloud| quantiles(t, &cloud, directions));
    let gaps = t.sub(a, b);
    let squares = t.mul(gaps, gaps);
    let mean = t.average(squares);
    t.scale(mean, t.shape(z_val)[1] as f64)
}

/// Along each direction, the first points whose cumulative weight reaches the levels: `[LEVELS, directions]`.
fn quantiles(t: &mut Tape, cloud: &Cloud, directions: Value) -> Value {
    let x = t.matmul(cloud.z, directions);
    let [rows, columns] = t.shape(x).matrix().expect("a product is a matrix");
    let order = t.order(x);
    let weights = cloud.weights(t, |weight| weight);
    let weights = t.reshape(weights, [rows, 1]);
    let weights = t.broadcast(weights, &[rows, columns].into());
    let sorted = t.gather(weights, order);
    let triangle = (0..rows * rows).map(|at| if at % rows <= at / rows { 1.0 } else { 0.0 }).collect();
    let triangle = t.constant(Tensor::new([rows, rows], triangle));
    let cumulated = t.matmul(triangle, sorted);

    // The index of a level in the order is the number of points below it.
    let level = |index: usize| ((index as f64 + 0.5) / LEVELS as f64 - LEVEL_SLACK) as f32;
    let levels = t.constant(Tensor::new([LEVELS, 1, 1], (0..LEVELS).map(level).collect()));
    let cumulated = t.reshape(cumulated, [1, rows, columns]);
    let missing = t.sub(levels, cumulated);
    let one = t.constant(Tensor::scalar(1.0));
    let short = t.binary(Binary::WherePositive, one, missing);
    let place = t.sum(short, &[1]);
    let place = t.reshape(place, [LEVELS, columns]);
    let last = t.constant(Tensor::scalar((rows - 1) as f32));
    let place = t.binary(Binary::Minimum, place, last);
    let row = t.gather(order, place);
    t.gather(x, row)
}

fn sinkhorn_divergence(t: &mut Tape, [z_trn, z_aug, z_val]: [Value; 3], mass: f64) -> Value {
    let both = Cloud::mixture(t, &[(z_trn, 1.0 - mass), (z_aug, mass)]);
    let val = Cloud::mixture(t, &[(z_val, 1.0)]);
    let cross = sinkhorn_cost(t, &both, &val);
    let [of_both, of_val] = [both, val].map(|cloud| sinkhorn_cost(t, &cloud, &cloud));
    let blur = t.add(of_both, of_val);
    let blur = t.scale(blur, 0.5);
    t.sub(cross, blur)
}

/// The dual value of entropic transport after a fixed number of updates in the log domain, with potentials starting
/// from 0.
///
/// Potentials are stored as −f / ε and −g / ε, so that an update is just f ← log Σ_j exp(log w_j − cost_ij / ε − g_j).
fn sinkhorn_cost(t: &mut Tape, x: &Cloud, y: &Cloud) -> Value {
    let [to_y, to_x] = [(x, y), (y, x)].map(|(from, to)| {
        let cost = half_squared_distances(t, from.z, to.z);
        let exponent = t.scale(cost, -1.0 / SINKHORN_EPSILON);
        let log_weights = to.weights(t, f64::ln);
        t.add(exponent, log_weights)
    });
    let update = |t: &mut Tape, kernel: Value, other: Value| {
        let shifted = t.sub(kernel, other);
        let potential = t.log_sum_exp(shifted);
        let rows = t.shape(potential)[0];
        t.reshape(potential, [1, rows])
    };
    let start = t.constant(Tensor::full([1, t.shape(y.z)[0]], 0.0));
    let mut potentials = [start; 2];
    for _ in 0..SINKHORN_STEPS {
        potentials[0] = update(t, to_y, potentials[1]);
        potentials[1] = update(t, to_x, potentials[0]);
    }
    let [of_x, of_y] = [(x, potentials[0]), (y, potentials[1])].map(|(cloud, potential)| {
        let weights = cloud.weights(t, |weight| weight);
        inner_product(t, weights, potential)
    });
    let sum = t.add(of_x, of_y);
    t.scale(sum, -SINKHORN_EPSILON)
}

fn mmd(t: &mut Tape, [z_trn, z_aug, z_val]: [Value; 3], mass: f64) -> Value {
    let both = Cloud::mixture(t, &[(z_trn, 1.0 - mass), (z_aug, mass)]);
    let val = Cloud::mixture(t, &[(z_val, 1.0)]);
    let [within_both, within_val, across] = [(&both, &both), (&val, &val), (&both, &val)].map(|(x, y)| {
        let distances = half_squared_distances(t, x.z, y.z);
        let exponent = t.scale(distances, -1.0);
        let kernel = t.unary(Unary::Exp, exponent);
        let [of_x, of_y] = [x, y].map(|cloud| cloud.weights(t, |weight| weight));
        let sums = t.matmul(of_x, kernel);
        inner_product(t, sums, of_y)
    });
    let within = t.add(within_both, within_val);
    let across = t.scale(across, -2.0);
    t.add(within, across)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::engine::gpu::{Choice, Device, Executor, States};
    use crate::engine::ops::random;
    use crate::engine::plan::{Plan, Reuse};
    use crate::engine::reference::Reference;

    /// Values of a tape whose only feed is `z`, [in f64, on the device].
    fn computed(t: &Tape, z: &Tensor, wanted: &[Value]) -> [Vec<Vec<f64>>; 2] {
        let widened = |tensor: &Tensor| -> Vec<f64> { tensor.data().iter().map(|&x| f64::from(x)).collect() };
        let sources = HashMap::from([("z".to_owned(), widened(z))]);
        let mut reference = Reference::new(t, &sources);
        let exact = wanted.iter().map(|&value| reference.eval(value).unwrap().to_vec()).collect();
        let device = Device::open(&Choice::Best).unwrap();
        let plan = Plan::new(t, wanted, &[], device.class(), Reuse::On);
        let mut executor = Executor::new(&device, plan, &States::new(&device), |_, _| {}).unwrap();
        executor.feed("z", z).unwrap();
        executor.run().unwrap();
        [exact, wanted.iter().map(|&value| widened(&executor.fetch(value).unwrap())).collect()]
    }

    /// A collapsed encoder embeds all images equally.
    #[test]
    fn equal_points_have_finite_gradients_of_every_loss_twice_over() {
        for (name, normalise) in names().flat_map(|name| [false, true].map(|normalise| (name, normalise))) {
            let mut t = Tape::new();
            let z = t.feed("z", [6, 1, 3]);
            let points = if normalise { total_distance_normalise(&mut t, z) } else { z };
            let [trn, aug, val] = [0, 2, 4].map(|first| t.slice(points, 0, first, 2));
            let key = t.constant(random::key(0, 0));
            let loss = Alignment::by_name(name, 0.5).unwrap().record(&mut t, trn, aug, val, key);
            let gradient = t.grad_of_sum(loss, &[z]).unwrap()[0];
            let weights = t.constant(Tensor::new([6, 1, 3], (0..18).map(|index| (index % 5) as f32 - 2.0).collect()));
            let along = inner_product(&mut t, gradient, weights);
            let second = t.grad(along, &[z]).unwrap()[0];
            let wanted = [loss, gradient, second];
            for values in computed(&t, &Tensor::full([6, 1, 3], 0.75), &wanted) {
                let is_finite = |values: &Vec<f64>| values.iter().all(|value| value.is_finite());
                assert!(values.iter().all(is_finite), "{name}, normalised {normalise}: {values:?}");
                // All points are equally far from every cloud, and the derivative of a distance at 0 is 0, so distances
                // give no gradient.
                let pulls = values[1].iter().any(|&g| g != 0.0);
                assert!(name != "mean-distance" || normalise || !pulls, "{values:?}");
            }
        }
    }

    #[test]
    fn the_guarded_scale_separates_equal_points() {
        let mut t = Tape::new();
        let z = t.feed("z", [4, 1, 2]);
        let normalised = total_distance_normalise(&mut t, z);
        let ct = [1.0, -2.0, 0.5, 4.0, -1.0, 0.0, 3.5, 2.0];
        let cotangent = t.constant(Tensor::new([4, 1, 2], ct.to_vec()));
        let gradient = t.pull_back(normalised, cotangent, &[z]).unwrap()[0];
        for values in computed(&t, &Tensor::full([4, 1, 2], -1.5), &[gradient]) {
            for (index, got) in values[0].iter().enumerate() {
                let mean = (index % 2..8).step_by(2).map(|at| f64::from(ct[at]) / 4.0).sum::<f64>();
                // √N / ε times the cotangent minus its mean.
                let want = 2.0 / f64::from(SCALE_EPSILON) * (f64::from(ct[index]) - mean);
                assert!((got - want).abs() <= 1e-6 * want.abs().max(1e6), "{index}: {got}, {want}");
            }
        }
    }

    #[test]
    fn names_lead_back_to_themselves_and_unknown_ones_are_refused() {
        for name in names() {
            assert_eq!(Alignment::by_name(name, 0.3).unwrap().to_string(), name);
        }
        let message = Alignment::by_name("w3", 0.3).unwrap_err().to_string();
        assert!(message.contains("`w3`") && message.contains("sinkhorn"), "{message}");
        for mass in [0.0, 1.0, -0.5, f64::NAN] {
            assert!(matches!(Alignment::by_name("mmd", mass), Err(NameError::Mass(_))), "{mass}");
        }
    }

    #[test]
    fn polar_steps_suffice_for_the_smallest_singular_value() {
        let after = |s: f64| (0..POLAR_STEPS).fold(s, |s, _| s * (3.0 - s * s) / 2.0);
        for s in [5e-5, 1e-4, 1e-2, 0.5, 1.0] {
            assert!((1.0 - after(s)).abs() < 1e-12, "{s:e} becomes 1 − {:e}", 1.0 - after(s));
        }
    }
}
