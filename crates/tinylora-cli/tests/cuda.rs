//! `--device cuda` as a person uses it, on the emulated driver: a run that is stopped and resumed ends as a whole one, and where
//! there is no GPU the messages say so.
#![cfg(feature = "cuda")]

#[path = "../../tinylora-compute/src/cuda/emulated/build.rs"]
mod emulated;
#[allow(dead_code)] // the rest is for tests that train on the processor
mod tiny;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const RECIPE: &str = r#"
name = "cuda"
seed = 5
[model]
ref = "MODEL"
chat_template = false
[adapter]
ADAPTER
[task]
kind = "arithmetic"
problems = "sum"
max = 50
[reward]
scorer = "command"
command = ["python3", "GRADER"]
[rollout]
prompts_per_step = 2
samples_per_prompt = 3
max_tokens = 6
[optimizer]
learning_rate = 0.01
[train]
steps = 3
checkpoint_every = 1
[eval]
problems = 2
"#;

struct Place {
    folder: tempfile::TempDir,
    driver: PathBuf,
}

impl Place {
    /// A tiny model, a grader and a recipe; a cache with what the emulated driver takes for machine code.
    fn new() -> Option<Self> {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let (driver, kernels) = emulated::emulated_driver(&here.join("../tinylora-compute/src/cuda"))?;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let recipe = tiny::prepare_with(folder.path(), RECIPE, tiny::GRADER);
        let text = std::fs::read_to_string(&recipe).expect("just written");
        for (file, adapter) in [
            ("recipe", "u = 13\nn_tie = \"all\""),
            ("lora", "kind = \"lora\"\nrank = 3"),
            ("full", "kind = \"full\""),
        ] {
            let text = text.replace("ADAPTER", adapter);
            std::fs::write(folder.path().join(file).with_extension("toml"), text).expect("writable");
        }
        let to = folder.path().join("cache/kernels");
        std::fs::create_dir_all(&to).expect("a new folder");
        for file in std::fs::read_dir(kernels).expect("a folder") {
            let file = file.expect("readable");
            std::fs::copy(file.path(), to.join(file.file_name())).expect("copied");
        }
        Some(Self { folder, driver })
    }

    fn tinylora(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tinylora"));
        command.args(arguments).env("TINYLORA_CACHE", self.folder.path().join("cache"));
        command.env("TINYLORA_CUDA_DRIVER", &self.driver).env("TINYLORA_DEVICE", "cuda");
        command.current_dir(self.folder.path());
        command
    }

    fn train(&self, out: &str, extra: &[&str]) -> Vec<u8> {
        self.train_recipe("recipe.toml", out, extra)
    }

    fn train_recipe(&self, recipe: &str, out: &str, extra: &[&str]) -> Vec<u8> {
        let arguments = [&["train", recipe, "--out", out], extra].concat();
        done(&self.tinylora(&arguments).output().expect("the program starts"));
        std::fs::read(self.folder.path().join(out).join("adapter.tinylora")).expect("an adapter")
    }

    fn json(&self, path: &str) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(self.folder.path().join(path)).expect("readable");
        serde_json::Deserializer::from_str(&text).into_iter().map(|value| value.expect("JSON")).collect()
    }
}

fn done(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

#[test]
fn a_run_on_the_gpu_resumes_exactly() {
    let Some(place) = Place::new() else { return };
    let whole = place.train("whole", &[]);
    let metrics = place.json("whole/metrics.jsonl");
    assert_eq!(metrics.len(), 3);
    assert!(metrics.iter().all(|step| step["logprob_gap_max"] == 0.0), "{metrics:?}");
    assert!(metrics[2]["v_norm"].as_f64().is_some_and(|norm| norm > 1e-3), "v moved");
    let summary = &place.json("whole/summary.json")[0];
    assert_eq!((summary["device"].as_str(), summary["kernel"].as_str()), (Some("cuda"), Some("emulated")));
    // As if it had been stopped after its first step.
    let stopped = place.folder.path().join("whole");
    for step in [2, 3] {
        std::fs::remove_file(stopped.join(format!("checkpoints/step-{step:06}.ckpt"))).expect("a checkpoint");
    }
    assert_eq!(place.train("whole", &["--resume"]), whole);
    let again = place.json("whole/metrics.jsonl");
    for (a, b) in metrics.iter().zip(&again) {
        assert_eq!(
            (&a["loss"], &a["grad_norm"], &a["entropy"]),
            (&b["loss"], &b["grad_norm"], &b["entropy"])
        );
    }
    // Two GPUs share the work and end with the same bytes.
    let two = place.tinylora(&["train", "recipe.toml", "--out", "two"]).env("TINYLORA_GPU", "0,1").output();
    done(&two.expect("the program starts"));
    let bytes = std::fs::read(place.folder.path().join("two/adapter.tinylora")).expect("an adapter");
    assert!(bytes == whole, "two GPUs train another adapter");
    let refused =
        place.tinylora(&["train", "recipe.toml", "--out", "no"]).env("TINYLORA_GPU", "0,0").output();
    let message = String::from_utf8_lossy(&refused.expect("it starts").stderr).into_owned();
    assert!(message.contains("each once"), "{message}");
    let generate = |variable: &str, value: &str| {
        let mut command =
            place.tinylora(&["generate", "--model", "model", "--adapter", "whole/adapter.tinylora"]);
        command.args(["--prompt", "1 + 2 =", "--max-tokens", "5", "--temperature", "0", "--json"]);
        let output = command.env(variable, value).output().expect("the program starts");
        let generated: serde_json::Value = serde_json::from_str(&done(&output)).expect("JSON");
        (generated["tokens"].clone(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (tokens, _) = generate("TINYLORA_CUDA_GRAPHS", "1");
    assert!(tokens.as_array().is_some_and(|tokens| (1..=5).contains(&tokens.len())));
    // Without graphs, with a driver that has none, and with one that does everything at once it is the same.
    assert_eq!(generate("TINYLORA_CUDA_GRAPHS", "0").0, tokens);
    assert_eq!(generate("EMULATED_AT_ONCE", "1").0, tokens);
    let (same, message) = generate("EMULATED_NO_GRAPHS", "1");
    assert_eq!(same, tokens);
    assert!(message.contains("without CUDA graphs"), "{message}");
    let bench =
        ["bench", "--model", "model", "--json", "--repeats", "1", "--decode", "2", "--sequences", "1"];
    let bench = done(&place.tinylora(&bench).arg("--no-step").output().expect("the program starts"));
    let bench: serde_json::Value = serde_json::from_str(&bench).expect("JSON");
    assert_eq!(bench["device"], "cuda");
    assert!(bench["rows"].as_array().is_some_and(|rows| rows.len() == 3), "{bench}");
}

/// The emulated driver's third GPU is a Hopper.
#[test]
fn a_run_on_wgmma_has_no_gap_and_resumes_exactly() {
    let Some(place) = Place::new() else { return };
    let train = |out: &str, gpu: &str, products: &str, extra: &[&str]| {
        let mut command = place.tinylora(&[&["train", "recipe.toml", "--out", out], extra].concat());
        command.env("TINYLORA_GPU", gpu).env("TINYLORA_CUDA_PRODUCTS", products);
        command.output().expect("the program starts")
    };
    let adapter = |out: &str| {
        std::fs::read(place.folder.path().join(out).join("adapter.tinylora")).expect("an adapter")
    };
    done(&train("whole", "2", "wgmma", &[]));
    let whole = adapter("whole");
    let metrics = place.json("whole/metrics.jsonl");
    assert_eq!(metrics.len(), 3);
    assert!(metrics.iter().all(|step| step["logprob_gap_max"] == 0.0), "{metrics:?}");
    assert!(metrics[2]["v_norm"].as_f64().is_some_and(|norm| norm > 1e-3), "v moved");
    for step in [2, 3] {
        let checkpoint = place.folder.path().join(format!("whole/checkpoints/step-{step:06}.ckpt"));
        std::fs::remove_file(checkpoint).expect("a checkpoint");
    }
    done(&train("whole", "2", "wgmma", &["--resume"]));
    assert!(adapter("whole") == whole, "a resumed run ends in another adapter");
    // By default, and where it is asked for, products are on mma.sync: on the Hopper as on another GPU.
    done(&train("mma", "2", "mma", &[]));
    done(&train("other", "0", "", &[]));
    assert!(adapter("mma") == adapter("other"), "the kind of GPU changes the numbers");
    for (gpu, products, expected) in
        [("2", "wmma", "it is mma or wgmma"), ("0", "wgmma", "no such instruction")]
    {
        let refused = train("no", gpu, products, &[]);
        let message = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && message.contains(expected), "{message}");
    }
    let mixed = train("no", "0,2", "mma", &[]);
    let message = String::from_utf8_lossy(&mixed.stderr).into_owned();
    assert!(!mixed.status.success() && message.contains("emulated Hopper"), "{message}");
}

#[test]
fn lora_trains_on_the_gpu() {
    let Some(place) = Place::new() else { return };
    let whole = place.train_recipe("lora.toml", "lora", &["--set", "train.steps=2"]);
    let metrics = place.json("lora/metrics.jsonl");
    assert!(metrics.len() == 2 && metrics.iter().all(|step| step["logprob_gap_max"] == 0.0), "{metrics:?}");
    assert!(metrics[1]["grad_norm"].as_f64().is_some_and(|norm| norm > 0.0), "{metrics:?}");
    let stopped = place.folder.path().join("lora/checkpoints/step-000002.ckpt");
    std::fs::remove_file(stopped).expect("a checkpoint");
    let again = place.train_recipe("lora.toml", "lora", &["--set", "train.steps=2", "--resume"]);
    assert!(again == whole, "a resumed run ends in another adapter");
}

#[test]
fn all_weights_train_on_the_gpu() {
    let Some(place) = Place::new() else { return };
    let train = |out: &str, gpus: &str, extra: &[&str]| {
        let steps = [
            "train",
            "full.toml",
            "--out",
            out,
            "--set",
            "train.steps=2",
            "--set",
            "grpo.kl_coefficient=0.01",
        ];
        let mut command = place.tinylora(&[&steps, extra].concat());
        command.env("TINYLORA_GPU", gpus).output().expect("the program starts")
    };
    let model = |out: &str| {
        let mut files = Vec::new();
        for file in std::fs::read_dir(place.folder.path().join(out).join("model")).expect("a model") {
            let file = file.expect("readable").path();
            files.push((file.file_name().map(ToOwned::to_owned), std::fs::read(file).expect("readable")));
        }
        files.sort();
        files
    };
    done(&train("full", "0", &[]));
    let (whole, metrics) = (model("full"), place.json("full/metrics.jsonl"));
    assert!(metrics.len() == 2 && metrics.iter().all(|step| step["logprob_gap_max"] == 0.0), "{metrics:?}");
    assert!(
        metrics.iter().all(|step| step["grad_norm"].as_f64().is_some_and(|norm| norm > 0.0)),
        "{metrics:?}"
    );
    assert!(metrics[1]["kl"].as_f64().is_some_and(|kl| kl > 0.0), "it left the base: {metrics:?}");
    let stopped = place.folder.path().join("full/checkpoints/step-000002.ckpt");
    std::fs::remove_file(stopped).expect("a checkpoint");
    done(&train("full", "0", &["--resume"]));
    assert!(model("full") == whole, "a resumed run ends in another model");
    done(&train("two", "0,1", &[]));
    assert!(model("two") == whole, "two GPUs train another model");
    // Where the GPU has no room for the optimizer's state, the host does the same to the same bits. (With still less memory
    // micro-batches would be cut otherwise.)
    for settings in [&["optimizer.kind=adamw"][..], &["optimizer.kind=sgd", "optimizer.nesterov=true"]] {
        let with = |out: &str, memory: &[&str]| {
            let set = settings.iter().chain(memory).flat_map(|setting| ["--set", setting]);
            let output = train(out, "0", &set.collect::<Vec<_>>());
            done(&output);
            String::from_utf8_lossy(&output.stderr).contains("with the optimizer's state")
        };
        let (one, other) = (format!("gpu-{}", settings.len()), format!("host-{}", settings.len()));
        assert!(with(&one, &[]), "there is room on the GPU");
        assert!(!with(&other, &["model.memory=\"9728KiB\""]), "there is none");
        assert!(model(&one) == model(&other), "{settings:?}: the optimizer's place changes the numbers");
        let checkpoint = |out: &str| {
            let file = place.folder.path().join(out).join("checkpoints/step-000002.ckpt");
            std::fs::read(file).expect("a checkpoint").len()
        };
        assert_eq!(
            checkpoint(&one).abs_diff(checkpoint(&other)) / 1024,
            0,
            "both keep the optimizer's state"
        );
    }
    // What is kept on the GPU, and what beside it.
    let refused = train("no", "0", &["--set", "model.memory=\"1MiB\""]);
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && message.contains("of a GPU's memory: base"), "{message}");
}

#[test]
fn without_a_gpu_the_messages_say_so() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let generate = |device: &str| {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/models/llama2");
        Command::new(env!("CARGO_BIN_EXE_tinylora"))
            .args(["generate", "--prompt", "a", "--device", device, "--model"])
            .arg(golden)
            .env("TINYLORA_CUDA_DRIVER", "no-such-folder/libcuda.so.1")
            .env("TINYLORA_CACHE", folder.path())
            .output()
            .expect("the program starts")
    };
    let cuda = generate("cuda");
    let message = String::from_utf8_lossy(&cuda.stderr).into_owned();
    assert!(cuda.status.code() == Some(1) && message.contains("no NVIDIA driver was found"), "{message}");
    // It goes on to the next error, of a model without a tokenizer.
    let message = String::from_utf8_lossy(&generate("auto").stderr).into_owned();
    assert!(message.contains("device: cpu"), "{message}");
}
