//! The configuration of a run: flags override the file, and the file overrides the defaults.

use std::marker::PhantomData;
use std::path::PathBuf;

use anyhow::Context;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, FromArgMatches, ValueEnum};
use serde::Serialize;
use stssad::data::Loading;
use stssad::data::paint::{Defect, Photograph};
use stssad::run::config::{RunConfig, Training, overlay};
use stssad::run::settings::{Written, flag};
use toml::{Table, Value};

use super::UsageError;

/// The configuration of a run, by a file and by flags.
#[derive(Debug, Args)]
pub struct RunArguments {
    /// Configuration file in TOML; flags override it.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print every setting, with the file and the flags applied, as TOML and exit.
    #[arg(long)]
    pub print_config: bool,
    #[command(flatten)]
    data: DataArguments,
    #[command(flatten)]
    settings: Given<RunConfig>,
}

/// The settings that the command line gives, as a table that overrides a file's.
#[derive(Debug)]
pub struct Given<T> {
    pub table: Table,
    of: PhantomData<T>,
}

impl<T: Args + Serialize> Args for Given<T> {
    fn augment_args(command: Command) -> Command {
        T::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        T::augment_args_for_update(command)
    }
}

impl<T: FromArgMatches + Serialize> FromArgMatches for Given<T> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Self::from_arg_matches_mut(&mut matches.clone())
    }

    fn from_arg_matches_mut(matches: &mut ArgMatches) -> Result<Self, clap::Error> {
        let said = matches.clone();
        let is_given =
            |id: &str| said.try_contains_id(id).is_ok() && said.value_source(id) == Some(ValueSource::CommandLine);
        let all = Table::try_from(T::from_arg_matches_mut(matches)?);
        let all = all.map_err(|error| clap::Error::raw(clap::error::ErrorKind::InvalidValue, error.to_string()))?;
        Ok(Given { table: given(all, &is_given), of: PhantomData })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        overlay(&mut self.table, Self::from_arg_matches(matches)?.table);
        Ok(())
    }
}

/// The part of a table with the keys for which `is_given` holds.
fn given(table: Table, is_given: &impl Fn(&str) -> bool) -> Table {
    let kept = table.into_iter().filter_map(|(key, value)| match value {
        Value::Table(inner) => {
            let inner = given(inner, is_given);
            (!inner.is_empty()).then_some((key, Value::Table(inner)))
        }
        value => is_given(&key).then_some((key, value)),
    });
    kept.collect()
}

/// Where the images are.
#[derive(Debug, Args)]
#[command(next_help_heading = "Data")]
pub struct DataArguments {
    /// Kind of dataset; each kind has its own flags.
    #[arg(long, value_name = "KIND")]
    data: Option<Kind>,
    /// mvtec, folder, svhn: folder of the dataset.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// mvtec: the category, such as `bottle`.
    #[arg(long)]
    category: Option<String>,
    /// mvtec: the only defect to test. texture: the defect to paint.
    #[arg(long)]
    defect: Option<String>,
    /// folder: name of the task [default: the name of the root folder].
    #[arg(long)]
    name: Option<String>,
    /// folder: normal images; the path is relative to --root. This flag and the next four may be repeated.
    #[arg(long, value_name = "DIR")]
    normal_dir: Vec<PathBuf>,
    /// folder: anomalous images to test on.
    #[arg(long, value_name = "DIR")]
    abnormal_dir: Vec<PathBuf>,
    /// folder: normal images to test on, instead of a share of those in --normal-dir.
    #[arg(long, value_name = "DIR")]
    normal_test_dir: Vec<PathBuf>,
    /// folder: masks of the anomalous images, at the paths that these have below --abnormal-dir: a/003_mask.png for a/003.jpg.
    #[arg(long, value_name = "DIR")]
    mask_dir: Vec<PathBuf>,
    /// folder: unlabelled images that may contain anomalies, to tune on.
    #[arg(long, alias = "unlabeled-dir", value_name = "DIR")]
    unlabelled_dir: Vec<PathBuf>,
    /// folder: share of the normal images to keep for the test, if --abnormal-dir is given [default: 0.2].
    #[arg(long, value_name = "SHARE")]
    normal_split_ratio: Option<f64>,
    /// digits, svhn: the normal digit. sheet: the image with the normal tiles.
    #[arg(long)]
    normal: Option<String>,
    /// digits, svhn: the anomalous digit. sheet: the image with the anomalous tiles.
    #[arg(long)]
    anomaly: Option<String>,
    /// sheet: side of a tile in pixels.
    #[arg(long, value_name = "PIXELS")]
    tile: Option<usize>,
    /// texture: the photograph.
    #[arg(long)]
    texture: Option<Photograph>,
    /// texture: direction of a scratch or slash in radians.
    #[arg(long, value_name = "RADIANS", allow_hyphen_values = true)]
    slant: Option<f64>,
}

#[derive(Clone, Copy, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    /// MVTec AD's layout: --root, --category, --defect.
    Mvtec,
    /// Your own folders of images: --root, --normal-dir, --unlabelled-dir and the other --…-dir flags.
    Folder,
    /// SVHN's .mat files: --root, --normal, --anomaly.
    Svhn,
    /// The packaged digits: --normal, --anomaly.
    Digits,
    /// The packaged photographs with painted defects: --texture, --defect, --slant.
    Texture,
    /// Two images that are sheets of square tiles: --normal, --anomaly, --tile.
    Sheet,
}

/// Inserts a flag, if it was given.
fn put(table: &mut Table, key: &str, given: &Option<impl Serialize>) -> Result<(), UsageError> {
    if let Some(given) = given {
        // TOML has only signed integers and UTF-8 text.
        let value = Value::try_from(given).map_err(|_| {
            UsageError(format!(
                "{} cannot be stored in a configuration file: it must be a number up to {}, or UTF-8 text",
                flag(&[key]),
                i64::MAX
            ))
        })?;
        table.insert(key.into(), value);
    }
    Ok(())
}

/// A number or text: `--normal 6` and `--normal good.png`.
fn number_or_text(flag: &Option<String>) -> Option<Value> {
    flag.as_ref().map(|text| text.parse::<i64>().map_or_else(|_| Value::from(text.clone()), Value::from))
}

impl DataArguments {
    /// The table `data` from the flags, if any was given.
    pub fn table(&self) -> anyhow::Result<Table> {
        let mut data = Table::new();
        let many = |paths: &Vec<PathBuf>| (!paths.is_empty()).then(|| paths.clone());
        put(&mut data, "kind", &self.data)?;
        put(&mut data, "root", &self.root)?;
        put(&mut data, "category", &self.category)?;
        let defect = self.defect.as_ref().map(|defect| match Defect::from_str(defect, true) {
            Ok(painted) if matches!(self.data, Some(Kind::Texture)) => Value::try_from(painted),
            _ => Ok(Value::from(defect.clone())),
        });
        put(&mut data, "defect", &defect.transpose()?)?;
        put(&mut data, "name", &self.name)?;
        put(&mut data, "normal_dir", &many(&self.normal_dir))?;
        put(&mut data, "abnormal_dir", &many(&self.abnormal_dir))?;
        put(&mut data, "normal_test_dir", &many(&self.normal_test_dir))?;
        put(&mut data, "mask_dir", &many(&self.mask_dir))?;
        put(&mut data, "unlabelled_dir", &many(&self.unlabelled_dir))?;
        put(&mut data, "normal_split_ratio", &self.normal_split_ratio)?;
        put(&mut data, "normal", &number_or_text(&self.normal))?;
        put(&mut data, "anomaly", &number_or_text(&self.anomaly))?;
        put(&mut data, "tile", &self.tile)?;
        put(&mut data, "texture", &self.texture)?;
        put(&mut data, "slant", &self.slant)?;
        Ok(if data.is_empty() { data } else { [("data".to_owned(), Value::Table(data))].into_iter().collect() })
    }
}

impl RunArguments {
    /// The part of the configuration that the flags set.
    fn flags(&self) -> anyhow::Result<Table> {
        let mut flags = self.data.table()?;
        overlay(&mut flags, self.settings.table.clone());
        Ok(flags)
    }

    /// Whether any flag sets a part of the configuration.
    pub fn sets_anything(&self) -> anyhow::Result<bool> {
        Ok(!self.flags()?.is_empty())
    }

    /// The configuration from flags, file and defaults; prints a note about settings without effect.
    pub fn resolve(&self) -> anyhow::Result<RunConfig> {
        let (mut name, mut text) = (String::new(), String::new());
        if let Some(path) = &self.config {
            name = path.display().to_string();
            text = std::fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
        }
        let config = RunConfig::layered(&Written { name: &name, text: &text }, self.flags()?)?;
        for setting in config.without_effect() {
            note!("note     no effect: {setting}");
        }
        Ok(config)
    }
}

/// Every setting of a configuration with its help, as TOML that gives the same configuration when it is read; open settings are
/// comments.
pub fn printed(config: &RunConfig) -> String {
    let mut table: Table = config.to_toml().parse().expect("a configuration is TOML");
    let ids =
        |command: Command| -> Vec<String> { command.get_arguments().map(|arg| arg.get_id().to_string()).collect() };
    let [all, images, training] = [RunConfig::augment_args, Loading::augment_args, Training::augment_args]
        .map(|augment| augment(Command::new("")));
    let (images, training) = (ids(images), ids(training));
    let mut text = String::new();
    let mut section = |name: &str, values: Table, is_own: &dyn Fn(&String) -> bool| {
        if !name.is_empty() {
            text += &format!("\n[{name}]\n");
        }
        for argument in all.get_arguments().filter(|argument| is_own(&argument.get_id().to_string())) {
            let key = argument.get_id().as_str();
            let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
            text += &match values.get(key) {
                Some(value) => format!("# {help}\n{key} = {value}\n"),
                None => format!("# {help}\n# {key} =\n"),
            };
        }
    };
    let mut inner = |key: &str| match table.remove(key) {
        Some(Value::Table(inner)) => inner,
        _ => Table::new(),
    };
    let (own_images, own_training, data) = (inner("images"), inner("training"), inner("data"));
    section("", table, &|id| !images.contains(id) && !training.contains(id));
    section("images", own_images, &|id| images.contains(id));
    section("training", own_training, &|id| training.contains(id));
    text += &match data.is_empty() {
        true => "\n# Where the images come from: --data and its flags.\n# [data]\n".to_owned(),
        false => format!("\n[data]\n{data}"),
    };
    text
}
