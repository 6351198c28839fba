//! What the fuzz targets do with an input: whatever it is, it is read or refused.

use std::cell::LazyCell;
use std::path::Path;

use stssad::data::decode::decode;
use stssad::data::records::Table;
use stssad::data::{Loading, Source, load, mat};
use stssad::proof::sanitizer::{Setting, Trial};
use stssad::run::archive::Archive;
use stssad::run::checkpoint::Checkpoint;
use stssad::run::config::RunConfig;
use stssad::run::sweep::Grid;
use tempfile::TempDir;

/// The names of the targets, which are those of their folders in `corpus`.
#[allow(dead_code, reason = "the fuzzer's programs run one target each")]
pub const NAMES: [&str; 8] = ["archive", "checkpoint", "config", "grid", "mat", "image", "table", "wgsl"];

/// Runs a target.
///
/// # Panics
/// When the target finds a fault, or there is none of this name.
pub fn run(name: &str, bytes: &[u8]) {
    match name {
        "archive" => archive(bytes),
        "checkpoint" => checkpoint(bytes),
        "config" => text(bytes, config),
        "grid" => text(bytes, grid),
        "mat" => drop(mat::read(bytes, 1 << 20)),
        "image" => drop(decode(bytes, 1 << 16)),
        "table" => table(bytes),
        "wgsl" => text(bytes, wgsl),
        other => panic!("there is no target `{other}`"),
    }
}

fn text(bytes: &[u8], read: impl FnOnce(&str)) {
    if let Ok(text) = str::from_utf8(bytes) {
        read(text);
    }
}

/// A checksum keeps all but a few inputs from being archives, so it is not compared.
fn parsed(bytes: &[u8], kind: &str) -> Option<Archive> {
    Some(Archive::parse(bytes, Path::new("input"), kind).ok()?.0)
}

fn archive(bytes: &[u8]) {
    if let Some(archive) = parsed(bytes, "model") {
        archive.checksum();
    }
}

/// A checkpoint that can be read is the same after it is written and read again.
fn checkpoint(bytes: &[u8]) {
    if let Some(checkpoint) = parsed(bytes, "checkpoint").and_then(|archive| Checkpoint::from_archive(archive).ok()) {
        assert_eq!(Checkpoint::from_archive(checkpoint.archive()).as_ref(), Ok(&checkpoint));
    }
}

/// A configuration that can be read is the same after it is written and read again.
fn config(text: &str) {
    if let Ok(config) = RunConfig::parse(text) {
        let written = config.to_toml();
        assert_eq!(RunConfig::parse(&written).as_ref().ok(), Some(&config), "{written}");
    }
}

fn grid(text: &str) {
    if let Ok(grid) = Grid::parse(text) {
        drop(grid.jobs());
    }
}

fn table(bytes: &[u8]) {
    thread_local! {
        static FOLDER: LazyCell<TempDir> = LazyCell::new(|| tempfile::tempdir().expect("a folder for the table"));
    }
    FOLDER.with(|folder| {
        let file = folder.path().join("table.csv");
        std::fs::write(&file, bytes).expect("a table is written");
        let source = Source::Table(Table { file, root: None, name: None });
        drop(load(&source, &Loading::default(), |_, _| {}));
    });
}

/// Comments with settings may ask for much memory and time, so there are none.
fn wgsl(source: &str) {
    if !source.contains("sanitize") {
        let trial = Trial::new("input.wgsl", source).workgroups([1, 1, 1]).set(Setting::Limit(10_000));
        drop(trial.run());
    }
}
