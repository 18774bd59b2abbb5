//! A model in memory: packed matrices, norms and rope tables. Weights enter; nothing here computes.

use super::all_weights::{EMBEDDING, FINAL_NORM, HEAD, WeightLayout, in_layer};
use super::config::ModelConfig;
use super::cuda::{GpuMaster, GpuModel};
use super::hidden::DeviceError;
use super::linear::Linear;
use super::side::ModuleKind;
use super::weights::{Weights, WeightsError};
use tinylora_compute::product::padded_bias;
use tinylora_compute::rope::RopeTable;
use tinylora_compute::{Cpu, PackedMatrix, Precision};

/// Why a model can't be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A weight can't be read.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// They don't fit the GPU.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A norm or bias is not a finite number.
    #[error("tensor {tensor}: element {index} is {value}; the weights are damaged, fetch them again")]
    NotFinite {
        /// Name.
        tensor: String,
        /// Element.
        index: usize,
        /// What stands there.
        value: f32,
    },
}

/// A model. Its weights change only as a whole, by [`Model::repack`].
pub struct Model {
    /// Sizes and differences.
    pub config: ModelConfig,
    /// (V, D); also the head where that is tied.
    pub embedding: PackedMatrix,
    head: Option<PackedMatrix>,
    /// Blocks.
    pub layers: Vec<Layer>,
    pub(super) final_norm: Vec<f32>,
    pub(super) ropes: Vec<RopeTable>,
    precision: Precision,
    /// The matrices, if they lie on a GPU: those here have sizes alone then.
    pub(super) gpus: Vec<GpuModel>,
}

/// One block.
pub struct Layer {
    pub(super) input_norm: Vec<f32>,
    pub(super) q: Linear,
    pub(super) k: Linear,
    pub(super) v: Linear,
    pub(super) qk_norm: Option<(Vec<f32>, Vec<f32>)>,
    pub(super) o: Linear,
    pub(super) attention_out_norm: Option<Vec<f32>>,
    pub(super) mlp_norm: Vec<f32>,
    pub(super) gate: Linear,
    pub(super) up: Linear,
    pub(super) down: Linear,
    pub(super) mlp_out_norm: Option<Vec<f32>>,
}

impl Layer {
    /// W of one linear layer.
    pub fn weight(&self, kind: ModuleKind) -> &PackedMatrix {
        let linear = match kind {
            ModuleKind::Q => &self.q,
            ModuleKind::K => &self.k,
            ModuleKind::V => &self.v,
            ModuleKind::O => &self.o,
            ModuleKind::Gate => &self.gate,
            ModuleKind::Up => &self.up,
            ModuleKind::Down => &self.down,
        };
        &linear.weight
    }
}

impl Layer {
    fn linear_mut(&mut self, kind: ModuleKind) -> &mut Linear {
        match kind {
            ModuleKind::Q => &mut self.q,
            ModuleKind::K => &mut self.k,
            ModuleKind::V => &mut self.v,
            ModuleKind::O => &mut self.o,
            ModuleKind::Gate => &mut self.gate,
            ModuleKind::Up => &mut self.up,
            ModuleKind::Down => &mut self.down,
        }
    }
}

impl Model {
    /// Reads and packs all weights. `positions` bounds the length of sequences (rope tables are made for so
    /// many); `progress` is told the bytes packed so far and in all. With a GPU beside `cpu` the matrices go there.
    pub fn load(
        cpu: &Cpu,
        weights: &Weights,
        precision: Precision,
        positions: usize,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self, ModelError> {
        let read = |name: &str, row: usize, out: &mut [f32]| weights.read_rows(name, row, out);
        Self::assemble(cpu, weights.config().clone(), &read, precision, positions, progress)
    }

    /// The model of a list of all weights, in the layout's order.
    pub fn from_numbers(
        cpu: &Cpu,
        (config, layout): (ModelConfig, &WeightLayout),
        numbers: &[f32],
        precision: Precision,
        positions: usize,
    ) -> Result<Self, ModelError> {
        let read = |name: &str, row: usize, out: &mut [f32]| {
            layout.copy_rows(numbers, name, row, out);
            Ok(())
        };
        Self::assemble(cpu, config, &read, precision, positions, &mut |_, _| {})
    }

    /// Replaces all weights, in place; `master` has the same numbers on the first GPU, where it is there.
    ///
    /// # Errors
    /// On a GPU alone: of its driver or its memory. The weights there are then partly old and partly new, and are not
    /// computed with until they are replaced again.
    ///
    /// # Panics
    /// If the layout is that of another model.
    pub fn repack(
        &mut self,
        cpu: &Cpu,
        layout: &WeightLayout,
        numbers: &[f32],
        master: Option<&GpuMaster>,
    ) -> Result<(), ModelError> {
        let of = |name: &str| &numbers[layout.range(name)];
        let on_host = !self.is_on_gpu();
        let plus = if self.config.norm_plus_one { 1.0 } else { 0.0 };
        let norm = |to: &mut Vec<f32>, name: &str| {
            to.iter_mut().zip(of(name)).for_each(|(to, &from)| *to = from + plus);
        };
        let matrix = |to: &mut PackedMatrix, name: &str| {
            if on_host {
                to.repack(cpu, of(name));
            }
        };
        matrix(&mut self.embedding, EMBEDDING);
        if let Some(head) = &mut self.head {
            matrix(head, HEAD);
        }
        norm(&mut self.final_norm, FINAL_NORM);
        let sandwich = self.config.sandwich_norms;
        for (index, layer) in self.layers.iter_mut().enumerate() {
            let name = |path: &str| in_layer(index, &format!("{path}.weight"));
            norm(&mut layer.input_norm, &name("input_layernorm"));
            let before_mlp = if sandwich { "pre_feedforward_layernorm" } else { "post_attention_layernorm" };
            norm(&mut layer.mlp_norm, &name(before_mlp));
            if let Some((q, k)) = &mut layer.qk_norm {
                norm(q, &name("self_attn.q_norm"));
                norm(k, &name("self_attn.k_norm"));
            }
            if let Some(out) = &mut layer.attention_out_norm {
                norm(out, &name("post_attention_layernorm"));
            }
            if let Some(out) = &mut layer.mlp_out_norm {
                norm(out, &name("post_feedforward_layernorm"));
            }
            for kind in ModuleKind::ALL {
                let linear = layer.linear_mut(kind);
                matrix(&mut linear.weight, &name(kind.path()));
                if let Some(bias) = &mut linear.bias {
                    *bias = padded_bias(of(&in_layer(index, &format!("{}.bias", kind.path()))));
                }
            }
        }
        let read = |name: &str, row: usize, out: &mut [f32]| {
            layout.copy_rows(numbers, name, row, out);
            Ok(())
        };
        let mut gpus = std::mem::take(&mut self.gpus);
        let repacked = gpus.iter_mut().enumerate().try_for_each(|(index, gpu)| match master {
            Some(master) if index == 0 => gpu.repack_from(self, layout, master),
            _ => gpu.repack(cpu.threads(), self, &read),
        });
        self.gpus = gpus;
        repacked
    }

    /// A model of the same sizes with random matrices, norms of 1 and biases of 0: for measuring speed and memory.
    ///
    /// # Errors
    /// If it doesn't fit the GPU beside `cpu`.
    pub fn random(
        cpu: &Cpu,
        config: ModelConfig,
        precision: Precision,
        positions: usize,
    ) -> Result<Self, ModelError> {
        let (width, plus_one) = (config.hidden_size, config.norm_plus_one);
        let read = |name: &str, row: usize, out: &mut [f32]| {
            if name.ends_with("bias") || (name.contains("norm") && plus_one) {
                out.fill(0.0);
            } else if name.contains("norm") {
                out.fill(1.0);
            } else {
                // Uniform with about the deviation that keeps the size of what passes through.
                let mut state = name
                    .bytes()
                    .fold(row as u64 + 1, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01B3));
                let scale = 1.7 / (width as f32).sqrt() / (1u32 << 31) as f32;
                for x in out {
                    state =
                        state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    *x = ((state >> 32) as i32) as f32 * scale;
                }
            }
            Ok(())
        };
        Self::assemble(cpu, config, &read, precision, positions, &mut |_, _| {})
    }

    fn assemble(
        cpu: &Cpu,
        config: ModelConfig,
        read: &ReadRows<'_>,
        precision: Precision,
        positions: usize,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self, ModelError> {
        let on_gpu = GpuModel::is_wanted(cpu);
        let reader = Reader { cpu, read, config: &config, precision, on_gpu };
        let total = config.num_layers as u64 + 1;
        let mut told = |done| {
            if !on_gpu {
                progress(done, total);
            }
        };
        told(0);
        let embedding =
            reader.matrix("model.embed_tokens.weight", (config.vocab_size, config.hidden_size))?;
        let head = match config.tied_head {
            true => None,
            false => Some(reader.matrix("lm_head.weight", (config.vocab_size, config.hidden_size))?),
        };
        let mut layers = Vec::with_capacity(config.num_layers);
        for index in 0..config.num_layers {
            told(index as u64 + 1);
            layers.push(reader.layer(index)?);
        }
        let final_norm = reader.norm("model.norm.weight", config.hidden_size)?;
        let ropes = config
            .ropes
            .iter()
            .map(|rope| RopeTable::new(&rope.inverse_frequencies(config.head_dim), positions))
            .collect();
        told(total);
        let mut model =
            Self { embedding, head, layers, final_norm, ropes, precision, config, gpus: Vec::new() };
        model.gpus = GpuModel::load(cpu, &model, read, progress)?;
        Ok(model)
    }

    /// The matrix of logits (V, D).
    pub fn head(&self) -> &PackedMatrix {
        self.head.as_ref().unwrap_or(&self.embedding)
    }

    /// Precision of the matrices.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Longest sequence that the rope tables cover.
    pub fn positions(&self) -> usize {
        self.ropes.iter().map(RopeTable::positions).min().unwrap_or(0)
    }

    /// Bytes that the weights take.
    pub fn bytes(&self) -> usize {
        let layers =
            self.layers.iter().flat_map(|layer| ModuleKind::ALL.map(|kind| layer.weight(kind).bytes()));
        let host = layers.sum::<usize>()
            + self.embedding.bytes()
            + self.head.as_ref().map_or(0, PackedMatrix::bytes);
        host + self.gpus.first().map_or(0, GpuModel::bytes)
    }

    /// On a GPU: operations a second of a large product there, and bytes a second of a copy.
    pub fn gpu_peak(&self) -> Option<Result<(f64, f64), DeviceError>> {
        self.gpus.first().map(GpuModel::peak)
    }

    /// Whether its matrices lie on a GPU.
    pub fn is_on_gpu(&self) -> bool {
        !self.gpus.is_empty()
    }

    /// How many devices it lies on, each of which computes without the others.
    pub fn devices(&self) -> usize {
        self.gpus.len().max(1)
    }

    /// "cpu" or "cuda": where it computes.
    pub fn device_name(&self) -> &'static str {
        if self.is_on_gpu() { "cuda" } else { "cpu" }
    }

    /// The instruction set, or the name of the GPU.
    pub fn kernel_name<'a>(&'a self, cpu: &'a Cpu) -> &'a str {
        self.gpus.first().map_or(cpu.kernel().name(), GpuModel::name)
    }
}

/// Gives whole rows of a tensor, by name and first row.
pub(super) type ReadRows<'a> = dyn Fn(&str, usize, &mut [f32]) -> Result<(), WeightsError> + Sync + 'a;

struct Reader<'a> {
    cpu: &'a Cpu,
    read: &'a ReadRows<'a>,
    config: &'a ModelConfig,
    precision: Precision,
    on_gpu: bool,
}

impl Reader<'_> {
    fn matrix(&self, name: &str, shape: (usize, usize)) -> Result<PackedMatrix, ModelError> {
        if self.on_gpu {
            return Ok(PackedMatrix::without_data(shape));
        }
        let read = |row: usize, out: &mut [f32]| (self.read)(name, row, out);
        Ok(PackedMatrix::pack(self.cpu, shape, self.precision, read)?)
    }

    fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, ModelError> {
        let mut values = vec![0.0; len];
        (self.read)(name, 0, &mut values)?;
        match values.iter().position(|x| !x.is_finite()) {
            Some(index) => {
                Err(ModelError::NotFinite { tensor: name.to_owned(), index, value: values[index] })
            }
            None => Ok(values),
        }
    }

    /// The factor that a norm multiplies with.
    fn norm(&self, name: &str, len: usize) -> Result<Vec<f32>, ModelError> {
        let mut values = self.vector(name, len)?;
        if self.config.norm_plus_one {
            values.iter_mut().for_each(|x| *x += 1.0);
        }
        Ok(values)
    }

    fn layer(&self, index: usize) -> Result<Layer, ModelError> {
        let config = self.config;
        let name = |path: &str| format!("model.layers.{index}.{path}.weight");
        let linear = |kind: ModuleKind| -> Result<Linear, ModelError> {
            let shape = kind.shape(config);
            let biased = config.qkv_bias && matches!(kind, ModuleKind::Q | ModuleKind::K | ModuleKind::V);
            let bias = match biased {
                false => None,
                true => {
                    let name = format!("model.layers.{index}.{}.bias", kind.path());
                    Some(padded_bias(&self.vector(&name, shape.0)?))
                }
            };
            Ok(Linear { weight: self.matrix(&name(kind.path()), shape)?, bias })
        };
        let norm = |path: &str| self.norm(&name(path), config.hidden_size);
        let sandwich = config.sandwich_norms;
        Ok(Layer {
            input_norm: norm("input_layernorm")?,
            q: linear(ModuleKind::Q)?,
            k: linear(ModuleKind::K)?,
            v: linear(ModuleKind::V)?,
            qk_norm: match config.qk_norm {
                false => None,
                true => Some((
                    self.norm(&name("self_attn.q_norm"), config.head_dim)?,
                    self.norm(&name("self_attn.k_norm"), config.head_dim)?,
                )),
            },
            o: linear(ModuleKind::O)?,
            // With sandwich norms, "post_attention" is the norm of attention's output; else the MLP's input norm.
            attention_out_norm: if sandwich { Some(norm("post_attention_layernorm")?) } else { None },
            mlp_norm: norm(if sandwich { "pre_feedforward_layernorm" } else { "post_attention_layernorm" })?,
            gate: linear(ModuleKind::Gate)?,
            up: linear(ModuleKind::Up)?,
            down: linear(ModuleKind::Down)?,
            mlp_out_norm: if sandwich { Some(norm("post_feedforward_layernorm")?) } else { None },
        })
    }
}

#[cfg(feature = "cuda")]
impl From<tinylora_compute::cuda::CudaError> for ModelError {
    fn from(error: tinylora_compute::cuda::CudaError) -> Self {
        Self::Device(error.into())
    }
}
