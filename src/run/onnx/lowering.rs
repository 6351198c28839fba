//! From a tape to a graph, primitive by primitive.
//!
//! What does not depend on a feed is computed here, in f64. Layers take up the factors and addends of their channels that follow them,
//! such as batch norm's: their weights are those of the folded layer. A runtime chooses how many images are in a batch, so no
//! primitive may mix them, and it is known of each value where its images are.

use std::any::Any;
use std::collections::HashMap;
use std::mem;

use super::graph::{Attribute, Graph, Operand};
use crate::engine::ops::conv2d::{Conv2d, Geometry, Role};
use crate::engine::ops::elementwise::{Binary, BinaryMap, Unary, UnaryMap};
use crate::engine::ops::layout::{Concat, Reshape};
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

/// Where the images of a batch are in a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Batch {
    /// Axis 0 counts them in each of so many copies, one copy after the other.
    Copies(usize),
    /// Axis 0 counts so many equal parts of each, one image after the other.
    Parts(usize),
    /// Axis 0 counts so many copies, and axis 1 the images of each.
    Apart(usize),
}

impl Batch {
    /// Axis 0 counts images.
    const IMAGES: Batch = Batch::Copies(1);

    /// The axis that counts images.
    fn axis(self) -> usize {
        usize::from(matches!(self, Batch::Apart(_)))
    }

    /// Where the images are in the same numbers with the shape `to`, if there are `images` of them.
    fn reshaped(self, to: &Shape, images: usize) -> Option<Batch> {
        Some(match self {
            Batch::IMAGES | Batch::Parts(_) if to[0] == images => Batch::IMAGES,
            Batch::IMAGES | Batch::Parts(_) if to[0].is_multiple_of(images) => Batch::Parts(to[0] / images),
            Batch::Copies(copies) | Batch::Apart(copies) if to[0] == copies * images => Batch::Copies(copies),
            Batch::Copies(copies) | Batch::Apart(copies) if to.len() > 1 && to[..2] == [copies, images] => {
                Batch::Apart(copies)
            }
            _ => return None,
        })
    }
}

/// Writes the `wanted` values of a tape into a graph, and returns their names there. `sources` has the states by name; the feeds
/// are the graph's values of the same names, and their first axis counts images.
///
/// # Errors
/// When a primitive has no counterpart, or mixes images.
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
    let (lowered, batches, reference) = (HashMap::new(), HashMap::new(), Reference::new(tape, sources));
    let fed = tape.iter().find(|(_, node)| matches!(node.origin, Origin::Feed(_)));
    let images = fed.map_or(1, |(value, _)| tape.shape(value)[0]);
    let mut lowering = Lowering { tape, reference, varies, uses, lowered, batches, images, graph };
    for (value, _) in tape.iter() {
        if lowering.varies[value.index()] && lowering.uses[value.index()] > 0 {
            let (lowered, batch) = lowering.lower(value)?;
            lowering.lowered.insert(value, lowered);
            lowering.batches.insert(value, batch);
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
    /// Where the images are in each value that is lowered.
    batches: HashMap<Value, Batch>,
    /// Images of the batch that the tape was recorded with.
    images: usize,
    graph: &'a mut Graph,
}

impl Lowering<'_> {
    fn lower(&mut self, value: Value) -> Result<(Lowered, Batch), Unknown> {
        let node = self.tape.node(value);
        self.graph.scope = node.scope.replace('.', "/");
        let Origin::Applied { primitive, inputs } = &node.origin else {
            let Origin::Feed(name) = &node.origin else { unreachable!("only a feed varies") };
            return Ok((Lowered::Named(name.to_string()), Batch::IMAGES));
        };
        let any: &dyn Any = &**primitive;
        let unknown = || Unknown { primitive: primitive.name(), scope: node.scope.to_string() };
        let batch = self.batch(any, inputs).ok_or_else(unknown)?;
        let lowered = if let Some(&conv) = any.downcast_ref() {
            self.convolution(conv, inputs)
        } else if let Some(&product) = any.downcast_ref() {
            self.product(product, inputs)
        } else if let Some(&map) = any.downcast_ref() {
            self.unary(map, inputs[0])
        } else if let Some(&BinaryMap(function)) = any.downcast_ref() {
            self.binary(function, value, [inputs[0], inputs[1]], batch.axis())
        } else if let Some(concat) = any.downcast_ref() {
            self.concat(concat, inputs)
        } else if let Some(sum) = any.downcast_ref() {
            self.sum(sum, inputs[0])
        } else if let Some(min) = any.downcast_ref() {
            self.min(min, inputs[0])
        } else if let Some(reshape) = any.downcast_ref() {
            self.reshape(reshape, inputs[0], batch)
        } else if any.is::<Argmax>() {
            Some(Lowered::Argmax)
        } else if let Some(Select { geometry }) = any.downcast_ref() {
            self.maximum(*geometry, inputs)
        } else {
            None
        };
        Ok((lowered.ok_or_else(unknown)?, batch))
    }

    /// Where the images are in the value of a primitive; `None` if it mixes them.
    fn batch(&self, primitive: &dyn Any, inputs: &[Value]) -> Option<Batch> {
        let mut varying = inputs.iter().filter(|input| self.varies[input.index()]).map(|input| self.batches[input]);
        let first = varying.next()?;
        if let Some(Concat { axis }) = primitive.downcast_ref()
            && *axis <= first.axis()
        {
            let all: Vec<Batch> = [first].into_iter().chain(varying).collect();
            let copies = all.iter().map(|batch| if let Batch::Copies(copies) = batch { Some(*copies) } else { None });
            let copies = copies.collect::<Option<Vec<usize>>>().filter(|copies| copies.len() == inputs.len())?;
            return Some(Batch::Copies(copies.iter().sum()));
        }
        if !varying.all(|batch| batch == first) {
            return None;
        }
        if let Some(Reshape { to }) = primitive.downcast_ref() {
            return first.reshaped(to, self.images);
        }
        let reduced =
            primitive.downcast_ref().map(|Sum { axes }| axes).or(primitive.downcast_ref().map(|Min { axes }| axes));
        match (reduced, first) {
            (Some(axes), batch) if axes.contains(&batch.axis()) => None,
            (Some(axes), Batch::Apart(_)) if axes.contains(&0) => Some(Batch::Apart(1)),
            _ => Some(first),
        }
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

    /// The name of an operand of a value whose images are counted by `axis`. Numbers that are the same for each image become those of one.
    fn operand(&mut self, operand: Value, axis: usize) -> Option<String> {
        let shape = self.tape.shape(operand).clone();
        if self.varies[operand.index()] || shape[axis] == 1 {
            return Some(self.name(operand));
        }
        let one: usize = shape[axis + 1..].iter().product();
        let numbers = self.constant(operand);
        let outer = numbers.chunks_exact(one * shape[axis]);
        let is_same = |all: &[f64]| all.chunks_exact(one).all(|image| image == &all[..one]);
        if !outer.clone().all(is_same) {
            return None;
        }
        let numbers: Vec<f64> = outer.flat_map(|all| &all[..one]).copied().collect();
        let mut dims = shape.to_vec();
        dims[axis] = 1;
        Some(self.graph.floats("constant", &dims, &single(&numbers)))
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

    fn binary(&mut self, function: Binary, value: Value, [a, b]: [Value; 2], axis: usize) -> Option<Lowered> {
        if let Some(layer) = self.folded(function, value, [a, b]) {
            return Some(Lowered::Layer(layer));
        }
        let [a, b] = [self.operand(a, axis)?, self.operand(b, axis)?];
        let mut scaled = |factor: f64, name: String| {
            if factor == 1.0 { name } else { self.graph.binary("Mul", &name, factor as f32) }
        };
        let (op, a, b) = match function {
            Binary::Linear { p, q: -1.0 } => ("Sub", scaled(p, a), b),
            Binary::Linear { p, q } => ("Add", scaled(p, a), scaled(q, b)),
            Binary::Multiply { factor } => ("Mul", scaled(factor, a), b),
            Binary::Divide { factor } => ("Div", scaled(factor, a), b),
            Binary::Maximum => ("Max", a, b),
            Binary::Minimum => ("Min", a, b),
            Binary::WherePositive => {
                let is_positive = self.graph.binary("Greater", &b, 0.0);
                let operands = [(&is_positive).into(), (&a).into(), 0.0.into()];
                return Some(Lowered::Named(self.graph.node("Where", &operands, &[])));
            }
            _ => return None,
        };
        Some(Lowered::Named(self.graph.binary(op, &a, &b)))
    }

    fn concat(&mut self, Concat { axis }: &Concat, inputs: &[Value]) -> Option<Lowered> {
        if !inputs.iter().all(|input| self.varies[input.index()]) {
            return None;
        }
        let [a, b] = [self.name(inputs[0]), self.name(inputs[1])];
        let axis = Attribute::Int("axis", *axis as i64);
        Some(Lowered::Named(self.graph.node("Concat", &[(&a).into(), (&b).into()], &[axis])))
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
        let x = self.name(x);
        Some(Lowered::Named(self.graph.node("ReduceSum", &[(&x).into(), Operand::Ints(&axes)], &[])))
    }

    fn min(&mut self, Min { axes }: &Min, x: Value) -> Option<Lowered> {
        let x = self.name(x);
        // Unlike a sum's, its axes are an attribute.
        let axes = Attribute::Ints("axes", axes.clone().map(|axis| axis as i64).collect());
        Some(Lowered::Named(self.graph.node("ReduceMin", &[(&x).into()], &[axes])))
    }

    fn reshape(&mut self, Reshape { to }: &Reshape, x: Value, batch: Batch) -> Option<Lowered> {
        let axis = batch.axis();
        let is_kept = axis == 0 && self.batches[&x].axis() == 0 && to[0] == self.tape.shape(x)[0];
        let x = self.name(x);
        let mut to: Vec<i64> = to.iter().map(|&extent| extent as i64).collect();
        // 0 keeps an extent, and -1 is what is left.
        to[axis] = if is_kept { 0 } else { -1 };
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

    #[test]
    fn copies_and_parts_of_images_are_told_from_images() {
        let mut t = Tape::new();
        let x = t.feed("x", [2, 6]);
        let both = t.concat(0, &[x, x]);
        let apart = t.reshape(both, [2, 2, 6]);
        let mean = t.mean(apart, &[0]);
        let mean = t.reshape(mean, [2, 6]);
        let ops: Vec<String> = lowered(&t, mean).unwrap().node.iter().map(|node| node.op_type.clone()).collect();
        assert_eq!(ops, ["Concat", "Reshape", "ReduceSum", "Mul", "Reshape"]);
        let parts = t.reshape(x, [6, 2]);
        let joined = t.concat(0, &[parts, parts]);
        let [images, sum] = [t.mean(apart, &[1]), t.add(parts, parts)];
        let whole = t.reshape(sum, [2, 6]);
        assert!(lowered(&t, whole).is_ok(), "parts become whole again");
        let mixed = t.reshape(both, [6, 4]);
        let halves = t.constant(Tensor::new([2, 1], vec![1.0, 2.0]));
        let own = t.mul(x, halves);
        let twice = t.concat(1, &[apart, apart]);
        for value in [joined, images, mixed, own, twice] {
            assert!(lowered(&t, value).is_err(), "{:?}", t.node(value));
        }
    }

    #[test]
    fn numbers_that_are_the_same_for_each_image_are_written_once() {
        let mut t = Tape::new();
        let x = t.feed("x", [2, 2]);
        let same = t.constant(Tensor::new([2, 2], vec![3.0, 4.0, 3.0, 4.0]));
        let y = t.binary(Binary::WherePositive, same, x);
        let graph = lowered(&t, y).unwrap();
        let constant = graph.initializer.iter().find(|tensor| tensor.name.contains("constant")).unwrap();
        assert_eq!((&constant.dims[..], numbers(constant)), (&[1, 2][..], vec![3.0, 4.0]));
    }
}
