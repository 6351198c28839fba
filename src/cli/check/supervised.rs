//! Checks in processes of their own: a driver that crashes or hangs on a kernel ends one of these, and the check is known.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context;
use stssad::engine::gpu::Device;
use stssad::proof::check::{Checks, Fault, Outcome, Report};

/// Most processes.
const WORKERS: usize = 4;
/// Lines of a process's standard error that are kept.
const LAST_LINES: usize = 3;

/// Runs all checks, each for `limit` at most. `progress` is called after each with (done, total, name).
///
/// # Errors
/// When no process can be started.
pub fn run(
    device: &Device,
    checks: &Checks,
    limit: Duration,
    progress: &mut dyn FnMut(usize, usize, &str),
) -> anyhow::Result<Report> {
    let count = thread::available_parallelism().map_or(1, |count| count.get().min(WORKERS));
    let idle: Mutex<Vec<Worker>> = Mutex::new((0..count).map(|_| Worker::start()).collect::<Result<_, _>>()?);
    let ask = |at: usize| -> Result<Outcome, Fault> {
        let waiting = idle.lock().unwrap().pop();
        let mut worker = match waiting {
            Some(worker) => worker,
            None => Worker::start().map_err(|error| Fault::Crashed(format!("did not start ({error:#})")))?,
        };
        let outcome = worker.ask(at, limit)?;
        idle.lock().unwrap().push(worker);
        Ok(outcome)
    };
    let run_one = |at: usize| ask(at).unwrap_or_else(|fault| checks.outcome(at, Some(fault)));
    Ok(checks.run_by(device, count, run_one, progress))
}

/// A process that runs the checks it is asked for.
struct Worker {
    process: Child,
    questions: ChildStdin,
    answers: Receiver<String>,
    /// Its last words.
    words: JoinHandle<VecDeque<String>>,
}

impl Worker {
    /// Starts this program with the same arguments, as a worker.
    fn start() -> anyhow::Result<Worker> {
        let program = std::env::current_exe().context("cannot find this program's file")?;
        let mut process = Command::new(program)
            .args(std::env::args_os().skip(1))
            .arg("--worker")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start a process for the checks")?;
        let (questions, output) = (process.stdin.take().expect("piped"), process.stdout.take().expect("piped"));
        let errors = process.stderr.take().expect("piped");
        let (sender, answers) = channel();
        thread::spawn(move || {
            let lines = BufReader::new(output).lines().map_while(Result::ok);
            lines.take_while(|line| sender.send(line.clone()).is_ok()).for_each(drop);
        });
        let words = thread::spawn(move || {
            let mut last = VecDeque::new();
            for line in BufReader::new(errors).lines().map_while(Result::ok).filter(|line| !line.trim().is_empty()) {
                last.push_back(line);
                last.drain(..last.len().saturating_sub(LAST_LINES));
            }
            last
        });
        Ok(Worker { process, questions, answers, words })
    }

    /// The outcome of a check, or why there is none; then the process is gone.
    fn ask(&mut self, at: usize, limit: Duration) -> Result<Outcome, Fault> {
        // Where the process is gone, there is no answer either.
        let _ = writeln!(self.questions, "{at}").and_then(|()| self.questions.flush());
        match self.answers.recv_timeout(limit) {
            Ok(line) => serde_json::from_str(&line).map_err(|_| Fault::Crashed(format!("answered `{line}`"))),
            Err(RecvTimeoutError::Timeout) => {
                let _ = self.process.kill();
                Err(Fault::Endless(limit.as_secs()))
            }
            Err(RecvTimeoutError::Disconnected) => Err(Fault::Crashed(self.last_words())),
        }
    }

    /// How the process ended, and what it said last.
    fn last_words(&mut self) -> String {
        let ended = self.process.wait().map_or_else(|error| error.to_string(), how);
        let words = std::mem::replace(&mut self.words, thread::spawn(VecDeque::new)).join().unwrap_or_default();
        match words.is_empty() {
            true => ended,
            false => format!("{ended} ({})", Vec::from(words).join("; ")),
        }
    }
}

fn how(status: ExitStatus) -> String {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        return format!("was ended by signal {signal}");
    }
    status.code().map_or("ended".into(), |code| format!("ended with code {code}"))
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
