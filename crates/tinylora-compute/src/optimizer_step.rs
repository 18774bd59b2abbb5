//! What an optimizer's step on very many numbers is given, and what it may find; in builds without CUDA, too.

/// What is the same for all numbers in a step. SGD has its momentum's β as the first.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// lr
    pub learning_rate: f64,
    /// What the gradient is multiplied with, and then rounded; 1 leaves it.
    pub factor: f64,
    /// 1 − lr · weight decay
    pub keep: f64,
    /// β₁ and β₂
    pub betas: (f64, f64),
    /// ε
    pub epsilon: f64,
    /// 1 − β₁ᵗ and 1 − β₂ᵗ
    pub corrections: (f64, f64),
    /// Of SGD: Nesterov's form.
    pub nesterov: bool,
}

/// The first of some numbers that is not finite: which, and what it is.
pub type NotFinite = Option<(usize, f32)>;
