//! The roofline plot: the rate of each kernel over its arithmetic intensity, under the device's two roofs.

use kuva::plot::{LinePlot, ScatterPlot};
use kuva::render::layout::Layout;
use kuva::render::plots::Plot;
use kuva::render::render::{Scene, render_multiple};
use kuva::render::theme::Theme;

use super::{Group, Report, family};

const COLOURS: [&str; 8] = ["#c8102e", "#1f6fb4", "#2f9e62", "#d9822b", "#7d55a8", "#5f5f5f", "#2aa5a5", "#a8901f"];

/// Default range of the x axis in FLOP/byte; kernels outside it extend it.
const INTENSITIES: (f64, f64) = (0.05, 100.0);

/// A dot for each kernel, sized by its share of the step. Kernels without arithmetic are left out.
pub(super) fn draw(report: &Report) -> Scene {
    let (flops, bandwidth) = (report.flops / 1e9, report.bandwidth / 1e9);
    let intensity = |group: &Group| group.flops as f64 / group.bytes as f64;
    let shown: Vec<&Group> = report.kernels.iter().filter(|group| group.flops > 0 && group.gflops > 0.0).collect();
    let (least, most) = shown.iter().fold(INTENSITIES, |(least, most), group| {
        (least.min(intensity(group) / 2.0), most.max(2.0 * intensity(group)))
    });
    let ridge = (flops / bandwidth).clamp(least, most);
    let roof =
        [(least, least * bandwidth), (ridge, (ridge * bandwidth).min(flops)), (most, (most * bandwidth).min(flops))];
    let mut plots = vec![Plot::Line(LinePlot::new().with_data(roof).with_color("#333333").with_stroke_width(2.0))];

    let mut families: Vec<&str> = shown.iter().map(|group| family(&group.name)).collect();
    families.sort_unstable();
    families.dedup();
    for (index, name) in families.into_iter().enumerate() {
        let of_family: Vec<&&Group> = shown.iter().filter(|group| family(&group.name) == name).collect();
        let dots = ScatterPlot::new()
            .with_data(of_family.iter().map(|group| (intensity(group), group.gflops)))
            .with_sizes(of_family.iter().map(|group| 4.0 + 16.0 * group.share.sqrt()))
            .with_color(COLOURS[index % COLOURS.len()])
            .with_marker_opacity(0.75)
            .with_legend(name);
        plots.push(Plot::Scatter(dots));
    }
    let lowest = shown.iter().map(|group| group.gflops).fold(least * bandwidth, f64::min);
    let theme = Theme { grid_color: "#e6e6e6".into(), legend_border: "#cccccc".into(), ..Theme::light() };
    let layout = Layout::auto_from_plots(&plots)
        .with_theme(theme)
        .with_width(1000.0)
        .with_height(640.0)
        // The title names the vertical axis, since kuva blurs rotated labels at this size.
        .with_title(format!(
            "GFLOP/s of each kernel under {flops:.0} GFLOP/s and {bandwidth:.1} GB/s: {}",
            report.origin.device
        ))
        .with_title_size(16)
        .with_x_label("arithmetic intensity (FLOP / byte of inputs and output)")
        .with_log_scale()
        .with_x_axis_min(least)
        .with_x_axis_max(most)
        .with_y_axis_min(lowest / 2.0)
        .with_y_axis_max(flops * 2.0);
    render_multiple(plots, layout)
}
