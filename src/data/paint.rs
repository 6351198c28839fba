//! Packaged materials and objects with painted defects: industrial anomalies with known masks.

mod canvas;
mod defect;
mod material;

use serde::{Deserialize, Serialize};

use self::canvas::Canvas;
pub use self::defect::Defect;
use self::defect::Look;
pub use self::material::Material;
use self::material::{FIELD, Fields, Source};
use super::decode::Size;
use super::files::LeftOut;
use super::source::Listed;
use super::{DataError, Images, Loading, Set, Task};
use crate::engine::philox::Stream;
use crate::engine::tensor::Tensor;

/// Images of a packaged material, some with a painted defect. Within a task, defects differ only in their random position.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Texture {
    pub texture: Material,
    pub defect: Defect,
    /// The direction of a slash or scratch in radians, from the direction of the rows towards that of the columns; random if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slant: Option<f64>,
    /// How much of the defect shows, above 0 and up to 1 (the default): levels are those of the clean image, this share of the way to
    /// those of the defect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strength: Option<f64>,
}

/// Default numbers of training images, normal test images and anomalies.
const COUNTS: [usize; 3] = [300, 100, 100];
/// Most images of a kind; they are all kept in memory.
const MOST: usize = 100_000;
/// Default side of an image, in pixels.
const SIDE: usize = 32;
/// A pixel belongs to the mask if the defect changes it by at least this share of the range from black to white.
const NOTICEABLE: f32 = 0.04;

const TRAIN_STREAM: u32 = 0x9a11;
const NORMAL_STREAM: u32 = 0x9a12;
const ANOMALY_STREAM: u32 = 0x9a13;

impl Texture {
    /// With a random slant and at full strength.
    pub const fn new(texture: Material, defect: Defect) -> Self {
        Texture { texture, defect, slant: None, strength: None }
    }

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
        if self.defect.is_of_shape() && !self.texture.is_object() {
            return Err(DataError::Setting(format!(
                "{} has no parts that could be {}: use --texture washer or plate, or another --defect",
                self.texture, self.defect
            )));
        }
        if self.defect == Defect::Turned && self.texture == Material::Washer {
            return Err(DataError::Setting("a turned washer looks like any other: use --texture plate".into()));
        }
        if let Some(strength) = self.strength.filter(|&strength| !(strength > 0.0 && strength <= 1.0)) {
            return Err(DataError::Setting(format!("--strength is {strength}: it must be above 0 and at most 1")));
        }
        match self.slant.filter(|slant| !slant.is_finite()) {
            Some(slant) => {
                Err(DataError::Setting(format!("--slant is {slant}: it must be an angle in radians, such as 0.9")))
            }
            None => Ok(()),
        }
    }

    pub(super) fn list(&self, loading: &Loading) -> Result<Listed, DataError> {
        let conversion = loading.conversion(SIDE, self.texture.channels());
        let (side, channels) = (conversion.size.height, conversion.channels.count());
        let source = self.texture.source()?;
        let [train, normals, anomalies] = [loading.max_train, loading.max_normals, loading.max_anomalies];
        let counts = [train.unwrap_or(COUNTS[0]), normals.unwrap_or(COUNTS[1]), anomalies.unwrap_or(COUNTS[2])];
        let clean = |count: usize, fields: Fields, stream: u32| -> Vec<(Canvas, Vec<bool>)> {
            let mut stream = Stream::new(loading.seed, stream);
            (0..count).map(|_| (source.image(side, fields, None, &mut stream), vec![false; side * side])).collect()
        };
        let look = Look::draw(self.defect, self.slant, side, loading.seed);
        let mut stream = Stream::new(loading.seed, ANOMALY_STREAM);
        let painted = (0..counts[2]).map(|_| self.painted(&source, side, &look, &mut stream)).collect();
        let set = |images: Vec<(Canvas, Vec<bool>)>, name: &str, kind: &str, anomalous: bool| {
            let (canvases, masks): (Vec<Canvas>, Vec<Vec<bool>>) = images.into_iter().unzip();
            let shape = [canvases.len(), channels, side, side];
            let levels = canvases.into_iter().flat_map(|canvas| canvas.into_channels(channels)).collect();
            let masks = masks.into_iter().map(Some).collect();
            Set::of_class(Images::with_masks(Tensor::new(shape, levels), masks), name, kind, anomalous)
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

    /// An image with the defect, and its mask. A position where the defect is hardly visible, such as a dark blob on a dark joint, is
    /// drawn again.
    fn painted(&self, source: &Source, side: usize, look: &Look, stream: &mut Stream) -> (Canvas, Vec<bool>) {
        const TRIES: usize = 20;
        let mut most = 0;
        let mut best = None;
        for _ in 0..TRIES {
            let before = stream.clone();
            let clean = source.image(side, Fields::Test, None, stream);
            let mut canvas = clean.clone();
            if self.defect.is_of_shape() {
                // The same object, but for its defect.
                *stream = before;
                canvas = source.image(side, Fields::Test, Some(self.defect), stream);
            }
            let foreign = source.image(side, Fields::Test, None, stream);
            look.paint(&mut canvas, &foreign, stream);
            if let Some(strength) = self.strength {
                canvas.fade_to(&clean, strength);
            }
            let differs = |index: usize| {
                canvas.planes.iter().zip(&clean.planes).any(|(new, old)| (new[index] - old[index]).abs() >= NOTICEABLE)
            };
            let mask: Vec<bool> = (0..side * side).map(differs).collect();
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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    use crate::data::decode::Channels;

    fn task(texture: Material, defect: Defect, seed: u64) -> Task {
        let few = Some(12);
        let loading = Loading { max_train: few, max_normals: few, max_anomalies: few, seed, ..Loading::default() };
        Texture::new(texture, defect).list(&loading).unwrap().task
    }

    /// Every defect of every material that can have it.
    fn shapes() -> impl Iterator<Item = (Material, Defect)> {
        let of = |&texture: &Material| Defect::value_variants().iter().map(move |&defect| (texture, defect));
        let is_possible =
            |&(texture, defect): &(Material, Defect)| Texture::new(texture, defect).check(&Loading::default()).is_ok();
        Material::value_variants().iter().flat_map(of).filter(is_possible)
    }

    #[test]
    fn every_defect_is_visible_and_has_a_mask() {
        for (texture, defect) in shapes() {
            let task = task(texture, defect, 1);
            let defect = defect.to_string();
            assert_eq!(task.category, format!("{texture}-{defect}"));
            for row in task.test.rows(Some(true)) {
                let covered =
                    task.test.images.mask(row).unwrap().unwrap().into_iter().filter(|&covered| covered).count();
                assert!((8..700).contains(&covered), "{}: {covered} of 1024 pixels", task.test.names[row]);
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
        let clean = |defect| task(Material::Brick, defect, 2).train.images.all().unwrap();
        assert_eq!(clean(Defect::Blob), clean(Defect::Slash), "training shows nothing of the defect");
    }

    #[test]
    fn impossible_paintings_are_refused() {
        let texture = Texture::new(Material::Brick, Defect::Blob);
        let refused = |texture: Texture, size: &str| {
            let loading = Loading { size: Some(size.parse().unwrap()), ..Loading::default() };
            texture.check(&loading).unwrap_err().to_string()
        };
        for (material, defect) in [(Material::Brick, Defect::Missing), (Material::Wood, Defect::Turned)] {
            let found = refused(Texture::new(material, defect), "32");
            assert!(found.contains("use --texture washer or plate"), "{found}");
        }
        let turned = Texture::new(Material::Washer, Defect::Turned);
        assert!(refused(turned, "32").contains("use --texture plate"));
        for size in ["129", "4", "32,48"] {
            assert!(refused(texture, size).contains("it must be a side from 8 to 128 pixels for painted textures"));
        }
        assert!(refused(Texture { slant: Some(f64::NAN), ..texture }, "32").contains("it must be an angle in radians"));
        for strength in [0.0, -0.5, 1.5, f64::NAN] {
            let refused = refused(Texture { strength: Some(strength), ..texture }, "32");
            assert!(refused.contains("it must be above 0 and at most 1"), "{refused}");
        }
        let many = Loading { max_normals: Some(MOST + 1), ..Loading::default() };
        assert!(texture.check(&many).unwrap_err().to_string().contains("use at most 100000 of a kind"));
    }

    /// Fingerprints of the tasks that figures were published of first, so that later figures can be compared with them.
    #[test]
    fn earlier_tasks_are_painted_as_before() {
        let prints = [
            (Material::Brick, Defect::Scratch, "82a4e5a8b0372ef2f6835a4e68e1294c"),
            (Material::Gravel, Defect::Scratch, "c81c5d1f7f03683012c7452962ad9876"),
            (Material::Brick, Defect::Stain, "40bbf4e52371bdb59dbc6b9389a24931"),
            (Material::Gravel, Defect::Stain, "727b21fbbc7e97e085e28fdf65a91ae1"),
            (Material::Brick, Defect::Faded, "de886ed63e59eacd07da57724d6d8c33"),
            (Material::Gravel, Defect::Faded, "8b4af7e978d05b64e147d907b1032ec1"),
            (Material::Brick, Defect::Misprint, "97f08ea02d111ba1500fdba3a2ef18d5"),
            (Material::Gravel, Defect::Misprint, "1b3a539ac414e859af0f6cc38eeee144"),
        ];
        for (texture, defect, print) in prints {
            assert_eq!(task(texture, defect, 3).fingerprint().unwrap(), print, "{texture}-{defect}");
        }
    }

    /// By hand for each level; the bound is half a level of 256.
    #[test]
    fn a_weak_defect_is_a_share_of_the_strong_one() {
        let loading =
            Loading { max_train: Some(1), max_normals: Some(1), max_anomalies: Some(1), ..Loading::default() };
        let image = |defect: Defect, strength: Option<f64>| {
            let texture = Texture { strength, ..Texture::new(Material::Wood, defect) };
            texture.list(&loading).unwrap().task.test.images.read(&[1]).unwrap().into_data()
        };
        for defect in [Defect::Bleach, Defect::Ink] {
            let [full, half, weak] = [None, Some(0.5), Some(0.001)].map(|strength| image(defect, strength));
            assert_eq!(full, image(defect, Some(1.0)));
            let changed = full.iter().zip(&weak).filter(|(full, weak)| (*full - *weak).abs() > 0.1).count();
            assert!(changed > 30, "{defect} changes {changed} levels");
            for ((full, half), clean) in full.iter().zip(&half).zip(&weak) {
                assert!((half - 0.5 * (full + clean)).abs() <= 0.51 / 255.0, "{defect}: {clean} {half} {full}");
            }
        }
    }

    #[test]
    fn colours_become_grey_where_grey_is_asked_for() {
        let task = |channels| {
            let loading = Loading { channels, max_train: Some(2), ..Loading::default() };
            Texture::new(Material::Weave, Defect::Rust).list(&loading).unwrap().task
        };
        let [grey, colour] = [task(Some(Channels::Grey)), task(None)].map(|task| task.train.images.all().unwrap());
        assert_eq!((&grey.shape()[..], &colour.shape()[..]), (&[2, 1, 32, 32][..], &[2, 3, 32, 32][..]));
        let [red, green, blue] = [0, 1, 2].map(|plane| f64::from(colour.data()[1024 * plane]));
        let luma = 0.299 * red + 0.587 * green + 0.114 * blue;
        assert!((f64::from(grey.data()[0]) - luma).abs() < 1e-4, "{} {luma}", grey.data()[0]);
    }

    #[test]
    fn other_sizes_and_channels_are_painted() {
        let texture = Texture::new(Material::Gravel, Defect::Stain);
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
