//! `stssad export`: a trained detector for use outside stssad.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use stssad::run::{onnx, web};

use super::train::model;

/// Arguments of `stssad export`.
#[derive(Debug, Args)]
pub struct Export {
    /// Folder of a finished run, or its model.safetensors.
    run: PathBuf,
    /// What to write.
    #[arg(long, value_enum)]
    format: Format,
    /// File to write [default: detector.html or detector.onnx].
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Give the ONNX graph an output `map`, what each pixel contributes to the score, as predict --maps writes it. Pages always have heat
    /// maps.
    #[arg(long)]
    maps: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// One HTML page with the weights and kernels, for browsers with WebGPU
    Web,
    /// One ONNX file that takes 8 bit images of any size and converts them itself, for runtimes such as onnxruntime
    Onnx,
}

impl Export {
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        let model = model(&self.run, &[])?;
        let out = |name: &str| self.out.clone().unwrap_or_else(|| name.into());
        let out = match self.format {
            Format::Web => {
                let out = out("detector.html");
                web::save(&web::detector(&model)?, &out)?;
                out
            }
            Format::Onnx => {
                let out = out("detector.onnx");
                onnx::save(&model, self.maps, &out)?;
                if model.threshold.is_none() {
                    note!(
                        "note     the model has no threshold, because no normal images were held out of training: the graph gives \
                         scores only"
                    );
                }
                out
            }
        };
        result!("{}", out.display())?;
        Ok(ExitCode::SUCCESS)
    }
}
