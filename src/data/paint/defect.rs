//! Painted defects.

use std::f64::consts::{PI, TAU};
use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::canvas::{Canvas, Colour, blend, covered, grey, turned};
use crate::engine::philox::Stream;

/// The kinds of defect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Defect {
    /// A thin line, bright or dark.
    Scratch,
    /// A dark ellipse with soft edges.
    Blob,
    /// An irregular, soft, dark patch: a few overlapping Gaussians.
    Stain,
    /// A disc in which the contrast is reduced.
    Faded,
    /// A rectangle copied from elsewhere in the material.
    Misprint,
    /// A dark, slender ellipse with a fixed direction.
    Slash,
    /// A thin bright line.
    BrightScratch,
    /// A bright, nearly round spot.
    Spot,
    /// A translucent, soft, brown ellipse.
    Rust,
    /// A slender line of blue ink.
    Ink,
    /// A wide, soft ellipse in which the colours are pale.
    Bleach,
    /// A thin curve, bright or dark.
    Arc,
    /// A thin dark line with a random course and a branch.
    Crack,
    /// A disc in which the material is twisted.
    Twist,
    /// An object without one of its parts.
    Missing,
    /// An object with a piece broken off.
    Nick,
    /// An object turned by 180°.
    Turned,
}

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.to_possible_value().expect("no variant is hidden").get_name())
    }
}

impl Defect {
    /// Whether it changes the shape of an object, rather than what lies on a surface.
    pub(super) fn is_of_shape(self) -> bool {
        matches!(self, Defect::Missing | Defect::Nick | Defect::Turned)
    }
}

const LOOK_STREAM: u32 = 0x9a10;

/// The random appearance that all defects of a task share. Lengths are in pixels.
#[derive(Clone, Debug)]
pub(super) struct Look {
    defect: Defect,
    slant: f64,
    /// Half of the length and half of the width; of an arc, its radius and half of its width.
    extent: [f64; 2],
    colour: Colour,
    /// How far the colour covers, or by how much a stain darkens.
    share: f64,
    /// Offsets and radii of the parts of a stain.
    parts: Vec<([f64; 2], f64)>,
}

impl Look {
    /// The appearance of a task's defects on images of `side` pixels; the slant is random if not given.
    pub fn draw(defect: Defect, slant: Option<f64>, side: usize, seed: u64) -> Self {
        let mut stream = Stream::new(seed, LOOK_STREAM);
        let mut between = |low: f64, high: f64| low + (high - low) * stream.uniform();
        let random = between(0.0, PI);
        let size = side as f64;
        let thin = (0.02 * size).max(0.75);
        let either = |between: &mut dyn FnMut(f64, f64) -> f64| grey(if between(0.0, 1.0) < 0.5 { 0.95 } else { 0.05 });
        let (extent, colour, share) = match defect {
            Defect::Scratch => {
                let colour = either(&mut between);
                ([between(0.25, 0.35) * size, thin], colour, 1.0)
            }
            Defect::Blob => ([between(0.12, 0.18) * size, between(0.10, 0.14) * size], grey(0.08), 1.0),
            Defect::Stain => ([0.12 * size; 2], grey(0.0), between(0.45, 0.6)),
            Defect::Faded => ([between(0.22, 0.28) * size; 2], grey(0.0), 0.85),
            Defect::Misprint => ([between(0.16, 0.22) * size, between(0.16, 0.22) * size], grey(0.0), 1.0),
            Defect::Slash => ([14.0 / 64.0 * size, 5.0 / 64.0 * size], grey(0.1), 1.0),
            Defect::BrightScratch => ([between(0.25, 0.35) * size, thin], grey(0.95), 1.0),
            Defect::Spot => ([between(0.10, 0.15) * size, between(0.09, 0.12) * size], grey(0.95), 1.0),
            Defect::Rust => ([between(0.2, 0.26) * size, between(0.1, 0.14) * size], [0.70, 0.35, 0.10], 0.7),
            Defect::Ink => ([between(0.25, 0.32) * size, between(0.035, 0.05) * size], [0.10, 0.20, 0.85], 1.0),
            Defect::Bleach => ([between(0.22, 0.28) * size, between(0.18, 0.22) * size], [0.92, 0.92, 0.88], 0.45),
            Defect::Arc => {
                let colour = either(&mut between);
                ([between(0.25, 0.4) * size, thin], colour, 1.0)
            }
            Defect::Crack => ([0.3 * size, thin], grey(0.06), 1.0),
            Defect::Twist => ([between(0.22, 0.28) * size; 2], grey(0.0), between(1.6, 2.2)),
            Defect::Missing | Defect::Nick | Defect::Turned => ([0.0; 2], grey(0.0), 0.0),
        };
        let mut part = || {
            let (angle, distance) = (between(0.0, TAU), between(0.05, 0.14) * size);
            ([distance * angle.cos(), distance * angle.sin()], between(0.05, 0.09) * size)
        };
        let parts = (0..5).map(|_| part()).collect();
        Look { defect, slant: slant.unwrap_or(random), extent, colour, share, parts }
    }

    /// Paints the defect at a random position, with its centre well inside the image; a misprint copies `foreign`.
    pub fn paint(&self, canvas: &mut Canvas, foreign: &Canvas, stream: &mut Stream) {
        let side = canvas.side as f64;
        let place = [0, 1].map(|_| side * (0.2 + 0.6 * stream.uniform()));
        let [length, breadth] = self.extent;
        let axis: [f64; 2] = self.slant.sin_cos().into();
        // Coverage of a pixel by an ellipse: 1 inside, 0 outside, in between near its edge.
        let ellipse = move |offset: [f64; 2], soft: f64| {
            let [along, across] = turned(offset, axis);
            let radius = (along / length).hypot(across / breadth);
            ((1.0 - radius) * breadth / soft + 0.5).clamp(0.0, 1.0)
        };
        match self.defect {
            Defect::Scratch | Defect::BrightScratch => canvas.cover(place, self.colour, |offset| {
                let [along, across] = turned(offset, axis);
                covered(length - along.abs()) * covered(breadth - across.abs())
            }),
            Defect::Blob | Defect::Spot => canvas.cover(place, self.colour, |offset| ellipse(offset, 0.5 * breadth)),
            Defect::Slash | Defect::Ink => canvas.cover(place, self.colour, |offset| ellipse(offset, 1.0)),
            Defect::Rust | Defect::Bleach => {
                canvas.cover(place, self.colour, |offset| self.share * ellipse(offset, breadth));
            }
            Defect::Arc => canvas.cover(place, self.colour, |offset| {
                // The middle of the curve is at the place, its centre across the slant.
                let [along, across] = turned(offset, axis);
                let across = across - length;
                covered(breadth - (along.hypot(across) - length).abs()) * covered(-across - 0.6 * length)
            }),
            Defect::Crack => {
                let course = course(place, self.slant, length, stream);
                canvas.cover([0.0; 2], self.colour, |at| {
                    course.iter().map(|segment| covered(breadth - distance(at, *segment))).fold(0.0, f64::max)
                });
            }
            Defect::Stain => canvas.paint(place, |old, [x, y]| {
                let part = |([dx, dy], radius): &([f64; 2], f64)| {
                    (-0.5 * ((x - dx).powi(2) + (y - dy).powi(2)) / radius.powi(2)).exp()
                };
                let density: f64 = self.parts.iter().map(part).sum();
                f64::from(old) * (1.0 - self.share * density.min(1.0))
            }),
            Defect::Faded => {
                let within = |index: usize| {
                    let offset = [index % canvas.side, index / canvas.side].map(|at| at as f64 + 0.5);
                    ellipse([offset[0] - place[0], offset[1] - place[1]], 2.0)
                };
                let shares: Vec<f64> = (0..canvas.side * canvas.side).map(within).collect();
                let mean = |plane: &Vec<f32>| {
                    let weighted: f64 = shares.iter().zip(plane).map(|(share, &level)| share * f64::from(level)).sum();
                    weighted / shares.iter().sum::<f64>()
                };
                let means: Vec<f64> = canvas.planes.iter().map(mean).collect();
                let colour = std::array::from_fn(|plane| means[plane % means.len()]);
                canvas.cover(place, colour, |offset| self.share * ellipse(offset, 2.0));
            }
            Defect::Misprint => {
                for index in 0..canvas.side * canvas.side {
                    let offset = [index % canvas.side, index / canvas.side].map(|at| at as f64 + 0.5);
                    if (offset[0] - place[0]).abs() <= length && (offset[1] - place[1]).abs() <= breadth {
                        for (plane, foreign) in canvas.planes.iter_mut().zip(&foreign.planes) {
                            plane[index] = foreign[index];
                        }
                    }
                }
            }
            Defect::Twist => {
                let whole = canvas.clone();
                for (plane, levels) in canvas.planes.iter_mut().enumerate() {
                    for (index, level) in levels.iter_mut().enumerate() {
                        let [x, y] = [index % whole.side, index / whole.side].map(|at| at as f64 + 0.5);
                        let offset = [x - place[0], y - place[1]];
                        let depth = 1.0 - offset[0].hypot(offset[1]) / length;
                        if depth > 0.0 {
                            let [dx, dy] = turned(offset, (self.share * depth).sin_cos().into());
                            *level = whole.sample(plane, [place[0] + dx, place[1] + dy]) as f32;
                        }
                    }
                }
            }
            Defect::Missing | Defect::Nick | Defect::Turned => {}
        }
        canvas.quantise();
    }
}

/// A line between two places.
type Segment = [[f64; 2]; 2];

/// A line of random turns through `place`, about twice `length` long, with a branch from its middle.
fn course(place: [f64; 2], slant: f64, length: f64, stream: &mut Stream) -> Vec<Segment> {
    const TURNS: usize = 4;
    let mut walk = |mut at: [f64; 2], mut angle: f64| {
        let mut segments = Vec::new();
        for _ in 0..TURNS {
            angle += 1.2 * (stream.uniform() - 0.5);
            let step = length / TURNS as f64;
            let next = [at[0] + step * angle.cos(), at[1] + step * angle.sin()];
            segments.push([at, next]);
            at = next;
        }
        segments
    };
    let mut segments = walk(place, slant);
    segments.extend(walk(place, slant + PI));
    segments.extend(walk(place, slant + 0.8));
    segments
}

/// The distance of a place from a line.
fn distance([x, y]: [f64; 2], [from, to]: Segment) -> f64 {
    let [dx, dy] = [to[0] - from[0], to[1] - from[1]];
    let share = (((x - from[0]) * dx + (y - from[1]) * dy) / (dx * dx + dy * dy)).clamp(0.0, 1.0);
    (x - blend(from[0], to[0], share)).hypot(y - blend(from[1], to[1], share))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The second moments of a slash give its direction.
    #[test]
    fn a_slash_has_the_requested_slant() {
        for slant in [0.0, 0.9, 2.0] {
            let look = Look::draw(Defect::Slash, Some(slant), 32, 0);
            let blank = Canvas { side: 32, planes: vec![vec![1.0; 1024]] };
            let mut canvas = blank.clone();
            look.paint(&mut canvas, &blank, &mut Stream::new(4, 0));
            let dark: Vec<[f64; 2]> = (0..1024)
                .filter(|&index| canvas.planes[0][index] < 0.5)
                .map(|index| [(index % 32) as f64, (index / 32) as f64])
                .collect();
            let count = dark.len() as f64;
            assert!((30.0..90.0).contains(&count), "an ellipse of 14×5 pixels has 55, not {count}");
            let mean = [0, 1].map(|axis| dark.iter().map(|place| place[axis]).sum::<f64>() / count);
            let moment = |one: usize, other: usize| {
                dark.iter().map(|place| (place[one] - mean[one]) * (place[other] - mean[other])).sum::<f64>()
            };
            let found = 0.5 * (2.0 * moment(0, 1)).atan2(moment(0, 0) - moment(1, 1));
            let apart = (found - slant).rem_euclid(PI);
            assert!(apart.min(PI - apart) < 0.15, "{found} is not {slant}");
        }
    }
}
