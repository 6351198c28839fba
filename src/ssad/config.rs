//! What a training run is made of.

use std::ops::Range;

use crate::engine::plan::Reuse;
use crate::ssad::augment::{Augmentation, Setting};
use crate::ssad::bilevel::Order;
use crate::ssad::loss::Alignment;
use crate::ssad::method::{Method, Rule};
use crate::ssad::nn::Detector;

/// What a training run is made of.
#[derive(Debug)]
pub struct Config {
    pub method: Method,
    pub detector: Detector,
    pub augmentation: Box<dyn Augmentation>,
    /// Raw coordinates that are tried; the methods that keep no hyper-parameters have one empty start.
    pub starts: Vec<Vec<f32>>,
    /// How many starts are trained side by side at most; see [`group`](Config::group).
    pub together: usize,
    pub alignment: Alignment,
    /// Whether embeddings are brought to unit total distance before they are aligned; `false` is an ablation.
    pub normalise: bool,
    pub order: Order,
    /// Steps in all, of which the first `warm_up` leave `a` as it is.
    pub steps: usize,
    pub warm_up: usize,
    /// Normal images in a batch; as many augmented ones join them.
    pub batch: usize,
    /// Unlabelled images in a batch.
    pub batch_val: usize,
    /// Parts that both batches are cut into and worked off one after another, in the memory of one; a divisor of both.
    /// Gradients are the means of the parts', each of which has batch-norm moments, a look-ahead step and an alignment loss
    /// of its own: a noisier estimate than that of the whole batch.
    pub micro_batches: usize,
    /// Adam's rate for the detector.
    pub rate: f64,
    /// The look-ahead step α.
    pub look_ahead: f32,
    /// How the values of a step share the device's memory.
    pub reuse: Reuse,
    /// What images are scored by. A start whose embeddings give no distance can be kept where the score is the logit.
    pub score: Rule,
    pub seed: u64,
}

impl Config {
    /// ST-SSAD from the augmentation's own starts, with the rates, steps and batches that the README's figures are from.
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
        }
    }

    /// How many starts are a group: no more than [`together`](Config::together), and so that as few groups as there have to be
    /// are as even as they can be.
    pub fn group(&self) -> usize {
        let starts = self.starts.len().max(1);
        starts.div_ceil(starts.div_ceil(self.together.clamp(1, starts)))
    }

    /// The starts of the group that begins with start number `first`.
    pub fn members(&self, first: usize) -> Range<usize> {
        first..self.starts.len().min(first + self.group())
    }

    /// The start in each place of the group that begins with start number `first`: the last one again where there are no more.
    pub(crate) fn places(&self, first: usize) -> impl Iterator<Item = usize> {
        let last = self.starts.len().saturating_sub(1);
        (first..first + self.group()).map(move |start| start.min(last))
    }

    /// Hyper-parameters in plain units; empty for the methods that keep none.
    pub fn setting(&self, a: &[f32]) -> Setting {
        if a.is_empty() { Setting::new() } else { self.augmentation.setting(a) }
    }
}
