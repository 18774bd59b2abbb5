//! The work of a measurement, and how much arithmetic and memory traffic it is at least.

use super::{BenchError, timed};
use crate::gradient::{
    GradientWorkspace, TokenGradient, TrainingCompletion, TrainingGroup, accumulate, micro_batches,
};
use crate::inference::{Engine, GenerateOptions, Request, Sampling, Stop};
use crate::model::{
    Adapters, Gradients, KvCache, MemorySizes, Model, ModuleFactors, ModuleKind, Policy, R, SideFactors,
    kv_precision,
};
use crate::random::{Purpose, Stream};
use std::sync::atomic::AtomicBool;
use tinylora_compute::Cpu;
use tinylora_compute::attention::BLOCK_TOKENS;

/// Rank of the random adapter: the paper's.
const RANK: usize = 2;

/// Arithmetic and traffic that no implementation could do without.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cost {
    pub flops: f64,
    pub bytes: f64,
}

impl std::ops::Add for Cost {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self { flops: self.flops + other.flops, bytes: self.bytes + other.bytes }
    }
}

/// Parameters of the linear layers, and of the head.
fn matrices(model: &Model) -> (f64, f64) {
    let config = &model.config;
    let block: usize = ModuleKind::ALL.iter().map(|kind| kind.shape(config)).map(|(n, k)| n * k).sum();
    ((block * config.num_layers) as f64, (config.vocab_size * config.hidden_size) as f64)
}

/// FLOPs of one token's attention to so many others: scores and mixture.
fn attention(model: &Model, context: f64) -> f64 {
    let config = &model.config;
    4.0 * (config.num_layers * config.num_heads * config.head_dim) as f64 * context
}

impl Cost {
    pub(super) fn decode(cpu: &Cpu, model: &Model, batch: usize, prompt: usize, new: usize) -> Self {
        let (linear, head) = matrices(model);
        let config = &model.config;
        let context = prompt as f64 + new as f64 / 2.0;
        let tokens = (batch * new) as f64;
        let kv =
            KvCache::block_bytes(config, kv_precision(cpu, model.precision())) as f64 / BLOCK_TOKENS as f64;
        Self {
            flops: tokens * (2.0 * (linear + head) + attention(model, context)),
            bytes: new as f64 * model.bytes() as f64 + tokens * kv * context,
        }
    }

    pub(super) fn prefill(model: &Model, batch: usize, length: usize) -> Self {
        let (linear, head) = matrices(model);
        let tokens = (batch * length) as f64;
        let flops =
            tokens * (2.0 * linear + attention(model, length as f64 / 2.0)) + batch as f64 * 2.0 * head;
        Self { flops, bytes: model.bytes() as f64 }
    }

    /// Prompts once, `samples` completions each; the backward pass has no gradients of weights.
    pub(super) fn train(model: &Model, prompts: usize, prompt: usize, new: usize, samples: usize) -> Self {
        let (linear, head) = matrices(model);
        let completions = (prompts * samples * new) as f64;
        let tokens = completions + (prompts * prompt) as f64;
        let context = prompt as f64 + new as f64 / 2.0;
        // Attention backward: scores again, and the gradients of mixture, probabilities, queries and keys.
        let flops = tokens * (4.0 * linear + 3.5 * attention(model, context)) + completions * 4.0 * head;
        Self { flops, bytes: 2.0 * model.bytes() as f64 }
    }
}

/// A model with a random adapter, an engine, and the buffers of training.
pub(super) struct Bench<'a> {
    cpu: &'a Cpu,
    model: &'a Model,
    factors: SideFactors,
    r: [R; 1],
    workspace: GradientWorkspace,
    /// The engine, and its number of KV blocks.
    engine: Option<(Engine<'a>, usize)>,
    /// Counts calls, so that no two have the same tokens.
    calls: u64,
}

/// Completions go on to their largest length.
struct Never;

impl Stop for Never {
    fn is_end(&self, _: usize, _: &[u32]) -> bool {
        false
    }
}

impl<'a> Bench<'a> {
    pub(super) fn new(cpu: &'a Cpu, model: &'a Model) -> Result<Self, BenchError> {
        let stream = Stream::new(0, Purpose::Sampling, u64::MAX);
        let small = |count: usize, scale: f64| -> Vec<f32> {
            (0..count).map(|i| ((stream.uniform(i as u64) - 0.5) * scale) as f32).collect()
        };
        let modules: Vec<ModuleFactors> = (0..model.config.num_layers)
            .flat_map(|layer| ModuleKind::ALL.map(|kind| (layer, kind)))
            .map(|(layer, kind)| {
                let (n, k) = kind.shape(&model.config);
                ModuleFactors { layer, kind, a: small(RANK * k, 0.1), b: small(n * RANK, 0.1) }
            })
            .collect();
        Ok(Self {
            cpu,
            model,
            factors: SideFactors::beside(cpu, model, RANK, &modules)?,
            r: [R::Matrices(small(modules.len() * RANK * RANK, 1e-2))],
            workspace: GradientWorkspace::default(),
            engine: None,
            calls: 0,
        })
    }

    fn tokens(&mut self, count: usize) -> Vec<u32> {
        self.calls += 1;
        let stream = Stream::new(1, Purpose::Sampling, self.calls);
        let vocabulary = self.model.config.vocab_size as u64;
        (0..count).map(|i| stream.below(i as u64, vocabulary) as u32).collect()
    }

    /// Seconds for `samples` completions of `new` tokens of each of `prompts` prompts.
    pub(super) fn generate(
        &mut self,
        prompts: usize,
        samples: usize,
        prompt: usize,
        new: usize,
    ) -> Result<f64, BenchError> {
        let requests: Vec<Request> = (0..prompts)
            .map(|index| Request {
                prompt: self.tokens(prompt),
                samples,
                adapter: 0,
                seed: 1,
                stream: (index * samples) as u64,
                max_tokens: new,
                sampling: Sampling { temperature: 1.0, top_p: 1.0, top_k: 0 },
            })
            .collect();
        let blocks = prompts * (prompt.div_ceil(BLOCK_TOKENS) + samples * (new.div_ceil(BLOCK_TOKENS) + 1));
        if self.engine.as_ref().is_none_or(|(_, has)| *has < blocks) {
            self.engine = None;
            self.engine = Some((Engine::new(self.cpu, self.model, blocks), blocks));
        }
        let (engine, _) = self.engine.as_mut().expect("made above");
        let interrupt = AtomicBool::new(false);
        let options = GenerateOptions { max_batch: prompts * samples, stop: &Never, interrupt: &interrupt };
        let adapters = Adapters { factors: Some(&self.factors), r: &self.r };
        let policy = Policy::new(self.model, adapters);
        Ok(timed(|| engine.generate(policy, &requests, &options, &mut |_| {}))?)
    }

    /// Share of the batch's slots that were empty at the end of what was generated since this was asked last.
    pub(super) fn take_empty_slots(&mut self) -> f64 {
        self.engine.as_mut().map_or(0.0, |(engine, _)| engine.take_occupancy().empty_fraction())
    }

    /// Seconds for the gradient of a loss over the completions.
    pub(super) fn train(
        &mut self,
        prompts: usize,
        samples: usize,
        prompt: usize,
        new: usize,
    ) -> Result<f64, BenchError> {
        let groups: Vec<TrainingGroup> = (0..prompts)
            .map(|_| TrainingGroup {
                prompt: self.tokens(prompt),
                completions: (0..samples)
                    .map(|_| TrainingCompletion { tokens: self.tokens(new), ..Default::default() })
                    .collect(),
            })
            .collect();
        let adapters = Adapters { factors: Some(&self.factors), r: &self.r };
        let policy = Policy::new(self.model, adapters);
        let sizes = MemorySizes::of(self.cpu, &self.model.config, self.model.precision());
        // As a run has it that has enough memory.
        let rows = sizes.micro_batch_rows(self.model.bytes() as u64, prompt + new);
        let rows = rows.min(sizes.micro_batch_tokens.max(prompt + new));
        let numbers = self.factors.modules() * self.factors.rank() * self.factors.rank();
        let mut sums = Gradients::R(vec![vec![0.0; numbers]]);
        let mut loss = |token: crate::gradient::TokenView| TokenGradient {
            loss: f64::from(-token.logprob),
            slope: -1.0,
        };
        Ok(timed(|| {
            for batch in micro_batches(&groups, rows) {
                accumulate(self.cpu, policy, &batch, 1.0, &mut loss, &mut self.workspace, &mut sums)?;
            }
            Ok::<(), crate::gradient::GradientError>(())
        })?)
    }
}
