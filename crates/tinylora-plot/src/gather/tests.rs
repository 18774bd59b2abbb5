//! Folders that are whole, damaged, empty and named twice.

use super::*;
use crate::testing::{result_row, row};
use std::fs;
use tempfile::TempDir;

fn sweep(folder: &Path, lines: &[String]) {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join(RESULTS_FILE), lines.join("\n") + "\n").unwrap();
}

fn line(size: usize, seed: u64) -> String {
    serde_json::to_string(&result_row(size, 1e-3, seed, 0.5)).unwrap()
}

fn message(folder: &Path) -> String {
    read(&[folder.into()]).unwrap_err().to_string()
}

#[test]
fn folders_are_joined_and_repeated_runs_count_once() {
    let folder = TempDir::new().unwrap();
    let (a, b) = (folder.path().join("a"), folder.path().join("b"));
    sweep(&a, &[line(1, 1), line(1, 2)]);
    sweep(&b, &[line(1, 2), line(4, 1)]);
    let results = read(&[a.clone(), b, a]).unwrap();
    assert_eq!(results.rows.len(), 3);
    assert_eq!(results.sources.len(), 2);
    assert!(results.notes.iter().any(|note| note.contains("named twice")), "{:?}", results.notes);
    assert!(
        results.notes.iter().any(|note| note.contains("1 runs were there more than once")),
        "{:?}",
        results.notes
    );
    assert_eq!(
        results.rows[0],
        Row {
            name: results.rows[0].name.clone(),
            place: results.rows[0].place.clone(),
            run: results.rows[0].run.clone(),
            ..row(1, 1e-3, 1, 0.5)
        }
    );
    // The folder above finds both.
    assert_eq!(read(&[folder.path().into()]).unwrap().rows.len(), 3);
}

#[test]
fn damage_is_named_by_file_and_line() {
    let folder = TempDir::new().unwrap();
    let path = folder.path();
    sweep(path, &[line(1, 1), "{\"name\":".into()]);
    assert!(message(path).contains("results.jsonl, line 2: no row of a sweep"), "{}", message(path));
    sweep(path, &[line(1, 1).replace("\"learning_rate\":0.001", "\"learning_rate\":0.0")]);
    assert!(message(path).contains("line 1: learning_rate is 0"), "{}", message(path));
    sweep(path, &[line(1, 1), String::new(), line(1, 2).replace("\"accuracy\":0.5", "\"accuracy\":1.5")]);
    assert!(message(path).contains("line 3: the accuracy in accuracy is 1.5"), "{}", message(path));
    fs::remove_file(path.join(RESULTS_FILE)).unwrap();
    fs::write(path.join(METRICS_FILE), "{}\n").unwrap();
    assert!(message(path).contains("metrics.jsonl, line 1"), "{}", message(path));
    fs::remove_file(path.join(METRICS_FILE)).unwrap();
    fs::write(path.join(SUMMARY_FILE), "{\n\"adapter\": \n").unwrap();
    assert!(message(path).contains("summary.json, line"), "{}", message(path));
}

#[test]
fn folders_without_results_are_named() {
    let folder = TempDir::new().unwrap();
    let path = folder.path();
    assert!(message(path).contains("has no results"), "{}", message(path));
    assert!(message(&path.join("gone")).contains("gone"));
    fs::write(path.join("file"), "").unwrap();
    assert!(message(&path.join("file")).contains("name the folder that it is in"));
    // A summary of something else is nothing to draw.
    fs::write(path.join(SUMMARY_FILE), "{\"a\": 1}").unwrap();
    assert!(message(path).contains("has no results"), "{}", message(path));
}
