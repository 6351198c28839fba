//! The one place that prints: results to standard output, notes to standard error.
//!
//! `println!` panics when a line cannot be written: on a full disk, or when the reader of a pipe has gone. Here a note that
//! cannot be written is remembered, so that the work goes on and the program still ends with [`UNWRITTEN`]; a result that
//! cannot be written is an error.

use std::fmt::Display;
use std::io::{self, Write, stderr, stdout};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

/// The exit code when something could not be written: `EX_IOERR` of sysexits.h.
pub const UNWRITTEN: u8 = 74;

/// Whether a note was lost.
static LOST: AtomicBool = AtomicBool::new(false);

/// A result that could not be printed.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output")]
pub struct Unprinted(#[from] io::Error);

impl Unprinted {
    /// Whether whoever read our output stopped, as `head` does.
    pub fn reader_is_gone(&self) -> bool {
        self.0.kind() == io::ErrorKind::BrokenPipe
    }
}

/// Prints a note, formatted as by `format!`, to standard error.
macro_rules! note {
    ($($text:tt)*) => { $crate::cli::terminal::note(format_args!($($text)*)) };
}

/// Prints a result, formatted as by `format!`, to standard output; an [`Unprinted`] where that cannot be written to.
macro_rules! result {
    ($($text:tt)*) => { $crate::cli::terminal::result(format_args!($($text)*)) };
}

/// Prints lines that accompany the work to standard error.
pub fn note(text: impl Display) {
    if write(stderr().lock(), &text).is_err() {
        LOST.store(true, Ordering::Relaxed);
    }
}

/// Prints what was asked for to standard output.
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

/// Prints the help or version that was asked for, or what is wrong with the command line; the exit code of either.
pub fn answer(error: &clap::Error) -> Result<ExitCode, Unprinted> {
    let printed = error.print();
    match error.use_stderr() {
        false => Ok(printed.map(|()| ExitCode::SUCCESS)?),
        true => Ok(ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(1))),
    }
}
