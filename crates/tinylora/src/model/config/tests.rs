//! Configurations of every family, and what is refused.

use std::path::Path;

use super::*;
use crate::gguf::Header;
use crate::gguf::testing::Builder;

fn parse(text: &str) -> Result<ModelConfig, ConfigError> {
    ModelConfig::from_config_json(text, Path::new("config.json"))
}

fn good(text: &str) -> ModelConfig {
    parse(text).unwrap_or_else(|error| panic!("{error}"))
}

const LLAMA_3_2_1B: &str = r#"{
    "architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
    "bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009], "head_dim": 64, "hidden_act": "silu",
    "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 8192,
    "max_position_embeddings": 131072, "mlp_bias": false, "model_type": "llama", "num_attention_heads": 32,
    "num_hidden_layers": 16, "num_key_value_heads": 8, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
    "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192, "rope_type": "llama3"},
    "rope_theta": 500000.0, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
    "transformers_version": "4.45.0.dev0", "use_cache": true, "vocab_size": 128256}"#;

const QWEN3_0_6B: &str = r#"{
    "architectures": ["Qwen3ForCausalLM"], "attention_bias": false, "head_dim": 128, "hidden_act": "silu",
    "hidden_size": 1024, "intermediate_size": 3072, "max_position_embeddings": 40960, "max_window_layers": 28,
    "model_type": "qwen3", "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06, "rope_scaling": null, "rope_theta": 1000000, "sliding_window": null,
    "tie_word_embeddings": true, "use_sliding_window": false, "vocab_size": 151936}"#;

const GEMMA3_270M: &str = r#"{
    "_sliding_window_pattern": 6, "attention_bias": false, "attn_logit_softcapping": null,
    "final_logit_softcapping": null, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 640, "intermediate_size": 2048, "max_position_embeddings": 32768,
    "model_type": "gemma3_text", "num_attention_heads": 4, "num_hidden_layers": 18, "num_key_value_heads": 1,
    "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06, "rope_local_base_freq": 10000.0,
    "rope_scaling": null, "rope_theta": 1000000.0, "sliding_window": 512,
    "use_bidirectional_attention": false, "vocab_size": 262144}"#;

/// `text` with one key set to another value (or added).
fn with(text: &str, key: &str, value: &str) -> String {
    let mut map: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text).expect("test text");
    map.insert(key.to_owned(), serde_json::from_str(value).expect("test value"));
    serde_json::Value::Object(map).to_string()
}

#[test]
fn llama_3_in_both_spellings() {
    let config = good(LLAMA_3_2_1B);
    let scaling = RopeScaling::Llama3 {
        factor: 32.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max: 8192.0,
    };
    let expected = ModelConfig {
        family: Family::Llama,
        vocab_size: 128_256,
        hidden_size: 2048,
        intermediate_size: 8192,
        num_layers: 16,
        num_heads: 32,
        num_kv_heads: 8,
        head_dim: 64,
        rms_norm_eps: 1e-5,
        norm_plus_one: false,
        activation: Activation::Silu,
        embedding_scale: 1.0,
        qkv_bias: false,
        qk_norm: false,
        sandwich_norms: false,
        attention_scale: 0.125,
        ropes: vec![RopeConfig { theta: 500_000.0, scaling }],
        layers: vec![LayerConfig { rope: 0, window: None }; 16],
        tied_head: true,
        max_positions: 131_072,
        parameters: 1_235_814_400,
    };
    assert_eq!(config, expected);

    let new = r#"{"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "rope_theta": 500000.0,
        "original_max_position_embeddings": 8192, "rope_type": "llama3"}"#;
    let text = with(
        &with(&with(LLAMA_3_2_1B, "rope_scaling", "null"), "rope_theta", "null"),
        "rope_parameters",
        new,
    );
    assert_eq!(good(&text), expected);
}

#[test]
fn llama_2_and_smollm2_take_the_defaults() {
    let llama2 = good(
        r#"{"architectures": ["LlamaForCausalLM"], "hidden_act": "silu", "hidden_size": 4096,
        "intermediate_size": 11008, "max_position_embeddings": 4096, "model_type": "llama",
        "num_attention_heads": 32, "num_hidden_layers": 32, "rms_norm_eps": 1e-05, "rope_scaling": null,
        "tie_word_embeddings": false, "vocab_size": 32000}"#,
    );
    assert_eq!((llama2.num_kv_heads, llama2.head_dim, llama2.parameters), (32, 128, 6_738_415_616));
    assert_eq!(llama2.ropes, [RopeConfig { theta: 10_000.0, scaling: RopeScaling::None }]);
    let smollm2 = good(
        r#"{"hidden_act": "silu", "hidden_size": 576, "intermediate_size": 1536,
        "is_llama_config": true, "max_position_embeddings": 8192, "model_type": "llama",
        "num_attention_heads": 9, "num_hidden_layers": 30, "num_key_value_heads": 3, "rms_norm_eps": 1e-05,
        "rope_interleaved": false, "rope_scaling": null, "rope_theta": 100000, "tie_word_embeddings": true,
        "vocab_size": 49152}"#,
    );
    assert_eq!((smollm2.head_dim, smollm2.parameters), (64, 134_515_008));
}

#[test]
fn mistral_windows() {
    let text = r#"{"hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 14336,
        "max_position_embeddings": 32768, "model_type": "mistral", "num_attention_heads": 32,
        "num_hidden_layers": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 10000.0,
        "sliding_window": 4096, "tie_word_embeddings": false, "vocab_size": 32000}"#;
    let config = good(text);
    assert_eq!((config.family, config.parameters), (Family::Mistral, 7_241_732_096));
    assert_eq!(config.layers, vec![LayerConfig { rope: 0, window: Some(4096) }; 32]);
    assert_eq!(good(&with(text, "sliding_window", "null")).layers[0].window, None);
}

#[test]
fn qwen2_has_biases_and_windows_only_when_they_are_on() {
    let text = r#"{"hidden_act": "silu", "hidden_size": 896, "intermediate_size": 4864,
        "max_position_embeddings": 32768, "max_window_layers": 21, "model_type": "qwen2",
        "num_attention_heads": 14, "num_hidden_layers": 24, "num_key_value_heads": 2, "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0, "sliding_window": 32768, "tie_word_embeddings": true,
        "use_sliding_window": false, "vocab_size": 151936}"#;
    let config = good(text);
    assert!(config.qkv_bias && !config.qk_norm);
    assert_eq!((config.head_dim, config.parameters), (64, 494_032_768));
    assert!(config.layers.iter().all(|layer| layer.window.is_none()));
    let windows = good(&with(text, "use_sliding_window", "true")).layers;
    assert_eq!((windows[20].window, windows[21].window), (None, Some(32768)));
}

#[test]
fn qwen3_has_its_own_head_size() {
    let config = good(QWEN3_0_6B);
    assert!(config.qk_norm && !config.qkv_bias);
    assert_eq!((config.head_dim, config.num_heads * config.head_dim), (128, 2048));
    assert_eq!(config.parameters, 596_049_920);
    assert_eq!(config.ropes, [RopeConfig { theta: 1_000_000.0, scaling: RopeScaling::None }]);
}

#[test]
fn gemma3_text() {
    let config = good(GEMMA3_270M);
    assert!(config.norm_plus_one && config.qk_norm && config.sandwich_norms && config.tied_head);
    assert_eq!(config.activation, Activation::GeluTanh);
    assert_eq!(config.parameters, 268_098_176);
    assert_eq!(config.attention_scale, 1.0 / 16.0);
    assert_eq!(config.embedding_scale, 25.298_222, "√640 in f32");
    let thetas: Vec<f64> = config.ropes.iter().map(|rope| rope.theta).collect();
    assert_eq!(thetas, [1e6, 1e4]);
    let (local, global) = (LayerConfig { rope: 1, window: Some(512) }, LayerConfig { rope: 0, window: None });
    assert_eq!(config.layers, [local, local, local, local, local, global].repeat(3));
}

/// As the Hub has the 4B model: an outer model that also sees, with defaults left out.
#[test]
fn gemma3_inside_a_model_that_sees() {
    let config = good(
        r#"{"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
        "mm_tokens_per_image": 256, "text_config": {"hidden_size": 2560, "intermediate_size": 10240,
        "model_type": "gemma3_text", "num_hidden_layers": 34, "sliding_window": 1024,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"}}, "vision_config": {"hidden_size": 1152}}"#,
    );
    assert_eq!((config.vocab_size, config.num_heads, config.num_kv_heads), (262_208, 8, 4));
    assert_eq!(config.ropes[0], RopeConfig { theta: 1e6, scaling: RopeScaling::Linear { factor: 8.0 } });
    assert_eq!(config.ropes[1], RopeConfig { theta: 1e4, scaling: RopeScaling::None });
}

/// The form that transformers 5 saves.
#[test]
fn gemma3_in_the_new_spelling() {
    let old = good(&with(GEMMA3_270M, "rope_scaling", r#"{"factor": 8.0, "type": "linear"}"#));
    let text = GEMMA3_270M
        .replace("\"rope_theta\": 1000000.0,", "")
        .replace("\"rope_local_base_freq\": 10000.0,", "");
    let text = text.replace("\"_sliding_window_pattern\": 6,", "");
    let rope = r#"{"full_attention": {"factor": 8.0, "rope_theta": 1000000.0, "rope_type": "linear"},
        "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"}}"#;
    let kinds: Vec<&str> =
        (0..18).map(|i| if i % 6 == 5 { "full_attention" } else { "sliding_attention" }).collect();
    let types = serde_json::to_string(&kinds).expect("strings");
    assert_eq!(good(&with(&with(&text, "rope_parameters", rope), "layer_types", &types)), old);
}

#[test]
fn what_cannot_be_run_is_named() {
    let llama = |key, value| with(LLAMA_3_2_1B, key, value);
    let gemma = |key, value| with(GEMMA3_270M, key, value);
    let qwen = |key, value| with(QWEN3_0_6B, key, value);
    let cases = [
        ("{".to_owned(), "not a model configuration"),
        ("[]".to_owned(), "no object"),
        ("{}".to_owned(), "the key `model_type` is missing"),
        (
            llama("model_type", "\"mamba\""),
            "`model_type` is \"mamba\", which is not supported; supported: llama, ",
        ),
        (llama("model_type", "3"), "`model_type` is 3, expected a string"),
        (
            llama("rope_scaling", r#"{"rope_type": "yarn", "factor": 4}"#),
            "`rope_scaling.rope_type` is \"yarn\"",
        ),
        (llama("rope_scaling", r#"{"type": "dynamic", "factor": 4}"#), "`rope_scaling.type` is \"dynamic\""),
        (llama("rope_scaling", r#"{"type": "linear"}"#), "the key `rope_scaling.factor` is missing"),
        (llama("rope_scaling", r#"{"type": "linear", "factor": 0}"#), "positive numbers"),
        (llama("rope_scaling", "4"), "`rope_scaling` is 4, expected an object"),
        (llama("rope_theta", "1"), "`rope_theta` is 1, expected a number above 1"),
        (llama("partial_rotary_factor", "0.5"), "`partial_rotary_factor` is 0.5"),
        (llama("attention_bias", "true"), "`attention_bias` is true"),
        (llama("mlp_bias", "true"), "`mlp_bias` is true"),
        (llama("hidden_act", "\"relu\""), "`hidden_act` is \"relu\""),
        (llama("quantization_config", r#"{"bits": 4}"#), "`quantization_config` is {\"bits\":4}"),
        (llama("hidden_size", "0"), "`hidden_size` is 0, expected a whole number from 1"),
        (llama("hidden_size", "-1"), "`hidden_size` is -1, expected a whole number from 1"),
        (llama("hidden_size", "null"), "the key `hidden_size` is missing"),
        (llama("vocab_size", "1e30"), "`vocab_size` is 1e+30, expected a whole number"),
        (llama("num_hidden_layers", "99999"), "`num_hidden_layers` is 99999"),
        (llama("num_attention_heads", "0"), "`num_attention_heads` is 0"),
        (llama("num_key_value_heads", "0"), "`num_key_value_heads` is 0"),
        (
            llama("num_key_value_heads", "5"),
            "`num_key_value_heads` is 5, expected a divisor of the number of heads, 32",
        ),
        (llama("head_dim", "63"), "`head_dim` is 63, expected an even number"),
        (
            with(&llama("head_dim", "null"), "hidden_size", "2050"),
            "expected a multiple of `num_attention_heads`",
        ),
        (llama("rms_norm_eps", "0"), "`rms_norm_eps` is 0"),
        (llama("tie_word_embeddings", "1"), "`tie_word_embeddings` is 1, expected true or false"),
        (
            qwen("layer_types", "[\"full_attention\"]"),
            "`layer_types` is 1 entries, expected one entry for each of the 28",
        ),
        (
            with(&with(QWEN3_0_6B, "num_hidden_layers", "1"), "layer_types", "[\"linear_attention\"]"),
            "linear_attention",
        ),
        (
            with(&with(QWEN3_0_6B, "num_hidden_layers", "1"), "layer_types", "[\"sliding_attention\"]"),
            "use_sliding_window",
        ),
        (gemma("use_bidirectional_attention", "true"), "`use_bidirectional_attention` is true"),
        (gemma("final_logit_softcapping", "30.0"), "`final_logit_softcapping` is 30"),
        (gemma("sliding_window", "0"), "`sliding_window` is 0, expected at least 1"),
        (gemma("query_pre_attn_scalar", "0"), "`query_pre_attn_scalar` is 0"),
        (
            gemma("rope_parameters", r#"{"rope_theta": 1e6}"#),
            "`rope_parameters` is {\"rope_theta\":1000000.0}",
        ),
        (r#"{"model_type": "gemma3"}"#.to_owned(), "the key `text_config` is missing"),
        (
            r#"{"model_type": "gemma3", "text_config": {"head_dim": 3}}"#.to_owned(),
            "`text_config.head_dim` is 3, expected an even number",
        ),
    ];
    for (text, expected) in cases {
        let message = parse(&text).expect_err(expected).to_string();
        assert!(message.contains(expected), "{message}\nexpected: {expected}");
        assert!(message.starts_with("config.json: "), "{message}");
    }
}

/// Every third or sixteenth value of `inv_freq` of transformers 5.23: `LlamaRotaryEmbedding(LlamaConfig(…)).inv_freq`
/// for Llama 3.2 1B and SmolLM2 135M, `Gemma3RotaryEmbedding` for Gemma 3 4B (global and local).
#[test]
fn frequencies_are_those_of_transformers() {
    let llama3 = good(LLAMA_3_2_1B).ropes.remove(0);
    let rope = |theta, scaling| RopeConfig { theta, scaling };
    let cases: [(RopeConfig, usize, usize, &[f64]); 4] = [
        (
            llama3,
            64,
            3,
            &[
                1.0,
                2.922_278_3e-1,
                8.539_71e-2,
                2.495_540_9e-2,
                7.292_665e-3,
                1.290_548e-3,
                1.946_163_9e-5,
                5.687_232_3e-6,
                1.661_967_4e-6,
                4.856_731_3e-7,
                1.419_272e-7,
            ],
        ),
        (
            rope(1e5, RopeScaling::None),
            64,
            3,
            &[
                1.0,
                3.398_208_3e-1,
                1.154_782e-1,
                3.924_19e-2,
                1.333_521_5e-2,
                4.531_583_7e-3,
                1.539_926_5e-3,
                5.232_991e-4,
                1.778_279_4e-4,
                6.042_963_7e-5,
                2.053_525e-5,
            ],
        ),
        (
            rope(1e6, RopeScaling::Linear { factor: 8.0 }),
            256,
            16,
            &[
                1.25e-1,
                2.222_849_2e-2,
                3.952_847_3e-3,
                7.029_266_6e-4,
                1.250_000_06e-4,
                2.222_849_3e-5,
                3.952_846_8e-6,
                7.029_266_8e-7,
            ],
        ),
        (
            rope(1e4, RopeScaling::None),
            256,
            16,
            &[1.0, 3.162_277_6e-1, 1.0e-1, 3.162_277_9e-2, 1.0e-2, 3.162_277_9e-3, 1.0e-3, 3.162_277_9e-4],
        ),
    ];
    for (rope, head_dim, step, expected) in cases {
        let frequencies = rope.inverse_frequencies(head_dim);
        assert_eq!(frequencies.len(), head_dim / 2);
        for (found, expected) in frequencies.iter().step_by(step).zip(expected) {
            // transformers computes in f32: its powers are off by a few units in the last place.
            assert!((f64::from(*found) - expected).abs() <= 1e-6 * expected, "{rope:?}: {found} {expected}");
        }
    }
}

#[test]
fn factors_divide() {
    let factors = RopeScaling::Factors(vec![1.0, 4.0]);
    let frequencies = RopeConfig { theta: 1e4, scaling: factors }.inverse_frequencies(4);
    assert_eq!(frequencies, [1.0, 0.0025]);
}

#[test]
fn expected_tensors_follow_the_family() {
    let names = |text: &str| -> Vec<String> {
        expected_tensors(&good(text)).into_iter().map(|(name, _)| name).collect()
    };
    let llama = names(LLAMA_3_2_1B);
    assert_eq!((llama.len(), llama.contains(&"lm_head.weight".to_owned())), (2 + 16 * 9, false));
    assert_eq!(names(QWEN3_0_6B).len(), 2 + 28 * 11);
    assert_eq!(names(GEMMA3_270M).len(), 2 + 18 * 13);
    assert!(
        names(&with(LLAMA_3_2_1B, "tie_word_embeddings", "false")).contains(&"lm_head.weight".to_owned())
    );
    let shapes = expected_tensors(&good(QWEN3_0_6B));
    let shape = |name: &str| shapes.iter().find(|(n, _)| n == name).map(|(_, shape)| shape.clone());
    assert_eq!(shape("model.layers.27.self_attn.o_proj.weight"), Some(vec![1024, 2048]));
    assert_eq!(shape("model.layers.0.self_attn.k_norm.weight"), Some(vec![128]));
}

/// Metadata of a file of some architecture, with the sizes of a small model.
fn gguf(architecture: &str) -> Builder {
    let key = |name: &str| format!("{architecture}.{name}");
    Builder::default()
        .string("general.architecture", architecture)
        .u32(&key("block_count"), 12)
        .u32(&key("context_length"), 1024)
        .u32(&key("embedding_length"), 64)
        .u32(&key("feed_forward_length"), 128)
        .u32(&key("attention.head_count"), 4)
        .u32(&key("attention.head_count_kv"), 2)
        .u32(&key("vocab_size"), 100)
        .f32(&key("attention.layer_norm_rms_epsilon"), 1e-6)
        .f32(&key("rope.freq_base"), 1e6)
}

fn from_gguf(builder: Builder, factors: Option<&[f32]>) -> Result<ModelConfig, ConfigError> {
    let header = Header::parse(Path::new("model.gguf"), &builder.build()).expect("a valid header");
    ModelConfig::from_gguf(&header, factors)
}

#[test]
fn gguf_architectures() {
    for (name, family) in [
        ("llama", Family::Llama),
        ("mistral", Family::Mistral),
        ("qwen2", Family::Qwen2),
        ("qwen3", Family::Qwen3),
        ("gemma3", Family::Gemma3),
    ] {
        let config = from_gguf(gguf(name), None).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((config.family, config.vocab_size, config.head_dim), (family, 100, 16));
        assert_eq!((config.qkv_bias, config.tied_head), (family == Family::Qwen2, true));
        assert_eq!(config.qk_norm, matches!(family, Family::Qwen3 | Family::Gemma3));
        assert_eq!(config.ropes, [RopeConfig { theta: 1e6, scaling: RopeScaling::None }]);
    }
}

#[test]
fn gguf_gemma3_has_local_layers() {
    let file = gguf("gemma3")
        .u32("gemma3.attention.sliding_window", 512)
        .u32("gemma3.attention.key_length", 256)
        .u32("gemma3.attention.value_length", 256)
        .string("gemma3.rope.scaling.type", "linear")
        .f32("gemma3.rope.scaling.factor", 8.0);
    let config = from_gguf(file, None).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((config.head_dim, config.attention_scale, config.embedding_scale), (256, 1.0 / 16.0, 8.0));
    assert_eq!(config.ropes[0].scaling, RopeScaling::Linear { factor: 8.0 });
    assert_eq!(config.ropes[1], RopeConfig { theta: 1e4, scaling: RopeScaling::None });
    let (local, global) = (LayerConfig { rope: 1, window: Some(512) }, LayerConfig { rope: 0, window: None });
    assert_eq!(config.layers, [local, local, local, local, local, global].repeat(2));
}

#[test]
fn gguf_rope_factors_are_taken() {
    let config = from_gguf(gguf("llama"), Some(&[1.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 32.0])).expect("good");
    assert_eq!(config.ropes[0].inverse_frequencies(16)[1], (1e6_f64.powf(-0.125) / 2.0) as f32);
    let short = from_gguf(gguf("llama"), Some(&[1.0])).expect_err("too few").to_string();
    assert!(short.contains("8 factors, one a frequency, not 1"), "{short}");
}

#[test]
fn gguf_refusals_name_the_key() {
    let wide: &[f32] = &[1.0; 8];
    let linear =
        || gguf("llama").string("llama.rope.scaling.type", "linear").f32("llama.rope.scaling.factor", 2.0);
    let cases = [
        (Builder::default(), None, "`general.architecture` is missing"),
        (gguf("mamba"), None, "`general.architecture` is \"mamba\""),
        (
            Builder::default().string("general.architecture", "llama"),
            None,
            "`llama.embedding_length` is missing",
        ),
        (gguf("llama").u32("llama.expert_count", 8), None, "`llama.expert_count` is 8"),
        (gguf("llama").u32("llama.rope.dimension_count", 8), None, "`llama.rope.dimension_count` is 8"),
        (gguf("llama").u32("llama.attention.value_length", 8), None, "`llama.attention.value_length` is 8"),
        (gguf("llama").u32("llama.attention.key_length", 7), None, "`llama.attention.key_length` is 7"),
        (
            gguf("llama").string("llama.rope.scaling.type", "yarn"),
            None,
            "`llama.rope.scaling.type` is \"yarn\"",
        ),
        (linear(), Some(wide), "`llama.rope.scaling.factor` is 2 besides"),
        (
            gguf("gemma3").f32("gemma3.final_logit_softcapping", 30.0),
            None,
            "`gemma3.final_logit_softcapping` is 30",
        ),
        (
            gguf("gemma3").u32("gemma3.attention.sliding_window", 512).array(
                "gemma3.attention.sliding_window_pattern",
                7,
                2,
                &[1, 0],
            ),
            None,
            "`gemma3.attention.sliding_window_pattern` is an array of 2 bools",
        ),
    ];
    for (file, factors, expected) in cases {
        let message = from_gguf(file, factors).expect_err(expected).to_string();
        assert!(message.contains(expected) && message.starts_with("model.gguf: "), "{message}\n{expected}");
    }
}
