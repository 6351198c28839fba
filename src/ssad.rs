//! ST-SSAD: the bilevel step, and the training loop round it.
//!
//! Yoo, Zhao, Akoglu, "Self-Tuning Self-Supervised Image Anomaly Detection", arXiv 2306.12033. A detector learns to tell
//! normal from augmented pictures; the augmentation's hyper-parameters `a` follow the gradient of an alignment loss
//! through a look-ahead step of the detector.

use crate::augment::{Augmentation, project};
use crate::data::{Batches, DataError, Visible};
use crate::gpu::{Device, Executor, GpuError, States};
use crate::loss::{Alignment, bce_with_logits, total_distance_normalise};
use crate::nn::{Adam, Detector, Statistics, update_statistics};
use crate::ops::random;
use crate::philox::Stream;
use crate::plan::{Plan, Reuse};
use crate::score::{LedoitWolf, ScoreError, spread};
use crate::tape::{GradError, Tape, Value};
use crate::tensor::Tensor;

/// Which terms of the hyper-gradient are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Only the direct dependence of the look-ahead embeddings on `a`: the ablation.
    First,
    /// Also that through the look-ahead parameters: ∂²inner/∂a∂θ.
    Second,
}

/// The parts of the bilevel problem that the step is recorded from.
pub trait Problem {
    /// x_aug of x at `a`.
    fn augment(&self, t: &mut Tape, x: Value, a: Value) -> Value;
    /// The training loss on x and x_aug.
    fn inner(&self, t: &mut Tape, theta: &[Value], x: Value, x_aug: Value) -> Inner;
    /// Embeddings of `x`, normalised over its own batch.
    fn embed(&self, t: &mut Tape, theta: &[Value], x: Value) -> Value;
    /// The alignment loss of normalised embeddings, a scalar.
    fn align(&self, t: &mut Tape, z_trn: Value, z_aug: Value, z_val: Value) -> Value;
}

/// The training loss with what the forward pass leaves behind.
#[derive(Clone, Debug)]
pub struct Inner {
    /// A scalar.
    pub loss: Value,
    /// Mean and variance at each batch norm, for the running statistics.
    pub moments: Vec<[Value; 2]>,
}

/// The values of one bilevel step.
#[derive(Clone, Debug)]
pub struct Bilevel {
    pub x_aug: Value,
    pub inner: Inner,
    /// ∇_θ inner
    pub g: Vec<Value>,
    pub outer: Value,
    /// ∇_a outer
    pub g_a: Value,
}

/// Records one bilevel step:
///
/// ```text
/// x_aug = augment(x; a)
/// g     = ∇_θ inner(θ, x, x_aug)
/// θ'    = θ − α · g
/// outer = align(normalise(embed(θ', x ⧺ x_aug ⧺ x_val)))
/// g_a   = ∂_a outer − α · [∂² inner / ∂a ∂θ] · ∇_θ' outer
/// ```
///
/// The second term of `g_a` needs no line of its own: g is on the tape, so the sweep goes through it.
///
/// # Errors
/// When a primitive on the way has no rule for the order of derivative asked for.
pub fn bilevel(
    t: &mut Tape,
    problem: &impl Problem,
    theta: &[Value],
    a: Value,
    [x, x_val]: [Value; 2],
    look_ahead: f32,
    order: Order,
) -> Result<Bilevel, GradError> {
    let x_aug = t.scope("augment", |t| problem.augment(t, x, a));
    let inner = t.scope("inner", |t| problem.inner(t, theta, x, x_aug));
    let g = t.grad(inner.loss, theta)?;
    let theta_1: Vec<Value> = t.scope("look_ahead", |t| {
        let step = |(&theta, &g): (&Value, &Value)| {
            let step = t.scale(g, look_ahead);
            t.sub(theta, step)
        };
        theta.iter().zip(&g).map(step).collect()
    });
    // At first order `a` enters the outer loss a second time under another name, and only that one is differentiated.
    let (direct, x_aug_outer) = match order {
        Order::Second => (a, x_aug),
        Order::First => {
            let direct = t.scale(a, 1.0);
            (direct, t.scope("augment", |t| problem.augment(t, x, direct)))
        }
    };
    let outer = t.scope("outer", |t| {
        let rows = [x, x_aug_outer, x_val].map(|set| t.shape(set)[0]);
        let all = t.concat(0, &[x, x_aug_outer, x_val]);
        let z = problem.embed(t, &theta_1, all);
        let z = t.scope("align", |t| total_distance_normalise(t, z));
        let z_trn = t.slice(z, 0, 0, rows[0]);
        let z_aug = t.slice(z, 0, rows[0], rows[1]);
        let z_val = t.slice(z, 0, rows[0] + rows[1], rows[2]);
        t.scope("align", |t| problem.align(t, z_trn, z_aug, z_val))
    });
    let g_a = t.grad(outer, &[direct])?[0];
    Ok(Bilevel { x_aug, inner, g, outer, g_a })
}

/// What a training run is made of.
#[derive(Debug)]
pub struct Config {
    pub detector: Detector,
    pub augmentation: Box<dyn Augmentation>,
    pub alignment: Alignment,
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
    pub seed: u64,
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
    /// Absent in the warm-up.
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
    /// Mahalanobis scores of the unlabelled pictures.
    pub scores: Vec<f64>,
    /// The head's logits of the unlabelled pictures, a second score.
    pub logits: Vec<f64>,
    /// Selection statistic of the scores; see [`spread`].
    pub spread: f64,
    /// Every state by name: parameters, moments, running statistics and `a`.
    pub states: Vec<(String, Tensor)>,
}

/// The detector's parts as a [`Problem`].
struct DetectorProblem<'a> {
    config: &'a Config,
    key: Value,
    /// Class 0 for the first half of a batch, 1 for the second.
    targets: Value,
}

impl Problem for DetectorProblem<'_> {
    fn augment(&self, t: &mut Tape, x: Value, a: Value) -> Value {
        self.config.augmentation.apply(t, x, a, self.key)
    }

    fn inner(&self, t: &mut Tape, theta: &[Value], x: Value, x_aug: Value) -> Inner {
        let both = t.concat(0, &[x, x_aug]);
        let pass = self.config.detector.forward(t, theta, both, Statistics::Batch);
        let loss = t.scope("loss", |t| bce_with_logits(t, pass.logit, self.targets));
        Inner { loss, moments: pass.moments }
    }

    fn embed(&self, t: &mut Tape, theta: &[Value], x: Value) -> Value {
        self.config.detector.forward(t, theta, x, Statistics::Batch).z
    }

    fn align(&self, t: &mut Tape, z_trn: Value, z_aug: Value, z_val: Value) -> Value {
        self.config.alignment.record(t, z_trn, z_aug, z_val, self.key)
    }
}

/// A recorded training step, from which the warm-up's and the tuning's plans are made.
#[derive(Debug)]
pub struct TrainingStep {
    pub tape: Tape,
    pub step: Bilevel,
    /// The training loss, the alignment loss and the new `a` in one vector.
    pub figures: Value,
    /// New parameters, moments and running statistics of the detector.
    pub detector_carries: Vec<(Value, Value)>,
    /// New `a` and its moments.
    pub tuning_carries: Vec<(Value, Value)>,
}

impl TrainingStep {
    /// Records a step on pictures of the shape `[C, H, W]`.
    ///
    /// # Errors
    /// When a gradient cannot be taken.
    pub fn record(config: &Config, [c, h, w]: [usize; 3]) -> Result<Self, GradError> {
        let mut tape = Tape::new();
        let t = &mut tape;
        let x = t.feed("x", [config.batch, c, h, w]);
        let x_val = t.feed("x_val", [config.batch_val, c, h, w]);
        let key = t.feed("key", [6]);
        let rates = t.feed("rates", [3]);
        let rates_a = t.feed("rates_a", [3]);

        let parameters = config.detector.parameters(&mut Stream::new(config.seed, stream::PARAMETERS));
        let theta: Vec<[Value; 3]> =
            parameters.iter().map(|(name, initial)| adam_states(t, name, initial.shape())).collect();
        let running: Vec<[Value; 2]> = states_of_statistics(t, config);
        let count = config.augmentation.starts()[0].len();
        let a = adam_states(t, "a", &[count].into());

        let targets = [0.0, 1.0].map(|class| Tensor::full([config.batch, 1], class).into_data()).concat();
        let targets = t.constant(Tensor::new([2 * config.batch, 1], targets));
        let problem = DetectorProblem { config, key, targets };
        let parameters: Vec<Value> = theta.iter().map(|states| states[0]).collect();
        let step = bilevel(t, &problem, &parameters, a[0], [x, x_val], config.look_ahead, config.order)?;

        let detector_carries = t.scope("update", |t| {
            let mut carries = Vec::new();
            for (states, &g) in theta.iter().zip(&step.g) {
                carries.extend(states.iter().copied().zip(ADAM_THETA.update(t, *states, g, rates)));
            }
            for (running, moments) in running.iter().flatten().zip(step.inner.moments.iter().flatten()) {
                carries.push((*running, update_statistics(t, *running, *moments)));
            }
            carries
        });
        let (a_1, tuning_carries) = t.scope("tune", |t| {
            // Each coordinate has a rate of its own, so Adam's step is taken from 0 and then scaled.
            let origin = t.constant(Tensor::full([count], 0.0));
            let [unit_step, m, v] = ADAM_A.update(t, [origin, a[1], a[2]], step.g_a, rates_a);
            let rates = config.augmentation.rates().into_iter().map(|rate| rate as f32).collect();
            let rates = t.constant(Tensor::new([count], rates));
            let scaled = t.mul(unit_step, rates);
            let unbounded = t.add(a[0], scaled);
            let a_1 = project(t, config.augmentation.as_ref(), unbounded);
            (a_1, a.into_iter().zip([a_1, m, v]).collect())
        });
        let losses = [step.inner.loss, step.outer].map(|loss| t.reshape(loss, [1]));
        let figures = t.concat(0, &[losses[0], losses[1], a_1]);
        Ok(TrainingStep { tape, step, figures, detector_carries, tuning_carries })
    }

    /// The plan of a step that leaves `a` as it is.
    pub fn warm_up(&self, device: &Device, reuse: Reuse) -> Plan {
        Plan::new(&self.tape, &[self.step.inner.loss], &self.detector_carries, device.class(), reuse)
    }

    /// The plan of a step that tunes `a` as well.
    pub fn tuning(&self, device: &Device, reuse: Reuse) -> Plan {
        let carries = [&self.detector_carries[..], &self.tuning_carries[..]].concat();
        Plan::new(&self.tape, &[self.figures], &carries, device.class(), reuse)
    }
}

/// The states of a parameter and of its two moments.
fn adam_states(t: &mut Tape, name: &str, shape: &crate::tensor::Shape) -> [Value; 3] {
    ADAM_STATES.map(|part| t.state(&format!("{name}{part}"), shape.clone()))
}

/// Suffixes of a parameter's states: itself, then Adam's moments.
const ADAM_STATES: [&str; 3] = ["", ".m", ".v"];

fn states_of_statistics(t: &mut Tape, config: &Config) -> Vec<[Value; 2]> {
    let layers = config.detector.statistics();
    layers.into_iter().map(|layer| layer.map(|(name, initial)| t.state(&name, initial.shape().clone()))).collect()
}

/// A detector and its augmentation on a device, trained from one start after another.
#[derive(Debug)]
pub struct Trainer<'a> {
    config: &'a Config,
    pictures: Visible<'a>,
    states: States,
    step: TrainingStep,
    warm_up: Executor,
    tuning: Executor,
    embedding: Executor,
    embedded: [Value; 2],
    augmenting: Executor,
    augmented: Value,
}

impl<'a> Trainer<'a> {
    /// Records the step, compiles its kernels and binds them; `on_pipeline` hears of the progress (done, of).
    ///
    /// # Errors
    /// When a batch exceeds its set, or the device refuses.
    pub fn new(
        device: &Device,
        config: &'a Config,
        pictures: Visible<'a>,
        on_pipeline: impl FnMut(usize, usize),
    ) -> Result<Self, TrainError> {
        Self::with_reuse(device, config, pictures, Reuse::On, on_pipeline)
    }

    /// As [`new`](Trainer::new), with or without slots that values share.
    ///
    /// # Errors
    /// As [`new`](Trainer::new).
    pub fn with_reuse(
        device: &Device,
        config: &'a Config,
        pictures: Visible<'a>,
        reuse: Reuse,
        mut on_pipeline: impl FnMut(usize, usize),
    ) -> Result<Self, TrainError> {
        let [_, c, h, w] = pictures.train.shape().images().expect("a batch of pictures");
        // A batch larger than its set is refused before anything is compiled.
        Batches::new(pictures.train.shape()[0], config.batch, config.seed, 0)?;
        Batches::new(pictures.val.shape()[0], config.batch_val, config.seed, 0)?;
        let step = TrainingStep::record(config, [c, h, w])?;

        let mut states = States::new(device);
        for (name, tensor) in initial_states(config, 0, &config.augmentation.starts()[0]) {
            states.set(&name, &tensor)?;
        }
        let (warm_up, tuning) = (step.warm_up(device, reuse), step.tuning(device, reuse));
        let total = warm_up.steps.len() + tuning.steps.len();
        let warm_up_steps = warm_up.steps.len();
        let warm_up = Executor::new(device, warm_up, &states, |done, _| on_pipeline(done, total))?;
        let tuning = Executor::new(device, tuning, &states, |done, _| on_pipeline(warm_up_steps + done, total))?;

        let mut tape = Tape::new();
        let x = tape.feed("x", [config.batch_val, c, h, w]);
        let parameters = config.detector.parameters(&mut Stream::new(config.seed, stream::PARAMETERS));
        let theta: Vec<Value> =
            parameters.iter().map(|(name, initial)| tape.state(name, initial.shape().clone())).collect();
        let running = states_of_statistics(&mut tape, config);
        let pass = config.detector.forward(&mut tape, &theta, x, Statistics::Running(&running));
        let embedded = [pass.z, pass.logit];
        let plan = Plan::new(&tape, &embedded, &[], device.class(), Reuse::On);
        let embedding = Executor::new(device, plan, &states, |_, _| {})?;

        let mut tape = Tape::new();
        let x = tape.feed("x", [config.batch, c, h, w]);
        let (key, a) = (tape.feed("key", [6]), tape.feed("a", [config.augmentation.starts()[0].len()]));
        let augmented = config.augmentation.apply(&mut tape, x, a, key);
        let plan = Plan::new(&tape, &[augmented], &[], device.class(), Reuse::On);
        let augmenting = Executor::new(device, plan, &states, |_, _| {})?;
        Ok(Trainer { config, pictures, states, step, warm_up, tuning, embedding, embedded, augmenting, augmented })
    }

    /// The tuning step, fed with the sets' first pictures and ready to run: what `profile` and `bench` measure.
    ///
    /// # Errors
    /// When the device fails.
    pub fn tuning_step(&mut self) -> Result<&mut Executor, GpuError> {
        let [x, x_val] = [(self.pictures.train, self.config.batch), (self.pictures.val, self.config.batch_val)]
            .map(|(set, batch)| set.gather_rows(&(0..batch).collect::<Vec<_>>()));
        feed_detector(&mut self.tuning, self.config, &x, self.config.seed, 1)?;
        feed_tuning(&mut self.tuning, &x_val, 1)?;
        Ok(&mut self.tuning)
    }

    /// Trains from raw coordinates `start`, number `index` of the run.
    ///
    /// # Errors
    /// When training diverges or the device fails.
    pub fn train(
        &mut self,
        index: usize,
        start: &[f32],
        mut on_step: impl FnMut(Progress),
    ) -> Result<Trained, TrainError> {
        let config = self.config;
        for (name, tensor) in initial_states(config, index, start) {
            self.states.set(&name, &tensor)?;
        }
        let seed = run_seed(config.seed, index);
        let mut batches = Batches::new(self.pictures.train.shape()[0], config.batch, seed, stream::BATCHES)?;
        let mut batches_val = Batches::new(self.pictures.val.shape()[0], config.batch_val, seed, stream::BATCHES_VAL)?;
        for step in 1..=config.steps {
            let tunes = step > config.warm_up;
            let executor = if tunes { &mut self.tuning } else { &mut self.warm_up };
            feed_detector(executor, config, &self.pictures.train.gather_rows(batches.next()), seed, step)?;
            if tunes {
                let x_val = self.pictures.val.gather_rows(batches_val.next());
                feed_tuning(executor, &x_val, step - config.warm_up)?;
            }
            executor.run()?;
            let progress = if tunes {
                let figures = executor.fetch(self.step.figures)?;
                let [inner, outer, a @ ..] = figures.data() else { unreachable!("two losses and a") };
                Progress { start: index, step, inner: *inner, outer: Some(*outer), a: a.to_vec() }
            } else {
                let inner = executor.fetch(self.step.step.inner.loss)?.item();
                Progress { start: index, step, inner, outer: None, a: start.to_vec() }
            };
            let figures = [
                ("training loss", progress.inner.is_finite()),
                ("alignment loss", progress.outer.is_none_or(f32::is_finite)),
                ("augmentation", progress.a.iter().all(|a| a.is_finite())),
            ];
            if let Some((what, _)) = figures.into_iter().find(|(_, finite)| !finite) {
                return Err(TrainError::Diverged { start: index, step, what });
            }
            on_step(progress);
        }
        self.assess(index, start)
    }

    /// Scores the unlabelled pictures with the states as they are.
    fn assess(&mut self, index: usize, start: &[f32]) -> Result<Trained, TrainError> {
        let [z_trn, _] = self.embed(self.pictures.train)?;
        let [z_val, logits] = self.embed(self.pictures.val)?;
        let features = self.config.detector.features();
        let fit = LedoitWolf::fit(&z_trn, features).map_err(|source| TrainError::Score { start: index, source })?;
        let scores = fit.score(&z_val);
        let names: Vec<String> = self.states.names().into_iter().map(str::to_owned).collect();
        let states = names.into_iter().map(|name| self.states.get(&name).map(|tensor| (name, tensor)));
        Ok(Trained {
            start: start.to_vec(),
            end: self.states.get("a")?.into_data(),
            spread: spread(&scores),
            scores,
            logits,
            states: states.collect::<Result<_, GpuError>>()?,
        })
    }

    /// Embeddings and logits of all `pictures`, under running statistics.
    fn embed(&mut self, pictures: &Tensor) -> Result<[Vec<f64>; 2], GpuError> {
        let (count, batch) = (pictures.shape()[0], self.config.batch_val);
        let mut embedded = [Vec::new(), Vec::new()];
        for first in (0..count).step_by(batch) {
            // The last batch is filled up with its last picture, whose copies are dropped again.
            let rows: Vec<usize> = (first..first + batch).map(|row| row.min(count - 1)).collect();
            self.embedding.feed("x", &pictures.gather_rows(&rows))?;
            self.embedding.run()?;
            let kept = batch.min(count - first);
            for (all, &value) in embedded.iter_mut().zip(&self.embedded) {
                let fetched = self.embedding.fetch(value)?;
                let width = fetched.shape()[1];
                all.extend(fetched.data()[..kept * width].iter().map(|&v| f64::from(v)));
            }
        }
        Ok(embedded)
    }

    /// Augments the first `batch` training pictures at raw coordinates `a`: what the detector is shown.
    ///
    /// # Errors
    /// When the device fails.
    pub fn augment(&mut self, a: &[f32]) -> Result<Tensor, GpuError> {
        let rows: Vec<usize> = (0..self.config.batch).collect();
        self.augmenting.feed("x", &self.pictures.train.gather_rows(&rows))?;
        self.augmenting.feed("key", &random::key(self.config.seed, 0))?;
        self.augmenting.feed("a", &Tensor::new([a.len()], a.to_vec()))?;
        self.augmenting.run()?;
        self.augmenting.fetch(self.augmented)
    }
}

/// Feeds of the detector's part of step `step`, which counts from 1.
fn feed_detector(executor: &mut Executor, config: &Config, x: &Tensor, seed: u64, step: usize) -> Result<(), GpuError> {
    executor.feed("x", x)?;
    executor.feed("key", &random::key(seed, step as u32))?;
    executor.feed("rates", &ADAM_THETA.rates(config.rate, step))
}

/// Feeds of the tuning part, the `count`-th update of `a`.
fn feed_tuning(executor: &mut Executor, x_val: &Tensor, count: usize) -> Result<(), GpuError> {
    executor.feed("x_val", x_val)?;
    executor.feed("rates_a", &ADAM_A.rates(1.0, count))
}

/// Starts of one run draw different batches and places.
fn run_seed(seed: u64, start: usize) -> u64 {
    seed ^ (start as u64) << 40
}

/// Every state by name, before the first step of start number `index`.
pub fn initial_states(config: &Config, index: usize, start: &[f32]) -> Vec<(String, Tensor)> {
    let mut stream = Stream::new(run_seed(config.seed, index), stream::PARAMETERS);
    let mut parameters = config.detector.parameters(&mut stream);
    parameters.push(("a".into(), Tensor::new([start.len()], start.to_vec())));
    let mut states: Vec<(String, Tensor)> = config.detector.statistics().into_iter().flatten().collect();
    for (name, initial) in parameters {
        for moment in &ADAM_STATES[1..] {
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
