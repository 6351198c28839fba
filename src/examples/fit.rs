//! Fits a small network to two interleaved spirals, from tape to trained: `cargo run --example fit`.

use std::error::Error;

use stssad::engine::gpu::{Choice, Device, Executor, States};
use stssad::engine::ops::elementwise::Unary;
use stssad::engine::philox::Stream;
use stssad::engine::plan::{Plan, Reuse};
use stssad::engine::tape::{Tape, Value};
use stssad::engine::tensor::Tensor;

/// Points on both spirals together.
const POINTS: usize = 192;
const STEPS: usize = 200;
const RATE: f64 = 0.1;
const MOMENTUM: f64 = 0.9;

/// Points `[POINTS, 2]` and which spiral each is on, 0 or 1, `[POINTS, 1]`.
fn spirals() -> [Tensor; 2] {
    let (mut points, mut labels) = (Vec::new(), Vec::new());
    for index in 0..POINTS {
        let (along, label) = ((index / 2) as f32 / (POINTS / 2) as f32, index % 2);
        let (radius, angle) = (0.2 + 1.8 * along, 7.0 * along + std::f32::consts::PI * label as f32);
        points.extend([radius * angle.cos(), radius * angle.sin()]);
        labels.push(label as f32);
    }
    [Tensor::new([POINTS, 2], points), Tensor::new([POINTS, 1], labels)]
}

/// Records a layer of the network, and keeps its weights in states: what stays on the device from step to step.
fn layer(t: &mut Tape, parameters: &mut Vec<(String, Value)>, x: Value, outputs: usize) -> Value {
    let [weights, bias] = ["weights", "bias"].map(|kind| format!("{kind}{}", parameters.len() / 2));
    let (w, b) = (t.state(&weights, [t.shape(x)[1], outputs]), t.state(&bias, [1, outputs]));
    parameters.extend([(weights, w), (bias, b)]);
    let product = t.matmul(x, w);
    t.add(product, b)
}

/// The loss before each step but the last.
fn fit() -> Result<Vec<f32>, Box<dyn Error>> {
    // The forward pass. Nothing is computed here: the tape lists what is to be.
    let mut t = Tape::new();
    let (x, y) = (t.feed("x", [POINTS, 2]), t.feed("y", [POINTS, 1]));
    let (mut parameters, mut h) = (Vec::new(), x);
    for width in [48, 48] {
        h = layer(&mut t, &mut parameters, h, width);
        h = t.relu(h);
    }
    let logits = layer(&mut t, &mut parameters, h, 1);
    // Cross-entropy of logits: the mean of log(1 + exp(l)) − l · y.
    let (softplus, chosen) = (t.unary(Unary::Softplus, logits), t.mul(logits, y));
    let losses = t.sub(softplus, chosen);
    let loss = t.average(losses);

    // The backward pass is more tape, and so is the optimiser. A carry is a state and the value that it takes after a step.
    let values: Vec<Value> = parameters.iter().map(|&(_, value)| value).collect();
    let (gradients, mut carries) = (t.grad(loss, &values)?, Vec::new());
    for ((name, theta), g) in parameters.iter().zip(gradients) {
        let velocity = t.state(&format!("velocity of {name}"), t.shape(*theta).clone());
        let faster = t.linear([(MOMENTUM, velocity), (1.0, g)]);
        let moved = t.linear([(1.0, *theta), (-RATE, faster)]);
        carries.extend([(velocity, faster), (*theta, moved)]);
    }

    // A plan makes dispatches of the tape, and an executor has the buffers and compiled kernels for it.
    let device = Device::open(&Choice::Best)?;
    let plan = Plan::new(&t, &[loss], &carries, device.class(), Reuse::On);
    let (mut states, mut random) = (States::new(&device), Stream::new(0, 0));
    for (name, shape) in &plan.states {
        // Weights are normal with variance 2 / inputs (He et al.); biases and velocities start at 0.
        let deviation = if name.starts_with("weights") { (2.0 / shape[0] as f64).sqrt() } else { 0.0 };
        let data = (0..shape.count()).map(|_| (deviation * random.normal()) as f32).collect();
        states.set(name, &Tensor::new(shape.clone(), data))?;
    }
    let mut step = Executor::new(&device, plan, &states, |_, _| ())?;
    for (name, data) in ["x", "y"].iter().zip(spirals()) {
        step.feed(name, &data)?;
    }

    // Nothing is uploaded from here on, and the device works on while the loss of an earlier step comes back.
    let (mut history, mut pending) = (Vec::new(), None);
    for _ in 0..STEPS {
        step.run()?;
        if let Some(earlier) = pending.replace(step.fetch_async(loss)?) {
            history.push(earlier.wait()?.item());
        }
    }
    Ok(history)
}

fn main() -> Result<(), Box<dyn Error>> {
    fit()?.iter().enumerate().step_by(50).for_each(|(step, loss)| println!("step {step:>3}: loss {loss:.4}"));
    Ok(())
}

#[test]
fn the_network_learns_the_spirals() {
    let history = fit().unwrap();
    assert!(history[0] > 0.5 && history[history.len() - 1] < 0.05, "{history:?}");
}
