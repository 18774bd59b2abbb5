//! Problems with solutions, or rows of examples, enter; tokens to learn from leave: a prompt as generation would see it,
//! what follows, and which of that is learned. Nothing here trains.

use crate::data::{Content, DataError, Example, Problem, Prompt, TaskData, permutation, read_examples};
use crate::gradient::{TrainingCompletion, TrainingGroup};
use crate::hub::{HubOptions, Progress};
use crate::recipe::{LossTokens, Recipe, TooLong};
use crate::rollout::encode_prompt;
use crate::tokenizer::{Message, Tokenizer, TokenizerError};
use std::collections::HashSet;

/// Why an example can't be learned from.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages say it
pub enum LessonError {
    #[error(
        "{id} has no solution to learn from (learner = \"sft\"): JSONL rows need one in task.answer_field; \
         for data without solutions use learner = \"grpo\""
    )]
    NoSolution { id: String },
    #[error(
        "{id} has {tokens} tokens behind its prompt, but rollout.max_tokens is {limit}: raise it to {tokens} or more, \
         leave the row out, or set sft.too_long = \"skip\""
    )]
    TooLong { id: String, tokens: usize, limit: usize },
    #[error(
        "{id} has {tokens} tokens, but the model is set up for {positions}: leave the row out, or set \
         sft.too_long = \"skip\""
    )]
    BeyondModel { id: String, tokens: usize, positions: usize },
    #[error(
        "{id} is a conversation, and the model has no chat template or model.chat_template is false: give rows of prompt \
         and completion"
    )]
    NoTemplate { id: String },
    #[error(
        "{id}, message {turn}: the chat template does not keep the prompt that generation sees ({prompt:?} …) as it is when \
         the answer stands behind it, so that learning and generation would see other tokens; {remedy}"
    )]
    NotAPrefix { id: String, turn: usize, prompt: String, remedy: &'static str },
    #[error("{id}: {source}")]
    Tokenizer { id: String, source: Box<TokenizerError> },
    #[error("no example is left to learn from: {left_out}")]
    Nothing { left_out: String },
}

/// What supervised finetuning learns from.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Lessons {
    /// Made from the task's stream of problems as they are asked for.
    Endless,
    /// A known number, shuffled anew in each epoch.
    Rows {
        /// In the order of the data, each with one completion.
        rows: Vec<TrainingGroup>,
        /// Seed of their order.
        seed: u64,
    },
}

/// How a run sees its examples.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    pub recipe: &'a Recipe,
    pub tokenizer: &'a Tokenizer,
    pub data: &'a TaskData,
    /// Longest sequence that the model is set up for, in tokens.
    pub positions: usize,
}

impl Reader<'_> {
    /// Reads all examples, if there is an end to them. Those with one of the prompts `held_out` are left out, and with
    /// `sft.too_long = "skip"` the long ones. Gives what to tell of it as well.
    pub fn open(
        self,
        held_out: &HashSet<&[u32]>,
        options: &HubOptions,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(Lessons, Vec<String>), ReadError> {
        let section = &self.recipe.sft;
        let examples = match (section.data.is_empty(), self.data.training_rows()) {
            (true, None) => return Ok((Lessons::Endless, Vec::new())),
            (true, Some(problems)) => problems.iter().map(|problem| self.of_problem(problem)).collect(),
            (false, _) => read_examples(section, options, progress)?
                .iter()
                .map(|example| self.of_example(example))
                .collect::<Vec<_>>(),
        };
        let of = examples.len();
        let (mut rows, mut long, mut known) = (Vec::with_capacity(of), 0, 0);
        for example in examples {
            match example {
                Ok(group) if held_out.contains(&group.prompt[..]) => known += 1,
                Ok(group) => rows.push(self.with_loss(group)),
                Err(LessonError::TooLong { .. } | LessonError::BeyondModel { .. })
                    if section.too_long == TooLong::Skip =>
                {
                    long += 1;
                }
                Err(error) => return Err(error.into()),
            }
        }
        let limit = self.recipe.rollout.max_tokens;
        let told: Vec<String> = [
            (long, format!("longer than rollout.max_tokens = {limit}")),
            (known, "held out for the evaluation".to_owned()),
        ]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, why)| format!("{count} of {of} examples are left out: {why}"))
        .collect();
        match rows.is_empty() {
            true => Err(LessonError::Nothing { left_out: told.join("; ") }.into()),
            false => Ok((Lessons::Rows { rows, seed: self.recipe.seed }, told)),
        }
    }

    /// A problem of an endless task.
    pub fn lesson(self, problem: &Problem) -> Result<TrainingGroup, LessonError> {
        self.of_problem(problem).map(|group| self.with_loss(group))
    }

    fn of_problem(self, problem: &Problem) -> Result<TrainingGroup, LessonError> {
        let id = &problem.id;
        if problem.solution.trim().is_empty() {
            return Err(LessonError::NoSolution { id: id.clone() });
        }
        self.answered(id, self.data.prompt(problem), &problem.solution)
    }

    fn of_example(self, example: &Example) -> Result<TrainingGroup, LessonError> {
        let id = &example.id;
        let system = &self.recipe.model.system;
        match &example.content {
            Content::Conversation { messages, given } => {
                if !self.chat() {
                    return Err(LessonError::NoTemplate { id: id.clone() });
                }
                let prompt = Prompt { messages: messages.clone(), text: String::new() }.with_system(system);
                let given = given + prompt.messages.len() - messages.len();
                self.conversation(id, &prompt.messages, given)
            }
            Content::Completion { prompt, completion } => {
                let asked = Message { role: "user".into(), content: prompt.clone() };
                let prompt = Prompt { messages: vec![asked], text: prompt.clone() };
                self.answered(id, prompt.with_system(system), completion)
            }
            Content::Answer { question, answer } => {
                let problem = Problem {
                    id: id.clone(),
                    question: question.clone(),
                    gold: String::new(),
                    solution: answer.clone(),
                };
                self.of_problem(&problem)
            }
        }
    }

    fn chat(self) -> bool {
        self.recipe.model.chat_template && self.tokenizer.has_chat_template()
    }

    /// A prompt and the assistant's answer to it; of a plain text, the answer closed by the model's end token.
    fn answered(self, id: &str, prompt: Prompt, answer: &str) -> Result<TrainingGroup, LessonError> {
        if self.chat() {
            let given = prompt.messages.len();
            let answer = Message { role: "assistant".into(), content: answer.to_owned() };
            let messages: Vec<Message> = prompt.messages.into_iter().chain([answer]).collect();
            return self.conversation(id, &messages, given);
        }
        let failed = |source| LessonError::Tokenizer { id: id.to_owned(), source: Box::new(source) };
        let prompt = encode_prompt(self.tokenizer, &prompt, false).map_err(failed)?;
        let mut tokens = self.tokenizer.encode(answer, false).map_err(failed)?;
        tokens.extend(self.tokenizer.end_tokens().first());
        self.checked(id, prompt, tokens, Vec::new())
    }

    /// The tokens of a conversation. Each turn of the assistant that is learned begins exactly where generation would have
    /// begun it: the template's text with the generation prompt, and its tokens, must be a beginning of the text and tokens
    /// with the answer.
    fn conversation(
        self,
        id: &str,
        messages: &[Message],
        given: usize,
    ) -> Result<TrainingGroup, LessonError> {
        let failed = |source| LessonError::Tokenizer { id: id.to_owned(), source: Box::new(source) };
        let messages: Vec<Message> = messages.iter().cloned().map(without_leading_blank).collect();
        let mut turns: Vec<usize> =
            (given..messages.len()).filter(|&at| messages[at].role == "assistant").collect();
        if self.recipe.sft.loss_on == LossTokens::Last {
            turns.drain(..turns.len() - 1);
        }
        let (mut prompt, mut all, mut learned) = (0, Vec::new(), Vec::new());
        for &turn in &turns {
            let asked = self.tokenizer.apply_chat_template(&messages[..turn], true).map_err(failed)?;
            let answered = self.tokenizer.apply_chat_template(&messages[..=turn], false).map_err(failed)?;
            let before = self.tokenizer.encode(&asked, false).map_err(failed)?;
            let after = self.tokenizer.encode(&answered, false).map_err(failed)?;
            let first = turn == turns[0];
            let keeps =
                before.starts_with(&all) && answered.starts_with(&asked) && after.starts_with(&before);
            if !keeps {
                return Err(not_a_prefix(id, turn, &asked, first));
            }
            if first {
                prompt = before.len();
            }
            let said = &after[before.len()..];
            let end = said.iter().position(|token| self.tokenizer.end_tokens().contains(token));
            learned.resize(before.len(), false);
            learned.resize(before.len() + end.map_or(said.len(), |end| end + 1), true);
            learned.resize(after.len(), false);
            all = after;
            if turn + 1 == messages.len() {
                // Generation ends at the end token; a template without one gets the model's own.
                all.truncate(learned.iter().rposition(|learned| *learned).map_or(0, |last| last + 1));
                learned.truncate(all.len());
                if end.is_none()
                    && let Some(&end) = self.tokenizer.end_tokens().first()
                {
                    all.push(end);
                    learned.push(true);
                }
            }
        }
        let tokens = all.split_off(prompt.min(all.len()));
        let learned = learned.split_off(prompt.min(learned.len()));
        let learned = if learned.iter().all(|learned| *learned) { Vec::new() } else { learned };
        self.checked(id, all, tokens, learned)
    }

    /// Puts an example together, if its length is allowed.
    fn checked(
        self,
        id: &str,
        prompt: Vec<u32>,
        tokens: Vec<u32>,
        learned: Vec<bool>,
    ) -> Result<TrainingGroup, LessonError> {
        let (limit, positions) = (self.recipe.rollout.max_tokens, self.positions);
        let id = || id.to_owned();
        if prompt.is_empty() || tokens.is_empty() {
            return Err(LessonError::NoSolution { id: id() });
        }
        if tokens.len() > limit {
            return Err(LessonError::TooLong { id: id(), tokens: tokens.len(), limit });
        }
        let length = prompt.len() + tokens.len();
        if length > positions {
            return Err(LessonError::BeyondModel { id: id(), tokens: length, positions });
        }
        let completion = TrainingCompletion { tokens, learned, ..Default::default() };
        Ok(TrainingGroup { prompt, completions: vec![completion] })
    }

    /// Where the loss is over all tokens, the first stands for the prompt and the others for the completion.
    fn with_loss(self, mut group: TrainingGroup) -> TrainingGroup {
        if self.recipe.sft.loss_on == LossTokens::All {
            let completion = &mut group.completions[0];
            completion.tokens.splice(0..0, group.prompt.drain(1..));
            completion.learned = Vec::new();
        }
        group
    }
}

/// An assistant's turn begins without a blank, as generation's does.
fn without_leading_blank(mut message: Message) -> Message {
    if message.role == "assistant" {
        message.content = message.content.trim_start().to_owned();
    }
    message
}

fn not_a_prefix(id: &str, turn: usize, asked: &str, first: bool) -> LessonError {
    let end: Vec<char> = asked.chars().rev().take(40).collect();
    LessonError::NotAPrefix {
        id: id.to_owned(),
        turn: turn + 1,
        prompt: end.into_iter().rev().collect(),
        remedy: match first {
            true => "use model.chat_template = false",
            false => "learn from the last turn alone, by sft.loss_on = \"last\"",
        },
    }
}

/// Why there are no examples.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // each passes on its source
pub(super) enum ReadError {
    #[error(transparent)]
    Lesson(#[from] LessonError),
    #[error(transparent)]
    Data(#[from] DataError),
}

impl Lessons {
    /// `n` examples from position `first` of the training stream on; none where they are made from problems.
    pub fn at(&self, first: u64, n: usize) -> Vec<TrainingGroup> {
        let Self::Rows { rows, seed } = self else { return Vec::new() };
        let count = rows.len() as u64;
        let mut order = (u64::MAX, Vec::new());
        let mut batch = Vec::with_capacity(n);
        for position in first..first + n as u64 {
            let epoch = position / count;
            if order.0 != epoch {
                order = (epoch, permutation(*seed, epoch, rows.len()));
            }
            batch.push(rows[order.1[(position % count) as usize]].clone());
        }
        batch
    }

    /// How many there are; None: they have no end.
    pub fn count(&self) -> Option<usize> {
        match self {
            Self::Endless => None,
            Self::Rows { rows, .. } => Some(rows.len()),
        }
    }

    /// Tokens of the longest; 0 where they are not known beforehand.
    pub fn longest(&self) -> usize {
        let Self::Rows { rows, .. } = self else { return 0 };
        let length = |group: &TrainingGroup| group.prompt.len() + group.completions[0].tokens.len();
        rows.iter().map(length).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests;
