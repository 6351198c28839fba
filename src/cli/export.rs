//! `stssad export`: a trained detector for use outside stssad.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use stssad::run::web;

use super::train::model;

/// Arguments of `stssad export`.
#[derive(Debug, Args)]
pub struct Export {
    /// Folder of a finished run, or its model.safetensors.
    run: PathBuf,
    /// What to write.
    #[arg(long, value_enum)]
    format: Format,
    /// File to write.
    #[arg(long, value_name = "FILE", default_value = "detector.html")]
    out: PathBuf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// One HTML page with the weights and kernels, for browsers with WebGPU
    Web,
}

impl Export {
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        let Format::Web = self.format;
        web::save(&model(&self.run, &[])?, &self.out)?;
        result!("{}", self.out.display())?;
        Ok(ExitCode::SUCCESS)
    }
}
