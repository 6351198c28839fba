//! From the tensors of a file to the bytes of buffers, and to what is expected of them.

use std::collections::BTreeSet;

use half::f16;
use naga::{Handle, Type};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::interface::{Interface, Number, Space, Variable};
use super::{Buffer, Expected, Tolerance, Value};
use crate::engine::gpu::Access;
use crate::engine::tensor::Shape;

/// What follows the name of a variable in the names of tensors.
const AFTER: &str = ".after";
const TOLERANCE: &str = ".tolerance";

/// Reads a file for an interface.
pub struct Reader<'a> {
    interface: &'a Interface,
    tensors: SafeTensors<'a>,
    tolerance: Option<Tolerance>,
    buffers: Vec<Buffer>,
    values: Vec<Value>,
    /// Names of tensors that were read.
    read: BTreeSet<String>,
    /// Names of what the file says nothing of.
    missing: Vec<String>,
}

impl<'a> Reader<'a> {
    pub fn new(interface: &'a Interface, tensors: SafeTensors<'a>, tolerance: Option<Tolerance>) -> Reader<'a> {
        let (buffers, values, missing) = (Vec::new(), Vec::new(), Vec::new());
        Reader { interface, tensors, tolerance, buffers, values, read: BTreeSet::new(), missing }
    }

    /// The variables of the interface, in its order, and their values.
    ///
    /// # Errors
    /// A sentence on what does not fit.
    pub fn read(mut self, entry: &str) -> Result<(Vec<Buffer>, Vec<Value>), String> {
        let interface = self.interface;
        for variable in &interface.variables {
            self.variable(variable)?;
        }
        let mut names: Vec<&str> = self.tensors.names();
        names.sort_unstable();
        let quoted = |names: &[&str]| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        if !self.missing.is_empty() {
            let missing: Vec<&str> = self.missing.iter().map(String::as_str).collect();
            return Err(format!(
                "`{entry}` uses {}, of which there is no tensor; those there are: {}",
                quoted(&missing),
                quoted(&names)
            ));
        }
        // Structs whose members are given may end with padding.
        for (Variable { ty, .. }, Buffer { bytes, .. }) in interface.variables.iter().zip(&mut self.buffers) {
            bytes.resize(bytes.len().max(interface.bytes(*ty) as usize), 0);
        }
        if let Some(Buffer { name, bytes, .. }) = self.buffers.iter().find(|it| !it.bytes.len().is_multiple_of(4)) {
            return Err(format!(
                "`{name}` takes {} bytes, and WebGPU binds whole words: give it an even number of elements",
                bytes.len()
            ));
        }
        // What another entry point reads may be there; what is expected of it cannot hold.
        let is_others = |name: &str| {
            let holds = |other: &String| {
                name.strip_prefix(other.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            };
            interface.others.iter().any(holds) && !name.ends_with(AFTER)
        };
        if let Some(name) = names.iter().find(|name| !self.read.contains(**name) && !is_others(name)) {
            let used: Vec<&str> = interface.variables.iter().map(|it| it.name.as_str()).collect();
            return Err(format!(
                "the tensor `{name}` is of nothing that `{entry}` uses, which is {}: a tensor is named NAME, NAME{AFTER} or \
                 NAME{TOLERANCE}",
                quoted(&used)
            ));
        }
        if self.values.iter().all(|value| value.expected.is_none()) {
            return Err(format!("there is nothing to compare: name what an output is to hold NAME{AFTER}"));
        }
        Ok((self.buffers, self.values))
    }

    fn variable(&mut self, Variable { name, space, ty, .. }: &Variable) -> Result<(), String> {
        self.buffers.push(Buffer { name: name.clone(), space: *space, bytes: Vec::new() });
        self.value(name, *ty, 0)
    }

    /// That of the variable that is being read.
    fn buffer(&mut self) -> &mut Buffer {
        self.buffers.last_mut().expect("it was pushed before its values")
    }

    /// The value of this name, or those of its members.
    fn value(&mut self, name: &str, ty: Handle<Type>, first: u64) -> Result<(), String> {
        let given = self.take(name);
        let after = self.take(&format!("{name}{AFTER}"));
        let Some(either) = after.as_ref().or(given.as_ref()) else {
            match self.interface.members(ty) {
                Some(members) => members
                    .into_iter()
                    .try_for_each(|(member, ty, offset)| self.value(&format!("{name}.{member}"), ty, first + offset))?,
                None => self.missing.push(name.to_owned()),
            }
            return Ok(());
        };
        let number = self.interface.number(ty).map_err(|types| match self.interface.members(ty) {
            Some(members) => {
                let names: Vec<String> = members.iter().map(|(member, ..)| format!("`{name}.{member}`")).collect();
                format!("`{name}` has {types}: give its members one by one, as {}", names.join(", "))
            }
            None => format!("`{name}` has {types}: only arrays of f32, f16, i32 or u32 alone can be given"),
        })?;
        let shape = Shape::from(either.shape());
        let count = shape.count();
        let (places, end) = self.interface.places(ty, first, count as u64).map_err(|takes| {
            format!("`{name}` has {count} elements, of shape {:?}, where the shader takes {takes}", either.shape())
        })?;
        if let Some(given) = &given {
            let (has, takes) = (given.dtype(), dtype(number));
            if has != takes {
                let (takes, numpy) = (number.name(), numpy(number));
                return Err(format!(
                    "`{name}` is {has}, and the shader has {takes}: write it as {name}.astype(numpy.{numpy})"
                ));
            }
            let other = given.shape().iter().product::<usize>();
            if other != count {
                return Err(format!("`{name}` has {other} elements, and `{name}{AFTER}` {count}"));
            }
        }
        let bytes = &mut self.buffer().bytes;
        bytes.resize(bytes.len().max(end as usize), 0);
        if let Some(given) = &given {
            for (place, number) in places.iter().zip(given.data().chunks_exact(number.bytes())) {
                let at = *place as usize;
                bytes[at..at + number.len()].copy_from_slice(number);
            }
        }
        let is_writable = matches!(self.buffer().space, Space::Buffer { access: Access::ReadWrite, .. });
        let expected = match &after {
            Some(_) if !is_writable => {
                return Err(format!("there is `{name}{AFTER}`, and the shader only reads `{name}`"));
            }
            Some(after) => Some(self.expected(name, number, after)?),
            None => None,
        };
        let is_given = given.is_some();
        let buffer = self.buffers.len() - 1;
        self.values.push(Value { name: name.to_owned(), number, shape, buffer, places, is_given, expected });
        Ok(())
    }

    fn expected(&mut self, name: &str, number: Number, after: &TensorView) -> Result<Expected, String> {
        let is_fitting = match after.dtype() {
            Dtype::F16 | Dtype::F32 | Dtype::F64 => number.is_float(),
            Dtype::I32 | Dtype::U32 | Dtype::I64 => !number.is_float(),
            _ => false,
        };
        if !is_fitting {
            let (has, takes) = (after.dtype(), number.name());
            return Err(format!("`{name}{AFTER}` is {has}, and the shader has {takes}"));
        }
        let want = numbers(after);
        if let Some(given) = self.take(&format!("{name}{TOLERANCE}")) {
            let wrong = |what: &str| Err(format!("`{name}{TOLERANCE}` {what}"));
            if !matches!(given.dtype(), Dtype::F16 | Dtype::F32 | Dtype::F64) {
                return wrong(&format!("is {}: tolerances are floats", given.dtype()));
            }
            let mut tolerance = numbers(&given);
            if tolerance.iter().any(|it| !it.is_finite() || *it < 0.0) {
                return wrong("has an element that is not finite, or negative");
            }
            if tolerance.len() == 1 {
                tolerance = vec![tolerance[0]; want.len()];
            }
            if tolerance.len() != want.len() {
                return wrong(&format!("has {} elements, neither 1 nor {}", tolerance.len(), want.len()));
            }
            return Ok(Expected { want, tolerance, bound: format!("{name}{TOLERANCE}") });
        }
        let tolerance = match number {
            Number::I32 | Number::U32 => Tolerance::NONE,
            Number::F32 => self.tolerance.unwrap_or(Tolerance::F32),
            Number::F16 => self.tolerance.unwrap_or(Tolerance::F16),
        };
        let bound = tolerance.to_string();
        Ok(Expected { tolerance: want.iter().map(|want| tolerance.of(*want)).collect(), want, bound })
    }

    fn take(&mut self, name: &str) -> Option<TensorView<'a>> {
        let tensor = self.tensors.tensor(name).ok()?;
        self.read.insert(name.to_owned());
        Some(tensor)
    }
}

fn dtype(number: Number) -> Dtype {
    match number {
        Number::F32 => Dtype::F32,
        Number::F16 => Dtype::F16,
        Number::I32 => Dtype::I32,
        Number::U32 => Dtype::U32,
    }
}

fn numpy(number: Number) -> &'static str {
    match number {
        Number::F32 => "float32",
        Number::F16 => "float16",
        Number::I32 => "int32",
        Number::U32 => "uint32",
    }
}

/// The elements of a tensor of one of the types that outputs and tolerances may have.
fn numbers(tensor: &TensorView) -> Vec<f64> {
    let data = tensor.data();
    match tensor.dtype() {
        Dtype::F16 => data.as_chunks().0.iter().map(|&it| f16::from_le_bytes(it).to_f64()).collect(),
        Dtype::F32 => data.as_chunks().0.iter().map(|&it| f64::from(f32::from_le_bytes(it))).collect(),
        Dtype::F64 => data.as_chunks().0.iter().map(|&it| f64::from_le_bytes(it)).collect(),
        Dtype::I32 => data.as_chunks().0.iter().map(|&it| f64::from(i32::from_le_bytes(it))).collect(),
        Dtype::U32 => data.as_chunks().0.iter().map(|&it| f64::from(u32::from_le_bytes(it))).collect(),
        Dtype::I64 => data.as_chunks().0.iter().map(|&it| i64::from_le_bytes(it) as f64).collect(),
        other => unreachable!("{other} is refused before"),
    }
}
