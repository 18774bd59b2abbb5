//! The public data, where it is at hand.

use super::*;
use tinylora_verify::{Gold, Prediction, Scorer, Verdict, verify};

/// The folder that TINYLORA_TEST_DATA names, or `shared/data` beside the checkout.
fn folder() -> Option<PathBuf> {
    let named = std::env::var_os("TINYLORA_TEST_DATA").map(PathBuf::from);
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let found = named.or_else(|| beside.is_dir().then_some(beside));
    if found.is_none() {
        eprintln!("skipped: TINYLORA_TEST_DATA is not set, and there is no shared/data beside the checkout");
    }
    found
}

fn load(benchmark: Benchmark, split: Split, folder: &Path) -> BenchmarkData {
    let options = HubOptions { offline: true, ..HubOptions::from_lookup(|_| None) };
    open(benchmark, split, folder.to_str().unwrap(), &options, &mut |_| {}).unwrap()
}

#[test]
fn all_eight_sets_are_read_whole() {
    let Some(folder) = folder() else { return };
    for (benchmark, rows, without_gold, groups) in [
        (Benchmark::Gsm8k, 1319, 0, 1),
        (Benchmark::Math500, 500, 0, 2),
        (Benchmark::Minerva, 272, 0, 1),
        (Benchmark::Gaokao2023En, 385, 2, 0),
        (Benchmark::OlympiadBench, 675, 0, 2),
        (Benchmark::CollegeMath, 2818, 0, 1),
        (Benchmark::Aime24, 30, 0, 0),
        (Benchmark::Amc23, 40, 0, 0),
    ] {
        let data = load(benchmark, Split::Test, &folder);
        assert_eq!(data.problems.len(), rows, "{benchmark:?}");
        let empty = data.problems.iter().filter(|p| p.problem.gold.is_empty()).count();
        assert_eq!(empty, without_gold, "{benchmark:?}");
        assert!(data.problems.iter().all(|p| p.groups.len() == groups), "{benchmark:?}");
    }
    let train = load(Benchmark::Gsm8k, Split::Train, &folder);
    assert_eq!(train.problems.len(), 7473);
    assert_eq!(train.problems[0].problem.id, "gsm8k/train/1");
    assert!(
        train.problems.iter().all(|p| !p.problem.solution.contains("<<") && !p.problem.solution.is_empty())
    );
}

/// Whatever a set's gold answers are, the default scorer accepts them in the form that is asked for.
#[test]
fn gold_answers_are_accepted() {
    let Some(folder) = folder() else { return };
    let mut refused = 0;
    for benchmark in Benchmark::ALL.into_iter().filter(|benchmark| *benchmark != Benchmark::Math) {
        for BenchmarkProblem { problem, .. } in load(benchmark, Split::Test, &folder).problems {
            let form = if benchmark.about().hashes {
                format!("So it is\n#### {}", problem.gold)
            } else {
                format!("So it is \\boxed{{{}}}.", problem.gold)
            };
            let verdict = verify(Scorer::Robust, Gold(&problem.gold), Prediction(&form));
            let expected = if problem.gold.is_empty() { Verdict::GoldUnparsed } else { Verdict::Equal };
            if verdict != expected {
                refused += 1;
                println!("{}: {} gives {verdict:?}", problem.id, problem.gold);
            }
        }
    }
    assert_eq!(refused, 0);
}
