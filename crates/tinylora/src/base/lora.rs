//! A LoRA adapter in training on a loaded base: its numbers, and A and B packed of them for the forward pass.

use super::Base;
use crate::adapter::{LoraSpec, RunMetadata, Standalone, Target};
use crate::model::config::ModelConfig;
use crate::model::{Adapters, DeviceError, Gradients, R, SideFactors};
use tinylora_compute::Cpu;

/// An adapter in use. Its version counts the changes of its numbers.
pub struct LoraAdapter {
    /// What it is.
    pub spec: LoraSpec,
    config: ModelConfig,
    modules: Vec<(usize, Target)>,
    numbers: Vec<f32>,
    factors: SideFactors,
    r: [R; 1],
    version: u64,
}

impl LoraAdapter {
    /// A fresh adapter; `seed` decides A's start.
    ///
    /// # Errors
    /// If the base is on a GPU that has no room.
    pub fn new(cpu: &Cpu, base: &Base, spec: LoraSpec, seed: u64) -> Result<Self, DeviceError> {
        let (config, numbers) = (base.model.config.clone(), spec.init(seed));
        let modules: Vec<_> = spec.modules().map(|module| (module.layer, module.target)).collect();
        Ok(Self {
            factors: SideFactors::from_numbers_beside(cpu, &base.model, spec.rank, &modules, &numbers)?,
            r: [R::Multiples(vec![spec.scale(); modules.len()])],
            spec,
            config,
            modules,
            numbers,
            version: 0,
        })
    }

    /// A and Bᵀ of each module.
    pub fn numbers(&self) -> &[f32] {
        &self.numbers
    }

    /// Number of changes of the numbers since the start of training.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Sets the numbers, already rounded to the storage precision, and the version.
    ///
    /// # Panics
    /// If there are not exactly as many as the specification has.
    ///
    /// # Errors
    /// On a GPU alone: of its driver or its memory.
    pub fn set(&mut self, cpu: &Cpu, numbers: &[f32], version: u64) -> Result<(), DeviceError> {
        assert_eq!(numbers.len(), self.numbers.len(), "as many numbers as the specification has");
        self.numbers.copy_from_slice(numbers);
        self.version = version;
        self.factors.replace(cpu, &self.config, &self.modules, numbers)
    }

    /// As the argument of a forward pass, in which it has number 0.
    pub fn adapters(&self) -> Adapters<'_> {
        Adapters { factors: Some(&self.factors), r: &self.r }
    }

    /// Sums of 0 for a backward pass.
    pub(super) fn sums(&self) -> Gradients {
        Gradients::Factors(vec![0.0; self.numbers.len()])
    }

    /// What goes into a file.
    pub fn to_file(&self, base: &Base, run: RunMetadata) -> Standalone {
        Standalone::from_lora(&self.spec, &self.numbers, base.identity.clone(), run)
    }
}
