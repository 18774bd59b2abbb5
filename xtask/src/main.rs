//! The house's own tasks, run as `cargo xtask NAME`. A task's name enters; its result is the exit status, and what
//! is wrong is printed. Nothing here is part of the `tinylora` binary.

use kernels::{Ceilings, Thoroughness};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

mod fuzz;
mod golden;
mod kernels;
mod models;
mod speed;
mod tidy;

const USAGE: &str = "\
usage: cargo xtask TASK
  tidy                    check the rules of STYLE.md that a program can check
  test [ARGS]             fetch the test models if possible, then cargo test --release --workspace [ARGS]
  test-models [FOLDER]    fetch the test models; prints the line that makes tests use them
  fuzz TARGET N [FROM]    damage good files in N ways and parse them; ways FROM, FROM + 1 … [0]
  fuzz-coverage TARGET N  the same led by coverage, with libFuzzer and a stable compiler; needs a C++ compiler. What it finds
                          adds to the corpus in target/fuzz/TARGET; more arguments are libFuzzer's
  golden --check|--make   recompute the golden files with PyTorch, and compare or replace them
  speed [--make]          compare speed, as a fraction of this machine's limits, with what is kept in xtask/speed.json for
                          each kernel; less than half of it fails. --make keeps what is measured
  kernels [--make|--few]  compile the CUDA kernels for every GPU and run them on the CPU, without one; --make writes
                          the registers that they use to xtask/kernels/ceilings.json, --few takes two kinds of GPU
                          and plants a quarter of the errors that the checks must find
  gpu-check [ARGS]        on a machine with an NVIDIA GPU: the CUDA kernels against f64, sanitizers, times; see
                          xtask/kernels/gpu_check.py, which also runs alone";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments.as_slice() {
        ["tidy"] => tidy::run(&root()),
        ["test", rest @ ..] => models::test(&root(), rest),
        ["test-models"] => models::print_export(&root(), None),
        ["test-models", folder] => models::print_export(&root(), Some(Path::new(folder))),
        ["fuzz", target, count] => fuzz::run(&root(), target, count, "0"),
        ["fuzz", target, count, from] => fuzz::run(&root(), target, count, from),
        ["fuzz-coverage", target, count, more @ ..] => fuzz::coverage(&root(), target, count, more),
        ["golden", "--check"] => golden::run(&root(), golden::Mode::Check),
        ["golden", "--make"] => golden::run(&root(), golden::Mode::Make),
        ["kernels"] => kernels::run(&root(), Ceilings::Stored, Thoroughness::All),
        ["kernels", "--few"] => kernels::run(&root(), Ceilings::Stored, Thoroughness::Few),
        ["speed"] => speed::run(&root(), speed::Kept::Stored),
        ["speed", "--make"] => speed::run(&root(), speed::Kept::Made),
        ["gpu-check", rest @ ..] => kernels::gpu_check(&root(), rest),
        ["kernels", "--make"] => kernels::run(&root(), Ceilings::Made, Thoroughness::All),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The folder of the workspace's `Cargo.toml`.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// Cargo, as a person would call it: without what it tells programs that it runs of their package. Build scripts that look at
/// such variables would run again, and everything that depends on them be compiled again.
fn cargo() -> Command {
    let mut command = Command::new(env!("CARGO"));
    let of_package = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(of_package) {
            command.env_remove(name);
        }
    }
    command
}

/// Runs a command in `folder`; anything but exit status 0 is an error that shows the command.
fn run_command(command: &mut Command, folder: &Path) -> Result<()> {
    let status = command.current_dir(folder).status().with_context(|| format!("cannot start {command:?}"))?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(())
}
