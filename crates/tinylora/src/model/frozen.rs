//! One frozen matrix where it lies, and its products with a few f32 vectors: what factors are computed from.
//!
//! W (n, k), c vectors.

use super::cuda::GpuMatrix;
use super::hidden::DeviceError;
use super::load::Model;
use super::side::ModuleKind;
use tinylora_compute::product::{BackwardTerm, Product, product, product_backward};
use tinylora_compute::{Cpu, PackedMatrix};

/// A matrix that nobody changes.
pub enum Frozen<'a> {
    /// On the host.
    Host(&'a PackedMatrix),
    /// On a GPU.
    Gpu(GpuMatrix),
}

impl<'a> From<&'a PackedMatrix> for Frozen<'a> {
    fn from(matrix: &'a PackedMatrix) -> Self {
        Self::Host(matrix)
    }
}

impl Frozen<'_> {
    /// n
    pub fn rows(&self) -> usize {
        match self {
            Self::Host(matrix) => matrix.rows(),
            Self::Gpu(matrix) => matrix.rows(),
        }
    }

    /// k
    pub fn columns(&self) -> usize {
        match self {
            Self::Host(matrix) => matrix.columns(),
            Self::Gpu(matrix) => matrix.columns(),
        }
    }

    /// x (c, k) → x Wᵀ (c, n), in f32.
    ///
    /// # Errors
    /// On a GPU alone: of its driver or its memory.
    pub fn forward(&self, cpu: &Cpu, x: &[f32]) -> Result<Vec<f32>, DeviceError> {
        let matrix = match self {
            Self::Host(matrix) => matrix,
            Self::Gpu(matrix) => return matrix.forward(x),
        };
        let count = x.len() / matrix.columns();
        let mut out = vec![0.0; count * matrix.rows()];
        product(cpu, x, count, &mut [Product { weight: matrix, bias: None, side: None, out: &mut out }]);
        Ok(out)
    }

    /// y (c, n) → y W (c, k), in f32.
    ///
    /// # Errors
    /// On a GPU alone: of its driver or its memory.
    pub fn backward(&self, cpu: &Cpu, y: &[f32]) -> Result<Vec<f32>, DeviceError> {
        let matrix = match self {
            Self::Host(matrix) => matrix,
            Self::Gpu(matrix) => return matrix.backward(y),
        };
        let count = y.len() / matrix.rows();
        let mut out = vec![0.0; count * matrix.columns()];
        product_backward(cpu, &[BackwardTerm { weight: matrix, gradient: y, side: None }], count, &mut out);
        Ok(out)
    }
}

impl Model {
    /// W of one linear layer.
    pub fn frozen(&self, layer: usize, kind: ModuleKind) -> Frozen<'_> {
        match self.gpus.first() {
            None => Frozen::Host(self.layers[layer].weight(kind)),
            Some(gpu) => Frozen::Gpu(gpu.matrix(&self.config, layer, kind)),
        }
    }
}
