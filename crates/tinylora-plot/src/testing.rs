//! In tests alone: results that nobody measured.

use crate::row::Row;
use serde_json::json;
use std::path::Path;
use tinylora::run_folder::EvalResult;
use tinylora::sweep::ResultRow;

/// The result of an evaluation on 256 problems.
pub fn result(sampled: f64) -> EvalResult {
    EvalResult {
        n: 256,
        sampled_accuracy: Some(sampled),
        greedy_accuracy: None,
        sampled_ci95: [0.0, 1.0],
        greedy_ci95: [0.0, 1.0],
        strict: sampled,
        flexible: sampled,
        completion_tokens_mean: 10.0,
        truncated_fraction: 0.0,
        verdicts: None,
    }
}

/// A row as a sweep writes it: TinyLoRA, fully tied, by GRPO.
pub fn result_row(size: usize, rate: f64, seed: u64, accuracy: f64) -> ResultRow {
    let row = json!({
        "name": format!("{size}-{rate}-{seed}"), "learner": "grpo", "method": "tinylora", "model": "org/small",
        "model_parameters": 134_515_008, "task": "sum", "trainable_parameters": size, "bytes": 4 * size, "rank": 2,
        "u": size, "n_tie": 0, "tying": "tiled", "storage_precision": "fp32", "learning_rate": rate, "seed": seed,
        "steps": 12, "baseline": result(0.05), "result": result(accuracy), "accuracy": accuracy,
        "greedy_accuracy": null, "wall_seconds": 1.0, "settings": {},
    });
    serde_json::from_value(row).unwrap()
}

/// The same as the figures read it.
pub fn row(size: usize, rate: f64, seed: u64, accuracy: f64) -> Row {
    Row::of_sweep(Path::new("sweep").into(), result_row(size, rate, seed, accuracy))
}
