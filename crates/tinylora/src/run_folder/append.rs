//! Whole pieces (lines, records) enter, a file that grows leaves. A piece that could not be written whole is cut
//! off again; nothing here knows what a piece means.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

use super::error::{RunFolderError, append_failed, failed};

/// A file that only grows, by one piece at a time.
#[derive(Debug)]
pub(crate) struct AppendFile {
    file: File,
    path: PathBuf,
    /// Bytes of whole pieces.
    length: u64,
}

impl AppendFile {
    /// Opens the file at its end; it is made if there is none.
    pub(crate) fn open(path: PathBuf) -> Result<Self, RunFolderError> {
        let opened = OpenOptions::new()
            .append(true)
            .create(true)
            .open(&path)
            .and_then(|file| file.metadata().map(|metadata| (file, metadata.len())));
        let (file, length) = opened.map_err(failed(&path, "open"))?;
        Ok(Self { file, path, length })
    }

    /// Hands a piece to the system; other programs see it from now on. `what` is for messages.
    pub(crate) fn append(&mut self, what: &str, piece: &[u8]) -> Result<(), RunFolderError> {
        match self.file.write_all(piece) {
            Ok(()) => self.length += piece.len() as u64,
            Err(error) => {
                // The first error is the one to report. If cutting fails too, readers and resuming still pass over
                // the half piece.
                let _ = self.file.set_len(self.length);
                return Err(append_failed(&self.path, what, piece.len(), error));
            }
        }
        Ok(())
    }

    /// What was appended is on disk when this returns.
    pub(crate) fn sync(&self) -> Result<(), RunFolderError> {
        self.file.sync_data().map_err(failed(&self.path, "flush"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn pieces_are_visible_at_once_and_go_behind_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        std::fs::write(&path, "0\n").unwrap();
        let mut file = AppendFile::open(path.clone()).unwrap();
        file.append("a line", b"1\n").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"0\n1\n");
        file.sync().unwrap();
        assert_eq!(file.length, 4);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_told_with_path_size_and_advice() {
        let mut file = AppendFile::open("/dev/full".into()).unwrap();
        let error = file.append("the metrics of step 7", b"0123456789").unwrap_err();
        let message = error.to_string();
        assert!(matches!(error, RunFolderError::DiskFull { bytes: 10, .. }), "{message}");
        for part in ["/dev/full", "the metrics of step 7", "10 bytes", "--resume"] {
            assert!(message.contains(part), "{part} in {message}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let message = AppendFile::open(folder.path().to_owned()).unwrap_err().to_string();
        assert!(message.contains(folder.path().to_str().unwrap()), "{message}");
    }

    #[test]
    fn missing_permission_comes_with_advice() {
        let denied = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        let message = append_failed(Path::new("runs/a/samples.jsonl"), "a sample", 12, denied).to_string();
        for part in ["append a sample (12 bytes) to runs/a/samples.jsonl", "whom the folder belongs to"] {
            assert!(message.contains(part), "{part} in {message}");
        }
    }
}
