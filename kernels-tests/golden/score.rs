//! The anomaly score, computed on the host.

use stssad::training::score::LedoitWolf;

use super::{F64_ERROR, golden};

#[test]
fn mahalanobis_distance_under_the_ledoit_wolf_covariance() {
    let fit = LedoitWolf::fit(&golden("score/z_fit"), 6).unwrap();
    let scores = fit.score(&golden("score/z"));
    for (got, want) in scores.iter().zip(golden("score/score")) {
        assert!((got - want).abs() <= F64_ERROR * want, "{got} {want}");
    }
}
