//! Rollouts with advantages enter, the gradient of the side path leaves: packing, losses, backward. Nothing here
//! samples or updates.

mod accumulate;
mod pack;
mod policy;

pub use accumulate::{
    GradientError, GradientWorkspace, TokenGradient, TokenView, accumulate, completion_logprobs,
};
pub use pack::{TrainingCompletion, TrainingGroup, micro_batches, packed_tokens};
pub use policy::{PolicyLoss, PolicyStatistics};
