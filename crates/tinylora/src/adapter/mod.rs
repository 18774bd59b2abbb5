//! TinyLoRA: `W' = W + scale · U Σ (Σ_i v_i P_i) Vᵀ` (paper, section 4). The recipe's `[adapter]` table and
//! a model's sizes enter; groups, projections, adapter files and factors leave. Nothing here runs a model.
//!
//! Legend: r rank, u numbers a group, M adapted modules, G groups; v is (G, u), P is (M, u, r, r),
//! R and dL/dR are (M, r, r), all row-major.

mod any;
mod combine;
mod count;
mod factor_cache;
mod factors;
mod file;
mod fingerprint;
mod layout;
mod lora;
mod projections;
mod spec;
mod standalone;
mod standalone_layout;
mod svd;
mod symmetric;

pub use any::{AnyAdapter, load};
pub use combine::{CombineError, Difference, difference, mix};
pub use count::{Count, CountSizes, CountTable, Method as CountMethod, count};
pub use factor_cache::FactorKey;
pub use factors::{
    FactorError, FactorEvent, Factors, ModuleFactors, compute_factors, load_or_compute_factors,
};
pub use file::{
    AdapterFile, AdapterFileError, BaseIdentity, FORMAT_VERSION, MAGIC, RunMetadata, TEXT_PREFIX,
};
pub use fingerprint::{FactorSketch, FactorSketches, SketchMismatch, sketch_factors};
pub use lora::LoraSpec;
pub use projections::Projections;
pub use spec::{AdapterError, Module, Target, TinyLoraSpec, round_to};
pub use standalone::{Method, Standalone};
