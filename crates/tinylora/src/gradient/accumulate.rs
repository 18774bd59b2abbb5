//! The training pass: forward with everything kept, the head's log-probs and their gradients in one go, the
//! loss's slope for each token, and backward into dL/dR.

use super::pack::{Packed, Target, TrainingGroup, pack};
use crate::inference::support_normalizer;
use crate::model::{Adapters, KeptActivations, KvCache, Model, backward, forward};
use tinylora_compute::head::{head_directions, head_statistics, logits_at};
use tinylora_compute::product::product_at;
use tinylora_compute::rows::for_chunks;
use tinylora_compute::{Cpu, PackedMatrix};

/// What a loss sees of one completion token.
#[derive(Debug, Clone, Copy)]
pub struct TokenView {
    /// Index of the group, of the completion in it, and of the token in that.
    pub at: (usize, usize, usize),
    /// Number of tokens of the completion.
    pub length: usize,
    /// ln p now.
    pub logprob: f32,
    /// ln p when it was sampled; NaN if not known.
    pub old: f32,
    /// ln p under the base model; NaN if not known.
    pub reference: f32,
    /// The completion's advantage.
    pub advantage: f32,
}

/// A loss's value and slope for one token.
#[derive(Debug, Clone, Copy, Default)]
pub struct TokenGradient {
    /// The token's part of the loss.
    pub loss: f64,
    /// ∂loss / ∂ ln p
    pub slope: f32,
}

/// Why there is no gradient.
#[derive(Debug, thiserror::Error)]
pub enum GradientError {
    /// A log-prob is not a number.
    #[error(
        "ln p of token {token} (completion {completion} of group {group}) is {value} in the training pass: the \
         model's numbers overflowed; lower the learning rate or the gradient norm, or go back to a checkpoint"
    )]
    NotFinite {
        /// Group.
        group: usize,
        /// Completion.
        completion: usize,
        /// Token.
        token: usize,
        /// What came out.
        value: f32,
    },
}

/// Buffers of the training pass, used again from batch to batch.
pub struct GradientWorkspace {
    cache: KvCache,
    kept: KeptActivations,
}

impl GradientWorkspace {
    /// Empty; it grows with the first batch.
    pub fn new(model: &Model) -> Self {
        Self { cache: KvCache::new(model, 0), kept: KeptActivations::default() }
    }

    fn make_room(&mut self, model: &Model, blocks: usize) {
        if self.cache.blocks() < blocks {
            self.cache = KvCache::new(model, blocks);
        }
    }
}

/// Adds the gradient of `Σ loss(token)` over all completion tokens of `groups` to `dr` (modules · r · r), for
/// the one adapter given. Log-probs are at 1/`inverse_temperature`, over each token's support. Gives the loss.
pub fn accumulate(
    cpu: &Cpu,
    model: &Model,
    adapters: Adapters<'_>,
    groups: &[TrainingGroup],
    inverse_temperature: f32,
    loss: &mut dyn FnMut(TokenView) -> TokenGradient,
    workspace: &mut GradientWorkspace,
    dr: &mut Vec<f64>,
) -> Result<f64, GradientError> {
    if groups.is_empty() {
        return Ok(0.0);
    }
    let packed = pack(groups);
    workspace.make_room(model, packed.blocks);
    let outputs: Vec<u32> = packed.targets.iter().map(|target| target.row).collect();
    let GradientWorkspace { cache, kept } = workspace;
    let hidden = forward(cpu, model, adapters, &packed.batch, &outputs, cache, kept, true);
    let mut directions = vec![0.0; hidden.len()];
    let logprobs = directions_of(cpu, model, groups, &packed, &hidden, inverse_temperature, &mut directions);
    let mut total = 0.0;
    let width = model.config.hidden_size;
    for ((target, &logprob), direction) in
        packed.targets.iter().zip(&logprobs).zip(directions.chunks_exact_mut(width))
    {
        let gradient = loss(view(groups, target, logprob)?);
        total += gradient.loss;
        direction.iter_mut().for_each(|x| *x *= gradient.slope);
    }
    let mut sums = [std::mem::take(dr)];
    backward(cpu, model, adapters, &packed.batch, &outputs, &directions, cache, kept, &mut sums);
    [*dr] = sums;
    Ok(total)
}

/// ln p of every completion token, (groups, completions, tokens): a forward pass that keeps nothing.
pub fn completion_logprobs(
    cpu: &Cpu,
    model: &Model,
    adapters: Adapters<'_>,
    groups: &[TrainingGroup],
    inverse_temperature: f32,
    workspace: &mut GradientWorkspace,
) -> Result<Vec<Vec<Vec<f32>>>, GradientError> {
    let shape = |group: &TrainingGroup| vec![Vec::new(); group.completions.len()];
    let mut all: Vec<Vec<Vec<f32>>> = groups.iter().map(shape).collect();
    if groups.is_empty() {
        return Ok(all);
    }
    let packed = pack(groups);
    workspace.make_room(model, packed.blocks);
    let outputs: Vec<u32> = packed.targets.iter().map(|target| target.row).collect();
    let GradientWorkspace { cache, kept } = workspace;
    let hidden = forward(cpu, model, adapters, &packed.batch, &outputs, cache, kept, false);
    let tokens = target_tokens(groups, &packed.targets);
    let statistics = head_statistics(cpu, model.head(), &hidden, inverse_temperature);
    let logits = logits_at(cpu, model.head(), &hidden, &tokens, inverse_temperature);
    let mut logprobs: Vec<f32> =
        logits.iter().zip(&statistics.rows).map(|(logit, row)| logit - row.log_normalizer).collect();
    with_supports(cpu, model, groups, &packed, &hidden, inverse_temperature, &mut logprobs, None);
    for (target, logprob) in packed.targets.iter().zip(logprobs) {
        view(groups, target, logprob)?;
        all[target.group][target.completion].push(logprob);
    }
    Ok(all)
}

fn target_tokens(groups: &[TrainingGroup], targets: &[Target]) -> Vec<u32> {
    targets.iter().map(|t| groups[t.group].completions[t.completion].tokens[t.token]).collect()
}

fn view(groups: &[TrainingGroup], target: &Target, logprob: f32) -> Result<TokenView, GradientError> {
    let completion = &groups[target.group].completions[target.completion];
    if !logprob.is_finite() {
        let Target { group, completion, token, .. } = *target;
        return Err(GradientError::NotFinite { group, completion, token, value: logprob });
    }
    let at = |values: &[f32]| values.get(target.token).copied().unwrap_or(f32::NAN);
    Ok(TokenView {
        at: (target.group, target.completion, target.token),
        length: completion.tokens.len(),
        logprob,
        old: at(&completion.old_logprobs),
        reference: at(&completion.reference_logprobs),
        advantage: completion.advantage,
    })
}

/// ln p of each target, and its gradient with respect to the hidden state.
fn directions_of(
    cpu: &Cpu,
    model: &Model,
    groups: &[TrainingGroup],
    packed: &Packed,
    hidden: &[f32],
    inverse_temperature: f32,
    directions: &mut [f32],
) -> Vec<f32> {
    let head = model.head();
    let tokens = target_tokens(groups, &packed.targets);
    let (statistics, logits) = head_directions(cpu, head, hidden, &tokens, inverse_temperature, directions);
    let mut logprobs: Vec<f32> =
        logits.iter().zip(&statistics.rows).map(|(logit, row)| logit - row.log_normalizer).collect();
    let directions = Some(directions);
    with_supports(cpu, model, groups, packed, hidden, inverse_temperature, &mut logprobs, directions);
    logprobs
}

/// Replaces log-prob and direction of those tokens that were sampled from a part of the vocabulary.
fn with_supports(
    cpu: &Cpu,
    model: &Model,
    groups: &[TrainingGroup],
    packed: &Packed,
    hidden: &[f32],
    inverse_temperature: f32,
    logprobs: &mut [f32],
    directions: Option<&mut [f32]>,
) {
    let (head, width) = (model.head(), model.config.hidden_size);
    let support = |target: &Target| {
        let completion = &groups[target.group].completions[target.completion];
        completion.supports.get(target.token).map(|ids| (ids.as_slice(), completion.tokens[target.token]))
    };
    if packed.targets.iter().all(|target| support(target).is_none()) {
        return;
    }
    let row = |index: usize| &hidden[index * width..][..width];
    for_chunks(cpu, logprobs, 1, |index, out| {
        if let Some((ids, token)) = support(&packed.targets[index]) {
            let logits = support_logits(cpu, head, row(index), ids, inverse_temperature);
            let at = ids.binary_search(&token).expect("a token is in its own support");
            out[0] = logits[at] - support_normalizer(&logits);
        }
    });
    let Some(directions) = directions else { return };
    for_chunks(cpu, directions, width, |start, out| {
        let index = start / width;
        if let Some((ids, token)) = support(&packed.targets[index]) {
            let logits = support_logits(cpu, head, row(index), ids, inverse_temperature);
            let normalizer = support_normalizer(&logits);
            for (column, out) in out.iter_mut().enumerate() {
                let mean = ids.iter().zip(&logits).fold(0.0, |sum, (&id, logit)| {
                    sum + (logit - normalizer).exp() * head.get(id as usize, column)
                });
                *out = (head.get(token as usize, column) - mean) * inverse_temperature;
            }
        }
    });
}

fn support_logits(
    cpu: &Cpu,
    head: &PackedMatrix,
    x: &[f32],
    ids: &[u32],
    inverse_temperature: f32,
) -> Vec<f32> {
    ids.iter().map(|&id| product_at(cpu, head, id as usize, x) * inverse_temperature).collect()
}
