//! Sweeps: tasks × methods × seeds as independent jobs, each a run in its own folder.
//!
//! The name of a job contains a hash of its configuration, and a process locks the job's folder while it works on it. So any
//! number of processes, on one machine or many, can work on one sweep: finished jobs and those of other processes are skipped, failed
//! ones are tried again when asked, and unfinished ones resume from their checkpoints. The results do not depend on which process did
//! which job, or in which order. A job's result has the fingerprint of its images, and that of the images whatever sets the seed put
//! them into, so that images that changed between jobs are noticed.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use toml::Table;

use crate::data::Loading;
use crate::run::config::{ConfigError, RunConfig, overlay};
use crate::run::folder::{Failure, RunFolder};
use crate::run::outcome::{Outcome, ReportError};
use crate::run::report::{Comparison, ComparisonError, Measured, OtherImages, Run};
use crate::run::settings::{SettingsError, Written};

/// A grid, read from a TOML file: settings common to all jobs, and the settings of each task and method that override them.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grid {
    pub seeds: Vec<u64>,
    /// Name of the method that the others are compared with.
    pub reference: String,
    #[serde(default)]
    pub common: Table,
    #[serde(rename = "task")]
    pub tasks: Vec<Entry>,
    #[serde(rename = "method")]
    pub methods: Vec<Entry>,
}

/// A task or a method: a named part of a configuration.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    pub name: String,
    #[serde(default)]
    pub config: Table,
}

/// One run of a sweep.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Job {
    /// `<task>/<method>/seed<seed>-<hash>`, also its folder.
    pub name: String,
    pub task: String,
    pub method: String,
    pub seed: u64,
    pub config: RunConfig,
}

/// Why a grid is invalid.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("the job {job}")]
    Config { job: String, source: Box<ConfigError> },
    #[error("the grid has two {what}s named `{name}`: give each its own name")]
    Twice { what: &'static str, name: String },
    #[error("the grid has no {what}: it needs at least one")]
    Nothing { what: &'static str },
    #[error("the grid's `reference` is `{0}`, but no method has this name")]
    Reference(String),
    #[error(
        "`{0}` is not a valid name: use at most {LONGEST} letters, digits, `-`, `_` and `.`, and begin with a letter or a digit"
    )]
    Name(String),
    #[error("the configuration of the job {0} has a `seed`: give the seeds of all jobs as `seeds` of the grid")]
    Seed(String),
}

impl Grid {
    /// Reads a grid.
    ///
    /// # Errors
    /// When the text is not TOML, or a key is missing or unknown.
    pub fn parse(text: &str) -> Result<Self, SweepError> {
        Self::read(&Written { text, ..Written::default() })
    }

    /// Reads a grid from a file.
    ///
    /// # Errors
    /// As [`parse`](Self::parse), with the file's name and line.
    pub fn read(written: &Written) -> Result<Self, SweepError> {
        Ok(written.read(written.table()?, &Table::new())?)
    }

    /// All jobs, ordered by task, then by seed, then by method.
    ///
    /// # Errors
    /// When a name is repeated or cannot name a folder, there are no jobs, or a job's configuration is invalid.
    pub fn jobs(&self) -> Result<Vec<Job>, SweepError> {
        let names = |entries: &[Entry]| entries.iter().map(|entry| entry.name.clone()).collect::<Vec<_>>();
        for (what, names) in [("task", names(&self.tasks)), ("method", names(&self.methods))] {
            check_names(what, names)?;
        }
        check_names("seed", self.seeds.iter().map(u64::to_string).collect())?;
        if !self.methods.iter().any(|method| method.name == self.reference) {
            return Err(SweepError::Reference(self.reference.clone()));
        }
        let mut jobs = Vec::new();
        for task in &self.tasks {
            for &seed in &self.seeds {
                for method in &self.methods {
                    jobs.push(self.job(task, method, seed)?);
                }
            }
        }
        Ok(jobs)
    }

    fn job(&self, task: &Entry, method: &Entry, seed: u64) -> Result<Job, SweepError> {
        let mut table = self.common.clone();
        overlay(&mut table, task.config.clone());
        overlay(&mut table, method.config.clone());
        let name = format!("{}/{}/seed{seed}", task.name, method.name);
        if table.contains_key("seed") {
            return Err(SweepError::Seed(name));
        }
        let named = |source: ConfigError| SweepError::Config { job: name.clone(), source: source.into() };
        let config = RunConfig { seed, ..RunConfig::from_keys(table).map_err(named)? };
        config.source().map_err(named)?;
        let text = format!("{}\n{}", env!("CARGO_PKG_VERSION"), config.to_toml());
        let hash = &blake3::hash(text.as_bytes()).to_hex()[..8];
        Ok(Job { name: format!("{name}-{hash}"), task: task.name.clone(), method: method.name.clone(), seed, config })
    }
}

/// Letters of the name of a task or a method, which are those of a folder.
const LONGEST: usize = 100;

fn check_names(what: &'static str, mut names: Vec<String>) -> Result<(), SweepError> {
    let is_plain = |name: &String| {
        let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
        name.len() <= LONGEST
            && name.starts_with(|first: char| first.is_ascii_alphanumeric())
            && name.chars().all(plain)
    };
    if let Some(name) = names.iter().find(|name| !is_plain(name)) {
        return Err(SweepError::Name(name.clone()));
    }
    names.sort();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(SweepError::Twice { what, name: pair[0].clone() }),
        None if names.is_empty() => Err(SweepError::Nothing { what }),
        None => Ok(()),
    }
}

/// The jobs that one process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    All,
    /// The `index`-th, counted from 0, of `of` shares, which differ by one job at most. Jobs are dealt out by the hashes of their
    /// names, so that every share has jobs of all tasks and methods.
    Shard {
        index: usize,
        of: usize,
    },
    /// One job, counted from 0.
    Index(usize),
}

impl Share {
    /// The jobs of this share.
    pub fn of(self, jobs: &[Job]) -> Vec<&Job> {
        match self {
            Share::All => jobs.iter().collect(),
            Share::Shard { index, of } => {
                let mut dealt: Vec<&Job> = jobs.iter().collect();
                dealt.sort_by_cached_key(|job| *blake3::hash(job.name.as_bytes()).as_bytes());
                dealt.into_iter().skip(index).step_by(of).collect()
            }
            Share::Index(index) => jobs.get(index).into_iter().collect(),
        }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Share::All => f.write_str("all"),
            Share::Shard { index, of } => write!(f, "share {index} of {of}"),
            Share::Index(index) => write!(f, "number {index} alone"),
        }
    }
}

impl Job {
    /// The job's folder in the folder of the sweep.
    pub fn folder(&self, sweep: &Path) -> PathBuf {
        sweep.join(&self.name)
    }

    /// The job's result; `None` if it is not finished.
    ///
    /// # Errors
    /// When there is a result that cannot be read, or is another job's.
    pub fn outcome(&self, sweep: &Path) -> Result<Option<Outcome>, ReportError> {
        let outcome = Outcome::load(&self.folder(sweep))?;
        let is_own = |outcome: &Outcome| {
            let method = outcome.method.as_deref().unwrap_or(self.config.method.name());
            outcome.seed == self.seed && method == self.config.method.name()
        };
        match outcome {
            Some(outcome) if !is_own(&outcome) => Err(ReportError::OfAnother { path: self.folder(sweep) }),
            outcome => Ok(outcome),
        }
    }

    /// How the job failed, as [`RunFolder::fail`] recorded it; `None` if it did not.
    pub fn failure(&self, sweep: &Path) -> Option<Failure> {
        RunFolder::failure(&self.folder(sweep))
    }

    /// What the job came to, if this is its [`outcome`](Self::outcome).
    fn measured(&self, sweep: &Path, outcome: &Result<Option<Outcome>, ReportError>) -> Measured {
        match (outcome, self.failure(sweep)) {
            (Err(error), _) => Measured::Failed(error.to_string()),
            (Ok(Some(outcome)), _) => outcome.image_auroc.map_or(Measured::Unlabelled, Measured::Auroc),
            (Ok(None), Some(failure)) => Measured::Failed(failure.reason),
            (Ok(None), None) => Measured::Missing,
        }
    }
}

/// Jobs that were to have the same images, and had different ones, by the fingerprints of these: jobs of the same task that read their
/// images in the same way, of all seeds where a seed has no say in which images there are, and else of the same seed.
fn of_other_images(jobs: &[Job], results: &[Result<Option<Outcome>, ReportError>]) -> Vec<OtherImages> {
    let mut readings: BTreeMap<String, OtherImages> = BTreeMap::new();
    for (job, result) in jobs.iter().zip(results) {
        let Ok(Some(outcome)) = result else { continue };
        let (seed, fingerprint) = match (&outcome.seedless_fingerprint, &outcome.fingerprint) {
            (Some(seedless), _) => (None, seedless),
            (None, Some(own)) => (Some(job.seed), own),
            (None, None) => continue,
        };
        let loading = Loading { seed: 0, ..job.config.loading() };
        let reading = format!("{:?}", (&job.task, &job.config.data, loading, seed));
        let fingerprints = readings.entry(reading).or_default();
        fingerprints.entry(fingerprint.clone()).or_default().push(job.name.clone());
    }
    readings.into_values().filter(|fingerprints| fingerprints.len() > 1).collect()
}

/// Compares the methods by the results of the jobs in the folder of the sweep; jobs without one are listed.
///
/// # Errors
/// When the jobs cannot be compared; see [`Comparison::new`].
pub fn merge(
    grid: &Grid,
    jobs: &[Job],
    results: &[Result<Option<Outcome>, ReportError>],
    sweep: &Path,
) -> Result<Comparison, ComparisonError> {
    let run = |(job, result): (&Job, &_)| Run {
        task: job.task.clone(),
        method: job.method.clone(),
        seed: job.seed,
        result: job.measured(sweep, result),
    };
    let compared = Comparison::new(&jobs.iter().zip(results).map(run).collect::<Vec<_>>(), &grid.reference)?;
    Ok(Comparison { other_images: of_other_images(jobs, results), ..compared })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn shares_have_each_job_once_and_jobs_of_all_methods() {
        let jobs = Grid::parse(include_str!("../../assets/grids/packaged.toml")).unwrap().jobs().unwrap();
        let methods = |share: &[&Job]| share.iter().map(|job| job.method.clone()).collect::<BTreeSet<_>>().len();
        for of in [1, 5, 7, jobs.len(), jobs.len() + 1] {
            let shares: Vec<_> = (0..of).map(|index| Share::Shard { index, of }.of(&jobs)).collect();
            let names: BTreeSet<&str> = shares.iter().flatten().map(|job| &*job.name).collect();
            assert_eq!((names.len(), shares.iter().map(Vec::len).sum()), (jobs.len(), jobs.len()), "{of}");
            if of <= 7 {
                assert!(shares.iter().all(|share| methods(share) == 5), "{of}");
            }
        }
    }

    #[test]
    fn jobs_of_a_task_that_had_other_images_are_found() {
        let grid = Grid::parse(include_str!("../../assets/grids/packaged.toml")).unwrap();
        let grid = Grid { seeds: vec![0, 1], ..grid };
        let jobs = grid.jobs().unwrap();
        // As it is: the images of a task with a seed are the same for all methods.
        let outcome = |job: &Job| {
            let fingerprint = Some(format!("{} {}", job.task, job.seed));
            Ok(Some(Outcome { fingerprint, ..Outcome::default() }))
        };
        let mut results: Vec<_> = jobs.iter().map(outcome).collect();
        assert_eq!(of_other_images(&jobs, &results), []);
        results[1].as_mut().unwrap().as_mut().unwrap().fingerprint = Some("other".into());
        results[2] = Ok(None);
        let found = of_other_images(&jobs, &results);
        let [fingerprints] = &found[..] else { panic!("{found:?}") };
        assert_eq!(fingerprints["other"], [jobs[1].name.clone()]);
        assert!(fingerprints.len() == 2 && fingerprints.values().flatten().all(|name| *name != jobs[2].name));
        let sweep = Path::new("nowhere");
        assert!(merge(&grid, &jobs, &results, sweep).unwrap().markdown().contains("images changed between them"));
        // Where the seed has no say, all seeds have the same images.
        let seedless = |job: &Job| {
            let of = if job.seed == 0 { "the old ones" } else { "the new ones" };
            let fingerprint = Some(format!("{} {}", job.task, job.seed));
            Ok(Some(Outcome { fingerprint, seedless_fingerprint: Some(of.into()), ..Outcome::default() }))
        };
        let found = of_other_images(&jobs, &jobs.iter().map(seedless).collect::<Vec<_>>());
        assert!(
            !found.is_empty()
                && found.iter().all(|prints| prints["the old ones"].len() == prints["the new ones"].len())
        );
    }
}
