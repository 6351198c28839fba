//! The kernels under the sanitizer: an interpreter that runs them without a device and checks every access.

mod accuracy;
mod case;
mod catalogue;
mod planted;
mod portability;
mod trial;

use std::collections::BTreeSet;

use case::Case;
use stssad::engine::kernel::DeviceClass;
use stssad::engine::shaders::{SOURCES, source};

/// Limit on the operations of one dispatch; the longest here takes a hundredth of it.
const LIMIT: u64 = 1 << 30;

#[test]
fn shipped_kernels_are_sound_and_right() {
    let (mut run, mut vectors, mut halves) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut operations = 0;
    let mut failures = Vec::new();
    for case in catalogue::cases() {
        let reference = case.reference();
        for class in DeviceClass::ALL {
            for kernel in case.kernels(class) {
                run.insert(kernel.name);
                vectors.extend(kernel.vectors.iter().map(|alias| (kernel.name, *alias)));
                halves.extend(kernel.halves.iter().map(|alias| (kernel.name, *alias)));
                let checked = Case::program(&kernel, source(&kernel).unwrap()).and_then(|program| {
                    let outcomes = case.run(&kernel, &program, LIMIT);
                    operations += outcomes.iter().map(|outcome| outcome.operations).sum::<u64>();
                    reference.check(&kernel, &outcomes)
                });
                if let Err(failure) = checked {
                    failures.push(format!("{case}, {class:?}, {:?} workgroups: {failure}", kernel.workgroups()));
                }
            }
        }
    }
    println!("{operations} operations");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    let missing: Vec<_> = SOURCES.iter().map(|(name, _)| name).filter(|name| !run.contains(*name)).collect();
    assert!(missing.is_empty(), "no case runs {missing:?}");
    // Operands stored in f16 but computed in f32 have aliases named `Stored…`.
    let aliases = |is_meant: fn(&str) -> bool| {
        let lines = SOURCES.iter().flat_map(|(name, text)| text.lines().map(move |line| (*name, line)));
        lines.filter_map(move |(name, line)| {
            let (alias, _) = line.strip_prefix("alias ")?.split_once(" = f32;")?;
            is_meant(line).then_some((name, alias))
        })
    };
    let missing: Vec<_> = aliases(|line| line.ends_with("// or f16")).filter(|alias| !halves.contains(alias)).collect();
    assert!(missing.is_empty(), "no case has halves for {missing:?}");
    let missing: Vec<_> =
        aliases(|line| !line.contains("alias Stored")).filter(|alias| !vectors.contains(alias)).collect();
    assert!(missing.is_empty(), "no case has vectors for {missing:?}");
}
