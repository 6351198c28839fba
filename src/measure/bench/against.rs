//! Compares two sets of shaders, kernel by kernel, in one run.
//!
//! Each kernel first computes on the inputs that it has in the step, and only if both outputs are right are both timed. The two take
//! turns in rounds, and who begins alternates, so that other load affects both alike; each round gives the ratio of
//! the two medians. The verdict follows from an interval that covers the median of the ratios with a confidence of 99.9 %,
//! whatever their distribution: of n sorted ratios, from the k-th smallest to the k-th largest, where 2·P(Bin(n, ½) < k) ≤ 0.001
//! (the interval of the sign test). A kernel is slower, or faster, where all of the interval lies beyond 5 %:
//! on a CPU driver the same text, compiled twice, may differ by less.

use std::collections::HashMap;
use std::fmt;
use std::time::Instant;

use serde::Serialize;

use super::{Case, Format, Options, Verdict, csv, jsonl, wanted};
use crate::engine::bounds::{ULP, sum_bound};
use crate::engine::case::widen;
use crate::engine::gpu::{Clock, Device, Executor, GpuError, States};
use crate::engine::plan::{Plan, Step};
use crate::engine::tape::Array;
use crate::engine::tensor::{Shape, Tensor};
use crate::engine::units::figure;
use crate::measure::figures::{Measure, MeasureError, Origin, Table};
use crate::proof::check::{compare, tolerance};

/// A case with the kernels of both sets.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pair {
    pub device: String,
    pub driver: String,
    pub commit: String,
    /// The changed kernels of the first set and of the second, as [`Origin::shaders`].
    pub first: String,
    pub second: String,
    pub case: String,
    pub kernel: String,
    /// Dispatches of this case in the step.
    pub calls: usize,
    pub clock: Clock,
    /// Median microseconds of a dispatch.
    pub first_microseconds: Option<f64>,
    pub second_microseconds: Option<f64>,
    /// Median of second / first over the rounds: below 1 the second is faster.
    pub ratio: Option<f64>,
    /// Ends of the interval that covers the median of the ratios.
    pub low: Option<f64>,
    pub high: Option<f64>,
    pub rounds: usize,
    pub verdict: Verdict,
    /// What is wrong with which output.
    pub fault: Option<String>,
}

/// The cases of both sets.
#[derive(Clone, Debug, Serialize)]
pub struct Against {
    pub origin: Origin,
    pub rows: Vec<Pair>,
    #[serde(skip)]
    output: Option<Format>,
}

/// Rounds that a verdict takes at least.
const ROUNDS: usize = 48;

/// Smaller differences are none.
const LEAST: f64 = 0.05;

/// A round runs on one of so many shares of the sets of buffers, so that rounds are short and caches cold all the same.
const SHARES: usize = 8;

/// Most operations of a dispatch whose definition is evaluated: some seconds.
const AFFORDABLE: u64 = 1 << 32;

/// Compares the kernels of `first` and `second`, one device with two sets of shaders: those kernels of `plan` whose texts
/// differ, or all that the options name. `sources` are the values of the plan's feeds and states.
///
/// # Errors
/// When no kernel is to be compared, or the device fails.
pub fn against(
    [first, second]: [&Device; 2],
    options: &Options,
    plan: &Plan,
    sources: &HashMap<String, Tensor>,
    mut progress: impl FnMut(&str),
) -> Result<Against, MeasureError> {
    let changed = first.replaced_shaders().differing(&second.replaced_shaders());
    let is_changed = |case: &Case| changed.iter().any(|name| *name == case.step.kernel.name);
    let is_meant = |case: &Case| !options.kernels.is_empty() || is_changed(case);
    let cases = match wanted(plan, options, is_meant) {
        Err(MeasureError::NoSuchKernel(..)) if options.kernels.is_empty() => {
            let changed = if changed.is_empty() { "none".into() } else { changed.join(", ") };
            return Err(MeasureError::NothingChanged(changed));
        }
        cases => cases?,
    };
    progress("a step, for the inputs of the kernels");
    let inputs = inputs(first, plan, sources, &cases)?;
    let (origin, other) = (Origin::of(first), Origin::of(second));
    let mut rows = Vec::new();
    for (case, inputs) in cases.iter().zip(&inputs) {
        progress(&case.name);
        let fault = fault([first, second], plan, &case.step, inputs)?;
        let rounds = if fault.is_none() { rounds([first, second], case, inputs, options.seconds)? } else { Vec::new() };
        rows.push(Pair { second: other.shaders.clone(), ..row(&origin, first.clock(), case, &rounds, fault) });
    }
    Ok(Against { origin, rows, output: options.output })
}

/// The inputs of each case's dispatch in a step.
fn inputs(
    device: &Device,
    plan: &Plan,
    sources: &HashMap<String, Tensor>,
    cases: &[Case],
) -> Result<Vec<Vec<Tensor>>, MeasureError> {
    let source = |kind, name: &str| sources.get(name).ok_or_else(|| GpuError::Unknown { kind, name: name.to_owned() });
    let mut states = States::new(device);
    for (name, _) in &plan.states {
        states.set(name, source("state", name)?)?;
    }
    let mut executor = Executor::new(device, plan.clone(), &states, |_, _| ())?;
    for (name, _) in &plan.feeds {
        executor.feed(name, source("feed", name)?)?;
    }
    let mut found: Vec<Vec<Tensor>> = vec![Vec::new(); cases.len()];
    executor.trace(|step, inputs, _| {
        if let Some(at) = cases.iter().position(|case| case.step.value == step.value) {
            found[at] = inputs.to_vec();
        }
    })?;
    Ok(found)
}

/// What is wrong with the output of either kernel, if anything.
fn fault(devices: [&Device; 2], plan: &Plan, step: &Step, inputs: &[Tensor]) -> Result<Option<String>, MeasureError> {
    const SETS: [&str; 2] = ["the first set", "the second set"];
    let mut outputs = Vec::new();
    for (device, set) in devices.into_iter().zip(SETS) {
        match device.run_isolated(&step.kernel, inputs, &step.output.shape) {
            Err(lost @ GpuError::Lost { .. }) => return Err(lost.into()),
            Err(error) => return Ok(Some(format!("{set}: {error}"))),
            Ok(run) => match run.damage {
                Some(damage) => return Ok(Some(format!("{set}: {damage}"))),
                None => outputs.push(run.output),
            },
        }
    }
    let node = plan.graph.node(step.value);
    if step.flops > AFFORDABLE {
        let bound = product_bound(devices[0], step, inputs)?;
        let wrong = compare(&outputs[1], &widen(&outputs[0]), &bound).err();
        return Ok(wrong.map(|mismatch| format!("the second set, compared with the first: {mismatch}")));
    }
    let primitive = node.primitive().expect("a step computes");
    let shapes: Vec<&Shape> = node.inputs().iter().map(|&input| plan.graph.shape(input)).collect();
    let data: Vec<Vec<f64>> = inputs.iter().map(widen).collect();
    let arrays: Vec<Array> = shapes.into_iter().zip(&data).map(|(shape, data)| Array { shape, data }).collect();
    let want = primitive.eval(&arrays, &node.shape);
    let bound = tolerance(primitive, &step.kernel, &arrays, &node.shape, &want);
    let wrong = outputs.iter().zip(SETS).find_map(|(output, set)| Some((set, compare(output, &want, &bound).err()?)));
    Ok(wrong.map(|(set, mismatch)| format!("{set}: {mismatch}")))
}

/// How far two right outputs may lie apart. Only sums of products have so many operations that their definition is not evaluated;
/// the kernel itself sums the magnitudes.
fn product_bound(device: &Device, step: &Step, inputs: &[Tensor]) -> Result<Vec<f64>, MeasureError> {
    let magnitude =
        |tensor: &Tensor| Tensor::new(tensor.shape().clone(), tensor.data().iter().map(|value| value.abs()).collect());
    let inputs: Vec<Tensor> = inputs.iter().map(magnitude).collect();
    let sums = device.run_isolated(&step.kernel, &inputs, &step.output.shape)?.output;
    let terms = step.flops as usize / step.output.shape.count() / 2;
    // Matrix units round the factors to f16, and truncate; see `bounds`.
    let rounded = if step.kernel.tile().is_some() { 2.0 / 1024.0 + 2.0 * terms as f64 * ULP } else { 0.0 };
    Ok(widen(&sums).into_iter().map(|sum| 2.0 * (sum_bound(terms, sum) + rounded * sum)).collect())
}

/// The median seconds of a dispatch in each round, of both kernels.
fn rounds(devices: [&Device; 2], case: &Case, inputs: &[Tensor], seconds: f64) -> Result<Vec<[f64; 2]>, MeasureError> {
    let inputs: Vec<&Tensor> = inputs.iter().collect();
    let (sets, _) = case.sets(devices[0]);
    let shares = (sets / 2).clamp(1, SHARES);
    // Both kernels have the same buffers and are compiled anew for each share: where data and code lie changes the time.
    let mut executors: Vec<[Executor; 2]> = Vec::new();
    for _ in 0..shares {
        let buffers = case.buffers(devices[0], &inputs, sets / shares)?;
        let of =
            |device: &Device| case.executor(&device.with_shaders(device.replaced_shaders()), &buffers, sets / shares);
        executors.push([of(devices[0])?, of(devices[1])?]);
    }
    let mut rounds = Vec::new();
    let start = Instant::now();
    let mut tries = 0;
    while tries < ROUNDS || start.elapsed().as_secs_f64() < seconds {
        let mut times = [None; 2];
        let begins = (tries + tries / shares) % 2;
        for turn in [begins, 1 - begins] {
            let seconds = Case::times(&mut executors[tries % shares][turn], devices[turn].clock())?;
            times[turn] = Measure::of(seconds).map(|time| time.median);
        }
        if let [Some(first), Some(second)] = times {
            rounds.push([first, second]);
        }
        tries += 1;
    }
    if rounds.is_empty() { Err(MeasureError::NoTime(case.name.clone())) } else { Ok(rounds) }
}

fn row(origin: &Origin, clock: Clock, case: &Case, rounds: &[[f64; 2]], fault: Option<String>) -> Pair {
    let median = |values: Vec<f64>| Measure::of(values).map(|measure| measure.median);
    let micro = |which: usize| median(rounds.iter().map(|round| 1e6 * round[which]).collect());
    let ratios: Vec<f64> = rounds.iter().map(|[first, second]| second / first).collect();
    let interval = interval(ratios.clone());
    Pair {
        device: origin.device.clone(),
        driver: origin.driver.clone(),
        commit: origin.commit.clone(),
        first: origin.shaders.clone(),
        second: String::new(),
        case: case.name.clone(),
        kernel: case.step.kernel.name.into(),
        calls: case.calls,
        clock,
        first_microseconds: micro(0),
        second_microseconds: micro(1),
        ratio: median(ratios),
        low: interval.map(|[low, _]| low),
        high: interval.map(|[_, high]| high),
        rounds: rounds.len(),
        verdict: if fault.is_some() { Verdict::Wrong } else { verdict(interval) },
        fault,
    }
}

/// The interval that covers the median of what `ratios` are drawn from with a confidence of 99.9 %; `None` if they are too few.
fn interval(mut ratios: Vec<f64>) -> Option<[f64; 2]> {
    ratios.sort_by(f64::total_cmp);
    let n = ratios.len();
    // 2·P(Bin(n, ½) < k) for k = 1, 2, …
    let (mut term, mut tail, mut k) = (2.0 * 0.5f64.powi(n as i32), 0.0, 0);
    while tail + term <= 0.001 && k < n {
        tail += term;
        term *= (n - k) as f64 / (k + 1) as f64;
        k += 1;
    }
    (k > 0).then(|| [ratios[k - 1], ratios[n - k]])
}

fn verdict(interval: Option<[f64; 2]>) -> Verdict {
    match interval {
        Some([low, _]) if low > 1.0 + LEAST => Verdict::Slower,
        Some([_, high]) if high < 1.0 / (1.0 + LEAST) => Verdict::Faster,
        _ => Verdict::Same,
    }
}

impl Against {
    /// Whether no kernel of the second set is wrong or slower.
    pub fn passed(&self) -> bool {
        self.rows.iter().all(|row| matches!(row.verdict, Verdict::Faster | Verdict::Same))
    }

    fn table(&self) -> Table<7> {
        let or_dash = |value: Option<String>| value.unwrap_or_else(|| "–".into());
        let row = |row: &Pair| {
            let interval = row.low.zip(row.high).map(|(low, high)| format!("{low:.3} … {high:.3}"));
            [
                row.case.clone(),
                row.calls.to_string(),
                or_dash(row.first_microseconds.map(figure)),
                or_dash(row.second_microseconds.map(figure)),
                or_dash(row.ratio.map(|ratio| format!("{ratio:.3}"))),
                or_dash(interval),
                row.verdict.to_string(),
            ]
        };
        let header = ["case", "calls", "first µs", "second µs", "ratio", "99.9 % interval", "verdict"];
        Table { header, rows: self.rows.iter().map(row).collect() }
    }

    /// A line for each wrong kernel.
    fn faults(&self) -> String {
        let line = |row: &Pair| Some(format!("{} is wrong in {}\n", row.case, row.fault.as_ref()?));
        self.rows.iter().filter_map(line).collect()
    }
}

impl fmt::Display for Against {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.output {
            Some(Format::Jsonl) => f.write_str(&jsonl(&self.rows)),
            Some(Format::Csv) => f.write_str(&csv(&self.rows)),
            Some(Format::Md) => write!(f, "{}\n\n{}\n{}", self.origin, self.table().markdown(), self.faults()),
            None => write!(f, "{}\n\n{}\n{}", self.origin, self.table(), self.faults()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::gpu::Choice;
    use crate::engine::philox::Stream;
    use crate::engine::plan::Reuse;
    use crate::engine::shaders::{Replaced, SOURCES};
    use crate::engine::tape::Tape;

    #[test]
    fn the_interval_is_that_of_the_sign_test() {
        let ranks = |n: usize| interval((1..=n).map(|rank| rank as f64).rev().collect());
        // 2·2⁻¹⁰ > 0.001 ≥ 2·2⁻¹¹; for 24, P(Bin < 4) = 2325/2²⁴ and P(Bin < 5) = 12951/2²⁴, twice which exceeds 0.001.
        assert_eq!(ranks(10), None);
        assert_eq!(ranks(11), Some([1.0, 11.0]));
        assert_eq!(ranks(24), Some([4.0, 21.0]));
        assert_eq!(interval(Vec::new()), None);
    }

    /// Noise of ±15 % and a burst in a fifth of the rounds, on either side; as many rounds as two seconds have of a small kernel.
    #[test]
    fn sixteen_percent_are_found_under_load_and_nothing_where_nothing_changed() {
        let told = |slowdown: f64, seed: u64| {
            let mut stream = Stream::new(seed, 0);
            let mut noisy = || {
                let burst = if stream.uniform() < 0.2 { 1.0 + stream.uniform() } else { 1.0 };
                burst * (0.85 + 0.3 * stream.uniform())
            };
            verdict(interval((0..160).map(|_| slowdown * noisy() / noisy()).collect()))
        };
        let count = |slowdown, verdict| (0..200).filter(|&seed| told(slowdown, seed) == verdict).count();
        assert_eq!(count(1.0, Verdict::Same), 200);
        let (slower, faster) = (count(1.16, Verdict::Slower), count(1.0 / 1.16, Verdict::Faster));
        assert!(slower >= 180 && faster >= 180, "{slower} and {faster} of 200");
    }

    #[test]
    fn a_wrong_kernel_is_told_and_not_timed_and_a_changed_right_one_is_timed() {
        let plan = |device: &Device| {
            let mut tape = Tape::new();
            let x = tape.feed("x", [64, 33]);
            let y = tape.sum(x, &[0]);
            let z = tape.relu(y);
            Plan::new(&tape, &[z], &[], device.class(), Reuse::On)
        };
        let first = Device::open(&Choice::Best).unwrap();
        let plan = plan(&first);
        let kernel = plan.steps[0].kernel.name;
        assert!(kernel.starts_with("reduce"), "{kernel}");
        let text = SOURCES.iter().find(|(name, _)| *name == kernel).unwrap().1;
        let sources = HashMap::from([("x".to_owned(), Tensor::full([64, 33], 1.5))]);
        let told = |text: String, kernels: &[&str]| {
            let second = first.with_shaders(Replaced::default());
            second.replace_shader(kernel, text);
            let kernels = kernels.iter().map(|&kernel| kernel.to_owned()).collect();
            let options = Options { kernels, seconds: 0.0, ..Options::default() };
            against([&first, &second], &options, &plan, &sources, |_| ())
        };
        let same = told(format!("{text}// changed\n"), &[]).unwrap();
        assert_eq!(same.rows.len(), 1, "only the changed kernel runs");
        assert!(same.rows[0].rounds >= ROUNDS && same.rows[0].ratio.is_some_and(|ratio| ratio > 0.0));
        assert!(same.rows[0].second.starts_with(&format!("{kernel}@")) && same.rows[0].first.is_empty());

        let broken = format!("{}\nfn unused() {{}}", text.replace("y[", "y[0u * "));
        let wrong = told(broken, &[]).unwrap();
        assert_eq!((wrong.rows[0].verdict, wrong.rows[0].rounds, wrong.passed()), (Verdict::Wrong, 0, false));
        let text_of = |output| Against { output, ..wrong.clone() }.to_string();
        for output in [None, Some(Format::Md), Some(Format::Csv), Some(Format::Jsonl)] {
            assert!(text_of(output).contains("the second set: "), "{}", text_of(output));
        }
        let refused = told("not WGSL".into(), &[]).unwrap();
        assert_eq!(refused.rows[0].verdict, Verdict::Wrong);

        assert!(matches!(told(text.to_owned(), &["no such"]), Err(MeasureError::NoSuchKernel(..))));
        assert_eq!(told(text.to_owned(), &["reduce"]).unwrap().rows.len(), 1, "a named kernel runs unchanged");
    }
}
