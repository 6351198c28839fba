//! Runs the `stssad` binary for the tests of the command line.

#![allow(dead_code, reason = "each test crate uses a part of it")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// A folder of the test's own, empty.
pub fn folder(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(env!("CARGO_CRATE_NAME")).join(name);
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).unwrap();
    path
}

/// What a command left: its exit code, none where a signal ended it, and what it printed.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Said {
    /// Ended with this code, and without a panic.
    #[track_caller]
    pub fn with(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}", self.err);
        assert!(!self.err.contains("panicked"), "{}", self.err);
        self
    }

    /// The one error that was told, which says all of `parts`.
    #[track_caller]
    pub fn error(&self, parts: &[&str]) {
        assert_eq!(self.err.matches("error: ").count(), 1, "{}", self.err);
        for part in parts {
            assert!(self.err.contains(part), "no `{part}` in {}", self.err);
        }
    }

    /// No error was told, but all of `parts` was.
    #[track_caller]
    pub fn notice(&self, parts: &[&str]) {
        assert!(!self.err.contains("error: "), "{}", self.err);
        assert!(parts.iter().all(|part| self.err.contains(part)), "{}", self.err);
    }
}

pub fn command(parts: &[&[&str]]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stssad"));
    // A scheduler of the tests' own would pick shards.
    for variable in ["SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX", "AWS_BATCH_JOB_ARRAY_INDEX"] {
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
