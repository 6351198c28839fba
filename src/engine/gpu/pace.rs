//! Where a run is cut into submits.
//!
//! Drivers end work that takes too long: Windows after 2 s, some embedded GPUs after half a second. A watchdog looks at one
//! submit, so a run is handed over in several. Before the first run the time of a dispatch is guessed from its arithmetic and
//! its memory traffic; the first runs are timed submit by submit, and the cuts are made anew from that.

use std::ops::Range;

use crate::engine::plan::Step;

/// Seconds that a submit should take: a tenth of what the most impatient watchdog allows, and some hundred times what it
/// costs to hand one over.
const TARGET: f64 = 0.05;
/// Runs that are timed at most. The first may be slow because drivers compile as they go; a wrong guess within a submit shows
/// when it is cut.
const TIMED_RUNS: u32 = 4;
/// Seconds that a dispatch takes whatever it does.
const LATENCY: f64 = 5e-6;

/// Seconds that a step takes at the rates of the slowest devices of a class (see
/// [`AdapterSummary`](super::AdapterSummary)). Most are far faster, which costs a few submits in the first run.
pub(super) fn guess(step: &Step, class: &str) -> f64 {
    let (flops, bytes) = match class {
        "discrete" => (2e11, 2e10),
        _ => (5e9, 4e9),
    };
    LATENCY + step.flops as f64 / flops + step.bytes() as f64 / bytes
}

/// The ends of the submits of dispatches that take these seconds each: as few as can be filled in order without exceeding the
/// target. A dispatch that alone exceeds it is a submit of its own; so is one whose time is not a number. There is always a
/// submit, if only of no dispatch.
fn cut(seconds: &[f64]) -> Vec<usize> {
    let (mut ends, mut sum) = (Vec::new(), 0.0);
    for (index, &own) in seconds.iter().enumerate() {
        sum += own;
        // Written so that NaN cuts.
        let fits = sum <= TARGET;
        if index > 0 && !fits {
            ends.push(index);
            sum = own;
        }
    }
    ends.push(seconds.len());
    ends
}

/// How the dispatches of a plan are cut into submits, and what is known of their times.
#[derive(Debug)]
pub(super) struct Pace {
    /// What each dispatch is thought to take.
    seconds: Vec<f64>,
    /// Where each submit ends.
    ends: Vec<usize>,
    /// Runs that are still to be timed at most.
    to_time: u32,
}

impl Pace {
    /// For dispatches that are thought to take these seconds each.
    pub fn new(seconds: Vec<f64>) -> Pace {
        Pace { ends: cut(&seconds), seconds, to_time: TIMED_RUNS }
    }

    /// Number of submits of a run; never 0.
    pub fn submits(&self) -> usize {
        self.ends.len()
    }

    /// The dispatches of a submit.
    pub fn dispatches(&self, submit: usize) -> Range<usize> {
        let start = if submit == 0 { 0 } else { self.ends[submit - 1] };
        start..self.ends[submit]
    }

    /// Whether the next run is to be timed.
    pub fn is_timing(&self) -> bool {
        self.to_time > 0
    }

    /// Cuts anew by what each submit of a run took. When that makes as many submits as before, the times are settled.
    pub fn learn(&mut self, measured: &[f64]) {
        for (submit, &took) in measured.iter().enumerate() {
            let dispatches = self.dispatches(submit);
            let thought: f64 = self.seconds[dispatches.clone()].iter().sum();
            // A clock may not have ticked.
            let factor = took.max(LATENCY) / thought;
            self.seconds[dispatches].iter_mut().for_each(|seconds| *seconds *= factor);
        }
        let ends = cut(&self.seconds);
        self.to_time = if ends.len() == self.ends.len() { 0 } else { self.to_time - 1 };
        self.ends = ends;
    }

    /// Cuts after every so many dispatches, for good.
    pub fn cut_every(&mut self, dispatches: usize) {
        let count = self.seconds.len();
        self.ends = (dispatches..count).step_by(dispatches).chain([count]).collect();
        self.to_time = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(pace: &Pace) -> Vec<Range<usize>> {
        (0..pace.submits()).map(|submit| pace.dispatches(submit)).collect()
    }

    #[test]
    fn a_short_plan_is_one_submit_and_a_plan_of_nothing_too() {
        assert_eq!(Pace::new(vec![1e-3; 40]).ends, [40]);
        assert_eq!(Pace::new(Vec::new()).dispatches(0), 0..0);
    }

    #[test]
    fn cuts_keep_to_the_target_and_a_long_dispatch_stands_alone() {
        assert_eq!(cut(&[0.02, 0.02, 0.02, 0.02]), [2, 4]);
        assert_eq!(cut(&[0.02, 0.3, 0.01, 0.3]), [1, 2, 3, 4]);
        assert_eq!(cut(&[0.3]), [1]);
        let seconds: Vec<f64> = (0..500).map(|index| f64::from(index % 17) * 1e-3).collect();
        let pace = Pace::new(seconds.clone());
        let sums: Vec<f64> = ranges(&pace).into_iter().map(|range| seconds[range].iter().sum()).collect();
        assert!(sums.iter().all(|sum| *sum <= TARGET), "{sums:?}");
        // And none could have been joined with the next.
        assert!(sums.windows(2).all(|pair| pair[0] + pair[1] > TARGET - 0.017), "{sums:?}");
        assert_eq!(ranges(&pace).iter().map(ExactSizeIterator::len).sum::<usize>(), 500);
    }

    #[test]
    fn a_time_that_is_no_number_cuts() {
        assert_eq!(cut(&[0.01, f64::NAN, 0.01, 0.01]), [1, 2, 4]);
        assert_eq!(cut(&[f64::INFINITY, 0.01, 0.01]), [1, 3]);
    }

    /// Runs until the cuts are settled on a device where the dispatches take these times, and counts the timed runs.
    fn settle(pace: &mut Pace, truth: &[f64]) -> u32 {
        let mut runs = 0;
        while pace.is_timing() {
            let measured: Vec<f64> = ranges(pace).into_iter().map(|range| truth[range].iter().sum()).collect();
            pace.learn(&measured);
            runs += 1;
        }
        runs
    }

    #[test]
    fn measured_times_join_what_a_fast_device_does_and_cut_what_a_slow_one_does() {
        let guessed = vec![0.03; 100];
        let mut fast = Pace::new(guessed.clone());
        assert_eq!(fast.submits(), 100);
        settle(&mut fast, &[1e-4; 100]);
        assert_eq!(fast.ends, [100]);

        let mut slow = Pace::new(vec![1e-4; 100]);
        assert_eq!(slow.submits(), 1);
        assert!(settle(&mut slow, &[0.02; 100]) <= TIMED_RUNS);
        assert_eq!(slow.submits(), 50);

        let mut right = Pace::new(guessed);
        assert_eq!(settle(&mut right, &[0.03; 100]), 1);
    }

    #[test]
    fn guesses_that_are_wrong_one_by_one_come_right_and_timing_ends() {
        // Every tenth dispatch takes nearly all of the time, which nothing says before.
        let truth: Vec<f64> = (0..200).map(|index| if index % 10 == 0 { 0.04 } else { 1e-4 }).collect();
        let mut pace = Pace::new(vec![1e-3; 200]);
        assert!(settle(&mut pace, &truth) <= TIMED_RUNS);
        let longest = ranges(&pace).into_iter().map(|range| truth[range].iter().sum::<f64>()).fold(0.0, f64::max);
        assert!(longest <= 2.0 * TARGET, "{longest} s in one submit");
    }

    #[test]
    fn forced_cuts_cover_all_dispatches_and_stay() {
        let mut pace = Pace::new(vec![1.0; 7]);
        pace.cut_every(3);
        assert_eq!(ranges(&pace), [0..3, 3..6, 6..7]);
        assert!(!pace.is_timing());
        let mut empty = Pace::new(Vec::new());
        empty.cut_every(3);
        assert_eq!(empty.ends, [0]);
        pace.cut_every(7);
        assert_eq!(pace.ends, [7]);
    }
}
