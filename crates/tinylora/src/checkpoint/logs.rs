//! Logs grow between checkpoints. At a checkpoint their lengths are taken; on resuming, what the lost steps wrote
//! is cut off, so that the finished run's logs are those of a run that was never stopped.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Component, Path, PathBuf};

use super::CheckpointError;
use super::folder::failed;

/// The lengths of the named logs (paths in the run's folder), after they were flushed to disk: a checkpoint
/// must never be newer than the logs that it counts on. A log that does not exist has length 0.
pub fn measure_logs(run: &Path, names: &[&str]) -> Result<BTreeMap<String, u64>, CheckpointError> {
    let mut lengths = BTreeMap::new();
    for name in names {
        let path = path_in(run, name)?;
        let length = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            file => {
                let file = file.map_err(failed(&path, "open"))?;
                file.sync_all().map_err(failed(&path, "flush"))?;
                file.metadata().map_err(failed(&path, "measure"))?.len()
            }
        };
        lengths.insert((*name).to_owned(), length);
    }
    Ok(lengths)
}

/// Cuts each log to its length in the checkpoint. All are looked at before the first is cut; one that is shorter
/// is an error, and then nothing was changed.
pub fn truncate_logs(run: &Path, lengths: &BTreeMap<String, u64>) -> Result<(), CheckpointError> {
    let mut open = Vec::new();
    for (name, &expected) in lengths {
        let path = path_in(run, name)?;
        match OpenOptions::new().write(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && expected == 0 => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(CheckpointError::LogLost { path, found: 0, expected });
            }
            file => {
                let file = file.map_err(failed(&path, "open"))?;
                let found = file.metadata().map_err(failed(&path, "measure"))?.len();
                if found < expected {
                    return Err(CheckpointError::LogLost { path, found, expected });
                }
                open.push((file, path, expected));
            }
        }
    }
    for (file, path, length) in open {
        file.set_len(length).and_then(|()| file.sync_all()).map_err(failed(&path, "shorten"))?;
    }
    Ok(())
}

/// A name from a checkpoint must stay inside the run's folder.
fn path_in(run: &Path, name: &str) -> Result<PathBuf, CheckpointError> {
    let inside = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
    if inside && !name.is_empty() {
        return Ok(run.join(name));
    }
    let message = format!("a log named {name:?}, which is not inside the run's folder");
    Err(CheckpointError::BadContent { path: run.into(), message })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn logs_go_back_to_the_checkpoint() {
        let run = tempfile::tempdir().unwrap();
        let (metrics, events) = (run.path().join("metrics.jsonl"), run.path().join("tensorboard/events"));
        fs::create_dir(run.path().join("tensorboard")).unwrap();
        fs::write(&metrics, "{\"step\":0}\n").unwrap();
        fs::write(&events, [0u8, 255]).unwrap();
        let names = ["metrics.jsonl", "samples.jsonl", "tensorboard/events"];
        let lengths = measure_logs(run.path(), &names).unwrap();
        assert_eq!(lengths.values().copied().collect::<Vec<_>>(), [11, 0, 2]);

        fs::write(&metrics, "{\"step\":0}\n{\"step\":1}\n{\"st").unwrap();
        fs::write(run.path().join("samples.jsonl"), "later").unwrap();
        truncate_logs(run.path(), &lengths).unwrap();
        assert_eq!(fs::read_to_string(&metrics).unwrap(), "{\"step\":0}\n");
        assert_eq!(fs::read(run.path().join("samples.jsonl")).unwrap(), b"");
        assert_eq!(fs::read(&events).unwrap(), [0, 255]);
    }

    #[test]
    fn a_lost_log_is_an_error_and_nothing_is_cut() {
        let run = tempfile::tempdir().unwrap();
        fs::write(run.path().join("a.jsonl"), "0123456789").unwrap();
        fs::write(run.path().join("b.jsonl"), "0123").unwrap();
        let lengths = BTreeMap::from([("a.jsonl".to_owned(), 3), ("b.jsonl".to_owned(), 5)]);
        let error = truncate_logs(run.path(), &lengths).unwrap_err();
        assert!(matches!(error, CheckpointError::LogLost { found: 4, expected: 5, .. }), "{error}");
        assert_eq!(fs::read(run.path().join("a.jsonl")).unwrap().len(), 10);
        fs::remove_file(run.path().join("b.jsonl")).unwrap();
        assert!(matches!(
            truncate_logs(run.path(), &lengths).unwrap_err(),
            CheckpointError::LogLost { found: 0, .. }
        ));
    }

    #[test]
    fn names_stay_in_the_folder() {
        let run = tempfile::tempdir().unwrap();
        for name in ["../other", "/etc/passwd", "", "a/../../b"] {
            let lengths = BTreeMap::from([(name.to_owned(), 0)]);
            assert!(truncate_logs(run.path(), &lengths).is_err(), "{name}");
        }
    }
}
