//! Several runs that train adapters on the same factors: each hands in its requests from a thread of its own and waits; whoever
//! gave out the seats generates one batch of all, and hands each its completions. A sequence's bits don't depend on
//! its batch, so a run gets what it would get alone. Nothing here decides which runs these are.

use super::stop::TextStop;
use crate::base::BaseFactors;
use crate::inference::{Completion, Engine, EngineError, GenerateOptions, Progress, Request, Stop};
use crate::model::{Adapters, Model, Policy, R};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::time::Instant;

/// What a run waits for.
pub enum Ask<'a> {
    /// Its completions.
    Completions(Box<Job<'a>>),
    /// The end of the next batch, whatever is in it.
    Turn,
}

/// What it gets.
pub struct Answer {
    /// For each request its samples in order; none where only the turn was asked for.
    pub completions: Result<Vec<Vec<Completion>>, EngineError>,
    /// Its share of the batch's seconds, by sampled tokens.
    pub seconds: f64,
}

/// Requests of one run, with all that it takes to answer them.
pub struct Job<'a> {
    /// Requests that name adapter 0.
    pub requests: Vec<Request>,
    /// A and B.
    pub factors: Arc<BaseFactors>,
    /// R of the run's adapter as it is now.
    pub r: R,
    /// What ends a completion.
    pub stop: TextStop<'a>,
    /// Sequences that the run would have at once at most.
    pub max_batch: usize,
    /// Set from outside to give up.
    pub interrupt: &'a AtomicBool,
    /// The run's part of the memory.
    pub needs: Needs,
}

/// What a run takes of the memory that runs share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Needs {
    /// KV blocks that it would have alone.
    pub blocks: usize,
    /// KV blocks without which it cannot go on.
    pub least: usize,
    /// What it holds besides, in KV blocks' worth: its numbers, their gradient and the optimizer's state.
    pub own: usize,
}

/// A run's end of the two channels.
pub struct Turns<'a> {
    /// To whoever generates.
    pub ask: Sender<Ask<'a>>,
    /// From there; an end of it means that nobody generates any more.
    pub answers: Receiver<Answer>,
}

/// A run's place among others.
pub struct Seat<'a> {
    turns: Turns<'a>,
    factors: Arc<BaseFactors>,
    needs: Needs,
    others: f64,
}

impl<'a> Seat<'a> {
    /// The place of a run with an adapter on these factors.
    pub fn new(turns: Turns<'a>, factors: Arc<BaseFactors>, needs: Needs) -> Self {
        Self { turns, factors, needs, others: 0.0 }
    }

    pub(super) fn generate(
        &mut self,
        policy: Policy<'_>,
        requests: Vec<Request>,
        stop: TextStop<'a>,
        (max_batch, interrupt): (usize, &'a AtomicBool),
    ) -> Result<Vec<Vec<Completion>>, EngineError> {
        let Adapters { factors, r: [r] } = policy.adapters else { panic!("a policy with one adapter") };
        assert!(
            factors.is_some_and(|factors| std::ptr::eq(factors, &self.factors.side)),
            "the common factors"
        );
        self.ask(Ask::Completions(Box::new(Job {
            requests,
            factors: Arc::clone(&self.factors),
            r: r.clone(),
            stop,
            max_batch,
            interrupt,
            needs: self.needs,
        })))
    }

    pub(super) fn wait(&mut self) -> Result<(), EngineError> {
        self.ask(Ask::Turn).map(drop)
    }

    pub(super) fn seconds_of_others(&self) -> f64 {
        self.others
    }

    fn ask(&mut self, ask: Ask<'a>) -> Result<Vec<Vec<Completion>>, EngineError> {
        let start = Instant::now();
        let gone = |_| EngineError::Interrupted;
        self.turns.ask.send(ask).map_err(|_| EngineError::Interrupted)?;
        let answer = self.turns.answers.recv().map_err(gone)?;
        self.others += (start.elapsed().as_secs_f64() - answer.seconds).max(0.0);
        answer.completions
    }
}

/// KV blocks for runs that generate together: as many as the one that would have most, less what the others hold besides, but
/// enough for each to go on.
pub fn blocks_together(needs: &[Needs]) -> usize {
    let most = needs.iter().max_by_key(|needs| needs.blocks);
    let own: usize = needs.iter().map(|needs| needs.own).sum();
    let left = most.map_or(0, |most| most.blocks.saturating_sub(own - most.own));
    needs.iter().map(|needs| needs.least).fold(left, usize::max)
}

/// Completions that are finished of a common batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BatchProgress {
    /// Runs that have a part in it.
    pub runs: usize,
    /// Finished completions.
    pub done: usize,
    /// Completions in all.
    pub total: usize,
    /// Sampled tokens so far.
    pub tokens: u64,
}

/// Answers all jobs, which have their factors in common, with one batch. A job that cannot be answered, or is to be given up,
/// gets an error as it would alone, and the others are answered without it.
///
/// # Panics
/// If jobs have other factors than the first one.
pub fn generate_together(
    engine: &mut Engine<'_>,
    model: &Model,
    jobs: &[&Job<'_>],
    observe: &mut dyn FnMut(BatchProgress),
) -> Vec<Answer> {
    let start = Instant::now();
    let mut results: Vec<Option<Result<Vec<Vec<Completion>>, EngineError>>> =
        jobs.iter().map(|_| None).collect();
    let mut apart = false;
    loop {
        let waiting = (0..jobs.len()).filter(|&job| results[job].is_none());
        let waiting: Vec<usize> = waiting.take(if apart { 1 } else { jobs.len() }).collect();
        if waiting.is_empty() {
            break;
        }
        let batch: Vec<&Job<'_>> = waiting.iter().map(|&job| jobs[job]).collect();
        match one_batch(engine, model, &batch, observe) {
            Ok(completions) => {
                for (job, completions) in waiting.into_iter().zip(completions) {
                    results[job] = Some(Ok(completions));
                }
            }
            Err((Some(failed), error)) => results[waiting[failed]] = Some(Err(error)),
            Err((None, EngineError::Interrupted)) => {
                for job in waiting.into_iter().filter(|&job| jobs[job].interrupt.load(Ordering::Relaxed)) {
                    results[job] = Some(Err(EngineError::Interrupted));
                }
            }
            Err((None, error)) if waiting.len() == 1 => results[waiting[0]] = Some(Err(error)),
            // Of the device: what has no room together may have it alone.
            Err((None, _)) => apart = true,
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let results = results.into_iter().map(|result| result.expect("every job has its answer")).collect();
    share_seconds(results, seconds)
}

/// Each answer's part of the time, by its sampled tokens.
fn share_seconds(results: Vec<Result<Vec<Vec<Completion>>, EngineError>>, seconds: f64) -> Vec<Answer> {
    let tokens = |result: &Result<Vec<Vec<Completion>>, EngineError>| -> usize {
        result.iter().flatten().flatten().map(|completion| completion.tokens.len()).sum()
    };
    let all: usize = results.iter().map(tokens).sum();
    let answer = |completions| {
        let share = tokens(&completions) as f64 / all.max(1) as f64;
        Answer { completions, seconds: seconds * share }
    };
    results.into_iter().map(answer).collect()
}

/// The stops of all jobs, and whose each request is.
struct JointStop<'a> {
    jobs: &'a [&'a Job<'a>],
    owners: Vec<(usize, usize)>,
}

impl Stop for JointStop<'_> {
    fn is_end(&self, request: usize, tokens: &[u32]) -> bool {
        let (job, own) = self.owners[request];
        self.jobs[job].stop.is_end(own, tokens)
    }
}

/// For each job its completions; or an error, with the job that it is about if it is about one.
#[allow(clippy::type_complexity)] // said in the line above
fn one_batch(
    engine: &mut Engine<'_>,
    model: &Model,
    jobs: &[&Job<'_>],
    observe: &mut dyn FnMut(BatchProgress),
) -> Result<Vec<Vec<Vec<Completion>>>, (Option<usize>, EngineError)> {
    let factors = &jobs[0].factors;
    assert!(jobs.iter().all(|job| Arc::ptr_eq(&job.factors, factors)), "jobs have their factors in common");
    let (mut requests, mut owners) = (Vec::new(), Vec::new());
    for (number, job) in jobs.iter().enumerate() {
        for (own, request) in job.requests.iter().enumerate() {
            assert_eq!(request.adapter, 0, "a run has one adapter");
            requests.push(Request { adapter: number as u32, ..request.clone() });
            owners.push((number, own));
        }
    }
    let r: Vec<R> = jobs.iter().map(|job| job.r.clone()).collect();
    let policy = Policy::new(model, Adapters { factors: Some(&factors.side), r: &r });
    let stop = JointStop { jobs, owners };
    let wanted = || jobs.iter().any(|job| job.interrupt.load(Ordering::Relaxed));
    let give_up = AtomicBool::new(wanted());
    let max_batch = jobs.iter().map(|job| job.max_batch).max().unwrap_or(1);
    let options = GenerateOptions { max_batch, stop: &stop, interrupt: &give_up };
    let total = requests.iter().map(|request| request.samples).sum();
    let mut progress = BatchProgress { runs: jobs.len(), total, ..Default::default() };
    let generated = engine.generate(policy, &requests, &options, &mut |news| match news {
        Progress::Token { .. } => {
            progress.tokens += 1;
            if wanted() {
                give_up.store(true, Ordering::Relaxed);
            }
        }
        Progress::Finished { .. } => {
            progress.done += 1;
            observe(progress);
        }
    });
    match generated {
        Ok(completions) => {
            let mut completions = completions.into_iter();
            Ok(jobs.iter().map(|job| completions.by_ref().take(job.requests.len()).collect()).collect())
        }
        Err(mut error) => {
            let failed = error.request_mut().map(|request| {
                let (job, own) = stop.owners[*request];
                *request = own;
                job
            });
            Err((failed, error))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_for_all() {
        let needs = |blocks, least, own| Needs { blocks, least, own };
        assert_eq!(blocks_together(&[needs(100, 10, 5)]), 100);
        assert_eq!(blocks_together(&[needs(100, 10, 5), needs(80, 12, 7), needs(90, 1, 2)]), 100 - 7 - 2);
        assert_eq!(blocks_together(&[needs(20, 10, 5), needs(20, 18, 7)]), 18, "each can go on");
        assert_eq!(blocks_together(&[]), 0);
    }

    #[test]
    fn time_is_shared_by_tokens() {
        let token = crate::inference::Sampled { token: 1, logprob: 0.0, entropy: 0.0, support: None };
        let finish = crate::inference::Finish::Length;
        let of = |count: usize| Ok(vec![vec![Completion { tokens: vec![token.clone(); count], finish }]]);
        let shared = share_seconds(vec![of(1), Err(EngineError::Interrupted), of(3)], 8.0);
        assert_eq!(shared.iter().map(|answer| answer.seconds).collect::<Vec<_>>(), [2.0, 0.0, 6.0]);
    }
}
