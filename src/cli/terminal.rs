//! All printing: results to standard output, notes to standard error.
//!
//! `println!` panics if a line cannot be written, because the disk is full or the reader of a pipe has gone. Here, if a note cannot
//! be written, the work continues and the program ends with [`UNWRITTEN`]; if a result cannot be written, that is an error.
//!
//! A progress bar stands below all lines: what is printed while one is shown takes it off, and puts it back. Else the bar would erase the
//! line, or leave its own half. So nothing else may suspend a bar: a line within would wait for the bar forever.

use std::fmt::Display;
use std::io::{self, Write, stderr, stdout};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle, WeakProgressBar};

/// The exit code if output could not be written: `EX_IOERR` of sysexits.h.
pub const UNWRITTEN: u8 = 74;

/// Whether a note was lost.
static LOST: AtomicBool = AtomicBool::new(false);

/// The bar that was shown last.
static BAR: Mutex<Option<WeakProgressBar>> = Mutex::new(None);

/// Shows a progress bar on standard error, if that is a terminal. It is taken off when it is dropped.
pub fn progress_bar(length: u64, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).expect("a valid template").progress_chars("━╸─");
    let bar = ProgressBar::new(length).with_style(style);
    bar.enable_steady_tick(Duration::from_millis(200));
    *BAR.lock().unwrap_or_else(PoisonError::into_inner) = Some(bar.downgrade());
    bar
}

/// Takes the bar off for good, as the process is about to end without dropping it.
pub fn take_bar_off() {
    if let Some(bar) = BAR.lock().unwrap_or_else(PoisonError::into_inner).as_ref().and_then(WeakProgressBar::upgrade) {
        bar.finish_and_clear();
    }
}

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
    let mut write = || stream.write_all(text.as_bytes()).and_then(|()| stream.flush());
    let bar = BAR.lock().unwrap_or_else(PoisonError::into_inner);
    match bar.as_ref().and_then(WeakProgressBar::upgrade) {
        Some(bar) => bar.suspend(write),
        None => write(),
    }
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
