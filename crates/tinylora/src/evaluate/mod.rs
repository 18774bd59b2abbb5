//! Held-out problems enter, accuracies with intervals leave. The same problems, streams and seed give the same
//! completions for the same adapter, so that before and after can be compared. Evaluations on benchmarks, which may
//! take long, go into a folder of their own.

mod benchmark;
mod compare;
mod folder;
mod page;
mod record;
mod tally;

pub use benchmark::{BenchmarkRun, BenchmarkRunError, EvalProgress, RunEnd, run_benchmark};
pub use compare::{CompareError, Comparison, compare};
pub use folder::{
    BENCHMARK_SUMMARY_FILE, EvalFolder, EvalFolderError, Opened, REPORT_FILE, RESULTS_FILE, SETTINGS_FILE,
    read_benchmark_summary, read_results,
};
pub use page::render as render_page;
pub use record::{BenchmarkSettings, BenchmarkSummary, ResultRecord, Written, judge as judge_completion};
pub use tally::{BenchmarkResult, GroupResult, PassAt, tally};

use crate::data::Problem;
use crate::inference::{
    Completion, Engine, EngineError, Finish, GenerateOptions, Progress, Request, Sampling,
};
use crate::model::Policy;
use crate::reward::{RewardError, RewardItem, Rewarder, Scores};
use crate::rollout::{Sampler, TextStop};
use crate::run_folder::{EvalResult, VerdictCounts};
use crate::statistics::wilson_95;
use crate::tokenizer::Tokenizer;
use serde::{Serialize, Serializer};
use std::sync::atomic::AtomicBool;
use tinylora_verify::Verdict;

/// How to evaluate.
#[derive(Clone, Copy)]
pub struct EvalSettings<'a> {
    /// Samples a problem; 0: greedy only.
    pub samples: usize,
    /// Also decode greedily.
    pub greedy: bool,
    /// How sampled tokens are chosen.
    pub sampling: Sampling,
    /// Largest number of tokens of a completion.
    pub max_tokens: usize,
    /// Sequences that run at once at most.
    pub max_batch: usize,
    /// Seed of the sampling.
    pub seed: u64,
    /// Texts that end a completion, besides the model's end tokens.
    pub stop: &'a [String],
    /// Set from outside to give up.
    pub interrupt: &'a AtomicBool,
}

/// One completion of one problem.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs)] // the names say it
pub struct EvalRecord {
    pub problem: String,
    pub question: String,
    pub gold: String,
    pub greedy: bool,
    pub completion: String,
    pub reward: f32,
    pub strict: bool,
    pub flexible: bool,
    pub tokens: usize,
    pub truncated: bool,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "verdict_name")]
    pub verdict: Option<Verdict>,
}

fn verdict_name<S: Serializer>(verdict: &Option<Verdict>, serializer: S) -> Result<S::Ok, S::Error> {
    verdict.map(Verdict::name).serialize(serializer)
}

/// What came out.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// The numbers.
    pub result: EvalResult,
    /// Every completion, problem by problem, samples before the greedy one.
    pub records: Vec<EvalRecord>,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum EvaluateError {
    /// Nothing was generated.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Nothing was scored.
    #[error(transparent)]
    Reward(#[from] RewardError),
}

/// Completes and scores all problems, each given with its prompt's tokens, with the first adapter (or none).
pub fn evaluate<'a>(
    sampler: &mut Sampler<'a>,
    tokenizer: &'a Tokenizer,
    policy: Policy<'_>,
    problems: &[(Problem, Vec<u32>)],
    settings: EvalSettings<'a>,
    rewarder: &mut Rewarder,
    observe: &mut dyn FnMut(Progress<'_>),
) -> Result<Evaluation, EvaluateError> {
    let (requests, owners) = requests(problems, settings, 0);
    let stop = TextStop::new(tokenizer, settings.stop);
    let limits = (settings.max_batch, settings.interrupt);
    let completions = sampler.generate(policy, requests, stop, limits, observe)?;
    judge(tokenizer, problems, &owners, &completions, rewarder)
}

/// The same for each of the first `count` adapters, all in one batch; each result is what the adapter gives alone.
pub fn evaluate_each(
    engine: &mut Engine<'_>,
    tokenizer: &Tokenizer,
    policy: Policy<'_>,
    count: usize,
    problems: &[(Problem, Vec<u32>)],
    settings: EvalSettings<'_>,
    rewarder: &mut Rewarder,
    observe: &mut dyn FnMut(Progress<'_>),
) -> Result<Vec<Evaluation>, EvaluateError> {
    let mut all_requests = Vec::new();
    let mut owners = Vec::new();
    for adapter in 0..count as u32 {
        let (requests, of_adapter) = requests(problems, settings, adapter);
        all_requests.extend(requests);
        owners = of_adapter;
    }
    let stop = TextStop::new(tokenizer, settings.stop);
    let options =
        GenerateOptions { max_batch: settings.max_batch, stop: &stop, interrupt: settings.interrupt };
    let completions = engine.generate(policy, &all_requests, &options, observe)?;
    // Every adapter has the same problems in the same order; without problems there is nothing to divide.
    let mut parts = completions.chunks(owners.len().max(1));
    (0..count)
        .map(|_| judge(tokenizer, problems, &owners, parts.next().unwrap_or_default(), rewarder))
        .collect()
}

/// Scores the completions of one adapter.
fn judge(
    tokenizer: &Tokenizer,
    problems: &[(Problem, Vec<u32>)],
    owners: &[(usize, bool)],
    completions: &[Vec<Completion>],
    rewarder: &mut Rewarder,
) -> Result<Evaluation, EvaluateError> {
    let mut records = Vec::new();
    let mut texts = Vec::new();
    for (&(index, greedy), completions) in owners.iter().zip(completions) {
        for completion in completions {
            let ids: Vec<u32> = completion.tokens.iter().map(|t| t.token).collect();
            texts.push((
                index,
                greedy,
                tokenizer.decode(&ids),
                ids.len(),
                completion.finish == Finish::Length,
            ));
        }
    }
    let items: Vec<RewardItem> = texts
        .iter()
        .map(|(index, _, text, _, truncated)| RewardItem {
            problem: &problems[*index].0,
            completion: text,
            truncated: *truncated,
        })
        .collect();
    let scores = rewarder.score(&items)?;
    for ((index, greedy, text, tokens, truncated), score) in texts.iter().zip(&scores) {
        let problem = &problems[*index].0;
        records.push(EvalRecord {
            problem: problem.id.clone(),
            question: problem.question.clone(),
            gold: problem.gold.clone(),
            greedy: *greedy,
            completion: text.clone(),
            reward: score.reward,
            strict: score.strict,
            flexible: score.flexible,
            tokens: *tokens,
            truncated: *truncated,
            verdict: score.verdict,
        });
    }
    Ok(Evaluation { result: summarise(problems.len(), &records), records })
}

/// The requests, and for each the problem and whether it is decoded greedily.
fn requests(
    problems: &[(Problem, Vec<u32>)],
    settings: EvalSettings<'_>,
    adapter: u32,
) -> (Vec<Request>, Vec<(usize, bool)>) {
    let mut requests = Vec::new();
    let mut owners = Vec::new();
    for (index, (_, prompt)) in problems.iter().enumerate() {
        let mut add = |samples: usize, sampling: Sampling, greedy: bool| {
            if samples > 0 {
                requests.push(Request {
                    prompt: prompt.clone(),
                    samples,
                    adapter,
                    seed: settings.seed,
                    stream: EVAL_STREAMS + (index * settings.samples) as u64,
                    max_tokens: settings.max_tokens,
                    sampling,
                });
                owners.push((index, greedy));
            }
        };
        add(settings.samples, settings.sampling, false);
        add(usize::from(settings.greedy), Sampling::GREEDY, true);
    }
    (requests, owners)
}

/// Streams of evaluations are far from those of training.
const EVAL_STREAMS: u64 = 1 << 62;

/// Whether a completion counts as right.
pub fn is_right(scores: &Scores) -> bool {
    scores.reward >= 1.0
}

fn summarise(n: usize, records: &[EvalRecord]) -> EvalResult {
    let fraction = |of: &[&EvalRecord], right: &dyn Fn(&EvalRecord) -> bool| -> Option<f64> {
        let count = of.iter().filter(|record| right(record)).count();
        (!of.is_empty()).then(|| count as f64 / of.len() as f64)
    };
    let sampled: Vec<&EvalRecord> = records.iter().filter(|record| !record.greedy).collect();
    let greedy: Vec<&EvalRecord> = records.iter().filter(|record| record.greedy).collect();
    let main = if sampled.is_empty() { &greedy } else { &sampled };
    let right = |record: &EvalRecord| record.reward >= 1.0;
    let (sampled_accuracy, greedy_accuracy) = (fraction(&sampled, &right), fraction(&greedy, &right));
    let interval =
        |accuracy: Option<f64>| wilson_95((accuracy.unwrap_or(0.0) * n as f64).round() as usize, n);
    let tokens: usize = main.iter().map(|record| record.tokens).sum();
    EvalResult {
        n,
        sampled_accuracy,
        greedy_accuracy,
        sampled_ci95: interval(sampled_accuracy.or(greedy_accuracy)),
        greedy_ci95: interval(greedy_accuracy),
        strict: fraction(main, &|record| record.strict).unwrap_or(0.0),
        flexible: fraction(main, &|record| record.flexible).unwrap_or(0.0),
        completion_tokens_mean: tokens as f64 / main.len().max(1) as f64,
        truncated_fraction: fraction(main, &|record| record.truncated).unwrap_or(0.0),
        verdicts: verdicts(main),
    }
}

/// The verdicts by kind; none where the verifier is not the scorer.
fn verdicts(records: &[&EvalRecord]) -> Option<VerdictCounts> {
    let mut counts = VerdictCounts::default();
    for record in records {
        *match record.verdict? {
            Verdict::Equal => &mut counts.equal,
            Verdict::Different => &mut counts.different,
            Verdict::GoldUnparsed => &mut counts.gold_unparsed,
            Verdict::PredictionUnparsed => &mut counts.prediction_unparsed,
            Verdict::OutOfFuel => &mut counts.out_of_fuel,
        } += 1;
    }
    Some(counts)
}
