//! What each place of an image contributes to its score: heat maps as tapes.

use super::{CENTRE, Network, averages, nearest};
use crate::engine::ops::elementwise::Unary;
use crate::engine::tape::{Tape, Value};
use crate::ssad::nn::{Detector, Statistics};

/// The states of [`Network::contributions`] that a classifier does not train: the embedding `[1, features]` that stands for a normal
/// image, and, where the score is the distance from it, L⁻¹ `[features, features]` with L · Lᵀ the covariance.
pub const REFERENCE: &str = "reference";
pub const WHITENING: &str = "whitening";

/// Points on the way from the reference to an embedding at which the head's gradient is taken. The head is piecewise linear; with more
/// of them, maps of the packaged textures are the same.
const POINTS: usize = 32;
/// Keeps the distance's gradient finite where the distance is 0.
const TINY: f32 = 1e-30;

impl Network {
    /// What each place of x `[N, C, H, W]` contributes to the scores, `[N, 1, P, Q]`, in the score's units: the mean over all
    /// places is the difference of the image's score and that of the reference. With `by_distance` a classifier's score is the distance
    /// of its embedding, else its logit.
    ///
    /// An embedding z is the mean of the feature maps F, so that for every path from the reference r to z
    ///
    /// `score(z) − score(r) = ∫ ∇score · dz = meanₚ slope · (Fₚ − r)`
    ///
    /// with `slope` the mean gradient along the straight path (integrated gradients: Sundararajan et al., arXiv 1703.01365, applied to
    /// the last feature maps). It is (Σ⁻¹ (z − r)) / score for a distance, z − r for the squared distance from a centre, and the mean at
    /// 32 points for a head. An auto-encoder's map is the squared error of each pixel. Of the nearest patch, it is the distance
    /// of each place, the greatest of which is the score.
    pub fn contributions(&self, t: &mut Tape, x: Value, by_distance: bool) -> Value {
        let theta: Vec<Value> = self.record_parameters(t, 1).into_iter().map(|(_, value)| value).collect();
        let running = self.record_statistics(t, 1);
        let embed = |t: &mut Tape, detector: &Detector, reference: &str| {
            let pass = detector.forward(t, &theta, x, Statistics::Running(&running));
            let reference = t.state(reference, [1, detector.features()]);
            let offset = t.sub(pass.z, reference);
            (pass.maps, reference, offset)
        };
        match self {
            Network::Classifier(detector) => {
                let (maps, reference, offset) = embed(t, detector, REFERENCE);
                let slope = match by_distance {
                    true => distance_slope(t, offset),
                    false => {
                        let logit = |t: &mut Tape, z| detector.logit(t, &theta, z, &running);
                        mean_slope(t, reference, offset, logit)
                    }
                };
                weighed(t, maps, reference, slope)
            }
            Network::OneClass(detector) => {
                let (maps, centre, offset) = embed(t, detector, CENTRE);
                weighed(t, maps, centre, offset)
            }
            Network::Patches(detector) => {
                let [maps, _] = detector.embed_alone(t, &theta, x, Statistics::Running(&running));
                nearest(t, maps)
            }
            Network::Pixels(_) => {
                let maps = averages(t, x);
                let [rows, c, p, q] = t.shape(maps).images().expect("a batch of maps");
                let z = t.reshape(maps, [rows, c * p * q]);
                let reference = t.state(REFERENCE, [1, c * p * q]);
                let offset = t.sub(z, reference);
                let slope = distance_slope(t, offset);
                // The parts of all places add up to the score.
                let parts = t.mul(offset, slope);
                let parts = t.scale(parts, (p * q) as f64);
                let parts = t.reshape(parts, [rows, c, p, q]);
                t.sum(parts, &[1])
            }
            Network::Reconstruction(auto_encoder) => {
                let [_, reconstruction] = auto_encoder.forward(t, &theta, x);
                let error = t.sub(reconstruction, x);
                let squares = t.mul(error, error);
                t.mean(squares, &[1])
            }
        }
    }
}

/// ∂‖L⁻¹ offset‖ / ∂ offset of each row `[N, features]`.
fn distance_slope(t: &mut Tape, offset: Value) -> Value {
    let features = t.shape(offset)[1];
    let whitening = t.state(WHITENING, [features, features]);
    let whitened = t.matmul_transposed(offset, false, whitening, true);
    let squares = t.mul(whitened, whitened);
    let sum = t.sum(squares, &[1]);
    let distance = t.unary(Unary::Sqrt, sum);
    let distance = t.offset(distance, TINY);
    let unit = t.div(whitened, distance);
    t.matmul(unit, whitening)
}

/// The mean of ∂ score / ∂ z at points evenly spread from the reference `[1, features]` to reference + offset, for each row of `offset`
/// `[N, features]`.
fn mean_slope(t: &mut Tape, reference: Value, offset: Value, score: impl Fn(&mut Tape, Value) -> Value) -> Value {
    let [rows, features] = t.shape(offset).matrix().expect("one row per image");
    let points: Vec<Value> = (0..POINTS)
        .map(|point| {
            let part = t.scale(offset, (point as f64 + 0.5) / POINTS as f64);
            t.add(part, reference)
        })
        .collect();
    let z = t.concat(0, &points);
    let score = score(t, z);
    let slopes = t.grad_of_sum(score, &[z]).expect("every layer has a rule and depends on z")[0];
    let slopes = t.reshape(slopes, [POINTS, rows, features]);
    let mean = t.mean(slopes, &[0]);
    t.reshape(mean, [rows, features])
}

/// slope · (Fₚ − reference) at each place of feature maps F `[N, features, P, Q]`, for slopes `[N, features]`: `[N, 1, P, Q]`.
fn weighed(t: &mut Tape, maps: Value, reference: Value, slope: Value) -> Value {
    let [rows, features] = t.shape(slope).matrix().expect("one row per image");
    let [reference, slope] =
        [(reference, 1), (slope, rows)].map(|(value, rows)| t.reshape(value, [rows, features, 1, 1]));
    let offset = t.sub(maps, reference);
    let parts = t.mul(offset, slope);
    t.sum(parts, &[1])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    use crate::engine::philox::Stream;
    use crate::engine::reference::Reference;
    use crate::ssad::method::{Method, Reading};

    const IMAGE: [usize; 3] = [2, 16, 16];
    const ROWS: usize = 2;

    /// The score of each image, that of the reference, and the mean contribution over all places.
    fn scores_and_contributions(network: &Network, by_distance: bool) -> ([f64; ROWS], f64, [f64; ROWS]) {
        let features = network.features();
        let mut stream = Stream::new(5, 0);
        let mut t = Tape::new();
        let [c, h, w] = IMAGE;
        let x = t.feed("x", [ROWS, c, h, w]);
        let contributions = network.contributions(&mut t, x, by_distance);
        let scored = {
            let mut states: HashMap<String, Vec<f64>> = HashMap::new();
            for (name, value) in network.parameters(&mut stream) {
                // Biases and shifts that are not 0.
                let drawn = value.data().iter().map(|&v| f64::from(v) + 0.1 * stream.normal()).collect();
                states.insert(name, drawn);
            }
            for [mean, variance] in network.statistics() {
                states.insert(mean.0, (0..mean.1.shape().count()).map(|_| 0.1 * stream.normal()).collect());
                states.insert(variance.0, (0..variance.1.shape().count()).map(|_| 0.5 + stream.uniform()).collect());
            }
            let mut drawn = |count: usize| -> Vec<f64> { (0..count).map(|_| stream.normal()).collect() };
            for name in [REFERENCE, CENTRE] {
                states.insert(name.into(), drawn(features).iter().map(|v| v.abs()).collect());
            }
            states.insert(WHITENING.into(), drawn(features * features));
            states.insert("x".into(), drawn(ROWS * c * h * w));
            states
        };
        let per_image = |values: &[f64]| -> [f64; ROWS] {
            let places = values.len() / ROWS;
            std::array::from_fn(|row| values[row * places..][..places].iter().sum::<f64>() / places as f64)
        };
        let found = per_image(Reference::new(&t, &scored).eval(contributions).unwrap());

        let mut t = Tape::new();
        let x = t.feed("x", [ROWS, c, h, w]);
        let Reading { z, direct } = network.read(&mut t, x);
        let mut reference = Reference::new(&t, &scored);
        let [z, direct] = [z, direct].map(|value| reference.eval(value).unwrap().to_vec());
        if by_distance {
            let distance = |row: usize| {
                let offset = |feature: usize| z[row * features + feature] - scored[REFERENCE][feature];
                let whitened = scored[WHITENING].chunks_exact(features);
                let squares =
                    whitened.map(|line| line.iter().enumerate().map(|(f, v)| v * offset(f)).sum::<f64>().powi(2));
                squares.sum::<f64>().sqrt()
            };
            return (std::array::from_fn(distance), 0.0, found);
        }
        let at_reference = match &network {
            Network::Classifier(detector) => {
                let mut t = Tape::new();
                let theta: Vec<Value> = network.record_parameters(&mut t, 1).into_iter().map(|(_, v)| v).collect();
                let running = network.record_statistics(&mut t, 1);
                let z = t.state(REFERENCE, [1, features]);
                let logit = detector.logit(&mut t, &theta, z, &running);
                Reference::new(&t, &scored).eval(logit).unwrap()[0]
            }
            _ => 0.0,
        };
        (std::array::from_fn(|row| direct[row]), at_reference, found)
    }

    #[test]
    fn contributions_add_up_to_the_score() {
        let small = Detector::small(IMAGE[0]);
        let linear = Detector { head: Vec::new(), ..small.clone() };
        for (method, detector, by_distance, tolerance) in [
            (Method::StSsad, &small, true, 1e-12),
            (Method::StSsad, &linear, false, 1e-12),
            // The head has corners between the points.
            (Method::StSsad, &small, false, 0.05),
            (Method::DeepSvdd, &small, false, 1e-12),
            (Method::AutoEncoder, &small, false, 1e-12),
        ] {
            let (scores, reference, found) =
                scores_and_contributions(&Network::new(method, detector, IMAGE), by_distance);
            let expected = scores.map(|score| score - reference);
            let scale = expected.into_iter().fold(0.0, |most: f64, score| most.max(score.abs()));
            for (expected, found) in expected.into_iter().zip(found) {
                let is_close = (found - expected).abs() <= tolerance * scale;
                assert!(is_close, "{method:?}, by distance {by_distance}: {found} is not {expected}");
            }
        }
    }
}
