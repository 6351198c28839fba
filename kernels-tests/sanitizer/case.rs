//! A primitive with given inputs, and whether a kernel's WGSL computes it without a fault.

use std::fmt;
use std::sync::Arc;

use stssad::engine::bounds::{stored_f16_bound, to_f16};
use stssad::engine::kernel::{CLASS_WORKGROUP_BYTES, DeviceClass, Kernel, WORKGROUP_BYTES};
use stssad::engine::lower::Lower;
use stssad::engine::ops::lowering;
use stssad::engine::shaders::{place, source, specialise_text};
use stssad::engine::tape::{Arithmetic, Array, Primitive};
use stssad::engine::tensor::{Shape, Tensor};
use stssad::proof::check::grids;
use stssad::proof::sanitizer::{Buffer, Dispatch, Outcome, Program, Refusal, Report, lower};

/// Most invocations in a workgroup; `Device::open` refuses devices that offer fewer.
const WORKGROUP_INVOCATIONS: u32 = 256;
/// Subgroup sizes of the known CPU drivers.
pub const SUBGROUPS: [u32; 3] = [4, 8, 16];
/// Most scalars per invocation, to catch a runaway array.
const REGISTERS: usize = 1 << 14;

#[derive(Debug)]
pub struct Case {
    pub primitive: Arc<dyn Primitive>,
    pub inputs: Vec<Tensor>,
}

/// Why a kernel fails a case.
#[derive(Clone, Debug)]
pub enum Failure {
    Refused(Refusal),
    /// It exceeds what some devices offer.
    Greedy(String),
    Faulty(Vec<Report>),
    /// The output's first element that exceeds the primitive's bound.
    Wrong {
        index: usize,
        got: f32,
        expected: f64,
        bound: f64,
    },
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Failure::Refused(refusal) => write!(f, "{refusal}"),
            Failure::Greedy(what) => write!(f, "{what} is more than every device has"),
            Failure::Faulty(reports) => reports
                .iter()
                .enumerate()
                .try_for_each(|(index, report)| write!(f, "{}{report}", if index > 0 { "\n" } else { "" })),
            Failure::Wrong { index, got, expected, bound } => {
                write!(f, "element {index} is {got}, expected {expected} ± {bound:.1e}")
            }
        }
    }
}

/// Prints the primitive and the shapes.
impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{:?} of {:?}", self.primitive, self.shapes())
    }
}

impl Case {
    fn shapes(&self) -> Vec<&Shape> {
        self.inputs.iter().map(Tensor::shape).collect()
    }

    pub fn output(&self) -> Shape {
        self.primitive.shape(&self.shapes()).unwrap_or_else(|reason| panic!("{self}: {reason}"))
    }

    fn lowered(&self) -> &dyn Lower {
        lowering(&*self.primitive).expect("a case is computed by a kernel")
    }

    pub fn kernel(&self, class: DeviceClass) -> Kernel {
        self.lowered().kernel(&self.shapes(), &self.output(), class)
    }

    /// The kernel; if it has a choice, also with several tiles per workgroup, or with tiles that exceed the last row of
    /// the result or the cotangent; and each with every eligible operand stored as f16.
    pub fn kernels(&self, class: DeviceClass) -> Vec<Kernel> {
        let output = self.output();
        let rows = self.inputs.iter().map(Tensor::shape).chain([&output]).filter(|shape| shape.len() == 4);
        let rows: Vec<u32> = rows.map(|shape| shape[2] as u32).collect();
        let constant = |kernel: &Kernel, name: &str| {
            kernel.constants.iter().find(|(other, _)| *other == name).map_or(1, |(_, value)| value.to_bits())
        };
        let has_tiles = |kernel: &Kernel| constant(kernel, "TILES") > 1;
        let hangs_over = |kernel: &Kernel| rows.iter().all(|rows| rows % constant(kernel, "TILE_ROWS") != 0);
        let choices = self.lowered().tilings(&self.shapes(), &output, class);
        let mut kernels = vec![self.kernel(class)];
        kernels.extend(choices.iter().find(|kernel| has_tiles(kernel)).cloned());
        kernels.extend(choices.iter().find(|kernel| hangs_over(kernel)).cloned());
        let each = kernels.into_iter().flat_map(|kernel| [kernel.halved(), Some(kernel)].into_iter().flatten());
        each.flat_map(|kernel| self.on_grids(&kernel)).collect()
    }

    /// The kernel on its own grid and on those that larger shapes would give it.
    fn on_grids(&self, kernel: &Kernel) -> Vec<Kernel> {
        let text = source(kernel).unwrap_or_else(|error| panic!("{self}: {error}"));
        let grids = grids(kernel, text).into_iter();
        grids.map(|grid| kernel.clone().grid(grid.map(|count| count as usize))).collect()
    }

    /// The program of `text`, specialised for `kernel`.
    ///
    /// # Errors
    /// When the interpreter or some device cannot run it.
    pub fn program(kernel: &Kernel, text: &str) -> Result<Program, Failure> {
        let file = format!("shaders/{}.wgsl", kernel.name);
        let source = specialise_text(text, kernel)
            .map_err(|error| Failure::Refused(Refusal { file: file.clone(), line: 0, reason: error.to_string() }))?;
        let program = lower(&file, &source).map_err(Failure::Refused)?;
        let (invocations, bytes) = (program.invocations(), program.workgroup_bytes());
        let most = if kernel.needs().is_some() { CLASS_WORKGROUP_BYTES } else { WORKGROUP_BYTES };
        if invocations > WORKGROUP_INVOCATIONS || bytes > most || program.scalars() > REGISTERS {
            let registers = program.scalars();
            return Err(Failure::Greedy(format!(
                "a workgroup of {invocations} invocations, {bytes} bytes and {registers} registers each"
            )));
        }
        Ok(program)
    }

    /// The results of running `program` of `kernel` on this case's inputs within `limit` operations: once for each
    /// subgroup size that its lanes fit, if it has lanes.
    pub fn run(&self, kernel: &Kernel, program: &Program, limit: u64) -> Vec<Outcome> {
        let immediates: Vec<u32> = kernel.immediates.iter().map(|(_, value)| value.to_bits()).collect();
        let rounded = |(binding, input): (usize, &Tensor)| -> Vec<f32> {
            let round = if kernel.is_half(binding) { to_f16 } else { |x| x };
            input.data().iter().map(|&x| round(x)).collect()
        };
        let inputs: Vec<Vec<f32>> = self.inputs.iter().enumerate().map(rounded).collect();
        let inputs = inputs.iter().map(|input| Buffer::Filled(input));
        let buffers: Vec<Buffer> = inputs.chain([Buffer::Unwritten(self.output().count())]).collect();
        let lanes = kernel.lanes().map_or(SUBGROUPS[0], |lanes| lanes.count() as u32);
        let fits = |size: &u32| if program.has_subgroups() { *size >= lanes } else { *size == SUBGROUPS[0] };
        let text = source(kernel).expect("the kernel's file");
        let run = |subgroup: u32| {
            let (workgroups, buffers) = (kernel.workgroups(), buffers.clone());
            let mut outcome = program.run(&Dispatch { workgroups, immediates: &immediates, buffers, subgroup, limit });
            for report in &mut outcome.reports {
                let (file, line) = place(kernel.name, text, report.line as usize);
                (report.file, report.line) = (format!("shaders/{file}.wgsl"), line as u32);
            }
            outcome
        };
        SUBGROUPS.into_iter().filter(fits).map(run).collect()
    }

    /// Expected value and bound of each element, from the primitive's definition.
    pub fn reference(&self) -> Reference {
        let data: Vec<Vec<f64>> =
            self.inputs.iter().map(|input| input.data().iter().map(|&x| f64::from(x)).collect()).collect();
        let arrays: Vec<Array> =
            self.inputs.iter().zip(&data).map(|(input, data)| Array { shape: input.shape(), data }).collect();
        let output = self.output();
        Reference {
            output_binding: self.inputs.len(),
            expected: self.primitive.eval(&arrays, &output),
            bound: self.primitive.bound(&arrays, &output, Arithmetic::F32),
            bound_matrix: self.primitive.bound(&arrays, &output, Arithmetic::MatrixUnits),
        }
    }
}

/// The expected output of a case.
#[derive(Clone, Debug)]
pub struct Reference {
    pub expected: Vec<f64>,
    output_binding: usize,
    bound: Vec<f64>,
    /// For kernels on matrix units.
    bound_matrix: Vec<f64>,
}

impl Reference {
    /// Checks that all runs of the kernel were free of faults and their outputs right.
    ///
    /// # Errors
    /// The first failure.
    pub fn check(&self, kernel: &Kernel, outcomes: &[Outcome]) -> Result<(), Failure> {
        let mut bound = if kernel.tile().is_some() { self.bound_matrix.clone() } else { self.bound.clone() };
        if kernel.is_half(self.output_binding) {
            let stored = |(bound, &value): (&mut f64, &f64)| *bound = stored_f16_bound(value, *bound);
            bound.iter_mut().zip(&self.expected).for_each(stored);
        }
        outcomes.iter().try_for_each(|outcome| self.check_one(outcome, &bound))
    }

    fn check_one(&self, outcome: &Outcome, bound: &[f64]) -> Result<(), Failure> {
        if !outcome.reports.is_empty() {
            return Err(Failure::Faulty(outcome.reports.clone()));
        }
        for (index, (&got, (&expected, &bound))) in
            outcome.output.iter().zip(self.expected.iter().zip(bound)).enumerate()
        {
            let got_f64 = f64::from(got);
            // NaN and infinities have no distance to compare with a bound.
            let is_same = got_f64 == expected || (got_f64.is_nan() && expected.is_nan());
            let agrees = is_same || (got_f64 - expected).abs() <= bound;
            if !agrees {
                return Err(Failure::Wrong { index, got, expected, bound });
            }
        }
        Ok(())
    }
}
