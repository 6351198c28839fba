//! Layers with parameters: a network is written once, as what it does, and its parameters are found by recording it.

use super::BN_EPSILON;
use crate::engine::ops::elementwise::Unary;
use crate::engine::philox::Stream;
use crate::engine::tape::{Tape, Value};
use crate::engine::tensor::{Shape, Tensor};

/// Names of a batch norm's mean and variance, and what they are before the first batch.
pub const MOMENTS: [(&str, f32); 2] = [("mean", 0.0), ("variance", 1.0)];

/// How a parameter begins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Initial {
    /// Normal with variance 2 / fan-in (He et al., arXiv 1502.01852).
    He {
        fan_in: usize,
    },
    /// Uniform within 1 / √fan-in.
    Uniform {
        fan_in: usize,
    },
    Constant(f32),
}

impl Initial {
    /// A tensor of this shape, random numbers drawn from `stream`.
    pub fn draw(self, shape: &Shape, stream: &mut Stream) -> Tensor {
        let mut drawn = |number: &mut dyn FnMut(&mut Stream) -> f64| {
            Tensor::new(shape.clone(), (0..shape.count()).map(|_| number(stream) as f32).collect())
        };
        match self {
            Initial::He { fan_in } => {
                let deviation = (2.0 / fan_in as f64).sqrt();
                drawn(&mut |stream| deviation * stream.normal())
            }
            Initial::Uniform { fan_in } => {
                let reach = 1.0 / (fan_in as f64).sqrt();
                drawn(&mut |stream| reach * (2.0 * stream.uniform() - 1.0))
            }
            Initial::Constant(value) => Tensor::full(shape.clone(), value),
        }
    }
}

/// A trained parameter of one network.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// Dotted path of the layer and the parameter's role: `encoder.stem.kernel`.
    pub name: String,
    pub shape: Shape,
    pub initial: Initial,
}

/// A batch norm: the layer's path, and the shape of its mean and its variance.
pub type Norm = (String, Shape);

/// What a network is made of.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Declared {
    /// In the order of their use.
    pub parameters: Vec<Parameter>,
    /// In the order of their use.
    pub norms: Vec<Norm>,
}

/// What batch norm divides by.
#[derive(Clone, Copy, Debug)]
pub enum Statistics<'a> {
    /// The batch's own moments: training.
    Batch,
    /// Running mean and variance of each layer of one detector, in order: scoring.
    Running(&'a [[Value; 2]]),
}

/// The layers of G networks side by side as they are recorded: each has its own channels, and its own parameters along a leading
/// axis `[G, …]` of each.
#[derive(Debug)]
pub struct Layers<'a> {
    groups: usize,
    /// The parameters' values; none while the network is only declared.
    theta: Option<&'a [Value]>,
    statistics: Statistics<'a>,
    /// Whether a batch norm's mean and variance are parameters, which batches do not change.
    frozen: bool,
    /// The batch's mean and variance at each batch norm so far.
    pub(super) moments: Vec<[Value; 2]>,
    declared: Declared,
    path: String,
}

impl<'a> Layers<'a> {
    /// The layers of `groups` networks with the parameters `theta`, in the order of their use.
    pub fn new(groups: usize, theta: &'a [Value], statistics: Statistics<'a>) -> Self {
        Layers { groups, theta: Some(theta), ..Layers::unknown(statistics) }
    }

    fn unknown(statistics: Statistics<'a>) -> Self {
        Layers {
            groups: 1,
            theta: None,
            statistics,
            frozen: false,
            moments: Vec::new(),
            declared: Declared::default(),
            path: String::new(),
        }
    }

    /// What a network is made of, found by recording it on images of this shape; `record` also says what else it likes.
    pub fn declare<T>(images: [usize; 4], record: impl FnOnce(&mut Tape, &mut Layers, Value) -> T) -> (Declared, T) {
        let (mut t, mut layers) = (Tape::new(), Layers::unknown(Statistics::Batch));
        let x = t.feed("x", images);
        let said = record(&mut t, &mut layers, x);
        (layers.declared, said)
    }

    /// Networks side by side.
    pub fn groups(&self) -> usize {
        self.groups
    }

    /// Channels, or features, of each network in `x`: its second axis over the groups.
    pub fn channels(&self, t: &Tape, x: Value) -> usize {
        t.shape(x)[1] / self.groups
    }

    /// Records `body` in the scope `name`, which begins the names of its parameters.
    pub fn scope<T>(&mut self, t: &mut Tape, name: &str, body: impl FnOnce(&mut Tape, &mut Self) -> T) -> T {
        let nested = self.path_of(name);
        let outer = std::mem::replace(&mut self.path, nested);
        let result = t.scope(name, |t| body(t, self));
        self.path = outer;
        result
    }

    /// Records `body` with batch norms whose mean and variance are parameters.
    pub(super) fn frozen<T>(&mut self, t: &mut Tape, body: impl FnOnce(&mut Tape, &mut Self) -> T) -> T {
        let outer = std::mem::replace(&mut self.frozen, true);
        let result = body(t, self);
        self.frozen = outer;
        result
    }

    fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// The next parameter, of this shape in each network, as `recorded`: a shape with as many elements as all groups have.
    pub fn parameter(
        &mut self,
        t: &mut Tape,
        (role, shape, initial): (&str, &[usize], Initial),
        recorded: impl Into<Shape>,
    ) -> Value {
        let (index, name) = (self.declared.parameters.len(), self.path_of(role));
        let value = match self.theta {
            Some(theta) => *theta.get(index).expect("as many values as parameters"),
            None => t.state(&name, shape),
        };
        self.declared.parameters.push(Parameter { name, shape: shape.into(), initial });
        t.reshape(value, recorded)
    }

    /// A convolution without bias, padded by half its window, of x `[N, G · C, H, W]` to `channels` channels in each network, and
    /// its batch norm.
    pub fn convolution(&mut self, t: &mut Tape, x: Value, [channels, window, stride]: [usize; 3]) -> Value {
        let inputs = self.channels(t, x);
        let shape = [channels, inputs, window, window];
        let initial = Initial::He { fan_in: inputs * window * window };
        let wide = [self.groups * channels, inputs, window, window];
        let kernel = self.parameter(t, ("kernel", &shape, initial), wide);
        let convolved = t.grouped_conv2d(x, kernel, stride, window / 2, self.groups);
        self.batch_norm(t, convolved, &[0, 2, 3])
    }

    /// The product of x `[N, G · F]` with a weight `[F, features]` in each network: `[N, G · features]`.
    pub fn linear(&mut self, t: &mut Tape, x: Value, features: usize, initial: fn(usize) -> Initial) -> Value {
        let inputs = self.channels(t, x);
        let wide = [self.groups * inputs, features];
        let weight = self.parameter(t, ("weight", &[inputs, features], initial(inputs)), wide);
        t.grouped_matmul(x, weight, self.groups)
    }

    /// x plus a number for each channel of it, `[1, C]` or `[1, C, 1, 1]` in each network, which begins as 0.
    pub fn bias(&mut self, t: &mut Tape, x: Value) -> Value {
        let [own, wide] = self.of_channels(t, x);
        let bias = self.parameter(t, ("bias", &own, Initial::Constant(0.0)), wide);
        t.add(x, bias)
    }

    /// One number for each channel of `x`: the shape in one network, and in all of them.
    fn of_channels(&self, t: &Tape, x: Value) -> [Shape; 2] {
        [self.channels(t, x), t.shape(x)[1]].map(|channels| {
            let axes = t.shape(x).len();
            (0..axes).map(|axis| if axis == 1 { channels } else { 1 }).collect::<Vec<usize>>().into()
        })
    }

    /// Batch normalisation (Ioffe and Szegedy, arXiv 1502.03167) with biased variance: γ · (x − mean) / √(variance + ε) + β, the
    /// moments taken over `axes`. x is scaled and shifted channel by channel, so that x − mean is never written to memory.
    pub fn batch_norm(&mut self, t: &mut Tape, x: Value, axes: &[usize]) -> Value {
        let [own, wide] = self.of_channels(t, x);
        let gamma = self.parameter(t, ("gamma", &own, Initial::Constant(1.0)), wide.clone());
        let beta = self.parameter(t, ("beta", &own, Initial::Constant(0.0)), wide.clone());
        let [mean, variance] = if self.frozen {
            MOMENTS.map(|(role, initial)| self.parameter(t, (role, &own, Initial::Constant(initial)), wide.clone()))
        } else {
            let moments = match self.statistics {
                Statistics::Batch => t.moments(x, axes),
                Statistics::Running(moments) => moments[self.moments.len()],
            };
            self.moments.push(moments);
            self.declared.norms.push((self.path.clone(), own));
            moments
        };
        let guarded = t.offset(variance, BN_EPSILON);
        let deviation = t.unary(Unary::Sqrt, guarded);
        let scale = t.div(gamma, deviation);
        let scaled_mean = t.mul(mean, scale);
        let shift = t.sub(beta, scaled_mean);
        let scaled = t.mul(x, scale);
        t.add(scaled, shift)
    }
}
