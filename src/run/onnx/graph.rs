//! An ONNX graph as it is written, node by node. A value is called by its name.

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
    /// Begins the names of new nodes and values.
    pub scope: String,
}

impl Graph {
    /// A new node with one output, which it returns.
    pub fn node(&mut self, op: &str, operands: &[Operand], attributes: &[Attribute]) -> String {
        let output = self.new_name(op);
        self.node_as(&output, op, operands, attributes);
        output
    }

    /// A new node whose output has this name.
    pub fn node_as(&mut self, output: &str, op: &str, operands: &[Operand], attributes: &[Attribute]) {
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
        let node = NodeProto { input, output: vec![output.into()], name: output.into(), op_type: op.into(), attribute };
        self.nodes.push(node);
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
        let name = self.new_name(what);
        self.floats_as(&name, dims, numbers);
        name
    }

    /// Numbers of this name and shape.
    pub fn floats_as(&mut self, name: &str, dims: &[usize], numbers: &[f32]) {
        let bytes = numbers.iter().flat_map(|number| number.to_le_bytes());
        self.initialise(name, FLOAT, dims, bytes.collect());
    }

    fn ints(&mut self, dims: &[usize], numbers: &[i64]) -> String {
        let name = self.new_name("number");
        let bytes = numbers.iter().flat_map(|number| number.to_le_bytes());
        self.initialise(&name, INT64, dims, bytes.collect());
        name
    }

    fn initialise(&mut self, name: &str, data_type: i32, dims: &[usize], raw_data: Vec<u8>) {
        let dims = dims.iter().map(|&extent| extent as i64).collect();
        self.initializers.push(TensorProto { name: name.into(), data_type, dims, raw_data });
    }

    fn new_name(&self, what: &str) -> String {
        let number = self.nodes.len() + self.initializers.len();
        let slash = if self.scope.is_empty() { "" } else { "/" };
        format!("{}{slash}{what}_{number}", self.scope)
    }

    /// The whole graph.
    pub fn finish(self, name: &str, input: Vec<ValueInfoProto>, output: Vec<ValueInfoProto>) -> GraphProto {
        GraphProto { node: self.nodes, name: name.into(), initializer: self.initializers, input, output }
    }
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
