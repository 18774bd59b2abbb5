//! The low-rank side path of every linear layer: `y = W x + B R A x`. A (r, in) and B (out, r) belong to the
//! base model and are shared by all adapters; R (r, r) is a sequence's own. For TinyLoRA A = Vᵀ, B = UΣ and
//! R = scale · Σ v_i P_i. This file knows neither where A and B come from nor what R is made of.

use super::config::ModelConfig;
use super::cuda::GpuFactors;
use super::hidden::DeviceError;
use super::load::Model;
use std::borrow::Cow;
use tinylora_compute::product::SideMatrix;
use tinylora_compute::{Cpu, PackedMatrix, Precision};

/// The seven linear layers of a block, in the order of modules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)] // the names say it
pub enum ModuleKind {
    Q,
    K,
    V,
    O,
    Gate,
    Up,
    Down,
}

impl ModuleKind {
    /// All, in order.
    pub const ALL: [Self; 7] = [Self::Q, Self::K, Self::V, Self::O, Self::Gate, Self::Up, Self::Down];

    /// Path inside a block, as in `config.json` models.
    pub fn path(self) -> &'static str {
        match self {
            Self::Q => "self_attn.q_proj",
            Self::K => "self_attn.k_proj",
            Self::V => "self_attn.v_proj",
            Self::O => "self_attn.o_proj",
            Self::Gate => "mlp.gate_proj",
            Self::Up => "mlp.up_proj",
            Self::Down => "mlp.down_proj",
        }
    }

    /// Name, as in a recipe's `targets`.
    pub fn name(self) -> &'static str {
        let path = self.path();
        path.rsplit_once('.').map_or(path, |(_, name)| name)
    }

    /// (outputs, inputs)
    pub fn shape(self, config: &ModelConfig) -> (usize, usize) {
        let (d, f) = (config.hidden_size, config.intermediate_size);
        let (q, k) = (config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim);
        self.shape_of(d, f, q, k)
    }

    /// (outputs, inputs) where the hidden size is `d`, the MLP's `f`, and all query heads together are `q` wide,
    /// all key heads `k`.
    pub fn shape_of(self, d: usize, f: usize, q: usize, k: usize) -> (usize, usize) {
        match self {
            Self::Q => (q, d),
            Self::K | Self::V => (k, d),
            Self::O => (d, q),
            Self::Gate | Self::Up => (f, d),
            Self::Down => (d, f),
        }
    }
}

/// A and B of one module.
#[derive(Debug, Clone)]
pub struct ModuleFactors {
    /// Block.
    pub layer: usize,
    /// Which of the block's linear layers.
    pub kind: ModuleKind,
    /// A, (r, in) row-major.
    pub a: Vec<f32>,
    /// B, (out, r) row-major.
    pub b: Vec<f32>,
}

/// A and B of one module as they are packed.
pub(super) struct ModuleRows<'a> {
    pub layer: usize,
    pub kind: ModuleKind,
    /// A (r, in)
    pub a: &'a [f32],
    /// Bᵀ (r, out)
    pub b: Cow<'a, [f32]>,
    /// Where the module's numbers start among all.
    pub start: usize,
}

impl<'a> ModuleRows<'a> {
    fn of_factors(config: &ModelConfig, rank: usize, modules: &'a [ModuleFactors]) -> Vec<Self> {
        let mut start = 0;
        let rows = modules.iter().map(|module| {
            let (n, k) = module.kind.shape(config);
            assert!(module.a.len() == rank * k && module.b.len() == n * rank, "factors of {:?}", module.kind);
            let b = (0..rank).flat_map(|s| (0..n).map(move |row| module.b[row * rank + s])).collect();
            let (layer, kind, first) = (module.layer, module.kind, start);
            start += rank * (n + k);
            Self { layer, kind, a: &module.a, b, start: first }
        });
        rows.collect()
    }

    fn of_numbers(
        config: &ModelConfig,
        rank: usize,
        modules: &[(usize, ModuleKind)],
        numbers: &'a [f32],
    ) -> Vec<Self> {
        let mut start = 0;
        let rows = modules.iter().map(|&(layer, kind)| {
            let (n, k) = kind.shape(config);
            let (a, b) = numbers[start..start + rank * (n + k)].split_at(rank * k);
            let rows = Self { layer, kind, a, b: Cow::Borrowed(b), start };
            start += rank * (n + k);
            rows
        });
        let rows = rows.collect();
        assert_eq!(start, numbers.len(), "as many numbers as the modules have");
        rows
    }
}

/// R of all adapted modules of one adapter.
#[derive(Debug, Clone, PartialEq)]
pub enum R {
    /// A matrix a module (modules · r · r).
    Matrices(Vec<f32>),
    /// A multiple of the identity a module (modules).
    Multiples(Vec<f32>),
}

impl R {
    /// # Panics
    /// If there is not one for each module of `factors`.
    pub(super) fn check(&self, factors: &SideFactors) {
        let (found, wanted) = match self {
            Self::Matrices(r) => (r.len(), factors.modules * factors.rank * factors.rank),
            Self::Multiples(r) => (r.len(), factors.modules),
        };
        assert_eq!(found, wanted, "R of {} modules, rank {}", factors.modules, factors.rank);
    }

    /// Where every matrix is the identity times a number, those numbers.
    pub fn simplified(self, modules: usize, rank: usize) -> Self {
        let Self::Matrices(r) = &self else { return self };
        let multiples = r.chunks_exact((rank * rank).max(1)).map(|r| {
            let entry = |(at, x): (usize, &f32)| *x == if at % (rank + 1) == 0 { r[0] } else { 0.0 };
            r.iter().enumerate().all(entry).then_some(r[0])
        });
        match multiples.collect::<Option<Vec<f32>>>() {
            Some(multiples) if multiples.len() == modules => Self::Multiples(multiples),
            _ => self,
        }
    }
}

/// The factors of all adapted modules, packed for the forward and the backward pass.
pub struct SideFactors {
    pub(super) rank: usize,
    modules: usize,
    pub(super) layers: Vec<LayerSides>,
    /// On each GPU that the model lies on, and nothing in `layers` then.
    pub(super) gpus: Vec<GpuFactors>,
}

/// Linear layers that share their input share one projection.
pub(super) struct LayerSides {
    pub attention: GroupSide,
    pub output: GroupSide,
    pub mlp: GroupSide,
    pub down: GroupSide,
}

pub(super) struct GroupSide {
    /// All members' A, stacked (Σ r, in); None if no member is adapted.
    pub project: Option<PackedMatrix>,
    /// One entry a linear layer of the group, in module order.
    pub members: Vec<Option<ModuleSide>>,
}

pub(super) struct ModuleSide {
    /// Number of the module among the adapted ones; R of it starts at `index · r²`.
    pub index: usize,
    /// First of its r columns in the stacked projection.
    pub offset: usize,
    /// Where the module's numbers (A, then Bᵀ) start among those of [`SideFactors::from_numbers`].
    pub start: usize,
    /// Bᵀ for `y += z Bᵀ`.
    pub expand: SideMatrix,
    /// Bᵀ (r, out) for `t = dy B`.
    pub reduce: PackedMatrix,
    /// Aᵀ for `dx += dp A`.
    pub back: SideMatrix,
}

impl SideFactors {
    /// Packs the factors of `modules`, which stand in module order (block by block, q k v o gate up down).
    ///
    /// # Panics
    /// If a factor does not have the module's shape.
    pub fn new(cpu: &Cpu, config: &ModelConfig, rank: usize, modules: &[ModuleFactors]) -> Self {
        Self::from_rows(cpu, config, rank, &ModuleRows::of_factors(config, rank, modules))
    }

    /// The same from one list of numbers, for factors that are trained: of each module (block and kind) A (r, in), then
    /// Bᵀ (r, out).
    ///
    /// # Panics
    /// If there are not exactly as many numbers as the modules have.
    pub fn from_numbers(
        cpu: &Cpu,
        config: &ModelConfig,
        rank: usize,
        modules: &[(usize, ModuleKind)],
        numbers: &[f32],
    ) -> Self {
        Self::from_rows(cpu, config, rank, &ModuleRows::of_numbers(config, rank, modules, numbers))
    }

    fn from_rows(cpu: &Cpu, config: &ModelConfig, rank: usize, modules: &[ModuleRows]) -> Self {
        let layers = (0..config.num_layers)
            .map(|layer| {
                let group = |kinds: &[ModuleKind]| GroupSide::new(cpu, config, rank, layer, kinds, modules);
                LayerSides {
                    attention: group(&ModuleKind::ALL[..3]),
                    output: group(&ModuleKind::ALL[3..4]),
                    mlp: group(&ModuleKind::ALL[4..6]),
                    down: group(&ModuleKind::ALL[6..]),
                }
            })
            .collect();
        Self { rank, modules: modules.len(), layers, gpus: Vec::new() }
    }

    /// As [`Self::new`], where the model computes.
    pub fn beside(
        cpu: &Cpu,
        model: &Model,
        rank: usize,
        modules: &[ModuleFactors],
    ) -> Result<Self, DeviceError> {
        Self::place(cpu, model, rank, &ModuleRows::of_factors(&model.config, rank, modules))
    }

    /// As [`Self::from_numbers`], where the model computes.
    pub fn from_numbers_beside(
        cpu: &Cpu,
        model: &Model,
        rank: usize,
        modules: &[(usize, ModuleKind)],
        numbers: &[f32],
    ) -> Result<Self, DeviceError> {
        Self::place(cpu, model, rank, &ModuleRows::of_numbers(&model.config, rank, modules, numbers))
    }

    fn place(cpu: &Cpu, model: &Model, rank: usize, rows: &[ModuleRows]) -> Result<Self, DeviceError> {
        if !model.is_on_gpu() {
            return Ok(Self::from_rows(cpu, &model.config, rank, rows));
        }
        let on_each = model.gpus.iter().map(|gpu| GpuFactors::new(gpu, &model.config, rank, rows));
        let gpus = on_each.collect::<Result<_, _>>()?;
        Ok(Self { rank, modules: rows.len(), layers: Vec::new(), gpus })
    }

    /// Puts other numbers in the place of those that [`Self::from_numbers`] was given, with the same modules.
    ///
    /// # Errors
    /// On a GPU alone: of its driver or its memory.
    pub fn replace(
        &mut self,
        cpu: &Cpu,
        config: &ModelConfig,
        modules: &[(usize, ModuleKind)],
        numbers: &[f32],
    ) -> Result<(), DeviceError> {
        let rows = ModuleRows::of_numbers(config, self.rank, modules, numbers);
        if self.gpus.is_empty() {
            *self = Self::from_rows(cpu, config, self.rank, &rows);
        }
        // All of them, so that all are whole or say that they aren't.
        let rank = self.rank;
        let replaced = self.gpus.iter_mut().map(|gpu| gpu.replace(config, rank, &rows));
        replaced.fold(Ok(()), Result::and)
    }

    /// r
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Number of adapted modules; an adapter is so many r × r matrices.
    pub fn modules(&self) -> usize {
        self.modules
    }
}

impl GroupSide {
    fn new(
        cpu: &Cpu,
        config: &ModelConfig,
        rank: usize,
        layer: usize,
        kinds: &[ModuleKind],
        modules: &[ModuleRows],
    ) -> Self {
        let mut stacked = Vec::new();
        let mut inputs = 0;
        let members = kinds
            .iter()
            .map(|&kind| {
                let index = modules.iter().position(|m| m.layer == layer && m.kind == kind)?;
                let module = &modules[index];
                let (n, k) = kind.shape(config);
                inputs = k;
                let offset = stacked.len() / k;
                stacked.extend_from_slice(module.a);
                Some(ModuleSide {
                    index,
                    offset,
                    start: module.start,
                    expand: SideMatrix::new(n, rank, &module.b),
                    reduce: PackedMatrix::from_slice(cpu, (rank, n), Precision::F32, &module.b),
                    back: SideMatrix::new(k, rank, module.a),
                })
            })
            .collect();
        let project = (inputs > 0).then(|| {
            PackedMatrix::from_slice(cpu, (stacked.len() / inputs, inputs), Precision::F32, &stacked)
        });
        Self { project, members }
    }

    /// Columns of the stacked projection.
    pub fn width(&self) -> usize {
        self.project.as_ref().map_or(0, PackedMatrix::rows)
    }
}
