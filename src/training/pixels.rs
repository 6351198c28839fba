//! How well heat maps find the pixels of defects: areas under curves over all pixels of a test set, in bounded memory.

use std::collections::BTreeMap;

/// The connected parts of a mask of `width` columns, each as the indices of its pixels, those with the most pixels first. Diagonal
/// neighbours belong together.
///
/// # Panics
/// When the mask is not a whole number of rows.
pub fn regions(mask: &[bool], width: usize) -> Vec<Vec<usize>> {
    assert!(width > 0 && mask.len().is_multiple_of(width), "{} pixels in rows of {width}", mask.len());
    let (mut left, height) = (mask.to_vec(), mask.len() / width);
    let mut found: Vec<Vec<usize>> = Vec::new();
    for start in 0..mask.len() {
        if !std::mem::take(&mut left[start]) {
            continue;
        }
        let (mut region, mut next) = (vec![start], 0);
        while let Some(&pixel) = region.get(next) {
            next += 1;
            let (x, y) = (pixel % width, pixel / width);
            for y in y.saturating_sub(1)..height.min(y + 2) {
                for x in x.saturating_sub(1)..width.min(x + 2) {
                    if std::mem::take(&mut left[y * width + x]) {
                        region.push(y * width + x);
                    }
                }
            }
        }
        found.push(region);
    }
    found.sort_by_key(|region| std::cmp::Reverse(region.len()));
    found
}

/// Areas under curves over pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PixelMetrics {
    /// Under the ROC curve, of all pixels together.
    pub auroc: Option<f64>,
    /// Under the mean share of each defect's region that is found, up to a false-positive rate of [`MOST_FALSE`], divided by it.
    pub aupro: Option<f64>,
}

/// Up to which false-positive rate of pixels AUPRO is taken, as MVTec AD has it.
pub const MOST_FALSE: f64 = 0.3;

/// Counts of scored pixels, from which the areas follow in bounded memory: scores that agree in sign, exponent and the first 14 bits of
/// the fraction count as equal.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// In ascending order of scores.
    counts: BTreeMap<u32, Count>,
    regions: u64,
    has_infinite: bool,
}

/// Pixels of one score.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    normal: u64,
    anomalous: u64,
    /// The sum of their shares of their regions.
    overlap: f64,
}

impl Tally {
    /// Adds the scores of an image of `width` columns; `mask` says which pixels belong to a defect, none if there is no mask.
    ///
    /// # Panics
    /// When the sizes differ.
    pub fn add(&mut self, scores: &[f32], mask: Option<&[bool]>, width: usize) {
        let mut regions_of = vec![None; scores.len()];
        if let Some(mask) = mask {
            assert_eq!(scores.len(), mask.len(), "one score a pixel");
            for region in regions(mask, width) {
                self.regions += 1;
                region.iter().for_each(|&pixel| regions_of[pixel] = Some(region.len()));
            }
        }
        self.has_infinite |= scores.iter().any(|score| !score.is_finite());
        let mut keyed: Vec<(u32, Option<usize>)> = scores.iter().map(|&score| key(score)).zip(regions_of).collect();
        keyed.sort_unstable();
        for equal in keyed.chunk_by(|a, b| a == b) {
            let ((key, region), number) = (equal[0], equal.len() as u64);
            let count = self.counts.entry(key).or_default();
            match region {
                Some(size) => {
                    count.anomalous += number;
                    count.overlap += number as f64 / size as f64;
                }
                None => count.normal += number,
            }
        }
    }

    /// The areas, each `None` where there are no normal pixels, no anomalous ones, or a score that is not finite.
    pub fn metrics(&self) -> PixelMetrics {
        let sum = |of: fn(&Count) -> u64| self.counts.values().map(of).sum::<u64>();
        let (normals, anomalies) = (sum(|count| count.normal), sum(|count| count.anomalous));
        if normals == 0 || anomalies == 0 || self.has_infinite {
            return PixelMetrics::default();
        }
        PixelMetrics { auroc: Some(self.auroc(normals, anomalies)), aupro: Some(self.aupro(normals)) }
    }

    fn auroc(&self, normals: u64, anomalies: u64) -> f64 {
        // Counted in half wins, so that the sum is exact.
        let (mut halves, mut below) = (0u128, 0u64);
        for &Count { normal, anomalous, .. } in self.counts.values() {
            halves += u128::from(anomalous) * u128::from(2 * below + normal);
            below += normal;
        }
        halves as f64 / (2 * u128::from(normals) * u128::from(anomalies)) as f64
    }

    /// The area under the per-region overlap (Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 2021) by the trapezoidal rule
    /// over every distinct score.
    fn aupro(&self, normals: u64) -> f64 {
        let (mut area, mut rate, mut overlap) = (0.0, 0.0, 0.0);
        for count in self.counts.values().rev() {
            let next_rate = rate + count.normal as f64 / normals as f64;
            let next_overlap = overlap + count.overlap / self.regions as f64;
            // The part of this piece that lies within the rates.
            let part = if next_rate > MOST_FALSE { (MOST_FALSE - rate) / (next_rate - rate) } else { 1.0 };
            let end = overlap + part * (next_overlap - overlap);
            area += part * (next_rate - rate) * (overlap + end) / 2.0;
            if next_rate > MOST_FALSE {
                break;
            }
            (rate, overlap) = (next_rate, next_overlap);
        }
        area / MOST_FALSE
    }
}

/// The first 23 bits of a number, so that the order of numbers is that of keys.
fn key(score: f32) -> u32 {
    // Both zeros are equal.
    let bits = (score + 0.0).to_bits();
    (if score < 0.0 { !bits } else { bits | 1 << 31 }) >> 9
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::philox::Stream;
    use crate::training::score::auroc;

    #[test]
    fn diagonal_neighbours_belong_to_one_region() {
        let mask = |pixels: &str| -> Vec<bool> { pixels.chars().map(|pixel| pixel == '#').collect() };
        assert_eq!(regions(&mask("#...#...#"), 3), [[0, 4, 8]]);
        assert_eq!(regions(&mask("#.##.."), 3), [vec![2], vec![0, 3]].into_iter().rev().collect::<Vec<_>>());
        assert!(regions(&mask("......"), 3).is_empty());
    }

    #[test]
    fn the_area_is_that_of_the_ranking() {
        let mut stream = Stream::new(3, 0);
        // Few different values, so that there are ties, of both signs and of zero.
        let scores: Vec<f32> = (0..4000).map(|_| (stream.normal() * 8.0).round() as f32).collect();
        let labels: Vec<bool> = scores.iter().map(|&score| stream.normal() + f64::from(score) / 8.0 > 1.0).collect();
        let tally = |scores: &[f32]| {
            let mut tally = Tally::default();
            scores.chunks(1000).zip(labels.chunks(1000)).for_each(|(scores, mask)| tally.add(scores, Some(mask), 50));
            tally
        };
        let found = tally(&scores).metrics().auroc;
        assert_eq!(found, auroc(&scores, &labels));
        assert!(found.unwrap() > 0.7);
        let fine: Vec<f32> = (0..4000).map(|_| stream.normal() as f32).collect();
        let error = tally(&fine).metrics().auroc.unwrap() - auroc(&fine, &labels).unwrap();
        assert!(error.abs() < 1e-6, "{error}");
    }

    /// Two regions, of one and of four pixels, and ten normal pixels: a found pixel of the small one counts as much as the four.
    #[test]
    fn every_region_counts_the_same() {
        let mask: Vec<bool> = (0..15).map(|pixel| pixel == 0 || pixel >= 11).collect();
        let aupro = |scores: [f32; 15]| {
            let mut tally = Tally::default();
            tally.add(&scores, Some(&mask), 15);
            tally.metrics().aupro.unwrap()
        };
        let mut scores: [f32; 15] = std::array::from_fn(|pixel| -(pixel as f32));
        // The small region first, then the normal pixels one by one: half of the overlap from a rate of 0 on.
        assert!((aupro(scores) - 0.5).abs() < 1e-12);
        scores[11..].fill(1.0);
        assert!((aupro(scores) - 1.0).abs() < 1e-12);
        // Two of the four pixels between the first and the second normal pixel.
        scores[11..13].fill(-1.5);
        scores[13..].fill(-20.0);
        let expected = (0.1 * 0.5 + 0.2 * 0.75) / 0.3;
        assert!((aupro(scores) - expected).abs() < 1e-12);
        // All scores equal: a straight line through 0.3.
        assert!((aupro([2.0; 15]) - 0.15).abs() < 1e-12);
    }

    #[test]
    fn one_class_or_an_infinite_score_has_no_area() {
        let none = PixelMetrics::default();
        let mut tally = Tally::default();
        assert_eq!(tally.metrics(), none);
        tally.add(&[1.0, 2.0], None, 2);
        assert_eq!(tally.metrics(), none);
        tally.add(&[1.0, 3.0], Some(&[false, true]), 2);
        assert_eq!(tally.metrics(), PixelMetrics { auroc: Some(1.0), aupro: Some(1.0) });
        tally.add(&[f32::NAN], None, 1);
        assert_eq!(tally.metrics(), none);
    }
}
