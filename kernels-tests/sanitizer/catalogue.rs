//! The cases that every kernel runs in the interpreter: the smaller ones of `stssad check`, and those needed to find
//! some mutants of kernels.

use std::sync::Arc;

use stssad::engine::case::ShapeClass;
use stssad::engine::ops;
use stssad::engine::ops::conv2d::{Conv2d, Geometry, Role};
use stssad::engine::ops::elementwise::{Binary, BinaryMap, MultiplyAdd, Unary, UnaryMap};
use stssad::engine::ops::layout::{Broadcast, Concat, Pad, Slice};
use stssad::engine::ops::matmul::Matmul;
use stssad::engine::ops::optimiser::AdamUpdate;
use stssad::engine::ops::patch::{Mask, MaskVjp, Profile};
use stssad::engine::ops::pool::{Argmax, Select, Unpool};
use stssad::engine::ops::random::{Uniform, key};
use stssad::engine::ops::reduce::{LogSumExp, Magnitude, SquaredDeviation, Sum, SumProduct};
use stssad::engine::ops::sort::{Gather, Order, Scatter};
use stssad::engine::ops::warp::{Affine, AffineImageVjp, AffineMatrixVjp, Outside};
use stssad::engine::philox::Stream;
use stssad::engine::tape::Primitive;
use stssad::engine::tensor::{Shape, Tensor};

use crate::case::Case;

const SEED: u64 = 0;

/// Numbers in [−2, 2).
fn signed(shape: impl Into<Shape>, seed: u64) -> Tensor {
    random(shape, seed, |u| 4.0 * u - 2.0)
}

/// Numbers in [0.1, 3.1).
fn positive(shape: impl Into<Shape>, seed: u64) -> Tensor {
    random(shape, seed, |u| 0.1 + 3.0 * u)
}

fn random(shape: impl Into<Shape>, seed: u64, map: fn(f64) -> f64) -> Tensor {
    let shape = shape.into();
    let mut stream = Stream::new(seed, 0);
    let data = (0..shape.count()).map(|_| map(stream.uniform()) as f32).collect();
    Tensor::new(shape, data)
}

fn case(primitive: impl Primitive + 'static, inputs: impl Into<Vec<Tensor>>) -> Case {
    Case { primitive: Arc::new(primitive), inputs: inputs.into() }
}

/// All cases.
pub fn cases() -> Vec<Case> {
    let own = [
        elementwise(),
        special(),
        layout(),
        reduce(),
        sort(),
        pool(),
        patch(),
        warp(),
        optimiser_and_random(),
        matmul(),
        conv2d(),
    ];
    small().into_iter().chain(own.into_iter().flatten()).collect()
}

/// The cases of `stssad check` that are small enough for an interpreter.
fn small() -> Vec<Case> {
    use ShapeClass::{Ones, Prime, Small, Uneven};
    ops::cases()
        .into_iter()
        .filter(|(class, case)| {
            matches!(class, Prime | Small | Ones | Uneven) && ops::lowering(&*case.primitive).is_some()
        })
        .map(|(_, case)| Case { inputs: case.floats(SEED), primitive: case.primitive })
        .collect()
}

fn elementwise() -> Vec<Case> {
    let mut cases = Vec::new();
    let everywhere = [
        Unary::Exp,
        Unary::Reciprocal,
        Unary::Sin,
        Unary::Cos,
        Unary::Sigmoid,
        Unary::Softplus,
        Unary::Relu,
        Unary::Clamp { low: -0.5, high: 1.0 },
    ];
    for function in [Unary::Identity, Unary::Exp] {
        cases.push(case(UnaryMap { function, scale: 1.5, offset: -0.25 }, [signed([132], 1)]));
    }
    for function in everywhere {
        cases.push(case(UnaryMap::from(function), [signed([132], 1)]));
    }
    for function in [Unary::Log, Unary::Sqrt] {
        cases.push(case(UnaryMap::from(function), [positive([132], 2)]));
    }
    // Angles far beyond one turn, and the ends of every piece.
    let angles = Tensor::new([9], vec![-100.0, -7.5, -4.8, -3.0, 0.0, 1.5, 3.3, 20.0, 1000.0]);
    let edges = Tensor::new([7], vec![-0.5, 0.0, 1.0, -0.0, 80.0, -80.0, 1e-3]);
    for function in [Unary::Sin, Unary::Cos] {
        cases.push(case(UnaryMap::from(function), [angles.clone()]));
    }
    for function in [Unary::Sigmoid, Unary::Softplus, Unary::Relu, Unary::Clamp { low: -0.5, high: 1.0 }] {
        cases.push(case(UnaryMap::from(function), [edges.clone()]));
    }

    let functions = [
        Binary::Linear { p: 1.0, q: -1.0 },
        Binary::Multiply { factor: -1.25 },
        Binary::Divide { factor: -0.75 },
        Binary::DivideOrZero { factor: 1.5 },
        Binary::Maximum,
        Binary::Minimum,
        Binary::WherePositive,
        Binary::WhereInside { low: -0.5, high: 1.0 },
        Binary::average(0.75),
        Binary::AverageSquare { weight: 0.75 },
    ];
    for function in functions {
        cases.push(case(BinaryMap(function), [signed([132], 3), positive([132], 4)]));
        cases.push(case(
            BinaryMap(function),
            [signed([7], 5), Tensor::new([7], vec![-0.5, 1e-3, 1.0, 0.5, 2.0, -1.0, -1e-3])],
        ));
    }
    let (values, zero) = (Tensor::new([3], vec![1.0, 2.0, 3.0]), Tensor::new([3], vec![-0.0, 0.0, 1e-9]));
    cases.push(case(BinaryMap(Binary::WherePositive), [values, zero]));
    // Broadcasts of either operand along each of the three axes.
    for (a, b) in [
        ([3usize, 5, 72], [1usize, 5, 1]),
        ([1, 5, 1], [3, 5, 72]),
        ([3, 1, 72], [3, 5, 72]),
        ([3, 5, 72], [3, 1, 1]),
        ([1, 1, 72], [3, 5, 1]),
        ([3, 5, 1], [1, 1, 72]),
    ] {
        cases.push(case(BinaryMap(Binary::Linear { p: 1.0, q: -1.0 }), [signed(a, 6), signed(b, 7)]));
    }
    for relu in [false, true] {
        for (a, b, c) in [
            ([3usize, 5, 72], [1usize, 5, 1], [3usize, 1, 72]),
            ([1, 5, 1], [3, 5, 72], [1, 5, 1]),
            ([3, 5, 72], [3, 1, 1], [1, 5, 1]),
        ] {
            let [x, y, z] = [signed(a, 48), signed(b, 49), signed(c, 50)];
            cases.push(case(MultiplyAdd { factors: vec![1.5, -0.75], relu }, [x.clone(), y.clone(), z.clone()]));
            let (factors, [v, w]) = (vec![-1.25, 0.5, 1.75], [signed(b, 55), signed(c, 56)]);
            cases.push(case(MultiplyAdd { factors: factors.clone(), relu }, [x.clone(), y.clone(), v.clone(), z, w]));
            cases.push(case(MultiplyAdd { factors, relu }, [y, v, signed(c, 57), signed(a, 58), x]));
        }
        // Each row along the outer axis has its own numbers.
        let shapes = [[3, 5, 72], [1, 5, 1], [3, 5, 72], [3, 1, 1], [3, 1, 1]];
        let operands: Vec<Tensor> = shapes.iter().zip(65..).map(|(&shape, seed)| signed(shape, seed)).collect();
        cases.push(case(MultiplyAdd { factors: vec![0.5, -2.0, 1.25], relu }, operands));
    }
    // A single row, which the CPU variant splits.
    cases.push(case(BinaryMap(Binary::Multiply { factor: 1.0 }), [signed([5, 256], 51), signed([5, 256], 52)]));
    cases.push(case(BinaryMap(Binary::Multiply { factor: 1.0 }), [signed([1], 53), signed([448], 54)]));
    // Longer than one workgroup of the CPU variant, which loops.
    cases.push(case(BinaryMap(Binary::Linear { p: 1.0, q: -1.0 }), [signed([2, 1100], 8), signed([2, 1], 9)]));
    cases
}

/// `count` special values for arithmetic and comparisons, from index `from` on.
fn specials(count: usize, from: usize) -> Tensor {
    let all = [f32::NAN, 1.5, -0.0, f32::INFINITY, -f32::NAN, -2.0, 0.0, f32::NEG_INFINITY, -0.5, 0.75, 1.5];
    Tensor::new([count], (0..count).map(|index| all[(from + index) % all.len()]).collect())
}

/// Cases that must keep NaN, or separate 0 from values near it.
fn special() -> Vec<Case> {
    let mut cases = Vec::new();
    // A row computed in vectors, and one that is not.
    for count in [7, 264] {
        for function in [Unary::Relu, Unary::Clamp { low: -0.5, high: 1.0 }, Unary::Softplus, Unary::Sigmoid] {
            cases.push(case(UnaryMap::from(function), [specials(count, 0)]));
        }
        let functions = [
            Binary::Maximum,
            Binary::Minimum,
            Binary::WherePositive,
            Binary::WhereInside { low: -0.5, high: 1.0 },
            Binary::DivideOrZero { factor: 1.5 },
        ];
        // Eleven values, paired with themselves and with each other.
        for (function, from) in functions.into_iter().flat_map(|function| [0, 1, 4].map(|from| (function, from))) {
            cases.push(case(BinaryMap(function), [specials(count, 0), specials(count, from)]));
        }
        for relu in [false, true] {
            let operands = [0, 3, 5, 8, 2].map(|from| specials(count, from));
            cases.push(case(MultiplyAdd { factors: vec![1.0, 1.0], relu }, operands[..3].to_vec()));
            cases.push(case(MultiplyAdd { factors: vec![1.0, 1.0, 1.0], relu }, operands));
        }
    }
    let column = |count: usize, from: usize| Tensor::new([count, 1], specials(count, from).into_data());
    cases.extend([0, 3, 7].map(|from| case(Order, [column(13, from)])));
    let beyond = Tensor::new([4, 1], vec![2.0, 3.0, 99.0, 4e9]);
    cases.push(case(Gather, [signed([3, 1], 44), beyond.clone()]));
    cases.push(case(Scatter { rows: 3 }, [signed([4, 1], 45), beyond]));
    let geometry = Geometry { image: [4, 6], window: [2, 2], stride: 1, padding: 0 };
    cases.extend(
        [0, 5].map(|from| case(Argmax { geometry }, [Tensor::new([1, 1, 4, 6], specials(24, from).into_data())])),
    );
    // A NaN in each array that is read must show in the sums; one in an array that is not read must not.
    for place in 0..7 {
        let arrays = |arrays: usize| {
            let array = |index: usize| {
                let mut array = signed([2, 3 + index], 70 + index as u64).into_data();
                if index == place {
                    array[1] = f32::NAN;
                }
                Tensor::new([2, 3 + index], array)
            };
            case(Magnitude { arrays, lanes: 2 }, (0..7).map(array).collect::<Vec<Tensor>>())
        };
        cases.extend([arrays(7), arrays(6)]);
    }
    cases
}

fn layout() -> Vec<Case> {
    vec![
        case(Broadcast { to: [3, 5, 72].into() }, [signed([1, 5, 1], 10)]),
        case(Broadcast { to: [3, 5, 72].into() }, [signed([3, 1, 72], 11)]),
        case(Broadcast { to: [2, 1100].into() }, [signed([2, 1], 12)]),
        case(Slice { axis: 1, start: 2, extent: 3 }, [signed([3, 7, 31], 13)]),
        case(Slice { axis: 0, start: 1, extent: 2 }, [signed([4, 5], 14)]),
        case(Pad { axis: 1, start: 2, extent: 7 }, [signed([3, 3, 31], 15)]),
        case(Pad { axis: 0, start: 1, extent: 4 }, [signed([2, 5], 16)]),
        case(Concat { axis: 1 }, [signed([3, 2, 31], 17), signed([3, 3, 31], 18)]),
        case(Concat { axis: 0 }, [signed([2, 5], 19), signed([1, 5], 20)]),
    ]
}

fn reduce() -> Vec<Case> {
    vec![
        case(Sum { axes: 1..2 }, [signed([3, 5, 52], 21)]),
        case(Sum { axes: 0..1 }, [signed([5, 70], 22)]),
        case(Sum { axes: 1..2 }, [signed([3, 200], 23)]),
        case(Sum { axes: 0..2 }, [signed([3, 50], 24)]),
        case(SumProduct { axes: 1..2 }, [signed([3, 5, 52], 46), signed([3, 5, 52], 47)]),
        case(SquaredDeviation { axes: 1..2, scale: 1.0 }, [signed([3, 5, 48], 59), signed([3, 1, 48], 60)]),
        case(SquaredDeviation { axes: 1..2, scale: -0.75 }, [signed([3, 5, 8, 12], 61), signed([3, 1, 8, 1], 62)]),
        case(SquaredDeviation { axes: 0..1, scale: 1.0 }, [signed([5, 9, 7], 63), signed([1, 9, 1], 64)]),
        // So far below 0 that every exponential is 0 unless shifted.
        case(LogSumExp, [random([140, 5], 40, |u| 40.0 * u - 120.0)]),
        // The large term at each place in turn: any other shift overflows.
        case(LogSumExp, [Tensor::new([4, 4], (0..16).map(|i| if i % 5 == 0 { 1.0 } else { -200.0 }).collect())]),
    ]
}

fn sort() -> Vec<Case> {
    // Few distinct values, hence many ties.
    let ties = || random([11, 7], 41, |u| (5.0 * u).floor());
    let index = || random([17, 7], 42, |u| (11.0 * u).floor());
    vec![
        case(Order, [ties()]),
        case(Order, [signed([40, 5], 43)]),
        case(Gather, [signed([11, 7], 44), index()]),
        // Its output fills several workgroups.
        case(Scatter { rows: 29 }, [signed([17, 7], 45), index()]),
    ]
}

fn pool() -> Vec<Case> {
    let mut cases = vec![];
    // Overlapping windows, a stride that skips pixels, and windows that are not square.
    for ([r, s], stride, padding) in [([3, 3], 2, 1), ([2, 2], 3, 0), ([3, 5], 1, 2), ([5, 2], 2, 1)] {
        let geometry = Geometry { image: [8, 11], window: [r, s], stride, padding };
        let x = random([2, 3, 8, 11], 46, |u| (9.0 * u).floor());
        let argmax = case(Argmax { geometry }, [x.clone()]);
        let windows = argmax.output();
        let index: Vec<f32> = argmax.reference().expected.iter().map(|&index| index as f32).collect();
        let index = Tensor::new(windows.clone(), index);
        cases.push(argmax);
        cases.push(case(Select { geometry }, [x, index.clone()]));
        cases.push(case(Unpool { geometry }, [signed(windows, 47), index]));
    }
    cases
}

fn patch() -> Vec<Case> {
    let matrix = || random([3, 4], 27, |u| 0.2 * u - 0.1);
    let centre = || random([3, 2], 28, |u| 2.0 + 6.0 * u);
    // Axis-aligned and centred on a pixel, where the box has its kinks.
    let upright = || Tensor::new([1, 4], vec![0.2, 0.0, 0.0, 0.25]);
    let middle = || Tensor::new([1, 2], vec![3.0, 2.0]);
    [Profile::Ellipse, Profile::Box]
        .into_iter()
        .flat_map(|profile| {
            [
                case(Mask { profile, size: [7, 11] }, [matrix(), centre()]),
                case(MaskVjp { profile }, [matrix(), centre(), signed([3, 1, 50, 7], 29)]),
                case(MaskVjp { profile }, [upright(), middle(), signed([1, 1, 5, 7], 30)]),
            ]
        })
        .collect()
}

/// One matrix each that rotates, shrinks, shears and shifts, flips, is singular, and three that magnify.
fn matrices() -> Tensor {
    #[rustfmt::skip]
    let rows = vec![
        0.8, -0.6, 0.3, 0.6, 0.8, -0.7,
        1.7, 0.2, 0.0, -0.1, 2.1, 0.4,
        0.6, 0.5, 2.3, 0.1, 0.7, -1.6,
        -1.1, 0.1, 0.2, 0.3, 0.9, 0.1,
        0.5, 0.25, 0.1, 1.0, 0.5, 0.2,
        0.20, -0.14, 0.3, 0.14, 0.20, -0.2,
        0.25, 0.02, 0.1, -0.03, 0.20, 0.3,
        0.02, -0.25, 0.2, 0.20, 0.03, 0.1,
    ];
    Tensor::new([8, 6], rows)
}

fn warp() -> Vec<Case> {
    let mut cases = Vec::new();
    // The second is far from square, in images high enough that their rows fill several workgroups.
    for shape in [[8, 2, 9, 11], [8, 1, 25, 3]] {
        let [x, ct] = [30, 31].map(|seed| signed(shape, seed));
        for outside in [Outside::Zero, Outside::Nearest] {
            cases.push(case(Affine { outside }, [x.clone(), matrices()]));
        }
        cases.push(case(AffineImageVjp, [matrices(), ct.clone()]));
        cases.push(case(AffineMatrixVjp, [x, matrices(), ct]));
    }
    cases
}

fn optimiser_and_random() -> Vec<Case> {
    let rates = Tensor::new([3], vec![0.1, 0.19, 0.01]);
    // Second moments so small that ε matters.
    let small = Tensor::new([4], vec![0.0, 1e-18, 1e-17, 1e-15]);
    vec![
        case(AdamUpdate, [signed([131], 36), signed([131], 37), positive([131], 38), rates.clone()]),
        case(AdamUpdate, [signed([4], 36), random([4], 37, |u| 1e-9 * u), small, rates]),
        case(Uniform { stream: 3, shape: [5, 103].into() }, [key(0x0123_4567_89ab_cdef, 70_000)]),
        case(
            Uniform { stream: 3, shape: [2, 10, 3].into() },
            [Tensor::new(
                [5, 6],
                (0..5).flat_map(|step| key(0x0123_4567_89ab_cdef << step, step).into_data()).collect(),
            )],
        ),
        // Large enough that carries with a probability of 2⁻¹⁶ occur.
        case(Uniform { stream: 6, shape: [200_000].into() }, [key(0xfedc_ba98_7654_3210, 3)]),
    ]
}

fn matmul() -> Vec<Case> {
    let mut cases = Vec::new();
    // The last two have several elements in each lane of the CPU variant, along N and along M.
    for [m, n, k] in [[70, 37, 19], [5, 40, 33], [33, 130, 3], [130, 33, 3]] {
        for (transpose_a, transpose_b) in [(false, false), (true, false), (false, true), (true, true)] {
            let a = if transpose_a { [k, m] } else { [m, k] };
            let b = if transpose_b { [n, k] } else { [k, n] };
            cases.push(case(Matmul { transpose_a, transpose_b }, [signed(a, 39), signed(b, 40)]));
        }
    }
    // Fewer elements across the lanes than in each lane.
    cases.push(case(Matmul { transpose_a: false, transpose_b: false }, [signed([2100, 2], 39), signed([2, 2], 40)]));
    // Large enough for the GPU variant's large tiles.
    cases.push(case(Matmul { transpose_a: false, transpose_b: true }, [signed([450, 2], 39), signed([460, 2], 40)]));
    cases
}

fn conv2d() -> Vec<Case> {
    let mut cases = Vec::new();
    for (groups, n, c, k, image, window, stride, padding) in [
        (1, 2, 4, 5, [8, 19], [3, 3], 1, 1),
        (1, 2, 5, 9, [9, 21], [3, 3], 2, 1),
        (1, 10, 2, 3, [5, 6], [1, 1], 2, 0),
        (1, 1, 11, 8, [5, 4], [1, 1], 1, 0),
        (1, 1, 2, 5, [8, 12], [5, 3], 1, 2),
        (1, 1, 2, 4, [5, 11], [3, 3], 1, 0),
        (1, 1, 1, 4, [8, 16], [7, 7], 2, 3),
        (1, 1, 1, 4, [8, 9], [7, 7], 3, 3),
        (1, 1, 1, 4, [8, 9], [7, 7], 4, 2),
        (1, 1, 1, 2, [7, 7], [2, 2], 1, 1),
        (1, 1, 1, 4, [9, 2], [3, 1], 1, 0),
        (1, 1, 1, 4, [3, 9], [3, 1], 1, 0),
        (1, 1, 1, 17, [4, 5], [1, 1], 1, 0),
        (1, 1, 2, 70, [3, 9], [1, 1], 1, 0),
        (1, 1, 70, 2, [3, 9], [1, 1], 1, 0),
        (2, 2, 3, 5, [5, 6], [3, 3], 1, 1),
        (3, 9, 2, 3, [5, 4], [2, 3], 2, 1),
        (2, 1, 70, 66, [2, 3], [1, 1], 1, 0),
        (2, 1, 3, 40, [4, 5], [3, 1], 1, 0),
        // Blocks of channels that fill a group.
        (2, 1, 8, 8, [3, 4], [1, 1], 1, 0),
        (1, 1, 35, 37, [3, 4], [1, 1], 1, 0),
        (1, 2, 225, 226, [3, 3], [1, 1], 1, 0),
        // A window row with too many taps to keep 128 partial sums of each in workgroup memory.
        (1, 1, 1, 2, [2, 36], [2, 35], 1, 0),
        // Rows that every window exceeds.
        (1, 1, 2, 9, [1, 4], [5, 3], 1, 2),
        // Enough tiles for several per workgroup, with channels and with images in the lanes.
        (2, 34, 9, 9, [2, 3], [1, 3], 1, 1),
        (3, 34, 1, 9, [2, 3], [1, 2], 1, 0),
        (2, 131, 3, 3, [2, 3], [2, 2], 1, 1),
    ] {
        let geometry = Geometry { image, window, stride, padding };
        let [p, q] = geometry.output().expect("the windows fit");
        let x = signed([n, groups * c, image[0], image[1]], 41);
        let w = signed([groups * k, c, window[0], window[1]], 42);
        let y = signed([n, groups * k, p, q], 43);
        let solve = |solve_for, first: &Tensor, second: &Tensor| {
            case(Conv2d { solve_for, geometry, groups }, [first.clone(), second.clone()])
        };
        cases.push(solve(Role::Output, &x, &w));
        cases.push(solve(Role::Input, &y, &w));
        cases.push(solve(Role::Kernel, &x, &y));
    }
    cases
}
