//! The one forward pass, for prefill, decode and training, and its backward pass.

use super::all_weights::FINAL_NORM;
use super::batch::Batch;
use super::config::ModelConfig;
use super::cuda::{self, GpuCache};
use super::gradients::Gradients;
use super::hidden::{DeviceError, Directions, Hidden};
use super::kept::{KeptActivations, LayerKept};
use super::linear::resize;
use super::load::Model;
use super::recording::Recording;
use super::side::{R, SideFactors};
use super::{attention_layer, mlp_layer};
use tinylora_compute::attention::KvLayer;
use tinylora_compute::norm::{rms_norm, rms_norm_backward};
use tinylora_compute::rows::for_chunks;
use tinylora_compute::{Cpu, Precision};

/// The adapters that a batch's rows name.
#[derive(Clone, Copy)]
pub struct Adapters<'a> {
    /// A and B, which all of them share; None: no side path at all.
    pub factors: Option<&'a SideFactors>,
    /// R of each adapter.
    pub r: &'a [R],
}

impl Adapters<'_> {
    /// The model alone.
    pub const NONE: Self = Self { factors: None, r: &[] };
}

/// What gives a token's probability: weights, and the adapters on them.
#[derive(Clone, Copy)]
pub struct Policy<'a> {
    /// The weights.
    pub model: &'a Model,
    /// What is added to their products.
    pub adapters: Adapters<'a>,
    /// Which of the devices computes that the model lies on.
    pub device: usize,
}

impl<'a> Policy<'a> {
    /// Adapters on a model.
    pub fn new(model: &'a Model, adapters: Adapters<'a>) -> Self {
        Self { model, adapters, device: 0 }
    }

    /// A model without adapters.
    pub fn plain(model: &'a Model) -> Self {
        Self::new(model, Adapters::NONE)
    }

    /// The same on another of the devices that the model lies on.
    pub fn on(self, device: usize) -> Self {
        Self { device, ..self }
    }
}

/// Keys and values of all layers, where the model computes; at first room for none.
#[derive(Default)]
pub struct KvCache(Place);

enum Place {
    Host { layers: Vec<KvLayer> },
    Gpu(GpuCache),
}

impl Default for Place {
    fn default() -> Self {
        Self::Host { layers: Vec::new() }
    }
}

/// How attention's keys and values are held in the cache of a model with such matrices: in 16 bits where the device rounds, and in
/// f32 where it doesn't.
pub fn kv_precision(cpu: &Cpu, matrices: Precision) -> Precision {
    if cpu.rounds() { matrices } else { Precision::F32 }
}

impl KvCache {
    /// Room for so many blocks of sixteen tokens. On a GPU it is taken by the first pass, which may find that there is none.
    pub fn new(cpu: &Cpu, model: &Model, blocks: usize) -> Self {
        if model.is_on_gpu() {
            return Self(Place::Gpu(GpuCache::new(blocks)));
        }
        let (config, precision) = (&model.config, kv_precision(cpu, model.precision()));
        let layers = (0..config.num_layers)
            .map(|_| KvLayer::new(precision, blocks, config.num_kv_heads, config.head_dim))
            .collect();
        Self(Place::Host { layers })
    }

    /// Bytes of one block in all layers, on the host; see [`kv_precision`].
    pub fn block_bytes(config: &ModelConfig, precision: Precision) -> usize {
        config.num_layers * KvLayer::block_bytes(precision, config.num_kv_heads, config.head_dim)
    }

    /// Whether there is room for so many blocks of a batch that runs with this device on this model.
    pub fn fits(&self, cpu: &Cpu, model: &Model, blocks: usize) -> bool {
        match &self.0 {
            Place::Host { layers } => {
                let precision = kv_precision(cpu, model.precision());
                let fits = |layer: &KvLayer| layer.blocks() >= blocks && layer.precision() == precision;
                !model.is_on_gpu() && layers.len() == model.config.num_layers && layers.iter().all(fits)
            }
            Place::Gpu(cache) => model.is_on_gpu() && cache.blocks() >= blocks,
        }
    }

    pub(super) fn host(&mut self) -> &mut Vec<KvLayer> {
        match &mut self.0 {
            Place::Host { layers } => layers,
            Place::Gpu(_) => panic!("a cache of a model on a GPU"),
        }
    }

    pub(super) fn gpu(&mut self) -> &mut GpuCache {
        match &mut self.0 {
            Place::Gpu(cache) => cache,
            Place::Host { .. } => panic!("a cache of a model on the host"),
        }
    }
}

/// What becomes of a forward pass's activations.
pub enum Keep<'a> {
    /// They are overwritten layer by layer.
    Nothing,
    /// All that [`backward`] needs stays where the pass computes.
    Everything,
    /// They are overwritten layer by layer, but all that `backward` needs is added to a recording first; beside it the recorded
    /// row that each row follows. On the host alone.
    Record(&'a mut Recording, &'a [u32]),
}

/// What every layer's code needs to know of the pass.
pub(super) struct Pass<'a> {
    pub cpu: &'a Cpu,
    pub model: &'a Model,
    pub batch: &'a Batch,
    pub factors: Option<&'a SideFactors>,
    r: &'a [R],
}

impl<'a> Pass<'a> {
    fn new(cpu: &'a Cpu, policy: Policy<'a>, batch: &'a Batch) -> Self {
        let Policy { model, adapters, .. } = policy;
        if let Some(factors) = adapters.factors {
            adapters.r.iter().for_each(|r| r.check(factors));
            let known = |&adapter: &u32| (adapter as usize) < adapters.r.len();
            assert!(batch.adapters.iter().all(known), "every row names one of {} adapters", adapters.r.len());
        }
        let rows = batch.rows();
        assert!(batch.positions.len() == rows && batch.places.len() == rows && batch.adapters.len() == rows);
        Self { cpu, model, batch, factors: adapters.factors, r: adapters.r }
    }

    pub fn rows(&self) -> usize {
        self.batch.rows()
    }

    pub fn rank(&self) -> usize {
        self.factors.map_or(0, SideFactors::rank)
    }

    pub fn adapter_of(&self, row: usize) -> usize {
        self.batch.adapters[row] as usize
    }

    pub fn r_of(&self, row: usize) -> &'a R {
        &self.r[self.adapter_of(row)]
    }
}

/// Runs the batch through all layers, writing its keys and values to `cache`, and gives the hidden states of
/// the rows `outputs`, after the last norm (outputs, D): what the head reads.
///
/// `keep` says what becomes of the activations, which stand in `kept`.
///
/// # Errors
/// On a GPU alone: of its driver or its memory.
///
/// # Panics
/// If the batch does not fit the cache, the model or the adapters.
pub fn forward(
    cpu: &Cpu,
    policy: Policy<'_>,
    batch: &Batch,
    outputs: &[u32],
    cache: &mut KvCache,
    kept: &mut KeptActivations,
    keep: Keep<'_>,
) -> Result<Hidden, DeviceError> {
    let mut hidden = policy.model.no_hidden(policy.device);
    forward_into(cpu, policy, batch, outputs, cache, kept, keep, &mut hidden)?;
    Ok(hidden)
}

/// The same, on the host with the hidden states in the memory of those that were there; what they were is overwritten.
///
/// # Errors
/// As [`forward`].
///
/// # Panics
/// As [`forward`], and if `hidden` are of another device than the model.
pub fn forward_into(
    cpu: &Cpu,
    policy: Policy<'_>,
    batch: &Batch,
    outputs: &[u32],
    cache: &mut KvCache,
    kept: &mut KeptActivations,
    mut keep: Keep<'_>,
    hidden: &mut Hidden,
) -> Result<(), DeviceError> {
    let (pass, model) = (Pass::new(cpu, policy, batch), policy.model);
    if let Some(gpu) = model.gpus.get(policy.device) {
        let (cache, kept) = (cache.gpu(), &mut kept.gpu);
        let keep = match keep {
            Keep::Nothing => false,
            Keep::Everything => true,
            Keep::Record(..) => panic!("rows of a GPU are not recorded"),
        };
        let states = cuda::forward(gpu, &model.config, policy.adapters, batch, outputs, cache, kept, keep)?;
        *hidden = Hidden::Gpu(states);
        return Ok(());
    }
    let cache = cache.host();
    let everything = matches!(keep, Keep::Everything);
    let layers = if everything { model.layers.len() } else { 1 };
    kept.layers.resize_with(layers.max(kept.layers.len()), LayerKept::default);
    kept.kept_rows = everything.then(|| batch.rows());
    let mut x = std::mem::take(&mut kept.scratch.stream);
    embed(cpu, model, &batch.tokens, &mut x);
    for (index, layer) in model.layers.iter().enumerate() {
        let buffers = &mut kept.layers[if everything { index } else { 0 }];
        std::mem::swap(&mut buffers.x, &mut x);
        attention_layer::forward(&pass, index, layer, &mut cache[index], buffers, &mut kept.scratch);
        mlp_layer::forward(&pass, index, layer, buffers, &mut kept.scratch, &mut x);
        if let Keep::Record(recording, _) = &mut keep {
            recording.take_layer(
                cpu,
                index,
                batch.rows(),
                buffers,
                [&mut kept.scratch.k, &mut kept.scratch.v],
            );
        }
    }
    if let Keep::Record(recording, before) = keep {
        recording.take_rows(cpu, &x, &batch.tokens, before);
    }
    gather(&x, outputs, model.config.hidden_size, &mut kept.scratch.raw);
    let Hidden::Host { values, .. } = hidden else { panic!("hidden states on a GPU") };
    resize(values, kept.scratch.raw.len());
    rms_norm(cpu, &kept.scratch.raw, &model.final_norm, model.config.rms_norm_eps, values);
    // The last layer's output is what `backward` reads; the other buffer serves the next pass.
    std::mem::swap(&mut kept.scratch.out, &mut x);
    kept.scratch.stream = x;
    Ok(())
}

fn embed(cpu: &Cpu, model: &Model, tokens: &[u32], x: &mut Vec<f32>) {
    let width = model.config.hidden_size;
    resize(x, tokens.len() * width);
    for_chunks(cpu, x, width, |start, out| {
        model.embedding.copy_row(tokens[start / width] as usize, model.config.embedding_scale, out);
    });
}

pub(super) fn gather(x: &[f32], rows: &[u32], width: usize, to: &mut Vec<f32>) {
    to.clear();
    rows.iter().for_each(|&row| to.extend_from_slice(&x[row as usize * width..][..width]));
}

/// Takes ∂L/∂hidden of the rows `outputs`, as [`Directions::combine`] leaves it, back through the layers, and adds the
/// gradients of what is trained to `sums`. Must follow the [`forward`] that kept the activations of the same batch; the
/// own context of every group member must be exactly its rows.
///
/// # Errors
/// On a GPU alone: of its driver or its memory.
///
/// # Panics
/// If that forward pass kept nothing, or a length does not fit.
pub fn backward(
    cpu: &Cpu,
    policy: Policy<'_>,
    batch: &Batch,
    outputs: &[u32],
    gradient: &Directions,
    cache: &mut KvCache,
    kept: &mut KeptActivations,
    sums: &mut Gradients,
) -> Result<(), DeviceError> {
    if let Gradients::Factors(_) = sums {
        assert_eq!(policy.adapters.r.len(), 1, "factors that are trained have one adapter");
    }
    let model = policy.model;
    let gradient = match (gradient, model.gpus.get(policy.device)) {
        (Directions::Host { log, .. }, None) => log,
        (Directions::Gpu(gradient), Some(gpu)) => {
            let (config, cache, kept) = (&model.config, cache.gpu(), &mut kept.gpu);
            return cuda::backward(gpu, config, policy.adapters, batch, outputs, gradient, cache, kept, sums);
        }
        _ => panic!("a gradient of another device"),
    };
    let cache = cache.host();
    assert_eq!(kept.kept_rows.take(), Some(batch.rows()), "a forward pass that keeps comes first");
    let pass = Pass::new(cpu, policy, batch);
    let width = model.config.hidden_size;
    // The last layer's output is what `forward` left in the scratch.
    let mut raw = Vec::new();
    gather(&kept.scratch.out, outputs, width, &mut raw);
    let mut d_raw = vec![0.0; raw.len()];
    if let Some(weights) = sums.weights() {
        assert!(pass.factors.is_none(), "all weights are trained without adapters");
        weights.add_norm(&pass, FINAL_NORM, &raw, gradient);
    }
    rms_norm_backward(cpu, &raw, &model.final_norm, model.config.rms_norm_eps, gradient, &mut d_raw);
    let mut dx = vec![0.0; batch.rows() * width];
    for (&row, d) in outputs.iter().zip(d_raw.chunks_exact(width)) {
        dx[row as usize * width..][..width].iter_mut().zip(d).for_each(|(dx, d)| *dx += d);
    }
    for (index, layer) in model.layers.iter().enumerate().rev() {
        let buffers = &mut kept.layers[index];
        mlp_layer::backward(&pass, index, layer, buffers, &mut kept.scratch, &mut dx, sums);
        let store = &cache[index];
        // Below the first block there is only the embedding.
        let last = index == 0 && sums.weights().is_none();
        attention_layer::backward(
            &pass,
            index,
            layer,
            store,
            buffers,
            &mut kept.scratch,
            &mut dx,
            sums,
            last,
        );
    }
    if let Some(weights) = sums.weights() {
        weights.add_embedding(&pass, &dx);
    }
    Ok(())
}
