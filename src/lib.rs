//! A small GPU compute engine with hand-written WGSL kernels, and on it ST-SSAD: an anomaly detector that tunes its own
//! augmentation, end to end and without labels (Yoo, Zhao and Akoglu, arXiv 2306.12033).
//!
//! Five nouns carry the engine:
//!
//! * **Primitive** ([`tape::Primitive`]): an operation with a shape rule, a backward rule (VJP), an f64 definition with an
//!   error bound, and one kernel. They live in [`ops`], one file a family.
//! * **Tape** ([`tape::Tape`]): an append-only list of primitives applied to earlier values. A backward rule records
//!   primitives too, so a gradient is more tape, and a gradient of a gradient needs nothing new.
//! * **Kernel** ([`kernel::Kernel`]): a WGSL file, the numbers it is specialised by, and a workgroup count. It overwrites its
//!   one output.
//! * **Plan** ([`plan::Plan`]): the live part of a tape as a list of dispatches over slots, which values share. Before it is
//!   scheduled, a pass fuses what one kernel computes in one pass over memory, and computes equal values once.
//! * **Executor** ([`gpu::Executor`]): a plan bound to buffers on a device; it runs, profiles or traces the plan.
//!
//! What needs what, and only `gpu` knows wgpu:
//!
//! ```text
//! tensor ← tape ← ops ← {nn, augment, loss} ← {ssad, method} ← train ← run ← command line
//!               ↖ reference, plan ← gpu ← {check, profile, bench, peak, train}
//! ```
//!
//! Around it: [`config`] and [`settings`] say what a run is made of, [`fit`] chooses what fits the device, [`folder`] and
//! [`claim`] keep one process at a time in a run's folder, [`fault`] says what kind of fault an error is, [`report`] writes
//! what comes of a run, and [`sweep`] does many of them. [`sanitizer`] interprets the kernels and watches their accesses.
//!
//! [`mod@reference`] evaluates a tape in f64, and [`check`] holds every kernel and every backward rule against it.

pub mod archive;
pub mod augment;
pub mod bench;
pub mod check;
pub mod checkpoint;
pub mod claim;
pub mod config;
pub mod data;
mod disk;
pub mod fault;
pub mod fit;
pub mod folder;
pub mod gpu;
pub mod kernel;
pub mod loss;
pub mod measure;
pub mod method;
pub mod model;
pub mod nn;
pub mod ops;
pub mod peak;
pub mod philox;
pub mod plan;
pub mod profile;
pub mod reference;
pub mod report;
pub mod run;
pub mod sanitizer;
pub mod score;
pub mod scorer;
pub mod settings;
pub mod shaders;
pub mod ssad;
pub mod statistics;
pub mod sweep;
pub mod tape;
pub mod tensor;
pub mod train;
pub mod workload;

/// The README's example is a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
