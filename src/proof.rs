//! Whether the kernels are right: compared with their f64 definitions on a device, and interpreted access by access.

pub mod sanitizer;
pub mod check;
