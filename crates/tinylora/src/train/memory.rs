//! What a run will hold in memory, estimated before it starts and kept to the recipe's limit.

use crate::base::TrainedSpec;
use crate::model::MemorySizes;
use crate::model::config::ModelConfig;
use crate::optimizer::{state_bytes, state_bytes_in_place};
use crate::recipe::{Learner, Recipe};
use crate::rollout::Needs;
use serde::{Deserialize, Serialize};
use tinylora_compute::attention::BLOCK_TOKENS;

/// Memory of a run, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MemoryPlan {
    /// What may be used in all.
    pub limit: u64,
    /// Weights, once.
    pub weights: u64,
    /// What is trained, its gradient, the optimizer's state, and older versions that sample.
    #[serde(default)]
    pub trained: u64,
    /// Of these, what another run on the same factors needs for itself.
    #[serde(default)]
    pub own: u64,
    /// Keys and values of sampling.
    pub kv_cache: u64,
    /// Activations, keys and values that training keeps.
    pub activations: u64,
    /// Of these, what sampling keeps for training.
    #[serde(default)]
    pub recorded: u64,
    /// Sequences that are sampled at once.
    pub max_batch: usize,
    /// KV blocks of sixteen tokens.
    pub kv_blocks: usize,
    /// KV blocks without which it cannot go on.
    #[serde(default)]
    pub least_kv_blocks: usize,
    /// Tokens of a training micro-batch.
    pub micro_batch_tokens: usize,
    /// Rows of sampling that are kept for training at most, which then computes no forward pass of its own; 0: none are.
    #[serde(default)]
    pub recorded_rows: usize,
    /// Whether all weights are trained on a GPU that has room for their master copy and the optimizer's state.
    #[serde(default)]
    pub optimizer_on_gpu: bool,
}

impl MemoryPlan {
    /// The run's part of the memory that it shares with others on the same factors.
    pub(super) fn needs(&self) -> Needs {
        let block = self.kv_cache / self.kv_blocks.max(1) as u64;
        let own = self.own.div_ceil(block.max(1)) as usize;
        Needs { blocks: self.kv_blocks, least: self.least_kv_blocks, own }
    }

    /// Where sampling keeps nothing for training.
    pub(super) fn without_recording(self) -> Self {
        Self { activations: self.activations - self.recorded, recorded: 0, recorded_rows: 0, ..self }
    }

    /// The sum.
    pub fn total(&self) -> u64 {
        self.weights + self.trained + self.kv_cache + self.activations
    }
}

/// The recipe does not fit.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// Where the model computes.
    #[error("{}", .0.message())]
    Device(Lack),
    /// On the host beside a GPU, where all weights are trained.
    #[error(
        "training all weights on a GPU keeps in the host's memory the f32 master weights ({}), their gradient ({}), the \
         optimizer's state ({}) and older weights that sample ({}), but only {} of it may be used. Take optimizer.kind = \
         \"sgd\", lower rollout.staleness, take a smaller model, or train an adapter (adapter.kind = \"tinylora\")",
        gib(.parts.master),
        gib(.parts.gradient),
        gib(.parts.optimizer),
        gib(.parts.older),
        gib(*.limit)
    )]
    Host {
        /// What is kept.
        parts: FullParts,
        /// Bytes that may be used.
        limit: u64,
    },
}

/// What is needed at least where the model computes, in bytes.
#[derive(Debug)]
pub struct Lack {
    needed: u64,
    weights: u64,
    trained: u64,
    /// What `trained` is made of, where that is all weights.
    full: Option<FullParts>,
    kv: u64,
    activations: u64,
    limit: u64,
}

/// Memory of all weights in training, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct FullParts {
    master: u64,
    gradient: u64,
    optimizer: u64,
    packed: u64,
    older: u64,
    /// On a GPU, beside which the host has all but the packed weights and the gradient; where there is room, the GPU has the
    /// master copy and the optimizer's state, too.
    on_gpu: bool,
}

impl FullParts {
    /// Beside the base where the model computes.
    fn beside(&self) -> u64 {
        self.packed + self.gradient + if self.on_gpu { 0 } else { self.kept() }
    }

    /// Of the numbers themselves, apart from their gradient.
    fn kept(&self) -> u64 {
        self.master + self.optimizer + self.older
    }
}

fn gib(bytes: u64) -> String {
    format!("{:.2} GiB", bytes as f64 / (1u64 << 30) as f64)
}

impl Lack {
    fn message(&self) -> String {
        let Self { needed, weights, trained, full, kv, activations, limit } = self;
        let Some(parts) = full else {
            return format!(
                "the run needs at least {needed} bytes ({weights} for the weights, {trained} for what is trained and \
                 its optimizer, {kv} for one group's keys and values, {activations} for the activations of one \
                 sequence), but model.memory allows {limit}; raise it, or lower rollout.max_tokens, \
                 rollout.samples_per_prompt or adapter.rank, or take a smaller model"
            );
        };
        let [needed, weights, kv, activations, limit] =
            [needed, weights, kv, activations, limit].map(|x| gib(*x));
        if parts.on_gpu {
            return format!(
                "training all weights needs at least {needed} of a GPU's memory: base {weights}, copy that is trained {}, \
                 gradient {}, one group's keys and values {kv}, activations of one sequence {activations}; but {limit} may \
                 be used (model.memory, TINYLORA_GPU_MEMORY). Lower rollout.max_tokens or rollout.samples_per_prompt, \
                 take a smaller model, or train an adapter (adapter.kind = \"tinylora\")",
                gib(parts.packed),
                gib(parts.gradient),
            );
        }
        let older = match parts.older {
            0 => String::new(),
            older => format!("older weights that sample {}, ", gib(older)),
        };
        format!(
            "training all weights needs at least {needed}: base {weights}, packed copy that is trained {}, f32 master \
             weights {}, gradient {}, optimizer {}, {older}one group's keys and values {kv}, activations of one sequence \
             {activations}; but model.memory allows {limit}. Raise it; or take optimizer.kind = \"sgd\", lower rollout.max_tokens, \
             rollout.samples_per_prompt or rollout.staleness, take a smaller model, or train an adapter \
             (adapter.kind = \"tinylora\")",
            gib(parts.packed),
            gib(parts.master),
            gib(parts.gradient),
            gib(parts.optimizer),
        )
    }
}

/// Shares the memory out beside `weights` bytes of weights, where the model computes. `longest_prompt` is in tokens.
pub(super) fn plan(
    (sizes, config): (MemorySizes, &ModelConfig),
    weights: u64,
    spec: &TrainedSpec,
    recipe: &Recipe,
    longest_prompt: usize,
) -> Result<MemoryPlan, MemoryError> {
    let limit = match recipe.model.memory {
        0 => sizes.limit,
        bytes => bytes,
    };
    let MemorySizes { block, per_token, .. } = sizes;
    let (packed, weights) = (weights, weights + sizes.fixed);
    let new = recipe.rollout.max_tokens.max(recipe.eval.max_tokens);
    let samples = recipe.rollout.samples_per_prompt.max(recipe.eval.samples);
    let (prompt_blocks, new_blocks) = (longest_prompt.div_ceil(BLOCK_TOKENS) + 1, new.div_ceil(BLOCK_TOKENS));
    let one_group = prompt_blocks + samples * new_blocks;
    let one_sequence = longest_prompt + new;
    let (kv, activations) = (one_group as u64 * block, one_sequence as u64 * per_token);
    let numbers = spec.trainable_parameters();
    let older = 4 * numbers as u64 * recipe.rollout.staleness as u64;
    let full = matches!(spec, TrainedSpec::Full(_)).then(|| FullParts {
        master: 4 * numbers as u64,
        gradient: 4 * numbers as u64,
        optimizer: state_bytes_in_place(recipe.optimizer.kind, numbers),
        packed,
        older,
        on_gpu: sizes.host.is_some(),
    });
    if let (Some(parts), Some(limit)) = (full, sizes.host)
        && parts.kept() + parts.gradient > limit
    {
        return Err(MemoryError::Host { parts, limit });
    }
    // Where a quarter of the memory is left for keys, values and activations, the optimizer computes there.
    let optimizer_on_gpu = full.is_some_and(|parts| {
        parts.on_gpu
            && weights + parts.beside() + parts.master + parts.optimizer + kv + activations <= limit / 4 * 3
    });
    let trained = match &full {
        Some(parts) if optimizer_on_gpu => parts.beside() + parts.master + parts.optimizer,
        Some(parts) => parts.beside(),
        None => spec.bytes_in_training(config) + state_bytes(recipe.optimizer.kind, numbers) + older,
    };
    let needed = weights + trained + kv + activations;
    if needed > limit {
        return Err(MemoryError::Device(Lack { needed, weights, trained, full, kv, activations, limit }));
    }
    let max_batch = match recipe.rollout.max_batch {
        0 => sizes.max_batch,
        batch => batch,
    };
    // All running sequences, each with a prompt of its own.
    let wanted_blocks = (max_batch + samples) * (new_blocks + prompt_blocks);
    let tokens = sizes.micro_batch_tokens.max(one_sequence) as u64;
    let spare = limit - needed;
    let extra_tokens = (spare / 2 / per_token).min(tokens - one_sequence as u64);
    let left = spare - extra_tokens * per_token;
    let blocks = (one_group as u64 + left / block).min(wanted_blocks.max(one_group) as u64);
    let micro_batch_tokens = one_sequence + extra_tokens as usize;
    let kept = micro_batch_tokens as u64 * per_token;
    let left = limit - weights - trained - blocks * block - kept;
    let recorded_rows = recorded_rows(recipe, sizes.recorded_row, one_sequence - new, left);
    let recorded = recorded_rows as u64 * sizes.recorded_row;
    Ok(MemoryPlan {
        limit,
        weights,
        trained,
        own: trained - spec.shared_bytes(config),
        kv_cache: blocks * block,
        activations: kept + recorded,
        recorded,
        recorded_rows,
        max_batch,
        kv_blocks: blocks as usize,
        least_kv_blocks: one_group,
        micro_batch_tokens,
        optimizer_on_gpu,
    })
}

/// Rows that a step samples at most, if half of them fit: without the later rows of its sequences, the earlier ones are of no
/// use. None where the policy that trains is not the one that sampled.
fn recorded_rows(recipe: &Recipe, row: u64, longest_prompt: usize, left: u64) -> usize {
    let rollout = &recipe.rollout;
    if row == 0 || recipe.learner != Learner::Grpo || rollout.staleness > 0 {
        return 0;
    }
    let group = longest_prompt + rollout.samples_per_prompt * rollout.max_tokens;
    let wanted = group * rollout.prompts_per_step * (1 + rollout.refill_rounds);
    let rows = wanted.min((left / row) as usize);
    if rows < wanted / 2 { 0 } else { rows }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    const MIB: u64 = 1 << 20;

    /// The plan of all weights (a million) with AdamW on a GPU that has so much memory, beside a host that has so much.
    fn on_gpu(limit: u64, host: u64) -> Result<MemoryPlan, MemoryError> {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/models/llama2/config.json");
        let config = ModelConfig::from_config_file(&file).expect("a config");
        let sizes = MemorySizes {
            limit,
            host: Some(host),
            block: 1000,
            per_token: 1000,
            recorded_row: 0,
            fixed: 0,
            max_batch: 4,
            micro_batch_tokens: 100,
        };
        let text = "name = \"m\"\n[model]\nref = \"m\"\n[adapter]\nkind = \"full\"\n[task]\nkind = \"arithmetic\"\nproblems = \"sum\"\n[rollout]\nmax_tokens = 16\n[train]\nsteps = 1\n";
        let recipe = Recipe::from_toml(text, &[]).expect("a recipe");
        plan((sizes, &config), 2_000_000, &TrainedSpec::Full(1_000_000), &recipe, 32)
    }

    #[test]
    fn all_weights_on_a_gpu_take_its_memory_and_the_hosts() {
        // 20 bytes a weight with the optimizer, of which three quarters of the memory must have room; else 8.
        let plan = on_gpu(30 * MIB, 100 * MIB).expect("there is room");
        assert!(plan.optimizer_on_gpu && plan.trained == 18_000_000, "{plan:?}");
        let plan = on_gpu(20 * MIB, 100 * MIB).expect("there is room");
        assert!(!plan.optimizer_on_gpu && plan.trained == 6_000_000, "{plan:?}");
        let error = on_gpu(7 * MIB, 100 * MIB).expect_err("no room on the GPU");
        assert!(matches!(error, MemoryError::Device(_)), "{error}");
        assert!(error.to_string().contains("of a GPU's memory: base 0.00 GiB"), "{error}");
        // 16 bytes a weight beside it.
        assert!(on_gpu(30 * MIB, 16_000_000).is_ok());
        let error = on_gpu(30 * MIB, 15_999_999).expect_err("no room on the host");
        assert!(matches!(error, MemoryError::Host { limit: 15_999_999, .. }), "{error}");
        assert!(error.to_string().contains("keeps in the host's memory"), "{error}");
    }

    #[test]
    fn sampling_is_kept_where_memory_has_room_for_half_of_a_step() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/models/llama2/config.json");
        let config = ModelConfig::from_config_file(&file).expect("a config");
        let plan_of = |limit: u64, more: &[&str]| {
            let more: Vec<String> = more.iter().map(ToString::to_string).collect();
            let text = "name = \"m\"\n[model]\nref = \"m\"\n[task]\nkind = \"arithmetic\"\nproblems = \"sum\"\n[rollout]\nprompts_per_step = 4\nsamples_per_prompt = 8\nmax_tokens = 16\nmax_batch = 4\n[train]\nsteps = 1\n";
            let recipe = Recipe::from_toml(text, &more).expect("a recipe");
            let spec = TrainedSpec::new(&recipe.adapter, &config).expect("an adapter");
            let sizes = MemorySizes {
                limit,
                host: None,
                block: 1000,
                per_token: 1000,
                recorded_row: 10_000,
                fixed: 0,
                max_batch: 4,
                micro_batch_tokens: 100,
            };
            plan((sizes, &config), 1000, &spec, &recipe, 32).expect("it fits")
        };
        let rows = 4 * (32 + 8 * 16);
        let all = plan_of(20 * MIB, &[]);
        assert_eq!((all.recorded_rows, all.recorded), (rows, 10_000 * rows as u64), "{all:?}");
        assert_eq!(all.activations, all.recorded + 100_000);
        let alone = all.without_recording();
        assert_eq!((alone.recorded_rows, alone.total()), (0, all.total() - all.recorded));
        // Part of it, and not enough to be of use.
        let some = plan_of(all.total() - 1_000_000, &[]);
        assert!(some.recorded_rows == rows - 100 && some.total() <= some.limit, "{some:?}");
        assert_eq!(plan_of(all.total() - 4_000_000, &[]).recorded_rows, 0);
        for other in ["rollout.staleness=1", "learner=sft"] {
            assert_eq!(plan_of(20 * MIB, &[other]).recorded_rows, 0, "{other}");
        }
    }
}
