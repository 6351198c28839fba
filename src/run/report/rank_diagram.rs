//! `comparison.png`: a critical-difference diagram (Demšar, JMLR 7, 2006). Methods hang from an axis of average ranks, the best on the
//! left, and a bar joins those that do not differ significantly.

use kuva::RasterBackend;
use kuva::render::render::{Primitive, Scene, TextAnchor};

use super::comparison::Comparison;
use super::samples::write;

const WIDTH: u32 = 900;
/// Left and right of the axis, for the names.
const MARGIN: u32 = 230;
/// Height of the axis.
const AXIS: u32 = 90;
/// Height of a row of bars, and of one of names.
const BAR: u32 = 12;
const ROW: u32 = 24;

/// A PNG of the diagram, or of a note if the methods cannot be compared.
pub(super) fn draw(comparison: &Comparison) -> Result<Vec<u8>, String> {
    let ranked: Vec<(&str, f64)> =
        comparison.methods.iter().filter_map(|method| Some((&*method.name, method.average_rank?))).collect();
    let Some(difference) = comparison.critical_difference.filter(|_| ranked.len() == comparison.methods.len()) else {
        let mut scene = Scene::new(WIDTH.into(), AXIS.into()).with_background(Some("white"));
        let note = "2 to 20 methods with results on the same 2 or more tasks can be compared";
        scene.add(write(WIDTH / 2, AXIS / 2, 16, TextAnchor::Middle, note.into()));
        return png(&scene);
    };
    let ranks: Vec<f64> = ranked.iter().map(|(_, rank)| *rank).collect();
    let alike = groups(&ranks, difference);
    let lines = ranked.len().div_ceil(2) as u32;
    let below = AXIS + BAR * (alike.len() as u32 + 1);
    let mut scene = Scene::new(WIDTH.into(), (below + ROW * lines + ROW).into()).with_background(Some("white"));
    let last = ranked.len() as f64;
    let at = |rank: f64| f64::from(MARGIN) + (rank - 1.0) / (last - 1.0) * f64::from(WIDTH - 2 * MARGIN);

    let wide = at(1.0 + difference).min(f64::from(WIDTH - MARGIN / 4));
    scene.add(line([at(1.0), 44.0], [wide, 44.0], 2.0));
    for x in [at(1.0), wide] {
        scene.add(line([x, 38.0], [x, 50.0], 2.0));
    }
    let told = format!("critical difference {difference:.2}");
    scene.add(write(at(1.0) as u32, 30, 14, TextAnchor::Start, told));
    scene.add(line([at(1.0), AXIS.into()], [at(last), AXIS.into()], 1.5));
    for rank in 1..=ranked.len() {
        let x = at(rank as f64);
        scene.add(line([x, f64::from(AXIS) - 6.0], [x, AXIS.into()], 1.5));
        scene.add(write(x as u32, AXIS - 12, 13, TextAnchor::Middle, rank.to_string()));
    }
    for (index, [first, last]) in alike.into_iter().enumerate() {
        let y = f64::from(AXIS + BAR * (index as u32 + 1));
        scene.add(line([at(ranks[first]) - 4.0, y], [at(ranks[last]) + 4.0, y], 5.0));
    }
    for (index, (name, rank)) in ranked.iter().enumerate() {
        // The better half is named on the left from above, the other on the right from below.
        let is_left = index < lines as usize;
        let row = if is_left { index } else { ranked.len() - 1 - index } as u32;
        let y = below + ROW * row + ROW / 2;
        let told = format!("{name}  {rank:.2}");
        let (end, text, anchor) = match is_left {
            true => (MARGIN - 10, MARGIN - 16, TextAnchor::End),
            false => (WIDTH - MARGIN + 10, WIDTH - MARGIN + 16, TextAnchor::Start),
        };
        scene.add(line([at(*rank), AXIS.into()], [at(*rank), y.into()], 1.0));
        scene.add(line([at(*rank), y.into()], [end.into(), y.into()], 1.0));
        scene.add(write(text, y + 5, 14, anchor, told));
    }
    png(&scene)
}

/// The first and the last of each largest group of ascending ranks that lie within the critical difference.
fn groups(ranks: &[f64], difference: f64) -> Vec<[usize; 2]> {
    let mut groups: Vec<[usize; 2]> = Vec::new();
    for first in 0..ranks.len() {
        let last = ranks.iter().rposition(|rank| rank - ranks[first] <= difference).unwrap_or(first);
        if last > first && groups.last().is_none_or(|before| last > before[1]) {
            groups.push([first, last]);
        }
    }
    groups
}

fn line([x1, y1]: [f64; 2], [x2, y2]: [f64; 2], stroke_width: f64) -> Primitive {
    Primitive::Line { x1, y1, x2, y2, stroke: "#222222".into(), stroke_width, stroke_dasharray: None }
}

fn png(scene: &Scene) -> Result<Vec<u8>, String> {
    RasterBackend::new().with_scale(1.0).render_scene(scene)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::report::{Measured, Run};

    #[test]
    fn a_bar_joins_each_largest_group() {
        assert_eq!(groups(&[1.0, 1.5, 2.4, 4.0, 4.2], 1.0), [[0, 1], [1, 2], [3, 4]]);
        assert_eq!(groups(&[1.0, 2.0, 3.0], 2.5), [[0, 2]]);
        assert!(groups(&[1.0, 4.0], 1.0).is_empty());
    }

    #[test]
    fn a_diagram_or_a_note_is_drawn() {
        let size = |tasks: u64| {
            let runs = (0..tasks).flat_map(|task| {
                ["a", "b", "c"].map(|method| Run {
                    task: task.to_string(),
                    method: method.into(),
                    seed: 0,
                    result: Measured::Auroc(if method == "a" { 0.9 } else { 0.5 }),
                })
            });
            let comparison = Comparison::new(&runs.collect::<Vec<_>>(), "a").unwrap();
            let png = draw(&comparison).unwrap();
            image::load_from_memory(&png).unwrap().height()
        };
        assert_eq!(size(1), AXIS);
        assert!(size(9) > AXIS);
    }
}
