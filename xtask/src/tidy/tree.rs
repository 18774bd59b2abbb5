//! The folder of the workspace enters, its text files leave. What is built, downloaded or hidden is not read.

use std::path::Path;

use anyhow::{Context, Result};

/// Top-level folders that belong to the source tree.
const FOLDERS: [&str; 10] =
    [".cargo", ".ci", "benchmarks", "crates", "docs", "fuzz", "golden", "python", "recipes", "xtask"];
/// Folders of any level that hold what was made, not written.
const MADE: [&str; 4] = [".venv", "__pycache__", "book", "target"];

/// The text files, in the order of their paths.
#[derive(Debug, Default)]
pub struct Tree {
    /// All of them.
    pub files: Vec<File>,
}

/// One text file.
#[derive(Debug)]
pub struct File {
    /// Relative to the root, with `/`.
    pub path: String,
    /// Its content.
    pub text: String,
}

impl Tree {
    /// Reads what is there.
    pub fn read(root: &Path) -> Result<Self> {
        let mut tree = Self::default();
        tree.read_folder(root, "")?;
        tree.files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(tree)
    }

    /// The Rust files.
    pub fn rust(&self) -> impl Iterator<Item = &File> {
        self.files.iter().filter(|file| file.path.ends_with(".rs"))
    }

    /// The file of this path.
    pub fn get(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|file| file.path == path)
    }

    fn read_folder(&mut self, folder: &Path, path: &str) -> Result<()> {
        let entries =
            std::fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
        for entry in entries {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let kind = entry.file_type()?;
            if kind.is_dir() {
                let known = if path.is_empty() { FOLDERS.contains(&&*name) } else { !MADE.contains(&&*name) };
                if known {
                    self.read_folder(&entry.path(), &format!("{path}{name}/"))?;
                }
            } else if kind.is_file() && name != ".git" {
                let bytes = std::fs::read(entry.path())?;
                if let Ok(text) = String::from_utf8(bytes) {
                    self.files.push(File { path: format!("{path}{name}"), text });
                }
            }
        }
        Ok(())
    }
}

/// A tree of the given files, for tests of rules.
#[cfg(test)]
pub fn planted(files: &[(&str, &str)]) -> Tree {
    let file = |&(path, text): &(&str, &str)| File { path: path.into(), text: text.into() };
    Tree { files: files.iter().map(file).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_read_and_builds_are_not() {
        let tree = Tree::read(&crate::root()).unwrap();
        assert!(tree.get("xtask/src/tidy/tree.rs").is_some());
        assert!(tree.get("Cargo.toml").is_some());
        assert!(tree.files.iter().all(|file| !file.path.starts_with("target/")));
    }
}
