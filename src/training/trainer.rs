//! The training loop. Starts are trained one after another or in groups side by side. A run can stop between two steps
//! and resume bit-identically.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::ops::Range;

use crate::data::{Batches, DataError, Images, Visible};
use crate::engine::gpu::{Device, Executor, Fetch, GpuError, States};
use crate::engine::kernel::Precision;
use crate::engine::ops::random;
use crate::engine::tape::{GradError, Value};
use crate::engine::tensor::Tensor;
use crate::ssad::config::Config;
use crate::ssad::method::{BANK, CENTRE, Network, Rule};
use crate::ssad::step::{
    ADAM_A, ADAM_THETA, Figures, TrainingStep, View, cut, feed_of, initial_states, interleaved, is_moment, run_seed,
    stacked, start_states, views,
};
use crate::training::bank::Patches;
use crate::training::score::{LedoitWolf, ScoreError, exceedance};
use crate::training::scorer::{BATCH, Readings, Scorer};

/// Random streams drawn on the host; parameters and splits use others.
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
    /// Every start of the group has diverged; this is the last one. Starts count from 0, steps from 1.
    #[error("training diverged at start {start}, {}", diverged(*step, what))]
    Diverged { start: usize, step: usize, what: &'static str },
    #[error("the checkpoint is of another network: the state `{state}` differs")]
    Mismatch { state: String },
    /// The reason of each start.
    #[error("every start failed: {}", each_start(.0))]
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

/// The figures of one step.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    /// Counts from 0.
    pub start: usize,
    /// Counts from 1.
    pub step: usize,
    pub inner: f32,
    /// `None` if the step does not tune.
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
    /// The distance that scores embeddings; `None` if the network gives the score itself, or the embeddings give no
    /// distance.
    pub fit: Option<LedoitWolf>,
    /// Scores of [clean training images, unlabelled images]: distances, or the network's own scores. Empty if the
    /// embeddings give no distance.
    pub scores: [Vec<f64>; 2],
    /// The head's logits of the same images; `None` without a head.
    pub logits: Option<[Vec<f64>; 2]>,
    /// Parameters, running statistics and `a`, by name; empty if the start failed.
    pub states: Vec<(String, Tensor)>,
    /// Why this start failed and cannot be chosen, if so.
    pub failed: Option<String>,
}

impl Trained {
    /// A failed start, with its raw coordinates at the start and at the failure.
    pub fn failed(start: Vec<f32>, Failure { reason, a }: Failure) -> Self {
        Trained {
            start,
            end: a,
            fit: None,
            scores: [Vec::new(), Vec::new()],
            logits: None,
            states: Vec::new(),
            failed: Some(reason),
        }
    }

    /// The [`exceedance`] of its scores under `rule`, by which starts are chosen; `None` if it failed.
    pub fn exceedance(&self, rule: Rule) -> Option<f64> {
        let [normal, unlabelled] = self.scores_by(rule);
        self.failed.is_none().then(|| exceedance(normal, unlabelled))
    }

    /// The scores under `rule`, of [clean training images, unlabelled images].
    pub fn scores_by(&self, rule: Rule) -> &[Vec<f64>; 2] {
        match (rule, &self.logits) {
            (Rule::Logit, Some(logits)) => logits,
            _ => &self.scores,
        }
    }
}

/// Why a start failed.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// A sentence without its full stop.
    pub reason: String,
    /// The last finite raw coordinates.
    pub a: Vec<f32>,
}

/// The state of a run between two steps. With the results of the finished starts, it is all that resuming needs.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Index of the first start of the current group.
    pub start: usize,
    /// Steps completed in this group.
    pub step: usize,
    /// How often the learning rates were halved.
    pub halvings: u32,
    /// Every state of the group by name: parameters, moments, running statistics, `a` and its moments. States of failed
    /// starts are 0.
    pub states: Vec<(String, Tensor)>,
    /// The starts of the group that failed.
    pub failed: BTreeMap<usize, Failure>,
}

impl Snapshot {
    /// The same with its starts counted in another way.
    pub fn renumbered(self, number: impl Fn(usize) -> usize) -> Self {
        let failed = self.failed.into_iter().map(|(start, failure)| (number(start), failure)).collect();
        Snapshot { start: number(self.start), failed, ..self }
    }

    /// The same for start `start` alone of the group's `members`, with half the learning rates.
    pub fn again(&self, start: usize, members: Range<usize>) -> Snapshot {
        let left_out = Failure { reason: "it is not trained again".into(), a: Vec::new() };
        let failed = members.filter(|&member| member != start).map(|member| (member, left_out.clone())).collect();
        Snapshot { failed, halvings: self.halvings + 1, ..self.clone() }
    }
}

/// Trains a network and its augmentation on a device, one group of starts after another.
#[derive(Debug)]
pub struct Trainer<'a> {
    config: &'a Config,
    images: Visible<'a>,
    network: Network,
    states: States,
    step: TrainingStep,
    plain: Executor,
    tuning: Option<Executor>,
    /// Scores images with the network whose states are in `scored`: one start's.
    scorer: Scorer,
    scored: States,
    centring: Option<OneOutput>,
    mapping: Option<OneOutput>,
    /// Index of the first start of the current group; `done` counts its completed steps.
    start: usize,
    done: usize,
    /// As [`Snapshot::halvings`].
    halvings: u32,
    /// [training, unlabelled] batches for each place in the group.
    batches: Vec<[Batches; 2]>,
    /// Raw coordinates of each start of the group after the last step.
    a: Vec<Vec<f32>>,
    /// The failed starts of the group. Their places are still computed, which does not affect the others.
    failed: BTreeMap<usize, Failure>,
    /// The figures of the step after the `done` ones, which the device computes already, or why it could not be begun.
    ahead: Option<Result<Fetch, TrainError>>,
}

/// The rows of the training images of a step for each place, and those of the unlabelled images if it tunes.
#[derive(Debug)]
struct Drawn {
    x: Vec<Vec<usize>>,
    x_val: Option<Vec<Vec<usize>>>,
}

impl Drawn {
    /// The images `x` and `x_val`.
    fn read(&self, images: Visible) -> Result<(Tensor, Option<Tensor>), DataError> {
        let x = side_by_side(images.train, &self.x)?;
        let x_val = self.x_val.as_ref().map(|rows| side_by_side(images.val, rows)).transpose()?;
        Ok((x, x_val))
    }
}

/// A view bound to a device.
#[derive(Debug)]
struct OneOutput {
    executor: Executor,
    output: Value,
}

impl OneOutput {
    fn new(device: &Device, states: &States, view: &View) -> Result<Self, GpuError> {
        let executor = Executor::new(device, view.plan(device.class()), states, |_, _| {})?;
        Ok(OneOutput { executor, output: view.output })
    }

    fn run(&mut self) -> Result<Tensor, GpuError> {
        self.executor.run()?;
        self.executor.fetch(self.output)
    }
}

impl<'a> Trainer<'a> {
    /// Records the step, compiles its kernels and binds them; `on_pipeline` is called with (done, total). Training
    /// begins at the first step of the first start.
    ///
    /// # Errors
    /// When a batch is larger than its set, or the device fails.
    pub fn new(
        device: &Device,
        config: &'a Config,
        images: Visible<'a>,
        mut on_pipeline: impl FnMut(usize, usize),
    ) -> Result<Self, TrainError> {
        let [_, c, h, w] = images.train.shape();
        // Refuse a batch larger than its set before compiling anything.
        let batches = batches(config, images, 0)?;
        let network = Network::new(config.method, &config.detector, [c, h, w]);
        let step = TrainingStep::record_for(device.precision(), config, [c, h, w])?;

        let mut states = States::new(device);
        for (name, tensor) in initial_states(config, &network, 0) {
            states.set(&name, &tensor)?;
        }
        let (plain, tuning) =
            (step.plain_plan(device.class(), config.reuse), step.tuning_plan(device.class(), config.reuse));
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
        // Score in f32, as every use of the trained detector does, so that scores of the same images agree.
        let exact = device.with_precision(Precision::F32)?;
        let most = images.train.len().max(images.val.len()).min(BATCH);
        let scorer = Scorer::new(&exact, &network, [c, h, w], most, &scored)?;
        let [_, centred, mapped] = views(config, &network, [c, h, w], config.batch / config.micro_batches);
        let centring = centred.map(|view| OneOutput::new(device, &states, &view)).transpose()?;
        let mapping = mapped.map(|view| OneOutput::new(&exact, &states, &view)).transpose()?;
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
            centring,
            mapping,
            start: 0,
            done: 0,
            halvings: 0,
            batches,
            a: config.starts[config.members(0)].to_vec(),
            failed: BTreeMap::new(),
            ahead: None,
        };
        Ok(trainer)
    }

    /// The step that tunes (for a method that does not tune, its only step), fed with the first images of the sets and
    /// ready to run. `profile` and `bench` measure it.
    ///
    /// # Errors
    /// When an image cannot be read, or the device fails.
    pub fn full_step(&mut self) -> Result<&mut Executor, TrainError> {
        let (x, x_val) = self.first(true).read(self.images)?;
        self.feed(true, &x, x_val.as_ref(), 1)?;
        Ok(self.tuning.as_mut().unwrap_or(&mut self.plain))
    }

    /// The step that does not tune, fed and ready to run as [`full_step`](Trainer::full_step): forward, backward and
    /// detector update on normal and augmented images.
    ///
    /// # Errors
    /// When an image cannot be read, or the device fails.
    pub fn plain_step(&mut self) -> Result<&mut Executor, TrainError> {
        let (x, _) = self.first(false).read(self.images)?;
        self.feed(false, &x, None, 1)?;
        Ok(&mut self.plain)
    }

    /// The first images of the sets, at each place.
    fn first(&self, tunes: bool) -> Drawn {
        let rows = |count: usize| vec![(0..count).collect(); self.config.group()];
        Drawn { x: rows(self.config.batch), x_val: tunes.then(|| rows(self.config.batch_val)) }
    }

    /// Moves to the first step of the group that begins with start `index`.
    ///
    /// # Errors
    /// When the device fails.
    pub fn begin(&mut self, index: usize) -> Result<(), TrainError> {
        self.ahead = None;
        for (name, tensor) in initial_states(self.config, &self.network, index) {
            self.states.set(&name, &tensor)?;
        }
        self.batches = batches(self.config, self.images, index)?;
        (self.start, self.done, self.halvings) = (index, 0, 0);
        self.a = self.config.starts[self.config.members(index)].to_vec();
        self.failed.clear();
        if let Some(centring) = &mut self.centring {
            let x = side_by_side(self.images.train, &drawn(&mut self.batches.clone(), 0))?;
            let mut centres: Vec<Tensor> = Vec::new();
            for part in cut(&x, self.config.micro_batches) {
                centring.executor.feed("x", &part)?;
                centres.push(centring.run()?);
            }
            self.states.set(CENTRE, &mean(&centres))?;
        }
        if let Some(mapping) = &mut self.mapping {
            let batch = self.config.batch / self.config.micro_batches;
            let mut patches = Patches::new(run_seed(self.config.seed, index));
            self.images.train.for_each_batch::<TrainError>(batch, |_, images| {
                let count = images.shape()[0];
                // The last images fill no batch.
                let rows: Vec<usize> = (0..batch).map(|row| row.min(count - 1)).collect();
                mapping.executor.feed("x", &images.gather_rows(&rows))?;
                patches.add(&mapping.run()?, count);
                Ok(())
            })?;
            self.states.set(BANK, &patches.bank())?;
        }
        Ok(())
    }

    /// The starts of this group that failed, with the reasons.
    pub fn failed(&self) -> &BTreeMap<usize, Failure> {
        &self.failed
    }

    /// Steps completed in this group; not one that the device is ahead.
    pub fn done(&self) -> usize {
        self.done
    }

    /// The state of the run.
    ///
    /// # Errors
    /// When the device fails.
    ///
    /// # Panics
    /// When the device is a step ahead: after [`step_ahead`](Trainer::step_ahead), unless it was the last step.
    pub fn snapshot(&self) -> Result<Snapshot, GpuError> {
        let mut states = self.read_states(|_| true)?;
        let failed: Vec<bool> = self.config.places(self.start).map(|start| self.failed.contains_key(&start)).collect();
        if failed.contains(&true) {
            for (_, tensor) in &mut states {
                *tensor = without(tensor, &failed);
            }
        }
        let (start, step, halvings) = (self.start, self.done, self.halvings);
        Ok(Snapshot { start, step, halvings, states, failed: self.failed.clone() })
    }

    /// Moves to the state of a snapshot of this run.
    ///
    /// # Errors
    /// When its states do not match this network, or the device fails.
    pub fn restore(&mut self, snapshot: &Snapshot) -> Result<(), TrainError> {
        let initial = initial_states(self.config, &self.network, snapshot.start);
        let known: Vec<(String, Tensor)> = self.step.packed.unpack(initial);
        let differs = |(name, tensor): &&(String, Tensor), others: &[(String, Tensor)]| {
            !others.iter().any(|(other, same)| name == other && tensor.shape() == same.shape())
        };
        let missing = known.iter().find(|state| differs(state, &snapshot.states));
        if let Some((state, _)) = missing.or_else(|| snapshot.states.iter().find(|state| differs(state, &known))) {
            return Err(TrainError::Mismatch { state: state.clone() });
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
        (self.done, self.halvings) = (snapshot.step, snapshot.halvings);
        self.failed = snapshot.failed.clone();
        Ok(())
    }

    /// Runs the next step of this group and returns the progress of each start that has not failed; `None` when all
    /// steps are done or every start has failed. A start that diverges in this step fails while the others continue;
    /// [`assess`](Trainer::assess) gives the reason. Afterwards the states are those of this step.
    ///
    /// # Errors
    /// When the last remaining start diverges, an image cannot be read, or the device fails. After the latter two, only
    /// [`begin`](Trainer::begin) and [`restore`](Trainer::restore) lead on.
    pub fn step(&mut self) -> Result<Option<Vec<Progress>>, TrainError> {
        self.advance(false)
    }

    /// As [`step`](Trainer::step), with the same results, but has the device begin the step after it before this one's
    /// figures are waited for, so that the device does not wait while the host reads images and hands steps over. The
    /// device is at most one step ahead. The next [`step`](Trainer::step) completes that one and begins no other, and the
    /// states can be read again.
    ///
    /// # Errors
    /// As [`step`](Trainer::step). Why the step after it could not be begun is an error of the next call.
    pub fn step_ahead(&mut self) -> Result<Option<Vec<Progress>>, TrainError> {
        self.advance(true)
    }

    fn advance(&mut self, begins_another: bool) -> Result<Option<Vec<Progress>>, TrainError> {
        let members = self.config.members(self.start);
        if self.done == self.config.steps || self.failed.len() == members.len() {
            return Ok(None);
        }
        let step = self.done + 1;
        let figures = self.ahead.take().unwrap_or_else(|| self.hand_over(step))?;
        let ahead = (begins_another && step < self.config.steps).then(|| self.hand_over(step + 1));
        let figures = figures.wait()?;
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
            // Nobody wants what the device computes ahead.
            Some(error) if progress.is_empty() => Err(error),
            _ => {
                self.ahead = ahead;
                Ok(Some(progress))
            }
        }
    }

    /// Reads the images of step `step`, which counts from 1 and follows the one handed over last, and hands the step to the
    /// device. Gives its figures, which are on their way.
    fn hand_over(&mut self, step: usize) -> Result<Fetch, TrainError> {
        let tunes = self.tuning.is_some() && step > self.config.warm_up;
        let (x, x_val) = draw(&mut self.batches, tunes).read(self.images)?;
        self.feed(tunes, &x, x_val.as_ref(), step)?;
        let (executor, figures) = match (&mut self.tuning, &self.step.tuning) {
            (Some(executor), Some(tuning)) if tunes => (executor, tuning.figures),
            _ => (&mut self.plain, self.step.figures),
        };
        executor.run()?;
        Ok(executor.fetch_async(figures)?)
    }

    /// Trains the group that begins with start `index` from its first step to its last.
    ///
    /// # Errors
    /// When all starts of the group diverge, or the device fails.
    pub fn train(&mut self, index: usize, mut on_step: impl FnMut(Progress)) -> Result<Vec<Trained>, TrainError> {
        self.begin(index)?;
        while let Some(progress) = self.step_ahead()? {
            progress.into_iter().for_each(&mut on_step);
        }
        self.assess()
    }

    /// For each start of this group, fits the score to the clean training images and scores the unlabelled ones with
    /// the current states. Starts that diverged or cannot be scored are marked as failed.
    ///
    /// # Errors
    /// When an image cannot be read, or the device fails.
    ///
    /// # Panics
    /// As [`snapshot`](Trainer::snapshot).
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

    /// The slice of a group's state that belongs to one place.
    fn in_place(&self, state: &Tensor, place: usize) -> Tensor {
        match self.config.group() {
            1 => state.clone(),
            _ => Tensor::new(&state.shape()[1..], state.gather_rows(&[place]).into_data()),
        }
    }

    /// The trained start with these states, or why it failed.
    fn assess_start(
        &mut self,
        start: Vec<f32>,
        states: Vec<(String, Tensor)>,
    ) -> Result<Result<Trained, String>, TrainError> {
        let is_finite = |tensor: &Tensor| tensor.data().iter().all(|x| x.is_finite());
        if let Some((name, _)) = states.iter().find(|(_, tensor)| !is_finite(tensor)) {
            return Ok(Err(format!("`{name}` is not finite after the last step; a smaller learning rate may help")));
        }
        for (name, tensor) in &states {
            self.scored.set(name, tensor)?;
        }
        let mut trn = Readings::default();
        self.scorer.read_all::<TrainError>(self.images.train, |batch| trn.extend(batch))?;
        let is_singular = |error: &ScoreError| matches!(error, ScoreError::Singular { .. });
        let (has_distance, has_logit) = (self.network.has_distance(), self.network.has_logit());
        let fit = match has_distance.then(|| LedoitWolf::fit(&trn.z, self.network.features())).transpose() {
            Ok(fit) => fit,
            // The logits remain usable as scores; only the selection between starts has no statistic.
            Err(error) if is_singular(&error) && has_logit && self.config.score == Rule::Logit => None,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let has_scores = !has_distance || fit.is_some();
        let [mut scores, mut direct] = [const { Vec::new() }; 2];
        self.scorer.read_all::<TrainError>(self.images.val, |batch| {
            if has_scores {
                scores.extend(batch.scores(fit.as_ref()));
            }
            direct.extend(batch.direct);
        })?;
        if trn.direct.iter().chain(&direct).any(|score| !score.is_finite()) {
            return Ok(Err("its scores are not finite".into()));
        }
        let scores = [if has_scores { trn.scores(fit.as_ref()) } else { Vec::new() }, scores];
        let end = states.iter().find(|(name, _)| name == "a").map(|(_, a)| a.data().to_vec());
        Ok(Ok(Trained {
            start,
            end: end.unwrap_or_default(),
            fit,
            scores,
            logits: has_logit.then_some([trn.direct, direct]),
            states,
            failed: None,
        }))
    }

    /// Feeds step `step`, counted from 1.
    fn feed(&mut self, tunes: bool, x: &Tensor, x_val: Option<&Tensor>, step: usize) -> Result<(), GpuError> {
        let (config, halved) = (self.config, 0.5f64.powi(self.halvings as i32));
        let tuning = self.tuning.as_mut().filter(|_| tunes);
        let is_tuning = tuning.is_some();
        let executor = tuning.unwrap_or(&mut self.plain);
        let feed = |executor: &mut Executor, name: &str, batch: &Tensor| {
            let mut parts = cut(batch, config.micro_batches).into_iter().enumerate();
            parts.try_for_each(|(part, own)| executor.feed(&feed_of(name, part, config.micro_batches), &own))
        };
        feed(executor, "x", x)?;
        executor.feed("rates", &ADAM_THETA.rates(halved * config.rate, step))?;
        if config.method.augments() {
            let keys = config.places(self.start).map(|start| random::key(run_seed(config.seed, start), step as u32));
            executor.feed("key", &stacked(&keys.collect::<Vec<_>>()))?;
        }
        if let (true, Some(x_val)) = (is_tuning, x_val) {
            let updates = step.saturating_sub(config.warm_up).max(1);
            feed(executor, "x_val", x_val)?;
            let rate = halved * cosine(updates, config.steps - config.warm_up);
            executor.feed("rates_a", &ADAM_A.rates(rate, updates))?;
        }
        Ok(())
    }

    /// The states of the group, parameter by parameter.
    fn read_states(&self, keep: impl Fn(&str) -> bool) -> Result<Vec<(String, Tensor)>, GpuError> {
        assert!(self.ahead.is_none(), "states are read after `step`, not while the device is a step ahead");
        let names = self.states.names().into_iter().filter(|name| keep(name));
        let states =
            names.map(|name| Ok((name.to_owned(), self.states.get(name)?))).collect::<Result<_, GpuError>>()?;
        Ok(self.step.packed.unpack(states))
    }
}

/// Augments the first images of a set, one micro-batch of them, at each of some raw coordinates, as a detector sees
/// them. `None` for methods without augmentation parameters.
///
/// # Errors
/// When an image cannot be read, or the device fails.
pub fn augmented(
    device: &Device,
    config: &Config,
    images: &Images,
    coordinates: &[&[f32]],
) -> Result<Option<Vec<Tensor>>, TrainError> {
    let ([_, c, h, w], batch) = (images.shape(), config.batch / config.micro_batches);
    let network = Network::new(config.method, &config.detector, [c, h, w]);
    let [Some(view), ..] = views(config, &network, [c, h, w], batch) else { return Ok(None) };
    let mut viewer = OneOutput::new(device, &States::new(device), &view)?;
    let rows: Vec<usize> = (0..batch).collect();
    viewer.executor.feed("x", &images.read(&rows)?)?;
    viewer.executor.feed("key", &random::key(config.seed, 0))?;
    let mut at = |a: &&[f32]| {
        viewer.executor.feed("a", &Tensor::new([a.len()], a.to_vec()))?;
        Ok(viewer.run()?)
    };
    coordinates.iter().map(&mut at).collect::<Result<Vec<Tensor>, TrainError>>().map(Some)
}

/// [training, unlabelled] batches for each place of the group that begins with start `first`.
fn batches(config: &Config, images: Visible, first: usize) -> Result<Vec<[Batches; 2]>, DataError> {
    let of_start = |start: usize| {
        let seed = run_seed(config.seed, start);
        Ok([
            Batches::new(images.train.len(), config.batch, seed, stream::BATCHES)?,
            Batches::new(images.val.len(), config.batch_val, seed, stream::BATCHES_VAL)?,
        ])
    };
    config.places(first).map(of_start).collect()
}

/// The next batch of rows for each place, from the training set (0) or the unlabelled one (1).
fn drawn(batches: &mut [[Batches; 2]], set: usize) -> Vec<Vec<usize>> {
    batches.iter_mut().map(|sets| sets[set].next().to_vec()).collect()
}

/// The next rows of each place.
fn draw(batches: &mut [[Batches; 2]], tunes: bool) -> Drawn {
    Drawn { x: drawn(batches, 0), x_val: tunes.then(|| drawn(batches, 1)) }
}

/// The rows of each place as one batch: `[N, G · C, H, W]`.
fn side_by_side(images: &Images, rows: &[Vec<usize>]) -> Result<Tensor, DataError> {
    let [_, c, h, w] = images.shape();
    let batch = images.read(&interleaved(rows))?;
    Ok(Tensor::new([rows[0].len(), rows.len() * c, h, w], batch.into_data()))
}

/// A state of a group, with 0 in the places that are `left_out`.
fn without(state: &Tensor, left_out: &[bool]) -> Tensor {
    let mut data = state.data().to_vec();
    let own = data.len() / left_out.len();
    for (values, _) in data.chunks_mut(own).zip(left_out).filter(|(_, left_out)| **left_out) {
        values.fill(0.0);
    }
    Tensor::new(state.shape().clone(), data)
}

/// The mean of tensors of equal shape; a single tensor is unchanged.
fn mean(parts: &[Tensor]) -> Tensor {
    let count = parts.len() as f32;
    let at = |index: usize| parts.iter().map(|part| part.data()[index]).sum::<f32>() / count;
    Tensor::new(parts[0].shape().clone(), (0..parts[0].data().len()).map(at).collect())
}

/// The factor on the learning rate of `a` at update `update` of `of`, counted from 1: half a cosine from 1 towards 0,
/// so that `a` settles.
fn cosine(update: usize, of: usize) -> f64 {
    0.5 + 0.5 * (std::f64::consts::PI * (update - 1) as f64 / of.max(1) as f64).cos()
}

/// The starts that did not fail, the best first: those with the greatest [`exceedance`] of scores under `rule`. The
/// alignment loss must not choose, since it has a trivial minimum at the identity.
pub fn ranked<T: Borrow<Trained>>(trained: &[T], rule: Rule) -> Vec<usize> {
    let figure = |(index, trained): (usize, &T)| Some((trained.borrow().exceedance(rule)?, index));
    let mut figures: Vec<(f64, usize)> = trained.iter().enumerate().filter_map(figure).collect();
    figures.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    figures.into_iter().map(|(_, index)| index).collect()
}

/// The first of the [`ranked`] starts.
///
/// # Errors
/// When every start failed; gives the reasons.
pub fn choose<T: Borrow<Trained>>(trained: &[T], rule: Rule) -> Result<usize, TrainError> {
    let reasons = || trained.iter().filter_map(|trained| trained.borrow().failed.clone()).collect();
    ranked(trained, rule).first().copied().ok_or_else(|| TrainError::NoStart(reasons()))
}
