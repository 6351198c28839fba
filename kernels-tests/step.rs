//! The training step node by node, and `stssad check` as a whole.

use clap::ValueEnum;
use stssad::engine::kernel::DeviceClass;
use stssad::engine::plan::{Plan, Reuse};
use stssad::proof::check::{Checks, Kind, Options};
use stssad::ssad::augment;
use stssad::ssad::config::Config;
use stssad::ssad::loss::{self, Alignment};
use stssad::ssad::method::Method;
use stssad::ssad::nn::Detector;
use stssad::ssad::step::TrainingStep;

use crate::{SEED, device};

fn report(options: Options) -> stssad::proof::check::Report {
    let checks = Checks::of(device(), &Options { seed: SEED, ..options }).unwrap_or_else(|error| panic!("{error}"));
    checks.run(device(), |_, _, _| {})
}

#[test]
fn every_node_of_the_training_step_is_within_its_bound() {
    let report = report(Options { step: true, ..Options::default() });
    assert!(report.passed(), "{report}");
    assert_eq!(report.outcomes.len(), 4 * 2);
}

/// Every loss has second-order gradients for every augmentation's hyper-parameters, and a step has a feasible size.
#[test]
fn every_part_has_its_gradients() {
    let compositions = ["cutpaste+rotation", "rotation+cutdiff", "cutout+cutavg"];
    let with = |method: Method, augmentation: &str, alignment: &str, detector: Detector| {
        let alignment = Alignment::by_name(alignment, 0.5).unwrap();
        let config = Config::new(detector, augment::by_name(augmentation, 1).unwrap());
        let config = Config { alignment, method, batch: 8, batch_val: 12, ..config };
        let step = TrainingStep::record(&config, [1, 28, 28]);
        let step = step.unwrap_or_else(|error| panic!("{augmentation} with {alignment}: {error}"));
        let fetched = step.tuning.as_ref().map_or(step.inner, |tuning| tuning.figures);
        let carries = [&step.carries[..], step.tuning.as_ref().map_or(&[], |tuning| &tuning.carries)].concat();
        Plan::new(&step.tape, &[fetched], &carries, DeviceClass::Gpu, Reuse::On).steps.len()
    };
    for augmentation in augment::names().chain(compositions) {
        for alignment in loss::names() {
            let dispatches = with(Method::StSsad, augmentation, alignment, Detector::small(1));
            assert!(dispatches < 4000, "{dispatches} dispatches with {augmentation} and {alignment}");
        }
    }
    let resnet = with(Method::StSsad, "rotation", "diagonal-w2", Detector::resnet18(1, [28, 28]));
    assert!(resnet < 7000, "{resnet} dispatches with ResNet-18");
    for method in Method::value_variants().iter().filter(|method| method.trains()) {
        let dispatches = with(*method, "cutdiff", "diagonal-w2", Detector::small(1));
        assert!((30..2000).contains(&dispatches), "{dispatches} dispatches with {method:?}");
    }
}

/// Starts side by side share every dispatch, except in alignment losses computed for each start separately.
#[test]
fn starts_side_by_side_share_their_dispatches() {
    let dispatches = |alignment: &str, together: usize| {
        let config = Config::new(Detector::small(1), augment::by_name("rotation", 1).unwrap());
        let (starts, alignment) = (vec![vec![0.5]; together], Alignment::by_name(alignment, 0.5).unwrap());
        let step = TrainingStep::record(&Config { starts, together, alignment, ..config }, [1, 28, 28]).unwrap();
        let tuning = step.tuning.as_ref().unwrap();
        let carries = [&step.carries[..], &tuning.carries].concat();
        Plan::new(&step.tape, &[tuning.figures], &carries, DeviceClass::Gpu, Reuse::On).steps.len()
    };
    for alignment in loss::names() {
        let [one, eight] = [1, 8].map(|together| dispatches(alignment, together));
        println!("{alignment}: {one} dispatches, {eight} of eight starts");
        let shares_all = matches!(alignment, "mean-distance" | "diagonal-w2");
        assert!(if shares_all { eight <= one + 5 } else { eight < 8 * one }, "{alignment}: {one}, {eight}");
    }
}

/// Slots take little more than the peak of live bytes, in a step that would not fit many GPUs with one slot per value.
#[test]
fn a_large_step_needs_little_more_than_what_lives() {
    let config = Config::new(Detector::resnet18(3, [32, 32]), augment::by_name("rotation", 3).unwrap());
    let step = TrainingStep::record(&Config { batch: 64, batch_val: 128, ..config }, [3, 32, 32]).unwrap();
    let tuning = step.tuning.as_ref().unwrap();
    let carries = [&step.carries[..], &tuning.carries].concat();
    let [shared, own, again] = [Reuse::On, Reuse::Off, Reuse::Recompute]
        .map(|reuse| Plan::new(&step.tape, &[tuning.figures], &carries, DeviceClass::Gpu, reuse));
    let ratio = shared.slot_bytes() as f64 / shared.live_bytes as f64;
    println!(
        "slots {:.2} GB, {ratio:.3} × live; {:.1} × less than a slot each",
        shared.slot_bytes() as f64 / 1e9,
        own.slot_bytes() as f64 / shared.slot_bytes() as f64
    );
    assert!((1.0..=1.3).contains(&ratio), "slots take {ratio} × the live bytes");

    let (live, dispatches) =
        (again.live_bytes as f64 / shared.live_bytes as f64, again.steps.len() - shared.steps.len());
    let slots = again.slot_bytes() as f64 / shared.slot_bytes() as f64;
    println!("{dispatches} computed again: {live:.3} × live, {slots:.3} × slots");
    let largest = live.max(slots);
    assert!(largest < 0.7, "{live} × the live bytes in {slots} × the slots when cheap values are not kept");
    assert!(dispatches * 20 < shared.steps.len(), "{dispatches} of {} dispatches are made twice", shared.steps.len());
}

#[test]
fn one_case_is_run_by_its_name() {
    let name = "conv2d/input(n=1,c=2,h=5,w=4,k=3,r=2,s=2,stride=2,padding=1)";
    let report = report(Options { filter: Some(name.into()), ..Options::default() });
    assert!(report.passed(), "{report}");
    let checks: Vec<Kind> = report.outcomes.iter().map(|outcome| outcome.check).collect();
    assert_eq!(checks, [Kind::Kernel, Kind::Kernel, Kind::Adjoint, Kind::Adjoint, Kind::Rule]);
    assert!(report.outcomes.iter().all(|outcome| outcome.name == name));
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["outcomes"][0]["variant"], "conv2d/input");
}

#[test]
fn only_rules_are_run_when_asked_for() {
    let report = report(Options { grad: true, family: Some("pool".into()), ..Options::default() });
    assert!(report.passed() && report.outcomes.iter().all(|outcome| outcome.check == Kind::Rule), "{report}");
    assert!(Checks::of(device(), &Options { filter: Some("conv4d".into()), ..Options::default() }).is_err());
}
