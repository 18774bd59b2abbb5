//! Kill -9 at random moments, resume, and end byte for byte where an undisturbed run ends. A tiny random model
//! and a reward from an external command, so that v moves in every step.

mod tiny;

use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tiny::{finish, prepare, results, train};

/// Runs the recipe whole, then kills it `kills` times at random moments, each time in a folder of its own, and resumes; gives the
/// metrics.
fn kill_and_compare(settings: &[&str], kills: u32) -> Vec<serde_json::Value> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let recipe = prepare(folder.path());
    let cache = folder.path().join("cache");
    let settings: Vec<&str> = settings.iter().flat_map(|setting| ["--set", setting]).collect();
    let whole = folder.path().join("whole");
    let start = Instant::now();
    finish(train(&recipe, &whole, &cache, &settings));
    let duration = start.elapsed();
    let wanted = results(&whole);
    for kill in 0..kills {
        let out = folder.path().join(format!("killed-{kill}"));
        // Each process hashes with its own random keys.
        let random = RandomState::new().hash_one(kill) as f64 / u64::MAX as f64;
        let moment = duration.mul_f64(random);
        let mut child = train(&recipe, &out, &cache, &settings).spawn().expect("the program starts");
        std::thread::sleep(moment);
        child.kill().expect("it can be killed");
        child.wait().expect("it ends");
        let resume: &[&str] = if out.join("recipe.toml").exists() { &["--resume"] } else { &[] };
        finish(train(&recipe, &out, &cache, &[&settings[..], resume].concat()));
        assert!(results(&out) == wanted, "{settings:?} killed after {moment:?} of {duration:?}");
    }
    wanted.2
}

fn kills() -> u32 {
    std::env::var("TINYLORA_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(3)
}

#[test]
fn killed_runs_end_like_whole_ones() {
    let metrics = kill_and_compare(&[], kills());
    assert!(metrics.len() == 12 && metrics.iter().all(|m| m["logprob_gap_max"] == 0.0));
    assert!(metrics[11]["v_norm"].as_f64().expect("a number") > 0.01, "v moved");
}

/// Whatever a step carries to the next is in the checkpoint: each optimizer's state, positions after refills, older versions of v.
#[test]
fn killed_runs_of_every_kind_end_like_whole_ones() {
    let of = |metrics: &[serde_json::Value], key: &str| -> Vec<f64> {
        metrics.iter().map(|m| m[key].as_f64().expect("a number")).collect()
    };
    let kills = kills().div_ceil(3);
    for settings in [
        &["optimizer.kind=sgd", "optimizer.nesterov=true"][..],
        &["optimizer.kind=natural", "optimizer.learning_rate=1", "optimizer.damping=0.1"],
        &["optimizer.kind=natural", "optimizer.fisher=token", "optimizer.fisher_samples=1", "train.steps=4"],
        &["adapter.kind=lora", "adapter.rank=3", "optimizer.learning_rate=0.003", "rollout.staleness=1"],
    ] {
        let metrics = kill_and_compare(settings, kills);
        assert!(of(&metrics, "v_norm").last().is_some_and(|norm| *norm > 1e-4), "{settings:?}");
    }
    // With one reward for all but the rarest texts, groups without an advantage are refilled.
    let refill = kill_and_compare(
        &["rollout.samples_per_prompt=2", "rollout.refill_rounds=3", "grpo.loss=dr_grpo", "task.min=2"],
        kills,
    );
    assert!(of(&refill, "prompts").iter().any(|prompts| *prompts > 4.0), "something was refilled");
    let off_policy = kill_and_compare(
        &[
            "grpo.loss=gspo",
            "grpo.clip_low=0.002",
            "grpo.clip_high=0.002",
            "grpo.updates_per_batch=3",
            "grpo.kl_coefficient=0.01",
            "grpo.kl_estimator=k2",
            "grpo.entropy_coefficient=0.01",
            "rollout.staleness=2",
        ],
        kills,
    );
    assert!(of(&off_policy, "clipped_fraction").iter().any(|fraction| *fraction > 0.0));
    let versions = of(&off_policy, "adapter_version");
    assert_eq!(versions[..5], [0.0, 0.0, 0.0, 3.0, 6.0], "samples are two steps old");
    kill_and_compare(
        &[
            "grpo.loss=cispo",
            "grpo.importance=mask",
            "rollout.staleness=1",
            "rollout.top_k=50",
            "grpo.entropy_coefficient=0.01",
            "grpo.mask_truncated=true",
            "reward.overlong_tokens=6",
        ],
        kills,
    );
}

/// Supervised: the loss is a number that falls, and what only sampling measures is none.
#[test]
fn killed_supervised_runs_end_like_whole_ones() {
    for (tokens, kind) in [("completion", "lora-xs"), ("all", "tinylora"), ("completion", "lora")] {
        let (tokens, kind) = (format!("sft.loss_on={tokens}"), format!("adapter.kind={kind}"));
        let u = if kind.ends_with("xs") { "adapter.u=4" } else { "adapter.u=13" };
        // Each of LoRA's many numbers moves by the rate.
        let rate = if kind.ends_with("=lora") { "0.01" } else { "0.2" };
        let rate = format!("optimizer.learning_rate={rate}");
        let settings = ["learner=sft", "sft.examples_per_step=8", &tokens, &kind, u, &rate];
        let metrics = kill_and_compare(&settings, 1);
        let loss = |step: usize| metrics[step]["loss"].as_f64().expect("a number");
        assert!(loss(11) < loss(0), "{tokens}: {} to {}", loss(0), loss(11));
        assert!(metrics.iter().all(|m| m["reward_mean"].is_null() && m["rollout_tokens"] == 0));
    }
}

/// R of each module is trained by itself: as many numbers as the file says, and sampler = trainer as ever.
#[test]
fn lora_xs_trains() {
    let metrics = kill_and_compare(&["adapter.kind=lora-xs", "adapter.rank=3", "adapter.u=9"], 1);
    assert!(metrics.iter().all(|m| m["logprob_gap_max"] == 0.0));
    assert!(metrics[11]["v_norm"].as_f64().expect("a number") > 0.01, "v moved");
}

/// All weights: the same programme of kills, by reinforcement and by examples; and sampler = trainer as ever.
#[test]
fn all_weights_train() {
    let full = ["adapter.kind=full", "optimizer.learning_rate=1e-3", "grpo.kl_coefficient=0.01"];
    let metrics = kill_and_compare(&full, kills());
    assert!(metrics.iter().all(|m| m["logprob_gap_max"] == 0.0));
    let of = |step: usize, key: &str| metrics[step][key].as_f64().expect("a number");
    assert!(of(11, "v_norm") != of(0, "v_norm"), "the weights moved");
    assert!(of(11, "kl") > 0.0, "away from the base's own");
    let settings =
        ["adapter.kind=full", "learner=sft", "sft.examples_per_step=8", "optimizer.learning_rate=1e-3"];
    let metrics = kill_and_compare(&settings, 1);
    let loss = |step: usize| metrics[step]["loss"].as_f64().expect("a number");
    assert!(loss(11) < loss(0), "{} to {}", loss(0), loss(11));
}

/// The folder that such a run writes is the model that it ended with: it answers the same questions in the same words.
#[test]
fn the_model_that_was_trained_is_what_was_evaluated() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let recipe = prepare(folder.path());
    let cache = folder.path().join("cache");
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    let full =
        ["--set", "adapter.kind=full", "--set", "optimizer.learning_rate=1e-2", "--set", "train.steps=2"];
    finish(train(&recipe, &first, &cache, &full));
    let model = format!("model.ref={}", first.join("model").display());
    finish(train(&recipe, &second, &cache, &["--set", &model, "--set", "train.steps=1"]));
    let read = |path: PathBuf| std::fs::read_to_string(path).expect("an evaluation");
    let after = read(first.join("evaluations/after.jsonl"));
    assert!(after == read(second.join("evaluations/before.jsonl")));
    assert!(after != read(first.join("evaluations/before.jsonl")), "training changed it");
    assert!(!first.join("adapter.tinylora").exists());
    let summary: serde_json::Value =
        serde_json::from_str(&read(first.join("summary.json"))).expect("a summary");
    assert_eq!(summary["adapter"]["kind"], "full");
    assert_eq!(summary["adapter"]["trainable_parameters"], summary["model"]["parameters"]);
}

#[test]
fn what_does_not_go_with_all_weights_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let recipe = prepare(folder.path());
    let cache = folder.path().join("cache");
    let refused = |setting: &str| {
        let out = folder.path().join("refused");
        let settings = ["--set", "adapter.kind=full", "--set", setting];
        let output = train(&recipe, &out, &cache, &settings).output().expect("the program starts");
        assert!(!output.status.success(), "{setting}");
        let _ = std::fs::remove_dir_all(&out);
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let message = refused("model.memory=\"1MiB\"");
    for part in ["training all weights needs at least", "f32 master weights", "gradient", "optimizer", "GiB"]
    {
        assert!(message.contains(part), "{message}");
    }
    for (setting, part) in [
        ("adapter.storage_precision=bf16", "fp32"),
        ("adapter.targets=[\"q_proj\"]", "leave targets out"),
        ("adapter.scale=2.0", "leave scale out"),
        ("adapter.init_bound=0.1", "leave init_bound out"),
        ("optimizer.kind=natural", "adamw"),
    ] {
        let message = refused(setting);
        assert!(message.contains(part), "{setting}: {message}");
    }
}

#[test]
fn threads_do_not_matter() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let recipe = prepare(folder.path());
    let cache = folder.path().join("cache");
    let run = |threads: &str, kind: &str| {
        let out = folder.path().join(format!("{kind}-{threads}"));
        let kind =
            if kind == "full" { "adapter.kind=full".to_owned() } else { format!("optimizer.kind={kind}") };
        let settings = ["--set", "train.steps=4", "--set", &kind, "--set", "grpo.entropy_coefficient=0.01"];
        let mut command = train(&recipe, &out, &cache, &settings);
        command.env("TINYLORA_THREADS", threads);
        finish(command);
        results(&out)
    };
    for kind in ["adamw", "natural", "full"] {
        assert!(run("1", kind) == run("2", kind), "{kind}");
    }
}

/// With two updates a batch the first is on-policy to the bit and the second isn't, whatever the loss; and the losses part ways.
#[test]
fn every_loss_trains_with_several_updates_a_batch() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let recipe = prepare(folder.path());
    let cache = folder.path().join("cache");
    // The random model ends no completion by itself, and with lengths all alike most weights are the same.
    let letters: Vec<String> = ('a'..='z').map(|letter| format!("{letter:?}").replace('\'', "\"")).collect();
    let stop = format!("rollout.stop=[{}]", letters.join(","));
    let mut adapters = Vec::new();
    for loss in ["grpo", "dr_grpo", "dapo", "bnpo", "gspo", "cispo"] {
        let out = folder.path().join(loss);
        let name = format!("grpo.loss={loss}");
        let settings = ["train.steps=3", "grpo.updates_per_batch=2", "eval.problems=0", &name, &stop];
        let settings: Vec<&str> = settings.into_iter().flat_map(|setting| ["--set", setting]).collect();
        finish(train(&recipe, &out, &cache, &settings));
        let (adapter, _, metrics) = results(&out);
        for step in &metrics {
            assert_eq!(step["logprob_gap_max"], 0.0, "{loss}");
            let ratio = |key: &str| step[key].as_f64().expect("a number");
            assert!(ratio("ratio_min") < 1.0 || ratio("ratio_max") > 1.0, "{loss}: {step}");
        }
        assert_eq!(metrics[2]["adapter_version"], 4, "two updates a step");
        assert!(!adapters.contains(&adapter), "{loss} is another loss");
        adapters.push(adapter);
    }
}

#[cfg(unix)]
#[test]
fn ctrl_c_saves_and_exits_130() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let recipe = prepare(folder.path());
    let cache = folder.path().join("cache");
    let whole = folder.path().join("whole");
    finish(train(&recipe, &whole, &cache, &[]));
    let out = folder.path().join("stopped");
    let child = train(&recipe, &out, &cache, &[]).spawn().expect("the program starts");
    // As soon as the first step is in the log.
    let metrics = out.join("metrics.jsonl");
    let deadline = Instant::now() + Duration::from_secs(120);
    while std::fs::metadata(&metrics).map_or(0, |m| m.len()) == 0 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(2));
    }
    let status = Command::new("kill").arg("-INT").arg(child.id().to_string()).status().expect("kill");
    assert!(status.success());
    let output = child.wait_with_output().expect("it ends");
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() {
        eprintln!("the run was done before the signal came");
    } else {
        assert_eq!(output.status.code(), Some(130), "{message}");
        assert!(message.contains("--resume"), "says how to go on: {message}");
        finish(train(&recipe, &out, &cache, &["--resume"]));
    }
    assert!(results(&out) == results(&whole));
}

/// A sweep's runs end as each would alone, whether the sweep is killed in between or not; a baseline is measured once a seed.
#[test]
fn sweeps_are_their_runs() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let recipe = prepare(folder.path());
    let cache = folder.path().join("cache");
    let file = folder.path().join("sweep.toml");
    let text = format!(
        "recipe = {:?}\n[set]\n\"train.steps\" = 4\n[grid]\nseed = [1, 2]\n\"optimizer.learning_rate\" = [0.01, 0.1]\n",
        recipe.to_str().expect("UTF-8")
    );
    std::fs::write(&file, text).expect("writable");
    let sweep = |out: &Path, extra: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tinylora"));
        command.arg("sweep").arg(&file).arg("--out").arg(out).args(extra).env("TINYLORA_CACHE", &cache);
        command
    };
    let whole = folder.path().join("whole");
    let start = Instant::now();
    let output = sweep(&whole, &[]).output().expect("the program starts");
    let duration = start.elapsed();
    let (table, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{log}");
    assert!(table.contains("grpo   tinylora          13"), "{table}");
    let rows = |out: &Path| -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(out.join("results.jsonl")).expect("results.jsonl");
        let mut rows: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("a row")).collect();
        for row in &mut rows {
            row.as_object_mut().expect("an object").remove("wall_seconds").expect("a row has it");
        }
        rows
    };
    let wanted = rows(&whole);
    assert_eq!(wanted.len(), 4);
    let rates: Vec<f64> =
        wanted.iter().filter_map(|row| row["settings"]["optimizer.learning_rate"].as_f64()).collect();
    assert_eq!(rates, [0.01, 0.01, 0.1, 0.1]);
    assert_eq!(wanted[0]["baseline"], wanted[2]["baseline"], "the same seed");
    assert_eq!(log.matches("evaluation before: 32 completions").count(), 2, "once a seed: {log}");
    // The last run alone.
    let alone = folder.path().join("alone");
    let settings = ["train.steps=4", "seed=2", "optimizer.learning_rate=0.1"];
    let settings: Vec<&str> = settings.into_iter().flat_map(|setting| ["--set", setting]).collect();
    finish(train(&recipe, &alone, &cache, &settings));
    let last = whole.join("runs").join(wanted[3]["name"].as_str().expect("a name"));
    assert!(results(&alone) == results(&last));
    let evaluations = |run: &Path| std::fs::read(run.join("evaluations/before.jsonl")).expect("evaluations");
    assert_eq!(evaluations(&alone), evaluations(&last));
    // Killed somewhere in the middle, and gone on with.
    let out = folder.path().join("killed");
    let mut child =
        sweep(&out, &[]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts");
    std::thread::sleep(duration.mul_f64(0.6));
    child.kill().expect("it can be killed");
    child.wait().expect("it ends");
    let refused = sweep(&out, &[]).output().expect("the program starts");
    assert_eq!(refused.status.code(), Some(2), "a sweep is not overwritten");
    let output = sweep(&out, &["--resume"]).output().expect("the program starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(rows(&out), wanted);
}
