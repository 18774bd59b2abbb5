//! Finished problems enter `FILE.partial` one a line, and after an interruption are found again.

use super::select::Collected;
use crate::run_folder::{AppendFile, RunFolderError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// What is wrong with the file that is collected into.
#[derive(Debug, thiserror::Error)]
pub enum CollectFileError {
    /// It is there already.
    #[error("{} is there already: name another --out, or remove it", path.display())]
    Taken {
        /// The file.
        path: PathBuf,
    },
    /// It was begun.
    #[error(
        "{} was begun ({done} problems): go on with it by --resume, name another --out, or remove it", path.display()
    )]
    Begun {
        /// The partial file.
        path: PathBuf,
        /// Problems in it.
        done: usize,
    },
    /// It was begun with other settings.
    #[error(
        "{} was begun with other settings; give the same recipe and options to go on, or name another --out. Then:\n{was}\n\
         now:\n{now}", path.display()
    )]
    Other {
        /// The partial file.
        path: PathBuf,
        /// Lines that differ, as they were.
        was: String,
        /// And as they are.
        now: String,
    },
    /// It can't be understood.
    #[error("{}, line {line}: {message}", path.display())]
    BadLine {
        /// The partial file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// The system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was being done.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A line could not be written.
    #[error(transparent)]
    Append(#[from] RunFolderError),
}

#[derive(Serialize, Deserialize)]
struct Head {
    settings: String,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    index: usize,
    samples: Vec<Collected>,
}

/// What is finished.
#[derive(Debug)]
pub(super) struct Partial {
    path: PathBuf,
    file: AppendFile,
    /// By the problem's place.
    pub problems: BTreeMap<usize, Vec<Collected>>,
}

impl Partial {
    /// Begins `out`, or with `resume` goes on with what was begun.
    pub fn open(out: &Path, settings: &str, resume: bool) -> Result<Self, CollectFileError> {
        let mut name = out.file_name().unwrap_or_default().to_owned();
        name.push(".partial");
        let path = out.with_file_name(name);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(failed(&path, "read")(error)),
        };
        if bytes.is_empty() && out.exists() {
            return Err(CollectFileError::Taken { path: out.to_owned() });
        }
        let (problems, whole) = read(&path, &bytes, settings, resume)?;
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder).map_err(failed(folder, "make the folder"))?;
        }
        let open = fs::OpenOptions::new().write(true).create(true).truncate(false).open(&path);
        let mut begun = open.map_err(failed(&path, "open"))?;
        begun.set_len(whole as u64).map_err(failed(&path, "shorten"))?;
        if whole == 0 {
            let head =
                serde_json::to_string(&Head { settings: settings.to_owned() }).expect("plain data is JSON");
            begun.write_all(format!("{head}\n").as_bytes()).map_err(failed(&path, "write"))?;
        }
        drop(begun);
        Ok(Self { file: AppendFile::open(path.clone())?, path, problems })
    }

    pub fn keep(&mut self, index: usize, samples: Vec<Collected>) -> Result<(), CollectFileError> {
        let kept = Kept { index, samples };
        let line = serde_json::to_string(&kept).expect("plain data is JSON") + "\n";
        self.file.append("a problem's completions", line.as_bytes())?;
        self.problems.insert(index, kept.samples);
        Ok(())
    }

    pub fn sync(&self) -> Result<(), CollectFileError> {
        Ok(self.file.sync()?)
    }

    pub fn remove(self) -> Result<(), CollectFileError> {
        fs::remove_file(&self.path).map_err(failed(&self.path, "remove"))
    }
}

/// What was finished, and the bytes of whole lines; a half line at the end, which a killed process left, is not counted.
fn read(
    path: &Path,
    bytes: &[u8],
    settings: &str,
    resume: bool,
) -> Result<(BTreeMap<usize, Vec<Collected>>, usize), CollectFileError> {
    let mut problems = BTreeMap::new();
    let mut whole = 0;
    let lines = bytes.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n"));
    for (index, line) in lines.enumerate() {
        let bad = |error: serde_json::Error| CollectFileError::BadLine {
            path: path.to_owned(),
            line: index + 1,
            message: format!("not what was collected: {error}"),
        };
        if index == 0 {
            let head: Head = serde_json::from_slice(line).map_err(bad)?;
            if resume && head.settings != settings {
                let differ = |one: &str, other: &str| -> String {
                    let other: Vec<&str> = other.lines().collect();
                    let lines: Vec<&str> = one.lines().filter(|line| !other.contains(line)).collect();
                    lines.join("\n")
                };
                let (was, now) = (differ(&head.settings, settings), differ(settings, &head.settings));
                return Err(CollectFileError::Other { path: path.to_owned(), was, now });
            }
        } else {
            let kept: Kept = serde_json::from_slice(line).map_err(bad)?;
            problems.insert(kept.index, kept.samples);
        }
        whole += line.len();
    }
    match whole > 0 && !resume {
        true => Err(CollectFileError::Begun { path: path.to_owned(), done: problems.len() }),
        false => Ok((problems, whole)),
    }
}

fn failed(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> CollectFileError {
    let path = path.to_owned();
    move |source| CollectFileError::Io { path, action, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(text: &str) -> Vec<Collected> {
        vec![Collected { completion: text.into(), reward: 0.1, right: false, tokens: 1, truncated: false }]
    }

    #[test]
    fn what_was_finished_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("deep/a.jsonl");
        let mut partial = Partial::open(&out, "x = 1\ny = 2", false).unwrap();
        partial.keep(3, sample("three")).unwrap();
        partial.keep(1, sample("one")).unwrap();
        drop(partial);
        let path = folder.path().join("deep/a.jsonl.partial");
        let mut bytes = fs::read(&path).unwrap();
        bytes.extend_from_slice(b"{\"index\": 2, \"sam");
        fs::write(&path, &bytes).unwrap();
        let error =
            |settings: &str, resume: bool| Partial::open(&out, settings, resume).unwrap_err().to_string();
        assert!(error("x = 1\ny = 2", false).contains("2 problems): go on with it by --resume"));
        let message = error("x = 1\ny = 3", true);
        assert!(message.contains("Then:\ny = 2\nnow:\ny = 3"), "{message}");
        let again = Partial::open(&out, "x = 1\ny = 2", true).unwrap();
        assert_eq!(again.problems, BTreeMap::from([(1, sample("one")), (3, sample("three"))]));
        again.remove().unwrap();
        fs::write(&out, "").unwrap();
        assert!(error("x", true).contains("is there already"));
        fs::write(&path, "nonsense\n").unwrap();
        assert!(error("x", true).contains("line 1: not what was collected"));
    }
}
