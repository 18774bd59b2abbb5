//! Records of an evaluation enter, its numbers leave: accuracy, pass@k, rates, and the same by group, with intervals
//! over problems.

use super::record::ResultRecord;
use crate::run_folder::VerdictCounts;
use crate::statistics::{mean, mean_95, pass_at_k};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tinylora_verify::Verdict;

/// What an evaluation on a benchmark gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BenchmarkResult {
    /// Problems.
    pub n: usize,
    /// Completions of each.
    pub samples: usize,
    /// Fraction of completions that are right: avg@k of k samples.
    pub accuracy: f64,
    /// 95 % interval of it over problems: Wilson's, with an effective number of problems where there are several
    /// samples ([`mean_95`]).
    pub ci95: [f64; 2],
    /// pass@k by the unbiased estimator at powers of two, where there are several samples.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pass_at: Vec<PassAt>,
    /// Fraction that each scorer accepts.
    pub scorers: BTreeMap<String, f64>,
    /// Fraction of completions in which no answer is found.
    pub no_answer_fraction: f64,
    /// Fraction of completions that were cut at their largest length.
    pub truncated_fraction: f64,
    /// Mean length of completions, in tokens.
    pub completion_tokens_mean: f64,
    /// Their sum.
    pub completion_tokens: usize,
    /// What the scorer said.
    pub verdicts: VerdictCounts,
    /// Problems without a gold answer in the data: no completion of theirs can be right.
    pub without_gold: usize,
    /// The accuracy by kind of group and group.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub groups: BTreeMap<String, BTreeMap<String, GroupResult>>,
}

/// pass@k: the chance that at least one of k samples is right.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)] // the names say it
pub struct PassAt {
    pub k: usize,
    pub value: f64,
    pub ci95: [f64; 2],
}

/// The accuracy on a part of the problems.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)] // the names say it
pub struct GroupResult {
    pub n: usize,
    pub accuracy: f64,
    pub ci95: [f64; 2],
}

/// One problem's samples.
struct Tried<'a> {
    first: &'a ResultRecord,
    samples: usize,
    right: usize,
}

impl Tried<'_> {
    fn accuracy(&self) -> f64 {
        self.right as f64 / self.samples as f64
    }
}

/// The numbers of all records; those of a problem stand together.
pub fn tally(records: &[ResultRecord]) -> BenchmarkResult {
    let problems: Vec<Tried<'_>> = records
        .chunk_by(|a, b| a.problem == b.problem)
        .map(|samples| Tried {
            first: &samples[0],
            samples: samples.len(),
            right: samples.iter().filter(|record| record.right).count(),
        })
        .collect();
    let all: Vec<&Tried<'_>> = problems.iter().collect();
    let samples = problems.iter().map(|problem| problem.samples).min().unwrap_or(0);
    let GroupResult { n, accuracy, ci95 } = of_group(&all);
    let share = |is: &dyn Fn(&ResultRecord) -> bool| {
        records.iter().filter(|record| is(record)).count() as f64 / records.len().max(1) as f64
    };
    let names = records.first().map(|record| record.scorers.keys().cloned().collect()).unwrap_or_default();
    let names: Vec<String> = names;
    let accepts = |name: &str| share(&|record| record.scorers.get(name).copied().unwrap_or(false));
    let tokens: usize = records.iter().map(|record| record.tokens).sum();
    BenchmarkResult {
        n,
        samples,
        accuracy,
        ci95,
        pass_at: if samples > 1 { pass_at(&problems, samples) } else { Vec::new() },
        scorers: names.into_iter().map(|name| (name.clone(), accepts(&name))).collect(),
        no_answer_fraction: share(&|record| record.answer.is_empty()),
        truncated_fraction: share(&|record| record.truncated),
        completion_tokens_mean: tokens as f64 / records.len().max(1) as f64,
        completion_tokens: tokens,
        verdicts: verdicts(records),
        without_gold: problems.iter().filter(|problem| problem.first.gold.is_empty()).count(),
        groups: groups(&problems),
    }
}

fn of_group(problems: &[&Tried<'_>]) -> GroupResult {
    let values: Vec<f64> = problems.iter().map(|problem| problem.accuracy()).collect();
    let outcomes = problems.iter().map(|problem| problem.samples).sum();
    let accuracy = if values.is_empty() { 0.0 } else { mean(&values) };
    GroupResult { n: problems.len(), accuracy, ci95: mean_95(&values, outcomes) }
}

fn pass_at(problems: &[Tried<'_>], samples: usize) -> Vec<PassAt> {
    let powers = std::iter::successors(Some(1usize), |k| k.checked_mul(2)).take_while(|k| *k <= samples);
    powers
        .map(|k| {
            let values: Vec<f64> =
                problems.iter().map(|problem| pass_at_k(problem.samples, problem.right, k)).collect();
            let outcomes = problems.iter().map(|problem| problem.samples / k).sum();
            PassAt { k, value: mean(&values), ci95: mean_95(&values, outcomes) }
        })
        .collect()
}

fn verdicts(records: &[ResultRecord]) -> VerdictCounts {
    let count = |verdict: Verdict| records.iter().filter(|record| record.verdict == verdict.name()).count();
    VerdictCounts {
        equal: count(Verdict::Equal),
        different: count(Verdict::Different),
        gold_unparsed: count(Verdict::GoldUnparsed),
        prediction_unparsed: count(Verdict::PredictionUnparsed),
        out_of_fuel: count(Verdict::OutOfFuel),
    }
}

fn groups(problems: &[Tried<'_>]) -> BTreeMap<String, BTreeMap<String, GroupResult>> {
    let mut members: BTreeMap<&String, BTreeMap<&String, Vec<&Tried<'_>>>> = BTreeMap::new();
    for problem in problems {
        for (kind, group) in &problem.first.groups {
            members.entry(kind).or_default().entry(group).or_default().push(problem);
        }
    }
    let of_kind = |groups: BTreeMap<&String, Vec<&Tried<'_>>>| {
        groups.into_iter().map(|(group, members)| (group.clone(), of_group(&members))).collect()
    };
    members.into_iter().map(|(kind, groups)| (kind.clone(), of_kind(groups))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::record::judge;
    use super::super::record::tests::{asked, written};
    use super::*;
    use tinylora_verify::Scorer;

    #[test]
    fn single_samples() {
        let also = [Scorer::Math];
        let one = |number, gold: &str, level, text| {
            judge(&asked(number, gold, level), 0, written(text), Scorer::Robust, &also)
        };
        let records = [
            one(1, "2", "1", "\\boxed{2}"),
            one(2, "0.25", "1", "\\boxed{2/8}"),
            one(3, "7", "2", "no idea, and cut off…"),
            one(4, "", "2", "\\boxed{7}"),
        ];
        let result = tally(&records);
        assert_eq!((result.n, result.samples, result.accuracy), (4, 1, 0.5));
        assert_eq!(result.ci95, crate::statistics::wilson_95(2, 4));
        assert!(result.pass_at.is_empty());
        assert_eq!((result.scorers["robust"], result.scorers["math"]), (0.5, 0.25));
        assert_eq!((result.truncated_fraction, result.without_gold), (0.25, 1));
        let verdicts = result.verdicts;
        assert_eq!((verdicts.equal, verdicts.gold_unparsed), (2, 1));
        assert_eq!(result.groups["level"]["1"].accuracy, 1.0);
        assert_eq!(result.groups["level"]["2"].n, 2);
        assert_eq!(tally(&[]).n, 0);
    }

    /// avg@4 and pass@k by hand: 1 of 4, 0 of 4, 3 of 4 right.
    #[test]
    fn several_samples() {
        let mut records = Vec::new();
        for (number, right) in [(1, 1), (2, 0), (3, 3)] {
            for sample in 0..4 {
                let text = if sample < right { "\\boxed{2}" } else { "\\boxed{3}" };
                records.push(judge(&asked(number, "2", "1"), sample, written(text), Scorer::Robust, &[]));
            }
        }
        let result = tally(&records);
        assert_eq!((result.n, result.samples), (3, 4));
        assert!((result.accuracy - 1.0 / 3.0).abs() < 1e-15);
        let told: Vec<(usize, f64)> = result.pass_at.iter().map(|pass| (pass.k, pass.value)).collect();
        // pass@2: 1 − C(3,2)/C(4,2) = 1/2, 0, 1; pass@4: 1, 0, 1.
        for ((k, value), (expected_k, expected)) in
            told.into_iter().zip([(1, 1.0 / 3.0), (2, 0.5), (4, 2.0 / 3.0)])
        {
            assert!(k == expected_k && (value - expected).abs() < 1e-12, "{k} {value}");
        }
        assert_eq!(result.pass_at.len(), 3);
        let text = serde_json::to_string(&result).unwrap();
        assert_eq!(serde_json::from_str::<BenchmarkResult>(&text).unwrap(), result);
    }
}
