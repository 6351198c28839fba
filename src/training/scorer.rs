//! Scores of images by a trained network, and where in an image they come from.

use std::ops::RangeInclusive;

use crate::engine::gpu::{Device, Executor, GpuError, States};
use crate::engine::kernel::DeviceClass;
use crate::engine::plan::{Plan, Reuse};
use crate::engine::tape::{Tape, Value};
use crate::engine::tensor::Tensor;
use crate::ssad::method::{Network, Reading};
use crate::training::score::LedoitWolf;

/// What a network reads off images, row by row, in f64.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Readings {
    /// Embeddings, `[N, features]` row-major.
    pub z: Vec<f64>,
    /// The head's logit, or the score itself; see [`Reading`].
    pub direct: Vec<f64>,
}

impl Readings {
    /// The anomaly scores: distances by `fit`, or where there is none what the network says.
    pub fn scores(&self, fit: Option<&LedoitWolf>) -> Vec<f64> {
        fit.map_or_else(|| self.direct.clone(), |fit| fit.score(&self.z))
    }
}

/// The fewest images that are taken at once. In a batch of one, what is broadcast along the batch has the shape of the
/// images' own values: it would be computed with them in one kernel, and rounded in another way.
pub const LEAST: usize = 2;

/// Images that are scored at once at most.
pub const BATCH: usize = 64;

/// The most images within `range` for which no value of what `plan` makes of them, whose largest has `bytes`, exceeds
/// `limit`; or the fewest, if none fit. Values grow in proportion to the images or stay as they are.
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

/// A network under running statistics, on the states that it is bound to. What it reads off an image depends neither on
/// the images beside it nor on their number.
#[derive(Debug)]
pub struct Scorer {
    executor: Executor,
    values: [Value; 2],
    batch: usize,
}

impl Scorer {
    /// Binds `network` to `states`, which must hold its parameters and running statistics. It takes images `[C, H, W]` in
    /// batches of `most`, or of as many as the device binds, but at least of two.
    ///
    /// # Errors
    /// When a state is missing or of another shape, or the device refuses.
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

    /// The plan for batches of `batch` images `[C, H, W]`, and what it fetches.
    pub fn plan(class: DeviceClass, network: &Network, [c, h, w]: [usize; 3], batch: usize) -> (Plan, [Value; 2]) {
        let mut t = Tape::new();
        let x = t.feed("x", [batch, c, h, w]);
        let Reading { z, direct } = network.read(&mut t, x);
        (Plan::new(&t, &[z, direct], &[], class, Reuse::On), [z, direct])
    }

    /// Images that it takes at once.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Reads all of `images` `[N, C, H, W]`.
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

/// The slopes of the scores by the pixels, of a network as [`Scorer`] has it.
#[derive(Debug)]
pub struct Attributor {
    executor: Executor,
    gradient: Value,
    batch: usize,
}

impl Attributor {
    /// As [`Scorer::new`], for scores that are read off the embeddings by distance, or off the network directly.
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

    /// The plan for batches of `batch` images `[C, H, W]`, and what it fetches.
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

    /// |∂ score / ∂ x| of `images` `[N, C, H, W]`, summed over the channels: `[N, 1, H, W]`. `slopes` holds for each
    /// image ∂ score / ∂ z, or 1 where the score is the network's own.
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

/// Rows of each batch, and how many of them count: the last batch is filled up with its last image.
fn batches(count: usize, batch: usize) -> impl Iterator<Item = (Vec<usize>, usize)> {
    (0..count).step_by(batch).map(move |first| {
        let rows = (first..first + batch).map(|row| row.min(count - 1)).collect();
        (rows, batch.min(count - first))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The count that fits, and how often was planned, where `each` image takes so many bytes beside `fixed` ones.
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
    fn the_most_that_fit_are_found_in_two_plans() {
        assert_eq!(found(1..=64, 6400, 100, 0), (64, 1));
        assert_eq!(found(1..=64, 6399, 100, 0), (63, 2));
        assert_eq!(found(1..=64, 1999, 100, 300), (19, 2));
        assert_eq!(found(1..=64, 99, 100, 0), (1, 2), "one is tried, although it does not fit");
        assert_eq!(found(2..=64, 99, 100, 0), (2, 2));
        assert_eq!(found(1..=1, 99, 100, 0), (1, 1));
    }
}
