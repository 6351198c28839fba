//! `stssad paint`: a dataset in MVTec AD's layout from a packaged material or object.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use stssad::data::paint::{Defect, Material, Texture};
use stssad::data::{Loading, Size, Source, category, load};

use super::shell_word;

/// Arguments of `stssad paint`.
#[derive(Debug, Args)]
pub struct Paint {
    /// Material or object to show.
    #[arg(long)]
    texture: Material,
    /// Defect to paint on half of the test images.
    #[arg(long)]
    defect: Defect,
    /// Direction of a scratch or slash in radians [default: random].
    #[arg(long, value_name = "RADIANS", allow_hyphen_values = true)]
    slant: Option<f64>,
    /// How much of the defect shows, above 0 and up to 1 [default: 1].
    #[arg(long, value_name = "SHARE")]
    strength: Option<f64>,
    /// Side of the images in pixels.
    #[arg(long, value_name = "PIXELS", default_value_t = 32, value_parser = clap::value_parser!(u32).range(8..=128))]
    size: u32,
    /// Normal images to train on.
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u32).range(3..=100_000))]
    train: u32,
    /// Test images of each class.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    test: u32,
    /// Seed of all random draws.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Folder to write to: the `--root` for training. The category is named after the material and the defect.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

impl Paint {
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        let Paint { texture, defect, slant, strength, .. } = *self;
        let source = Source::Texture(Texture { texture, defect, slant, strength });
        let loading = Loading {
            size: Some(Size::square(self.size as usize)),
            max_train: Some(self.train as usize),
            max_normals: Some(self.test as usize),
            max_anomalies: Some(self.test as usize),
            seed: self.seed,
            ..Loading::default()
        };
        let task = load(&source, &loading, |_, _| {})?.task;
        category::write(&self.out, &task)?;
        let root = shell_word(&self.out);
        result!("stssad train --data mvtec --root {root} --category {}", task.category)?;
        Ok(ExitCode::SUCCESS)
    }
}
