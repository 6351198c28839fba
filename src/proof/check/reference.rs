//! Any WGSL kernel against given values.
//!
//! A safetensors file has tensors with the names of the shader's variables: `x` is what `x` holds before the dispatch,
//! `y.after` what `y` is to hold after it, and `y.tolerance` the largest absolute error of each of its elements. The members of
//! a struct have names of their own: `params.n`. Elements without contents begin as NaN, so that those which are not written
//! fail.

mod interface;
mod output;
mod reader;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use safetensors::tensor::{SafeTensorError, SafeTensors};
use serde::Serialize;

use crate::engine::gpu::{Access, AdapterSummary, Device, Foreign, GpuError, Need, Operand};
use crate::engine::tensor::Shape;
use crate::proof::sanitizer::{Contents, Launched, Level, Run, Trial, TrialError, without_directive};

use interface::{Interface, Number, Space};
pub use output::{Compared, Output, Wrong};
use reader::Reader;

/// Why a kernel cannot be held against a file.
#[derive(Debug, thiserror::Error)]
pub enum ReferenceError {
    #[error(transparent)]
    Trial(#[from] TrialError),
    #[error("cannot read the reference {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "{} is no safetensors file; NumPy writes one by safetensors.numpy.save_file({{\"x\": x, \"y.after\": y}}, path)",
        path.display()
    )]
    Format { path: PathBuf, source: SafeTensorError },
    /// Its tensors do not fit the kernel.
    #[error("{}: {reason}", path.display())]
    Unfit { path: PathBuf, reason: String },
}

/// How far an element may be from what is wanted: `absolute + relative · |want|`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Tolerance {
    pub absolute: f64,
    pub relative: f64,
}

impl Tolerance {
    /// Those of PyTorch's `assert_close`.
    pub const F32: Tolerance = Tolerance { absolute: 1e-5, relative: 1.3e-6 };
    pub const F16: Tolerance = Tolerance { absolute: 1e-5, relative: 1e-3 };
    /// Of integers.
    pub const NONE: Tolerance = Tolerance { absolute: 0.0, relative: 0.0 };

    fn of(self, want: f64) -> f64 {
        // A relative tolerance of an infinity is none: it has to be equal.
        if want.is_finite() { self.absolute + self.relative * want.abs() } else { 0.0 }
    }
}

impl fmt::Display for Tolerance {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match *self == Tolerance::NONE {
            true => f.write_str("exact"),
            false => write!(f, "{:e} + {:e}·|want|", self.absolute, self.relative),
        }
    }
}

/// As on the command line: `1e-6,1e-5`.
impl std::str::FromStr for Tolerance {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.trim().parse::<f64>().ok().filter(|it| it.is_finite() && *it >= 0.0);
        let both = text.split_once(',').and_then(|(absolute, relative)| Some((number(absolute)?, number(relative)?)));
        let (absolute, relative) = both.ok_or("it is two numbers that are not negative, ABS,REL, such as 1e-6,1e-5")?;
        Ok(Tolerance { absolute, relative })
    }
}

/// What an output is compared with.
#[derive(Debug)]
struct Expected {
    want: Vec<f64>,
    tolerance: Vec<f64>,
    /// The tolerance, in words.
    bound: String,
}

/// A variable, or a member of one, that the file speaks of.
#[derive(Debug)]
struct Value {
    name: String,
    number: Number,
    shape: Shape,
    /// The buffer that it lies in, and the first byte of each element there.
    buffer: usize,
    places: Vec<u64>,
    is_given: bool,
    expected: Option<Expected>,
}

/// A buffer, or the immediates.
#[derive(Debug)]
struct Buffer {
    name: String,
    space: Space,
    /// What the file gives; zero elsewhere.
    bytes: Vec<u8>,
}

/// A kernel with the values that it is held against.
#[derive(Debug)]
pub struct Reference {
    trial: Trial,
    kernel: Foreign,
    workgroup_size: [u32; 3],
    /// In the order of the kernel's operands; the immediates are last, if there are any.
    buffers: Vec<Buffer>,
    values: Vec<Value>,
}

impl Reference {
    /// Takes the kernel's entry point, workgroups and overrides from `trial`, and all that its variables hold from the file. An
    /// output has the tolerance of the file's tensor, else `tolerance`, else the default of its type; integers have none.
    ///
    /// # Errors
    /// When the kernel is not WGSL or does not say all that, or the file cannot be read, or does not fit the kernel.
    pub fn read(trial: Trial, path: &Path, tolerance: Option<Tolerance>) -> Result<Reference, ReferenceError> {
        let launched = trial.launched()?;
        let interface = Interface::of(&trial, &launched).map_err(TrialError::from)?;
        let bytes = std::fs::read(path).map_err(|source| ReferenceError::Read { path: path.into(), source })?;
        let tensors =
            SafeTensors::deserialize(&bytes).map_err(|source| ReferenceError::Format { path: path.into(), source })?;
        let unfit = |reason| ReferenceError::Unfit { path: path.into(), reason };
        let (buffers, values) = Reader::new(&interface, tensors, tolerance).read(&launched.entry).map_err(unfit)?;
        let operands = interface.variables.iter().filter_map(|variable| match variable.space {
            Space::Buffer { group, binding, access } => {
                Some(Operand { group, binding, access, is_measured: variable.is_measured })
            }
            Space::Immediate => None,
        });
        let Launched { entry, workgroups, .. } = launched;
        let immediates =
            buffers.iter().find(|it| it.space == Space::Immediate).map_or(Vec::new(), |it| it.bytes.clone());
        let kernel = Foreign {
            name: format!("`{entry}` of {}", trial.file()),
            source: without_directive(trial.source()),
            operands: operands.collect(),
            needs: interface.needs.clone(),
            constants: interface.constants.clone(),
            entry,
            workgroups,
            immediates,
        };
        Ok(Reference { trial, kernel, workgroup_size: interface.workgroup_size, buffers, values })
    }

    /// Runs the kernel in the interpreter and, where that finds no error, twice on the device that `open` opens for what the
    /// kernel needs.
    ///
    /// # Errors
    /// When there is no device, or it does not take the kernel, or is lost.
    pub fn check<E: From<GpuError>>(&self, open: impl FnOnce(&[Need]) -> Result<Device, E>) -> Result<Report, E> {
        let (interpreted, uninterpreted) = match self.interpret() {
            Ok(run) => (Some(run), None),
            Err(reason) => (None, Some(reason)),
        };
        let is_sound = interpreted.as_ref().is_none_or(|run| run.count(Level::Error) == 0);
        Ok(Report {
            file: self.trial.file().to_owned(),
            entry: self.kernel.entry.clone(),
            workgroups: self.kernel.workgroups,
            workgroup_size: self.workgroup_size,
            interpreted,
            uninterpreted,
            // A driver may crash on what the interpreter found.
            device: is_sound.then(|| Ok::<_, E>(self.run(&open(&self.kernel.needs)?)?)).transpose()?,
        })
    }

    /// What the sanitizer finds on the same buffers.
    ///
    /// # Errors
    /// The reason why it does not run the kernel.
    fn interpret(&self) -> Result<Run, String> {
        let mut trial = self.trial.clone().entry(&self.kernel.entry).immediates(self.kernel.immediates.clone());
        for (at, buffer) in self.buffers.iter().enumerate() {
            let Space::Buffer { group, binding, .. } = buffer.space else { continue };
            let mut values = self.values.iter().filter(|value| value.buffer == at);
            let contents = match values.any(|value| value.is_given) {
                true => Contents::Bytes(self.contents(at, 0)),
                false => Contents::Unwritten(Some(buffer.bytes.len() as u64)),
            };
            trial = trial.buffer(group, binding, contents);
        }
        let mut prepared = trial.prepare().map_err(|error| error.to_string())?;
        Ok(prepared.remove(0).run())
    }

    /// What a buffer holds before the first or the second run.
    fn contents(&self, buffer: usize, run: usize) -> Vec<u8> {
        let mut bytes = self.buffers[buffer].bytes.clone();
        for value in self.values.iter().filter(|value| value.buffer == buffer && !value.is_given) {
            for place in &value.places {
                let at = *place as usize;
                let unwritten = value.number.unwritten(run);
                bytes[at..at + unwritten.len()].copy_from_slice(&unwritten);
            }
        }
        bytes
    }

    /// Runs the kernel twice.
    ///
    /// # Errors
    /// When the device does not take the kernel, or is lost.
    fn run(&self, device: &Device) -> Result<OnDevice, GpuError> {
        let runs = [0, 1].map(|run| (0..self.kernel.operands.len()).map(|at| self.contents(at, run)).collect());
        let runs = device.run_foreign(&self.kernel, &runs)?;
        let damage = self.buffers.iter().enumerate().filter_map(|(at, buffer)| {
            let astray = runs.iter().filter_map(|run| run.get(at)?.astray).next()?;
            Some(format!("byte {astray} of `{}` (of {}) was overwritten", buffer.name, buffer.bytes.len()))
        });
        let damage = damage.collect();
        let is_written = |value: &&Value| match self.buffers[value.buffer].space {
            Space::Buffer { access, .. } => access == Access::ReadWrite,
            Space::Immediate => false,
        };
        let outputs = self.values.iter().filter(is_written);
        let outputs = outputs.map(|value| Output::of(value, [0, 1].map(|run| &runs[run][value.buffer].bytes[..])));
        Ok(OnDevice { adapter: device.adapter().clone(), outputs: outputs.collect(), damage })
    }
}

/// What came of the two runs on a device.
#[derive(Clone, Debug, Serialize)]
pub struct OnDevice {
    pub adapter: AdapterSummary,
    /// What may be written, compared or not.
    pub outputs: Vec<Output>,
    /// Writes outside of buffers, or to such as are only read.
    pub damage: Vec<String>,
}

/// Whether a kernel computes what it should, and what else was found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub file: String,
    pub entry: String,
    pub workgroups: [u32; 3],
    pub workgroup_size: [u32; 3],
    /// What the sanitizer found.
    pub interpreted: Option<Run>,
    /// Why it did not run the kernel, if so.
    pub uninterpreted: Option<String>,
    /// `None` where the sanitizer found an error.
    pub device: Option<OnDevice>,
}

impl Report {
    /// Whether the sanitizer found no error, all outputs hold in both runs, and nothing was written astray.
    pub fn passed(&self) -> bool {
        let holds = |it: &OnDevice| it.damage.is_empty() && it.outputs.iter().all(Output::holds);
        self.device.as_ref().is_some_and(holds)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let ([x, y, z], [width, height, depth]) = (self.workgroups, self.workgroup_size);
        let Report { file, entry, .. } = self;
        writeln!(f, "{file}: `{entry}` in {x} × {y} × {z} workgroups of {width} × {height} × {depth} invocations")?;
        if let Some(reason) = &self.uninterpreted {
            writeln!(f, "not interpreted: {reason}")?;
        }
        if let Some(run) = &self.interpreted {
            run.reports.iter().try_for_each(|report| writeln!(f, "{}: {report}", report.level.name()))?;
            writeln!(f, "interpreted: {}", run.totals())?;
        }
        let Some(OnDevice { adapter, outputs, damage }) = &self.device else {
            return write!(f, "not run on a device, whose driver might crash");
        };
        write!(f, "run twice on {} ({}, {})", adapter.name, adapter.class, adapter.driver)?;
        damage.iter().try_for_each(|damage| write!(f, "\nFAILED  {damage}"))?;
        outputs.iter().try_for_each(|output| write!(f, "\n{output}"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use safetensors::tensor::{Dtype, TensorView};

    use super::*;
    use crate::engine::gpu::Choice;

    /// Eight u32 at `y`, of which the device is to make what is expected, without the interpreter's look at it.
    fn run(declared: &str, body: &str, before: Option<[u32; 8]>, after: [u32; 8]) -> (OnDevice, bool) {
        let source = format!(
            "@group(0) @binding(0) var<storage, read_write> y: {declared};
            @compute @workgroup_size(8) fn main(@builtin(local_invocation_index) at: u32) {{ {body} }}"
        );
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("reference.safetensors");
        let bytes = |numbers: [u32; 8]| numbers.map(u32::to_le_bytes).concat();
        let given: BTreeMap<&str, Vec<u8>> =
            before.map(|it| ("y", bytes(it))).into_iter().chain([("y.after", bytes(after))]).collect();
        let view = |data| TensorView::new(Dtype::U32, vec![8], data).unwrap();
        let tensors = safetensors::serialize(given.iter().map(|(name, data)| (name, view(data))), None).unwrap();
        std::fs::write(&path, tensors).unwrap();
        let reference = Reference::read(Trial::new("y.wgsl", source).workgroups([1; 3]), &path, None).unwrap();
        let found = reference.interpret().unwrap().count(Level::Error) > 0;
        (reference.run(&Device::open(&Choice::Best).unwrap()).unwrap(), found)
    }

    #[test]
    fn writes_past_the_end_arrive_in_the_guard() {
        let after = [0, 1, 2, 3, 4, 5, 6, 7];
        let right = run("array<u32>", "y[at] = at;", None, after);
        assert!(right.0.damage.is_empty() && right.0.outputs[0].holds() && !right.1);
        let (past, found) = run("array<u32>", "y[at] = at; y[at + 2u] = at + 2u;", None, after);
        assert_eq!(past.damage, ["byte 32 of `y` (of 32) was overwritten"]);
        assert!(past.outputs[0].holds() && found, "{past:?}");
        // A kernel that asks for the length is told the true one.
        let body = "y[at] = arrayLength(&y);";
        let (measured, _) = run("array<u32>", body, None, [8; 8]);
        assert!(measured.damage.is_empty() && measured.outputs[0].holds(), "{measured:?}");
        assert!(!run("array<u32>", body, None, [7; 8]).0.outputs[0].holds());
    }

    #[test]
    fn what_depends_on_unwritten_memory_is_undetermined() {
        let (unwritten, found) = run("array<u32>", "y[at] = y[at] ^ 1u;", None, [1; 8]);
        let output = &unwritten.outputs[0];
        assert_eq!((output.undetermined, output.holds(), found), (8, false, true));
        assert!(output.to_string().contains("8 of 8 elements are undetermined"), "{output}");
        let (given, found) = run("array<u32>", "y[at] = y[at] ^ 1u;", Some([0; 8]), [1; 8]);
        assert_eq!((given.outputs[0].undetermined, given.outputs[0].holds(), found), (0, true, false));
    }
}
