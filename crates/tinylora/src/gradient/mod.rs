//! Rollouts with advantages enter, the gradient of the side path leaves: packing, losses, backward. Nothing here
//! samples or updates.

mod accumulate;
mod pack;
mod parallel;
mod policy;
mod scores;

pub use accumulate::{
    CompletionGradient, CompletionView, GradientError, GradientWorkspace, TokenGradient, TokenView,
    accumulate, accumulate_completions, completion_logprobs,
};
pub use pack::{TrainingCompletion, TrainingGroup, micro_batches, packed_tokens};
pub use parallel::accumulate_batches;
pub use policy::{BatchTotals, PolicyLoss, PolicyStatistics, importance_weights, weigh};
pub use scores::scores;
