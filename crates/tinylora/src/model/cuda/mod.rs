//! The model on a GPU: the same forward and backward pass as launches of kernels. Everything stays on the GPU from the tokens
//! to the sampled token, and from the slopes of a loss to the gradient of R; what crosses are lists of who sees what, R, tokens,
//! log-probs and slopes. Where LoRA's factors or all weights are trained, these and their gradients cross once an update.
//!
//! Matrices, activations, keys and values are bf16, the residual stream and the side path f32, dL/dR f64. Log-probs of
//! sampling and of training are the same bits, as on the CPU.

mod book;
mod decode;
mod head;
mod kept;
mod load;
mod master;
mod pass;
mod side;
mod weights;

pub use decode::{GpuQueued, queue};
pub use head::{GpuDirections, GpuHidden};
pub use kept::{GpuCache, GpuKept, memory};
pub use load::{GpuMatrix, GpuModel};
pub use master::GpuMaster;
pub use pass::{backward, forward};
pub use side::GpuFactors;
pub use weights::GpuWeightSums;
