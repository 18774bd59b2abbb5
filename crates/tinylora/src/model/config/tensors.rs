//! A configuration enters; the names and shapes of its weights, or what is wrong with its sizes, leave.

use std::path::Path;

use super::{ConfigError, ModelConfig, RopeScaling};

/// Every tensor that a model has, by its Hugging Face name, with its shape (out, in). The head of a model whose
/// head is the embedding matrix is not in the list.
pub fn expected_tensors(config: &ModelConfig) -> Vec<(String, Vec<usize>)> {
    let (d, f, head) = (config.hidden_size, config.intermediate_size, config.head_dim);
    let (q, kv) = (config.num_heads * head, config.num_kv_heads * head);
    let mut list = vec![("model.embed_tokens.weight".to_owned(), vec![config.vocab_size, d])];
    for layer in 0..config.num_layers {
        let mut push = |name: &str, shape: &[usize]| {
            list.push((format!("model.layers.{layer}.{name}"), shape.to_vec()));
        };
        push("input_layernorm.weight", &[d]);
        for (name, out) in [("q_proj", q), ("k_proj", kv), ("v_proj", kv)] {
            push(&format!("self_attn.{name}.weight"), &[out, d]);
            if config.qkv_bias {
                push(&format!("self_attn.{name}.bias"), &[out]);
            }
        }
        if config.qk_norm {
            push("self_attn.q_norm.weight", &[head]);
            push("self_attn.k_norm.weight", &[head]);
        }
        push("self_attn.o_proj.weight", &[d, q]);
        push("post_attention_layernorm.weight", &[d]);
        if config.sandwich_norms {
            push("pre_feedforward_layernorm.weight", &[d]);
            push("post_feedforward_layernorm.weight", &[d]);
        }
        push("mlp.gate_proj.weight", &[f, d]);
        push("mlp.up_proj.weight", &[f, d]);
        push("mlp.down_proj.weight", &[d, f]);
    }
    list.push(("model.norm.weight".to_owned(), vec![d]));
    if !config.tied_head {
        list.push(("lm_head.weight".to_owned(), vec![config.vocab_size, d]));
    }
    list
}

/// Number of parameters as stored.
pub(crate) fn count_parameters(config: &ModelConfig) -> u64 {
    expected_tensors(config).iter().map(|(_, shape)| shape.iter().map(|&n| n as u64).product::<u64>()).sum()
}

/// The largest sizes that are accepted: far above every model of these families, and small enough that no
/// product of them overflows.
pub(super) mod limits {
    pub const VOCABULARY: u64 = 1 << 24;
    pub const WIDTH: u64 = 1 << 20;
    pub const HEADS: u64 = 1 << 12;
    pub const HEAD_DIM: u64 = 1 << 12;
    pub const LAYERS: u64 = 1 << 12;
    pub const POSITIONS: u64 = 1 << 31;
}

/// The checks that hold for every source; then the number of parameters is filled in. `key` maps a size to the
/// name that it has in the file.
pub(super) fn finish(
    mut config: ModelConfig,
    file: &Path,
    key: impl Fn(Size) -> String,
) -> Result<ModelConfig, ConfigError> {
    let invalid = |size: Size, value: String, expected: String| {
        Err(ConfigError::Invalid { file: file.to_owned(), key: key(size), value, expected })
    };
    let range = [
        (Size::Vocabulary, config.vocab_size, limits::VOCABULARY),
        (Size::Hidden, config.hidden_size, limits::WIDTH),
        (Size::Intermediate, config.intermediate_size, limits::WIDTH),
        (Size::Layers, config.num_layers, limits::LAYERS),
        (Size::Heads, config.num_heads, limits::HEADS),
        (Size::KvHeads, config.num_kv_heads, limits::HEADS),
        (Size::HeadDim, config.head_dim, limits::HEAD_DIM),
        (Size::Positions, config.max_positions, limits::POSITIONS),
    ];
    for (size, value, limit) in range {
        if value == 0 || value as u64 > limit {
            return invalid(size, value.to_string(), format!("a whole number from 1 to {limit}"));
        }
    }
    if !config.num_heads.is_multiple_of(config.num_kv_heads) {
        let expected = format!("a divisor of the number of heads, {}", config.num_heads);
        return invalid(Size::KvHeads, config.num_kv_heads.to_string(), expected);
    }
    if !config.head_dim.is_multiple_of(2) {
        return invalid(Size::HeadDim, config.head_dim.to_string(), "an even number".into());
    }
    if !(config.rms_norm_eps > 0.0 && config.rms_norm_eps < 1.0) {
        return invalid(Size::Epsilon, config.rms_norm_eps.to_string(), "a number between 0 and 1".into());
    }
    if let Some(window) = config.layers.iter().filter_map(|layer| layer.window).find(|&window| window == 0) {
        return invalid(Size::Window, window.to_string(), "at least 1".into());
    }
    for rope in &config.ropes {
        if !(rope.theta > 1.0 && rope.theta.is_finite()) {
            return invalid(Size::Theta, rope.theta.to_string(), "a number above 1".into());
        }
        if let Err(problem) = check_scaling(&rope.scaling, config.head_dim) {
            return invalid(Size::Scaling, format!("{:?}", rope.scaling), problem);
        }
    }
    config.parameters = count_parameters(&config);
    Ok(config)
}

/// Settings that files name differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Size {
    Vocabulary,
    Hidden,
    Intermediate,
    Layers,
    Heads,
    KvHeads,
    HeadDim,
    Positions,
    Epsilon,
    Window,
    Theta,
    Scaling,
}

fn check_scaling(scaling: &RopeScaling, head_dim: usize) -> Result<(), String> {
    let positive = |x: f64| x > 0.0 && x.is_finite();
    let fine = match scaling {
        RopeScaling::None => true,
        RopeScaling::Linear { factor } => positive(*factor),
        &RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max } => {
            if high_freq_factor <= low_freq_factor {
                return Err("high_freq_factor above low_freq_factor".into());
            }
            [factor, low_freq_factor, high_freq_factor, original_max].into_iter().all(positive)
        }
        RopeScaling::Factors(factors) => {
            if factors.len() != head_dim / 2 {
                return Err(format!("{} factors, one a frequency, not {}", head_dim / 2, factors.len()));
            }
            factors.iter().copied().all(positive)
        }
    };
    if fine { Ok(()) } else { Err("positive numbers".into()) }
}
