//! What `stssad check` found, for people and for programs.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::compare::Mismatch;
use super::kernels::Fault;
use crate::engine::case::ShapeClass;
use crate::engine::gpu::AdapterSummary;

/// Failures of a kernel that are told in full.
const TOLD: usize = 3;

/// A kind of check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A kernel in the sanitizer, at a small shape.
    Sanitizer,
    /// A kernel on the device, at a shape of the catalogue.
    Kernel,
    /// The same at a shape of a packaged workload.
    Dispatch,
    /// Two kernels of the device that are each other's adjoint.
    Adjoint,
    /// A backward rule, of first and second order, in f64.
    Rule,
    /// A training step, node by node.
    Step,
}

impl Kind {
    pub const ALL: [Kind; 6] = [Kind::Sanitizer, Kind::Kernel, Kind::Dispatch, Kind::Adjoint, Kind::Rule, Kind::Step];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Sanitizer => "sanitizer",
            Kind::Kernel => "kernel",
            Kind::Dispatch => "dispatch",
            Kind::Adjoint => "adjoint",
            Kind::Rule => "rule",
            Kind::Step => "step",
        }
    }

    /// What holds where it passes.
    fn means(self) -> &'static str {
        match self {
            Kind::Sanitizer => "no race, no access outside of a buffer, no missing barrier",
            Kind::Kernel => "a kernel on the device against its definition in f64",
            Kind::Dispatch => "the same at shapes of training",
            Kind::Adjoint => "⟨ȳ, J·x⟩ = ⟨Jᵀ·ȳ, x⟩ with the device's kernels for both",
            Kind::Rule => "a backward rule against differences, in f64 on the CPU",
            Kind::Step => "a training step on the device against f64, node by node",
        }
    }
}

/// What a check found wrong.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// As [`Fault::kind`].
    pub fault: String,
    /// A sentence, or several.
    pub text: String,
    /// Where the output differs, if it is that.
    pub mismatch: Option<Mismatch>,
    /// The command that runs the check again.
    pub again: String,
}

impl Finding {
    pub(super) fn of(fault: Fault, again: String) -> Finding {
        let (kind, text) = (fault.kind().to_owned(), fault.to_string());
        let mismatch = match fault {
            Fault::Wrong { mismatch, .. } => Some(*mismatch),
            _ => None,
        };
        Finding { fault: kind, text, mismatch, again }
    }
}

/// One check of one case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    pub check: Kind,
    /// The case's name, or a description of the training step.
    pub name: String,
    /// The shader, `gpu`, `cpu` or `matrix 16x16` for the kernels of a class, or `f64`.
    pub variant: String,
    /// `None` if it passed.
    pub failure: Option<Finding>,
}

/// On which shape classes a kernel was run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Coverage {
    pub primitive: &'static str,
    /// The shader, by the name of its file.
    pub variant: &'static str,
    /// For each class of shapes, [cases run, cases in the catalogue].
    pub classes: BTreeMap<ShapeClass, [usize; 2]>,
}

/// What was checked on which device.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    pub adapter: AdapterSummary,
    pub seed: u64,
    pub outcomes: Vec<Outcome>,
    pub coverage: Vec<Coverage>,
    /// What was not run, and why.
    pub left_out: Vec<String>,
}

impl Report {
    pub fn passed(&self) -> bool {
        self.outcomes.iter().all(|outcome| outcome.failure.is_none())
    }

    /// A line for each kernel: of each class of shapes, the cases run and those in the catalogue.
    pub fn table(&self) -> String {
        let mut table = format!("{:<26}", "kernel: cases run / all");
        ShapeClass::ALL.iter().for_each(|class| table += &format!("{class:>9}"));
        for row in &self.coverage {
            table += &format!("\n{:<26}", row.variant);
            for class in ShapeClass::ALL {
                let cell = row.classes.get(&class).map_or("-".to_owned(), |[run, all]| format!("{run}/{all}"));
                table += &format!("{cell:>9}");
            }
        }
        table
    }

    /// The failures of each kernel, or class of kernels, in the order of the first.
    fn failures(&self) -> Vec<(&str, Vec<(&Outcome, &Finding)>)> {
        let mut groups: Vec<(&str, Vec<(&Outcome, &Finding)>)> = Vec::new();
        for outcome in &self.outcomes {
            let Some(finding) = &outcome.failure else { continue };
            match groups.iter_mut().find(|(variant, _)| *variant == outcome.variant) {
                Some((_, group)) => group.push((outcome, finding)),
                None => groups.push((&outcome.variant, vec![(outcome, finding)])),
            }
        }
        groups
    }
}

/// The failures, kernel by kernel, and the counts.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let AdapterSummary { name, driver, class, .. } = &self.adapter;
        writeln!(f, "{name} ({class}, {driver}), seed {}", self.seed)?;
        for (variant, failures) in self.failures() {
            let all = self.outcomes.iter().filter(|outcome| outcome.variant == variant).count();
            writeln!(f, "\nFAILED {variant}: {} of {all} checks", failures.len())?;
            for (outcome, finding) in failures.iter().take(TOLD) {
                writeln!(
                    f,
                    "  {} {}\n    {}",
                    outcome.check.name(),
                    outcome.name,
                    finding.text.replace('\n', "\n    ")
                )?;
                writeln!(f, "    again: {}", finding.again)?;
            }
            if failures.len() > TOLD {
                writeln!(f, "  and {} more, which --json lists", failures.len() - TOLD)?;
            }
        }
        writeln!(f)?;
        for left_out in &self.left_out {
            writeln!(f, "not run:  {left_out}")?;
        }
        for check in Kind::ALL {
            let all = self.outcomes.iter().filter(|outcome| outcome.check == check);
            let failed = all.clone().filter(|outcome| outcome.failure.is_some()).count();
            let count = all.count();
            if count > 0 {
                let hold = format!("{} of {count} hold", count - failed);
                writeln!(f, "{:<9} {hold:<18}  {}", check.name(), check.means())?;
            }
        }
        Ok(())
    }
}
