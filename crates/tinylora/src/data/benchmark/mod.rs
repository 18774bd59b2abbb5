//! Benchmarks by name: a name and a file enter, problems with gold answers and prompts in a named format leave. Files
//! come from a folder or from the Hub ([`find()`]); a set's differences stand in [`crate::recipe::Benchmark`]'s table.

mod examples;
mod find;
mod prompting;
mod rows;

pub use examples::{Example, own_examples};
pub use find::find;
pub use prompting::Prompting;
pub use rows::{last_box, parse};

use super::Problem;
use crate::hub::{HubError, HubOptions, Progress, bytes_sha256};
use crate::recipe::{Benchmark, Split};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A problem of a benchmark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BenchmarkProblem {
    /// Question and gold answer; the id is the set's name and the row's number from 1. The gold answer may be empty
    /// where the data has none.
    pub problem: Problem,
    /// What results are broken down by, such as subject and level.
    pub groups: BTreeMap<String, String>,
}

/// A benchmark's rows and where they were read.
#[derive(Debug, Clone)]
pub struct BenchmarkData {
    /// The file.
    pub path: PathBuf,
    /// sha256 of its bytes, hex.
    pub sha256: String,
    /// Its rows.
    pub problems: Vec<BenchmarkProblem>,
}

/// Why a benchmark's problems can't be had.
#[derive(Debug, thiserror::Error)]
pub enum BenchmarkError {
    /// A data set in several files.
    #[error("{reference} has its rows in several files: name one of them, as hf:org/name/path/of/it.parquet")]
    ManyFiles {
        /// The data set on the Hub.
        reference: String,
    },
    /// No file on the Hub is known.
    #[error(
        "no file of {name} on the Hub is known: give one, or a folder with {folder}/test.jsonl in it such as \
         evaluation/data of the Qwen2.5-Math repository, as --data or task.test"
    )]
    NotOnHub {
        /// The set.
        name: &'static str,
        /// Its usual folder.
        folder: &'static str,
    },
    /// There is nothing to train on.
    #[error("{name} has no training split: name a file in its form as task.train, or train on gsm8k or math")]
    NoTrainSplit {
        /// The set.
        name: &'static str,
    },
    /// A folder without the set.
    #[error("{name} is not in the folder: there is no {tried}")]
    NotInFolder {
        /// The set.
        name: &'static str,
        /// What was looked for.
        tried: String,
    },
    /// The reference leads to no file.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// The file can't be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A line that can't be used.
    #[error("{file}:{line}: {message}")]
    Line {
        /// The file.
        file: String,
        /// The line, from 1.
        line: usize,
        /// What is wrong, with the field's name.
        message: String,
    },
    /// A file of nothing.
    #[error("{file} has no rows")]
    Empty {
        /// The file.
        file: String,
    },
    /// More worked examples than there are.
    #[error(
        "{asked} worked examples are asked for, but {what} has {available}: ask for fewer, or name a file"
    )]
    Examples {
        /// Asked for.
        asked: usize,
        /// There are.
        available: usize,
        /// Where they come from.
        what: String,
    },
}

/// Finds and reads a split; `given` as for [`find()`].
pub fn open(
    benchmark: Benchmark,
    split: Split,
    given: &str,
    options: &HubOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<BenchmarkData, BenchmarkError> {
    read(benchmark, split, &find(benchmark, split, given, options, progress)?)
}

/// Reads a file.
pub fn read(benchmark: Benchmark, split: Split, path: &Path) -> Result<BenchmarkData, BenchmarkError> {
    let bytes =
        std::fs::read(path).map_err(|source| BenchmarkError::Read { path: path.to_owned(), source })?;
    let file = path.display().to_string();
    let problems = if file.ends_with(".parquet") {
        let opened = std::fs::File::open(path)
            .map_err(|source| BenchmarkError::Read { path: path.to_owned(), source })?;
        rows::of_parquet(benchmark, split, &file, opened)?
    } else {
        parse(benchmark, split, &file, &bytes)?
    };
    Ok(BenchmarkData { path: path.to_owned(), sha256: bytes_sha256(&bytes), problems })
}

#[cfg(test)]
mod tests;
