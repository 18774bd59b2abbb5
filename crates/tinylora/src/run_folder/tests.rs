//! Whole folders: creation, refusal, locks, and resuming after a kill.

use super::*;

fn recipe() -> Recipe {
    let text = "name = \"a\"\n[model]\nref = \"smollm2-135m\"\n[task]\nkind = \"arithmetic\"\nproblems = \"sum\"\n[train]\nsteps = 9\n";
    Recipe::from_toml(text, &[]).unwrap()
}

fn metrics(step: u64) -> StepMetrics {
    StepMetrics {
        step,
        epoch: 0.1 * step as f64,
        reward_mean: 1.0 / (step + 3) as f64,
        accuracy: 0.25,
        reward_std: 0.5,
        prompts: 12,
        active_group_fraction: 0.75,
        completion_tokens_mean: 12.0,
        truncated_fraction: 0.0,
        entropy: 1.5,
        kl: 0.0,
        clipped_fraction: 0.0,
        ratio_min: 1.0,
        ratio_max: 1.0,
        logprob_gap_max: 0.0,
        loss: 0.25,
        grad_norm: 0.1,
        v_norm: 0.01,
        learning_rate: 1e-4,
        rollout_tokens: 1000,
        rollout_seconds: seconds_now().fract(),
        empty_slot_fraction: 0.25,
        train_tokens: 1100,
        train_seconds: 0.5,
        adapter_version: step + 1,
        rss_bytes: rss_bytes(),
    }
}

fn sample(step: u64) -> SampleRecord {
    SampleRecord {
        step,
        problem: format!("sum-{step}"),
        prompt: "1 + 2 =\n".into(),
        gold: "3".into(),
        completion: "#### 3 \u{2028}\u{0} \"π\"".into(),
        reward: 1.0,
        advantage: 0.5,
        tokens: 4,
        truncated: false,
    }
}

fn write_steps(folder: &mut RunFolder, steps: std::ops::Range<u64>) {
    for step in steps {
        folder.append_sample(&sample(step)).unwrap();
        folder.append_metrics(&metrics(step)).unwrap();
    }
}

/// Length of what a run of these steps has written in all event files, but for what every file starts with.
fn event_bytes(path: &Path) -> u64 {
    let start = tensorboard::first_record(0.0).len() as u64;
    let size = |name: &String| fs::metadata(path.join(name)).unwrap().len() - start;
    event_files(path).unwrap().iter().map(|(_, name)| size(name)).sum()
}

fn comparable_metrics(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path.join(METRICS_FILE)).unwrap();
    let line = |line| serde_json::to_string(&metrics_without_timing(line).unwrap()).unwrap();
    text.lines().map(line).collect()
}

#[test]
fn a_new_folder_has_recipe_and_logs() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("runs/a");
    let mut folder = RunFolder::create(&path, &recipe()).unwrap();
    write_steps(&mut folder, 0..3);
    assert_eq!(Recipe::load(&path.join(RECIPE_FILE), &[]).unwrap(), recipe());
    assert_eq!(read_samples(&path).unwrap(), (0..3).map(sample).collect::<Vec<_>>());
    let read = read_metrics(&path).unwrap();
    assert_eq!(
        read.iter().map(|m| (m.step, m.reward_mean)).collect::<Vec<_>>(),
        [(0, 1.0 / 3.0), (1, 1.0 / 4.0), (2, 1.0 / 5.0)]
    );
    let summary = summary::tests::example();
    folder.write_summary(&summary).unwrap();
    assert_eq!(read_summary(&path).unwrap(), summary);
}

#[test]
fn a_folder_with_a_run_is_refused_and_untouched() {
    let parent = tempfile::tempdir().unwrap();
    for part in PARTS {
        let path = parent.path().join(part.replace('.', "-"));
        fs::create_dir(&path).unwrap();
        fs::write(path.join(part), "mine").unwrap();
        let error = RunFolder::create(&path, &recipe()).unwrap_err();
        let message = error.to_string();
        assert!(matches!(error, RunFolderError::Taken { .. }), "{message}");
        for word in [part, path.to_str().unwrap(), "--resume", "--out"] {
            assert!(message.contains(word), "{word} in {message}");
        }
        assert_eq!(fs::read(path.join(part)).unwrap(), b"mine");
        assert_eq!(fs::read_dir(&path).unwrap().count(), 1);
    }
    let other = parent.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("notes.md"), "notes").unwrap();
    RunFolder::create(&other, &recipe()).unwrap();
}

#[test]
fn nothing_to_resume_is_said() {
    let parent = tempfile::tempdir().unwrap();
    let error = RunFolder::open(&parent.path().join("absent")).unwrap_err();
    assert!(matches!(error, RunFolderError::NoRun { .. }), "{error}");
    assert!(!parent.path().join("absent").exists());
}

#[test]
fn one_process_writes() {
    let parent = tempfile::tempdir().unwrap();
    let folder = RunFolder::create(parent.path(), &recipe()).unwrap();
    let error = RunFolder::open(parent.path()).unwrap_err();
    let message = error.to_string();
    assert!(matches!(error, RunFolderError::InUse { .. }), "{message}");
    #[cfg(unix)]
    assert!(message.contains(&format!("process {}", std::process::id())), "{message}");
    drop(folder);
    let stopped = RunFolder::open(parent.path()).unwrap();
    assert!(RunFolder::open(parent.path()).is_err(), "a stopped run that is being looked at is locked");
    let folder = stopped.truncate_to(&BTreeMap::new()).unwrap();
    assert!(RunFolder::open(parent.path()).is_err(), "the lock goes on to the run");
    drop(folder);
}

#[test]
fn a_killed_run_goes_on_like_one_never_stopped() {
    let parent = tempfile::tempdir().unwrap();
    let (whole, killed) = (parent.path().join("whole"), parent.path().join("killed"));
    write_steps(&mut RunFolder::create(&whole, &recipe()).unwrap(), 0..9);

    let mut folder = RunFolder::create(&killed, &recipe()).unwrap();
    write_steps(&mut folder, 0..4);
    let at_four = folder.lengths().unwrap();
    write_steps(&mut folder, 4..6);
    drop(folder);
    // Torn ends, as a kill in the middle of a write leaves them.
    for name in [METRICS_FILE.to_owned(), SAMPLES_FILE.into(), event_files(&killed).unwrap()[0].1.clone()] {
        let mut file = OpenOptions::new().append(true).open(killed.join(name)).unwrap();
        file.write_all(b"{\"step\":6,\"ep").unwrap();
    }
    assert_eq!(read_metrics(&killed).unwrap().len(), 6, "the torn line is passed over");

    // Killed again before the next checkpoint: the event file of that attempt is known to none.
    let mut folder = RunFolder::open(&killed).unwrap().truncate_to(&at_four).unwrap();
    assert_eq!(event_files(&killed).unwrap().len(), 2);
    write_steps(&mut folder, 4..5);
    drop(folder);

    let stopped = RunFolder::open(&killed).unwrap();
    assert_eq!(stopped.recipe_toml().unwrap(), recipe().to_toml());
    let mut folder = stopped.truncate_to(&at_four).unwrap();
    assert_eq!(folder.lengths().unwrap()[METRICS_FILE], at_four[METRICS_FILE]);
    write_steps(&mut folder, 4..7);
    let at_seven = folder.lengths().unwrap();
    drop(folder);
    let mut folder = RunFolder::open(&killed).unwrap().truncate_to(&at_seven).unwrap();
    write_steps(&mut folder, 7..9);

    assert_eq!(comparable_metrics(&killed), comparable_metrics(&whole));
    assert_eq!(fs::read(killed.join(SAMPLES_FILE)).unwrap(), fs::read(whole.join(SAMPLES_FILE)).unwrap());
    assert_eq!(event_files(&killed).unwrap().len(), 3);
    assert_eq!(event_bytes(&killed), event_bytes(&whole));
}

#[test]
fn without_a_checkpoint_a_run_begins_again() {
    let parent = tempfile::tempdir().unwrap();
    let mut folder = RunFolder::create(parent.path(), &recipe()).unwrap();
    write_steps(&mut folder, 0..2);
    drop(folder);
    let folder = RunFolder::open(parent.path()).unwrap().truncate_to(&BTreeMap::new()).unwrap();
    assert_eq!(read_metrics(parent.path()).unwrap(), []);
    assert_eq!(event_bytes(folder.path()), 0);
}

#[test]
fn a_lost_log_is_an_error_and_nothing_is_cut() {
    let parent = tempfile::tempdir().unwrap();
    let mut folder = RunFolder::create(parent.path(), &recipe()).unwrap();
    write_steps(&mut folder, 0..2);
    let lengths = folder.lengths().unwrap();
    write_steps(&mut folder, 2..3);
    drop(folder);
    fs::write(parent.path().join(SAMPLES_FILE), "short").unwrap();
    let error = RunFolder::open(parent.path()).unwrap().truncate_to(&lengths).unwrap_err();
    assert!(error.to_string().contains(SAMPLES_FILE), "{error}");
    assert_eq!(read_metrics(parent.path()).unwrap().len(), 3);
}

#[test]
fn numbers_that_json_lacks_come_back_as_nan() {
    let parent = tempfile::tempdir().unwrap();
    let mut folder = RunFolder::create(parent.path(), &recipe()).unwrap();
    folder.append_metrics(&StepMetrics { ratio_min: f64::INFINITY, kl: f64::NAN, ..metrics(0) }).unwrap();
    let read = read_metrics(parent.path()).unwrap();
    assert!(read[0].ratio_min.is_nan() && read[0].kl.is_nan() && read[0].ratio_max == 1.0);
}

#[test]
fn a_bad_line_is_named() {
    let parent = tempfile::tempdir().unwrap();
    let mut folder = RunFolder::create(parent.path(), &recipe()).unwrap();
    write_steps(&mut folder, 0..1);
    fs::write(parent.path().join(METRICS_FILE), "{\"step\":0}\n").unwrap();
    let message = read_metrics(parent.path()).unwrap_err().to_string();
    assert!(message.contains("metrics.jsonl, line 1") && message.contains("epoch"), "{message}");
}

#[test]
fn only_clock_and_memory_are_left_out_of_comparisons() {
    let text = serde_json::to_string(&metrics(3)).unwrap();
    let left = metrics_without_timing(&text).unwrap();
    let all: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
    let gone: Vec<_> = all.keys().filter(|key| !left.contains_key(*key)).collect();
    assert_eq!(gone, ["rollout_seconds", "empty_slot_fraction", "train_seconds", "rss_bytes"]);
    assert!(metrics_without_timing("{\"step\":").is_err());
}
