//! The curves of a run in training: rows of `metrics.csv`, and events for TensorBoard, as the steps are done.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::{Step, events, header, rows, since_1970};
use crate::run::folder::RunFolder;
use crate::run::outcome::ReportError;
use crate::run::store;

/// Time between two additions.
const INTERVAL: Duration = Duration::from_secs(1);

/// The files to which steps are added. When the run ends they are replaced by files with the same steps in order.
#[derive(Debug)]
pub struct LiveSteps<'a> {
    folder: &'a RunFolder,
    /// Of the hyper-parameters.
    names: BTreeSet<String>,
    has_events: bool,
    /// Steps that are in no file yet.
    pending: Vec<Step>,
    added: Instant,
    /// Whether an addition failed, so that a file may end within a row.
    is_broken: bool,
}

impl<'a> LiveSteps<'a> {
    /// Begins the files with the steps that a run has done so far, whatever they held, with a column for each of `names`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn begin(
        folder: &'a RunFolder,
        names: BTreeSet<String>,
        done: &[Step],
        has_events: bool,
    ) -> Result<Self, ReportError> {
        folder.write(super::METRICS, (header(&names) + &rows(done, &names)).as_bytes())?;
        if has_events {
            let now = since_1970();
            folder.write(events::FILE, &[events::header(now), events::encode(done, now)].concat())?;
        }
        Ok(LiveSteps { folder, names, has_events, pending: Vec::new(), added: Instant::now(), is_broken: false })
    }

    /// Takes steps that were just done; writes them if the last ones were written a while ago.
    pub fn take(&mut self, steps: impl Iterator<Item = Step>) {
        self.pending.extend(steps);
        if self.added.elapsed() >= INTERVAL {
            self.flush();
        }
    }

    /// Writes what is not written yet. A run must not end because its curves cannot be watched: after a failure, such as on a full disk,
    /// which the next checkpoint will report, nothing is added.
    pub fn flush(&mut self) {
        self.added = Instant::now();
        let steps = std::mem::take(&mut self.pending);
        if self.is_broken || steps.is_empty() {
            return;
        }
        let add = |file: &str, bytes: &[u8]| store::append(&self.folder.path().join(file), bytes);
        let events = || match self.has_events {
            true => add(events::FILE, &events::encode(&steps, since_1970())),
            false => Ok(()),
        };
        self.is_broken = add(super::METRICS, rows(&steps, &self.names).as_bytes()).and_then(|()| events()).is_err();
    }
}
