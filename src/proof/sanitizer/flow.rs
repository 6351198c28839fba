//! What a compiler knows of a program before it runs: which values it computes itself, which are the same in all lanes
//! of a subgroup, and in which loops they change.

use std::collections::{HashMap, HashSet};

use naga::BuiltIn;

use super::program::{Memory, Op, Program, Slot, TexelAccess, Work};

/// Loops that are told apart; those beyond count as the last.
const LOOPS: usize = 128;

/// How much of an operation is known beforehand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Computed while compiling: of constants, and of counters of loops that are unrolled.
    Known,
    /// The same in all lanes of a subgroup.
    Uniform,
    /// Of each lane its own.
    Lane,
}

/// What a value depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Dependence {
    lane: bool,
    unknown: bool,
    /// The loops in which it changes, a bit each.
    loops: u128,
}

impl Dependence {
    const LANE: Dependence = Dependence { lane: true, unknown: true, loops: 0 };
    const UNKNOWN: Dependence = Dependence { lane: false, unknown: true, loops: 0 };

    fn join(self, other: Dependence) -> Dependence {
        let (lane, unknown) = (self.lane || other.lane, self.unknown || other.unknown);
        Dependence { lane, unknown, loops: self.loops | other.loops }
    }

    fn class(self) -> Class {
        match (self.lane, self.unknown) {
            (true, _) => Class::Lane,
            (false, true) => Class::Uniform,
            (false, false) => Class::Known,
        }
    }
}

/// Operations from `start` to the jump back at `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loop {
    pub start: usize,
    pub end: usize,
}

/// What a loop needs to get from one turn to the next, if nothing else of the turn is computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stride {
    /// The operations on its counters, in order, among them the branch that leaves it.
    pub operations: Vec<usize>,
    pub exit: usize,
    /// What the condition of that branch is where it leaves.
    pub leaves_when: bool,
}

/// The analysis of a program.
#[derive(Clone, Debug)]
pub struct Flow {
    /// The outer ones before those in them.
    pub loops: Vec<Loop>,
    /// Of each register: whether lanes have different values.
    pub is_lane: Vec<bool>,
    /// Of each register: whether an address or a branch depends on it.
    pub is_needed: Vec<bool>,
    /// The same of what is stored in workgroup memory, and in storage buffers.
    pub needs_workgroup: bool,
    pub needs_storage: bool,
    /// Of each operation: what is known of its operands.
    pub classes: Vec<Class>,
    /// Of each operation: whether the same was computed before, or another instruction does it as well.
    pub is_free: Vec<bool>,
    /// Of each quotient: whether its divisor is known, and whether the remainder or quotient of the same was computed.
    pub is_decided: Vec<bool>,
    pub is_shared: Vec<bool>,
    /// Of each loop: whether it is unrolled.
    pub unrolled: Vec<bool>,
    /// Of each loop: how it advances without what it computes, if that can be told.
    pub strides: Vec<Option<Stride>>,
    /// Of each operation: the innermost loop around it in which its operands change.
    pub changes: Vec<Option<usize>>,
}

/// A run of registers.
type Run = (Slot, u32);

fn run_of(slot: Slot) -> Run {
    (slot, 1)
}

/// The registers that a dynamic access may reach.
fn reach(program: &Program, variables: &[Option<u32>], at: u32, offset: Option<Slot>) -> Run {
    match offset.and_then(|slot| variables[slot as usize]) {
        Some(variable) => {
            let variable = &program.variables[variable as usize];
            (variable.at, variable.scalars)
        }
        None => (at, 1),
    }
}

/// The registers that each operation reads, and those that it writes.
pub fn accesses(program: &Program) -> (Vec<Vec<Run>>, Vec<Option<Run>>) {
    let mut variables = vec![None; program.registers.len()];
    for op in &program.code {
        if let Op::Index { to, variable, .. } = op {
            variables[*to as usize] = Some(*variable);
        }
    }
    let access = |op: &Op| -> (Vec<Run>, Option<Run>) {
        match *op {
            Op::Copy { to, from } => (vec![run_of(from)], Some(run_of(to))),
            Op::Move { to, from, count } => (vec![(from, count)], Some((to, count))),
            Op::Zero { to, count } => (Vec::new(), Some((to, count))),
            Op::Map1 { to, a, .. } => (vec![run_of(a)], Some(run_of(to))),
            Op::Map2 { to, a, b, .. } => (vec![run_of(a), run_of(b)], Some(run_of(to))),
            Op::Map3 { to, a, b, c, .. } => (vec![run_of(a), run_of(b), run_of(c)], Some(run_of(to))),
            Op::Index { to, outer, index, .. } => {
                (outer.into_iter().chain([index]).map(run_of).collect(), Some(run_of(to)))
            }
            Op::Load { to, memory, at, offset } => {
                let mut reads: Vec<Run> = offset.into_iter().map(run_of).collect();
                if memory == Memory::Registers {
                    reads.push(reach(program, &variables, at, offset));
                }
                (reads, Some(run_of(to)))
            }
            Op::Store { from, memory, at, offset } => {
                let reads = offset.into_iter().chain([from]).map(run_of).collect();
                let is_register = memory == Memory::Registers;
                (reads, is_register.then(|| reach(program, &variables, at, offset)))
            }
            Op::Length { to, .. } => (Vec::new(), Some(run_of(to))),
            Op::Unless { condition, .. } => (vec![run_of(condition)], None),
            Op::Shuffle { to, from, lane } => (vec![run_of(from), run_of(lane)], Some(run_of(to))),
            Op::Atomic { to, offset, value, compare, .. } => {
                let reads = offset.into_iter().chain(compare).chain([value]).map(run_of).collect();
                (reads, Some((to, if compare.is_some() { 2 } else { 1 })))
            }
            Op::Texel { access: TexelAccess::Store, registers, at, .. } => (vec![(at, 3), (registers, 4)], None),
            Op::Texel { registers, at, .. } => (vec![(at, 3)], Some((registers, 4))),
            Op::Extent { to, .. } => (Vec::new(), Some(run_of(to))),
            Op::Collective { to, from, .. } => (vec![run_of(from)], Some(run_of(to))),
            Op::Ballot { to, from } => (vec![run_of(from)], Some((to, 4))),
            Op::Matrix { .. } | Op::MultiplyAdd { .. } => (Vec::new(), None),
            Op::Check { .. } | Op::Jump { .. } | Op::Barrier { .. } | Op::End => (Vec::new(), None),
        }
    };
    program.code.iter().map(access).unzip()
}

fn loops(program: &Program) -> Vec<Loop> {
    let back = |(at, op): (usize, &Op)| match *op {
        Op::Jump { target } | Op::Unless { target, .. } if target as usize <= at => {
            Some(Loop { start: target as usize, end: at })
        }
        _ => None,
    };
    let mut loops: Vec<Loop> = program.code.iter().enumerate().filter_map(back).collect();
    loops.sort_by_key(|it| (it.start, std::cmp::Reverse(it.end)));
    loops
}

/// A condition on which it depends whether, or how often, an operation runs. What decides when lanes leave a loop
/// matters only to values that outlive its turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Control {
    condition: Slot,
    leaves: Option<usize>,
}

fn controls(program: &Program, loops: &[Loop]) -> Vec<Vec<Control>> {
    let target = |at: usize| match program.code[at] {
        Op::Jump { target } | Op::Unless { target, .. } => Some(target as usize),
        _ => None,
    };
    let mut controls = vec![Vec::new(); program.code.len()];
    for (at, op) in program.code.iter().enumerate() {
        let Op::Unless { condition, target: to } = *op else { continue };
        let around = || loops.iter().enumerate().filter(|(_, it)| (it.start..=it.end).contains(&at));
        let last = around().map(|(_, it)| it.end).min().unwrap_or(usize::MAX);
        // What is jumped over depends on it, also from within, and so does a loop that is left.
        let (mut end, mut left) = (at + 1, 0);
        let mut reach = |end: &mut usize, to: usize| match to > last {
            true => left = left.max(to),
            false => *end = (*end).max(to),
        };
        reach(&mut end, to as usize);
        let mut next = at + 1;
        while next < end {
            target(next).into_iter().for_each(|to| reach(&mut end, to));
            next += 1;
        }
        let mut add = |range: std::ops::Range<usize>, leaves: Option<usize>| {
            let len = controls.len();
            controls[range.start.min(len)..range.end.min(len)]
                .iter_mut()
                .for_each(|it: &mut Vec<Control>| it.push(Control { condition, leaves }));
        };
        add(at + 1..end, None);
        for (index, it) in around().filter(|(_, it)| left > it.end || (to as usize <= at && it.end == at)) {
            add(it.start..it.end + 1, Some(index));
        }
        if left > 0 {
            let outermost = around().filter(|(_, it)| left > it.end).map(|(_, it)| it.end + 1).max();
            add(outermost.unwrap_or(left)..left, None);
        }
    }
    controls
}

/// Variables, each with a condition, that are read where it does not decide.
fn read_outside(reads: &[Vec<Run>], written: &[u32], controls: &[Vec<Control>]) -> HashSet<(usize, Control)> {
    let all: HashSet<Control> = controls.iter().flatten().copied().collect();
    let mut outside = HashSet::new();
    for (runs, controls) in reads.iter().zip(controls) {
        let slots = runs.iter().flat_map(|&(first, count)| first as usize..(first + count) as usize);
        for slot in slots.filter(|&slot| written[slot] > 1) {
            outside.extend(all.iter().filter(|it| !controls.contains(it)).map(|it| (slot, *it)));
        }
    }
    outside
}

/// Of each loop, the registers that a turn finds as the one before has left them.
fn carried(program: &Program, loops: &[Loop], reads: &[Vec<Run>], writes: &[Option<Run>]) -> Vec<Vec<bool>> {
    let of = |one: &Loop| {
        let mut first: Vec<Option<bool>> = vec![None; program.registers.len()];
        for at in one.start..=one.end {
            for slot in reads[at].iter().flat_map(|&(first, count)| first..first + count) {
                first[slot as usize].get_or_insert(true);
            }
            for slot in writes[at].iter().flat_map(|&(first, count)| first..first + count) {
                first[slot as usize].get_or_insert(false);
            }
        }
        first.into_iter().map(|is_read| is_read == Some(true)).collect()
    };
    loops.iter().map(of).collect()
}

/// Of each loop, the registers that outlive a turn.
fn outliving(loops: &[Loop], carried: &[Vec<bool>], reads: &[Vec<Run>]) -> Vec<Vec<bool>> {
    let of = |(one, carried): (&Loop, &Vec<bool>)| {
        let mut outlives = carried.clone();
        let outside = reads.iter().enumerate().filter(|(at, _)| !(one.start..=one.end).contains(at));
        for slot in outside.flat_map(|(_, runs)| runs.iter().flat_map(|&(first, count)| first..first + count)) {
            outlives[slot as usize] = true;
        }
        outlives
    };
    loops.iter().zip(carried).map(of).collect()
}

impl Flow {
    /// Analyses a program of whose loops, in the order of [`loops`](Flow::loops), those are unrolled that `unrolls`
    /// says and whose ends are known.
    pub fn new(program: &Program, unrolls: &[bool]) -> Flow {
        let (reads, writes) = accesses(program);
        let loops = loops(program);
        let around = |at: usize| {
            let inside = loops.iter().enumerate().filter(|(_, it)| (it.start..=it.end).contains(&at));
            inside.fold(0u128, |bits, (index, _)| bits | 1 << index.min(LOOPS - 1))
        };
        let around: Vec<u128> = (0..program.code.len()).map(around).collect();
        let carried = carried(program, &loops, &reads, &writes);
        let outlives = outliving(&loops, &carried, &reads);
        // Whether a register counts turns that are not unrolled.
        let counts_turns = |at: usize, slot: usize| {
            let inside = loops.iter().enumerate().filter(|(_, it)| (it.start..=it.end).contains(&at));
            inside.into_iter().any(|(index, _)| !unrolls[index] && carried[index][slot])
        };
        let controls = controls(program, &loops);

        let mut written = vec![0u32; program.registers.len()];
        for &(first, count) in writes.iter().flatten() {
            written[first as usize..(first + count) as usize].iter_mut().for_each(|times| *times += 1);
        }
        let read_outside = read_outside(&reads, &written, &controls);
        let mut values = vec![Dependence::default(); program.registers.len()];
        for &(builtin, slot) in &program.builtins {
            let (given, components) = match builtin {
                BuiltIn::LocalInvocationIndex | BuiltIn::SubgroupInvocationId => (Dependence::LANE, 1),
                BuiltIn::GlobalInvocationId | BuiltIn::LocalInvocationId => (Dependence::LANE, 3),
                BuiltIn::SubgroupSize => (Dependence::UNKNOWN, 1),
                _ => (Dependence::UNKNOWN, 3),
            };
            values[slot as usize..slot as usize + components].fill(given);
        }
        for &slot in &program.immediates {
            values[slot as usize] = Dependence::UNKNOWN;
        }
        let operands = |values: &[Dependence], at: usize| {
            let slots = reads[at].iter().flat_map(|&(first, count)| first..first + count);
            slots.fold(Dependence::default(), |all, slot| all.join(values[slot as usize]))
        };
        loop {
            let mut changed = false;
            for (at, op) in program.code.iter().enumerate() {
                let Some((first, count)) = writes[at] else { continue };
                let mut value = match op {
                    // Element by element.
                    Op::Move { .. } => Dependence::default(),
                    _ => operands(&values, at),
                };
                match *op {
                    Op::Load { memory: Memory::Storage(buffer), .. } if !program.buffers[buffer as usize].writable => {
                        value = value.join(Dependence::UNKNOWN);
                    }
                    Op::Load { memory: Memory::Storage(_) | Memory::Workgroup, .. } => {
                        value = value.join(Dependence { loops: around[at], ..Dependence::UNKNOWN });
                    }
                    Op::Length { .. } => value = Dependence::UNKNOWN,
                    Op::Atomic { .. } => value = value.join(Dependence::LANE),
                    Op::Shuffle { .. } => value = value.join(Dependence::LANE),
                    _ => {}
                }
                for index in 0..count {
                    let to = (first + index) as usize;
                    let from = match *op {
                        Op::Move { from, .. } => values[(from + index) as usize],
                        _ => value,
                    };
                    // What is written in several places is a variable: it keeps the value of lanes that skip a write.
                    let mut given = from;
                    if written[to] > 1 {
                        let decides = |it: &&Control| match it.leaves {
                            Some(index) => outlives[index][to],
                            None => read_outside.contains(&(to, **it)),
                        };
                        for it in controls[at].iter().filter(decides) {
                            given = given.join(Dependence { loops: 0, ..values[it.condition as usize] });
                        }
                        given.unknown |= counts_turns(at, to);
                        given.loops |= around[at];
                    }
                    let joined = values[to].join(given);
                    changed |= joined != values[to];
                    values[to] = joined;
                }
            }
            if !changed {
                break;
            }
        }

        let needed = Needed::new(program, &reads, &writes);
        let is_known = |slot: Slot| values[slot as usize].class() == Class::Known;
        let repeated = Repeated::new(program, &writes, &written, &around, &controls);
        let is_free: Vec<bool> =
            absorbed(program, is_known).into_iter().zip(&repeated.is_done).map(|(one, &other)| one || other).collect();
        let changes = (0..program.code.len()).map(|at| {
            let inside = operands(&values, at).loops & around[at];
            (inside != 0).then(|| 127 - inside.leading_zeros() as usize)
        });
        let classes: Vec<Class> = (0..program.code.len()).map(|at| operands(&values, at).class()).collect();
        let ends_known = |one: &Loop| exit(program, *one).is_some_and(|(at, _)| classes[at] == Class::Known);
        let strides = strides(&Facts {
            program,
            loops: &loops,
            reads: &reads,
            writes: &writes,
            needed: &needed.registers,
            written: &written,
            carried: &carried,
        });
        Flow {
            unrolled: loops.iter().zip(unrolls).map(|(one, &unrolls)| unrolls && ends_known(one)).collect(),
            is_lane: values.iter().map(|value| value.lane).collect(),
            is_needed: needed.registers,
            needs_workgroup: needed.workgroup,
            needs_storage: needed.storage,
            classes,
            is_decided: program.code.iter().map(|op| matches!(*op, Op::Map2 { b, .. } if is_known(b))).collect(),
            strides,
            is_free,
            is_shared: repeated.shares,
            changes: changes.collect(),
            loops,
        }
    }
}

/// What is computed more than once.
struct Repeated {
    /// Of each operation: whether its result is there already.
    is_done: Vec<bool>,
    /// Of each quotient: whether the other half of the division is.
    shares: Vec<bool>,
}

impl Repeated {
    /// Numbers values, so that equal ones have the same number.
    fn new(
        program: &Program,
        writes: &[Option<Run>],
        written: &[u32],
        around: &[u128],
        controls: &[Vec<Control>],
    ) -> Repeated {
        let mut writers: HashMap<Slot, Vec<usize>> = HashMap::new();
        for (at, &write) in writes.iter().enumerate() {
            for slot in write.iter().flat_map(|&(first, count)| first..first + count) {
                if written[slot as usize] > 1 {
                    writers.entry(slot).or_default().push(at);
                }
            }
        }
        let mut numbers: Vec<u64> = (0..written.len() as u64).collect();
        let mut fresh = written.len() as u64;
        // What was computed: its number, and where.
        let mut known: HashMap<[u64; 5], (u64, usize)> = HashMap::new();
        let mut divided: HashMap<[u64; 2], usize> = HashMap::new();
        let mut repeated =
            Repeated { is_done: vec![false; program.code.len()], shares: vec![false; program.code.len()] };
        let dominates = |one: usize, other: usize| {
            around[one] & !around[other] == 0 && controls[one].iter().all(|it| controls[other].contains(it))
        };
        for (at, op) in program.code.iter().enumerate() {
            // The value that a register has here.
            let number = |numbers: &[u64], slot: Slot| match writers.get(&slot) {
                None => [0, numbers[slot as usize], 0],
                Some(writers) => {
                    let before = writers.partition_point(|&writer| writer < at) as u64;
                    let inside = writers.iter().fold(0, |bits, &writer| bits | around[writer] & around[at]);
                    [1 + before, u64::from(slot), u64::from(128 - inside.leading_zeros())]
                }
            };
            let flat = |[version, slot, turn]: [u64; 3]| version << 40 ^ turn << 32 ^ slot;
            let value = |slot: Slot| flat(number(&numbers, slot));
            let key = match *op {
                Op::Map1 { f, a, .. } => [f as usize as u64, value(a), 0, 0, 1],
                Op::Map2 { f, a, b, .. } => [f as usize as u64, value(a), value(b), 0, 2],
                Op::Map3 { f, a, b, c, .. } => [f as usize as u64, value(a), value(b), value(c), 3],
                Op::Index { outer, index, stride, variable, .. } => {
                    [u64::from(variable), outer.map_or(0, |slot| 1 + value(slot)), value(index), u64::from(stride), 4]
                }
                Op::Copy { to, from } | Op::Move { to, from, count: 1 } if written[to as usize] == 1 => {
                    numbers[to as usize] = value(from);
                    continue;
                }
                _ => {
                    for slot in writes[at].iter().flat_map(|&(first, count)| first..first + count) {
                        fresh += 1;
                        numbers[slot as usize] = fresh;
                    }
                    continue;
                }
            };
            let Some((to, _)) = writes[at] else { continue };
            if let (Op::Map2 { a, b, .. }, Work::Quotient) = (*op, program.works[at]) {
                let earlier = divided.insert([value(a), value(b)], at);
                repeated.shares[at] = earlier.is_some_and(|earlier| dominates(earlier, at));
            }
            match known.get(&key) {
                Some(&(number, earlier)) if dominates(earlier, at) => {
                    repeated.is_done[at] = true;
                    numbers[to as usize] = number;
                }
                _ => {
                    fresh += 1;
                    numbers[to as usize] = fresh;
                    known.insert(key, (fresh, at));
                }
            }
        }
        repeated
    }
}

/// Operations that another instruction does as well: a sum with a known number is a part of an address, one with a
/// product is its multiply-add, and a selection by a known condition is none.
fn absorbed(program: &Program, is_known: impl Fn(Slot) -> bool) -> Vec<bool> {
    let mut products: Vec<bool> = vec![false; program.registers.len()];
    let absorbed = |(op, work): (&Op, &Work)| match (*op, *work) {
        (Op::Map2 { to, .. }, Work::Product) => {
            products[to as usize] = true;
            false
        }
        (Op::Map2 { a, b, .. }, Work::Sum) => {
            // Each product goes into one sum.
            let mut takes = |slot: Slot| std::mem::take(&mut products[slot as usize]);
            is_known(a) || is_known(b) || takes(a) || takes(b)
        }
        (Op::Map3 { a, .. }, Work::Integer) => is_known(a),
        _ => false,
    };
    program.code.iter().zip(&program.works).map(absorbed).collect()
}

/// What is known of the registers when loops are looked at.
struct Facts<'a> {
    program: &'a Program,
    loops: &'a [Loop],
    reads: &'a [Vec<Run>],
    writes: &'a [Option<Run>],
    needed: &'a [bool],
    /// In how many places each is written.
    written: &'a [u32],
    /// Of each loop, those that a turn finds as the one before has left them.
    carried: &'a [Vec<bool>],
}

/// How each loop advances. A loop within one that can be told of is left alone.
fn strides(facts: &Facts) -> Vec<Option<Stride>> {
    let mut found: Vec<Option<Stride>> = Vec::new();
    for (index, one) in facts.loops.iter().enumerate() {
        let is_within = |other: &Loop| other.start <= one.start && one.end <= other.end;
        let is_inner = facts.loops[..index].iter().zip(&found).any(|(other, it)| is_within(other) && it.is_some());
        found.push(if is_inner { None } else { stride(facts, index) });
    }
    found
}

/// The branch by which a loop is left, and what its condition is then; none where there are several.
fn exit(program: &Program, one: Loop) -> Option<(usize, bool)> {
    let mut body = one.start..one.end + 1;
    let target = |at: usize| match program.code[at] {
        Op::Jump { target } | Op::Unless { target, .. } => Some(target as usize),
        _ => None,
    };
    let branches = |at: usize| matches!(program.code[at], Op::Unless { .. });
    let mut ways = body.clone().filter(|&at| target(at).is_some_and(|to| to > one.end));
    match (ways.next(), ways.next()) {
        (_, Some(_)) => None,
        (None, None) => branches(one.end).then_some((one.end, true)),
        (Some(way), None) if branches(way) => Some((way, false)),
        (Some(way), None) => match body.find(|&at| branches(at) && target(at) == Some(way)) {
            Some(at) => Some((at, false)),
            None => way.checked_sub(1).filter(|&at| branches(at)).map(|at| (at, true)),
        },
    }
}

fn stride(facts: &Facts, index: usize) -> Option<Stride> {
    let Facts { program, loops, reads, writes, needed, written, carried } = *facts;
    let (one, carried) = (loops[index], &carried[index]);
    let body = one.start..one.end + 1;
    let target = |at: usize| match program.code[at] {
        Op::Jump { target } | Op::Unless { target, .. } => Some(target as usize),
        _ => None,
    };
    let condition = |at: usize| match program.code[at] {
        Op::Unless { condition, target } => Some((condition, target as usize)),
        _ => None,
    };
    let (exit, leaves_when) = exit(program, one)?;
    let (left_by, _) = condition(exit)?;
    // Registers that a turn finds as the one before has left them, and that addresses or branches depend on.
    let inner =
        |at: usize| loops.iter().any(|it| *it != one && body.contains(&it.start) && (it.start..=it.end).contains(&at));
    let in_body = |slot: Slot| {
        body.clone().filter(move |&at| writes[at].is_some_and(|(first, count)| (first..first + count).contains(&slot)))
    };
    let is_wanted = |slot: &Slot| carried[*slot as usize] && needed[*slot as usize] && written[*slot as usize] > 1;
    let mut wanted: Vec<Slot> = (0..written.len() as Slot).filter(is_wanted).collect();
    wanted.push(left_by);
    let (mut operations, mut seen) = (vec![exit], Vec::new());
    while let Some(slot) = wanted.pop() {
        if seen.contains(&slot) {
            continue;
        }
        seen.push(slot);
        for at in in_body(slot) {
            let is_plain = matches!(
                program.code[at],
                Op::Copy { .. }
                    | Op::Move { .. }
                    | Op::Zero { .. }
                    | Op::Map1 { .. }
                    | Op::Map2 { .. }
                    | Op::Map3 { .. }
            );
            // What only some turns or lanes do cannot be told.
            let is_conditional = (one.start..at)
                .any(|branch| branch != exit && target(branch).is_some_and(|to| to > at && to <= one.end));
            if !is_plain || inner(at) || is_conditional {
                return None;
            }
            operations.push(at);
            wanted.extend(reads[at].iter().flat_map(|&(first, count)| first..first + count));
        }
    }
    operations.sort_unstable();
    operations.dedup();
    Some(Stride { operations, exit, leaves_when })
}

/// What addresses and branches depend on.
struct Needed {
    registers: Vec<bool>,
    workgroup: bool,
    storage: bool,
}

impl Needed {
    fn new(program: &Program, reads: &[Vec<Run>], writes: &[Option<Run>]) -> Needed {
        let mut needed = Needed { registers: vec![false; program.registers.len()], workgroup: false, storage: false };
        for op in &program.code {
            let slots = match *op {
                Op::Index { outer, index, .. } => [outer, Some(index)],
                Op::Load { offset, .. } | Op::Store { offset, .. } | Op::Atomic { offset, .. } => [offset, None],
                Op::Unless { condition, .. } => [Some(condition), None],
                Op::Shuffle { lane, .. } => [Some(lane), None],
                _ => [None, None],
            };
            slots.into_iter().flatten().for_each(|slot| needed.registers[slot as usize] = true);
        }
        // A quotient costs what its divisor allows.
        for (op, work) in program.code.iter().zip(&program.works) {
            if let (Op::Map2 { b, .. }, Work::Quotient) = (op, work) {
                needed.registers[*b as usize] = true;
            }
        }
        loop {
            let mut changed = false;
            let mut need = |flag: &mut bool| changed |= !std::mem::replace(flag, true);
            for (at, op) in program.code.iter().enumerate().rev() {
                let is_needed = match (*op, writes[at]) {
                    (Op::Store { memory: Memory::Workgroup, .. }, _) => needed.workgroup,
                    (Op::Store { memory: Memory::Storage(_), .. }, _) => needed.storage,
                    (Op::Atomic { memory: Memory::Workgroup, .. }, _) if needed.workgroup => true,
                    (Op::Atomic { memory: Memory::Storage(_), .. }, _) if needed.storage => true,
                    (_, Some((first, count))) => {
                        needed.registers[first as usize..(first + count) as usize].contains(&true)
                    }
                    _ => false,
                };
                if !is_needed {
                    continue;
                }
                match *op {
                    Op::Load { memory: Memory::Workgroup, .. } | Op::Atomic { memory: Memory::Workgroup, .. } => {
                        need(&mut needed.workgroup);
                    }
                    Op::Load { memory: Memory::Storage(_), .. } | Op::Atomic { memory: Memory::Storage(_), .. } => {
                        need(&mut needed.storage);
                    }
                    _ => {}
                }
                for &(first, count) in &reads[at] {
                    needed.registers[first as usize..(first + count) as usize].iter_mut().for_each(&mut need);
                }
            }
            if !changed {
                return needed;
            }
        }
    }
}
