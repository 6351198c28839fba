//! What the benches run: whole training steps of stated sizes.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use serde::Serialize;
use stssad::augment::{Augmentation, Rotation};
use stssad::nn::{Detector, Encoder, Stage};
use stssad::train::Config;

/// A training step of a stated size.
pub struct Workload {
    pub name: &'static str,
    /// `[C, H, W]` of a picture.
    pub picture: [usize; 3],
    /// Normal pictures in a batch, with as many augmented ones, and unlabelled ones.
    pub batch: usize,
    pub batch_val: usize,
    pub detector: fn() -> Detector,
}

/// Four convolutions of stride 2: 32-64-128-256 channels.
fn pyramid() -> Detector {
    let stages = [32, 64, 128, 256].map(|channels| Stage { channels, stride: 2 }).to_vec();
    Detector { input_channels: 3, encoder: Encoder::Plain(stages), head: vec![64] }
}

/// Batches hold as many augmented as normal pictures, and as many unlabelled ones as both together.
pub const WORKLOADS: &[Workload] = &[
    Workload { name: "digits-small", picture: [1, 28, 28], batch: 48, batch_val: 96, detector: || Detector::small(1) },
    // Its plain step, of 32 pictures, is the training step that `benches/peers` takes in other frameworks.
    Workload { name: "pyramid-64", picture: [3, 64, 64], batch: 16, batch_val: 32, detector: pyramid },
    Workload {
        name: "resnet18-32",
        picture: [3, 32, 32],
        batch: 64,
        batch_val: 128,
        detector: || Detector::resnet18(3, [32, 32]),
    },
    Workload {
        name: "resnet18-256",
        picture: [3, 256, 256],
        batch: 32,
        batch_val: 64,
        detector: || Detector::resnet18(3, [256, 256]),
    },
];

impl Workload {
    /// A run of `steps` steps, all of which tune.
    pub fn config(&self, steps: usize) -> Config {
        let augmentation = Box::new(Rotation::default());
        let starts = vec![augmentation.starts()[0].clone()];
        let (batch, batch_val) = (self.batch, self.batch_val);
        Config { starts, steps, warm_up: 0, batch, batch_val, ..Config::new((self.detector)(), augmentation) }
    }
}

/// Appends a JSON line to a file under `benches/results/`.
pub fn record(file: &str, row: &impl Serialize) -> anyhow::Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/results").join(file);
    std::fs::create_dir_all(path.parent().expect("a folder"))?;
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    Ok(writeln!(file, "{}", serde_json::to_string(row)?)?)
}
