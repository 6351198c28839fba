//! Runs: their configurations, folders, checkpoints, results and reports; and sweeps of many runs.

pub mod store;
pub mod kept;
pub mod claim;
pub mod archive;
pub mod statistics;
pub mod settings;
pub mod weights;
pub mod config;
pub mod fit;
pub mod race;
pub mod groups;
pub mod checkpoint;
pub mod model;
pub mod web;
pub mod onnx;
pub mod scored;
pub mod evidence;
pub mod found;
pub mod outcome;
pub mod folder;
pub mod report;
pub mod execute;
pub mod sweep;
pub mod engines;
