//! What the benches run: whole training steps of stated sizes.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use serde::Serialize;
use stssad::augment::Rotation;
use stssad::loss::Alignment;
use stssad::nn::Detector;
use stssad::ssad::{Config, Order};

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

/// `resnet18-32` (3×32×32, 64 + 64 + 128) and `resnet18-256` (3×256×256, 32 + 32 + 64) join with their encoder.
pub const WORKLOADS: &[Workload] = &[Workload {
    name: "digits-small",
    picture: [1, 28, 28],
    batch: 48,
    batch_val: 96,
    detector: || Detector::small(1),
}];

impl Workload {
    /// A run of `steps` steps, all of which tune.
    pub fn config(&self, steps: usize) -> Config {
        Config {
            detector: (self.detector)(),
            augmentation: Box::new(Rotation::default()),
            alignment: Alignment::DiagonalW2 { mass: 0.5 },
            order: Order::Second,
            steps,
            warm_up: 0,
            batch: self.batch,
            batch_val: self.batch_val,
            rate: 1e-3,
            look_ahead: 0.01,
            seed: 0,
        }
    }
}

/// Appends a JSON line to a file under `benches/results/`.
pub fn record(file: &str, row: &impl Serialize) -> anyhow::Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/results").join(file);
    std::fs::create_dir_all(path.parent().expect("a folder"))?;
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    Ok(writeln!(file, "{}", serde_json::to_string(row)?)?)
}
