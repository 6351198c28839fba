//! A narrow ResNet-18, forward and backward, with either stem; and with PyTorch's weights, layer by layer.

use std::path::Path;
use std::sync::Arc;

use safetensors::SafeTensors;
use stssad::engine::tape::Value;
use stssad::run::weights::Given;
use stssad::ssad::method::{Method, Network};
use stssad::ssad::nn::{Detector, Normalised, Parameter, ResNet18, Statistics, Stem};

use super::{Golden, golden};

/// As in `supplement.py`.
fn wave(count: usize, phase: f64, scale: f64, offset: f64) -> Vec<f64> {
    (0..count).map(|i| offset + scale * (phase + 1.7 * i as f64).sin()).collect()
}

fn check(name: &str, stem: Stem, [height, width]: [usize; 2]) {
    const IMAGES: usize = 6;
    let detector = Detector::new(2, Arc::new(ResNet18 { width: 4, stem, stages: ResNet18::STAGES }), vec![6, 5]);
    let mut g = Golden::new();
    let mut feed = |name: &str, shape: &[usize], data: Vec<f64>| {
        g.sources.insert(name.to_owned(), data);
        g.tape.feed(name, shape)
    };
    let x = feed("x", &[IMAGES, 2, height, width], wave(IMAGES * 2 * height * width, 0.5, 0.5, 0.5));
    let [of_logit, of_z] = [("of_logit", 1, 0.3), ("of_z", 32, 0.7)]
        .map(|(name, columns, phase)| feed(name, &[IMAGES, columns], wave(IMAGES * columns, phase, 1.0, 0.0)));
    // Layers are numbered by first use, and their names come in the same order.
    let mut layers: Vec<String> = Vec::new();
    let theta: Vec<Value> = detector
        .declared()
        .parameters
        .iter()
        .map(|Parameter { name, shape, .. }| {
            let (layer, kind) = name.rsplit_once('.').unwrap();
            if layers.last().is_none_or(|last| last != layer) {
                layers.push(layer.to_owned());
            }
            let (phase, count) = ((layers.len() - 1) as f64, shape.count());
            let data = match kind {
                "gamma" => wave(count, phase + 0.1, 0.3, 1.0),
                "beta" => wave(count, phase + 0.2, 0.2, 0.0),
                "bias" => wave(count, phase + 0.1, 0.5, 0.0),
                "weight" if layer == "head.2" => wave(count, phase, 0.5, 0.0),
                "weight" => wave(count, phase, (4.0 / shape[0] as f64).sqrt(), 0.0),
                _ => {
                    let fan_in: usize = shape[1..].iter().product();
                    wave(count, phase, (4.0 / fan_in as f64).sqrt(), 0.0)
                }
            };
            feed(name, shape, data)
        })
        .collect();

    let t = &mut g.tape;
    let pass = detector.forward(t, &theta, x, Statistics::Batch);
    g.expect("z", pass.z, golden(&format!("resnet18/{name}/z")));
    g.expect("logit", pass.logit, golden(&format!("resnet18/{name}/logit")));
    g.check();

    // Only in f64: f32 may round some ReLU of so deep a gradient to the other side of its kink.
    let t = &mut g.tape;
    let parts = [(pass.logit, of_logit), (pass.z, of_z)].map(|(value, weights)| {
        let product = t.mul(value, weights);
        t.total(product)
    });
    let loss = t.add(parts[0], parts[1]);
    let gradient = t.grad(loss, &theta[..1]).unwrap()[0];
    g.expect("grad_stem", gradient, golden(&format!("resnet18/{name}/grad_stem")));
    g.check_interpreter();
}

#[test]
fn resnet18_with_the_stem_for_small_images() {
    check("small_stem", Stem::Small, [13, 18]);
}

#[test]
fn resnet18_with_the_stem_for_large_images() {
    check("large_stem", Stem::Large, [43, 38]);
}

/// Written by `resnet18.py`.
const GIVEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/kernels-tests/golden/resnet18.safetensors");

/// The blocks of PyTorch's ResNet-18, and its embedding.
const LAYERS: [&str; 10] = ["stem", "0.0", "0.1", "1.0", "1.1", "2.0", "2.1", "3.0", "3.1", "pool"];

fn check_given(frozen: bool) {
    let encoder = Normalised::for_imagenet(ResNet18 { width: 4, stem: Stem::Large, stages: ResNet18::STAGES });
    let detector = Detector { frozen, ..Detector::new(3, Arc::new(encoder), vec![6]) };
    let network = Network::new(Method::StSsad, &detector, [3, 40, 33]);
    let given = Given::read(Path::new(GIVEN), &network).unwrap();
    let bytes = std::fs::read(GIVEN).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let doubles = |name: &str| -> Vec<f64> {
        tensors.tensor(name).unwrap().data().as_chunks().0.iter().map(|&bytes| f64::from_le_bytes(bytes)).collect()
    };
    let images = tensors.tensor("images").unwrap();
    let images: Vec<f64> = images.data().as_chunks().0.iter().map(|&b| f64::from(f32::from_le_bytes(b))).collect();

    let mut g = Golden::new();
    g.sources.insert("images".into(), images);
    let x = g.tape.feed("images", [2, 3, 40, 33]);
    let mut feed = |name: &str, shape: &[usize]| {
        // The head has no golden; any values do.
        let count: usize = shape.iter().product();
        let known = given.states.iter().find(|(known, _)| known == name);
        let data =
            known.map_or_else(|| vec![0.5; count], |(_, tensor)| tensor.data().iter().map(|&v| v.into()).collect());
        g.sources.insert(name.to_owned(), data);
        g.tape.feed(name, shape)
    };
    let theta: Vec<Value> =
        detector.declared().parameters.iter().map(|Parameter { name, shape, .. }| feed(name, shape)).collect();
    let running: Vec<[Value; 2]> =
        network.statistics().iter().map(|pair| pair.each_ref().map(|(name, own)| feed(name, own.shape()))).collect();
    detector.forward(&mut g.tape, &theta, x, Statistics::Running(&running));
    for layer in LAYERS {
        let scope = format!("encoder.{layer}");
        let last = g.tape.iter().rfind(|(_, node)| *node.scope == *scope).map(|(value, _)| value);
        g.expect(layer, last.expect("a layer of PyTorch's is one of ours"), doubles(&format!("out/{layer}")));
    }
    g.check();
}

#[test]
fn given_weights_compute_what_pytorch_computes() {
    check_given(false);
}

/// A frozen encoder holds its batch norms' statistics as parameters.
#[test]
fn a_frozen_encoder_computes_what_pytorch_computes() {
    check_given(true);
}
