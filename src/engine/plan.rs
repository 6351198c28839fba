//! The live part of a tape as a list of dispatches over slots.
//!
//! A slot is a whole buffer that several values share, one after another: WebGPU tracks hazards by buffer, so parts of
//! one arena cannot be read and written in the same dispatch.

mod fuse;
mod halves;
pub mod memory;
mod schedule;

use std::any::Any;
use std::collections::HashMap;
use std::fmt;

use crate::engine::kernel::{DeviceClass, Kernel};
use crate::engine::ops::layout::{ALIGNMENT, Reshape, Slice};
use crate::engine::ops::lowering;
use crate::engine::tape::{Origin, Tape, Value};
use crate::engine::tensor::{Shape, Tensor};
use schedule::{Lifetime, Schedule};
use std::sync::Arc;

/// Whether values may share buffers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reuse {
    /// Those that do not live at the same time.
    #[default]
    On,
    /// Each has its own, which tells a planner's fault from a kernel's.
    Off,
    /// As `On`, and cheap values are computed again where that lowers the most that lives at once: the same results to the
    /// last bit for less memory and more dispatches.
    Recompute,
}

/// Where a value lives.
#[derive(Clone, Debug, PartialEq)]
pub enum Place {
    Slot(usize),
    Feed(Arc<str>),
    State(Arc<str>),
    /// Index into [`Plan::constants`].
    Constant(usize),
}

/// One dispatch.
#[derive(Clone, Debug)]
pub struct Step {
    /// What it computes; with [`Reuse::Recompute`] another step may compute the same.
    pub value: Value,
    pub kernel: Kernel,
    pub inputs: Vec<Operand>,
    pub output: Operand,
    pub scope: Arc<str>,
    /// The node whose backward rule recorded this one.
    pub primal: Option<Value>,
    /// Backward sweeps between the forward computation and this: 1 for a gradient, 2 for a gradient of a gradient.
    pub order: usize,
    /// Floating-point operations.
    pub flops: u64,
}

impl Step {
    /// The inputs that lie where the output does.
    pub fn in_place(&self) -> Vec<usize> {
        let lies_there = |input: &Operand| (&input.place, input.offset) == (&self.output.place, self.output.offset);
        (0..self.inputs.len()).filter(|&index| lies_there(&self.inputs[index])).collect()
    }

    /// Bytes of the inputs and of the output: what memory moves at least when nothing of it is cached.
    pub fn bytes(&self) -> u64 {
        self.inputs.iter().chain([&self.output]).map(Operand::bytes).sum()
    }
}

/// A value as a dispatch binds it.
#[derive(Clone, Debug)]
pub struct Operand {
    pub value: Value,
    pub place: Place,
    /// Bytes from the beginning of the place to the value.
    pub offset: u64,
    pub shape: Shape,
    /// Whether it is stored in f16.
    pub is_half: bool,
}

impl Operand {
    /// Bytes that it takes.
    pub fn bytes(&self) -> u64 {
        if self.is_half { self.shape.bytes() / 2 } else { self.shape.bytes() }
    }
}

/// A state and the value that it has for the next run.
#[derive(Clone, Debug)]
pub struct Carry {
    pub state: Operand,
    pub from: Operand,
}

impl Carry {
    /// Whether the value is computed where the state lies, or is the state itself.
    pub fn is_in_place(&self) -> bool {
        (&self.from.place, self.from.offset) == (&self.state.place, self.state.offset)
    }
}

/// The live part of a tape as a list of dispatches over slots.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// What is computed: the tape after fusion, to whose nodes the values of steps and operands refer.
    pub graph: Arc<Tape>,
    pub steps: Vec<Step>,
    /// Size of each slot in bytes.
    pub slots: Vec<u64>,
    pub feeds: Vec<(Arc<str>, Shape)>,
    pub states: Vec<(Arc<str>, Shape)>,
    pub constants: Vec<Arc<Tensor>>,
    pub carries: Vec<Carry>,
    pub fetches: Vec<Operand>,
    /// The fetched values, in the order of `fetches`, as the caller's tape has them.
    pub fetched: Vec<Value>,
    /// Bytes of all computed values together, as `Reuse::Off` would need.
    pub bytes_without_reuse: u64,
    /// The largest sum of bytes of values that are live at one step: no assignment of slots can need less.
    pub live_bytes: u64,
}

impl Plan {
    /// Plans the computation of `fetches` and of the new value of each state in `carries` (state, value): fuses what one
    /// kernel computes in one pass, then schedules the dispatches. A state that nothing reads any more is written by the
    /// dispatch that computes its new value; others are [copied](Plan::copies) after the last dispatch. A state that is carried
    /// from itself stays as it is.
    ///
    /// # Panics
    /// When the first of a carry's pair is no state, their shapes differ, the second is another state, two sources share a
    /// name, or a value is of another tape: faults of the code that records.
    pub fn new(tape: &Tape, fetches: &[Value], carries: &[(Value, Value)], class: DeviceClass, reuse: Reuse) -> Plan {
        let live = live_nodes(tape, fetches, carries);
        let fused = fuse::fuse(tape, &live, class);
        let mapped = |value: Value| fused.values[value.index()].expect("what is kept is live");
        let wanted: Vec<Value> = fetches.iter().map(|&value| mapped(value)).collect();
        let carries: Vec<(Value, Value)> =
            carries.iter().map(|&(state, value)| (mapped(state), mapped(value))).collect();
        let plan = Plan::scheduled(Arc::new(fused.graph), &wanted, &carries, class, reuse);
        Plan { fetched: fetches.to_vec(), ..plan }
    }

    /// The same computation with more values fetched: of the [graph](Plan::graph), by its own names.
    pub(crate) fn fetching(&self, more: &[Value], class: DeviceClass, reuse: Reuse) -> Plan {
        let fetches: Vec<Value> = self.fetches.iter().map(|fetch| fetch.value).chain(more.iter().copied()).collect();
        let carries: Vec<_> = self.carries.iter().map(|carry| (carry.state.value, carry.from.value)).collect();
        let plan = Plan::scheduled(self.graph.clone(), &fetches, &carries, class, reuse);
        Plan { fetched: [&self.fetched, more].concat(), ..plan }
    }

    fn scheduled(
        graph: Arc<Tape>,
        fetches: &[Value],
        carries: &[(Value, Value)],
        class: DeviceClass,
        reuse: Reuse,
    ) -> Plan {
        let tape = graph.as_ref();
        let kept: Vec<Value> = fetches.iter().copied().chain(carries.iter().map(|&(_, value)| value)).collect();
        let live = live_nodes(tape, fetches, carries);
        let mut plan = Plan { graph: graph.clone(), ..Plan::default() };

        let mut places: Vec<Option<Place>> = vec![None; tape.len()];
        for (value, node) in tape.iter().filter(|(value, _)| live[value.index()]) {
            places[value.index()] = match &node.origin {
                Origin::Feed(name) => {
                    assert!(plan.feeds.iter().all(|(other, _)| other != name), "two feeds named `{name}`");
                    plan.feeds.push((name.clone(), node.shape.clone()));
                    Some(Place::Feed(name.clone()))
                }
                Origin::State(name) => {
                    assert!(plan.states.iter().all(|(other, _)| other != name), "two states named `{name}`");
                    plan.states.push((name.clone(), node.shape.clone()));
                    Some(Place::State(name.clone()))
                }
                Origin::Constant(tensor) => {
                    plan.constants.push(tensor.clone());
                    Some(Place::Constant(plan.constants.len() - 1))
                }
                Origin::Applied { .. } => None,
            };
        }

        let mut schedule = Schedule::new(tape, &live, &kept);
        let kernels = halves::kernels(tape, &mut schedule, class);
        if reuse == Reuse::Recompute {
            schedule.recompute();
        }
        let updates = match reuse {
            Reuse::On | Reuse::Recompute => updates(&schedule, fetches, carries),
            Reuse::Off => HashMap::new(),
        };
        let mut lifetimes = schedule.lifetimes();
        lifetimes.retain(|life| !updates.contains_key(&life.entry));
        plan.bytes_without_reuse = lifetimes.iter().map(|life| life.bytes).sum();
        plan.live_bytes = schedule.live(&lifetimes).into_iter().max().unwrap_or(0);
        let mut slots = vec![0; schedule.entries.len()];
        plan.assign_slots(lifetimes, reuse, &mut slots);
        for (number, entry) in schedule.entries.iter().enumerate() {
            if let Some((home, _)) = entry.home {
                slots[number] = slots[home];
            }
        }

        let operand = |value: Value, computed: Option<usize>| Operand {
            value,
            place: match computed {
                Some(number) => match updates.get(&number) {
                    Some(state) => places[state.index()].clone().expect("a state has a place"),
                    None => Place::Slot(slots[number]),
                },
                None => places[storage(tape, value).0.index()].clone().expect("a source has a place"),
            },
            offset: storage(tape, value).1 + computed.map_or(0, |number| schedule.offset(number)),
            shape: tape.shape(value).clone(),
            is_half: computed.is_some_and(|number| schedule.entries[number].is_half),
        };
        for &number in &schedule.order {
            let (value, reads) = (schedule.entries[number].value, &schedule.entries[number].reads);
            let node = tape.node(value);
            let Some(lowered) = node.primitive().and_then(lowering) else { continue };
            let shapes: Vec<&Shape> = node.inputs().iter().map(|&input| tape.shape(input)).collect();
            plan.steps.push(Step {
                value,
                kernel: kernels[&value].clone(),
                inputs: node.inputs().iter().zip(reads).map(|(&input, &read)| operand(input, read)).collect(),
                output: operand(value, Some(number)),
                scope: node.scope.clone(),
                primal: node.primal,
                order: node.order,
                flops: lowered.flops(&shapes, &node.shape),
            });
        }
        let (fetched, carried) = schedule.kept.split_at(fetches.len());
        plan.fetches = fetches.iter().zip(fetched).map(|(&value, &number)| operand(value, number)).collect();
        plan.carries = carries
            .iter()
            .zip(carried)
            .map(|(&(state, value), &number)| {
                let carry = Carry { state: operand(state, None), from: operand(value, number) };
                assert!(matches!(carry.state.place, Place::State(_)), "{state:?} is carried, but no state");
                assert_eq!(carry.state.shape, carry.from.shape, "a state keeps its shape");
                carry
            })
            .inspect(|carry| {
                // States are copied one after another, so none may be read that was written before.
                let (state, from) = (carry.state.value, storage(tape, carry.from.value).0);
                let reads_state = matches!(tape.node(from).origin, Origin::State(_)) && !carry.is_in_place();
                assert!(!reads_state, "{state:?} is carried from another state; copy that one on the tape first");
            })
            .collect();
        plan
    }

    /// Greedy by size: the largest value first, each into the smallest slot that is free for all of its life. Sets the
    /// slots of these entries of the schedule.
    fn assign_slots(&mut self, mut lifetimes: Vec<Lifetime>, reuse: Reuse, slots: &mut [usize]) {
        lifetimes.sort_by_key(|life| (std::cmp::Reverse(life.bytes), life.first));
        let mut tenants: Vec<Vec<Lifetime>> = Vec::new();
        for life in lifetimes.into_iter().filter(|life| life.home.is_none()) {
            let free = |slot: &usize| !tenants[*slot].iter().any(|tenant| tenant.overlaps(&life));
            let slot = match reuse {
                Reuse::On | Reuse::Recompute => (0..tenants.len()).filter(free).min_by_key(|&slot| self.slots[slot]),
                Reuse::Off => None,
            };
            let slot = slot.unwrap_or_else(|| {
                tenants.push(Vec::new());
                self.slots.push(life.bytes);
                tenants.len() - 1
            });
            slots[life.entry] = slot;
            tenants[slot].push(life);
        }
    }

    /// States that take their new values by a copy after the last dispatch, in this order.
    pub fn copies(&self) -> impl Iterator<Item = &Carry> {
        self.carries.iter().filter(|carry| !carry.is_in_place())
    }

    /// The largest of all buffers: what it is, and its bytes. 0 for an empty plan.
    pub fn largest(&self) -> (String, u64) {
        let slots = self.slots.iter().enumerate().map(|(slot, &bytes)| (format!("slot {slot}"), bytes));
        let feeds = self.feeds.iter().map(|(name, shape)| (format!("feed {name}"), shape.bytes()));
        let states = self.states.iter().map(|(name, shape)| (format!("state {name}"), shape.bytes()));
        let constants = self.constants.iter().map(|tensor| ("a constant".into(), tensor.shape().bytes()));
        slots.chain(feeds).chain(states).chain(constants).max_by_key(|&(_, bytes)| bytes).unwrap_or_default()
    }

    /// Bytes of all slots together.
    pub fn slot_bytes(&self) -> u64 {
        self.slots.iter().sum()
    }
}

/// The computations that may write a state, and the state: they compute its new value, nothing reads the old one afterwards,
/// and they themselves read of it only what they then write.
fn updates(schedule: &Schedule, fetches: &[Value], carries: &[(Value, Value)]) -> HashMap<usize, Value> {
    let tape = schedule.tape;
    let carried = schedule.kept[fetches.len()..].iter().zip(carries);
    let mut updates = HashMap::new();
    for (&number, &(state, _)) in carried.filter_map(|(number, carry)| Some((number.as_ref()?, carry))) {
        let entry = &schedule.entries[number];
        let is_state = |value: Value| storage(tape, value).0 == state;
        let node = tape.node(entry.value);
        let Some(lowered) = node.primitive().and_then(lowering) else { continue };
        let shapes: Vec<&Shape> = node.inputs().iter().map(|&input| tape.shape(input)).collect();
        let mut own = (0..shapes.len()).filter(|&input| is_state(node.inputs()[input]));
        let after = schedule.order.iter().rev().take_while(|&&later| later != number);
        let mut read_later = after.flat_map(|&later| tape.node(schedule.entries[later].value).inputs());
        let is_whole = entry.home.is_none() && !entry.is_half && node.shape.count() == tape.shape(state).count();
        if is_whole
            && own.all(|input| lowered.updates(input, &shapes, &node.shape))
            && !read_later.any(|&input| is_state(input))
            && !fetches.iter().any(|&fetch| is_state(fetch))
        {
            updates.entry(number).or_insert(state);
        }
    }
    updates
}

/// The value in whose buffer `value` lies, and the bytes before it there. An array under another shape lies where it is, and so
/// does a run of its elements, if it begins where a buffer can be bound.
fn storage(tape: &Tape, mut value: Value) -> (Value, u64) {
    let mut offset = 0;
    while let Some(primitive) = tape.node(value).primitive() {
        let (known, inputs): (&dyn Any, _) = (primitive, tape.node(value).inputs());
        if let Some(slice) = known.downcast_ref::<Slice>() {
            let Some(start) = slice.run_of(tape.shape(inputs[0])).filter(|start| start.is_multiple_of(ALIGNMENT))
            else {
                break;
            };
            offset += (start * size_of::<f32>()) as u64;
        } else if !known.is::<Reshape>() {
            break;
        }
        value = inputs[0];
    }
    (value, offset)
}

fn live_nodes(tape: &Tape, fetches: &[Value], carries: &[(Value, Value)]) -> Vec<bool> {
    let mut live = vec![false; tape.len()];
    for &value in fetches.iter().chain(carries.iter().flat_map(|(state, value)| [state, value])) {
        tape.node(value);
        live[value.index()] = true;
    }
    for (value, node) in tape.iter().rev() {
        if live[value.index()] {
            node.inputs().iter().for_each(|input| live[input.index()] = true);
        }
    }
    live
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Place::Slot(slot) => write!(f, "slot {slot}"),
            Place::Feed(name) => write!(f, "feed {name}"),
            Place::State(name) => write!(f, "state {name}"),
            Place::Constant(index) => write!(f, "constant {index}"),
        }
    }
}

/// Prints the schedule, a line a dispatch, and the bytes with and without reuse.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for step in &self.steps {
            let inputs: Vec<String> =
                step.inputs.iter().map(|input| format!("{:?} {:?}", input.value, input.shape)).collect();
            writeln!(
                f,
                "{:>5}  {:<26} {:<20} {:<8} ← {:<44} {}",
                format!("{:?}", step.value),
                step.kernel.name,
                format!("{:?}", step.output.shape),
                step.output.place.to_string(),
                inputs.join(", "),
                step.scope,
            )?;
        }
        for carry in self.copies() {
            writeln!(f, "carry  {} ← {:?}", carry.state.place, carry.from.value)?;
        }
        writeln!(
            f,
            "{} dispatches, {} slots: {} bytes ({} without reuse, {} live at once)",
            self.steps.len(),
            self.slots.len(),
            self.slot_bytes(),
            self.bytes_without_reuse,
            self.live_bytes,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ops::elementwise::Unary;
    use crate::engine::ops::layout::Pack;
    use crate::engine::philox::Stream;

    /// Σ of a chain of `length` elementwise steps, and its gradient.
    fn chain(length: usize) -> (Tape, Value, Value) {
        let mut tape = Tape::new();
        let x = tape.feed("x", [1000]);
        let mut y = x;
        for _ in 0..length {
            y = tape.mul(y, y);
        }
        let sum = tape.total(y);
        let gradient = tape.grad(sum, &[x]).unwrap()[0];
        (tape, sum, gradient)
    }

    /// A random program of products, sums, broadcasts and cuts, and its gradient.
    fn random(seed: u64) -> (Tape, Vec<Value>) {
        let (mut tape, mut stream) = (Tape::new(), Stream::new(seed, 0));
        let x = tape.feed("x", [8, 16]);
        let w = tape.state("w", [16, 16]);
        let mut values = vec![x];
        for _ in 0..30 {
            let mut pick = || (stream.uniform() * values.len() as f64) as usize;
            let [a, b] = [pick(), pick()].map(|index| values[index]);
            let made = match (stream.uniform() * 7.0) as usize {
                0 => tape.add(a, b),
                1 => tape.mul(a, b),
                2 => tape.relu(a),
                3 => tape.matmul(a, w),
                4 => {
                    let sum = tape.sum(a, &[1]);
                    tape.mul(sum, b)
                }
                5 => {
                    let halves = [tape.slice(a, 1, 0, 8), tape.slice(b, 1, 8, 8)];
                    tape.concat(1, &halves)
                }
                _ => tape.unary(Unary::Exp, a),
            };
            values.push(made);
        }
        let all = values[1..].iter().fold(x, |sum, &value| tape.add(sum, value));
        // Some of them packed, and the rows of one of these again.
        let packed = tape.pack(&[values[3], values[5], x, values[9], values[5]]);
        let rows = tape.slice(packed, 0, 64, 128);
        let rows = tape.reshape(rows, [8, 16]);
        let all = tape.mul(all, rows);
        let sum = tape.total(all);
        let gradient = tape.grad(sum, &[x, w]).unwrap();
        (tape, [vec![sum, values[7]], gradient].concat())
    }

    #[test]
    fn no_two_live_values_share_a_slot() {
        let (tape, sum, gradient) = chain(12);
        assert_sound(&tape, &[sum, gradient]);
        let mut saved = 0;
        for seed in 0..40 {
            let (tape, fetches) = random(seed);
            let [kept, again] = assert_sound(&tape, &fetches);
            assert!(again.live_bytes <= kept.live_bytes, "{} of {} bytes live", again.live_bytes, kept.live_bytes);
            assert!(again.steps.len() >= kept.steps.len());
            saved += usize::from(again.live_bytes < kept.live_bytes);
        }
        assert!(saved > 20, "computing again lowers the peak of {saved} programs only");
    }

    /// Plans that keep and that compute again, of which each dispatch finds what it reads.
    fn assert_sound(tape: &Tape, fetches: &[Value]) -> [Plan; 2] {
        [Reuse::On, Reuse::Recompute].map(|reuse| {
            let plan = Plan::new(tape, fetches, &[], DeviceClass::Gpu, reuse);
            assert_finds_what_it_reads(&plan);
            plan
        })
    }

    /// The computation, and the element of its result, that an element of a value is; `None` between packed values.
    fn origin(graph: &Tape, value: Value, element: usize) -> Option<(Value, usize)> {
        let (whole, offset) = storage(graph, value);
        let (node, element) = (graph.node(whole), element + offset as usize / size_of::<f32>());
        let Some(Pack { packing }) = node.primitive().and_then(|known| (known as &dyn Any).downcast_ref()) else {
            return Some((whole, element));
        };
        let parts = node.inputs().iter().zip(&packing.starts);
        let holds = |&(&part, &start): &(&Value, &usize)| (start..start + graph.shape(part).count()).contains(&element);
        parts.into_iter().find(holds).and_then(|(&part, &start)| origin(graph, part, element - start))
    }

    fn assert_finds_what_it_reads(plan: &Plan) {
        assert_eq!(fault(plan), None);
    }

    /// Replays a run and looks at what each slot and each state holds, element by element, when it is read, and what the states
    /// hold for the next run.
    fn fault(plan: &Plan) -> Option<String> {
        let words = |bytes: u64| bytes as usize / size_of::<f32>();
        let is_state = |place: &Place| matches!(place, Place::State(_));
        let mut holds: HashMap<String, Vec<Option<(Value, usize)>>> = HashMap::new();
        for (slot, &bytes) in plan.slots.iter().enumerate() {
            holds.insert(Place::Slot(slot).to_string(), vec![None; words(bytes)]);
        }
        let sources = plan.graph.iter().filter_map(|(value, node)| match &node.origin {
            Origin::State(name) => Some((value, name, node.shape.count())),
            _ => None,
        });
        for (value, name, count) in sources {
            holds.insert(Place::State(name.clone()).to_string(), (0..count).map(|at| Some((value, at))).collect());
        }
        let finds = |holds: &HashMap<String, Vec<_>>, operand: &Operand| match holds.get(&operand.place.to_string()) {
            Some(held) => (0..operand.shape.count())
                .all(|at| held[words(operand.offset) + at] == origin(&plan.graph, operand.value, at)),
            None => true,
        };
        for step in &plan.steps {
            let (node, value) = (plan.graph.node(step.value), step.value);
            let shapes: Vec<&Shape> = step.inputs.iter().map(|input| &input.shape).collect();
            for (index, input) in step.inputs.iter().enumerate() {
                if !finds(&holds, input) {
                    return Some(format!("{value:?} reads {} that was overwritten", input.place));
                }
                let is_safe = input.offset == step.output.offset
                    && input.shape == step.output.shape
                    && is_state(&input.place)
                    && lowering(node.primitive().unwrap()).unwrap().updates(index, &shapes, &step.output.shape);
                if input.place == step.output.place && !is_safe {
                    return Some(format!("{value:?} overwrites its input"));
                }
            }
            let Some(written) = holds.get_mut(&step.output.place.to_string()) else {
                return Some(format!("{value:?} writes to {}", step.output.place));
            };
            for at in 0..step.output.shape.count() {
                written[words(step.output.offset) + at] = Some((value, at));
            }
        }
        if !plan.fetches.iter().all(|fetch| finds(&holds, fetch)) {
            return Some("a fetched value was overwritten".into());
        }
        for carry in plan.copies() {
            if !finds(&holds, &carry.from) {
                return Some(format!("what is copied to {} was overwritten", carry.state.place));
            }
            let new = (0..carry.state.shape.count()).map(|at| origin(&plan.graph, carry.from.value, at)).collect();
            holds.insert(carry.state.place.to_string(), new);
        }
        // For the next run each state holds its new value, and the others what they held.
        let is_next = |(name, _): &(Arc<str>, Shape)| {
            let place = Place::State(name.clone());
            let operand = match plan.carries.iter().find(|carry| carry.state.place == place) {
                Some(carry) => Operand { place, offset: 0, ..carry.from.clone() },
                None => return holds[&place.to_string()].iter().flatten().all(|&(value, _)| is_source(plan, value)),
            };
            finds(&holds, &operand)
        };
        let wrong = plan.states.iter().find(|state| !is_next(state));
        wrong.map(|(name, _)| format!("state {name} has not its new value"))
    }

    fn is_source(plan: &Plan, value: Value) -> bool {
        matches!(plan.graph.node(value).origin, Origin::State(_))
    }

    #[test]
    fn states_are_written_in_place_unless_they_are_read_later() {
        let class = DeviceClass::Gpu;
        let mut copied = 0;
        for seed in 0..40 {
            let (mut tape, fetches) = random(seed);
            let w = tape.iter().find(|(_, node)| matches!(node.origin, Origin::State(_))).unwrap().0;
            let [m, n, s] = ["m", "n", "s"].map(|name| tape.state(name, [16, 16]));
            let gradient = fetches[3];
            let faster = tape.add(m, gradient);
            let moved = tape.sub(w, faster);
            let product = tape.matmul(n, moved);
            // Read after its new value is there, which no kernel computes at its own place.
            let late = tape.mul(product, s);
            let late = tape.total(late);
            let next = tape.relu(s);
            let carries = [(w, moved), (m, faster), (n, product), (s, next)];
            for reuse in [Reuse::On, Reuse::Recompute, Reuse::Off] {
                let plan = Plan::new(&tape, &[fetches[0], late], &carries, class, reuse);
                assert_eq!(fault(&plan), None, "seed {seed}, {reuse:?}");
                if reuse == Reuse::Off {
                    assert_eq!(plan.copies().count(), 4);
                } else {
                    let places: Vec<String> = plan.copies().map(|carry| carry.state.place.to_string()).collect();
                    assert!(places.contains(&"state n".into()), "a matrix product cannot be taken in place");
                    assert!(!places.contains(&"state m".into()) && !places.contains(&"state w".into()), "{places:?}");
                    copied += places.len();
                }
            }
            // The old value is still there when it is fetched.
            let plan = Plan::new(&tape, &[w, m], &carries, class, Reuse::On);
            assert_eq!((fault(&plan), plan.copies().count() >= 3), (None, true));
        }
        assert!(copied >= 80, "{copied}");
    }

    #[test]
    fn a_state_that_is_read_after_it_was_written_is_a_fault() {
        let mut tape = Tape::new();
        let (x, w) = (tape.feed("x", [4, 4]), tape.state("w", [4, 4]));
        let product = tape.matmul(x, w);
        let sum = tape.total(product);
        let next = tape.add(w, product);
        let plan = Plan::new(&tape, &[sum], &[(w, next)], DeviceClass::Gpu, Reuse::On);
        assert_eq!((fault(&plan), plan.copies().count()), (None, 0));
        let writes = plan.steps.iter().position(|step| matches!(step.output.place, Place::State(_))).unwrap();
        assert_eq!(plan.steps[writes].in_place().len(), 1, "{plan}");

        let mut early = plan.clone();
        let again = early.steps[0].clone();
        early.steps.insert(writes + 1, again);
        assert!(fault(&early).unwrap().ends_with("reads state w that was overwritten"));
        let mut fetched = plan.clone();
        fetched.fetches[0] = plan.carries[0].state.clone();
        assert_eq!(fault(&fetched).unwrap(), "a fetched value was overwritten");
        let mut elsewhere = plan.clone();
        elsewhere.steps[0].output.place = Place::State("w".into());
        assert!(fault(&elsewhere).unwrap().ends_with("overwrites its input"));
        let mut never = plan.clone();
        never.steps.remove(writes);
        assert_eq!(fault(&never).unwrap(), "state w has not its new value");
    }

    #[test]
    fn packed_values_are_computed_in_their_places() {
        let mut tape = Tape::new();
        let x = tape.feed("x", [5, 13]);
        let [a, b] = [2.0, 3.0].map(|factor| tape.scale(x, factor));
        let column = tape.sum(a, &[1]);
        // A feed, and a value that has its place already, are copied.
        let packed = tape.pack(&[a, x, column, a]);
        let squares = tape.mul(packed, packed);
        let part = tape.slice(squares, 0, 128, 65);
        let part = tape.reshape(part, [5, 13]);
        let sum = tape.add(part, b);
        let [plan, _] = assert_sound(&tape, &[sum, packed, column]);
        let kernels: Vec<&str> = plan.steps.iter().map(|step| step.kernel.name).collect();
        let count = |name: &str| kernels.iter().filter(|kernel| **kernel == name).count();
        // `a`, the sum's factor, and three copies: of `a` twice, and of x. Nothing is run for the pack itself and for the slice.
        assert_eq!((count("elementwise/unary"), count("reduce/sum")), (5, 1), "{kernels:?}");
        assert!(!kernels.contains(&"layout/slice"));
    }

    #[test]
    fn reuse_saves_memory_and_is_no_better_than_the_bound() {
        let (tape, sum, _) = chain(12);
        let with = Plan::new(&tape, &[sum], &[], DeviceClass::Gpu, Reuse::On);
        let without = Plan::new(&tape, &[sum], &[], DeviceClass::Gpu, Reuse::Off);
        assert_eq!(without.slot_bytes(), with.bytes_without_reuse);
        assert!(with.slot_bytes() < without.slot_bytes() / 4);
        assert!(with.slot_bytes() >= with.live_bytes);
    }

    #[test]
    fn a_state_carried_from_itself_is_not_copied() {
        let mut t = Tape::new();
        let (kept, moved) = (t.state("kept", [2, 3]), t.state("moved", [2, 3]));
        let (sum, same) = (t.add(kept, moved), t.renamed(kept));
        for carried in [kept, same] {
            let plan = Plan::new(&t, &[sum], &[(kept, carried), (moved, sum)], DeviceClass::Gpu, Reuse::On);
            assert_eq!(plan.copies().count(), 0);
            let written: Vec<String> = plan.steps.iter().map(|step| step.output.place.to_string()).collect();
            assert_eq!(written, ["state moved"]);
            assert_eq!(plan.states.len(), 2, "the state is still there to be read");
        }
    }

    #[test]
    #[should_panic(expected = "%0 is a value of another tape")]
    fn a_value_of_another_tape_cannot_be_fetched() {
        let (mut one, mut other) = (Tape::new(), Tape::new());
        one.feed("x", [2]);
        let stray = other.feed("y", [2]);
        Plan::new(&one, &[stray], &[], DeviceClass::Gpu, Reuse::On);
    }

    #[test]
    fn dead_nodes_are_not_planned() {
        let (tape, sum, gradient) = chain(3);
        let forward = Plan::new(&tape, &[sum], &[], DeviceClass::Gpu, Reuse::On);
        let both = Plan::new(&tape, &[sum, gradient], &[], DeviceClass::Gpu, Reuse::On);
        // Two squares, and the sum of the third's products.
        assert_eq!(forward.steps.len(), 3);
        assert!(both.steps.len() > forward.steps.len());
    }

    #[test]
    fn a_product_is_computed_only_where_it_is_read() {
        let mut tape = Tape::new();
        let [a, b, c] = ["a", "b", "c"].map(|name| tape.feed(name, [2, 3]));
        let product = tape.mul(a, b);
        let sums = [tape.sum(product, &[1]), tape.add(c, product)];
        let kernels = |fetches: &[Value]| -> Vec<&str> {
            let plan = Plan::new(&tape, fetches, &[], DeviceClass::Gpu, Reuse::On);
            plan.steps.iter().map(|step| step.kernel.name).collect()
        };
        let fused = ["reduce/sum_product", "elementwise/multiply_add"];
        assert_eq!(kernels(&sums), fused);
        assert_eq!(kernels(&[sums[0], sums[1], product]), ["elementwise/binary", fused[0], fused[1]]);
    }
}
