//! `stssad analyze`: what a compiler makes of the kernels, and what a model says of them, without a device.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use clap::Args;
use stssad::engine::kernel::{DeviceClass, Tile};
use stssad::engine::shaders::Replaced;
use stssad::engine::units::counted;
use stssad::measure::analyze::{self, Agreement, AnalyzeError, Compiler, Gpu, Origin, Report};
use stssad::ssad::workload::Workload;

use super::fault::{Fault, Faulty};

/// Arguments of `stssad analyze`.
#[derive(Debug, Args)]
pub struct Analyze {
    /// Kernels to compile, each in full detail: parts of names of what the step runs (`conv2d/output`), or cases as
    /// `stssad check` prints them (`matmul/product(…)`) [default: all that the step runs, as a table].
    #[arg(value_name = "KERNEL")]
    kernels: Vec<String>,
    /// Training step to take kernels of: digits-small (the demo's step), pyramid-64, resnet18-32 or resnet18-256.
    #[arg(long, value_name = "NAME", default_value = "digits-small")]
    workload: Workload,
    /// GPU to compile for, to model, or both; it need not be there.
    #[arg(long, value_enum, default_value_t, value_name = "GPU")]
    gpu: Gpu,
    /// Take the kernels that are chosen for this class of device.
    #[arg(long, value_enum, default_value_t, value_name = "CLASS")]
    class: ClassArgument,
    /// Use the shaders in DIR (`conv2d/input.wgsl`, …) in place of the built-in ones.
    #[arg(long, value_name = "DIR")]
    shaders: Option<PathBuf>,
    /// Print the WGSL and the assembly of each kernel, the hot loop marked with `|`.
    #[arg(long)]
    asm: bool,
    /// Print the WGSL of each kernel with what the model counts in each line.
    #[arg(long)]
    lines: bool,
    /// Write everything to FILE as JSON, with `--asm` the texts too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Print what changed since an earlier `--json` file. Exits 1 when a kernel spills more registers than it did, or
    /// the share of multiply-adds in its hot loop falls by more than 2 percentage points.
    #[arg(long, value_name = "OLD.json")]
    compare: Option<PathBuf>,
    /// Manifest of the RADV to compile with [default: the system's `radeon_icd.json`].
    #[arg(long, value_name = "FILE")]
    driver: Option<PathBuf>,
}

/// The classes whose kernels are written for GPUs.
#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum ClassArgument {
    /// Every GPU
    #[default]
    Gpu,
    /// Matrix units, in f16; of the GPUs here navi31 alone has them
    Matrix,
}

impl Analyze {
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        let class = match self.class {
            ClassArgument::Gpu => DeviceClass::Gpu,
            ClassArgument::Matrix => DeviceClass::Matrix(Tile::Sixteen),
        };
        // Before anything is compiled, since that takes its time.
        let old = self.compare.as_deref().map(|path| anyhow::Ok((path, Report::read(path)?))).transpose()?;
        let replaced = match &self.shaders {
            Some(folder) => super::read_shaders(folder)?,
            None => Replaced::default(),
        };
        let subjects = analyze::subjects(&self.kernels, &self.workload, class)?;
        let mut compiler = match self.gpu.family() {
            Some(family) => {
                let manifest = self.driver.clone().or_else(analyze::manifest).ok_or(AnalyzeError::NoDriver)?;
                let mut process = Command::new(std::env::current_exe()?);
                process.arg("radv");
                Some(Compiler::start(process, family, &manifest)?)
            }
            None => None,
        };
        let rows = match &mut compiler {
            Some(compiler) => analyze::run(compiler, &subjects, &replaced)?,
            None => Vec::new(),
        };
        let origin = Origin::new(compiler.as_ref(), self.gpu, class, self.workload.name);
        let mut report = Report::new(origin, rows, self.asm);
        result!("{report}")?;
        if self.asm || !self.kernels.is_empty() {
            result!("{}", report.details())?;
        }
        match self.gpu.machine() {
            Some(machine) => {
                let kernels = counted(subjects.len(), ["kernel is", "kernels are"]);
                note!("model    {kernels} interpreted, which takes minutes where a step has many");
                report.model = Some(analyze::model(machine, &subjects, &replaced)?);
            }
            None => result!("\nThere is no model of {}: this is the compiler's alone.", self.gpu.name())?,
        }
        if let Some(path) = &self.json {
            report.write(path)?;
        }
        if let Some(model) = &report.model {
            result!("\n{model}")?;
            if self.lines {
                result!("{}", model.annotated())?;
            }
        }
        if let Some(agreement) = Agreement::of(&report) {
            result!("\n{agreement}")?;
        }
        let mut passed = report.is_whole();
        if let Some((path, old)) = old {
            let comparison = report.compare(&old, path)?;
            result!("\n{comparison}")?;
            passed &= comparison.passed();
        }
        Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Arguments of the process in which `stssad analyze` compiles: it has none.
#[derive(Debug, Args)]
pub struct Radv {}

impl Radv {
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        analyze::serve(std::io::stdin().lock(), |answer| anyhow::Ok(result!("{answer}")?))?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Faulty for AnalyzeError {
    fn fault(&self) -> Fault {
        match self {
            AnalyzeError::NoDriver | AnalyzeError::Refused { .. } => Fault::Device,
            AnalyzeError::Start(_) | AnalyzeError::Crashed { .. } => Fault::Internal,
            AnalyzeError::Incomparable { .. } | AnalyzeError::NothingInCommon(_) => Fault::Usage,
            AnalyzeError::Specialise(_) => Fault::Usage,
            AnalyzeError::Case(error) => error.fault(),
            AnalyzeError::Grad(error) => error.fault(),
            AnalyzeError::Measure(error) => error.fault(),
        }
    }
}
