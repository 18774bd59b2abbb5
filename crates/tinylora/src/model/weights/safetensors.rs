//! The bytes of a safetensors file enter, its list of tensors or the first problem leaves. Own code, since the
//! `safetensors` crate lets a tensor that is listed twice pass and does not name the tensor in most errors.
//!
//! ```text
//! u64 length of the header · header: a JSON object, name → {dtype, shape, data_offsets: [begin, end]} · data
//! ```
//! The data of all tensors together cover the rest of the file, without holes and without overlaps.

use std::fmt;

use serde::Deserialize;
use serde::de::{Error, IgnoredAny, MapAccess, Visitor};

use crate::gguf::TensorType;

const MAX_HEADER_BYTES: u64 = 100_000_000;
/// Far above the models that exist; bounds memory for headers of tiny entries.
const MAX_TENSORS: usize = 1 << 18;

/// One tensor, in the order of its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) dtype: DType,
    pub(crate) shape: Vec<usize>,
    /// From the beginning of the file.
    pub(crate) offset: usize,
    pub(crate) bytes: usize,
}

/// Storage types of safetensors that occur beside weights. Only some are readable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[allow(non_camel_case_types)]
pub(crate) enum DType {
    #[serde(rename = "BOOL")]
    Bool,
    U8,
    I8,
    F8_E4M3,
    F8_E5M2,
    F8_E8M0,
    I16,
    U16,
    F16,
    BF16,
    I32,
    U32,
    F32,
    I64,
    U64,
    F64,
}

/// What is wrong with the bytes of a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum Problem {
    #[error("the file has {file} bytes, fewer than the 8 of a length")]
    TooShort { file: u64 },
    #[error("the header has {header} bytes, more than the limit of {limit}")]
    HeaderTooLarge { header: u64, limit: u64 },
    #[error("the header has {header} bytes, but the file has only {file}; download it again")]
    HeaderTruncated { header: u64, file: u64 },
    #[error("the header is malformed: {reason}")]
    Json { reason: String },
    #[error("the tensor `{tensor}` stands in the header twice")]
    DuplicateTensor { tensor: String },
    #[error("tensor `{tensor}`: the size of the shape {shape:?} overflows")]
    Overflow { tensor: String, shape: Vec<u64> },
    #[error("tensor `{tensor}`: data_offsets {begin} to {end} run backwards")]
    Backwards { tensor: String, begin: u64, end: u64 },
    #[error("tensor `{tensor}`: {found} bytes of data, but shape {shape:?} in {dtype} needs {needed}")]
    Size { tensor: String, shape: Vec<u64>, dtype: String, needed: u64, found: u64 },
    #[error("tensor `{tensor}` begins at byte {begin} of the data, inside `{before}`, which ends at {end}")]
    Overlap { tensor: String, begin: u64, before: String, end: u64 },
    #[error("the bytes {from} to {to} of the data, before tensor `{tensor}`, belong to no tensor")]
    Hole { from: u64, to: u64, tensor: String },
    #[error("the tensors need {needed} bytes of data, but the file has {found}; download it again")]
    DataTruncated { needed: u64, found: u64 },
    #[error("the tensors end at byte {needed} of the data, but the file has {found} bytes of data")]
    TrailingBytes { needed: u64, found: u64 },
}

/// Read and check the header of a whole file.
pub(crate) fn header(file: &[u8]) -> Result<Vec<Entry>, Problem> {
    let file_bytes = file.len() as u64;
    let Some((length, rest)) = file.split_first_chunk::<8>() else {
        return Err(Problem::TooShort { file: file_bytes });
    };
    let header = u64::from_le_bytes(*length);
    if header > MAX_HEADER_BYTES {
        return Err(Problem::HeaderTooLarge { header, limit: MAX_HEADER_BYTES });
    }
    let Some((json, data)) = rest.split_at_checked(header as usize) else {
        return Err(Problem::HeaderTruncated { header, file: file_bytes });
    };
    let mut list: RawList =
        serde_json::from_slice(json).map_err(|error| Problem::Json { reason: error.to_string() })?;
    list.0.sort_by(|a, b| a.0.cmp(&b.0));
    if let Some(pair) = list.0.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(Problem::DuplicateTensor { tensor: pair[0].0.clone() });
    }
    list.0.sort_by_key(|(_, raw)| raw.data_offsets);
    place(list.0, data.len() as u64, 8 + header)
}

/// Check sizes and places; `data_at` is where the data begin in the file.
fn place(list: Vec<(String, RawEntry)>, data: u64, data_at: u64) -> Result<Vec<Entry>, Problem> {
    let mut entries: Vec<Entry> = Vec::with_capacity(list.len());
    let mut end_before = 0;
    for (name, raw) in list {
        let (begin, end) = raw.data_offsets;
        let needed = bytes_of(&raw)
            .ok_or_else(|| Problem::Overflow { tensor: name.clone(), shape: raw.shape.clone() })?;
        if end < begin {
            return Err(Problem::Backwards { tensor: name, begin, end });
        }
        if end - begin != needed {
            let (shape, dtype) = (raw.shape, format!("{:?}", raw.dtype));
            return Err(Problem::Size { tensor: name, shape, dtype, needed, found: end - begin });
        }
        if begin > end_before {
            return Err(Problem::Hole { from: end_before, to: begin, tensor: name });
        }
        if begin < end_before {
            let before = entries.last().map(|entry| entry.name.clone()).unwrap_or_default();
            return Err(Problem::Overlap { tensor: name, begin, before, end: end_before });
        }
        if end > data {
            return Err(Problem::DataTruncated { needed: end, found: data });
        }
        end_before = end;
        // All fit: the data lie inside a file that is in memory.
        entries.push(Entry {
            name,
            dtype: raw.dtype,
            shape: raw.shape.iter().map(|&n| n as usize).collect(),
            offset: (data_at + begin) as usize,
            bytes: needed as usize,
        });
    }
    if end_before < data {
        return Err(Problem::TrailingBytes { needed: end_before, found: data });
    }
    Ok(entries)
}

fn bytes_of(raw: &RawEntry) -> Option<u64> {
    let elements = raw.shape.iter().try_fold(1_u64, |product, &n| product.checked_mul(n))?;
    elements.checked_mul(raw.dtype.bytes())
}

impl DType {
    /// The type to decode with, if there is one.
    pub(crate) fn readable(self) -> Option<TensorType> {
        match self {
            DType::F32 => Some(TensorType::F32),
            DType::F16 => Some(TensorType::F16),
            DType::BF16 => Some(TensorType::BF16),
            _ => None,
        }
    }

    /// As the header has it.
    pub(crate) fn name(self) -> String {
        if self == DType::Bool { "BOOL".to_owned() } else { format!("{self:?}") }
    }

    fn bytes(self) -> u64 {
        match self {
            DType::Bool | DType::U8 | DType::I8 | DType::F8_E4M3 | DType::F8_E5M2 | DType::F8_E8M0 => 1,
            DType::I16 | DType::U16 | DType::F16 | DType::BF16 => 2,
            DType::I32 | DType::U32 | DType::F32 => 4,
            DType::I64 | DType::U64 | DType::F64 => 8,
        }
    }
}

/// A tensor as the header has it.
#[derive(Deserialize)]
struct RawEntry {
    dtype: DType,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// All tensors in the order of the header, names that occur twice included.
struct RawList(Vec<(String, RawEntry)>);

impl<'de> Deserialize<'de> for RawList {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<RawList, D::Error> {
        deserializer.deserialize_map(ListVisitor)
    }
}

struct ListVisitor;

impl<'de> Visitor<'de> for ListVisitor {
    type Value = RawList;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawList, A::Error> {
        let mut list = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            if list.len() == MAX_TENSORS {
                return Err(A::Error::custom(format!("more than {MAX_TENSORS} tensors")));
            }
            let entry =
                map.next_value().map_err(|error| A::Error::custom(format!("tensor `{name}`: {error}")))?;
            list.push((name, entry));
        }
        Ok(RawList(list))
    }
}
