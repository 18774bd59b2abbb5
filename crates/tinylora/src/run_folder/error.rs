//! What can go wrong with a run's folder, as messages that name the path and say what to do.

use std::io;
use std::path::{Path, PathBuf};

use crate::atomic_file::AtomicFileError;
use crate::checkpoint::CheckpointError;

/// What is wrong with a run's folder.
#[derive(Debug, thiserror::Error)]
pub enum RunFolderError {
    /// A new run would write over another one.
    #[error(
        "{path} already has {found}: continue that run with --resume, or choose another folder with --out",
        path = path.display(), found = found.join(", ")
    )]
    Taken {
        /// The folder.
        path: PathBuf,
        /// What is there.
        found: Vec<&'static str>,
    },
    /// Nothing to resume.
    #[error("{path} has no run to resume (no recipe.toml): leave out --resume to start one, or check --out", path = path.display())]
    NoRun {
        /// The folder.
        path: PathBuf,
    },
    /// Another process writes the run.
    #[error(
        "{path} is being written by {owner}: wait until it is done or stop it, or choose another folder with --out",
        path = path.display()
    )]
    InUse {
        /// The folder.
        path: PathBuf,
        /// Who: "process 123", or "another process" if it did not say.
        owner: String,
    },
    /// The disk or the user's quota is full.
    #[error(
        "no space left to append {what} ({bytes} bytes) to {path}: free some space, then go on from the last checkpoint with --resume",
        path = path.display()
    )]
    DiskFull {
        /// The file.
        path: PathBuf,
        /// What was being written.
        what: String,
        /// How much it is.
        bytes: usize,
    },
    /// Any other failure of the system.
    #[error("cannot {action} {path}: {source}{advice}", path = path.display(), advice = advice(source))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was being done, with its size where something was being written.
        action: String,
        /// What the system said.
        source: io::Error,
    },
    /// A line of a log cannot be read.
    #[error("{path}, line {line}: {message}", path = path.display())]
    BadLine {
        /// The log.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        message: String,
    },
    /// A whole file could not be written.
    #[error(transparent)]
    Write(#[from] AtomicFileError),
    /// The logs could not be measured or cut back.
    #[error(transparent)]
    Logs(#[from] CheckpointError),
}

/// For `map_err`.
pub(super) fn failed(path: &Path, action: impl Into<String>) -> impl FnOnce(io::Error) -> RunFolderError {
    let (path, action) = (path.to_owned(), action.into());
    move |source| RunFolderError::Io { path, action, source }
}

/// For `map_err`, where `bytes` of `what` were being appended.
pub(super) fn append_failed(path: &Path, what: &str, bytes: usize, source: io::Error) -> RunFolderError {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            RunFolderError::DiskFull { path: path.into(), what: what.into(), bytes }
        }
        _ => failed(path, format!("append {what} ({bytes} bytes) to"))(source),
    }
}

fn advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            ". Check whom the folder belongs to and whether it may be written, or choose another with --out"
        }
        _ => "",
    }
}
