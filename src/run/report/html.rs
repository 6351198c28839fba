//! `report.html`: the whole run on one self-contained page.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::{fs, io};

use base64::prelude::{BASE64_STANDARD, Engine};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::{kind, plain};
use crate::run::outcome::{Counts, Outcome, Start};
use crate::run::scored::{self, Metrics, Scored};
use crate::training::conformal::is_flagged;
use crate::training::score::{Cut, Ranking};

/// Number of strips shown for the highest scores, and for each kind of mistake.
const STRIPS: usize = 6;

const STYLE: &str = include_str!("style.css");

/// The contents of the page, besides the images in the run's folder.
#[derive(Clone, Copy, Debug)]
pub struct Page<'a> {
    pub outcome: &'a Outcome,
    /// The test set; may be empty.
    pub scored: &'a [Scored],
    /// The path of the strip of each image that has one, below the run's folder, by its row in `scored`.
    pub strips: &'a BTreeMap<usize, PathBuf>,
    /// The effective configuration, as TOML.
    pub config: Option<&'a str>,
}

/// The page, with images from `folder`.
pub(super) fn render(page: &Page, folder: &Path) -> io::Result<String> {
    let Page { outcome, scored, strips, config } = *page;
    let ranking = scored::ranking(scored);
    let auroc = ranking.as_ref().map_or(outcome.image_auroc, |ranking| Some(ranking.auroc()));
    // Without a threshold, the mistakes are those at the threshold with the best F1.
    let threshold = outcome.threshold.or_else(|| Some(ranking.as_ref()?.best_f1().threshold));
    let cut = ranking.as_ref().zip(threshold).map(|(ranking, threshold)| ranking.at(threshold));
    let place = [&outcome.dataset, &outcome.category].into_iter().flatten().cloned().collect::<Vec<_>>().join(" / ");
    let subject = if place.is_empty() { outcome.augmentation.name.clone() } else { place };
    let plot = |name: &str, says: &str| -> io::Result<Markup> {
        Ok(html! { div.plot { (embedded(&folder.join(name), says)?) } })
    };
    let gallery = |rows: &[usize]| gallery(page, folder, rows);

    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                // Nothing is fetched and no script runs, whatever the names contain.
                meta http-equiv="Content-Security-Policy"
                    content="default-src 'none'; img-src data:; style-src 'unsafe-inline'";
                title { (subject) " – anomaly detection report" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { (subject) }
                    p.verdict { (verdict(auroc, scored, outcome.threshold, cut)) }
                    @if let Some(found) = &outcome.found {
                        p { "Found: " (found) "." }
                    }
                    @if let (Some(threshold), Some(alarms)) = (outcome.threshold, &outcome.alarms) {
                        p.note { "Threshold " (decimals(Some(threshold))) ": " (alarms) "." }
                    }
                }
                (figures(outcome, auroc))
                @if !scored.is_empty() {
                    section {
                        h2 { "Scores" }
                        div.pair {
                            (plot("histogram.png", "Histogram of the anomaly scores by class")?)
                            (embedded(&folder.join("roc.png"), "ROC curve")?)
                        }
                        @if scored.iter().any(|image| !image.truth.kind.is_empty()) { (kinds(scored, threshold)) }
                    }
                    @if !strips.is_empty() {
                        section {
                            h2 { "Highest scores" }
                            p.note { "The image, its mask, and the heat map over the image, from blue (lowest of all strips) to red (highest)." }
                            (gallery(&highest(scored, |_| true))?)
                        }
                        @if let (Some(threshold), true) = (threshold, ranking.is_some()) {
                            section {
                                h2 { "Worst mistakes" }
                                p.note {
                                    "At the threshold " (decimals(Some(threshold)))
                                    @if outcome.threshold.is_none() {
                                        ", which has the best F1, because the run has none of its own"
                                    }
                                    "."
                                }
                                h3 { "Normal images with the highest scores" }
                                (gallery(&false_alarms(scored, threshold))?)
                                h3 { "Anomalies with the lowest scores" }
                                (gallery(&misses(scored, threshold))?)
                            }
                        }
                    }
                }
                section {
                    h2 { "Search" }
                    (starts(&outcome.starts))
                    (plot("curves.png", "Hyper-parameters and losses over the training steps, a line for each start")?)
                    (plot("pictures.png", "Normal images, augmented images, and test images with scores")?)
                }
                @if let Some(counts) = &outcome.counts { (split(counts, scored)) }
                @if !outcome.metrics.is_empty() { (metrics(&outcome.metrics)) }
                @if let Some(config) = config {
                    section { details { summary { "Configuration" } pre { (config) } } }
                }
                @if !outcome.skipped.is_empty() {
                    section {
                        details {
                            summary { "Images that could not be used: " (outcome.skipped.len()) }
                            ul { @for name in &outcome.skipped { li { (name) } } }
                        }
                    }
                }
            }
        }
    };
    Ok(page.into_string())
}

/// The run in two sentences.
fn verdict(auroc: Option<f64>, scored: &[Scored], threshold: Option<f64>, cut: Option<Cut>) -> String {
    let first = match (auroc, scored.len()) {
        (Some(auroc), 0) => format!("AUROC {auroc:.3}."),
        (Some(auroc), count) => format!("AUROC {auroc:.3} on {count} test images."),
        (None, count) => format!("{count} test images; without labels of both classes there is no AUROC."),
    };
    let second = match (threshold, cut) {
        (Some(_), Some(Cut { hits, misses, false_alarms, passes, .. })) => format!(
            " The threshold flags {hits} of {} anomalies and {false_alarms} of {} normal images.",
            hits + misses,
            false_alarms + passes
        ),
        (Some(threshold), None) if !scored.is_empty() => {
            let flagged = scored.iter().filter(|image| is_flagged(image.score, threshold)).count();
            format!(" The threshold flags {flagged} of them.")
        }
        _ => String::new(),
    };
    first + &second
}

/// The most important figures.
fn figures(outcome: &Outcome, auroc: Option<f64>) -> Markup {
    let order = if outcome.order == 1 { "first" } else { "second" };
    let figures = [
        ("image AUROC", decimals(auroc)),
        ("threshold", decimals(outcome.threshold)),
        ("method", outcome.method.clone().unwrap_or_else(|| "n/a".into())),
        ("augmentation", outcome.augmentation.name.clone()),
        ("found", plain(&outcome.augmentation.values)),
        ("hyper-gradient", format!("{order} order")),
        ("steps of all starts", outcome.all_steps().to_string()),
        ("training time", duration(outcome.seconds)),
        ("seed", outcome.seed.to_string()),
        ("device", outcome.adapter.name.clone()),
        ("driver", outcome.adapter.driver.clone()),
    ];
    html! {
        dl.figures {
            @for (name, value) in figures.iter().filter(|(_, value)| !value.is_empty()) {
                div { dt { (name) } dd { (value) } }
            }
        }
    }
}

fn starts(starts: &[Start]) -> Markup {
    html! {
        div.scroll {
            table {
                thead {
                    tr { th { "" } th { "augmentation" } th { "start" } th { "end" } th { "exceedance" } th { "AUROC" } th { "AUROC of the logit" } }
                }
                tbody {
                    @for (index, start) in starts.iter().enumerate() {
                        tr.kept[start.chosen] {
                            td { (index) @if start.chosen { " ★ kept" } }
                            td { (kind(start)) }
                            td { (plain(&start.start)) }
                            td { (plain(&start.end)) }
                            td.number title=[start.failed.as_ref()] {
                                @if start.failed.is_some() { "failed" } @else { (decimals(start.exceedance)) }
                            }
                            td.number { (decimals(start.image_auroc)) }
                            td.number { (decimals(start.image_auroc_logit)) }
                        }
                    }
                }
            }
        }
        p.note { "Exceedance is the share of unlabelled images that score higher than the most anomalous twentieth of the training images. The start where it is greatest is kept; the AUROC, which needs labels, plays no part." }
    }
}

/// For each kind of image: how many there are, how many are flagged, and the AUROC against the normal images.
fn kinds(scored: &[Scored], threshold: Option<f64>) -> Markup {
    let mut kinds: Vec<&str> = scored.iter().map(|image| &*image.truth.kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    html! {
        div.scroll {
            table {
                thead { tr { th { "kind" } th { "images" } th { "flagged" } th { "AUROC against normal" } } }
                tbody {
                    @for kind in kinds {
                        @let of_kind: Vec<&Scored> = scored.iter().filter(|image| &*image.truth.kind == kind).collect();
                        @let flagged = threshold.map(|threshold| {
                            of_kind.iter().filter(|image| is_flagged(image.score, threshold)).count()
                        });
                        tr {
                            td { @if kind.is_empty() { "unlabelled" } @else { (kind) } }
                            td.number { (of_kind.len()) }
                            td.number { (flagged.map_or("n/a".into(), |flagged| flagged.to_string())) }
                            td.number { (decimals(against_normal(scored, kind))) }
                        }
                    }
                }
            }
        }
    }
}

fn against_normal(scored: &[Scored], kind: &str) -> Option<f64> {
    let compared = scored.iter().filter_map(|image| match image.truth.anomalous? {
        true => (&*image.truth.kind == kind).then_some((image.score, true)),
        false => Some((image.score, false)),
    });
    let (scores, labels): (Vec<f64>, Vec<bool>) = compared.unzip();
    Some(Ranking::new(&scores, &labels)?.auroc())
}

fn split(counts: &Counts, scored: &[Scored]) -> Markup {
    let of = |class: Option<bool>| scored.iter().filter(|image| image.truth.anomalous == class).count();
    let classes = [("normal", of(Some(false))), ("anomalous", of(Some(true))), ("unlabelled", of(None))];
    let found = classes.iter().filter(|(_, count)| *count > 0).map(|(class, count)| format!("{count} {class}"));
    let test = found.collect::<Vec<_>>().join(", ");
    let sets = [
        ("train", counts.train, "normal".to_owned()),
        ("held out, for the threshold", counts.held_out, "normal".to_owned()),
        ("tune", counts.tune, "labels are not used".to_owned()),
        ("test", counts.test, test),
    ];
    html! {
        section {
            h2 { "Data" }
            div.scroll {
                table {
                    thead { tr { th { "set" } th { "images" } th { "labels" } } }
                    tbody {
                        @for (name, count, labels) in &sets {
                            tr { td { (name) } td.number { (count) } td { (labels) } }
                        }
                    }
                }
            }
            @if let Some(split) = counts.split { p.note { "The split is " (split.meaning()) "." } }
        }
    }
}

fn metrics(metrics: &Metrics) -> Markup {
    html! {
        section {
            h2 { "Metrics" }
            div.scroll {
                table {
                    tbody { @for (name, value) in metrics { tr { td { (name) } td.number { (decimals(*value)) } } } }
                }
            }
        }
    }
}

/// Strips with captions, or "None."
fn gallery(page: &Page, folder: &Path, rows: &[usize]) -> io::Result<Markup> {
    let strip = |&row: &usize| -> io::Result<Markup> {
        let Scored { name, truth, score, .. } = &page.scored[row];
        let (kind, caption) = (&*truth.kind, format!("{score:.3}  {name}"));
        let says = format!("Strip of {name}");
        Ok(html! {
            figure {
                @if let Some(strip) = page.strips.get(&row) { (embedded(&folder.join(strip), &says)?) }
                figcaption { (caption) @if !kind.is_empty() { " (" (kind) ")" } }
            }
        })
    };
    let strips = rows.iter().map(strip).collect::<io::Result<Vec<_>>>()?;
    Ok(html! {
        @if strips.is_empty() { p.note { "None." } }
        div.gallery { @for strip in strips { (strip) } }
    })
}

/// An image embedded in the page; nothing if the file does not exist.
fn embedded(path: &Path, says: &str) -> io::Result<Markup> {
    match fs::read(path) {
        Ok(bytes) => {
            let data = format!("data:image/png;base64,{}", BASE64_STANDARD.encode(bytes));
            Ok(html! { img src=(data) alt=(says); })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(html! {}),
        Err(error) => Err(error),
    }
}

/// The rows of at most so many images to show: those in a gallery of the page, then those with the highest scores. They are in order.
pub(crate) fn shown(scored: &[Scored], threshold: Option<f64>, most: usize) -> Vec<usize> {
    let mut by_score: Vec<usize> = (0..scored.len()).collect();
    by_score.sort_by(|&a, &b| scored[b].score.total_cmp(&scored[a].score));
    let cut = threshold.or_else(|| Some(scored::ranking(scored)?.best_f1().threshold));
    let mistakes = cut.map(|cut| [false_alarms(scored, cut), misses(scored, cut)].concat()).unwrap_or_default();
    let mut wanted = [highest(scored, |_| true), mistakes, by_score].concat();
    let mut known = HashSet::new();
    wanted.retain(|&row| known.insert(row));
    wanted.truncate(most);
    wanted.sort_unstable();
    wanted
}

/// The wanted rows with the highest scores, highest first.
fn highest(scored: &[Scored], wanted: impl Fn(&Scored) -> bool) -> Vec<usize> {
    let mut rows: Vec<usize> = (0..scored.len()).filter(|&row| wanted(&scored[row])).collect();
    rows.sort_by(|&a, &b| scored[b].score.total_cmp(&scored[a].score));
    rows.truncate(STRIPS);
    rows
}

/// Normal images that are flagged, highest score first.
fn false_alarms(scored: &[Scored], threshold: f64) -> Vec<usize> {
    highest(scored, |image| image.truth.anomalous == Some(false) && is_flagged(image.score, threshold))
}

/// Anomalies that are not flagged, lowest score first.
fn misses(scored: &[Scored], threshold: f64) -> Vec<usize> {
    let missed = |row: &usize| scored[*row].truth.anomalous == Some(true) && !is_flagged(scored[*row].score, threshold);
    let mut rows: Vec<usize> = (0..scored.len()).filter(missed).collect();
    rows.sort_by(|&a, &b| scored[a].score.total_cmp(&scored[b].score));
    rows.truncate(STRIPS);
    rows
}

fn decimals(value: Option<f64>) -> String {
    value.filter(|value| value.is_finite()).map_or("n/a".into(), |value| format!("{value:.4}"))
}

/// `12.5 s`, or from two minutes on `3 min 20 s`.
fn duration(seconds: f64) -> String {
    if seconds < 120.0 {
        format!("{seconds:.1} s")
    } else {
        format!("{:.0} min {:.0} s", (seconds / 60.0).floor(), (seconds % 60.0).floor())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::run::report::scored::tests::example;
    use crate::run::report::tests::{folder, outcome};
    use crate::run::scored::Alarms;

    const PIXEL: &[u8] = b"\x89PNG of one pixel";

    fn images(folder: &Path, names: &[&str]) {
        for name in names {
            fs::create_dir_all(folder.join(name).parent().unwrap()).unwrap();
            fs::write(folder.join(name), PIXEL).unwrap();
        }
    }

    #[test]
    fn the_page_is_complete_and_fetches_nothing() {
        let folder = folder("html");
        let strips: BTreeMap<usize, PathBuf> = (0..5).map(|row| (row, format!("images/k/{row}.png").into())).collect();
        images(folder.path(), &["histogram.png", "roc.png", "curves.png", "pictures.png"]);
        images(folder.path(), &strips.values().map(|strip| strip.to_str().unwrap()).collect::<Vec<_>>());
        let outcome = Outcome {
            dataset: Some("mvtec".into()),
            category: Some("bottle".into()),
            method: Some("st-ssad".into()),
            threshold: Some(2.5),
            metrics: Metrics::from([("image_AUROC".into(), Some(0.75)), ("pixel_AUROC".into(), None)]),
            alarms: Some(Alarms {
                held_out: 2,
                held_out_flagged: 0,
                normal: 2,
                normal_flagged: 1,
                false_alarm_rate: Some(0.5),
                promise: None,
            }),
            counts: Some(Counts {
                train: 7,
                held_out: 2,
                tune: 5,
                test: 5,
                split: Some(crate::data::Split::Inductive),
            }),
            skipped: vec!["broken.png".into()],
            ..outcome()
        };
        let page = Page { outcome: &outcome, scored: &example(), strips: &strips, config: Some("seed = 7\n") };
        let text = render(&page, folder.path()).unwrap();
        for part in [
            "<h1>mvtec / bottle</h1>",
            "AUROC 0.750 on 5 test images. The threshold flags 1 of 2 anomalies and 1 of 2 normal images.",
            "Threshold 2.5000: exceeded by 0 of 2 held-out normal images; exceeded by 1 of 2 normal test images (50.0 %).",
            "held out, for the threshold</td><td class=\"number\">2",
            "★ kept",
            "172°",
            "pixel_AUROC</td><td class=\"number\">n/a",
            "2 normal, 2 anomalous, 1 unlabelled",
            "<pre>seed = 7\n</pre>",
            "llvmpipe",
            "broken.png",
        ] {
            assert!(text.contains(part), "no `{part}`");
        }
        // Four plots, five strips by score, and one of each mistake.
        assert_eq!(text.matches("<img src=\"data:image/png;base64,").count(), 11);
        assert_eq!(text.matches(&BASE64_STANDARD.encode(PIXEL)).count(), 11);
        for outside in ["http:", "https:", "<script", "<link", "url("] {
            assert!(!text.contains(outside), "{outside}");
        }
    }

    #[test]
    fn names_and_texts_are_escaped() {
        let folder = folder("html-names");
        let evil = "<script>alert(1)</script>\" onerror=\"x' & </title></pre></style>";
        let strips = (0..5).map(|row| (row, PathBuf::from("s.png"))).collect();
        images(folder.path(), &["s.png"]);
        let mut scored = example();
        scored.iter_mut().for_each(|image| image.name = evil.into());
        scored.iter_mut().for_each(|image| Arc::make_mut(&mut image.truth).kind = evil.into());
        let mut outcome = Outcome {
            dataset: Some(evil.into()),
            category: Some(evil.into()),
            method: Some(evil.into()),
            metrics: Metrics::from([(evil.into(), None)]),
            skipped: vec![evil.into()],
            ..outcome()
        };
        outcome.adapter.name = evil.into();
        outcome.adapter.driver = evil.into();
        outcome.augmentation.name = evil.into();
        let setting = crate::ssad::augment::Setting::from([(evil.to_owned(), 1.0)]);
        outcome.augmentation.values = setting.clone();
        outcome.starts[0].start = setting;
        let page = Page { outcome: &outcome, scored: &scored, strips: &strips, config: Some(evil) };
        let text = render(&page, folder.path()).unwrap();
        assert!(!text.contains("<script") && !text.contains("\" onerror"));
        let escaped = "&lt;script&gt;alert(1)&lt;/script&gt;&quot; onerror=&quot;x' &amp; &lt;/title&gt;";
        assert!(text.matches(escaped).count() >= 20, "{}", text.matches(escaped).count());
    }

    #[test]
    fn a_run_without_labels_scores_or_images_has_a_page() {
        let folder = folder("html-bare");
        let outcome = Outcome { image_auroc: None, ..outcome() };
        let bare = Page { outcome: &outcome, scored: &[], strips: &BTreeMap::new(), config: None };
        let text = render(&bare, folder.path()).unwrap();
        assert!(text.contains("there is no AUROC") && !text.contains("<img") && !text.contains("Scores"));

        let threshold = Outcome { threshold: Some(4.5), ..outcome.clone() };
        let unlabelled = Page { outcome: &threshold, scored: &example()[4..], ..bare };
        let text = render(&unlabelled, folder.path()).unwrap();
        assert!(text.contains("The threshold flags 1 of them") && !text.contains("Worst mistakes"));
    }

    #[test]
    fn the_worst_mistakes_come_first() {
        let scored = example();
        assert_eq!(highest(&scored, |_| true), [4, 3, 2, 1, 0]);
        assert_eq!(false_alarms(&scored, 0.0), [2, 0]);
        assert_eq!(misses(&scored, 9.0), [1, 3]);
        assert!(false_alarms(&scored, 9.0).is_empty() && misses(&scored, 0.0).is_empty());
        assert_eq!(against_normal(&scored, "crack"), Some(0.75));
        assert_eq!(against_normal(&scored, "good"), None);
    }

    #[test]
    fn durations_are_readable() {
        assert_eq!([duration(12.46), duration(200.9)], ["12.5 s", "3 min 20 s"]);
    }
}
