//! The order of computations, and which values are computed again so that fewer have to be kept.

use std::any::Any;

use crate::engine::ops::layout::{Pack, Packing};
use crate::engine::ops::lowering;
use crate::engine::tape::{Tape, Value};

/// A computation. A value that is computed again has several.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub value: Value,
    pub bytes: u64,
    /// Whether the value is stored in f16.
    pub is_half: bool,
    /// Where each input is computed; `None` for feeds, states and constants.
    pub reads: Vec<Option<usize>>,
    /// The packed array in which the value has its place, and the bytes before it there: it takes none of its own.
    pub home: Option<(usize, u64)>,
    /// Whether parts of the value are read by themselves.
    pub is_divided: bool,
}

/// The live part of a tape as computations in order.
#[derive(Clone, Debug)]
pub(super) struct Schedule<'a> {
    pub tape: &'a Tape,
    /// By number, which stays when others are put before.
    pub entries: Vec<Entry>,
    /// Numbers, in the order of computation.
    pub order: Vec<usize>,
    /// Where each of the kept values is computed; `None` for feeds, states and constants.
    pub kept: Vec<Option<usize>>,
}

/// A computation and the positions in the order from it to the last use, both included.
#[derive(Clone, Debug)]
pub(super) struct Lifetime {
    pub entry: usize,
    pub bytes: u64,
    pub first: usize,
    pub last: usize,
    /// See [`Entry::home`].
    pub home: Option<(usize, u64)>,
    /// Whether what nobody writes of it has to stay zero, so that it can share its slot with no other.
    has_gaps: bool,
}

impl Lifetime {
    pub fn overlaps(&self, other: &Lifetime) -> bool {
        self.has_gaps || other.has_gaps || self.first <= other.last && other.first <= self.last
    }
}

/// The part of the peak, as its inverse, that a value has to be worth for it to be computed again.
const WORTHWHILE: u64 = 256;
/// How many cheap values in a row are computed again to get at one.
const DEPTH: usize = 4;

/// A value that is not kept over the peak, but computed again before its next use there.
#[derive(Debug, Default)]
struct Detour {
    /// What is computed again: inputs first, the value itself last.
    entries: Vec<usize>,
    /// The position before which that happens, and the last that needs the value before the peak.
    before: usize,
    after: usize,
    /// Values that live on for it, each with its last position so far.
    extended: Vec<(usize, usize)>,
    /// Computations whose value is there by another one, and that.
    instead: Vec<(usize, usize)>,
    /// Bytes fewer at the peak.
    gain: u64,
}

impl<'a> Schedule<'a> {
    /// All live computations in the order of the tape.
    pub fn new(tape: &'a Tape, live: &[bool], kept: &[Value]) -> Self {
        let mut schedule = Schedule { tape, entries: Vec::new(), order: Vec::new(), kept: Vec::new() };
        let mut numbers: Vec<Option<usize>> = vec![None; tape.len()];
        let number_of = |numbers: &[Option<usize>], value| numbers[super::storage(tape, value).0.index()];
        for (value, node) in tape.iter().filter(|(value, _)| live[value.index()]) {
            let (whole, _) = super::storage(tape, value);
            let Some(primitive) = node.primitive().filter(|_| whole == value) else {
                if let Some(number) = numbers[whole.index()] {
                    schedule.entries[number].is_divided |= tape.shape(whole).count() > node.shape.count();
                }
                continue;
            };
            let number = schedule.entries.len();
            let reads: Vec<Option<usize>> = node.inputs().iter().map(|&input| number_of(&numbers, input)).collect();
            if let Some(Pack { packing }) = (primitive as &dyn Any).downcast_ref() {
                for (part, start) in reads.iter().zip(&packing.starts) {
                    let part = &mut schedule.entries[part.expect("a part is computed")];
                    (part.home, part.bytes) = (Some((number, (start * size_of::<f32>()) as u64)), 0);
                }
            }
            numbers[value.index()] = Some(number);
            schedule.order.push(number);
            let bytes = node.shape.bytes();
            schedule.entries.push(Entry { value, bytes, is_half: false, reads, home: None, is_divided: false });
        }
        schedule.kept = kept.iter().map(|&value| number_of(&numbers, value)).collect();
        schedule
    }

    /// Positions at which each computation's value is read, in order; the end of the order for what is kept.
    fn uses(&self) -> Vec<Vec<usize>> {
        let mut uses = vec![Vec::new(); self.entries.len()];
        for (position, &number) in self.order.iter().enumerate() {
            self.entries[number].reads.iter().flatten().for_each(|&read| uses[read].push(position));
        }
        self.kept.iter().flatten().for_each(|&read| uses[read].push(self.order.len()));
        uses
    }

    /// The computations that read a computation's value, and at which of their inputs.
    pub fn readers(&self, number: usize) -> impl Iterator<Item = (usize, usize)> {
        self.entries.iter().enumerate().flat_map(move |(reader, entry)| {
            let reads = entry.reads.iter().enumerate().filter(move |(_, read)| **read == Some(number));
            reads.map(move |(input, _)| (reader, input))
        })
    }

    /// Bytes before the value in its slot.
    pub fn offset(&self, number: usize) -> u64 {
        self.entries[number].home.map_or(0, |(_, offset)| offset)
    }

    pub fn lifetimes(&self) -> Vec<Lifetime> {
        let uses = self.uses();
        let lifetime = |(first, &entry): (usize, &usize)| {
            let last = uses[entry].last().map_or(first, |&last| last);
            let Entry { bytes, home, .. } = self.entries[entry];
            Lifetime { entry, bytes, first, last, home, has_gaps: self.has_gaps(entry) }
        };
        let mut lifetimes: Vec<Lifetime> = self.order.iter().enumerate().map(lifetime).collect();
        // A packed array lives from the first of its parts on, and as long as any of them.
        for (home, first, last) in
            lifetimes.iter().filter_map(|life| Some((life.home?.0, life.first, life.last))).collect::<Vec<_>>()
        {
            let packed = lifetimes.iter_mut().find(|life| life.entry == home).expect("what has parts is scheduled");
            (packed.first, packed.last) = (packed.first.min(first), packed.last.max(last));
        }
        lifetimes
    }

    fn packing(&self, number: usize) -> Option<&Packing> {
        let primitive: &dyn Any = self.tape.node(self.entries[number].value).primitive()?;
        primitive.downcast_ref().map(|Pack { packing }| packing)
    }

    fn has_gaps(&self, number: usize) -> bool {
        let parts = self.tape.node(self.entries[number].value).inputs();
        let count: usize = parts.iter().map(|&part| self.tape.shape(part).count()).sum();
        self.packing(number).is_some_and(|packing| packing.len > count)
    }

    /// Bytes that live at each position, and in the last element after all.
    pub fn live(&self, lifetimes: &[Lifetime]) -> Vec<u64> {
        let mut changes = vec![0i64; self.order.len() + 2];
        for life in lifetimes {
            changes[life.first] += life.bytes as i64;
            changes[life.last + 1] -= life.bytes as i64;
        }
        let sums = changes.iter().scan(0, |sum, change| {
            *sum += change;
            Some(*sum as u64)
        });
        sums.take(self.order.len() + 1).collect()
    }

    /// Has cheap values that live over the peak, but are not read there, computed again before they are read next, as long
    /// as that lowers the peak. Nothing else is moved, and no position comes to hold as much as the peak did.
    pub fn recompute(&mut self) {
        while let Some(detour) = self.detour() {
            let mut again = vec![None; self.entries.len()];
            detour.instead.iter().for_each(|&(number, other)| again[number] = Some(other));
            let of = |again: &[Option<usize>], read: usize| again.get(read).copied().flatten().unwrap_or(read);
            for (index, &number) in detour.entries.iter().enumerate() {
                let mut entry = self.entries[number].clone();
                entry.reads.iter_mut().flatten().for_each(|read| *read = of(&again, *read));
                again[number] = Some(self.entries.len());
                self.order.insert(detour.before + index, self.entries.len());
                self.entries.push(entry);
            }
            // Only the value itself is read anew from then on: what was computed on the way serves it alone.
            let (value, anew) = (detour.entries[detour.entries.len() - 1], self.entries.len() - 1);
            let redirect = |read: &mut usize| *read = if *read == value { anew } else { *read };
            for &number in &self.order[detour.before + detour.entries.len()..] {
                self.entries[number].reads.iter_mut().flatten().for_each(redirect);
            }
            self.kept.iter_mut().flatten().for_each(redirect);
        }
    }

    /// The detour that lowers the peak the most.
    fn detour(&self) -> Option<Detour> {
        let (lifetimes, uses) = (self.lifetimes(), self.uses());
        let live = self.live(&lifetimes);
        let peak = (0..live.len()).max_by_key(|&at| (live[at], std::cmp::Reverse(at)))?;
        let spans = |life: &&Lifetime| {
            let is_large = life.bytes >= (live[peak] / WORTHWHILE).max(1);
            life.first < peak
                && peak < life.last
                && is_large
                && self.is_cheap(life.entry)
                && !uses[life.entry].contains(&peak)
        };
        let detours = lifetimes.iter().filter(spans).filter_map(|life| {
            let positions = &uses[life.entry];
            let next = positions.partition_point(|&position| position <= peak);
            let after = next.checked_sub(1).map_or(life.first, |previous| positions[previous]);
            let mut detour = Detour { before: positions[next], after, ..Detour::default() };
            let is_possible = self.compute_again(life.entry, DEPTH, &lifetimes, &mut detour);
            (is_possible && self.pays(&mut detour, &live, peak)).then_some(detour)
        });
        detours.max_by_key(|detour| (detour.gain, std::cmp::Reverse(detour.entries.len())))
    }

    /// Adds to `detour` what it takes to compute an entry again; `false` if it is not cheap.
    fn compute_again(&self, number: usize, depth: usize, lifetimes: &[Lifetime], detour: &mut Detour) -> bool {
        let entry = &self.entries[number];
        if !self.is_cheap(number) {
            return false;
        }
        for &read in entry.reads.iter().flatten() {
            let is_known = detour.entries.contains(&read)
                || detour.extended.iter().chain(&detour.instead).any(|&(other, _)| other == read);
            if is_known {
                continue;
            }
            let same = lifetimes.iter().filter(|life| self.entries[life.entry].value == self.entries[read].value);
            let mut there = same.filter(|life| life.first < detour.before && life.last >= detour.before);
            if let Some(life) = there.next() {
                detour.instead.push((read, life.entry));
                continue;
            }
            // Small inputs are kept for it; a large one is computed again as well, or else kept too.
            let is_small = 8 * self.entries[read].bytes <= entry.bytes;
            if is_small || depth == 0 || !self.compute_again(read, depth - 1, lifetimes, detour) {
                let last = lifetimes.iter().find(|life| life.entry == read).map_or(0, |life| life.last);
                detour.extended.push((read, last));
            }
        }
        detour.entries.push(number);
        true
    }

    fn is_cheap(&self, number: usize) -> bool {
        self.entries[number].home.is_none()
            && self
                .tape
                .node(self.entries[number].value)
                .primitive()
                .and_then(lowering)
                .is_some_and(|lowered| lowered.is_cheap())
    }

    /// Whether less lives at the peak by `detour`, and less than at the peak wherever more lives; sets its gain.
    fn pays(&self, detour: &mut Detour, live: &[u64], peak: usize) -> bool {
        let bytes = |number: usize| self.entries[number].bytes;
        let (value, on_the_way) = detour.entries.split_last().expect("at least the value itself");
        let change = |at: usize| {
            let extended = detour.extended.iter().filter(|&&(_, last)| last < at).map(|&(number, _)| bytes(number));
            let dropped = if at > detour.after && at < detour.before { bytes(*value) } else { 0 };
            extended.sum::<u64>() as i64 - dropped as i64
        };
        let begin = detour.extended.iter().map(|&(_, last)| last).min().unwrap_or(detour.after).min(detour.after);
        let is_lower = |at: usize| change(at) <= 0 || live[at].saturating_add_signed(change(at)) < live[peak];
        // While it is computed again, all that is read then lives, and all that is made on the way.
        let meanwhile = live[detour.before].saturating_add_signed(change(detour.before))
            + on_the_way.iter().map(|&number| bytes(number)).sum::<u64>();
        detour.gain = (-change(peak)).max(0) as u64;
        detour.gain > 0 && meanwhile < live[peak] && (begin + 1..=detour.before).all(is_lower)
    }
}
