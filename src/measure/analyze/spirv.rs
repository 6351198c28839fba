//! From WGSL to the SPIR-V that wgpu-hal 30 hands to a Vulkan 1.3 driver for a trusted module: without bounds checks,
//! loop bounds, checks of divisors, or workgroup memory set to zero, as `engine::gpu` asks for its pipelines.

use naga::back::spv;
use naga::front::wgsl;
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::{Capabilities, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator};
use naga::{AddressSpace, Module, ShaderStage};
use serde::{Deserialize, Serialize};

/// A compute shader with the entry point `main`, and what a pipeline needs to know of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Binary {
    pub words: Vec<u32>,
    /// Storage buffers, bound from 0 on in group 0.
    pub buffers: u32,
    /// Invocations of a workgroup.
    pub invocations: u32,
}

impl Binary {
    /// Whether it multiplies on matrix units.
    pub fn needs_matrices(&self) -> bool {
        // OpCapability of two words, CooperativeMatrixKHR
        self.words.windows(2).any(|pair| pair == [2 << 16 | 17, 6022])
    }
}

const CAPABILITIES: Capabilities = Capabilities::IMMEDIATES
    .union(Capabilities::SUBGROUP)
    .union(Capabilities::SHADER_FLOAT16)
    .union(Capabilities::COOPERATIVE_MATRIX);

/// Translates a specialised kernel.
///
/// # Errors
/// With naga's message and the lines that it is about, when the text is not valid WGSL.
pub fn translate(text: &str) -> Result<Binary, String> {
    let module = wgsl::parse_str(text).map_err(|error| error.emit_to_string(text))?;
    let info = Validator::new(ValidationFlags::all(), CAPABILITIES)
        .subgroup_stages(ShaderStages::COMPUTE)
        .subgroup_operations(SubgroupOperationSet::all())
        .validate(&module)
        .map_err(|error| error.emit_to_string(text))?;
    let unchecked = BoundsCheckPolicy::Unchecked;
    let options = spv::Options {
        lang_version: (1, 6),
        flags: spv::WriterFlags::LABEL_VARYINGS | spv::WriterFlags::FORCE_POINT_SIZE,
        fake_missing_bindings: false,
        binding_map: bindings(&module).map(|at| (at, identity(at))).collect(),
        bounds_check_policies: BoundsCheckPolicies {
            index: unchecked,
            buffer: unchecked,
            image_load: unchecked,
            binding_array: unchecked,
        },
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        force_loop_bounding: false,
        emit_int_div_checks: false,
        ..Default::default()
    };
    let main = spv::PipelineOptions { shader_stage: ShaderStage::Compute, entry_point: "main".into() };
    let words = spv::write_vec(&module, &info, &options, Some(&main)).map_err(|error| error.to_string())?;
    let entry =
        module.entry_points.iter().find(|entry| entry.name == "main").ok_or("there is no entry point `main`")?;
    Ok(Binary { words, buffers: bindings(&module).count() as u32, invocations: entry.workgroup_size.iter().product() })
}

/// Where the storage buffers are bound.
fn bindings(module: &Module) -> impl Iterator<Item = naga::ResourceBinding> {
    let buffers = module.global_variables.iter().filter(|(_, it)| matches!(it.space, AddressSpace::Storage { .. }));
    buffers.filter_map(|(_, variable)| variable.binding)
}

/// Its place in the shader is its place in the pipeline.
fn identity(at: naga::ResourceBinding) -> spv::BindingInfo {
    spv::BindingInfo { descriptor_set: at.group, binding: at.binding, binding_array_size: None }
}
