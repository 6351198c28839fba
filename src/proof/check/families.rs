//! From a case's name to its primitive and inputs: the one place that knows what each family's names mean.

use std::sync::Arc;

use super::case::{Case, Fill, Input};
use crate::engine::ops::conv2d::{Conv2d, Geometry, Role};
use crate::engine::ops::elementwise::{Binary, BinaryMap, MultiplyAdd, Unary, UnaryMap};
use crate::engine::ops::layout::{Broadcast, Concat, Pad, Reshape, Slice};
use crate::engine::ops::matmul::Matmul;
use crate::engine::ops::optimiser::AdamUpdate;
use crate::engine::ops::pool::{Argmax, Select, Unpool};
use crate::engine::ops::random::Uniform;
use crate::engine::ops::reduce::{LogSumExp, Magnitude, SquaredDeviation, Sum, SumProduct};
use crate::engine::ops::sort::{Gather, Order, Scatter};
use crate::engine::ops::{patch, warp};
use crate::engine::tape::Primitive;
use crate::engine::tensor::Shape;

/// Numbers without a restriction.
const ANY: Fill = Fill::Range(-2.0, 2.0);
/// Numbers that may be divided by.
const POSITIVE: Fill = Fill::Range(0.25, 4.0);

/// The parts of a family's case from its role and parameters.
type Build = fn(&str, &mut Parameters) -> Result<Parts, String>;

/// Every family.
pub(super) const FAMILIES: &[(&str, Build)] = &[
    ("conv2d", conv2d),
    ("cutdiff", |role, p| patch(patch::Profile::Ellipse, role, p)),
    ("elementwise", elementwise),
    ("layout", layout),
    ("matmul", matmul),
    ("optimiser", optimiser),
    ("pool", pool),
    ("random", random),
    ("reduce", reduce),
    ("softbox", |role, p| patch(patch::Profile::Box, role, p)),
    ("sort", sort),
    ("warp", warp),
];

/// The case that `name`, `family/role(key=value,…)`, stands for.
pub(super) fn build(name: &str) -> Result<Case, String> {
    let (primitive_name, parameters) = name
        .strip_suffix(')')
        .and_then(|name| name.split_once('('))
        .ok_or("a name has the form family/role(key=value,…)")?;
    let mut p = Parameters::parse(parameters)?;
    let (family, role) = primitive_name.split_once('/').ok_or("a primitive has the form family/role")?;
    let (_, parts) =
        FAMILIES.iter().find(|(name, _)| *name == family).ok_or_else(|| format!("there is no family `{family}`"))?;
    let parts = parts(role, &mut p)?;
    if let Some((key, _)) = p.pairs.first() {
        return Err(format!("`{key}` means nothing to {primitive_name}"));
    }
    let Parts { primitive, inputs, exact } = parts;
    if inputs.iter().any(|input| input.shape.count() == 0) {
        return Err("an extent is zero".into());
    }
    let shapes: Vec<&Shape> = inputs.iter().map(|input| &input.shape).collect();
    let output = primitive.shape(&shapes)?;
    if output.count() == 0 {
        return Err("the output is empty".into());
    }
    Ok(Case { name: name.to_owned(), primitive, inputs, exact })
}

pub(super) struct Parts {
    primitive: Arc<dyn Primitive>,
    inputs: Vec<Input>,
    exact: bool,
}

impl Parts {
    fn new(primitive: impl Primitive + 'static, exact: bool) -> Self {
        Parts { primitive: Arc::new(primitive), inputs: Vec::new(), exact }
    }

    fn input(mut self, shape: impl Into<Shape>, fill: Fill) -> Self {
        self.inputs.push(Input { shape: shape.into(), fill });
        self
    }
}

/// The `key=value` pairs that nobody has asked for yet.
pub(super) struct Parameters<'a> {
    pairs: Vec<(&'a str, &'a str)>,
}

impl<'a> Parameters<'a> {
    fn parse(text: &'a str) -> Result<Self, String> {
        let pairs = text.split(',').map(|pair| pair.split_once('=').ok_or(format!("`{pair}` is not key=value")));
        Ok(Parameters { pairs: pairs.collect::<Result<_, String>>()? })
    }

    fn text(&mut self, key: &str) -> Result<&'a str, String> {
        let at = self.pairs.iter().position(|(k, _)| *k == key).ok_or(format!("`{key}` is missing"))?;
        Ok(self.pairs.remove(at).1)
    }

    fn number<T: std::str::FromStr>(&mut self, key: &str) -> Result<T, String> {
        let text = self.text(key)?;
        text.parse().map_err(|_| format!("`{key}={text}` is not a number"))
    }

    /// The number, or `default` where nothing is said.
    fn number_or<T: std::str::FromStr>(&mut self, key: &str, default: T) -> Result<T, String> {
        let is_given = self.pairs.iter().any(|(k, _)| *k == key);
        if is_given { self.number(key) } else { Ok(default) }
    }

    fn numbers<const N: usize>(&mut self, keys: [&str; N]) -> Result<[usize; N], String> {
        let mut numbers = [0; N];
        for (number, key) in numbers.iter_mut().zip(keys) {
            *number = self.number(key)?;
        }
        Ok(numbers)
    }

    /// `2x3x5`
    fn shape(&mut self, key: &str) -> Result<Shape, String> {
        let text = self.text(key)?;
        let extents = text.split('x').map(|extent| extent.parse().map_err(|_| format!("`{key}={text}` is no shape")));
        extents.collect::<Result<Vec<usize>, String>>().map(Shape::from)
    }
}

fn no_role(family: &str, role: &str) -> String {
    format!("there is no `{role}` in {family}")
}

fn conv2d(role: &str, p: &mut Parameters) -> Result<Parts, String> {
    let [n, c, h, w] = p.numbers(["n", "c", "h", "w"])?;
    let [k, r, s, stride, padding] = p.numbers(["k", "r", "s", "stride", "padding"])?;
    let groups = p.number_or("groups", 1)?;
    if groups == 0 || !c.is_multiple_of(groups) || !k.is_multiple_of(groups) {
        return Err(format!("groups={groups} does not divide c={c} and k={k}"));
    }
    let geometry = Geometry { image: [h, w], window: [r, s], stride, padding };
    let [out_h, out_w] = geometry.output()?;
    let (image, kernel, output) = ([n, c, h, w], [k, c / groups, r, s], [n, k, out_h, out_w]);
    let (solve_for, first, second) = match role {
        "output" => (Role::Output, image, kernel),
        "input" => (Role::Input, output, kernel),
        "kernel" => (Role::Kernel, image, output),
        _ => return Err(no_role("conv2d", role)),
    };
    Ok(Parts::new(Conv2d { solve_for, geometry, groups }, true).input(first, ANY).input(second, ANY))
}

fn matmul(role: &str, p: &mut Parameters) -> Result<Parts, String> {
    let [m, n, k] = p.numbers(["m", "n", "k"])?;
    let [transpose_a, transpose_b] = p.numbers(["ta", "tb"])?.map(|transposed| transposed == 1);
    if role != "product" {
        return Err(no_role("matmul", role));
    }
    let stored = |rows: usize, columns: usize, transposed: bool| match transposed {
        true => [columns, rows],
        false => [rows, columns],
    };
    Ok(Parts::new(Matmul { transpose_a, transpose_b }, true)
        .input(stored(m, k, transpose_a), ANY)
        .input(stored(k, n, transpose_b), ANY))
}

fn elementwise(role: &str, p: &mut Parameters) -> Result<Parts, String> {
    match role {
        "unary" => {
            let (map, fill, exact) = unary(p)?;
            Ok(Parts::new(map, exact).input(p.shape("x")?, fill))
        }
        "binary" => {
            let (function, [fill_a, fill_b], exact) = binary(p)?;
            Ok(Parts::new(BinaryMap(function), exact).input(p.shape("a")?, fill_a).input(p.shape("b")?, fill_b))
        }
        "multiply_add" => multiply_add(["a", "b", "c"], ["p", "q"], p),
        "multiply_add_2" => multiply_add(["a", "b", "c", "d", "e"], ["p", "q", "r"], p),
        _ => Err(no_role("elementwise", role)),
    }
}

fn multiply_add<const N: usize, const M: usize>(
    operands: [&str; N],
    names: [&str; M],
    p: &mut Parameters,
) -> Result<Parts, String> {
    let relu = p.number_or("relu", 0)? == 1;
    let factors = names.iter().map(|name| p.number_or(name, 1.0)).collect::<Result<Vec<f64>, String>>()?;
    // Products of quarters are sixteenths, so that no sum with an odd 32nd lies on the kink.
    let [factor, addend] = if relu { [Fill::Lattice(0.0), Fill::Lattice(1.0 / 32.0)] } else { [ANY; 2] };
    let exact = factors.iter().all(|factor| factor.fract() == 0.0);
    let mut parts = Parts::new(MultiplyAdd { factors, relu }, exact);
    for (index, operand) in operands.into_iter().enumerate() {
        parts = parts.input(p.shape(operand)?, if index + 1 < N { factor } else { addend });
    }
    Ok(parts)
}

fn unary(p: &mut Parameters) -> Result<(UnaryMap, Fill, bool), String> {
    let name = p.text("f")?;
    let (scale, offset): (f64, f64) = (p.number_or("scale", 1.0)?, p.number_or("offset", 0.0)?);
    let (function, fill, exact) = match name {
        "identity" => (Unary::Identity, ANY, scale.fract() == 0.0 && offset.fract() == 0.0),
        "exp" => (Unary::Exp, Fill::Range(-20.0, 10.0), false),
        "log" => (Unary::Log, Fill::Range(0.01, 8.0), false),
        "sqrt" => (Unary::Sqrt, Fill::Range(0.01, 8.0), false),
        "reciprocal" => (Unary::Reciprocal, POSITIVE, false),
        "sin" => (Unary::Sin, Fill::Range(-12.0, 12.0), false),
        "cos" => (Unary::Cos, Fill::Range(-12.0, 12.0), false),
        "sigmoid" => (Unary::Sigmoid, Fill::Range(-20.0, 20.0), false),
        "softplus" => (Unary::Softplus, Fill::Range(-20.0, 20.0), false),
        "relu" => (Unary::Relu, Fill::Lattice(0.125), true),
        "clamp" => {
            let (low, high) = (p.number("low")?, p.number("high")?);
            (Unary::Clamp { low, high }, Fill::Lattice(0.125), true)
        }
        _ => return Err(format!("there is no function `{name}` of one value")),
    };
    Ok((UnaryMap { function, scale, offset }, fill, exact))
}

fn binary(p: &mut Parameters) -> Result<(Binary, [Fill; 2], bool), String> {
    let function = p.text("f")?;
    Ok(match function {
        "add" => (Binary::Linear { p: 1.0, q: 1.0 }, [ANY; 2], true),
        "subtract" => (Binary::Linear { p: 1.0, q: -1.0 }, [ANY; 2], true),
        "multiply" => {
            let factor: f64 = p.number_or("factor", 1.0)?;
            (Binary::Multiply { factor }, [ANY; 2], factor.fract() == 0.0)
        }
        "divide" => (Binary::Divide { factor: p.number_or("factor", 1.0)? }, [ANY, POSITIVE], false),
        "divide-or-zero" => (Binary::DivideOrZero { factor: p.number_or("factor", 1.0)? }, [ANY, POSITIVE], false),
        "maximum" => (Binary::Maximum, [Fill::Lattice(0.0), Fill::Lattice(0.125)], true),
        "minimum" => (Binary::Minimum, [Fill::Lattice(0.0), Fill::Lattice(0.125)], true),
        "where-positive" => (Binary::WherePositive, [ANY, Fill::Lattice(0.125)], true),
        "where-inside" => {
            let (low, high) = (p.number("low")?, p.number("high")?);
            (Binary::WhereInside { low, high }, [ANY, Fill::Lattice(0.125)], true)
        }
        "average" => (Binary::average(p.number("weight")?), [ANY; 2], false),
        "average-square" => (Binary::AverageSquare { weight: p.number("weight")? }, [ANY; 2], false),
        _ => return Err(format!("there is no function `{function}` of two values")),
    })
}

fn layout(role: &str, p: &mut Parameters) -> Result<Parts, String> {
    Ok(match role {
        "reshape" => Parts::new(Reshape { to: p.shape("to")? }, true).input(p.shape("x")?, ANY),
        "broadcast" => Parts::new(Broadcast { to: p.shape("to")? }, true).input(p.shape("x")?, ANY),
        "slice" => {
            let [axis, start, extent] = p.numbers(["axis", "start", "extent"])?;
            Parts::new(Slice { axis, start, extent }, true).input(p.shape("x")?, ANY)
        }
        "pad" => {
            let [axis, start, extent] = p.numbers(["axis", "start", "extent"])?;
            Parts::new(Pad { axis, start, extent }, true).input(p.shape("x")?, ANY)
        }
        "concat" => {
            let axis = p.number("axis")?;
            Parts::new(Concat { axis }, true).input(p.shape("a")?, ANY).input(p.shape("b")?, ANY)
        }
        _ => return Err(no_role("layout", role)),
    })
}

fn reduce(role: &str, p: &mut Parameters) -> Result<Parts, String> {
    Ok(match role {
        "sum" => {
            let [from, to] = p.numbers(["from", "to"])?;
            Parts::new(Sum { axes: from..to }, true).input(p.shape("x")?, ANY)
        }
        "sum_product" => {
            let [from, to] = p.numbers(["from", "to"])?;
            let shape = p.shape("x")?;
            Parts::new(SumProduct { axes: from..to }, true).input(shape.clone(), ANY).input(shape, ANY)
        }
        "squared_deviation" => {
            let [from, to] = p.numbers(["from", "to"])?;
            let scale: f64 = p.number_or("scale", 1.0)?;
            let deviation = SquaredDeviation { axes: from..to, scale };
            Parts::new(deviation, scale.fract() == 0.0).input(p.shape("x")?, ANY).input(p.shape("m")?, ANY)
        }
        "magnitude" => {
            let [rows, lanes, arrays] = p.numbers(["rows", "lanes", "arrays"])?;
            let shape = p.shape("terms")?;
            let parts = Parts::new(Magnitude { arrays, lanes }, true);
            shape.iter().fold(parts, |parts, &terms| parts.input([rows, terms], ANY))
        }
        "log_sum_exp" => Parts::new(LogSumExp, false).input(p.shape("x")?, Fill::Range(-20.0, 20.0)),
        _ => return Err(no_role("reduce", role)),
    })
}

fn pool(role: &str, p: &mut Parameters) -> Result<Parts, String> {
    let window = p.numbers(["r", "s"])?;
    let (x, [stride, padding]) = (p.shape("x")?, p.numbers(["stride", "padding"])?);
    let [_, _, h, w] = x.images()?;
    let geometry = Geometry { image: [h, w], window, stride, padding };
    let argmax = Argmax { geometry };
    let windows = argmax.shape(&[&x])?;
    let index = Fill::PixelOf(geometry);
    Ok(match role {
        "argmax" => Parts::new(argmax, true).input(x, ANY),
        "select" => Parts::new(Select { geometry }, true).input(x, ANY).input(windows, index),
        "unpool" => Parts::new(Unpool { geometry }, true).input(windows.clone(), ANY).input(windows, index),
        _ => return Err(no_role("pool", role)),
    })
}

fn sort(role: &str, p: &mut Parameters) -> Result<Parts, String> {
    let [rows, columns] = p.numbers(["rows", "columns"])?;
    if role == "order" {
        return Ok(Parts::new(Order, true).input([rows, columns], ANY));
    }
    let places = [p.number("k")?, columns];
    Ok(match role {
        "gather" => Parts::new(Gather, true).input([rows, columns], ANY),
        "scatter" => Parts::new(Scatter { rows }, true).input(places, ANY),
        _ => return Err(no_role("sort", role)),
    }
    .input(places, Fill::Index(rows)))
}

fn warp(role: &str, p: &mut Parameters) -> Result<Parts, String> {
    let [n, c, h, w] = p.numbers(["n", "c", "h", "w"])?;
    let (pictures, matrices, map) = ([n, c, h, w], [n, 6], Fill::AffineMatrix([h, w]));
    Ok(match role {
        "affine" => {
            let outside = match p.text("outside")? {
                "zero" => warp::Outside::Zero,
                "nearest" => warp::Outside::Nearest,
                outside => return Err(format!("outside there is zero or nearest, not `{outside}`")),
            };
            Parts::new(warp::Affine { outside }, true).input(pictures, ANY).input(matrices, map)
        }
        "affine_image_vjp" => Parts::new(warp::AffineImageVjp, true).input(matrices, map).input(pictures, ANY),
        "affine_matrix_vjp" => {
            Parts::new(warp::AffineMatrixVjp, true).input(pictures, ANY).input(matrices, map).input(pictures, ANY)
        }
        _ => return Err(no_role("warp", role)),
    })
}

fn patch(profile: patch::Profile, role: &str, p: &mut Parameters) -> Result<Parts, String> {
    let [n, h, w] = p.numbers(["n", "h", "w"])?;
    let parts = match role {
        "mask" => Parts::new(patch::Mask { profile, size: [h, w] }, false),
        "mask_vjp" => Parts::new(patch::MaskVjp { profile }, false),
        _ => return Err(no_role("a patch", role)),
    };
    let parts = parts.input([n, 4], Fill::PatchMatrix([h, w])).input([n, 2], Fill::Centre([h, w]));
    Ok(if role == "mask_vjp" { parts.input([n, 1, h, w], ANY) } else { parts })
}

fn random(role: &str, p: &mut Parameters) -> Result<Parts, String> {
    if role != "uniform" {
        return Err(no_role("random", role));
    }
    let (stream, shape) = (p.number("stream")?, p.shape("y")?);
    let keys = p.number_or("keys", 1)?;
    Ok(Parts::new(Uniform { stream, shape }, true).input([keys, 6], Fill::Key))
}

fn optimiser(role: &str, p: &mut Parameters) -> Result<Parts, String> {
    if role != "adam" {
        return Err(no_role("optimiser", role));
    }
    let x = p.shape("theta")?;
    Ok(Parts::new(AdamUpdate, false)
        .input(x.clone(), ANY)
        .input(x.clone(), ANY)
        .input(x, Fill::Range(0.0, 2.0))
        .input([3], Fill::Range(0.05, 1.0)))
}
