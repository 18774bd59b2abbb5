//! All weights in f32 on the GPU, with what the optimizer remembers of them: the master copy of a model in training, where there
//! is room for it.

use super::load::GpuModel;
use super::weights::GpuWeightSums;
use crate::model::hidden::DeviceError;
use std::sync::Arc;
use tinylora_compute::cuda::optimizer;
use tinylora_compute::cuda::{Device, DeviceBuffer};
use tinylora_compute::optimizer_step::{NotFinite, Step};

/// Numbers and the optimizer's lists, on the model's first GPU.
pub struct GpuMaster {
    device: Arc<Device>,
    pub(super) numbers: DeviceBuffer<f32>,
    state: Vec<DeviceBuffer<f32>>,
}

impl GpuMaster {
    /// Room for n numbers and for so many lists of the optimizer's, which are 0.
    pub fn new(gpu: &GpuModel, n: usize, lists: usize) -> Result<Self, DeviceError> {
        let device = Arc::clone(&gpu.device);
        let list = |_| device.zeroed("the optimizer's state", n);
        let state = (0..lists).map(list).collect::<Result<_, _>>()?;
        Ok(Self { numbers: device.zeroed("master weights", n)?, state, device })
    }

    /// Sets the numbers.
    pub fn set(&self, numbers: &[f32]) -> Result<(), DeviceError> {
        Ok(self.numbers.write(numbers)?)
    }

    /// Waits; the numbers.
    pub fn read(&self, numbers: &mut [f32]) -> Result<(), DeviceError> {
        Ok(self.numbers.read(numbers)?)
    }

    /// Sets the optimizer's lists.
    ///
    /// # Panics
    /// If there are not as many as there is room for.
    pub fn set_state(&self, lists: &[&[f32]]) -> Result<(), DeviceError> {
        assert_eq!(lists.len(), self.state.len(), "lists of the optimizer");
        Ok(self.state.iter().zip(lists).try_for_each(|(to, from)| to.write(from))?)
    }

    /// Waits; the optimizer's lists.
    ///
    /// # Panics
    /// As [`Self::set_state`].
    pub fn read_state(&self, lists: &mut [&mut [f32]]) -> Result<(), DeviceError> {
        assert_eq!(lists.len(), self.state.len(), "lists of the optimizer");
        Ok(self.state.iter().zip(lists).try_for_each(|(from, to)| from.read(to))?)
    }

    /// Waits; the sums of squares of a gradient's blocks, and its first number that is not finite.
    pub fn sums_of_squares(&self, sums: &GpuWeightSums) -> Result<(Vec<f64>, NotFinite), DeviceError> {
        Ok(optimizer::sums_of_squares(&self.device, sums.numbers())?)
    }

    /// One step, unless a number would not stay finite, which is told.
    pub fn step(&self, step: &Step, sums: &GpuWeightSums) -> Result<NotFinite, DeviceError> {
        Ok(optimizer::step(&self.device, step, sums.numbers(), &self.state, &self.numbers)?)
    }
}
