//! generate, score and inspect with SmolLM2-135M, where `TINYLORA_TEST_MODELS` names a folder that has it.

use serde_json::Value;
use std::path::PathBuf;
use std::process::Command;

/// The model, or a printed reason why the test is skipped.
fn model() -> Option<PathBuf> {
    let Some(folder) = std::env::var_os("TINYLORA_TEST_MODELS") else {
        eprintln!("skipped: TINYLORA_TEST_MODELS is not set");
        return None;
    };
    let model = PathBuf::from(folder).join("smollm2-135m.gguf");
    if !model.is_file() {
        eprintln!("skipped: {} is not there", model.display());
        return None;
    }
    Some(model)
}

/// Standard output of a successful call; the model is put behind `--model`.
fn output(model: &PathBuf, cache: &std::path::Path, arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tinylora"));
    command.env("TINYLORA_CACHE", cache).args(arguments);
    if !arguments.contains(&"inspect") {
        command.arg("--model").arg(model);
    }
    let output = command.output().expect("the binary runs");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn floats(value: &Value) -> Vec<f32> {
    value.as_array().expect("a list").iter().map(|x| x.as_f64().map_or(f32::NAN, |x| x as f32)).collect()
}

#[test]
fn what_is_generated_is_scored_the_same() {
    let Some(model) = model() else { return };
    let folder = tempfile::tempdir().unwrap();
    let generate = |extra: &[&str]| {
        let mut arguments = vec!["generate", "--prompt", "What is 2 + 3?", "--max-tokens", "8", "--json"];
        arguments.extend(extra);
        let line = output(&model, folder.path(), &arguments);
        serde_json::from_str::<Value>(&line).expect("one object")
    };
    let greedy = generate(&[]);
    assert_eq!(greedy, generate(&[]), "the same each time");
    assert!(greedy["text"].as_str().is_some_and(|text| !text.is_empty()));
    assert!(["stop", "length"].contains(&greedy["finish_reason"].as_str().unwrap()));
    let sampled = generate(&["--temperature", "1", "--seed", "5"]);
    assert_ne!(sampled["tokens"], greedy["tokens"]);
    // Log-probs of sampling are those of scoring, to the last bit.
    let prompt = sampled["prompt_tokens"].as_array().unwrap();
    let tokens: Vec<&Value> = prompt.iter().chain(sampled["tokens"].as_array().unwrap()).collect();
    let file = folder.path().join("texts.jsonl");
    let line = serde_json::json!({ "tokens": tokens });
    std::fs::write(&file, format!("{line}\n{{\"text\": \"Paris is in France.\"}}\n")).unwrap();
    let scored = output(&model, folder.path(), &["score", "--text", file.to_str().unwrap(), "--json"]);
    let lines: Vec<Value> = scored.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert!(lines[0]["logprobs"][0].is_null());
    assert_eq!(floats(&lines[0]["logprobs"])[prompt.len()..], floats(&sampled["logprobs"]));
    assert!(floats(&lines[1]["logprobs"])[1..].iter().all(|logprob| *logprob < 0.0));
}

#[test]
fn conversations_give_a_line_each() {
    let Some(model) = model() else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("chats.jsonl");
    let chat = |text: &str| format!("{{\"messages\":[{{\"role\":\"user\",\"content\":\"{text}\"}}]}}\n");
    std::fs::write(&file, chat("Say hello.") + &chat("Count to three.")).unwrap();
    let file = file.to_str().unwrap();
    let all = output(&model, folder.path(), &["generate", "--messages", file, "--max-tokens", "6", "--json"]);
    assert_eq!(all.lines().count(), 2);
    // A conversation alone gets the same answer as in company.
    std::fs::write(folder.path().join("one.jsonl"), "{\"role\":\"user\",\"content\":\"Say hello.\"}\n")
        .unwrap();
    let one = folder.path().join("one.jsonl");
    let one = output(
        &model,
        folder.path(),
        &["generate", "--messages", one.to_str().unwrap(), "--max-tokens", "6", "--json"],
    );
    assert_eq!(one.lines().next(), all.lines().next());
}

#[test]
fn the_model_is_described() {
    let Some(model) = model() else { return };
    let folder = tempfile::tempdir().unwrap();
    let page = output(&model, folder.path(), &["model", "inspect", model.to_str().unwrap()]);
    for fact in ["134,515,008", "Llama", "Q4_1", "30", "49,152", "chat template    yes"] {
        assert!(page.contains(fact), "{fact} in\n{page}");
    }
    assert!(!page.contains('\x1b'));
}
