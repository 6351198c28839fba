//! Runs the `stssad` binary for the tests of the command line.

#![allow(dead_code, reason = "each test crate uses a part of it")]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};

use serde_json::Value;

/// A few packaged images of 16 pixels, and small batches.
pub const PACKAGED: [&str; 20] = [
    "--augmentation",
    "cutdiff",
    "--data",
    "texture",
    "--texture",
    "gravel",
    "--defect",
    "blob",
    "--size",
    "16",
    "--max-train",
    "8",
    "--max-normals",
    "4",
    "--max-anomalies",
    "4",
    "--batch",
    "4",
    "--batch-val",
    "4",
];

/// An empty folder for one test.
pub fn folder(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(env!("CARGO_CRATE_NAME")).join(name);
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).unwrap();
    path
}

/// The exit code of a command, `None` if a signal ended it, and its output.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Said {
    /// Checks the exit code, and that there was no panic.
    #[track_caller]
    pub fn with(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}", self.err);
        assert!(!self.err.contains("panicked"), "{}", self.err);
        self
    }

    /// Checks that there is one error, which contains all of `parts`.
    #[track_caller]
    pub fn error(&self, parts: &[&str]) {
        assert_eq!(self.err.matches("error: ").count(), 1, "{}", self.err);
        for part in parts {
            assert!(self.err.contains(part), "no `{part}` in {}", self.err);
        }
    }

    /// Checks that there is no error, and that the notes contain all of `parts`.
    #[track_caller]
    pub fn notice(&self, parts: &[&str]) {
        assert!(!self.err.contains("error: "), "{}", self.err);
        assert!(parts.iter().all(|part| self.err.contains(part)), "{}", self.err);
    }
}

pub fn command(parts: &[&[&str]]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stssad"));
    // If the tests run in an array job, its variables would choose jobs.
    for variable in [
        "SLURM_ARRAY_TASK_ID",
        "PBS_ARRAY_INDEX",
        "PBS_ARRAYID",
        "SGE_TASK_ID",
        "LSB_JOBINDEX",
        "JOB_COMPLETION_INDEX",
        "AWS_BATCH_JOB_ARRAY_INDEX",
    ] {
        command.env_remove(variable);
    }
    command.args(parts.concat()).stdin(Stdio::null());
    command
}

pub fn finish(mut command: Command) -> Said {
    let output = command.output().expect("the binary starts");
    let text = |bytes| String::from_utf8(bytes).expect("messages are UTF-8");
    Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

pub fn stssad(parts: &[&[&str]]) -> Said {
    finish(command(parts))
}

pub fn text(path: &Path) -> &str {
    path.to_str().expect("the tests' paths are UTF-8")
}

pub fn json(path: &Path) -> Value {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The lines of `--progress json` in the output of a command.
pub fn steps_of(err: &str) -> Vec<Value> {
    err.lines().filter(|line| line.starts_with('{')).map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A running command, whose steps are read from its output.
#[derive(Debug)]
pub struct Running {
    pub child: Child,
    lines: BufReader<ChildStderr>,
    pub steps: Vec<Value>,
    err: String,
}

impl Running {
    pub fn begin(parts: &[&[&str]]) -> Self {
        Self::of(command(parts))
    }

    pub fn of(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the binary starts");
        let lines = BufReader::new(child.stderr.take().unwrap());
        Running { child, lines, steps: Vec::new(), err: String::new() }
    }

    /// Reads until this many steps are done, or the run ends.
    pub fn until(&mut self, steps: usize) {
        let mut line = String::new();
        while self.steps.len() < steps && self.lines.read_line(&mut line).unwrap() > 0 {
            self.steps.extend(steps_of(&line));
            self.err += &std::mem::take(&mut line);
        }
    }

    /// Reads until the output contains this, or the run ends.
    pub fn until_said(&mut self, part: &str) {
        while !self.err.contains(part) && self.lines.read_line(&mut self.err).unwrap() > 0 {}
    }

    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success(), "{name}");
    }

    pub fn end(mut self) -> (Said, Vec<Value>) {
        let mut rest = String::new();
        self.lines.read_to_string(&mut rest).unwrap();
        // The last line of a killed process may be incomplete.
        self.steps.extend(rest.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()));
        let code = self.child.wait().unwrap().code();
        (Said { code, out: String::new(), err: self.err + &rest }, self.steps)
    }
}
