//! Prompts enter, completions with their log-probs leave: KV blocks, scheduling, sampling. Nothing here knows
//! rewards or training.

mod blocks;
mod engine;
mod occupancy;
pub mod prefix;
mod sampling;
mod step;

pub use blocks::{BlockPool, spans_of};
pub use engine::{Completion, Engine, EngineError, Finish, GenerateOptions, Progress, Request, Stop};
pub use occupancy::Occupancy;
pub use sampling::{Sampled, Sampling, sample_hidden, sample_rows, support_normalizer};
