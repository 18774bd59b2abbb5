//! Sizes of well-known models, for measuring with random weights where the real ones aren't at hand.

use crate::model::config::{
    Activation, Family, LayerConfig, ModelConfig, RopeConfig, RopeScaling, count_parameters,
};

/// Names of the shapes, as `tinylora bench --random` takes them.
pub const NAMES: [&str; 4] = ["smollm2-135m", "qwen2.5-0.5b", "qwen2.5-3b", "qwen2.5-7b"];

/// The configuration of that name; None: unknown.
pub fn shape(name: &str) -> Option<ModelConfig> {
    let (
        hidden_size,
        intermediate_size,
        num_layers,
        num_heads,
        num_kv_heads,
        head_dim,
        vocab_size,
        bias,
        tied,
    ) = match name {
        "smollm2-135m" => (576, 1536, 30, 9, 3, 64, 49_152, false, true),
        "qwen2.5-0.5b" => (896, 4864, 24, 14, 2, 64, 151_936, true, true),
        "qwen2.5-3b" => (2048, 11_008, 36, 16, 2, 128, 151_936, true, true),
        "qwen2.5-7b" => (3584, 18_944, 28, 28, 4, 128, 152_064, true, false),
        _ => return None,
    };
    let mut config = ModelConfig {
        family: if bias { Family::Qwen2 } else { Family::Llama },
        vocab_size,
        hidden_size,
        intermediate_size,
        num_layers,
        num_heads,
        num_kv_heads,
        head_dim,
        rms_norm_eps: 1e-6,
        norm_plus_one: false,
        activation: Activation::Silu,
        embedding_scale: 1.0,
        qkv_bias: bias,
        qk_norm: false,
        sandwich_norms: false,
        attention_scale: (head_dim as f32).sqrt().recip(),
        ropes: vec![RopeConfig { theta: 1e6, scaling: RopeScaling::None }],
        layers: vec![LayerConfig { rope: 0, window: None }; num_layers],
        tied_head: tied,
        max_positions: 4096,
        parameters: 0,
    };
    config.parameters = count_parameters(&config);
    Some(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_those_of_the_real_models() {
        // As the models' cards have them (embedding counted once where it is the head).
        let counts = [134_515_008, 494_032_768, 3_085_938_688, 7_615_616_512];
        for (name, count) in NAMES.into_iter().zip(counts) {
            assert_eq!(shape(name).expect("known").parameters, count, "{name}");
        }
        assert!(shape("unknown").is_none());
    }
}
