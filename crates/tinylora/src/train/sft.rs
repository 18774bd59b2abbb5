//! One step of supervised finetuning: examples → next-token loss → update → metrics. Nothing is sampled.

use super::setup::{Session, TrainError};
use super::update::apply_update;
use super::{Event, State};
use crate::base::BaseError;
use crate::gradient::{
    CompletionGradient, CompletionView, TrainingGroup, accumulate_batches, micro_batches, packed_tokens,
};
use crate::optimizer::learning_rate_at;
use crate::run_folder::{RunFolder, StepMetrics, rss_bytes};
use std::time::Instant;

/// What a step's update leaves for its metrics.
struct Updated {
    loss: f64,
    grad_norm: f32,
    learning_rate: f32,
    rows: u64,
    tokens: usize,
}

/// Does step `state.step` and counts it.
pub(super) fn train_step(
    session: &mut Session<'_>,
    folder: &mut RunFolder,
    state: &mut State,
    report: &mut dyn FnMut(Event<'_>),
) -> Result<(), TrainError> {
    let start = Instant::now();
    let count = session.recipe.sft.examples_per_step;
    let groups = examples(session, state.problems, count)?;
    let version = session.trained.version();
    let updated = update(session, state, &groups)?;
    state.problems += count as u64;
    state.step += 1;
    let seconds = start.elapsed().as_secs_f64();
    state.carried.train_tokens += updated.rows;
    state.carried.train_seconds += seconds;
    let metrics = metrics(session, state, &updated, (version, seconds));
    folder.append_metrics(&metrics)?;
    report(Event::Step { metrics: &metrics, v: session.trained.numbers() });
    Ok(())
}

/// The next examples of the stream.
fn examples(session: &Session<'_>, first: u64, count: usize) -> Result<Vec<TrainingGroup>, TrainError> {
    if session.lessons.count().is_some() {
        return Ok(session.lessons.at(first, count));
    }
    let problems = session.data.train_problems(first, count);
    let reader = session.reader();
    Ok(problems.iter().map(|problem| reader.lesson(problem)).collect::<Result<_, _>>()?)
}

/// One update along the gradient of the mean of −ln p over the tokens that count.
fn update(
    session: &mut Session<'_>,
    state: &mut State,
    groups: &[TrainingGroup],
) -> Result<Updated, TrainError> {
    let recipe = session.recipe;
    let learning_rate = learning_rate_at(&recipe.optimizer, state.step, session.steps);
    let completions = || groups.iter().flat_map(|group| &group.completions);
    let tokens: usize = completions().map(|completion| completion.learned().count()).sum();
    let weight = 1.0 / tokens.max(1) as f64;
    let batches = micro_batches(groups, session.plan.micro_batch_tokens);
    let mut sums = session.trained.sums().map_err(BaseError::from)?;
    let loss = accumulate_batches(
        session.cpu,
        session.trained.policy(session.base),
        &batches,
        (1.0, false),
        &mut |completion: CompletionView<'_>| CompletionGradient {
            loss: completion.logprobs.iter().fold(0.0, |sum, &logprob| sum - weight * f64::from(logprob)),
            slopes: vec![-weight as f32; completion.logprobs.len()],
            entropy_slope: 0.0,
        },
        &mut session.shared.workspace(),
        &mut sums,
    )?;
    if !loss.is_finite() {
        return Err(TrainError::LossNotFinite { step: state.step, loss });
    }
    let grad_norm = apply_update(session, state, learning_rate, sums, None)?;
    let rows = batches.iter().map(|batch| packed_tokens(batch) as u64).sum();
    Ok(Updated { loss, grad_norm, learning_rate, rows, tokens })
}

/// What reinforcement learning measures is not a number here (null in the file).
fn metrics(
    session: &Session<'_>,
    state: &State,
    updated: &Updated,
    (adapter_version, seconds): (u64, f64),
) -> StepMetrics {
    let per_step = session.recipe.sft.examples_per_step;
    let none = f64::NAN;
    StepMetrics {
        step: state.step,
        epoch: session.steps_per_epoch().map_or(0.0, |steps| state.step as f64 / steps as f64),
        reward_mean: none,
        accuracy: none,
        reward_std: none,
        prompts: per_step as u64,
        active_group_fraction: none,
        completion_tokens_mean: updated.tokens as f64 / per_step as f64,
        truncated_fraction: none,
        entropy: none,
        kl: none,
        clipped_fraction: none,
        ratio_min: none,
        ratio_max: none,
        logprob_gap_max: none,
        loss: updated.loss,
        grad_norm: f64::from(updated.grad_norm),
        v_norm: session.trained.numbers().iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt(),
        learning_rate: f64::from(updated.learning_rate),
        rollout_tokens: 0,
        rollout_seconds: 0.0,
        empty_slot_fraction: none,
        train_tokens: updated.rows,
        train_seconds: seconds,
        adapter_version,
        rss_bytes: rss_bytes(),
    }
}
