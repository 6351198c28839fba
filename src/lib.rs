//! A small GPU compute engine with hand-written WGSL kernels, and on it ST-SSAD: an anomaly detector that tunes its own
//! augmentation, end to end and without labels (Yoo, Zhao and Akoglu, arXiv 2306.12033).
//!
//! Five nouns carry the engine:
//!
//! * **Primitive** ([`Primitive`](engine::tape::Primitive)): an operation with a shape rule, a backward rule (VJP), an f64 definition with an
//!   error bound, and one kernel. They live in [`engine::ops`], one file a family.
//! * **Tape** ([`Tape`](engine::tape::Tape)): an append-only list of primitives applied to earlier values. A backward rule records
//!   primitives too, so a gradient is more tape, and a gradient of a gradient needs nothing new.
//! * **Kernel** ([`Kernel`](engine::kernel::Kernel)): a WGSL file, the numbers it is specialised by, and a workgroup count. It overwrites its
//!   one output.
//! * **Plan** ([`Plan`](engine::plan::Plan)): the live part of a tape as a list of dispatches over slots, which values share. Before it is
//!   scheduled, a pass fuses what one kernel computes in one pass over memory, and computes equal values once.
//! * **Executor** ([`Executor`](engine::gpu::Executor)): a plan bound to buffers on a device; it runs, profiles or traces the plan.
//!
//! The layers, each of which imports from those above it alone; so do the modules of a layer, which stand in the order of their
//! dependencies. Only [`engine::gpu`] knows wgpu. A test reads both from the source.
//!
//! | layer | what it holds |
//! | --- | --- |
//! | [`engine`] | tensors, the tape, primitives, kernels, plans, devices |
//! | [`ssad`] | networks, augmentations, losses, the bilevel training step: tapes alone |
//! | [`proof`] | `check` and the sanitizer |
//! | [`data`] | images from folders, archives and generators; batches |
//! | [`training`] | the training loop, scoring, the choice between starts |
//! | [`run`] | configurations, folders, checkpoints, reports, sweeps |
//! | [`measure`] | ceilings, benchmarks, profiles |
//! | command line | arguments, progress, exit codes: the binary |
//!
//! [`engine::reference`] evaluates a tape in f64, and [`proof::check`] holds every kernel and every backward rule against it.
//!
//! The first three layers are a library of their own: without the default feature `program` nothing else is compiled, and nothing
//! is depended on that only the layers below them need. [`engine::gpu`] says how an application that uses wgpu shares its device
//! and its buffers.

#![cfg_attr(not(feature = "program"), allow(dead_code, reason = "some of it only the program's layers use"))]

pub mod engine;
pub mod ssad;
pub mod proof;
#[cfg(feature = "program")]
pub mod data;
#[cfg(feature = "program")]
pub mod training;
#[cfg(feature = "program")]
pub mod run;
#[cfg(feature = "program")]
pub mod measure;

/// The README's example is a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
