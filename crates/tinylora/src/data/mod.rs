//! A recipe's `[task]` enters; problems and their prompts leave. Every batch is a pure function of the
//! recipe and a step number, so that a resumed run needs no more than the step. Nothing here tokenizes or
//! scores; where files are is [`crate::hub`]'s concern.

mod arithmetic;
pub mod benchmark;
mod examples;
pub(crate) mod jsonl;
pub(crate) mod parquet;
mod source;
mod words;

use crate::hub::{self, DataFiles, DataRole, HubError, HubOptions, Progress};
use crate::recipe::{BenchmarkTask, JsonlTask, Recipe, Split, TaskSection};
use crate::tokenizer::Message;
use arithmetic::Arithmetic;
use benchmark::{BenchmarkError, Prompting};
use jsonl::Rows;

pub use examples::{Content, Example, read_examples};
pub use jsonl::gold_of_answer;
pub(crate) use jsonl::permutation;

/// A question with its right answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Names the problem within its task: `sum:3+14+6`, or `train.jsonl:12` for line 12 of a file.
    pub id: String,
    /// The question alone, without worked examples.
    pub question: String,
    /// The right answer.
    pub gold: String,
    /// The data's own way to it, which supervised finetuning learns; empty: the data have none.
    pub solution: String,
}

/// What the model is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// The conversation so far: the system message, if there is one, worked examples as turns, the question.
    pub messages: Vec<Message>,
    /// The same as one text, for a model that is used without its chat template.
    pub text: String,
}

/// Why a task cannot give its problems.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A data file cannot be read.
    #[error("cannot read {file} ({key}): {source}")]
    Read {
        /// The file.
        file: String,
        /// The recipe's key that names it, such as `task.train`.
        key: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// A benchmark's problems cannot be had.
    #[error(transparent)]
    Benchmark(#[from] BenchmarkError),
    /// A data reference leads to no files.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// A data file cannot be used.
    #[error("{file}: {message}")]
    File {
        /// The file.
        file: String,
        /// What is wrong, with the field's name.
        message: String,
    },
    /// A line of a data file cannot be used.
    #[error("{file}:{line}: {message}")]
    Line {
        /// The file.
        file: String,
        /// The line (in an array or a parquet file the row), from 1.
        line: usize,
        /// What is wrong, with the field's name.
        message: String,
    },
    /// Fewer held-out problems than are asked for.
    #[error("{asked} held-out problems are asked for, {what} gives {available}: {remedy}")]
    HeldOut {
        /// How many are asked for.
        asked: usize,
        /// How many there are.
        available: usize,
        /// Where they come from.
        what: String,
        /// What to do.
        remedy: &'static str,
    },
    /// Nothing to train on.
    #[error("{what} leaves no problem to train on: {remedy}")]
    NothingToTrain {
        /// Where they would come from.
        what: String,
        /// What to do.
        remedy: &'static str,
    },
    /// Not enough different worked examples.
    #[error(
        "task.examples = {asked}, but the training side of {what} has only {available} that differ: {remedy}"
    )]
    Examples {
        /// How many are asked for.
        asked: usize,
        /// How many there are.
        available: usize,
        /// Where they come from.
        what: String,
        /// What to do.
        remedy: &'static str,
    },
}

/// The problems of a recipe: training stream and held-out set.
#[derive(Debug)]
pub struct TaskData {
    source: Source,
    system: String,
}

#[derive(Debug)]
enum Source {
    Arithmetic(Arithmetic),
    Jsonl(Rows),
    Benchmark(Rows, Prompting),
    Nothing,
}

/// Finds the files of a data reference.
type Fetch<'a> = &'a mut dyn FnMut(&str, DataRole) -> Result<DataFiles, HubError>;

impl TaskData {
    /// Prepares a recipe's task; fetches and reads the data files, if it has any. An error where the recipe's
    /// `eval.problems` cannot be met or nothing is left to train on.
    pub fn open(
        recipe: &Recipe,
        options: &HubOptions,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, DataError> {
        let fetch: Fetch<'_> =
            &mut |reference, role| hub::resolve_data(reference, role, options, &mut *progress);
        let source = match &recipe.task {
            TaskSection::Arithmetic(task) => {
                Source::Arithmetic(Arithmetic::open(task, recipe.seed, recipe.eval.problems)?)
            }
            TaskSection::Jsonl(task) => {
                Source::Jsonl(Rows::open(task, recipe.seed, recipe.eval.problems, fetch)?)
            }
            TaskSection::Benchmark(task) => open_benchmark(task, recipe, options, progress)?,
            TaskSection::Nothing => Source::Nothing,
        };
        Ok(Self { source, system: recipe.model.system.clone() })
    }

    /// Data for evaluation alone: every row of `task.train` is held out, and training batches are empty.
    pub fn for_evaluation(
        task: &JsonlTask,
        system: &str,
        options: &HubOptions,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, DataError> {
        let fetch: Fetch<'_> =
            &mut |reference, role| hub::resolve_data(reference, role, options, &mut *progress);
        Ok(Self { source: Source::Jsonl(Rows::open_all_held_out(task, fetch)?), system: system.to_owned() })
    }

    /// The same as [`TaskData::open`] without a Hub.
    #[cfg(test)]
    pub(crate) fn open_local(recipe: &Recipe) -> Result<Self, DataError> {
        let options = HubOptions { offline: true, ..HubOptions::from_lookup(|_| None) };
        Self::open(recipe, &options, &mut |_| {})
    }

    /// The problems of a step (from 0) with `n` prompts a step. Steps follow each other without a gap; in a
    /// data set, a batch may hold the end of one epoch and the start of the next.
    pub fn train_batch(&self, step: u64, n: usize) -> Vec<Problem> {
        self.train_problems(step * n as u64, n)
    }

    /// `n` problems of the training stream from position `first` (from 0) on.
    pub fn train_problems(&self, first: u64, n: usize) -> Vec<Problem> {
        match &self.source {
            Source::Arithmetic(task) => task.train_problems(first, n),
            Source::Jsonl(rows) | Source::Benchmark(rows, _) => rows.train_problems(first, n),
            Source::Nothing => Vec::new(),
        }
    }

    /// All problems to train on, in the order of the data; none where the task has no end.
    pub fn training_rows(&self) -> Option<&[Problem]> {
        match &self.source {
            Source::Arithmetic(_) => None,
            Source::Jsonl(rows) | Source::Benchmark(rows, _) => Some(rows.training_rows()),
            Source::Nothing => Some(&[]),
        }
    }

    /// The first `n` held-out problems: the same ones for every seed, and none of them ever trained on.
    /// At most the recipe's `eval.problems`; asking for more is an error.
    pub fn held_out(&self, n: usize) -> Result<Vec<Problem>, DataError> {
        let all = self.all_held_out();
        match all.get(..n) {
            Some(first) => Ok(first.to_vec()),
            None => Err(DataError::HeldOut {
                asked: n,
                available: all.len(),
                what: "the recipe".into(),
                remedy: "raise eval.problems",
            }),
        }
    }

    /// All held-out problems.
    pub fn all_held_out(&self) -> &[Problem] {
        match &self.source {
            Source::Arithmetic(task) => task.held_out(),
            Source::Jsonl(rows) | Source::Benchmark(rows, _) => rows.held_out(),
            Source::Nothing => &[],
        }
    }

    /// Steps that one pass over the training problems takes, the last batch counted as whole; none where
    /// the task has no end.
    pub fn steps_per_epoch(&self, prompts_per_step: usize) -> Option<usize> {
        self.training_rows().map(|rows| rows.len().div_ceil(prompts_per_step.max(1)))
    }

    /// What the user's message says: worked examples and question, or the filled template.
    pub fn prompt_text(&self, problem: &Problem) -> String {
        match &self.source {
            Source::Arithmetic(task) => task.prompt_text(problem),
            Source::Jsonl(rows) => rows.prompt_text(problem),
            Source::Benchmark(_, prompting) => prompting.text(&problem.question),
            Source::Nothing => problem.question.clone(),
        }
    }

    /// The whole prompt: the recipe's system message, if it has one, worked examples and the question.
    pub fn prompt(&self, problem: &Problem) -> Prompt {
        let text = self.prompt_text(problem);
        let messages = match &self.source {
            Source::Arithmetic(task) => task.messages(problem),
            Source::Benchmark(_, prompting) => prompting.messages(&problem.question),
            Source::Jsonl(_) | Source::Nothing => {
                vec![Message { role: "user".into(), content: text.clone() }]
            }
        };
        Prompt { messages, text }.with_system(&self.system)
    }
}

impl Prompt {
    /// With a system message before all others, unless it is empty or the conversation has one.
    pub fn with_system(self, system: &str) -> Self {
        if system.is_empty() || self.messages.first().is_some_and(|message| message.role == "system") {
            return self;
        }
        let message = Message { role: "system".into(), content: system.to_owned() };
        let text = format!("{system}\n\n{}", self.text);
        Self { messages: [message].into_iter().chain(self.messages).collect(), text }
    }
}

/// A benchmark's training rows that have an answer to be rewarded for, and the first of its test rows.
fn open_benchmark(
    task: &BenchmarkTask,
    recipe: &Recipe,
    options: &HubOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<Source, DataError> {
    let format = task.format().expect("a validated recipe has a known format");
    let prompting = Prompting::new(task.name, format, task.shots)?;
    let train = benchmark::open(task.name, Split::Train, &task.train, options, progress)?;
    let file = train.path.display().to_string();
    let train = train.problems.into_iter().map(|row| row.problem).filter(|problem| !problem.gold.is_empty());
    let held_out = match recipe.eval.problems {
        0 => Vec::new(),
        _ => benchmark::open(task.name, Split::Test, &task.test, options, progress)?.problems,
    };
    let held_out = held_out.into_iter().map(|row| row.problem).collect();
    let rows = Rows::of(train.collect(), held_out, recipe.seed, recipe.eval.problems, &file)?;
    Ok(Source::Benchmark(rows, prompting))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn benchmarks_are_trained_on_their_training_rows_alone() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("gsm8k")).unwrap();
        let rows = |range: std::ops::Range<usize>| -> String {
            range
                .map(|i| format!("{{\"question\": \"q{i}\", \"answer\": \"so\\n#### 1,00{i}\"}}\n"))
                .collect()
        };
        std::fs::write(folder.path().join("gsm8k/train.jsonl"), rows(0..8)).unwrap();
        std::fs::write(folder.path().join("gsm8k/test.jsonl"), rows(7..10)).unwrap();
        let text = |problems: usize| {
            let at = folder.path();
            format!(
                "name = \"a\"\n[model]\nref = \"m\"\n[task]\nkind = \"benchmark\"\nname = \"gsm8k\"\ntrain = {at:?}\n\
                 test = {at:?}\nshots = 1\n[eval]\nproblems = {problems}\n"
            )
        };
        let data = TaskData::open_local(&Recipe::from_toml(&text(2), &[]).unwrap()).unwrap();
        assert_eq!(data.steps_per_epoch(1), Some(7), "q7 is held out");
        let held_out = data.held_out(2).unwrap();
        assert_eq!((held_out[0].id.as_str(), held_out[1].gold.as_str()), ("gsm8k/1", "1008"));
        assert!(data.train_batch(0, 7).iter().all(|problem| problem.id.starts_with("gsm8k/train/")));
        let prompt = data.prompt(&held_out[0]);
        assert_eq!(prompt.messages.len(), 3);
        assert!(
            prompt.text.ends_with("q7 Let's think step by step and output the final answer after \"####\".")
        );
        let message =
            TaskData::open_local(&Recipe::from_toml(&text(9), &[]).unwrap()).unwrap_err().to_string();
        assert!(
            message.contains("9 held-out problems are asked for") && message.contains("gives 3"),
            "{message}"
        );
    }
}
