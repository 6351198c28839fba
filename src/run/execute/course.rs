//! The course of a run: what its devices tell while they train becomes finished starts, curves, progress and checkpoints.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::Instant;

use super::{Extent, Run, RunError, Watch, row, steps};
use crate::engine::gpu::Device;
use crate::run::checkpoint::Checkpoint;
use crate::run::groups::{Answer, Event, Stage, Standing, is_of};
use crate::run::race::{Race, Starts};
use crate::run::report::LiveSteps;
use crate::training::trainer::Progress;

pub(super) struct Course<'a> {
    run: &'a Run<'a>,
    race: &'a Race<'a>,
    watch: &'a mut dyn Watch,
    /// The last checkpoint, with what is new since then but for the time and the history.
    checkpoint: Checkpoint,
    /// Seconds that the run took before it was resumed.
    before: f64,
    /// Every step so far, those of each start in order.
    history: Vec<Progress>,
    /// Steps done of each start.
    done: BTreeMap<usize, usize>,
    /// Kernels that each device has compiled of the leg that it trains, and their number.
    compiled: BTreeMap<usize, [usize; 2]>,
    /// Begins with the first group, so that the curves of a run that is over stay.
    live: Option<LiveSteps<'a>>,
    begun: Instant,
    /// Why the run ends.
    failure: Option<RunError>,
}

impl<'a> Course<'a> {
    /// Goes on from a checkpoint. That of a run that begins has neither starts nor steps.
    pub fn from(mut checkpoint: Checkpoint, run: &'a Run<'a>, race: &'a Race<'a>, watch: &'a mut dyn Watch) -> Self {
        let (before, history) = (checkpoint.seconds, std::mem::take(&mut checkpoint.history));
        let done = history.iter().map(|progress| (progress.start, progress.step)).collect();
        let compiled = BTreeMap::new();
        let (live, begun, failure) = (None, Instant::now(), None);
        Course { run, race, watch, checkpoint, before, history, done, compiled, live, begun, failure }
    }

    /// The heats, the finished starts, every step of the run, and the seconds that it took.
    pub fn end(self) -> (Starts, Starts, Vec<Progress>, f64) {
        let seconds = self.seconds();
        (self.checkpoint.heats, self.checkpoint.finished, self.history, seconds)
    }

    fn seconds(&self) -> f64 {
        self.before + self.begun.elapsed().as_secs_f64()
    }

    /// Trains what is left, on all of the devices. Breaks if a stop was requested, with everything saved.
    ///
    /// # Errors
    /// When a setting is out of range, an image cannot be read, a device fails, or a checkpoint cannot be written.
    pub fn train(&mut self, devices: &[Device]) -> Result<ControlFlow<()>, RunError> {
        loop {
            let legs = self.race.stage(&self.checkpoint.heats, &self.checkpoint.finished)?;
            if legs.is_empty() {
                return Ok(ControlFlow::Continue(()));
            }
            let stage = Stage {
                legs: &legs,
                images: self.run.loaded.task.visible(),
                every: self.run.config.training.checkpoint_every,
            };
            let queue = stage.queue(|first| self.checkpoint.groups.get(&first).cloned());
            let trained = stage.train(devices, queue, &mut |event| self.take(event));
            if let Some(failure) = self.failure.take() {
                return Err(failure);
            }
            if trained?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
    }

    fn take(&mut self, event: Event) -> Answer {
        match self.recorded(event) {
            Err(failure) => {
                self.failure.get_or_insert(failure);
                Answer::End
            }
            Ok(()) if self.watch.wants_stop() => Answer::Stop,
            Ok(()) => Answer::GoOn,
        }
    }

    fn recorded(&mut self, event: Event) -> Result<(), RunError> {
        match event {
            Event::Compiling { device, done, of } => {
                self.compiled.insert(device, [done, of]);
                let [done, of] = [0, 1].map(|count| self.compiled.values().map(|counts| counts[count]).sum());
                self.watch.compiling(done, of);
            }
            Event::Begun(standing) => {
                if self.live.is_none() {
                    self.draw_live()?;
                }
                let is_resumed = self.checkpoint.groups.insert(standing.snapshot.start, standing).is_some();
                // A stop may have been requested while the kernels were compiled.
                if self.watch.wants_stop() && !is_resumed {
                    self.save()?;
                }
            }
            Event::Step { leg, progress } => {
                if self.history.is_empty() {
                    self.run.folder.begun();
                }
                self.done.extend(progress.iter().map(|progress| (progress.start, progress.step)));
                self.watch.step(&progress, leg, self.done.values().sum());
                if let Some(live) = &mut self.live {
                    live.take(progress.iter().map(|progress| row(progress, &leg.config)));
                }
                self.history.extend(progress);
            }
            Event::FellBack { start, reason, from } => self.watch.again(start, &reason, &from),
            Event::Again(from) => {
                self.history.retain(|done| !is_of(&from, done.start) || done.step <= from.step);
                self.draw_live()?;
            }
            Event::Standing(standing) => {
                self.flush();
                self.checkpoint.groups.insert(standing.snapshot.start, standing);
                self.save()?;
            }
            Event::Over { leg, trained, at } => {
                self.flush();
                let Checkpoint { heats, finished, groups, .. } = &mut self.checkpoint;
                groups.remove(&at.start);
                for (start, mut trained) in (at.start..).zip(trained) {
                    if let Some(reason) = &trained.failed {
                        self.watch.failed(start, reason);
                    }
                    self.done.insert(start, leg.until);
                    if leg.is_heat {
                        // The state of those that go on is that of their group.
                        trained.states.clear();
                        heats.insert(start, trained);
                    } else {
                        finished.insert(start, trained);
                    }
                }
                if leg.is_heat {
                    groups.insert(at.start, Standing::at(at));
                    let finalists = self.race.finalists(heats);
                    let goes_on = |first: usize| finalists.iter().any(|&start| self.race.group(start) == first);
                    groups.retain(|&first, _| !heats.contains_key(&first) || goes_on(first));
                }
                self.save()?;
            }
        }
        Ok(())
    }

    fn save(&mut self) -> Result<(), RunError> {
        self.run.folder.check_held()?;
        // A group that goes on beside the one that stands here has done steps that its last state does not know.
        let is_known = |progress: &&Progress| {
            let group = self.checkpoint.groups.get(&self.race.group(progress.start));
            group.is_none_or(|standing| standing.knows(progress.start, progress.step))
        };
        let history = self.history.iter().filter(is_known).cloned().collect();
        (self.checkpoint.seconds, self.checkpoint.history) = (self.seconds(), history);
        Ok(self.checkpoint.save(self.run.folder.path())?)
    }

    /// Begins the curves of the run in training with the steps done so far.
    fn draw_live(&mut self) -> Result<(), RunError> {
        let done = steps(&self.history, &self.race.kinds());
        let has_events = self.run.extent == Extent::Full;
        self.live = Some(LiveSteps::begin(self.run.folder, self.race.hyper_parameters(), &done, has_events)?);
        Ok(())
    }

    fn flush(&mut self) {
        if let Some(live) = &mut self.live {
            live.flush();
        }
    }
}
