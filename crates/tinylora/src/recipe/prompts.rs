//! Prompt formats by name: what a question is wrapped in before it goes to a model. Names enter, plain data leaves.
//! The texts are those that define the formats in the evaluations that published tables come from.

use super::{AnswerFormat, Benchmark};

/// How a question is put to a model.
#[derive(Debug, PartialEq, Eq)]
pub struct PromptFormat {
    /// Its name on the command line and in recipes.
    pub name: &'static str,
    /// System message; empty: none.
    pub system: &'static str,
    /// The user's message, with `{question}` in it.
    pub template: &'static str,
    /// The form in which answers are asked for; none: as the problems have it.
    pub answer: Option<AnswerFormat>,
    /// Plain text even where the model has a chat template.
    pub plain: bool,
    /// Texts that end a completion.
    pub stop: &'static [&'static str],
}

/// All formats.
pub const PROMPT_FORMATS: [PromptFormat; 6] = [
    PromptFormat {
        name: "gsm8k",
        system: "",
        template: "{question} Let's think step by step and output the final answer after \"####\".",
        answer: Some(AnswerFormat::Hashes),
        plain: false,
        stop: &[],
    },
    PromptFormat {
        name: "qwen-boxed",
        system: "You are a helpful assistant.",
        template: "{question}\nPlease reason step by step, and put your final answer within \\boxed{}.",
        answer: Some(AnswerFormat::Boxed),
        plain: false,
        stop: &[],
    },
    PromptFormat {
        name: "qwen25-math-cot",
        system: "Please reason step by step, and put your final answer within \\boxed{}.",
        template: "{question}",
        answer: Some(AnswerFormat::Boxed),
        plain: false,
        stop: &[],
    },
    PromptFormat {
        name: "abel",
        system: "",
        template: "Question:\n{question}\nAnswer:\nLet's think step by step.\n",
        answer: Some(AnswerFormat::Boxed),
        plain: true,
        stop: &["\nQuestion:"],
    },
    PromptFormat { name: "chat", system: "", template: "{question}", answer: None, plain: false, stop: &[] },
    PromptFormat {
        name: "cot",
        system: "",
        template: "Question: {question}\nAnswer:",
        answer: None,
        plain: true,
        stop: &["\nQuestion:"],
    },
];

/// The format of a name.
pub fn prompt_format(name: &str) -> Option<&'static PromptFormat> {
    PROMPT_FORMATS.iter().find(|format| format.name == name)
}

impl PromptFormat {
    /// The message of a question.
    pub fn message(&self, question: &str) -> String {
        self.template.replace("{question}", question)
    }

    /// The form in which a benchmark's answers are asked for.
    pub fn answer_for(&self, benchmark: Benchmark) -> AnswerFormat {
        let own = if benchmark.about().hashes { AnswerFormat::Hashes } else { AnswerFormat::Boxed };
        self.answer.unwrap_or(own)
    }

    /// What stands between a message and the answer that follows it in plain text.
    pub fn before_answer(&self) -> &'static str {
        match self.template.chars().last() {
            Some('\n') => "",
            Some(':') => " ",
            _ => "\n",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_asks_the_question_once() {
        for format in &PROMPT_FORMATS {
            assert_eq!(format.template.matches("{question}").count(), 1, "{}", format.name);
            assert_eq!(prompt_format(format.name), Some(format));
            let message = format.message("How {many}?");
            assert!(message.contains("How {many}?") && !message.contains("{question}"));
        }
        assert_eq!(prompt_format("abel").unwrap().before_answer(), "");
        assert_eq!(prompt_format("cot").unwrap().before_answer(), " ");
        assert_eq!(prompt_format("chat").unwrap().before_answer(), "\n");
    }
}
