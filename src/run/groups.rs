//! Trains the starts of a run in groups, on one device or on several.
//!
//! Each device trains one group after another. Which one does not matter: a start's random numbers follow from its own number, so the
//! results are those of one device up to the rounding of another. A start that diverges goes back to the last good state of its group
//! with half the learning rates, at most three times. Devices only train: what is to be shown or saved is told as [`Event`]s on
//! the caller's thread, whose [`Answer`] a device waits for.

use std::collections::VecDeque;
use std::ops::{ControlFlow, Range};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::data::Visible;
use crate::engine::gpu::Device;
use crate::run::race::Leg;
use crate::training::trainer::{Progress, Snapshot, TrainError, Trained, Trainer};

/// How often a start that diverges is trained again from its last good state, with half the learning rates each time.
const HALVINGS: u32 = 3;

/// Longest time between two states of a group that are told, if steps are slow.
const PACE: Duration = Duration::from_secs(60);

/// Where the training of a group of starts stands: all that resuming needs. Starts are counted over the whole run.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    pub snapshot: Snapshot,
    /// The last good state of the group, to which a start that diverges goes back; `None` if it is `snapshot`.
    pub good: Option<Snapshot>,
    /// The starts of the group that diverged and are to be trained again, each from its last good state.
    pub again: VecDeque<Snapshot>,
    /// The starts of the group whose training is over, while others of it are trained again.
    pub waiting: Vec<Trained>,
}

impl Standing {
    /// At a state that is a good one.
    pub fn at(snapshot: Snapshot) -> Self {
        Standing { snapshot, good: None, again: VecDeque::new(), waiting: Vec::new() }
    }

    /// Whether a start of this group has done its step `step` as the snapshot knows it.
    pub fn knows(&self, start: usize, step: usize) -> bool {
        step <= self.snapshot.step || !is_of(&self.snapshot, start)
    }
}

/// Whether a snapshot is of a group in which this start is trained.
pub fn is_of(snapshot: &Snapshot, start: usize) -> bool {
    start >= snapshot.start && !snapshot.failed.contains_key(&start)
}

/// What a device tells of its training.
#[derive(Debug)]
pub enum Event<'a> {
    /// Of a leg's kernels, `done` of `of` are compiled on the device of this number.
    Compiling { device: usize, done: usize, of: usize },
    /// A group begins, or goes on, from here.
    Begun(Standing),
    /// A step is done, for each start of the group that has not failed.
    Step { leg: &'a Leg, progress: Vec<Progress> },
    /// A start diverged for this reason, and is about to be trained again from this state.
    FellBack { start: usize, reason: String, from: Snapshot },
    /// The start of which this is the state is trained again from now on.
    Again(Snapshot),
    /// A group stands here, and can be resumed.
    Standing(Standing),
    /// A group has come to the last step of its leg, with the state from which a heat can go on.
    Over { leg: &'a Leg, trained: Vec<Trained>, at: Snapshot },
}

/// Whether a device is to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Answer {
    GoOn,
    /// To stop as soon as the group's state was told.
    Stop,
    /// To stop at once: its state cannot be saved.
    End,
}

/// A group of starts to train.
#[derive(Debug)]
struct Group {
    /// Index of its leg.
    leg: usize,
    /// Number of its first start among all starts of the run.
    first: usize,
    /// Where it stands, if it is resumed.
    standing: Option<Standing>,
}

/// The groups that no device has begun, of each leg.
#[derive(Debug)]
pub struct Queue {
    left: Vec<VecDeque<Group>>,
    begun: Vec<bool>,
}

impl Queue {
    /// The next group for a device that trained the leg `own` last: of this leg if possible, since its kernels are compiled; else of one
    /// that no other device trains.
    fn next(&mut self, own: Option<usize>) -> Option<Group> {
        let open = |leg: &usize| !self.left[*leg].is_empty();
        let fresh = (0..self.left.len()).find(|leg| open(leg) && !self.begun[*leg]);
        let longest = || (0..self.left.len()).filter(open).max_by_key(|&leg| self.left[leg].len());
        let leg = own.filter(open).or(fresh).or_else(longest)?;
        self.begun[leg] = true;
        self.left[leg].pop_front()
    }
}

/// Legs of a run that do not depend on one another.
#[derive(Debug)]
pub struct Stage<'a> {
    pub legs: &'a [Leg],
    pub images: Visible<'a>,
    /// Steps between two states that are told and to which a start that diverges goes back.
    pub every: usize,
}

impl<'a> Stage<'a> {
    /// The groups of this stage, each from where it `stands` if it does.
    pub fn queue(&self, stands: impl Fn(usize) -> Option<Standing>) -> Queue {
        let left = |(index, leg): (usize, &Leg)| -> VecDeque<Group> {
            leg.groups().map(|first| Group { leg: index, first, standing: stands(first) }).collect()
        };
        let left: Vec<VecDeque<Group>> = self.legs.iter().enumerate().map(left).collect();
        Queue { begun: vec![false; left.len()], left }
    }

    /// Trains the groups of a queue. Breaks if an answer was to stop.
    ///
    /// # Errors
    /// When an image cannot be read or a device fails. The other devices are then stopped first, and tell their states.
    pub fn train(
        &self,
        devices: &[Device],
        queue: Queue,
        tell: &mut dyn FnMut(Event<'a>) -> Answer,
    ) -> Result<ControlFlow<()>, TrainError> {
        let queue = Mutex::new(queue);
        match devices {
            [device] => self.work(device, 0, &queue, tell),
            devices => self.share(devices, &queue, tell),
        }
    }

    /// Each device in a thread of its own. `tell` is called on this one.
    fn share(
        &self,
        devices: &[Device],
        queue: &Mutex<Queue>,
        tell: &mut dyn FnMut(Event<'a>) -> Answer,
    ) -> Result<ControlFlow<()>, TrainError> {
        let has_failed = AtomicBool::new(false);
        thread::scope(|scope| {
            let (events, told) = sync_channel::<(Event<'a>, Sender<Answer>)>(0);
            let begin = |(number, device): (usize, &'_ Device)| {
                let (events, has_failed, device) = (events.clone(), &has_failed, device.clone());
                scope.spawn(move || {
                    let mut tell = |event| {
                        let (answer, answered) = channel();
                        // Both fail only if the caller's thread ends.
                        let sent = events.send((event, answer)).is_ok();
                        answered.recv().ok().filter(|_| sent).unwrap_or(Answer::End)
                    };
                    let ended = self.work(&device, number, queue, &mut tell);
                    has_failed.fetch_or(ended.is_err(), Ordering::Relaxed);
                    ended
                })
            };
            let working: Vec<_> = devices.iter().enumerate().map(begin).collect();
            drop(events);
            for (event, answer) in told {
                let own = tell(event);
                let least = if has_failed.load(Ordering::Relaxed) { Answer::Stop } else { Answer::GoOn };
                // A device that fails does not wait for it.
                let _ = answer.send(own.max(least));
            }
            let mut flow = ControlFlow::Continue(());
            let mut failure = Ok(());
            for ended in working {
                match ended.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)) {
                    Ok(ControlFlow::Continue(())) => {}
                    Ok(ControlFlow::Break(())) => flow = ControlFlow::Break(()),
                    Err(error) => failure = failure.and(Err(error)),
                }
            }
            failure.map(|()| flow)
        })
    }

    /// Trains groups on a device as long as there are any.
    fn work(
        &self,
        device: &Device,
        number: usize,
        queue: &Mutex<Queue>,
        tell: &mut dyn FnMut(Event<'a>) -> Answer,
    ) -> Result<ControlFlow<()>, TrainError> {
        let mut own: Option<(usize, Trainer)> = None;
        let mut told = Instant::now();
        loop {
            let leg = own.as_ref().map(|(leg, _)| *leg);
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next(leg);
            let Some(group) = next else { return Ok(ControlFlow::Continue(())) };
            let on = &self.legs[group.leg];
            if leg != Some(group.leg) {
                // Its memory is free before the other's is taken.
                own = None;
            }
            let (_, trainer) = match &mut own {
                Some(own) => own,
                none => {
                    let mut compiled = |done, of| _ = tell(Event::Compiling { device: number, done, of });
                    none.insert((group.leg, Trainer::new(device, &on.config, self.images, &mut compiled)?))
                }
            };
            if self.train_group(trainer, on, group, &mut told, tell)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
    }

    fn train_group(
        &self,
        trainer: &mut Trainer,
        leg: &'a Leg,
        group: Group,
        told: &mut Instant,
        tell: &mut dyn FnMut(Event<'a>) -> Answer,
    ) -> Result<ControlFlow<()>, TrainError> {
        let in_run = |snapshot: Snapshot| snapshot.renumbered(|start| leg.first + start);
        let in_leg = |snapshot: &Snapshot| snapshot.clone().renumbered(|start| start - leg.first);
        let first = group.first;
        let members = leg.members(first);
        let standing = match group.standing {
            Some(standing) => {
                trainer.restore(&in_leg(&standing.snapshot))?;
                standing
            }
            None => {
                trainer.begin(first - leg.first)?;
                Standing::at(in_run(trainer.snapshot()?))
            }
        };
        let mut answer = tell(Event::Begun(standing.clone()));
        if answer > Answer::GoOn {
            return Ok(ControlFlow::Break(()));
        }
        let Standing { snapshot, good, mut again, mut waiting } = standing;
        let mut good = good.unwrap_or(snapshot);
        // Trains the group, and then each start of it that diverged.
        loop {
            let mut failed = trainer.failed().len();
            while trainer.done() < leg.until {
                // States can be read only if the device is not a step ahead.
                let next = trainer.done() + 1;
                let is_kept = next.is_multiple_of(self.every);
                let is_due = is_kept || next == leg.until || told.elapsed() >= PACE || answer > Answer::GoOn;
                let stepped = if is_due { trainer.step() } else { trainer.step_ahead() };
                if trainer.failed().len() > failed {
                    failed = trainer.failed().len();
                    for (start, reason, from) in fallen(trainer, leg, &good, &members, &again) {
                        again.push_back(from.clone());
                        tell(Event::FellBack { start, reason, from });
                    }
                }
                let mut progress = match stepped {
                    Ok(Some(progress)) => progress,
                    // `assess` gives the reason of each start that diverged.
                    Ok(None) | Err(TrainError::Diverged { .. }) => break,
                    Err(error) => return Err(error),
                };
                progress.iter_mut().for_each(|progress| progress.start += leg.first);
                answer = tell(Event::Step { leg, progress });
                if is_due && answer < Answer::End {
                    let snapshot = in_run(trainer.snapshot()?);
                    if is_kept {
                        good = snapshot.clone();
                    }
                    let other = (good != snapshot).then(|| good.clone());
                    let (again, waiting) = (again.clone(), waiting.clone());
                    *told = Instant::now();
                    answer = tell(Event::Standing(Standing { snapshot, good: other, again, waiting }));
                    if answer > Answer::GoOn {
                        return Ok(ControlFlow::Break(()));
                    }
                }
                if answer == Answer::End {
                    return Ok(ControlFlow::Break(()));
                }
            }
            let assessed = trainer.assess()?;
            match waiting.is_empty() {
                true => waiting = assessed,
                // The one that was trained again.
                false => {
                    let own = members.clone().position(|start| is_of(&good, start)).expect("one is trained");
                    waiting[own] = assessed[own].clone();
                }
            }
            let Some(from) = again.pop_front() else { break };
            trainer.restore(&in_leg(&from))?;
            tell(Event::Again(from.clone()));
            good = from;
        }
        *told = Instant::now();
        let at = in_run(trainer.snapshot()?);
        match tell(Event::Over { leg, trained: waiting, at }) {
            Answer::GoOn => Ok(ControlFlow::Continue(())),
            _ => Ok(ControlFlow::Break(())),
        }
    }
}

/// Each failed start of a group that diverged since its last good state, with the reason and the state from which it is to be trained
/// again. One whose rates were halved often enough stays failed, as does one of several side by side in a heat.
fn fallen(
    trainer: &Trainer,
    leg: &Leg,
    good: &Snapshot,
    members: &Range<usize>,
    again: &VecDeque<Snapshot>,
) -> Vec<(usize, String, Snapshot)> {
    let failed = trainer.failed().iter().map(|(start, failure)| (leg.first + start, failure));
    // A heat goes on from one state of its group, so starts side by side cannot be trained again one by one.
    let may_be = good.halvings < HALVINGS && (!leg.is_heat || members.len() == 1);
    let is_new = |start: &usize| {
        let is_known = good.failed.contains_key(start) || again.iter().any(|queued| is_of(queued, *start));
        !is_known && may_be
    };
    let new = failed.filter(|(start, _)| is_new(start));
    new.map(|(start, failure)| (start, failure.reason.clone(), good.again(start, members.clone()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_stays_with_its_leg_then_begins_one_then_helps() {
        let groups = |leg: usize, firsts: &[usize]| -> VecDeque<Group> {
            firsts.iter().map(|&first| Group { leg, first, standing: None }).collect()
        };
        let left = vec![groups(0, &[0, 1]), groups(1, &[2, 3, 4, 5]), groups(2, &[6])];
        let mut queue = Queue { begun: vec![false; 3], left };
        let mut next = |own| queue.next(own).map(|group: Group| (group.leg, group.first));
        assert_eq!([next(None), next(None)], [Some((0, 0)), Some((1, 2))], "each device another leg");
        assert_eq!([next(Some(0)), next(Some(0))], [Some((0, 1)), Some((2, 6))], "its own, then one not begun");
        assert_eq!([next(Some(2)), next(Some(1)), next(Some(2))].map(Option::unwrap), [(1, 3), (1, 4), (1, 5)]);
        assert_eq!(next(Some(1)), None);
    }
}
