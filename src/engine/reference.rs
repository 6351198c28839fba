//! The f64 interpreter of a tape: slow and plain; every kernel is compared with it.

use std::collections::HashMap;

use crate::engine::tape::{Array, Origin, Tape, Value};

/// Values of a tape in f64, computed on demand.
#[derive(Debug)]
pub struct Reference<'a> {
    tape: &'a Tape,
    /// Feeds and states by name.
    sources: &'a HashMap<String, Vec<f64>>,
    values: Vec<Option<Vec<f64>>>,
}

/// A feed or state that the caller did not supply, or supplied with the wrong number of elements.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("source `{name}` needs {needed} elements, {given:?} were given")]
pub struct SourceError {
    pub name: String,
    pub needed: usize,
    pub given: Option<usize>,
}

impl<'a> Reference<'a> {
    pub fn new(tape: &'a Tape, sources: &'a HashMap<String, Vec<f64>>) -> Self {
        Reference { tape, sources, values: vec![None; tape.len()] }
    }

    /// The value of `wanted`, row-major.
    ///
    /// # Errors
    /// When a source that it depends on is missing or of the wrong size.
    ///
    /// # Panics
    /// When `wanted` belongs to another tape.
    pub fn eval(&mut self, wanted: Value) -> Result<&[f64], SourceError> {
        self.tape.node(wanted);
        let mut needed = vec![false; wanted.index() + 1];
        needed[wanted.index()] = true;
        let nodes: Vec<_> = self.tape.iter().take(wanted.index() + 1).collect();
        for (value, node) in nodes.iter().rev() {
            if needed[value.index()] && self.values[value.index()].is_none() {
                node.inputs().iter().for_each(|input| needed[input.index()] = true);
            }
        }
        for (value, node) in nodes {
            if !needed[value.index()] || self.values[value.index()].is_some() {
                continue;
            }
            let data = match &node.origin {
                Origin::Feed(name) | Origin::State(name) => {
                    let given = self.sources.get(&**name);
                    let fits = given.filter(|data| data.len() == node.shape.count());
                    fits.cloned().ok_or_else(|| SourceError {
                        name: name.to_string(),
                        needed: node.shape.count(),
                        given: given.map(Vec::len),
                    })?
                }
                Origin::Constant(tensor) => tensor.data().iter().map(|&x| f64::from(x)).collect(),
                Origin::Applied { primitive, inputs } => {
                    let arrays: Vec<Array> = inputs
                        .iter()
                        .map(|&input| Array {
                            shape: self.tape.shape(input),
                            data: self.values[input.index()].as_deref().expect("inputs come first"),
                        })
                        .collect();
                    primitive.eval(&arrays, &node.shape)
                }
            };
            self.values[value.index()] = Some(data);
        }
        Ok(self.values[wanted.index()].as_deref().expect("just computed"))
    }
}
