//! Which values are stored in f16.
//!
//! Matrix units take factors that are rounded to f16. A value that kernels read as such a factor, or ask for its sign, is
//! stored as they take it: no result changes by that, but where a ReLU's output below 2⁻²⁵ becomes zero. It takes half of the
//! memory, and half of the time to bring it there.

use std::collections::HashMap;

use super::schedule::Schedule;
use crate::engine::kernel::{DeviceClass, Kernel};
use crate::engine::ops::lowering;
use crate::engine::tape::{Tape, Value};
use crate::engine::tensor::Shape;

/// The kernels of what is computed, and in the schedule the bytes of what they store in f16.
pub(super) fn kernels(tape: &Tape, schedule: &mut Schedule, class: DeviceClass) -> HashMap<Value, Kernel> {
    let mut kernels: Vec<Option<Kernel>> =
        schedule.entries.iter().map(|entry| kernel(tape, entry.value, class)).collect();
    for number in 0..kernels.len() {
        let entry = &schedule.entries[number];
        if entry.home.is_some() || entry.is_divided || kernels[number].is_none() {
            continue;
        }
        let readers: Vec<(usize, usize)> = schedule.readers(number).collect();
        let output = schedule.entries[number].reads.len();
        let is_factor =
            readers.iter().any(|&(reader, _)| kernels[reader].as_ref().is_some_and(|kernel| kernel.tile().is_some()));
        let operands = readers.into_iter().chain([(number, output)]);
        let is_kept = schedule.kept.contains(&Some(number));
        if is_factor
            && !is_kept
            && operands
                .clone()
                .all(|(at, binding)| kernels[at].as_ref().is_some_and(|kernel| kernel.is_storable(binding)))
        {
            operands.for_each(|(at, binding)| {
                if let Some(kernel) = &mut kernels[at] {
                    kernel.store_half(binding);
                }
            });
            let entry = &mut schedule.entries[number];
            (entry.is_half, entry.bytes) = (true, entry.bytes / 2);
        }
    }
    let values = schedule.entries.iter().map(|entry| entry.value);
    values.zip(kernels).filter_map(|(value, kernel)| Some((value, kernel?))).collect()
}

/// `None` where there is nothing to run.
fn kernel(tape: &Tape, value: Value, class: DeviceClass) -> Option<Kernel> {
    let node = tape.node(value);
    let shapes: Vec<&Shape> = node.inputs().iter().map(|&input| tape.shape(input)).collect();
    let lowered = node.primitive().and_then(lowering)?;
    Some(lowered.kernel(&shapes, &node.shape, class))
}

#[cfg(test)]
mod tests {
    use super::super::{Place, Plan, Reuse};
    use super::*;
    use crate::engine::kernel::Tile;

    #[test]
    fn factors_and_masks_are_stored_in_f16_and_nothing_else() {
        let mut t = Tape::new();
        let (x, w, v) = (t.feed("x", [2, 8, 6, 6]), t.feed("w", [8, 8, 3, 3]), t.feed("v", [8, 8, 3, 3]));
        let h = t.conv2d(x, w, 1, 1);
        let h = t.relu(h);
        let y = t.conv2d(h, v, 1, 1);
        let loss = t.total(y);
        let [ct_w, ct_v] = t.grad(loss, &[w, v]).unwrap()[..] else { panic!("two gradients") };
        let halves = |fetches: &[Value], class: DeviceClass| -> Vec<String> {
            let plan = Plan::new(&t, fetches, &[], class, Reuse::On);
            for step in &plan.steps {
                for (binding, operand) in step.inputs.iter().chain([&step.output]).enumerate() {
                    assert_eq!(operand.is_half, step.kernel.is_half(binding), "{:?}", step.value);
                    assert!(!operand.is_half || matches!(operand.place, Place::Slot(_)));
                }
            }
            let halves = plan.steps.iter().filter(|step| step.output.is_half);
            halves.map(|step| format!("{:?}", plan.graph.node(step.value).primitive().unwrap())).collect()
        };
        let class = DeviceClass::Matrix(Tile::Sixteen);
        let both = halves(&[ct_w, ct_v], class);
        // The ReLU, of which a convolution, its adjoint and a mask are made, and the masked cotangent.
        let [relu, masked] = &both[..] else { panic!("{both:?}") };
        assert!(relu.contains("Relu") && masked.contains("WherePositive"), "{both:?}");
        assert_eq!(halves(&[ct_w, ct_v, h], class), both[1..], "what is fetched is fetched as it was computed");
        assert!(halves(&[ct_w, ct_v], DeviceClass::Gpu).is_empty());
    }
}
