//! The bounds hold on a device that is as inaccurate as the WGSL specification allows.
//!
//! The kernels' own text is interpreted, and each operation errs as far as "Floating Point Accuracy" permits: sums and
//! products go to either neighbour by chance, quotients, roots, exponentials and logarithms err by up to their limits
//! in ULP, subnormals are flushed by chance, fma is fused or not. Results have to stay inside of what `Primitive::bound`
//! says, and integers have to stay exact. Accesses outside of a buffer or an array end the run.

mod interpreter;
mod rounding;

use stssad::check::catalogue::{ShapeClass, cases};
use stssad::check::{Case, compare, variants};
use stssad::kernel::Kernel;
use stssad::shaders::specialise;
use stssad::tensor::Tensor;

use crate::SEED;
use interpreter::Program;

/// Floating-point operations of a case that can be interpreted in no time.
const SMALL: u64 = 60_000;

fn program(kernel: &Kernel) -> Program {
    Program::new(&specialise(kernel).unwrap_or_else(|error| panic!("{error}")))
}

fn interpret(program: &Program, case: &Case, kernel: &Kernel, inputs: &[Tensor], seed: u64) -> Tensor {
    let output = case.output();
    let data = program
        .run(kernel, inputs, output.count(), seed)
        .unwrap_or_else(|fault| panic!("{} in {case}: {fault}", kernel.name));
    Tensor::new(output, data)
}

fn check(family: &str) {
    let mut worst = 0f64;
    let mut count = 0;
    for (class, case) in crate::family(family) {
        let is_small = case.primitive.flops(&case.shapes(), &case.output()) <= SMALL && case.elements() <= 10_000;
        if !is_small || matches!(class, ShapeClass::Folded | ShapeClass::Training) {
            continue;
        }
        for kernel in variants(&case) {
            let program = program(&kernel);
            if case.exact {
                let inputs = case.integers(SEED);
                let (want, _) = case.reference(&inputs);
                let got = interpret(&program, &case, &kernel, &inputs, SEED);
                compare(&got, &want, &vec![0.0; want.len()])
                    .unwrap_or_else(|mismatch| panic!("{case} by {}, integers: {mismatch}", kernel.name));
            }
            for seed in 0..3 {
                let inputs = case.floats(seed);
                let (want, bound) = case.reference(&inputs);
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
    // Copies have no error, and no bound.
    assert!(
        worst > 0.05 || ["layout", "random"].contains(&family),
        "the bounds of {family} are never approached: {worst}"
    );
}

macro_rules! families {
    ($($family:ident)*) => {
        $(#[test]
        fn $family() {
            check(stringify!($family));
        })*
    };
}

families! { conv2d cutdiff elementwise layout matmul optimiser pool random reduce warp }

#[test]
fn every_shader_is_interpreted() {
    let ran: std::collections::BTreeSet<&str> = cases()
        .iter()
        .filter(|(class, case)| {
            case.primitive.flops(&case.shapes(), &case.output()) <= SMALL
                && case.elements() <= 10_000
                && !matches!(class, ShapeClass::Folded | ShapeClass::Training)
        })
        .flat_map(|(_, case)| variants(case))
        .map(|kernel| kernel.name)
        .collect();
    assert_eq!(ran.len(), stssad::shaders::SOURCES.len(), "{ran:?}");
}

#[test]
fn an_access_outside_of_a_buffer_ends_the_run() {
    let case: Case = "layout/slice(x=7,axis=0,start=6,extent=1)".parse().unwrap();
    let mut kernel = variants(&case).remove(0);
    kernel.immediates.iter_mut().find(|(name, _)| *name == "first").unwrap().1 = 7u32.into();
    let fault = program(&kernel).run(&kernel, &case.floats(1), 1, 1).unwrap_err();
    assert!(fault.contains("element 7 of `x`, which has 7"), "{fault}");
}
