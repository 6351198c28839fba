//! The command line: arguments, commands and exit codes.

#[macro_use]
mod terminal;

mod analyze;
mod arguments;
mod check;
mod demo;
mod devices;
mod each_adapter;
mod export;
mod fault;
mod given_gpu;
mod measure;
mod paint;
mod predict;
mod progress;
mod sanitize;
mod sweep;
mod train;

use std::borrow::Cow;
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::cli::fault::{Fault, fault_of};
use crate::cli::given_gpu::GivenGpu;
use anyhow::Context;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;
use stssad::data::Visible;
use stssad::engine::gpu::{Choice, Device, Need};
use stssad::engine::kernel::{Kernel, Precision};
use stssad::engine::ops::cases;
use stssad::engine::shaders::Replaced;
use stssad::proof::check::variants;
use stssad::run::engines::quoted;
use stssad::run::kept::Pipelines;
use stssad::ssad::config::Config;
use stssad::training::trainer::Trainer;

use terminal::{UNWRITTEN, Unprinted, progress_bar};

/// Self-tuning self-supervised anomaly detection on any Vulkan, Metal or DX12 device.
///
/// Exit codes: 0 success; 1 a check failed, a kernel is wrong or slower, part of a sweep failed or is missing, or stssad or the driver has a fault; 2 invalid
/// arguments or configuration; 3 unusable data; 4 no usable device, or the work does not fit it; 70 training diverged; 74 a file,
/// standard output or standard error cannot be read or written; 75 try again later: the run was stopped or the device was
/// lost, and the run can be resumed, or another process is using the folder.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, args_override_self = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Train on the packaged digits: find, without labels, the rotation that turns a 6 into a 9.
    Demo(demo::Demo),
    /// Train a detector on your own images: tune its augmentation, test it and write a report.
    Train(train::Train),
    /// Test a trained detector on the same or on other labelled images.
    Test(train::Test),
    /// Score images with a trained detector.
    Predict(predict::Predict),
    /// Write a trained detector as one HTML page, which scores images in a browser by WebGPU.
    ///
    /// The page needs no server and sends nothing anywhere: open the file. It takes images, folders and the camera, and shows scores,
    /// verdicts, heat maps and a histogram. PNG files get the scores of `stssad predict`; those of other formats differ as far as the
    /// browser decodes them differently.
    Export(export::Export),
    /// Compare methods over tasks and seeds, in any number of processes.
    Sweep(sweep::Sweep),
    /// Write a dataset in MVTec AD's layout: images of a packaged material, some with painted defects.
    Paint(paint::Paint),
    /// List the GPU adapters that stssad can use.
    Devices(devices::Devices),
    /// Check, kernel by kernel, that this device computes correctly; exits 1 if it does not.
    Check(check::Check),
    /// Measure the device's peak arithmetic and bandwidth, and its dispatch and transfer costs.
    Peak(measure::Peak),
    /// Measure each kernel separately, at the shapes of the demo's training step.
    Bench(measure::Bench),
    /// Show where the time of the demo's training step goes, kernel by kernel and scope by scope.
    Profile(measure::Profile),
    /// Compile each kernel for an AMD GPU, which need not be present, and show its registers, occupancy and instructions; exits 1
    /// if one does not compile.
    Analyze(analyze::Analyze),
    /// Run the compute shaders of any WGSL file in an interpreter that checks every access; exits 1 if it finds an error or a
    /// warning.
    ///
    /// What is not given is chosen and told. A fault that depends on what was chosen is a note, and so is what WGSL defines, such
    /// as a wrapping sum. The file may give the same in comments, for all entry points or for one: `// sanitize: workgroups
    /// 4,1,1`, `// sanitize reduce: buffer 0,1=zero:64`. Flags come before comments.
    Sanitize(sanitize::Sanitize),
    /// Print a completion script for a shell, such as bash, zsh or fish.
    ///
    /// bash: `stssad completions bash > ~/.local/share/bash-completion/completions/stssad`. zsh: save it as `_stssad` in a folder of
    /// `$fpath`. fish: save it as `~/.config/fish/completions/stssad.fish`. PowerShell: add it to `$PROFILE`.
    Completions { shell: Shell },
    /// Write the manual pages `stssad.1`, `stssad-train.1`, … to a folder, such as `~/.local/share/man/man1`.
    Man {
        /// Folder for the pages.
        folder: PathBuf,
    },
    /// The process in which `analyze` compiles: it reads lines of SPIR-V and answers each with a line.
    #[command(hide = true)]
    Radv(analyze::Radv),
}

/// Which device to use. Every command that computes has these.
#[derive(Debug, clap::Args)]
struct DeviceArguments {
    /// Adapter to use: its number or its place on the PCI bus in `stssad devices`, or part of its name, such as `4090` [default: the
    /// best, or the one that CUDA_VISIBLE_DEVICES gives].
    #[arg(long, value_name = "A")]
    adapter: Option<String>,
    /// Use the shaders in DIR (`conv2d/input.wgsl`, …) instead of the built-in ones, to try a kernel without a rebuild. Constants
    /// that stssad sets, such as TILE_M, cannot be changed there.
    #[arg(long, value_name = "DIR")]
    shaders: Option<PathBuf>,
    /// What is kept of the pipelines of opened devices, for as long as the command runs.
    #[arg(skip)]
    pipelines: RefCell<Vec<Pipelines>>,
}

impl DeviceArguments {
    fn open(&self) -> anyhow::Result<Device> {
        self.open_for(&[])
    }

    /// Opens it also with what kernels that are not stssad's need.
    fn open_for(&self, needs: &[Need]) -> anyhow::Result<Device> {
        if self.adapter.is_some() {
            return self.open_adapter(self.adapter.as_deref(), needs);
        }
        let given = GivenGpu::here();
        let device = self.open_adapter(given.as_ref().and_then(GivenGpu::adapter).as_deref(), needs)?;
        given.map_or(Ok(()), |given| given.check(&device))?;
        Ok(device)
    }

    /// Opens the adapter of this number or name, or the best one.
    fn open_adapter(&self, adapter: Option<&str>, needs: &[Need]) -> anyhow::Result<Device> {
        let device = Device::open_for(&adapter.map_or(Choice::Best, Choice::from), needs)?;
        if let Some(remark) = device.remark() {
            note!("note     {remark}");
        }
        self.pipelines.borrow_mut().extend(Pipelines::of(&device));
        match &self.shaders {
            Some(folder) => Ok(device.with_shaders(read_shaders(folder)?)),
            None => Ok(device),
        }
    }
}

/// The shaders in a folder, with a note of how many there are.
fn read_shaders(folder: &Path) -> anyhow::Result<Replaced> {
    let replaced = Replaced::from_folder(folder)?;
    let kernels: Vec<Kernel> = cases().iter().flat_map(|(_, case)| variants(case)).collect();
    match replaced.overridden(&kernels).first() {
        Some((shader, constant)) => Err(UsageError(format!(
            "{shader}.wgsl in {} changes {constant}, which stssad sets by the shape and the device: the change would have no effect. \
             Leave the built-in value there; `stssad bench --sweep-tiles` times every choice of tiles",
            folder.display()
        ))
        .into()),
        None => {
            note!("shaders  {} read from {}, {} changed", replaced.files, folder.display(), replaced.kernels.len());
            Ok(replaced)
        }
    }
}

/// Precision of convolutions and matrix products.
#[derive(Debug, clap::Args)]
struct PrecisionArguments {
    /// Precision to which the inputs of convolutions and matrix products are rounded.
    #[arg(long, value_enum, default_value_t, value_name = "P")]
    precision: Precision,
}

/// A path as a word of a shell, for commands to copy.
fn shell_word(path: &Path) -> String {
    quoted(&not_a_flag(path).to_string_lossy())
}

/// The same path, also where flags are looked for.
fn not_a_flag(path: &Path) -> Cow<'_, Path> {
    match path.as_os_str().as_encoded_bytes().starts_with(b"-") {
        true => Path::new(".").join(path).into(),
        false => path.into(),
    }
}

/// Compiles the pipelines of a training step, with a progress bar since some drivers take seconds.
fn trainer<'a>(device: &Device, config: &'a Config, images: Visible<'a>) -> anyhow::Result<Trainer<'a>> {
    let bar = progress_bar(0, "compile  {bar:28} {pos}/{len} dispatches");
    let trainer = Trainer::new(device, config, images, |done, of| {
        bar.set_length(of as u64);
        bar.set_position(done as u64);
    })?;
    bar.finish_and_clear();
    Ok(trainer)
}

/// An invalid command line.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct UsageError(String);

/// Makes a write beyond the limit on file sizes an error, as on a full disk; by default the system ends the program.
fn handle_file_limits() {
    #[cfg(unix)]
    {
        use signal_hook::{consts::SIGXFSZ, flag};
        let unread = std::sync::Arc::default();
        flag::register(SIGXFSZ, unread).expect("the system lets this signal be handled");
    }
}

/// The command line. Negative numbers are values, so that an error can explain what is wrong with them.
fn command() -> clap::Command {
    Arguments::command().mut_subcommands(|command| command.allow_negative_numbers(true))
}

/// Parses the command line, runs the command, and prints its error, if any.
pub fn run() -> ExitCode {
    handle_file_limits();
    let parsed = command().try_get_matches().and_then(|matches| Arguments::from_arg_matches(&matches));
    let code = match parsed {
        Ok(arguments) => arguments.command.run().unwrap_or_else(|error| fail(&error)),
        Err(error) => terminal::answer(&error).unwrap_or_else(|unprinted| fail(&unprinted.into())),
    };
    match terminal::lost_a_note() && code == ExitCode::SUCCESS {
        true => ExitCode::from(UNWRITTEN),
        false => code,
    }
}

impl Command {
    fn run(&self) -> anyhow::Result<ExitCode> {
        match self {
            Command::Demo(demo) => demo.run(),
            Command::Train(train) => train.run(),
            Command::Test(test) => test.run(),
            Command::Predict(predict) => predict.run(),
            Command::Export(export) => export.run(),
            Command::Sweep(sweep) => sweep.run(),
            Command::Paint(paint) => paint.run(),
            Command::Devices(devices) => devices.run(),
            Command::Check(check) => check.run(),
            Command::Peak(peak) => peak.run(),
            Command::Bench(bench) => bench.run(),
            Command::Profile(profile) => profile.run(),
            Command::Completions { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(*shell, &mut command(), "stssad", &mut script);
                result!("{}", String::from_utf8(script)?.trim_end())?;
                Ok(ExitCode::SUCCESS)
            }
            Command::Man { folder } => {
                let failed = || format!("cannot write the manual pages to {}", folder.display());
                std::fs::create_dir_all(folder).with_context(failed)?;
                clap_mangen::generate_to(command(), folder).with_context(failed)?;
                Ok(ExitCode::SUCCESS)
            }
            Command::Analyze(analyze) => analyze.run(),
            Command::Sanitize(sanitize) => sanitize.run(),
            Command::Radv(radv) => radv.run(),
        }
    }
}

/// Prints an error with its causes, and returns its exit code. If the reader of a pipe has gone, the program ends by SIGPIPE
/// without a message, as other programs do.
fn fail(error: &anyhow::Error) -> ExitCode {
    if error.downcast_ref().is_some_and(Unprinted::reader_is_gone) {
        #[cfg(unix)]
        let _ = signal_hook::low_level::emulate_default_handler(signal_hook::consts::SIGPIPE);
    } else {
        note!("error: {error:#}");
    }
    ExitCode::from(code_of(fault(error)))
}

/// The exit code if the run was stopped or lost its device and can be resumed, or if another process is using the folder:
/// `EX_TEMPFAIL` of sysexits.h, since the same command may succeed later.
const STOPPED: u8 = 75;

/// The exit code if some of the data cannot be used.
const BAD_DATA: u8 = 3;

fn fault(error: &anyhow::Error) -> Fault {
    if error.is::<UsageError>() { Fault::Usage } else { fault_of(error.chain()) }
}

/// The documented exit code for a kind of fault.
fn code_of(fault: Fault) -> u8 {
    match fault {
        Fault::Internal => 1,
        Fault::Usage => 2,
        Fault::Data => BAD_DATA,
        Fault::Device | Fault::Memory => 4,
        Fault::Diverged => 70,
        Fault::Storage => UNWRITTEN,
        Fault::Lost | Fault::Busy => STOPPED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stssad::engine::gpu::GpuError;
    use stssad::run::execute::RunError;

    #[test]
    fn a_path_in_a_command_to_copy_is_no_flag() {
        for (path, word) in [("runs/a", "runs/a"), ("-odd", "./-odd"), ("--out", "./--out"), ("a b", "'a b'")] {
            assert_eq!(shell_word(Path::new(path)), word);
        }
    }

    #[test]
    fn each_kind_of_fault_has_the_code_that_the_help_lists() {
        let help = command().render_long_help().to_string();
        for fault in [
            Fault::Internal,
            Fault::Usage,
            Fault::Data,
            Fault::Device,
            Fault::Memory,
            Fault::Diverged,
            Fault::Storage,
            Fault::Lost,
            Fault::Busy,
        ] {
            let code = format!(" {} ", code_of(fault));
            assert!(help.contains(&code), "{fault:?}: no `{code}` in {help}");
        }
    }

    #[test]
    fn a_lost_device_exits_with_75_whatever_wraps_the_error() {
        let lost = GpuError::Lost { at: "step 3".into(), reason: "reset".into() };
        let error = anyhow::Error::from(RunError::from(lost)).context("the job a");
        assert_eq!(code_of(fault(&error)), STOPPED);
        assert_eq!(code_of(fault(&UsageError("no".into()).into())), 2);
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        assert_eq!(code_of(fault(&anyhow::Error::from(full).context("cannot write"))), UNWRITTEN);
        assert_eq!(code_of(fault(&anyhow::anyhow!("2 of 3 jobs failed"))), 1);
    }
}
