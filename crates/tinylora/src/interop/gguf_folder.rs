//! A base model in a GGUF file and, if there is one, an adapter enter; a folder leaves that transformers loads:
//! config.json, safetensors, the tokenizer. W + ΔW is computed in f32 and rounded once.

use std::path::Path;

use serde_json::{Value, json};

use super::config_json::config_json;
use super::delta::{Delta, deltas};
use super::error::{InteropError, io};
use super::merge::write_rows;
use super::peft_config::module_name;
use super::rounding::{OutputType, Survival};
use super::safetensors_out::{self, OutTensor};
use super::staged::Staged;
use super::trained::NewWeights;
use crate::adapter::Standalone;
use crate::gguf::{GgufMetadata, Value as Gguf};
use crate::model::config::ModelConfig;
use crate::model::weights::{Weights, expected_tensors};
use crate::tokenizer::Tokenizer;

/// Writes the merged model as a folder; without an adapter, the base itself. `progress` is told the tensors done, of how many. Returns what of the update outlived the
/// rounding.
pub fn merge_gguf_to_folder(
    adapter: Option<&Standalone>,
    weights: &Weights,
    tokenizer: &Tokenizer,
    dtype: OutputType,
    out: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Survival, InteropError> {
    check(weights, tokenizer, dtype)?;
    let deltas = adapter.map(deltas).transpose()?.unwrap_or_default();
    write_folder(weights, tokenizer, dtype, out, &mut |path| {
        write_weights(&deltas, weights, dtype, path, progress)
    })
}

/// The same folder with other numbers in its weights.
pub(super) fn write_new(
    new: NewWeights<'_>,
    weights: &Weights,
    tokenizer: &Tokenizer,
    out: &Path,
) -> Result<(), InteropError> {
    write_folder(weights, tokenizer, new.matrices, out, &mut |path| {
        let list = expected_tensors(weights.config());
        let of = |(name, shape): &(String, Vec<usize>)| OutTensor {
            name: name.clone(),
            dtype: new.dtype(shape).name().to_uppercase(),
            shape: shape.clone(),
            bytes: new.dtype(shape).bytes(shape.iter().product()),
        };
        let tensors: Vec<OutTensor> = list.iter().map(of).collect();
        safetensors_out::write(path, &tensors, |index, write| {
            let (name, shape) = &list[index];
            let numbers = (new.find)(name).unwrap_or_else(|| panic!("{name} is one of the model's tensors"));
            write_rows(numbers, shape, new.dtype(shape), write)
        })
    })
}

/// config.json and tokenizer.json for a folder of this base, or why there can be none.
pub(super) fn check(
    weights: &Weights,
    tokenizer: &Tokenizer,
    dtype: OutputType,
) -> Result<(Value, String), InteropError> {
    let refuse = |instead: &'static str| InteropError::OutputType {
        what: "the model".to_owned(),
        wanted: "a folder for transformers",
        instead,
    };
    let metadata = weights.gguf_metadata();
    let metadata = metadata.ok_or_else(|| refuse("its base is a folder already; merge it into a folder"))?;
    if dtype == OutputType::Q8_0 {
        return Err(refuse("safetensors hold f32, bf16 or f16; give one of these as --dtype"));
    }
    let config = config_json(weights.config(), metadata, dtype).map_err(refuse)?;
    let vocabulary = tokenizer.to_json(metadata).ok_or_else(|| {
        refuse("its tokenizer is not that of the GGUF file; open both from the same file")
    })??;
    Ok((config, vocabulary))
}

fn write_folder<T>(
    weights: &Weights,
    tokenizer: &Tokenizer,
    dtype: OutputType,
    out: &Path,
    write_weights: &mut dyn FnMut(&Path) -> Result<T, InteropError>,
) -> Result<T, InteropError> {
    let (config, vocabulary) = check(weights, tokenizer, dtype)?;
    let metadata = weights.gguf_metadata().expect("as was checked");
    let staged = Staged::folder(out)?;
    let result = write_weights(&staged.path().join("model.safetensors"))?;
    let write = |name: &str, text: &str| {
        let path = staged.path().join(name);
        std::fs::write(&path, text).map_err(io(&path, "write the file"))
    };
    let pretty = |json: &Value| serde_json::to_string_pretty(json).expect("plain data is JSON") + "\n";
    write("config.json", &pretty(&config))?;
    write("tokenizer.json", &vocabulary)?;
    write("tokenizer_config.json", &pretty(&tokenizer_config(weights.config(), metadata)))?;
    let mut generation = json!({"eos_token_id": tokenizer.end_tokens()});
    if let Some(bos) = tokenizer.bos() {
        generation["bos_token_id"] = json!(bos);
    }
    write("generation_config.json", &pretty(&generation))?;
    if let Some(template) = text(metadata, "tokenizer.chat_template") {
        write("chat_template.jinja", template)?;
    }
    staged.commit()?;
    Ok(result)
}

fn write_weights(
    deltas: &[Delta<'_>],
    weights: &Weights,
    dtype: OutputType,
    path: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Survival, InteropError> {
    let list = expected_tensors(weights.config());
    let tensors: Vec<OutTensor> = list
        .iter()
        .map(|(name, shape)| OutTensor {
            name: name.clone(),
            dtype: dtype.name().to_uppercase(),
            shape: shape.clone(),
            bytes: dtype.bytes(shape.iter().product()),
        })
        .collect();
    let mut survival = Survival::default();
    safetensors_out::write(path, &tensors, |index, write| {
        progress(index as u64, tensors.len() as u64);
        let (name, shape) = &list[index];
        let module = name.strip_suffix(".weight").unwrap_or(name);
        let delta = deltas.iter().find(|delta| module_name(delta.module) == module);
        let row_len = shape.last().copied().unwrap_or(1).max(1);
        let (mut w, mut update, mut merged) = (vec![0.0; row_len], vec![0.0; row_len], vec![0.0; row_len]);
        let mut encoded = Vec::new();
        for row in 0..shape.iter().product::<usize>() / row_len {
            weights.read_rows(name, row, &mut w)?;
            merged.copy_from_slice(&w);
            if let Some(delta) = delta {
                delta.row(row, &mut update);
                merged.iter_mut().zip(&update).for_each(|(merged, update)| *merged += update);
                survival.add(dtype, &w, &update, &merged);
            }
            encoded.clear();
            dtype.encode(&merged, &mut encoded);
            write(&encoded)?;
        }
        Ok(())
    })?;
    progress(tensors.len() as u64, tensors.len() as u64);
    Ok(survival)
}

/// `tokenizer_config.json`: the special tokens by their names.
fn tokenizer_config(config: &ModelConfig, metadata: &GgufMetadata) -> Value {
    let mut json = json!({
        "clean_up_tokenization_spaces": false,
        "model_max_length": config.max_positions,
        "tokenizer_class": "PreTrainedTokenizerFast",
    });
    let tokens = metadata.get("tokenizer.ggml.tokens").and_then(Gguf::as_strings);
    for (name, key) in [
        ("bos_token", "tokenizer.ggml.bos_token_id"),
        ("eos_token", "tokenizer.ggml.eos_token_id"),
        ("unk_token", "tokenizer.ggml.unknown_token_id"),
        ("pad_token", "tokenizer.ggml.padding_token_id"),
    ] {
        let id = metadata.get(key).and_then(Gguf::as_u64).and_then(|id| usize::try_from(id).ok());
        if let (Some(tokens), Some(id)) = (tokens, id)
            && let Some(token) = tokens.get(id)
        {
            json[name] = json!(token);
        }
    }
    json
}

fn text<'a>(metadata: &'a GgufMetadata, key: &str) -> Option<&'a str> {
    metadata.get(key).and_then(Gguf::as_str)
}

#[cfg(test)]
#[path = "gguf_folder_tests.rs"]
mod tests;
