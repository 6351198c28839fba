//! `stssad predict`: score new images.

use std::borrow::Cow;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};
use indicatif::ProgressBar;
use serde_json::json;
use stssad::data::tiles::greatest;
use stssad::data::{BadImage, Batch, Listing, Loading, OnBadImage, ReadFile, Watched, as_text};
use stssad::run::model::{Judgement, Model, Predictor};
use stssad::run::report::{HeatMaps, Masks};
use stssad::training::conformal::{is_flagged, p_value};

use super::progress::Stop;
use super::train::{AlarmArguments, model, open, unfit};
use super::{BAD_DATA, DeviceArguments, progress_bar};

/// Arguments of `stssad predict`.
#[derive(Debug, Args)]
pub struct Predict {
    /// Folder of a finished run, or its model.safetensors.
    run: PathBuf,
    /// Images, folders of them, or patterns such as `new/*.png`; `-` reads paths from standard input, one a line (also with Windows'
    /// line ends) or with a NUL after each.
    #[arg(required_unless_present = "watch")]
    images: Vec<PathBuf>,
    /// Score the images in DIR and then each that is put there, until it is stopped by Ctrl-C or SIGTERM.
    #[arg(long, value_name = "DIR")]
    watch: Option<PathBuf>,
    /// What to do if an image cannot be scored.
    #[arg(long, value_enum, default_value_t, value_name = "WHAT")]
    on_bad_image: OnBad,
    /// Refuse images with more pixels than this [default: as in training].
    #[arg(long, value_name = "N")]
    max_pixels: Option<u64>,
    /// Write a heat map of each image to DIR: what each pixel contributes to the score, so that the mean over the pixels is the score
    /// less that of a normal image. values/NAME.npy has the map as an f32 array, and overlays/NAME.png shows the image as the
    /// detector sees it under the map. Colours span the values of the first images.
    #[arg(long, value_name = "DIR")]
    maps: Option<PathBuf>,
    /// Write a mask of each image to DIR, in the size of its file: masks/NAME.png is white where the heat map of an anomaly has at
    /// least half of its greatest value. The output gets the bounding boxes of the white parts, in pixels of the file.
    #[arg(long, value_name = "DIR")]
    masks: Option<PathBuf>,
    #[command(flatten)]
    alarms: AlarmArguments,
    /// Call an image an anomaly from this score on.
    #[arg(long, value_name = "SCORE", value_parser = finite, allow_negative_numbers = true, conflicts_with = "false_alarms")]
    threshold: Option<f64>,
    #[command(flatten)]
    device: DeviceArguments,
    /// Print JSON lines instead of CSV. In both, bytes of a path that are not UTF-8 are written as `\xff`.
    #[arg(long)]
    json: bool,
}

fn finite(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|value: &f64| value.is_finite()).ok_or_else(|| {
        "a score is a finite number; --false-alarms takes the share of normal images that may be flagged, such as 1%".into()
    })
}

/// What to do if an image cannot be scored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum OnBad {
    /// Score the others, and exit with 3.
    #[default]
    Report,
    /// Score the others, and exit with 0.
    Skip,
    /// Stop before the batch that has it, and exit with 3.
    Error,
}

/// Images that are read together. Of images in tiles only one, since it may have hundreds.
const AT_ONCE: usize = 256;
/// Between two looks at a folder that is watched.
const PAUSE: Duration = Duration::from_millis(500);

/// A line of the output: a score, or why there is none.
struct Predicted<'a> {
    path: Cow<'a, str>,
    score: Result<f64, String>,
    /// Absent without a score, or if the model keeps no scores of held-out images.
    p_value: Option<f64>,
    /// Absent without a score or a threshold.
    anomalous: Option<bool>,
    /// The overlay of an image with a score, with `--maps`.
    map: Option<PathBuf>,
    /// Its mask and the boxes of its parts, with `--masks`.
    mask: Option<(PathBuf, Vec<[u32; 4]>)>,
}

impl Predict {
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        let model = model(&self.run, &self.images)?;
        let own = model.config.loading();
        let loading = Loading {
            on_bad_image: if self.on_bad_image == OnBad::Error { OnBadImage::Error } else { OnBadImage::Skip },
            max_pixels: self.max_pixels.unwrap_or(own.max_pixels),
            ..own
        };
        if self.maps.is_some() && self.maps == self.masks {
            return Err(unfit("--maps and --masks are one folder: give each its own".into()));
        }
        let mut listing = None;
        if !self.images.is_empty() {
            let listed = Listing::of(&self.paths()?, &loading)?;
            if !listed.left_out.is_empty() {
                note!("note     left out: {}", listed.left_out);
            }
            listing = Some(listed);
        }
        let mut scoring = Scoring {
            predict: self,
            model: &model,
            loading,
            threshold: self.threshold(&model)?,
            predictor: None,
            maps: self.maps.as_deref().map(HeatMaps::claim).transpose()?,
            masks: self.masks.as_deref().map(Masks::claim).transpose()?,
            has_header: false,
            count: 0,
            failed: 0,
        };
        if let Some(listing) = listing {
            let bar =
                progress_bar(listing.len() as u64, "score    {bar:28} {pos}/{len} images  {per_sec:1}  {eta} left");
            scoring.score(listing, &bar)?;
            bar.finish_and_clear();
        }
        if let Some(folder) = &self.watch {
            scoring.watch(folder)?;
        }
        let Scoring { count, failed, .. } = scoring;
        if failed > 0 {
            note!("{failed} of {count} images could not be scored");
        }
        let is_whole = failed == 0 || self.on_bad_image == OnBad::Skip;
        Ok(if is_whole { ExitCode::SUCCESS } else { ExitCode::from(BAD_DATA) })
    }

    /// The score from which an image is an anomaly.
    fn threshold(&self, model: &Model) -> anyhow::Result<Option<f64>> {
        if self.threshold.is_some() {
            return Ok(self.threshold);
        }
        let threshold = self.alarms.threshold(model)?;
        match threshold {
            None => note!(
                "note     the model has no threshold, because no normal images were held out of training: there are scores \
                 only; --threshold gives one"
            ),
            Some(threshold) if threshold.held_out == 0 => note!(
                "note     an earlier version of stssad set this threshold on training images, so it gives more false alarms: \
                 train again for a threshold from held-out images"
            ),
            _ => {}
        }
        Ok(threshold.map(|threshold| threshold.score))
    }

    /// The paths that were named, with those on standard input in place of a `-`.
    fn paths(&self) -> anyhow::Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        for path in &self.images {
            match path.as_os_str() == "-" {
                true => paths.extend(stdin_paths().context("cannot read the paths on standard input")?),
                false => paths.push(path.clone()),
            }
        }
        match paths.is_empty() {
            true => Err(unfit("there are no paths on standard input: give one a line, as find does".into())),
            false => Ok(paths),
        }
    }
}

/// One path a line, or with a NUL after each (`find -print0`). Only the latter can name a file that ends in a carriage return.
fn stdin_paths() -> io::Result<Vec<PathBuf>> {
    let mut text = Vec::new();
    io::stdin().lock().read_to_end(&mut text)?;
    // Its NULs would be taken for the ends of paths, of which one may be `/`.
    if text.starts_with(&[0xff, 0xfe]) || text.starts_with(&[0xfe, 0xff]) {
        return Err(io::Error::other("they are UTF-16, as some shells of Windows write it: write them as UTF-8"));
    }
    let paths: Vec<&[u8]> = match text.contains(&0) {
        true => text.split(|&byte| byte == 0).collect(),
        false => text
            .strip_prefix("\u{feff}".as_bytes())
            .unwrap_or(&text)
            .split(|&byte| byte == b'\n')
            .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
            .collect(),
    };
    paths.into_iter().filter(|path| !path.is_empty()).map(path_of).collect()
}

#[cfg(unix)]
fn path_of(bytes: &[u8]) -> io::Result<PathBuf> {
    use std::os::unix::ffi::OsStrExt;
    Ok(std::ffi::OsStr::from_bytes(bytes).into())
}

#[cfg(not(unix))]
fn path_of(bytes: &[u8]) -> io::Result<PathBuf> {
    Ok(std::str::from_utf8(bytes).map_err(io::Error::other)?.into())
}

/// Images that are being scored, and what becomes of them.
struct Scoring<'a> {
    predict: &'a Predict,
    model: &'a Model,
    loading: Loading,
    threshold: Option<f64>,
    /// Opened once there is something to score.
    predictor: Option<Predictor<'a>>,
    maps: Option<HeatMaps>,
    masks: Option<Masks>,
    /// Whether the header of the table was printed.
    has_header: bool,
    count: usize,
    failed: usize,
}

impl Scoring<'_> {
    /// Scores the images that a folder has and gets, until it is stopped.
    fn watch(&mut self, folder: &Path) -> anyhow::Result<()> {
        let (stop, mut watched) = (Stop::listen(None)?, Watched::new(folder));
        note!("watch    {}; stop with Ctrl-C", folder.display());
        while !stop.is_asked() {
            let listing = watched.arrived()?;
            match listing.is_empty() {
                true => thread::sleep(PAUSE),
                false => self.score(listing, &ProgressBar::hidden())?,
            }
        }
        Ok(())
    }

    fn score(&mut self, listing: Listing, bar: &ProgressBar) -> anyhow::Result<()> {
        let at_once = if self.loading.tiles.is_some() { 1 } else { AT_ONCE };
        let (conversion, loading) = (self.model.conversion(), self.loading.clone());
        listing.for_each_batch(at_once, conversion, &loading, |batch| {
            let rows = self.rows(&batch)?;
            for file in batch.files.iter().flatten().filter(|file| file.is_mended) {
                note!("note     {} is damaged but has all pixels", as_text(&file.path).escape_debug());
            }
            for (path, reason) in rows.iter().filter_map(|row| Some((&row.path, row.score.as_ref().err()?))) {
                note!("bad      {}: {reason}", path.escape_debug());
            }
            self.print(&rows)?;
            self.count += rows.len();
            self.failed += rows.iter().filter(|row| row.score.is_err()).count();
            bar.set_position(self.count as u64);
            Ok(())
        })
    }

    /// Scores a batch, and writes its maps and masks.
    fn rows<'b>(&mut self, batch: &'b Batch) -> anyhow::Result<Vec<Predicted<'b>>> {
        let Batch { images, files } = batch;
        let mut judged: Option<(Judgement, Vec<f32>)> = None;
        if !files.iter().all(Result::is_err) {
            let predictor = match &mut self.predictor {
                Some(predictor) => predictor,
                none => none.insert(Predictor::new(&open(&self.predict.device)?, self.model)?),
            };
            let judgement = predictor.judge(images)?;
            let has_heat = self.maps.is_some() || self.masks.is_some();
            let heat = if has_heat { predictor.heat(images)?.into_data() } else { Vec::new() };
            judged = Some((judgement, heat));
        }
        let (scores, heat) = judged.map(|(judgement, heat)| (judgement.scores, heat)).unwrap_or_default();
        let (mut rows, mut first) = (Vec::new(), 0);
        for file in files {
            // The path and not the name, which may be equal in two folders.
            let path = as_text(file.as_ref().map_or_else(|bad| &bad.path, |file| &file.path));
            let score = Err(String::new());
            let mut row = Predicted { path, score, p_value: None, anomalous: None, map: None, mask: None };
            match file {
                Err(BadImage { reason, .. }) => row.score = Err(reason.to_string()),
                Ok(file) => {
                    let views = first..first + file.views();
                    first = views.end;
                    let (score, _) = greatest(&scores, views.clone());
                    row.score = Some(score)
                        .filter(|score| score.is_finite())
                        .ok_or(format!("its score is not finite: {score}"));
                    row.p_value = row.score.is_ok().then(|| p_value(&self.model.held_out, score)).flatten();
                    row.anomalous = row.score.is_ok().then(|| Some(is_flagged(score, self.threshold?))).flatten();
                    if !heat.is_empty() {
                        self.picture(file, batch, &heat, views, &mut row)?;
                    }
                }
            }
            rows.push(row);
        }
        Ok(rows)
    }

    /// Writes the map and the mask of an image, given the heat of all views of the batch.
    fn picture(
        &mut self,
        file: &ReadFile,
        batch: &Batch,
        heat: &[f32],
        views: std::ops::Range<usize>,
        row: &mut Predicted,
    ) -> anyhow::Result<()> {
        let conversion = self.model.conversion();
        let [c, h, w] = conversion.image();
        let of = |values: &[f32], channels: usize| {
            let own = channels * h * w;
            file.whole(&values[views.start * own..views.end * own], [channels, h, w])
        };
        let whole = of(heat, 1);
        if let Some(maps) = &mut self.maps {
            row.map = Some(maps.write(&file.name, &of(batch.images.data(), c), &whole, heat)?);
        }
        if let Some(masks) = &mut self.masks {
            let is_anomaly = row.anomalous.unwrap_or(true);
            row.mask = Some(masks.write(&file.name, &whole, is_anomaly, file.size, file.geometry(&conversion))?);
        }
        Ok(())
    }

    fn print(&mut self, rows: &[Predicted]) -> anyhow::Result<()> {
        if self.predict.json {
            for Predicted { path, score, p_value, anomalous, map, mask } in rows {
                let mut row = match score {
                    Ok(score) => json!({ "path": path, "score": score, "p_value": p_value, "anomalous": anomalous }),
                    Err(error) => json!({ "path": path, "error": error }),
                };
                if let Some(map) = map {
                    row["map"] = json!(as_text(map));
                }
                if let Some((mask, boxes)) = mask {
                    row["mask"] = json!(as_text(mask));
                    row["boxes"] = json!(boxes);
                }
                result!("{row}")?;
            }
            return Ok(());
        }
        let mut table = csv::Writer::from_writer(Vec::new());
        let (has_maps, has_masks) = (self.maps.is_some(), self.masks.is_some());
        let more = has_maps.then_some(&["map"][..]).into_iter().chain(has_masks.then_some(&["mask", "boxes"][..]));
        if !self.has_header {
            table.write_record(["path", "score", "p_value", "anomalous", "error"].iter().chain(more.flatten()))?;
            self.has_header = true;
        }
        for Predicted { path, score, p_value, anomalous, map, mask } in rows {
            let p_value = p_value.map(|p| p.to_string()).unwrap_or_default();
            let anomalous = anomalous.map(|anomalous| u8::from(anomalous).to_string()).unwrap_or_default();
            let (score, error) = match score {
                Ok(score) => (score.to_string(), String::new()),
                Err(error) => (String::new(), error.clone()),
            };
            let mut record = vec![path.to_string(), score, p_value, anomalous, error];
            let text = |path: &PathBuf| as_text(path).into_owned();
            if has_maps {
                record.push(map.as_ref().map(text).unwrap_or_default());
            }
            if has_masks {
                let joined = |own: &[u32; 4]| own.map(|pixel| pixel.to_string()).join(" ");
                let boxes = mask.iter().flat_map(|(_, boxes)| boxes).map(joined).collect::<Vec<_>>().join(";");
                record.extend([mask.as_ref().map(|(mask, _)| text(mask)).unwrap_or_default(), boxes]);
            }
            table.write_record(record)?;
        }
        Ok(result!("{}", String::from_utf8_lossy(&table.into_inner()?).trim_end_matches(['\r', '\n']))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threshold_is_a_finite_score() {
        assert_eq!(finite("-0.5"), Ok(-0.5));
        for wrong in ["", "5%", "nan", "inf", "x"] {
            assert!(finite(wrong).unwrap_err().contains("--false-alarms"), "{wrong}");
        }
    }
}
