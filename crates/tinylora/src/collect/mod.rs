//! A recipe's training problems and an engine enter; completions with their rewards leave as rows that supervised
//! finetuning reads (rejection sampling). Nothing here trains.
//!
//! While it runs, finished problems stand in `FILE.partial`, so that a stopped run goes on; the file itself is written at the
//! end, in the order of the problems, and is the same bytes however often it was stopped.

mod partial;
mod select;

pub use partial::CollectFileError;
pub use select::{Choose, Collected, Selection};

use crate::atomic_file::{self, AtomicFileError};
use crate::data::{Problem, Prompt};
use crate::evaluate::is_right;
use crate::inference::{Engine, EngineError, GenerateOptions, Progress, Request, Sampling};
use crate::model::Policy;
use crate::reward::{RewardError, RewardItem, Rewarder};
use crate::rollout::{TextStop, text_of};
use crate::tokenizer::Tokenizer;
use partial::Partial;
use std::path::Path;
use std::sync::atomic::AtomicBool;

/// A problem that is asked.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The problem.
    pub problem: Problem,
    /// What the model is asked.
    pub prompt: Prompt,
    /// The same as tokens.
    pub tokens: Vec<u32>,
}

/// What is asked and how it is answered.
#[derive(Clone, Copy)]
pub struct CollectRun<'a> {
    /// The problems.
    pub problems: &'a [Asked],
    /// Prompts went through the model's chat template: rows have messages, else text.
    pub chat: bool,
    /// Completions a problem.
    pub samples: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Largest number of tokens of a completion.
    pub max_tokens: usize,
    /// Sequences that run at once at most.
    pub max_batch: usize,
    /// Seed of the sampling.
    pub seed: u64,
    /// Texts that end a completion, and are no part of it.
    pub stop: &'a [String],
    /// Everything that decides the completions, as text: a file that was begun with another is not gone on with.
    pub settings: &'a str,
    /// Which completions are written.
    pub selection: Selection,
    /// Set from outside to stop.
    pub interrupt: &'a AtomicBool,
}

/// What came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CollectSummary {
    /// Problems asked.
    pub problems: usize,
    /// Of those, the ones with a row.
    pub with_rows: usize,
    /// Completions.
    pub completions: usize,
    /// Right ones.
    pub right: usize,
    /// Rows written.
    pub rows: usize,
}

/// Why nothing was collected. What was finished before is kept.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // each passes on its source
pub enum CollectError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Reward(#[from] RewardError),
    #[error(transparent)]
    File(#[from] CollectFileError),
    #[error(transparent)]
    Write(#[from] AtomicFileError),
}

/// Streams are far from those of training (from 0) and of evaluations (from 2^62).
const STREAMS: u64 = 1 << 61;
/// Streams of a problem: more than anybody takes samples.
const STREAMS_EACH: u64 = 1 << 20;
/// Problems that are sampled in one go have so many times the completions that run at once.
const ROUNDS_EACH: usize = 4;

/// Samples, scores and selects; None: stopped from outside, to be gone on with by `resume`. `observe` is told of the
/// completions that are done, of how many, and of right ones.
pub fn collect(
    engine: &mut Engine<'_>,
    tokenizer: &Tokenizer,
    policy: Policy<'_>,
    run: &CollectRun<'_>,
    rewarder: &mut Rewarder,
    (out, resume): (&Path, bool),
    observe: &mut dyn FnMut(usize, usize, usize),
) -> Result<Option<CollectSummary>, CollectError> {
    let mut partial = Partial::open(out, run.settings, resume)?;
    let total = run.problems.len() * run.samples;
    let right_of = |samples: &[Collected]| samples.iter().filter(|sample| sample.right).count();
    let mut right: usize = partial.problems.values().map(|samples| right_of(samples)).sum();
    let mut done = partial.problems.len() * run.samples;
    observe(done, total, right);
    let missing: Vec<usize> =
        (0..run.problems.len()).filter(|index| !partial.problems.contains_key(index)).collect();
    let at_once = (ROUNDS_EACH * run.max_batch).div_ceil(run.samples.max(1));
    for part in missing.chunks(at_once.max(1)) {
        let sampled = sample(engine, tokenizer, policy, run, part, &mut |finished| {
            observe(done + finished, total, right);
        });
        let texts = match sampled {
            Ok(texts) => texts,
            Err(EngineError::Interrupted) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        for (index, samples) in part.iter().zip(score(run, part, texts, rewarder)?) {
            right += right_of(&samples);
            done += samples.len();
            partial.keep(*index, samples)?;
        }
        partial.sync()?;
        observe(done, total, right);
    }
    let mut summary =
        CollectSummary { problems: run.problems.len(), completions: done, right, ..Default::default() };
    let mut text = String::new();
    for (index, samples) in &partial.problems {
        let rows = run.selection.of(samples);
        summary.with_rows += usize::from(!rows.is_empty());
        summary.rows += rows.len();
        for (number, row) in rows {
            text.push_str(&line(run, &run.problems[*index], number, row));
        }
    }
    atomic_file::write(out, text.as_bytes())?;
    partial.remove()?;
    Ok(Some(summary))
}

/// A completion before it is scored.
struct Written {
    /// As training sees it.
    whole: String,
    /// Without stop text.
    text: String,
    tokens: usize,
    truncated: bool,
}

/// The completions of some problems (by their places), problem by problem. A request for each sample, so that memory is
/// promised to one at a time.
fn sample(
    engine: &mut Engine<'_>,
    tokenizer: &Tokenizer,
    policy: Policy<'_>,
    run: &CollectRun<'_>,
    part: &[usize],
    finished: &mut dyn FnMut(usize),
) -> Result<Vec<Written>, EngineError> {
    let stop = TextStop::new(tokenizer, run.stop);
    let request = |(index, sample): (usize, usize)| Request {
        prompt: run.problems[index].tokens.clone(),
        samples: 1,
        adapter: 0,
        seed: run.seed,
        stream: STREAMS + index as u64 * STREAMS_EACH + sample as u64,
        max_tokens: run.max_tokens,
        sampling: run.sampling,
    };
    let requests: Vec<Request> = part
        .iter()
        .flat_map(|&index| (0..run.samples).map(move |sample| (index, sample)))
        .map(request)
        .collect();
    let options = GenerateOptions { max_batch: run.max_batch, stop: &stop, interrupt: run.interrupt };
    let mut count = 0;
    let completions = engine.generate(policy, &requests, &options, &mut |news| {
        if let Progress::Finished { .. } = news {
            count += 1;
            finished(count);
        }
    })?;
    let written = completions.into_iter().flatten().map(|completion| {
        let ids: Vec<u32> = completion.tokens.iter().map(|token| token.token).collect();
        Written {
            whole: tokenizer.decode(&ids),
            text: text_of(tokenizer, &ids, run.stop),
            tokens: ids.len(),
            truncated: completion.finish == crate::inference::Finish::Length,
        }
    });
    Ok(written.collect())
}

/// Rewards as training gives them, but for the penalty of length.
fn score(
    run: &CollectRun<'_>,
    part: &[usize],
    texts: Vec<Written>,
    rewarder: &mut Rewarder,
) -> Result<Vec<Vec<Collected>>, RewardError> {
    let items: Vec<RewardItem> = texts
        .iter()
        .enumerate()
        .map(|(number, written)| RewardItem {
            problem: &run.problems[part[number / run.samples]].problem,
            completion: &written.whole,
            truncated: written.truncated,
        })
        .collect();
    let scores = rewarder.score(&items)?;
    let samples = texts.into_iter().zip(scores).map(|(written, scores)| Collected {
        completion: written.text,
        reward: scores.reward,
        right: is_right(&scores),
        tokens: written.tokens,
        truncated: written.truncated,
    });
    let samples: Vec<Collected> = samples.collect();
    Ok(samples.chunks(run.samples).map(<[Collected]>::to_vec).collect())
}

/// One row, in the form that `sft.data` reads.
fn line(run: &CollectRun<'_>, asked: &Asked, sample: usize, row: &Collected) -> String {
    let prompt = match run.chat {
        true => serde_json::json!(asked.prompt.messages),
        false => serde_json::json!(asked.prompt.text),
    };
    let row = serde_json::json!({
        "prompt": prompt,
        "completion": row.completion,
        "problem": asked.problem.id,
        "gold": asked.problem.gold,
        "sample": sample,
        "reward": row.reward,
        "right": row.right,
        "tokens": row.tokens,
        "truncated": row.truncated,
    });
    format!("{row}\n")
}
