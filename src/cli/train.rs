//! `stssad train`, `test` and `predict`: from a folder of pictures to a detector, its figures, and scores of new pictures.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde_json::json;
use stssad::checkpoint::Checkpoint;
use stssad::config::{RunConfig, overlay};
use stssad::data::{Loaded, load, read_pictures};
use stssad::fault::Faulty;
use stssad::folder::{RunFolder, State, follow};
use stssad::gpu::Device;
use stssad::model::{Judge, Model};
use stssad::profile::Memory;
use stssad::report::{Metrics, Table};
use stssad::run::{Ending, Extent, MODEL, Run, RunError, next_folder, test};

use super::arguments::{DataArguments, RunArguments};
use super::progress::{Mode, Shown, stop_flag};
use super::{DeviceArguments, STOPPED, Unfit, progress_bar};

/// Arguments of `stssad train`.
#[derive(Debug, Args)]
pub struct Train {
    #[command(flatten)]
    run: RunArguments,
    #[command(flatten)]
    output: OutputArguments,
    /// Resume the run in DIR with its own configuration and data; without DIR, the unfinished run below results/stssad whose
    /// checkpoint is the newest.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["config", "print_config", "out"])]
    resume: Option<Option<PathBuf>>,
    #[command(flatten)]
    device: DeviceArguments,
}

/// Where a run's files go and how it tells of itself.
#[derive(Debug, Args)]
#[command(next_help_heading = "Output")]
pub struct OutputArguments {
    /// Folder of the run [default: the next free results/stssad/<dataset>/<category>/vN].
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Leave out the pictures and the page: only model, scores and figures.
    #[arg(long)]
    pub no_report: bool,
    /// Say first what a step keeps on the device.
    #[arg(long)]
    pub memory: bool,
    #[arg(long, value_enum, default_value_t, value_name = "HOW")]
    pub progress: Mode,
    /// Print result.json to standard output when done.
    #[arg(long)]
    pub json: bool,
}

/// Where runs go that are not told where.
const RESULTS: &str = "results/stssad";

impl Train {
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        if let Some(folder) = &self.resume {
            if self.run.says_anything()? {
                return Err(unfit(
                    "--resume goes on with the run's own configuration: leave out the other flags".into(),
                ));
            }
            return self.resume(folder.as_deref());
        }
        let config = self.run.resolve()?;
        if self.run.print_config {
            result!("{}", config.to_toml())?;
            return Ok(ExitCode::SUCCESS);
        }
        // What is in the way is told before the images are read; a new folder is made once they are known to be good.
        let claim = |out: &PathBuf| -> anyhow::Result<RunFolder> {
            let folder = RunFolder::create(out)?;
            is_free(out)?;
            Ok(folder)
        };
        let claimed = self.output.out.as_ref().filter(|out| out.exists()).map(claim).transpose()?;
        let device = ready(&self.device, &config)?;
        let loaded = read(&config)?;
        let folder = match (claimed, &self.output.out) {
            (Some(folder), _) => folder,
            (None, Some(out)) => claim(out)?,
            (None, None) => next_folder(Path::new(RESULTS), &loaded.task)?,
        };
        execute(&device, &config, &loaded, &folder, None, &self.output)
    }

    fn resume(&self, folder: Option<&Path>) -> anyhow::Result<ExitCode> {
        let folder = match folder.map(follow) {
            None => RunFolder::resume_newest(Path::new(RESULTS))?,
            Some(path) => {
                is_unfinished(&path)?;
                RunFolder::resume(&path)?
            }
        };
        let checkpoint = is_unfinished(folder.path()).and_then(|()| last_checkpoint(folder.path()))?;
        let checkpoint = checkpoint.ok_or_else(|| nothing_saved(folder.path()))?;
        let config = RunConfig::parse(&checkpoint.config)?;
        note!("resume   {}", folder.path().display());
        let device = ready(&self.device, &config)?;
        let loaded = read(&config)?;
        execute(&device, &config, &loaded, &folder, Some(checkpoint), &self.output)
    }
}

/// Refuses a folder that holds a run already.
fn is_free(folder: &Path) -> anyhow::Result<()> {
    let shown = folder.display();
    match State::of(folder)? {
        State::Nothing => Ok(()),
        State::Unfinished => Err(unfit(format!(
            "{shown} holds a run already: choose another --out, or go on with it by --resume {shown}"
        ))),
        State::Finished(_) => Err(unfit(format!("{shown} holds a finished run: choose another --out"))),
    }
}

/// Refuses a folder without a run to go on with.
fn is_unfinished(folder: &Path) -> anyhow::Result<()> {
    let shown = folder.display();
    match State::of(folder)? {
        State::Unfinished => Ok(()),
        State::Finished(_) => Err(unfit(format!("the run in {shown} is finished: there is nothing to go on with"))),
        State::Nothing if !folder.is_dir() => Err(unfit(format!("there is no folder {shown}: check the path"))),
        State::Nothing => Err(nothing_saved(folder)),
    }
}

fn nothing_saved(folder: &Path) -> anyhow::Error {
    let shown = folder.display();
    unfit(format!("{shown} has no checkpoint: nothing was saved, begin anew with --out {shown}"))
}

/// The last whole checkpoint of a run's folder; says when an earlier one had to be taken.
pub fn last_checkpoint(folder: &Path) -> anyhow::Result<Option<Checkpoint>> {
    let Some((checkpoint, damaged)) = Checkpoint::load(folder)? else { return Ok(None) };
    if let Some(reason) = damaged {
        note!("warning  {reason}; going on from the checkpoint before it");
    }
    Ok(Some(checkpoint))
}

fn unfit(problem: String) -> anyhow::Error {
    Unfit(problem).into()
}

/// Opens the device and says which it is.
fn open(arguments: &DeviceArguments) -> anyhow::Result<Device> {
    let device = arguments.open()?;
    let adapter = device.adapter();
    note!("device   {} ({}; {})", adapter.name, adapter.class, adapter.driver);
    Ok(device)
}

/// Opens the device for a run, which it must be able to do at the run's precision, before any image is read.
fn ready(arguments: &DeviceArguments, config: &RunConfig) -> anyhow::Result<Device> {
    config.source()?;
    let device = open(arguments)?;
    device.with_precision(config.training.precision)?;
    Ok(device)
}

/// Reads the pictures and says what went where.
fn read(config: &RunConfig) -> anyhow::Result<Loaded> {
    let bar = progress_bar(0, "read     {bar:28} {pos}/{len} pictures");
    let loaded = load(config.source()?, &config.loading(), |done, of| {
        bar.set_length(of as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    let loaded = loaded?;
    note!("{}", loaded.table());
    Ok(loaded)
}

/// Trains and reports, and says where everything is.
pub fn execute(
    device: &Device,
    config: &RunConfig,
    loaded: &Loaded,
    folder: &RunFolder,
    checkpoint: Option<Checkpoint>,
    output: &OutputArguments,
) -> anyhow::Result<ExitCode> {
    if let Some(reason) = folder.unlocked() {
        let shown = folder.path().display();
        note!("note     {shown} cannot be locked ({reason}): take care that no other process writes to it");
    }
    let extent = if output.no_report { Extent::Figures } else { Extent::Full };
    let mut shown = Shown::new(output.progress, stop_flag()?);
    let run = Run { device, config, loaded, folder, extent };
    if output.memory {
        note!("{}", Memory::of(&run.plan()?));
    }
    match run.train(checkpoint, &mut shown).inspect_err(|error| tell_of_checkpoint(error, folder.path()))? {
        Ending::Stopped => {
            note!("stopped; go on with: stssad train --resume {}", folder.path().display());
            Ok(ExitCode::from(STOPPED))
        }
        Ending::Finished(outcome) => {
            note!("{}", Table(&outcome.starts));
            note!("{}", figures(&outcome.metrics));
            let steps = outcome.steps * outcome.starts.len();
            note!("{:.1} steps/s; everything is in {}", steps as f64 / outcome.seconds, folder.path().display());
            if output.json {
                result!("{}", serde_json::to_string_pretty(&outcome)?)?;
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Says what is left of a run that ended in an error, where the same run may succeed later.
fn tell_of_checkpoint(error: &RunError, folder: &Path) {
    if !error.fault().may_pass() {
        return;
    }
    match Checkpoint::load(folder) {
        Ok(Some((checkpoint, _))) => {
            let (start, step, shown) = (checkpoint.snapshot.start + 1, checkpoint.snapshot.step, folder.display());
            note!("saved    up to start {start}, step {step}; resume with: stssad train --resume {shown}");
        }
        _ => note!("saved    nothing yet; run the same command again"),
    }
}

/// The figures on one line, what cannot be had as `n/a`.
fn figures(metrics: &Metrics) -> String {
    let figure = |(name, value): (&String, &Option<f64>)| match value {
        Some(value) => format!("{name} {value:.3}"),
        None => format!("{name} n/a"),
    };
    metrics.iter().map(figure).collect::<Vec<_>>().join("   ")
}

/// A run's folder, as the commands take it that need a trained model.
fn model(folder: &Path) -> anyhow::Result<Model> {
    let folder = follow(folder);
    let path = if folder.is_dir() { folder.join(MODEL) } else { folder.clone() };
    if folder.is_dir() && !path.exists() {
        return Err(unfit(format!(
            "{} is not the folder of a finished run, since it has no {MODEL}: the run comes first, then the images",
            folder.display()
        )));
    }
    Ok(Model::load(&path)?)
}

/// Arguments of `stssad test`.
#[derive(Debug, Args)]
pub struct Test {
    /// Folder of a finished run, or its model.safetensors.
    run: PathBuf,
    #[command(flatten)]
    data: DataArguments,
    /// Folder for scores.csv and test.json [default: `test` in the run's folder].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArguments,
    /// Print the figures as JSON.
    #[arg(long)]
    json: bool,
}

impl Test {
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        let model = model(&self.run)?;
        let run = follow(&self.run);
        let beside = if run.is_dir() { run } else { run.with_file_name("") };
        let out = self.out.clone().unwrap_or_else(|| beside.join("test"));
        is_free(&out)?;
        let folder = RunFolder::for_test(out)?;
        let mut table: toml::Table = model.config.to_toml().parse()?;
        overlay(&mut table, self.data.tables()?);
        let loaded = read(&RunConfig::from_table(table)?)?;
        let [_, c, h, w] = loaded.task.test.pictures.shape().images().expect("a set holds pictures");
        if [c, h, w] != model.picture {
            return Err(unfit(format!(
                "the model takes pictures of {:?} (channels, height, width), these are {:?}: leave --size and --channels as \
                 they were",
                model.picture,
                [c, h, w]
            )));
        }
        if loaded.task.fingerprint() != model.fingerprint {
            note!("note     these are not the pictures that the model was trained and tuned on");
        }
        let device = open(&self.device)?;
        let tested = test(&device, &model, &loaded.task.test)?;
        folder.write_scores(&tested.scored, Some(model.threshold))?;
        let report = serde_json::to_string_pretty(&json!({
            "metrics": tested.metrics,
            "threshold": model.threshold,
            "pictures": tested.scored.len(),
            "adapter": device.adapter(),
        }))?;
        folder.write("test.json", report.as_bytes())?;
        note!("{}", figures(&tested.metrics));
        note!("scores are in {}", folder.path().display());
        if self.json {
            result!("{report}")?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Arguments of `stssad predict`.
#[derive(Debug, Args)]
pub struct Predict {
    /// Folder of a finished run, or its model.safetensors.
    run: PathBuf,
    /// Pictures, or folders of them.
    #[arg(required = true)]
    pictures: Vec<PathBuf>,
    #[command(flatten)]
    device: DeviceArguments,
    /// Print JSON lines instead of CSV.
    #[arg(long)]
    json: bool,
}

impl Predict {
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        let model = model(&self.run)?;
        let loading = model.config.loading();
        let read = read_pictures(&self.pictures, model.conversion(), &loading, |_, _| {})?;
        for skipped in &read.skipped {
            note!("skipped  {skipped}");
        }
        let device = open(&self.device)?;
        let judgement = Judge::new(&device, &model)?.judge(&read.set.pictures)?;
        // Names are below the folder that was given, and two folders may have the same.
        let scored = read.paths.iter().map(|path| path.to_string_lossy()).zip(&judgement.scores);
        let is_anomalous = |score: f64| score >= model.threshold;
        if self.json {
            for (path, &score) in scored {
                result!("{}", json!({ "path": path, "score": score, "anomalous": is_anomalous(score) }))?;
            }
        } else {
            let mut table = csv::Writer::from_writer(Vec::new());
            table.write_record(["path", "score", "anomalous"])?;
            for (path, &score) in scored {
                table.write_record([&*path, &score.to_string(), &u8::from(is_anomalous(score)).to_string()])?;
            }
            result!("{}", String::from_utf8_lossy(&table.into_inner()?))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
