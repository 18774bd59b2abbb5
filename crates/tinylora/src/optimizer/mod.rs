//! A gradient and the optimizer's state enter, changed parameters and state leave; and the learning rate of a
//! step. Nothing here knows what the parameters mean, and a gradient that is not finite changes nothing.

mod in_place;
mod natural;
mod on_gpu;
mod schedule;
mod update;

pub use in_place::{apply_in_place, state_bytes_in_place};
pub use natural::{Fisher, MOST_PARAMETERS};
pub(crate) use on_gpu::apply_on_gpu;
pub use schedule::learning_rate_at;
pub use update::{
    OptimizerError, OptimizerState, apply, apply_natural, check_finite, check_size, clip_gradient,
    state_bytes,
};
