//! A base model in a GGUF file and, if there is one, an adapter enter; a folder leaves that transformers loads:
//! config.json, safetensors, the tokenizer. W + ΔW is computed in f32 and rounded once.

use std::path::Path;

use serde_json::{Value, json};

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
use crate::model::config::{Family, ModelConfig, RopeScaling};
use crate::model::weights::{Weights, expected_tensors};
use crate::tokenizer::Tokenizer;

/// Writes the merged model as a folder; without an adapter, the base itself. Families: Llama, Mistral, Qwen2 and Qwen3, with a
/// byte-level tokenizer. `progress` is told the tensors done, of how many. Returns what of the update outlived the
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
    let vocabulary = tokenizer.to_json().ok_or_else(|| {
        refuse("its tokenizer is SentencePiece, whose tokenizer.json can't be told from a GGUF file; write a .gguf")
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

/// `config.json`, in the spelling that transformers 4 and 5 read. Err: what it can't say.
fn config_json(
    config: &ModelConfig,
    metadata: &GgufMetadata,
    dtype: OutputType,
) -> Result<Value, &'static str> {
    let (model_type, architecture) = match config.family {
        Family::Llama => ("llama", "LlamaForCausalLM"),
        Family::Mistral => ("mistral", "MistralForCausalLM"),
        Family::Qwen2 => ("qwen2", "Qwen2ForCausalLM"),
        Family::Qwen3 => ("qwen3", "Qwen3ForCausalLM"),
        Family::Gemma3 => return Err("Gemma's configuration can't be told from a GGUF file; write a .gguf"),
    };
    let windows: Vec<Option<usize>> = config.layers.iter().map(|layer| layer.window).collect();
    let window = windows.first().copied().flatten();
    if windows.iter().any(|other| *other != window) || (window.is_some() && config.family != Family::Mistral)
    {
        return Err("its layers see windows of several sizes; write a .gguf");
    }
    let [rope] = config.ropes.as_slice() else {
        return Err("its layers turn positions in several ways; write a .gguf");
    };
    let scaling = match &rope.scaling {
        RopeScaling::None => Value::Null,
        RopeScaling::Linear { factor } => json!({"rope_type": "linear", "factor": factor}),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max } => json!({
            "rope_type": "llama3", "factor": factor, "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor, "original_max_position_embeddings": original_max}),
        RopeScaling::Factors(_) => {
            return Err("its rope frequencies have divisors that config.json can't list; write a .gguf");
        }
    };
    let id = |key: &str| metadata.get(key).and_then(Gguf::as_u64);
    let mut json = json!({
        "architectures": [architecture],
        "attention_bias": config.family == Family::Qwen2,
        "bos_token_id": id("tokenizer.ggml.bos_token_id"),
        "eos_token_id": id("tokenizer.ggml.eos_token_id"),
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.max_positions,
        "model_type": model_type,
        "num_attention_heads": config.num_heads,
        "num_hidden_layers": config.num_layers,
        "num_key_value_heads": config.num_kv_heads,
        // By its shortest decimal form, as people write it.
        "rms_norm_eps": config.rms_norm_eps.to_string().parse::<f64>().unwrap_or(f64::from(config.rms_norm_eps)),
        "rope_scaling": scaling,
        "rope_theta": rope.theta,
        "tie_word_embeddings": config.tied_head,
        "torch_dtype": match dtype {
            OutputType::F32 => "float32",
            OutputType::Bf16 => "bfloat16",
            OutputType::F16 | OutputType::Q8_0 => "float16",
        },
        "vocab_size": config.vocab_size,
    });
    if config.family == Family::Mistral {
        json["sliding_window"] = json!(window);
    }
    Ok(json)
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
