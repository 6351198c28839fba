//! Runs a [`Program`] over its workgroups and checks every access.

use std::collections::HashMap;

use super::program::{Count, MatrixAccess, Memory, OUTSIDE, Op, Program, Slot};
use super::report::{Kind, Report};
use super::shadow::{Access, Shadow};
use super::word::{Word, multiply_add};

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
    /// In the order of their bindings.
    pub buffers: Vec<Buffer<'a>>,
    /// Lanes in a subgroup: consecutive invocations of a workgroup.
    pub subgroup: u32,
    /// Limit on the operations of all invocations together.
    pub limit: u64,
}

/// The results of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The contents of the last binding; uninitialised elements are NaN.
    pub output: Vec<f32>,
    pub reports: Vec<Report>,
    /// Operations executed.
    pub operations: u64,
}

#[derive(Debug, Default)]
struct Region {
    words: Vec<Word>,
    shadows: Vec<Shadow>,
    /// Whether the kernel cannot write it, so accesses need no checks.
    read_only: bool,
}

impl Region {
    fn unwritten(scalars: usize) -> Self {
        let nan = Word::u32(f32::NAN.to_bits());
        Region { words: vec![nan; scalars], shadows: vec![Shadow::default(); scalars], read_only: false }
    }
}

struct Invocation {
    registers: Vec<Word>,
    position: usize,
}

/// Why an invocation paused.
#[derive(Clone, Copy, PartialEq)]
enum Pause {
    /// At the barrier with this index.
    Barrier(usize),
    /// At the shuffle with this index.
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
        assert_eq!(dispatch.immediates.len(), self.immediates.len(), "{}: immediates", self.file);
        let storage = self.buffers.iter().map(|buffer| match &dispatch.buffers[buffer.binding as usize] {
            Buffer::Filled(data) => Region {
                words: data.iter().map(|x| Word::u32(x.to_bits())).collect(),
                read_only: !buffer.writable,
                shadows: vec![Shadow::default(); data.len()],
            },
            Buffer::Unwritten(scalars) => Region::unwritten(*scalars),
        });
        let mut machine = Machine {
            program: self,
            dispatch,
            storage: storage.collect(),
            workgroup: Region::default(),
            now: Access { workgroup: 0, invocation: 0, epoch: 0, operation: 0 },
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

        let last = self.buffers.iter().enumerate().max_by_key(|(_, buffer)| buffer.binding);
        let output =
            last.map_or(Vec::new(), |(index, _)| machine.storage[index].words.iter().map(|w| w.as_f32()).collect());
        let mut reports: Vec<Report> = machine.reports.into_values().collect();
        reports.sort_by_key(|report| (report.line, report.kind));
        Outcome { output, reports, operations: machine.operations }
    }
}

impl Machine<'_> {
    /// Runs one workgroup; returns whether the run may continue.
    fn run_workgroup(&mut self, workgroup: u32) -> bool {
        let count = self.program.invocations();
        self.workgroup = Region::unwritten(self.program.workgroup_scalars as usize);
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
            let Op::Shuffle { to, from, lane } = self.program.code[operation] else { unreachable!("it paused there") };
            let values: Vec<Word> = lanes.iter().map(|lane| lane.registers[from as usize]).collect();
            for (index, invocation) in (first as u32..).zip(lanes.iter_mut()) {
                let source = invocation.registers[lane as usize].bits;
                invocation.registers[to as usize] = values.get(source as usize).copied().unwrap_or_else(|| {
                    self.now.invocation = index;
                    self.report(Kind::OutOfBounds, operation, 0, |machine| {
                        format!("{} takes a value from lane {source} of {}", machine.name(), values.len())
                    });
                    Word::default()
                });
            }
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
        Invocation { registers, position: 0 }
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
            match program.code[operation] {
                Op::Copy { to, from } => registers[to as usize] = registers[from as usize],
                Op::Move { to, from, count } => {
                    registers.copy_within(from as usize..(from + count) as usize, to as usize);
                }
                Op::Zero { to, count } => registers[to as usize..(to + count) as usize].fill(Word::default()),
                Op::Map1 { f, to, a } => registers[to as usize] = f(registers[a as usize]),
                Op::Map2 { f, to, a, b } => registers[to as usize] = f(registers[a as usize], registers[b as usize]),
                Op::Map3 { f, to, a, b, c } => {
                    registers[to as usize] = f(registers[a as usize], registers[b as usize], registers[c as usize]);
                }
                Op::Divisor { a } => {
                    if registers[a as usize].bits == 0 {
                        self.report(Kind::DivisionByZero, operation, 0, |m| format!("{} divides by 0", m.name()));
                    }
                }
                Op::Index { to, outer, index, signed, count, stride, variable } => {
                    let outer = outer.map_or(0, |slot| registers[slot as usize].bits);
                    let index = registers[index as usize];
                    let offset = self.index(operation, index, signed, count, stride, variable);
                    registers[to as usize] = Word::u32(match (outer, offset) {
                        (OUTSIDE, _) | (_, None) => OUTSIDE,
                        (outer, Some(offset)) => outer + offset,
                    });
                }
                Op::Load { to, memory, at, offset } => {
                    registers[to as usize] = match (address(registers, at, offset), memory) {
                        (None, _) => Word::default(),
                        (Some(address), Memory::Registers) => registers[address],
                        (Some(address), _) => self.load(operation, memory, address),
                    };
                }
                Op::Store { from, memory, at, offset } => {
                    let word = registers[from as usize];
                    match (address(registers, at, offset), memory) {
                        (None, _) => {}
                        (Some(address), Memory::Registers) => registers[address] = word,
                        (Some(address), _) => self.store(operation, memory, address, word),
                    }
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
                    let scalars = self.storage[buffer as usize].words.len() as u32 - first;
                    registers[to as usize] = Word::u32(scalars / stride);
                }
                Op::Jump { target } => position = target as usize,
                Op::Unless { condition, target } => {
                    if !registers[condition as usize].as_bool() {
                        position = target as usize;
                    }
                }
                Op::Barrier { .. } => {
                    invocation.position = position;
                    return Pause::Barrier(operation);
                }
                Op::Shuffle { .. } => {
                    invocation.position = position;
                    return Pause::Shuffle(operation);
                }
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
        let count = match count {
            Count::Fixed(count) => count,
            Count::Rest { buffer, first } => (self.storage[buffer as usize].words.len() as u32 - first) / stride,
        };
        let value = index.integer(signed);
        let name = || &self.program.variables[variable as usize].name;
        if !index.is_exact(signed) {
            let meant = index.meaning().map_or_else(String::new, |meant| format!(" instead of {meant}"));
            let name = name().clone();
            self.report(Kind::Overflow, operation, 0, |machine| {
                format!("{} indexes `{name}` with {value}{meant}: 32-bit arithmetic overflowed", machine.name())
            });
        }
        if (0..i64::from(count)).contains(&value) {
            return Some(value as u32 * stride);
        }
        let name = self.program.variables[variable as usize].name.clone();
        self.report(Kind::OutOfBounds, operation, 0, |machine| {
            format!("{} indexes `{name}` with {value}, but it has {count} elements", machine.name())
        });
        None
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
        } else if !is_written && !self.is_given(memory) {
            self.report(Kind::Unwritten, operation, 0, |machine| {
                let element = machine.program.element(memory, address as u32);
                format!("{} reads `{element}`, which is uninitialised", machine.name())
            });
        }
        word
    }

    fn store(&mut self, operation: usize, memory: Memory, address: usize, word: Word) {
        let access = self.access(operation, memory);
        let region = self.region(memory);
        region.words[address] = word;
        if let Some(earlier) = region.shadows[address].write(access) {
            self.report_race(access, earlier, memory, address, "writes", word);
        }
    }

    /// Whether a buffer's contents were written before the dispatch.
    fn is_given(&self, memory: Memory) -> bool {
        let Memory::Storage(buffer) = memory else { return false };
        let binding = self.program.buffers[buffer as usize].binding;
        matches!(self.dispatch.buffers[binding as usize], Buffer::Filled(_))
    }

    fn name(&self) -> String {
        self.name_of(self.now)
    }

    fn name_of(&self, access: Access) -> String {
        let [x, y, z] = self.id_of(access.workgroup);
        format!("invocation {} of workgroup ({x}, {y}, {z})", access.invocation)
    }

    fn report(&mut self, kind: Kind, operation: usize, other: usize, message: impl FnOnce(&Self) -> String) {
        if let Some(report) = self.reports.get_mut(&(kind, operation, other)) {
            report.occurrences += 1;
            return;
        }
        let (file, line) = (self.program.file.clone(), self.program.lines[operation]);
        let report = Report { kind, file, line, message: message(self), occurrences: 1 };
        self.reports.insert((kind, operation, other), report);
    }

    fn report_race(&mut self, now: Access, earlier: Access, memory: Memory, address: usize, verb: &str, word: Word) {
        let operation = now.operation as usize;
        self.report(Kind::Race, operation, earlier.operation as usize, |machine| {
            let element = machine.program.element(memory, address as u32);
            let did = match machine.program.code[earlier.operation as usize] {
                Op::Store { .. } | Op::Matrix { access: MatrixAccess::Store, .. } => "wrote",
                _ => "read",
            };
            format!(
                "{} {verb} `{element}` (bits {:#010x}, {:?} as f32), which {} {did} in line {} without a barrier between",
                machine.name_of(now),
                word.bits,
                word.as_f32(),
                machine.name_of(earlier),
                machine.program.lines[earlier.operation as usize],
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
