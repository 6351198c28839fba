//! A table of the sets of a task.

use std::collections::BTreeMap;
use std::fmt;

use super::decode::Levels;
use super::files::printable;
use super::{Channels, Files, Identical, Loaded, Resize, Set};

/// The sets of a task with the numbers of labels and masks.
#[derive(Clone, Copy, Debug)]
pub struct SplitTable<'a>(pub &'a Loaded);

/// Number of sizes or kinds that are listed; the rest are only counted.
const LISTED: usize = 12;

impl fmt::Display for SplitTable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Loaded { task, conversion, files } = self.0;
        let Files { skipped, originals, left_out, mended, brightest } = files;
        writeln!(
            f,
            "{:<24}{:>9}{:>9}{:>11}{:>9}{:>7}  kinds",
            "set", "images", "normal", "anomalous", "unknown", "masks"
        )?;
        row(f, "train", &task.train)?;
        if let Some(held_out) = &task.held_out {
            row(f, "held out, for threshold", held_out)?;
        }
        match &task.tune {
            Some(tune) => {
                row(f, "tune, labels unused", tune)?;
                row(f, "test", &task.test)?;
            }
            None => row(f, "tune = test", &task.test)?,
        }
        let channels = match conversion.channels {
            Channels::Grey => "grey",
            Channels::Rgb => "RGB",
        };
        let resize = match conversion.resize {
            Resize::Stretch => "stretched",
            Resize::Crop => "cropped",
            Resize::Letterbox => "letterboxed",
        };
        let side = conversion.side;
        let originals = listed(originals.iter().map(|(original, count)| format!("{original} ({count})")).collect());
        write!(f, "every image becomes {side}×{side} {channels}, {resize} from {originals}")?;
        if task.test.rows(Some(true)).is_empty() || task.test.rows(Some(false)).is_empty() {
            write!(f, "\nthe labelled test images are not of both classes, so figures that need both are n/a")?;
        }
        let images = &task.train.images;
        let (first, others) = images.data().split_at(images.shape()[1..].iter().product());
        if task.train.len() > 1 && others.chunks_exact(first.len()).all(|other| other == first) {
            write!(
                f,
                "\nwarning: all {} training images are identical: no detector can learn from them",
                task.train.len()
            )?;
        }
        if let Some(brightest) = *brightest {
            levels(f, conversion.levels, brightest)?;
        }
        masks(f, &task.test)?;
        let identical = Identical::of(task).to_string();
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
            write!(f, "\nleft out {} images that cannot be used", skipped.len())?;
            for image in skipped {
                write!(f, "\n  {image}")?;
            }
        }
        Ok(())
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
    if test.truths.iter().all(|truth| truth.mask.is_none()) {
        return Ok(());
    }
    let anomalies = test.rows(Some(true));
    let mut tell = |is_odd: &dyn Fn(Option<&Vec<bool>>) -> bool, what: &str| -> fmt::Result {
        let odd: Vec<usize> = anomalies.iter().copied().filter(|&row| is_odd(test.truths[row].mask.as_ref())).collect();
        match odd.first() {
            Some(&first) => {
                let (count, all) = (odd.len(), anomalies.len());
                write!(f, "\n{count} of {all} anomalous test images {what}, such as {}", test.names[first])
            }
            None => Ok(()),
        }
    };
    tell(&|mask| mask.is_none(), "have no mask at their path and count only for the metrics of images")?;
    tell(&|mask| mask.is_some_and(|mask| !mask.contains(&true)), "have a mask without a defect")?;
    tell(&|mask| mask.is_some_and(|mask| !mask.contains(&false)), "have a mask that is a defect all over")
}

fn row(f: &mut fmt::Formatter, name: &str, set: &Set) -> fmt::Result {
    let mut kinds = BTreeMap::new();
    for truth in set.truths.iter().filter(|truth| !truth.kind.is_empty()) {
        *kinds.entry(truth.kind.as_str()).or_insert(0) += 1;
    }
    let kinds = listed(kinds.iter().map(|(kind, count)| format!("{} {count}", printable(kind))).collect());
    let [normal, anomalous, unknown] = [Some(false), Some(true), None].map(|known| set.rows(known).len());
    let masks = set.truths.iter().filter(|truth| truth.mask.is_some()).count();
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
