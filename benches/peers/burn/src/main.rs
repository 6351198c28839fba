//! The plain step of the workload `pyramid-64` in burn on wgpu: prints a JSON line.
//!
//! `cargo run --release -- [SECONDS]`

use std::time::Instant;

use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig, PaddingConfig2d};
use burn::tensor::{Device, Distribution, Tensor, activation};

const BATCH: usize = 32;

struct Layer {
    conv: Conv2d,
    norm: BatchNorm,
}

struct Detector {
    layers: Vec<Layer>,
    hidden: Linear,
    hidden_norm: BatchNorm,
    last: Linear,
}

impl Detector {
    fn new(device: &Device) -> Self {
        let layer = |channels: [usize; 2]| Layer {
            conv: Conv2dConfig::new(channels, [3, 3])
                .with_stride([2, 2])
                .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                .with_bias(false)
                .init(device),
            norm: BatchNormConfig::new(channels[1]).init(device),
        };
        Detector {
            layers: [[3, 32], [32, 64], [64, 128], [128, 256]].map(layer).into(),
            hidden: LinearConfig::new(256, 64).with_bias(false).init(device),
            hidden_norm: BatchNormConfig::new(64).init(device),
            last: LinearConfig::new(64, 1).init(device),
        }
    }

    /// Logits `[N, 1]` of images `[N, 3, H, W]`.
    fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let mut h = x;
        for Layer { conv, norm } in &self.layers {
            h = activation::relu(norm.forward(conv.forward(h)));
        }
        let z: Tensor<2> = h.mean_dim(3).mean_dim(2).flatten(1, 3);
        let hidden = activation::relu(self.hidden_norm.forward(self.hidden.forward(z)));
        self.last.forward(hidden)
    }
}

fn main() {
    let begun = Instant::now();
    let seconds: f64 = std::env::args().nth(1).map_or(20.0, |text| text.parse().expect("a number of seconds"));
    let device = Device::wgpu(Default::default()).autodiff();
    let detector = Detector::new(&device);
    let x = Tensor::<4>::random([BATCH, 3, 64, 64], Distribution::Uniform(0.0, 1.0), &device);
    // Half of the images are normal (−1), half augmented (1).
    let sign = Tensor::<2>::cat(
        vec![-Tensor::<2>::ones([BATCH / 2, 1], &device), Tensor::<2>::ones([BATCH / 2, 1], &device)],
        0,
    );
    let step = || {
        let loss = -activation::log_sigmoid(detector.forward(x.clone()) * sign.clone()).mean();
        let gradients = loss.backward();
        device.sync().expect("the device works");
        drop(gradients);
        let loss: f32 = loss.into_scalar();
        assert!(loss.is_finite(), "the loss is {loss}");
    };

    step();
    let ready = begun.elapsed().as_secs_f64();
    for _ in 0..3 {
        step();
    }
    let (mut times, measured) = (Vec::new(), Instant::now());
    while times.len() < 5 || measured.elapsed().as_secs_f64() < seconds {
        let start = Instant::now();
        step();
        times.push(1e3 * start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[(share * (times.len() - 1) as f64).round() as usize];
    println!(
        r#"{{"framework":"burn 0.22.1 wgpu","workload":"pyramid-64","milliseconds":{{"median":{:.2},"low":{:.2},"high":{:.2},"count":{}}},"ready_seconds":{ready:.2}}}"#,
        at(0.5),
        at(0.25),
        at(0.75),
        times.len()
    );
}
