//! The training pass: forward with everything kept, the head's log-probs and their gradients in one go, the
//! loss's slopes, and backward into the gradients of what is trained. A micro-batch holds whole completions, so a loss may look at all tokens of
//! one before it says what the slope of any of them is.

use super::pack::{Packed, Target, TrainingCompletion, TrainingGroup, pack};
use crate::inference::support_normalizer;
use crate::model::{
    DeviceError, Directions, GpuWeightSums, Gradients, HEAD, Hidden, Keep, KeptActivations, KvCache, Model,
    Policy, Recording, WeightSums, backward, forward,
};
use tinylora_compute::head::{
    Distribution, HeadStatistics, head_directions, head_directions_and_entropies, head_statistics, logits_at,
};
use tinylora_compute::head_weights::{HeadSlopes, add_head_weight_gradient};
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

/// What a loss sees of one completion of n tokens; where only some are learned, of those alone.
#[derive(Debug, Clone, Copy)]
pub struct CompletionView<'a> {
    /// Index of the group, and of the completion in it.
    pub at: (usize, usize),
    /// Log-probs when it was sampled and under the base, advantage, weights.
    pub sample: &'a TrainingCompletion,
    /// ln p now (n).
    pub logprobs: &'a [f32],
    /// Entropy of the distribution that each token is drawn from, in nats (n).
    pub entropies: &'a [f32],
}

/// A loss's value and slopes for one completion.
#[derive(Debug, Clone, Default)]
pub struct CompletionGradient {
    /// The completion's part of the loss.
    pub loss: f64,
    /// ∂loss / ∂ ln p (n)
    pub slopes: Vec<f32>,
    /// ∂loss / ∂ entropy, the same for every token; only 0 where no gradient of the entropy was asked for.
    pub entropy_slope: f32,
}

/// Why there is no gradient.
#[derive(Debug, thiserror::Error)]
pub enum GradientError {
    /// The GPU failed, or has no memory.
    #[error(transparent)]
    Device(#[from] DeviceError),
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

/// Buffers of the training pass, used again from batch to batch; they grow with the first one.
#[derive(Default)]
pub struct GradientWorkspace {
    pub(super) cache: KvCache,
    pub(super) kept: KeptActivations,
    /// Of further devices that the model lies on.
    pub(super) others: Vec<GradientWorkspace>,
    /// What sampling computed with the policy of the passes that come: batches of rows that are all in it have no forward pass of
    /// their own. Whoever changes the policy takes it out.
    pub recording: Option<Recording>,
}

impl GradientWorkspace {
    pub(super) fn make_room(&mut self, cpu: &Cpu, model: &Model, blocks: usize) {
        if !self.cache.fits(cpu, model, blocks) {
            self.cache = KvCache::new(cpu, model, blocks);
        }
    }
}

/// Adds the gradient of `Σ loss(token)` over all completion tokens of `groups` to `sums`,
/// with the first adapter of the policy. Log-probs are at 1/`inverse_temperature`, over each token's support. Gives the loss.
pub fn accumulate(
    cpu: &Cpu,
    policy: Policy<'_>,
    groups: &[TrainingGroup],
    inverse_temperature: f32,
    loss: &mut dyn FnMut(TokenView) -> TokenGradient,
    workspace: &mut GradientWorkspace,
    sums: &mut Gradients,
) -> Result<f64, GradientError> {
    let mut of_completion = |view: CompletionView<'_>| {
        let mut gradient = CompletionGradient::default();
        for (token, &logprob) in view.logprobs.iter().enumerate() {
            let at = |values: &[f32]| values.get(token).copied().unwrap_or(f32::NAN);
            let part = loss(TokenView {
                at: (view.at.0, view.at.1, token),
                length: view.logprobs.len(),
                logprob,
                old: at(&view.sample.old_logprobs),
                reference: at(&view.sample.reference_logprobs),
                advantage: view.sample.advantage,
            });
            gradient.loss += part.loss;
            gradient.slopes.push(part.slope);
        }
        gradient
    };
    let settings = (inverse_temperature, false);
    accumulate_completions(cpu, policy, groups, settings, &mut of_completion, workspace, sums)
}

/// The same for a loss that is a sum over completions, `Σ loss(completion)`; and with `entropies` true, one that rewards
/// the entropy.
pub fn accumulate_completions(
    cpu: &Cpu,
    policy: Policy<'_>,
    groups: &[TrainingGroup],
    (inverse_temperature, entropies): (f32, bool),
    loss: &mut dyn FnMut(CompletionView<'_>) -> CompletionGradient,
    workspace: &mut GradientWorkspace,
    sums: &mut Gradients,
) -> Result<f64, GradientError> {
    if groups.is_empty() {
        return Ok(0.0);
    }
    let (packed, model) = (pack(groups), policy.model);
    workspace.make_room(cpu, model, packed.blocks);
    let outputs: Vec<u32> = packed.targets.iter().map(|target| target.row).collect();
    let GradientWorkspace { cache, kept, recording, .. } = workspace;
    let recorded = recording
        .as_ref()
        .and_then(|recording| Some((recording, recording.find(&packed.batch, &packed.before)?)));
    let hidden = match &recorded {
        Some((recording, rows)) => recording.recall(cpu, model, (&packed.batch, rows), &outputs, cache, kept),
        None => forward(cpu, policy, &packed.batch, &outputs, cache, kept, Keep::Everything)?,
    };
    let mut head = HeadPass::new(cpu, model, groups, &packed, &hidden, inverse_temperature, entropies)?;
    check_finite(&packed.targets, &head.logprobs)?;
    let total = head.apply(groups, &packed.targets, loss)?;
    if matches!(sums, Gradients::Weights(_) | Gradients::GpuWeights(_)) {
        let supports = Supports::new(cpu, model, groups, &packed, &hidden, inverse_temperature)?;
        match &mut *sums {
            Gradients::Weights(weights) => head.add_weight_gradient(&supports, weights),
            Gradients::GpuWeights(weights) => head.add_gpu_weight_gradient(&supports, &hidden, weights)?,
            Gradients::R(_) | Gradients::Factors(_) => {}
        }
    }
    backward(cpu, policy, &packed.batch, &outputs, &head.directions, cache, kept, sums)?;
    Ok(total)
}

/// ln p of every completion token, (groups, completions, tokens): a forward pass that keeps nothing.
pub fn completion_logprobs(
    cpu: &Cpu,
    policy: Policy<'_>,
    groups: &[TrainingGroup],
    inverse_temperature: f32,
    workspace: &mut GradientWorkspace,
) -> Result<Vec<Vec<Vec<f32>>>, GradientError> {
    let shape = |group: &TrainingGroup| vec![Vec::new(); group.completions.len()];
    let mut all: Vec<Vec<Vec<f32>>> = groups.iter().map(shape).collect();
    if groups.is_empty() {
        return Ok(all);
    }
    let (packed, model) = (pack(groups), policy.model);
    workspace.make_room(cpu, model, packed.blocks);
    let outputs: Vec<u32> = packed.targets.iter().map(|target| target.row).collect();
    let GradientWorkspace { cache, kept, .. } = workspace;
    let hidden = forward(cpu, policy, &packed.batch, &outputs, cache, kept, Keep::Nothing)?;
    let tokens = target_tokens(groups, &packed.targets);
    let mut logprobs: Vec<f32> = match hidden.host() {
        Some(hidden) => {
            let statistics = head_statistics(cpu, model.head(), hidden, inverse_temperature);
            let logits = logits_at(cpu, model.head(), hidden, &tokens, inverse_temperature);
            let rows = logits.iter().zip(statistics.rows.iter());
            rows.map(|(logit, row)| logit - row.log_normalizer).collect()
        }
        None => model.logprobs(&hidden, &tokens, inverse_temperature)?,
    };
    let supports = Supports::new(cpu, model, groups, &packed, &hidden, inverse_temperature)?;
    supports.replace(&mut logprobs, |logits, at| logits[at] - support_normalizer(logits));
    check_finite(&packed.targets, &logprobs)?;
    for (target, logprob) in packed.targets.iter().zip(logprobs) {
        all[target.group][target.completion].push(logprob);
    }
    Ok(all)
}

fn target_tokens(groups: &[TrainingGroup], targets: &[Target]) -> Vec<u32> {
    targets.iter().map(|t| groups[t.group].completions[t.completion].tokens[t.token]).collect()
}

pub(super) fn check_finite(targets: &[Target], logprobs: &[f32]) -> Result<(), GradientError> {
    match targets.iter().zip(logprobs).find(|(_, logprob)| !logprob.is_finite()) {
        None => Ok(()),
        Some((&Target { group, completion, token, .. }, &value)) => {
            Err(GradientError::NotFinite { group, completion, token, value })
        }
    }
}

/// What the head gives for N targets.
pub(super) struct HeadPass {
    /// ln p (N)
    pub logprobs: Vec<f32>,
    /// (N)
    entropies: Vec<f32>,
    /// ∂ ln p / ∂ hidden (N, D), and of the entropies where they were asked for.
    pub directions: Directions,
    /// Of the whole vocabulary (N); empty where the model is on a GPU.
    distributions: Vec<Distribution>,
    /// ∂ loss / ∂ ln p and / ∂ entropy (N), after `apply`.
    slopes: (Vec<f32>, Vec<f32>),
}

impl HeadPass {
    pub fn new(
        cpu: &Cpu,
        model: &Model,
        groups: &[TrainingGroup],
        packed: &Packed,
        hidden: &Hidden,
        inverse_temperature: f32,
        entropies: bool,
    ) -> Result<Self, DeviceError> {
        let tokens = target_tokens(groups, &packed.targets);
        let mut pass = match hidden.host() {
            Some(hidden) => Self::on_host(cpu, model, hidden, &tokens, inverse_temperature, entropies),
            None => {
                let (logprobs, entropies, directions) =
                    model.directions(hidden, &tokens, inverse_temperature, entropies)?;
                let (distributions, slopes) = Default::default();
                Self { logprobs, entropies, directions, distributions, slopes }
            }
        };
        let supports = Supports::new(cpu, model, groups, packed, hidden, inverse_temperature)?;
        supports.replace(&mut pass.logprobs, |logits, at| logits[at] - support_normalizer(logits));
        supports.replace(&mut pass.entropies, |logits, _| support_entropy(logits));
        supports.replace_directions(&mut pass.directions, false, |p, at, weights| {
            weights.extend(p.iter().enumerate().map(|(i, p)| f32::from(i == at) - p));
        })?;
        supports.replace_directions(&mut pass.directions, true, |p, _, weights| {
            let entropy: f32 = p.iter().map(|p| if *p > 0.0 { -p * p.ln() } else { 0.0 }).sum();
            weights.extend(p.iter().map(|&p| if p > 0.0 { -p * (p.ln() + entropy) } else { 0.0 }));
        })?;
        Ok(pass)
    }

    fn on_host(
        cpu: &Cpu,
        model: &Model,
        hidden: &[f32],
        tokens: &[u32],
        inverse_temperature: f32,
        entropies: bool,
    ) -> Self {
        let head = model.head();
        let mut log = vec![0.0; hidden.len()];
        let mut entropy = vec![0.0; if entropies { hidden.len() } else { 0 }];
        let (statistics, logits): (HeadStatistics, Vec<f32>) = match entropies {
            false => head_directions(cpu, head, hidden, tokens, inverse_temperature, &mut log),
            true => head_directions_and_entropies(
                cpu,
                head,
                hidden,
                tokens,
                inverse_temperature,
                &mut log,
                &mut entropy,
            ),
        };
        let rows = logits.iter().zip(statistics.rows.iter());
        Self {
            logprobs: rows.map(|(logit, row)| logit - row.log_normalizer).collect(),
            entropies: statistics.rows.iter().map(|row| row.entropy).collect(),
            directions: Directions::Host { width: model.config.hidden_size, log, entropy },
            distributions: statistics.rows.to_vec(),
            slopes: (Vec::new(), Vec::new()),
        }
    }

    /// Turns the directions into the loss's gradient; gives the loss. A completion's targets stand together.
    fn apply(
        &mut self,
        groups: &[TrainingGroup],
        targets: &[Target],
        loss: &mut dyn FnMut(CompletionView<'_>) -> CompletionGradient,
    ) -> Result<f64, DeviceError> {
        let (mut total, mut first) = (0.0, 0);
        while let Some(target) = targets.get(first) {
            let at = (target.group, target.completion);
            let sample = &groups[at.0].completions[at.1];
            let of_completion = first..first + sample.learned().count();
            let view = CompletionView {
                at,
                sample,
                logprobs: &self.logprobs[of_completion.clone()],
                entropies: &self.entropies[of_completion.clone()],
            };
            let gradient = loss(view);
            assert_eq!(gradient.slopes.len(), of_completion.len(), "a slope for each token");
            assert!(gradient.entropy_slope == 0.0 || self.directions.has_entropies(), "not asked for");
            total += gradient.loss;
            self.slopes.1.extend(gradient.slopes.iter().map(|_| gradient.entropy_slope));
            self.slopes.0.extend(gradient.slopes);
            first = of_completion.end;
        }
        self.directions.combine(&self.slopes.0, &self.slopes.1)?;
        Ok(total)
    }
}

/// Rows whose logits over the whole vocabulary are fetched from a GPU at once.
const FETCHED_ROWS: usize = 16;

impl HeadPass {
    /// The gradient of the head's matrix, after `apply`. Rows with a support of their own are handled one by one.
    fn add_weight_gradient(&self, supports: &Supports<'_>, weights: &mut WeightSums) {
        let Supports { cpu, model, groups, packed, hidden, inverse_temperature, .. } = *supports;
        let width = model.config.hidden_size;
        let targets = target_tokens(groups, &packed.targets);
        let (mut slopes, mut entropies) = self.slopes.clone();
        let sums = weights.of(HEAD);
        for index in 0..targets.len() {
            let Some((ids, at)) = supports.of(index) else { continue };
            let of_row = (slopes[index], entropies[index]);
            (slopes[index], entropies[index]) = (0.0, 0.0);
            let row = &hidden[index * width..][..width];
            for (id, weight) in supports.head_weights(index, (ids, at), of_row) {
                let sums = &mut sums[id as usize * width..][..width];
                sums.iter_mut().zip(row).for_each(|(sum, x)| *sum = weight.mul_add(*x, *sum));
            }
        }
        let slopes = HeadSlopes { targets: &targets, logprobs: &slopes, entropies: &entropies };
        let rows = &self.distributions;
        add_head_weight_gradient(cpu, model.head(), hidden, rows, slopes, inverse_temperature, sums);
    }

    /// The same on a GPU.
    fn add_gpu_weight_gradient(
        &self,
        supports: &Supports<'_>,
        hidden: &Hidden,
        weights: &GpuWeightSums,
    ) -> Result<(), DeviceError> {
        let (model, vocabulary) = (supports.model, supports.model.config.vocab_size);
        let (mut slopes, mut entropies) = self.slopes.clone();
        for rows in supports.indices().chunks(FETCHED_ROWS) {
            let mut dense = vec![0f32; rows.len() * vocabulary];
            for (&index, dense) in rows.iter().zip(dense.chunks_exact_mut(vocabulary)) {
                let support = supports.of(index).expect("one with a support");
                let of_row = (slopes[index], entropies[index]);
                (slopes[index], entropies[index]) = (0.0, 0.0);
                for (id, weight) in supports.head_weights(index, support, of_row) {
                    dense[id as usize] = weight;
                }
            }
            weights.add_head_weights(model, &hidden.pick(rows), &dense)?;
        }
        weights.add_head(model, &self.directions, (&slopes, &entropies))
    }
}

/// Those tokens that were sampled from a part of the vocabulary.
struct Supports<'a> {
    cpu: &'a Cpu,
    model: &'a Model,
    groups: &'a [TrainingGroup],
    packed: &'a Packed,
    /// Empty where they are on a GPU.
    hidden: &'a [f32],
    inverse_temperature: f32,
    /// From a GPU: each support's logits (N).
    fetched: Option<Vec<Vec<f32>>>,
}

impl<'a> Supports<'a> {
    fn new(
        cpu: &'a Cpu,
        model: &'a Model,
        groups: &'a [TrainingGroup],
        packed: &'a Packed,
        hidden: &'a Hidden,
        inverse_temperature: f32,
    ) -> Result<Self, DeviceError> {
        let values = hidden.host().unwrap_or_default();
        let mut supports =
            Self { cpu, model, groups, packed, hidden: values, inverse_temperature, fetched: None };
        if hidden.host().is_none() {
            let mut fetched = vec![Vec::new(); packed.targets.len()];
            for rows in supports.indices().chunks(FETCHED_ROWS) {
                let logits = model.logits(&hidden.pick(rows), inverse_temperature)?;
                for (&index, logits) in rows.iter().zip(logits.chunks_exact(model.config.vocab_size)) {
                    let (ids, _) = supports.of(index).expect("one with a support");
                    fetched[index] = ids.iter().map(|&id| logits[id as usize]).collect();
                }
            }
            supports.fetched = Some(fetched);
        }
        Ok(supports)
    }

    /// The targets that have a support.
    fn indices(&self) -> Vec<usize> {
        (0..self.packed.targets.len()).filter(|&index| self.of(index).is_some()).collect()
    }

    /// A target's support, and the place of its token in it.
    fn of(&self, index: usize) -> Option<(&'a [u32], usize)> {
        let target = &self.packed.targets[index];
        let completion = &self.groups[target.group].completions[target.completion];
        let ids = completion.supports.get(target.token)?;
        let at = ids.binary_search(&completion.tokens[target.token]);
        Some((ids, at.expect("a token is in its own support")))
    }

    fn any(&self) -> bool {
        (0..self.packed.targets.len()).any(|index| self.of(index).is_some())
    }

    fn logits(&self, index: usize, ids: &[u32]) -> Vec<f32> {
        if let Some(fetched) = &self.fetched {
            return fetched[index].clone();
        }
        let width = self.model.config.hidden_size;
        let row = &self.hidden[index * width..][..width];
        support_logits(self.cpu, self.model.head(), row, ids, self.inverse_temperature)
    }

    /// Ids of a target's support with what the target's hidden state weighs in the gradients of their rows of the head's
    /// matrix, for a loss with these slopes by log-prob and entropy.
    fn head_weights(
        &self,
        index: usize,
        (ids, at): (&'a [u32], usize),
        (slope, entropy_slope): (f32, f32),
    ) -> impl Iterator<Item = (u32, f32)> + 'a {
        let logits = self.logits(index, ids);
        let (normalizer, entropy) = (support_normalizer(&logits), support_entropy(&logits));
        let inverse_temperature = self.inverse_temperature;
        ids.iter().zip(logits).enumerate().map(move |(place, (&id, logit))| {
            let (logp, one) = (logit - normalizer, f32::from(place == at));
            let weight = slope * (one - logp.exp()) - entropy_slope * logp.exp() * (logp + entropy);
            (id, weight * inverse_temperature)
        })
    }

    /// Replaces the number of each such token (N) by what `value` makes of its support's logits.
    fn replace(&self, numbers: &mut [f32], value: impl Fn(&[f32], usize) -> f32 + Sync) {
        if !self.any() {
            return;
        }
        for_chunks(self.cpu, numbers, 1, |index, out| {
            if let Some((ids, at)) = self.of(index) {
                out[0] = value(&self.logits(index, ids), at);
            }
        });
    }

    /// Replaces the direction of each such token (N, D), of its log-prob or with `entropies` of its entropy (unless there are
    /// none), by Σ weight · embedding over the support; `weigh` makes the weights of its probabilities.
    fn replace_directions(
        &self,
        directions: &mut Directions,
        entropies: bool,
        weigh: impl Fn(&[f32], usize, &mut Vec<f32>) + Sync,
    ) -> Result<(), DeviceError> {
        if !self.any() || (entropies && !directions.has_entropies()) {
            return Ok(());
        }
        let weights_of = |index: usize, ids: &[u32], at: usize| {
            let logits = self.logits(index, ids);
            let normalizer = support_normalizer(&logits);
            let p: Vec<f32> = logits.iter().map(|logit| (logit - normalizer).exp()).collect();
            let mut weights = Vec::with_capacity(ids.len());
            weigh(&p, at, &mut weights);
            weights
        };
        let Directions::Host { log, entropy, width } = directions else {
            let vocabulary = self.model.config.vocab_size;
            for rows in self.indices().chunks(FETCHED_ROWS) {
                let mut dense = vec![0f32; rows.len() * vocabulary];
                for (&index, dense) in rows.iter().zip(dense.chunks_exact_mut(vocabulary)) {
                    let (ids, at) = self.of(index).expect("one with a support");
                    let weights = weights_of(index, ids, at);
                    ids.iter().zip(weights).for_each(|(&id, weight)| dense[id as usize] = weight);
                }
                let inverse_temperature = self.inverse_temperature;
                directions.replace(self.model, entropies, rows, &mut dense, inverse_temperature)?;
            }
            return Ok(());
        };
        let (head, width) = (self.model.head(), *width);
        for_chunks(self.cpu, if entropies { entropy } else { log }, width, |start, out| {
            let index = start / width;
            let Some((ids, at)) = self.of(index) else { return };
            let weights = weights_of(index, ids, at);
            for (column, out) in out.iter_mut().enumerate() {
                let sum = ids
                    .iter()
                    .zip(&weights)
                    .fold(0.0, |sum, (&id, weight)| sum + weight * head.get(id as usize, column));
                *out = sum * self.inverse_temperature;
            }
        });
        Ok(())
    }
}

fn support_entropy(logits: &[f32]) -> f32 {
    let normalizer = support_normalizer(logits);
    logits.iter().map(|logit| -(logit - normalizer).exp() * (logit - normalizer)).sum()
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
