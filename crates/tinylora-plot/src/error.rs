//! What can go wrong between result folders and a picture, as messages that name the place and say what to do.

use crate::options::FigureKind;
use std::io;
use std::path::PathBuf;
use tinylora::atomic_file::AtomicFileError;
use tinylora::run_folder::RunFolderError;

/// Why there is no picture.
#[derive(Debug, thiserror::Error)]
pub enum PlotError {
    /// A file or folder cannot be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A folder without anything that could be drawn.
    #[error(
        "{path} has no results: a sweep has results.jsonl once a run is finished, a run has metrics.jsonl, an evaluation \
         has summary.json when it is done",
        path = path.display()
    )]
    NoResults {
        /// The folder.
        path: PathBuf,
    },
    /// A line of a file is not what it should be.
    #[error("{path}, line {line}: {message}", path = path.display())]
    BadLine {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        message: String,
    },
    /// A log of a run cannot be read.
    #[error(transparent)]
    Run(#[from] RunFolderError),
    /// Accuracies of different tasks would stand on one axis.
    #[error(
        "results of different tasks can't share an axis: {found}. Draw one of them with --task NAME, or give its folders alone"
    )]
    MixedTasks {
        /// Each task with a folder that has it.
        found: String,
    },
    /// A filter that leaves nothing.
    #[error("no result has the {what} {asked}; there is {there}")]
    Filter {
        /// "task" or "model".
        what: &'static str,
        /// What was asked for.
        asked: String,
        /// What there is.
        there: String,
    },
    /// The data does not allow a figure that was asked for.
    #[error("nothing to draw for the figure `{figure}`: {why}")]
    NothingFor {
        /// The figure.
        figure: FigureKind,
        /// What is missing.
        why: String,
    },
    /// The data allows no figure at all.
    #[error("nothing to draw: {why}")]
    Nothing {
        /// What is missing for each figure.
        why: String,
    },
    /// An output file whose kind is not known.
    #[error("{path}: the name must end in .svg, .png or .html, which decides what is written", path = path.display())]
    Extension {
        /// The file.
        path: PathBuf,
    },
    /// More pixels than a picture may have.
    #[error(
        "a picture of {width} × {height} pixels is too large (at most {most} a side): take a smaller --scale, or fewer figures"
    )]
    TooLarge {
        /// Pixels.
        width: u64,
        /// Pixels.
        height: u64,
        /// The limit.
        most: u32,
    },
    /// The pixels could not be made.
    #[error("cannot make the PNG: {message}")]
    Png {
        /// What the renderer said.
        message: String,
    },
    /// The file could not be written.
    #[error(transparent)]
    Write(#[from] AtomicFileError),
}
