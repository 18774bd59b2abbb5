//! The folder of one run enters, its row and its metrics leave.

use super::{Results, Source};
use crate::error::PlotError;
use crate::row::Row;
use std::fs;
use std::path::{Path, PathBuf};
use tinylora::recipe::{Learner, StoragePrecision};
use tinylora::run_folder::{
    METRICS_FILE, RECIPE_FILE, SUMMARY_FILE, StepMetrics, Summary, read_metrics, read_summary,
};
use toml::{Table, Value};

/// Settings that don't change a result, or that a row has in a field of its own.
const LEFT_OUT: [(&str, &str); 8] = [
    ("", "name"),
    ("", "seed"),
    ("", "learner"),
    ("optimizer", "learning_rate"),
    ("train", "checkpoint_every"),
    ("train", "keep_checkpoints"),
    ("train", "steps"),
    ("model", "memory"),
];

/// A run outside of a sweep.
#[derive(Debug, Clone)]
pub struct Run {
    /// Its folder.
    pub folder: PathBuf,
    /// Reinforcement learning or supervised.
    pub learner: Learner,
    /// The base's reference; empty if the run has neither summary nor recipe.
    pub model: String,
    /// The task's name, likewise.
    pub task: String,
    /// The run's seed.
    pub seed: Option<u64>,
    /// The recipe without its seed, where there is one: equal for runs that only differ in it.
    pub recipe: Option<String>,
    /// A line a step.
    pub metrics: Vec<StepMetrics>,
}

/// Whether `summary.json` is that of a run; an evaluation has a file of this name, too.
pub fn is_summary(folder: &Path) -> Result<bool, PlotError> {
    let path = folder.join(SUMMARY_FILE);
    let text = fs::read_to_string(&path).map_err(|source| PlotError::Read { path: path.clone(), source })?;
    let value: serde_json::Value = serde_json::from_str(&text).map_err(|error| PlotError::BadLine {
        path,
        line: error.line(),
        message: format!("no JSON: {error}"),
    })?;
    Ok(value.get("adapter").is_some_and(serde_json::Value::is_object))
}

/// Reads the run.
pub fn read(folder: &Path, results: &mut Results) -> Result<(), PlotError> {
    let metrics = if folder.join(METRICS_FILE).is_file() { read_metrics(folder)? } else { Vec::new() };
    let summary = if folder.join(SUMMARY_FILE).is_file() { Some(read_summary(folder)?) } else { None };
    let recipe = read_recipe(folder)?;
    let learner = recipe.as_ref().and_then(|recipe| text(recipe, "", "learner")).map(str::to_owned);
    let learner = match learner.as_deref() {
        Some("sft") => Learner::Sft,
        Some(_) => Learner::Grpo,
        // What is sampled has an entropy.
        None if !metrics.is_empty() && metrics.iter().all(|step| step.entropy.is_nan()) => Learner::Sft,
        None => Learner::Grpo,
    };
    let same = recipe.as_ref().map(without_seed);
    if let Some(summary) = &summary {
        let rate = recipe.as_ref().and_then(|recipe| number(recipe, "optimizer", "learning_rate"));
        let peak = metrics.iter().map(|step| step.learning_rate).fold(0.0, f64::max);
        let rest = same.clone().unwrap_or_else(|| folder.display().to_string());
        // Without a rate there is no place on an axis of rates; 0 keeps it off.
        results.rows.push(row(folder, summary, learner, rate.unwrap_or(peak), rest, recipe.as_ref()));
    }
    let seed = summary.as_ref().map(|summary| summary.seed);
    let reference = recipe.as_ref().and_then(|recipe| text(recipe, "model", "ref")).map(str::to_owned);
    results.runs.push(Run {
        folder: folder.into(),
        learner,
        model: summary.as_ref().map(|s| s.model.reference.clone()).or(reference).unwrap_or_default(),
        task: summary.as_ref().map(|summary| summary.task.clone()).unwrap_or_default(),
        seed: seed.or_else(|| recipe.as_ref().and_then(|r| number(r, "", "seed")).map(|seed| seed as u64)),
        recipe: same,
        metrics,
    });
    let made = summary.as_ref().map(made);
    results.sources.push(Source { path: folder.into(), kind: "run", runs: 1, made });
    Ok(())
}

/// `tinylora 0.1.0 (0123abcd), cpu avx2, 2 threads`
pub fn made(summary: &Summary) -> String {
    let commit: String = summary.commit.chars().take(12).collect();
    let Summary { version, device, kernel, threads, .. } = summary;
    format!("tinylora {version} ({commit}), {device} {kernel}, {threads} threads")
}

fn row(
    folder: &Path,
    summary: &Summary,
    learner: Learner,
    rate: f64,
    rest: String,
    recipe: Option<&Table>,
) -> Row {
    let adapter = &summary.adapter;
    let size = adapter.trainable_parameters.max(1) as u64;
    let precision = match recipe.and_then(|recipe| text(recipe, "adapter", "storage_precision")) {
        Some("bf16") => StoragePrecision::Bf16,
        Some("fp16") => StoragePrecision::Fp16,
        Some(_) => StoragePrecision::Fp32,
        None if adapter.payload_bytes == 2 * size => StoragePrecision::Bf16,
        None => StoragePrecision::Fp32,
    };
    Row {
        name: name(folder),
        place: folder.into(),
        run: folder.into(),
        learner,
        method: adapter.kind.clone(),
        model: summary.model.reference.clone(),
        model_parameters: summary.model.parameters,
        task: summary.task.clone(),
        size,
        bytes: adapter.payload_bytes,
        rank: adapter.rank,
        u: adapter.u,
        n_tie: adapter.n_tie,
        tying: adapter.tying,
        precision,
        rate,
        seed: summary.seed,
        steps: summary.steps,
        before: summary.eval_before.clone(),
        after: summary.eval_after.clone(),
        accuracy: None,
        rest,
    }
}

/// The folder's own name.
pub fn name(folder: &Path) -> String {
    folder
        .file_name()
        .map_or_else(|| folder.display().to_string(), |name| name.to_string_lossy().into_owned())
}

/// The recipe as it is written; settings that this version doesn't know do no harm.
fn read_recipe(folder: &Path) -> Result<Option<Table>, PlotError> {
    let path = folder.join(RECIPE_FILE);
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        text => text.map_err(|source| PlotError::Read { path: path.clone(), source })?,
    };
    let bad = |error: toml::de::Error| {
        let before = error.span().map_or(0, |span| span.start.min(text.len()));
        let line = text.as_bytes()[..before].iter().filter(|byte| **byte == b'\n').count() + 1;
        PlotError::BadLine { path: path.clone(), line, message: format!("no TOML: {}", error.message()) }
    };
    text.parse::<Table>().map(Some).map_err(bad)
}

fn at<'a>(recipe: &'a Table, section: &str, key: &str) -> Option<&'a Value> {
    if section.is_empty() { recipe.get(key) } else { recipe.get(section)?.as_table()?.get(key) }
}

fn text<'a>(recipe: &'a Table, section: &str, key: &str) -> Option<&'a str> {
    at(recipe, section, key)?.as_str()
}

fn number(recipe: &Table, section: &str, key: &str) -> Option<f64> {
    match at(recipe, section, key)? {
        // As rows of sweeps have it: the single that the optimizer uses.
        Value::Float(value) if key == "learning_rate" => Some(f64::from(*value as f32)),
        Value::Float(value) => Some(*value),
        Value::Integer(value) => Some(*value as f64),
        _ => None,
    }
}

fn without_seed(recipe: &Table) -> String {
    let mut recipe = recipe.clone();
    for (section, key) in LEFT_OUT {
        if section.is_empty() {
            recipe.remove(key);
        } else if let Some(Value::Table(table)) = recipe.get_mut(section) {
            table.remove(key);
        }
    }
    recipe.to_string()
}
