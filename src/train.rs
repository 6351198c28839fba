//! The training loop: one start after another, step by step, so that a run can stop between two steps and go on later
//! with the same bits.

use crate::augment::{Augmentation, Setting, project};
use crate::data::{Batches, DataError, Visible};
use crate::gpu::{Device, Executor, GpuError, States};
use crate::loss::{Alignment, total_distance_normalise};
use crate::method::{CENTRE, Method, Network, random_rows};
use crate::nn::{Adam, Detector, Statistics, update_statistics};
use crate::ops::random;
use crate::philox::Stream;
use crate::plan::{Plan, Reuse};
use crate::score::{LedoitWolf, ScoreError, spread};
use crate::scorer::{Rule, Scorer};
use crate::ssad::{Inner, Order, Problem, bilevel};
use crate::tape::{GradError, Tape, Value};
use crate::tensor::{Shape, Tensor};

/// What a training run is made of.
#[derive(Debug)]
pub struct Config {
    pub method: Method,
    pub detector: Detector,
    pub augmentation: Box<dyn Augmentation>,
    /// Raw coordinates that are tried one after the other; the methods that keep no hyper-parameters have one empty start.
    pub starts: Vec<Vec<f32>>,
    pub alignment: Alignment,
    /// Whether embeddings are brought to unit total distance before they are aligned; `false` is an ablation.
    pub normalise: bool,
    pub order: Order,
    /// Steps in all, of which the first `warm_up` leave `a` as it is.
    pub steps: usize,
    pub warm_up: usize,
    /// Normal pictures in a batch; as many augmented ones join them.
    pub batch: usize,
    /// Unlabelled pictures in a batch.
    pub batch_val: usize,
    /// Adam's rate for the detector.
    pub rate: f64,
    /// The look-ahead step α.
    pub look_ahead: f32,
    /// How the values of a step share the device's memory.
    pub reuse: Reuse,
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
            alignment: Alignment::DiagonalW2 { mass: 0.5 },
            normalise: true,
            order: Order::Second,
            steps: 180,
            warm_up: 40,
            batch: 48,
            batch_val: 96,
            rate: 1e-3,
            look_ahead: 0.1,
            reuse: Reuse::On,
            seed: 0,
        }
    }

    /// Hyper-parameters in plain units; empty for the methods that keep none.
    pub fn setting(&self, a: &[f32]) -> Setting {
        if a.is_empty() { Setting::new() } else { self.augmentation.setting(a) }
    }
}

const ADAM_THETA: Adam = Adam { beta_1: 0.9, beta_2: 0.999 };
/// `a` turns quickly: its second moment forgets ten times as fast.
const ADAM_A: Adam = Adam { beta_1: 0.9, beta_2: 0.99 };

/// Streams of host draws; splits have their own.
mod stream {
    pub const PARAMETERS: u32 = 1;
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
    #[error("training diverged at start {start}, step {step}: the {what} is not finite; a smaller rate may help")]
    Diverged { start: usize, step: usize, what: &'static str },
    #[error("the checkpoint is of another network: only one of both has the state `{state}`")]
    Foreign { state: String },
    #[error("the embeddings of start {start} cannot be scored")]
    Score { start: usize, source: ScoreError },
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
    /// What embeddings are scored by; `None` where the network gives the score itself.
    pub fit: Option<LedoitWolf>,
    /// Distances, or the network's own scores, of the clean training pictures and of the unlabelled ones.
    pub scores: [Vec<f64>; 2],
    /// The head's logits of the same; `None` where there is no head.
    pub logits: Option<[Vec<f64>; 2]>,
    /// Selection statistic of the unlabelled pictures' `scores`; see [`spread`].
    pub spread: f64,
    /// Parameters, running statistics and `a`, by name.
    pub states: Vec<(String, Tensor)>,
}

impl Trained {
    /// What pictures are told apart by under `rule`: of the clean training pictures and of the unlabelled ones.
    pub fn scores_by(&self, rule: Rule) -> &[Vec<f64>; 2] {
        match (rule, &self.logits) {
            (Rule::Logit, Some(logits)) => logits,
            _ => &self.scores,
        }
    }
}

/// Where a run stands between two steps: with the finished starts, all that it needs to go on.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Index of the start under way.
    pub start: usize,
    /// Steps that it has done.
    pub step: usize,
    /// Every state by name: parameters, moments, running statistics, `a` and its moments.
    pub states: Vec<(String, Tensor)>,
}

/// The detector's parts as a [`Problem`].
struct DetectorProblem<'a> {
    config: &'a Config,
    network: &'a Network,
    detector: &'a Detector,
    key: Value,
}

impl Problem for DetectorProblem<'_> {
    fn augment(&self, t: &mut Tape, x: Value, a: Value) -> Value {
        self.config.augmentation.apply(t, x, a, self.key)
    }

    fn inner(&self, t: &mut Tape, theta: &[Value], x: Value, x_aug: Value) -> Inner {
        self.network.loss(t, theta, x, Some(x_aug))
    }

    fn embed(&self, t: &mut Tape, theta: &[Value], x: Value) -> Value {
        self.detector.forward(t, theta, x, Statistics::Batch).z
    }

    fn normalise(&self, t: &mut Tape, z: Value) -> Value {
        if self.config.normalise { total_distance_normalise(t, z) } else { z }
    }

    fn align(&self, t: &mut Tape, z_trn: Value, z_aug: Value, z_val: Value) -> Value {
        self.config.alignment.record(t, z_trn, z_aug, z_val, self.key)
    }
}

/// A recorded training step, from which the plans with and without tuning are made.
#[derive(Debug)]
pub struct TrainingStep {
    pub tape: Tape,
    /// The training loss.
    pub inner: Value,
    /// Its gradient by each trained parameter.
    pub g: Vec<Value>,
    /// New parameters, moments and running statistics of the network.
    pub carries: Vec<(Value, Value)>,
    /// `None` for the methods that tune nothing.
    pub tuning: Option<Tuning>,
}

/// The tuning part of a step.
#[derive(Debug)]
pub struct Tuning {
    /// The hyper-gradient.
    pub g_a: Value,
    /// The training loss, the alignment loss and the new `a` in one vector.
    pub figures: Value,
    /// New `a` and its moments.
    pub carries: Vec<(Value, Value)>,
}

impl TrainingStep {
    /// Records a step on pictures of the shape `[C, H, W]`.
    ///
    /// # Errors
    /// When a gradient cannot be taken.
    pub fn record(config: &Config, picture: [usize; 3]) -> Result<Self, GradError> {
        let mut tape = Tape::new();
        let t = &mut tape;
        let [c, h, w] = picture;
        let network = Network::new(config.method, &config.detector, picture);
        let x = t.feed("x", [config.batch, c, h, w]);
        let rates = t.feed("rates", [3]);
        let theta = network.record_parameters(t);
        let values: Vec<Value> = theta.iter().map(|(_, value)| *value).collect();
        let trained: Vec<usize> = (0..theta.len()).filter(|&index| network.trains(&theta[index].0)).collect();

        let (inner, g, tuned) = match config.method {
            Method::StSsad => {
                let x_val = t.feed("x_val", [config.batch_val, c, h, w]);
                let key = t.feed("key", [6]);
                let a = t.state("a", [config.starts[0].len()]);
                let problem = DetectorProblem { config, network: &network, detector: &config.detector, key };
                let step = bilevel(t, &problem, &values, a, [x, x_val], config.look_ahead, config.order)?;
                (step.inner, step.g, Some((a, step.outer, step.g_a)))
            }
            method => {
                let x_aug = method.augments().then(|| {
                    let key = t.feed("key", [6]);
                    t.scope("augment", |t| {
                        let a = match method {
                            Method::RandomDynamic => random_rows(t, config.augmentation.as_ref(), config.batch, key),
                            _ => t.state("a", [config.starts[0].len()]),
                        };
                        config.augmentation.apply(t, x, a, key)
                    })
                });
                let inner = t.scope("inner", |t| network.loss(t, &values, x, x_aug));
                let wrt: Vec<Value> = trained.iter().map(|&index| values[index]).collect();
                let g = t.grad(inner.loss, &wrt)?;
                (inner, g, None)
            }
        };

        let carries = t.scope("update", |t| {
            let mut carries = Vec::new();
            for (&index, &g) in trained.iter().zip(&g) {
                let (name, value) = &theta[index];
                let states = adam_states(t, name, *value);
                carries.extend(states.into_iter().zip(ADAM_THETA.update(t, states, g, rates)));
            }
            let running = network.record_statistics(t);
            for (running, moments) in running.iter().flatten().zip(inner.moments.iter().flatten()) {
                carries.push((*running, update_statistics(t, *running, *moments)));
            }
            carries
        });
        let tuning = tuned.map(|(a, outer, g_a)| {
            t.scope("tune", |t| {
                let rates_a = t.feed("rates_a", [3]);
                let a = adam_states(t, "a", a);
                // Each coordinate has a rate of its own, so Adam's step is taken from 0 and then scaled.
                let origin = t.constant(Tensor::full(t.shape(a[0]).clone(), 0.0));
                let [unit_step, m, v] = ADAM_A.update(t, [origin, a[1], a[2]], g_a, rates_a);
                let rates: Vec<f32> = config.augmentation.rates().into_iter().map(|rate| rate as f32).collect();
                let rates = t.constant(Tensor::new([rates.len()], rates));
                let scaled = t.mul(unit_step, rates);
                let unbounded = t.add(a[0], scaled);
                let a_1 = project(t, config.augmentation.as_ref(), unbounded);
                let losses = [inner.loss, outer].map(|loss| t.reshape(loss, [1]));
                let figures = t.concat(0, &[losses[0], losses[1], a_1]);
                Tuning { g_a, figures, carries: a.into_iter().zip([a_1, m, v]).collect() }
            })
        });
        Ok(TrainingStep { tape, inner: inner.loss, g, carries, tuning })
    }

    /// The plan of a step that leaves `a` as it is.
    pub fn plain_plan(&self, device: &Device, reuse: Reuse) -> Plan {
        Plan::new(&self.tape, &[self.inner], &self.carries, device.class(), reuse)
    }

    /// The plan of a step that tunes `a` as well, where there is one.
    pub fn tuning_plan(&self, device: &Device, reuse: Reuse) -> Option<Plan> {
        let tuning = self.tuning.as_ref()?;
        let carries = [&self.carries[..], &tuning.carries[..]].concat();
        Some(Plan::new(&self.tape, &[tuning.figures], &carries, device.class(), reuse))
    }
}

/// A parameter and the states of its two moments.
fn adam_states(t: &mut Tape, name: &str, parameter: Value) -> [Value; 3] {
    let shape: Shape = t.shape(parameter).clone();
    let [m, v] = MOMENTS.map(|part| t.state(&format!("{name}{part}"), shape.clone()));
    [parameter, m, v]
}

/// Suffixes of the states of Adam's moments.
const MOMENTS: [&str; 2] = [".m", ".v"];

/// A network and its augmentation on a device, trained from one start after another.
#[derive(Debug)]
pub struct Trainer<'a> {
    config: &'a Config,
    pictures: Visible<'a>,
    network: Network,
    states: States,
    step: TrainingStep,
    plain: Executor,
    tuning: Option<Executor>,
    scorer: Scorer,
    augmenting: Option<Viewer>,
    centring: Option<Viewer>,
    /// Index of the start under way, and the steps that it has done.
    start: usize,
    done: usize,
    batches: Batches,
    batches_val: Batches,
}

/// A plan with one output, beside the step.
#[derive(Debug)]
struct Viewer {
    executor: Executor,
    output: Value,
}

impl Viewer {
    fn new(device: &Device, states: &States, tape: &Tape, output: Value) -> Result<Self, GpuError> {
        let plan = Plan::new(tape, &[output], &[], device.class(), Reuse::On);
        Ok(Viewer { executor: Executor::new(device, plan, states, |_, _| {})?, output })
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
        pictures: Visible<'a>,
        mut on_pipeline: impl FnMut(usize, usize),
    ) -> Result<Self, TrainError> {
        let [_, c, h, w] = pictures.train.shape().images().expect("a batch of pictures");
        // A batch larger than its set is refused before anything is compiled.
        let [batches, batches_val] = batches(config, pictures, 0)?;
        let network = Network::new(config.method, &config.detector, [c, h, w]);
        let step = TrainingStep::record(config, [c, h, w])?;

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
        let scorer = Scorer::new(device, &network, [c, h, w], config.batch_val, &states)?;

        let augmenting = match config.method {
            Method::StSsad | Method::RandomStatic => {
                let mut t = Tape::new();
                let x = t.feed("x", [config.batch, c, h, w]);
                let (key, a) = (t.feed("key", [6]), t.feed("a", [config.starts[0].len()]));
                let augmented = config.augmentation.apply(&mut t, x, a, key);
                Some(Viewer::new(device, &states, &t, augmented)?)
            }
            _ => None,
        };
        let centring = match &network {
            Network::OneClass(detector) => {
                let mut t = Tape::new();
                let x = t.feed("x", [config.batch, c, h, w]);
                let theta: Vec<Value> = network.record_parameters(&mut t).into_iter().map(|(_, value)| value).collect();
                let z = detector.forward(&mut t, &theta, x, Statistics::Batch).z;
                let mean = t.mean(z, &[0]);
                Some(Viewer::new(device, &states, &t, mean)?)
            }
            _ => None,
        };
        let trainer = Trainer {
            config,
            pictures,
            network,
            states,
            step,
            plain,
            tuning,
            scorer,
            augmenting,
            centring,
            start: 0,
            done: 0,
            batches,
            batches_val,
        };
        Ok(trainer)
    }

    /// The step that tunes, or of a method that does not its only step, fed with the sets' first pictures and ready to
    /// run: what `profile` and `bench` measure.
    ///
    /// # Errors
    /// When the device fails.
    pub fn full_step(&mut self) -> Result<&mut Executor, GpuError> {
        let [x, x_val] = [(self.pictures.train, self.config.batch), (self.pictures.val, self.config.batch_val)]
            .map(|(set, batch)| set.gather_rows(&(0..batch).collect::<Vec<_>>()));
        self.feed(true, &x, Some(&x_val), 1)?;
        Ok(self.tuning.as_mut().unwrap_or(&mut self.plain))
    }

    /// The step that does not tune, fed and ready to run as [`full_step`](Trainer::full_step): forward, backward and the
    /// detector's update on normal and augmented pictures.
    ///
    /// # Errors
    /// When the device fails.
    pub fn plain_step(&mut self) -> Result<&mut Executor, GpuError> {
        let x = self.pictures.train.gather_rows(&(0..self.config.batch).collect::<Vec<_>>());
        self.feed(false, &x, None, 1)?;
        Ok(&mut self.plain)
    }

    /// Goes to before the first step of start number `index`.
    ///
    /// # Errors
    /// When the device fails.
    pub fn begin(&mut self, index: usize) -> Result<(), TrainError> {
        for (name, tensor) in initial_states(self.config, &self.network, index) {
            self.states.set(&name, &tensor)?;
        }
        [self.batches, self.batches_val] = batches(self.config, self.pictures, index)?;
        (self.start, self.done) = (index, 0);
        if let Some(centring) = &mut self.centring {
            let x = self.pictures.train.gather_rows(self.batches.clone().next());
            centring.executor.feed("x", &x)?;
            let centre = centring.run()?;
            self.states.set(CENTRE, &centre)?;
        }
        Ok(())
    }

    /// Where the run stands.
    ///
    /// # Errors
    /// When the device fails.
    pub fn snapshot(&self) -> Result<Snapshot, GpuError> {
        Ok(Snapshot { start: self.start, step: self.done, states: self.read_states(|_| true)? })
    }

    /// Goes to where a snapshot of this run stands.
    ///
    /// # Errors
    /// When its states are not this network's, or the device fails.
    pub fn restore(&mut self, snapshot: &Snapshot) -> Result<(), TrainError> {
        let known = self.states.names();
        let given: Vec<&str> = snapshot.states.iter().map(|(name, _)| name.as_str()).collect();
        let missing = known.iter().find(|name| !given.contains(name));
        if let Some(state) = missing.or_else(|| given.iter().find(|name| !known.contains(name))) {
            return Err(TrainError::Foreign { state: (*state).to_owned() });
        }
        self.begin(snapshot.start)?;
        for (name, tensor) in &snapshot.states {
            self.states.set(name, tensor)?;
        }
        let tuned = snapshot.step.saturating_sub(self.config.warm_up);
        self.batches = self.batches.clone().at(snapshot.step);
        self.batches_val = self.batches_val.clone().at(tuned);
        self.done = snapshot.step;
        Ok(())
    }

    /// Does the next step of this start; `None` when it has done them all.
    ///
    /// # Errors
    /// When training diverges or the device fails.
    pub fn step(&mut self) -> Result<Option<Progress>, TrainError> {
        if self.done == self.config.steps {
            return Ok(None);
        }
        let step = self.done + 1;
        let tunes = self.tuning.is_some() && step > self.config.warm_up;
        let x = self.pictures.train.gather_rows(self.batches.next());
        let x_val = tunes.then(|| self.pictures.val.gather_rows(self.batches_val.next()));
        self.feed(tunes, &x, x_val.as_ref(), step)?;
        let progress = match (&mut self.tuning, &self.step.tuning) {
            (Some(executor), Some(tuning)) if tunes => {
                executor.run()?;
                let figures = executor.fetch(tuning.figures)?;
                let [inner, outer, a @ ..] = figures.data() else { unreachable!("two losses and a") };
                Progress { start: self.start, step, inner: *inner, outer: Some(*outer), a: a.to_vec() }
            }
            _ => {
                self.plain.run()?;
                let inner = self.plain.fetch(self.step.inner)?.item();
                Progress { start: self.start, step, inner, outer: None, a: self.config.starts[self.start].clone() }
            }
        };
        let figures = [
            ("training loss", progress.inner.is_finite()),
            ("alignment loss", progress.outer.is_none_or(f32::is_finite)),
            ("augmentation", progress.a.iter().all(|a| a.is_finite())),
        ];
        if let Some((what, _)) = figures.into_iter().find(|(_, finite)| !finite) {
            return Err(TrainError::Diverged { start: self.start, step, what });
        }
        self.done = step;
        Ok(Some(progress))
    }

    /// Trains start number `index` from its first step to its last.
    ///
    /// # Errors
    /// When training diverges or the device fails.
    pub fn train(&mut self, index: usize, mut on_step: impl FnMut(Progress)) -> Result<Trained, TrainError> {
        self.begin(index)?;
        while let Some(progress) = self.step()? {
            on_step(progress);
        }
        self.assess()
    }

    /// Fits the score to the clean training pictures and scores the unlabelled ones, with the states as they are.
    ///
    /// # Errors
    /// When the embeddings cannot be scored, or the device fails.
    pub fn assess(&mut self) -> Result<Trained, TrainError> {
        let failed = |source| TrainError::Score { start: self.start, source };
        let trn = self.scorer.read(self.pictures.train)?;
        let val = self.scorer.read(self.pictures.val)?;
        let fit = match self.network.scores_by_distance() {
            true => Some(LedoitWolf::fit(&trn.z, self.network.features()).map_err(failed)?),
            false => None,
        };
        let scores = [&trn, &val].map(|readings| readings.scores(fit.as_ref()));
        let is_moment = |name: &str| MOMENTS.iter().any(|suffix| name.ends_with(suffix));
        let start = self.config.starts[self.start].clone();
        let logits = fit.is_some().then_some([trn.direct, val.direct]);
        Ok(Trained {
            end: if start.is_empty() { Vec::new() } else { self.states.get("a")?.into_data() },
            start,
            fit,
            spread: spread(&scores[1]),
            scores,
            logits,
            states: self.read_states(|name| !is_moment(name))?,
        })
    }

    /// Augments the first `batch` training pictures at raw coordinates `a`: what the detector is shown. `None` for the
    /// methods that keep no hyper-parameters.
    ///
    /// # Errors
    /// When the device fails.
    pub fn augment(&mut self, a: &[f32]) -> Result<Option<Tensor>, GpuError> {
        let Some(viewer) = &mut self.augmenting else { return Ok(None) };
        let rows: Vec<usize> = (0..self.config.batch).collect();
        viewer.executor.feed("x", &self.pictures.train.gather_rows(&rows))?;
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
        executor.feed("x", x)?;
        executor.feed("rates", &ADAM_THETA.rates(config.rate, step))?;
        if config.method.augments() {
            executor.feed("key", &random::key(run_seed(config.seed, self.start), step as u32))?;
        }
        if let (true, Some(x_val)) = (is_tuning, x_val) {
            let updates = step.saturating_sub(config.warm_up).max(1);
            executor.feed("x_val", x_val)?;
            executor.feed("rates_a", &ADAM_A.rates(cosine(updates, config.steps - config.warm_up), updates))?;
        }
        Ok(())
    }

    fn read_states(&self, keep: impl Fn(&str) -> bool) -> Result<Vec<(String, Tensor)>, GpuError> {
        let names = self.states.names().into_iter().filter(|name| keep(name));
        names.map(|name| Ok((name.to_owned(), self.states.get(name)?))).collect()
    }
}

/// The sequences of batches of one start: of the training set and of the unlabelled one.
fn batches(config: &Config, pictures: Visible, start: usize) -> Result<[Batches; 2], DataError> {
    let seed = run_seed(config.seed, start);
    Ok([
        Batches::new(pictures.train.shape()[0], config.batch, seed, stream::BATCHES)?,
        Batches::new(pictures.val.shape()[0], config.batch_val, seed, stream::BATCHES_VAL)?,
    ])
}

/// What is left of the rate of `a` at update number `update` of `of`, counted from 1: it falls to 0 along half a cosine, so
/// that `a` comes to rest.
fn cosine(update: usize, of: usize) -> f64 {
    0.5 + 0.5 * (std::f64::consts::PI * (update - 1) as f64 / of.max(1) as f64).cos()
}

/// Starts of one run draw different batches and places.
fn run_seed(seed: u64, start: usize) -> u64 {
    seed ^ (start as u64) << 40
}

/// Every state by name, before the first step of start number `index`.
pub fn initial_states(config: &Config, network: &Network, index: usize) -> Vec<(String, Tensor)> {
    let mut stream = Stream::new(run_seed(config.seed, index), stream::PARAMETERS);
    let mut parameters = network.parameters(&mut stream);
    let start = &config.starts[index];
    if !start.is_empty() {
        parameters.push(("a".into(), Tensor::new([start.len()], start.clone())));
    }
    let mut states: Vec<(String, Tensor)> = network.statistics().into_iter().flatten().chain(network.fixed()).collect();
    for (name, initial) in parameters {
        for moment in MOMENTS {
            states.push((format!("{name}{moment}"), Tensor::full(initial.shape().clone(), 0.0)));
        }
        states.push((name, initial));
    }
    states
}

/// The start whose scores of unlabelled pictures spread the most: never chosen by the alignment loss alone, which has a
/// trivial minimum at the identity.
pub fn choose(trained: &[Trained]) -> Option<usize> {
    (0..trained.len()).max_by(|&a, &b| trained[a].spread.total_cmp(&trained[b].spread))
}
