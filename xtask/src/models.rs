//! The real models that some tests use: they are fetched with `tinylora model pull` and linked into one folder under
//! the names that tests look for. Tests that need them say so and pass where the folder isn't given.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};

/// The variable in which tests look for the folder.
const VARIABLE: &str = "TINYLORA_TEST_MODELS";
/// Short names; the files are `NAME.gguf`.
const MODELS: [&str; 2] = ["smollm2-135m", "gemma3-270m"];

/// Runs the tests of the whole workspace, with the test models where they can be had.
pub fn test(root: &Path, arguments: &[&str]) -> Result<()> {
    let mut command = crate::cargo();
    command.args(["test", "--release", "--workspace"]).args(arguments);
    if std::env::var_os(VARIABLE).is_none() {
        match fetch(root, &default_folder(root)) {
            Ok(folder) => {
                command.env(VARIABLE, folder);
            }
            Err(error) => eprintln!("the test models can't be had, tests that need them skip: {error:#}"),
        }
    }
    crate::run_command(&mut command, root)
}

/// Fetches the models and prints the line that makes later `cargo test` runs use them.
pub fn print_export(root: &Path, folder: Option<&Path>) -> Result<()> {
    let folder = fetch(root, folder.unwrap_or(&default_folder(root)))?;
    println!("export {VARIABLE}={}", folder.display());
    Ok(())
}

/// The folder with the models: the one that is given, or the default one after fetching.
pub fn folder(root: &Path) -> Result<PathBuf> {
    match std::env::var_os(VARIABLE) {
        Some(folder) => Ok(PathBuf::from(folder)),
        None => fetch(root, &default_folder(root)),
    }
}

fn default_folder(root: &Path) -> PathBuf {
    root.join("target").join("test-models")
}

/// Puts a link to each model into `folder`, which is made; returns its absolute path.
fn fetch(root: &Path, folder: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let folder = folder.canonicalize()?;
    for name in MODELS {
        let link = folder.join(format!("{name}.gguf"));
        if !link.exists() {
            put_link(&pull(root, name)?, &link)?;
        }
    }
    Ok(folder)
}

/// Fetches one model; `tinylora model pull` prints where its file is.
fn pull(root: &Path, name: &str) -> Result<PathBuf> {
    let mut command = crate::cargo();
    command.args(["run", "--release", "--quiet", "--package", "tinylora-cli", "--", "model", "pull", name]);
    let output = command.current_dir(root).stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        bail!("{command:?} ended with {}", output.status);
    }
    let text = String::from_utf8(output.stdout)?;
    let file = text.lines().map(str::trim).find(|line| line.ends_with(".gguf") && Path::new(line).is_file());
    file.map(PathBuf::from).with_context(|| format!("{command:?} printed no .gguf file: {text:?}"))
}

/// A symbolic link, replacing one that leads nowhere; a copy where there are no symbolic links.
fn put_link(file: &Path, link: &Path) -> Result<()> {
    if link.symlink_metadata().is_ok() {
        std::fs::remove_file(link)?;
    }
    #[cfg(unix)]
    std::os::unix::fs::symlink(file, link)?;
    #[cfg(not(unix))]
    std::fs::copy(file, link)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn a_link_that_leads_nowhere_is_replaced() {
        let folder = std::env::temp_dir().join(format!("xtask-link-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (file, link) = (folder.join("weights"), folder.join("link"));
        std::fs::write(&file, "w").unwrap();
        put_link(&folder.join("gone"), &link).unwrap();
        assert!(!link.exists());
        put_link(&file, &link).unwrap();
        assert_eq!(std::fs::read_to_string(&link).unwrap(), "w");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
