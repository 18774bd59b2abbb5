//! The forward pass and its backward pass, a layer at a time; what each step computes is what `pass.rs`, `attention_layer.rs`
//! and `mlp_layer.rs` say for the CPU.

use super::head::{GpuDirections, GpuHidden};
use super::kept::{GpuCache, GpuKept, Grown, Keys, LayerKept, Scratch, SideScratch};
use super::load::{GpuLayer, GpuModel};
use super::side::{FlatR, GpuFactors, GroupFactors, Sums};
use crate::model::all_weights::{FINAL_NORM, in_layer};
use crate::model::config::ModelConfig;
use crate::model::hidden::DeviceError;
use crate::model::pass::Adapters;
use crate::model::{Batch, Gradients};
use tinylora_compute::attention::BLOCK_TOKENS;
use tinylora_compute::cuda::attention::{self, Backward, Plan};
use tinylora_compute::cuda::product::{self, Apply, Matrix, Out, Rows};
use tinylora_compute::cuda::rows::{self, Norm, Scatter};
use tinylora_compute::cuda::{CudaError, Device, DeviceBuffer};

/// What every layer needs to know of the pass.
pub(super) struct Pass<'a> {
    pub device: &'a Device,
    pub model: &'a GpuModel,
    pub rows: usize,
    pub width: usize,
    pub positions: DeviceBuffer<u32>,
    /// Slot of each row.
    pub places: DeviceBuffer<u32>,
    pub plan: Plan,
    pub side: Option<PassSide<'a>>,
}

/// The side path of a pass.
pub(super) struct PassSide<'a> {
    pub factors: &'a GpuFactors,
    /// Adapter of each row.
    pub adapters: DeviceBuffer<u32>,
    /// R of one adapter after the other, each of `length` numbers.
    pub r: DeviceBuffer<f32>,
    pub length: usize,
    pub multiples: bool,
    /// Numbers of each adapter's gradient of R.
    of_gradient: usize,
}

impl<'a> PassSide<'a> {
    /// Puts R there, where it isn't yet; None without a side path.
    pub fn new(
        model: &GpuModel,
        adapters: Adapters<'a>,
        adapters_of_rows: DeviceBuffer<u32>,
        (r, r_there): (&mut Grown<f32>, &mut Vec<f32>),
    ) -> Result<Option<Self>, DeviceError> {
        let Some(factors) = adapters.factors else { return Ok(None) };
        let on_gpu = factors.gpus.get(model.index).expect("factors lie where the model does");
        on_gpu.check()?;
        let all = FlatR::new(adapters.r, factors.modules(), factors.rank());
        let to = r.take(&model.device, all.numbers.len())?;
        if *r_there != all.numbers {
            r_there.clear();
            to.write(&all.numbers)?;
            *r_there = all.numbers;
        }
        Ok(Some(Self {
            factors: on_gpu,
            adapters: adapters_of_rows,
            r: to,
            length: all.length,
            multiples: all.multiples,
            of_gradient: factors.modules() * factors.rank() * factors.rank(),
        }))
    }

    fn how(&self, turned: bool) -> Apply {
        match (self.multiples, turned) {
            (true, _) => Apply::Multiples,
            (false, false) => Apply::Plain,
            (false, true) => Apply::Turned,
        }
    }
}

impl<'a> Pass<'a> {
    fn new(
        model: &'a GpuModel,
        config: &ModelConfig,
        adapters: Adapters<'a>,
        batch: &Batch,
        r: (&mut Grown<f32>, &mut Vec<f32>),
        keep: bool,
    ) -> Result<Self, DeviceError> {
        model.check()?;
        let (device, rows) = (&*model.device, batch.rows());
        let place = |&(block, offset): &(u32, u32)| block * BLOCK_TOKENS as u32 + offset;
        let places: Vec<u32> = batch.places.iter().map(place).collect();
        let shared_rows = keep.then_some(&batch.shared_rows[..]);
        let of_rows = device.upload("adapters of rows", &batch.adapters)?;
        let side = PassSide::new(model, adapters, of_rows, r)?;
        Ok(Self {
            device,
            model,
            rows,
            width: config.hidden_size,
            positions: device.upload("positions", &batch.positions)?,
            places: device.upload("places", &places)?,
            plan: Plan::new(device, &model.layers[0].heads, rows, &batch.groups, shared_rows)?,
            side,
        })
    }

    fn group(&self, layer: usize, group: usize) -> Option<(&GroupFactors, &PassSide<'a>)> {
        let side = self.side.as_ref()?;
        Some((side.factors.layers[layer][group].as_ref()?, side))
    }

    /// out = x Wᵀ + bias + side path; p is kept for the backward pass.
    fn linear(
        &self,
        (layer, group): (usize, usize),
        x: &Rows,
        w: &Matrix,
        bias: Option<&DeviceBuffer<f32>>,
        p: &mut Grown<f32>,
        z: &mut Grown<f32>,
        out: Out<'_>,
    ) -> Result<(), CudaError> {
        let device = self.device;
        let Some((factors, side)) = self.group(layer, group) else {
            return product::forward(device, x, w, bias, None, out);
        };
        let width = factors.members.width();
        let (p, z) = (p.take(device, self.rows * width)?, z.take(device, self.rows * width)?);
        product::project(device, x, factors.project(), &p, (width, 0))?;
        let r = (&side.r, side.length);
        product::apply_r(device, &factors.members, side.how(false), &p, &side.adapters, r, &z)?;
        product::forward(device, x, w, bias, Some(&factors.forward(&z)), out)
    }

    /// Adds to the sums, and dx = dy W + side path where it is wanted. `x`, the input, is there if the sums want inputs.
    fn linear_backward(
        &self,
        (layer, group): (usize, usize),
        dy: &Rows,
        x: Option<&Rows>,
        w: &Matrix,
        p: &mut Grown<f32>,
        scratch: &mut SideScratch,
        sums: &Sums,
        dx: Option<Out<'_>>,
    ) -> Result<(), CudaError> {
        let device = self.device;
        let mut added = None;
        if let Some((factors, side)) = self.group(layer, group) {
            let (members, width) = (&factors.members, factors.members.width());
            let (len, r) = (self.rows * width, (&side.r, side.length));
            let p = p.take(device, len)?;
            let (t, z) = (scratch.t.take(device, len)?, scratch.z.take(device, len)?);
            for (number, member) in factors.reduce.iter().enumerate() {
                let dy = dy.columns(member.first, member.outputs);
                product::project(device, &dy, &member.turned, &t, (width, number * members.rank))?;
            }
            if let Sums::R(dr) = sums {
                product::r_gradient(device, members, &t, &p, &side.adapters, (dr, side.of_gradient))?;
            }
            product::apply_r(device, members, side.how(true), &t, &side.adapters, r, &z)?;
            if let (Sums::Factors(sums), Some(x)) = (sums, x) {
                // z of the forward pass takes the place of t.
                product::apply_r(device, members, side.how(false), &p, &side.adapters, r, &t)?;
                self.factor_gradients(factors, dy, x, (&z, &t), &mut scratch.parts, sums)?;
            }
            added = Some(factors.backward(&z));
        }
        if let (Some(sums), Some(x)) = (sums.weights(), x) {
            self.add_linears((layer, group), dy, x, &mut scratch.parts, sums)?;
        }
        match dx {
            None => Ok(()),
            Some(dx) => product::backward(device, dy, w, added.as_ref(), dx),
        }
    }

    /// dA += dp xᵀ and dBᵀ += z dyᵀ of each member.
    fn factor_gradients(
        &self,
        factors: &GroupFactors,
        dy: &Rows,
        x: &Rows,
        (dp, z): (&DeviceBuffer<f32>, &DeviceBuffer<f32>),
        parts: &mut Grown<f32>,
        sums: &DeviceBuffer<f32>,
    ) -> Result<(), CudaError> {
        let (device, rank, width) = (self.device, factors.members.rank, factors.members.width());
        for (number, member) in factors.reduce.iter().enumerate() {
            let (of_a, of_b) = (rank * x.width, rank * member.outputs);
            let da = sums.part(member.start, of_a);
            let db = sums.part(member.start + of_a, of_b);
            let longest = x.width.max(member.outputs);
            let parts = parts.take(device, product::outer_len(self.rows, rank, longest))?;
            let at = number * rank;
            product::add_outer(device, (dp, width, at), rank, x, &parts, &da)?;
            let dy = dy.columns(member.first, member.outputs);
            product::add_outer(device, (z, width, at), rank, &dy, &parts, &db)?;
        }
        Ok(())
    }

    /// The stream becomes the block's output.
    pub fn layer(
        &self,
        index: usize,
        stream: &DeviceBuffer<f32>,
        (keys, values): &Keys,
        kept: &mut LayerKept,
        scratch: &mut Scratch,
        keep: bool,
    ) -> Result<(), CudaError> {
        let (device, rows, layer) = (self.device, self.rows, &self.model.layers[index]);
        if keep {
            kept.x.take(device, stream.len())?.copy_from(stream)?;
        }
        let normed = scratch.normed.rows(device, rows, self.width)?;
        layer.input_norm.forward(device, stream, &normed)?;
        let qkv = kept.qkv.rows(device, rows, layer.qkv.rows)?;
        let (p, z) = (&mut kept.p, &mut scratch.side.z);
        let bias = layer.qkv_bias.as_ref();
        self.linear((index, 0), &normed, &layer.qkv, bias, &mut p[0], z, Out::Bf16(&qkv))?;
        let (heads, all) = (&layer.heads, layer.heads.queries * layer.heads.size);
        let q = kept.q.rows(device, rows, all)?;
        layer.turn.forward(device, &qkv, (&self.positions, &self.places), &q, (keys, values))?;
        let out = kept.heads.rows(device, rows, all)?;
        let lse = kept.lse.take(device, rows * heads.queries)?;
        let partial = scratch.partial.take(device, self.plan.partial_len(heads))?;
        attention::forward(device, &self.plan, heads, &q, (keys, values), (&out, &lse), &partial)?;
        match &layer.attention_out_norm {
            None => self.linear((index, 1), &out, &layer.o, None, &mut p[1], z, Out::Add(stream))?,
            Some(norm) => {
                let raw = kept.attention_out.take(device, stream.len())?;
                self.linear((index, 1), &out, &layer.o, None, &mut p[1], z, Out::F32(&raw))?;
                norm.add(device, rows, &raw, stream)?;
            }
        }
        if keep {
            kept.middle.take(device, stream.len())?.copy_from(stream)?;
        }
        layer.mlp_norm.forward(device, stream, &normed)?;
        let gate_up = kept.gate_up.rows(device, rows, layer.gate_up.rows)?;
        self.linear((index, 2), &normed, &layer.gate_up, None, &mut p[2], z, Out::Bf16(&gate_up))?;
        let hidden = scratch.hidden.rows(device, rows, layer.down.columns)?;
        rows::gated(device, self.model.gate, &gate_up, &hidden)?;
        match &layer.mlp_out_norm {
            None => self.linear((index, 3), &hidden, &layer.down, None, &mut p[3], z, Out::Add(stream)),
            Some(norm) => {
                let raw = kept.mlp_out.take(device, stream.len())?;
                self.linear((index, 3), &hidden, &layer.down, None, &mut p[3], z, Out::F32(&raw))?;
                norm.add(device, rows, &raw, stream)
            }
        }
    }

    /// Where all weights are trained: the gradient of a norm's, given its input and ∂L/∂(its output).
    fn norm_gradient(
        &self,
        index: usize,
        (norm, path): (&Norm, &str),
        given: (&DeviceBuffer<f32>, &DeviceBuffer<f32>),
        scratch: &mut SideScratch,
        sums: &Sums,
    ) -> Result<(), CudaError> {
        let Some(sums) = sums.weights() else { return Ok(()) };
        let name = in_layer(index, &format!("{path}.weight"));
        sums.add_norm(self.device, (norm, &name), self.rows, given, scratch)
    }

    /// The same of the norm of what the half of a block adds, where the family has one.
    fn out_norm_gradient(
        &self,
        index: usize,
        norm: Option<(&Norm, &str)>,
        raw: &mut Grown<f32>,
        dx: &DeviceBuffer<f32>,
        scratch: &mut SideScratch,
        sums: &Sums,
    ) -> Result<(), CudaError> {
        let Some(norm) = norm else { return Ok(()) };
        self.norm_gradient(index, norm, (&raw.take(self.device, dx.len())?, dx), scratch, sums)
    }

    /// ∂L/∂(what the half of a block adds), rounded.
    fn d_out(
        &self,
        norm: Option<&Norm>,
        raw: &mut Grown<f32>,
        dx: &DeviceBuffer<f32>,
        d_out: &mut Grown<u16>,
    ) -> Result<Rows, CudaError> {
        let d_out = d_out.rows(self.device, self.rows, self.width)?;
        match norm {
            None => rows::round(self.device, dx, &d_out)?,
            Some(norm) => norm.backward(self.device, &raw.take(self.device, dx.len())?, dx, &d_out)?,
        }
        Ok(d_out)
    }

    /// Turns `dx` from the gradient of the block's output into that of its input.
    fn layer_backward(
        &self,
        index: usize,
        dx: &DeviceBuffer<f32>,
        keys: &Keys,
        kept: &mut LayerKept,
        scratch: &mut Scratch,
        sums: &Sums,
    ) -> Result<(), CudaError> {
        let (device, rows, layer) = (self.device, self.rows, &self.model.layers[index]);
        let d_normed = scratch.d_normed.take(device, dx.len())?;
        let out_norm = layer.mlp_out_norm.as_ref().map(|norm| (norm, "post_feedforward_layernorm"));
        self.out_norm_gradient(index, out_norm, &mut kept.mlp_out, dx, &mut scratch.side, sums)?;
        let d_out = self.d_out(layer.mlp_out_norm.as_ref(), &mut kept.mlp_out, dx, &mut scratch.d_out)?;
        let d_hidden = scratch.d_hidden.rows(device, rows, layer.down.columns)?;
        let gate_up = kept.gate_up.rows(device, rows, layer.gate_up.rows)?;
        // Inputs that were not kept are computed again.
        let trains = sums.want_inputs();
        let hidden = scratch.hidden.rows(device, rows, layer.down.columns)?;
        if trains {
            rows::gated(device, self.model.gate, &gate_up, &hidden)?;
        }
        let (p, side, out) = (&mut kept.p, &mut scratch.side, Some(Out::Bf16(&d_hidden)));
        let x = trains.then_some(&hidden);
        self.linear_backward((index, 3), &d_out, x, &layer.down, &mut p[3], side, sums, out)?;
        rows::gated_backward(device, self.model.gate, &gate_up, &d_hidden)?;
        let middle = kept.middle.take(device, dx.len())?;
        let normed = scratch.normed.rows(device, rows, self.width)?;
        if trains {
            layer.mlp_norm.forward(device, &middle, &normed)?;
        }
        let (x, out) = (trains.then_some(&normed), Some(Out::F32(&d_normed)));
        self.linear_backward((index, 2), &gate_up, x, &layer.gate_up, &mut p[2], side, sums, out)?;
        let sandwich = layer.attention_out_norm.is_some();
        let path = if sandwich { "pre_feedforward_layernorm" } else { "post_attention_layernorm" };
        self.norm_gradient(index, (&layer.mlp_norm, path), (&middle, &d_normed), &mut scratch.side, sums)?;
        layer.mlp_norm.backward_add(device, rows, &middle, &d_normed, dx)?;
        self.attention_backward(index, layer, dx, keys, kept, scratch, sums)
    }

    fn attention_backward(
        &self,
        index: usize,
        layer: &GpuLayer,
        dx: &DeviceBuffer<f32>,
        (keys, values): &Keys,
        kept: &mut LayerKept,
        scratch: &mut Scratch,
        sums: &Sums,
    ) -> Result<(), CudaError> {
        let (device, rows, heads) = (self.device, self.rows, &layer.heads);
        let (all, all_keys) = (heads.queries * heads.size, heads.keys * heads.size);
        let norm = layer.attention_out_norm.as_ref();
        let out_norm = norm.map(|norm| (norm, "post_attention_layernorm"));
        self.out_norm_gradient(index, out_norm, &mut kept.attention_out, dx, &mut scratch.side, sums)?;
        let d_out = self.d_out(norm, &mut kept.attention_out, dx, &mut scratch.d_out)?;
        let d_heads = scratch.d_heads.rows(device, rows, all)?;
        let trains = sums.want_inputs();
        let x = trains.then_some(kept.heads.rows(device, rows, all)?);
        let (side, out) = (&mut scratch.side, Some(Out::Bf16(&d_heads)));
        self.linear_backward((index, 1), &d_out, x.as_ref(), &layer.o, &mut kept.p[1], side, sums, out)?;
        let dq = scratch.dq.take(device, rows * all)?;
        let (dk, dv) = (scratch.dk.take(device, rows * all_keys)?, scratch.dv.take(device, rows * all_keys)?);
        let (q, out) = (kept.q.rows(device, rows, all)?, kept.heads.rows(device, rows, all)?);
        let lse = kept.lse.take(device, rows * heads.queries)?;
        let delta = scratch.delta.take(device, rows * heads.queries)?;
        let given = Backward {
            q: &q,
            keys,
            values,
            row_slots: &self.places,
            out: &out,
            lse: &lse,
            d_out: &d_heads,
            delta: &delta,
        };
        attention::backward(device, &self.plan, heads, &given, (&dq, &dk, &dv))?;
        let qkv = kept.qkv.rows(device, rows, layer.qkv.rows)?;
        let d_qkv = scratch.d_qkv.rows(device, rows, layer.qkv.rows)?;
        if let Some(sums) = sums.weights() {
            self.add_head_norms(index, &qkv, (&dq, &dk), &mut scratch.side.parts, sums)?;
        }
        layer.turn.backward(device, &qkv, &self.positions, (&dq, &dk, &dv), &d_qkv)?;
        // Below the first layer there is only the embedding.
        let d_normed = scratch.d_normed.take(device, dx.len())?;
        let (x, normed) = (kept.x.take(device, dx.len())?, scratch.normed.rows(device, rows, self.width)?);
        if trains {
            layer.input_norm.forward(device, &x, &normed)?;
        }
        let (side, wanted) = (&mut scratch.side, index > 0 || sums.weights().is_some());
        let (input, to) = (trains.then_some(&normed), wanted.then_some(Out::F32(&d_normed)));
        self.linear_backward((index, 0), &d_qkv, input, &layer.qkv, &mut kept.p[0], side, sums, to)?;
        if wanted {
            let norm = (&layer.input_norm, "input_layernorm");
            self.norm_gradient(index, norm, (&x, &d_normed), &mut scratch.side, sums)?;
            layer.input_norm.backward_add(device, rows, &x, &d_normed, dx)?;
        }
        Ok(())
    }
}

/// Hidden states of the rows `outputs`, as [`crate::model::forward`].
pub fn forward(
    gpu: &GpuModel,
    config: &ModelConfig,
    adapters: Adapters<'_>,
    batch: &Batch,
    outputs: &[u32],
    cache: &mut GpuCache,
    kept: &mut GpuKept,
    keep: bool,
) -> Result<GpuHidden, DeviceError> {
    let device = &*gpu.device;
    let pass = Pass::new(gpu, config, adapters, batch, (&mut kept.r, &mut kept.r_there), false)?;
    let cache = cache.layers(device, config)?;
    let layers = if keep { gpu.layers.len() } else { 1 };
    kept.layers.resize_with(layers.max(kept.layers.len()), LayerKept::default);
    kept.kept_rows = keep.then_some(pass.rows);
    let stream = kept.stream.take(device, pass.rows * pass.width)?;
    let tokens = device.upload("tokens", &batch.tokens)?;
    rows::embed(device, &gpu.embedding, &tokens, config.embedding_scale, &stream)?;
    for (index, keys) in cache.iter().enumerate() {
        let of_layer = &mut kept.layers[if keep { index } else { 0 }];
        pass.layer(index, &stream, keys, of_layer, &mut kept.scratch, keep)?;
    }
    let raw = gathered(device, &stream, outputs, pass.width)?;
    GpuHidden::normed(gpu, &raw, outputs.len()).map_err(DeviceError::from)
}

fn gathered(
    device: &Device,
    stream: &DeviceBuffer<f32>,
    outputs: &[u32],
    width: usize,
) -> Result<DeviceBuffer<f32>, CudaError> {
    let (rows, raw) = (device.upload("outputs", outputs)?, device.buffer("outputs", outputs.len() * width)?);
    rows::gather(device, stream, &rows, width, &raw)?;
    Ok(raw)
}

/// Adds the gradient of what is trained to `sums`, as [`crate::model::backward`].
pub fn backward(
    gpu: &GpuModel,
    config: &ModelConfig,
    adapters: Adapters<'_>,
    batch: &Batch,
    outputs: &[u32],
    gradient: &GpuDirections,
    cache: &mut GpuCache,
    kept: &mut GpuKept,
    sums: &mut Gradients,
) -> Result<(), DeviceError> {
    assert_eq!(kept.kept_rows.take(), Some(batch.rows()), "a forward pass that keeps comes first");
    let device = &*gpu.device;
    let pass = Pass::new(gpu, config, adapters, batch, (&mut kept.r, &mut kept.r_there), true)?;
    let cache = cache.layers(device, config)?;
    let stream = kept.stream.take(device, pass.rows * pass.width)?;
    let raw = gathered(device, &stream, outputs, pass.width)?;
    let found = Sums::new(device, sums)?;
    if let Some(sums) = found.weights() {
        assert!(pass.side.is_none(), "all weights are trained without adapters");
        let (norm, given) = ((&gpu.final_norm, FINAL_NORM), (&raw, gradient.loss()));
        sums.add_norm(device, norm, outputs.len(), given, &mut kept.scratch.side)?;
    }
    let d_raw = device.zeroed::<f32>("gradients of outputs", raw.len())?;
    gpu.final_norm.backward_add(device, outputs.len(), &raw, gradient.loss(), &d_raw)?;
    let dx = kept.scratch.dx.take(device, stream.len())?;
    dx.clear()?;
    Scatter::new(device, outputs)?.add(device, &d_raw, pass.width, &dx)?;
    for index in (0..gpu.layers.len()).rev() {
        let of_layer = &mut kept.layers[index];
        pass.layer_backward(index, &dx, &cache[index], of_layer, &mut kept.scratch, &found)?;
    }
    if let Some(sums) = found.weights() {
        sums.add_embedding(device, &batch.tokens, (&dx, pass.width), config.embedding_scale)?;
    }
    Ok(found.add_to(sums)?)
}
