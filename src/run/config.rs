//! The configuration of a run: a TOML file, which the flags of the command line override.

use std::path::PathBuf;
use std::sync::Arc;

use clap::builder::{PossibleValue, PossibleValuesParser};
use clap::{ArgAction, Args, value_parser};
use serde::{Deserialize, Serialize};

use crate::data::{Channels, DataError, Levels, Loading, Source, whole};
use crate::engine::kernel::Precision;
use crate::engine::plan::Reuse;
use crate::run::settings::{FORMER_NAMES, SettingsError, Written, flag};
use crate::run::weights::{Given, WeightsError};
use crate::ssad::augment::{self, Augmentation};
use crate::ssad::bilevel::Order;
use crate::ssad::config::Config;
use crate::ssad::loss::{self, Alignment};
use crate::ssad::method::{Method, Network, Rule, random_starts};
use crate::ssad::nn::{Detector, ENCODERS, Named, ResNet18};
use crate::training::conformal::needed;

/// A run's configuration. Each setting is described once, here or in [`Loading`]: the field's name is its key in a TOML file and,
/// with dashes, its flag; the first paragraph is its help. `stssad train --print-config` prints all settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Args)]
#[command(next_help_heading = "Method")]
#[serde(default, deny_unknown_fields)]
pub struct RunConfig {
    /// Seed of all random draws: split, initial weights, batches, positions of patches.
    #[arg(long, value_name = "N", value_parser = whole::<u64>, default_value_t)]
    pub seed: u64,
    /// Method to train.
    #[arg(long, value_enum, default_value_t)]
    pub method: Method,
    /// By name, several joined by `+`; see [`augment::names`].
    #[arg(
        long,
        value_name = "NAME",
        help = format!(
            "Augmentation: {}, several joined by `+`, or {AUTO}, for which {} compete",
            augment::names().collect::<Vec<_>>().join(", "), augment::COMPETING.join(", ")
        ),
        default_value_t = RunConfig::default().augmentation
    )]
    pub augmentation: String,
    /// Encoder of the images.
    #[arg(long, value_parser = encoders(), default_value_t = RunConfig::default().encoder)]
    pub encoder: String,
    /// Begin with an encoder trained elsewhere: a safetensors file of a ResNet-18 for RGB images with the names of torchvision or
    /// timm. Images are normalised by the means and deviations of ImageNet.
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoder_weights: Option<PathBuf>,
    /// Keep the given encoder as it is: only the head is trained.
    #[arg(long)]
    pub freeze_encoder: bool,
    /// Anomaly score, for methods that have more than one.
    #[arg(long, value_enum, default_value_t)]
    pub score: Rule,
    /// Share of new normal images that the threshold may flag, such as `1%`.
    #[arg(long, value_name = "P%", value_parser = rate, default_value = "1%")]
    pub false_alarms: f64,
    /// Where the images come from; the only key without a default.
    #[arg(skip)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Source>,
    /// The working folder of the run, to which the relative paths of its data belong; set when the run begins.
    #[arg(skip)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<PathBuf>,
    /// BLAKE3 of the file of the encoder's weights, set when the run begins.
    #[arg(skip)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights_digest: Option<String>,
    #[command(flatten)]
    pub images: Loading,
    #[command(flatten)]
    pub training: Training,
}

/// Chooses the encoder by the size of the images, or the augmentation by a race.
const AUTO: &str = "auto";
/// The encoder that weights can be given for.
const GIVEN: &str = "resnet18";
/// Stages of a ResNet that the nearest patch is looked up in: the last one knows what an image shows, but not where.
const LOCAL: usize = 3;

/// The names of the encoders, with their help.
fn encoders() -> PossibleValuesParser {
    let auto = PossibleValue::new(AUTO).help("small up to 64 pixels, resnet18 above");
    let named = ENCODERS.iter().map(|known| PossibleValue::new(known.name).help(known.about));
    std::iter::once(auto).chain(named).collect::<Vec<PossibleValue>>().into()
}

/// Parses a rate of false alarms: a share such as `0.01`, or a percentage such as `1%`.
///
/// # Errors
/// When the text is anything else, or the rate is not between 0 and 1.
pub fn rate(text: &str) -> Result<f64, String> {
    let (number, unit) = text.strip_suffix('%').map_or((text, 1.0), |percent| (percent, 100.0));
    let rate = number.trim().parse().ok().map(|number: f64| number / unit);
    rate.filter(|rate| *rate > 0.0 && *rate < 1.0)
        .ok_or_else(|| "it must be a share of normal images between 0% and 100%, both excluded, such as 1%".into())
}

/// How a detector is trained and tuned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Args)]
#[command(next_help_heading = "Training")]
#[serde(default, deny_unknown_fields)]
pub struct Training {
    /// By name; see [`loss::names`].
    #[arg(
        long,
        value_name = "NAME",
        help = format!("Alignment loss: {}", loss::names().collect::<Vec<_>>().join(", ")),
        default_value_t = Training::default().alignment
    )]
    pub alignment: String,
    /// Assumed share of anomalies among the unlabelled images, between 0 and 1.
    #[arg(long, value_name = "SHARE", default_value_t = Training::default().mass)]
    pub mass: f64,
    /// Normalise embeddings to unit total distance before alignment; --no-normalise turns this off (an ablation).
    #[arg(long = "no-normalise", alias = "no-normalize", action = ArgAction::SetFalse)]
    pub normalise: bool,
    /// Order of the hyper-gradient; 1 omits the second-order term (an ablation).
    #[arg(long, value_name = "1|2", value_parser = value_parser!(u8).range(1..=2), default_value_t = Training::default().order)]
    pub order: u8,
    /// Number of the augmentation's starting points to train from; for `random-static`, number of draws [default: all; for
    /// `random-static` 1].
    #[arg(long, value_name = "N", value_parser = whole::<usize>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub starts: Option<usize>,
    /// Train N starts at once, for GPUs that one start does not keep busy; results differ by rounding only [default: 1].
    #[arg(long, value_name = "N", value_parser = whole::<usize>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub together: Option<usize>,
    /// Training steps of each start.
    #[arg(long, value_name = "N", value_parser = whole::<usize>, default_value_t = Training::default().steps)]
    pub steps: usize,
    /// Steps before tuning begins [default: two ninths of --steps].
    #[arg(long, value_name = "N", value_parser = whole::<usize>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warm_up: Option<usize>,
    /// Normal images in a batch (all of them if there are fewer).
    #[arg(long, alias = "batch-size", value_name = "N", value_parser = whole::<usize>, default_value_t = Training::default().batch)]
    pub batch: usize,
    /// Unlabelled images in a batch (all of them if there are fewer).
    #[arg(long, value_name = "N", value_parser = whole::<usize>, default_value_t = Training::default().batch_val)]
    pub batch_val: usize,
    /// Split each batch into N micro-batches and accumulate their gradients, to save memory; batch sizes are rounded down to
    /// multiples of N [default: the fewest that fit the device].
    #[arg(long, alias = "gradient-accumulation", value_name = "N", value_parser = whole::<usize>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub micro_batches: Option<usize>,
    /// Learning rate of the detector (Adam).
    #[arg(long, alias = "rate", value_name = "RATE", default_value_t = Training::default().learning_rate)]
    pub learning_rate: f64,
    /// Step size of the look-ahead step that tuning differentiates through.
    #[arg(long, value_name = "RATE", default_value_t = Training::default().look_ahead)]
    pub look_ahead: f32,
    /// Precision to which training rounds the inputs of convolutions and matrix products; scores are always computed in f32.
    #[arg(long, value_enum, value_name = "P", default_value_t)]
    pub precision: Precision,
    /// Recompute cheap values instead of storing them: less memory, more time, the same results.
    #[arg(long)]
    pub recompute: bool,
    /// Steps between two checkpoints. A start that diverges goes back to its last state of that many steps.
    #[arg(long, value_name = "N", value_parser = whole::<usize>, default_value_t = Training::default().checkpoint_every)]
    pub checkpoint_every: usize,
}

impl Default for RunConfig {
    fn default() -> Self {
        RunConfig {
            seed: 0,
            method: Method::StSsad,
            augmentation: AUTO.into(),
            encoder: AUTO.into(),
            encoder_weights: None,
            freeze_encoder: false,
            score: Rule::default(),
            false_alarms: 0.01,
            data: None,
            working_dir: None,
            weights_digest: None,
            images: Loading::default(),
            training: Training::default(),
        }
    }
}

impl Default for Training {
    fn default() -> Self {
        Training {
            alignment: "diagonal-w2".into(),
            mass: 0.5,
            normalise: true,
            order: 2,
            starts: None,
            together: None,
            steps: 180,
            warm_up: None,
            batch: 32,
            batch_val: 64,
            micro_batches: None,
            learning_rate: 1e-3,
            look_ahead: 0.1,
            precision: Precision::F32,
            recompute: false,
            checkpoint_every: 50,
        }
    }
}

impl Training {
    /// Steps of each start before tuning begins.
    fn warm_up(&self) -> usize {
        self.warm_up.unwrap_or(self.steps * 2 / 9)
    }
}

/// Checkpoints count steps in f32, which is exact up to this number.
const MOST_STEPS: usize = 1 << 24;
/// Far more starts than anyone can train.
const MOST_STARTS: usize = 10_000;

/// The range of the number of micro-batches.
const PARTS: &str = "from 1 to half of the images in each batch";

/// Why a configuration is invalid.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The text is not TOML, or has unknown keys or values.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// A setting of `key`, its path with dots, is unknown or out of range.
    #[error("{place}{} is {found}: it must be {expected}", flag(&[key.rsplit('.').next().unwrap_or(key)]))]
    Range { place: String, key: &'static str, found: String, expected: &'static str },
    #[error("there is no encoder `{name}`; the encoders are {AUTO}, {}", known.join(", "))]
    Encoder { name: String, known: Vec<&'static str> },
    /// What does not go with given weights.
    #[error("{0}")]
    Given(&'static str),
    #[error(transparent)]
    Augmentation(#[from] augment::NameError),
    #[error(transparent)]
    Alignment(#[from] loss::NameError),
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(
        "there are no images to train on: give --data and its flags, such as `--data folder --normal-dir good \
         --unlabelled-dir new`, or a [data] table in a --config file; `stssad demo` needs no images"
    )]
    NoData,
}

/// Overrides `base` with the settings in `over`, table by table; a `data` table of another kind replaces the whole table.
pub fn overlay(base: &mut toml::Table, over: toml::Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(toml::Value::Table(below)), toml::Value::Table(above)) => {
                let replaces = above.get("kind").is_some_and(|kind| below.get("kind") != Some(kind));
                if replaces {
                    below.clear();
                }
                overlay(below, above);
            }
            (_, value) => drop(base.insert(key, value)),
        }
    }
}

/// The settings under their present names.
fn with_present_names(mut settings: toml::Table) -> toml::Table {
    for (path, name) in FORMER_NAMES {
        let (key, tables) = path.split_last().expect("a path is not empty");
        let inner = tables.iter().try_fold(&mut settings, |table, key| table.get_mut(*key)?.as_table_mut());
        if let Some(inner) = inner
            && let Some(value) = inner.remove(*key)
        {
            overlay(inner, [((*name).to_owned(), value)].into_iter().collect());
        }
    }
    settings
}

impl RunConfig {
    /// The configuration that a table describes; missing keys have their defaults. It has passed [`check`](Self::check).
    ///
    /// # Errors
    /// When a key or value is unknown, or a value is out of range or contradicts another.
    pub fn from_table(table: toml::Table) -> Result<Self, ConfigError> {
        Self::layered(&Written::default(), table)
    }

    /// As [`from_table`](Self::from_table) of a table in a file: errors name keys, and not flags.
    ///
    /// # Errors
    /// As [`from_table`](Self::from_table).
    pub fn from_keys(table: toml::Table) -> Result<Self, ConfigError> {
        let config: RunConfig = Written::default().read(with_present_names(table), &toml::Table::new())?;
        config.check()?;
        Ok(config)
    }

    /// As [`from_table`](Self::from_table), for images to test on; there need not be any to train on.
    ///
    /// # Errors
    /// As [`from_table`](Self::from_table).
    pub fn to_test(table: toml::Table) -> Result<Self, ConfigError> {
        let config: RunConfig = Written::default().read(with_present_names(table), &toml::Table::new())?;
        config.check_settings()?;
        Ok(config)
    }

    /// Reads TOML; missing keys have their defaults.
    ///
    /// # Errors
    /// When the text is not TOML, or as [`from_table`](Self::from_table).
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        Self::layered(&Written { text, ..Written::default() }, toml::Table::new())
    }

    /// The configuration of a file, overridden by `flags`.
    ///
    /// # Errors
    /// As [`parse`](Self::parse), with the file's name and the line if the fault is in the file.
    pub fn layered(written: &Written, flags: toml::Table) -> Result<Self, ConfigError> {
        let (mut table, flags) = (with_present_names(written.table()?), with_present_names(flags));
        overlay(&mut table, flags.clone());
        let config: RunConfig = written.read(table, &flags)?;
        match config.check() {
            Err(ConfigError::Range { key, found, expected, .. }) => {
                let path: Vec<String> = key.split('.').map(str::to_owned).collect();
                Err(ConfigError::Range { place: written.place(&path, &flags), key, found, expected })
            }
            Err(error) => Err(error),
            Ok(()) => Ok(config),
        }
    }

    /// Checks everything that can be checked without reading an image.
    ///
    /// # Errors
    /// When a name is unknown, a number is out of range, or settings contradict each other.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.check_settings()?;
        Ok(self.data.as_ref().map_or(Ok(()), |source| source.check(&self.images))?)
    }

    /// As [`check`](Self::check), but for the source of the images.
    fn check_settings(&self) -> Result<(), ConfigError> {
        let Training { mass, steps, learning_rate, look_ahead, batch, batch_val, .. } = &self.training;
        let parts = self.training.micro_batches.unwrap_or(1);
        let warm_up = self.training.warm_up();
        let check = |key, found: &dyn ToString, expected, holds: bool| match holds {
            true => Ok(()),
            false => Err(ConfigError::Range { place: String::new(), key, found: found.to_string(), expected }),
        };
        let rate = self.false_alarms;
        check("false_alarms", &rate, "between 0 and 1, both excluded", rate > 0.0 && rate < 1.0)?;
        check("training.mass", mass, "between 0 and 1, both excluded", *mass > 0.0 && *mass < 1.0)?;
        check("training.order", &self.training.order, "1 or 2", (1..=2).contains(&self.training.order))?;
        check("training.steps", steps, "from 1 to 16777216", (1..=MOST_STEPS).contains(steps))?;
        check("training.warm_up", &warm_up, "no more than --steps", warm_up <= *steps)?;
        check(
            "training.learning_rate",
            learning_rate,
            "a positive number",
            *learning_rate > 0.0 && learning_rate.is_finite(),
        )?;
        check("training.look_ahead", look_ahead, "a positive number", *look_ahead > 0.0 && look_ahead.is_finite())?;
        check("training.batch", batch, "at least 2", *batch >= 2)?;
        check("training.batch_val", batch_val, "at least 2", *batch_val >= 2)?;
        check("training.micro_batches", &parts, PARTS, self.divides(*batch, *batch_val))?;
        check(
            "training.checkpoint_every",
            &self.training.checkpoint_every,
            "at least 1",
            self.training.checkpoint_every > 0,
        )?;
        let starts = self.training.starts.unwrap_or(1);
        check("training.starts", &starts, "from 1 to 10000", (1..=MOST_STARTS).contains(&starts))?;
        check("training.together", &0, "at least 1", self.training.together != Some(0))?;
        self.alignment()?;
        self.augmentation(1)?;
        self.encoder([1, 1, 1])?;
        self.check_given()
    }

    /// Checks what goes with given weights.
    fn check_given(&self) -> Result<(), ConfigError> {
        let refused = |what| Err(ConfigError::Given(what));
        if self.encoder_weights.is_none() {
            return if self.freeze_encoder {
                refused("--freeze-encoder: there are no --encoder-weights")
            } else {
                Ok(())
            };
        }
        match (&*self.encoder, self.images.channels) {
            (encoder, _) if encoder != AUTO && encoder != GIVEN => {
                refused("--encoder-weights are those of a resnet18: omit --encoder, or make it resnet18")
            }
            (_, Some(channels)) if channels != Channels::Rgb => {
                refused("--encoder-weights are for RGB images: omit --channels, which makes grey images RGB")
            }
            _ if self.freeze_encoder && self.method == Method::DeepSvdd => {
                refused("--freeze-encoder: --method deep-svdd trains the encoder alone")
            }
            _ => Ok(()),
        }
    }

    /// Reads the encoder's given weights, if there are any. A relative path is taken as that of the [source](Self::located_source).
    ///
    /// # Errors
    /// As [`Given::read`].
    pub fn given(&self) -> Result<Option<Given>, WeightsError> {
        let Some(path) = self.encoder_weights.as_ref().filter(|_| self.method.encodes()) else { return Ok(None) };
        let there = self.working_dir.as_ref().map(|folder| folder.join(path)).filter(|there| there.exists());
        // The network does not depend on the extents of the images.
        let image = [3, 64, 64];
        let detector = self.detector(image).expect("the encoder's name is known");
        let network = Network::new(self.method, &detector, image);
        Given::read(there.as_ref().unwrap_or(path), &network).map(Some)
    }

    /// Whether each micro-batch has at least two images, for batches of these sizes.
    fn divides(&self, batch: usize, batch_val: usize) -> bool {
        let parts = self.training.micro_batches.unwrap_or(1);
        let least = if self.method == Method::StSsad { batch.min(batch_val) } else { batch };
        parts == 1 || (parts > 0 && least / 2 >= parts)
    }

    /// The settings that differ from their defaults but have no effect, by the names of their flags, each with the reason.
    pub fn without_effect(&self) -> Vec<String> {
        let (default, method) = (Training::default(), self.method);
        let Training { alignment, mass, normalise, order, starts, together, warm_up, batch_val, look_ahead, .. } =
            &self.training;
        let Training { steps, learning_rate, .. } = &self.training;
        let (tunes, augments) = (method == Method::StSsad, method.augments());
        let has_starts = tunes || method == Method::RandomStatic;
        let tuning = [
            ("--alignment", *alignment != default.alignment),
            ("--mass", *mass != default.mass),
            ("--no-normalise", *normalise != default.normalise),
            ("--order", *order != default.order),
            ("--warm-up", warm_up.is_some()),
            ("--batch-val", *batch_val != default.batch_val),
            ("--look-ahead", *look_ahead != default.look_ahead),
        ];
        let plain = RunConfig::default();
        let idle = tuning
            .into_iter()
            .filter(|_| !tunes)
            .chain([
                ("--augmentation", !augments && self.augmentation != plain.augmentation),
                ("--score", !augments && self.score != plain.score),
                ("--starts", !has_starts && starts.is_some()),
                ("--together", !has_starts && together.is_some()),
                ("--encoder", !method.encodes() && self.encoder != plain.encoder),
                ("--encoder-weights", !method.encodes() && self.encoder_weights.is_some()),
                ("--steps", !method.trains() && *steps != default.steps),
                ("--learning-rate", !method.trains() && *learning_rate != default.learning_rate),
            ])
            .filter(|(_, is_set)| *is_set)
            .map(|(flag, _)| format!("{flag}: --method {} does not use it", method.name()));
        let mass = (tunes && alignment == "mean-distance" && *mass != default.mass)
            .then(|| "--mass: --alignment mean-distance does not use it".to_owned());
        // In colour there are the most.
        let known = self.augmentation(3).map_or(usize::MAX, |augmentation| augmentation.starts().len());
        let cut = starts
            .filter(|&starts| tunes && starts > known)
            .map(|starts| format!("--starts {starts}: {} has only {known} starts", self.augmentation));
        let data = self.data.iter().flat_map(|source| source.without_effect(&self.images));
        idle.chain(mass).chain(cut).chain(data).collect()
    }

    /// Where the images come from.
    ///
    /// # Errors
    /// When the configuration does not say.
    pub fn source(&self) -> Result<&Source, ConfigError> {
        self.data.as_ref().ok_or(ConfigError::NoData)
    }

    /// Where the images of a stored configuration are: relative paths are taken from the working folder of its run if they exist there,
    /// else from the present one.
    ///
    /// # Errors
    /// When the configuration does not say.
    pub fn located_source(&self) -> Result<Source, ConfigError> {
        let source = self.source()?;
        Ok(self.working_dir.as_ref().map_or_else(|| source.clone(), |folder| source.within(folder)))
    }

    /// Whether a run of the other configuration is one of this, if both have the same images.
    pub fn trains_as(&self, other: &RunConfig) -> bool {
        let plain = |config: &RunConfig| {
            let images = Loading { cache_bytes: 0, ..config.images.clone() };
            RunConfig { data: None, working_dir: None, weights_digest: None, images, ..config.clone() }
        };
        plain(self) == plain(other)
    }

    /// How the images are read, with this run's seed and what its rate of false alarms needs.
    pub fn loading(&self) -> Loading {
        let channels = self.images.channels.or(self.encoder_weights.as_ref().map(|_| Channels::Rgb));
        Loading { seed: self.seed, bearing: needed(self.false_alarms), channels, ..self.images.clone() }
    }

    /// This configuration, with the size and the number of micro-batches that a run chose if it sets none.
    pub fn completed_by(&self, chosen: &RunConfig) -> Self {
        let mut config = self.clone();
        config.images.size = config.images.size.or(chosen.images.size);
        if config.images.channels == Some(Channels::All) {
            config.images.channels = chosen.images.channels;
        }
        if config.images.levels == Some(Levels::Auto) {
            config.images.levels = chosen.images.levels;
        }
        config.training.micro_batches = config.training.micro_batches.or(chosen.training.micro_batches);
        config.working_dir = config.working_dir.or(chosen.working_dir.clone());
        config
    }

    /// As TOML, with every key.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a configuration is plain text and numbers")
    }

    /// The augmentations that a run tries, by name: those that [compete](augment::COMPETING), or one.
    pub fn kinds(&self) -> Vec<&str> {
        match &*self.augmentation {
            AUTO if self.method.augments() => augment::COMPETING.to_vec(),
            AUTO => augment::COMPETING[..1].to_vec(),
            name => vec![name],
        }
    }

    /// The augmentation of images with so many channels; the first of several.
    ///
    /// # Errors
    /// When no such name exists.
    pub fn augmentation(&self, channels: usize) -> Result<Box<dyn Augmentation>, ConfigError> {
        Ok(augment::by_name(self.kinds()[0], channels)?)
    }

    /// The encoder of images `[C, H, W]`, with its head.
    ///
    /// # Errors
    /// When no such name exists.
    pub fn encoder(&self, [_, h, w]: [usize; 3]) -> Result<&'static Named, ConfigError> {
        let name = match &self.encoder_weights {
            Some(_) => Some(GIVEN),
            None => (self.encoder != AUTO).then_some(&*self.encoder),
        };
        Named::find(name, [h, w]).map_err(|known| ConfigError::Encoder { name: self.encoder.clone(), known })
    }

    /// The detector of images `[C, H, W]`.
    fn detector(&self, image: [usize; 3]) -> Result<Detector, ConfigError> {
        let [c, h, w] = image;
        let named = self.encoder(image)?;
        Ok(match (&self.encoder_weights, self.method) {
            (Some(_), Method::NearestPatch) => Detector::resnet18_given(LOCAL, true),
            (Some(_), _) => Detector::resnet18_given(ResNet18::STAGES, self.freeze_encoder),
            (None, Method::NearestPatch) if named.name == GIVEN => {
                let encoder = ResNet18 { stages: LOCAL, ..ResNet18::for_images([h, w]) };
                Detector::new(c, Arc::new(encoder), Vec::new())
            }
            (None, _) => (named.detector)(c, [h, w]),
        })
    }

    fn alignment(&self) -> Result<Alignment, ConfigError> {
        Ok(Alignment::by_name(&self.training.alignment, self.training.mass)?)
    }

    /// The training configuration of the first kind for images `[C, H, W]`, with `normals` images to train on and `unlabelled` images to tune on.
    ///
    /// # Errors
    /// When a name is unknown or a number is out of range.
    pub fn training(&self, [c, h, w]: [usize; 3], normals: usize, unlabelled: usize) -> Result<Config, ConfigError> {
        self.check()?;
        let parts = self.training.micro_batches.unwrap_or(1);
        let [batch, batch_val] = [(self.training.batch, normals), (self.training.batch_val, unlabelled)]
            .map(|(batch, set)| batch.min(set) / parts * parts);
        if !self.divides(batch, batch_val) {
            let (key, found) = ("training.micro_batches", parts.to_string());
            return Err(ConfigError::Range { place: String::new(), key, found, expected: PARTS });
        }
        let augmentation = self.augmentation(c)?;
        let starts = match self.method {
            Method::StSsad => {
                let starts = augmentation.starts();
                let count = self.training.starts.unwrap_or(starts.len()).min(starts.len());
                starts[..count].to_vec()
            }
            Method::RandomStatic => random_starts(augmentation.as_ref(), self.training.starts.unwrap_or(1), self.seed),
            _ => vec![Vec::new()],
        };
        Ok(Config {
            method: self.method,
            detector: self.detector([c, h, w])?,
            augmentation,
            starts,
            together: self.training.together.unwrap_or(1),
            alignment: self.alignment()?,
            normalise: self.training.normalise,
            order: if self.training.order == 1 { Order::First } else { Order::Second },
            steps: if self.method.trains() { self.training.steps } else { 0 },
            warm_up: self.training.warm_up(),
            batch,
            batch_val,
            micro_batches: parts,
            rate: self.training.learning_rate,
            look_ahead: self.training.look_ahead,
            reuse: if self.training.recompute { Reuse::Recompute } else { Reuse::On },
            score: self.score,
            seed: self.seed,
            given: Arc::new([]),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Size;

    #[test]
    fn a_configuration_is_read_back_from_its_toml() {
        let config = RunConfig { seed: 7, method: Method::DeepSvdd, ..RunConfig::default() };
        assert_eq!(RunConfig::parse(&config.to_toml()).unwrap(), config);
        assert_eq!(RunConfig::parse("").unwrap(), RunConfig::default());
    }

    #[test]
    fn former_names_of_settings_are_read() {
        let former = "[pictures]\nsize = 20\n[training]\nrate = 0.5\n[data]\nkind = 'folder'\nroot = '.'\nunlabeled_dir = 'u'\n\
                      normal_dir = 'n'";
        let config = RunConfig::parse(former).unwrap();
        assert_eq!((config.images.size, config.training.learning_rate), (Some(Size::square(20)), 0.5));
        let written = config.to_toml();
        assert!(
            written.contains("[images]") && written.contains("unlabelled_dir") && !written.contains("pictures"),
            "{written}"
        );
        // A flag overrides either name.
        let flags = "[training]\nlearning_rate = 0.25".parse().unwrap();
        let written = Written { name: "", text: former };
        assert_eq!(RunConfig::layered(&written, flags).unwrap().training.learning_rate, 0.25);
    }

    #[test]
    fn unknown_names_are_refused_with_the_known_ones() {
        let message = |text: &str| RunConfig::parse(text).unwrap_err().to_string();
        assert!(message("augmentation = 'blur'").contains("there is no augmentation `blur`; there are rotation"));
        assert!(message("[training]\nalignment = 'kl'").contains("there is no alignment loss `kl`"));
        assert!(message("[data]\nkind = 'digits'\nnormal = 6\nanomaly = 6").contains("are both 6"));
    }

    /// Numbers out of range, NaN among them, are refused before an image is read.
    #[test]
    fn numbers_out_of_range_are_refused_with_their_line() {
        for (setting, expected) in [
            ("mass = 1.0", "--mass is 1: it must be between 0 and 1"),
            ("mass = nan", "--mass is NaN"),
            ("learning_rate = nan", "--learning-rate is NaN: it must be a positive number"),
            ("rate = -1.0", "--learning-rate is -1"),
            ("look_ahead = inf", "--look-ahead is inf"),
            ("look_ahead = nan", "--look-ahead is NaN"),
            ("warm_up = 181", "--warm-up is 181: it must be no more than --steps"),
            ("order = 3", "--order is 3: it must be 1 or 2"),
            ("steps = 0", "--steps is 0: it must be from 1 to 16777216"),
            ("steps = 16777217", "--steps is 16777217"),
            ("batch = 1", "--batch is 1: it must be at least 2"),
            ("batch_val = 0", "--batch-val is 0"),
            ("micro_batches = 0", "--micro-batches is 0"),
            ("micro_batches = 17", "--micro-batches is 17: it must be from 1 to half of the images in each batch"),
            ("checkpoint_every = 0", "--checkpoint-every is 0"),
            ("starts = 0", "--starts is 0: it must be from 1 to 10000"),
            ("starts = 10001", "--starts is 10001"),
            ("together = 0", "--together is 0"),
        ] {
            let message = RunConfig::parse(&format!("[training]\n{setting}")).unwrap_err().to_string();
            assert!(message.starts_with("line 2: ") && message.contains(expected), "{setting}: {message}");
        }
    }

    #[test]
    fn what_does_not_go_with_given_weights_is_refused() {
        let refused = |settings: &str| RunConfig::parse(settings).unwrap_err().to_string();
        let given = "encoder_weights = 'a.safetensors'\n";
        assert!(refused("freeze_encoder = true").contains("no --encoder-weights"));
        assert!(refused(&format!("{given}encoder = 'small'")).contains("omit --encoder"));
        assert!(refused(&format!("{given}[images]\nchannels = 'grey'")).contains("omit --channels"));
        assert!(refused(&format!("{given}freeze_encoder = true\nmethod = 'deep-svdd'")).contains("deep-svdd"));
        let config = RunConfig::parse(&format!("{given}encoder = 'resnet18'\nfreeze_encoder = true")).unwrap();
        assert_eq!(config.loading().channels, Some(Channels::Rgb));
        assert!(config.given().unwrap_err().to_string().contains("a.safetensors"));
    }

    #[test]
    fn settings_without_effect_are_listed() {
        let told = |text: &str| RunConfig::parse(text).unwrap().without_effect().join("\n");
        assert_eq!(told(""), "");
        assert_eq!(told("augmentation = 'cutdiff'\n[training]\nstarts = 99"), "--starts 99: cutdiff has only 4 starts");
        assert_eq!(told("[training]\nstarts = 4\norder = 1\nwarm_up = 3"), "");
        let idle = told("method = 'deep-svdd'\n[training]\norder = 1\nwarm_up = 9\nstarts = 2\nmass = 0.1");
        for flag in ["--order", "--warm-up", "--starts", "--mass"] {
            assert!(idle.contains(&format!("{flag}: --method deep-svdd does not use it")), "{idle}");
        }
        assert_eq!(
            told("method = 'auto-encoder'\nencoder = 'small'"),
            "--encoder: --method auto-encoder does not use it"
        );
        assert_eq!(told("method = 'random-static'\n[training]\nstarts = 9"), "");
        assert_eq!(
            told("[training]\nalignment = 'mean-distance'\nmass = 0.1"),
            "--mass: --alignment mean-distance does not use it"
        );
        let folder = "[data]\nkind = 'folder'\nnormal_dir = 'a'\nunlabelled_dir = 'b'\n";
        assert_eq!(told(&format!("{folder}mask_dir = 'c'")), "--mask-dir: there is no --abnormal-dir");
        assert!(told(&format!("{folder}normal_split_ratio = 0.5")).starts_with("--normal-split-ratio: "));
        let both = format!("{folder}abnormal_dir = 'c'\n[images]\nsplit = 'inductive'");
        assert!(told(&both).starts_with("--split: "), "{}", told(&both));
    }

    #[test]
    fn tables_override_each_other() {
        let read = |text: &str| text.parse::<toml::Table>().unwrap();
        let mut base = read("seed = 1\n[data]\nkind = 'mvtec'\nroot = 'a'\ncategory = 'b'\n[training]\nsteps = 5");
        overlay(&mut base, read("[data]\ncategory = 'c'\n[training]\nrate = 0.1"));
        let merged =
            read("seed = 1\n[data]\nkind = 'mvtec'\nroot = 'a'\ncategory = 'c'\n[training]\nsteps = 5\nrate = 0.1");
        assert_eq!(base, merged);
        overlay(&mut base, read("[data]\nkind = 'svhn'\nroot = 'd'"));
        assert_eq!(base["data"], read("kind = 'svhn'\nroot = 'd'").into());
    }

    #[test]
    fn the_warm_up_is_a_part_of_the_steps() {
        let warm_up = |text: &str| RunConfig::parse(text).unwrap().training([1, 32, 32], 20, 30).unwrap().warm_up;
        assert_eq!(warm_up(""), 40);
        assert_eq!(warm_up("[training]\nsteps = 30"), 6);
        assert_eq!(warm_up("[training]\nsteps = 30\nwarm_up = 30"), 30);
    }

    #[test]
    fn batches_are_no_larger_than_their_sets() {
        let config = RunConfig::default().training([1, 32, 32], 20, 30).unwrap();
        assert_eq!((config.batch, config.batch_val), (20, 30));
        let parts = |text: &str| RunConfig::parse(text).unwrap().training([1, 32, 32], 20, 30);
        let config = parts("[training]\nmicro_batches = 8").unwrap();
        assert_eq!((config.batch, config.batch_val, config.micro_batches), (16, 24, 8));
        // The 20 normal images make ten pairs.
        assert!(parts("[training]\nmicro_batches = 11").is_err());
        assert!(parts("[training]\nmicro_batches = 10").is_ok());
    }

    #[test]
    fn random_starts_follow_the_seed() {
        let starts = |seed| {
            let config = RunConfig { seed, method: Method::RandomStatic, ..RunConfig::default() };
            config.training([1, 32, 32], 100, 100).unwrap().starts
        };
        assert_eq!(starts(1), starts(1));
        assert_ne!(starts(1), starts(2));
        assert_eq!(starts(1).len(), 1);
    }

    /// The error about `run.toml` with these contents and flags.
    fn said(text: &str, flags: &str) -> String {
        let written = Written { name: "run.toml", text };
        RunConfig::layered(&written, flags.parse().unwrap()).unwrap_err().to_string()
    }

    #[test]
    fn the_error_about_an_unknown_key_suggests_a_similar_one() {
        assert_eq!(said("sed = 1", ""), "run.toml, line 1: there is no key `sed`; did you mean `seed`?");
        let text = "seed = 1\n\n[training]\nsteps = 9\nbatchval = 3\n";
        assert_eq!(
            said(text, ""),
            "run.toml, line 5: there is no key `batchval` in [training]; did you mean `batch_val`?"
        );
        let text = said("[images]\nxyz = 1", "");
        assert!(text.starts_with("run.toml, line 2: there is no key `xyz` in [images]; there are `size`,"), "{text}");
    }

    #[test]
    fn errors_about_types_are_in_plain_words() {
        for (text, expected) in [
            ("seed = 'x'", "run.toml, line 1: `seed` is the text \"x\"; it must be a whole number of at least 0"),
            ("seed = -1", "run.toml, line 1: `seed` is -1; it must be a whole number of at least 0"),
            (
                "[training]\nsteps = 0.5",
                "run.toml, line 2: `steps` in [training] is 0.5; it must be a whole number of at least 0",
            ),
            (
                "[training]\nrate = 'high'",
                "run.toml, line 2: `learning_rate` in [training] is the text \"high\"; it must be a number",
            ),
            ("training = 3", "run.toml, line 1: `training` is 3; it must be a table"),
            ("[training]\nnormalise = 1", "run.toml, line 2: `normalise` in [training] is 1; it must be true or false"),
            ("method = 'st-sad'", "run.toml, line 1: `method` cannot be `st-sad`; did you mean `st-ssad`?"),
            (
                "\n[data]\nkind = 'digits'\nnormal = 'six'\nanomaly = 9",
                "run.toml, line 4: `normal` in [data] is the text \"six\"; it must be a whole number from 0 to 255",
            ),
        ] {
            assert_eq!(said(text, ""), expected, "{text}");
        }
    }

    #[test]
    fn errors_about_the_data_in_a_file_name_its_keys() {
        let folder = |key: &str| format!("[data]\nkind = 'folder'\nroot = 'a'\n{key} = ['good']");
        for (key, meant) in [("normal-dir", "normal_dir"), ("abnormal_dirs", "abnormal_dir")] {
            let expected = format!("`kind = \"folder\"` takes no `{key}` in [data]; did you mean `{meant}`?");
            assert_eq!(said(&folder(key), ""), format!("run.toml, line 4: {expected}"));
            let keys = folder(key).parse().unwrap();
            assert_eq!(RunConfig::from_keys(keys).unwrap_err().to_string(), expected);
        }
        let size = RunConfig::from_keys("images.size = 16000".parse().unwrap()).unwrap_err().to_string();
        assert!(size.starts_with("`size` in [images]: it must be a side"), "{size}");
    }

    #[test]
    fn errors_about_flags_name_the_flags() {
        assert_eq!(
            said("", "data = { kind = 'digits', normal = 'six', anomaly = 9 }"),
            "--normal is the text \"six\"; it must be a whole number from 0 to 255"
        );
        assert_eq!(
            said("", "data = { kind = 'mvtec', root = 'a' }"),
            "`--data mvtec` needs --category (such as `bottle`)"
        );
        assert_eq!(
            said("", "data = { kind = 'digits', normal = 6, anomaly = 9, tile = 3 }"),
            "`--data digits` takes no --tile; it takes --normal and --anomaly"
        );
        assert!(said("", "data = { category = 'bottle' }").contains("give --data, or `kind` in [data]"));
        assert_eq!(said("", "data = { kind = 'mvtek' }"), "--data cannot be `mvtek`; did you mean `mvtec`?");
    }

    #[test]
    fn a_syntax_error_names_its_line() {
        let text = said("seed = 1\nsteps = ", "");
        assert!(text.starts_with("run.toml, line 2: this is not TOML: "), "{text}");
        assert!(!text.contains('\n'), "{text}");
    }

    #[test]
    fn a_number_out_of_range_names_its_line_unless_a_flag_set_it() {
        let text = "[training]\nsteps = 0";
        assert_eq!(said(text, ""), "run.toml, line 2: --steps is 0: it must be from 1 to 16777216");
        assert_eq!(said("", text), "--steps is 0: it must be from 1 to 16777216");
        assert_eq!(said(text, text), "--steps is 0: it must be from 1 to 16777216");
    }
}
