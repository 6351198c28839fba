//! `stssad sweep plan|run|merge`: methods over tasks and seeds.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::Context;
use clap::{Args, Subcommand};
use stssad::data::load;
use stssad::gpu::Device;
use stssad::report::RunFolder;
use stssad::run::{Ending, Extent, Run, RunError};
use stssad::settings::Written;
use stssad::sweep::{Grid, Job, Share, merge};
use stssad::train::TrainError;

use super::progress::{Mode, Shown, stop_flag};
use super::train::last_checkpoint;
use super::{DeviceArguments, STOPPED, Unfit};

/// Arguments of `stssad sweep`.
#[derive(Debug, Args)]
pub struct Sweep {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print the jobs of a grid, a JSON line each.
    Plan(Plan),
    /// Do the jobs that are not done, or a share of them; as many of these as you like may run at once.
    Run(Execute),
    /// Make the table of what is there; exits 1 when jobs are missing.
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
    /// Folder of the sweep; each job has its own in it.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Do every N-th job from number I on, counted from 0; read from a scheduler's environment where it says so.
    #[arg(long, value_name = "I/N")]
    shard: Option<Shard>,
    /// Do job number I alone, counted from 0.
    #[arg(long, value_name = "I", conflicts_with = "shard")]
    index: Option<usize>,
    /// Write the pictures and the page of every run as well.
    #[arg(long)]
    reports: bool,
    #[arg(long, value_enum, default_value_t = Mode::None, value_name = "HOW")]
    progress: Mode,
    #[command(flatten)]
    device: DeviceArguments,
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

/// Variables in which schedulers say which of an array's tasks this is: the first and the number of them follow, where the
/// scheduler says.
const ARRAYS: [(&str, Option<&str>, Option<&str>); 3] = [
    ("SLURM_ARRAY_TASK_ID", Some("SLURM_ARRAY_TASK_MIN"), Some("SLURM_ARRAY_TASK_COUNT")),
    ("JOB_COMPLETION_INDEX", None, None),
    ("AWS_BATCH_JOB_ARRAY_INDEX", None, None),
];

impl Sweep {
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        match &self.action {
            Action::Plan(plan) => plan.run(),
            Action::Run(run) => run.run(),
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

impl Plan {
    fn run(&self) -> anyhow::Result<ExitCode> {
        for job in read(&self.grid)?.1 {
            result!("{}", serde_json::to_string(&job)?)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Execute {
    fn run(&self) -> anyhow::Result<ExitCode> {
        let (_, jobs) = read(&self.grid)?;
        let share = self.share()?;
        let mine = share.of(&jobs);
        if let (Share::Index(index), true) = (share, mine.is_empty()) {
            return Err(Unfit(format!("there is no job {index}: the grid has jobs 0 to {}", jobs.len() - 1)).into());
        }
        note!("sweep    {} of {} jobs ({share})", mine.len(), jobs.len());
        let stop = stop_flag()?;
        let mut device: Option<Device> = None;
        let mut failed = 0;
        for (number, job) in mine.iter().enumerate() {
            if job.outcome(&self.out).is_some() {
                continue;
            }
            let device = match &device {
                Some(device) => device,
                None => device.insert(self.device.open()?),
            };
            match self.execute(device, job, Shown::new(self.progress, stop.clone())) {
                Ok(Ending::Stopped) => {
                    note!("stopped at {}; run the same command to go on", job.name);
                    return Ok(ExitCode::from(STOPPED));
                }
                Ok(Ending::Finished(outcome)) => {
                    let auroc = outcome.image_auroc.map_or("n/a".into(), |auroc| format!("{auroc:.3}"));
                    note!("{:>4}/{}  AUROC {auroc}  {:.0} s  {}", number + 1, mine.len(), outcome.seconds, job.name);
                }
                // A run that diverged says something about its method, not about the others.
                Err(error) if diverged(&error) => {
                    failed += 1;
                    note!("{:>4}/{}  failed  {}: {error:#}", number + 1, mine.len(), job.name);
                }
                Err(error) => return Err(error.context(job.name.clone())),
            }
        }
        anyhow::ensure!(failed == 0, "{failed} of {} jobs failed", mine.len());
        Ok(ExitCode::SUCCESS)
    }

    fn execute(&self, device: &Device, job: &Job, mut shown: Shown) -> anyhow::Result<Ending> {
        let loaded = load(job.config.source()?, &job.config.loading(), |_, _| {})?;
        let folder = RunFolder::create(job.folder(&self.out))?;
        let checkpoint = last_checkpoint(folder.path())?;
        let extent = if self.reports { Extent::Full } else { Extent::Figures };
        let run = Run { device, config: &job.config, loaded: &loaded, folder: &folder, extent };
        Ok(run.train(checkpoint, &mut shown)?)
    }

    /// The share that the flags name, or a scheduler.
    fn share(&self) -> anyhow::Result<Share> {
        match (self.shard, self.index) {
            (Some(Shard { index, of }), _) => return Ok(Share::Shard { index, of }),
            (_, Some(index)) => return Ok(Share::Index(index)),
            (None, None) => {}
        }
        let variable = |name: &str| std::env::var(name).ok();
        let found: Vec<_> = ARRAYS.iter().filter(|(id, ..)| variable(id).is_some()).collect();
        let number = |name: &str| -> Result<usize, Unfit> {
            let text = variable(name).ok_or_else(|| Unfit(format!("{name} is not set")))?;
            text.parse().map_err(|_| Unfit(format!("{name} is `{text}`, not a number from 0 on")))
        };
        match found[..] {
            [] => Ok(Share::All),
            [&(id, first, count)] => {
                note!("sweep    taking the share that {id} names");
                let (task, first) = (number(id)?, first.map_or(Ok(0), number)?);
                let before = || Unfit(format!("{id} is {task}, less than the first of its array, {first}"));
                let index = task.checked_sub(first).ok_or_else(before)?;
                Ok(match count.map(number).transpose()? {
                    Some(of) if index < of => Share::Shard { index, of },
                    Some(of) => return Err(Unfit(format!("{id} is task {index} of {of}, counted from 0")).into()),
                    None => Share::Index(index),
                })
            }
            [(one, ..), (other, ..), ..] => {
                let problem = format!("both {one} and {other} are set: name the share by --shard or --index");
                Err(Unfit(problem).into())
            }
        }
    }
}

fn diverged(error: &anyhow::Error) -> bool {
    let run = error.downcast_ref::<RunError>();
    matches!(run, Some(RunError::Train(TrainError::Diverged { .. } | TrainError::NoStart(_))))
}

impl Merge {
    fn run(&self) -> anyhow::Result<ExitCode> {
        let (grid, jobs) = read(&self.grid)?;
        let comparison = merge(&grid, &jobs, &self.out)?;
        comparison.write(&self.out)?;
        match self.json {
            true => result!("{}", serde_json::to_string_pretty(&comparison)?)?,
            false => result!("{}", comparison.markdown())?,
        }
        Ok(ExitCode::from(u8::from(!comparison.missing.is_empty())))
    }
}
