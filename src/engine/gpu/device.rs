//! Adapters, the opened device, and its cache of pipelines.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, OnceLock};

use serde::Serialize;

use super::facts::{Facts, MATRIX_BLOCK};
use super::number::Number;
use super::watch::{Lost, Watch};
use super::{Choice, Clock, GpuError, Need};
use crate::engine::kernel::{DeviceClass, Kernel, Lanes, Precision, Tile};
use crate::engine::shaders::{self, Replaced, element_bytes};

/// What an adapter is, for people and for records.
#[derive(Clone, Debug, Default, Serialize, PartialEq)]
pub struct AdapterSummary {
    pub name: String,
    /// PCI's number of the vendor, or that of the interface where there is none.
    pub vendor: u32,
    /// Its place on the PCI bus, such as `0000:01:00.0`, if the driver tells it.
    pub pci: Option<String>,
    /// Driver name and version.
    pub driver: String,
    pub backend: String,
    /// `discrete`, `integrated`, `virtual`, `cpu` or `other`.
    pub class: String,
    /// Largest storage buffer binding in bytes, as far as kernels can be told its length.
    pub max_binding_bytes: u64,
    /// Largest buffer in bytes.
    pub max_buffer_bytes: u64,
    pub max_workgroup_invocations: u32,
    pub max_workgroup_bytes: u32,
    /// Fewest and most invocations of its subgroups.
    pub subgroups: [u32; 2],
    /// Square matrices of f16, with f32 sums, that its matrix units offer to multiply: what [`Precision::F16`] needs. That they
    /// do so rightly is proven when the device is opened for it.
    pub tiles: Vec<Tile>,
    /// Why there are none, if so.
    pub without_tiles: Option<String>,
    /// Optional features that stssad makes use of here.
    pub used: Vec<String>,
    /// Features that stssad would make use of, but are missing.
    pub missing: Vec<String>,
    /// Why the device cannot be used, if so.
    pub unusable: Option<String>,
}

/// Bytes of immediates that the kernels need at most, and that the layout of every pipeline has.
pub(crate) const IMMEDIATE_BYTES: usize = 96;

fn instance() -> wgpu::Instance {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    // OpenGL is left out: it would be chosen silently where no Vulkan is, and lacks what the kernels need.
    descriptor.backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
    wgpu::Instance::new(descriptor)
}

pub(super) fn enumerate() -> Vec<wgpu::Adapter> {
    let mut adapters = pollster::block_on(instance().enumerate_adapters(wgpu::Backends::all()));
    let rank = |adapter: &wgpu::Adapter| match adapter.get_info().device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    };
    adapters.sort_by_key(rank);
    adapters
}

/// All adapters, the best first. Empty where there is no driver.
pub fn adapters() -> Vec<AdapterSummary> {
    enumerate().iter().map(|adapter| Facts::of(adapter).summarise()).collect()
}

/// The class of an adapter that rounds nothing.
fn unrounded(adapter: &AdapterSummary, lanes: Option<Lanes>) -> DeviceClass {
    lanes.filter(|_| adapter.class == "cpu").map_or(DeviceClass::Gpu, DeviceClass::Cpu)
}

/// What tells a pipeline from others.
pub(super) fn key(kernel: &Kernel, in_place: &[usize]) -> String {
    match in_place {
        [] => kernel.specialisation(),
        _ => format!("{} {in_place:?} in place", kernel.specialisation()),
    }
}

/// A pipeline with the layout of its bindings: inputs in order, then the output.
#[derive(Clone, Debug)]
pub(super) struct Pipeline {
    pub pipeline: wgpu::ComputePipeline,
    pub bindings: wgpu::BindGroupLayout,
}

/// What a device was asked to make, and how often it was handed work, since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    pub buffers: u64,
    pub bind_groups: u64,
    pub pipelines: u64,
    pub submits: u64,
}

impl std::ops::Sub for Tally {
    type Output = Tally;

    fn sub(self, earlier: Tally) -> Tally {
        Tally {
            buffers: self.buffers - earlier.buffers,
            bind_groups: self.bind_groups - earlier.bind_groups,
            pipelines: self.pipelines - earlier.pipelines,
            submits: self.submits - earlier.submits,
        }
    }
}

/// Layouts by the least size of each binding. Kernels share them: between pipelines of different layouts wgpu sets all
/// immediates to zero, a command more for the driver.
type Layouts = HashMap<Vec<u64>, (wgpu::BindGroupLayout, wgpu::PipelineLayout)>;

/// An opened device. Clones share it and its pipelines.
#[derive(Clone, Debug)]
pub struct Device {
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    adapter: Arc<AdapterSummary>,
    remark: Option<String>,
    lanes: Option<Lanes>,
    class: DeviceClass,
    pipelines: Arc<Mutex<HashMap<String, Pipeline>>>,
    /// What the driver made of them, for later runs.
    pub(super) kept: Arc<OnceLock<wgpu::PipelineCache>>,
    layouts: Arc<Mutex<Layouts>>,
    tally: Arc<Mutex<Tally>>,
    /// Texts that stand in for the built-in ones, by kernel name.
    replaced: Arc<Mutex<Replaced>>,
    has_runtime_checks: bool,
    /// The number of the newest readback.
    pub(super) readbacks: Arc<Mutex<Number>>,
    /// Submits that tests have go lost, by their position among all.
    unexecuted: Arc<Mutex<Vec<u64>>>,
    pub(super) lost: Lost,
}

impl Device {
    /// Opens the chosen adapter.
    ///
    /// # Errors
    /// When there is none, none fits the choice, or it lacks what the kernels need.
    pub fn open(choice: &Choice) -> Result<Device, GpuError> {
        Device::open_for(choice, &[])
    }

    /// Opens the chosen adapter also with what kernels that are not ours need, as far as it has that.
    ///
    /// # Errors
    /// As [`open`](Device::open).
    pub fn open_for(choice: &Choice, needs: &[Need]) -> Result<Device, GpuError> {
        let adapters = enumerate();
        let mut facts: Vec<Facts> = adapters.iter().map(Facts::of).collect();
        let mut summaries: Vec<AdapterSummary> = facts.iter().map(Facts::summarise).collect();
        let (chosen, remark) = choice.among(&summaries)?;
        let (adapter, summary, facts) = (&adapters[chosen], summaries.swap_remove(chosen), facts.swap_remove(chosen));
        let failed = |reason: String| GpuError::Unusable { adapter: summary.name.clone(), reason };
        if let Some(reason) = &summary.unusable {
            return Err(failed(reason.clone()));
        }
        let mut descriptor = facts.descriptor();
        descriptor.required_features |= facts.features & Need::features(needs);
        let (device, queue) =
            pollster::block_on(adapter.request_device(&descriptor)).map_err(|error| failed(error.to_string()))?;
        let lost = Lost::default();
        let sink = lost.clone();
        device.set_device_lost_callback(move |reason, message| {
            sink.lock().unwrap().get_or_insert(format!("{reason:?} {message}"));
        });
        Device::new(device, queue, &facts, lost, remark)
    }

    /// The adapter's `facts` are those of the device as it was opened.
    pub(super) fn new(
        device: wgpu::Device,
        queue: wgpu::Queue,
        facts: &Facts,
        lost: Lost,
        remark: Option<String>,
    ) -> Result<Device, GpuError> {
        let watch = Watch::new(&device, &lost);
        let number = Number::new(&device);
        let number = watch.end(|| "the opening of the device".to_owned(), Ok(number))?;
        let (summary, lanes) = (facts.summarise(), facts.lanes());
        Ok(Device {
            device,
            queue,
            class: unrounded(&summary, lanes),
            adapter: summary.into(),
            remark,
            lanes,
            pipelines: Default::default(),
            kept: Default::default(),
            layouts: Default::default(),
            tally: Default::default(),
            replaced: Default::default(),
            has_runtime_checks: false,
            readbacks: Mutex::new(number).into(),
            unexecuted: Default::default(),
            lost,
        })
    }

    pub fn adapter(&self) -> &AdapterSummary {
        &self.adapter
    }

    /// What whoever chose the adapter should know: that others fit the choice too, or that it is a CPU driver because there
    /// is no GPU.
    pub fn remark(&self) -> Option<&str> {
        self.remark.as_deref()
    }

    /// The same device, for plans of this precision. For [`Precision::F16`] each kernel on matrix units is first proven on a
    /// small product of integers, which takes seconds where a driver compiles slowly.
    ///
    /// # Errors
    /// When the device has no matrix units for the precision, or they multiply wrongly.
    pub fn with_precision(&self, precision: Precision) -> Result<Device, GpuError> {
        let class = match precision {
            Precision::F32 => unrounded(&self.adapter, self.lanes),
            Precision::F16 => DeviceClass::Matrix(self.proven_tile()?),
        };
        Ok(Device { class, ..self.clone() })
    }

    /// The largest matrices that are offered, if all kernels compute rightly with them.
    fn proven_tile(&self) -> Result<Tile, GpuError> {
        let refused = |but: String| GpuError::Unusable {
            adapter: self.adapter.name.clone(),
            reason: format!("precision f16 needs matrix units, but {but}; f32 runs everywhere"),
        };
        let Some(&tile) = self.tiles().last() else {
            return Err(refused(self.adapter.without_tiles.clone().unwrap_or_default()));
        };
        match self.first_wrong(DeviceClass::Matrix(tile))? {
            None => Ok(tile),
            Some(kernel) => {
                let [least, most] = self.adapter.subgroups;
                let suspicion = match most > MATRIX_BLOCK {
                    true => format!(
                        " (its subgroups may have {least} to {most} invocations, the kernels need at most {MATRIX_BLOCK})"
                    ),
                    false => String::new(),
                };
                Err(refused(format!("its driver computes {kernel} wrongly on matrices of {tile}{suspicion}")))
            }
        }
    }

    /// What convolutions and matrix products round their factors to.
    pub fn precision(&self) -> Precision {
        match self.class {
            DeviceClass::Gpu | DeviceClass::Cpu(_) => Precision::F32,
            DeviceClass::Matrix(_) => Precision::F16,
        }
    }

    /// Whether a CPU driver stands in for a GPU.
    pub fn is_cpu(&self) -> bool {
        self.adapter.class == "cpu"
    }

    /// Which variant of a kernel suits this device at its precision.
    pub fn class(&self) -> DeviceClass {
        self.class
    }

    /// The matrices that its matrix units multiply, the larger ones last.
    pub fn tiles(&self) -> &[Tile] {
        &self.adapter.tiles
    }

    /// The lanes of its SIMD vectors, or of a part of its subgroups, if it has any.
    pub fn lanes(&self) -> Option<Lanes> {
        self.lanes
    }

    /// The classes whose kernels the device runs, whether they suit it or not.
    pub fn classes(&self) -> Vec<DeviceClass> {
        let cpu = self.lanes.map(DeviceClass::Cpu);
        let matrix = self.tiles().iter().copied().map(DeviceClass::Matrix);
        [DeviceClass::Gpu].into_iter().chain(cpu).chain(matrix).collect()
    }

    /// Whether the device has what the kernel asks for. Kernels for fewer lanes than it has are other devices'.
    pub fn runs(&self, kernel: &Kernel) -> bool {
        let has_halves = kernel.halves.is_empty() || self.has_f16();
        has_halves && kernel.needs().is_none_or(|class| self.classes().contains(&class))
    }

    /// Bytes that a value may have at most. With the number that follows it, it is read back in one buffer.
    pub fn largest_value(&self) -> u64 {
        self.adapter.max_binding_bytes.min(self.adapter.max_buffer_bytes - Number::BYTES)
    }

    /// The same device, as if a value had `bytes` at most: for tests of what does not fit.
    pub fn limited(&self, bytes: u64) -> Device {
        let adapter = AdapterSummary { max_binding_bytes: bytes, ..(*self.adapter).clone() };
        Device { adapter: adapter.into(), ..self.clone() }
    }

    /// The best clock there is for the work of the device.
    pub fn clock(&self) -> Clock {
        if self.device.features().contains(wgpu::Features::TIMESTAMP_QUERY) { Clock::Gpu } else { Clock::Wall }
    }

    /// Whether shaders may compute in f16.
    pub fn has_f16(&self) -> bool {
        self.device.features().contains(wgpu::Features::SHADER_F16)
    }

    /// Simulates the loss of the device, for tests.
    pub fn destroy(&self) {
        self.device.destroy();
    }

    /// Simulates, for tests, a driver that tells of a submit as done without having executed it: that after the next `after`.
    pub fn lose_submit(&self, after: u64) {
        let next = self.tally().submits;
        self.unexecuted.lock().unwrap().push(next + after);
    }

    /// Has wgpu look what is done, or wait for it.
    ///
    /// # Errors
    /// Why that cannot be known: most often, the device was lost.
    pub(super) fn poll(&self, how: wgpu::PollType) -> Result<(), String> {
        // Where the driver says that the device is lost, wgpu 30 panics here. Where it knows already, a wait fails before the
        // loss is reported.
        let poll = || self.device.poll(how).inspect_err(|_| _ = self.device.poll(wgpu::PollType::Poll));
        let polled = std::panic::catch_unwind(AssertUnwindSafe(poll));
        if let Some(reason) = &*self.lost.lock().unwrap() {
            return Err(reason.clone());
        }
        match polled {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("its driver told that it is".to_owned()),
        }
    }

    /// Waits until the submit, or else all submitted work, is done.
    pub(super) fn wait(&self, submit: Option<wgpu::SubmissionIndex>, at: impl Fn() -> String) -> Result<(), GpuError> {
        let polled = self.poll(wgpu::PollType::Wait { submission_index: submit, timeout: None });
        polled.map_err(|reason| GpuError::Lost { at: at(), reason })
    }

    /// What was made so far, by all clones of this device.
    pub fn tally(&self) -> Tally {
        *self.tally.lock().unwrap()
    }

    /// A buffer of `bytes`; storage, and copied from and to.
    pub(super) fn buffer(&self, label: &str, bytes: u64) -> Result<wgpu::Buffer, GpuError> {
        use wgpu::BufferUsages as Uses;
        self.buffer_for(label, bytes, Uses::STORAGE | Uses::COPY_SRC | Uses::COPY_DST)
    }

    /// A buffer of `bytes` that is used as said.
    pub(super) fn buffer_for(
        &self,
        label: &str,
        bytes: u64,
        usage: wgpu::BufferUsages,
    ) -> Result<wgpu::Buffer, GpuError> {
        self.tally.lock().unwrap().buffers += 1;
        let descriptor = wgpu::BufferDescriptor { label: Some(label), size: bytes, usage, mapped_at_creation: false };
        let watch = self.watch();
        let buffer = self.device.create_buffer(&descriptor);
        watch.end(|| format!("the allocation of {bytes} bytes for {label}"), Ok(buffer))
    }

    /// Binds parts of buffers to a pipeline: its inputs in order, then its output, each with its binding.
    pub(super) fn bind<'a>(
        &self,
        label: &str,
        pipeline: &Pipeline,
        operands: impl Iterator<Item = (usize, wgpu::BufferBinding<'a>)>,
    ) -> wgpu::BindGroup {
        self.tally.lock().unwrap().bind_groups += 1;
        let entries: Vec<wgpu::BindGroupEntry> = operands
            .map(|(binding, operand)| wgpu::BindGroupEntry {
                binding: binding as u32,
                resource: wgpu::BindingResource::Buffer(operand),
            })
            .collect();
        self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(label),
            layout: &pipeline.bindings,
            entries: &entries,
        })
    }

    /// Hands recorded work to the device.
    pub(super) fn submit(&self, encoder: wgpu::CommandEncoder) -> wgpu::SubmissionIndex {
        let mut tally = self.tally.lock().unwrap();
        let is_lost = self.unexecuted.lock().unwrap().contains(&tally.submits);
        tally.submits += 1;
        drop(tally);
        // What was uploaded before goes along in either case.
        self.queue.submit(Some(encoder.finish()).filter(|_| !is_lost))
    }

    /// The kernel's pipeline for `inputs` inputs and an output, compiled at the first call. Inputs that lie `in_place` have no
    /// binding of their own: they are read where the output is.
    ///
    /// On Metal it is compiled with fast math, whose compiler may take it that no value is NaN or infinite: wgpu-hal 30 leaves
    /// `MTLCompileOptions.mathMode` (before macOS 15 `fastMathEnabled`) as Metal has it, and wgpu 30 has neither a field for it
    /// in its descriptors of pipelines and shader modules nor another way to it for WGSL. Until it has, a kernel tells a NaN by
    /// its bits, never by a comparison with itself.
    pub(super) fn pipeline(&self, kernel: &Kernel, inputs: usize, in_place: &[usize]) -> Result<Pipeline, GpuError> {
        let key = key(kernel, in_place);
        if let Some(pipeline) = self.pipelines.lock().unwrap().get(&key) {
            return Ok(pipeline.clone());
        }
        let source = self.replaced.lock().unwrap().specialise(kernel)?;
        let source = shaders::in_place(&source, in_place, inputs);
        self.tally.lock().unwrap().pipelines += 1;
        let watch = self.watch();
        let (bindings, layout) = self.layout((0..=inputs).map(|binding| element_bytes(&source, binding)).collect());
        let descriptor =
            wgpu::ShaderModuleDescriptor { label: Some(kernel.name), source: wgpu::ShaderSource::Wgsl(source.into()) };
        let module = match self.has_runtime_checks {
            true => self.device.create_shader_module(descriptor),
            // SAFETY: every index in the kernels is guarded by the extents that they are given, and loops are finite; tests
            // run each kernel with guard words round its buffers.
            false => unsafe {
                self.device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked())
            },
        };
        let pipeline = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(kernel.name),
            layout: Some(&layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                zero_initialize_workgroup_memory: self.has_runtime_checks,
                ..Default::default()
            },
            cache: self.kept.get(),
        });
        let pipeline = watch.end(|| format!("the compilation of {key}"), Ok(Pipeline { pipeline, bindings }))?;
        self.pipelines.lock().unwrap().insert(key, pipeline.clone());
        Ok(pipeline)
    }

    /// The layout of bindings of at least these bytes each, the last of which is written, and that of their pipelines. There
    /// are none of 0 bytes.
    fn layout(&self, least: Vec<u64>) -> (wgpu::BindGroupLayout, wgpu::PipelineLayout) {
        let make = |least: &Vec<u64>| {
            let entry = |(binding, &bytes): (usize, &u64)| wgpu::BindGroupLayoutEntry {
                binding: binding as u32,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer {
                    ty: wgpu::BufferBindingType::Storage { read_only: binding + 1 < least.len() },
                    has_dynamic_offset: false,
                    // Told here, wgpu looks at a binding's size when it is bound; else at every dispatch.
                    min_binding_size: wgpu::BufferSize::new(bytes),
                },
                count: None,
            };
            let entries: Vec<wgpu::BindGroupLayoutEntry> =
                least.iter().enumerate().filter(|(_, bytes)| **bytes > 0).map(entry).collect();
            let descriptor = wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries };
            let bindings = self.device.create_bind_group_layout(&descriptor);
            let layout = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: None,
                bind_group_layouts: &[Some(&bindings)],
                immediate_size: IMMEDIATE_BYTES as u32,
            });
            (bindings, layout)
        };
        let mut layouts = self.layouts.lock().unwrap();
        layouts.entry(least).or_insert_with_key(make).clone()
    }

    /// Has pipelines compiled from now on take `text` for the shader `name`: to try a kernel without building anew.
    pub fn replace_shader(&self, name: &str, text: String) {
        self.replaced.lock().unwrap().kernels.insert(name.to_owned(), text);
    }

    /// The same device with other texts in place of the built-in shaders, and with pipelines of its own.
    #[must_use]
    pub fn with_shaders(&self, replaced: Replaced) -> Device {
        Device { replaced: Arc::new(Mutex::new(replaced)), pipelines: Arc::default(), ..self.clone() }
    }

    /// The same device with pipelines of its own, whose indices are kept within bounds and whose workgroup memory begins with
    /// zeros: a kernel that is not known to be sound does less harm.
    #[must_use]
    pub fn with_runtime_checks(&self) -> Device {
        Device { has_runtime_checks: true, pipelines: Arc::default(), ..self.clone() }
    }

    /// The texts that take the place of built-in shaders.
    pub fn replaced_shaders(&self) -> Replaced {
        self.replaced.lock().unwrap().clone()
    }

    /// Whether the kernel's text is another than the built-in one.
    pub fn replaces(&self, kernel: &Kernel) -> bool {
        self.replaced.lock().unwrap().kernels.contains_key(kernel.name)
    }
}
