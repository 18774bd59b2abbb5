//! What is made of the Hub's answers: redirects of mirrors, refusals, limits; against the Hub that stands in for the real one.

use std::time::{Duration, Instant};

use super::{
    DataRole, HubError, Progress, resolve, resolve_data,
    testing::{FakeHub, hub, quiet},
};

const REPO: &str = "org/tiny";

fn model_hub() -> FakeHub {
    hub(&[("config.json", b"{}"), ("tokenizer.json", b"{}"), ("model.safetensors", b"weights")])
}

fn denying(status: u16, code: &'static str, headers: &'static str) -> FakeHub {
    let hub = model_hub();
    let mut state = hub.state.lock().expect("state");
    (state.deny, state.deny_headers) = (Some((status, code)), headers);
    drop(state);
    hub
}

fn error(hub: &FakeHub) -> HubError {
    resolve(REPO, &hub.options, &mut quiet()).expect_err("an error")
}

#[test]
fn a_mirror_may_send_on_but_the_token_stays() {
    let mut hub = model_hub();
    hub.options.token = Some("hf_secret".to_owned());
    hub.state.lock().expect("state").relay = true;
    resolve(REPO, &hub.options, &mut quiet()).expect("resolved");
    let log = hub.take_log();
    for asked in ["HEAD /elsewhere/org/tiny/resolve/", "GET /elsewhere/org/tiny/resolve/", "GET /store/model"]
    {
        assert!(log.iter().any(|line| line.starts_with(asked)), "{asked}: {log:?}");
    }
    for line in log {
        let elsewhere = line.contains("/elsewhere/") || line.contains("/store/");
        assert_eq!(line.ends_with(" with token"), !elsewhere, "{line}");
    }
}

#[test]
fn a_token_that_is_not_valid_is_said_to_be_that() {
    for code in ["", "RepoNotFound"] {
        let hub = denying(401, code, "X-Error-Message: Invalid credentials in Authorization header\r\n");
        let message = error(&hub).to_string();
        assert!(message.contains("isn't valid") && message.contains("/settings/tokens"), "{message}");
        assert!(!message.contains("spelling"), "{message}");
    }
}

#[test]
fn a_limit_is_waited_for_as_long_as_the_hub_asks() {
    for header in ["Retry-After: 1\r\n", "RateLimit: \"api\";r=0;t=1\r\n"] {
        let hub = denying(429, "", header);
        let begin = Instant::now();
        let message = error(&hub).to_string();
        assert!(begin.elapsed() >= Duration::from_secs(2), "two waits, not {:?}", begin.elapsed());
        assert!(message.contains("429") && message.ends_with("try again in 1 s"), "{message}");
        assert_eq!(hub.take_log().len(), 3);
    }
    // Nobody waits for minutes without a word.
    for header in ["Retry-After: 120\r\n", "RateLimit: \"api\";r=0;t=120, \"pages\";r=9;t=7\r\n"] {
        let hub = denying(429, "", header);
        let message = error(&hub).to_string();
        assert!(message.ends_with("try again in 120 s"), "{message}");
        assert_eq!(hub.take_log().len(), 1);
    }
    // A date isn't a number of seconds; what is said stays general.
    let hub = denying(429, "", "Retry-After: Wed, 21 Oct 2026 07:28:00 GMT\r\n");
    assert!(error(&hub).to_string().ends_with("try again later"));
}

#[test]
fn a_refusal_of_the_store_is_not_a_missing_right() {
    for status in [403, 404] {
        let hub = model_hub();
        hub.state.lock().expect("state").store_denies = Some(status);
        let refused = error(&hub);
        let message = refused.to_string();
        assert!(matches!(&refused, HubError::Store { status: got, .. } if *got == status), "{message}");
        assert!(message.contains("/store/model.safetensors") && !message.contains("HF_TOKEN"), "{message}");
    }
    let hub = model_hub();
    hub.state.lock().expect("state").store_denies = Some(503);
    let mut words = Vec::new();
    let refused = resolve(REPO, &hub.options, &mut |event| {
        if let Progress::Message(text) = event {
            words.push(text);
        }
    });
    assert!(matches!(refused, Err(HubError::Status { status: 503, .. })));
    assert_eq!(words.len(), 4, "an outage is tried again: {words:?}");
}

#[test]
fn a_pointer_of_git_lfs_is_no_data_file() {
    let hub = hub(&[]);
    let path = hub.folder.path().join("train.jsonl");
    std::fs::write(&path, "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
        .expect("write");
    let name = path.to_str().expect("text");
    let message =
        resolve_data(name, DataRole::Train, &hub.options, &mut quiet()).expect_err("a pointer").to_string();
    assert!(message.contains("train.jsonl") && message.contains("`git lfs pull`"), "{message}");
}
