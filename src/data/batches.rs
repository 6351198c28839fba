//! The order in which batches are drawn from a set.

use super::DataError;
use crate::engine::philox::Stream;

/// An endless sequence of batches of row indices. An epoch is a random order of all rows, split into whole batches; rows that do not
/// fill a batch are dropped until the next epoch. The sequence depends only on `seed` and `stream`.
#[derive(Clone, Debug)]
pub struct Batches {
    count: usize,
    batch: usize,
    seed: u64,
    stream: u32,
    /// The random stream of the orders.
    orders: Stream,
    order: Vec<usize>,
    position: usize,
}

impl Batches {
    /// Batches of `batch` rows from `0..count`.
    ///
    /// # Errors
    /// When `batch` is zero or exceeds `count`.
    pub fn new(count: usize, batch: usize, seed: u64, stream: u32) -> Result<Self, DataError> {
        if !(1..=count).contains(&batch) {
            return Err(DataError::Batch { batch, count });
        }
        Ok(Batches { count, batch, seed, stream, orders: Stream::new(seed, stream), order: Vec::new(), position: 0 })
    }

    /// Number of batches drawn so far.
    pub fn position(&self) -> usize {
        self.position
    }

    /// This sequence after `position` batches, for a resumed run.
    pub fn at(self, position: usize) -> Self {
        let per_epoch = self.count / self.batch;
        let mut orders = Stream::new(self.seed, self.stream);
        let order = (0..position.div_ceil(per_epoch)).map(|_| orders.permutation(self.count)).last();
        Batches { orders, order: order.unwrap_or_default(), position, ..self }
    }

    /// The next batch: `batch` different indices.
    #[expect(clippy::should_implement_trait, reason = "it never ends, so there is no `None` for callers to handle")]
    pub fn next(&mut self) -> &[usize] {
        let within = self.position % (self.count / self.batch);
        if within == 0 {
            self.order = self.orders.permutation(self.count);
        }
        self.position += 1;
        &self.order[within * self.batch..(within + 1) * self.batch]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_has_no_row_twice() {
        let mut batches = Batches::new(10, 3, 1, 2).unwrap();
        let mut epochs = Vec::new();
        for _ in 0..4 {
            let epoch: Vec<usize> = (0..3).flat_map(|_| batches.next().to_vec()).collect();
            let mut rows = epoch.clone();
            rows.sort_unstable();
            rows.dedup();
            assert_eq!(rows.len(), 9);
            epochs.push(epoch);
        }
        assert_ne!(epochs[0], epochs[1]);
    }

    #[test]
    fn a_restarted_sequence_continues_identically() {
        let fresh = Batches::new(10, 3, 1, 2).unwrap();
        let mut whole = fresh.clone();
        for position in 0..8 {
            let mut restarted = fresh.clone().at(position);
            let mut on = whole.clone();
            for _ in 0..5 {
                assert_eq!(restarted.next(), on.next(), "from {position}");
            }
            assert_eq!(whole.position(), position);
            whole.next();
        }
    }

    #[test]
    fn a_batch_fits_its_set() {
        assert!(Batches::new(3, 4, 0, 0).unwrap_err().to_string().contains("between 1 and 3"));
        assert!(Batches::new(3, 0, 0, 0).is_err());
        assert_eq!(Batches::new(3, 3, 0, 0).unwrap().next().len(), 3);
    }
}
