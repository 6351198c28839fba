//! What AMD's assembly says, as RADV disassembles it for GCN and RDNA: operations by class, loops, and how the hot one
//! waits for memory.
//!
//! A branch back to a label closes a loop over all that stands between, for so RADV's compiler lays out its blocks.
//! Code under a condition is counted as if it ran.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::ops::{AddAssign, Range};

use serde::{Deserialize, Serialize};

/// What does an operation, or what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Multiply-adds of floats on the vector units.
    Fma,
    /// Products on the matrix units.
    Matrix,
    /// Other operations of the vector units.
    Vector,
    Scalar,
    /// Loads into scalar registers.
    ScalarLoad,
    /// Workgroup memory, and what lanes hand each other through its unit.
    Lds,
    GlobalLoad,
    /// Atomics too.
    GlobalStore,
    /// Spilled registers, and arrays that did not fit the registers.
    Scratch,
    Wait,
    Barrier,
    Branch,
    /// Hints, padding, and the end.
    Other,
}

impl Class {
    /// Of an instruction or one half of it, as the driver's disassembler writes it.
    fn of(text: &str) -> Class {
        let name = text.split_whitespace().next().unwrap_or_default();
        let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
        if starts(&["v_wmma", "v_swmmac", "v_mfma", "v_smfmac"]) {
            Class::Matrix
        } else if starts(&["v_"]) {
            // By `mix` the compiler converts between f16 and f32; integers have a `mad` as well.
            let is_fma = name.contains("_fma") && !name.contains("_mix");
            match is_fma || starts(&["v_mad_f", "v_mac_f", "v_mad_legacy", "v_mac_legacy", "v_dot2"]) {
                true => Class::Fma,
                false => Class::Vector,
            }
        } else if starts(&["s_load", "s_buffer_load"]) {
            Class::ScalarLoad
        } else if name == "s_barrier" || name == "s_barrier_wait" {
            Class::Barrier
        } else if starts(&["s_branch", "s_cbranch"]) {
            Class::Branch
        } else if starts(&["s_waitcnt_depctr", "s_wait_alu"]) {
            Class::Other
        } else if starts(&["s_wait"]) {
            Class::Wait
        } else if starts(&OTHER) {
            Class::Other
        } else if starts(&["s_"]) {
            Class::Scalar
        } else if starts(&["ds_"]) {
            Class::Lds
        } else if starts(&["scratch_"]) {
            Class::Scratch
        } else if starts(&["buffer_load", "global_load", "flat_load"]) {
            Class::GlobalLoad
        } else if starts(&["buffer_", "global_", "flat_"]) {
            Class::GlobalStore
        } else {
            Class::Other
        }
    }
}

/// What starts like scalar arithmetic, but computes nothing.
const OTHER: [&str; 9] = [
    "s_nop",
    "s_delay_alu",
    "s_set_inst_prefetch",
    "s_inst_prefetch",
    "s_clause",
    "s_sendmsg",
    "s_endpgm",
    "s_code_end",
    "s_barrier_signal",
];

/// How many instructions of each class there are, or run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mix {
    pub instructions: u64,
    /// A dual-issue instruction is two of these. Classes that do not occur are left out.
    pub operations: BTreeMap<Class, u64>,
}

impl Mix {
    pub fn of(&self, class: Class) -> u64 {
        self.operations.get(&class).copied().unwrap_or(0)
    }

    /// Multiply-adds and matrix products.
    pub fn useful(&self) -> u64 {
        self.of(Class::Fma) + self.of(Class::Matrix)
    }

    /// Share of the [useful](Mix::useful) ones among the operations of vector and matrix units; 0 where there are none.
    pub fn fma_share(&self) -> f64 {
        self.useful() as f64 / (self.useful() + self.of(Class::Vector)).max(1) as f64
    }

    fn times(mut self, factor: u64) -> Mix {
        self.instructions *= factor;
        self.operations.values_mut().for_each(|count| *count *= factor);
        self
    }
}

impl AddAssign for Mix {
    fn add_assign(&mut self, other: Mix) {
        self.instructions += other.instructions;
        for (class, count) in other.operations {
            *self.operations.entry(class).or_default() += count;
        }
    }
}

impl<'a> FromIterator<&'a Instruction> for Mix {
    fn from_iter<I: IntoIterator<Item = &'a Instruction>>(instructions: I) -> Mix {
        let mut mix = Mix::default();
        for instruction in instructions {
            mix.instructions += 1;
            for operation in instruction.text.split(" :: ") {
                *mix.operations.entry(Class::of(operation)).or_default() += 1;
            }
        }
        mix
    }
}

/// An instruction without its encoding, and its line in the listing, from 0 on.
#[derive(Clone, Debug, PartialEq)]
struct Instruction {
    text: String,
    line: usize,
}

impl Instruction {
    fn name(&self) -> &str {
        self.text.split_whitespace().next().unwrap_or_default()
    }

    fn operands(&self) -> Vec<&str> {
        let (_, operands) = self.text.split_once(char::is_whitespace).unwrap_or_default();
        operands.split(',').map(str::trim).collect()
    }

    fn class(&self) -> Class {
        Class::of(&self.text)
    }

    /// Of loads to global memory how many may still be under way after this, where it waits for the others.
    fn leaves_under_way(&self) -> Option<usize> {
        let (_, count) = self.text.split_once("vmcnt(").or_else(|| self.text.split_once("s_wait_loadcnt "))?;
        integer(count.split(')').next()?.trim()).and_then(|count| usize::try_from(count).ok())
    }
}

/// A decimal or hexadecimal constant.
fn integer(text: &str) -> Option<i64> {
    match text.strip_prefix("0x") {
        Some(digits) => i64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// A loop that the code returns to the beginning of.
#[derive(Clone, Debug, PartialEq)]
struct Loop {
    /// Its instructions, nested loops among them.
    body: Range<usize>,
    label: String,
    parent: Option<usize>,
    trips: Option<u64>,
}

/// A pipeline's code.
#[derive(Clone, Debug)]
pub struct Code {
    instructions: Vec<Instruction>,
    /// Where labels stand: the index of the next instruction.
    labels: HashMap<String, usize>,
    /// The outer ones before those in them.
    loops: Vec<Loop>,
}

/// The loop in which a kernel spends its time: of all that hold multiply-adds of their own the one with most, or the
/// outermost one round it that runs it a known number of times.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HotLoop {
    pub label: String,
    /// Lines of the listing, from 1 on, both included.
    pub lines: [usize; 2],
    /// How often it runs each time it is entered, where its bounds are constants.
    pub trips: Option<u64>,
    /// Of one iteration, nested loops as often as they run.
    pub mix: Mix,
    /// Of the code before and behind the loop, each instruction once.
    #[serde(default)]
    pub outside: Mix,
    pub fma_share: f64,
    /// Labels of nested loops that run nobody knows how often: they are counted once.
    pub unknown: Vec<String>,
    /// Loads from global memory under way at the most, when the code waits for one of them.
    pub loads_in_flight: usize,
    /// Groups of loads that are asked for before one of them is waited for. As many as there are loads means that each
    /// is waited for alone.
    pub load_groups: usize,
    /// Barriers of one iteration.
    pub barriers: u64,
}

impl Code {
    /// Reads a listing: labels, instructions, and encodings behind semicolons. `invocations` of a workgroup tell how
    /// often a loop runs in which they take turns.
    ///
    /// # Errors
    /// When there is no instruction in it, as of a driver that was built without a disassembler.
    pub fn parse(listing: &str, invocations: u32) -> Result<Code, String> {
        let mut code = Code { instructions: Vec::new(), labels: HashMap::new(), loops: Vec::new() };
        for (line, text) in listing.lines().enumerate() {
            let text = text.split(';').next().unwrap_or_default();
            if let Some(label) = text.trim_end().strip_suffix(':') {
                code.labels.insert(label.to_owned(), code.instructions.len());
            } else if let Some(times) = text.trim().strip_prefix("(then repeated ") {
                let times = times.split(' ').next().and_then(|count| count.parse().ok()).unwrap_or(0);
                let again = code.instructions.last().cloned();
                code.instructions.extend(again.into_iter().flat_map(|again| std::iter::repeat_n(again, times)));
            } else if text.starts_with(char::is_whitespace) && text.trim().starts_with(|c: char| c.is_ascii_lowercase())
            {
                code.instructions.push(Instruction { text: text.trim().to_owned(), line });
            }
        }
        if code.instructions.is_empty() {
            return Err("the driver does not disassemble its code: it was built without LLVM".into());
        }
        code.find_loops(i64::from(invocations));
        Ok(code)
    }

    /// All instructions, each once.
    pub fn mix(&self) -> Mix {
        self.instructions.iter().collect()
    }

    /// The loop that matters, if there is one.
    pub fn hot_loop(&self) -> Option<HotLoop> {
        let own = |at: &usize| {
            let mix = self.own_mix(*at);
            (mix.of(Class::Matrix), mix.of(Class::Fma), mix.instructions)
        };
        let mut hot = (0..self.loops.len()).max_by_key(own)?;
        while let (Some(_), Some(parent)) = (self.loops[hot].trips, self.loops[hot].parent) {
            hot = parent;
        }
        let it = &self.loops[hot];
        let (mix, unknown) = self.iteration(hot);
        let (loads_in_flight, load_groups) = self.loads(it.body.clone());
        let line = |at: usize| self.instructions[at].line + 1;
        let (before, behind) = (&self.instructions[..it.body.start], &self.instructions[it.body.end..]);
        Some(HotLoop {
            label: it.label.clone(),
            lines: [line(it.body.start), line(it.body.end - 1)],
            trips: it.trips,
            fma_share: mix.fma_share(),
            barriers: mix.of(Class::Barrier),
            mix,
            outside: before.iter().chain(behind).collect(),
            unknown,
            loads_in_flight,
            load_groups,
        })
    }

    fn find_loops(&mut self, invocations: i64) {
        let mut found: BTreeMap<usize, (usize, String)> = BTreeMap::new();
        for (at, instruction) in self.instructions.iter().enumerate() {
            let target = instruction.operands().last().copied().unwrap_or_default();
            match self.labels.get(target) {
                // The last of several branches back closes it.
                Some(&start) if instruction.class() == Class::Branch && start <= at => {
                    found.insert(start, (at + 1, target.to_owned()));
                }
                _ => {}
            }
        }
        for (start, (end, label)) in found {
            let parent = self.loops.iter().rposition(|outer| outer.body.contains(&start) && end <= outer.body.end);
            self.loops.push(Loop { body: start..end, label, parent, trips: None });
        }
        for at in 0..self.loops.len() {
            self.loops[at].trips = self.trips(at, invocations);
        }
    }

    /// Instructions of a loop that are in no other loop within it.
    fn own(&self, at: usize) -> impl Iterator<Item = usize> {
        let nested: Vec<&Range<usize>> =
            self.loops.iter().filter(|it| it.parent == Some(at)).map(|it| &it.body).collect();
        self.loops[at].body.clone().filter(move |index| !nested.iter().any(|body| body.contains(index)))
    }

    fn own_mix(&self, at: usize) -> Mix {
        self.own(at).map(|index| &self.instructions[index]).collect()
    }

    /// One iteration, and the loops in it that run nobody knows how often.
    fn iteration(&self, at: usize) -> (Mix, Vec<String>) {
        let (mut mix, mut unknown) = (self.own_mix(at), Vec::new());
        for (nested, it) in self.loops.iter().enumerate().filter(|(_, it)| it.parent == Some(at)) {
            let (inner, within) = self.iteration(nested);
            mix += inner.times(it.trips.unwrap_or(1));
            unknown.extend(it.trips.is_none().then(|| it.label.clone()));
            unknown.extend(within);
        }
        (mix, unknown)
    }

    /// The most loads under way at a wait that needs one, and the groups in which they are asked for. The body is gone
    /// through twice, since one iteration may wait for what the one before has asked for. Stores are not counted,
    /// though GCN's waits count them.
    fn loads(&self, body: Range<usize>) -> (usize, usize) {
        let (mut under_way, mut most, mut groups) = (0, 0, 0);
        for round in 0..2 {
            let mut is_new = false;
            for instruction in &self.instructions[body.clone()] {
                match instruction.leaves_under_way() {
                    Some(left) if left < under_way => {
                        most = most.max(under_way);
                        under_way = left;
                        is_new = false;
                    }
                    _ if instruction.class() == Class::GlobalLoad => {
                        under_way += 1;
                        groups += usize::from(round == 1 && !is_new);
                        is_new = true;
                    }
                    _ => {}
                }
            }
        }
        (most, groups)
    }

    /// How often a loop runs whose counter goes up by a constant to a constant: from a constant, or from an
    /// invocation's number in its workgroup, where all of the workgroup take turns.
    fn trips(&self, at: usize, invocations: i64) -> Option<u64> {
        let own: Vec<&Instruction> = self.own(at).map(|index| &self.instructions[index]).collect();
        let body = &self.loops[at].body;
        let leaves = |it: &Instruction| {
            let target = it.operands().last().and_then(|label| self.labels.get(*label));
            // An unconditional branch decides nothing, whatever was compared before it.
            it.name().starts_with("s_cbranch") && target.is_some_and(|&to| to == body.start || to >= body.end)
        };
        let exits = own.iter().enumerate().filter(|(_, it)| leaves(it)).map(|(index, _)| index);
        exits
            .filter_map(|exit| {
                let compared = own[..exit].iter().rev().find(|it| it.name().contains("_cmp"))?;
                let (counter, end) = bound(compared)?;
                let step = own.iter().find_map(|it| step(it, counter))?;
                let mut before = self.instructions[..body.start].iter().rev();
                let start = before.find(|it| it.operands().first() == Some(&counter)).and_then(constant);
                let start = start.or((step == invocations && counter.starts_with('v')).then_some(0))?;
                u64::try_from((end - start + step - 1) / step).ok().filter(|&trips| trips > 0)
            })
            .min()
    }
}

/// The register that an instruction holds against a constant, and the first value that is not below it.
fn bound(compared: &Instruction) -> Option<(&str, i64)> {
    let name = compared.name();
    let operands = compared.operands();
    let [.., left, right] = operands[..] else { return None };
    let has = |names: [&str; 2]| names.iter().any(|it| name.contains(it));
    match (integer(left), integer(right)) {
        // counter < end, counter ≥ end
        (None, Some(end)) if has(["_lt_", "_ge_"]) => Some((left, end)),
        // counter ≤ last, counter > last
        (None, Some(last)) if has(["_le_", "_gt_"]) => Some((left, last + 1)),
        // end > counter, end ≤ counter
        (Some(end), None) if has(["_gt_", "_le_"]) => Some((right, end)),
        // last ≥ counter, last < counter
        (Some(last), None) if has(["_ge_", "_lt_"]) => Some((right, last + 1)),
        _ => None,
    }
}

/// What an instruction adds to a register, where it is a positive constant.
fn step(instruction: &Instruction, counter: &str) -> Option<i64> {
    let name = instruction.name();
    let is_sum =
        ["s_add_", "s_addk_", "v_add_nc_u32", "v_add_u32", "v_add_co_u32"].iter().any(|it| name.starts_with(it));
    let operands = instruction.operands();
    if !is_sum || operands.first() != Some(&counter) {
        return None;
    }
    let mut constants = operands[1..].iter().filter_map(|operand| integer(operand));
    let others = operands[1..].iter().filter(|operand| integer(operand).is_none());
    // Some write a carry into `vcc` besides; `s_addk_i32` names its counter once.
    let is_own = others.clone().all(|operand| [counter, "vcc"].contains(operand));
    constants.next_back().filter(|&step| is_own && step > 0)
}

/// The constant that an instruction sets its register to.
fn constant(instruction: &Instruction) -> Option<i64> {
    let is_move = ["s_mov_b32", "s_movk_i32", "v_mov_b32"].iter().any(|it| instruction.name().starts_with(it));
    integer(instruction.operands().get(1)?).filter(|_| is_move)
}

/// A listing with the lines of the hot loop marked in front.
pub fn marked(listing: &str, hot: Option<&HotLoop>) -> String {
    let mut text = String::new();
    for (number, line) in listing.lines().enumerate().map(|(index, line)| (index + 1, line)) {
        let is_hot = hot.is_some_and(|hot| (hot.lines[0]..=hot.lines[1]).contains(&number));
        let mark = if is_hot { "|" } else { " " };
        writeln!(text, "{mark} {line}").expect("a string takes all that is written");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each sums products of loads in a loop; RADV 25.0.7 compiled them from WGSL.
    const ONE: &str = include_str!("recorded/one.gfx9.s");
    const MANY: &str = include_str!("recorded/many.gfx11.s");
    /// The same from workgroup memory, filled in a loop within the loop, with 64 invocations.
    const SLAB: &str = include_str!("recorded/slab.gfx10.s");
    /// The loop of a kernel with more values than registers.
    const SPILL: &str = include_str!("recorded/spill.gfx9.s");

    fn hot(listing: &str) -> HotLoop {
        Code::parse(listing, 64).unwrap().hot_loop().unwrap()
    }

    #[test]
    fn loads_that_are_waited_for_one_by_one_are_told_from_many_in_flight() {
        let (one, many) = (hot(ONE), hot(MANY));
        assert_eq!((one.loads_in_flight, one.load_groups, one.mix.of(Class::GlobalLoad)), (1, 1, 1));
        assert_eq!((many.loads_in_flight, many.load_groups, many.mix.of(Class::GlobalLoad)), (4, 1, 4));
        // Four groups of one, were each to be waited for before the next.
        let impatient = MANY.replace(", 0 offen ", ", 0 offen\n\ts_waitcnt vmcnt(0) ");
        let impatient = hot(&impatient);
        assert_eq!((impatient.loads_in_flight, impatient.load_groups), (1, 4));
        // Asked for at the end of one iteration and waited for in the next.
        let ahead =
            "BB0:\n\ts_wait_loadcnt 0x0\n\tv_fmac_f32 v0, v1, v1\n\tglobal_load_b32 v1, v2, off\n\ts_branch BB0\n";
        assert_eq!((hot(ahead).loads_in_flight, hot(ahead).load_groups), (1, 1));
    }

    #[test]
    fn trips_are_known_where_the_bounds_are_constants() {
        assert_eq!((hot(ONE).label.as_str(), hot(ONE).trips), ("BB1", None));
        assert_eq!(hot(MANY).trips, Some(0x400 / 4));
        assert_eq!(hot(SPILL).trips, Some(1000));
        // With fewer bits of the loop known there are no trips, rather than wrong ones.
        for (what, by) in [("s_mov_b32 s0, 0 ", "s_mov_b32 s0, s9 "), ("s_add_u32 s0, s0, 4", "s_add_u32 s0, s0, s9")] {
            assert_eq!(hot(&MANY.replace(what, by)).trips, None, "{by}");
        }
    }

    #[test]
    fn what_is_compared_for_a_selection_bounds_no_loop() {
        let listing = "BB0:\n\ts_mov_b32 s0, 0\nBB1:\n\ts_cmp_ge_u32 s1, s2\n\ts_cbranch_scc1 BB2\n\tv_fmac_f32 v0, v1, v2\n\
                       \ts_add_u32 s0, s0, 8\n\ts_cmp_lt_u32 s0, 16\n\ts_cselect_b32 s3, s4, s5\n\ts_branch BB1\nBB2:\n\ts_endpgm\n";
        assert_eq!(hot(listing).trips, None);
        assert_eq!(hot(&listing.replace("s1, s2", "s0, 64")).trips, Some(8));
    }

    #[test]
    fn a_spill_shows_as_scratch_in_the_hot_loop() {
        let spill = hot(SPILL);
        assert_eq!((spill.mix.of(Class::Fma), spill.mix.of(Class::Scratch)), (66, 16));
        assert!([ONE, MANY, SLAB].iter().all(|listing| hot(listing).mix.of(Class::Scratch) == 0));
    }

    #[test]
    fn nested_loops_count_as_often_as_they_run() {
        let slab = hot(SLAB);
        assert_eq!((slab.label.as_str(), slab.trips, slab.unknown.len()), ("BB1", None, 0));
        // 20 of its own and 19 in the loop that fills the slab, of 256 elements by 64 invocations.
        assert_eq!(slab.mix.instructions, 20 + 4 * 19);
        assert_eq!((slab.mix.of(Class::Fma), slab.mix.of(Class::Vector)), (4, 3 + 4 * 7));
        assert_eq!((slab.mix.of(Class::Lds), slab.mix.of(Class::GlobalLoad)), (4 + 4, 4));
        assert_eq!(slab.fma_share, 4.0 / 35.0);
        // The nested loop stands in the code once.
        assert_eq!(slab.outside.instructions + 20 + 19, Code::parse(SLAB, 64).unwrap().mix().instructions);
        // By 32 invocations nobody knows where the counter begins.
        let code = Code::parse(SLAB, 32).unwrap().hot_loop().unwrap();
        assert_eq!((code.unknown, code.mix.instructions), (vec!["BB5".to_owned()], 20 + 19));
    }

    #[test]
    fn every_kind_of_instruction_has_its_class() {
        let classes = [
            ("v_fmac_f32_e32 v1, v2, v3", Class::Fma),
            ("v_mad_f32 v1, v2, v3, v4", Class::Fma),
            ("v_pk_fma_f16 v1, v2, v3, v4", Class::Fma),
            ("v_mad_u32_u24 v1, v2, v3, v4", Class::Vector),
            ("v_fma_mixlo_f16 v1, v2, 1.0, 0", Class::Vector),
            ("v_wmma_f32_16x16x16_f16 v[0:7], v[8:15], v[16:23], v[0:7]", Class::Matrix),
            ("s_load_b128 s[4:7], s[2:3], null", Class::ScalarLoad),
            ("s_waitcnt_vscnt null, 0x0", Class::Wait),
            ("s_waitcnt_depctr 0xfff", Class::Other),
            ("s_barrier", Class::Barrier),
            ("s_barrier_wait 0xffff", Class::Barrier),
            ("s_cbranch_execz BB3", Class::Branch),
            ("s_cmpk_ge_u32 s0, 0x400", Class::Scalar),
            ("buffer_store_dword v1, v0, s[0:3], 0 offen", Class::GlobalStore),
            ("buffer_atomic_add v1, v0, s[0:3], 0 offen", Class::GlobalStore),
            ("ds_read2st64_b32 v[4:5], v2 offset1:1", Class::Lds),
            ("s_endpgm", Class::Other),
        ];
        for (text, class) in classes {
            assert_eq!(Class::of(text), class, "{text}");
        }
        let dual = "\tv_dual_fmac_f32 v0, v1, v2 :: v_dual_mul_f32 v3, v4, v5 ; c8000000\n\
                    \ts_nop 0\n\t(then repeated 5 times)\n";
        let mix = Code::parse(dual, 64).unwrap().mix();
        assert_eq!((mix.instructions, mix.of(Class::Fma), mix.of(Class::Vector), mix.of(Class::Other)), (7, 1, 1, 6));
    }

    #[test]
    fn a_driver_without_a_disassembler_is_told() {
        let hexadecimal = "BB0:\n7e020280\nbf810000\n";
        assert!(Code::parse(hexadecimal, 64).unwrap_err().contains("disassemble"));
    }

    #[test]
    fn the_hot_loop_is_marked_line_by_line() {
        let loop_ = hot(MANY);
        let text = marked(MANY, Some(&loop_));
        let hot: Vec<&str> = text.lines().filter(|line| line.starts_with('|')).collect();
        assert!(hot.first().unwrap().contains("s_delay_alu") && hot.last().unwrap().contains("s_cbranch_scc0 BB1"));
        assert_eq!(hot.len() as u64, loop_.mix.instructions);
    }
}
