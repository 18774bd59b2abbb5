//! A base model in a GGUF file and a standalone adapter enter, a merged GGUF file leaves, with the base's metadata
//! (tokenizer and template among them). W + ΔW is computed in f32 and rounded once; norms stay in f32.

use std::path::Path;

use super::delta::{Delta, deltas};
use super::error::InteropError;
use super::export_gguf::is_interleaved;
use super::gguf_out::{self, GgufTensor};
use super::peft_config::module_name;
use super::rounding::{OutputType, Survival};
use super::staged::Staged;
use crate::adapter::Standalone;
use crate::gguf::{GgufMetadata, TensorType, Value};
use crate::model::config::{ModelConfig, RopeScaling};
use crate::model::weights::{Weights, expected_tensors, names};

/// Writes the merged model with its matrices in `dtype`; in q8_0, matrices whose rows are no multiple of 32 are f16.
/// `progress` is told the tensors done, of how many. Returns what of the update outlived the rounding.
pub fn merge_gguf(
    adapter: &Standalone,
    weights: &Weights,
    dtype: OutputType,
    out: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Survival, InteropError> {
    let Some(metadata) = weights.gguf_metadata() else {
        return Err(InteropError::OutputType {
            what: adapter.base.reference.clone(),
            wanted: "a GGUF file",
            instead: "its base is a folder of safetensors; merge it into a folder",
        });
    };
    let config = weights.config();
    let deltas = deltas(adapter)?;
    let mut list = expected_tensors(config);
    let factors = rope_factors(config);
    if let Some(factors) = &factors {
        list.push((ROPE_FACTORS.to_owned(), vec![factors.len()]));
    }
    let tensors: Vec<GgufTensor> = list
        .iter()
        .map(|(name, shape)| GgufTensor {
            name: names::to_gguf(name, config.family),
            shape: shape.clone(),
            dtype: stored(dtype, shape).tensor_type(),
        })
        .collect();
    let staged = Staged::file(out)?;
    let mut survival = Survival::default();
    gguf_out::write(staged.path(), &with_type(metadata, dtype), &tensors, |index, write| {
        progress(index as u64, tensors.len() as u64);
        let (name, shape) = &list[index];
        if name == ROPE_FACTORS {
            let factors = factors.as_deref().unwrap_or_default();
            return write(&factors.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>());
        }
        let module = name.strip_suffix(".weight").unwrap_or(name);
        let delta = deltas.iter().find(|delta| module_name(delta.module) == module);
        Tensor { weights, config, name, shape, dtype: stored(dtype, shape), delta }
            .write(&mut survival, write)
    })?;
    staged.commit()?;
    progress(tensors.len() as u64, tensors.len() as u64);
    Ok(survival)
}

const ROPE_FACTORS: &str = "rope_freqs.weight";

/// Norms and biases in f32, matrices as asked for.
fn stored(dtype: OutputType, shape: &[usize]) -> OutputType {
    match shape {
        [_, columns]
            if dtype == OutputType::Q8_0 && !columns.is_multiple_of(TensorType::Q8_0.block_len()) =>
        {
            OutputType::F16
        }
        [_, _] => dtype,
        _ => OutputType::F32,
    }
}

/// The divisors of the rope frequencies, which are a tensor in the file.
fn rope_factors(config: &ModelConfig) -> Option<Vec<f32>> {
    config.ropes.iter().find_map(|rope| match &rope.scaling {
        RopeScaling::Factors(factors) => Some(factors.iter().map(|&x| x as f32).collect()),
        _ => None,
    })
}

/// The base's metadata with the new storage type.
fn with_type(metadata: &GgufMetadata, dtype: OutputType) -> GgufMetadata {
    // llama.cpp's numbers of "mostly this type".
    let file_type = match dtype {
        OutputType::F32 => 0,
        OutputType::F16 => 1,
        OutputType::Q8_0 => 7,
        OutputType::Bf16 => 32,
    };
    let mut metadata = metadata.clone();
    // Data stand at the format's own alignment.
    metadata.remove("general.alignment");
    metadata.insert("general.file_type".to_owned(), Value::U32(file_type));
    metadata.insert("general.quantization_version".to_owned(), Value::U32(2));
    metadata
}

/// One tensor of the base.
struct Tensor<'a> {
    weights: &'a Weights,
    config: &'a ModelConfig,
    name: &'a str,
    shape: &'a [usize],
    dtype: OutputType,
    delta: Option<&'a Delta<'a>>,
}

impl Tensor<'_> {
    /// Row by row in the file's order: decoded, updated, rounded.
    fn write(
        &self,
        survival: &mut Survival,
        write: &mut dyn FnMut(&[u8]) -> Result<(), InteropError>,
    ) -> Result<(), InteropError> {
        let row_len = self.shape.last().copied().unwrap_or(1);
        let rows = self.shape.iter().product::<usize>() / row_len.max(1);
        let (mut w, mut update, mut merged) = (vec![0.0; row_len], vec![0.0; row_len], vec![0.0; row_len]);
        let mut encoded = Vec::new();
        for place in 0..rows {
            let row = self.row_at(place);
            self.weights.read_rows(self.name, row, &mut w)?;
            if self.config.norm_plus_one && self.name.ends_with("norm.weight") {
                w.iter_mut().for_each(|x| *x += 1.0);
            }
            merged.copy_from_slice(&w);
            if let Some(delta) = self.delta {
                delta.row(row, &mut update);
                merged.iter_mut().zip(&update).for_each(|(merged, update)| *merged += update);
                survival.add(self.dtype, &w, &update, &merged);
            }
            encoded.clear();
            self.dtype.encode(&merged, &mut encoded);
            write(&encoded)?;
        }
        Ok(())
    }

    /// The model's row that stands at a place of the file.
    fn row_at(&self, place: usize) -> usize {
        let target = crate::adapter::Target::ALL
            .into_iter()
            .find(|target| self.name.ends_with(&format!("{}.weight", target.path())));
        if !target.is_some_and(|target| is_interleaved(self.config.family, target)) {
            return place;
        }
        let half = self.config.head_dim / 2;
        let (head, within) = (place / self.config.head_dim, place % self.config.head_dim);
        head * self.config.head_dim + within % 2 * half + within / 2
    }
}
