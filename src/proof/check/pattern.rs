//! What wrong elements have in common: where they lie, and what stands in them.

use crate::engine::tensor::Shape;

/// Strides at which tiles, vectors and subgroups repeat.
const STRIDES: [usize; 7] = [64, 32, 16, 8, 4, 3, 2];

/// What all wrong elements have in common: where they lie, as [`places`] tells, and what stands in them. `pairs` are what was computed
/// and what should have been, of each in `bad`.
pub(super) fn common(
    shape: &Shape,
    bad: &[usize],
    looked_at: impl Iterator<Item = usize> + Clone,
    pairs: impl Iterator<Item = (f64, f64)> + Clone,
) -> Vec<String> {
    places(shape, bad, looked_at).into_iter().chain(values(pairs)).collect()
}

/// What all elements `bad` of a tensor of `shape` have in common, such as `axis 2 is 0`, where others do not have it; none if
/// they lie anywhere, or of a single one, whose coordinates say it. `looked_at` gives the elements that were compared, in order.
pub(super) fn places(shape: &Shape, bad: &[usize], looked_at: impl Iterator<Item = usize> + Clone) -> Vec<String> {
    if bad.len() < 2 {
        return Vec::new();
    }
    let along = |axis: usize, elements: &mut dyn Iterator<Item = usize>| -> Vec<usize> {
        let inner: usize = shape[axis + 1..].iter().product();
        let mut places: Vec<usize> = elements.map(|element| element / inner % shape[axis]).collect();
        places.sort_unstable();
        places.dedup();
        places
    };
    let of_axis = |axis: usize| {
        let wrong = along(axis, &mut bad.iter().copied());
        let all = along(axis, &mut looked_at.clone());
        let (first, last) = (*wrong.first()?, *wrong.last()?);
        // As many as were looked at between its ends.
        let within = all.iter().filter(|place| (first..=last).contains(*place)).count();
        let end = shape[axis] - 1;
        match wrong.len() {
            count if count == all.len() => None,
            1 if first == end => Some(format!("axis {axis} is {first}, the last")),
            1 => Some(format!("axis {axis} is {first}")),
            count if count == within && last == *all.last()? => Some(format!("axis {axis} is {first} or more")),
            count if count == within && first == all[0] => Some(format!("axis {axis} is {last} or less")),
            count if count == within => Some(format!("axis {axis} lies in {first}..={last}")),
            // Two places have a distance by chance.
            2 => None,
            _ => {
                let repeats = |stride: &usize| wrong.iter().all(|place| place % stride == first % stride);
                let stride = STRIDES.into_iter().find(repeats)?;
                Some(format!("axis {axis} is {} modulo {stride}", first % stride))
            }
        }
    };
    (0..shape.len()).filter_map(of_axis).collect()
}

/// What all wrong values, if there are several, have in common, `pairs` being what was computed and what should have been.
fn values(pairs: impl Iterator<Item = (f64, f64)> + Clone) -> Option<String> {
    let all = |fits: fn(f64, f64) -> bool| pairs.clone().all(|(got, want)| fits(got, want));
    let (got, want) = pairs.clone().next()?;
    let factor = got / want;
    let close = |a: f64, b: f64| (a - b).abs() <= 1e-4 * b.abs();
    match () {
        () if pairs.clone().count() < 2 => None,
        () if all(|got, _| got.is_nan()) => Some("all are NaN".into()),
        () if all(|got, _| got == 0.0) => Some("all are 0".into()),
        () if all(|got, _| got.is_infinite()) => Some("all are infinite".into()),
        () if all(|got, want| got == -want) => Some("all have the other sign".into()),
        () if factor.is_finite()
            && (factor - 1.0).abs() > 1e-3
            && pairs.clone().all(|(got, want)| close(got, factor * want)) =>
        {
            Some(format!("all are {factor:.6} times what they should be"))
        }
        () => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bad: impl Fn(&[usize]) -> bool) -> String {
        let shape = Shape::from([3, 40, 7]);
        let bad: Vec<usize> = (0..shape.count()).filter(|&element| bad(&shape.coordinates(element))).collect();
        places(&shape, &bad, 0..shape.count()).join(", ")
    }

    #[test]
    fn places_are_told_by_the_axes_that_confine_them() {
        assert_eq!(of(|_| true), "");
        assert_eq!(of(|at| at[0] == 2), "axis 0 is 2, the last");
        assert_eq!(of(|at| at[1] == 0 && at[2] >= 4), "axis 1 is 0, axis 2 is 4 or more");
        assert_eq!(of(|at| at[1] <= 5), "axis 1 is 5 or less");
        assert_eq!(of(|at| (8..16).contains(&at[1])), "axis 1 lies in 8..=15");
        assert_eq!(of(|at| at[1] % 8 == 3), "axis 1 is 3 modulo 8");
        assert_eq!(of(|at| [1, 2, 7].contains(&at[1])), "");
        assert_eq!(of(|at| *at == [2, 39, 6]), "");
        assert_eq!(of(|at| [[0, 3, 6], [2, 9, 3]].contains(&[at[0], at[1], at[2]])), "");
    }

    #[test]
    fn of_a_sample_only_what_was_looked_at_counts() {
        let shape = Shape::from([100]);
        let sample = [3, 10, 50, 99];
        assert_eq!(places(&shape, &[50, 99], sample.into_iter()), ["axis 0 is 50 or more"]);
        assert_eq!(places(&shape, &sample, sample.into_iter()), [""; 0]);
    }

    #[test]
    fn values_are_told_by_what_they_share() {
        let of = |pairs: &[(f64, f64)]| values(pairs.iter().copied()).unwrap_or_default();
        assert_eq!(of(&[(f64::NAN, 1.0), (f64::NAN, 2.0)]), "all are NaN");
        assert_eq!(of(&[(0.0, 1.0), (-0.0, 2.0)]), "all are 0");
        assert_eq!(of(&[(-1.0, 1.0), (2.0, -2.0)]), "all have the other sign");
        assert_eq!(of(&[(2.0, 1.0), (-4.0, -2.0)]), "all are 2.000000 times what they should be");
        assert_eq!(of(&[(2.0, 1.0), (4.0, 1.0)]), "");
        assert_eq!(of(&[(2.0, 1.0)]), "");
        assert_eq!(of(&[(f64::NAN, 1.0)]), "");
        assert_eq!(of(&[(2.0, 0.0), (3.0, 0.0)]), "");
    }
}
