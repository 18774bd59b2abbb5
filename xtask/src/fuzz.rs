//! Fuzzing of the engine's parsers. The targets are in `crates/tinylora/src/fuzz/`; here are only the commands: random changes
//! in a test, and libFuzzer, which is led by coverage, in the crate `fuzz` beside the workspace.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::json;

/// Names as the engine has them.
const TARGETS: [&str; 12] = [
    "safetensors",
    "gguf",
    "adapter",
    "checkpoint",
    "recipe",
    "sweep",
    "jsonl",
    "parquet",
    "benchmark_rows",
    "peft_config",
    "tokenizer",
    "template",
];
/// What `cargo fuzz` gives the compiler too, without a sanitizer, which only nightly compilers have: counters on every edge
/// and calls at comparisons.
const INSTRUMENTATION: [&str; 7] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=16",
];

/// Does the changes `from..from + count`; one line of JSON on standard output says what came of them.
pub fn run(root: &Path, target: &str, count: &str, from: &str) -> Result<()> {
    check(target)?;
    let number = |text: &str| text.parse::<u64>().with_context(|| format!("{text} is no number"));
    let (count, from) = (number(count)?, number(from)?);
    let mut command = crate::cargo();
    command.args(["test", "--release", "--workspace", "--quiet", "--lib", "--"]);
    command.args(["--exact", &format!("fuzz::changes::{target}"), "--nocapture"]);
    command.env("TINYLORA_FUZZ", format!("{from}..{}", from + count));
    crate::run_command(&mut command, root)
}

/// Runs libFuzzer on a target, so many executions more on the corpus that earlier runs left in target/fuzz/TARGET; one line of
/// JSON on standard output says what came of them. An input that makes the parser panic stays in that folder.
pub fn coverage(root: &Path, target: &str, count: &str, more: &[&str]) -> Result<()> {
    check(target)?;
    let count: u64 = count.parse().with_context(|| format!("{count} is no number"))?;
    let program = build(root)?;
    let folder = target_folder(root).join("fuzz").join(target);
    let corpus = folder.join("corpus");
    std::fs::create_dir_all(&corpus).with_context(|| format!("cannot make {}", corpus.display()))?;
    let mut command = Command::new(program);
    command.args([&corpus, &folder.join("seeds")]);
    command.arg(format!("-dict={}", folder.join("dictionary").display()));
    command.arg(format!("-artifact_prefix={}/", folder.display()));
    command.args([&format!("-runs={count}"), "-timeout=20", "-rss_limit_mb=3000"]);
    command.args(more).env("TINYLORA_FUZZ_TARGET", target).env("TINYLORA_FUZZ_SEEDS", &folder);
    let start = Instant::now();
    let mut child = command.stderr(Stdio::piped()).spawn().context("cannot start the fuzzer")?;
    let mut last = String::new();
    for line in BufReader::new(child.stderr.take().context("no standard error")?).lines() {
        let line = line?;
        eprintln!("{line}");
        if line.starts_with('#') && line.contains(" cov: ") {
            last = line;
        }
    }
    let status = child.wait()?;
    let after = |name: &str| {
        let mut words = last.split_whitespace().skip_while(|word| *word != name).skip(1);
        words.next().and_then(|word| word.split('/').next()?.parse::<u64>().ok())
    };
    let executions = last.split_whitespace().next().and_then(|word| word[1..].parse::<u64>().ok());
    let found = json!({
        "target": target, "executions": executions, "edges": after("cov:"), "features": after("ft:"),
        "corpus": after("corp:"), "failures": u8::from(!status.success()),
        "seconds": (start.elapsed().as_secs_f64() * 10.0).round() / 10.0,
    });
    println!("{found}");
    if !status.success() {
        bail!("{target}: the fuzzer ended with {status}; the input is in {}", folder.display());
    }
    Ok(())
}

fn check(target: &str) -> Result<()> {
    if !TARGETS.contains(&target) {
        bail!("{target}: no such target; there are {}", TARGETS.join(", "));
    }
    Ok(())
}

/// Compiles the crate with instrumentation, with the versions of the workspace's lock file, into its own folder.
fn build(root: &Path) -> Result<PathBuf> {
    let lock = root.join("fuzz").join("Cargo.lock");
    let mine = root.join("Cargo.lock");
    let age = |path: &Path| path.metadata().and_then(|about| about.modified());
    if !lock.exists() || age(&lock)? < age(&mine)? {
        std::fs::copy(&mine, &lock).context("cannot copy Cargo.lock")?;
    }
    let folder = target_folder(root).join("fuzz-build");
    // Told apart from the host, build scripts and macros are compiled without instrumentation.
    let host = host()?;
    let mut command = crate::cargo();
    command.args(["build", "--release", "--manifest-path", "fuzz/Cargo.toml", "--target", &host]);
    command.env("CARGO_TARGET_DIR", &folder);
    command.env("CARGO_ENCODED_RUSTFLAGS", INSTRUMENTATION.join("\x1f"));
    crate::run_command(&mut command, root)?;
    Ok(folder.join(host).join("release").join("tinylora-fuzz"))
}

/// The compiler's own platform.
fn host() -> Result<String> {
    let output = Command::new("rustc").arg("-vV").output().context("cannot ask rustc for its platform")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc tells no platform")
}

fn target_folder(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from)
}
