//! The one thread that generates. Jobs enter through a channel; all that wait are run together in one batch, and
//! what becomes of each leaves through its own channel, token by token. A batch runs to its end: a job that comes
//! later waits for the next. Nothing here knows HTTP or JSON.

use crate::wire::TokenLogprob;
use std::sync::atomic::AtomicBool;
use tinylora::base::Base;
use tinylora::inference::{Engine, Finish, GenerateOptions, Progress, Request, Stop};
use tinylora::model::{Adapters, Policy, R, SideFactors};
use tinylora::rollout::{TextStop, TextStream};
use tinylora_compute::Cpu;
use tinylora_compute::attention::BLOCK_TOKENS;
use tokio::sync::mpsc::{Receiver, UnboundedSender};

/// What stays fixed while the server runs.
pub struct Loaded {
    /// The processor.
    pub cpu: Cpu,
    /// The model and its tokenizer.
    pub base: Base,
    /// A and B, where there are adapters.
    pub factors: Option<SideFactors>,
    /// Names, as requests have them: the base first, then the adapters; the index is the engine's adapter.
    pub names: Vec<String>,
    /// R of each name; zeros for the base.
    pub matrices: Vec<R>,
    /// KV blocks.
    pub blocks: usize,
    /// Sequences that run at once at most.
    pub max_batch: usize,
}

impl Loaded {
    /// KV blocks that a request takes at most.
    pub fn blocks_of(&self, request: &Request) -> usize {
        let new = request.samples * request.max_tokens.div_ceil(BLOCK_TOKENS);
        request.prompt.len().div_ceil(BLOCK_TOKENS) + new
    }
}

/// What one HTTP request wants.
pub struct Job {
    /// Its prompts; the choices of one follow those of the one before.
    pub requests: Vec<Request>,
    /// Texts that end its completions.
    pub stop: Vec<String>,
    /// Whether each token's log-prob is told.
    pub logprobs: bool,
    /// Who listens. A closed channel ends the job.
    pub events: UnboundedSender<Event>,
}

/// What becomes of a job.
#[derive(Debug)]
pub enum Event {
    /// More of a completion.
    Part {
        /// Which completion of the job.
        choice: usize,
        /// Text that has become certain; possibly none.
        text: String,
        /// The token, where log-probs are wanted.
        token: Option<TokenLogprob>,
    },
    /// The end of a completion.
    Finished {
        /// Which completion of the job.
        choice: usize,
        /// The rest of its text.
        text: String,
        /// Why it ended.
        finish: Finish,
        /// How many tokens it has.
        tokens: usize,
    },
    /// The end of the job, without what is missing.
    Failed(String),
}

/// Jobs that are run together at most.
const MOST_JOBS: usize = 256;

/// Runs jobs until nobody can send any more.
pub fn run(loaded: &Loaded, mut jobs: Receiver<Job>, interrupt: &AtomicBool) {
    let mut engine = Engine::new(&loaded.cpu, &loaded.base.model, loaded.blocks);
    let adapters = match &loaded.factors {
        None => Adapters::NONE,
        Some(factors) => Adapters { factors: Some(factors), r: &loaded.matrices },
    };
    let policy = Policy::new(&loaded.base.model, adapters);
    while let Some(first) = jobs.blocking_recv() {
        let mut batch = vec![first];
        while batch.len() < MOST_JOBS
            && let Ok(job) = jobs.try_recv()
        {
            batch.push(job);
        }
        batch.retain(|job| !job.events.is_closed());
        run_batch(loaded, &mut engine, policy, &batch, interrupt);
    }
}

/// Where the completions of one request of the engine belong.
struct Place<'a> {
    job: &'a Job,
    first_choice: usize,
    samples: Vec<Sample>,
}

/// One completion while it is written.
struct Sample {
    /// None: finished.
    text: Option<TextStream>,
    tokens: Vec<u32>,
}

/// Each request's own stop texts; and nobody listening.
struct BatchStop<'a>(Vec<(&'a Job, TextStop<'a>)>);

impl Stop for BatchStop<'_> {
    fn is_end(&self, request: usize, tokens: &[u32]) -> bool {
        let (job, stop) = &self.0[request];
        job.events.is_closed() || stop.is_end(request, tokens)
    }
}

fn run_batch(
    loaded: &Loaded,
    engine: &mut Engine<'_>,
    policy: Policy<'_>,
    batch: &[Job],
    interrupt: &AtomicBool,
) {
    let tokenizer = &loaded.base.tokenizer;
    let mut requests = Vec::new();
    let mut places = Vec::new();
    let mut stops = Vec::new();
    for job in batch {
        let mut first_choice = 0;
        for request in &job.requests {
            let sample = |_| Sample { text: Some(TextStream::new(tokenizer, &job.stop)), tokens: Vec::new() };
            let samples = (0..request.samples).map(sample).collect();
            stops.push((job, TextStop::new(tokenizer, &job.stop)));
            places.push(Place { job, first_choice, samples });
            first_choice += request.samples;
            requests.push(request.clone());
        }
    }
    let stop = BatchStop(stops);
    let options = GenerateOptions { max_batch: loaded.max_batch, stop: &stop, interrupt };
    let mut observe = |progress: Progress<'_>| match progress {
        Progress::Token { request, sample, token } => {
            let Place { job, first_choice, samples } = &mut places[request];
            let Sample { text, tokens } = &mut samples[sample];
            tokens.push(token.token);
            let text = text.as_mut().map(|text| text.push(token.token)).unwrap_or_default();
            let logprob = job.logprobs.then(|| TokenLogprob {
                text: tokenizer.decode_with_special(&[token.token]),
                logprob: token.logprob,
            });
            if !text.is_empty() || logprob.is_some() {
                // Whoever has gone away is noticed after this token.
                let choice = *first_choice + sample;
                let _ = job.events.send(Event::Part { choice, text, token: logprob });
            }
        }
        Progress::Finished { request, sample } => {
            let Place { job, first_choice, samples } = &mut places[request];
            let Sample { text, tokens } = &mut samples[sample];
            let finish = if stop.is_end(request, tokens) { Finish::Stop } else { Finish::Length };
            let text = text.take().map(TextStream::finish).unwrap_or_default();
            let choice = *first_choice + sample;
            let _ = job.events.send(Event::Finished { choice, text, finish, tokens: tokens.len() });
        }
    };
    if let Err(error) = engine.generate(policy, &requests, &options, &mut observe) {
        for job in batch {
            let _ = job.events.send(Event::Failed(error.to_string()));
        }
    }
}
