//! What a run found, in words: the kind of the anomalies, as the tuned augmentation imitates it and the flagged images show it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::data::{DataError, Images, Size};
use crate::run::evidence::Evidence;
use crate::ssad::augment::{Setting, level_names};

/// The kind of anomalies that an augmentation imitates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Darker than the material.
    Dark,
    /// Brighter than the material.
    Bright,
    /// Of another colour.
    Coloured,
    /// As bright as the material on average, without its structure.
    Faded,
    /// Like the material, but in the wrong place.
    Displaced,
    /// Turned as a whole.
    Turned,
}

/// What the anomalies are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Found {
    pub kind: Kind,
    /// The colour of patches of another colour, in a word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub colour: Option<String>,
    /// Length and width of a patch, in pixels of the images as the detector sees them; `None` if all of the image changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extent_pixels: Option<[f64; 2]>,
    /// The direction of slim anomalies in the flagged images, from 0° along the rows to 180°, clockwise as images are shown; or the
    /// angle of a rotation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub angle_degrees: Option<f64>,
    /// Of a direction its standard error over the images; of a rotation the largest difference from it among the starts that did about as
    /// well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub angle_error_degrees: Option<f64>,
    /// Unlabelled images that the threshold flags, and all of them; `None` without a threshold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flagged: Option<Flagged>,
    /// How many starts imitate this kind; `None` if no other did about as well as the chosen one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agreement: Option<Agreement>,
}

/// How many of the starts that did about as well, the chosen one among them, imitate the kind that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agreement {
    pub starts: usize,
    pub of: usize,
}

/// A start did about as well as the chosen one if its exceedance is at least this share of the chosen one's.
pub const ABOUT_AS_WELL: f64 = 0.9;

/// How many of the unlabelled images are flagged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flagged {
    pub images: usize,
    pub of: usize,
    /// Whether no more are flagged than chance explains if all are normal; then the kind says nothing.
    pub is_chance: bool,
}

/// The levels of normal images.
#[derive(Clone, Debug, PartialEq)]
pub struct NormalLevels {
    /// Of each channel, from 0 to 1.
    pub mean: Vec<f64>,
    /// Standard deviation of all levels around the mean of their channel.
    pub deviation: f64,
}

/// Images that the levels are taken from.
const SAMPLE: usize = 64;

impl NormalLevels {
    /// The levels of the first images of a set.
    ///
    /// # Errors
    /// When an image cannot be read.
    pub fn of(images: &Images) -> Result<Self, DataError> {
        let [count, channels, h, w] = images.shape();
        let sample = images.read(&(0..count.min(SAMPLE)).collect::<Vec<_>>())?;
        let planes: Vec<&[f32]> = sample.data().chunks_exact(h * w).collect();
        let of_channel = |channel: usize| planes.iter().skip(channel).step_by(channels).flat_map(|plane| plane.iter());
        let size = (planes.len() / channels * h * w) as f64;
        let mean: Vec<f64> = (0..channels)
            .map(|channel| of_channel(channel).map(|&level| f64::from(level)).sum::<f64>() / size)
            .collect();
        let square =
            |channel: usize| of_channel(channel).map(|&level| (f64::from(level) - mean[channel]).powi(2)).sum::<f64>();
        let variance = (0..channels).map(square).sum::<f64>() / (size * channels as f64);
        Ok(NormalLevels { deviation: variance.sqrt(), mean })
    }
}

/// A patch is slim if it is so many times as long as it is wide.
const SLIM: f64 = 2.0;

impl Found {
    /// What the augmentation `name` imitates at this setting, on images of this size; `None` for compositions, which imitate several
    /// things at once, and for methods without an augmentation.
    pub fn new(
        name: &str,
        setting: &Setting,
        Size { height, width }: Size,
        normal: &NormalLevels,
        flagged: Option<Flagged>,
    ) -> Option<Self> {
        let value = |key: &str| setting.get(key).copied();
        if name.contains('+') || setting.values().any(|value| !value.is_finite()) {
            return None;
        }
        if name.starts_with("rotation") {
            let angle_degrees = value("angle_degrees");
            let found = Found {
                kind: Kind::Turned,
                colour: None,
                extent_pixels: None,
                angle_degrees,
                angle_error_degrees: None,
                flagged,
                agreement: None,
            };
            return Some(found);
        }
        let (area, aspect) = (value("area")?, value("aspect")?);
        let kind = match name {
            "cutdiff" | "cutout" => Kind::Dark,
            "cutavg" => Kind::Faded,
            "cutpaste" => Kind::Displaced,
            _ => blended(setting, normal)?,
        };
        // The side along the rows and the one across are shares of the width and of the height.
        let side = ((height * width) as f64).sqrt();
        let extent = [side * (area * aspect).sqrt(), side * (area / aspect).sqrt()];
        let levels = ["red", "green", "blue"].map(value);
        let colour = match (kind, levels) {
            (Kind::Coloured, [Some(red), Some(green), Some(blue)]) => {
                let levels = [red, green, blue];
                let is_dark = levels.iter().all(|&level| level < BROWN);
                Some(colour(levels, is_dark).to_owned())
            }
            _ => None,
        };
        Some(Found {
            kind,
            colour,
            extent_pixels: Some(extent),
            angle_degrees: None,
            angle_error_degrees: None,
            flagged,
            agreement: None,
        })
    }

    /// The same, with what the flagged images show: whether patches are of another colour and of which, and their direction.
    pub fn seen_in(self, evidence: &Evidence) -> Self {
        if self.kind == Kind::Turned {
            return self;
        }
        let (angle_degrees, angle_error_degrees) =
            evidence.slant.map(|slant| (slant.degrees, slant.error_degrees)).unzip();
        let is_darker = evidence.brightness() < 0.0;
        let (kind, colour) = match (evidence.is_coloured, self.kind) {
            (Some(true), _) => {
                let levels = <[f64; 3]>::try_from(&evidence.contrast[..]).expect("only RGB images have colours");
                (Kind::Coloured, Some(colour(levels, is_darker).to_owned()))
            }
            (Some(false), Kind::Coloured) if is_darker => (Kind::Dark, None),
            (Some(false), Kind::Coloured) => (Kind::Bright, None),
            (_, kind) => (kind, self.colour),
        };
        Found { kind, colour, angle_degrees, angle_error_degrees, ..self }
    }

    /// The same, held against what the starts imitate that did about as well, the chosen one among them; `None` of them imitates
    /// several things at once.
    pub fn held_against(self, starts: &[Option<Found>]) -> Self {
        if starts.len() < 2 {
            return self;
        }
        let same: Vec<&Found> = starts.iter().flatten().filter(|start| start.kind == self.kind).collect();
        let agreement = Some(Agreement { starts: same.len(), of: starts.len() });
        if self.kind != Kind::Turned || same.len() < 2 {
            return Found { agreement, ..self };
        }
        let apart = |start: &&Found| {
            let apart = (self.angle_degrees? - start.angle_degrees?).rem_euclid(360.0);
            Some(apart.min(360.0 - apart))
        };
        Found { agreement, angle_error_degrees: same.iter().filter_map(apart).reduce(f64::max), ..self }
    }
}

/// Least saturation of a colour, (most − least) / most of its levels, to be told by its hue.
const SATURATION: f64 = 0.3;

/// The kind of a blended patch, by how its colour differs from the mean of the normal images.
fn blended(setting: &Setting, normal: &NormalLevels) -> Option<Kind> {
    // The channels of other images are no colours.
    let names = Some(normal.mean.len()).filter(|channels| matches!(channels, 1 | 3)).map(level_names)?;
    let changes = names.iter().zip(&normal.mean).map(|(name, mean)| Some(setting.get(name)? - mean));
    let changes = changes.collect::<Option<Vec<f64>>>()?;
    let brightness = changes.iter().sum::<f64>() / changes.len() as f64;
    let levels = || names.iter().filter_map(|name| setting.get(name).copied());
    let most = levels().fold(0.0, f64::max);
    // A grey patch on a brown material differs from it in hue too, but has no colour.
    let is_saturated = most - levels().fold(1.0, f64::min) >= SATURATION * most;
    let hue = changes.iter().map(|change| (change - brightness).abs()).fold(0.0, f64::max);
    Some(if is_saturated && hue > brightness.abs().max(normal.deviation) {
        Kind::Coloured
    } else if brightness.abs() < normal.deviation {
        Kind::Faded
    } else if brightness < 0.0 {
        Kind::Dark
    } else {
        Kind::Bright
    })
}

/// Levels below which orange is brown.
const BROWN: f64 = 0.6;

/// The name of the hue of a colour, given its levels or how they differ from grey; a dark orange is brown.
fn colour([red, green, blue]: [f64; 3], is_dark: bool) -> &'static str {
    // Sectors of 30° of the hue's circle, the first around red.
    const NAMES: [&str; 12] =
        ["red", "orange", "yellow", "green", "green", "green", "cyan", "blue", "blue", "purple", "magenta", "pink"];
    let most = red.max(green).max(blue);
    let span = most - red.min(green).min(blue);
    let sixth = if most == red {
        (green - blue) / span
    } else if most == green {
        2.0 + (blue - red) / span
    } else {
        4.0 + (red - green) / span
    };
    match (2.0 * sixth).round().rem_euclid(12.0) as usize {
        1 if is_dark => "brown",
        sector => NAMES[sector],
    }
}

/// Such as `slim bright patches, about 14 × 2 pixels, slanted 115° ± 6°, in 28 of 90 unlabelled images (2 of the 3 starts that did about as
/// well imitate this kind)`.
impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let what = match self.kind {
            Kind::Dark => "dark patches",
            Kind::Bright => "bright patches",
            Kind::Coloured => match &self.colour {
                Some(colour) => &format!("{colour} patches"),
                None => "patches of another colour",
            },
            Kind::Faded => "faded patches",
            Kind::Displaced => "displaced patches of the material",
            Kind::Turned => "turned images",
        };
        if let Some(Flagged { images, of, is_chance: true }) = self.flagged {
            return write!(
                f,
                "nothing stands out: {images} of {of} unlabelled images are flagged, which chance explains"
            );
        }
        let within = self.angle_error_degrees.map(|within| format!(" ± {within:.0}°")).unwrap_or_default();
        match (self.kind, self.extent_pixels, self.angle_degrees) {
            (Kind::Turned, _, Some(angle)) => write!(f, "images turned by {angle:.0}°{within}")?,
            (_, Some([length, width]), angle) => {
                let form = if angle.is_some() || length >= SLIM * width { "slim" } else { "round" };
                write!(f, "{form} {what}, about {length:.0} × {width:.0} pixels")?;
                angle.map_or(Ok(()), |angle| write!(f, ", slanted {angle:.0}°{within}"))?;
            }
            _ => f.write_str(what)?,
        }
        if let Some(Flagged { images, of, .. }) = self.flagged {
            write!(f, ", in {images} of {of} unlabelled images")?;
        }
        self.agreement.map_or(Ok(()), |Agreement { starts, of, .. }| {
            write!(f, " ({starts} of the {of} starts that did about as well imitate this kind)")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::tensor::Tensor;
    use crate::run::evidence::Slant;

    const SIZE: Size = Size { height: 32, width: 32 };

    fn setting<const N: usize>(values: [(&str, f64); N]) -> Setting {
        values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    #[test]
    fn the_levels_of_images_are_those_of_their_channels() {
        let images =
            Images::of(Tensor::new([2, 3, 1, 2], vec![0.0, 0.2, 0.5, 0.5, 1.0, 1.0, 0.2, 0.4, 0.5, 0.5, 1.0, 1.0]));
        let NormalLevels { mean, deviation } = NormalLevels::of(&images).unwrap();
        let near = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-4, "{found} {expected}");
        [0.2, 0.5, 1.0].into_iter().zip(mean).for_each(|(expected, found)| near(found, expected));
        near(deviation, (0.02f64 / 3.0).sqrt());
    }

    #[test]
    fn a_blended_patch_is_named_by_its_colour() {
        let wall = NormalLevels { mean: vec![0.5], deviation: 0.1 };
        let cloth = NormalLevels { mean: vec![0.5, 0.5, 0.5], deviation: 0.1 };
        let grey = |level: f64, aspect: f64| {
            let setting = setting([("area", 0.04), ("aspect", aspect), ("angle_degrees", 115.0), ("level", level)]);
            Found::new("cutblend", &setting, SIZE, &wall, None).unwrap()
        };
        let tinted = |red: f64, green: f64, blue: f64| {
            let form = [("area", 0.04), ("aspect", 1.0), ("angle_degrees", 0.0)];
            let colour = [("red", red), ("green", green), ("blue", blue)];
            Found::new(
                "cutblend",
                &form.into_iter().chain(colour).map(|(name, value)| (name.to_owned(), value)).collect(),
                SIZE,
                &cloth,
                None,
            )
            .unwrap()
            .kind
        };
        assert_eq!([0.1, 0.45, 0.9].map(|level| grey(level, 1.0).kind), [Kind::Dark, Kind::Faded, Kind::Bright]);
        assert_eq!(tinted(0.9, 0.9, 0.9), Kind::Bright);
        assert_eq!(tinted(0.7, 0.35, 0.1), Kind::Coloured);
        assert_eq!(tinted(0.1, 0.2, 0.1), Kind::Dark);
        let wood = NormalLevels { mean: vec![0.6, 0.41, 0.24], deviation: 0.1 };
        let on_wood = |red: f64, green: f64, blue: f64| {
            let values = [
                ("area", 0.04),
                ("aspect", 1.0),
                ("angle_degrees", 0.0),
                ("red", red),
                ("green", green),
                ("blue", blue),
            ];
            Found::new("cutblend", &setting(values), SIZE, &wood, None).unwrap().kind
        };
        let greys = [0.05, 0.45, 0.9].map(|level| on_wood(level, level, level));
        assert_eq!(greys, [Kind::Dark, Kind::Faded, Kind::Bright], "greys have no colour");
        assert_eq!(on_wood(0.1, 0.2, 0.85), Kind::Coloured);
        let names =
            [[0.9, 0.1, 0.1], [0.45, 0.25, 0.1], [0.9, 0.5, 0.1], [0.1, 0.15, 0.8], [0.1, 0.7, 0.2], [0.8, 0.7, 0.1]];
        let named = names.map(|levels| colour(levels, levels.iter().all(|&level| level < BROWN)));
        assert_eq!(named, ["red", "brown", "orange", "blue", "green", "yellow"]);
        let slim = grey(0.9, 4.0);
        assert_eq!(slim.to_string(), "slim bright patches, about 13 × 3 pixels");
        assert_eq!(grey(0.1, 1.0).to_string(), "round dark patches, about 6 × 6 pixels");
        let told =
            |is_chance| Found { flagged: Some(Flagged { images: 28, of: 90, is_chance }), ..slim.clone() }.to_string();
        assert!(told(false).ends_with("about 13 × 3 pixels, in 28 of 90 unlabelled images"), "{}", told(false));
        assert_eq!(told(true), "nothing stands out: 28 of 90 unlabelled images are flagged, which chance explains");
    }

    #[test]
    fn the_images_decide_on_colour_and_direction_and_other_starts_agree_or_not() {
        let patch = |kind: Kind| Found {
            kind,
            colour: (kind == Kind::Coloured).then(|| "magenta".into()),
            extent_pixels: Some([13.0, 3.0]),
            angle_degrees: None,
            angle_error_degrees: None,
            flagged: None,
            agreement: None,
        };
        let evidence = |contrast: [f64; 3], is_coloured: Option<bool>| Evidence {
            contrast: contrast.into(),
            is_coloured,
            slant: Some(Slant { degrees: 115.2, error_degrees: 6.1 }),
        };
        let rust = patch(Kind::Dark).seen_in(&evidence([0.02, -0.02, -0.06], Some(true)));
        let held = rust.clone().held_against(&[Some(patch(Kind::Dark)), Some(patch(Kind::Coloured)), None]);
        assert_eq!(held.agreement, Some(Agreement { starts: 1, of: 3 }));
        assert_eq!(
            held.to_string(),
            "slim brown patches, about 13 × 3 pixels, slanted 115° ± 6° (1 of the 3 starts that did about as well imitate this kind)"
        );
        assert_eq!(rust.clone().held_against(&[Some(rust.clone())]), rust, "no other did as well");
        let kinds = |contrast: [f64; 3], is_coloured: Option<bool>| {
            [Kind::Coloured, Kind::Displaced].map(|kind| {
                let found = patch(kind).seen_in(&evidence(contrast, is_coloured));
                (found.kind, found.colour)
            })
        };
        let plain = |kind: Kind| (kind, None);
        assert_eq!(kinds([0.03, 0.04, 0.05], Some(false)), [Kind::Bright, Kind::Displaced].map(plain));
        assert_eq!(kinds([-0.03, -0.04, -0.05], Some(false)), [Kind::Dark, Kind::Displaced].map(plain));
        assert_eq!(kinds([0.1; 3], None), [(Kind::Coloured, Some("magenta".into())), plain(Kind::Displaced)]);
        assert_eq!(kinds([0.0, 0.0, 0.1], Some(true)), [(); 2].map(|()| (Kind::Coloured, Some("blue".into()))));

        let turned = |angle: f64| Found {
            kind: Kind::Turned,
            angle_degrees: Some(angle),
            extent_pixels: None,
            ..patch(Kind::Turned)
        };
        let seen = turned(358.0).seen_in(&evidence([0.0, 0.0, 0.1], Some(true)));
        assert_eq!(seen, turned(358.0), "all of the image changes");
        let held = seen.held_against(&[Some(turned(358.0)), Some(turned(2.0)), Some(patch(Kind::Dark))]);
        assert!(held.to_string().starts_with("images turned by 358° ± 4° (2 of the 3 starts"), "{held}");
    }

    #[test]
    fn other_augmentations_are_kinds_of_their_own() {
        let normal = NormalLevels { mean: vec![0.5], deviation: 0.1 };
        let patch = setting([("area", 0.04), ("aspect", 1.0), ("angle_degrees", 0.0)]);
        let of = |name: &str, setting: &Setting| Found::new(name, setting, SIZE, &normal, None);
        let kinds = ["cutdiff", "cutavg", "cutpaste"].map(|name| of(name, &patch).unwrap().kind);
        assert_eq!(kinds, [Kind::Dark, Kind::Faded, Kind::Displaced]);
        let turned = of("rotation", &setting([("angle_degrees", 181.2)])).unwrap();
        assert_eq!(turned.to_string(), "images turned by 181°");
        assert_eq!(of("rotation", &setting([("angle_degrees", f64::NAN)])), None);
        assert_eq!((of("cutdiff+rotation", &patch), of("none", &Setting::new())), (None, None));
    }
}
