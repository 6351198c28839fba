//! The configuration of a run: flags override the file, and the file overrides the defaults.

use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::builder::{PossibleValue, PossibleValuesParser};
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, FromArgMatches, ValueEnum};
use serde::Serialize;
use stssad::data::category::Layout;
use stssad::data::paint::{Defect, Material};
use stssad::data::{KINDS, Loading};
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

/// The keys of all values in a table and in those within it.
fn keys(table: &Table) -> Vec<&str> {
    let mut found = Vec::new();
    for (key, value) in table {
        match value {
            Value::Table(inner) => found.extend(keys(inner)),
            _ => found.push(key.as_str()),
        }
    }
    found
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
    #[arg(long, value_name = "KIND", value_parser = kinds())]
    data: Option<String>,
    /// All but digits, texture and sheet: folder of the dataset. For a run whose images have moved: where they are now.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Public datasets: the category, such as `bottle`.
    #[arg(long)]
    category: Option<String>,
    /// Public datasets: the only defect to test. texture: the defect to paint.
    #[arg(long)]
    defect: Option<String>,
    /// table: CSV file with the columns path (relative to --root, or else to the file), split (train, test or unlabelled), label
    /// (normal, the name of a defect, or empty) and mask (a path, or empty).
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// folder, table: name of the task [default: the name of the root folder or of the file].
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
    /// texture: the material or object.
    #[arg(long)]
    texture: Option<Material>,
    /// texture: direction of a scratch or slash in radians.
    #[arg(long, value_name = "RADIANS", allow_hyphen_values = true)]
    slant: Option<f64>,
    /// texture: how much of the defect shows, above 0 and up to 1 [default: 1].
    #[arg(long, value_name = "SHARE")]
    strength: Option<f64>,
}

/// The kinds of datasets, with their help.
fn kinds() -> PossibleValuesParser {
    let layout = |layout: Layout| {
        let about = layout.about();
        PossibleValue::new(layout.name())
            .help(format!("{about}{}--root, --category", if about.contains(':') { "; " } else { ": " }))
    };
    let own = KINDS.into_iter().map(|(name, help)| PossibleValue::new(name).help(help));
    Layout::ALL.into_iter().map(layout).chain(own).collect::<Vec<_>>().into()
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
    /// The root, if it is the only flag.
    pub fn root_alone(&self) -> anyhow::Result<Option<&Path>> {
        let table = self.table()?;
        let count = table.get("data").and_then(Value::as_table).map_or(0, Table::len);
        Ok(self.root.as_deref().filter(|_| count == 1))
    }

    /// The table `data` of a run, overridden by the flags. Flags that name a kind, a file or folders of images replace all that the
    /// run has of these.
    pub fn over(&self, own: Table) -> anyhow::Result<Table> {
        let Some(Value::Table(flags)) = self.table()?.remove("data") else { return Ok(own) };
        let names_images = |key: &String| key == "kind" || key == "file" || key.ends_with("_dir");
        let is_new = flags.keys().any(names_images);
        let mut data: Table = own.into_iter().filter(|(key, _)| !is_new || key == "kind" || key == "root").collect();
        if flags.get("kind").is_some_and(|kind| data.get("kind") != Some(kind)) {
            data.clear();
        }
        overlay(&mut data, flags);
        Ok(data)
    }

    /// The table `data` from the flags, if any was given.
    pub fn table(&self) -> anyhow::Result<Table> {
        let mut data = Table::new();
        let many = |paths: &Vec<PathBuf>| (!paths.is_empty()).then(|| paths.clone());
        put(&mut data, "kind", &self.data)?;
        put(&mut data, "root", &self.root)?;
        put(&mut data, "category", &self.category)?;
        let defect = self.defect.as_ref().map(|defect| match Defect::from_str(defect, true) {
            Ok(painted) if self.data.as_deref() == Some("texture") => Value::try_from(painted),
            _ => Ok(Value::from(defect.clone())),
        });
        put(&mut data, "defect", &defect.transpose()?)?;
        put(&mut data, "file", &self.file)?;
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
        put(&mut data, "strength", &self.strength)?;
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

    /// The root, if it is the only part of the configuration that flags set; an error if they set another part.
    pub fn root_alone(&self) -> anyhow::Result<Option<&Path>> {
        let mut flags = self.flags()?;
        if let Some(Value::Table(data)) = flags.get_mut("data") {
            data.remove("root");
        }
        let given: Vec<String> = keys(&flags).iter().map(|key| flag(&[key])).collect();
        match given.is_empty() {
            true => Ok(self.data.root.as_deref()),
            false => {
                let given = given.join(", ");
                let problem = format!(
                    "--resume uses the run's own configuration: omit {given}; only --root may tell where images have moved"
                );
                Err(UsageError(problem).into())
            }
        }
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
