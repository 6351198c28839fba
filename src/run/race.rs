//! Which starts a run trains, of which augmentations, and for how long.
//!
//! A run with one augmentation trains each of its starts once. With `--augmentation auto` there are starts of several kinds, and they
//! race: each is trained for a third of the steps (a heat), and those whose heats did best go on to a final of all steps, with a new
//! detector, from the hyper-parameters that their heats found. The best final is kept. There are as many finals, up to three, as keep
//! the race below twice the steps of four starts of a single kind: the twelve starts of grey images take 12 / 3 + 3 = 7 times the steps
//! of a start, the sixteen of colour images 16 / 3 + 2.
//!
//! Heats of a quarter of the steps left the choice of finalists to chance where defects are weak.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use crate::engine::tensor::Tensor;
use crate::run::config::{ConfigError, RunConfig};
use crate::ssad::config::Config;
use crate::training::trainer::{TrainError, Trained, choose, ranked};

/// Most heats that go on to a final.
const FINALISTS: usize = 3;

/// A heat has one step for so many of a final.
const HEAT: usize = 3;

/// Most steps of a race, as a multiple of those of a final: twice the four starts of a kind.
const MOST: usize = 8;

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

/// Starts of one kind, trained one after another or side by side.
struct Round {
    /// Index of the kind.
    kind: usize,
    starts: Vec<Vec<f32>>,
    is_heat: bool,
}

/// What one trainer trains: starts of one augmentation, each for as many steps.
#[derive(Debug)]
pub struct Leg {
    pub config: Config,
    pub is_heat: bool,
    /// Number of its first start among all starts of the run.
    pub first: usize,
    /// Number of starts that are known so far.
    pub of: usize,
    /// Steps of the whole run.
    pub total: usize,
}

/// The finished starts of a run, by their numbers.
pub type Finished = BTreeMap<usize, Trained>;

impl Leg {
    /// The numbers of its starts among those of the run.
    pub fn starts(&self) -> Range<usize> {
        self.first..self.first + self.config.starts.len()
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

    fn has_heats(&self) -> bool {
        self.kinds.len() > 1
    }

    /// Number of starts in the first round.
    fn first_round(&self) -> usize {
        self.kinds.iter().map(|kind| kind.starts.len()).sum()
    }

    /// All rounds that the finished starts decide on, in order.
    fn rounds(&self, finished: &Finished) -> Vec<Round> {
        let is_heat = self.has_heats();
        let first = |(kind, config): (usize, &Config)| Round { kind, starts: config.starts.clone(), is_heat };
        let mut rounds: Vec<Round> = self.kinds.iter().enumerate().map(first).collect();
        let heats: Vec<&Trained> = finished.range(..self.first_round()).map(|(_, trained)| trained).collect();
        if is_heat && heats.len() == self.first_round() {
            let mut best = ranked(&heats, self.config.score);
            best.truncate(self.finalists());
            best.sort_unstable();
            let mut first = 0;
            for kind in 0..self.kinds.len() {
                let own = first..first + self.kinds[kind].starts.len();
                first = own.end;
                let starts = best.iter().filter(|heat| own.contains(heat)).map(|&heat| heats[heat].end.clone());
                rounds.push(Round { kind, starts: starts.collect(), is_heat: false });
            }
            rounds.retain(|round| !round.starts.is_empty());
        }
        rounds
    }

    /// For each start that the finished ones decide on, the configuration of its kind, which gives its hyper-parameters their names.
    pub fn kinds(&self, finished: &Finished) -> Vec<&Config> {
        let of_round = |round: Round| std::iter::repeat_n(&self.kinds[round.kind], round.starts.len());
        self.rounds(finished).into_iter().flat_map(of_round).collect()
    }

    /// Number of heats that go on to a final.
    fn finalists(&self) -> usize {
        MOST.saturating_sub(self.first_round().div_ceil(HEAT)).clamp(1, FINALISTS).min(self.heats())
    }

    /// Number of heats, which come first.
    fn heats(&self) -> usize {
        if self.has_heats() { self.first_round() } else { 0 }
    }

    /// Whether start `index` is a heat.
    pub fn is_heat(&self, index: usize) -> bool {
        index < self.heats()
    }

    /// Training steps of start `index`.
    pub fn steps(&self, index: usize) -> usize {
        self.steps_of(self.is_heat(index))
    }

    fn steps_of(&self, is_heat: bool) -> usize {
        let steps = if self.config.method.trains() { self.config.training.steps } else { 0 };
        if is_heat { steps.div_ceil(HEAT) } else { steps }
    }

    /// What to train after the finished starts, legs that do not depend on one another; none if nothing is left.
    ///
    /// # Errors
    /// As [`new`](Race::new).
    pub fn stage(&self, finished: &Finished) -> Result<Vec<Leg>, ConfigError> {
        let rounds = self.rounds(finished);
        let finals = if self.has_heats() { self.finalists() } else { 0 };
        let total = self.first_round() * self.steps_of(self.has_heats()) + finals * self.steps_of(false);
        let (of, mut next) = (rounds.iter().map(|round| round.starts.len()).sum(), 0);
        let mut legs = Vec::new();
        for Round { kind, starts, is_heat } in rounds {
            let first = next;
            next += starts.len();
            if (first..next).all(|start| finished.contains_key(&start)) {
                continue;
            }
            let mut config = training(self.config, self.config.kinds()[kind], self.sizes)?;
            (config.starts, config.given) = (starts, self.given.clone());
            if is_heat {
                config.steps = self.steps_of(is_heat);
                config.warm_up = config.warm_up.div_ceil(HEAT).min(config.steps);
            }
            legs.push(Leg { config, is_heat, first, of, total });
        }
        Ok(legs)
    }

    /// The start to keep, of the finals if there were heats.
    ///
    /// # Errors
    /// When every start failed; gives the reasons.
    pub fn choose(&self, finished: &Finished) -> Result<usize, TrainError> {
        let (heats, all): (usize, Vec<&Trained>) = (self.heats(), finished.values().collect());
        match all.split_at(heats) {
            // There are no finals if every heat failed.
            (all, []) => choose(all, self.config.score),
            (_, finals) => Ok(heats + choose(finals, self.config.score)?),
        }
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
    fn run(race: &Race, share: impl Fn(usize) -> f64) -> (Finished, Vec<Leg>) {
        let (mut finished, mut legs) = (Finished::new(), Vec::new());
        loop {
            let stage = race.stage(&finished).unwrap();
            if stage.is_empty() {
                return (finished, legs);
            }
            // In any order.
            for leg in stage.iter().rev() {
                finished.extend(leg.starts().map(|index| (index, trained(leg, index, share(index)))));
            }
            legs.extend(stage);
        }
    }

    #[test]
    fn a_stage_is_what_is_left_and_does_not_depend_on_the_rest() {
        let config = auto();
        let race = Race::new(&config, SIZES, Arc::default()).unwrap();
        let heats = race.stage(&Finished::new()).unwrap();
        let mut finished = Finished::new();
        finished.extend(heats[1].starts().map(|index| (index, trained(&heats[1], index, 0.5))));
        let left = |finished: &Finished| -> Vec<Range<usize>> {
            race.stage(finished).unwrap().iter().map(Leg::starts).collect()
        };
        assert_eq!(left(&finished), [0..4, 8..12], "a leg that is over is left out, and the others stay");
        finished.insert(0, trained(&heats[0], 0, 0.1));
        assert_eq!(left(&finished), [0..4, 8..12], "finals wait for all heats");
    }

    #[test]
    fn the_best_heats_go_on_from_where_they_ended() {
        let config = auto();
        let race = Race::new(&config, SIZES, Arc::default()).unwrap();
        // Two of the first kind and one of the last do best.
        let (finished, legs) = run(&race, |index| if [1, 3, 11].contains(&index) { 0.5 } else { 0.1 });
        let names: Vec<&str> = legs.iter().map(|leg| leg.config.augmentation.name()).collect();
        assert_eq!(names, [&COMPETING[..], &["cutblend", "rotation"]].concat());
        assert_eq!(legs.iter().map(|leg| leg.is_heat).collect::<Vec<_>>(), [true, true, true, false, false]);
        assert_eq!(legs.iter().map(Leg::starts).collect::<Vec<_>>(), [0..4, 4..8, 8..12, 12..14, 14..15]);
        assert_eq!(legs[3].config.starts, [finished[&1].end.clone(), finished[&3].end.clone()]);
        assert_eq!(legs[4].config.starts, [finished[&11].end.clone()]);
        let steps: Vec<usize> = legs.iter().map(|leg| leg.config.steps).collect();
        assert_eq!(steps, [60, 60, 60, 180, 180]);
        assert!(legs.iter().all(|leg| leg.total == 1260));
        for (index, name) in [(0, "cutblend"), (7, "cutpaste"), (8, "rotation"), (13, "cutblend"), (14, "rotation")] {
            assert_eq!(race.kinds(&finished)[index].augmentation.name(), name);
            assert_eq!((race.is_heat(index), race.steps(index)), (index < 12, if index < 12 { 60 } else { 180 }));
        }
    }

    #[test]
    fn a_final_is_kept_whatever_the_heats_came_to() {
        let config = auto();
        let race = Race::new(&config, SIZES, Arc::default()).unwrap();
        let (mut finished, _) = run(&race, |index| [0.9, 0.2, 0.3, 0.1][index.saturating_sub(11).min(3)]);
        assert_eq!((finished.len(), race.choose(&finished).unwrap()), (15, 13));
        let fail = |finished: &mut Finished, starts: Range<usize>| {
            finished.range_mut(starts).for_each(|(_, trained)| trained.failed = Some("it diverged".into()));
        };
        fail(&mut finished, 13..14);
        assert_eq!(race.choose(&finished).unwrap(), 12);
        fail(&mut finished, 12..15);
        assert!(race.choose(&finished).unwrap_err().to_string().contains("it diverged"));
        finished.retain(|&index, _| index < 12);
        fail(&mut finished, 0..12);
        assert!(race.stage(&finished).unwrap().is_empty(), "no heat can go on");
        assert!(race.choose(&finished).unwrap_err().to_string().contains("start 12: it diverged"));
    }

    /// A race takes at most twice the steps of one kind.
    #[test]
    fn the_cost_of_a_race_is_bounded() {
        for channels in [1, 3] {
            let config = auto();
            let race = Race::new(&config, Sizes { image: [channels, 16, 16], ..SIZES }, Arc::default()).unwrap();
            let one = RunConfig { augmentation: "cutdiff".into(), ..auto() };
            let alone = Race::new(&one, SIZES, Arc::default()).unwrap();
            let [race, alone] = [race, alone].map(|race| race.stage(&Finished::new()).unwrap()[0].total);
            assert!(race <= 2 * alone, "{channels} channels: {race} steps, {alone} alone");
        }
    }

    #[test]
    fn one_kind_is_trained_once() {
        let config = RunConfig { augmentation: "rotation".into(), ..auto() };
        let race = Race::new(&config, SIZES, Arc::default()).unwrap();
        let (finished, legs) = run(&race, |index| index as f64 / 10.0);
        assert_eq!((finished.len(), legs.len(), legs[0].is_heat), (4, 1, false));
        assert_eq!(race.choose(&finished).unwrap(), 3);
        let without = RunConfig { method: Method::AutoEncoder, ..auto() };
        let legs = Race::new(&without, SIZES, Arc::default()).unwrap().stage(&Finished::new()).unwrap();
        assert_eq!((legs.len(), legs[0].of), (1, 1));
    }
}
