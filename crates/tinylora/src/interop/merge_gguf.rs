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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::{BaseIdentity, Factors, Method, Module, ModuleFactors, Target};
    use crate::gguf::testing::Builder;
    use crate::hub::{ModelFiles, ModelLayout};
    use crate::recipe::WeightDtype;

    /// A Llama whose q and k are permuted in the file; numbers differ from row to row.
    fn base(folder: &Path) -> Weights {
        let mut builder = Builder::default()
            .string("general.architecture", "llama")
            .strings("tokenizer.ggml.tokens", &["a", "b"])
            .u32("general.alignment", 32)
            .f32("llama.attention.layer_norm_rms_epsilon", 1e-6);
        for (key, value) in [
            ("block_count", 2),
            ("context_length", 64),
            ("embedding_length", 32),
            ("feed_forward_length", 64),
            ("attention.head_count", 4),
            ("attention.head_count_kv", 2),
        ] {
            builder = builder.u32(&format!("llama.{key}"), value);
        }
        let mut list = vec![("token_embd".to_owned(), vec![32, 5]), ("output_norm".to_owned(), vec![32])];
        for layer in 0..2 {
            for (name, shape) in [
                ("attn_norm", vec![32]),
                ("attn_q", vec![32, 32]),
                ("attn_k", vec![32, 16]),
                ("attn_v", vec![32, 16]),
                ("attn_output", vec![32, 32]),
                ("ffn_norm", vec![32]),
                ("ffn_gate", vec![32, 64]),
                ("ffn_up", vec![32, 64]),
                ("ffn_down", vec![64, 32]),
            ] {
                list.push((format!("blk.{layer}.{name}"), shape));
            }
        }
        for (index, (name, dims)) in list.into_iter().enumerate() {
            let count: u64 = dims.iter().product();
            let values: Vec<f32> =
                (0..count).map(|i| ((i * 31 + index as u64 * 7) % 257) as f32 / 100.0 - 1.0).collect();
            builder = builder.tensor_f32(&format!("{name}.weight"), &dims, &values);
        }
        let path = folder.join("base.gguf");
        std::fs::write(&path, builder.build()).unwrap();
        open(&path)
    }

    fn open(path: &Path) -> Weights {
        let layout = ModelLayout::Gguf { path: path.to_owned() };
        Weights::open(&ModelFiles { reference: "base".into(), layout }).unwrap()
    }

    fn rows(weights: &Weights, name: &str) -> Vec<f32> {
        let mut out = vec![0.0; weights.shape(name).unwrap().iter().product()];
        weights.read_rows(name, 0, &mut out).unwrap();
        out
    }

    #[test]
    fn every_tensor_is_the_bases_and_the_adapted_ones_have_the_update() {
        let folder = tempfile::tempdir().unwrap();
        let weights = base(folder.path());
        let modules = vec![Module { layer: 0, target: Target::Q }, Module { layer: 1, target: Target::Down }];
        let base = BaseIdentity::new("base", [0; 32], WeightDtype::F32, weights.config());
        let factors = |module: &Module| {
            let (n, k) = base.shape(module.target);
            // Row i of the update is (i + 1) times (1, 2, 3 …) / 1000.
            let a = (0..k).map(|i| (i + 1) as f32 / 1000.0).collect();
            ModuleFactors { a, b: (0..n).map(|i| (i + 1) as f32).collect() }
        };
        let adapter = Standalone {
            method: Method::Lora,
            groups: vec![0; 2],
            u: 1,
            v: vec![1.0],
            p: vec![1.0; 2],
            factors: Factors { rank: 1, modules: modules.iter().map(factors).collect() },
            source: String::new(),
            run: None,
            base: base.clone(),
            modules: modules.clone(),
        };
        for (dtype, tolerance) in [
            (OutputType::F32, 1e-6),
            (OutputType::Bf16, 0.02),
            (OutputType::F16, 2e-3),
            (OutputType::Q8_0, 0.03),
        ] {
            let out = folder.path().join("merged.gguf");
            let survival = merge_gguf(&adapter, &weights, dtype, &out, &mut |_, _| {}).unwrap();
            assert!((survival.kept().unwrap() - 1.0).abs() < 0.01, "{dtype:?}: {survival:?}");
            let merged = open(&out);
            assert!(merged.gguf_metadata().unwrap().contains_key("tokenizer.ggml.tokens"));
            for (name, shape) in expected_tensors(weights.config()) {
                let module = modules.iter().find(|m| format!("{}.weight", module_name(**m)) == name);
                let (before, after) = (rows(&weights, &name), rows(&merged, &name));
                for (place, (before, after)) in before.iter().zip(after).enumerate() {
                    let (row, column) = (place / shape[shape.len() - 1], place % shape[shape.len() - 1]);
                    let update = module.map_or(0.0, |_| ((row + 1) * (column + 1)) as f32 / 1000.0);
                    let size = (before + update).abs().max(1.0);
                    assert!(
                        (before + update - after).abs() <= tolerance * size,
                        "{dtype:?} {name} {row} {column}"
                    );
                }
            }
        }
        assert!(merge_gguf(&adapter, &weights, OutputType::F32, folder.path(), &mut |_, _| {}).is_err());
    }
}
