//! A case: one primitive at one shape, with data. Checks, tests, benches and profiles share it; through it a family
//! describes its primitives.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::engine::bounds;
use crate::engine::geometry::Geometry;
use crate::engine::philox::{philox4x32, unit};
use crate::engine::tape::Primitive;
use crate::engine::tensor::{Shape, Tensor};

/// A primitive at a shape, with data for its inputs. Its name describes it fully and parses back to it:
/// `conv2d/input(n=2,c=3,h=7,w=5,k=4,r=3,s=3,stride=2,padding=1)`.
#[derive(Clone, Debug)]
pub struct Case {
    pub(crate) name: String,
    pub primitive: Arc<dyn Primitive>,
    pub inputs: Vec<Input>,
    pub says: Description,
}

/// Properties of a primitive that checks use, stated by its family.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Description {
    /// Whether f32 computes integer inputs exactly, in any order of summation.
    pub exact: bool,
    /// Sets of inputs in which the primitive is jointly linear, each input with a backward rule.
    pub linear: &'static [&'static [usize]],
    /// Inputs in which the output is piecewise constant: they have no cotangent.
    pub constant: &'static [usize],
    /// Inputs in which the output is stationary at their only valid value: they have no cotangent.
    pub stationary: &'static [usize],
    /// Inputs without a backward rule: no hyper-parameter is tuned through them.
    pub without_rule: &'static [usize],
    /// Inputs whose NaN and infinities the definition covers.
    pub special: Special,
    /// Inputs whose NaN must show: where the definition has NaN, the output is no finite number, so that a run that diverges is
    /// noticed. It need not be NaN, since WGSL leaves functions of NaN open: SwiftShader's exp of it is infinite.
    pub nan: &'static [usize],
}

/// The inputs whose NaN and infinities a definition covers; WGSL leaves open what becomes of others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Special {
    All,
    In(&'static [usize]),
}

impl Default for Special {
    fn default() -> Self {
        Special::In(&[])
    }
}

/// Shape and contents of one input.
#[derive(Clone, Debug, PartialEq)]
pub struct Input {
    pub shape: Shape,
    pub fill: Fill,
    /// Contents that reach as far as the formula allows.
    pub edges: Fill,
}

/// The valid contents of an input.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fill {
    /// Uniform in [low, high); as integers, those of −4..=4 in that range, if there are any.
    Range(f64, f64),
    /// Powers of 2 with real exponents, uniform between these two.
    Powers(f64, f64),
    /// The same of either sign, and zeros.
    SignedPowers(f64, f64),
    /// Multiples of ¼ in [−2, 2] plus this offset, which keeps them away from a kink at another multiple.
    Lattice(f64),
    /// Affine maps `[N, 6]` for images of these extents, none of whose samples lies on a pixel. As integers, quarter
    /// turns and reflections, shifted by half pixels.
    AffineMatrix([usize; 2]),
    /// Maps `[N, 4]` of patches for images of these extents. As integers, of upright patches.
    PatchMatrix([usize; 2]),
    /// Points (x, y) `[N, 2]` in an image of these extents.
    Centre([usize; 2]),
    /// 16-bit words.
    Key,
    /// Whole numbers below this; at the edges some beyond, which mean the last.
    Index(usize),
    /// A pixel h · W + w of each window `[N, C, P, Q]`.
    PixelOf(Geometry),
}

/// What a shape tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ShapeClass {
    /// Prime extents, not divisible by any tile.
    Prime,
    /// Smaller than a tile in every dimension.
    Small,
    /// Extents of 1.
    Ones,
    /// Strides, uneven padding, windows larger and smaller than their stride; for other families, axes at odd places.
    Uneven,
    /// More than one tile in every dimension.
    Tiled,
    /// More than 65535 workgroups in a row.
    Folded,
    /// More elements than f32 counts: an index that passes through a float is wrong.
    Large,
    /// Shapes of a training step.
    Training,
}

impl ShapeClass {
    pub const ALL: [ShapeClass; 8] = [
        ShapeClass::Prime,
        ShapeClass::Small,
        ShapeClass::Ones,
        ShapeClass::Uneven,
        ShapeClass::Tiled,
        ShapeClass::Folded,
        ShapeClass::Large,
        ShapeClass::Training,
    ];
}

impl fmt::Display for ShapeClass {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(match self {
            ShapeClass::Prime => "prime",
            ShapeClass::Small => "small",
            ShapeClass::Ones => "ones",
            ShapeClass::Uneven => "uneven",
            ShapeClass::Tiled => "tiled",
            ShapeClass::Folded => "folded",
            ShapeClass::Large => "large",
            ShapeClass::Training => "training",
        })
    }
}

/// A primitive with its inputs and its family's description.
#[derive(Clone, Debug)]
pub struct Parts {
    pub primitive: Arc<dyn Primitive>,
    pub inputs: Vec<Input>,
    pub says: Description,
}

impl Parts {
    /// A primitive without inputs yet, not exact on integers.
    pub fn new(primitive: impl Primitive) -> Self {
        Parts { primitive: Arc::new(primitive), inputs: Vec::new(), says: Description::default() }
    }

    /// Adds an input, whose values reach as far as those of its [kind](Fill::edges) do.
    pub fn input(self, shape: impl Into<Shape>, fill: Fill) -> Self {
        self.input_up_to(shape, fill, fill.edges())
    }

    /// Adds an input, and says how far its values reach.
    pub fn input_up_to(mut self, shape: impl Into<Shape>, fill: Fill, edges: Fill) -> Self {
        self.inputs.push(Input { shape: shape.into(), fill, edges });
        self
    }

    /// States in which inputs the definition covers NaN and infinities.
    pub fn special(mut self, special: Special) -> Self {
        self.says.special = special;
        self
    }

    /// States of which inputs a NaN must [show](Description::nan) in the output.
    pub fn nan_of(mut self, inputs: &'static [usize]) -> Self {
        self.says.nan = inputs;
        self
    }

    /// States whether f32 computes integers exactly.
    pub fn exact(mut self, exact: bool) -> Self {
        self.says.exact = exact;
        self
    }

    /// States in which sets of inputs the primitive is linear.
    pub fn linear_in(mut self, sets: &'static [&'static [usize]]) -> Self {
        self.says.linear = sets;
        self
    }

    /// States in which inputs the output is piecewise constant.
    pub fn constant_in(mut self, inputs: &'static [usize]) -> Self {
        self.says.constant = inputs;
        self
    }

    /// States in which inputs the output is stationary at their only valid value.
    pub fn stationary_in(mut self, inputs: &'static [usize]) -> Self {
        self.says.stationary = inputs;
        self
    }

    /// States which inputs lack a backward rule.
    pub fn without_rule(mut self, inputs: &'static [usize]) -> Self {
        self.says.without_rule = inputs;
        self
    }
}

impl Case {
    /// Parses `family/role(key=value,…)` with the description that `family` makes of the role and parameters.
    pub(crate) fn parse(
        name: &str,
        family: impl Fn(&str, &str, &mut Parameters) -> Result<Parts, String>,
    ) -> Result<Case, String> {
        let (primitive_name, parameters) = name
            .strip_suffix(')')
            .and_then(|name| name.split_once('('))
            .ok_or("a name has the form family/role(key=value,…)")?;
        let mut p = Parameters::parse(parameters)?;
        let (family_name, role) = primitive_name.split_once('/').ok_or("a primitive has the form family/role")?;
        let Parts { primitive, inputs, says } = family(family_name, role, &mut p)?;
        if let Some((key, _)) = p.pairs.first() {
            return Err(format!("`{key}` means nothing to {primitive_name}"));
        }
        if inputs.iter().any(|input| input.shape.count() == 0) {
            return Err("an extent is zero".into());
        }
        let shapes: Vec<&Shape> = inputs.iter().map(|input| &input.shape).collect();
        let output = primitive.shape(&shapes)?;
        if output.count() == 0 {
            return Err("the output is empty".into());
        }
        Ok(Case { name: name.to_owned(), primitive, inputs, says })
    }
}

/// Whether this is meant as a case's full name, not as a part of some: `family/role(…)`.
pub fn is_full_name(text: &str) -> bool {
    text.contains('(') && text.ends_with(')')
}

/// The name of the case that applies `primitive` to inputs of these shapes, if there is one: `stssad check` takes it.
pub fn name_of(primitive: &dyn Primitive, inputs: &[&Shape]) -> Option<String> {
    let name = format!("{}({})", primitive.name(), primitive.parameters(inputs)?);
    name.parse::<Case>().is_ok().then_some(name)
}

/// The `key=value` pairs not read yet.
#[derive(Debug)]
pub struct Parameters<'a> {
    pairs: Vec<(&'a str, &'a str)>,
}

impl<'a> Parameters<'a> {
    fn parse(text: &'a str) -> Result<Self, String> {
        let pairs = text.split(',').map(|pair| pair.split_once('=').ok_or(format!("`{pair}` is not key=value")));
        Ok(Parameters { pairs: pairs.collect::<Result<_, String>>()? })
    }

    pub(crate) fn text(&mut self, key: &str) -> Result<&'a str, String> {
        let at = self.pairs.iter().position(|(k, _)| *k == key).ok_or(format!("`{key}` is missing"))?;
        Ok(self.pairs.remove(at).1)
    }

    pub(crate) fn number<T: std::str::FromStr>(&mut self, key: &str) -> Result<T, String> {
        let text = self.text(key)?;
        text.parse().map_err(|_| format!("`{key}={text}` is not a number"))
    }

    /// The number, or `default` where nothing is said.
    pub(crate) fn number_or<T: std::str::FromStr>(&mut self, key: &str, default: T) -> Result<T, String> {
        let is_given = self.pairs.iter().any(|(k, _)| *k == key);
        if is_given { self.number(key) } else { Ok(default) }
    }

    pub(crate) fn numbers<const N: usize>(&mut self, keys: [&str; N]) -> Result<[usize; N], String> {
        let mut numbers = [0; N];
        for (number, key) in numbers.iter_mut().zip(keys) {
            *number = self.number(key)?;
        }
        Ok(numbers)
    }

    /// `2x3x5`
    pub(crate) fn shape(&mut self, key: &str) -> Result<Shape, String> {
        let text = self.text(key)?;
        let extents = text.split('x').map(|extent| extent.parse().map_err(|_| format!("`{key}={text}` is no shape")));
        extents.collect::<Result<Vec<usize>, String>>().map(Shape::from)
    }
}

/// A name that is not a case.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("`{name}` is no case: {reason}")]
pub struct CaseError {
    pub name: String,
    pub reason: String,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// What an input holds.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Numbers {
    Integers,
    Floats,
    /// As far as the formula allows, ends included.
    Edges,
}

/// NaN, infinities, zeros of both signs, and a few numbers, some of them twice.
const SPECIAL: [f32; 11] =
    [f32::NAN, 1.5, -0.0, f32::INFINITY, -f32::NAN, -2.0, 0.0, f32::NEG_INFINITY, -0.5, 0.75, 1.5];

/// What no arithmetic brings back to a number.
const NOT_FINITE: [f32; 3] = [f32::INFINITY, f32::NAN, f32::NEG_INFINITY];

/// NaN, infinities and signed zeros among a few numbers. Two tensors whose steps do not differ by a multiple of 11 pair every value
/// with every other.
pub fn specials(shape: impl Into<Shape>, step: usize) -> Tensor {
    let shape = shape.into();
    let data = (0..shape.count()).map(|index| SPECIAL[(step * index + index / 11) % 11]).collect();
    Tensor::new(shape, data)
}

impl Case {
    /// `conv2d` of `conv2d/input(…)`.
    pub fn family(&self) -> &'static str {
        self.primitive.name().split('/').next().unwrap_or_default()
    }

    pub fn shapes(&self) -> Vec<&Shape> {
        self.inputs.iter().map(|input| &input.shape).collect()
    }

    /// # Panics
    /// Never: a case has only shapes that fit.
    pub fn output(&self) -> Shape {
        self.primitive.shape(&self.shapes()).expect("checked when built")
    }

    /// Number of elements of all inputs and the output.
    pub fn elements(&self) -> usize {
        self.inputs.iter().map(|input| input.shape.count()).sum::<usize>() + self.output().count()
    }

    /// Small integers for inputs that may be any numbers, the simplest valid contents for others.
    pub fn integers(&self, seed: u64) -> Vec<Tensor> {
        self.fill(Numbers::Integers, seed)
    }

    /// Random numbers that use all bits of an f32.
    pub fn floats(&self, seed: u64) -> Vec<Tensor> {
        self.fill(Numbers::Floats, seed)
    }

    /// Numbers of all magnitudes that the formula allows: what is wrong beyond a few units shows.
    pub fn edges(&self, seed: u64) -> Vec<Tensor> {
        self.fill(Numbers::Edges, seed)
    }

    /// For primitives whose definition [covers](Description::special) NaN and infinities in all inputs, these and signed zeros among
    /// a few numbers, where each of them meets each in every two inputs; then, if there are several inputs, some infinities and
    /// NaN in each alone, among [`integers`](Case::integers). For others, these in each input where it covers them.
    pub fn specials(&self, seed: u64) -> Vec<Vec<Tensor>> {
        let alone = |input: usize| self.integers_but(input, NOT_FINITE, seed);
        match self.says.special {
            Special::In(inputs) => inputs.iter().map(|&input| alone(input)).collect(),
            Special::All => {
                let all = self.inputs.iter().enumerate();
                let everywhere = all.map(|(input, it)| specials(it.shape.clone(), input + 1)).collect();
                let each = (0..self.inputs.len()).filter(|_| self.inputs.len() > 1);
                [everywhere].into_iter().chain(each.map(alone)).collect()
            }
        }
    }

    /// Some NaN in each input whose NaN [must show](Description::nan) in the output, among [`integers`](Case::integers).
    pub fn nans(&self, seed: u64) -> Vec<Vec<Tensor>> {
        self.says.nan.iter().map(|&input| self.integers_but(input, [f32::NAN], seed)).collect()
    }

    /// The [`integers`](Case::integers), with every seventh element of one input replaced by these, in turn.
    fn integers_but<const N: usize>(&self, input: usize, others: [f32; N], seed: u64) -> Vec<Tensor> {
        let mut inputs = self.integers(seed);
        let shape = inputs[input].shape().clone();
        let mut data = inputs[input].data().to_vec();
        data.iter_mut().step_by(7).zip(others.into_iter().cycle()).for_each(|(x, other)| *x = other);
        inputs[input] = Tensor::new(shape, data);
        inputs
    }

    /// The [`floats`](Case::floats), restricted to values exact in f16.
    pub fn halves(&self, seed: u64) -> Vec<Tensor> {
        let halved = |tensor: Tensor| {
            let shape = tensor.shape().clone();
            Tensor::new(shape, tensor.into_data().into_iter().map(bounds::to_f16).collect())
        };
        self.floats(seed).into_iter().map(halved).collect()
    }

    fn fill(&self, numbers: Numbers, seed: u64) -> Vec<Tensor> {
        let fill = |(index, input): (usize, &Input)| {
            let mut draws = Draws::new(seed, index as u32);
            let fill = if numbers == Numbers::Edges { input.edges } else { input.fill };
            let data = fill.draw(&input.shape, numbers, &mut draws);
            Tensor::new(input.shape.clone(), data)
        };
        self.inputs.iter().enumerate().map(fill).collect()
    }
}

/// The elements of a tensor as f64.
pub(crate) fn widen(tensor: &Tensor) -> Vec<f64> {
    tensor.data().iter().map(|&x| f64::from(x)).collect()
}

/// Random numbers for one input, four per call of the generator.
pub(crate) struct Draws {
    key: [u32; 2],
    input: u32,
    drawn: u32,
    block: [u32; 4],
}

impl Draws {
    pub(crate) fn new(seed: u64, input: u32) -> Self {
        Draws { key: [seed as u32, (seed >> 32) as u32], input, drawn: 0, block: [0; 4] }
    }

    fn word(&mut self) -> u32 {
        let lane = (self.drawn % 4) as usize;
        if lane == 0 {
            // The last counter word separates these draws from those of training.
            self.block = philox4x32([self.drawn / 4, 0, self.input, 2], self.key);
        }
        self.drawn += 1;
        self.block[lane]
    }

    /// Uniform in [low, high).
    pub(crate) fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * unit(self.word())
    }

    /// Uniform in low..=high.
    pub(crate) fn integer(&mut self, low: i64, high: i64) -> i64 {
        low + ((u64::from(self.word()) * (high - low + 1) as u64) >> 32) as i64
    }
}

impl Fill {
    /// Unrestricted numbers.
    pub const ANY: Fill = Fill::Range(-2.0, 2.0);
    /// Numbers that are safe to divide by.
    pub const POSITIVE: Fill = Fill::Range(0.25, 4.0);

    /// How far these reach: products of four, and sums of millions of products of two, stay below the largest f32.
    pub const WIDE: Fill = Fill::SignedPowers(-30.0, 30.0);
    pub const WIDE_POSITIVE: Fill = Fill::Powers(-30.0, 30.0);

    /// How far values of this kind reach where the family says nothing else.
    pub fn edges(self) -> Fill {
        match self {
            Fill::ANY | Fill::Lattice(_) => Fill::WIDE,
            Fill::POSITIVE => Fill::WIDE_POSITIVE,
            other => other,
        }
    }

    fn draw(self, shape: &Shape, numbers: Numbers, draws: &mut Draws) -> Vec<f32> {
        let integers = numbers == Numbers::Integers;
        let mut data = Vec::with_capacity(shape.count());
        while data.len() < shape.count() {
            match self {
                Fill::Range(low, high) if integers && low.max(-4.0).ceil() <= high.min(4.0).floor() => {
                    let (low, high) = (low.max(-4.0).ceil() as i64, high.min(4.0).floor() as i64);
                    data.push(draws.integer(low, high) as f32);
                }
                Fill::Range(low, high) if numbers == Numbers::Edges => data.push(match draws.integer(0, 15) {
                    0 => low,
                    1 => high,
                    _ => draws.uniform(low, high),
                } as f32),
                Fill::Range(low, high) => data.push(draws.uniform(low, high) as f32),
                Fill::Powers(low, high) => data.push(draws.uniform(low, high).exp2() as f32),
                Fill::SignedPowers(low, high) => {
                    let sign = draws.integer(-4, 4).signum() as f64;
                    data.push((sign * draws.uniform(low, high).exp2()) as f32);
                }
                Fill::Lattice(_) if integers => data.push(draws.integer(-4, 4) as f32),
                Fill::Lattice(offset) => data.push((0.25 * draws.integer(-8, 8) as f64 + offset) as f32),
                Fill::AffineMatrix(_) if integers => data.extend(quarter_turn(draws)),
                Fill::AffineMatrix(extents) => data.extend(affine_map(extents, numbers, draws)),
                Fill::PatchMatrix(extents) => data.extend(patch_map(extents, numbers, draws)),
                Fill::Centre([h, w]) => {
                    let centre = [w, h].map(|extent| draws.uniform(0.0, extent as f64));
                    data.extend(centre.map(|x| if integers { x.floor() } else { x } as f32));
                }
                Fill::Key if numbers == Numbers::Edges => data.push([0.0, 65_535.0][draws.integer(0, 1) as usize]),
                Fill::Key => data.push(draws.integer(0, 0xffff) as f32),
                Fill::Index(end) if numbers == Numbers::Edges && draws.integer(0, 7) == 0 => {
                    data.push((end as i64 + draws.integer(0, 1 << 20)) as f32);
                }
                Fill::Index(end) => data.push(draws.integer(0, end as i64 - 1) as f32),
                Fill::PixelOf(geometry) => {
                    let (p, q) = (data.len() / shape[3] % shape[2], data.len() % shape[3]);
                    let pixels: Vec<usize> = geometry.pixels_of(p, q).collect();
                    data.push(pixels[draws.integer(0, pixels.len() as i64 - 1) as usize] as f32);
                }
            }
        }
        data
    }
}

/// One of the eight symmetries of a square, shifted by half pixels: f32 computes its samples exactly.
fn quarter_turn(draws: &mut Draws) -> [f32; 6] {
    let [flip_x, flip_y] = [0; 2].map(|_| 2.0 * draws.integer(0, 1) as f32 - 1.0);
    let [shift_x, shift_y] = [0; 2].map(|_| 0.5 * draws.integer(-2, 2) as f32);
    match draws.integer(0, 1) {
        0 => [flip_x, 0.0, shift_x, 0.0, flip_y, shift_y],
        _ => [0.0, flip_x, shift_x, flip_y, 0.0, shift_y],
    }
}

/// A rotation by up to one radian with a zoom and a shift; at the edges, of any angle, between zooms of each axis down to 0, where
/// the map has no inverse, with shifts that leave the image. It is redrawn until no sample lies near a pixel, where the slope of a
/// bilinear image jumps.
fn affine_map([h, w]: [usize; 2], numbers: Numbers, draws: &mut Draws) -> [f32; 6] {
    let margin = 0.1 / (h * w) as f64;
    loop {
        let (angles, zooms, shifts) = match numbers {
            Numbers::Edges => {
                let zooms = [0; 2].map(|_| match draws.integer(0, 4) {
                    0 => 0.0,
                    _ => draws.uniform(-14.0, 2.0).exp2(),
                });
                ([0; 2].map(|_| draws.uniform(-3.2, 3.2)), zooms, [w, h].map(|extent| extent as f64))
            }
            _ => ([draws.uniform(-1.0, 1.0), 0.0], [draws.uniform(0.5, 1.5); 2], [1.5; 2]),
        };
        let [shift_x, shift_y] = shifts.map(|shift| draws.uniform(-shift, shift));
        // R(a) · diag(zooms) · R(b)
        let [(sin_a, cos_a), (sin_b, cos_b)] = angles.map(f64::sin_cos);
        let of_x = [zooms[0] * cos_b, -zooms[0] * sin_b];
        let of_y = [zooms[1] * sin_b, zooms[1] * cos_b];
        let row = |x: f64, y: f64| [0, 1].map(|axis| x * of_x[axis] + y * of_y[axis]);
        let ([xx, xy], [yx, yy]) = (row(cos_a, -sin_a), row(sin_a, cos_a));
        let map = [xx, xy, shift_x, yx, yy, shift_y].map(|x| x as f32);
        let m = map.map(f64::from);
        let (middle_x, middle_y) = ((w - 1) as f64 / 2.0, (h - 1) as f64 / 2.0);
        let is_apart = (0..h * w).all(|pixel| {
            let (dx, dy) = ((pixel % w) as f64 - middle_x, (pixel / w) as f64 - middle_y);
            let places = [m[0] * dx + m[1] * dy + m[2] + middle_x, m[3] * dx + m[4] * dy + m[5] + middle_y];
            places.iter().all(|place| (place - place.round()).abs() > margin)
        });
        if is_apart {
            return map;
        }
    }
}

/// A rotated patch that covers a twentieth to a third of the image; as integers, an upright one; at the edges, from less than a pixel
/// to all of it, and slim.
fn patch_map([h, w]: [usize; 2], numbers: Numbers, draws: &mut Draws) -> [f32; 4] {
    let (area, aspect) = match numbers {
        Numbers::Edges => (draws.uniform(-14.0, 1.0).exp2(), draws.uniform(-6.0, 6.0).exp2()),
        _ => (draws.uniform(0.05, 0.35), draws.uniform(0.4, 2.5)),
    };
    let (sin, cos) = match numbers {
        Numbers::Integers => [(0.0, 1.0), (1.0, 0.0), (0.0, -1.0), (-1.0, 0.0)][draws.integer(0, 3) as usize],
        _ => draws.uniform(-3.0, 3.0).sin_cos(),
    };
    let (side_x, side_y) = (w as f64 * (area * aspect).sqrt(), h as f64 * (area / aspect).sqrt());
    [cos / side_x, sin / side_x, -sin / side_y, cos / side_y].map(|x| x as f32)
}
