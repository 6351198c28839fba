//! The `stssad` command.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::end_with_reader();
    cli::hear_of_file_limits();
    cli::run().unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        cli::exit_code(&error)
    })
}
