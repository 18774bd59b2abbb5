//! What a run writes down enters, the files of its folder leave, and back; nothing here trains or measures.
//!
//! A folder has `recipe.toml`, `metrics.jsonl`, `samples.jsonl`, `tensorboard/`, `checkpoints/`,
//! `adapter.tinylora` and `summary.json`. The logs grow by whole lines and records, the other files are replaced
//! as a whole. One process writes: it holds a lock on `.lock`, which the system gives back when it dies.
//! On resuming, the logs are cut back to what the checkpoint counts on.

mod append;
mod error;
mod read;
mod records;
mod summary;
mod tensorboard;

pub use error::RunFolderError;
pub use read::{metrics_without_timing, read_metrics, read_samples};
pub use records::{EvalResult, SampleRecord, StepMetrics, VerdictCounts};
pub use summary::{
    AdapterSummary, COMMIT, ModelSummary, SUMMARY_FILE, Summary, VERSION, peak_rss_bytes, read_summary,
    rss_bytes,
};

#[cfg(test)]
pub(crate) use summary::tests::example as example_summary;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::atomic_file;
use crate::checkpoint::{measure_logs, truncate_logs};
use crate::recipe::Recipe;
pub(crate) use append::AppendFile;
use error::failed;

/// The resolved recipe.
pub const RECIPE_FILE: &str = "recipe.toml";
/// One [`StepMetrics`] a line.
pub const METRICS_FILE: &str = "metrics.jsonl";
/// One [`SampleRecord`] a line.
pub const SAMPLES_FILE: &str = "samples.jsonl";
/// Folder of TensorBoard's event files.
pub const TENSORBOARD_FOLDER: &str = "tensorboard";
/// Folder of checkpoints.
pub const CHECKPOINTS_FOLDER: &str = "checkpoints";
/// The trained adapter.
pub const ADAPTER_FILE: &str = "adapter.tinylora";

/// Name of the folder with the whole model, where all weights were trained.
pub const MODEL_FOLDER: &str = "model";

const LOCK_FILE: &str = ".lock";
/// Whatever shows that a folder has a run.
const PARTS: [&str; 8] = [
    RECIPE_FILE,
    METRICS_FILE,
    SAMPLES_FILE,
    TENSORBOARD_FOLDER,
    CHECKPOINTS_FOLDER,
    ADAPTER_FILE,
    MODEL_FOLDER,
    SUMMARY_FILE,
];

/// A run's folder, open for writing by this process alone.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    metrics: AppendFile,
    samples: AppendFile,
    events: AppendFile,
    /// Locked as long as it lives.
    _lock: File,
}

/// The folder of a run that has stopped, locked by this process. Nothing in it was changed yet: read the newest
/// checkpoint, then [`StoppedRun::truncate_to`] goes on.
#[derive(Debug)]
pub struct StoppedRun {
    path: PathBuf,
    lock: File,
}

impl RunFolder {
    /// Makes the folder of a new run, with its recipe and empty logs. A folder that already has a part of a run is
    /// an error, and stays as it is; other files in it do not matter.
    pub fn create(path: &Path, recipe: &Recipe) -> Result<Self, RunFolderError> {
        refuse_a_run(path)?;
        fs::create_dir_all(path).map_err(failed(path, "make the folder"))?;
        let lock = lock_folder(path)?;
        // Another process may have made its run between the first look and the lock.
        refuse_a_run(path)?;
        write_recipe(path, recipe)?;
        Self::open_logs(path.into(), lock)
    }

    /// Locks the folder of a run that has stopped or was killed.
    pub fn open(path: &Path) -> Result<StoppedRun, RunFolderError> {
        if !path.join(RECIPE_FILE).is_file() {
            return Err(RunFolderError::NoRun { path: path.into() });
        }
        let lock = lock_folder(path)?;
        atomic_file::remove_partials(path).map_err(failed(path, "clean up"))?;
        Ok(StoppedRun { path: path.into(), lock })
    }

    /// Opens the logs at their ends; TensorBoard's events go into a new file.
    fn open_logs(path: PathBuf, lock: File) -> Result<Self, RunFolderError> {
        let folder = path.join(TENSORBOARD_FOLDER);
        fs::create_dir_all(&folder).map_err(failed(&folder, "make the folder"))?;
        let last = event_files(&path)?.last().map_or(0, |(number, _)| *number);
        let mut events = AppendFile::open(folder.join(tensorboard::file_name(last + 1)))?;
        events.append("the version of the format", &tensorboard::first_record(seconds_now()))?;
        Ok(Self {
            metrics: AppendFile::open(path.join(METRICS_FILE))?,
            samples: AppendFile::open(path.join(SAMPLES_FILE))?,
            events,
            path,
            _lock: lock,
        })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder of the run's checkpoints.
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join(CHECKPOINTS_FOLDER)
    }

    /// Replaces the recipe, where a resumed run changes what may be changed.
    pub fn write_recipe(&self, recipe: &Recipe) -> Result<(), RunFolderError> {
        write_recipe(&self.path, recipe)
    }

    /// Appends a step to `metrics.jsonl` and to TensorBoard's events.
    pub fn append_metrics(&mut self, metrics: &StepMetrics) -> Result<(), RunFolderError> {
        let what = format!("the metrics of step {}", metrics.step);
        self.metrics.append(&what, &line(metrics))?;
        self.append_scalars(&what, metrics.step, &tensorboard::scalars_of_step(metrics))
    }

    /// Appends a sample to `samples.jsonl`.
    pub fn append_sample(&mut self, sample: &SampleRecord) -> Result<(), RunFolderError> {
        self.samples.append(&format!("a sample of step {}", sample.step), &line(sample))
    }

    /// Appends an evaluation to TensorBoard's events.
    pub fn append_evaluation(&mut self, step: u64, result: &EvalResult) -> Result<(), RunFolderError> {
        let what = format!("the evaluation at step {step}");
        self.append_scalars(&what, step, &tensorboard::scalars_of_evaluation(result))
    }

    fn append_scalars(
        &mut self,
        what: &str,
        step: u64,
        scalars: &[(&str, f64)],
    ) -> Result<(), RunFolderError> {
        self.events.append(what, &tensorboard::scalars_record(seconds_now(), step, scalars))
    }

    /// The logs are on disk when this returns.
    pub fn sync(&self) -> Result<(), RunFolderError> {
        [&self.metrics, &self.samples, &self.events].into_iter().try_for_each(AppendFile::sync)
    }

    /// The lengths of all logs for [`crate::checkpoint::Checkpoint::logs`], after they were flushed to disk: a
    /// checkpoint must not be newer than the logs that it counts on.
    pub fn lengths(&self) -> Result<BTreeMap<String, u64>, RunFolderError> {
        let mut names = vec![METRICS_FILE.to_owned(), SAMPLES_FILE.to_owned()];
        names.extend(event_files(&self.path)?.into_iter().map(|(_, name)| name));
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        Ok(measure_logs(&self.path, &names)?)
    }

    /// Writes `summary.json`, whole or not at all.
    pub fn write_summary(&self, summary: &Summary) -> Result<(), RunFolderError> {
        let mut text = serde_json::to_vec_pretty(summary).expect("plain data is JSON");
        text.push(b'\n');
        Ok(atomic_file::write(&self.path.join(SUMMARY_FILE), &text)?)
    }
}

impl StoppedRun {
    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder of the run's checkpoints.
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join(CHECKPOINTS_FOLDER)
    }

    /// The run's resolved recipe, as TOML.
    pub fn recipe_toml(&self) -> Result<String, RunFolderError> {
        let path = self.path.join(RECIPE_FILE);
        fs::read_to_string(&path).map_err(failed(&path, "read"))
    }

    /// Cuts the logs to the lengths in a checkpoint, so that they are those of a run that stopped there: later lines,
    /// half-written ones and later event files go. Without a checkpoint, pass an empty map: the run begins again.
    /// A log that is shorter than it should be is an error, and then nothing was changed.
    pub fn truncate_to(self, lengths: &BTreeMap<String, u64>) -> Result<RunFolder, RunFolderError> {
        let mut all = lengths.clone();
        all.entry(METRICS_FILE.into()).or_insert(0);
        all.entry(SAMPLES_FILE.into()).or_insert(0);
        truncate_logs(&self.path, &all)?;
        for (_, name) in event_files(&self.path)? {
            if !lengths.contains_key(&name) {
                let path = self.path.join(name);
                fs::remove_file(&path).map_err(failed(&path, "remove"))?;
            }
        }
        RunFolder::open_logs(self.path, self.lock)
    }
}

fn refuse_a_run(path: &Path) -> Result<(), RunFolderError> {
    // A link that leads nowhere is something, too.
    let found: Vec<_> = PARTS.into_iter().filter(|part| path.join(part).symlink_metadata().is_ok()).collect();
    if found.is_empty() { Ok(()) } else { Err(RunFolderError::Taken { path: path.into(), found }) }
}

fn write_recipe(folder: &Path, recipe: &Recipe) -> Result<(), RunFolderError> {
    Ok(atomic_file::write(&folder.join(RECIPE_FILE), recipe.to_toml().as_bytes())?)
}

/// Locks the folder, or says who has it. The lock's file stays: whoever removed it could take it from under one who
/// just opened it.
pub(crate) fn lock_folder(folder: &Path) -> Result<File, RunFolderError> {
    let path = folder.join(LOCK_FILE);
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let mut file = open.map_err(failed(&path, "open"))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let process = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse::<u32>().ok());
            let owner = process.map_or("another process".into(), |id| format!("process {id}"));
            return Err(RunFolderError::InUse { path: folder.into(), owner });
        }
        // Some network file systems have no locks; a run there is better than none.
        Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {}
        Err(TryLockError::Error(error)) => return Err(failed(&path, "lock")(error)),
    }
    let written = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
    written.map_err(failed(&path, "write the process's number to"))?;
    Ok(file)
}

/// Numbers and names (in the run's folder) of TensorBoard's event files, oldest first.
fn event_files(run: &Path) -> Result<Vec<(u32, String)>, RunFolderError> {
    let folder = run.join(TENSORBOARD_FOLDER);
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed(&folder, "list"))?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed(&folder, "list"))?.file_name();
        if let Some((name, number)) =
            name.to_str().and_then(|name| Some((name, tensorboard::number_of(name)?)))
        {
            files.push((number, format!("{TENSORBOARD_FOLDER}/{name}")));
        }
    }
    files.sort();
    Ok(files)
}

fn line<T: serde::Serialize>(record: &T) -> Vec<u8> {
    let mut line = serde_json::to_vec(record).expect("plain data is JSON");
    line.push(b'\n');
    line
}

/// Since 1970.
fn seconds_now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

#[cfg(test)]
mod tests;
