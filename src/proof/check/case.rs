//! One primitive at one shape, with data: what checks, tests, benches and profiles have in common.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::families;
use super::kernels::tolerance;
use crate::engine::bounds;
use crate::engine::kernel::Kernel;
use crate::engine::ops::conv2d::Geometry;
use crate::engine::philox::{philox4x32, unit};
use crate::engine::tape::{Array, Primitive};
use crate::engine::tensor::{Shape, Tensor};

/// A primitive at a shape, with data for its inputs. Its name tells all of it:
/// `conv2d/input(n=2,c=3,h=7,w=5,k=4,r=3,s=3,stride=2,padding=1)`; parse a name to have the case again.
#[derive(Clone, Debug)]
pub struct Case {
    pub(super) name: String,
    pub primitive: Arc<dyn Primitive>,
    pub inputs: Vec<Input>,
    /// Whether f32 computes integer inputs without a rounding, in any order of the terms.
    pub exact: bool,
}

/// Shape and contents of one input.
#[derive(Clone, Debug, PartialEq)]
pub struct Input {
    pub shape: Shape,
    pub fill: Fill,
}

/// What an input holds: numbers that are valid there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fill {
    /// Uniform in [low, high); as integers those of −4..=4 that lie inside.
    Range(f64, f64),
    /// Multiples of ¼ in [−2, 2] plus this offset, which keeps them away from a kink at another multiple.
    Lattice(f64),
    /// Affine maps `[N, 6]` for pictures of these extents, no sample of which lies on a pixel; as integers quarter turns
    /// and mirrorings, shifted by halves of a pixel.
    AffineMatrix([usize; 2]),
    /// Maps `[N, 4]` of patches for pictures of these extents.
    PatchMatrix([usize; 2]),
    /// Points (x, y) `[N, 2]` in a picture of these extents.
    Centre([usize; 2]),
    /// Halves of 16 bits.
    Key,
    /// Whole numbers below this.
    Index(usize),
    /// For each window `[N, C, P, Q]` a pixel h · W + w of it.
    PixelOf(Geometry),
}

/// A name that stands for no case.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("`{name}` is no case: {reason}")]
pub struct CaseError {
    pub name: String,
    pub reason: String,
}

impl FromStr for Case {
    type Err = CaseError;

    fn from_str(name: &str) -> Result<Self, CaseError> {
        let name: String = name.chars().filter(|c| !c.is_whitespace()).collect();
        families::build(&name).map_err(|reason| CaseError { name, reason })
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// Whether an input holds integers or any f32.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Numbers {
    Integers,
    Floats,
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
    /// Never: a case is built only from shapes that fit.
    pub fn output(&self) -> Shape {
        self.primitive.shape(&self.shapes()).expect("checked when built")
    }

    /// Elements of all inputs and the output.
    pub fn elements(&self) -> usize {
        self.inputs.iter().map(|input| input.shape.count()).sum::<usize>() + self.output().count()
    }

    /// Floating-point operations of one evaluation.
    pub fn flops(&self) -> u64 {
        self.primitive.flops(&self.shapes(), &self.output())
    }

    /// Small integers where the inputs may be any numbers, the simplest valid ones elsewhere.
    pub fn integers(&self, seed: u64) -> Vec<Tensor> {
        self.fill(Numbers::Integers, seed)
    }

    /// Random numbers with all bits of an f32.
    pub fn floats(&self, seed: u64) -> Vec<Tensor> {
        self.fill(Numbers::Floats, seed)
    }

    /// The [`floats`](Case::floats) that f16 has as well.
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
            let data = input.fill.draw(&input.shape, numbers, &mut draws);
            Tensor::new(input.shape.clone(), data)
        };
        self.inputs.iter().enumerate().map(fill).collect()
    }

    /// The definition's value and the f32 bound of it, element by element.
    pub fn reference(&self, inputs: &[Tensor]) -> (Vec<f64>, Vec<f64>) {
        self.evaluated(inputs, |arrays, output, _| self.primitive.bound(arrays, output))
    }

    /// The definition's value and the bound that `kernel` has to keep, element by element.
    pub fn reference_of(&self, kernel: &Kernel, inputs: &[Tensor]) -> (Vec<f64>, Vec<f64>) {
        self.evaluated(inputs, |arrays, output, want| tolerance(&*self.primitive, kernel, arrays, output, want))
    }

    fn evaluated(
        &self,
        inputs: &[Tensor],
        bound: impl Fn(&[Array], &Shape, &[f64]) -> Vec<f64>,
    ) -> (Vec<f64>, Vec<f64>) {
        let data: Vec<Vec<f64>> = inputs.iter().map(widen).collect();
        let arrays: Vec<Array> =
            inputs.iter().zip(&data).map(|(input, data)| Array { shape: input.shape(), data }).collect();
        let output = self.output();
        let want = self.primitive.eval(&arrays, &output);
        let bound = bound(&arrays, &output, &want);
        (want, bound)
    }
}

/// A tensor's elements in f64.
pub(super) fn widen(tensor: &Tensor) -> Vec<f64> {
    tensor.data().iter().map(|&x| f64::from(x)).collect()
}

/// Random numbers of one input, four from each call of the generator.
pub(super) struct Draws {
    key: [u32; 2],
    input: u32,
    drawn: u32,
    block: [u32; 4],
}

impl Draws {
    pub(super) fn new(seed: u64, input: u32) -> Self {
        Draws { key: [seed as u32, (seed >> 32) as u32], input, drawn: 0, block: [0; 4] }
    }

    fn word(&mut self) -> u32 {
        let lane = (self.drawn % 4) as usize;
        if lane == 0 {
            // The last counter word keeps these draws apart from those of training.
            self.block = philox4x32([self.drawn / 4, 0, self.input, 2], self.key);
        }
        self.drawn += 1;
        self.block[lane]
    }

    /// Uniform in [low, high).
    pub(super) fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * unit(self.word())
    }

    /// Uniform in low..=high.
    pub(super) fn integer(&mut self, low: i64, high: i64) -> i64 {
        low + ((u64::from(self.word()) * (high - low + 1) as u64) >> 32) as i64
    }
}

impl Fill {
    fn draw(self, shape: &Shape, numbers: Numbers, draws: &mut Draws) -> Vec<f32> {
        let integers = numbers == Numbers::Integers;
        let mut data = Vec::with_capacity(shape.count());
        while data.len() < shape.count() {
            match self {
                Fill::Range(low, high) if integers => {
                    let (low, high) = (low.max(-4.0).ceil() as i64, high.min(4.0).floor() as i64);
                    data.push(draws.integer(low, high) as f32);
                }
                Fill::Range(low, high) => data.push(draws.uniform(low, high) as f32),
                Fill::Lattice(_) if integers => data.push(draws.integer(-4, 4) as f32),
                Fill::Lattice(offset) => data.push((0.25 * draws.integer(-8, 8) as f64 + offset) as f32),
                Fill::AffineMatrix(_) if integers => data.extend(quarter_turn(draws)),
                Fill::AffineMatrix(extents) => data.extend(affine_map(extents, draws)),
                Fill::PatchMatrix(extents) => data.extend(patch_map(extents, draws)),
                Fill::Centre([h, w]) => {
                    let centre = [w, h].map(|extent| draws.uniform(0.0, extent as f64));
                    data.extend(centre.map(|x| if integers { x.floor() } else { x } as f32));
                }
                Fill::Key => data.push(draws.integer(0, 0xffff) as f32),
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

/// One of the eight symmetries of a square, shifted by halves of a pixel: f32 computes its samples exactly.
fn quarter_turn(draws: &mut Draws) -> [f32; 6] {
    let [flip_x, flip_y] = [0; 2].map(|_| 2.0 * draws.integer(0, 1) as f32 - 1.0);
    let [shift_x, shift_y] = [0; 2].map(|_| 0.5 * draws.integer(-2, 2) as f32);
    match draws.integer(0, 1) {
        0 => [flip_x, 0.0, shift_x, 0.0, flip_y, shift_y],
        _ => [0.0, flip_x, shift_x, flip_y, 0.0, shift_y],
    }
}

/// A turn by up to a radian with a zoom and a shift. Drawn again until no sample lies near a pixel, where the slope of a
/// bilinear picture jumps.
fn affine_map([h, w]: [usize; 2], draws: &mut Draws) -> [f32; 6] {
    let margin = 0.1 / (h * w) as f64;
    loop {
        let angle = draws.uniform(-1.0, 1.0);
        let zoom = draws.uniform(0.5, 1.5);
        let [shift_x, shift_y] = [0; 2].map(|_| draws.uniform(-1.5, 1.5));
        let (sin, cos) = (zoom * angle.sin(), zoom * angle.cos());
        let map = [cos, -sin, shift_x, sin, cos, shift_y].map(|x| x as f32);
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

/// A turned patch of a twentieth to a third of the picture.
fn patch_map([h, w]: [usize; 2], draws: &mut Draws) -> [f32; 4] {
    let (area, aspect, angle) = (draws.uniform(0.05, 0.35), draws.uniform(0.4, 2.5), draws.uniform(-3.0, 3.0));
    let (side_x, side_y) = (w as f64 * (area * aspect).sqrt(), h as f64 * (area / aspect).sqrt());
    [angle.cos() / side_x, angle.sin() / side_x, -angle.sin() / side_y, angle.cos() / side_y].map(|x| x as f32)
}
