//! A standalone adapter enters, a LoRA leaves as llama.cpp reads it: one GGUF file with `blk.N.NAME.weight.lora_a`
//! (r, in) and `….lora_b` (out, r), and alpha = r, so that the scaling is 1.
//!
//! llama.cpp's Llama architecture has the rows of q and k in another order than `config.json` models; the rows of
//! their B are put into it.

use std::collections::BTreeMap;
use std::path::Path;

use super::delta::deltas;
use super::error::InteropError;
use super::export_lora::checked_rank;
use super::gguf_out::{self, GgufTensor};
use super::import::widened;
use super::peft_config::module_name;
use super::staged::Staged;
use crate::adapter::{Standalone, Target};
use crate::gguf::{TensorType, Value};
use crate::model::config::Family;
use crate::model::weights::names::{interleaved_row, to_gguf};

/// Writes a file with a LoRA of rank `rank` (None: the adapter's own), filled up with zeros, in f32.
pub fn export_gguf_lora(adapter: &Standalone, rank: Option<usize>, path: &Path) -> Result<(), InteropError> {
    let own = adapter.rank();
    let rank = checked_rank(own, rank)?;
    let family = adapter.base.family;
    let mut tensors = Vec::new();
    let mut values: Vec<Vec<f32>> = Vec::new();
    for delta in deltas(adapter)? {
        let (n, k) = adapter.base.shape(delta.module.target);
        let name = to_gguf(&format!("{}.weight", module_name(delta.module)), family);
        let mut a = delta.a.to_vec();
        a.resize(rank * k, 0.0);
        let mut b = widened(&delta.br, own, rank);
        if is_interleaved(family, delta.module.target) {
            b = interleave(&b, adapter.base.head_dim as usize, rank);
        }
        let tensor = |part: &str, shape: [usize; 2]| GgufTensor {
            name: format!("{name}.{part}"),
            shape: shape.to_vec(),
            dtype: TensorType::F32,
        };
        tensors.extend([tensor("lora_a", [rank, k]), tensor("lora_b", [n, rank])]);
        values.extend([a, b]);
    }
    let text = |text: &str| Value::String(text.to_owned());
    let metadata = BTreeMap::from([
        ("general.architecture".to_owned(), text(architecture(family))),
        ("general.type".to_owned(), text("adapter")),
        ("general.file_type".to_owned(), Value::U32(0)),
        ("general.quantization_version".to_owned(), Value::U32(2)),
        ("adapter.type".to_owned(), text("lora")),
        ("adapter.lora.alpha".to_owned(), Value::F32(rank as f32)),
    ]);
    let staged = Staged::file(path)?;
    gguf_out::write(staged.path(), &metadata, &tensors, |index, out| {
        let bytes: Vec<u8> = values[index].iter().flat_map(|x| x.to_le_bytes()).collect();
        out(&bytes)
    })?;
    staged.commit()
}

/// llama.cpp's name of a family; Mistral is a Llama there.
fn architecture(family: Family) -> &'static str {
    match family {
        Family::Llama | Family::Mistral => "llama",
        Family::Qwen2 => "qwen2",
        Family::Qwen3 => "qwen3",
        Family::Gemma3 => "gemma3",
    }
}

/// Whether a GGUF file has the outputs of this module in the order of llama.cpp's other rope.
pub(super) fn is_interleaved(family: Family, target: Target) -> bool {
    matches!(family, Family::Llama | Family::Mistral) && matches!(target, Target::Q | Target::K)
}

/// Rows of `width` numbers from the order of `config.json` models to that of the file.
fn interleave(rows: &[f32], head_dim: usize, width: usize) -> Vec<f32> {
    let mut out = vec![0.0; rows.len()];
    for (row, values) in rows.chunks_exact(width).enumerate() {
        out[interleaved_row(row, head_dim) * width..][..width].copy_from_slice(values);
    }
    out
}
