//! `stssad check --shader`: a kernel that is not ours, against given values.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use stssad::proof::check::reference::{Reference, ReferenceError, Tolerance};

use crate::cli::DeviceArguments;
use crate::cli::fault::{Fault, Faulty};
use crate::cli::sanitize::trial;

/// Arguments of a check against given values.
#[derive(Debug, Args)]
pub struct Foreign {
    /// Check the compute kernel in FILE.wgsl instead of stssad's, against the values that --reference gives.
    #[arg(long, value_name = "FILE.wgsl", requires = "reference", conflicts_with_all = ["filter", "family", "grad", "step", "workload", "sanitize", "seed", "repeat", "fail_fast", "limit", "coverage", "shaders"])]
    shader: Option<PathBuf>,
    /// Values for --shader. Tensors have the names of its variables: `x` is what `x` holds before, `y.after` what `y` is to
    /// hold after, and `y.tolerance`, if there is one, the largest absolute error of each element. Members of a struct have
    /// names such as `params.n`.
    #[arg(long, value_name = "FILE.safetensors", requires = "shader")]
    reference: Option<PathBuf>,
    /// Largest error of a float of --shader, as ABS + REL·|want| [default: 1e-5,1.3e-6 for f32, 1e-5,1e-3 for f16, as in
    /// PyTorch's assert_close]. Integers must be equal.
    #[arg(long, value_name = "ABS,REL", requires = "shader", allow_hyphen_values = true)]
    tolerance: Option<Tolerance>,
    /// Entry point of --shader, where it has several.
    #[arg(long, value_name = "NAME", requires = "shader")]
    entry: Option<String>,
    /// Workgroups in which --shader runs, where no line `// sanitize: workgroups X,Y,Z` in it says so.
    #[arg(long, value_name = "X,Y,Z", requires = "shader")]
    workgroups: Option<String>,
    /// Value of an override of --shader, by its name or its `@id`. May be repeated.
    #[arg(long = "override", value_name = "NAME=VALUE", requires = "shader")]
    overrides: Vec<String>,
}

impl Foreign {
    /// The shader and its reference, if such a check is asked for.
    pub fn files(&self) -> Option<(&Path, &Path)> {
        Some((self.shader.as_deref()?, self.reference.as_deref()?))
    }

    pub fn run(
        &self,
        (shader, reference): (&Path, &Path),
        device: &DeviceArguments,
        json: bool,
    ) -> anyhow::Result<ExitCode> {
        let flags = [("workgroups", self.workgroups.as_slice()), ("override", &self.overrides)];
        let trial = trial(shader, self.entry.as_ref(), &flags)?;
        let report = Reference::read(trial, reference, self.tolerance)?.check(|needs| device.open_for(needs))?;
        match json {
            true => {
                let mut value = serde_json::to_value(&report)?;
                value["passed"] = report.passed().into();
                result!("{}", serde_json::to_string_pretty(&value)?)?;
            }
            false => result!("{report}")?,
        }
        Ok(if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

impl Faulty for ReferenceError {
    fn fault(&self) -> Fault {
        match self {
            ReferenceError::Trial(error) => error.fault(),
            ReferenceError::Read { .. } => Fault::Storage,
            ReferenceError::Format { .. } | ReferenceError::Unfit { .. } => Fault::Data,
        }
    }
}
