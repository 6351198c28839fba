//! Records the benches' figures.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// The folder of the recorded figures.
pub fn results() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/results")
}

/// Appends a JSON line to a file in a folder.
pub fn record(folder: &Path, file: &str, row: &impl Serialize) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder)?;
    let mut file = OpenOptions::new().create(true).append(true).open(folder.join(file))?;
    Ok(writeln!(file, "{}", serde_json::to_string(row)?)?)
}
