//! A trained detector, in one file with everything that scoring images needs.

use std::path::Path;

use crate::data::{Channels, Conversion, DataError, Images, Levels, Loading, Size};
use crate::engine::gpu::{Device, GpuError, States};
use crate::engine::tensor::Tensor;
use crate::run::archive::{Archive, ArchiveError, Numbers};
use crate::run::checkpoint::{fit_numbers, take_fit};
use crate::run::config::RunConfig;
use crate::ssad::method::{Network, REFERENCE, WHITENING};
use crate::training::conformal::Threshold;
use crate::training::score::LedoitWolf;
use crate::training::scorer::{Attributor, BATCH, Scorer};
use crate::training::trainer::Trained;

const KIND: &str = "model";

/// A trained detector.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// The configuration that it was trained with; includes the conversion of its images.
    pub config: RunConfig,
    /// `[C, H, W]` of its images.
    pub image: [usize; 3],
    /// Fingerprint of the data that it was trained on.
    pub fingerprint: String,
    /// The augmentation's raw coordinates.
    pub a: Vec<f32>,
    /// The distance that scores embeddings; `None` if the network gives the score itself, or the embeddings give no distance and
    /// the score is the logit.
    pub fit: Option<LedoitWolf>,
    /// The score from which an image counts as an anomaly, set on normal images that were held out of training. `None` if there
    /// were none.
    pub threshold: Option<Threshold>,
    /// The scores of these images; empty in models of earlier versions.
    pub held_out: Vec<f64>,
    /// Parameters and running statistics, by name.
    pub states: Vec<(String, Tensor)>,
}

impl Model {
    /// The model of a trained start, without a threshold.
    pub fn new(config: &RunConfig, image: [usize; 3], fingerprint: &str, trained: &Trained) -> Self {
        Model {
            config: config.clone(),
            image,
            fingerprint: fingerprint.to_owned(),
            a: trained.end.clone(),
            fit: trained.fit.clone(),
            threshold: None,
            held_out: Vec::new(),
            states: trained.states.clone(),
        }
    }

    /// How images are converted for the model.
    pub fn conversion(&self) -> Conversion {
        let [channels, height, width] = self.image;
        let Loading { resize, levels, channels: asked, .. } = self.config.images;
        let channels = match asked {
            Some(stored @ Channels::Stored(_)) => stored,
            _ if channels == 1 => Channels::Grey,
            _ => Channels::Rgb,
        };
        Conversion { size: Size { height, width }, channels, resize, levels: levels.unwrap_or(Levels::FULL) }
    }

    /// Writes the model whole or not at all.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), ArchiveError> {
        let mut archive = Archive::new(KIND);
        archive.texts.insert("config".into(), self.config.to_toml());
        archive.texts.insert("fingerprint".into(), self.fingerprint.clone());
        for (name, tensor) in &self.states {
            archive.numbers.insert(format!("state/{name}"), Numbers::Single(tensor.clone()));
        }
        archive.numbers.insert("a".into(), Numbers::Single(Tensor::new([self.a.len()], self.a.clone())));
        let mut double = |name: &str, values: Vec<f64>| archive.numbers.insert(name.into(), Numbers::Double(values));
        // The rate that was asked for is in the configuration.
        if let Some(Threshold { score, held_out, exceeded, .. }) = self.threshold {
            double("threshold", vec![score, held_out as f64, exceeded as f64]);
        }
        if !self.held_out.is_empty() {
            double("held_out", self.held_out.clone());
        }
        double("image", self.image.iter().map(|&extent| extent as f64).collect());
        for (name, values) in self.fit.iter().flat_map(fit_numbers) {
            double(name, values);
        }
        archive.write(path)
    }

    /// Reads a model.
    ///
    /// # Errors
    /// When the file cannot be read, or is not a valid model.
    pub fn load(path: &Path) -> Result<Self, ArchiveError> {
        let archive = Archive::read(path, KIND)?;
        Self::from_archive(archive).map_err(|reason| ArchiveError::Damaged { path: path.into(), reason })
    }

    fn from_archive(mut archive: Archive) -> Result<Self, String> {
        let config = RunConfig::parse(&archive.take_text("config")?).map_err(|error| error.to_string())?;
        let image = archive.take_double("image")?;
        let &[c, h, w] = &image[..] else { return Err("its image is malformed".into()) };
        let image = [c, h, w].map(|extent| extent as usize);
        let threshold = match archive.numbers.contains_key("threshold") {
            true => {
                let [score, held_out, exceeded] = match archive.take_double("threshold")?[..] {
                    [score, held_out, exceeded] => [score, held_out, exceeded],
                    // Earlier versions took it on their training images.
                    [score] => [score, 0.0, 0.0],
                    _ => return Err("its threshold is malformed".into()),
                };
                let [held_out, exceeded] = [held_out, exceeded].map(|count| count as usize);
                Some(Threshold { score, held_out, exceeded, asked: config.false_alarms })
            }
            false => None,
        };
        let held_out = match archive.numbers.contains_key("held_out") {
            true => archive.take_double("held_out")?,
            false => Vec::new(),
        };
        let fit = take_fit(&mut archive, "")?;
        let model = Model {
            image,
            fingerprint: archive.take_text("fingerprint")?,
            a: archive.take_single("a")?.into_data(),
            fit,
            threshold,
            held_out,
            states: archive.take_group("state/"),
            config,
        };
        archive.end()?;
        model.check_states().map(|()| model)
    }

    /// Checks that the states and the score are those of the configuration.
    fn check_states(&self) -> Result<(), String> {
        let network = self.configured().map_err(|error| error.to_string())?;
        let needs_fit = network.scores_by_distance(self.config.score);
        if needs_fit && self.fit.is_none() || self.fit.is_some() && !network.has_distance() {
            return Err("its score does not match its method".into());
        }
        if self.fit.as_ref().is_some_and(|fit| fit.parts().0.len() != network.features()) {
            return Err("its score is of another encoder".into());
        }
        for (name, shape) in network.state_shapes() {
            match self.states.iter().find(|(found, _)| *found == name) {
                None => return Err(format!("the state `{name}` is missing")),
                Some((_, tensor)) if *tensor.shape() != shape => {
                    return Err(format!("`{name}` has shape {:?} where {shape:?} is expected", tensor.shape()));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// The distance that scores embeddings, if the score is a distance.
    pub(crate) fn distance(&self) -> Option<&LedoitWolf> {
        self.fit.as_ref().filter(|_| self.network().scores_by_distance(self.config.score))
    }

    /// What heat maps read beside the model's states, by name. The mean embedding of the training images stands for a normal image; the
    /// origin does where the embeddings have no distance.
    pub(crate) fn explaining(&self) -> Vec<(String, Tensor)> {
        let network = self.network();
        if !network.has_distance() {
            return Vec::new();
        }
        let features = network.features();
        let single = |values: &[f64]| values.iter().map(|&value| value as f32).collect();
        let mean = self.fit.as_ref().map_or_else(|| vec![0.0; features], |fit| single(fit.parts().0));
        let whitening = self.distance().map(|fit| Tensor::new([features, features], single(&fit.whitening())));
        let reference = (REFERENCE.to_owned(), Tensor::new([1, features], mean));
        whitening.map(|whitening| (WHITENING.to_owned(), whitening)).into_iter().chain([reference]).collect()
    }

    /// Its network.
    ///
    /// # Panics
    /// When the model is invalid; one that was trained or loaded is valid.
    pub(crate) fn network(&self) -> Network {
        self.configured().expect("a model's configuration was held against its states")
    }

    fn configured(&self) -> Result<Network, crate::run::config::ConfigError> {
        // The network does not depend on the sizes of the sets.
        let config = self.config.training(self.image, usize::MAX, usize::MAX)?;
        Ok(Network::new(config.method, &config.detector, self.image))
    }
}

/// A model's results for images.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    pub scores: Vec<f64>,
    /// The head's logits, a second score, for methods with a head.
    pub logits: Option<Vec<f64>>,
}

/// A model on a device.
#[derive(Debug)]
pub struct Predictor<'a> {
    image: [usize; 3],
    /// As [`Model::distance`], which is not looked up for every batch.
    distance: Option<&'a LedoitWolf>,
    device: Device,
    network: Network,
    states: States,
    /// The last scorer, and its batch size.
    scorer: Option<(usize, Scorer)>,
    /// The same for heat maps.
    attributor: Option<(usize, Attributor)>,
}

impl<'a> Predictor<'a> {
    /// Puts a model on a device.
    ///
    /// # Errors
    /// When the device refuses.
    ///
    /// # Panics
    /// When the model is invalid; one that was trained or loaded is valid.
    pub fn new(device: &Device, model: &'a Model) -> Result<Self, GpuError> {
        let network = model.network();
        let mut states = States::new(device);
        for (name, tensor) in model.states.iter().chain(&model.explaining()) {
            states.set(name, tensor)?;
        }
        let (image, distance) = (model.image, model.distance());
        Ok(Predictor { image, distance, device: device.clone(), network, states, scorer: None, attributor: None })
    }

    /// Scores images `[N, C, H, W]`. A score may be infinite or NaN.
    ///
    /// # Errors
    /// When the device fails.
    pub fn judge(&mut self, images: &Tensor) -> Result<Judgement, GpuError> {
        let most = at_once(images);
        let scorer = reused(self.scorer.take(), most, || {
            Scorer::new(&self.device, &self.network, self.image, most, &self.states)
        })?;
        let (_, scorer) = self.scorer.insert(scorer);
        let readings = scorer.read(images)?;
        let scores = readings.scores(self.distance);
        let logits = self.network.has_logit().then_some(readings.direct);
        Ok(Judgement { scores, logits })
    }

    /// Scores all images, and calls `each` with the judgement of each batch.
    ///
    /// # Errors
    /// When an image cannot be read, or the device fails.
    pub fn judge_all<E: From<DataError> + From<GpuError>>(
        &mut self,
        images: &Images,
        mut each: impl FnMut(Judgement),
    ) -> Result<(), E> {
        images.for_each_batch(BATCH, |_, batch| {
            each(self.judge(&batch)?);
            Ok(())
        })
    }

    /// Heat maps `[N, 1, H, W]` of images `[N, C, H, W]`: what each pixel contributes to the score, as [`Attributor::attribute`] has it.
    ///
    /// # Errors
    /// When the device fails.
    pub fn heat(&mut self, images: &Tensor) -> Result<Tensor, GpuError> {
        let (device, image) = (&self.device, self.image);
        let (most, by_distance) = (at_once(images), self.distance.is_some());
        let attributor = reused(self.attributor.take(), most, || {
            Attributor::new(device, &self.network, image, most, &self.states, by_distance)
        })?;
        self.attributor.insert(attributor).1.attribute(images)
    }

    /// Calls `each` with the number of the first image, the images and their heat maps, of each batch.
    ///
    /// # Errors
    /// The first of `each`; when an image cannot be read, or the device fails.
    pub fn heat_all<E: From<DataError> + From<GpuError>>(
        &mut self,
        images: &Images,
        mut each: impl FnMut(usize, &Tensor, &Tensor) -> Result<(), E>,
    ) -> Result<(), E> {
        images.for_each_batch(BATCH, |first, batch| each(first, &batch, &self.heat(&batch)?))
    }
}

/// What was made for batches of at least `most` images, else what `make` makes. The last images of many fill no batch, which is
/// cheaper than pipelines for a smaller one.
fn reused<T>(
    last: Option<(usize, T)>,
    most: usize,
    make: impl FnOnce() -> Result<T, GpuError>,
) -> Result<(usize, T), GpuError> {
    match last {
        Some(large) if large.0 >= most => Ok(large),
        _ => Ok((most, make()?)),
    }
}

/// Batch size for these images, if the device can bind it.
fn at_once(images: &Tensor) -> usize {
    images.shape()[0].clamp(1, BATCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::philox::Stream;

    fn model() -> Model {
        let config = RunConfig { false_alarms: 0.02, ..RunConfig::default() };
        let mut model = Model {
            config,
            image: [1, 28, 28],
            fingerprint: "f00d".into(),
            a: vec![0.5],
            fit: LedoitWolf::from_parts(vec![0.0; 32], identity(32), 0.0),
            threshold: Some(Threshold { score: 1.5, held_out: 12, exceeded: 0, asked: 0.02 }),
            held_out: vec![0.5, 1.5],
            states: Vec::new(),
        };
        let network = model.network();
        model.states = network.parameters(&mut Stream::new(1, 0));
        model.states.extend(network.statistics().into_iter().flatten());
        model.states.sort_by(|(one, _), (other, _)| one.cmp(other));
        model
    }

    fn identity(size: usize) -> Vec<f64> {
        (0..size * size).map(|index| if index % (size + 1) == 0 { 1.0 } else { 0.0 }).collect()
    }

    #[test]
    fn a_model_is_read_with_or_without_a_threshold_and_from_an_earlier_version() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        for threshold in [model().threshold, None] {
            let model = Model { threshold, ..model() };
            model.save(&path).unwrap();
            assert_eq!(Model::load(&path).unwrap(), model);
        }
        model().save(&path).unwrap();
        let mut earlier = Archive::read(&path, KIND).unwrap();
        earlier.numbers.insert("threshold".into(), Numbers::Double(vec![2.5]));
        let threshold = Threshold { score: 2.5, held_out: 0, exceeded: 0, asked: 0.02 };
        assert_eq!(Model::from_archive(earlier.clone()).unwrap().threshold, Some(threshold));
        earlier.numbers.insert("threshold".into(), Numbers::Double(vec![2.5, 1.0]));
        assert_eq!(Model::from_archive(earlier).unwrap_err(), "its threshold is malformed");
    }
}
