//! Problems enter, groups of completions leave, with log-probs and the version of the adapter that wrote them.
//! Nothing here scores.

mod sampler;
mod stop;
mod text;
mod together;

pub use sampler::Sampler;
pub use stop::TextStop;
pub use text::{TextStream, text_of};
pub use together::{Answer, Ask, BatchProgress, Job, Needs, Seat, Turns, blocks_together, generate_together};

use crate::data::{Problem, Prompt};
use crate::inference::{Completion, EngineError, Finish, Progress, Request, Sampling};
use crate::model::Policy;
use crate::tokenizer::{Tokenizer, TokenizerError};
use std::sync::atomic::AtomicBool;

/// A problem and the completions of its prompt.
#[derive(Debug, Clone)]
pub struct RolloutGroup {
    /// What was asked.
    pub problem: Problem,
    /// The prompt's tokens.
    pub prompt: Vec<u32>,
    /// The samples.
    pub completions: Vec<Rollout>,
    /// Version of the adapter that sampled.
    pub adapter_version: u64,
}

/// One sample.
#[derive(Debug, Clone)]
pub struct Rollout {
    /// Tokens with their log-probs.
    pub completion: Completion,
    /// Its text, without special tokens.
    pub text: String,
}

impl Rollout {
    /// Whether it was cut at its largest length.
    pub fn truncated(&self) -> bool {
        self.completion.finish == Finish::Length
    }
}

/// How a batch of prompts is sampled.
#[derive(Clone, Copy)]
pub struct RolloutSettings<'a> {
    /// Samples a prompt.
    pub samples: usize,
    /// Largest number of tokens of a completion.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Sequences that run at once at most.
    pub max_batch: usize,
    /// Seed of the run.
    pub seed: u64,
    /// Number of the first random stream; sample i of prompt j has stream `first + j · samples + i`.
    pub first_stream: u64,
    /// Texts that end a completion, besides the model's end tokens.
    pub stop: &'a [String],
    /// Set from outside to give up.
    pub interrupt: &'a AtomicBool,
}

/// A prompt's tokens: through the model's chat template, or as plain text where that is switched off or absent.
pub fn encode_prompt(
    tokenizer: &Tokenizer,
    prompt: &Prompt,
    chat_template: bool,
) -> Result<Vec<u32>, TokenizerError> {
    if chat_template && tokenizer.has_chat_template() {
        tokenizer.encode_chat(&prompt.messages, true)
    } else {
        tokenizer.encode(&prompt.text, true)
    }
}

/// Samples completions of all prompts (problem and prompt tokens), in order. `observe` is told of every token.
pub fn roll_out<'a>(
    sampler: &mut Sampler<'a>,
    tokenizer: &'a Tokenizer,
    (policy, adapter_version): (Policy<'_>, u64),
    prompts: Vec<(Problem, Vec<u32>)>,
    settings: RolloutSettings<'a>,
    observe: &mut dyn FnMut(Progress<'_>),
) -> Result<Vec<RolloutGroup>, EngineError> {
    let requests: Vec<Request> = prompts
        .iter()
        .enumerate()
        .map(|(index, (_, prompt))| Request {
            prompt: prompt.clone(),
            samples: settings.samples,
            adapter: 0,
            seed: settings.seed,
            stream: settings.first_stream + (index * settings.samples) as u64,
            max_tokens: settings.max_tokens,
            sampling: settings.sampling,
        })
        .collect();
    let stop = TextStop::new(tokenizer, settings.stop);
    let limits = (settings.max_batch, settings.interrupt);
    let completions = sampler.generate(policy, requests, stop, limits, observe)?;
    let groups = prompts.into_iter().zip(completions).map(|((problem, prompt), completions)| {
        let completions = completions
            .into_iter()
            .map(|completion| {
                let ids: Vec<u32> = completion.tokens.iter().map(|t| t.token).collect();
                Rollout { text: tokenizer.decode(&ids), completion }
            })
            .collect();
        RolloutGroup { problem, prompt, completions, adapter_version }
    });
    Ok(groups.collect())
}
