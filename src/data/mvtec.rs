//! MVTec AD's folder layout, read and written.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::{Deserialize, Serialize};

use super::decode::Channels;
use super::files::{self, Entry, Files, LeftOut, Mask, Masks, Reading};
use super::{DataError, Loaded, Loading, Set, Task, component};

/// One category of a dataset in MVTec AD's layout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mvtec {
    /// Folder of the categories.
    pub root: PathBuf,
    /// Such as `bottle`.
    pub category: String,
    /// The only defect to test, such as `broken_large`; by default all defects are tested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub defect: Option<String>,
}

const LAYOUT: &str = "    <root>/<category>/train/good/000.png …
    <root>/<category>/test/good/000.png …
    <root>/<category>/test/<defect>/000.png …
    <root>/<category>/ground_truth/<defect>/000_mask.png, 000.png or a folder 000 of masks …, if there are masks";

impl Mvtec {
    pub(super) fn check(&self) -> Result<(), DataError> {
        if self.category.is_empty() {
            return Err(DataError::Setting(
                "--category is empty: it must be a folder's name, such as `bottle`".to_owned(),
            ));
        }
        match self.defect.as_deref() {
            Some("good") => {
                Err(DataError::Setting("--defect is `good`: it must be a defect, such as `broken_large`".to_owned()))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn load(&self, loading: &Loading, on_file: &(dyn Fn(usize, usize) + Sync)) -> Result<Loaded, DataError> {
        let conversion = loading.conversion(files::SIDE, Channels::Rgb)?;
        let mut left_out = LeftOut::default();
        let (train, test) = self.list(&mut left_out)?;
        let conversion = conversion.for_files(loading, [&train, &test]).for_training(loading, &files::paths(&train));
        let read = Reading { conversion, loading, on_file }.read([train, test])?;
        let [train, test] = read.sets;
        let category = match &self.defect {
            Some(defect) => format!("{}-{}", component(&self.category), component(defect)),
            None => component(&self.category),
        };
        let task = Task { dataset: "mvtec".to_owned(), category, train, held_out: None, tune: None, test };
        Ok(Loaded { task, conversion, files: Files { left_out, ..read.files } })
    }

    /// The images to train and to test on.
    fn list(&self, left_out: &mut LeftOut) -> Result<(Vec<Entry>, Vec<Entry>), DataError> {
        if !self.root.is_dir() {
            return Err(DataError::NoFolder { path: self.root.clone() });
        }
        let folder = self.root.join(&self.category);
        let layout = |problem: String, shown: &Path| DataError::Layout {
            dataset: "mvtec",
            root: self.root.clone(),
            problem,
            expected: LAYOUT.to_owned(),
            found: found(shown),
        };
        if !folder.is_dir() {
            return Err(layout(format!("there is no category `{}`", files::printable(&self.category)), &self.root));
        }
        for part in ["train/good", "test"] {
            if !folder.join(part).is_dir() {
                return Err(layout(format!("{} has no {part}", folder.display()), &folder));
            }
        }
        let kinds = files::folders(&folder.join("test"))?;
        if let Some(defect) = self.defect.as_ref().filter(|&defect| !kinds.iter().any(|kind| kind == defect.as_str())) {
            let problem =
                format!("there is no defect `{}` in {}", files::printable(defect), folder.join("test").display());
            return Err(layout(problem, &folder.join("test")));
        }

        let train = files::list(&folder.join("train/good"), "train/good/", left_out)?;
        let train = train.into_iter().map(Entry::good).collect();
        let has_masks = folder.join("ground_truth").is_dir();
        let mut test = Vec::new();
        let wanted =
            |kind: &&OsString| **kind == *"good" || self.defect.as_ref().is_none_or(|defect| **kind == **defect);
        for kind in kinds.iter().filter(wanted) {
            let (masks, name) = (folder.join("ground_truth").join(kind), files::printable(kind));
            let masks = match masks.is_dir() && name != "good" {
                true => Masks::list(&masks, left_out)?,
                false => Masks::default(),
            };
            for entry in files::list(&folder.join("test").join(kind), &format!("test/{name}/"), left_out)? {
                test.push(match name.as_str() {
                    "good" => Entry { mask: if has_masks { Mask::Blank } else { Mask::Unknown }, ..entry.good() },
                    kind => Entry { mask: masks.of(&entry.below), ..entry.anomaly(kind) },
                });
            }
            left_out.add_unused([&masks], &test);
        }
        Ok((train, test))
    }
}

/// The folders in `folder`, one per line, with their contents.
fn found(folder: &Path) -> String {
    const LINES: usize = 16;
    let names = files::folders(folder).unwrap_or_default();
    let mut lines: Vec<String> = names
        .iter()
        .take(LINES)
        .map(|name| {
            let inner = files::folders(&folder.join(name)).unwrap_or_default();
            let count = folder.join(name).read_dir().map_or(0, Iterator::count) - inner.len();
            let inner: String = inner.iter().map(|name| format!(" {}/", files::printable(name))).collect();
            format!("    {}/{}/  {count} files{inner}", folder.display(), files::printable(name))
        })
        .collect();
    match names.len() {
        0 => lines.push(format!("    {}/  without folders", folder.display())),
        count if count > LINES => lines.push(format!("    and {} more", count - LINES)),
        _ => {}
    }
    lines.join("\n")
}

/// Writes a transductive task to `root/<category>` in MVTec AD's layout: `train/good`, `test/good`, `test/<kind>`, and masks in
/// `ground_truth/<kind>/NNN_mask.png`. Images are 8 bit PNGs, numbered from 000 in each folder. Held-out images are written to
/// `train/good` after the training images; whoever reads the folder holds out its own share.
///
/// # Errors
/// When the folder already exists, or cannot be written to.
///
/// # Panics
/// When the images are neither grey nor RGB.
pub fn write(root: &Path, task: &Task) -> Result<PathBuf, DataError> {
    let folder = root.join(component(&task.category));
    let unwritable = |path: &Path, source: io::Error| DataError::Unwritable { path: path.to_owned(), source };
    fs::create_dir_all(root).map_err(|error| unwritable(root, error))?;
    match fs::create_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(DataError::Occupied { path: folder });
        }
        other => other.map_err(|error| unwritable(&folder, error))?,
    }
    let train = match &task.held_out {
        Some(held_out) => &task.train.clone().join(held_out.clone()),
        None => &task.train,
    };
    write_set(&folder, "train", train)?;
    write_set(&folder, "test", &task.test)?;
    Ok(folder)
}

fn write_set(folder: &Path, name: &str, set: &Set) -> Result<(), DataError> {
    let [_, channels, height, width] = set.images.shape().images().expect("images have four axes");
    assert!(channels == 1 || channels == 3, "{channels} channels are neither grey nor RGB");
    let mut numbers = std::collections::BTreeMap::new();
    for (truth, image) in set.truths.iter().zip(set.images.data().chunks_exact(channels * height * width)) {
        let kind = match truth.anomalous {
            Some(true) => component(&truth.kind),
            _ => "good".to_owned(),
        };
        let number = numbers.entry(kind.clone()).or_insert(0);
        let levels: Vec<u8> = (0..height * width)
            .flat_map(|pixel| (0..channels).map(move |channel| image[channel * height * width + pixel]))
            .map(|level| (255.0 * level.clamp(0.0, 1.0)).round() as u8)
            .collect();
        let colour = if channels == 1 { image::ColorType::L8 } else { image::ColorType::Rgb8 };
        save(&folder.join(name).join(&kind).join(format!("{number:03}.png")), &levels, [width, height], colour)?;
        if let Some(mask) = truth.mask.as_ref().filter(|_| truth.anomalous == Some(true)) {
            let levels: Vec<u8> = mask.iter().map(|&covered| if covered { 255 } else { 0 }).collect();
            let path = folder.join("ground_truth").join(&kind).join(format!("{number:03}_mask.png"));
            save(&path, &levels, [width, height], image::ColorType::L8)?;
        }
        *number += 1;
    }
    Ok(())
}

fn save(path: &Path, levels: &[u8], [width, height]: [usize; 2], colour: image::ColorType) -> Result<(), DataError> {
    let unwritable = |source: io::Error| DataError::Unwritable { path: path.to_owned(), source };
    fs::create_dir_all(path.parent().expect("a folder")).map_err(unwritable)?;
    image::save_buffer(path, levels, width as u32, height as u32, colour)
        .map_err(|error| unwritable(io::Error::other(error)))
}
