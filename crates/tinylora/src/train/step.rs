//! One step: prompts → rollouts → rewards → advantages → gradient → update → metrics.

use super::fisher::fisher_matrix;
use super::rollouts::{Scored, roll_out_and_score};
use super::setup::{Session, TrainError};
use super::update::apply_update;
use super::{Event, State};
use crate::base::BaseError;
use crate::evaluate::is_right;
use crate::gradient::{
    BatchTotals, PolicyLoss, PolicyStatistics, TrainingCompletion, TrainingGroup, accumulate_batches,
    completion_logprobs, importance_weights, micro_batches, packed_tokens, weigh,
};
use crate::model::Policy;
use crate::optimizer::learning_rate_at;
use crate::recipe::{GrpoSection, ImportanceRule, OptimizerKind};
use crate::reward::Scores;
use crate::rollout::Rollout;
use crate::run_folder::{RunFolder, SampleRecord, StepMetrics, rss_bytes};
use std::time::Instant;

/// What the updates of a step leave for its metrics.
struct Updated {
    statistics: PolicyStatistics,
    loss: f64,
    grad_norm: f32,
    learning_rate: f32,
    tokens: u64,
}

/// Does step `state.step` and counts it.
pub(super) fn train_step(
    session: &mut Session<'_>,
    folder: &mut RunFolder,
    state: &mut State,
    report: &mut dyn FnMut(Event<'_>),
) -> Result<(), TrainError> {
    let (start, others) = (Instant::now(), session.sampler.seconds_of_others());
    let mut scored = roll_out_and_score(session, state, report)?;
    let others = session.sampler.seconds_of_others() - others;
    let rollout_seconds = start.elapsed().as_secs_f64() - others;
    let start = Instant::now();
    session.recording = scored.recording.take();
    let updated = update(session, state, &scored)?;
    let train_seconds = start.elapsed().as_secs_f64();
    state.step += 1;
    let metrics = metrics(session, state, &scored, &updated, (rollout_seconds, train_seconds));
    state.carried.rollout_tokens += metrics.rollout_tokens;
    state.carried.rollout_seconds += rollout_seconds;
    state.carried.occupancy += scored.occupancy;
    state.carried.train_tokens += updated.tokens;
    state.carried.train_seconds += train_seconds;
    folder.append_metrics(&metrics)?;
    let samples = samples(session, state.step, &scored);
    for sample in &samples {
        folder.append_sample(sample)?;
    }
    report(Event::Step { metrics: &metrics, v: session.trained.numbers() });
    let every = session.recipe.train.sample_every as u64;
    if every > 0 && (state.step - 1).is_multiple_of(every) {
        // The best completion of the step's first problem says most.
        let best = samples
            .iter()
            .take(session.recipe.rollout.samples_per_prompt)
            .max_by(|a, b| a.reward.total_cmp(&b.reward));
        if let Some(best) = best {
            report(Event::Sample(best));
        }
    }
    Ok(())
}

/// The optimizer's updates on one batch of rollouts.
fn update(session: &mut Session<'_>, state: &mut State, scored: &Scored) -> Result<Updated, TrainError> {
    let recipe = session.recipe;
    let learning_rate = learning_rate_at(&recipe.optimizer, state.step, session.steps);
    let (mut groups, totals) = training_groups(scored, &recipe.grpo);
    weigh(&mut groups, recipe.grpo.loss, BatchTotals { max_tokens: recipe.rollout.max_tokens, ..totals });
    let inverse_temperature = 1.0 / recipe.rollout.temperature;
    if recipe.grpo.kl_coefficient > 0.0 {
        add_reference(session, &mut groups, inverse_temperature)?;
    }
    if recipe.rollout.staleness > 0 && recipe.grpo.importance != ImportanceRule::Off {
        add_importance(session, &mut groups, inverse_temperature)?;
    }
    let batches = micro_batches(&groups, session.plan.micro_batch_tokens);
    let rows: usize = batches.iter().map(|batch| packed_tokens(batch)).sum();
    let mut updated = Updated {
        statistics: PolicyStatistics::default(),
        loss: 0.0,
        grad_norm: 0.0,
        learning_rate,
        tokens: (rows * recipe.grpo.updates_per_batch) as u64,
    };
    if groups.is_empty() {
        // No group has an advantage: there is nothing to learn from this batch.
        return Ok(updated);
    }
    let mut fisher = None;
    if recipe.optimizer.kind == OptimizerKind::Natural {
        let (matrix, rows) = fisher_matrix(session, scored)?;
        (fisher, updated.tokens) = (Some(matrix), updated.tokens + rows as u64);
    }
    for round in 0..recipe.grpo.updates_per_batch {
        let mut loss = PolicyLoss::new(&recipe.grpo);
        let mut sums = session.trained.sums().map_err(BaseError::from)?;
        let mut workspace = session.shared.workspace();
        if round == 0 {
            // The policy is still the one that sampled.
            workspace.recording = session.recording.take();
        }
        let total = accumulate_batches(
            session.cpu,
            session.trained.policy(session.base),
            &batches,
            (inverse_temperature, loss.wants_entropy()),
            &mut |completion| loss.completion(completion),
            &mut workspace,
            &mut sums,
        );
        if round == 0 {
            session.recording = workspace.recording.take();
        }
        drop(workspace);
        let total = total?;
        if !total.is_finite() {
            return Err(TrainError::LossNotFinite { step: state.step, loss: total });
        }
        let norm = apply_update(session, state, learning_rate, sums, fisher.as_ref())?;
        if round == 0 {
            // Later rounds are off-policy by design: the gap between sampling and training is the first one's.
            updated.statistics.logprob_gap_max = loss.statistics.logprob_gap_max;
            (updated.loss, updated.grad_norm) = (total, norm);
        }
        let (gap, last) = (updated.statistics.logprob_gap_max, loss.statistics);
        updated.statistics = PolicyStatistics { logprob_gap_max: gap, ..last };
    }
    Ok(updated)
}

/// The groups of the batch that teach something (with a KL term or an entropy bonus all do), without completions that are left
/// out of the loss; and what the batch has in all.
fn training_groups(scored: &Scored, grpo: &GrpoSection) -> (Vec<TrainingGroup>, BatchTotals) {
    let all = grpo.kl_coefficient > 0.0 || grpo.entropy_coefficient > 0.0;
    let (mut groups, mut totals) = (Vec::new(), BatchTotals::default());
    for (group, advantages) in scored.batch.iter().map(|&i| (&scored.groups[i], &scored.advantages[i])) {
        let mut completions = Vec::with_capacity(group.completions.len());
        for (rollout, &advantage) in group.completions.iter().zip(&advantages.values) {
            if grpo.mask_truncated && rollout.truncated() {
                continue;
            }
            totals.completions += 1;
            totals.tokens += rollout.completion.tokens.len();
            if !rollout.completion.tokens.is_empty() {
                completions.push(training_completion(rollout, advantage));
            }
        }
        if completions.is_empty() {
            continue;
        }
        totals.groups += 1;
        if all || advantages.active {
            groups.push(TrainingGroup { prompt: group.prompt.clone(), completions });
        }
    }
    (groups, totals)
}

/// A rollout as the gradient's code wants it, not yet weighted.
pub(super) fn training_completion(rollout: &Rollout, advantage: f32) -> TrainingCompletion {
    let tokens = &rollout.completion.tokens;
    TrainingCompletion {
        tokens: tokens.iter().map(|token| token.token).collect(),
        old_logprobs: tokens.iter().map(|token| token.logprob).collect(),
        supports: tokens.iter().filter_map(|token| token.support.clone()).collect(),
        advantage,
        ..Default::default()
    }
}

/// Where an older version sampled: the ratio compares with the policy before the update, and what lies between the sampler and
/// that policy becomes a weight.
fn add_importance(
    session: &mut Session<'_>,
    groups: &mut [TrainingGroup],
    inverse_temperature: f32,
) -> Result<(), TrainError> {
    let grpo = &session.recipe.grpo;
    for group in groups {
        let logprobs = completion_logprobs(
            session.cpu,
            session.trained.policy(session.base),
            std::slice::from_ref(&*group),
            inverse_temperature,
            &mut session.shared.workspace(),
        )?;
        for (completion, policy) in group.completions.iter_mut().zip(logprobs.into_iter().flatten()) {
            let sampler = std::mem::replace(&mut completion.old_logprobs, policy);
            let (rule, cap) = (grpo.importance, grpo.importance_cap);
            completion.importance = importance_weights(&sampler, &completion.old_logprobs, rule, cap);
        }
    }
    Ok(())
}

/// Log-probs under the base: the same weights without an adapter.
fn add_reference(
    session: &mut Session<'_>,
    groups: &mut [TrainingGroup],
    inverse_temperature: f32,
) -> Result<(), TrainError> {
    for group in groups {
        let one = std::slice::from_ref(&*group);
        let logprobs = completion_logprobs(
            session.cpu,
            Policy::plain(&session.base.model),
            one,
            inverse_temperature,
            &mut session.shared.workspace(),
        )?;
        for (completion, logprobs) in group.completions.iter_mut().zip(logprobs.into_iter().flatten()) {
            completion.reference_logprobs = logprobs;
        }
    }
    Ok(())
}

fn metrics(
    session: &Session<'_>,
    state: &State,
    scored: &Scored,
    updated: &Updated,
    (rollout_seconds, train_seconds): (f64, f64),
) -> StepMetrics {
    let scores: Vec<&Scores> = scored.scores.iter().flatten().collect();
    let rollouts: Vec<_> = scored.groups.iter().flat_map(|group| &group.completions).collect();
    let rewards: Vec<f64> = scored.rewards.iter().flatten().map(|&reward| f64::from(reward)).collect();
    let n = scores.len().max(1) as f64;
    let mean = rewards.iter().sum::<f64>() / n;
    let variance = rewards.iter().map(|reward| (reward - mean).powi(2)).sum::<f64>() / n;
    let tokens: usize = rollouts.iter().map(|rollout| rollout.completion.tokens.len()).sum();
    let entropy: f64 =
        rollouts.iter().flat_map(|rollout| &rollout.completion.tokens).map(|t| f64::from(t.entropy)).sum();
    let active = scored.advantages.iter().filter(|advantages| advantages.active).count();
    let per_step = session.recipe.rollout.prompts_per_step;
    let batches = state.problems as f64 / per_step as f64;
    let statistics = &updated.statistics;
    StepMetrics {
        step: state.step,
        epoch: session.data.steps_per_epoch(per_step).map_or(0.0, |steps| batches / steps as f64),
        reward_mean: mean,
        accuracy: scores.iter().filter(|score| is_right(score)).count() as f64 / n,
        reward_std: variance.sqrt(),
        prompts: scored.groups.len() as u64,
        active_group_fraction: active as f64 / scored.advantages.len().max(1) as f64,
        completion_tokens_mean: tokens as f64 / n,
        truncated_fraction: rollouts.iter().filter(|rollout| rollout.truncated()).count() as f64 / n,
        entropy: entropy / tokens.max(1) as f64,
        kl: statistics.kl_sum / statistics.tokens.max(1) as f64,
        clipped_fraction: statistics.clipped as f64 / statistics.tokens.max(1) as f64,
        ratio_min: f64::from(statistics.ratio_min),
        ratio_max: f64::from(statistics.ratio_max),
        logprob_gap_max: f64::from(statistics.logprob_gap_max),
        loss: updated.loss,
        grad_norm: f64::from(updated.grad_norm),
        v_norm: session.trained.numbers().iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt(),
        learning_rate: f64::from(updated.learning_rate),
        rollout_tokens: tokens as u64,
        rollout_seconds,
        empty_slot_fraction: scored.occupancy.empty_fraction(),
        train_tokens: updated.tokens,
        train_seconds,
        adapter_version: scored.groups.first().map_or(0, |group| group.adapter_version),
        rss_bytes: rss_bytes(),
    }
}

/// Everything that the model wrote in a step.
fn samples(session: &Session<'_>, step: u64, scored: &Scored) -> Vec<SampleRecord> {
    let mut samples = Vec::new();
    for ((group, rewards), advantages) in scored.groups.iter().zip(&scored.rewards).zip(&scored.advantages) {
        let prompt = session.data.prompt_text(&group.problem);
        for ((rollout, &reward), &advantage) in group.completions.iter().zip(rewards).zip(&advantages.values)
        {
            samples.push(SampleRecord {
                step,
                problem: group.problem.id.clone(),
                prompt: prompt.clone(),
                gold: group.problem.gold.clone(),
                completion: rollout.text.clone(),
                reward: f64::from(reward),
                advantage: f64::from(advantage),
                tokens: rollout.completion.tokens.len() as u64,
                truncated: rollout.truncated(),
            });
        }
    }
    samples
}
