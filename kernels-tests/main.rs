//! Tests every kernel against its definition, every backward rule against differences, and both against reference
//! values.
//!
//! The tests need a device; any adapter will do, including lavapipe. Without one they fail and say what to install.

mod completeness;
mod golden;
mod half;
mod kernels;
mod layers;
mod planted;
mod properties;
mod rules;
mod source;
mod special;
mod step;

use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use stssad::engine::gpu::{Choice, Device};
use stssad::proof::check::Trial;

/// Seed of the data in all tests without their own.
const SEED: u64 = 1;
/// Everything that a kernel is run on.
const WHOLE: Trial = Trial::Whole { runs: 2 };

/// The device of this thread's tests: the adapter that `STSSAD_ADAPTER` names (a number or part of a name), or the best. Every other
/// thread opens it once more, since Mesa's CPU driver compiles the kernels of a device one after another.
fn device() -> &'static Device {
    static DEVICES: [OnceLock<Device>; 2] = [OnceLock::new(), OnceLock::new()];
    static THREADS: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static OWN: &'static OnceLock<Device> = &DEVICES[THREADS.fetch_add(1, Ordering::Relaxed) % DEVICES.len()]);
    OWN.with(|own| *own).get_or_init(|| {
        let choice = std::env::var("STSSAD_ADAPTER").map_or(Choice::Best, |adapter| Choice::from(&*adapter));
        let device = Device::open(&choice).unwrap_or_else(|error| panic!("{error}"));
        println!("device: {:?}", device.adapter());
        device
    })
}

/// Prints past the harness's capture, so that it shows in the output of a passing run.
fn announce(what: &str) {
    writeln!(std::io::stdout(), "{what}").expect("standard output is open");
}
