//! What images are painted of: packaged photographs of textures, and textures and objects that a generator draws.

use std::f64::consts::{PI, TAU};
use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::canvas::{Canvas, Colour, covered, grey, turned};
use super::defect::Defect;
use crate::data::decode::{self, Channels, Conversion, Size};
use crate::data::{BadImage, DataError};
use crate::engine::philox::Stream;

/// A material or an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Material {
    /// A photograph of a brick wall, grey.
    Brick,
    /// A photograph of gravel, grey.
    Gravel,
    /// Plain weave of blue and cream threads.
    Weave,
    /// Wood, with its grain along the rows.
    Wood,
    /// A light floor with chips of four colours.
    Terrazzo,
    /// A metal ring with six bolt holes, at any angle.
    Washer,
    /// A green plate with three bars and a gold disc.
    Plate,
}

/// A photograph is divided like a chessboard into fields of this side. Training crops lie in the dark fields and test crops in the
/// bright ones, so they share no pixel, but both cover the whole photograph.
pub(super) const FIELD: usize = 128;

/// Which fields of the chessboard a crop may lie in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Fields {
    Train = 0,
    Test = 1,
}

impl fmt::Display for Material {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.to_possible_value().expect("no variant is hidden").get_name())
    }
}

impl Material {
    /// The channels that its images have unless others are asked for.
    pub(super) fn channels(self) -> Channels {
        if matches!(self, Material::Brick | Material::Gravel) { Channels::Grey } else { Channels::Rgb }
    }

    pub(super) fn is_object(self) -> bool {
        matches!(self, Material::Washer | Material::Plate)
    }

    /// What draws images of it.
    pub(super) fn source(self) -> Result<Source, DataError> {
        Ok(match self {
            Material::Brick => Source::photograph("brick.png", include_bytes!("../../../assets/textures/brick.png"))?,
            Material::Gravel => {
                Source::photograph("gravel.png", include_bytes!("../../../assets/textures/gravel.png"))?
            }
            drawn => Source::Drawn(drawn),
        })
    }
}

/// Draws images of a material.
#[derive(Debug)]
pub(super) enum Source {
    /// Crops of a square photograph.
    Photograph(Canvas),
    /// Each image is drawn anew, so that all are independent of each other.
    Drawn(Material),
}

impl Source {
    fn photograph(name: &str, bytes: &[u8]) -> Result<Self, DataError> {
        let photograph = decode::decode(bytes, decode::MAX_PIXELS).map_err(|reason| DataError::BadImages {
            bad: vec![BadImage { path: format!("assets/textures/{name}").into(), reason }],
            of: 1,
        })?;
        let side = photograph.width() as usize;
        let whole = Conversion { size: Size::square(side), ..Conversion::default() };
        Ok(Source::Photograph(Canvas { side, planes: vec![whole.apply(&photograph)] }))
    }

    /// An image of `side` pixels; of an object, with this defect of its shape.
    pub fn image(&self, side: usize, fields: Fields, shape: Option<Defect>, stream: &mut Stream) -> Canvas {
        match self {
            Source::Photograph(whole) => crop(whole, side, fields, stream),
            Source::Drawn(material) => {
                let mut canvas = match material {
                    Material::Weave => weave(side, stream),
                    Material::Wood => wood(side, stream),
                    Material::Terrazzo => terrazzo(side, stream),
                    Material::Washer => washer(side, shape, stream),
                    _ => plate(side, shape, stream),
                };
                for level in canvas.planes.iter_mut().flatten() {
                    *level = (*level + NOISE * (2.0 * stream.uniform() - 1.0) as f32).clamp(0.0, 1.0);
                }
                canvas.quantise();
                canvas
            }
        }
    }
}

/// Largest deviation of a level of a drawn image, as a sensor has it.
const NOISE: f32 = 0.03;

/// A random square of `side` pixels in one of the fields.
fn crop(whole: &Canvas, side: usize, fields: Fields, stream: &mut Stream) -> Canvas {
    let columns = whole.side / FIELD;
    let half = columns * columns / 2;
    let field = stream.below(half);
    let (row, pair) = (field / (columns / 2), field % (columns / 2));
    let column = 2 * pair + (row + fields as usize) % 2;
    let (left, top) = (column * FIELD + stream.below(FIELD - side + 1), row * FIELD + stream.below(FIELD - side + 1));
    let row = |y: usize| &whole.planes[0][(top + y) * whole.side + left..][..side];
    Canvas { side, planes: vec![(0..side).flat_map(row).copied().collect()] }
}

fn between(stream: &mut Stream, low: f64, high: f64) -> f64 {
    low + (high - low) * stream.uniform()
}

/// An image whose colours `colour` gives at each pixel's centre.
fn drawn(side: usize, colour: impl Fn([f64; 2]) -> Colour) -> Canvas {
    let mut canvas = Canvas::blank(side, grey(0.0));
    for index in 0..side * side {
        let pixel = colour([index % side, index / side].map(|at| at as f64 + 0.5));
        for (plane, level) in canvas.planes.iter_mut().zip(pixel) {
            plane[index] = level.clamp(0.0, 1.0) as f32;
        }
    }
    canvas
}

fn times(colour: Colour, factor: f64) -> Colour {
    colour.map(|level| level * factor)
}

/// Threads of an eighth of the image's side, over and under each other in turn.
fn weave(side: usize, stream: &mut Stream) -> Canvas {
    let period = side as f64 / 8.0;
    let phase = [0, 1].map(|_| between(stream, 0.0, 2.0 * period));
    let tilt = between(stream, -0.05, 0.05);
    let shades: Vec<f64> = (0..64).map(|_| between(stream, 0.88, 1.0)).collect();
    drawn(side, |[x, y]| {
        let [u, v] = [(x + tilt * y + phase[0]) / period, (y - tilt * x + phase[1]) / period];
        let [column, row] = [u, v].map(f64::floor);
        let is_over = (column + row).rem_euclid(2.0) < 1.0;
        let (thread, across, along) =
            if is_over { (column, u - column, v - row) } else { (row + 32.0, v - row, u - column) };
        let colour = if is_over { [0.24, 0.38, 0.62] } else { [0.86, 0.80, 0.66] };
        // A thread is round, and dips at its ends.
        let shade = (0.55 + 0.45 * (PI * across).sin()) * (0.8 + 0.2 * (PI * along).sin());
        times(colour, shade * shades[thread.rem_euclid(64.0) as usize])
    })
}

/// Dark bands that wander, and fine streaks.
fn wood(side: usize, stream: &mut Stream) -> Canvas {
    let [phase, drift] = [0, 1].map(|_| between(stream, 0.0, TAU));
    let bands = between(stream, 3.0, 5.0);
    let bow = between(stream, 0.3, 0.8);
    let streaks: Vec<f64> = (0..side).map(|_| between(stream, -0.05, 0.05)).collect();
    drawn(side, |[x, y]| {
        let (x, row) = (x / side as f64, y as usize);
        let ring = (TAU * bands * y / side as f64 + bow * (TAU * x + drift).sin() + phase).sin();
        times([0.70, 0.48, 0.28], 0.85 + 0.15 * ring + streaks[row])
    })
}

/// Eighteen chips of random place, form and colour.
fn terrazzo(side: usize, stream: &mut Stream) -> Canvas {
    const CHIPS: [Colour; 4] = [[0.35, 0.33, 0.32], [0.62, 0.42, 0.34], [0.52, 0.58, 0.50], [0.80, 0.72, 0.52]];
    let size = side as f64;
    let mut canvas = Canvas::blank(side, [0.84, 0.82, 0.78]);
    for chip in 0..18 {
        let place = [0, 1].map(|_| size * stream.uniform());
        let radii = [0, 1].map(|_| size * between(stream, 0.025, 0.075));
        let axis: [f64; 2] = between(stream, 0.0, PI).sin_cos().into();
        canvas.cover(place, CHIPS[chip % CHIPS.len()], |offset| {
            let [along, across] = turned(offset, axis);
            covered((1.0 - (along / radii[0]).hypot(across / radii[1])) * radii[0].min(radii[1]))
        });
    }
    canvas
}

/// A ring near the middle, brighter where it faces the light.
fn washer(side: usize, shape: Option<Defect>, stream: &mut Stream) -> Canvas {
    let size = side as f64;
    let centre = [0, 1].map(|_| size * between(stream, 0.47, 0.53));
    let [turn, light] = [0, 1].map(|_| between(stream, 0.0, TAU));
    let lost = stream.below(6);
    let at =
        |radius: f64, angle: f64| [centre[0] + radius * size * angle.cos(), centre[1] + radius * size * angle.sin()];
    let disc = |radius: f64| move |[x, y]: [f64; 2]| covered(radius * size - x.hypot(y));
    const GROUND: Colour = [0.12, 0.13, 0.16];
    let mut canvas = Canvas::blank(side, GROUND);
    canvas.cover(centre, [0.66, 0.67, 0.70], disc(0.42));
    canvas.paint(centre, |old, [x, y]| f64::from(old) * (1.0 + 0.12 * (y.atan2(x) - light).cos()));
    canvas.cover(centre, GROUND, disc(0.17));
    for hole in (0..6).filter(|&hole| shape != Some(Defect::Missing) || hole != lost) {
        canvas.cover(at(0.295, turn + TAU * hole as f64 / 6.0), GROUND, disc(0.05));
    }
    if shape == Some(Defect::Nick) {
        canvas.cover(at(0.42, turn + light), GROUND, disc(0.1));
    }
    canvas
}

/// A plate with three bars on its left half and a disc at its upper right.
fn plate(side: usize, shape: Option<Defect>, stream: &mut Stream) -> Canvas {
    let size = side as f64;
    let centre = [0, 1].map(|_| size * between(stream, 0.46, 0.54));
    let tilt = between(stream, -0.1, 0.1) + if shape == Some(Defect::Turned) { PI } else { 0.0 };
    let lost = stream.below(4);
    let corner = [0, 1].map(|_| if stream.below(2) == 0 { -1.0 } else { 1.0 });
    let axis: [f64; 2] = tilt.sin_cos().into();
    let within = |[x, y]: [f64; 2], [half_width, half_height]: [f64; 2]| {
        move |offset: [f64; 2]| {
            let [along, across] = turned(offset, axis);
            let depth = |at: f64, middle: f64, half: f64| covered(half * size - (at - middle * size).abs());
            depth(along, x, half_width) * depth(across, y, half_height)
        }
    };
    const GROUND: Colour = [0.78, 0.78, 0.76];
    let mut canvas = Canvas::blank(side, GROUND);
    canvas.cover(centre, [0.12, 0.38, 0.22], within([0.0, 0.0], [0.38, 0.28]));
    let keeps = |part: usize| shape != Some(Defect::Missing) || part != lost;
    const BARS: [Colour; 3] = [[0.85, 0.85, 0.82], [0.20, 0.20, 0.22], [0.75, 0.30, 0.18]];
    for (bar, colour) in BARS.into_iter().enumerate().filter(|(bar, _)| keeps(*bar)) {
        canvas.cover(centre, colour, within([-0.25 + 0.14 * bar as f64, 0.05], [0.04, 0.14]));
    }
    if keeps(3) {
        canvas.cover(centre, [0.86, 0.70, 0.25], |offset| {
            let [along, across] = turned(offset, axis);
            covered(0.07 * size - (along - 0.25 * size).hypot(across + 0.13 * size))
        });
    }
    if shape == Some(Defect::Nick) {
        canvas.cover(centre, GROUND, within([0.38 * corner[0], 0.28 * corner[1]], [0.12, 0.11]));
    }
    canvas
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// The level of each pixel is its position in the photograph.
    #[test]
    fn training_and_test_crops_share_no_pixel() {
        let places = Canvas { side: 512, planes: vec![(0..512 * 512).map(|place| place as f32).collect()] };
        let seen = |fields: Fields, side: usize| -> BTreeSet<u32> {
            let mut stream = Stream::new(0, 0);
            let crops = (0..200).flat_map(|_| crop(&places, side, fields, &mut stream).planes.concat());
            crops.map(|place| place as u32).collect()
        };
        for side in [8, 32, 128] {
            let (train, test) = (seen(Fields::Train, side), seen(Fields::Test, side));
            assert!(train.is_disjoint(&test), "{side}");
            let fields = |places: &BTreeSet<u32>| {
                places.iter().map(|place| (place / 512 / 128, place % 512 / 128)).collect::<BTreeSet<_>>().len()
            };
            assert_eq!((fields(&train), fields(&test)), (8, 8));
        }
    }
}
