//! Wrong kernels must be caught: a check that never fails proves nothing.

use stssad::engine::case::Case;
use stssad::engine::kernel::{Kernel, Scalar};
use stssad::proof::check::{Fault, check_kernel, variants};

use crate::{SEED, WHOLE, device};

/// The fault found in the case's first kernel after `change`.
fn fault(case: &str, change: impl FnOnce(&mut Kernel)) -> Fault {
    let case: Case = case.parse().unwrap_or_else(|error| panic!("{error}"));
    let mut kernel = variants(&case).remove(0);
    change(&mut kernel);
    let failure = check_kernel(device(), &case, &kernel, WHOLE, SEED).expect_err("a wrong kernel passes");
    let message = failure.to_string();
    assert!(message.contains(kernel.name) && message.contains(&format!("'{case}'")), "{message}");
    failure.fault
}

fn immediate<'a>(kernel: &'a mut Kernel, name: &str) -> &'a mut Scalar {
    &mut kernel.immediates.iter_mut().find(|(other, _)| *other == name).unwrap().1
}

fn constant<'a>(kernel: &'a mut Kernel, name: &str) -> &'a mut Scalar {
    &mut kernel.constants.iter_mut().find(|(other, _)| *other == name).unwrap().1
}

#[test]
fn another_function() {
    let fault = fault("elementwise/unary(f=sigmoid,x=131)", |kernel| *constant(kernel, "FUNCTION") = 1u32.into());
    assert!(matches!(fault, Fault::Wrong { numbers: "integers", .. }), "{fault}");
}

#[test]
fn a_slightly_other_constant() {
    let case = "elementwise/unary(f=identity,scale=0.5,offset=0.25,x=131)";
    let fault = fault(case, |kernel| *immediate(kernel, "offset") = 0.250_001f32.into());
    assert!(matches!(fault, Fault::Wrong { .. }), "{fault}");
}

#[test]
fn a_missing_term() {
    let fault = fault("reduce/sum(x=5x13x7,from=1,to=2)", |kernel| *immediate(kernel, "terms") = 12u32.into());
    assert!(matches!(fault, Fault::Wrong { numbers: "integers", .. }), "{fault}");
}

#[test]
fn a_shifted_window() {
    let case = "conv2d/output(n=2,c=3,h=7,w=7,k=4,r=3,s=3,stride=2,padding=1)";
    let fault = fault(case, |kernel| *constant(kernel, "PADDING") = 0u32.into());
    assert!(!matches!(fault, Fault::Blind(_) | Fault::Gpu(_)), "{fault}");
}

#[test]
fn elements_that_nobody_writes() {
    let fault = fault("reduce/sum(x=1031x70,from=0,to=1)", |kernel| *kernel = kernel.clone().grid([1, 1, 1]));
    assert!(
        matches!(&fault, Fault::Damage(damage) if damage.contains("[0, 64]") && damage.contains("never written")),
        "{fault}"
    );
}

#[test]
fn a_write_behind_the_output() {
    let case = "layout/pad(x=5x7x3,axis=1,start=4,extent=13)";
    let fault = fault(case, |kernel| {
        *immediate(kernel, "outer") = 6u32.into();
        let [columns, _, layers] = kernel.workgroups().map(|count| count as usize);
        *kernel = kernel.clone().grid([columns, 6, layers]);
    });
    assert!(matches!(&fault, Fault::Damage(damage) if damage.contains("overwritten")), "{fault}");
}

#[test]
fn a_read_outside_of_an_input() {
    let fault = fault("layout/slice(x=7,axis=0,start=6,extent=1)", |kernel| *immediate(kernel, "first") = 7u32.into());
    assert!(matches!(&fault, Fault::Wrong { mismatch, .. } if mismatch.got.is_nan()), "{fault}");
}
