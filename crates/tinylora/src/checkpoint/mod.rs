//! The state of a run between two steps enters, one whole file leaves, and back; nothing here trains.
//!
//! A run's folder has `checkpoints/step-000100.ckpt`, … Each is written atomically and carries a hash; a file
//! that was cut or altered is an error that names it and the newest whole one, never a silent restart.

mod file;
mod folder;
mod logs;
mod resume;

pub use file::{Checkpoint, Counters, from_bytes, load, to_bytes};
pub use folder::{file_name, keep_last, latest, list, save};
pub use logs::{measure_logs, truncate_logs};
pub use resume::{Difference, MAY_CHANGE, check_base, check_recipe, recipe_differences};

use std::io;
use std::path::PathBuf;

use crate::atomic_file::AtomicFileError;

/// What is wrong with a checkpoint, or with resuming from it.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A file could not be written.
    #[error(transparent)]
    Write(#[from] AtomicFileError),
    /// A file or folder could not be read, truncated or removed.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was being done.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Another kind of file.
    #[error("{path} is no checkpoint of tinylora", path = path.display())]
    NotACheckpoint {
        /// The file.
        path: PathBuf,
    },
    /// Written by another version of the program.
    #[error("{path} has format version {found}, this program reads {known}: resume with the version of tinylora that wrote it", path = path.display())]
    OtherVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The version known here.
        known: u32,
    },
    /// Not as long as it says.
    #[error("{path} was cut short or lengthened: it has {found} bytes and should have {expected}", path = path.display())]
    Length {
        /// The file.
        path: PathBuf,
        /// Bytes there are.
        found: u64,
        /// Bytes there should be.
        expected: u64,
    },
    /// The content was changed.
    #[error("{path} was altered: its content does not have the sha256 that it carries", path = path.display())]
    Altered {
        /// The file.
        path: PathBuf,
    },
    /// The hash holds, but the content makes no sense.
    #[error("{path} holds what no checkpoint has: {message}", path = path.display())]
    BadContent {
        /// The file.
        path: PathBuf,
        /// What.
        message: String,
    },
    /// The newest checkpoint of a run cannot be used.
    #[error("the newest checkpoint cannot be used: {reason}. {advice}")]
    NewestBroken {
        /// The newest checkpoint.
        path: PathBuf,
        /// Why not.
        reason: Box<CheckpointError>,
        /// The newest whole one, if there is one.
        whole: Option<PathBuf>,
        /// What to do.
        advice: String,
    },
    /// The recipe is not the one of the run.
    #[error(
        "the recipe differs from the one of this run, so that resuming would not continue it:{}\nUse the run's own recipe (recipe.toml in its folder), or start a new run with another --out",
        list_differences(differences)
    )]
    RecipeDiffers {
        /// The keys that must not differ and do.
        differences: Vec<Difference>,
    },
    /// A recipe's text is not TOML.
    #[error("the {which} recipe cannot be compared: {message}")]
    RecipeUnreadable {
        /// Saved or current.
        which: &'static str,
        /// What the parser said.
        message: String,
    },
    /// The base model's weights are not those of the run.
    #[error(
        "the run was started on weights with sha256 {expected}…, the model at hand has {found}…: resume with the model that it began with"
    )]
    OtherBase {
        /// Beginning of the hash in the checkpoint.
        expected: String,
        /// Beginning of the hash at hand.
        found: String,
    },
    /// A log is shorter than it was when the checkpoint was written.
    #[error("{path} has {found} bytes, but had {expected} when the checkpoint was written: it was changed or lost since. Put it back, or start a new run with another --out", path = path.display())]
    LogLost {
        /// The log.
        path: PathBuf,
        /// Bytes there are.
        found: u64,
        /// Bytes there were.
        expected: u64,
    },
}

fn list_differences(differences: &[Difference]) -> String {
    differences.iter().map(|difference| format!("\n  {difference}")).collect()
}
