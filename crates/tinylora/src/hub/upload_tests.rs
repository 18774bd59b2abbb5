//! Uploads to the Hub that stands in for the real one: its side of the protocol, and faults to order.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{
    HubError, UploadFile, UploadTarget, Uploaded,
    testing::{FakeHub, State, hub, quiet, sha256},
    upload,
};

const TOKEN: &str = "hf_very_secret";
/// Files from here on are large ones.
const LARGE: u64 = 1000;

/// What the stand-in has been given.
#[derive(Default)]
pub(super) struct Uploads {
    repositories: BTreeSet<String>,
    private: BTreeSet<String>,
    branches: BTreeSet<String>,
    store: BTreeMap<String, Vec<u8>>,
    verified: BTreeSet<String>,
    /// Revision → the files of its last commit.
    commits: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    /// Summaries of the commits.
    summaries: Vec<String>,
    /// Requests to paths with this in them get this status and these words, so many times.
    refuse: Option<(&'static str, u16, String, usize)>,
    /// Requests to paths with this in them get no answer at all.
    silent: Option<&'static str>,
    /// Large files are to be sent in parts of so many bytes.
    chunk: Option<usize>,
    /// What a wrong Hub puts into the upload's header, over what belongs there.
    wrong_header: Value,
    /// The store gives this part no ETag.
    no_etag: Option<usize>,
    /// Object → part → content.
    parts: BTreeMap<String, BTreeMap<usize, Vec<u8>>>,
}

/// The answer to a POST or PUT; None: the connection ends.
pub(super) fn reply(state: &mut State, method: &str, path: &str, body: &[u8]) -> Option<(String, Vec<u8>)> {
    let answer = |status: u16, json: Value| {
        let body = json.to_string().into_bytes();
        let length = body.len();
        (format!("HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"), body)
    };
    let store = state.store.clone();
    let uploads = &mut state.uploads;
    if uploads.silent.is_some_and(|part| path.contains(part)) {
        return None;
    }
    if let Some((part, status, words, times)) = &mut uploads.refuse
        && path.contains(*part)
        && *times > 0
    {
        *times -= 1;
        return Some(answer(*status, json!({"error": words})));
    }
    let json: Value = serde_json::from_slice(body).unwrap_or_default();
    let (front, revision) = path.rsplit_once('/').unwrap_or_default();
    Some(match (method, path) {
        ("POST", "/api/repos/create") => {
            assert_eq!(json["type"], "model");
            let name = format!("{}/{}", json["organization"].as_str()?, json["name"].as_str()?);
            if !uploads.repositories.insert(name.clone()) {
                return Some(answer(409, json!({"error": "You already created this model repo"})));
            }
            if json["private"] == json!(true) {
                uploads.private.insert(name);
            }
            answer(200, json!({"url": "x"}))
        }
        ("POST", _) if front.ends_with("/branch") => {
            let new = uploads.branches.insert(revision.to_owned());
            answer(if new { 200 } else { 409 }, json!({}))
        }
        ("POST", _) if front.ends_with("/preupload") => {
            let files = json["files"].as_array()?.iter().map(|file| {
                assert!(STANDARD.decode(file["sample"].as_str().expect("a sample")).expect("base64").len() <= 512);
                let large = file["size"].as_u64().expect("a size") >= LARGE;
                json!({"path": file["path"], "uploadMode": if large { "lfs" } else { "regular" }, "shouldIgnore": false})
            });
            answer(200, json!({"files": files.collect::<Vec<_>>()}))
        }
        ("POST", _) if path.ends_with(".git/info/lfs/objects/batch") => {
            assert_eq!((&json["operation"], &json["hash_algo"]), (&json!("upload"), &json!("sha256")));
            let objects = json["objects"].as_array()?.iter().map(|object| {
                let oid = object["oid"].as_str().expect("an oid");
                if uploads.store.contains_key(oid) {
                    return json!({"oid": oid, "size": object["size"]});
                }
                let upload = match uploads.chunk {
                    None => json!({"href": format!("{store}/put/{oid}?signature=opens-doors"), "header": {"X-Store": "yes"}}),
                    Some(chunk) => {
                        assert!(json["transfers"].as_array().expect("a list").contains(&json!("multipart")));
                        let count = object["size"].as_u64().expect("a size").div_ceil(chunk as u64);
                        let mut header = json!({"chunk_size": chunk.to_string()});
                        for number in 1..=count {
                            header[number.to_string()] =
                                json!(format!("{store}/part/{oid}/{number}?signature=opens-doors"));
                        }
                        for (key, value) in uploads.wrong_header.as_object().into_iter().flatten() {
                            header[key] = value.clone();
                        }
                        json!({"href": format!("{store}/complete/{oid}?signature=opens-doors"), "header": header})
                    }
                };
                json!({"oid": oid, "size": object["size"], "actions": {
                    "upload": upload,
                    "verify": {"href": format!("{store}/verify/{oid}")}}})
            });
            answer(200, json!({"transfer": "basic", "objects": objects.collect::<Vec<_>>()}))
        }
        ("PUT", _) if path.starts_with("/part/") => {
            let (oid, number) = path.strip_prefix("/part/")?.split('?').next()?.split_once('/')?;
            let number: usize = number.parse().ok()?;
            uploads.parts.entry(oid.to_owned()).or_default().insert(number, body.to_vec());
            let etag = if uploads.no_etag == Some(number) {
                String::new()
            } else {
                format!("ETag: \"{}\"\r\n", sha256(body))
            };
            let head = format!("HTTP/1.1 200 X\r\nConnection: close\r\n{etag}Content-Length: 0\r\n\r\n");
            (head, Vec::new())
        }
        ("POST", _) if path.starts_with("/complete/") => complete(uploads, path, &json, &answer)?,
        ("PUT", _) => {
            let oid = path.strip_prefix("/put/")?.split('?').next()?.to_owned();
            uploads.store.insert(oid, body.to_vec());
            answer(200, json!({}))
        }
        ("POST", _) if path.starts_with("/verify/") => {
            uploads.verified.insert(json["oid"].as_str()?.to_owned());
            answer(200, json!({}))
        }
        ("POST", _) if front.ends_with("/commit") => commit(uploads, revision, body, &answer),
        _ => answer(404, json!({"error": "no such thing"})),
    })
}

/// Puts a file's parts together, if the list of their ETags is right.
fn complete(
    uploads: &mut Uploads,
    path: &str,
    json: &Value,
    answer: &dyn Fn(u16, Value) -> (String, Vec<u8>),
) -> Option<(String, Vec<u8>)> {
    let oid = path.strip_prefix("/complete/")?.split('?').next()?.to_owned();
    let parts = &uploads.parts[&oid];
    let wanted: Vec<Value> = parts
        .iter()
        .map(|(number, part)| json!({"partNumber": number, "etag": format!("\"{}\"", sha256(part))}))
        .collect();
    let whole: Vec<u8> = parts.values().flatten().copied().collect();
    if json["oid"] != json!(oid) || json["parts"] != json!(wanted) || sha256(&whole) != oid {
        return Some(answer(400, json!({"error": "these are not the parts"})));
    }
    uploads.store.insert(oid, whole);
    Some(answer(200, json!({})))
}

fn commit(
    uploads: &mut Uploads,
    revision: &str,
    body: &[u8],
    answer: &dyn Fn(u16, Value) -> (String, Vec<u8>),
) -> (String, Vec<u8>) {
    let mut files = BTreeMap::new();
    for line in std::str::from_utf8(body).expect("text").lines() {
        let line: Value = serde_json::from_str(line).expect("an object a line");
        let value = &line["value"];
        let path = value["path"].as_str().unwrap_or_default().to_owned();
        match line["key"].as_str() {
            Some("header") => uploads.summaries.push(value["summary"].as_str().expect("text").to_owned()),
            Some("file") => {
                assert_eq!(value["encoding"], "base64");
                files
                    .insert(path, STANDARD.decode(value["content"].as_str().expect("text")).expect("base64"));
            }
            Some("lfsFile") => {
                let oid = value["oid"].as_str().expect("text");
                assert_eq!(value["algo"], "sha256");
                files.insert(path, uploads.store[oid].clone());
            }
            other => panic!("{other:?}"),
        }
    }
    uploads.commits.insert(revision.to_owned(), files);
    answer(
        200,
        json!({"success": true, "commitOid": "c0ffee", "commitUrl": "http://hub/ada/sums/commit/c0ffee"}),
    )
}

fn stand_in() -> FakeHub {
    let mut hub = hub(&[]);
    hub.options.token = Some(TOKEN.to_owned());
    hub
}

fn files() -> Vec<UploadFile> {
    let file = |path: &str, content: Vec<u8>| UploadFile { path: path.to_owned(), content };
    vec![
        file("README.md", b"# card\n".to_vec()),
        file("adapter_model.safetensors", (0..5000u32).flat_map(u32::to_le_bytes).collect()),
        file("empty/file", Vec::new()),
    ]
}

fn target() -> UploadTarget {
    UploadTarget {
        repo: "ada/sums".to_owned(),
        revision: "main".to_owned(),
        private: false,
        message: "Add it".to_owned(),
    }
}

fn send(hub: &FakeHub, target: &UploadTarget) -> Result<Uploaded, HubError> {
    upload(&files(), target, &hub.options, &mut quiet())
}

fn refused(part: &'static str, status: u16, words: &str, times: usize) -> (FakeHub, String) {
    let hub = stand_in();
    hub.state.lock().expect("state").uploads.refuse = Some((part, status, words.to_owned(), times));
    let message = match send(&hub, &target()) {
        Ok(_) => String::new(),
        Err(error) => error.to_string(),
    };
    assert!(!message.contains(TOKEN) && !message.contains("opens-doors"), "{message}");
    (hub, message)
}

#[test]
fn one_commit_has_every_file() {
    let hub = stand_in();
    let uploaded = send(&hub, &target()).expect("uploaded");
    assert_eq!((uploaded.commit.as_str(), uploaded.created), ("c0ffee", true));
    assert_eq!(uploaded.url, "http://hub/ada/sums/commit/c0ffee");
    let log = hub.take_log();
    let oid = sha256(&files()[1].content);
    assert_eq!(
        log,
        [
            "POST /api/repos/create with token".to_owned(),
            "POST /api/models/ada/sums/preupload/main with token".to_owned(),
            "POST /ada/sums.git/info/lfs/objects/batch with token".to_owned(),
            // The store is another server: it gets no token.
            format!("PUT /put/{oid}?signature=opens-doors"),
            format!("POST /verify/{oid}"),
            "POST /api/models/ada/sums/commit/main with token".to_owned(),
        ]
    );
    let state = hub.state.lock().expect("state");
    let sent: BTreeMap<String, Vec<u8>> = files().into_iter().map(|file| (file.path, file.content)).collect();
    assert_eq!(state.uploads.commits["main"], sent);
    assert_eq!(state.uploads.summaries, ["Add it"]);
    assert!(state.uploads.private.is_empty() && state.uploads.verified.contains(&oid));
}

#[test]
fn a_repository_that_is_there_is_used() {
    let hub = stand_in();
    send(&hub, &UploadTarget { private: true, ..target() }).expect("uploaded");
    assert!(hub.state.lock().expect("state").uploads.private.contains("ada/sums"));
    hub.take_log();
    let mut events = Vec::new();
    let again = UploadTarget { private: true, ..target() };
    let uploaded = upload(&files(), &again, &hub.options, &mut |event| events.push(event)).expect("uploaded");
    assert!(!uploaded.created);
    assert!(format!("{events:?}").contains("is there already"), "{events:?}");
    // The store has the large file.
    assert!(!hub.take_log().iter().any(|line| line.starts_with("PUT")));
    assert_eq!(hub.state.lock().expect("state").uploads.summaries.len(), 2);
}

#[test]
fn branches_are_made() {
    let hub = stand_in();
    let branch = UploadTarget { revision: "seed-2".to_owned(), ..target() };
    send(&hub, &branch).expect("made");
    send(&hub, &branch).expect("there already");
    let log = hub.take_log();
    assert_eq!(log[1], "POST /api/models/ada/sums/branch/seed-2 with token");
    let state = hub.state.lock().expect("state");
    assert_eq!(state.uploads.commits.keys().collect::<Vec<_>>(), ["seed-2"]);
    drop(state);
    let request = UploadTarget { revision: "refs/pr/1".to_owned(), ..target() };
    send(&hub, &request).expect("a pull request's branch isn't made");
    assert!(hub.take_log().contains(&"POST /api/models/ada/sums/commit/refs%2Fpr%2F1 with token".to_owned()));
}

#[test]
fn refusals_say_what_to_do_and_never_the_token() {
    let (_, message) = refused("/api/repos/create", 401, &format!("Invalid {TOKEN} given"), 1);
    assert!(message.contains("isn't valid") && message.contains("Invalid … given"), "{message}");
    let (_, message) = refused("/preupload/", 403, "you shall not write", 1);
    assert!(
        message.contains("may not write to ada/sums") && message.contains("you shall not write"),
        "{message}"
    );
    let (_, message) = refused("/commit/", 409, "", 1);
    assert!(
        message.contains("the commit: the Hub refuses it (409)") && message.contains("run the command again")
    );
    let (_, message) = refused("/preupload/", 404, "", 1);
    assert!(message.contains("no ada/sums at \"main\""), "{message}");
    let (_, message) = refused("/commit/", 400, "base_model is wrong", 1);
    assert!(message.contains("(400): The Hub says: base_model is wrong"), "{message}");
    let (_, message) = refused("/put/", 403, "", 1);
    assert!(message.contains("access denied"), "{message}");
    let (_, message) = refused("/commit/", 500, "on fire", 1);
    assert!(message.contains("status 500 The Hub says: on fire"), "{message}");
}

#[test]
fn who_may_write_need_not_be_allowed_to_make_repositories() {
    // The stand-in has a page for every model.
    let (hub, message) = refused("/api/repos/create", 403, "", 1);
    assert_eq!(message, "");
    assert!(hub.take_log().contains(&"GET /api/models/ada/sums with token".to_owned()));
}

#[test]
fn what_may_be_sent_twice_is_sent_again() {
    for part in ["/api/repos/create", "/preupload/", "/batch", "/put/", "/verify/"] {
        let (hub, message) = refused(part, 503, "busy", 2);
        assert_eq!(message, "", "{part}");
        let count = hub.take_log().iter().filter(|line| line.contains(part)).count();
        assert_eq!(count, 3, "{part}");
        let (hub, message) = refused(part, 500, "on fire", 9);
        assert!(message.contains("status 500") && message.contains("on fire"), "{part}: {message}");
        assert!(hub.state.lock().expect("state").uploads.commits.is_empty(), "{part}: nothing was committed");
    }
}

#[test]
fn a_cut_connection_is_told() {
    for part in ["/api/repos/create", "/put/"] {
        let hub = stand_in();
        hub.state.lock().expect("state").uploads.silent = Some(part);
        let error = send(&hub, &target()).expect_err("cut");
        assert!(matches!(error, HubError::Cut { .. }), "{error}");
        assert!(!error.to_string().contains("opens-doors"), "{error}");
        assert_eq!(hub.take_log().iter().filter(|line| line.contains(part)).count(), 3);
    }
    // A commit isn't sent twice: it may have been made.
    let hub = stand_in();
    hub.state.lock().expect("state").uploads.silent = Some("/commit/");
    let error = send(&hub, &target()).expect_err("cut");
    assert!(matches!(error, HubError::Unclear { .. }), "{error}");
    assert!(error.to_string().contains("/ada/sums/commits/main"), "{error}");
    assert_eq!(hub.take_log().iter().filter(|line| line.contains("/commit/")).count(), 1);
}

#[test]
fn nothing_is_sent_without_token_network_or_a_good_name() {
    let mut hub = stand_in();
    for name in ["sums", "a/b/c", "../x", "a b/c"] {
        let bad = UploadTarget { repo: name.to_owned(), ..target() };
        assert!(matches!(send(&hub, &bad), Err(HubError::BadReference { .. })), "{name}");
    }
    let outside = [UploadFile { path: "../x".to_owned(), content: Vec::new() }];
    assert!(upload(&outside, &target(), &hub.options, &mut quiet()).is_err());
    hub.options.token = None;
    let message = send(&hub, &target()).expect_err("no token").to_string();
    assert!(message.contains("HF_TOKEN") && message.contains("/settings/tokens"), "{message}");
    hub.options.token = Some(TOKEN.to_owned());
    hub.options.offline = true;
    assert!(matches!(send(&hub, &target()), Err(HubError::Offline { .. })));
    assert!(hub.take_log().is_empty());
}

/// Sends to a stand-in that takes large files in parts of 4096 bytes: five of them, the last one shorter.
fn in_parts(fault: impl FnOnce(&mut Uploads)) -> (FakeHub, Result<Uploaded, HubError>) {
    let hub = stand_in();
    {
        let uploads = &mut hub.state.lock().expect("state").uploads;
        uploads.chunk = Some(4096);
        fault(uploads);
    }
    let sent = send(&hub, &target());
    if let Err(error) = &sent {
        let message = error.to_string();
        assert!(!message.contains(TOKEN) && !message.contains("opens-doors"), "{message}");
        assert!(hub.state.lock().expect("state").uploads.commits.is_empty(), "nothing was committed");
    }
    (hub, sent)
}

#[test]
fn a_large_file_goes_in_parts() {
    let (hub, sent) = in_parts(|_| ());
    sent.expect("uploaded");
    let log = hub.take_log();
    let of = |part: &str| log.iter().filter(|line| line.contains(part)).cloned().collect::<Vec<_>>();
    assert_eq!((of("/part/").len(), of("/complete/").len(), of("/put/").len()), (5, 1, 0));
    // Neither the store nor what closes an upload there gets the token.
    assert!(of("/part/").iter().chain(&of("/complete/")).all(|line| !line.contains("token")));
    let state = hub.state.lock().expect("state");
    let committed = &state.uploads.commits["main"]["adapter_model.safetensors"];
    assert_eq!(committed, &files()[1].content);
    let sizes: Vec<usize> =
        state.uploads.parts.values().flat_map(|parts| parts.values().map(Vec::len)).collect();
    assert_eq!(sizes, [4096, 4096, 4096, 4096, 3616]);
    assert_eq!(state.uploads.verified.len(), 1);
}

#[test]
fn a_part_that_fails_is_sent_again_alone() {
    let oid = sha256(&files()[1].content);
    for (part, status) in [("/2?", 503), ("/5?", 429), ("/complete/", 500)] {
        let (hub, sent) = in_parts(|uploads| uploads.refuse = Some((part, status, "busy".to_owned(), 2)));
        sent.expect("uploaded");
        let log = hub.take_log();
        let count = |what: &str| log.iter().filter(|line| line.contains(what)).count();
        let failing = if part == "/complete/" { part.to_owned() } else { format!("/part/{oid}{part}") };
        assert_eq!(count(&failing), 3, "{part}");
        assert_eq!(count("/part/") + count("/complete/"), 8, "{part}: the others once");
    }
    let (hub, sent) = in_parts(|uploads| uploads.silent = Some("/3?"));
    assert!(matches!(sent, Err(HubError::Cut { .. })));
    assert_eq!(hub.take_log().iter().filter(|line| line.contains("/complete/")).count(), 0);
}

#[test]
fn wrong_answers_about_parts_are_told() {
    let wrong = |header: Value| in_parts(|uploads| uploads.wrong_header = header).1;
    for (header, said) in [
        (json!({"chunk_size": "0"}), "its chunk_size is \"0\""),
        (json!({"chunk_size": "5000"}), "20000 bytes in parts of 5000 are 4 parts"),
        (json!({"2": null}), "for the parts [1, 3, 4, 5]"),
        (json!({"6": "http://x"}), "[1, 2, 3, 4, 5, 6]"),
    ] {
        let error = wrong(header).expect_err("wrong").to_string();
        assert!(error.contains(said), "{error}");
    }
    let error = in_parts(|uploads| uploads.no_etag = Some(4)).1.expect_err("no ETag").to_string();
    assert!(error.contains("the store gave part 4 no ETag"), "{error}");
    let refused = |part, status| {
        in_parts(|uploads| uploads.refuse = Some((part, status, "no".to_owned(), 9)))
            .1
            .expect_err("refused")
            .to_string()
    };
    let error = refused("/3?", 400);
    assert!(
        error
            .contains("part 3 of 5 of adapter_model.safetensors: the Hub refuses it (400): The Hub says: no"),
        "{error}"
    );
    let error = refused("/complete/", 400);
    assert!(error.contains("adapter_model.safetensors: the Hub refuses it (400)"), "{error}");
    let error = refused("/complete/", 500);
    assert!(error.contains("status 500"), "{error}");
}
