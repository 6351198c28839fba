//! All printing: results to standard output, notes to standard error.
//!
//! `println!` panics if a line cannot be written, because the disk is full or the reader of a pipe has gone. Here, if a note cannot
//! be written, the work continues and the program ends with [`UNWRITTEN`]; if a result cannot be written, that is an error.

use std::fmt::Display;
use std::io::{self, Write, stderr, stdout};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

/// The exit code if output could not be written: `EX_IOERR` of sysexits.h.
pub const UNWRITTEN: u8 = 74;

/// Whether a note was lost.
static LOST: AtomicBool = AtomicBool::new(false);

/// A result that could not be printed.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output")]
pub struct Unprinted(#[from] io::Error);

impl Unprinted {
    /// Whether the reader of the pipe has gone, as `head` does.
    pub fn reader_is_gone(&self) -> bool {
        self.0.kind() == io::ErrorKind::BrokenPipe
    }
}

/// Prints a note, formatted as by `format!`, to standard error.
macro_rules! note {
    ($($text:tt)*) => { $crate::cli::terminal::note(format_args!($($text)*)) };
}

/// Prints a result, formatted as by `format!`, to standard output; an [`Unprinted`] if that fails.
macro_rules! result {
    ($($text:tt)*) => { $crate::cli::terminal::result(format_args!($($text)*)) };
}

/// Prints a note to standard error.
pub fn note(text: impl Display) {
    if write(stderr().lock(), &text).is_err() {
        LOST.store(true, Ordering::Relaxed);
    }
}

/// Prints a result to standard output.
pub fn result(text: impl Display) -> Result<(), Unprinted> {
    Ok(write(stdout().lock(), &text)?)
}

/// Writes whole lines at once, so that those of two threads do not mix.
fn write(mut stream: impl Write, text: &impl Display) -> io::Result<()> {
    let mut text = text.to_string();
    if !text.ends_with('\n') {
        text.push('\n');
    }
    stream.write_all(text.as_bytes())?;
    stream.flush()
}

/// Whether a note could not be written.
pub fn lost_a_note() -> bool {
    LOST.load(Ordering::Relaxed)
}

/// Prints the help, the version, or an error in the command line, and returns the exit code.
pub fn answer(error: &clap::Error) -> Result<ExitCode, Unprinted> {
    let printed = error.print();
    match error.use_stderr() {
        false => Ok(printed.map(|()| ExitCode::SUCCESS)?),
        true => Ok(ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(1))),
    }
}
