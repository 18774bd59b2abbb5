//! Runs of a sweep that sample together leave what each leaves alone: whatever their seeds, sizes, lengths and kinds are, if
//! the sweep is stopped in between, and if one of them fails. A tiny random model.

mod tiny;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use tiny::{finish, prepare, results, train};

/// Six runs that share batches, of which the last two end early; LoRA and supervised finetuning, which share none.
const SWEEP: &str = r#"
recipe = "recipe.toml"
[set]
"eval.problems" = 8
"train.eval_every" = 2
[[zip]]
seed = [1, 1, 2, 3, 4, 5, 6, 7]
"train.steps" = [4, 4, 4, 4, 2, 1, 2, 2]
"adapter.u" = [13, 13, 1, 4, 13, 13, 13, 13]
"adapter.n_tie" = ["all", 3, "all", 1, "all", "all", "all", "all"]
"adapter.kind" = ["tinylora", "tinylora", "tinylora", "lora-xs", "tinylora", "tinylora", "lora", "tinylora"]
"rollout.max_tokens" = [12, 12, 9, 12, 5, 12, 12, 12]
"rollout.samples_per_prompt" = [4, 4, 2, 4, 4, 8, 4, 4]
"rollout.staleness" = [0, 0, 0, 0, 1, 0, 0, 0]
learner = ["grpo", "grpo", "grpo", "grpo", "grpo", "grpo", "grpo", "sft"]
"#;

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new(sweep: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        prepare(folder.path());
        std::fs::write(folder.path().join("sweep.toml"), sweep).expect("writable");
        Self { folder }
    }

    fn out(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn sweep(&self, out: &str, extra: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tinylora"));
        command.current_dir(self.folder.path()).args(["sweep", "sweep.toml", "--out", out]).args(extra);
        // The model is too small for a second thread to help.
        command.env("TINYLORA_CACHE", self.out("cache")).env("TINYLORA_THREADS", "1");
        command
    }

    fn run(&self, out: &str, extra: &[&str]) -> Output {
        self.sweep(out, extra).output().expect("the program starts")
    }
}

fn runs(out: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(out.join("runs")).expect("runs");
    let mut runs: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    runs.sort();
    runs
}

/// Everything in a run's folder that must be the same to the byte, evaluations included.
fn kept(run: &Path) -> (Vec<u8>, Vec<u8>, Vec<serde_json::Value>, Vec<(String, Vec<u8>)>) {
    let (adapter, samples, metrics) = match run.join("samples.jsonl").exists() {
        true => results(run),
        // Supervised finetuning samples nothing.
        false => {
            std::fs::write(run.join("samples.jsonl"), "").expect("writable");
            results(run)
        }
    };
    let entries = std::fs::read_dir(run.join("evaluations")).expect("evaluations");
    let mut evaluations: Vec<(String, Vec<u8>)> = entries
        .map(|entry| entry.expect("an entry").path())
        .map(|path| (path.display().to_string(), std::fs::read(&path).expect("readable")))
        .map(|(path, bytes)| (path.rsplit('/').next().expect("a name").to_owned(), bytes))
        .collect();
    evaluations.sort();
    (adapter, samples, metrics, evaluations)
}

fn same(found: &Path, wanted: &Path) {
    let (found, wanted) = (runs(found), runs(wanted));
    assert_eq!(found.len(), wanted.len());
    for (found, wanted) in found.iter().zip(&wanted) {
        assert!(kept(found) == kept(wanted), "{} and {}", found.display(), wanted.display());
    }
}

/// Rows of the table but for the time.
fn rows(out: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(out.join("results.jsonl")).expect("results.jsonl");
    let row = |line| {
        let mut row: serde_json::Value = serde_json::from_str(line).expect("a row");
        row.as_object_mut().expect("an object").remove("wall_seconds").expect("a row has it");
        row
    };
    text.lines().map(row).collect()
}

#[test]
fn runs_that_sample_together_are_what_they_are_alone() {
    let place = Place::new(SWEEP);
    let told = place.run("none", &["--dry-run"]);
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.contains("sampling together: 6 of 6 at once, 2 one by one"), "{told}");
    let told = place.run("none", &["--dry-run", "--at-once", "2"]);
    assert!(
        String::from_utf8_lossy(&told.stdout).contains("sampling together: 2 of 6 at once, 2 one by one")
    );
    let output = place.run("alone", &["--at-once", "1"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let output = place.run("together", &[]);
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{log}");
    same(&place.out("together"), &place.out("alone"));
    assert_eq!(rows(&place.out("together")), rows(&place.out("alone")));
    assert!(log.contains("run 4: step 1/4") && log.contains("run 6: evaluation after"), "{log}");
    // Places are taken anew when a run ends.
    let output = place.run("two", &["--at-once", "2"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    same(&place.out("two"), &place.out("alone"));
    // And a run on its own, without a sweep.
    let settings = ["eval.problems=8", "train.eval_every=2", "seed=2", "train.steps=4", "adapter.u=1"];
    let settings = [&settings[..], &["rollout.max_tokens=9", "rollout.samples_per_prompt=2"]].concat();
    let settings: Vec<&str> = settings.into_iter().flat_map(|setting| ["--set", setting]).collect();
    let single = place.out("single");
    finish(train(&place.out("recipe.toml"), &single, &place.out("cache"), &settings));
    assert!(kept(&single) == kept(&runs(&place.out("together"))[2]));
}

#[cfg(unix)]
#[test]
fn ctrl_c_saves_all_runs() {
    let place = Place::new(SWEEP);
    let output = place.run("whole", &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let log = std::fs::File::create(place.out("log")).expect("writable");
    let mut child = place.sweep("stopped", &[]).stderr(log).spawn().expect("the program starts");
    // As soon as the first runs have made a step.
    let deadline = Instant::now() + Duration::from_secs(120);
    let stepped = || std::fs::read_to_string(place.out("log")).is_ok_and(|log| log.contains(": step 1/"));
    while !stepped() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(2));
    }
    let status = Command::new("kill").arg("-INT").arg(child.id().to_string()).status().expect("kill");
    assert!(status.success());
    let status = child.wait().expect("it ends");
    let log = std::fs::read_to_string(place.out("log")).expect("the log");
    assert_eq!(status.code(), Some(130), "{log}");
    assert!(log.contains("--resume"), "says how to go on: {log}");
    let saved = runs(&place.out("stopped"));
    assert!(saved.len() >= 2, "several were at it: {log}");
    for run in &saved {
        let checkpoints = std::fs::read_dir(run.join("checkpoints")).map_or(0, Iterator::count);
        assert!(checkpoints > 0 || run.join("summary.json").exists(), "{} was saved: {log}", run.display());
    }
    let output = place.run("stopped", &["--resume"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    same(&place.out("stopped"), &place.out("whole"));
    assert_eq!(rows(&place.out("stopped")), rows(&place.out("whole")));
}

#[test]
fn a_run_that_fails_does_not_stop_the_others() {
    let sweep = "recipe = \"recipe.toml\"\n[set]\n\"train.steps\" = 3\n\"eval.problems\" = 4\n[grid]\n\
                 \"optimizer.learning_rate\" = [0.01, 1e38, 0.02]\n";
    let place = Place::new(sweep);
    let output = place.run("out", &[]);
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{log}");
    assert!(log.contains("run 2 failed: log-prob of token"), "{log}");
    assert!(log.contains("1 of 3 runs failed, first run 2"), "{log}");
    let rates: Vec<f64> = rows(&place.out("out"))
        .iter()
        .filter_map(|row| row["settings"]["optimizer.learning_rate"].as_f64())
        .collect();
    assert_eq!(rates, [0.01, 0.02]);
    let single = place.out("single");
    let settings = ["train.steps=3", "eval.problems=4", "optimizer.learning_rate=0.02"];
    let settings: Vec<&str> = settings.into_iter().flat_map(|setting| ["--set", setting]).collect();
    finish(train(&place.out("recipe.toml"), &single, &place.out("cache"), &settings));
    assert!(kept(&single) == kept(&runs(&place.out("out"))[2]));
}
