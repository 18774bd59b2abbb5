//! GGUF metadata enter, a [`ModelConfig`] leaves. What the file does not say (Gemma's local rope base, the
//! pattern of its layers, its score scale) is what llama.cpp takes.

use super::tensors::{Size, finish, limits};
use super::{Activation, ConfigError, Family, LayerConfig, ModelConfig, RopeConfig, RopeScaling};
use crate::gguf::{Array, Header, Value};

const ARCHITECTURES: &str = "llama, mistral, qwen2, qwen3, gemma3";
/// Layers of Gemma 3 27B, the only size whose scores are not scaled by head_dim^-½.
const GEMMA3_27B_LAYERS: usize = 62;

impl ModelConfig {
    /// From a GGUF header. `rope_factors` is the content of the tensor `rope_freqs.weight`, where the file has it.
    pub fn from_gguf(header: &Header, rope_factors: Option<&[f32]>) -> Result<ModelConfig, ConfigError> {
        let name = header.string("general.architecture")?;
        let family = match name {
            "llama" => Family::Llama,
            "mistral" => Family::Mistral,
            "qwen2" => Family::Qwen2,
            "qwen3" => Family::Qwen3,
            "gemma3" => Family::Gemma3,
            other => {
                let value = format!("{other:?}");
                return Err(unsupported(header, "general.architecture".into(), value, ARCHITECTURES));
            }
        };
        let keys = Keys { header, prefix: name };
        refuse_variants(&keys)?;
        convert(&keys, family, rope_factors)
    }
}

fn convert(keys: &Keys, family: Family, rope_factors: Option<&[f32]>) -> Result<ModelConfig, ConfigError> {
    let gemma = family == Family::Gemma3;
    let hidden_size = keys.required_size("embedding_length", limits::WIDTH)?;
    let num_layers = keys.required_size("block_count", limits::LAYERS)?;
    let num_heads = keys.required_size("attention.head_count", limits::HEADS)?;
    let per_head = hidden_size / num_heads;
    let head_dim = keys.size("attention.key_length", limits::HEAD_DIM)?.unwrap_or(per_head);
    check_head(keys, head_dim)?;
    let scale = match keys.number("attention.scale")? {
        Some(scale) => scale,
        None if gemma && num_layers == GEMMA3_27B_LAYERS => (per_head as f64).powf(-0.5),
        None => (head_dim as f64).powf(-0.5),
    };
    let (ropes, layers) = positions(keys, family, num_layers, rope_factors)?;
    let embedding = keys.header.tensors.iter().find(|tensor| tensor.name == "token_embd.weight");
    let vocab_size = match embedding {
        Some(tensor) => tensor.shape[0],
        None => keys.required_size("vocab_size", limits::VOCABULARY)?,
    };
    let config = ModelConfig {
        family,
        vocab_size,
        hidden_size,
        intermediate_size: keys.required_size("feed_forward_length", limits::WIDTH)?,
        num_layers,
        num_heads,
        num_kv_heads: keys.size("attention.head_count_kv", limits::HEADS)?.unwrap_or(num_heads),
        head_dim,
        rms_norm_eps: keys.required_number("attention.layer_norm_rms_epsilon")? as f32,
        norm_plus_one: gemma,
        activation: if gemma { Activation::GeluTanh } else { Activation::Silu },
        embedding_scale: if gemma { (hidden_size as f64).sqrt() as f32 } else { 1.0 },
        qkv_bias: family == Family::Qwen2,
        qk_norm: matches!(family, Family::Qwen3 | Family::Gemma3),
        sandwich_norms: gemma,
        attention_scale: scale as f32,
        ropes,
        layers,
        tied_head: !keys.header.tensors.iter().any(|tensor| tensor.name == "output.weight"),
        max_positions: keys.required_size("context_length", limits::POSITIONS)?,
        parameters: 0,
    };
    finish(config, &keys.header.path, |size| match size {
        Size::Vocabulary => "token_embd.weight".to_owned(),
        other => keys.key(name_of(other)),
    })
}

fn refuse_variants(keys: &Keys) -> Result<(), ConfigError> {
    if let Some(count) = keys.size("expert_count", u64::MAX)?.filter(|&count| count > 0) {
        return Err(keys.unsupported("expert_count", count.to_string(), "0 (dense models)"));
    }
    for key in ["attn_logit_softcapping", "final_logit_softcapping", "logit_scale"] {
        if let Some(number) = keys.number(key)? {
            return Err(keys.unsupported(key, number.to_string(), "none"));
        }
    }
    if keys.number("attention.scale")?.is_some_and(|scale| !(scale > 0.0 && scale.is_finite())) {
        return Err(keys.unsupported("attention.scale", "not positive".into(), "a number above 0"));
    }
    Ok(())
}

/// Keys, values and rotated parts must all have the size of a head.
fn check_head(keys: &Keys, head_dim: usize) -> Result<(), ConfigError> {
    for key in ["attention.value_length", "rope.dimension_count"] {
        if let Some(size) = keys.size(key, limits::HEAD_DIM)?.filter(|&size| size != head_dim) {
            return Err(keys.unsupported(key, size.to_string(), &format!("the size of a head, {head_dim}")));
        }
    }
    Ok(())
}

type Positions = (Vec<RopeConfig>, Vec<LayerConfig>);

/// Rope tables and windows.
fn positions(
    keys: &Keys,
    family: Family,
    num_layers: usize,
    rope_factors: Option<&[f32]>,
) -> Result<Positions, ConfigError> {
    let theta = keys.number("rope.freq_base")?.unwrap_or(10_000.0);
    let global = RopeConfig { theta, scaling: scaling(keys, rope_factors)? };
    let window = keys.size("attention.sliding_window", limits::POSITIONS)?.filter(|&window| window > 0);
    let (Family::Gemma3, Some(window)) = (family, window) else {
        // llama.cpp knows windows of the Qwen families as little as their files do.
        let window = window.filter(|_| matches!(family, Family::Llama | Family::Mistral));
        return Ok((vec![global], vec![LayerConfig { rope: 0, window }; num_layers]));
    };
    let local_theta = keys.number("rope.freq_base_swa")?.unwrap_or(10_000.0);
    let local = RopeConfig { theta: local_theta, scaling: RopeScaling::None };
    let layer = |local: bool| LayerConfig { rope: usize::from(local), window: local.then_some(window) };
    Ok((vec![global, local], local_layers(keys, num_layers)?.into_iter().map(layer).collect()))
}

/// For each layer of Gemma 3, whether its attention is local: every sixth is global unless the file says else.
fn local_layers(keys: &Keys, num_layers: usize) -> Result<Vec<bool>, ConfigError> {
    let key = keys.key("attention.sliding_window_pattern");
    match keys.header.get(&key) {
        Some(Value::Array(Array::Bool(local))) if local.len() == num_layers => Ok(local.clone()),
        Some(Value::Array(array)) => {
            let value = Value::Array(array.clone()).describe();
            Err(unsupported(keys.header, key, value, &format!("{num_layers} bools, or a number")))
        }
        _ => {
            let pattern = keys.size("attention.sliding_window_pattern", limits::LAYERS)?.unwrap_or(6);
            if pattern == 0 {
                return Err(unsupported(keys.header, key, "0".into(), "at least 1"));
            }
            Ok((1..=num_layers).map(|number| !number.is_multiple_of(pattern)).collect())
        }
    }
}

fn scaling(keys: &Keys, rope_factors: Option<&[f32]>) -> Result<RopeScaling, ConfigError> {
    let kind = keys.header.optional(&keys.key("rope.scaling.type"), "a string", Value::as_str)?;
    // Files from before `rope.scaling.type` have only the factor of linear scaling.
    let old = keys.number("rope.scale_linear")?.filter(|&factor| factor != 1.0);
    let linear = match kind {
        None => old,
        Some("none") => None,
        Some("linear") => {
            let factor = keys.required_number("rope.scaling.factor")?;
            Some(factor).filter(|&factor| factor != 1.0)
        }
        Some(other) => {
            let value = format!("{other:?}");
            return Err(keys.unsupported(
                "rope.scaling.type",
                value,
                "none, linear, the tensor rope_freqs.weight",
            ));
        }
    };
    match (linear, rope_factors) {
        (None, None) => Ok(RopeScaling::None),
        (Some(factor), None) => Ok(RopeScaling::Linear { factor }),
        (None, Some(factors)) => Ok(RopeScaling::Factors(factors.iter().map(|&x| x.into()).collect())),
        (Some(factor), Some(_)) => {
            let value = format!("{factor} besides the tensor rope_freqs.weight");
            Err(keys.unsupported("rope.scaling.factor", value, "one of the two"))
        }
    }
}

fn name_of(size: Size) -> &'static str {
    match size {
        Size::Vocabulary => "vocab_size",
        Size::Hidden => "embedding_length",
        Size::Intermediate => "feed_forward_length",
        Size::Layers => "block_count",
        Size::Heads => "attention.head_count",
        Size::KvHeads => "attention.head_count_kv",
        Size::HeadDim => "attention.key_length",
        Size::Positions => "context_length",
        Size::Epsilon => "attention.layer_norm_rms_epsilon",
        Size::Window => "attention.sliding_window",
        Size::Theta => "rope.freq_base",
        Size::Scaling => "rope.scaling.factor",
    }
}

fn unsupported(header: &Header, key: String, value: String, supported: &str) -> ConfigError {
    ConfigError::Unsupported { file: header.path.clone(), key, value, supported: supported.to_owned() }
}

/// Reads keys that begin with the architecture's name.
struct Keys<'a> {
    header: &'a Header,
    prefix: &'a str,
}

impl Keys<'_> {
    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.prefix)
    }

    fn number(&self, key: &str) -> Result<Option<f64>, ConfigError> {
        Ok(self.header.optional(&self.key(key), "a number", Value::as_f64)?)
    }

    fn required_number(&self, key: &str) -> Result<f64, ConfigError> {
        Ok(self.header.float(&self.key(key))?)
    }

    fn size(&self, key: &str, limit: u64) -> Result<Option<usize>, ConfigError> {
        let key = self.key(key);
        let Some(size) = self.header.optional(&key, "a whole number", Value::as_u64)? else {
            return Ok(None);
        };
        match usize::try_from(size) {
            Ok(fits) if size <= limit => Ok(Some(fits)),
            _ => {
                let expected = format!("a whole number up to {limit}");
                let file = self.header.path.clone();
                Err(ConfigError::Invalid { file, key, value: size.to_string(), expected })
            }
        }
    }

    fn required_size(&self, key: &str, limit: u64) -> Result<usize, ConfigError> {
        match self.size(key, limit)? {
            Some(0) => Err(ConfigError::Invalid {
                file: self.header.path.clone(),
                key: self.key(key),
                value: "0".into(),
                expected: format!("a whole number from 1 to {limit}"),
            }),
            Some(size) => Ok(size),
            None => Err(ConfigError::Missing { file: self.header.path.clone(), key: self.key(key) }),
        }
    }

    fn unsupported(&self, key: &str, value: String, supported: &str) -> ConfigError {
        unsupported(self.header, self.key(key), value, supported)
    }
}
