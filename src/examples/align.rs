//! The alignment loss of ST-SSAD on embeddings from anywhere: `cargo run --example align -- [LOSS] [TRAIN AUGMENTED UNLABELLED]`,
//! three CSV files with a row of numbers for each embedding; without them, three clouds that are drawn here. LOSS is one of
//! `stssad::ssad::loss::names`; sinkhorn and mmd suit rows of a mean squared norm of 1.
//!
//! The loss is low where normal and augmented embeddings together lie as the unlabelled ones do. Steps against its gradient
//! move the augmented ones: onto the anomalies among the unlabelled, though nobody says which these are.

use stssad::engine::gpu::{Choice, Device, Executor, States};
use stssad::engine::ops::random;
use stssad::engine::philox::Stream;
use stssad::engine::plan::{Plan, Reuse};
use stssad::engine::tape::Tape;
use stssad::engine::tensor::Tensor;
use stssad::ssad::loss::Alignment;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const STEPS: u32 = 100;
/// The share of the augmented rows in the mixture that is compared with the unlabelled ones: what share may be anomalies.
const MASS: f64 = 0.5;

/// Rows `[rows, 1, features]`: losses take a start's embeddings along the middle axis, and here there is one.
fn read(path: &str) -> Result<Tensor> {
    let rows = csv::ReaderBuilder::new().has_headers(false).trim(csv::Trim::All).from_path(path)?;
    let rows = rows.into_deserialize().collect::<std::result::Result<Vec<Vec<f32>>, csv::Error>>()?;
    let features = rows.first().ok_or_else(|| format!("{path} has no rows"))?.len();
    Ok(Tensor::new([rows.len(), 1, features], rows.concat()))
}

/// Clouds of normal, augmented and unlabelled rows, and the centre of the anomalies, which are half of the unlabelled.
fn drawn() -> ([Tensor; 3], Vec<f32>) {
    const FEATURES: usize = 4;
    let (normal, wrong, anomalous) = ([0.0; FEATURES], [-1.0, 2.0, 0.0, 1.0], [3.0, 0.0, -1.0, 1.0]);
    let cloud = |stream: u32, centres: &[[f64; FEATURES]]| {
        let mut random = Stream::new(0, stream);
        let row = |index: usize| centres[index % centres.len()].map(|centre| (centre + 0.5 * random.normal()) as f32);
        Tensor::new([256, 1, FEATURES], (0..256).map(row).collect::<Vec<_>>().concat())
    };
    ([cloud(0, &[normal]), cloud(1, &[wrong]), cloud(2, &[normal, anomalous])], anomalous.map(|x| x as f32).to_vec())
}

/// The loss and its gradient's norm before each step, and the mean of the augmented rows after all.
fn align(loss: Alignment, [normal, augmented, unlabelled]: &[Tensor; 3]) -> Result<(Vec<[f32; 2]>, Vec<f32>)> {
    let features = [normal, augmented, unlabelled].map(|rows| rows.shape()[2]);
    if features != [features[0]; 3] {
        return Err(format!("embeddings to compare have as many features as each other, not {features:?}").into());
    }
    let mut t = Tape::new();
    let (z_trn, z_val) = (t.feed("normal", normal.shape().clone()), t.feed("unlabelled", unlabelled.shape().clone()));
    let z_aug = t.state("augmented", augmented.shape().clone());
    let key = t.feed("key", [6]);
    let loss = loss.record(&mut t, z_trn, z_aug, z_val, key);
    let gradient = t.grad_of_sum(loss, &[z_aug])?[0];
    let norm = t.magnitude(&[gradient], 1);
    // A row has a share of 1 / rows in the mean, and of the gradient.
    let step = t.scale(gradient, -(t.shape(z_aug)[0] as f64));
    let moved = t.add(z_aug, step);
    let mean = t.mean(moved, &[0]);

    let device = Device::open(&Choice::Best)?;
    let plan = Plan::new(&t, &[loss, norm, mean], &[(z_aug, moved)], device.class(), Reuse::On);
    let mut states = States::new(&device);
    states.set("augmented", augmented)?;
    let mut executor = Executor::new(&device, plan, &states, |_, _| ())?;
    executor.feed("normal", normal)?;
    executor.feed("unlabelled", unlabelled)?;
    let mut history = Vec::new();
    for step in 0..STEPS {
        // Only sliced-w2 draws random numbers: other directions in each step.
        if executor.plan().feeds.iter().any(|(name, _)| **name == *"key") {
            executor.feed("key", &random::key(0, step))?;
        }
        executor.run()?;
        history.push([executor.fetch(loss)?.item(), executor.fetch(norm)?.item()]);
    }
    Ok((history, executor.fetch(mean)?.into_data()))
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let loss = Alignment::by_name(&arguments.next().unwrap_or("diagonal-w2".to_owned()), MASS)?;
    let clouds = match &arguments.collect::<Vec<String>>()[..] {
        [] => drawn().0,
        [normal, augmented, unlabelled] => [read(normal)?, read(augmented)?, read(unlabelled)?],
        _ => return Err("name three files: normal, augmented and unlabelled embeddings".into()),
    };
    let (history, mean) = align(loss, &clouds)?;
    let steps = history.iter().enumerate().step_by(10);
    steps.for_each(|(step, [loss, norm])| println!("step {step:>3}: {loss:.5}, gradient {norm:.5}"));
    println!("mean of the augmented embeddings: {mean:.2?}");
    Ok(())
}

#[test]
fn augmented_rows_move_onto_the_anomalies() {
    let (clouds, anomalous) = drawn();
    let (history, mean) = align(Alignment::DiagonalW2 { mass: MASS }, &clouds).unwrap();
    assert!(history[0][0] > 1.0 && history[history.len() - 1][0] < 0.01, "{history:?}");
    assert!(mean.iter().zip(&anomalous).all(|(x, y)| (x - y).abs() < 0.2), "{mean:?}, not {anomalous:?}");
}
