//! The measured ceilings of the device, with which `profile` and `bench` compare kernels.
//!
//! Each ceiling is the best of several forms of a probe through this driver, not a data-sheet figure. A probe is a
//! kernel like any other and runs on the same executor. It is not a primitive, since it needs no derivative.

use std::fmt;
use std::path::PathBuf;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::engine::gpu::{Clock, Device, Executor, States};
use crate::engine::kernel::Kernel;
use crate::engine::lower::Opaque;
use crate::engine::plan::{Plan, Reuse};
use crate::engine::tape::{Tape, Value};
use crate::engine::tensor::{Shape, Tensor};
use crate::engine::units::{figure, percent};
use crate::measure::figures::{Measure, MeasureError, Origin, Table, positive_seconds, repeat, write};
use crate::run::kept;

/// How `stssad peak` measures.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Measure again, even if an earlier run has stored the ceilings
    #[arg(long)]
    pub refresh: bool,
    /// Least time to measure each figure in seconds; setup and compilation come on top
    #[arg(long, default_value_t = 0.5, value_name = "S", value_parser = positive_seconds)]
    pub seconds: f64,
}

impl Default for Options {
    fn default() -> Self {
        Options { refresh: false, seconds: 0.5 }
    }
}

/// One ceiling.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ceiling {
    /// `fp32-scalar`, `fp32-vec4`, `fp16-vec4`, `fp16-matrix`, `read`, `write`, `copy`, `workgroup`, `dispatch`, `host-dispatch`,
    /// `round-trip`, `upload` or `readback`.
    pub name: String,
    /// `GFLOP/s`, `GB/s` or `µs`; giga is 10⁹.
    pub unit: String,
    #[serde(flatten)]
    pub measure: Measure,
    /// The best form of the probe, or what was timed.
    pub form: String,
}

/// The ceilings of a device through its driver.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Peak {
    /// Version of the measurement; figures of another version are measured again.
    method: u32,
    pub origin: Origin,
    /// The clock that timed the kernels.
    pub clock: Clock,
    pub ceilings: Vec<Ceiling>,
    /// Seconds since an earlier run measured these figures and stored them; `None` if this one did.
    #[serde(skip_deserializing)]
    pub age: Option<u64>,
}

/// To be incremented when a probe changes.
const METHOD: u32 = 3;

impl Peak {
    /// The ceiling with this name, in its unit; `None` for f16 or matrix units on a device without them.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.ceilings.iter().find(|ceiling| ceiling.name == name).map(|ceiling| ceiling.measure.median)
    }

    /// The upper quartile, not the median: other load only lowers a rate, and kernels should not exceed a roof.
    fn roof(&self, names: &[&str]) -> f64 {
        let ceilings = self.ceilings.iter().filter(|ceiling| names.contains(&ceiling.name.as_str()));
        ceilings.map(|ceiling| ceiling.measure.high).fold(0.0, f64::max)
    }

    /// The compute roof: the best f32 rate in FLOP/s, a multiply-add counted as two.
    pub fn flops(&self) -> f64 {
        1e9 * self.roof(&["fp32-scalar", "fp32-vec4"])
    }

    /// The compute roof of a kernel in FLOP/s: that of matrix units if it multiplies on them.
    pub fn flops_of(&self, kernel: &Kernel) -> f64 {
        match kernel.tile() {
            None => self.flops(),
            Some(_) => 1e9 * self.roof(&["fp16-matrix"]),
        }
    }

    /// The highest arithmetic roof of a plan's kernels in FLOP/s, and at least that of f32.
    pub fn flops_of_plan(&self, plan: &Plan) -> f64 {
        plan.steps.iter().map(|step| self.flops_of(&step.kernel)).fold(self.flops(), f64::max)
    }

    /// The memory roof: the best rate of reading, writing or copying, in bytes/s.
    pub fn bandwidth(&self) -> f64 {
        1e9 * self.roof(&["read", "write", "copy"])
    }

    /// Seconds per empty dispatch in a chain of dependent dispatches.
    pub fn dispatch(&self) -> f64 {
        1e-6 * self.get("dispatch").unwrap_or(0.0)
    }

    /// When the figures were measured.
    pub fn measured(&self) -> String {
        match self.age {
            None => "measured now".into(),
            Some(age) => format!("measured {} ago and stored; --refresh measures again", duration(age)),
        }
    }

    /// The least time for this work in seconds: max(flops / compute roof, bytes / memory roof).
    pub fn lower_bound(&self, kernel: &Kernel, flops: u64, bytes: u64) -> f64 {
        (flops as f64 / self.flops_of(kernel)).max(bytes as f64 / self.bandwidth())
    }
}

/// `3 hours`: the largest unit of which there are two at least.
fn duration(seconds: u64) -> String {
    let units = [("days", 86_400), ("hours", 3600), ("minutes", 60)];
    let unit = units.into_iter().find(|(_, length)| seconds >= 2 * length);
    unit.map_or(format!("{seconds} seconds"), |(name, length)| format!("{} {name}", seconds / length))
}

impl fmt::Display for Peak {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        writeln!(f, "{}\n{}", self.origin, self.measured())?;
        let row = |ceiling: &Ceiling| {
            let Ceiling { name, unit, measure, form } = ceiling;
            [
                name.clone(),
                figure(measure.median),
                unit.clone(),
                format!("±{} %", percent(measure.spread())),
                form.clone(),
            ]
        };
        let rows = self.ceilings.iter().map(row).collect();
        write!(f, "{}", Table { header: ["ceiling", "median", "unit", "spread", "by"], rows })
    }
}

/// The ceilings of this device, from the cache of an earlier run or measured now, which takes about ten seconds.
/// `progress` is called with the name of each ceiling before it is measured.
///
/// # Errors
/// When the device reports an error or is lost. A cache that cannot be read or written is not an error.
pub fn run(device: &Device, options: &Options, progress: impl FnMut(&str)) -> Result<Peak, MeasureError> {
    let origin = Origin::of(device);
    let path = cache(&origin);
    let kept = path.as_ref().filter(|_| !options.refresh).and_then(|path| std::fs::read(path).ok());
    let kept: Option<Peak> = kept.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let is_this_device = |peak: &Peak| {
        let key =
            |origin: &Origin| (origin.device.clone(), origin.driver.clone(), origin.backend.clone(), origin.threads);
        peak.method == METHOD && key(&peak.origin) == key(&origin)
    };
    if let Some(peak) = kept.filter(is_this_device) {
        let written = path.and_then(|path| path.metadata().ok()?.modified().ok());
        let age = written.and_then(|written| written.elapsed().ok()).unwrap_or_default();
        return Ok(Peak { age: Some(age.as_secs()), ..peak });
    }
    let peak = Probing { device, clock: device.clock(), seconds: options.seconds, ceilings: Vec::new(), progress }
        .measure(origin)?;
    if let (Some(path), Ok(text)) = (path, serde_json::to_vec_pretty(&peak)) {
        // Without a cache the next run measures again.
        let _ = write(&path, &text);
    }
    Ok(peak)
}

/// The cache file of a device; `None` without a cache folder.
fn cache(origin: &Origin) -> Option<PathBuf> {
    let Origin { device, driver, backend, threads, .. } = origin;
    let name = format!("{device} {driver} {backend} {threads}").to_lowercase();
    let words: Vec<&str> = name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    Some(kept::folder()?.join(format!("peak-{}.json", words.join("-"))))
}

/// Elements that a workgroup of 64 moves per term of a memory probe, a `vec4` each.
const WORKGROUP: usize = 4 * 64;

/// Dispatches in the chain that measures the cost of one.
const CHAIN: usize = 256;

struct Probing<'a, Progress> {
    device: &'a Device,
    clock: Clock,
    seconds: f64,
    ceilings: Vec<Ceiling>,
    progress: Progress,
}

impl<Progress: FnMut(&str)> Probing<'_, Progress> {
    fn measure(mut self, origin: Origin) -> Result<Peak, MeasureError> {
        self.arithmetic("fp32-scalar", "peak/fma", 1)?;
        self.arithmetic("fp32-vec4", "peak/fma_vec4", 4)?;
        if self.device.has_f16() {
            self.arithmetic("fp16-vec4", "peak/fma_f16", 4)?;
        }
        self.matrices()?;
        self.memory("read", "peak/read", [1, 0])?;
        self.memory("write", "peak/write", [0, 1])?;
        self.memory("copy", "peak/copy", [1, 1])?;
        self.workgroup_memory()?;
        self.latency()?;
        self.transfer()?;
        Ok(Peak { method: METHOD, origin, clock: self.clock, ceilings: self.ceilings, age: None })
    }

    fn keep(&mut self, name: &str, unit: &str, measure: Option<Measure>, form: String) -> Result<(), MeasureError> {
        let measure = measure.ok_or_else(|| MeasureError::NoTime(name.into()))?;
        self.ceilings.push(Ceiling { name: name.into(), unit: unit.into(), measure, form });
        Ok(())
    }

    fn is_cpu(&self) -> bool {
        self.device.is_cpu()
    }

    /// An executor of `times` such kernels, each reading the output of the one before, and the last value.
    fn executor(&self, probe: &Opaque, input: &Tensor, times: usize) -> Result<(Executor, Value), MeasureError> {
        let mut tape = Tape::new();
        let x = tape.feed("x", input.shape().clone());
        let y = (0..times).fold(x, |y, _| tape.push(probe.clone(), &[y]));
        let plan = Plan::new(&tape, &[y], &[], self.device.class(), Reuse::On);
        let mut executor = Executor::new(self.device, plan, &States::new(self.device), |_, _| ())?;
        executor.feed("x", input)?;
        // On some drivers the first run compiles the pipeline, and the first access maps the memory.
        executor.run()?;
        executor.wait()?;
        Ok((executor, y))
    }

    /// Seconds per dispatch, measured for `seconds`.
    fn time(&self, probe: &Opaque, input: &Tensor, seconds: f64) -> Result<Option<Measure>, MeasureError> {
        let (mut executor, _) = self.executor(probe, input, 1)?;
        let mut times = Vec::new();
        repeat(seconds, || {
            let spans = executor.profile(self.clock)?;
            times.extend(spans.into_iter().flatten().map(|span| span.seconds).filter(|&seconds| seconds > 0.0));
            Ok::<(), MeasureError>(())
        })?;
        Ok(Measure::of(times))
    }

    /// The best of `probes` by `work / seconds`: each is tried briefly, the winner measured in full.
    fn best(
        &self,
        probes: Vec<(Opaque, String)>,
        input: &Tensor,
        work: impl Fn(&Opaque) -> f64,
    ) -> Result<(Option<Measure>, String), MeasureError> {
        let mut best: Option<(f64, (Opaque, String))> = None;
        for candidate in probes {
            let Some(time) = self.time(&candidate.0, input, self.seconds / 8.0)? else { continue };
            let rate = work(&candidate.0) / time.low;
            if best.as_ref().is_none_or(|(other, _)| rate > *other) {
                best = Some((rate, candidate));
            }
        }
        let Some((_, (probe, form))) = best else { return Ok((None, String::new())) };
        let time = self.time(&probe, input, self.seconds)?;
        Ok((time.map(|time| time.rate(work(&probe))), form))
    }

    /// Rounds for `kernel` to run some milliseconds: long against a clock tick, short against a watchdog.
    fn rounds(&self, kernel: &Kernel, input: &Tensor, output: &Shape) -> Result<usize, MeasureError> {
        let mut rounds = 16;
        loop {
            let probe = Opaque { kernel: kernel.clone().immediate("rounds", rounds), output: output.clone() };
            let time = self.time(&probe, input, 0.0)?.map_or(0.0, |time| time.median);
            if time > 4e-3 || rounds >= 1 << 20 {
                return Ok(rounds);
            }
            rounds *= if time > 1e-3 { 2 } else { 8 };
        }
    }

    fn invocations(&self) -> usize {
        if self.is_cpu() { 1 << 12 } else { 1 << 20 }
    }

    fn arithmetic(&mut self, name: &str, shader: &'static str, width: usize) -> Result<(), MeasureError> {
        (self.progress)(name);
        const STEPS: usize = 16;
        // m < 1: the chains converge to b / (1 − m), so they neither overflow nor become subnormal.
        let factors = Tensor::new([2], vec![0.5, 1.5]);
        let output = Shape::from([self.invocations()]);
        let mut probes = Vec::new();
        for chains in [2usize, 4, 8, 16] {
            for (fused, written) in [(1u32, "fma(x, m, b)"), (0, "x · m + b")] {
                let kernel = Kernel::new(shader)
                    .constant("CHAINS", chains)
                    .constant("STEPS", STEPS)
                    .constant("FUSED", fused)
                    .over(self.invocations(), 64);
                let rounds = self.rounds(&kernel, &factors, &output)?;
                let probe = Opaque { kernel: kernel.immediate("rounds", rounds), output: output.clone() };
                probes.push((probe, format!("{chains} chains of {written}")));
            }
        }
        let number = |kernel: &Kernel, name: &str| {
            let values = kernel.constants.iter().chain(&kernel.immediates);
            values.clone().find(|(other, _)| *other == name).map_or(0.0, |(_, value)| f64::from(value.to_bits()))
        };
        let flops = |probe: &Opaque| {
            let steps = number(&probe.kernel, "CHAINS") * STEPS as f64 * number(&probe.kernel, "rounds");
            2.0 * width as f64 * steps * probe.output.count() as f64
        };
        let (rate, form) = self.best(probes, &factors, flops)?;
        self.keep(name, "GFLOP/s", rate.map(|rate| rate.scaled(1e-9)), form)
    }

    /// Skipped on devices without matrix units.
    fn matrices(&mut self) -> Result<(), MeasureError> {
        const STEPS: usize = 16;
        let factors = Tensor::new([2], vec![0.5, 1.5]);
        let output = Shape::from([self.invocations()]);
        let mut probes = Vec::new();
        for &tile in self.device.tiles() {
            let kernel =
                Kernel::new("peak/matrix").with_tile(tile).constant("STEPS", STEPS).over(self.invocations(), 64);
            let rounds = self.rounds(&kernel, &factors, &output)?;
            let probe = Opaque { kernel: kernel.immediate("rounds", rounds), output: output.clone() };
            // Each subgroup of 32 keeps four sums; each takes a multiply-add for every row, column and term.
            let flops = 2.0 * 4.0 * tile.side().pow(3) as f64 * (STEPS * rounds * output.count() / 32) as f64;
            probes.push((probe, format!("4 sums of products of {tile}"), flops));
        }
        if probes.is_empty() {
            return Ok(());
        }
        (self.progress)("fp16-matrix");
        let flops: Vec<(Kernel, f64)> = probes.iter().map(|(probe, _, flops)| (probe.kernel.clone(), *flops)).collect();
        let work = |probe: &Opaque| flops.iter().find(|(kernel, _)| *kernel == probe.kernel).map_or(0.0, |(_, f)| *f);
        let probes = probes.into_iter().map(|(probe, form, _)| (probe, form)).collect();
        let (rate, form) = self.best(probes, &factors, work)?;
        self.keep("fp16-matrix", "GFLOP/s", rate.map(|rate| rate.scaled(1e-9)), form)
    }

    /// Elements of an array that exceeds every cache and fits one binding.
    fn beyond_cache(&self) -> usize {
        let wanted = if self.is_cpu() { 64 << 20 } else { 256 << 20 };
        let adapter = self.device.adapter();
        let bytes = wanted.min(adapter.max_binding_bytes).min(adapter.max_buffer_bytes) as usize;
        bytes / 4 / (16 * WORKGROUP) * (16 * WORKGROUP)
    }

    /// `reads` and `writes`: how often each element is read and written.
    fn memory(&mut self, name: &str, shader: &'static str, [reads, writes]: [usize; 2]) -> Result<(), MeasureError> {
        (self.progress)(name);
        let count = self.beyond_cache();
        let extent = |times: usize| if times > 0 { count } else { 1 };
        let input = Tensor::full([extent(reads)], 1.0);
        let probe = |terms: usize| {
            let kernel = Kernel::new(shader).constant("TERMS", terms).over(count, terms * WORKGROUP);
            (Opaque { kernel, output: [extent(writes)].into() }, format!("{terms} vec4 an invocation"))
        };
        let bytes = (4 * count * (reads + writes)) as f64;
        let (rate, form) = self.best([1, 4, 16].map(probe).into(), &input, |_| bytes)?;
        self.keep(name, "GB/s", rate.map(|rate| rate.scaled(1e-9)), form)
    }

    fn workgroup_memory(&mut self) -> Result<(), MeasureError> {
        (self.progress)("workgroup");
        const STEPS: usize = 8;
        let (invocations, value) = (self.invocations(), Tensor::full([1], 1.0));
        let kernel = Kernel::new("peak/workgroup").constant("STEPS", STEPS).over(invocations, 64);
        let rounds = self.rounds(&kernel, &value, &[invocations].into())?;
        let probe = Opaque { kernel: kernel.immediate("rounds", rounds), output: [invocations].into() };
        let time = self.time(&probe, &value, self.seconds)?;
        let bytes = (16 * invocations * STEPS * rounds) as f64;
        self.keep("workgroup", "GB/s", time.map(|time| time.rate(bytes).scaled(1e-9)), "vec4 reads".into())
    }

    fn latency(&mut self) -> Result<(), MeasureError> {
        (self.progress)("dispatch");
        let input = Tensor::full([64], 1.0);
        let probe = Opaque { kernel: Kernel::new("peak/empty"), output: [64].into() };
        let (mut chain, _) = self.executor(&probe, &input, CHAIN)?;
        let (mut on_device, mut on_host) = (Vec::new(), Vec::new());
        repeat(self.seconds, || {
            on_device.extend(chain.time_pass(self.clock)?);
            let start = Instant::now();
            chain.run()?;
            on_host.push(start.elapsed().as_secs_f64());
            Ok::<(), MeasureError>(chain.wait()?)
        })?;
        let each = |times: Vec<f64>| Measure::of(times).map(|time| time.scaled(1e6 / CHAIN as f64));
        let form = format!("a pass of {CHAIN}, each depending on the one before");
        self.keep("dispatch", "µs", each(on_device), form)?;
        self.keep("host-dispatch", "µs", each(on_host), format!("recording and submitting {CHAIN}"))?;

        (self.progress)("round-trip");
        let (mut single, _) = self.executor(&probe, &input, 1)?;
        let mut times = Vec::new();
        repeat(self.seconds, || {
            let start = Instant::now();
            single.run()?;
            single.wait()?;
            times.push(start.elapsed().as_secs_f64());
            Ok::<(), MeasureError>(())
        })?;
        let time = Measure::of(times).map(|time| time.scaled(1e6));
        self.keep("round-trip", "µs", time, "submit one dispatch and wait".into())
    }

    fn transfer(&mut self) -> Result<(), MeasureError> {
        (self.progress)("upload");
        const COUNT: usize = 4 << 20;
        let array = Tensor::full([COUNT], 1.0);
        // A write is part of the next submit, so the upload includes one dispatch with almost nothing to do.
        let (mut reader, _) =
            self.executor(&Opaque { kernel: Kernel::new("peak/empty"), output: [64].into() }, &array, 1)?;
        let kernel = Kernel::new("peak/copy").over(COUNT, 4 * WORKGROUP);
        let (copier, copied) = self.executor(&Opaque { kernel, output: [COUNT].into() }, &array, 1)?;
        let (mut up, mut down) = (Vec::new(), Vec::new());
        repeat(self.seconds, || {
            let start = Instant::now();
            reader.feed("x", &array)?;
            reader.run()?;
            reader.wait()?;
            up.push(start.elapsed().as_secs_f64());
            let start = Instant::now();
            copier.fetch(copied)?;
            down.push(start.elapsed().as_secs_f64());
            Ok::<(), MeasureError>(())
        })?;
        let bytes = 4.0 * COUNT as f64;
        let rate = |times: Vec<f64>| Measure::of(times).map(|time| time.rate(bytes).scaled(1e-9));
        self.keep("upload", "GB/s", rate(up), "16 MiB from host memory, dispatch included".into())?;
        self.keep("readback", "GB/s", rate(down), "16 MiB to host memory, staging included".into())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::engine::gpu::Choice;
    use crate::engine::kernel::{Precision, Tile};

    #[test]
    fn every_ceiling_is_positive_and_survives_the_cache() {
        let device = Device::open(&Choice::Best).unwrap();
        let probing = Probing {
            device: &device,
            clock: device.clock(),
            seconds: 0.0,
            ceilings: Vec::new(),
            progress: |_: &str| (),
        };
        let peak = probing.measure(Origin::of(&device)).unwrap();
        assert!(peak.ceilings.len() >= 11);
        for Ceiling { name, measure, .. } in &peak.ceilings {
            assert!(measure.median > 0.0 && measure.low <= measure.median && measure.median <= measure.high, "{name}");
        }
        assert!(peak.flops() > 0.0 && peak.bandwidth() > 0.0 && peak.dispatch() > 0.0);
        let text = serde_json::to_vec(&peak).unwrap();
        let read: Peak = serde_json::from_slice(&text).unwrap();
        assert_eq!(read.get("copy").unwrap() as f32, peak.get("copy").unwrap() as f32);
    }

    #[test]
    fn stored_figures_tell_their_age() {
        let told = |age| Peak { age, ..roofs(1.0, 1.0) }.to_string();
        assert!(told(None).contains("measured now"));
        for (age, words) in
            [(119, "119 seconds ago"), (120, "2 minutes ago"), (7200, "2 hours ago"), (864_000, "10 days ago")]
        {
            assert!(told(Some(age)).contains(&format!("measured {words} and stored; --refresh")), "{age}");
        }
    }

    #[test]
    fn no_kernel_beats_both_roofs() {
        let peak = roofs(100.0, 10.0);
        let kernel = Kernel::new("any");
        assert_eq!(peak.lower_bound(&kernel, 200_000_000_000, 1), 2.0);
        assert_eq!(peak.lower_bound(&kernel, 1, 30_000_000_000), 3.0);
        let on_matrices = kernel.with_tile(Tile::Eight);
        assert_eq!(peak.lower_bound(&on_matrices, 200_000_000_000, 1), 0.5);
        assert_eq!(peak.dispatch(), 0.0);
    }

    /// A device with these roofs in GFLOP/s and GB/s.
    pub(crate) fn roofs(gflops: f64, gigabytes: f64) -> Peak {
        let origin = Origin {
            device: "a device".into(),
            driver: "a driver".into(),
            backend: "vulkan".into(),
            class: "cpu".into(),
            threads: 2,
            version: "0".into(),
            commit: String::new(),
            precision: Precision::F32,
            shaders: String::new(),
        };
        let ceiling = |name: &str, unit: &str, median| Ceiling {
            name: name.into(),
            unit: unit.into(),
            measure: Measure { median, low: median, high: median, count: 1 },
            form: String::new(),
        };
        let ceilings = vec![
            ceiling("fp32-vec4", "GFLOP/s", gflops),
            ceiling("fp16-matrix", "GFLOP/s", 4.0 * gflops),
            ceiling("copy", "GB/s", gigabytes),
        ];
        Peak { method: METHOD, origin, clock: Clock::Gpu, ceilings, age: None }
    }
}
