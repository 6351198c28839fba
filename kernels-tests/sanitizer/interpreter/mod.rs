//! An interpreter of compute kernels that watches what they do: a sanitizer.
//!
//! [`lower`] turns WGSL, by way of naga's IR, into a flat program; [`Program::run`] executes all invocations of a dispatch
//! and reports data races, accesses out of bounds, reads of memory nobody wrote, barriers that some invocations miss,
//! indices that overflowed, divisions by zero, and matrices that are not aligned. Floats are computed in f32 by Rust's own functions, so outputs can be
//! held against a reference as a device's are.
//!
//! Invocations of a workgroup run one after the other from barrier to barrier. Faults are found from who accessed what
//! between two barriers, never from the order that this happens to be; a kernel whose control flow depends on a race may
//! of course take another path on a device, but then the race has been reported.

mod lower;
mod machine;
mod program;
mod report;
pub mod rounding;
mod shadow;
mod word;

pub use lower::{Refusal, lower};
pub use machine::{Buffer, Dispatch, Outcome};
pub use program::Program;
pub use report::Report;
