//! The bounds hold on a device as inaccurate as the WGSL specification allows.
//!
//! The kernels' WGSL is interpreted, and each operation rounds as badly as "Floating Point Accuracy" allows: sums and
//! products go to a random neighbour; quotients, roots, exponentials and logarithms err by up to their limits in ULP;
//! subnormals are flushed at random; fma is fused or not. Results must stay within `Primitive::bound`, and integers
//! must stay exact.

use std::collections::BTreeSet;

use stssad::engine::case::Case;
use stssad::engine::case::ShapeClass;
use stssad::engine::kernel::Kernel;
use stssad::engine::ops::{FAMILIES, cases};
use stssad::engine::shaders::{SOURCES, specialise};
use stssad::engine::tensor::Tensor;
use stssad::proof::check::{compare, is_small, reference_of, variants};
use stssad::proof::sanitizer::rounding::with_errors;
use stssad::proof::sanitizer::{Buffer, Dispatch, Program, lower};

use crate::case::SUBGROUPS;

/// Functions whose accuracy the interpreter does not model.
const UNKNOWN: [&str; 12] =
    ["exp2", "log2", "inverseSqrt", "sin", "cos", "tan", "tanh", "atan", "atan2", "pow", "mix", "fract"];

/// The cases that are interpreted quickly.
fn small_cases() -> Vec<Case> {
    cases()
        .into_iter()
        .filter(|(class, case)| is_small(case) && !matches!(class, ShapeClass::Folded | ShapeClass::Training))
        .map(|(_, case)| case)
        .collect()
}

fn program(kernel: &Kernel) -> Program {
    let source = specialise(kernel).unwrap_or_else(|error| panic!("{error}"));
    for function in UNKNOWN {
        assert!(!source.contains(&format!(" {function}(")), "{} calls {function}", kernel.name);
    }
    lower(kernel.name, &source).unwrap_or_else(|refusal| panic!("{refusal}"))
}

fn interpret(program: &Program, case: &Case, kernel: &Kernel, inputs: &[Tensor], seed: u64) -> Tensor {
    let output = case.output();
    let immediates: Vec<u32> = kernel.immediates.iter().map(|(_, value)| value.to_bits()).collect();
    let filled = inputs.iter().map(|input| Buffer::Filled(input.data()));
    let buffers = filled.chain([Buffer::Unwritten(output.count())]).collect();
    let (workgroups, limit) = (kernel.workgroups(), crate::LIMIT);
    let dispatch =
        Dispatch { workgroups, immediates: &immediates, buffers, subgroup: SUBGROUPS[SUBGROUPS.len() - 1], limit };
    let outcome = with_errors(seed, || program.run(&dispatch));
    assert!(outcome.reports.is_empty(), "{case}: {:?}", outcome.reports);
    Tensor::new(output, outcome.output)
}

fn check(family: &str) {
    let mut worst = 0f64;
    let mut count = 0;
    for case in small_cases().into_iter().filter(|case| case.family() == family) {
        for kernel in variants(&case) {
            let program = program(&kernel);
            if case.says.exact {
                let inputs = case.integers(1);
                let (want, _) = reference_of(&case, &kernel, &inputs);
                let got = interpret(&program, &case, &kernel, &inputs, 1);
                compare(&got, &want, &vec![0.0; want.len()])
                    .unwrap_or_else(|mismatch| panic!("{case} by {}, integers: {mismatch}", kernel.name));
            }
            for seed in 0..3 {
                let inputs = case.floats(seed);
                let (want, bound) = reference_of(&case, &kernel, &inputs);
                let got = interpret(&program, &case, &kernel, &inputs, seed);
                compare(&got, &want, &bound)
                    .unwrap_or_else(|mismatch| panic!("{case} by {}, seed {seed}: {mismatch}", kernel.name));
                let errors = got.data().iter().zip(&want).map(|(got, want)| (f64::from(*got) - want).abs());
                let shares = errors.zip(&bound).filter(|(_, bound)| **bound > 0.0).map(|(error, bound)| error / bound);
                worst = shares.fold(worst, f64::max);
            }
            count += 1;
        }
    }
    println!("{family}: {count} kernels at shapes, the worst error is {:.0} % of its bound", 100.0 * worst);
    assert!(count > 0);
    // Copies have no error and no bound; a scattered sum of a few such draws is mostly exact.
    assert!(
        worst > 0.05 || ["layout", "random", "sort"].contains(&family),
        "the bounds of {family} are never approached: {worst}"
    );
}

#[test]
fn every_family_stays_inside_of_its_bounds() {
    std::thread::scope(|scope| {
        for family in FAMILIES {
            scope.spawn(|| check(family.name));
        }
    });
}

#[test]
fn every_shader_is_interpreted() {
    let ran: BTreeSet<&str> = small_cases().iter().flat_map(variants).map(|kernel| kernel.name).collect();
    assert_eq!(ran, SOURCES.iter().map(|(name, _)| *name).collect());
}
