//! Adjoint identities of linear primitives on a device: ⟨A x, y⟩ = ⟨x, Aᵀ y⟩.
//!
//! They need no f64 evaluation, so they are cheap at training sizes. On integers both sides are exact and must be
//! equal. For a convolution the identity is ⟨conv(x, w), y⟩ = ⟨x, input(y, w)⟩ = ⟨w, kernel(x, y)⟩.

use std::collections::HashMap;

use super::kernels::with_arrays;
use crate::engine::case::{Case, Draws};
use crate::engine::gpu::{Device, Executor, GpuError, States};
use crate::engine::kernel::DeviceClass;
use crate::engine::plan::{Plan, Reuse};
use crate::engine::tape::{Arithmetic, Origin, Tape, Value};
use crate::engine::tensor::Tensor;

/// Whether the case has an identity for [`check_adjoint`].
pub fn has_adjoint(case: &Case) -> bool {
    !case.says.linear.is_empty()
}

/// Records the primitive and its pull-back, runs both with the kernels for `class`, and compares the inner products.
///
/// # Errors
/// Describes the mismatch with both sides, or gives the device's error.
pub fn check_adjoint(device: &Device, case: &Case, class: DeviceClass, seed: u64) -> Result<(), String> {
    let gpu = |error: GpuError| error.to_string();
    let mut tape = Tape::new();
    let inputs: Vec<Value> = case
        .inputs
        .iter()
        .enumerate()
        .map(|(index, input)| tape.feed(&format!("x{index}"), input.shape.clone()))
        .collect();
    let ct = tape.feed("ct", case.output());
    let y = tape.apply(case.primitive.clone(), &inputs);
    let sets = case.says.linear;
    let differentiated: Vec<Value> = sets.iter().copied().flatten().map(|&index| inputs[index]).collect();
    let gradients = tape.pull_back(y, ct, &differentiated).map_err(|error| error.to_string())?;

    let mut data = case.integers(seed);
    let mut draws = Draws::new(seed, u32::MAX);
    let output = case.output();
    data.push(Tensor::new(output.clone(), (0..output.count()).map(|_| draws.integer(-4, 4) as f32).collect()));
    let plan = Plan::new(&tape, &[&[y], &gradients[..]].concat(), &[], class, Reuse::On);
    let mut executor = Executor::new(device, plan, &States::new(device), |_, _| {}).map_err(gpu)?;
    let names: Vec<String> = (0..inputs.len()).map(|index| format!("x{index}")).chain(["ct".to_owned()]).collect();
    for (name, tensor) in names.iter().zip(&data) {
        // The pull-back of a bilinear primitive does not read every input.
        if executor.plan().feeds.iter().any(|(feed, _)| **feed == **name) {
            executor.feed(name, tensor).map_err(gpu)?;
        }
    }
    executor.run().map_err(gpu)?;

    let by_name: HashMap<&str, &Tensor> = names.iter().map(String::as_str).zip(&data).collect();
    // Most primitives are exact on integers and need no bound.
    let forward_error = match case.says.exact {
        true => 0.0,
        false => weighted(&bound_of(&tape, y, &by_name), &data[inputs.len()]),
    };
    let forward = dot(&executor.fetch(y).map_err(gpu)?, &data[inputs.len()]);
    let mut gradients = gradients.iter();
    for set in sets {
        let (mut backward, mut backward_error) = (0.0, 0.0);
        for (&index, &gradient) in set.iter().zip(gradients.by_ref()) {
            if !case.says.exact {
                backward_error += weighted(&bound_of(&tape, gradient, &by_name), &data[index]);
            }
            backward += dot(&data[index], &executor.fetch(gradient).map_err(gpu)?);
        }
        let holds = (forward - backward).abs() <= forward_error + backward_error;
        if !holds {
            return Err(format!(
                "⟨y, ct⟩ = {forward:e}, but the adjoint in input {set:?} gives {backward:e} ({class:?} kernels, seed {seed})"
            ));
        }
    }
    Ok(())
}

fn dot(a: &Tensor, b: &Tensor) -> f64 {
    a.data().iter().zip(b.data()).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

/// Largest error of ⟨a, b⟩ when each element of a is off by at most `bound`.
fn weighted(bound: &[f64], b: &Tensor) -> f64 {
    bound.iter().zip(b.data()).map(|(bound, &b)| bound * f64::from(b).abs()).sum()
}

/// The error bound of a value computed directly from feeds.
fn bound_of(tape: &Tape, value: Value, feeds: &HashMap<&str, &Tensor>) -> Vec<f64> {
    let node = tape.node(value);
    let feed = |&input: &Value| match &tape.node(input).origin {
        Origin::Feed(name) => feeds[&**name],
        _ => unreachable!("the adjoint of a linear primitive is one primitive"),
    };
    let Some(primitive) = node.primitive() else { return Vec::new() };
    with_arrays(node.inputs().iter().map(feed), |arrays| primitive.bound(arrays, &node.shape, Arithmetic::F32))
}
