//! A trained detector as it is kept: everything that scoring pictures needs, in one file.

use std::path::Path;

use crate::archive::{Archive, ArchiveError, Numbers};
use crate::checkpoint::{fit_numbers, take_fit};
use crate::config::RunConfig;
use crate::data::{Channels, Conversion};
use crate::gpu::{Device, GpuError, States};
use crate::method::Network;
use crate::score::LedoitWolf;
use crate::scorer::{Attributor, Readings, Rule, Scorer};
use crate::tensor::Tensor;
use crate::train::Trained;

const KIND: &str = "model";

/// The share of clean training pictures whose scores lie below the threshold.
const BELOW_THRESHOLD: f64 = 0.99;

/// A trained detector.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// What it was trained by; also the conversion of its pictures.
    pub config: RunConfig,
    /// `[C, H, W]` of the pictures that it takes.
    pub picture: [usize; 3],
    /// Of the data that it was trained on.
    pub fingerprint: String,
    /// The augmentation's raw coordinates.
    pub a: Vec<f32>,
    /// What embeddings are scored by; `None` where the network gives the score itself, or they gave no distance and the score
    /// is the logit.
    pub fit: Option<LedoitWolf>,
    /// A picture with a higher score counts as an anomaly: no label is asked, but how the training pictures score.
    pub threshold: f64,
    /// Parameters and running statistics, by name.
    pub states: Vec<(String, Tensor)>,
}

impl Model {
    /// The model that a trained start is.
    pub fn new(config: &RunConfig, picture: [usize; 3], fingerprint: &str, trained: &Trained) -> Self {
        Model {
            config: config.clone(),
            picture,
            fingerprint: fingerprint.to_owned(),
            a: trained.end.clone(),
            fit: trained.fit.clone(),
            threshold: quantile(&trained.scores_by(config.score)[0], BELOW_THRESHOLD),
            states: trained.states.clone(),
        }
    }

    /// How pictures become what the model takes.
    pub fn conversion(&self) -> Conversion {
        let channels = if self.picture[0] == 1 { Channels::Grey } else { Channels::Rgb };
        Conversion { side: self.picture[1], channels, resize: self.config.pictures.resize }
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
        double("threshold", vec![self.threshold]);
        double("picture", self.picture.iter().map(|&extent| extent as f64).collect());
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
        let picture = archive.take_double("picture")?;
        let &[c, h, w] = &picture[..] else { return Err("its picture is malformed".into()) };
        let picture = [c, h, w].map(|extent| extent as usize);
        let threshold = archive.take_double("threshold")?;
        let &[threshold] = &threshold[..] else { return Err("its threshold is malformed".into()) };
        let fit = take_fit(&mut archive, "")?;
        let model = Model {
            picture,
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

    fn network(&self) -> Result<Network, crate::config::ConfigError> {
        // The sizes of the sets change nothing in the network.
        let config = self.config.training(self.picture, usize::MAX, usize::MAX)?;
        Ok(Network::new(config.method, &config.detector, self.picture))
    }
}

/// The value that a share of `values` does not exceed, between neighbours in proportion; 0 of no values.
fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = share * sorted.len().saturating_sub(1) as f64;
    let at = |place: f64| sorted.get(place as usize).copied().unwrap_or(0.0);
    let (low, high) = (at(place.floor()), at(place.ceil()));
    low + (high - low) * place.fract()
}

/// What a model makes of pictures.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    pub scores: Vec<f64>,
    /// The head's logit, a second score of the methods that have one.
    pub logits: Option<Vec<f64>>,
    readings: Readings,
}

/// A model on a device.
#[derive(Debug)]
pub struct Judge<'a> {
    model: &'a Model,
    device: Device,
    network: Network,
    states: States,
    scorer: Scorer,
}

/// Pictures that are scored at once. Scores do not depend on it.
const BATCH: usize = 64;

impl<'a> Judge<'a> {
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
        let scorer = Scorer::new(device, &network, model.picture, BATCH, &states)?;
        Ok(Judge { model, device: device.clone(), network, states, scorer })
    }

    /// Scores pictures `[N, C, H, W]`.
    ///
    /// # Errors
    /// When the device fails.
    pub fn judge(&mut self, pictures: &Tensor) -> Result<Judgement, GpuError> {
        let readings = self.scorer.read(pictures)?;
        let scores = readings.scores(self.model.distance());
        let logits = self.network.scores_by_distance().then(|| readings.direct.clone());
        Ok(Judgement { scores, logits, readings })
    }

    /// Where the scores of the same pictures come from, `[N, 1, H, W]`: the slope of the score by each pixel, smoothed over
    /// a sixteenth of the picture.
    ///
    /// # Errors
    /// When the device fails.
    pub fn heat(&mut self, pictures: &Tensor, judgement: &Judgement) -> Result<Tensor, GpuError> {
        let [count, _, h, w] = pictures.shape().images().expect("a batch of pictures");
        let distance = self.model.distance();
        let slopes = distance.map_or_else(|| vec![1.0; count], |fit| fit.gradient(&judgement.readings.z));
        let (device, picture) = (&self.device, self.model.picture);
        let mut attributor = Attributor::new(device, &self.network, picture, BATCH, &self.states, distance.is_some())?;
        let heat = attributor.attribute(pictures, &slopes)?;
        let sigma = h.max(w) as f32 / 16.0;
        let smooth = |heat: &[f32]| {
            let picture = image::ImageBuffer::<image::Luma<f32>, _>::from_raw(w as u32, h as u32, heat.to_vec());
            image::imageops::blur(&picture.expect("as many slopes as pixels"), sigma).into_raw()
        };
        Ok(Tensor::new([count, 1, h, w], heat.data().chunks_exact(h * w).flat_map(smooth).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_by_hand() {
        assert_eq!(quantile(&[3.0, 1.0, 2.0], 0.5), 2.0);
        assert_eq!(quantile(&[0.0, 10.0], 0.99), 9.9);
        assert_eq!(quantile(&[5.0], 0.99), 5.0);
        assert_eq!(quantile(&[], 0.99), 0.0);
    }
}
