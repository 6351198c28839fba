//! Everything that a run follows from, as a TOML file holds it and the command line's flags override it.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::augment::{self, Augmentation};
use crate::data::{Loading, Source};
use crate::kernel::Precision;
use crate::loss::{self, Alignment};
use crate::method::{Method, random_starts};
use crate::nn::Detector;
use crate::plan::Reuse;
use crate::scorer::Rule;
use crate::ssad::Order;
use crate::train::Config;

/// A run's configuration. Every key has a default; `stssad train --print-config` shows them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunConfig {
    /// All random draws follow from it: splits, initial weights, batches, places.
    pub seed: u64,
    pub method: Method,
    /// By name, several joined by `+`; see [`augment::NAMES`].
    pub augmentation: String,
    pub encoder: EncoderChoice,
    /// What tells an anomaly, where the method leaves a choice.
    pub score: Rule,
    /// Where the pictures come from; the one key without a default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Source>,
    pub pictures: Loading,
    pub training: Training,
}

/// Which encoder embeds the pictures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum EncoderChoice {
    /// `small` up to 64 pixels, `resnet18` above.
    #[default]
    Auto,
    /// Three convolutions.
    Small,
    /// ResNet-18 from scratch; up to 64 pixels without its first reductions.
    Resnet18,
}

/// How a detector is trained and tuned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Training {
    /// By name; see [`loss::NAMES`].
    pub alignment: String,
    /// The share of anomalies that the alignment loss supposes among the unlabelled pictures.
    pub mass: f64,
    /// Whether embeddings are brought to unit total distance before they are aligned; `false` is an ablation.
    pub normalise: bool,
    /// Of the hyper-gradient: 1 leaves out the second-order term, an ablation.
    pub order: u8,
    /// How many of the augmentation's starts are tried, or how many draws `random-static` makes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub starts: Option<usize>,
    /// How many starts are trained side by side at most [default: 1]. Results are the same up to rounding. A GPU that one
    /// small network does not fill takes little longer for several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub together: Option<usize>,
    /// Steps of each start.
    pub steps: usize,
    /// The first of them, which leave the augmentation as it is; two ninths of them by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warm_up: Option<usize>,
    /// Normal pictures in a batch; no more than there are.
    pub batch: usize,
    /// Unlabelled pictures in a batch; no more than there are.
    pub batch_val: usize,
    /// Parts that each batch is split into to save memory; the batches become multiples of it. By default as few as the
    /// device needs: a run chooses them before it trains, and its own configuration holds the number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub micro_batches: Option<usize>,
    /// Adam's rate for the detector.
    pub rate: f64,
    /// The look-ahead step.
    pub look_ahead: f32,
    /// What the factors of convolutions and matrix products are rounded to in training; scores are always taken in f32.
    pub precision: Precision,
    /// Whether cheap values are computed again rather than kept: the same results for less memory and more time.
    pub recompute: bool,
    /// Steps from one checkpoint to the next.
    pub checkpoint_every: usize,
}

impl Default for RunConfig {
    fn default() -> Self {
        RunConfig {
            seed: 0,
            method: Method::StSsad,
            augmentation: "cutdiff".into(),
            encoder: EncoderChoice::Auto,
            score: Rule::default(),
            data: None,
            pictures: Loading::default(),
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
            rate: 1e-3,
            look_ahead: 0.1,
            precision: Precision::F32,
            recompute: false,
            checkpoint_every: 50,
        }
    }
}

/// A configuration that no run can follow.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The text is no TOML, or has keys or values that are not known.
    #[error("the configuration cannot be read: {0}")]
    Malformed(#[from] toml::de::Error),
    #[error(transparent)]
    Augmentation(#[from] augment::NameError),
    #[error(transparent)]
    Alignment(#[from] loss::NameError),
    #[error("nothing says which pictures to train on: give --data, or a [data] table in the configuration")]
    NoData,
    #[error("{key} is {found}: it must be {expected}")]
    Range { key: &'static str, found: String, expected: &'static str },
}

/// Lays `over` upon `base`, table by table; a `data` table of another kind replaces the whole of the one below.
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

impl RunConfig {
    /// The configuration that a table describes; keys that are left out have their defaults.
    ///
    /// # Errors
    /// When a key or value is not known.
    pub fn from_table(table: toml::Table) -> Result<Self, ConfigError> {
        Ok(table.try_into()?)
    }

    /// Reads TOML; keys that are left out have their defaults.
    ///
    /// # Errors
    /// When the text is no TOML, or a key or value is not known.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        Ok(toml::from_str(text)?)
    }

    /// Where the pictures come from.
    ///
    /// # Errors
    /// When nothing says.
    pub fn source(&self) -> Result<&Source, ConfigError> {
        self.data.as_ref().ok_or(ConfigError::NoData)
    }

    /// How the pictures are read, the draws by this run's seed.
    pub fn loading(&self) -> Loading {
        Loading { seed: self.seed, ..self.pictures.clone() }
    }

    /// This configuration with the size and the micro-batches of another where it leaves them open: those that a run chose.
    pub fn completed_by(&self, chosen: &RunConfig) -> Self {
        let mut config = self.clone();
        config.pictures.size = config.pictures.size.or(chosen.pictures.size);
        config.training.micro_batches = config.training.micro_batches.or(chosen.training.micro_batches);
        config
    }

    /// As TOML, every key written out.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a configuration is plain text and numbers")
    }

    /// The augmentation, by its name.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn augmentation(&self) -> Result<Box<dyn Augmentation>, ConfigError> {
        Ok(augment::by_name(&self.augmentation)?)
    }

    /// The training of pictures `[C, H, W]`, of which there are `normals` to train on and `unlabelled` to tune on.
    ///
    /// # Errors
    /// When a name is not known or a number out of range.
    pub fn training(&self, [c, h, w]: [usize; 3], normals: usize, unlabelled: usize) -> Result<Config, ConfigError> {
        let Training { alignment, mass, steps, rate, look_ahead, .. } = &self.training;
        let warm_up = self.training.warm_up.unwrap_or(steps * 2 / 9);
        let check = |key, found: &dyn ToString, expected, holds: bool| match holds {
            true => Ok(()),
            false => Err(ConfigError::Range { key, found: found.to_string(), expected }),
        };
        check("mass", mass, "between 0 and 1, both excluded", *mass > 0.0 && *mass < 1.0)?;
        check("order", &self.training.order, "1 or 2", (1..=2).contains(&self.training.order))?;
        check("steps", steps, "at least 1", *steps > 0)?;
        check("warm_up", &warm_up, "no more than steps", warm_up <= *steps)?;
        check("rate", rate, "a positive number", *rate > 0.0 && rate.is_finite())?;
        check("look_ahead", look_ahead, "a positive number", *look_ahead > 0.0 && look_ahead.is_finite())?;
        check("batch", &self.training.batch, "at least 2", self.training.batch >= 2)?;
        check("batch_val", &self.training.batch_val, "at least 2", self.training.batch_val >= 2)?;
        let parts = self.training.micro_batches.unwrap_or(1);
        let [batch, batch_val] = [(self.training.batch, normals), (self.training.batch_val, unlabelled)]
            .map(|(batch, set)| batch.min(set) / parts.max(1) * parts);
        let least = if self.method == Method::StSsad { batch.min(batch_val) } else { batch };
        let expected = "from 1 to half of the pictures in each batch";
        check("micro_batches", &parts, expected, parts == 1 || (parts > 0 && least >= 2 * parts))?;
        check("checkpoint_every", &self.training.checkpoint_every, "at least 1", self.training.checkpoint_every > 0)?;
        check("starts", &0, "at least 1", self.training.starts != Some(0))?;
        check("together", &0, "at least 1", self.training.together != Some(0))?;
        let alignment = Alignment::by_name(alignment, *mass)?;
        let augmentation = self.augmentation()?;
        let starts = match self.method {
            Method::StSsad => {
                let starts = augmentation.starts();
                let count = self.training.starts.unwrap_or(starts.len()).min(starts.len());
                starts[..count].to_vec()
            }
            Method::RandomStatic => random_starts(augmentation.as_ref(), self.training.starts.unwrap_or(1), self.seed),
            Method::RandomDynamic | Method::AutoEncoder | Method::DeepSvdd => vec![Vec::new()],
        };
        let detector = match self.encoder {
            EncoderChoice::Resnet18 => Detector::resnet18(c, [h, w]),
            EncoderChoice::Auto if h.max(w) > 64 => Detector::resnet18(c, [h, w]),
            EncoderChoice::Auto | EncoderChoice::Small => Detector::small(c),
        };
        Ok(Config {
            method: self.method,
            detector,
            augmentation,
            starts,
            together: self.training.together.unwrap_or(1),
            alignment,
            normalise: self.training.normalise,
            order: if self.training.order == 1 { Order::First } else { Order::Second },
            steps: *steps,
            warm_up,
            batch,
            batch_val,
            micro_batches: parts,
            rate: *rate,
            look_ahead: *look_ahead,
            reuse: if self.training.recompute { Reuse::Recompute } else { Reuse::On },
            seed: self.seed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_printed_configuration_is_the_configuration() {
        let config = RunConfig { seed: 7, method: Method::DeepSvdd, ..RunConfig::default() };
        assert_eq!(RunConfig::parse(&config.to_toml()).unwrap(), config);
        assert_eq!(RunConfig::parse("").unwrap(), RunConfig::default());
    }

    #[test]
    fn what_is_not_known_is_refused_with_what_is() {
        let message = |text: &str| {
            let config = RunConfig::parse(text);
            config.and_then(|config| config.training([1, 32, 32], 100, 100).map(drop)).unwrap_err().to_string()
        };
        assert!(message("sed = 1").contains("unknown field `sed`"), "{}", message("sed = 1"));
        assert!(message("augmentation = 'blur'").contains("there is no augmentation `blur`; there are rotation"));
        assert!(message("[training]\nalignment = 'kl'").contains("there is no alignment loss `kl`"));
        assert!(message("[training]\nmass = 1.0").contains("mass is 1: it must be between 0 and 1"));
        assert!(message("[training]\nmass = nan").contains("mass is NaN"));
        assert!(message("[training]\nrate = nan").contains("rate is NaN"));
        assert!(message("[training]\nwarm_up = 181").contains("no more than steps"));
    }

    #[test]
    fn tables_are_laid_over_each_other() {
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
        for refused in [0, 11] {
            assert!(parts(&format!("[training]\nmicro_batches = {refused}")).is_err());
        }
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
}
