//! A sanitizer for compute kernels: an interpreter of WGSL that watches every access of every invocation.
//!
//! [`lower`] turns WGSL, by way of naga's IR, into a flat [`Program`]; [`Program::run`] executes all invocations of a
//! [`Dispatch`] and reports data races, accesses out of bounds, reads of memory that nobody wrote, barriers in non-uniform
//! control flow, indices that overflowed, divisions by zero, misaligned matrices, and loops that do not end. Floats are
//! computed in f32 by Rust's own functions, so outputs can be compared with a reference like a device's.
//! [`rounding::with_errors`] makes the arithmetic as inaccurate as the WGSL specification allows.
//!
//! Invocations of a workgroup run one after the other from barrier to barrier. Faults follow from which invocation accessed
//! what between two barriers, never from this order. A kernel whose control flow depends on a race may take another path
//! on a device, but then the race has been reported.
//!
//! ```
//! use stssad::proof::sanitizer::{Buffer, Dispatch, lower};
//!
//! let source = "
//!     @group(0) @binding(0) var<storage, read_write> y: array<f32>;
//!     @compute @workgroup_size(4)
//!     fn main(@builtin(local_invocation_index) index: u32) {
//!         y[0] = f32(index);
//!     }";
//! let program = lower("last.wgsl", source).unwrap();
//! let dispatch = Dispatch {
//!     workgroups: [1, 1, 1],
//!     immediates: &[],
//!     buffers: vec![Buffer::Unwritten(1)],
//!     subgroup: 32,
//!     limit: 1000,
//! };
//! let reports = program.run(&dispatch).reports;
//! assert!(reports[0].to_string().starts_with("last.wgsl:5: race: invocation 1 "), "{}", reports[0]);
//! ```

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
pub use report::{Kind, Report};
