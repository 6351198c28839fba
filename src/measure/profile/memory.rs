//! Prints the memory of a step.

use std::fmt;

use crate::engine::plan::memory::{Memory, Tenancy};
use crate::engine::units::{bytes, percent};
use crate::measure::figures::Table;

impl Memory {
    fn summary(&self) -> String {
        format!(
            "{} in {} slots, {} live at most ({} % of it), {} without reuse",
            bytes(self.slot_bytes),
            self.slots.len(),
            bytes(self.live_bytes),
            percent(self.live_bytes as f64 / self.slot_bytes.max(1) as f64),
            bytes(self.bytes_without_reuse),
        )
    }
}

/// Total sizes, and the largest live values at the peak.
impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        writeln!(f, "memory   {}", self.summary())?;
        writeln!(
            f,
            "         states {}, feeds {}, constants {}",
            bytes(self.state_bytes),
            bytes(self.feed_bytes),
            bytes(self.constant_bytes)
        )?;
        let at = self.fullest();
        let mut live: Vec<&Tenancy> =
            self.tenancies.iter().filter(|tenancy| (tenancy.first..=tenancy.last).contains(&at)).collect();
        live.sort_by_key(|tenancy| std::cmp::Reverse(tenancy.bytes));
        let row = |tenancy: &&Tenancy| {
            let Tenancy { value, kernel, scope, bytes: size, first, last, .. } = tenancy;
            [value.clone(), bytes(*size), format!("{first}–{last}"), (*kernel).into(), scope.clone()]
        };
        let rows = live.iter().take(8).map(row).collect();
        writeln!(f, "live at dispatch {at} of {}, the largest of {} values:", self.live.len(), live.len())?;
        write!(f, "{}", Table { header: ["value", "size", "lives", "kernel", "scope"], rows })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::kernel::DeviceClass;
    use crate::engine::ops::elementwise::Unary;
    use crate::engine::plan::{Plan, Reuse};
    use crate::engine::tape::Tape;

    #[test]
    fn tenancies_match_the_planner() {
        let mut tape = Tape::new();
        let x = tape.feed("x", [100]);
        let y = tape.unary(Unary::Exp, x);
        let z = tape.unary(Unary::Exp, y);
        let both = tape.add(y, z);
        let sum = tape.total(both);
        let plan = Plan::new(&tape, &[sum], &[], DeviceClass::Gpu, Reuse::On);
        let memory = Memory::of(&plan);
        assert_eq!(memory.live.iter().max(), Some(&plan.live_bytes));
        assert_eq!(memory.feed_bytes, 400);
        assert_eq!(memory.tenancies.len(), plan.steps.len());
        assert_eq!((memory.tenancies[0].first, memory.tenancies[0].last), (0, 2), "y is read by the addition");
        assert_eq!(memory.tenancies.last().unwrap().last, plan.steps.len(), "a fetched value stays");
        assert_eq!(memory.fullest(), 2);
        assert!(memory.to_string().contains("live at dispatch 2 of 4"), "{memory}");
    }
}
