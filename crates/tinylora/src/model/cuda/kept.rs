//! Memory on the GPU that lives from pass to pass: the KV cache, what training keeps of each layer, and scratch. It grows with
//! the largest batch.

use super::decode::GpuDecode;
use crate::model::config::ModelConfig;
use crate::model::kept::host_limit;
use crate::model::{MemorySizes, usual_batch};
use tinylora_compute::Cpu;
use tinylora_compute::attention::BLOCK_TOKENS;
use tinylora_compute::buffer::Zeroable;
use tinylora_compute::cuda::product::{Rows, padded};
use tinylora_compute::cuda::{CudaError, Device, DeviceBuffer};

/// Keys and values of a layer (slots, K, d).
pub(super) type Keys = (DeviceBuffer<u16>, DeviceBuffer<u16>);

/// Keys and values of all layers; the memory is taken when it is first used.
pub struct GpuCache {
    blocks: usize,
    layers: Vec<Keys>,
}

impl GpuCache {
    /// Room for so many blocks of sixteen tokens.
    pub fn new(blocks: usize) -> Self {
        Self { blocks, layers: Vec::new() }
    }

    /// Number of blocks.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// Keys and values (slots, K, d) of each layer. Behind the blocks is one that empty rows of a batch write to.
    pub(super) fn layers(&mut self, device: &Device, config: &ModelConfig) -> Result<&[Keys], CudaError> {
        if self.layers.is_empty() {
            let len = (self.blocks + 1) * BLOCK_TOKENS * config.num_kv_heads * config.head_dim;
            let what = "the cache of keys and values";
            let layer = |_| Ok((device.buffer(what, len)?, device.buffer(what, len)?));
            self.layers = (0..config.num_layers).map(layer).collect::<Result<_, CudaError>>()?;
        }
        Ok(&self.layers)
    }
}

/// A buffer that grows to the longest that is asked for.
pub(super) struct Grown<T>(Option<DeviceBuffer<T>>);

impl<T> Default for Grown<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: Zeroable> Grown<T> {
    /// `len` elements; their content is what was there, or arbitrary.
    pub fn take(&mut self, device: &Device, len: usize) -> Result<DeviceBuffer<T>, CudaError> {
        if self.0.as_ref().is_none_or(|buffer| buffer.len() < len) {
            self.0 = None;
            self.0 = Some(device.buffer("activations", len)?);
        }
        let buffer = self.0.as_ref().expect("set above");
        Ok(buffer.part(0, len))
    }
}

impl<T: Zeroable> Grown<T> {
    /// Where it lies: another place after it grew, 0 before it was used.
    fn address(&self) -> u64 {
        self.0.as_ref().map_or(0, DeviceBuffer::address)
    }
}

impl Grown<u16> {
    /// Rows of bf16 numbers.
    pub fn rows(&mut self, device: &Device, rows: usize, width: usize) -> Result<Rows, CudaError> {
        Ok(Rows::new(&self.take(device, rows * padded(width))?, rows, width))
    }
}

/// Kept of one layer, as on the CPU.
#[derive(Default)]
pub(super) struct LayerKept {
    pub x: Grown<f32>,
    /// q, k and v before norms and rope.
    pub qkv: Grown<u16>,
    pub q: Grown<u16>,
    pub heads: Grown<u16>,
    pub lse: Grown<f32>,
    pub attention_out: Grown<f32>,
    pub middle: Grown<f32>,
    pub gate_up: Grown<u16>,
    pub mlp_out: Grown<f32>,
    /// Projections of the side path for the four groups of linear layers.
    pub p: [Grown<f32>; 4],
}

/// Numbers of the side path, and parts of the gradients of what is trained.
#[derive(Default)]
pub(super) struct SideScratch {
    pub z: Grown<f32>,
    pub t: Grown<f32>,
    pub parts: Grown<f32>,
    /// What norms multiplied each row with.
    pub scales: Grown<f32>,
}

/// Overwritten by every layer.
#[derive(Default)]
pub(super) struct Scratch {
    pub normed: Grown<u16>,
    pub hidden: Grown<u16>,
    pub partial: Grown<f32>,
    pub side: SideScratch,
    pub d_out: Grown<u16>,
    pub d_hidden: Grown<u16>,
    pub d_heads: Grown<u16>,
    pub d_qkv: Grown<u16>,
    pub d_normed: Grown<f32>,
    pub delta: Grown<f32>,
    pub dq: Grown<f32>,
    pub dk: Grown<f32>,
    pub dv: Grown<f32>,
    pub dx: Grown<f32>,
}

/// Activations of a pass, and the R matrices that are on the GPU.
#[derive(Default)]
pub struct GpuKept {
    pub(super) layers: Vec<LayerKept>,
    pub(super) scratch: Scratch,
    /// The residual stream (T, D).
    pub(super) stream: Grown<f32>,
    pub(super) r: Grown<f32>,
    pub(super) r_there: Vec<f32>,
    /// Rows of the last forward pass, if everything was kept.
    pub(super) kept_rows: Option<usize>,
    /// Decode steps that are queued have activations of their own.
    pub(super) decode: Option<Box<GpuDecode>>,
}

impl GpuKept {
    /// Where everything lies that a pass which keeps nothing writes to.
    pub(super) fn addresses(&self) -> Vec<u64> {
        let scratch = &self.scratch;
        let mut all = vec![self.stream.address(), scratch.normed.address(), scratch.hidden.address()];
        all.extend([scratch.partial.address(), scratch.side.z.address()]);
        for kept in self.layers.iter().take(1) {
            all.extend([kept.qkv.address(), kept.q.address(), kept.heads.address(), kept.lse.address()]);
            all.extend([kept.attention_out.address(), kept.gate_up.address(), kept.mlp_out.address()]);
            all.extend(kept.p.iter().map(Grown::address));
        }
        all
    }
}

/// Memory that a model takes on each GPU beside `cpu`; None without one.
pub fn memory(cpu: &Cpu, config: &ModelConfig) -> Option<MemorySizes> {
    let budget = cpu.gpus().iter().map(|gpu| gpu.budget()).min()?;
    let (d, f) = (config.hidden_size, config.intermediate_size);
    let (q, k) = (config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim);
    let norms = if config.sandwich_norms { 8 * d } else { 0 };
    let layer = 8 * d + norms + 2 * (q + 2 * k) + 4 * q + 4 * config.num_heads + 4 * f;
    let forward = 4 * d + 2 * d + 2 * f;
    let backward = 2 * d + 2 * f + 2 * q + 2 * (q + 2 * k) + 8 * d + 4 * (q + 2 * k) + 4 * config.num_heads;
    let kv = config.num_layers * 2 * k * size_of::<u16>();
    // Sampling has activations of its own, of one layer; the head holds probabilities of 4096 entries a row.
    let (sampling, head) = (layer + forward, 2 * 4096 + 10 * d);
    Some(MemorySizes {
        recorded_row: 0,
        limit: budget as u64,
        host: Some(host_limit()),
        block: (kv * BLOCK_TOKENS) as u64,
        per_token: (config.num_layers * layer + forward + backward + kv + head) as u64,
        // What is queued in sampling has activations of its own, and sums of the head that its graphs hold.
        fixed: (2048 + 256) * sampling as u64 + 16 * 256 * (12 * config.vocab_size / 128 + 2 * d) as u64,
        max_batch: usual_batch(true),
        micro_batch_tokens: 8192,
    })
}
