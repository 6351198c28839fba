//! Training on a device, and the anomaly scores of trained networks.

pub mod bank;
pub mod conformal;
pub mod score;
pub mod pixels;
pub mod scorer;
pub mod trainer;
