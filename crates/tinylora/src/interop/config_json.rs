//! A model's configuration and the metadata of its GGUF file enter, `config.json` leaves, in the spelling that transformers 4
//! and 5 read. Nothing here is written to disk.

use serde_json::{Value, json};

use super::rounding::OutputType;
use crate::gguf::{GgufMetadata, Value as Gguf};
use crate::model::config::{Family, ModelConfig, RopeConfig, RopeScaling};

/// Err: what `config.json` can't say, and what to do instead.
pub(super) fn config_json(
    config: &ModelConfig,
    metadata: &GgufMetadata,
    dtype: OutputType,
) -> Result<Value, &'static str> {
    let (model_type, architecture) = match config.family {
        Family::Llama => ("llama", "LlamaForCausalLM"),
        Family::Mistral => ("mistral", "MistralForCausalLM"),
        Family::Qwen2 => ("qwen2", "Qwen2ForCausalLM"),
        Family::Qwen3 => ("qwen3", "Qwen3ForCausalLM"),
        Family::Gemma3 => ("gemma3_text", "Gemma3ForCausalLM"),
    };
    let id = |key: &str| metadata.get(key).and_then(Gguf::as_u64);
    let mut json = json!({
        "architectures": [architecture],
        "bos_token_id": id("tokenizer.ggml.bos_token_id"),
        "eos_token_id": id("tokenizer.ggml.eos_token_id"),
        "head_dim": config.head_dim,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.max_positions,
        "model_type": model_type,
        "num_attention_heads": config.num_heads,
        "num_hidden_layers": config.num_layers,
        "num_key_value_heads": config.num_kv_heads,
        // By its shortest decimal form, as people write it.
        "rms_norm_eps": config.rms_norm_eps.to_string().parse::<f64>().unwrap_or(f64::from(config.rms_norm_eps)),
        "tie_word_embeddings": config.tied_head,
        "torch_dtype": match dtype {
            OutputType::F32 => "float32",
            OutputType::Bf16 => "bfloat16",
            OutputType::F16 | OutputType::Q8_0 => "float16",
        },
        "vocab_size": config.vocab_size,
    });
    if config.family != Family::Qwen2 {
        // Qwen2's biases are part of the family, and no key of its configuration.
        json["attention_bias"] = json!(false);
    }
    match config.family {
        Family::Gemma3 => gemma3(config, &mut json)?,
        _ => one_kind_of_layer(config, &mut json)?,
    }
    Ok(json)
}

/// Every layer with the same window and the same rope.
fn one_kind_of_layer(config: &ModelConfig, json: &mut Value) -> Result<(), &'static str> {
    let windows: Vec<Option<usize>> = config.layers.iter().map(|layer| layer.window).collect();
    let window = windows.first().copied().flatten();
    if windows.iter().any(|other| *other != window) || (window.is_some() && config.family != Family::Mistral)
    {
        return Err("its layers see windows of several sizes; write a .gguf");
    }
    let [rope] = config.ropes.as_slice() else {
        return Err("its layers turn positions in several ways; write a .gguf");
    };
    json["hidden_act"] = json!("silu");
    json["rope_theta"] = json!(rope.theta);
    json["rope_scaling"] = rope_scaling(rope, config.head_dim)?;
    if config.family == Family::Mistral {
        json["sliding_window"] = json!(window);
    }
    Ok(())
}

/// Layers with a window and a rope of their own among those that see everything.
fn gemma3(config: &ModelConfig, json: &mut Value) -> Result<(), &'static str> {
    let local: Vec<bool> = config.layers.iter().map(|layer| layer.window.is_some()).collect();
    let window = config.layers.iter().find_map(|layer| layer.window);
    let kinds = local.iter().map(|&local| if local { "sliding_attention" } else { "full_attention" });
    let [global, rest @ ..] = config.ropes.as_slice() else {
        return Err("it has no rope; write a .gguf");
    };
    // Where all layers see everything, the size of a window means nothing.
    json["sliding_window"] = json!(window.unwrap_or(config.max_positions));
    json["layer_types"] = json!(kinds.collect::<Vec<_>>());
    let pattern = (1..=local.len()).find(|pattern| {
        local.iter().enumerate().all(|(layer, &local)| local != (layer + 1).is_multiple_of(*pattern))
    });
    if let Some(pattern) = pattern {
        json["sliding_window_pattern"] = json!(pattern);
    }
    json["rope_theta"] = json!(global.theta);
    json["rope_scaling"] = rope_scaling(global, config.head_dim)?;
    json["rope_local_base_freq"] = json!(rest.first().map_or(10_000.0, |local| local.theta));
    json["hidden_activation"] = json!("gelu_pytorch_tanh");
    let scalar = query_scalar(config.attention_scale);
    json["query_pre_attn_scalar"] =
        json!(scalar.ok_or("the scale of its scores is of no whole number; write a .gguf")?);
    json["attn_logit_softcapping"] = Value::Null;
    json["final_logit_softcapping"] = Value::Null;
    Ok(())
}

/// s of the scale s^-½. transformers takes whole numbers alone.
fn query_scalar(scale: f32) -> Option<u64> {
    let whole = f64::from(scale).powi(-2).round();
    (whole.powf(-0.5) as f32 == scale).then_some(whole as u64)
}

fn rope_scaling(rope: &RopeConfig, head_dim: usize) -> Result<Value, &'static str> {
    let llama3 = |scaling: &RopeScaling| match scaling {
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max } => Some(json!({
            "rope_type": "llama3", "factor": factor, "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor, "original_max_position_embeddings": length(*original_max)})),
        _ => None,
    };
    match &rope.scaling {
        RopeScaling::None => Ok(Value::Null),
        RopeScaling::Linear { factor } => Ok(json!({"rope_type": "linear", "factor": factor})),
        RopeScaling::Factors(factors) => llama3_of(factors, rope.theta, head_dim)
            .and_then(|scaling| llama3(&scaling))
            .ok_or("its rope frequencies have divisors that are not Llama 3.1's; write a .gguf"),
        scaling => llama3(scaling).ok_or("its rope has a scaling that config.json can't say; write a .gguf"),
    }
}

/// A length is a whole number there.
fn length(positions: f64) -> Value {
    if positions.fract() == 0.0 { json!(positions as u64) } else { json!(positions) }
}

/// The parameters of Llama 3.1's scaling that give these divisors of the frequencies; None if none do.
///
/// Between no change and the whole factor, the share s of the plain frequency is linear in the frequency:
/// s = (L / λ − low) / (high − low), and a divisor is 1 / ((1 − s) / factor + s). Only two of L, low and high follow from a
/// line; low is 1 in every model that has this scaling. Where no frequency lies between, L follows from the pair around
/// the step, with high = 4.
fn llama3_of(factors: &[f64], theta: f64, head_dim: usize) -> Option<RopeScaling> {
    let factor = factors.iter().copied().fold(f64::NAN, f64::max);
    if !(factor > 1.0 && factor.is_finite()) || factors.len() != head_dim / 2 {
        return None;
    }
    let frequency = |i: usize| theta.powf(-((2 * i) as f64) / head_dim as f64) / std::f64::consts::TAU;
    let between: Vec<(f64, f64)> = factors
        .iter()
        .enumerate()
        .filter(|(_, divisor)| **divisor > 1.0 && **divisor < factor)
        .map(|(i, &divisor)| (frequency(i), (1.0 / divisor - 1.0 / factor) / (1.0 - 1.0 / factor)))
        .collect();
    let candidates = match between.as_slice() {
        // s = 3 (L f − 1) / 9 with high = 4: L from each point.
        [(f, s)] => vec![((3.0 * s + 1.0) / f, 4.0)],
        [(f, s), .., (g, t)] => {
            let slope = (s - t) / (f - g);
            let high = 1.0 - 1.0 / (s - slope * f);
            vec![(slope * (high - 1.0), high)]
        }
        [] => {
            let last_plain = factors.iter().rposition(|&divisor| divisor == 1.0)?;
            vec![(1.0 / frequency(last_plain + 1), 1.0 / frequency(last_plain + 1) * frequency(last_plain))]
        }
    };
    // The file's divisors are rounded to f32; whole numbers are what was meant.
    let rounded = |x: f64| if (x - x.round()).abs() < 1e-3 * x.abs() { x.round() } else { x };
    candidates.into_iter().find_map(|(original_max, high)| {
        let scaling = RopeScaling::Llama3 {
            factor,
            low_freq_factor: 1.0,
            high_freq_factor: rounded(high),
            original_max: rounded(original_max),
        };
        let made = RopeConfig { theta, scaling: scaling.clone() }.inverse_frequencies(head_dim);
        let given = RopeConfig { theta, scaling: RopeScaling::Factors(factors.to_vec()) };
        let same = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-6 * b.abs();
        made.iter().zip(&given.inverse_frequencies(head_dim)).all(same).then_some(scaling)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Divisors as converters write them: in f32.
    fn divisors(theta: f64, head_dim: usize, factor: f64, high: f64, original_max: f64) -> Vec<f64> {
        let scaling =
            RopeScaling::Llama3 { factor, low_freq_factor: 1.0, high_freq_factor: high, original_max };
        let scaled = RopeConfig { theta, scaling };
        let frequency = |i: usize| theta.powf(-((2 * i) as f64) / head_dim as f64);
        let exact = (0..head_dim / 2).map(|i| {
            let plain = frequency(i);
            let wavelength = std::f64::consts::TAU / plain;
            if wavelength < original_max / high {
                1.0
            } else if wavelength > original_max {
                factor
            } else {
                let share = (original_max / wavelength - 1.0) / (high - 1.0);
                1.0 / ((1.0 - share) / factor + share)
            }
        });
        let exact: Vec<f64> = exact.map(|x| f64::from(x as f32)).collect();
        assert_eq!(scaled.inverse_frequencies(head_dim).len(), exact.len());
        exact
    }

    #[test]
    fn the_scalings_of_llama_3_are_found_in_their_divisors() {
        for (theta, head_dim, factor, high, original_max) in [
            (500_000.0, 128, 8.0, 4.0, 8192.0),  // Llama 3.1 8B and 70B
            (500_000.0, 64, 32.0, 4.0, 8192.0),  // Llama 3.2 1B
            (500_000.0, 128, 32.0, 4.0, 8192.0), // Llama 3.2 3B
            (500_000.0, 24, 8.0, 4.0, 64.0),     // the tiny model of the golden files
            (10_000.0, 64, 4.0, 3.0, 4096.0),
        ] {
            let factors = divisors(theta, head_dim, factor, high, original_max);
            let wanted =
                RopeScaling::Llama3 { factor, low_freq_factor: 1.0, high_freq_factor: high, original_max };
            assert_eq!(llama3_of(&factors, theta, head_dim), Some(wanted), "{theta} {head_dim} {factor}");
        }
    }

    #[test]
    fn other_divisors_are_refused() {
        let mut factors = divisors(500_000.0, 128, 8.0, 4.0, 8192.0);
        factors[30] *= 1.001;
        assert_eq!(llama3_of(&factors, 500_000.0, 128), None);
        assert_eq!(llama3_of(&[1.0; 64], 500_000.0, 128), None);
        assert_eq!(llama3_of(&[1.0, 2.0], 500_000.0, 128), None);
        let rising: Vec<f64> = (0..64).map(|i| 1.0 + f64::from(i)).collect();
        assert_eq!(llama3_of(&rising, 500_000.0, 128), None);
    }

    #[test]
    fn the_divisor_of_scores_is_a_whole_number_where_it_was_one() {
        for scalar in [20u64, 168, 256, 24] {
            assert_eq!(query_scalar((scalar as f64).powf(-0.5) as f32), Some(scalar));
        }
        assert_eq!(query_scalar(20.5f32.powf(-0.5)), None);
    }
}
