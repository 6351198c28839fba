//! A measured figure: its median and spread, its origin, and how it is printed.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::engine::gpu::{Device, GpuError};
use crate::engine::kernel::Precision;
use crate::run::store;

/// The median of repeated measurements with its quartiles, in one unit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measure {
    pub median: f64,
    /// Lower quartile.
    pub low: f64,
    /// Upper quartile.
    pub high: f64,
    /// Number of measurements.
    pub count: usize,
}

impl Measure {
    /// `None` without values.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Measure> {
        let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let position = share * (values.len() - 1) as f64;
            let (below, above) = (values[position.floor() as usize], values[position.ceil() as usize]);
            below + (above - below) * position.fract()
        };
        (!values.is_empty()).then(|| Measure { median: at(0.5), low: at(0.25), high: at(0.75), count: values.len() })
    }

    /// Half the distance between the quartiles, relative to the median.
    pub fn spread(&self) -> f64 {
        if self.median > 0.0 { (self.high - self.low) / 2.0 / self.median } else { 0.0 }
    }

    /// Converts to `amount / value`, for example seconds to bytes per second.
    #[must_use]
    pub fn rate(&self, amount: f64) -> Measure {
        Measure { median: amount / self.median, low: amount / self.high, high: amount / self.low, count: self.count }
    }

    /// Converts to `factor · value`.
    #[must_use]
    pub fn scaled(&self, factor: f64) -> Measure {
        let [median, low, high] = [self.median, self.low, self.high].map(|value| value * factor);
        Measure { median, low, high, count: self.count }
    }
}

/// Calls `measure` for `seconds`, at least three times.
///
/// # Errors
/// The first error of `measure`.
pub(crate) fn repeat<E>(seconds: f64, mut measure: impl FnMut() -> Result<(), E>) -> Result<(), E> {
    let start = Instant::now();
    let mut times = 0;
    while times < 3 || start.elapsed().as_secs_f64() < seconds {
        measure()?;
        times += 1;
    }
    Ok(())
}

/// Where a figure was measured; without it, a figure means nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Origin {
    pub device: String,
    /// Name and version.
    pub driver: String,
    pub backend: String,
    /// `discrete`, `integrated`, `virtual`, `cpu` or `other`.
    pub class: String,
    /// Hardware threads of the host; for a CPU driver these are the device.
    pub threads: usize,
    /// Version of this crate.
    pub version: String,
    /// Output of `git describe`; empty if unknown.
    pub commit: String,
    /// Precision of convolutions and matrix products.
    #[serde(default)]
    pub precision: Precision,
    /// The kernels that `--shaders` changed, each with the first digits of its text's BLAKE3 hash; empty if none.
    #[serde(default)]
    pub shaders: String,
}

impl Origin {
    pub fn of(device: &Device) -> Origin {
        let adapter = device.adapter();
        Origin {
            device: adapter.name.clone(),
            driver: adapter.driver.clone(),
            backend: adapter.backend.clone(),
            class: adapter.class.clone(),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            version: env!("CARGO_PKG_VERSION").into(),
            commit: commit().unwrap_or_default(),
            precision: device.precision(),
            shaders: changed_shaders(device),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} ({}), {}, {}", self.device, self.class, self.driver, self.backend)?;
        write!(f, ", {} host threads, {}, stssad {} {}", self.threads, self.precision, self.version, self.commit)?;
        if !self.shaders.is_empty() {
            write!(f, ", changed shaders {}", self.shaders)?;
        }
        Ok(())
    }
}

/// `conv2d/input@1f2e3d4c matmul/product@…`.
fn changed_shaders(device: &Device) -> String {
    let named = |(name, text): (&String, &String)| format!("{name}@{}", &blake3::hash(text.as_bytes()).to_hex()[..8]);
    device.replaced_shaders().kernels.iter().map(named).collect::<Vec<_>>().join(" ")
}

/// Parses `--seconds`.
///
/// # Errors
/// A sentence, unless it is a positive, finite number.
pub(crate) fn positive_seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|seconds: &f64| *seconds > 0.0 && seconds.is_finite());
    seconds.ok_or_else(|| "give a positive number of seconds, such as 0.5".into())
}

/// The commit that this was built from: `STSSAD_COMMIT` of the environment, or what git says of the source folder.
pub(crate) fn commit() -> Option<String> {
    let given = std::env::var("STSSAD_COMMIT").ok().or(option_env!("STSSAD_COMMIT").map(String::from));
    given.or_else(|| {
        let source = env!("CARGO_MANIFEST_DIR");
        let git = Command::new("git").args(["-C", source, "describe", "--always", "--dirty"]).output().ok()?;
        let text = String::from_utf8(git.stdout).ok()?.trim().to_owned();
        (git.status.success() && !text.is_empty()).then_some(text)
    })
}

/// Why a measurement failed, or its results could not be read, written or drawn.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    #[error(transparent)]
    Gpu(#[from] GpuError),
    #[error("{0} has no valid time: the clock ran backwards in every repetition")]
    NoTime(String),
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: std::io::Error },
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("no kernel of the step fits {0}; it has: {1}")]
    NoSuchKernel(String, String),
    #[error(
        "the two sets of shaders differ in no kernel of this step (they differ in: {0}); name kernels to compare them all the same"
    )]
    NothingChanged(String),
}

/// Reads a file with `parse`.
///
/// # Errors
/// When the file cannot be read, or `parse` fails.
pub(super) fn read<T, E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    path: &Path,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<T, MeasureError> {
    let failed = |source| MeasureError::Read { path: path.to_owned(), source };
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.into()))?;
    parse(&text).map_err(|error| failed(error.into()))
}

/// Writes a file atomically, creating its folder.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), MeasureError> {
    let folder = path.parent().map_or(Ok(()), std::fs::create_dir_all);
    folder
        .and_then(|()| store::write(path, bytes))
        .map_err(|source| MeasureError::Write { path: path.to_owned(), source })
}

/// Rows under a header, printed aligned: the first column to the left, numbers to the right.
#[derive(Clone, Debug)]
pub(crate) struct Table<const COLUMNS: usize> {
    pub header: [&'static str; COLUMNS],
    pub rows: Vec<[String; COLUMNS]>,
}

impl<const COLUMNS: usize> Table<COLUMNS> {
    /// Prints the rows; `bars` separates cells by `|`, as Markdown requires.
    fn print(&self, f: &mut impl fmt::Write, bars: bool) -> fmt::Result {
        let lines =
            || std::iter::once(self.header).chain(self.rows.iter().map(|row| row.each_ref().map(String::as_str)));
        let widths: [usize; COLUMNS] =
            std::array::from_fn(|column| lines().map(|line| line[column].chars().count()).max().unwrap_or(0));
        let is_text = |column: usize| {
            !self.rows.iter().all(|row| {
                row[column].is_empty()
                    || row[column].trim_start().starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '–')
            })
        };
        let is_text: [bool; COLUMNS] = std::array::from_fn(is_text);
        for (index, line) in lines().enumerate() {
            let cell = |column: usize| {
                let (text, width) = (line[column], widths[column]);
                if is_text[column] { format!("{text:<width$}") } else { format!("{text:>width$}") }
            };
            let cells: Vec<String> = (0..COLUMNS).map(cell).collect();
            match bars {
                true => writeln!(f, "| {} |", cells.join(" | "))?,
                false => writeln!(f, "{}", cells.join("  ").trim_end())?,
            }
            if bars && index == 0 {
                let rule = |column: usize| {
                    let dashes = "-".repeat(widths[column] + 1);
                    if is_text[column] { format!(":{dashes}") } else { format!("{dashes}:") }
                };
                writeln!(f, "|{}|", (0..COLUMNS).map(rule).collect::<Vec<_>>().join("|"))?;
            }
        }
        Ok(())
    }

    /// The rows as a Markdown table.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        self.print(&mut text, true).expect("writing to a string succeeds");
        text
    }
}

impl<const COLUMNS: usize> fmt::Display for Table<COLUMNS> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.print(f, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_and_quartiles() {
        let measure = Measure::of([5.0, 1.0, f64::NAN, 3.0, 2.0, 4.0]).unwrap();
        assert_eq!(measure, Measure { median: 3.0, low: 2.0, high: 4.0, count: 5 });
        assert_eq!(measure.spread(), 1.0 / 3.0);
        assert_eq!(measure.rate(12.0), Measure { median: 4.0, low: 3.0, high: 6.0, count: 5 });
        assert_eq!(Measure::of([1.0, 2.0]).unwrap().median, 1.5);
        assert_eq!(Measure::of([]), None);
    }

    #[test]
    fn seconds_are_positive_and_finite() {
        assert_eq!(positive_seconds("0.5"), Ok(0.5));
        for refused in ["nan", "inf", "-inf", "0", "-0", "-1", "1e999", "", "fast"] {
            assert!(positive_seconds(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn tables_align_and_become_markdown() {
        let rows = vec![["matmul".into(), "1.50".into()], ["add".into(), "120".into()]];
        let table = Table { header: ["kernel", "µs"], rows };
        assert_eq!(table.to_string(), "kernel    µs\nmatmul  1.50\nadd      120\n");
        assert_eq!(table.markdown(), "| kernel |   µs |\n|:-------|-----:|\n| matmul | 1.50 |\n| add    |  120 |\n");
    }
}
