//! One process on each of several adapters of a host.
//!
//! Each is the same command with its own `--adapter`. A request to stop is handed on to all of them.

use std::collections::HashSet;
use std::ffi::OsString;
use std::process::{Child, Command, ExitCode};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use stssad::engine::gpu::{AdapterSummary, Choice, adapters};

use super::progress::Stop;
use super::{STOPPED, UsageError};

/// Time between two looks at the processes.
const LOOK: Duration = Duration::from_millis(100);

/// Runs this very command, with one more flag if one is given, on each of the adapters in a list such as `0,2`, or on `all` GPUs,
/// instead of its `--adapters`. The exit code is 75 if a process was stopped, else the highest.
pub fn run(list: &str, flag: Option<&str>) -> anyhow::Result<ExitCode> {
    let chosen = chosen(list)?;
    let program = std::env::current_exe().context("cannot tell the path of this program")?;
    let rest = without_adapters(std::env::args_os().skip(1));
    let stop = Stop::listen(None)?;
    let begin = |adapter: &String| {
        let mut command = Command::new(&program);
        command.args(&rest).args(["--adapter", adapter]).args(flag);
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

/// The adapters of a list such as `0,2`, or of `all` GPUs, each by its place on the PCI bus if that is known: numbers change when another
/// process is given other devices.
pub fn chosen(list: &str) -> anyhow::Result<Vec<String>> {
    let chosen = among(list, &adapters())?;
    let twice = (1..chosen.len()).find(|&at| chosen[..at].contains(&chosen[at]));
    if let Some(at) = twice {
        note!("note     the adapter {} is given more than once, and is shared", chosen[at]);
    }
    Ok(chosen)
}

fn among(list: &str, adapters: &[AdapterSummary]) -> anyhow::Result<Vec<String>> {
    let placed = |number: usize| adapters[number].pci.clone().unwrap_or_else(|| number.to_string());
    if list != "all" {
        let number = |name: &str| name.parse().ok().filter(|&number: &usize| number < adapters.len());
        let place = |name: &str| {
            Choice::from(name).check(adapters)?;
            Ok(number(name).map_or_else(|| name.to_owned(), placed))
        };
        return list.split(',').map(place).collect();
    }
    let is_gpu = |&number: &usize| adapters[number].class != "cpu" && adapters[number].unusable.is_none();
    let mut gpus: Vec<String> = (0..adapters.len()).filter(is_gpu).map(placed).collect();
    // One GPU may be listed by two interfaces.
    let mut seen = HashSet::new();
    gpus.retain(|gpu| seen.insert(gpu.clone()));
    match gpus.is_empty() {
        true => Err(UsageError("--adapters all: there is no GPU; `stssad devices` lists what there is".into()).into()),
        false => Ok(gpus),
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
    fn adapters_are_named_by_their_places() {
        let adapter = |class: &str, pci: Option<&str>| AdapterSummary {
            class: class.to_owned(),
            pci: pci.map(str::to_owned),
            ..AdapterSummary::default()
        };
        let [first, second] = ["0000:01:00.0", "0000:41:00.0"].map(|place| adapter("discrete", Some(place)));
        let all = [first.clone(), second, adapter("integrated", None), adapter("cpu", None), first];
        let of = |list: &str| among(list, &all).unwrap();
        assert_eq!(of("all"), ["0000:01:00.0", "0000:41:00.0", "2"]);
        assert_eq!(of("1,3"), ["0000:41:00.0", "3"]);
        let missing = among("0,9", &all).unwrap_err().to_string();
        assert!(missing.contains("no adapter has the number or name `9`"), "{missing}");
        assert!(among("all", &all[3..4]).is_err());
    }

    #[test]
    fn the_list_is_left_out_of_the_arguments() {
        let of = |words: &[&str]| without_adapters(words.iter().map(OsString::from));
        assert_eq!(of(&["sweep", "--adapters", "0,1", "--out", "x"]), ["sweep", "--out", "x"]);
        assert_eq!(of(&["sweep", "--adapters=all", "--out"]), ["sweep", "--out"]);
    }
}
