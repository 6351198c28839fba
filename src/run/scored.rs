//! A scored test set: `scores.csv` and the metrics.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::data::{Name, Truth};
use crate::engine::tensor::Tensor;
use crate::training::conformal::{SURE, Threshold, is_flagged, percent};
use crate::training::pixels::PixelMetrics;
use crate::training::score::Ranking;

/// A scored image.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scored {
    /// Its unique name: the path in the dataset, with `/` as the separator.
    pub name: Name,
    pub truth: Arc<Truth>,
    /// The higher, the more anomalous.
    pub score: f64,
    /// The second score, the head's logit, for methods with a head.
    pub logit: Option<f64>,
}

/// Some images of a test set, with their heat maps and masks.
#[derive(Clone, Copy, Debug)]
pub struct Maps<'a> {
    /// Grey or RGB `[N, 1 or 3, H, W]`, from black 0 to white 1; other values are clamped.
    pub images: &'a Tensor,
    /// How anomalous each pixel is, `[N, 1, H, W]`, in any unit. Colours range from blue for the smallest value of all to red for the
    /// largest, so strips can be compared; values that are not finite have no colour.
    pub heat: &'a Tensor,
    /// For each image, row by row, which pixels a defect covers; `None` if there is no mask.
    pub masks: &'a [Option<&'a [bool]>],
}

impl Maps<'_> {
    /// Checks that all sizes agree, and returns `[N, C, H, W]`.
    pub(crate) fn extents(&self, scored: &[Scored]) -> [usize; 4] {
        let [n, c, h, w] = self.images.shape().images().expect("images have four axes");
        assert_eq!(self.heat.shape()[..], [n, 1, h, w], "the heat fits images of shape {:?}", self.images.shape());
        assert_eq!((self.masks.len(), scored.len()), (n, n), "a mask or none, and a score, for each of {n} images");
        let fits = |mask: &&[bool]| mask.len() == h * w;
        assert!(self.masks.iter().flatten().all(fits), "masks fit images of {h}×{w} pixels");
        [n, c, h, w]
    }
}

/// False alarms of a threshold: the rate that it promises, and how many normal images it flags, among those on which it was set and
/// among the test images. What the promise says is absent from the file in results of earlier versions and, like these, for
/// thresholds set on training images.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alarms {
    /// Normal images held out of training, on whose scores the threshold was set; 0 for models of earlier versions, which used
    /// their training images.
    pub held_out: usize,
    /// How many of them are flagged.
    pub held_out_flagged: usize,
    /// Test images that are known to be normal.
    pub normal: usize,
    /// How many of them are flagged.
    pub normal_flagged: usize,
    /// The measured false-alarm rate, `normal_flagged / normal`; `None`, in the file `null`, without normal test images.
    pub false_alarm_rate: Option<f64>,
    #[serde(flatten)]
    pub promise: Option<Promise>,
}

/// What a threshold promises about normal images that are like the held-out ones.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Promise {
    /// The rate of false alarms that was asked for, between 0 and 1.
    pub asked_rate: f64,
    /// The rate that the held-out images bear: more than was asked for if they are too few.
    pub promised_rate: f64,
    /// Where the true rate lies, in 95 % of all draws of the held-out images.
    pub true_rate_interval: [f64; 2],
    /// How many of the normal test images are flagged, at least and at most, in 95 % of all draws.
    pub normal_flagged_interval: [usize; 2],
}

impl Alarms {
    /// Counts the false alarms of a threshold on a test set.
    pub fn of(threshold: Threshold, scored: &[Scored]) -> Self {
        let normal: Vec<&Scored> = scored.iter().filter(|image| image.truth.anomalous == Some(false)).collect();
        let flagged = normal.iter().filter(|image| is_flagged(image.score, threshold.score)).count();
        Alarms {
            held_out: threshold.held_out,
            held_out_flagged: threshold.exceeded,
            normal: normal.len(),
            normal_flagged: flagged,
            false_alarm_rate: (!normal.is_empty()).then(|| flagged as f64 / normal.len() as f64),
            promise: Promise::of(threshold, normal.len()),
        }
    }
}

impl Promise {
    /// The promise for so many normal images; `None` if the threshold was set on training images.
    fn of(threshold: Threshold, normals: usize) -> Option<Self> {
        Some(Promise {
            asked_rate: threshold.asked,
            promised_rate: threshold.promised()?,
            true_rate_interval: threshold.true_rate()?,
            normal_flagged_interval: threshold.false_alarms(normals)?,
        })
    }
}

/// Two numbers as an interval: `0.2 % to 3 %`.
fn between(rates: [f64; 2]) -> String {
    rates.map(|rate| percent(rate, 2)).join(" to ")
}

/// The part of a sentence after the held-out images.
impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Promise { asked_rate, promised_rate, true_rate_interval, .. } = *self;
        let (asked, promised) = (percent(asked_rate, 6), percent(promised_rate, 2));
        match promised_rate <= asked_rate {
            true => write!(f, "promises at most {asked} false alarms")?,
            false => write!(f, "promises {promised} false alarms, since so few do not bear {asked}")?,
        }
        write!(f, " (the true rate: {} in {:.0} of 100 runs)", between(true_rate_interval), 100.0 * SURE)
    }
}

/// The part of a sentence after the threshold.
impl fmt::Display for Alarms {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.held_out {
            0 => write!(f, "set on the training images, as in earlier versions")?,
            held_out => write!(f, "exceeded by {} of {held_out} held-out normal images", self.held_out_flagged)?,
        }
        if let Some(promise) = self.promise {
            write!(f, "; {promise}")?;
        }
        let Some(rate) = self.false_alarm_rate else { return write!(f, "; no test image is labelled normal") };
        let (normal, flagged) = (self.normal, self.normal_flagged);
        write!(f, "; exceeded by {flagged} of {normal} normal test images ({:.1} %)", 100.0 * rate)?;
        let Some(Promise { normal_flagged_interval: [least, most], .. }) = self.promise else { return Ok(()) };
        match (flagged < least, flagged > most) {
            (false, false) => write!(f, ", within the {least} to {most} of chance"),
            (is_less, _) => {
                let than = if is_less { "fewer" } else { "more" };
                write!(f, ", {than} than the {least} to {most} of chance: these images are not like the held-out ones")
            }
        }
    }
}

/// Metrics under anomalib's names; `None` (in files `null`) if a metric is undefined.
pub type Metrics = BTreeMap<String, Option<f64>>;

/// The metrics of labelled images, and what is known of their pixels: `image_AUROC`; `image_AUPR`, the average precision;
/// `image_F1Max`, whose threshold is chosen by the labels; `image_F1Score`, `image_Precision` and `image_Recall` at `threshold`;
/// `pixel_AUROC` and `pixel_AUPRO` over all pixels of images with a mask and of normal images together.
pub fn metrics(scored: &[Scored], threshold: Option<f64>, pixels: PixelMetrics) -> Metrics {
    let ranking = ranking(scored);
    let cut = ranking.as_ref().zip(threshold).map(|(ranking, threshold)| ranking.at(threshold));
    let figures = [
        ("image_AUROC", ranking.as_ref().map(Ranking::auroc)),
        ("image_AUPR", ranking.as_ref().map(Ranking::average_precision)),
        ("image_F1Max", ranking.as_ref().map(|ranking| ranking.best_f1().f1())),
        ("image_F1Score", cut.map(|cut| cut.f1())),
        ("image_Precision", cut.and_then(|cut| cut.precision())),
        ("image_Recall", cut.map(|cut| cut.recall())),
        ("pixel_AUROC", pixels.auroc),
        ("pixel_AUPRO", pixels.aupro),
    ];
    figures.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The labelled images, ranked.
pub(super) fn ranking(scored: &[Scored]) -> Option<Ranking> {
    let (scores, labels): (Vec<f64>, Vec<bool>) =
        scored.iter().filter_map(|image| Some((image.score, image.truth.anomalous?))).unzip();
    Ranking::new(&scores, &labels)
}

/// The bytes of `scores.csv`.
pub(super) fn write_table(scored: &[Scored], threshold: Option<f64>, file: impl io::Write) -> csv::Result<()> {
    let mut table = csv::Writer::from_writer(file);
    table.write_record(["path", "label", "score", "kind", "logit", "anomalous"])?;
    let bit = |bit: Option<bool>| bit.map(|bit| u8::from(bit).to_string()).unwrap_or_default();
    for Scored { name, truth, score, logit } in scored {
        // A score that is not finite flags nothing.
        let flagged = threshold.filter(|_| score.is_finite()).map(|threshold| is_flagged(*score, threshold));
        let logit = logit.map(|logit| logit.to_string()).unwrap_or_default();
        table.write_record([&**name, &bit(truth.anomalous), &score.to_string(), &truth.kind, &logit, &bit(flagged)])?;
    }
    Ok(table.flush()?)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn scored(name: &str, anomalous: Option<bool>, score: f64) -> Scored {
        let kind = anomalous.map_or("", |anomalous| if anomalous { "crack" } else { "good" });
        Scored { name: name.into(), truth: Truth { anomalous, kind: kind.into() }.into(), score, logit: None }
    }

    /// Scores 1…4, with one anomaly below a normal image, and an unlabelled image with the highest score.
    pub fn example() -> Vec<Scored> {
        [
            ("a", Some(false), 1.0),
            ("b", Some(true), 2.0),
            ("c", Some(false), 3.0),
            ("d", Some(true), 4.0),
            ("e", None, 5.0),
        ]
        .map(|(name, anomalous, score)| scored(name, anomalous, score))
        .into()
    }

    #[test]
    fn one_row_per_image() {
        let mut images = example();
        images[0].name = "a, \"odd\"\nname.png".into();
        images[1].logit = Some(-0.5);
        images[2].score = f64::NAN;
        let table = |threshold| {
            let mut bytes = Vec::new();
            write_table(&images, threshold, &mut bytes).unwrap();
            String::from_utf8(bytes).unwrap()
        };
        let text = table(Some(2.0));
        let expected = "path,label,score,kind,logit,anomalous\n\"a, \"\"odd\"\"\nname.png\",0,1,good,,0\n\
                        b,1,2,crack,-0.5,1\nc,0,NaN,good,,\nd,1,4,crack,,1\ne,,5,,,1\n";
        assert_eq!(text, expected);
        assert!(table(None).ends_with("e,,5,,,\n"));
    }

    #[test]
    fn metrics_by_hand() {
        let found = metrics(&example(), Some(4.0), PixelMetrics { auroc: Some(0.9), aupro: None });
        let expected = [
            ("image_AUPR", Some((1.0 + 2.0 / 3.0) / 2.0)),
            ("image_AUROC", Some(0.75)),
            ("image_F1Max", Some(0.8)),
            ("image_F1Score", Some(2.0 / 3.0)),
            ("image_Precision", Some(1.0)),
            ("image_Recall", Some(0.5)),
            ("pixel_AUPRO", None),
            ("pixel_AUROC", Some(0.9)),
        ];
        assert_eq!(found, expected.map(|(name, value)| (name.to_owned(), value)).into());
        let none = PixelMetrics::default();
        assert!(metrics(&example()[4..], Some(1.0), none).values().all(Option::is_none), "one class, or none");
        assert_eq!(metrics(&example(), None, none)["image_F1Score"], None);
    }

    #[test]
    fn false_alarms_are_counted_on_normal_test_images_alone() {
        let threshold = Threshold { score: 3.0, held_out: 12, exceeded: 0, asked: 0.01 };
        let alarms = Alarms::of(threshold, &example());
        let counted = (alarms.held_out, alarms.held_out_flagged, alarms.normal, alarms.normal_flagged);
        assert_eq!((counted, alarms.false_alarm_rate), ((12, 0, 2, 1), Some(0.5)));
        let promise = alarms.promise.unwrap();
        assert_eq!((promise.asked_rate, promise.promised_rate), (0.01, 1.0 / 13.0));
        let says = "exceeded by 0 of 12 held-out normal images; promises 7.7 % false alarms, since so few do not bear 1 % (the true \
                    rate: 0.21 % to 26 % in 95 of 100 runs); exceeded by 1 of 2 normal test images (50.0 %), within the 0 to 1 of \
                    chance";
        assert_eq!(alarms.to_string(), says);
        let kept = Alarms::of(Threshold { asked: 0.08, ..threshold }, &example()).to_string();
        assert!(kept.contains("; promises at most 8 % false alarms (the true rate: 0.21 % to 26 %"), "{kept}");
        let normals = vec![scored("n", Some(false), 3.0); 200];
        let many = Alarms::of(threshold, &normals).to_string();
        assert!(
            many.ends_with(", more than the 0 to 54 of chance: these images are not like the held-out ones"),
            "{many}"
        );
        let half = Alarms::of(Threshold { asked: 0.5, score: 4.0, ..threshold }, &normals).to_string();
        assert!(half.contains(", fewer than the "), "{half}");
        let unknown = Alarms::of(threshold, &example()[4..]);
        assert_eq!((unknown.normal, unknown.false_alarm_rate), (0, None));
        assert!(unknown.to_string().ends_with("; no test image is labelled normal"), "{unknown}");
        let earlier = Alarms::of(Threshold { held_out: 0, ..threshold }, &example()).to_string();
        assert!(
            earlier.starts_with("set on the training images, as in earlier versions; exceeded by 1 of 2"),
            "{earlier}"
        );
        // As results of this version and of earlier ones are written.
        let read = |text: &str| serde_json::from_str::<Alarms>(text).unwrap();
        assert_eq!(read(&serde_json::to_string(&alarms).unwrap()), alarms);
        let before = r#"{"held_out":12,"held_out_flagged":0,"normal":2,"normal_flagged":1,"false_alarm_rate":0.5}"#;
        assert_eq!(read(before), Alarms { promise: None, ..alarms });
    }
}
