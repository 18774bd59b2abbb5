//! Runs the scripts that make or check the golden files, in a Python environment of their own (`golden/.venv`, made from
//! `golden/requirements.txt`). Nothing here knows what is in a golden file.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// What to do with the golden files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Compute them again and compare with the stored ones.
    Check,
    /// Replace them.
    Make,
}

/// Scripts that write their files and compare with `--check`, in the order in which they build on each other.
const WRITING: [&str; 7] = [
    "golden/make_models.py",
    "golden/make_goldens.py",
    "golden/full.py",
    "golden/interop.py",
    "golden/lora.py",
    "golden/counts.py",
    "golden/parquet_files.py",
];
/// Scripts that print the file that stands beside them under the same name with `.json`.
const PRINTING: [&str; 3] =
    ["golden/optimizer.py", "golden/policy.py", "crates/tinylora/src/model/weights/quants_golden.py"];
/// The script that does the same for the real models, whose files it is given.
const REAL: &str = "golden/make_real.py";
/// Answers of other tokenizers; it has no check but the tests of the engine's own.
const TOKENIZER: &str = "golden/tokenizer.py";
/// Keys that tell versions of Python packages, which may differ.
const VERSIONS: [&str; 2] = ["versions", "torch"];

/// Makes the environment if it isn't there, and runs every script.
pub fn run(root: &Path, mode: Mode) -> Result<()> {
    let python = environment(root)?;
    let check = (mode == Mode::Check).then_some("--check");
    for script in WRITING {
        eprintln!("golden: {script}");
        crate::run_command(Command::new(&python).arg(script).args(check), root)?;
    }
    let models = crate::models::folder(root)?;
    eprintln!("golden: {REAL}");
    let mut command = Command::new(&python);
    command.arg(REAL).arg("--smollm2").arg(models.join("smollm2-135m.gguf"));
    command.arg("--gemma3").arg(models.join("gemma3-270m.gguf")).args(check);
    crate::run_command(&mut command, root)?;
    if mode == Mode::Make {
        eprintln!("golden: {TOKENIZER}");
        crate::run_command(Command::new(&python).arg(TOKENIZER).arg(&models), root)?;
    }
    for script in PRINTING {
        eprintln!("golden: {script}");
        let output = Command::new(&python).arg(script).current_dir(root).stderr(Stdio::inherit()).output()?;
        if !output.status.success() {
            bail!("{script} ended with {}", output.status);
        }
        let file = root.join(script).with_extension("json");
        match mode {
            Mode::Make => std::fs::write(&file, &output.stdout)?,
            Mode::Check => compare(&std::fs::read(&file)?, &output.stdout, script)?,
        }
    }
    Ok(())
}

/// The environment's Python. The stamp is written last, so that an environment that was made halfway or is out of
/// date is made anew.
fn environment(root: &Path) -> Result<PathBuf> {
    let folder = root.join("golden");
    let bin = folder.join(".venv").join(if cfg!(windows) { "Scripts" } else { "bin" });
    let python = bin.join("python");
    let wanted =
        std::fs::read_to_string(folder.join("requirements.txt")).context("golden/requirements.txt")?;
    let stamp = folder.join(".venv").join("requirements.txt");
    if std::fs::read_to_string(&stamp).ok().as_deref() != Some(&wanted) {
        let python3 = if cfg!(windows) { "python" } else { "python3" };
        crate::run_command(Command::new(python3).args(["-m", "venv", "--clear", ".venv"]), &folder)?;
        let install = ["-m", "pip", "install", "--quiet", "-r", "requirements.txt"];
        crate::run_command(Command::new(&python).args(install), &folder)?;
        std::fs::write(&stamp, &wanted)?;
    }
    Ok(python)
}

/// Both texts say the same, versions aside.
fn compare(stored: &[u8], printed: &[u8], script: &str) -> Result<()> {
    let read = |text: &[u8]| -> Result<Value> {
        let mut value: Value = serde_json::from_slice(text)?;
        if let Some(table) = value.as_object_mut() {
            table.retain(|key, _| !VERSIONS.contains(&key.as_str()));
        }
        Ok(value)
    };
    if read(stored)? != read(printed)? {
        bail!("{script} prints something else than is stored");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_script_is_there() {
        for script in WRITING.iter().chain(&PRINTING).chain([&REAL, &TOKENIZER]) {
            assert!(crate::root().join(script).is_file(), "{script}");
        }
    }

    #[test]
    fn another_number_is_found_and_another_version_is_not() {
        let stored = br#"{"torch": "2.15", "v": [0.5, 1.25]}"#;
        assert!(compare(stored, br#"{"torch": "2.16", "v": [0.5, 1.25]}"#, "a.py").is_ok());
        assert!(compare(stored, br#"{"torch": "2.15", "v": [0.5, 1.26]}"#, "a.py").is_err());
    }
}
