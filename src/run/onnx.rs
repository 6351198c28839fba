//! A detector as an ONNX graph, for runtimes elsewhere: from images to scores and verdicts, without this program.
//!
//! The graph takes 8 bit images as they are decoded, and converts them as `predict` does. What it computes follows from the network's
//! tape, so every encoder and method is exported by the same code. The threshold is an initialiser that is also an input: a runtime
//! may be given another. Heat maps are not in it: they need the gradient of the score.

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
use crate::training::scorer::LEAST;
use conversion::convert;
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
pub fn save(model: &Model, path: &Path) -> Result<(), OnnxError> {
    let bytes = bytes(model)?;
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
///
/// # Errors
/// When the model's images come in tiles, or its network applies what the graph cannot.
///
/// # Panics
/// When the model is invalid; one that was trained or loaded is valid.
pub fn bytes(model: &Model) -> Result<Vec<u8>, OnnxError> {
    if let Some(tiles) = model.config.images.tiles {
        return Err(OnnxError::Tiles(tiles));
    }
    let (network, distance, conversion) = (model.network(), model.distance(), model.conversion());
    let [c, h, w] = model.image;
    let mut tape = Tape::new();
    let pixels = tape.feed(conversion::PIXELS, [LEAST, c, h, w]);
    let Reading { z, direct } = network.read(&mut tape, pixels);
    let numbers = |values: &[f32]| values.iter().map(|&value| f64::from(value)).collect();
    let states: HashMap<String, Vec<f64>> =
        model.states.iter().map(|(name, tensor)| (name.clone(), numbers(tensor.data()))).collect();

    let mut graph = Graph::default();
    convert(&mut graph, &conversion, "images");
    match distance {
        Some(fit) => {
            let names = lower(&tape, &states, &[z], &mut graph)?;
            measure(&mut graph, fit, &names[0]);
        }
        None => {
            let names = lower(&tape, &states, &[direct], &mut graph)?;
            graph.node_as("score", "Reshape", &[(&names[0]).into(), (&[-1]).into()], &[]);
        }
    }
    let (channels, kind) = match conversion.channels {
        Channels::Stored(count) => (count.to_string(), "the channels as their files store them"),
        _ => ("channels".into(), "grey or RGB, 1 or 3 channels, transparency blended with white"),
    };
    let about = format!("8 bit images as they are decoded, of any size: {kind}");
    let mut inputs = vec![value_info("images", UINT8, &["N", "height", "width", &channels], &about)];
    let mut outputs = vec![value_info("score", FLOAT, &["N"], "the higher, the more anomalous")];
    if let Some(threshold) = model.threshold {
        graph.floats_as("threshold", &[], &[single_from_above(threshold.score)]);
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

    fn graph(model: &Model) -> GraphProto {
        let exported = ModelProto::decode(&bytes(model).unwrap()[..]).unwrap();
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
            for (image, resize) in [([1, 28, 30], Resize::Crop), ([3, 96, 80], Resize::Letterbox)] {
                let mut config = config.clone();
                config.images.resize = resize;
                let graph = graph(&model(config, image));
                let named = |infos: &[proto::ValueInfoProto]| -> Vec<String> {
                    infos.iter().map(|info| info.name.clone()).collect()
                };
                assert_eq!(named(&graph.input), ["images", "threshold"]);
                assert_eq!(named(&graph.output), ["score", "is_anomaly"]);
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
        let graph = graph(&model(config, [3, 96, 96]));
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
        let exported = ModelProto::decode(&bytes(&model).unwrap()[..]).unwrap();
        let told: Vec<&str> = exported.metadata_props.iter().map(|entry| entry.value.as_str()).collect();
        assert_eq!(told[..2], ["st-ssad", "f00d"]);
        assert!(RunConfig::parse(told[2]).is_ok_and(|config| config.working_dir.is_none()));
    }

    #[test]
    fn tiles_are_refused() {
        let mut model = model(RunConfig::default(), [1, 28, 28]);
        model.config.images.tiles = Some(Size::square(64));
        assert!(bytes(&model).unwrap_err().to_string().contains("tiles of 64"));
    }

    #[test]
    fn a_threshold_is_not_rounded_below_its_score() {
        assert_eq!(single_from_above(0.5), 0.5);
        assert_eq!(single_from_above(0.5f64.next_up()), 0.5f32.next_up());
        assert_eq!(single_from_above((-0.5f64).next_up()), (-0.5f32).next_up());
    }
}
