//! ST-SSAD as tapes: the networks, the augmentations, the losses, and the bilevel training step.

pub mod nn;
pub mod augment;
pub mod loss;
pub mod bilevel;
pub mod method;
pub mod config;
pub mod step;
pub mod workload;
