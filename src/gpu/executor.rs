//! A plan bound to buffers on a device.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use super::GpuError;
use super::device::{Device, Pipeline};
use crate::kernel::Kernel;
use crate::plan::{Operand, Place, Plan, Step};
use crate::tape::Value;
use crate::tensor::{Shape, Tensor};

/// Values kept on the device from run to run, by name. Plans that name the same state share its buffer.
#[derive(Debug)]
pub struct States {
    device: Device,
    buffers: HashMap<String, (Arc<wgpu::Buffer>, Shape)>,
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

    fn find(&self, name: &str) -> Result<&(Arc<wgpu::Buffer>, Shape), GpuError> {
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
    let staging = device.device.create_buffer(&wgpu::BufferDescriptor {
        label: Some("readback"),
        size: bytes,
        usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    let mut encoder = device.device.create_command_encoder(&Default::default());
    encoder.copy_buffer_to_buffer(buffer, 0, &staging, 0, bytes);
    device.queue.submit([encoder.finish()]);
    staging.map_async(wgpu::MapMode::Read, .., |_| {});
    device.wait(at)?;
    let view = staging.get_mapped_range(..).map_err(|error| GpuError::Lost { at: at(), reason: error.to_string() })?;
    Ok(bytemuck::pod_collect_to_vec(&view))
}

/// One dispatch, ready to be encoded.
#[derive(Debug)]
pub(super) struct Dispatch {
    pipeline: Arc<Pipeline>,
    bindings: wgpu::BindGroup,
    immediates: Vec<u8>,
    workgroups: [u32; 3],
}

impl Dispatch {
    pub(super) fn new(pipeline: Arc<Pipeline>, bindings: wgpu::BindGroup, kernel: &Kernel) -> Self {
        let words: Vec<u32> = kernel.immediates.iter().map(|(_, value)| value.to_bits()).collect();
        let immediates = bytemuck::cast_slice(&words).to_vec();
        Dispatch { pipeline, bindings, immediates, workgroups: kernel.workgroups }
    }
}

/// A plan bound to buffers on a device.
#[derive(Debug)]
pub struct Executor {
    pub(super) device: Device,
    plan: Plan,
    pub(super) dispatches: Vec<Dispatch>,
    slots: Vec<Arc<wgpu::Buffer>>,
    feeds: HashMap<Rc<str>, (Arc<wgpu::Buffer>, Shape)>,
    constants: Vec<Arc<wgpu::Buffer>>,
    states: HashMap<Rc<str>, Arc<wgpu::Buffer>>,
    runs: u64,
}

impl Executor {
    /// Allocates the plan's slots, compiles its pipelines and binds them. `on_pipeline` is called before each dispatch is
    /// bound, with its position and their number: compilation takes seconds on some drivers.
    ///
    /// # Errors
    /// When a state is missing or of another shape, a kernel does not compile, or the device has no memory left.
    pub fn new(
        device: &Device,
        plan: Plan,
        states: &States,
        mut on_pipeline: impl FnMut(usize, usize),
    ) -> Result<Executor, GpuError> {
        let mut executor = Executor {
            device: device.clone(),
            dispatches: Vec::with_capacity(plan.steps.len()),
            slots: Vec::new(),
            feeds: HashMap::new(),
            constants: Vec::new(),
            states: HashMap::new(),
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
        for (index, step) in executor.plan.steps.iter().enumerate() {
            on_pipeline(index, executor.plan.steps.len());
            let dispatch = executor.bind(step)?;
            executor.dispatches.push(dispatch);
        }
        Ok(executor)
    }

    fn bind(&self, step: &Step) -> Result<Dispatch, GpuError> {
        let pipeline = self.device.pipeline(&step.kernel, step.inputs.len())?;
        let operands = step.inputs.iter().chain([&step.output]);
        let entries: Vec<wgpu::BindGroupEntry> = operands
            .enumerate()
            .map(|(binding, operand)| wgpu::BindGroupEntry {
                binding: binding as u32,
                // The exact size, so that a kernel's arrayLength is its value's and not its slot's.
                resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer: self.buffer(&operand.place),
                    offset: 0,
                    size: wgpu::BufferSize::new(operand.shape.bytes()),
                }),
            })
            .collect();
        let bindings = self.device.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(step.kernel.name),
            layout: &pipeline.bindings,
            entries: &entries,
        });
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

    /// Runs the plan: one encoder, one pass, then the carries, one submit. Does not wait.
    ///
    /// # Errors
    /// When the device reported an error or was lost.
    pub fn run(&mut self) -> Result<(), GpuError> {
        self.runs += 1;
        let mut encoder = self.device.device.create_command_encoder(&Default::default());
        let mut pass = encoder.begin_compute_pass(&Default::default());
        encode(&mut pass, &self.dispatches);
        drop(pass);
        for carry in &self.plan.carries {
            let (from, to) = (self.buffer(&carry.from.place), self.buffer(&carry.state.place));
            encoder.copy_buffer_to_buffer(from, 0, to, 0, carry.state.shape.bytes());
        }
        self.device.queue.submit([encoder.finish()]);
        let run = self.runs;
        self.device.check(|| format!("run {run} of a plan of {} dispatches", self.dispatches.len()))
    }

    /// Waits until every run so far is done.
    ///
    /// # Errors
    /// When the device reported an error or was lost.
    pub fn wait(&self) -> Result<(), GpuError> {
        self.device.wait(|| format!("the end of run {}", self.runs))
    }

    /// Reads back a value that the plan fetches.
    ///
    /// # Errors
    /// When the plan does not fetch it, or the device was lost.
    pub fn fetch(&self, value: Value) -> Result<Tensor, GpuError> {
        let fetched = self.plan.fetches.iter().find(|fetch| fetch.value == value);
        let operand = fetched.ok_or_else(|| GpuError::Unknown { kind: "fetch", name: format!("{value:?}") })?;
        self.read(operand, &format!("{value:?} after run {}", self.runs))
    }

    fn read(&self, operand: &Operand, name: &str) -> Result<Tensor, GpuError> {
        read(&self.device, self.buffer(&operand.place), &operand.shape, name)
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
            self.device.queue.submit([encoder.finish()]);
            let output = self.read(&step.output, &describe(step))?;
            visit(step, &inputs, &output);
        }
        Ok(())
    }
}

/// Everything that does not change from run to run was prepared when the dispatches were bound: nothing is allocated here.
pub(super) fn encode(pass: &mut wgpu::ComputePass, dispatches: &[Dispatch]) {
    let mut current: Option<&Arc<Pipeline>> = None;
    for dispatch in dispatches {
        if !current.is_some_and(|current| Arc::ptr_eq(current, &dispatch.pipeline)) {
            pass.set_pipeline(&dispatch.pipeline.pipeline);
            current = Some(&dispatch.pipeline);
        }
        pass.set_bind_group(0, &dispatch.bindings, &[]);
        if !dispatch.immediates.is_empty() {
            pass.set_immediates(0, &dispatch.immediates);
        }
        let [x, y, z] = dispatch.workgroups;
        pass.dispatch_workgroups(x, y, z);
    }
}

fn describe(step: &Step) -> String {
    format!("{:?} {} in scope `{}`", step.value, step.kernel.name, step.scope)
}
