//! Values that random draws never contain: NaN, infinities, zeros of both signs, equal values. If a kernel swallows a
//! NaN, a diverged network looks sound.

use std::sync::Arc;

use stssad::engine::case::specials;
use stssad::engine::kernel::DeviceClass;
use stssad::engine::ops::conv2d::Geometry;
use stssad::engine::ops::elementwise::{Binary, BinaryMap, MultiplyAdd, Unary, UnaryMap};
use stssad::engine::ops::lowering;
use stssad::engine::ops::pool::Argmax;
use stssad::engine::ops::reduce::Magnitude;
use stssad::engine::ops::sort::{Gather, Order, Scatter};
use stssad::engine::ops::warp::{Affine, Outside};
use stssad::engine::tape::{Array, Primitive};
use stssad::engine::tensor::{Shape, Tensor};

use crate::device;
use crate::kernels::runs;

fn evaluated(primitive: &dyn Primitive, inputs: &[Tensor], output: &Shape) -> Vec<f64> {
    let data: Vec<Vec<f64>> = inputs.iter().map(|input| input.data().iter().map(|&x| f64::from(x)).collect()).collect();
    let arrays: Vec<Array> =
        inputs.iter().zip(&data).map(|(input, data)| Array { shape: input.shape(), data }).collect();
    primitive.eval(&arrays, output)
}

/// Runs the kernels of every class on the device: each element must equal the definition, NaN included.
fn agrees(primitive: impl Primitive + 'static, inputs: &[Tensor]) {
    let primitive: Arc<dyn Primitive> = Arc::new(primitive);
    let shapes: Vec<&Shape> = inputs.iter().map(Tensor::shape).collect();
    let output = primitive.shape(&shapes).unwrap();
    let want = evaluated(&*primitive, inputs, &output);
    for class in DeviceClass::ALL {
        let kernel = lowering(&*primitive).unwrap().kernel(&shapes, &output, class);
        if !runs(&kernel) {
            continue;
        }
        let got = device().run_isolated(&kernel, inputs, &output).unwrap();
        assert_eq!(got.damage, None, "{primitive:?}, {class}");
        for (index, (&got, &want)) in got.output.data().iter().zip(&want).enumerate() {
            let is_same = f64::from(got) == want || (got.is_nan() && want.is_nan());
            let operands: Vec<f32> = inputs.iter().filter_map(|input| input.data().get(index).copied()).collect();
            assert!(is_same, "{primitive:?}, {class}: {got} of {operands:?} at {index}, want {want}");
        }
    }
}

/// Row lengths computed element by element and in vectors.
const LENGTHS: [usize; 2] = [121, 1452];

#[test]
fn functions_of_one_value_keep_nan() {
    for length in LENGTHS {
        for function in [Unary::Relu, Unary::Clamp { low: -0.5, high: 1.0 }] {
            let x = specials([length], 1);
            let y = evaluated(&UnaryMap::from(function), std::slice::from_ref(&x), x.shape());
            assert!(x.data().iter().zip(&y).all(|(x, y)| x.is_nan() == y.is_nan()), "{function:?}: {y:?}");
            agrees(UnaryMap::from(function), &[x]);
        }
    }
}

#[test]
fn functions_of_two_values_keep_nan() {
    let functions =
        [Binary::Maximum, Binary::Minimum, Binary::WherePositive, Binary::WhereInside { low: -0.5, high: 1.0 }];
    for (length, function) in LENGTHS.into_iter().flat_map(|length| functions.map(|function| (length, function))) {
        let inputs = [specials([length], 1), specials([length], 2)];
        let y = evaluated(&BinaryMap(function), &inputs, inputs[0].shape());
        let is_symmetric = matches!(function, Binary::Maximum | Binary::Minimum);
        for ((a, b), y) in inputs[0].data().iter().zip(inputs[1].data()).zip(&y) {
            // A mask may drop a NaN in its operand, but not one in its condition.
            assert!(!b.is_nan() || y.is_nan(), "{function:?}: {y} of {a} and {b}");
            assert!(!is_symmetric || y.is_nan() == (a.is_nan() || b.is_nan()), "{function:?}: {y} of {a} and {b}");
        }
        agrees(BinaryMap(function), &inputs);
    }
}

#[test]
fn a_quotient_by_zero_is_zero_where_a_root_is_pulled_back() {
    for length in LENGTHS {
        let inputs = [specials([length], 1), specials([length], 2)];
        let y = evaluated(&BinaryMap(Binary::DivideOrZero { factor: 1.0 }), &inputs, inputs[0].shape());
        assert!(inputs[1].data().iter().zip(&y).all(|(b, y)| *b != 0.0 || *y == 0.0));
        // Quotients of these are exact or special, except thirds.
        let divisors =
            Tensor::new([length], (0..length).map(|index| [0.5, -0.0, f32::NAN, 0.0, -2.0][index % 5]).collect());
        agrees(BinaryMap(Binary::DivideOrZero { factor: 1.0 }), &[inputs[0].clone(), divisors]);
    }
}

#[test]
fn rectified_sums_of_products_keep_nan() {
    for (length, relu) in LENGTHS.into_iter().flat_map(|length| [false, true].map(|relu| (length, relu))) {
        let operands: Vec<Tensor> = [1, 2, 3, 4, 5].map(|step| specials([length], step)).into();
        let one = MultiplyAdd { factors: vec![1.0, 1.0], relu };
        let y = evaluated(&one, &operands[..3], operands[0].shape());
        let [a, b, c] = [0, 1, 2].map(|operand| operands[operand].data());
        let is_nan = |index: usize| (a[index] * b[index] + c[index]).is_nan();
        assert!((0..length).all(|index| y[index].is_nan() == is_nan(index)), "{y:?}");
        agrees(one, &operands[..3]);
        agrees(MultiplyAdd { factors: vec![1.0, 1.0, 1.0], relu }, &operands);
    }
}

#[test]
fn every_row_has_a_place_in_the_order_whatever_the_column_holds() {
    for (rows, step) in [(1, 1), (23, 1), (67, 2), (40, 3)] {
        let x = specials([rows, 3], step);
        let order = evaluated(&Order, std::slice::from_ref(&x), x.shape());
        for column in 0..3 {
            let ranked: Vec<usize> = (0..rows).map(|place| order[3 * place + column] as usize).collect();
            let mut rows_of: Vec<usize> = ranked.clone();
            rows_of.sort_unstable();
            assert_eq!(rows_of, (0..rows).collect::<Vec<_>>(), "a permutation");
            for pair in ranked.windows(2) {
                let [a, b] = [0, 1].map(|end| x.data()[3 * pair[end] + column]);
                let is_tie = a == b || (a.is_nan() && b.is_nan());
                assert!(if is_tie { pair[0] < pair[1] } else { a < b || b.is_nan() }, "{a} before {b}");
            }
        }
        agrees(Order, &[x]);
    }
}

#[test]
fn an_index_beyond_the_last_row_reads_the_last_row() {
    let x = Tensor::new([3, 2], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let index = Tensor::new([4, 2], vec![0.0, 2.0, 3.0, 99.0, 4e9, 1.0, 1e20, f32::INFINITY]);
    assert_eq!(
        evaluated(&Gather, &[x.clone(), index.clone()], &[4, 2].into()),
        [1.0, 6.0, 5.0, 6.0, 5.0, 4.0, 5.0, 6.0]
    );
    agrees(Gather, &[x, index.clone()]);
    let ct = Tensor::new([4, 2], (1..9).map(|x| x as f32).collect());
    agrees(Scatter { rows: 3 }, &[ct, index.clone()]);
    // An index of NaN reads an unspecified row inside x; the sanitizer's case would detect one outside.
    let nan = Tensor::new([1, 2], vec![f32::NAN; 2]);
    let x = Tensor::new([3, 2], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let kernel = lowering(&Gather).unwrap().kernel(&[x.shape(), nan.shape()], &[1, 2].into(), DeviceClass::Gpu);
    let got = device().run_isolated(&kernel, &[x.clone(), nan], &[1, 2].into()).unwrap();
    assert!(got.damage.is_none() && got.output.data().iter().all(|y| x.data().contains(y)), "{got:?}");
}

#[test]
fn a_maximum_over_a_window_does_not_hide_a_nan() {
    let geometry = Geometry { image: [7, 9], window: [3, 3], stride: 2, padding: 1 };
    for step in 1..5 {
        let x = specials([2, 2, 7, 9], step);
        let index = evaluated(&Argmax { geometry }, std::slice::from_ref(&x), &[2, 2, 4, 5].into());
        for (window, &at) in index.iter().enumerate() {
            let plane = &x.data()[window / 20 * 63..][..63];
            let holds_nan = geometry.pixels_of(window / 5 % 4, window % 5).any(|pixel| plane[pixel].is_nan());
            assert_eq!(plane[at as usize].is_nan(), holds_nan);
        }
        agrees(Argmax { geometry }, &[x]);
    }
}

#[test]
fn an_image_turned_by_nan_is_nan() {
    let x = Tensor::new([2, 1, 5, 6], (0..60).map(|x| x as f32).collect());
    let turned = |angle: f32| [angle, 0.0, 0.25, 0.0, angle, 0.5];
    let matrix = Tensor::new([2, 6], [turned(f32::NAN), turned(0.5)].concat());
    for outside in [Outside::Zero, Outside::Nearest] {
        let y = evaluated(&Affine { outside }, &[x.clone(), matrix.clone()], x.shape());
        assert!((0..60).all(|index| y[index].is_nan() == (index < 30)), "{y:?}");
        agrees(Affine { outside }, &[x.clone(), matrix.clone()]);
    }
}

#[test]
fn magnitudes_show_any_nan_or_infinity_of_what_is_read() {
    let arrays = |bad: f32, place: usize| -> Vec<Tensor> {
        let array = |index: usize| {
            let mut array = vec![1.0; 2 * (3 + index)];
            if index == place {
                array[0] = bad;
            }
            Tensor::new([2, 3 + index], array)
        };
        (0..7).map(array).collect()
    };
    for (bad, place) in
        [f32::NAN, -f32::NAN, f32::NEG_INFINITY, -5.0].into_iter().flat_map(|bad| (0..7).map(move |place| (bad, place)))
    {
        agrees(Magnitude { arrays: 7, lanes: 2 }, &arrays(bad, place));
        agrees(Magnitude { arrays: 6, lanes: 2 }, &arrays(bad, place));
        let sums = evaluated(&Magnitude { arrays: 7, lanes: 1 }, &arrays(bad, place), &[2, 1].into());
        assert!(sums[0].is_finite() == bad.is_finite() && sums[1] == 42.0, "{sums:?}");
    }
}
