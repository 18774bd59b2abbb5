//! One step: prompts → rollouts → rewards → advantages → gradient → update → metrics.

use super::setup::{Session, TrainError};
use super::{Event, State};
use crate::adapter::round_to;
use crate::advantage::{Advantages, group_advantages};
use crate::evaluate::is_right;
use crate::gradient::{
    PolicyLoss, PolicyStatistics, TrainingCompletion, TrainingGroup, accumulate, completion_logprobs,
    micro_batches, packed_tokens,
};
use crate::inference::{Progress, Sampling};
use crate::model::Adapters;
use crate::optimizer::{apply, learning_rate_at};
use crate::recipe::Recipe;
use crate::reward::{RewardItem, Scores};
use crate::rollout::{RolloutGroup, RolloutSettings, TextStop, roll_out};
use crate::run_folder::{RunFolder, SampleRecord, StepMetrics, rss_bytes};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// Number of the first random stream of a step.
pub(super) fn first_stream(recipe: &Recipe, step: u64) -> u64 {
    step * (recipe.rollout.prompts_per_step * recipe.rollout.samples_per_prompt) as u64
}

/// Everything of one batch of rollouts.
struct Scored {
    groups: Vec<RolloutGroup>,
    scores: Vec<Vec<Scores>>,
    advantages: Vec<Advantages>,
}

/// What the updates of a step leave for its metrics.
struct Updated {
    statistics: PolicyStatistics,
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
    let start = Instant::now();
    let scored = roll_out_and_score(session, state.step, report)?;
    let rollout_seconds = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let updated = update(session, state, &scored)?;
    let train_seconds = start.elapsed().as_secs_f64();
    state.step += 1;
    let metrics = metrics(session, state, &scored, &updated, (rollout_seconds, train_seconds));
    state.carried.rollout_tokens += metrics.rollout_tokens;
    state.carried.rollout_seconds += rollout_seconds;
    state.carried.train_tokens += updated.tokens;
    state.carried.train_seconds += train_seconds;
    folder.append_metrics(&metrics)?;
    let samples = samples(session, state.step, &scored);
    for sample in &samples {
        folder.append_sample(sample)?;
    }
    report(Event::Step { metrics: &metrics, v: session.adapter.v() });
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

fn roll_out_and_score(
    session: &mut Session<'_>,
    step: u64,
    report: &mut dyn FnMut(Event<'_>),
) -> Result<Scored, TrainError> {
    let rollout = &session.recipe.rollout;
    let problems = session.data.train_batch(step, rollout.prompts_per_step);
    let prompts = session.prompts(problems)?;
    let stop = TextStop::new(&session.base.tokenizer, &rollout.stop);
    // A step is always finished: an interrupt is looked at between steps.
    let never = AtomicBool::new(false);
    let settings = RolloutSettings {
        samples: rollout.samples_per_prompt,
        max_tokens: rollout.max_tokens,
        sampling: Sampling { temperature: rollout.temperature, top_p: rollout.top_p, top_k: rollout.top_k },
        max_batch: session.plan.max_batch,
        seed: session.recipe.seed,
        first_stream: first_stream(session.recipe, step),
        stop: &stop,
        interrupt: &never,
    };
    let total = prompts.len() * rollout.samples_per_prompt;
    let (mut done, mut tokens) = (0, 0);
    let matrices = [session.adapter.matrices()];
    let groups = roll_out(
        &mut session.engine,
        &session.base.tokenizer,
        (session.adapter.adapters(&matrices), session.adapter.version()),
        prompts,
        settings,
        &mut |progress| match progress {
            Progress::Token { .. } => tokens += 1,
            Progress::Finished { .. } => {
                done += 1;
                report(Event::Rollout { what: "rollout", done, total, tokens });
            }
        },
    )?;
    let items: Vec<RewardItem> = groups
        .iter()
        .flat_map(|group| {
            group.completions.iter().map(|rollout| RewardItem {
                problem: &group.problem,
                completion: &rollout.text,
                truncated: rollout.truncated(),
            })
        })
        .collect();
    let mut all = session.rewarder.score(&items)?.into_iter();
    let scores: Vec<Vec<Scores>> =
        groups.iter().map(|group| all.by_ref().take(group.completions.len()).collect()).collect();
    let advantages = scores
        .iter()
        .map(|scores| {
            let rewards: Vec<f32> = scores.iter().map(|score| score.reward).collect();
            group_advantages(&rewards, session.recipe.grpo.scale_advantages)
        })
        .collect();
    Ok(Scored { groups, scores, advantages })
}

/// The optimizer's updates on one batch of rollouts.
fn update(session: &mut Session<'_>, state: &mut State, scored: &Scored) -> Result<Updated, TrainError> {
    let recipe = session.recipe;
    let learning_rate = learning_rate_at(&recipe.optimizer, state.step, session.steps);
    let mut groups = training_groups(scored, recipe.grpo.kl_coefficient > 0.0);
    let inverse_temperature = 1.0 / recipe.rollout.temperature;
    if recipe.grpo.kl_coefficient > 0.0 {
        add_reference(session, &mut groups, inverse_temperature)?;
    }
    let completions = scored.groups.iter().flat_map(|group| &group.completions);
    let (count, tokens) = completions
        .fold((0, 0), |(count, tokens), rollout| (count + 1, tokens + rollout.completion.tokens.len()));
    let batches = micro_batches(&groups, session.plan.micro_batch_tokens);
    let rows: usize = batches.iter().map(|batch| packed_tokens(batch)).sum();
    let mut updated = Updated {
        statistics: PolicyStatistics::default(),
        grad_norm: 0.0,
        learning_rate,
        tokens: (rows * recipe.grpo.updates_per_batch) as u64,
    };
    if groups.is_empty() {
        // No group has an advantage: there is nothing to learn from this batch.
        return Ok(updated);
    }
    for round in 0..recipe.grpo.updates_per_batch {
        let mut loss = PolicyLoss::new(&recipe.grpo, tokens, count);
        let mut dr = vec![0f64; session.adapter.matrices().len()];
        let mut total = 0.0;
        for batch in &batches {
            let matrices = [session.adapter.matrices()];
            total += accumulate(
                session.cpu,
                &session.base.model,
                session.adapter.adapters(&matrices),
                batch,
                inverse_temperature,
                &mut |token| loss.token(token),
                &mut session.workspace,
                &mut dr,
            )?;
        }
        if !total.is_finite() {
            return Err(TrainError::LossNotFinite { step: state.step, loss: total });
        }
        let gradient = session.adapter.gradient(&dr);
        let mut v = session.adapter.v().to_vec();
        let norm =
            apply(&recipe.optimizer, state.step, learning_rate, &gradient, &mut state.optimizer, &mut v)?;
        round_to(recipe.adapter.storage_precision, &mut v);
        session.adapter.set(&v, session.adapter.version() + 1);
        if round == 0 {
            // Later rounds are off-policy by design: the gap between sampling and training is the first one's.
            updated.statistics.logprob_gap_max = loss.statistics.logprob_gap_max;
            updated.grad_norm = norm;
        }
        let (gap, last) = (updated.statistics.logprob_gap_max, loss.statistics);
        updated.statistics = PolicyStatistics { logprob_gap_max: gap, ..last };
    }
    Ok(updated)
}

/// The groups that teach something; with a KL term all do.
fn training_groups(scored: &Scored, all: bool) -> Vec<TrainingGroup> {
    let groups = scored.groups.iter().zip(&scored.advantages);
    groups
        .filter(|(_, advantages)| all || advantages.active)
        .map(|(group, advantages)| TrainingGroup {
            prompt: group.prompt.clone(),
            completions: group
                .completions
                .iter()
                .zip(&advantages.values)
                .filter(|(rollout, _)| !rollout.completion.tokens.is_empty())
                .map(|(rollout, &advantage)| {
                    let tokens = &rollout.completion.tokens;
                    TrainingCompletion {
                        tokens: tokens.iter().map(|token| token.token).collect(),
                        old_logprobs: tokens.iter().map(|token| token.logprob).collect(),
                        reference_logprobs: Vec::new(),
                        supports: tokens.iter().filter_map(|token| token.support.clone()).collect(),
                        advantage,
                    }
                })
                .collect(),
        })
        .collect()
}

/// Log-probs under the base: the same weights without an adapter.
fn add_reference(
    session: &mut Session<'_>,
    groups: &mut [TrainingGroup],
    inverse_temperature: f32,
) -> Result<(), TrainError> {
    for group in groups {
        let (cpu, model) = (session.cpu, &session.base.model);
        let one = std::slice::from_ref(&*group);
        let logprobs = completion_logprobs(
            cpu,
            model,
            Adapters::NONE,
            one,
            inverse_temperature,
            &mut session.workspace,
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
    let n = scores.len().max(1) as f64;
    let mean = scores.iter().map(|score| f64::from(score.reward)).sum::<f64>() / n;
    let variance = scores.iter().map(|score| (f64::from(score.reward) - mean).powi(2)).sum::<f64>() / n;
    let tokens: usize = rollouts.iter().map(|rollout| rollout.completion.tokens.len()).sum();
    let entropy: f64 =
        rollouts.iter().flat_map(|rollout| &rollout.completion.tokens).map(|t| f64::from(t.entropy)).sum();
    let active = scored.advantages.iter().filter(|advantages| advantages.active).count();
    let per_step = session.recipe.rollout.prompts_per_step;
    let statistics = &updated.statistics;
    StepMetrics {
        step: state.step,
        epoch: session.data.steps_per_epoch(per_step).map_or(0.0, |steps| state.step as f64 / steps as f64),
        reward_mean: mean,
        accuracy: scores.iter().filter(|score| is_right(score)).count() as f64 / n,
        reward_std: variance.sqrt(),
        active_group_fraction: active as f64 / scored.advantages.len().max(1) as f64,
        completion_tokens_mean: tokens as f64 / n,
        truncated_fraction: rollouts.iter().filter(|rollout| rollout.truncated()).count() as f64 / n,
        entropy: entropy / tokens.max(1) as f64,
        kl: statistics.kl_sum / statistics.tokens.max(1) as f64,
        ratio_min: f64::from(statistics.ratio_min),
        ratio_max: f64::from(statistics.ratio_max),
        logprob_gap_max: f64::from(statistics.logprob_gap_max),
        grad_norm: f64::from(updated.grad_norm),
        v_norm: session.adapter.v().iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt(),
        learning_rate: f64::from(updated.learning_rate),
        rollout_tokens: tokens as u64,
        rollout_seconds,
        train_tokens: updated.tokens,
        train_seconds,
        adapter_version: scored.groups.first().map_or(0, |group| group.adapter_version),
        rss_bytes: rss_bytes(),
    }
}

/// Everything that the model wrote in a step.
fn samples(session: &Session<'_>, step: u64, scored: &Scored) -> Vec<SampleRecord> {
    let mut samples = Vec::new();
    for ((group, scores), advantages) in scored.groups.iter().zip(&scored.scores).zip(&scored.advantages) {
        let prompt = session.data.prompt_text(&group.problem);
        for ((rollout, score), &advantage) in group.completions.iter().zip(scores).zip(&advantages.values) {
            samples.push(SampleRecord {
                step,
                problem: group.problem.id.clone(),
                prompt: prompt.clone(),
                gold: group.problem.gold.clone(),
                completion: rollout.text.clone(),
                reward: f64::from(score.reward),
                advantage: f64::from(advantage),
                tokens: rollout.completion.tokens.len() as u64,
                truncated: rollout.truncated(),
            });
        }
    }
    samples
}
