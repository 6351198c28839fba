//! What a compute kernel takes from outside: its buffers and immediates, and where the scalars of each lie.

use naga::proc::{Alignment, IndexableLength};
use naga::valid::{Capabilities, GlobalUse};
use naga::{AddressSpace, ArraySize, Handle, Module, Scalar, ShaderStage, StorageAccess, Type, TypeInner};

use crate::engine::gpu::{Access, Need};
use crate::proof::sanitizer::{Launched, Refusal, Trial, constants, parse, specialised};

/// A type of scalars that buffers hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    F32,
    F16,
    I32,
    U32,
}

impl Number {
    fn of(scalar: Scalar) -> Option<Number> {
        match scalar {
            Scalar::F32 => Some(Number::F32),
            Scalar::F16 => Some(Number::F16),
            Scalar::I32 => Some(Number::I32),
            Scalar::U32 => Some(Number::U32),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Number::F32 => "f32",
            Number::F16 => "f16",
            Number::I32 => "i32",
            Number::U32 => "u32",
        }
    }

    pub fn bytes(self) -> usize {
        if self == Number::F16 { 2 } else { 4 }
    }

    pub fn is_float(self) -> bool {
        matches!(self, Number::F32 | Number::F16)
    }
}

/// Where a variable's bytes come from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Space {
    Buffer { group: u32, binding: u32, access: Access },
    Immediate,
}

/// A variable that the entry point uses.
#[derive(Clone, Debug)]
pub struct Variable {
    pub name: String,
    pub space: Space,
    pub ty: Handle<Type>,
    /// Whether the kernel asks for its length.
    pub is_measured: bool,
}

/// The variables of an entry point, and what its module needs of a device.
#[derive(Debug)]
pub struct Interface {
    module: Module,
    /// Immediates are the last.
    pub variables: Vec<Variable>,
    /// Names of variables that only other entry points use.
    pub others: Vec<String>,
    pub workgroup_size: [u32; 3],
    /// Values of overrides by their `@id`, or by name.
    pub constants: Vec<(String, f64)>,
    pub needs: Vec<Need>,
}

impl Interface {
    /// # Errors
    /// When the source is not WGSL, an override has no value, or the entry point uses what has no place in a buffer.
    pub fn of(trial: &Trial, launched: &Launched) -> Result<Interface, Refusal> {
        let refuse = |(line, reason)| Refusal { file: trial.file().to_owned(), line, reason };
        let Launched { entry, overrides, .. } = launched;
        let (whole, _) = parse(trial.source(), Capabilities::all()).map_err(refuse)?;
        let (module, info) = specialised(trial.file(), trial.source(), entry, overrides)?;
        let is_meant = |it: &naga::EntryPoint| it.name == *entry && it.stage == ShaderStage::Compute;
        let position = module.entry_points.iter().position(is_meant).expect("it is specialised for this one");
        let uses = info.get_entry_point(position);
        let mut variables = Vec::new();
        for (handle, global) in module.global_variables.iter().filter(|(handle, _)| !uses[*handle].is_empty()) {
            let name = global.name.clone().unwrap_or_default();
            let access = match global.space {
                AddressSpace::Uniform => Access::Uniform,
                AddressSpace::Storage { access } if access.contains(StorageAccess::STORE) => Access::ReadWrite,
                AddressSpace::Storage { .. } => Access::Read,
                AddressSpace::Immediate => {
                    variables.push(Variable { name, space: Space::Immediate, ty: global.ty, is_measured: false });
                    continue;
                }
                AddressSpace::Private | AddressSpace::WorkGroup => continue,
                _ => {
                    let at = module.global_variables.get_span(handle).location(trial.source()).line_number;
                    let reason = format!("`{name}` is a texture or sampler: only buffers can be given by a file");
                    return Err(refuse((at, reason)));
                }
            };
            let at = global.binding.expect("a valid buffer has a binding");
            let space = Space::Buffer { group: at.group, binding: at.binding, access };
            let is_measured = uses[handle].contains(GlobalUse::QUERY);
            variables.push(Variable { name, space, ty: global.ty, is_measured });
        }
        variables.sort_by_key(|variable| variable.space == Space::Immediate);
        let names = whole.global_variables.iter().filter_map(|(_, it)| it.name.clone());
        let others = names.filter(|name| variables.iter().all(|it| it.name != *name)).collect();
        let is_needed = |need: &Need| {
            let capability = match need {
                Need::Halves => Capabilities::SHADER_FLOAT16,
                Need::Subgroups => Capabilities::SUBGROUP,
                Need::SubgroupBarriers => Capabilities::SUBGROUP_BARRIER,
                Need::Matrices => Capabilities::COOPERATIVE_MATRIX,
                Need::WideIntegers => Capabilities::SHADER_INT64,
                Need::WideFloats => Capabilities::FLOAT64,
                Need::FloatAtomics => Capabilities::SHADER_FLOAT32_ATOMIC,
            };
            parse(trial.source(), Capabilities::all() - capability).is_err()
        };
        Ok(Interface {
            variables,
            others,
            workgroup_size: module.entry_points[position].workgroup_size,
            constants: constants(&whole, overrides).into_iter().collect(),
            needs: Need::ALL.into_iter().filter(is_needed).collect(),
            module,
        })
    }

    fn inner(&self, ty: Handle<Type>) -> &TypeInner {
        &self.module.types[ty].inner
    }

    /// The name, type and first byte of each member, if it is a struct.
    pub fn members(&self, ty: Handle<Type>) -> Option<Vec<(String, Handle<Type>, u64)>> {
        let TypeInner::Struct { members, .. } = self.inner(ty) else { return None };
        let member = |it: &naga::StructMember| (it.name.clone().unwrap_or_default(), it.ty, u64::from(it.offset));
        Some(members.iter().map(member).collect())
    }

    /// Bytes of the type; a runtime-sized array counts as one element.
    pub fn bytes(&self, ty: Handle<Type>) -> u64 {
        u64::from(self.inner(ty).size(self.module.to_ctx()))
    }

    /// The one type of all scalars.
    ///
    /// # Errors
    /// With the types, when there are several or others than [`Number`]s.
    pub fn number(&self, ty: Handle<Type>) -> Result<Number, String> {
        let mut scalars = Vec::new();
        self.scalars(ty, &mut scalars);
        match scalars[..] {
            [scalar] => Number::of(scalar).ok_or_else(|| name(scalar)),
            _ => Err(scalars.into_iter().map(name).collect::<Vec<_>>().join(" and ")),
        }
    }

    /// Adds the types of its scalars, each once.
    fn scalars(&self, ty: Handle<Type>, scalars: &mut Vec<Scalar>) {
        match self.inner(ty) {
            TypeInner::Scalar(scalar)
            | TypeInner::Atomic(scalar)
            | TypeInner::Vector { scalar, .. }
            | TypeInner::Matrix { scalar, .. }
                if !scalars.contains(scalar) =>
            {
                scalars.push(*scalar);
            }
            TypeInner::Array { base, .. } => self.scalars(*base, scalars),
            TypeInner::Struct { members, .. } => members.iter().for_each(|member| self.scalars(member.ty, scalars)),
            _ => {}
        }
    }

    /// The first byte of each scalar, for a value of `count` scalars, and the end of its bytes; padding has no scalars.
    ///
    /// # Errors
    /// With how many scalars the type takes, when it does not take `count`.
    pub fn places(&self, ty: Handle<Type>, first: u64, count: u64) -> Result<(Vec<u64>, u64), String> {
        let fixed = self.count(ty);
        let (mut places, mut end) = (Vec::new(), first + self.bytes(ty));
        match self.tail(ty, first) {
            Some((base, first_of_tail, stride)) => {
                let per_element = self.count(base);
                let rest = count.checked_sub(fixed).filter(|rest| *rest > 0 && rest.is_multiple_of(per_element));
                let rest = rest.ok_or_else(|| match fixed {
                    0 => format!("a multiple of {per_element}"),
                    _ => format!("{fixed} and a multiple of {per_element}"),
                })?;
                self.walk(ty, first, &mut places);
                let elements = rest / per_element;
                end = end.max(first_of_tail + elements * stride);
                for index in 0..elements {
                    self.walk(base, first_of_tail + index * stride, &mut places);
                }
            }
            None if count == fixed => self.walk(ty, first, &mut places),
            None => return Err(fixed.to_string()),
        }
        Ok((places, end))
    }

    /// The elements' type, first byte and stride of the runtime-sized array at the end of the type, if there is one.
    fn tail(&self, ty: Handle<Type>, first: u64) -> Option<(Handle<Type>, u64, u64)> {
        match self.inner(ty) {
            TypeInner::Array { base, size: ArraySize::Dynamic, stride } => Some((*base, first, u64::from(*stride))),
            TypeInner::Struct { members, .. } => {
                let last = members.last()?;
                self.tail(last.ty, first + u64::from(last.offset))
            }
            _ => None,
        }
    }

    /// Scalars of the type without a runtime-sized array.
    fn count(&self, ty: Handle<Type>) -> u64 {
        match self.inner(ty) {
            TypeInner::Scalar(_) | TypeInner::Atomic(_) => 1,
            TypeInner::Vector { size, .. } => *size as u64,
            TypeInner::Matrix { columns, rows, .. } => *columns as u64 * *rows as u64,
            TypeInner::Array { base, size, .. } => self.length(*size) * self.count(*base),
            TypeInner::Struct { members, .. } => members.iter().map(|member| self.count(member.ty)).sum(),
            _ => 0,
        }
    }

    /// Elements of an array; none of a runtime-sized one.
    fn length(&self, size: ArraySize) -> u64 {
        match size.resolve(self.module.to_ctx()) {
            Ok(IndexableLength::Known(count)) => u64::from(count),
            _ => 0,
        }
    }

    fn walk(&self, ty: Handle<Type>, first: u64, places: &mut Vec<u64>) {
        let mut row = |first: u64, count: u64, scalar: &Scalar| {
            places.extend((0..count).map(|index| first + index * u64::from(scalar.width)));
        };
        match self.inner(ty) {
            TypeInner::Scalar(scalar) | TypeInner::Atomic(scalar) => row(first, 1, scalar),
            TypeInner::Vector { size, scalar } => row(first, *size as u64, scalar),
            TypeInner::Matrix { columns, rows, scalar } => {
                let stride = u64::from(Alignment::from(*rows) * u32::from(scalar.width));
                (0..*columns as u64).for_each(|column| row(first + column * stride, *rows as u64, scalar));
            }
            TypeInner::Array { base, size, stride } => {
                (0..self.length(*size)).for_each(|index| self.walk(*base, first + index * u64::from(*stride), places));
            }
            TypeInner::Struct { members, .. } => {
                members.iter().for_each(|member| self.walk(member.ty, first + u64::from(member.offset), places));
            }
            _ => {}
        }
    }
}

/// A scalar type as WGSL calls it.
fn name(scalar: Scalar) -> String {
    use naga::ScalarKind as Kind;
    match (scalar.kind, scalar.width) {
        (Kind::Bool, _) => "bool".to_owned(),
        (Kind::Float | Kind::AbstractFloat, bytes) => format!("f{}", 8 * u32::from(bytes)),
        (Kind::Sint | Kind::AbstractInt, bytes) => format!("i{}", 8 * u32::from(bytes)),
        (Kind::Uint, bytes) => format!("u{}", 8 * u32::from(bytes)),
    }
}
