//! The kernels under the sanitizer.

mod case;
mod catalogue;
mod interpreter;

use stssad::kernel::DeviceClass;
use stssad::shaders;

const LIMIT: u64 = 1 << 32;

#[test]
fn shipped_kernels_are_sound_and_right() {
    let mut failures = Vec::new();
    for case in catalogue::cases() {
        let reference = case.reference();
        for class in [DeviceClass::Gpu, DeviceClass::Cpu] {
            let kernel = case.kernel(class);
            let start = std::time::Instant::now();
            let text = shaders::source(&kernel).unwrap();
            let checked = case.run(&kernel, text, LIMIT).and_then(|outcome| {
                eprintln!("{case}: {class:?} {} {:?} {} ops, {:?}", kernel.name, kernel.workgroups, outcome.operations, start.elapsed());
                reference.check(&outcome)
            });
            if let Err(failure) = checked {
                failures.push(format!("{case}: {class:?} {}: {failure}", kernel.name));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
