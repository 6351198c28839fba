//! Prints and draws the memory of a step.

use std::fmt;

use kuva::render::render::{Primitive, Scene, TextAnchor};

use crate::engine::plan::memory::{Memory, Tenancy};
use crate::engine::units::{bytes, percent};
use crate::measure::figures::Table;

impl Memory {
    /// Slots upwards, dispatches to the right, a box for each value in a slot, coloured by outermost scope. The line
    /// shows the live bytes.
    pub(super) fn draw(&self) -> Scene {
        let (left, top, width, height) = (90.0, 56.0, 1000.0, 520.0);
        let x = |dispatch: usize| left + width * dispatch as f64 / (self.live.len() + 1) as f64;
        let y = |bytes: u64| top + height * (1.0 - bytes as f64 / self.slot_bytes.max(1) as f64);
        let mut scene = Scene::new(left + width + 40.0, top + height + 96.0).with_background(Some("white"));
        let mut text = |x: f64, y: f64, size: u32, anchor: TextAnchor, content: String| {
            let color = Some("#222222".into());
            scene.add(Primitive::Text { x, y, content, size, anchor, rotate: None, bold: false, color });
        };
        text(left, 24.0, 16, TextAnchor::Start, self.summary());
        text(left, 44.0, 13, TextAnchor::Start, "slots over the dispatches of a step, coloured by scope".into());
        for quarter in 0..=4 {
            let at = self.slot_bytes * quarter / 4;
            text(left - 8.0, y(at) + 4.0, 12, TextAnchor::End, bytes(at));
            let at = self.live.len() * quarter as usize / 4;
            text(x(at), top + height + 18.0, 12, TextAnchor::Middle, at.to_string());
        }

        let outermost = |tenancy: &Tenancy| tenancy.scope.split('.').next().unwrap_or_default().to_owned();
        let mut scopes: Vec<String> = self.tenancies.iter().map(outermost).collect();
        scopes.sort_unstable();
        scopes.dedup();
        for (index, scope) in scopes.iter().enumerate() {
            let (column, row) = ((index % 6) as f64, (index / 6) as f64);
            let (x, y) = (left + 160.0 * column, top + height + 50.0 + 20.0 * row);
            scene.add(rectangle([x, y - 10.0, 12.0, 12.0], colour(index)));
            let content = if scope.is_empty() { "(none)".into() } else { scope.clone() };
            let color = Some("#222222".into());
            let (size, anchor) = (12, TextAnchor::Start);
            scene.add(Primitive::Text { x: x + 18.0, y, content, size, anchor, rotate: None, bold: false, color });
        }
        let mut base = 0;
        let bases: Vec<u64> = self.slots.iter().map(|size| (base, base += size).0).collect();
        for tenancy in &self.tenancies {
            let (low, high) = (y(bases[tenancy.slot]), y(bases[tenancy.slot] + tenancy.bytes));
            let scope = scopes.binary_search(&outermost(tenancy)).expect("every scope is listed");
            let (start, end) = (x(tenancy.first), x(tenancy.last + 1));
            scene.add(rectangle([start, high, end - start, low - high], colour(scope)));
        }
        let points: Vec<(f64, f64)> = self.live.iter().enumerate().map(|(at, &live)| (x(at), y(live))).collect();
        scene.add(Primitive::PolyLine { points, stroke: "#111111".into(), stroke_width: 1.5, stroke_dasharray: None });
        scene
    }

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

fn colour(index: usize) -> &'static str {
    ["#6f9bd1", "#6dbf8b", "#e2a75e", "#a98bc9", "#8c8c8c", "#5fc0c0", "#c9b458", "#dd8fb9"][index % 8]
}

fn rectangle([x, y, width, height]: [f64; 4], fill: &str) -> Primitive {
    let (stroke, opacity) = (Some("#ffffff".into()), Some(0.9));
    Primitive::Rect { x, y, width, height, fill: fill.into(), stroke, stroke_width: Some(0.3), opacity }
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
