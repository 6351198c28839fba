//! Measures speed: ceilings of the device, kernels, and training steps.

pub mod figures;
pub mod peak;
pub mod bench;
pub mod workload;
pub mod profile;
pub mod analyze;
