//! `stssad sweep plan|run|script|submit|merge`: compares methods over tasks and seeds.
//!
//! A task of an array job knows its own number, but not the size of the array: if a part of the array is submitted again, schedulers
//! report another first number and another count. So a task's jobs depend only on its number and on the given N: they are the share
//! whose number is the remainder when the task's is divided by N. Any N tasks with consecutive numbers run every job once, whether
//! they are counted from 0 or from 1.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;
use std::io::ErrorKind;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Subcommand};
use stssad::data::load;
use stssad::engine::gpu::{Choice, Device, GpuError, adapters};
use stssad::run::checkpoint::Checkpoint;
use stssad::run::claim::ClaimError;
use stssad::run::engines::{Engine, Submission};
use stssad::run::execute::{Ending, Extent, Run, RunError};
use stssad::run::folder::{Failure, RunFolder};
use stssad::run::outcome::{Counts, Outcome, ReportError};
use stssad::run::settings::Written;
use stssad::run::sweep::{Grid, Job, Share, merge};
use stssad::training::trainer::TrainError;

use super::fault::Fault;
use super::progress::{Mode, Shown, Stop};
use super::train::{duration, last_checkpoint};
use super::{BAD_DATA, DeviceArguments, STOPPED, UsageError, each_adapter, fault, not_a_flag, shell_word};

/// Arguments of `stssad sweep`.
#[derive(Debug, Args)]
pub struct Sweep {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print the jobs of a grid, one JSON object per line.
    Plan(Plan),
    /// Run the unfinished jobs of a grid, or a share of them; any number of processes may do so at once.
    ///
    /// A job that another process is running is skipped. If a job fails, the others still run; failed jobs are listed at the end, and
    /// the exit code is 1. They leave failed.json, and are tried again only with --retry-failed, except those that do not fit the
    /// device. Only a missing or lost device (4, 75) and a full disk (74) end a sweep at once. A process that leaves jobs to others exits 0, though these may not be finished.
    ///
    /// In an array job of Slurm, PBS, Grid Engine, LSF, Kubernetes or AWS Batch, each task runs the job with the task's own number, so
    /// an array for the whole grid needs as many tasks as `sweep plan` prints lines. For an array of N tasks, fewer than there are
    /// jobs, add `--tasks N`.
    Run(Execute),
    /// Print a script that runs the grid on the engine of a cluster, goes on with what was stopped, and merges the results.
    ///
    /// The script begins with how to use it.
    Script(Script),
    /// Run that script here: submit the grid to Slurm or HyperQueue, or run it by GNU parallel.
    Submit(Submit),
    /// Write and print a table of the finished jobs, and a diagram of their ranks; exits 1 if jobs are missing or failed, or had other
    /// images than others of their task.
    Merge(Merge),
}

#[derive(Debug, Args)]
struct Plan {
    /// The grid, in TOML.
    grid: PathBuf,
}

#[derive(Debug, Args)]
struct Execute {
    /// The grid, in TOML.
    grid: PathBuf,
    /// Folder of the sweep; each job has a folder in it.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Run the share I, counted from 0, of N shares of the grid, each with jobs of all tasks and methods.
    #[arg(long, value_name = "I/N")]
    shard: Option<Shard>,
    /// Run only job number I, counted from 0.
    #[arg(long, value_name = "I", conflicts_with = "shard")]
    index: Option<usize>,
    /// Run only the job of this name, as `sweep plan` prints it; exits 75 if another process is running it.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["shard", "index"])]
    job: Option<String>,
    /// Number of tasks in the scheduler's array: task I runs the share of `--shard R/N`, where R is the remainder of I when divided by
    /// N. A resubmitted task runs the same jobs again [default: the number of jobs].
    #[arg(long, value_name = "N", value_parser = count, conflicts_with_all = ["shard", "index", "job"])]
    tasks: Option<NonZeroUsize>,
    /// Also write the images and the report page of every run.
    #[arg(long)]
    reports: bool,
    /// Also try jobs that have failed before.
    #[arg(long)]
    retry_failed: bool,
    /// Read the images of every task, print what there is or what is wrong with them, and train nothing; exits 3 if a task cannot be
    /// read.
    #[arg(long)]
    dry_run: bool,
    /// Stop after this time, such as 45m or 1h30m, as a signal would: with a checkpoint and exit code 75. The same command goes on.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    max_time: Option<Duration>,
    /// How to show the progress of each job on standard error [default: a bar on a terminal, if there is one process, else none].
    #[arg(long, value_enum, value_name = "HOW")]
    progress: Option<Mode>,
    /// Run a process on each of these adapters: `all` GPUs, or some by their numbers in `stssad devices`, such as 0,2. They share the
    /// jobs out among themselves.
    #[arg(long, value_name = "all|A,A", conflicts_with = "adapter")]
    adapters: Option<String>,
    #[command(flatten)]
    device: DeviceArguments,
}

#[derive(Debug, Args)]
struct Script {
    /// The grid, in TOML.
    grid: PathBuf,
    /// Folder of the sweep; each job has a folder in it.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The engine.
    #[arg(long, value_enum)]
    engine: Engine,
    /// Number of workers among which the jobs are shared out [default: one for each job].
    #[arg(long, value_name = "N", value_parser = count)]
    chunks: Option<NonZeroUsize>,
    /// Flags of `sweep run` for each worker, separated by spaces, such as `--flags "--reports --adapter 0"`.
    #[arg(long, value_name = "FLAGS", default_value = "", allow_hyphen_values = true)]
    flags: String,
}

#[derive(Debug, Args)]
struct Submit {
    #[command(flatten)]
    script: Script,
    /// The engine's own flags, after `--`, such as `-- --partition=gpu --gres=gpu:1`.
    #[arg(last = true)]
    options: Vec<OsString>,
}

#[derive(Debug, Args)]
struct Merge {
    /// The grid, in TOML.
    grid: PathBuf,
    /// Folder of the sweep.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// A number of workers or tasks.
fn count(text: &str) -> Result<NonZeroUsize, String> {
    text.parse().map_err(|_| "it must be a whole number of at least 1".into())
}

#[derive(Clone, Copy, Debug)]
struct Shard {
    index: usize,
    of: usize,
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('/').and_then(|(index, of)| Some((index.parse().ok()?, of.parse().ok()?)));
        match parts {
            Some((index, of)) if index < of => Ok(Shard { index, of }),
            _ => Err("a shard is I/N with I from 0 to N − 1, such as 0/4".into()),
        }
    }
}

/// Variables in which schedulers give the number of a task in its array, and their values outside of arrays.
const ARRAYS: [(&str, Option<&str>); 7] = [
    ("SLURM_ARRAY_TASK_ID", None),
    ("PBS_ARRAY_INDEX", None),
    ("PBS_ARRAYID", None),
    ("SGE_TASK_ID", Some("undefined")),
    ("LSB_JOBINDEX", Some("0")),
    ("JOB_COMPLETION_INDEX", None),
    ("AWS_BATCH_JOB_ARRAY_INDEX", None),
];

impl Sweep {
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        match &self.action {
            Action::Plan(plan) => plan.run(),
            Action::Run(run) => run.run(),
            Action::Script(script) => script.run(),
            Action::Submit(submit) => submit.run(),
            Action::Merge(merge) => merge.run(),
        }
    }
}

fn read(path: &Path) -> anyhow::Result<(Grid, Vec<Job>)> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
    let grid = Grid::read(&Written { name: &name, text: &text })?;
    let jobs = grid.jobs()?;
    Ok((grid, jobs))
}

/// Reads the images of each task, as its first job would.
fn dry_run(jobs: &[Job]) -> anyhow::Result<ExitCode> {
    let mut told = BTreeSet::new();
    let (mut tasks, mut unusable) = (0, 0);
    for job in jobs.iter().filter(|job| told.insert(&job.task)) {
        tasks += 1;
        let loaded = job.config.source().map_err(anyhow::Error::from).and_then(|source| {
            let loading = job.config.loading();
            Ok(load(source, &loading, |_, _| {})?)
        });
        match loaded {
            Ok(loaded) => {
                let Counts { train, held_out, tune, test, .. } = Counts::of(&loaded.task);
                result!(
                    "{}: {train} images to train on, {held_out} held out, {tune} to tune on, {test} to test",
                    job.task
                )?;
            }
            Err(error) => {
                unusable += 1;
                result!("{}: {error:#}", job.task)?;
            }
        }
    }
    note!("dry run  {} of {tasks} tasks can be read; nothing was trained", tasks - unusable);
    Ok(if unusable == 0 { ExitCode::SUCCESS } else { ExitCode::from(BAD_DATA) })
}

impl Plan {
    fn run(&self) -> anyhow::Result<ExitCode> {
        for job in read(&self.grid)?.1 {
            result!("{}", serde_json::to_string(&job)?)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The outcome of a job in this process.
enum Done {
    Ending(Ending),
    /// Another process is running it.
    Elsewhere,
    /// It was already finished.
    Already,
    /// It had failed before, for this reason.
    Failed(String),
}

impl Execute {
    fn run(&self) -> anyhow::Result<ExitCode> {
        let (_, jobs) = read(&self.grid)?;
        if self.dry_run {
            return dry_run(&jobs);
        }
        if let Some(adapters) = &self.adapters {
            // Two bars on one terminal would overwrite each other.
            let silent = self.progress.is_none().then_some("--progress=none");
            return each_adapter::run(adapters, silent);
        }
        if let Some(adapter) = &self.device.adapter {
            Choice::from(adapter.as_str()).check(&adapters())?;
        }
        let share = self.share(&jobs, |name| std::env::var(name).ok())?;
        let mine = share.of(&jobs);
        if let (Share::Index(index), true) = (share, mine.is_empty()) {
            return Err(UsageError(format!(
                "there is no job {index}: the jobs of the grid are 0 to {}",
                jobs.len() - 1
            ))
            .into());
        }
        // Else each job would fail for the same reason.
        RunFolder::check_for_comparison(&self.out)?;
        std::fs::create_dir_all(&self.out).map_err(|source| ReportError::Write { path: self.out.clone(), source })?;
        note!("sweep    {} of {} jobs ({share})", mine.len(), jobs.len());
        let stop = Stop::listen(self.max_time)?;
        let mut device: Option<Device> = None;
        let (mut failed, mut elsewhere) = (Vec::new(), Vec::new());
        for (number, job) in mine.iter().enumerate() {
            let place = format!("{:>4}/{}", number + 1, mine.len());
            let mut attempt = || -> anyhow::Result<Done> {
                if self.is_done(job)? {
                    return Ok(Done::Already);
                }
                if let Some(failure) = job.failure(&self.out).filter(|it| !it.is_of_device && !self.retry_failed) {
                    return Ok(Done::Failed(failure.reason));
                }
                let device = match &device {
                    Some(device) => device,
                    None => device.insert(self.device.open().context(NoDevice)?),
                };
                stop.may_end_at_once(&format!("stopped at {}; run the same command to continue", job.name));
                self.execute(device, job, Shown::new(self.progress.unwrap_or_else(Mode::bar_or_none), stop.clone()))
            };
            match attempt() {
                Ok(Done::Already) => {}
                Ok(Done::Elsewhere) => elsewhere.push(job),
                Ok(Done::Failed(reason)) => {
                    failed.push(format!("\n  {}: failed in an earlier run: {reason}", job.name));
                }
                Ok(Done::Ending(Ending::Stopped | Ending::Unreported(_, None))) => {
                    note!("stopped at {}; run the same command to continue", job.name);
                    return Ok(ExitCode::from(STOPPED));
                }
                Ok(Done::Ending(Ending::Finished(outcome) | Ending::Unreported(outcome, Some(_)))) => {
                    let auroc = outcome.image_auroc.map_or("n/a".into(), |auroc| format!("{auroc:.3}"));
                    note!("{place}  AUROC {auroc}  {:.0} s  {}", outcome.seconds, job.name);
                }
                Err(error) if error.is::<NoDevice>() => return Err(error),
                Err(error) if ends_sweep(&error) => {
                    return Err(error.context(format!("ended at {}; run the same command to continue", job.name)));
                }
                Err(error) => {
                    let again =
                        if of_device(&error) { "; every run tries it again, as another device may fit it" } else { "" };
                    note!("{place}  failed  {}: {error:#}{again}", job.name);
                    failed.push(format!("\n  {}: {error:#}{again}", job.name));
                }
            }
        }
        // By now others may have finished some of theirs.
        elsewhere.retain(|job| !matches!(job.outcome(&self.out), Ok(Some(_))));
        if !elsewhere.is_empty() {
            note!("{} of {} jobs are left to other processes", elsewhere.len(), mine.len());
        }
        let finished = jobs.iter().filter(|job| matches!(job.outcome(&self.out), Ok(Some(_)))).count();
        note!("sweep    {finished} of the grid's {} jobs are finished", jobs.len());
        anyhow::ensure!(
            failed.is_empty(),
            "{} of {} jobs failed; --retry-failed tries them again:{}",
            failed.len(),
            mine.len(),
            failed.concat()
        );
        Ok(ExitCode::from(if self.job.is_some() && !elsewhere.is_empty() { STOPPED } else { 0 }))
    }

    fn execute(&self, device: &Device, job: &Job, mut shown: Shown) -> anyhow::Result<Done> {
        let folder = match RunFolder::create(job.folder(&self.out)) {
            Err(ClaimError::InUse { .. }) => return Ok(Done::Elsewhere),
            claimed => claimed?,
        };
        // The process that had it until now may have finished it.
        if self.is_done(job)? {
            return Ok(Done::Already);
        }
        folder.forgive();
        let trained = self.train(device, job, &folder, &mut shown);
        if let Err(error) = &trained {
            let is_of_device = of_device(error);
            if is_of_device || matches!(fault(error), Fault::Internal | Fault::Usage | Fault::Data | Fault::Diverged) {
                // Without the record it is only tried again.
                let _ = folder.fail(&Failure { reason: format!("{error:#}"), is_of_device });
            }
        }
        let ending = trained?;
        if let Ending::Unreported(_, Some(reason)) = &ending {
            note!("warning  the report of {} is incomplete: {reason}; the same command draws it", job.name);
        }
        Ok(Done::Ending(ending))
    }

    fn train(&self, device: &Device, job: &Job, folder: &RunFolder, shown: &mut Shown) -> anyhow::Result<Ending> {
        let checkpoint = last_checkpoint(folder.path())?;
        let loaded = load(job.config.source()?, &job.config.loading(), |_, _| {})?;
        let extent = if self.reports { Extent::Full } else { Extent::Figures };
        let run = Run { device, beside: &[], config: &job.config, loaded: &loaded, folder, extent };
        Ok(run.train(checkpoint, shown)?)
    }

    /// Whether nothing is left to do for a job: it has a result, and its report if reports are asked for.
    fn is_done(&self, job: &Job) -> anyhow::Result<bool> {
        let lacks_report = self.reports && Checkpoint::exists(&job.folder(&self.out));
        Ok(job.outcome(&self.out)?.is_some() && !lacks_report)
    }

    /// The share of `jobs`, from the flags or from a scheduler's variable.
    fn share(&self, jobs: &[Job], variable: impl Fn(&str) -> Option<String>) -> Result<Share, UsageError> {
        if let Some(name) = &self.job {
            let named = jobs.iter().position(|job| job.name == *name);
            return named.map(Share::Index).ok_or_else(|| {
                UsageError(format!("--job: the grid has no job `{name}`; `sweep plan` prints the names of its jobs"))
            });
        }
        self.numbered_share(jobs.len(), variable)
    }

    /// As [`share`](Self::share), by number.
    fn numbered_share(&self, jobs: usize, variable: impl Fn(&str) -> Option<String>) -> Result<Share, UsageError> {
        match (self.shard, self.index) {
            (Some(Shard { index, of }), _) => return Ok(Share::Shard { index, of }),
            (_, Some(index)) => return Ok(Share::Index(index)),
            (None, None) => {}
        }
        let found: Vec<(&str, String)> = ARRAYS
            .iter()
            .filter_map(|&(name, none)| {
                Some((name, variable(name).filter(|value| !value.is_empty() && Some(&**value) != none)?))
            })
            .collect();
        match (&found[..], self.tasks) {
            ([], None) => Ok(Share::All),
            ([], Some(_)) => Err(UsageError(
                "--tasks is for array jobs, but no scheduler's variable gives the number of this task: use --shard I/N"
                    .into(),
            )),
            ([(name, value)], tasks) => {
                let task: usize =
                    value.parse().map_err(|_| UsageError(format!("{name} is `{value}`: it must be a whole number")))?;
                Ok(match tasks.map(NonZeroUsize::get) {
                    Some(of) => {
                        note!("sweep    task {task} ({name}) of an array of {of}");
                        Share::Shard { index: task % of, of }
                    }
                    None => {
                        note!(
                            "sweep    task {task} ({name}) of an array with one task for each of {jobs} jobs; if the array has \
                             fewer tasks, add --tasks N"
                        );
                        Share::Index(task % jobs)
                    }
                })
            }
            ([(one, _), (other, _), ..], _) => {
                Err(UsageError(format!("both {one} and {other} are set: choose the jobs with --shard or --index")))
            }
        }
    }
}

/// The device could not be opened; no other job could open it either.
#[derive(Debug)]
struct NoDevice;

impl fmt::Display for NoDevice {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("the sweep needs a device")
    }
}

/// Whether a job may succeed on another device.
fn of_device(error: &anyhow::Error) -> bool {
    matches!(fault(error), Fault::Device | Fault::Memory)
}

/// Whether every other job would fail for the same reason: there is no usable device, or the disk is full.
fn ends_sweep(error: &anyhow::Error) -> bool {
    let train = match error.downcast_ref::<RunError>() {
        Some(RunError::Train(train)) => Some(train),
        _ => error.downcast_ref::<TrainError>(),
    };
    let is_lost = matches!(train, Some(TrainError::Gpu(GpuError::Lost { .. })));
    let full =
        [ErrorKind::StorageFull, ErrorKind::QuotaExceeded, ErrorKind::FileTooLarge, ErrorKind::ReadOnlyFilesystem];
    let is_full = |source: &(dyn std::error::Error + 'static)| {
        source.downcast_ref::<std::io::Error>().is_some_and(|error| full.contains(&error.kind()))
    };
    error.is::<NoDevice>() || is_lost || error.chain().any(is_full)
}

impl Script {
    fn run(&self) -> anyhow::Result<ExitCode> {
        result!("{}", self.text()?)?;
        Ok(ExitCode::SUCCESS)
    }

    fn text(&self) -> anyhow::Result<String> {
        let jobs: Vec<String> = read(&self.grid)?.1.into_iter().map(|job| job.name).collect();
        let chunks = self.chunks.map_or(jobs.len(), NonZeroUsize::get);
        if chunks > jobs.len() {
            return Err(UsageError(format!("--chunks {chunks}: the grid has only {} jobs", jobs.len())).into());
        }
        if self.engine == Engine::Snakemake && self.chunks.is_some() {
            return Err(UsageError("--chunks: Snakemake knows each job, and groups them itself".into()).into());
        }
        if self.engine == Engine::Slurm && chunks > SLURM_ARRAY {
            note!(
                "note     most Slurm clusters take at most {SLURM_ARRAY} tasks in an array: share the jobs out with --chunks"
            );
        }
        let name = |path: &Path| match path.to_str() {
            None => Err(UsageError(format!("{} is not UTF-8, so no script can name it", path.display()))),
            Some(text) => match self.engine.unspeakable(text) {
                Some(letter) => Err(UsageError(format!(
                    "{text:?} contains {letter:?}, which a script for {} cannot name: rename it",
                    self.engine
                ))),
                None => Ok(text.to_owned()),
            },
        };
        let program = match self.engine {
            Engine::K8s => "stssad".into(),
            _ => name(&std::env::current_exe().context("cannot tell the path of this program")?)?,
        };
        let flags: Vec<String> = self.flags.split_whitespace().map(str::to_owned).collect();
        check_flags(self.engine, &flags)?;
        Ok(self.engine.script(&Submission {
            program: &program,
            folder: &name(&std::env::current_dir().context("cannot tell the working folder")?)?,
            grid: &name(&not_a_flag(&self.grid))?,
            out: &name(&not_a_flag(&self.out))?,
            flags: &flags,
            jobs: &jobs,
            chunks,
        }))
    }
}

/// Refuses what `sweep run` would not take, or what the script sets itself.
fn check_flags(engine: Engine, flags: &[String]) -> Result<(), UsageError> {
    let refused = |why: String| UsageError(format!("--flags: {why}"));
    let names = || flags.iter().map(|flag| flag.split('=').next().unwrap_or_default());
    if let Some(own) = names().find(|name| ["--out", "--shard", "--index", "--job", "--tasks"].contains(name)) {
        return Err(refused(format!("the script gives each worker its own {own}")));
    }
    if engine.begins_again() && names().any(|name| name == "--max-time") {
        return Err(refused(format!(
            "--max-time: the script for {engine} begins a worker again that was stopped, so its time would never be over; leave it out"
        )));
    }
    let line = ["run", "grid.toml", "--out", "sweep"].into_iter().chain(flags.iter().map(String::as_str));
    match Execute::augment_args(clap::Command::new("run")).try_get_matches_from(line) {
        Ok(_) => Ok(()),
        // The first line says what is wrong.
        Err(error) => Err(refused(error.to_string().lines().next().unwrap_or_default().replace("error: ", ""))),
    }
}

/// The tasks of an array that Slurm takes as it is delivered.
const SLURM_ARRAY: usize = 1000;

impl Submit {
    fn run(&self) -> anyhow::Result<ExitCode> {
        let engine = self.script.engine;
        let Some(command) = engine.command() else {
            return Err(
                UsageError(format!("stssad cannot submit to {engine}: `sweep script` prints a file for it")).into()
            );
        };
        if !is_installed(command) {
            return Err(UsageError(format!(
                "there is no command `{command}` here: submit where {engine} is, or print the script with `sweep script`"
            ))
            .into());
        }
        // Not by standard input, which the script's own commands would read.
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(self.script.text()?).arg("stssad").args(&self.options);
        // In the place of this process, so that a signal reaches the script.
        #[cfg(unix)]
        return Err(std::os::unix::process::CommandExt::exec(&mut shell)).context("cannot run `sh`");
        #[cfg(not(unix))]
        {
            let status = shell.status().context("cannot run `sh`")?;
            Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
        }
    }
}

/// Whether a command is found in PATH.
fn is_installed(command: &str) -> bool {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders).any(|folder| folder.join(command).is_file())
}

impl Merge {
    fn run(&self) -> anyhow::Result<ExitCode> {
        let (grid, jobs) = read(&self.grid)?;
        if !self.out.is_dir() {
            return Err(UsageError(format!("there is no folder {}: check the path", self.out.display())).into());
        }
        let results: Vec<_> = jobs.iter().map(|job| job.outcome(&self.out)).collect();
        let outcomes = || results.iter().flatten().flatten();
        let origins: BTreeSet<String> = outcomes().map(Outcome::origin).collect();
        if origins.len() > 1 {
            let listed: String = origins.iter().map(|origin| format!("\n  {origin}")).collect();
            note!("warning  the runs are not of one version and device, whose rounding may differ:{listed}");
        }
        let comparison = merge(&grid, &jobs, &results, &self.out)?;
        for fingerprints in &comparison.other_images {
            let now = jobs.iter().find(|job| fingerprints.values().flatten().any(|name| *name == job.name));
            let now = now.map_or_else(Vec::new, present_images);
            let line = |(print, names): (&String, &Vec<String>)| {
                let when = match now.contains(print) {
                    true => ", as they are now",
                    false if now.is_empty() => "",
                    false => ", as they are no longer",
                };
                let folders: Vec<String> = names.iter().map(|name| shell_word(&self.out.join(name))).collect();
                format!("\n  images {print}{when}: {}", folders.join(" "))
            };
            let listed: String = fingerprints.iter().map(line).collect();
            note!(
                "warning  images changed between these runs, so their figures cannot be compared; restore the images, or remove the \
                 folders of the runs with images as they are no longer, and run the sweep again:{listed}"
            );
        }
        comparison.write(&RunFolder::for_comparison(&self.out)?)?;
        match self.json {
            true => result!("{}", serde_json::to_string_pretty(&comparison)?)?,
            false => result!("{}", comparison.markdown())?,
        }
        let is_whole = comparison.missing.is_empty() && comparison.other_images.is_empty();
        Ok(ExitCode::from(u8::from(!is_whole)))
    }
}

/// The fingerprints of a job's images as they are now; none if they cannot be read.
fn present_images(job: &Job) -> Vec<String> {
    let read = || -> anyhow::Result<Vec<String>> {
        let loaded = load(job.config.source()?, &job.config.loading(), |_, _| {})?;
        Ok(std::iter::once(loaded.task.fingerprint()?).chain(loaded.seedless_fingerprint()?).collect())
    };
    read().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Alone {
        #[command(flatten)]
        execute: Execute,
    }

    /// The jobs, out of `jobs`, that a task with these variables runs.
    fn share(flags: &[&str], jobs: usize, variables: &[(&str, &str)]) -> Result<BTreeSet<usize>, String> {
        let line = ["stssad", "grid.toml", "--out", "sweep"].iter().chain(flags);
        let alone = Alone::try_parse_from(line).map_err(|error| error.to_string())?;
        let value =
            |name: &str| variables.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).to_owned());
        Ok(match alone.execute.numbered_share(jobs, value).map_err(|error| error.to_string())? {
            Share::All => (0..jobs).collect(),
            // The shares as they would be if the jobs were dealt out in order.
            Share::Shard { index, of } => (index..jobs).step_by(of).collect(),
            Share::Index(index) => [index].into(),
        })
    }

    #[test]
    fn a_resubmitted_task_runs_the_same_jobs() {
        // Slurm's variables for --array=0-7, for --array=3,7, and for --array=1-10:3, with the ids 1, 4, 7 and 10.
        let slurm = |id: &str, first: &str, count: &str| {
            let variables =
                [("SLURM_ARRAY_TASK_ID", id), ("SLURM_ARRAY_TASK_MIN", first), ("SLURM_ARRAY_TASK_COUNT", count)];
            [&[][..], &["--tasks", "4"]].map(|flags| share(flags, 8, &variables).unwrap())
        };
        for id in ["3", "7"] {
            let number: usize = id.parse().unwrap();
            let whole = slurm(id, "0", "8");
            assert_eq!(whole, [[number].into(), [3, 7].into()], "{id}");
            assert_eq!([slurm(id, "3", "2"), slurm(id, id, "1"), slurm(id, "1", "4")], [(); 3].map(|()| whole.clone()));
        }
    }

    #[test]
    fn the_given_number_of_tasks_runs_every_job_once() {
        for (jobs, tasks, first) in [(8, 8, 0), (8, 8, 1), (8, 3, 0), (8, 3, 1), (7, 4, 5), (2, 5, 1), (1, 1, 1)] {
            let flags = ["--tasks", &tasks.to_string()];
            let mut done: Vec<usize> = Vec::new();
            for id in first..first + tasks {
                done.extend(share(&flags, jobs, &[("PBS_ARRAY_INDEX", &id.to_string())]).unwrap());
            }
            done.sort_unstable();
            assert_eq!(done, (0..jobs).collect::<Vec<_>>(), "{jobs} jobs, {tasks} tasks from {first} on");
        }
    }

    #[test]
    fn every_scheduler_is_recognised_but_only_in_an_array() {
        for (name, outside) in ARRAYS {
            assert_eq!(share(&[], 8, &[(name, "3")]).unwrap(), [3].into(), "{name}");
            assert_eq!(share(&[], 8, &[(name, "")]).unwrap().len(), 8, "{name} without a value");
            if let Some(outside) = outside {
                assert_eq!(share(&[], 8, &[(name, outside)]).unwrap().len(), 8, "{name}");
            }
        }
        assert_eq!(share(&["--shard", "1/4"], 8, &[("SGE_TASK_ID", "3")]).unwrap(), [1, 5].into());
        assert!(share(&["--tasks", "4"], 8, &[]).unwrap_err().contains("use --shard I/N"));
        assert!(share(&["--tasks", "0"], 8, &[("SGE_TASK_ID", "3")]).is_err());
        assert!(share(&[], 8, &[("SGE_TASK_ID", "3"), ("LSB_JOBINDEX", "3")]).unwrap_err().contains("both"));
    }

    #[test]
    fn only_a_missing_device_and_a_full_disk_end_a_sweep() {
        let written = |kind: ErrorKind| {
            let source = kind.into();
            anyhow::Error::from(RunError::from(stssad::run::outcome::ReportError::Write {
                path: "result.json".into(),
                source,
            }))
        };
        let gpu = |error: GpuError| anyhow::Error::from(RunError::from(error));
        let [at, reason] = ["a step", "it is gone"].map(String::from);
        let too_large = GpuError::TooLarge { what: "slot 1".into(), bytes: 2, limit: 1 };
        let out_of_memory = GpuError::OutOfMemory { at: at.clone(), reason: reason.clone() };
        assert!(ends_sweep(&written(ErrorKind::StorageFull)) && ends_sweep(&written(ErrorKind::QuotaExceeded)));
        assert!(ends_sweep(&gpu(GpuError::Lost { at, reason })));
        assert!(ends_sweep(&anyhow::Error::from(GpuError::NoAdapter(String::new())).context(NoDevice)));
        assert!(!ends_sweep(&written(ErrorKind::PermissionDenied)));
        assert!(!ends_sweep(&gpu(too_large)) && !ends_sweep(&gpu(out_of_memory)));
        assert!(!ends_sweep(&stssad::data::DataError::Empty { set: "training" }.into()));
    }
}
