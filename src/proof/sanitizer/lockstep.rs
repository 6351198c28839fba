//! Counts what a program asks of a GPU: runs workgroups with the lanes of each subgroup in lockstep, as hardware does.
//!
//! Of the lanes of a subgroup those run that stand at the earliest operation; the others idle until these catch up.
//! Since code lies in the order of its source, lanes meet again where a branch or a loop ends.
//!
//! Only what addresses and branches depend on is computed; the rest is counted. A storage buffer has a length and no
//! contents: reads give pseudo-random numbers of [0, 1), or what the workgroup wrote there.
//!
//! What a compiler computes once is counted once: constants, counters of loops of few turns, which it unrolls,
//! arithmetic whose operands do not change in a loop, and what was computed before. A sum with a known number is a part
//! of an address, hence free, and one with a product is a multiply-add.
//!
//! Loads of the same or of neighbouring words, with neither a store nor a turn of a loop between, are one of up to 16
//! bytes, as compilers join them where they can tell that its address is a multiple of its size.
//!
//! Of a long loop the first and the last turns and some between are run and stand for the others, where its counters can
//! be advanced without them.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::flow::{Class, Flow, Stride};
use super::program::{AtomicAccess, Count, Memory, OUTSIDE, Op, Program, Slot, Work};
use super::word::Word;

/// Bytes that memory delivers at least: of NVIDIA's and AMD's GPUs.
pub const SECTOR_BYTES: u64 = 32;
/// Banks of workgroup memory, each a word of 4 bytes wide.
pub const BANKS: usize = 32;
/// Lanes of the largest subgroup.
const MOST_LANES: u32 = 64;
/// Turns up to which a loop is taken to be unrolled.
const UNROLLED: u64 = 32;
/// Instructions of a quotient or remainder by a power of two, another known number, and an unknown one (a product with a
/// reciprocal and its corrections, as Mesa lowers it).
const QUOTIENTS: [u64; 3] = [1, 4, 20];
/// Those of a remainder whose quotient is there: a product and a difference.
const SHARED: u64 = 2;
/// Loads that are held against each other.
const MOST_LOADS: usize = 1024;
/// Turns of a long loop that are run at its beginning, at its end, and at two places between, for those that are not.
const RUN: u64 = 8;

/// A dispatch to count.
#[derive(Clone, Debug)]
pub struct Launch<'a> {
    pub workgroups: [u32; 3],
    /// Members of the `var<immediate>` struct, in order.
    pub immediates: &'a [u32],
    /// Scalars of each buffer, in the order of groups and bindings.
    pub lengths: &'a [usize],
    /// What the program's buffers hold; without, pseudo-random numbers of [0, 1).
    pub contents: Option<&'a [Vec<Word>]>,
    /// Lanes of a subgroup, 64 at most.
    pub subgroup: u32,
    /// Limit on the operations of all subgroups of a workgroup together.
    pub limit: u64,
}

/// What executes an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unit {
    Fma,
    /// Floats at full rate.
    Float,
    /// Quotients, roots and transcendental functions.
    Special,
    /// Integers, comparisons, selections and conversions.
    Integer,
    /// Of these, what is the same in all lanes of a subgroup.
    Uniform,
    Load,
    Store,
    WorkgroupLoad,
    WorkgroupStore,
    Shuffle,
    Barrier,
}

/// How often an operation ran, and what it took. Of the four of memory two are of each kind: sectors are those of
/// storage buffers, passes those of workgroup memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Instructions, one a subgroup.
    pub issues: u64,
    /// Lanes that took part in them.
    pub lanes: u64,
    /// Sectors of 32 bytes that the lanes of each instruction touched, summed.
    pub sectors: u64,
    /// How many there were if the same bytes lay side by side.
    pub fewest_sectors: u64,
    /// Clocks that the banks take for each instruction, summed: a warp's 4-byte accesses are served at once, 8-byte half
    /// a warp at a time, 16-byte a quarter. One more for each further word of the same bank.
    pub passes: u64,
    /// How many there were without conflicts.
    pub fewest_passes: u64,
}

impl Tally {
    fn add(&mut self, other: &Tally) {
        self.issues += other.issues;
        self.lanes += other.lanes;
        self.sectors += other.sectors;
        self.fewest_sectors += other.fewest_sectors;
        self.passes += other.passes;
        self.fewest_passes += other.fewest_passes;
    }
}

/// What a workgroup did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counted {
    /// By source line and unit, in order: sums over them are the same in every run.
    pub tallies: BTreeMap<(u32, Unit), Tally>,
    /// Distinct sectors that the workgroup touched: what a cache of its own leaves of its traffic.
    pub sectors: u64,
    /// Stretches between barriers in which a buffer is read.
    pub waits: u64,
    /// Barriers that the workgroup passed.
    pub barriers: u64,
    pub subgroups: u64,
}

/// Why a program cannot be counted.
pub type Reason = String;

impl Program {
    /// Counts these workgroups, each by its number.
    ///
    /// # Errors
    /// When the program multiplies on matrix units, or does not finish within the limit.
    ///
    /// # Panics
    /// When the launch lacks buffers or immediates that the kernel declares.
    pub fn count(&self, launch: &Launch, workgroups: &[u64]) -> Result<Vec<Counted>, Reason> {
        let uncounted = self.code.iter().find_map(|op| match op {
            Op::Matrix { .. } | Op::MultiplyAdd { .. } => Some("products on matrix units"),
            Op::Texel { .. } | Op::Extent { .. } => Some("textures"),
            Op::Collective { .. } | Op::Ballot { .. } => Some("reductions, scans and ballots of subgroups"),
            _ => None,
        });
        if let Some(what) = uncounted {
            return Err(format!("{what} are not counted"));
        }
        assert_eq!(launch.immediates.len(), self.immediates.len(), "{}: immediates", self.file);
        assert!((1..=MOST_LANES).contains(&launch.subgroup), "a subgroup of {}", launch.subgroup);
        // What is unrolled shows when it has run.
        let mut flow = Flow::new(self, &vec![true; self.code.len()]);
        let mut counted = Vec::new();
        for (index, &workgroup) in workgroups.iter().enumerate() {
            let (mut result, turns) = Lockstep::new(self, &flow, launch, workgroup).run();
            if index == 0 && turns.iter().any(|&turns| turns > UNROLLED) {
                let unrolls: Vec<bool> = turns.iter().map(|&turns| turns <= UNROLLED).collect();
                flow = Flow::new(self, &unrolls);
                result = Lockstep::new(self, &flow, launch, workgroup).run().0;
            }
            let unfinished = || format!("a workgroup has not finished after {} instructions", launch.limit);
            counted.push(result.ok_or_else(unfinished)?);
        }
        Ok(counted)
    }
}

/// Lanes that stand at the same operation.
#[derive(Clone, Copy, Debug)]
struct Front {
    position: usize,
    mask: u64,
}

/// Where the lanes of a subgroup are.
struct Subgroup {
    registers: Vec<Word>,
    current: Front,
    /// Lanes further on, the nearest last.
    waiting: Vec<Front>,
    has_ended: bool,
    /// Of each loop: how often its first operation ran, and how often it jumped back.
    arrivals: Vec<u64>,
    returns: Vec<u64>,
    /// Of each operation: the turn of its loop in which it was counted last.
    counted: Vec<u64>,
    /// The long loop that it is in, and for how many turns the present one stands.
    long: Option<Long>,
    weight: u64,
    /// Loads of buffers, and of workgroup memory, that are not counted yet.
    loads: [Vec<Access>; 2],
}

/// A load or store of the lanes of a subgroup.
#[derive(Clone, Debug)]
struct Access {
    at: usize,
    mask: u64,
    variable: u32,
    memory: Memory,
    /// Whether all lanes have the same address; then only one is told.
    is_uniform: bool,
    /// Bytes of a lane.
    width: u64,
    weight: u64,
    /// [lane, address in bytes] of those within bounds.
    places: Vec<(u32, u64)>,
}

impl Access {
    /// Whether the other begins in every lane where this ends.
    fn precedes(&self, other: &Access) -> bool {
        let key = |it: &Access| (it.variable, it.mask, it.width, it.weight, it.is_uniform, it.places.len());
        key(self) == key(other)
            && self.places.iter().zip(&other.places).all(|(one, next)| *next == (one.0, one.1 + self.width))
    }
}

/// A loop of which only some turns are run.
#[derive(Clone, Copy, Debug)]
struct Long {
    index: usize,
    turn: u64,
    /// Turns that all lanes take.
    turns: u64,
}

impl Long {
    /// How many turns each stands for: none where it is not run.
    fn weight(&self, turn: u64) -> u64 {
        let Some(between) = self.turns.checked_sub(2 * RUN).filter(|between| *between > 6 * RUN) else { return 1 };
        if turn < RUN || turn >= RUN + between {
            return 1;
        }
        let starts = [RUN + between / 4, RUN + 3 * between / 4 - RUN];
        match starts.iter().position(|&start| (start..start + RUN).contains(&turn)) {
            Some(part) => {
                let number = part as u64 * RUN + turn - starts[part];
                between / (2 * RUN) + u64::from(number < between % (2 * RUN))
            }
            None => 0,
        }
    }
}

struct Lockstep<'a> {
    program: &'a Program,
    flow: &'a Flow,
    launch: &'a Launch<'a>,
    workgroup: u64,
    /// Where a register's lanes begin, and the distance from one to the next: 0 where all have the same value.
    homes: Vec<u32>,
    steps: Vec<u32>,
    /// Words of a subgroup's registers.
    words: usize,
    shared: Vec<Word>,
    written: HashMap<(u32, u32), Word>,
    tallies: Vec<Tally>,
    /// Operations at which a loop begins.
    begins: Vec<bool>,
    touched: HashSet<u64>,
    distinct: u64,
    reads_buffer: bool,
    operations: u64,
}

/// The positions of the bits of a mask.
fn bits(mut mask: u64) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let bit = (mask != 0).then(|| mask.trailing_zeros())?;
        mask &= mask - 1;
        Some(bit)
    })
}

impl<'a> Lockstep<'a> {
    fn new(program: &'a Program, flow: &'a Flow, launch: &'a Launch<'a>, workgroup: u64) -> Self {
        let mut words = 0;
        let (mut homes, mut steps) = (Vec::new(), Vec::new());
        for &is_lane in &flow.is_lane {
            homes.push(words);
            steps.push(u32::from(is_lane));
            words += if is_lane { launch.subgroup } else { 1 };
        }
        let mut begins = vec![false; program.code.len()];
        flow.loops.iter().for_each(|it| begins[it.start] = true);
        Lockstep {
            program,
            flow,
            launch,
            workgroup,
            homes,
            steps,
            words: words as usize,
            shared: vec![Word::default(); program.workgroup_scalars as usize],
            written: HashMap::new(),
            tallies: vec![Tally::default(); program.code.len()],
            begins,
            touched: HashSet::new(),
            distinct: 0,
            reads_buffer: false,
            operations: 0,
        }
    }

    /// What the workgroup did, unless it reached the limit first, and how many turns each loop took on average.
    fn run(mut self) -> (Option<Counted>, Vec<u64>) {
        let (invocations, width) = (self.program.invocations(), self.launch.subgroup);
        let mut subgroups: Vec<Subgroup> =
            (0..invocations.div_ceil(width)).map(|index| self.subgroup(index * width)).collect();
        let mut result = Counted { subgroups: subgroups.len() as u64, ..Counted::default() };
        loop {
            self.reads_buffer = false;
            let (mut at_barrier, mut weight) = (false, 1);
            for subgroup in subgroups.iter_mut().filter(|it| !it.has_ended) {
                at_barrier |= self.resume(subgroup);
                weight = subgroup.weight;
                if self.operations >= self.launch.limit {
                    return (None, self.turns(&subgroups));
                }
            }
            result.waits += weight * u64::from(self.reads_buffer);
            result.barriers += weight * u64::from(at_barrier);
            if subgroups.iter().all(|it| it.has_ended) {
                break;
            }
        }
        for (at, tally) in self.tallies.iter().enumerate().filter(|(_, tally)| tally.issues > 0) {
            let Some(unit) = self.unit(at) else { continue };
            result.tallies.entry((self.program.lines[at], unit)).or_default().add(tally);
        }
        result.sectors = self.distinct;
        (Some(result), self.turns(&subgroups))
    }

    fn turns(&self, subgroups: &[Subgroup]) -> Vec<u64> {
        let turns = |index: usize| {
            let sum = |of: fn(&Subgroup) -> &Vec<u64>| subgroups.iter().map(|it| of(it)[index]).sum::<u64>();
            let (arrivals, returns) = (sum(|it| &it.arrivals), sum(|it| &it.returns));
            arrivals / (arrivals - returns.min(arrivals)).max(1)
        };
        (0..self.flow.loops.len()).map(turns).collect()
    }

    /// What executes an operation, if it takes anything.
    fn unit(&self, at: usize) -> Option<Unit> {
        let is_store = matches!(self.program.code[at], Op::Store { .. } | Op::Atomic { .. });
        let is_uniform = self.flow.classes[at] == Class::Uniform;
        Some(match (self.program.works[at], &self.program.code[at]) {
            (Work::Access { .. }, Op::Load { memory, .. } | Op::Store { memory, .. } | Op::Atomic { memory, .. }) => {
                match (memory, is_store) {
                    (Memory::Workgroup, false) => Unit::WorkgroupLoad,
                    (Memory::Workgroup, true) => Unit::WorkgroupStore,
                    (_, false) => Unit::Load,
                    (_, true) => Unit::Store,
                }
            }
            (Work::Fma, _) => Unit::Fma,
            (Work::Float, _) => Unit::Float,
            (Work::Special, _) => Unit::Special,
            (Work::Sum | Work::Product | Work::Integer | Work::Quotient, _) if is_uniform => Unit::Uniform,
            (Work::Sum | Work::Product | Work::Integer | Work::Quotient, _) => Unit::Integer,
            (_, Op::Barrier { .. }) => Unit::Barrier,
            (_, Op::Shuffle { .. }) => Unit::Shuffle,
            _ => return None,
        })
    }

    fn subgroup(&self, first: u32) -> Subgroup {
        let program = self.program;
        let width = self.launch.subgroup.min(program.invocations() - first);
        let mut registers = vec![Word::default(); self.words];
        for (slot, &word) in program.registers.iter().enumerate() {
            let home = self.homes[slot] as usize;
            let count = if self.steps[slot] == 1 { self.launch.subgroup as usize } else { 1 };
            registers[home..home + count].fill(word);
        }
        let workgroups = self.launch.workgroups;
        let [x, y, _] = workgroups.map(u64::from);
        let group = [self.workgroup % x, self.workgroup / x % y, self.workgroup / (x * y)].map(|index| index as u32);
        for lane in 0..width {
            for (slot, value) in program.builtin_values(workgroups, group, first + lane, self.launch.subgroup) {
                registers[self.place(slot, lane)] = Word::u32(value);
            }
        }
        for (&slot, &bits) in program.immediates.iter().zip(self.launch.immediates) {
            registers[self.place(slot, 0)] = Word::u32(bits);
        }
        Subgroup {
            registers,
            current: Front { position: 0, mask: u64::MAX >> (64 - width) },
            waiting: Vec::new(),
            has_ended: false,
            arrivals: vec![0; self.flow.loops.len()],
            returns: vec![0; self.flow.loops.len()],
            counted: vec![u64::MAX; program.code.len()],
            long: None,
            weight: 1,
            loads: [Vec::new(), Vec::new()],
        }
    }

    fn place(&self, slot: Slot, lane: u32) -> usize {
        (self.homes[slot as usize] + lane * self.steps[slot as usize]) as usize
    }

    /// Whether all lanes have the same value in a register.
    fn is_uniform(&self, slot: Slot) -> bool {
        self.steps[slot as usize] == 0
    }

    /// Sets a register in the lanes of a mask, once where it is the same in all of them.
    fn set(&self, registers: &mut [Word], to: Slot, mask: u64, value: impl Fn(&[Word], u32) -> Word) {
        if !self.flow.is_needed[to as usize] {
            return;
        }
        if self.is_uniform(to) {
            let word = value(registers, mask.trailing_zeros());
            registers[self.place(to, 0)] = word;
            return;
        }
        for lane in bits(mask) {
            let word = value(registers, lane);
            registers[self.place(to, lane)] = word;
        }
    }

    /// Computes an operation on registers alone.
    fn compute(&self, registers: &mut [Word], at: usize, mask: u64) {
        match self.program.code[at] {
            Op::Copy { to, from } => {
                self.set(registers, to, mask, |words, lane| words[self.place(from, lane)]);
            }
            Op::Move { to, from, count } => {
                for index in 0..count {
                    let from = from + index;
                    self.set(registers, to + index, mask, |words, lane| words[self.place(from, lane)]);
                }
            }
            Op::Zero { to, count } => {
                for to in to..to + count {
                    self.set(registers, to, mask, |_, _| Word::default());
                }
            }
            Op::Map1 { f, to, a } => {
                self.set(registers, to, mask, |words, lane| f(words[self.place(a, lane)]));
            }
            Op::Map2 { f, to, a, b } => {
                let value = |words: &[Word], lane| f(words[self.place(a, lane)], words[self.place(b, lane)]);
                self.set(registers, to, mask, value);
            }
            Op::Map3 { f, to, a, b, c } => {
                self.set(registers, to, mask, |words, lane| {
                    let [a, b, c] = [a, b, c].map(|slot| words[self.place(slot, lane)]);
                    f(a, b, c)
                });
            }
            _ => {}
        }
    }

    /// Counts the turns that all lanes take of a loop from here on, 2³² at most.
    fn turns_left(&self, it: &Subgroup, stride: &Stride, mask: u64) -> u64 {
        let mut registers = it.registers.clone();
        let mut turns = 0;
        while turns < 1 << 32 && self.advance(&mut registers, stride, mask) {
            turns += 1;
        }
        turns
    }

    /// Takes the counters of a loop through a turn; returns whether no lane leaves it.
    fn advance(&self, registers: &mut [Word], stride: &Stride, mask: u64) -> bool {
        for &at in &stride.operations {
            if at == stride.exit {
                let Op::Unless { condition, .. } = self.program.code[at] else { return false };
                let leaves = |lane| registers[self.place(condition, lane)].as_bool() == stride.leaves_when;
                let lanes = if self.is_uniform(condition) { mask & mask.wrapping_neg() } else { mask };
                if bits(lanes).any(leaves) {
                    return false;
                }
            } else {
                self.compute(registers, at, mask);
            }
        }
        true
    }

    /// Where a long loop begins a turn: goes on to the next one that is run.
    fn skip(&self, it: &mut Subgroup, at: usize, mask: u64) {
        let of_loop = |index: usize| Some((index, self.flow.strides[index].as_ref()?));
        let mut here = (0..self.flow.loops.len()).filter(|&index| self.flow.loops[index].start == at);
        let Some((index, stride)) = here.find_map(of_loop) else { return };
        let mut long = match it.long {
            Some(long) if long.index == index => Long { turn: long.turn + 1, ..long },
            _ => Long { index, turn: 0, turns: self.turns_left(it, stride, mask) },
        };
        while long.weight(long.turn) == 0 && self.advance(&mut it.registers, stride, mask) {
            long.turn += 1;
            it.arrivals[index] += 1;
            it.returns[index] += 1;
        }
        it.weight = long.weight(long.turn).max(1);
        it.long = Some(long);
    }

    /// Runs a subgroup to its next barrier or its end; returns whether it is at a barrier.
    fn resume(&mut self, it: &mut Subgroup) -> bool {
        let program = self.program;
        loop {
            if self.operations >= self.launch.limit {
                return false;
            }
            self.operations += 1;
            let Front { position: at, mask } = it.current;
            if self.begins[at] {
                for (index, one) in self.flow.loops.iter().enumerate() {
                    it.arrivals[index] += u64::from(one.start == at);
                }
                self.skip(it, at, mask);
            }
            if let Some(Long { index, .. }) = it.long {
                let one = self.flow.loops[index];
                if !(one.start..=one.end).contains(&at) {
                    (it.long, it.weight) = (None, 1);
                }
            }
            self.tally(it, at, mask);
            let mut next = at + 1;
            match program.code[at] {
                Op::Copy { .. }
                | Op::Move { .. }
                | Op::Zero { .. }
                | Op::Map1 { .. }
                | Op::Map2 { .. }
                | Op::Map3 { .. } => self.compute(&mut it.registers, at, mask),
                Op::Index { to, outer, index, signed, count, stride, .. } => {
                    let count = match count {
                        Count::Fixed(count) => count,
                        Count::Rest { buffer, first } => (self.length(buffer).saturating_sub(first)) / stride,
                    };
                    self.set(&mut it.registers, to, mask, |words, lane| {
                        let outer = outer.map_or(0, |slot| words[self.place(slot, lane)].bits);
                        let index = words[self.place(index, lane)].integer(signed);
                        let is_inside = outer != OUTSIDE && (0..i64::from(count)).contains(&index);
                        Word::u32(if is_inside { outer + index as u32 * stride } else { OUTSIDE })
                    });
                }
                Op::Load { to, memory, at, offset } => {
                    self.set(&mut it.registers, to, mask, |words, lane| {
                        let Some(address) = self.address(words, at, offset, lane) else { return Word::default() };
                        match memory {
                            Memory::Registers => words[self.place(address, lane)],
                            Memory::Workgroup => self.shared[address as usize],
                            Memory::Storage(buffer) => self.stored(buffer, address),
                        }
                    });
                }
                Op::Store { from, memory, at, offset } => self.store(it, mask, from, memory, at, offset),
                Op::Length { to, buffer, first, stride } => {
                    let length = Word::u32(self.length(buffer).saturating_sub(first) / stride);
                    self.set(&mut it.registers, to, mask, |_, _| length);
                }
                Op::Jump { target } => next = target as usize,
                Op::Unless { condition, target } => {
                    let target = target as usize;
                    let holds = |lane| it.registers[self.place(condition, lane)].as_bool();
                    let on = match self.is_uniform(condition) {
                        true => mask * u64::from(holds(mask.trailing_zeros())),
                        false => bits(mask).filter(|&lane| holds(lane)).fold(0, |on, lane| on | 1 << lane),
                    };
                    self.branch(it, at, target, mask & !on, on);
                    continue;
                }
                Op::Shuffle { to, from, lane } => {
                    let before = it.registers.clone();
                    self.set(&mut it.registers, to, mask, |_, own| {
                        let source = before[self.place(lane, own)].bits;
                        if source < self.launch.subgroup { before[self.place(from, source)] } else { Word::default() }
                    });
                }
                Op::Barrier { .. } => {
                    self.finish_all(it);
                    it.current.position = next;
                    self.meet(it);
                    return true;
                }
                Op::End => match it.waiting.pop() {
                    Some(front) => {
                        it.current = front;
                        continue;
                    }
                    None => {
                        self.finish_all(it);
                        it.has_ended = true;
                        return false;
                    }
                },
                Op::Atomic { .. } => self.atomic(it, at, mask),
                Op::Check { .. } | Op::Matrix { .. } | Op::MultiplyAdd { .. } => {}
                Op::Texel { .. } | Op::Extent { .. } | Op::Collective { .. } | Op::Ballot { .. } => {}
            }
            if next <= at {
                self.turn(it, at);
            }
            it.current.position = next;
            self.meet(it);
        }
    }

    fn finish_all(&mut self, it: &mut Subgroup) {
        [false, true].into_iter().for_each(|of_workgroup| self.finish(it, of_workgroup));
    }

    /// Notes that a loop begins again. What an unrolled loop loads in one turn may be one instruction with the next.
    fn turn(&mut self, it: &mut Subgroup, at: usize) {
        if let Some(index) = self.flow.loops.iter().position(|one| one.end == at) {
            it.returns[index] += 1;
            if !self.flow.unrolled[index] {
                self.finish_all(it);
            }
        }
    }

    /// Sends some lanes on to `target` and the others to the next operation.
    fn branch(&mut self, it: &mut Subgroup, at: usize, target: usize, jumping: u64, staying: u64) {
        if jumping != 0 && target <= at {
            self.turn(it, at);
        }
        let mut fronts = [Front { position: at + 1, mask: staying }, Front { position: target, mask: jumping }];
        fronts.sort_by_key(|front| front.position);
        let [near, far] = fronts;
        if near.mask == 0 {
            it.current = far;
        } else {
            it.current = near;
            if far.mask != 0 {
                Self::wait(it, far);
            }
        }
        self.meet(it);
    }

    fn wait(it: &mut Subgroup, front: Front) {
        match it.waiting.iter_mut().find(|other| other.position == front.position) {
            Some(other) => other.mask |= front.mask,
            None => {
                let at = it.waiting.partition_point(|other| other.position > front.position);
                it.waiting.insert(at, front);
            }
        }
    }

    /// Goes on with the lanes that are behind, together with those that stand at the same place.
    fn meet(&self, it: &mut Subgroup) {
        let Some(&nearest) = it.waiting.last() else { return };
        if nearest.position == it.current.position {
            it.current.mask |= nearest.mask;
            it.waiting.pop();
        } else if nearest.position < it.current.position {
            it.waiting.pop();
            let current = std::mem::replace(&mut it.current, nearest);
            Self::wait(it, current);
        }
    }

    fn address(&self, words: &[Word], at: u32, offset: Option<Slot>, lane: u32) -> Option<u32> {
        match offset.map_or(0, |slot| words[self.place(slot, lane)].bits) {
            OUTSIDE => None,
            offset => Some(at + offset),
        }
    }

    fn store(&mut self, it: &mut Subgroup, mask: u64, from: Slot, memory: Memory, at: u32, offset: Option<Slot>) {
        let is_kept = match memory {
            Memory::Registers => true,
            Memory::Workgroup => self.flow.needs_workgroup,
            Memory::Storage(_) => self.flow.needs_storage,
        };
        if !is_kept {
            return;
        }
        for lane in bits(mask) {
            let Some(address) = self.address(&it.registers, at, offset, lane) else { continue };
            let word = it.registers[self.place(from, lane)];
            match memory {
                Memory::Registers => {
                    // What is the same in all lanes is stored once.
                    let is_last = self.is_uniform(address) || !self.flow.is_needed[address as usize];
                    let place = self.place(address, lane);
                    it.registers[place] = word;
                    if is_last {
                        break;
                    }
                }
                Memory::Workgroup => self.shared[address as usize] = word,
                Memory::Storage(buffer) => drop(self.written.insert((buffer, address), word)),
            }
        }
    }

    /// Updates an atomic lane by lane.
    fn atomic(&mut self, it: &mut Subgroup, at: usize, mask: u64) {
        let Op::Atomic { access, f, to, memory, at, offset, value, compare } = self.program.code[at] else { return };
        for lane in bits(mask) {
            let Some(address) = self.address(&it.registers, at, offset, lane) else { continue };
            let old = match memory {
                Memory::Storage(buffer) => self.stored(buffer, address),
                _ => self.shared[address as usize],
            };
            let exchanged = compare.is_none_or(|slot| it.registers[self.place(slot, lane)].bits == old.bits);
            if access != AtomicAccess::Load && exchanged {
                let new = f(old, it.registers[self.place(value, lane)]);
                match memory {
                    Memory::Storage(buffer) => drop(self.written.insert((buffer, address), new)),
                    _ => self.shared[address as usize] = new,
                }
            }
            let place = self.place(to, lane);
            it.registers[place] = old;
            if compare.is_some() {
                let place = self.place(to + 1, lane);
                it.registers[place] = Word::u32(exchanged.into());
            }
        }
    }

    fn length(&self, buffer: u32) -> u32 {
        let rank = self.program.buffers[buffer as usize].rank as usize;
        u32::try_from(self.launch.lengths[rank]).unwrap_or(u32::MAX)
    }

    /// What a storage buffer holds.
    fn stored(&self, buffer: u32, address: u32) -> Word {
        if self.program.buffers[buffer as usize].writable
            && let Some(&word) = self.written.get(&(buffer, address))
        {
            return word;
        }
        if let Some(contents) = self.launch.contents {
            return contents[buffer as usize].get(address as usize).copied().unwrap_or_default();
        }
        // The finaliser of MurmurHash3.
        let mut hash = address ^ buffer.wrapping_mul(0x9e37_79b9);
        hash = (hash ^ hash >> 16).wrapping_mul(0x85eb_ca6b);
        hash = (hash ^ hash >> 13).wrapping_mul(0xc2b2_ae35);
        hash ^= hash >> 16;
        Word::u32(((hash >> 8) as f32 / (1u32 << 24) as f32).to_bits())
    }

    /// Counts an operation.
    fn tally(&mut self, it: &mut Subgroup, at: usize, mask: u64) {
        let lanes = u64::from(mask.count_ones());
        let class = self.flow.classes[at];
        let times = match self.program.works[at] {
            Work::Nothing => match self.program.code[at] {
                Op::Barrier { .. } | Op::Shuffle { .. } => 1,
                _ => return,
            },
            Work::Access { scalars, variable } => return self.access(it, at, mask, scalars, variable),
            _ if class == Class::Known => return,
            Work::Sum | Work::Product | Work::Integer | Work::Quotient if self.flow.is_free[at] => return,
            work => {
                let turn = self.flow.changes[at].map_or(0, |index| it.arrivals[index]);
                if std::mem::replace(&mut it.counted[at], turn) == turn {
                    return;
                }
                match (work, self.program.code[at]) {
                    (Work::Quotient, Op::Map2 { b, .. }) => {
                        let divisor = it.registers[self.place(b, mask.trailing_zeros())].bits;
                        let [power, known, unknown] = QUOTIENTS;
                        match self.flow.is_decided[at] {
                            true if divisor.is_power_of_two() => power,
                            _ if self.flow.is_shared[at] => SHARED,
                            true => known,
                            false => unknown,
                        }
                    }
                    _ => 1,
                }
            }
        };
        let tally = &mut self.tallies[at];
        tally.issues += it.weight * times;
        tally.lanes += it.weight * times * lanes;
    }

    /// Counts a store, and keeps a load until it is known which others are one instruction with it.
    fn access(&mut self, it: &mut Subgroup, at: usize, mask: u64, scalars: u32, variable: u32) {
        let (memory, first, offset) = match self.program.code[at] {
            Op::Load { memory, at, offset, .. } | Op::Store { memory, at, offset, .. } => (memory, at, offset),
            Op::Atomic { memory, at, offset, .. } => (memory, at, offset),
            _ => return,
        };
        let held = &self.program.variables[variable as usize];
        let bytes = u64::from(held.scalar_bytes);
        let byte = |scalar: u32| u64::from(held.first_byte) + u64::from(scalar - held.at) * bytes;
        let is_uniform = offset.is_none_or(|slot| self.is_uniform(slot));
        let lanes = if is_uniform { mask & mask.wrapping_neg() } else { mask };
        let place = |lane| Some((lane, byte(self.address(&it.registers, first, offset, lane)?)));
        let access = Access {
            at,
            mask,
            variable,
            memory,
            is_uniform,
            width: bytes * u64::from(scalars),
            weight: it.weight,
            places: bits(lanes).filter_map(place).collect(),
        };
        let of_workgroup = memory == Memory::Workgroup;
        if matches!(self.program.code[at], Op::Load { .. }) {
            self.reads_buffer |= !of_workgroup;
            it.loads[usize::from(of_workgroup)].push(access);
            if it.loads[usize::from(of_workgroup)].len() >= MOST_LOADS {
                self.finish(it, of_workgroup);
            }
        } else {
            // It may change what later loads find.
            self.finish(it, of_workgroup);
            self.count(&access, access.width);
        }
    }

    /// Counts the loads of workgroup memory, or of buffers, that nothing has separated: those of the same words as one,
    /// and those of neighbouring words as one of up to 16 bytes where its address is a multiple of its size.
    fn finish(&mut self, it: &mut Subgroup, of_workgroup: bool) {
        let mut loads = std::mem::take(&mut it.loads[usize::from(of_workgroup)]);
        loads.sort_by(|one, other| {
            let key = |it: &Access| (it.variable, it.mask, it.width, it.weight, it.is_uniform);
            key(one).cmp(&key(other)).then_with(|| one.places.cmp(&other.places))
        });
        loads.dedup_by(|one, other| {
            one.places == other.places
                && (one.variable, one.mask, one.width) == (other.variable, other.mask, other.width)
        });
        let mut rest = &loads[..];
        while let [first, ..] = rest {
            let joins = |count: usize| {
                let width = first.width * count as u64;
                first.width >= 4
                    && width <= 16
                    && rest.len() >= count
                    && first.places.iter().all(|&(_, byte)| byte % width == 0)
                    && rest[..count].windows(2).all(|pair| pair[0].precedes(&pair[1]))
            };
            let count = [4, 2].into_iter().find(|&count| joins(count)).unwrap_or(1);
            self.count(first, first.width * count as u64);
            rest = &rest[count..];
        }
    }

    /// Counts the sectors or the passes of an access.
    fn count(&mut self, access: &Access, width: u64) {
        let Access { at, mask, weight, .. } = *access;
        let mut places = access.places.clone();
        let tally = &mut self.tallies[at];
        tally.issues += weight;
        tally.lanes += weight * u64::from(mask.count_ones());
        match access.memory {
            Memory::Storage(buffer) => {
                let (touched, fewest) = sectors(&mut places, width);
                for &sector in &touched {
                    let is_new = self.touched.insert(u64::from(buffer) << 56 | sector);
                    self.distinct += weight * u64::from(is_new);
                }
                tally.sectors += weight * touched.len() as u64;
                tally.fewest_sectors += weight * fewest;
            }
            Memory::Workgroup => {
                let [passes, fewest] = match access.is_uniform {
                    // All read the same words.
                    true => [groups(mask, width) * u64::from(!places.is_empty()); 2],
                    false => passes(&places, width),
                };
                tally.passes += weight * passes;
                tally.fewest_passes += weight * fewest;
            }
            Memory::Registers => {}
        }
    }
}

/// The sectors that lanes touch, and how many they would if the same bytes lay side by side.
fn sectors(places: &mut [(u32, u64)], width: u64) -> (Vec<u64>, u64) {
    places.sort_unstable_by_key(|&(_, byte)| byte);
    let mut touched: Vec<u64> = Vec::with_capacity(8);
    let mut distinct = 0;
    let mut last = None;
    for &(_, byte) in places.iter() {
        if last.replace(byte) == Some(byte) {
            continue;
        }
        distinct += width;
        for sector in byte / SECTOR_BYTES..=(byte + width - 1) / SECTOR_BYTES {
            if touched.last() != Some(&sector) {
                touched.push(sector);
            }
        }
    }
    touched.dedup();
    (touched, distinct.div_ceil(SECTOR_BYTES))
}

/// Lanes whose accesses of so many bytes are served at once.
fn served(width: u64) -> u32 {
    match width {
        ..=4 => 32,
        5..=8 => 16,
        _ => 8,
    }
}

/// In how many parts the accesses of these lanes are served.
fn groups(mask: u64, width: u64) -> u64 {
    let size = served(width);
    (0..64 / size).filter(|&group| mask >> (group * size) & (u64::MAX >> (64 - size)) != 0).count() as u64
}

/// Clocks that the banks take for the accesses of lanes, in the order of lanes, and how many without conflicts.
fn passes(places: &[(u32, u64)], width: u64) -> [u64; 2] {
    let size = served(width);
    let (mut sum, mut fewest) = (0, 0);
    for group in places.chunk_by(|(one, _), (other, _)| one / size == other / size) {
        // Each distinct word of a bank is a pass; lanes that read the same word share it.
        let mut words: Vec<u64> = group.iter().flat_map(|&(_, byte)| byte / 4..=(byte + width - 1) / 4).collect();
        words.sort_unstable();
        words.dedup();
        let mut banks = [0u64; BANKS];
        words.iter().for_each(|&word| banks[word as usize % BANKS] += 1);
        sum += banks.into_iter().max().unwrap_or(0);
        fewest += 1;
    }
    [sum, fewest]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proof::sanitizer::lower;

    /// What one workgroup of a kernel does, in subgroups of 32 lanes. The kernel reads `x`, writes `y`, and has
    /// `lane` and workgroup memory `s`.
    fn counted(invocations: u32, element: &str, body: &str) -> Counted {
        let source = format!(
            "@group(0) @binding(0) var<storage, read> x: array<{element}>;
            @group(0) @binding(1) var<storage, read_write> y: array<{element}>;
            var<workgroup> s: array<{element}, 2048>;
            @compute @workgroup_size({invocations})
            fn main(@builtin(local_invocation_index) lane: u32, @builtin(num_workgroups) grid: vec3<u32>) {{
{body}
            }}"
        );
        let program = lower("planted.wgsl", &source).unwrap_or_else(|refusal| panic!("{refusal}"));
        let launch = Launch {
            workgroups: [1, 1, 1],
            immediates: &[],
            lengths: &[1 << 16; 2],
            contents: None,
            subgroup: 32,
            limit: 1_000_000,
        };
        program.count(&launch, &[0]).unwrap().remove(0)
    }

    /// Of all lines.
    fn sum(counted: &Counted, unit: Unit) -> Tally {
        let mut sum = Tally::default();
        counted.tallies.iter().filter(|((_, other), _)| *other == unit).for_each(|(_, tally)| sum.add(tally));
        sum
    }

    fn sectors_of(invocations: u32, element: &str, body: &str) -> [u64; 4] {
        let load = sum(&counted(invocations, element, body), Unit::Load);
        [load.issues, load.lanes, load.sectors, load.fewest_sectors]
    }

    #[test]
    fn sectors_of_loads_are_those_that_lanes_touch() {
        assert_eq!(sectors_of(64, "f32", "y[lane] = x[lane];"), [2, 64, 8, 8]);
        assert_eq!(sectors_of(64, "f32", "y[lane] = x[lane + 1u];"), [2, 64, 10, 8], "one sector more each");
        assert_eq!(sectors_of(64, "f32", "y[lane] = x[2u * lane];"), [2, 64, 16, 8]);
        assert_eq!(sectors_of(64, "f32", "y[lane] = x[8u * lane];"), [2, 64, 64, 8]);
        assert_eq!(sectors_of(64, "f32", "y[lane] = x[1000u * lane];"), [2, 64, 64, 8]);
        assert_eq!(sectors_of(64, "f32", "y[lane] = x[63u - lane];"), [2, 64, 8, 8], "backwards");
        assert_eq!(sectors_of(64, "f32", "y[lane] = x[5];"), [2, 64, 2, 2], "all lanes the same");
        assert_eq!(sectors_of(64, "f32", "y[lane] = x[lane / 16u];"), [2, 64, 2, 2], "two words");
        assert_eq!(sectors_of(8, "f32", "y[lane] = x[lane];"), [1, 8, 1, 1], "part of a subgroup");
        // A vector is one instruction.
        assert_eq!(sectors_of(64, "vec4<f32>", "y[lane] = x[lane];"), [2, 64, 32, 32]);
        assert_eq!(sectors_of(64, "vec2<f32>", "y[lane] = x[lane];"), [2, 64, 16, 16]);
        // Its components one by one are joined, but for those that a multiple of 16 bytes parts.
        let parts = "y[lane] = vec4(x[lane].x, x[lane].y, x[lane].z, x[lane].w);";
        assert_eq!(sectors_of(64, "vec4<f32>", parts), [2, 64, 32, 32]);
        let four = |first: u32| {
            format!(
                "var sum = 0.0; for (var i = 0u; i < 4u; i++) {{ sum += x[4u * lane + i + {first}u]; }} y[lane] = sum;"
            )
        };
        assert_eq!(sectors_of(64, "f32", &four(0)), [2, 64, 32, 32]);
        assert_eq!(sectors_of(64, "f32", &four(2)), [4, 128, 66, 32], "two of 8 bytes, half of each sector");
        assert_eq!(sectors_of(64, "f32", &four(1))[0], 6, "one, two and one");
        assert_eq!(sectors_of(64, "f32", "y[lane] = x[lane] + x[lane];"), [2, 64, 8, 8], "the same twice");
        // Out of bounds nothing is touched.
        assert_eq!(sectors_of(32, "f32", "y[lane] = x[lane + 65536u];"), [1, 32, 0, 0]);
        let stores = sum(&counted(64, "f32", "y[4u * lane] = 1.0;"), Unit::Store);
        assert_eq!([stores.issues, stores.sectors, stores.fewest_sectors], [2, 32, 8]);
        // What a workgroup touches twice is one sector of its cache.
        let twice = counted(64, "f32", "y[lane] = x[lane] + x[63u - lane];");
        assert_eq!([sum(&twice, Unit::Load).sectors, twice.sectors], [16, 16], "eight of x, eight of y");
    }

    fn passes_of(element: &str, index: &str) -> [u64; 2] {
        let body = format!("s[lane] = x[lane]; workgroupBarrier(); y[lane] = s[{index}];");
        let load = sum(&counted(32, element, &body), Unit::WorkgroupLoad);
        assert_eq!(load.issues, 1);
        [load.passes, load.fewest_passes]
    }

    #[test]
    fn bank_conflicts_are_counted_as_accesses_are_served() {
        // 4 bytes: a warp at once.
        assert_eq!(passes_of("f32", "lane"), [1, 1]);
        assert_eq!(passes_of("f32", "31u - lane"), [1, 1]);
        assert_eq!(passes_of("f32", "2u * lane"), [2, 1]);
        assert_eq!(passes_of("f32", "3u * lane"), [1, 1]);
        assert_eq!(passes_of("f32", "16u * lane"), [16, 1]);
        assert_eq!(passes_of("f32", "32u * lane"), [32, 1]);
        assert_eq!(passes_of("f32", "33u * lane"), [1, 1], "the pad");
        assert_eq!(passes_of("f32", "7u"), [1, 1], "a broadcast");
        assert_eq!(passes_of("f32", "lane / 4u"), [1, 1], "eight words");
        assert_eq!(passes_of("f32", "32u * (lane / 16u)"), [2, 1], "two words of a bank");
        // 8 bytes: half a warp at a time.
        assert_eq!(passes_of("vec2<f32>", "lane"), [2, 2]);
        assert_eq!(passes_of("vec2<f32>", "2u * lane"), [4, 2]);
        assert_eq!(passes_of("vec2<f32>", "16u * lane"), [32, 2]);
        // 16 bytes: a quarter. Lanes 0 and 4 of a quarter meet where eight words lie between neighbours.
        assert_eq!(passes_of("vec4<f32>", "lane"), [4, 4]);
        assert_eq!(passes_of("vec4<f32>", "2u * lane"), [8, 4]);
        assert_eq!(passes_of("vec4<f32>", "5u * lane"), [4, 4], "the pad");
        assert_eq!(passes_of("vec4<f32>", "8u * lane"), [32, 4]);
        assert_eq!(passes_of("vec4<f32>", "3u"), [4, 4], "a broadcast");
        let stores = sum(&counted(32, "f32", "s[16u * lane] = x[lane];"), Unit::WorkgroupStore);
        assert_eq!([stores.issues, stores.passes, stores.fewest_passes], [1, 16, 1]);
    }

    #[test]
    fn multiply_adds_are_counted_by_component_and_turn() {
        let of = |element: &str, body: &str| {
            let counted = counted(64, element, body);
            [Unit::Fma, Unit::Float, Unit::Special].map(|unit| sum(&counted, unit).lanes)
        };
        assert_eq!(of("f32", "y[lane] = fma(x[lane], x[lane + 1u], 2.0);"), [64, 0, 0]);
        assert_eq!(of("vec4<f32>", "y[lane] = fma(x[lane], x[lane + 1u], x[lane]);"), [256, 0, 0]);
        assert_eq!(of("vec4<f32>", "y[lane] = vec4(dot(x[lane], x[lane + 1u]));"), [192, 64, 0]);
        assert_eq!(of("f32", "y[lane] = exp(x[lane]) * 2.0 + 1.0;"), [0, 128, 64]);
        let looped = |turns: &str| {
            format!(
                "var sum = x[lane]; for (var i = 0u; i < {turns}; i++) {{ sum = fma(sum, x[lane + i], 1.0); }} \
                 y[lane] = sum;"
            )
        };
        assert_eq!(of("f32", &looped("10u")), [640, 0, 0]);
        assert_eq!(of("f32", &looped("100u")), [6400, 0, 0]);
        assert_eq!(of("f32", &looped("10u * grid.x")), [640, 0, 0]);
        // Lane i runs it i times: 0 + 1 + … + 63.
        assert_eq!(of("f32", &looped("lane")), [2016, 0, 0]);
        // What is not a number is counted all the same.
        let nan = "let zero = x[lane] - x[lane]; y[lane] = fma(zero / zero, zero, sqrt(-1.0 - x[lane]));";
        assert_eq!(of("f32", nan), [64, 128, 128]);
    }

    #[test]
    fn lanes_that_a_branch_leaves_out_idle() {
        let of = |body: &str| {
            let fma = sum(&counted(64, "f32", body), Unit::Fma);
            [fma.issues, fma.lanes]
        };
        // Of memory that is written, so that no turn is like another.
        let work = "y[lane] = fma(y[lane], 2.0, 1.0);";
        assert_eq!(of(&format!("if lane < 8u {{ {work} }}")), [1, 8], "the second subgroup leaves it out");
        assert_eq!(of(&format!("if lane % 2u == 0u {{ {work} }}")), [2, 32]);
        assert_eq!(of(&format!("if lane % 2u == 0u {{ {work} }} else {{ {work} }}")), [4, 64]);
        assert_eq!(of(&format!("if lane >= 40u {{ return; }} {work}")), [2, 40]);
        // The longest lane of a subgroup decides: 31 and 63 turns.
        let looped = format!("for (var i = 0u; i < lane; i++) {{ {work} }}");
        assert_eq!(of(&looped), [94, 2016]);
        // Lanes meet again after a loop that they leave one by one, in each turn of the loop around it.
        let nested = format!("for (var j = 0u; j < 3u; j++) {{ for (var i = 0u; i < lane; i++) {{}} {work} }}");
        assert_eq!(of(&nested), [6, 192]);
        let left = format!("for (var i = 0u; i < 64u; i++) {{ if i == lane {{ break; }} }} {work}");
        assert_eq!(of(&left), [2, 64]);
        let skipped = format!("for (var i = 0u; i < 4u; i++) {{ if lane < 16u {{ continue; }} {work} }}");
        assert_eq!(of(&skipped), [8, 4 * 48]);
        let switched = format!("switch lane % 4u {{ case 0u: {{ {work} }} case 1u, 2u: {{ {work} }} default: {{}} }}");
        assert_eq!(of(&switched), [4, 48]);
    }

    #[test]
    fn what_a_compiler_computes_once_is_counted_once() {
        let of = |body: &str| {
            let counted = counted(32, "f32", body);
            [Unit::Integer, Unit::Uniform].map(|unit| sum(&counted, unit).issues)
        };
        // The addresses of x and y.
        assert_eq!(of("y[lane] = x[lane];"), [2, 0]);
        assert_eq!(of("y[lane] = x[lane + 7u];"), [2, 0], "a known number is part of the address");
        assert_eq!(of("y[lane] = x[lane * 7u];"), [3, 0]);
        assert_eq!(of("y[lane] = x[lane * grid.x];"), [3, 0]);
        assert_eq!(of("y[lane] = x[grid.x * 3u];"), [1, 2], "the product and its scaling are uniform");
        let looped = |turns: &str, index: &str| {
            format!("var sum = 0.0; for (var i = 0u; i < {turns}; i++) {{ sum += x[{index}]; }} y[lane] = sum;")
        };
        // Unrolled: ten scalings of lane · 7 + i, one product, the address of y.
        assert_eq!(of(&looped("10u", "lane * 7u + i")), [12, 0]);
        // Under a condition too, whose comparison is uniform; unless the variable is read where the condition does not hold.
        let under = "var sum = 0.0; if grid.x > 0u { for (var i = 0u; i < 10u; i++) { sum += x[lane * 7u + i]; } }";
        assert_eq!(of(&format!("{under} y[lane] = sum;")), [12, 1]);
        assert_eq!(of("var i = 0u; if grid.x > 0u { i = 1u; } y[lane] = x[i];"), [1, 2], "a comparison and a scaling");
        // Not unrolled: a comparison a turn and once more at the end, an increment a turn that is part of an address.
        assert_eq!(of(&looped("100u", "lane * 7u")), [3, 101]);
        let quotient = |divisor: &str| of(&format!("y[lane] = x[lane / {divisor}];"))[0];
        assert_eq!([quotient("8u"), quotient("7u"), quotient("grid.x")], [3, 6, 22]);
        assert_eq!(of("y[lane] = x[lane / 7u + lane % 7u];")[0], 9, "4 and 2, a sum, two scalings");
        assert_eq!(of("y[lane] = x[lane * 7u + grid.x];")[0], 3, "a multiply-add, two scalings");
        assert_eq!(of("y[lane * 7u] = x[lane * 7u + 1u];")[0], 3, "one product");
        let branched = "if lane > grid.x { y[lane * 7u] = 1.0; } y[lane * 7u + 1u] = 2.0;";
        assert_eq!(of(branched)[0], 5, "what only some lanes computed is computed again");
    }

    #[test]
    fn long_loops_are_counted_as_if_all_turns_had_run() {
        let fma = |body: &str| {
            let counted = counted(64, "f32", body);
            let (fma, load) = (sum(&counted, Unit::Fma), sum(&counted, Unit::Load));
            [fma.issues, fma.lanes, load.issues, load.sectors]
        };
        let looped = |from: &str, to: &str, by: &str| {
            format!("var z = 0.0; for (var i = {from}; i < {to}; i += {by}) {{ z = fma(x[i], z, 1.0); }} y[lane] = z;")
        };
        // 1000 turns of two subgroups, a sector each.
        assert_eq!(fma(&looped("0u", "1000u", "1u")), [2000, 64_000, 2000, 2000]);
        assert_eq!(fma(&looped("0u", "1000u * grid.x", "1u")), [2000, 64_000, 2000, 2000]);
        // Each lane takes every 64th of 64 · 500 + 5: the first five take one turn more.
        assert_eq!(fma(&looped("lane", "32005u * grid.x", "64u")), [1001, 32_005, 1001, 4001]);
        // What depends on the turn cannot be left out.
        let continued = "var z = 0.0; var j = 0u; for (var i = 0u; i < 1000u; i++) { if i % 3u == 0u { continue; } \
                         j += 2u; z = fma(x[j], z, 1.0); } y[lane] = z;";
        assert_eq!(fma(continued)[..2], [2 * 666, 64 * 666]);
        // Of 1000 turns with a barrier each all are counted, and of the waits as well.
        let barred = "for (var i = 0u; i < 1000u; i++) { s[lane] = fma(x[i], 2.0, 1.0); workgroupBarrier(); }";
        let counted = counted(64, "f32", barred);
        assert_eq!([counted.barriers, counted.waits, sum(&counted, Unit::Barrier).issues], [1000, 1000, 2000]);
    }

    #[test]
    fn lines_barriers_and_waits_are_told() {
        let body = "s[lane] = x[lane];\nworkgroupBarrier();\ny[lane] = s[32u * (lane % 32u)];\nworkgroupBarrier();";
        let found = counted(64, "f32", body);
        assert_eq!([found.barriers, found.waits, found.subgroups], [2, 1, 2]);
        // The body begins in the sixth line.
        assert_eq!(found.tallies[&(8, Unit::WorkgroupLoad)].passes, 64);
        assert_eq!(found.tallies[&(6, Unit::Load)].sectors, 8);
        assert_eq!(found.tallies[&(7, Unit::Barrier)].issues, 2);
    }

    #[test]
    fn a_kernel_that_does_not_end_is_refused() {
        let source = "@compute @workgroup_size(32) fn main() { loop {} }";
        let program = lower("endless.wgsl", source).unwrap();
        let launch =
            Launch { workgroups: [1; 3], immediates: &[], lengths: &[], contents: None, subgroup: 64, limit: 1000 };
        assert!(program.count(&launch, &[0]).unwrap_err().contains("1000 instructions"));
    }
}
