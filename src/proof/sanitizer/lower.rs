//! From naga's IR to a [`Program`].

use std::collections::HashMap;
use std::ops::Range;

use naga::valid::{
    Capabilities, FunctionInfo, ModuleInfo, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator,
};
use naga::{
    AddressSpace, ArraySize, Barrier, BinaryOperator, Binding as ArgumentBinding, Block, Constant, Expression,
    Function, GatherMode, GlobalVariable, Handle, Literal, LocalVariable, MathFunction, Module, RelationalFunction,
    ScalarKind, Span, Statement, StorageAccess, StructMember, SwitchValue, Type, TypeInner,
};

use super::program::{Binding, Count, MatrixAccess, Memory, Op, Program, Slot, Variable, Work};
use super::word::{self, Map2, Math, Word};

/// Why a source has no program: it is not WGSL, or it uses a feature that no kernel here uses.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    pub file: String,
    pub line: u32,
    pub reason: String,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.reason)
    }
}

const CAPABILITIES: Capabilities = Capabilities::IMMEDIATES
    .union(Capabilities::SUBGROUP)
    .union(Capabilities::SHADER_FLOAT16)
    .union(Capabilities::COOPERATIVE_MATRIX);

/// Of WGSL's types, in bytes: that of `vec4<f32>`.
const LARGEST_ALIGNMENT: u32 = 16;

/// Parses and validates WGSL.
///
/// # Errors
/// With the compiler's message, when it is not WGSL.
pub fn parse(source: &str) -> Result<(Module, ModuleInfo), (u32, String)> {
    let module = naga::front::wgsl::parse_str(source)
        .map_err(|error| (error.location(source).map_or(0, |at| at.line_number), error.message().to_owned()))?;
    let info = Validator::new(ValidationFlags::all(), CAPABILITIES)
        .subgroup_stages(ShaderStages::COMPUTE)
        .subgroup_operations(SubgroupOperationSet::SHUFFLE)
        .validate(&module)
        .map_err(|error| {
            let line = error.location(source).map_or(0, |at| at.line_number);
            (line, format!("{:?}", error.into_inner()))
        })?;
    Ok((module, info))
}

/// The program of the entry point `main`. Reports call the source `file`.
///
/// # Errors
/// When the source is not WGSL, or uses something the interpreter does not support.
pub fn lower(file: &str, source: &str) -> Result<Program, Refusal> {
    let refuse = |(line, reason)| Refusal { file: file.to_owned(), line, reason };
    let (module, info) = parse(source).map_err(refuse)?;
    let (index, entry) = module
        .entry_points
        .iter()
        .enumerate()
        .find(|(_, entry)| entry.name == "main")
        .ok_or_else(|| refuse((0, "there is no entry point `main`".into())))?;

    let line_starts = std::iter::once(0).chain(source.match_indices('\n').map(|(at, _)| at + 1)).collect();
    let mut lowering = Lowering {
        module: &module,
        module_info: &info,
        line_starts,
        line: 0,
        globals: HashMap::new(),
        constants: HashMap::new(),
        program: Program {
            file: file.to_owned(),
            code: Vec::new(),
            lines: Vec::new(),
            works: Vec::new(),
            registers: Vec::new(),
            builtins: Vec::new(),
            immediates: Vec::new(),
            variables: Vec::new(),
            buffers: Vec::new(),
            workgroup_scalars: 0,
            workgroup_bytes: 0,
            workgroup_size: entry.workgroup_size,
        },
    };
    match lowering.entry(&entry.function, info.get_entry_point(index)) {
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
    line_starts: Vec<usize>,
    line: u32,
    globals: HashMap<Handle<GlobalVariable>, Place>,
    constants: HashMap<u32, Slot>,
    program: Program,
}

fn unsupported<T>(what: impl std::fmt::Debug) -> Result<T, String> {
    Err(format!("the interpreter does not support {what:?}"))
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
            let place = self.global(global)?;
            self.globals.insert(handle, place);
        }
        let mut arguments = Vec::new();
        for argument in &function.arguments {
            let Some(ArgumentBinding::BuiltIn(builtin)) = argument.binding else {
                return unsupported(argument);
            };
            let value = self.fresh(self.scalars(argument.ty)?);
            self.program.builtins.push((builtin, value[0]));
            arguments.push(Lowered::Value(value));
        }
        self.call(function, info, arguments, Vec::new())?;
        self.emit(Op::End);
        Ok(())
    }

    fn global(&mut self, global: &GlobalVariable) -> Result<Place, String> {
        let name = global.name.clone().unwrap_or_default();
        let variable = self.program.variables.len() as u32;
        let mut first_byte = 0;
        let (memory, at, scalars) = match global.space {
            AddressSpace::Storage { access } => {
                let binding = global.binding.as_ref().map_or(0, |b| b.binding);
                let buffer = self.program.buffers.len() as u32;
                self.program.buffers.push(Binding { binding, writable: access.contains(StorageAccess::STORE) });
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
        let strides = self.strides(global.ty)?;
        let scalar_bytes = self.scalar_bytes(global.ty);
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
            // An f16 is held as an f32 of the same value.
            TypeInner::Scalar(naga::Scalar::F16) => Ok(1),
            TypeInner::CooperativeMatrix { columns, rows, .. } => Ok(*columns as u32 * *rows as u32),
            TypeInner::Vector { size, scalar } => Ok(*size as u32 * self.scalars_of(&TypeInner::Scalar(*scalar))?),
            TypeInner::Array { base, size: ArraySize::Constant(count), stride } => {
                Ok(count.get() * self.stride(*base, *stride)?)
            }
            TypeInner::Struct { members, span } => match self.contains_bool_in(members) {
                true => self.member(members, members.len()),
                false if members.iter().all(|member| member.offset % 4 == 0) => Ok(span / 4),
                false => unsupported(inner),
            },
            other => unsupported(other),
        }
    }

    /// Size of a scalar of the type on a device: 2 where it holds halves, else 4.
    fn scalar_bytes(&self, ty: Handle<Type>) -> u32 {
        match self.inner(ty) {
            TypeInner::Scalar(scalar) | TypeInner::Vector { scalar, .. } if *scalar == naga::Scalar::F16 => 2,
            TypeInner::Array { base, .. } => self.scalar_bytes(*base),
            _ => 4,
        }
    }

    fn contains_bool(&self, ty: Handle<Type>) -> bool {
        match self.inner(ty) {
            TypeInner::Scalar(scalar) | TypeInner::Vector { scalar, .. } => scalar.kind == ScalarKind::Bool,
            TypeInner::Array { base, .. } => self.contains_bool(*base),
            TypeInner::Struct { members, .. } => self.contains_bool_in(members),
            _ => false,
        }
    }

    fn contains_bool_in(&self, members: &[StructMember]) -> bool {
        members.iter().any(|member| self.contains_bool(member.ty))
    }

    /// Scalars before a member. A structure with booleans lies in no buffer, and its members side by side.
    fn member(&self, members: &[StructMember], index: usize) -> Result<u32, String> {
        match self.contains_bool_in(members) {
            true => members[..index].iter().map(|member| self.scalars(member.ty)).sum(),
            false => Ok(members[index].offset / 4),
        }
    }

    /// Scalars from one array element to the next. A boolean, one byte in naga, occupies a scalar.
    fn stride(&self, base: Handle<Type>, bytes: u32) -> Result<u32, String> {
        Ok(self.scalars(base)?.max(bytes / 4))
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
        self.program.works.push(work);
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
            self.line = self.line_starts.partition_point(|&first| first <= start) as u32;
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
            Expression::Compose { components, .. } => {
                let parts: Result<Vec<Value>, String> =
                    components.iter().map(|&part| self.global_value(part)).collect();
                Ok(parts?.concat())
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
                    self.store(place, &value);
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
                frame.returns.push(jump);
            }
            Statement::ControlBarrier(flags) if (Barrier::STORAGE | Barrier::WORK_GROUP).contains(*flags) => {
                self.emit(Op::Barrier {
                    workgroup: flags.contains(Barrier::WORK_GROUP),
                    storage: flags.contains(Barrier::STORAGE),
                });
            }
            Statement::SubgroupGather { mode: GatherMode::Shuffle(lane), argument, result } => {
                let (from, lane) = (self.value(frame, *argument)?, self.value(frame, *lane)?);
                let value = self.zip([&from, &lane], |lowering, to, [from, lane]| {
                    lowering.emit(Op::Shuffle { to, from, lane });
                });
                frame.lowered.insert(*result, Lowered::Value(value));
            }
            Statement::Store { pointer, value } => {
                let (place, value) = (self.place(frame, *pointer)?, self.value(frame, *value)?);
                self.store(place, &value);
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
                let line = self.line;
                self.call(function, &self.module_info[*handle], arguments?, value.clone())?;
                self.line = line;
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

    fn store(&mut self, place: Place, value: &Value) {
        if let Place { memory: Memory::Registers, offset: None, at, .. } = place
            && value.windows(2).all(|pair| pair[0] + 1 == pair[1])
        {
            self.emit(Op::Move { to: at, from: value[0], count: value.len() as u32 });
            return;
        }
        for (component, &from) in (0..).zip(value) {
            let at = place.at + component;
            let op = match place {
                Place { memory: Memory::Registers, offset: None, .. } => Op::Copy { to: at, from },
                Place { memory, offset, .. } => Op::Store { from, memory, at, offset },
            };
            self.emit_as(Self::work(place, component, value.len() as u32), op);
        }
    }

    fn load(&mut self, place: Place, scalars: u32) -> Value {
        let value = self.fresh(scalars);
        if let Place { memory: Memory::Registers, offset: None, at, .. } = place {
            self.emit(Op::Move { to: value[0], from: at, count: scalars });
            return value;
        }
        for (component, &to) in (0..).zip(&value) {
            let at = place.at + component;
            let op = match place {
                Place { memory: Memory::Registers, offset: None, .. } => Op::Copy { to, from: at },
                Place { memory, offset, .. } => Op::Load { to, memory, at, offset },
            };
            self.emit_as(Self::work(place, component, scalars), op);
        }
        value
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
                let is_vector = matches!(self.inner(*ty), TypeInner::Vector { .. });
                let mut value = Value::new();
                for &component in components {
                    value.extend(self.value(frame, component)?);
                }
                if !is_vector && value.len() != self.scalars(*ty)? as usize {
                    return unsupported("a constructor of padded elements");
                }
                value
            }
            Expression::FunctionArgument(index) => return Ok(frame.arguments[*index as usize].clone()),
            Expression::GlobalVariable(global) => return Ok(Lowered::Place(self.globals[global])),
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
                let scalars = self.scalars_of(self.type_of(frame, handle))?;
                self.load(place, scalars)
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
                let kind = Self::kind(self.type_of(frame, *left))?;
                let Some(f) = word::binary(*op, kind) else { return unsupported((op, kind)) };
                let (a, b) = (self.value(frame, *left)?, self.value(frame, *right)?);
                let divides =
                    matches!(op, BinaryOperator::Divide | BinaryOperator::Modulo) && kind != ScalarKind::Float;
                self.zip([&a, &b], |this, to, [a, b]| {
                    if divides {
                        this.emit(Op::Divisor { a: b });
                    }
                    this.emit_as(work_of_binary(*op, kind), Op::Map2 { f, to, a, b });
                })
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
                let op = match fun {
                    RelationalFunction::All => BinaryOperator::LogicalAnd,
                    RelationalFunction::Any => BinaryOperator::LogicalOr,
                    other => return unsupported(other),
                };
                let f = word::binary(op, ScalarKind::Bool).expect("booleans have both");
                let argument = self.value(frame, *argument)?;
                let folded = argument.into_iter().reduce(|a, b| self.map2(Work::Integer, f, a, b));
                folded.into_iter().collect()
            }
            Expression::Math { fun, arg, arg1, arg2, arg3: _ } => self.math(frame, *fun, [Some(*arg), *arg1, *arg2])?,
            Expression::As { expr, kind, convert } => {
                let from = Self::kind(self.type_of(frame, *expr))?;
                let f = match convert {
                    Some(4) => word::convert(from, *kind),
                    Some(2) if (from, *kind) == (ScalarKind::Float, ScalarKind::Float) => Some(word::HALF),
                    Some(1) if *kind == ScalarKind::Bool => word::convert(from, *kind),
                    None => Some(word::bitcast(from, *kind)),
                    Some(_) => None,
                };
                let Some(f) = f else { return unsupported((from, kind, convert)) };
                let a = self.value(frame, *expr)?;
                let is_float = |kind| kind == ScalarKind::Float;
                let converts = convert.is_some() && (is_float(from) || is_float(*kind));
                let work = if converts { Work::Integer } else { Work::Nothing };
                self.zip([&a], |this, to, [a]| {
                    this.emit_as(work, Op::Map1 { f, to, a });
                })
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

    fn math(
        &mut self,
        frame: &mut Frame<'m>,
        fun: MathFunction,
        arguments: [Option<Handle<Expression>>; 3],
    ) -> Result<Value, String> {
        let first = arguments[0].expect("a function has an argument");
        let kind = Self::kind(self.type_of(frame, first))?;
        let mut operands = Vec::new();
        for handle in arguments.into_iter().flatten() {
            operands.push(self.value(frame, handle)?);
        }
        if fun == MathFunction::Dot {
            let [multiply, add] = [BinaryOperator::Multiply, BinaryOperator::Add].map(|op| word::binary(op, kind));
            let (Some(multiply), Some(add)) = (multiply, add) else { return unsupported((fun, kind)) };
            let one = if kind == ScalarKind::Float { Work::Float } else { Work::Integer };
            // After the first product, a product and its sum are one multiply-add.
            let [product, sum] = match kind {
                ScalarKind::Float => [Work::Nothing, Work::Fma],
                _ => [Work::Integer; 2],
            };
            let pairs = operands[0].iter().zip(&operands[1]).enumerate();
            let products: Value = pairs
                .map(|(index, (&a, &b))| self.map2(if index == 0 { one } else { product }, multiply, a, b))
                .collect();
            return Ok(products.into_iter().reduce(|a, b| self.map2(sum, add, a, b)).into_iter().collect());
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

    /// Elements of a pointer or composite: their count, and their distance in scalars.
    fn elements(&self, inner: &TypeInner, place: Option<Place>) -> Result<(Count, u32), String> {
        match inner {
            TypeInner::Vector { size, .. } | TypeInner::ValuePointer { size: Some(size), .. } => {
                Ok((Count::Fixed(*size as u32), 1))
            }
            TypeInner::Array { base, size, stride } => {
                let stride = self.stride(*base, *stride)?;
                match (size, place.map(|place| (place.memory, place.at))) {
                    (ArraySize::Constant(count), _) => Ok((Count::Fixed(count.get()), stride)),
                    (ArraySize::Dynamic, Some((Memory::Storage(buffer), first))) => {
                        Ok((Count::Rest { buffer, first }, stride))
                    }
                    other => unsupported(other.0),
                }
            }
            TypeInner::Pointer { base, .. } => self.elements(self.inner(*base), place),
            other => unsupported(other),
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
                let (count, stride) = self.elements(inner, Some(place))?;
                Ok(Lowered::Place(self.index(place, index, signed, count, stride)))
            }
            // Indexing needs the value in consecutive registers.
            Lowered::Value(value) => {
                let (count, stride) = self.elements(inner, None)?;
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
                let element = self.index(place, index, signed, count, stride);
                Ok(Lowered::Value(self.load(element, stride)))
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
                let (count, stride) = self.elements(inner, place)?;
                if let (Count::Rest { .. }, Some(place)) = (count, place) {
                    let index = self.constant(index);
                    return Ok(Lowered::Place(self.index(place, index, false, count, stride)));
                }
                (index * stride, stride)
            }
        };
        Ok(match base {
            Lowered::Place(place) => Lowered::Place(Place { at: place.at + first, ..place }),
            Lowered::Value(value) => Lowered::Value(value[first as usize..(first + scalars) as usize].to_vec()),
        })
    }
}
