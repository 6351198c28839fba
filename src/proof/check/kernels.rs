//! A case's kernel on a device, against the f64 definition.

use std::fmt;

use super::compare::{Mismatch, compare, control};
use crate::engine::bounds::stored_f16_bound;
use crate::engine::case::{Case, Draws, widen};
use crate::engine::gpu::{Device, GpuError};
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
    Gpu(Box<GpuError>),
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
            Fault::Gpu(error) => error.fmt(f),
        }
    }
}

/// A failed case, with what it takes to reproduce it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{variant} is wrong: {fault}\n    reproduce: stssad check --seed {seed} '{case}'")]
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
    let arithmetic = if kernel.tile().is_some() { Arithmetic::MatrixUnits } else { Arithmetic::F32 };
    let bound = primitive.bound(inputs, output, arithmetic);
    match kernel.is_half(inputs.len()) {
        true => want.iter().zip(bound).map(|(&want, bound)| stored_f16_bound(want, bound)).collect(),
        false => bound,
    }
}

/// The definition at `inputs`, and the bound that `kernel` must keep for each element.
pub fn reference_of(case: &Case, kernel: &Kernel, inputs: &[Tensor]) -> (Vec<f64>, Vec<f64>) {
    let data: Vec<Vec<f64>> = inputs.iter().map(widen).collect();
    let arrays: Vec<Array> =
        inputs.iter().zip(&data).map(|(input, data)| Array { shape: input.shape(), data }).collect();
    let output = case.output();
    let want = case.primitive.eval(&arrays, &output);
    let bound = tolerance(&*case.primitive, kernel, &arrays, &output, &want);
    (want, bound)
}

/// Runs one of the case's [`variants`] on isolated buffers: once on integers, twice on floats. A kernel that rounds its
/// factors to f16 also runs on floats that are exact in f16, which tests the bound of its sums alone.
///
/// # Errors
/// The first fault found.
pub fn check_kernel(device: &Device, case: &Case, kernel: &Kernel, seed: u64) -> Result<(), Failure> {
    let failure = |fault: Fault| Failure { case: case.to_string(), variant: kernel.name, fault, seed };
    let run = |inputs: &[Tensor]| {
        let isolated = device
            .run_isolated(kernel, inputs, &case.output())
            .map_err(|error| failure(Fault::Gpu(Box::new(error))))?;
        match isolated.damage {
            Some(damage) => Err(failure(Fault::Damage(damage))),
            None => Ok(isolated.output),
        }
    };
    let hold = |numbers: &'static str, got: &Tensor, want: &[f64], tolerance: &[f64]| {
        compare(got, want, tolerance)
            .map_err(|mismatch| failure(Fault::Wrong { numbers, mismatch: Box::new(mismatch) }))?;
        let element = Draws::new(seed, u32::MAX).integer(0, want.len() as i64 - 1) as usize;
        control(got, want, tolerance, element).map_err(|reason| failure(Fault::Blind(reason)))
    };

    let inputs = case.integers(seed);
    let (want, bound) = reference_of(case, kernel, &inputs);
    let is_exact = case.says.exact && !kernel.is_half(inputs.len());
    let tolerance = if is_exact { vec![0.0; want.len()] } else { bound };
    hold("integers", &run(&inputs)?, &want, &tolerance)?;

    if kernel.tile().is_some() {
        let inputs = case.halves(seed);
        let (want, tolerance) = reference_of(case, kernel, &inputs);
        hold("floats exact in f16", &run(&inputs)?, &want, &tolerance)?;
    }

    let inputs = case.floats(seed);
    let (want, tolerance) = reference_of(case, kernel, &inputs);
    let (got, again) = (run(&inputs)?, run(&inputs)?);
    hold("floats", &got, &want, &tolerance)?;
    let is_other = |index: &usize| got.data()[*index].to_bits() != again.data()[*index].to_bits();
    match (0..want.len()).find(is_other) {
        Some(index) => Err(failure(Fault::Undetermined {
            coordinates: got.shape().coordinates(index),
            values: [got.data()[index], again.data()[index]],
        })),
        None => Ok(()),
    }
}
