//! What a user gave for an adapter enters (a path or the text form), an adapter of either kind leaves. Nothing here
//! loads a model.

use std::path::Path;

use super::file::{
    AdapterFile, AdapterFileError, BaseIdentity, RunMetadata, TEXT_PREFIX, read_bytes, text_bytes,
};
use super::layout;
use super::standalone::Standalone;

/// An adapter of either kind.
#[derive(Debug, Clone, PartialEq)]
pub enum AnyAdapter {
    /// v and what the rest follows from: seed, specification, base.
    Seeded(AdapterFile),
    /// With factors and projections of its own, from another program.
    Standalone(Standalone),
}

/// Reads an adapter from what a user gave: a path, or the text form with its prefix. A file may hold the text form
/// as well.
pub fn load(reference: &str) -> Result<AnyAdapter, AdapterFileError> {
    let (name, bytes) = if reference.trim_start().starts_with(TEXT_PREFIX) {
        text_bytes(reference)?
    } else {
        let bytes = read_bytes(Path::new(reference))?;
        match std::str::from_utf8(&bytes) {
            Ok(text) if text.trim_start().starts_with(TEXT_PREFIX) => {
                let (_, bytes) = text_bytes(text)?;
                (reference.to_owned(), bytes)
            }
            _ => (reference.to_owned(), bytes),
        }
    };
    AnyAdapter::from_bytes(&name, &bytes)
}

impl AnyAdapter {
    /// Reads the bytes of a file; `name` is what messages call it.
    pub fn from_bytes(name: &str, bytes: &[u8]) -> Result<Self, AdapterFileError> {
        if layout::is_standalone(bytes) {
            Ok(Self::Standalone(Standalone::from_bytes(name, bytes)?))
        } else {
            Ok(Self::Seeded(AdapterFile::from_bytes(name, bytes)?))
        }
    }

    /// The bytes of the file.
    pub fn to_bytes(&self) -> Result<Vec<u8>, AdapterFileError> {
        match self {
            Self::Seeded(file) => file.to_bytes(),
            Self::Standalone(adapter) => adapter.to_bytes(),
        }
    }

    /// The base that it belongs to.
    pub fn base(&self) -> &BaseIdentity {
        match self {
            Self::Seeded(file) => &file.base,
            Self::Standalone(adapter) => &adapter.base,
        }
    }

    /// How many numbers were trained; those of LoRA are its factors, and v is 1.
    pub fn trained_numbers(&self) -> usize {
        match self {
            Self::Seeded(file) => file.v.len(),
            Self::Standalone(adapter) => adapter.trained_numbers(),
        }
    }

    /// What is known of the run that trained it here.
    pub fn run(&self) -> Option<&RunMetadata> {
        match self {
            Self::Seeded(file) => Some(&file.run),
            Self::Standalone(adapter) => adapter.run.as_ref(),
        }
    }

    /// v: what R is made of.
    pub fn v(&self) -> &[f32] {
        match self {
            Self::Seeded(file) => &file.v,
            Self::Standalone(adapter) => &adapter.v,
        }
    }
}
