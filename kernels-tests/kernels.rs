//! Every case of the catalogue on the device, with the kernels of all device classes that the device can run.

use std::collections::BTreeSet;

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
use stssad::engine::case::Case;
use stssad::engine::case::ShapeClass;
use stssad::engine::gpu::{Executor, States};
use stssad::engine::kernel::{DeviceClass, Kernel, Lanes, Tile};
use stssad::engine::ops::{FAMILIES, cases, lowering};
use stssad::engine::plan::{Plan, Reuse};
use stssad::engine::tape::Tape;
use stssad::engine::tensor::Tensor;
use stssad::proof::check::{Trial, check_adjoint, check_kernel, has_adjoint, reference_of, variants};

use crate::{SEED, WHOLE, announce, device};

/// Whether the device runs kernels of the class. Mesa's CPU driver offers 8 × 8 matrices, but computes 16 × 16 in the
/// same way without offering them, so NVIDIA's kernels are tested on it.
fn suits(class: &DeviceClass) -> bool {
    let (offered, name) = (device().tiles(), &device().adapter().name);
    let is_tried = matches!(class, DeviceClass::Matrix(_)) && !offered.is_empty() && name.starts_with("llvmpipe");
    is_tried || device().classes().contains(class)
}

/// Whether the device meets the kernel's requirements.
pub fn runs(kernel: &Kernel) -> bool {
    kernel.needs().as_ref().is_none_or(suits)
}

#[test]
fn every_kernel_computes_its_definition() {
    let each = |(class, case): (ShapeClass, Case)| {
        let trial = if class == ShapeClass::Large { Trial::Brief } else { WHOLE };
        variants(&case).into_iter().map(move |kernel| (trial, case.clone(), kernel))
    };
    let (run, left_out): (Vec<_>, Vec<_>) = cases().into_iter().flat_map(each).partition(|(.., kernel)| runs(kernel));
    let failures: Vec<String> = run
        .par_iter()
        .filter_map(|(trial, case, kernel)| check_kernel(device(), case, kernel, *trial, SEED).err())
        .map(|failure| failure.to_string())
        .collect();
    for family in FAMILIES.iter().map(|family| family.name) {
        let count = left_out.iter().filter(|(_, case, _)| case.family() == family).count();
        if count > 0 {
            announce(&format!(
                "{family}: {count} kernels left out, for matrices or SIMD vectors that this device has not"
            ));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// The bits that the case's value has where its input `updated` lay, or in a buffer of its own.
fn updated(case: &Case, updated: usize, class: DeviceClass, reuse: Reuse) -> Vec<u32> {
    let (mut tape, mut states) = (Tape::new(), States::new(device()));
    let data: Vec<Tensor> = case.floats(SEED);
    for (index, tensor) in data.iter().enumerate() {
        states.set(&index.to_string(), tensor).unwrap();
    }
    let inputs: Vec<_> =
        (0..data.len()).map(|index| tape.state(&index.to_string(), data[index].shape().clone())).collect();
    let output = tape.apply(case.primitive.clone(), &inputs);
    let plan = Plan::new(&tape, &[], &[(inputs[updated], output)], class, reuse);
    assert_eq!(plan.copies().count(), usize::from(reuse == Reuse::Off && !plan.steps.is_empty()), "{case}: {plan}");
    Executor::new(device(), plan, &states, |_, _| ()).unwrap().run().unwrap();
    let name = updated.to_string();
    states.get(&name).unwrap().data().iter().map(|x| x.to_bits()).collect()
}

#[test]
fn kernels_compute_the_same_where_an_input_lies() {
    let is_small = |class: ShapeClass| !matches!(class, ShapeClass::Folded | ShapeClass::Large);
    let cases: Vec<Case> = cases().into_iter().filter(|(class, _)| is_small(*class)).map(|(_, case)| case).collect();
    let each = |case: &Case| -> Vec<(&'static str, usize)> {
        let Some(lowered) = lowering(&*case.primitive) else { return Vec::new() };
        let inputs = (0..case.inputs.len()).filter(|&input| lowered.updates(input, &case.shapes(), &case.output()));
        let compared = inputs.inspect(|&input| {
            for class in DeviceClass::ALL.into_iter().filter(suits) {
                let [there, elsewhere] = [Reuse::On, Reuse::Off].map(|reuse| updated(case, input, class, reuse));
                assert_eq!(there, elsewhere, "{case}: input {input}, {class}");
            }
        });
        compared.map(|input| (case.primitive.name(), input)).collect()
    };
    let updates: BTreeSet<(&str, usize)> = cases.par_iter().flat_map_iter(each).collect();
    assert!(
        updates.contains(&("optimiser/adam", 0)) && updates.contains(&("elementwise/multiply_add_2", 4)),
        "{updates:?}"
    );
}

#[test]
fn every_linear_primitive_has_its_adjoint() {
    let linear = |(class, case): &(ShapeClass, Case)| *class == ShapeClass::Training && has_adjoint(case);
    let cases: Vec<Case> = cases().into_iter().filter(linear).map(|(_, case)| case).collect();
    cases.par_iter().for_each(|case| {
        for class in DeviceClass::ALL.into_iter().filter(suits) {
            check_adjoint(device(), case, class, SEED).unwrap_or_else(|failure| panic!("{case}: {failure}"));
        }
    });
    // Every primitive declared linear is among them.
    let names = |cases: &[Case]| -> BTreeSet<&str> { cases.iter().map(|case| case.primitive.name()).collect() };
    let all: Vec<Case> = stssad::engine::ops::cases().into_iter().map(|(_, case)| case).filter(has_adjoint).collect();
    assert_eq!(names(&cases), names(&all));
}

/// Bounds must be tight to be useful: in root mean square, each is below a thousandth of the values, or a hundredth for
/// sums of tens of thousands of terms, where a single term has that share.
#[test]
fn bounds_would_show_an_error_of_a_thousandth() {
    let root_mean_square = |x: &[f64]| (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64).sqrt();
    for (class, case) in cases().iter().filter(|(class, _)| !matches!(class, ShapeClass::Folded | ShapeClass::Large)) {
        let Some(lowered) = lowering(&*case.primitive) else { continue };
        let kernel = lowered.kernel(&case.shapes(), &case.output(), DeviceClass::Gpu);
        let (want, bound) = reference_of(case, &kernel, &case.floats(SEED));
        let (bound, want) = (root_mean_square(&bound), root_mean_square(&want));
        let limit = if *class == ShapeClass::Training { 1e-2 } else { 1e-3 };
        assert!(bound <= limit * want, "{case}: {bound:e} of {want:e}");
    }
}

/// Windows wider than a tile, and wider than the image without its padding.
#[test]
fn kernels_of_wide_windows_are_solved_for() {
    for name in [
        "conv2d/kernel(n=3,c=2,h=40,w=41,k=3,r=33,s=33,stride=1,padding=0)",
        "conv2d/kernel(n=1,c=1,h=3,w=140,k=2,r=2,s=130,stride=3,padding=1)",
    ] {
        let case: Case = name.parse().unwrap();
        let kernel = lowering(&*case.primitive).unwrap().kernel(&case.shapes(), &case.output(), DeviceClass::Gpu);
        check_kernel(device(), &case, &kernel, WHOLE, SEED).unwrap_or_else(|failure| panic!("{failure}"));
    }
}

/// A sample of the tilings that a sweep would compare: compiling all takes minutes on some drivers.
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
        let kernels = lowering(&*case.primitive).unwrap().tilings(&case.shapes(), &case.output(), class);
        // Matrix units have few tilings; of the others a sample is enough.
        let (least, step) = match class {
            DeviceClass::Gpu => (15, 4),
            DeviceClass::Cpu(_) => (10, 19),
            DeviceClass::Matrix(_) => (4, 1),
        };
        assert!(kernels.len() >= least, "{name}: {} choices", kernels.len());
        let some: Vec<&Kernel> = kernels.iter().filter(|kernel| runs(kernel)).step_by(step).collect();
        some.par_iter().for_each(|kernel| {
            check_kernel(device(), &case, kernel, WHOLE, SEED)
                .unwrap_or_else(|failure| panic!("{:?}: {failure}", kernel.constants));
        });
    }
}
