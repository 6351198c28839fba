//! What wgpu reports of calls.
//!
//! Errors are caught by error scopes, which wgpu keeps for each thread apart. So a fault is told by the call that made it, even
//! where several threads use the device, and what an application has set with `on_uncaptured_error` is neither replaced nor
//! called.

use std::sync::{Arc, Mutex};

use super::GpuError;
use super::device::Device;

/// Why the device was lost, once it is.
pub(super) type Lost = Arc<Mutex<Option<String>>>;

/// Catches the errors of this thread's calls until it [ends](Watch::end).
pub(super) struct Watch {
    /// The newest first: they are dropped in this order, and wgpu asks for it.
    scopes: [wgpu::ErrorScopeGuard; 3],
    lost: Lost,
}

impl Watch {
    pub fn new(device: &wgpu::Device, lost: &Lost) -> Watch {
        use wgpu::ErrorFilter::{Internal, OutOfMemory, Validation};
        let [first, second, third] = [Validation, OutOfMemory, Internal].map(|filter| device.push_error_scope(filter));
        Watch { scopes: [third, second, first], lost: lost.clone() }
    }

    /// The result of what was watched, or what wgpu reported meanwhile; `at` says what was being done.
    pub fn end<T>(self, at: impl FnOnce() -> String, result: Result<T, GpuError>) -> Result<T, GpuError> {
        let errors = self.scopes.map(|scope| pollster::block_on(scope.pop()));
        if let Some(reason) = &*self.lost.lock().unwrap() {
            return match result {
                Err(lost @ GpuError::Lost { .. }) => Err(lost),
                _ => Err(GpuError::Lost { at: at(), reason: reason.clone() }),
            };
        }
        // What goes wrong because of it comes later.
        match errors.into_iter().flatten().next() {
            None => result,
            Some(error @ wgpu::Error::OutOfMemory { .. }) => {
                Err(GpuError::OutOfMemory { at: at(), reason: error.to_string() })
            }
            Some(error) => Err(GpuError::Refused { at: at(), reason: error.to_string() }),
        }
    }
}

impl Device {
    /// Watches what this thread does with the device from now on.
    pub(super) fn watch(&self) -> Watch {
        Watch::new(&self.device, &self.lost)
    }
}
