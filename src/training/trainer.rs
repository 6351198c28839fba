//! The training loop: one start after another, or groups of them side by side, step by step, so that a run can stop between
//! two steps and go on later with the same bits.

use std::collections::BTreeMap;

use crate::data::{Batches, DataError, Visible};
use crate::engine::gpu::{Device, Executor, GpuError, States};
use crate::engine::kernel::Precision;
use crate::engine::ops::random;
use crate::engine::tape::{GradError, Value};
use crate::engine::tensor::Tensor;
use crate::ssad::config::Config;
use crate::ssad::method::{CENTRE, Network, Rule};
use crate::ssad::step::{
    ADAM_A, ADAM_THETA, Figures, TrainingStep, View, cut, feed_of, initial_states, interleaved, is_moment, run_seed,
    stacked, start_states, views,
};
use crate::training::score::{LedoitWolf, ScoreError, spread};
use crate::training::scorer::{BATCH, Scorer};

/// Streams of host draws; parameters and splits have their own.
mod stream {
    pub const BATCHES: u32 = 2;
    pub const BATCHES_VAL: u32 = 3;
}

/// Why a run ended early.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    #[error(transparent)]
    Gpu(#[from] GpuError),
    #[error(transparent)]
    Grad(#[from] GradError),
    #[error(transparent)]
    Data(#[from] DataError),
    /// Of the last start of a group that was still going on; starts count from 0, steps from 1.
    #[error("training diverged at start {start}, {}", diverged(*step, what))]
    Diverged { start: usize, step: usize, what: &'static str },
    #[error("the checkpoint is of another network: they differ in the state `{state}`")]
    Foreign { state: String },
    /// With the reason of each start.
    #[error("no start can be used: {}", each_start(.0))]
    NoStart(Vec<String>),
}

fn diverged(step: usize, what: &str) -> String {
    format!("step {step}: {what} not finite; a smaller learning rate may help")
}

fn each_start(reasons: &[String]) -> String {
    match reasons {
        [reason] => reason.clone(),
        _ => reasons
            .iter()
            .enumerate()
            .map(|(start, reason)| format!("start {}: {reason}", start + 1))
            .collect::<Vec<_>>()
            .join("; "),
    }
}

/// One step's figures.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    /// Counts from 0.
    pub start: usize,
    /// Counts from 1.
    pub step: usize,
    pub inner: f32,
    /// Absent where nothing is tuned.
    pub outer: Option<f32>,
    /// Raw coordinates after the step.
    pub a: Vec<f32>,
}

/// One trained start.
#[derive(Clone, Debug, PartialEq)]
pub struct Trained {
    /// Raw coordinates at the start and at the end.
    pub start: Vec<f32>,
    pub end: Vec<f32>,
    /// What embeddings are scored by; `None` where the network gives the score itself, or the embeddings give no distance.
    pub fit: Option<LedoitWolf>,
    /// Distances, or the network's own scores, of the clean training images and of the unlabelled ones; none where the
    /// embeddings give no distance.
    pub scores: [Vec<f64>; 2],
    /// The head's logits of the same; `None` where there is no head.
    pub logits: Option<[Vec<f64>; 2]>,
    /// Selection statistic of the unlabelled images' `scores`, 0 where there are none; see [`spread`]. `None` of a start
    /// that failed.
    pub spread: Option<f64>,
    /// Parameters, running statistics and `a`, by name; none of a start that failed.
    pub states: Vec<(String, Tensor)>,
    /// Why this start came to nothing and cannot be chosen, if so.
    pub failed: Option<String>,
}

impl Trained {
    /// A start that came to nothing, with its raw coordinates at the start and when it failed.
    pub fn failed(start: Vec<f32>, Failure { reason, a }: Failure) -> Self {
        Trained {
            start,
            end: a,
            fit: None,
            scores: [Vec::new(), Vec::new()],
            logits: None,
            spread: None,
            states: Vec::new(),
            failed: Some(reason),
        }
    }

    /// What images are told apart by under `rule`: of the clean training images and of the unlabelled ones.
    pub fn scores_by(&self, rule: Rule) -> &[Vec<f64>; 2] {
        match (rule, &self.logits) {
            (Rule::Logit, Some(logits)) => logits,
            _ => &self.scores,
        }
    }
}

/// Why a start came to nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// A sentence without its full stop.
    pub reason: String,
    /// Raw coordinates, the last that were finite.
    pub a: Vec<f32>,
}

/// Where a run stands between two steps: with the finished starts, all that it needs to go on.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Index of the first start of the group under way.
    pub start: usize,
    /// Steps that it has done.
    pub step: usize,
    /// Every state of the group by name: parameters, moments, running statistics, `a` and its moments. Those of a start that
    /// failed are 0.
    pub states: Vec<(String, Tensor)>,
    /// The starts of the group that failed.
    pub failed: BTreeMap<usize, Failure>,
}

/// A network and its augmentation on a device, trained from one group of starts after another.
#[derive(Debug)]
pub struct Trainer<'a> {
    config: &'a Config,
    images: Visible<'a>,
    network: Network,
    states: States,
    step: TrainingStep,
    plain: Executor,
    tuning: Option<Executor>,
    /// Reads images by the network that `scored` holds: one start's.
    scorer: Scorer,
    scored: States,
    augmenting: Option<OneOutput>,
    centring: Option<OneOutput>,
    /// Index of the first start of the group under way, and the steps that it has done.
    start: usize,
    done: usize,
    /// Of the training set and of the unlabelled one, for each place of the group.
    batches: Vec<[Batches; 2]>,
    /// Raw coordinates of each start of the group after the last step.
    a: Vec<Vec<f32>>,
    /// The starts of the group that failed. Their places go on being computed, which changes nothing in the others.
    failed: BTreeMap<usize, Failure>,
}

/// A view bound to a device.
#[derive(Debug)]
struct OneOutput {
    executor: Executor,
    output: Value,
}

impl OneOutput {
    fn new(device: &Device, states: &States, view: &View) -> Result<Self, GpuError> {
        let executor = Executor::new(device, view.plan(device), states, |_, _| {})?;
        Ok(OneOutput { executor, output: view.output })
    }

    fn run(&mut self) -> Result<Tensor, GpuError> {
        self.executor.run()?;
        self.executor.fetch(self.output)
    }
}

impl<'a> Trainer<'a> {
    /// Records the step, compiles its kernels and binds them; `on_pipeline` hears of the progress (done, of). Training
    /// stands before the first step of the first start.
    ///
    /// # Errors
    /// When a batch exceeds its set, or the device refuses.
    pub fn new(
        device: &Device,
        config: &'a Config,
        images: Visible<'a>,
        mut on_pipeline: impl FnMut(usize, usize),
    ) -> Result<Self, TrainError> {
        let [_, c, h, w] = images.train.shape().images().expect("a batch of images");
        // A batch larger than its set is refused before anything is compiled.
        let batches = batches(config, images, 0)?;
        let network = Network::new(config.method, &config.detector, [c, h, w]);
        let step = TrainingStep::record_for(device.precision(), config, [c, h, w])?;

        let mut states = States::new(device);
        for (name, tensor) in initial_states(config, &network, 0) {
            states.set(&name, &tensor)?;
        }
        let (plain, tuning) = (step.plain_plan(device, config.reuse), step.tuning_plan(device, config.reuse));
        let plain_steps = plain.steps.len();
        let total = plain_steps + tuning.as_ref().map_or(0, |plan| plan.steps.len());
        let plain = Executor::new(device, plain, &states, |done, _| on_pipeline(done, total))?;
        let tuning = tuning
            .map(|plan| Executor::new(device, plan, &states, |done, _| on_pipeline(plain_steps + done, total)))
            .transpose()?;
        let mut scored = States::new(device);
        for (name, tensor) in start_states(config, &network, 0).iter().filter(|(name, _)| !is_moment(name)) {
            scored.set(name, tensor)?;
        }
        // Whoever tests the trained detector has f32, and takes the same scores for the same images.
        let exact = device.with_precision(Precision::F32)?;
        let most = images.train.shape()[0].max(images.val.shape()[0]).min(BATCH);
        let scorer = Scorer::new(&exact, &network, [c, h, w], most, &scored)?;
        let views = views(config, &network, [c, h, w], config.batch / config.micro_batches);
        let viewer = |view: &Option<View>| view.as_ref().map(|view| OneOutput::new(device, &states, view)).transpose();
        let [augmenting, centring] = [viewer(&views[0])?, viewer(&views[1])?];
        let trainer = Trainer {
            config,
            images,
            network,
            states,
            step,
            plain,
            tuning,
            scorer,
            scored,
            augmenting,
            centring,
            start: 0,
            done: 0,
            batches,
            a: config.starts[config.members(0)].to_vec(),
            failed: BTreeMap::new(),
        };
        Ok(trainer)
    }

    /// The step that tunes, or of a method that does not its only step, fed with the sets' first images and ready to
    /// run: what `profile` and `bench` measure.
    ///
    /// # Errors
    /// When the device fails.
    pub fn full_step(&mut self) -> Result<&mut Executor, GpuError> {
        let [x, x_val] = [(self.images.train, self.config.batch), (self.images.val, self.config.batch_val)]
            .map(|(set, batch)| interleaved(set, &vec![(0..batch).collect(); self.config.group()]));
        self.feed(true, &x, Some(&x_val), 1)?;
        Ok(self.tuning.as_mut().unwrap_or(&mut self.plain))
    }

    /// The step that does not tune, fed and ready to run as [`full_step`](Trainer::full_step): forward, backward and the
    /// detector's update on normal and augmented images.
    ///
    /// # Errors
    /// When the device fails.
    pub fn plain_step(&mut self) -> Result<&mut Executor, GpuError> {
        let x = interleaved(self.images.train, &vec![(0..self.config.batch).collect(); self.config.group()]);
        self.feed(false, &x, None, 1)?;
        Ok(&mut self.plain)
    }

    /// Goes to before the first step of the group that begins with start number `index`.
    ///
    /// # Errors
    /// When the device fails.
    pub fn begin(&mut self, index: usize) -> Result<(), TrainError> {
        for (name, tensor) in initial_states(self.config, &self.network, index) {
            self.states.set(&name, &tensor)?;
        }
        self.batches = batches(self.config, self.images, index)?;
        (self.start, self.done) = (index, 0);
        self.a = self.config.starts[self.config.members(index)].to_vec();
        self.failed.clear();
        if let Some(centring) = &mut self.centring {
            let x = interleaved(self.images.train, &drawn(&mut self.batches.clone(), 0));
            let mut centres: Vec<Tensor> = Vec::new();
            for part in cut(&x, self.config.micro_batches) {
                centring.executor.feed("x", &part)?;
                centres.push(centring.run()?);
            }
            self.states.set(CENTRE, &mean(&centres))?;
        }
        Ok(())
    }

    /// Where the run stands.
    ///
    /// # Errors
    /// When the device fails.
    pub fn snapshot(&self) -> Result<Snapshot, GpuError> {
        let mut states = self.read_states(|_| true)?;
        let failed: Vec<bool> = self.config.places(self.start).map(|start| self.failed.contains_key(&start)).collect();
        if failed.contains(&true) {
            for (_, tensor) in &mut states {
                *tensor = without(tensor, &failed);
            }
        }
        Ok(Snapshot { start: self.start, step: self.done, states, failed: self.failed.clone() })
    }

    /// Goes to where a snapshot of this run stands.
    ///
    /// # Errors
    /// When its states are not this network's, or the device fails.
    pub fn restore(&mut self, snapshot: &Snapshot) -> Result<(), TrainError> {
        let initial = initial_states(self.config, &self.network, snapshot.start);
        let known: Vec<(String, Tensor)> = self.step.packed.unpack(initial);
        let differs = |(name, tensor): &&(String, Tensor), others: &[(String, Tensor)]| {
            !others.iter().any(|(other, same)| name == other && tensor.shape() == same.shape())
        };
        let missing = known.iter().find(|state| differs(state, &snapshot.states));
        if let Some((state, _)) = missing.or_else(|| snapshot.states.iter().find(|state| differs(state, &known))) {
            return Err(TrainError::Foreign { state: state.clone() });
        }
        self.begin(snapshot.start)?;
        for (name, tensor) in self.step.packed.pack(snapshot.states.clone()) {
            self.states.set(&name, &tensor)?;
        }
        let tuned = snapshot.step.saturating_sub(self.config.warm_up);
        for [trn, val] in &mut self.batches {
            *trn = trn.clone().at(snapshot.step);
            *val = val.clone().at(tuned);
        }
        if let Some((_, a)) = snapshot.states.iter().find(|(name, _)| name == "a") {
            self.a = (0..self.a.len()).map(|place| self.in_place(a, place).into_data()).collect();
        }
        self.done = snapshot.step;
        self.failed = snapshot.failed.clone();
        Ok(())
    }

    /// Does the next step of this group, and tells of each of its starts that has not failed; `None` when it has done them
    /// all, or every start has failed. A start that diverges in this step has failed, and the others go on;
    /// [`assess`](Trainer::assess) tells why.
    ///
    /// # Errors
    /// When the last start that was still going on diverges, or the device fails.
    pub fn step(&mut self) -> Result<Option<Vec<Progress>>, TrainError> {
        let members = self.config.members(self.start);
        if self.done == self.config.steps || self.failed.len() == members.len() {
            return Ok(None);
        }
        let step = self.done + 1;
        let tunes = self.tuning.is_some() && step > self.config.warm_up;
        let x = interleaved(self.images.train, &drawn(&mut self.batches, 0));
        let x_val = tunes.then(|| interleaved(self.images.val, &drawn(&mut self.batches, 1)));
        self.feed(tunes, &x, x_val.as_ref(), step)?;
        let figures = match (&mut self.tuning, &self.step.tuning) {
            (Some(executor), Some(tuning)) if tunes => {
                executor.run()?;
                executor.fetch(tuning.figures)?
            }
            _ => {
                self.plain.run()?;
                self.plain.fetch(self.step.figures)?
            }
        };
        let (mut progress, mut last) = (Vec::new(), None);
        for (place, start) in
            members.enumerate().filter(|(_, start)| !self.failed.contains_key(start)).collect::<Vec<_>>()
        {
            let figures = Figures::of_place(figures.data(), place, self.batches.len());
            if let Some(what) = figures.not_finite() {
                let failure =
                    Failure { reason: format!("diverged at {}", diverged(step, what)), a: self.a[place].clone() };
                self.failed.insert(start, failure);
                last = Some(TrainError::Diverged { start, step, what });
                continue;
            }
            if let Some(tuned) = &figures.tuned {
                self.a[place] = tuned.a.to_vec();
            }
            let (inner, outer) = (figures.inner, figures.tuned.map(|tuned| tuned.outer));
            progress.push(Progress { start, step, inner, outer, a: self.a[place].clone() });
        }
        self.done = step;
        match last {
            Some(error) if progress.is_empty() => Err(error),
            _ => Ok(Some(progress)),
        }
    }

    /// Trains the group that begins with start number `index` from its first step to its last.
    ///
    /// # Errors
    /// When all starts of the group diverge, or the device fails.
    pub fn train(&mut self, index: usize, mut on_step: impl FnMut(Progress)) -> Result<Vec<Trained>, TrainError> {
        self.begin(index)?;
        while let Some(progress) = self.step()? {
            progress.into_iter().for_each(&mut on_step);
        }
        self.assess()
    }

    /// For each start of this group, fits the score to the clean training images and scores the unlabelled ones, with the
    /// states as they are. Starts that diverged, or cannot be scored, are marked as failed.
    ///
    /// # Errors
    /// When the device fails.
    pub fn assess(&mut self) -> Result<Vec<Trained>, TrainError> {
        let states = self.read_states(|name| !is_moment(name))?;
        let mut trained = Vec::new();
        for (place, start) in self.config.members(self.start).enumerate() {
            let coordinates = self.config.starts[start].clone();
            if let Some(failure) = self.failed.get(&start) {
                trained.push(Trained::failed(coordinates, failure.clone()));
                continue;
            }
            let own = states.iter().map(|(name, tensor)| (name.clone(), self.in_place(tensor, place))).collect();
            trained.push(match self.assess_start(coordinates.clone(), own)? {
                Ok(trained) => trained,
                Err(reason) => Trained::failed(coordinates, Failure { reason, a: self.a[place].clone() }),
            });
        }
        Ok(trained)
    }

    /// What the state of a group holds for one place of it.
    fn in_place(&self, state: &Tensor, place: usize) -> Tensor {
        match self.config.group() {
            1 => state.clone(),
            _ => Tensor::new(&state.shape()[1..], state.gather_rows(&[place]).into_data()),
        }
    }

    /// The trained start that these states are, or why they cannot be used.
    fn assess_start(
        &mut self,
        start: Vec<f32>,
        states: Vec<(String, Tensor)>,
    ) -> Result<Result<Trained, String>, GpuError> {
        let is_finite = |tensor: &Tensor| tensor.data().iter().all(|x| x.is_finite());
        if let Some((name, _)) = states.iter().find(|(_, tensor)| !is_finite(tensor)) {
            return Ok(Err(format!("its last step left `{name}` not finite; a smaller learning rate may help")));
        }
        for (name, tensor) in &states {
            self.scored.set(name, tensor)?;
        }
        let trn = self.scorer.read(self.images.train)?;
        let val = self.scorer.read(self.images.val)?;
        if trn.direct.iter().chain(&val.direct).any(|score| !score.is_finite()) {
            return Ok(Err("its scores are not finite".into()));
        }
        let by_distance = self.network.scores_by_distance();
        let fit = match by_distance.then(|| LedoitWolf::fit(&trn.z, self.network.features())).transpose() {
            Ok(fit) => fit,
            // Its logits are scores all the same; only the choice between starts has nothing to go by.
            Err(ScoreError::Singular { .. }) if self.config.score == Rule::Logit => None,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let scores = match by_distance && fit.is_none() {
            true => [Vec::new(), Vec::new()],
            false => [&trn, &val].map(|readings| readings.scores(fit.as_ref())),
        };
        let end = states.iter().find(|(name, _)| name == "a").map(|(_, a)| a.data().to_vec());
        Ok(Ok(Trained {
            start,
            end: end.unwrap_or_default(),
            fit,
            spread: Some(spread(&scores[1])),
            scores,
            logits: by_distance.then_some([trn.direct, val.direct]),
            states,
            failed: None,
        }))
    }

    /// Augments the first training images at raw coordinates `a`, as many as a micro-batch has: what the detector is shown.
    /// `None` for the methods that keep no hyper-parameters.
    ///
    /// # Errors
    /// When the device fails.
    pub fn augment(&mut self, a: &[f32]) -> Result<Option<Tensor>, GpuError> {
        let Some(viewer) = &mut self.augmenting else { return Ok(None) };
        let rows: Vec<usize> = (0..self.config.batch / self.config.micro_batches).collect();
        viewer.executor.feed("x", &self.images.train.gather_rows(&rows))?;
        viewer.executor.feed("key", &random::key(self.config.seed, 0))?;
        viewer.executor.feed("a", &Tensor::new([a.len()], a.to_vec()))?;
        viewer.run().map(Some)
    }

    /// Feeds step number `step`, which counts from 1.
    fn feed(&mut self, tunes: bool, x: &Tensor, x_val: Option<&Tensor>, step: usize) -> Result<(), GpuError> {
        let config = self.config;
        let tuning = self.tuning.as_mut().filter(|_| tunes);
        let is_tuning = tuning.is_some();
        let executor = tuning.unwrap_or(&mut self.plain);
        let feed = |executor: &mut Executor, name: &str, batch: &Tensor| {
            let mut parts = cut(batch, config.micro_batches).into_iter().enumerate();
            parts.try_for_each(|(part, own)| executor.feed(&feed_of(name, part, config.micro_batches), &own))
        };
        feed(executor, "x", x)?;
        executor.feed("rates", &ADAM_THETA.rates(config.rate, step))?;
        if config.method.augments() {
            let keys = config.places(self.start).map(|start| random::key(run_seed(config.seed, start), step as u32));
            executor.feed("key", &stacked(&keys.collect::<Vec<_>>()))?;
        }
        if let (true, Some(x_val)) = (is_tuning, x_val) {
            let updates = step.saturating_sub(config.warm_up).max(1);
            feed(executor, "x_val", x_val)?;
            executor.feed("rates_a", &ADAM_A.rates(cosine(updates, config.steps - config.warm_up), updates))?;
        }
        Ok(())
    }

    /// The states of the group, parameter by parameter.
    fn read_states(&self, keep: impl Fn(&str) -> bool) -> Result<Vec<(String, Tensor)>, GpuError> {
        let names = self.states.names().into_iter().filter(|name| keep(name));
        let states =
            names.map(|name| Ok((name.to_owned(), self.states.get(name)?))).collect::<Result<_, GpuError>>()?;
        Ok(self.step.packed.unpack(states))
    }
}

/// The sequences of batches of each place of the group that begins with start number `first`: of the training set and of the
/// unlabelled one.
fn batches(config: &Config, images: Visible, first: usize) -> Result<Vec<[Batches; 2]>, DataError> {
    let of_start = |start: usize| {
        let seed = run_seed(config.seed, start);
        Ok([
            Batches::new(images.train.shape()[0], config.batch, seed, stream::BATCHES)?,
            Batches::new(images.val.shape()[0], config.batch_val, seed, stream::BATCHES_VAL)?,
        ])
    };
    config.places(first).map(of_start).collect()
}

/// Rows of the next batch for each place, of the training set (0) or of the unlabelled one (1).
fn drawn(batches: &mut [[Batches; 2]], set: usize) -> Vec<Vec<usize>> {
    batches.iter_mut().map(|sets| sets[set].next().to_vec()).collect()
}

/// A state of a group with 0 in the places that are `left_out`.
fn without(state: &Tensor, left_out: &[bool]) -> Tensor {
    let mut data = state.data().to_vec();
    let own = data.len() / left_out.len();
    for (values, _) in data.chunks_mut(own).zip(left_out).filter(|(_, left_out)| **left_out) {
        values.fill(0.0);
    }
    Tensor::new(state.shape().clone(), data)
}

/// The mean of tensors of one shape; of one, itself.
fn mean(parts: &[Tensor]) -> Tensor {
    let count = parts.len() as f32;
    let at = |index: usize| parts.iter().map(|part| part.data()[index]).sum::<f32>() / count;
    Tensor::new(parts[0].shape().clone(), (0..parts[0].data().len()).map(at).collect())
}

/// What is left of the rate of `a` at update number `update` of `of`, counted from 1: it falls to 0 along half a cosine, so
/// that `a` comes to rest.
fn cosine(update: usize, of: usize) -> f64 {
    0.5 + 0.5 * (std::f64::consts::PI * (update - 1) as f64 / of.max(1) as f64).cos()
}

/// The start whose scores of unlabelled images spread the most: never chosen by the alignment loss alone, which has a
/// trivial minimum at the identity. A start that failed is never chosen.
///
/// # Errors
/// When every start failed, with their reasons.
pub fn choose(trained: &[Trained]) -> Result<usize, TrainError> {
    let spreads = trained.iter().enumerate().filter_map(|(index, trained)| Some((index, trained.spread?)));
    let chosen = spreads.max_by(|(_, a), (_, b)| a.total_cmp(b));
    let reasons = || trained.iter().filter_map(|trained| trained.failed.clone()).collect();
    chosen.map(|(index, _)| index).ok_or_else(|| TrainError::NoStart(reasons()))
}
