//! Anomaly scores of embeddings, and measures of how well scores separate anomalies. All in
//! f64.

use std::collections::BTreeMap;

use rayon::slice::ParallelSliceMut;

use crate::training::conformal::is_flagged;

/// Why these embeddings give no scores.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ScoreError {
    /// An embedding contains an infinity or a NaN.
    #[error("row {row} of the training embeddings is not finite: the encoder diverged, lower its learning rate")]
    NotFinite { row: usize },
    /// The covariance has no inverse: the features up to `feature`, counted from 0, are constant or linearly dependent.
    #[error(
        "the covariance of {rows} training embeddings is singular at feature {feature}: \
         the encoder has collapsed, or there are too few different images"
    )]
    Singular { rows: usize, feature: usize },
    /// The network gives no number for some images.
    #[error(
        "{count} of {of} scores are not finite: the network has diverged; train again with a smaller --learning-rate"
    )]
    Scores { count: usize, of: usize },
}

/// Checks that every score is finite.
///
/// # Errors
/// When one is infinite or NaN.
pub fn check_finite(scores: &[f64]) -> Result<(), ScoreError> {
    match scores.iter().filter(|score| !score.is_finite()).count() {
        0 => Ok(()),
        count => Err(ScoreError::Scores { count, of: scores.len() }),
    }
}

/// The Mahalanobis distance to the mean of a set of rows, with the covariance estimate of Ledoit and Wolf, "A
/// well-conditioned estimator for large-dimensional covariance matrices" (2004): the sample covariance shrunk towards a
/// multiple of the identity by the share that minimises the expected squared error.
#[derive(Clone, Debug, PartialEq)]
pub struct LedoitWolf {
    mean: Vec<f64>,
    /// L with covariance = L·Lᵀ, `[features, features]` row-major; only the lower triangle is used.
    root: Vec<f64>,
    shrinkage: f64,
}

impl LedoitWolf {
    /// Fits mean and covariance to `rows`, `[N, features]` row-major. With S the biased sample covariance, p the number
    /// of features, μ = tr S / p and x the centred rows:
    ///
    /// `d² = ‖S − μI‖² / p`, `b² = (Σₙ ‖xₙ‖⁴ / N − ‖S‖²) / (pN)`, `ρ = min(b², d²) / d²`, covariance `(1 − ρ)S + ρμI`.
    ///
    /// # Errors
    /// When a row is not finite, or the rows are constant (or so nearly that the covariance has no inverse).
    ///
    /// # Panics
    /// When `rows` is empty or its length is not a multiple of `features`.
    pub fn fit(rows: &[f64], features: usize) -> Result<Self, ScoreError> {
        assert!(
            features > 0 && !rows.is_empty() && rows.len().is_multiple_of(features),
            "{} numbers are not rows of {features} features",
            rows.len()
        );
        if let Some(index) = rows.iter().position(|value| !value.is_finite()) {
            return Err(ScoreError::NotFinite { row: index / features });
        }
        let (count, p) = (rows.len() / features, features as f64);
        let n = count as f64;

        let mut mean = vec![0.0; features];
        for row in rows.chunks_exact(features) {
            mean.iter_mut().zip(row).for_each(|(mean, value)| *mean += value / n);
        }

        // Lower triangle of S, and Σₙ ‖xₙ‖⁴.
        let mut covariance = vec![0.0; features * features];
        let mut fourth = 0.0;
        for row in rows.chunks_exact(features) {
            let centred: Vec<f64> = row.iter().zip(&mean).map(|(value, mean)| value - mean).collect();
            for (i, &left) in centred.iter().enumerate() {
                let line = &mut covariance[i * features..=i * features + i];
                line.iter_mut().zip(&centred).for_each(|(sum, right)| *sum += left * right / n);
            }
            fourth += centred.iter().map(|value| value * value).sum::<f64>().powi(2);
        }

        let diagonal = |i: usize| i * features + i;
        let mu = (0..features).map(|i| covariance[diagonal(i)]).sum::<f64>() / p;
        let (mut square, mut deviation) = (0.0, 0.0);
        for i in 0..features {
            let off: f64 = covariance[i * features..diagonal(i)].iter().map(|value| 2.0 * value * value).sum();
            square += off + covariance[diagonal(i)].powi(2);
            deviation += off + (covariance[diagonal(i)] - mu).powi(2);
        }
        let d2 = deviation / p;
        let b2 = (fourth / n - square) / (p * n);
        // A covariance that is already a multiple of the identity (one feature, for example) needs no shrinkage.
        let shrinkage = if d2 > 0.0 { b2.min(d2) / d2 } else { 0.0 };

        covariance.iter_mut().for_each(|value| *value *= 1.0 - shrinkage);
        (0..features).for_each(|i| covariance[diagonal(i)] += shrinkage * mu);

        // Equal rows differ from their mean by rounding; such a covariance must not be divided by.
        let largest = rows.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
        let floor = (f64::EPSILON * largest).powi(2).max(f64::EPSILON * p * mu);
        cholesky(&mut covariance, features, floor)
            .map_err(|feature| ScoreError::Singular { rows: count, feature })
            .map(|()| LedoitWolf { mean, root: covariance, shrinkage })
    }

    /// ρ, the share of the identity in the covariance: between 0 and 1.
    pub fn shrinkage(&self) -> f64 {
        self.shrinkage
    }

    /// Mean `[features]` and root `[features, features]`, row-major: what [`from_parts`](LedoitWolf::from_parts) takes.
    pub fn parts(&self) -> (&[f64], &[f64]) {
        (&self.mean, &self.root)
    }

    /// Rebuilds an estimate from its [`parts`](LedoitWolf::parts) and [`shrinkage`](LedoitWolf::shrinkage). `None` when
    /// the sizes do not fit, a number is not finite, or a pivot is not positive.
    pub fn from_parts(mean: Vec<f64>, root: Vec<f64>, shrinkage: f64) -> Option<Self> {
        let features = mean.len();
        let fits = features > 0 && root.len() == features * features;
        let finite = mean.iter().chain(&root).chain([&shrinkage]).all(|value| value.is_finite());
        let invertible = fits && (0..features).all(|i| root[i * features + i] > 0.0);
        (invertible && finite).then_some(LedoitWolf { mean, root, shrinkage })
    }

    /// The distances of `rows`, `[M, features]` row-major: M scores, in standard deviations. A row that is not finite
    /// has a score that is not finite.
    ///
    /// # Panics
    /// When the length of `rows` is not a multiple of `features`.
    pub fn score(&self, rows: &[f64]) -> Vec<f64> {
        // vᵀ(L·Lᵀ)⁻¹v = ‖L⁻¹v‖².
        self.whitened(rows).map(|row| row.iter().map(|value| value * value).sum::<f64>().sqrt()).collect()
    }

    /// L⁻¹, `[features, features]` row-major: the score of a row is ‖L⁻¹ · (row − mean)‖.
    pub fn whitening(&self) -> Vec<f64> {
        let features = self.mean.len();
        let units: Vec<f64> = (0..features)
            .flat_map(|unit| {
                let is_unit = move |feature| if feature == unit { 1.0 } else { 0.0 };
                self.mean.iter().enumerate().map(move |(feature, mean)| mean + is_unit(feature))
            })
            .collect();
        let columns: Vec<Vec<f64>> = self.whitened(&units).collect();
        (0..features).flat_map(|row| columns.iter().map(move |column| column[row])).collect()
    }

    /// ∂ score / ∂ row for each of `rows`, `[M, features]` row-major: (L·Lᵀ)⁻¹v / score, and 0 at the mean.
    ///
    /// # Panics
    /// When the length of `rows` is not a multiple of `features`.
    pub fn gradient(&self, rows: &[f64]) -> Vec<f64> {
        let features = self.mean.len();
        let gradient = |mut solved: Vec<f64>| {
            let score = solved.iter().map(|value| value * value).sum::<f64>().sqrt();
            // Lᵀ by backward substitution.
            for i in (0..features).rev() {
                let known: f64 = (i + 1..features).map(|j| self.root[j * features + i] * solved[j]).sum();
                solved[i] = (solved[i] - known) / self.root[i * features + i];
            }
            solved.into_iter().map(move |value| if score > 0.0 { value / score } else { 0.0 })
        };
        self.whitened(rows).flat_map(gradient).collect()
    }

    /// L⁻¹ · (row − mean) for each row, by forward substitution.
    fn whitened<'a>(&'a self, rows: &'a [f64]) -> impl Iterator<Item = Vec<f64>> + 'a {
        let features = self.mean.len();
        assert!(rows.len().is_multiple_of(features), "{} numbers are not rows of {features} features", rows.len());
        rows.chunks_exact(features).map(move |row| {
            let mut solved = vec![0.0; features];
            for i in 0..features {
                let line = &self.root[i * features..=i * features + i];
                let known: f64 = line.iter().zip(&solved[..i]).map(|(factor, value)| factor * value).sum();
                solved[i] = (row[i] - self.mean[i] - known) / line[i];
            }
            solved
        })
    }
}

/// Replaces the lower triangle of a symmetric `[size, size]` matrix by L with L·Lᵀ = matrix. The error is the index of
/// the first pivot that is not finite or not above `floor`.
fn cholesky(matrix: &mut [f64], size: usize, floor: f64) -> Result<(), usize> {
    for row in 0..size {
        let (above, rest) = matrix.split_at_mut(row * size);
        let line = &mut rest[..=row];
        for column in 0..row {
            let other = &above[column * size..=column * size + column];
            let known: f64 = line.iter().zip(&other[..column]).map(|(left, right)| left * right).sum();
            line[column] = (line[column] - known) / other[column];
        }
        let pivot = line[row] - line[..row].iter().map(|value| value * value).sum::<f64>();
        if !(pivot.is_finite() && pivot > floor) {
            return Err(row);
        }
        line[row] = pivot.sqrt();
    }
    Ok(())
}

/// Area under the ROC curve, as the Mann-Whitney statistic: the share of pairs of an anomaly (`true`) and a normal
/// (`false`) in which the anomaly has the higher score; a tie counts half. `None` when only one class is present or a
/// score is not finite.
///
/// # Panics
/// When the numbers of scores and labels differ.
pub fn auroc<S: Copy + Into<f64>>(scores: &[S], labels: &[bool]) -> Option<f64> {
    Some(Ranking::new(scores, labels)?.auroc())
}

/// Counts of labelled scores, from which the area under the ROC curve follows in bounded memory: scores that agree in sign, exponent
/// and the first 14 bits of the fraction count as equal.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Numbers of normal and of anomalous scores, in ascending order of scores.
    counts: BTreeMap<u32, [u64; 2]>,
    has_infinite: bool,
}

impl Tally {
    /// Adds scores; the label `true` means anomaly.
    ///
    /// # Panics
    /// When the numbers of scores and labels differ.
    pub fn add(&mut self, scores: &[f32], labels: &[bool]) {
        assert_eq!(scores.len(), labels.len(), "one label a score");
        self.has_infinite |= scores.iter().any(|score| !score.is_finite());
        let mut keys: Vec<(u32, bool)> = scores.iter().map(|&score| key(score)).zip(labels.iter().copied()).collect();
        keys.sort_unstable();
        for equal in keys.chunk_by(|a, b| a == b) {
            let (key, label) = equal[0];
            self.counts.entry(key).or_default()[usize::from(label)] += equal.len() as u64;
        }
    }

    /// As [`auroc`].
    pub fn auroc(&self) -> Option<f64> {
        // Counted in half wins, so that the sum is exact.
        let (mut halves, mut below, mut anomalies) = (0u128, 0u64, 0u64);
        for &[normal, anomalous] in self.counts.values() {
            halves += u128::from(anomalous) * u128::from(2 * below + normal);
            below += normal;
            anomalies += anomalous;
        }
        let pairs = u128::from(below) * u128::from(anomalies);
        (pairs > 0 && !self.has_infinite).then(|| halves as f64 / (2 * pairs) as f64)
    }
}

/// The first 23 bits of a number, so that the order of numbers is that of keys.
fn key(score: f32) -> u32 {
    // Both zeros are equal.
    let bits = (score + 0.0).to_bits();
    (if score < 0.0 { !bits } else { bits | 1 << 31 }) >> 9
}

/// Labelled scores in descending order, from which every ranking metric is computed. Sorted once, in parallel, so the
/// pixels of a whole test set are feasible.
#[derive(Clone, Debug)]
pub struct Ranking {
    descending: Vec<(f64, bool)>,
    anomalies: usize,
}

/// How a threshold splits labelled scores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cut {
    /// The threshold for [`is_flagged`].
    pub threshold: f64,
    /// Flagged and missed anomalies.
    pub hits: usize,
    pub misses: usize,
    /// Flagged and unflagged normals.
    pub false_alarms: usize,
    pub passes: usize,
}

impl Ranking {
    /// Ranks `scores`; the label `true` means anomaly. `None` when only one class is present or a score is not finite.
    ///
    /// # Panics
    /// When the numbers of scores and labels differ.
    pub fn new<S: Copy + Into<f64>>(scores: &[S], labels: &[bool]) -> Option<Self> {
        assert_eq!(scores.len(), labels.len(), "one label a score");
        let mut descending: Vec<(f64, bool)> =
            scores.iter().map(|&score| score.into()).zip(labels.iter().copied()).collect();
        let anomalies = labels.iter().filter(|&&label| label).count();
        if anomalies == 0 || anomalies == labels.len() || descending.iter().any(|(score, _)| !score.is_finite()) {
            return None;
        }
        descending.par_sort_unstable_by(|(a, _), (b, _)| b.total_cmp(a));
        Some(Ranking { descending, anomalies })
    }

    /// As [`auroc`].
    pub fn auroc(&self) -> f64 {
        // Counted in half wins, so that the sum is exact.
        let (mut halves, mut before) = (0, (0, 0));
        for Cut { hits, false_alarms, .. } in self.cuts() {
            halves += (false_alarms - before.1) * (before.0 + hits);
            before = (hits, false_alarms);
        }
        halves as f64 / (2 * self.anomalies * self.normals()) as f64
    }

    /// Area under the precision-recall curve as a sum of steps, Σ (Rₙ − Rₙ₋₁) Pₙ from the highest score down, like
    /// scikit-learn's `average_precision_score`.
    pub fn average_precision(&self) -> f64 {
        let (mut sum, mut before) = (0.0, 0);
        for Cut { hits, false_alarms, .. } in self.cuts() {
            sum += (hits - before) as f64 * hits as f64 / (hits + false_alarms) as f64;
            before = hits;
        }
        sum / self.anomalies as f64
    }

    /// The cut with the highest F1, and among equals the highest threshold. It is chosen by the labels, so its F1 is an
    /// upper limit over thresholds, not the F1 of a threshold used in practice.
    pub fn best_f1(&self) -> Cut {
        let best = self.cuts().reduce(|best, cut| if cut.f1() > best.f1() { cut } else { best });
        best.expect("two classes have scores")
    }

    /// The cut at a given threshold.
    pub fn at(&self, threshold: f64) -> Cut {
        let flagged = self.descending.partition_point(|&(score, _)| is_flagged(score, threshold));
        let hits = self.descending[..flagged].iter().filter(|(_, anomalous)| *anomalous).count();
        self.cut(threshold, hits, flagged - hits)
    }

    /// The cut at every distinct score, from the highest score down.
    pub fn cuts(&self) -> impl Iterator<Item = Cut> {
        let (mut hits, mut false_alarms) = (0, 0);
        self.descending.chunk_by(|(a, _), (b, _)| a == b).map(move |tied| {
            let anomalies = tied.iter().filter(|(_, anomalous)| *anomalous).count();
            hits += anomalies;
            false_alarms += tied.len() - anomalies;
            self.cut(tied[0].0, hits, false_alarms)
        })
    }

    fn cut(&self, threshold: f64, hits: usize, false_alarms: usize) -> Cut {
        Cut { threshold, hits, misses: self.anomalies - hits, false_alarms, passes: self.normals() - false_alarms }
    }

    fn normals(&self) -> usize {
        self.descending.len() - self.anomalies
    }
}

impl Cut {
    /// Share of the flagged that are anomalies; `None` if nothing is flagged.
    pub fn precision(&self) -> Option<f64> {
        let flagged = self.hits + self.false_alarms;
        (flagged > 0).then(|| self.hits as f64 / flagged as f64)
    }

    /// Share of the anomalies that are flagged, the true-positive rate.
    pub fn recall(&self) -> f64 {
        self.hits as f64 / (self.hits + self.misses) as f64
    }

    /// Share of the normals that are flagged, the false-positive rate.
    pub fn false_alarm_rate(&self) -> f64 {
        self.false_alarms as f64 / (self.false_alarms + self.passes) as f64
    }

    /// Harmonic mean of precision and recall; 0 if no anomaly is flagged.
    pub fn f1(&self) -> f64 {
        2.0 * self.hits as f64 / (2 * self.hits + self.misses + self.false_alarms) as f64
    }
}

/// The share of normal images whose scores an unlabelled image is held against: the most anomalous twentieth.
const TOP: usize = 20;

/// How far the scores of unlabelled images exceed those of normal ones, from 0 to 1: the mean, over the most anomalous
/// twentieth of the normal images, of the share of unlabelled images that score higher; of equal scores half. This is
/// the area under the ROC curve of unlabelled against normal images up to a false-positive rate of 1 / 20, divided by it.
///
/// If the normal images among the unlabelled ones score like `normal`, it is an affine function of the same area of
/// anomalous against normal images, so detectors are in the order of the one as of the other, and no label is needed.
/// (The whole AUROC has this property too: Menon et al., "Learning from Corrupted Binary Labels via Class-Probability
/// Estimation", ICML 2015.) 0 without scores.
pub fn exceedance(normal: &[f64], unlabelled: &[f64]) -> f64 {
    let mut highest = normal.to_vec();
    highest.sort_by(|a, b| b.total_cmp(a));
    highest.truncate(normal.len().div_ceil(TOP));
    let mut sorted = unlabelled.to_vec();
    sorted.sort_by(f64::total_cmp);
    let share = |normal: &f64| {
        let [below, up_to] =
            [sorted.partition_point(|score| score < normal), sorted.partition_point(|score| score <= normal)];
        (sorted.len() - up_to) as f64 + 0.5 * (up_to - below) as f64
    };
    let pairs = (highest.len() * sorted.len()) as f64;
    if pairs > 0.0 { highest.iter().map(share).sum::<f64>() / pairs } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::SafeTensors;

    fn close(found: &[f64], golden: &[f64], tolerance: f64) {
        assert_eq!(found.len(), golden.len());
        for (index, (found, golden)) in found.iter().zip(golden).enumerate() {
            assert!((found - golden).abs() <= tolerance * golden.abs(), "{index}: {found} is not {golden}");
        }
    }

    #[test]
    fn a_tally_gives_the_area_of_the_ranking() {
        let mut stream = crate::engine::philox::Stream::new(3, 0);
        // Few different values, so that there are ties, of both signs and of zero.
        let scores: Vec<f32> = (0..4000).map(|_| (stream.normal() * 8.0).round() as f32).collect();
        let labels: Vec<bool> = scores.iter().map(|&score| stream.normal() + f64::from(score) / 8.0 > 1.0).collect();
        let mut tally = Tally::default();
        scores.chunks(999).zip(labels.chunks(999)).for_each(|(scores, labels)| tally.add(scores, labels));
        assert_eq!(tally.auroc(), auroc(&scores, &labels));
        assert!(tally.auroc().unwrap() > 0.7);
        let fine: Vec<f32> = (0..4000).map(|_| stream.normal() as f32).collect();
        let mut tally = Tally::default();
        tally.add(&fine, &labels);
        let error = tally.auroc().unwrap() - auroc(&fine, &labels).unwrap();
        assert!(error.abs() < 1e-6, "{error}");
        assert_eq!(Tally::default().auroc(), None);
        tally.add(&[f32::NAN], &[true]);
        assert_eq!(tally.auroc(), None);
    }

    #[test]
    fn scores_that_are_not_finite_are_counted() {
        assert_eq!(check_finite(&[1.0, -2.0]), Ok(()));
        let refused = check_finite(&[1.0, f64::NAN, f64::INFINITY]);
        assert_eq!(refused, Err(ScoreError::Scores { count: 2, of: 3 }));
    }

    #[test]
    fn agrees_with_the_oracle() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/kernels-tests/golden/oracle.safetensors");
        let bytes = std::fs::read(path).expect("the golden vectors");
        let goldens = SafeTensors::deserialize(&bytes).expect("a safetensors file");
        let read = |name: &str| -> Vec<f64> {
            let tensor = goldens.tensor(name).expect("a golden vector");
            tensor.data().chunks_exact(8).map(|word| f64::from_le_bytes(word.try_into().expect("8 bytes"))).collect()
        };
        let fitted = LedoitWolf::fit(&read("score/z_fit"), 6).unwrap();
        close(&fitted.score(&read("score/z")), &read("score/score"), 1e-9);
    }

    /// x = ±1, ±3: S = 5 needs no shrinkage, so the distance is |x| / √5.
    #[test]
    fn one_feature_is_measured_in_standard_deviations() {
        let fitted = LedoitWolf::fit(&[-3.0, -1.0, 1.0, 3.0], 1).unwrap();
        assert_eq!(fitted.shrinkage(), 0.0);
        close(&fitted.score(&[5.0, 0.0]), &[5f64.sqrt(), 0.0], 1e-14);
    }

    #[test]
    fn the_whitening_gives_the_score() {
        let fitted = LedoitWolf::fit(&[2., 0., 1., -2., 1., 3., 0., 1., 0.5, 0., -1., 2.], 3).unwrap();
        let row = [1.0, 0.3, -0.7];
        let offset: Vec<f64> = row.iter().zip(fitted.parts().0).map(|(value, mean)| value - mean).collect();
        let whitened = fitted
            .whitening()
            .chunks_exact(3)
            .map(|line| line.iter().zip(&offset).map(|(factor, value)| factor * value).sum::<f64>())
            .collect::<Vec<f64>>();
        close(&[whitened.iter().map(|value| value * value).sum::<f64>().sqrt()], &fitted.score(&row), 1e-12);
    }

    #[test]
    fn the_gradient_is_the_derivative_of_the_score() {
        let fitted = LedoitWolf::fit(&[2., 0., 1., -2., 1., 3., 0., 1., 0.5, 0., -1., 2.], 3).unwrap();
        let (row, step) = ([1.0, 0.3, -0.7], 1e-6);
        let slopes: Vec<f64> = (0..3)
            .map(|i| {
                let at = |by: f64| std::array::from_fn(|j| row[j] + if i == j { by } else { 0.0 });
                let [up, down]: [[f64; 3]; 2] = [at(step), at(-step)];
                (fitted.score(&up)[0] - fitted.score(&down)[0]) / (2.0 * step)
            })
            .collect();
        close(&fitted.gradient(&row), &slopes, 1e-7);
        assert_eq!(fitted.gradient(fitted.parts().0), [0.0; 3]);
    }

    #[test]
    fn invalid_parts_are_refused() {
        let (mean, root) = (vec![0.0, 1.0], vec![1.0, 0.0, 0.5, 2.0]);
        let whole = LedoitWolf::from_parts(mean.clone(), root.clone(), 0.1).unwrap();
        close(&whole.score(&[0.0, 5.0]), &[2.0], 1e-14);
        assert!(LedoitWolf::from_parts(mean.clone(), vec![1.0; 3], 0.1).is_none());
        assert!(LedoitWolf::from_parts(mean.clone(), vec![1.0, 0.0, 0.5, f64::NAN], 0.1).is_none());
        assert!(LedoitWolf::from_parts(mean, vec![1.0, 0.0, 0.5, 0.0], 0.1).is_none());
        assert!(LedoitWolf::from_parts(Vec::new(), Vec::new(), 0.0).is_none());
    }

    /// Rows (±2, 0), (0, ±1) have S = diag(2, ½), μ = 5/4, d² = 9/16, b² = (34/4 − 17/4) / 8 = 17/32, ρ = 17/18.
    #[test]
    fn shrinkage_agrees_with_pencil_and_paper() {
        let fitted = LedoitWolf::fit(&[2., 0., -2., 0., 0., 1., 0., -1.], 2).unwrap();
        close(&[fitted.shrinkage()], &[17.0 / 18.0], 1e-14);
        let variance = 2.0 / 18.0 + 17.0 / 18.0 * 1.25;
        close(&fitted.score(&[3.0, 0.0]), &[(9.0f64 / variance).sqrt()], 1e-14);
    }

    #[test]
    fn constant_features_and_few_rows_are_handled() {
        let fitted = LedoitWolf::fit(&[1., 0., 2., 0., 4., 0.], 2).unwrap();
        assert!(fitted.score(&[2.0, 1.0])[0] > fitted.score(&[2.0, 0.0])[0]);
    }

    #[test]
    fn degenerate_embeddings_are_refused() {
        let constant = [0.1, 0.7, 0.3].repeat(7);
        assert_eq!(LedoitWolf::fit(&constant, 3).unwrap_err(), ScoreError::Singular { rows: 7, feature: 0 });
        assert_eq!(LedoitWolf::fit(&[1.0, 2.0], 2).unwrap_err(), ScoreError::Singular { rows: 1, feature: 0 });
        let diverged = [1.0, 2.0, 3.0, f64::NAN];
        assert_eq!(LedoitWolf::fit(&diverged, 2).unwrap_err(), ScoreError::NotFinite { row: 1 });
        assert!(LedoitWolf::fit(&[1e200, 1e-200, -1e200, 0.0], 2).is_err(), "the covariance overflows");
    }

    #[test]
    fn auroc_by_hand() {
        let labels = [false, false, true, true];
        assert_eq!(auroc(&[0.1, 0.4, 0.35, 0.8], &labels), Some(0.75));
        assert_eq!(auroc(&[1.0, 2.0, 3.0, 4.0], &labels), Some(1.0));
        assert_eq!(auroc(&[4.0, 3.0, 2.0, 1.0], &labels), Some(0.0));
        assert_eq!(auroc(&[1.0, 2.0, 2.0, 3.0], &labels), Some(0.875));
        assert_eq!(auroc(&[7.0; 4], &labels), Some(0.5));
        assert_eq!(auroc(&[0.0, -0.0], &[false, true]), Some(0.5));
    }

    #[test]
    fn auroc_of_one_class_is_none() {
        assert_eq!(auroc(&[1.0, 2.0], &[true, true]), None);
        assert_eq!(auroc(&[1.0, 2.0], &[false, false]), None);
        assert_eq!(auroc::<f64>(&[], &[]), None);
        assert_eq!(auroc(&[1.0, f64::NAN], &[false, true]), None);
        assert_eq!(auroc(&[1.0, f64::INFINITY], &[false, true]), None);
    }

    /// Scores with a tie between the classes, and scikit-learn's metrics for them.
    #[test]
    fn metrics_agree_with_scikit_learn() {
        let scores = [0.1, 0.4, 0.35, 0.8, 0.4, 0.9, 0.2];
        let labels = [false, false, true, true, true, false, false];
        let ranking = Ranking::new(&scores, &labels).unwrap();
        close(
            &[ranking.auroc(), ranking.average_precision(), ranking.best_f1().f1()],
            &[0.625, 8.0 / 15.0, 0.75],
            1e-15,
        );
        assert_eq!(ranking.best_f1().threshold, 0.35);
        let cut = ranking.at(0.4);
        assert_eq!(cut, Cut { threshold: 0.4, hits: 2, misses: 1, false_alarms: 2, passes: 2 });
        close(&[cut.precision().unwrap(), cut.recall(), cut.f1()], &[0.5, 2.0 / 3.0, 4.0 / 7.0], 1e-15);
        close(&[cut.false_alarm_rate()], &[0.5], 0.0);
        let none = ranking.at(1.0);
        assert_eq!((none.hits, none.precision(), none.recall(), none.f1()), (0, None, 0.0, 0.0));
        assert!(Ranking::new(&scores, &[true; 7]).is_none());
    }

    #[test]
    fn of_equal_f1_the_higher_threshold_is_kept() {
        let ranking = Ranking::new(&[4.0, 3.0, 2.0, 1.0], &[true, false, false, true]).unwrap();
        assert_eq!(ranking.best_f1().threshold, 4.0);
        let tied = Ranking::new(&[1.0; 4], &[true, false, false, true]).unwrap();
        assert_eq!(tied.cuts().count(), 1);
        assert_eq!((tied.auroc(), tied.average_precision()), (0.5, 0.5));
    }

    /// As many f32 scores as a test set has pixels: 0..n, every third an anomaly. Anomaly 3k beats the 2k normals below
    /// it.
    #[test]
    fn millions_of_pixels_are_ranked_exactly() {
        let thirds = 400_000;
        let scores: Vec<f32> = (0..3 * thirds).map(|index| index as f32).collect();
        let labels: Vec<bool> = (0..3 * thirds).map(|index| index % 3 == 0).collect();
        let expected = (thirds - 1) as f64 / (2 * thirds) as f64;
        assert_eq!(auroc(&scores, &labels), Some(expected));
    }

    #[test]
    fn exceedance_counts_unlabelled_images_above_the_highest_normal_ones() {
        let normal: Vec<f64> = (0..40).map(f64::from).collect();
        // The highest twentieth are 38 and 39.
        close(&[exceedance(&normal, &[10.0, 38.0, 38.5, 50.0])], &[(2.5 + 1.0) / 8.0], 1e-15);
        close(&[exceedance(&normal, &[1.0; 3]), exceedance(&normal, &[99.0; 3])], &[0.0, 1.0], 0.0);
        close(&[exceedance(&[5.0], &[4.0, 5.0, 6.0])], &[0.5], 0.0);
        assert_eq!((exceedance(&[], &[1.0]), exceedance(&[1.0], &[])), (0.0, 0.0));
    }

    /// Two thirds of the unlabelled images are normal: the figure is their third of 1 / 40, and a third of the partial area
    /// of the anomalies.
    #[test]
    fn exceedance_orders_detectors_as_labels_would() {
        let normal: Vec<f64> = (0..400).map(f64::from).collect();
        let with = |shift: f64| {
            let anomalies: Vec<f64> = normal.iter().map(|score| score + shift).collect();
            let mixed: Vec<f64> = [&normal[..], &normal, &anomalies].concat();
            [exceedance(&normal, &mixed), exceedance(&normal, &anomalies)]
        };
        for shift in [0.0, 5.0, 50.0, 390.0, 500.0] {
            let [mixed, labelled] = with(shift);
            close(&[mixed], &[(2.0 / 40.0 + labelled) / 3.0], 1e-12);
        }
    }
}
