//! Scores of pictures by a trained network, and where in a picture they come from.

use crate::gpu::{Device, Executor, GpuError, States};
use crate::method::Network;
use crate::plan::{Plan, Reuse};
use crate::score::LedoitWolf;
use crate::tape::{Tape, Value};
use crate::tensor::Tensor;

/// What a network reads off pictures, row by row, in f64.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Readings {
    /// Embeddings, `[N, features]` row-major.
    pub z: Vec<f64>,
    /// The head's logit, or the score itself; see [`Reading`](crate::method::Reading).
    pub direct: Vec<f64>,
}

impl Readings {
    /// The anomaly scores: distances by `fit`, or where there is none what the network says.
    pub fn scores(&self, fit: Option<&LedoitWolf>) -> Vec<f64> {
        fit.map_or_else(|| self.direct.clone(), |fit| fit.score(&self.z))
    }
}

/// A network under running statistics, on the states that it is bound to. What it reads off a picture does not depend on
/// the pictures beside it.
#[derive(Debug)]
pub struct Scorer {
    reading: Executor,
    values: [Value; 2],
    attribution: Executor,
    gradient: Value,
    batch: usize,
    by_distance: bool,
}

impl Scorer {
    /// Binds `network`, for batches of `batch` pictures `[C, H, W]`, to `states`, which must hold its parameters and running
    /// statistics.
    ///
    /// # Errors
    /// When a state is missing or of another shape, or the device refuses.
    pub fn new(
        device: &Device,
        network: &Network,
        picture: [usize; 3],
        batch: usize,
        states: &States,
    ) -> Result<Self, GpuError> {
        let [c, h, w] = picture;
        let mut t = Tape::new();
        let x = t.feed("x", [batch, c, h, w]);
        let read = network.read(&mut t, x);
        let values = [read.z, read.direct];
        let plan = Plan::new(&t, &values, &[], device.class(), Reuse::On);
        let reading = Executor::new(device, plan, states, |_, _| {})?;

        let by_distance = network.scores_by_distance();
        let scored = if by_distance { read.z } else { read.direct };
        let shape = t.shape(scored).clone();
        let cotangent = t.feed("cotangent", shape);
        let gradient = t.pull_back(scored, cotangent, &[x]).expect("every layer has a rule and depends on x")[0];
        let plan = Plan::new(&t, &[gradient], &[], device.class(), Reuse::On);
        let attribution = Executor::new(device, plan, states, |_, _| {})?;
        Ok(Scorer { reading, values, attribution, gradient, batch, by_distance })
    }

    /// Reads all of `pictures` `[N, C, H, W]`.
    ///
    /// # Errors
    /// When the device fails.
    pub fn read(&mut self, pictures: &Tensor) -> Result<Readings, GpuError> {
        let mut readings = Readings::default();
        for (rows, kept) in self.batches(pictures.shape()[0]) {
            self.reading.feed("x", &pictures.gather_rows(&rows))?;
            self.reading.run()?;
            for (all, &value) in [&mut readings.z, &mut readings.direct].into_iter().zip(&self.values) {
                let fetched = self.reading.fetch(value)?;
                let width = fetched.shape()[1];
                all.extend(fetched.data()[..kept * width].iter().map(|&v| f64::from(v)));
            }
        }
        Ok(readings)
    }

    /// How much the score of each picture changes with each of its pixels: |∂ score / ∂ x| summed over the channels,
    /// `[N, 1, H, W]`. `readings` are those of the same pictures.
    ///
    /// # Errors
    /// When the device fails.
    pub fn attribute(
        &mut self,
        pictures: &Tensor,
        readings: &Readings,
        fit: Option<&LedoitWolf>,
    ) -> Result<Tensor, GpuError> {
        let [count, c, h, w] = pictures.shape().images().expect("a batch of pictures");
        let cotangents = match (self.by_distance, fit) {
            (true, Some(fit)) => fit.gradient(&readings.z),
            _ => vec![1.0; count],
        };
        let width = cotangents.len() / count.max(1);
        let cotangents = Tensor::new([count, width], cotangents.iter().map(|&value| value as f32).collect());
        let mut heat = Vec::with_capacity(count * h * w);
        for (rows, kept) in self.batches(count) {
            self.attribution.feed("x", &pictures.gather_rows(&rows))?;
            self.attribution.feed("cotangent", &cotangents.gather_rows(&rows))?;
            self.attribution.run()?;
            let gradient = self.attribution.fetch(self.gradient)?;
            for picture in gradient.data().chunks_exact(c * h * w).take(kept) {
                heat.extend((0..h * w).map(|pixel| (0..c).map(|c| picture[c * h * w + pixel].abs()).sum::<f32>()));
            }
        }
        Ok(Tensor::new([count, 1, h, w], heat))
    }

    /// Rows of each batch, and how many of them count: the last batch is filled up with its last picture.
    fn batches(&self, count: usize) -> impl Iterator<Item = (Vec<usize>, usize)> + use<> {
        let batch = self.batch;
        (0..count).step_by(batch).map(move |first| {
            let rows = (first..first + batch).map(|row| row.min(count - 1)).collect();
            (rows, batch.min(count - first))
        })
    }
}
