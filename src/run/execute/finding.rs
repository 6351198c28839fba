//! What a finished run found.

use super::{Raced, Run, RunError};
use crate::data::{Images, Size};
use crate::run::evidence::{Evidence, Look};
use crate::run::found::{ABOUT_AS_WELL, Flagged, Found, NormalLevels};
use crate::run::model::{Model, Predictor};
use crate::training::conformal::is_flagged;

/// Most flagged images that are looked at, and most normal ones.
const LOOKS: usize = 64;

impl Run<'_> {
    /// What the anomalies are among the images that the run tuned on.
    pub(super) fn found(
        &self,
        Raced { race, finished, chosen, .. }: &Raced,
        model: &Model,
    ) -> Result<Option<Found>, RunError> {
        let task = &self.loaded.task;
        let tuned = task.tune.as_ref().unwrap_or(&task.test);
        let mut alarming: Vec<(f64, usize)> = Vec::new();
        let flagged = model.threshold.map(|threshold| {
            let scores = &finished[chosen].scores_by(self.config.score)[1];
            alarming.extend(tuned.most_anomalous(scores).filter(|(score, _)| is_flagged(*score, threshold.score)));
            let most = threshold.false_alarms(tuned.len()).map_or(0, |[_, most]| most);
            Flagged { images: alarming.len(), of: tuned.len(), is_chance: alarming.len() <= most }
        });
        let normal = NormalLevels::of(&task.train.images)?;
        let (kinds, [_, _, height, width]) = (race.kinds(), tuned.images.shape());
        let imitated = |start: usize| {
            let setting = kinds[start].setting(&finished[&start].end);
            Found::new(kinds[start].augmentation.name(), &setting, Size { height, width }, &normal, flagged)
        };
        let Some(mut found) = imitated(*chosen) else { return Ok(None) };
        if flagged.is_some_and(|flagged| !flagged.is_chance) {
            alarming.sort_by(|a, b| b.0.total_cmp(&a.0));
            let views: Vec<usize> = alarming.iter().map(|(_, view)| *view).take(LOOKS).collect();
            let trained: Vec<usize> = (0..task.train.images.len().min(LOOKS)).collect();
            let mut judge = Predictor::new(self.device, model)?;
            let flagged = looks(&mut judge, &tuned.images.select(&views))?;
            let normal = looks(&mut judge, &task.train.images.select(&trained))?;
            if let Some(evidence) = Evidence::of(&flagged, &normal) {
                found = found.seen_in(&evidence);
            }
        }
        let exceedance = |start: usize| finished[&start].exceedance(self.config.score).unwrap_or(0.0);
        let least = ABOUT_AS_WELL * exceedance(*chosen);
        let well = finished.keys().copied().filter(|start| start == chosen || exceedance(*start) >= least);
        Ok(Some(found.held_against(&well.map(imitated).collect::<Vec<_>>())))
    }
}

/// What there is at the hottest places of images.
fn looks(judge: &mut Predictor, images: &Images) -> Result<Vec<Look>, RunError> {
    let [_, channels, height, width] = images.shape();
    let mut looks = Vec::new();
    judge.heat_all::<RunError>(images, |_, images, maps| {
        let each = images.data().chunks_exact(channels * height * width).zip(maps.data().chunks_exact(height * width));
        looks.extend(each.filter_map(|(image, map)| Look::of(image, map, width)));
        Ok(())
    })?;
    Ok(looks)
}
