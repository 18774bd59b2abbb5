//! Right answers collected and learned from, with a tiny random model and a reward from an external command; and what is told
//! without a model: counts, and a sweep's time. Nothing is downloaded.

#[allow(dead_code)] // the rest is for tests that train
mod tiny;

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

const RECIPE: &str = r#"
name = "collect"
learner = "sft"
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
max_tokens = 12
[optimizer]
learning_rate = 0.01
[train]
epochs = 2
steps = 0
[sft]
data = "FILE"
examples_per_step = 100
[eval]
problems = 8
"#;

const GRADER: &str = r#"
import json, sys
for line in sys.stdin:
    text = json.loads(line)["completion"]
    print(json.dumps({"reward": sum(text.encode()) % 2}), flush=True)
"#;

fn prepare(folder: &Path) {
    let rows = folder.join("rows.jsonl");
    tiny::prepare_with(folder, &RECIPE.replace("FILE", rows.to_str().expect("UTF-8")), GRADER);
}

fn tinylora(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tinylora"));
    command.args(arguments).current_dir(folder).env("TINYLORA_CACHE", folder.join("cache"));
    command.env("HF_HUB_OFFLINE", "1");
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn succeeds(folder: &Path, arguments: &[&str]) -> String {
    let output = tinylora(folder, arguments).output().expect("the program starts");
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

fn fails(folder: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = tinylora(folder, arguments).output().expect("the program starts");
    assert!(!status.success(), "{arguments:?}");
    (status.code(), text(&stderr))
}

const COLLECT: [&str; 8] = ["collect", "recipe.toml", "--samples", "3", "--problems", "300", "--keep", "all"];

#[test]
fn what_is_collected_is_learned_from_and_the_same_each_time() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    prepare(folder);
    let start = Instant::now();
    let told = succeeds(folder, &[&COLLECT[..], &["--out", "rows.jsonl"]].concat());
    let duration = start.elapsed();
    assert!(told.contains("completions are right") && told.contains("--set sft.data=rows.jsonl"), "{told}");
    let whole = std::fs::read_to_string(folder.join("rows.jsonl")).unwrap();
    let rows: Vec<serde_json::Value> =
        whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(rows.len() > 500, "{} rows", rows.len());
    assert!(rows.iter().any(|row| row["right"] == true) && rows.iter().any(|row| row["right"] == false));
    assert!(rows.iter().all(|row| row["prompt"].is_string() && row["completion"].is_string()));
    assert!(!folder.join("rows.jsonl.partial").exists());
    assert!(fails(folder, &[&COLLECT[..], &["--out", "rows.jsonl"]].concat()).1.contains("is there already"));

    for part in [0.3, 0.6, 0.9] {
        let mut child =
            tinylora(folder, &[&COLLECT[..], &["--out", "again.jsonl"]].concat()).spawn().unwrap();
        std::thread::sleep(duration.mul_f64(part).min(Duration::from_secs(60)));
        child.kill().unwrap();
        child.wait().unwrap();
        if !folder.join("again.jsonl").exists() {
            succeeds(folder, &[&COLLECT[..], &["--out", "again.jsonl", "--resume"]].concat());
        }
        assert!(std::fs::read_to_string(folder.join("again.jsonl")).unwrap() == whole, "killed at {part}");
        std::fs::remove_file(folder.join("again.jsonl")).unwrap();
    }

    // A byte that is no text became three.
    succeeds(folder, &["train", "recipe.toml", "--out", "run", "--set", "rollout.max_tokens=40"]);
    let summary = std::fs::read_to_string(folder.join("run/summary.json")).unwrap();
    let summary: serde_json::Value = serde_json::from_str(&summary).unwrap();
    assert_eq!(summary["steps"].as_u64(), Some(2 * rows.len().div_ceil(100) as u64), "two epochs");
}

#[test]
fn counts_need_no_weights() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let table = succeeds(folder, &["adapter", "count", "--model", "Qwen/Qwen2.5-7B-Instruct"]);
    for part in ["7,615,616,512", "TinyLoRA", "u 1, n_tie 16", "VeRA", "n·m·(d+r)"] {
        assert!(table.contains(part) || table.contains(&part.replace(',', " ")), "{part} in {table}");
    }
    let json = succeeds(
        folder,
        &["adapter", "count", "--model", "smollm2-135m", "--u", "13", "--n-tie", "all", "--json"],
    );
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let last = json["rows"].as_array().unwrap().last().unwrap();
    assert_eq!((last["method"].as_str(), last["numbers"].as_u64()), (Some("tinylora"), Some(13)));
    assert_eq!(last["bytes_bf16"].as_u64(), Some(26));
    // A folder with nothing but a configuration.
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/models/llama2/config.json");
    std::fs::create_dir(folder.join("bare")).unwrap();
    std::fs::copy(golden, folder.join("bare/config.json")).unwrap();
    assert!(succeeds(folder, &["adapter", "count", "--model", "bare"]).contains("n = 3 layers"));
    let (status, message) =
        fails(folder, &["adapter", "count", "--model", "qwen2.5-7b", "--targets", "q_prj"]);
    assert!(status == Some(2) && message.contains("did you mean q_proj?"), "{message}");
    assert_eq!(fails(folder, &["adapter", "count", "--model", "qwen2.5-7b", "--rank", "0"]).0, Some(2));
    assert_eq!(fails(folder, &["adapter", "count", "--model", "qwen2.5-7b", "--n-tie", "x"]).0, Some(2));
}

#[test]
fn a_sweeps_dry_run_tells_time() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let quickstart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/quickstart.toml");
    std::fs::copy(quickstart, folder.join("quickstart.toml")).unwrap();
    std::fs::write(folder.join("s.toml"), "recipe = \"quickstart.toml\"\n[grid]\nseed = [1, 2]\n").unwrap();
    let told = succeeds(folder, &["sweep", "s.toml", "--dry-run"]);
    assert!(told.contains("time: at most about ") && told.contains("Very rough"), "{told}");
    let told = succeeds(folder, &["sweep", "s.toml", "--dry-run", "--set", "model.ref=someone/else"]);
    assert!(told.contains("time: not known before a run is done"), "{told}");
}
