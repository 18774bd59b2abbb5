//! Summaries of finished runs enter, rows of `results.jsonl` and the best learning rate for each size leave.

use super::plan::Run;
use crate::recipe::{Learner, StoragePrecision, Tying};
use crate::run_folder::{EvalResult, Summary};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One line of `results.jsonl`: a finished run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)] // the names say it
pub struct ResultRow {
    pub name: String,
    pub learner: Learner,
    /// `tinylora`, `lora-xs`, …
    pub method: String,
    pub model: String,
    pub model_parameters: u64,
    pub task: String,
    pub trainable_parameters: usize,
    pub bytes: u64,
    pub rank: usize,
    pub u: usize,
    pub n_tie: usize,
    pub tying: Tying,
    pub storage_precision: StoragePrecision,
    pub learning_rate: f64,
    pub seed: u64,
    pub steps: u64,
    /// Before training.
    pub baseline: Option<EvalResult>,
    /// After training.
    pub result: Option<EvalResult>,
    /// Sampled accuracy after training; where that was not measured, the greedy one.
    pub accuracy: Option<f64>,
    pub greedy_accuracy: Option<f64>,
    pub wall_seconds: f64,
    /// The swept keys with this run's values.
    pub settings: BTreeMap<String, serde_json::Value>,
}

impl ResultRow {
    pub(super) fn new(run: &Run, summary: &Summary) -> Self {
        let (recipe, adapter) = (&run.recipe, &summary.adapter);
        let after = summary.eval_after.as_ref();
        let json = |value: &toml::Value| serde_json::to_value(value).unwrap_or_default();
        Self {
            name: run.name.clone(),
            learner: recipe.learner,
            method: adapter.kind.clone(),
            model: summary.model.reference.clone(),
            model_parameters: summary.model.parameters,
            task: summary.task.clone(),
            trainable_parameters: adapter.trainable_parameters,
            bytes: adapter.payload_bytes,
            rank: adapter.rank,
            u: adapter.u,
            n_tie: adapter.n_tie,
            tying: adapter.tying,
            storage_precision: recipe.adapter.storage_precision,
            learning_rate: f64::from(recipe.optimizer.learning_rate),
            seed: summary.seed,
            steps: summary.steps,
            baseline: summary.eval_before.clone(),
            result: after.cloned(),
            accuracy: after.and_then(|result| result.sampled_accuracy.or(result.greedy_accuracy)),
            greedy_accuracy: after.and_then(|result| result.greedy_accuracy),
            wall_seconds: summary.wall_seconds,
            settings: run.settings.iter().map(|(key, value)| (key.clone(), json(value))).collect(),
        }
    }
}

/// The best learning rate of one size, as the paper chooses it: the mean over seeds decides.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)] // the names say it
pub struct BestRate {
    pub learner: Learner,
    pub method: String,
    pub model: String,
    pub trainable_parameters: usize,
    pub bytes: u64,
    pub learning_rate: f64,
    /// Learning rates that were tried.
    pub rates: usize,
    /// Runs with the best one.
    pub seeds: usize,
    /// Means over them.
    pub accuracy: f64,
    pub greedy_accuracy: Option<f64>,
    /// Of the accuracy, over seeds; null for one seed.
    pub standard_deviation: Option<f64>,
    pub baseline: Option<f64>,
    pub greedy_baseline: Option<f64>,
}

/// For each learner, method, model and size the learning rate whose mean accuracy is highest (of equal ones the smallest),
/// ordered by size. Rows without an evaluation are left out.
pub fn best_rates(rows: &[ResultRow]) -> Vec<BestRate> {
    // What a row has in common with others of its size; bits order positive numbers as the numbers themselves.
    let key = |row: &ResultRow| {
        let learner = row.learner == Learner::Sft;
        (learner, row.method.clone(), row.model.clone(), row.trainable_parameters, row.bytes)
    };
    let mut sizes: BTreeMap<_, BTreeMap<u64, Vec<&ResultRow>>> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.accuracy.is_some()) {
        sizes.entry(key(row)).or_default().entry(row.learning_rate.to_bits()).or_default().push(row);
    }
    let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len() as f64;
    let accuracy = |rows: &[&ResultRow]| mean(rows.iter().filter_map(|row| row.accuracy).collect());
    let of = |rows: &[&ResultRow], get: &dyn Fn(&ResultRow) -> Option<f64>| {
        let values: Option<Vec<f64>> = rows.iter().map(|row| get(row)).collect();
        values.map(mean)
    };
    let best = sizes.into_values().map(|rates| {
        let tried = rates.len();
        let best = rates.into_values().reduce(|a, b| if accuracy(&b) > accuracy(&a) { b } else { a });
        let rows = best.expect("every size has a row");
        let (first, mean_accuracy) = (rows[0], accuracy(&rows));
        let squares: f64 =
            rows.iter().filter_map(|row| row.accuracy).map(|a| (a - mean_accuracy).powi(2)).sum();
        let before = |row: &ResultRow, greedy: bool| {
            let baseline = row.baseline.as_ref()?;
            if greedy {
                baseline.greedy_accuracy
            } else {
                baseline.sampled_accuracy.or(baseline.greedy_accuracy)
            }
        };
        BestRate {
            learner: first.learner,
            method: first.method.clone(),
            model: first.model.clone(),
            trainable_parameters: first.trainable_parameters,
            bytes: first.bytes,
            learning_rate: first.learning_rate,
            rates: tried,
            seeds: rows.len(),
            accuracy: mean_accuracy,
            greedy_accuracy: of(&rows, &|row| row.greedy_accuracy),
            standard_deviation: (rows.len() > 1).then(|| (squares / (rows.len() - 1) as f64).sqrt()),
            baseline: of(&rows, &|row| before(row, false)),
            greedy_baseline: of(&rows, &|row| before(row, true)),
        }
    });
    best.collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn row(size: usize, rate: f64, seed: u64, accuracy: Option<f64>) -> ResultRow {
        ResultRow {
            name: format!("{size}-{rate}-{seed}"),
            learner: Learner::Grpo,
            method: "tinylora".into(),
            model: "m".into(),
            model_parameters: 1,
            task: "t".into(),
            trainable_parameters: size,
            bytes: 4 * size as u64,
            rank: 2,
            u: size,
            n_tie: 0,
            tying: Tying::Tiled,
            storage_precision: StoragePrecision::Fp32,
            learning_rate: rate,
            seed,
            steps: 1,
            baseline: None,
            result: None,
            accuracy,
            greedy_accuracy: None,
            wall_seconds: 1.0,
            settings: BTreeMap::new(),
        }
    }

    #[test]
    fn the_mean_over_seeds_decides() {
        let rows = [
            row(13, 1e-3, 1, Some(0.9)),
            row(13, 1e-3, 2, Some(0.1)),
            row(13, 1e-2, 1, Some(0.6)),
            row(13, 1e-2, 2, Some(0.6)),
            row(13, 1e-1, 1, None),
            row(1, 1e-2, 1, Some(0.3)),
            row(1, 1e-3, 1, Some(0.3)),
        ];
        let best = best_rates(&rows);
        assert_eq!(best.len(), 2);
        // Of equal rates the smaller one.
        assert_eq!((best[0].trainable_parameters, best[0].learning_rate, best[0].seeds), (1, 1e-3, 1));
        assert_eq!(best[0].standard_deviation, None);
        assert_eq!((best[1].learning_rate, best[1].rates, best[1].seeds), (1e-2, 2, 2));
        assert!((best[1].accuracy - 0.6).abs() < 1e-12 && best[1].standard_deviation == Some(0.0));
    }
}
