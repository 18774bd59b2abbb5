//! A prompt format, worked examples and a question enter, a prompt leaves: a conversation with the examples as turns,
//! and the same as plain text.

use super::{BenchmarkError, BenchmarkProblem, Example, own_examples};
use crate::data::Prompt;
use crate::recipe::{AnswerFormat, Benchmark, PromptFormat};
use crate::tokenizer::Message;

/// How the questions of a benchmark are put.
#[derive(Debug, Clone)]
pub struct Prompting {
    format: &'static PromptFormat,
    answer: AnswerFormat,
    /// (message, worked answer)
    examples: Vec<(String, String)>,
}

impl Prompting {
    /// With `shots` of our own worked examples.
    pub fn new(
        benchmark: Benchmark,
        format: &'static PromptFormat,
        shots: usize,
    ) -> Result<Self, BenchmarkError> {
        let own = own_examples(benchmark);
        let examples = take(own.iter().cloned(), own.len(), shots, "tinylora's own pool")?;
        Ok(Self::with(benchmark, format, &examples))
    }

    /// With the first `shots` rows of a file whose questions are not asked; those without a worked solution are
    /// passed over.
    pub fn from_rows(
        benchmark: Benchmark,
        format: &'static PromptFormat,
        shots: usize,
        (file, rows): (&str, &[BenchmarkProblem]),
        asked: &[BenchmarkProblem],
    ) -> Result<Self, BenchmarkError> {
        let usable: Vec<Example> = rows
            .iter()
            .filter(|row| !row.problem.solution.is_empty() && !row.problem.gold.is_empty())
            .filter(|row| !asked.iter().any(|other| other.problem.question == row.problem.question))
            .map(|row| Example {
                question: row.problem.question.clone(),
                reasoning: row.problem.solution.clone(),
                answer: row.problem.gold.clone(),
            })
            .collect();
        let available = usable.len();
        Ok(Self::with(benchmark, format, &take(usable.into_iter(), available, shots, file)?))
    }

    fn with(benchmark: Benchmark, format: &'static PromptFormat, examples: &[Example]) -> Self {
        let answer = format.answer_for(benchmark);
        let examples = examples
            .iter()
            .map(|example| (format.message(&example.question), worked(answer, example)))
            .collect();
        Self { format, answer, examples }
    }

    /// The form in which answers are asked for.
    pub fn answer(&self) -> AnswerFormat {
        self.answer
    }

    /// The format.
    pub fn format(&self) -> &'static PromptFormat {
        self.format
    }

    /// Worked examples in front of each question.
    pub fn shots(&self) -> usize {
        self.examples.len()
    }

    /// The user's turns and the assistant's, without a system message.
    pub fn messages(&self, question: &str) -> Vec<Message> {
        let message = |role: &str, content: &str| Message { role: role.into(), content: content.into() };
        let mut messages = Vec::new();
        for (asked, answered) in &self.examples {
            messages.push(message("user", asked));
            messages.push(message("assistant", answered));
        }
        messages.push(message("user", &self.format.message(question)));
        messages
    }

    /// The same as plain text.
    pub fn text(&self, question: &str) -> String {
        let before = self.format.before_answer();
        let mut text = String::new();
        for (asked, answered) in &self.examples {
            text.push_str(&format!("{asked}{before}{answered}\n\n"));
        }
        text.push_str(&self.format.message(question));
        text
    }

    /// The whole prompt of a question, with the format's system message.
    pub fn prompt(&self, question: &str) -> Prompt {
        let (mut messages, mut text) = (self.messages(question), self.text(question));
        if !self.format.system.is_empty() {
            let system = Message { role: "system".into(), content: self.format.system.into() };
            messages.insert(0, system);
            text = format!("{}\n\n{text}", self.format.system);
        }
        Prompt { messages, text }
    }
}

fn take(
    examples: impl Iterator<Item = Example>,
    available: usize,
    asked: usize,
    what: &str,
) -> Result<Vec<Example>, BenchmarkError> {
    if asked > available {
        return Err(BenchmarkError::Examples { asked, available, what: what.into() });
    }
    Ok(examples.take(asked).collect())
}

/// An example's answer in the form that is asked for. A solution that has its box keeps it.
fn worked(form: AnswerFormat, example: &Example) -> String {
    let Example { reasoning, answer, .. } = example;
    match form {
        AnswerFormat::Hashes => format!("{reasoning}\n#### {answer}"),
        AnswerFormat::Boxed if reasoning.contains("\\boxed") => reasoning.clone(),
        AnswerFormat::Boxed => {
            format!("{reasoning}\nThe answer is $\\boxed{{{}}}$.", answer.trim_matches('$'))
        }
        AnswerFormat::Plain => format!("{reasoning}\n{answer}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::{PROMPT_FORMATS, prompt_format};

    fn prompting(benchmark: Benchmark, format: &str, shots: usize) -> Prompting {
        Prompting::new(benchmark, prompt_format(format).unwrap(), shots).unwrap()
    }

    #[test]
    fn formats_without_examples() {
        let text = |benchmark, format| prompting(benchmark, format, 0).prompt("How many?").text;
        assert_eq!(text(Benchmark::Gsm8k, "cot"), "Question: How many?\nAnswer:");
        assert_eq!(
            text(Benchmark::Gsm8k, "gsm8k"),
            "How many? Let's think step by step and output the final answer after \"####\"."
        );
        let boxed = prompting(Benchmark::Math500, "qwen-boxed", 0).prompt("How many?");
        let roles: Vec<&str> = boxed.messages.iter().map(|message| message.role.as_str()).collect();
        assert_eq!(roles, ["system", "user"]);
        assert!(boxed.text.starts_with("You are a helpful assistant.\n\nHow many?\nPlease reason"));
        assert_eq!(prompting(Benchmark::Math500, "chat", 0).prompt("How many?").messages.len(), 1);
    }

    #[test]
    fn examples_are_turns_and_text() {
        for format in &PROMPT_FORMATS {
            for benchmark in [Benchmark::Gsm8k, Benchmark::Math500] {
                let prompting = Prompting::new(benchmark, format, 2).unwrap();
                let messages = prompting.messages("How many?");
                assert_eq!(messages.len(), 5);
                let mark = match prompting.answer() {
                    AnswerFormat::Hashes => "\n#### ",
                    _ => "\\boxed{",
                };
                assert!(messages[1].role == "assistant" && messages[1].content.contains(mark));
                let text = prompting.text("How many?");
                assert!(text.matches(mark).count() >= 2 && text.ends_with(&format.message("How many?")));
            }
        }
        let cot = prompting(Benchmark::Gsm8k, "cot", 1).text("How many?");
        assert!(cot.contains("\nAnswer: ") && cot.contains("\n\nQuestion: How many?\nAnswer:"), "{cot}");
    }

    #[test]
    fn examples_from_a_file_are_never_asked() {
        let row = |question: &str, gold: &str| BenchmarkProblem {
            problem: crate::data::Problem {
                id: "x".into(),
                question: question.into(),
                gold: gold.into(),
                solution: format!("so {gold}"),
            },
            groups: Default::default(),
        };
        let rows = [row("a", "1"), row("b", "2"), row("c", "")];
        let cot = prompt_format("cot").unwrap();
        let made =
            Prompting::from_rows(Benchmark::Gsm8k, cot, 1, ("train.jsonl", &rows), &[row("a", "1")]).unwrap();
        assert_eq!(made.text("d"), "Question: b\nAnswer: so 2\n#### 2\n\nQuestion: d\nAnswer:");
        let none = Prompting::from_rows(Benchmark::Gsm8k, cot, 3, ("train.jsonl", &rows), &[]);
        assert!(none.unwrap_err().to_string().contains("train.jsonl has 2"));
        let many = Prompting::new(Benchmark::Gsm8k, cot, 99).unwrap_err().to_string();
        assert!(many.contains("99 worked examples"), "{many}");
    }
}
