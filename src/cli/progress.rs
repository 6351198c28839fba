//! Shows the progress of a run, and requests its stop on a signal.

use std::io::{IsTerminal, stderr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use indicatif::{HumanDuration, ProgressBar};
use serde_json::json;
use stssad::run::execute::Watch;
use stssad::run::fit::Fitted;
use stssad::run::race::Leg;
use stssad::run::report::plain;
use stssad::training::trainer::{Progress, Snapshot};

use super::STOPPED;
use super::terminal::{progress_bar, take_bar_off};

/// How to show progress, on standard error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// A bar on a terminal, plain lines elsewhere.
    #[default]
    Auto,
    /// A progress bar.
    Bar,
    /// A line every ten seconds.
    Plain,
    /// A JSON object for each step, on a line of its own among the other messages.
    Json,
    /// No progress.
    None,
}

impl Mode {
    /// A bar on a terminal, nothing elsewhere.
    pub fn bar_or_none() -> Self {
        if stderr().is_terminal() { Mode::Bar } else { Mode::None }
    }
}

/// Requests to stop: by SIGINT, SIGTERM, SIGHUP or SIGUSR1, or because the time is over. A request is acknowledged at once, whatever the
/// program is doing. A second SIGINT, SIGTERM or SIGUSR1 ends the program at once; a second SIGHUP does not, since a lost terminal may
/// send several.
#[derive(Clone, Debug)]
pub struct Stop {
    asked: Arc<AtomicBool>,
    deadline: Option<Instant>,
    /// The last words with which the process may end at once, as long as there is nothing to lose.
    last_words: Arc<Mutex<Option<String>>>,
}

impl Stop {
    /// Listens from now on, and for at most as long as `most`.
    ///
    /// # Errors
    /// When the system refuses a handler.
    pub fn listen(most: Option<Duration>) -> anyhow::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::new(AtomicBool::new(false));
        let mut signals = vec![signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM];
        #[cfg(unix)]
        signals.push(signal_hook::consts::SIGUSR1);
        for signal in signals {
            // In this order: the second signal finds the flag set.
            signal_hook::flag::register_conditional_default(signal, Arc::clone(&asked))?;
            signal_hook::flag::register(signal, Arc::clone(&asked))?;
            signal_hook::flag::register(signal, Arc::clone(&stop))?;
        }
        #[cfg(unix)]
        if !hang_up_is_ignored() {
            signal_hook::flag::register(signal_hook::consts::SIGHUP, Arc::clone(&stop))?;
        }
        // A time beyond what the clock can tell never comes.
        let deadline = most.and_then(|most| Instant::now().checked_add(most));
        let stop = Stop { asked: stop, deadline, last_words: Arc::default() };
        let heard = stop.clone();
        std::thread::spawn(move || {
            while !heard.is_asked() {
                std::thread::sleep(HEARING);
            }
            // Kept, so that nothing can be begun while the process ends.
            let last_words = heard.last_words.lock().unwrap_or_else(PoisonError::into_inner);
            let over = if heard.asked.load(Ordering::Relaxed) { "" } else { "the time is over: " };
            if let Some(last_words) = &*last_words {
                take_bar_off();
                note!("{over}{last_words}");
                // Without the destructors of libraries that other threads are using.
                signal_hook::low_level::exit(STOPPED.into());
            }
            note!("{over}stopping as soon as nothing is lost; a second signal ends the program at once");
        });
        Ok(stop)
    }

    /// Whether to stop.
    pub fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed) || self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// From now on a request ends the process at once, with these words: there is nothing to lose.
    pub fn may_end_at_once(&self, last_words: &str) {
        *self.last_words() = Some(last_words.to_owned());
    }

    /// From now on work is lost if the process ends at once.
    fn must_save(&self) {
        *self.last_words() = None;
    }

    fn last_words(&self) -> MutexGuard<'_, Option<String>> {
        self.last_words.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Time in which a signal is acknowledged, whatever the program is doing.
const HEARING: Duration = Duration::from_millis(50);

/// Whether the process ignores SIGHUP, as `nohup` arranges, so that it outlives its terminal.
#[cfg(unix)]
fn hang_up_is_ignored() -> bool {
    // SAFETY: all of its fields may be zero.
    let mut present: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: without a new action the call changes nothing, and fills the present one.
    let read = unsafe { libc::sigaction(libc::SIGHUP, std::ptr::null(), &mut present) } == 0;
    read && present.sa_sigaction == libc::SIG_IGN
}

/// Shows a run's progress.
#[derive(Debug)]
pub struct Shown {
    mode: Mode,
    stop: Stop,
    bar: Option<ProgressBar>,
    begun: Instant,
    told: Instant,
    /// Steps in this process, counted separately for each start of a group.
    steps: usize,
    /// Steps of the whole run that are done, and all; `None` before the first step in this process.
    done: Option<[usize; 2]>,
}

/// Time between two plain lines.
const INTERVAL: Duration = Duration::from_secs(10);

impl Shown {
    pub fn new(mode: Mode, stop: Stop) -> Self {
        let mode = match mode {
            Mode::Auto if stderr().is_terminal() => Mode::Bar,
            Mode::Auto => Mode::Plain,
            other => other,
        };
        Shown { mode, stop, bar: None, begun: Instant::now(), told: Instant::now(), steps: 0, done: None }
    }

    fn bar(&mut self, length: usize, template: &str) -> &ProgressBar {
        self.bar.get_or_insert_with(|| progress_bar(length as u64, template))
    }

    /// Where the run stands, such as ` after 721 of 1500 steps`; empty if this process has done no step.
    pub fn standing(&self) -> String {
        self.done.map_or_else(String::new, |[done, of]| format!(" after {done} of {of} steps"))
    }

    fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// The speed of `steps` steps in this time, and how long `left` more take at it; no time if there are none.
fn pace(steps: usize, time: Duration, left: usize) -> String {
    let rate = steps as f64 / time.as_secs_f64();
    let speed = if rate < 1.0 { format!("{:.1} s/step", 1.0 / rate) } else { format!("{rate:.1} steps/s") };
    match left {
        0 => speed,
        left => format!("{speed}  {} left", HumanDuration(Duration::from_secs_f64(left as f64 / rate))),
    }
}

impl Watch for Shown {
    fn compiling(&mut self, done: usize, of: usize) {
        if self.steps > 0 {
            // The bar is that of the training, and its rate includes what else takes time.
            return;
        }
        if self.mode == Mode::Bar {
            self.bar(of, "compile  {bar:28} {pos}/{len} dispatches").set_position(done as u64);
        }
        if done == of {
            self.clear();
            self.begun = Instant::now();
        }
    }

    fn fitted(&mut self, fitted: &Fitted) {
        if self.mode != Mode::None {
            note!("{fitted}");
        }
    }

    fn step(&mut self, progress: &[Progress], leg: &Leg, done: usize) {
        let [Progress { step, .. }, ..] = progress else { return };
        let first = self.steps == 0;
        if first {
            self.clear();
            self.stop.must_save();
        }
        self.steps += progress.len();
        let &Leg { ref config, of, total: all, .. } = leg;
        let last = *step == leg.until;
        self.done = Some([done, all]);
        // The first step is not representative.
        let pace = pace(self.steps, self.begun.elapsed(), if first { 0 } else { all - done });
        let told = |Progress { start, inner, a, .. }: &Progress| {
            let what = if leg.is_heat { "heat" } else { "start" };
            let name = config.augmentation.name();
            [format!("{what} {}/{of}", start + 1), format!("loss {inner:.3}  {name} {}", plain(&config.setting(a)))]
        };
        match self.mode {
            Mode::Bar => {
                // The message alternates between the starts of a group.
                let [start, figures] = told(&progress[step % progress.len()]);
                let bar = self.bar(all, "train    {bar:20} {pos}/{len} steps  {wide_msg}");
                bar.set_message(format!("{pace}  {start}  {figures}"));
                bar.set_position(done as u64);
                if done == all {
                    self.clear();
                }
            }
            Mode::Plain if self.told.elapsed() >= INTERVAL || first || last => {
                self.told = Instant::now();
                for [start, figures] in progress.iter().map(told) {
                    note!("train    {start}  step {step}/{}  {figures}  {pace}", config.steps);
                }
            }
            Mode::Json => {
                for Progress { start, step, inner, outer, a } in progress {
                    let setting = config.setting(a);
                    let line = json!({
                        "start": start, "step": step, "inner": inner, "outer": outer,
                        "augmentation": config.augmentation.name(), "setting": setting,
                    });
                    note!("{line}");
                }
            }
            _ => {}
        }
    }

    fn failed(&mut self, start: usize, reason: &str) {
        self.clear();
        match self.mode {
            Mode::Json => note!("{}", json!({ "start": start, "failed": reason })),
            _ => note!("train    start {} failed: {reason}", start + 1),
        }
    }

    fn again(&mut self, start: usize, reason: &str, from: &Snapshot) {
        self.clear();
        let Snapshot { step, halvings, .. } = from;
        if self.mode == Mode::Json {
            note!("{}", json!({ "start": start, "again_from": step, "halvings": halvings, "reason": reason }));
            return;
        }
        note!(
            "train    start {} {reason}; it goes back to step {step} with 1/{} of the learning rates",
            start + 1,
            1 << halvings
        );
    }

    fn moved(&mut self, before: &str, now: &str) {
        if self.mode == Mode::Json {
            note!("{}", json!({ "warning": "moved", "before": before, "now": now }));
            return;
        }
        note!("warning  the run was trained by {before} until now, and goes on by {now}, whose rounding may differ");
    }

    fn reporting(&mut self, what: &str) {
        if matches!(self.mode, Mode::Bar | Mode::Plain) {
            note!("report   {what}");
        }
    }

    fn wants_stop(&self) -> bool {
        self.stop.is_asked()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_is_that_of_the_steps_in_this_process() {
        let second = Duration::from_secs(1);
        assert_eq!(pace(100, second, 800), "100.0 steps/s  8 seconds left");
        assert_eq!(pace(2, 5 * second, 60), "2.5 s/step  3 minutes left");
        assert_eq!(pace(1, second, 0), "1.0 steps/s");
    }
}
