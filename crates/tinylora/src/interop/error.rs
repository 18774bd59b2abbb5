//! Why an adapter can't be taken in or given out.

use std::path::PathBuf;

use crate::adapter::{AdapterError, AdapterFileError};
use crate::model::weights::{SafetensorsProblem, WeightsError};

/// Why an adapter can't be taken in or given out. Each message names the file, the key or tensor and the numbers.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum InteropError {
    #[error("{}: cannot {action}: {source}", path.display())]
    Io { path: PathBuf, action: &'static str, source: std::io::Error },
    #[error(
        "{}: this is no folder of a PEFT adapter: {reason}; give the folder that holds adapter_config.json and \
         adapter_model.safetensors", folder.display()
    )]
    NotAnAdapter { folder: PathBuf, reason: String },
    #[error("{}: not JSON: {reason}", file.display())]
    Json { file: PathBuf, reason: String },
    #[error("{}: `{key}` is {found}; {wanted}", file.display())]
    Setting { file: PathBuf, key: String, found: String, wanted: String },
    #[error("{}: not a usable safetensors file: {problem}", file.display())]
    Safetensors { file: PathBuf, problem: SafetensorsProblem },
    #[error("{}: the tensor `{tensor}`, of shape {shape:?}, is missing: {reason}", file.display())]
    MissingTensor { file: PathBuf, tensor: String, shape: Vec<usize>, reason: String },
    #[error("{}: the tensor `{tensor}` has the shape {found:?}, but {expected}", file.display())]
    Shape { file: PathBuf, tensor: String, found: Vec<usize>, expected: String },
    #[error("{}: the tensor `{tensor}` is stored as {found}; supported are F32, F16 and BF16", file.display())]
    StorageType { file: PathBuf, tensor: String, found: String },
    #[error("{}: the tensor `{tensor}`, of shape {shape:?}, can't be taken over: {reason}", file.display())]
    UnexpectedTensor { file: PathBuf, tensor: String, shape: Vec<usize>, reason: String },
    #[error("{}: the tensor `{tensor}` holds {value} at index {index}; the file is damaged", file.display())]
    NotFinite { file: PathBuf, tensor: String, index: usize, value: f32 },
    #[error("{}: cannot write it there: {reason}", path.display())]
    Taken { path: PathBuf, reason: String },
    #[error("rank {wanted} is too small: the adapter has rank {rank}; give --rank {rank} or more")]
    RankTooSmall { wanted: usize, rank: usize },
    #[error("{what} cannot be written as {wanted}; {instead}")]
    OutputType { what: String, wanted: &'static str, instead: &'static str },
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    #[error(transparent)]
    AdapterFile(#[from] AdapterFileError),
    #[error(transparent)]
    Weights(#[from] WeightsError),
    #[error(transparent)]
    Tokenizer(#[from] crate::tokenizer::TokenizerError),
}

/// For `map_err`: a failed action on a path.
pub(super) fn io(path: &std::path::Path, action: &'static str) -> impl Fn(std::io::Error) -> InteropError {
    move |source| InteropError::Io { path: path.to_owned(), action, source }
}
