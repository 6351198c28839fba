//! A detector as an ONNX graph, for runtimes elsewhere: from images to scores and verdicts, without this program.
//!
//! The graph takes 8 bit images as they are decoded, and converts them as `predict` does. What it computes follows from the network's
//! tape, so every encoder and method is exported by the same code. The threshold is an initialiser that is also an input: a runtime
//! may be given another. Heat maps are a choice, since they take several times as long: of each image there are shifted views, and the
//! network's tape is that of [`contributions`](crate::ssad::method::Network::contributions).

mod conversion;
mod graph;
mod lowering;
mod proto;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use prost::Message;

use crate::data::{Channels, Size};
use crate::engine::tape::Tape;
use crate::run::config::RunConfig;
use crate::run::model::Model;
use crate::run::store;
use crate::ssad::method::Reading;
use crate::training::conformal::percent;
use crate::training::score::LedoitWolf;
use crate::training::scorer::{Axis, LEAST};
use conversion::{PIXELS, convert};
use graph::{Attribute, Graph, Operand, value_info};
use lowering::lower;
use proto::{BOOL, FLOAT, ModelProto, OperatorSetIdProto, StringStringEntryProto, UINT8};

pub use lowering::Unknown;

/// Of 2020: an older one lacks sums whose axes are an operand, and runtimes for devices lag behind newer ones.
const OPSET: i64 = 13;
/// The version of the format that came with the operators.
const IR: i64 = 7;

/// Why a model cannot be a graph.
#[derive(Debug, thiserror::Error)]
pub enum OnnxError {
    #[error(
        "the detector scores images in tiles of {0}, which the graph does not: use stssad predict, or train without --tiles"
    )]
    Tiles(Size),
    #[error(transparent)]
    Unknown(#[from] Unknown),
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// Writes the graph of a model whole or not at all.
///
/// # Errors
/// As [`bytes`], and when the file cannot be written.
///
/// # Panics
/// As [`bytes`].
pub fn save(model: &Model, has_map: bool, path: &Path) -> Result<(), OnnxError> {
    let bytes = bytes(model, has_map)?;
    store::write(path, &bytes).map_err(|source| OnnxError::Write { path: path.into(), source })
}

/// The graph that scores images with a model, as an ONNX file.
///
/// | value | type | what |
/// | --- | --- | --- |
/// | `images` | u8 `[N, height, width, channels]` | images of any size; of a detector of grey or RGB images 1 or 3 channels, else its own number |
/// | `threshold` | f32 `[]` | optional: the score from which an image is an anomaly |
/// | `score` | f32 `[N]` | as `predict` prints it |
/// | `is_anomaly` | bool `[N]` | whether the score is at least the threshold; absent where the model has none |
/// | `map` | f32 `[N, H, W]` | with `has_map`: what each pixel contributes to the score, at the detector's own size, as `predict --maps` writes it |
///
/// # Errors
/// When the model's images come in tiles, or its network applies what the graph cannot.
///
/// # Panics
/// When the model is invalid; one that was trained or loaded is valid.
pub fn bytes(model: &Model, has_map: bool) -> Result<Vec<u8>, OnnxError> {
    if let Some(tiles) = model.config.images.tiles {
        return Err(OnnxError::Tiles(tiles));
    }
    let (network, distance, conversion) = (model.network(), model.distance(), model.conversion());
    let [c, h, w] = model.image;
    let mut tape = Tape::new();
    let x = tape.feed(if has_map { VIEWS } else { PIXELS }, [LEAST, c, h, w]);
    let Reading { z, direct } = network.read(&mut tape, x);
    let mut wanted = vec![if distance.is_some() { z } else { direct }];
    if has_map {
        wanted.push(network.contributions(&mut tape, x, distance.is_some()));
    }
    let numbers = |values: &[f32]| values.iter().map(|&value| f64::from(value)).collect();
    let states = model.states.iter().cloned().chain(model.explaining());
    let states: HashMap<String, Vec<f64>> = states.map(|(name, tensor)| (name, numbers(tensor.data()))).collect();

    let mut graph = Graph::default();
    convert(&mut graph, &conversion, "images");
    let views = wanted.get(1).map(|&map| {
        let [_, _, rows, columns] = tape.shape(map).images().expect("a map of each image");
        Views { axes: [Axis::views(h, rows), Axis::views(w, columns)], places: [rows, columns] }
    });
    if let Some(views) = &views {
        views.shift(&mut graph);
    }
    let mut names = lower(&tape, &states, &wanted, &mut graph)?;
    if let Some(views) = &views {
        views.join(&mut graph, &names[1]);
        names[0] = views.first(&mut graph, &names[0], tape.shape(wanted[0])[1]);
    }
    match distance {
        Some(fit) => measure(&mut graph, fit, &names[0]),
        None => graph.node_as("score", "Reshape", &[(&names[0]).into(), (&[-1]).into()], &[]),
    }
    let (channels, kind) = match conversion.channels {
        Channels::Stored(count) => (count.to_string(), "the channels as their files store them"),
        _ => ("channels".into(), "grey or RGB, 1 or 3 channels, transparency blended with white"),
    };
    let about = format!("8 bit images as they are decoded, of any size: {kind}");
    let mut inputs = vec![value_info("images", UINT8, &["N", "height", "width", &channels], &about)];
    let mut outputs = vec![value_info("score", FLOAT, &["N"], "the higher, the more anomalous")];
    if has_map {
        let about = "what each pixel contributes to the score, in the score's units, at the detector's own size";
        outputs.push(value_info("map", FLOAT, &["N", &h.to_string(), &w.to_string()], about));
    }
    if let Some(threshold) = model.threshold {
        graph.replaceable("threshold", single_from_above(threshold.score));
        graph.node_as("is_anomaly", "GreaterOrEqual", &["score".into(), "threshold".into()], &[]);
        let promise = threshold.promised().map(|rate| {
            format!(
                "; of normal images like the {} that it was set on, it flags {}",
                threshold.held_out,
                percent(rate, 2)
            )
        });
        let about = format!("the score from which an image is an anomaly{}", promise.unwrap_or_default());
        inputs.push(value_info("threshold", FLOAT, &[], &about));
        outputs.push(value_info("is_anomaly", BOOL, &["N"], "whether the score is at least the threshold"));
    }
    // Where files were is of no use elsewhere.
    let encoder_weights = model.config.encoder_weights.as_deref().and_then(Path::file_name).map(PathBuf::from);
    let config = RunConfig { data: None, working_dir: None, encoder_weights, ..model.config.clone() };
    let metadata = [
        ("method", config.method.name().to_owned()),
        ("fingerprint", model.fingerprint.clone()),
        ("config", config.to_toml()),
    ];
    let model = ModelProto {
        ir_version: IR,
        producer_name: env!("CARGO_PKG_NAME").into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        graph: Some(graph.finish("detector", inputs, outputs)),
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: OPSET }],
        metadata_props: metadata
            .map(|(key, value)| StringStringEntryProto { key: key.into(), value })
            .into_iter()
            .collect(),
    };
    Ok(model.encode_to_vec())
}

/// The value that has all shifted views of the images, one view of all images after the other.
const VIEWS: &str = "views";

/// The shifted views of an image from which a heat map comes, as [`Attributor`](crate::training::scorer::Attributor) has them.
struct Views {
    /// Down and across.
    axes: [Vec<Axis>; 2],
    /// Extents of the network's map of a view.
    places: [usize; 2],
}

impl Views {
    fn all(&self) -> impl Iterator<Item = [&Axis; 2]> {
        self.axes[0].iter().flat_map(|down| self.axes[1].iter().map(move |across| [down, across]))
    }

    fn count(&self) -> usize {
        self.axes[0].len() * self.axes[1].len()
    }

    /// [`PIXELS`] `[N, C, H, W]` as [`VIEWS`] `[views · N, C, H, W]`.
    fn shift(&self, graph: &mut Graph) {
        let mut shifted = Vec::new();
        for [down, across] in self.all() {
            let mut view = PIXELS.to_owned();
            for (axis, Axis { source, .. }) in [(2, down), (3, across)] {
                let source: Vec<i64> = source.iter().map(|&pixel| pixel as i64).collect();
                view = graph.node("Gather", &[(&view).into(), Operand::Ints(&source)], &[Attribute::Int("axis", axis)]);
            }
            shifted.push(view);
        }
        let operands: Vec<Operand> = shifted.iter().map(Operand::from).collect();
        graph.node_as(VIEWS, "Concat", &operands, &[Attribute::Int("axis", 0)]);
    }

    /// What a network computes for the images themselves, `[N, width]`, of what it computes for their views.
    fn first(&self, graph: &mut Graph, computed: &str, width: usize) -> String {
        let shape = [self.count() as i64, -1, width as i64];
        let apart = graph.node("Reshape", &[computed.into(), (&shape).into()], &[]);
        graph.node("Gather", &[(&apart).into(), 0.into()], &[Attribute::Int("axis", 0)])
    }

    /// The `map` `[N, H, W]` of each image: the mean of its views' maps, `[views · N, 1, P, Q]`, interpolated to pixels.
    fn join(&self, graph: &mut Graph, maps: &str) {
        let ([rows, columns], count) = (self.places, self.count());
        let [height, width] = self.axes.each_ref().map(|axes| axes[0].places.len());
        let (mut down, mut across) = (vec![0.0; count * height * rows], vec![0.0; count * columns * width]);
        for (view, [vertical, horizontal]) in self.all().enumerate() {
            for (pixel, &(before, after, share)) in vertical.places.iter().enumerate() {
                let row = &mut down[(view * height + pixel) * rows..][..rows];
                row[before] += (1.0 - share) / count as f32;
                row[after] += share / count as f32;
            }
            for (pixel, &(before, after, share)) in horizontal.places.iter().enumerate() {
                let matrix = &mut across[view * columns * width..][..columns * width];
                matrix[before * width + pixel] += 1.0 - share;
                matrix[after * width + pixel] += share;
            }
        }
        let down = graph.floats("down", &[count, 1, height, rows], &down);
        let across = graph.floats("across", &[count, 1, columns, width], &across);
        let shape = [count as i64, -1, rows as i64, columns as i64];
        let apart = graph.node("Reshape", &[maps.into(), (&shape).into()], &[]);
        let lines = graph.binary("MatMul", &down, &apart);
        let pixels = graph.binary("MatMul", &lines, &across);
        let attributes = [Attribute::Int("keepdims", 0)];
        graph.node_as("map", "ReduceSum", &[(&pixels).into(), (&[0]).into()], &attributes);
    }
}

/// The distances `score` of embeddings `z`: ‖L⁻¹ · (z − mean)‖, where L · Lᵀ is the covariance.
fn measure(graph: &mut Graph, fit: &LedoitWolf, z: &str) {
    let single = |values: &[f64]| -> Vec<f32> { values.iter().map(|&value| value as f32).collect() };
    let features = fit.parts().0.len();
    let mean = graph.floats("mean", &[1, features], &single(fit.parts().0));
    let whitening = graph.floats("whitening", &[features, features], &single(&fit.whitening()));
    let centred = graph.binary("Sub", z, &mean);
    let transposed = [Attribute::Int("transB", 1)];
    let whitened = graph.node("Gemm", &[(&centred).into(), (&whitening).into()], &transposed);
    let attributes = [Attribute::Ints("axes", vec![1]), Attribute::Int("keepdims", 0)];
    graph.node_as("score", "ReduceL2", &[Operand::from(&whitened)], &attributes);
}

/// The least f32 that is not below a number: a score that does not reach a threshold must not reach it rounded.
fn single_from_above(number: f64) -> f32 {
    let rounded = number as f32;
    if f64::from(rounded) < number { rounded.next_up() } else { rounded }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Resize;
    use crate::engine::philox::Stream;
    use crate::ssad::method::{Method, Rule};
    use crate::ssad::nn::ENCODERS;
    use crate::training::conformal::Threshold;
    use proto::GraphProto;

    fn model(config: RunConfig, image: [usize; 3]) -> Model {
        let threshold = Threshold { score: 0.1, held_out: 99, exceeded: 0, asked: 0.01 };
        let (fingerprint, a, states) = ("f00d".to_owned(), Vec::new(), Vec::new());
        let mut model = Model {
            config,
            image,
            fingerprint,
            a,
            fit: None,
            threshold: Some(threshold),
            held_out: Vec::new(),
            states,
        };
        let network = model.network();
        if model.config.score == Rule::Distance {
            let features = network.features();
            let identity = (0..features * features).map(|index| f64::from(u8::from(index % (features + 1) == 0)));
            model.fit = LedoitWolf::from_parts(vec![0.0; features], identity.collect(), 0.0);
        }
        model.states = network.parameters(&mut Stream::new(1, 0));
        model.states.extend(network.statistics().into_iter().flatten());
        model.states.extend(network.fixed());
        model
    }

    fn graph(model: &Model, has_map: bool) -> GraphProto {
        let exported = ModelProto::decode(&bytes(model, has_map).unwrap()[..]).unwrap();
        exported.graph.unwrap()
    }

    /// How often a graph has an operator.
    fn count(graph: &GraphProto, op: &str) -> usize {
        graph.node.iter().filter(|node| node.op_type == op).count()
    }

    #[test]
    fn every_encoder_method_and_score_is_exported() {
        let encoders = ENCODERS.iter().map(|known| RunConfig { encoder: known.name.into(), ..RunConfig::default() });
        let methods =
            [Method::AutoEncoder, Method::DeepSvdd].map(|method| RunConfig { method, ..RunConfig::default() });
        let distance = RunConfig { score: Rule::Distance, ..RunConfig::default() };
        for config in encoders.chain(methods).chain([distance]) {
            for (image, resize, has_map) in [
                ([1, 28, 30], Resize::Crop, false),
                ([3, 96, 80], Resize::Letterbox, false),
                ([3, 96, 80], Resize::Crop, true),
            ] {
                let mut config = config.clone();
                config.images.resize = resize;
                let graph = graph(&model(config, image), has_map);
                let named = |infos: &[proto::ValueInfoProto]| -> Vec<String> {
                    infos.iter().map(|info| info.name.clone()).collect()
                };
                assert_eq!(named(&graph.input), ["images", "threshold"]);
                let outputs: &[&str] = if has_map { &["score", "map", "is_anomaly"] } else { &["score", "is_anomaly"] };
                assert_eq!(named(&graph.output), outputs);
                let initialised = graph.initializer.iter().map(|tensor| tensor.name.clone());
                let mut known: Vec<String> = named(&graph.input).into_iter().chain(initialised).collect();
                for node in &graph.node {
                    assert!(node.input.iter().all(|name| known.contains(name)), "{node:?}");
                    known.extend(node.output.clone());
                }
                known.retain(|name| name != "threshold");
                let values = known.len();
                known.sort();
                known.dedup();
                assert_eq!(known.len(), values, "a name is given twice");
            }
        }
    }

    #[test]
    fn batch_norms_are_folded_into_the_layers() {
        let config = RunConfig { encoder: "resnet18".into(), ..RunConfig::default() };
        let with_map = graph(&model(config.clone(), [3, 96, 96]), true);
        assert_eq!(count(&with_map, "Conv"), 20, "what map and score share is there once");
        let graph = graph(&model(config, [3, 96, 96]), false);
        let layers = ["Conv", "Gemm", "MaxPool"].map(|op| count(&graph, op));
        assert_eq!(layers, [20, 3, 1]);
        let network =
            graph.node.iter().filter(|node| ["encoder", "head"].iter().any(|part| node.name.starts_with(part)));
        let mut ops: Vec<&str> = network.map(|node| node.op_type.as_str()).collect();
        ops.sort_unstable();
        ops.dedup();
        // Mul and ReduceSum are the mean over all places, Add the shortcuts.
        assert_eq!(ops, ["Add", "Conv", "Gemm", "MaxPool", "Mul", "ReduceSum", "Relu", "Reshape"]);
        assert_eq!(
            graph.node.iter().filter(|node| node.name.contains("/Add_") && node.name.starts_with("encoder")).count(),
            8
        );
    }

    #[test]
    fn the_metadata_tell_of_no_folders() {
        let mut model = model(RunConfig::default(), [1, 28, 28]);
        model.config.working_dir = Some("/home/somebody".into());
        let exported = ModelProto::decode(&bytes(&model, false).unwrap()[..]).unwrap();
        let told: Vec<&str> = exported.metadata_props.iter().map(|entry| entry.value.as_str()).collect();
        assert_eq!(told[..2], ["st-ssad", "f00d"]);
        assert!(RunConfig::parse(told[2]).is_ok_and(|config| config.working_dir.is_none()));
    }

    #[test]
    fn tiles_are_refused() {
        let mut model = model(RunConfig::default(), [1, 28, 28]);
        model.config.images.tiles = Some(Size::square(64));
        assert!(bytes(&model, true).unwrap_err().to_string().contains("tiles of 64"));
    }

    #[test]
    fn a_threshold_is_not_rounded_below_its_score() {
        assert_eq!(single_from_above(0.5), 0.5);
        assert_eq!(single_from_above(0.5f64.next_up()), 0.5f32.next_up());
        assert_eq!(single_from_above((-0.5f64).next_up()), (-0.5f32).next_up());
    }
}
