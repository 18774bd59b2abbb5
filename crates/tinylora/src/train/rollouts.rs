//! Prompts → rollouts → rewards → advantages: everything of a step before the update. Further prompts are sampled while
//! groups with an advantage are missing, and an older version of the adapter may do the sampling.

use super::setup::{Session, TrainError};
use super::{Event, State};
use crate::advantage::{Advantages, group_advantages};
use crate::inference::{Occupancy, Progress, Sampling};
use crate::model::Recording;
use crate::reward::{RewardItem, Scores, overlong_penalty};
use crate::rollout::{RolloutGroup, RolloutSettings, roll_out};
use std::sync::atomic::AtomicBool;

/// A step is always finished: an interrupt is looked at between steps.
static NEVER: AtomicBool = AtomicBool::new(false);

/// Everything that was sampled in a step, group by group.
#[derive(Default)]
pub(super) struct Scored {
    pub groups: Vec<RolloutGroup>,
    pub scores: Vec<Vec<Scores>>,
    /// What is learned from: the scores' rewards less the overlong penalty.
    pub rewards: Vec<Vec<f32>>,
    pub advantages: Vec<Advantages>,
    /// How full the batch of sequences was.
    pub occupancy: Occupancy,
    /// The groups that are the batch, in ascending order.
    pub batch: Vec<usize>,
    /// What sampling computed, where training may take it over.
    pub recording: Option<Recording>,
}

/// Samples the step's batch: `rollout.prompts_per_step` groups, and in at most `rollout.refill_rounds` further rounds as many
/// as have no advantage yet. Counts the problems taken in `state`, and remembers v there for samplers of later steps.
pub(super) fn roll_out_and_score(
    session: &mut Session<'_>,
    state: &mut State,
    report: &mut dyn FnMut(Event<'_>),
) -> Result<Scored, TrainError> {
    let staleness = session.recipe.rollout.staleness;
    if staleness == 0 {
        return all_rounds(session, state, report);
    }
    let current = (session.trained.version(), session.trained.numbers().to_vec());
    if let Some((version, v)) = state.history.front() {
        session.trained.set(session.cpu, v, *version)?;
    }
    let sampled = all_rounds(session, state, report);
    session.trained.set(session.cpu, &current.1, current.0)?;
    state.history.push_back(current);
    if state.history.len() > staleness {
        state.history.pop_front();
    }
    sampled
}

fn all_rounds(
    session: &mut Session<'_>,
    state: &mut State,
    report: &mut dyn FnMut(Event<'_>),
) -> Result<Scored, TrainError> {
    let rollout = &session.recipe.rollout;
    let (wanted, rounds) = (rollout.prompts_per_step, rollout.refill_rounds);
    let mut scored = Scored::default();
    // What an evaluation left.
    session.sampler.take_occupancy();
    if session.plan.recorded_rows > 0 {
        let mut recording = session.recording.take().unwrap_or_default();
        recording.begin(session.plan.recorded_rows);
        session.sampler.record(recording);
    }
    let mut missing = wanted;
    for round in 0..=rounds {
        let what = if round == 0 { "rollout" } else { "refill" };
        one_round(session, (state.problems, missing), what, &mut scored, report)?;
        state.problems += missing as u64;
        missing = wanted - scored.advantages.iter().filter(|advantages| advantages.active).count();
        if missing == 0 {
            break;
        }
    }
    scored.recording = session.sampler.take_recording();
    scored.occupancy = session.sampler.take_occupancy();
    scored.batch = batch(&scored.advantages, wanted);
    Ok(scored)
}

/// The groups with an advantage; where they are too few, the first others beside them.
fn batch(advantages: &[Advantages], wanted: usize) -> Vec<usize> {
    let of = |active: bool| (0..advantages.len()).filter(move |&group| advantages[group].active == active);
    let mut batch: Vec<usize> = of(true).chain(of(false)).take(wanted).collect();
    batch.sort_unstable();
    batch
}

/// Samples and scores `count` problems of the training stream from `first` on.
fn one_round(
    session: &mut Session<'_>,
    (first, count): (u64, usize),
    what: &str,
    scored: &mut Scored,
    report: &mut dyn FnMut(Event<'_>),
) -> Result<(), TrainError> {
    let (rollout, reward) = (&session.recipe.rollout, &session.recipe.reward);
    let prompts = session.prompts(session.data.train_problems(first, count))?;
    let settings = RolloutSettings {
        samples: rollout.samples_per_prompt,
        max_tokens: rollout.max_tokens,
        sampling: Sampling { temperature: rollout.temperature, top_p: rollout.top_p, top_k: rollout.top_k },
        max_batch: session.plan.max_batch,
        seed: session.recipe.seed,
        first_stream: first * rollout.samples_per_prompt as u64,
        stop: &rollout.stop,
        interrupt: &NEVER,
    };
    let total = prompts.len() * rollout.samples_per_prompt;
    let (mut done, mut tokens) = (0, 0);
    report(Event::Rollout { what, done, total, tokens });
    let groups = roll_out(
        &mut session.sampler,
        &session.base.tokenizer,
        (session.trained.policy(session.base), session.trained.version()),
        prompts,
        settings,
        &mut |progress| match progress {
            Progress::Token { .. } => tokens += 1,
            Progress::Finished { .. } => {
                done += 1;
                report(Event::Rollout { what, done, total, tokens });
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
    for group in groups {
        let scores: Vec<Scores> = all.by_ref().take(group.completions.len()).collect();
        let completions = scores.iter().zip(&group.completions);
        let rewards: Vec<f32> = completions
            .map(|(score, completion)| {
                let (tokens, margin) = (completion.completion.tokens.len(), reward.overlong_tokens);
                score.reward + overlong_penalty(tokens, rollout.max_tokens, margin, reward.overlong_penalty)
            })
            .collect();
        scored.advantages.push(group_advantages(&rewards, session.recipe.grpo.scale_advantages));
        scored.groups.push(group);
        scored.scores.push(scores);
        scored.rewards.push(rewards);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_prefers_groups_with_an_advantage() {
        let of = |active: &[bool], wanted| {
            let advantages: Vec<Advantages> =
                active.iter().map(|&active| Advantages { values: Vec::new(), active }).collect();
            batch(&advantages, wanted)
        };
        let (yes, no) = (true, false);
        assert_eq!(of(&[no, yes, no, yes], 4), [0, 1, 2, 3]);
        // One more group was sampled for each that had none.
        assert_eq!(of(&[no, yes, no, yes, yes, no], 4), [0, 1, 3, 4]);
        assert_eq!(of(&[no, yes, no, yes, yes, yes], 4), [1, 3, 4, 5]);
        assert_eq!(of(&[no, no, no], 2), [0, 1]);
    }
}
