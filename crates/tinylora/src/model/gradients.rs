//! What a backward pass adds up, one form for each kind of trained thing. It holds sums alone: what is made of them,
//! the trained thing knows.

/// Gradients of one policy, summed over rows and batches.
#[derive(Debug, Clone, PartialEq)]
pub enum Gradients {
    /// ∂L/∂R of each adapter of the batch (adapters; modules · r · r).
    R(Vec<Vec<f64>>),
}
