//! Flags that make up a run's configuration: they are laid over the file's, which is laid over the defaults.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, ValueEnum};
use serde::Serialize;
use stssad::data::paint::{Defect, Photograph};
use stssad::data::{Channels, OnBadImage, Resize, Split};
use stssad::engine::kernel::Precision;
use stssad::run::config::{EncoderChoice, RunConfig, overlay};
use stssad::run::settings::{Written, flag};
use stssad::ssad::method::Method;
use stssad::ssad::method::Rule;
use toml::{Table, Value};

use super::Unfit;

/// What to train, and on what.
#[derive(Debug, Args)]
pub struct RunArguments {
    /// Configuration file in TOML; flags override it.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the configuration that the file and the flags give, and stop.
    #[arg(long)]
    pub print_config: bool,
    #[command(flatten)]
    data: DataArguments,
    #[command(flatten)]
    method: MethodArguments,
}

/// Where the images are.
#[derive(Debug, Args)]
#[command(next_help_heading = "Data")]
pub struct DataArguments {
    /// Where the images come from; each kind has its own flags.
    #[arg(long, value_name = "KIND")]
    data: Option<Kind>,
    /// mvtec, folder, svhn: folder of the dataset.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// mvtec: the category, such as `bottle`.
    #[arg(long)]
    category: Option<String>,
    /// mvtec: test this defect only. texture: the defect to paint.
    #[arg(long)]
    defect: Option<String>,
    /// folder: name of the task.
    #[arg(long)]
    name: Option<String>,
    /// folder: normal images, below the root. This flag and the next four may be repeated.
    #[arg(long, value_name = "DIR")]
    normal_dir: Vec<PathBuf>,
    /// folder: anomalous images to test on.
    #[arg(long, value_name = "DIR")]
    abnormal_dir: Vec<PathBuf>,
    /// folder: normal images to test on, instead of a share of those in --normal-dir.
    #[arg(long, value_name = "DIR")]
    normal_test_dir: Vec<PathBuf>,
    /// folder: masks of the anomalous images.
    #[arg(long, value_name = "DIR")]
    mask_dir: Vec<PathBuf>,
    /// folder: unlabelled images that may contain anomalies, to tune on.
    #[arg(long, value_name = "DIR")]
    unlabelled_dir: Vec<PathBuf>,
    /// folder: share of the normal images to keep for the test [default: 0.2].
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

    /// Resize every image to this height and width, in pixels [default: the source's own size; for image files 256, or the
    /// longest side of all images where that is less].
    #[arg(long, value_name = "PIXELS")]
    size: Option<usize>,
    /// Channels of each image.
    #[arg(long)]
    channels: Option<Channels>,
    /// How to make an image square.
    #[arg(long)]
    resize: Option<Resize>,
    /// Tune on the test images without their labels, or on other images.
    #[arg(long)]
    split: Option<Split>,
    /// What to do with an image that cannot be read.
    #[arg(long)]
    on_bad_image: Option<OnBadImage>,
    /// Refuse images with more pixels.
    #[arg(long, value_name = "N")]
    max_pixels: Option<u64>,
    /// Refuse to decode images that take more memory than this together, in bytes.
    #[arg(long, value_name = "BYTES")]
    max_bytes: Option<u64>,
    /// Train on at most N normal images, those held out for the threshold included.
    #[arg(long, value_name = "N")]
    max_train: Option<usize>,
    /// Test on at most N normal images.
    #[arg(long, value_name = "N")]
    max_normals: Option<usize>,
    /// Test on at most N anomalous images.
    #[arg(long, value_name = "N")]
    max_anomalies: Option<usize>,
}

#[derive(Clone, Copy, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    /// MVTec AD's layout: --root, --category, --defect.
    Mvtec,
    /// Folders of your own: --root, --normal-dir and its companions.
    Folder,
    /// SVHN's .mat files: --root, --normal, --anomaly.
    Svhn,
    /// The packaged digits: --normal, --anomaly.
    Digits,
    /// The packaged photographs with painted defects: --texture, --defect, --slant.
    Texture,
    /// Images that are sheets of tiles: --normal, --anomaly, --tile.
    Sheet,
}

/// How to train.
#[derive(Debug, Args)]
#[command(next_help_heading = "Method")]
struct MethodArguments {
    /// Seed of all random draws.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Method to train.
    #[arg(long)]
    method: Option<Method>,
    /// rotation, rotation-spread, cutdiff, cutout, cutavg, cutpaste, or several joined by `+`.
    #[arg(long, value_name = "NAME")]
    augmentation: Option<String>,
    /// Encoder of the images.
    #[arg(long)]
    encoder: Option<EncoderChoice>,
    /// Anomaly score, for the methods that have more than one.
    #[arg(long)]
    score: Option<Rule>,
    /// Alignment loss: mean-distance, diagonal-w2, gaussian-w2, sliced-w2, sinkhorn or mmd.
    #[arg(long, value_name = "NAME")]
    alignment: Option<String>,
    /// Assumed share of anomalies among the unlabelled images, between 0 and 1.
    #[arg(long, value_name = "SHARE")]
    mass: Option<f64>,
    /// Do not normalise embeddings before they are aligned (an ablation).
    #[arg(long)]
    no_normalise: bool,
    /// Order of the hyper-gradient; 1 leaves out the second-order term (an ablation).
    #[arg(long, value_name = "1|2", value_parser = clap::value_parser!(u8).range(1..=2))]
    order: Option<u8>,
    /// Number of starting points of the augmentation to try [default: all that it has].
    #[arg(long, value_name = "N")]
    starts: Option<usize>,
    /// Train N starts at once, to use a GPU that one start does not fill [default: 1].
    #[arg(long, value_name = "N")]
    together: Option<usize>,
    /// Training steps of each start.
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// Steps before tuning begins [default: two ninths of --steps].
    #[arg(long, value_name = "N")]
    warm_up: Option<usize>,
    /// Normal images in a batch.
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Unlabelled images in a batch.
    #[arg(long, value_name = "N")]
    batch_val: Option<usize>,
    /// Split each batch into N micro-batches to save memory [default: as few as the device needs].
    #[arg(long, value_name = "N")]
    micro_batches: Option<usize>,
    /// Learning rate of the detector.
    #[arg(long, value_name = "RATE")]
    rate: Option<f64>,
    /// Step size of the look-ahead that tuning differentiates through.
    #[arg(long, value_name = "RATE")]
    look_ahead: Option<f32>,
    /// Round the factors of convolutions and matrix products to this precision in training.
    #[arg(long, value_enum, value_name = "P")]
    precision: Option<Precision>,
    /// Compute cheap values again instead of keeping them: less memory, more time, the same results.
    #[arg(long)]
    recompute: bool,
    /// Steps between two checkpoints.
    #[arg(long, value_name = "N")]
    checkpoint_every: Option<usize>,
}

/// Puts a flag that was given under a key.
fn put(table: &mut Table, key: &str, given: &Option<impl Serialize>) -> Result<(), Unfit> {
    if let Some(given) = given {
        // TOML has signed integers and no other text than UTF-8.
        let value = Value::try_from(given).map_err(|_| {
            Unfit(format!("{} is beyond what a configuration file can hold: {} or UTF-8 text", flag(&[key]), i64::MAX))
        })?;
        table.insert(key.into(), value);
    }
    Ok(())
}

/// Numbers where they are, text where it is not: `--normal 6` and `--normal good.png`.
fn number_or_text(flag: &Option<String>) -> Option<Value> {
    flag.as_ref().map(|text| text.parse::<i64>().map_or_else(|_| Value::from(text.clone()), Value::from))
}

impl DataArguments {
    /// The tables `data` and `images` that the flags make.
    pub fn tables(&self) -> anyhow::Result<Table> {
        let (mut data, mut images) = (Table::new(), Table::new());
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
        put(&mut images, "size", &self.size)?;
        put(&mut images, "channels", &self.channels)?;
        put(&mut images, "resize", &self.resize)?;
        put(&mut images, "split", &self.split)?;
        put(&mut images, "on_bad_image", &self.on_bad_image)?;
        put(&mut images, "max_pixels", &self.max_pixels)?;
        put(&mut images, "max_bytes", &self.max_bytes)?;
        put(&mut images, "max_train", &self.max_train)?;
        put(&mut images, "max_normals", &self.max_normals)?;
        put(&mut images, "max_anomalies", &self.max_anomalies)?;
        let tables = [("data", data), ("images", images)].into_iter().filter(|(_, table)| !table.is_empty());
        Ok(tables.map(|(key, table)| (key.to_owned(), Value::Table(table))).collect())
    }
}

impl MethodArguments {
    fn tables(&self) -> anyhow::Result<Table> {
        let (mut top, mut training) = (Table::new(), Table::new());
        put(&mut top, "seed", &self.seed)?;
        put(&mut top, "method", &self.method)?;
        put(&mut top, "augmentation", &self.augmentation)?;
        put(&mut top, "encoder", &self.encoder)?;
        put(&mut top, "score", &self.score)?;
        put(&mut training, "alignment", &self.alignment)?;
        put(&mut training, "mass", &self.mass)?;
        put(&mut training, "normalise", &self.no_normalise.then_some(false))?;
        put(&mut training, "order", &self.order)?;
        put(&mut training, "starts", &self.starts)?;
        put(&mut training, "together", &self.together)?;
        put(&mut training, "steps", &self.steps)?;
        put(&mut training, "warm_up", &self.warm_up)?;
        put(&mut training, "batch", &self.batch)?;
        put(&mut training, "batch_val", &self.batch_val)?;
        put(&mut training, "micro_batches", &self.micro_batches)?;
        put(&mut training, "rate", &self.rate)?;
        put(&mut training, "look_ahead", &self.look_ahead)?;
        put(&mut training, "precision", &self.precision)?;
        put(&mut training, "recompute", &self.recompute.then_some(true))?;
        put(&mut training, "checkpoint_every", &self.checkpoint_every)?;
        if !training.is_empty() {
            top.insert("training".into(), training.into());
        }
        Ok(top)
    }
}

impl RunArguments {
    /// Whether any flag bears on the configuration.
    pub fn says_anything(&self) -> anyhow::Result<bool> {
        Ok(!(self.data.tables()?.is_empty() && self.method.tables()?.is_empty()))
    }

    /// Flags over file over defaults; tells of those that change nothing.
    pub fn resolve(&self) -> anyhow::Result<RunConfig> {
        let (mut name, mut text) = (String::new(), String::new());
        if let Some(path) = &self.config {
            name = path.display().to_string();
            text = std::fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
        }
        let mut flags = self.data.tables()?;
        overlay(&mut flags, self.method.tables()?);
        let config = RunConfig::layered(&Written { name: &name, text: &text }, flags)?;
        for setting in config.without_effect() {
            note!("note     no effect: {setting}");
        }
        Ok(config)
    }
}
