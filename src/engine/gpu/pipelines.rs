//! Pipelines: several are compiled at once, and what the driver made of them may be kept for later runs.

use std::collections::HashMap;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, ScopedJoinHandle};

use super::GpuError;
use super::device::{Device, key};
use crate::engine::plan::Step;

/// Pipelines for each thread between two reports of progress.
const BATCH: usize = 4;

impl Device {
    /// The name of what is [kept](Device::kept_pipelines) of this device's pipelines, for a file of an application's; `None` where
    /// wgpu has no way to keep them: it has one on Vulkan only.
    pub fn pipelines_key(&self) -> Option<String> {
        let is_able = self.device.features().contains(wgpu::Features::PIPELINE_CACHE);
        is_able.then(|| wgpu::util::pipeline_cache_key(&self.device.adapter_info())).flatten()
    }

    /// Has pipelines that are compiled from now on, by all clones of this device, be taken from `kept`, where they are in it, and
    /// be kept. Data of another adapter, driver or version of wgpu are ignored. Only the first call counts, and none on a device
    /// without a [key](Device::pipelines_key).
    ///
    /// # Safety
    /// `kept` is what [`kept_pipelines`](Device::kept_pipelines) once returned, to the last bit: drivers may run it unread.
    pub unsafe fn keep_pipelines(&self, kept: Option<&[u8]>) {
        if self.pipelines_key().is_none() {
            return;
        }
        let descriptor = wgpu::PipelineCacheDescriptor { label: Some("pipelines"), data: kept, fallback: true };
        // SAFETY: the caller has seen to it that the data are wgpu's own.
        self.kept.get_or_init(|| unsafe { self.device.create_pipeline_cache(&descriptor) });
    }

    /// The pipelines compiled so far, with those that were kept before; `None` unless they [are kept](Device::keep_pipelines).
    pub fn kept_pipelines(&self) -> Option<Vec<u8>> {
        self.kept.get()?.get_data()
    }

    /// Compiles the pipelines of the steps, several at once, and calls `on_ready` with how many steps have theirs.
    ///
    /// # Errors
    /// That of the first step whose pipeline cannot be made, however many threads there are.
    pub(super) fn compile(&self, steps: &[Step], mut on_ready: impl FnMut(usize)) -> Result<(), GpuError> {
        let (mut places, mut distinct) = (HashMap::new(), Vec::<(&Step, usize)>::new());
        for step in steps {
            let place = *places.entry(key(&step.kernel, &step.in_place())).or_insert(distinct.len());
            match distinct.get_mut(place) {
                Some((_, uses)) => *uses += 1,
                None => distinct.push((step, 1)),
            }
        }
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let mut ready = 0;
        on_ready(ready);
        // Nothing is being compiled while `on_ready` runs, which may end the process.
        for batch in distinct.chunks(BATCH * threads) {
            let next = AtomicUsize::new(0);
            let first_fault = || loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let (step, _) = batch.get(index)?;
                if let Err(error) = self.pipeline(&step.kernel, step.inputs.len(), &step.in_place()) {
                    // Those before it are being compiled; none after it has to be.
                    next.store(batch.len(), Ordering::Relaxed);
                    return Some((index, error));
                }
            };
            let faults = thread::scope(|scope| {
                let workers: Vec<_> = (0..threads.min(batch.len())).map(|_| scope.spawn(first_fault)).collect();
                let join = |worker: ScopedJoinHandle<_>| worker.join().unwrap_or_else(|panic| resume_unwind(panic));
                workers.into_iter().filter_map(join).collect::<Vec<(usize, GpuError)>>()
            });
            if let Some((_, error)) = faults.into_iter().min_by_key(|&(index, _)| index) {
                return Err(error);
            }
            ready += batch.iter().map(|(_, uses)| uses).sum::<usize>();
            on_ready(ready);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::gpu::Choice;
    use crate::engine::ops::elementwise::Unary;
    use crate::engine::plan::{Plan, Reuse};
    use crate::engine::tape::Tape;

    /// A plan of several kernels, some of them twice.
    fn plan(device: &Device) -> Plan {
        let mut t = Tape::new();
        let x = t.feed("x", [8, 8]);
        let [e, l, s] = [Unary::Exp, Unary::Log, Unary::Sqrt].map(|function| t.unary(function, x));
        let products = [t.matmul(e, l), t.matmul(l, s)];
        let sums = products.map(|product| t.total(product));
        Plan::new(&t, &sums, &[], device.class(), Reuse::On)
    }

    #[test]
    fn each_pipeline_is_compiled_once_and_progress_ends_at_all_steps() {
        let device = Device::open(&Choice::Best).unwrap();
        let (plan, mut told) = (plan(&device), Vec::new());
        device.compile(&plan.steps, |ready| told.push(ready)).unwrap();
        let compiled = device.tally().pipelines;
        assert!(told.is_sorted() && told[0] == 0 && told[told.len() - 1] == plan.steps.len(), "{told:?}");
        assert!(compiled < plan.steps.len() as u64);
        device.compile(&plan.steps, |_| ()).unwrap();
        assert_eq!(device.tally().pipelines, compiled);
    }

    #[test]
    fn the_first_fault_is_told_whichever_is_noticed_first() {
        for _ in 0..8 {
            let device = Device::open(&Choice::Best).unwrap();
            let plan = plan(&device);
            let mut names: Vec<&str> = plan.steps.iter().map(|step| step.kernel.name).collect();
            names.dedup();
            for name in &names[1..] {
                device.replace_shader(name, "no shader".into());
            }
            let told = device.compile(&plan.steps, |_| ()).unwrap_err().to_string();
            assert!(told.contains(names[1]), "{told}, not {}", names[1]);
        }
    }

    #[test]
    fn what_was_kept_is_taken_and_what_is_foreign_ignored() {
        let device = Device::open(&Choice::Best).unwrap();
        let Some(key) = device.pipelines_key() else { return println!("{} keeps none", device.adapter().name) };
        assert!(!key.contains(['/', '\\']), "{key} is to be the name of a file");
        assert_eq!(device.kept_pipelines(), None);
        let compile = |kept: Option<&[u8]>| {
            let device = Device::open(&Choice::Best).unwrap();
            // SAFETY: wgpu's own, or without wgpu's header, which it refuses.
            unsafe { device.keep_pipelines(kept) };
            let empty = device.kept_pipelines().unwrap().len();
            device.compile(&plan(&device).steps, |_| ()).unwrap();
            (empty, device.kept_pipelines().unwrap())
        };
        let (empty, first) = compile(None);
        // Mesa's CPU driver takes a cache, but puts nothing into it.
        assert!(first.len() > empty || device.is_cpu(), "nothing was kept");
        let (before, second) = compile(Some(&first));
        assert_eq!((before, second.len()), (first.len(), first.len()), "all is there, and nothing is added");
        for foreign in [&b""[..], b"foreign", &[0xff; 4096]] {
            assert_eq!(compile(Some(foreign)).0, empty);
        }
    }
}
