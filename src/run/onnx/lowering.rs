//! From a tape to a graph, primitive by primitive.
//!
//! What does not depend on a feed is computed here, in f64. Layers take up the factors and addends of their channels that follow them,
//! such as batch norm's: their weights are those of the folded layer. A runtime chooses how many images are in a batch, so no
//! primitive may mix them.

use std::any::Any;
use std::collections::HashMap;
use std::mem;

use super::graph::{Attribute, Graph, Operand};
use crate::engine::ops::conv2d::{Conv2d, Geometry, Role};
use crate::engine::ops::elementwise::{Binary, BinaryMap, Unary, UnaryMap};
use crate::engine::ops::layout::Reshape;
use crate::engine::ops::matmul::Matmul;
use crate::engine::ops::pool::{Argmax, Select};
use crate::engine::ops::reduce::{Min, Sum};
use crate::engine::reference::Reference;
use crate::engine::tape::{Origin, Tape, Value};
use crate::engine::tensor::Shape;

/// A primitive that has no counterpart in a graph.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error(
    "the network applies `{primitive}` in `{scope}`, which the export to ONNX does not know: use stssad predict, or add it to \
     src/run/onnx/lowering.rs"
)]
pub struct Unknown {
    pub primitive: &'static str,
    pub scope: String,
}

/// Writes the `wanted` values of a tape into a graph, and returns their names there. `sources` has the states by name; the feeds
/// are the graph's values of the same names. The first axis of a value that depends on a feed counts images.
///
/// # Errors
/// When a primitive has no counterpart.
///
/// # Panics
/// When a state is missing.
pub fn lower(
    tape: &Tape,
    sources: &HashMap<String, Vec<f64>>,
    wanted: &[Value],
    graph: &mut Graph,
) -> Result<Vec<String>, Unknown> {
    let mut varies = vec![false; tape.len()];
    for (value, node) in tape.iter() {
        let inputs = || node.inputs().iter();
        varies[value.index()] = matches!(node.origin, Origin::Feed(_)) || inputs().any(|input| varies[input.index()]);
    }
    let mut uses = vec![0; tape.len()];
    wanted.iter().for_each(|value| uses[value.index()] += 1);
    for (value, node) in tape.iter().rev().filter(|(value, _)| varies[value.index()]) {
        let is_used = uses[value.index()] > 0;
        node.inputs().iter().filter(|_| is_used).for_each(|input| uses[input.index()] += 1);
    }
    let lowered = HashMap::new();
    let mut lowering = Lowering { tape, reference: Reference::new(tape, sources), varies, uses, lowered, graph };
    for (value, _) in tape.iter() {
        if lowering.varies[value.index()] && lowering.uses[value.index()] > 0 {
            let lowered = lowering.lower(value)?;
            lowering.lowered.insert(value, lowered);
        }
    }
    let names = wanted.iter().map(|&value| lowering.name(value)).collect();
    lowering.graph.scope.clear();
    Ok(names)
}

/// What has become of a value of the tape.
#[derive(Clone, Debug)]
enum Lowered {
    Named(String),
    /// A layer that is not written yet, since what follows it may be folded into it.
    Layer(Layer),
    /// Places of maxima, which are written with their selection.
    Argmax,
}

/// A convolution or a product with weights, and a bias.
#[derive(Clone, Debug)]
struct Layer {
    op: &'static str,
    attributes: Vec<Attribute>,
    input: String,
    weights: Vec<f64>,
    dims: Vec<usize>,
    /// The axis of the weights that counts the output's channels.
    channels: usize,
    bias: Vec<f64>,
    scope: String,
}

impl Layer {
    /// factors · (this layer) + addends, both by channel.
    fn then(mut self, factors: &[f64], addends: &[f64]) -> Self {
        let inner: usize = self.dims[self.channels + 1..].iter().product();
        let channel = |index: usize| index / inner % self.dims[self.channels];
        self.weights.iter_mut().enumerate().for_each(|(index, weight)| *weight *= factors[channel(index)]);
        self.bias.iter_mut().zip(factors.iter().zip(addends)).for_each(|(bias, (factor, addend))| {
            *bias = factor * *bias + addend;
        });
        self
    }
}

struct Lowering<'a> {
    tape: &'a Tape,
    reference: Reference<'a>,
    /// Whether a value depends on a feed.
    varies: Vec<bool>,
    /// How often a value is read.
    uses: Vec<usize>,
    lowered: HashMap<Value, Lowered>,
    graph: &'a mut Graph,
}

impl Lowering<'_> {
    fn lower(&mut self, value: Value) -> Result<Lowered, Unknown> {
        let node = self.tape.node(value);
        self.graph.scope = node.scope.replace('.', "/");
        let Origin::Applied { primitive, inputs } = &node.origin else {
            let Origin::Feed(name) = &node.origin else { unreachable!("only a feed varies") };
            return Ok(Lowered::Named(name.to_string()));
        };
        let any: &dyn Any = &**primitive;
        let lowered = if let Some(&conv) = any.downcast_ref() {
            self.convolution(conv, inputs)
        } else if let Some(&product) = any.downcast_ref() {
            self.product(product, inputs)
        } else if let Some(&map) = any.downcast_ref() {
            self.unary(map, inputs[0])
        } else if let Some(&BinaryMap(function)) = any.downcast_ref() {
            self.binary(function, value, [inputs[0], inputs[1]])
        } else if let Some(sum) = any.downcast_ref() {
            self.sum(sum, inputs[0])
        } else if let Some(min) = any.downcast_ref() {
            self.min(min, inputs[0])
        } else if let Some(reshape) = any.downcast_ref() {
            self.reshape(reshape, inputs[0])
        } else if any.is::<Argmax>() {
            Some(Lowered::Argmax)
        } else if let Some(Select { geometry }) = any.downcast_ref() {
            self.maximum(*geometry, inputs)
        } else {
            None
        };
        lowered.ok_or_else(|| Unknown { primitive: primitive.name(), scope: node.scope.to_string() })
    }

    /// The name of a value; writes a layer that was not written yet.
    fn name(&mut self, value: Value) -> String {
        let name = match self.lowered.get(&value) {
            Some(Lowered::Named(name)) => return name.clone(),
            Some(Lowered::Layer(layer)) => {
                let layer = layer.clone();
                self.write(layer)
            }
            Some(Lowered::Argmax) => unreachable!("a selection reads its places by itself"),
            None => {
                let numbers = single(self.constant(value));
                self.graph.floats("constant", self.tape.shape(value), &numbers)
            }
        };
        self.lowered.insert(value, Lowered::Named(name.clone()));
        name
    }

    fn write(&mut self, layer: Layer) -> String {
        let Layer { op, attributes, input, weights, dims, bias, scope, .. } = layer;
        let outer = mem::replace(&mut self.graph.scope, scope);
        let weights = self.graph.floats("weights", &dims, &single(&weights));
        let bias = self.graph.floats("bias", &[bias.len()], &single(&bias));
        let name = self.graph.node(op, &[(&input).into(), (&weights).into(), (&bias).into()], &attributes);
        self.graph.scope = outer;
        name
    }

    /// The numbers of a value that depends on no feed.
    fn constant(&mut self, value: Value) -> &[f64] {
        self.reference.eval(value).expect("a model has its states")
    }

    /// A number for each channel of values of this shape, if the value depends on no feed and differs along their axis 1 alone.
    fn by_channel(&mut self, value: Value, of: &Shape) -> Option<Vec<f64>> {
        let shape = self.tape.shape(value);
        let is_row = shape.len() == of.len() && shape[1] == shape.count();
        let is_known = !self.varies[value.index()] && (is_row || shape.count() == 1);
        is_known.then(|| self.constant(value).iter().copied().cycle().take(of[1]).collect())
    }

    /// A new layer of `op` on `input`, whose weights have one extent for each output channel along `channels`.
    fn new_layer(
        &mut self,
        op: &'static str,
        attributes: Vec<Attribute>,
        [input, weights]: [Value; 2],
        channels: usize,
    ) -> Option<Lowered> {
        if self.varies[weights.index()] {
            return None;
        }
        let (input, dims) = (self.name(input), self.tape.shape(weights).to_vec());
        let (bias, weights) = (vec![0.0; dims[channels]], self.constant(weights).to_vec());
        let scope = self.graph.scope.clone();
        Some(Lowered::Layer(Layer { op, attributes, input, weights, dims, channels, bias, scope }))
    }

    fn convolution(&mut self, conv: Conv2d, inputs: &[Value]) -> Option<Lowered> {
        let Conv2d { solve_for, geometry, groups: 1 } = conv else { return None };
        let mut attributes = windows(geometry);
        let both = [inputs[0], inputs[1]];
        match solve_for {
            Role::Output => self.new_layer("Conv", attributes, both, 0),
            Role::Input => {
                let [p, q] = geometry.output().expect("checked when recorded");
                // Rows and columns of the image beyond the last window.
                let rest = [0, 1].map(|axis| {
                    let reached = ([p, q][axis] - 1) * geometry.stride + geometry.window[axis];
                    (geometry.image[axis] + 2 * geometry.padding - reached) as i64
                });
                attributes.push(Attribute::Ints("output_padding", rest.to_vec()));
                self.new_layer("ConvTranspose", attributes, both, 1)
            }
            Role::Kernel => None,
        }
    }

    fn product(&mut self, product: Matmul, inputs: &[Value]) -> Option<Lowered> {
        let Matmul { transpose_a: false, transpose_b } = product else { return None };
        let attributes = vec![Attribute::Int("transB", transpose_b.into())];
        self.new_layer("Gemm", attributes, [inputs[0], inputs[1]], if transpose_b { 0 } else { 1 })
    }

    fn unary(&mut self, map: UnaryMap, x: Value) -> Option<Lowered> {
        let UnaryMap { function, scale, offset } = map;
        let mut y = self.name(x);
        if scale != 1.0 {
            y = self.graph.binary("Mul", &y, scale as f32);
        }
        if offset != 0.0 {
            y = self.graph.binary("Add", &y, offset as f32);
        }
        let op = match function {
            Unary::Identity => return Some(Lowered::Named(y)),
            Unary::Clamp { low, high } => {
                return Some(Lowered::Named(self.graph.node("Clip", &[(&y).into(), low.into(), high.into()], &[])));
            }
            Unary::Exp => "Exp",
            Unary::Log => "Log",
            Unary::Sqrt => "Sqrt",
            Unary::Reciprocal => "Reciprocal",
            Unary::Sin => "Sin",
            Unary::Cos => "Cos",
            Unary::Sigmoid => "Sigmoid",
            Unary::Softplus => "Softplus",
            Unary::Relu => "Relu",
        };
        Some(Lowered::Named(self.graph.unary(op, &y)))
    }

    fn binary(&mut self, function: Binary, value: Value, [a, b]: [Value; 2]) -> Option<Lowered> {
        if let Some(layer) = self.folded(function, value, [a, b]) {
            return Some(Lowered::Layer(layer));
        }
        let mut scaled = |factor: f64, operand: Value| {
            let name = self.name(operand);
            if factor == 1.0 { name } else { self.graph.binary("Mul", &name, factor as f32) }
        };
        let (op, a, b) = match function {
            Binary::Linear { p, q: -1.0 } => ("Sub", scaled(p, a), scaled(1.0, b)),
            Binary::Linear { p, q } => ("Add", scaled(p, a), scaled(q, b)),
            Binary::Multiply { factor } => ("Mul", scaled(factor, a), scaled(1.0, b)),
            Binary::Divide { factor } => ("Div", scaled(factor, a), scaled(1.0, b)),
            Binary::Maximum => ("Max", scaled(1.0, a), scaled(1.0, b)),
            Binary::Minimum => ("Min", scaled(1.0, a), scaled(1.0, b)),
            _ => return None,
        };
        Some(Lowered::Named(self.graph.binary(op, &a, &b)))
    }

    /// A layer, and a factor or an addend for each of its channels, as one layer.
    fn folded(&mut self, function: Binary, value: Value, [a, b]: [Value; 2]) -> Option<Layer> {
        let shape = self.tape.shape(value);
        let all = |factor: f64| vec![factor; shape[1]];
        let times = |factor: f64, numbers: Vec<f64>| numbers.into_iter().map(|number| factor * number).collect();
        let is_layer = |own: &Self, operand: Value| {
            let is_unwritten = matches!(own.lowered.get(&operand), Some(Lowered::Layer(_)));
            is_unwritten && own.uses[operand.index()] == 1 && own.tape.shape(operand) == shape
        };
        let (layer, numbers) = match [a, b] {
            _ if is_layer(self, a) => (a, self.by_channel(b, shape)?),
            _ if is_layer(self, b) => (b, self.by_channel(a, shape)?),
            _ => return None,
        };
        let (factors, addends): (Vec<f64>, Vec<f64>) = match function {
            Binary::Linear { p, q } if layer == a => (all(p), times(q, numbers)),
            Binary::Linear { p, q } => (all(q), times(p, numbers)),
            Binary::Multiply { factor } => (times(factor, numbers), all(0.0)),
            Binary::Divide { factor } if layer == a => {
                (numbers.into_iter().map(|number| factor / number).collect(), all(0.0))
            }
            _ => return None,
        };
        match self.lowered.remove(&layer) {
            Some(Lowered::Layer(layer)) => Some(layer.then(&factors, &addends)),
            _ => unreachable!("it is a layer"),
        }
    }

    fn sum(&mut self, Sum { axes }: &Sum, x: Value) -> Option<Lowered> {
        let axes: Vec<i64> = axes.clone().map(|axis| axis as i64).collect();
        if axes.contains(&0) {
            return None;
        }
        let x = self.name(x);
        Some(Lowered::Named(self.graph.node("ReduceSum", &[(&x).into(), Operand::Ints(&axes)], &[])))
    }

    fn min(&mut self, Min { axes }: &Min, x: Value) -> Option<Lowered> {
        if axes.contains(&0) {
            return None;
        }
        let x = self.name(x);
        // Unlike a sum's, its axes are an attribute.
        let axes = Attribute::Ints("axes", axes.clone().map(|axis| axis as i64).collect());
        Some(Lowered::Named(self.graph.node("ReduceMin", &[(&x).into()], &[axes])))
    }

    fn reshape(&mut self, Reshape { to }: &Reshape, x: Value) -> Option<Lowered> {
        if to.first() != self.tape.shape(x).first() {
            return None;
        }
        let x = self.name(x);
        // 0 keeps an extent.
        let to: Vec<i64> = [0].into_iter().chain(to[1..].iter().map(|&extent| extent as i64)).collect();
        Some(Lowered::Named(self.graph.node("Reshape", &[(&x).into(), Operand::Ints(&to)], &[])))
    }

    /// The selection of the greatest values of windows.
    fn maximum(&mut self, geometry: Geometry, inputs: &[Value]) -> Option<Lowered> {
        let [x, places] = [inputs[0], inputs[1]];
        let is_own = self.tape.node(places).inputs() == [x] && matches!(self.lowered[&places], Lowered::Argmax);
        if !is_own {
            return None;
        }
        let x = self.name(x);
        Some(Lowered::Named(self.graph.node("MaxPool", &[(&x).into()], &windows(geometry))))
    }
}

fn windows(Geometry { window, stride, padding, .. }: Geometry) -> Vec<Attribute> {
    vec![
        Attribute::Ints("kernel_shape", window.map(|extent| extent as i64).to_vec()),
        Attribute::Ints("strides", vec![stride as i64; 2]),
        Attribute::Ints("pads", vec![padding as i64; 4]),
    ]
}

fn single(numbers: &[f64]) -> Vec<f32> {
    numbers.iter().map(|&number| number as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::tensor::Tensor;
    use crate::run::onnx::proto::{GraphProto, TensorProto};

    fn lowered(tape: &Tape, wanted: Value) -> Result<GraphProto, Unknown> {
        let mut graph = Graph::default();
        lower(tape, &HashMap::new(), &[wanted], &mut graph)?;
        Ok(graph.finish("", Vec::new(), Vec::new()))
    }

    fn numbers(tensor: &TensorProto) -> Vec<f32> {
        tensor.raw_data.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
    }

    /// (4 − 2 · (x · w) / [1, 2]) · 3 = x · w · [−6, −3] + 12.
    #[test]
    fn factors_and_addends_of_channels_become_the_layer_s() {
        let mut t = Tape::new();
        let x = t.feed("x", [5, 3]);
        let mut constant = |shape: [usize; 2], data: &[f32]| t.constant(Tensor::new(shape, data.to_vec()));
        let w = constant([3, 2], &[1.0, 10.0, 2.0, 20.0, 3.0, 30.0]);
        let [four, by, three] = [constant([1, 1], &[4.0]), constant([1, 2], &[1.0, 2.0]), constant([1, 1], &[3.0])];
        let product = t.matmul(x, w);
        let quotient = t.binary(Binary::Divide { factor: 1.0 }, product, by);
        let rest = t.linear([(1.0, four), (-2.0, quotient)]);
        let y = t.mul(rest, three);
        let graph = lowered(&t, y).unwrap();
        let [node] = &graph.node[..] else { panic!("{:?}", graph.node) };
        assert_eq!((node.op_type.as_str(), node.input[0].as_str()), ("Gemm", "x"));
        let [weights, bias] = &graph.initializer[..] else { panic!("{:?}", graph.initializer) };
        assert_eq!((&weights.dims[..], numbers(weights)), (&[3, 2][..], vec![-6.0, -30.0, -12.0, -60.0, -18.0, -90.0]));
        assert_eq!((&bias.dims[..], numbers(bias)), (&[2][..], vec![12.0, 12.0]));
    }

    #[test]
    fn a_layer_that_is_read_twice_or_grows_is_not_folded() {
        let record = |grows: bool| {
            let mut t = Tape::new();
            let x = t.feed("x", [5, 3]);
            let w = t.constant(Tensor::full([3, 1], 1.0));
            let factor = t.constant(Tensor::full([1, if grows { 2 } else { 1 }], 2.0));
            let product = t.matmul(x, w);
            let scaled = t.mul(product, factor);
            let y = if grows { scaled } else { t.add(scaled, product) };
            let graph = lowered(&t, y).unwrap();
            graph.node.iter().map(|node| node.op_type.clone()).collect::<Vec<_>>()
        };
        assert_eq!(record(true), ["Gemm", "Mul"]);
        assert_eq!(record(false), ["Gemm", "Mul", "Add"]);
    }

    #[test]
    fn what_has_no_counterpart_or_mixes_images_is_refused_by_name() {
        let mut t = Tape::new();
        let x = t.feed("x", [2, 3, 4, 4]);
        let [part, mean] = t.scope("encoder", |t| {
            let rows = t.reshape(x, [2, 48]);
            [t.slice(rows, 1, 0, 4), t.mean(x, &[0])]
        });
        for (value, name) in [(part, "layout/slice"), (mean, "reduce/sum")] {
            let refused = lowered(&t, value).unwrap_err();
            assert_eq!((refused.primitive, refused.scope.as_str()), (name, "encoder"));
        }
    }
}
