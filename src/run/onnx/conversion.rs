//! The conversion of images as part of the graph, step by step as [`Conversion::apply`] does it for 8 bit images, roundings included.
//!
//! Scaling is a product with a matrix from either side. The graph computes the matrices from the extents of the images that it gets,
//! by the formula and in the f32 of `predict`, so images may have any size and no runtime's own scaling is trusted. A sum may still
//! be rounded to the neighbouring level where it lies within rounding of the middle between two.

use super::graph::{Attribute, Graph, Operand};
use super::proto::FLOAT;
use crate::data::{Channels, Conversion, LUMA, Resize, STEPS};

/// What the converted images are called.
pub const PIXELS: &str = "pixels";

/// Converts `images` u8 `[N, height, width, channels]` to [`PIXELS`] `[N, C, H, W]`. Of grey and RGB either is taken for the other.
pub fn convert(graph: &mut Graph, conversion: &Conversion, images: &str) {
    graph.scope = "conversion".into();
    let [channels, height, width] = conversion.image().map(|extent| extent as i64);
    let planes = graph.node("Transpose", &[images.into()], &[Attribute::Ints("perm", vec![0, 3, 1, 2])]);
    let scaled = scaled(graph, conversion, &planes);
    let levels = graph.binary("Div", &scaled, 255.0);
    // One channel becomes three, and three stay.
    let rgb = |graph: &mut Graph| graph.binary("Expand", &levels, &[1, 3, 1, 1]);
    let converted = match conversion.channels {
        Channels::Grey => {
            let weights = graph.floats("luma", &[1, 3, 1, 1], &LUMA.map(|weight| weight as f32));
            let colours = rgb(graph);
            let weighted = graph.binary("Mul", &colours, &weights);
            let luma = graph.binary("ReduceSum", &weighted, &[1]);
            let steps = graph.binary("Mul", &luma, STEPS);
            let rounded = rounded(graph, &steps);
            graph.binary("Div", &rounded, STEPS)
        }
        Channels::Rgb => rgb(graph),
        Channels::All | Channels::Stored(_) => levels,
    };
    // The extents are these already; runtimes need not find that out.
    let shape = &[-1, channels, height, width];
    graph.node_as(PIXELS, "Reshape", &[(&converted).into(), shape.into()], &[]);
    graph.scope.clear();
}

/// The planes `[N, C, H, W]` in the conversion's size, as whole levels.
fn scaled(graph: &mut Graph, conversion: &Conversion, planes: &str) -> String {
    let size = [conversion.size.height, conversion.size.width].map(|extent| extent as i64);
    let swapped = [size[1], size[0]];
    let shape = graph.unary("Shape", planes);
    let mut axes = |axes: &[i64; 2]| graph.binary("Gather", &shape, axes);
    // Both `[height, width]`, and the other of the two for each.
    let [own, other] = [axes(&[2, 3]), axes(&[3, 2])];
    let half_of = |graph: &mut Graph, extents: &str| graph.binary("Div", extents, 2);
    // own · factor / other, rounded, and at least a pixel.
    let share = |graph: &mut Graph, factor: Operand, over: Operand, under: Operand, most: Operand| {
        let product = graph.node("Mul", &[factor, over], &[]);
        let half = graph.node("Div", &[under, Operand::Int(2)], &[]);
        let raised = graph.binary("Add", &product, &half);
        let quotient = graph.node("Div", &[(&raised).into(), under], &[]);
        let positive = graph.binary("Max", &quotient, 1);
        graph.node("Min", &[(&positive).into(), most], &[])
    };
    // The part of the images that is used, and the extents to which it is scaled; as `Conversion::frame` has them.
    let (part, from, to) = match conversion.resize {
        Resize::Crop => {
            let from = share(graph, (&size).into(), (&other).into(), (&swapped).into(), (&own).into());
            let rest = graph.binary("Sub", &own, &from);
            let first = half_of(graph, &rest);
            let end = graph.binary("Add", &first, &from);
            let part = graph.node("Slice", &[planes.into(), (&first).into(), (&end).into(), (&[2, 3]).into()], &[]);
            (part, from, None)
        }
        Resize::Letterbox => {
            let to = share(graph, (&own).into(), (&swapped).into(), (&other).into(), (&size).into());
            (planes.to_owned(), own, Some(to))
        }
        Resize::Stretch => (planes.to_owned(), own, None),
    };
    let float = cast(graph, &part, FLOAT);
    let [rows, columns] = [0, 1].map(|axis| {
        let from = graph.binary("Gather", &from, axis);
        let to = match &to {
            Some(to) => graph.binary("Gather", to, axis),
            None => graph.unary("Identity", size[axis as usize]),
        };
        resampling(graph, &from, &to)
    });
    let tall = graph.binary("MatMul", &rows, &float);
    let columns = graph.node("Transpose", &[(&columns).into()], &[Attribute::Ints("perm", vec![1, 0])]);
    let exact = graph.binary("MatMul", &tall, &columns);
    let levels = rounded(graph, &exact);
    match to {
        None => levels,
        // Black around them.
        Some(to) => {
            let rest = graph.binary("Sub", &size, &to);
            let before = half_of(graph, &rest);
            let after = graph.binary("Sub", &rest, &before);
            let none = || Operand::Ints(&[0, 0]);
            let pads = [none(), (&before).into(), none(), (&after).into()];
            let pads = graph.node("Concat", &pads, &[Attribute::Int("axis", 0)]);
            graph.binary("Pad", &levels, &pads)
        }
    }
}

/// The matrix `[to, from]` that resamples `from` pixels as `to` pixels by a triangle filter whose support grows with the reduction.
fn resampling(graph: &mut Graph, from: &str, to: &str) -> String {
    let [[from_count, from_places], [to_count, to_places]] = [from, to].map(|count| {
        let places = graph.node("Range", &[Operand::Int(0), count.into(), Operand::Int(1)], &[]);
        [cast(graph, count, FLOAT), cast(graph, &places, FLOAT)]
    });
    let ratio = graph.binary("Div", &from_count, &to_count);
    let support = graph.binary("Max", &ratio, 1.0);
    let middles = graph.binary("Add", &to_places, 0.5);
    let centres = graph.binary("Mul", &middles, &ratio);
    let centres = graph.binary("Sub", &centres, 0.5);
    let centres = graph.binary("Unsqueeze", &centres, &[1]);
    let offsets = graph.binary("Sub", &from_places, &centres);
    let distances = graph.unary("Abs", &offsets);
    let relative = graph.binary("Div", &distances, &support);
    let heights = graph.binary("Sub", 1.0, &relative);
    let weights = graph.unary("Relu", &heights);
    let sums = graph.binary("ReduceSum", &weights, &[1]);
    graph.binary("Div", &weights, &sums)
}

/// The nearest whole number, from a half on the greater one. ONNX's `Round` would choose the even one.
fn rounded(graph: &mut Graph, numbers: &str) -> String {
    let raised = graph.binary("Add", numbers, 0.5);
    graph.unary("Floor", &raised)
}

fn cast(graph: &mut Graph, value: &str, to: i32) -> String {
    graph.node("Cast", &[value.into()], &[Attribute::Int("to", to.into())])
}
