//! Compares a scorer with recorded verdicts of the original. Pairs and verdicts enter as JSON lines, the agreement and
//! the disagreements, counted by kind and with examples, leave on standard output; time on standard error.
//!
//!     cargo run --release -p tinylora-verify --example agreement -- SCORER pairs.jsonl [verdicts.jsonl [LINES]]

use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Instant;
use tinylora_verify::{FUEL, Gold, Prediction, Scorer, Verdict, explain};

fn lines(path: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{path}: {error}")))
        .collect()
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let scorer = Scorer::from_name(&arguments[0]).expect("a scorer's name");
    let pairs = lines(&arguments[1]);
    let recorded = arguments.get(2).map(|path| lines(path));
    let shown: usize = arguments.get(3).map_or(0, |n| n.parse().expect("a number of lines"));
    let begin = Instant::now();
    let mut times = Vec::with_capacity(pairs.len());
    let told: Vec<_> = pairs
        .iter()
        .map(|pair| {
            let start = Instant::now();
            let told = explain(
                scorer,
                Gold(pair["gold"].as_str().expect("a gold")),
                Prediction(pair["prediction"].as_str().expect("a prediction")),
                FUEL,
            );
            times.push(start.elapsed());
            told
        })
        .collect();
    let seconds = begin.elapsed().as_secs_f64();
    times.sort();
    eprintln!(
        "{} pairs in {seconds:.3} s: {:.0} a second; p99 {:?}, longest {:?}",
        pairs.len(),
        pairs.len() as f64 / seconds,
        times[times.len() * 99 / 100],
        times[times.len() - 1]
    );
    let mut verdicts: BTreeMap<&str, usize> = BTreeMap::new();
    for told in &told {
        *verdicts.entry(told.verdict.name()).or_default() += 1;
    }
    println!("verdicts: {verdicts:?}");
    let Some(recorded) = recorded else { return };
    let (mut agreed, mut counted, mut late) = (0u32, 0u32, 0u32);
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for ((pair, told), original) in pairs.iter().zip(&told).zip(&recorded) {
        let Some(original) = original["equal"].as_bool() else {
            late += 1;
            continue;
        };
        counted += 1;
        let equal = told.verdict == Verdict::Equal;
        if equal == original {
            agreed += 1;
            continue;
        }
        let kind =
            format!("{} / {}: original {original}, here {}", pair["set"], pair["kind"], told.verdict.name());
        *kinds.entry(kind).or_default() += 1;
        if counted - agreed <= shown as u32 {
            println!("{pair}\n  {told:?}\n  original {original}");
        }
    }
    let share = 100.0 * f64::from(agreed) / f64::from(counted.max(1));
    println!("agreement {agreed} of {counted} ({share:.2} %); the original was late on {late}");
    for (kind, count) in kinds {
        println!("{count:5}  {kind}");
    }
}
