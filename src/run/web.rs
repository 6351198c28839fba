//! A detector as one HTML file: the scorer's and the heat map's plans as JSON, their WGSL, the weights, and what runs them on a
//! browser's WebGPU. The page needs no server and its content policy lets it fetch nothing.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use base64::prelude::{BASE64_STANDARD, Engine};
use serde::Serialize;

use crate::data::{Channels, Conversion, Levels, Resize, Size};
use crate::engine::kernel::DeviceClass;
use crate::engine::plan::{Operand, Place, Plan, Step};
use crate::engine::shaders::{SpecialiseError, in_place, portable, specialise};
use crate::run::model::Model;
use crate::run::store;
use crate::ssad::method::Method;
use crate::training::score::LedoitWolf;
use crate::training::scorer::{Attributor, LEAST, Scorer, VIEWS, batch};

const PAGE: &str = include_str!("web/page.html");
/// What the page is put together from. The first two know nothing of the page.
const PARTS: [(&str, &str); 4] = [
    ("/* detector.js */", include_str!("web/detector.js")),
    ("/* picture.js */", include_str!("web/picture.js")),
    ("/* page.js */", include_str!("web/page.js")),
    ("/* style.css */", include_str!("web/style.css")),
];

/// Most images that the page scores at once.
const MOST: usize = 4;
/// Bytes of the largest buffer that every WebGPU device can bind.
const LARGEST: u64 = 128 << 20;

/// Why a model cannot be a page.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    #[error(
        "the detector scores images in tiles of {0}, which the page does not: use stssad predict, or train without --tiles"
    )]
    Tiles(Size),
    #[error(
        "the detector reads {0} stored channels, and a browser gives grey or RGB: use stssad predict, or train with \
         --channels grey or rgb"
    )]
    Channels(Channels),
    #[error(
        "{what} of the plan has {bytes} bytes, more than the {LARGEST} that every browser can bind: use stssad predict, or \
         train with a smaller --size"
    )]
    TooLarge { what: String, bytes: u64 },
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Shader(#[from] SpecialiseError),
}

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
    /// WGSL by hash.
    shaders: BTreeMap<String, String>,
    /// Little-endian f32 in base64, by the names of the plans' buffers.
    weights: BTreeMap<String, String>,
}

/// Mean and root of a [`LedoitWolf`]: little-endian f64 in base64.
#[derive(Serialize)]
struct Fit {
    mean: String,
    root: String,
}

/// A plan as the page runs it.
#[derive(Serialize)]
struct WebPlan {
    /// Bytes by name.
    buffers: BTreeMap<String, u64>,
    constants: BTreeMap<String, String>,
    steps: Vec<WebStep>,
    /// Buffer, offset and bytes.
    fetches: Vec<(String, u64, u64)>,
}

#[derive(Serialize)]
struct WebStep {
    kernel: &'static str,
    shader: String,
    /// Binding, buffer, offset and bytes; the output is the last.
    bindings: Vec<(usize, String, u64, u64)>,
    /// The immediates' words.
    numbers: Vec<u32>,
    workgroups: [u32; 3],
}

/// Writes the page of a model whole or not at all.
///
/// # Errors
/// As [`page`], and when the file cannot be written.
///
/// # Panics
/// As [`page`].
pub fn save(model: &Model, path: &Path) -> Result<(), WebError> {
    let page = page(model)?;
    store::write(path, page.as_bytes()).map_err(|source| WebError::Write { path: path.into(), source })
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
    let largest = |plans: &[Plan; 2]| plans.iter().map(Plan::largest).max_by_key(|&(_, bytes)| bytes);
    let bytes_of = |plans: &[Plan; 2]| largest(plans).map_or(0, |(_, bytes)| bytes);
    let (batch, plans) = batch(LEAST..=MOST, LARGEST, plans, bytes_of);
    if let Some((what, bytes)) = largest(&plans).filter(|&(_, bytes)| bytes > LARGEST) {
        return Err(WebError::TooLarge { what, bytes });
    }
    let mut shaders = BTreeMap::new();
    let explaining = model.explaining();
    let states = model.states.iter().chain(&explaining);
    let read = |name: &str| plans.iter().any(|plan| plan.states.iter().any(|(state, _)| **state == *name));
    let states = states.filter(|(name, _)| read(name));
    let weights = states.map(|(name, tensor)| (Place::State(name.as_str().into()).to_string(), base64(tensor.data())));
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
        weights: weights.collect(),
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
    let json = serde_json::to_string(&exported).expect("numbers and text are JSON");
    let page = PARTS.iter().fold(PAGE.to_owned(), |page, (mark, text)| page.replacen(mark, text, 1));
    // Nothing in the JSON ends its element.
    Ok(page.replacen("{/* model */}", &json.replace("</", "<\\/").replace("<!--", "<\\u0021--"), 1))
}

fn web_plan(plan: &Plan, shaders: &mut BTreeMap<String, String>) -> Result<WebPlan, SpecialiseError> {
    let slots = plan.slots.iter().enumerate().map(|(slot, &bytes)| (Place::Slot(slot), bytes));
    let feeds = plan.feeds.iter().map(|(name, shape)| (Place::Feed(name.clone()), shape.bytes()));
    let states = plan.states.iter().map(|(name, shape)| (Place::State(name.clone()), shape.bytes()));
    let constants = || plan.constants.iter().enumerate().map(|(index, tensor)| (Place::Constant(index), tensor));
    let sized = constants().map(|(place, tensor)| (place, tensor.shape().bytes()));
    let buffers = slots.chain(feeds).chain(states).chain(sized).map(|(place, bytes)| (place.to_string(), bytes));
    let steps = plan.steps.iter().map(|step| web_step(step, shaders));
    Ok(WebPlan {
        buffers: buffers.collect(),
        constants: constants().map(|(place, tensor)| (place.to_string(), base64(tensor.data()))).collect(),
        steps: steps.collect::<Result<_, _>>()?,
        fetches: plan.fetches.iter().map(|fetch| (fetch.place.to_string(), fetch.offset, fetch.bytes())).collect(),
    })
}

/// As the executor binds it, with the immediates in a uniform.
fn web_step(step: &Step, shaders: &mut BTreeMap<String, String>) -> Result<WebStep, SpecialiseError> {
    let inputs = step.in_place();
    let text = portable(&in_place(&specialise(&step.kernel)?, &inputs, step.inputs.len()));
    // Comments are a quarter of the page; they can be read in the project's shaders.
    let lines = text.lines().filter(|line| !line.is_empty() && !line.trim_start().starts_with("//"));
    let text = lines.collect::<Vec<_>>().join("\n");
    let shader = blake3::hash(text.as_bytes()).to_hex()[..12].to_owned();
    shaders.insert(shader.clone(), text);
    let operands = step.inputs.iter().chain([&step.output]).enumerate();
    let bound =
        |(binding, operand): (usize, &Operand)| (binding, operand.place.to_string(), operand.offset, operand.bytes());
    Ok(WebStep {
        kernel: step.kernel.name,
        shader,
        bindings: operands.filter(|(binding, _)| !inputs.contains(binding)).map(bound).collect(),
        numbers: step.kernel.immediates.iter().map(|(_, value)| value.to_bits()).collect(),
        workgroups: step.kernel.workgroups(),
    })
}

/// Numbers as browsers hold them: every device that has WebGPU is little-endian.
fn base64<T: bytemuck::NoUninit>(values: &[T]) -> String {
    BASE64_STANDARD.encode(bytemuck::cast_slice::<T, u8>(values))
}
