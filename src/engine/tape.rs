//! The tape: an append-only list of primitives applied to earlier values.
//!
//! A backward rule records ordinary primitives, so a gradient is more tape and a gradient of a gradient needs nothing
//! new. The tape holds no buffers and knows no device: a [`Plan`](crate::engine::plan::Plan) of it runs on the GPU, and
//! [`reference`](crate::engine::reference) evaluates it in f64.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::engine::tensor::{Shape, Tensor};

/// A value on a tape: which tape, and the index of the node that defines it. Values of different tapes are never equal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value {
    tape: u32,
    index: u32,
}

impl Value {
    /// Position on the tape; earlier values have smaller indices.
    pub fn index(self) -> usize {
        self.index as usize
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "%{}", self.index)
    }
}

/// An f64 array as the reference evaluation sees it.
#[derive(Clone, Copy, Debug)]
pub struct Array<'a> {
    pub shape: &'a Shape,
    pub data: &'a [f64],
}

/// The arithmetic of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arithmetic {
    /// f32 throughout.
    F32,
    /// Factors rounded to f16, products summed on matrix units. Primitives without such a kernel compute in f32.
    MatrixUnits,
}

/// The result of a backward rule for one input of a primitive.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cotangent {
    /// The recorded cotangent, of the input's shape.
    Of(Value),
    /// The output is piecewise constant in this input: an index, a seed, one side of a comparison.
    None,
    /// The output is stationary at the only valid value of this input, though not constant.
    Stationary,
    /// A derivative exists but has no rule. An error if the backward pass needs it.
    Missing,
}

/// One application of a primitive, as its backward rule sees it.
#[derive(Clone, Copy, Debug)]
pub struct Application<'a> {
    pub inputs: &'a [Value],
    pub output: Value,
    /// Cotangent of the output, of the output's shape.
    pub cotangent: Value,
}

/// An operation as mathematics: a shape rule, a backward rule, an f64 definition and an error bound.
pub trait Primitive: fmt::Debug + Any + Send + Sync {
    /// `family/role`: the shader's path, and the label in plans, profiles and tests.
    fn name(&self) -> &'static str;

    /// What the parentheses of its [case](crate::engine::case::Case)'s name hold at these inputs, such as `x=5x13x7,from=1,to=2`;
    /// `None` if it has no case.
    fn parameters(&self, _inputs: &[&Shape]) -> Option<String> {
        None
    }

    /// Shape of the output.
    ///
    /// # Errors
    /// A sentence that names the mismatch.
    fn shape(&self, inputs: &[&Shape]) -> Result<Shape, String>;

    /// Records the cotangent of each input, using tape methods only.
    fn vjp(&self, tape: &mut Tape, at: Application) -> Vec<Cotangent>;

    /// The definition, in plain f64 loops. The kernel is right when it agrees with this.
    fn eval(&self, inputs: &[Array], output: &Shape) -> Vec<f64>;

    /// For each element of the output, the largest error of a kernel that evaluates [`eval`](Primitive::eval) on these
    /// inputs, derived from WGSL's accuracy rules; see [`bounds`](crate::engine::bounds).
    fn bound(&self, inputs: &[Array], output: &Shape, arithmetic: Arithmetic) -> Vec<f64>;

    /// The [`eval`](Primitive::eval) and [`bound`](Primitive::bound) of these elements of the output alone. What sums many
    /// terms for each element overrides it.
    fn sample(&self, inputs: &[Array], output: &Shape, arithmetic: Arithmetic, elements: &[usize]) -> [Vec<f64>; 2] {
        let whole = [self.eval(inputs, output), self.bound(inputs, output, arithmetic)];
        whole.map(|all| elements.iter().map(|&element| all[element]).collect())
    }
}

/// The origin of a value.
#[derive(Clone, Debug)]
pub enum Origin {
    /// Supplied by the caller before each run.
    Feed(Arc<str>),
    /// Kept on the device between runs, under this name.
    State(Arc<str>),
    /// Fixed when recorded.
    Constant(Arc<Tensor>),
    /// Computed.
    Applied { primitive: Arc<dyn Primitive>, inputs: Vec<Value> },
}

/// A tape entry.
#[derive(Clone, Debug)]
pub struct Node {
    pub origin: Origin,
    pub shape: Shape,
    /// Dotted path of the scopes it was recorded in: `inner.encoder.block2`.
    pub scope: Arc<str>,
    /// The node whose backward rule recorded this one.
    pub primal: Option<Value>,
    /// Backward passes between the forward computation and this node: 1 for a gradient, 2 for a gradient of a gradient.
    pub order: usize,
}

impl Node {
    /// Values this node reads; none for a source.
    pub fn inputs(&self) -> &[Value] {
        match &self.origin {
            Origin::Applied { inputs, .. } => inputs,
            _ => &[],
        }
    }

    /// The primitive, for a computed value.
    pub fn primitive(&self) -> Option<&dyn Primitive> {
        match &self.origin {
            Origin::Applied { primitive, .. } => Some(primitive.as_ref()),
            _ => None,
        }
    }

    /// The primitive's name, or the kind of source.
    pub fn label(&self) -> &str {
        match &self.origin {
            Origin::Feed(_) => "feed",
            Origin::State(_) => "state",
            Origin::Constant(_) => "constant",
            Origin::Applied { primitive, .. } => primitive.name(),
        }
    }
}

/// Why a gradient could not be recorded.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum GradError {
    #[error("`{primitive}` at {value:?} (scope `{scope}`) has no rule for the cotangent of input {input}")]
    MissingRule { primitive: &'static str, value: Value, scope: String, input: usize },
    #[error("{of:?} does not depend on {wrt:?}, so there is no gradient to take")]
    Independent { of: Value, wrt: Value },
}

/// An append-only list of primitives applied to earlier values.
///
/// Every tape has its own values. A method given a value of another tape panics: this is a fault of the recording code,
/// and must not silently mean another node.
#[derive(Debug)]
pub struct Tape {
    id: u32,
    nodes: Vec<Node>,
    scope: Arc<str>,
    primal: Option<Value>,
    order: usize,
}

/// Tapes made so far by this process.
static TAPES: AtomicU32 = AtomicU32::new(0);

impl Default for Tape {
    fn default() -> Self {
        Tape {
            id: TAPES.fetch_add(1, Ordering::Relaxed),
            nodes: Vec::new(),
            scope: Arc::default(),
            primal: None,
            order: 0,
        }
    }
}

impl Tape {
    pub fn new() -> Self {
        Self::default()
    }

    fn value(&self, index: usize) -> Value {
        Value { tape: self.id, index: u32::try_from(index).expect("a tape has fewer than 2³² nodes") }
    }

    /// Applies `primitive` to `inputs`.
    ///
    /// # Panics
    /// When the inputs' shapes do not fit the primitive, or are empty: a fault of the recording code.
    pub fn push(&mut self, primitive: impl Primitive + 'static, inputs: &[Value]) -> Value {
        self.apply(Arc::new(primitive), inputs)
    }

    /// As [`push`](Tape::push), for a shared primitive.
    ///
    /// # Panics
    /// When the inputs' shapes do not fit the primitive, or are empty.
    pub fn apply(&mut self, primitive: Arc<dyn Primitive>, inputs: &[Value]) -> Value {
        let shapes: Vec<&Shape> = inputs.iter().map(|&value| self.shape(value)).collect();
        let shape = match primitive.shape(&shapes) {
            Ok(shape) => shape,
            Err(reason) => panic!("{} in scope `{}`: {reason}", primitive.name(), self.scope),
        };
        self.append(Origin::Applied { primitive, inputs: inputs.to_vec() }, shape)
    }

    /// A value that the caller supplies before each run, under a name unique on this tape.
    pub fn feed(&mut self, name: &str, shape: impl Into<Shape>) -> Value {
        self.append(Origin::Feed(name.into()), shape.into())
    }

    /// A value kept on the device between runs, under a name unique on this tape. A plan's carries update it.
    pub fn state(&mut self, name: &str, shape: impl Into<Shape>) -> Value {
        self.append(Origin::State(name.into()), shape.into())
    }

    /// A constant.
    pub fn constant(&mut self, tensor: Tensor) -> Value {
        let shape = tensor.shape().clone();
        self.append(Origin::Constant(Arc::new(tensor)), shape)
    }

    /// Records the following nodes in place of `node` of another tape: in its scope and at its order, with the primal
    /// `primal`.
    pub(crate) fn in_place_of(&mut self, node: &Node, primal: Option<Value>) {
        (self.scope, self.primal, self.order) = (node.scope.clone(), primal, node.order);
    }

    fn append(&mut self, origin: Origin, shape: Shape) -> Value {
        assert!(shape.count() > 0, "an empty value of shape {shape:?} in scope `{}`", self.scope);
        let value = self.value(self.nodes.len());
        self.nodes.push(Node { origin, shape, scope: self.scope.clone(), primal: self.primal, order: self.order });
        value
    }

    /// Records `body` under the scope `name`, nested in the current one.
    pub fn scope<T>(&mut self, name: &str, body: impl FnOnce(&mut Tape) -> T) -> T {
        let nested = if self.scope.is_empty() { name.into() } else { format!("{}.{name}", self.scope).into() };
        let outer = std::mem::replace(&mut self.scope, nested);
        let result = body(self);
        self.scope = outer;
        result
    }

    /// # Panics
    /// When the value belongs to another tape.
    pub fn shape(&self, value: Value) -> &Shape {
        &self.node(value).shape
    }

    /// # Panics
    /// When the value belongs to another tape.
    pub fn node(&self, value: Value) -> &Node {
        assert_eq!(value.tape, self.id, "{value:?} is a value of another tape");
        &self.nodes[value.index()]
    }

    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// All values with their nodes, in the order of recording.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (Value, &Node)> {
        self.nodes.iter().enumerate().map(|(index, node)| (self.value(index), node))
    }

    /// Gradient of the scalar `of` with respect to each of `wrt`, recorded as ordinary nodes.
    ///
    /// # Errors
    /// When a rule on the path is missing, or `of` does not depend on one of `wrt`.
    ///
    /// # Panics
    /// When `of` has more than one element.
    pub fn grad(&mut self, of: Value, wrt: &[Value]) -> Result<Vec<Value>, GradError> {
        let shape = self.shape(of).clone();
        assert_eq!(shape.count(), 1, "grad() takes a scalar, {of:?} has shape {shape:?}; see grad_of_sum()");
        self.grad_of_sum(of, wrt)
    }

    /// Gradient of the sum of the elements of `of` with respect to each of `wrt`.
    ///
    /// # Errors
    /// As [`grad`](Tape::grad).
    pub fn grad_of_sum(&mut self, of: Value, wrt: &[Value]) -> Result<Vec<Value>, GradError> {
        let ones = self.constant(Tensor::full(self.shape(of).clone(), 1.0));
        self.pull_back(of, ones, wrt)
    }

    /// Pulls `cotangent`, of the shape of `of`, back to each of `wrt`: the vector-Jacobian product.
    ///
    /// # Errors
    /// As [`grad`](Tape::grad).
    ///
    /// # Panics
    /// When the shapes of `of` and `cotangent` differ, or one of `wrt` belongs to another tape.
    pub fn pull_back(&mut self, of: Value, cotangent: Value, wrt: &[Value]) -> Result<Vec<Value>, GradError> {
        assert_eq!(self.shape(of), self.shape(cotangent), "a cotangent has the shape of its primal");
        let end = of.index() + 1;

        let mut on_path = vec![false; end];
        for &value in wrt {
            self.node(value);
            if value.index() < end {
                on_path[value.index()] = true;
            }
        }
        for index in 0..end {
            on_path[index] |= self.nodes[index].inputs().iter().any(|input| on_path[input.index()]);
        }

        let mut cotangents: Vec<Option<Value>> = vec![None; end];
        cotangents[of.index()] = Some(cotangent);
        let outer = (self.scope.clone(), self.primal, self.order);
        let swept = self.sweep(&on_path, &mut cotangents);
        (self.scope, self.primal, self.order) = outer;
        swept?;

        wrt.iter()
            .map(|&value| {
                let cotangent = cotangents.get(value.index()).copied().flatten();
                cotangent.ok_or(GradError::Independent { of, wrt: value })
            })
            .collect()
    }

    /// Visits the nodes backwards from the last; the tape is in topological order by construction.
    fn sweep(&mut self, on_path: &[bool], cotangents: &mut [Option<Value>]) -> Result<(), GradError> {
        for index in (0..on_path.len()).rev() {
            let (true, Some(cotangent)) = (on_path[index], cotangents[index]) else { continue };
            let node = self.nodes[index].clone();
            let Origin::Applied { primitive, inputs } = node.origin else { continue };
            let output = self.value(index);
            (self.scope, self.primal, self.order) = (node.scope, Some(output), node.order + 1);

            let pulled = primitive.vjp(self, Application { inputs: &inputs, output, cotangent });
            assert_eq!(pulled.len(), inputs.len(), "{}: one cotangent per input", primitive.name());
            for (position, (&input, pulled)) in inputs.iter().zip(pulled).enumerate() {
                if !on_path[input.index()] {
                    continue;
                }
                match pulled {
                    Cotangent::Of(value) => {
                        assert_eq!(self.shape(value), self.shape(input), "{}: cotangent's shape", primitive.name());
                        let sum = match cotangents[input.index()] {
                            Some(earlier) => self.add(earlier, value),
                            None => value,
                        };
                        cotangents[input.index()] = Some(sum);
                    }
                    Cotangent::None | Cotangent::Stationary => {}
                    Cotangent::Missing => {
                        let (primitive, scope) = (primitive.name(), self.scope.to_string());
                        return Err(GradError::MissingRule { primitive, value: output, scope, input: position });
                    }
                }
            }
        }
        Ok(())
    }
}

/// Prints the tape as equations: `%61: [64, 128] = matmul(%57, %12)   # inner.head`.
impl fmt::Display for Tape {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for (value, node) in self.iter() {
            write!(f, "{value:?}: {:?} = ", node.shape)?;
            match &node.origin {
                Origin::Feed(name) => write!(f, "feed {name}")?,
                Origin::State(name) => write!(f, "state {name}")?,
                Origin::Constant(_) => write!(f, "constant")?,
                Origin::Applied { primitive, inputs } => {
                    let inputs: Vec<String> = inputs.iter().map(|input| format!("{input:?}")).collect();
                    write!(f, "{primitive:?}({})", inputs.join(", "))?;
                }
            }
            if !node.scope.is_empty() {
                write!(f, "   # {}", node.scope)?;
            }
            if let Some(primal) = node.primal {
                write!(f, " ← {primal:?}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_two_tapes_are_never_equal() {
        let (mut one, mut other) = (Tape::new(), Tape::new());
        let (x, y) = (one.feed("x", [2]), other.feed("x", [2]));
        assert_eq!((x.index(), format!("{x:?}")), (y.index(), format!("{y:?}")));
        assert_ne!(x, y);
    }

    #[test]
    fn a_value_of_another_tape_is_refused() {
        let uses: [fn(&mut Tape, Value, Value); 4] = [
            |t, x, stray| _ = t.add(x, stray),
            |t, _, stray| _ = t.shape(stray),
            |t, x, stray| _ = t.grad_of_sum(x, &[stray]),
            |t, _, stray| _ = t.concat(0, &[stray, stray]),
        ];
        for record in uses {
            let refused = std::panic::catch_unwind(|| {
                let (mut one, mut other) = (Tape::new(), Tape::new());
                let (x, stray) = (one.feed("x", [2]), other.feed("y", [2]));
                record(&mut one, x, stray);
            });
            let message = refused.expect_err("another tape's value is accepted");
            let message = message.downcast_ref::<String>().expect("a formatted message");
            assert!(message.contains("%0 is a value of another tape"), "{message}");
        }
    }
}
