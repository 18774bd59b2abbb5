//! An output path enters, a hidden place beside it leaves where files can be written in peace; at the end the whole
//! takes its name. Until then, and after any failure, nothing is at the path that wasn't there before.

use std::fs;
use std::path::{Path, PathBuf};

use super::error::{InteropError, io};
use crate::atomic_file::PARTIAL_SUFFIX;

/// A file or folder on its way to its name. Dropped before [`Staged::commit`] it is removed.
pub(super) struct Staged {
    out: PathBuf,
    hidden: PathBuf,
}

impl Staged {
    /// For a folder, which must not be there yet, or be empty.
    pub(super) fn folder(out: &Path) -> Result<Self, InteropError> {
        let taken = |reason: &str| InteropError::Taken { path: out.to_owned(), reason: reason.to_owned() };
        if out.is_dir() {
            if fs::read_dir(out).map_err(io(out, "read the folder"))?.next().is_some() {
                return Err(taken("the folder has something in it; name another one or empty it"));
            }
        } else if out.exists() {
            return Err(taken("a file is in the folder's place; name another one"));
        }
        let staged = Self::new(out)?;
        fs::create_dir(&staged.hidden).map_err(io(&staged.hidden, "make the folder"))?;
        Ok(staged)
    }

    /// For a file, which may replace an older one.
    pub(super) fn file(out: &Path) -> Result<Self, InteropError> {
        if out.is_dir() {
            let reason = "a folder is in the file's place; name a file".to_owned();
            return Err(InteropError::Taken { path: out.to_owned(), reason });
        }
        Self::new(out)
    }

    fn new(out: &Path) -> Result<Self, InteropError> {
        let Some(name) = out.file_name() else {
            let reason = "the path ends with no name".to_owned();
            return Err(InteropError::Taken { path: out.to_owned(), reason });
        };
        let hidden = format!(".{}.{}{PARTIAL_SUFFIX}", name.to_string_lossy(), std::process::id());
        let hidden = out.with_file_name(hidden);
        remove(&hidden);
        Ok(Self { out: out.to_owned(), hidden })
    }

    /// Where to write meanwhile.
    pub(super) fn path(&self) -> &Path {
        &self.hidden
    }

    /// Gives the whole its name.
    pub(super) fn commit(self) -> Result<(), InteropError> {
        if self.hidden.is_dir() && self.out.is_dir() {
            // Empty, as was checked; a folder can't take the name of another one everywhere.
            fs::remove_dir(&self.out).map_err(io(&self.out, "replace the empty folder"))?;
        }
        fs::rename(&self.hidden, &self.out).map_err(io(&self.out, "give the output its name"))
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        remove(&self.hidden);
    }
}

/// What can't be removed does no harm: its name is never read.
fn remove(path: &Path) {
    if path.is_dir() {
        let _ = fs::remove_dir_all(path);
    } else if path.exists() {
        let _ = fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_appears_whole_or_not_at_all() {
        let place = tempfile::tempdir().unwrap();
        let out = place.path().join("model");
        let staged = Staged::folder(&out).unwrap();
        fs::write(staged.path().join("a"), "a").unwrap();
        assert!(!out.exists());
        drop(staged);
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0, "given up: nothing is left");
        fs::create_dir(&out).unwrap();
        let staged = Staged::folder(&out).unwrap();
        fs::write(staged.path().join("a"), "a").unwrap();
        staged.commit().unwrap();
        assert_eq!(fs::read_to_string(out.join("a")).unwrap(), "a");
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
        let message = Staged::folder(&out).map(drop).unwrap_err().to_string();
        assert!(
            message.contains("model: cannot write it there: the folder has something in it"),
            "{message}"
        );
        assert!(Staged::file(&out).is_err() && Staged::folder(&out.join("a")).is_err());
    }
}
