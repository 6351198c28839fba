//! Fusion: the live part of a tape, recorded anew in fewer passes over memory.
//!
//! The tape reads like the mathematics: each primitive is what the caller or a backward rule asked for. Here the same values
//! are recorded once more, source by source, by rules that look through what needs no pass of its own:
//!
//! * equal primitives of equal inputs are computed once;
//! * scale · x + offset is read through: every unary function, product and sum carries such numbers;
//! * a function of broadcasts is taken before they are made, and a broadcast operand is read in place;
//! * sums of products become [`MultiplyAdd`], with the positive part where a ReLU follows, and sums over products
//!   [`SumProduct`]. Unless something else reads the products, they are never computed;
//! * a long sum with few results falls into partial sums, where a device of the class would have idle invocations;
//! * a matrix that is read often is transposed once, where a kernel then reads memory in order.
//!
//! Values agree with the tape's up to the order of rounding. What nothing reads any more is dropped by the plan.

use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::storage;
use crate::engine::kernel::DeviceClass;
use crate::engine::lower::Detour;
use crate::engine::ops::elementwise::{Binary, BinaryMap, Collapsed, MultiplyAdd, Unary, UnaryMap, broadcast_shape};
use crate::engine::ops::layout::{Broadcast, Pack, Reshape, Transpose};
use crate::engine::ops::lowering;
use crate::engine::ops::reduce::{SquaredDeviation, Sum, SumProduct};
use crate::engine::tape::{Node, Origin, Primitive, Tape, Value};
use crate::engine::tensor::{Shape, Tensor};

/// Products that a sum is made of at most: of more, some are summed before.
const PRODUCTS: usize = 4;

/// A tape recorded anew.
#[derive(Debug)]
pub(super) struct Fused {
    pub graph: Tape,
    /// The value in the graph of each live value of the tape.
    pub values: Vec<Option<Value>>,
}

/// Records the live values of `tape` anew, for devices of the class.
pub(super) fn fuse(tape: &Tape, live: &[bool], class: DeviceClass) -> Fused {
    let mut fusion = Fusion::new(class);
    let mut fused = Fused { graph: Tape::new(), values: vec![None; tape.len()] };
    for (value, node) in tape.iter().filter(|(value, _)| live[value.index()]) {
        let mapped = |value: Value| fused.values[value.index()];
        fusion.graph.in_place_of(node, node.primal.and_then(mapped));
        let inputs: Vec<Value> = node.inputs().iter().map(|&input| mapped(input).expect("inputs are live")).collect();
        fused.values[value.index()] = Some(fusion.record(node, &inputs));
    }
    fused.graph = fusion.graph;
    fused
}

#[derive(Debug)]
struct Fusion {
    class: DeviceClass,
    graph: Tape,
    /// What is recorded already: by the primitive as it prints and its inputs.
    applied: HashMap<(String, Vec<Value>), Value>,
    /// Constants by shape and bits.
    constants: HashMap<(Shape, Vec<u32>), Value>,
    /// What is computed in its place in a packed array.
    packed: HashSet<Value>,
}

/// What a sum is made of, each with its factor.
#[derive(Debug, Default)]
struct Terms {
    products: Vec<(f64, [Value; 2])>,
    addends: Vec<(f64, Value)>,
}

/// The primitive as one of type `P`, if it is.
fn as_a<P: Primitive>(primitive: &dyn Primitive) -> Option<&P> {
    (primitive as &dyn Any).downcast_ref()
}

impl Fusion {
    fn new(class: DeviceClass) -> Self {
        Fusion { class, graph: Tape::new(), applied: HashMap::new(), constants: HashMap::new(), packed: HashSet::new() }
    }

    fn record(&mut self, node: &Node, inputs: &[Value]) -> Value {
        let primitive = match &node.origin {
            Origin::Feed(name) => return self.graph.feed(name, node.shape.clone()),
            Origin::State(name) => return self.graph.state(name, node.shape.clone()),
            Origin::Constant(tensor) => return self.constant(tensor),
            Origin::Applied { primitive, .. } => primitive,
        };
        let known = primitive.as_ref();
        if let Some(map) = as_a::<UnaryMap>(known) {
            return self.unary(*map, inputs[0]);
        }
        if let Some(&BinaryMap(function)) = as_a::<BinaryMap>(known) {
            let [a, b] = [inputs[0], inputs[1]];
            return match function {
                Binary::Linear { p, q } => self.linear([(p, a), (q, b)]),
                Binary::Multiply { factor } => self.product(factor, a, b),
                Binary::Divide { factor } => self.quotient(|factor| Binary::Divide { factor }, factor, [a, b]),
                Binary::DivideOrZero { factor } => {
                    self.quotient(|factor| Binary::DivideOrZero { factor }, factor, [a, b])
                }
                _ => self.binary(function, a, b),
            };
        }
        if let Some(sum) = as_a::<Sum>(known) {
            return self.sum(sum, inputs[0]);
        }
        if let Some(deviation) = as_a::<SquaredDeviation>(known) {
            let (scale, mean) = self.scaled(inputs[1]);
            let deviation = SquaredDeviation { scale: scale * deviation.scale, ..deviation.clone() };
            return self.push(deviation, &[inputs[0], mean]);
        }
        if let Some(Reshape { to }) = as_a::<Reshape>(known) {
            return self.reshape(inputs[0], to);
        }
        if let Some(Broadcast { to }) = as_a::<Broadcast>(known) {
            return self.broadcast(inputs[0], to);
        }
        if as_a::<Pack>(known).is_some() {
            return self.pack(primitive.clone(), inputs);
        }
        let shapes: Vec<&Shape> = inputs.iter().map(|&input| self.shape(input)).collect();
        match lowering(known).and_then(|lowered| lowered.detour(&shapes, self.class)) {
            None => self.apply(primitive.clone(), inputs),
            Some(Detour::Sum(partial)) => {
                let partial = self.apply(partial, inputs);
                let sum = self.push(Sum { axes: 0..1 }, &[partial]);
                self.reshape(sum, &node.shape)
            }
            Some(Detour::OfTransposed(rows, primitive)) => {
                let columns = self.shape(inputs[1]).count() / rows;
                let matrix = self.reshape(inputs[1], &[rows, columns].into());
                let transposed = self.push(Transpose, &[matrix]);
                self.apply(primitive, &[inputs[0], transposed])
            }
        }
    }

    /// The parts are computed in their places, so each has to be a computed value that has no other place, and none may read
    /// another: a dispatch cannot read and write the same buffer. Of all others a copy is taken.
    fn pack(&mut self, primitive: Arc<dyn Primitive>, parts: &[Value]) -> Value {
        let wholes: Vec<Value> = parts.iter().map(|&part| storage(&self.graph, part).0).collect();
        let mut placed: Vec<Value> = Vec::new();
        for (&part, &whole) in parts.iter().zip(&wholes) {
            let is_computed = self.graph.node(whole).primitive().is_some_and(|known| lowering(known).is_some());
            let is_whole = self.shape(whole).count() == self.shape(part).count();
            let is_once = wholes.iter().filter(|other| **other == whole).count() == 1 && !self.packed.contains(&whole);
            let is_apart = !placed.iter().any(|&other| self.reads(whole, other) || self.reads(other, whole));
            if is_computed && is_whole && is_once && is_apart {
                placed.push(whole);
            }
        }
        let parts: Vec<Value> = parts
            .iter()
            .zip(&wholes)
            .map(|(&part, whole)| match placed.contains(whole) {
                true => part,
                false => self.graph.push(UnaryMap::from(Unary::Identity), &[part]),
            })
            .collect();
        self.packed.extend(parts.iter().map(|&part| storage(&self.graph, part).0));
        self.graph.apply(primitive, &parts)
    }

    /// Whether computing `one` reads the buffer of `other`.
    fn reads(&self, one: Value, other: Value) -> bool {
        self.graph.node(one).inputs().iter().any(|&input| storage(&self.graph, input).0 == other)
    }

    fn shape(&self, value: Value) -> &Shape {
        self.graph.shape(value)
    }

    /// The primitive that computes `value`, if it is of type `P`, and its inputs.
    fn computed_by<P: Primitive>(&self, value: Value) -> Option<(&P, &[Value])> {
        let node = self.graph.node(value);
        Some((as_a(node.primitive()?)?, node.inputs()))
    }

    fn apply(&mut self, primitive: Arc<dyn Primitive>, inputs: &[Value]) -> Value {
        let key = (format!("{primitive:?}"), inputs.to_vec());
        match self.applied.get(&key) {
            Some(&value) => value,
            None => {
                let value = self.graph.apply(primitive, inputs);
                self.applied.insert(key, value);
                value
            }
        }
    }

    fn push(&mut self, primitive: impl Primitive, inputs: &[Value]) -> Value {
        self.apply(Arc::new(primitive), inputs)
    }

    fn constant(&mut self, tensor: &Tensor) -> Value {
        let key = (tensor.shape().clone(), tensor.data().iter().map(|x| x.to_bits()).collect());
        *self.constants.entry(key).or_insert_with(|| self.graph.constant(tensor.clone()))
    }

    fn number(&mut self, number: f32) -> Value {
        self.constant(&Tensor::full([1], number))
    }

    /// Whether `value` is this number everywhere, fixed when recorded.
    fn is_constant(&self, value: Value, number: f32) -> bool {
        match &self.graph.node(value).origin {
            Origin::Constant(tensor) => tensor.data().iter().all(|&x| x == number),
            Origin::Applied { primitive, inputs } => {
                let is_rearranged =
                    as_a::<Reshape>(primitive.as_ref()).is_some() || as_a::<Broadcast>(primitive.as_ref()).is_some();
                is_rearranged && self.is_constant(inputs[0], number)
            }
            Origin::Feed(_) | Origin::State(_) => false,
        }
    }

    fn reshape(&mut self, x: Value, to: &Shape) -> Value {
        let x = match self.computed_by::<Reshape>(x) {
            Some((_, inputs)) => inputs[0],
            None => x,
        };
        if self.shape(x) == to { x } else { self.push(Reshape { to: to.clone() }, &[x]) }
    }

    fn broadcast(&mut self, x: Value, to: &Shape) -> Value {
        let x = self.before_broadcast(x);
        if self.shape(x) == to {
            return x;
        }
        match self.shape(x).count() == to.count() {
            true => self.reshape(x, to),
            false => self.push(Broadcast { to: to.clone() }, &[x]),
        }
    }

    /// What `value` is a broadcast of, or itself.
    fn before_broadcast(&self, value: Value) -> Value {
        match self.computed_by::<Broadcast>(value) {
            Some((_, inputs)) => self.before_broadcast(inputs[0]),
            None => value,
        }
    }

    /// x, scale and offset where `value` is scale · x + offset, or that under another shape.
    fn affine_of(&mut self, value: Value) -> Option<(Value, [f64; 2])> {
        if let Some((map, inputs)) = self.computed_by::<UnaryMap>(value) {
            return (map.function == Unary::Identity).then_some((inputs[0], [map.scale, map.offset]));
        }
        let (_, inputs) = self.computed_by::<Reshape>(value)?;
        let (x, affine) = self.affine_of(inputs[0])?;
        let shape = self.shape(value).clone();
        Some((self.reshape(x, &shape), affine))
    }

    /// A number and a value of which `value` is the product.
    fn scaled(&mut self, value: Value) -> (f64, Value) {
        let direct = self.before_broadcast(value);
        match self.affine_of(direct) {
            Some((x, [scale, 0.0])) => {
                let shape = self.shape(value).clone();
                (scale, self.broadcast(x, &shape))
            }
            _ => (1.0, value),
        }
    }

    /// The number and the factors of which `value` is the product, if it is one.
    fn factors(&self, value: Value) -> Option<(f64, [Value; 2])> {
        match self.computed_by::<BinaryMap>(value) {
            Some((&BinaryMap(Binary::Multiply { factor }), inputs)) => Some((factor, [inputs[0], inputs[1]])),
            _ => None,
        }
    }

    fn unary(&mut self, mut map: UnaryMap, x: Value) -> Value {
        let direct = self.before_broadcast(x);
        if direct != x {
            let (y, shape) = (self.unary(map, direct), self.shape(x).clone());
            return self.broadcast(y, &shape);
        }
        if (map.function, map.scale, map.offset) == (Unary::Relu, 1.0, 0.0)
            && let Some((sum, inputs)) = self.computed_by::<MultiplyAdd>(x)
            && !sum.relu
        {
            let (sum, inputs) = (MultiplyAdd { relu: true, ..sum.clone() }, inputs.to_vec());
            return self.push(sum, &inputs);
        }
        let x = match self.affine_of(x) {
            Some((inner, [scale, offset])) => {
                (map.scale, map.offset) = (map.scale * scale, map.scale * offset + map.offset);
                inner
            }
            None => x,
        };
        let is_identity = (map.function, map.scale, map.offset) == (Unary::Identity, 1.0, 0.0);
        if is_identity { x } else { self.push(map, &[x]) }
    }

    fn binary(&mut self, function: Binary, a: Value, b: Value) -> Value {
        let (direct_a, direct_b) = (self.before_broadcast(a), self.before_broadcast(b));
        let fitted = |graph: &Tape, a: Value, b: Value| {
            let (a, b) = (graph.shape(a), graph.shape(b));
            broadcast_shape(a, b).ok().filter(|shape| Collapsed::new(shape, &[a, b]).is_ok())
        };
        let output = broadcast_shape(self.shape(a), self.shape(b)).expect("checked when recorded");
        // Of operands that are both broadcast the function is taken before.
        if let Some(small) = fitted(&self.graph, direct_a, direct_b)
            && small.count() < output.count()
        {
            let y = self.push(BinaryMap(function), &[direct_a, direct_b]);
            return self.broadcast(y, &output);
        }
        // A broadcast operand is read in place where the result keeps its shape, so the copy is never made.
        let choices = [(direct_a, direct_b), (direct_a, b), (a, direct_b)];
        let is_readable = |&(a, b): &(Value, Value)| fitted(&self.graph, a, b).as_ref() == Some(&output);
        let (a, b) = choices.into_iter().find(is_readable).unwrap_or((a, b));
        self.push(BinaryMap(function), &[a, b])
    }

    /// factor · a · b; what is multiplied by the constant 1 is only scaled.
    fn product(&mut self, factor: f64, a: Value, b: Value) -> Value {
        let shape = broadcast_shape(self.shape(a), self.shape(b)).expect("checked when recorded");
        for (one, other) in [(a, b), (b, a)] {
            if self.is_constant(one, 1.0) && shape == *self.shape(other) {
                return self.unary(UnaryMap { function: Unary::Identity, scale: factor, offset: 0.0 }, other);
            }
        }
        let [(scale_a, a), (scale_b, b)] = [a, b].map(|operand| self.scaled(operand));
        self.binary(Binary::Multiply { factor: factor * scale_a * scale_b }, a, b)
    }

    /// factor · a / b, by the `function` that has such a factor.
    fn quotient(&mut self, function: fn(f64) -> Binary, factor: f64, operands: [Value; 2]) -> Value {
        let [(scale_a, a), (scale_b, b)] = operands.map(|operand| self.scaled(operand));
        self.binary(function(factor * scale_a / scale_b), a, b)
    }

    /// p · a + q · b. Where these are sums and products themselves, or other values times a number, the sum is made of their
    /// terms in as few passes as possible.
    fn linear(&mut self, terms: [(f64, Value); 2]) -> Value {
        if let Some(sum) = self.sum_of_terms(terms) {
            return sum;
        }
        let [(p, a), (q, b)] = terms.map(|(factor, value)| {
            let (scale, value) = self.scaled(value);
            (factor * scale, value)
        });
        self.binary(Binary::Linear { p, q }, a, b)
    }

    /// The sum of the terms of two values, if there are products among them and one kernel broadcasts all of them.
    fn sum_of_terms(&mut self, values: [(f64, Value); 2]) -> Option<Value> {
        let shape = broadcast_shape(self.shape(values[0].1), self.shape(values[1].1)).ok()?;
        let mut terms = Terms::default();
        values.into_iter().for_each(|value| self.terms(value, &shape, &mut terms));
        if terms.products.len() > PRODUCTS {
            terms = Terms { products: Vec::new(), addends: vec![values[0]] };
            self.terms(values[1], &shape, &mut terms);
        }
        let Terms { mut products, addends } = terms;
        if products.is_empty() {
            return None;
        }
        let mut addends = self.merged(addends);
        if addends.len() > 1 && products.len() % 2 == 1 {
            let largest = (0..addends.len()).max_by_key(|&index| self.shape(addends[index].1).count())?;
            let ((factor, addend), one) = (addends.remove(largest), self.number(1.0));
            products.push((factor, [addend, one]));
        }
        let mut sum = addends.into_iter().reduce(|sum, addend| (1.0, self.linear([sum, addend])));
        for products in products.chunks(2) {
            let mut factors: Vec<f64> = products.iter().map(|(factor, _)| *factor).collect();
            let mut operands: Vec<Value> = products.iter().flat_map(|(_, operands)| *operands).collect();
            let (last, addend) = sum.unwrap_or_else(|| (1.0, self.number(0.0)));
            factors.push(last);
            operands.push(addend);
            let multiply_add = MultiplyAdd { factors, relu: false };
            let shapes: Vec<&Shape> = operands.iter().map(|&operand| self.shape(operand)).collect();
            multiply_add.shape(&shapes).ok()?;
            sum = Some((1.0, self.push(multiply_add, &operands)));
        }
        sum.map(|(_, sum)| sum).filter(|&sum| *self.shape(sum) == shape)
    }

    /// Adds what factor · value is the sum of.
    fn terms(&mut self, (factor, value): (f64, Value), shape: &Shape, terms: &mut Terms) {
        if self.is_constant(value, 0.0) {
            return;
        }
        let (scale, value) = self.scaled(value);
        let factor = factor * scale;
        // What is smaller than the sum is computed before it.
        if self.shape(value) == shape {
            if let Some((scale, product)) = self.factors(value) {
                return terms.products.push((factor * scale, product));
            }
            // Of a sum that is scaled the terms may be far larger than it is, and in a recurrence ever larger.
            if let Some((sum, inputs)) = self.computed_by::<MultiplyAdd>(value)
                && !sum.relu
                && factor.abs() == 1.0
            {
                let (factors, inputs) = (sum.factors.clone(), inputs.to_vec());
                for (operands, scale) in inputs.chunks(2).zip(factors) {
                    match *operands {
                        [a, b] => terms.products.push((factor * scale, [a, b])),
                        _ => self.terms((factor * scale, operands[0]), shape, terms),
                    }
                }
                return;
            }
        }
        terms.addends.push((factor, self.before_broadcast(value)));
    }

    /// The same sum of fewer addends: those of one shape are added to each other.
    fn merged(&mut self, addends: Vec<(f64, Value)>) -> Vec<(f64, Value)> {
        let mut merged: Vec<(f64, Value)> = Vec::new();
        for addend in addends {
            match merged.iter().position(|&(_, other)| self.shape(other) == self.shape(addend.1)) {
                Some(at) => merged[at] = (1.0, self.linear([merged[at], addend])),
                None => merged.push(addend),
            }
        }
        merged
    }

    /// The sum of a product reads the factors, and that of another value times a number is scaled afterwards, where it is
    /// smaller.
    fn sum(&mut self, sum: &Sum, x: Value) -> Value {
        let (scale, x) = self.scaled(x);
        if scale != 1.0 {
            let sum = self.sum(sum, x);
            return self.unary(UnaryMap { function: Unary::Identity, scale, offset: 0.0 }, sum);
        }
        match self.factors(x) {
            Some((scale, factors)) if factors.iter().all(|&factor| self.shape(factor) == self.shape(x)) => {
                let product = self.push(SumProduct { axes: sum.axes.clone() }, &factors);
                self.unary(UnaryMap { function: Unary::Identity, scale, offset: 0.0 }, product)
            }
            _ => self.push(sum.clone(), &[x]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tape after fusion, with its values by those of the tape.
    fn fused(tape: &Tape) -> (Tape, impl Fn(Value) -> Value) {
        let Fused { graph, values } = fuse(tape, &vec![true; tape.len()], DeviceClass::Gpu);
        (graph, move |value: Value| values[value.index()].unwrap())
    }

    #[test]
    fn affine_functions_are_read_through() {
        let mut t = Tape::new();
        let [x, y, row] = [[2, 3], [2, 3], [1, 3]].map(|shape| t.feed(&format!("{shape:?} {}", t.len()), shape));
        let doubled = t.scale(x, 2.0);
        let shifted = t.offset(doubled, 1.0);
        let negative = t.scale(shifted, -3.0);
        let root = t.unary(Unary::Exp, negative);
        let difference = t.sub(y, doubled);
        let sum = t.add(shifted, y);
        let wide = t.broadcast(row, &[2, 3].into());
        let wider = t.broadcast(wide, &[4, 2, 3].into());
        let broadcast = t.unary(Unary::Exp, wider);

        let (graph, of) = fused(&t);
        let node = |value: Value| graph.node(of(value));
        assert_eq!(node(root).inputs(), [of(x)]);
        assert_eq!(
            format!("{:?}", node(root).primitive().unwrap()),
            "UnaryMap { function: Exp, scale: -6.0, offset: -3.0 }"
        );
        assert_eq!(node(difference).inputs(), [of(y), of(x)]);
        // An offset is no factor.
        assert_eq!(node(sum).inputs(), [of(shifted), of(y)]);
        assert_eq!(graph.shape(of(broadcast))[..], [4, 2, 3]);
        let before = graph.node(node(broadcast).inputs()[0]);
        assert_eq!((&before.shape[..], before.inputs()), (&[1, 3][..], &[of(row)][..]));
    }

    #[test]
    fn a_function_of_broadcasts_is_taken_before_them() {
        let mut t = Tape::new();
        let [a, b] = ["a", "b"].map(|name| t.feed(name, [1, 3, 1]));
        let [wide_a, wide_b] = [a, b].map(|value| t.broadcast(value, &[4, 3, 5].into()));
        let product = t.mul(wide_a, wide_b);
        let (graph, of) = fused(&t);
        let small = graph.node(of(product)).inputs()[0];
        assert_eq!((&graph.shape(small)[..], graph.node(small).inputs()), (&[1, 3, 1][..], &[of(a), of(b)][..]));
    }

    #[test]
    fn the_gradient_of_a_square_is_one_product() {
        let mut t = Tape::new();
        let x = t.feed("x", [2, 3]);
        let square = t.mul(x, x);
        let sum = t.total(square);
        let gradient = t.grad(sum, &[x]).unwrap()[0];
        let (graph, of) = fused(&t);
        let node = graph.node(of(gradient));
        assert_eq!((node.label(), node.inputs()), ("elementwise/unary", &[of(x)][..]), "{graph}");
    }

    #[test]
    fn sums_of_products_take_as_few_passes_as_possible() {
        let mut t = Tape::new();
        let [a, b, c, d] = ["a", "b", "c", "d"].map(|name| t.feed(name, [4, 3, 5]));
        let [p, q, r, s] = ["p", "q", "r", "s"].map(|name| t.feed(name, [1, 3, 1]));
        let products = [(a, p), (b, q), (c, r), (d, s)].map(|(x, y)| t.mul(x, y));
        let one = t.add(products[0], r);
        let two = t.add(one, products[1]);
        let shifted = t.add(two, s);
        let four = t.add(products[2], products[3]);
        let four = t.add(shifted, four);
        let large = t.add(one, d);
        let rectified = t.relu(large);
        let half = t.scale(two, 0.5);
        let more = t.add(half, products[2]);
        let beyond = t.add(rectified, products[1]);

        let (graph, of) = fused(&t);
        let inputs = |value: Value| graph.node(of(value)).inputs().to_vec();
        // The channels' own addends are summed on their own.
        assert_eq!(inputs(one), [a, p, r].map(&of));
        assert_eq!(inputs(two), [a, p, b, q, r].map(&of));
        assert_eq!(inputs(shifted)[..4], [a, p, b, q].map(&of));
        let shift = inputs(shifted)[4];
        assert_eq!((graph.node(shift).inputs(), &graph.shape(shift)[..]), (&[r, s].map(&of)[..], &[1, 3, 1][..]));
        let inner = *inputs(four).last().unwrap();
        assert_eq!((inputs(four).len(), graph.node(inner).inputs().len()), (5, 5));
        assert_eq!(*graph.shape(graph.node(inner).inputs()[4]), *t.shape(p));
        // Of two addends, one has the place of a product.
        assert_eq!(inputs(large)[..3], [a, p, d].map(&of));
        assert_eq!(inputs(large)[4], of(r));
        assert_eq!(inputs(rectified), inputs(large));
        // What is rectified is no sum, and a sum that is scaled stays one.
        assert_eq!(inputs(more), [c, r, two].map(&of));
        assert_eq!(inputs(beyond), [b, q, rectified].map(&of));
    }

    #[test]
    fn equal_values_are_computed_once() {
        let mut t = Tape::new();
        let [x, w] = ["x", "w"].map(|name| t.feed(name, [4, 4]));
        let [one, same, turned] = [(x, w), (x, w), (w, x)].map(|(x, w)| t.matmul(x, w));
        let (_, of) = fused(&t);
        assert_eq!(of(one), of(same));
        assert_ne!(of(one), of(turned));
    }
}
