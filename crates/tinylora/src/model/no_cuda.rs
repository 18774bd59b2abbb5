//! What stands in the place of `cuda/` in a build without it: types that no value has, so that nothing here ever runs.

use super::all_weights::WeightLayout;
use super::decode::Decode;
use super::gradients::Gradients;
use super::hidden::DeviceError;
use super::load::{Model, ModelError, ReadRows};
use super::pass::Adapters;
use super::side::{ModuleKind, ModuleRows};
use super::{Batch, config::ModelConfig};
use crate::random::Stream;
use std::sync::Arc;
use tinylora_compute::Cpu;
use tinylora_compute::optimizer_step::{NotFinite, Step};

/// A model on a GPU.
pub enum GpuModel {}
/// A matrix on a GPU.
pub enum GpuMatrix {}
/// Factors on a GPU.
pub enum GpuFactors {}
/// Keys and values on a GPU.
pub enum GpuCache {}
/// Activations on a GPU: none.
#[derive(Default)]
pub struct GpuKept;
/// Hidden states on a GPU.
pub enum GpuHidden {}
/// Tokens on their way from a GPU.
pub enum GpuQueued {}
/// Rows of f32 on a GPU.
pub enum GpuRows {}
/// Gradients on a GPU.
pub enum GpuDirections {}
/// All weights in f32 on a GPU.
pub enum GpuMaster {}
/// Sums of the gradients of all weights on a GPU.
#[derive(Debug)]
pub enum GpuWeightSums {}

/// Bytes that models take beside their weights: what a host needs.
pub fn memory(_: &Cpu, _: &ModelConfig) -> Option<super::MemorySizes> {
    None
}

impl GpuModel {
    pub fn load(
        _: &Cpu,
        _: &Model,
        _: &ReadRows<'_>,
        _: &mut dyn FnMut(u64, u64),
    ) -> Result<Vec<Self>, ModelError> {
        Ok(Vec::new())
    }

    pub fn repack(&mut self, _: usize, _: &Model, _: &ReadRows<'_>) -> Result<(), ModelError> {
        match *self {}
    }

    pub fn repack_from(&mut self, _: &Model, _: &WeightLayout, _: &GpuMaster) -> Result<(), ModelError> {
        match *self {}
    }

    pub fn is_wanted(_: &Cpu) -> bool {
        false
    }

    pub fn name(&self) -> &str {
        match *self {}
    }

    pub fn peak(&self) -> Result<(f64, f64), DeviceError> {
        match *self {}
    }

    pub fn bytes(&self) -> usize {
        match *self {}
    }

    pub fn matrix(&self, _: &ModelConfig, _: usize, _: ModuleKind) -> GpuMatrix {
        match *self {}
    }

    pub fn no_hidden(&self) -> GpuHidden {
        match *self {}
    }

    pub fn choose(
        &self,
        _: &GpuHidden,
        _: f32,
        _: &[(Stream, u64)],
        _: bool,
    ) -> Result<Vec<(u32, f32, f32)>, DeviceError> {
        match *self {}
    }

    pub fn logits(&self, _: &GpuHidden, _: f32) -> Result<Vec<f32>, DeviceError> {
        match *self {}
    }

    pub fn logprobs(&self, _: &GpuHidden, _: &[u32], _: f32) -> Result<Vec<f32>, DeviceError> {
        match *self {}
    }

    pub fn directions(
        &self,
        _: &GpuHidden,
        _: &[u32],
        _: f32,
        _: bool,
    ) -> Result<(Vec<f32>, Vec<f32>, GpuDirections), DeviceError> {
        match *self {}
    }

    pub fn weighted(&self, _: &[f32], _: f32) -> Result<GpuRows, DeviceError> {
        match *self {}
    }
}

impl GpuMatrix {
    pub fn rows(&self) -> usize {
        match *self {}
    }

    pub fn columns(&self) -> usize {
        match *self {}
    }

    pub fn forward(&self, _: &[f32]) -> Result<Vec<f32>, DeviceError> {
        match *self {}
    }

    pub fn backward(&self, _: &[f32]) -> Result<Vec<f32>, DeviceError> {
        match *self {}
    }
}

impl GpuFactors {
    pub(in crate::model) fn new(
        _: &GpuModel,
        _: &ModelConfig,
        _: usize,
        _: &[ModuleRows<'_>],
    ) -> Result<Self, DeviceError> {
        unreachable!("there is no model on a GPU")
    }

    pub(in crate::model) fn replace(
        &mut self,
        _: &ModelConfig,
        _: usize,
        _: &[ModuleRows<'_>],
    ) -> Result<(), DeviceError> {
        match *self {}
    }
}

impl GpuCache {
    pub fn new(_: usize) -> Self {
        unreachable!("there is no model on a GPU")
    }

    pub fn blocks(&self) -> usize {
        match *self {}
    }
}

impl GpuHidden {
    pub fn index(&self) -> usize {
        match *self {}
    }

    pub fn rows(&self) -> usize {
        match *self {}
    }

    pub fn pick(&self, _: &[usize]) -> Self {
        match *self {}
    }

    pub fn drop_first(&mut self, _: usize) {
        match *self {}
    }

    pub fn append(&mut self, _: &Self) {
        match *self {}
    }
}

impl GpuDirections {
    pub fn index(&self) -> usize {
        match *self {}
    }

    pub fn has_entropies(&self) -> bool {
        match *self {}
    }

    pub fn combine(&mut self, _: &[f32], _: &[f32]) -> Result<(), DeviceError> {
        match *self {}
    }

    pub fn replace(&self, _: bool, _: &[usize], _: &GpuRows) -> Result<(), DeviceError> {
        match *self {}
    }
}

impl GpuDirections {
    pub fn add_head_gradient(
        &self,
        _: &GpuModel,
        _: (&[f32], &[f32]),
        _: &GpuWeightSums,
    ) -> Result<(), DeviceError> {
        match *self {}
    }
}

impl GpuMaster {
    pub fn new(gpu: &GpuModel, _: usize, _: usize) -> Result<Self, DeviceError> {
        match *gpu {}
    }

    pub fn set(&self, _: &[f32]) -> Result<(), DeviceError> {
        match *self {}
    }

    pub fn read(&self, _: &mut [f32]) -> Result<(), DeviceError> {
        match *self {}
    }

    pub fn set_state(&self, _: &[&[f32]]) -> Result<(), DeviceError> {
        match *self {}
    }

    pub fn read_state(&self, _: &mut [&mut [f32]]) -> Result<(), DeviceError> {
        match *self {}
    }

    pub fn sums_of_squares(&self, _: &GpuWeightSums) -> Result<(Vec<f64>, NotFinite), DeviceError> {
        match *self {}
    }

    pub fn step(&self, _: &Step, _: &GpuWeightSums) -> Result<NotFinite, DeviceError> {
        match *self {}
    }
}

impl GpuWeightSums {
    pub fn new(gpu: &GpuModel, _: Arc<WeightLayout>) -> Result<Self, DeviceError> {
        match *gpu {}
    }

    pub fn add_head_rows(&self, _: &GpuModel, _: &GpuHidden, _: &[f32]) -> Result<(), DeviceError> {
        match *self {}
    }

    pub fn into_numbers(self) -> Result<Vec<f32>, DeviceError> {
        match self {}
    }
}

impl GpuQueued {
    pub fn wait(self) -> Result<Vec<(u32, f32, f32)>, DeviceError> {
        match self {}
    }
}

pub fn queue(
    gpu: &GpuModel,
    _: &ModelConfig,
    _: Adapters<'_>,
    _: &Decode<'_>,
    _: &mut GpuCache,
    _: &mut GpuKept,
) -> Result<GpuQueued, DeviceError> {
    match *gpu {}
}

pub fn forward(
    gpu: &GpuModel,
    _: &ModelConfig,
    _: Adapters<'_>,
    _: &Batch,
    _: &[u32],
    _: &mut GpuCache,
    _: &mut GpuKept,
    _: bool,
) -> Result<GpuHidden, DeviceError> {
    match *gpu {}
}

pub fn backward(
    gpu: &GpuModel,
    _: &ModelConfig,
    _: Adapters<'_>,
    _: &Batch,
    _: &[u32],
    _: &GpuDirections,
    _: &mut GpuCache,
    _: &mut GpuKept,
    _: &mut Gradients,
) -> Result<(), DeviceError> {
    match *gpu {}
}
