//! A path and bytes enter, a whole file on disk leaves: after a crash or a full disk the path holds
//! either the old content or the new one, never a part. Nothing here knows what the bytes mean.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Why a file could not be written. The old content of the path, if any, is untouched.
#[derive(Debug, thiserror::Error)]
pub enum AtomicFileError {
    /// The disk or the user's quota is full.
    #[error(
        "no space left for {path} ({bytes} bytes): free some space in {folder} and try again; the file that was there before is unchanged",
        path = path.display(), folder = folder_of(path).display()
    )]
    DiskFull {
        /// The file that was to be written.
        path: PathBuf,
        /// Its size.
        bytes: usize,
    },
    /// Any other failure.
    #[error("cannot write {path} ({bytes} bytes): {action}: {source}", path = path.display())]
    Io {
        /// The file that was to be written.
        path: PathBuf,
        /// Its size.
        bytes: usize,
        /// What was being done.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// Suffix of files that are being written. A name with it is never read back.
pub const PARTIAL_SUFFIX: &str = ".partial";

/// Writes `bytes` to `path`: a hidden file in the same folder, fsync, rename over `path`, fsync of the
/// folder. The folder must exist.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), AtomicFileError> {
    write_with(path, bytes.len(), |file| file.write_all(bytes))
}

/// The same for content of `length` bytes that `content` writes piece by piece.
pub fn write_with(
    path: &Path,
    length: usize,
    content: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), AtomicFileError> {
    let fail = |action: &'static str| move |source: io::Error| describe(path, length, action, source);
    let (mut file, partial) = create_partial(path).map_err(fail("creating a temporary file beside it"))?;
    let written = content(&mut file)
        .map_err(fail("writing the temporary file"))
        .and_then(|()| file.sync_all().map_err(fail("flushing the temporary file to disk")))
        .and_then(|()| fs::rename(&partial, path).map_err(fail("renaming the temporary file")));
    if let Err(error) = written {
        // The first error is the one to report; a left-over partial file does no harm.
        let _ = fs::remove_file(&partial);
        return Err(error);
    }
    sync_folder(folder_of(path)).map_err(fail("flushing the folder to disk"))
}

/// Removes what writers that were killed left in a folder that this process alone writes to; returns how
/// many files went.
pub fn remove_partials(folder: &Path) -> io::Result<usize> {
    let mut removed = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') && name.ends_with(PARTIAL_SUFFIX) && entry.file_type()?.is_file() {
            fs::remove_file(entry.path())?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// A new, hidden file in the folder of `path`; the name carries the process id and a number that is free.
fn create_partial(path: &Path) -> io::Result<(File, PathBuf)> {
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"))?
        .to_string_lossy();
    let process = std::process::id();
    for number in 0u32.. {
        let partial = folder_of(path).join(format!(".{name}.{process}-{number}{PARTIAL_SUFFIX}"));
        match OpenOptions::new().write(true).create_new(true).open(&partial) {
            Ok(file) => return Ok((file, partial)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::new(io::ErrorKind::AlreadyExists, "every temporary name is taken"))
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// The rename is on disk only when the folder is.
#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(not(unix))]
fn sync_folder(_folder: &Path) -> io::Result<()> {
    Ok(())
}

fn describe(path: &Path, bytes: usize, action: &'static str, source: io::Error) -> AtomicFileError {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            AtomicFileError::DiskFull { path: path.into(), bytes }
        }
        _ => AtomicFileError::Io { path: path.into(), bytes, action, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_replaces_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        write(&path, b"one").unwrap();
        write(&path, b"three").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"three");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_left_over_partial_is_neither_used_nor_in_the_way() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        let stale = folder.path().join(format!(".a.bin.{}-0{PARTIAL_SUFFIX}", std::process::id()));
        fs::write(&stale, b"half").unwrap();
        write(&path, b"whole").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(remove_partials(folder.path()).unwrap(), 1);
        assert!(path.exists() && !stale.exists());
    }

    #[test]
    fn failures_name_the_file_and_keep_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("absent").join("a.bin");
        let message = write(&missing, b"xyz").unwrap_err().to_string();
        assert!(message.contains("a.bin") && message.contains("3 bytes"), "{message}");

        // A folder in the file's place: the rename fails after the temporary file was written.
        let taken = folder.path().join("taken");
        fs::create_dir(&taken).unwrap();
        fs::write(taken.join("old"), b"old").unwrap();
        assert!(write(&taken, b"new").is_err());
        assert_eq!(fs::read(taken.join("old")).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_full_disk_says_so() {
        for kind in [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded] {
            let error = describe(Path::new("runs/x/step.ckpt"), 712, "writing", io::Error::from(kind));
            let message = error.to_string();
            assert!(matches!(error, AtomicFileError::DiskFull { bytes: 712, .. }), "{message}");
            assert!(message.contains("no space left for runs/x/step.ckpt (712 bytes)"), "{message}");
        }
    }
}
