//! The engine in an application that has a device, buffers and threads of its own.
//!
//! A device is needed: `STSSAD_ADAPTER`, a number or a part of a name, or else the best.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;

use stssad::engine::gpu::wgpu::{self, BufferUsages};
use stssad::engine::gpu::{Choice, Device, Executor, Fetch, GpuError, States};
use stssad::engine::plan::{Plan, Reuse};
use stssad::engine::tape::{Tape, Value};
use stssad::engine::tensor::Tensor;

fn choice() -> Choice {
    std::env::var("STSSAD_ADAPTER").map_or(Choice::Best, |adapter| Choice::from(&*adapter))
}

fn adapter() -> wgpu::Adapter {
    Device::adapter_for(&choice()).unwrap_or_else(|error| panic!("{error}"))
}

/// What an application opens: the engine's needs, changed by `change`.
fn opened(adapter: &wgpu::Adapter, change: impl FnOnce(&mut wgpu::DeviceDescriptor)) -> (wgpu::Device, wgpu::Queue) {
    let mut descriptor = Device::descriptor_for(adapter).unwrap();
    change(&mut descriptor);
    pollster::block_on(adapter.request_device(&descriptor)).unwrap()
}

/// An application's device, taken into the engine.
fn hosted() -> Device {
    hosted_of(&adapter())
}

fn hosted_of(adapter: &wgpu::Adapter) -> Device {
    let (device, queue) = opened(adapter, |_| ());
    Device::from_wgpu(adapter, device, queue).unwrap()
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    tensor.data().iter().map(|x| x.to_bits()).collect()
}

const ROWS: usize = 8;
/// Elements of a value.
const COUNT: usize = ROWS * ROWS;
const BYTES: u64 = 4 * COUNT as u64;

fn square(seed: usize) -> Tensor {
    Tensor::new([ROWS, ROWS], (0..COUNT).map(|index| 0.03 * ((index * 7 + seed) % 13) as f32 - 0.2).collect())
}

/// w ← w + x·w, of which x·w, relu(x·w), x and w are fetched.
struct Example {
    tape: Tape,
    fetches: [Value; 4],
    carry: (Value, Value),
}

impl Example {
    fn new() -> Example {
        let mut tape = Tape::new();
        let (x, w) = (tape.feed("x", [ROWS, ROWS]), tape.state("w", [ROWS, ROWS]));
        let product = tape.matmul(x, w);
        let positive = tape.relu(product);
        let next = tape.add(w, product);
        Example { tape, fetches: [product, positive, x, w], carry: (w, next) }
    }

    fn unfed(&self, device: &Device) -> (Executor, States) {
        let mut states = States::new(device);
        states.set("w", &square(1)).unwrap();
        let plan = Plan::new(&self.tape, &self.fetches, &[self.carry], device.class(), Reuse::On);
        (Executor::new(device, plan, &states, |_, _| ()).unwrap(), states)
    }

    fn fed(&self, device: &Device) -> (Executor, States) {
        let (mut executor, states) = self.unfed(device);
        executor.feed("x", &square(2)).unwrap();
        (executor, states)
    }

    fn fetch(&self, executor: &Executor) -> Vec<Vec<u32>> {
        self.fetches.iter().map(|&value| bits(&executor.fetch(value).unwrap())).collect()
    }

    /// What each of so many runs is to fetch, by the engine's own device and the host's data.
    fn expected(&self, runs: usize) -> Vec<Vec<Vec<u32>>> {
        let (mut executor, _states) = self.fed(&Device::open(&choice()).unwrap());
        (0..runs)
            .map(|_| {
                executor.run().unwrap();
                self.fetch(&executor)
            })
            .collect()
    }
}

/// A buffer of an application's, from `offset` on filled with `tensor`.
fn buffer(device: &Device, tensor: &Tensor, offset: u64, usage: BufferUsages) -> wgpu::Buffer {
    let size = offset + tensor.shape().bytes();
    let descriptor =
        wgpu::BufferDescriptor { label: None, size, usage: usage | BufferUsages::COPY_DST, mapped_at_creation: false };
    let buffer = device.wgpu_device().create_buffer(&descriptor);
    device.wgpu_queue().write_buffer(&buffer, offset, bytemuck::cast_slice(tensor.data()));
    buffer
}

/// Reads a slice as an application does, without the engine.
fn read_by_host(device: &Device, slice: wgpu::BufferSlice) -> Vec<u32> {
    let usage = BufferUsages::MAP_READ | BufferUsages::COPY_DST;
    let descriptor = wgpu::BufferDescriptor { label: None, size: slice.size(), usage, mapped_at_creation: false };
    let (device, queue) = (device.wgpu_device(), device.wgpu_queue());
    let staging = device.create_buffer(&descriptor);
    let mut encoder = device.create_command_encoder(&Default::default());
    encoder.copy_buffer_to_buffer(slice.buffer(), slice.offset(), &staging, 0, slice.size());
    queue.submit([encoder.finish()]);
    staging.map_async(wgpu::MapMode::Read, .., |outcome| outcome.unwrap());
    device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
    bytemuck::pod_collect_to_vec(&staging.get_mapped_range(..).unwrap())
}

/// What the error of a buffer says.
fn told<T: std::fmt::Debug>(result: Result<T, GpuError>) -> String {
    let error = result.expect_err("an unfit buffer is refused");
    assert!(matches!(error, GpuError::Buffer { .. }), "{error:?}");
    error.to_string()
}

#[test]
fn types_that_move_between_threads_are_send() {
    fn sends<T: Send>() {}
    fn shares<T: Send + Sync>() {}
    sends::<Executor>();
    sends::<States>();
    shares::<Fetch>();
    shares::<Device>();
    shares::<Plan>();
    shares::<Tape>();
    shares::<GpuError>();
}

#[test]
fn an_applications_device_gives_bit_identical_results() {
    let example = Example::new();
    let device = hosted();
    let (mut executor, _states) = example.fed(&device);
    for expected in example.expected(3) {
        executor.run().unwrap();
        assert_eq!(example.fetch(&executor), expected);
    }
}

#[test]
fn a_device_without_required_features_is_refused_and_they_are_named() {
    let adapter = adapter();
    let refused = |change: fn(&mut wgpu::DeviceDescriptor)| {
        let (device, queue) = opened(&adapter, change);
        let error = Device::from_wgpu(&adapter, device, queue).expect_err("it lacks something");
        assert!(matches!(error, GpuError::Unusable { .. }), "{error:?}");
        error.to_string()
    };
    let bare: fn(&mut wgpu::DeviceDescriptor) = |descriptor| {
        descriptor.required_features = wgpu::Features::empty();
        descriptor.required_limits = wgpu::Limits::default();
    };
    for (told, change) in [
        ("as the device was opened, it has no immediates", bare),
        ("less than 96 bytes of immediates", |descriptor| descriptor.required_limits.max_immediate_size = 64),
        ("fewer than 8 storage buffers", |descriptor| {
            descriptor.required_limits.max_storage_buffers_per_shader_stage = 7;
        }),
        ("fewer than 256 invocations", |descriptor| {
            descriptor.required_limits.max_compute_invocations_per_workgroup = 128;
            descriptor.required_limits.max_compute_workgroup_size_x = 128;
            descriptor.required_limits.max_compute_workgroup_size_y = 128;
        }),
    ] {
        let error = refused(change);
        assert!(error.contains(told) && error.contains("Device::descriptor_for"), "{error}");
    }
}

#[test]
fn the_limits_of_the_device_count_and_not_those_of_its_adapter() {
    let adapter = adapter();
    let (device, queue) = opened(&adapter, |descriptor| {
        descriptor.required_features.remove(wgpu::Features::TIMESTAMP_QUERY);
        descriptor.required_limits.max_storage_buffer_binding_size = 1 << 20;
    });
    let device = Device::from_wgpu(&adapter, device, queue).unwrap();
    assert_eq!(device.largest_value(), 1 << 20);
    assert_eq!(device.clock(), stssad::engine::gpu::Clock::Wall);
    let mut tape = Tape::new();
    let x = tape.feed("x", [1 << 19]);
    let plan = Plan::new(&tape, &[x], &[], device.class(), Reuse::On);
    let refused = Executor::new(&device, plan, &States::new(&device), |_, _| ()).unwrap_err();
    assert!(matches!(refused, GpuError::TooLarge { limit, .. } if limit == 1 << 20), "{refused}");
}

#[test]
fn the_applications_callbacks_stay_and_receive_only_its_own_errors() {
    let adapter = adapter();
    let (raw, queue) = opened(&adapter, |_| ());
    let [errors, losses] = [0, 1].map(|_| Arc::new(AtomicUsize::new(0)));
    let counted = errors.clone();
    raw.on_uncaptured_error(Arc::new(move |_| _ = counted.fetch_add(1, Ordering::Relaxed)));
    let counted = losses.clone();
    raw.set_device_lost_callback(move |_, _| _ = counted.fetch_add(1, Ordering::Relaxed));
    let device = Device::from_wgpu(&adapter, raw.clone(), queue).unwrap();

    // A fault in the engine's calls: a buffer of another device is fed.
    let example = Example::new();
    let (mut executor, _states) = example.fed(&device);
    let foreign = buffer(&hosted_of(&adapter), &square(2), 0, BufferUsages::COPY_SRC | BufferUsages::STORAGE);
    let refused = executor.bind_feed("x", foreign.slice(..)).unwrap_err();
    assert!(matches!(refused, GpuError::Refused { .. }), "{refused}");
    // The feed is as before.
    executor.run().unwrap();
    assert_eq!(example.fetch(&executor), example.expected(1)[0]);
    executor.feed_from("x", foreign.slice(..)).unwrap();
    assert!(matches!(executor.run(), Err(GpuError::Refused { .. })));
    executor.feed("x", &square(2)).unwrap();
    executor.run().unwrap();
    executor.wait().unwrap();
    assert_eq!((errors.load(Ordering::Relaxed), losses.load(Ordering::Relaxed)), (0, 0));

    // A fault in the application's, and the loss of the device.
    _ = raw.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: 16,
        usage: BufferUsages::MAP_READ | BufferUsages::MAP_WRITE | BufferUsages::STORAGE,
        mapped_at_creation: false,
    });
    assert_eq!(errors.load(Ordering::Relaxed), 1);
    raw.destroy();
    let lost = executor.run().and_then(|()| executor.fetch(example.fetches[0])).unwrap_err();
    assert!(matches!(lost, GpuError::Lost { .. }), "{lost}");
    assert_eq!((errors.load(Ordering::Relaxed), losses.load(Ordering::Relaxed)), (1, 1));
}

#[test]
fn feeds_come_from_buffers_by_copy_and_by_binding() {
    let example = Example::new();
    let expected = example.expected(2);
    let device = hosted();
    let alignment = u64::from(device.wgpu_device().limits().min_storage_buffer_offset_alignment);
    for offset in [0, alignment] {
        let x = buffer(&device, &square(2), offset, BufferUsages::STORAGE | BufferUsages::COPY_SRC);
        let (mut copied, _states) = example.unfed(&device);
        copied.feed_from("x", x.slice(offset..)).unwrap();
        let (mut bound, _states) = example.unfed(&device);
        bound.bind_feed("x", x.slice(offset..)).unwrap();
        for expected in &expected {
            copied.run().unwrap();
            bound.run().unwrap();
            assert_eq!(&example.fetch(&copied), expected);
            assert_eq!(&example.fetch(&bound), expected);
        }

        // What is written later is seen where it is bound; of what was copied the next copy decides, or the host's data.
        device.wgpu_queue().write_buffer(&x, offset, bytemuck::cast_slice(square(5).data()));
        for (executor, seed) in [(&mut bound, 5), (&mut copied, 2)] {
            executor.run().unwrap();
            assert_eq!(executor.fetch(example.fetches[2]).unwrap(), square(seed));
        }
        copied.feed_from("x", x.slice(offset..)).unwrap();
        copied.feed("x", &square(7)).unwrap();
        copied.run().unwrap();
        assert_eq!(copied.fetch(example.fetches[2]).unwrap(), square(7));
        copied.feed_from("x", x.slice(offset..)).unwrap();
        // A traced run sees it from the first step on.
        let mut first = None;
        copied.trace(|_, inputs, _| _ = first.get_or_insert(inputs[0].clone())).unwrap();
        assert_eq!(first, Some(square(5)));
    }
}

#[test]
fn the_output_of_one_executor_is_the_feed_of_another() {
    let device = hosted();
    let mut tape = Tape::new();
    let x = tape.feed("x", [COUNT]);
    let double = tape.scale(x, 2.0);
    let plan = Plan::new(&tape, &[double], &[], device.class(), Reuse::On);
    let [mut first, mut second] =
        [0, 1].map(|_| Executor::new(&device, plan.clone(), &States::new(&device), |_, _| ()).unwrap());
    second.bind_feed("x", first.output(double).unwrap()).unwrap();
    for value in [1.0, 3.0] {
        first.feed("x", &Tensor::full([COUNT], value)).unwrap();
        first.run().unwrap();
        second.run().unwrap();
        assert_eq!(second.fetch(double).unwrap(), Tensor::full([COUNT], 4.0 * value));
    }
    let own = second.output(double).unwrap().buffer().clone();
    assert!(told(second.bind_feed("x", own.slice(..))).contains("one that a run writes"));
}

#[test]
fn unsuitable_buffers_are_refused_with_the_reason() {
    let example = Example::new();
    let device = hosted();
    let (mut executor, _states) = example.unfed(&device);
    let all = BufferUsages::STORAGE | BufferUsages::COPY_SRC;
    let fit = buffer(&device, &square(2), 0, all);
    let long = buffer(&device, &square(2), 8, all);
    let uncopied = buffer(&device, &square(2), 0, BufferUsages::STORAGE);
    let unbound = buffer(&device, &square(2), 0, BufferUsages::COPY_SRC);

    let size = told(executor.feed_from("x", long.slice(..)));
    assert!(size.contains("it has 264 bytes, and [8, 8] of f32 takes 256"), "{size}");
    assert!(told(executor.bind_feed("x", fit.slice(4..))).contains("it has 252 bytes"));
    assert!(told(executor.feed_from("x", uncopied.slice(..))).contains("without the usage COPY_SRC"));
    assert!(told(executor.bind_feed("x", unbound.slice(..))).contains("without the usage STORAGE"));
    // It is fetched, too.
    assert!(told(executor.bind_feed("x", uncopied.slice(..))).contains("without the usage COPY_SRC"));
    assert!(
        told(executor.feed_from("x", long.slice(2..BYTES + 2))).contains("begins at byte 2, which is no multiple of 4")
    );
    let alignment = device.wgpu_device().limits().min_storage_buffer_offset_alignment;
    if alignment > 8 {
        let error = told(executor.bind_feed("x", long.slice(8..)));
        assert!(error.contains(&format!("begins at byte 8, which is no multiple of {alignment}")), "{error}");
    }
    assert!(matches!(executor.feed_from("y", fit.slice(..)), Err(GpuError::Unknown { kind: "feed", .. })));
    assert!(matches!(executor.bind_feed("y", fit.slice(..)), Err(GpuError::Unknown { kind: "feed", .. })));
    // Nothing of it counts as a feed.
    assert_eq!(executor.run(), Err(GpuError::Unset { feed: "x".into() }));

    executor.bind_feed("x", fit.slice(..)).unwrap();
    for refused in [executor.feed("x", &square(2)), executor.feed_from("x", fit.slice(..))] {
        assert!(told(refused).contains("bound to another buffer"));
    }
    executor.run().unwrap();
    assert_eq!(example.fetch(&executor), example.expected(1)[0]);
}

#[test]
fn outputs_and_states_are_read_in_place() {
    let example = Example::new();
    let expected = example.expected(2);
    let device = hosted();
    let (mut executor, states) = example.fed(&device);
    let [product, positive, x, w] = example.fetches;
    for expected in &expected {
        executor.run().unwrap();
        for (value, expected) in [product, positive, x].into_iter().zip(expected) {
            let slice = executor.output(value).unwrap();
            assert_eq!(slice.size(), BYTES);
            assert_eq!(&read_by_host(&device, slice), expected);
        }
        let state = read_by_host(&device, states.buffer("w").unwrap().slice(..));
        assert_eq!(state, bits(&states.get("w").unwrap()));
        assert_ne!(state, expected[3], "the run has replaced what is fetched of the state");
    }
    assert!(told(executor.output(w)).contains("States::buffer"));
    assert!(matches!(executor.output(example.carry.1), Err(GpuError::Unknown { kind: "fetch", .. })));
    assert!(matches!(states.buffer("v"), Err(GpuError::Unknown { kind: "state", .. })));

    // A state that an application writes is what the next run reads.
    device.wgpu_queue().write_buffer(states.buffer("w").unwrap(), 0, bytemuck::cast_slice(square(1).data()));
    executor.run().unwrap();
    assert_eq!(example.fetch(&executor), expected[0]);
}

#[test]
fn fetches_of_several_runs_may_be_in_flight_with_values_of_their_own() {
    let example = Example::new();
    let expected = example.expected(6);
    let device = hosted();
    let (mut executor, _states) = example.fed(&device);
    let mut in_flight: Vec<(usize, Vec<Fetch>)> = (0..expected.len())
        .map(|run| {
            executor.run().unwrap();
            (run, example.fetches.iter().map(|&value| executor.fetch_async(value).unwrap()).collect())
        })
        .collect();
    // The newest first, and half of them on another thread.
    in_flight.reverse();
    let check = |runs: Vec<(usize, Vec<Fetch>)>| {
        for (run, fetches) in runs {
            for (fetch, expected) in fetches.into_iter().zip(&expected[run]) {
                let value = if run < 3 { fetch.wait() } else { pollster::block_on(fetch) };
                assert_eq!(&bits(&value.unwrap()), expected, "run {run}");
            }
        }
    };
    let (even, odd) = in_flight.into_iter().partition(|(run, _)| run.is_multiple_of(2));
    thread::scope(|scope| {
        scope.spawn(|| check(even));
        check(odd);
    });

    // The buffers are used again: two runs in flight at any time need no third.
    let mut pending = None;
    let mut before = device.tally();
    for run in 0..8 {
        executor.run().unwrap();
        let fetch = executor.fetch_async(example.fetches[0]).unwrap();
        if let Some(earlier) = pending.replace(fetch) {
            earlier.wait().unwrap();
        }
        if run == 2 {
            before = device.tally();
        }
    }
    assert_eq!((device.tally() - before).buffers, 0);
}

#[test]
fn a_fetch_can_be_polled_without_waiting_and_dropped_at_any_time() {
    struct Count(AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let example = Example::new();
    let expected = example.expected(3);
    let device = hosted();
    let (mut executor, _states) = example.fed(&device);
    let [product, positive, ..] = example.fetches;
    assert!(matches!(executor.fetch_async(product), Err(GpuError::NotRun { .. })));
    executor.run().unwrap();
    assert!(matches!(executor.fetch_async(example.carry.1), Err(GpuError::Unknown { .. })));
    let fetch = executor.fetch_async(product).unwrap();
    while !fetch.is_ready() {
        thread::yield_now();
    }
    assert_eq!(bits(&fetch.wait().unwrap()), expected[0][0]);

    // Whoever is told to wait is woken, without anyone else who polls the device.
    executor.run().unwrap();
    let mut fetch = Box::pin(executor.fetch_async(positive).unwrap());
    let count = Arc::new(Count(AtomicUsize::new(0)));
    let waker = Waker::from(count.clone());
    let value = loop {
        let woken = count.0.load(Ordering::SeqCst);
        if let Poll::Ready(value) = fetch.as_mut().poll(&mut Context::from_waker(&waker)) {
            break value.unwrap();
        }
        while count.0.load(Ordering::SeqCst) == woken {
            thread::yield_now();
        }
    };
    assert_eq!(bits(&value), expected[1][1]);

    // Neither one that was polled and dropped nor one that was never looked at stands in the way of the next run.
    drop(executor.fetch_async(product).unwrap());
    executor.run().unwrap();
    let dropped = executor.fetch_async(product).unwrap();
    _ = dropped.is_ready();
    drop(dropped);
    assert_eq!(example.fetch(&executor), expected[2]);
    executor.run().unwrap();
    executor.wait().unwrap();
}

#[test]
fn a_run_that_was_not_executed_fails_its_own_fetches() {
    let example = Example::new();
    let device = hosted();
    let (mut executor, _states) = example.fed(&device);
    while !executor.is_settled() {
        executor.run().unwrap();
    }
    let product = example.fetches[0];
    executor.run().unwrap();
    let sound = executor.fetch_async(product).unwrap();
    device.lose_submit(0);
    executor.run().unwrap();
    let unexecuted = [0, 1].map(|_| executor.fetch_async(product).unwrap());
    executor.run().unwrap();
    let later = executor.fetch_async(product).unwrap();
    later.wait().unwrap();
    let [waited, awaited] = unexecuted;
    for error in [waited.wait().unwrap_err(), pollster::block_on(awaited).unwrap_err()] {
        assert!(matches!(&error, GpuError::Lost { at, .. } if at.starts_with("submit 1 of run")), "{error}");
    }
    sound.wait().unwrap();
}

#[test]
fn executors_on_several_threads_give_the_same_results_as_in_sequence() {
    const RUNS: usize = 40;
    let example = Example::new();
    let device = hosted();
    let start = |seed: usize| {
        let (mut executor, states) = example.unfed(&device);
        executor.feed("x", &square(seed)).unwrap();
        (executor, states)
    };
    let work = |(mut executor, states): (Executor, States)| -> Vec<Vec<u32>> {
        let mut found: Vec<Vec<u32>> = (0..RUNS)
            .flat_map(|_| {
                executor.run().unwrap();
                example.fetch(&executor)
            })
            .collect();
        found.push(bits(&states.get("w").unwrap()));
        found
    };
    let expected = [2, 9].map(|seed| work(start(seed)));
    assert_ne!(expected[0], expected[1]);
    for _ in 0..3 {
        let (one, other) = (start(2), start(9));
        let found = thread::scope(|scope| {
            let threads = [scope.spawn(|| work(one)), scope.spawn(|| work(other))];
            threads.map(|thread| thread.join().unwrap())
        });
        assert!(found == expected, "two executors disturb each other");
    }
}

/// An error that one thread makes is not taken for one of another's.
#[test]
fn an_error_is_reported_on_the_thread_that_caused_it() {
    let example = Example::new();
    let adapter = adapter();
    let [device, other] = [0, 1].map(|_| hosted_of(&adapter));
    let foreign = buffer(&other, &square(2), 0, BufferUsages::STORAGE | BufferUsages::COPY_SRC);
    let ((mut sound, _one), (mut faulty, _other)) = (example.fed(&device), example.fed(&device));
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..40 {
                sound.run().unwrap();
                example.fetch(&sound);
            }
        });
        scope.spawn(|| {
            for _ in 0..40 {
                let refused = faulty.bind_feed("x", foreign.slice(..));
                assert!(matches!(refused, Err(GpuError::Refused { .. })), "{refused:?}");
            }
        });
    });
}
