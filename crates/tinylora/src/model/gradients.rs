//! What a backward pass adds up, one form for each kind of trained thing. It holds sums alone: what is made of them,
//! the trained thing knows.

use super::all_weights::WeightSums;

/// Gradients of one policy, summed over rows and batches.
#[derive(Debug, Clone, PartialEq)]
pub enum Gradients {
    /// ∂L/∂R of each adapter of the batch (adapters; modules · r · r).
    R(Vec<Vec<f64>>),
    /// ∂L/∂A and ∂L/∂B of the one adapter of the batch, as [`super::SideFactors::from_numbers`] has the factors.
    Factors(Vec<f32>),
    /// ∂L/∂ of all weights.
    Weights(WeightSums),
}

impl Gradients {
    /// Whether the inputs of the linear layers are needed, and not only what the forward pass projected of them.
    pub(super) fn want_inputs(&self) -> bool {
        match self {
            Self::R(_) => false,
            Self::Factors(_) | Self::Weights(_) => true,
        }
    }

    /// The sums of all weights, if these are what is trained.
    pub(crate) fn weights(&mut self) -> Option<&mut WeightSums> {
        match self {
            Self::Weights(sums) => Some(sums),
            Self::R(_) | Self::Factors(_) => None,
        }
    }
}
