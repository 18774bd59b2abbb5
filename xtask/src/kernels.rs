//! Proves of the CUDA kernels what can be proven without a GPU: each compiles to machine code for every kind of GPU within
//! its ceiling of registers, and computes the right numbers when it is run on the CPU. The kernels enter; what is
//! wrong is printed. Nothing here is part of the `tinylora` binary.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// Which ceilings to hold the kernels against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ceilings {
    /// Those of `xtask/kernels/ceilings.json`.
    Stored,
    /// What the kernels use now; written to that file.
    Made,
}

/// How much is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thoroughness {
    /// Every kind of GPU, and every error that is planted in the kernels to see that the checks find it.
    All,
    /// The oldest kind and Hopper, and every fourth error: for checks that are run often.
    Few,
}

/// Runs both proofs. Where pip can't fetch the compiler, or no C++ compiler is there, it says so and passes.
pub fn run(root: &Path, ceilings: Ceilings, thoroughness: Thoroughness) -> Result<()> {
    let scripts = root.join("xtask").join("kernels");
    let target = root.join("target").join("kernels");
    let python = match environment(&scripts, &target) {
        Ok(python) => python,
        Err(error) => {
            println!("skipped: pip can't fetch xtask/kernels/requirements.txt: {error:#}");
            return Ok(());
        }
    };
    let make = (ceilings == Ceilings::Made).then_some("--make");
    let few = (thoroughness == Thoroughness::Few).then_some("--few");
    crate::run_command(
        Command::new(&python).arg(scripts.join("compile.py")).arg(target.join("images")).args(make).args(few),
        root,
    )?;
    let mut emulate = Command::new(&python);
    emulate.arg(scripts.join("emulate.py")).arg(target.join("emulated"));
    emulate.args(few);
    // What was built before is checked, too.
    let program = program(root);
    if program.is_file() {
        emulate.env("TINYLORA_PROGRAM", program);
    }
    crate::run_command(&mut emulate, root)
}

/// The release build of `tinylora`.
fn program(root: &Path) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    target.join("release").join(if cfg!(windows) { "tinylora.exe" } else { "tinylora" })
}

/// Runs the checks and measurements that need a GPU. Without pip's packages the system's Python is taken as it is.
pub fn gpu_check(root: &Path, arguments: &[&str]) -> Result<()> {
    let scripts = root.join("xtask").join("kernels");
    let python = environment(&scripts, &root.join("target").join("kernels")).unwrap_or_else(|error| {
        eprintln!("taking this system's own Python: {error:#}");
        PathBuf::from(if cfg!(windows) { "python" } else { "python3" })
    });
    crate::run_command(crate::cargo().args(["build", "--release"]), root)?;
    let mut check = Command::new(python);
    check.arg(scripts.join("gpu_check.py")).arg("--tinylora").arg(program(root)).args(arguments);
    if let Some(models) = std::env::var_os("TINYLORA_TEST_MODELS") {
        let mut listed: Vec<PathBuf> = std::fs::read_dir(&models)
            .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
            .unwrap_or_default();
        listed.sort();
        if let Some(model) = listed.iter().find(|path| path.to_string_lossy().contains("SmolLM2")) {
            check.arg("--model").arg(model);
        }
    }
    crate::run_command(&mut check, root)
}

/// The scripts' Python with their packages. The stamp is written last, so that an environment that was made halfway or is
/// out of date is made anew.
fn environment(scripts: &Path, target: &Path) -> Result<PathBuf> {
    let list = scripts.join("requirements.txt");
    let wanted = std::fs::read_to_string(&list).with_context(|| format!("{}", list.display()))?;
    let folder = target.join("venv");
    let python = folder.join(if cfg!(windows) { "Scripts" } else { "bin" }).join("python");
    let stamp = folder.join("requirements.txt");
    if std::fs::read_to_string(&stamp).ok().as_deref() != Some(&wanted) {
        std::fs::create_dir_all(target).with_context(|| format!("cannot make {}", target.display()))?;
        let python3 = if cfg!(windows) { "python" } else { "python3" };
        crate::run_command(Command::new(python3).args(["-m", "venv", "--clear"]).arg(&folder), target)?;
        let mut install = Command::new(&python);
        install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"]).arg(&list);
        crate::run_command(&mut install, target)?;
        std::fs::write(&stamp, &wanted)?;
    }
    Ok(python)
}
