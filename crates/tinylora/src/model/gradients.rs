//! What a backward pass adds up, one form for each kind of trained thing. It holds sums alone: what is made of them,
//! the trained thing knows.

use super::all_weights::WeightSums;
use super::cuda::GpuWeightSums;

/// Gradients of one policy, summed over rows and batches.
#[derive(Debug)]
pub enum Gradients {
    /// ∂L/∂R of each adapter of the batch (adapters; modules · r · r).
    R(Vec<Vec<f64>>),
    /// ∂L/∂A and ∂L/∂B of the one adapter of the batch, as [`super::SideFactors::from_numbers`] has the factors.
    Factors(Vec<f32>),
    /// ∂L/∂ of all weights.
    Weights(WeightSums),
    /// The same on the GPU that sums them.
    GpuWeights(GpuWeightSums),
}

impl Gradients {
    /// Whether the inputs of the linear layers are needed, and not only what the forward pass projected of them.
    pub(super) fn want_inputs(&self) -> bool {
        match self {
            Self::R(_) => false,
            Self::Factors(_) | Self::Weights(_) | Self::GpuWeights(_) => true,
        }
    }

    /// As many zeros, for a part of the sums; None of all weights, which are summed in one place.
    pub fn zeros(&self) -> Option<Self> {
        match self {
            Self::R(sums) => Some(Self::R(sums.iter().map(|sums| vec![0.0; sums.len()]).collect())),
            Self::Factors(sums) => Some(Self::Factors(vec![0.0; sums.len()])),
            Self::Weights(_) | Self::GpuWeights(_) => None,
        }
    }

    /// Adds a part.
    ///
    /// # Panics
    /// If it is of another kind, or all weights are trained.
    pub fn add(&mut self, part: &Self) {
        match (self, part) {
            (Self::R(sums), Self::R(part)) => {
                sums.iter_mut().flatten().zip(part.iter().flatten()).for_each(|(sum, x)| *sum += x);
            }
            (Self::Factors(sums), Self::Factors(part)) => {
                sums.iter_mut().zip(part).for_each(|(sum, x)| *sum += x);
            }
            _ => panic!("parts of another kind"),
        }
    }

    /// The sums of all weights, if these are what is trained, on the host.
    pub(crate) fn weights(&mut self) -> Option<&mut WeightSums> {
        match self {
            Self::Weights(sums) => Some(sums),
            Self::R(_) | Self::Factors(_) | Self::GpuWeights(_) => None,
        }
    }
}
