//! The training step node by node, and what `stssad check` makes of it all.

use stssad::check::{Options, run};

use crate::{SEED, device};

fn report(options: Options) -> stssad::check::Report {
    run(device(), &Options { seed: SEED, ..options }, |_, _, _| {}).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn every_node_of_the_training_step_is_within_its_bound() {
    let report = report(Options { step: true, ..Options::default() });
    assert!(report.passed(), "{report}");
    assert_eq!(report.outcomes.len(), 4);
}

#[test]
fn one_case_is_run_by_its_name() {
    let name = "conv2d/input(n=1,c=2,h=5,w=4,k=3,r=2,s=2,stride=2,padding=1)";
    let report = report(Options { filter: Some(name.into()), ..Options::default() });
    assert!(report.passed(), "{report}");
    let checks: Vec<&str> = report.outcomes.iter().map(|outcome| outcome.check).collect();
    assert_eq!(checks, ["kernel", "kernel", "adjoint", "adjoint", "rule"]);
    assert!(report.outcomes.iter().all(|outcome| outcome.name == name));
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["outcomes"][0]["variant"], "conv2d/input");
}

#[test]
fn only_rules_are_run_when_asked_for() {
    let report = report(Options { grad: true, family: Some("pool".into()), ..Options::default() });
    assert!(report.passed() && report.outcomes.iter().all(|outcome| outcome.check == "rule"), "{report}");
    assert!(run(device(), &Options { filter: Some("conv4d".into()), ..Options::default() }, |_, _, _| {}).is_err());
}
