//! A run on a tiny random model with a reward from an external command, so that what is trained moves in every step.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const RECIPE: &str = r#"
name = "resume"
seed = 5
[model]
ref = "MODEL"
chat_template = false
[adapter]
u = 13
n_tie = "all"
[task]
kind = "arithmetic"
problems = "sum"
max = 50
[reward]
scorer = "command"
command = ["python3", "GRADER"]
[rollout]
prompts_per_step = 4
samples_per_prompt = 4
max_tokens = 12
[optimizer]
learning_rate = 0.01
schedule = "linear"
[train]
steps = 12
checkpoint_every = 1
keep_checkpoints = 2
[eval]
problems = 16
"#;

/// A reward that hangs on every letter.
pub const GRADER: &str = r#"
import json, sys
for line in sys.stdin:
    text = json.loads(line)["completion"]
    print(json.dumps({"reward": sum(text.encode()) % 5}), flush=True)
"#;

/// A folder with the tiny model, its tokenizer, the grader and the recipe; gives the recipe's path.
pub fn prepare(folder: &Path) -> PathBuf {
    prepare_with(folder, RECIPE, GRADER)
}

/// The same with another recipe, in which MODEL and GRADER stand for their paths, and another grader.
pub fn prepare_with(folder: &Path, recipe_text: &str, grader_text: &str) -> PathBuf {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/models/llama2");
    let model = folder.join("model");
    std::fs::create_dir(&model).expect("a new folder");
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(golden.join(file), model.join(file)).expect("the golden model");
    }
    std::fs::copy(golden.join("../../tokenizer/bytes.json"), model.join("tokenizer.json"))
        .expect("the tokenizer");
    std::fs::write(model.join("tokenizer_config.json"), r#"{"eos_token": "</s>"}"#).expect("writable");
    let grader = folder.join("grader.py");
    std::fs::write(&grader, grader_text).expect("writable");
    let recipe = folder.join("recipe.toml");
    let text = recipe_text
        .replace("MODEL", model.to_str().expect("UTF-8"))
        .replace("GRADER", grader.to_str().expect("UTF-8"));
    std::fs::write(&recipe, text).expect("writable");
    recipe
}

pub fn train(recipe: &Path, out: &Path, cache: &Path, extra: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tinylora"));
    command.arg("train").arg(recipe).arg("--out").arg(out).args(extra);
    command.env("TINYLORA_CACHE", cache).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

pub fn finish(mut command: Command) {
    let output = command.output().expect("the program starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// What must be the same to the byte: adapter and samples, and metrics but for the clock and memory.
pub fn results(out: &Path) -> (Vec<u8>, Vec<u8>, Vec<serde_json::Value>) {
    let read = |name: &str| std::fs::read(out.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let metrics = String::from_utf8(read("metrics.jsonl")).expect("UTF-8");
    let metrics = metrics
        .lines()
        .map(|line| {
            let mut line: serde_json::Value = serde_json::from_str(line).expect("a whole line");
            for key in ["rollout_seconds", "train_seconds", "rss_bytes", "empty_slot_fraction"] {
                line.as_object_mut().expect("an object").remove(key).expect("in the contract");
            }
            line
        })
        .collect();
    // Where all weights are trained, the result is a model.
    let model = out.join("model/model.safetensors").exists();
    (read(if model { "model/model.safetensors" } else { "adapter.tinylora" }), read("samples.jsonl"), metrics)
}
