//! Whether the kernels compute what they should on the device at hand.
//!
//! * [`check_kernel`]: a kernel on a device against its f64 definition, within derived
//!   [`bounds`](crate::engine::bounds).
//! * [`check_rule`]: backward rules, first and second order, against central differences in f64. No device.
//! * [`check_adjoint`]: ⟨A x, y⟩ = ⟨x, Aᵀ y⟩ on a device, exactly, at training sizes.
//! * [`check_step`]: every node of a tape, given the inputs that the device computed for it.
//! * [`check_interpreted`]: a kernel in the [sanitizer](crate::proof::sanitizer), against the same definition. No device.
//! * [`Checks`]: all of these, as `stssad check` runs them, and every kernel of the packaged workloads at one of its shapes.
//! * [`reference::Reference`]: any WGSL kernel against values from a file.

mod adjoint;
mod compare;
mod dispatches;
mod interpreted;
mod kernels;
mod pattern;
#[cfg(feature = "program")]
pub mod reference;
mod report;
mod rules;
mod step;
mod tasks;

pub use adjoint::{check_adjoint, has_adjoint};
pub use compare::{Mismatch, compare, control};
pub use interpreted::{check_interpreted, grids, is_small};
pub use kernels::{Failure, Fault, Looked, Trial, check_kernel, reference_of, tolerance, variants};
pub use report::{Coverage, Finding, Kind, Outcome, Report};
pub use rules::{RuleReport, check_rule};
pub use step::{BadNode, StepReport, check_step};
pub use tasks::{CheckError, Checks, Options};
