//! The optimizer's step for all weights whose master copy is on a GPU: what [`super::apply_in_place`] does, to the same bits.

use super::in_place::norm_and_factor;
use super::update::{OptimizerError, OptimizerState};
use crate::base::BaseError;
use crate::model::{GpuMaster, GpuWeightSums};
use crate::recipe::{OptimizerSection, decimal};
use tinylora_compute::optimizer_step::Step;

/// One step along the gradient that stands in `sums`; returns its norm before clipping. Of the state, whose lists are on the GPU,
/// the updates are counted.
///
/// # Panics
/// If the state is that of the natural gradient: the recipe refused it.
pub(crate) fn apply_on_gpu<E: From<OptimizerError> + From<BaseError>>(
    settings: &OptimizerSection,
    (step, learning_rate): (u64, f32),
    sums: &GpuWeightSums,
    state: &mut OptimizerState,
    master: &GpuMaster,
) -> Result<f32, E> {
    let count = state.len();
    let (squares, bad) = master.sums_of_squares(sums).map_err(BaseError::from)?;
    if let Some((element, value)) = bad {
        return Err(OptimizerError::GradientNotFinite { step, element, count, value }.into());
    }
    let (norm, factor) = norm_and_factor(&squares, settings.max_grad_norm);
    let (beta1, beta2, lr) = (decimal(settings.beta1), decimal(settings.beta2), f64::from(learning_rate));
    let (OptimizerState::Adamw { updates, .. } | OptimizerState::Sgd { updates, .. }) = state else {
        panic!("the natural gradient has a size limit")
    };
    let t = (*updates + 1) as f64;
    let rule = Step {
        learning_rate: lr,
        factor,
        keep: 1.0 - lr * decimal(settings.weight_decay),
        betas: (beta1, beta2),
        epsilon: decimal(settings.epsilon),
        corrections: (1.0 - beta1.powf(t), 1.0 - beta2.powf(t)),
        nesterov: settings.nesterov,
    };
    if let Some((element, value)) = master.step(&rule, sums).map_err(BaseError::from)? {
        return Err(OptimizerError::UpdateNotFinite { step, element, count, value, learning_rate }.into());
    }
    *updates += 1;
    Ok(norm as f32)
}
