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

/// Maps of what each place of an image contributes to its score, for the network of a [`Scorer`].
#[derive(Debug)]
pub struct Attributor {
    executor: Executor,
    contributions: Value,
    batch: usize,
}

/// Most shifted views of an image along each axis.
pub const VIEWS: usize = 2;

impl Attributor {
    /// As [`Scorer::new`], and of a batch of so many images. `states` must hold what [`Network::contributions`] reads as well. With
    /// `by_distance` the scores are distances of the embeddings, else the network's own.
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
        let (batch, (plan, contributions)) =
            batch(LEAST..=most.max(LEAST), device.largest_value(), plan, |(plan, _)| plan.largest().1);
        Ok(Attributor { executor: Executor::new(device, plan, states, |_, _| {})?, contributions, batch })
    }

    /// The plan for batches of `batch` images `[C, H, W]`, and the contributions `[batch, 1, P, Q]` that it fetches.
    pub fn plan(
        class: DeviceClass,
        network: &Network,
        [c, h, w]: [usize; 3],
        batch: usize,
        by_distance: bool,
    ) -> (Plan, Value) {
        let mut t = Tape::new();
        let x = t.feed("x", [batch, c, h, w]);
        let contributions = network.contributions(&mut t, x, by_distance);
        (Plan::new(&t, &[contributions], &[], class, Reuse::On), contributions)
    }

    /// The contributions to the scores of `images` `[N, C, H, W]` at each pixel: `[N, 1, H, W]`, in the score's units. The mean over
    /// the pixels is the difference of the score and that of the reference, but for the interpolation between the places that a
    /// network's last feature maps have. Places that lie further apart than pixels are refined by views of the image that are shifted
    /// by a part of that distance.
    ///
    /// # Errors
    /// When the device fails.
    pub fn attribute(&mut self, images: &Tensor) -> Result<Tensor, GpuError> {
        let [count, c, h, w] = images.shape().images().expect("a batch of images");
        let [_, _, rows, columns] = self.executor.plan().fetches[0].shape.images().expect("a map of each image");
        let (vertical, horizontal) = (Axis::views(h, rows), Axis::views(w, columns));
        let views: Vec<[&Axis; 2]> = vertical.iter().flat_map(|y| horizontal.iter().map(move |x| [y, x])).collect();
        let mut heat = vec![0.0; count * h * w];
        for (numbers, kept) in batches(count * views.len(), self.batch) {
            let shifted = |number: usize| {
                let [y, x] = views[number % views.len()];
                let planes = images.data()[number / views.len() * c * h * w..][..c * h * w].chunks_exact(h * w);
                planes.flat_map(move |plane| {
                    y.source.iter().flat_map(move |row| x.source.iter().map(move |column| plane[row * w + column]))
                })
            };
            let batch: Vec<f32> = numbers.iter().flat_map(|&number| shifted(number)).collect();
            self.executor.feed("x", &Tensor::new([numbers.len(), c, h, w], batch))?;
            self.executor.run()?;
            let fetched = self.executor.fetch(self.contributions)?;
            for (&number, map) in numbers[..kept].iter().zip(fetched.data().chunks_exact(rows * columns)) {
                let [y, x] = views[number % views.len()];
                let heat = heat[number / views.len() * h * w..][..h * w].chunks_exact_mut(w);
                for (line, (above, below, down)) in heat.zip(&y.places) {
                    let along = |row: usize, (left, right, share): (usize, usize, f32)| {
                        (1.0 - share) * map[row * columns + left] + share * map[row * columns + right]
                    };
                    for (pixel, &place) in line.iter_mut().zip(&x.places) {
                        let value = (1.0 - down) * along(*above, place) + down * along(*below, place);
                        *pixel += value / views.len() as f32;
                    }
                }
            }
        }
        Ok(Tensor::new([count, 1, h, w], heat))
    }
}

/// One axis of a shifted view of an image, whose map has places in place of pixels.
#[derive(Debug, PartialEq)]
pub struct Axis {
    /// For each pixel of the view that of the image, which goes on as its reflection.
    pub source: Vec<usize>,
    /// For each pixel of the image the places of the view's map before and after it, and the share of the latter.
    pub places: Vec<(usize, usize, f32)>,
}

impl Axis {
    /// The views along an axis of so many pixels and places. The centres of all places are evenly spread over the axis, as a network
    /// learns to see them, although a strided convolution begins at its first pixel. The first view is the image itself.
    pub fn views(pixels: usize, places: usize) -> Vec<Axis> {
        let apart = pixels as f32 / places as f32;
        let views = VIEWS.min(apart as usize).max(1);
        let view = |view: usize| {
            let shift = (view as f32 * apart / views as f32) as usize;
            let source = (0..pixels).map(|pixel| pixel.abs_diff(shift).min(pixels - 1)).collect();
            let place = |pixel: usize| {
                let at = (((pixel + shift) as f32 + 0.5) / apart - 0.5).clamp(0.0, (places - 1) as f32);
                let before = at as usize;
                (before, (before + 1).min(places - 1), at - before as f32)
            };
            Axis { source, places: (0..pixels).map(place).collect() }
        };
        (0..views).map(view).collect()
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

    #[test]
    fn a_shifted_view_is_read_where_it_shows_a_pixel() {
        let views = Axis::views(8, 2);
        assert_eq!(views.len(), 2);
        assert_eq!(views[0].source, [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(views[1].source, [2, 1, 0, 1, 2, 3, 4, 5]);
        // The centres of the places are 1.5 and 5.5; in the second view these are the pixels -0.5 and 3.5 of the image.
        let at = |view: usize, pixel: usize| {
            let (before, after, share) = views[view].places[pixel];
            (1.0 - share) * before as f32 + share * after as f32
        };
        assert_eq!([0, 2, 5, 7].map(|pixel| at(0, pixel)), [0.0, 0.125, 0.875, 1.0]);
        assert_eq!([0, 2, 4, 7].map(|pixel| at(1, pixel)), [0.125, 0.625, 1.0, 1.0]);
        // As many places as pixels.
        let [same] = &Axis::views(3, 3)[..] else { panic!("one view") };
        assert_eq!(same.places, [(0, 1, 0.0), (1, 2, 0.0), (2, 2, 0.0)]);
        // More pixels to reflect than there are.
        assert!(Axis::views(3, 1).iter().all(|view| view.source.iter().all(|&pixel| pixel < 3)));
    }
}
