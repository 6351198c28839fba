//! A run: trains a detector by a configuration, tests it, and writes the model, the scores and the report to a folder.

mod course;
mod finding;

use std::collections::{BTreeMap, HashSet};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::course::Course;
use crate::data::{DataError, Loaded, Seen, Set, Task, component};
use crate::engine::gpu::{Device, GpuError};
use crate::engine::plan::Plan;
use crate::engine::tensor::Tensor;
use crate::run::archive::ArchiveError;
use crate::run::checkpoint::Checkpoint;
use crate::run::claim::WorkState;
use crate::run::config::{ConfigError, RunConfig};
use crate::run::fit::{FitError, Fitted, fitted};
use crate::run::folder::{FolderError, RunFolder};
use crate::run::model::{Model, Predictor};
use crate::run::outcome::{self, Adapter, Augmentation, Counts, Outcome, ReportError, Start};
use crate::run::race::{Leg, Race, Sizes, Starts};
use crate::run::report::{ImageRow, Page, Step, shown};
use crate::run::scored::{Alarms, Maps, Metrics, Scored, metrics};
use crate::run::weights::WeightsError;
use crate::ssad::config::Config;
use crate::ssad::step::TrainingStep;
use crate::training::conformal::Threshold;
use crate::training::pixels::{PixelMetrics, Tally};
use crate::training::score::{ScoreError, auroc, check_finite};
use crate::training::trainer::{Progress, Snapshot, TrainError, Trained, augmented};

/// Is told of a run's progress, and may stop it.
pub trait Watch {
    /// `done` of `of` kernels are compiled. Ending the process here loses nothing.
    fn compiling(&mut self, done: usize, of: usize);
    /// The open settings of the run are chosen, and its first step is about to be compiled.
    fn fitted(&mut self, fitted: &Fitted);
    /// A step is done, for each start of the group that has not failed. Starts are counted on over the whole run, of whose steps `done`
    /// are done.
    fn step(&mut self, progress: &[Progress], leg: &Leg, done: usize);
    /// A start, counted from 0, failed; the others continue.
    fn failed(&mut self, _start: usize, _reason: &str) {}
    /// A start, counted from 0, diverged for this reason, and is about to be trained again from this state.
    fn again(&mut self, _start: usize, _reason: &str, _from: &Snapshot) {}
    /// The run that is resumed was trained by another version or device before.
    fn moved(&mut self, _before: &str, _now: &str) {}
    /// This part of the report is about to be written.
    fn reporting(&mut self, what: &str);
    /// Whether to save a checkpoint and stop. Asked between steps, and between parts of the report. A step that the device has
    /// begun is completed first.
    fn wants_stop(&self) -> bool;
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Ending {
    Finished(Box<Outcome>),
    /// It is finished, but its report is not complete: for this reason, or `None` if a stop was requested. Resuming it draws the report.
    Unreported(Box<Outcome>, Option<String>),
    /// It can be resumed from its checkpoint.
    Stopped,
}

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(transparent)]
    Weights(#[from] WeightsError),
    #[error(transparent)]
    Train(#[from] TrainError),
    #[error(transparent)]
    Fit(#[from] FitError),
    #[error(transparent)]
    Score(#[from] ScoreError),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    Report(#[from] ReportError),
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error("the checkpoint in {} was made with {what}: restore what the run began with, or remove this folder and start the run again", folder.display())]
    Mismatch { folder: PathBuf, what: &'static str },
}

impl From<GpuError> for RunError {
    fn from(error: GpuError) -> Self {
        RunError::Train(error.into())
    }
}

/// The version of stssad: part of what a result depends on.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The file of the trained detector in a run's folder.
pub const MODEL: &str = "model.safetensors";

/// The file beside it of the images that it has [seen](Seen), for tests on other images.
pub const SEEN: &str = "seen.bin";

/// Makes and claims the next free `root/<dataset>/<category>/vN`; after the first step of the run, `latest` in the same folder leads
/// to it.
///
/// # Errors
/// When a folder cannot be made.
pub fn next_folder(root: &Path, task: &Task) -> Result<RunFolder, FolderError> {
    RunFolder::next(&root.join(component(&task.dataset)).join(component(&task.category)))
}

/// How much a run writes at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Every file.
    Full,
    /// The model, the scores and the figures, which suffice for comparing runs.
    Figures,
}

/// A run about to begin.
#[derive(Debug)]
pub struct Run<'a> {
    /// Trains, tests and draws the report.
    pub device: &'a Device,
    /// Further devices, on which other starts are trained at the same time.
    pub beside: &'a [Device],
    pub config: &'a RunConfig,
    pub loaded: &'a Loaded,
    pub folder: &'a RunFolder,
    pub extent: Extent,
}

impl Run<'_> {
    fn sizes(&self) -> Sizes {
        let visible = self.loaded.task.visible();
        let [normals, c, h, w] = visible.train.shape();
        Sizes { image: [c, h, w], normals, unlabelled: visible.val.len() }
    }

    fn adapters_beside(&self) -> Vec<Adapter> {
        self.beside.iter().map(Adapter::from).collect()
    }

    /// The training configuration for this run's images.
    fn training(&self, config: &RunConfig) -> Result<Config, ConfigError> {
        let Sizes { image, normals, unlabelled } = self.sizes();
        config.training(image, normals, unlabelled)
    }

    /// The plan of a training step; of a tuning step if the method tunes.
    ///
    /// # Errors
    /// When the configuration is invalid for these images, or does not fit the device.
    pub fn plan(&self) -> Result<Plan, RunError> {
        let config = self.training(&fitted(self.device, self.config, self.loaded)?.config)?;
        let [_, c, h, w] = self.loaded.task.visible().train.shape();
        let step = TrainingStep::record(&config, [c, h, w]).map_err(TrainError::from)?;
        let tuning = step.tuning_plan(self.device.class(), config.reuse);
        Ok(tuning.unwrap_or_else(|| step.plain_plan(self.device.class(), config.reuse)))
    }

    /// Trains, from a checkpoint if one is given, tests, and writes the report. A run that has a result is not trained again; only its
    /// report is drawn.
    ///
    /// # Errors
    /// When the configuration is invalid for these images, training fails, or a file cannot be written. Checkpoints stay. A report that
    /// cannot be drawn is no error.
    pub fn train(&self, checkpoint: Option<Checkpoint>, watch: &mut dyn Watch) -> Result<Ending, RunError> {
        let ending = self.train_to_end(checkpoint, watch);
        let record = match &ending {
            Ok(Ending::Finished(_)) => Some((WorkState::Finished, None)),
            Ok(Ending::Unreported(_, reason)) => {
                let reason = reason.as_deref().unwrap_or("a stop was requested");
                Some((WorkState::Finished, Some(format!("its report is not complete: {reason}"))))
            }
            Ok(Ending::Stopped) => Some((WorkState::Stopped, Some("a stop was requested".into()))),
            // The run is as it was.
            Err(RunError::Mismatch { .. } | RunError::Folder(_)) => None,
            Err(
                error @ (RunError::Score(_) | RunError::Train(TrainError::NoStart(_) | TrainError::Diverged { .. })),
            ) => Some((WorkState::Failed, Some(told(error)))),
            Err(error) => Some((WorkState::Stopped, Some(told(error)))),
        };
        if let Some((state, reason)) = record {
            // Its error must not hide that of the run, such as that of the same full disk. The lock tells that the process has ended.
            let _ = self.folder.end(state, reason);
        }
        ending
    }

    fn train_to_end(&self, checkpoint: Option<Checkpoint>, watch: &mut dyn Watch) -> Result<Ending, RunError> {
        // A resumed run keeps the settings that it chose at first, even on another device.
        let config = match &checkpoint {
            Some(checkpoint) => self.config.completed_by(&RunConfig::parse(&checkpoint.config)?),
            None => self.config.clone(),
        };
        let given = config.given()?;
        let mut chosen = fitted(self.device, &config, self.loaded)?;
        for device in self.beside {
            fitted(device, &chosen.config, self.loaded)?;
        }
        watch.fitted(&chosen);
        chosen.config.weights_digest = given.as_ref().map(|given| given.digest.clone());
        let states = given.map(|given| given.states).unwrap_or_default();
        Run { config: &chosen.config, ..*self }.train_fitted(checkpoint, states, watch)
    }

    /// As [`train`](Run::train), with every setting chosen and the states that are given.
    fn train_fitted(
        &self,
        checkpoint: Option<Checkpoint>,
        given: Arc<[(String, Tensor)]>,
        watch: &mut dyn Watch,
    ) -> Result<Ending, RunError> {
        let task = &self.loaded.task;
        let device = self.device.with_precision(self.config.training.precision)?;
        let fingerprint = task.fingerprint()?;
        let mismatch = |what| RunError::Mismatch { folder: self.folder.path().to_owned(), what };
        if let Some(checkpoint) = &checkpoint {
            let config = RunConfig::parse(&checkpoint.config)?;
            if !config.trains_as(self.config) {
                return Err(mismatch("another configuration"));
            }
            if config.weights_digest != self.config.weights_digest {
                return Err(mismatch("other weights of the encoder"));
            }
        }
        let standing = Outcome::load(self.folder.path())?;
        if checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.fingerprint != fingerprint) {
            let unreported = |outcome| {
                let reason = "it shows images that have changed since: restore them";
                Ending::Unreported(Box::new(outcome), Some(reason.into()))
            };
            return standing.map(unreported).ok_or_else(|| mismatch("other images"));
        }
        let origin = outcome::origin(VERSION, std::iter::once(&self.device.into()).chain(&self.adapters_beside()));
        let before = checkpoint.as_ref().map_or("", |checkpoint| &checkpoint.origin);
        if !before.is_empty() && *before != origin {
            watch.moved(before, &origin);
        }
        if let (Some(outcome), Extent::Figures) = (&standing, self.extent) {
            Checkpoint::remove(self.folder.path());
            return Ok(Ending::Finished(Box::new(outcome.clone())));
        }
        self.folder.write_config(self.config)?;
        let race = Race::new(self.config, self.sizes(), given)?;
        let devices = self.beside.iter().map(|device| device.with_precision(self.config.training.precision));
        let devices: Vec<Device> = std::iter::once(Ok(device.clone())).chain(devices).collect::<Result<_, _>>()?;
        let begun = Checkpoint {
            config: self.config.to_toml(),
            fingerprint,
            origin,
            full_report: self.extent == Extent::Full,
            ..checkpoint.unwrap_or_default()
        };
        let mut course = Course::from(begun, self, &race, watch);
        if course.train(&devices)?.is_break() {
            return Ok(Ending::Stopped);
        }
        let (heats, finished, history, seconds) = course.end();
        // A run whose every start failed cannot be resumed, so a bare `--resume` must not find it.
        let chosen = race.choose(&heats, &finished).inspect_err(|_| Checkpoint::remove(self.folder.path()))?;
        if watch.wants_stop() {
            return Ok(Ending::Stopped);
        }
        let trained = Raced { race: &race, heats: &heats, finished: &finished, chosen, history: &history };
        let Some(concluded) = self.conclude(&trained, seconds, standing, watch)? else { return Ok(Ending::Stopped) };
        let drawn = match self.extent {
            Extent::Full => self.draw(&device, &trained, &concluded, watch),
            Extent::Figures => Ok(ControlFlow::Continue(())),
        };
        let outcome = Box::new(concluded.outcome);
        Ok(match drawn {
            Ok(ControlFlow::Continue(())) => {
                Checkpoint::remove(self.folder.path());
                Ending::Finished(outcome)
            }
            Ok(ControlFlow::Break(())) => Ending::Unreported(outcome, None),
            Err(error) => Ending::Unreported(outcome, Some(told(&error))),
        })
    }

    /// Tests the chosen start and writes the model and all figures, `result.json` last; `None` if it was stopped before that. A result
    /// that stands already is kept, with all that was written before it.
    fn conclude(
        &self,
        trained: &Raced,
        seconds: f64,
        standing: Option<Outcome>,
        watch: &mut dyn Watch,
    ) -> Result<Option<Concluded>, RunError> {
        let Raced { race, heats, finished, chosen, history } = *trained;
        let (task, folder) = (&self.loaded.task, self.folder);
        let [_, c, h, w] = task.test.images.shape();
        let mut model = Model::new(self.config, [c, h, w], &task.fingerprint()?, &finished[&chosen]);
        if let Some(held_out) = &task.held_out {
            let mut scores = Vec::new();
            let mut judge = Predictor::new(self.device, &model)?;
            judge.judge_all::<RunError>(&held_out.images, |judgement| scores.extend(judgement.scores))?;
            check_finite(&scores)?;
            let scores: Vec<f64> = held_out.most_anomalous(&scores).map(|(score, _)| score).collect();
            model.threshold = Threshold::nearest(&scores, self.config.false_alarms);
            model.held_out = scores;
        }
        if standing.is_none() {
            folder.write(SEEN, &Seen::of(task)?.to_bytes())?;
            model.save(&folder.path().join(MODEL))?;
        }
        let tested = test(self.device, &model, &task.test, self.extent)?;
        if watch.wants_stop() && standing.is_none() {
            return Ok(None);
        }
        let kinds = race.kinds();
        let setting = |start: usize, a: &[f32]| kinds[start].setting(a);
        let steps = steps(history, &kinds);
        if let Some(outcome) = standing {
            return Ok(Some(Concluded { outcome, tested, steps }));
        }

        // The starts are compared on the images that they were tuned on.
        let tuned = task.tune.as_ref().unwrap_or(&task.test);
        let labels = tuned.labels();
        let auroc_of = |scores: &[f64]| {
            let labels = labels.as_ref().filter(|_| scores.len() == tuned.images.len())?;
            let scores: Vec<f64> = tuned.most_anomalous(scores).map(|(score, _)| score).collect();
            auroc(&scores, labels)
        };
        let augments = self.config.method.augments();
        let name = |start: usize| augments.then(|| kinds[start].augmentation.name().to_owned());
        // What a start came to in the end replaces its heat.
        let all: BTreeMap<&usize, &Trained> = heats.iter().chain(finished).collect();
        let start = |(&index, trained): (&usize, &Trained)| Start {
            augmentation: name(index),
            start: setting(index, &trained.start),
            end: setting(index, &trained.end),
            heat: !finished.contains_key(&index),
            steps: Some(race.steps(!finished.contains_key(&index))),
            exceedance: trained.exceedance(self.config.score),
            image_auroc: auroc_of(&trained.scores_by(self.config.score)[1]),
            image_auroc_logit: trained.logits.as_ref().and_then(|[_, val]| auroc_of(val)),
            chosen: index == chosen,
            failed: trained.failed.clone(),
        };
        let found = if augments { self.found(trained, &model)? } else { None };
        let outcome = Outcome {
            image_auroc: tested.metrics["image_AUROC"],
            augmentation: Augmentation {
                name: name(chosen).unwrap_or_else(|| "none".into()),
                values: setting(chosen, &finished[&chosen].end),
            },
            order: self.config.training.order,
            precision: self.config.training.precision,
            seed: self.config.seed,
            steps: self.config.training.steps,
            seconds,
            adapter: self.device.into(),
            beside: self.adapters_beside(),
            starts: all.into_iter().map(start).collect(),
            dataset: Some(task.dataset.clone()),
            category: Some(task.category.clone()),
            method: Some(self.config.method.name().into()),
            metrics: tested.metrics.clone(),
            threshold: model.threshold.map(|threshold| threshold.score),
            alarms: tested.alarms,
            found,
            counts: Some(Counts::of(task)),
            skipped: self.loaded.files.skipped.iter().map(ToString::to_string).collect(),
            version: Some(VERSION.into()),
            fingerprint: Some(task.fingerprint()?),
            seedless_fingerprint: self.loaded.seedless_fingerprint()?,
        };
        folder.write_metrics(&steps)?;
        folder.write_scores(&tested.scored, outcome.threshold)?;
        folder.write_result(&outcome)?;
        Ok(Some(Concluded { outcome, tested, steps }))
    }

    /// Draws the report of a finished run; breaks if a stop was requested.
    fn draw(
        &self,
        device: &Device,
        trained: &Raced,
        concluded: &Concluded,
        watch: &mut dyn Watch,
    ) -> Result<ControlFlow<()>, RunError> {
        let Raced { race, finished, chosen, .. } = *trained;
        let Concluded { outcome, tested, steps } = concluded;
        let (task, folder) = (&self.loaded.task, self.folder);
        if watch.wants_stop() {
            return Ok(ControlFlow::Break(()));
        }
        watch.reporting("curves, images, histogram, ROC curve");
        folder.write_events(steps)?;
        folder.write_curves(outcome, steps)?;
        let ends =
            [("augmented at the start", &finished[&chosen].start), ("augmented at the end", &finished[&chosen].end)];
        let coordinates = ends.map(|(_, a)| &a[..]);
        let shown = augmented(device, race.kinds()[chosen], &task.train.images, &coordinates)?;
        let shown: Vec<(&str, Tensor)> =
            ends.iter().map(|(title, _)| *title).zip(shown.into_iter().flatten()).collect();
        write_images(folder, task, &tested.scored, &tested.views, &shown)?;
        folder.write_distribution(&tested.scored, outcome.threshold)?;
        let Shown { rows, images, heat, masks } = &tested.shown;
        let which = if rows.len() < task.test.len() { ", the most anomalous and the mistakes" } else { "" };
        watch.reporting(&format!("a strip for each of {} test images{which}", rows.len()));
        let masks: Vec<Option<&[bool]>> = masks.iter().map(Option::as_deref).collect();
        let maps = Maps { images, heat, masks: &masks };
        let scored: Vec<Scored> = rows.iter().map(|&row| tested.scored[row].clone()).collect();
        let strips = folder.write_strips(&scored, &maps, |_, _| match watch.wants_stop() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        })?;
        let ControlFlow::Continue(strips) = strips else { return Ok(ControlFlow::Break(())) };
        let strips = rows.iter().copied().zip(strips).collect();
        let toml = self.config.to_toml();
        let page = Page { outcome, scored: &tested.scored, strips: &strips, config: Some(&toml) };
        folder.write_html(&page)?;
        Ok(ControlFlow::Continue(()))
    }
}

/// The trained starts of a run.
#[derive(Clone, Copy)]
struct Raced<'a> {
    race: &'a Race<'a>,
    heats: &'a Starts,
    finished: &'a Starts,
    chosen: usize,
    history: &'a [Progress],
}

/// A tested run.
struct Concluded {
    outcome: Outcome,
    tested: Tested,
    /// By start and step.
    steps: Vec<Step>,
}

/// The steps of a history by start and step, given the configuration of each start.
fn steps(history: &[Progress], kinds: &[&Config]) -> Vec<Step> {
    let mut steps: Vec<Step> = history.iter().map(|progress| row(progress, kinds[progress.start])).collect();
    steps.sort_by_key(|step| (step.start, step.step));
    steps
}

/// A step, given the configuration of its start.
fn row(Progress { start, step, inner, outer, a }: &Progress, config: &Config) -> Step {
    Step { start: *start, step: *step, inner: *inner, outer: *outer, setting: config.setting(a) }
}

/// An error with its causes.
fn told(error: &RunError) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |&cause| cause.source());
    causes.fold(error.to_string(), |told, cause| format!("{told}: {cause}"))
}

/// The results of a model on a test set.
#[derive(Clone, Debug)]
pub struct Tested {
    pub scored: Vec<Scored>,
    /// For each image its row in the set's images; of an image in tiles, that of the most anomalous one.
    pub views: Vec<usize>,
    pub metrics: Metrics,
    /// How many normal images the threshold flags; `None` if the model has no threshold.
    pub alarms: Option<Alarms>,
    /// The images to show, for [`Extent::Full`].
    pub shown: Shown,
}

/// Some images of a test set with their heat maps.
#[derive(Clone, Debug)]
pub struct Shown {
    /// Their rows in the set, in order.
    pub rows: Vec<usize>,
    /// `[N, C, H, W]`; of an image in tiles, the most anomalous one.
    pub images: Tensor,
    /// `[N, 1, H, W]`.
    pub heat: Tensor,
    /// For each, row by row, which pixels a defect covers; `None` without a mask.
    pub masks: Vec<Option<Vec<bool>>>,
}

/// Most images of which a strip is drawn.
const STRIPS: usize = 500;

/// Scores every image of a set, and computes the metrics that its labels and masks allow.
///
/// # Errors
/// When the device fails, an image cannot be read, or a score is not finite.
pub fn test(device: &Device, model: &Model, set: &Set, extent: Extent) -> Result<Tested, RunError> {
    let mut judge = Predictor::new(device, model)?;
    let [mut scores, mut logits] = [(); 2].map(|()| Vec::with_capacity(set.images.len()));
    judge.judge_all::<RunError>(&set.images, |judgement| {
        scores.extend(judgement.scores);
        logits.extend(judgement.logits.into_iter().flatten());
    })?;
    let most = set.most_anomalous(&scores).enumerate();
    let (scored, views): (Vec<Scored>, Vec<usize>) = most
        .map(|(row, (score, view))| {
            let (name, truth) = (set.names[row].clone(), set.truths[row].clone());
            (Scored { name, truth, score, logit: logits.get(view).copied() }, view)
        })
        .unzip();
    check_finite(&scored.iter().map(|image| image.score).collect::<Vec<_>>())?;
    let threshold = model.threshold.map(|threshold| threshold.score);
    let rows = if extent == Extent::Full { shown(&scored, threshold, STRIPS) } else { Vec::new() };
    let (shown, pixels) = heated(judge, set, &views, rows)?;
    Ok(Tested {
        metrics: metrics(&scored, threshold, pixels),
        alarms: model.threshold.map(|threshold| Alarms::of(threshold, &scored)),
        shown,
        views,
        scored,
    })
}

/// The images `rows` with their heat maps, of which those in tiles show the one in `views`; and how well the heat of all images with a
/// mask and of normal images finds the defects.
fn heated(
    mut judge: Predictor,
    set: &Set,
    views: &[usize],
    rows: Vec<usize>,
) -> Result<(Shown, PixelMetrics), RunError> {
    let [count, c, h, w] = set.images.shape();
    let masked = (0..count).map(|view| Ok(set.images.has_mask(view)?)).collect::<Result<Vec<bool>, RunError>>()?;
    let mut is_labelled = masked.clone();
    if masked.contains(&true) {
        set.rows(Some(false)).into_iter().flat_map(|row| set.views(row)).for_each(|view| is_labelled[view] = true);
    }
    // Rows are in order, and so are their views.
    let is_shown: HashSet<usize> = rows.iter().map(|&row| views[row]).collect();
    let needed: Vec<usize> = (0..count).filter(|view| is_labelled[*view] || is_shown.contains(view)).collect();
    let (mut levels, mut heat, mut masks, mut pixels) = (Vec::new(), Vec::new(), Vec::new(), Tally::default());
    judge.heat_all::<RunError>(&set.images.select(&needed), |first, images, maps| {
        let each = images.data().chunks_exact(c * h * w).zip(maps.data().chunks_exact(h * w));
        for (&view, (image, map)) in needed[first..].iter().zip(each) {
            let mask = set.images.mask(view)?;
            if is_labelled[view] {
                pixels.add(map, mask.as_deref(), w);
            }
            if is_shown.contains(&view) {
                levels.extend_from_slice(image);
                heat.extend_from_slice(map);
                masks.push(mask);
            }
        }
        Ok(())
    })?;
    let images = Tensor::new([rows.len(), c, h, w], levels);
    let shown = Shown { images, heat: Tensor::new([rows.len(), 1, h, w], heat), masks, rows };
    Ok((shown, pixels.metrics()))
}

/// Images in a row of `pictures.png`.
const IMAGES: usize = 10;

/// Writes `pictures.png`: normal images, augmented images, and below them the test images with the highest scores; then normal and
/// anomalous test images, if there are labels.
fn write_images(
    folder: &RunFolder,
    task: &Task,
    scored: &[Scored],
    views: &[usize],
    augmented: &[(&str, Tensor)],
) -> Result<(), RunError> {
    let mut order: Vec<usize> = (0..scored.len()).collect();
    order.sort_by(|&a, &b| scored[b].score.total_cmp(&scored[a].score));
    let first = |rows: Vec<usize>| -> Vec<usize> { rows.into_iter().take(IMAGES).collect() };
    let score = |rows: &[usize]| -> Vec<f64> { rows.iter().map(|&row| scored[row].score).collect() };
    let few = |count: usize| first((0..count).collect());

    let trained = &task.train.images;
    let mut rows = vec![("normal, from the training set", trained.read(&few(trained.len()))?, Vec::new())];
    rows.extend(
        augmented.iter().map(|(title, images)| (*title, images.gather_rows(&few(images.shape()[0])), Vec::new())),
    );
    let [normals, anomalies] = [false, true].map(|class| first(task.test.rows(Some(class))));
    let shown = [("highest scores", first(order)), ("normal, tested", normals), ("anomalies", anomalies)];
    for (title, shown) in shown.into_iter().filter(|(_, shown)| !shown.is_empty()) {
        let scores = score(&shown);
        let views: Vec<usize> = shown.iter().map(|&row| views[row]).collect();
        rows.push((title, task.test.images.read(&views)?, scores));
    }
    let rows: Vec<ImageRow> = rows.iter().map(|(title, images, scores)| ImageRow { title, images, scores }).collect();
    Ok(folder.write_images(&rows)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::sheet::Digits;
    use crate::data::{Loading, Source, load};
    use crate::engine::gpu::Choice;
    use crate::run::config::Training;
    use crate::run::weights::write_random;
    use crate::ssad::method::{Method, Network};
    use crate::ssad::nn::{Detector, ResNet18};

    /// Loses the device after this step.
    struct Losing<'a> {
        device: &'a Device,
        after: usize,
    }

    impl Watch for Losing<'_> {
        fn compiling(&mut self, _: usize, _: usize) {}

        fn fitted(&mut self, _: &Fitted) {}

        fn step(&mut self, progress: &[Progress], _: &Leg, _: usize) {
            if progress[0].step == self.after {
                self.device.destroy();
            }
        }

        fn reporting(&mut self, _: &str) {}

        fn wants_stop(&self) -> bool {
            false
        }
    }

    #[test]
    fn a_checkpoint_survives_the_loss_of_the_device() {
        let config = RunConfig {
            data: Some(Source::Digits(Digits { normal: 6, anomaly: 9 })),
            images: Loading {
                max_train: Some(20),
                max_normals: Some(10),
                max_anomalies: Some(10),
                ..Loading::default()
            },
            method: Method::DeepSvdd,
            training: Training { batch: 4, batch_val: 4, steps: 9, checkpoint_every: 4, ..Training::default() },
            ..RunConfig::default()
        };
        let loaded = load(config.source().unwrap(), &config.loading(), |_, _| {}).unwrap();
        for (after, has_checkpoint) in [(2, false), (6, true)] {
            let device = Device::open(&Choice::Best).unwrap();
            let folder = tempfile::tempdir().unwrap();
            let folder = RunFolder::create(folder.path()).unwrap();
            let run = Run {
                device: &device,
                beside: &[],
                config: &config,
                loaded: &loaded,
                folder: &folder,
                extent: Extent::Figures,
            };
            let error = run.train(None, &mut Losing { device: &device, after }).unwrap_err();
            let is_lost = matches!(error, RunError::Train(TrainError::Gpu(GpuError::Lost { .. })));
            assert!(is_lost, "after step {after}: {error:?}");
            assert_eq!(Checkpoint::load(folder.path()).unwrap().is_some(), has_checkpoint);
        }
    }

    /// Asks for a stop before the first step, or never.
    struct Stopping(bool);

    impl Watch for Stopping {
        fn compiling(&mut self, _: usize, _: usize) {}

        fn fitted(&mut self, _: &Fitted) {}

        fn step(&mut self, _: &[Progress], _: &Leg, _: usize) {}

        fn reporting(&mut self, _: &str) {}

        fn wants_stop(&self) -> bool {
            self.0
        }
    }

    #[test]
    fn a_run_begins_with_given_weights_and_resumes_only_with_them() {
        let folder = tempfile::tempdir().unwrap();
        let (file, path) = (folder.path().join("weights.safetensors"), folder.path().join("run"));
        let network = Network::new(Method::StSsad, &Detector::resnet18_given(ResNet18::STAGES, false), [3, 28, 28]);
        write_random(&file, &network, 1);
        let config = RunConfig {
            data: Some(Source::Digits(Digits { normal: 6, anomaly: 9 })),
            method: Method::NearestPatch,
            encoder_weights: Some(file.clone()),
            images: Loading { max_train: Some(16), max_normals: Some(8), max_anomalies: Some(8), ..Loading::default() },
            ..RunConfig::default()
        };
        let device = Device::open(&Choice::Best).unwrap();
        let train = |config: &RunConfig, stops: bool, checkpoint: Option<Checkpoint>| {
            let loaded = load(config.source().unwrap(), &config.loading(), |_, _| {}).unwrap();
            assert_eq!(loaded.task.train.images.shape()[1], 3, "grey images become RGB");
            let folder = match &checkpoint {
                Some(_) => RunFolder::resume(&path).unwrap(),
                None => RunFolder::create(&path).unwrap(),
            };
            let run =
                Run { device: &device, beside: &[], config, loaded: &loaded, folder: &folder, extent: Extent::Figures };
            run.train(checkpoint, &mut Stopping(stops))
        };
        assert!(matches!(train(&config, true, None), Ok(Ending::Stopped)));
        let checkpoint = || Checkpoint::load(&path).unwrap().unwrap().0;
        let stored = RunConfig::parse(&checkpoint().config).unwrap();
        write_random(&file, &network, 2);
        let refused = train(&stored, false, Some(checkpoint())).unwrap_err().to_string();
        assert!(refused.contains("other weights of the encoder"), "{refused}");
        write_random(&file, &network, 1);
        train(&stored, false, Some(checkpoint())).unwrap();
        let states = Model::load(&path.join(MODEL)).unwrap().states;
        for given in config.given().unwrap().unwrap().states.iter() {
            assert!(states.contains(given), "{}", given.0);
        }
    }
}
