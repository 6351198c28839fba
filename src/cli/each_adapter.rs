//! One process on each of several adapters of a host.
//!
//! Each is the same command with its own `--adapter`. A request to stop is handed on to all of them.

use std::ffi::OsString;
use std::process::{Child, Command, ExitCode};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use stssad::engine::gpu::adapters;

use super::progress::Stop;
use super::{STOPPED, UsageError};

/// Time between two looks at the processes.
const LOOK: Duration = Duration::from_millis(100);

/// Runs this very command on each of the adapters in a list such as `0,2`, or on `all` GPUs, instead of its `--adapters`. The exit code
/// is 75 if a process was stopped, else the highest.
pub fn run(list: &str) -> anyhow::Result<ExitCode> {
    let chosen = chosen(list)?;
    let program = std::env::current_exe().context("cannot tell the path of this program")?;
    let rest = without_adapters(std::env::args_os().skip(1));
    let stop = Stop::listen(None)?;
    let begin = |adapter: &String| {
        let mut command = Command::new(&program);
        command.args(&rest).args(["--adapter", adapter]);
        // A terminal would signal them too, and a second signal ends a process at once.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        note!("adapter  {adapter}: a process of its own");
        command.spawn().context("cannot begin a process")
    };
    let mut running = chosen.iter().map(begin).collect::<anyhow::Result<Vec<Child>>>()?;
    let (mut handed_on, mut codes) = (false, Vec::new());
    while !running.is_empty() {
        if stop.is_asked() && !handed_on {
            running.iter_mut().for_each(ask_to_stop);
            handed_on = true;
        }
        let mut left = Vec::new();
        for mut child in running {
            match child.try_wait()? {
                // A process that a signal ended has none.
                Some(status) => codes.push(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)),
                None => left.push(child),
            }
        }
        running = left;
        thread::sleep(LOOK);
    }
    let stopped = codes.contains(&STOPPED);
    Ok(ExitCode::from(if stopped { STOPPED } else { codes.into_iter().max().unwrap_or(0) }))
}

/// The adapters of a list.
fn chosen(list: &str) -> anyhow::Result<Vec<String>> {
    if list != "all" {
        return Ok(list.split(',').map(str::to_owned).collect());
    }
    let all = adapters().into_iter().enumerate();
    let gpus = all.filter(|(_, adapter)| adapter.class != "cpu" && adapter.unusable.is_none());
    let numbers: Vec<String> = gpus.map(|(number, _)| number.to_string()).collect();
    match numbers.is_empty() {
        true => Err(UsageError("--adapters all: there is no GPU; `stssad devices` lists what there is".into()).into()),
        false => Ok(numbers),
    }
}

/// Arguments without `--adapters` and its value.
fn without_adapters(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut kept = Vec::new();
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        let text = argument.to_string_lossy();
        if text == "--adapters" {
            arguments.next();
        } else if !text.starts_with("--adapters=") {
            kept.push(argument);
        }
    }
    kept
}

fn ask_to_stop(child: &mut Child) {
    #[cfg(unix)]
    {
        let pid = libc::pid_t::try_from(child.id()).expect("the system's own number");
        // SAFETY: the call only sends a signal; the process has not been waited for, so the number is still its own.
        unsafe { libc::kill(pid, libc::SIGTERM) };
    }
    #[cfg(not(unix))]
    let _ = child.kill();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_left_out_of_the_arguments() {
        let of = |words: &[&str]| without_adapters(words.iter().map(OsString::from));
        assert_eq!(of(&["sweep", "--adapters", "0,1", "--out", "x"]), ["sweep", "--out", "x"]);
        assert_eq!(of(&["sweep", "--adapters=all", "--out"]), ["sweep", "--out"]);
    }
}
