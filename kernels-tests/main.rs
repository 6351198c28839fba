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

use stssad::engine::case::Case;
use stssad::engine::case::ShapeClass;
use stssad::engine::gpu::{Choice, Device};
use stssad::engine::ops::cases;
use stssad::proof::check::Trial;

/// Seed of the data in all tests without their own.
const SEED: u64 = 1;
/// Everything that a kernel is run on.
const WHOLE: Trial = Trial::Whole { runs: 2 };

/// The device of all tests: `STSSAD_ADAPTER` (a number or part of a name), or the best.
fn device() -> &'static Device {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    DEVICE.get_or_init(|| {
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

/// The cases of one family.
fn family(name: &str) -> Vec<(ShapeClass, Case)> {
    cases().into_iter().filter(|(_, case)| case.family() == name).collect()
}
