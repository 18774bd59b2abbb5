//! The logs of a run, finished or still going on, enter; their records leave. Nothing is changed on disk.

use std::path::Path;

use serde::de::DeserializeOwned;

use super::error::{RunFolderError, failed};
use super::records::{SampleRecord, StepMetrics};
use super::{METRICS_FILE, SAMPLES_FILE};

/// The metrics in a run's folder, in order. What stands after the last end of a line is still being written, or was
/// when the run was killed, and is passed over.
pub fn read_metrics(folder: &Path) -> Result<Vec<StepMetrics>, RunFolderError> {
    read_lines(&folder.join(METRICS_FILE))
}

/// The samples in a run's folder, likewise.
pub fn read_samples(folder: &Path) -> Result<Vec<SampleRecord>, RunFolderError> {
    read_lines(&folder.join(SAMPLES_FILE))
}

/// A line of `metrics.jsonl` without what a clock, the machine's memory and devices or neighbours in the batch decide: equal for equal runs.
pub fn metrics_without_timing(
    line: &str,
) -> Result<serde_json::Map<String, serde_json::Value>, serde_json::Error> {
    let mut metrics: serde_json::Map<_, _> = serde_json::from_str(line)?;
    metrics.retain(|key, _| {
        !["rollout_seconds", "train_seconds", "rss_bytes", "empty_slot_fraction"].contains(&key.as_str())
    });
    Ok(metrics)
}

fn read_lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, RunFolderError> {
    let bytes = std::fs::read(path).map_err(failed(path, "read"))?;
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').unwrap_or(0);
    let lines = bytes[..whole].split(|byte| *byte == b'\n').filter(|line| whole > 0 && !line.is_empty());
    let record = |(index, line)| {
        serde_json::from_slice(line).map_err(|error: serde_json::Error| RunFolderError::BadLine {
            path: path.into(),
            line: index + 1,
            message: error.to_string(),
        })
    };
    lines.enumerate().map(record).collect()
}
