//! Rows of sweeps and summaries of runs enter, one plain type leaves that every figure reads.

use crate::options::Measure;
use std::path::PathBuf;
use tinylora::recipe::{Learner, StoragePrecision, Tying};
use tinylora::run_folder::EvalResult;
use tinylora::sweep::ResultRow;

/// Keys of a recipe that a row has in fields of its own.
const FIELDS: [&str; 10] = [
    "learner",
    "seed",
    "model.ref",
    "train.steps",
    "optimizer.learning_rate",
    "adapter.kind",
    "adapter.rank",
    "adapter.u",
    "adapter.n_tie",
    "adapter.tying",
];

/// A finished run.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// The folder that it was found in.
    pub place: PathBuf,
    /// Its own folder, with metrics.jsonl.
    pub run: PathBuf,
    /// Reinforcement learning or supervised.
    pub learner: Learner,
    /// `tinylora`, `lora-xs`, …
    pub method: String,
    /// The base's reference.
    pub model: String,
    /// Numbers in the base.
    pub model_parameters: u64,
    /// The task's name.
    pub task: String,
    /// Trained numbers.
    pub size: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// r
    pub rank: usize,
    /// Numbers a group of modules.
    pub u: usize,
    /// Modules a group; 0: all.
    pub n_tie: usize,
    /// How modules are put into groups.
    pub tying: Tying,
    /// Precision of the stored numbers.
    pub precision: StoragePrecision,
    /// Learning rate.
    pub rate: f64,
    /// The run's seed.
    pub seed: u64,
    /// Steps done.
    pub steps: u64,
    /// Before training.
    pub before: Option<EvalResult>,
    /// After training.
    pub after: Option<EvalResult>,
    /// The accuracy after training, where there is no [`Row::after`].
    pub accuracy: Option<f64>,
    /// Every other setting that may differ: rows that differ in it are not seeds of one experiment.
    pub rest: String,
}

impl Row {
    /// A row of a sweep's results.jsonl; `place` is the sweep's folder.
    pub fn of_sweep(place: PathBuf, row: ResultRow) -> Self {
        let rest: Vec<String> = row
            .settings
            .iter()
            .filter(|(key, _)| !FIELDS.contains(&key.as_str()) && *key != "adapter.storage_precision")
            .map(|(key, value)| format!("{key} = {value}"))
            .collect();
        Self {
            run: place.join("runs").join(&row.name),
            place,
            name: row.name,
            learner: row.learner,
            method: row.method,
            model: row.model,
            model_parameters: row.model_parameters,
            task: row.task,
            size: row.trainable_parameters as u64,
            bytes: row.bytes,
            rank: row.rank,
            u: row.u,
            n_tie: row.n_tie,
            tying: row.tying,
            precision: row.storage_precision,
            rate: row.learning_rate,
            seed: row.seed,
            steps: row.steps,
            before: row.baseline,
            after: row.result,
            accuracy: row.accuracy,
            rest: rest.join(", "),
        }
    }

    /// The accuracy after training.
    pub fn after(&self, measure: Measure) -> Option<f64> {
        let value = match &self.after {
            Some(result) => of(result, measure),
            None if measure == Measure::Sampled => self.accuracy,
            None => None,
        };
        value.filter(|value| value.is_finite())
    }

    /// The accuracy before training.
    pub fn before(&self, measure: Measure) -> Option<f64> {
        self.before.as_ref().and_then(|result| of(result, measure)).filter(|value| value.is_finite())
    }

    /// Problems of the evaluation after training; 0 if unknown.
    pub fn problems(&self) -> usize {
        self.after.as_ref().map_or(0, |result| result.n)
    }

    /// What seeds and rates of one experiment have in common.
    pub fn experiment(&self) -> impl Ord + Clone + use<> {
        let tying = (self.rank, self.u, self.n_tie, tying_name(self.tying), precision_name(self.precision));
        (self.method.clone(), self.size, self.bytes, tying, self.steps, self.rest.clone())
    }
}

fn of(result: &EvalResult, measure: Measure) -> Option<f64> {
    match measure {
        Measure::Sampled => result.sampled_accuracy,
        Measure::Greedy => result.greedy_accuracy,
    }
}

/// `GRPO`
pub fn learner_name(learner: Learner) -> String {
    format!("{learner:?}").to_uppercase()
}

/// The method as people write it.
pub fn method_name(method: &str) -> String {
    match method {
        "tinylora" => "TinyLoRA".into(),
        "lora-xs" => "LoRA-XS".into(),
        "lora" => "LoRA".into(),
        "full" => "full finetuning".into(),
        other => other.into(),
    }
}

/// `tiled`
pub fn tying_name(tying: Tying) -> &'static str {
    match tying {
        Tying::Tiled => "tiled",
        Tying::Structured => "structured",
        Tying::None => "untied",
    }
}

/// `fp32`
pub fn precision_name(precision: StoragePrecision) -> &'static str {
    match precision {
        StoragePrecision::Bf16 => "bf16",
        StoragePrecision::Fp16 => "fp16",
        StoragePrecision::Fp32 => "fp32",
    }
}

/// A model's reference without its organisation or folder.
pub fn model_name(model: &str) -> &str {
    model.trim_end_matches('/').rsplit('/').next().unwrap_or(model)
}
