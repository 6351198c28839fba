//! The engine: tensors, a tape of primitives, kernels, and plans that run on a device. It knows nothing of anomalies.

pub mod units;
pub mod tensor;
pub mod philox;
pub mod tape;
pub mod bounds;
pub mod reference;
pub mod kernel;
pub mod lower;
pub mod geometry;
pub mod case;
pub mod ops;
pub mod shaders;
pub mod plan;
pub mod gpu;
