//! The model's counters against the compiler's assembly: two counts of what a wave executes, which share nothing but the WGSL.
//!
//! The assembly says what an iteration of the hot loop has, and what stands outside of it. How often the loop runs is taken from the
//! model's barriers, where an iteration has one; else from the constant bounds that the assembly shows; else from the model's
//! multiply-adds, whose agreement then proves nothing.

use std::fmt;

use super::assembly::{Class, HotLoop, Mix};
use super::model::{Counts, Machine};
use super::report::{Found, Report};
use crate::measure::figures::Table;

/// Counts agree that differ by no more than this share of the greater one.
const TOLERANCE: f64 = 0.01;

/// What is counted.
const COUNTED: [&str; 4] = ["multiply-adds", "workgroup memory", "loads", "stores"];

/// A wave's executed instructions of a kind.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Pair {
    model: f64,
    assembly: f64,
}

impl Pair {
    fn agrees(self) -> bool {
        (self.model - self.assembly).abs() <= TOLERANCE * self.model.max(self.assembly)
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.agrees() {
            true => write!(f, "{:.0}", self.model),
            false => write!(f, "{:.2} / {:.2}", self.model, self.assembly),
        }
    }
}

/// How often the hot loop runs in a wave.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Turns {
    count: f64,
    /// Whether the multiply-adds tell, which are no comparison then.
    by_multiply_adds: bool,
}

impl Turns {
    /// `None` where nothing tells.
    fn of(hot: &HotLoop, [barriers, multiply_adds]: [f64; 2]) -> Option<Turns> {
        let turns = |class: Class, all: f64| {
            let [inside, outside] = [&hot.mix, &hot.outside].map(|mix| mix.of(class) as f64);
            // Fewer than one turn: the two count different things, such as products and sums that the compiler fused.
            (inside > 0.0).then(|| (all - outside) / inside).filter(|turns| *turns >= 1.0)
        };
        let shown = turns(Class::Barrier, barriers).or(hot.trips.map(|trips| trips as f64));
        let by_multiply_adds = shown.is_none();
        let count = shown.or_else(|| turns(Class::Fma, multiply_adds))?;
        Some(Turns { count, by_multiply_adds })
    }
}

impl fmt::Display for Turns {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{:.1}{}", self.count, if self.by_multiply_adds { "*" } else { "" })
    }
}

/// One kernel, counted twice.
#[derive(Clone, Debug, PartialEq)]
struct Row {
    name: String,
    turns: Option<Turns>,
    /// In the order of [`COUNTED`].
    pairs: [Pair; 4],
    /// Why they differ, where they do.
    why: Vec<String>,
}

impl Row {
    /// `None` if it is not known how often the hot loop runs.
    fn of(name: &str, found: &Found, counts: &Counts, waves: f64) -> Option<Row> {
        let per_wave = |count: f64| count / waves;
        let model =
            [counts.fma, counts.workgroup_loads + counts.workgroup_stores, counts.loads, counts.stores].map(per_wave);
        let classes = [Class::Fma, Class::Lds, Class::GlobalLoad, Class::GlobalStore];
        let turns = match &found.hot {
            None => None,
            Some(hot) if !hot.unknown.is_empty() => return None,
            Some(hot) => Some(Turns::of(hot, [counts.barriers, counts.fma].map(per_wave))?),
        };
        let count = turns.map_or(1.0, |turns| turns.count);
        let none = Mix::default();
        let parts = found.hot.as_ref().map_or([&none, &found.mix], |hot| [&hot.mix, &hot.outside]);
        let [inside, outside] = parts.map(|mix| classes.map(|class| mix.of(class) as f64));
        let pairs = std::array::from_fn(|at| Pair { model: model[at], assembly: outside[at] + count * inside[at] });
        let differing = (0..COUNTED.len()).filter(|&at| !pairs[at].agrees());
        let why = differing.map(|at| {
            let Pair { model, assembly } = pairs[at];
            let excess = assembly - model;
            let reason = match () {
                () if excess > 0.0 && excess <= outside[at] => {
                    "outside of the loop stands code under a condition, which not every wave executes"
                }
                () if excess > 0.0 => "in the loop stands code under a condition, which not every turn executes",
                () if classes[at] == Class::GlobalLoad && found.mix.of(Class::ScalarLoad) > 0 => {
                    "what all lanes read alike is loaded into scalar registers"
                }
                () => "code that runs more often than the assembly shows: a loop outside of the hot one",
            };
            format!("{}: {reason}", COUNTED[at])
        });
        Some(Row { name: name.to_owned(), turns, pairs, why: why.collect() })
    }
}

/// The kernels that both the model and the compiler have counted.
#[derive(Clone, Debug, PartialEq)]
pub struct Agreement {
    rows: Vec<Row>,
    /// Kernels whose loops run an unknown number of times.
    unknown: usize,
}

impl Agreement {
    /// `None` without a compiler, without a model, or with no kernel that both have counted.
    pub fn of(report: &Report) -> Option<Agreement> {
        let model = report.model.as_ref()?;
        let subgroup = Machine::named(&model.machine)?.subgroup;
        let (mut rows, mut unknown) = (Vec::new(), 0);
        for row in &report.rows {
            let modelled = model.rows.iter().find(|modelled| modelled.name == row.name);
            let Some((modelled, found)) = modelled.zip(row.found.as_ref()) else { continue };
            let Some(bound) = &modelled.bound else { continue };
            let waves = modelled.workgroups * u64::from(row.invocations.div_ceil(subgroup));
            match Row::of(&row.name, found, &bound.counts, waves as f64) {
                Some(row) => rows.push(row),
                None => unknown += 1,
            }
        }
        (!rows.is_empty()).then_some(Agreement { rows, unknown })
    }
}

/// A table; where the counts differ, both and the reason.
impl fmt::Display for Agreement {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Agreement { rows, unknown } = self;
        let whole = rows.iter().filter(|row| row.why.is_empty()).count();
        writeln!(
            f,
            "What a wave executes on average, counted by the model and in the assembly (model / assembly where they differ by over 1 %)."
        )?;
        writeln!(f, "{whole} of {} kernels agree in all four counts.", rows.len())?;
        if *unknown > 0 {
            writeln!(f, "Not compared: {unknown}. Nothing tells how often their loops run.")?;
        }
        if rows.iter().filter_map(|row| row.turns).any(|turns| turns.by_multiply_adds) {
            writeln!(f, "* Computed from the model's multiply-adds, so that their agreement proves nothing.")?;
        }
        let header = ["kernel", "turns of the loop", COUNTED[0], COUNTED[1], COUNTED[2], COUNTED[3]];
        let row = |Row { name, turns, pairs: [a, b, c, d], .. }: &Row| {
            let turns = turns.map_or("–".to_owned(), |turns| turns.to_string());
            [name.clone(), turns, a.to_string(), b.to_string(), c.to_string(), d.to_string()]
        };
        write!(f, "\n{}", Table { header, rows: rows.iter().map(row).collect() })?;
        for row in rows.iter().filter(|row| !row.why.is_empty()) {
            write!(f, "\n{}\n  {}", row.name, row.why.join("\n  "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::report::Resources;
    use super::*;

    fn mix(counts: [u64; 5]) -> Mix {
        let classes = [Class::Fma, Class::Lds, Class::GlobalLoad, Class::GlobalStore, Class::Barrier];
        let operations: BTreeMap<Class, u64> =
            classes.into_iter().zip(counts).filter(|(_, count)| *count > 0).collect();
        Mix { instructions: counts.iter().sum(), operations }
    }

    /// A loop of so many instructions within all of them.
    fn found(all: [u64; 5], inside: [u64; 5], trips: Option<u64>) -> Found {
        let hot = HotLoop {
            label: "BB1".into(),
            lines: [1, 2],
            trips,
            mix: mix(inside),
            outside: mix(std::array::from_fn(|at| all[at] - inside[at])),
            fma_share: 0.0,
            unknown: Vec::new(),
            loads_in_flight: 0,
            load_groups: 0,
            barriers: inside[4],
        };
        let resources = Resources {
            vgprs: 0,
            sgprs: 0,
            spilled_vgprs: 0,
            spilled_sgprs: 0,
            scratch_bytes: 0,
            lds_bytes: 0,
            waves_per_simd: 0,
            code_bytes: 0,
            latency: 0,
            inverse_throughput: 0,
        };
        Found { resources, mix: mix(all), hot: Some(hot) }
    }

    #[test]
    fn counts_are_held_against_each_other() {
        let (all, inside) = ([512, 35, 24, 64, 1], [512, 35, 12, 0, 1]);
        let counts = Counts {
            fma: 10.0 * 512.0,
            workgroup_loads: 300.0,
            workgroup_stores: 50.0,
            loads: 132.0,
            stores: 64.0,
            barriers: 10.0,
            ..Counts::default()
        };
        let row = Row::of("a", &found(all, inside, None), &counts, 1.0).unwrap();
        assert_eq!((row.turns.unwrap().count, row.why.len()), (10.0, 0), "{row:?}");
        // Two waves have twice as much.
        let twice = Counts { fma: 2.0 * counts.fma, ..counts };
        assert_eq!(Row::of("a", &found(all, inside, None), &twice, 1.0).unwrap().why.len(), 1);
        // Both sides of a branch, a lost multiply-add, and a count that is no number.
        let few = Counts { stores: 16.0, fma: 10.0 * 500.0, loads: f64::NAN, ..counts };
        let row = Row::of("a", &found(all, inside, None), &few, 1.0).unwrap();
        assert_eq!(row.why.len(), 3, "{row:?}");
        assert!(row.why[2].contains("code under a condition"), "{row:?}");
        // A nested loop runs what the code has once.
        let mut nested = found(all, inside, None);
        nested.mix = mix([64, 35, 24, 64, 1]);
        assert_eq!(Row::of("a", &nested, &counts, 1.0).unwrap().why.len(), 0);
        // Without barriers the bounds tell how often it runs, or the multiply-adds, or nothing.
        let free = [512, 35, 12, 0, 0];
        let turns =
            |inside: [u64; 5], trips| Some(Row::of("a", &found(all, inside, trips), &counts, 1.0)?.turns?.to_string());
        assert_eq!(turns(free, Some(11)).unwrap(), "11.0");
        assert_eq!(turns(free, None).unwrap(), "10.0*");
        assert_eq!(turns([0, 35, 12, 0, 0], None), None);
        // The compiler fuses what the model counts as products and sums.
        let unfused = Counts { fma: 0.0, barriers: 0.0, ..counts };
        assert_eq!(Row::of("a", &found(all, free, None), &unfused, 1.0), None);
    }
}
