//! The bilevel step of a tiny network, above all its hyper-gradient.

use stssad::engine::ops::elementwise::Unary;
use stssad::engine::ops::random;
use stssad::engine::reference::Reference;
use stssad::engine::tape::{Tape, Value};
use stssad::engine::tensor::Tensor;
use stssad::ssad::augment::{cutdiff, patch_matrix};
use stssad::ssad::bilevel::{Bilevel, Inner, Order, Problem, bilevel};
use stssad::ssad::loss::{Alignment, bce_with_logits, total_distance_normalise};

use super::{Golden, golden};

/// The oracle's parameters, with their shapes here.
const PARAMETERS: [(&str, &[usize]); 8] = [
    ("conv1", &[4, 1, 3, 3]),
    ("bn1.gamma", &[1, 4, 1, 1]),
    ("bn1.beta", &[1, 4, 1, 1]),
    ("conv2", &[8, 4, 3, 3]),
    ("bn2.gamma", &[1, 8, 1, 1]),
    ("bn2.beta", &[1, 8, 1, 1]),
    ("head.w", &[8, 1]),
    ("head.b", &[1, 1]),
];
/// All of them are trained.
const ALL: [usize; PARAMETERS.len()] = [0, 1, 2, 3, 4, 5, 6, 7];

/// The look-ahead rate. Below 1 the second-order term would be too small to detect.
const LOOK_AHEAD: f32 = 2.0;

/// The oracle's network: two convolutions with batch norm and ReLU, a global mean, a linear head.
struct Tiny {
    augmentation: &'static str,
    alignment: Alignment,
    /// Centres of cutdiff's patches.
    centre: Value,
}

fn batch_norm(t: &mut Tape, x: Value, gamma: Value, beta: Value) -> Value {
    let mean = t.mean(x, &[0, 2, 3]);
    let centred = t.sub(x, mean);
    let squares = t.mul(centred, centred);
    let variance = t.mean(squares, &[0, 2, 3]);
    let guarded = t.offset(variance, 1e-5);
    let deviation = t.unary(Unary::Sqrt, guarded);
    let normal = t.div(centred, deviation);
    let scaled = t.mul(normal, gamma);
    t.add(scaled, beta)
}

impl Tiny {
    /// `[N, 1, 8]`
    fn embedding(&self, t: &mut Tape, theta: &[Value], x: Value) -> Value {
        let h = t.conv2d(x, theta[0], 1, 1);
        let h = batch_norm(t, h, theta[1], theta[2]);
        let h = t.relu(h);
        let h = t.conv2d(h, theta[3], 2, 1);
        let h = batch_norm(t, h, theta[4], theta[5]);
        let h = t.relu(h);
        let [n, c, _, _] = t.shape(h).images().unwrap();
        let z = t.mean(h, &[2, 3]);
        t.reshape(z, [n, 1, c])
    }

    fn outer(&self, t: &mut Tape, theta: &[Value], [x, x_aug, x_val]: [Value; 3]) -> Value {
        let rows = [x, x_aug, x_val].map(|set| t.shape(set)[0]);
        let all = t.concat(0, &[x, x_aug, x_val]);
        let z = self.embedding(t, theta, all);
        let z = total_distance_normalise(t, z);
        let first = [0, rows[0], rows[0] + rows[1]];
        let [z_trn, z_aug, z_val] = [0, 1, 2].map(|set| t.slice(z, 0, first[set], rows[set]));
        self.align(t, z_trn, z_aug, z_val)
    }
}

impl Problem for Tiny {
    fn augment(&self, t: &mut Tape, x: Value, a: Value) -> Value {
        if self.augmentation == "rotation" {
            let column = t.reshape(a, [1, 1]);
            let angles = t.broadcast(column, &[6, 1].into());
            return t.rotate(x, angles);
        }
        let row = t.reshape(a, [1, 3]);
        let parts = [0, 1, 2].map(|index| t.slice(row, 1, index, 1));
        let matrix = patch_matrix(t, parts, [10, 10]);
        cutdiff(t, x, matrix, self.centre)
    }

    fn inner(&self, t: &mut Tape, theta: &[Value], x: Value, x_aug: Value) -> Inner {
        let both = t.concat(0, &[x, x_aug]);
        let z = self.embedding(t, theta, both);
        let z = t.reshape(z, [12, 8]);
        let product = t.matmul(z, theta[6]);
        let logits = t.add(product, theta[7]);
        let targets = t.constant(Tensor::new([12, 1], [vec![0.0; 6], vec![1.0; 6]].concat()));
        Inner { loss: bce_with_logits(t, logits, targets), moments: Vec::new() }
    }

    fn embed(&self, t: &mut Tape, theta: &[Value], x: Value) -> Value {
        self.embedding(t, theta, x)
    }

    fn normalise(&self, t: &mut Tape, z: Value) -> Value {
        total_distance_normalise(t, z)
    }

    fn align(&self, t: &mut Tape, z_trn: Value, z_aug: Value, z_val: Value) -> Value {
        let key = t.constant(random::key(0, 0));
        self.alignment.record(t, z_trn, z_aug, z_val, key)
    }
}

/// A recorded problem.
struct Recorded {
    golden: Golden,
    tiny: Tiny,
    theta: Vec<Value>,
    a: Value,
    x: Value,
    x_val: Value,
}

fn record(augmentation: &'static str, alignment: Alignment, name: &str) -> Recorded {
    let mut g = Golden::new();
    assert_eq!(golden("bilevel/inner_lr"), [f64::from(LOOK_AHEAD)]);
    let x = g.feed("bilevel/x", [6, 1, 10, 10]);
    let x_val = g.feed("bilevel/x_val", [8, 1, 10, 10]);
    let centre = ["bilevel/cx", "bilevel/cy"].map(|name| g.feed(name, [6, 1]));
    let theta = PARAMETERS.map(|(name, shape)| g.feed(&format!("bilevel/param.{name}"), shape)).to_vec();
    let count = if augmentation == "rotation" { 1 } else { 3 };
    let a = g.feed(&format!("bilevel/{augmentation}/{name}/a"), [count]);
    let centre = g.tape.concat(1, &centre);
    Recorded { golden: g, tiny: Tiny { augmentation, alignment, centre }, theta, a, x, x_val }
}

fn check(augmentation: &'static str, alignment: Alignment, name: &str) {
    let find = |what: &str| golden(&format!("bilevel/{augmentation}/{name}/{what}"));
    let with = |order: Order, hypergradient: &'static str| {
        let Recorded { golden: mut g, tiny, theta, a, x, x_val } = record(augmentation, alignment, name);
        let Bilevel { x_aug, inner, g: gradients, outer, g_a } =
            bilevel(&mut g.tape, &tiny, (&theta, &ALL), a, [x, x_val], LOOK_AHEAD, order).unwrap();
        if name == "mean_distance" {
            g.expect("x_aug", x_aug, find("x_aug"));
            g.expect("inner", inner.loss, find("inner"));
            for ((parameter, _), gradient) in PARAMETERS.iter().zip(gradients) {
                g.expect(parameter, gradient, find(&format!("grad.{parameter}")));
            }
        }
        g.expect("outer", outer, find("outer"));
        g.expect(hypergradient, g_a, find(hypergradient));
        g.check();
    };
    with(Order::Second, "hypergradient");
    with(Order::First, "first_order");
}

/// The finite difference of DARTS (Liu, Simonyan and Yang, arXiv 1806.09055, equation 8) for the same hyper-gradient:
/// ∂_a outer − α · [∇_a inner(θ + ε·v) − ∇_a inner(θ − ε·v)] / (2·ε), with v = ∇_θ' outer.
fn check_difference(augmentation: &'static str) {
    let alignment = Alignment::MeanDistance;
    let Recorded { golden: mut g, tiny, theta, a, x, x_val } = record(augmentation, alignment, "mean_distance");
    let t = &mut g.tape;
    let x_aug = tiny.augment(t, x, a);
    let inner = tiny.inner(t, &theta, x, x_aug).loss;
    let gradients = t.grad(inner, &theta).unwrap();
    let g_inner = t.grad(inner, &[a]).unwrap()[0];
    // The look-ahead parameters are separate feeds, so that no gradient passes through them.
    let ahead: Vec<Value> = PARAMETERS.iter().map(|(name, shape)| t.feed(name, *shape)).collect();
    let outer = tiny.outer(t, &ahead, [x, x_aug, x_val]);
    let direct = t.grad(outer, &[a]).unwrap()[0];
    // The embeddings do not depend on the head.
    let v = t.grad(outer, &ahead[..6]).unwrap();

    let mut sources = g.sources.clone();
    for ((name, _), gradient) in PARAMETERS.iter().zip(&gradients) {
        let gradient = Reference::new(&g.tape, &g.sources).eval(*gradient).unwrap().to_vec();
        let theta = &g.sources[&format!("bilevel/param.{name}")];
        let moved = theta.iter().zip(gradient).map(|(theta, g)| theta - f64::from(LOOK_AHEAD) * g).collect();
        sources.insert((*name).to_owned(), moved);
    }
    let mut reference = Reference::new(&g.tape, &sources);
    let direct = reference.eval(direct).unwrap().to_vec();
    let v: Vec<Vec<f64>> = v.iter().map(|&v| reference.eval(v).unwrap().to_vec()).collect();

    let epsilon = 1e-5;
    let at = |distance: f64| {
        let mut sources = sources.clone();
        for ((name, _), v) in PARAMETERS.iter().zip(&v) {
            let theta = sources.get_mut(&format!("bilevel/param.{name}")).unwrap();
            theta.iter_mut().zip(v).for_each(|(theta, v)| *theta += distance * v);
        }
        Reference::new(&g.tape, &sources).eval(g_inner).unwrap().to_vec()
    };
    let (up, down) = (at(epsilon), at(-epsilon));
    let want = golden(&format!("bilevel/{augmentation}/mean_distance/hypergradient"));
    for (index, want) in want.iter().enumerate() {
        let second = (up[index] - down[index]) / (2.0 * epsilon);
        let difference = direct[index] - f64::from(LOOK_AHEAD) * second;
        assert!(
            (difference - want).abs() <= 1e-6 * want.abs().max(1.0),
            "{index}: {difference} by DARTS, golden {want}"
        );
        assert!((f64::from(LOOK_AHEAD) * second).abs() > 1e-3 * want.abs(), "no second-order part to be seen");
    }
}

#[test]
fn rotation_mean_distance() {
    check("rotation", Alignment::MeanDistance, "mean_distance");
}

#[test]
fn rotation_diagonal_w2() {
    check("rotation", Alignment::DiagonalW2 { mass: 0.5 }, "diagonal_w2");
}

#[test]
fn rotation_gaussian_w2() {
    check("rotation", Alignment::GaussianW2 { mass: 0.5 }, "gaussian_w2");
}

#[test]
fn cutdiff_mean_distance() {
    check("cutdiff", Alignment::MeanDistance, "mean_distance");
}

#[test]
fn cutdiff_diagonal_w2() {
    check("cutdiff", Alignment::DiagonalW2 { mass: 0.5 }, "diagonal_w2");
}

#[test]
fn cutdiff_gaussian_w2() {
    check("cutdiff", Alignment::GaussianW2 { mass: 0.5 }, "gaussian_w2");
}

#[test]
fn rotation_agrees_with_the_difference_of_darts() {
    check_difference("rotation");
}

#[test]
fn cutdiff_agrees_with_the_difference_of_darts() {
    check_difference("cutdiff");
}
