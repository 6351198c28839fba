//! Compares the admissible tilings of each kernel at the shapes of a recorded step.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Case, Format, Options, wanted};
use crate::engine::gpu::{Clock, Device};
use crate::engine::kernel::{DeviceClass, Kernel};
use crate::engine::ops::lowering;
use crate::engine::plan::Plan;
use crate::engine::tensor::Shape;
use crate::engine::units::{figure, percent};
use crate::measure::figures::{Measure, MeasureError, Origin, Table};

/// A case with one tiling of its kernel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tiling {
    pub device: String,
    pub driver: String,
    pub commit: String,
    pub case: String,
    pub kernel: String,
    /// The constants in which the choices differ.
    pub tiles: String,
    /// Whether training uses it.
    pub chosen: bool,
    pub clock: Clock,
    /// Median microseconds of a dispatch, and the quartiles.
    pub microseconds: f64,
    pub low: f64,
    pub high: f64,
    /// Dispatches timed.
    pub count: usize,
    /// Time relative to that of the chosen tiling: below 1 is faster.
    pub ratio: f64,
}

/// Every case that has a choice of tilings, the fastest tiling of each first.
#[derive(Clone, Debug, Serialize)]
pub struct Sweep {
    pub origin: Origin,
    pub rows: Vec<Tiling>,
    #[serde(skip)]
    output: Option<Format>,
}

/// Times the kernels of `plan`, a plan for devices of `class`, with each of the
/// [`tilings`](crate::engine::lower::Lower::tilings) of its primitives. `progress` is called with the name of each.
///
/// # Errors
/// When no matching kernel has a choice, or the device fails.
pub fn sweep(
    device: &Device,
    options: &Options,
    plan: &Plan,
    class: DeviceClass,
    mut progress: impl FnMut(&str),
) -> Result<Sweep, MeasureError> {
    let tilings = |case: &Case| {
        let node = plan.graph.node(case.step.value);
        let shapes: Vec<&Shape> = case.step.inputs.iter().map(|input| &input.shape).collect();
        let mut kernels = {
            let lowered = node.primitive().and_then(lowering);
            lowered.map_or(Vec::new(), |lowered| lowered.tilings(&shapes, &node.shape, class))
        };
        kernels.retain(|kernel| *kernel != case.step.kernel);
        (!kernels.is_empty()).then_some(kernels)
    };
    let (origin, mut rows) = (Origin::of(device), Vec::new());
    for case in wanted(plan, options, |case| tilings(case).is_some())? {
        let kernels: Vec<Kernel> = tilings(&case).into_iter().flatten().collect();
        let names = tile_names(&case.step.kernel, &kernels);
        let mut times: Vec<(Kernel, Measure)> = Vec::new();
        for kernel in std::iter::once(case.step.kernel.clone()).chain(kernels) {
            progress(&format!("{}: {}", case.name, tiles(&kernel, &names)));
            let mut case = case.clone();
            case.step.kernel = kernel;
            let (time, _) = case.time(device, options.seconds)?;
            times.push((case.step.kernel, time));
        }
        let chosen = times[0].1.median;
        let row = |(kernel, time): (Kernel, Measure)| Tiling {
            device: origin.device.clone(),
            driver: origin.driver.clone(),
            commit: origin.commit.clone(),
            case: case.name.clone(),
            kernel: kernel.name.into(),
            tiles: tiles(&kernel, &names),
            chosen: kernel == case.step.kernel,
            clock: device.clock(),
            microseconds: 1e6 * time.median,
            low: 1e6 * time.low,
            high: 1e6 * time.high,
            count: time.count,
            ratio: time.median / chosen,
        };
        let mut case_rows: Vec<Tiling> = times.into_iter().map(row).collect();
        case_rows.sort_by(|a, b| a.ratio.total_cmp(&b.ratio));
        rows.extend(case_rows);
    }
    Ok(Sweep { origin, rows, output: options.output })
}

/// The constants in which the kernels differ.
fn tile_names(chosen: &Kernel, others: &[Kernel]) -> Vec<&'static str> {
    let value = |kernel: &Kernel, name: &str| {
        kernel.constants.iter().find(|(other, _)| *other == name).map(|&(_, value)| value)
    };
    let mut names: Vec<&'static str> =
        others.iter().chain([chosen]).flat_map(|kernel| kernel.constants.iter().map(|&(name, _)| name)).collect();
    let mut seen = std::collections::HashSet::new();
    names.retain(|name| seen.insert(*name) && others.iter().any(|other| value(other, name) != value(chosen, name)));
    names
}

fn tiles(kernel: &Kernel, names: &[&str]) -> String {
    let of_name = |(name, value): &(&str, crate::engine::kernel::Scalar)| {
        names.contains(name).then(|| format!("{name}={}", value.to_string().trim_end_matches('u')))
    };
    kernel.constants.iter().filter_map(of_name).collect::<Vec<_>>().join(" ")
}

impl Sweep {
    fn table(&self) -> Table<5> {
        let row = |row: &Tiling| {
            let spread = Measure { median: row.microseconds, low: row.low, high: row.high, count: row.count }.spread();
            let mark = if row.chosen { " ← chosen" } else { "" };
            [
                row.case.clone(),
                format!("{}{mark}", row.tiles),
                figure(row.microseconds),
                percent(spread),
                format!("{:.3}", row.ratio),
            ]
        };
        Table { header: ["case", "tiles", "µs", "± %", "of chosen"], rows: self.rows.iter().map(row).collect() }
    }
}

impl fmt::Display for Sweep {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.output {
            Some(Format::Jsonl) => f.write_str(&super::jsonl(&self.rows)),
            Some(Format::Csv) => f.write_str(&super::csv(&self.rows)),
            Some(Format::Md) => write!(f, "{}\n\n{}", self.origin, self.table().markdown()),
            None => write!(f, "{}\n\n{}", self.origin, self.table()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::gpu::Choice;
    use crate::engine::kernel::Lanes;
    use crate::engine::plan::Reuse;
    use crate::engine::tape::Tape;

    #[test]
    fn a_sweep_times_every_tiling_and_compares_it_with_the_chosen_one() {
        let device = Device::open(&Choice::Best).unwrap();
        let mut tape = Tape::new();
        let (x, w) = (tape.feed("x", [9, 16]), tape.feed("w", [16, 5]));
        let y = tape.matmul(x, w);
        let z = tape.relu(y);
        let plan = Plan::new(&tape, &[z], &[], DeviceClass::Cpu(Lanes::Eight), Reuse::On);
        let options = Options { seconds: 0.0, ..Options::default() };
        let swept = sweep(&device, &options, &plan, DeviceClass::Cpu(Lanes::Eight), |_| ()).unwrap();
        assert!(swept.rows.len() > 4 && swept.rows.iter().all(|row| row.kernel == "matmul/product_broadcast"));
        let chosen: Vec<&Tiling> = swept.rows.iter().filter(|row| row.chosen).collect();
        assert!(chosen.len() == 1 && chosen[0].ratio == 1.0);
        assert!(swept.rows.is_sorted_by(|a, b| a.ratio <= b.ratio));
        let tiles: std::collections::HashSet<&str> = swept.rows.iter().map(|row| row.tiles.as_str()).collect();
        assert_eq!(tiles.len(), swept.rows.len(), "tilings differ in their tiles");
        let text = Sweep { output: Some(Format::Jsonl), ..swept.clone() }.to_string();
        let read: Vec<Tiling> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(read, swept.rows);

        let none = Options { kernels: vec!["elementwise".into()], ..options };
        assert!(sweep(&device, &none, &plan, DeviceClass::Cpu(Lanes::Eight), |_| ()).is_err());
    }
}
