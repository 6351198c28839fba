//! The encoders: what turns images into feature maps.
//!
//! An encoder is a type whose [`record`](Encoder::record) applies its layers, and a row of [`ENCODERS`], by which configurations
//! call it. Its parameters, their names and shapes, and the running statistics follow from the layers.
//!
//! ```
//! use std::sync::Arc;
//!
//! use stssad::engine::tape::{Tape, Value};
//! use stssad::ssad::nn::{Detector, Encoder, Layers, Statistics};
//!
//! /// Two convolutions, the second beside a shortcut.
//! #[derive(Debug)]
//! struct Shortcut;
//!
//! impl Encoder for Shortcut {
//!     fn record(&self, t: &mut Tape, layers: &mut Layers, x: Value) -> Value {
//!         let h = layers.scope(t, "first", |t, layers| {
//!             let h = layers.convolution(t, x, [16, 3, 2]);
//!             t.relu(h)
//!         });
//!         layers.scope(t, "second", |t, layers| {
//!             let residual = layers.convolution(t, h, [16, 3, 1]);
//!             let sum = t.add(residual, h);
//!             t.relu(sum)
//!         })
//!     }
//! }
//!
//! let detector = Detector::new(3, Arc::new(Shortcut), vec![32]);
//! let names: Vec<String> = detector.declared().parameters.into_iter().map(|parameter| parameter.name).collect();
//! assert_eq!(names[..3], ["encoder.first.kernel", "encoder.first.gamma", "encoder.first.beta"]);
//! assert_eq!(detector.features(), 16);
//! ```

use std::fmt;
use std::sync::Arc;

use super::{Detector, Layers};
use crate::engine::tape::{Tape, Value};
use crate::engine::tensor::Tensor;

/// What turns images into feature maps, of which a detector takes the mean over all places.
pub trait Encoder: fmt::Debug + Send + Sync {
    /// Feature maps `[N, G · F, P, Q]` of G networks side by side, from their images x `[N, G · C, H, W]`.
    fn record(&self, t: &mut Tape, layers: &mut Layers, x: Value) -> Value;
}

/// A detector as configurations call it.
#[derive(Clone, Copy, Debug)]
pub struct Named {
    pub name: &'static str,
    /// What it is, in a sentence without its full stop.
    pub about: &'static str,
    /// The detector for images of so many channels and of `[height, width]`.
    pub detector: fn(usize, [usize; 2]) -> Detector,
}

/// Every encoder that a configuration can ask for, with the head that goes with it; the cheapest first.
pub static ENCODERS: &[Named] = &[
    Named { name: "small", about: "three convolutions", detector: |channels, _| Detector::small(channels) },
    Named {
        name: "resnet18",
        about: "ResNet-18 from scratch; up to 64 pixels without its first reductions",
        detector: Detector::resnet18,
    },
];

/// The side of an image in pixels up to which `small` is chosen where a configuration leaves the choice open.
const SMALL: usize = 64;

impl Named {
    /// The encoder that computes the least.
    pub fn cheapest() -> &'static Named {
        &ENCODERS[0]
    }

    /// The encoder of this name, or the one for images of this size where there is no name.
    ///
    /// # Errors
    /// The names that there are, when this is none of them.
    pub fn find(name: Option<&str>, [height, width]: [usize; 2]) -> Result<&'static Named, Vec<&'static str>> {
        let name = name.unwrap_or(if height.max(width) > SMALL { "resnet18" } else { "small" });
        let found = ENCODERS.iter().find(|known| known.name == name);
        found.ok_or_else(|| ENCODERS.iter().map(|known| known.name).collect())
    }
}

/// One 3 × 3 convolution of a plain encoder, followed by batch norm and ReLU.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stage {
    pub channels: usize,
    pub stride: usize,
}

/// 3 × 3 convolutions one after another.
#[derive(Clone, Debug, PartialEq)]
pub struct Plain(pub Vec<Stage>);

impl Encoder for Plain {
    fn record(&self, t: &mut Tape, layers: &mut Layers, x: Value) -> Value {
        self.0.iter().enumerate().fold(x, |h, (index, stage)| {
            layers.scope(t, &index.to_string(), |t, layers| {
                let h = layers.convolution(t, h, [stage.channels, 3, stage.stride]);
                t.relu(h)
            })
        })
    }
}

/// The first layer of a ResNet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stem {
    /// A 3 × 3 convolution at full resolution: for images of up to 64 pixels.
    Small,
    /// A 7 × 7 convolution of stride 2, then maxima over 3 × 3 windows of stride 2.
    Large,
}

/// ResNet-18 (He et al., arXiv 1512.03385): after the stem four stages of two basic blocks each, of `width`, 2 · `width`, 4 · `width`
/// and 8 · `width` channels; the original's width is 64.
#[derive(Clone, Debug, PartialEq)]
pub struct ResNet18 {
    pub width: usize,
    pub stem: Stem,
    /// Stages that are computed; the original has [`STAGES`](ResNet18::STAGES).
    pub stages: usize,
}

impl ResNet18 {
    /// Stages of the original.
    pub const STAGES: usize = 4;

    /// For images of this `[height, width]`.
    pub fn for_images(size: [usize; 2]) -> Self {
        let stem = if size.iter().all(|&extent| extent <= SMALL) { Stem::Small } else { Stem::Large };
        ResNet18 { width: 64, stem, stages: ResNet18::STAGES }
    }
}

impl Encoder for ResNet18 {
    fn record(&self, t: &mut Tape, layers: &mut Layers, x: Value) -> Value {
        let mut convolution = |t: &mut Tape, name: &str, x: Value, shape: [usize; 3], is_active: bool| {
            layers.scope(t, name, |t, layers| {
                let y = layers.convolution(t, x, shape);
                if is_active { t.relu(y) } else { y }
            })
        };
        let (window, stride) = if self.stem == Stem::Large { (7, 2) } else { (3, 1) };
        let mut h = convolution(t, "stem", x, [self.width, window, stride], true);
        if self.stem == Stem::Large {
            h = t.scope("stem", |t| t.max_pool(h, 3, 2, 1));
        }
        for (stage, block) in (0..self.stages).flat_map(|stage| [0, 1].map(|block| (stage, block))) {
            let (name, channels) = (format!("{stage}.{block}"), self.width << stage);
            // Every stage but the first begins by halving the resolution, and with it the shortcut's.
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            let first = convolution(t, &format!("{name}.first"), h, [channels, 3, stride], true);
            let second = convolution(t, &format!("{name}.second"), first, [channels, 3, 1], false);
            let shortcut = match stride {
                1 => h,
                _ => convolution(t, &format!("{name}.shortcut"), h, [channels, 1, stride], false),
            };
            h = t.scope(&name, |t| {
                let sum = t.add(second, shortcut);
                t.relu(sum)
            });
        }
        h
    }
}

/// The mean and the deviation of ImageNet's red, green and blue levels, as torchvision and timm normalise images.
const IMAGENET: [[f32; 3]; 2] = [[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]];

/// An encoder of images whose channels are normalised first: (x − mean) / deviation.
#[derive(Clone, Debug, PartialEq)]
pub struct Normalised<E> {
    pub mean: Vec<f32>,
    pub deviation: Vec<f32>,
    pub encoder: E,
}

impl<E> Normalised<E> {
    /// For an encoder that was trained on ImageNet's RGB images.
    pub fn for_imagenet(encoder: E) -> Self {
        let [mean, deviation] = IMAGENET.map(Vec::from);
        Normalised { mean, deviation, encoder }
    }
}

impl<E: Encoder> Encoder for Normalised<E> {
    fn record(&self, t: &mut Tape, layers: &mut Layers, x: Value) -> Value {
        let groups = layers.groups();
        let [mean, deviation] = [&self.mean, &self.deviation]
            .map(|own| t.constant(Tensor::new([1, groups * own.len(), 1, 1], own.repeat(groups))));
        let centred = t.sub(x, mean);
        let normalised = t.div(centred, deviation);
        self.encoder.record(t, layers, normalised)
    }
}

impl Detector {
    /// The first `stages` of ResNet-18 as it is trained on ImageNet, for given weights, with a head of two hidden layers.
    pub fn resnet18_given(stages: usize, frozen: bool) -> Self {
        let encoder = Normalised::for_imagenet(ResNet18 { width: 64, stem: Stem::Large, stages });
        Detector { frozen, ..Detector::new(3, Arc::new(encoder), vec![512, 128]) }
    }

    /// Three 3 × 3 convolutions, for images of about 28 to 64 pixels.
    pub fn small(input_channels: usize) -> Self {
        let stages = [(16, 2), (32, 2), (32, 1)].map(|(channels, stride)| Stage { channels, stride });
        Detector::new(input_channels, Arc::new(Plain(stages.to_vec())), vec![32])
    }

    /// ResNet-18 with 512 features, its stem by the images' `[height, width]`, and a head of two hidden layers.
    pub fn resnet18(input_channels: usize, size: [usize; 2]) -> Self {
        Detector::new(input_channels, Arc::new(ResNet18::for_images(size)), vec![512, 128])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoders_are_listed_by_their_number_of_parameters() {
        let count = |known: &Named| -> usize {
            let declared = (known.detector)(3, [32, 32]).declared();
            declared.parameters.iter().map(|parameter| parameter.shape.iter().product::<usize>()).sum()
        };
        assert!(ENCODERS.iter().map(count).is_sorted());
    }
}
