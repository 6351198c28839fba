//! An ONNX graph as it is written, node by node. A value is called by its name. Equal nodes and equal numbers are written once.

use super::proto::{
    AttributeProto, DimensionProto, FLOAT, GraphProto, INT, INT64, INTS, NodeProto, TensorProto, TensorShapeProto,
    TensorTypeProto, TypeProto, ValueInfoProto,
};

/// An operand of a node: a value, or numbers.
#[derive(Clone, Copy, Debug)]
pub enum Operand<'a> {
    Value(&'a str),
    /// A scalar.
    Float(f32),
    /// A scalar.
    Int(i64),
    Ints(&'a [i64]),
}

impl<'a> From<&'a str> for Operand<'a> {
    fn from(name: &'a str) -> Self {
        Operand::Value(name)
    }
}

impl<'a> From<&'a String> for Operand<'a> {
    fn from(name: &'a String) -> Self {
        Operand::Value(name)
    }
}

impl From<f32> for Operand<'_> {
    fn from(number: f32) -> Self {
        Operand::Float(number)
    }
}

impl From<i64> for Operand<'_> {
    fn from(number: i64) -> Self {
        Operand::Int(number)
    }
}

impl<'a, const LENGTH: usize> From<&'a [i64; LENGTH]> for Operand<'a> {
    fn from(numbers: &'a [i64; LENGTH]) -> Self {
        Operand::Ints(numbers)
    }
}

/// An attribute of a node.
#[derive(Clone, Debug)]
pub enum Attribute {
    Int(&'static str, i64),
    Ints(&'static str, Vec<i64>),
}

/// Nodes in the order of computation, and the numbers that they read.
#[derive(Debug, Default)]
pub struct Graph {
    nodes: Vec<NodeProto>,
    initializers: Vec<TensorProto>,
    /// Those that a runtime may replace.
    replaceable: Vec<TensorProto>,
    /// Begins the names of new nodes and values.
    pub scope: String,
}

impl Graph {
    /// A node with one output, which it returns.
    pub fn node(&mut self, op: &str, operands: &[Operand], attributes: &[Attribute]) -> String {
        let output = self.new_name(op);
        let new = self.made(&output, op, operands, attributes);
        let is_equal =
            |old: &&NodeProto| old.op_type == new.op_type && old.input == new.input && old.attribute == new.attribute;
        match self.nodes.iter().find(is_equal) {
            Some(old) => old.name.clone(),
            None => {
                self.nodes.push(new);
                output
            }
        }
    }

    /// A new node whose output has this name.
    pub fn node_as(&mut self, output: &str, op: &str, operands: &[Operand], attributes: &[Attribute]) {
        let new = self.made(output, op, operands, attributes);
        self.nodes.push(new);
    }

    fn made(&mut self, output: &str, op: &str, operands: &[Operand], attributes: &[Attribute]) -> NodeProto {
        let input = operands.iter().map(|&operand| match operand {
            Operand::Value(name) => name.to_owned(),
            Operand::Float(number) => self.floats("number", &[], &[number]),
            Operand::Int(number) => self.ints(&[], &[number]),
            Operand::Ints(numbers) => self.ints(&[numbers.len()], numbers),
        });
        let input = input.collect();
        let attribute = attributes.iter().map(|attribute| match attribute {
            &Attribute::Int(name, i) => AttributeProto { name: name.into(), r#type: INT, i: Some(i), ints: Vec::new() },
            Attribute::Ints(name, ints) => {
                AttributeProto { name: (*name).into(), r#type: INTS, i: None, ints: ints.clone() }
            }
        });
        let attribute = attribute.collect();
        NodeProto { input, output: vec![output.into()], name: output.into(), op_type: op.into(), attribute }
    }

    /// f(x)
    pub fn unary<'a>(&mut self, op: &str, x: impl Into<Operand<'a>>) -> String {
        self.node(op, &[x.into()], &[])
    }

    /// f(a, b)
    pub fn binary<'a>(&mut self, op: &str, a: impl Into<Operand<'a>>, b: impl Into<Operand<'a>>) -> String {
        self.node(op, &[a.into(), b.into()], &[])
    }

    /// Numbers of this shape, called by what they are.
    pub fn floats(&mut self, what: &str, dims: &[usize], numbers: &[f32]) -> String {
        let new = floats(self.new_name(what), dims, numbers);
        self.initialised(new)
    }

    /// A number of this name, to which a runtime may give another value.
    pub fn replaceable(&mut self, name: &str, number: f32) {
        self.replaceable.push(floats(name.into(), &[], &[number]));
    }

    fn ints(&mut self, dims: &[usize], numbers: &[i64]) -> String {
        let raw_data = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        let dims = dims.iter().map(|&extent| extent as i64).collect();
        let new = TensorProto { name: self.new_name("number"), data_type: INT64, dims, raw_data };
        self.initialised(new)
    }

    /// The name of these numbers, or of equal ones.
    fn initialised(&mut self, new: TensorProto) -> String {
        let is_equal =
            |old: &&TensorProto| old.data_type == new.data_type && old.dims == new.dims && old.raw_data == new.raw_data;
        match self.initializers.iter().find(is_equal) {
            Some(old) => old.name.clone(),
            None => {
                let name = new.name.clone();
                self.initializers.push(new);
                name
            }
        }
    }

    fn new_name(&self, what: &str) -> String {
        let number = self.nodes.len() + self.initializers.len();
        let slash = if self.scope.is_empty() { "" } else { "/" };
        format!("{}{slash}{what}_{number}", self.scope)
    }

    /// The whole graph.
    pub fn finish(self, name: &str, input: Vec<ValueInfoProto>, output: Vec<ValueInfoProto>) -> GraphProto {
        let initializer = [self.initializers, self.replaceable].concat();
        GraphProto { node: self.nodes, name: name.into(), initializer, input, output }
    }
}

fn floats(name: String, dims: &[usize], numbers: &[f32]) -> TensorProto {
    let raw_data = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    let dims = dims.iter().map(|&extent| extent as i64).collect();
    TensorProto { name, data_type: FLOAT, dims, raw_data }
}

/// An input or an output of a graph. An extent is a number, or the name of one that is known at run time.
pub fn value_info(name: &str, elem_type: i32, extents: &[&str], about: &str) -> ValueInfoProto {
    let dim = extents.iter().map(|extent| match extent.parse() {
        Ok(number) => DimensionProto { dim_value: Some(number), dim_param: None },
        Err(_) => DimensionProto { dim_value: None, dim_param: Some((*extent).into()) },
    });
    let shape = Some(TensorShapeProto { dim: dim.collect() });
    let tensor_type = Some(TensorTypeProto { elem_type, shape });
    ValueInfoProto { name: name.into(), r#type: Some(TypeProto { tensor_type }), doc_string: about.into() }
}
