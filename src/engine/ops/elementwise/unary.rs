//! Functions of one value. A function is a variant of [`Unary`], a row of [`FUNCTIONS`], and the `case` with the row's
//! number in `shaders/elementwise/unary.wgsl`; everything else follows from these.

use std::mem::discriminant;

use super::{Binary, scaled};
use crate::engine::bounds::{Approx, chain_bound};
use crate::engine::case::{Fill, Parameters, Parts, ShapeClass, Special};
use crate::engine::tape::{Application, Arithmetic, Array, Cotangent, Primitive, Tape, Value};
use crate::engine::tensor::Shape;

/// A function of one value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Unary {
    Identity,
    Exp,
    Log,
    Sqrt,
    /// 1 / x
    Reciprocal,
    /// By our own polynomial: WGSL guarantees only 2⁻¹¹.
    Sin,
    Cos,
    /// 1 / (1 + exp(−x))
    Sigmoid,
    /// log(1 + exp(x))
    Softplus,
    /// max(x, 0); NaN stays NaN
    Relu,
    /// Clamped between two limits; NaN stays NaN
    Clamp {
        low: f32,
        high: f32,
    },
}

/// What a backward rule may use: the argument, the result, and its cotangent.
struct Pulled {
    x: Value,
    y: Value,
    ct: Value,
}

/// The properties of a function.
struct Function {
    /// The function, with example parameters.
    function: Unary,
    /// Its name in cases, and the example parameters after it.
    name: [&'static str; 2],
    /// The inputs it is checked at, and those that reach as far as it is defined in f32.
    domain: Fill,
    edges: Fill,
    /// Whether f32 computes it exactly for integers.
    exact: bool,
    value: fn(Unary, f64) -> f64,
    /// Error of the kernel's formula on an input with a known error.
    error: fn(Approx) -> f64,
    /// Records the cotangent of x.
    pull_back: fn(&mut Tape, Unary, Pulled) -> Value,
}

/// All functions, indexed by their number in the shader.
static FUNCTIONS: &[Function] = &[
    Function {
        function: Unary::Identity,
        name: ["identity", ""],
        domain: Fill::ANY,
        edges: Fill::WIDE,
        exact: true,
        value: |_, x| x,
        error: |x| x.error,
        pull_back: |_, _, at| at.ct,
    },
    Function {
        function: Unary::Exp,
        name: ["exp", ""],
        domain: Fill::Range(-20.0, 10.0),
        edges: Fill::Range(-100.0, 88.7),
        exact: false,
        value: |_, x| x.exp(),
        error: |x| x.exp().error,
        pull_back: |t, _, at| t.mul(at.ct, at.y),
    },
    Function {
        function: Unary::Log,
        name: ["log", ""],
        domain: Fill::Range(0.01, 8.0),
        edges: Fill::Powers(-126.0, 127.9),
        exact: false,
        value: |_, x| x.ln(),
        error: |x| x.ln().error,
        pull_back: |t, _, at| t.div(at.ct, at.x),
    },
    Function {
        function: Unary::Sqrt,
        name: ["sqrt", ""],
        domain: Fill::Range(0.01, 8.0),
        edges: Fill::Powers(-126.0, 127.9),
        exact: false,
        value: |_, x| x.sqrt(),
        error: |x| x.sqrt().error,
        // The derivative at 0 is defined as 0, so a zero vector's length has no gradient.
        pull_back: |t, _, at| t.binary(Binary::DivideOrZero { factor: 0.5 }, at.ct, at.y),
    },
    Function {
        function: Unary::Reciprocal,
        name: ["reciprocal", ""],
        domain: Fill::POSITIVE,
        edges: Fill::Powers(-126.0, 126.0),
        exact: false,
        value: |_, x| 1.0 / x,
        error: |x| (Approx::exact(1.0) / x).error,
        pull_back: |t, _, at| {
            let square = t.mul(at.y, at.y);
            let product = t.mul(at.ct, square);
            t.scale(product, -1.0)
        },
    },
    Function {
        function: Unary::Sin,
        name: ["sin", ""],
        domain: Fill::Range(-12.0, 12.0),
        edges: Fill::Range(-1000.0, 1000.0),
        exact: false,
        value: |_, x| x.sin(),
        error: error_of_wave,
        pull_back: |t, _, at| {
            let slope = t.unary(Unary::Cos, at.x);
            t.mul(at.ct, slope)
        },
    },
    Function {
        function: Unary::Cos,
        name: ["cos", ""],
        domain: Fill::Range(-12.0, 12.0),
        edges: Fill::Range(-1000.0, 1000.0),
        exact: false,
        value: |_, x| x.cos(),
        error: error_of_wave,
        pull_back: |t, _, at| {
            let slope = t.unary(Unary::Sin, at.x);
            let product = t.mul(at.ct, slope);
            t.scale(product, -1.0)
        },
    },
    Function {
        function: Unary::Sigmoid,
        name: ["sigmoid", ""],
        domain: Fill::Range(-20.0, 20.0),
        edges: Fill::WIDE,
        exact: false,
        value: |_, x| 1.0 / (1.0 + (-x).exp()),
        error: |x| {
            let (one, e) = (Approx::exact(1.0), (-x.abs()).exp());
            let numerator = if x.value >= 0.0 { one } else { e };
            (numerator / (one + e)).error
        },
        pull_back: |t, _, at| {
            let complement = t.affine(at.y, -1.0, 1.0);
            let slope = t.mul(at.y, complement);
            t.mul(at.ct, slope)
        },
    },
    Function {
        function: Unary::Softplus,
        name: ["softplus", ""],
        domain: Fill::Range(-20.0, 20.0),
        edges: Fill::WIDE,
        exact: false,
        value: |_, x| positive_part(x) + (-x.abs()).exp().ln_1p(),
        error: |x| {
            let (zero, one) = (Approx::exact(0.0), Approx::exact(1.0));
            (x.max(zero) + (one + (-x.abs()).exp()).ln()).error
        },
        pull_back: |t, _, at| {
            let slope = t.unary(Unary::Sigmoid, at.x);
            t.mul(at.ct, slope)
        },
    },
    Function {
        function: Unary::Relu,
        name: ["relu", ""],
        domain: Fill::Lattice(0.125),
        edges: Fill::WIDE,
        exact: true,
        value: |_, x| positive_part(x),
        error: |x| x.error,
        // The output is positive exactly where x is, so x need not be kept.
        pull_back: |t, _, at| t.binary(Binary::WherePositive, at.ct, at.y),
    },
    Function {
        function: Unary::Clamp { low: -0.5, high: 0.75 },
        name: ["clamp", ",low=-0.5,high=0.75"],
        domain: Fill::Lattice(0.125),
        edges: Fill::WIDE,
        exact: true,
        value: |function, x| {
            let [low, high] = function.limits();
            x.clamp(low.into(), high.into())
        },
        error: |x| x.error,
        pull_back: |t, function, at| {
            let [low, high] = function.limits();
            t.binary(Binary::WhereInside { low, high }, at.ct, at.x)
        },
    },
];

/// max(x, 0). NaN stays NaN, where `f64::max` would give 0.
pub(super) fn positive_part(x: f64) -> f64 {
    if x < 0.0 { 0.0 } else { x }
}

/// Range reduction loses ULPs of x, the polynomial a few ULPs of 1.
fn error_of_wave(x: Approx) -> f64 {
    x.error + chain_bound(4, 1.0 + x.value.abs())
}

impl Unary {
    /// The number of the `case` in `elementwise/unary.wgsl`.
    pub(super) fn selector(self) -> usize {
        let is_it = |known: &Function| discriminant(&known.function) == discriminant(&self);
        FUNCTIONS.iter().position(is_it).expect("every function has a row")
    }

    fn row(self) -> &'static Function {
        &FUNCTIONS[self.selector()]
    }

    /// The limits of a clamp; zeros for other functions.
    pub(super) fn limits(self) -> [f32; 2] {
        match self {
            Unary::Clamp { low, high } => [low, high],
            _ => [0.0; 2],
        }
    }
}

/// y = f(scale · x + offset), of x's shape; scale and offset are rounded to f32 on the device.
#[derive(Clone, Copy, Debug)]
pub struct UnaryMap {
    pub function: Unary,
    pub scale: f64,
    pub offset: f64,
}

impl From<Unary> for UnaryMap {
    /// f(x)
    fn from(function: Unary) -> Self {
        UnaryMap { function, scale: 1.0, offset: 0.0 }
    }
}

impl Primitive for UnaryMap {
    fn name(&self) -> &'static str {
        "elementwise/unary"
    }

    fn parameters(&self, inputs: &[&Shape]) -> Option<String> {
        let limits = match self.function {
            Unary::Clamp { low, high } => format!(",low={low},high={high}"),
            _ => String::new(),
        };
        let affine = match (self.scale, self.offset) {
            (1.0, 0.0) => String::new(),
            (scale, offset) => format!(",scale={scale},offset={offset}"),
        };
        Some(format!("f={}{limits}{affine},x={}", self.function.row().name[0], inputs[0]))
    }

    fn shape(&self, inputs: &[&Shape]) -> Result<Shape, String> {
        Ok(inputs[0].clone())
    }

    fn vjp(&self, tape: &mut Tape, at: Application) -> Vec<Cotangent> {
        let x = tape.affine(at.inputs[0], self.scale, self.offset);
        let pulled = Pulled { x, y: at.output, ct: at.cotangent };
        let ct_x = (self.function.row().pull_back)(tape, self.function, pulled);
        vec![Cotangent::Of(tape.scale(ct_x, self.scale))]
    }

    fn eval(&self, inputs: &[Array], _: &Shape) -> Vec<f64> {
        let value = self.function.row().value;
        inputs[0].data.iter().map(|&x| value(self.function, self.scale * x + self.offset)).collect()
    }

    fn bound(&self, inputs: &[Array], _: &Shape, _: Arithmetic) -> Vec<f64> {
        let affine = |x: f64| match (scaled(self.scale, Approx::exact(x)), self.offset) {
            (product, 0.0) => product,
            (product, offset) => product + Approx::rounded(offset),
        };
        inputs[0].data.iter().map(|&x| (self.function.row().error)(affine(x))).collect()
    }
}

/// The map described by `f`, `scale` and `offset`.
pub(super) fn describe(p: &mut Parameters) -> Result<Parts, String> {
    let name = p.text("f")?;
    let row = FUNCTIONS.iter().find(|known| known.name[0] == name);
    let row = row.ok_or_else(|| format!("there is no function `{name}` of one value"))?;
    let function = match row.function {
        Unary::Clamp { .. } => Unary::Clamp { low: p.number("low")?, high: p.number("high")? },
        function => function,
    };
    let (scale, offset): (f64, f64) = (p.number_or("scale", 1.0)?, p.number_or("offset", 0.0)?);
    // Where the function is not defined for all numbers, x is what the affine map takes to its domain.
    let (domain, edges) = match row.domain {
        Fill::Range(low, high) if row.domain != Fill::ANY && (scale, offset) != (1.0, 0.0) => {
            let [a, b] = [low, high].map(|end| (end - offset) / scale);
            (Fill::Range(a.min(b), a.max(b)), Fill::Range(a.min(b), a.max(b)))
        }
        domain => (domain, row.edges),
    };
    let is_selection = matches!(function, Unary::Relu | Unary::Clamp { .. }) && (scale, offset) == (1.0, 0.0);
    let special = if is_selection { Special::All } else { Special::default() };
    let exact = row.exact && scale.fract() == 0.0 && offset.fract() == 0.0;
    Ok(Parts::new(UnaryMap { function, scale, offset }).exact(exact).special(special).input_up_to(
        p.shape("x")?,
        domain,
        edges,
    ))
}

/// Each function, for element counts that are computed one by one and in vectors.
pub(super) fn cases() -> impl Iterator<Item = (ShapeClass, String)> {
    let lengths = [(ShapeClass::Prime, "131"), (ShapeClass::Uneven, "4x66")];
    FUNCTIONS.iter().flat_map(move |Function { name: [name, parameters], .. }| {
        lengths.map(|(class, x)| (class, format!("elementwise/unary(f={name}{parameters},x={x})")))
    })
}
