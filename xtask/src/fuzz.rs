//! Runs the engine's random changes of good files against one of its parsers, as often as asked for. The changes and
//! the parsers are in `crates/tinylora/src/fuzz.rs`; here is only the command.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Names as the tests have them.
const PARSERS: [&str; 8] =
    ["safetensors", "gguf", "adapter", "recipe", "jsonl", "benchmark_rows", "parquet", "peft_config"];

/// Does the changes `from..from + count`; one line of JSON on standard output says what came of them.
pub fn run(root: &Path, parser: &str, count: &str, from: &str) -> Result<()> {
    if !PARSERS.contains(&parser) {
        bail!("{parser}: no such parser; there are {}", PARSERS.join(", "));
    }
    let number = |text: &str| text.parse::<u64>().with_context(|| format!("{text} is no number"));
    let (count, from) = (number(count)?, number(from)?);
    let mut command = Command::new(env!("CARGO"));
    command.args(["test", "--release", "--workspace", "--quiet", "--lib", "--"]);
    command.args(["--exact", &format!("fuzz::{parser}"), "--nocapture"]);
    command.env("TINYLORA_FUZZ", format!("{from}..{}", from + count));
    crate::run_command(&mut command, root)
}
