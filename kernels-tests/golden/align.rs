//! Alignment losses of raw rows, normalised on the way, with gradients to every row.

use stssad::loss::{Alignment, total_distance_normalise};

use super::{Golden, golden};

const SIZES: [usize; 3] = [8, 6, 9];

fn check(alignment: Alignment, name: &str) {
    let mut g = Golden::new();
    let z = g.feed("align/z", [23, 6]);
    let t = &mut g.tape;
    let normalised = total_distance_normalise(t, z);
    let z_trn = t.slice(normalised, 0, 0, SIZES[0]);
    let z_aug = t.slice(normalised, 0, SIZES[0], SIZES[1]);
    let z_val = t.slice(normalised, 0, SIZES[0] + SIZES[1], SIZES[2]);
    let loss = alignment.record(t, z_trn, z_aug, z_val);
    let gradient = t.grad(loss, &[z]).unwrap()[0];
    g.expect("normalised", normalised, golden("align/normalised"));
    g.expect("value", loss, golden(&format!("align/{name}/value")));
    g.expect("grad_z", gradient, golden(&format!("align/{name}/grad_z")));
    g.check();
}

#[test]
fn mean_distance() {
    check(Alignment::MeanDistance, "mean_distance");
}

#[test]
fn diagonal_w2() {
    check(Alignment::DiagonalW2 { mass: 0.5 }, "diagonal_w2");
}

#[test]
fn diagonal_w2_of_another_mass() {
    check(Alignment::DiagonalW2 { mass: 0.15 }, "diagonal_w2_mass15");
}
