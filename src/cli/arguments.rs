//! Flags that make up a run's configuration: they are laid over the file's, which is laid over the defaults.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, ValueEnum};
use serde::Serialize;
use stssad::config::{EncoderChoice, RunConfig, overlay};
use stssad::data::paint::{Defect, Photograph};
use stssad::data::{Channels, OnBadImage, Resize, Split};
use stssad::kernel::Precision;
use stssad::method::Method;
use stssad::scorer::Rule;
use toml::{Table, Value};

/// What to train, and on what.
#[derive(Debug, Args)]
pub struct RunArguments {
    /// Configuration in TOML; flags override it.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the configuration that the flags and the file make, and stop.
    #[arg(long)]
    pub print_config: bool,
    #[command(flatten)]
    data: DataArguments,
    #[command(flatten)]
    method: MethodArguments,
}

/// Where the pictures are.
#[derive(Debug, Args)]
#[command(next_help_heading = "Data")]
pub struct DataArguments {
    /// What the pictures lie in; each kind has its own flags.
    #[arg(long, value_name = "KIND")]
    data: Option<Kind>,
    /// mvtec, folder, svhn: the folder that everything is below.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// mvtec: such as `bottle`.
    #[arg(long)]
    category: Option<String>,
    /// mvtec: test this defect alone. texture: what is painted.
    #[arg(long)]
    defect: Option<String>,
    /// folder: name of the task.
    #[arg(long)]
    name: Option<String>,
    /// folder: normal pictures, below the root; may be given more than once, as may the next four.
    #[arg(long, value_name = "DIR")]
    normal_dir: Vec<PathBuf>,
    /// folder: anomalies to test on.
    #[arg(long, value_name = "DIR")]
    abnormal_dir: Vec<PathBuf>,
    /// folder: normal pictures to test on, instead of a share of the others.
    #[arg(long, value_name = "DIR")]
    normal_test_dir: Vec<PathBuf>,
    /// folder: masks of the anomalies.
    #[arg(long, value_name = "DIR")]
    mask_dir: Vec<PathBuf>,
    /// folder: pictures of which nothing is known, to tune on.
    #[arg(long, value_name = "DIR")]
    unlabelled_dir: Vec<PathBuf>,
    /// folder: share of the normal pictures that is kept for the test.
    #[arg(long, value_name = "SHARE")]
    normal_split_ratio: Option<f64>,
    /// digits, svhn: the normal digit. sheet: the picture with the normal tiles.
    #[arg(long)]
    normal: Option<String>,
    /// digits, svhn: the anomalous digit. sheet: the picture with the anomalous tiles.
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

    /// Height and width that every picture gets, in pixels [default: the source's own; of image files 256, or the longest
    /// side of all where that is less].
    #[arg(long, value_name = "PIXELS")]
    size: Option<usize>,
    /// What a pixel holds.
    #[arg(long)]
    channels: Option<Channels>,
    /// How a picture that is not square becomes so.
    #[arg(long)]
    resize: Option<Resize>,
    /// Whether the unlabelled pictures are those of the test or others.
    #[arg(long)]
    split: Option<Split>,
    /// What a picture that cannot be used leads to.
    #[arg(long)]
    on_bad_image: Option<OnBadImage>,
    /// Refuse pictures with more pixels.
    #[arg(long, value_name = "N")]
    max_pixels: Option<u64>,
    /// Most memory that all decoded images may take, in bytes.
    #[arg(long, value_name = "BYTES")]
    max_bytes: Option<u64>,
    /// Most normal images to train on, those held out for the threshold included.
    #[arg(long, value_name = "N")]
    max_train: Option<usize>,
    /// Most normal pictures to test on.
    #[arg(long, value_name = "N")]
    max_normals: Option<usize>,
    /// Most anomalies to test on.
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
    /// Pictures that are sheets of tiles: --normal, --anomaly, --tile.
    Sheet,
}

/// How to train.
#[derive(Debug, Args)]
#[command(next_help_heading = "Method")]
struct MethodArguments {
    /// All random draws follow from it.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// What is trained.
    #[arg(long)]
    method: Option<Method>,
    /// rotation, rotation-spread, cutdiff, cutout, cutavg, cutpaste, or several joined by `+`.
    #[arg(long, value_name = "NAME")]
    augmentation: Option<String>,
    /// What embeds the pictures.
    #[arg(long)]
    encoder: Option<EncoderChoice>,
    /// What tells an anomaly, where the method leaves a choice.
    #[arg(long)]
    score: Option<Rule>,
    /// The alignment loss: mean-distance, diagonal-w2, gaussian-w2, sliced-w2, sinkhorn or mmd.
    #[arg(long, value_name = "NAME")]
    alignment: Option<String>,
    /// Supposed share of anomalies among the unlabelled pictures.
    #[arg(long, value_name = "SHARE")]
    mass: Option<f64>,
    /// Align embeddings as they are, without total distance normalisation: an ablation.
    #[arg(long)]
    no_normalise: bool,
    /// Order of the hyper-gradient; 1 leaves out the second-order term: an ablation.
    #[arg(long, value_name = "1|2", value_parser = clap::value_parser!(u8).range(1..=2))]
    order: Option<u8>,
    /// How many starts are tried.
    #[arg(long, value_name = "N")]
    starts: Option<usize>,
    /// How many starts are trained side by side, to fill a GPU that one does not [default: 1].
    #[arg(long, value_name = "N")]
    together: Option<usize>,
    /// Steps of each start.
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// The first of them, which do not tune [default: two ninths of the steps].
    #[arg(long, value_name = "N")]
    warm_up: Option<usize>,
    /// Normal pictures in a batch.
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Unlabelled pictures in a batch.
    #[arg(long, value_name = "N")]
    batch_val: Option<usize>,
    /// Split each batch into N micro-batches to save memory [default: as few as the device needs].
    #[arg(long, value_name = "N")]
    micro_batches: Option<usize>,
    /// Adam's rate for the detector.
    #[arg(long, value_name = "RATE")]
    rate: Option<f64>,
    /// The look-ahead step.
    #[arg(long, value_name = "RATE")]
    look_ahead: Option<f32>,
    /// What the factors of convolutions and matrix products are rounded to while it trains.
    #[arg(long, value_enum, value_name = "P")]
    precision: Option<Precision>,
    /// Compute cheap values again rather than keep them: the same results for less memory and more time.
    #[arg(long)]
    recompute: bool,
    /// Steps from one checkpoint to the next.
    #[arg(long, value_name = "N")]
    checkpoint_every: Option<usize>,
}

/// Puts a flag that was given under a key.
fn put(table: &mut Table, key: &str, flag: &Option<impl Serialize>) -> anyhow::Result<()> {
    if let Some(flag) = flag {
        table.insert(key.into(), Value::try_from(flag).with_context(|| format!("--{key} is out of range"))?);
    }
    Ok(())
}

/// Numbers where they are, text where it is not: `--normal 6` and `--normal good.png`.
fn number_or_text(flag: &Option<String>) -> Option<Value> {
    flag.as_ref().map(|text| text.parse::<i64>().map_or_else(|_| Value::from(text.clone()), Value::from))
}

impl DataArguments {
    /// The tables `data` and `pictures` that the flags make.
    pub fn tables(&self) -> anyhow::Result<Table> {
        let (mut data, mut pictures) = (Table::new(), Table::new());
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
        put(&mut pictures, "size", &self.size)?;
        put(&mut pictures, "channels", &self.channels)?;
        put(&mut pictures, "resize", &self.resize)?;
        put(&mut pictures, "split", &self.split)?;
        put(&mut pictures, "on_bad_image", &self.on_bad_image)?;
        put(&mut pictures, "max_pixels", &self.max_pixels)?;
        put(&mut pictures, "max_bytes", &self.max_bytes)?;
        put(&mut pictures, "max_train", &self.max_train)?;
        put(&mut pictures, "max_normals", &self.max_normals)?;
        put(&mut pictures, "max_anomalies", &self.max_anomalies)?;
        let tables = [("data", data), ("pictures", pictures)].into_iter().filter(|(_, table)| !table.is_empty());
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

    /// Flags over file over defaults.
    pub fn resolve(&self) -> anyhow::Result<RunConfig> {
        let mut table = match &self.config {
            Some(path) => {
                let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
                text.parse::<Table>().with_context(|| format!("{} is not TOML", path.display()))?
            }
            None => Table::new(),
        };
        overlay(&mut table, self.data.tables()?);
        overlay(&mut table, self.method.tables()?);
        Ok(RunConfig::from_table(table)?)
    }
}
