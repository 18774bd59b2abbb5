//! The MLP half of a block: forward, then backward.
//!
//! `out = middle + [norm](down(act(gate(n)) · up(n)))` with `n = norm(middle)`.

use super::all_weights::in_layer;
use super::config::Activation;
use super::gradients::Gradients;
use super::kept::{LayerKept, Scratch};
use super::linear::{linear_backward, linear_forward, resize};
use super::load::Layer;
use super::pass::Pass;
use super::side::ModuleKind;
use tinylora_compute::activation::{Gate, gated, gated_backward};
use tinylora_compute::norm::{rms_norm, rms_norm_backward};
use tinylora_compute::rows::sum;

fn gate_kind(pass: &Pass<'_>) -> Gate {
    match pass.model.config.activation {
        Activation::Silu => Gate::Silu,
        Activation::GeluTanh => Gate::GeluTanh,
    }
}

/// Overwrites `out` with the block's output (T, D).
pub(super) fn forward(
    pass: &Pass<'_>,
    index: usize,
    layer: &Layer,
    kept: &mut LayerKept,
    scratch: &mut Scratch,
    out: &mut Vec<f32>,
) {
    let (cpu, epsilon) = (pass.cpu, pass.model.config.rms_norm_eps);
    let side = pass.factors.map(|factors| &factors.layers[index]);
    resize(&mut scratch.normed, kept.middle.len());
    rms_norm(cpu, &kept.middle, &layer.mlp_norm, epsilon, &mut scratch.normed);
    linear_forward(
        pass,
        [&layer.gate, &layer.up],
        side.map(|side| &side.mlp),
        &scratch.normed,
        &mut kept.p_mlp,
        &mut scratch.side,
        [&mut kept.gate, &mut kept.up],
    );
    resize(&mut scratch.hidden, kept.gate.len());
    gated(cpu, gate_kind(pass), &kept.gate, &kept.up, &mut scratch.hidden);
    linear_forward(
        pass,
        [&layer.down],
        side.map(|side| &side.down),
        &scratch.hidden,
        &mut kept.p_down,
        &mut scratch.side,
        [&mut scratch.out],
    );
    if let Some(norm) = &layer.mlp_out_norm {
        kept.mlp_out.clone_from(&scratch.out);
        rms_norm(cpu, &kept.mlp_out, norm, epsilon, &mut scratch.out);
    }
    sum(cpu, &kept.middle, &scratch.out, out);
}

/// Turns `gradient` from ∂L/∂out into ∂L/∂middle (T, D), and adds to `sums`. Consumes the kept gate and up.
pub(super) fn backward(
    pass: &Pass<'_>,
    index: usize,
    layer: &Layer,
    kept: &mut LayerKept,
    scratch: &mut Scratch,
    gradient: &mut [f32],
    sums: &mut Gradients,
) {
    let (cpu, epsilon) = (pass.cpu, pass.model.config.rms_norm_eps);
    let side = pass.factors.map(|factors| &factors.layers[index]);
    if sums.want_inputs() {
        resize(&mut scratch.normed, kept.middle.len());
        rms_norm(cpu, &kept.middle, &layer.mlp_norm, epsilon, &mut scratch.normed);
        resize(&mut scratch.hidden, kept.gate.len());
        gated(cpu, gate_kind(pass), &kept.gate, &kept.up, &mut scratch.hidden);
    }
    let d_out: &[f32] = match &layer.mlp_out_norm {
        None => gradient,
        Some(norm) => {
            resize(&mut scratch.out, gradient.len());
            scratch.out.fill(0.0);
            rms_norm_backward(cpu, &kept.mlp_out, norm, epsilon, gradient, &mut scratch.out);
            &scratch.out
        }
    };
    if let Some(weights) = sums.weights() {
        if layer.mlp_out_norm.is_some() {
            let name = in_layer(index, "post_feedforward_layernorm.weight");
            weights.add_norm(pass, &name, &kept.mlp_out, gradient);
        }
        resize(&mut scratch.hidden, kept.gate.len());
        gated(cpu, gate_kind(pass), &kept.gate, &kept.up, &mut scratch.hidden);
        weights.add_linears(pass, index, &[ModuleKind::Down], &[d_out], &scratch.hidden);
    }
    linear_backward(
        pass,
        &[&layer.down],
        side.map(|side| &side.down),
        &[d_out],
        &scratch.hidden,
        &kept.p_down,
        &mut scratch.side,
        sums,
        Some(&mut scratch.d_hidden),
    );
    gated_backward(cpu, gate_kind(pass), &mut kept.gate, &mut kept.up, &scratch.d_hidden);
    if let Some(weights) = sums.weights() {
        resize(&mut scratch.normed, kept.middle.len());
        rms_norm(cpu, &kept.middle, &layer.mlp_norm, epsilon, &mut scratch.normed);
        let gradients = [&kept.gate[..], &kept.up];
        weights.add_linears(pass, index, &[ModuleKind::Gate, ModuleKind::Up], &gradients, &scratch.normed);
    }
    linear_backward(
        pass,
        &[&layer.gate, &layer.up],
        side.map(|side| &side.mlp),
        &[&kept.gate, &kept.up],
        &scratch.normed,
        &kept.p_mlp,
        &mut scratch.side,
        sums,
        Some(&mut scratch.d_normed),
    );
    if let Some(weights) = sums.weights() {
        let sandwich = pass.model.config.sandwich_norms;
        let path = if sandwich { "pre_feedforward_layernorm" } else { "post_attention_layernorm" };
        let name = in_layer(index, &format!("{path}.weight"));
        weights.add_norm(pass, &name, &kept.middle, &scratch.d_normed);
    }
    rms_norm_backward(cpu, &kept.middle, &layer.mlp_norm, epsilon, &scratch.d_normed, gradient);
}
