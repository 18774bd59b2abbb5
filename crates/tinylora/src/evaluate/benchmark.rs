//! A benchmark's problems and an engine enter, completions with verdicts leave into the evaluation's folder, each as
//! soon as it is finished. What is there already is not generated again. A completion depends on its prompt, seed,
//! problem and sample alone, so neither interruptions nor the number of samples change one.

use super::EVAL_STREAMS;
use super::folder::{EvalFolder, EvalFolderError};
use super::record::{Written, judge};
use crate::data::benchmark::BenchmarkProblem;
use crate::inference::{Engine, EngineError, GenerateOptions, Progress, Request, Sampling, Stop};
use crate::model::Policy;
use crate::rollout::{TextStop, text_of};
use crate::tokenizer::Tokenizer;
use std::sync::atomic::{AtomicBool, Ordering};
use tinylora_verify::Scorer;

/// What is asked and how it is answered and judged.
#[derive(Clone, Copy)]
pub struct BenchmarkRun<'a> {
    /// The problems.
    pub problems: &'a [BenchmarkProblem],
    /// Their prompts' tokens.
    pub prompts: &'a [Vec<u32>],
    /// Samples a problem; 0: one, decoded greedily.
    pub samples: usize,
    /// How sampled tokens are chosen.
    pub sampling: Sampling,
    /// Largest number of tokens of a completion.
    pub max_tokens: usize,
    /// Sequences that run at once at most.
    pub max_batch: usize,
    /// Seed of the sampling.
    pub seed: u64,
    /// Texts that end a completion, and are no part of it.
    pub stop: &'a [String],
    /// The scorer that decides.
    pub scorer: Scorer,
    /// Scorers that are asked as well.
    pub also: &'a [Scorer],
    /// Which of the adapters given applies.
    pub adapter: u32,
    /// Set from outside to stop.
    pub interrupt: &'a AtomicBool,
}

/// How far an evaluation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EvalProgress {
    /// Completions done, those of earlier sessions included.
    pub done: usize,
    /// Completions in all.
    pub total: usize,
    /// Of those done, the right ones.
    pub right: usize,
    /// Tokens generated in this session.
    pub tokens: u64,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunEnd {
    /// Every completion is in the folder.
    Complete,
    /// It was stopped from outside; what was finished is in the folder.
    Interrupted,
}

/// Why a run failed. What was finished before is in the folder.
#[derive(Debug, thiserror::Error)]
pub enum BenchmarkRunError {
    /// Nothing more was generated.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A completion could not be kept.
    #[error(transparent)]
    Folder(#[from] EvalFolderError),
}

/// Streams of a problem: more than anybody takes samples.
const STREAMS_EACH: u64 = 1 << 20;
/// What is kept reaches the disk at least this often, in completions.
const SYNC_EVERY: usize = 64;

/// Generates and judges what the folder does not have yet.
pub fn run_benchmark(
    engine: &mut Engine<'_>,
    tokenizer: &Tokenizer,
    policy: Policy<'_>,
    run: &BenchmarkRun<'_>,
    folder: &mut EvalFolder,
    observe: &mut dyn FnMut(EvalProgress),
) -> Result<RunEnd, BenchmarkRunError> {
    let (requests, owners) = requests(run, folder);
    let mut progress = EvalProgress {
        done: folder.done(),
        total: run.problems.len() * run.samples.max(1),
        right: folder.right(),
        tokens: 0,
    };
    observe(progress);
    let stop = TextStop::new(tokenizer, run.stop);
    let give_up = AtomicBool::new(run.interrupt.load(Ordering::Relaxed));
    let options = GenerateOptions { max_batch: run.max_batch, stop: &stop, interrupt: &give_up };
    let mut writing: Vec<Vec<u32>> = vec![Vec::new(); requests.len()];
    let mut failure = None;
    folder.start_clock();
    let generated = engine.generate(policy, &requests, &options, &mut |news| match news {
        Progress::Token { request, token, .. } => {
            writing[request].push(token.token);
            progress.tokens += 1;
            if run.interrupt.load(Ordering::Relaxed) {
                give_up.store(true, Ordering::Relaxed);
            }
        }
        Progress::Finished { request, .. } if failure.is_none() => {
            let ids = std::mem::take(&mut writing[request]);
            let (index, sample) = owners[request];
            let written = Written {
                text: text_of(tokenizer, &ids, run.stop),
                tokens: ids.len(),
                truncated: !stop.is_end(request, &ids),
            };
            let record = judge(&run.problems[index], sample, written, run.scorer, run.also);
            progress.done += 1;
            progress.right += usize::from(record.right);
            let kept = folder.keep(index, record).and_then(|()| match progress.done % SYNC_EVERY {
                0 => folder.sync(),
                _ => Ok(()),
            });
            if let Err(error) = kept {
                failure = Some(error);
                give_up.store(true, Ordering::Relaxed);
            }
            observe(progress);
        }
        Progress::Finished { .. } => {}
    });
    if let Some(error) = failure {
        return Err(error.into());
    }
    folder.sync()?;
    match generated {
        Ok(_) => Ok(RunEnd::Complete),
        Err(EngineError::Interrupted) => Ok(RunEnd::Interrupted),
        Err(error) => Err(error.into()),
    }
}

/// A request for each completion that is not there, and whose it is: (problem, sample). One for each sample, so that
/// memory is promised to one at a time; the engine computes a prompt that several have once.
fn requests(run: &BenchmarkRun<'_>, folder: &EvalFolder) -> (Vec<Request>, Vec<(usize, usize)>) {
    let mut requests = Vec::new();
    let mut owners = Vec::new();
    for (index, prompt) in run.prompts.iter().enumerate() {
        for sample in (0..run.samples.max(1)).filter(|&sample| !folder.has(index, sample)) {
            requests.push(Request {
                prompt: prompt.clone(),
                samples: 1,
                adapter: run.adapter,
                seed: run.seed,
                stream: EVAL_STREAMS + index as u64 * STREAMS_EACH + sample as u64,
                max_tokens: run.max_tokens,
                sampling: if run.samples == 0 { Sampling::GREEDY } else { run.sampling },
            });
            owners.push((index, sample));
        }
    }
    (requests, owners)
}
