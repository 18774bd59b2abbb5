//! What a backward pass adds up, one form for each kind of trained thing. It holds sums alone: what is made of them,
//! the trained thing knows.

use super::all_weights::WeightSums;

/// Gradients of one policy, summed over rows and batches.
#[derive(Debug, Clone, PartialEq)]
pub enum Gradients {
    /// ∂L/∂R of each adapter of the batch (adapters; modules · r · r).
    R(Vec<Vec<f64>>),
    /// ∂L/∂ of all weights.
    Weights(WeightSums),
}

impl Gradients {
    /// The sums of all weights, if these are what is trained.
    pub(crate) fn weights(&mut self) -> Option<&mut WeightSums> {
        match self {
            Self::Weights(sums) => Some(sums),
            _ => None,
        }
    }
}
