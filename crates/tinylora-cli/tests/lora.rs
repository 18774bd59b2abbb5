//! LoRA from recipe to file and on: a run of each learner, the same bytes on any number of threads, and what other commands
//! do with the file.

mod tiny;

use serde_json::Value;
use std::path::Path;
use std::process::Command;
use tiny::{finish, prepare, results, train};

const LORA: [&str; 6] =
    ["--set", "adapter.kind=lora", "--set", "adapter.rank=3", "--set", "optimizer.learning_rate=0.003"];

/// Runs a command and gives what it prints.
fn tinylora(cache: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tinylora"));
    let output = command.args(arguments).env("TINYLORA_CACHE", cache).output().expect("the program starts");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn summary(out: &Path) -> Value {
    let text = std::fs::read_to_string(out.join("summary.json")).expect("a summary");
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn threads_change_no_byte_and_the_file_is_used() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (recipe, cache) = (prepare(folder.path()), folder.path().join("cache"));
    let mut all = Vec::new();
    for threads in ["1", "2"] {
        let out = folder.path().join(threads);
        let mut command = train(&recipe, &out, &cache, &LORA);
        command.env("TINYLORA_THREADS", threads);
        finish(command);
        all.push(results(&out));
    }
    assert!(all[0] == all[1], "one thread and two");
    let metrics = &all[0].2;
    assert!(metrics.len() == 12 && metrics.iter().all(|m| m["logprob_gap_max"] == 0.0));
    let summary = summary(&folder.path().join("1"));
    // llama2's q 48→48, k and v 48→24, o 48→48, gate and up 48→112, down 112→48, in three layers.
    let numbers = 3 * 3 * (2 * (48 + 48) + 2 * (48 + 24) + 3 * (48 + 112));
    assert_eq!(summary["adapter"]["trainable_parameters"], numbers);
    assert_eq!((&summary["adapter"]["kind"], &summary["adapter"]["alpha"]), (&"lora".into(), &32.0.into()));

    let file = folder.path().join("1/adapter.tinylora");
    let (file, model) = (file.to_str().expect("UTF-8"), folder.path().join("model"));
    let model = model.to_str().expect("UTF-8");
    let page = tinylora(&cache, &["adapter", "inspect", file]);
    for part in ["LoRA, rank 3, scale 10.66", "7,344", "resume: arithmetic/sum, 12 steps, seed 5"] {
        assert!(page.contains(part), "{part} in {page}");
    }
    let generate = |adapter: &[&str]| {
        let fixed = ["generate", "--model", model, "--raw", "--temperature", "0", "--max-tokens", "8"];
        tinylora(&cache, &[&fixed[..], adapter, &["--prompt", "1 + 2 ="]].concat())
    };
    assert_ne!(generate(&["--adapter", file]), generate(&[]), "the adapter does something");
    for format in ["peft", "lora", "merged", "gguf-lora"] {
        let to = folder.path().join(format!("export-{format}"));
        let to = to.to_str().expect("UTF-8");
        tinylora(&cache, &["adapter", "export", file, "--model", model, "--format", format, "--out", to]);
        if format == "peft" {
            let again = folder.path().join("again.tinylora");
            let again = again.to_str().expect("UTF-8");
            tinylora(&cache, &["adapter", "import", to, "--model", model, "--out", again]);
            assert_eq!(generate(&["--adapter", again]), generate(&["--adapter", file]));
        }
    }
}

#[test]
fn numbers_are_kept_in_the_storage_precision_and_frozen_weights_as_they_were() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (recipe, cache, out) =
        (prepare(folder.path()), folder.path().join("cache"), folder.path().join("out"));
    let weights = || std::fs::read(folder.path().join("model/model.safetensors")).expect("there");
    let before = weights();
    let settings = [
        &LORA[..],
        &["--set", "learner=sft", "--set", "sft.examples_per_step=8"],
        &[
            "--set",
            "adapter.storage_precision=bf16",
            "--set",
            "adapter.rslora=true",
            "--set",
            "train.steps=3",
        ],
    ];
    finish(train(&recipe, &out, &cache, &settings.concat()));
    assert!(before == weights());
    let summary = summary(&out);
    assert_eq!(summary["adapter"]["rslora"], true);
    let numbers = summary["adapter"]["trainable_parameters"].as_u64().expect("a number");
    assert_eq!(summary["adapter"]["payload_bytes"], 2 * numbers);
    let adapter = tinylora::adapter::load(out.join("adapter.tinylora").to_str().expect("UTF-8"));
    let tinylora::adapter::AnyAdapter::Standalone(adapter) = adapter.expect("whole") else { panic!("LoRA") };
    for factors in &adapter.factors.modules {
        assert!(factors.a.iter().chain(&factors.b).all(|x| x.to_bits() & 0xffff == 0), "bf16");
        assert!(factors.b.iter().any(|x| *x != 0.0), "B was trained");
    }
}
