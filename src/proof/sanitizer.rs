//! A sanitizer for compute kernels: an interpreter of WGSL that watches every access of every invocation.
//!
//! A [`Trial`] runs any WGSL, in a few lines of a test:
//!
//! ```
//! use stssad::proof::sanitizer::{Contents, Trial};
//!
//! let source = "
//!     @group(0) @binding(0) var<storage, read_write> sum: u32;
//!     @compute @workgroup_size(4)
//!     fn main(@builtin(local_invocation_index) index: u32) {
//!         sum += index;
//!     }";
//! let findings = Trial::new("sum.wgsl", source).buffer(0, 0, Contents::Zero(None)).run().unwrap();
//! assert!(!findings.passed());
//! println!("{findings}"); // error: sum.wgsl:5: race: invocation 1 of workgroup (0, 0, 0) reads `sum` …
//!
//! let mended = source.replace("sum: u32", "sum: atomic<u32>").replace("sum += index", "atomicAdd(&sum, index)");
//! let findings = Trial::new("sum.wgsl", mended).run().unwrap();
//! assert!(findings.passed(), "{findings}");
//! ```
//!
//! [`lower`] turns WGSL, through naga's IR, into a flat [`Program`]. [`Program::run`] executes all invocations of a
//! [`Dispatch`] and reports data races, accesses out of bounds, reads of uninitialised memory, barriers in non-uniform
//! control flow, index overflow, division by zero, misaligned matrices, endless loops, and integer arithmetic that
//! wraps, shifts too far or converts what has no integer. Floats are computed in f32 by
//! Rust's own functions, so the output can be compared with a reference as a device's can. [`rounding::with_errors`]
//! makes the arithmetic as inaccurate as the WGSL specification allows.
//!
//! The invocations of a workgroup run one after another from barrier to barrier. A fault depends only on which
//! invocation accessed what between two barriers, not on this order. A kernel whose control flow depends on a race may
//! take another path on a device, but that race has already been reported.
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

mod flow;
mod lockstep;
mod lower;
mod machine;
mod program;
mod report;
pub mod rounding;
mod shadow;
mod trial;
mod word;

pub use lockstep::{BANKS, Counted, Launch, SECTOR_BYTES, Tally, Unit};
pub use lower::{Refusal, lower};
#[cfg(feature = "program")]
pub(super) use lower::{constants, parse, specialised, without_directive};
pub use machine::{Buffer, Dispatch, Outcome};
pub use program::Program;
pub use report::{Kind, Level, Report};
pub use trial::{Bound, Contents, Findings, Launched, Prepared, Run, Setting, Trial, TrialError};
