//! Two evaluations of the same problems enter, whether one is better leaves: the difference with its interval and the p
//! of a paired test. Nothing here depends on anything but the records and a seed.

use super::record::ResultRecord;
use crate::statistics::{bootstrap_95, mean, sign_flip};
use serde::Serialize;
use std::collections::BTreeMap;

/// How two evaluations compare.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// Problems that both have.
    pub n: usize,
    /// Problems that only one of them has; they do not count.
    pub unpaired: usize,
    /// Samples a problem, in the first and in the second.
    pub samples: [usize; 2],
    /// Accuracy on the problems of both.
    pub accuracy: [f64; 2],
    /// The second's minus the first's.
    pub difference: f64,
    /// 95 % interval of the difference: percentiles of the paired bootstrap over problems.
    pub ci95: [f64; 2],
    /// Two-sided p of [`Comparison::test`] if both were equally good.
    pub p_value: f64,
    /// The test's name.
    pub test: &'static str,
    /// Problems right in both, only in the first, only in the second, in neither; for single samples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<[usize; 4]>,
}

/// Why two evaluations can't be compared.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompareError {
    /// No problem is in both.
    #[error("the two have no problem in common: they must be runs of the same benchmark")]
    NothingInCommon,
    /// A problem of the same name is another one.
    #[error(
        "{problem} is another problem in the second run ({what} differs): the two were run on different data"
    )]
    OtherProblem {
        /// The problem.
        problem: String,
        /// What differs.
        what: &'static str,
    },
    /// Problems have different numbers of samples.
    #[error("{problem} has {found} samples and others have {expected}: the run is not whole")]
    Samples {
        /// The problem.
        problem: String,
        /// Samples it has.
        found: usize,
        /// Samples the first problem has.
        expected: usize,
    },
}

const RESAMPLES: usize = 10_000;

/// Compares the second with the first.
pub fn compare(
    first: &[ResultRecord],
    second: &[ResultRecord],
    seed: u64,
) -> Result<Comparison, CompareError> {
    let (a, b) = (by_problem(first), by_problem(second));
    let mut pairs: Vec<([usize; 2], [usize; 2])> = Vec::new();
    let mut samples = [0; 2];
    for (id, one) in &a {
        let Some(other) = b.get(id) else { continue };
        for (what, same) in [
            ("its question", one[0].question == other[0].question),
            ("its gold answer", one[0].gold == other[0].gold),
        ] {
            if !same {
                return Err(CompareError::OtherProblem { problem: (*id).to_owned(), what });
            }
        }
        let counts = [one.len(), other.len()];
        if pairs.is_empty() {
            samples = counts;
        }
        for (found, expected) in counts.into_iter().zip(samples) {
            if found != expected {
                return Err(CompareError::Samples { problem: (*id).to_owned(), found, expected });
            }
        }
        let right = |records: &[&ResultRecord]| records.iter().filter(|record| record.right).count();
        pairs.push(([right(one), right(other)], counts));
    }
    if pairs.is_empty() {
        return Err(CompareError::NothingInCommon);
    }
    Ok(of_pairs(&pairs, samples, a.len() + b.len() - 2 * pairs.len(), seed))
}

fn of_pairs(
    pairs: &[([usize; 2], [usize; 2])],
    samples: [usize; 2],
    unpaired: usize,
    seed: u64,
) -> Comparison {
    let share = |side: usize| {
        let values: Vec<f64> = pairs.iter().map(|(right, n)| right[side] as f64 / n[side] as f64).collect();
        values
    };
    let (first, second) = (share(0), share(1));
    let differences: Vec<f64> = second.iter().zip(&first).map(|(b, a)| b - a).collect();
    // In whole units of 1 / (samples · samples), so that the test counts exactly.
    let whole: Vec<i64> =
        pairs.iter().map(|(right, n)| (right[1] * n[0]) as i64 - (right[0] * n[1]) as i64).collect();
    let test = sign_flip(&whole, seed);
    let single = samples == [1, 1];
    let count = |a: usize, b: usize| pairs.iter().filter(|(right, _)| *right == [a, b]).count();
    let accuracy = [mean(&first), mean(&second)];
    Comparison {
        n: pairs.len(),
        unpaired,
        samples,
        accuracy,
        difference: accuracy[1] - accuracy[0],
        ci95: bootstrap_95(&differences, RESAMPLES, seed),
        p_value: test.p_value,
        test: match (single, test.exact) {
            (true, _) => "McNemar, exact",
            (false, true) => "paired permutation, exact",
            (false, false) => "paired permutation, 100,000 random",
        },
        table: single.then(|| [count(1, 1), count(1, 0), count(0, 1), count(0, 0)]),
    }
}

fn by_problem(records: &[ResultRecord]) -> BTreeMap<&str, Vec<&ResultRecord>> {
    let mut problems: BTreeMap<&str, Vec<&ResultRecord>> = BTreeMap::new();
    for record in records {
        problems.entry(&record.problem).or_default().push(record);
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::super::record::judge;
    use super::super::record::tests::{asked, written};
    use super::*;
    use crate::statistics::mcnemar_exact;
    use tinylora_verify::Scorer;

    /// Records with so many right samples of so many, one problem each.
    fn run(right: &[usize], samples: usize) -> Vec<ResultRecord> {
        let mut records = Vec::new();
        for (number, right) in right.iter().enumerate() {
            for sample in 0..samples {
                let text = if sample < *right { "\\boxed{2}" } else { "\\boxed{3}" };
                records.push(judge(&asked(number, "2", "1"), sample, written(text), Scorer::Robust, &[]));
            }
        }
        records
    }

    #[test]
    fn single_samples_are_mcnemars_test() {
        let a = run(&[1, 1, 0, 0, 0, 0, 0, 0, 1, 0], 1);
        let b = run(&[1, 0, 1, 1, 1, 1, 0, 1, 1, 1], 1);
        let told = compare(&a, &b, 0).unwrap();
        assert_eq!(told.table, Some([2, 1, 6, 1]));
        assert!((told.p_value - mcnemar_exact(1, 6)).abs() < 1e-12);
        assert!((told.difference - 0.5).abs() < 1e-12 && told.test == "McNemar, exact");
        assert!(told.ci95[0] < 0.5 && 0.5 < told.ci95[1]);
        assert_eq!(told, compare(&a, &b, 0).unwrap());
        let back = compare(&b, &a, 0).unwrap();
        assert!((back.difference + 0.5).abs() < 1e-12 && back.p_value == told.p_value);
        let same = compare(&a, &a, 0).unwrap();
        assert_eq!((same.difference, same.p_value, same.ci95), (0.0, 1.0, [0.0, 0.0]));
    }

    #[test]
    fn averages_are_compared_by_problem() {
        let told = compare(&run(&[1, 2, 0], 4), &run(&[2, 2, 1], 2), 0).unwrap();
        assert_eq!((told.samples, told.table, told.n), ([4, 2], None, 3));
        // Differences 3/4, 1/2 and 1/2: both tails have one of eight turns each.
        assert!((told.p_value - 0.25).abs() < 1e-12 && told.test == "paired permutation, exact");
        assert!((told.difference - 7.0 / 12.0).abs() < 1e-12);
    }

    #[test]
    fn different_problems_are_refused() {
        let a = run(&[1, 0], 1);
        let mut b = run(&[1, 0, 1], 1);
        assert_eq!(compare(&a, &b, 0).unwrap().unpaired, 1);
        b[1].gold = "5".into();
        let message = compare(&a, &b, 0).unwrap_err().to_string();
        assert!(message.contains("math500/1") && message.contains("gold"), "{message}");
        assert_eq!(compare(&a, &[], 0), Err(CompareError::NothingInCommon));
        let mut cut = run(&[1, 0], 2);
        cut.pop();
        assert!(matches!(compare(&cut, &a, 0), Err(CompareError::Samples { found: 1, expected: 2, .. })));
    }
}
