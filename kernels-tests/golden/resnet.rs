//! A narrow ResNet-18, forward and backward, with either stem.

use std::sync::Arc;
use stssad::engine::tape::Value;
use stssad::ssad::nn::{Detector, Parameter, ResNet18, Statistics, Stem};

use super::{Golden, golden};

/// As in `supplement.py`.
fn wave(count: usize, phase: f64, scale: f64, offset: f64) -> Vec<f64> {
    (0..count).map(|i| offset + scale * (phase + 1.7 * i as f64).sin()).collect()
}

fn check(name: &str, stem: Stem, [height, width]: [usize; 2]) {
    const IMAGES: usize = 6;
    let detector = Detector::new(2, Arc::new(ResNet18 { width: 4, stem }), vec![6, 5]);
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
