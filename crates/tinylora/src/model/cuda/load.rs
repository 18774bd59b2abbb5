//! Weights: rows of files → matrices on the GPU, each once. Matrices that share their input lie below one another, so that one
//! product serves them all.

use super::master::GpuMaster;
use super::side::GROUPS;
use crate::model::all_weights::{EMBEDDING, HEAD, WeightLayout, in_layer};
use crate::model::config::{Activation, ModelConfig};
use crate::model::hidden::DeviceError;
use crate::model::load::{Layer, Model, ModelError, ReadRows};
use crate::model::side::ModuleKind;
use crate::model::weights::WeightsError;
use half::bf16;
use std::cell::RefCell;
use std::sync::Arc;
use std::time::Instant;
use tinylora_compute::attention::Heads;
use tinylora_compute::cuda::product::{self, Matrix, Out, Rows, padded};
use tinylora_compute::cuda::rows::{self, Gate, HeadTurn, Norm};
use tinylora_compute::cuda::{CudaError, Device, DeviceBuffer, Staging, attention, thin};
use tinylora_compute::{Cpu, Precision};

/// Bytes of weights that are on their way at once.
const PIECE: usize = 64 << 20;

/// The weights of a model.
pub struct GpuModel {
    /// Which of the model's GPUs it is.
    pub(super) index: usize,
    pub(super) device: Arc<Device>,
    pub(super) embedding: Matrix,
    head: Option<Matrix>,
    pub(super) final_norm: Norm,
    pub(super) layers: Vec<GpuLayer>,
    pub(super) gate: Gate,
    bytes: usize,
    /// False after a replacement that failed: some are the old ones, some the new.
    whole: bool,
}

/// One block.
pub(super) struct GpuLayer {
    pub input_norm: Norm,
    /// q, k and v (H·d + 2 K·d, D)
    pub qkv: Matrix,
    pub qkv_bias: Option<DeviceBuffer<f32>>,
    pub turn: HeadTurn,
    pub heads: Heads,
    pub o: Matrix,
    pub attention_out_norm: Option<Norm>,
    pub mlp_norm: Norm,
    /// gate and up (2 F, D)
    pub gate_up: Matrix,
    pub down: Matrix,
    pub mlp_out_norm: Option<Norm>,
}

impl GpuModel {
    /// Whether models go to a GPU.
    pub fn is_wanted(cpu: &Cpu) -> bool {
        cpu.gpu().is_some()
    }

    /// Loads the matrices of `model` (which has all else) by their names onto each GPU beside `cpu`; none without one.
    pub fn load(
        cpu: &Cpu,
        model: &Model,
        read: &ReadRows<'_>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Vec<Self>, ModelError> {
        let one = |(index, device)| Self::load_one((index, device), cpu.threads(), model, read, progress);
        cpu.gpus().iter().enumerate().map(one).collect()
    }

    fn load_one(
        (index, device): (usize, &Arc<Device>),
        threads: usize,
        model: &Model,
        read: &ReadRows<'_>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self, ModelError> {
        let config = &model.config;
        let before = device.used();
        if model.precision() == Precision::F32 {
            return Err(DeviceError::Dtype.into());
        }
        if !attention::is_served(&heads(config, 0)) {
            let (queries, keys, size) = (config.num_heads, config.num_kv_heads, config.head_dim);
            return Err(DeviceError::Heads { queries, keys, size }.into());
        }
        let loader = Loader::new(device, threads, read, config)?;
        let total = config.num_layers as u64 + 1;
        progress(0, total);
        let embedding = loader.matrix(&table(config, EMBEDDING))?;
        let head = match config.tied_head {
            true => None,
            false => Some(loader.matrix(&table(config, HEAD))?),
        };
        let mut turns = Vec::new();
        for table in &model.ropes {
            turns.push(device.upload("rope tables", &table.numbers()).map_err(DeviceError::from)?);
        }
        let mut layers = Vec::with_capacity(config.num_layers);
        for (index, layer) in model.layers.iter().enumerate() {
            progress(index as u64 + 1, total);
            layers.push(loader.layer(index, layer, &turns)?);
        }
        let final_norm = loader.norm(&model.final_norm).map_err(DeviceError::from)?;
        progress(total, total);
        Ok(Self {
            index,
            device: Arc::clone(device),
            embedding,
            head,
            final_norm,
            layers,
            gate: match config.activation {
                Activation::Silu => Gate::Silu,
                Activation::GeluTanh => Gate::GeluTanh,
            },
            bytes: device.used() - before,
            whole: true,
        })
    }

    /// Replaces all weights in place by those of `model` (norms and biases) and `read` (matrices). What is queued before
    /// computes with the old ones.
    pub fn repack(&mut self, threads: usize, model: &Model, read: &ReadRows<'_>) -> Result<(), ModelError> {
        let device = Arc::clone(&self.device);
        let loader = Loader::new(&device, threads, read, &model.config)?;
        self.replace(model, &|matrix, tensors| loader.fill(matrix, tensors))
    }

    /// The same with matrices rounded from numbers that are on this GPU.
    pub fn repack_from(
        &mut self,
        model: &Model,
        layout: &WeightLayout,
        master: &GpuMaster,
    ) -> Result<(), ModelError> {
        let device = Arc::clone(&self.device);
        self.replace(model, &|matrix, tensors| {
            let mut first = 0;
            for (name, (rows, columns)) in tensors {
                let range = layout.range(name);
                let numbers = master.numbers.part(range.start, range.len());
                rows::round(
                    &device,
                    &numbers,
                    &Rows::new(&matrix.range(first, *rows).data, *rows, *columns),
                )?;
                first += rows;
            }
            Ok(())
        })
    }

    /// Replaces norms and biases by those of `model`, and matrices as `fill` does.
    fn replace(
        &mut self,
        model: &Model,
        fill: &dyn Fn(&Matrix, &[Tensor]) -> Result<(), ModelError>,
    ) -> Result<(), ModelError> {
        let config = &model.config;
        self.whole = false;
        fill(&self.embedding, &table(config, EMBEDDING))?;
        if let Some(head) = &self.head {
            fill(head, &table(config, HEAD))?;
        }
        self.final_norm.weight.write(&model.final_norm)?;
        for (index, (layer, from)) in self.layers.iter().zip(&model.layers).enumerate() {
            let groups = [&layer.qkv, &layer.o, &layer.gate_up, &layer.down];
            for (matrix, kinds) in groups.into_iter().zip(GROUPS) {
                fill(matrix, &tensors(config, index, kinds))?;
            }
            layer.input_norm.weight.write(&from.input_norm)?;
            layer.mlp_norm.weight.write(&from.mlp_norm)?;
            if let (Some(to), Some(bias)) = (&layer.qkv_bias, qkv_bias(from)) {
                to.write(&bias)?;
            }
            if let (Some((q, k)), Some((from_q, from_k))) = (&layer.turn.norms, &from.qk_norm) {
                q.write(from_q)?;
                k.write(from_k)?;
            }
            let outs = [&layer.attention_out_norm, &layer.mlp_out_norm].into_iter();
            for (to, from) in outs.zip([&from.attention_out_norm, &from.mlp_out_norm]) {
                if let (Some(to), Some(from)) = (to, from) {
                    to.weight.write(from)?;
                }
            }
        }
        self.whole = true;
        Ok(())
    }

    /// That the weights are not a mixture.
    pub(super) fn check(&self) -> Result<(), DeviceError> {
        if self.whole { Ok(()) } else { Err(DeviceError::Mixture) }
    }

    /// The GPU's name.
    pub fn name(&self) -> &str {
        self.device.name()
    }

    /// Bytes of the weights.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Operations a second of a large product, and bytes a second of a copy on the GPU.
    pub fn peak(&self) -> Result<(f64, f64), DeviceError> {
        let device = &*self.device;
        let seconds = |work: &dyn Fn() -> Result<(), CudaError>| -> Result<f64, CudaError> {
            work()?;
            device.synchronize()?;
            let start = Instant::now();
            for _ in 0..4 {
                work()?;
            }
            device.synchronize()?;
            Ok(start.elapsed().as_secs_f64() / 4.0)
        };
        // Larger and larger, until it takes long enough to be measured.
        let mut n = 128;
        let flops = loop {
            let data = device.zeroed("a measurement", 2 * n * n)?;
            let (x, w) =
                (Rows::new(&data, n, n), Matrix { data: data.part(n * n, n * n), rows: n, columns: n });
            let out = device.buffer("a measurement", n * n)?;
            let taken =
                seconds(&|| product::forward(device, &x, &w, None, None, Out::Bf16(&Rows::new(&out, n, n))))?;
            if taken > 2e-3 || n == 8192 {
                break 2.0 * (n as f64).powi(3) / taken;
            }
            n *= 2;
        };
        let len = (device.budget() - device.used()).min(1 << 30) / 4;
        let (a, b) =
            (device.buffer::<u16>("a measurement", len / 2)?, device.buffer("a measurement", len / 2)?);
        let taken = seconds(&|| a.copy_from(&b))?;
        Ok((flops, 2.0 * len as f64 / taken))
    }

    /// The matrix of logits (V, D).
    pub(super) fn head(&self) -> &Matrix {
        self.head.as_ref().unwrap_or(&self.embedding)
    }

    /// W of one linear layer.
    pub fn matrix(&self, config: &ModelConfig, layer: usize, kind: ModuleKind) -> GpuMatrix {
        let layer = &self.layers[layer];
        let (q, k) = (config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim);
        let (stack, first) = match kind {
            ModuleKind::Q => (&layer.qkv, 0),
            ModuleKind::K => (&layer.qkv, q),
            ModuleKind::V => (&layer.qkv, q + k),
            ModuleKind::O => (&layer.o, 0),
            ModuleKind::Gate => (&layer.gate_up, 0),
            ModuleKind::Up => (&layer.gate_up, config.intermediate_size),
            ModuleKind::Down => (&layer.down, 0),
        };
        GpuMatrix { device: Arc::clone(&self.device), matrix: stack.range(first, kind.shape(config).0) }
    }
}

/// One linear layer's matrix (n, k), for products with a few vectors.
pub struct GpuMatrix {
    device: Arc<Device>,
    matrix: Matrix,
}

impl GpuMatrix {
    /// n
    pub fn rows(&self) -> usize {
        self.matrix.rows
    }

    /// k
    pub fn columns(&self) -> usize {
        self.matrix.columns
    }

    /// x (c, k) → x Wᵀ (c, n)
    pub fn forward(&self, x: &[f32]) -> Result<Vec<f32>, DeviceError> {
        Ok(thin::forward(&self.device, &self.matrix, x)?)
    }

    /// y (c, n) → y W (c, k)
    pub fn backward(&self, y: &[f32]) -> Result<Vec<f32>, DeviceError> {
        Ok(thin::backward(&self.device, &self.matrix, y)?)
    }
}

/// Shape of attention in a layer.
fn heads(config: &ModelConfig, layer: usize) -> Heads {
    Heads {
        queries: config.num_heads,
        keys: config.num_kv_heads,
        size: config.head_dim,
        scale: config.attention_scale,
        window: config.layers[layer].window,
    }
}

struct Loader<'a> {
    device: &'a Device,
    threads: usize,
    read: &'a ReadRows<'a>,
    config: &'a ModelConfig,
    staging: RefCell<Staging>,
}

impl<'a> Loader<'a> {
    fn new(
        device: &'a Device,
        threads: usize,
        read: &'a ReadRows<'a>,
        config: &'a ModelConfig,
    ) -> Result<Self, DeviceError> {
        Ok(Self { device, threads, read, config, staging: RefCell::new(device.staging(PIECE / 2)?) })
    }

    fn norm(&self, weight: &[f32]) -> Result<Norm, CudaError> {
        let weight = self.device.upload("norms", weight)?;
        Ok(Norm { weight, epsilon: self.config.rms_norm_eps })
    }

    fn layer(
        &self,
        index: usize,
        layer: &Layer,
        turns: &[DeviceBuffer<f32>],
    ) -> Result<GpuLayer, ModelError> {
        let config = self.config;
        let [qkv, o, gate_up, down] = GROUPS.map(|kinds| self.matrix(&tensors(config, index, kinds)));
        let norm = |weight: &[f32]| self.norm(weight).map_err(DeviceError::from);
        let some_norm = |weight: &Option<Vec<f32>>| weight.as_deref().map(norm).transpose();
        let upload =
            |values: &[f32]| self.device.upload("norms and biases", values).map_err(DeviceError::from);
        let qkv_bias = qkv_bias(layer).map(|bias| upload(&bias)).transpose()?;
        let norms = match &layer.qk_norm {
            None => None,
            Some((q, k)) => Some((upload(q)?, upload(k)?)),
        };
        Ok(GpuLayer {
            input_norm: norm(&layer.input_norm)?,
            qkv: qkv?,
            qkv_bias,
            turn: HeadTurn {
                shape: (config.num_heads, config.num_kv_heads, config.head_dim),
                norms,
                epsilon: config.rms_norm_eps,
                turns: turns[config.layers[index].rope].clone(),
            },
            heads: heads(config, index),
            o: o?,
            attention_out_norm: some_norm(&layer.attention_out_norm)?,
            mlp_norm: norm(&layer.mlp_norm)?,
            gate_up: gate_up?,
            down: down?,
            mlp_out_norm: some_norm(&layer.mlp_out_norm)?,
        })
    }

    /// Tensors of the same number of columns, below one another.
    fn matrix(&self, tensors: &[Tensor]) -> Result<Matrix, ModelError> {
        let (rows, columns) = (tensors.iter().map(|(_, shape)| shape.0).sum(), tensors[0].1.1);
        let data = self.device.buffer(&tensors[0].0, rows * padded(columns)).map_err(DeviceError::from)?;
        let matrix = Matrix { data, rows, columns };
        self.fill(&matrix, tensors)?;
        Ok(matrix)
    }

    /// Their numbers.
    fn fill(&self, matrix: &Matrix, tensors: &[Tensor]) -> Result<(), ModelError> {
        let (columns, stride) = (matrix.columns, matrix.stride());
        let at_once = (PIECE / (2 * stride)).max(1);
        let mut first = 0;
        for (name, (rows, _)) in tensors {
            for start in (0..*rows).step_by(at_once) {
                let count = at_once.min(rows - start);
                let to = matrix.data.part((first + start) * stride, count * stride);
                self.staging
                    .borrow_mut()
                    .send(&to, |piece| fill(self.read, self.threads, (name, start, columns), piece))?;
            }
            first += rows;
        }
        Ok(())
    }
}

/// Name and shape (out, in).
type Tensor = (String, (usize, usize));

/// A table of the vocabulary, by its name.
fn table(config: &ModelConfig, name: &str) -> [Tensor; 1] {
    [(name.to_owned(), (config.vocab_size, config.hidden_size))]
}

/// Linear layers of a block.
fn tensors(config: &ModelConfig, index: usize, kinds: &[ModuleKind]) -> Vec<Tensor> {
    let named = |kind: &ModuleKind| (in_layer(index, &format!("{}.weight", kind.path())), kind.shape(config));
    kinds.iter().map(named).collect()
}

/// Biases of q, k and v one after the other, where a layer has them.
fn qkv_bias(layer: &Layer) -> Option<Vec<f32>> {
    let mut all = Vec::new();
    for linear in [&layer.q, &layer.k, &layer.v] {
        all.extend_from_slice(&linear.bias.as_ref()?[..linear.weight.rows()]);
    }
    Some(all)
}

/// Some rows of a tensor from `start` on as bf16, each in `padded(columns)` numbers, read on all threads.
fn fill(
    read: &ReadRows<'_>,
    threads: usize,
    (name, start, columns): (&str, usize, usize),
    piece: &mut [u16],
) -> Result<(), ModelError> {
    let stride = padded(columns);
    let share = (piece.len() / stride).div_ceil(threads.max(1)).max(1);
    let read_part = |first: usize, part: &mut [u16]| -> Result<(), WeightsError> {
        // A few rows at a time, so that they stay in the cache.
        let some = (1 << 16) / columns.max(1) + 1;
        let mut values = vec![0f32; some * columns];
        for (index, part) in part.chunks_mut(some * stride).enumerate() {
            let values = &mut values[..part.len() / stride * columns];
            read(name, first + index * some, values)?;
            for (to, from) in part.chunks_mut(stride).zip(values.chunks(columns)) {
                to.iter_mut().zip(from).for_each(|(to, &x)| *to = bf16::from_f32(x).to_bits());
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let read_part = &read_part;
        let parts = piece.chunks_mut(share * stride).enumerate();
        let parts: Vec<_> =
            parts.map(|(index, part)| scope.spawn(move || read_part(start + index * share, part))).collect();
        parts
            .into_iter()
            .try_for_each(|part| part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;
    Ok(())
}
