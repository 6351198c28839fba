//! Runs: what they are made of, the folders they live in, and what comes of them.

pub mod disk;
pub mod claim;
pub mod archive;
pub mod statistics;
pub mod settings;
pub mod config;
pub mod fit;
pub mod checkpoint;
pub mod model;
pub mod scored;
pub mod outcome;
pub mod folder;
pub mod report;
pub mod execute;
pub mod sweep;
