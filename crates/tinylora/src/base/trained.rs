//! What is trained, of any kind, as the loop sees it: one list of numbers, the policy that they make of the base, sums for
//! a backward pass and the gradient that these are, and the file at the end. Nothing here knows losses or optimizers.

use super::adapter::{Adapter, FactorStore};
use super::full::FullModel;
use super::lora::LoraAdapter;
use super::{Base, BaseError, Loading};
use crate::adapter::{AdapterError, AnyAdapter, LoraSpec, RunMetadata, TinyLoraSpec};
use crate::model::config::ModelConfig;
use crate::model::{DeviceError, Gradients, Policy};
use crate::recipe::{AdapterKind, AdapterSection};
use std::path::Path;
use tinylora_compute::Cpu;

/// What is to be trained, checked against a model's sizes: all that can be said before weights are loaded.
#[derive(Debug, Clone, PartialEq)]
pub enum TrainedSpec {
    /// TinyLoRA or LoRA-XS.
    Projected(TinyLoraSpec),
    /// All weights; how many there are.
    Full(usize),
    /// LoRA.
    Lora(LoraSpec),
}

impl TrainedSpec {
    /// Checks the recipe's table against the model's sizes.
    pub fn new(section: &AdapterSection, config: &ModelConfig) -> Result<Self, AdapterError> {
        Ok(match section.kind {
            AdapterKind::TinyLora | AdapterKind::LoraXs => {
                Self::Projected(TinyLoraSpec::new(section, config)?)
            }
            AdapterKind::Full => Self::Full(config.parameters as usize),
            AdapterKind::Lora => Self::Lora(LoraSpec::new(section, config)?),
        })
    }

    /// Its kind, as a recipe names it.
    pub fn kind(&self) -> AdapterKind {
        match self {
            Self::Projected(spec) => spec.kind(),
            Self::Full(_) => AdapterKind::Full,
            Self::Lora(_) => AdapterKind::Lora,
        }
    }

    /// Numbers that are trained.
    pub fn trainable_parameters(&self) -> usize {
        match self {
            Self::Projected(spec) => spec.trainable_parameters(),
            Self::Full(count) => *count,
            Self::Lora(spec) => spec.trainable_parameters(),
        }
    }

    /// Bytes of these numbers as stored.
    pub fn payload_bytes(&self) -> u64 {
        match self {
            Self::Projected(spec) => spec.payload_bytes() as u64,
            Self::Full(count) => 4 * *count as u64,
            Self::Lora(spec) => spec.payload_bytes() as u64,
        }
    }

    /// Bytes that factors of the base take in memory, which adapters on it share.
    pub fn shared_bytes(&self, config: &ModelConfig) -> u64 {
        match self {
            Self::Projected(spec) => {
                let sizes = spec.modules().map(|module| module.target.shape(config));
                let factors: usize = sizes.map(|(n, k)| spec.rank * (n + k)).sum();
                // A and B are packed twice: for the forward and the backward pass.
                4 * 2 * factors as u64
            }
            Self::Full(_) | Self::Lora(_) => 0,
        }
    }

    /// Bytes that the trained thing takes beside the base, in training: its numbers, their gradient, and what the
    /// forward pass reads of them. The optimizer's state is not among them.
    pub fn bytes_in_training(&self, config: &ModelConfig) -> u64 {
        match self {
            Self::Projected(spec) => {
                let r = spec.num_modules() * spec.rank * spec.rank;
                // Sums of R's gradient are in f64.
                self.shared_bytes(config) + (4 * (r + 2 * spec.trainable_parameters()) + 8 * r) as u64
            }
            // The master numbers and their gradient; the packed copy is as large as the base.
            Self::Full(count) => 4 * 2 * *count as u64,
            // Numbers, gradient, and A and B packed twice; while they are packed anew, those of before as well.
            Self::Lora(spec) => 4 * (1 + 1 + 2 + 2) * spec.trainable_parameters() as u64,
        }
    }
}

/// What is trained, on a loaded base. Its version counts the changes of its numbers, so that a rollout can say which
/// it came from.
pub enum Trained {
    /// TinyLoRA or LoRA-XS: numbers that make up R.
    Projected(Adapter),
    /// All weights.
    Full(Box<FullModel>),
    /// LoRA: A and B.
    Lora(LoraAdapter),
}

impl Trained {
    /// As the recipe has it, at its start; `seed` decides that where it is random. `factors` keeps those of this base that runs
    /// share.
    pub fn new(
        cpu: &Cpu,
        base: &Base,
        (section, seed): (&AdapterSection, u64),
        factors: &FactorStore,
        cache: &Path,
        report: &mut dyn FnMut(Loading),
    ) -> Result<Self, BaseError> {
        if !section.kind.is_projected() {
            factors.clear();
        }
        Ok(match section.kind {
            AdapterKind::TinyLora | AdapterKind::LoraXs => {
                let spec = TinyLoraSpec::new(section, &base.model.config)?;
                let factors = factors.get(cpu, base, &spec, cache, report)?;
                Self::Projected(Adapter::new(spec, seed, factors))
            }
            AdapterKind::Full => Self::Full(Box::new(FullModel::new(cpu, base)?)),
            AdapterKind::Lora => {
                Self::Lora(LoraAdapter::new(cpu, base, LoraSpec::new(section, &base.model.config)?, seed)?)
            }
        })
    }

    /// The trained numbers, in an order that is fixed for each kind.
    pub fn numbers(&self) -> &[f32] {
        match self {
            Self::Projected(adapter) => adapter.v(),
            Self::Full(full) => full.numbers(),
            Self::Lora(adapter) => adapter.numbers(),
        }
    }

    /// Number of changes of the numbers since the start of training.
    pub fn version(&self) -> u64 {
        match self {
            Self::Projected(adapter) => adapter.version(),
            Self::Full(full) => full.version(),
            Self::Lora(adapter) => adapter.version(),
        }
    }

    /// Sets the numbers, already rounded to the storage precision, and the version.
    ///
    /// # Panics
    /// If there are not exactly as many as there were.
    ///
    /// # Errors
    /// On a GPU alone: of its driver or its memory.
    pub fn set(&mut self, cpu: &Cpu, numbers: &[f32], version: u64) -> Result<(), BaseError> {
        match self {
            Self::Projected(adapter) => adapter.set(numbers, version),
            Self::Full(full) => full.set(cpu, numbers, version)?,
            Self::Lora(adapter) => adapter.set(cpu, numbers, version)?,
        }
        Ok(())
    }

    /// Has all weights changed on the model's GPU, where the optimizer's lists are from now on. Nothing else is changed there.
    pub fn keep_on_gpu(&mut self, lists: &[&[f32]]) -> Result<(), BaseError> {
        let Self::Full(full) = self else { return Ok(()) };
        full.keep_on_gpu(lists.len())?;
        Ok(full.master().expect("made above").set_state(lists)?)
    }

    /// Fetches the optimizer's lists, where they are on a GPU.
    pub fn fetch_state(&self, lists: &mut [&mut [f32]]) -> Result<(), BaseError> {
        match self {
            Self::Full(full) => Ok(full.master().map_or(Ok(()), |master| master.read_state(lists))?),
            Self::Projected(_) | Self::Lora(_) => Ok(()),
        }
    }

    /// The base with the numbers as they are.
    pub fn policy<'a>(&'a self, base: &'a Base) -> Policy<'a> {
        match self {
            Self::Projected(adapter) => Policy::new(&base.model, adapter.adapters()),
            Self::Full(full) => Policy::plain(full.model()),
            Self::Lora(adapter) => Policy::new(&base.model, adapter.adapters()),
        }
    }

    /// Sums of 0 for backward passes of this policy.
    ///
    /// # Errors
    /// On a GPU alone: of its driver or its memory.
    pub fn sums(&self) -> Result<Gradients, DeviceError> {
        Ok(match self {
            Self::Projected(adapter) => adapter.sums(),
            Self::Full(full) => full.sums()?,
            Self::Lora(adapter) => adapter.sums(),
        })
    }

    /// The gradient of the numbers (as many as these) from the sums of all backward passes.
    ///
    /// # Panics
    /// If the sums are those of another kind.
    ///
    /// # Errors
    /// On a GPU alone: of its driver.
    pub fn gradient(&self, sums: Gradients) -> Result<Vec<f32>, DeviceError> {
        Ok(match (self, sums) {
            (Self::Projected(adapter), Gradients::R(dr)) => adapter.gradient(&dr[0]),
            (Self::Full(_), Gradients::Weights(sums)) => sums.numbers,
            (Self::Full(_), Gradients::GpuWeights(sums)) => sums.into_numbers()?,
            // They are laid out as the numbers are.
            (Self::Lora(_), Gradients::Factors(gradient)) => gradient,
            _ => panic!("sums of another kind"),
        })
    }

    /// Writes an adapter's file, whole or not at all; gives the file's size in bytes.
    ///
    /// # Panics
    /// If all weights are trained, which make a model: `interop` writes it.
    pub fn write(&self, base: &Base, run: RunMetadata, path: &Path) -> Result<u64, BaseError> {
        let bytes = self.to_adapter(base, run).to_bytes()?;
        crate::atomic_file::write(path, &bytes).map_err(crate::adapter::AdapterFileError::from)?;
        Ok(bytes.len() as u64)
    }

    /// What goes into the file.
    fn to_adapter(&self, base: &Base, run: RunMetadata) -> AnyAdapter {
        match self {
            Self::Projected(adapter) => adapter.to_file(base, run).into(),
            Self::Full(_) => panic!("all weights are a model and no adapter"),
            Self::Lora(adapter) => adapter.to_file(base, run).into(),
        }
    }
}
