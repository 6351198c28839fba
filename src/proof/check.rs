//! Whether the kernels compute what they should on the device at hand.
//!
//! * [`check_kernel`]: a kernel on a device against its f64 definition, within derived
//!   [`bounds`](crate::engine::bounds).
//! * [`check_rule`]: backward rules, first and second order, against central differences in f64. No device.
//! * [`check_adjoint`]: ⟨A x, y⟩ = ⟨x, Aᵀ y⟩ on a device, exactly, at training sizes.
//! * [`check_step`]: every node of a tape, given the inputs that the device computed for it.
//! * [`run`]: all of these, as `stssad check` runs them.
//! * [`reference::Reference`]: any WGSL kernel against values from a file.

mod adjoint;
mod compare;
mod kernels;
#[cfg(feature = "program")]
pub mod reference;
mod report;
mod rules;
mod step;

pub use adjoint::{check_adjoint, has_adjoint};
pub use compare::{Mismatch, compare, control};
pub use kernels::{Failure, Fault, check_kernel, reference_of, tolerance, variants};
pub use report::{Coverage, Options, Outcome, Report, run};
pub use rules::{RuleReport, check_rule};
pub use step::{BadNode, StepReport, check_step};
