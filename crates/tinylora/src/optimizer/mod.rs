//! A gradient and the optimizer's state enter, changed parameters and state leave; and the learning rate of a
//! step. Nothing here knows what the parameters mean, and a gradient that is not finite changes nothing.

mod schedule;
mod update;

pub use schedule::learning_rate_at;
pub use update::{OptimizerError, OptimizerState, apply, check_finite, clip_gradient};
