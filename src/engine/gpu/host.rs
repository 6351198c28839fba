//! The engine within an application that uses wgpu itself.

use super::device::{Device, enumerate};
use super::facts::Facts;
use super::watch::Lost;
use super::{Choice, GpuError};

impl Device {
    /// The adapter that [`open`](Device::open) would open, for an application that opens it itself.
    ///
    /// # Errors
    /// As [`open`](Device::open).
    pub fn adapter_for(choice: &Choice) -> Result<wgpu::Adapter, GpuError> {
        let mut adapters = enumerate();
        let summaries: Vec<_> = adapters.iter().map(|adapter| Facts::of(adapter).summarise()).collect();
        let (chosen, _) = choice.among(&summaries)?;
        Ok(adapters.swap_remove(chosen))
    }

    /// The features and limits that an application asks for when it opens the adapter for itself and for this engine: what
    /// kernels need, and, where the adapter has it, what they make use of. An application adds its own features, and
    /// may lower limits to what [`from_wgpu`](Device::from_wgpu) accepts.
    ///
    /// Where the adapter has matrix units, the descriptor lets wgpu's experimental features be used.
    ///
    /// # Errors
    /// When the adapter lacks what kernels need, with the first that it lacks.
    pub fn descriptor_for(adapter: &wgpu::Adapter) -> Result<wgpu::DeviceDescriptor<'static>, GpuError> {
        let facts = Facts::of(adapter);
        match facts.unusable() {
            Some(reason) => Err(GpuError::Unusable { adapter: facts.info.name, reason }),
            None => Ok(facts.descriptor()),
        }
    }

    /// An application's device, which `adapter` has opened, and its queue. The engine uses the features and limits that the
    /// device was opened with: see [`descriptor_for`](Device::descriptor_for).
    ///
    /// Nothing of the device is changed: neither its error handler nor its callback for the loss of the device is set. Faults
    /// of the engine's own calls are caught by error scopes and returned. The loss of the device is told by whatever next
    /// waits for a result.
    ///
    /// The engine polls the device when it waits, which may run the application's own callbacks on the engine's thread.
    ///
    /// # Errors
    /// When the adapter is not the device's, or the device was opened without something that kernels need.
    pub fn from_wgpu(adapter: &wgpu::Adapter, device: wgpu::Device, queue: wgpu::Queue) -> Result<Device, GpuError> {
        let facts = Facts { limits: device.limits(), features: device.features(), ..Facts::of(adapter) };
        let unusable = |reason: String| GpuError::Unusable { adapter: facts.info.name.clone(), reason };
        let owner = device.adapter_info();
        if owner != facts.info {
            return Err(unusable(format!("the device is one of {} ({:?})", owner.name, owner.backend)));
        }
        match facts.unusable() {
            Some(lack) => {
                Err(unusable(format!("as the device was opened, {lack}; `Device::descriptor_for` has what to ask for")))
            }
            None => Device::new(device, queue, &facts, Lost::default(), None),
        }
    }

    /// The device itself, for work of an application beside that of plans.
    pub fn wgpu_device(&self) -> &wgpu::Device {
        &self.device
    }

    /// The queue to which plans are submitted, in the order of the calls.
    pub fn wgpu_queue(&self) -> &wgpu::Queue {
        &self.queue
    }
}
