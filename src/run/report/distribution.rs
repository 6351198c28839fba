//! `histogram.png` and `roc.png`: the distribution of the scores of a test set, and how well they separate anomalies.

use kuva::RasterBackend;
use kuva::plot::{Histogram, RocGroup, RocPlot};
use kuva::render::annotations::{ReferenceLine, TextAnnotation};
use kuva::render::layout::Layout;
use kuva::render::plots::Plot;
use kuva::render::render::render_multiple;
use kuva::render::theme::Theme;

use crate::run::scored::{self, Scored};
use crate::training::score::Ranking;

/// Number of bars over the range of all scores.
const BARS: usize = 40;

const NORMAL: &str = "#1f6fb4";
const ANOMALOUS: &str = "#c8102e";
const UNLABELLED: &str = "#8c8c8c";

/// A PNG of the scores: stacked bars for the classes, and a line at the threshold.
pub(super) fn histogram(scored: &[Scored], threshold: Option<f64>) -> Result<Vec<u8>, String> {
    let of = |class: Option<bool>| -> Vec<f64> {
        let scores = scored.iter().filter(|image| image.truth.anomalous == class).map(|image| image.score);
        scores.filter(|score| score.is_finite()).collect()
    };
    let threshold = threshold.filter(|threshold| threshold.is_finite());
    let classes = [
        ("normal", NORMAL, of(Some(false))),
        ("anomalous", ANOMALOUS, of(Some(true))),
        ("unlabelled", UNLABELLED, of(None)),
    ];
    let (range, tick) = round(range(classes.iter().flat_map(|(.., scores)| scores).copied().chain(threshold)));

    let shown = classes.into_iter().filter(|(.., scores)| !scores.is_empty());
    let bars = Histogram::new().with_bins(BARS).with_range(range).with_stacked(true);
    let bars = shown.enumerate().fold(bars, |bars, (index, (name, colour, scores))| {
        let label = format!("{name} ({})", scores.len());
        match index {
            0 => bars.with_data(scores).with_color(colour).with_legend(label),
            _ => bars.with_group(scores, colour, Some(label)),
        }
    });
    let plots = vec![Plot::Histogram(bars)];
    let mut layout = framed(Layout::auto_from_plots(&plots), (1000.0, 520.0))
        .with_title("Images by anomaly score")
        .with_x_label("anomaly score")
        .with_x_axis_min(range.0)
        .with_x_axis_max(range.1)
        .with_x_tick_step(tick);
    if let Some(threshold) = threshold {
        let line =
            ReferenceLine::vertical(threshold).with_color("#222222").with_label(format!("threshold {threshold:.3}"));
        layout = layout.with_reference_line(line);
    }
    RasterBackend::new().with_scale(1.0).render_scene(&render_multiple(plots, layout))
}

/// A PNG of the ROC curve, or of a note if there are not two classes.
pub(super) fn roc(scored: &[Scored]) -> Result<Vec<u8>, String> {
    let ranking = scored::ranking(scored);
    let points: Vec<(f64, f64)> = ranking.iter().flat_map(corners).collect();
    let plot = RocPlot::new().with_group(
        RocGroup::new("").with_points(points).with_color(ANOMALOUS).with_line_width(2.4).with_auc_label(false),
    );
    let plots = vec![Plot::Roc(plot)];
    let title = match &ranking {
        Some(ranking) => format!("Share of anomalies flagged, AUROC {:.4}", ranking.auroc()),
        None => "Share of anomalies flagged, AUROC n/a".into(),
    };
    // A title instead of a label on the y axis: kuva's vertical labels blur at this size.
    let mut layout = framed(Layout::auto_from_plots(&plots), (560.0, 520.0))
        .with_title(title)
        .with_x_label("share of normals flagged")
        .with_x_axis_min(0.0)
        .with_x_axis_max(1.0)
        .with_y_axis_min(0.0)
        .with_y_axis_max(1.0);
    if ranking.is_none() {
        layout = layout.with_annotation(TextAnnotation::new(
            "needs finite scores of normal images and anomalies",
            0.08,
            0.9,
        ));
    }
    RasterBackend::new().with_scale(1.0).render_scene(&render_multiple(plots, layout))
}

/// The corners of the ROC curve: (share of normal images flagged, share of anomalies flagged).
fn corners(ranking: &Ranking) -> Vec<(f64, f64)> {
    std::iter::once((0.0, 0.0)).chain(ranking.cuts().map(|cut| (cut.false_alarm_rate(), cut.recall()))).collect()
}

/// The smallest and the largest value; an interval around a single value; `0..1` without values.
fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (least, most) =
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), value| (least.min(value), most.max(value)));
    let width = most - least;
    if width > 0.0 && width.is_finite() {
        (least, most)
    } else if least.is_finite() {
        let half = (least.abs() / 2.0).max(0.5);
        (least - half, least + half)
    } else {
        (0.0, 1.0)
    }
}

/// Widens a range to whole ticks, and returns their distance: 1, 2 or 5 times a power of ten.
fn round((least, most): (f64, f64)) -> ((f64, f64), f64) {
    let about = (most - least) / 8.0;
    let power = 10f64.powf(about.log10().floor());
    let tick =
        [1.0, 2.0, 5.0].map(|factor| factor * power).into_iter().find(|&tick| tick >= about).unwrap_or(10.0 * power);
    let whole = ((least / tick).floor() * tick, (most / tick).ceil() * tick);
    if whole.0.is_finite() && whole.1.is_finite() { (whole, tick) } else { ((least, most), about) }
}

fn framed(layout: Layout, (width, height): (f64, f64)) -> Layout {
    let theme = Theme { grid_color: "#e6e6e6".into(), legend_border: "#cccccc".into(), ..Theme::light() };
    layout.with_theme(theme).with_width(width).with_height(height).with_title_size(16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::report::scored::tests::{example, scored};

    fn drawn(png: Result<Vec<u8>, String>) -> image::RgbImage {
        image::load_from_memory(&png.unwrap()).unwrap().into_rgb8()
    }

    fn count(image: &image::RgbImage, colour: [u8; 3]) -> usize {
        image.pixels().filter(|pixel| pixel.0 == colour).count()
    }

    #[test]
    fn a_bar_for_each_class() {
        let (normal, anomalous, unlabelled) = ([0x1f, 0x6f, 0xb4], [0xc8, 0x10, 0x2e], [0x8c; 3]);
        let image = drawn(histogram(&example(), Some(2.5)));
        assert_eq!(image.dimensions(), (1000, 520));
        let (normals, anomalies, others) = (count(&image, normal), count(&image, anomalous), count(&image, unlabelled));
        // Two images, two images and one, in bars of one width, and the legend's squares.
        assert!(others > 1000 && normals > others && anomalies > others, "{normals} {anomalies} {others}");
        assert_eq!(count(&drawn(histogram(&example()[..1], None)), anomalous), 0);
        assert_ne!(drawn(histogram(&example(), None)), image, "the threshold is drawn");
    }

    #[test]
    fn any_scores_can_be_drawn() {
        let odd = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, -f64::MAX, 0.0];
        let sets =
            [vec![], vec![scored("a", None, 3.0)], odd.map(|score| scored("b", Some(score > 0.0), score)).into()];
        for set in sets {
            for threshold in [None, Some(0.0), Some(f64::NAN), Some(f64::MAX)] {
                histogram(&set, threshold).unwrap();
            }
            roc(&set).unwrap();
        }
    }

    #[test]
    fn the_roc_curve_passes_through_every_cut() {
        let ranking = super::super::scored::ranking(&example()).unwrap();
        assert_eq!(corners(&ranking), [(0.0, 0.0), (0.0, 0.5), (0.5, 0.5), (0.5, 1.0), (1.0, 1.0)]);
        assert!(count(&drawn(roc(&example())), [0xc8, 0x10, 0x2e]) > 500);
        assert_eq!(count(&drawn(roc(&example()[..1])), [0xc8, 0x10, 0x2e]), 0);
    }

    #[test]
    fn ranges_are_never_empty() {
        assert_eq!(range([3.0, 1.0].into_iter()), (1.0, 3.0));
        assert_eq!(range([4.0].into_iter()), (2.0, 6.0));
        assert_eq!(range([0.0, 0.0].into_iter()), (-0.5, 0.5));
        assert_eq!(range(std::iter::empty()), (0.0, 1.0));
        let ((least, most), tick) = round((0.453, 6.042));
        assert_eq!((least, most, tick), (0.0, 7.0, 1.0));
        assert_eq!(round((-30.0, 99.0)), ((-40.0, 100.0), 20.0));
        assert_eq!(round((2.0, 9.0)), ((2.0, 9.0), 1.0));
    }
}
