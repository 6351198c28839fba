//! What a dispatch costs, by the device's own clock where it has one.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::GpuError;
use super::executor::{Dispatch, Executor, Part, encode, read_back};

/// What measured a time. The two are not to be mixed: a host's clock also sees the way to the device and back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Clock {
    /// Timestamps that the device writes as it begins and ends a pass.
    Gpu,
    /// The host's clock, from a submit until it is known to be done.
    Wall,
}

impl std::fmt::Display for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.pad(match self {
            Clock::Gpu => "gpu",
            Clock::Wall => "wall",
        })
    }
}

/// When a dispatch ran.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    /// Seconds after the start of the first dispatch.
    pub start: f64,
    pub seconds: f64,
}

impl Span {
    /// None when the clock ran backwards, which WebGPU allows, or was never written.
    fn new(begin: u64, end: u64, origin: u64, period: f64) -> Option<Span> {
        let is_sound = begin <= end && origin <= begin && end > 0;
        is_sound.then(|| Span { start: (begin - origin) as f64 * period, seconds: (end - begin) as f64 * period })
    }
}

/// Passes in one submit: far below the query set's limit of 4096 timestamps, since some drivers stall over hundreds of
/// passes in one command buffer.
const PASSES: usize = 256;

/// Where the timestamps of one submit end and those of the next begin: aligned as wgpu asks.
const SUBMIT_BYTES: u64 = 2 * PASSES as u64 * wgpu::QUERY_SIZE as u64;

impl Executor {
    /// Runs the plan with a pass for each dispatch and says when each ran; `None` where the clock gave no sense. No
    /// state is copied; those that are computed in place change.
    ///
    /// # Errors
    /// When a feed was never set, or the device reported an error or was lost.
    ///
    /// # Panics
    /// When asked for [`Clock::Gpu`] on a device without it: see [`Device::clock`](super::Device::clock).
    pub fn profile(&mut self, clock: Clock) -> Result<Vec<Option<Span>>, GpuError> {
        self.timed(|run| match clock {
            Clock::Gpu => run.timestamps(1),
            Clock::Wall => run.profile_by_waiting(),
        })
    }

    /// Seconds that the plan takes in passes as long as those of [`run`](Executor::run); `None` where the clock gave no sense.
    /// No state is copied; those that are computed in place change.
    ///
    /// # Errors
    /// When a feed was never set, or the device reported an error or was lost.
    ///
    /// # Panics
    /// As [`profile`](Executor::profile).
    pub fn time_pass(&mut self, clock: Clock) -> Result<Option<f64>, GpuError> {
        self.timed(|run| match clock {
            Clock::Gpu => {
                let passes = run.timestamps(run.dispatches.len().max(1))?;
                Ok(passes.into_iter().map(|pass| Some(pass?.seconds)).sum())
            }
            Clock::Wall => {
                let start = Instant::now();
                let submits = (0..run.submits()).map(|submit| run.submit_dispatches(run.pace.dispatches(submit)));
                run.device.wait(submits.last(), || "a timed run".to_owned())?;
                Ok(Some(start.elapsed().as_secs_f64()))
            }
        })
    }

    /// A run whose dispatches `submit` hands over and times, with what is fetched after it.
    fn timed<T>(&mut self, submit: impl FnOnce(&Executor) -> Result<T, GpuError>) -> Result<T, GpuError> {
        let watch = self.device.watch();
        let begun = self.begin();
        let timed = begun.and_then(|()| submit(self)).and_then(|times| {
            self.copy_fetches();
            self.wait()?;
            Ok(times)
        });
        watch.end(|| "a timed run".to_owned(), timed)
    }

    fn profile_by_waiting(&self) -> Result<Vec<Option<Span>>, GpuError> {
        let origin = Instant::now();
        let time = |index: usize| {
            let start = origin.elapsed().as_secs_f64();
            let submit = self.submit_dispatches(index..index + 1);
            self.device.wait(Some(submit), || format!("dispatch {index} of a profiled run"))?;
            Ok(Some(Span { start, seconds: origin.elapsed().as_secs_f64() - start }))
        };
        (0..self.dispatches.len()).map(time).collect()
    }

    fn submit_dispatches(&self, dispatches: std::ops::Range<usize>) -> wgpu::SubmissionIndex {
        let mut encoder = self.encoder();
        let mut pass = encoder.begin_compute_pass(&Default::default());
        encode(&mut pass, &self.dispatches[dispatches]);
        drop(pass);
        self.submit(encoder)
    }

    /// Runs the plan with `dispatches` in each pass, or fewer where a run's submit ends, and times the passes.
    fn timestamps(&self, dispatches: usize) -> Result<Vec<Option<Span>>, GpuError> {
        let submits = (0..self.submits()).map(|submit| &self.dispatches[self.pace.dispatches(submit)]);
        let passes = submits.map(|submit| submit.chunks(dispatches).collect::<Vec<_>>());
        let submits: Vec<Vec<&[Dispatch]>> =
            passes.flat_map(|passes| passes.chunks(PASSES).map(<[_]>::to_vec).collect::<Vec<_>>()).collect();
        if submits.is_empty() {
            return Ok(Vec::new());
        }
        let (device, queue) = (&self.device.device, &self.device.queue);
        let queries = device.create_query_set(&wgpu::QuerySetDescriptor {
            label: Some("passes"),
            ty: wgpu::QueryType::Timestamp,
            count: 2 * PASSES as u32,
        });
        let bytes = submits.len() as u64 * SUBMIT_BYTES;
        let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
        let resolved = self.device.buffer_for("timestamps", bytes, usage)?;
        for (submit, passes) in submits.iter().enumerate() {
            let mut encoder = self.encoder();
            for (index, dispatches) in passes.iter().enumerate() {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                    label: None,
                    timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                        query_set: &queries,
                        beginning_of_pass_write_index: Some(2 * index as u32),
                        end_of_pass_write_index: Some(2 * index as u32 + 1),
                    }),
                });
                encode(&mut pass, dispatches);
            }
            let offset = submit as u64 * SUBMIT_BYTES;
            encoder.resolve_query_set(&queries, 0..2 * passes.len() as u32, &resolved, offset);
            self.submit(encoder);
        }
        let ticks: Vec<u64> = read_back(&self.device, &Part::whole(&resolved), bytes, "timestamps")?;
        let written =
            ticks.chunks_exact(2 * PASSES).zip(&submits).flat_map(|(ticks, passes)| &ticks[..2 * passes.len()]);
        let period = f64::from(queue.get_timestamp_period()) * 1e-9;
        Ok(spans(&written.copied().collect::<Vec<u64>>(), period))
    }
}

/// Pairs of begin and end, in ticks of `period` seconds.
fn spans(ticks: &[u64], period: f64) -> Vec<Option<Span>> {
    let pairs = || ticks.chunks_exact(2).map(|pair| (pair[0], pair[1]));
    let origin = pairs().filter(|&(begin, end)| begin <= end && end > 0).map(|(begin, _)| begin).min().unwrap_or(0);
    pairs().map(|(begin, end)| Span::new(begin, end, origin, period)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::gpu::{Choice, Device, States};
    use crate::engine::plan::{Plan, Reuse};
    use crate::engine::tape::Tape;
    use crate::engine::tensor::Tensor;

    #[test]
    fn a_clock_that_runs_backwards_or_was_never_written_gives_nothing() {
        let ticks = [100, 150, 0, 0, 400, 300, 160, 160, 150, 250];
        let spans = spans(&ticks, 2.0);
        let expected = [Some((0.0, 100.0)), None, None, Some((120.0, 0.0)), Some((100.0, 200.0))];
        assert_eq!(spans, expected.map(|span| span.map(|(start, seconds)| Span { start, seconds })));
        assert_eq!(super::spans(&[5, 1], 1.0), [None]);
    }

    #[test]
    fn both_clocks_time_every_dispatch_of_a_long_plan_and_leave_its_result() {
        let device = Device::open(&Choice::Best).unwrap();
        let mut tape = Tape::new();
        let x = tape.feed("x", [64]);
        let one = tape.constant(Tensor::full([64], 1.0));
        let y = (0..PASSES + 3).fold(x, |y, _| tape.add(y, one));
        let plan = Plan::new(&tape, &[y], &[], device.class(), Reuse::On);
        let mut executor = Executor::new(&device, plan, &States::new(&device), |_, _| ()).unwrap();
        executor.feed("x", &Tensor::full([64], 0.0)).unwrap();
        for clock in [device.clock(), Clock::Wall] {
            let spans = executor.profile(clock).unwrap();
            assert_eq!(spans.len(), PASSES + 3);
            assert!(spans.iter().flatten().all(|span| span.start >= 0.0 && span.seconds >= 0.0));
            assert!(executor.time_pass(clock).unwrap().is_none_or(|seconds| seconds > 0.0));
            assert_eq!(executor.fetch(y).unwrap(), Tensor::full([64], (PASSES + 3) as f32));
        }
    }
}
