//! Training on a device, and the anomaly scores of trained networks.

pub mod conformal;
pub mod score;
pub mod scorer;
pub mod trainer;
