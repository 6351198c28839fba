//! Records the benches' figures.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use serde::Serialize;

/// Appends a JSON line to a file under `benches/results/`.
pub fn record(file: &str, row: &impl Serialize) -> anyhow::Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/results").join(file);
    std::fs::create_dir_all(path.parent().expect("a folder"))?;
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    Ok(writeln!(file, "{}", serde_json::to_string(row)?)?)
}
