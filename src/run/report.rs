//! The report of a run: a folder with `result.json` for programs and `report.html` for people.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `result.json` | the [`Outcome`] |
//! | `report.html` | everything, on one page |
//! | `seen.bin` | the images that the detector has [seen](crate::data::Seen) |
//! | `metrics.csv`, `events.out.tfevents.…` | the training, one row per [`Step`]; the same for TensorBoard |
//! | `curves.png`, `pictures.png` | the course of the training, and augmented images |
//! | `scores.csv`, `histogram.png`, `roc.png` | the test set, one row per [`Scored`] image; the distribution of the scores |
//! | `images/<kind>/<name>.png` | a strip for each image, with mask and heat map |
//!
//! A [`Table`] is printed to the terminal; a [`Comparison`] is about many runs.
//!
//! Each file is written whole or not at all. A run that has `result.json` is finished: the model, `metrics.csv` and `scores.csv` are there.
//! What is drawn comes after it, `report.html` last.

mod comparison;
mod curves;
mod distribution;
mod events;
mod heat;
mod html;
mod live;
mod rank_diagram;
mod samples;
mod strips;

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::SystemTime;

pub use comparison::{Cell, Comparison, ComparisonError, Measured, Method, Missing, OtherImages, Run};
pub use heat::{HeatMaps, Masks};
pub use html::Page;
pub(crate) use html::shown;
pub use live::LiveSteps;
pub use samples::ImageRow;

use crate::run::folder::RunFolder;
use crate::run::outcome::{Outcome, ReportError, Start};
use crate::run::scored::{self, Maps, Scored};
use crate::ssad::augment::Setting;

/// A training step: a row of `metrics.csv`.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Index in [`Outcome::starts`].
    pub start: usize,
    /// Counted from 1 in each start.
    pub step: usize,
    /// Training loss, in nats.
    pub inner: f32,
    /// Alignment loss; `None`, in the file an empty field, if the step does not tune.
    pub outer: Option<f32>,
    /// The augmentation's hyper-parameters in this step.
    pub setting: Setting,
}

impl RunFolder {
    /// Writes `metrics.csv`: start, step, inner, outer, and a column for each hyper-parameter of any start, empty where a start does
    /// not have it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_metrics(&self, steps: &[Step]) -> Result<(), ReportError> {
        let names = steps.iter().flat_map(|step| step.setting.keys().cloned()).collect();
        self.write(METRICS, (header(&names) + &rows(steps, &names)).as_bytes())
    }

    /// Writes `curves.png`: hyper-parameters and losses over the steps, a line for each start, the chosen start in front.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_curves(&self, outcome: &Outcome, steps: &[Step]) -> Result<(), ReportError> {
        let bytes = curves::draw(outcome, steps)
            .map_err(|reason| ReportError::Encode { file: "curves.png", source: reason.into() })?;
        self.write("curves.png", &bytes)
    }

    /// Writes `pictures.png`: titled rows of images, with scores if there are any.
    ///
    /// # Errors
    /// When the file cannot be written.
    ///
    /// # Panics
    /// When there is no row, or a row has images that are neither grey nor RGB.
    pub fn write_images(&self, rows: &[ImageRow]) -> Result<(), ReportError> {
        let bytes = samples::draw(rows).map_err(|source| ReportError::Encode { file: "pictures.png", source })?;
        self.write("pictures.png", &bytes)
    }

    /// Writes `scores.csv`: `path,label,score,kind,logit,anomalous`, one row per image. The label is 0 for a normal image and 1 for
    /// an anomaly; `anomalous` is 1 if the score reaches the threshold. Either is empty if unknown; a score that is not finite
    /// leaves `anomalous` empty.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_scores(&self, scored: &[Scored], threshold: Option<f64>) -> Result<(), ReportError> {
        self.write_by("scores.csv", |file| Ok(scored::write_table(scored, threshold, file)?))
    }

    /// Writes `histogram.png`, the distribution of the scores of normal, anomalous and unlabelled images, and `roc.png`, the ROC
    /// curve, or a note if there are not two classes. Scores that are not finite are omitted.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write_distribution(&self, scored: &[Scored], threshold: Option<f64>) -> Result<(), ReportError> {
        let encode = |file, drawn: Result<Vec<u8>, String>| {
            drawn.map_err(|reason| ReportError::Encode { file, source: reason.into() })
        };
        self.write("histogram.png", &encode("histogram.png", distribution::histogram(scored, threshold))?)?;
        self.write("roc.png", &encode("roc.png", distribution::roc(scored))?)
    }

    /// Writes a strip for each image, `images/<kind>/<name>.png`: the image, its mask, and the heat map over the image, below its
    /// name and score. Returns their paths below the folder, in the order of `scored`. `progress` is called from time to time with
    /// the number of strips done and the number of all; if it breaks, no more are written.
    ///
    /// # Errors
    /// When a file cannot be written.
    ///
    /// # Panics
    /// When the sizes of the maps and of `scored` differ.
    pub fn write_strips(
        &self,
        scored: &[Scored],
        maps: &Maps,
        progress: impl FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<ControlFlow<(), Vec<PathBuf>>, ReportError> {
        strips::write(self.path(), scored, maps, progress)
    }

    /// Writes the steps for TensorBoard, as scalars `start0/inner`, `start0/outer`, `start0/angle_degrees`, … All events
    /// have the present time.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_events(&self, steps: &[Step]) -> Result<(), ReportError> {
        let now = since_1970();
        self.write(events::FILE, &[events::header(now), events::encode(steps, now)].concat())
    }

    /// Writes `report.html`: a page that needs no other file. It embeds images from the folder, so call it after they are written.
    ///
    /// # Errors
    /// When an image cannot be read, or the page cannot be written.
    ///
    /// # Panics
    /// When there are strips, but not one for each image.
    pub fn write_html(&self, page: &Page) -> Result<(), ReportError> {
        let text = html::render(page, self.path())
            .map_err(|source| ReportError::Encode { file: "report.html", source: source.into() })?;
        self.write("report.html", text.as_bytes())
    }

    /// Writes `result.json`, which marks the run as finished: call it once the model and all figures are written.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_result(&self, outcome: &Outcome) -> Result<(), ReportError> {
        let mut bytes = serde_json::to_vec_pretty(outcome)
            .map_err(|source| ReportError::Encode { file: "result.json", source: source.into() })?;
        bytes.push(b'\n');
        self.write("result.json", &bytes)
    }
}

/// The present time in seconds since 1970.
fn since_1970() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// The file of the steps of a run.
const METRICS: &str = "metrics.csv";

/// The header of `metrics.csv`, with these hyper-parameters, whose names need no quotation marks.
fn header(names: &BTreeSet<String>) -> String {
    let names: String = names.iter().map(|name| format!(",{name}")).collect();
    format!("start,step,inner,outer{names}\n")
}

/// Rows of `metrics.csv`.
fn rows(steps: &[Step], names: &BTreeSet<String>) -> String {
    let mut text = String::new();
    for Step { start, step, inner, outer, setting } in steps {
        let outer = outer.map(|loss| loss.to_string()).unwrap_or_default();
        text += &format!("{start},{step},{inner},{outer}");
        for name in names {
            text += ",";
            text += &setting.get(name).map(f64::to_string).unwrap_or_default();
        }
        text += "\n";
    }
    text
}

/// The starts of a run as a table for the terminal, with the chosen start marked.
#[derive(Clone, Copy, Debug)]
pub struct Table<'a>(pub &'a [Start]);

impl std::fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let header = ["", "augmentation", "start", "", "end", "exceedance", "AUROC"].map(String::from);
        let rows = self.0.iter().map(|start| {
            [
                if start.chosen { "*" } else { "" }.into(),
                kind(start),
                plain(&start.start),
                "→".into(),
                plain(&start.end),
                start.exceedance.map_or("failed".into(), |exceedance| format!("{exceedance:.3}")),
                start.image_auroc.map_or("n/a".into(), |auroc| format!("{auroc:.3}")),
            ]
        });
        let rows: Vec<[String; 7]> = std::iter::once(header).chain(rows).collect();
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: [usize; 7] = std::array::from_fn(width);
        for row in &rows {
            let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            writeln!(f, "{}", cells.join("  ").trim_end())?;
        }
        Ok(())
    }
}

/// The augmentation of a start, and whether it was a heat.
fn kind(start: &Start) -> String {
    let name = start.augmentation.as_deref().unwrap_or_default();
    if start.heat { format!("{name} (heat)") } else { name.into() }
}

/// Formats hyper-parameters: `120°`, or `46°, area 0.0142, aspect 5.20`.
pub fn plain(setting: &Setting) -> String {
    let values = setting.iter().map(|(name, &value)| match name.as_str() {
        "angle_degrees" => format!("{value:.0}°"),
        name => format!("{name} {}", three_digits(value)),
    });
    values.collect::<Vec<_>>().join(", ")
}

fn three_digits(value: f64) -> String {
    let magnitude = if value == 0.0 { 0.0 } else { value.abs().log10().floor() };
    format!("{value:.*}", (2.0 - magnitude).clamp(0.0, 6.0) as usize)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::run::outcome::{Adapter, Augmentation, Counts};
    use crate::run::scored::{Alarms, Metrics};
    use serde_json::json;

    fn angle(degrees: f64) -> Setting {
        Setting::from([("angle_degrees".into(), degrees)])
    }

    fn patch(degrees: f64, area: f64, aspect: f64) -> Setting {
        Setting::from([("angle_degrees".into(), degrees), ("area".into(), area), ("aspect".into(), aspect)])
    }

    fn start(start: Setting, end: Setting, exceedance: f64, image_auroc: Option<f64>, chosen: bool) -> Start {
        let (image_auroc_logit, exceedance) = (image_auroc.map(|_| 0.5), Some(exceedance));
        let augmentation = Some("rotation".to_owned());
        Start {
            augmentation,
            start,
            end,
            heat: false,
            steps: None,
            exceedance,
            image_auroc,
            image_auroc_logit,
            chosen,
            failed: None,
        }
    }

    pub fn outcome() -> Outcome {
        Outcome {
            image_auroc: Some(0.988),
            augmentation: Augmentation { name: "rotation".into(), values: angle(172.5) },
            order: 2,
            seed: 7,
            steps: 180,
            seconds: 12.5,
            adapter: Adapter { name: "llvmpipe".into(), driver: "Mesa".into(), class: "cpu".into() },
            starts: vec![
                start(angle(120.0), angle(172.5), 0.284, Some(0.988), true),
                start(angle(30.0), angle(f64::NAN), 0.0, None, false),
            ],
            ..Outcome::default()
        }
    }

    /// An empty folder for one test, in the build folder.
    pub fn folder(name: &str) -> RunFolder {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/report-tests").join(name);
        let _ = fs::remove_dir_all(&path);
        RunFolder::create(path).expect("a folder under target")
    }

    #[test]
    fn the_keys_of_the_result_are_stable() {
        let folder = folder("result");
        folder.write_result(&outcome()).unwrap();
        let text = fs::read_to_string(folder.path().join("result.json")).unwrap();
        let expected = json!({
            "image_AUROC": 0.988,
            "augmentation": { "name": "rotation", "angle_degrees": 172.5 },
            "order": 2, "precision": "f32", "seed": 7, "steps": 180, "seconds": 12.5,
            "adapter": { "name": "llvmpipe", "driver": "Mesa", "class": "cpu" },
            "starts": [
                { "start": { "angle_degrees": 120.0 }, "end": { "angle_degrees": 172.5 },
                  "augmentation": "rotation", "heat": false, "exceedance": 0.284, "image_AUROC": 0.988,
                  "image_AUROC_logit": 0.5, "chosen": true },
                { "start": { "angle_degrees": 30.0 }, "end": { "angle_degrees": null },
                  "augmentation": "rotation", "heat": false, "exceedance": 0.0, "image_AUROC": null,
                  "image_AUROC_logit": null, "chosen": false },
            ],
        });
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), expected);
        let mut read: Outcome = serde_json::from_str(&text).unwrap();
        assert!(read.starts[1].end["angle_degrees"].is_nan());
        read.starts[1] = outcome().starts[0].clone();
        assert_eq!(read.augmentation, outcome().augmentation);
    }

    #[test]
    fn a_start_that_failed_has_a_reason_and_no_exceedance() {
        let failed = Start {
            exceedance: None,
            failed: Some("diverged at step 3: the training loss is not finite".into()),
            ..start(angle(30.0), angle(31.0), 0.0, None, false)
        };
        let value = serde_json::to_value(&failed).unwrap();
        assert_eq!(value["failed"], "diverged at step 3: the training loss is not finite");
        assert!(value.get("exceedance").is_none(), "{value}");
        assert_eq!(serde_json::from_value::<Start>(value).unwrap(), failed);
        let table = Table(&[failed, start(angle(1.0), angle(2.0), 0.5, None, true)]).to_string();
        assert!(table.lines().nth(1).unwrap().contains("failed"), "{table}");
    }

    #[test]
    fn unknown_fields_are_absent_from_the_result_and_known_ones_are_read_back() {
        let told = Outcome {
            dataset: Some("mvtec".into()),
            category: Some("bottle".into()),
            method: Some("st-ssad".into()),
            metrics: Metrics::from([("image_AUROC".into(), Some(0.988)), ("pixel_AUROC".into(), None)]),
            threshold: Some(1.5),
            alarms: Some(Alarms {
                held_out: 1,
                held_out_flagged: 0,
                normal: 0,
                normal_flagged: 0,
                false_alarm_rate: None,
                promise: None,
            }),
            counts: Some(Counts { train: 3, held_out: 1, tune: 2, test: 2, split: None }),
            skipped: vec!["broken.png".into()],
            starts: vec![],
            ..outcome()
        };
        let value = serde_json::to_value(&told).unwrap();
        assert!(value["metrics"]["pixel_AUROC"].is_null() && value["counts"]["train"] == 3);
        assert_eq!(serde_json::from_value::<Outcome>(value).unwrap(), told);
    }

    #[test]
    fn a_result_stays_when_its_folder_is_claimed_again() {
        let folder = folder("again");
        let outcome = Outcome { starts: vec![], ..outcome() };
        folder.write_result(&outcome).unwrap();
        let path = folder.path().to_owned();
        drop(folder);
        let again = RunFolder::create(path).unwrap();
        assert_eq!(Outcome::load(again.path()).unwrap(), Some(outcome));
    }

    #[test]
    fn a_failed_write_names_the_file() {
        let folder = folder("gone");
        fs::remove_dir_all(folder.path()).unwrap();
        let message = folder.write_metrics(&[]).unwrap_err().to_string();
        assert!(message.contains("metrics.csv: check that the folder"), "{message}");
    }

    #[test]
    fn metrics_have_one_row_per_step() {
        let folder = folder("metrics");
        let table = |steps: &[Step]| {
            folder.write_metrics(steps).unwrap();
            fs::read_to_string(folder.path().join(METRICS)).unwrap()
        };
        let step = |start, outer| Step { start, step: 3, inner: 0.7, outer, setting: patch(45.0, 0.1, 1.5) };
        let text = table(&[step(0, None), step(1, Some(0.25))]);
        let expected =
            "start,step,inner,outer,angle_degrees,area,aspect\n0,3,0.7,,45,0.1,1.5\n1,3,0.7,0.25,45,0.1,1.5\n";
        assert_eq!(text, expected);
        let other = Step { start: 2, setting: angle(1.0), ..step(0, None) };
        let text = table(&[step(0, None), other]);
        assert!(text.ends_with("0,3,0.7,,45,0.1,1.5\n2,3,0.7,,1,,\n"), "a start of another kind: {text}");
        // While a run trains, the same rows come one after another.
        let names = BTreeSet::from(["angle_degrees", "area", "aspect"].map(String::from));
        let mut live = LiveSteps::begin(&folder, names, &[step(0, None)], true).unwrap();
        live.take([step(1, Some(0.25))].into_iter());
        live.flush();
        assert_eq!(fs::read_to_string(folder.path().join(METRICS)).unwrap(), expected);
        let events = |folder: &RunFolder| fs::metadata(folder.path().join(events::FILE)).unwrap().len();
        let grown = events(&folder);
        folder.write_events(&[step(0, None), step(1, Some(0.25))]).unwrap();
        assert_eq!(events(&folder), grown);
    }

    #[test]
    fn curves_are_drawn_for_any_steps() {
        let folder = folder("curves");
        let step = |step, inner| Step { start: 1, step, inner, outer: None, setting: angle(f64::from(inner)) };
        for steps in [vec![], vec![step(0, 0.5)], vec![step(0, f32::NAN), step(1, f32::INFINITY)]] {
            folder.write_curves(&outcome(), &steps).unwrap();
        }
        let plain = Outcome {
            augmentation: Augmentation { name: "none".into(), values: Setting::new() },
            starts: vec![start(Setting::new(), Setting::new(), 0.1, None, true)],
            ..outcome()
        };
        folder.write_curves(&plain, &[Step { start: 0, setting: Setting::new(), ..step(1, 0.5) }]).unwrap();
        let image = image::open(folder.path().join("curves.png")).unwrap();
        assert_eq!((image.width(), image.height()), (1200, 760));
        // Five hyper-parameters are two rows, of three and of two.
        let values: Setting = (0..5).map(|index| (format!("level_{index}"), 0.5)).collect();
        let many = Outcome {
            augmentation: Augmentation { name: "many".into(), values: values.clone() },
            starts: vec![Start {
                augmentation: Some("many".into()),
                ..start(values.clone(), values.clone(), 0.1, None, true)
            }],
            ..outcome()
        };
        folder.write_curves(&many, &[Step { start: 0, setting: values, ..step(1, 0.5) }]).unwrap();
        assert_eq!(image::open(folder.path().join("curves.png")).unwrap().height(), 1140);
    }

    #[test]
    fn the_table_marks_the_chosen_start() {
        let starts = [
            start(angle(120.0), angle(171.6), 0.28412, Some(0.9876), true),
            start(angle(30.0), angle(344.0), 0.07, None, false),
        ];
        let expected = "   augmentation  start     end   exceedance  AUROC\n*  rotation      120°   →  172°  0.284       0.988\n   rotation      30°    →  344°  0.070       n/a\n";
        assert_eq!(Table(&starts).to_string(), expected);
        assert_eq!(plain(&patch(46.2, 0.0142, 5.2)), "46°, area 0.0142, aspect 5.20");
    }
}
