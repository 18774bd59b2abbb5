//! All weights in training: the list of numbers in f32 (the master copy) and the model packed from it, with which
//! rollouts, evaluation and training all compute. The base's own weights stay as they are, for the KL term and for other
//! runs of a sweep. The master copy is on the host; with a model on a GPU it may be there as well, and be changed there.

use super::{Base, BaseError};
use crate::model::weights::Weights;
use crate::model::{DeviceError, GpuMaster, Gradients, Model, WeightLayout};
use std::sync::Arc;
use tinylora_compute::Cpu;

/// A model in training. Its version counts the changes of its numbers.
pub struct FullModel {
    /// Which tensor stands where.
    pub layout: Arc<WeightLayout>,
    numbers: Vec<f32>,
    model: Model,
    /// On the model's GPU, the same numbers and the optimizer's state.
    master: Option<GpuMaster>,
    version: u64,
}

impl FullModel {
    /// A copy of the base, from the numbers of its files.
    pub fn new(cpu: &Cpu, base: &Base) -> Result<Self, BaseError> {
        let weights = Weights::open(&base.files)?;
        let layout = WeightLayout::new(&base.model.config);
        let mut numbers = vec![0.0; layout.len()];
        for (name, _) in &layout.tensors {
            let range = layout.find(name).expect("the layout's own name");
            weights.read_rows(name, 0, &mut numbers[range])?;
        }
        let (config, precision) = (base.model.config.clone(), base.model.precision());
        let model = Model::from_numbers(cpu, (config, &layout), &numbers, precision, base.model.positions())?;
        Ok(Self { layout: Arc::new(layout), numbers, model, master: None, version: 0 })
    }

    /// From now on the numbers are changed on the model's GPU ([`Self::update_on_gpu`]), where the optimizer has so many lists.
    pub(super) fn keep_on_gpu(&mut self, lists: usize) -> Result<(), BaseError> {
        let master = self.model.room_for_master(self.numbers.len(), lists)?;
        master.set(&self.numbers)?;
        self.master = Some(master);
        Ok(())
    }

    /// The master copy on the GPU, where there is one.
    pub(crate) fn master(&self) -> Option<&GpuMaster> {
        self.master.as_ref()
    }

    /// All weights.
    pub fn numbers(&self) -> &[f32] {
        &self.numbers
    }

    /// The model that they make.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Number of changes of the numbers since the start of training.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// A tensor's numbers; None if the model has none of this name.
    pub fn tensor(&self, name: &str) -> Option<&[f32]> {
        Some(&self.numbers[self.layout.find(name)?])
    }

    /// Sets the numbers and the version.
    ///
    /// # Panics
    /// If there are not exactly as many as the model has.
    ///
    /// # Errors
    /// On a GPU alone: of its driver or its memory.
    pub fn set(&mut self, cpu: &Cpu, numbers: &[f32], version: u64) -> Result<(), BaseError> {
        self.numbers.copy_from_slice(numbers);
        if let Some(master) = &self.master {
            master.set(numbers)?;
        }
        self.model.repack(cpu, &self.layout, &self.numbers, self.master.as_ref())?;
        self.version = version;
        Ok(())
    }

    /// Changes the numbers in place and counts that; an error of `change` leaves the version as it was, and must leave the
    /// numbers.
    pub fn update<T, E: From<BaseError>>(
        &mut self,
        cpu: &Cpu,
        change: impl FnOnce(&mut [f32]) -> Result<T, E>,
    ) -> Result<T, E> {
        assert!(self.master.is_none(), "the numbers are changed on the GPU");
        let result = change(&mut self.numbers)?;
        self.model.repack(cpu, &self.layout, &self.numbers, None).map_err(BaseError::from)?;
        self.version += 1;
        Ok(result)
    }

    /// The same of the master copy on the GPU.
    ///
    /// # Panics
    /// If there is none.
    pub(crate) fn update_on_gpu<T, E: From<BaseError>>(
        &mut self,
        cpu: &Cpu,
        change: impl FnOnce(&GpuMaster) -> Result<T, E>,
    ) -> Result<T, E> {
        let master = self.master.as_ref().expect("a master copy on the GPU");
        let result = change(master)?;
        master.read(&mut self.numbers).map_err(BaseError::from)?;
        self.model.repack(cpu, &self.layout, &self.numbers, Some(master)).map_err(BaseError::from)?;
        self.version += 1;
        Ok(result)
    }

    /// Sums of 0 for a backward pass, where the model computes.
    pub(super) fn sums(&self) -> Result<Gradients, DeviceError> {
        self.model.weight_sums(&self.layout)
    }
}
