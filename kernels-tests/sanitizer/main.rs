//! The kernels under the sanitizer: an interpreter that runs them without a device and checks every access.

mod accuracy;
mod case;
mod catalogue;
mod planted;
mod portability;
mod trial;

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{iter, thread};

use case::Case;
use stssad::engine::kernel::{DeviceClass, Kernel};
use stssad::engine::shaders::{SOURCES, source};

/// Limit on the operations of one dispatch; the longest here takes a hundredth of it.
const LIMIT: u64 = 1 << 30;

/// Each kernel of a case, with the operations that it took, or why it fails.
fn check(case: &Case) -> Vec<(Kernel, Result<u64, String>)> {
    let reference = case.reference();
    let mut kernels: Vec<(DeviceClass, Kernel)> = Vec::new();
    for class in DeviceClass::ALL {
        // Most kernels are the same for all classes.
        let others = case.kernels(class).into_iter().filter(|kernel| kernels.iter().all(|(_, known)| known != kernel));
        kernels.extend(others.map(|kernel| (class, kernel)).collect::<Vec<_>>());
    }
    let checked = |(class, kernel): (DeviceClass, Kernel)| {
        let operations = Case::program(&kernel, source(&kernel).unwrap()).and_then(|program| {
            let outcomes = case.run(&kernel, &program, LIMIT);
            reference.check(&kernel, &outcomes)?;
            Ok(outcomes.iter().map(|outcome| outcome.operations).sum())
        });
        let described = |failure| format!("{case}, {class:?}, {:?} workgroups: {failure}", kernel.workgroups());
        let operations = operations.map_err(described);
        (kernel, operations)
    };
    kernels.into_iter().map(checked).collect()
}

/// What [`check`] gives of all cases, which the processor's cores take one after another.
fn check_all(cases: &[Case]) -> Vec<(Kernel, Result<u64, String>)> {
    let next = AtomicUsize::new(0);
    let take = || {
        let own = iter::from_fn(|| cases.get(next.fetch_add(1, Ordering::Relaxed)));
        own.flat_map(check).collect::<Vec<_>>()
    };
    thread::scope(|scope| {
        let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let taken: Vec<_> = (0..cores).map(|_| scope.spawn(take)).collect();
        taken.into_iter().flat_map(|core| core.join().expect("a failure is a result")).collect()
    })
}

#[test]
fn shipped_kernels_are_sound_and_right() {
    let (mut run, mut vectors, mut halves) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut operations = 0;
    let mut failures = Vec::new();
    for (kernel, checked) in check_all(&catalogue::cases()) {
        run.insert(kernel.name);
        vectors.extend(kernel.vectors.iter().map(|alias| (kernel.name, *alias)));
        halves.extend(kernel.halves.iter().map(|alias| (kernel.name, *alias)));
        match checked {
            Ok(own) => operations += own,
            Err(failure) => failures.push(failure),
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
