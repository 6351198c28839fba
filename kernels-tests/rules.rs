//! Backward rules of every primitive, and of the rules themselves.

use std::collections::BTreeSet;

use stssad::proof::check::catalogue::cases;
use stssad::proof::check::check_rule;

use crate::SEED;

/// Elements of a case up to which its rule is checked here.
const SMALL: usize = 2500;

#[test]
fn rules_hold_twice_over() {
    let mut without_rule = BTreeSet::new();
    let mut stops_at = BTreeSet::new();
    let mut checked = BTreeSet::new();
    let (mut discrete, mut stationary) = (BTreeSet::new(), BTreeSet::new());
    for (_, case) in cases().into_iter().filter(|(_, case)| case.elements() <= SMALL) {
        let report = check_rule(&case, SEED).unwrap_or_else(|failure| panic!("{failure}"));
        let name = case.primitive.name();
        without_rule.extend(report.missing.iter().map(|&input| (name, input)));
        discrete.extend(report.none.iter().map(|&input| (name, input)));
        stationary.extend(report.stationary.iter().map(|&input| (name, input)));
        stops_at.extend(report.second_missing.iter().map(|&(_, at)| (name, at)));
        if !report.second.is_empty() {
            checked.insert(name);
        }
    }
    // Only these may lack a rule: what an augmentation's pull-back is made of, what nobody tunes (centres, the
    // source of a paste), an optimiser.
    let adam = (0..4).map(|input| ("optimiser/adam", input));
    let vjps = ["softbox/mask_vjp", "cutdiff/mask_vjp", "warp/affine_matrix_vjp"]
        .into_iter()
        .flat_map(|name| (0..3).map(move |i| (name, i)));
    let masks = [("softbox/mask", 1), ("cutdiff/mask", 1)];
    let nearest = [("warp/affine", 0), ("warp/affine", 1)];
    // What only the host looks at.
    let magnitudes = (0..7).map(|input| ("reduce/magnitude", input));
    let declared: BTreeSet<_> = adam.chain(vjps).chain(masks).chain(nearest).chain(magnitudes).collect();
    assert_eq!(without_rule, declared);
    // Indices, keys, what an order is taken of, and what is compared: here the definition's derivative was seen to be 0.
    let none = [
        ("elementwise/binary", 1),
        ("pool/argmax", 0),
        ("pool/select", 1),
        ("pool/unpool", 1),
        ("random/uniform", 0),
        ("sort/gather", 1),
        ("sort/order", 0),
        ("sort/scatter", 1),
    ];
    assert_eq!(discrete, none.into());
    // Nothing was compared here, so this list must not grow without a reason: the mean in a variance.
    assert_eq!(stationary, [("reduce/squared_deviation", 1)].into());
    let second: BTreeSet<_> = [
        ("softbox/mask", "softbox/mask_vjp"),
        ("cutdiff/mask", "cutdiff/mask_vjp"),
        ("warp/affine", "warp/affine_matrix_vjp"),
        ("warp/affine_image_vjp", "warp/affine_matrix_vjp"),
    ]
    .into();
    assert_eq!(stops_at, second);

    let all: BTreeSet<_> = cases().iter().map(|(_, case)| case.primitive.name()).collect();
    let undifferentiated: Vec<_> = all.difference(&checked).copied().collect();
    assert_eq!(
        undifferentiated,
        [
            "cutdiff/mask",
            "cutdiff/mask_vjp",
            "optimiser/adam",
            "pool/argmax",
            "random/uniform",
            "reduce/magnitude",
            "softbox/mask",
            "softbox/mask_vjp",
            "sort/order",
            "warp/affine_matrix_vjp"
        ]
    );
}
