//! Translates every specialisation in use for Vulkan, Metal and Direct3D 12, with wgpu's settings of naga. Kernels on
//! matrix units are translated where they are supported: Vulkan all, Metal the 8 × 8 ones, Direct3D 12 none.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use naga::back::{hlsl, msl, spv};
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::{Capabilities, ModuleInfo, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator};
use naga::{Binding, BuiltIn, Module, ResourceBinding, ShaderStage};
use stssad::engine::kernel::{DeviceClass, Kernel, Tile};
use stssad::engine::ops::lowering;
use stssad::engine::shaders::specialise;
use stssad::engine::tensor::Shape;
use stssad::ssad::augment::Rotation;
use stssad::ssad::config::Config;
use stssad::ssad::nn::Detector;
use stssad::ssad::step::TrainingStep;

use crate::catalogue;

/// wgpu's settings for trusted modules, such as ours, and for all others.
const POLICIES: [BoundsCheckPolicy; 2] = [BoundsCheckPolicy::Unchecked, BoundsCheckPolicy::Restrict];

fn policies(policy: BoundsCheckPolicy) -> BoundsCheckPolicies {
    let binding_array = BoundsCheckPolicy::Unchecked;
    BoundsCheckPolicies { index: policy, buffer: policy, image_load: policy, binding_array }
}

fn bindings(module: &Module) -> impl Iterator<Item = ResourceBinding> {
    module.global_variables.iter().filter_map(|(_, variable)| variable.binding)
}

fn has_matrices(module: &Module) -> bool {
    module.types.iter().any(|(_, ty)| matches!(ty.inner, naga::TypeInner::CooperativeMatrix { .. }))
}

fn has_halves(module: &Module) -> bool {
    module.types.iter().any(|(_, ty)| matches!(ty.inner.scalar(), Some(naga::Scalar::F16)))
}

/// Whether the entry point reads its position in a subgroup, as kernels for CPU drivers do that exchange values between
/// lanes.
fn shuffles(module: &Module) -> bool {
    let of_subgroups = Binding::BuiltIn(BuiltIn::SubgroupInvocationId);
    module
        .entry_points
        .iter()
        .flat_map(|entry| &entry.function.arguments)
        .any(|a| a.binding == Some(of_subgroups.clone()))
}

/// For Vulkan 1.1 with the capabilities of every device, plus the shuffles of CPU drivers, and f16 and matrix units
/// where a kernel needs them.
fn to_spirv(module: &Module, info: &ModuleInfo, policy: BoundsCheckPolicy) -> Result<(), String> {
    let checked = policy != BoundsCheckPolicy::Unchecked;
    let mut capabilities = vec![spv::Capability::Shader, spv::Capability::Matrix];
    if shuffles(module) {
        capabilities.extend([spv::Capability::GroupNonUniform, spv::Capability::GroupNonUniformShuffle]);
    }
    if has_matrices(module) {
        let memory_model = [spv::Capability::VulkanMemoryModel, spv::Capability::VulkanMemoryModelDeviceScope];
        capabilities.extend(memory_model);
        capabilities.push(spv::Capability::CooperativeMatrixKHR);
    }
    if has_halves(module) {
        capabilities.extend([spv::Capability::Float16, spv::Capability::StorageBuffer16BitAccess]);
    }
    let options = spv::Options {
        lang_version: (1, 3),
        flags: spv::WriterFlags::empty(),
        fake_missing_bindings: false,
        binding_map: bindings(module)
            .map(|at| {
                (at, spv::BindingInfo { descriptor_set: at.group, binding: at.binding, binding_array_size: None })
            })
            .collect(),
        capabilities: Some(capabilities.into_iter().collect()),
        bounds_check_policies: policies(policy),
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        force_loop_bounding: checked,
        emit_int_div_checks: checked,
        ..Default::default()
    };
    let entry = spv::PipelineOptions { shader_stage: ShaderStage::Compute, entry_point: "main".into() };
    spv::write_vec(module, info, &options, Some(&entry)).map(drop).map_err(|error| error.to_string())
}

/// For Metal 2.1, the oldest version that wgpu's features require (macOS 10.14); matrices need 2.3.
fn to_msl(module: &Module, info: &ModuleInfo, policy: BoundsCheckPolicy) -> Result<(), String> {
    let checked = policy != BoundsCheckPolicy::Unchecked;
    let target = |at: ResourceBinding| {
        msl::BindTarget {
        buffer: Some(at.binding as u8),
        mutable: module.global_variables.iter().any(|(_, variable)| {
            variable.binding == Some(at)
                && matches!(variable.space, naga::AddressSpace::Storage { access } if access.contains(naga::StorageAccess::STORE))
        }),
        ..Default::default()
    }
    };
    let resources = msl::EntryPointResources {
        resources: bindings(module).map(|at| (at, target(at))).collect(),
        immediates_buffer: Some(29),
        sizes_buffer: Some(30),
    };
    let options = msl::Options {
        lang_version: if has_matrices(module) { (2, 3) } else { (2, 1) },
        per_entry_point_map: [("main".to_owned(), resources)].into(),
        fake_missing_bindings: false,
        bounds_check_policies: policies(policy),
        zero_initialize_workgroup_memory: false,
        force_loop_bounding: checked,
        emit_int_div_checks: checked,
        ..Default::default()
    };
    let entry = msl::PipelineOptions { entry_point: Some((ShaderStage::Compute, "main".into())), ..Default::default() };
    let (_, translated) = msl::write_string(module, info, &options, &entry).map_err(|error| error.to_string())?;
    translated.entry_point_names.into_iter().try_for_each(|name| name.map(drop).map_err(|error| error.to_string()))
}

/// For shader model 5.1, which the compiler shipped with Windows reads, or the first with shuffles or f16.
fn to_hlsl(module: &Module, info: &ModuleInfo, policy: BoundsCheckPolicy) -> Result<(), String> {
    let checked = policy != BoundsCheckPolicy::Unchecked;
    let target = |space: u8, register: u32| hlsl::BindTarget {
        space,
        register,
        binding_array_size: None,
        dynamic_storage_buffer_offsets_index: None,
        restrict_indexing: checked,
    };
    let options = hlsl::Options {
        shader_model: match (has_halves(module), shuffles(module)) {
            (true, _) => hlsl::ShaderModel::V6_2,
            (false, true) => hlsl::ShaderModel::V6_0,
            (false, false) => hlsl::ShaderModel::V5_1,
        },
        binding_map: bindings(module).map(|at| (at, target(at.group as u8, at.binding))).collect(),
        fake_missing_bindings: false,
        // The source of `num_workgroups`.
        special_constants_binding: Some(target(2, 0)),
        immediates_target: Some(target(1, 0)),
        zero_initialize_workgroup_memory: false,
        restrict_indexing: checked,
        force_loop_bounding: checked,
        ..Default::default()
    };
    let entry = hlsl::PipelineOptions { entry_point: Some((ShaderStage::Compute, "main".into())) };
    let mut text = String::new();
    let mut writer = hlsl::Writer::new(&mut text, &options, &entry);
    let translated = writer.write(module, info, None).map_err(|error| error.to_string())?;
    translated.entry_point_names.into_iter().try_for_each(|name| name.map(drop).map_err(|error| error.to_string()))
}

type Backend = (&'static str, fn(&Module, &ModuleInfo, BoundsCheckPolicy) -> Result<(), String>);
const BACKENDS: [Backend; 3] = [("SPIR-V", to_spirv), ("MSL", to_msl), ("HLSL", to_hlsl)];

/// The backends that run the kernel.
fn backends(kernel: &Kernel) -> &'static [Backend] {
    match kernel.tile() {
        None => &BACKENDS,
        Some(Tile::Eight) => &BACKENDS[..2],
        Some(Tile::Sixteen) => &BACKENDS[..1],
    }
}

/// The backends that fail to translate the text, with reasons; empty if all succeed.
fn refusals(source: &str, allowed: Capabilities, backends: &[Backend]) -> Vec<String> {
    let module = match naga::front::wgsl::parse_str(source) {
        Ok(module) => module,
        Err(error) => return vec![format!("WGSL: {}", error.emit_to_string(source))],
    };
    let mut validator = Validator::new(ValidationFlags::all(), allowed);
    let validated = validator
        .subgroup_stages(ShaderStages::COMPUTE)
        .subgroup_operations(SubgroupOperationSet::SHUFFLE)
        .validate(&module);
    let info = match validated {
        Ok(info) => info,
        Err(error) => return vec![format!("validation: {}", error.emit_to_string(source))],
    };
    let mut refusals = Vec::new();
    for (name, translate) in backends {
        for policy in POLICIES {
            // naga's writers panic on some unsupported input.
            let translated = catch_unwind(AssertUnwindSafe(|| translate(&module, &info, policy)));
            match translated {
                Ok(Ok(())) => {}
                Ok(Err(reason)) => refusals.push(format!("{name} ({policy:?}): {reason}")),
                Err(_) => refusals.push(format!("{name} ({policy:?}): panicked")),
            }
        }
    }
    refusals
}

/// The kernels of the demo's training step and of all cases, for all device classes, with the capabilities that naga
/// must allow.
fn specialisations() -> BTreeMap<String, (Kernel, Capabilities)> {
    let config = Config::new(Detector::small(1), Box::new(Rotation::default()));
    let step = TrainingStep::record(&config, [1, 28, 28]).expect("the demo's step has all its gradients");
    let mut kernels = BTreeMap::new();
    // A kernel shared by several classes must satisfy the strictest rules: those of the GPU, which come last.
    for class in DeviceClass::ALL.into_iter().rev() {
        let allowed = Capabilities::IMMEDIATES
            | match class {
                DeviceClass::Gpu => Capabilities::empty(),
                DeviceClass::Cpu(_) => Capabilities::SUBGROUP,
                DeviceClass::Matrix(_) => Capabilities::SHADER_FLOAT16 | Capabilities::COOPERATIVE_MATRIX,
            };
        let mut insert = |kernel: Kernel| {
            let halved = kernel.halved().filter(|_| allowed.contains(Capabilities::SHADER_FLOAT16));
            let both = [Some(kernel), halved].into_iter().flatten();
            kernels.extend(both.map(|kernel| (kernel.specialisation(), (kernel, allowed))));
        };
        for (_, node) in step.tape.iter() {
            if let Some(lowered) = node.primitive().and_then(lowering) {
                let inputs: Vec<&Shape> = node.inputs().iter().map(|&input| step.tape.shape(input)).collect();
                insert(lowered.kernel(&inputs, &node.shape, class));
            }
        }
        for case in catalogue::cases() {
            insert(case.kernel(class));
        }
    }
    kernels
}

#[test]
fn every_specialisation_translates_to_spirv_msl_and_hlsl() {
    let specialisations = specialisations();
    let mut failures = Vec::new();
    for (key, (kernel, allowed)) in &specialisations {
        let source = specialise(kernel).unwrap();
        failures
            .extend(refusals(&source, *allowed, backends(kernel)).iter().map(|refusal| format!("{key}: {refusal}")));
    }
    let translations: usize = specialisations.values().map(|(kernel, _)| backends(kernel).len() * POLICIES.len()).sum();
    println!("{} specialisations, {translations} translations", specialisations.len());
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Each backend refuses something, so the test above could fail.
#[test]
fn what_one_backend_cannot_translate_is_found() {
    let kernel = |declaration: &str, body: &str| {
        format!(
            "{declaration}\n@group(0) @binding(0) var<storage, read_write> y: array<f32>;\n\
             @compute @workgroup_size(1) fn main() {{ y[0] = {body}; }}"
        )
    };
    for (backend, source) in [
        ("SPIR-V", kernel("", "subgroupShuffle(y[1], 0u)")),
        ("MSL", kernel("", "f32(f64(y[1]) / 3.0lf)")),
        ("HLSL", kernel("var<immediate> p: f32;", "p")),
        ("validation", kernel("var<private> p: array<f32, 2>;", "p[2]")),
        ("WGSL", kernel("", "from")),
    ] {
        let refusals = refusals(&source, Capabilities::all(), &BACKENDS);
        assert!(!refusals.is_empty() && refusals.iter().all(|refusal| refusal.starts_with(backend)), "{refusals:#?}");
    }
    assert_eq!(refusals(&kernel("", "y[1]"), Capabilities::IMMEDIATES, &BACKENDS), [""; 0]);
}
