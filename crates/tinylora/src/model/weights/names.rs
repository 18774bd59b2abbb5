//! Names and row orders of files enter, those of Hugging Face leave. Nothing here reads files.

use super::RowOrder;
use crate::model::config::{Family, ModelConfig};

/// Divisors of the rope frequencies, part of the configuration rather than of the weights.
pub(super) const ROPE_FACTORS: &str = "rope_freqs.weight";

/// The name of a tensor in a safetensors file without the prefixes of models that also see; None for tensors that
/// the language model does not use.
pub(crate) fn from_safetensors(name: &str, family: Family) -> Option<String> {
    // A constant that old checkpoints store.
    if name.ends_with("rotary_emb.inv_freq") {
        return None;
    }
    if family != Family::Gemma3 {
        return Some(name.to_owned());
    }
    let bare = name.strip_prefix("model.").unwrap_or(name);
    if bare.starts_with("vision_tower.") || bare.starts_with("multi_modal_projector.") {
        return None;
    }
    Some(match (name.strip_prefix("language_model."), name.strip_prefix("model.language_model.")) {
        (Some(rest), _) => rest.to_owned(),
        (_, Some(rest)) => format!("model.{rest}"),
        _ => name.to_owned(),
    })
}

/// The name in a GGUF file of a tensor of [`super::expected_tensors`].
pub(crate) fn to_gguf(name: &str, family: Family) -> String {
    let Some((layer, rest)) = name.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.')) else {
        return match name {
            "model.embed_tokens.weight" => "token_embd.weight",
            "model.norm.weight" => "output_norm.weight",
            "lm_head.weight" => "output.weight",
            other => other,
        }
        .to_owned();
    };
    let (module, kind) = rest.rsplit_once('.').unwrap_or((rest, ""));
    let module = match module {
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.o_proj" => "attn_output",
        "self_attn.q_norm" => "attn_q_norm",
        "self_attn.k_norm" => "attn_k_norm",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        "input_layernorm" => "attn_norm",
        "post_attention_layernorm" if family == Family::Gemma3 => "post_attention_norm",
        "post_attention_layernorm" | "pre_feedforward_layernorm" => "ffn_norm",
        "post_feedforward_layernorm" => "post_ffw_norm",
        other => other,
    };
    format!("blk.{layer}.{module}.{kind}")
}

/// Whether the forward pass needs nothing from this tensor of a GGUF file.
pub(super) fn gguf_ignores(name: &str) -> bool {
    name == ROPE_FACTORS || name.ends_with(".attn_rot_embd.weight")
}

/// Files of llama.cpp's Llama architecture are written for its other rope: q and k rows that are turned together
/// are neighbours there.
pub(super) fn gguf_row_order(name: &str, config: &ModelConfig) -> RowOrder {
    let rotated = name.contains(".q_proj.") || name.contains(".k_proj.");
    if rotated && matches!(config.family, Family::Llama | Family::Mistral) {
        RowOrder::Interleaved { head_dim: config.head_dim }
    } else {
        RowOrder::Straight
    }
}

/// Which row of an interleaved file is row `row` of Hugging Face: number i of the first half of a head is at 2i,
/// number i of the second half at 2i + 1.
pub(crate) fn interleaved_row(row: usize, head_dim: usize) -> usize {
    let (head, within) = (row / head_dim, row % head_dim);
    let (half, i) = (within / (head_dim / 2), within % (head_dim / 2));
    head * head_dim + 2 * i + half
}
