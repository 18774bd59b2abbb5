//! Completions of a step → the Fisher matrix of the policy that sampled them, for the natural gradient.

use super::rollouts::Scored;
use super::setup::{Session, TrainError};
use super::step::training_completion;
use crate::base::Trained;
use crate::gradient::{TrainingGroup, scores};
use crate::optimizer::Fisher;

/// The Fisher matrix over the first `optimizer.fisher_samples` completions of every prompt, at the adapter as it is; and how
/// many tokens went through the model for it. Completions count whatever their reward is, and if they were cut, too: it is the
/// policy that is measured.
pub(super) fn fisher_matrix(
    session: &mut Session<'_>,
    scored: &Scored,
) -> Result<(Fisher, usize), TrainError> {
    let optimizer = &session.recipe.optimizer;
    let most = match optimizer.fisher_samples {
        0 => usize::MAX,
        samples => samples,
    };
    let groups: Vec<TrainingGroup> = scored
        .groups
        .iter()
        .map(|group| TrainingGroup {
            prompt: group.prompt.clone(),
            completions: group
                .completions
                .iter()
                .filter(|rollout| !rollout.completion.tokens.is_empty())
                .take(most)
                .map(|rollout| training_completion(rollout, 0.0))
                .collect(),
        })
        .collect();
    let Trained::Projected(adapter) = &session.trained else {
        return Err(TrainError::NaturalKind { kind: session.recipe.adapter.kind.name() });
    };
    let mut fisher = Fisher::new(adapter.v().len());
    let inverse_temperature = 1.0 / session.recipe.rollout.temperature;
    let rows = scores(
        session.cpu,
        session.trained.policy(session.base),
        &groups,
        (optimizer.fisher, inverse_temperature, session.plan.micro_batch_tokens),
        &mut session.shared.workspace(),
        &mut |tokens, dr| fisher.push(&adapter.gradient(dr), tokens),
    )?;
    Ok((fisher, rows))
}
