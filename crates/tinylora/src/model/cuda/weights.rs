//! Gradients of all weights: one list of sums in f32 on the GPU, laid out as on the host, to which the backward passes of a
//! step add. Each is one product over a micro-batch's rows, or parts joined in order, so that threads have no say in it.

use super::head::GpuHidden;
use super::kept::{Grown, SideScratch};
use super::load::GpuModel;
use super::pass::Pass;
use super::side::GROUPS;
use crate::model::all_weights::{EMBEDDING, HEAD, WeightLayout, in_layer};
use crate::model::hidden::DeviceError;
use half::bf16;
use std::fmt::{Debug, Formatter};
use std::sync::Arc;
use tinylora_compute::cuda::gradients::{add_column_sums, add_outer_products, parts_len};
use tinylora_compute::cuda::product::{Rows, padded};
use tinylora_compute::cuda::rows::{self, Norm, Scatter};
use tinylora_compute::cuda::{CudaError, Device, DeviceBuffer};

/// Sums of the gradients of all weights, on the model's first GPU.
pub struct GpuWeightSums {
    layout: Arc<WeightLayout>,
    numbers: DeviceBuffer<f32>,
}

impl Debug for GpuWeightSums {
    fn fmt(&self, to: &mut Formatter<'_>) -> std::fmt::Result {
        write!(to, "{} numbers on a GPU", self.numbers.len())
    }
}

impl GpuWeightSums {
    /// Zeros.
    pub fn new(gpu: &GpuModel, layout: Arc<WeightLayout>) -> Result<Self, DeviceError> {
        Ok(Self { numbers: gpu.device.zeroed("gradients of all weights", layout.len())?, layout })
    }

    /// The same sums in the same memory.
    pub(super) fn shared(&self) -> Self {
        Self { layout: Arc::clone(&self.layout), numbers: self.numbers.clone() }
    }

    /// Waits; the sums as the layout has them.
    pub fn into_numbers(self) -> Result<Vec<f32>, DeviceError> {
        Ok(self.numbers.to_vec()?)
    }

    /// All sums.
    pub(super) fn numbers(&self) -> &DeviceBuffer<f32> {
        &self.numbers
    }

    fn of(&self, name: &str) -> DeviceBuffer<f32> {
        let range = self.layout.range(name);
        self.numbers.part(range.start, range.len())
    }

    /// The head's sums (V, D).
    pub(super) fn head(&self) -> DeviceBuffer<f32> {
        self.of(HEAD)
    }

    /// Adds Σ weight · hidden of a few rows to the head's sums, for whole rows of weights (n · V), which are rounded to bf16.
    pub fn add_head_rows(
        &self,
        gpu: &GpuModel,
        hidden: &GpuHidden,
        weights: &[f32],
    ) -> Result<(), DeviceError> {
        let (device, vocabulary): (&Device, usize) = (&gpu.device, gpu.head().rows);
        let (count, stride) = (weights.len() / vocabulary, padded(vocabulary));
        let mut bits = vec![0u16; count * stride];
        for (to, from) in bits.chunks_mut(stride).zip(weights.chunks(vocabulary)) {
            to.iter_mut().zip(from).for_each(|(to, &x)| *to = bf16::from_f32(x).to_bits());
        }
        let weights = Rows::new(&device.upload("weights of the vocabulary", &bits)?, count, vocabulary);
        Ok(add_outer_products(device, &weights, &hidden.together(device)?, &[self.head()])?)
    }

    /// The gradient of a norm's weight, given its input and ∂L/∂(its output), of so many rows.
    pub(super) fn add_norm(
        &self,
        device: &Device,
        (norm, name): (&Norm, &str),
        rows: usize,
        given: (&DeviceBuffer<f32>, &DeviceBuffer<f32>),
        scratch: &mut SideScratch,
    ) -> Result<(), CudaError> {
        let scales = scratch.scales.take(device, rows)?;
        let parts = scratch.parts.take(device, parts_len(rows, norm.weight.len(), 0))?;
        norm.add_weight_gradient(device, given, &scales, &parts, &self.of(name))
    }

    /// The embedding's part: each token's row gets the gradient of its copies, which is scaled in place. dx is (T, D).
    pub(super) fn add_embedding(
        &self,
        device: &Device,
        tokens: &[u32],
        (dx, width): (&DeviceBuffer<f32>, usize),
        scale: f32,
    ) -> Result<(), CudaError> {
        if scale != 1.0 {
            rows::scale(device, dx, &device.upload("factors", &vec![scale; tokens.len()])?, width)?;
        }
        Scatter::new(device, tokens)?.add(device, dx, width, &self.of(EMBEDDING))
    }
}

impl Pass<'_> {
    /// dW += dyᵀ x and db += Σ dy of the linear layers of a group, which share x.
    pub(super) fn add_linears(
        &self,
        (layer, group): (usize, usize),
        dy: &Rows,
        x: &Rows,
        parts: &mut Grown<f32>,
        sums: &GpuWeightSums,
    ) -> Result<(), CudaError> {
        let (device, mut first) = (self.device, 0);
        let of = |path: &str| sums.of(&in_layer(layer, path));
        let matrices: Vec<_> =
            GROUPS[group].iter().map(|kind| of(&format!("{}.weight", kind.path()))).collect();
        add_outer_products(device, dy, x, &matrices)?;
        if group > 0 || self.model.layers[layer].qkv_bias.is_none() {
            return Ok(());
        }
        let parts = parts.take(device, parts_len(dy.rows, dy.width, 0))?;
        for kind in GROUPS[group] {
            let sums = of(&format!("{}.bias", kind.path()));
            add_column_sums(device, &dy.columns(first, sums.len()), &parts, &sums)?;
            first += sums.len();
        }
        Ok(())
    }

    /// The gradients of the weights of q and k heads' norms, where the family has them.
    pub(super) fn add_head_norms(
        &self,
        layer: usize,
        qkv: &Rows,
        (dq, dk): (&DeviceBuffer<f32>, &DeviceBuffer<f32>),
        parts: &mut Grown<f32>,
        sums: &GpuWeightSums,
    ) -> Result<(), CudaError> {
        let turn = &self.model.layers[layer].turn;
        if turn.norms.is_none() {
            return Ok(());
        }
        let of = |path: &str| sums.of(&in_layer(layer, path));
        let (q, k) = (of("self_attn.q_norm.weight"), of("self_attn.k_norm.weight"));
        let parts = parts.take(self.device, parts_len(self.rows, 0, turn.shape.2))?;
        turn.add_weight_gradients(self.device, qkv, &self.positions, (dq, dk), &parts, (&q, &k))
    }
}
