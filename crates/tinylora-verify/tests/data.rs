//! The data sets, where TINYLORA_DATA names their folder.

use serde_json::Value;
use std::path::PathBuf;
use tinylora_verify::{FUEL, Gold, Prediction, Scorer, Verdict, explain};

fn folder() -> Option<PathBuf> {
    let folder = std::env::var_os("TINYLORA_DATA").map(PathBuf::from);
    if folder.is_none() {
        eprintln!("skipped: TINYLORA_DATA does not name the folder of the data sets");
    }
    folder
}

fn lines(path: PathBuf) -> Vec<Value> {
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn cases() {
    let Some(folder) = folder() else { return };
    let (mut found, mut equal, mut wrong) = (0, 0, 0);
    for case in lines(folder.join("verifier/cases.jsonl")) {
        let text = |key: &str| case[key].as_str().unwrap();
        let expected = case["expected"] == 1;
        let told = explain(Scorer::Robust, Gold(text("gold")), Prediction(text("pred")), FUEL);
        equal += usize::from(expected);
        let is = told.verdict == Verdict::Equal;
        found += usize::from(expected && is);
        if is != expected {
            wrong += usize::from(is);
            println!("{} expected {expected}: {told:#?}\n{}", text("id"), text("pred"));
        }
    }
    println!("{found} of {equal} equal pairs, {wrong} false positives");
    assert!(found * 100 >= equal * 95 && wrong == 0);
}
