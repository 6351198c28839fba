//! Checks of the kernels: against their f64 definitions on a device, and access by access in an interpreter.

pub mod sanitizer;
pub mod check;
