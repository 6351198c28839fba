//! Kernels that are not ours: WGSL of anyone's on buffers of its own, with all of wgpu's checks.
//!
//! As in [`isolated`](super::isolated), each operand lies between guard words, and the guard behind it is bound along with it
//! unless the kernel asks for its length. wgpu's checks of indices are against what is bound, so that a write past the end
//! arrives in the guard and is found.

use super::GpuError;
use super::device::Device;
use super::executor::{Part, read_back};
use super::isolated::{GUARD, GUARD_BYTES};

/// A part of WGSL, or of what wgpu adds to it, that devices may lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    Halves,
    Subgroups,
    SubgroupBarriers,
    Matrices,
    WideIntegers,
    WideFloats,
    FloatAtomics,
}

impl Need {
    pub const ALL: [Need; 7] = [
        Need::Halves,
        Need::Subgroups,
        Need::SubgroupBarriers,
        Need::Matrices,
        Need::WideIntegers,
        Need::WideFloats,
        Need::FloatAtomics,
    ];

    pub(super) fn features(needs: &[Need]) -> wgpu::Features {
        needs.iter().fold(wgpu::Features::empty(), |all, need| all | need.feature())
    }

    fn feature(self) -> wgpu::Features {
        match self {
            Need::Halves => wgpu::Features::SHADER_F16,
            Need::Subgroups => wgpu::Features::SUBGROUP,
            Need::SubgroupBarriers => wgpu::Features::SUBGROUP_BARRIER,
            Need::Matrices => wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX,
            Need::WideIntegers => wgpu::Features::SHADER_INT64,
            Need::WideFloats => wgpu::Features::SHADER_F64,
            Need::FloatAtomics => wgpu::Features::SHADER_FLOAT32_ATOMIC,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Need::Halves => "f16 arithmetic",
            Need::Subgroups => "subgroup operations",
            Need::SubgroupBarriers => "barriers of subgroups",
            Need::Matrices => "cooperative matrices",
            Need::WideIntegers => "integers of 64 bits",
            Need::WideFloats => "f64 arithmetic",
            Need::FloatAtomics => "atomics of f32",
        }
    }
}

/// How a kernel accesses an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Uniform,
    Read,
    ReadWrite,
}

/// A buffer that a kernel binds.
#[derive(Clone, Debug, PartialEq)]
pub struct Operand {
    pub group: u32,
    pub binding: u32,
    pub access: Access,
    /// Whether the kernel asks for its length: then no guard is bound along with it.
    pub is_measured: bool,
}

/// A compute kernel in WGSL, with all that a dispatch of it takes but the contents of its buffers.
#[derive(Clone, Debug, PartialEq)]
pub struct Foreign {
    /// What messages call it.
    pub name: String,
    pub source: String,
    pub entry: String,
    /// Overrides, by their `@id` if they have one, else by name.
    pub constants: Vec<(String, f64)>,
    pub workgroups: [u32; 3],
    /// In whole words.
    pub immediates: Vec<u8>,
    pub operands: Vec<Operand>,
    pub needs: Vec<Need>,
}

/// An operand after a dispatch.
#[derive(Clone, Debug, PartialEq)]
pub struct After {
    pub bytes: Vec<u8>,
    /// The first byte overwritten, from the operand's beginning, of those that the kernel must not write: outside the operand,
    /// or in one that it only reads.
    pub astray: Option<i64>,
}

impl Device {
    /// Runs the kernel once for each of `runs`, which has the bytes of every operand before the dispatch, a multiple of 4 each
    /// and not 0; gives what they were after it. wgpu checks indices and bounds loops, and workgroup memory begins with zeros.
    ///
    /// # Errors
    /// When the device was not [opened for](Device::open_for) what the kernel needs, refuses it, has no memory, or is lost.
    pub fn run_foreign(&self, kernel: &Foreign, runs: &[Vec<Vec<u8>>]) -> Result<Vec<Vec<After>>, GpuError> {
        let refused = |reason: String| GpuError::Foreign {
            adapter: self.adapter().name.clone(),
            kernel: kernel.name.clone(),
            reason,
        };
        if let Some(lacking) = kernel.needs.iter().find(|need| !self.device.features().contains(need.feature())) {
            return Err(refused(format!("it has no {}, which the kernel needs", lacking.name())));
        }
        let groups = self.device.limits().max_bind_groups;
        if let Some(operand) = kernel.operands.iter().find(|operand| operand.group >= groups) {
            return Err(refused(format!("it binds {groups} groups, and the kernel uses group {}", operand.group)));
        }
        // What wgpu refuses of a kernel that is valid is what does not fit this device.
        let mine = |error| match error {
            GpuError::Refused { reason, .. } => refused(reason),
            error => error,
        };
        let pipeline = self.foreign_pipeline(kernel).map_err(mine)?;
        runs.iter().map(|contents| self.run_once(kernel, &pipeline, contents).map_err(mine)).collect()
    }

    fn foreign_pipeline(&self, kernel: &Foreign) -> Result<ForeignPipeline, GpuError> {
        let watch = self.watch();
        let groups = kernel.operands.iter().map(|operand| operand.group + 1).max().unwrap_or(0);
        let entry = |operand: &Operand| wgpu::BindGroupLayoutEntry {
            binding: operand.binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer {
                ty: match operand.access {
                    Access::Uniform => wgpu::BufferBindingType::Uniform,
                    access => wgpu::BufferBindingType::Storage { read_only: access == Access::Read },
                },
                has_dynamic_offset: false,
                min_binding_size: None,
            },
            count: None,
        };
        let groups: Vec<wgpu::BindGroupLayout> = (0..groups)
            .map(|group| {
                let entries: Vec<_> = kernel.operands.iter().filter(|it| it.group == group).map(entry).collect();
                self.device
                    .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries })
            })
            .collect();
        let layout = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: None,
            bind_group_layouts: &groups.iter().map(Some).collect::<Vec<_>>(),
            immediate_size: kernel.immediates.len() as u32,
        });
        let module = self.device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some(&kernel.name),
            source: wgpu::ShaderSource::Wgsl(kernel.source.as_str().into()),
        });
        let constants: Vec<(&str, f64)> = kernel.constants.iter().map(|(key, value)| (key.as_str(), *value)).collect();
        let pipeline = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(&kernel.name),
            layout: Some(&layout),
            module: &module,
            entry_point: Some(&kernel.entry),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &constants,
                zero_initialize_workgroup_memory: true,
            },
            cache: None,
        });
        watch.end(|| format!("the compilation of {}", kernel.name), Ok(ForeignPipeline { pipeline, groups }))
    }

    fn run_once(
        &self,
        kernel: &Foreign,
        pipeline: &ForeignPipeline,
        contents: &[Vec<u8>],
    ) -> Result<Vec<After>, GpuError> {
        let limits = self.device.limits();
        let alignment = limits.min_storage_buffer_offset_alignment.max(limits.min_uniform_buffer_offset_alignment);
        let guard = GUARD_BYTES.max(alignment.into()) as usize;
        let edge = GUARD.to_le_bytes().repeat(guard / 4);
        let watch = self.watch();
        let mut buffers = Vec::new();
        for (operand, content) in kernel.operands.iter().zip(contents) {
            use wgpu::BufferUsages as Uses;
            let usage = match operand.access {
                Access::Uniform => Uses::UNIFORM,
                Access::Read | Access::ReadWrite => Uses::STORAGE,
            };
            let bytes = [&edge, &content[..], &edge].concat();
            let buffer = self.buffer_for(&kernel.name, bytes.len() as u64, usage | Uses::COPY_SRC | Uses::COPY_DST)?;
            self.queue.write_buffer(&buffer, 0, &bytes);
            buffers.push((buffer, bytes));
        }
        let mut encoder = self.device.create_command_encoder(&Default::default());
        let mut pass = encoder.begin_compute_pass(&Default::default());
        pass.set_pipeline(&pipeline.pipeline);
        for (group, layout) in (0..).zip(&pipeline.groups) {
            let entries: Vec<wgpu::BindGroupEntry> = kernel
                .operands
                .iter()
                .zip(contents)
                .zip(&buffers)
                .filter(|((operand, _), _)| operand.group == group)
                .map(|((operand, content), (buffer, _))| {
                    let is_exact = operand.is_measured || operand.access == Access::Uniform;
                    let size = (content.len() + if is_exact { 0 } else { guard }) as u64;
                    let size = wgpu::BufferSize::new(size);
                    let binding = wgpu::BufferBinding { buffer, offset: guard as u64, size };
                    wgpu::BindGroupEntry { binding: operand.binding, resource: wgpu::BindingResource::Buffer(binding) }
                })
                .collect();
            let descriptor = wgpu::BindGroupDescriptor { label: Some(&kernel.name), layout, entries: &entries };
            pass.set_bind_group(group, &self.device.create_bind_group(&descriptor), &[]);
        }
        if !kernel.immediates.is_empty() {
            pass.set_immediates(0, &kernel.immediates);
        }
        let [x, y, z] = kernel.workgroups;
        pass.dispatch_workgroups(x, y, z);
        drop(pass);
        self.submit(encoder);
        watch.end(|| format!("a run of {}", kernel.name), Ok(()))?;

        let after = |(operand, (buffer, before)): (&Operand, (wgpu::Buffer, Vec<u8>))| {
            let mut bytes: Vec<u8> = read_back(self, &Part::whole(&buffer), before.len() as u64, &kernel.name)?;
            let inside = guard..before.len() - guard;
            let is_own = |at: &usize| operand.access == Access::ReadWrite && inside.contains(at);
            let astray = (0..before.len()).find(|at| bytes[*at] != before[*at] && !is_own(at));
            bytes.truncate(inside.end);
            let bytes = bytes.split_off(guard);
            Ok(After { bytes, astray: astray.map(|at| at as i64 - guard as i64) })
        };
        kernel.operands.iter().zip(buffers).map(after).collect()
    }
}

/// A pipeline with the layouts of its groups of bindings, from the first on.
struct ForeignPipeline {
    pipeline: wgpu::ComputePipeline,
    groups: Vec<wgpu::BindGroupLayout>,
}
