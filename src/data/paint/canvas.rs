//! A small image that is painted on.

use crate::data::decode::LUMA;

/// A square image with levels from 0 to 1, plane by plane and row by row: one plane of grey, or three of red, green and blue.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Canvas {
    pub side: usize,
    pub planes: Vec<Vec<f32>>,
}

/// Red, green and blue, from 0 to 1.
pub(super) type Colour = [f64; 3];

/// Grey of this level.
pub(super) const fn grey(level: f64) -> Colour {
    [level; 3]
}

/// The grey that a colour image in grey shows of a colour.
fn luma(colour: Colour) -> f64 {
    // Grey stays as it is, whatever the rounding.
    let is_grey = colour.iter().all(|&level| level == colour[0]);
    if is_grey { colour[0] } else { colour.iter().zip(LUMA).map(|(level, weight)| level * weight).sum() }
}

/// `old` covered by `new` to this share.
pub(super) fn blend(old: f64, new: f64, share: f64) -> f64 {
    old * (1.0 - share) + new * share
}

/// How much of a pixel is covered by a shape whose edge lies so many pixels further out.
pub(super) fn covered(depth: f64) -> f64 {
    (depth + 0.5).clamp(0.0, 1.0)
}

/// `[x, y]` in the axes of a direction: along it, and across.
pub(super) fn turned([x, y]: [f64; 2], [sin, cos]: [f64; 2]) -> [f64; 2] {
    [x * cos + y * sin, y * cos - x * sin]
}

impl Canvas {
    /// A colour image of one colour.
    pub fn blank(side: usize, colour: Colour) -> Self {
        Canvas { side, planes: colour.iter().map(|&level| vec![level as f32; side * side]).collect() }
    }

    /// The level of a colour in a plane.
    fn level(&self, colour: Colour, plane: usize) -> f64 {
        if self.planes.len() == 1 { luma(colour) } else { colour[plane] }
    }

    /// Covers each pixel with a colour, to a share that depends on the offset of its centre from `place`, in pixels.
    pub fn cover(&mut self, place: [f64; 2], colour: Colour, share: impl Fn([f64; 2]) -> f64) {
        for plane in 0..self.planes.len() {
            let level = self.level(colour, plane);
            self.paint_plane(plane, place, |old, offset| blend(f64::from(old), level, share(offset)));
        }
    }

    /// Replaces each level by `level` of the old one and the offset of the pixel's centre from `place`, in pixels.
    pub fn paint(&mut self, place: [f64; 2], level: impl Fn(f32, [f64; 2]) -> f64) {
        (0..self.planes.len()).for_each(|plane| self.paint_plane(plane, place, &level));
    }

    fn paint_plane(&mut self, plane: usize, place: [f64; 2], level: impl Fn(f32, [f64; 2]) -> f64) {
        let side = self.side;
        for (index, old) in self.planes[plane].iter_mut().enumerate() {
            let [x, y] = [index % side, index / side].map(|at| at as f64 + 0.5);
            *old = level(*old, [x - place[0], y - place[1]]).clamp(0.0, 1.0) as f32;
        }
    }

    /// Moves each level towards that of a clean image, so that this share of the difference is left.
    pub fn fade_to(&mut self, clean: &Canvas, share: f64) {
        for (level, &clean) in self.planes.iter_mut().flatten().zip(clean.planes.iter().flatten()) {
            *level = blend(f64::from(clean), f64::from(*level), share) as f32;
        }
        self.quantise();
    }

    /// The level of a plane at a place in pixels, between pixels by bilinear interpolation, beyond the edge by that of the edge.
    pub fn sample(&self, plane: usize, [x, y]: [f64; 2]) -> f64 {
        let last = (self.side - 1) as f64;
        let [x, y] = [x, y].map(|at| (at - 0.5).clamp(0.0, last));
        let [left, top] = [x, y].map(f64::floor);
        let at =
            |x: f64, y: f64| f64::from(self.planes[plane][y.min(last) as usize * self.side + x.min(last) as usize]);
        let row = |y: f64| blend(at(left, y), at(left + 1.0, y), x - left);
        blend(row(top), row(top + 1.0), y - top)
    }

    /// Rounds the levels to 8 bits.
    pub fn quantise(&mut self) {
        for level in self.planes.iter_mut().flatten() {
            *level = (*level * 255.0).round() / 255.0;
        }
    }

    /// The levels plane by plane, as an image of so many channels.
    pub fn into_channels(self, channels: usize) -> Vec<f32> {
        match (self.planes.len(), channels) {
            (1, _) => std::iter::repeat_n(&self.planes[0], channels).flatten().copied().collect(),
            (3, 1) => {
                let [red, green, blue] = [0, 1, 2].map(|plane| &self.planes[plane]);
                let pixels = red.iter().zip(green).zip(blue);
                pixels.map(|((&r, &g), &b)| luma([r, g, b].map(f64::from)) as f32).collect()
            }
            _ => self.planes.concat(),
        }
    }
}
