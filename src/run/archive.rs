//! The file format of models and checkpoints: named tensors and texts in one safetensors file.
//!
//! No crash leaves half a file ([`store`]). Reading is strict: a file that differs in any bit from what was written is refused with
//! the reason.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::engine::tensor::Tensor;
use crate::run::store;

/// Increases with each change of the format.
const VERSION: &str = "1";
/// Limit on the header's length, as in safetensors. Each tensor adds about a hundred bytes, and a checkpoint has the tensors of
/// all starts.
const LONGEST_HEADER: u64 = 100_000_000;
const VERSION_KEY: &str = "stssad-format";
const CHECKSUM_KEY: &str = "blake3";

/// A tensor of an [`Archive`].
#[derive(Clone, Debug, PartialEq)]
pub enum Numbers {
    Single(Tensor),
    /// A vector.
    Double(Vec<f64>),
}

/// Named tensors and texts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Archive {
    /// What the archive contains, such as `model`: a file of another kind is refused.
    pub kind: String,
    pub texts: BTreeMap<String, String>,
    pub numbers: BTreeMap<String, Numbers>,
}

/// Why an archive could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("cannot write {}: check that the folder is writable and the disk is not full", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot read {}: check that the file exists and is readable", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is damaged or was not written by stssad: {reason}", path.display())]
    Damaged { path: PathBuf, reason: String },
    #[error(
        "{} has format {found}, but this version of stssad reads format {VERSION}: use the version that wrote it", path.display()
    )]
    Version { path: PathBuf, found: String },
}

impl Numbers {
    /// safetensors is little-endian, like every machine that wgpu runs on.
    fn bytes(&self) -> &[u8] {
        match self {
            Numbers::Single(tensor) => bytemuck::cast_slice(tensor.data()),
            Numbers::Double(values) => bytemuck::cast_slice(values),
        }
    }

    fn view(&self) -> TensorView<'_> {
        let (dtype, shape) = match self {
            Numbers::Single(tensor) => (Dtype::F32, tensor.shape().to_vec()),
            Numbers::Double(values) => (Dtype::F64, vec![values.len()]),
        };
        TensorView::new(dtype, shape, self.bytes()).expect("as many bytes as the shape says")
    }

    fn read(view: &TensorView) -> Result<Self, String> {
        match view.dtype() {
            Dtype::F32 => {
                let values: Vec<f32> = bytemuck::pod_collect_to_vec(view.data());
                let finite = values.iter().all(|value| value.is_finite());
                finite.then(|| Numbers::Single(Tensor::new(view.shape(), values))).ok_or("it is not finite".into())
            }
            Dtype::F64 if view.shape().len() == 1 => {
                let values: Vec<f64> = bytemuck::pod_collect_to_vec(view.data());
                let finite = values.iter().all(|value| value.is_finite());
                finite.then_some(Numbers::Double(values)).ok_or("it is not finite".into())
            }
            other => Err(format!("tensors of type {other:?} and shape {:?} are not supported", view.shape())),
        }
    }
}

impl Archive {
    /// An empty archive of a kind.
    pub fn new(kind: &str) -> Self {
        Archive { kind: kind.to_owned(), ..Archive::default() }
    }

    /// Removes the text `name` and returns it.
    ///
    /// # Errors
    /// When it is missing.
    pub fn take_text(&mut self, name: &str) -> Result<String, String> {
        self.texts.remove(name).ok_or_else(|| format!("the text `{name}` is missing"))
    }

    /// Removes the tensor `name` and returns it.
    ///
    /// # Errors
    /// When it is missing or in double precision.
    pub fn take_single(&mut self, name: &str) -> Result<Tensor, String> {
        match self.numbers.remove(name) {
            Some(Numbers::Single(tensor)) => Ok(tensor),
            Some(Numbers::Double(_)) => Err(format!("`{name}` is in double precision")),
            None => Err(format!("the tensor `{name}` is missing")),
        }
    }

    /// Removes the vector `name` and returns it.
    ///
    /// # Errors
    /// When it is missing or in single precision.
    pub fn take_double(&mut self, name: &str) -> Result<Vec<f64>, String> {
        match self.numbers.remove(name) {
            Some(Numbers::Double(values)) => Ok(values),
            Some(Numbers::Single(_)) => Err(format!("`{name}` is in single precision")),
            None => Err(format!("the vector `{name}` is missing")),
        }
    }

    /// Removes all tensors whose names begin with `prefix` and returns them, their names without the prefix.
    pub fn take_group(&mut self, prefix: &str) -> Vec<(String, Tensor)> {
        let names: Vec<String> = self.numbers.keys().filter(|name| name.starts_with(prefix)).cloned().collect();
        let take = |name: String| {
            let tensor = self.take_single(&name).ok()?;
            Some((name[prefix.len()..].to_owned(), tensor))
        };
        names.into_iter().filter_map(take).collect()
    }

    /// Checks that nothing is left.
    ///
    /// # Errors
    /// When something is left; the error names it.
    pub fn end(self) -> Result<(), String> {
        match self.texts.keys().chain(self.numbers.keys()).next() {
            Some(name) => Err(format!("`{name}` is unknown")),
            None => Ok(()),
        }
    }

    /// A hash of the whole contents.
    pub fn checksum(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        let mut add = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        add(self.kind.as_bytes());
        for (name, text) in &self.texts {
            add(name.as_bytes());
            add(text.as_bytes());
        }
        for (name, numbers) in &self.numbers {
            add(name.as_bytes());
            numbers.view().shape().iter().for_each(|extent| add(&extent.to_le_bytes()));
            add(numbers.bytes());
        }
        hasher.finalize().to_string()
    }

    fn serialize(&self) -> Result<Vec<u8>, String> {
        let mut texts: HashMap<String, String> =
            self.texts.iter().map(|(name, text)| (format!("text.{name}"), text.clone())).collect();
        texts.insert(VERSION_KEY.into(), VERSION.into());
        texts.insert("kind".into(), self.kind.clone());
        texts.insert(CHECKSUM_KEY.into(), self.checksum());
        let views = self.numbers.iter().map(|(name, numbers)| (name, numbers.view()));
        let mut bytes = safetensors::serialize(views, Some(texts)).map_err(|error| error.to_string())?;
        match header_length(&bytes) {
            Some(length) if length <= LONGEST_HEADER => {}
            _ => return Err(format!("its many tensors need a header of more than {LONGEST_HEADER} bytes")),
        }
        sort_header(&mut bytes).map_err(|error| error.to_string())?;
        Ok(bytes)
    }

    /// Writes the archive to `path` whole or not at all: after a crash, or on a full disk, the previous file is still there.
    ///
    /// # Errors
    /// When the file cannot be written, or does not read back as it was written.
    pub fn write(&self, path: &Path) -> Result<(), ArchiveError> {
        self.replace(path, None)
    }

    /// As [`write`](Archive::write), but the file at `path` is first renamed to `previous`, unless it is damaged.
    ///
    /// # Errors
    /// As [`write`](Archive::write).
    pub fn write_keeping(&self, path: &Path, previous: &Path) -> Result<(), ArchiveError> {
        self.replace(path, Archive::read(path, &self.kind).is_ok().then_some(previous))
    }

    fn replace(&self, path: &Path, kept: Option<&Path>) -> Result<(), ArchiveError> {
        let bytes = self.serialize().map_err(|reason| ArchiveError::Damaged { path: path.into(), reason })?;
        store::replace(path, &bytes, kept).map_err(|source| ArchiveError::Write { path: path.into(), source })
    }

    /// Reads an archive of a kind.
    ///
    /// # Errors
    /// When the file cannot be read, is of another kind or version, or has changed since it was written.
    pub fn read(path: &Path, kind: &str) -> Result<Self, ArchiveError> {
        let bytes = fs::read(path).map_err(|source| ArchiveError::Read { path: path.into(), source })?;
        let (archive, checksum) = Archive::parse(&bytes, path, kind)?;
        match archive.checksum() == checksum {
            true => Ok(archive),
            false => Err(ArchiveError::Damaged { path: path.into(), reason: "its checksum is wrong".into() }),
        }
    }

    /// The archive that these contents of the file at `path` describe, and the checksum that they state, which is not compared.
    ///
    /// # Errors
    /// When they are no archive of this kind and version.
    pub fn parse(bytes: &[u8], path: &Path, kind: &str) -> Result<(Self, String), ArchiveError> {
        let damaged = |reason: String| ArchiveError::Damaged { path: path.into(), reason };
        if header_length(bytes).is_none_or(|length| length > LONGEST_HEADER) {
            return Err(damaged("it has no header, or one that is too long".into()));
        }
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(|error| damaged(error.to_string()))?;
        let mut texts = header.metadata().clone().unwrap_or_default();
        let mut take = |key: &str| texts.remove(key).ok_or_else(|| damaged(format!("its header has no `{key}`")));
        let version = take(VERSION_KEY)?;
        if version != VERSION {
            return Err(ArchiveError::Version { path: path.into(), found: version });
        }
        let (found, checksum) = (take("kind")?, take(CHECKSUM_KEY)?);
        if found != kind {
            return Err(damaged(format!("it is a {found}, not a {kind}")));
        }
        let tensors = SafeTensors::deserialize(bytes).map_err(|error| damaged(error.to_string()))?;
        let read = |(name, view): (&str, TensorView)| match Numbers::read(&view) {
            Ok(numbers) => Ok((name.to_owned(), numbers)),
            Err(reason) => Err(damaged(format!("{name}: {reason}"))),
        };
        let texts = texts
            .into_iter()
            .map(|(key, text)| (key.strip_prefix("text.").map_or(key.clone(), str::to_owned), text))
            .collect();
        let numbers = tensors.iter().map(read).collect::<Result<_, _>>()?;
        Ok((Archive { kind: kind.to_owned(), texts, numbers }, checksum))
    }
}

/// The header's length, as the file states it.
fn header_length(bytes: &[u8]) -> Option<u64> {
    bytes.first_chunk().map(|word| u64::from_le_bytes(*word))
}

/// Sorts the keys of a safetensors header, so that equal archives give equal files.
fn sort_header(bytes: &mut [u8]) -> serde_json::Result<()> {
    let (length, rest) = bytes.split_first_chunk_mut().expect("a header's length");
    let header = &mut rest[..u64::from_le_bytes(*length) as usize];
    let sorted: BTreeMap<String, BTreeMap<String, serde_json::Value>> = serde_json::from_slice(header)?;
    let sorted = serde_json::to_vec(&sorted)?;
    header[..sorted.len()].copy_from_slice(&sorted);
    header[sorted.len()..].fill(b' ');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive() -> Archive {
        let mut archive = Archive::new("model");
        archive.texts.insert("config".into(), "seed = 1\n".into());
        archive.numbers.insert("w".into(), Numbers::Single(Tensor::new([2, 1], vec![1.5, -0.25])));
        archive.numbers.insert("mean".into(), Numbers::Double(vec![0.1, 0.2, 0.3]));
        archive
    }

    #[test]
    fn an_archive_is_read_back_and_no_partial_file_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        archive().write(&path).unwrap();
        assert_eq!(Archive::read(&path, "model").unwrap(), archive());
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn the_previous_one_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let [last, previous] = ["last", "previous"].map(|name| folder.path().join(name));
        let mut newer = archive();
        newer.texts.insert("config".into(), "seed = 2\n".into());
        archive().write_keeping(&last, &previous).unwrap();
        assert!(!previous.exists());
        newer.write_keeping(&last, &previous).unwrap();
        assert_eq!(Archive::read(&last, "model").unwrap(), newer);
        assert_eq!(Archive::read(&previous, "model").unwrap(), archive());

        fs::write(&last, "damaged").unwrap();
        newer.write_keeping(&last, &previous).unwrap();
        assert_eq!(Archive::read(&last, "model").unwrap(), newer);
        assert_eq!(Archive::read(&previous, "model").unwrap(), archive());
    }

    /// Each hash map has an order of its own.
    #[test]
    fn equal_archives_are_equal_bytes() {
        let bytes = archive().serialize().unwrap();
        assert!((0..20).all(|_| archive().serialize().unwrap() == bytes));
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        archive().write(&path).unwrap();
        let bytes = fs::read(&path).unwrap();
        for position in 0..bytes.len() {
            for bit in [0, 5] {
                let mut flipped = bytes.clone();
                flipped[position] ^= 1 << bit;
                fs::write(&path, &flipped).unwrap();
                // Only the spaces after the header have no meaning.
                let read = Archive::read(&path, "model");
                assert!(read.is_err() || bytes[position] == b' ', "bit {bit} of byte {position}: {read:?}");
            }
        }
        for length in 0..bytes.len() {
            fs::write(&path, &bytes[..length]).unwrap();
            assert!(Archive::read(&path, "model").is_err(), "cut to {length} bytes");
        }
    }

    #[test]
    fn errors_give_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let message = |path: &Path, kind: &str| Archive::read(path, kind).unwrap_err().to_string();
        assert!(message(&path, "model").contains("check that the file exists"));
        archive().write(&path).unwrap();
        assert!(message(&path, "checkpoint").contains("it is a model, not a checkpoint"));

        let text = fs::read(&path).unwrap();
        let newer = String::from_utf8_lossy(&text).find("\"stssad-format\":\"1\"").unwrap() + 17;
        let mut changed = text.clone();
        changed[newer] = b'2';
        fs::write(&path, &changed).unwrap();
        assert!(message(&path, "model").contains("has format 2"), "{}", message(&path, "model"));

        fs::write(&path, (LONGEST_HEADER + 1).to_le_bytes()).unwrap();
        assert!(message(&path, "model").contains("too long"));

        let mut poisoned = archive();
        poisoned.numbers.insert("w".into(), Numbers::Single(Tensor::scalar(f32::NAN)));
        poisoned.write(&path).unwrap();
        assert!(message(&path, "model").contains("w: it is not finite"));
    }

    /// As many as in a checkpoint of a deep network with many finished starts.
    #[test]
    fn an_archive_may_have_many_tensors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint.safetensors");
        let mut archive = Archive::new("checkpoint");
        for index in 0..20_000 {
            let name = format!("{index}/state/encoder.stage.2.block.1.convolution.weight");
            archive.numbers.insert(name, Numbers::Single(Tensor::scalar(index as f32)));
        }
        archive.write(&path).unwrap();
        assert!(header_length(&fs::read(&path).unwrap()).unwrap() > 2 << 20);
        assert_eq!(Archive::read(&path, "checkpoint").unwrap(), archive);
    }

    #[test]
    fn a_failed_write_keeps_the_previous_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        archive().write(&path).unwrap();
        let missing = path.with_file_name("no/such/folder");
        assert!(matches!(archive().write(&missing), Err(ArchiveError::Write { .. })));
        assert_eq!(Archive::read(&path, "model").unwrap(), archive());
    }

    #[test]
    fn unexpected_contents_are_noticed() {
        let mut archive = archive();
        assert_eq!(archive.take_single("w").unwrap().data(), [1.5, -0.25]);
        assert!(archive.take_single("w").unwrap_err().contains("is missing"));
        assert!(archive.take_double("mean").is_ok() && archive.take_text("config").is_ok());
        archive.texts.insert("extra".into(), String::new());
        assert_eq!(archive.end().unwrap_err(), "`extra` is unknown");
    }
}
