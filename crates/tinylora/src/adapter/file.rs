//! An adapter enters, a file of under 1 KB leaves, and back. A file is taken only when it is whole, its hash
//! holds and every field makes sense; whether it fits a base model is asked with [`AdapterFile::check_base`]
//! and [`AdapterFile::check_factors`]. Nothing here loads a model. The layout, byte by byte, is in
//! `docs/adapter-format.md`.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::fingerprint::{FactorSketch, FactorSketches, module_name};
use super::layout;
use super::spec::{Target, TinyLoraSpec};
use crate::atomic_file::{self, AtomicFileError};
use crate::model::config::{Family, ModelConfig};
use crate::recipe::WeightDtype;

/// First eight bytes of every file.
pub const MAGIC: [u8; 8] = *b"TINYLORA";
/// The version that this program writes, and the newest that it reads.
pub const FORMAT_VERSION: u16 = 1;
/// How the text form begins.
pub const TEXT_PREFIX: &str = "tinylora:";

/// An adapter without factors of its own is small; a file above this that is none of the other kind is something
/// else and is not read into memory.
const LARGEST_SEEDED: u64 = 64 << 20;

/// Why an adapter file was refused.
#[derive(Debug, thiserror::Error)]
pub enum AdapterFileError {
    /// Not an adapter file at all.
    #[error("{name} is no adapter file: it begins with {found:?} instead of \"TINYLORA\"")]
    WrongMagic {
        /// File or text.
        name: String,
        /// Its first bytes.
        found: String,
    },
    /// Written by a newer program.
    #[error("{name} has format version {found}, this program reads up to {FORMAT_VERSION}: update tinylora")]
    FutureVersion {
        /// File or text.
        name: String,
        /// Its version.
        found: u16,
    },
    /// Fewer bytes than the file says it has.
    #[error("{name} was cut short: it has {found} of {expected} bytes; copy it again from where it came")]
    Truncated {
        /// File or text.
        name: String,
        /// Bytes there are.
        found: usize,
        /// Bytes there should be.
        expected: usize,
    },
    /// More bytes than the file says it has.
    #[error(
        "{name} has {extra} bytes after its end (it should be {expected} bytes long); copy it again from where it came"
    )]
    TrailingBytes {
        /// File or text.
        name: String,
        /// Bytes too many.
        extra: usize,
        /// Bytes there should be.
        expected: usize,
    },
    /// The content was changed.
    #[error(
        "{name} was altered: the sha256 in it is {expected}…, that of its content {found}…; copy it again from where it came"
    )]
    HashMismatch {
        /// File or text.
        name: String,
        /// First bytes of the stored hash.
        expected: String,
        /// First bytes of the computed hash.
        found: String,
    },
    /// A field holds what no adapter has.
    #[error("{name}: {field} is {found}; {wanted}")]
    BadField {
        /// File or text.
        name: String,
        /// Which field.
        field: &'static str,
        /// What it holds.
        found: String,
        /// What it may hold.
        wanted: String,
    },
    /// The text form has a character that base64url has not.
    #[error("{name} is no adapter text: {reason}; it must be \"tinylora:\" followed by base64url")]
    BadText {
        /// The beginning of the text.
        name: String,
        /// What the decoder said.
        reason: String,
    },
    /// Something does not fit the format's fields.
    #[error("the adapter cannot be written: {field} is {found}, the format holds at most {limit}")]
    TooLarge {
        /// Which field.
        field: &'static str,
        /// Its value.
        found: usize,
        /// The largest value.
        limit: usize,
    },
    /// The file was made for another base.
    #[error(
        "{name} was trained on {expected}, but the model at hand is {found}: load it with its own base model"
    )]
    OtherBase {
        /// File or text.
        name: String,
        /// The base in the file.
        expected: String,
        /// The base at hand.
        found: String,
    },
    /// The base is right, its factors aren't.
    #[error(
        "{name}: the factors of {module} differ from those it was trained with: {what} {expected} in the file, {found} here; the adapter would be applied along other directions (it was trained with the weights held in {dtype}; use the same model.dtype)"
    )]
    OtherFactors {
        /// File or text.
        name: String,
        /// The module.
        module: String,
        /// Which number.
        what: &'static str,
        /// In the file.
        expected: f32,
        /// At hand.
        found: f32,
        /// Precision of the weights in training.
        dtype: &'static str,
    },
    /// The file could not be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file could not be written.
    #[error(transparent)]
    Write(#[from] AtomicFileError),
}

/// Which base model an adapter belongs to.
#[derive(Debug, Clone, PartialEq)]
pub struct BaseIdentity {
    /// The reference by which the model was loaded, for people; two references may name the same weights.
    pub reference: String,
    /// sha256 of the weights.
    pub sha256: [u8; 32],
    /// Family.
    pub family: Family,
    /// Precision in which the matrices were held; for people, as the factors are checked by themselves.
    pub dtype: WeightDtype,
    /// Number of parameters.
    pub parameters: u64,
    /// D
    pub hidden_size: u32,
    /// F
    pub intermediate_size: u32,
    /// Blocks.
    pub num_layers: u32,
    /// Query heads.
    pub num_heads: u32,
    /// Key/value heads.
    pub num_kv_heads: u32,
    /// Size of one head.
    pub head_dim: u32,
    /// V
    pub vocab_size: u32,
}

impl BaseIdentity {
    /// The identity of a loaded model.
    pub fn new(reference: &str, sha256: [u8; 32], dtype: WeightDtype, config: &ModelConfig) -> Self {
        Self {
            reference: reference.to_owned(),
            sha256,
            family: config.family,
            dtype,
            parameters: config.parameters,
            hidden_size: config.hidden_size as u32,
            intermediate_size: config.intermediate_size as u32,
            num_layers: config.num_layers as u32,
            num_heads: config.num_heads as u32,
            num_kv_heads: config.num_kv_heads as u32,
            head_dim: config.head_dim as u32,
            vocab_size: config.vocab_size as u32,
        }
    }

    /// An error unless `found` has the same weights, family and sizes; `name` is the adapter's. The reference
    /// and the precision in memory may differ.
    pub fn check(&self, name: &str, found: &Self) -> Result<(), AdapterFileError> {
        if self.essence() == found.essence() {
            return Ok(());
        }
        let (expected, found) = (self.describe(), found.describe());
        Err(AdapterFileError::OtherBase { name: name.to_owned(), expected, found })
    }

    /// (outputs, inputs) of a linear layer.
    pub fn shape(&self, target: Target) -> (usize, usize) {
        let size = |x: u32| x as usize;
        let (q, k) = (self.num_heads, self.num_kv_heads);
        let [q, k] = [q, k].map(|heads| size(heads).saturating_mul(size(self.head_dim)));
        target.shape_of(size(self.hidden_size), size(self.intermediate_size), q, k)
    }

    /// Everything that must agree for an adapter to fit.
    fn essence(&self) -> impl PartialEq + use<> {
        let Self { sha256, family, parameters, hidden_size, intermediate_size, num_layers, .. } = *self;
        let heads = (self.num_heads, self.num_kv_heads, self.head_dim);
        (sha256, family, parameters, hidden_size, intermediate_size, num_layers, heads, self.vocab_size)
    }

    pub(super) fn describe(&self) -> String {
        format!(
            "{} ({:?}, {} parameters, {} layers of {}, weights sha256 {}…)",
            self.reference,
            self.family,
            self.parameters,
            self.num_layers,
            self.hidden_size,
            hex(&self.sha256[..8])
        )
    }
}

/// Where an adapter comes from, for people.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RunMetadata {
    /// Name of the run.
    pub name: String,
    /// Name of the task.
    pub task: String,
    /// Optimizer steps behind it.
    pub steps: u64,
    /// Seed of the run.
    pub seed: u64,
    /// Version of the program.
    pub version: String,
}

/// A whole adapter as the file holds it.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterFile {
    /// What the adapter is.
    pub spec: TinyLoraSpec,
    /// (G · u), rounded to the storage precision.
    pub v: Vec<f32>,
    /// The base it belongs to.
    pub base: BaseIdentity,
    /// What is kept of the factors.
    pub factors: FactorSketches,
    /// Where it comes from.
    pub run: RunMetadata,
}

impl AdapterFile {
    /// The bytes of the file. v is rounded to the storage precision if it isn't yet.
    ///
    /// Panics if v or the sketches have not the sizes that the specification gives.
    pub fn to_bytes(&self) -> Result<Vec<u8>, AdapterFileError> {
        layout::encode(self)
    }

    /// Reads the bytes of a file; `name` is what messages call it.
    pub fn from_bytes(name: &str, bytes: &[u8]) -> Result<Self, AdapterFileError> {
        layout::decode(name, bytes)
    }

    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, AdapterFileError> {
        Self::from_bytes(&path.display().to_string(), &read_bytes(path)?)
    }

    /// Writes a file, whole or not at all.
    pub fn write(&self, path: &Path) -> Result<(), AdapterFileError> {
        Ok(atomic_file::write(path, &self.to_bytes()?)?)
    }

    /// The whole file as one line of text: `tinylora:` and base64url without padding.
    pub fn to_text(&self) -> Result<String, AdapterFileError> {
        Ok(format!("{TEXT_PREFIX}{}", URL_SAFE_NO_PAD.encode(self.to_bytes()?)))
    }

    /// An error unless the adapter was trained on this base: same weights, family and sizes. The reference
    /// and the precision in memory may differ.
    pub fn check_base(&self, name: &str, base: &BaseIdentity) -> Result<(), AdapterFileError> {
        self.base.check(name, base)
    }

    /// An error unless the factors at hand, sketched module by module, are those of training.
    pub fn check_factors(&self, name: &str, all: &[FactorSketch]) -> Result<(), AdapterFileError> {
        self.factors.compare(all).map_err(|mismatch| AdapterFileError::OtherFactors {
            name: name.to_owned(),
            module: module_name(self.spec.modules(), mismatch.module),
            what: mismatch.what,
            expected: mismatch.expected,
            found: mismatch.found,
            dtype: match self.base.dtype {
                WeightDtype::Bf16 => "bf16",
                WeightDtype::F32 => "f32",
            },
        })
    }
}

/// The bytes of a file, if it can be an adapter's: only a standalone adapter may be large.
pub(super) fn read_bytes(path: &Path) -> Result<Vec<u8>, AdapterFileError> {
    let read = |source| AdapterFileError::Read { path: path.into(), source };
    let mut file = std::fs::File::open(path).map_err(read)?;
    let size = file.metadata().map_err(read)?.len();
    let mut bytes = vec![0; size.min(layout::FRAME_BYTES as u64) as usize];
    file.read_exact(&mut bytes).map_err(read)?;
    let limit = if layout::is_standalone(&bytes) { u64::from(u32::MAX) } else { LARGEST_SEEDED };
    if size > limit {
        return Err(AdapterFileError::BadField {
            name: path.display().to_string(),
            field: "size",
            found: format!("{size} bytes"),
            wanted: format!("adapter files of this kind have at most {limit}"),
        });
    }
    file.read_to_end(&mut bytes).map_err(read)?;
    Ok(bytes)
}

/// The bytes in the text form; white space around it and line breaks in it are skipped. Also what messages call it.
pub(super) fn text_bytes(text: &str) -> Result<(String, Vec<u8>), AdapterFileError> {
    let compact: String = text.split_ascii_whitespace().collect();
    let name = format!("adapter text \"{}\"", shorten(&compact));
    let bad = |reason: String| AdapterFileError::BadText { name: name.clone(), reason };
    let body = compact.strip_prefix(TEXT_PREFIX).ok_or_else(|| bad("the prefix is missing".into()))?;
    let bytes = URL_SAFE_NO_PAD.decode(body).map_err(|error| bad(error.to_string()))?;
    Ok((name, bytes))
}

/// The first part of a hash, for messages.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn shorten(text: &str) -> String {
    let mut short: String = text.chars().take(24).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

#[cfg(test)]
#[path = "file_tests.rs"]
pub(super) mod tests;
