//! Every parser of files from outside as a target for fuzzing: a name enters, good files leave, and a function that takes the
//! bytes of any file, says whether they are accepted, and never panics; what is accepted must mean something.
//!
//! Two things find inputs for them: `changes.rs`, in ordinary tests, and libFuzzer in the crate `fuzz` beside the workspace,
//! which is led by coverage and built with `--cfg fuzzing`.

#[cfg(test)]
mod changes;
mod files;
mod texts;

/// The targets by their names.
pub const NAMES: [&str; 12] = [
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

/// Pieces of text that mean something to one of the parsers.
pub const WORDS: [&str; 24] = [
    "{",
    "}",
    "[",
    "]",
    "\"",
    ":",
    ",",
    "null",
    "true",
    "-1",
    "1e999",
    "18446744073709551616",
    "\\u0000",
    "\n",
    "'",
    "=",
    "nan",
    "inf",
    "F32",
    "BF16",
    "data_offsets",
    "shape",
    "((((",
    "\u{feff}",
];

/// A parser with files that it accepts.
pub struct Target {
    /// Good files.
    pub seeds: Vec<Vec<u8>>,
    /// Parses the bytes of a file: whether they are accepted.
    pub accepts: Box<dyn Fn(Vec<u8>) -> bool>,
}

impl Target {
    fn new(seeds: impl Into<Vec<Vec<u8>>>, accepts: impl Fn(Vec<u8>) -> bool + 'static) -> Target {
        Target { seeds: seeds.into(), accepts: Box::new(accepts) }
    }
}

/// The target of this name.
pub fn target(name: &str) -> Option<Target> {
    Some(match name {
        "safetensors" => files::safetensors(),
        "gguf" => files::gguf(),
        "adapter" => files::adapter(),
        "checkpoint" => files::checkpoint(),
        "parquet" => files::parquet(),
        "recipe" => texts::recipe(),
        "sweep" => texts::sweep(),
        "jsonl" => texts::jsonl(),
        "benchmark_rows" => texts::benchmark_rows(),
        "peft_config" => texts::peft_config(),
        "tokenizer" => texts::tokenizer(),
        "template" => texts::template(),
        _ => return None,
    })
}

/// Words that mutation may put in: [`WORDS`], and the names that stand in a target's good files.
pub fn words(target: &Target) -> Vec<String> {
    let mut words: std::collections::BTreeSet<String> = WORDS.iter().map(|word| (*word).to_owned()).collect();
    for seed in &target.seeds {
        let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
        let names = seed.split(|byte| !is_name(byte)).filter(|name| (3..40).contains(&name.len()));
        words.extend(names.map(|name| String::from_utf8_lossy(name).into_owned()));
    }
    words.into_iter().collect()
}
