//! The events of a run enter, what a display needs of them is kept.

use crate::loading::{self, News};
use crate::meter::Meter;
use std::collections::VecDeque;
use std::time::Duration;
use tinylora::run_folder::EvalResult;
use tinylora::train::{Event, StepMetrics};

/// What is known of a run.
#[derive(Debug, Default)]
pub struct View {
    /// Steps done.
    pub done: u64,
    /// Steps in all; 0 before the start.
    pub steps: u64,
    /// When the first step of this process began.
    pub started: Option<Duration>,
    /// Mean reward of each step seen.
    pub rewards: Vec<f64>,
    /// Loss of each step.
    pub losses: Vec<f64>,
    /// Accuracy of each step seen.
    pub accuracies: Vec<f64>,
    /// The newest metrics.
    pub last: Option<StepMetrics>,
    /// The trained numbers.
    pub v: Vec<f32>,
    /// The work of this moment.
    pub meter: Option<Meter>,
    /// Tokens sampled so far in the rollout of this moment.
    pub tokens: u64,
    /// Evaluations so far, by name.
    pub evaluations: Vec<(String, EvalResult)>,
    /// Times of the last steps' ends.
    ends: VecDeque<Duration>,
}

/// Steps over whose times the time left is estimated.
const RECENT_STEPS: usize = 20;

impl View {
    /// Takes an event that happened at `now`.
    pub fn take(&mut self, event: &Event<'_>, now: Duration) -> News {
        match event {
            Event::Loading(news) => loading::advance(&mut self.meter, news, now),
            Event::Rollout { what, done, total, tokens } => {
                self.tokens = *tokens;
                loading::work(&mut self.meter, what, "completions", (*done as u64, *total as u64), now)
            }
            Event::Start { done, steps, .. } => {
                (self.done, self.steps, self.started) = (*done, *steps, Some(now));
                self.meter = None;
                self.ends = VecDeque::from([now]);
                News::GoesOn
            }
            Event::Step { metrics, v } => {
                self.done = metrics.step;
                self.losses.push(metrics.loss);
                self.rewards.push(metrics.reward_mean);
                self.accuracies.push(metrics.accuracy);
                self.last = Some((*metrics).clone());
                self.v = v.to_vec();
                self.meter = None;
                self.ends.push_back(now);
                if self.ends.len() > RECENT_STEPS + 1 {
                    self.ends.pop_front();
                }
                News::GoesOn
            }
            Event::Evaluation { when, result } => {
                self.evaluations.push(((*when).to_owned(), (*result).clone()));
                self.meter = None;
                News::GoesOn
            }
            Event::Message(_) | Event::Memory(_) | Event::Sample(_) | Event::Checkpoint(_) => News::GoesOn,
        }
    }

    /// The time that the steps left will take at the pace of the last ones.
    pub fn left(&self) -> Option<Duration> {
        let (first, last) = (self.ends.front()?, self.ends.back()?);
        let seen = self.ends.len() as u32 - 1;
        if seen == 0 {
            return None;
        }
        let left = self.steps.saturating_sub(self.done);
        Some(Duration::from_secs_f64(
            last.saturating_sub(*first).as_secs_f64() / f64::from(seen) * left as f64,
        ))
    }
}
