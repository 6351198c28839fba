//! Fits a run to a device: chooses the number of micro-batches, and if the run does not fit, finds settings that do. It only makes
//! plans, which need no memory on the device.

use std::fmt;

use crate::data::{Loaded, Size};
use crate::engine::gpu::{Device, GpuError};
use crate::engine::kernel::{DeviceClass, Precision};
use crate::engine::plan::Plan;
use crate::engine::plan::memory::Memory;
use crate::engine::units;
use crate::run::config::{ConfigError, RunConfig, Training};
use crate::ssad::config::Config;
use crate::ssad::method::{Method, Network};
use crate::ssad::nn::Named;
use crate::ssad::step::{TrainingStep, views};
use crate::training::scorer::{self, Attributor, LEAST, Scorer};
use crate::training::trainer::TrainError;

/// A run with every setting chosen, and its cost.
#[derive(Clone, Debug)]
pub struct Fitted {
    /// The configuration with the side of the images and the number of micro-batches written out.
    pub config: RunConfig,
    pub cost: Cost,
    /// The device's limit on a value in bytes, if it is the reason for the micro-batches.
    cut: Option<u64>,
}

/// The cost of a training step.
#[derive(Clone, Debug, PartialEq)]
pub struct Cost {
    /// Of the images.
    pub size: Size,
    /// Name of the encoder; `auto-encoder` for the method of this name.
    pub encoder: &'static str,
    /// An encoder that computes less, if there is one.
    pub cheaper_encoder: Option<&'static str>,
    /// Normal and unlabelled images in a step.
    pub batches: [usize; 2],
    pub micro_batches: usize,
    /// Device memory in bytes.
    pub bytes: u64,
    /// Floating-point operations.
    pub flops: u64,
    /// Whether the device is a CPU.
    pub on_cpu: bool,
}

/// Why a run does not fit a device, and which settings do.
#[derive(Debug, thiserror::Error)]
pub enum FitError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Train(#[from] TrainError),
    #[error(transparent)]
    Gpu(#[from] GpuError),
    /// The batches fit with more micro-batches.
    #[error(
        "a step of {} + {} images in {micro_batches} micro-batches does not fit this device, which binds at most {}: \
         use --micro-batches {fitting}, or omit the setting and let stssad choose",
        batches[0], batches[1], units::bytes(*limit)
    )]
    MicroBatches { batches: [usize; 2], micro_batches: usize, fitting: usize, limit: u64 },
    /// The batches do not fit with any number of micro-batches.
    #[error(
        "batches of this size with images of {}×{} pixels do not fit this device, which binds at most {}: {}",
        size.width, size.height, units::bytes(*limit), advice(alternatives)
    )]
    Size { size: Size, limit: u64, alternatives: Vec<String> },
}

fn advice(alternatives: &[String]) -> String {
    match alternatives {
        [] => "no smaller size fits either".into(),
        all => format!("{} would fit", all.join(", or ")),
    }
}

/// Plans runs for a device and a task.
struct Planner<'a> {
    device: &'a Device,
    /// The same device at full precision, for scoring.
    exact: Device,
    channels: usize,
    /// Number of images to train on and to tune on.
    sets: [usize; 2],
}

/// Chooses the open settings of `config` so that the whole run fits the device: training, scoring and heat maps.
///
/// # Errors
/// When the configuration is invalid for these images, or the run does not fit with the settings that it fixes.
pub fn fitted(device: &Device, config: &RunConfig, loaded: &Loaded) -> Result<Fitted, FitError> {
    let visible = loaded.task.visible();
    let [normals, channels, height, width] = visible.train.shape();
    let mut config = config.clone();
    config.images.size = Some(Size { height, width });
    config.working_dir = config.working_dir.or_else(|| std::env::current_dir().ok());
    // Levels and channels that were found on these training images belong to the model.
    config.images.channels = config.images.channels.map(|_| loaded.conversion.channels);
    config.images.levels = config.images.levels.map(|_| loaded.conversion.levels);
    let planner = Planner {
        device: &device.with_precision(config.training.precision)?,
        exact: device.with_precision(Precision::F32)?,
        channels,
        sets: [normals, visible.val.len()],
    };
    let chosen = planner.micro_batches(&config)?;
    let micro_batches = match (config.training.micro_batches, chosen) {
        (_, None) => return Err(planner.refusal(&config)?),
        (None, Some(chosen)) => chosen,
        (Some(asked), Some(fitting)) => {
            let training = planner.training(&config)?;
            let batches = [training.batch, training.batch_val];
            if planner.step(&config, batches.map(|batch| batch / asked))?.largest().1 > planner.limit() {
                return Err(FitError::MicroBatches { batches, micro_batches: asked, fitting, limit: planner.limit() });
            }
            asked
        }
    };
    let cut = (config.training.micro_batches.is_none() && micro_batches > 1).then(|| planner.limit());
    config.training.micro_batches = Some(micro_batches);
    let cost = planner.cost(&config)?;
    Ok(Fitted { config, cost, cut })
}

impl Planner<'_> {
    fn limit(&self) -> u64 {
        self.device.largest_value()
    }

    fn image(&self, config: &RunConfig) -> [usize; 3] {
        let Size { height, width } = config.images.size.expect("the size is known");
        [self.channels, height, width]
    }

    /// The training configuration for this run's images.
    fn training(&self, config: &RunConfig) -> Result<Config, FitError> {
        let [normals, unlabelled] = self.sets;
        Ok(config.training(self.image(config), normals, unlabelled)?)
    }

    /// The plan of a step with one micro-batch of this size. No value of the whole step is larger.
    fn step(&self, config: &RunConfig, [batch, batch_val]: [usize; 2]) -> Result<Plan, FitError> {
        let mut part = config.clone();
        (part.training.batch, part.training.batch_val) = (batch, batch_val);
        part.training.micro_batches = Some(1);
        let part = part.training(self.image(config), batch, batch_val)?;
        let step = TrainingStep::record(&part, self.image(config)).map_err(TrainError::from)?;
        let tuning = step.tuning_plan(self.device.class(), part.reuse);
        Ok(tuning.unwrap_or_else(|| step.plain_plan(self.device.class(), part.reuse)))
    }

    /// The largest value, in bytes, that a run computes outside its training steps, with micro-batches of `batch` images and the
    /// smallest batches for scoring.
    fn largest_beside(&self, config: &RunConfig, batch: usize) -> Result<u64, FitError> {
        let (training, image) = (self.training(config)?, self.image(config));
        let network = Network::new(training.method, &training.detector, image);
        let by_distance = network.scores_by_distance(config.score);
        let class: DeviceClass = self.exact.class();
        let scores = Scorer::plan(class, &network, image, LEAST).0;
        let heat = Attributor::plan(class, &network, image, LEAST, by_distance).0;
        let views =
            views(&training, &network, image, batch).into_iter().flatten().map(|view| view.plan(self.device.class()));
        let plans = [scores, heat].into_iter().chain(views);
        Ok(plans.map(|plan| plan.largest().1).max().unwrap_or(0))
    }

    /// The smallest number of micro-batches, of at least two images each, with which the run fits; `None` if there is none. A
    /// slightly larger number is preferred if it divides the batches.
    fn micro_batches(&self, config: &RunConfig) -> Result<Option<usize>, FitError> {
        let whole = RunConfig { training: uncut(config), ..config.clone() };
        let Config { batch, batch_val, .. } = self.training(&whole)?;
        let of_part = |part: usize| [part, (batch_val * part / batch).max(2)];
        let step = |part| self.step(config, of_part(part)).map(|plan| plan.largest().1);
        let (part, largest) = scorer::batch(2..=batch, self.limit(), step, |bytes| *bytes.as_ref().unwrap_or(&0));
        if largest? > self.limit() {
            return Ok(None);
        }
        let [part, part_val] = of_part(part);
        let most = (batch.min(batch_val) / 2).max(1);
        let Some(fewest) = (1..=most).find(|parts| batch / parts <= part && batch_val / parts <= part_val) else {
            return Ok(None);
        };
        let divides = |parts: &usize| batch.is_multiple_of(*parts) && batch_val.is_multiple_of(*parts);
        let parts = (fewest..=most.min(2 * fewest)).find(divides).unwrap_or(fewest);
        Ok((self.largest_beside(&whole, batch / parts)? <= self.limit()).then_some(parts))
    }

    /// The error for a run that fits with no number of micro-batches, with settings that would fit.
    fn refusal(&self, config: &RunConfig) -> Result<FitError, FitError> {
        let size = config.images.size.expect("the size is known");
        let also = if config.training.micro_batches.is_some() { " without --micro-batches" } else { "" };
        let open = RunConfig { training: uncut(config), ..config.clone() };
        let mut alternatives = Vec::new();
        // With few unlabelled images the micro-batches cannot be small enough, but a smaller batch may fit.
        let Config { batch, .. } = self.training(&open)?;
        let smaller = |batch: usize| {
            let training = Training { batch, ..open.training.clone() };
            RunConfig { training, ..open.clone() }
        };
        for batch in std::iter::successors(Some(batch / 2), |batch| Some(batch / 2)).take_while(|batch| *batch >= 2) {
            if self.micro_batches(&smaller(batch))?.is_some() {
                alternatives.push(format!("--batch {batch}{also}"));
                break;
            }
        }
        if let Some(size) = self.largest_size(&open)? {
            alternatives.push(format!("--size {size}{also}"));
        }
        let cheapest = Named::cheapest().name;
        let cheaper = RunConfig { encoder: cheapest.into(), ..open };
        let is_open = config.method.encodes() && config.encoder_weights.is_none();
        if is_open && self.micro_batches(&cheaper)?.is_some() {
            alternatives.push(format!("--encoder {cheapest}{also}"));
        }
        Ok(FitError::Size { size, limit: self.limit(), alternatives })
    }

    /// The largest size below the configured one, in its proportions and with a height that is a multiple of 16, with which the run
    /// fits.
    fn largest_size(&self, config: &RunConfig) -> Result<Option<Size>, FitError> {
        let whole = config.images.size.expect("the size is known");
        let at = |height: usize| {
            let width = (height * whole.width).div_ceil(whole.height);
            let mut config = config.clone();
            config.images.size = Some(Size { height, width });
            config
        };
        let mut height = whole.height;
        loop {
            let config = at(height);
            // Values grow with the square of the height.
            let bytes = self.step(&config, [2, 2])?.largest().1.max(self.largest_beside(&config, 2)?);
            let estimate = (height as f64 * (self.limit() as f64 / bytes as f64).sqrt()) as usize;
            height = estimate.min(height - 1) / 16 * 16;
            if height == 0 {
                return Ok(None);
            }
            let config = at(height);
            if self.micro_batches(&config)?.is_some() {
                return Ok(config.images.size);
            }
        }
    }

    fn cost(&self, config: &RunConfig) -> Result<Cost, FitError> {
        let training = self.training(config)?;
        let parts = training.micro_batches;
        let batches = [training.batch, training.batch_val];
        let step = self.step(config, batches.map(|batch| batch / parts))?;
        let memory = Memory::of(&step);
        let cheapest = Named::cheapest().name;
        let (encoder, cheaper_encoder) = match (training.method, config.encoder(self.image(config))?.name) {
            (Method::AutoEncoder, _) => ("auto-encoder", None),
            (Method::RawPixels, _) => ("none", None),
            (_, encoder) => (encoder, (encoder != cheapest && config.encoder_weights.is_none()).then_some(cheapest)),
        };
        Ok(Cost {
            size: config.images.size.expect("the size is known"),
            encoder,
            cheaper_encoder,
            batches,
            micro_batches: parts,
            bytes: memory.slot_bytes + memory.state_bytes + memory.constant_bytes + parts as u64 * memory.feed_bytes,
            flops: parts as u64 * step.steps.iter().map(|step| step.flops).sum::<u64>(),
            on_cpu: self.device.is_cpu(),
        })
    }
}

/// The training settings of a configuration, without the number of micro-batches.
fn uncut(config: &RunConfig) -> Training {
    Training { micro_batches: None, ..config.training.clone() }
}

/// A step of as many operations takes about a second on a CPU.
const SLOW_ON_CPU: u64 = 100_000_000_000;

/// What the user should know before training, one fact per line.
impl fmt::Display for Fitted {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Cost {
            size: Size { height, width },
            encoder,
            batches: [batch, batch_val],
            micro_batches,
            bytes,
            flops,
            on_cpu,
            ..
        } = &self.cost;
        let gflop = *flops as f64 / 1e9;
        let digits = usize::from(gflop < 10.0);
        write!(f, "cost     images of {width}×{height} pixels, encoder {encoder}; ")?;
        if *flops == 0 {
            return f.write_str("nothing is trained");
        }
        write!(
            f,
            "a step of {batch} + {batch_val} images takes {gflop:.digits$} GFLOP and {} on the device",
            units::bytes(*bytes)
        )?;
        if let Some(limit) = self.cut {
            let [part, part_val] = [batch, batch_val].map(|batch| batch / micro_batches);
            write!(
                f,
                "\nnote     the step is split into {micro_batches} micro-batches of {part} + {part_val} images: this device \
                 binds at most {}",
                units::bytes(limit)
            )?;
        }
        if *on_cpu && *flops >= SLOW_ON_CPU {
            let cheaper = self.cost.cheaper_encoder.map(|name| format!(" or --encoder {name}")).unwrap_or_default();
            write!(
                f,
                "\nnote     a step of {gflop:.0} GFLOP is slow on this CPU driver: a smaller --size{cheaper} is faster"
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_step_on_a_cpu_is_noted() {
        let cost = Cost {
            size: Size::square(256),
            encoder: "a deep one",
            cheaper_encoder: Some("another"),
            batches: [32, 64],
            micro_batches: 4,
            bytes: 2 << 30,
            flops: 3_918_000_000_000,
            on_cpu: true,
        };
        let fitted = Fitted { config: RunConfig::default(), cost, cut: Some(128 << 20) };
        let expected = "cost     images of 256×256 pixels, encoder a deep one; a step of 32 + 64 images takes 3918 GFLOP and \
                        2.0 GiB on the device\n\
                        note     the step is split into 4 micro-batches of 8 + 16 images: this device binds at most 128.0 MiB\n\
                        note     a step of 3918 GFLOP is slow on this CPU driver: a smaller --size or --encoder another is faster";
        assert_eq!(fitted.to_string(), expected);
        let mut on_gpu = fitted;
        (on_gpu.cost.on_cpu, on_gpu.cut) = (false, None);
        assert_eq!(on_gpu.to_string().lines().count(), 1);
    }
}
