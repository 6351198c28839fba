//! The training loop: one start after another, or groups of them side by side, step by step, so that a run can stop between
//! two steps and go on later with the same bits.
//!
//! Starts side by side are one network of as many groups (see [`grouped_conv2d`](Tape::grouped_conv2d)): each has its own
//! channels in every activation, and a leading axis in every state. They share nothing but the dispatches, so each comes to
//! what it would come to alone, up to the order in which its sums are rounded.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::augment::{Augmentation, Setting, project};
use crate::data::{Batches, DataError, Visible};
use crate::gpu::{Device, Executor, GpuError, States};
use crate::kernel::Precision;
use crate::loss::{Alignment, total_distance_normalise};
use crate::method::{CENTRE, Method, Network, random_rows, side_by_side};
use crate::model::BATCH;
use crate::nn::{Adam, Detector, Statistics, update_statistics};
use crate::ops::random;
use crate::philox::Stream;
use crate::plan::{Plan, Reuse};
use crate::score::{LedoitWolf, ScoreError, spread};
use crate::scorer::{Rule, Scorer};
use crate::ssad::{Inner, LossScales, Order, Problem, bilevel, scaled_grad};
use crate::tape::{GradError, Tape, Value};
use crate::tensor::{Shape, Tensor};

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
    /// Normal pictures in a batch; as many augmented ones join them.
    pub batch: usize,
    /// Unlabelled pictures in a batch.
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
    fn places(&self, first: usize) -> impl Iterator<Item = usize> {
        let last = self.starts.len().saturating_sub(1);
        (first..first + self.group()).map(move |start| start.min(last))
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
    /// Of the last start of a group that was still going on; starts count from 0, steps from 1.
    #[error("training diverged at start {start}, {}", diverged(*step, what))]
    Diverged { start: usize, step: usize, what: &'static str },
    #[error("the checkpoint is of another network: only one of both has the state `{state}`")]
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
    /// Distances, or the network's own scores, of the clean training pictures and of the unlabelled ones; none where the
    /// embeddings give no distance.
    pub scores: [Vec<f64>; 2],
    /// The head's logits of the same; `None` where there is no head.
    pub logits: Option<[Vec<f64>; 2]>,
    /// Selection statistic of the unlabelled pictures' `scores`, 0 where there are none; see [`spread`]. `None` of a start
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

    /// What pictures are told apart by under `rule`: of the clean training pictures and of the unlabelled ones.
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

/// The detector's parts as a [`Problem`].
struct DetectorProblem<'a> {
    config: &'a Config,
    network: &'a Network,
    detector: &'a Detector,
    key: Value,
    scales: LossScales,
}

impl Problem for DetectorProblem<'_> {
    fn augment(&self, t: &mut Tape, x: Value, a: Value) -> Value {
        let rows = rows_of_starts(t, a, t.shape(x)[0]);
        augment(t, self.config, x, rows, self.key)
    }

    fn inner(&self, t: &mut Tape, theta: &[Value], x: Value, x_aug: Value) -> Inner {
        self.network.loss(t, theta, x, Some(x_aug))
    }

    fn embed(&self, t: &mut Tape, theta: &[Value], x: Value) -> Value {
        let z = self.detector.forward(t, theta, x, Statistics::Batch).z;
        t.reshape(z, [t.shape(x)[0], self.config.group(), self.detector.features()])
    }

    fn normalise(&self, t: &mut Tape, z: Value) -> Value {
        if self.config.normalise { total_distance_normalise(t, z) } else { z }
    }

    fn align(&self, t: &mut Tape, z_trn: Value, z_aug: Value, z_val: Value) -> Value {
        self.config.alignment.record(t, z_trn, z_aug, z_val, self.key)
    }

    fn scales(&self) -> LossScales {
        self.scales
    }
}

/// The hyper-parameters of each picture: of one start `a` `[P]` itself, which serves all; of G starts `[G, P]` the rows
/// `[pictures · G, P]`.
fn rows_of_starts(t: &mut Tape, a: Value, pictures: usize) -> Value {
    let &[starts, parameters] = &t.shape(a)[..] else { return a };
    let rows = t.broadcast(a, &[pictures, starts, parameters].into());
    t.reshape(rows, [pictures * starts, parameters])
}

/// Augments the pictures `x` `[N, G · C, H, W]` of G starts at `a` `[P]` or `[N · G, P]`.
fn augment(t: &mut Tape, config: &Config, x: Value, a: Value, key: Value) -> Value {
    let ([n, channels, h, w], starts) = (t.shape(x).images().expect("a batch of pictures"), config.group());
    let pictures = t.reshape(x, [n * starts, channels / starts, h, w]);
    let augmented = config.augmentation.apply(t, pictures, a, key);
    t.reshape(augmented, [n, channels, h, w])
}

/// The name of the feed that one of `parts` of the batch `name` comes by.
fn feed_of(name: &str, part: usize, parts: usize) -> String {
    if parts == 1 { name.to_owned() } else { format!("{name}.{part}") }
}

/// The parts of a batch of this shape, each with a feed of its own: the device need not bind the whole batch.
fn feed_parts(t: &mut Tape, name: &str, parts: usize, [batch, c, h, w]: [usize; 4]) -> Vec<Value> {
    (0..parts).map(|part| t.feed(&feed_of(name, part, parts), [batch / parts, c, h, w])).collect()
}

/// Stream of a step's random numbers that the keys of micro-batches are drawn from: one for each but the first.
const MICRO_BATCH_STREAM: u32 = 0x0e00;

/// What a batch, or a part of it, comes to.
#[derive(Debug)]
struct Gradients {
    inner: Inner,
    /// ∇_θ inner, of the trained parameters.
    g: Vec<Value>,
    /// outer and ∇_a outer, where `a` is tuned.
    tuned: Option<[Value; 2]>,
}

impl Gradients {
    fn values(&mut self) -> impl Iterator<Item = &mut Value> {
        let Inner { loss, moments } = &mut self.inner;
        let tuned = self.tuned.iter_mut().flatten();
        [loss].into_iter().chain(moments.iter_mut().flatten()).chain(&mut self.g).chain(tuned)
    }

    /// The mean over `parts` of a batch, which `record` records one after another. Each is added to the sum before the next
    /// begins, so that nothing else of it has to be kept.
    fn mean(
        t: &mut Tape,
        parts: usize,
        mut record: impl FnMut(&mut Tape, usize) -> Result<Gradients, GradError>,
    ) -> Result<Gradients, GradError> {
        let mut sum = record(t, 0)?;
        for part in 1..parts {
            let mut own = record(t, part)?;
            sum.values().zip(own.values()).for_each(|(sum, own)| *sum = t.add(*sum, *own));
        }
        if parts > 1 {
            sum.values().for_each(|value| *value = t.scale(*value, 1.0 / parts as f64));
        }
        Ok(sum)
    }
}

/// A recorded training step, from which the plans with and without tuning are made.
#[derive(Debug)]
pub struct TrainingStep {
    pub tape: Tape,
    /// The training loss of each start of a group, `[G]`.
    pub inner: Value,
    /// Their gradients by each trained parameter.
    pub g: Vec<Value>,
    /// For each start of a group, one after another in `[3 · G]`: the training loss, Σ|g| over all trained parameters, and Σ|θ'|
    /// over their new values. The sums show what is not finite, whatever becomes of it in later steps.
    pub figures: Value,
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
    /// The [figures](TrainingStep::figures) of a step that leaves `a` as it is, and behind them the alignment losses, the new
    /// `a`, the same before it is brought within its bounds, and the hyper-gradient: `[3 · G + G + 3 · G · P]`.
    pub figures: Value,
    /// New `a` and its moments.
    pub carries: Vec<(Value, Value)>,
}

impl TrainingStep {
    /// Records a step of a group of starts on pictures of the shape `[C, H, W]`, for [`Precision::F32`].
    ///
    /// # Errors
    /// When a gradient cannot be taken.
    ///
    /// # Panics
    /// When [`micro_batches`](Config::micro_batches) does not divide the batches.
    pub fn record(config: &Config, picture: [usize; 3]) -> Result<Self, GradError> {
        Self::record_for(Precision::F32, config, picture)
    }

    /// As [`record`](TrainingStep::record), with losses [scaled](LossScales) as the precision asks for.
    ///
    /// # Errors
    /// As [`record`](TrainingStep::record).
    ///
    /// # Panics
    /// As [`record`](TrainingStep::record).
    pub fn record_for(precision: Precision, config: &Config, picture: [usize; 3]) -> Result<Self, GradError> {
        let scales = match precision {
            Precision::F32 => LossScales::NONE,
            Precision::F16 => LossScales::F16,
        };
        let parts = config.micro_batches;
        let divides = config.batch.is_multiple_of(parts) && config.batch_val.is_multiple_of(parts);
        assert!(divides, "{parts} micro-batches do not divide {} and {} pictures", config.batch, config.batch_val);
        let mut tape = Tape::new();
        let t = &mut tape;
        let [c, h, w] = picture;
        let network = Network::new(config.method, &config.detector, picture);
        let starts = config.group();
        let x = feed_parts(t, "x", parts, [config.batch, starts * c, h, w]);
        let rates = t.feed("rates", [3]);
        let theta = network.record_parameters(t, starts);
        let [key, a] = [6, config.starts[0].len()].map(|extent| side_by_side(starts, &[extent].into()));
        let key = config.method.augments().then(|| t.feed("key", key));
        let a = matches!(config.method, Method::StSsad | Method::RandomStatic).then(|| t.state("a", a));
        let x_val = (config.method == Method::StSsad)
            .then(|| feed_parts(t, "x_val", parts, [config.batch_val, starts * c, h, w]));
        let values: Vec<Value> = theta.iter().map(|(_, value)| *value).collect();
        let trained: Vec<usize> = (0..theta.len()).filter(|&index| network.trains(&theta[index].0)).collect();

        let Gradients { inner, g, tuned } = Gradients::mean(t, parts, |t, part| {
            let x = x[part];
            let key = key.map(|key| if part == 0 { key } else { t.derived_key(key, MICRO_BATCH_STREAM + part as u32) });
            if let (Some(x_val), Some(a), Some(key)) = (&x_val, a, key) {
                let x_val = x_val[part];
                let problem = DetectorProblem { config, network: &network, detector: &config.detector, key, scales };
                let step = bilevel(t, &problem, &values, a, [x, x_val], config.look_ahead, config.order)?;
                return Ok(Gradients { inner: step.inner, g: step.g, tuned: Some([step.outer, step.g_a]) });
            }
            let x_aug = key.map(|key| {
                t.scope("augment", |t| {
                    let pictures = t.shape(x)[0];
                    let rows = match a {
                        Some(a) => rows_of_starts(t, a, pictures),
                        None => random_rows(t, config.augmentation.as_ref(), pictures * starts, key),
                    };
                    augment(t, config, x, rows, key)
                })
            });
            let inner = t.scope("inner", |t| network.loss(t, &values, x, x_aug));
            let wrt: Vec<Value> = trained.iter().map(|&index| values[index]).collect();
            let g = scaled_grad(t, inner.loss, &wrt, scales.inner)?;
            Ok(Gradients { inner, g, tuned: None })
        })?;

        let (carries, figures) = t.scope("update", |t| {
            let (mut carries, mut updated) = (Vec::new(), Vec::new());
            for (&index, &g) in trained.iter().zip(&g) {
                let (name, value) = &theta[index];
                let states = adam_states(t, name, *value);
                let new = ADAM_THETA.update(t, states, g, rates);
                updated.push(new[0]);
                carries.extend(states.into_iter().zip(new));
            }
            let magnitudes = [&g, &updated].map(|arrays| t.magnitude(arrays, starts));
            let figures = t.concat(0, &[inner.loss, magnitudes[0], magnitudes[1]]);
            let running = network.record_statistics(t, starts);
            for (running, moments) in running.iter().flatten().zip(inner.moments.iter().flatten()) {
                let moments = t.reshape(*moments, t.shape(*running).clone());
                carries.push((*running, update_statistics(t, *running, moments)));
            }
            (carries, figures)
        });
        let tuning = a.zip(tuned).map(|(a, [outer, g_a])| {
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
                let [a_1_flat, unbounded, flat_g_a] =
                    [a_1, unbounded, g_a].map(|coordinates| t.reshape(coordinates, [t.shape(coordinates).count()]));
                let figures = t.concat(0, &[figures, outer, a_1_flat, unbounded, flat_g_a]);
                Tuning { g_a, figures, carries: a.into_iter().zip([a_1, m, v]).collect() }
            })
        });
        Ok(TrainingStep { tape, inner: inner.loss, g, figures, carries, tuning })
    }

    /// The plan of a step that leaves `a` as it is.
    pub fn plain_plan(&self, device: &Device, reuse: Reuse) -> Plan {
        Plan::new(&self.tape, &[self.figures], &self.carries, device.class(), reuse)
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

fn is_moment(name: &str) -> bool {
    MOMENTS.iter().any(|suffix| name.ends_with(suffix))
}

/// A network and its augmentation on a device, trained from one group of starts after another.
#[derive(Debug)]
pub struct Trainer<'a> {
    config: &'a Config,
    pictures: Visible<'a>,
    network: Network,
    states: States,
    step: TrainingStep,
    plain: Executor,
    tuning: Option<Executor>,
    /// Reads pictures by the network that `scored` holds: one start's.
    scorer: Scorer,
    scored: States,
    augmenting: Option<Viewer>,
    centring: Option<Viewer>,
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

/// What a step tells of one start.
struct Figures<'a> {
    inner: f32,
    g: f32,
    theta: f32,
    tuned: Option<Tuned<'a>>,
}

struct Tuned<'a> {
    outer: f32,
    a: &'a [f32],
    unbounded: &'a [f32],
    g_a: &'a [f32],
}

impl<'a> Figures<'a> {
    /// Those of one of so many places from what [`TrainingStep::figures`] or [`Tuning::figures`] holds.
    fn of_place(figures: &'a [f32], place: usize, places: usize) -> Self {
        let (plain, tuned) = figures.split_at(3 * places);
        let tuned = (!tuned.is_empty()).then(|| {
            let (outer, coordinates) = tuned.split_at(places);
            let mut own = coordinates.chunks(coordinates.len() / (3 * places)).skip(place).step_by(places);
            let mut next = || own.next().expect("three vectors for each place");
            Tuned { outer: outer[place], a: next(), unbounded: next(), g_a: next() }
        });
        let [inner, g, theta] = [0, 1, 2].map(|figure| plain[figure * places + place]);
        Figures { inner, g, theta, tuned }
    }

    /// What is not finite, causes before what they bring about.
    fn not_finite(&self) -> Option<&'static str> {
        let all = |values: Option<&[f32]>| values.is_none_or(|values| values.iter().all(|value| value.is_finite()));
        let tuned = self.tuned.as_ref();
        let figures = [
            ("the training loss is", self.inner.is_finite()),
            ("the alignment loss is", tuned.is_none_or(|tuned| tuned.outer.is_finite())),
            ("the gradients of the weights are", self.g.is_finite()),
            ("the gradients of the augmentation are", all(tuned.map(|tuned| tuned.g_a))),
            ("the new weights are", self.theta.is_finite()),
            ("the augmentation's new hyper-parameters are", all(tuned.map(|tuned| tuned.unbounded))),
        ];
        figures.into_iter().find(|(_, is_finite)| !is_finite).map(|(what, _)| what)
    }
}

/// A recorded computation with one output, beside the step.
#[derive(Debug)]
pub struct View {
    tape: Tape,
    output: Value,
}

impl View {
    pub fn plan(&self, device: &Device) -> Plan {
        Plan::new(&self.tape, &[self.output], &[], device.class(), Reuse::On)
    }
}

/// What a trainer computes beside its steps, of `batch` pictures `[C, H, W]`: what the augmentation makes of them for the
/// methods that keep its hyper-parameters, and the centres of their embeddings for Deep SVDD.
pub fn views(config: &Config, network: &Network, [c, h, w]: [usize; 3], batch: usize) -> [Option<View>; 2] {
    let augmented = match config.method {
        Method::StSsad | Method::RandomStatic => {
            let mut t = Tape::new();
            let x = t.feed("x", [batch, c, h, w]);
            let (key, a) = (t.feed("key", [6]), t.feed("a", [config.starts[0].len()]));
            let augmented = config.augmentation.apply(&mut t, x, a, key);
            Some(View { tape: t, output: augmented })
        }
        _ => None,
    };
    let centred = match network {
        Network::OneClass(detector) => {
            let (mut t, starts) = (Tape::new(), config.group());
            let x = t.feed("x", [batch, starts * c, h, w]);
            let theta = network.record_parameters(&mut t, starts).into_iter().map(|(_, value)| value);
            let z = detector.forward(&mut t, &theta.collect::<Vec<Value>>(), x, Statistics::Batch).z;
            let mean = t.mean(z, &[0]);
            let centres = t.reshape(mean, side_by_side(starts, &[1, detector.features()].into()));
            Some(View { tape: t, output: centres })
        }
        _ => None,
    };
    [augmented, centred]
}

/// A view bound to a device.
#[derive(Debug)]
struct Viewer {
    executor: Executor,
    output: Value,
}

impl Viewer {
    fn new(device: &Device, states: &States, view: &View) -> Result<Self, GpuError> {
        let executor = Executor::new(device, view.plan(device), states, |_, _| {})?;
        Ok(Viewer { executor, output: view.output })
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
        let batches = batches(config, pictures, 0)?;
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
        // Whoever tests the trained detector has f32, and takes the same scores for the same pictures.
        let exact = device.with_precision(Precision::F32)?;
        let most = pictures.train.shape()[0].max(pictures.val.shape()[0]).min(BATCH);
        let scorer = Scorer::new(&exact, &network, [c, h, w], most, &scored)?;
        let views = views(config, &network, [c, h, w], config.batch / config.micro_batches);
        let viewer = |view: &Option<View>| view.as_ref().map(|view| Viewer::new(device, &states, view)).transpose();
        let [augmenting, centring] = [viewer(&views[0])?, viewer(&views[1])?];
        let trainer = Trainer {
            config,
            pictures,
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

    /// The step that tunes, or of a method that does not its only step, fed with the sets' first pictures and ready to
    /// run: what `profile` and `bench` measure.
    ///
    /// # Errors
    /// When the device fails.
    pub fn full_step(&mut self) -> Result<&mut Executor, GpuError> {
        let [x, x_val] = [(self.pictures.train, self.config.batch), (self.pictures.val, self.config.batch_val)]
            .map(|(set, batch)| interleaved(set, &vec![(0..batch).collect(); self.config.group()]));
        self.feed(true, &x, Some(&x_val), 1)?;
        Ok(self.tuning.as_mut().unwrap_or(&mut self.plain))
    }

    /// The step that does not tune, fed and ready to run as [`full_step`](Trainer::full_step): forward, backward and the
    /// detector's update on normal and augmented pictures.
    ///
    /// # Errors
    /// When the device fails.
    pub fn plain_step(&mut self) -> Result<&mut Executor, GpuError> {
        let x = interleaved(self.pictures.train, &vec![(0..self.config.batch).collect(); self.config.group()]);
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
        self.batches = batches(self.config, self.pictures, index)?;
        (self.start, self.done) = (index, 0);
        self.a = self.config.starts[self.config.members(index)].to_vec();
        self.failed.clear();
        if let Some(centring) = &mut self.centring {
            let x = interleaved(self.pictures.train, &drawn(&mut self.batches.clone(), 0));
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
        let x = interleaved(self.pictures.train, &drawn(&mut self.batches, 0));
        let x_val = tunes.then(|| interleaved(self.pictures.val, &drawn(&mut self.batches, 1)));
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

    /// For each start of this group, fits the score to the clean training pictures and scores the unlabelled ones, with the
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
        let trn = self.scorer.read(self.pictures.train)?;
        let val = self.scorer.read(self.pictures.val)?;
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

    /// Augments the first training pictures at raw coordinates `a`, as many as a micro-batch has: what the detector is shown.
    /// `None` for the methods that keep no hyper-parameters.
    ///
    /// # Errors
    /// When the device fails.
    pub fn augment(&mut self, a: &[f32]) -> Result<Option<Tensor>, GpuError> {
        let Some(viewer) = &mut self.augmenting else { return Ok(None) };
        let rows: Vec<usize> = (0..self.config.batch / self.config.micro_batches).collect();
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

    fn read_states(&self, keep: impl Fn(&str) -> bool) -> Result<Vec<(String, Tensor)>, GpuError> {
        let names = self.states.names().into_iter().filter(|name| keep(name));
        names.map(|name| Ok((name.to_owned(), self.states.get(name)?))).collect()
    }
}

/// The sequences of batches of each place of the group that begins with start number `first`: of the training set and of the
/// unlabelled one.
fn batches(config: &Config, pictures: Visible, first: usize) -> Result<Vec<[Batches; 2]>, DataError> {
    let of_start = |start: usize| {
        let seed = run_seed(config.seed, start);
        Ok([
            Batches::new(pictures.train.shape()[0], config.batch, seed, stream::BATCHES)?,
            Batches::new(pictures.val.shape()[0], config.batch_val, seed, stream::BATCHES_VAL)?,
        ])
    };
    config.places(first).map(of_start).collect()
}

/// Rows of the next batch for each place, of the training set (0) or of the unlabelled one (1).
fn drawn(batches: &mut [[Batches; 2]], set: usize) -> Vec<Vec<usize>> {
    batches.iter_mut().map(|sets| sets[set].next().to_vec()).collect()
}

/// One batch for each of G starts, side by side: `[N, G · C, H, W]` from `set` `[…, C, H, W]` and the `rows` of each batch.
fn interleaved(set: &Tensor, rows: &[Vec<usize>]) -> Tensor {
    let [_, c, h, w] = set.shape().images().expect("a set of pictures");
    let batch = rows[0].len();
    let order: Vec<usize> = (0..batch).flat_map(|row| rows.iter().map(move |own| own[row])).collect();
    Tensor::new([batch, rows.len() * c, h, w], set.gather_rows(&order).into_data())
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

/// The parts of a batch, one after another.
fn cut(batch: &Tensor, parts: usize) -> Vec<Tensor> {
    let rows = batch.shape()[0] / parts;
    let part = |part: usize| batch.gather_rows(&(part * rows..(part + 1) * rows).collect::<Vec<_>>());
    (0..parts).map(part).collect()
}

/// The mean of tensors of one shape; of one, itself.
fn mean(parts: &[Tensor]) -> Tensor {
    let count = parts.len() as f32;
    let at = |index: usize| parts.iter().map(|part| part.data()[index]).sum::<f32>() / count;
    Tensor::new(parts[0].shape().clone(), (0..parts[0].data().len()).map(at).collect())
}

/// Tensors of one shape along a leading axis, as [`side_by_side`] has it.
fn stacked(parts: &[Tensor]) -> Tensor {
    let shape = side_by_side(parts.len(), parts[0].shape());
    Tensor::new(shape, parts.iter().flat_map(|part| part.data()).copied().collect())
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

/// Every state by name, before the first step of the group that begins with start number `first`.
pub fn initial_states(config: &Config, network: &Network, first: usize) -> Vec<(String, Tensor)> {
    let mut states: Vec<(String, Vec<Tensor>)> = Vec::new();
    for (place, start) in config.places(first).enumerate() {
        for (index, (name, tensor)) in start_states(config, network, start).into_iter().enumerate() {
            match place {
                0 => states.push((name, vec![tensor])),
                _ => states[index].1.push(tensor),
            }
        }
    }
    states.into_iter().map(|(name, parts)| (name, stacked(&parts))).collect()
}

/// Every state of start number `index` alone, by name, before its first step.
fn start_states(config: &Config, network: &Network, index: usize) -> Vec<(String, Tensor)> {
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

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::augment;
    use crate::nn::{Encoder, Stage, Stem};
    use crate::reference::Reference;

    const PICTURE: [usize; 3] = [2, 9, 10];

    fn config(method: Method, augmentation: &str, alignment: &str, encoder: Encoder) -> Config {
        let detector = Detector { input_channels: PICTURE[0], encoder, head: vec![3] };
        let mut config = Config::new(detector, augment::by_name(augmentation).unwrap());
        config.starts.truncate(3);
        if matches!(method, Method::RandomDynamic | Method::AutoEncoder | Method::DeepSvdd) {
            config.starts = vec![Vec::new(); 3];
        }
        let alignment = Alignment::by_name(alignment, 0.3).unwrap();
        Config { method, alignment, batch: 3, batch_val: 4, look_ahead: 1.0, seed: 5, ..config }
    }

    fn evaluated(tape: &Tape, sources: &HashMap<String, Tensor>, wanted: &[Value]) -> Vec<Vec<f64>> {
        let widened = |tensor: &Tensor| tensor.data().iter().map(|&value| f64::from(value)).collect();
        let sources: HashMap<String, Vec<f64>> =
            sources.iter().map(|(name, tensor)| (name.clone(), widened(tensor))).collect();
        let mut reference = Reference::new(tape, &sources);
        wanted.iter().map(|&value| reference.eval(value).unwrap().to_vec()).collect()
    }

    /// Everything that a step of the group that begins with `first` computes, for each place of it, in f64.
    fn computed(config: &Config, first: usize) -> Vec<Vec<Vec<f64>>> {
        let step = TrainingStep::record(config, PICTURE).unwrap();
        let network = Network::new(config.method, &config.detector, PICTURE);
        let mut noise = Stream::new(3, 0);
        let [c, h, w] = PICTURE;
        let pictures = Tensor::new([40, c, h, w], (0..40 * c * h * w).map(|_| noise.uniform() as f32).collect());
        let places: Vec<usize> = config.places(first).collect();
        let rows = |from: usize, batch: usize| -> Vec<Vec<usize>> {
            places.iter().map(|start| (0..batch).map(|row| from + 5 * start + row).collect()).collect()
        };
        let keys: Vec<Tensor> =
            places.iter().map(|&start| random::key(run_seed(config.seed, start), start as u32)).collect();
        let mut sources: HashMap<String, Tensor> = initial_states(config, &network, first).into_iter().collect();
        sources.insert("x".into(), interleaved(&pictures, &rows(0, config.batch)));
        sources.insert("x_val".into(), interleaved(&pictures, &rows(20, config.batch_val)));
        sources.insert("key".into(), stacked(&keys));
        sources.insert("rates".into(), ADAM_THETA.rates(1e-3, 4));
        sources.insert("rates_a".into(), ADAM_A.rates(1.0, 4));
        let tuning = step.tuning.as_ref();
        let carries = step.carries.iter().chain(tuning.iter().flat_map(|tuning| &tuning.carries));
        let mut wanted: Vec<Value> = carries.map(|&(_, new)| new).chain(step.g.clone()).collect();
        wanted.extend([step.inner].into_iter().chain(tuning.map(|tuning| tuning.g_a)));
        let mut of_places = vec![Vec::new(); places.len()];
        for all in evaluated(&step.tape, &sources, &wanted) {
            for (place, own) in of_places.iter_mut().zip(all.chunks(all.len() / places.len())) {
                place.push(own.to_vec());
            }
        }
        of_places
    }

    #[test]
    fn starts_side_by_side_come_to_what_each_comes_to_alone() {
        let plain = || Encoder::Plain([(2, 2), (3, 1)].map(|(channels, stride)| Stage { channels, stride }).to_vec());
        let resnet = || Encoder::ResNet18 { width: 1, stem: Stem::Large };
        let tuned = |augmentation, alignment| config(Method::StSsad, augmentation, alignment, plain());
        let untuned = |method| config(method, "cutavg", "mmd", plain());
        for config in [
            tuned("cutdiff", "diagonal-w2"),
            tuned("cutpaste+rotation-spread", "mean-distance"),
            tuned("cutout", "gaussian-w2"),
            tuned("rotation", "sliced-w2"),
            tuned("cutavg", "sinkhorn"),
            tuned("cutdiff", "mmd"),
            config(Method::StSsad, "rotation", "diagonal-w2", resnet()),
            Config { order: Order::First, ..tuned("cutdiff", "diagonal-w2") },
            Config { normalise: false, ..tuned("rotation", "mean-distance") },
            untuned(Method::RandomStatic),
            untuned(Method::RandomDynamic),
            untuned(Method::DeepSvdd),
            untuned(Method::AutoEncoder),
        ] {
            let what = format!("{:?}, {}, {}", config.method, config.augmentation.name(), config.alignment);
            let alone: Vec<_> = (0..3).flat_map(|start| computed(&config, start)).collect();
            // Two groups of two, the second filled up with the last start.
            let config = Config { together: 2, ..config };
            let together: Vec<_> = [0, 2].into_iter().flat_map(|first| computed(&config, first)).collect();
            for (place, start) in [0, 1, 2, 2].into_iter().enumerate() {
                assert_eq!(together[place].len(), alone[start].len(), "{what}");
                for (index, (got, want)) in together[place].iter().zip(&alone[start]).enumerate() {
                    let scale = want.iter().fold(1e-6, |most: f64, value| most.max(value.abs()));
                    let agree = |(got, want): (&f64, &f64)| (got - want).abs() <= 1e-8 * scale;
                    assert!(
                        got.len() == want.len() && got.iter().zip(want).all(agree),
                        "{what}: value {index} of start {start} is {got:?} side by side, {want:?} alone"
                    );
                }
            }
            assert_ne!(alone[0], alone[1], "{what}: starts that are alike show nothing");
        }
    }

    #[test]
    fn gradients_of_micro_batches_are_the_mean_of_their_parts() {
        let plain = Encoder::Plain(vec![Stage { channels: 3, stride: 2 }]);
        for method in [Method::StSsad, Method::RandomDynamic, Method::DeepSvdd] {
            let whole = Config { batch: 6, batch_val: 8, ..config(method, "cutdiff", "diagonal-w2", plain.clone()) };
            let mut noise = Stream::new(4, 0);
            let [c, h, w] = PICTURE;
            let pictures = Tensor::new([14, c, h, w], (0..14 * c * h * w).map(|_| noise.uniform() as f32).collect());
            let network = Network::new(method, &whole.detector, PICTURE);
            let states: HashMap<String, Tensor> = initial_states(&whole, &network, 0).into_iter().collect();
            let key = random::key(7, 3);
            let gradients =
                |micro_batches: usize, rows: std::ops::Range<usize>, rows_val: std::ops::Range<usize>, key| {
                    let (batch, batch_val) = (rows.len(), rows_val.len());
                    let config = config(method, "cutdiff", "diagonal-w2", plain.clone());
                    let config = Config { batch, batch_val, micro_batches, ..config };
                    let step = TrainingStep::record(&config, PICTURE).unwrap();
                    let mut sources = states.clone();
                    let (rows, rows_val): (Vec<usize>, Vec<usize>) =
                        (rows.collect(), rows_val.map(|row| 6 + row).collect());
                    for (name, rows) in [("x", rows), ("x_val", rows_val)] {
                        for (part, own) in cut(&pictures.gather_rows(&rows), micro_batches).into_iter().enumerate() {
                            sources.insert(feed_of(name, part, micro_batches), own);
                        }
                    }
                    sources.insert("key".into(), key);
                    let tuned = step.tuning.iter().map(|tuning| tuning.g_a);
                    let wanted: Vec<Value> = step.g.iter().copied().chain([step.inner]).chain(tuned).collect();
                    evaluated(&step.tape, &sources, &wanted)
                };
            let mut t = Tape::new();
            let given = t.feed("key", [6]);
            let derived = t.derived_key(given, MICRO_BATCH_STREAM + 1);
            let derived = evaluated(&t, &HashMap::from([("key".into(), key.clone())]), &[derived]).remove(0);
            let derived = Tensor::new([6], derived.into_iter().map(|word| word.trunc() as f32).collect());

            let got = gradients(2, 0..6, 0..8, key.clone());
            let parts = [gradients(1, 0..3, 0..4, key), gradients(1, 3..6, 4..8, derived)];
            assert_ne!(parts[0], parts[1]);
            for (index, got) in got.iter().enumerate() {
                let mean = parts[0][index].iter().zip(&parts[1][index]).map(|(first, second)| (first + second) / 2.0);
                let agree = |(got, want): (&f64, f64)| (got - want).abs() <= 1e-9 * want.abs().max(1.0);
                assert!(got.iter().zip(mean).all(agree), "{method:?}: value {index}");
            }
        }
    }

    #[test]
    fn micro_batches_take_the_memory_of_one() {
        let live = |micro_batches: usize| {
            let encoder = Encoder::Plain(vec![Stage { channels: 8, stride: 1 }; 3]);
            let config = config(Method::StSsad, "cutdiff", "diagonal-w2", encoder);
            let config = Config { batch: 16, batch_val: 32, micro_batches, ..config };
            let step = TrainingStep::record(&config, PICTURE).unwrap();
            let tuning = step.tuning.as_ref().unwrap();
            Plan::new(&step.tape, &[tuning.figures], &tuning.carries, crate::kernel::DeviceClass::Gpu, Reuse::On)
                .live_bytes
        };
        let [whole, quarter] = [1, 4].map(live);
        assert!(quarter as f64 <= 0.3 * whole as f64, "{quarter} bytes of {whole}");
    }

    #[test]
    fn groups_are_as_few_and_as_even_as_they_can_be() {
        let encoder = Encoder::Plain(vec![Stage { channels: 2, stride: 2 }]);
        let mut config = config(Method::StSsad, "cutdiff", "mmd", encoder);
        for (starts, together, group) in [(4, 1, 1), (4, 3, 2), (10, 4, 4), (9, 4, 3), (4, 9, 4), (1, 8, 1), (3, 0, 1)]
        {
            (config.starts, config.together) = (vec![vec![0.0; 3]; starts], together);
            assert_eq!(config.group(), group, "{starts} starts, {together} together");
        }
        (config.starts, config.together) = (vec![vec![0.0; 3]; 10], 4);
        assert_eq!((config.members(8), config.places(8).collect()), (8..10, vec![8, 9, 9, 9]));
    }
}
