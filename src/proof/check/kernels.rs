//! A case's kernel on a device, against the f64 definition.

use std::fmt;

use super::compare::{Mismatch, compare_at, control};
use super::pattern;
use crate::engine::bounds::stored_f16_bound;
use crate::engine::case::{Case, Draws, widen};
use crate::engine::gpu::{Device, GpuError, Isolated};
use crate::engine::kernel::{DeviceClass, Kernel};
use crate::engine::ops::lowering;
use crate::engine::tape::{Arithmetic, Array, Primitive};
use crate::engine::tensor::{Shape, Tensor};

/// What is wrong.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// On inputs of this kind, the output differs from the definition.
    Wrong {
        numbers: &'static str,
        mismatch: Box<Mismatch>,
    },
    /// The kernel wrote outside its output, or left elements of it unwritten.
    Damage(String),
    /// Two runs on the same inputs differ; these are the first coordinates.
    Undetermined {
        coordinates: Vec<usize>,
        values: [f32; 2],
    },
    /// The comparison accepts a wrong answer: the check itself is at fault.
    Blind(String),
    /// What the [sanitizer](crate::proof::sanitizer) finds, line by line, or why it refuses the kernel.
    Sanitizer(Vec<String>),
    Gpu(Box<GpuError>),
    /// An identity, a rule or a step that does not hold, in words.
    Broken(String),
    /// The process that ran it ended, as this says: most often, its driver crashed.
    Crashed(String),
    /// It took longer than so many seconds.
    Endless(u64),
}

impl Fault {
    /// A word for it.
    pub fn kind(&self) -> &'static str {
        match self {
            Fault::Wrong { .. } => "wrong",
            Fault::Damage(_) => "damage",
            Fault::Undetermined { .. } => "undetermined",
            Fault::Blind(_) => "blind",
            Fault::Sanitizer(_) => "sanitizer",
            Fault::Gpu(_) => "device",
            Fault::Broken(_) => "broken",
            Fault::Crashed(_) => "crashed",
            Fault::Endless(_) => "endless",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Fault::Wrong { numbers, mismatch } => write!(f, "with {numbers}, {mismatch}"),
            Fault::Damage(damage) => f.write_str(damage),
            Fault::Undetermined { coordinates, values: [first, second] } => {
                write!(f, "two runs differ at {coordinates:?}: {first:e}, then {second:e}")
            }
            Fault::Blind(reason) => f.write_str(reason),
            Fault::Sanitizer(reports) => {
                write!(f, "the sanitizer finds {}", reports.join("; "))
            }
            Fault::Gpu(error) => match &**error {
                GpuError::Refused { at, reason } => write!(f, "the driver refused {at}: {reason}"),
                error => error.fmt(f),
            },
            Fault::Broken(text) => f.write_str(text),
            Fault::Crashed(how) => {
                write!(f, "the process that ran it {how}; most often a driver crashes so on a kernel")
            }
            Fault::Endless(seconds) => {
                write!(f, "it did not end within {seconds} s and was killed; --limit gives it more time")
            }
        }
    }
}

/// A failed case, with what it takes to reproduce it: `stssad check --seed SEED 'CASE'`.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{variant} is wrong for '{case}', seed {seed}: {fault}")]
pub struct Failure {
    pub case: String,
    /// The kernel, by the name of its file.
    pub variant: &'static str,
    pub fault: Fault,
    pub seed: u64,
}

/// The distinct kernels of a case over all device classes, and each with every eligible buffer stored as f16. An alias
/// has none.
pub fn variants(case: &Case) -> Vec<Kernel> {
    let mut kernels: Vec<Kernel> = Vec::new();
    let Some(lowered) = lowering(&*case.primitive) else { return kernels };
    let (shapes, output) = (case.shapes(), case.output());
    for class in DeviceClass::ALL {
        let kernel = lowered.kernel(&shapes, &output, class);
        for kernel in [kernel.halved(), Some(kernel)].into_iter().rev().flatten() {
            if !kernels.contains(&kernel) {
                kernels.push(kernel);
            }
        }
    }
    kernels
}

/// The largest allowed error of each element of `kernel`'s output; `want` is the definition of `primitive` at `inputs`.
pub fn tolerance(
    primitive: &dyn Primitive,
    kernel: &Kernel,
    inputs: &[Array],
    output: &Shape,
    want: &[f64],
) -> Vec<f64> {
    as_stored(kernel, inputs.len(), want, primitive.bound(inputs, output, arithmetic(kernel)))
}

fn arithmetic(kernel: &Kernel) -> Arithmetic {
    if kernel.tile().is_some() { Arithmetic::MatrixUnits } else { Arithmetic::F32 }
}

/// The bounds of what a kernel with so many inputs stores.
fn as_stored(kernel: &Kernel, inputs: usize, want: &[f64], bound: Vec<f64>) -> Vec<f64> {
    match kernel.is_half(inputs) {
        true => want.iter().zip(bound).map(|(&want, bound)| stored_f16_bound(want, bound)).collect(),
        false => bound,
    }
}

/// Reads `inputs` as the definition does.
pub(super) fn with_arrays<'a, T>(inputs: impl IntoIterator<Item = &'a Tensor>, read: impl FnOnce(&[Array]) -> T) -> T {
    let inputs: Vec<(&Shape, Vec<f64>)> = inputs.into_iter().map(|input| (input.shape(), widen(input))).collect();
    let arrays: Vec<Array> = inputs.iter().map(|(shape, data)| Array { shape, data }).collect();
    read(&arrays)
}

/// The definition at `inputs`, and the bound that `kernel` must keep for each element.
pub fn reference_of(case: &Case, kernel: &Kernel, inputs: &[Tensor]) -> (Vec<f64>, Vec<f64>) {
    with_arrays(inputs, |arrays| {
        let output = case.output();
        let want = case.primitive.eval(arrays, &output);
        let bound = tolerance(&*case.primitive, kernel, arrays, &output, &want);
        (want, bound)
    })
}

/// Terms of a case from which on its definition is evaluated for a sample of its elements.
const TERMS: u64 = 1 << 25;
/// Terms of a sample, and its least and most elements.
const SAMPLED_TERMS: u64 = 1 << 23;
const SAMPLE: [u64; 2] = [128, 4096];

/// Most elements that are looked at besides a sample since another kernel disagrees.
const DISPUTED: usize = 64;

/// The elements of a case's output whose definition is evaluated: all, or a sample where that would take seconds.
#[derive(Clone, Debug, PartialEq)]
pub enum Looked {
    All(usize),
    /// In ascending order.
    At(Vec<usize>),
}

impl Looked {
    /// Half of a sample lies anywhere. The other half lies at borders: along each axis at an end, or next to it, or anywhere.
    pub fn of(case: &Case, seed: u64) -> Looked {
        let shape = case.output();
        let terms = case.flops() / 2;
        let for_each = terms / shape.count() as u64;
        if terms < TERMS || for_each < 8 {
            return Looked::All(shape.count());
        }
        let count = (SAMPLED_TERMS / for_each).clamp(SAMPLE[0], SAMPLE[1]);
        let mut draws = Draws::new(seed, u32::MAX - 1);
        let mut element = |index: u64| {
            let place = |element: usize, &extent: &usize| {
                let last = extent as i64 - 1;
                let anywhere = draws.integer(0, last);
                let at = [0, 1, last - 1, last, anywhere, anywhere][draws.integer(0, 5) as usize].clamp(0, last);
                element * extent + if index.is_multiple_of(2) { anywhere } else { at } as usize
            };
            shape.iter().fold(0, place)
        };
        let mut elements: Vec<usize> = [0, shape.count() - 1].into_iter().chain((0..count).map(&mut element)).collect();
        elements.sort_unstable();
        elements.dedup();
        Looked::At(elements)
    }

    /// A sample with these further elements.
    fn and(self, others: impl FnOnce() -> Vec<usize>) -> Looked {
        match self {
            Looked::All(count) => Looked::All(count),
            Looked::At(mut elements) => {
                elements.extend(others());
                elements.sort_unstable();
                elements.dedup();
                Looked::At(elements)
            }
        }
    }

    fn elements(&self) -> Box<dyn Iterator<Item = usize> + '_> {
        match self {
            Looked::All(count) => Box::new(0..*count),
            Looked::At(elements) => Box::new(elements.iter().copied()),
        }
    }

    /// The definition of these elements at `inputs`, and their bounds.
    fn reference(&self, case: &Case, kernel: &Kernel, inputs: &[Tensor]) -> [Vec<f64>; 2] {
        match self {
            Looked::All(_) => reference_of(case, kernel, inputs).into(),
            Looked::At(elements) => with_arrays(inputs, |arrays| {
                let [want, bound] = case.primitive.sample(arrays, &case.output(), arithmetic(kernel), elements);
                let bound = as_stored(kernel, inputs.len(), &want, bound);
                [want, bound]
            }),
        }
    }
}

/// Kinds of numbers, as faults name them.
const HALVES: &str = "floats exact in f16";
const EDGES: &str = "numbers of all magnitudes";
const SPECIALS: &str = "NaN and infinities";

/// The numbers that a kernel is run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trial {
    /// Integers and floats, once each: enough for an index or a term that is wrong.
    Brief,
    /// All, and the floats so many times, which must not differ in a bit.
    Whole { runs: usize },
}

/// Runs one of the case's [`variants`] on isolated buffers: on integers; on floats; on [edges](Case::edges); on NaN and
/// infinities where the definition covers them; and on NaN that must show in the output. A kernel that rounds its factors to
/// f16 has no edges, since most of them are beyond f16; it also runs on floats that are exact in f16, which tests the bound
/// of its sums alone. Of long sums a [sample](Looked) is compared, and of integers also where another kernel of the case, if
/// the device has one, computes something else.
///
/// # Errors
/// The first fault found.
pub fn check_kernel(device: &Device, case: &Case, kernel: &Kernel, trial: Trial, seed: u64) -> Result<(), Failure> {
    let failure = |fault: Fault| Failure { case: case.to_string(), variant: kernel.name, fault, seed };
    let run = |numbers: &'static str, inputs: &[Tensor]| {
        let isolated = device
            .run_isolated(kernel, inputs, &case.output())
            .map_err(|error| failure(Fault::Gpu(Box::new(error))))?;
        match isolated.damage {
            Some(damage) => Err(failure(Fault::Damage(format!("with {numbers}, {damage}")))),
            None => Ok(isolated.output),
        }
    };
    let sample = Looked::of(case, seed);
    // Where WGSL leaves a result open, its bound is infinite, and any result is right.
    let hold = |looked: &Looked, numbers: &'static str, got: &Tensor, [want, tolerance]: [Vec<f64>; 2]| {
        let reference: Vec<(usize, usize)> =
            looked.elements().enumerate().filter(|&(place, _)| tolerance[place] != f64::INFINITY).collect();
        let elements = reference.iter().map(|&(_, element)| element);
        compare_at(got, elements, |index| (want[reference[index].0], tolerance[reference[index].0]))
            .map_err(|mismatch| failure(Fault::Wrong { numbers, mismatch: Box::new(mismatch) }))?;
        if 2 * reference.len() < want.len() {
            let open = want.len() - reference.len();
            return Err(failure(Fault::Blind(format!("with {numbers}, {open} of {} results are open", want.len()))));
        }
        let (place, element) = reference[Draws::new(seed, u32::MAX).integer(0, reference.len() as i64 - 1) as usize];
        control(got, element, want[place], tolerance[place]).map_err(|reason| failure(Fault::Blind(reason)))
    };

    let runs = match trial {
        Trial::Brief => 1,
        Trial::Whole { runs } => runs,
    };
    let is_whole = trial != Trial::Brief;

    let inputs = case.integers(seed);
    let got = run("integers", &inputs)?;
    let is_exact = case.says.exact && !kernel.is_half(inputs.len());
    let looked = match is_exact && (is_whole || device.replaces(kernel)) {
        true => sample.clone().and(|| disputed(device, case, kernel, &inputs, &got)),
        false => sample.clone(),
    };
    let [want, bound] = looked.reference(case, kernel, &inputs);
    let tolerance = if is_exact { vec![0.0; want.len()] } else { bound };
    hold(&looked, "integers", &got, [want, tolerance])?;

    if kernel.tile().is_some() {
        let inputs = case.halves(seed);
        hold(&sample, HALVES, &run(HALVES, &inputs)?, sample.reference(case, kernel, &inputs))?;
    }
    if is_whole && kernel.tile().is_none() && kernel.halves.is_empty() {
        let inputs = case.edges(seed);
        hold(&sample, EDGES, &run(EDGES, &inputs)?, sample.reference(case, kernel, &inputs))?;
    }
    if is_whole {
        for inputs in case.specials(seed) {
            let (want, _) = reference_of(case, kernel, &inputs);
            hold_specials(&run(SPECIALS, &inputs)?, &want, is_same).map_err(failure)?;
        }
        for inputs in case.nans(seed) {
            let (want, _) = reference_of(case, kernel, &inputs);
            let is_kept = |got: f32, want: f64| !want.is_nan() || !got.is_finite();
            hold_specials(&run(SPECIALS, &inputs)?, &want, is_kept).map_err(failure)?;
        }
    }

    let inputs = case.floats(seed);
    let got = run("floats", &inputs)?;
    hold(&sample, "floats", &got, sample.reference(case, kernel, &inputs))?;
    for _ in 1..runs {
        let again = run("floats", &inputs)?;
        let is_other = |index: &usize| got.data()[*index].to_bits() != again.data()[*index].to_bits();
        if let Some(index) = (0..got.data().len()).find(is_other) {
            return Err(failure(Fault::Undetermined {
                coordinates: got.shape().coordinates(index),
                values: [got.data()[index], again.data()[index]],
            }));
        }
    }
    Ok(())
}

/// Elements of `got`, which `kernel` made of `inputs`, for which another kernel of the case has another value: the first ones.
fn disputed(device: &Device, case: &Case, kernel: &Kernel, inputs: &[Tensor], got: &Tensor) -> Vec<usize> {
    let rival = rival(device, case, kernel);
    // A rival that fails has a check of its own.
    match rival.map(|rival| device.run_isolated(&rival, inputs, &case.output())) {
        Some(Ok(Isolated { output, damage: None })) => {
            let differs = |&element: &usize| got.data()[element] != output.data()[element];
            (0..got.data().len()).filter(differs).take(DISPUTED).collect()
        }
        _ => Vec::new(),
    }
}

/// Another kernel of the case that the device runs: of another file if there is one, else of other tiles.
fn rival(device: &Device, case: &Case, kernel: &Kernel) -> Option<Kernel> {
    let lowered = lowering(&*case.primitive)?;
    let (shapes, output, classes) = (case.shapes(), case.output(), device.classes());
    let own = kernel.specialisation();
    let chosen = classes.iter().map(|&class| lowered.kernel(&shapes, &output, class));
    let tilings = classes.iter().flat_map(|&class| lowered.tilings(&shapes, &output, class));
    let others = chosen.chain(tilings).filter(|other| other.specialisation() != own);
    others.filter(|other| device.runs(other)).min_by_key(|other| (other.name == kernel.name, other.tile().is_some()))
}

/// Equality, where NaN equals NaN.
fn is_same(got: f32, want: f64) -> bool {
    f64::from(got) == want || (got.is_nan() && want.is_nan())
}

/// Whether each element that was computed of NaN and infinities is right, as `is_right` says.
fn hold_specials(got: &Tensor, want: &[f64], is_right: impl Fn(f32, f64) -> bool) -> Result<(), Fault> {
    let wrong = |index: &usize| !is_right(got.data()[*index], want[*index]);
    let bad: Vec<usize> = (0..want.len()).filter(wrong).collect();
    let Some(&first) = bad.first() else { return Ok(()) };
    let pattern = pattern::places(got.shape(), &bad, 0..want.len());
    let mismatch = Mismatch {
        coordinates: got.shape().coordinates(first),
        got: got.data()[first].into(),
        want: want[first],
        tolerance: 0.0,
        bad: [bad.len(), want.len()],
        elements: want.len(),
        pattern,
    };
    Err(Fault::Wrong { numbers: SPECIALS, mismatch: Box::new(mismatch) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::case::ShapeClass;
    use crate::engine::ops::cases;

    #[test]
    fn samples_have_both_ends_and_the_borders_of_every_axis() {
        let case: Case = "conv2d/output(n=128,c=64,h=32,w=32,k=64,r=3,s=3,stride=1,padding=1)".parse().unwrap();
        let Looked::At(elements) = Looked::of(&case, 0) else { panic!("it has 4.8e9 terms") };
        let shape = case.output();
        assert!(elements.len() > 3000 && elements.is_sorted());
        assert_eq!((elements[0], elements[elements.len() - 1]), (0, shape.count() - 1));
        for (axis, extent) in shape.iter().enumerate() {
            for place in [0, extent - 1] {
                let count = elements.iter().filter(|&&element| shape.coordinates(element)[axis] == place).count();
                assert!(count > 100, "{count} elements with axis {axis} at {place}");
            }
        }
        let small: Case = "conv2d/output(n=2,c=3,h=7,w=5,k=5,r=3,s=3,stride=1,padding=1)".parse().unwrap();
        assert_eq!(Looked::of(&small, 0), Looked::All(small.output().count()));
    }

    #[test]
    fn samples_are_elements_of_the_whole() {
        for (_, case) in cases().into_iter().filter(|(_, case)| case.elements() < 20_000 && case.flops() < 1_000_000) {
            let Some(kernel) = variants(&case).pop() else { continue };
            let inputs = case.floats(3);
            let (want, bound) = reference_of(&case, &kernel, &inputs);
            let elements: Vec<usize> = (0..want.len()).filter(|element| element % 3 == 1 || want.len() == 1).collect();
            let [some, bounds] = Looked::At(elements.clone()).reference(&case, &kernel, &inputs);
            let close = |a: f64, b: f64| (a - b).abs() <= 1e-12 * (1.0 + b.abs());
            for (place, &element) in elements.iter().enumerate() {
                let pairs = [(some[place], want[element]), (bounds[place], bound[element])];
                assert!(pairs.iter().all(|&(some, all)| close(some, all)), "{case}: {pairs:?} at {element}");
            }
        }
    }

    #[test]
    fn the_definition_shows_nan_where_a_family_says_so() {
        // A single pixel may be shifted out of the image, with its NaN.
        let all = cases().into_iter().filter(|(class, case)| *class != ShapeClass::Ones && case.elements() < 20_000);
        let mut count = 0;
        for (_, case) in all {
            for inputs in case.nans(0) {
                let want = with_arrays(&inputs, |arrays| case.primitive.eval(arrays, &case.output()));
                assert!(want.iter().any(|want| want.is_nan()), "{case}");
                count += 1;
            }
        }
        assert!(count > 50, "{count}");
    }

    #[test]
    fn a_nan_that_is_lost_or_made_is_found() {
        let of = |got: [f32; 2], want: [f64; 2]| hold_specials(&Tensor::new([2], got.to_vec()), &want, is_same);
        let (nan, inf) = (f32::NAN, f32::INFINITY);
        assert_eq!(of([nan, inf], [f64::NAN, f64::INFINITY]), Ok(()));
        assert!(of([0.0, inf], [f64::NAN, f64::INFINITY]).is_err());
        assert!(of([nan, nan], [f64::NAN, f64::INFINITY]).is_err());
        assert!(of([nan, -inf], [f64::NAN, f64::INFINITY]).is_err());
    }
}
