//! A plan bound to buffers on a device.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use super::GpuError;
use super::device::{Device, IMMEDIATE_BYTES, Pipeline};
use super::halves;
use super::number::{Number, first_missing, unexecuted};
use super::pace::{Pace, guess};
use super::results::{Fetch, Results, Run, describe_run, describe_submit};
use crate::engine::kernel::Kernel;
use crate::engine::plan::{Carry, Operand, Place, Plan, Step};
use crate::engine::tape::Value;
use crate::engine::tensor::{Shape, Tensor};

/// Values kept on the device from run to run, by name. Plans that name the same state share its buffer.
#[derive(Debug)]
pub struct States {
    device: Device,
    buffers: HashMap<String, (wgpu::Buffer, Shape)>,
}

impl States {
    pub fn new(device: &Device) -> Self {
        States { device: device.clone(), buffers: HashMap::new() }
    }

    /// Sets a state; the first call fixes its shape.
    ///
    /// # Errors
    /// When the shape is not the state's, or the device has no memory left.
    pub fn set(&mut self, name: &str, tensor: &Tensor) -> Result<(), GpuError> {
        if !self.buffers.contains_key(name) {
            let buffer = self.device.buffer(name, tensor.shape().bytes())?;
            self.buffers.insert(name.to_owned(), (buffer, tensor.shape().clone()));
        }
        let (buffer, shape) = &self.buffers[name];
        fits(name, shape, tensor.shape())?;
        let watch = self.device.watch();
        self.device.queue.write_buffer(buffer, 0, bytemuck::cast_slice(tensor.data()));
        watch.end(|| format!("the upload of state {name}"), Ok(()))
    }

    /// Reads a state back.
    ///
    /// # Errors
    /// When there is no such state, or the device was lost.
    pub fn get(&self, name: &str) -> Result<Tensor, GpuError> {
        let (buffer, shape) = self.find(name)?;
        Ok(Tensor::new(shape.clone(), read_back(&self.device, &Part::whole(buffer), shape.bytes(), name)?))
    }

    /// All names, sorted.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.buffers.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    pub(super) fn find(&self, name: &str) -> Result<&(wgpu::Buffer, Shape), GpuError> {
        self.buffers.get(name).ok_or_else(|| GpuError::Unknown { kind: "state", name: name.to_owned() })
    }
}

fn fits(name: &str, expected: &Shape, given: &Shape) -> Result<(), GpuError> {
    if expected == given {
        return Ok(());
    }
    Err(GpuError::Shape { name: name.to_owned(), expected: expected.clone(), given: given.clone() })
}

/// The first `bytes` of a part of a buffer that may be copied from.
pub(super) fn read_back<T: bytemuck::Pod>(
    device: &Device,
    part: &Part,
    bytes: u64,
    name: &str,
) -> Result<Vec<T>, GpuError> {
    let at = || format!("the readback of {name}");
    let end = bytes + Number::BYTES;
    let staging = Results::new(device, "readback", end)?;
    let watch = device.watch();
    let mut encoder = device.device.create_command_encoder(&Default::default());
    encoder.copy_buffer_to_buffer(&part.buffer, part.offset, staging.buffer(), 0, bytes);
    let mut number = device.readbacks.lock().unwrap();
    number.renew(&device.queue);
    number.follow(&mut encoder, staging.buffer(), bytes);
    let submit = device.submit(encoder);
    let value = number.value();
    drop(number);
    watch.end(at, Ok(()))?;
    staging.read(device, &submit, at, |content| {
        let (content, number) = content.split_at(bytes as usize);
        first_missing(number, value)
            .map_or_else(|| Ok(bytemuck::pod_collect_to_vec(content)), |_| Err(unexecuted(at())))
    })
}

/// One dispatch, ready to be encoded. What a run reads of it lies in one piece: the host's caches are cold between runs.
#[derive(Debug)]
pub(super) struct Dispatch {
    pipeline: wgpu::ComputePipeline,
    bindings: wgpu::BindGroup,
    immediates: [u8; IMMEDIATE_BYTES],
    immediate_bytes: usize,
    workgroups: [u32; 3],
}

impl Dispatch {
    /// # Panics
    /// When the kernel has more immediates than any: a fault of its code.
    pub(super) fn new(pipeline: Pipeline, bindings: wgpu::BindGroup, kernel: &Kernel) -> Self {
        let words: Vec<u32> = kernel.immediates.iter().map(|(_, value)| value.to_bits()).collect();
        let (mut immediates, immediate_bytes) = ([0; IMMEDIATE_BYTES], 4 * words.len());
        immediates[..immediate_bytes].copy_from_slice(bytemuck::cast_slice(&words));
        Dispatch { pipeline: pipeline.pipeline, bindings, immediates, immediate_bytes, workgroups: kernel.workgroups() }
    }
}

/// A buffer, from a position in bytes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Part {
    pub buffer: wgpu::Buffer,
    pub offset: u64,
}

impl Part {
    pub fn whole(buffer: &wgpu::Buffer) -> Part {
        Part { buffer: buffer.clone(), offset: 0 }
    }
}

/// A copy before or after the dispatches.
#[derive(Debug)]
pub(super) struct Transfer {
    pub from: Part,
    pub to: Part,
    pub bytes: u64,
}

impl Transfer {
    fn encode(&self, encoder: &mut wgpu::CommandEncoder) {
        let Transfer { from, to, bytes } = self;
        encoder.copy_buffer_to_buffer(&from.buffer, from.offset, &to.buffer, to.offset, *bytes);
    }
}

/// Where the host's data come in.
#[derive(Debug)]
pub(super) struct Feed {
    pub part: Part,
    pub shape: Shape,
    /// Whether the buffer is not the executor's own.
    pub is_bound: bool,
}

/// A plan bound to buffers on a device.
#[derive(Debug)]
pub struct Executor {
    pub(super) device: Device,
    pub(super) plan: Plan,
    pub(super) dispatches: Vec<Dispatch>,
    pub(super) slots: Vec<wgpu::Buffer>,
    pub(super) feeds: HashMap<Arc<str>, Feed>,
    /// Feeds that were never set.
    pub(super) unset: BTreeSet<Arc<str>>,
    /// Into the feeds, before the next run.
    pub(super) arrivals: RefCell<Vec<Transfer>>,
    constants: Vec<wgpu::Buffer>,
    states: HashMap<Arc<str>, wgpu::Buffer>,
    /// Into the states, in the order of the plan's copies.
    pub(super) copies: Vec<Transfer>,
    /// What is fetched, in the order of the plan's fetches, and where it goes in the results.
    pub(super) fetches: Vec<(Part, u64)>,
    /// What the host reads of the newest run: its number once for each submit, then what is fetched.
    results: Arc<Results>,
    /// Those of earlier runs, which fetches may still hold.
    earlier: Vec<Arc<Results>>,
    /// Of the newest run.
    number: Number,
    /// Submits of the newest run so far, and the last of them.
    submitted: Cell<u64>,
    newest: RefCell<Option<wgpu::SubmissionIndex>>,
    pub(super) pace: Pace,
}

impl Executor {
    /// Allocates the plan's slots, compiles its pipelines, several at once, and binds them. `on_pipeline` is called with how many
    /// dispatches have their pipelines, and with their number: compilation takes seconds on some drivers.
    ///
    /// # Errors
    /// When a state is missing or of another shape, a kernel does not compile, or the device has too little memory.
    pub fn new(
        device: &Device,
        plan: Plan,
        states: &States,
        mut on_pipeline: impl FnMut(usize, usize),
    ) -> Result<Executor, GpuError> {
        let ((what, bytes), limit) = (plan.largest(), device.largest_value());
        if bytes > limit {
            return Err(GpuError::TooLarge { what, bytes, limit });
        }
        // A run makes as many submits as it has dispatches at most, and one each for what comes and for what is fetched.
        let mut end = (plan.steps.len() as u64 + 2) * Number::BYTES;
        let mut offsets = Vec::new();
        for fetch in &plan.fetches {
            offsets.push(end);
            end += fetch.shape.bytes();
        }
        let class = &device.adapter().class;
        let watch = device.watch();
        let mut executor = Executor {
            device: device.clone(),
            dispatches: Vec::with_capacity(plan.steps.len()),
            slots: Vec::new(),
            feeds: HashMap::new(),
            unset: plan.feeds.iter().map(|(name, _)| name.clone()).collect(),
            arrivals: RefCell::default(),
            constants: Vec::new(),
            states: HashMap::new(),
            copies: Vec::new(),
            fetches: Vec::new(),
            results: Results::new(device, "results", end)?.into(),
            earlier: Vec::new(),
            number: Number::new(&device.device),
            submitted: Cell::new(0),
            newest: RefCell::default(),
            pace: Pace::new(plan.steps.iter().map(|step| guess(step, class)).collect()),
            plan,
        };
        for (slot, &bytes) in executor.plan.slots.iter().enumerate() {
            executor.slots.push(device.buffer(&format!("slot {slot}"), bytes)?);
        }
        for (name, shape) in &executor.plan.feeds {
            let buffer = device.buffer(&format!("feed {name}"), shape.bytes())?;
            let feed = Feed { part: Part::whole(&buffer), shape: shape.clone(), is_bound: false };
            executor.feeds.insert(name.clone(), feed);
        }
        for (name, shape) in &executor.plan.states {
            let (buffer, given) = states.find(name)?;
            fits(name, shape, given)?;
            executor.states.insert(name.clone(), buffer.clone());
        }
        for (index, tensor) in executor.plan.constants.iter().enumerate() {
            let buffer = device.buffer(&format!("constant {index}"), tensor.shape().bytes())?;
            device.queue.write_buffer(&buffer, 0, bytemuck::cast_slice(tensor.data()));
            executor.constants.push(buffer);
        }
        executor.clear();
        let count = executor.plan.steps.len();
        device.compile(&executor.plan.steps, |ready| on_pipeline(ready, count))?;
        for step in &executor.plan.steps {
            let dispatch = executor.bind(step)?;
            executor.dispatches.push(dispatch);
        }
        executor.copies = executor.plan.copies().map(|carry| executor.copy(carry)).collect();
        let from = |fetch: &Operand| executor.part(fetch);
        executor.fetches = executor.plan.fetches.iter().map(from).zip(offsets).collect();
        watch.end(|| "the preparation of a plan".to_owned(), Ok(executor))
    }

    /// Writes zeros to slots and feeds. A group that binds a buffer never written before makes wgpu look, at each dispatch
    /// of every run, whether it is still to be cleared.
    fn clear(&self) {
        let mut encoder = self.device.device.create_command_encoder(&Default::default());
        for buffer in self.slots.iter().chain(self.feeds.values().map(|feed| &feed.part.buffer)) {
            encoder.clear_buffer(buffer, 0, None);
        }
        self.device.submit(encoder);
    }

    fn copy(&self, carry: &Carry) -> Transfer {
        let [from, to] = [&carry.from, &carry.state].map(|operand| self.part(operand));
        Transfer { from, to, bytes: carry.state.shape.bytes() }
    }

    pub(super) fn bind(&self, step: &Step) -> Result<Dispatch, GpuError> {
        let in_place = step.in_place();
        let pipeline = self.device.pipeline(&step.kernel, step.inputs.len(), &in_place)?;
        let watch = self.device.watch();
        let operands: Vec<&Operand> = step.inputs.iter().chain([&step.output]).collect();
        let parts: Vec<Part> = operands.iter().map(|operand| self.part(operand)).collect();
        let bound = parts.iter().zip(operands).enumerate().filter(|(index, _)| !in_place.contains(index));
        let bindings = bound.map(|(index, (part, operand))| {
            // The exact size, so that a kernel's arrayLength is its value's and not its slot's.
            let size = wgpu::BufferSize::new(operand.bytes());
            (index, wgpu::BufferBinding { buffer: &part.buffer, offset: part.offset, size })
        });
        let bindings = self.device.bind(step.kernel.name, &pipeline, bindings);
        watch.end(|| format!("the binding of {}", describe(step)), Ok(()))?;
        Ok(Dispatch::new(pipeline, bindings, &step.kernel))
    }

    /// Where a value lives.
    pub(super) fn part(&self, operand: &Operand) -> Part {
        let place = match &operand.place {
            Place::Slot(slot) => Part::whole(&self.slots[*slot]),
            Place::Feed(name) => self.feeds[name].part.clone(),
            Place::State(name) => Part::whole(&self.states[name]),
            Place::Constant(index) => Part::whole(&self.constants[*index]),
        };
        Part { offset: place.offset + operand.offset, ..place }
    }

    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Uploads a feed for the runs from now on.
    ///
    /// # Errors
    /// When the plan has no such feed, another shape for it, or a buffer that is [bound](Executor::bind_feed).
    pub fn feed(&mut self, name: &str, tensor: &Tensor) -> Result<(), GpuError> {
        let feed = self.own_feed(name)?;
        fits(name, &feed.shape, tensor.shape())?;
        let watch = self.device.watch();
        self.device.queue.write_buffer(&feed.part.buffer, 0, bytemuck::cast_slice(tensor.data()));
        watch.end(|| format!("the upload of feed {name}"), Ok(()))?;
        self.arrivals.borrow_mut().retain(|arrival| arrival.to != feed.part);
        self.unset.remove(name);
        Ok(())
    }

    /// Runs the plan in as many [`submits`](Executor::submits) as keep each short, the last of which ends with what is fetched
    /// and the states that are copied. The results do not depend on the number of submits. Until the submits are
    /// [settled](Executor::is_settled) it waits for each of them, then for none. Nothing is made here on the device, unless a
    /// [`Fetch`] still holds the results of an earlier run, and in this code nothing once they are settled; wgpu and the driver
    /// allocate as they record.
    ///
    /// # Errors
    /// When a feed was never set, or the device reported an error or was lost.
    pub fn run(&mut self) -> Result<(), GpuError> {
        let watch = self.device.watch();
        let handed_over = self.hand_over();
        watch.end(|| describe_run(self.number.value(), self.dispatches.len()), handed_over)
    }

    fn hand_over(&mut self) -> Result<(), GpuError> {
        self.begin()?;
        let (is_timing, submits) = (self.pace.is_timing(), self.pace.submits());
        let mut measured = Vec::new();
        for submit in 0..submits {
            let (start, dispatches) = (Instant::now(), self.pace.dispatches(submit));
            let mut encoder = self.encoder();
            let mut pass = encoder.begin_compute_pass(&Default::default());
            encode(&mut pass, &self.dispatches[dispatches]);
            drop(pass);
            if submit + 1 == submits {
                // What is fetched of a state is what the dispatches read.
                self.encode_fetches(&mut encoder);
                self.copies.iter().for_each(|copy| copy.encode(&mut encoder));
            }
            let newest = self.submit(encoder);
            if is_timing {
                let at = || describe_submit(submit as u64, self.number.value(), self.dispatches.len());
                self.device.wait(Some(newest), at)?;
                measured.push(start.elapsed().as_secs_f64());
            }
        }
        if is_timing {
            self.pace.learn(&measured);
        }
        Ok(())
    }

    /// Submits of the next run: as many as keep each at some 50 ms, far below what makes a driver's watchdog end it. A dispatch
    /// that takes longer is a submit of its own.
    pub fn submits(&self) -> usize {
        self.pace.submits()
    }

    /// Whether the submits have been measured. Before, [`run`](Executor::run) waits and measures.
    pub fn is_settled(&self) -> bool {
        !self.pace.is_timing()
    }

    /// Has runs from now on make a submit of so many dispatches each, whatever they take: for tests.
    ///
    /// # Panics
    /// When `dispatches` is 0.
    pub fn cut_every(&mut self, dispatches: usize) {
        self.pace.cut_every(dispatches);
    }

    /// Takes the number of a new run.
    pub(super) fn begin(&mut self) -> Result<(), GpuError> {
        if let Some(feed) = self.unset.first() {
            return Err(GpuError::Unset { feed: feed.to_string() });
        }
        self.free_results()?;
        self.number.renew(&self.device.queue);
        self.submitted.set(0);
        self.newest.take();
        Ok(())
    }

    /// Makes sure that the results can be written: those that a fetch holds are left to it.
    fn free_results(&mut self) -> Result<(), GpuError> {
        let is_free = |results: &mut Arc<Results>| Arc::get_mut(results).is_some_and(Results::reuse);
        if is_free(&mut self.results) {
            return Ok(());
        }
        let free = match self.earlier.iter_mut().position(is_free) {
            Some(position) => self.earlier.swap_remove(position),
            None => Results::new(&self.device, "results", self.results.bytes())?.into(),
        };
        self.earlier.push(std::mem::replace(&mut self.results, free));
        Ok(())
    }

    /// For a part of the run that has begun. The first begins with what comes to the feeds on the device.
    pub(super) fn encoder(&self) -> wgpu::CommandEncoder {
        let mut encoder = self.device.device.create_command_encoder(&Default::default());
        self.arrivals.take().iter().for_each(|copy| copy.encode(&mut encoder));
        encoder
    }

    /// Hands over the next submit of the run that has begun, with the run's number after it.
    pub(super) fn submit(&self, mut encoder: wgpu::CommandEncoder) -> wgpu::SubmissionIndex {
        let submit = self.submitted.replace(self.submitted.get() + 1);
        self.number.follow(&mut encoder, self.results.buffer(), submit * Number::BYTES);
        let newest = self.device.submit(encoder);
        self.newest.replace(Some(newest.clone()));
        newest
    }

    fn encode_fetches(&self, encoder: &mut wgpu::CommandEncoder) {
        for ((from, to), fetch) in self.fetches.iter().zip(&self.plan.fetches) {
            let bytes = fetch.shape.bytes();
            encoder.copy_buffer_to_buffer(&from.buffer, from.offset, self.results.buffer(), *to, bytes);
        }
    }

    /// Has what is fetched lie ready after dispatches that [`run`](Executor::run) did not submit.
    pub(super) fn copy_fetches(&self) {
        let mut encoder = self.encoder();
        self.encode_fetches(&mut encoder);
        self.submit(encoder);
    }

    /// The newest run, if there was one.
    fn newest_run(&self) -> Option<Run> {
        Some(Run {
            newest: self.newest.borrow().clone()?,
            device: self.device.clone(),
            results: self.results.clone(),
            number: self.number.value(),
            submits: self.submitted.get(),
            dispatches: self.dispatches.len(),
        })
    }

    /// Waits until every run so far is done.
    ///
    /// # Errors
    /// When the device reported an error, was lost, or has not executed all of the newest run.
    pub fn wait(&self) -> Result<(), GpuError> {
        match self.newest_run() {
            Some(run) => run.read(|_| ()),
            None => self.device.wait(None, || describe_run(0, self.dispatches.len())),
        }
    }

    /// Reads back a value that the plan fetches, as the last run left it.
    ///
    /// # Errors
    /// When the plan does not fetch it, there was no run, the device was lost, or it has not executed all of the run.
    pub fn fetch(&self, value: Value) -> Result<Tensor, GpuError> {
        self.fetch_async(value)?.wait()
    }

    /// Begins to read back a value that the plan fetches, as the last run leaves it, without waiting for that. Any number may
    /// be on their way at once, of this run and of later ones: a run whose predecessor's results are still held by a
    /// [`Fetch`] writes to a buffer of its own, which is used again when it is free.
    ///
    /// Until the submits are [settled](Executor::is_settled), [`run`](Executor::run) itself waits.
    ///
    /// # Errors
    /// When the plan does not fetch the value, or there was no run. All else is told by the [`Fetch`].
    pub fn fetch_async(&self, value: Value) -> Result<Fetch, GpuError> {
        let position = self.position_of(value)?;
        let run = self.newest_run().ok_or_else(|| GpuError::NotRun { value: format!("{value:?}") })?;
        let (_, offset) = self.fetches[position];
        Ok(Fetch::new(run, offset, self.plan.fetches[position].shape.clone()))
    }

    /// The position of a value among those that are fetched.
    pub(super) fn position_of(&self, value: Value) -> Result<usize, GpuError> {
        let position = self.plan.fetched.iter().position(|&fetched| fetched == value);
        position.ok_or_else(|| GpuError::Unknown { kind: "fetch", name: format!("{value:?}") })
    }

    fn read(&self, operand: &Operand, name: &str) -> Result<Tensor, GpuError> {
        let part = self.part(operand);
        let data = match operand.is_half {
            true => halves::unpack(&read_back(&self.device, &part, operand.bytes(), name)?),
            false => read_back(&self.device, &part, operand.bytes(), name)?,
        };
        Ok(Tensor::new(operand.shape.clone(), data))
    }

    /// Runs the plan dispatch by dispatch and calls `visit` with each step, its inputs and its output as they are on the
    /// device. No state is copied; those that are computed in place change.
    ///
    /// # Errors
    /// When a feed was never set, or the device reported an error, which then names the step.
    pub fn trace(&mut self, visit: impl FnMut(&Step, &[Tensor], &Tensor)) -> Result<(), GpuError> {
        let watch = self.device.watch();
        let traced = self.trace_steps(visit);
        watch.end(|| describe_run(self.number.value(), self.dispatches.len()), traced)
    }

    fn trace_steps(&mut self, mut visit: impl FnMut(&Step, &[Tensor], &Tensor)) -> Result<(), GpuError> {
        self.begin()?;
        if !self.arrivals.borrow().is_empty() {
            self.submit(self.encoder());
        }
        for (step, dispatch) in self.plan.steps.iter().zip(&self.dispatches) {
            let inputs = step
                .inputs
                .iter()
                .map(|operand| self.read(operand, &describe(step)))
                .collect::<Result<Vec<Tensor>, GpuError>>()?;
            let mut encoder = self.encoder();
            let mut pass = encoder.begin_compute_pass(&Default::default());
            encode(&mut pass, std::slice::from_ref(dispatch));
            drop(pass);
            self.submit(encoder);
            let output = self.read(&step.output, &describe(step))?;
            visit(step, &inputs, &output);
        }
        self.copy_fetches();
        self.wait()
    }
}

/// Everything that does not change from run to run was prepared when the dispatches were bound: nothing is allocated here.
/// Setting a pipeline again costs wgpu no measurable time, so none is skipped.
pub(super) fn encode(pass: &mut wgpu::ComputePass, dispatches: &[Dispatch]) {
    for dispatch in dispatches {
        pass.set_pipeline(&dispatch.pipeline);
        pass.set_bind_group(0, &dispatch.bindings, &[]);
        if dispatch.immediate_bytes > 0 {
            pass.set_immediates(0, &dispatch.immediates[..dispatch.immediate_bytes]);
        }
        let [x, y, z] = dispatch.workgroups;
        pass.dispatch_workgroups(x, y, z);
    }
}

fn describe(step: &Step) -> String {
    format!("{:?} {} in scope `{}`", step.value, step.kernel.name, step.scope)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::gpu::{Choice, Clock};
    use crate::engine::plan::Reuse;
    use crate::engine::tape::Tape;

    /// w ← w + x·w and a chain of products, of which the end, a value between and the state itself are fetched.
    struct Example {
        device: Device,
        tape: Tape,
        fetches: [Value; 3],
        carry: (Value, Value),
    }

    impl Example {
        fn new() -> Self {
            let mut tape = Tape::new();
            let (x, w) = (tape.feed("x", [8, 8]), tape.state("w", [8, 8]));
            let between = tape.matmul(x, w);
            let mut end = between;
            for _ in 0..6 {
                end = tape.matmul(end, x);
                end = tape.relu(end);
            }
            let next = tape.add(w, between);
            let device = Device::open(&Choice::Best).unwrap();
            Example { device, tape, fetches: [end, between, w], carry: (w, next) }
        }

        /// The plan on a state of its own, and not yet fed.
        fn unfed(&self) -> (Executor, States) {
            let mut states = States::new(&self.device);
            states.set("w", &Tensor::new([8, 8], (0..64).map(|index| 0.1 * (index % 7) as f32).collect())).unwrap();
            let plan = Plan::new(&self.tape, &self.fetches, &[self.carry], self.device.class(), Reuse::On);
            (Executor::new(&self.device, plan, &states, |_, _| ()).unwrap(), states)
        }

        fn fed(&self) -> (Executor, States) {
            let (mut executor, states) = self.unfed();
            let x = Tensor::new([8, 8], (0..64).map(|index| 0.02 * (index % 11) as f32 - 0.05).collect());
            executor.feed("x", &x).unwrap();
            (executor, states)
        }

        fn read(&self, executor: &Executor) -> Result<Vec<Vec<u32>>, GpuError> {
            let bits = |tensor: Tensor| tensor.data().iter().map(|x| x.to_bits()).collect();
            self.fetches.iter().map(|&value| Ok(bits(executor.fetch(value)?))).collect()
        }
    }

    #[test]
    fn results_are_the_same_bits_however_a_run_is_cut() {
        let example = Example::new();
        let after = |dispatches: usize| {
            let (mut executor, states) = example.fed();
            executor.cut_every(dispatches);
            let runs: Vec<_> = (0..3)
                .map(|_| {
                    let before = example.device.tally();
                    executor.run().unwrap();
                    assert_eq!((example.device.tally() - before).submits as usize, executor.submits());
                    example.read(&executor).unwrap()
                })
                .collect();
            (executor.submits(), runs, states.get("w").unwrap())
        };
        let (submits, whole, state) = after(1000);
        assert_eq!(submits, 1);
        assert!(whole[0] != whole[1] && whole[1] != whole[2], "the carry is seen by the next run, not before");
        for dispatches in 1..5 {
            let (submits, cut, cut_state) = after(dispatches);
            assert!(submits > 3, "{submits} submits");
            assert_eq!((&cut, &cut_state), (&whole, &state), "cut after every {dispatches}");
        }
    }

    #[test]
    fn a_run_is_settled_soon_and_then_no_run_waits() {
        let (mut executor, _) = Example::new().fed();
        assert!(!executor.is_settled());
        let runs = (0..9).take_while(|_| !executor.is_settled() && executor.run().is_ok()).count();
        assert!(runs <= 4 && executor.is_settled(), "{runs} runs");
        assert!(executor.submits() <= executor.plan().steps.len());
    }

    #[test]
    fn a_submit_that_was_not_executed_is_noticed_whichever_it_is() {
        let example = Example::new();
        let (mut executor, _states) = example.fed();
        executor.cut_every(4);
        executor.run().unwrap();
        let submits = executor.submits();
        assert!(submits > 2);
        for lost in 0..submits {
            example.device.lose_submit(lost as u64);
            executor.run().unwrap();
            let told = format!("submit {} of run {}", lost + 1, 2 + 2 * lost);
            for error in [executor.wait().unwrap_err(), example.read(&executor).unwrap_err()] {
                assert!(matches!(&error, GpuError::Lost { at, .. } if at.starts_with(&told)), "not {told}: {error}");
            }
            // What the next run computes is its own.
            executor.run().unwrap();
            executor.wait().unwrap();
            example.read(&executor).unwrap();
        }
    }

    #[test]
    fn a_readback_that_was_not_executed_is_noticed() {
        let example = Example::new();
        let (_, mut states) = example.fed();
        let zeros = Tensor::full([8, 8], 0.0);
        states.set("w", &zeros).unwrap();
        // What was read before, and what a new buffer holds, is the same.
        assert_eq!(states.get("w").unwrap(), zeros);
        example.device.lose_submit(0);
        let error = states.get("w").unwrap_err();
        assert!(matches!(&error, GpuError::Lost { at, .. } if at.contains("the readback of w")), "{error}");
        assert_eq!(states.get("w").unwrap(), zeros);
    }

    #[test]
    fn profiles_and_traces_notice_what_was_not_executed() {
        let example = Example::new();
        let (mut executor, _states) = example.fed();
        executor.cut_every(4);
        executor.run().unwrap();
        for clock in [example.device.clock(), Clock::Wall] {
            example.device.lose_submit(1);
            assert!(matches!(executor.profile(clock), Err(GpuError::Lost { .. })));
            example.device.lose_submit(1);
            assert!(matches!(executor.time_pass(clock), Err(GpuError::Lost { .. })));
            assert_eq!(executor.profile(clock).unwrap().len(), executor.plan().steps.len());
            assert!(executor.time_pass(clock).unwrap().is_none_or(|seconds| seconds > 0.0));
        }
        // The inputs of the first step are read in two submits.
        example.device.lose_submit(2);
        assert!(matches!(executor.trace(|_, _, _| ()), Err(GpuError::Lost { .. })));
        executor.trace(|_, _, _| ()).unwrap();
    }

    #[test]
    fn a_plan_is_not_run_before_every_feed_was_set_nor_fetched_before_it_was_run() {
        let example = Example::new();
        let (mut executor, _states) = example.unfed();
        let unset = Err(GpuError::Unset { feed: "x".into() });
        assert_eq!(executor.run(), unset);
        assert_eq!(executor.trace(|_, _, _| ()), unset);
        assert_eq!(executor.profile(Clock::Wall).map(drop), unset);
        assert_eq!(executor.time_pass(Clock::Wall).map(drop), unset);
        assert!(matches!(example.read(&executor), Err(GpuError::NotRun { .. })));
        executor.feed("x", &Tensor::full([8, 8], 0.5)).unwrap();
        assert!(matches!(example.read(&executor), Err(GpuError::NotRun { .. })));
        executor.run().unwrap();
        example.read(&executor).unwrap();
    }
}
