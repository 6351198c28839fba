//! From naga's IR to a [`Program`].

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use naga::back::{PipelineConstants, pipeline_constants::process_overrides};
use naga::proc::IndexableLength;
use naga::valid::{
    Capabilities, FunctionInfo, ModuleInfo, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator,
};
use naga::{
    AddressSpace, ArraySize, AtomicFunction, Barrier, BinaryOperator, Binding as ArgumentBinding, Block, BuiltIn,
    CollectiveOperation, Constant, Direction, Expression, Function, GatherMode, GlobalVariable, Handle, ImageClass,
    ImageDimension, ImageQuery, Literal, LocalVariable, MathFunction, Module, RelationalFunction, ResourceBinding,
    Scalar, ScalarKind, ShaderStage, Span, Statement, StorageAccess, StructMember, SubgroupOperation, SwitchValue,
    Type, TypeInner,
};

use super::program::{
    AtomicAccess, Binding, Count, Element, Layout, Leaf, MatrixAccess, Memory, Op, Over, Program, Slot, TexelAccess,
    Variable, Work,
};
use super::word::{self, Map1, Map2, Math, Rule, Word};

/// Why a source has no program: it is not WGSL, or it uses a feature that the interpreter does not support.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    pub file: String,
    pub line: u32,
    pub reason: String,
}

impl std::error::Error for Refusal {}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.reason)
    }
}

/// Most operations of a program once its calls are inlined.
const MOST_OPERATIONS: usize = 1 << 20;
const SUBGROUPS: &str = "enable subgroups;";
/// Most scalars of a variable.
const MOST_SCALARS: u32 = 1 << 22;

/// Of WGSL's types, in bytes: that of `vec4<f32>`.
const LARGEST_ALIGNMENT: u32 = 16;

/// A source as naga takes it: it knows the functions of subgroups, but not the directive that WGSL asks for before them.
pub fn without_directive(source: &str) -> String {
    source.replace(SUBGROUPS, &" ".repeat(SUBGROUPS.len()))
}

/// Parses and validates WGSL, for a device with these capabilities.
///
/// # Errors
/// With the line and the compiler's message, when it is not WGSL or needs another capability.
pub fn parse(source: &str, capabilities: Capabilities) -> Result<(Module, ModuleInfo), (u32, String)> {
    let source = &without_directive(source);
    let module = naga::front::wgsl::parse_str(source)
        .map_err(|error| (error.location(source).map_or(0, |at| at.line_number), error.message().to_owned()))?;
    let info = Validator::new(ValidationFlags::all(), capabilities)
        .subgroup_stages(ShaderStages::COMPUTE)
        .subgroup_operations(SubgroupOperationSet::all())
        .validate(&module)
        .map_err(|error| {
            let line = error.location(source).map_or(0, |at| at.line_number);
            (line, chain(&error.into_inner()))
        })?;
    Ok((module, info))
}

/// An error and its causes in one sentence.
fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// The compute entry points of a source, in their order.
///
/// # Errors
/// When the source is not WGSL.
pub fn entries(file: &str, source: &str) -> Result<Vec<String>, Refusal> {
    let refuse = |(line, reason)| Refusal { file: file.to_owned(), line, reason };
    let (module, _) = parse(source, Capabilities::all()).map_err(refuse)?;
    let computes = module.entry_points.iter().filter(|entry| entry.stage == ShaderStage::Compute);
    Ok(computes.map(|entry| entry.name.clone()).collect())
}

fn position(module: &Module, entry: &str) -> Option<usize> {
    module.entry_points.iter().position(|it| it.name == entry && it.stage == ShaderStage::Compute)
}

/// The module of a compute entry point, with values for overrides, which are named or known by their `@id`.
///
/// # Errors
/// When the source is not WGSL, has no such entry point, or an override has no value or does not exist.
pub fn specialised(
    file: &str,
    source: &str,
    entry: &str,
    overrides: &[(String, f64)],
) -> Result<(Module, ModuleInfo), Refusal> {
    let refuse = |(line, reason)| Refusal { file: file.to_owned(), line, reason };
    let (module, info) = parse(source, Capabilities::all()).map_err(refuse)?;
    if position(&module, entry).is_none() {
        return Err(refuse((0, format!("there is no compute entry point `{entry}`"))));
    }
    let stage = Some((ShaderStage::Compute, entry));
    let (module, info) = process_overrides(&module, &info, stage, &constants(&module, overrides))
        .map_err(|error| refuse((0, chain(&error))))?;
    Ok((module.into_owned(), info.into_owned()))
}

/// The values of overrides by the keys that WGSL has for them: the `@id` of those that have one.
pub fn constants(module: &Module, overrides: &[(String, f64)]) -> PipelineConstants {
    let key = |name: &String| {
        let named = module.overrides.iter().find(|(_, it)| it.name.as_ref() == Some(name));
        named.and_then(|(_, it)| it.id).map_or_else(|| name.clone(), |id| id.to_string())
    };
    overrides.iter().map(|(name, value)| (key(name), *value)).collect()
}

/// The program of the entry point `main`. Reports call the source `file`.
///
/// # Errors
/// When the source is not WGSL, or uses something the interpreter does not support.
pub fn lower(file: &str, source: &str) -> Result<Program, Refusal> {
    lower_entry(file, source, "main", &[])
}

/// The program of an entry point, with values for overrides, which are named or known by their `@id`.
///
/// # Errors
/// As [`lower`], and when an override has no value or does not exist.
pub fn lower_entry(file: &str, source: &str, name: &str, overrides: &[(String, f64)]) -> Result<Program, Refusal> {
    let (module, info) = specialised(file, source, name, overrides)?;
    let entry = position(&module, name).expect("it is specialised for this one");
    let refuse = |(line, reason)| Refusal { file: file.to_owned(), line, reason };

    let mut bindings: Vec<ResourceBinding> = module.global_variables.iter().filter_map(|(_, it)| it.binding).collect();
    bindings.sort_unstable();
    let mut lowering = Lowering {
        module: &module,
        module_info: &info,
        bindings,
        line_starts: std::iter::once(0).chain(source.match_indices('\n').map(|(at, _)| at + 1)).collect(),
        line: 0,
        column: 0,
        globals: HashMap::new(),
        constants: HashMap::new(),
        lane: None,
        returns: HashSet::new(),
        program: Program {
            file: file.to_owned(),
            code: Vec::new(),
            lines: Vec::new(),
            columns: Vec::new(),
            works: Vec::new(),
            assigns: Vec::new(),
            untils: Vec::new(),
            registers: Vec::new(),
            builtins: Vec::new(),
            immediates: Vec::new(),
            variables: Vec::new(),
            buffers: Vec::new(),
            workgroup_scalars: 0,
            workgroup_bytes: 0,
            workgroup_size: module.entry_points[entry].workgroup_size,
        },
    };
    match lowering.entry(&module.entry_points[entry].function, info.get_entry_point(entry)) {
        Ok(()) => Ok(lowering.program),
        Err(reason) => Err(refuse((lowering.line, reason))),
    }
}

/// A value's components, one register each. Expressions are never assigned to, so values may share registers.
type Value = Vec<Slot>;

/// Where a pointer points: `at` plus the register `offset`, in scalars.
#[derive(Clone, Copy)]
struct Place {
    memory: Memory,
    at: u32,
    offset: Option<Slot>,
    /// Index among the program's variables, for reports.
    variable: u32,
}

#[derive(Clone)]
enum Lowered {
    Value(Value),
    Place(Place),
}

/// Jumps out of a loop or switch whose target is not known yet.
struct Exit {
    is_loop: bool,
    breaks: Vec<usize>,
    continues: Vec<usize>,
}

/// One inlined call.
struct Frame<'m> {
    function: &'m Function,
    info: &'m FunctionInfo,
    arguments: Vec<Lowered>,
    lowered: HashMap<Handle<Expression>, Lowered>,
    locals: HashMap<Handle<LocalVariable>, Place>,
    exits: Vec<Exit>,
    result: Value,
    returns: Vec<usize>,
}

struct Lowering<'m> {
    module: &'m Module,
    module_info: &'m ModuleInfo,
    /// In their order.
    bindings: Vec<ResourceBinding>,
    line_starts: Vec<usize>,
    line: u32,
    column: u32,
    globals: HashMap<Handle<GlobalVariable>, Place>,
    constants: HashMap<u32, Slot>,
    /// The register of `subgroup_invocation_id`, once it is needed.
    lane: Option<Slot>,
    /// Jumps to the end of a function.
    returns: HashSet<usize>,
    program: Program,
}

fn unsupported<T>(what: impl std::fmt::Debug) -> Result<T, String> {
    Err(format!("unsupported: {what:?}"))
}

fn work_of_binary(op: BinaryOperator, kind: ScalarKind) -> Work {
    use BinaryOperator as Op;
    match (op, kind) {
        (Op::Add | Op::Subtract | Op::Multiply, ScalarKind::Float) => Work::Float,
        (Op::Divide | Op::Modulo, ScalarKind::Float) => Work::Special,
        (Op::Divide | Op::Modulo, _) => Work::Quotient,
        (Op::Add | Op::Subtract, _) => Work::Sum,
        (Op::Multiply, _) => Work::Product,
        _ => Work::Integer,
    }
}

fn work_of_math(function: MathFunction, kind: ScalarKind) -> Work {
    use MathFunction as F;
    match (function, kind) {
        // A modifier of the instruction that reads or writes the value.
        (F::Abs | F::Saturate, ScalarKind::Float) => Work::Nothing,
        (F::Fma, ScalarKind::Float) => Work::Fma,
        (
            F::Exp | F::Exp2 | F::Log | F::Log2 | F::Pow | F::Sqrt | F::InverseSqrt | F::Sin | F::Cos | F::Tan,
            ScalarKind::Float,
        ) => Work::Special,
        (F::Tanh | F::Atan | F::Atan2, ScalarKind::Float) => Work::Special,
        (_, ScalarKind::Float) => Work::Float,
        _ => Work::Integer,
    }
}

impl<'m> Lowering<'m> {
    fn entry(&mut self, function: &'m Function, info: &'m FunctionInfo) -> Result<(), String> {
        for (handle, global) in self.module.global_variables.iter() {
            if !info[handle].is_empty() || global.space == AddressSpace::Immediate {
                self.at(self.module.global_variables.get_span(handle));
                let place = self.global(global)?;
                self.globals.insert(handle, place);
            }
        }
        let mut arguments = Vec::new();
        for argument in &function.arguments {
            let value = self.fresh(self.scalars(argument.ty)?);
            let builtins = match (&argument.binding, self.inner(argument.ty)) {
                (None, TypeInner::Struct { members, .. }) => (0..members.len())
                    .map(|index| Ok((members[index].binding.clone(), self.member(members, index)?)))
                    .collect::<Result<_, String>>()?,
                (binding, _) => vec![(binding.clone(), 0)],
            };
            for (binding, first) in builtins {
                let Some(ArgumentBinding::BuiltIn(builtin)) = binding else { return unsupported(argument) };
                self.builtin(builtin, value[first as usize])?;
            }
            arguments.push(Lowered::Value(value));
        }
        self.call(function, info, arguments, Vec::new())?;
        self.emit(Op::End);
        self.find_untils();
        Ok(())
    }

    fn builtin(&mut self, builtin: BuiltIn, slot: Slot) -> Result<(), String> {
        use BuiltIn as B;
        match builtin {
            B::GlobalInvocationId | B::LocalInvocationId | B::LocalInvocationIndex | B::WorkGroupId => {}
            B::NumWorkGroups | B::SubgroupSize | B::SubgroupInvocationId | B::NumSubgroups | B::SubgroupId => {}
            B::WorkGroupSize => {}
            other => return unsupported(other),
        }
        self.program.builtins.push((builtin, slot));
        Ok(())
    }

    /// Notes up to where each condition decides what runs: the end of its branch, or of the loop that it leaves. A
    /// return does not count, since what follows is the same for those that stay.
    fn find_untils(&mut self) {
        let Program { code, untils, .. } = &mut self.program;
        *untils = vec![0; code.len()];
        for (at, op) in code.iter().enumerate() {
            let Op::Unless { target, .. } = *op else { continue };
            let mut end = (target as usize).max(at + 1);
            let mut next = at + 1;
            while next < end {
                if let Op::Jump { target } | Op::Unless { target, .. } = code[next]
                    && !self.returns.contains(&next)
                {
                    end = end.max(target as usize);
                }
                next += 1;
            }
            untils[at] = end as u32;
        }
    }

    fn global(&mut self, global: &GlobalVariable) -> Result<Place, String> {
        let name = global.name.clone().unwrap_or_default();
        let variable = self.program.variables.len() as u32;
        let mut first_byte = 0;
        let (memory, at, scalars) = match global.space {
            AddressSpace::Storage { .. } | AddressSpace::Uniform | AddressSpace::Handle => {
                let Some(at) = global.binding else { return unsupported(global) };
                let buffer = self.program.buffers.len() as u32;
                let writable = match (global.space, self.inner(global.ty)) {
                    (AddressSpace::Storage { access }, _) => access.contains(StorageAccess::STORE),
                    (_, TypeInner::Image { class: ImageClass::Storage { access, .. }, .. }) => {
                        access.contains(StorageAccess::STORE)
                    }
                    _ => false,
                };
                let layout = match self.inner(global.ty) {
                    TypeInner::Sampler { .. } => {
                        let place = Place { memory: Memory::Registers, at: 0, offset: None, variable: 0 };
                        return Ok(place);
                    }
                    TypeInner::Image { dim, arrayed, class } => Self::texture(*dim, *arrayed, *class)?,
                    _ => self.layout(global.ty)?,
                };
                let rank = self.bindings.partition_point(|other| *other < at) as u32;
                let ResourceBinding { group, binding } = at;
                let name = name.clone();
                self.program.buffers.push(Binding { group, binding, rank, writable, name, layout });
                (Memory::Storage(buffer), 0, 0)
            }
            AddressSpace::WorkGroup => {
                let (at, scalars) = (self.program.workgroup_scalars, self.scalars(global.ty)?);
                self.program.workgroup_scalars += scalars;
                let end = |it: &Variable| it.first_byte + it.scalars * it.scalar_bytes;
                let others = self.program.variables.iter().filter(|it| it.memory == Memory::Workgroup);
                first_byte = others.map(end).max().unwrap_or(0).next_multiple_of(LARGEST_ALIGNMENT);
                self.program.workgroup_bytes += self.inner(global.ty).size(self.module.to_ctx());
                (Memory::Workgroup, at, scalars)
            }
            AddressSpace::Private | AddressSpace::Immediate => {
                let scalars = self.scalars(global.ty)?;
                let slots = self.fresh(scalars);
                if let Some(init) = global.init {
                    for (to, from) in slots.iter().zip(self.global_value(init)?) {
                        self.program.registers[*to as usize] = self.program.registers[from as usize];
                    }
                }
                let at = slots[0];
                if global.space == AddressSpace::Immediate {
                    self.program.immediates = slots;
                }
                (Memory::Registers, at, scalars)
            }
            space => return unsupported(space),
        };
        let (strides, scalar_bytes) = match self.inner(global.ty) {
            TypeInner::Image { .. } => (vec![4], 4),
            _ => (self.strides(global.ty)?, self.scalar_bytes(global.ty)),
        };
        self.program.variables.push(Variable { name, memory, at, scalars, strides, scalar_bytes, first_byte });
        Ok(Place { memory, at, offset: None, variable })
    }

    // Types.

    fn inner(&self, ty: Handle<Type>) -> &'m TypeInner {
        &self.module.types[ty].inner
    }

    /// Scalars that a value of the type occupies in memory, padding included.
    fn scalars(&self, ty: Handle<Type>) -> Result<u32, String> {
        self.scalars_of(self.inner(ty))
    }

    fn scalars_of(&self, inner: &TypeInner) -> Result<u32, String> {
        match inner {
            TypeInner::Scalar(scalar) if scalar.width == 4 || scalar.kind == ScalarKind::Bool => Ok(1),
            TypeInner::Atomic(scalar) if scalar.width == 4 => Ok(1),
            // An f16 is held as an f32 of the same value.
            TypeInner::Scalar(Scalar::F16) => Ok(1),
            TypeInner::CooperativeMatrix { columns, rows, .. } => Ok(*columns as u32 * *rows as u32),
            TypeInner::Vector { size, scalar } => Ok(*size as u32 * self.scalars_of(&TypeInner::Scalar(*scalar))?),
            TypeInner::Matrix { columns, rows, scalar } => Ok(*columns as u32 * column(*rows as u32, *scalar)),
            TypeInner::Array { base, size, stride } if *size != ArraySize::Dynamic => {
                let count = self.length(*size)?;
                match count.checked_mul(self.stride(*base, *stride)?) {
                    Some(scalars) if scalars <= MOST_SCALARS => Ok(scalars),
                    _ => Err(format!("unsupported: an array of {count} elements")),
                }
            }
            TypeInner::Struct { members, span } => match self.is_dense_in(members) {
                true => self.member(members, members.len()),
                false => Ok(span / 4),
            },
            other => unsupported(other),
        }
    }

    /// Elements of an array whose size is fixed, though an override may have set it.
    fn length(&self, size: ArraySize) -> Result<u32, String> {
        match size.resolve(self.module.to_ctx()) {
            Ok(IndexableLength::Known(count)) => Ok(count),
            Ok(IndexableLength::Dynamic) => unsupported(size),
            Err(error) => Err(chain(&error)),
        }
    }

    /// The parts of a composite: the first scalar of each, and its type.
    fn parts(&self, inner: &TypeInner) -> Result<Vec<(u32, TypeInner)>, String> {
        Ok(match inner {
            TypeInner::Vector { size, scalar } => {
                (0..*size as u32).map(|index| (index, TypeInner::Scalar(*scalar))).collect()
            }
            TypeInner::Matrix { columns, rows, scalar } => {
                let part =
                    |index| (index * column(*rows as u32, *scalar), TypeInner::Vector { size: *rows, scalar: *scalar });
                (0..*columns as u32).map(part).collect()
            }
            TypeInner::Array { base, size, stride } if *size != ArraySize::Dynamic => {
                let stride = self.stride(*base, *stride)?;
                (0..self.length(*size)?).map(|index| (index * stride, self.inner(*base).clone())).collect()
            }
            TypeInner::Struct { members, .. } => {
                let part = |index: usize| Ok((self.member(members, index)?, self.inner(members[index].ty).clone()));
                (0..members.len()).map(part).collect::<Result<_, String>>()?
            }
            _ => Vec::new(),
        })
    }

    /// Of each scalar of a value: whether it is padding.
    fn padding(&self, inner: &TypeInner) -> Result<Vec<bool>, String> {
        let mut padding = vec![true; self.scalars_of(inner)? as usize];
        let parts = match inner {
            TypeInner::Matrix { .. } | TypeInner::Array { .. } | TypeInner::Struct { .. } => self.parts(inner)?,
            _ => Vec::new(),
        };
        if parts.is_empty() {
            padding.fill(false);
        }
        for (first, part) in parts {
            for (index, is_padding) in (first as usize..).zip(self.padding(&part)?) {
                padding[index] = is_padding;
            }
        }
        Ok(padding)
    }

    /// A composite value of its parts, with padding between.
    fn compose(&mut self, ty: Handle<Type>, components: Vec<Value>) -> Result<Value, String> {
        let inner = self.inner(ty);
        if matches!(inner, TypeInner::Vector { .. }) {
            return Ok(components.concat());
        }
        let zero = self.constant(0);
        let mut value = vec![zero; self.scalars(ty)? as usize];
        for ((first, _), part) in self.parts(inner)?.into_iter().zip(components) {
            value[first as usize..first as usize + part.len()].copy_from_slice(&part);
        }
        Ok(value)
    }

    /// How a buffer of the type lies in memory.
    fn layout(&self, ty: Handle<Type>) -> Result<Layout, String> {
        let mut layout = Layout::default();
        let dynamic = |ty: Handle<Type>| match *self.inner(ty) {
            TypeInner::Array { base, size: ArraySize::Dynamic, stride } => Some((base, stride)),
            _ => None,
        };
        let tail = match self.inner(ty) {
            TypeInner::Struct { members, .. } => match members.last().and_then(|last| dynamic(last.ty)) {
                Some(array) => {
                    for (index, member) in members[..members.len() - 1].iter().enumerate() {
                        let first = [self.member(members, index)?, member.offset];
                        self.leaves(member.ty, first, &mut layout.head)?;
                    }
                    layout.head_scalars = self.member(members, members.len() - 1)?;
                    layout.head_bytes = members[members.len() - 1].offset;
                    Some(array)
                }
                None => None,
            },
            _ => dynamic(ty),
        };
        match tail {
            Some((base, stride)) => {
                let mut leaves = Vec::new();
                self.leaves(base, [0, 0], &mut leaves)?;
                layout.element = Some(Element { leaves, scalars: self.stride(base, stride)?, bytes: stride });
            }
            None => {
                self.leaves(ty, [0, 0], &mut layout.head)?;
                layout.head_scalars = self.scalars(ty)?;
                layout.head_bytes = self.inner(ty).size(self.module.to_ctx());
            }
        }
        Ok(layout)
    }

    /// Appends the scalars of a type that begins at [scalar, byte].
    fn leaves(&self, ty: Handle<Type>, [scalar, byte]: [u32; 2], leaves: &mut Vec<Leaf>) -> Result<(), String> {
        let mut vector = |scalar: u32, byte: u32, count: u32, kind: Scalar| {
            let leaf = |index| Leaf { scalar: scalar + index, byte: byte + index * u32::from(kind.width), kind };
            leaves.extend((0..count).map(leaf));
        };
        match self.inner(ty) {
            TypeInner::Scalar(kind) | TypeInner::Atomic(kind) => vector(scalar, byte, 1, *kind),
            TypeInner::Vector { size, scalar: kind } => vector(scalar, byte, *size as u32, *kind),
            TypeInner::Matrix { columns, rows, scalar: kind } => {
                let rows = *rows as u32;
                let bytes = rows.next_power_of_two() * u32::from(kind.width);
                for index in 0..*columns as u32 {
                    vector(scalar + index * column(rows, *kind), byte + index * bytes, rows, *kind);
                }
            }
            TypeInner::Array { base, size, stride } if *size != ArraySize::Dynamic => {
                let scalars = self.stride(*base, *stride)?;
                for index in 0..self.length(*size)? {
                    self.leaves(*base, [scalar + index * scalars, byte + index * stride], leaves)?;
                }
            }
            TypeInner::Struct { members, .. } => {
                for (index, member) in members.iter().enumerate() {
                    let first = [scalar + self.member(members, index)?, byte + member.offset];
                    self.leaves(member.ty, first, leaves)?;
                }
            }
            other => return unsupported(other),
        }
        Ok(())
    }

    /// A texture: an array of texels of four components.
    fn texture(dim: ImageDimension, arrayed: bool, class: ImageClass) -> Result<Layout, String> {
        let axes = match dim {
            ImageDimension::D1 => 1,
            ImageDimension::D2 => 2,
            ImageDimension::D3 | ImageDimension::Cube => 3,
        };
        let kind = match class {
            ImageClass::Sampled { kind, multi: false } => Scalar { kind, width: 4 },
            ImageClass::Depth { multi: false } => Scalar::F32,
            ImageClass::Storage { format, .. } if Scalar::from(format).width == 4 => format.into(),
            other => return unsupported(other),
        };
        let leaves = (0..4).map(|index| Leaf { scalar: index, byte: 4 * index, kind }).collect();
        Ok(Layout {
            element: Some(Element { leaves, scalars: 4, bytes: 16 }),
            axes: (axes + usize::from(arrayed)).min(3),
            ..Layout::default()
        })
    }

    /// Size of a scalar of the type on a device: 2 where it holds halves, else 4.
    fn scalar_bytes(&self, ty: Handle<Type>) -> u32 {
        match self.inner(ty) {
            TypeInner::Scalar(scalar) | TypeInner::Vector { scalar, .. } if *scalar == naga::Scalar::F16 => 2,
            TypeInner::Array { base, .. } => self.scalar_bytes(*base),
            _ => 4,
        }
    }

    /// Whether its scalars lie side by side here: booleans lie in no buffer, and halves take more room than there.
    fn is_dense(&self, ty: Handle<Type>) -> bool {
        match self.inner(ty) {
            TypeInner::Scalar(scalar) | TypeInner::Vector { scalar, .. } | TypeInner::Matrix { scalar, .. } => {
                scalar.kind == ScalarKind::Bool || *scalar == Scalar::F16
            }
            TypeInner::Array { base, .. } => self.is_dense(*base),
            TypeInner::Struct { members, .. } => self.is_dense_in(members),
            _ => false,
        }
    }

    fn is_dense_in(&self, members: &[StructMember]) -> bool {
        members.iter().any(|member| self.is_dense(member.ty))
    }

    /// Scalars before a member.
    fn member(&self, members: &[StructMember], index: usize) -> Result<u32, String> {
        match self.is_dense_in(members) {
            true => members[..index].iter().map(|member| self.scalars(member.ty)).sum(),
            false => Ok(members.get(index).map_or(0, |member| member.offset / 4)),
        }
    }

    /// Scalars from one array element to the next.
    fn stride(&self, base: Handle<Type>, bytes: u32) -> Result<u32, String> {
        let scalars = self.scalars(base)?;
        Ok(if self.is_dense(base) { scalars } else { scalars.max(bytes / 4) })
    }

    fn strides(&self, ty: Handle<Type>) -> Result<Vec<u32>, String> {
        match self.inner(ty) {
            TypeInner::Array { base, stride, .. } => {
                Ok([vec![self.stride(*base, *stride)?], self.strides(*base)?].concat())
            }
            _ => Ok(Vec::new()),
        }
    }

    fn kind(inner: &TypeInner) -> Result<ScalarKind, String> {
        match inner.scalar_kind() {
            Some(kind) => Ok(kind),
            None => unsupported(inner),
        }
    }

    // Registers and code.

    fn fresh(&mut self, count: u32) -> Value {
        let first = self.program.registers.len() as Slot;
        self.program.registers.resize((first + count) as usize, Word::default());
        (first..first + count).collect()
    }

    /// The bits of a slot that holds a constant.
    fn known(&self, slot: Slot) -> Option<u32> {
        self.constants.iter().find(|&(_, &constant)| constant == slot).map(|(&bits, _)| bits)
    }

    fn constant(&mut self, bits: u32) -> Slot {
        if let Some(&slot) = self.constants.get(&bits) {
            return slot;
        }
        let slot = self.fresh(1)[0];
        self.program.registers[slot as usize] = Word::literal(bits);
        self.constants.insert(bits, slot);
        slot
    }

    fn emit(&mut self, op: Op) -> usize {
        self.emit_as(Work::Nothing, op)
    }

    fn emit_as(&mut self, work: Work, op: Op) -> usize {
        self.program.code.push(op);
        self.program.lines.push(self.line);
        self.program.columns.push(self.column);
        self.program.works.push(work);
        self.program.assigns.push(false);
        self.program.code.len() - 1
    }

    fn here(&self) -> u32 {
        self.program.code.len() as u32
    }

    fn patch(&mut self, jumps: &[usize], to: u32) {
        for &jump in jumps {
            match &mut self.program.code[jump] {
                Op::Jump { target } | Op::Unless { target, .. } => *target = to,
                op => unreachable!("{op:?} is not a jump"),
            }
        }
    }

    fn jump(&mut self) -> usize {
        self.emit(Op::Jump { target: 0 })
    }

    fn unless(&mut self, condition: Slot) -> usize {
        self.emit(Op::Unless { condition, target: 0 })
    }

    fn at(&mut self, span: Span) {
        if let Some(Range { start, .. }) = span.to_range() {
            let line = self.line_starts.partition_point(|&first| first <= start);
            self.line = line as u32;
            self.column = (start - self.line_starts[line - 1]) as u32 + 1;
        }
    }

    fn map2(&mut self, work: Work, f: Map2, a: Slot, b: Slot) -> Slot {
        let to = self.fresh(1)[0];
        self.emit_as(work, Op::Map2 { f, to, a, b });
        to
    }

    /// Applies to each component. A scalar is paired with every component of a vector.
    fn zip<const N: usize>(
        &mut self,
        operands: [&Value; N],
        mut apply: impl FnMut(&mut Self, Slot, [Slot; N]),
    ) -> Value {
        let width = operands.iter().map(|operand| operand.len()).max().unwrap_or(0);
        let result = self.fresh(width as u32);
        for (component, &to) in result.iter().enumerate() {
            let slots = operands.map(|operand| if operand.len() == 1 { operand[0] } else { operand[component] });
            apply(self, to, slots);
        }
        result
    }

    // Constant expressions of the module.

    fn literal(&mut self, literal: Literal) -> Result<Slot, String> {
        let bits = match literal {
            Literal::F32(value) => value.to_bits(),
            Literal::F16(value) => value.to_f32().to_bits(),
            Literal::U32(value) => value,
            Literal::I32(value) => value as u32,
            Literal::Bool(value) => u32::from(value),
            other => return unsupported(other),
        };
        Ok(self.constant(bits))
    }

    fn named_constant(&mut self, constant: Handle<Constant>) -> Result<Value, String> {
        self.global_value(self.module.constants[constant].init)
    }

    fn global_value(&mut self, handle: Handle<Expression>) -> Result<Value, String> {
        match &self.module.global_expressions[handle] {
            Expression::Literal(literal) => Ok(vec![self.literal(*literal)?]),
            Expression::Constant(constant) => self.named_constant(*constant),
            Expression::ZeroValue(ty) => Ok(vec![self.constant(0); self.scalars(*ty)? as usize]),
            Expression::Compose { ty, components } => {
                let parts: Result<Vec<Value>, String> =
                    components.iter().map(|&part| self.global_value(part)).collect();
                self.compose(*ty, parts?)
            }
            Expression::Splat { size, value } => Ok(self.global_value(*value)?.repeat(*size as usize)),
            other => unsupported(other),
        }
    }

    // Functions.

    fn call(
        &mut self,
        function: &'m Function,
        info: &'m FunctionInfo,
        arguments: Vec<Lowered>,
        result: Value,
    ) -> Result<(), String> {
        if self.program.code.len() > MOST_OPERATIONS {
            return Err(format!("unsupported: more than {MOST_OPERATIONS} operations, with calls inlined"));
        }
        let mut frame = Frame {
            function,
            info,
            arguments,
            lowered: HashMap::new(),
            locals: HashMap::new(),
            exits: Vec::new(),
            result,
            returns: Vec::new(),
        };
        for (handle, local) in function.local_variables.iter() {
            let scalars = self.scalars(local.ty)?;
            let slots = self.fresh(scalars);
            let variable = self.program.variables.len() as u32;
            self.program.variables.push(Variable {
                name: local.name.clone().unwrap_or_default(),
                memory: Memory::Registers,
                at: slots[0],
                scalars,
                strides: self.strides(local.ty)?,
                scalar_bytes: self.scalar_bytes(local.ty),
                first_byte: 0,
            });
            let place = Place { memory: Memory::Registers, at: slots[0], offset: None, variable };
            frame.locals.insert(handle, place);
            self.at(function.local_variables.get_span(handle));
            match local.init {
                Some(init) => {
                    let value = self.value(&mut frame, init)?;
                    self.store(place, &value, &[]);
                }
                None => {
                    self.emit(Op::Zero { to: slots[0], count: scalars });
                }
            }
        }
        self.block(&mut frame, &function.body)?;
        let end = self.here();
        self.patch(&frame.returns, end);
        Ok(())
    }

    fn block(&mut self, frame: &mut Frame<'m>, block: &'m Block) -> Result<(), String> {
        for (statement, &span) in block.span_iter() {
            self.at(span);
            self.statement(frame, statement)?;
        }
        Ok(())
    }

    fn statement(&mut self, frame: &mut Frame<'m>, statement: &'m Statement) -> Result<(), String> {
        match statement {
            Statement::Emit(range) => {
                for handle in range.clone() {
                    self.at(frame.function.expressions.get_span(handle));
                    let lowered = self.expression(frame, handle)?;
                    frame.lowered.insert(handle, lowered);
                }
            }
            Statement::Block(block) => self.block(frame, block)?,
            Statement::If { condition, accept, reject } => {
                let condition = self.value(frame, *condition)?[0];
                let to_reject = self.unless(condition);
                self.block(frame, accept)?;
                if reject.is_empty() {
                    let end = self.here();
                    self.patch(&[to_reject], end);
                } else {
                    let to_end = self.jump();
                    let start = self.here();
                    self.patch(&[to_reject], start);
                    self.block(frame, reject)?;
                    let end = self.here();
                    self.patch(&[to_end], end);
                }
            }
            Statement::Switch { selector, cases } => self.switch(frame, *selector, cases)?,
            Statement::Loop { body, continuing, break_if } => {
                let (start, line) = (self.here(), self.line);
                frame.exits.push(Exit { is_loop: true, breaks: Vec::new(), continues: Vec::new() });
                self.block(frame, body)?;
                let next = self.here();
                self.block(frame, continuing)?;
                // An endless loop is reported at its jump back.
                let again = match break_if {
                    Some(condition) => {
                        let condition = self.value(frame, *condition)?[0];
                        self.line = line;
                        self.unless(condition)
                    }
                    None => {
                        self.line = line;
                        self.jump()
                    }
                };
                self.patch(&[again], start);
                let end = self.here();
                let exit = frame.exits.pop().expect("pushed above");
                self.patch(&exit.continues, next);
                self.patch(&exit.breaks, end);
            }
            Statement::Break => {
                let jump = self.jump();
                frame.exits.last_mut().expect("naga validates breaks").breaks.push(jump);
            }
            Statement::Continue => {
                let jump = self.jump();
                let innermost = frame.exits.iter_mut().rev().find(|exit| exit.is_loop);
                innermost.expect("naga validates continues").continues.push(jump);
            }
            Statement::Return { value } => {
                if let Some(value) = value {
                    let value = self.value(frame, *value)?;
                    for (&to, &from) in frame.result.iter().zip(&value) {
                        self.emit(Op::Copy { to, from });
                    }
                }
                let jump = self.jump();
                self.returns.insert(jump);
                frame.returns.push(jump);
            }
            Statement::ControlBarrier(flags) if !flags.contains(Barrier::SUB_GROUP) => {
                self.emit(Op::Barrier {
                    workgroup: flags.contains(Barrier::WORK_GROUP),
                    storage: flags.intersects(Barrier::STORAGE | Barrier::TEXTURE),
                });
            }
            Statement::WorkGroupUniformLoad { pointer, result } => {
                let place = self.place(frame, *pointer)?;
                self.emit(Op::Barrier { workgroup: true, storage: false });
                let inner = self.type_of(frame, *result);
                let value = self.load(place, &self.padding(inner)?);
                self.emit(Op::Barrier { workgroup: true, storage: false });
                frame.lowered.insert(*result, Lowered::Value(value));
            }
            Statement::SubgroupGather { mode, argument, result } => {
                let from = self.value(frame, *argument)?;
                let lane = self.lane_of(frame, *mode)?;
                let value = self.zip([&from, &vec![lane]], |lowering, to, [from, lane]| {
                    lowering.emit(Op::Shuffle { to, from, lane });
                });
                frame.lowered.insert(*result, Lowered::Value(value));
            }
            Statement::SubgroupCollectiveOperation { op, collective_op, argument, result } => {
                let kind = match op {
                    SubgroupOperation::All | SubgroupOperation::Any => ScalarKind::Bool,
                    _ => Self::kind(self.type_of(frame, *argument))?,
                };
                let Some((f, identity)) = word::collective(*op, kind) else { return unsupported((op, kind)) };
                let over = match collective_op {
                    CollectiveOperation::Reduce => Over::All,
                    CollectiveOperation::InclusiveScan => Over::Including,
                    CollectiveOperation::ExclusiveScan => Over::Before,
                };
                let from = self.value(frame, *argument)?;
                let value = self.zip([&from], |lowering, to, [from]| {
                    lowering.emit(Op::Collective { to, from, f, identity, over });
                });
                frame.lowered.insert(*result, Lowered::Value(value));
            }
            Statement::SubgroupBallot { result, predicate } => {
                let from = match predicate {
                    Some(predicate) => self.value(frame, *predicate)?[0],
                    None => self.constant(1),
                };
                let value = self.fresh(4);
                self.emit(Op::Ballot { to: value[0], from });
                frame.lowered.insert(*result, Lowered::Value(value));
            }
            Statement::Atomic { pointer, fun, value, result } => {
                let place = self.place(frame, *pointer)?;
                let value = self.value(frame, *value)?[0];
                let TypeInner::Atomic(Scalar { kind, .. }) = self.type_of(frame, *pointer).pointed(self.module) else {
                    return unsupported(statement);
                };
                let Some(f) = word::atomic(*fun, kind) else { return unsupported((fun, kind)) };
                let compare = match fun {
                    AtomicFunction::Exchange { compare: Some(compare) } => Some(self.value(frame, *compare)?[0]),
                    _ => None,
                };
                let old = self.atomic(AtomicAccess::Update, f, place, value, compare);
                if let Some(result) = result {
                    frame.lowered.insert(*result, Lowered::Value(old));
                }
            }
            Statement::ImageStore { image, coordinate, array_index, value } => {
                let place = self.place(frame, *image)?;
                let value = self.value(frame, *value)?;
                self.texel(frame, TexelAccess::Store, place, [Some(*coordinate), *array_index], &value)?;
            }
            Statement::Store { pointer, value } => {
                let (place, value) = (self.place(frame, *pointer)?, self.value(frame, *value)?);
                let inner = self.type_of(frame, *pointer).pointed(self.module);
                match inner {
                    TypeInner::Atomic(_) => {
                        self.atomic(AtomicAccess::Store, |_, value| value, place, value[0], None);
                    }
                    _ => self.store(place, &value, &self.padding(&inner)?),
                }
            }
            Statement::CooperativeStore { target, data } => {
                let value = self.value(frame, *target)?;
                self.matrix(frame, MatrixAccess::Store, value[0], value.len().isqrt() as u32, data)?;
            }
            Statement::Call { function: handle, arguments, result } => {
                let function = &self.module.functions[*handle];
                let arguments: Result<Vec<Lowered>, String> =
                    arguments.iter().map(|&argument| self.lowered(frame, argument)).collect();
                let value = match &function.result {
                    Some(result) => {
                        let scalars = self.scalars(result.ty)?;
                        self.fresh(scalars)
                    }
                    None => Vec::new(),
                };
                let at = (self.line, self.column);
                self.call(function, &self.module_info[*handle], arguments?, value.clone())?;
                (self.line, self.column) = at;
                if let Some(result) = result {
                    frame.lowered.insert(*result, Lowered::Value(value));
                }
            }
            other => return unsupported(other),
        }
        Ok(())
    }

    fn switch(
        &mut self,
        frame: &mut Frame<'m>,
        selector: Handle<Expression>,
        cases: &'m [naga::SwitchCase],
    ) -> Result<(), String> {
        let selector = self.value(frame, selector)?[0];
        let equal = word::binary(BinaryOperator::Equal, ScalarKind::Uint).expect("u32 has an equality");
        frame.exits.push(Exit { is_loop: false, breaks: Vec::new(), continues: Vec::new() });
        // First the comparisons, each with a jump to its body; then the bodies.
        let mut entries = Vec::new();
        let mut default = None;
        for (index, case) in cases.iter().enumerate() {
            let bits = match case.value {
                SwitchValue::U32(value) => value,
                SwitchValue::I32(value) => value as u32,
                SwitchValue::Default => {
                    default = Some(index);
                    continue;
                }
            };
            let value = self.constant(bits);
            let hit = self.map2(Work::Integer, equal, selector, value);
            let next = self.unless(hit);
            entries.push((index, self.jump()));
            let here = self.here();
            self.patch(&[next], here);
        }
        entries.push((default.unwrap_or(cases.len()), self.jump()));
        let mut starts = Vec::new();
        for case in cases {
            starts.push(self.here());
            self.block(frame, &case.body)?;
            if !case.fall_through {
                let jump = self.jump();
                frame.exits.last_mut().expect("pushed above").breaks.push(jump);
            }
        }
        let end = self.here();
        starts.push(end);
        for (index, jump) in entries {
            self.patch(&[jump], starts[index]);
        }
        let exit = frame.exits.pop().expect("pushed above");
        self.patch(&exit.breaks, end);
        Ok(())
    }

    /// How a load or store of consecutive scalars is executed: those of a vector at once.
    fn work(place: Place, component: u32, count: u32) -> Work {
        match (place.memory, component) {
            (Memory::Registers, _) => Work::Nothing,
            (_, 0) if count <= 4 => Work::Access { scalars: count, variable: place.variable },
            _ if count <= 4 => Work::Nothing,
            // Arrays and structures are copied one by one.
            _ => Work::Access { scalars: 1, variable: place.variable },
        }
    }

    /// Stores a value but for its padding, which registers take too.
    fn store(&mut self, place: Place, value: &Value, padding: &[bool]) {
        if let Place { memory: Memory::Registers, offset: None, at, .. } = place
            && value.windows(2).all(|pair| pair[0] + 1 == pair[1])
        {
            let at = self.emit(Op::Move { to: at, from: value[0], count: value.len() as u32 });
            self.program.assigns[at] = true;
            return;
        }
        for (component, &from) in (0..).zip(value) {
            if padding.get(component as usize) == Some(&true) {
                continue;
            }
            let at = place.at + component;
            let op = match place {
                Place { memory: Memory::Registers, offset: None, .. } => Op::Copy { to: at, from },
                Place { memory, offset, .. } => Op::Store { from, memory, at, offset },
            };
            self.emit_as(Self::work(place, component, value.len() as u32), op);
        }
    }

    /// Loads a value but for its padding.
    fn load(&mut self, place: Place, padding: &[bool]) -> Value {
        let scalars = padding.len() as u32;
        let value = self.fresh(scalars);
        if let Place { memory: Memory::Registers, offset: None, at, .. } = place {
            self.emit(Op::Move { to: value[0], from: at, count: scalars });
            return value;
        }
        for (component, &to) in (0..).zip(&value).filter(|&(component, _)| !padding[component as usize]) {
            let at = place.at + component;
            let op = match place {
                Place { memory: Memory::Registers, offset: None, .. } => Op::Copy { to, from: at },
                Place { memory, offset, .. } => Op::Load { to, memory, at, offset },
            };
            self.emit_as(Self::work(place, component, scalars), op);
        }
        value
    }

    /// What an atomic was; with `compare`, and whether it was replaced.
    fn atomic(
        &mut self,
        access: AtomicAccess,
        f: Map2,
        Place { memory, at, offset, variable }: Place,
        value: Slot,
        compare: Option<Slot>,
    ) -> Value {
        let old = self.fresh(if compare.is_some() { 2 } else { 1 });
        let work = Work::Access { scalars: 1, variable };
        self.emit_as(work, Op::Atomic { access, f, to: old[0], memory, at, offset, value, compare });
        old
    }

    /// The register that holds from which lane a gather takes its value. What lies outside the subgroup, of which WGSL
    /// leaves the value open, is the lane itself.
    fn lane_of(&mut self, frame: &mut Frame<'m>, mode: GatherMode) -> Result<Slot, String> {
        let own = match self.lane {
            Some(lane) => lane,
            None => {
                let lane = self.fresh(1)[0];
                self.builtin(BuiltIn::SubgroupInvocationId, lane)?;
                *self.lane.insert(lane)
            }
        };
        let f = |op: BinaryOperator| word::binary(op, ScalarKind::Uint).expect("u32 has it");
        let argument = match mode {
            GatherMode::BroadcastFirst => return Ok(self.constant(0)),
            GatherMode::Broadcast(lane) | GatherMode::Shuffle(lane) => return Ok(self.value(frame, lane)?[0]),
            GatherMode::ShuffleDown(by) | GatherMode::ShuffleUp(by) => self.value(frame, by)?[0],
            GatherMode::ShuffleXor(mask) => self.value(frame, mask)?[0],
            GatherMode::QuadBroadcast(lane) => self.value(frame, lane)?[0],
            GatherMode::QuadSwap(direction) => self.constant(match direction {
                Direction::X => 1,
                Direction::Y => 2,
                Direction::Diagonal => 3,
            }),
        };
        let lane = match mode {
            GatherMode::ShuffleDown(_) => self.map2(Work::Integer, f(BinaryOperator::Add), own, argument),
            GatherMode::ShuffleUp(_) => self.map2(Work::Integer, f(BinaryOperator::Subtract), own, argument),
            GatherMode::QuadBroadcast(_) => {
                let mask = self.constant(!3);
                let quad = self.map2(Work::Integer, f(BinaryOperator::And), own, mask);
                return Ok(self.map2(Work::Integer, f(BinaryOperator::InclusiveOr), quad, argument));
            }
            _ => return Ok(self.map2(Work::Integer, f(BinaryOperator::ExclusiveOr), own, argument)),
        };
        let size = self.fresh(1)[0];
        self.builtin(BuiltIn::SubgroupSize, size)?;
        let is_inside = self.map2(Work::Integer, f(BinaryOperator::Less), lane, size);
        let to = self.fresh(1)[0];
        self.emit_as(Work::Integer, Op::Map3 { f: word::SELECT, to, a: is_inside, b: lane, c: own });
        Ok(to)
    }

    /// Loads, samples or stores a texel. The coordinates are those of the texel, then the layer.
    fn texel(
        &mut self,
        frame: &mut Frame<'m>,
        access: TexelAccess,
        place: Place,
        coordinates: [Option<Handle<Expression>>; 2],
        value: &Value,
    ) -> Result<Value, String> {
        let Memory::Storage(buffer) = place.memory else { return unsupported("this texture") };
        let at = self.fresh(3);
        let mut parts = Vec::new();
        for coordinate in coordinates.into_iter().flatten() {
            parts.extend(self.value(frame, coordinate)?);
        }
        // A layer is an integer, also where the other coordinates are floats.
        for (&to, &from) in at.iter().zip(&parts) {
            self.emit(Op::Copy { to, from });
        }
        let registers = self.fresh(4);
        for (&to, &from) in registers.iter().zip(value) {
            self.emit(Op::Copy { to, from });
        }
        self.emit(Op::Texel { access, registers: registers[0], buffer, at: at[0] });
        Ok(registers)
    }

    // Expressions.

    fn value(&mut self, frame: &mut Frame<'m>, handle: Handle<Expression>) -> Result<Value, String> {
        match self.lowered(frame, handle)? {
            Lowered::Value(value) => Ok(value),
            Lowered::Place(_) => unsupported("a pointer as a value"),
        }
    }

    fn place(&mut self, frame: &mut Frame<'m>, handle: Handle<Expression>) -> Result<Place, String> {
        match self.lowered(frame, handle)? {
            Lowered::Place(place) => Ok(place),
            Lowered::Value(_) => unsupported("a value as a pointer"),
        }
    }

    /// An operand: emitted earlier, or an expression that needs no evaluation.
    fn lowered(&mut self, frame: &mut Frame<'m>, handle: Handle<Expression>) -> Result<Lowered, String> {
        match frame.lowered.get(&handle) {
            Some(lowered) => Ok(lowered.clone()),
            None => self.expression(frame, handle),
        }
    }

    fn type_of(&self, frame: &Frame<'m>, handle: Handle<Expression>) -> &'m TypeInner {
        frame.info[handle].ty.inner_with(&self.module.types)
    }

    fn expression(&mut self, frame: &mut Frame<'m>, handle: Handle<Expression>) -> Result<Lowered, String> {
        let value = match &frame.function.expressions[handle] {
            Expression::Literal(literal) => vec![self.literal(*literal)?],
            Expression::Constant(constant) => self.named_constant(*constant)?,
            Expression::ZeroValue(ty) => vec![self.constant(0); self.scalars(*ty)? as usize],
            Expression::Compose { ty, components } => {
                let parts: Result<Vec<Value>, String> =
                    components.iter().map(|&component| self.value(frame, component)).collect();
                self.compose(*ty, parts?)?
            }
            Expression::FunctionArgument(index) => return Ok(frame.arguments[*index as usize].clone()),
            Expression::GlobalVariable(global) => match self.globals.get(global) {
                Some(&place) => return Ok(Lowered::Place(place)),
                None => return unsupported("a variable that is not used"),
            },
            Expression::LocalVariable(local) => return Ok(Lowered::Place(frame.locals[local])),
            Expression::Access { base, index } => return self.access(frame, *base, *index),
            Expression::AccessIndex { base, index } => return self.access_index(frame, *base, *index),
            Expression::Splat { size, value } => self.value(frame, *value)?.repeat(*size as usize),
            Expression::Swizzle { size, vector, pattern } => {
                let vector = self.value(frame, *vector)?;
                pattern[..*size as usize].iter().map(|&component| vector[component as usize]).collect()
            }
            Expression::Load { pointer } => {
                let place = self.place(frame, *pointer)?;
                match self.type_of(frame, *pointer).pointed(self.module) {
                    TypeInner::Atomic(_) => {
                        let zero = self.constant(0);
                        self.atomic(AtomicAccess::Load, |old, _| old, place, zero, None)
                    }
                    inner => self.load(place, &self.padding(&inner)?),
                }
            }
            Expression::Unary { op, expr } => {
                let kind = Self::kind(self.type_of(frame, *expr))?;
                let Some(f) = word::unary(*op, kind) else { return unsupported((op, kind)) };
                let a = self.value(frame, *expr)?;
                let work = if kind == ScalarKind::Float { Work::Nothing } else { Work::Integer };
                self.zip([&a], |this, to, [a]| {
                    this.emit_as(work, Op::Map1 { f, to, a });
                })
            }
            Expression::Binary { op, left, right } => {
                let [left_type, right_type] = [*left, *right].map(|operand| self.type_of(frame, operand));
                let kind = Self::kind(left_type)?;
                let Some(f) = word::binary(*op, kind) else { return unsupported((op, kind)) };
                let (a, b) = (self.value(frame, *left)?, self.value(frame, *right)?);
                let value = match self.product(*op, [left_type, right_type], &a, &b) {
                    Some(product) => product,
                    None => self.zip([&a, &b], |this, to, [a, b]| {
                        this.check(*op, kind, a, b);
                        this.emit_as(work_of_binary(*op, kind), Op::Map2 { f, to, a, b });
                    }),
                };
                self.rounded(self.type_of(frame, handle), value)
            }
            Expression::Select { condition, accept, reject } => {
                let operands = [*condition, *accept, *reject].map(|operand| self.value(frame, operand));
                let [condition, accept, reject] = operands;
                let (condition, accept, reject) = (condition?, accept?, reject?);
                let known: Option<Vec<u32>> = condition.iter().map(|&slot| self.known(slot)).collect();
                match known {
                    Some(known) => {
                        let chosen = |index: usize| if known[index % known.len()] == 0 { &reject } else { &accept };
                        (0..accept.len()).map(|index| chosen(index)[index]).collect()
                    }
                    None => self.zip([&condition, &accept, &reject], |this, to, [a, b, c]| {
                        this.emit_as(Work::Integer, Op::Map3 { f: word::SELECT, to, a, b, c });
                    }),
                }
            }
            Expression::Relational { fun, argument } => {
                let argument = self.value(frame, *argument)?;
                let op = match fun {
                    RelationalFunction::All => BinaryOperator::LogicalAnd,
                    RelationalFunction::Any => BinaryOperator::LogicalOr,
                    RelationalFunction::IsNan => return Ok(Lowered::Value(self.map1(word::IS_NAN, &argument))),
                    RelationalFunction::IsInf => return Ok(Lowered::Value(self.map1(word::IS_INF, &argument))),
                };
                let f = word::binary(op, ScalarKind::Bool).expect("booleans have both");
                let folded = argument.into_iter().reduce(|a, b| self.map2(Work::Integer, f, a, b));
                folded.into_iter().collect()
            }
            Expression::Math { fun, arg, arg1, arg2, arg3 } => {
                let result = self.type_of(frame, handle);
                let value = self.math(frame, *fun, result, [Some(*arg), *arg1, *arg2, *arg3])?;
                self.rounded(result, value)
            }
            Expression::ImageLoad { image, coordinate, array_index, .. } => {
                let place = self.place(frame, *image)?;
                let texel =
                    self.texel(frame, TexelAccess::Load, place, [Some(*coordinate), *array_index], &Vec::new())?;
                texel[..self.scalars_of(self.type_of(frame, handle))? as usize].to_vec()
            }
            Expression::ImageSample { image, coordinate, array_index, depth_ref: None, .. } => {
                let place = self.place(frame, *image)?;
                let texel =
                    self.texel(frame, TexelAccess::Sample, place, [Some(*coordinate), *array_index], &Vec::new())?;
                texel[..self.scalars_of(self.type_of(frame, handle))? as usize].to_vec()
            }
            Expression::ImageQuery { image, query } => {
                let place = self.place(frame, *image)?;
                let Memory::Storage(buffer) = place.memory else { return unsupported("this texture") };
                let count = self.scalars_of(self.type_of(frame, handle))?;
                let to = self.fresh(count);
                match query {
                    ImageQuery::Size { .. } => (0..).zip(&to).for_each(|(axis, &to)| {
                        self.emit(Op::Extent { to, buffer, axis });
                    }),
                    ImageQuery::NumLayers => drop(self.emit(Op::Extent { to: to[0], buffer, axis: 2 })),
                    ImageQuery::NumLevels | ImageQuery::NumSamples => {
                        return Ok(Lowered::Value(vec![self.constant(1)]));
                    }
                }
                to
            }
            Expression::As { expr, kind, convert } => {
                let from_type = self.type_of(frame, *expr);
                let from = Self::kind(from_type)?;
                let width = from_type.scalar().map(|scalar| scalar.width);
                let f = match convert {
                    Some(2 | 4) => word::convert(from, *kind),
                    Some(1) if *kind == ScalarKind::Bool => word::convert(from, *kind),
                    None if width == Some(4) => Some(word::bitcast(from, *kind)),
                    _ => None,
                };
                let Some(f) = f else { return unsupported((from, kind, convert)) };
                let a = self.value(frame, *expr)?;
                let is_float = |kind| kind == ScalarKind::Float;
                let converts = convert.is_some() && (is_float(from) || is_float(*kind));
                let work = if converts { Work::Integer } else { Work::Nothing };
                let rule = match (from, kind) {
                    (ScalarKind::Float, ScalarKind::Sint) if converts => Some(Rule::ToSigned),
                    (ScalarKind::Float, ScalarKind::Uint) if converts => Some(Rule::ToUnsigned),
                    _ => None,
                };
                let f = if *convert == Some(2) && is_float(from) { word::HALF } else { f };
                let value = self.zip([&a], |this, to, [a]| {
                    if let Some(rule) = rule {
                        this.emit(Op::Check { rule, a, b: a });
                    }
                    this.emit_as(work, Op::Map1 { f, to, a });
                });
                if *convert == Some(2) && !is_float(from) { self.map1(word::HALF, &value) } else { value }
            }
            Expression::ArrayLength(array) => {
                let place = self.place(frame, *array)?;
                let (Memory::Storage(buffer), TypeInner::Pointer { base, .. }) =
                    (place.memory, self.type_of(frame, *array))
                else {
                    return unsupported("arrayLength of this");
                };
                let stride = self.strides(*base)?[0];
                let to = self.fresh(1)[0];
                self.emit(Op::Length { to, buffer, first: place.at, stride });
                vec![to]
            }
            Expression::CooperativeLoad { columns, data, .. } => {
                let side = *columns as u32;
                let registers = self.fresh(side * side);
                self.matrix(frame, MatrixAccess::Load, registers[0], side, data)?;
                registers
            }
            Expression::CooperativeMultiplyAdd { a, b, c } => {
                let [a, b, c] = [*a, *b, *c].map(|factor| self.value(frame, factor));
                let (a, b, c) = (a?, b?, c?);
                let to = self.fresh(c.len() as u32);
                let side = c.len().isqrt() as u32;
                self.emit(Op::MultiplyAdd { to: to[0], a: a[0], b: b[0], c: c[0], side });
                to
            }
            other => return unsupported(other),
        };
        Ok(Lowered::Value(value))
    }

    fn matrix(
        &mut self,
        frame: &mut Frame<'m>,
        access: MatrixAccess,
        registers: Slot,
        side: u32,
        data: &naga::CooperativeData,
    ) -> Result<(), String> {
        let Place { memory, at, offset, variable } = self.place(frame, data.pointer)?;
        let stride = self.value(frame, data.stride)?[0];
        let transposed = !data.row_major;
        let bytes = match self.type_of(frame, data.pointer) {
            TypeInner::Pointer { base, .. } => self.inner(*base).size(self.module.to_ctx()),
            TypeInner::ValuePointer { scalar, .. } => u32::from(scalar.width),
            other => return unsupported(other),
        };
        self.emit(Op::Matrix { access, registers, side, memory, at, offset, stride, transposed, bytes, variable });
        Ok(())
    }

    fn map1(&mut self, f: Map1, value: &Value) -> Value {
        self.zip([value], |this, to, [a]| {
            this.emit_as(Work::Float, Op::Map1 { f, to, a });
        })
    }

    /// Arithmetic of halves is that of floats, rounded.
    fn rounded(&mut self, inner: &TypeInner, value: Value) -> Value {
        match inner.scalar() {
            Some(Scalar::F16) => self.zip([&value], |this, to, [a]| {
                this.emit(Op::Map1 { f: word::HALF, to, a });
            }),
            _ => value,
        }
    }

    /// Emits the checks of an operator of integers, but for those that a constant operand settles.
    fn check(&mut self, op: BinaryOperator, kind: ScalarKind, a: Slot, b: Slot) {
        use BinaryOperator as B;
        let signed = kind == ScalarKind::Sint;
        let rule = match op {
            _ if !signed && kind != ScalarKind::Uint => return,
            B::Divide | B::Modulo if signed => Rule::SignedDivisor,
            B::Divide | B::Modulo => Rule::Divisor,
            B::ShiftLeft | B::ShiftRight => Rule::Shift,
            B::Add if signed => Rule::Sum,
            B::Subtract if signed => Rule::Difference,
            B::Multiply if signed => Rule::Product,
            _ => return,
        };
        let is_settled = match (rule, self.known(b)) {
            (Rule::Shift, Some(bits)) => bits < 32,
            (Rule::Divisor | Rule::SignedDivisor, Some(bits)) => bits != 0 && bits != u32::MAX,
            _ => false,
        };
        if !is_settled {
            self.emit(Op::Check { rule, a, b });
        }
    }

    /// The sum of the products of floats, or of integers: after the first product, a product and its sum are one
    /// multiply-add.
    fn dot(&mut self, kind: ScalarKind, a: &[Slot], b: &[Slot]) -> Slot {
        let [multiply, add] = [BinaryOperator::Multiply, BinaryOperator::Add].map(|op| word::binary(op, kind));
        let (multiply, add) = (multiply.expect("numbers multiply"), add.expect("numbers add"));
        let one = if kind == ScalarKind::Float { Work::Float } else { Work::Integer };
        let [product, sum] = match kind {
            ScalarKind::Float => [Work::Nothing, Work::Fma],
            _ => [Work::Integer; 2],
        };
        let pairs = a.iter().zip(b).enumerate();
        let products: Value =
            pairs.map(|(index, (&a, &b))| self.map2(if index == 0 { one } else { product }, multiply, a, b)).collect();
        products.into_iter().reduce(|a, b| self.map2(sum, add, a, b)).expect("a vector has components")
    }

    /// The product of a matrix with a vector or another matrix.
    fn product(&mut self, op: BinaryOperator, types: [&TypeInner; 2], a: &Value, b: &Value) -> Option<Value> {
        if op != BinaryOperator::Multiply {
            return None;
        }
        // Columns, and scalars of each with and without padding.
        let shape = |inner: &TypeInner| match *inner {
            TypeInner::Matrix { columns, rows, scalar } => {
                Some([columns as usize, rows as usize, column(rows as u32, scalar) as usize])
            }
            _ => None,
        };
        let is_vector = |inner: &TypeInner| matches!(inner, TypeInner::Vector { .. });
        let times = |this: &mut Self, [columns, rows, step]: [usize; 3], vector: &[Slot]| -> Value {
            let row = |row: usize| -> Value { (0..columns).map(|column| a[column * step + row]).collect() };
            (0..rows).map(|index| this.dot(ScalarKind::Float, &row(index), vector)).collect()
        };
        match (shape(types[0]), shape(types[1])) {
            (Some(left), Some([columns, rows, step])) => {
                let zero = self.constant(0);
                let mut value = vec![zero; columns * left[2]];
                for index in 0..columns {
                    let part = times(self, left, &b[index * step..index * step + rows]);
                    value[index * left[2]..index * left[2] + part.len()].copy_from_slice(&part);
                }
                Some(value)
            }
            (Some(left), None) if is_vector(types[1]) => Some(times(self, left, b)),
            (None, Some([columns, rows, step])) if is_vector(types[0]) => {
                let columns = (0..columns).map(|index| &b[index * step..index * step + rows]);
                Some(columns.map(|column| self.dot(ScalarKind::Float, a, column)).collect())
            }
            _ => None,
        }
    }

    fn math(
        &mut self,
        frame: &mut Frame<'m>,
        fun: MathFunction,
        result: &TypeInner,
        arguments: [Option<Handle<Expression>>; 4],
    ) -> Result<Value, String> {
        let first = arguments[0].expect("a function has an argument");
        let first_type = self.type_of(frame, first);
        let kind = Self::kind(first_type)?;
        let mut operands = Vec::new();
        for handle in arguments.into_iter().flatten() {
            operands.push(self.value(frame, handle)?);
        }
        if let Some(value) = self.composite(fun, kind, result, first_type, &operands)? {
            return Ok(value);
        }
        let work = work_of_math(fun, kind);
        match (word::math(fun, kind), operands.as_slice()) {
            (Some(Math::One(f)), [a]) => Ok(self.zip([a], |this, to, [a]| {
                this.emit_as(work, Op::Map1 { f, to, a });
            })),
            (Some(Math::Two(f)), [a, b]) => Ok(self.zip([a, b], |this, to, [a, b]| {
                this.emit_as(work, Op::Map2 { f, to, a, b });
            })),
            (Some(Math::Three(f)), [a, b, c]) => Ok(self.zip([a, b, c], |this, to, [a, b, c]| {
                this.emit_as(work, Op::Map3 { f, to, a, b, c });
            })),
            _ => unsupported((fun, kind)),
        }
    }

    /// The functions that do not work component by component.
    fn composite(
        &mut self,
        fun: MathFunction,
        kind: ScalarKind,
        result: &TypeInner,
        first: &TypeInner,
        operands: &[Value],
    ) -> Result<Option<Value>, String> {
        use BinaryOperator as B;
        use MathFunction as F;
        let binary = |this: &mut Self, op: B, a: &Value, b: &Value| {
            let f = word::binary(op, kind).expect("numbers have it");
            this.zip([a, b], |this, to, [a, b]| {
                this.emit_as(work_of_binary(op, kind), Op::Map2 { f, to, a, b });
            })
        };
        let root = |this: &mut Self, a: &Value| {
            let square = vec![this.dot(kind, a, a)];
            let Some(Math::One(f)) = word::math(F::Sqrt, kind) else { unreachable!("floats have a root") };
            this.map1(f, &square)
        };
        let integers = |op: B| word::binary(op, ScalarKind::Uint).expect("u32 has it");
        if let (Some((bits, f)), [a]) = (word::pack(fun), operands) {
            let parts = self.map1(f, a);
            let mut word = parts[0];
            for (index, &part) in (1..).zip(&parts[1..]) {
                let by = self.constant(index * bits);
                let shifted = self.map2(Work::Integer, integers(B::ShiftLeft), part, by);
                word = self.map2(Work::Integer, integers(B::InclusiveOr), word, shifted);
            }
            return Ok(Some(vec![word]));
        }
        if let (Some((bits, f)), [a]) = (word::unpack(fun), operands) {
            let mut parts = Value::new();
            for index in 0..32 / bits {
                let by = self.constant(index * bits);
                parts.push(self.map2(Work::Integer, integers(B::ShiftRight), a[0], by));
            }
            return Ok(Some(self.map1(f, &parts)));
        }
        Ok(Some(match (fun, operands) {
            (F::Dot, [a, b]) => vec![self.dot(kind, a, b)],
            (F::Length, [a]) => root(self, a),
            (F::Distance, [a, b]) => {
                let difference = binary(self, B::Subtract, a, b);
                root(self, &difference)
            }
            (F::Normalize, [a]) => {
                let length = root(self, a);
                binary(self, B::Divide, a, &length)
            }
            (F::Cross, [a, b]) => {
                let turned = |v: &Value, by: usize| -> Value { (0..3).map(|index| v[(index + by) % 3]).collect() };
                let one = binary(self, B::Multiply, &turned(a, 1), &turned(b, 2));
                let other = binary(self, B::Multiply, &turned(a, 2), &turned(b, 1));
                binary(self, B::Subtract, &one, &other)
            }
            (F::Reflect, [a, b]) => {
                let two = vec![self.constant(2f32.to_bits())];
                let along = vec![self.dot(kind, a, b)];
                let twice = binary(self, B::Multiply, &two, &along);
                let back = binary(self, B::Multiply, &twice, b);
                binary(self, B::Subtract, a, &back)
            }
            (F::Transpose, [a]) => {
                let TypeInner::Matrix { columns, rows, scalar } = *first else { return unsupported(first) };
                let [from, to] = [rows, columns].map(|rows| column(rows as u32, scalar) as usize);
                let zero = self.constant(0);
                let mut value = vec![zero; rows as usize * to];
                for (at, row) in (0..columns as usize).flat_map(|at| (0..rows as usize).map(move |row| (at, row))) {
                    value[row * to + at] = a[at * from + row];
                }
                value
            }
            (F::Determinant, [a]) => {
                let TypeInner::Matrix { columns, rows, scalar } = *first else { return unsupported(first) };
                let step = column(rows as u32, scalar) as usize;
                let columns: Vec<Value> =
                    (0..columns as usize).map(|at| a[at * step..at * step + rows as usize].to_vec()).collect();
                vec![self.determinant(&columns)]
            }
            (F::Modf, [a]) => {
                let Some(Math::One(trunc)) = word::math(F::Trunc, kind) else { return Ok(None) };
                let parts = [self.map1(word::MODF, a), self.map1(trunc, a)];
                self.side_by_side(result, parts)?
            }
            (F::Frexp, [a]) => {
                let parts = word::FREXP.map(|f| self.map1(f, a));
                self.side_by_side(result, parts)?
            }
            (F::InsertBits, [a, new, offset, count]) => {
                self.zip([a, new, offset, count], |this, to, [a, new, offset, count]| {
                    let mask = this.map2(Work::Integer, word::FIELD, offset, count);
                    let moved = this.map2(Work::Integer, integers(B::ShiftLeft), new, offset);
                    this.emit_as(Work::Integer, Op::Map3 { f: word::MERGE, to, a: mask, b: moved, c: a });
                })
            }
            (F::Dot4I8Packed | F::Dot4U8Packed, [a, b]) => {
                let function = if fun == F::Dot4I8Packed { F::Unpack4xI8 } else { F::Unpack4xU8 };
                let mut parts = Vec::new();
                for packed in [a, b] {
                    let part =
                        self.composite(function, ScalarKind::Uint, result, first, std::slice::from_ref(packed))?;
                    parts.push(part.expect("it unpacks"));
                }
                vec![self.dot(ScalarKind::Sint, &parts[0], &parts[1])]
            }
            _ => return Ok(None),
        }))
    }

    /// A structure of two members.
    fn side_by_side(&self, result: &TypeInner, parts: [Value; 2]) -> Result<Value, String> {
        let mut value = vec![parts[0][0]; self.scalars_of(result)? as usize];
        for ((first, _), part) in self.parts(result)?.into_iter().zip(parts) {
            value[first as usize..first as usize + part.len()].copy_from_slice(&part);
        }
        Ok(value)
    }

    fn determinant(&mut self, columns: &[Value]) -> Slot {
        let [first, rest @ ..] = columns else { unreachable!("a matrix has columns") };
        if rest.is_empty() {
            return first[0];
        }
        let f = |op: BinaryOperator| word::binary(op, ScalarKind::Float).expect("floats have it");
        let mut sum = self.constant(0);
        for (row, &factor) in first.iter().enumerate() {
            let without = |column: &Value| [&column[..row], &column[row + 1..]].concat();
            let minor = self.determinant(&rest.iter().map(without).collect::<Vec<_>>());
            let product = self.map2(Work::Float, f(BinaryOperator::Multiply), factor, minor);
            let op = if row % 2 == 0 { BinaryOperator::Add } else { BinaryOperator::Subtract };
            sum = self.map2(Work::Float, f(op), sum, product);
        }
        sum
    }

    /// Elements of a pointer or composite: their count, their distance in scalars, and the type of one.
    fn elements(&self, inner: &TypeInner, place: Option<Place>) -> Result<(Count, u32, TypeInner), String> {
        match *inner {
            TypeInner::Vector { size, scalar } | TypeInner::ValuePointer { size: Some(size), scalar, .. } => {
                Ok((Count::Fixed(size as u32), 1, TypeInner::Scalar(scalar)))
            }
            TypeInner::Matrix { columns, rows, scalar } => {
                let element = TypeInner::Vector { size: rows, scalar };
                Ok((Count::Fixed(columns as u32), column(rows as u32, scalar), element))
            }
            TypeInner::Array { base, size, stride } => {
                let stride = self.stride(base, stride)?;
                let count = match (size, place.map(|place| (place.memory, place.at))) {
                    (ArraySize::Dynamic, Some((Memory::Storage(buffer), first))) => Count::Rest { buffer, first },
                    (size, _) => Count::Fixed(self.length(size)?),
                };
                Ok((count, stride, self.inner(base).clone()))
            }
            TypeInner::Pointer { base, .. } => self.elements(self.inner(base), place),
            ref other => unsupported(other),
        }
    }

    fn access(
        &mut self,
        frame: &mut Frame<'m>,
        base: Handle<Expression>,
        index: Handle<Expression>,
    ) -> Result<Lowered, String> {
        let inner = self.type_of(frame, base);
        let signed = Self::kind(self.type_of(frame, index))? == ScalarKind::Sint;
        let index = self.value(frame, index)?[0];
        match self.lowered(frame, base)? {
            Lowered::Place(place) => {
                let (count, stride, _) = self.elements(inner, Some(place))?;
                Ok(Lowered::Place(self.index(place, index, signed, count, stride)))
            }
            // Indexing needs the value in consecutive registers.
            Lowered::Value(value) => {
                let (count, stride, element) = self.elements(inner, None)?;
                let variable = self.program.variables.len() as u32;
                let name = frame.function.named_expressions.get(&base).cloned().unwrap_or_else(|| "the value".into());
                let copy = self.fresh(value.len() as u32);
                for (&to, &from) in copy.iter().zip(&value) {
                    self.emit(Op::Copy { to, from });
                }
                self.program.variables.push(Variable {
                    name,
                    memory: Memory::Registers,
                    at: copy[0],
                    scalars: copy.len() as u32,
                    strides: vec![stride],
                    scalar_bytes: 4,
                    first_byte: 0,
                });
                let place = Place { memory: Memory::Registers, at: copy[0], offset: None, variable };
                let at = self.index(place, index, signed, count, stride);
                let padding = vec![false; self.scalars_of(&element)? as usize];
                Ok(Lowered::Value(self.load(at, &padding)))
            }
        }
    }

    fn index(&mut self, place: Place, index: Slot, signed: bool, count: Count, stride: u32) -> Place {
        let to = self.fresh(1)[0];
        let Place { offset: outer, variable, .. } = place;
        // The address of an element of a buffer takes a scaling; that of workgroup memory is kept scaled, and registers
        // have none.
        let work = if matches!(place.memory, Memory::Storage(_)) { Work::Integer } else { Work::Nothing };
        self.emit_as(work, Op::Index { to, outer, index, signed, count, stride, variable });
        Place { offset: Some(to), ..place }
    }

    fn access_index(&mut self, frame: &mut Frame<'m>, base: Handle<Expression>, index: u32) -> Result<Lowered, String> {
        let inner = self.type_of(frame, base);
        let members = match inner {
            TypeInner::Struct { members, .. } => Some(members),
            TypeInner::Pointer { base, .. } => match self.inner(*base) {
                TypeInner::Struct { members, .. } => Some(members),
                _ => None,
            },
            _ => None,
        };
        let base = self.lowered(frame, base)?;
        let place = if let Lowered::Place(place) = base { Some(place) } else { None };
        let (first, scalars) = match members {
            Some(members) => {
                let member = &members[index as usize];
                // The last member may be a runtime-sized array, which is only accessed by pointer.
                let scalars = if place.is_some() { 0 } else { self.scalars(member.ty)? };
                (self.member(members, index as usize)?, scalars)
            }
            None => {
                let (count, stride, element) = self.elements(inner, place)?;
                if let (Count::Rest { .. }, Some(place)) = (count, place) {
                    let index = self.constant(index);
                    return Ok(Lowered::Place(self.index(place, index, false, count, stride)));
                }
                (index * stride, if place.is_some() { 0 } else { self.scalars_of(&element)? })
            }
        };
        Ok(match base {
            Lowered::Place(place) => Lowered::Place(Place { at: place.at + first, ..place }),
            Lowered::Value(value) => Lowered::Value(value[first as usize..(first + scalars) as usize].to_vec()),
        })
    }
}

/// Scalars from one column of a matrix to the next.
fn column(rows: u32, scalar: Scalar) -> u32 {
    if scalar == Scalar::F16 { rows } else { rows.next_power_of_two() }
}

/// What a pointer points at.
trait Pointed {
    fn pointed(&self, module: &Module) -> TypeInner;
}

impl Pointed for TypeInner {
    fn pointed(&self, module: &Module) -> TypeInner {
        match *self {
            TypeInner::Pointer { base, .. } => module.types[base].inner.clone(),
            TypeInner::ValuePointer { size: Some(size), scalar, .. } => TypeInner::Vector { size, scalar },
            TypeInner::ValuePointer { size: None, scalar, .. } => TypeInner::Scalar(scalar),
            ref other => other.clone(),
        }
    }
}
