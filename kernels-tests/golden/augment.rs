//! Augmentations: values, and vector-Jacobian products with a random cotangent.

use stssad::engine::tape::{Tape, Value};
use stssad::ssad::augment::{cutavg, cutblend, cutdiff, cutout, cutpaste, patch_matrix};

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

/// Compares `change(tape, x, matrix, centre, source)` with the goldens of `name`; only cutpaste has a source.
fn check_patch(name: &str, change: impl FnOnce(&mut Tape, Value, Value, Value, Option<Value>) -> Value) {
    let of = |part: &str| format!("{name}/{part}");
    let mut g = Golden::new();
    let x = g.feed(&of("x"), [3, 2, 7, 9]);
    let a = g.feed(&of("a"), [1, 3]);
    let ct = g.feed(&of("ct"), [3, 2, 7, 9]);
    let mut place = |coordinates: [&str; 2]| {
        let coordinates = coordinates.map(|coordinate| g.feed(&of(coordinate), [3, 1]));
        g.tape.concat(1, &coordinates)
    };
    let centre = place(["cx", "cy"]);
    let source = (name == "cutpaste").then(|| place(["from_x", "from_y"]));
    let t = &mut g.tape;
    let parts = [0, 1, 2].map(|index| t.slice(a, 1, index, 1));
    let matrix = patch_matrix(t, parts, [7, 9]);
    let y = change(t, x, matrix, centre, source);
    let ct_a = t.pull_back(y, ct, &[a]).unwrap()[0];
    g.expect("y", y, golden(&of("y")));
    g.expect("ct_a", ct_a, golden(&of("ct_a")));
    g.check();
}

#[test]
fn cutdiff_and_its_pull_back() {
    check_patch("cutdiff", |t, x, matrix, centre, _| cutdiff(t, x, matrix, centre));
}

#[test]
fn cutblend_and_its_pull_back() {
    let mut g = Golden::new();
    let x = g.feed("cutblend/x", [3, 2, 7, 9]);
    let a = g.feed("cutblend/a", [1, 7]);
    let ct = g.feed("cutblend/ct", [3, 2, 7, 9]);
    let centre = ["cutblend/cx", "cutblend/cy"].map(|name| g.feed(name, [3, 1]));
    let t = &mut g.tape;
    let centre = t.concat(1, &centre);
    let [area, aspect, angle, softness, strength] = [0, 1, 2, 3, 4].map(|index| t.slice(a, 1, index, 1));
    let colour = t.slice(a, 1, 5, 2);
    let matrix = patch_matrix(t, [area, aspect, angle], [7, 9]);
    let y = cutblend(t, x, [matrix, centre, softness], [strength, colour]);
    let ct_a = t.pull_back(y, ct, &[a]).unwrap()[0];
    g.expect("y", y, golden("cutblend/y"));
    g.expect("ct_a", ct_a, golden("cutblend/ct_a"));
    g.check();
}

#[test]
fn cutout_and_its_pull_back() {
    check_patch("cutout", |t, x, matrix, centre, _| cutout(t, x, matrix, centre));
}

#[test]
fn cutavg_and_its_pull_back() {
    check_patch("cutavg", |t, x, matrix, centre, _| cutavg(t, x, matrix, centre));
}

#[test]
fn cutpaste_and_its_pull_back() {
    check_patch("cutpaste", |t, x, matrix, centre, source| cutpaste(t, x, matrix, centre, source.unwrap()));
}
