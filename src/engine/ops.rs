//! The primitives, one file a family: shape rule, backward rule, f64 definition, error bound and kernel together.
//!
//! The set is closed under differentiation: every backward rule is recorded with the tape methods found here.

pub mod conv2d;
pub mod elementwise;
pub mod layout;
pub mod matmul;
pub mod optimiser;
pub mod patch;
pub mod pool;
pub mod random;
pub mod reduce;
pub mod sort;
pub mod warp;
