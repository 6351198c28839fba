//! `curves.png`: hyper-parameters and losses, step by step.

use kuva::RasterBackend;
use kuva::plot::{LegendEntry, LegendShape, LinePlot};
use kuva::render::figure::{Figure, FigureLegendPosition};
use kuva::render::layout::Layout;
use kuva::render::plots::Plot;
use kuva::render::theme::Theme;

use super::{Step, plain};
use crate::run::outcome::{Augmentation, Outcome, Start};

/// The chosen start stands out from the others.
const KEPT: &str = "#c8102e";
const OTHERS: [&str; 8] = ["#6f9bd1", "#6dbf8b", "#e2a75e", "#a98bc9", "#8c8c8c", "#5fc0c0", "#c9b458", "#dd8fb9"];

/// Most hyper-parameters in a row.
const IN_A_ROW: usize = 4;

/// Width and height in pixels, with one row of hyper-parameters.
const SIZE: (f64, f64) = (1200.0, 760.0);

type Read<'a> = Box<dyn Fn(&Step) -> Option<f64> + 'a>;

/// The quantity that a panel shows.
struct Quantity<'a> {
    title: String,
    /// The period of an angle.
    period: Option<f64>,
    read: Read<'a>,
}

/// A PNG with a panel for each hyper-parameter of the augmentation that was kept above one for each loss, a line for each of its
/// starts.
pub(super) fn draw(outcome: &Outcome, steps: &[Step]) -> Result<Vec<u8>, String> {
    let Augmentation { name, values } = &outcome.augmentation;
    let quantities: Vec<Quantity> = values
        .keys()
        .map(|key| Quantity::tuned(key, name))
        .chain([
            Quantity::loss("Training loss, inner (nats)", |step| Some(step.inner)),
            Quantity::loss("Alignment loss, outer (normalised distance)", |step| step.outer),
        ])
        .collect();

    let starts = &outcome.starts;
    let colour = |start: usize| if starts[start].chosen { KEPT } else { OTHERS[start % OTHERS.len()] };
    // The chosen start is drawn last, above the others.
    let is_shown = |start: &Start| start.augmentation.as_ref().is_none_or(|own| own == name);
    let mut order: Vec<usize> = (0..starts.len()).filter(|&start| is_shown(&starts[start])).collect();
    order.sort_by_key(|&start| starts[start].chosen);
    let lines = |quantity: &Quantity| -> Vec<Plot> {
        let line = |&start: &usize| {
            let width = if starts[start].chosen { 2.4 } else { 1.3 };
            let points = steps.iter().filter(|step| step.start == start);
            pieces(points.filter_map(|step| Some((step.step as f64, (quantity.read)(step)?))), quantity.period)
                .into_iter()
                .map(move |piece| LinePlot::new().with_data(piece).with_color(colour(start)).with_stroke_width(width))
        };
        order.iter().flat_map(line).map(Plot::Line).collect()
    };
    let plots: Vec<Vec<Plot>> = quantities.iter().map(lines).collect();
    let last = steps.iter().map(|step| step.step).max().unwrap_or(0).max(1) as f64;
    let layouts = quantities.iter().zip(&plots).map(|(quantity, plots)| quantity.layout(plots, last)).collect();

    let legend = starts.iter().enumerate().filter(|(_, start)| is_shown(start)).map(|(index, start)| {
        // With several values the start is named by its number in `metrics.csv`.
        let label = if values.len() == 1 { plain(&start.start) } else { format!("start {index}") };
        LegendEntry {
            label: label + if start.chosen { " (kept)" } else { "" },
            color: colour(index).into(),
            shape: LegendShape::Line,
            dasharray: None,
        }
    });

    // Rows of equal length. Each hyper-parameter takes two columns, so that each of the two losses below can span half of the width.
    // Without hyper-parameters there are only the losses.
    let rows = values.len().div_ceil(IN_A_ROW);
    let width = if rows == 0 { 1 } else { values.len().div_ceil(rows) };
    let cells: Vec<usize> = (0..2 * width * (rows + 1)).collect();
    let (above, below) = cells.split_at(2 * width * rows);
    let structure = above.chunks(2).take(values.len()).chain(below.chunks(width)).map(<[usize]>::to_vec).collect();
    let figure = Figure::new(rows + 1, 2 * width)
        .with_structure(structure)
        .with_plots(plots)
        .with_layouts(layouts)
        .with_title(match order.len() {
            _ if values.is_empty() => "Training".into(),
            1 => format!("Tuning {name} from one start"),
            count => format!("Tuning {name} from {count} starts"),
        })
        .with_shared_legend_position(FigureLegendPosition::RightTop)
        .with_shared_legend_entries(legend.collect())
        .with_figure_size(SIZE.0, SIZE.1 * (rows + 1).max(2) as f64 / 2.0);
    RasterBackend::new().with_scale(1.0).render_scene(&figure.render())
}

impl<'a> Quantity<'a> {
    fn tuned(key: &'a str, augmentation: &str) -> Self {
        let (part, name) = key.split_once('.').map_or((None, key), |(part, name)| (Some(part), name));
        let (title, period) = match name {
            // An image repeats after 360°, a patch after 180°.
            "angle_degrees" if part.unwrap_or(augmentation).starts_with("rotation") => ("Angle (degrees)", Some(360.0)),
            "angle_degrees" => ("Angle (degrees)", Some(180.0)),
            "spread_degrees" => ("Spread of the angle (degrees)", None),
            "area" => ("Area (share of the image)", None),
            "aspect" => ("Aspect (width / height)", None),
            other => (other, None),
        };
        let title = part.map_or_else(|| title.to_owned(), |part| format!("{part}: {title}"));
        Quantity { title, period, read: Box::new(move |step| step.setting.get(key).copied()) }
    }

    fn loss(title: &'a str, read: fn(&Step) -> Option<f32>) -> Self {
        Quantity { title: title.to_owned(), period: None, read: Box::new(move |step| read(step).map(f64::from)) }
    }

    fn layout(&self, plots: &[Plot], last: f64) -> Layout {
        let theme = Theme { grid_color: "#e6e6e6".into(), legend_border: "#cccccc".into(), ..Theme::light() };
        // A title instead of a label on the y axis: kuva's vertical labels blur at this size.
        let layout = Layout::auto_from_plots(plots)
            .with_theme(theme)
            .with_title(self.title.clone())
            .with_title_size(15)
            .with_x_label("step")
            .with_x_axis_max(last);
        match self.period {
            Some(period) => layout.with_y_axis_min(0.0).with_y_axis_max(period).with_y_tick_step(period / 6.0),
            None => layout,
        }
    }
}

/// Splits a line into pieces of finite points. A periodic quantity is mapped to `0..period`, and its line is cut where it wraps.
fn pieces(points: impl Iterator<Item = (f64, f64)>, period: Option<f64>) -> Vec<Vec<(f64, f64)>> {
    let mut pieces: Vec<Vec<(f64, f64)>> = vec![Vec::new()];
    for (x, y) in points {
        let y = period.map_or(y, |period| y.rem_euclid(period));
        let piece = pieces.last_mut().expect("one piece at least");
        let jumps = |&(_, before): &(f64, f64)| period.is_some_and(|period| (y - before).abs() > period / 2.0);
        if !y.is_finite() || piece.last().is_some_and(jumps) {
            pieces.push(Vec::new());
        }
        if y.is_finite() {
            pieces.last_mut().expect("one piece at least").push((x, y));
        }
    }
    pieces.retain(|piece| !piece.is_empty());
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_where_an_angle_wraps() {
        let points = [(0.0, 350.0), (1.0, 358.0), (2.0, 365.0), (3.0, f64::NAN), (4.0, -10.0)];
        let expected = vec![vec![(0.0, 350.0), (1.0, 358.0)], vec![(2.0, 5.0)], vec![(4.0, 350.0)]];
        assert_eq!(pieces(points.into_iter(), Some(360.0)), expected);
        let loss = [(0.0, 1.0), (1.0, 900.0)];
        assert_eq!(pieces(loss.into_iter(), None), [loss.to_vec()]);
        assert!(pieces([].into_iter(), None).is_empty());
    }
}
