//! A table of the sets of a task.

use std::collections::BTreeMap;
use std::fmt;

use super::decode::Levels;
use super::files::printable;
use super::{Channels, Conversion, Files, Loaded, Original, Resize, Set, Size};

/// The sets of a task with the numbers of labels and masks.
#[derive(Clone, Copy, Debug)]
pub struct SplitTable<'a>(pub &'a Loaded);

/// Number of sizes or kinds that are listed; the rest are only counted.
const LISTED: usize = 12;

impl fmt::Display for SplitTable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Loaded { task, conversion, tiles, files, identical, .. } = self.0;
        let Files { skipped, originals, left_out, mended, brightest } = files;
        writeln!(
            f,
            "{:<24}{:>9}{:>9}{:>11}{:>9}{:>7}  kinds",
            "set", "images", "normal", "anomalous", "unknown", "masks"
        )?;
        if !task.train.is_empty() {
            row(f, "train", &task.train)?;
        }
        if let Some(held_out) = &task.held_out {
            row(f, "held out, for threshold", held_out)?;
        }
        match &task.tune {
            Some(tune) => {
                row(f, "tune, labels unused", tune)?;
                row(f, "test", &task.test)?;
            }
            None if task.train.is_empty() => row(f, "test", &task.test)?,
            None => row(f, "tune = test", &task.test)?,
        }
        let channels = match conversion.channels {
            Channels::Grey => "grey".to_owned(),
            Channels::Rgb => "RGB".to_owned(),
            other => format!("of {other} channels"),
        };
        let resize = match conversion.resize {
            Resize::Stretch => "stretched",
            Resize::Crop => "cropped",
            Resize::Letterbox => "letterboxed",
        };
        let Size { height, width } = conversion.size;
        let sizes = listed(originals.iter().map(|(original, count)| format!("{original} ({count})")).collect());
        match tiles {
            Some(tile) => write!(
                f,
                "every image is cut into tiles of {}×{} pixels ({} in all); each becomes {width}×{height} {channels}; images: {sizes}\n\
                 an image's score is the greatest of its tiles'",
                tile.width,
                tile.height,
                task.sets().map(|(_, set)| set.images.len()).sum::<usize>()
            )?,
            None => {
                write!(f, "every image becomes {width}×{height} {channels}, {resize} from {sizes}")?;
                proportions(f, conversion, originals)?;
            }
        }
        if !task.train.is_empty() {
            write!(f, "\n{}", task.split().meaning())?;
        }
        if task.test.rows(Some(true)).is_empty() || task.test.rows(Some(false)).is_empty() {
            write!(f, "\nthe labelled test images are not of both classes, so figures that need both are n/a")?;
        }
        if let Some(count) = identical.training() {
            write!(f, "\nwarning: all {count} training images are identical: no detector can learn from them")?;
        }
        if let Some(brightest) = *brightest {
            levels(f, conversion.levels, brightest)?;
        }
        masks(f, &task.test)?;
        let identical = identical.to_string();
        if !identical.is_empty() {
            write!(f, "\nwarning: identical images: {identical}")?;
        }
        if !left_out.is_empty() {
            write!(f, "\nleft out: {left_out}")?;
        }
        if let Some(first) = mended.first() {
            let (count, first) = (mended.len(), printable(first));
            write!(f, "\nwarning: {count} files are damaged but have all pixels, such as {first}")?;
        }
        if !skipped.is_empty() {
            let images = if skipped.len() == 1 { "image" } else { "images" };
            write!(f, "\nleft out {} {images} that cannot be used", skipped.len())?;
            for image in skipped {
                write!(f, "\n  {image}")?;
            }
        }
        Ok(())
    }
}

/// A warning if stretching distorts images differently, or much.
fn proportions(f: &mut fmt::Formatter, conversion: &Conversion, originals: &BTreeMap<Original, usize>) -> fmt::Result {
    let ratio = |width: f64, height: f64| width / height;
    let own = ratio(conversion.size.width as f64, conversion.size.height as f64);
    // How many times wider an image becomes than it is.
    let stretches = originals.keys().map(|it| own / ratio(it.width.into(), it.height.into()));
    let (least, most) = stretches.fold((f64::MAX, 0.0f64), |(least, most), own| (least.min(own), most.max(own)));
    if conversion.resize != Resize::Stretch || most <= 0.0 {
        return Ok(());
    }
    let advice = "--resize letterbox and --resize crop keep them, and --size H,W sets others";
    if most / least > 1.1 {
        return write!(f, "\nwarning: the images differ in proportions, so each is distorted differently: {advice}");
    }
    match most.max(1.0 / least) > 1.5 {
        true => write!(
            f,
            "\nwarning: stretching changes the images' proportions by a factor of {:.1}: {advice}",
            most.max(1.0 / least)
        ),
        false => Ok(()),
    }
}

/// How the levels of 16 bit images are read.
fn levels(f: &mut fmt::Formatter, levels: Levels, brightest: u16) -> fmt::Result {
    let Levels::Between(black, white) = levels else { return Ok(()) };
    write!(f, "\nin 16 bit images {black} is black and {white} white; no level is above {brightest}")?;
    match Levels::up_to(Some(brightest)) {
        Levels::Between(_, enough) if levels == Levels::FULL && enough < white => {
            write!(f, ": they are dark, and --levels auto would make {enough} white")
        }
        _ => Ok(()),
    }
}

/// What is odd about the masks of the anomalies, if any image has a mask.
fn masks(f: &mut fmt::Formatter, test: &Set) -> fmt::Result {
    if (0..test.len()).all(|row| share(test, row).is_none()) {
        return Ok(());
    }
    let marked: Vec<usize> =
        test.rows(Some(false)).into_iter().filter(|&row| share(test, row).is_some_and(|share| share > 0.0)).collect();
    if let Some(&first) = marked.first() {
        let (count, name) = (marked.len(), &test.names[first]);
        write!(f, "\nwarning: {count} normal test images have a mask with a defect, such as {name}")?;
    }
    let anomalies = test.rows(Some(true));
    let mut tell = |is_odd: &dyn Fn(Option<f32>) -> bool, what: &str| -> fmt::Result {
        let odd: Vec<usize> = anomalies.iter().copied().filter(|&row| is_odd(share(test, row))).collect();
        match odd.first() {
            Some(&first) => {
                let (count, all) = (odd.len(), anomalies.len());
                write!(f, "\n{count} of {all} anomalous test images {what}, such as {}", test.names[first])
            }
            None => Ok(()),
        }
    };
    tell(&|mask| mask.is_none(), "have no mask at their path and count only for the metrics of images")?;
    tell(&|mask| mask == Some(0.0), "have a mask without a defect")?;
    tell(&|mask| mask == Some(1.0), "have a mask that is a defect all over")
}

/// The share of an image that a defect covers; `None` without a mask.
fn share(set: &Set, row: usize) -> Option<f32> {
    set.digest(row).ok()?.mask.map(|mask| mask.share)
}

fn row(f: &mut fmt::Formatter, name: &str, set: &Set) -> fmt::Result {
    let mut kinds = BTreeMap::new();
    for truth in set.truths.iter().filter(|truth| !truth.kind.is_empty()) {
        *kinds.entry(&*truth.kind).or_insert(0) += 1;
    }
    let kinds = listed(kinds.iter().map(|(kind, count)| format!("{} {count}", printable(kind))).collect());
    let [normal, anomalous, unknown] = [Some(false), Some(true), None].map(|known| set.rows(known).len());
    let masks = (0..set.len()).filter(|&row| share(set, row).is_some()).count();
    writeln!(f, "{name:<24}{:>9}{normal:>9}{anomalous:>11}{unknown:>9}{masks:>7}  {kinds}", set.len())
}

fn listed(mut parts: Vec<String>) -> String {
    let more = parts.len().saturating_sub(LISTED);
    if more > 0 {
        parts.truncate(LISTED);
        parts.push(format!("{more} more"));
    }
    parts.join(", ")
}
