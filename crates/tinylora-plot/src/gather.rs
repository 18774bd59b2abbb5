//! Folders of sweeps, runs and evaluations enter, their results leave as plain rows; nothing is chosen or averaged here.

mod evaluation;
mod run;

pub use evaluation::Evaluated;
pub use run::Run;

use crate::error::PlotError;
use crate::row::Row;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use tinylora::evaluate::SETTINGS_FILE;
use tinylora::run_folder::{METRICS_FILE, SUMMARY_FILE, read_summary};
use tinylora::sweep::ResultRow;

/// A sweep's results, a row a line; an evaluation has a file of this name, too.
const RESULTS_FILE: &str = "results.jsonl";
/// How far below a folder results are looked for.
const DEPTH: usize = 3;

/// Everything that was found.
#[derive(Debug, Default)]
pub struct Results {
    /// Finished runs.
    pub rows: Vec<Row>,
    /// Runs outside of sweeps, with their metrics.
    pub runs: Vec<Run>,
    /// Evaluations.
    pub evaluated: Vec<Evaluated>,
    /// Where it comes from, in the order of reading.
    pub sources: Vec<Source>,
    /// What a reader of the figures should know.
    pub notes: Vec<String>,
}

/// A folder with results.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The folder.
    pub path: PathBuf,
    /// "sweep", "run" or "evaluation".
    pub kind: &'static str,
    /// Finished runs, or 1.
    pub runs: usize,
    /// What program and machine made it, where that is known.
    pub made: Option<String>,
}

/// Reads all folders. One that holds no results itself is searched, three levels deep.
pub fn read(folders: &[PathBuf]) -> Result<Results, PlotError> {
    let mut results = Results::default();
    let mut seen = BTreeSet::new();
    for folder in folders {
        if !read_into(folder, DEPTH, &mut seen, &mut results)? {
            return Err(PlotError::NoResults { path: folder.clone() });
        }
    }
    drop_repeated(&mut results);
    Ok(results)
}

/// Whether there was something.
fn read_into(
    folder: &Path,
    depth: usize,
    seen: &mut BTreeSet<PathBuf>,
    results: &mut Results,
) -> Result<bool, PlotError> {
    let read = |source| PlotError::Read { path: folder.into(), source };
    if !fs::metadata(folder).map_err(read)?.is_dir() {
        return Err(read(std::io::Error::other("it is a file; name the folder that it is in")));
    }
    if !seen.insert(fs::canonicalize(folder).map_err(read)?) {
        results.notes.push(format!("{} is named twice and counted once", folder.display()));
        return Ok(true);
    }
    let has = |name: &str| folder.join(name).is_file();
    if has(SETTINGS_FILE) {
        // An evaluation that was interrupted has no summary yet.
        return Ok(has(SUMMARY_FILE) && evaluation::read_benchmark(folder, results)?);
    }
    if has(RESULTS_FILE) {
        read_sweep(folder, results)?;
        return Ok(true);
    }
    if has(METRICS_FILE) || has(SUMMARY_FILE) && run::is_summary(folder)? {
        run::read(folder, results)?;
        return Ok(true);
    }
    if has(SUMMARY_FILE) && evaluation::read_any(folder, results)? {
        return Ok(true);
    }
    if depth == 0 {
        return Ok(false);
    }
    let mut inner = Vec::new();
    for entry in fs::read_dir(folder).map_err(read)? {
        let path = entry.map_err(read)?.path();
        if path.is_dir() {
            inner.push(path);
        }
    }
    inner.sort();
    let mut found = false;
    for folder in inner {
        found |= read_into(&folder, depth - 1, seen, results)?;
    }
    Ok(found)
}

fn read_sweep(folder: &Path, results: &mut Results) -> Result<(), PlotError> {
    let path = folder.join(RESULTS_FILE);
    let text = fs::read_to_string(&path).map_err(|source| PlotError::Read { path: path.clone(), source })?;
    let before = results.rows.len();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let row: ResultRow = serde_json::from_str(line).map_err(|error| PlotError::BadLine {
            path: path.clone(),
            line: number,
            message: format!("no row of a sweep: {error}"),
        })?;
        check(&row).map_err(|message| PlotError::BadLine { path: path.clone(), line: number, message })?;
        results.rows.push(Row::of_sweep(folder.into(), row));
    }
    let rows = &results.rows[before..];
    let made = rows.first().and_then(|row| read_summary(&row.run).ok()).map(|summary| run::made(&summary));
    let (path, runs) = (folder.into(), rows.len());
    results.sources.push(Source { path, kind: "sweep", runs, made });
    Ok(())
}

/// Numbers that no run can have.
fn check(row: &ResultRow) -> Result<(), String> {
    if !(row.learning_rate.is_finite() && row.learning_rate > 0.0) {
        return Err(format!("learning_rate is {}; it must be above 0", row.learning_rate));
    }
    if row.trainable_parameters == 0 {
        return Err("trainable_parameters is 0".into());
    }
    let fractions = [("baseline", &row.baseline), ("result", &row.result)]
        .into_iter()
        .flat_map(|(name, result)| result.iter().map(move |result| (name, result)))
        .flat_map(|(name, r)| [(name, r.sampled_accuracy), (name, r.greedy_accuracy)])
        .chain([("accuracy", row.accuracy)]);
    for (name, value) in fractions {
        if let Some(value) = value.filter(|value| !(0.0..=1.0).contains(value)) {
            return Err(format!("the accuracy in {name} is {value}; it must be between 0 and 1"));
        }
    }
    Ok(())
}

/// The same run in two folders counts once.
fn drop_repeated(results: &mut Results) {
    let mut kept: Vec<Row> = Vec::new();
    let mut dropped = 0;
    for row in std::mem::take(&mut results.rows) {
        let same = |other: &Row| {
            let mut other = other.clone();
            (other.name, other.place, other.run) = (row.name.clone(), row.place.clone(), row.run.clone());
            other == row
        };
        if kept.iter().any(same) {
            dropped += 1;
        } else {
            kept.push(row);
        }
    }
    results.rows = kept;
    if dropped > 0 {
        results
            .notes
            .push(format!("{dropped} runs were there more than once, with the same results, and count once"));
    }
}

#[cfg(test)]
mod tests;
