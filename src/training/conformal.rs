//! Thresholds by split conformal prediction: what the scores of held-out normal images promise about new ones.
//!
//! If none of n held-out images and a new normal image is special (they are exchangeable), the new score is equally likely to have
//! each rank among the n + 1. So it exceeds the k-th smallest held-out score with probability (n + 1 − k) / (n + 1), over all draws
//! of both. For the held-out images at hand the true rate is a number drawn from Beta(n + 1 − k, k), and the number of false alarms
//! among m new normal images is beta-binomial. Where scores are equal, there are fewer false alarms.

use special::Beta;

/// The share of runs in which the intervals of this module contain what they are of.
pub const SURE: f64 = 0.95;

/// A product that is whole but for rounding is whole.
const ROUNDING: f64 = 1e-9;

/// How many held-out images bear a rate of false alarms, which is between 0 and 1: the least n with (n + 1) · rate ≥ 1.
pub fn needed(rate: f64) -> usize {
    (1.0 / rate - 1.0 - ROUNDING).ceil().max(1.0) as usize
}

/// A rate of false alarms that so few held-out images cannot promise.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error(
    "a false-alarm rate of {} needs {} normal images held out of training, and there are {held_out}: ask for {} or more, or \
     train with --held-out {} (it is the default from {} normal images on)",
    percent(*rate, 6),
    needed(*rate),
    self.borne(),
    needed(*rate),
    needed(*rate).saturating_mul(4),
)]
pub struct TooFew {
    /// Between 0 and 1.
    pub rate: f64,
    pub held_out: usize,
}

impl TooFew {
    /// The least rate that the images bear, rounded up.
    fn borne(&self) -> String {
        let least = 100.0 / (self.held_out as f64 + 1.0);
        let unit = 10f64.powi(least.log10().floor() as i32 - 1);
        percent((least / unit - ROUNDING).ceil() * unit / 100.0, 2)
    }
}

/// A share as a percentage with at most so many significant digits, such as `0.83 %`.
pub(crate) fn percent(share: f64, digits: usize) -> String {
    let value = 100.0 * share;
    let before = if value > 0.0 { value.log10().floor() as i32 + 1 } else { 1 };
    let text = format!("{value:.0$}", (digits as i32 - before).max(0) as usize);
    let trimmed = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{trimmed} %")
}

/// The share of n + 1 normal images, the n of `held_out` and a new one with this score, whose scores are at least as high as the new
/// one's. A new normal image has a p-value of at most p with probability at most p. `None` without held-out images, or if the score
/// is not a number.
pub fn p_value(held_out: &[f64], score: f64) -> Option<f64> {
    let reaching = held_out.iter().filter(|&&own| own >= score).count();
    (!held_out.is_empty() && !score.is_nan()).then(|| (1 + reaching) as f64 / (1 + held_out.len()) as f64)
}

/// The score from which an image counts as an anomaly, and the images it was set on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Threshold {
    pub score: f64,
    /// Normal images, not trained on, whose scores set the threshold; 0 in models of earlier versions, which used their
    /// training images.
    pub held_out: usize,
    /// How many of these images it flags.
    pub exceeded: usize,
    /// The rate of false alarms that was asked for, between 0 and 1.
    pub asked: f64,
}

impl Threshold {
    /// Just above the k-th smallest of n scores of held-out normal images, k = ⌈(n + 1)(1 − rate)⌉: a new normal image is flagged
    /// with probability at most `rate`. A score is flagged exactly if its [`p_value`] is at most `rate`.
    ///
    /// # Errors
    /// When n is too small: k would be n + 1.
    ///
    /// # Panics
    /// When `rate` is not between 0 and 1.
    pub fn promising(scores: &[f64], rate: f64) -> Result<Self, TooFew> {
        let too_few = TooFew { rate, held_out: scores.len() };
        Threshold::nearest(scores, rate).filter(Threshold::is_kept).ok_or(too_few)
    }

    /// As [`promising`](Threshold::promising), but where n is too small just above the highest score, which a new normal image
    /// exceeds with probability 1 / (n + 1). `None` without images.
    ///
    /// # Panics
    /// When `rate` is not between 0 and 1.
    pub fn nearest(scores: &[f64], rate: f64) -> Option<Self> {
        assert!(rate > 0.0 && rate < 1.0, "a rate of false alarms is between 0 and 1, not {rate}");
        let mut sorted = scores.to_vec();
        sorted.sort_by(f64::total_cmp);
        let mut threshold = Threshold { score: f64::NAN, held_out: sorted.len(), exceeded: 0, asked: rate };
        let [_, rank] = threshold.ranks()?;
        threshold.score = sorted[rank - 1].next_up();
        threshold.exceeded = sorted.iter().filter(|&&own| is_flagged(own, threshold.score)).count();
        Some(threshold)
    }

    /// [n + 1 − k, k]: how many of n + 1 exchangeable scores are flagged, and how many are not.
    fn ranks(&self) -> Option<[usize; 2]> {
        let n = self.held_out;
        let flagged = (self.asked * (n + 1) as f64 + ROUNDING) as usize;
        (n > 0).then(|| flagged.clamp(1, n)).map(|flagged| [flagged, n + 1 - flagged])
    }

    /// The probability that a new normal image is flagged, over all draws of the held-out images and of the new one; at most the rate
    /// asked for if that [`is_kept`](Threshold::is_kept). `None` if the threshold was set on training images.
    pub fn promised(&self) -> Option<f64> {
        self.ranks().map(|[flagged, rest]| flagged as f64 / (flagged + rest) as f64)
    }

    /// Whether the promised rate is at most the rate asked for.
    pub fn is_kept(&self) -> bool {
        self.held_out >= needed(self.asked)
    }

    /// Where the true rate of false alarms lies in [`SURE`] of all draws of the held-out images, from the quantiles of Beta(n + 1 − k,
    /// k). `None` if the threshold was set on training images.
    pub fn true_rate(&self) -> Option<[f64; 2]> {
        let [flagged, rest] = self.ranks()?.map(|count| count as f64);
        Some(tails().map(|tail| tail.inv_inc_beta(flagged, rest, flagged.ln_beta(rest))))
    }

    /// How many of `normals` new normal images are flagged in at least [`SURE`] of all draws, at least and at most. `None` if the
    /// threshold was set on training images.
    pub fn false_alarms(&self, normals: usize) -> Option<[usize; 2]> {
        let up_to = beta_binomial(normals, self.ranks()?);
        Some(tails().map(|tail| up_to.iter().position(|&share| share >= tail).unwrap_or(normals)))
    }
}

/// Whether a score is at least the threshold and so counts as an anomaly.
pub fn is_flagged(score: f64, threshold: f64) -> bool {
    score >= threshold
}

/// The shares below both ends of an interval.
fn tails() -> [f64; 2] {
    [(1.0 - SURE) / 2.0, (1.0 + SURE) / 2.0]
}

/// The probability of at most j successes in `trials`, for each j, where their rate is drawn from Beta(α, β).
fn beta_binomial(trials: usize, [alpha, beta]: [usize; 2]) -> Vec<f64> {
    let [m, alpha, beta] = [trials, alpha, beta].map(|count| count as f64);
    // The logarithm, since the probability of none of many may be less than the least f64.
    let (mut log, mut sum) = (alpha.ln_beta(beta + m) - alpha.ln_beta(beta), 0.0);
    let up_to = (0..=trials).map(|successes| {
        let j = successes as f64;
        sum += log.exp();
        log += ((m - j) * (alpha + j) / ((j + 1.0) * (beta + m - j - 1.0))).ln();
        sum
    });
    up_to.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::philox::Stream;

    fn counted(count: usize) -> Vec<f64> {
        (1..=count).rev().map(|score| score as f64).collect()
    }

    #[test]
    fn a_threshold_has_the_rank_of_its_definition() {
        let score = |count: usize, rate: f64| Threshold::promising(&counted(count), rate).map(|found| found.score);
        // ⌈20 · 0.95⌉ = 19, ⌈20 · 0.5⌉ = 10, ⌈20 · 0.1⌉ = 2.
        for (rate, rank) in [(0.05, 19.0f64), (0.5, 10.0), (0.9, 2.0), (0.06, 19.0), (0.1, 18.0), (0.999, 1.0)] {
            assert_eq!(score(19, rate), Ok(rank.next_up()), "{rate}");
        }
        assert_eq!(score(19, 0.049), Err(TooFew { rate: 0.049, held_out: 19 }));
        assert_eq!((score(98, 0.01).is_ok(), score(99, 0.01)), (false, Ok(99f64.next_up())));
        assert_eq!(score(199, 0.01), Ok(198f64.next_up()));
        // 0.07 · 100 is 7.000000000000001, and 0.29 · 100 is 28.999999999999996.
        assert_eq!((score(99, 0.07), score(99, 0.29)), (Ok(93f64.next_up()), Ok(71f64.next_up())));

        let nearest = |count: usize| Threshold::nearest(&counted(count), 0.01);
        for count in [1, 12, 98, 99] {
            let score = (count as f64).next_up();
            let expected = Threshold { score, held_out: count, exceeded: 0, asked: 0.01 };
            assert_eq!(
                nearest(count),
                Some(expected),
                "below 99 images the highest score, which is not flagged itself"
            );
            assert_eq!(nearest(count).unwrap().promised(), Some(1.0 / (count as f64 + 1.0)));
        }
        assert_eq!((nearest(0), nearest(199).unwrap().exceeded), (None, 1));
        let tied = Threshold::nearest(&[2.0; 300], 0.01).unwrap();
        assert_eq!((tied.exceeded, is_flagged(2.0, tied.score)), (0, false));
        let of_training = Threshold { held_out: 0, ..tied };
        assert_eq!((of_training.promised(), of_training.true_rate(), of_training.false_alarms(9)), (None, None, None));
    }

    #[test]
    fn what_is_needed_is_told() {
        assert_eq!([0.01, 0.05, 0.1, 0.5, 0.001, 0.03].map(needed), [99, 19, 9, 1, 999, 33]);
        let told = TooFew { rate: 0.01, held_out: 30 }.to_string();
        let parts =
            ["of 1 % needs 99 normal", "there are 30: ask for 3.3 %", "--held-out 99", "from 396 normal images"];
        assert!(parts.iter().all(|part| told.contains(part)), "{told}");
        for held_out in [1, 6, 8, 9, 30, 98, 333, 998, 5000] {
            let too_few = TooFew { rate: 1e-6, held_out };
            let advised: f64 = too_few.borne().trim_end_matches(" %").parse().unwrap();
            assert!(Threshold::promising(&counted(held_out), advised / 100.0).is_ok(), "{advised} % of {held_out}");
        }
        let shares = [0.0, 0.01, 0.07, 0.123456, 1.0, 0.00084, 0.1, 0.0302].map(|share| percent(share, 2));
        assert_eq!(shares, ["0 %", "1 %", "7 %", "12 %", "100 %", "0.084 %", "10 %", "3 %"]);
    }

    #[test]
    fn an_image_is_flagged_exactly_if_its_p_value_is_at_most_the_rate() {
        let mut stream = Stream::new(5, 0);
        // Few different scores, so that there are ties.
        let mut drawn = |count: usize| -> Vec<f64> { (0..count).map(|_| (3.0 * stream.normal()).round()).collect() };
        for held in [1, 7, 19, 20, 99, 150] {
            let (held_out, new) = (drawn(held), drawn(100));
            for rate in [0.01, 0.05, 0.1, 0.3, 0.5] {
                let Ok(threshold) = Threshold::promising(&held_out, rate) else { continue };
                for &score in &new {
                    let p = p_value(&held_out, score).unwrap();
                    assert_eq!(is_flagged(score, threshold.score), p <= rate + 1e-12, "{score}: {p} at {rate}");
                }
            }
        }
        assert_eq!(p_value(&[1.0, 2.0, 3.0], 2.0), Some(0.75));
        assert_eq!((p_value(&[1.0], f64::INFINITY), p_value(&[1.0], 0.0)), (Some(0.5), Some(1.0)));
        assert_eq!((p_value(&[], 1.0), p_value(&[1.0], f64::NAN)), (None, None));
    }

    /// None of m new scores exceeds the highest of n with probability n / (n + m). With one flagged and one not, every number of
    /// false alarms is equally likely. The highest of n uniform numbers is at most x with probability xⁿ.
    #[test]
    fn the_intervals_agree_with_pencil_and_paper() {
        let close = |found: f64, expected: f64| {
            assert!((found - expected).abs() < 1e-9 * expected, "{found} is not {expected}");
        };
        close(beta_binomial(200, [1, 30])[0], 30.0 / 230.0);
        close(beta_binomial(100_000, [1, 30])[0], 30.0 / 100_030.0);
        for (j, &up_to) in beta_binomial(9, [1, 1]).iter().enumerate() {
            close(up_to, (j + 1) as f64 / 10.0);
        }
        // C(4, j) · B(j + 2, 7 − j) / B(2, 3) by hand: 15, 20, 18, 12, 5 of 70.
        for (&up_to, sum) in beta_binomial(4, [2, 3]).iter().zip([15.0, 35.0, 53.0, 65.0, 70.0]) {
            close(up_to, sum / 70.0);
        }
        close(*beta_binomial(20_000, [200, 800]).last().unwrap(), 1.0);
        for count in [1usize, 12, 120] {
            let threshold = Threshold::nearest(&counted(count), 1.0 / (count as f64 + 1.0)).unwrap();
            let [low, high] = threshold.true_rate().unwrap();
            close(low, 1.0 - 0.975f64.powf(1.0 / count as f64));
            close(high, 1.0 - 0.025f64.powf(1.0 / count as f64));
        }
        let median = Threshold::nearest(&counted(1), 0.5).unwrap();
        assert_eq!((median.false_alarms(99), median.false_alarms(0)), (Some([2, 97]), Some([0, 0])));
    }

    /// The greatest distance between the shares of simulated runs with at most j false alarms and those of the beta-binomial, and the
    /// share of runs within the interval. A run draws held-out and new scores alike and sets the threshold on the score of rank
    /// k + `off`.
    fn simulated(held: usize, rate: f64, new: usize, off: isize) -> (f64, f64) {
        const RUNS: usize = 2000;
        let mut stream = Stream::new(7, held as u32);
        let (mut counts, mut within) = (vec![0; new + 1], 0);
        let mut ranks = [0, 0];
        for _ in 0..RUNS {
            let mut held_out: Vec<f64> = (0..held).map(|_| stream.normal()).collect();
            let threshold = Threshold::promising(&held_out, rate).unwrap();
            held_out.sort_by(f64::total_cmp);
            let place = held_out.iter().position(|score| score.next_up() == threshold.score).unwrap();
            let score = held_out[place.checked_add_signed(off).unwrap()].next_up();
            let alarms = (0..new).filter(|_| is_flagged(stream.normal(), score)).count();
            let [least, most] = threshold.false_alarms(new).unwrap();
            counts[alarms] += 1;
            within += usize::from((least..=most).contains(&alarms));
            ranks = threshold.ranks().unwrap();
        }
        let mut sum = 0;
        let distances = counts.iter().zip(beta_binomial(new, ranks)).map(|(count, expected)| {
            sum += count;
            (sum as f64 / RUNS as f64 - expected).abs()
        });
        (distances.fold(0.0, f64::max), within as f64 / RUNS as f64)
    }

    #[test]
    fn false_alarms_on_exchangeable_scores_are_distributed_as_promised_and_those_of_another_rank_are_not() {
        // Kolmogorov's distance of 2000 runs is beyond this once in ten thousand times.
        let most = 0.05;
        for (held, rate, new) in [(19, 0.1, 50), (24, 0.04, 100), (99, 0.01, 300), (120, 0.05, 300), (40, 0.5, 40)] {
            let (distance, within) = simulated(held, rate, new, 0);
            assert!(distance < most, "{held} at {rate}: {distance}");
            assert!(within > 0.935, "{held} at {rate}: {within} of the runs are within");
            let wrong: &[isize] = if rate * (held as f64 + 1.0) < 2.0 { &[-1] } else { &[-1, 1] };
            for &off in wrong {
                let (distance, _) = simulated(held, rate, new, off);
                assert!(distance > most, "{held} at {rate}, rank {off:+}: {distance}");
            }
        }
    }
}
