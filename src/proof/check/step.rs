//! Checks a tape on a device node by node. Each kernel is compared with its definition at the inputs that the device
//! computed, so errors do not propagate and the first bad node is the bad kernel.

use std::collections::HashMap;
use std::fmt;

use super::compare::{Mismatch, compare};
use super::kernels::tolerance;
use crate::engine::case::widen;
use crate::engine::gpu::{Device, Executor, GpuError, States};
use crate::engine::kernel::DeviceClass;
use crate::engine::plan::{Plan, Reuse};
use crate::engine::tape::{Array, Tape, Value};
use crate::engine::tensor::{Shape, Tensor};

/// A node whose output differs from the definition.
#[derive(Clone, Debug, PartialEq)]
pub struct BadNode {
    pub value: Value,
    /// The kernel, by the name of its file.
    pub kernel: &'static str,
    pub scope: String,
    /// The node whose backward rule recorded this one.
    pub primal: Option<Value>,
    /// The primitive and its inputs, as the tape prints them.
    pub equation: String,
    pub mismatch: Mismatch,
}

impl fmt::Display for BadNode {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{:?} {} in scope `{}`", self.value, self.kernel, self.scope)?;
        if let Some(primal) = self.primal {
            write!(f, ", recorded by the backward rule of {primal:?}")?;
        }
        write!(f, "\n    {}\n    {}", self.equation, self.mismatch)
    }
}

/// The result of checking a tape.
#[derive(Clone, Debug, PartialEq)]
pub struct StepReport {
    /// Dispatches compared.
    pub nodes: usize,
    /// Dispatches of each kernel, in the order of first use.
    pub kernels: Vec<(&'static str, usize)>,
    pub first_bad: Option<BadNode>,
    /// A fetched value or a state that depends on whether buffers are shared or stored in f16: a fault of the planner.
    pub planner: Option<String>,
}

impl StepReport {
    pub fn passed(&self) -> bool {
        self.first_bad.is_none() && self.planner.is_none()
    }
}

/// Runs the part of `tape` that `fetches` and `carries` need with the kernels for `class`. `sources` holds the feeds
/// and states by name.
///
/// # Errors
/// When a source is missing, or the device refuses.
pub fn check_step(
    device: &Device,
    tape: &Tape,
    fetches: &[Value],
    carries: &[(Value, Value)],
    sources: &HashMap<String, Tensor>,
    class: DeviceClass,
) -> Result<StepReport, GpuError> {
    let mut report = StepReport { nodes: 0, kernels: Vec::new(), first_bad: None, planner: None };
    let plan = |reuse| Plan::new(tape, fetches, carries, class, reuse);
    let (mut traced, _) = prepare(device, plan(Reuse::On), sources)?;
    let graph = traced.plan().graph.clone();
    traced.trace(|step, inputs, output| {
        report.nodes += 1;
        match report.kernels.iter_mut().find(|(name, _)| *name == step.kernel.name) {
            Some((_, count)) => *count += 1,
            None => report.kernels.push((step.kernel.name, 1)),
        }
        if report.first_bad.is_some() {
            return;
        }
        let node = graph.node(step.value);
        let primitive = node.primitive().expect("a step computes");
        let data: Vec<Vec<f64>> = inputs.iter().map(widen).collect();
        let shapes: Vec<&Shape> = node.inputs().iter().map(|&input| graph.shape(input)).collect();
        let arrays: Vec<Array> = shapes.into_iter().zip(&data).map(|(shape, data)| Array { shape, data }).collect();
        let want = primitive.eval(&arrays, &node.shape);
        let tolerance = tolerance(primitive, &step.kernel, &arrays, &node.shape, &want);
        if let Err(mismatch) = compare(output, &want, &tolerance) {
            let inputs: Vec<String> =
                step.inputs.iter().map(|input| format!("{:?} {:?}", input.value, input.shape)).collect();
            report.first_bad = Some(BadNode {
                value: step.value,
                kernel: step.kernel.name,
                scope: step.scope.to_string(),
                primal: step.primal,
                equation: format!("{:?} {:?} = {primitive:?}({})", step.value, node.shape, inputs.join(", ")),
                mismatch,
            });
        }
    })?;

    // Run the plan without tracing: neither sharing buffers, states among them, nor storing values in f16 may change what is
    // fetched or kept.
    drop(traced);
    let run = |plan| {
        prepare(device, plan, sources).and_then(|(mut executor, states)| {
            executor.run()?;
            Ok((executor, states))
        })
    };
    let (shared, shared_states) = &run(plan(Reuse::On))?;
    let (separate, separate_states) = &run(plan(Reuse::Off))?;
    report.planner = first_other(fetches, shared, separate)?
        .map(|fetch| format!("{fetch:?} changes when buffers are shared"))
        .or(first_other_state(shared_states, separate_states)?
            .map(|state| format!("state {state} changes when it is computed in place")));
    let halves: Vec<Value> =
        shared.plan().steps.iter().filter(|step| step.output.is_half).map(|step| step.value).collect();
    if report.planner.is_none() && !halves.is_empty() {
        let plan = shared.plan().fetching(&halves, class, Reuse::On);
        let (whole, _) = &run(plan)?;
        report.planner = first_other(fetches, shared, whole)?
            .map(|fetch| format!("{fetch:?} changes when factors are stored in f16"));
    }
    Ok(report)
}

/// The first of `fetches` whose bits differ between the executors.
fn first_other(fetches: &[Value], one: &Executor, other: &Executor) -> Result<Option<Value>, GpuError> {
    for &fetch in fetches {
        if differ(&one.fetch(fetch)?, &other.fetch(fetch)?) {
            return Ok(Some(fetch));
        }
    }
    Ok(None)
}

/// The first state whose bits differ.
fn first_other_state(one: &States, other: &States) -> Result<Option<String>, GpuError> {
    for name in one.names() {
        if differ(&one.get(name)?, &other.get(name)?) {
            return Ok(Some(name.to_owned()));
        }
    }
    Ok(None)
}

fn differ(one: &Tensor, other: &Tensor) -> bool {
    let bits = |tensor: &Tensor| tensor.data().iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
    bits(one) != bits(other)
}

/// An executor with its own states, fed and ready to run.
fn prepare(device: &Device, plan: Plan, sources: &HashMap<String, Tensor>) -> Result<(Executor, States), GpuError> {
    let source = |kind: &'static str, name: &str| {
        sources.get(name).ok_or_else(|| GpuError::Unknown { kind, name: name.to_owned() })
    };
    let mut states = States::new(device);
    for (name, _) in &plan.states {
        states.set(name, source("state", name)?)?;
    }
    let feeds: Vec<_> = plan.feeds.iter().map(|(name, _)| name.clone()).collect();
    let mut executor = Executor::new(device, plan, &states, |_, _| {})?;
    for name in feeds {
        executor.feed(&name, source("feed", &name)?)?;
    }
    Ok((executor, states))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::gpu::Choice;

    #[test]
    fn executors_differ_where_their_bits_do() {
        let device = Device::open(&Choice::Best).unwrap();
        let mut t = Tape::new();
        let x = t.feed("x", [2]);
        let (y, z) = (t.add(x, x), t.sum(x, &[0]));
        let run = |x: [f32; 2]| {
            let plan = Plan::new(&t, &[y, z], &[], DeviceClass::Gpu, Reuse::On);
            let sources = HashMap::from([("x".to_owned(), Tensor::new([2], x.to_vec()))]);
            let (mut executor, _) = prepare(&device, plan, &sources).unwrap();
            executor.run().unwrap();
            executor
        };
        let (one, same, turned) = (run([1.0, 2.0]), run([1.0, 2.0]), run([2.0, 1.0]));
        assert_eq!(first_other(&[y, z], &one, &same).unwrap(), None);
        assert_eq!(first_other(&[z, y], &one, &turned).unwrap(), Some(y));
        // A NaN equals itself, and 0 differs from -0.
        let (nan, same, zero, other) = (run([f32::NAN, 0.0]), run([f32::NAN, 0.0]), run([0.0, 0.0]), run([0.0, -0.0]));
        assert_eq!(first_other(&[y], &nan, &same).unwrap(), None);
        assert_eq!(first_other(&[y], &zero, &other).unwrap(), Some(y));
    }
}
