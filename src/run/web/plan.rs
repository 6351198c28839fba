//! Plans as pages run them.

use std::collections::BTreeMap;

use base64::prelude::{BASE64_STANDARD, Engine};
use serde::Serialize;

use super::WebError;
use crate::engine::plan::{Operand, Place, Plan, Step};
use crate::engine::shaders::{SpecialiseError, in_place, portable, specialise};
use crate::engine::tensor::Tensor;

/// Bytes of the largest buffer that every WebGPU device can bind.
pub(super) const LARGEST: u64 = 128 << 20;

/// WGSL by hash.
pub(super) type Shaders = BTreeMap<String, String>;

/// A part of a buffer: its name, offset and bytes.
type Part = (String, u64, u64);

/// A plan as the page runs it.
#[derive(Serialize)]
pub(super) struct WebPlan {
    /// Bytes by name.
    buffers: BTreeMap<String, u64>,
    constants: BTreeMap<String, String>,
    steps: Vec<WebStep>,
    /// What is copied to a state after the last step, and the state's buffer and offset.
    copies: Vec<(Part, (String, u64))>,
    fetches: Vec<Part>,
}

#[derive(Serialize)]
struct WebStep {
    kernel: &'static str,
    shader: String,
    /// Binding, buffer, offset and bytes; the output is the last.
    bindings: Vec<(usize, String, u64, u64)>,
    /// The immediates' words.
    numbers: Vec<u32>,
    workgroups: [u32; 3],
}

/// Name and bytes of the largest value of the plans.
pub(super) fn largest(plans: &[Plan]) -> (String, u64) {
    plans.iter().map(Plan::largest).max_by_key(|&(_, bytes)| bytes).unwrap_or_default()
}

/// # Errors
/// When a value of a plan is larger than every browser can bind.
pub(super) fn check(plans: &[Plan]) -> Result<(), WebError> {
    let (what, bytes) = largest(plans);
    if bytes > LARGEST { Err(WebError::TooLarge { what, bytes }) } else { Ok(()) }
}

/// Little-endian f32 in base64 of those states that the plans read, by the names of their buffers.
pub(super) fn states<'a>(
    plans: &[Plan],
    states: impl IntoIterator<Item = &'a (String, Tensor)>,
) -> BTreeMap<String, String> {
    let read = |name: &str| plans.iter().any(|plan| plan.states.iter().any(|(state, _)| **state == *name));
    let states = states.into_iter().filter(|(name, _)| read(name));
    states.map(|(name, tensor)| (buffer_of_state(name), base64(tensor.data()))).collect()
}

/// The name of a state's buffer.
pub(super) fn buffer_of_state(name: &str) -> String {
    Place::State(name.into()).to_string()
}

/// The plan, whose WGSL is added to `shaders`.
pub(super) fn web_plan(plan: &Plan, shaders: &mut Shaders) -> Result<WebPlan, SpecialiseError> {
    let slots = plan.slots.iter().enumerate().map(|(slot, &bytes)| (Place::Slot(slot), bytes));
    let feeds = plan.feeds.iter().map(|(name, shape)| (Place::Feed(name.clone()), shape.bytes()));
    let states = plan.states.iter().map(|(name, shape)| (Place::State(name.clone()), shape.bytes()));
    let constants = || plan.constants.iter().enumerate().map(|(index, tensor)| (Place::Constant(index), tensor));
    let sized = constants().map(|(place, tensor)| (place, tensor.shape().bytes()));
    let buffers = slots.chain(feeds).chain(states).chain(sized).map(|(place, bytes)| (place.to_string(), bytes));
    let steps = plan.steps.iter().map(|step| web_step(step, shaders));
    let part = |operand: &Operand| (operand.place.to_string(), operand.offset, operand.bytes());
    let copies = plan.copies().map(|carry| (part(&carry.from), (carry.state.place.to_string(), carry.state.offset)));
    Ok(WebPlan {
        buffers: buffers.collect(),
        constants: constants().map(|(place, tensor)| (place.to_string(), base64(tensor.data()))).collect(),
        steps: steps.collect::<Result<_, _>>()?,
        copies: copies.collect(),
        fetches: plan.fetches.iter().map(part).collect(),
    })
}

/// As the executor binds it, with the immediates in a uniform.
fn web_step(step: &Step, shaders: &mut Shaders) -> Result<WebStep, SpecialiseError> {
    let inputs = step.in_place();
    let text = portable(&in_place(&specialise(&step.kernel)?, &inputs, step.inputs.len()));
    // Comments are a quarter of the page; they can be read in the project's shaders.
    let lines = text.lines().filter(|line| !line.is_empty() && !line.trim_start().starts_with("//"));
    let text = lines.collect::<Vec<_>>().join("\n");
    let shader = blake3::hash(text.as_bytes()).to_hex()[..12].to_owned();
    shaders.insert(shader.clone(), text);
    let operands = step.inputs.iter().chain([&step.output]).enumerate();
    let bound =
        |(binding, operand): (usize, &Operand)| (binding, operand.place.to_string(), operand.offset, operand.bytes());
    Ok(WebStep {
        kernel: step.kernel.name,
        shader,
        bindings: operands.filter(|(binding, _)| !inputs.contains(binding)).map(bound).collect(),
        numbers: step.kernel.immediates.iter().map(|(_, value)| value.to_bits()).collect(),
        workgroups: step.kernel.workgroups(),
    })
}

/// Numbers as browsers hold them: every device that has WebGPU is little-endian.
pub(super) fn base64<T: bytemuck::NoUninit>(values: &[T]) -> String {
    BASE64_STANDARD.encode(bytemuck::cast_slice::<T, u8>(values))
}
