//! Anomaly scores of images under a trained network, and heat maps of where they come from.

use std::ops::RangeInclusive;

use crate::data::{DataError, Images};
use crate::engine::gpu::{Device, Executor, GpuError, States};
use crate::engine::kernel::DeviceClass;
use crate::engine::plan::{Plan, Reuse};
use crate::engine::tape::{Tape, Value};
use crate::engine::tensor::Tensor;
use crate::ssad::method::{Network, Reading};
use crate::training::score::LedoitWolf;

/// What a network computes for a set of images, in f64.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Readings {
    /// Embeddings, `[N, features]` row-major.
    pub z: Vec<f64>,
    /// The head's logits, or the scores themselves; see [`Reading`].
    pub direct: Vec<f64>,
}

impl Readings {
    /// The anomaly scores: distances under `fit`, or the network's own scores without one.
    pub fn scores(&self, fit: Option<&LedoitWolf>) -> Vec<f64> {
        fit.map_or_else(|| self.direct.clone(), |fit| fit.score(&self.z))
    }

    /// Adds those of other images.
    pub fn extend(&mut self, other: Readings) {
        self.z.extend(other.z);
        self.direct.extend(other.direct);
    }
}

/// Fewest images in a batch. In a batch of one, a value broadcast along the batch has the shape of the images' own
/// values, would be fused with them and rounded differently.
pub const LEAST: usize = 2;

/// Most images in a batch.
pub const BATCH: usize = 64;

/// The largest batch within `range` whose plan has no value above `limit` bytes, and that plan; the smallest batch if
/// none fits. `bytes` is the size of a plan's largest value. Values are either proportional to the batch or constant.
pub fn batch<T>(
    range: RangeInclusive<usize>,
    limit: u64,
    mut plan: impl FnMut(usize) -> T,
    bytes: impl Fn(&T) -> u64,
) -> (usize, T) {
    let (least, mut count) = (*range.start(), *range.end());
    loop {
        let made = plan(count);
        let bytes = bytes(&made);
        if bytes <= limit || count <= least {
            return (count, made);
        }
        let estimate = (count as u128 * u128::from(limit) / u128::from(bytes)) as usize;
        count = estimate.min(count - 1).max(least);
    }
}

/// A network with running statistics, bound to states on a device. The result for an image depends neither on the other
/// images of the batch nor on their number.
#[derive(Debug)]
pub struct Scorer {
    executor: Executor,
    values: [Value; 2],
    batch: usize,
}

impl Scorer {
    /// Binds `network` to `states`, which must hold its parameters and running statistics. Images are `[C, H, W]`; a
    /// batch has at most `most` of them, fewer if the device cannot bind as many, but at least two.
    ///
    /// # Errors
    /// When a state is missing or has another shape, or the device fails.
    pub fn new(
        device: &Device,
        network: &Network,
        image: [usize; 3],
        most: usize,
        states: &States,
    ) -> Result<Self, GpuError> {
        let plan = |batch| Self::plan(device.class(), network, image, batch);
        let (batch, (plan, values)) =
            batch(LEAST..=most.max(LEAST), device.largest_value(), plan, |(plan, _)| plan.largest().1);
        Ok(Scorer { executor: Executor::new(device, plan, states, |_, _| {})?, values, batch })
    }

    /// The plan for batches of `batch` images `[C, H, W]`, and the values [z, direct] it fetches.
    pub fn plan(class: DeviceClass, network: &Network, [c, h, w]: [usize; 3], batch: usize) -> (Plan, [Value; 2]) {
        let mut t = Tape::new();
        let x = t.feed("x", [batch, c, h, w]);
        let Reading { z, direct } = network.read(&mut t, x);
        (Plan::new(&t, &[z, direct], &[], class, Reuse::On), [z, direct])
    }

    /// Images per batch.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Runs the network on all images, and calls `each` with what it computes for each batch.
    ///
    /// # Errors
    /// When an image cannot be read, or the device fails.
    pub fn read_all<E: From<DataError> + From<GpuError>>(
        &mut self,
        images: &Images,
        mut each: impl FnMut(Readings),
    ) -> Result<(), E> {
        images.for_each_batch(BATCH, |_, batch| {
            each(self.read(&batch)?);
            Ok(())
        })
    }

    /// Runs the network on `images`, `[N, C, H, W]`.
    ///
    /// # Errors
    /// When the device fails.
    pub fn read(&mut self, images: &Tensor) -> Result<Readings, GpuError> {
        let mut readings = Readings::default();
        for (rows, kept) in batches(images.shape()[0], self.batch) {
            self.executor.feed("x", &images.gather_rows(&rows))?;
            self.executor.run()?;
            for (all, &value) in [&mut readings.z, &mut readings.direct].into_iter().zip(&self.values) {
                let fetched = self.executor.fetch(value)?;
                let width = fetched.shape()[1];
                all.extend(fetched.data()[..kept * width].iter().map(|&v| f64::from(v)));
            }
        }
        Ok(readings)
    }
}

/// Gradients of the scores with respect to the pixels, for the network of a [`Scorer`].
#[derive(Debug)]
pub struct Attributor {
    executor: Executor,
    gradient: Value,
    batch: usize,
}

impl Attributor {
    /// As [`Scorer::new`]. With `by_distance` the scores are distances of the embeddings, else the network's own.
    ///
    /// # Errors
    /// As [`Scorer::new`].
    pub fn new(
        device: &Device,
        network: &Network,
        image: [usize; 3],
        most: usize,
        states: &States,
        by_distance: bool,
    ) -> Result<Self, GpuError> {
        let plan = |batch| Self::plan(device.class(), network, image, batch, by_distance);
        let (batch, (plan, gradient)) =
            batch(LEAST..=most.max(LEAST), device.largest_value(), plan, |(plan, _)| plan.largest().1);
        Ok(Attributor { executor: Executor::new(device, plan, states, |_, _| {})?, gradient, batch })
    }

    /// The plan for batches of `batch` images `[C, H, W]`, and the gradient it fetches.
    pub fn plan(
        class: DeviceClass,
        network: &Network,
        [c, h, w]: [usize; 3],
        batch: usize,
        by_distance: bool,
    ) -> (Plan, Value) {
        let mut t = Tape::new();
        let x = t.feed("x", [batch, c, h, w]);
        let Reading { z, direct } = network.read(&mut t, x);
        let scored = if by_distance { z } else { direct };
        let shape = t.shape(scored).clone();
        let cotangent = t.feed("cotangent", shape);
        let gradient = t.pull_back(scored, cotangent, &[x]).expect("every layer has a rule and depends on x")[0];
        (Plan::new(&t, &[gradient], &[], class, Reuse::On), gradient)
    }

    /// |∂ score / ∂ x| of `images` `[N, C, H, W]`, summed over the channels: `[N, 1, H, W]`. For each image `slopes` holds
    /// ∂ score / ∂ z, or 1 if the score is the network's own.
    ///
    /// # Errors
    /// When the device fails.
    pub fn attribute(&mut self, images: &Tensor, slopes: &[f64]) -> Result<Tensor, GpuError> {
        let [count, c, h, w] = images.shape().images().expect("a batch of images");
        let slopes: Vec<f32> = slopes.iter().map(|&slope| slope as f32).collect();
        let slopes = Tensor::new([count, slopes.len() / count.max(1)], slopes);
        let mut heat = Vec::with_capacity(count * h * w);
        for (rows, kept) in batches(count, self.batch) {
            self.executor.feed("x", &images.gather_rows(&rows))?;
            self.executor.feed("cotangent", &slopes.gather_rows(&rows))?;
            self.executor.run()?;
            let gradient = self.executor.fetch(self.gradient)?;
            for image in gradient.data().chunks_exact(c * h * w).take(kept) {
                heat.extend((0..h * w).map(|pixel| (0..c).map(|c| image[c * h * w + pixel].abs()).sum::<f32>()));
            }
        }
        Ok(Tensor::new([count, 1, h, w], heat))
    }
}

/// Rows of each batch, and how many of them count: the last batch is padded with its last image.
fn batches(count: usize, batch: usize) -> impl Iterator<Item = (Vec<usize>, usize)> {
    (0..count).step_by(batch).map(move |first| {
        let rows = (first..first + batch).map(|row| row.min(count - 1)).collect();
        (rows, batch.min(count - first))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The batch found and the number of plans made, where an image takes `each` bytes and `fixed` bytes are constant.
    fn found(range: RangeInclusive<usize>, limit: u64, each: u64, fixed: u64) -> (usize, usize) {
        let mut plans = 0;
        let bytes = |count: usize| {
            plans += 1;
            (count as u64 * each).max(fixed)
        };
        let (count, _) = batch(range, limit, bytes, |&bytes| bytes);
        (count, plans)
    }

    #[test]
    fn the_largest_batch_is_found_in_two_plans() {
        assert_eq!(found(1..=64, 6400, 100, 0), (64, 1));
        assert_eq!(found(1..=64, 6399, 100, 0), (63, 2));
        assert_eq!(found(1..=64, 1999, 100, 300), (19, 2));
        assert_eq!(found(1..=64, 99, 100, 0), (1, 2), "the smallest batch is kept, although it does not fit");
        assert_eq!(found(2..=64, 99, 100, 0), (2, 2));
        assert_eq!(found(1..=1, 99, 100, 0), (1, 1));
    }
}
