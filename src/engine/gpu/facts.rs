//! What follows from what a driver says of an adapter: whether it can be used, and for what. Nothing here asks a driver, so
//! that adapters which no test machine has are tested by what they say of themselves.

use wgpu::CooperativeScalarType::{F16, F32};

use super::device::{AdapterSummary, IMMEDIATE_BYTES};
use crate::engine::kernel::{CLASS_WORKGROUP_BYTES, Lanes, Tile, WORKGROUP_BYTES};

/// Used where present: on GPUs, subgroups are for `stssad check` alone, which runs the kernels for CPU drivers too.
const OPTIONAL: wgpu::Features =
    wgpu::Features::TIMESTAMP_QUERY.union(wgpu::Features::SUBGROUP).union(wgpu::Features::PIPELINE_CACHE).union(MATRIX);
/// What kernels on matrix units need.
const MATRIX: wgpu::Features = wgpu::Features::SHADER_F16.union(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX);
/// Invocations to which a kernel gives matrices of its own. A smaller subgroup does the work of its block several times over;
/// a larger one reaches beyond the block and mixes two.
pub(super) const MATRIX_BLOCK: u32 = 32;
/// Storage buffers that a kernel binds at most.
const STORAGE_BUFFERS: u32 = 8;
/// Metal hands kernels the length of a binding as a u32, which wgpu-hal saturates: the `arrayLength` of a longer one is too
/// small. This is the largest length of whole `vec4<f32>` that it tells as it is.
const METAL_BINDING_BYTES: u64 = (1 << 32) - 16;

/// What a driver says of an adapter.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub info: wgpu::AdapterInfo,
    pub limits: wgpu::Limits,
    pub features: wgpu::Features,
    /// The products of its matrix units.
    pub matrices: Vec<wgpu::CooperativeMatrixProperties>,
}

impl Facts {
    pub fn of(adapter: &wgpu::Adapter) -> Facts {
        Facts {
            info: adapter.get_info(),
            limits: adapter.limits(),
            features: adapter.features(),
            matrices: adapter.cooperative_matrix_properties(),
        }
    }

    pub fn is_cpu(&self) -> bool {
        self.info.device_type == wgpu::DeviceType::Cpu
    }

    /// Without these there are no kernels: none could be told its extents, and those for CPU drivers hand values from lane to
    /// lane.
    fn required(&self) -> wgpu::Features {
        match self.is_cpu() {
            true => wgpu::Features::IMMEDIATES.union(wgpu::Features::SUBGROUP),
            false => wgpu::Features::IMMEDIATES,
        }
    }

    /// Everything that stssad makes use of, present or not.
    fn wanted(&self) -> wgpu::Features {
        self.required() | OPTIONAL
    }

    /// The features to open the adapter with.
    pub fn used(&self) -> wgpu::Features {
        self.features & self.wanted()
    }

    /// What to open the adapter with: all its limits, since values may be as large as they allow.
    pub fn descriptor(&self) -> wgpu::DeviceDescriptor<'static> {
        wgpu::DeviceDescriptor {
            label: Some("stssad"),
            required_features: self.used(),
            required_limits: self.limits.clone(),
            // SAFETY: the one experimental feature in use is that of cooperative matrices, whose kernels are run only where
            // they are asked for; tests hold each against its definition and keep guard words round its buffers.
            experimental_features: unsafe { wgpu::ExperimentalFeatures::enabled() },
            ..Default::default()
        }
    }

    /// Bytes that a kernel may bind of one buffer.
    pub fn max_binding_bytes(&self) -> u64 {
        let offered = self.limits.max_storage_buffer_binding_size;
        if self.info.backend == wgpu::Backend::Metal { offered.min(METAL_BINDING_BYTES) } else { offered }
    }

    /// Whether there is as much as kernels for a class of devices may take.
    fn has_workgroup_memory(&self) -> bool {
        self.limits.max_compute_workgroup_storage_size >= CLASS_WORKGROUP_BYTES
    }

    /// The lanes of its SIMD vectors, or of a part of its subgroups, if kernels can use any.
    pub fn lanes(&self) -> Option<Lanes> {
        let is_able = self.features.contains(wgpu::Features::SUBGROUP) && self.has_workgroup_memory();
        is_able.then(|| Lanes::within(self.info.subgroup_min_size)).flatten()
    }

    /// The matrices that its matrix units can be expected to multiply as the kernels ask for, the larger ones last.
    ///
    /// wgpu 30 lets nobody ask for a size of subgroups, and its Metal backend says "4 to 64" of every GPU though Apple's all
    /// have 32. So an adapter whose subgroups may be too large is not refused here: with precision f16 the kernels are
    /// proven when the device is opened.
    ///
    /// # Errors
    /// The reason, as a sentence about the adapter, where there are none.
    pub fn tiles(&self) -> Result<Vec<Tile>, String> {
        let least = self.info.subgroup_min_size;
        let obstacles = [
            (!self.features.contains(wgpu::Features::SHADER_F16), "it has no f16 arithmetic".to_owned()),
            (!self.features.contains(MATRIX), "it has no cooperative matrices".to_owned()),
            (
                !self.has_workgroup_memory(),
                format!("it has less than {} KiB of workgroup memory", CLASS_WORKGROUP_BYTES >> 10),
            ),
            (
                least > MATRIX_BLOCK,
                format!(
                    "its subgroups have at least {least} invocations, where the kernels need at most {MATRIX_BLOCK}"
                ),
            ),
        ];
        if let Some((_, reason)) = obstacles.into_iter().find(|(stands, _)| *stands) {
            return Err(reason);
        }
        let is_offered = |tile: &Tile| {
            let side = tile.side() as u32;
            self.matrices.iter().any(|offer| {
                let extents = [offer.m_size, offer.n_size, offer.k_size];
                extents == [side; 3] && offer.ab_type == F16 && offer.cr_type == F32 && !offer.saturating_accumulation
            })
        };
        let tiles: Vec<Tile> = [Tile::Eight, Tile::Sixteen].into_iter().filter(is_offered).collect();
        match tiles.is_empty() {
            true => Err("its matrix units offer no products of square f16 matrices with f32 sums".into()),
            false => Ok(tiles),
        }
    }

    /// Why the adapter cannot be used, if so.
    pub fn unusable(&self) -> Option<String> {
        let (limits, missing) = (&self.limits, self.required() - self.features);
        let needs = [
            (missing.contains(wgpu::Features::IMMEDIATES), "it has no immediates (push constants)".to_owned()),
            (
                missing.contains(wgpu::Features::SUBGROUP),
                "it has no subgroup operations, which the kernels for CPU drivers need".to_owned(),
            ),
            (
                self.is_cpu() && self.lanes().is_none(),
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

    pub fn summarise(&self) -> AdapterSummary {
        let info = &self.info;
        let names = |features: wgpu::Features| features.iter_names().map(|(name, _)| name.to_lowercase()).collect();
        let (tiles, without_tiles) = match self.tiles() {
            Ok(tiles) => (tiles, None),
            Err(reason) => (Vec::new(), Some(reason)),
        };
        AdapterSummary {
            driver: [info.driver.as_str(), &info.driver_info].join(" ").trim().to_owned(),
            backend: format!("{:?}", info.backend).to_lowercase(),
            class: match info.device_type {
                wgpu::DeviceType::DiscreteGpu => "discrete",
                wgpu::DeviceType::IntegratedGpu => "integrated",
                wgpu::DeviceType::VirtualGpu => "virtual",
                wgpu::DeviceType::Cpu => "cpu",
                wgpu::DeviceType::Other => "other",
            }
            .to_owned(),
            name: info.name.clone(),
            vendor: info.vendor,
            pci: Some(info.device_pci_bus_id.clone()).filter(|place| !place.is_empty()),
            max_binding_bytes: self.max_binding_bytes(),
            max_buffer_bytes: self.limits.max_buffer_size,
            max_workgroup_invocations: self.limits.max_compute_invocations_per_workgroup,
            max_workgroup_bytes: self.limits.max_compute_workgroup_storage_size,
            tiles,
            without_tiles,
            subgroups: [info.subgroup_min_size, info.subgroup_max_size],
            used: names(self.used()),
            missing: names(self.wanted() - self.features),
            unusable: self.unusable(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A product `[m, n, k]` of f16 with f32 sums.
    fn product([m_size, n_size, k_size]: [u32; 3]) -> wgpu::CooperativeMatrixProperties {
        let (ab_type, cr_type) = (F16, F32);
        wgpu::CooperativeMatrixProperties { m_size, n_size, k_size, ab_type, cr_type, saturating_accumulation: false }
    }

    /// A GPU with all that there is, as its driver reports its subgroups and products.
    fn gpu(backend: wgpu::Backend, subgroups: [u32; 2], products: &[[u32; 3]]) -> Facts {
        let [subgroup_min_size, subgroup_max_size] = subgroups;
        let info = wgpu::AdapterInfo::new(wgpu::DeviceType::DiscreteGpu, backend);
        Facts {
            info: wgpu::AdapterInfo { subgroup_min_size, subgroup_max_size, ..info },
            limits: wgpu::Limits {
                max_immediate_size: 128,
                max_compute_workgroup_storage_size: 32_768,
                max_storage_buffer_binding_size: 64 << 30,
                max_buffer_size: 64 << 30,
                ..Default::default()
            },
            features: wgpu::Features::IMMEDIATES | OPTIONAL,
            matrices: products.iter().copied().map(product).collect(),
        }
    }

    #[test]
    fn f16_is_offered_to_all_whose_subgroups_may_fit() {
        use wgpu::Backend::{Metal, Vulkan};
        for (what, facts, tiles) in [
            // wgpu-hal says so of every GPU of Apple's.
            ("Apple M1", gpu(Metal, [4, 64], &[[8; 3]]), vec![Tile::Eight]),
            ("AMD RDNA3", gpu(Vulkan, [32, 64], &[[16; 3]]), vec![Tile::Sixteen]),
            ("NVIDIA", gpu(Vulkan, [32, 32], &[[16, 8, 8], [16, 8, 16], [16; 3]]), vec![Tile::Sixteen]),
            ("Intel, square", gpu(Vulkan, [8, 32], &[[8; 3], [16; 3]]), vec![Tile::Eight, Tile::Sixteen]),
        ] {
            assert_eq!(facts.unusable(), None, "{what}");
            assert_eq!(facts.tiles(), Ok(tiles), "{what}");
            assert_eq!(facts.summarise().without_tiles, None, "{what}");
        }
    }

    #[test]
    fn f16_is_refused_with_the_reason() {
        use wgpu::Backend::{Dx12, Vulkan};
        let nvidia = gpu(Vulkan, [32, 32], &[[16; 3]]);
        let saturating = wgpu::CooperativeMatrixProperties { saturating_accumulation: true, ..product([16; 3]) };
        let small = wgpu::Limits { max_compute_workgroup_storage_size: 16_384, ..nvidia.limits.clone() };
        for (facts, reason) in [
            (gpu(Vulkan, [64, 64], &[[16; 3]]), "at least 64 invocations"),
            (gpu(Vulkan, [8, 32], &[[8, 16, 16]]), "no products of square f16 matrices"),
            (Facts { matrices: vec![saturating], ..nvidia.clone() }, "no products of square f16 matrices"),
            (Facts { limits: small, ..nvidia.clone() }, "less than 32 KiB of workgroup memory"),
            (Facts { features: nvidia.features - wgpu::Features::SHADER_F16, ..nvidia.clone() }, "no f16 arithmetic"),
            (
                Facts {
                    features: nvidia.features - wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX,
                    ..gpu(Dx12, [32, 32], &[])
                },
                "no cooperative matrices",
            ),
        ] {
            let refused = facts.tiles().unwrap_err();
            assert!(refused.contains(reason), "{refused}");
            let summary = facts.summarise();
            assert_eq!((summary.tiles, summary.without_tiles), (Vec::new(), Some(refused)));
        }
    }

    #[test]
    fn a_binding_on_metal_is_no_longer_than_its_length_is_told() {
        let metal = gpu(wgpu::Backend::Metal, [4, 64], &[]);
        let told = u32::try_from(metal.max_binding_bytes()).expect("as wgpu-hal hands it to the kernel");
        assert!(told.is_multiple_of(16) && u32::MAX - told < 16);
        assert_eq!(metal.summarise().max_binding_bytes, u64::from(told));
        let small = wgpu::Limits { max_storage_buffer_binding_size: 1 << 30, ..metal.limits.clone() };
        assert_eq!(Facts { limits: small, ..metal }.max_binding_bytes(), 1 << 30);
        assert_eq!(gpu(wgpu::Backend::Vulkan, [32, 32], &[]).max_binding_bytes(), 64 << 30);
    }

    #[test]
    fn an_adapter_that_lacks_what_kernels_need_is_unusable_with_the_reason() {
        let sound = gpu(wgpu::Backend::Vulkan, [32, 32], &[]);
        let cpu = wgpu::AdapterInfo { device_type: wgpu::DeviceType::Cpu, ..sound.info.clone() };
        let narrow = wgpu::AdapterInfo { subgroup_min_size: 2, ..cpu.clone() };
        let few = wgpu::Limits { max_storage_buffers_per_shader_stage: 4, ..sound.limits.clone() };
        for (facts, reason) in [
            (Facts { features: wgpu::Features::empty(), ..sound.clone() }, "no immediates"),
            (Facts { features: wgpu::Features::IMMEDIATES, info: cpu, ..sound.clone() }, "no subgroup operations"),
            (Facts { info: narrow, ..sound.clone() }, "fewer than 4 lanes"),
            (Facts { limits: few, ..sound }, "fewer than 8 storage buffers"),
        ] {
            let unusable = facts.unusable().unwrap();
            assert!(unusable.contains(reason), "{unusable}");
        }
    }
}
