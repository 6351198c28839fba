//! Runs a [`Program`] over its workgroups and checks every access.

use std::collections::HashMap;

use super::program::{
    AtomicAccess, Count, MatrixAccess, Memory, OUTSIDE, Op, Over, Program, Slot, TexelAccess, gathers,
};
use super::report::{Kind, Level, Report};
use super::shadow::{Access, Shadow};
use super::word::{Rule, Word, multiply_add};

/// Invocations that share matrices: the largest subgroup of any device that runs the matrix kernels.
const SUBGROUP: u32 = 32;

/// Alignment of a matrix and of each of its rows in memory, in bytes: a row of the smallest matrix.
const ROW_BYTES: usize = 16;

/// A storage buffer before the dispatch.
#[derive(Clone, Debug)]
pub enum Buffer<'a> {
    Filled(&'a [f32]),
    /// This many uninitialised scalars.
    Unwritten(usize),
}

/// The inputs of a run.
#[derive(Clone, Debug)]
pub struct Dispatch<'a> {
    pub workgroups: [u32; 3],
    /// Members of the `var<immediate>` struct, in order.
    pub immediates: &'a [u32],
    /// In the order of groups and bindings.
    pub buffers: Vec<Buffer<'a>>,
    /// Lanes in a subgroup: consecutive invocations of a workgroup.
    pub subgroup: u32,
    /// Limit on the operations of all invocations together.
    pub limit: u64,
}

/// The results of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The contents of the dispatch's last buffer; uninitialised elements are NaN.
    pub output: Vec<f32>,
    pub reports: Vec<Report>,
    /// Operations executed.
    pub operations: u64,
}

/// Memory that invocations share.
#[derive(Debug, Default)]
pub(super) struct Region {
    pub words: Vec<Word>,
    shadows: Vec<Shadow>,
    /// Whether the kernel cannot write it, so accesses need no checks.
    read_only: bool,
    /// Whether it was written before the dispatch.
    is_given: bool,
    /// Whether the sanitizer chose how long it is.
    pub is_length_assumed: bool,
    /// Texels along each axis of a texture.
    pub extent: [u32; 3],
}

impl Region {
    pub fn filled(words: Vec<Word>, read_only: bool) -> Self {
        let shadows = vec![Shadow::default(); if read_only { 0 } else { words.len() }];
        Region { words, shadows, read_only, is_given: true, ..Region::default() }
    }

    pub fn unwritten(scalars: usize, with: Word) -> Self {
        Region { is_given: false, ..Region::filled(vec![with; scalars], false) }
    }
}

struct Invocation {
    registers: Vec<Word>,
    position: usize,
    /// Up to which operation a condition that depends on chosen contents decides what runs.
    until: u32,
}

/// Why an invocation paused.
#[derive(Clone, Copy, PartialEq)]
enum Pause {
    /// At the barrier with this index.
    Barrier(usize),
    /// At the shuffle, or another operation of a subgroup, with this index.
    Shuffle(usize),
    End,
    /// The operation limit is reached.
    Spent,
}

struct Machine<'a> {
    program: &'a Program,
    dispatch: &'a Dispatch<'a>,
    storage: Vec<Region>,
    workgroup: Region,
    /// What workgroup memory holds before it is written.
    fresh: Word,
    /// Whether the sanitizer chose how many workgroups there are: all but the first are assumed.
    is_chosen: bool,
    /// The access being executed; its operation is filled in where needed.
    now: Access,
    storage_epoch: u32,
    workgroup_epoch: u32,
    operations: u64,
    /// By kind and operations.
    reports: HashMap<(Kind, usize, usize), Report>,
}

impl Program {
    /// Runs every workgroup of the dispatch.
    ///
    /// # Panics
    /// When the dispatch lacks buffers or immediates that the kernel declares: a fault of the caller.
    pub fn run(&self, dispatch: &Dispatch) -> Outcome {
        let nan = Word::u32(f32::NAN.to_bits());
        let storage = self.buffers.iter().map(|buffer| match &dispatch.buffers[buffer.rank as usize] {
            Buffer::Filled(data) => {
                Region::filled(data.iter().map(|x| Word::u32(x.to_bits())).collect(), !buffer.writable)
            }
            Buffer::Unwritten(scalars) => Region::unwritten(*scalars, nan),
        });
        let (regions, reports, operations) = self.run_on(dispatch, storage.collect(), nan, false);
        let last = dispatch.buffers.len().wrapping_sub(1);
        let output = match self.buffers.iter().position(|buffer| buffer.rank as usize == last) {
            Some(index) => regions[index].words.iter().map(|w| w.as_f32()).collect(),
            // The kernel does not use it.
            None => dispatch.buffers.last().map_or(Vec::new(), |buffer| match buffer {
                Buffer::Filled(data) => data.to_vec(),
                Buffer::Unwritten(scalars) => vec![f32::NAN; *scalars],
            }),
        };
        Outcome { output, reports, operations }
    }

    /// Runs every workgroup on these regions, one for each of the program's buffers; `fresh` fills workgroup memory.
    /// `is_chosen` says that the sanitizer chose how many workgroups there are. Gives what they hold then, the reports by place, and the number of operations.
    pub(super) fn run_on(
        &self,
        dispatch: &Dispatch,
        storage: Vec<Region>,
        fresh: Word,
        is_chosen: bool,
    ) -> (Vec<Region>, Vec<Report>, u64) {
        assert_eq!(dispatch.immediates.len(), self.immediates.len(), "{}: immediates", self.file);
        let mut machine = Machine {
            program: self,
            dispatch,
            storage,
            workgroup: Region::default(),
            fresh,
            is_chosen,
            now: Access { workgroup: 0, invocation: 0, epoch: 0, operation: 0, assumed: false },
            storage_epoch: 0,
            workgroup_epoch: 0,
            operations: 0,
            reports: HashMap::new(),
        };
        let [x, y, z] = dispatch.workgroups;
        for workgroup in 0..x * y * z {
            if !machine.run_workgroup(workgroup) {
                break;
            }
        }
        let mut reports: Vec<Report> = machine.reports.into_values().collect();
        reports.sort_by(|one, other| {
            let key = |report: &Report| (report.line, report.kind, report.column);
            key(one).cmp(&key(other)).then_with(|| one.message.cmp(&other.message))
        });
        (machine.storage, reports, machine.operations)
    }
}

impl Machine<'_> {
    /// Runs one workgroup; returns whether the run may continue.
    fn run_workgroup(&mut self, workgroup: u32) -> bool {
        let count = self.program.invocations();
        self.workgroup = Region::unwritten(self.program.workgroup_scalars as usize, self.fresh);
        (self.storage_epoch, self.workgroup_epoch) = (0, 0);
        self.now.workgroup = workgroup;
        let mut invocations: Vec<Invocation> = (0..count).map(|index| self.invocation(index)).collect();
        loop {
            let mut pauses = Vec::with_capacity(invocations.len());
            for subgroup in invocations.chunks_mut(self.dispatch.subgroup as usize) {
                self.resume_subgroup(subgroup, &mut pauses);
                if pauses.last() == Some(&Pause::Spent) {
                    return false;
                }
            }
            let first = pauses[0];
            if let Some(other) = pauses.iter().position(|&pause| pause != first) {
                self.report_divergence(first, pauses[other], other);
                return true;
            }
            let Pause::Barrier(position) = first else { return true };
            if let Op::Barrier { workgroup, storage } = self.program.code[position] {
                self.workgroup_epoch += u32::from(workgroup);
                self.storage_epoch += u32::from(storage);
            }
        }
    }

    /// Executes the lanes of a subgroup until they wait for other invocations or diverge, and appends why each paused.
    fn resume_subgroup(&mut self, lanes: &mut [Invocation], pauses: &mut Vec<Pause>) {
        let first = pauses.len();
        loop {
            pauses.truncate(first);
            for lane in lanes.iter_mut() {
                self.now.invocation = pauses.len() as u32;
                pauses.push(self.resume(lane));
                if pauses.last() == Some(&Pause::Spent) {
                    return;
                }
            }
            let Pause::Shuffle(operation) = pauses[first] else { return };
            if pauses[first..].iter().any(|&pause| pause != pauses[first]) {
                return;
            }
            self.gather(operation, lanes, first as u32);
        }
    }

    /// Executes an operation of a subgroup, whose first lane is the invocation `first`.
    fn gather(&mut self, operation: usize, lanes: &mut [Invocation], first: u32) {
        let held = |lanes: &[Invocation], slot: Slot| -> Vec<Word> {
            lanes.iter().map(|lane| lane.registers[slot as usize]).collect()
        };
        match self.program.code[operation] {
            Op::Shuffle { to, from, lane } => {
                let values = held(lanes, from);
                for (index, invocation) in (first..).zip(lanes.iter_mut()) {
                    let source = invocation.registers[lane as usize];
                    let value = values.get(source.bits as usize).map(|value| value.assuming(source.assumed));
                    invocation.registers[to as usize] = value.unwrap_or_else(|| {
                        (self.now.invocation, self.now.assumed) = (index, source.assumed);
                        self.report(Kind::OutOfBounds, operation, 0, |machine| {
                            format!("{} takes a value from lane {} of {}", machine.name(), source.bits, values.len())
                        });
                        Word::default()
                    });
                }
            }
            Op::Collective { to, from, f, identity, over } => {
                let values = held(lanes, from);
                for (index, invocation) in lanes.iter_mut().enumerate() {
                    let combined = match over {
                        Over::All => &values[..],
                        Over::Including => &values[..=index],
                        Over::Before => &values[..index],
                    };
                    let start = Word::literal(identity);
                    let sum = combined.iter().fold(start, |sum, &it| f(sum, it).assuming(sum.assumed | it.assumed));
                    invocation.registers[to as usize] = sum;
                }
            }
            Op::Ballot { to, from } => {
                let values = held(lanes, from);
                let assumed = values.iter().any(|value| value.assumed);
                for (index, part) in (0..4).map(|part| (part, values.chunks(32).nth(part).unwrap_or(&[]))) {
                    let bits = (0..).zip(part).fold(0, |bits, (at, value)| bits | u32::from(value.as_bool()) << at);
                    let word = Word::u32(bits).assuming(assumed);
                    lanes.iter_mut().for_each(|lane| lane.registers[to as usize + index] = word);
                }
            }
            op => unreachable!("{op:?} does not gather"),
        }
    }

    fn workgroup_id(&self) -> [u32; 3] {
        self.id_of(self.now.workgroup)
    }

    fn id_of(&self, workgroup: u32) -> [u32; 3] {
        let [x, y, _] = self.dispatch.workgroups;
        [workgroup % x, workgroup / x % y, workgroup / (x * y)]
    }

    fn invocation(&self, index: u32) -> Invocation {
        let Dispatch { workgroups, subgroup, .. } = *self.dispatch;
        let mut registers = self.program.registers.clone();
        for (slot, value) in self.program.builtin_values(workgroups, self.workgroup_id(), index, subgroup) {
            registers[slot as usize] = Word::u32(value);
        }
        for (&slot, &bits) in self.program.immediates.iter().zip(self.dispatch.immediates) {
            registers[slot as usize] = Word::u32(bits);
        }
        Invocation { registers, position: 0, until: 0 }
    }

    /// Executes up to the next barrier, shuffle or return.
    fn resume(&mut self, invocation: &mut Invocation) -> Pause {
        let program = self.program;
        let registers = &mut invocation.registers;
        let mut position = invocation.position;
        // Position of the last jump back.
        let mut repeated = position;
        loop {
            if self.operations == self.dispatch.limit {
                self.report(Kind::Endless, repeated, 0, |machine| {
                    format!("{} has not finished after {} operations", machine.name(), machine.operations)
                });
                return Pause::Spent;
            }
            self.operations += 1;
            let operation = position;
            position += 1;
            if operation as u32 >= invocation.until {
                invocation.until = 0;
            }
            let decided = invocation.until != 0;
            match program.code[operation] {
                Op::Copy { to, from } => registers[to as usize] = registers[from as usize].assuming(decided),
                Op::Move { to, from, count } => {
                    registers.copy_within(from as usize..(from + count) as usize, to as usize);
                    if decided && program.assigns[operation] {
                        registers[to as usize..(to + count) as usize].iter_mut().for_each(|it| it.assumed = true);
                    }
                }
                Op::Zero { to, count } => registers[to as usize..(to + count) as usize].fill(Word::default()),
                Op::Map1 { f, to, a } => {
                    let a = registers[a as usize];
                    registers[to as usize] = f(a).assuming(a.assumed);
                }
                Op::Map2 { f, to, a, b } => {
                    let (a, b) = (registers[a as usize], registers[b as usize]);
                    registers[to as usize] = f(a, b).assuming(a.assumed | b.assumed);
                }
                Op::Map3 { f, to, a, b, c } => {
                    let [a, b, c] = [a, b, c].map(|slot| registers[slot as usize]);
                    registers[to as usize] = f(a, b, c).assuming(a.assumed | b.assumed | c.assumed);
                }
                Op::Check { rule, a, b } => {
                    let (a, b) = (registers[a as usize], registers[b as usize]);
                    if let Some(broken) = rule.broken(a, b) {
                        let kind = match rule {
                            Rule::Divisor | Rule::SignedDivisor if b.bits == 0 => Kind::DivisionByZero,
                            Rule::Shift => Kind::Shift,
                            Rule::ToSigned | Rule::ToUnsigned => Kind::Conversion,
                            _ => Kind::Wrapped,
                        };
                        self.now.assumed = a.assumed | b.assumed;
                        self.report(kind, operation, 0, |m| format!("{} {broken}", m.name()));
                    }
                }
                Op::Index { to, outer, index, signed, count, stride, variable } => {
                    let outer = outer.map_or(Word::u32(0), |slot| registers[slot as usize]);
                    let index = registers[index as usize];
                    let offset = self.index(operation, index, signed, count, stride, variable);
                    let element = Word::u32(match (outer.bits, offset) {
                        (OUTSIDE, _) | (_, None) => OUTSIDE,
                        (outer, Some(offset)) => outer + offset,
                    });
                    registers[to as usize] = element.assuming(outer.assumed | index.assumed);
                }
                Op::Load { to, memory, at, offset } => {
                    let assumed = offset.is_some_and(|slot| registers[slot as usize].assumed);
                    self.now.assumed = assumed;
                    let word = match (address(registers, at, offset), memory) {
                        (None, _) => Word::default(),
                        (Some(address), Memory::Registers) => registers[address],
                        (Some(address), _) => self.load(operation, memory, address),
                    };
                    registers[to as usize] = word.assuming(assumed);
                }
                Op::Store { from, memory, at, offset } => {
                    let assumed = offset.is_some_and(|slot| registers[slot as usize].assumed);
                    self.now.assumed = assumed;
                    let word = registers[from as usize].assuming(assumed | decided);
                    match (address(registers, at, offset), memory) {
                        (None, _) => {}
                        (Some(address), Memory::Registers) => registers[address] = word,
                        (Some(address), _) => self.store(operation, memory, address, word),
                    }
                }
                Op::Atomic { access, f, to, memory, at, offset, value, compare } => {
                    let assumed = offset.is_some_and(|slot| registers[slot as usize].assumed);
                    self.now.assumed = assumed;
                    let (value, compare) = (registers[value as usize], compare.map(|slot| registers[slot as usize]));
                    let Some(address) = address(registers, at, offset) else {
                        registers[to as usize] = Word::default();
                        continue;
                    };
                    let old = self.atomic(operation, access, memory, address);
                    let exchanged = compare.is_none_or(|compare| compare.bits == old.bits);
                    if access != AtomicAccess::Load && exchanged {
                        let new = f(old, value).assuming(old.assumed | value.assumed | assumed | decided);
                        self.region(memory).words[address] = new;
                    }
                    registers[to as usize] = old.assuming(assumed);
                    if let Some(compare) = compare {
                        let assumed = old.assumed | compare.assumed;
                        registers[to as usize + 1] = Word::u32(exchanged.into()).assuming(assumed);
                    }
                }
                Op::Texel { access, registers: first, buffer, at } => {
                    let at = [0, 1, 2].map(|axis| registers[at as usize + axis]);
                    self.now.assumed = at.iter().any(|it| it.assumed);
                    let texel = self.texel(access, buffer, at);
                    for component in 0..4 {
                        let slot = first as usize + component;
                        let address = texel.map(|texel| 4 * texel + component);
                        match (access, address) {
                            (TexelAccess::Store, Some(address)) => {
                                self.store(operation, Memory::Storage(buffer), address, registers[slot]);
                            }
                            (TexelAccess::Store, None) => {}
                            (_, Some(address)) => {
                                let word = self.load(operation, Memory::Storage(buffer), address);
                                registers[slot] = word.assuming(self.now.assumed);
                            }
                            (_, None) => registers[slot] = Word::default(),
                        }
                    }
                }
                Op::Extent { to, buffer, axis } => {
                    let region = &self.storage[buffer as usize];
                    let extent = Word::u32(region.extent[axis as usize]);
                    registers[to as usize] = extent.assuming(region.is_length_assumed);
                }
                Op::Matrix {
                    access,
                    registers: first,
                    side,
                    memory,
                    at,
                    offset,
                    stride,
                    transposed,
                    bytes,
                    variable,
                } => {
                    if self.stands_for_subgroup() {
                        let [start, end] = self.extent(memory, variable);
                        let stride = registers[stride as usize].bits as usize;
                        let place = address(registers, at, offset).map_or(0, |address| address - start);
                        if [place, stride].iter().any(|scalars| !(scalars * bytes as usize).is_multiple_of(ROW_BYTES)) {
                            self.report(Kind::Misaligned, operation, 0, |machine| {
                                format!("{} has matrix rows that are not aligned to {ROW_BYTES} bytes", machine.name())
                            });
                        }
                        for element in 0..side * side {
                            let (row, column) = ((element / side) as usize, (element % side) as usize);
                            let apart = if transposed { column * stride + row } else { row * stride + column };
                            let slot = (first + element) as usize;
                            match address(registers, at, offset).map(|address| address + apart) {
                                Some(address) if (start..end).contains(&address) => match access {
                                    MatrixAccess::Load => registers[slot] = self.load(operation, memory, address),
                                    MatrixAccess::Store => self.store(operation, memory, address, registers[slot]),
                                },
                                _ => self.report_matrix(operation, variable),
                            }
                        }
                    }
                }
                Op::MultiplyAdd { to, a, b, c, side } => {
                    if self.stands_for_subgroup() {
                        for element in 0..side * side {
                            let (row, column) = (element / side, element % side);
                            let mut sum = registers[(c + element) as usize];
                            for k in 0..side {
                                let [left, right] = [a + row * side + k, b + k * side + column];
                                sum = multiply_add(registers[left as usize], registers[right as usize], sum);
                            }
                            registers[(to + element) as usize] = sum;
                        }
                    }
                }
                Op::Length { to, buffer, first, stride } => {
                    let region = &self.storage[buffer as usize];
                    let scalars = (region.words.len() as u32).saturating_sub(first);
                    registers[to as usize] = Word::u32(scalars / stride).assuming(region.is_length_assumed);
                }
                Op::Jump { target } => position = target as usize,
                Op::Unless { condition, target } => {
                    let condition = registers[condition as usize];
                    if condition.assumed {
                        invocation.until = invocation.until.max(program.untils[operation]);
                    }
                    if !condition.as_bool() {
                        position = target as usize;
                    }
                }
                Op::Barrier { .. } => {
                    invocation.position = position;
                    return Pause::Barrier(operation);
                }
                ref op if gathers(op) => {
                    invocation.position = position;
                    return Pause::Shuffle(operation);
                }
                Op::Shuffle { .. } | Op::Collective { .. } | Op::Ballot { .. } => unreachable!("they gather"),
                Op::End => {
                    invocation.position = operation;
                    return Pause::End;
                }
            }
            if position <= operation {
                repeated = operation;
            }
        }
    }

    /// The offset of an element, or `None` if it does not exist.
    fn index(
        &mut self,
        operation: usize,
        index: Word,
        signed: bool,
        count: Count,
        stride: u32,
        variable: u32,
    ) -> Option<u32> {
        let (count, is_length_assumed) = match count {
            Count::Fixed(count) => (count, false),
            Count::Rest { buffer, first } => {
                let region = &self.storage[buffer as usize];
                ((region.words.len() as u32).saturating_sub(first) / stride, region.is_length_assumed)
            }
        };
        self.now.assumed = index.assumed;
        let value = index.integer(signed);
        let is_inside = (0..i64::from(count)).contains(&value);
        let name = || self.program.variables[variable as usize].name.clone();
        // Beyond the bounds it does not matter how it came there: a sentinel such as 0xffffffff is no overflow.
        if is_inside && !index.is_exact(signed) {
            let meant = index.meaning().map_or_else(String::new, |meant| format!(" instead of {meant}"));
            let name = name();
            self.report(Kind::Overflow, operation, usize::from(index.meaning().is_none()), |machine| {
                format!("{} indexes `{name}` with {value}{meant}: 32-bit arithmetic overflowed", machine.name())
            });
        }
        if is_inside {
            return Some(value as u32 * stride);
        }
        let name = name();
        self.now.assumed |= is_length_assumed;
        self.report(Kind::OutOfBounds, operation, 0, |machine| {
            format!("{} indexes `{name}` with {value}, but it has {count} elements", machine.name())
        });
        None
    }

    /// The texel at these coordinates, if there is one.
    fn texel(&self, access: TexelAccess, buffer: u32, at: [Word; 3]) -> Option<usize> {
        let extent = self.storage[buffer as usize].extent.map(i64::from);
        let mut place = [0; 3];
        for axis in 0..3 {
            place[axis] = match access {
                TexelAccess::Sample => {
                    // NaN takes the first texel.
                    let nearest = (f64::from(at[axis].as_f32()) * extent[axis] as f64).floor() as i64;
                    nearest.clamp(0, extent[axis] - 1)
                }
                _ => at[axis].integer(true),
            };
        }
        let is_inside = (0..3).all(|axis| (0..extent[axis]).contains(&place[axis]));
        is_inside.then(|| ((place[2] * extent[1] + place[1]) * extent[0] + place[0]) as usize)
    }

    /// Matrices belong to subgroups. One invocation in [`SUBGROUP`] executes the matrix operations of the subgroup; the
    /// others skip them.
    fn stands_for_subgroup(&self) -> bool {
        self.now.invocation.is_multiple_of(SUBGROUP)
    }

    /// The scalars of a variable: [first, one past the last].
    fn extent(&self, memory: Memory, variable: u32) -> [usize; 2] {
        let variable = &self.program.variables[variable as usize];
        let scalars = match memory {
            Memory::Storage(buffer) => self.storage[buffer as usize].words.len(),
            _ => variable.scalars as usize,
        };
        [variable.at as usize, variable.at as usize + scalars]
    }

    fn report_matrix(&mut self, operation: usize, variable: u32) {
        let name = self.program.variables[variable as usize].name.clone();
        self.report(Kind::OutOfBounds, operation, 0, |machine| {
            format!("a matrix of {} reaches beyond `{name}`", machine.name())
        });
    }

    fn region(&mut self, memory: Memory) -> &mut Region {
        match memory {
            Memory::Storage(buffer) => &mut self.storage[buffer as usize],
            Memory::Workgroup => &mut self.workgroup,
            Memory::Registers => unreachable!("registers are private to an invocation"),
        }
    }

    fn access(&self, operation: usize, memory: Memory) -> Access {
        let epoch = if memory == Memory::Workgroup { self.workgroup_epoch } else { self.storage_epoch };
        Access { operation: operation as u32, epoch, ..self.now }
    }

    fn load(&mut self, operation: usize, memory: Memory, address: usize) -> Word {
        let access = self.access(operation, memory);
        let region = self.region(memory);
        let word = region.words[address];
        if region.read_only {
            return word;
        }
        let shadow = &mut region.shadows[address];
        let is_written = shadow.is_written();
        if let Some(earlier) = shadow.read(access) {
            self.report_race(access, earlier, memory, address, "reads", word);
        } else if !is_written {
            self.report_unwritten(operation, memory, address);
        }
        word
    }

    fn report_unwritten(&mut self, operation: usize, memory: Memory, address: usize) {
        if self.region(memory).is_given {
            return;
        }
        // What is zero by WGSL's rules is told apart from what is not.
        let zeroed = usize::from(memory == Memory::Workgroup && self.fresh.bits == 0);
        self.report(Kind::Unwritten, operation, zeroed, |machine| {
            let element = machine.program.element(memory, address as u32);
            let holds = if zeroed == 1 { "no invocation has written, so that it holds 0" } else { "is uninitialised" };
            format!("{} reads `{element}`, which {holds}", machine.name())
        });
    }

    /// What an atomic holds before an access, which is noted.
    fn atomic(&mut self, operation: usize, access: AtomicAccess, memory: Memory, address: usize) -> Word {
        let now = self.access(operation, memory);
        let is_written = self.region(memory).shadows[address].is_written();
        if !is_written && access != AtomicAccess::Store {
            self.report_unwritten(operation, memory, address);
        }
        let region = self.region(memory);
        if access != AtomicAccess::Load {
            region.shadows[address].write_atomically(now);
        }
        region.words[address]
    }

    fn store(&mut self, operation: usize, memory: Memory, address: usize, word: Word) {
        let access = self.access(operation, memory);
        let region = self.region(memory);
        region.words[address] = word;
        if let Some(earlier) = region.shadows[address].write(access) {
            self.report_race(access, earlier, memory, address, "writes", word);
        }
    }

    fn name(&self) -> String {
        self.name_of(self.now)
    }

    fn name_of(&self, access: Access) -> String {
        let [x, y, z] = self.id_of(access.workgroup);
        format!("invocation {} of workgroup ({x}, {y}, {z})", access.invocation)
    }

    fn report(&mut self, kind: Kind, operation: usize, other: usize, message: impl FnOnce(&Self) -> String) {
        let assumed = self.now.assumed || (self.is_chosen && self.now.workgroup > 0);
        // What WGSL defines, or the sanitizer may have brought about, is weaker than what it has not.
        let is_defined = match kind {
            Kind::Unwritten | Kind::Overflow => other == 1,
            _ => false,
        };
        let level = if is_defined { Level::Note } else { kind.level() };
        let (file, line, column) =
            (self.program.file.clone(), self.program.lines[operation], self.program.columns[operation]);
        let make = |machine: &Self, occurrences: u64| Report {
            kind,
            level: if assumed { Level::Note } else { level },
            assumed,
            file,
            line,
            column,
            message: message(machine),
            occurrences,
        };
        let key = (kind, operation, other);
        match self.reports.get(&key).map(|report| (report.assumed, report.occurrences)) {
            // The first one that rests on no assumption tells most.
            Some((true, occurrences)) if !assumed => {
                let report = make(self, occurrences + 1);
                self.reports.insert(key, report);
            }
            Some(_) => self.reports.get_mut(&key).into_iter().for_each(|report| report.occurrences += 1),
            None => {
                let report = make(self, 1);
                self.reports.insert(key, report);
            }
        }
    }

    fn report_race(&mut self, now: Access, earlier: Access, memory: Memory, address: usize, verb: &str, word: Word) {
        let operation = now.operation as usize;
        self.now.assumed = now.assumed || earlier.assumed || (self.is_chosen && earlier.workgroup != now.workgroup);
        self.report(Kind::Race, operation, earlier.operation as usize, |machine| {
            let element = machine.program.element(memory, address as u32);
            let did = match machine.program.code[earlier.operation as usize] {
                Op::Store { .. } | Op::Matrix { access: MatrixAccess::Store, .. } => "wrote",
                Op::Texel { access: TexelAccess::Store, .. } => "wrote",
                _ => "read",
            };
            format!(
                "{} {verb} `{element}` (bits {:#010x}, {:?} as f32), which {} {did} in line {}{}",
                machine.name_of(now),
                word.bits,
                word.as_f32(),
                machine.name_of(earlier),
                machine.program.lines[earlier.operation as usize],
                match memory {
                    _ if now.workgroup != earlier.workgroup => "; nothing orders workgroups",
                    Memory::Workgroup => " without a workgroupBarrier between",
                    _ => " without a storageBarrier between",
                },
            )
        });
    }

    fn report_divergence(&mut self, first: Pause, second: Pause, other: usize) {
        let lines = &self.program.lines;
        let whereabouts = |pause: Pause| match pause {
            Pause::Barrier(position) => format!("waits at the barrier in line {}", lines[position]),
            Pause::Shuffle(position) => format!("waits at the shuffle in line {}", lines[position]),
            _ => "has returned".to_owned(),
        };
        let (one, two) = (whereabouts(first), whereabouts(second));
        let meeting = |pause: Pause| match pause {
            Pause::Barrier(at) | Pause::Shuffle(at) => Some(at),
            Pause::End | Pause::Spent => None,
        };
        let Some(at) = meeting(first).or(meeting(second)) else { return };
        self.now.assumed = false;
        self.report(Kind::Barrier, at, 0, |machine| {
            let [x, y, z] = machine.workgroup_id();
            format!("of workgroup ({x}, {y}, {z}), invocation 0 {one}, but invocation {other} {two}")
        });
    }
}

fn address(registers: &[Word], at: u32, offset: Option<Slot>) -> Option<usize> {
    match offset.map_or(0, |slot| registers[slot as usize].bits) {
        OUTSIDE => None,
        offset => Some((at + offset) as usize),
    }
}
