//! The text of a `config.json` enters, a [`ModelConfig`] leaves. Defaults of absent keys are those of the
//! configuration classes of transformers 5.23.

use std::path::Path;

use serde_json::{Map, Value};

use super::tensors::{Size, finish, limits};
use super::{Activation, ConfigError, Family, LayerConfig, ModelConfig, RopeConfig, RopeScaling};

/// A configuration is a few kilobytes.
const MAX_FILE_BYTES: u64 = 16 << 20;
const FAMILIES: &str = "llama, mistral, qwen2, qwen3, gemma3_text, gemma3 (its text part)";

impl ModelConfig {
    /// Read a `config.json`.
    pub fn from_config_file(file: &Path) -> Result<ModelConfig, ConfigError> {
        let io = |source| ConfigError::Io { file: file.to_owned(), source };
        let length = std::fs::metadata(file).map_err(io)?.len();
        if length > MAX_FILE_BYTES {
            let reason = format!("{length} bytes are more than the limit of {MAX_FILE_BYTES}");
            return Err(ConfigError::Json { file: file.to_owned(), reason });
        }
        ModelConfig::from_config_json(&std::fs::read_to_string(file).map_err(io)?, file)
    }

    /// The same for its text; `file` is for messages.
    pub fn from_config_json(text: &str, file: &Path) -> Result<ModelConfig, ConfigError> {
        let json = |reason| ConfigError::Json { file: file.to_owned(), reason };
        let value: Value = serde_json::from_str(text).map_err(|error| json(error.to_string()))?;
        let Value::Object(map) = value else { return Err(json("no object at the top".into())) };
        let top = Object { file, path: String::new(), map: &map };
        match top.text("model_type")?.ok_or_else(|| top.missing("model_type"))? {
            "llama" => dense(&top, Family::Llama),
            "mistral" => dense(&top, Family::Mistral),
            "qwen2" => dense(&top, Family::Qwen2),
            "qwen3" => dense(&top, Family::Qwen3),
            "gemma3_text" => gemma3(&top),
            "gemma3" => gemma3(&top.object("text_config")?.ok_or_else(|| top.missing("text_config"))?),
            other => Err(top.unsupported("model_type", format!("{other:?}"), FAMILIES)),
        }
    }
}

/// Llama, Mistral and Qwen.
fn dense(json: &Object, family: Family) -> Result<ModelConfig, ConfigError> {
    refuse_variants(json)?;
    let hidden_size = json.required_size("hidden_size", limits::WIDTH)?;
    let num_heads = json.required_size("num_attention_heads", limits::HEADS)?;
    let num_layers = json.required_size("num_hidden_layers", limits::LAYERS)?;
    let default_kv_heads = match family {
        Family::Mistral => 8,
        Family::Qwen2 | Family::Qwen3 => 32,
        Family::Llama | Family::Gemma3 => num_heads,
    };
    let num_kv_heads = if json.map.get("num_key_value_heads").is_some_and(Value::is_null) {
        num_heads
    } else {
        json.size("num_key_value_heads", limits::HEADS)?.unwrap_or(default_kv_heads)
    };
    let head_dim = match json.size("head_dim", limits::HEAD_DIM)? {
        Some(size) => size,
        None if family == Family::Qwen3 => 128,
        None if hidden_size.is_multiple_of(num_heads) => hidden_size / num_heads,
        None => {
            let expected = format!("a multiple of `num_attention_heads` ({num_heads}), or `head_dim` given");
            return Err(json.invalid("hidden_size", hidden_size.to_string(), expected));
        }
    };
    let max_positions = json.size("max_position_embeddings", limits::POSITIONS)?.unwrap_or(match family {
        Family::Llama => 2048,
        Family::Mistral => 4096 * 32,
        _ => 32768,
    });
    let kinds = match family {
        Family::Qwen2 | Family::Qwen3 => qwen_layers(json, num_layers)?,
        Family::Mistral => {
            let window = match json.map.get("sliding_window") {
                None => Some(4096),
                Some(_) => json.size("sliding_window", limits::POSITIONS)?,
            };
            vec![window; num_layers]
        }
        Family::Llama | Family::Gemma3 => vec![None; num_layers],
    };
    let rope = flat_rope(json, max_positions)?;
    let config = ModelConfig {
        family,
        vocab_size: json.required_size("vocab_size", limits::VOCABULARY)?,
        hidden_size,
        intermediate_size: json.required_size("intermediate_size", limits::WIDTH)?,
        num_layers,
        num_heads,
        num_kv_heads,
        head_dim,
        rms_norm_eps: json.number("rms_norm_eps")?.unwrap_or(1e-6) as f32,
        norm_plus_one: false,
        activation: activation(json, "hidden_act", Activation::Silu)?,
        embedding_scale: 1.0,
        qkv_bias: family == Family::Qwen2,
        qk_norm: family == Family::Qwen3,
        sandwich_norms: false,
        attention_scale: (head_dim as f64).powf(-0.5) as f32,
        ropes: vec![rope],
        layers: kinds.into_iter().map(|window| LayerConfig { rope: 0, window }).collect(),
        tied_head: json.flag("tie_word_embeddings")?.unwrap_or(false),
        max_positions,
        parameters: 0,
    };
    finish(config, json.file, |size| json.key(name_of(size)))
}

fn gemma3(json: &Object) -> Result<ModelConfig, ConfigError> {
    refuse_variants(json)?;
    if json.flag("use_bidirectional_attention")?.unwrap_or(false) {
        return Err(json.unsupported("use_bidirectional_attention", "true".into(), "false"));
    }
    for key in ["final_logit_softcapping", "attn_logit_softcapping"] {
        if let Some(cap) = json.number(key)? {
            return Err(json.unsupported(key, cap.to_string(), "null"));
        }
    }
    let size = |key, limit, default| Ok::<_, ConfigError>(json.size(key, limit)?.unwrap_or(default));
    let hidden_size = size("hidden_size", limits::WIDTH, 2304)?;
    let num_layers = size("num_hidden_layers", limits::LAYERS, 26)?;
    let max_positions = size("max_position_embeddings", limits::POSITIONS, 131_072)?;
    let window = size("sliding_window", limits::POSITIONS, 4096)?;
    let query_scalar = json.number("query_pre_attn_scalar")?.unwrap_or(256.0);
    if !(query_scalar > 0.0 && query_scalar.is_finite()) {
        return Err(json.invalid("query_pre_attn_scalar", query_scalar.to_string(), "above 0".into()));
    }
    let local = match layer_types(json, num_layers)? {
        Some(local) => local,
        None => {
            let old = json.size("sliding_window_pattern", limits::LAYERS)?;
            let pattern = old.or(json.size("_sliding_window_pattern", limits::LAYERS)?).unwrap_or(6);
            if pattern == 0 {
                return Err(json.invalid("sliding_window_pattern", "0".into(), "at least 1".into()));
            }
            (1..=num_layers).map(|number| !number.is_multiple_of(pattern)).collect()
        }
    };
    let layer = |local: bool| LayerConfig { rope: usize::from(local), window: local.then_some(window) };
    let config = ModelConfig {
        family: Family::Gemma3,
        vocab_size: size("vocab_size", limits::VOCABULARY, 262_208)?,
        hidden_size,
        intermediate_size: size("intermediate_size", limits::WIDTH, 9216)?,
        num_layers,
        num_heads: size("num_attention_heads", limits::HEADS, 8)?,
        num_kv_heads: size("num_key_value_heads", limits::HEADS, 4)?,
        head_dim: size("head_dim", limits::HEAD_DIM, 256)?,
        rms_norm_eps: json.number("rms_norm_eps")?.unwrap_or(1e-6) as f32,
        norm_plus_one: true,
        activation: activation(json, "hidden_activation", Activation::GeluTanh)?,
        embedding_scale: (hidden_size as f64).sqrt() as f32,
        qkv_bias: false,
        qk_norm: true,
        sandwich_norms: true,
        attention_scale: query_scalar.powf(-0.5) as f32,
        ropes: gemma3_ropes(json, max_positions)?,
        layers: local.into_iter().map(layer).collect(),
        tied_head: json.flag("tie_word_embeddings")?.unwrap_or(true),
        max_positions,
        parameters: 0,
    };
    finish(config, json.file, |size| json.key(name_of(size)))
}

/// Keys that change the forward pass in ways that it does not know.
fn refuse_variants(json: &Object) -> Result<(), ConfigError> {
    for key in ["attention_bias", "mlp_bias"] {
        if json.flag(key)?.unwrap_or(false) {
            return Err(json.unsupported(key, "true".into(), "false"));
        }
    }
    match json.map.get("quantization_config") {
        None | Some(Value::Null) => Ok(()),
        Some(value) => {
            let value = shorten(value);
            let supported = "weights in f32, f16 or bf16 (quantised models: as GGUF)";
            Err(json.unsupported("quantization_config", value, supported))
        }
    }
}

/// The window of each layer: Qwen's are off unless `use_sliding_window`.
fn qwen_layers(json: &Object, num_layers: usize) -> Result<Vec<Option<usize>>, ConfigError> {
    let on = json.flag("use_sliding_window")?.unwrap_or(false);
    let window = match json.map.get("sliding_window") {
        _ if !on => None,
        None => Some(4096),
        Some(_) => json.size("sliding_window", limits::POSITIONS)?,
    };
    let first = json.size("max_window_layers", limits::LAYERS)?.unwrap_or(28);
    match layer_types(json, num_layers)? {
        None => Ok((0..num_layers).map(|layer| window.filter(|_| layer >= first)).collect()),
        Some(local) if window.is_none() && local.contains(&true) => {
            let expected = "only \"full_attention\" while `use_sliding_window` is false".to_owned();
            Err(json.invalid("layer_types", "\"sliding_attention\"".into(), expected))
        }
        Some(local) => Ok(local.into_iter().map(|local| window.filter(|_| local)).collect()),
    }
}

/// For each layer, whether its attention is local.
fn layer_types(json: &Object, num_layers: usize) -> Result<Option<Vec<bool>>, ConfigError> {
    let Some(value) = json.present("layer_types") else { return Ok(None) };
    let Value::Array(items) = value else {
        return Err(json.invalid("layer_types", shorten(value), "an array of strings".into()));
    };
    if items.len() != num_layers {
        let expected = format!("one entry for each of the {num_layers} layers");
        return Err(json.invalid("layer_types", format!("{} entries", items.len()), expected));
    }
    let kind = |item: &Value| match item.as_str() {
        Some("sliding_attention") => Ok(true),
        Some("full_attention") => Ok(false),
        _ => Err(json.unsupported("layer_types", shorten(item), "full_attention, sliding_attention")),
    };
    items.iter().map(kind).collect::<Result<_, _>>().map(Some)
}

/// The single rope table of all families but Gemma: `rope_scaling` before `rope_parameters`, as transformers reads.
fn flat_rope(json: &Object, max_positions: usize) -> Result<RopeConfig, ConfigError> {
    let old = json.object("rope_scaling")?.filter(|object| !object.map.is_empty());
    let parameters = old.or(json.object("rope_parameters")?);
    if let Some(parameters) = &parameters {
        for key in ["full_attention", "sliding_attention"] {
            if let Some(value) = parameters.present(key) {
                return Err(parameters.unsupported(
                    key,
                    shorten(value),
                    "one set of parameters for all layers",
                ));
            }
        }
    }
    let theta = json.number("rope_theta")?.unwrap_or(10_000.0);
    rope(json, parameters.as_ref(), theta, max_positions)
}

/// Gemma's two tables: global (0), local (1).
fn gemma3_ropes(json: &Object, max_positions: usize) -> Result<Vec<RopeConfig>, ConfigError> {
    let parameters = json.object("rope_parameters")?;
    if let Some(flat) = parameters.as_ref().filter(|object| object.present("rope_theta").is_some()) {
        let value = shorten(&Value::Object(flat.map.clone()));
        let expected = "an object with `full_attention` and `sliding_attention`".to_owned();
        return Err(json.invalid("rope_parameters", value, expected));
    }
    let nested = |kind: &str| match &parameters {
        Some(object) => object.object(kind),
        None => Ok(None),
    };
    let global_theta = json.number("rope_theta")?.unwrap_or(1_000_000.0);
    let local_theta = json.number("rope_local_base_freq")?.unwrap_or(10_000.0);
    let (global, local) = (nested("full_attention")?, nested("sliding_attention")?);
    // The old spelling scales the global table only.
    let mut merged = global.as_ref().map(|object| object.map.clone()).unwrap_or_default();
    let old = json.object("rope_scaling")?;
    if let Some(old) = &old {
        merged.extend(old.map.iter().map(|(key, value)| (key.clone(), value.clone())));
    }
    let path = old.or(global).map_or_else(|| json.key("rope_scaling"), |object| object.path);
    let merged = Object { file: json.file, path, map: &merged };
    Ok(vec![
        rope(json, Some(&merged), global_theta, max_positions)?,
        rope(json, local.as_ref(), local_theta, max_positions)?,
    ])
}

/// One table; `theta` is what holds if `parameters` does not say it.
fn rope(
    json: &Object,
    parameters: Option<&Object>,
    theta: f64,
    max_positions: usize,
) -> Result<RopeConfig, ConfigError> {
    // Some models have it outside.
    for object in [Some(json), parameters].into_iter().flatten() {
        if let Some(share) = object.number("partial_rotary_factor")?.filter(|&share| share != 1.0) {
            return Err(object.unsupported("partial_rotary_factor", share.to_string(), "1"));
        }
    }
    let Some(parameters) = parameters else { return Ok(RopeConfig { theta, scaling: RopeScaling::None }) };
    let theta = parameters.number("rope_theta")?.unwrap_or(theta);
    let key = if parameters.present("rope_type").is_some() { "rope_type" } else { "type" };
    let needed = |key| parameters.number(key)?.ok_or_else(|| parameters.missing(key));
    let scaling = match parameters.text(key)?.unwrap_or("default") {
        "default" => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: needed("factor")? },
        "llama3" => RopeScaling::Llama3 {
            factor: needed("factor")?,
            low_freq_factor: needed("low_freq_factor")?,
            high_freq_factor: needed("high_freq_factor")?,
            original_max: parameters
                .number("original_max_position_embeddings")?
                .unwrap_or(max_positions as f64),
        },
        other => {
            let value = format!("{other:?}");
            return Err(parameters.unsupported(key, value, "default, linear, llama3"));
        }
    };
    Ok(RopeConfig { theta, scaling })
}

fn activation(json: &Object, key: &str, default: Activation) -> Result<Activation, ConfigError> {
    match json.text(key)? {
        None => Ok(default),
        Some("silu" | "swish") => Ok(Activation::Silu),
        Some("gelu_pytorch_tanh") => Ok(Activation::GeluTanh),
        Some(other) => Err(json.unsupported(key, format!("{other:?}"), "silu, gelu_pytorch_tanh")),
    }
}

fn name_of(size: Size) -> &'static str {
    match size {
        Size::Vocabulary => "vocab_size",
        Size::Hidden => "hidden_size",
        Size::Intermediate => "intermediate_size",
        Size::Layers => "num_hidden_layers",
        Size::Heads => "num_attention_heads",
        Size::KvHeads => "num_key_value_heads",
        Size::HeadDim => "head_dim",
        Size::Positions => "max_position_embeddings",
        Size::Epsilon => "rms_norm_eps",
        Size::Window => "sliding_window",
        Size::Theta => "rope_theta",
        Size::Scaling => "rope_scaling",
    }
}

/// A value for a message.
fn shorten(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// A JSON object that knows its place. `null` counts as absent.
struct Object<'a> {
    file: &'a Path,
    /// The keys that lead here, with a dot behind; empty at the top.
    path: String,
    map: &'a Map<String, Value>,
}

impl<'a> Object<'a> {
    fn key(&self, key: &str) -> String {
        format!("{}{key}", self.path)
    }

    fn present(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    fn read<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(value) = self.present(key) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| self.invalid(key, shorten(value), expected.to_owned()))
    }

    fn text(&self, key: &str) -> Result<Option<&'a str>, ConfigError> {
        self.read(key, "a string", Value::as_str)
    }

    fn flag(&self, key: &str) -> Result<Option<bool>, ConfigError> {
        self.read(key, "true or false", Value::as_bool)
    }

    fn number(&self, key: &str) -> Result<Option<f64>, ConfigError> {
        self.read(key, "a number", Value::as_f64)
    }

    /// A size from 0 to `limit` (that it is not 0 is checked later).
    fn size(&self, key: &str, limit: u64) -> Result<Option<usize>, ConfigError> {
        let fits = |value: &Value| value.as_u64().filter(|&n| n <= limit)?.try_into().ok();
        self.read(key, &format!("a whole number from 1 to {limit}"), fits)
    }

    fn required_size(&self, key: &str, limit: u64) -> Result<usize, ConfigError> {
        match self.size(key, limit)? {
            Some(0) => Err(self.invalid(key, "0".into(), format!("a whole number from 1 to {limit}"))),
            Some(size) => Ok(size),
            None => Err(self.missing(key)),
        }
    }

    fn object(&self, key: &str) -> Result<Option<Object<'a>>, ConfigError> {
        let map = self.read(key, "an object", Value::as_object)?;
        Ok(map.map(|map| Object { file: self.file, path: format!("{}{key}.", self.path), map }))
    }

    fn missing(&self, key: &str) -> ConfigError {
        ConfigError::Missing { file: self.file.to_owned(), key: self.key(key) }
    }

    fn invalid(&self, key: &str, value: String, expected: String) -> ConfigError {
        ConfigError::Invalid { file: self.file.to_owned(), key: self.key(key), value, expected }
    }

    fn unsupported(&self, key: &str, value: String, supported: &str) -> ConfigError {
        let supported = supported.to_owned();
        ConfigError::Unsupported { file: self.file.to_owned(), key: self.key(key), value, supported }
    }
}
