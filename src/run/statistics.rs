//! Statistics for comparing methods over tasks: means, ranks, Wilcoxon's signed-rank test, and Nemenyi's critical difference.

use std::f64::consts::SQRT_2;

/// Pairs up to which the signed-rank test counts every assignment of signs.
const EXACT: usize = 25;

/// Arithmetic mean; `None` of nothing.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// Standard deviation of a sample, √(Σ(x − x̄)² / (n − 1)); `None` of fewer than two.
pub fn standard_deviation(values: &[f64]) -> Option<f64> {
    let mean = mean(values)?;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (values.len() > 1).then(|| (squares / (values.len() - 1) as f64).sqrt())
}

/// The rank of each value, 1 for the smallest; equal values share the mean of their ranks.
pub fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut before = 0;
    for tied in order.chunk_by(|&a, &b| values[a] == values[b]) {
        let shared = before as f64 + (tied.len() + 1) as f64 / 2.0;
        tied.iter().for_each(|&index| ranks[index] = shared);
        before += tied.len();
    }
    ranks
}

/// Quantiles of the studentised range for infinitely many degrees of freedom at 5 %, divided by √2, for 2, 3, … methods.
const NEMENYI: [f64; 19] = [
    1.960, 2.344, 2.569, 2.728, 2.850, 2.948, 3.031, 3.102, 3.164, 3.219, 3.268, 3.313, 3.354, 3.391, 3.426, 3.458,
    3.489, 3.517, 3.544,
];

/// Nemenyi's critical difference: average ranks of `methods` methods over `tasks` tasks that are further apart differ significantly, at
/// 5 % for all pairs together. `None` without two methods and two tasks, and for more than twenty methods.
pub fn critical_difference(methods: usize, tasks: usize) -> Option<f64> {
    let quantile = NEMENYI.get(methods.checked_sub(2)?)?;
    let [k, n] = [methods, tasks].map(|count| count as f64);
    (tasks >= 2).then(|| quantile * (k * (k + 1.0) / (6.0 * n)).sqrt())
}

/// What Wilcoxon's signed-rank test found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wilcoxon {
    /// The smaller of the rank sums of the positive and of the negative differences.
    pub statistic: f64,
    /// Two-sided.
    pub p: f64,
    /// Pairs that differ; the others are left out.
    pub pairs: usize,
}

/// Wilcoxon's signed-rank test of paired `differences` being symmetric about zero, two-sided. Zeros are left out
/// (Wilcoxon's own treatment, SciPy's `zero_method="wilcox"`). p is exact for up to 25 differences without zeros or ties,
/// else from the normal approximation with corrections for ties and for continuity. `None` when no difference is left,
/// or one is not finite.
pub fn wilcoxon(differences: &[f64]) -> Option<Wilcoxon> {
    if differences.iter().any(|difference| !difference.is_finite()) {
        return None;
    }
    let nonzero: Vec<f64> = differences.iter().copied().filter(|&difference| difference != 0.0).collect();
    let sizes: Vec<f64> = nonzero.iter().map(|difference| difference.abs()).collect();
    let ranks = ranks(&sizes);
    let pairs = nonzero.len();
    if pairs == 0 {
        return None;
    }
    let positive: f64 =
        nonzero.iter().zip(&ranks).filter(|(difference, _)| **difference > 0.0).map(|(_, rank)| rank).sum();
    let n = pairs as f64;
    let statistic = positive.min(n * (n + 1.0) / 2.0 - positive);

    let mut sorted = sizes;
    sorted.sort_by(f64::total_cmp);
    let ties: Vec<f64> = sorted.chunk_by(|a, b| a == b).map(|tied| tied.len() as f64).collect();
    let p = if pairs <= EXACT && pairs == differences.len() && ties.len() == pairs {
        exact(pairs, statistic as usize)
    } else {
        let correction: f64 = ties.iter().map(|tied| tied * (tied * tied - 1.0)).sum();
        let deviation = ((n * (n + 1.0) * (2.0 * n + 1.0) - correction / 2.0) / 24.0).sqrt();
        let distance = (n * (n + 1.0) / 4.0 - statistic - 0.5).max(0.0);
        libm::erfc(distance / deviation / SQRT_2)
    };
    Some(Wilcoxon { statistic, p: p.min(1.0), pairs })
}

/// Twice the share of the 2ⁿ assignments of signs to the ranks 1…n whose rank sum is at most `statistic`.
fn exact(n: usize, statistic: usize) -> f64 {
    // ways[s]: subsets of the ranks so far whose sum is s.
    let mut ways = vec![0u64; n * (n + 1) / 2 + 1];
    ways[0] = 1;
    for rank in 1..=n {
        for sum in (rank..ways.len()).rev() {
            ways[sum] += ways[sum - rank];
        }
    }
    2.0 * ways[..=statistic].iter().sum::<u64>() as f64 / (1u64 << n) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_critical_difference_of_demsars_example() {
        // Demšar 2006, section 3.2.4: four classifiers on fourteen data sets.
        assert!((critical_difference(4, 14).unwrap() - 1.25).abs() < 0.005);
        assert_eq!([critical_difference(1, 9), critical_difference(3, 1), critical_difference(21, 9)], [None; 3]);
        assert!(critical_difference(20, 9).is_some());
    }

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() <= 1e-12 * expected.abs(), "{found} is not {expected}");
    }

    #[test]
    fn mean_and_deviation_by_hand() {
        assert_eq!((mean(&[]), standard_deviation(&[]), standard_deviation(&[2.0])), (None, None, None));
        assert_eq!((mean(&[2.0]), mean(&[1.0, 2.0, 6.0])), (Some(2.0), Some(3.0)));
        close(standard_deviation(&[1.0, 2.0, 6.0]).unwrap(), 7f64.sqrt());
    }

    #[test]
    fn equal_values_share_their_ranks() {
        assert!(ranks(&[]).is_empty());
        assert_eq!(ranks(&[0.3, 0.1, 0.3, 0.2, 0.3]), [4.0, 1.0, 4.0, 2.0, 4.0]);
        assert_eq!(ranks(&[0.0, -0.0]), [1.5, 1.5]);
    }

    fn agrees(differences: &[f64], statistic: f64, p: f64) {
        for sign in [1.0, -1.0] {
            let signed: Vec<f64> = differences.iter().map(|difference| sign * difference).collect();
            let found = wilcoxon(&signed).expect("differences");
            assert_eq!(found.statistic, statistic, "{signed:?}");
            close(found.p, p);
        }
    }

    /// Figures of SciPy 1.17.1: `wilcoxon(d, zero_method="wilcox", method="exact")`.
    #[test]
    fn exact_p_agrees_with_scipy() {
        agrees(&[0.05, -0.02, 0.08, 0.06, 0.09, 0.03, 0.07, -0.04], 4.0, 0.0546875);
        agrees(&[1.0, 2.0, 3.0], 0.0, 0.25);
        agrees(&[3.0, -1.0, -2.0], 3.0, 1.0);
        let thirds: Vec<f64> = (1..=25).map(|i| if i % 3 == 0 { -f64::from(i) } else { f64::from(i) }).collect();
        agrees(&thirds, 108.0, 0.148_479_580_879_211_43);
    }

    /// The same with `correction=True, method="asymptotic"`.
    #[test]
    fn approximate_p_agrees_with_scipy() {
        agrees(&[1.0, 1.0, -2.0, 0.0, 2.0, -3.0, 2.0, 4.0, -3.0, 1.0], 20.0, 0.811_235_410_927_946_8);
        let many: Vec<f64> = (0..30).map(|i| f64::from(i * 37 % 61 - 22) / 8.0).collect();
        agrees(&many, 126.5, 0.029_996_851_382_404_13);
        agrees(&[1.0, -1.0], 1.5, 1.0);
        agrees(&[1.0, 1.0], 0.0, 0.345_778_586_151_160_3);
    }

    #[test]
    fn without_differences_there_is_no_test() {
        for useless in [&[][..], &[0.0, -0.0], &[1.0, f64::NAN], &[f64::INFINITY]] {
            assert_eq!(wilcoxon(useless), None);
        }
    }
}
