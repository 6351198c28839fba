//! The methods that can be trained, all with one trainer and budget: ST-SSAD, its ablations without tuning, and two
//! classic baselines.

mod attribution;

use serde::{Deserialize, Serialize};

pub use attribution::{REFERENCE, WHITENING};

use crate::engine::philox::Stream;
use crate::engine::tape::{Tape, Value};
use crate::engine::tensor::{Shape, Tensor};
use crate::ssad::augment::Augmentation;
use crate::ssad::bilevel::Inner;
use crate::ssad::loss::{bce_with_logits, column_means};
use crate::ssad::nn::{AutoEncoder, Declared, Detector, ENCODER, MOMENTS, Parameter, Statistics};

/// How a detector comes about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "program", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Classifies normal against augmented images; the alignment loss tunes the augmentation.
    #[default]
    StSsad,
    /// The same with hyper-parameters drawn once and fixed.
    RandomStatic,
    /// The same with hyper-parameters redrawn for each image of each step.
    RandomDynamic,
    /// A convolutional auto-encoder; the score is its squared reconstruction error.
    AutoEncoder,
    /// Deep SVDD (Ruff et al., "Deep One-Class Classification", ICML 2018): the encoder maps all normal images close to
    /// one centre; the score is the squared distance from it.
    DeepSvdd,
    /// The nearest known patch (the form of PatchCore: Roth et al., arXiv 2106.08265): the score is the greatest squared distance of a
    /// place's features from the nearest of a bank of features of normal images. Nothing is trained; the encoder's weights are
    /// random, or given.
    NearestPatch,
    /// The Mahalanobis distance of the image, averaged to at most 16 × 16 places, from the training images. Nothing is trained.
    RawPixels,
}

impl Method {
    /// Its name on the command line and in records.
    pub fn name(self) -> &'static str {
        match self {
            Method::StSsad => "st-ssad",
            Method::RandomStatic => "random-static",
            Method::RandomDynamic => "random-dynamic",
            Method::AutoEncoder => "auto-encoder",
            Method::DeepSvdd => "deep-svdd",
            Method::NearestPatch => "nearest-patch",
            Method::RawPixels => "raw-pixels",
        }
    }

    /// Whether it has training steps.
    pub fn trains(self) -> bool {
        !matches!(self, Method::NearestPatch | Method::RawPixels)
    }

    /// Whether it has an encoder that can be chosen.
    pub fn encodes(self) -> bool {
        !matches!(self, Method::AutoEncoder | Method::RawPixels)
    }

    /// Whether the detector learns to separate normal from augmented images.
    pub fn augments(self) -> bool {
        matches!(self, Method::StSsad | Method::RandomStatic | Method::RandomDynamic)
    }
}

/// Random streams of the random baselines' hyper-parameters: on the device within a step, on the host for a run.
const DYNAMIC_STREAM: u32 = 0x0d01;
const STATIC_STREAM: u32 = 0x0d02;

/// Raw coordinates drawn uniformly from the augmentation's prior, for each of `count` starts.
pub fn random_starts(augmentation: &dyn Augmentation, count: usize, seed: u64) -> Vec<Vec<f32>> {
    let [low, high] = augmentation.prior();
    let mut stream = Stream::new(seed, STATIC_STREAM);
    let mut draw = || low.iter().zip(&high).map(|(low, high)| low + (high - low) * stream.uniform() as f32).collect();
    (0..count).map(|_| draw()).collect()
}

/// Raw coordinates `[N, P]` drawn uniformly from the augmentation's prior, for each of N = `images` images.
pub fn random_rows(t: &mut Tape, augmentation: &dyn Augmentation, images: usize, key: Value) -> Value {
    let [low, high] = augmentation.prior();
    let reach = low.iter().zip(&high).map(|(low, high)| high - low).collect();
    let [low, reach] = [low, reach].map(|row: Vec<f32>| t.constant(Tensor::new([1, row.len()], row)));
    let extent = t.shape(low)[1];
    let unit = t.uniform(key, DYNAMIC_STREAM, [images, extent]);
    let scaled = t.mul(unit, reach);
    t.add(scaled, low)
}

/// A network, its training loss and its scores.
#[derive(Clone, Debug)]
pub enum Network {
    /// Separates normal from augmented images.
    Classifier(Detector),
    /// Pulls embeddings to a centre. Batch norm has no scale or shift and the head is omitted: either could map
    /// everything to the centre.
    OneClass(Detector),
    Reconstruction(AutoEncoder),
    /// Compares the features at each place with those of normal images. It has no head.
    Patches(Detector),
    /// Images `[C, H, W]` as they are.
    Pixels([usize; 3]),
}

/// Name of the state in [`Network::Patches`] that holds the features of normal images, `[BANKED, features, 1, 1]`.
pub const BANK: &str = "bank";
/// Features that a bank holds.
pub const BANKED: usize = 1024;

/// Most places along a side of the averaged image in [`Network::Pixels`].
const PLACES: usize = 16;

/// Name of the centre's state in [`Network::OneClass`].
pub const CENTRE: &str = "centre";

/// The values that scores are computed from.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// Embeddings `[N, features]`.
    pub z: Value,
    /// `[N, 1]`: the head's logit for a classifier, where it is a second score; the score itself for networks without a
    /// [distance](Network::has_distance); no score for raw pixels.
    pub direct: Value,
}

impl Network {
    /// The network that `method` trains on images `[C, H, W]`.
    pub fn new(method: Method, detector: &Detector, image: [usize; 3]) -> Self {
        match method {
            Method::AutoEncoder => Network::Reconstruction(AutoEncoder::new(image)),
            Method::DeepSvdd => Network::OneClass(detector.clone()),
            Method::NearestPatch => Network::Patches(detector.clone()),
            Method::RawPixels => Network::Pixels(image),
            _ => Network::Classifier(detector.clone()),
        }
    }

    /// Whether a head gives a logit, which is a score too.
    pub fn has_logit(&self) -> bool {
        matches!(self, Network::Classifier(_))
    }

    /// Whether embeddings can be scored by their distance from those of training images; if not, the network gives the score itself.
    pub fn has_distance(&self) -> bool {
        matches!(self, Network::Classifier(_) | Network::Pixels(_))
    }

    /// Whether the score is this distance under a rule.
    pub fn scores_by_distance(&self, rule: Rule) -> bool {
        self.has_distance() && (rule == Rule::Distance || !self.has_logit())
    }

    /// Its parameters, in the order of `theta` everywhere, and its batch norms.
    pub fn declared(&self) -> Declared {
        match self {
            Network::Classifier(detector) | Network::OneClass(detector) => detector.declared(),
            Network::Reconstruction(auto_encoder) => auto_encoder.declared(),
            Network::Patches(detector) => {
                let Declared { mut parameters, mut norms } = detector.declared();
                parameters.retain(|parameter| parameter.name.starts_with(ENCODER));
                norms.retain(|(layer, _)| layer.starts_with(ENCODER));
                Declared { parameters, norms }
            }
            Network::Pixels(_) => Declared::default(),
        }
    }

    /// Names and initial values of the parameters.
    pub fn parameters(&self, stream: &mut Stream) -> Vec<(String, Tensor)> {
        let parameters = self.declared().parameters.into_iter();
        parameters.map(|Parameter { name, shape, initial }| (name, initial.draw(&shape, stream))).collect()
    }

    /// Whether the parameter `name` is trained; if not, it keeps its initial value.
    pub fn trains(&self, name: &str) -> bool {
        match self {
            Network::Classifier(detector) => !(detector.frozen && name.starts_with(ENCODER)),
            Network::OneClass(_) => name.starts_with(ENCODER) && !name.ends_with(".gamma") && !name.ends_with(".beta"),
            Network::Reconstruction(_) => true,
            Network::Patches(_) | Network::Pixels(_) => false,
        }
    }

    /// Names and initial values of the running mean and variance of each batch norm.
    pub fn statistics(&self) -> Vec<[(String, Tensor); 2]> {
        let statistics = |(layer, shape): (String, Shape)| {
            MOMENTS.map(|(role, initial)| (format!("{layer}.{role}"), Tensor::full(shape.clone(), initial)))
        };
        self.declared().norms.into_iter().map(statistics).collect()
    }

    /// Length of an embedding.
    pub fn features(&self) -> usize {
        match self {
            Network::Classifier(detector) | Network::OneClass(detector) | Network::Patches(detector) => {
                detector.features()
            }
            Network::Reconstruction(auto_encoder) => auto_encoder.latent(),
            Network::Pixels([c, h, w]) => {
                let side = averaged(*h, *w);
                c * (h / side) * (w / side)
            }
        }
    }

    /// Further states that neither gradients nor batches change.
    pub fn fixed(&self) -> Vec<(String, Tensor)> {
        match self {
            Network::OneClass(detector) => vec![(CENTRE.into(), Tensor::full([1, detector.features()], 0.0))],
            Network::Patches(detector) => {
                vec![(BANK.into(), Tensor::full([BANKED, detector.features(), 1, 1], 0.0))]
            }
            _ => Vec::new(),
        }
    }

    /// Names and shapes of all states that scoring reads.
    pub fn state_shapes(&self) -> Vec<(String, Shape)> {
        let parameters = self.declared().parameters.into_iter().map(|parameter| (parameter.name, parameter.shape));
        let others = self.statistics().into_iter().flatten().chain(self.fixed());
        parameters.chain(others.map(|(name, tensor)| (name, tensor.shape().clone()))).collect()
    }

    /// The parameters as states, in order, with names. Several `starts` side by side have a leading axis.
    pub fn record_parameters(&self, t: &mut Tape, starts: usize) -> Vec<(String, Value)> {
        let state = |Parameter { name, shape, .. }: Parameter| {
            let value = t.state(&name, side_by_side(starts, &shape));
            (name, value)
        };
        self.declared().parameters.into_iter().map(state).collect()
    }

    /// The running mean and variance of each batch norm as states, shaped as the parameters.
    pub fn record_statistics(&self, t: &mut Tape, starts: usize) -> Vec<[Value; 2]> {
        let layers = self.statistics().into_iter();
        let state =
            |t: &mut Tape, (name, initial): (String, Tensor)| t.state(&name, side_by_side(starts, initial.shape()));
        layers.map(|layer| layer.map(|named| state(t, named))).collect()
    }

    /// The loss of each of G starts on its normal images, C channels of `x` `[N, G · C, H, W]`, and for a classifier on
    /// as many augmented ones.
    ///
    /// # Panics
    /// When a classifier has no augmented images.
    pub fn loss(&self, t: &mut Tape, theta: &[Value], x: Value, x_aug: Option<Value>) -> Inner {
        match self {
            Network::Classifier(detector) => {
                let x_aug = x_aug.expect("a classifier is trained on augmented images too");
                let both = t.concat(0, &[x, x_aug]);
                let pass = detector.forward(t, theta, both, Statistics::Batch);
                let loss = t.scope("loss", |t| {
                    let targets = [(x, 0.0), (x_aug, 1.0)]
                        .map(|(set, class)| Tensor::full([t.shape(set)[0], 1], class).into_data())
                        .concat();
                    let targets = t.constant(Tensor::new([targets.len(), 1], targets));
                    bce_with_logits(t, pass.logit, targets)
                });
                Inner { loss, moments: pass.moments }
            }
            Network::OneClass(detector) => {
                let pass = detector.forward(t, theta, x, Statistics::Batch);
                let starts = t.shape(pass.logit)[1];
                let distance = t.scope("loss", |t| square_distance(t, pass.z, starts));
                Inner { loss: column_means(t, distance), moments: pass.moments }
            }
            Network::Reconstruction(auto_encoder) => {
                let error = reconstruction_error(t, auto_encoder, theta, x).direct;
                Inner { loss: column_means(t, error), moments: Vec::new() }
            }
            // Nothing is trained.
            Network::Patches(_) | Network::Pixels(_) => {
                Inner { loss: t.constant(Tensor::full([1], 0.0)), moments: Vec::new() }
            }
        }
    }

    /// The values that scores of `x` `[N, C, H, W]` are computed from, with the states after training.
    pub fn read(&self, t: &mut Tape, x: Value) -> Reading {
        let theta: Vec<Value> = self.record_parameters(t, 1).into_iter().map(|(_, value)| value).collect();
        let running = self.record_statistics(t, 1);
        let (theta, running) = (&theta[..], &running[..]);
        match self {
            Network::Classifier(detector) => {
                let pass = detector.forward(t, theta, x, Statistics::Running(running));
                Reading { z: pass.z, direct: pass.logit }
            }
            Network::OneClass(detector) => {
                let z = detector.forward(t, theta, x, Statistics::Running(running)).z;
                Reading { z, direct: square_distance(t, z, 1) }
            }
            Network::Reconstruction(auto_encoder) => reconstruction_error(t, auto_encoder, theta, x),
            Network::Patches(detector) => {
                let [maps, z] = detector.embed_alone(t, theta, x, Statistics::Running(running));
                let distances = nearest(t, maps);
                let opposite = t.scale(distances, -1.0);
                let least = t.min(opposite, 1..4);
                let greatest = t.scale(least, -1.0);
                Reading { z, direct: t.reshape(greatest, [t.shape(x)[0], 1]) }
            }
            Network::Pixels(_) => {
                let places = averages(t, x);
                let z = t.reshape(places, [t.shape(x)[0], self.features()]);
                // Only the distance is a score.
                let direct = t.slice(z, 1, 0, 1);
                Reading { z, direct }
            }
        }
    }
}

/// The squared distance of the features at each place of `maps` `[N, features, P, Q]` from the nearest of the bank, `[N, 1, P, Q]`.
fn nearest(t: &mut Tape, maps: Value) -> Value {
    let features = t.shape(maps)[1];
    let bank = t.state(BANK, [BANKED, features, 1, 1]);
    // ‖f − b‖² = ‖f‖² − 2 f · b + ‖b‖², and f · b for all b is a 1 × 1 convolution.
    let products = t.conv2d(maps, bank, 1, 0);
    let squares = t.mul(bank, bank);
    let norms = t.sum(squares, &[1]);
    let norms = t.reshape(norms, [1, BANKED, 1, 1]);
    let offsets = t.linear([(-2.0, products), (1.0, norms)]);
    let least = t.min(offsets, 1..2);
    let squares = t.mul(maps, maps);
    let own = t.sum(squares, &[1]);
    let sum = t.add(least, own);
    // Rounding may take the distance of a banked feature from itself below 0.
    t.relu(sum)
}

/// The side in pixels of the squares that images of this height and width are averaged over. A long strip has more than [`PLACES`]
/// along it, but at least one across.
fn averaged(height: usize, width: usize) -> usize {
    height.max(width).div_ceil(PLACES).min(height.min(width))
}

/// Means over squares of x `[N, C, H, W]`, `[N, C, P, Q]`; what fills no square at the right and below is left out.
fn averages(t: &mut Tape, x: Value) -> Value {
    let [n, c, h, w] = t.shape(x).images().expect("a batch of images");
    let side = averaged(h, w);
    let planes = t.reshape(x, [n * c, 1, h, w]);
    let kernel = t.constant(Tensor::full([1, 1, side, side], 1.0 / (side * side) as f32));
    let means = t.conv2d(planes, kernel, side, 0);
    t.reshape(means, [n, c, h / side, w / side])
}

/// The shape of `starts` values of one `shape`: with a leading axis if there are several.
pub fn side_by_side(starts: usize, shape: &Shape) -> Shape {
    if starts == 1 { shape.clone() } else { [&[starts], &shape[..]].concat().into() }
}

/// ‖z − centre‖² of each row `[N, starts · features]` for each start, `[N, starts]`.
fn square_distance(t: &mut Tape, z: Value, starts: usize) -> Value {
    let [rows, columns] = t.shape(z).matrix().expect("one row per image");
    let features = columns / starts;
    let centre = t.state(CENTRE, side_by_side(starts, &[1, features].into()));
    let centre = t.reshape(centre, [1, columns]);
    let offset = t.sub(z, centre);
    let offset = t.reshape(offset, [rows, starts, features]);
    let squares = t.mul(offset, offset);
    let distance = t.sum(squares, &[2]);
    t.reshape(distance, [rows, starts])
}

/// The mean squared error of each image for each start, `[N, starts]`.
fn reconstruction_error(t: &mut Tape, auto_encoder: &AutoEncoder, theta: &[Value], x: Value) -> Reading {
    let [z, reconstruction] = auto_encoder.forward(t, theta, x);
    let direct = t.scope("loss", |t| {
        let (rows, starts) = (t.shape(x)[0], t.shape(z)[1] / auto_encoder.latent());
        let error = t.sub(reconstruction, x);
        let error = t.reshape(error, [rows, starts, t.shape(x).count() / (rows * starts)]);
        let squares = t.mul(error, error);
        let mean = t.mean(squares, &[2]);
        t.reshape(mean, [rows, starts])
    });
    Reading { z, direct }
}
/// What the anomaly score of a classifier is. Networks that give a score themselves have only that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "program", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// The head's logit: how similar the image is to augmented ones.
    #[default]
    Logit,
    /// The distance of the embedding from the embeddings of normal images.
    Distance,
}
