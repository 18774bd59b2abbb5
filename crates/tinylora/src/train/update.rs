//! The sums of a step's backward passes enter, changed numbers leave: gradient, optimizer, rounding to the stored precision.

use super::State;
use super::setup::{Session, TrainError};
use crate::adapter::round_to;
use crate::base::{BaseError, Trained};
use crate::model::Gradients;
use crate::optimizer::{Fisher, apply, apply_in_place, apply_natural, apply_on_gpu};

/// One update of what is trained; gives the gradient's norm before clipping.
pub(super) fn apply_update(
    session: &mut Session<'_>,
    state: &mut State,
    learning_rate: f32,
    sums: Gradients,
    fisher: Option<&Fisher>,
) -> Result<f32, TrainError> {
    let (settings, step, memory) = (&session.recipe.optimizer, state.step, &mut state.optimizer);
    if let (Trained::Full(full), Gradients::GpuWeights(sums)) = (&mut session.trained, &sums)
        && full.master().is_some()
    {
        let rates = (step, learning_rate);
        return full.update_on_gpu(session.cpu, |master| apply_on_gpu(settings, rates, sums, memory, master));
    }
    let mut gradient = session.trained.gradient(sums).map_err(BaseError::from)?;
    if let Trained::Full(full) = &mut session.trained {
        let cpu = session.cpu;
        return full.update(cpu, |numbers| {
            Ok(apply_in_place(cpu, settings, (step, learning_rate), &mut gradient, memory, numbers)?)
        });
    }
    let mut numbers = session.trained.numbers().to_vec();
    let norm = match fisher {
        None => apply(settings, step, learning_rate, &gradient, memory, &mut numbers)?,
        Some(fisher) => {
            apply_natural(settings, step, learning_rate, &gradient, fisher, memory, &mut numbers)?
        }
    };
    round_to(session.recipe.adapter.storage_precision, &mut numbers);
    session.trained.set(session.cpu, &numbers, session.trained.version() + 1)?;
    Ok(norm)
}
