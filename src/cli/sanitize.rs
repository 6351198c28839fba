//! `stssad sanitize`: races and other faults of the compute shaders in any WGSL file, without a device.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use serde_json::{Value, json};
use stssad::measure::analyze::Counters;
use stssad::proof::sanitizer::{Findings, Kind, Prepared, Report, Setting, Trial, TrialError};

use super::UsageError;
use super::fault::{Fault, Faulty};

/// The version and the schema of the files that `--sarif` writes.
const SARIF: &str = "2.1.0";
const SARIF_SCHEMA: &str = "https://json.schemastore.org/sarif-2.1.0.json";

/// Arguments of `stssad sanitize`.
#[derive(Debug, Args)]
pub struct Sanitize {
    /// WGSL file.
    #[arg(value_name = "FILE.wgsl")]
    file: PathBuf,
    /// Compute entry point to run [default: every one].
    #[arg(long, value_name = "NAME")]
    entry: Option<String>,
    /// Workgroups to dispatch [default: 2 along each axis by which the kernel tells them apart].
    #[arg(long, value_name = "X,Y,Z")]
    workgroups: Option<String>,
    /// What a buffer holds: BYTES (random), zero, zero:BYTES, random:BYTES:BELOW (integers less than BELOW), unwritten:BYTES,
    /// values:N,N,…, file:PATH or texture:WxH [default: random, integers less than 8]. May be repeated.
    #[arg(long, value_name = "GROUP,BINDING=CONTENTS")]
    buffer: Vec<String>,
    /// Value of an override, by its name or its `@id`. May be repeated.
    #[arg(long = "override", value_name = "NAME=VALUE")]
    overrides: Vec<String>,
    /// Seed of random contents [default: 0].
    #[arg(long, value_name = "N")]
    seed: Option<String>,
    /// Lanes of a subgroup [default: 32].
    #[arg(long, value_name = "N")]
    subgroup: Option<String>,
    /// Operations after which the run of an entry point ends with a warning [default: 268435456].
    #[arg(long, value_name = "N")]
    limit: Option<String>,
    /// Print also what a model counts in each line: instructions, sectors of memory, conflicts of the banks of workgroup memory.
    #[arg(long)]
    counters: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Write the findings to FILE in SARIF 2.1.0, which code hosts show beside the lines.
    #[arg(long, value_name = "FILE")]
    sarif: Option<PathBuf>,
}

impl Sanitize {
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        let trial = trial(
            &self.file,
            self.entry.as_ref(),
            &[
                ("workgroups", self.workgroups.as_slice()),
                ("buffer", &self.buffer),
                ("override", &self.overrides),
                ("seed", self.seed.as_slice()),
                ("subgroup", self.subgroup.as_slice()),
                ("limit", self.limit.as_slice()),
            ],
        )?;
        let prepared = trial.prepare()?;
        let counters: Vec<Option<Result<Counters, String>>> =
            prepared.iter().map(|it| self.counters.then(|| Counters::of(it))).collect();
        let findings = Findings { runs: prepared.into_iter().map(Prepared::run).collect() };
        match self.json {
            true => result!("{}", serde_json::to_string_pretty(&json_of(&findings, &counters)?)?)?,
            false => {
                result!("{findings}")?;
                for (run, counters) in findings.runs.iter().zip(&counters) {
                    match counters {
                        Some(Ok(counters)) => result!("{}", counters.annotated(&run.entry, trial.source()).trim_end())?,
                        Some(Err(reason)) => result!("\nno counters of `{}`: {reason}", run.entry)?,
                        None => {}
                    }
                }
            }
        }
        if let Some(path) = &self.sarif {
            let text = serde_json::to_string_pretty(&sarif(&self.file, &findings))?;
            std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(if findings.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// The trial of a file, with what flags set: each by its name, with its values.
pub fn trial(file: &Path, entry: Option<&String>, flags: &[(&str, &[String])]) -> anyhow::Result<Trial> {
    let mut trial = Trial::read(file)?;
    if let Some(entry) = entry {
        trial = trial.entry(entry);
    }
    for (key, values) in flags {
        for value in *values {
            let wrong = |reason| UsageError(format!("--{key}: {reason}"));
            trial = trial.set(Setting::parse(key, value).map_err(wrong)?);
        }
    }
    Ok(trial)
}

/// The findings with the counters of each run.
fn json_of(findings: &Findings, counters: &[Option<Result<Counters, String>>]) -> anyhow::Result<Value> {
    let mut value = serde_json::to_value(findings)?;
    value["passed"] = findings.passed().into();
    for (index, counters) in counters.iter().enumerate() {
        match counters {
            Some(Ok(counters)) => value["runs"][index]["counters"] = serde_json::to_value(counters)?,
            Some(Err(reason)) => value["runs"][index]["uncounted"] = reason.as_str().into(),
            None => {}
        }
    }
    Ok(value)
}

/// A path as a relative or absolute reference of a URI.
fn uri(path: &Path) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    let encoded = |byte: u8| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    let path: String = path.to_string_lossy().replace('\\', "/").bytes().map(encoded).collect();
    if path.starts_with('/') { format!("file://{path}") } else { path }
}

/// The findings in the Static Analysis Results Interchange Format.
fn sarif(file: &Path, findings: &Findings) -> Value {
    let rule = |kind: &Kind| {
        let level = kind.level().name();
        json!({
            "id": kind.name(),
            "shortDescription": { "text": kind.describe() },
            "defaultConfiguration": { "level": level },
        })
    };
    let result = |report: &Report| {
        json!({
            "ruleId": report.kind.name(),
            "ruleIndex": Kind::ALL.iter().position(|kind| *kind == report.kind),
            "level": report.level.name(),
            "message": { "text": report.text() },
            "locations": [{
                "physicalLocation": {
                    "artifactLocation": { "uri": uri(file) },
                    "region": { "startLine": report.line.max(1), "startColumn": report.column.max(1) },
                },
            }],
            "properties": { "occurrences": report.occurrences, "assumed": report.assumed },
        })
    };
    json!({
        "$schema": SARIF_SCHEMA,
        "version": SARIF,
        "runs": [{
            "tool": {
                "driver": {
                    "name": "stssad",
                    "version": env!("CARGO_PKG_VERSION"),
                    "rules": Kind::ALL.iter().map(rule).collect::<Vec<_>>(),
                },
            },
            "columnKind": "utf16CodeUnits",
            "results": findings.reports().map(result).collect::<Vec<_>>(),
        }],
    })
}

impl Faulty for TrialError {
    fn fault(&self) -> Fault {
        match self {
            TrialError::Unfit(_) => Fault::Usage,
            TrialError::Refused(_) | TrialError::Comment { .. } => Fault::Data,
            TrialError::Read { source, .. } if source.kind() == std::io::ErrorKind::InvalidData => Fault::Data,
            TrialError::Read { .. } => Fault::Storage,
        }
    }
}
