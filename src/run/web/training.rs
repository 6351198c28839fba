//! The page that trains a detector while the visitor watches.

use std::collections::BTreeMap;

use serde::Serialize;

use super::plan::{Shaders, WebPlan, base64, buffer_of_state, check, states, web_plan};
use super::{WebError, assembled};
use crate::data::{Images, Task};
use crate::engine::kernel::{DeviceClass, Precision};
use crate::ssad::config::Config;
use crate::ssad::method::Network;
use crate::ssad::nn::Adam;
use crate::ssad::step::{ADAM_A, ADAM_THETA, TrainingStep, initial_states, views};
use crate::training::scorer::Scorer;

const PAGE: &str = include_str!("training.html");
const TRAINER: &str = include_str!("trainer.js");
const SCRIPT: &str = include_str!("training-page.js");

/// Images that the page scores at once, and augments to show them.
const SCORED: usize = 50;
const SHOWN: usize = 6;

/// What the page's scripts read.
#[derive(Serialize)]
struct Exported<'a> {
    /// `[C, H, W]`.
    image: [usize; 3],
    /// Levels of all images in base64, 8 bits each.
    train: String,
    unlabelled: String,
    /// What each unlabelled image is. The page looks at it after training, for the AUROC.
    anomalous: Vec<bool>,
    batch: usize,
    batch_val: usize,
    steps: usize,
    warm_up: usize,
    learning_rate: f64,
    adam: Rates,
    /// Raw coordinates to start from.
    a: &'a [f32],
    plain: WebPlan,
    tuning: WebPlan,
    augmented: WebPlan,
    shown: usize,
    scorer: WebPlan,
    scored: usize,
    /// Each of the scorer's parameters as a part of a state of the step: the two buffers, the offset in the latter and the bytes.
    parameters: Vec<(String, String, usize, usize)>,
    shaders: Shaders,
    /// Little-endian f32 in base64, by the names of the plans' buffers. Moments begin with 0 and are left out.
    states: BTreeMap<String, String>,
}

/// β₁ and β₂.
#[derive(Serialize)]
struct Rates {
    theta: [f32; 2],
    a: [f32; 2],
}

/// The page that trains `config`'s first start on a task whose test images are the unlabelled ones. The step is that of
/// [`Trainer`](crate::training::trainer::Trainer); batches are drawn by the browser.
///
/// # Errors
/// When an image cannot be read, the step has no gradient, or a buffer is larger than every browser can bind.
///
/// # Panics
/// When the configuration is not of one start that is tuned by one angle, on whole batches, or the task has no labels.
pub fn page(config: &Config, task: &Task) -> Result<String, WebError> {
    assert!(matches!(config.starts[..], [ref start] if start.len() == 1), "the page shows one angle");
    assert_eq!(config.micro_batches, 1, "the page feeds whole batches");
    let (visible, class) = (task.visible(), DeviceClass::Gpu);
    let [_, c, h, w] = visible.train.shape();
    let image = [c, h, w];
    let network = Network::new(config.method, &config.detector, image);
    let step = TrainingStep::record_for(Precision::F32, config, image)?;
    let [augmented, ..] = views(config, &network, image, SHOWN);
    let plans = [
        step.plain_plan(class, config.reuse),
        step.tuning_plan(class, config.reuse).expect("the angle is tuned"),
        augmented.expect("the angle is one of an augmentation").plan(class),
        Scorer::plan(class, &network, image, SCORED).0,
    ];
    check(&plans)?;
    let mut initial = initial_states(config, &network, 0);
    initial.retain(|(_, tensor)| tensor.data().iter().any(|&value| value != 0.0));
    let parameters = step.packed.places().map(|(name, packed, range)| {
        (buffer_of_state(name), buffer_of_state(packed), 4 * range.start, 4 * range.len())
    });
    let mut shaders = Shaders::new();
    let states = states(&plans, &initial);
    let betas = |adam: Adam| [adam.beta_1, adam.beta_2];
    let [plain, tuning, augmented, scorer] = plans.map(|plan| web_plan(&plan, &mut shaders));
    let exported = Exported {
        image,
        train: levels(visible.train)?,
        unlabelled: levels(visible.val)?,
        anomalous: task.test.labels().expect("the task has labels"),
        batch: config.batch,
        batch_val: config.batch_val,
        steps: config.steps,
        warm_up: config.warm_up,
        learning_rate: config.rate,
        adam: Rates { theta: betas(ADAM_THETA), a: betas(ADAM_A) },
        a: &config.starts[0],
        plain: plain?,
        tuning: tuning?,
        augmented: augmented?,
        shown: SHOWN,
        scorer: scorer?,
        scored: SCORED,
        parameters: parameters.collect(),
        shaders,
        states,
    };
    Ok(assembled(PAGE, &[("trainer.js", TRAINER), ("training-page.js", SCRIPT)], &exported))
}

/// Levels of 0 to 255 in base64.
fn levels(images: &Images) -> Result<String, WebError> {
    let levels: Vec<u8> = images.all()?.data().iter().map(|level| (255.0 * level).round() as u8).collect();
    Ok(base64(&levels))
}
