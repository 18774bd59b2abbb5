//! What is written down of an evaluation on a benchmark: its settings, each completion with its verdict, the summary.
//! Plain data; completions enter and records leave.

use super::tally::BenchmarkResult;
use crate::data::benchmark::BenchmarkProblem;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tinylora_verify::{FUEL, Gold, Prediction, Scorer, Verdict, explain};

/// One line of `results.jsonl`: a completion and what was made of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResultRecord {
    /// The problem's id: the set's name and the row's number from 1.
    pub problem: String,
    /// Which of its samples, from 0.
    pub sample: usize,
    /// What results are broken down by.
    pub groups: BTreeMap<String, String>,
    /// The question.
    pub question: String,
    /// The right answer.
    pub gold: String,
    /// What the model wrote.
    pub completion: String,
    /// The answer that was found in it; empty if none.
    pub answer: String,
    /// What the scorer read that answer as.
    pub read_as: String,
    /// The rule that decided.
    pub because: String,
    /// The scorer's verdict, by name.
    pub verdict: String,
    /// Whether it counts as right.
    pub right: bool,
    /// Every scorer that looked at it, and whether it accepts it.
    pub scorers: BTreeMap<String, bool>,
    /// Length of the completion, in tokens.
    pub tokens: usize,
    /// It was cut at the largest length.
    pub truncated: bool,
}

/// A completion before it is judged.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    /// Its text.
    pub text: String,
    /// Its length, in tokens.
    pub tokens: usize,
    /// It was cut at the largest length.
    pub truncated: bool,
}

/// Judges a completion: `scorer` decides, `also` are asked as well.
pub fn judge(
    asked: &BenchmarkProblem,
    sample: usize,
    written: Written,
    scorer: Scorer,
    also: &[Scorer],
) -> ResultRecord {
    let (gold, prediction) = (Gold(&asked.problem.gold), Prediction(&written.text));
    let told = explain(scorer, gold, prediction, FUEL);
    let mut scorers = BTreeMap::from([(scorer.name().to_owned(), told.verdict == Verdict::Equal)]);
    for other in also.iter().filter(|other| **other != scorer) {
        let verdict = explain(*other, gold, prediction, FUEL).verdict;
        scorers.insert(other.name().to_owned(), verdict == Verdict::Equal);
    }
    ResultRecord {
        problem: asked.problem.id.clone(),
        sample,
        groups: asked.groups.clone(),
        question: asked.problem.question.clone(),
        gold: asked.problem.gold.clone(),
        answer: told.prediction,
        read_as: told.prediction_reading,
        because: told.rule.to_owned(),
        verdict: told.verdict.name().to_owned(),
        right: told.verdict == Verdict::Equal,
        scorers,
        tokens: written.tokens,
        truncated: written.truncated,
        completion: written.text,
    }
}

/// Everything that decides the results, as `settings.json` has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BenchmarkSettings {
    /// The set's name.
    pub benchmark: String,
    /// The data's file.
    pub data: String,
    /// sha256 of its bytes.
    pub data_sha256: String,
    /// How many of its rows are asked, from the first.
    pub problems: usize,
    /// The model's reference.
    pub model: String,
    /// sha256 of its weights.
    pub model_sha256: String,
    /// Precision of the weights in memory.
    pub dtype: String,
    /// Precision of the products: "f32", or "bf16" where the kernel rounds its operands.
    pub products: String,
    /// The adapter's reference.
    pub adapter: Option<String>,
    /// sha256 of its file.
    pub adapter_sha256: Option<String>,
    /// The prompt format's name.
    pub prompt_format: String,
    /// Prompts go through the model's chat template.
    pub chat_template: bool,
    /// Worked examples before each question.
    pub shots: usize,
    /// Where they come from: "own", or a file's sha256.
    pub examples: String,
    /// The scorer that decides.
    pub scorer: String,
    /// Samples a problem; 0: one, decoded greedily.
    pub samples: usize,
    /// Temperature of the samples.
    pub temperature: f32,
    /// Nucleus of the samples.
    pub top_p: f32,
    /// Largest number of tokens of a completion.
    pub max_tokens: usize,
    /// Texts that end a completion.
    pub stop: Vec<String>,
    /// Seed of the sampling.
    pub seed: u64,
}

/// Names that may differ between the parts of a run: what they stand for is told apart by its hash.
const NAMES_ONLY: [&str; 3] = ["data", "model", "adapter"];

impl BenchmarkSettings {
    /// What differs, as `key: was X, now Y`.
    pub fn differences(&self, now: &Self) -> Vec<String> {
        let table = |settings: &Self| match serde_json::to_value(settings) {
            Ok(serde_json::Value::Object(table)) => table,
            _ => unreachable!("plain data is an object"),
        };
        let (was, now) = (table(self), table(now));
        was.iter()
            .filter(|(key, value)| !NAMES_ONLY.contains(&key.as_str()) && now.get(*key) != Some(value))
            .map(|(key, value)| format!("{key}: was {value}, now {}", now[key]))
            .collect()
    }
}

/// `summary.json` of an evaluation on a benchmark.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BenchmarkSummary {
    /// The set's name for people.
    pub title: String,
    /// What decided the results.
    pub settings: BenchmarkSettings,
    /// The results.
    pub result: BenchmarkResult,
    /// Seconds of generating and judging, those before an interruption included.
    pub wall_seconds: f64,
    /// Tokens of kept completions over those seconds.
    pub tokens_per_second: f64,
    /// "cpu".
    pub device: String,
    /// The kernels' path, such as "avx2".
    pub kernel: String,
    /// Threads that computed.
    pub threads: usize,
    /// Version of the program that finished the run.
    pub version: String,
    /// Its commit.
    pub commit: String,
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::data::Problem;

    pub(in crate::evaluate) fn asked(number: usize, gold: &str, level: &str) -> BenchmarkProblem {
        BenchmarkProblem {
            problem: Problem {
                id: format!("math500/{number}"),
                question: format!("Question {number} <b>?"),
                gold: gold.into(),
                solution: String::new(),
            },
            groups: BTreeMap::from([("level".into(), level.into())]),
        }
    }

    pub(in crate::evaluate) fn written(text: &str) -> Written {
        Written { text: text.into(), tokens: text.len(), truncated: text.ends_with('…') }
    }

    pub(in crate::evaluate) fn settings() -> BenchmarkSettings {
        BenchmarkSettings {
            benchmark: "math500".into(),
            data: "math500/test.jsonl".into(),
            data_sha256: "ab".into(),
            problems: 3,
            model: "m".into(),
            model_sha256: "cd".into(),
            dtype: "bf16".into(),
            products: "f32".into(),
            adapter: None,
            adapter_sha256: None,
            prompt_format: "qwen-boxed".into(),
            chat_template: true,
            shots: 0,
            examples: "own".into(),
            scorer: "robust".into(),
            samples: 0,
            temperature: 1.0,
            top_p: 0.95,
            max_tokens: 64,
            stop: vec![],
            seed: 0,
        }
    }

    #[test]
    fn scorers_may_disagree_and_one_decides() {
        let also = [Scorer::Math, Scorer::Robust];
        let record = judge(
            &asked(1, "\\frac{1}{2}", "2"),
            3,
            written("so \\boxed{\\frac{2}{4}}"),
            Scorer::Robust,
            &also,
        );
        assert!(record.right && record.scorers["robust"] && !record.scorers["math"]);
        assert_eq!(
            (record.answer.as_str(), record.verdict.as_str(), record.sample),
            ("\\frac{2}{4}", "equal", 3)
        );
        assert_eq!(record.scorers.len(), 2);
        let strict = judge(
            &asked(1, "\\frac{1}{2}", "2"),
            0,
            written("so \\boxed{\\frac{2}{4}}"),
            Scorer::Math,
            &also,
        );
        assert!(!strict.right && strict.scorers["robust"]);
        let silent = judge(&asked(1, "2", "2"), 0, written(""), Scorer::Robust, &also);
        assert_eq!((silent.verdict.as_str(), silent.answer.as_str()), ("prediction_unparsed", ""));
    }

    #[test]
    fn settings_differ_by_what_decides() {
        let (was, mut now) = (settings(), settings());
        now.model = "elsewhere".into();
        now.top_p = 0.95;
        assert_eq!(was.differences(&now), Vec::<String>::new());
        now.max_tokens = 128;
        now.seed = 1;
        assert_eq!(was.differences(&now), ["max_tokens: was 64, now 128", "seed: was 0, now 1"]);
        let text = serde_json::to_string(&was).unwrap();
        assert_eq!(serde_json::from_str::<BenchmarkSettings>(&text).unwrap(), was);
    }
}
