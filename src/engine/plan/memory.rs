//! What lies in the slots, dispatch by dispatch, and what a step keeps on the device.

use std::ops::Range;

use serde::Serialize;

use super::{Operand, Place, Plan};

/// A value's stay in a slot.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Tenancy {
    pub slot: usize,
    /// As the plan prints it.
    pub value: String,
    pub kernel: &'static str,
    pub scope: String,
    pub bytes: u64,
    /// The dispatch that writes it.
    pub first: usize,
    /// The last dispatch that reads it, or the number of dispatches if it is fetched or copied to a state.
    pub last: usize,
}

/// What a plan keeps on the device. All sizes are in bytes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Memory {
    /// Size of each slot.
    pub slots: Vec<u64>,
    /// Of all slots.
    pub slot_bytes: u64,
    /// The most that is live at once: what no assignment of slots can go below.
    pub live_bytes: u64,
    /// Of all values, as if each had a buffer of its own.
    pub bytes_without_reuse: u64,
    pub state_bytes: u64,
    pub feed_bytes: u64,
    pub constant_bytes: u64,
    /// Live in slots at each dispatch.
    pub live: Vec<u64>,
    pub tenancies: Vec<Tenancy>,
}

impl Memory {
    pub fn of(plan: &Plan) -> Memory {
        let mut tenancies: Vec<Tenancy> = Vec::new();
        // Of each slot the stays under way, with the bytes of the slot that they take.
        let mut current: Vec<Vec<(Range<u64>, usize)>> = vec![Vec::new(); plan.slots.len()];
        let part = |operand: &Operand| operand.offset..operand.offset + operand.bytes();
        let meets = |one: &Range<u64>, other: &Range<u64>| one.start < other.end && other.start < one.end;
        let read =
            |tenancies: &mut Vec<Tenancy>, current: &[Vec<(Range<u64>, usize)>], operand: &Operand, at: usize| {
                let Place::Slot(slot) = operand.place else { return };
                for (_, tenant) in current[slot].iter().filter(|(taken, _)| meets(taken, &part(operand))) {
                    tenancies[*tenant].last = at;
                }
            };
        for (index, step) in plan.steps.iter().enumerate() {
            for input in &step.inputs {
                read(&mut tenancies, &current, input, index);
            }
            if let Place::Slot(slot) = step.output.place {
                current[slot].retain(|(taken, _)| !meets(taken, &part(&step.output)));
                current[slot].push((part(&step.output), tenancies.len()));
                tenancies.push(Tenancy {
                    slot,
                    value: format!("{:?}", step.value),
                    kernel: step.kernel.name,
                    scope: step.scope.to_string(),
                    bytes: step.output.shape.bytes(),
                    first: index,
                    last: index,
                });
            }
        }
        for operand in plan.fetches.iter().chain(plan.copies().map(|carry| &carry.from)) {
            read(&mut tenancies, &current, operand, plan.steps.len());
        }
        let live = |at: usize| {
            let lives = |tenancy: &&Tenancy| (tenancy.first..=tenancy.last).contains(&at);
            tenancies.iter().filter(lives).map(|tenancy| tenancy.bytes).sum()
        };
        Memory {
            slots: plan.slots.clone(),
            slot_bytes: plan.slot_bytes(),
            live_bytes: plan.live_bytes,
            bytes_without_reuse: plan.bytes_without_reuse,
            state_bytes: plan.states.iter().map(|(_, shape)| shape.bytes()).sum(),
            feed_bytes: plan.feeds.iter().map(|(_, shape)| shape.bytes()).sum(),
            constant_bytes: plan.constants.iter().map(|tensor| tensor.shape().bytes()).sum(),
            live: (0..plan.steps.len()).map(live).collect(),
            tenancies,
        }
    }

    /// The first dispatch at which the most is live.
    pub fn fullest(&self) -> usize {
        (0..self.live.len()).max_by_key(|&at| (self.live[at], std::cmp::Reverse(at))).unwrap_or(0)
    }
}
