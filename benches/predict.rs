//! What `predict` costs beside its parts: decoding the images alone, and scoring as many alone. In turns, three times each.
//!
//! `cargo bench --bench predict -- RUN IMAGES`, with the folder of a finished run and a folder of images. Wall times overlap where the
//! device is not the processor: with Mesa's CPU driver, `RAYON_NUM_THREADS=1 LP_NUM_THREADS=1` gives each its own core.

use std::path::PathBuf;
use std::time::Instant;

use clap::Parser;
use stssad::data::{DataError, Listing};
use stssad::engine::gpu::{Choice, Device, GpuError};
use stssad::run::model::{Model, Predictor};

#[derive(Debug, Parser)]
struct Arguments {
    run: PathBuf,
    images: PathBuf,
    /// Passed by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

/// As `predict` reads them.
const AT_ONCE: usize = 256;
const ROUNDS: usize = 3;

#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(transparent)]
    Gpu(#[from] GpuError),
}

/// Processor and wall time in seconds.
fn timed(work: impl FnOnce() -> Result<(), Failed>) -> anyhow::Result<[f64; 2]> {
    let (processor, wall) = (processor_seconds(), Instant::now());
    work()?;
    Ok([processor_seconds() - processor, wall.elapsed().as_secs_f64()])
}

/// Of all threads of this process.
#[cfg(unix)]
fn processor_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the time is written to a valid place.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) } != 0;
    assert!(!failed, "the system has a clock for the process");
    time.tv_sec as f64 + 1e-9 * time.tv_nsec as f64
}

#[cfg(not(unix))]
fn processor_seconds() -> f64 {
    f64::NAN
}

fn main() -> anyhow::Result<()> {
    let Arguments { run, images, .. } = Arguments::parse();
    let model = Model::load(&run.join("model.safetensors"))?;
    let (loading, conversion) = (model.config.loading(), model.conversion());
    let list = || Listing::of(std::slice::from_ref(&images), &loading);
    let count = list()?.len();
    let device = Device::open(&Choice::Best)?;
    let mut predictor = Predictor::new(&device, &model)?;
    let mut first = None;
    list()?.for_each_batch(AT_ONCE.min(count), conversion, &loading, |batch| {
        first.get_or_insert(batch.images);
        Ok::<(), DataError>(())
    })?;
    let first = first.expect("there are images");
    predictor.judge(&first)?;

    let mut sums = [[0.0; 2]; 3];
    for round in 1..=ROUNDS {
        let decode = timed(|| Ok(list()?.for_each_batch(AT_ONCE, conversion, &loading, |_| Ok::<(), DataError>(()))?))?;
        let score = timed(|| {
            (0..count.div_ceil(first.shape()[0]))
                .try_for_each(|_| predictor.judge(&first).map(drop).map_err(Failed::from))
        })?;
        let both = timed(|| {
            list()?.for_each_batch(AT_ONCE, conversion, &loading, |batch| {
                predictor.judge(&batch.images)?;
                Ok::<(), Failed>(())
            })
        })?;
        for (sum, own) in sums.iter_mut().zip([decode, score, both]) {
            println!("round {round}: processor {:.2} s, wall {:.2} s", own[0], own[1]);
            sum.iter_mut().zip(own).for_each(|(sum, own)| *sum += own / ROUNDS as f64);
        }
    }
    let [decode, score, both] = sums;
    let adapter = device.adapter();
    println!("{count} images as {conversion:?} on {} ({})", adapter.name, adapter.driver);
    println!("decoding alone   processor {:6.2} s   wall {:6.2} s", decode[0], decode[1]);
    println!("scoring alone    processor {:6.2} s   wall {:6.2} s", score[0], score[1]);
    println!("both             processor {:6.2} s   wall {:6.2} s", both[0], both[1]);
    println!("processor time is {:.3} times that of both parts", both[0] / (decode[0] + score[0]));
    println!("wall time is {:.3} times that of the slower part", both[1] / decode[1].max(score[1]));
    Ok(())
}
