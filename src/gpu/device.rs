//! Adapters, the opened device, and its cache of pipelines.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use serde::Serialize;

use super::{Clock, GpuError};
use crate::kernel::{CLASS_WORKGROUP_BYTES, DeviceClass, Kernel, Lanes, Precision, Tile, WORKGROUP_BYTES};
use crate::shaders::{element_bytes, source, specialise_text};

/// What an adapter is, for people and for records.
#[derive(Clone, Debug, Serialize, PartialEq)]
pub struct AdapterSummary {
    pub name: String,
    /// Driver name and version.
    pub driver: String,
    pub backend: String,
    /// `discrete`, `integrated`, `virtual`, `cpu` or `other`.
    pub class: String,
    /// Largest storage buffer binding in bytes.
    pub max_binding_bytes: u64,
    /// Largest buffer in bytes.
    pub max_buffer_bytes: u64,
    pub max_workgroup_invocations: u32,
    pub max_workgroup_bytes: u32,
    /// Square matrices of f16, with f32 sums, that its matrix units multiply: what [`Precision::F16`] needs.
    pub tiles: Vec<Tile>,
    /// Optional features that stssad makes use of here.
    pub used: Vec<String>,
    /// Features that stssad would make use of, but are missing.
    pub missing: Vec<String>,
    /// Why the device cannot be used, if so.
    pub unusable: Option<String>,
}

/// Which adapter to open.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Choice {
    /// A discrete GPU before an integrated one before a CPU driver.
    #[default]
    Best,
    /// Position in the list of [`adapters`].
    Index(usize),
    /// Part of the name, in any case.
    Name(String),
}

impl From<&str> for Choice {
    /// A number is an index, all else a part of a name.
    fn from(text: &str) -> Self {
        text.parse().map_or_else(|_| Choice::Name(text.to_owned()), Choice::Index)
    }
}

/// Without these there are no kernels: none could be told its extents, and those for CPU drivers hand values from lane to
/// lane.
fn required(class: wgpu::DeviceType) -> wgpu::Features {
    match class {
        wgpu::DeviceType::Cpu => wgpu::Features::IMMEDIATES.union(wgpu::Features::SUBGROUP),
        _ => wgpu::Features::IMMEDIATES,
    }
}
/// Used where present: on GPUs, subgroups are for `stssad check` alone, which runs the kernels for CPU drivers too.
const OPTIONAL: wgpu::Features = wgpu::Features::TIMESTAMP_QUERY.union(wgpu::Features::SUBGROUP).union(MATRIX);
/// What kernels on matrix units need.
const MATRIX: wgpu::Features = wgpu::Features::SHADER_F16.union(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX);
/// Invocations to which a kernel gives matrices of their own; a subgroup may not reach beyond them.
const MATRIX_BLOCK: u32 = 32;
/// Bytes of immediates that the kernels need at most.
pub(super) const IMMEDIATE_BYTES: usize = 96;
/// Storage buffers that a kernel binds at most.
const STORAGE_BUFFERS: u32 = 8;

fn instance() -> wgpu::Instance {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    // OpenGL is left out: it would be chosen silently where no Vulkan is, and lacks what the kernels need.
    descriptor.backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
    wgpu::Instance::new(descriptor)
}

fn enumerate() -> Vec<wgpu::Adapter> {
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
    enumerate().iter().map(summarise).collect()
}

fn summarise(adapter: &wgpu::Adapter) -> AdapterSummary {
    let (info, limits, features) = (adapter.get_info(), adapter.limits(), adapter.features());
    let (unusable, wanted) = (unusable(adapter), required(info.device_type) | OPTIONAL);
    let names = |features: wgpu::Features| features.iter_names().map(|(name, _)| name.to_lowercase()).collect();
    AdapterSummary {
        driver: [info.driver, info.driver_info].join(" ").trim().to_owned(),
        backend: format!("{:?}", info.backend).to_lowercase(),
        class: match info.device_type {
            wgpu::DeviceType::DiscreteGpu => "discrete",
            wgpu::DeviceType::IntegratedGpu => "integrated",
            wgpu::DeviceType::VirtualGpu => "virtual",
            wgpu::DeviceType::Cpu => "cpu",
            wgpu::DeviceType::Other => "other",
        }
        .to_owned(),
        name: info.name,
        max_binding_bytes: limits.max_storage_buffer_binding_size,
        max_buffer_bytes: limits.max_buffer_size,
        max_workgroup_invocations: limits.max_compute_invocations_per_workgroup,
        max_workgroup_bytes: limits.max_compute_workgroup_storage_size,
        tiles: tiles(adapter),
        used: names(features & wanted),
        missing: names(wanted - features),
        unusable,
    }
}

fn tiles(adapter: &wgpu::Adapter) -> Vec<Tile> {
    use wgpu::CooperativeScalarType::{F16, F32};
    let is_able = adapter.features().contains(MATRIX) && has_workgroup_memory(adapter);
    if !is_able || adapter.get_info().subgroup_max_size > MATRIX_BLOCK {
        return Vec::new();
    }
    let offered = adapter.cooperative_matrix_properties();
    let is_offered = |tile: &Tile| {
        let side = tile.side() as u32;
        offered.iter().any(|offer| {
            let extents = [offer.m_size, offer.n_size, offer.k_size];
            extents == [side; 3] && offer.ab_type == F16 && offer.cr_type == F32 && !offer.saturating_accumulation
        })
    };
    [Tile::Eight, Tile::Sixteen].into_iter().filter(is_offered).collect()
}

/// Whether there is as much as kernels for a class of devices may take.
fn has_workgroup_memory(adapter: &wgpu::Adapter) -> bool {
    adapter.limits().max_compute_workgroup_storage_size >= CLASS_WORKGROUP_BYTES
}

fn lanes(adapter: &wgpu::Adapter) -> Option<Lanes> {
    let is_able = adapter.features().contains(wgpu::Features::SUBGROUP) && has_workgroup_memory(adapter);
    is_able.then(|| Lanes::within(adapter.get_info().subgroup_min_size)).flatten()
}

/// The class of an adapter that rounds nothing.
fn unrounded(adapter: &AdapterSummary, lanes: Option<Lanes>) -> DeviceClass {
    lanes.filter(|_| adapter.class == "cpu").map_or(DeviceClass::Gpu, DeviceClass::Cpu)
}

fn unusable(adapter: &wgpu::Adapter) -> Option<String> {
    let (info, limits, features) = (adapter.get_info(), adapter.limits(), adapter.features());
    let missing = required(info.device_type) - features;
    let needs = [
        (missing.contains(wgpu::Features::IMMEDIATES), "it has no immediates (push constants)".to_owned()),
        (
            missing.contains(wgpu::Features::SUBGROUP),
            "it has no subgroup operations, which the kernels for CPU drivers need".to_owned(),
        ),
        (
            info.device_type == wgpu::DeviceType::Cpu && lanes(adapter).is_none(),
            format!(
                "its subgroups may have fewer than {} lanes, or it has less than {} KiB of workgroup memory",
                Lanes::Four.count(),
                CLASS_WORKGROUP_BYTES >> 10
            ),
        ),
        (
            limits.max_immediate_size < IMMEDIATE_BYTES as u32,
            format!("it has less than {IMMEDIATE_BYTES} bytes of immediates"),
        ),
        (
            limits.max_storage_buffers_per_shader_stage < STORAGE_BUFFERS,
            format!("it binds fewer than {STORAGE_BUFFERS} storage buffers"),
        ),
        (
            limits.max_compute_invocations_per_workgroup < 256,
            "its workgroups hold fewer than 256 invocations".to_owned(),
        ),
        (
            limits.max_compute_workgroup_storage_size < WORKGROUP_BYTES,
            format!("it has less than {} KiB of workgroup memory", WORKGROUP_BYTES >> 10),
        ),
    ];
    needs.into_iter().find_map(|(lacking, reason)| lacking.then_some(reason))
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

/// What the device reported on its own, outside a call.
#[derive(Debug, Default)]
struct Reports {
    lost: Option<String>,
    error: Option<GpuError>,
}

/// An opened device. Clones share it and its pipelines.
#[derive(Clone, Debug)]
pub struct Device {
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    adapter: Arc<AdapterSummary>,
    lanes: Option<Lanes>,
    class: DeviceClass,
    pipelines: Arc<Mutex<HashMap<String, Pipeline>>>,
    layouts: Arc<Mutex<Layouts>>,
    tally: Arc<Mutex<Tally>>,
    /// Texts that stand in for the built-in ones, by kernel name.
    replaced: Arc<Mutex<HashMap<String, String>>>,
    reports: Arc<Mutex<Reports>>,
}

impl Device {
    /// Opens the chosen adapter.
    ///
    /// # Errors
    /// When there is none, or it lacks what the kernels need.
    pub fn open(choice: &Choice) -> Result<Device, GpuError> {
        let adapters = enumerate();
        let is_chosen = |(index, adapter): &(usize, &wgpu::Adapter)| match choice {
            Choice::Best => unusable(adapter).is_none(),
            Choice::Index(chosen) => index == chosen,
            Choice::Name(part) => adapter.get_info().name.to_lowercase().contains(&part.to_lowercase()),
        };
        let (_, adapter) = adapters.iter().enumerate().find(is_chosen).ok_or_else(|| {
            GpuError::NoAdapter(match (choice, adapters.len()) {
                (_, 0) => String::new(),
                (Choice::Best, count) => format!(" among the {count} found (see `stssad devices`)"),
                (choice, count) => format!(" fits {choice:?}, {count} others were found (see `stssad devices`)"),
            })
        })?;
        let summary = summarise(adapter);
        let failed = |reason: String| GpuError::Unusable { adapter: summary.name.clone(), reason };
        if let Some(reason) = &summary.unusable {
            return Err(failed(reason.clone()));
        }
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("stssad"),
            required_features: adapter.features() & (required(adapter.get_info().device_type) | OPTIONAL),
            required_limits: adapter.limits(),
            // SAFETY: the one experimental feature in use is that of cooperative matrices, whose kernels are run only where
            // they are asked for; tests hold each against its definition and keep guard words round its buffers.
            experimental_features: unsafe { wgpu::ExperimentalFeatures::enabled() },
            ..Default::default()
        };
        let (device, queue) =
            pollster::block_on(adapter.request_device(&descriptor)).map_err(|error| failed(error.to_string()))?;

        let reports = Arc::new(Mutex::new(Reports::default()));
        let sink = reports.clone();
        device.set_device_lost_callback(move |reason, message| {
            sink.lock().unwrap().lost.get_or_insert(format!("{reason:?} {message}"));
        });
        let sink = reports.clone();
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            let at = String::new();
            let error = match &error {
                wgpu::Error::OutOfMemory { .. } => GpuError::OutOfMemory { at, reason: error.to_string() },
                _ => GpuError::Refused { at, reason: error.to_string() },
            };
            sink.lock().unwrap().error.get_or_insert(error);
        }));
        let lanes = lanes(adapter);
        Ok(Device {
            device,
            queue,
            class: unrounded(&summary, lanes),
            adapter: summary.into(),
            lanes,
            pipelines: Default::default(),
            layouts: Default::default(),
            tally: Default::default(),
            replaced: Default::default(),
            reports,
        })
    }

    pub fn adapter(&self) -> &AdapterSummary {
        &self.adapter
    }

    /// The same device, for plans of this precision.
    ///
    /// # Errors
    /// When it has no matrix units for the precision, or they multiply wrongly.
    pub fn with_precision(&self, precision: Precision) -> Result<Device, GpuError> {
        let class = match (precision, self.tiles().last()) {
            (Precision::F32, _) => unrounded(&self.adapter, self.lanes),
            (Precision::F16, Some(&tile)) if self.multiplies(tile)? => DeviceClass::Matrix(tile),
            (Precision::F16, tile) => {
                let features = self.device.features();
                let but = match tile {
                    Some(tile) => format!("its driver multiplies wrongly on those of {tile}"),
                    None if !features.contains(wgpu::Features::SHADER_F16) => "it has no f16 arithmetic".into(),
                    None if !features.contains(MATRIX) => "it has no cooperative matrices".into(),
                    None => "it has no square cooperative matrices of f16 with f32 sums in subgroups up to 32".into(),
                };
                let reason = format!("precision f16 needs matrix units, but {but}; f32 runs everywhere");
                return Err(GpuError::Unusable { adapter: self.adapter.name.clone(), reason });
            }
        };
        Ok(Device { class, ..self.clone() })
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

    /// Bytes that a value may have at most.
    pub fn largest_value(&self) -> u64 {
        self.adapter.max_binding_bytes.min(self.adapter.max_buffer_bytes)
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

    /// What went wrong since the last call, if anything did; `at` says what was being done.
    pub(super) fn check(&self, at: impl Fn() -> String) -> Result<(), GpuError> {
        let mut reports = self.reports.lock().unwrap();
        if let Some(reason) = &reports.lost {
            return Err(GpuError::Lost { at: at(), reason: reason.clone() });
        }
        match reports.error.take() {
            Some(GpuError::OutOfMemory { reason, .. }) => Err(GpuError::OutOfMemory { at: at(), reason }),
            Some(GpuError::Refused { reason, .. }) => Err(GpuError::Refused { at: at(), reason }),
            Some(other) => Err(other),
            None => Ok(()),
        }
    }

    /// Waits until all submitted work is done.
    pub(super) fn wait(&self, at: impl Fn() -> String) -> Result<(), GpuError> {
        let polled = self.device.poll(wgpu::PollType::wait_indefinitely());
        self.check(&at)?;
        polled.map(drop).map_err(|error| GpuError::Lost { at: at(), reason: error.to_string() })
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
        let buffer = self.device.create_buffer(&descriptor);
        self.check(|| format!("the allocation of {bytes} bytes for {label}"))?;
        Ok(buffer)
    }

    /// Binds parts of buffers to a pipeline: its inputs in order, then its output.
    pub(super) fn bind<'a>(
        &self,
        label: &str,
        pipeline: &Pipeline,
        operands: impl Iterator<Item = wgpu::BufferBinding<'a>>,
    ) -> wgpu::BindGroup {
        self.tally.lock().unwrap().bind_groups += 1;
        let entries: Vec<wgpu::BindGroupEntry> = operands
            .zip(0..)
            .map(|(operand, binding)| wgpu::BindGroupEntry {
                binding,
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
    pub(super) fn submit(&self, encoder: wgpu::CommandEncoder) {
        self.tally.lock().unwrap().submits += 1;
        self.queue.submit([encoder.finish()]);
    }

    /// The kernel's pipeline for `inputs` inputs and an output, compiled at the first call.
    pub(super) fn pipeline(&self, kernel: &Kernel, inputs: usize) -> Result<Pipeline, GpuError> {
        let key = kernel.specialisation();
        if let Some(pipeline) = self.pipelines.lock().unwrap().get(&key) {
            return Ok(pipeline.clone());
        }
        let source = match self.replaced.lock().unwrap().get(kernel.name) {
            Some(text) => specialise_text(text, kernel)?,
            None => specialise_text(source(kernel)?, kernel)?,
        };
        self.tally.lock().unwrap().pipelines += 1;
        let (bindings, layout) = self.layout((0..=inputs).map(|binding| element_bytes(&source, binding)).collect());
        let descriptor =
            wgpu::ShaderModuleDescriptor { label: Some(kernel.name), source: wgpu::ShaderSource::Wgsl(source.into()) };
        // SAFETY: every index in the kernels is guarded by the extents that they are given, and loops are finite; tests
        // run each kernel with guard words round its buffers.
        let module =
            unsafe { self.device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked()) };
        let pipeline = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(kernel.name),
            layout: Some(&layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                zero_initialize_workgroup_memory: false,
                ..Default::default()
            },
            cache: None,
        });
        self.check(|| format!("the compilation of {key}"))?;
        let pipeline = Pipeline { pipeline, bindings };
        self.pipelines.lock().unwrap().insert(key, pipeline.clone());
        Ok(pipeline)
    }

    /// The layout of bindings of at least these bytes each, the last of which is written, and that of their pipelines.
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
            let entries: Vec<wgpu::BindGroupLayoutEntry> = least.iter().enumerate().map(entry).collect();
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
        self.replaced.lock().unwrap().insert(name.to_owned(), text);
    }
}
