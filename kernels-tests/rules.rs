//! Backward rules of every primitive, and their own derivatives.

use std::collections::BTreeSet;

use stssad::engine::ops::cases;
use stssad::proof::check::check_rule;

use crate::SEED;

/// Rules are checked at cases of at most this many elements.
const SMALL: usize = 2500;

#[test]
fn rules_hold_twice_over() {
    let mut undifferentiated = BTreeSet::new();
    let (mut second, mut stops) = (BTreeSet::new(), BTreeSet::new());
    let mut stationary = BTreeSet::new();
    let without_rule: BTreeSet<&str> = cases()
        .iter()
        .filter(|(_, case)| !case.says.without_rule.is_empty())
        .map(|(_, case)| case.primitive.name())
        .collect();
    for (_, case) in cases().into_iter().filter(|(_, case)| case.elements() <= SMALL) {
        let report = check_rule(&case, SEED).unwrap_or_else(|failure| panic!("{failure}"));
        let name = case.primitive.name();
        stationary.extend(report.stationary.iter().map(|&input| (name, input)));
        // The second derivative stops only where a family declares a rule missing.
        for (_, at) in &report.second_missing {
            assert!(without_rule.contains(at), "{case}: its second derivative stops at {at}");
            stops.insert(name);
        }
        match report.second.is_empty() {
            true => undifferentiated.insert(name),
            false => second.insert(name),
        };
    }
    let all: BTreeSet<&str> = cases().iter().map(|(_, case)| case.primitive.name()).collect();
    assert_eq!(&undifferentiated | &second, all, "every primitive has a case of at most {SMALL} elements");
    // Every rule is differentiated once more, or that stops at a missing rule.
    for (_, case) in cases() {
        let (name, says) = (case.primitive.name(), &case.says);
        let has_none = |input| [says.constant, says.stationary, says.without_rule].concat().contains(&input);
        let has_rule = !(0..case.inputs.len()).all(has_none);
        assert!(!has_rule || second.contains(name) || stops.contains(name), "{case}: no second derivative");
    }
    // Inputs that were not compared. This list must not grow without a reason; its entry is the mean in a variance.
    assert_eq!(stationary, [("reduce/squared_deviation", 1)].into());
}
