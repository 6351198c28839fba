//! The configuration of a training run.

use std::ops::Range;
use std::sync::Arc;

use crate::engine::plan::Reuse;
use crate::engine::tensor::Tensor;
use crate::ssad::augment::{Augmentation, Setting};
use crate::ssad::bilevel::Order;
use crate::ssad::loss::Alignment;
use crate::ssad::method::{Method, Rule};
use crate::ssad::nn::Detector;

/// The configuration of a training run.
#[derive(Debug)]
pub struct Config {
    pub method: Method,
    pub detector: Detector,
    pub augmentation: Box<dyn Augmentation>,
    /// Raw coordinates to start from. A method without hyper-parameters has one empty start.
    pub starts: Vec<Vec<f32>>,
    /// Most starts trained side by side; see [`group`](Config::group).
    pub together: usize,
    pub alignment: Alignment,
    /// Whether embeddings are normalised to unit total distance before alignment; `false` is an ablation.
    pub normalise: bool,
    pub order: Order,
    /// Steps in total; the first `warm_up` do not change `a`.
    pub steps: usize,
    pub warm_up: usize,
    /// Normal images in a batch, which holds as many augmented ones.
    pub batch: usize,
    /// Unlabelled images in a batch.
    pub batch_val: usize,
    /// Number of micro-batches that each batch is split into to save memory; it divides both batch sizes. Gradients are
    /// averaged over the micro-batches. Each has its own batch-norm moments, look-ahead step and alignment loss, which
    /// gives a noisier estimate than the whole batch.
    pub micro_batches: usize,
    /// Adam's learning rate for the detector.
    pub rate: f64,
    /// Step size α of the look-ahead step.
    pub look_ahead: f32,
    /// How the values of a step share the device's memory.
    pub reuse: Reuse,
    /// The anomaly score. With the logit, a start is kept even if its embeddings give no distance.
    pub score: Rule,
    pub seed: u64,
    /// States that begin with these values instead of drawn ones, by name, such as an encoder's given weights.
    pub given: Arc<[(String, Tensor)]>,
}

impl Config {
    /// ST-SSAD from the augmentation's own starts, with the rates, steps and batches of the README's results.
    pub fn new(detector: Detector, augmentation: Box<dyn Augmentation>) -> Self {
        Config {
            method: Method::StSsad,
            detector,
            starts: augmentation.starts(),
            augmentation,
            together: 1,
            alignment: Alignment::DiagonalW2 { mass: 0.5 },
            normalise: true,
            order: Order::Second,
            steps: 180,
            warm_up: 40,
            batch: 48,
            batch_val: 96,
            micro_batches: 1,
            rate: 1e-3,
            look_ahead: 0.1,
            reuse: Reuse::On,
            score: Rule::default(),
            seed: 0,
            given: Arc::new([]),
        }
    }

    /// Starts per group: at most [`together`](Config::together), in as few groups as possible and of sizes as equal as
    /// possible.
    pub fn group(&self) -> usize {
        let starts = self.starts.len().max(1);
        starts.div_ceil(starts.div_ceil(self.together.clamp(1, starts)))
    }

    /// The starts of the group that begins with start `first`.
    pub fn members(&self, first: usize) -> Range<usize> {
        first..self.starts.len().min(first + self.group())
    }

    /// The start in each place of the group that begins with start `first`; an incomplete group repeats the last start.
    pub(crate) fn places(&self, first: usize) -> impl Iterator<Item = usize> {
        let last = self.starts.len().saturating_sub(1);
        (first..first + self.group()).map(move |start| start.min(last))
    }

    /// Hyper-parameters in plain units; empty for a method without any.
    pub fn setting(&self, a: &[f32]) -> Setting {
        if a.is_empty() { Setting::new() } else { self.augmentation.setting(a) }
    }
}
