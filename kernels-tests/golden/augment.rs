//! Augmentations: values, and pull-backs of a random cotangent.

use stssad::augment::{cutdiff, patch_matrix};

use super::{Golden, golden};

#[test]
fn rotation() {
    let mut g = Golden::new();
    let x = g.feed("rotation/x", [3, 2, 7, 9]);
    let angle = g.feed("rotation/phi", [3, 1]);
    let ct = g.feed("rotation/ct", [3, 2, 7, 9]);
    let y = g.tape.rotate(x, angle);
    let ct_angle = g.tape.pull_back(y, ct, &[angle]).unwrap()[0];
    g.expect("y", y, golden("rotation/y"));
    g.expect("ct_phi", ct_angle, golden("rotation/ct_phi"));
    g.check();
}

#[test]
fn cutdiff_and_its_pull_back() {
    let mut g = Golden::new();
    let x = g.feed("cutdiff/x", [3, 2, 7, 9]);
    let a = g.feed("cutdiff/a", [1, 3]);
    let ct = g.feed("cutdiff/ct", [3, 2, 7, 9]);
    let centre = ["cutdiff/cx", "cutdiff/cy"].map(|name| g.feed(name, [3, 1]));
    let t = &mut g.tape;
    let centre = t.concat(1, &centre);
    let parts = [0, 1, 2].map(|index| t.slice(a, 1, index, 1));
    let matrix = patch_matrix(t, parts, [7, 9]);
    let y = cutdiff(t, x, matrix, centre);
    let ct_a = t.pull_back(y, ct, &[a]).unwrap()[0];
    g.expect("y", y, golden("cutdiff/y"));
    g.expect("ct_a", ct_a, golden("cutdiff/ct_a"));
    g.check();
}
