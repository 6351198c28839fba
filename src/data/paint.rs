//! Packaged photographs of textures with painted defects: industrial anomalies with known masks.

use std::f64::consts::{PI, TAU};
use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::decode::{self, Channels, Conversion, Size};
use super::files::LeftOut;
use super::source::Listed;
use super::{BadImage, DataError, Images, Loading, Set, Task};
use crate::engine::philox::Stream;
use crate::engine::tensor::Tensor;

/// Crops of a packaged photograph, some with a painted defect. Within a task, defects differ only in their random position.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Texture {
    pub texture: Photograph,
    pub defect: Defect,
    /// The direction of a slash or scratch in radians, from the direction of the rows towards that of the columns; random if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slant: Option<f64>,
}

/// A packaged photograph, 512×512 grey; see `assets/README.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Photograph {
    Brick,
    Gravel,
}

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
    /// A rectangle copied from elsewhere in the photograph.
    Misprint,
    /// A dark, slender ellipse with a fixed direction.
    Slash,
}

/// Default numbers of training images, normal test images and anomalies.
const COUNTS: [usize; 3] = [300, 100, 100];
/// Most images of a kind; they are all kept in memory.
const MOST: usize = 100_000;
/// Default side of a crop, in pixels.
const SIDE: usize = 32;
/// The photograph is divided like a chessboard into fields of this side. Training crops lie in the dark fields and test crops in the
/// bright ones, so they share no pixel, but both cover the whole photograph.
const FIELD: usize = 128;
/// A pixel belongs to the mask if the defect changes it by at least this share of the range from black to white.
const NOTICEABLE: f32 = 0.04;

const LOOK_STREAM: u32 = 0x9a10;
const TRAIN_STREAM: u32 = 0x9a11;
const NORMAL_STREAM: u32 = 0x9a12;
const ANOMALY_STREAM: u32 = 0x9a13;

impl fmt::Display for Photograph {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.to_possible_value().expect("no variant is hidden").get_name())
    }
}

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.to_possible_value().expect("no variant is hidden").get_name())
    }
}

/// A square grey image with levels from 0 to 1, row by row.
#[derive(Clone, Debug, PartialEq)]
struct Canvas {
    side: usize,
    levels: Vec<f32>,
}

impl Photograph {
    fn canvas(self) -> Result<Canvas, DataError> {
        let bytes: &[u8] = match self {
            Photograph::Brick => include_bytes!("../../assets/textures/brick.png"),
            Photograph::Gravel => include_bytes!("../../assets/textures/gravel.png"),
        };
        let photograph = decode::decode(bytes, decode::MAX_PIXELS).map_err(|reason| DataError::BadImages {
            bad: vec![BadImage { path: format!("assets/textures/{self}.png").into(), reason }],
            of: 1,
        })?;
        let side = photograph.width() as usize;
        let whole = Conversion { size: Size::square(side), ..Conversion::default() };
        Ok(Canvas { side, levels: whole.apply(&photograph) })
    }
}

/// Which fields of the chessboard a crop may lie in.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fields {
    Train = 0,
    Test = 1,
}

impl Canvas {
    /// A random square of `side` pixels in one of the fields.
    fn crop(&self, side: usize, fields: Fields, stream: &mut Stream) -> Canvas {
        let columns = self.side / FIELD;
        let half = columns * columns / 2;
        let field = stream.below(half);
        let (row, pair) = (field / (columns / 2), field % (columns / 2));
        let column = 2 * pair + (row + fields as usize) % 2;
        let (left, top) =
            (column * FIELD + stream.below(FIELD - side + 1), row * FIELD + stream.below(FIELD - side + 1));
        let row = |y: usize| &self.levels[(top + y) * self.side + left..][..side];
        Canvas { side, levels: (0..side).flat_map(row).copied().collect() }
    }

    /// Replaces each level by `level` of the old level and the offset of the pixel's centre from `place`.
    fn paint(&mut self, place: [f64; 2], level: impl Fn(f32, [f64; 2]) -> f64) {
        for y in 0..self.side {
            for x in 0..self.side {
                let offset = [x as f64 + 0.5 - place[0], y as f64 + 0.5 - place[1]];
                let old = &mut self.levels[y * self.side + x];
                *old = level(*old, offset).clamp(0.0, 1.0) as f32;
            }
        }
    }

    /// Rounds the levels to 8 bits.
    fn quantise(&mut self) {
        for level in &mut self.levels {
            *level = (*level * 255.0).round() / 255.0;
        }
    }
}

/// The random appearance that all defects of a task share. Lengths are in pixels.
#[derive(Clone, Debug)]
struct Look {
    defect: Defect,
    slant: f64,
    /// Half of the length and half of the width.
    extent: [f64; 2],
    /// The level of a blob, slash or scratch, or the share by which a stain darkens.
    level: f64,
    /// Offsets and radii of the parts of a stain.
    parts: Vec<([f64; 2], f64)>,
}

impl Look {
    fn draw(texture: &Texture, side: usize, seed: u64) -> Self {
        let mut stream = Stream::new(seed, LOOK_STREAM);
        let mut between = |low: f64, high: f64| low + (high - low) * stream.uniform();
        let slant = between(0.0, PI);
        let size = side as f64;
        let (extent, level) = match texture.defect {
            Defect::Scratch => {
                let level = if between(0.0, 1.0) < 0.5 { 0.95 } else { 0.05 };
                ([between(0.25, 0.35) * size, (0.02 * size).max(0.75)], level)
            }
            Defect::Blob => ([between(0.12, 0.18) * size, between(0.10, 0.14) * size], 0.08),
            Defect::Stain => ([0.12 * size; 2], between(0.45, 0.6)),
            Defect::Faded => ([between(0.22, 0.28) * size; 2], 0.85),
            Defect::Misprint => ([between(0.16, 0.22) * size, between(0.16, 0.22) * size], 0.0),
            Defect::Slash => ([14.0 / 64.0 * size, 5.0 / 64.0 * size], 0.1),
        };
        let mut part = || {
            let (angle, distance) = (between(0.0, TAU), between(0.05, 0.14) * size);
            ([distance * angle.cos(), distance * angle.sin()], between(0.05, 0.09) * size)
        };
        let parts = (0..5).map(|_| part()).collect();
        Look { defect: texture.defect, slant: texture.slant.unwrap_or(slant), extent, level, parts }
    }

    /// Paints the defect at a random position, with its centre well inside the image; a misprint copies `foreign`.
    fn paint(&self, canvas: &mut Canvas, foreign: &Canvas, stream: &mut Stream) {
        let side = canvas.side as f64;
        let place = [0, 1].map(|_| side * (0.2 + 0.6 * stream.uniform()));
        let [length, breadth] = self.extent;
        let (sin, cos) = self.slant.sin_cos();
        let turned = move |[x, y]: [f64; 2]| [x * cos + y * sin, y * cos - x * sin];
        // Coverage of a pixel by an ellipse: 1 inside, 0 outside, in between near its edge.
        let ellipse = move |offset: [f64; 2], soft: f64| {
            let [along, across] = turned(offset);
            let radius = (along / length).hypot(across / breadth);
            ((1.0 - radius) * breadth / soft + 0.5).clamp(0.0, 1.0)
        };
        let blend = |old: f32, new: f64, share: f64| f64::from(old) * (1.0 - share) + new * share;
        match self.defect {
            Defect::Scratch => canvas.paint(place, |old, offset| {
                let [along, across] = turned(offset);
                let inside = |distance: f64, half: f64| (half - distance.abs() + 0.5).clamp(0.0, 1.0);
                blend(old, self.level, inside(along, length) * inside(across, breadth))
            }),
            Defect::Blob => canvas.paint(place, |old, offset| blend(old, self.level, ellipse(offset, 0.5 * breadth))),
            Defect::Slash => canvas.paint(place, |old, offset| blend(old, self.level, ellipse(offset, 1.0))),
            Defect::Stain => canvas.paint(place, |old, [x, y]| {
                let part = |([dx, dy], radius): &([f64; 2], f64)| {
                    (-0.5 * ((x - dx).powi(2) + (y - dy).powi(2)) / radius.powi(2)).exp()
                };
                let density: f64 = self.parts.iter().map(part).sum();
                f64::from(old) * (1.0 - self.level * density.min(1.0))
            }),
            Defect::Faded => {
                let within = |index: usize| {
                    let offset = [index % canvas.side, index / canvas.side].map(|at| at as f64 + 0.5);
                    ellipse([offset[0] - place[0], offset[1] - place[1]], 2.0)
                };
                let shares: Vec<f64> = (0..canvas.levels.len()).map(within).collect();
                let weighted: f64 =
                    shares.iter().zip(&canvas.levels).map(|(share, &level)| share * f64::from(level)).sum();
                let mean = weighted / shares.iter().sum::<f64>();
                canvas.paint(place, |old, offset| blend(old, mean, self.level * ellipse(offset, 2.0)));
            }
            Defect::Misprint => {
                for (index, level) in canvas.levels.iter_mut().enumerate() {
                    let offset = [index % canvas.side, index / canvas.side].map(|at| at as f64 + 0.5);
                    if (offset[0] - place[0]).abs() <= length && (offset[1] - place[1]).abs() <= breadth {
                        *level = foreign.levels[index];
                    }
                }
            }
        }
        canvas.quantise();
    }
}

impl Texture {
    pub(super) fn check(&self, loading: &Loading) -> Result<(), DataError> {
        let size = loading.size.unwrap_or(Size::square(SIDE));
        if !(8..=FIELD).contains(&size.height) || size.height != size.width {
            return Err(DataError::Setting(format!(
                "--size is {size}: it must be a side from 8 to {FIELD} pixels for painted textures"
            )));
        }
        let counts = [loading.max_train, loading.max_normals, loading.max_anomalies];
        if let Some(count) = counts.into_iter().flatten().find(|&count| count > MOST) {
            return Err(DataError::Setting(format!(
                "{count} painted images are too many: use at most {MOST} of a kind"
            )));
        }
        match self.slant.filter(|slant| !slant.is_finite()) {
            Some(slant) => {
                Err(DataError::Setting(format!("--slant is {slant}: it must be an angle in radians, such as 0.9")))
            }
            None => Ok(()),
        }
    }

    pub(super) fn list(&self, loading: &Loading) -> Result<Listed, DataError> {
        let conversion = loading.conversion(SIDE, Channels::Grey);
        let side = conversion.size.height;
        let photograph = self.texture.canvas()?;
        let [train, normals, anomalies] = [loading.max_train, loading.max_normals, loading.max_anomalies];
        let counts = [train.unwrap_or(COUNTS[0]), normals.unwrap_or(COUNTS[1]), anomalies.unwrap_or(COUNTS[2])];
        let clean = |count: usize, fields: Fields, stream: u32| -> Vec<(Canvas, Vec<bool>)> {
            let mut stream = Stream::new(loading.seed, stream);
            (0..count).map(|_| (photograph.crop(side, fields, &mut stream), vec![false; side * side])).collect()
        };
        let look = Look::draw(self, side, loading.seed);
        let mut stream = Stream::new(loading.seed, ANOMALY_STREAM);
        let painted = (0..counts[2]).map(|_| self.painted(&photograph, side, &look, &mut stream)).collect();
        let set = |images: Vec<(Canvas, Vec<bool>)>, name: &str, kind: &str, anomalous: bool| {
            let levels = images.iter().flat_map(|(canvas, _)| canvas.levels.iter().copied());
            let grey = Tensor::new([images.len(), 1, side, side], levels.collect());
            let masks = images.into_iter().map(|(_, mask)| Some(mask)).collect();
            Set::of_class(Images::with_masks(coloured(grey, conversion.channels), masks), name, kind, anomalous)
        };
        let defect = self.defect.to_string();
        let train = set(clean(counts[0], Fields::Train, TRAIN_STREAM), "train/good", "good", false);
        let normals = set(clean(counts[1], Fields::Test, NORMAL_STREAM), "test/good", "good", false);
        let anomalies = set(painted, &format!("test/{defect}"), &defect, true);
        let task = Task {
            dataset: "texture".to_owned(),
            category: format!("{}-{defect}", self.texture),
            train,
            held_out: None,
            tune: None,
            test: normals.join(anomalies),
        };
        Ok(Listed { task, conversion, left_out: LeftOut::default() })
    }

    /// A crop with the defect, and its mask. A position where the defect is hardly visible, such as a dark blob on a dark joint, is
    /// drawn again.
    fn painted(&self, photograph: &Canvas, side: usize, look: &Look, stream: &mut Stream) -> (Canvas, Vec<bool>) {
        const TRIES: usize = 20;
        let mut most = 0;
        let mut best = None;
        for _ in 0..TRIES {
            let clean = photograph.crop(side, Fields::Test, stream);
            let foreign = photograph.crop(side, Fields::Test, stream);
            let mut canvas = clean.clone();
            look.paint(&mut canvas, &foreign, stream);
            let changed = canvas.levels.iter().zip(&clean.levels);
            let mask: Vec<bool> = changed.map(|(new, old)| (new - old).abs() >= NOTICEABLE).collect();
            let count = mask.iter().filter(|&&covered| covered).count();
            if best.is_none() || count > most {
                (most, best) = (count, Some((canvas, mask)));
            }
            if 100 * count >= side * side {
                break;
            }
        }
        best.expect("at least one try")
    }
}

/// Copies the channel of grey images to all channels.
fn coloured(grey: Tensor, channels: Channels) -> Tensor {
    let mut shape = grey.shape().to_vec();
    let plane = shape[2] * shape[3];
    shape[1] = channels.count();
    let data = grey.data().chunks_exact(plane).flat_map(|image| std::iter::repeat_n(image, shape[1])).flatten();
    Tensor::new(shape.clone(), data.copied().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn task(texture: Photograph, defect: Defect, seed: u64) -> Task {
        let few = Some(12);
        let loading = Loading { max_train: few, max_normals: few, max_anomalies: few, seed, ..Loading::default() };
        Texture { texture, defect, slant: None }.list(&loading).unwrap().task
    }

    fn shapes() -> impl Iterator<Item = (Photograph, Defect)> {
        let defects = Defect::value_variants();
        Photograph::value_variants().iter().flat_map(move |&photo| defects.iter().map(move |&defect| (photo, defect)))
    }

    #[test]
    fn every_defect_is_visible_and_has_a_mask() {
        for (texture, defect) in shapes() {
            let task = task(texture, defect, 1);
            assert_eq!(task.category, format!("{texture}-{defect}"));
            for row in task.test.rows(Some(true)) {
                let covered =
                    task.test.images.mask(row).unwrap().unwrap().into_iter().filter(|&covered| covered).count();
                assert!((8..400).contains(&covered), "{}: {covered} of 1024 pixels", task.test.names[row]);
            }
            for row in task.test.rows(Some(false)) {
                assert_eq!(task.test.images.mask(row).unwrap(), Some(vec![false; 1024]));
            }
        }
    }

    #[test]
    fn painted_images_depend_only_on_the_seed() {
        for (texture, defect) in shapes() {
            let print = |seed| task(texture, defect, seed).fingerprint().unwrap();
            assert_eq!(print(2), print(2));
            assert_ne!(print(2), print(3));
        }
        let clean = |defect| task(Photograph::Brick, defect, 2).train.images.all().unwrap();
        assert_eq!(clean(Defect::Blob), clean(Defect::Slash), "training shows nothing of the defect");
    }

    /// The level of each pixel is its position in the photograph.
    #[test]
    fn training_and_test_crops_share_no_pixel() {
        let places = Canvas { side: 512, levels: (0..512 * 512).map(|place| place as f32).collect() };
        let seen = |fields: Fields, side: usize| -> BTreeSet<u32> {
            let mut stream = Stream::new(0, 0);
            (0..200).flat_map(|_| places.crop(side, fields, &mut stream).levels).map(|place| place as u32).collect()
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

    /// The second moments of a slash give its direction.
    #[test]
    fn a_slash_has_the_requested_slant() {
        for slant in [0.0, 0.9, 2.0] {
            let look =
                Look::draw(&Texture { texture: Photograph::Brick, defect: Defect::Slash, slant: Some(slant) }, 32, 0);
            let blank = Canvas { side: 32, levels: vec![1.0; 1024] };
            let mut canvas = blank.clone();
            look.paint(&mut canvas, &blank, &mut Stream::new(4, 0));
            let dark: Vec<[f64; 2]> = (0..1024)
                .filter(|&index| canvas.levels[index] < 0.5)
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

    #[test]
    fn impossible_paintings_are_refused() {
        let texture = Texture { texture: Photograph::Brick, defect: Defect::Blob, slant: None };
        let refused = |texture: Texture, size: &str| {
            let loading = Loading { size: Some(size.parse().unwrap()), ..Loading::default() };
            texture.check(&loading).unwrap_err().to_string()
        };
        for size in ["129", "4", "32,48"] {
            assert!(refused(texture, size).contains("it must be a side from 8 to 128 pixels for painted textures"));
        }
        assert!(refused(Texture { slant: Some(f64::NAN), ..texture }, "32").contains("it must be an angle in radians"));
        let many = Loading { max_normals: Some(MOST + 1), ..Loading::default() };
        assert!(texture.check(&many).unwrap_err().to_string().contains("use at most 100000 of a kind"));
    }

    #[test]
    fn other_sizes_and_channels_are_painted() {
        let texture = Texture { texture: Photograph::Gravel, defect: Defect::Stain, slant: None };
        let loading = Loading {
            size: Some(Size::square(64)),
            channels: Some(Channels::Rgb),
            max_train: Some(3),
            ..Loading::default()
        };
        let task = texture.list(&loading).unwrap().task;
        assert_eq!(&task.train.images.shape()[..], [3, 3, 64, 64]);
        let image = task.train.images.all().unwrap();
        assert_eq!(image.data()[..4096], image.data()[4096..8192]);
        assert!(task.test.images.mask(150).unwrap().unwrap().len() == 4096);
    }
}
