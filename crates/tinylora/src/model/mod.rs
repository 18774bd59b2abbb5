//! Families, weights, and each layer's forward and backward. Tokens enter, hidden states leave; a gradient of
//! hidden states enters, the gradient of the low-rank side path leaves. Nothing here samples or trains.
//!
//! Legend of this module: T rows (tokens) of a batch, D hidden size, F intermediate size, H query heads,
//! K key/value heads, d head size, r rank, V vocabulary.

mod attention_layer;
pub mod batch;
pub mod config;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(not(feature = "cuda"))]
#[path = "no_cuda.rs"]
mod cuda;
mod gpu;
pub mod hidden;
mod kept;
mod linear;
mod load;
mod mlp_layer;
mod pass;
pub mod side;
pub mod weights;

pub use batch::Batch;
pub use gpu::{GpuOptions, with_gpu};
pub use hidden::{DeviceError, Directions, Hidden};
pub use kept::{KeptActivations, MemorySizes};
pub use load::{Layer, Model, ModelError};
pub use pass::{Adapters, KvCache, backward, forward};
pub use side::{ModuleFactors, ModuleKind, SideFactors};
