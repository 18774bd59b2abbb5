//! The folder of an evaluation enters, its accuracy leaves.

use super::{Results, Source};
use crate::error::PlotError;
use std::fs;
use std::path::{Path, PathBuf};
use tinylora::evaluate::BenchmarkSummary;
use tinylora::run_folder::SUMMARY_FILE;

/// One evaluation.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluated {
    /// Its folder.
    pub folder: PathBuf,
    /// The benchmark for people.
    pub title: String,
    /// The base's reference.
    pub model: String,
    /// The adapter's.
    pub adapter: Option<String>,
    /// Prompt format, scorer and so on.
    pub settings: String,
    /// Fraction right.
    pub accuracy: f64,
    /// Its 95 % interval, over problems.
    pub ci95: [f64; 2],
    /// Problems.
    pub problems: usize,
}

/// Reads an evaluation on a benchmark; whether the file is one.
pub fn read_benchmark(folder: &Path, results: &mut Results) -> Result<bool, PlotError> {
    let summary = summary(folder)?;
    benchmark(folder, &summary, results)
}

/// Reads whatever kind of evaluation it is; whether it is one.
pub fn read_any(folder: &Path, results: &mut Results) -> Result<bool, PlotError> {
    let summary = summary(folder)?;
    if summary.get("settings").is_some() {
        return benchmark(folder, &summary, results);
    }
    let (Some(eval), Some(model)) = (summary.get("eval"), summary["model"].as_str()) else {
        return Ok(false);
    };
    let number = |key: &str| eval[key].as_f64();
    let sampled = number("sampled_accuracy");
    let Some(accuracy) = sampled.or(number("greedy_accuracy")) else { return Ok(false) };
    let end = |i: usize| eval[if sampled.is_some() { "sampled_ci95" } else { "greedy_ci95" }][i].as_f64();
    let how = if sampled.is_some() { "sampled" } else { "greedy" };
    add(
        results,
        folder,
        Evaluated {
            folder: folder.into(),
            title: summary["problems"].as_str().unwrap_or("problems").to_owned(),
            model: model.to_owned(),
            adapter: summary["adapter"].as_str().map(str::to_owned),
            settings: how.into(),
            accuracy,
            ci95: [end(0).unwrap_or(accuracy), end(1).unwrap_or(accuracy)],
            problems: eval["n"].as_u64().unwrap_or(0) as usize,
        },
    )
}

fn benchmark(folder: &Path, summary: &serde_json::Value, results: &mut Results) -> Result<bool, PlotError> {
    let path = folder.join(SUMMARY_FILE);
    let summary: BenchmarkSummary = serde_json::from_value(summary.clone()).map_err(|error| {
        PlotError::BadLine { path, line: 1, message: format!("no summary of an evaluation: {error}") }
    })?;
    let settings = &summary.settings;
    let how = match settings.samples {
        0 => "greedy".to_owned(),
        n => format!("avg@{n} at temperature {}", settings.temperature),
    };
    let shots = settings.shots;
    add(
        results,
        folder,
        Evaluated {
            folder: folder.into(),
            title: summary.title.clone(),
            model: settings.model.clone(),
            adapter: settings.adapter.clone(),
            settings: format!(
                "{how}, {} with {shots} examples, scorer {}",
                settings.prompt_format, settings.scorer
            ),
            accuracy: summary.result.accuracy,
            ci95: summary.result.ci95,
            problems: summary.result.n,
        },
    )
}

fn add(results: &mut Results, folder: &Path, evaluated: Evaluated) -> Result<bool, PlotError> {
    if !(0.0..=1.0).contains(&evaluated.accuracy) {
        return Err(PlotError::BadLine {
            path: folder.join(SUMMARY_FILE),
            line: 1,
            message: format!("the accuracy is {}; it must be between 0 and 1", evaluated.accuracy),
        });
    }
    results.evaluated.push(evaluated);
    results.sources.push(Source { path: folder.into(), kind: "evaluation", runs: 1, made: None });
    Ok(true)
}

fn summary(folder: &Path) -> Result<serde_json::Value, PlotError> {
    let path = folder.join(SUMMARY_FILE);
    let text = fs::read_to_string(&path).map_err(|source| PlotError::Read { path: path.clone(), source })?;
    serde_json::from_str(&text).map_err(|error| PlotError::BadLine {
        path,
        line: error.line(),
        message: format!("no JSON: {error}"),
    })
}
