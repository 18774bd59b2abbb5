//! Data sets of the Hub through the program, with a stand-in for the Hub on this machine: `--data` and `task.train`, JSON lines
//! and parquet, revisions and splits, a transfer that is cut, and what is said of a data set that one can't have.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use sha2::{Digest, Sha256};

/// Revision → (commit, files).
type Revisions = BTreeMap<&'static str, (&'static str, BTreeMap<&'static str, Vec<u8>>)>;

const OLD: &str = "1111111111111111111111111111111111111111";
const NEW: &str = "2222222222222222222222222222222222222222";
const TOKEN: &str = "hf_very_secret";

/// A Hub with the data set `ada/sums`, and one that is gated, `ada/gated`.
#[derive(Default)]
struct State {
    revisions: Revisions,
    /// Each GET of a large file takes one and ends after so many bytes.
    cuts: Vec<usize>,
    /// `METHOD path [from N] [token]`
    log: Vec<String>,
}

struct Hub {
    state: Arc<Mutex<State>>,
    endpoint: String,
}

impl Hub {
    fn new(revisions: Revisions) -> Hub {
        let state = Arc::new(Mutex::new(State { revisions, ..State::default() }));
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                answer(stream, &shared);
            }
        });
        Hub { state, endpoint }
    }

    fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().expect("state").log)
    }
}

/// One request a connection.
fn answer(mut stream: TcpStream, state: &Mutex<State>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let (method, path) = (line.split(' ').next()?.to_owned(), line.split(' ').nth(1)?.to_owned());
    let (mut from, mut note) = (0, String::new());
    loop {
        line.clear();
        reader.read_line(&mut line).ok()?;
        let lower = line.trim().to_ascii_lowercase();
        if lower.is_empty() {
            break;
        }
        if let Some(range) = lower.strip_prefix("range: bytes=") {
            from = range.trim_end_matches('-').parse::<usize>().ok()?;
            note.push_str(&format!(" from {from}"));
        }
        if lower.starts_with("authorization: ") {
            note.push_str(" token");
        }
    }
    let mut state = state.lock().ok()?;
    state.log.push(format!("{method} {path}{note}"));
    let (status, headers, mut body) = reply(&mut state, &method, &path, from);
    drop(state);
    if method == "HEAD" {
        body.clear();
    }
    let head = format!("HTTP/1.1 {status} X\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(&body).ok()
}

/// By the name of a branch or tag, or by the commit.
fn find<'a>(
    revisions: &'a Revisions,
    name: &str,
) -> Option<&'a (&'static str, BTreeMap<&'static str, Vec<u8>>)> {
    revisions.iter().find(|(key, (commit, _))| **key == name || *commit == name).map(|(_, found)| found)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn reply(state: &mut State, method: &str, path: &str, from: usize) -> (u16, String, Vec<u8>) {
    let error = |status: u16, code: &str| {
        (status, format!("X-Error-Code: {code}\r\nContent-Length: 0\r\n"), Vec::new())
    };
    let path = path.replace("%2F", "/");
    let Some(rest) = path.strip_prefix("/api/datasets/ada/").or_else(|| path.strip_prefix("/datasets/ada/"))
    else {
        return error(404, "RepoNotFound");
    };
    if rest.starts_with("gated/") {
        return error(403, "GatedRepo");
    }
    let Some(rest) = rest.strip_prefix("sums/") else { return error(404, "RepoNotFound") };
    if let Some(revision) = rest.strip_prefix("revision/") {
        let Some((commit, files)) = find(&state.revisions, revision) else {
            return error(404, "RevisionNotFound");
        };
        let siblings: Vec<_> = files.keys().map(|name| serde_json::json!({"rfilename": name})).collect();
        let body = serde_json::json!({"sha": commit, "cardData": null, "siblings": siblings}).to_string();
        return (200, format!("Content-Length: {}\r\n", body.len()), body.into_bytes());
    }
    let found = rest.strip_prefix("resolve/").and_then(|rest| rest.split_once('/'));
    let content = found.and_then(|(revision, name)| {
        let (commit, files) = find(&state.revisions, revision)?;
        Some((*commit, files.get(name)?.clone()))
    });
    let Some((commit, mut content)) = content else { return error(404, "EntryNotFound") };
    let etag = hex(&Sha256::digest(&content));
    let total = content.len();
    let mut body = content.split_off(from);
    let mut headers = format!(
        "X-Repo-Commit: {commit}\r\nX-Linked-Etag: \"{etag}\"\r\nX-Linked-Size: {total}\r\nETag: \"{etag}\"\r\n\
         Content-Length: {}\r\n",
        body.len()
    );
    if from > 0 {
        headers.push_str(&format!("Content-Range: bytes {from}-{}/{total}\r\n", total - 1));
    }
    if method == "GET" && !state.cuts.is_empty() {
        body.truncate(state.cuts.remove(0));
    }
    (if from > 0 { 206 } else { 200 }, headers, body)
}

/// So many sums, the first of them with this number.
fn rows(first: usize, count: usize) -> Vec<u8> {
    let row = |i: usize| {
        let answer = format!("#### {}", 2 * i);
        format!("{}\n", serde_json::json!({"question": format!("{i} + {i}?"), "answer": answer}))
    };
    (first..first + count).map(row).collect::<String>().into_bytes()
}

fn golden() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden")
}

/// The data set: JSON lines at `main`, with a second configuration; fewer rows at `v1`; parquet at `parquet`.
fn hub() -> Hub {
    let parquet = std::fs::read(golden().join("data/types.parquet")).expect("a golden file");
    Hub::new(BTreeMap::from([
        (
            "main",
            (
                NEW,
                BTreeMap::from([
                    ("README.md", b"# Sums\n".to_vec()),
                    ("train.jsonl", rows(100, 8)),
                    ("test.jsonl", rows(0, 5)),
                ]),
            ),
        ),
        ("v1", (OLD, BTreeMap::from([("train.jsonl", rows(50, 4)), ("test.jsonl", rows(0, 2))]))),
        (
            "parquet",
            (
                "3333333333333333333333333333333333333333",
                BTreeMap::from([
                    ("data/train-00000-of-00001.parquet", parquet.clone()),
                    ("data/test-00000-of-00001.parquet", parquet),
                ]),
            ),
        ),
    ]))
}

/// A folder with the tiny model as `model/`.
fn prepare() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let model = folder.path().join("model");
    std::fs::create_dir(&model).expect("a new folder");
    let from = golden().join("models/llama2");
    std::fs::copy(from.join("model.safetensors"), model.join("model.safetensors")).expect("the golden model");
    let config = std::fs::read_to_string(from.join("config.json")).expect("its configuration");
    let longer = config.replace("\"max_position_embeddings\": 128", "\"max_position_embeddings\": 4096");
    assert_ne!(config, longer);
    std::fs::write(model.join("config.json"), longer).expect("writable");
    std::fs::copy(golden().join("tokenizer/bytes.json"), model.join("tokenizer.json"))
        .expect("the tokenizer");
    std::fs::write(model.join("tokenizer_config.json"), r#"{"eos_token": "</s>"}"#).expect("writable");
    folder
}

fn command(hub: &Hub, folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tinylora"));
    command.current_dir(folder).args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    for name in ["HF_HUB_OFFLINE", "HF_HOME", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"] {
        command.env_remove(name);
    }
    command.env("HF_ENDPOINT", &hub.endpoint).env("HF_TOKEN", TOKEN);
    command.env("HF_HUB_CACHE", folder.join("hub")).env("TINYLORA_CACHE", folder.join("cache"));
    command
}

fn eval(hub: &Hub, folder: &Path, data: &str) -> Command {
    command(hub, folder, &["eval", "--model", "model", "--data", data, "--max-tokens", "2", "--samples", "0"])
}

/// What it printed, standard output and standard error.
fn output(mut command: Command) -> (Output, String) {
    let output = command.output().expect("the program starts");
    let text = [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat();
    assert!(!text.contains(TOKEN), "{text}");
    (output, text)
}

fn ok(command: Command) -> String {
    let (output, text) = output(command);
    assert!(output.status.success(), "{text}");
    text
}

fn refused(command: Command) -> String {
    let (output, text) = output(command);
    assert!(!output.status.success(), "{text}");
    text
}

#[test]
fn rows_of_a_split_are_evaluated_and_found_again_without_a_network() {
    let (hub, folder) = (hub(), prepare());
    let text = ok(eval(&hub, folder.path(), "ada/sums:test"));
    assert!(text.contains("of 5") || text.contains("/5") || text.contains("5 problems"), "{text}");
    let log = hub.take_log();
    assert!(log.iter().any(|line| line.contains("/test.jsonl")), "{log:?}");
    assert!(!log.iter().any(|line| line.contains("/train.jsonl")), "the other split isn't fetched: {log:?}");
    assert!(log.iter().all(|line| line.ends_with(" token")), "the Hub gets the token: {log:?}");
    // Another revision is another set of rows.
    let old = ok(eval(&hub, folder.path(), "ada/sums@v1:test"));
    assert!(old.contains("of 2") || old.contains("/2") || old.contains("2 problems"), "{old}");
    hub.take_log();
    // A commit that is cached is settled.
    ok(eval(&hub, folder.path(), &format!("ada/sums@{OLD}:test")));
    hub.take_log();
    ok(eval(&hub, folder.path(), &format!("ada/sums@{OLD}:test")));
    assert_eq!(hub.take_log(), [""; 0]);
    let mut offline = eval(&hub, folder.path(), "ada/sums:test");
    offline.env("HF_HUB_OFFLINE", "1");
    let again = ok(offline);
    assert!(again.contains("of 5") || again.contains("/5") || again.contains("5 problems"), "{again}");
    assert_eq!(hub.take_log(), [""; 0]);
    let mut never = eval(&hub, folder.path(), "ada/sums@main:train");
    never.env("HF_HUB_OFFLINE", "1");
    assert!(refused(never).contains("HF_HUB_OFFLINE"));
}

#[test]
fn parquet_that_is_cut_on_the_way_is_resumed() {
    let (hub, folder) = (hub(), prepare());
    hub.state.lock().expect("state").cuts = vec![700];
    let arguments = ["--limit", "3", "--max-tokens", "2", "--samples", "0"];
    let all =
        ["eval", "--model", "model", "--data", "ada/sums@parquet:test", "--answer-field", "meta.answer"];
    let text = ok(command(&hub, folder.path(), &[&all[..], &arguments].concat()));
    assert!(text.contains("trying again"), "{text}");
    let gets: Vec<String> = hub
        .take_log()
        .into_iter()
        .filter(|line| line.starts_with("GET") && line.contains(".parquet"))
        .collect();
    assert_eq!(gets.len(), 2, "{gets:?}");
    assert!(gets[1].contains(" from 700"), "{gets:?}");
    let of = |field: &str| {
        let name = ["--data", "ada/sums@parquet:test", "--question-field", field];
        refused(command(
            &hub,
            folder.path(),
            &[&["eval", "--model", "model"], &name[..], &arguments].concat(),
        ))
    };
    let text = of("problem");
    assert!(text.contains("problem") && text.contains("question"), "the fields that there are: {text}");
}

#[test]
fn a_recipe_trains_on_a_data_set() {
    let (hub, folder) = (hub(), prepare());
    let recipe = |train: &str, more: &str| {
        format!(
            "name = \"x\"\n[model]\nref = \"model\"\nchat_template = false\n[adapter]\nu = 1\nn_tie = \"all\"\n[task]\nkind = \
             \"jsonl\"\ntrain = \"{train}\"\n{more}\n[rollout]\nprompts_per_step = 2\nsamples_per_prompt = \
             2\nmax_tokens = 4\n[train]\nsteps = 2\n[eval]\nproblems = 2\n"
        )
    };
    let train = |name: &str, text: String| {
        std::fs::write(folder.path().join("recipe.toml"), text).expect("writable");
        command(&hub, folder.path(), &["train", "recipe.toml", "--out", name])
    };
    ok(train("lines", recipe("ada/sums:train", "test = \"ada/sums:test\"")));
    let samples = std::fs::read_to_string(folder.path().join("lines/samples.jsonl")).expect("written");
    assert!(samples.contains("10"), "{samples}");
    hub.take_log();
    hub.state.lock().expect("state").cuts = vec![500];
    ok(train("parquet", recipe("ada/sums@parquet:train", "answer_field = \"meta.answer\"")));
    let samples = std::fs::read_to_string(folder.path().join("parquet/samples.jsonl")).expect("written");
    assert!((0..3).any(|row| samples.contains(&format!("q{row}"))), "{samples}");
    assert!(hub.take_log().iter().any(|line| line.contains(" from 500")), "the cut transfer went on");
    // The recipe in the run's folder names the data as it was given.
    let kept = std::fs::read_to_string(folder.path().join("parquet/recipe.toml")).expect("written");
    assert!(kept.contains("ada/sums@parquet:train"), "{kept}");
}

#[test]
fn what_one_cannot_have_is_told() {
    let (hub, folder) = (hub(), prepare());
    for (data, said) in [
        ("ada/gated:test", &["ada/gated", "gated", "accept its terms", "HF_TOKEN"][..]),
        ("ada/none:test", &["ada/none", "not on the Hub"]),
        ("ada/sums@v9:test", &["revision \"v9\"", "not on the Hub"]),
        ("ada/sums:validation", &["ada/sums", "validation", "train"]),
        ("ada/sums:other/test", &["ada/sums", "other"]),
        ("hf:ada/sums/more.jsonl", &["more.jsonl", "not on the Hub"]),
    ] {
        let text = refused(eval(&hub, folder.path(), data));
        for part in said {
            assert!(text.contains(part), "{data}: no {part:?} in {text}");
        }
    }
}
