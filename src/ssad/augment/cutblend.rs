//! CutBlend: a soft patch of a colour of its own, all of it tuned.

use super::{Augmentation, PATCH, Setting, UNBOUNDED, coordinates, ends, logarithms, random_patch, stream};
use crate::engine::ops::elementwise::Unary;
use crate::engine::tape::{Tape, Value};

/// x' = x + s · m · (c − x): a soft elliptical patch of colour c, translucent by the strength s. Dark, bright, coloured and faded
/// patches are points of it. `a` = \[log area, log aspect, angle, log softness, log strength, c₁, …\] with a level for each channel.
#[derive(Clone, Debug)]
pub struct CutBlend {
    /// Channels of the images.
    pub channels: usize,
}

/// Smallest and largest aspect: from a scratch to the same across.
const ASPECTS: [f32; 2] = [1.0 / 16.0, 16.0];
const AREAS: [f32; 2] = [1e-3, 0.6];
/// From a hard edge to a patch that is nowhere opaque; see [`disc_mask`](Tape::disc_mask).
const SOFTNESSES: [f32; 2] = [0.1, 2.0];
/// A patch of no strength would be the identity, the trivial minimum of the alignment loss.
const STRENGTHS: [f32; 2] = [0.15, 1.0];
/// Standard deviation of the images' levels around those of `a`.
const LEVEL_SPREAD: f64 = 0.05;

/// `x` with the colour `[1 or N, C]` blended into a soft disc, to the share `strength` `[1 or N, 1]`; the disc has map `matrix` `[1, 4]`
/// or `[N, 4]`, `centre` `[N, 2]` and `softness` `[1 or N, 1]`.
pub fn cutblend(
    t: &mut Tape,
    x: Value,
    [matrix, centre, softness]: [Value; 3],
    [strength, colour]: [Value; 2],
) -> Value {
    let [images, channels, height, width] = t.shape(x).images().expect("a batch of images");
    let matrix = t.broadcast(matrix, &[images, 4].into());
    let softness = t.broadcast(softness, &[images, 1].into());
    let mask = t.disc_mask(matrix, centre, softness, [height, width]);
    let strength = t.reshape(strength, [t.shape(strength)[0], 1, 1, 1]);
    let share = t.mul(mask, strength);
    let colour = t.reshape(colour, [t.shape(colour)[0], channels, 1, 1]);
    let change = t.sub(colour, x);
    let change = t.mul(change, share);
    t.add(x, change)
}

/// What the levels of images with so many channels are called in a [`Setting`].
pub fn level_names(channels: usize) -> Vec<String> {
    match channels {
        1 => vec!["level".into()],
        3 => ["red", "green", "blue"].map(String::from).into(),
        _ => (1..=channels).map(|channel| format!("level_{channel}")).collect(),
    }
}

impl CutBlend {
    /// An entry for each coordinate: area, aspect, angle, softness, strength, and one for each level.
    fn each<T: Clone>(&self, patch: [T; PATCH], softness: T, strength: T, level: T) -> Vec<T> {
        let levels = std::iter::repeat_n(level, self.channels);
        patch.into_iter().chain([softness, strength]).chain(levels).collect()
    }
}

impl Augmentation for CutBlend {
    fn name(&self) -> &str {
        "cutblend"
    }

    fn apply(&self, t: &mut Tape, x: Value, a: Value, key: Value) -> Value {
        let images = t.shape(x)[0];
        let [matrix, centre] = random_patch(t, x, a, key);
        let [softness, strength] = [PATCH, PATCH + 1].map(|index| {
            let log = coordinates(t, a, index, 1);
            t.unary(Unary::Exp, log)
        });
        let colour = coordinates(t, a, PATCH + 2, self.channels);
        let noise = t.normal(key, stream::COLOUR, [images, self.channels]);
        let noise = t.scale(noise, LEVEL_SPREAD as f32);
        let colour = t.add(colour, noise);
        let colour = t.unary(Unary::Clamp { low: 0.0, high: 1.0 }, colour);
        cutblend(t, x, [matrix, centre, softness], [strength, colour])
    }

    fn setting(&self, a: &[f32]) -> Setting {
        let mut setting = super::patch_setting(a);
        let [softness, strength] = [PATCH, PATCH + 1].map(|index| f64::from(a[index]).exp());
        setting.extend([("softness".to_owned(), softness), ("strength".to_owned(), strength)]);
        let levels = a[PATCH + 2..].iter().map(|&level| f64::from(level));
        setting.extend(level_names(self.channels).into_iter().zip(levels));
        setting
    }

    fn bounds(&self) -> [Vec<f32>; 2] {
        let patch = [logarithms(AREAS), logarithms(ASPECTS), UNBOUNDED];
        ends(&self.each(patch, logarithms(SOFTNESSES), logarithms(STRENGTHS), [0.0, 1.0]))
    }

    fn prior(&self) -> [Vec<f32>; 2] {
        let [area, aspect, angle] = super::PATCH_PRIOR;
        let patch = [logarithms(area), logarithms(aspect), angle];
        ends(&self.each(patch, logarithms([0.2, 1.0]), logarithms([0.3, 1.0]), [0.0, 1.0]))
    }

    fn rates(&self) -> Vec<f64> {
        self.each([0.06; PATCH], 0.06, 0.03, 0.03)
    }

    /// Slim dark and bright patches of two slants, and of the colours that images in colour may have.
    fn starts(&self) -> Vec<Vec<f32>> {
        let quarter = std::f32::consts::FRAC_PI_2;
        let look = |area: f32, angle: f32, colour: &[f32]| {
            let patch = [area.ln(), 3f32.ln(), angle];
            let mut start = self.each(patch, 0.5f32.ln(), 0.8f32.ln(), 0.0);
            start[PATCH + 2..].copy_from_slice(colour);
            start
        };
        let plain = [0.1, 0.9].map(|level| vec![level; self.channels]);
        let tinted: &[[f32; 3]] = if self.channels == 3 { &[[0.75, 0.35, 0.1], [0.1, 0.3, 0.8]] } else { &[] };
        let colours = plain.into_iter().chain(tinted.iter().map(|colour| colour.to_vec()));
        colours.flat_map(|colour| [look(0.05, 0.5, &colour), look(0.1, 0.5 + quarter, &colour)]).collect()
    }
}
