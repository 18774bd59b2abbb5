//! Adapters of other programs enter and become standalone ones; ours leave in the forms that other programs read:
//! PEFT's TinyLoRA, plain LoRA, LoRA for llama.cpp, or merged into the base's weights. Nothing here trains or runs
//! a model; what is read is never trusted, and what is written is whole or not there.
//!
//! Legend: r rank, u numbers a group, M modules, G groups; ΔW = B R A with A (r, in), R (r, r), B (out, r).

mod config_json;
mod delta;
mod error;
mod export_gguf;
mod export_lora;
mod export_peft;
mod gguf_folder;
mod gguf_out;
mod import;
mod merge;
mod merge_gguf;
pub(crate) mod peft_config;
mod peft_files;
mod rounding;
mod safetensors_out;
mod staged;
mod torch_random;
mod trained;

pub use error::InteropError;
pub use export_gguf::export_gguf_lora;
pub use export_lora::export_lora;
pub use export_peft::export_peft;
pub use gguf_folder::merge_gguf_to_folder;
pub use import::import_peft;
pub use merge::merge;
pub use merge_gguf::merge_gguf;
pub use rounding::{OutputType, Survival};
pub use trained::{NewWeights, check_trained, write_trained};
