//! Weight files enter, rows of f32 leave: safetensors (one file or shards; f32, f16, bf16) or GGUF (those and the
//! quantised types of [`crate::gguf::TensorType`]), mapped into memory and decoded when read.
//!
//! Every tensor goes by its Hugging Face name and has the shape (out, in), and its rows come in the order of
//! Hugging Face, whatever the file's own names and order are. Opening checks that the family's tensors are all
//! there, with their shapes, and that no tensor is there that the forward pass would ignore. Nothing here computes
//! with weights, and nothing writes.

mod blocks;
pub(crate) mod decode;
pub(crate) mod names;
pub(crate) mod safetensors;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use sha2::{Digest, Sha256};

use super::config::{ConfigError, ModelConfig, count_parameters};
use crate::gguf::{GgufError, GgufMetadata, Header, TensorType};
use crate::hub::{ModelFiles, ModelLayout};

pub use super::config::expected_tensors;
pub use safetensors::Problem as SafetensorsProblem;

/// The open weights of a model. Reading needs only `&self` and works from several threads.
pub struct Weights {
    config: ModelConfig,
    files: Vec<MappedFile>,
    tensors: BTreeMap<String, Tensor>,
    gguf: Option<GgufMetadata>,
}

/// Why weights could not be opened or read.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum WeightsError {
    #[error("{}: cannot read the file: {source}", file.display())]
    Io { file: PathBuf, source: std::io::Error },
    #[error("{reference}: the model has no weight files")]
    NoFiles { reference: String },
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Gguf(#[from] GgufError),
    #[error("{}: not a usable safetensors file: {problem}", file.display())]
    Safetensors { file: PathBuf, problem: SafetensorsProblem },
    #[error(
        "{}: the tensor `{tensor}`, of shape {shape:?}, is missing; the files are incomplete or the configuration \
         is that of another model", file.display()
    )]
    MissingTensor { file: PathBuf, tensor: String, shape: Vec<usize> },
    #[error("{}: the tensor `{tensor}` has the shape {found:?}, but the configuration asks for {expected:?}", file.display())]
    Shape { file: PathBuf, tensor: String, found: Vec<usize>, expected: Vec<usize> },
    #[error("{}: the tensor `{tensor}` is stored as {found}; supported are F32, F16 and BF16", file.display())]
    StorageType { file: PathBuf, tensor: String, found: String },
    #[error(
        "{}: the tensor `{tensor}`, of shape {shape:?}, is unknown to this model family; without it the model \
         would give other results", file.display()
    )]
    UnexpectedTensor { file: PathBuf, tensor: String, shape: Vec<usize> },
    #[error("the tensor `{tensor}` is in {} and again in {}", first.display(), second.display())]
    DuplicateTensor { tensor: String, first: PathBuf, second: PathBuf },
    #[error("the model has no tensor `{tensor}`")]
    NoSuchTensor { tensor: String },
    #[error(
        "tensor `{tensor}`: {count} numbers from row {first_row} were asked for, but it has {rows} rows of {row_len}"
    )]
    Rows { tensor: String, first_row: usize, count: usize, rows: usize, row_len: usize },
    #[error("tensor `{tensor}`: decoding {dtype:?} failed: {reason}")]
    Decode { tensor: String, dtype: TensorType, reason: String },
}

/// One tensor's place and form. `shape` has one or two sizes.
#[derive(Debug, Clone)]
struct Tensor {
    file: usize,
    offset: usize,
    bytes: usize,
    shape: Vec<usize>,
    dtype: TensorType,
    rows: RowOrder,
    /// The file has 1 added to the weights of norms; it is taken off.
    minus_one: bool,
}

/// How the rows in the file relate to those that leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RowOrder {
    /// The same.
    Straight,
    /// Within each head, the file alternates rows of its first and its second half: the pairs that rope turns
    /// together are neighbours.
    Interleaved { head_dim: usize },
}

struct MappedFile {
    path: PathBuf,
    /// None for an empty file.
    map: Option<Mmap>,
}

impl Weights {
    /// Map the files and check them against the configuration.
    pub fn open(files: &ModelFiles) -> Result<Weights, WeightsError> {
        match &files.layout {
            ModelLayout::HuggingFace { weights, .. } if weights.is_empty() => {
                Err(WeightsError::NoFiles { reference: files.reference.clone() })
            }
            ModelLayout::HuggingFace { config, weights, .. } => open_safetensors(config, weights),
            ModelLayout::Gguf { path } => open_gguf(path),
        }
    }

    /// The model's configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Shape of a tensor, (out, in) or (n).
    pub fn shape(&self, name: &str) -> Result<&[usize], WeightsError> {
        Ok(&self.tensor(name)?.shape)
    }

    /// Whether the model has the tensor. A head that is the embedding matrix is no tensor of its own.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Decode rows to f32 in f32 arithmetic, `out.len() / row length` of them. A one-dimensional tensor is one row.
    pub fn read_rows(&self, name: &str, first_row: usize, out: &mut [f32]) -> Result<(), WeightsError> {
        let tensor = self.tensor(name)?;
        let (rows, row_len) = match tensor.shape[..] {
            [rows, row_len] => (rows, row_len),
            _ => (1, tensor.shape.iter().product()),
        };
        let count = out.len() / row_len;
        if !out.len().is_multiple_of(row_len) || first_row.checked_add(count).is_none_or(|end| end > rows) {
            let (tensor, count) = (name.to_owned(), out.len());
            return Err(WeightsError::Rows { tensor, first_row, count, rows, row_len });
        }
        let bytes = &self.files[tensor.file].bytes()[tensor.offset..tensor.offset + tensor.bytes];
        let row_bytes = tensor.bytes / rows;
        let decode = |first: usize, out: &mut [f32]| {
            let rows = &bytes[first * row_bytes..][..out.len() / row_len * row_bytes];
            decode::decode(tensor.dtype, rows, out).map_err(|reason| WeightsError::Decode {
                tensor: name.to_owned(),
                dtype: tensor.dtype,
                reason,
            })
        };
        match tensor.rows {
            RowOrder::Straight => decode(first_row, out)?,
            RowOrder::Interleaved { head_dim } => {
                for (row, out) in (first_row..).zip(out.chunks_exact_mut(row_len)) {
                    decode(names::interleaved_row(row, head_dim), out)?;
                }
            }
        }
        if tensor.minus_one {
            out.iter_mut().for_each(|x| *x -= 1.0);
        }
        Ok(())
    }

    /// SHA-256 in hex that identifies the weights: of the file, or, for several files, of their digests (32 bytes
    /// each) one after the other, in the order of the files. Reads every byte.
    pub fn sha256(&self) -> Result<String, WeightsError> {
        let half = self.files.len().div_ceil(2);
        let (left, right) = self.files.split_at(half);
        let digests = std::thread::scope(|scope| {
            let other = scope.spawn(|| digests(right));
            let mut all = digests(left)?;
            all.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
            Ok::<_, WeightsError>(all)
        })?;
        let digest: [u8; 32] = match digests[..] {
            [one] => one,
            _ => Sha256::digest(digests.concat()).into(),
        };
        Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// How the tensors are stored: each type with its number of tensors and its bytes, the largest share first.
    pub fn stored_types(&self) -> Vec<(TensorType, usize, u64)> {
        let mut types: Vec<(TensorType, usize, u64)> = Vec::new();
        for tensor in self.tensors.values() {
            let bytes = tensor.bytes as u64;
            match types.iter_mut().find(|(dtype, ..)| *dtype == tensor.dtype) {
                Some((_, tensors, sum)) => (*tensors, *sum) = (*tensors + 1, *sum + bytes),
                None => types.push((tensor.dtype, 1, bytes)),
            }
        }
        types.sort_by_key(|(.., bytes)| std::cmp::Reverse(*bytes));
        types
    }

    /// The metadata, if the model is a GGUF file.
    pub fn gguf_metadata(&self) -> Option<&GgufMetadata> {
        self.gguf.as_ref()
    }

    /// The files as they are, in their order.
    pub(crate) fn mapped(&self) -> impl Iterator<Item = (&Path, &[u8])> {
        self.files.iter().map(|file| (file.path.as_path(), file.bytes()))
    }

    fn tensor(&self, name: &str) -> Result<&Tensor, WeightsError> {
        self.tensors.get(name).ok_or_else(|| WeightsError::NoSuchTensor { tensor: name.to_owned() })
    }
}

impl fmt::Debug for Weights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let files: Vec<&Path> = self.files.iter().map(|file| file.path.as_path()).collect();
        f.debug_struct("Weights").field("files", &files).field("tensors", &self.tensors.len()).finish()
    }
}

impl MappedFile {
    fn open(path: &Path) -> Result<MappedFile, WeightsError> {
        let io = |source| WeightsError::Io { file: path.to_owned(), source };
        let file = std::fs::File::open(path).map_err(io)?;
        if file.metadata().map_err(io)?.len() == 0 {
            return Ok(MappedFile { path: path.to_owned(), map: None });
        }
        // SAFETY: the map is read-only. A file that another process cuts while it is mapped could end this process
        // by SIGBUS and one that is written to could change values; weights are not written in place, and no
        // soundness depends on their values.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        Ok(MappedFile { path: path.to_owned(), map: Some(map) })
    }

    fn bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }
}

/// Read by ordinary reads, so that the pages of large models do not count as this process's memory.
fn digests(files: &[MappedFile]) -> Result<Vec<[u8; 32]>, WeightsError> {
    let digest = |file: &MappedFile| {
        let io = |source| WeightsError::Io { file: file.path.clone(), source };
        let mut reader = std::fs::File::open(&file.path).map_err(io)?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        loop {
            match std::io::Read::read(&mut reader, &mut buffer).map_err(io)? {
                0 => return Ok(hash.finalize().into()),
                count => hash.update(&buffer[..count]),
            }
        }
    };
    files.iter().map(digest).collect()
}

/// A tensor as a file lists it, under the name that it leaves with.
struct Found {
    tensor: Tensor,
    name_in_file: String,
    /// How it is stored, if that cannot be read.
    unreadable: Option<String>,
}

fn open_safetensors(config_file: &Path, paths: &[PathBuf]) -> Result<Weights, WeightsError> {
    let mut config = ModelConfig::from_config_file(config_file)?;
    let files = paths.iter().map(|path| MappedFile::open(path)).collect::<Result<Vec<_>, _>>()?;
    let mut found = BTreeMap::new();
    for (number, file) in files.iter().enumerate() {
        let entries = safetensors::header(file.bytes())
            .map_err(|problem| WeightsError::Safetensors { file: file.path.clone(), problem })?;
        for entry in entries {
            let Some(name) = names::from_safetensors(&entry.name, config.family) else { continue };
            let dtype = entry.dtype.readable();
            let tensor = Tensor {
                file: number,
                offset: entry.offset,
                bytes: entry.bytes,
                shape: entry.shape,
                dtype: dtype.unwrap_or(TensorType::F32),
                rows: RowOrder::Straight,
                minus_one: false,
            };
            let unreadable = dtype.is_none().then(|| format!("{:?}", entry.dtype));
            let new = Found { tensor, name_in_file: entry.name, unreadable };
            if let Some(before) = found.insert(name.clone(), new) {
                let first = files[before.tensor.file].path.clone();
                return Err(WeightsError::DuplicateTensor { tensor: name, first, second: file.path.clone() });
            }
        }
    }
    untie_if_different(&mut config, &files, &mut found);
    let tensors = check(&config, &files, found)?;
    Ok(Weights { config, files, tensors, gguf: None })
}

/// As transformers does: a head that is stored besides the embedding matrix it is tied to counts only if it differs.
fn untie_if_different(config: &mut ModelConfig, files: &[MappedFile], found: &mut BTreeMap<String, Found>) {
    if !config.tied_head {
        return;
    }
    let (Some(head), Some(embedding)) = (found.get("lm_head.weight"), found.get("model.embed_tokens.weight"))
    else {
        return;
    };
    let bytes = |tensor: &Tensor| &files[tensor.file].bytes()[tensor.offset..tensor.offset + tensor.bytes];
    let same = head.tensor.dtype == embedding.tensor.dtype && bytes(&head.tensor) == bytes(&embedding.tensor);
    if same {
        found.remove("lm_head.weight");
    } else {
        config.tied_head = false;
        config.parameters = count_parameters(config);
    }
}

fn open_gguf(path: &Path) -> Result<Weights, WeightsError> {
    let file = MappedFile::open(path)?;
    let header = Header::parse(path, file.bytes())?;
    let config = ModelConfig::from_gguf(&header, rope_factors(&header, &file)?.as_deref())?;
    // Offsets fit: the parser has checked them against the length of what is mapped.
    let mut by_name: BTreeMap<&str, Tensor> = BTreeMap::new();
    for info in &header.tensors {
        let tensor = Tensor {
            file: 0,
            offset: info.offset as usize,
            bytes: info.bytes as usize,
            shape: info.shape.clone(),
            dtype: info.dtype,
            rows: RowOrder::Straight,
            minus_one: false,
        };
        by_name.insert(&info.name, tensor);
    }
    let mut found = BTreeMap::new();
    for (name, _) in expected_tensors(&config) {
        let name_in_file = names::to_gguf(&name, config.family);
        if let Some(mut tensor) = by_name.remove(name_in_file.as_str()) {
            tensor.rows = names::gguf_row_order(&name, &config);
            tensor.minus_one = config.norm_plus_one && name.ends_with("norm.weight");
            found.insert(name, Found { tensor, name_in_file, unreadable: None });
        }
    }
    for (name, tensor) in by_name {
        if !names::gguf_ignores(name) {
            found.insert(name.to_owned(), Found { tensor, name_in_file: name.to_owned(), unreadable: None });
        }
    }
    let files = vec![file];
    let tensors = check(&config, &files, found)?;
    Ok(Weights { config, files, tensors, gguf: Some(header.metadata) })
}

/// The divisors of the rope frequencies (Llama 3.1 and later), which GGUF stores as a tensor.
fn rope_factors(header: &Header, file: &MappedFile) -> Result<Option<Vec<f32>>, WeightsError> {
    let Some(info) = header.tensors.iter().find(|tensor| tensor.name == names::ROPE_FACTORS) else {
        return Ok(None);
    };
    // A few dozen numbers; a tensor that is far larger is refused before memory is taken for it.
    let count: usize = info.shape.iter().product();
    if info.shape.len() != 1 || count > 1 << 16 {
        let (tensor, found) = (info.name.clone(), info.shape.clone());
        let file = file.path.clone();
        return Err(WeightsError::UnexpectedTensor { file, tensor, shape: found });
    }
    let mut factors = vec![0.0; count];
    let bytes = &file.bytes()[info.offset as usize..][..info.bytes as usize];
    decode::decode(info.dtype, bytes, &mut factors).map_err(|reason| WeightsError::Decode {
        tensor: info.name.clone(),
        dtype: info.dtype,
        reason,
    })?;
    Ok(Some(factors))
}

/// All expected tensors are there, with their shapes, and no other.
fn check(
    config: &ModelConfig,
    files: &[MappedFile],
    mut found: BTreeMap<String, Found>,
) -> Result<BTreeMap<String, Tensor>, WeightsError> {
    let mut tensors = BTreeMap::new();
    for (name, expected) in expected_tensors(config) {
        let Some(Found { tensor, name_in_file, unreadable }) = found.remove(&name) else {
            return Err(WeightsError::MissingTensor {
                file: folder_or_file(files),
                tensor: name,
                shape: expected,
            });
        };
        let file = || files[tensor.file].path.clone();
        if tensor.shape != expected {
            let found = tensor.shape.clone();
            return Err(WeightsError::Shape { file: file(), tensor: name_in_file, found, expected });
        }
        if let Some(found) = unreadable {
            return Err(WeightsError::StorageType { file: file(), tensor: name_in_file, found });
        }
        tensors.insert(name, tensor);
    }
    match found.into_values().next() {
        None => Ok(tensors),
        Some(Found { tensor, name_in_file, .. }) => Err(WeightsError::UnexpectedTensor {
            file: files[tensor.file].path.clone(),
            tensor: name_in_file,
            shape: tensor.shape,
        }),
    }
}

/// What to name when a tensor is in none of the files.
fn folder_or_file(files: &[MappedFile]) -> PathBuf {
    match files {
        [one] => one.path.clone(),
        several => several.first().and_then(|file| file.path.parent()).unwrap_or(Path::new("")).to_owned(),
    }
}

#[cfg(test)]
mod tests;
