//! Completion text and the problem it answers enter; scores leave. Text alone decides: no model is asked,
//! and a reward that cannot be had is an error, never a 0.

mod answer;
mod command;
mod overlong;

pub use answer::{boxed_strict, flexible, gsm8k_strict, plain_strict, strict};
pub use command::CommandGrader;
pub use overlong::overlong_penalty;

use crate::data::Problem;
use crate::recipe::{AnswerFormat, RewardSection, Scorer};
use std::time::Duration;
use tinylora_verify::{Gold, Prediction, Verdict, verify};

/// A completion to be scored.
#[derive(Debug, Clone, Copy)]
pub struct RewardItem<'a> {
    /// What was asked.
    pub problem: &'a Problem,
    /// What the model wrote.
    pub completion: &'a str,
    /// It ended at the length limit. Told to an external command; the other scorers judge the text alone.
    pub truncated: bool,
}

/// The scores of one completion.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scores {
    /// The number to be learned from; finite.
    pub reward: f32,
    /// The strict rule of the task's answer format accepts it.
    pub strict: bool,
    /// Its last number is the gold answer.
    pub flexible: bool,
    /// The strict rule found an answer, right or wrong; without it, the form was missed.
    pub answered: bool,
    /// The verifier's verdict, where one of its scorers gives the reward.
    pub verdict: Option<Verdict>,
}

/// Why rewards cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum RewardError {
    /// The command cannot be started.
    #[error("cannot start the reward command `{command}`: {source}; check reward.command")]
    Start {
        /// Program and arguments.
        command: String,
        /// Why.
        source: std::io::Error,
    },
    /// The command ended while answers were due.
    #[error("the reward command `{command}` ended ({status}) after {answered} of {expected} answers{stderr}")]
    Ended {
        /// Program and arguments.
        command: String,
        /// Exit status or signal.
        status: String,
        /// Answers of this batch that had come.
        answered: usize,
        /// Completions in the batch.
        expected: usize,
        /// The end of what it wrote to standard error, introduced by words; empty if nothing.
        stderr: String,
    },
    /// The command took longer than the limit.
    #[error(
        "the reward command `{command}` gave {answered} of {expected} answers within reward.timeout_seconds = {seconds}; \
         does it answer every line at once and flush its output?{stderr}"
    )]
    TimedOut {
        /// Program and arguments.
        command: String,
        /// The limit.
        seconds: f64,
        /// Answers of this batch that had come.
        answered: usize,
        /// Completions in the batch.
        expected: usize,
        /// The end of its standard error.
        stderr: String,
    },
    /// The command wrote something that is no answer.
    #[error(
        "the reward command `{command}` answered completion {index} of the batch with {line}: {message}; \
         expected one line {{\"reward\": number}}{stderr}"
    )]
    BadAnswer {
        /// Program and arguments.
        command: String,
        /// Which completion of the batch, from 1.
        index: usize,
        /// What it wrote, shortened.
        line: String,
        /// What is wrong with it.
        message: String,
        /// The end of its standard error.
        stderr: String,
    },
    /// The command wrote more lines than it was asked for.
    #[error(
        "the reward command `{command}` wrote more lines than it was given completions, first {line}; \
         it must write exactly one line for each{stderr}"
    )]
    TooMany {
        /// Program and arguments.
        command: String,
        /// The first line too many, shortened.
        line: String,
        /// The end of its standard error.
        stderr: String,
    },
    /// The command failed before and is not started again.
    #[error("the reward command `{command}` failed before and was stopped; start the run again to go on")]
    Stopped {
        /// Program and arguments.
        command: String,
    },
}

/// Scores completions as a recipe says.
#[derive(Debug)]
pub struct Rewarder {
    scorer: Scorer,
    format: AnswerFormat,
    grader: Option<CommandGrader>,
}

impl Rewarder {
    /// Prepares the scorer; starts the external command, if there is one. `format` is the task's
    /// ([`crate::recipe::TaskSection::answer_format`]) and decides the strict score.
    pub fn open(section: &RewardSection, format: AnswerFormat) -> Result<Self, RewardError> {
        let grader = match section.scorer {
            Scorer::Command => Some(CommandGrader::start(
                &section.command,
                Duration::from_secs_f64(section.timeout_seconds),
            )?),
            _ => None,
        };
        Ok(Self { scorer: section.scorer, format, grader })
    }

    /// Scores a batch, in order.
    pub fn score(&mut self, items: &[RewardItem]) -> Result<Vec<Scores>, RewardError> {
        let commanded = match &mut self.grader {
            Some(grader) => Some(grader.grade(items)?),
            None => None,
        };
        let scores = items.iter().enumerate().map(|(i, item)| {
            let gold = &item.problem.gold;
            let found = strict(self.format, item.completion);
            let is_strict = answer::equals_strictly(found.as_deref(), gold);
            let is_flexible = flexible(item.completion, gold);
            let rule = |format| answer::equals_strictly(strict(format, item.completion).as_deref(), gold);
            let rules = self.scorer.rules();
            let verdict = rules.map(|rules| verify(rules, Gold(gold), Prediction(item.completion)));
            let reward = match (self.scorer, &commanded) {
                (_, Some(rewards)) => rewards[i],
                _ if verdict.is_some() => f32::from(verdict == Some(Verdict::Equal)),
                (Scorer::Gsm8kFlexible, _) => f32::from(is_flexible),
                (Scorer::Boxed, _) => f32::from(rule(AnswerFormat::Boxed)),
                (Scorer::Plain, _) => f32::from(rule(AnswerFormat::Plain)),
                _ => f32::from(rule(AnswerFormat::Hashes)),
            };
            Scores { reward, strict: is_strict, flexible: is_flexible, answered: found.is_some(), verdict }
        });
        Ok(scores.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores(scorer: Scorer, format: AnswerFormat, completion: &str) -> Scores {
        let problem =
            Problem { id: "p".into(), question: "q".into(), gold: "18".into(), solution: String::new() };
        let section = RewardSection { scorer, ..RewardSection::default() };
        let item = RewardItem { problem: &problem, completion, truncated: false };
        Rewarder::open(&section, format).unwrap().score(&[item]).unwrap()[0]
    }

    #[test]
    fn scorers() {
        use AnswerFormat::Hashes;
        use Scorer::{Gsm8kFlexible, Gsm8kStrict};
        let s =
            |reward, strict, flexible, answered| Scores { reward, strict, flexible, answered, verdict: None };
        assert_eq!(scores(Gsm8kStrict, Hashes, "9 + 9\n#### 18"), s(1.0, true, true, true));
        assert_eq!(scores(Gsm8kStrict, Hashes, "it is 18"), s(0.0, false, true, false));
        assert_eq!(scores(Gsm8kFlexible, Hashes, "it is 18"), s(1.0, false, true, false));
        assert_eq!(scores(Gsm8kFlexible, Hashes, "#### 17"), s(0.0, false, false, true));
        assert_eq!(
            scores(Scorer::Boxed, AnswerFormat::Boxed, "\\boxed{18} of 20"),
            s(1.0, true, false, true)
        );
        assert_eq!(scores(Scorer::Plain, AnswerFormat::Plain, "9 + 9 =\n18\n"), s(1.0, true, true, true));
    }

    #[test]
    fn the_verifier_as_reward() {
        let told = |scorer, completion| {
            let scores = scores(scorer, AnswerFormat::Boxed, completion);
            (scores.reward, scores.verdict)
        };
        assert_eq!(told(Scorer::Robust, "so \\boxed{\\frac{36}{2}}"), (1.0, Some(Verdict::Equal)));
        assert_eq!(told(Scorer::Robust, "so \\boxed{1800}"), (0.0, Some(Verdict::Different)));
        assert_eq!(told(Scorer::Robust, "so \\boxed{"), (0.0, Some(Verdict::PredictionUnparsed)));
        assert_eq!(told(Scorer::Qwen, "so \\boxed{1800}"), (1.0, Some(Verdict::Equal)));
        assert_eq!(told(Scorer::Math, "so \\boxed{18}"), (1.0, Some(Verdict::Equal)));
        assert_eq!(told(Scorer::MathVerify, "so $\\boxed{18.0}$"), (1.0, Some(Verdict::Equal)));
    }
}
