//! The folder of an evaluation on a benchmark: completions enter as they are finished, and after an interruption are
//! found again; `results.jsonl`, `summary.json` and `report.html` leave when all are there. Nothing is generated here.
//!
//! While it runs, finished completions stand in `results.partial.jsonl`, in the order in which they were finished. At
//! the end they are written in the order of the problems, so that a run in parts ends in the same bytes as a whole one.

use super::page;
use super::record::{BenchmarkSettings, BenchmarkSummary, ResultRecord};
use crate::atomic_file::{self, AtomicFileError};
use crate::run_folder::{AppendFile, RunFolderError, lock_folder};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What decides the results.
pub const SETTINGS_FILE: &str = "settings.json";
/// One [`ResultRecord`] a line.
pub const RESULTS_FILE: &str = "results.jsonl";
/// [`BenchmarkSummary`].
pub const BENCHMARK_SUMMARY_FILE: &str = "summary.json";
/// The page for people.
pub const REPORT_FILE: &str = "report.html";
const PARTIAL_FILE: &str = "results.partial.jsonl";

/// What is wrong with the folder of an evaluation.
#[derive(Debug, thiserror::Error)]
pub enum EvalFolderError {
    /// There is an evaluation in it already.
    #[error(
        "{} already has an evaluation ({done} completions): go on with it by --resume, or choose another folder with --out",
        path.display()
    )]
    Taken {
        /// The folder.
        path: PathBuf,
        /// Completions in it.
        done: usize,
    },
    /// The evaluation in it is another one.
    #[error(
        "{} has an evaluation with other settings ({}): give the same ones to go on, or choose another folder with --out",
        path.display(), differences.join("; ")
    )]
    Other {
        /// The folder.
        path: PathBuf,
        /// What differs.
        differences: Vec<String>,
    },
    /// A file of it can't be understood.
    #[error("{}, line {line}: {message}", path.display())]
    BadLine {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// The system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was being done.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A log could not be written, or somebody else writes here.
    #[error(transparent)]
    Log(#[from] RunFolderError),
    /// A whole file could not be written.
    #[error(transparent)]
    Write(#[from] AtomicFileError),
}

/// A line of the partial results.
#[derive(Serialize, Deserialize)]
struct Kept {
    /// The problem's place.
    index: usize,
    /// Which start of the program wrote it.
    session: u32,
    /// Seconds since that start.
    at: f64,
    record: ResultRecord,
}

/// The folder of an evaluation that is going on, open for this process alone.
#[derive(Debug)]
pub struct EvalFolder {
    path: PathBuf,
    partial: AppendFile,
    records: BTreeMap<(usize, usize), ResultRecord>,
    earlier_seconds: f64,
    session: u32,
    begun: Instant,
    _lock: File,
}

/// What a folder holds when it is opened.
#[derive(Debug)]
pub enum Opened {
    /// An evaluation to be gone on with; possibly nothing is done yet.
    Unfinished(EvalFolder),
    /// All is done; this is its summary.
    Finished(Box<BenchmarkSummary>),
}

impl EvalFolder {
    /// Opens a folder for an evaluation with these settings. One that has an evaluation already is an error unless
    /// `resume` is set, and always if that evaluation has other settings.
    pub fn open(path: &Path, settings: &BenchmarkSettings, resume: bool) -> Result<Opened, EvalFolderError> {
        fs::create_dir_all(path).map_err(failed(path, "make the folder"))?;
        let lock = lock_folder(path)?;
        atomic_file::remove_partials(path).map_err(failed(path, "clean up"))?;
        let settings_path = path.join(SETTINGS_FILE);
        let kept = match fs::read_to_string(&settings_path) {
            Ok(text) => {
                let was: BenchmarkSettings = parse(&settings_path, 1, &text)?;
                let differences = was.differences(settings);
                if resume && !differences.is_empty() {
                    return Err(EvalFolderError::Other { path: path.into(), differences });
                }
                read_partial(&path.join(PARTIAL_FILE))?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if path.join(RESULTS_FILE).exists() || path.join(BENCHMARK_SUMMARY_FILE).exists() {
                    return Err(EvalFolderError::Taken { path: path.into(), done: 0 });
                }
                Vec::new()
            }
            Err(error) => return Err(failed(&settings_path, "read")(error)),
        };
        let finished = path.join(BENCHMARK_SUMMARY_FILE).is_file() && !path.join(PARTIAL_FILE).exists();
        if settings_path.exists() && !resume {
            let done = if finished { read_results(path)?.len() } else { kept.len() };
            return Err(EvalFolderError::Taken { path: path.into(), done });
        }
        if finished {
            return Ok(Opened::Finished(Box::new(read_benchmark_summary(path)?)));
        }
        write_json(&settings_path, settings)?;
        let mut seconds: BTreeMap<u32, f64> = BTreeMap::new();
        for line in &kept {
            let longest = seconds.entry(line.session).or_default();
            *longest = longest.max(line.at);
        }
        Ok(Opened::Unfinished(Self {
            partial: AppendFile::open(path.join(PARTIAL_FILE))?,
            path: path.into(),
            earlier_seconds: seconds.values().sum(),
            session: seconds.keys().last().map_or(0, |last| last + 1),
            records: kept.into_iter().map(|line| ((line.index, line.record.sample), line.record)).collect(),
            begun: Instant::now(),
            _lock: lock,
        }))
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Completions that are there.
    pub fn done(&self) -> usize {
        self.records.len()
    }

    /// Of those, the right ones.
    pub fn right(&self) -> usize {
        self.records.values().filter(|record| record.right).count()
    }

    /// Whether a sample of a problem (by its place) is there.
    pub fn has(&self, index: usize, sample: usize) -> bool {
        self.records.contains_key(&(index, sample))
    }

    /// Starts the clock: loading a model is not counted.
    pub fn start_clock(&mut self) {
        self.begun = Instant::now();
    }

    /// Keeps a completion of the problem at a place.
    pub fn keep(&mut self, index: usize, record: ResultRecord) -> Result<(), EvalFolderError> {
        let kept = Kept { index, session: self.session, at: self.begun.elapsed().as_secs_f64(), record };
        let mut line = serde_json::to_vec(&kept).expect("plain data is JSON");
        line.push(b'\n');
        self.partial.append("a completion", &line)?;
        self.records.insert((index, kept.record.sample), kept.record);
        Ok(())
    }

    /// What is kept is on disk when this returns.
    pub fn sync(&self) -> Result<(), EvalFolderError> {
        Ok(self.partial.sync()?)
    }

    /// Seconds of work so far, those of earlier sessions included.
    pub fn seconds(&self) -> f64 {
        self.earlier_seconds + self.begun.elapsed().as_secs_f64()
    }

    /// The records in the order of problems and samples.
    pub fn records(&self) -> Vec<ResultRecord> {
        self.records.values().cloned().collect()
    }

    /// Writes results, summary and page, and lets go of the folder.
    pub fn finish(self, summary: &BenchmarkSummary) -> Result<(), EvalFolderError> {
        let mut text = Vec::new();
        for record in self.records.values() {
            serde_json::to_writer(&mut text, record).expect("plain data is JSON");
            text.push(b'\n');
        }
        atomic_file::write(&self.path.join(RESULTS_FILE), &text)?;
        let page = page::render(summary, &self.records());
        atomic_file::write(&self.path.join(REPORT_FILE), page.as_bytes())?;
        write_json(&self.path.join(BENCHMARK_SUMMARY_FILE), summary)?;
        let partial = self.path.join(PARTIAL_FILE);
        fs::remove_file(&partial).map_err(failed(&partial, "remove"))
    }
}

/// All completions of a finished evaluation.
pub fn read_results(folder: &Path) -> Result<Vec<ResultRecord>, EvalFolderError> {
    let path = folder.join(RESULTS_FILE);
    let text = fs::read_to_string(&path).map_err(failed(&path, "read"))?;
    text.lines().enumerate().map(|(index, line)| parse(&path, index + 1, line)).collect()
}

/// The summary of a finished evaluation.
pub fn read_benchmark_summary(folder: &Path) -> Result<BenchmarkSummary, EvalFolderError> {
    let path = folder.join(BENCHMARK_SUMMARY_FILE);
    let text = fs::read_to_string(&path).map_err(failed(&path, "read"))?;
    parse(&path, 1, &text)
}

/// Reads the partial results; a half line at the end, which a killed process left, is cut off.
fn read_partial(path: &Path) -> Result<Vec<Kept>, EvalFolderError> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        bytes => bytes.map_err(failed(path, "read"))?,
    };
    let mut kept = Vec::new();
    let mut whole = 0;
    let lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
    for (index, line) in lines.iter().enumerate() {
        let read = if line.ends_with(b"\n") { serde_json::from_slice(line) } else { Err(half_a_line()) };
        match read {
            Ok(line) => kept.push(line),
            Err(_) if index + 1 == lines.len() => break,
            Err(error) => {
                let message = format!("no completion: {error}");
                return Err(EvalFolderError::BadLine { path: path.into(), line: index + 1, message });
            }
        }
        whole += line.len();
    }
    if whole < bytes.len() {
        let file = fs::OpenOptions::new().write(true).open(path).map_err(failed(path, "open"))?;
        file.set_len(whole as u64).map_err(failed(path, "shorten"))?;
    }
    Ok(kept)
}

fn half_a_line() -> serde_json::Error {
    serde::de::Error::custom("the line does not end")
}

fn parse<T: serde::de::DeserializeOwned>(path: &Path, line: usize, text: &str) -> Result<T, EvalFolderError> {
    serde_json::from_str(text).map_err(|error| EvalFolderError::BadLine {
        path: path.into(),
        line: line + error.line() - 1,
        message: format!("not what an evaluation writes: {error}"),
    })
}

fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), EvalFolderError> {
    let mut text = serde_json::to_vec_pretty(value).expect("plain data is JSON");
    text.push(b'\n');
    Ok(atomic_file::write(path, &text)?)
}

fn failed(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> EvalFolderError {
    let path = path.to_owned();
    move |source| EvalFolderError::Io { path, action, source }
}

#[cfg(test)]
mod tests {
    use super::super::record::judge;
    use super::super::record::tests::{asked, settings, written};
    use super::super::tally::tally;
    use super::*;
    use tinylora_verify::Scorer;

    fn unfinished(path: &Path, resume: bool) -> EvalFolder {
        match EvalFolder::open(path, &settings(), resume).unwrap() {
            Opened::Unfinished(folder) => folder,
            Opened::Finished(_) => panic!("finished"),
        }
    }

    fn record(number: usize) -> ResultRecord {
        judge(&asked(number, "2", "1"), 0, written("so \\boxed{2}"), Scorer::Robust, &[])
    }

    fn summary(folder: &EvalFolder) -> BenchmarkSummary {
        BenchmarkSummary {
            title: "MATH500".into(),
            settings: settings(),
            result: tally(&folder.records()),
            wall_seconds: 1.0,
            tokens_per_second: 2.0,
            device: "cpu".into(),
            kernel: "scalar".into(),
            threads: 1,
            version: "0".into(),
            commit: "0".into(),
        }
    }

    #[test]
    fn parts_end_like_a_whole() {
        let folder = tempfile::tempdir().unwrap();
        let (parts, whole) = (folder.path().join("parts"), folder.path().join("whole"));
        let mut first = unfinished(&parts, false);
        first.keep(2, record(3)).unwrap();
        first.keep(0, record(1)).unwrap();
        first.sync().unwrap();
        drop(first);
        // A process that was killed while it wrote.
        let partial = parts.join(PARTIAL_FILE);
        let mut bytes = fs::read(&partial).unwrap();
        bytes.extend_from_slice(b"{\"index\": 1, \"sess");
        fs::write(&partial, &bytes).unwrap();
        let message = EvalFolder::open(&parts, &settings(), false).unwrap_err().to_string();
        assert!(message.contains("2 completions") && message.contains("--resume"), "{message}");
        let mut second = unfinished(&parts, true);
        assert!(second.has(0, 0) && second.has(2, 0) && !second.has(1, 0));
        assert_eq!((second.done(), second.right()), (2, 2));
        second.keep(1, record(2)).unwrap();
        let told = summary(&second);
        second.finish(&told).unwrap();

        let mut at_once = unfinished(&whole, true);
        for index in 0..3 {
            at_once.keep(index, record(index + 1)).unwrap();
        }
        let told = summary(&at_once);
        at_once.finish(&told).unwrap();
        for file in [RESULTS_FILE, BENCHMARK_SUMMARY_FILE, REPORT_FILE, SETTINGS_FILE] {
            assert_eq!(fs::read(parts.join(file)).unwrap(), fs::read(whole.join(file)).unwrap(), "{file}");
        }
        assert!(!partial.exists());
        assert_eq!(read_results(&parts).unwrap().len(), 3);
        assert!(matches!(EvalFolder::open(&parts, &settings(), true).unwrap(), Opened::Finished(_)));
        assert!(EvalFolder::open(&parts, &settings(), false).is_err());
    }

    #[test]
    fn another_evaluation_is_not_gone_on_with() {
        let folder = tempfile::tempdir().unwrap();
        drop(unfinished(folder.path(), true));
        let mut other = settings();
        other.max_tokens = 1;
        let message = EvalFolder::open(folder.path(), &other, true).unwrap_err().to_string();
        assert!(message.contains("max_tokens: was 64, now 1"), "{message}");
        fs::write(folder.path().join(PARTIAL_FILE), "nonsense\n{}\n").unwrap();
        let message = EvalFolder::open(folder.path(), &settings(), true).unwrap_err().to_string();
        assert!(message.contains("line 1"), "{message}");
        // A folder with somebody else's results.
        let foreign = tempfile::tempdir().unwrap();
        fs::write(foreign.path().join(RESULTS_FILE), "{}\n").unwrap();
        assert!(EvalFolder::open(foreign.path(), &settings(), true).is_err());
    }

    #[test]
    fn one_process_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let _open = unfinished(folder.path(), false);
        let message = EvalFolder::open(folder.path(), &settings(), true).unwrap_err().to_string();
        assert!(message.contains("is being written by"), "{message}");
    }
}
