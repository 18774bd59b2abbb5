//! Factors enter, a file of the cache leaves, and back. A file is taken only if it is whole and was made from the
//! same weights by the same algorithm; any other is refused with a reason, never used.
//!
//! Layout, little-endian: 8 bytes `TLRAFACT`; u64 length of the whole file; u32 length of the key; the key, UTF-8;
//! for each module A (r, in) and B (out, r) in f32; 32 bytes sha256 of everything before.

use std::fs;
use std::io;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::factors::{Factors, ModuleFactors};
use super::spec::TinyLoraSpec;
use super::svd::ALGORITHM_VERSION;
use crate::atomic_file;
use crate::model::Frozen;
use crate::recipe::WeightDtype;

const MAGIC: [u8; 8] = *b"TLRAFACT";
const FRAME_BYTES: usize = 20;
const HASH_BYTES: usize = 32;

/// What factors depend on, besides the specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FactorKey {
    /// sha256 of the base's weights.
    pub weights_sha256: [u8; 32],
    /// Precision in which they are held.
    pub dtype: WeightDtype,
}

impl FactorKey {
    /// Everything that the factors depend on, as text. A GPU's products round otherwise than the host's: each has its own file,
    /// so that what one computes doesn't depend on what the other did before.
    pub(super) fn text(&self, spec: &TinyLoraSpec, on_gpu: bool) -> String {
        let targets: Vec<&str> = spec.targets.iter().map(|target| target.name()).collect();
        let dtype = match self.dtype {
            WeightDtype::Bf16 => "bf16",
            WeightDtype::F32 => "f32",
        };
        format!(
            "algorithm {ALGORITHM_VERSION}\nweights {}\ndtype {dtype}\nrank {}\nlayers {}\ntargets {}\n{}",
            hex(&self.weights_sha256),
            spec.rank,
            spec.layers,
            targets.join(","),
            if on_gpu { "products cuda\n" } else { "" }
        )
    }
}

/// The name of the file for a key's text.
pub(super) fn file_name(key: &str) -> String {
    format!("factors-{}.bin", hex(&Sha256::digest(key)[..12]))
}

/// Reads a file: None if there is none, an error with the reason if it cannot be used.
pub(super) fn read(
    path: &Path,
    key: &str,
    rank: usize,
    weights: &[Frozen<'_>],
) -> Result<Option<Factors>, String> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        // A file in the folder's place: writing will say so.
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(None),
        Err(error) => return Err(format!("it cannot be read: {error}")),
    };
    let floats: usize = weights.iter().map(|weight| rank * (weight.rows() + weight.columns())).sum();
    let expected = FRAME_BYTES + key.len() + 4 * floats + HASH_BYTES;
    if !bytes.starts_with(&MAGIC) {
        return Err("it is no factor file".to_owned());
    }
    if bytes.len() != expected {
        return Err(format!("it has {} bytes instead of {expected}", bytes.len()));
    }
    let (content, stored) = bytes.split_at(expected - HASH_BYTES);
    if Sha256::digest(content).as_slice() != stored {
        return Err("its hash does not fit its content".to_owned());
    }
    if content[8..FRAME_BYTES] != frame(expected, key)[8..]
        || &content[FRAME_BYTES..FRAME_BYTES + key.len()] != key.as_bytes()
    {
        return Err("it was made for other weights or another specification".to_owned());
    }
    let mut rest = &content[FRAME_BYTES + key.len()..];
    let mut take = |count: usize| -> Vec<f32> {
        let (taken, left) = rest.split_at(4 * count);
        rest = left;
        taken.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    };
    let modules = weights
        .iter()
        .map(|weight| ModuleFactors { a: take(rank * weight.columns()), b: take(rank * weight.rows()) })
        .collect();
    Ok(Some(Factors { rank, modules }))
}

/// Writes a file, whole or not at all; the folder is made if needed.
pub(super) fn write(path: &Path, key: &str, factors: &Factors) -> Result<(), String> {
    let floats: usize = factors.modules.iter().map(|module| module.a.len() + module.b.len()).sum();
    let length = FRAME_BYTES + key.len() + 4 * floats + HASH_BYTES;
    let mut bytes = Vec::with_capacity(length);
    bytes.extend(frame(length, key));
    bytes.extend(key.as_bytes());
    for module in &factors.modules {
        for value in module.a.iter().chain(&module.b) {
            bytes.extend(value.to_le_bytes());
        }
    }
    let hash = Sha256::digest(&bytes);
    bytes.extend(hash.as_slice());
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
    }
    atomic_file::write(path, &bytes).map_err(|error| error.to_string())
}

/// Magic, length of the file, length of the key.
fn frame(length: usize, key: &str) -> Vec<u8> {
    let mut frame = MAGIC.to_vec();
    frame.extend((length as u64).to_le_bytes());
    frame.extend((key.len() as u32).to_le_bytes());
    frame
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
