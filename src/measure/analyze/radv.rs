//! Mesa's RADV with its null hardware, by `ash`: compute pipelines compiled for an AMD GPU that is not there. The only
//! part that calls Vulkan without wgpu, which cannot open such a device, since it submits work while it does.
//!
//! RADV and the Vulkan loader read the environment, so this runs in a process of its own, which
//! [`Compiler`](super::compiler::Compiler) starts. A driver that crashes then takes nothing with it.

use std::collections::BTreeMap;
use std::ffi::CStr;

use ash::{Device, Entry, Instance, ext, khr, vk};
use serde::{Deserialize, Serialize};

use super::spirv::Binary;
use crate::engine::gpu::IMMEDIATE_BYTES;

/// The device that is not there, and the driver that compiles for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// As the driver names it.
    pub device: String,
    /// Name and version: `Mesa 25.0.7`.
    pub driver: String,
}

/// What the driver says of a pipeline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Executable {
    /// By their names in the driver.
    pub statistics: BTreeMap<String, u64>,
    /// As the driver disassembles it.
    pub assembly: String,
}

/// An opened device. It lasts as long as its process, so nothing is given back.
pub struct Radv {
    device: Device,
    properties: khr::pipeline_executable_properties::Device,
    has_matrices: bool,
    pub target: Target,
    // The functions of the others lie in its library.
    _entry: Entry,
}

impl Radv {
    /// Opens the null hardware that the environment asks for.
    ///
    /// # Errors
    /// What failed, with Vulkan's reason.
    pub fn open() -> Result<Radv, String> {
        // SAFETY: the Vulkan loader is the system's own; loading it runs nothing but its initialisers.
        let entry = unsafe { Entry::load() }.map_err(|error| format!("the Vulkan loader cannot be opened: {error}"))?;
        let application = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_3);
        let create = vk::InstanceCreateInfo::default().application_info(&application);
        // SAFETY: `create` and what it points to live through the call.
        let instance =
            unsafe { entry.create_instance(&create, None) }.map_err(|error| format!("no Vulkan instance: {error}"))?;
        // SAFETY: the instance is open.
        let found = unsafe { instance.enumerate_physical_devices() }.map_err(|error| format!("no devices: {error}"))?;
        let physical = *found.first().ok_or("the driver has no such device")?;

        let mut driver = vk::PhysicalDeviceDriverProperties::default();
        let mut properties = vk::PhysicalDeviceProperties2::default().push_next(&mut driver);
        // SAFETY: the physical device is of this instance; the structures live through the call.
        unsafe { instance.get_physical_device_properties2(physical, &mut properties) };
        let device = text(properties.properties.device_name_as_c_str());
        if driver.driver_id != vk::DriverId::MESA_RADV {
            return Err(format!("the driver found is not RADV, but {}", text(driver.driver_name_as_c_str())));
        }
        let target = Target { device, driver: text(driver.driver_info_as_c_str()) };
        let (device, has_matrices) = create_device(&instance, physical)?;
        let properties = khr::pipeline_executable_properties::Device::new(&instance, &device);
        Ok(Radv { device, properties, has_matrices, target, _entry: entry })
    }

    /// Compiles one compute pipeline.
    ///
    /// # Errors
    /// When the driver refuses it or says nothing of it.
    pub fn compile(&self, binary: &Binary) -> Result<Executable, String> {
        if binary.needs_matrices() && !self.has_matrices {
            return Err("this GPU has no matrix units".into());
        }
        let pipeline = self.pipeline(binary).map_err(|error| format!("the driver does not compile it: {error}"))?;
        let info = vk::PipelineExecutableInfoKHR::default().pipeline(pipeline);
        // SAFETY: the pipeline was compiled with CAPTURE_STATISTICS.
        let statistics = unsafe { self.properties.get_pipeline_executable_statistics(&info) };
        let statistics = statistics.map_err(|error| format!("the driver has no statistics: {error}"))?;
        let statistics = statistics.iter().filter_map(|it| Some((text(it.name_as_c_str()), number(it)?))).collect();
        let assembly = self.assembly(&info).map_err(|error| format!("the driver has no assembly: {error}"))?;
        // SAFETY: the pipeline is this device's, and nothing refers to it any more.
        unsafe { self.device.destroy_pipeline(pipeline, None) };
        Ok(Executable { statistics, assembly: assembly.ok_or("the driver has no assembly")? })
    }

    fn pipeline(&self, binary: &Binary) -> Result<vk::Pipeline, vk::Result> {
        let storage = |binding| {
            vk::DescriptorSetLayoutBinding::default()
                .binding(binding)
                .descriptor_count(1)
                .descriptor_type(vk::DescriptorType::STORAGE_BUFFER)
                .stage_flags(vk::ShaderStageFlags::COMPUTE)
        };
        let bindings: Vec<_> = (0..binary.buffers).map(storage).collect();
        let set = vk::DescriptorSetLayoutCreateInfo::default().bindings(&bindings);
        let size = IMMEDIATE_BYTES as u32;
        let immediates = [vk::PushConstantRange { stage_flags: vk::ShaderStageFlags::ALL, offset: 0, size }];
        let module = vk::ShaderModuleCreateInfo::default().code(&binary.words);
        // SAFETY: the words are SPIR-V that naga wrote from a validated module, and its bindings are those of the
        // layout; every structure lives through the call that reads it. The few bytes of module and layouts stay until
        // the process ends.
        unsafe {
            let sets = [self.device.create_descriptor_set_layout(&set, None)?];
            let layout = vk::PipelineLayoutCreateInfo::default().set_layouts(&sets).push_constant_ranges(&immediates);
            let layout = self.device.create_pipeline_layout(&layout, None)?;
            let stage = vk::PipelineShaderStageCreateInfo::default()
                .flags(vk::PipelineShaderStageCreateFlags::ALLOW_VARYING_SUBGROUP_SIZE)
                .stage(vk::ShaderStageFlags::COMPUTE)
                .module(self.device.create_shader_module(&module, None)?)
                .name(c"main");
            let capture = vk::PipelineCreateFlags::CAPTURE_STATISTICS_KHR
                | vk::PipelineCreateFlags::CAPTURE_INTERNAL_REPRESENTATIONS_KHR;
            let create = [vk::ComputePipelineCreateInfo::default().stage(stage).layout(layout).flags(capture)];
            let compiled = self.device.create_compute_pipelines(vk::PipelineCache::null(), &create, None);
            compiled.map(|pipelines| pipelines[0]).map_err(|(_, error)| error)
        }
    }

    /// The text of the representation that the driver calls assembly, if it has one.
    fn assembly(&self, info: &vk::PipelineExecutableInfoKHR) -> Result<Option<String>, vk::Result> {
        // SAFETY: the pipeline was compiled with CAPTURE_INTERNAL_REPRESENTATIONS.
        let mut found = unsafe { self.properties.get_pipeline_executable_internal_representations(info)? };
        // The first call told the sizes of the texts; a second one fills the memory that is given to it.
        let mut texts: Vec<Vec<u8>> = found.iter().map(|it| vec![0; it.data_size]).collect();
        for (representation, text) in found.iter_mut().zip(&mut texts) {
            representation.p_data = text.as_mut_ptr().cast();
        }
        let mut count = found.len() as u32;
        let fill = self.properties.fp().get_pipeline_executable_internal_representations_khr;
        // SAFETY: `found` has `count` elements, each with `data_size` bytes at `p_data`, which outlive the call.
        unsafe { fill(self.device.handle(), info, &mut count, found.as_mut_ptr()) }.result()?;
        let is_assembly = |it: &vk::PipelineExecutableInternalRepresentationKHR| text(it.name_as_c_str()) == "Assembly";
        let position = found.iter().position(is_assembly);
        Ok(position.map(|at| String::from_utf8_lossy(&texts[at]).trim_end_matches('\0').to_owned()))
    }
}

/// Opens the device with the features that wgpu-hal turns on where the driver has them: they change the code that it
/// emits. Tells whether it has matrix units.
fn create_device(instance: &Instance, physical: vk::PhysicalDevice) -> Result<(Device, bool), String> {
    // SAFETY: the physical device is of this instance.
    let extensions = unsafe { instance.enumerate_device_extension_properties(physical) }
        .map_err(|error| format!("the device does not list its extensions: {error}"))?;
    let has = |name: &CStr| extensions.iter().any(|it| it.extension_name_as_c_str() == Ok(name));
    if !has(khr::pipeline_executable_properties::NAME) {
        return Err("the driver is too old: it does not tell what it made of a pipeline".into());
    }
    let wanted = [khr::pipeline_executable_properties::NAME, ext::robustness2::NAME, khr::cooperative_matrix::NAME];
    let names: Vec<_> = wanted.into_iter().filter(|name| has(name)).map(CStr::as_ptr).collect();

    let mut executables =
        vk::PhysicalDevicePipelineExecutablePropertiesFeaturesKHR::default().pipeline_executable_info(true);
    let mut storage = vk::PhysicalDeviceVulkan11Features::default().storage_buffer16_bit_access(true);
    let mut memory = vk::PhysicalDeviceVulkan12Features::default()
        .shader_float16(true)
        .vulkan_memory_model(true)
        .vulkan_memory_model_device_scope(true);
    let mut robust = vk::PhysicalDeviceRobustness2FeaturesEXT::default().robust_buffer_access2(true);
    let mut matrices = vk::PhysicalDeviceCooperativeMatrixFeaturesKHR::default().cooperative_matrix(true);
    let core = vk::PhysicalDeviceFeatures::default().robust_buffer_access(true);
    let priorities = [1.0];
    let queues = [vk::DeviceQueueCreateInfo::default().queue_family_index(0).queue_priorities(&priorities)];
    let mut create = vk::DeviceCreateInfo::default()
        .queue_create_infos(&queues)
        .enabled_extension_names(&names)
        .enabled_features(&core)
        .push_next(&mut executables)
        .push_next(&mut storage)
        .push_next(&mut memory);
    if has(ext::robustness2::NAME) {
        create = create.push_next(&mut robust);
    }
    let has_matrices = has(khr::cooperative_matrix::NAME);
    if has_matrices {
        create = create.push_next(&mut matrices);
    }
    // SAFETY: the physical device is of this instance; `create` and what it points to live through the call.
    let device = unsafe { instance.create_device(physical, &create, None) };
    device.map(|device| (device, has_matrices)).map_err(|error| format!("the device does not open: {error}"))
}

/// A name that the driver wrote into an array.
fn text<E>(name: Result<&CStr, E>) -> String {
    name.map_or_else(|_| String::new(), |name| name.to_string_lossy().into_owned())
}

/// The value of a statistic, where it is a whole number.
fn number(statistic: &vk::PipelineExecutableStatisticKHR) -> Option<u64> {
    match statistic.format {
        // SAFETY: the format says which member of the union the driver wrote.
        vk::PipelineExecutableStatisticFormatKHR::UINT64 => Some(unsafe { statistic.value.u64 }),
        // SAFETY: as above.
        vk::PipelineExecutableStatisticFormatKHR::INT64 => u64::try_from(unsafe { statistic.value.i64 }).ok(),
        _ => None,
    }
}
