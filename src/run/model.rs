//! A trained detector as it is kept: everything that scoring images needs, in one file.

use std::path::Path;

use crate::data::{Channels, Conversion};
use crate::engine::gpu::{Device, GpuError, States};
use crate::engine::tensor::Tensor;
use crate::run::archive::{Archive, ArchiveError, Numbers};
use crate::run::checkpoint::{fit_numbers, take_fit};
use crate::run::config::RunConfig;
use crate::ssad::method::Network;
use crate::ssad::method::Rule;
use crate::training::score::{LedoitWolf, Threshold};
use crate::training::scorer::{Attributor, Readings, Scorer};
use crate::training::trainer::Trained;

const KIND: &str = "model";

/// A trained detector.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// What it was trained by; also the conversion of its images.
    pub config: RunConfig,
    /// `[C, H, W]` of the images that it takes.
    pub image: [usize; 3],
    /// Of the data that it was trained on.
    pub fingerprint: String,
    /// The augmentation's raw coordinates.
    pub a: Vec<f32>,
    /// What embeddings are scored by; `None` where the network gives the score itself, or they gave no distance and the score
    /// is the logit.
    pub fit: Option<LedoitWolf>,
    /// From which score on an image counts as an anomaly: no label is asked, but how normal images score that were held out
    /// of training. `None` where there were none.
    pub threshold: Option<Threshold>,
    /// Parameters and running statistics, by name.
    pub states: Vec<(String, Tensor)>,
}

impl Model {
    /// The model that a trained start is, without a threshold.
    pub fn new(config: &RunConfig, image: [usize; 3], fingerprint: &str, trained: &Trained) -> Self {
        Model {
            config: config.clone(),
            image,
            fingerprint: fingerprint.to_owned(),
            a: trained.end.clone(),
            fit: trained.fit.clone(),
            threshold: None,
            states: trained.states.clone(),
        }
    }

    /// How images become what the model takes.
    pub fn conversion(&self) -> Conversion {
        let channels = if self.image[0] == 1 { Channels::Grey } else { Channels::Rgb };
        Conversion { side: self.image[1], channels, resize: self.config.images.resize }
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
        if let Some(Threshold { score, held_out, exceeded }) = self.threshold {
            double("threshold", vec![score, held_out as f64, exceeded as f64]);
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
    /// When the file cannot be read, or is not exactly a model as this version writes it.
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
            true => Some(match archive.take_double("threshold")?[..] {
                [score, held_out, exceeded] => {
                    Threshold { score, held_out: held_out as usize, exceeded: exceeded as usize }
                }
                // Earlier versions took it on their training images.
                [score] => Threshold { score, held_out: 0, exceeded: 0 },
                _ => return Err("its threshold is malformed".into()),
            }),
            false => None,
        };
        let fit = take_fit(&mut archive, "")?;
        let model = Model {
            image,
            fingerprint: archive.take_text("fingerprint")?,
            a: archive.take_single("a")?.into_data(),
            fit,
            threshold,
            states: archive.take_group("state/"),
            config,
        };
        archive.end()?;
        model.check_states().map(|()| model)
    }

    /// Holds the states against those that the configuration asks for.
    fn check_states(&self) -> Result<(), String> {
        let network = self.network().map_err(|error| error.to_string())?;
        let needs_fit = network.scores_by_distance() && self.config.score == Rule::Distance;
        if needs_fit && self.fit.is_none() || self.fit.is_some() && !network.scores_by_distance() {
            return Err("its score does not fit its method".into());
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

    /// What embeddings are scored by, where it is they that are.
    fn distance(&self) -> Option<&LedoitWolf> {
        self.fit.as_ref().filter(|_| self.config.score == Rule::Distance)
    }

    fn network(&self) -> Result<Network, crate::run::config::ConfigError> {
        // The sizes of the sets change nothing in the network.
        let config = self.config.training(self.image, usize::MAX, usize::MAX)?;
        Ok(Network::new(config.method, &config.detector, self.image))
    }
}

/// What a model makes of images.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    pub scores: Vec<f64>,
    /// The head's logit, a second score of the methods that have one.
    pub logits: Option<Vec<f64>>,
    readings: Readings,
}

/// A model on a device.
#[derive(Debug)]
pub struct Predictor<'a> {
    model: &'a Model,
    device: Device,
    network: Network,
    states: States,
    /// How many images were last to be scored at once, and what scores them.
    scorer: Option<(usize, Scorer)>,
}

/// Images that are scored at once, where there are as many and the device binds them. Scores do not depend on it.
pub const BATCH: usize = 64;

impl<'a> Predictor<'a> {
    /// Puts a model on a device.
    ///
    /// # Errors
    /// When the device refuses.
    ///
    /// # Panics
    /// When the model is none that was trained or loaded.
    pub fn new(device: &Device, model: &'a Model) -> Result<Self, GpuError> {
        let network = model.network().expect("a model's configuration was held against its states");
        let mut states = States::new(device);
        for (name, tensor) in &model.states {
            states.set(name, tensor)?;
        }
        Ok(Predictor { model, device: device.clone(), network, states, scorer: None })
    }

    /// Scores images `[N, C, H, W]`. A score that is not finite is one that the network cannot give.
    ///
    /// # Errors
    /// When the device fails.
    pub fn judge(&mut self, images: &Tensor) -> Result<Judgement, GpuError> {
        let most = at_once(images);
        let scorer = match self.scorer.take() {
            Some((same, scorer)) if same == most => scorer,
            _ => Scorer::new(&self.device, &self.network, self.model.image, most, &self.states)?,
        };
        let (_, scorer) = self.scorer.insert((most, scorer));
        let readings = scorer.read(images)?;
        let scores = readings.scores(self.model.distance());
        let logits = self.network.scores_by_distance().then(|| readings.direct.clone());
        Ok(Judgement { scores, logits, readings })
    }

    /// Where the scores of the same images come from, `[N, 1, H, W]`: the slope of the score by each pixel, smoothed over
    /// a sixteenth of the image.
    ///
    /// # Errors
    /// When the device fails.
    pub fn heat(&mut self, images: &Tensor, judgement: &Judgement) -> Result<Tensor, GpuError> {
        let [count, _, h, w] = images.shape().images().expect("a batch of images");
        let distance = self.model.distance();
        let slopes = distance.map_or_else(|| vec![1.0; count], |fit| fit.gradient(&judgement.readings.z));
        let (device, image) = (&self.device, self.model.image);
        let (most, by_distance) = (at_once(images), distance.is_some());
        let mut attributor = Attributor::new(device, &self.network, image, most, &self.states, by_distance)?;
        let heat = attributor.attribute(images, &slopes)?;
        let sigma = h.max(w) as f32 / 16.0;
        let smooth = |heat: &[f32]| {
            let image = image::ImageBuffer::<image::Luma<f32>, _>::from_raw(w as u32, h as u32, heat.to_vec());
            image::imageops::blur(&image.expect("as many slopes as pixels"), sigma).into_raw()
        };
        Ok(Tensor::new([count, 1, h, w], heat.data().chunks_exact(h * w).flat_map(smooth).collect()))
    }
}

/// How many of the images are taken at once, if the device binds them.
fn at_once(images: &Tensor) -> usize {
    images.shape()[0].clamp(1, BATCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::philox::Stream;

    fn model() -> Model {
        let config = RunConfig::default();
        let mut model = Model {
            config,
            image: [1, 28, 28],
            fingerprint: "f00d".into(),
            a: vec![0.5],
            fit: LedoitWolf::from_parts(vec![0.0; 32], identity(32), 0.0),
            threshold: Some(Threshold { score: 1.5, held_out: 12, exceeded: 0 }),
            states: Vec::new(),
        };
        let network = model.network().unwrap();
        model.states = network.parameters(&mut Stream::new(1, 0));
        model.states.extend(network.statistics().into_iter().flatten());
        model.states.sort_by(|(one, _), (other, _)| one.cmp(other));
        model
    }

    fn identity(size: usize) -> Vec<f64> {
        (0..size * size).map(|index| if index % (size + 1) == 0 { 1.0 } else { 0.0 }).collect()
    }

    #[test]
    fn a_model_is_read_with_its_threshold_or_without_and_so_is_one_of_an_earlier_version() {
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
        let threshold = Threshold { score: 2.5, held_out: 0, exceeded: 0 };
        assert_eq!(Model::from_archive(earlier.clone()).unwrap().threshold, Some(threshold));
        earlier.numbers.insert("threshold".into(), Numbers::Double(vec![2.5, 1.0]));
        assert_eq!(Model::from_archive(earlier).unwrap_err(), "its threshold is malformed");
    }
}
