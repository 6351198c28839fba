//! The `stssad` command.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::end_with_reader();
    cli::run().unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        cli::exit_code(&error)
    })
}
