//! Sizes of well-known models, for measuring with random weights where the real ones aren't at hand.

use crate::model::config::{
    Activation, Family, LayerConfig, ModelConfig, RopeConfig, RopeScaling, count_parameters,
};

/// Names of the shapes, as `tinylora bench --random` takes them.
pub const NAMES: [&str; 8] = [
    "smollm2-135m",
    "qwen2.5-0.5b",
    "qwen2.5-1.5b",
    "qwen2.5-3b",
    "qwen2.5-7b",
    "qwen3-8b",
    "llama-3.2-3b",
    "llama-3.1-8b",
];

/// The configuration behind a model reference, for estimates without its files: a short name or a repository of that
/// name (`Qwen/Qwen2.5-7B-Instruct`, `Qwen/Qwen2.5-Math-7B`). None: unknown.
pub fn shape_of(reference: &str) -> Option<ModelConfig> {
    let name = reference.split('@').next()?.rsplit('/').next()?.to_lowercase();
    shape(&name.trim_end_matches("-instruct").replace("-math-", "-"))
}

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
        "qwen2.5-1.5b" => (1536, 8960, 28, 12, 2, 128, 151_936, true, true),
        "qwen2.5-3b" => (2048, 11_008, 36, 16, 2, 128, 151_936, true, true),
        "qwen2.5-7b" => (3584, 18_944, 28, 28, 4, 128, 152_064, true, false),
        "qwen3-8b" => (4096, 12_288, 36, 32, 8, 128, 151_936, false, false),
        "llama-3.2-3b" => (3072, 8192, 28, 24, 8, 128, 128_256, false, true),
        "llama-3.1-8b" => (4096, 14_336, 32, 32, 8, 128, 128_256, false, false),
        _ => return None,
    };
    let mut config = ModelConfig {
        family: match (name, bias) {
            ("qwen3-8b", _) => Family::Qwen3,
            (_, true) => Family::Qwen2,
            (_, false) => Family::Llama,
        },
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
        qk_norm: name == "qwen3-8b",
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

/// The first so many layers of a model of these sizes, with its embedding and head.
///
/// # Panics
/// If it has fewer.
pub fn first_layers(mut config: ModelConfig, layers: usize) -> ModelConfig {
    assert!((1..=config.num_layers).contains(&layers), "1 to {} layers", config.num_layers);
    config.layers.truncate(layers);
    config.num_layers = layers;
    config.parameters = count_parameters(&config);
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_those_of_the_real_models() {
        // As the models' cards have them (embedding counted once where it is the head).
        let counts = [
            134_515_008,
            494_032_768,
            1_543_714_304,
            3_085_938_688,
            7_615_616_512,
            8_190_735_360,
            3_212_749_824,
            8_030_261_248,
        ];
        for (name, count) in NAMES.into_iter().zip(counts) {
            assert_eq!(shape(name).expect("known").parameters, count, "{name}");
        }
        assert!(shape("unknown").is_none());
    }

    #[test]
    fn references_name_shapes() {
        let parameters = |reference| shape_of(reference).map(|config| config.parameters);
        assert_eq!(parameters("Qwen/Qwen2.5-Math-7B@main"), Some(7_615_616_512));
        assert_eq!(parameters("meta-llama/Llama-3.2-3B-Instruct"), Some(3_212_749_824));
        assert_eq!(parameters("smollm2-135m"), Some(134_515_008));
        assert_eq!(parameters("someone/unknown-7B"), None);
    }
}
