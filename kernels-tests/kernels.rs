//! Every case of the catalogue on the device, with the kernels of all device classes that it runs.

use std::collections::BTreeSet;

use stssad::engine::kernel::{DeviceClass, Kernel, Lanes, Tile};
use stssad::proof::check::catalogue::{FAMILIES, ShapeClass, cases};
use stssad::proof::check::{Case, check_adjoint, check_kernel, has_adjoint, variants};

use crate::{SEED, announce, device, family};

/// Whether the device runs kernels of the class. Mesa's CPU driver offers matrices of 8 × 8, and what it makes of those is
/// what it makes of 16 × 16, which it does not offer: NVIDIA's kernels are tested on it.
fn suits(class: &DeviceClass) -> bool {
    let (offered, name) = (device().tiles(), &device().adapter().name);
    let is_tried = matches!(class, DeviceClass::Matrix(_)) && !offered.is_empty() && name.starts_with("llvmpipe");
    is_tried || device().classes().contains(class)
}

/// Whether the device has what the kernel asks for.
pub fn runs(kernel: &Kernel) -> bool {
    kernel.needs().as_ref().is_none_or(suits)
}

fn check(name: &str) {
    let cases = family(name);
    let kernels = || cases.iter().flat_map(|(_, case)| variants(case).into_iter().map(move |kernel| (case, kernel)));
    let failures: Vec<String> = kernels()
        .filter(|(_, kernel)| runs(kernel))
        .filter_map(|(case, kernel)| check_kernel(device(), case, &kernel, SEED).err())
        .map(|failure| failure.to_string())
        .collect();
    let left_out = kernels().filter(|(_, kernel)| !runs(kernel)).count();
    if left_out > 0 {
        announce(&format!(
            "{name}: {left_out} kernels left out, for matrices or SIMD vectors that this device has not"
        ));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn check_adjoints(name: &str) {
    let training = family(name).into_iter().filter(|(class, case)| *class == ShapeClass::Training && has_adjoint(case));
    let mut checked = 0;
    for (_, case) in training {
        for class in DeviceClass::ALL.into_iter().filter(suits) {
            check_adjoint(device(), &case, class, SEED).unwrap_or_else(|failure| panic!("{case}: {failure}"));
            checked += 1;
        }
    }
    assert!(checked > 0, "no adjoint identity in {name}");
}

macro_rules! families {
    ($($test:ident of $check:ident: $($family:ident)*;)*) => {
        $(mod $test {
            pub const RUN: &[&str] = &[$(stringify!($family)),*];

            $(#[test]
            fn $family() {
                super::$check(stringify!($family));
            })*
        })*
    };
}

families! {
    kernels of check: conv2d cutdiff elementwise layout matmul optimiser pool random reduce softbox sort warp;
    adjoints of check_adjoints: conv2d layout matmul pool reduce sort warp;
}

#[test]
fn every_family_is_run_on_the_device() {
    let set = |families: &[&'static str]| -> BTreeSet<&'static str> { families.iter().copied().collect() };
    assert_eq!(set(kernels::RUN), set(&FAMILIES));
    let in_catalogue: BTreeSet<&str> = cases().iter().map(|(_, case)| case.family()).collect();
    assert_eq!(set(kernels::RUN), in_catalogue);
    let linear = cases().into_iter().filter(|(class, case)| *class == ShapeClass::Training && has_adjoint(case));
    assert_eq!(set(adjoints::RUN), linear.map(|(_, case)| case.family()).collect());
}

/// A bound that everything meets shows nothing: in root mean square, each is below a thousandth of the values, and below a
/// hundredth where a sum has tens of thousands of terms, of which a single one is that large a share.
#[test]
fn bounds_would_show_an_error_of_a_thousandth() {
    let root_mean_square = |x: &[f64]| (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64).sqrt();
    for (class, case) in cases().iter().filter(|(class, _)| *class != ShapeClass::Folded) {
        let (want, bound) = case.reference(&case.floats(SEED));
        let (bound, want) = (root_mean_square(&bound), root_mean_square(&want));
        let limit = if *class == ShapeClass::Training { 1e-2 } else { 1e-3 };
        assert!(bound <= limit * want, "{case}: {bound:e} of {want:e}");
    }
}

/// Of windows so wide that the partial sums of a row's taps would not fit the workgroup memory of every device, were there as
/// many as elsewhere.
#[test]
fn kernels_of_wide_windows_are_solved_for() {
    for name in [
        "conv2d/kernel(n=3,c=2,h=40,w=41,k=3,r=33,s=33,stride=1,padding=0)",
        "conv2d/kernel(n=1,c=1,h=3,w=140,k=2,r=2,s=130,stride=3,padding=1)",
    ] {
        let case: Case = name.parse().unwrap();
        let kernel = case.primitive.kernel(&case.shapes(), &case.output(), DeviceClass::Gpu);
        check_kernel(device(), &case, &kernel, SEED).unwrap_or_else(|failure| panic!("{failure}"));
    }
}

/// Those that a sweep would compare, every so many of them: compiling all takes minutes on some drivers.
#[test]
fn kernels_compute_the_same_under_other_tiles() {
    let cases = [
        "conv2d/output(n=2,c=3,h=9,w=7,k=10,r=3,s=3,stride=2,padding=1)",
        "conv2d/input(n=2,c=3,h=9,w=7,k=10,r=3,s=3,stride=2,padding=1)",
        "conv2d/kernel(n=2,c=3,h=9,w=7,k=10,r=3,s=3,stride=2,padding=1)",
        "matmul/product(m=37,n=29,k=19,ta=1,tb=0)",
    ];
    let matrix = [Tile::Eight, Tile::Sixteen].map(DeviceClass::Matrix);
    let classes = [DeviceClass::Gpu, DeviceClass::Cpu(Lanes::Eight), matrix[0], matrix[1]];
    for (name, class) in cases.iter().flat_map(|name| classes.map(|class| (name, class))) {
        let case: Case = name.parse().unwrap();
        let kernels = case.primitive.tilings(&case.shapes(), &case.output(), class);
        // Matrix units have few; of the others every so many are enough.
        let (least, step) = match class {
            DeviceClass::Gpu => (20, 19),
            DeviceClass::Cpu(_) => (10, 19),
            DeviceClass::Matrix(_) => (4, 1),
        };
        assert!(kernels.len() >= least, "{name}: {} choices", kernels.len());
        for kernel in kernels.iter().filter(|kernel| runs(kernel)).step_by(step) {
            check_kernel(device(), &case, kernel, SEED)
                .unwrap_or_else(|failure| panic!("{:?}: {failure}", kernel.constants));
        }
    }
}
