//! A base and new numbers for all its weights enter; a model folder leaves that this program and transformers load.
//! Matrices are written in the type they were trained in, vectors (norms, biases) in f32, as the engine holds them: the
//! folder gives the log-probs of the run, bit for bit.

use std::path::Path;

use super::error::InteropError;
use super::rounding::OutputType;
use super::{gguf_folder, merge};
use crate::hub::{ModelFiles, ModelLayout};
use crate::model::weights::Weights;
use crate::tokenizer::Tokenizer;

/// New numbers of a model's tensors.
#[derive(Clone, Copy)]
pub struct NewWeights<'a> {
    /// A tensor's numbers by its Hugging Face name; None for what is no weight of the language model.
    pub find: &'a dyn Fn(&str) -> Option<&'a [f32]>,
    /// Type of the matrices.
    pub matrices: OutputType,
}

impl NewWeights<'_> {
    /// The type that a tensor is written in.
    pub(super) fn dtype(&self, shape: &[usize]) -> OutputType {
        if shape.len() > 1 { self.matrices } else { OutputType::F32 }
    }
}

/// Writes the model as a folder, whole or not at all. Of a GGUF base, configuration and tokenizer are told from the file.
pub fn write_trained(
    new: NewWeights<'_>,
    weights: &Weights,
    files: &ModelFiles,
    tokenizer: &Tokenizer,
    out: &Path,
) -> Result<(), InteropError> {
    match &files.layout {
        ModelLayout::HuggingFace { .. } => merge::write_new(new, weights, files, out),
        ModelLayout::Gguf { .. } => gguf_folder::write_new(new, weights, tokenizer, out),
    }
}

/// Whether [`write_trained`] can write a folder for this base: asked before a run, not after it.
pub fn check_trained(
    weights: &Weights,
    files: &ModelFiles,
    tokenizer: &Tokenizer,
) -> Result<(), InteropError> {
    match &files.layout {
        ModelLayout::HuggingFace { .. } => Ok(()),
        ModelLayout::Gguf { .. } => gguf_folder::check(weights, tokenizer, OutputType::F32).map(drop),
    }
}
