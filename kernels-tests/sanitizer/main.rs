//! The kernels under the sanitizer: an interpreter that runs them without a device and watches what they do.

mod case;
mod catalogue;
mod interpreter;
mod planted;
mod portability;

use std::collections::BTreeSet;

use stssad::kernel::DeviceClass;
use stssad::shaders::{SOURCES, source};

/// Operations that one dispatch may take; the longest here takes a hundredth.
const LIMIT: u64 = 1 << 30;

#[test]
fn shipped_kernels_are_sound_and_right() {
    let mut run = BTreeSet::new();
    let mut failures = Vec::new();
    for case in catalogue::cases() {
        let reference = case.reference();
        for class in [DeviceClass::Gpu, DeviceClass::Cpu] {
            let kernel = case.kernel(class);
            run.insert(kernel.name);
            let outcome = case.run(&kernel, source(&kernel).unwrap(), LIMIT);
            if let Err(failure) = outcome.and_then(|outcome| reference.check(&outcome)) {
                failures.push(format!("{case}, {class:?}: {failure}"));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    let missing: Vec<_> = SOURCES.iter().map(|(name, _)| name).filter(|name| !run.contains(*name)).collect();
    assert!(missing.is_empty(), "no case runs {missing:?}");
}
