//! An interpreter of compute shaders as naga has parsed them, for the part of WGSL that the kernels are written in.
//!
//! An invocation is a plain recursion over its function's statements. Workgroups whose kernel has barriers run their
//! invocations as threads; others run them one after another.

use std::collections::HashMap;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering};

use naga::{
    AddressSpace, ArraySize, BinaryOperator, Binding, Block, BuiltIn, Expression, Function, GlobalVariable, Handle,
    Literal, LocalVariable, MathFunction, Module, ScalarKind, Statement, SwitchValue, Type, TypeInner, UnaryOperator,
};
use stssad::kernel::Kernel;
use stssad::tensor::Tensor;

use super::rounding::Rounding;

/// What an expression evaluates to.
#[derive(Clone, Debug, PartialEq)]
enum Value {
    F32(f32),
    U32(u32),
    I32(i32),
    Bool(bool),
    Composite(Vec<Value>),
    Pointer(Pointer),
}

/// A place in a variable, which is a list of words.
#[derive(Clone, Debug, PartialEq)]
struct Pointer {
    variable: Variable,
    word: usize,
    to: Pointee,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Variable {
    Local(Handle<LocalVariable>),
    Global(Handle<GlobalVariable>),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Pointee {
    Type(Handle<Type>),
    /// A component of a vector.
    Scalar(ScalarKind),
}

/// How a list of statements was left.
enum Flow {
    Next,
    Break,
    Continue,
    Return(Option<Value>),
}

type Result<T> = std::result::Result<T, String>;

/// A parsed kernel.
pub struct Program {
    module: Module,
    has_barriers: bool,
}

/// Memory that invocations share.
type Words = Vec<AtomicU32>;

/// Contents of what nobody has written: a NaN.
const UNWRITTEN: u32 = 0x7fca_cafe;

impl Program {
    pub fn new(source: &str) -> Self {
        let module = naga::front::wgsl::parse_str(source).unwrap_or_else(|error| panic!("{error}"));
        Program { module, has_barriers: source.contains("workgroupBarrier()") }
    }

    /// Runs all workgroups of `kernel` and returns the output of `count` elements.
    ///
    /// # Errors
    /// A sentence, when an access goes astray.
    pub fn run(&self, kernel: &Kernel, inputs: &[Tensor], count: usize, seed: u64) -> Result<Vec<f32>> {
        let mut memory: HashMap<Handle<GlobalVariable>, Words> = HashMap::new();
        let mut output = None;
        for (handle, variable) in self.module.global_variables.iter() {
            let words: Vec<u32> = match variable.space {
                AddressSpace::Storage { .. } => {
                    let binding = variable.binding.as_ref().expect("a storage buffer is bound").binding as usize;
                    if binding == inputs.len() {
                        output = Some(handle);
                    }
                    inputs
                        .get(binding)
                        .map_or(vec![UNWRITTEN; count], |input| input.data().iter().map(|x| x.to_bits()).collect())
                }
                AddressSpace::Immediate => kernel.immediates.iter().map(|(_, value)| value.to_bits()).collect(),
                _ => continue,
            };
            memory.insert(handle, words.into_iter().map(AtomicU32::new).collect());
        }
        let [x, y, z] = kernel.workgroups;
        let workgroups = (0..z).flat_map(|k| (0..y).flat_map(move |j| (0..x).map(move |i| [i, j, k])));
        for (index, id) in workgroups.enumerate() {
            self.run_workgroup(kernel, &mut memory, id, seed ^ (index as u64) << 32)?;
        }
        let output = &memory[&output.expect("the last binding is the output")];
        Ok(output.iter().map(|word| f32::from_bits(word.load(Ordering::Relaxed))).collect())
    }

    fn run_workgroup(
        &self,
        kernel: &Kernel,
        memory: &mut HashMap<Handle<GlobalVariable>, Words>,
        id: [u32; 3],
        seed: u64,
    ) -> Result<()> {
        for (handle, variable) in self.module.global_variables.iter() {
            if variable.space == AddressSpace::WorkGroup {
                let words = (0..self.size(variable.ty)).map(|_| AtomicU32::new(UNWRITTEN)).collect();
                memory.insert(handle, words);
            }
        }
        let entry = &self.module.entry_points[0];
        let size = entry.workgroup_size;
        let count = size.iter().product::<u32>();
        let barrier = Barrier::new(count as usize);
        let memory = &*memory;
        let run = |local: u32| {
            let local_id = [local % size[0], local / size[0] % size[1], local / (size[0] * size[1])];
            let builtin = |builtin: BuiltIn| {
                let vector = |of: [u32; 3]| Value::Composite(of.map(Value::U32).to_vec());
                match builtin {
                    BuiltIn::GlobalInvocationId => vector([0, 1, 2].map(|axis| id[axis] * size[axis] + local_id[axis])),
                    BuiltIn::LocalInvocationId => vector(local_id),
                    BuiltIn::LocalInvocationIndex => Value::U32(local),
                    BuiltIn::WorkGroupId => vector(id),
                    BuiltIn::NumWorkGroups => vector(kernel.workgroups),
                    other => unimplemented!("{other:?}"),
                }
            };
            let arguments = entry.function.arguments.iter().map(|argument| match argument.binding {
                Some(Binding::BuiltIn(which)) => builtin(which),
                _ => unimplemented!("an argument that is not built in"),
            });
            let mut invocation =
                Invocation { program: self, memory, barrier: &barrier, rounding: Rounding::new(seed, local) };
            invocation.call(&entry.function, arguments.collect()).map(drop)
        };
        if !self.has_barriers {
            return (0..count).try_for_each(run);
        }
        // A thread that ends early would leave the others waiting; so faults are kept until all have ended, and a kernel
        // with a fault behind which barriers lie does not end. Its message is printed.
        std::thread::scope(|scope| {
            let spawn = |local: u32| {
                let builder = std::thread::Builder::new().stack_size(1 << 19);
                let run = &run;
                builder.spawn_scoped(scope, move || run(local).inspect_err(|fault| eprintln!("{fault}"))).unwrap()
            };
            let threads: Vec<_> = (0..count).map(spawn).collect();
            threads.into_iter().try_for_each(|thread| thread.join().expect("an invocation panicked"))
        })
    }

    fn inner(&self, ty: Handle<Type>) -> &TypeInner {
        &self.module.types[ty].inner
    }

    /// Words of a value of this type.
    fn size(&self, ty: Handle<Type>) -> usize {
        match self.inner(ty) {
            TypeInner::Scalar(_) => 1,
            TypeInner::Vector { size, .. } => *size as usize,
            TypeInner::Array { base, size: ArraySize::Constant(count), .. } => count.get() as usize * self.size(*base),
            TypeInner::Struct { members, .. } => members.iter().map(|member| self.size(member.ty)).sum(),
            other => unimplemented!("{other:?}"),
        }
    }

    fn zero(&self, ty: Handle<Type>) -> Value {
        match self.inner(ty) {
            TypeInner::Scalar(scalar) => from_bits(scalar.kind, 0),
            TypeInner::Vector { size, scalar } => Value::Composite(vec![from_bits(scalar.kind, 0); *size as usize]),
            TypeInner::Array { base, size: ArraySize::Constant(count), .. } => {
                Value::Composite(vec![self.zero(*base); count.get() as usize])
            }
            other => unimplemented!("{other:?}"),
        }
    }

    /// Type and first word of part `index` of what a pointer points to.
    fn part(&self, to: Pointee, index: usize) -> (Pointee, usize, Option<usize>) {
        let Pointee::Type(ty) = to else { unimplemented!("a part of a scalar") };
        match self.inner(ty) {
            TypeInner::Vector { size, scalar } => (Pointee::Scalar(scalar.kind), index, Some(*size as usize)),
            TypeInner::Array { base, size, .. } => {
                let count = if let ArraySize::Constant(count) = size { Some(count.get() as usize) } else { None };
                (Pointee::Type(*base), index * self.size(*base), count)
            }
            TypeInner::Struct { members, .. } => {
                let first = members[..index].iter().map(|member| self.size(member.ty)).sum();
                (Pointee::Type(members[index].ty), first, Some(members.len()))
            }
            other => unimplemented!("{other:?}"),
        }
    }
}

fn from_bits(kind: ScalarKind, bits: u32) -> Value {
    match kind {
        ScalarKind::Float => Value::F32(f32::from_bits(bits)),
        ScalarKind::Uint => Value::U32(bits),
        ScalarKind::Sint => Value::I32(bits as i32),
        ScalarKind::Bool => Value::Bool(bits != 0),
        other => unimplemented!("{other:?}"),
    }
}

fn flatten(value: &Value, words: &mut Vec<u32>) {
    match value {
        Value::F32(x) => words.push(x.to_bits()),
        Value::U32(x) => words.push(*x),
        Value::I32(x) => words.push(*x as u32),
        Value::Bool(x) => words.push(u32::from(*x)),
        Value::Composite(parts) => parts.iter().for_each(|part| flatten(part, words)),
        Value::Pointer(_) => unimplemented!("a stored pointer"),
    }
}

struct Invocation<'a> {
    program: &'a Program,
    memory: &'a HashMap<Handle<GlobalVariable>, Words>,
    barrier: &'a Barrier,
    rounding: Rounding,
}

/// One call of a function.
struct Frame<'a> {
    function: &'a Function,
    arguments: Vec<Value>,
    locals: HashMap<Handle<LocalVariable>, Vec<u32>>,
    /// What has been emitted, by the expression's index.
    values: Vec<Option<Value>>,
}

impl<'a> Invocation<'a> {
    fn call(&mut self, function: &'a Function, arguments: Vec<Value>) -> Result<Option<Value>> {
        let mut frame =
            Frame { function, arguments, locals: HashMap::new(), values: vec![None; function.expressions.len()] };
        for (handle, variable) in function.local_variables.iter() {
            let mut words = vec![0; self.program.size(variable.ty)];
            if let Some(init) = variable.init {
                words.clear();
                flatten(&self.value(&mut frame, init)?, &mut words);
            }
            frame.locals.insert(handle, words);
        }
        match self.block(&mut frame, &function.body)? {
            Flow::Return(value) => Ok(value),
            _ => Ok(None),
        }
    }

    fn block(&mut self, frame: &mut Frame<'a>, block: &'a Block) -> Result<Flow> {
        for statement in block {
            let flow = self.statement(frame, statement)?;
            if !matches!(flow, Flow::Next) {
                return Ok(flow);
            }
        }
        Ok(Flow::Next)
    }

    fn statement(&mut self, frame: &mut Frame<'a>, statement: &'a Statement) -> Result<Flow> {
        match statement {
            Statement::Emit(range) => {
                for handle in range.clone() {
                    let value = self.evaluate(frame, handle)?;
                    frame.values[handle.index()] = Some(value);
                }
            }
            Statement::Block(block) => return self.block(frame, block),
            Statement::If { condition, accept, reject } => {
                let Value::Bool(condition) = self.value(frame, *condition)? else { unreachable!("a condition") };
                return self.block(frame, if condition { accept } else { reject });
            }
            Statement::Switch { selector, cases } => {
                let chosen = self.value(frame, *selector)?;
                let fits = |value: &SwitchValue| match (value, &chosen) {
                    (SwitchValue::U32(case), Value::U32(x)) => case == x,
                    (SwitchValue::I32(case), Value::I32(x)) => case == x,
                    _ => false,
                };
                let by_value = cases.iter().position(|case| fits(&case.value));
                let default = cases.iter().position(|case| case.value == SwitchValue::Default);
                for case in &cases[by_value.or(default).expect("a switch has a default")..] {
                    match self.block(frame, &case.body)? {
                        Flow::Next if case.fall_through => {}
                        Flow::Next | Flow::Break => break,
                        flow => return Ok(flow),
                    }
                }
            }
            Statement::Loop { body, continuing, break_if } => loop {
                match self.block(frame, body)? {
                    Flow::Break => break,
                    Flow::Return(value) => return Ok(Flow::Return(value)),
                    Flow::Next | Flow::Continue => {}
                }
                self.block(frame, continuing)?;
                if let Some(condition) = break_if
                    && self.value(frame, *condition)? == Value::Bool(true)
                {
                    break;
                }
            },
            Statement::Break => return Ok(Flow::Break),
            Statement::Continue => return Ok(Flow::Continue),
            Statement::Return { value } => {
                let value = value.map(|value| self.value(frame, value)).transpose()?;
                return Ok(Flow::Return(value));
            }
            Statement::ControlBarrier(_) => drop(self.barrier.wait()),
            Statement::Store { pointer, value } => {
                let Value::Pointer(pointer) = self.value(frame, *pointer)? else { unreachable!("a pointer") };
                let mut words = Vec::new();
                flatten(&self.value(frame, *value)?, &mut words);
                match pointer.variable {
                    Variable::Local(handle) => {
                        let local = frame.locals.get_mut(&handle).expect("a local of this function");
                        local[pointer.word..pointer.word + words.len()].copy_from_slice(&words);
                    }
                    Variable::Global(handle) => {
                        for (word, cell) in words.iter().zip(&self.memory[&handle][pointer.word..]) {
                            cell.store(*word, Ordering::Relaxed);
                        }
                    }
                }
            }
            Statement::Call { function, arguments, result } => {
                let arguments = arguments.iter().map(|argument| self.value(frame, *argument)).collect::<Result<_>>()?;
                let value = self.call(&self.program.module.functions[*function], arguments)?;
                if let Some(result) = result {
                    frame.values[result.index()] = value;
                }
            }
            other => unimplemented!("{other:?}"),
        }
        Ok(Flow::Next)
    }

    /// The value of an expression that has been emitted, or needs not to be.
    fn value(&mut self, frame: &mut Frame<'a>, handle: Handle<Expression>) -> Result<Value> {
        match &frame.values[handle.index()] {
            Some(value) => Ok(value.clone()),
            None => self.evaluate(frame, handle),
        }
    }

    fn constant(&self, handle: Handle<Expression>) -> Value {
        let module = &self.program.module;
        match &module.global_expressions[handle] {
            Expression::Literal(literal) => from_literal(*literal),
            Expression::Constant(constant) => self.constant(module.constants[*constant].init),
            Expression::ZeroValue(ty) => self.program.zero(*ty),
            Expression::Compose { components, .. } => {
                Value::Composite(components.iter().map(|part| self.constant(*part)).collect())
            }
            Expression::Splat { size, value } => Value::Composite(vec![self.constant(*value); *size as usize]),
            other => unimplemented!("{other:?}"),
        }
    }

    fn evaluate(&mut self, frame: &mut Frame<'a>, handle: Handle<Expression>) -> Result<Value> {
        let module = &self.program.module;
        Ok(match &frame.function.expressions[handle] {
            Expression::Literal(literal) => from_literal(*literal),
            Expression::Constant(constant) => self.constant(module.constants[*constant].init),
            Expression::ZeroValue(ty) => self.program.zero(*ty),
            Expression::Compose { components, .. } => {
                let mut parts = Vec::new();
                for component in components {
                    // A vector may be composed of shorter ones.
                    match self.value(frame, *component)? {
                        Value::Composite(inner)
                            if matches!(inner[0], Value::F32(_) | Value::U32(_) | Value::I32(_)) =>
                        {
                            parts.extend(inner);
                        }
                        part => parts.push(part),
                    }
                }
                Value::Composite(parts)
            }
            Expression::Splat { size, value } => Value::Composite(vec![self.value(frame, *value)?; *size as usize]),
            Expression::Swizzle { size, vector, pattern } => {
                let Value::Composite(parts) = self.value(frame, *vector)? else { unreachable!("a vector") };
                Value::Composite(pattern[..*size as usize].iter().map(|&at| parts[at as usize].clone()).collect())
            }
            Expression::Access { base, index } => {
                let index = match self.value(frame, *index)? {
                    Value::U32(index) => index as usize,
                    Value::I32(index) => index as u32 as usize,
                    _ => unreachable!("an index"),
                };
                self.part(frame, *base, index)?
            }
            Expression::AccessIndex { base, index } => self.part(frame, *base, *index as usize)?,
            Expression::FunctionArgument(index) => frame.arguments[*index as usize].clone(),
            Expression::GlobalVariable(variable) => Value::Pointer(Pointer {
                variable: Variable::Global(*variable),
                word: 0,
                to: Pointee::Type(module.global_variables[*variable].ty),
            }),
            Expression::LocalVariable(variable) => Value::Pointer(Pointer {
                variable: Variable::Local(*variable),
                word: 0,
                to: Pointee::Type(frame.function.local_variables[*variable].ty),
            }),
            Expression::Load { pointer } => {
                let Value::Pointer(pointer) = self.value(frame, *pointer)? else { unreachable!("a pointer") };
                self.load(frame, pointer.variable, pointer.word, pointer.to)
            }
            Expression::Unary { op, expr } => each(self.value(frame, *expr)?, &mut |x| match (op, x) {
                (UnaryOperator::Negate, Value::F32(x)) => Value::F32(-x),
                (UnaryOperator::Negate, Value::I32(x)) => Value::I32(x.wrapping_neg()),
                (UnaryOperator::LogicalNot, Value::Bool(x)) => Value::Bool(!x),
                (UnaryOperator::BitwiseNot, Value::U32(x)) => Value::U32(!x),
                other => unimplemented!("{other:?}"),
            }),
            Expression::Binary { op, left, right } => {
                let (left, right) = (self.value(frame, *left)?, self.value(frame, *right)?);
                zip(left, right, &mut |a, b| self.binary(*op, a, b))
            }
            Expression::Select { condition, accept, reject } => {
                let (accept, reject) = (self.value(frame, *accept)?, self.value(frame, *reject)?);
                match self.value(frame, *condition)? {
                    Value::Bool(condition) => {
                        if condition {
                            accept
                        } else {
                            reject
                        }
                    }
                    other => unimplemented!("{other:?}"),
                }
            }
            Expression::Math { fun, arg, arg1, arg2, .. } => {
                let first = self.value(frame, *arg)?;
                let second = arg1.map(|arg| self.value(frame, arg)).transpose()?;
                let third = arg2.map(|arg| self.value(frame, arg)).transpose()?;
                self.math(*fun, first, second, third)
            }
            Expression::As { expr, kind, convert } => {
                let convert = convert.is_some();
                each(self.value(frame, *expr)?, &mut |x| self.cast(x, *kind, convert))
            }
            Expression::ArrayLength(array) => {
                let Value::Pointer(Pointer { variable: Variable::Global(variable), .. }) = self.value(frame, *array)?
                else {
                    unreachable!("a buffer")
                };
                Value::U32(self.memory[&variable].len() as u32)
            }
            other => unimplemented!("{other:?}"),
        })
    }

    /// Part `index` of a composite, or a pointer to it.
    fn part(&mut self, frame: &mut Frame<'a>, base: Handle<Expression>, index: usize) -> Result<Value> {
        let pointer = match self.value(frame, base)? {
            Value::Composite(mut parts) if index < parts.len() => return Ok(parts.swap_remove(index)),
            Value::Composite(parts) => return Err(format!("element {index} of a value that has {}", parts.len())),
            Value::Pointer(pointer) => pointer,
            other => unimplemented!("a part of {other:?}"),
        };
        let (to, offset, count) = self.program.part(pointer.to, index);
        let (name, count) = match pointer.variable {
            Variable::Local(handle) => (&frame.function.local_variables[handle].name, count.unwrap_or_default()),
            Variable::Global(handle) => (
                &self.program.module.global_variables[handle].name,
                count.unwrap_or_else(|| self.memory[&handle].len()),
            ),
        };
        if index >= count {
            let name = name.as_deref().unwrap_or_default();
            return Err(format!("an access to element {index} of `{name}`, which has {count}"));
        }
        Ok(Value::Pointer(Pointer { word: pointer.word + offset, to, ..pointer }))
    }

    fn load(&self, frame: &Frame, variable: Variable, word: usize, to: Pointee) -> Value {
        let scalar = |kind: ScalarKind, word: usize| {
            from_bits(
                kind,
                match variable {
                    Variable::Local(handle) => frame.locals[&handle][word],
                    Variable::Global(handle) => self.memory[&handle][word].load(Ordering::Relaxed),
                },
            )
        };
        let ty = match to {
            Pointee::Scalar(kind) => return scalar(kind, word),
            Pointee::Type(ty) => ty,
        };
        match self.program.inner(ty) {
            TypeInner::Scalar(of) => scalar(of.kind, word),
            TypeInner::Vector { size, scalar: of } => {
                Value::Composite((0..*size as usize).map(|index| scalar(of.kind, word + index)).collect())
            }
            TypeInner::Array { base, size: ArraySize::Constant(count), .. } => {
                let (base, size) = (*base, self.program.size(*base));
                let parts = (0..count.get() as usize)
                    .map(|index| self.load(frame, variable, word + index * size, Pointee::Type(base)));
                Value::Composite(parts.collect())
            }
            other => unimplemented!("{other:?}"),
        }
    }

    fn binary(&mut self, op: BinaryOperator, a: Value, b: Value) -> Value {
        use BinaryOperator as Op;
        use Value::{Bool, F32, I32, U32};
        match (op, a, b) {
            (Op::Add, F32(a), F32(b)) => F32(self.rounding.add(a, b)),
            (Op::Subtract, F32(a), F32(b)) => F32(self.rounding.add(a, -b)),
            (Op::Multiply, F32(a), F32(b)) => F32(self.rounding.multiply(a, b)),
            (Op::Divide, F32(a), F32(b)) => F32(self.rounding.divide(a, b)),
            (Op::Add, U32(a), U32(b)) => U32(a.wrapping_add(b)),
            (Op::Subtract, U32(a), U32(b)) => U32(a.wrapping_sub(b)),
            (Op::Multiply, U32(a), U32(b)) => U32(a.wrapping_mul(b)),
            (Op::Divide, U32(a), U32(b)) => U32(a.checked_div(b).unwrap_or(a)),
            (Op::Modulo, U32(a), U32(b)) => U32(a.checked_rem(b).unwrap_or(0)),
            (Op::And, U32(a), U32(b)) => U32(a & b),
            (Op::ExclusiveOr, U32(a), U32(b)) => U32(a ^ b),
            (Op::InclusiveOr, U32(a), U32(b)) => U32(a | b),
            (Op::ShiftLeft, U32(a), U32(b)) => U32(a << (b % 32)),
            (Op::ShiftRight, U32(a), U32(b)) => U32(a >> (b % 32)),
            (Op::Add, I32(a), I32(b)) => I32(a.wrapping_add(b)),
            (Op::Subtract, I32(a), I32(b)) => I32(a.wrapping_sub(b)),
            (Op::Multiply, I32(a), I32(b)) => I32(a.wrapping_mul(b)),
            (Op::Divide, I32(a), I32(b)) => I32(a.checked_div(b).unwrap_or(a)),
            (Op::Modulo, I32(a), I32(b)) => I32(a.checked_rem(b).unwrap_or(0)),
            (Op::LogicalAnd | Op::And, Bool(a), Bool(b)) => Bool(a && b),
            (Op::LogicalOr | Op::InclusiveOr, Bool(a), Bool(b)) => Bool(a || b),
            (op, F32(a), F32(b)) => Bool(ordered(op, a.partial_cmp(&b))),
            (op, U32(a), U32(b)) => Bool(ordered(op, Some(a.cmp(&b)))),
            (op, I32(a), I32(b)) => Bool(ordered(op, Some(a.cmp(&b)))),
            other => unimplemented!("{other:?}"),
        }
    }

    fn math(&mut self, fun: MathFunction, first: Value, second: Option<Value>, third: Option<Value>) -> Value {
        use MathFunction as Fun;
        if fun == Fun::Dot {
            let products =
                zip(first, second.expect("two operands"), &mut |a, b| self.binary(BinaryOperator::Multiply, a, b));
            let Value::Composite(products) = products else { unreachable!("vectors") };
            return products.into_iter().reduce(|sum, x| self.binary(BinaryOperator::Add, sum, x)).expect("a vector");
        }
        match (second, third) {
            (None, _) => each(first, &mut |x| match (fun, x) {
                (Fun::Abs, Value::F32(x)) => Value::F32(x.abs()),
                (Fun::Abs, Value::I32(x)) => Value::I32(x.wrapping_abs()),
                (Fun::Floor, Value::F32(x)) => Value::F32(x.floor()),
                (Fun::Ceil, Value::F32(x)) => Value::F32(x.ceil()),
                (Fun::Round, Value::F32(x)) => Value::F32(x.round_ties_even()),
                (Fun::Sign, Value::F32(x)) => Value::F32(if x == 0.0 { 0.0 } else { x.signum() }),
                (Fun::Exp, Value::F32(x)) => Value::F32(self.rounding.exp(x)),
                (Fun::Log, Value::F32(x)) => Value::F32(self.rounding.ln(x)),
                (Fun::Sqrt, Value::F32(x)) => Value::F32(self.rounding.sqrt(x)),
                other => unimplemented!("{other:?}"),
            }),
            (Some(second), None) => zip(first, second, &mut |a, b| match (fun, a, b) {
                (Fun::Min, Value::F32(a), Value::F32(b)) => Value::F32(a.min(b)),
                (Fun::Max, Value::F32(a), Value::F32(b)) => Value::F32(a.max(b)),
                (Fun::Min, Value::U32(a), Value::U32(b)) => Value::U32(a.min(b)),
                (Fun::Max, Value::U32(a), Value::U32(b)) => Value::U32(a.max(b)),
                (Fun::Min, Value::I32(a), Value::I32(b)) => Value::I32(a.min(b)),
                (Fun::Max, Value::I32(a), Value::I32(b)) => Value::I32(a.max(b)),
                other => unimplemented!("{other:?}"),
            }),
            (Some(second), Some(third)) => {
                let pairs = zip(second, third, &mut |a, b| Value::Composite(vec![a, b]));
                let apply = &mut |x: Value, pair: Value| {
                    let Value::Composite(pair) = pair else { unreachable!("a pair") };
                    match (fun, x, &pair[0], &pair[1]) {
                        (Fun::Fma, Value::F32(a), Value::F32(b), Value::F32(c)) => {
                            Value::F32(self.rounding.fma(a, *b, *c))
                        }
                        (Fun::Clamp, Value::F32(x), Value::F32(low), Value::F32(high)) => {
                            Value::F32(x.max(*low).min(*high))
                        }
                        other => unimplemented!("{other:?}"),
                    }
                };
                match (first, pairs) {
                    (Value::Composite(a), Value::Composite(b)) => {
                        Value::Composite(a.into_iter().zip(b).map(|(a, b)| apply(a, b)).collect())
                    }
                    (a, b) => apply(a, b),
                }
            }
        }
    }

    fn cast(&mut self, x: Value, kind: ScalarKind, convert: bool) -> Value {
        if !convert {
            let mut words = Vec::new();
            flatten(&x, &mut words);
            return from_bits(kind, words[0]);
        }
        match (x, kind) {
            (Value::U32(x), ScalarKind::Float) => Value::F32(self.rounding.correct(f64::from(x))),
            (Value::I32(x), ScalarKind::Float) => Value::F32(self.rounding.correct(f64::from(x))),
            (Value::F32(x), ScalarKind::Uint) => Value::U32(x as u32),
            (Value::F32(x), ScalarKind::Sint) => Value::I32(x as i32),
            (Value::U32(x), ScalarKind::Sint) => Value::I32(x as i32),
            (Value::I32(x), ScalarKind::Uint) => Value::U32(x as u32),
            (x @ Value::U32(_), ScalarKind::Uint) | (x @ Value::I32(_), ScalarKind::Sint) => x,
            other => unimplemented!("{other:?}"),
        }
    }
}

fn ordered(op: BinaryOperator, order: Option<std::cmp::Ordering>) -> bool {
    use BinaryOperator as Op;
    match op {
        Op::Equal => order.is_some_and(std::cmp::Ordering::is_eq),
        Op::NotEqual => !order.is_some_and(std::cmp::Ordering::is_eq),
        Op::Less => order.is_some_and(std::cmp::Ordering::is_lt),
        Op::LessEqual => order.is_some_and(std::cmp::Ordering::is_le),
        Op::Greater => order.is_some_and(std::cmp::Ordering::is_gt),
        Op::GreaterEqual => order.is_some_and(std::cmp::Ordering::is_ge),
        other => unimplemented!("{other:?}"),
    }
}

fn from_literal(literal: Literal) -> Value {
    match literal {
        Literal::F32(x) => Value::F32(x),
        Literal::U32(x) => Value::U32(x),
        Literal::I32(x) => Value::I32(x),
        Literal::Bool(x) => Value::Bool(x),
        other => unimplemented!("{other:?}"),
    }
}

/// Applies `f` to a scalar, or to each component of a vector.
fn each(x: Value, f: &mut impl FnMut(Value) -> Value) -> Value {
    match x {
        Value::Composite(parts) => Value::Composite(parts.into_iter().map(f).collect()),
        scalar => f(scalar),
    }
}

/// Applies `f` to two scalars, to the components of two vectors, or to those of one and a scalar.
fn zip(a: Value, b: Value, f: &mut impl FnMut(Value, Value) -> Value) -> Value {
    match (a, b) {
        (Value::Composite(a), Value::Composite(b)) => {
            Value::Composite(a.into_iter().zip(b).map(|(a, b)| f(a, b)).collect())
        }
        (Value::Composite(a), b) => Value::Composite(a.into_iter().map(|a| f(a, b.clone())).collect()),
        (a, Value::Composite(b)) => Value::Composite(b.into_iter().map(|b| f(a.clone(), b)).collect()),
        (a, b) => f(a, b),
    }
}
