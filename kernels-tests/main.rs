//! Every kernel against its definition, every backward rule against differences, both against numbers from outside.
//!
//! A device is needed: any adapter will do, lavapipe too. Where there is none the tests fail and say what to install.

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

/// Seed of the data in all tests that do not draw their own.
const SEED: u64 = 1;

/// The device of all tests: `STSSAD_ADAPTER`, a number or a part of a name, or else the best.
fn device() -> &'static Device {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    DEVICE.get_or_init(|| {
        let choice = std::env::var("STSSAD_ADAPTER").map_or(Choice::Best, |adapter| Choice::from(&*adapter));
        let device = Device::open(&choice).unwrap_or_else(|error| panic!("{error}"));
        println!("device: {:?}", device.adapter());
        device
    })
}

/// Says it past the harness' capture, so that it stands in the output of a run that passes.
fn announce(what: &str) {
    writeln!(std::io::stdout(), "{what}").expect("standard output is open");
}

/// The catalogue's cases of one family.
fn family(name: &str) -> Vec<(ShapeClass, Case)> {
    cases().into_iter().filter(|(_, case)| case.family() == name).collect()
}
