//! The work of a measurement, and how much arithmetic and memory traffic it is at least.

use super::{BenchError, timed};
use crate::gradient::{
    GradientWorkspace, TokenGradient, TrainingCompletion, TrainingGroup, accumulate, micro_batches,
};
use crate::inference::{Completion, Engine, EngineError, GenerateOptions, Request, Sampling, Stop};
use crate::model::{
    Adapters, Gradients, KvCache, MemorySizes, Model, ModuleFactors, ModuleKind, Policy, R, Recording,
    SideFactors, kv_precision,
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

    /// The same where the forward pass of the layers is taken over from sampling.
    pub(super) fn without_forward(
        self,
        model: &Model,
        prompts: usize,
        prompt: usize,
        new: usize,
        samples: usize,
    ) -> Self {
        let (linear, _) = matrices(model);
        let tokens = (prompts * (samples * new + prompt)) as f64;
        let context = prompt as f64 + new as f64 / 2.0;
        let forward = tokens * (2.0 * linear + attention(model, context));
        Self { flops: self.flops - forward, bytes: self.bytes - model.bytes() as f64 }
    }
}

/// A model with a random adapter, an engine, and the buffers of training.
pub(super) struct Bench<'a> {
    cpu: &'a Cpu,
    model: &'a Model,
    factors: SideFactors,
    r: [R; 1],
    workspace: GradientWorkspace,
    /// Bytes that a run may use.
    memory: u64,
    /// The engine, and its number of KV blocks.
    engine: Option<(Engine<'a>, usize)>,
    /// What a step keeps of sampling.
    recording: Option<Recording>,
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
    /// `memory` in bytes; 0: as much as a run uses by itself.
    pub(super) fn new(cpu: &'a Cpu, model: &'a Model, memory: u64) -> Result<Self, BenchError> {
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
            memory,
            engine: None,
            recording: None,
            calls: 0,
        })
    }

    fn tokens(&mut self, count: usize) -> Vec<u32> {
        self.calls += 1;
        let stream = Stream::new(1, Purpose::Sampling, self.calls);
        let vocabulary = self.model.config.vocab_size as u64;
        (0..count).map(|i| stream.below(i as u64, vocabulary) as u32).collect()
    }

    /// What a run would have here.
    fn sizes(&self) -> MemorySizes {
        let sizes = MemorySizes::of(self.cpu, &self.model.config, self.model.precision());
        if self.memory > 0 { MemorySizes { limit: self.memory, ..sizes } } else { sizes }
    }

    /// KV blocks of so many sequences.
    fn blocks(prompts: usize, samples: usize, prompt: usize, new: usize) -> usize {
        prompts * (prompt.div_ceil(BLOCK_TOKENS) + samples * (new.div_ceil(BLOCK_TOKENS) + 1))
    }

    /// Rows of a training batch.
    fn micro_batch(&self, one_sequence: usize) -> usize {
        let sizes = self.sizes();
        // As a run has it that has enough memory.
        let rows = sizes.micro_batch_rows(self.model.bytes() as u64, one_sequence);
        rows.min(sizes.micro_batch_tokens.max(one_sequence))
    }

    /// Rows of sampling that a step keeps for training: all, if there is room, as in a run.
    pub(super) fn recorded_rows(&self, prompts: usize, samples: usize, prompt: usize, new: usize) -> usize {
        let sizes = self.sizes();
        let kv = Self::blocks(prompts, samples, prompt, new) as u64 * sizes.block;
        let kept = self.micro_batch(prompt + new) as u64 * sizes.per_token;
        let rows = prompts * (prompt + samples * new);
        let left = sizes.limit.saturating_sub(self.model.bytes() as u64 + sizes.fixed + kv + kept);
        if sizes.recorded_row > 0 && rows as u64 * sizes.recorded_row <= left { rows } else { 0 }
    }

    /// Seconds of a GRPO step: completions, and the gradient of a loss over them.
    pub(super) fn step(
        &mut self,
        prompts: usize,
        samples: usize,
        prompt: usize,
        new: usize,
    ) -> Result<f64, BenchError> {
        let rows = self.recorded_rows(prompts, samples, prompt, new);
        let recording = (rows > 0).then(|| {
            let mut recording = self.recording.take().unwrap_or_default();
            recording.begin(rows);
            recording
        });
        let requests = self.requests(prompts, samples, prompt, new);
        let (rollout, completions) = self.complete(&requests, recording)?;
        let completion = |completion: Completion| TrainingCompletion {
            tokens: completion.tokens.into_iter().map(|token| token.token).collect(),
            ..Default::default()
        };
        let groups = requests.into_iter().zip(completions).map(|(request, completions)| TrainingGroup {
            prompt: request.prompt,
            completions: completions.into_iter().map(completion).collect(),
        });
        let groups: Vec<TrainingGroup> = groups.collect();
        let (engine, _) = self.engine.as_mut().expect("it has sampled");
        self.workspace.recording = engine.take_recording();
        let seconds = rollout + self.gradient(&groups, prompt + new)?;
        self.recording = self.workspace.recording.take();
        Ok(seconds)
    }

    /// Seconds for `samples` completions of `new` tokens of each of `prompts` prompts.
    pub(super) fn generate(
        &mut self,
        prompts: usize,
        samples: usize,
        prompt: usize,
        new: usize,
    ) -> Result<f64, BenchError> {
        let requests = self.requests(prompts, samples, prompt, new);
        Ok(self.complete(&requests, None)?.0)
    }

    fn requests(&mut self, prompts: usize, samples: usize, prompt: usize, new: usize) -> Vec<Request> {
        (0..prompts)
            .map(|index| Request {
                prompt: self.tokens(prompt),
                samples,
                adapter: 0,
                seed: 1,
                stream: (index * samples) as u64,
                max_tokens: new,
                sampling: Sampling { temperature: 1.0, top_p: 1.0, top_k: 0 },
            })
            .collect()
    }

    /// Seconds for all completions, and those; `recording` takes what is computed.
    fn complete(
        &mut self,
        requests: &[Request],
        recording: Option<Recording>,
    ) -> Result<(f64, Vec<Vec<Completion>>), BenchError> {
        let sequences = requests.iter().map(|request| request.samples).sum();
        let blocks = requests.iter().map(|r| Self::blocks(1, r.samples, r.prompt.len(), r.max_tokens)).sum();
        if self.engine.as_ref().is_none_or(|(_, has)| *has < blocks) {
            self.engine = None;
            self.engine = Some((Engine::new(self.cpu, self.model, blocks), blocks));
        }
        let (engine, _) = self.engine.as_mut().expect("made above");
        let interrupt = AtomicBool::new(false);
        let options = GenerateOptions { max_batch: sequences, stop: &Never, interrupt: &interrupt };
        if let Some(recording) = recording {
            engine.record(recording);
        }
        let adapters = Adapters { factors: Some(&self.factors), r: &self.r };
        let policy = Policy::new(self.model, adapters);
        let mut completions = Vec::new();
        let seconds = timed(|| {
            completions = engine.generate(policy, requests, &options, &mut |_| {})?;
            Ok::<(), EngineError>(())
        })?;
        Ok((seconds, completions))
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
        self.gradient(&groups, prompt + new)
    }

    /// Seconds for the gradient of a loss over all completions.
    fn gradient(&mut self, groups: &[TrainingGroup], one_sequence: usize) -> Result<f64, BenchError> {
        let rows = self.micro_batch(one_sequence);
        let adapters = Adapters { factors: Some(&self.factors), r: &self.r };
        let policy = Policy::new(self.model, adapters);
        let numbers = self.factors.modules() * self.factors.rank() * self.factors.rank();
        let mut sums = Gradients::R(vec![vec![0.0; numbers]]);
        let mut loss = |token: crate::gradient::TokenView| TokenGradient {
            loss: f64::from(-token.logprob),
            slope: -1.0,
        };
        Ok(timed(|| {
            for batch in micro_batches(groups, rows) {
                accumulate(self.cpu, policy, &batch, 1.0, &mut loss, &mut self.workspace, &mut sums)?;
            }
            Ok::<(), crate::gradient::GradientError>(())
        })?)
    }
}
