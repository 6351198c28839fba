//! The training step as a tape: the detector's update, the tuning of the augmentation, and what a run computes beside them.
//!
//! Starts side by side are one network of as many groups (see [`grouped_conv2d`](Tape::grouped_conv2d)): each has its own
//! channels in every activation, and a leading axis in every state. They share nothing but the dispatches, so each comes to
//! what it would come to alone, up to the order in which its sums are rounded.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::engine::kernel::{DeviceClass, Precision};
use crate::engine::ops::layout::Packing;
use crate::engine::philox::Stream;
use crate::engine::plan::{Plan, Reuse};
use crate::engine::tape::{GradError, Tape, Value};
use crate::engine::tensor::{Shape, Tensor};
use crate::ssad::augment::project;
use crate::ssad::bilevel::{Inner, LossScales, Problem, bilevel, scaled_grad};
use crate::ssad::config::Config;
use crate::ssad::loss::total_distance_normalise;
use crate::ssad::method::{Method, Network, random_rows, side_by_side};
use crate::ssad::nn::{Adam, Detector, Parameter, Statistics, update_statistics};

pub(crate) const ADAM_THETA: Adam = Adam { beta_1: 0.9, beta_2: 0.999 };

/// `a` turns quickly: its second moment forgets ten times as fast.
pub(crate) const ADAM_A: Adam = Adam { beta_1: 0.9, beta_2: 0.99 };

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

/// The hyper-parameters of each image: of one start `a` `[P]` itself, which serves all; of G starts `[G, P]` the rows
/// `[images · G, P]`.
fn rows_of_starts(t: &mut Tape, a: Value, images: usize) -> Value {
    let &[starts, parameters] = &t.shape(a)[..] else { return a };
    let rows = t.broadcast(a, &[images, starts, parameters].into());
    t.reshape(rows, [images * starts, parameters])
}

/// Augments the images `x` `[N, G · C, H, W]` of G starts at `a` `[P]` or `[N · G, P]`.
fn augment(t: &mut Tape, config: &Config, x: Value, a: Value, key: Value) -> Value {
    let ([n, channels, h, w], starts) = (t.shape(x).images().expect("a batch of images"), config.group());
    let images = t.reshape(x, [n * starts, channels / starts, h, w]);
    let augmented = config.augmentation.apply(t, images, a, key);
    t.reshape(augmented, [n, channels, h, w])
}

/// The name of the feed that one of `parts` of the batch `name` comes by.
pub(crate) fn feed_of(name: &str, part: usize, parts: usize) -> String {
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
    /// How the trained parameters lie in their state.
    pub packed: Packed,
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
    /// Records a step of a group of starts on images of the shape `[C, H, W]`, for [`Precision::F32`].
    ///
    /// # Errors
    /// When a gradient cannot be taken.
    ///
    /// # Panics
    /// When [`micro_batches`](Config::micro_batches) does not divide the batches.
    pub fn record(config: &Config, image: [usize; 3]) -> Result<Self, GradError> {
        Self::record_for(Precision::F32, config, image)
    }

    /// As [`record`](TrainingStep::record), with losses [scaled](LossScales) as the precision asks for.
    ///
    /// # Errors
    /// As [`record`](TrainingStep::record).
    ///
    /// # Panics
    /// As [`record`](TrainingStep::record).
    pub fn record_for(precision: Precision, config: &Config, image: [usize; 3]) -> Result<Self, GradError> {
        let scales = match precision {
            Precision::F32 => LossScales::NONE,
            Precision::F16 => LossScales::F16,
        };
        let parts = config.micro_batches;
        let divides = config.batch.is_multiple_of(parts) && config.batch_val.is_multiple_of(parts);
        assert!(divides, "{parts} micro-batches do not divide {} and {} images", config.batch, config.batch_val);
        let mut tape = Tape::new();
        let t = &mut tape;
        let [c, h, w] = image;
        let network = Network::new(config.method, &config.detector, image);
        let starts = config.group();
        let x = feed_parts(t, "x", parts, [config.batch, starts * c, h, w]);
        let rates = t.feed("rates", [3]);
        let parameters = Parameters::record(t, &network, starts);
        let [key, a] = [6, config.starts[0].len()].map(|extent| side_by_side(starts, &[extent].into()));
        let key = config.method.augments().then(|| t.feed("key", key));
        let a = matches!(config.method, Method::StSsad | Method::RandomStatic).then(|| t.state("a", a));
        let x_val = (config.method == Method::StSsad)
            .then(|| feed_parts(t, "x_val", parts, [config.batch_val, starts * c, h, w]));
        let (values, trained) = (&parameters.values, &parameters.trained);

        let Gradients { inner, g, tuned } = Gradients::mean(t, parts, |t, part| {
            let x = x[part];
            let key = key.map(|key| if part == 0 { key } else { t.derived_key(key, MICRO_BATCH_STREAM + part as u32) });
            if let (Some(x_val), Some(a), Some(key)) = (&x_val, a, key) {
                let x_val = x_val[part];
                let problem = DetectorProblem { config, network: &network, detector: &config.detector, key, scales };
                let theta = (&values[..], &trained[..]);
                let step = bilevel(t, &problem, theta, a, [x, x_val], config.look_ahead, config.order)?;
                return Ok(Gradients { inner: step.inner, g: step.g, tuned: Some([step.outer, step.g_a]) });
            }
            let x_aug = key.map(|key| {
                t.scope("augment", |t| {
                    let images = t.shape(x)[0];
                    let rows = match a {
                        Some(a) => rows_of_starts(t, a, images),
                        None => random_rows(t, config.augmentation.as_ref(), images * starts, key),
                    };
                    augment(t, config, x, rows, key)
                })
            });
            let inner = t.scope("inner", |t| network.loss(t, values, x, x_aug));
            let wrt: Vec<Value> = trained.iter().map(|&index| values[index]).collect();
            let g = scaled_grad(t, inner.loss, &wrt, scales.inner)?;
            Ok(Gradients { inner, g, tuned: None })
        })?;

        let (carries, figures) = t.scope("update", |t| {
            let (mut carries, mut updated, mut gradients) = (Vec::new(), Vec::new(), &g[..]);
            for (array, &packed) in parameters.packed.0.iter().zip(&parameters.arrays) {
                let (own, others) = gradients.split_at(array.parameters.len());
                gradients = others;
                let states = adam_states(t, &array.name, packed);
                let gradient = t.pack(own);
                let new = ADAM_THETA.update(t, states, gradient, rates);
                updated.extend(array.record_parts(t, new[0]));
                carries.extend(states.into_iter().zip(new));
            }
            let magnitudes = [&g, &updated].map(|arrays| match arrays.is_empty() {
                // Nothing is trained.
                true => t.constant(Tensor::full([starts], 0.0)),
                false => t.magnitude(arrays, starts),
            });
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
        let packed = parameters.packed;
        Ok(TrainingStep { tape, inner: inner.loss, g, figures, carries, tuning, packed })
    }

    /// The plan of a step that leaves `a` as it is.
    pub fn plain_plan(&self, class: DeviceClass, reuse: Reuse) -> Plan {
        Plan::new(&self.tape, &[self.figures], &self.carries, class, reuse)
    }

    /// The plan of a step that tunes `a` as well, where there is one.
    pub fn tuning_plan(&self, class: DeviceClass, reuse: Reuse) -> Option<Plan> {
        let tuning = self.tuning.as_ref()?;
        let carries = [&self.carries[..], &tuning.carries[..]].concat();
        Some(Plan::new(&self.tape, &[tuning.figures], &carries, class, reuse))
    }
}

/// Elements that parameters are packed up to: 8 MiB, so that the array of no group of starts is larger than a device binds where
/// their largest parameter is not.
const PACKED: usize = 1 << 21;

/// The trained parameters of a group of starts in few arrays, so that few kernels update all of them.
#[derive(Clone, Debug)]
pub struct Packed(Vec<PackedArray>);

#[derive(Clone, Debug)]
struct PackedArray {
    /// The state that holds the parameters, and with suffixes those of their moments.
    name: String,
    /// Name and shape of each, with the group's leading axis.
    parameters: Vec<(String, Shape)>,
    packing: Packing,
}

impl Packed {
    /// Those of so many starts side by side.
    pub fn new(network: &Network, starts: usize) -> Self {
        let mut arrays: Vec<Vec<(String, Shape)>> = vec![Vec::new()];
        let count = |array: &[(String, Shape)]| array.iter().map(|(_, shape)| shape.count()).sum::<usize>();
        for Parameter { name, shape, .. } in network.declared().parameters {
            if network.trains(&name) {
                let shape = side_by_side(starts, &shape);
                let last = arrays.last().expect("there is one");
                if !last.is_empty() && count(last) + shape.count() > PACKED {
                    arrays.push(Vec::new());
                }
                arrays.last_mut().expect("there is one").push((name, shape));
            }
        }
        arrays.retain(|array| !array.is_empty());
        let array = |(index, parameters): (usize, Vec<(String, Shape)>)| {
            let packing = Packing::new(parameters.iter().map(|(_, shape)| shape.count()));
            PackedArray { name: format!("theta {index}"), parameters, packing }
        };
        Packed(arrays.into_iter().enumerate().map(array).collect())
    }

    /// States by name as the tape has them: the trained parameters, and their moments, packed.
    pub fn pack(&self, states: Vec<(String, Tensor)>) -> Vec<(String, Tensor)> {
        let mut states: BTreeMap<String, Tensor> = states.into_iter().collect();
        for (array, suffix) in self.arrays() {
            let mut data = vec![0.0; array.packing.len];
            for ((name, _), &start) in array.parameters.iter().zip(&array.packing.starts) {
                let part = states.remove(&format!("{name}{suffix}")).expect("every trained parameter has a state");
                data[start..][..part.data().len()].copy_from_slice(part.data());
            }
            states.insert(format!("{}{suffix}", array.name), Tensor::new([data.len()], data));
        }
        states.into_iter().collect()
    }

    /// States of the tape as those of each parameter, sorted by name.
    pub fn unpack(&self, states: Vec<(String, Tensor)>) -> Vec<(String, Tensor)> {
        let mut states: BTreeMap<String, Tensor> = states.into_iter().collect();
        for (array, suffix) in self.arrays() {
            let Some(packed) = states.remove(&format!("{}{suffix}", array.name)) else { continue };
            let parts = array
                .parts(packed.data())
                .map(|((name, shape), part)| (format!("{name}{suffix}"), Tensor::new(shape.clone(), part.to_vec())));
            states.extend(parts);
        }
        states.into_iter().collect()
    }

    /// Name of each parameter, the state that it is packed in, and the range of its elements there.
    pub fn places(&self) -> impl Iterator<Item = (&str, &str, Range<usize>)> {
        self.0.iter().flat_map(|array| {
            let parameters = array.parameters.iter().zip(&array.packing.starts);
            parameters.map(|((name, shape), &start)| (&name[..], &array.name[..], start..start + shape.count()))
        })
    }

    /// Each array with the suffixes of the parameters and of their moments.
    fn arrays(&self) -> impl Iterator<Item = (&PackedArray, &'static str)> {
        self.0.iter().flat_map(|array| ["", MOMENTS[0], MOMENTS[1]].map(|suffix| (array, suffix)))
    }
}

impl PackedArray {
    /// Name and shape of each parameter, and its elements in `packed`.
    fn parts<'a, T>(&'a self, packed: &'a [T]) -> impl Iterator<Item = (&'a (String, Shape), &'a [T])> {
        let parts = self.parameters.iter().zip(&self.packing.starts);
        parts.map(|(parameter, &start)| (parameter, &packed[start..][..parameter.1.count()]))
    }

    /// The parameters in `packed`.
    fn record_parts(&self, t: &mut Tape, packed: Value) -> Vec<Value> {
        let parts = self.parameters.iter().zip(&self.packing.starts);
        parts
            .map(|((_, shape), &start)| {
                let part = t.slice(packed, 0, start, shape.count());
                t.reshape(part, shape.clone())
            })
            .collect()
    }
}

/// A network's parameters on a tape.
struct Parameters {
    /// All, in the order of their use.
    values: Vec<Value>,
    /// Which of them are trained.
    trained: Vec<usize>,
    /// How they are packed, and the states that hold them.
    packed: Packed,
    arrays: Vec<Value>,
}

impl Parameters {
    /// The parameters of so many starts side by side, as states.
    fn record(t: &mut Tape, network: &Network, starts: usize) -> Self {
        let packed = Packed::new(network, starts);
        let arrays: Vec<Value> = packed.0.iter().map(|array| t.state(&array.name, [array.packing.len])).collect();
        let parts = packed.0.iter().zip(&arrays).map(|(array, &value)| array.record_parts(t, value));
        let mut parts = parts.collect::<Vec<_>>().into_iter().flatten();
        let (mut values, mut trained) = (Vec::new(), Vec::new());
        for (index, Parameter { name, shape, .. }) in network.declared().parameters.into_iter().enumerate() {
            if network.trains(&name) {
                trained.push(index);
                values.push(parts.next().expect("every trained parameter is packed"));
            } else {
                values.push(t.state(&name, side_by_side(starts, &shape)));
            }
        }
        Parameters { values, trained, packed, arrays }
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

pub(crate) fn is_moment(name: &str) -> bool {
    MOMENTS.iter().any(|suffix| name.ends_with(suffix))
}

/// What a step tells of one start.
pub(crate) struct Figures<'a> {
    pub inner: f32,
    pub g: f32,
    pub theta: f32,
    pub tuned: Option<Tuned<'a>>,
}

pub(crate) struct Tuned<'a> {
    pub outer: f32,
    pub a: &'a [f32],
    pub unbounded: &'a [f32],
    pub g_a: &'a [f32],
}

impl<'a> Figures<'a> {
    /// Those of one of so many places from what [`TrainingStep::figures`] or [`Tuning::figures`] holds.
    pub(crate) fn of_place(figures: &'a [f32], place: usize, places: usize) -> Self {
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
    pub(crate) fn not_finite(&self) -> Option<&'static str> {
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
    pub(crate) tape: Tape,
    pub(crate) output: Value,
}

impl View {
    pub fn plan(&self, class: DeviceClass) -> Plan {
        Plan::new(&self.tape, &[self.output], &[], class, Reuse::On)
    }
}

/// What a trainer computes beside its steps, of `batch` images `[C, H, W]`: what the augmentation makes of them for the
/// methods that keep its hyper-parameters, the centres of their embeddings for Deep SVDD, and their feature maps for the nearest
/// patch.
pub fn views(config: &Config, network: &Network, [c, h, w]: [usize; 3], batch: usize) -> [Option<View>; 3] {
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
            let theta = Parameters::record(&mut t, network, starts).values;
            let z = detector.forward(&mut t, &theta, x, Statistics::Batch).z;
            let mean = t.mean(z, &[0]);
            let centres = t.reshape(mean, side_by_side(starts, &[1, detector.features()].into()));
            Some(View { tape: t, output: centres })
        }
        _ => None,
    };
    let mapped = match network {
        Network::Patches(detector) => {
            let mut t = Tape::new();
            let x = t.feed("x", [batch, c, h, w]);
            let theta: Vec<Value> = network.record_parameters(&mut t, 1).into_iter().map(|(_, value)| value).collect();
            let running = network.record_statistics(&mut t, 1);
            let [maps, _] = detector.embed_alone(&mut t, &theta, x, Statistics::Running(&running));
            Some(View { tape: t, output: maps })
        }
        _ => None,
    };
    [augmented, centred, mapped]
}

/// The order of the images of one batch for each of G starts, so that they lie side by side in `[N, G · C, H, W]`.
pub(crate) fn interleaved(batches: &[Vec<usize>]) -> Vec<usize> {
    (0..batches[0].len()).flat_map(|row| batches.iter().map(move |own| own[row])).collect()
}

/// The parts of a batch, one after another.
pub(crate) fn cut(batch: &Tensor, parts: usize) -> Vec<Tensor> {
    let rows = batch.shape()[0] / parts;
    let part = |part: usize| batch.gather_rows(&(part * rows..(part + 1) * rows).collect::<Vec<_>>());
    (0..parts).map(part).collect()
}

/// Tensors of one shape along a leading axis, as [`side_by_side`] has it.
pub(crate) fn stacked(parts: &[Tensor]) -> Tensor {
    let shape = side_by_side(parts.len(), parts[0].shape());
    Tensor::new(shape, parts.iter().flat_map(|part| part.data()).copied().collect())
}

/// Starts of one run draw different batches and places.
pub(crate) fn run_seed(seed: u64, start: usize) -> u64 {
    seed ^ (start as u64) << 40
}

/// Every state of the tape by name, before the first step of the group that begins with start number `first`.
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
    let states = states.into_iter().map(|(name, parts)| (name, stacked(&parts))).collect();
    Packed::new(network, config.group()).pack(states)
}

/// Stream of host draws that the first parameters come from; splits and batches have their own.
const PARAMETERS: u32 = 1;

/// Every state of start number `index` alone, by name, before its first step.
pub(crate) fn start_states(config: &Config, network: &Network, index: usize) -> Vec<(String, Tensor)> {
    let mut stream = Stream::new(run_seed(config.seed, index), PARAMETERS);
    let mut parameters = network.parameters(&mut stream);
    let start = &config.starts[index];
    if !start.is_empty() {
        parameters.push(("a".into(), Tensor::new([start.len()], start.clone())));
    }
    let mut states: Vec<(String, Tensor)> = network.statistics().into_iter().flatten().chain(network.fixed()).collect();
    for (name, initial) in parameters {
        for moment in MOMENTS.iter().filter(|_| network.trains(&name)) {
            states.push((format!("{name}{moment}"), Tensor::full(initial.shape().clone(), 0.0)));
        }
        states.push((name, initial));
    }
    for (name, state) in &mut states {
        if let Some((_, given)) = config.given.iter().find(|(given, _)| given == name) {
            *state = given.clone();
        }
    }
    states
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use super::*;
    use crate::engine::ops::random;
    use crate::engine::reference::Reference;
    use crate::ssad::augment;
    use crate::ssad::bilevel::Order;
    use crate::ssad::loss::Alignment;
    use crate::ssad::nn::{Encoder, Normalised, Plain, ResNet18, Stage, Stem};

    const IMAGE: [usize; 3] = [2, 9, 10];

    fn config(method: Method, augmentation: &str, alignment: &str, encoder: Arc<dyn Encoder>) -> Config {
        let detector = Detector::new(IMAGE[0], encoder, vec![3]);
        let mut config = Config::new(detector, augment::by_name(augmentation, 1).unwrap());
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
        let step = TrainingStep::record(config, IMAGE).unwrap();
        let network = Network::new(config.method, &config.detector, IMAGE);
        let mut noise = Stream::new(3, 0);
        let [c, h, w] = IMAGE;
        let images = Tensor::new([40, c, h, w], (0..40 * c * h * w).map(|_| noise.uniform() as f32).collect());
        let places: Vec<usize> = config.places(first).collect();
        let rows = |from: usize, batch: usize| -> Vec<Vec<usize>> {
            places.iter().map(|start| (0..batch).map(|row| from + 5 * start + row).collect()).collect()
        };
        let keys: Vec<Tensor> =
            places.iter().map(|&start| random::key(run_seed(config.seed, start), start as u32)).collect();
        let mut sources: HashMap<String, Tensor> = initial_states(config, &network, first).into_iter().collect();
        let batch = |rows: &[Vec<usize>]| {
            Tensor::new([rows[0].len(), rows.len() * c, h, w], images.gather_rows(&interleaved(rows)).into_data())
        };
        sources.insert("x".into(), batch(&rows(0, config.batch)));
        sources.insert("x_val".into(), batch(&rows(20, config.batch_val)));
        sources.insert("key".into(), stacked(&keys));
        sources.insert("rates".into(), ADAM_THETA.rates(1e-3, 4));
        sources.insert("rates_a".into(), ADAM_A.rates(1.0, 4));
        let tuning = step.tuning.as_ref();
        let carries = step.carries.iter().chain(tuning.iter().flat_map(|tuning| &tuning.carries));
        let mut wanted: Vec<Value> = carries.map(|&(_, new)| new).chain(step.g.clone()).collect();
        wanted.extend([step.inner].into_iter().chain(tuning.map(|tuning| tuning.g_a)));
        let mut of_places = vec![Vec::new(); places.len()];
        let values = evaluated(&step.tape, &sources, &wanted).into_iter();
        let parts = |values: Vec<f64>| match step.packed.0.iter().find(|array| array.packing.len == values.len()) {
            Some(array) => array.parts(&values).map(|(_, part)| part.to_vec()).collect(),
            None => vec![values],
        };
        for all in values.flat_map(parts) {
            for (place, own) in of_places.iter_mut().zip(all.chunks(all.len() / places.len())) {
                place.push(own.to_vec());
            }
        }
        of_places
    }

    #[test]
    fn starts_side_by_side_come_to_what_each_comes_to_alone() {
        let plain = || -> Arc<dyn Encoder> {
            Arc::new(Plain([(2, 2), (3, 1)].map(|(channels, stride)| Stage { channels, stride }).to_vec()))
        };
        let resnet = || Arc::new(ResNet18 { width: 1, stem: Stem::Large, stages: ResNet18::STAGES });
        let encoder = Plain(vec![Stage { channels: 2, stride: 2 }]);
        let normalised: Arc<dyn Encoder> =
            Arc::new(Normalised { mean: vec![0.3, 0.5], deviation: vec![0.2, 0.4], encoder });
        let tuned = |augmentation, alignment| config(Method::StSsad, augmentation, alignment, plain());
        let frozen = Detector { frozen: true, ..Detector::new(IMAGE[0], plain(), vec![3]) };
        let untuned = |method| config(method, "cutavg", "mmd", plain());
        for config in [
            tuned("cutdiff", "diagonal-w2"),
            tuned("cutpaste+rotation-spread", "mean-distance"),
            tuned("cutout", "gaussian-w2"),
            tuned("rotation", "sliced-w2"),
            tuned("cutavg", "sinkhorn"),
            tuned("cutdiff", "mmd"),
            config(Method::StSsad, "rotation", "diagonal-w2", resnet()),
            config(Method::StSsad, "rotation", "diagonal-w2", normalised),
            Config { detector: frozen, ..tuned("cutdiff", "diagonal-w2") },
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
        let plain: Arc<dyn Encoder> = Arc::new(Plain(vec![Stage { channels: 3, stride: 2 }]));
        for method in [Method::StSsad, Method::RandomDynamic, Method::DeepSvdd] {
            let whole = Config { batch: 6, batch_val: 8, ..config(method, "cutdiff", "diagonal-w2", plain.clone()) };
            let mut noise = Stream::new(4, 0);
            let [c, h, w] = IMAGE;
            let images = Tensor::new([14, c, h, w], (0..14 * c * h * w).map(|_| noise.uniform() as f32).collect());
            let network = Network::new(method, &whole.detector, IMAGE);
            let states: HashMap<String, Tensor> = initial_states(&whole, &network, 0).into_iter().collect();
            let key = random::key(7, 3);
            let gradients =
                |micro_batches: usize, rows: std::ops::Range<usize>, rows_val: std::ops::Range<usize>, key| {
                    let (batch, batch_val) = (rows.len(), rows_val.len());
                    let config = config(method, "cutdiff", "diagonal-w2", plain.clone());
                    let config = Config { batch, batch_val, micro_batches, ..config };
                    let step = TrainingStep::record(&config, IMAGE).unwrap();
                    let mut sources = states.clone();
                    let (rows, rows_val): (Vec<usize>, Vec<usize>) =
                        (rows.collect(), rows_val.map(|row| 6 + row).collect());
                    for (name, rows) in [("x", rows), ("x_val", rows_val)] {
                        for (part, own) in cut(&images.gather_rows(&rows), micro_batches).into_iter().enumerate() {
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
            let encoder = Arc::new(Plain(vec![Stage { channels: 8, stride: 1 }; 3]));
            let config = config(Method::StSsad, "cutdiff", "diagonal-w2", encoder);
            let config = Config { batch: 16, batch_val: 32, micro_batches, ..config };
            let step = TrainingStep::record(&config, IMAGE).unwrap();
            let tuning = step.tuning.as_ref().unwrap();
            Plan::new(
                &step.tape,
                &[tuning.figures],
                &tuning.carries,
                crate::engine::kernel::DeviceClass::Gpu,
                Reuse::On,
            )
            .live_bytes
        };
        let [whole, quarter] = [1, 4].map(live);
        assert!(quarter as f64 <= 0.3 * whole as f64, "{quarter} bytes of {whole}");
    }

    #[test]
    fn groups_are_as_few_and_as_even_as_they_can_be() {
        let encoder = Arc::new(Plain(vec![Stage { channels: 2, stride: 2 }]));
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
