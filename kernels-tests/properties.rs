//! Random shapes and geometries. A failure prints the smallest failing case; its name reproduces it.

use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestRunner};
use stssad::engine::case::Case;
use stssad::proof::check::{check_kernel, check_rule, variants};

use crate::kernels::runs;
use crate::{WHOLE, device};

/// Runs `count` cases with names from `strategy`: kernels on the device, rules in f64.
fn check(count: u32, strategy: impl Strategy<Value = String>) {
    let seed = std::env::var("STSSAD_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    println!("STSSAD_SEED={seed}");
    let config = Config {
        cases: count,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        max_shrink_iters: 50,
        ..Config::default()
    };
    let outcome = TestRunner::new(config).run(&strategy, |name| {
        // A geometry without output is not a case.
        let Ok(case) = name.parse::<Case>() else { return Err(TestCaseError::reject("no case")) };
        for kernel in variants(&case).iter().filter(|kernel| runs(kernel)) {
            check_kernel(device(), &case, kernel, WHOLE, seed)
                .map_err(|failure| TestCaseError::fail(failure.to_string()))?;
        }
        if case.elements() <= 1000 {
            check_rule(&case, seed).map_err(TestCaseError::fail)?;
        }
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}\nSTSSAD_SEED={seed}");
    }
}

fn role(of: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    proptest::sample::select(of)
}

fn shape(extents: &[usize]) -> String {
    extents.iter().map(usize::to_string).collect::<Vec<_>>().join("x")
}

#[test]
fn conv2d() {
    let extents = (1..4usize, 1..12usize, 1..14usize, 1..14usize, 1..20usize);
    let window = (1..6usize, 1..6usize, 1..4usize, 0..4usize, 1..4usize);
    let names = (role(&["output", "input", "kernel"]), extents, window).prop_map(
        |(role, (n, c, h, w, k), (r, s, stride, padding, groups))| {
            let extents = format!("n={n},c={},h={h},w={w},k={}", groups * c, groups * k);
            format!("conv2d/{role}({extents},r={r},s={s},stride={stride},padding={padding},groups={groups})")
        },
    );
    check(16, names);
}

#[test]
fn matmul() {
    let names = (1..80usize, 1..80usize, 1..40usize, 0..2u8, 0..2u8)
        .prop_map(|(m, n, k, ta, tb)| format!("matmul/product(m={m},n={n},k={k},ta={ta},tb={tb})"));
    check(24, names);
}

#[test]
fn elementwise() {
    // Each axis belongs to both operands, or to one of them.
    let axes = proptest::collection::vec((1..9usize, 0..3u8), 1..5);
    let functions = role(&["add", "subtract", "multiply", "divide", "maximum", "where-positive"]);
    let names = (functions, axes).prop_map(|(function, axes)| {
        let operand = |absent: u8| {
            shape(&axes.iter().map(|&(extent, who)| if who == absent { 1 } else { extent }).collect::<Vec<_>>())
        };
        format!("elementwise/binary(f={function},a={},b={})", operand(1), operand(2))
    });
    check(48, names);
}

#[test]
fn sums() {
    let names = (proptest::collection::vec(1..14usize, 1..5), 0..4usize, 1..4usize)
        .prop_map(|(x, from, run)| format!("reduce/sum(x={},from={from},to={})", shape(&x), from + run));
    check(32, names);
}

#[test]
fn layout() {
    let names = (role(&["slice", "pad"]), 1..6usize, 1..90usize, 1..6usize, 0..20usize, 1..90usize).prop_map(
        |(role, outer, along, inner, start, extent)| {
            format!("layout/{role}(x={outer}x{along}x{inner},axis=1,start={start},extent={extent})")
        },
    );
    check(48, names);
}

#[test]
fn images() {
    let roles = role(&["warp/affine", "warp/affine_image_vjp", "warp/affine_matrix_vjp"]);
    let names = (roles, 1..4usize, 1..4usize, 1..14usize, 1..14usize)
        .prop_map(|(role, n, c, h, w)| format!("{role}(n={n},c={c},h={h},w={w})"));
    check(32, names);
}
