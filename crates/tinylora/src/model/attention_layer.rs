//! The attention half of a block: forward, then backward.
//!
//! `middle = x + [norm](o(attention(rope([norm] q), rope([norm] k), v)))` with q, k, v of `norm(x)`.

use super::all_weights::in_layer;
use super::gradients::Gradients;
use super::kept::{LayerKept, Scratch};
use super::linear::{linear_backward, linear_forward, resize};
use super::load::Layer;
use super::pass::Pass;
use super::side::ModuleKind;
use tinylora_compute::attention::{AttentionGradient, Heads, KvLayer, attention, attention_backward};
use tinylora_compute::norm::{rms_norm, rms_norm_backward};
use tinylora_compute::rope::{rope, rope_backward};
use tinylora_compute::rows::sum;

fn heads(pass: &Pass<'_>, index: usize) -> Heads {
    let config = &pass.model.config;
    Heads {
        queries: config.num_heads,
        keys: config.num_kv_heads,
        size: config.head_dim,
        scale: config.attention_scale,
        window: config.layers[index].window,
    }
}

/// Writes the rows' keys and values to the store, and `kept.middle` (T, D).
pub(super) fn forward(
    pass: &Pass<'_>,
    index: usize,
    layer: &Layer,
    store: &mut KvLayer,
    kept: &mut LayerKept,
    scratch: &mut Scratch,
) {
    let (cpu, config, batch) = (pass.cpu, &pass.model.config, pass.batch);
    let side = pass.factors.map(|factors| &factors.layers[index]);
    resize(&mut scratch.normed, kept.x.len());
    rms_norm(cpu, &kept.x, &layer.input_norm, config.rms_norm_eps, &mut scratch.normed);
    linear_forward(
        pass,
        [&layer.q, &layer.k, &layer.v],
        side.map(|side| &side.attention),
        &scratch.normed,
        &mut kept.p_attention,
        &mut scratch.side,
        [&mut kept.q, &mut scratch.k, &mut scratch.v],
    );
    if let Some((q_norm, k_norm)) = &layer.qk_norm {
        resize(&mut kept.q_raw, kept.q.len());
        resize(&mut kept.k_raw, scratch.k.len());
        std::mem::swap(&mut kept.q, &mut kept.q_raw);
        std::mem::swap(&mut scratch.k, &mut kept.k_raw);
        rms_norm(cpu, &kept.q_raw, q_norm, config.rms_norm_eps, &mut kept.q);
        rms_norm(cpu, &kept.k_raw, k_norm, config.rms_norm_eps, &mut scratch.k);
    }
    let table = &pass.model.ropes[config.layers[index].rope];
    rope(cpu, table, &batch.positions, config.head_dim, &mut kept.q);
    rope(cpu, table, &batch.positions, config.head_dim, &mut scratch.k);
    store.write(cpu, &batch.places, &scratch.k, &scratch.v);
    resize(&mut kept.heads, kept.q.len());
    attention(cpu, heads(pass, index), store, &batch.groups, &kept.q, &mut kept.heads);
    linear_forward(
        pass,
        [&layer.o],
        side.map(|side| &side.output),
        &kept.heads,
        &mut kept.p_output,
        &mut scratch.side,
        [&mut scratch.out],
    );
    if let Some(norm) = &layer.attention_out_norm {
        kept.attention_out.clone_from(&scratch.out);
        rms_norm(cpu, &kept.attention_out, norm, config.rms_norm_eps, &mut scratch.out);
    }
    sum(cpu, &kept.x, &scratch.out, &mut kept.middle);
}

/// Turns `gradient` from ∂L/∂middle into ∂L/∂x (T, D), and adds to `sums`. With `last`, nothing below needs
/// ∂L/∂x and it is not computed.
pub(super) fn backward(
    pass: &Pass<'_>,
    index: usize,
    layer: &Layer,
    store: &KvLayer,
    kept: &mut LayerKept,
    scratch: &mut Scratch,
    gradient: &mut [f32],
    sums: &mut Gradients,
    last: bool,
) {
    let (cpu, config) = (pass.cpu, &pass.model.config);
    let side = pass.factors.map(|factors| &factors.layers[index]);
    let d_out: &[f32] = match &layer.attention_out_norm {
        None => gradient,
        Some(norm) => {
            resize(&mut scratch.out, gradient.len());
            scratch.out.fill(0.0);
            rms_norm_backward(
                cpu,
                &kept.attention_out,
                norm,
                config.rms_norm_eps,
                gradient,
                &mut scratch.out,
            );
            &scratch.out
        }
    };
    if let Some(weights) = sums.weights() {
        if layer.attention_out_norm.is_some() {
            let name = in_layer(index, "post_attention_layernorm.weight");
            weights.add_norm(pass, &name, &kept.attention_out, gradient);
        }
        weights.add_linears(pass, index, &[ModuleKind::O], &[d_out], &kept.heads);
    }
    linear_backward(
        pass,
        &[&layer.o],
        side.map(|side| &side.output),
        &[d_out],
        &kept.heads,
        &kept.p_output,
        &mut scratch.side,
        sums,
        Some(&mut scratch.d_heads),
    );
    heads_backward(pass, index, layer, store, kept, scratch, sums);
    if sums.want_inputs() {
        resize(&mut scratch.normed, kept.x.len());
        rms_norm(cpu, &kept.x, &layer.input_norm, config.rms_norm_eps, &mut scratch.normed);
    }
    if let Some(weights) = sums.weights() {
        let kinds = [ModuleKind::Q, ModuleKind::K, ModuleKind::V];
        let gradients = [&scratch.d_q[..], &scratch.d_k, &scratch.d_v];
        weights.add_linears(pass, index, &kinds, &gradients, &scratch.normed);
    }
    linear_backward(
        pass,
        &[&layer.q, &layer.k, &layer.v],
        side.map(|side| &side.attention),
        &[&scratch.d_q, &scratch.d_k, &scratch.d_v],
        &scratch.normed,
        &kept.p_attention,
        &mut scratch.side,
        sums,
        (!last).then_some(&mut scratch.d_normed),
    );
    if !last {
        if let Some(weights) = sums.weights() {
            let name = in_layer(index, "input_layernorm.weight");
            weights.add_norm(pass, &name, &kept.x, &scratch.d_normed);
        }
        rms_norm_backward(cpu, &kept.x, &layer.input_norm, config.rms_norm_eps, &scratch.d_normed, gradient);
    }
}

/// From the gradient of the heads' outputs to those of q, k and v as their linear layers give them, in `scratch`.
fn heads_backward(
    pass: &Pass<'_>,
    index: usize,
    layer: &Layer,
    store: &KvLayer,
    kept: &LayerKept,
    scratch: &mut Scratch,
    sums: &mut Gradients,
) {
    let (cpu, config, batch) = (pass.cpu, &pass.model.config, pass.batch);
    resize(&mut scratch.d_q, kept.q.len());
    for d in [&mut scratch.d_k, &mut scratch.d_v] {
        resize(d, pass.rows() * config.num_kv_heads * config.head_dim);
        d.fill(0.0);
    }
    attention_backward(
        cpu,
        heads(pass, index),
        store,
        &batch.groups,
        &batch.shared_rows,
        (&kept.q, &kept.heads, &scratch.d_heads),
        AttentionGradient { q: &mut scratch.d_q, k: &mut scratch.d_k, v: &mut scratch.d_v },
    );
    let table = &pass.model.ropes[config.layers[index].rope];
    rope_backward(cpu, table, &batch.positions, config.head_dim, &mut scratch.d_q);
    rope_backward(cpu, table, &batch.positions, config.head_dim, &mut scratch.d_k);
    if let Some((q_norm, k_norm)) = &layer.qk_norm {
        for (raw, norm, d, path) in [
            (&kept.q_raw, q_norm, &mut scratch.d_q, "self_attn.q_norm.weight"),
            (&kept.k_raw, k_norm, &mut scratch.d_k, "self_attn.k_norm.weight"),
        ] {
            let outer = std::mem::take(d);
            if let Some(weights) = sums.weights() {
                weights.add_norm(pass, &in_layer(index, path), raw, &outer);
            }
            resize(d, outer.len());
            d.fill(0.0);
            rms_norm_backward(cpu, raw, norm, config.rms_norm_eps, &outer, d);
        }
    }
}
