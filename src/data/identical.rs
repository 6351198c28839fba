//! Images that occur more than once. Copies among the test images, or in training and test, make figures look better than they are.

use std::collections::{BTreeSet, HashSet};
use std::fmt;

use super::images::Hash;
use super::{DataError, Set, Task};

/// Copies within the sets of a task and across them. Two images are copies if all their pixels are equal after conversion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identical {
    /// For each set, the images that equal an earlier one of the set.
    within: Vec<(&'static str, usize)>,
    /// For each two sets, the images of the first that are also in the second.
    across: Vec<(&'static str, &'static str, usize)>,
    /// Anomalous test images that equal a normal image.
    contradictory: usize,
    /// The number of training images, if all are equal.
    train: Option<usize>,
    /// The number of images, if there are several and all are equal.
    pub(super) all: Option<usize>,
}

/// Images that a detector has seen in training, to tell whether it is tested on them. Of each there are eight bytes of the hash of its
/// converted pixels, which say nothing of what it shows. Enough: with a million images seen and as many tested, the chance that two
/// different ones are taken for equal is one in ten million.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen(BTreeSet<[u8; 8]>);

fn mark(hash: Hash) -> [u8; 8] {
    *hash.first_chunk().expect("a longer hash")
}

impl Seen {
    /// The images of a task that were trained on, held out for the threshold, or tuned on.
    ///
    /// # Errors
    /// When an image that was not decoded before cannot be.
    pub fn of(task: &Task) -> Result<Self, DataError> {
        let sets = [Some(&task.train), task.held_out.as_ref(), Some(task.tune.as_ref().unwrap_or(&task.test))];
        let hashes = sets.into_iter().flatten().map(hashes).collect::<Result<Vec<_>, _>>()?;
        Ok(Seen(hashes.into_iter().flatten().map(mark).collect()))
    }

    /// How many images of a set were seen. They must be converted as those were.
    ///
    /// # Errors
    /// As [`of`](Self::of).
    pub fn count(&self, set: &Set) -> Result<usize, DataError> {
        let is_seen = |row| Ok(self.0.contains(&mark(set.digest(row)?.image)));
        (0..set.len()).map(is_seen).map(|seen: Result<bool, DataError>| seen.map(usize::from)).sum()
    }

    /// The contents of a file: eight bytes for each image, sorted.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.iter().flatten().copied().collect()
    }

    /// The opposite; `None` if the bytes are not such.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (marks, rest) = bytes.as_chunks();
        rest.is_empty().then(|| Seen(marks.iter().copied().collect()))
    }
}

fn hashes(set: &Set) -> Result<Vec<Hash>, DataError> {
    (0..set.len()).map(|row| Ok(set.digest(row)?.image)).collect()
}

impl Identical {
    /// The number of training images, if all of them are equal.
    pub fn training(&self) -> Option<usize> {
        self.train
    }

    pub(super) fn of(task: &Task) -> Result<Self, DataError> {
        // Held-out images are drawn from the training images.
        let mut train = hashes(&task.train)?;
        if let Some(held_out) = &task.held_out {
            train.extend(hashes(held_out)?);
        }
        let test = hashes(&task.test)?;
        let known = |label| task.test.rows(Some(label)).into_iter().map(|row| test[row]);
        let normal: HashSet<Hash> = known(false).chain(train.iter().copied()).collect();
        let contradictory = known(true).filter(|hash| normal.contains(hash)).count();

        let tune = task.tune.as_ref().map(|tune| Ok(("tune", hashes(tune)?))).transpose()?;
        let sets: Vec<(&str, Vec<Hash>)> = [("train", train)].into_iter().chain(tune).chain([("test", test)]).collect();
        let distinct: Vec<HashSet<&Hash>> = sets.iter().map(|(_, hashes)| hashes.iter().collect()).collect();
        let everything: Vec<&Hash> = sets.iter().flat_map(|(_, hashes)| hashes).collect();
        let equal = |hashes: &[&Hash]| {
            (hashes.len() > 1 && hashes.iter().all(|hash| *hash == hashes[0])).then_some(hashes.len())
        };
        let all = equal(&everything);
        let train = equal(&sets[0].1.iter().collect::<Vec<_>>());
        let within = sets.iter().zip(&distinct).map(|((name, all), distinct)| (*name, all.len() - distinct.len()));
        let pairs = (0..sets.len()).flat_map(|second| (0..second).map(move |first| (second, first)));
        let across = pairs.map(|(second, first)| {
            let shared = sets[second].1.iter().filter(|hash| distinct[first].contains(hash)).count();
            (sets[second].0, sets[first].0, shared)
        });
        Ok(Identical { within: within.collect(), across: across.collect(), contradictory, train, all })
    }
}

/// `2 within train, 3 of test are also in train`; empty if no image occurs twice.
impl fmt::Display for Identical {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let within = self.within.iter().map(|(set, count)| (*count, format!("{count} within {set}")));
        let across =
            self.across.iter().map(|(set, other, count)| (*count, format!("{count} of {set} also in {other}")));
        let contradictory = format!("{} anomalous in test but also normal", self.contradictory);
        let parts = within.chain(across).chain([(self.contradictory, contradictory)]);
        let told: Vec<String> = parts.filter_map(|(count, part)| (count > 0).then_some(part)).collect();
        f.write_str(&told.join(", "))
    }
}
