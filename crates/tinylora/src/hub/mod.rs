//! A model reference enters, files on disk leave; nothing here reads weights.

use std::path::PathBuf;

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
