//! What the training forward keeps for the backward pass, a layer at a time, and the scratch that all layers
//! share. Buffers are reused from one micro-batch to the next.

use super::config::ModelConfig;
use super::cuda::{self, GpuKept};
use super::linear::SideScratch;
use super::pass::{KvCache, kv_precision};
use super::recording::Recording;
use tinylora_compute::{Cpu, Precision};

/// Kept of one layer.
#[derive(Default)]
pub(super) struct LayerKept {
    /// Residual stream at the layer's entry (T, D).
    pub x: Vec<f32>,
    /// Side projections of the normed input, for q, k, v (T, Σ r).
    pub p_attention: Vec<f32>,
    /// q and k before their norms (T, H·d), (T, K·d); empty where the family has none.
    pub q_raw: Vec<f32>,
    pub k_raw: Vec<f32>,
    /// q as attention sees it (T, H·d).
    pub q: Vec<f32>,
    /// Heads' outputs (T, H·d).
    pub heads: Vec<f32>,
    pub p_output: Vec<f32>,
    /// Output of o_proj, where a norm follows (T, D).
    pub attention_out: Vec<f32>,
    /// Residual stream between attention and MLP (T, D).
    pub middle: Vec<f32>,
    pub p_mlp: Vec<f32>,
    /// (T, F)
    pub gate: Vec<f32>,
    /// (T, F)
    pub up: Vec<f32>,
    pub p_down: Vec<f32>,
    /// Output of down_proj, where a norm follows (T, D).
    pub mlp_out: Vec<f32>,
}

impl LayerKept {
    pub const FIELDS: usize = 14;

    /// All of it, always in this order.
    pub fn fields_mut(&mut self) -> [&mut Vec<f32>; Self::FIELDS] {
        let Self {
            x,
            p_attention,
            q_raw,
            k_raw,
            q,
            heads,
            p_output,
            attention_out,
            middle,
            p_mlp,
            gate,
            up,
            p_down,
            mlp_out,
        } = self;
        [
            x,
            p_attention,
            q_raw,
            k_raw,
            q,
            heads,
            p_output,
            attention_out,
            middle,
            p_mlp,
            gate,
            up,
            p_down,
            mlp_out,
        ]
    }
}

/// Buffers that every layer may overwrite.
#[derive(Default)]
pub(super) struct Scratch {
    /// (T, D)
    pub normed: Vec<f32>,
    /// (T, K·d)
    pub k: Vec<f32>,
    pub v: Vec<f32>,
    /// (T, F)
    pub hidden: Vec<f32>,
    /// (T, D)
    pub out: Vec<f32>,
    /// The residual stream between layers (T, D), between two passes.
    pub stream: Vec<f32>,
    /// Rows that the head reads, before the last norm.
    pub raw: Vec<f32>,
    pub side: SideScratch,
    /// Gradients of heads and q (T, H·d), k and v (T, K·d), hidden (T, F), normed (T, D).
    pub d_heads: Vec<f32>,
    pub d_q: Vec<f32>,
    pub d_k: Vec<f32>,
    pub d_v: Vec<f32>,
    pub d_hidden: Vec<f32>,
    pub d_normed: Vec<f32>,
}

/// The activations of a forward pass: all layers' for training, one layer's over and over for inference.
#[derive(Default)]
pub struct KeptActivations {
    pub(super) layers: Vec<LayerKept>,
    pub(super) scratch: Scratch,
    /// Rows of the last forward pass, if everything was kept.
    pub(super) kept_rows: Option<usize>,
    /// The same on the GPU, where the model lies there.
    pub(super) gpu: GpuKept,
}

/// What a model takes beside its weights where it computes, and what pays there.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MemorySizes {
    /// Bytes that may be used in all unless something else is asked for.
    pub limit: u64,
    /// On a GPU: bytes of the host's memory that may be used beside it.
    pub host: Option<u64>,
    /// Bytes of one KV block in all layers.
    pub block: u64,
    /// Bytes that training keeps for one token: activations of all layers, keys and values, scratch.
    pub per_token: u64,
    /// Bytes of a row of sampling that is kept for training; 0 where none is.
    pub recorded_row: u64,
    /// Bytes that are used whatever the batch is.
    pub fixed: u64,
    /// Sequences sampled at once: more hardly pays.
    pub max_batch: usize,
    /// Tokens of a training micro-batch: more hardly pays.
    pub micro_batch_tokens: usize,
}

impl MemorySizes {
    /// Of a model loaded with this handle: on the GPU beside it, or on the host.
    pub fn of(cpu: &Cpu, config: &ModelConfig, matrices: Precision) -> Self {
        cuda::memory(cpu, config).unwrap_or_else(|| Self::on_host(config, kv_precision(cpu, matrices)))
    }

    /// Of a model on the host, with attention's values held in `kv`.
    pub fn on_host(config: &ModelConfig, kv: Precision) -> Self {
        Self {
            limit: host_limit(),
            host: None,
            block: KvCache::block_bytes(config, kv) as u64,
            per_token: kept_bytes_per_token(config) as u64,
            recorded_row: Recording::row_bytes(config) as u64,
            fixed: 0,
            max_batch: usual_batch(false),
            micro_batch_tokens: 1024,
        }
    }

    /// Rows of a training pass that fit beside so many bytes of weights: half of what is left, but at least the longest
    /// sequence.
    pub fn micro_batch_rows(&self, weights: u64, one_sequence: usize) -> usize {
        let spare = self.limit.saturating_sub(weights + self.fixed);
        one_sequence.max((spare / 2 / self.per_token) as usize)
    }
}

/// Sequences sampled at once: more hardly pays, on a GPU or without one.
pub fn usual_batch(on_gpu: bool) -> usize {
    if on_gpu { 256 } else { 192 }
}

/// Bytes of the machine's memory that may be used.
pub(super) fn host_limit() -> u64 {
    machine_bytes() / 4 * 3
}

/// The machine's memory; 8 GiB where it can't be asked.
fn machine_bytes() -> u64 {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib =
        info.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse().ok());
    kib.map_or(8 << 30, |kib: u64| kib * 1024)
}

/// Bytes that training keeps for one token: activations of all layers, and keys and values.
fn kept_bytes_per_token(config: &ModelConfig) -> usize {
    let (d, f) = (config.hidden_size, config.intermediate_size);
    let (q, k) = (config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim);
    // Scratch and gradients, shared by all layers.
    let shared = 4 * d + 2 * q + 4 * k + 2 * f;
    layers_bytes_per_token(config) + shared * size_of::<f32>()
}

/// Of these, activations of all layers, keys and values.
pub(super) fn layers_bytes_per_token(config: &ModelConfig) -> usize {
    let (d, f) = (config.hidden_size, config.intermediate_size);
    let (q, k) = (config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim);
    let norms = if config.qk_norm { q + k } else { 0 } + if config.sandwich_norms { 2 * d } else { 0 };
    config.num_layers * (2 * d + 2 * q + 2 * f + norms + 2 * k) * size_of::<f32>()
}
