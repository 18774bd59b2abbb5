//! Families, weights, and each layer's forward and backward. Tokens enter, hidden states leave; a gradient of
//! hidden states enters, the gradient of what is trained leaves. Nothing here samples or trains.
//!
//! Legend of this module: T rows (tokens) of a batch, D hidden size, F intermediate size, H query heads,
//! K key/value heads, d head size, r rank, V vocabulary.

mod all_weights;
mod attention_layer;
pub mod batch;
pub mod config;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(not(feature = "cuda"))]
#[path = "no_cuda.rs"]
mod cuda;
#[cfg_attr(not(feature = "cuda"), allow(unreachable_code))] // types of a GPU have no values there
mod decode;
#[cfg_attr(not(feature = "cuda"), allow(unreachable_code))] // types of a GPU have no values there
mod frozen;
mod gpu;
mod gradients;
#[cfg_attr(not(feature = "cuda"), allow(unreachable_code))] // types of a GPU have no values there
pub mod hidden;
mod kept;
mod linear;
mod load;
mod mlp_layer;
#[cfg_attr(not(feature = "cuda"), allow(unreachable_code))] // types of a GPU have no values there
mod pass;
mod recording;
pub mod side;
pub mod weights;

pub(crate) use all_weights::HEAD;
pub use all_weights::{WeightLayout, WeightSums};
pub use batch::Batch;
pub(crate) use cuda::{GpuMaster, GpuWeightSums};
pub use decode::{Decode, Queued, queue_decode};
pub use frozen::Frozen;
pub use gpu::{GpuOptions, with_gpu};
pub use gradients::Gradients;
pub use hidden::{DeviceError, Directions, Hidden};
pub use kept::{KeptActivations, MemorySizes, usual_batch};
pub use load::{Layer, Model, ModelError};
pub use pass::{Adapters, Keep, KvCache, Policy, backward, forward, forward_into, kv_precision};
pub use recording::{NO_ROW, Recording};
pub use side::{ModuleFactors, ModuleKind, R, SideFactors};
