//! A small GPU compute engine with hand-written WGSL kernels, and on it ST-SSAD: an anomaly detector that tunes its own
//! augmentation, end to end and without labels (Yoo, Zhao and Akoglu, arXiv 2306.12033).
//!
//! Five nouns carry the engine:
//!
//! * **Primitive** ([`tape::Primitive`](engine::tape::Primitive)): an operation as mathematics: a shape rule, a backward rule
//!   (VJP), an f64 definition and an error bound. They live in [`engine::ops`], one file per family; `lower.rs` beside it says
//!   how they become kernels ([`Lower`](engine::lower::Lower)).
//! * **Tape** ([`tape::Tape`](engine::tape::Tape)): an append-only list of primitives applied to earlier values. A backward
//!   rule records primitives too, so a gradient is more tape, and a gradient of a gradient needs nothing new.
//! * **Kernel** ([`kernel::Kernel`](engine::kernel::Kernel)): a WGSL file, the numbers that specialise it, and a workgroup
//!   count. It overwrites its one output.
//! * **Plan** ([`plan::Plan`](engine::plan::Plan)): the live part of a tape as a list of dispatches over slots, which values
//!   share. Passes before scheduling fuse primitives that one kernel can compute, and compute equal values once.
//! * **Executor** ([`gpu::Executor`](engine::gpu::Executor)): a plan bound to buffers on a device; it runs, profiles or traces
//!   the plan.
//!
//! A layer imports only from the layers above it, and a module only from the modules that its layer declares before it. Only
//! [`engine::gpu`] knows wgpu. A test reads both rules from the source.
//!
//! | layer | what it holds |
//! | --- | --- |
//! | [`engine`] | tensors, the tape, primitives, kernels, plans, devices |
//! | [`ssad`] | networks, augmentations, losses, the bilevel training step: tapes alone |
//! | [`proof`] | `check` and the sanitizer |
//! | [`data`] | images from folders, tables, archives and generators: listed, drawn, decoded once into a cache, read in batches |
//! | [`training`] | the training loop, scoring, the choice between starts |
//! | [`run`] | configurations, folders, checkpoints, reports, sweeps |
//! | [`measure`] | ceilings, benchmarks, profiles, and what a compiler makes of the kernels |
//! | command line | arguments, progress, exit codes: the binary |
//!
//! [`engine::reference`] evaluates a tape in f64, and [`proof::check`] holds every kernel and every backward rule against it.
//!
//! The first three layers are a library of their own: without the default feature `program` neither the other layers nor their
//! dependencies are compiled. [`engine::gpu`] says how an application that uses wgpu shares its device and its buffers.

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
