//! A plan bound to buffers on a device.

use std::collections::HashMap;
use std::rc::Rc;

use super::GpuError;
use super::device::{Device, IMMEDIATE_BYTES, Pipeline};
use super::halves;
use crate::kernel::Kernel;
use crate::plan::{Carry, Operand, Place, Plan, Step};
use crate::tape::Value;
use crate::tensor::{Shape, Tensor};

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
        self.device.queue.write_buffer(buffer, 0, bytemuck::cast_slice(tensor.data()));
        Ok(())
    }

    /// Reads a state back.
    ///
    /// # Errors
    /// When there is no such state, or the device was lost.
    pub fn get(&self, name: &str) -> Result<Tensor, GpuError> {
        let (buffer, shape) = self.find(name)?;
        read(&self.device, buffer, shape, name)
    }

    /// All names, sorted.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.buffers.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    fn find(&self, name: &str) -> Result<&(wgpu::Buffer, Shape), GpuError> {
        self.buffers.get(name).ok_or_else(|| GpuError::Unknown { kind: "state", name: name.to_owned() })
    }
}

fn fits(name: &str, expected: &Shape, given: &Shape) -> Result<(), GpuError> {
    if expected == given {
        return Ok(());
    }
    Err(GpuError::Shape { name: name.to_owned(), expected: expected.clone(), given: given.clone() })
}

fn read(device: &Device, buffer: &wgpu::Buffer, shape: &Shape, name: &str) -> Result<Tensor, GpuError> {
    Ok(Tensor::new(shape.clone(), read_back(device, buffer, shape.bytes(), name)?))
}

/// The first `bytes` of a buffer that may be copied from.
pub(super) fn read_back<T: bytemuck::Pod>(
    device: &Device,
    buffer: &wgpu::Buffer,
    bytes: u64,
    name: &str,
) -> Result<Vec<T>, GpuError> {
    let at = || format!("the readback of {name}");
    let staging = device.buffer_for("readback", bytes, READBACK)?;
    let mut encoder = device.device.create_command_encoder(&Default::default());
    encoder.copy_buffer_to_buffer(buffer, 0, &staging, 0, bytes);
    device.submit(encoder);
    map(device, &staging, 0..bytes, at)
}

const READBACK: wgpu::BufferUsages = wgpu::BufferUsages::MAP_READ.union(wgpu::BufferUsages::COPY_DST);

/// Waits for the device, and reads part of a buffer that can be mapped.
fn map<T: bytemuck::Pod>(
    device: &Device,
    staging: &wgpu::Buffer,
    range: std::ops::Range<u64>,
    at: impl Fn() -> String,
) -> Result<Vec<T>, GpuError> {
    staging.map_async(wgpu::MapMode::Read, range.clone(), |_| {});
    device.wait(&at)?;
    let view =
        staging.get_mapped_range(range).map_err(|error| GpuError::Lost { at: at(), reason: error.to_string() })?;
    let content = bytemuck::pod_collect_to_vec(&view);
    drop(view);
    staging.unmap();
    Ok(content)
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
        Dispatch { pipeline: pipeline.pipeline, bindings, immediates, immediate_bytes, workgroups: kernel.workgroups }
    }
}

/// A copy after the dispatches.
#[derive(Debug)]
struct Transfer {
    from: wgpu::Buffer,
    to: wgpu::Buffer,
    /// Where in `to`, in bytes.
    offset: u64,
    bytes: u64,
}

impl Transfer {
    fn encode(&self, encoder: &mut wgpu::CommandEncoder) {
        encoder.copy_buffer_to_buffer(&self.from, 0, &self.to, self.offset, self.bytes);
    }
}

/// A plan bound to buffers on a device.
#[derive(Debug)]
pub struct Executor {
    pub(super) device: Device,
    plan: Plan,
    pub(super) dispatches: Vec<Dispatch>,
    slots: Vec<wgpu::Buffer>,
    feeds: HashMap<Rc<str>, (wgpu::Buffer, Shape)>,
    constants: Vec<wgpu::Buffer>,
    states: HashMap<Rc<str>, wgpu::Buffer>,
    /// Into the states.
    carries: Vec<Transfer>,
    /// Into a buffer that the host reads, in the order of the plan's fetches.
    fetches: Vec<Transfer>,
    runs: u64,
}

impl Executor {
    /// Allocates the plan's slots, compiles its pipelines and binds them. `on_pipeline` is called before each dispatch is
    /// bound, with its position and their number: compilation takes seconds on some drivers.
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
        let mut executor = Executor {
            device: device.clone(),
            dispatches: Vec::with_capacity(plan.steps.len()),
            slots: Vec::new(),
            feeds: HashMap::new(),
            constants: Vec::new(),
            states: HashMap::new(),
            carries: Vec::new(),
            fetches: Vec::new(),
            runs: 0,
            plan,
        };
        for (slot, &bytes) in executor.plan.slots.iter().enumerate() {
            executor.slots.push(device.buffer(&format!("slot {slot}"), bytes)?);
        }
        for (name, shape) in &executor.plan.feeds {
            let buffer = device.buffer(&format!("feed {name}"), shape.bytes())?;
            executor.feeds.insert(name.clone(), (buffer, shape.clone()));
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
        for (index, step) in executor.plan.steps.iter().enumerate() {
            on_pipeline(index, executor.plan.steps.len());
            let dispatch = executor.bind(step)?;
            executor.dispatches.push(dispatch);
        }
        executor.carries = executor.plan.carries.iter().map(|carry| executor.carry(carry)).collect();
        executor.fetches = executor.fetches()?;
        Ok(executor)
    }

    /// Writes zeros to slots and feeds. A group that binds a buffer never written before makes wgpu look, at each dispatch
    /// of every run, whether it is still to be cleared.
    fn clear(&self) {
        let mut encoder = self.device.device.create_command_encoder(&Default::default());
        for buffer in self.slots.iter().chain(self.feeds.values().map(|(buffer, _)| buffer)) {
            encoder.clear_buffer(buffer, 0, None);
        }
        self.device.submit(encoder);
    }

    fn carry(&self, carry: &Carry) -> Transfer {
        let [from, to] = [&carry.from, &carry.state].map(|operand| self.buffer(&operand.place).clone());
        Transfer { from, to, offset: 0, bytes: carry.state.shape.bytes() }
    }

    fn fetches(&self) -> Result<Vec<Transfer>, GpuError> {
        let mut end = 0;
        let mut places = Vec::new();
        for fetch in &self.plan.fetches {
            places.push((end, fetch.shape.bytes(), &fetch.place));
            end = (end + fetch.shape.bytes()).next_multiple_of(wgpu::MAP_ALIGNMENT);
        }
        if places.is_empty() {
            return Ok(Vec::new());
        }
        let to = self.device.buffer_for("fetches", end, READBACK)?;
        let copy =
            |(offset, bytes, place)| Transfer { from: self.buffer(place).clone(), to: to.clone(), offset, bytes };
        Ok(places.into_iter().map(copy).collect())
    }

    fn bind(&self, step: &Step) -> Result<Dispatch, GpuError> {
        let pipeline = self.device.pipeline(&step.kernel, step.inputs.len())?;
        let operands = step.inputs.iter().chain([&step.output]);
        let operands = operands.map(|operand| wgpu::BufferBinding {
            buffer: self.buffer(&operand.place),
            offset: 0,
            // The exact size, so that a kernel's arrayLength is its value's and not its slot's.
            size: wgpu::BufferSize::new(operand.bytes()),
        });
        let bindings = self.device.bind(step.kernel.name, &pipeline, operands);
        self.device.check(|| format!("the binding of {}", describe(step)))?;
        Ok(Dispatch::new(pipeline, bindings, &step.kernel))
    }

    fn buffer(&self, place: &Place) -> &wgpu::Buffer {
        match place {
            Place::Slot(slot) => &self.slots[*slot],
            Place::Feed(name) => &self.feeds[name].0,
            Place::State(name) => &self.states[name],
            Place::Constant(index) => &self.constants[*index],
        }
    }

    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Uploads a feed for the next run.
    ///
    /// # Errors
    /// When the plan has no such feed, or another shape for it.
    pub fn feed(&mut self, name: &str, tensor: &Tensor) -> Result<(), GpuError> {
        let (buffer, shape) =
            self.feeds.get(name).ok_or_else(|| GpuError::Unknown { kind: "feed", name: name.to_owned() })?;
        fits(name, shape, tensor.shape())?;
        self.device.queue.write_buffer(buffer, 0, bytemuck::cast_slice(tensor.data()));
        Ok(())
    }

    /// Runs the plan: one encoder, one pass, then the carries and what is fetched, one submit. Does not wait. Nothing is
    /// made here, on the device or in this code; wgpu and the driver allocate as they record.
    ///
    /// # Errors
    /// When the device reported an error or was lost.
    pub fn run(&mut self) -> Result<(), GpuError> {
        self.runs += 1;
        let mut encoder = self.device.device.create_command_encoder(&Default::default());
        let mut pass = encoder.begin_compute_pass(&Default::default());
        encode(&mut pass, &self.dispatches);
        drop(pass);
        // What is fetched of a state is what the dispatches read.
        self.fetches.iter().chain(&self.carries).for_each(|copy| copy.encode(&mut encoder));
        self.device.submit(encoder);
        let run = self.runs;
        self.device.check(|| format!("run {run} of a plan of {} dispatches", self.dispatches.len()))
    }

    /// Has what is fetched lie ready after dispatches that [`run`](Executor::run) did not submit.
    pub(super) fn copy_fetches(&self) {
        let mut encoder = self.device.device.create_command_encoder(&Default::default());
        self.fetches.iter().for_each(|copy| copy.encode(&mut encoder));
        self.device.submit(encoder);
    }

    /// Waits until every run so far is done.
    ///
    /// # Errors
    /// When the device reported an error or was lost.
    pub fn wait(&self) -> Result<(), GpuError> {
        self.device.wait(|| format!("the end of run {}", self.runs))
    }

    /// Reads back a value that the plan fetches, as the last run left it.
    ///
    /// # Errors
    /// When the plan does not fetch it, or the device was lost.
    pub fn fetch(&self, value: Value) -> Result<Tensor, GpuError> {
        let position = self.plan.fetched.iter().position(|&fetched| fetched == value);
        let fetched = position.map(|position| (&self.plan.fetches[position], &self.fetches[position]));
        let (operand, copy) = fetched.ok_or_else(|| GpuError::Unknown { kind: "fetch", name: format!("{value:?}") })?;
        let at = || format!("the readback of {value:?} after run {}", self.runs);
        let content = map(&self.device, &copy.to, copy.offset..copy.offset + copy.bytes, at)?;
        Ok(Tensor::new(operand.shape.clone(), content))
    }

    fn read(&self, operand: &Operand, name: &str) -> Result<Tensor, GpuError> {
        let buffer = self.buffer(&operand.place);
        match operand.is_half {
            true => {
                let words = read_back(&self.device, buffer, operand.bytes(), name)?;
                Ok(Tensor::new(operand.shape.clone(), halves::unpack(&words)))
            }
            false => read(&self.device, buffer, &operand.shape, name),
        }
    }

    /// Runs the plan dispatch by dispatch and calls `visit` with each step, its inputs and its output as they are on the
    /// device. Carries are not applied.
    ///
    /// # Errors
    /// When the device reported an error, which then names the step.
    pub fn trace(&mut self, mut visit: impl FnMut(&Step, &[Tensor], &Tensor)) -> Result<(), GpuError> {
        for (step, dispatch) in self.plan.steps.iter().zip(&self.dispatches) {
            let inputs = step
                .inputs
                .iter()
                .map(|operand| self.read(operand, &describe(step)))
                .collect::<Result<Vec<Tensor>, GpuError>>()?;
            let mut encoder = self.device.device.create_command_encoder(&Default::default());
            let mut pass = encoder.begin_compute_pass(&Default::default());
            encode(&mut pass, std::slice::from_ref(dispatch));
            drop(pass);
            self.device.submit(encoder);
            let output = self.read(&step.output, &describe(step))?;
            visit(step, &inputs, &output);
        }
        self.copy_fetches();
        Ok(())
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
