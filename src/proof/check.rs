//! Whether the kernels compute what they should, on the device at hand.
//!
//! * [`check_kernel`]: the kernel on a device against the f64 definition, within derived [`bounds`](crate::engine::bounds).
//! * [`check_rule`]: backward rules against central differences, in f64, twice over. No device.
//! * [`check_adjoint`]: ⟨A x, y⟩ = ⟨x, Aᵀ y⟩ on a device, exactly, at training sizes.
//! * [`check_step`]: a whole tape node by node, each node fed with the device's own inputs.
//! * [`run`]: all of it, as `stssad check` does.

mod adjoint;
mod compare;
mod kernels;
mod report;
mod rules;
mod step;

pub use adjoint::{check_adjoint, has_adjoint};
pub use compare::{Mismatch, compare, control};
pub use kernels::{Failure, Fault, check_kernel, reference_of, tolerance, variants};
pub use report::{Coverage, Options, Outcome, Report, run};
pub use rules::{RuleReport, check_rule};
pub use step::{BadNode, StepReport, check_step};
