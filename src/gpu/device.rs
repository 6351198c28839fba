//! Adapters, the opened device, and its cache of pipelines.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use serde::Serialize;

use super::{Clock, GpuError};
use crate::kernel::{DeviceClass, Kernel};
use crate::shaders::{source, specialise_text};

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
/// Used where present.
const OPTIONAL: wgpu::Features = wgpu::Features::TIMESTAMP_QUERY.union(wgpu::Features::SHADER_F16);
/// Bytes of immediates that the kernels need at most.
const IMMEDIATE_BYTES: u32 = 64;
/// Lanes of a subgroup that the kernels for CPU drivers need at least.
const SUBGROUP_LANES: u32 = 4;
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
        used: names(features & wanted),
        missing: names(wanted - features),
        unusable,
    }
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
            info.device_type == wgpu::DeviceType::Cpu && info.subgroup_min_size < SUBGROUP_LANES,
            format!("its subgroups may have fewer than {SUBGROUP_LANES} lanes"),
        ),
        (
            limits.max_immediate_size < IMMEDIATE_BYTES,
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
        (limits.max_compute_workgroup_storage_size < 16_384, "it has less than 16 KiB of workgroup memory".to_owned()),
    ];
    needs.into_iter().find_map(|(lacking, reason)| lacking.then_some(reason))
}

/// A pipeline with the layout of its bindings: inputs in order, then the output.
#[derive(Debug)]
pub(super) struct Pipeline {
    pub pipeline: wgpu::ComputePipeline,
    pub bindings: wgpu::BindGroupLayout,
}

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
    class: DeviceClass,
    pipelines: Arc<Mutex<HashMap<String, Arc<Pipeline>>>>,
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
        let class = if summary.class == "cpu" { DeviceClass::Cpu } else { DeviceClass::Gpu };
        Ok(Device {
            device,
            queue,
            adapter: summary.into(),
            class,
            pipelines: Default::default(),
            replaced: Default::default(),
            reports,
        })
    }

    pub fn adapter(&self) -> &AdapterSummary {
        &self.adapter
    }

    /// Which variant of a kernel suits this device.
    pub fn class(&self) -> DeviceClass {
        self.class
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

    /// A buffer of `bytes`; storage, and copied from and to.
    pub(super) fn buffer(&self, label: &str, bytes: u64) -> Result<Arc<wgpu::Buffer>, GpuError> {
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size: bytes,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        self.check(|| format!("the allocation of {bytes} bytes for {label}"))?;
        Ok(Arc::new(buffer))
    }

    /// The kernel's pipeline for `inputs` inputs and an output, compiled at the first call.
    pub(super) fn pipeline(&self, kernel: &Kernel, inputs: usize) -> Result<Arc<Pipeline>, GpuError> {
        let key = format!("{} {:?}", kernel.name, kernel.constants);
        if let Some(pipeline) = self.pipelines.lock().unwrap().get(&key) {
            return Ok(pipeline.clone());
        }
        let source = match self.replaced.lock().unwrap().get(kernel.name) {
            Some(text) => specialise_text(text, kernel)?,
            None => specialise_text(source(kernel)?, kernel)?,
        };
        let entries: Vec<wgpu::BindGroupLayoutEntry> = (0..=inputs)
            .map(|binding| wgpu::BindGroupLayoutEntry {
                binding: binding as u32,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer {
                    ty: wgpu::BufferBindingType::Storage { read_only: binding < inputs },
                    has_dynamic_offset: false,
                    min_binding_size: None,
                },
                count: None,
            })
            .collect();
        let bindings = self
            .device
            .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(kernel.name), entries: &entries });
        let layout = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(kernel.name),
            bind_group_layouts: &[Some(&bindings)],
            immediate_size: 4 * kernel.immediates.len() as u32,
        });
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
        let pipeline = Arc::new(Pipeline { pipeline, bindings });
        self.pipelines.lock().unwrap().insert(key, pipeline.clone());
        Ok(pipeline)
    }

    /// Has pipelines compiled from now on take `text` for the shader `name`: to try a kernel without building anew.
    pub fn replace_shader(&self, name: &str, text: String) {
        self.replaced.lock().unwrap().insert(name.to_owned(), text);
    }
}
