//! The folder of a run's checkpoints: saving, finding the newest, removing old ones.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::file::{self, Checkpoint};
use super::{CheckpointError, load};
use crate::atomic_file;

/// The file's name for a step.
pub fn file_name(step: u64) -> String {
    format!("step-{step:06}.ckpt")
}

/// Writes a checkpoint into the folder, which is made if needed; returns the file's path.
pub fn save(folder: &Path, checkpoint: &Checkpoint<'_>) -> Result<PathBuf, CheckpointError> {
    fs::create_dir_all(folder).map_err(failed(folder, "make the folder"))?;
    let path = folder.join(file_name(checkpoint.step));
    let output = file::Output::new(checkpoint);
    atomic_file::write_with(&path, output.length, |out| output.write(out))?;
    Ok(path)
}

/// The checkpoints of a folder by step, oldest first; none if the folder does not exist. Other files are passed
/// over, those that were being written when a process died included.
pub fn list(folder: &Path) -> Result<Vec<(u64, PathBuf)>, CheckpointError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed(folder, "list"))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed(folder, "list"))?;
        if let Some(step) = entry.file_name().to_str().and_then(step_of) {
            found.push((step, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

/// The newest checkpoint, or None if there is none. If the newest cannot be used, that is an error, which names
/// the newest older one that can: going on from it without a word would lose work unseen.
pub fn latest(folder: &Path) -> Result<Option<(PathBuf, Checkpoint<'static>)>, CheckpointError> {
    let mut all = list(folder)?;
    let Some((step, path)) = all.pop() else { return Ok(None) };
    let reason = match load_named(step, &path) {
        Ok(checkpoint) => return Ok(Some((path, checkpoint))),
        // What another version wrote is not broken: nothing should be deleted.
        Err(error @ (CheckpointError::OtherVersion { .. } | CheckpointError::Io { .. })) => {
            return Err(error);
        }
        Err(error) => Box::new(error),
    };
    let whole = all.into_iter().rev().find(|(step, path)| load_named(*step, path).is_ok());
    let advice = match &whole {
        Some((step, whole)) => format!(
            "{} is whole: move {} out of the folder and run the same command again to go on from step {step}",
            whole.display(),
            path.display()
        ),
        None => "No older checkpoint is whole: start a new run with another --out".to_owned(),
    };
    Err(CheckpointError::NewestBroken { path, reason, whole: whole.map(|(_, path)| path), advice })
}

/// Removes all but the newest `keep` checkpoints (0 keeps all) and what dead writers left behind; returns how
/// many checkpoints went. To be called after a successful [`save`], by the one process that writes there.
pub fn keep_last(folder: &Path, keep: usize) -> Result<usize, CheckpointError> {
    atomic_file::remove_partials(folder).map_err(failed(folder, "clean up"))?;
    let all = list(folder)?;
    let remove = if keep == 0 { 0 } else { all.len().saturating_sub(keep) };
    for (_, path) in &all[..remove] {
        fs::remove_file(path).map_err(failed(path, "remove"))?;
    }
    Ok(remove)
}

fn load_named(step: u64, path: &Path) -> Result<Checkpoint<'static>, CheckpointError> {
    let checkpoint = load(path)?;
    if checkpoint.step == step {
        return Ok(checkpoint);
    }
    let message = format!("step {}, though its name says step {step}", checkpoint.step);
    Err(CheckpointError::BadContent { path: path.into(), message })
}

/// `step-000100.ckpt` → 100.
fn step_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("step-")?.strip_suffix(".ckpt")?;
    let step = digits.parse().ok()?;
    (file_name(step) == name).then_some(step)
}

pub(super) fn failed<'a>(
    path: &'a Path,
    action: &'static str,
) -> impl FnOnce(io::Error) -> CheckpointError + 'a {
    move |source| CheckpointError::Io { path: path.into(), action, source }
}

#[cfg(test)]
mod tests {
    use super::super::file::tests::checkpoint;
    use super::*;
    use crate::recipe::OptimizerKind;

    fn folder_with(steps: &[u64]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for &step in steps {
            save(folder.path(), &checkpoint(step, OptimizerKind::Adamw, 13)).unwrap();
        }
        folder
    }

    #[test]
    fn the_newest_is_found() {
        let folder = folder_with(&[10, 9, 1_000_000, 30]);
        fs::write(folder.path().join(".step-2000000.ckpt.7-0.partial"), b"half").unwrap();
        fs::write(folder.path().join("notes.txt"), b"mine").unwrap();
        let (path, found) = latest(folder.path()).unwrap().unwrap();
        assert_eq!(path.file_name().unwrap(), "step-1000000.ckpt");
        assert_eq!(found, checkpoint(1_000_000, OptimizerKind::Adamw, 13));
        let steps: Vec<u64> = list(folder.path()).unwrap().iter().map(|(step, _)| *step).collect();
        assert_eq!(steps, [9, 10, 30, 1_000_000]);
    }

    #[test]
    fn no_folder_or_an_empty_one_has_none() {
        let folder = tempfile::tempdir().unwrap();
        assert!(latest(folder.path()).unwrap().is_none());
        assert!(latest(&folder.path().join("absent")).unwrap().is_none());
    }

    #[test]
    fn a_broken_newest_is_an_error_that_names_the_whole_one() {
        let folder = folder_with(&[10, 20, 30]);
        let path = |step| folder.path().join(file_name(step));
        let bytes = fs::read(path(30)).unwrap();
        fs::write(path(30), &bytes[..bytes.len() - 5]).unwrap();
        let mut altered = fs::read(path(20)).unwrap();
        altered[99] ^= 4;
        fs::write(path(20), altered).unwrap();

        let error = latest(folder.path()).unwrap_err();
        let message = error.to_string();
        let CheckpointError::NewestBroken { path: broken, whole, .. } = error else { panic!("{message}") };
        assert_eq!((broken, whole), (path(30), Some(path(10))));
        for part in ["step-000030.ckpt", "cut short", "step-000010.ckpt is whole", "from step 10"] {
            assert!(message.contains(part), "{message}");
        }

        fs::remove_file(path(10)).unwrap();
        let message = latest(folder.path()).unwrap_err().to_string();
        assert!(message.contains("No older checkpoint is whole"), "{message}");
    }

    #[test]
    fn a_renamed_file_is_not_taken_for_another_step() {
        let folder = folder_with(&[10]);
        fs::rename(folder.path().join(file_name(10)), folder.path().join(file_name(99))).unwrap();
        let message = latest(folder.path()).unwrap_err().to_string();
        assert!(message.contains("step 10, though its name says step 99"), "{message}");
    }

    #[test]
    fn old_ones_go_and_left_overs_too() {
        let folder = folder_with(&[10, 20, 30, 40]);
        let partial = folder.path().join(".step-000050.ckpt.7-0.partial");
        fs::write(&partial, b"half").unwrap();
        assert_eq!(keep_last(folder.path(), 0).unwrap(), 0);
        assert!(!partial.exists());
        assert_eq!(keep_last(folder.path(), 3).unwrap(), 1);
        assert_eq!(keep_last(folder.path(), 3).unwrap(), 0);
        let steps: Vec<u64> = list(folder.path()).unwrap().iter().map(|(step, _)| *step).collect();
        assert_eq!(steps, [20, 30, 40]);
    }
}
