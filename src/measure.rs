//! Measures speed: ceilings of the device, kernels, and training steps.

pub mod figures;
pub mod peak;
pub mod analyze;
pub mod page;
pub mod bench;
pub mod profile;
