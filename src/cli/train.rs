//! `stssad train` and `test`: train a detector on a folder of images, and test it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use serde_json::json;
use stssad::data::{DataError, Loaded, Loading, MARKER, Seen, Set, Source, load, load_test};
use stssad::engine::gpu::Device;
use stssad::engine::plan::memory::Memory;
use stssad::run::checkpoint::{Checkpoint, FILES as CHECKPOINTS};
use stssad::run::claim::ClaimError;
use stssad::run::config::{RunConfig, Training, overlay, rate};
use stssad::run::execute::{Ending, Extent, MODEL, Run, RunError, SEEN, next_folder, test};
use stssad::run::folder::{FolderError, RunFolder, State, follow, newest_below};
use stssad::run::model::Model;
use stssad::run::outcome::Counts;
use stssad::run::report::Table;
use stssad::run::scored::{Alarms, Metrics};
use stssad::training::conformal::{Threshold, TooFew, needed};

use super::arguments::{DataArguments, Given, RunArguments, printed};
use super::each_adapter::chosen;
use super::fault::Faulty;
use super::progress::{Mode, Shown, Stop};
use super::{DeviceArguments, STOPPED, UsageError, progress_bar, shell_word};

/// Arguments of `stssad train`.
#[derive(Debug, Args)]
pub struct Train {
    #[command(flatten)]
    run: RunArguments,
    #[command(flatten)]
    output: OutputArguments,
    /// Resume the run in DIR with its own configuration and data; without DIR, resume the unfinished run below results/stssad
    /// that was begun or resumed last. If the run has a result and only its report is incomplete, draw that.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["config", "print_config", "out"])]
    resume: Option<Option<PathBuf>>,
    /// Train starts side by side on these adapters: `all` GPUs, or some by their numbers in `stssad devices`, such as 0,2. The first one
    /// also tests and draws the report. Devices round differently, which training can enlarge; otherwise the result is that of one.
    #[arg(long, value_name = "all|A,A", conflicts_with = "adapter")]
    adapters: Option<String>,
    #[command(flatten)]
    device: DeviceArguments,
}

/// The output of a run.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Output")]
pub struct OutputArguments {
    /// Folder of the run [default: the next free results/stssad/<dataset>/<category>/vN].
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Write only the model, the scores and the figures: no images, no report page. --resume remembers this.
    #[arg(long)]
    pub no_report: bool,
    /// Print how much device memory a training step needs, before training.
    #[arg(long)]
    pub memory: bool,
    /// Try everything before a long run: read all images, train two steps of one start of each augmentation, score, and draw the
    /// report, in a temporary folder of which nothing is kept.
    #[arg(long, conflicts_with_all = ["out", "resume"])]
    pub fast_dev_run: bool,
    /// Stop after this time, such as 90s, 45m or 1h30m, as a signal would: with a checkpoint and exit code 75. The time counts from the
    /// start of the program; --resume goes on.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub max_time: Option<Duration>,
    /// How to show progress on standard error.
    #[arg(long, value_enum, default_value_t, value_name = "HOW")]
    pub progress: Mode,
    /// Print result.json to standard output when done.
    #[arg(long)]
    pub json: bool,
}

impl OutputArguments {
    /// Listens for requests to stop. Until the first step the program ends at once.
    pub fn stop(&self) -> anyhow::Result<Stop> {
        let stop = Stop::listen(self.max_time)?;
        stop.may_end_at_once("stopped before the first step; run the same command again");
        Ok(stop)
    }
}

/// The time for which a run may take.
pub fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|error| format!("{error}; write a number with its unit, such as 90s, 45m or 1h30m"))
}

/// Default folder of all runs.
const RESULTS: &str = "results/stssad";

impl Train {
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        if let Some(folder) = &self.resume {
            return self.resume(folder.as_deref(), self.run.root_alone()?);
        }
        let mut config = self.run.resolve()?;
        if self.output.fast_dev_run {
            // A step before tuning and one that tunes.
            let few = Training { steps: 2, warm_up: Some(1), starts: Some(1), ..config.training };
            config.training = few;
        }
        if self.run.print_config {
            result!("{}", printed(&config).trim_end())?;
            return Ok(ExitCode::SUCCESS);
        }
        // An existing folder is checked before the images are read; a new folder is made only after that.
        let claim = |out: &PathBuf| -> anyhow::Result<RunFolder> {
            let folder = RunFolder::create(out)?;
            is_free(out)?;
            Ok(folder)
        };
        let claimed = self.output.out.as_ref().filter(|out| out.exists()).map(claim).transpose()?;
        let stop = self.output.stop()?;
        let devices = self.ready(&config)?;
        let loaded = read(&config)?;
        let held_out = Counts::of(&loaded.task).held_out;
        if (1..needed(config.false_alarms)).contains(&held_out) {
            let too_few = TooFew { rate: config.false_alarms, held_out };
            note!("warning  {too_few}; as it is, the threshold will lie above the highest of their scores");
        }
        let folder = match (claimed, &self.output.out) {
            (Some(folder), _) => folder,
            (None, Some(out)) => claim(out)?,
            (None, None) if self.output.fast_dev_run => return self.try_out(&devices, &config, &loaded, stop),
            (None, None) => next_folder(Path::new(RESULTS), &loaded.task)?,
        };
        execute(&devices, &config, &loaded, &folder, None, &self.output, stop)
    }

    /// Opens the devices for a run, and checks its precision and the given weights before any image is read.
    fn ready(&self, config: &RunConfig) -> anyhow::Result<Vec<Device>> {
        config.source()?;
        let devices = match &self.adapters {
            None => vec![self.device.open()?],
            Some(list) => {
                let chosen = chosen(list)?;
                chosen.iter().map(|adapter| self.device.open_adapter(Some(adapter), &[])).collect::<Result<_, _>>()?
            }
        };
        for device in &devices {
            tell_of(device);
            device.with_precision(config.training.precision)?;
        }
        config.given()?;
        Ok(devices)
    }

    /// Runs in a temporary folder.
    fn try_out(&self, devices: &[Device], config: &RunConfig, loaded: &Loaded, stop: Stop) -> anyhow::Result<ExitCode> {
        note!("dev run  two steps of one start of each augmentation; nothing of it is kept");
        let temporary = tempfile::tempdir().context("cannot make a temporary folder")?;
        let folder = RunFolder::create(temporary.path())?;
        execute(devices, config, loaded, &folder, None, &self.output, stop)
    }

    fn resume(&self, folder: Option<&Path>, root: Option<&Path>) -> anyhow::Result<ExitCode> {
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
        if folder.has_other_config(&config) {
            let shown = folder.path().display();
            return Err(unfit(format!(
                "config.toml and the checkpoint in {shown} are of different configurations. A run goes on with the one that it began \
                 with: if you changed config.toml, move it away and resume, and train elsewhere with other settings; if the \
                 checkpoint is another run's, restore this one's"
            )));
        }
        let config = root.map_or(Ok(config.clone()), |root| rooted(&config, root))?;
        note!("resume   {}", folder.path().display());
        let stop = self.output.stop()?;
        let devices = self.ready(&config)?;
        let loaded = read(&config).map_err(moved)?;
        let no_report = self.output.no_report || !checkpoint.full_report;
        let output = OutputArguments { no_report, ..self.output.clone() };
        execute(&devices, &config, &loaded, &folder, Some(checkpoint), &output, stop)
    }
}

/// Refuses a folder that contains a run.
fn is_free(folder: &Path) -> anyhow::Result<()> {
    let shown = folder.display();
    match State::of(folder)? {
        State::Nothing => match newest_below(folder, MARKER) {
            None => Ok(()),
            Some(run) => {
                Err(unfit(format!("{shown} is a folder of runs, such as {}: choose another --out", run.display())))
            }
        },
        State::Unfinished => {
            last_checkpoint(folder)?;
            Err(unfit(format!(
                "{shown} contains an unfinished run: choose another --out, or resume the run with --resume {}",
                shell_word(folder)
            )))
        }
        State::Finished(_) => Err(unfit(format!("{shown} contains a finished run: choose another --out"))),
    }
}

/// Refuses a folder without a run that is unfinished or lacks its report.
fn is_unfinished(folder: &Path) -> anyhow::Result<()> {
    let shown = folder.display();
    match State::of(folder)? {
        State::Unfinished => Ok(()),
        State::Finished(_) if Checkpoint::exists(folder) => Ok(()),
        State::Finished(_) => Err(unfit(format!("the run in {shown} is finished: there is nothing to resume"))),
        State::Nothing if !folder.is_dir() => Err(unfit(format!("there is no folder {shown}: check the path"))),
        State::Nothing => Err(nothing_saved(folder)),
    }
}

fn nothing_saved(folder: &Path) -> anyhow::Error {
    let shown = folder.display();
    if let Some(run) = newest_below(folder, CHECKPOINTS[0]) {
        return unfit(format!("{shown} is a folder of runs: resume one of them, such as {}", run.display()));
    }
    if newest_below(folder, MARKER).is_some() {
        return unfit(format!(
            "{shown} is a folder of runs, none of which has a checkpoint, so there is nothing to resume"
        ));
    }
    unfit(format!(
        "{shown} has no checkpoint, so there is nothing to resume: start the run again, with --out {} to use this folder",
        shell_word(folder)
    ))
}

/// The last whole checkpoint of a run's folder; tells the user if it is not the newest one.
pub fn last_checkpoint(folder: &Path) -> anyhow::Result<Option<Checkpoint>> {
    let loaded = Checkpoint::load(folder).with_context(|| {
        let files = CHECKPOINTS.map(|name| folder.join(name).display().to_string()).join(" and ");
        format!("no checkpoint can be read: to start the run again, delete {files}")
    });
    let Some((checkpoint, damaged)) = loaded? else { return Ok(None) };
    if let Some(reason) = damaged {
        note!("warning  {reason}; resuming from the previous checkpoint");
    }
    Ok(Some(checkpoint))
}

pub fn unfit(problem: String) -> anyhow::Error {
    UsageError(problem).into()
}

/// Opens the device and prints its name.
pub fn open(arguments: &DeviceArguments) -> anyhow::Result<Device> {
    let device = arguments.open()?;
    tell_of(&device);
    Ok(device)
}

pub fn tell_of(device: &Device) {
    let adapter = device.adapter();
    note!("device   {} ({}; {})", adapter.name, adapter.class, adapter.driver);
}

/// Reads the images and prints a table of the sets.
fn read(config: &RunConfig) -> anyhow::Result<Loaded> {
    told(|source, loading, on_file| load(source, loading, on_file), config)
}

/// As [`read`], for all labelled images of a source, which are to be tested.
fn read_test(config: &RunConfig) -> anyhow::Result<Loaded> {
    told(|source, loading, on_file| load_test(source, loading, on_file), config)
}

fn told(
    load: impl FnOnce(&Source, &Loading, &(dyn Fn(usize, usize) + Sync)) -> Result<Loaded, DataError>,
    config: &RunConfig,
) -> anyhow::Result<Loaded> {
    let bar = progress_bar(0, "read     {bar:28} {pos}/{len} images  {per_sec:1}  {eta} left");
    let loaded = load(&config.located_source()?, &config.loading(), &|done, of| {
        bar.set_length(of as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    let loaded = loaded?;
    note!("{}", loaded.table());
    Ok(loaded)
}

/// A run's configuration with its images below another root.
fn rooted(config: &RunConfig, root: &Path) -> anyhow::Result<RunConfig> {
    let root = std::path::absolute(root).unwrap_or_else(|_| root.to_owned());
    match config.source()?.rooted(&root) {
        Some(source) => Ok(RunConfig { data: Some(source), ..config.clone() }),
        None => Err(unfit("--root: the images of this run are not in one folder".into())),
    }
}

/// Adds to an error about a missing folder how to say where the images are now.
fn moved(error: anyhow::Error) -> anyhow::Error {
    match error.downcast_ref() {
        Some(DataError::NoFolder { .. } | DataError::Layout { .. } | DataError::NoImages { .. }) => {
            error.context("the images of the run are not where they were: if they have moved, give --root DIR")
        }
        _ => error,
    }
}

/// Trains a detector on the devices, of which the first tests it, writes the results and prints a summary. `stop` has been listening
/// since the images were read.
pub fn execute(
    devices: &[Device],
    config: &RunConfig,
    loaded: &Loaded,
    folder: &RunFolder,
    checkpoint: Option<Checkpoint>,
    output: &OutputArguments,
    stop: Stop,
) -> anyhow::Result<ExitCode> {
    if let Some(reason) = folder.unlocked() {
        let shown = folder.path().display();
        note!("note     {shown} cannot be locked ({reason}): make sure that no other process writes to it");
    }
    let extent = if output.no_report { Extent::Figures } else { Extent::Full };
    let mut shown = Shown::new(output.progress, stop);
    let (device, beside) = devices.split_first().expect("at least one device is opened");
    let run = Run { device, beside, config, loaded, folder, extent };
    if output.memory {
        note!("{}", Memory::of(&run.plan()?));
    }
    let place = shell_word(folder.path());
    let (outcome, code) = match run
        .train(checkpoint, &mut shown)
        .inspect_err(|error| tell_of_checkpoint(error, folder.path()))?
    {
        Ending::Stopped | Ending::Unreported(_, None) if output.fast_dev_run => {
            note!("stopped; nothing is kept");
            return Ok(ExitCode::from(STOPPED));
        }
        Ending::Unreported(_, Some(reason)) if output.fast_dev_run => {
            anyhow::bail!("the report cannot be drawn: {reason}")
        }
        Ending::Stopped => {
            note!("stopped{}; resume with: stssad train --resume {place}", shown.standing());
            return Ok(ExitCode::from(STOPPED));
        }
        Ending::Unreported(outcome, None) => {
            note!(
                "stopped; the result stands, and only the report is incomplete; draw it with: stssad train --resume {place}"
            );
            (outcome, ExitCode::from(STOPPED))
        }
        Ending::Unreported(outcome, Some(reason)) => {
            note!("warning  the report is incomplete: {reason}; draw it with: stssad train --resume {place}");
            (outcome, ExitCode::SUCCESS)
        }
        Ending::Finished(outcome) => (outcome, ExitCode::SUCCESS),
    };
    note!("{}", Table(&outcome.starts));
    if let Some(found) = &outcome.found {
        note!("found: {found}");
    }
    note!("{}", figures(&outcome.metrics));
    note!("{}", told_threshold(outcome.threshold, outcome.alarms.as_ref()));
    let speed = outcome.all_steps() as f64 / outcome.seconds;
    match output.fast_dev_run {
        true => note!("dev run  everything works; without --fast-dev-run the run trains and is kept"),
        false if speed > 0.0 => note!("{speed:.1} steps/s; results are in {place}"),
        false => note!("results are in {place}"),
    }
    if output.json {
        result!("{}", serde_json::to_string_pretty(&outcome)?)?;
    }
    Ok(code)
}

/// After an error that may not recur, prints how to resume the run.
fn tell_of_checkpoint(error: &RunError, folder: &Path) {
    // A folder that was moved has its checkpoint elsewhere.
    if !error.fault().may_pass() || matches!(error, RunError::Folder(FolderError::Claim(ClaimError::Moved { .. }))) {
        return;
    }
    match Checkpoint::load(folder) {
        Ok(Some((checkpoint, _))) => {
            note!(
                "saved    {} steps; resume with: stssad train --resume {}",
                checkpoint.history.len(),
                shell_word(folder)
            );
        }
        _ => note!("saved    nothing yet; run the same command again"),
    }
}

/// The metrics on one line; undefined ones as `n/a`.
fn figures(metrics: &Metrics) -> String {
    let figure = |(name, value): (&String, &Option<f64>)| match value {
        Some(value) => format!("{name} {value:.3}"),
        None => format!("{name} n/a"),
    };
    metrics.iter().map(figure).collect::<Vec<_>>().join("   ")
}

/// The model in a run's folder, or in a file. If `run` is not one but one of the `others`, the images to score, is, the arguments
/// were swapped.
pub fn model(run: &Path, others: &[PathBuf]) -> anyhow::Result<Model> {
    let run = &follow(run);
    let file = |path: &Path| if path.is_dir() { path.join(MODEL) } else { path.to_owned() };
    let loaded = Model::load(&file(run));
    let is_run = |path: &&PathBuf| path.is_dir() && file(path).is_file();
    let (shown, swapped) = (run.display(), others.iter().find(is_run));
    let problem = match (&loaded, swapped) {
        (Ok(_), _) => None,
        (Err(_), Some(other)) => {
            let words = [other.as_path(), run].map(shell_word).join(" ");
            let other = other.display();
            Some(format!(
                "{shown} is not the folder of a run, but {other} is: give the run first, as in stssad predict {words}"
            ))
        }
        _ if !run.exists() => Some(format!("{shown} does not exist: give the folder of a finished run")),
        _ if !run.is_dir() || file(run).is_file() => None,
        _ if Checkpoint::load(run).map_or(true, |found| found.is_some()) => {
            if let Err(in_use @ ClaimError::InUse { .. }) = RunFolder::resume(run) {
                return Err(anyhow::Error::from(in_use).context("the run is not finished"));
            }
            Some(format!(
                "the run in {shown} is not finished: resume it with stssad train --resume {}",
                shell_word(run)
            ))
        }
        _ => Some(match newest_below(run, MODEL) {
            Some(found) => format!("{shown} is a folder of runs: give one of them, such as {}", found.display()),
            None => format!("{shown} contains no {MODEL}: give the folder of a finished run"),
        }),
    };
    match problem {
        Some(problem) => Err(unfit(problem)),
        None => Ok(loaded?),
    }
}

/// The threshold and its false alarms, on one line.
fn told_threshold(threshold: Option<f64>, alarms: Option<&Alarms>) -> String {
    match (threshold, alarms) {
        (Some(threshold), Some(alarms)) => format!("threshold {threshold:.4}: {alarms}"),
        _ => "no threshold: no normal images were held out of training".into(),
    }
}

/// Which false alarms a trained detector may give.
#[derive(Debug, Args)]
pub struct AlarmArguments {
    /// Set the threshold anew, from the scores of the held-out normal images that the model keeps, so that it flags at most this
    /// share of new normal images [default: as in training].
    #[arg(long, value_name = "P%", value_parser = rate)]
    false_alarms: Option<f64>,
}

impl AlarmArguments {
    /// The threshold of a model, or the one that is asked for.
    pub fn threshold(&self, model: &Model) -> anyhow::Result<Option<Threshold>> {
        let Some(rate) = self.false_alarms else { return Ok(model.threshold) };
        Ok(Some(Threshold::promising(&model.held_out, rate).map_err(|too_few| unfit(too_few.to_string()))?))
    }
}

/// Arguments of `stssad test`.
#[derive(Debug, Args)]
pub struct Test {
    /// Folder of a finished run, or its model.safetensors.
    run: PathBuf,
    #[command(flatten)]
    data: DataArguments,
    #[command(flatten)]
    images: Given<Loading>,
    #[command(flatten)]
    alarms: AlarmArguments,
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
        let mut model = model(&self.run, &[])?;
        model.threshold = self.alarms.threshold(&model)?;
        let run = follow(&self.run);
        let beside = if run.is_dir() { run } else { run.with_file_name("") };
        let out = self.out.clone().unwrap_or_else(|| beside.join("test"));
        is_free(&out)?;
        let folder = RunFolder::for_test(out)?;
        let loaded = self.read(&model)?;
        let [_, c, h, w] = loaded.task.test.images.shape();
        if [c, h, w] != model.image {
            return Err(unfit(format!(
                "the model was trained on images of shape {:?} (channels, height, width), but these have shape {:?}: use the \
                 same --size and --channels",
                model.image,
                [c, h, w]
            )));
        }
        let seen = seen(&beside, &loaded.task.test)?;
        let device = open(&self.device)?;
        let tested = test(&device, &model, &loaded.task.test, Extent::Figures)?;
        let threshold = model.threshold.map(|threshold| threshold.score);
        folder.write_scores(&tested.scored, threshold)?;
        let report = serde_json::to_string_pretty(&json!({
            "metrics": tested.metrics,
            "threshold": threshold,
            "alarms": tested.alarms,
            "images": tested.scored.len(),
            "seen": seen,
            "adapter": device.adapter(),
        }))?;
        folder.write("test.json", report.as_bytes())?;
        note!("{}", figures(&tested.metrics));
        note!("{}", told_threshold(threshold, tested.alarms.as_ref()));
        note!("scores are in {}", folder.path().display());
        if self.json {
            result!("{report}")?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// How many images of a set the run in a folder has seen in training; warns if there are any. `None` if earlier versions made the run.
fn seen(run: &Path, set: &Set) -> anyhow::Result<Option<usize>> {
    let path = run.join(SEEN);
    let bytes = fs::read(&path).unwrap_or_default();
    // No run has seen no image.
    let Some(seen) = Seen::from_bytes(&bytes).filter(|_| !bytes.is_empty()) else {
        note!("warning  {} is missing or damaged: whether the run has seen these images is unknown", path.display());
        return Ok(None);
    };
    let count = seen.count(set)?;
    if count > 0 {
        note!(
            "warning  the run was trained or tuned on {count} of these {} images: on images that it has not seen, figures may be lower",
            set.len()
        );
    }
    Ok(Some(count))
}

impl Test {
    /// The images to test: those of the run, or all labelled images of others.
    fn read(&self, model: &Model) -> anyhow::Result<Loaded> {
        let mut table: toml::Table = model.config.to_toml().parse()?;
        overlay(&mut table, [("images".to_owned(), self.images.table.clone().into())].into_iter().collect());
        let own = RunConfig::from_table(table)?;
        let is_own = |loaded: &Loaded| Ok::<_, DataError>(loaded.task.fingerprint()? == model.fingerprint);
        let has_flags = !self.data.table()?.is_empty();
        if !has_flags {
            let loaded = read(&own).map_err(moved)?;
            if !is_own(&loaded)? {
                note!(
                    "note     these are not the images that the model was trained and tuned on, or another version made it"
                );
            }
            return Ok(loaded);
        }
        if let Some(root) = self.data.root_alone()? {
            let rooted = rooted(&own, root)?;
            // The run's own images may have moved; otherwise they are others in the same layout.
            if let Ok(loaded) = load(&rooted.located_source()?, &rooted.loading(), |_, _| {})
                && is_own(&loaded)?
            {
                note!("{}\nnote     these are the images of the run", loaded.table());
                return Ok(loaded);
            }
        }
        // The working folder of the run has no part in what the flags say.
        let located = RunConfig { data: Some(own.located_source()?), ..own.clone() };
        let mut table: toml::Table = located.to_toml().parse()?;
        if let Some(toml::Value::Table(data)) = table.remove("data") {
            table.insert("data".to_owned(), self.data.over(data)?.into());
        }
        table.remove("working_dir");
        read_test(&RunConfig::to_test(table)?)
    }
}
