//! Alignment losses of raw rows, normalised first, with gradients to every row.

use stssad::engine::ops::random;
use stssad::engine::reference::Reference;
use stssad::engine::tape::{Tape, Value};
use stssad::ssad::loss::{Alignment, nuclear_norm, sliced_w2, total_distance_normalise};

use super::{Golden, golden};

const SIZES: [usize; 3] = [8, 6, 9];

fn check(alignment: Alignment, name: &str) {
    check_loss(Golden::new(), name, |t, [z_trn, z_aug, z_val]| {
        let key = t.constant(random::key(0, 0));
        alignment.record(t, z_trn, z_aug, z_val, key)
    });
}

fn check_loss(mut g: Golden, name: &str, loss: impl FnOnce(&mut Tape, [Value; 3]) -> Value) {
    let z = g.feed("align/z", [23, 1, 6]);
    let t = &mut g.tape;
    let normalised = total_distance_normalise(t, z);
    let z_trn = t.slice(normalised, 0, 0, SIZES[0]);
    let z_aug = t.slice(normalised, 0, SIZES[0], SIZES[1]);
    let z_val = t.slice(normalised, 0, SIZES[0] + SIZES[1], SIZES[2]);
    let loss = loss(t, [z_trn, z_aug, z_val]);
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

#[test]
fn gaussian_w2() {
    check(Alignment::GaussianW2 { mass: 0.5 }, "gaussian_w2");
}

/// Along the golden directions, where [`Alignment::SlicedW2`] draws its own.
#[test]
fn sliced_w2_along_given_directions() {
    let mut g = Golden::new();
    let directions = g.feed("align/directions", [6, 16]);
    check_loss(g, "sliced_w2", |t, z| {
        let [z_trn, z_aug, z_val] = z.map(|z| t.reshape(z, [t.shape(z)[0], 6]));
        sliced_w2(t, z_trn, z_aug, z_val, directions, 0.5)
    });
}

#[test]
fn sinkhorn() {
    check(Alignment::Sinkhorn { mass: 0.5 }, "sinkhorn");
}

#[test]
fn mmd() {
    check(Alignment::Mmd { mass: 0.5 }, "mmd");
}

#[test]
fn mmd_of_another_mass() {
    check(Alignment::Mmd { mass: 0.15 }, "mmd_mass15");
}

/// Random directions agree up to sampling error: the mean over 64 is within 30 % of that over the 16 golden ones.
#[test]
fn sliced_w2_along_random_directions() {
    let mut g = Golden::new();
    let z = g.feed("align/z", [23, 1, 6]);
    let t = &mut g.tape;
    let normalised = total_distance_normalise(t, z);
    let parts = [(0, SIZES[0]), (SIZES[0], SIZES[1]), (SIZES[0] + SIZES[1], SIZES[2])];
    let [z_trn, z_aug, z_val] = parts.map(|(start, rows)| t.slice(normalised, 0, start, rows));
    let losses = [1, 2].map(|step| {
        let key = t.constant(random::key(0, step));
        Alignment::SlicedW2 { mass: 0.5 }.record(t, z_trn, z_aug, z_val, key)
    });
    let mut reference = Reference::new(&g.tape, &g.sources);
    let [first, second] = losses.map(|loss| reference.eval(loss).unwrap()[0]);
    assert_ne!(first, second, "directions are drawn anew in each step");
    let want = golden("align/sliced_w2/value")[0];
    for value in [first, second] {
        assert!((value - want).abs() <= 0.3 * want, "{value} of 64 directions, {want} of 16");
    }
}

/// x = (I − 2·p·pᵀ) · diag(σ) · (I − 2·q·qᵀ) with unit p and q, so that Σ σ and the gradient (the product of the two
/// reflections) are known. The smallest of σ is 1 / `condition`; the ridge limits it to 1e4.
fn check_nuclear_norm(condition: f64) {
    const N: usize = 12;
    let sigma: Vec<f64> = (0..N).map(|i| condition.powf(-(i as f64) / (N - 1) as f64)).collect();
    let reflection = |phase: f64| {
        let p: Vec<f64> = (0..N).map(|i| (phase + 1.7 * i as f64).sin()).collect();
        let square: f64 = p.iter().map(|p| p * p).sum();
        move |i: usize, j: usize| f64::from(i == j) - 2.0 * p[i] * p[j] / square
    };
    let (left, right) = (reflection(0.3), reflection(1.1));
    let product = |weight: &dyn Fn(usize) -> f64| -> Vec<f64> {
        let element = |i: usize, j: usize| (0..N).map(|k| left(i, k) * weight(k) * right(k, j)).sum();
        (0..N * N).map(|index| element(index / N, index % N)).collect()
    };
    let mut g = Golden::new();
    g.sources.insert("x".to_owned(), product(&|k| sigma[k]));
    let x = g.tape.feed("x", [N, N]);
    let norm = nuclear_norm(&mut g.tape, x);
    let gradient = g.tape.grad(norm, &[x]).unwrap()[0];
    g.expect("norm", norm, vec![sigma.iter().sum()]);
    g.expect("gradient", gradient, product(&|_| 1.0));
    g.check();
}

#[test]
fn nuclear_norms_of_known_singular_values() {
    for condition in [1.0, 1e2, 1e4] {
        check_nuclear_norm(condition);
    }
}
