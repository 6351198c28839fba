//! The bank of features of normal images that the nearest patch is looked up in.

use rayon::prelude::*;

use crate::engine::philox::Stream;
use crate::engine::tensor::Tensor;
use crate::ssad::method::BANKED;

/// Most features that a bank is chosen from.
const CANDIDATES: usize = 32 * BANKED;

/// Host draws of candidates; other draws use other streams.
const STREAM: u32 = 4;

/// The features at each place of images.
#[derive(Clone, Debug, Default)]
pub struct Patches {
    /// `[places, features]`
    rows: Vec<f32>,
    features: usize,
}

impl Patches {
    /// Adds those of the first `count` of feature maps `[N, features, P, Q]`.
    ///
    /// # Panics
    /// When the number of features differs from that of earlier maps.
    pub fn add(&mut self, maps: &Tensor, count: usize) {
        let [_, features, p, q] = maps.shape().images().expect("feature maps");
        assert!(self.rows.is_empty() || self.features == features, "{features} features, and {} before", self.features);
        self.features = features;
        for map in maps.data().chunks_exact(features * p * q).take(count) {
            self.rows
                .extend((0..p * q).flat_map(|place| (0..features).map(move |feature| map[feature * p * q + place])));
        }
    }

    /// The bank `[BANKED, features, 1, 1]`: the k-centre greedy choice (as in PatchCore, Roth et al., arXiv 2106.08265, section 3.2).
    /// Each feature that is added is the one that lies farthest from those before, of at most 32,768 drawn ones. Where
    /// there are fewer, they repeat.
    ///
    /// # Panics
    /// When there are none.
    pub fn bank(&self, seed: u64) -> Tensor {
        let count = self.rows.len() / self.features.max(1);
        assert!(count > 0, "a bank needs features");
        let mut stream = Stream::new(seed, STREAM);
        let candidates: Vec<&[f32]> = match count <= CANDIDATES {
            true => self.rows.chunks_exact(self.features).collect(),
            false => (0..CANDIDATES)
                .map(|_| {
                    let row = ((stream.uniform() * count as f64) as usize).min(count - 1);
                    &self.rows[row * self.features..][..self.features]
                })
                .collect(),
        };
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
        let mut patches = Patches::default();
        // Two maps of two features at two places; the third is padding.
        let maps = Tensor::new([3, 2, 1, 2], vec![0.0, 1.0, 0.0, 0.0, 9.0, 0.0, 0.0, 5.0, 99.0, 99.0, 99.0, 99.0]);
        patches.add(&maps, 2);
        assert_eq!(patches.rows, [0.0, 0.0, 1.0, 0.0, 9.0, 0.0, 0.0, 5.0]);
        let bank = patches.bank(0);
        assert_eq!(bank.data()[..8], [0.0, 0.0, 9.0, 0.0, 0.0, 5.0, 1.0, 0.0]);
        assert!(bank.data().chunks(2).all(|row| patches.rows.chunks(2).any(|known| known == row)));
    }
}
