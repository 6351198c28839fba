//! The page that scores images with a trained detector.

use std::collections::BTreeMap;

use serde::Serialize;

use super::plan::{LARGEST, Shaders, WebPlan, base64, check, largest, states, web_plan};
use super::{WebError, assembled};
use crate::data::{Channels, Conversion, Levels, Resize};
use crate::engine::kernel::DeviceClass;
use crate::engine::plan::Plan;
use crate::run::model::Model;
use crate::ssad::method::Method;
use crate::training::score::LedoitWolf;
use crate::training::scorer::{Attributor, LEAST, Scorer, VIEWS, batch};

const PAGE: &str = include_str!("detector.html");
const DETECTOR: &str = include_str!("detector.js");
const PICTURE: &str = include_str!("picture.js");
const SCRIPT: &str = include_str!("detector-page.js");

/// Most images that the page scores at once.
const MOST: usize = 4;

/// What the page's scripts read.
#[derive(Serialize)]
struct Exported<'a> {
    method: Method,
    fingerprint: &'a str,
    /// `[C, H, W]`.
    image: [usize; 3],
    resize: Resize,
    /// Of black and white in 16 bit images.
    levels: [u16; 2],
    threshold: Option<f64>,
    /// Scores of normal images that were held out of training.
    held_out: &'a [f64],
    /// Images in a batch of both plans.
    batch: usize,
    fit: Option<Fit>,
    scorer: WebPlan,
    attributor: WebPlan,
    /// `[P, Q]` of the maps that the attributor fetches, and the views of an image along each axis that they are taken from.
    places: [usize; 2],
    views: usize,
    shaders: Shaders,
    /// Little-endian f32 in base64, by the names of the plans' buffers.
    weights: BTreeMap<String, String>,
}

/// Mean and root of a [`LedoitWolf`]: little-endian f64 in base64.
#[derive(Serialize)]
struct Fit {
    mean: String,
    root: String,
}

/// The page that scores images with a model.
///
/// # Errors
/// When the model's images come in tiles or in stored channels, or a buffer is larger than every browser can bind.
///
/// # Panics
/// When the model is invalid; one that was trained or loaded is valid.
pub fn page(model: &Model) -> Result<String, WebError> {
    if let Some(tiles) = model.config.images.tiles {
        return Err(WebError::Tiles(tiles));
    }
    let Conversion { channels, resize, levels, .. } = model.conversion();
    if let Channels::Stored(_) = channels {
        return Err(WebError::Channels(channels));
    }
    let (network, distance) = (model.network(), model.distance());
    let class = DeviceClass::Gpu;
    let plans = |batch| {
        let (scorer, _) = Scorer::plan(class, &network, model.image, batch);
        let (attributor, _) = Attributor::plan(class, &network, model.image, batch, distance.is_some());
        [scorer, attributor]
    };
    let bytes_of = |plans: &[Plan; 2]| largest(plans).1;
    let (batch, plans) = batch(LEAST..=MOST, LARGEST, plans, bytes_of);
    check(&plans)?;
    let mut shaders = Shaders::new();
    let explaining = model.explaining();
    let exported = Exported {
        method: model.config.method,
        fingerprint: &model.fingerprint,
        image: model.image,
        resize,
        levels: match levels {
            Levels::Between(black, white) => [black, white],
            Levels::Auto => [0, u16::MAX],
        },
        threshold: model.threshold.map(|threshold| threshold.score),
        held_out: &model.held_out,
        batch,
        fit: distance.map(LedoitWolf::parts).map(|(mean, root)| Fit { mean: base64(mean), root: base64(root) }),
        weights: states(&plans, model.states.iter().chain(&explaining)),
        places: plans[1].fetches[0]
            .shape
            .images()
            .map(|[_, _, rows, columns]| [rows, columns])
            .expect("a map of each image"),
        views: VIEWS,
        scorer: web_plan(&plans[0], &mut shaders)?,
        attributor: web_plan(&plans[1], &mut shaders)?,
        shaders,
    };
    Ok(assembled(PAGE, &[("detector.js", DETECTOR), ("picture.js", PICTURE), ("detector-page.js", SCRIPT)], &exported))
}
