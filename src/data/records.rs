//! Images that a CSV file lists, with their sets, labels and masks.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::decode::Channels;
use super::files::{self, Entry, LeftOut, Mask};
use super::names::Names;
use super::source::{Listed, Purpose};
use super::{DataError, Loading, Task, Truth, component};

/// A CSV file with a header and a row for each image. Columns: `path`; `split`, which is `train`, `test` or `unlabelled` (to tune on);
/// `label`, which is empty if it is unknown, `normal`, `good` or 0 for a normal image, and `anomaly`, 1 or the name of a defect
/// for an anomaly (words such as `False` or `none` are refused, since they may mean either); and `mask`, the path of its mask, which may be empty. The last two columns may be missing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    pub file: PathBuf,
    /// The folder to which paths are relative; by default that of the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<PathBuf>,
    /// Name of the task; by default the name of the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// The set to which a row belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Split {
    Train,
    Unlabelled,
    Test,
}

/// The columns of a table that have other names elsewhere.
#[derive(Clone, Copy, Debug)]
pub(super) struct Columns<'a> {
    pub path: &'static str,
    /// The column of the category, and the only category to read.
    pub category: Option<(&'static str, &'a str)>,
}

/// The rows of a table.
#[derive(Debug)]
pub(super) struct Records(Vec<(Split, Entry)>);

impl Records {
    /// Reads a table.
    ///
    /// # Errors
    /// When the file cannot be read, a column is missing, or a field is not as described.
    pub fn read(file: &Path, root: &Path, columns: Columns) -> Result<Self, DataError> {
        let wrong = |line: Option<u64>, problem: String| {
            let place = line.map(|line| format!(", line {line}")).unwrap_or_default();
            DataError::Setting(format!("{}{place}: {problem}", file.display()))
        };
        let malformed = |error: csv::Error| {
            let line = error.position().map(|position| position.line());
            wrong(
                line,
                match error.kind() {
                    csv::ErrorKind::UnequalLengths { expected_len, len, .. } => format!(
                        "this row has {len} fields and the header {expected_len}: put fields that contain commas in quotation \
                     marks, and close these"
                    ),
                    csv::ErrorKind::Utf8 { .. } => "this is not UTF-8: save the file as UTF-8".to_owned(),
                    _ => format!("it cannot be read: {error}"),
                },
            )
        };
        let open = std::fs::File::open(file);
        let open = open.map_err(|source| DataError::Unreadable { path: file.to_owned(), source })?;
        let mut table = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(open);
        let header = table.headers().map_err(malformed)?.clone();
        let column = |name: &str| {
            // Excel writes a byte order mark.
            let is_it = |&at: &usize| header[at].trim_start_matches('\u{feff}') == name;
            let mut found = (0..header.len()).filter(is_it);
            match (found.next(), found.next()) {
                (_, Some(_)) => Err(wrong(
                    Some(1),
                    format!("two columns are called `{name}`: rename or remove the one that does not count"),
                )),
                (first, None) => Ok(first),
            }
        };
        let needed = |name: &str| {
            let found = header.iter().collect::<Vec<_>>().join(", ");
            let problem = match header.len() {
                0 => "the file is empty: it needs a header with the columns path and split, and a row for each image"
                    .into(),
                1 if found.contains([';', '\t']) => {
                    format!("there is no column `{name}` in `{found}`: separate columns by commas")
                }
                _ => format!("there is no column `{name}`; there are {found}"),
            };
            column(name)?.ok_or_else(|| wrong(Some(1), problem))
        };
        let (path, split) = (needed(columns.path)?, needed("split")?);
        let (label, mask) = (column("label")?, column("mask")?);
        let category = columns.category.map(|(name, wanted)| Ok((needed(name)?, wanted))).transpose()?;

        let (mut names, mut rows) = (Names::of(root, ""), Vec::new());
        // Shared by all images with the label.
        let mut truths = HashMap::<String, Arc<Truth>>::new();
        for row in table.records() {
            let row = row.map_err(malformed)?;
            let line = row.position().map(csv::Position::line);
            let field = |column: Option<usize>| column.and_then(|column| row.get(column)).unwrap_or_default();
            if category.is_some_and(|(column, wanted)| row.get(column) != Some(wanted)) {
                continue;
            }
            let (name, own) = (field(Some(path)), field(Some(split)));
            if name.is_empty() {
                return Err(wrong(line, format!("the column `{}` is empty", columns.path)));
            }
            let own = match own.to_lowercase().as_str() {
                "train" => Split::Train,
                "test" => Split::Test,
                "unlabelled" | "unlabeled" | "tune" | "val" | "validation" => Split::Unlabelled,
                _ => return Err(wrong(line, format!("split is `{own}`: it must be train, test or unlabelled"))),
            };
            let label = field(label);
            let truth = match truths.get(label) {
                Some(known) => known.clone(),
                None => {
                    let unclear = || {
                        let problem = format!(
                            "the label `{}` may mean either: write normal, anomaly or the name of a defect, or nothing if it is \
                             unknown",
                            files::printable(label)
                        );
                        wrong(line, problem)
                    };
                    truths.entry(label.to_owned()).or_insert(truth(label).ok_or_else(unclear)?).clone()
                }
            };
            if own == Split::Train && truth.anomalous == Some(true) {
                let problem =
                    "an anomaly has the split train: training images must be normal, so change its split to test";
                return Err(wrong(line, problem.to_owned()));
            }
            let mask = match field(mask) {
                "" if truth.anomalous == Some(false) => Mask::Blank,
                "" => Mask::Unknown,
                mask => Mask::Files([root.join(mask)].into()),
            };
            names.push(&name.replace('\\', "/"), &root.join(name));
            rows.push((own, truth, mask));
        }
        let entries = names.each().zip(rows);
        Ok(Records(entries.map(|(name, (split, truth, mask))| (split, Entry { name, truth, mask })).collect()))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The images to train on, to tune on, and to test on. For a test alone they are all of the split `test`, or without such all
    /// images.
    ///
    /// # Errors
    /// When there are no images to train on, or none to tune or test on.
    pub fn sets(self, file: &Path, purpose: Purpose) -> Result<[Vec<Entry>; 3], DataError> {
        let has = |wanted: Split| self.0.iter().any(|(split, _)| *split == wanted);
        let has_test = has(Split::Test);
        let needed = match purpose {
            Purpose::Train => {
                vec![(has(Split::Train), "train"), (has_test || has(Split::Unlabelled), "unlabelled or test")]
            }
            Purpose::Test => vec![(!self.is_empty(), "test")],
        };
        if let Some((_, split)) = needed.into_iter().find(|(found, _)| !found) {
            let problem = format!("{} has no image of the split {split}: add rows", file.display());
            return Err(DataError::Setting(problem));
        }
        let [mut train, mut unlabelled, mut test] = [const { Vec::new() }; 3];
        for (split, entry) in self.0 {
            match (split, purpose) {
                (Split::Train, Purpose::Train) => train.push(entry.good()),
                (Split::Unlabelled, Purpose::Train) => unlabelled.push(entry),
                (Split::Test, _) => test.push(entry),
                (_, Purpose::Test) if has_test => {}
                (_, Purpose::Test) => test.push(entry),
            }
        }
        Ok([train, unlabelled, test])
    }
}

/// What a label says; `None` if it would be read as the name of a defect, but is hardly meant as one. Numbers may have a fraction where
/// a program that writes tables lacked some of them.
fn truth(label: &str) -> Option<Arc<Truth>> {
    match label.to_lowercase().as_str() {
        "" => Some(Truth::unknown()),
        "normal" | "good" | "ok" | "0" | "0.0" => Some(Truth::good()),
        "1" | "1.0" => Some(Truth::anomaly("anomaly")),
        "true" | "false" | "yes" | "no" | "positive" | "negative" | "pass" | "-1" => None,
        "unknown" | "none" | "null" | "nan" | "na" | "n/a" => None,
        _ => Some(Truth::anomaly(label)),
    }
}

impl Table {
    pub(super) fn list(&self, loading: &Loading, purpose: Purpose) -> Result<Listed, DataError> {
        let root = self.root.clone().unwrap_or_else(|| self.file.parent().unwrap_or(Path::new("")).to_owned());
        let records = Records::read(&self.file, &root, Columns { path: "path", category: None })?;
        let [train, unlabelled, test] = records.sets(&self.file, purpose)?;
        let own = self.file.file_stem().map(files::printable).unwrap_or_default();
        let category = component(self.name.as_ref().unwrap_or(&own));
        let conversion =
            loading.conversion(files::SIDE, Channels::Rgb).for_files(loading, [&train, &unlabelled, &test]);
        let [train, unlabelled, test] = files::sets([train, unlabelled, test], conversion, loading)?;
        let task = Task::tuned_on(
            unlabelled,
            Task { dataset: "table".into(), category, train, held_out: None, tune: None, test },
        );
        Ok(Listed { task, conversion, left_out: LeftOut::default() })
    }
}
