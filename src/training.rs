//! Training on a device, and the scores of what was trained.

pub mod score;
pub mod scorer;
pub mod trainer;
