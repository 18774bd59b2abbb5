//! Requests enter, shares of them go to the devices that a model lies on, a thread each; completions leave in the order of the
//! requests. News of all of them are told on the calling thread, those of one sequence in their order.

use super::{Completion, EngineError, GenerateOptions, Lane, Progress, Request, Sampled, Stop};
use crate::model::Policy;
use std::sync::mpsc;

/// What a thread tells, with the request's number among all.
enum News {
    Token(usize, usize, Sampled),
    Finished(usize, usize),
}

/// A share's view of what ends completions of all requests.
struct StopOfShare<'a> {
    stop: &'a dyn Stop,
    first: usize,
}

impl Stop for StopOfShare<'_> {
    fn is_end(&self, request: usize, tokens: &[u32]) -> bool {
        self.stop.is_end(self.first + request, tokens)
    }
}

/// Completes all requests, an equal share on each device, in their order.
pub(super) fn generate(
    lanes: &mut [Lane<'_>],
    policy: Policy<'_>,
    requests: &[Request],
    options: &GenerateOptions<'_>,
    observe: &mut dyn FnMut(Progress<'_>),
) -> Result<Vec<Vec<Completion>>, EngineError> {
    let share = requests.len().div_ceil(lanes.len()).max(1);
    let (sender, receiver) = mpsc::channel();
    std::thread::scope(|scope| {
        let shares = lanes.iter_mut().zip(requests.chunks(share)).enumerate();
        let running: Vec<_> = shares
            .map(|(index, (lane, requests))| {
                let (sender, first) = (sender.clone(), index * share);
                scope.spawn(move || {
                    let stop = StopOfShare { stop: options.stop, first };
                    let options = GenerateOptions { stop: &stop, ..*options };
                    // Nobody listens any more only where the calling thread panics.
                    let mut tell = |news: Progress<'_>| drop(sender.send(News::of(news, first)));
                    let done = lane.generate(policy.on(index), requests, &options, &mut tell);
                    done.map_err(|error| error.of_share(first))
                })
            })
            .collect();
        drop(sender);
        for news in receiver {
            observe(news.progress());
        }
        let join = |thread: std::thread::ScopedJoinHandle<'_, Result<Vec<Vec<Completion>>, EngineError>>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        let all: Vec<Result<_, _>> = running.into_iter().map(join).collect();
        let shares: Result<Vec<_>, EngineError> = all.into_iter().collect();
        Ok(shares?.into_iter().flatten().collect())
    })
}

impl News {
    fn of(progress: Progress<'_>, first: usize) -> Self {
        match progress {
            Progress::Token { request, sample, token } => Self::Token(first + request, sample, token.clone()),
            Progress::Finished { request, sample } => Self::Finished(first + request, sample),
        }
    }

    fn progress(&self) -> Progress<'_> {
        match self {
            Self::Token(request, sample, token) => {
                Progress::Token { request: *request, sample: *sample, token }
            }
            Self::Finished(request, sample) => Progress::Finished { request: *request, sample: *sample },
        }
    }
}

impl EngineError {
    /// The error with the request's number among all.
    fn of_share(mut self, first: usize) -> Self {
        match &mut self {
            Self::EmptyPrompt { request }
            | Self::TooLong { request, .. }
            | Self::CacheTooSmall { request, .. }
            | Self::UnknownToken { request, .. }
            | Self::NotFinite { request, .. } => *request += first,
            Self::Device(_) | Self::Interrupted => {}
        }
        self
    }
}
