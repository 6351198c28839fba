//! Which starts a run trains, of which augmentations, and for how long.
//!
//! A run with one augmentation trains each of its starts once. With `--augmentation auto` there are starts of several kinds, and they
//! race: each is trained for a third of its steps (a heat), and the [`FINALISTS`] that did best by then go on to the end. The best of
//! these is kept. The sixteen starts of colour images take 16 / 3 + 4 · 2 / 3 = 8 times the steps of a start, and the twelve of grey
//! images 6.7 times, where a single kind takes 4. Tuning begins early, so that heats tell something.
//!
//! On weak defects, heats of a quarter of the steps left the choice to chance, and finals that began anew with the hyper-parameters of
//! their heats came to less than those that go on.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use crate::engine::tensor::Tensor;
use crate::run::config::{ConfigError, RunConfig};
use crate::ssad::config::Config;
use crate::training::trainer::{TrainError, Trained, choose, ranked};

/// Heats that go on to the end.
pub const FINALISTS: usize = 4;

/// A heat has one step for so many of a start that goes on.
const HEAT: usize = 3;

/// The sizes of the task that a run is configured for.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Of the images, `[C, H, W]`.
    pub image: [usize; 3],
    /// Normal images to train on.
    pub normals: usize,
    /// Unlabelled images to tune on.
    pub unlabelled: usize,
}

/// The starts of a run.
#[derive(Debug)]
pub struct Race<'a> {
    config: &'a RunConfig,
    sizes: Sizes,
    given: Arc<[(String, Tensor)]>,
    /// The training of each kind.
    kinds: Vec<Config>,
}

/// What one trainer trains: starts of one augmentation, up to the same step.
#[derive(Debug)]
pub struct Leg {
    pub config: Config,
    pub is_heat: bool,
    /// The step at which the starts are left: the last one, or that of a heat.
    pub until: usize,
    /// Number of the first start of this augmentation among all starts of the run.
    pub first: usize,
    /// The starts to train, by their numbers.
    pub left: BTreeSet<usize>,
    /// Number of starts of the run.
    pub of: usize,
    /// Steps of the whole run.
    pub total: usize,
}

/// Trained starts of a run, by their numbers.
pub type Starts = BTreeMap<usize, Trained>;

impl Leg {
    /// The groups of starts to train: the number of the first start of each.
    pub fn groups(&self) -> impl Iterator<Item = usize> {
        let firsts = (self.first..self.first + self.config.starts.len()).step_by(self.config.group());
        firsts.filter(|&first| self.members(first).any(|start| self.left.contains(&start)))
    }

    /// The numbers of the starts of the group that begins with start `first`.
    pub fn members(&self, first: usize) -> Range<usize> {
        let members = self.config.members(first - self.first);
        self.first + members.start..self.first + members.end
    }
}

impl<'a> Race<'a> {
    /// The starts of a run, which begin with the `given` states.
    ///
    /// # Errors
    /// When a name is unknown or a number is out of range.
    pub fn new(config: &'a RunConfig, sizes: Sizes, given: Arc<[(String, Tensor)]>) -> Result<Self, ConfigError> {
        let kinds = config.kinds().iter().map(|kind| training(config, kind, sizes)).collect::<Result<_, _>>()?;
        Ok(Race { config, sizes, given, kinds })
    }

    /// The names of the hyper-parameters of all kinds.
    pub fn hyper_parameters(&self) -> BTreeSet<String> {
        let names =
            |kind: &Config| kind.starts.first().map(|start| kind.setting(start)).unwrap_or_default().into_keys();
        self.kinds.iter().flat_map(names).collect()
    }

    /// The configuration of each start's kind, which gives its hyper-parameters their names.
    pub fn kinds(&self) -> Vec<&Config> {
        self.kinds.iter().flat_map(|kind| std::iter::repeat_n(kind, kind.starts.len())).collect()
    }

    fn has_heats(&self) -> bool {
        self.kinds.len() > 1
    }

    /// Number of all starts.
    fn count(&self) -> usize {
        self.kinds.iter().map(|kind| kind.starts.len()).sum()
    }

    /// Training steps of a start that goes to the end, or that has only its heat.
    pub fn steps(&self, is_heat: bool) -> usize {
        let steps = if self.config.method.trains() { self.config.training.steps } else { 0 };
        if is_heat { steps.div_ceil(HEAT) } else { steps }
    }

    /// The first start of the group of start `start`.
    pub fn group(&self, start: usize) -> usize {
        let mut first = 0;
        for kind in &self.kinds {
            if start < first + kind.starts.len() {
                return start - (start - first) % kind.group();
            }
            first += kind.starts.len();
        }
        start
    }

    /// The starts that go on if these are the heats.
    pub fn finalists(&self, heats: &Starts) -> BTreeSet<usize> {
        let (numbers, heats): (Vec<usize>, Vec<&Trained>) = heats.iter().unzip();
        ranked(&heats, self.config.score).into_iter().take(FINALISTS).map(|best| numbers[best]).collect()
    }

    /// What to train after these heats and finished starts, legs that do not depend on one another; none if nothing is left.
    ///
    /// # Errors
    /// As [`new`](Race::new).
    pub fn stage(&self, heats: &Starts, finished: &Starts) -> Result<Vec<Leg>, ConfigError> {
        let count = self.count();
        let is_heat = self.has_heats() && heats.len() < count;
        let (all, over): (BTreeSet<usize>, _) = match self.has_heats() && !is_heat {
            true => (self.finalists(heats), finished),
            false => ((0..count).collect(), if is_heat { heats } else { finished }),
        };
        let goes_on = if self.has_heats() { FINALISTS.min(count) } else { 0 };
        let total = count * self.steps(self.has_heats()) + goes_on * (self.steps(false) - self.steps(true));
        let mut next = 0;
        let mut legs = Vec::new();
        for (kind, planned) in self.config.kinds().iter().zip(&self.kinds) {
            let first = next;
            next += planned.starts.len();
            let left: BTreeSet<usize> =
                all.range(first..next).copied().filter(|start| !over.contains_key(start)).collect();
            if left.is_empty() {
                continue;
            }
            let mut config = training(self.config, kind, self.sizes)?;
            config.given = self.given.clone();
            if self.has_heats() {
                config.warm_up = config.warm_up.div_ceil(HEAT);
            }
            let until = if is_heat { self.steps(true) } else { config.steps };
            legs.push(Leg { config, is_heat, until, first, left, of: count, total });
        }
        Ok(legs)
    }

    /// The start to keep.
    ///
    /// # Errors
    /// When every start failed; gives the reasons.
    pub fn choose(&self, heats: &Starts, finished: &Starts) -> Result<usize, TrainError> {
        // None goes on if every heat failed.
        let (numbers, trained): (Vec<usize>, Vec<&Trained>) =
            if finished.is_empty() { heats.iter().unzip() } else { finished.iter().unzip() };
        Ok(numbers[choose(&trained, self.config.score)?])
    }
}

/// The training of a run with this augmentation.
fn training(config: &RunConfig, augmentation: &str, sizes: Sizes) -> Result<Config, ConfigError> {
    let Sizes { image, normals, unlabelled } = sizes;
    RunConfig { augmentation: augmentation.into(), ..config.clone() }.training(image, normals, unlabelled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::config::Training;
    use crate::ssad::augment::COMPETING;
    use crate::ssad::method::Method;
    use crate::training::trainer::Failure;

    const SIZES: Sizes = Sizes { image: [1, 16, 16], normals: 40, unlabelled: 40 };

    fn auto() -> RunConfig {
        RunConfig { augmentation: "auto".into(), ..RunConfig::default() }
    }

    /// A start whose unlabelled images exceed the training images to this share.
    fn trained(leg: &Leg, index: usize, share: f64) -> Trained {
        let start = leg.config.starts[index - leg.first].clone();
        let end = start.iter().map(|value| value + 0.25).collect();
        let unlabelled = (0..100).map(|image| if f64::from(image) < 100.0 * share { 2.0 } else { 0.0 }).collect();
        let logits = Some([vec![1.0; 20], unlabelled]);
        Trained {
            end,
            logits,
            failed: None,
            ..Trained::failed(start, Failure { reason: String::new(), a: Vec::new() })
        }
    }

    /// Trains a whole race, each start coming to the share that `share` gives it.
    fn run(race: &Race, share: impl Fn(usize) -> f64) -> (Starts, Starts, Vec<Leg>) {
        let (mut heats, mut finished, mut legs) = (Starts::new(), Starts::new(), Vec::new());
        loop {
            let stage = race.stage(&heats, &finished).unwrap();
            if stage.is_empty() {
                return (heats, finished, legs);
            }
            // In any order.
            for leg in stage.iter().rev() {
                let over = if leg.is_heat { &mut heats } else { &mut finished };
                over.extend(leg.left.iter().map(|&index| (index, trained(leg, index, share(index)))));
            }
            legs.extend(stage);
        }
    }

    fn starts(leg: &Leg) -> Vec<usize> {
        leg.left.iter().copied().collect()
    }

    #[test]
    fn the_best_heats_go_on_to_the_end() {
        let config = auto();
        let race = Race::new(&config, SIZES, Arc::default()).unwrap();
        // Three of the first kind and one of the last do best.
        let (heats, finished, legs) = run(&race, |index| if [1, 2, 3, 11].contains(&index) { 0.5 } else { 0.1 });
        let names: Vec<&str> = legs.iter().map(|leg| leg.config.augmentation.name()).collect();
        assert_eq!(names, [&COMPETING[..], &["cutblend", "rotation"]].concat());
        assert_eq!(legs.iter().map(|leg| leg.is_heat).collect::<Vec<_>>(), [true, true, true, false, false]);
        assert_eq!(legs.iter().map(|leg| leg.first).collect::<Vec<_>>(), [0, 4, 8, 0, 8]);
        assert_eq!(starts(&legs[1]), [4, 5, 6, 7]);
        assert_eq!((starts(&legs[3]), starts(&legs[4])), (vec![1, 2, 3], vec![11]));
        assert_eq!((heats.len(), finished.keys().copied().collect::<Vec<_>>()), (12, vec![1, 2, 3, 11]));
        assert_eq!(legs.iter().map(|leg| leg.until).collect::<Vec<_>>(), [60, 60, 60, 180, 180]);
        assert!(legs.iter().all(|leg| (leg.config.steps, leg.config.warm_up, leg.total) == (180, 14, 1200)));
        for (index, name) in [(0, "cutblend"), (7, "cutpaste"), (8, "rotation")] {
            assert_eq!(race.kinds()[index].augmentation.name(), name);
        }
        assert_eq!([true, false].map(|is_heat| race.steps(is_heat)), [60, 180]);
    }

    #[test]
    fn a_stage_is_what_is_left_and_waits_for_all_heats() {
        let config = auto();
        let race = Race::new(&config, SIZES, Arc::default()).unwrap();
        let all = race.stage(&Starts::new(), &Starts::new()).unwrap();
        let mut heats: Starts = (4..8).map(|index| (index, trained(&all[1], index, 0.5))).collect();
        let left = |heats: &Starts| -> Vec<Vec<usize>> {
            race.stage(heats, &Starts::new()).unwrap().iter().map(starts).collect()
        };
        assert_eq!(left(&heats), [vec![0, 1, 2, 3], vec![8, 9, 10, 11]]);
        heats.insert(0, trained(&all[0], 0, 0.1));
        assert_eq!(left(&heats), [vec![1, 2, 3], vec![8, 9, 10, 11]]);
    }

    /// Of a group, all starts go on if one does.
    #[test]
    fn starts_side_by_side_go_on_together() {
        let config = RunConfig { training: Training { together: Some(2), ..Training::default() }, ..auto() };
        let race = Race::new(&config, SIZES, Arc::default()).unwrap();
        let (_, _, legs) = run(&race, |index| if [1, 6].contains(&index) { 0.5 } else { 0.01 * index as f64 });
        let groups: Vec<Vec<usize>> = legs.iter().map(|leg| leg.groups().collect()).collect();
        assert_eq!(groups, [vec![0, 2], vec![4, 6], vec![8, 10], vec![0], vec![6], vec![10]]);
        assert_eq!(
            (legs[1].members(6), [0, 1, 5, 6, 7, 11].map(|start| race.group(start))),
            (6..8, [0, 0, 4, 6, 6, 10])
        );
    }

    #[test]
    fn a_start_that_went_to_the_end_is_kept_whatever_the_heats_came_to() {
        let config = auto();
        let race = Race::new(&config, SIZES, Arc::default()).unwrap();
        let (mut heats, mut finished, legs) = run(&race, |index| 0.05 * index as f64);
        assert_eq!((finished.len(), race.choose(&heats, &finished).unwrap()), (4, 11));
        finished.insert(9, trained(&legs[3], 9, 0.9));
        heats.insert(0, trained(&legs[0], 0, 1.0));
        assert_eq!(race.choose(&heats, &finished).unwrap(), 9);
        let fail = |starts: &mut Starts| {
            starts.values_mut().for_each(|trained| trained.failed = Some("it diverged".into()));
        };
        fail(&mut finished);
        assert!(race.choose(&heats, &finished).unwrap_err().to_string().contains("it diverged"));
        fail(&mut heats);
        assert!(race.stage(&heats, &Starts::new()).unwrap().is_empty(), "no heat can go on");
        let none = race.choose(&heats, &Starts::new()).unwrap_err().to_string();
        assert!(none.contains("start 12: it diverged"), "{none}");
    }

    /// A race takes at most twice the steps of one kind.
    #[test]
    fn the_cost_of_a_race_is_bounded() {
        for channels in [1, 3] {
            let config = auto();
            let race = Race::new(&config, Sizes { image: [channels, 16, 16], ..SIZES }, Arc::default()).unwrap();
            let one = RunConfig { augmentation: "cutdiff".into(), ..auto() };
            let alone = Race::new(&one, SIZES, Arc::default()).unwrap();
            let [race, alone] = [race, alone].map(|race| race.stage(&Starts::new(), &Starts::new()).unwrap()[0].total);
            assert!(race <= 2 * alone, "{channels} channels: {race} steps, {alone} alone");
        }
    }

    #[test]
    fn one_kind_is_trained_once() {
        let config = RunConfig { augmentation: "rotation".into(), ..auto() };
        let race = Race::new(&config, SIZES, Arc::default()).unwrap();
        let (heats, finished, legs) = run(&race, |index| index as f64 / 10.0);
        assert_eq!((heats.len(), finished.len(), legs.len(), legs[0].is_heat), (0, 4, 1, false));
        assert_eq!(race.choose(&heats, &finished).unwrap(), 3);
        let without = RunConfig { method: Method::AutoEncoder, ..auto() };
        let legs = Race::new(&without, SIZES, Arc::default()).unwrap().stage(&Starts::new(), &Starts::new()).unwrap();
        assert_eq!((legs.len(), legs[0].of), (1, 1));
    }
}
