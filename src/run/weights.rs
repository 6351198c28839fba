//! Weights for an encoder from elsewhere: a safetensors file with torchvision's and timm's names of a ResNet-18.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::{bf16, f16};
use safetensors::tensor::{Dtype, SafeTensorError, SafeTensors, TensorView};

use crate::engine::tensor::{Shape, Tensor};
use crate::ssad::method::Network;
use crate::ssad::nn::ENCODER;

/// Why a file gives no weights.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    #[error("cannot read the weights in {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "{} is no safetensors file; for a file of PyTorch: python -c \"import sys, torch; from safetensors.torch import \
         save_file; save_file(torch.load(sys.argv[1]), sys.argv[2])\" weights.pth weights.safetensors", path.display()
    )]
    Format { path: PathBuf, source: SafeTensorError },
    #[error(
        "{} has no tensor `{name}`: it must hold a ResNet-18 with the names of torchvision or timm", path.display()
    )]
    Missing { path: PathBuf, name: String },
    #[error(
        "`{name}` in {} has the shape {found:?} where {expected:?} is expected: it must be a ResNet-18 for RGB images, with a first \
         convolution of 7 × 7", path.display()
    )]
    Shape { path: PathBuf, name: String, found: Vec<usize>, expected: Vec<usize> },
    #[error("`{name}` in {} holds {what}: export the weights in f32", path.display())]
    Numbers { path: PathBuf, name: String, what: String },
}

/// Weights that training begins with.
#[derive(Clone, Debug)]
pub struct Given {
    /// By the names of the network's states.
    pub states: Arc<[(String, Tensor)]>,
    /// BLAKE3 of the file.
    pub digest: String,
}

impl Given {
    /// Reads the encoder of `network`: f32, or f16, bf16 and f64, which are rounded to it. Tensors that it does not need, such as a
    /// classifier's, may be there.
    ///
    /// # Errors
    /// When the file cannot be read or is no safetensors file, lacks a tensor, or has one of another shape or with a number that is not
    /// finite.
    pub fn read(path: &Path, network: &Network) -> Result<Self, WeightsError> {
        let bytes = std::fs::read(path).map_err(|source| WeightsError::Read { path: path.into(), source })?;
        let tensors =
            SafeTensors::deserialize(&bytes).map_err(|source| WeightsError::Format { path: path.into(), source })?;
        let prefix = prefix(&tensors);
        let of_encoder = network.state_shapes().into_iter().filter(|(name, _)| name.starts_with(ENCODER));
        let states = of_encoder.map(|(state, shape)| {
            let name = format!("{prefix}{}", name_elsewhere(&state));
            let missing = |_| WeightsError::Missing { path: path.into(), name: name.clone() };
            let tensor = tensors.tensor(&name).map_err(missing)?;
            let expected: Vec<usize> = if shape.len() == 4 && shape[0] == 1 { vec![shape[1]] } else { shape.to_vec() };
            if tensor.shape() != expected {
                let (path, found) = (path.into(), tensor.shape().to_vec());
                return Err(WeightsError::Shape { path, name, found, expected });
            }
            let numbers = |what: String| WeightsError::Numbers { path: path.into(), name: name.clone(), what };
            Ok((state, read_tensor(&tensor, shape).map_err(numbers)?))
        });
        let states: Vec<(String, Tensor)> = states.collect::<Result<_, _>>()?;
        Ok(Given { states: states.into(), digest: blake3::hash(&bytes).to_hex().to_string() })
    }
}

/// What stands before the names of a network that is part of another, such as `backbone.`.
fn prefix(tensors: &SafeTensors) -> String {
    const FIRST: &str = "conv1.weight";
    let names = tensors.names().into_iter().filter_map(|name| name.strip_suffix(FIRST));
    // Each block has a tensor of this ending too.
    names.min_by_key(|prefix| prefix.len()).unwrap_or_default().to_owned()
}

/// The name that torchvision and timm have for a state of our encoder: `layer2.0.bn1.running_mean` for
/// `encoder.1.0.first.mean`.
fn name_elsewhere(state: &str) -> String {
    let (layer, role) = state.rsplit_once('.').expect("a state's name ends with its role");
    let parts: Vec<&str> = layer.split('.').skip(1).collect();
    let (place, [convolution, norm]) = match parts[..] {
        [stage, block, layer] => {
            let stage = 1 + stage.parse::<usize>().expect("stages are numbered");
            let layers = match layer {
                "first" => ["conv1", "bn1"],
                "second" => ["conv2", "bn2"],
                _ => ["downsample.0", "downsample.1"],
            };
            (format!("layer{stage}.{block}."), layers)
        }
        _ => (String::new(), ["conv1", "bn1"]),
    };
    match role {
        "kernel" => format!("{place}{convolution}.weight"),
        "gamma" => format!("{place}{norm}.weight"),
        "beta" => format!("{place}{norm}.bias"),
        "mean" => format!("{place}{norm}.running_mean"),
        _ => format!("{place}{norm}.running_var"),
    }
}

fn read_tensor(tensor: &TensorView, shape: Shape) -> Result<Tensor, String> {
    let data = tensor.data();
    let values: Vec<f32> = match tensor.dtype() {
        Dtype::F32 => data.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect(),
        Dtype::F64 => data.as_chunks().0.iter().map(|&bytes| f64::from_le_bytes(bytes) as f32).collect(),
        Dtype::F16 => data.as_chunks().0.iter().map(|&bytes| f16::from_le_bytes(bytes).to_f32()).collect(),
        Dtype::BF16 => data.as_chunks().0.iter().map(|&bytes| bf16::from_le_bytes(bytes).to_f32()).collect(),
        other => return Err(format!("{other:?}")),
    };
    match values.iter().find(|value| !value.is_finite()) {
        Some(value) => Err(format!("the number {value}")),
        None => Ok(Tensor::new(shape, values)),
    }
}

/// Writes a file of the original width with random weights.
#[cfg(test)]
pub(crate) fn write_random(path: &Path, network: &Network, seed: u64) {
    let mut stream = crate::engine::philox::Stream::new(seed, 0);
    let statistics = network.statistics().into_iter().flatten();
    let states: Vec<(String, Tensor)> = network.parameters(&mut stream).into_iter().chain(statistics).collect();
    let of_encoder = states.iter().filter(|(name, _)| name.starts_with(ENCODER));
    let views = of_encoder.map(|(name, tensor)| {
        let shape = if tensor.shape()[0] == 1 { vec![tensor.shape()[1]] } else { tensor.shape().to_vec() };
        (name_elsewhere(name), TensorView::new(Dtype::F32, shape, bytemuck::cast_slice(tensor.data())).unwrap())
    });
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    use crate::ssad::method::Method;
    use crate::ssad::nn::{Detector, Normalised, ResNet18, Stem};

    /// Written by PyTorch: a narrow network.
    const NARROW: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/kernels-tests/golden/resnet18.safetensors");

    fn narrow() -> Network {
        let encoder = Normalised::for_imagenet(ResNet18 { width: 4, stem: Stem::Large, stages: ResNet18::STAGES });
        Network::new(Method::StSsad, &Detector::new(3, Arc::new(encoder), vec![6]), [3, 40, 33])
    }

    /// Name, type, shape and data of each tensor.
    type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

    /// What reading says of the narrow network's file after a change.
    fn read(change: impl FnOnce(&mut Tensors)) -> Result<Given, String> {
        let bytes = std::fs::read(NARROW).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let owned = |(name, view): (&str, TensorView)| {
            (name.to_owned(), (view.dtype(), view.shape().to_vec(), view.data().to_vec()))
        };
        let mut tensors: Tensors = tensors.iter().map(owned).collect();
        change(&mut tensors);
        let views = tensors
            .iter()
            .map(|(name, (dtype, shape, data))| (name, TensorView::new(*dtype, shape.clone(), data).unwrap()));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights.safetensors");
        std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
        Given::read(&path, &narrow()).map_err(|error| error.to_string())
    }

    #[test]
    fn numbers_of_every_width_and_parts_of_larger_networks_are_read() {
        let given = read(|_| {}).unwrap();
        let kernel =
            |given: &Given| given.states.iter().find(|(name, _)| name == "encoder.0.0.first.kernel").unwrap().1.clone();
        let plain = kernel(&given);
        let halved = read(|tensors| {
            let (dtype, _, data) = tensors.get_mut("layer1.0.conv1.weight").unwrap();
            *dtype = Dtype::BF16;
            *data = plain.data().iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect();
        });
        let expected: Vec<f32> = plain.data().iter().map(|&value| bf16::from_f32(value).to_f32()).collect();
        assert_eq!(kernel(&halved.unwrap()).data(), expected);
        let nested = read(|tensors| {
            *tensors =
                std::mem::take(tensors).into_iter().map(|(name, own)| (format!("backbone.{name}"), own)).collect();
        });
        assert_eq!(kernel(&nested.unwrap()), plain);
    }

    #[test]
    fn what_is_no_such_network_is_refused_with_the_tensor() {
        let missing = read(|tensors| drop(tensors.remove("layer3.1.bn2.running_var"))).unwrap_err();
        assert!(missing.contains("has no tensor `layer3.1.bn2.running_var`"), "{missing}");
        let grey = read(|tensors| {
            let (_, shape, data) = tensors.get_mut("conv1.weight").unwrap();
            (shape[1], *data) = (1, data[..data.len() / 3].to_vec());
        });
        let grey = grey.unwrap_err();
        assert!(grey.contains("`conv1.weight`") && grey.contains("[4, 1, 7, 7]") && grey.contains("for RGB"), "{grey}");
        let broken = read(|tensors| {
            let (_, _, data) = tensors.get_mut("bn1.bias").unwrap();
            data[..4].copy_from_slice(&f32::NAN.to_le_bytes());
        });
        assert!(broken.unwrap_err().contains("`bn1.bias`"));
        let whole = read(|tensors| {
            let (dtype, _, _) = tensors.get_mut("bn1.bias").unwrap();
            *dtype = Dtype::I32;
        });
        assert!(whole.unwrap_err().contains("holds I32"));

        let folder = tempfile::tempdir().unwrap();
        let pickled = folder.path().join("resnet18.pth");
        std::fs::write(&pickled, b"PK\x03\x04 a pickle in a zip file").unwrap();
        let message = Given::read(&pickled, &narrow()).unwrap_err().to_string();
        assert!(message.contains("is no safetensors file") && message.contains("save_file"), "{message}");
        let absent = Given::read(&folder.path().join("none"), &narrow()).unwrap_err();
        assert!(absent.to_string().contains("cannot read the weights"));
    }
}
