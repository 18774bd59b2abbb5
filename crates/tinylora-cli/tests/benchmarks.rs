//! Evaluations on benchmarks as people run them: a tiny random model, and files in the benchmarks' forms that were written
//! for these tests. Interrupted runs end in the same bytes, two runs are compared, a recipe trains on a benchmark.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A folder with the tiny model as `model/` and a few sets as `data/`.
fn prepare() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/models/llama2");
    let model = folder.path().join("model");
    std::fs::create_dir(&model).expect("a new folder");
    std::fs::copy(golden.join("model.safetensors"), model.join("model.safetensors"))
        .expect("the golden model");
    // A byte a token: prompts with worked examples are longer than the golden model's 128 positions.
    let config = std::fs::read_to_string(golden.join("config.json")).expect("its configuration");
    let longer = config.replace("\"max_position_embeddings\": 128", "\"max_position_embeddings\": 4096");
    assert_ne!(config, longer);
    std::fs::write(model.join("config.json"), longer).expect("writable");
    std::fs::copy(golden.join("../../tokenizer/bytes.json"), model.join("tokenizer.json"))
        .expect("the tokenizer");
    std::fs::write(model.join("tokenizer_config.json"), r#"{"eos_token": "</s>"}"#).expect("writable");
    let write = |name: &str, rows: Vec<Value>| {
        let file = folder.path().join("data").join(name);
        std::fs::create_dir_all(file.parent().expect("a folder")).expect("a new folder");
        let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
        std::fs::write(file, text).expect("writable");
    };
    let words = |n: std::ops::Range<i32>| -> Vec<Value> {
        n.map(|i| {
            let answer = format!("{i}+{i}=<<{i}+{i}={}>>{}\n#### {}", 2 * i, 2 * i, 2 * i);
            serde_json::json!({"question": format!("{i} and {i}?"), "answer": answer})
        })
        .collect()
    };
    write("gsm8k/test.jsonl", words(0..6));
    write("gsm8k/train.jsonl", words(6..14));
    let rows = (0..4).map(|i| {
        serde_json::json!({"problem": format!("What is ${i}^2$?"), "answer": (i * i).to_string(),
                           "solution": "x", "subject": "Algebra", "level": 1 + i % 2, "unique_id": i.to_string()})
    });
    write("math500/test.jsonl", rows.collect());
    folder
}

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tinylora"));
    command.current_dir(folder).args(arguments).env("HF_HUB_OFFLINE", "1");
    command.env("TINYLORA_CACHE", folder.join("cache")).stderr(Stdio::piped()).stdout(Stdio::piped());
    command
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    command(folder, arguments).output().expect("the program starts")
}

fn ok(folder: &Path, arguments: &[&str]) -> String {
    let output = run(folder, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

const EVAL: [&str; 5] = ["eval", "--model", "model", "--data", "data"];

fn eval(more: &[&str]) -> Vec<String> {
    EVAL.iter().chain(more).map(|word| word.to_string()).collect()
}

fn evaluated(folder: &Path, more: &[&str]) -> String {
    let arguments = eval(more);
    ok(folder, &arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

fn bytes(path: PathBuf) -> Vec<u8> {
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn several_sets_are_measured_kept_and_compared() {
    let folder = prepare();
    let at = folder.path();
    let settings = ["--task", "gsm8k,math500", "--max-tokens", "12", "--shots", "1"];
    let text = evaluated(at, &[&settings[..], &["--out", "a"]].concat());
    for part in ["GSM8K", "MATH500", "by subject", "by level", "gsm8k-strict", "a/gsm8k/report.html"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    for (set, n) in [("gsm8k", 6), ("math500", 4)] {
        let of = at.join("a").join(set);
        let summary: Value = serde_json::from_slice(&bytes(of.join("summary.json"))).unwrap();
        assert_eq!(summary["result"]["n"], n);
        assert_eq!(summary["settings"]["prompt_format"], "cot", "the tiny model has no chat template");
        assert_eq!(summary["settings"]["shots"], 1);
        assert_eq!(bytes(of.join("results.jsonl")).split(|b| *b == b'\n').count(), n + 1);
        assert!(String::from_utf8(bytes(of.join("report.html"))).unwrap().contains("How to read this page"));
    }
    // The same again: refused, and with --resume told from what is there.
    let again = eval(&[&settings[..], &["--out", "a"]].concat());
    let output = run(at, &again.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--resume"));
    assert_eq!(evaluated(at, &[&settings[..], &["--out", "a", "--resume"]].concat()), text);
    // One thread gives the same bytes.
    let one = eval(&[&settings[..], &["--out", "one"]].concat());
    let status = command(at, &one.iter().map(String::as_str).collect::<Vec<_>>())
        .env("TINYLORA_THREADS", "1")
        .status()
        .unwrap();
    assert!(status.success());
    assert_eq!(bytes(at.join("a/gsm8k/results.jsonl")), bytes(at.join("one/gsm8k/results.jsonl")));
    // Compared with themselves they are equal.
    let told = ok(at, &["eval", "compare", "a", "one"]);
    assert!(told.contains("GSM8K") && told.contains("do not show which is better"), "{told}");
    let json: Value = serde_json::from_str(&ok(at, &["eval", "compare", "a", "one", "--json"])).unwrap();
    assert_eq!(json["benchmarks"]["gsm8k"]["n"], 6);
    assert_eq!(json["benchmarks"]["math500"]["p_value"], 1.0);
    assert_eq!(json["benchmarks"]["math500"]["test"], "McNemar, exact");
    let output = run(at, &["eval", "compare", "a", "model"]);
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn more_samples_begin_with_the_same_ones() {
    let folder = prepare();
    let at = folder.path();
    let settings = ["--task", "gsm8k", "--max-tokens", "8", "--temperature", "1"];
    let records = |out: &str, more: &[&str]| -> Vec<Value> {
        evaluated(at, &[&settings[..], &["--out", out], more].concat());
        let text = String::from_utf8(bytes(at.join(out).join("results.jsonl"))).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let (two, four) = (records("two", &["--samples", "2"]), records("four", &["--samples", "4"]));
    let first: Vec<&Value> = four.iter().filter(|record| record["sample"].as_u64() < Some(2)).collect();
    assert_eq!(first, two.iter().collect::<Vec<_>>());
    assert_eq!((two.len(), four.len()), (12, 24));
    let limited = records("limited", &["--samples", "2", "--limit", "3"]);
    assert_eq!(limited[..], two[..6]);
    let summary: Value = serde_json::from_slice(&bytes(at.join("four/summary.json"))).unwrap();
    assert_eq!(summary["result"]["pass_at"].as_array().unwrap().len(), 3);
    let json: Value = serde_json::from_str(&ok(at, &["eval", "compare", "two", "four", "--json"])).unwrap();
    assert_eq!(json["benchmarks"]["gsm8k"]["test"], "paired permutation, exact");
    // Worked examples from the training rows change the prompts.
    let other =
        records("other", &["--samples", "2", "--shots-from", "data/gsm8k/train.jsonl", "--shots", "2"]);
    assert_ne!(other, two);
}

/// Waits until something is kept, then sends a signal; gives the exit status, none if it was killed.
#[cfg(unix)]
fn stopped(folder: &Path, arguments: &[&str], partial: &Path, signal: &str) -> Option<i32> {
    let mut child = command(folder, arguments).spawn().expect("the program starts");
    let deadline = Instant::now() + Duration::from_secs(120);
    while std::fs::metadata(partial).map_or(0, |m| m.len()) == 0 && Instant::now() < deadline {
        if child.try_wait().expect("it can be asked").is_some() {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Command::new("kill").arg(signal).arg(child.id().to_string()).status().expect("kill");
    child.wait().expect("it ends").code()
}

#[cfg(unix)]
#[test]
fn stopped_runs_end_in_the_same_bytes() {
    let folder = prepare();
    let at = folder.path();
    let settings = ["--task", "gsm8k", "--max-tokens", "200", "--samples", "6", "--resume"];
    evaluated(at, &[&settings[..], &["--out", "whole"]].concat());
    for signal in ["-INT", "-KILL"] {
        let out = format!("stopped{signal}");
        let arguments = eval(&[&settings[..], &["--out", &out]].concat());
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let partial = at.join(&out).join("results.partial.jsonl");
        let status = stopped(at, &arguments, &partial, signal);
        match status {
            Some(0) => eprintln!("the run was done before the signal came"),
            Some(code) => assert_eq!((code, signal), (130, "-INT")),
            None => assert_eq!(signal, "-KILL"),
        }
        ok(at, &arguments);
        assert_eq!(
            bytes(at.join(&out).join("results.jsonl")),
            bytes(at.join("whole/results.jsonl")),
            "{signal}"
        );
        assert!(!partial.exists());
    }
}

#[test]
fn a_recipe_trains_on_a_benchmark() {
    let folder = prepare();
    let at = folder.path();
    let recipe = r#"
name = "on-gsm8k"
[model]
ref = "model"
[adapter]
u = 3
n_tie = "all"
[task]
kind = "benchmark"
name = "gsm8k"
train = "data"
test = "data"
prompt_format = "cot"
shots = 1
[rollout]
prompts_per_step = 2
samples_per_prompt = 2
max_tokens = 8
[train]
steps = 2
[eval]
problems = 4
"#;
    std::fs::write(at.join("recipe.toml"), recipe).expect("writable");
    let printed = ok(at, &["train", "recipe.toml", "--dry-run"]);
    for part in ["kind = \"benchmark\"", "scorer = \"robust\"", "chat_template = false", "stop = ["] {
        assert!(printed.contains(part), "{part} in {printed}");
    }
    ok(at, &["train", "recipe.toml", "--out", "run"]);
    let summary: Value = serde_json::from_slice(&bytes(at.join("run/summary.json"))).unwrap();
    assert_eq!((&summary["task"], &summary["steps"]), (&Value::from("gsm8k"), &Value::from(2)));
    assert_eq!(summary["eval_after"]["n"], 4);
    let samples = String::from_utf8(bytes(at.join("run/samples.jsonl"))).unwrap();
    assert!(samples.contains("gsm8k/train/") && samples.contains("\\n\\nQuestion: "), "{samples}");
    let output =
        run(at, &["train", "recipe.toml", "--dry-run", "--set", "task.name=aime24", "--set", "task.train="]);
    assert_eq!(output.status.code(), Some(2));
    // The adapter is evaluated beside the base.
    ok(
        at,
        &[
            "eval",
            "--model",
            "model",
            "--data",
            "data",
            "--task",
            "gsm8k",
            "--max-tokens",
            "8",
            "--shots",
            "0",
            "--adapter",
            "run/adapter.tinylora",
        ],
    );
    assert!(at.join("evals/model+run/gsm8k/report.html").is_file());
}

#[test]
fn what_cannot_be_had_is_named() {
    let folder = prepare();
    let fails = |more: &[&str], code: i32, part: &str| {
        let arguments = eval(more);
        let output = run(folder.path(), &arguments.iter().map(String::as_str).collect::<Vec<_>>());
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{message}");
        assert!(message.contains(part), "{part} in {message}");
    };
    fails(&["--task", "minerva"], 1, "minerva_math/test.jsonl");
    fails(&["--task", "gsm8k", "--prompt-format", "abell"], 2, "did you mean abel?");
    fails(&["--task", "gsm8k", "--shots", "99"], 1, "99 worked examples");
    fails(&["--task", "gsm8k,math50"], 2, "did you mean math500?");
    let output = run(
        folder.path(),
        &["eval", "--model", "model", "--task", "gsm8k,math500", "--data", "data/gsm8k/test.jsonl"],
    );
    assert_eq!(output.status.code(), Some(2));
    let output = run(folder.path(), &["eval", "--model", "model", "--task", "minerva"]);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.code() == Some(1) && message.contains("no file of minerva on the Hub is known"),
        "{message}"
    );
}
