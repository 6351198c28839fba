//! What the host reads: buffers that are mapped, and values of a run that are waited for or awaited.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::GpuError;
use super::device::Device;
use super::number::{Number, first_missing, unexecuted};
use crate::engine::tensor::{Shape, Tensor};

/// How long is waited for another thread that was told of a mapping before the device is asked again.
const PATIENCE: Duration = Duration::from_millis(10);

/// What has become of the wish to read a buffer: wgpu tells it to whichever thread polls the device.
#[derive(Debug, Default)]
struct Mapping {
    state: Mutex<MappingState>,
    told: Condvar,
}

#[derive(Debug, Default)]
struct MappingState {
    /// Whether it can be read, once that is known.
    outcome: Option<bool>,
    wakers: Vec<Waker>,
}

impl Mapping {
    fn outcome(&self) -> Option<bool> {
        self.state.lock().unwrap().outcome
    }

    /// The outcome that is told first stands.
    fn tell(&self, outcome: bool) {
        let mut state = self.state.lock().unwrap();
        state.outcome.get_or_insert(outcome);
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        self.told.notify_all();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Waits until the submit is done and the outcome is known.
    fn wait(&self, device: &Device, submit: &wgpu::SubmissionIndex) -> Result<(), String> {
        loop {
            device.poll(wgpu::PollType::Wait { submission_index: Some(submit.clone()), timeout: None })?;
            let state = self.state.lock().unwrap();
            let (state, _) = self.told.wait_timeout_while(state, PATIENCE, |state| state.outcome.is_none()).unwrap();
            match state.outcome {
                Some(true) => return Ok(()),
                Some(false) => return Err("its memory cannot be read".to_owned()),
                None => {}
            }
        }
    }

    /// Has the waker called when the outcome is known; `true` where it is already.
    fn is_known_or_wakes(&self, waker: &Waker) -> bool {
        let mut state = self.state.lock().unwrap();
        if state.outcome.is_none() && !state.wakers.iter().any(|other| other.will_wake(waker)) {
            state.wakers.push(waker.clone());
        }
        state.outcome.is_some()
    }
}

/// A buffer that the device copies to and the host reads.
#[derive(Debug)]
pub(super) struct Results {
    buffer: wgpu::Buffer,
    /// Set from when it is first to be read until it is [written](Results::reuse) again.
    mapping: Mutex<Option<Arc<Mapping>>>,
}

impl Results {
    /// Of at least a number.
    pub fn new(device: &Device, label: &str, bytes: u64) -> Result<Results, GpuError> {
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        Ok(Results { buffer: device.buffer_for(label, bytes.max(Number::BYTES), usage)?, mapping: Mutex::default() })
    }

    pub fn buffer(&self) -> &wgpu::Buffer {
        &self.buffer
    }

    pub fn bytes(&self) -> u64 {
        self.buffer.size()
    }

    /// Has the device write it again; `false` where that cannot be.
    pub fn reuse(&mut self) -> bool {
        match self.mapping.get_mut().unwrap().take().map(|mapping| mapping.outcome()) {
            None => true,
            Some(Some(false)) => false,
            Some(Some(true) | None) => {
                self.buffer.unmap();
                true
            }
        }
    }

    /// Asks for it to be readable once what was submitted so far is done.
    fn mapping(&self) -> Arc<Mapping> {
        let mut mapping = self.mapping.lock().unwrap();
        let wish = || {
            let mapping = Arc::<Mapping>::default();
            let told = mapping.clone();
            self.buffer.map_async(wgpu::MapMode::Read, .., move |outcome| told.tell(outcome.is_ok()));
            mapping
        };
        mapping.get_or_insert_with(wish).clone()
    }

    /// Waits for the submit that wrote it last, and has all of it read.
    pub fn read<T>(
        &self,
        device: &Device,
        submit: &wgpu::SubmissionIndex,
        at: impl Fn() -> String,
        read: impl FnOnce(&[u8]) -> Result<T, GpuError>,
    ) -> Result<T, GpuError> {
        let lost = |reason: String| GpuError::Lost { at: at(), reason };
        let watch = device.watch();
        let waited = self.mapping().wait(device, submit).map_err(lost);
        watch.end(&at, waited)?;
        let view = self.buffer.get_mapped_range(..).map_err(|error| lost(error.to_string()))?;
        read(&view)
    }
}

/// A run that was handed over.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub device: Device,
    pub results: Arc<Results>,
    /// Its number, and how often that has to stand in the results.
    pub number: u64,
    pub submits: u64,
    /// Dispatches of its plan.
    pub dispatches: usize,
    /// Its newest submit.
    pub newest: wgpu::SubmissionIndex,
}

impl Run {
    /// Waits for the run, makes sure that all of it was executed, and has its results read.
    pub fn read<T>(&self, read: impl FnOnce(&[u8]) -> T) -> Result<T, GpuError> {
        let at = || describe_run(self.number, self.dispatches);
        self.results.read(&self.device, &self.newest, at, |results| {
            match first_missing(&results[..(self.submits * Number::BYTES) as usize], self.number) {
                Some(submit) => Err(unexecuted(describe_submit(submit as u64, self.number, self.dispatches))),
                None => Ok(read(results)),
            }
        })
    }
}

pub(super) fn describe_run(number: u64, dispatches: usize) -> String {
    format!("run {number} of a plan of {dispatches} dispatches")
}

pub(super) fn describe_submit(submit: u64, number: u64, dispatches: usize) -> String {
    format!("submit {} of {}", submit + 1, describe_run(number, dispatches))
}

/// A value of one run, on its way to the host: from [`Executor::fetch_async`](super::Executor::fetch_async).
///
/// It is waited for with [`wait`](Fetch::wait), or awaited in any executor of futures; then a thread of its own waits for the
/// device from when it is first polled until the run is done. It keeps the results of its run, so later runs neither disturb
/// it nor wait for it. Dropped, it costs nothing more.
#[derive(Debug)]
#[must_use = "a value is fetched when it is waited for or awaited"]
pub struct Fetch {
    run: Run,
    /// Where the value begins in the results, in bytes.
    offset: u64,
    shape: Shape,
    has_waiter: bool,
}

impl Fetch {
    pub(super) fn new(run: Run, offset: u64, shape: Shape) -> Fetch {
        Fetch { run, offset, shape, has_waiter: false }
    }

    /// Whether [`wait`](Fetch::wait) would return at once. Asks the device without waiting for it.
    pub fn is_ready(&self) -> bool {
        let watch = self.run.device.watch();
        let mapping = self.run.results.mapping();
        let polled = self.run.device.poll(wgpu::PollType::Poll);
        // What went wrong is told by `wait`.
        watch.end(String::new, Ok(())).is_err() || polled.is_err() || mapping.outcome().is_some()
    }

    /// Waits for the run that the value was fetched of.
    ///
    /// # Errors
    /// When the device reported an error, was lost, or has not executed all of the run.
    pub fn wait(self) -> Result<Tensor, GpuError> {
        self.read()
    }

    fn read(&self) -> Result<Tensor, GpuError> {
        let (start, end) = (self.offset as usize, (self.offset + self.shape.bytes()) as usize);
        let data = self.run.read(|results| bytemuck::pod_collect_to_vec(&results[start..end]))?;
        Ok(Tensor::new(self.shape.clone(), data))
    }
}

impl Future for Fetch {
    type Output = Result<Tensor, GpuError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context) -> Poll<Self::Output> {
        if self.is_ready() {
            return Poll::Ready(self.read());
        }
        let mapping = self.run.results.mapping();
        if mapping.is_known_or_wakes(context.waker()) {
            return Poll::Ready(self.read());
        }
        if !self.has_waiter {
            // On native devices nothing happens unless someone polls them.
            let (device, newest) = (self.run.device.clone(), self.run.newest.clone());
            let waiter = move || {
                if mapping.wait(&device, &newest).is_err() {
                    mapping.tell(false);
                }
            };
            self.has_waiter = std::thread::Builder::new().name("fetch".to_owned()).spawn(waiter).is_ok();
            if !self.has_waiter {
                context.waker().wake_by_ref();
            }
        }
        Poll::Pending
    }
}
