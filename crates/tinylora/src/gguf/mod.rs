//! A GGUF file enters, its checked metadata and list of tensors leave. Nothing here reads a tensor's
//! bytes, and nothing knows what a key means.
//!
//! The layout is that of versions 2 and 3 of <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>,
//! little-endian:
//! ```text
//! magic "GGUF" · u32 version · u64 tensors · u64 keys
//! keys:    string key · u32 type · value            (string: u64 bytes · UTF-8)
//! tensors: string name · u32 n · n × u64 dimension (fastest first) · u32 type · u64 offset
//! padding to `general.alignment` (32 if absent) · tensor data, each at an aligned offset
//! ```
//! Every count is checked against what is left of the file before memory is taken for it, and arrays of
//! strings lie in one buffer, so a header never takes more memory than its file's size and 64 MB.

mod parse;
mod value;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use value::{Array, Strings, Value, ValueType};

/// Everything before the tensor data.
#[derive(Debug, Clone)]
pub struct Header {
    /// The file, for messages.
    pub path: PathBuf,
    /// 2 or 3.
    pub version: u32,
    /// Tensor data start at multiples of this.
    pub alignment: u64,
    /// The keys.
    pub metadata: BTreeMap<String, Value>,
    /// The tensors, in the order of the file.
    pub tensors: Vec<TensorInfo>,
    /// Length of the whole file in bytes.
    pub file_bytes: u64,
}

/// The metadata alone.
pub type GgufMetadata = BTreeMap<String, Value>;

/// Where one tensor is and what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name in the file, for example `blk.0.attn_q.weight`.
    pub name: String,
    /// (out, in): slowest dimension first, the reverse of the order in the file. One to four sizes, none 0.
    pub shape: Vec<usize>,
    /// How its numbers are stored.
    pub dtype: TensorType,
    /// Position of its first byte from the beginning of the file; a multiple of the alignment.
    pub offset: u64,
    /// Length in bytes; `offset + bytes` is inside the file.
    pub bytes: u64,
}

/// The storage types that can be read. Quantised types store blocks along the last dimension of the shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum TensorType {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Q8K,
}

/// Why a file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// The operating system says no.
    #[error("{}: cannot read the file: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// The bytes are no valid GGUF.
    #[error("{}: not a usable GGUF file: {problem}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: Problem,
    },
    /// A key that the caller needs is absent.
    #[error("{}: the metadata key `{key}` is missing; the file was not written for this use", path.display())]
    MissingKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
    },
    /// A key holds something else than what the caller needs.
    #[error("{}: the metadata key `{key}` is {found}, expected {expected}", path.display())]
    WrongType {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// Its type in the file.
        found: String,
        /// What is needed.
        expected: &'static str,
    },
}

/// What is wrong with the bytes of a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Other first bytes.
    #[error("it begins with {found:02x?} instead of \"GGUF\"")]
    Magic {
        /// The first four bytes.
        found: [u8; 4],
    },
    /// Another version, or big-endian.
    #[error("version {found} is not supported (2 and 3, little-endian, are); convert the model again")]
    Version {
        /// As read.
        found: u32,
    },
    /// The file ends in the middle of something.
    #[error(
        "{what} needs {needed} bytes at offset {offset}, but the file has {file} bytes; download it again"
    )]
    Truncated {
        /// What was being read.
        what: String,
        /// Bytes needed.
        needed: u64,
        /// Where.
        offset: u64,
        /// Length of the file.
        file: u64,
    },
    /// A count that no model has.
    #[error("{what}: {found} is more than the limit of {limit}")]
    TooMany {
        /// What is counted.
        what: String,
        /// As read.
        found: u64,
        /// The most that is accepted.
        limit: u64,
    },
    /// Text that is not UTF-8.
    #[error("{what} is not UTF-8")]
    NotUtf8 {
        /// Which text.
        what: String,
    },
    /// A type number of a metadata value that is unknown.
    #[error("key `{key}` has the unknown value type {found}")]
    ValueType {
        /// The key.
        key: String,
        /// The type's number.
        found: u32,
    },
    /// A bool that is neither 0 nor 1.
    #[error("key `{key}` has the bool {found}, neither 0 nor 1")]
    Bool {
        /// The key.
        key: String,
        /// The byte.
        found: u8,
    },
    /// A key that stands there twice.
    #[error("the key `{key}` stands in the metadata twice")]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// A tensor that stands there twice.
    #[error("the tensor `{tensor}` stands in the list twice")]
    DuplicateTensor {
        /// The tensor.
        tensor: String,
    },
    /// `general.alignment` is unusable.
    #[error("`general.alignment` is {found}, expected a power of two, as u32, from 8 to 65536")]
    Alignment {
        /// As read.
        found: String,
    },
    /// A tensor's shape is unusable.
    #[error("tensor `{tensor}` has the dimensions {dims:?} (fastest first): {reason}")]
    Shape {
        /// The tensor.
        tensor: String,
        /// As read.
        dims: Vec<u64>,
        /// Why not.
        reason: String,
    },
    /// A tensor type that cannot be read.
    #[error(
        "tensor `{tensor}` has the type {found} ({name}); supported are F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, \
         Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K and Q8_K; use a file with one of these"
    )]
    TensorType {
        /// The tensor.
        tensor: String,
        /// The type's number.
        found: u32,
        /// Its name where one is known.
        name: &'static str,
    },
    /// A tensor's place is unusable.
    #[error("tensor `{tensor}`: data offset {offset} is not a multiple of the alignment {alignment}")]
    Misaligned {
        /// The tensor.
        tensor: String,
        /// Offset from the start of the data.
        offset: u64,
        /// The alignment.
        alignment: u64,
    },
    /// Two tensors share bytes.
    #[error(
        "the tensors `{first}` (bytes {first_begin} to {first_end}) and `{second}` (from byte {second_begin}) overlap"
    )]
    Overlap {
        /// The one that begins first.
        first: String,
        /// Its begin.
        first_begin: u64,
        /// Its end.
        first_end: u64,
        /// The other one.
        second: String,
        /// Its begin.
        second_begin: u64,
    },
}

impl Header {
    /// Read and check the header of a file.
    pub fn read(path: &Path) -> Result<Header, GgufError> {
        let io = |source| GgufError::Io { path: path.to_owned(), source };
        let file = std::fs::File::open(path).map_err(io)?;
        if file.metadata().map_err(io)?.len() == 0 {
            return Header::parse(path, &[]);
        }
        // SAFETY: the map is read-only and dropped before return. A file that another process cuts meanwhile
        // could end this process by SIGBUS, the risk that every reader of mapped weights takes.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(io)?;
        Header::parse(path, &map)
    }

    /// The same for bytes that are in memory or mapped; `bytes` is the whole file, `path` is for messages.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Header, GgufError> {
        parse::header(path, bytes).map_err(|problem| GgufError::Malformed { path: path.to_owned(), problem })
    }

    /// A key's value.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    /// A key that must be text.
    pub fn string(&self, key: &str) -> Result<&str, GgufError> {
        self.required(key, "a string", Value::as_str)
    }

    /// A key that must be a whole number that is not negative, of any integer type.
    pub fn unsigned(&self, key: &str) -> Result<u64, GgufError> {
        self.required(key, "a whole number that is not negative", Value::as_u64)
    }

    /// A key that must be a number, of any type.
    pub fn float(&self, key: &str) -> Result<f64, GgufError> {
        self.required(key, "a number", Value::as_f64)
    }

    /// A key that must be true or false.
    pub fn bool(&self, key: &str) -> Result<bool, GgufError> {
        self.required(key, "a bool", Value::as_bool)
    }

    /// A key that must be an array of strings.
    pub fn strings(&self, key: &str) -> Result<&Strings, GgufError> {
        self.required(key, "an array of strings", Value::as_strings)
    }

    /// `Ok(None)` for an absent key, else what `read` makes of it.
    pub fn optional<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        let Some(value) = self.metadata.get(key) else { return Ok(None) };
        let found = || GgufError::WrongType {
            path: self.path.clone(),
            key: key.to_owned(),
            found: value.describe(),
            expected,
        };
        read(value).map(Some).ok_or_else(found)
    }

    /// An error for an absent key, else what `read` makes of it.
    pub fn required<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<T, GgufError> {
        let missing = || GgufError::MissingKey { path: self.path.clone(), key: key.to_owned() };
        self.optional(key, expected, read)?.ok_or_else(missing)
    }
}

impl TensorType {
    /// From the number in the file.
    pub fn from_number(number: u32) -> Option<TensorType> {
        Some(match number {
            0 => TensorType::F32,
            1 => TensorType::F16,
            2 => TensorType::Q4_0,
            3 => TensorType::Q4_1,
            6 => TensorType::Q5_0,
            7 => TensorType::Q5_1,
            8 => TensorType::Q8_0,
            10 => TensorType::Q2K,
            11 => TensorType::Q3K,
            12 => TensorType::Q4K,
            13 => TensorType::Q5K,
            14 => TensorType::Q6K,
            15 => TensorType::Q8K,
            30 => TensorType::BF16,
            _ => return None,
        })
    }

    /// The number in the file.
    pub fn number(self) -> u32 {
        match self {
            TensorType::F32 => 0,
            TensorType::F16 => 1,
            TensorType::Q4_0 => 2,
            TensorType::Q4_1 => 3,
            TensorType::Q5_0 => 6,
            TensorType::Q5_1 => 7,
            TensorType::Q8_0 => 8,
            TensorType::Q2K => 10,
            TensorType::Q3K => 11,
            TensorType::Q4K => 12,
            TensorType::Q5K => 13,
            TensorType::Q6K => 14,
            TensorType::Q8K => 15,
            TensorType::BF16 => 30,
        }
    }

    /// Numbers in a block.
    pub fn block_len(self) -> usize {
        match self {
            TensorType::F32 | TensorType::F16 | TensorType::BF16 => 1,
            TensorType::Q4_0 | TensorType::Q4_1 | TensorType::Q5_0 | TensorType::Q5_1 | TensorType::Q8_0 => {
                32
            }
            _ => 256,
        }
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        match self {
            TensorType::F32 => 4,
            TensorType::F16 | TensorType::BF16 => 2,
            TensorType::Q4_0 => 2 + 16,
            TensorType::Q4_1 => 4 + 16,
            TensorType::Q5_0 => 2 + 4 + 16,
            TensorType::Q5_1 => 4 + 4 + 16,
            TensorType::Q8_0 => 2 + 32,
            TensorType::Q2K => 16 + 64 + 4,
            TensorType::Q3K => 32 + 64 + 12 + 2,
            TensorType::Q4K => 4 + 12 + 128,
            TensorType::Q5K => 4 + 12 + 32 + 128,
            TensorType::Q6K => 128 + 64 + 16 + 2,
            TensorType::Q8K => 4 + 256 + 32,
        }
    }
}

#[cfg(any(test, fuzzing))]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
