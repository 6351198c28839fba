//! The bank of features of normal images that the nearest patch is looked up in.

use rayon::prelude::*;

use crate::engine::philox::Stream;
use crate::engine::tensor::Tensor;
use crate::ssad::method::BANKED;

/// Most features that a bank is chosen from; their memory does not grow with the images.
const CANDIDATES: usize = 32 * BANKED;

/// Host draws of the sample; other draws use other streams.
const STREAM: u32 = 4;

/// A sample of the features at the places of images, in bounded memory.
#[derive(Clone, Debug)]
pub struct Patches {
    /// `[places, features]`, of at most [`CANDIDATES`] places.
    rows: Vec<f32>,
    features: usize,
    /// Places so far.
    seen: usize,
    stream: Stream,
}

impl Patches {
    /// No features yet; `seed` decides which are kept where there are many.
    pub fn new(seed: u64) -> Self {
        Patches { rows: Vec::new(), features: 0, seen: 0, stream: Stream::new(seed, STREAM) }
    }

    /// Adds those of the first `count` of feature maps `[N, features, P, Q]`. Of all places so far, each is kept with the same probability
    /// (Vitter's algorithm R).
    ///
    /// # Panics
    /// When the number of features differs from that of earlier maps.
    pub fn add(&mut self, maps: &Tensor, count: usize) {
        let [_, features, p, q] = maps.shape().images().expect("feature maps");
        assert!(self.seen == 0 || self.features == features, "{features} features, and {} before", self.features);
        self.features = features;
        for map in maps.data().chunks_exact(features * p * q).take(count) {
            for place in 0..p * q {
                let own = (0..features).map(|feature| map[feature * p * q + place]);
                self.seen += 1;
                if self.seen <= CANDIDATES {
                    self.rows.extend(own);
                    continue;
                }
                let row = (self.stream.uniform() * self.seen as f64) as usize;
                if row < CANDIDATES {
                    let kept = &mut self.rows[row * features..][..features];
                    kept.iter_mut().zip(own).for_each(|(kept, own)| *kept = own);
                }
            }
        }
    }

    /// The bank `[BANKED, features, 1, 1]`: the k-centre greedy choice (as in PatchCore, Roth et al., arXiv 2106.08265, section 3.2).
    /// Each feature that is added is the one that lies farthest from those before. Where there are fewer, they repeat.
    ///
    /// # Panics
    /// When there are none.
    pub fn bank(&self) -> Tensor {
        let candidates: Vec<&[f32]> = self.rows.chunks_exact(self.features.max(1)).collect();
        assert!(!candidates.is_empty(), "a bank needs features");
        let mut distances = vec![f32::INFINITY; candidates.len()];
        let (mut chosen, mut next) = (Vec::with_capacity(BANKED * self.features), 0);
        for _ in 0..BANKED {
            let centre = candidates[next];
            chosen.extend_from_slice(centre);
            distances.par_iter_mut().zip(&candidates).for_each(|(distance, candidate)| {
                let squares = candidate.iter().zip(centre).map(|(a, b)| (a - b) * (a - b));
                *distance = distance.min(squares.sum());
            });
            let farthest = distances.iter().enumerate().max_by(|(_, a), (_, b)| a.total_cmp(b));
            next = farthest.expect("there are candidates").0;
        }
        Tensor::new([BANKED, self.features, 1, 1], chosen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_farthest_features_come_first() {
        let mut patches = Patches::new(0);
        // Two maps of two features at two places; the third is padding.
        let maps = Tensor::new([3, 2, 1, 2], vec![0.0, 1.0, 0.0, 0.0, 9.0, 0.0, 0.0, 5.0, 99.0, 99.0, 99.0, 99.0]);
        patches.add(&maps, 2);
        assert_eq!(patches.rows, [0.0, 0.0, 1.0, 0.0, 9.0, 0.0, 0.0, 5.0]);
        let bank = patches.bank();
        assert_eq!(bank.data()[..8], [0.0, 0.0, 9.0, 0.0, 0.0, 5.0, 1.0, 0.0]);
        assert!(bank.data().chunks(2).all(|row| patches.rows.chunks(2).any(|known| known == row)));
    }

    #[test]
    fn of_many_features_a_sample_is_kept() {
        let mut patches = Patches::new(0);
        let many = CANDIDATES / 64;
        for batch in 0..128 {
            let first = batch * many;
            patches.add(&Tensor::new([1, 1, 1, many], (first..first + many).map(|place| place as f32).collect()), 1);
        }
        assert_eq!((patches.rows.len(), patches.seen), (CANDIDATES, 2 * CANDIDATES));
        let mean = patches.rows.iter().map(|&place| f64::from(place)).sum::<f64>() / CANDIDATES as f64;
        // The mean of a uniform sample, within five standard deviations.
        let (middle, deviation) =
            (CANDIDATES as f64, 2.0 * CANDIDATES as f64 / 12f64.sqrt() / (CANDIDATES as f64).sqrt());
        assert!((mean - middle).abs() < 5.0 * deviation, "{mean}");
    }
}
