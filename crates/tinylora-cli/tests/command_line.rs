//! The binary as people and scripts meet it: exit status, messages, help. Nothing is downloaded.

use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Runs the binary without network, caches or settings of whoever runs the tests.
fn tinylora(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tinylora"))
        .args(arguments)
        .current_dir(folder)
        .env_clear()
        .env("HOME", folder)
        .env("HF_HUB_OFFLINE", "1")
        .env("TINYLORA_CACHE", folder.join("cache"))
        .output()
        .expect("the binary runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// Status and standard error; standard output must be empty.
fn fails(folder: &Path, arguments: &[&str]) -> (i32, String) {
    let output = tinylora(folder, arguments);
    assert_eq!(text(&output.stdout), "", "{arguments:?}");
    (output.status.code().expect("not killed"), text(&output.stderr))
}

const RECIPE: &str = "\
name = \"small\"
[model]
ref = \"smollm2-135m\"
[task]
kind = \"arithmetic\"
problems = \"sum\"
[train]
steps = 3
";

fn folder_with_recipe() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("r.toml"), RECIPE).expect("written");
    folder
}

#[test]
fn wrong_usage_is_two_and_names_the_nearest() {
    let folder = tempfile::tempdir().unwrap();
    let (status, message) = fails(folder.path(), &["generate", "--model", "m", "--promt", "x"]);
    assert_eq!(status, 2);
    assert!(message.contains("--promt") && message.contains("--prompt"), "{message}");
    let (status, message) = fails(folder.path(), &["trian", "r.toml"]);
    assert_eq!(status, 2);
    assert!(message.contains("train"), "{message}");
    let (status, message) = fails(folder.path(), &["generate", "--model", "m"]);
    assert_eq!(status, 2);
    assert!(message.contains("--prompt") && message.contains("--messages"), "{message}");
    assert_eq!(fails(folder.path(), &["eval", "--model", "m"]).0, 2);
    assert_eq!(
        fails(folder.path(), &["generate", "--model", "m", "--prompt", "x", "--temperature", "-1"]).0,
        2
    );
    assert_eq!(fails(folder.path(), &["generate", "--model", "m", "--prompt", "x", "--top-p", "0"]).0, 2);
    assert_eq!(
        fails(folder.path(), &["generate", "--model", "m", "--prompt", "x", "--max-tokens", "0"]).0,
        2
    );
}

#[test]
fn a_wrong_recipe_is_two_and_names_key_and_nearest() {
    let folder = folder_with_recipe();
    std::fs::write(folder.path().join("wrong.toml"), RECIPE.replace("steps", "stepz")).unwrap();
    let (status, message) = fails(folder.path(), &["train", "wrong.toml"]);
    assert_eq!(status, 2);
    assert!(
        message.contains("wrong.toml") && message.contains("stepz") && message.contains("`steps`"),
        "{message}"
    );
    let (status, message) = fails(folder.path(), &["train", "r.toml", "--set", "rollout.max_token=4"]);
    assert_eq!(status, 2);
    assert!(message.contains("max_token") && message.contains("max_tokens"), "{message}");
    let (status, message) = fails(folder.path(), &["train", "r.toml", "--set", "rollout.temperature=-1"]);
    assert_eq!(status, 2);
    assert!(message.contains("rollout.temperature"), "{message}");
    let (status, message) = fails(folder.path(), &["train", "missing.toml"]);
    assert_eq!(status, 2);
    assert!(message.contains("missing.toml"), "{message}");
}

#[test]
fn a_dry_run_prints_the_recipe_and_fetches_nothing() {
    let folder = folder_with_recipe();
    let output = tinylora(folder.path(), &["train", "r.toml", "--dry-run", "--set", "seed=9"]);
    let (recipe, message) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{message}");
    assert!(recipe.contains("seed = 9") && recipe.contains("[optimizer]"), "{recipe}");
    assert!(message.contains("tinylora model pull smollm2-135m"), "{message}");
    // What was printed is a recipe that says the same.
    std::fs::write(folder.path().join("whole.toml"), &recipe).unwrap();
    let again = tinylora(folder.path(), &["train", "whole.toml", "--dry-run"]);
    assert_eq!(text(&again.stdout), recipe);
    // A model that does not exist is found out at once.
    let output = tinylora(folder.path(), &["train", "r.toml", "--dry-run", "--set", "model.ref=smollm3"]);
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn the_environment_is_checked() {
    let folder = tempfile::tempdir().unwrap();
    for (name, value) in [("TINYLORA_DEVICE", "tpu"), ("TINYLORA_KERNEL", "sse9"), ("TINYLORA_THREADS", "0")]
    {
        let output = Command::new(env!("CARGO_BIN_EXE_tinylora"))
            .args(["generate", "--model", "m", "--prompt", "x"])
            .env_clear()
            .env("HOME", folder.path())
            .env(name, value)
            .output()
            .unwrap();
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{name}: {message}");
        assert!(message.contains(value), "{name}: {message}");
    }
}

#[test]
fn what_is_not_there_is_one_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let (status, message) = fails(folder.path(), &["model", "pull", "smollm2-135n"]);
    assert_eq!(status, 1);
    assert!(message.starts_with("error: ") && message.contains("smollm2-135m"), "{message}");
    let (status, message) = fails(folder.path(), &["model", "inspect", "./no/such.gguf"]);
    assert_eq!(status, 1);
    assert!(message.contains("no/such.gguf"), "{message}");
    let (status, message) = fails(folder.path(), &["adapter", "inspect", "none.tinylora"]);
    assert_eq!(status, 1);
    assert!(message.contains("none.tinylora"), "{message}");
    let arguments = ["generate", "--model", "m", "--adapter", "none.tinylora", "--prompt", "x"];
    let (status, message) = fails(folder.path(), &arguments);
    assert_eq!(status, 1);
    assert!(message.contains("none.tinylora"), "the adapter is looked at before the model: {message}");
    let (status, message) = fails(folder.path(), &["score", "--model", "m", "--text", "none.jsonl"]);
    assert_eq!(status, 1);
    assert!(message.contains("none.jsonl"), "{message}");
    std::fs::write(folder.path().join("bad.jsonl"), "{\"text\": \"a\"}\n{\"txt\": \"b\"}\n").unwrap();
    let (status, message) = fails(folder.path(), &["score", "--model", "m", "--text", "bad.jsonl"]);
    assert_eq!(status, 1);
    assert!(message.contains("bad.jsonl, line 2"), "{message}");
}

#[test]
fn messages_have_no_control_characters_and_no_backtrace() {
    let folder = tempfile::tempdir().unwrap();
    let (_, message) = fails(folder.path(), &["model", "pull", "nothing-of-that-name"]);
    assert!(!message.replace('\n', "").contains(char::is_control), "{message:?}");
    assert!(!message.to_lowercase().contains("backtrace"), "{message}");
}

#[test]
fn adapters_that_cannot_be_converted_say_why() {
    let folder = tempfile::tempdir().unwrap();
    let export = |more: &[&str]| {
        let arguments = [&["adapter", "export", "absent.tinylora", "--out", "x"], more].concat();
        fails(folder.path(), &arguments)
    };
    let (status, message) = export(&["--format", "peft"]);
    assert!(status == 1 && message.contains("cannot read absent.tinylora"), "{message}");
    let (status, message) = export(&["--format", "peft", "--rank", "8"]);
    assert!(status == 2 && message.contains("--rank goes with"), "{message}");
    let (status, message) = export(&["--format", "lora", "--dtype", "f32"]);
    assert!(status == 2 && message.contains("--dtype goes with"), "{message}");
    assert_eq!(export(&["--format", "onnx"]).0, 2);
    assert_eq!(fails(folder.path(), &["adapter", "average", "a", "--out", "x"]).0, 2);
    let (status, message) = fails(folder.path(), &["adapter", "diff", "tinylora:AAAA", "tinylora:AAAA"]);
    assert!(status == 1 && message.contains("is no adapter file"), "{message}");
}

/// `tinylora … | head`
#[test]
fn a_reader_that_leaves_is_no_failure() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tinylora"))
        .args(["adapter", "count", "--model", "qwen2.5-7b"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(141), ""));
}

/// All help pages are kept in `help.txt`; `TINYLORA_UPDATE_HELP=1` writes it anew.
#[test]
fn help_pages() {
    let folder = tempfile::tempdir().unwrap();
    let pages: [&[&str]; 24] = [
        &["--help"],
        &["train", "--help"],
        &["sweep", "--help"],
        &["plot", "--help"],
        &["eval", "--help"],
        &["eval", "compare", "--help"],
        &["collect", "--help"],
        &["generate", "--help"],
        &["chat", "--help"],
        &["score", "--help"],
        &["verify", "--help"],
        &["serve", "--help"],
        &["bench", "--help"],
        &["adapter", "--help"],
        &["adapter", "inspect", "--help"],
        &["adapter", "count", "--help"],
        &["adapter", "export", "--help"],
        &["adapter", "upload", "--help"],
        &["adapter", "import", "--help"],
        &["adapter", "diff", "--help"],
        &["adapter", "average", "--help"],
        &["adapter", "interpolate", "--help"],
        &["model", "inspect", "--help"],
        &["model", "pull", "--help"],
    ];
    let mut all = String::new();
    for page in pages {
        let output = tinylora(folder.path(), page);
        assert_eq!(output.status.code(), Some(0), "{page:?}");
        all.push_str(&format!("$ tinylora {}\n{}\n", page.join(" "), text(&output.stdout)));
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/help.txt");
    if std::env::var_os("TINYLORA_UPDATE_HELP").is_some() {
        std::fs::write(&file, &all).unwrap();
    }
    let kept = std::fs::read_to_string(&file).unwrap();
    assert!(all == kept, "the help pages changed: look at them and set TINYLORA_UPDATE_HELP=1\n{all}");
}
