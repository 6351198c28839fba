//! Reads arrays from little-endian MATLAB files of level 5 (`save -v6` and `-v7`).
//!
//! A header of 128 bytes is followed by elements: type and size in bytes, one word each, then the data, padded to 8 bytes. In a
//! small element the size is the upper half of the type, and up to 4 bytes of data follow in the place of the size. A compressed
//! element is a zlib stream of one element. An array is an element that contains elements: flags, extents, name, values.

use std::collections::BTreeMap;
use std::io::{self, Read};

use flate2::read::ZlibDecoder;

const INT8: u32 = 1;
const INT32: u32 = 5;
const UINT32: u32 = 6;
const MATRIX: u32 = 14;
const COMPRESSED: u32 = 15;
/// The numeric classes of arrays, from `double` to `uint64`.
const NUMERIC: std::ops::RangeInclusive<u8> = 6..=15;

/// A numeric array.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Extents; the first index runs fastest in memory.
    pub extents: Vec<usize>,
    pub values: Values,
}

/// The values of an array.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    Bytes(Vec<u8>),
    Numbers(Vec<f64>),
}

/// Why a MATLAB file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum MatError {
    #[error("it does not begin with a MATLAB header")]
    Header,
    #[error("it was saved with `-v7.3`, which is HDF5: save it with `-v7`")]
    Hdf5,
    #[error("it was written on a big-endian machine: save it again on a little-endian one")]
    BigEndian,
    #[error("it is truncated: download it again")]
    Cut,
    #[error("a compressed element is damaged ({0}): download it again")]
    Compression(io::Error),
    #[error("an element needs {bytes} bytes, more than the {max} that are read")]
    TooLarge { bytes: u64, max: u64 },
    #[error("{0}")]
    Malformed(&'static str),
    #[error("it has no array `{name}`, only {found}")]
    Missing { name: &'static str, found: String },
    #[error("its array `{name}` is {found}, not {expected}")]
    Shape { name: &'static str, found: String, expected: &'static str },
}

/// All numeric arrays of a file, by name; other contents are ignored.
///
/// # Errors
/// When the file has another format or is damaged, or an element needs more than `max` bytes.
pub fn read(bytes: &[u8], max: u64) -> Result<BTreeMap<String, Array>, MatError> {
    let (header, mut rest) = bytes.split_at_checked(128).ok_or(MatError::Header)?;
    if header.starts_with(b"MATLAB 7.3") {
        return Err(MatError::Hdf5);
    }
    match (&header[126..], header.starts_with(b"MATLAB 5.0")) {
        (b"IM", true) => {}
        (b"MI", true) => return Err(MatError::BigEndian),
        _ => return Err(MatError::Header),
    }
    let mut arrays = BTreeMap::new();
    while !rest.is_empty() {
        let inflated;
        let element = match next(&mut rest)? {
            (COMPRESSED, data) => {
                inflated = inflate(data, max)?;
                next(&mut &inflated[..])?
            }
            element => element,
        };
        if let (MATRIX, data) = element
            && let Some((name, array)) = array(data)?
        {
            arrays.insert(name, array);
        }
    }
    Ok(arrays)
}

/// Decompresses an element, with its tag. Memory grows with the actual data, not with the stated size.
fn inflate(data: &[u8], max: u64) -> Result<Vec<u8>, MatError> {
    let mut stream = ZlibDecoder::new(data);
    let mut element = vec![0; 8];
    stream.read_exact(&mut element).map_err(MatError::Compression)?;
    let bytes = u64::from(word(&element[4..]));
    if bytes > max {
        return Err(MatError::TooLarge { bytes, max });
    }
    stream.by_ref().take(bytes).read_to_end(&mut element).map_err(MatError::Compression)?;
    if element.len() as u64 != 8 + bytes {
        return Err(MatError::Cut);
    }
    // Reading to the end of the stream verifies its checksum.
    match stream.read(&mut [0]).map_err(MatError::Compression)? {
        0 => Ok(element),
        _ => Err(MatError::Malformed("a compressed element holds more than one array: save it again with `-v7`")),
    }
}

/// The type and the data of the next element.
fn next<'a>(rest: &mut &'a [u8]) -> Result<(u32, &'a [u8]), MatError> {
    let (tag, after) = rest.split_at_checked(8).ok_or(MatError::Cut)?;
    let (kind, size) = (word(tag), word(&tag[4..]));
    if kind >> 16 != 0 {
        *rest = after;
        return Ok((kind & 0xffff, tag[4..].get(..(kind >> 16) as usize).ok_or(MatError::Malformed(SMALL))?));
    }
    let (data, after) = after.split_at_checked(size as usize).ok_or(MatError::Cut)?;
    // Compressed elements are not padded.
    let padding = if kind == COMPRESSED { 0 } else { size.next_multiple_of(8) - size };
    *rest = after.get(padding as usize..).unwrap_or_default();
    Ok((kind, data))
}

const SMALL: &str = "a small element has more than 4 bytes: download the file again";

fn word(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// The name and contents of a numeric array; `None` for other arrays.
fn array(mut data: &[u8]) -> Result<Option<(String, Array)>, MatError> {
    const ODD: MatError = MatError::Malformed("an array does not have the layout of level 5: download the file again");
    let (UINT32, flags @ [class, ..]) = next(&mut data)? else { return Err(ODD) };
    if !NUMERIC.contains(class) {
        return Ok(None);
    }
    let complex = flags.get(1).is_some_and(|bits| bits & 0x08 != 0);
    let (INT32, extents) = next(&mut data)? else { return Err(ODD) };
    let (INT8, name) = next(&mut data)? else { return Err(ODD) };
    if complex {
        return Ok(None);
    }
    let extents: Vec<usize> = extents.chunks_exact(4).map(|extent| word(extent) as usize).collect();
    let values = values(next(&mut data)?)?;
    let count = match &values {
        Values::Bytes(bytes) => bytes.len(),
        Values::Numbers(numbers) => numbers.len(),
    };
    let product = extents.iter().try_fold(1usize, |product, &extent| product.checked_mul(extent));
    if product != Some(count) {
        return Err(MatError::Malformed("an array has too few or too many values: download the file again"));
    }
    Ok(Some((String::from_utf8_lossy(name).into_owned(), Array { extents, values })))
}

fn values((kind, data): (u32, &[u8])) -> Result<Values, MatError> {
    fn numbers<const SIZE: usize>(data: &[u8], of: fn([u8; SIZE]) -> f64) -> Values {
        Values::Numbers(data.as_chunks().0.iter().map(|&bytes| of(bytes)).collect())
    }
    Ok(match kind {
        2 => Values::Bytes(data.to_vec()),
        INT8 => numbers(data, |b: [u8; 1]| f64::from(i8::from_le_bytes(b))),
        3 => numbers(data, |b| f64::from(i16::from_le_bytes(b))),
        4 => numbers(data, |b| f64::from(u16::from_le_bytes(b))),
        INT32 => numbers(data, |b| f64::from(i32::from_le_bytes(b))),
        UINT32 => numbers(data, |b| f64::from(u32::from_le_bytes(b))),
        7 => numbers(data, |b| f64::from(f32::from_le_bytes(b))),
        9 => numbers(data, f64::from_le_bytes),
        12 => numbers(data, |b| i64::from_le_bytes(b) as f64),
        13 => numbers(data, |b| u64::from_le_bytes(b) as f64),
        _ => return Err(MatError::Malformed("an array has values of an unknown type: download the file again")),
    })
}
