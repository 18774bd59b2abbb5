//! A tiny random model with two adapters behind a port of this machine: completions, streams, batches that mix
//! adapters, and errors.

use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use tinylora::adapter::RunMetadata;
use tinylora::base::{Adapter, Base};
use tinylora::hub::{HubOptions, cache_dir};
use tinylora::recipe::{AdapterSection, WeightDtype};
use tinylora_compute::Cpu;
use tinylora_serve::{News, ServeError, ServeOptions, serve_until};

const TEMPLATE: &str = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}";

/// A folder with the tiny model and its tokenizer.
fn prepare(folder: &Path) -> String {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/models/llama2");
    let model = folder.join("model");
    std::fs::create_dir(&model).expect("a new folder");
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(golden.join(file), model.join(file)).expect("the golden model");
    }
    std::fs::copy(golden.join("../../tokenizer/bytes.json"), model.join("tokenizer.json"))
        .expect("the tokenizer");
    let config = json!({"eos_token": "</s>", "chat_template": TEMPLATE});
    std::fs::write(model.join("tokenizer_config.json"), config.to_string()).expect("writable");
    model.to_str().expect("UTF-8").to_owned()
}

fn hub(folder: &Path) -> HubOptions {
    HubOptions::from_lookup(|name| (name == "TINYLORA_CACHE").then(|| folder.join("cache").into()))
}

fn cpu() -> Cpu {
    Cpu::from_env(false).expect("a processor")
}

/// Writes an adapter with random numbers; gives its path.
fn write_adapter(folder: &Path, model: &str, rank: usize, seed: u64) -> String {
    let (cpu, hub) = (cpu(), hub(folder));
    let base = Base::open(&cpu, model, WeightDtype::Bf16, 0, &hub, &mut |_| {}).expect("the model");
    let section = AdapterSection { rank, u: 13, n_tie: 0, init_bound: 1.0, ..AdapterSection::default() };
    let cache = cache_dir(&hub).join("factors");
    let adapter =
        Adapter::from_section(&cpu, &base, &section, seed, &cache, &mut |_| {}).expect("an adapter");
    let path = folder.join(format!("{rank}-{seed}.tinylora"));
    adapter.to_file(&base, RunMetadata::default()).write(&path).expect("writable");
    path.to_str().expect("UTF-8").to_owned()
}

/// Runs `test` against a server of the base "…/model" and the adapters "one" and "two", and ends the server.
fn with_server(test: impl FnOnce(SocketAddr, &str)) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let model = prepare(folder.path());
    let adapter = |name: &str, seed| (name.to_owned(), write_adapter(folder.path(), &model, 2, seed));
    let options = ServeOptions {
        port: 0,
        adapters: vec![adapter("one", 1), adapter("two", 2)],
        body_bytes: 4096,
        ..ServeOptions::new(cpu(), hub(folder.path()), &model)
    };
    let (stop, stops) = tokio::sync::mpsc::channel(1);
    let (sender, addresses) = std::sync::mpsc::channel();
    let server = std::thread::spawn(move || {
        serve_until(options, stops, &mut |news| {
            if let News::Listening(address) = news {
                sender.send(address).expect("the test waits");
            }
        })
    });
    test(addresses.recv().expect("the server starts"), &model);
    stop.blocking_send(()).expect("the server runs");
    server.join().expect("no panic").expect("a quiet end");
}

/// Sends one request; gives status and body.
fn exchange(address: SocketAddr, head: &str, kind: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("somebody listens");
    let length = body.len();
    let headers =
        format!("Host: test\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: {length}");
    stream.write_all(format!("{head} HTTP/1.1\r\n{headers}\r\n\r\n{body}").as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer in UTF-8");
    let (headers, body) = answer.split_once("\r\n\r\n").expect("headers and body");
    let status = headers.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    let chunked = headers.to_ascii_lowercase().contains("transfer-encoding: chunked");
    (status, if chunked { joined(body.as_bytes()) } else { body.to_owned() })
}

/// The chunks of a body, put together.
fn joined(mut body: &[u8]) -> String {
    let mut whole = Vec::new();
    loop {
        let end = body.windows(2).position(|two| two == b"\r\n").expect("the length's line");
        let digits = std::str::from_utf8(&body[..end]).expect("digits");
        let length = usize::from_str_radix(digits, 16).expect("a length");
        if length == 0 {
            return String::from_utf8(whole).expect("UTF-8");
        }
        whole.extend_from_slice(&body[end + 2..][..length]);
        body = &body[end + 2 + length + 2..];
    }
}

fn send(address: SocketAddr, path: &str, body: &Value) -> (u16, String) {
    exchange(address, &format!("POST {path}"), "application/json", &body.to_string())
}

fn post(address: SocketAddr, path: &str, body: &Value) -> Value {
    let (status, answer) = send(address, path, body);
    assert_eq!(status, 200, "{answer}");
    serde_json::from_str(&answer).expect("JSON")
}

/// The objects of a stream, which must end well.
fn events(address: SocketAddr, path: &str, body: &Value) -> Vec<Value> {
    let (status, answer) = send(address, path, body);
    assert_eq!(status, 200, "{answer}");
    let mut lines: Vec<&str> = answer.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    assert_eq!(lines.pop(), Some("[DONE]"));
    lines.into_iter().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

const COMPLETIONS: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";

#[test]
fn completions_and_streams_say_the_same() {
    with_server(|address, model| {
        assert_eq!(exchange(address, "GET /health", "text/plain", "").0, 200);
        let models = exchange(address, "GET /v1/models", "text/plain", "").1;
        let models: Value = serde_json::from_str(&models).expect("JSON");
        let names: Vec<&Value> =
            models["data"].as_array().expect("a list").iter().map(|m| &m["id"]).collect();
        assert_eq!(names, [model, "one", "two"]);

        let mut body = json!({"model": model, "prompt": ["ab", "abc"], "max_tokens": 12, "seed": 3, "n": 2,
            "logprobs": 0, "stop": ["\u{1}"]});
        let whole = post(address, COMPLETIONS, &body);
        let choices = whole["choices"].as_array().expect("a list");
        assert_eq!((choices.len(), &whole["usage"]["prompt_tokens"]), (4, &json!(5)));
        assert_ne!(choices[0]["logprobs"], choices[1]["logprobs"], "samples of their own");
        let again = post(address, COMPLETIONS, &body);
        assert_eq!(again["choices"], whole["choices"], "the seed decides");

        body["stream"] = json!(true);
        body["stream_options"] = json!({"include_usage": true});
        let mut parts = events(address, COMPLETIONS, &body);
        assert_eq!(parts.pop().expect("the usage")["usage"], whole["usage"]);
        for (index, choice) in choices.iter().enumerate() {
            let own: Vec<&Value> =
                parts.iter().map(|part| &part["choices"][0]).filter(|part| part["index"] == index).collect();
            let text: String = own.iter().map(|part| part["text"].as_str().expect("a text")).collect();
            assert_eq!(choice["text"], text);
            let logprobs =
                own.iter().filter_map(|part| part["logprobs"]["token_logprobs"].as_array()).flatten();
            assert_eq!(choice["logprobs"]["token_logprobs"], Value::from_iter(logprobs.cloned()));
            assert_eq!(choice["finish_reason"], own.last().expect("a part")["finish_reason"]);
        }

        let mut body = json!({"model": "one", "messages": [{"role": "user", "content": "hello"}],
            "max_completion_tokens": 6, "temperature": 0});
        let whole = post(address, CHAT, &body);
        let message = &whole["choices"][0]["message"];
        assert_eq!((&message["role"], &whole["usage"]["prompt_tokens"]), (&json!("assistant"), &json!(12)));
        body["stream"] = json!(true);
        let parts = events(address, CHAT, &body);
        assert_eq!(parts[0]["choices"][0]["delta"]["role"], "assistant");
        let text: String =
            parts.iter().filter_map(|part| part["choices"][0]["delta"]["content"].as_str()).collect();
        assert_eq!(message["content"], text);
    });
}

#[test]
fn adapters_mix_and_change_nothing_for_each_other() {
    with_server(|address, model| {
        let names = [model, "one", "two"];
        let ask = |name: &str, seed: usize| {
            let body = json!({"model": name, "prompt": "What is 7 + 5?", "max_tokens": 16, "seed": seed,
                "logprobs": 0});
            post(address, COMPLETIONS, &body)["choices"].take()
        };
        let alone: Vec<Value> = (0..9).map(|i| ask(names[i % 3], i / 3)).collect();
        let first = |i: usize| &alone[i][0]["logprobs"]["token_logprobs"];
        assert!(first(0) != first(1) && first(1) != first(2) && first(0) != first(2));
        let together: Vec<Value> = std::thread::scope(|scope| {
            let ask = &ask;
            let threads: Vec<_> = (0..9).map(|i| scope.spawn(move || ask(names[i % 3], i / 3))).collect();
            threads.into_iter().map(|thread| thread.join().expect("an answer")).collect()
        });
        assert_eq!(together, alone);
    });
}

#[test]
fn errors_have_a_status_and_a_code() {
    with_server(|address, model| {
        let code = |(status, answer): (u16, String)| {
            let answer: Value = serde_json::from_str(&answer).expect("JSON");
            let text = |key: &str| answer["error"][key].as_str().unwrap_or_default().to_owned();
            assert!(!text("message").is_empty() && !text("type").is_empty(), "{answer}");
            (status, text("code"))
        };
        let wanted = |status: u16, code: &str| (status, code.to_owned());
        let body = |extra: Value| {
            let mut body = json!({"model": model, "prompt": "a", "max_tokens": 2});
            body.as_object_mut().expect("an object").extend(extra.as_object().expect("an object").clone());
            body
        };
        for (extra, status, name) in [
            (json!({"model": "other"}), 404, "model_not_found"),
            (json!({"max_tokens": "2"}), 400, "invalid_value"),
            (json!({"else": 2}), 400, "unsupported_field"),
            (json!({"prompt": ""}), 400, "invalid_prompt"),
            (json!({"prompt": [1, 320]}), 400, "invalid_prompt"),
            (json!({"max_tokens": 128}), 413, "context_length_exceeded"),
            (json!({"prompt": "a".repeat(200), "max_tokens": null}), 413, "context_length_exceeded"),
            (json!({"prompt": "a".repeat(5000)}), 413, "body_too_large"),
        ] {
            assert_eq!(code(send(address, COMPLETIONS, &body(extra))), wanted(status, name));
        }
        let ask = |head: &str, kind: &str, body: &str| code(exchange(address, head, kind, body));
        assert_eq!(ask("POST /v1/completions", "application/json", "{"), wanted(400, "invalid_json"));
        assert_eq!(ask("POST /v1/completions", "text/plain", "{}"), wanted(415, "unsupported_media_type"));
        assert_eq!(ask("GET /v1/completions", "text/plain", ""), wanted(405, "method_not_allowed"));
        assert_eq!(ask("GET /v2", "text/plain", ""), wanted(404, "not_found"));
    });
}

#[test]
fn what_cannot_be_served_together_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let model = prepare(folder.path());
    let files = [write_adapter(folder.path(), &model, 2, 1), write_adapter(folder.path(), &model, 3, 1)];
    let start = |names: [&str; 2]| {
        let adapters = names.into_iter().map(str::to_owned).zip(files.clone()).collect();
        let options =
            ServeOptions { port: 0, adapters, ..ServeOptions::new(cpu(), hub(folder.path()), &model) };
        let (_stop, stops) = tokio::sync::mpsc::channel(1);
        serve_until(options, stops, &mut |_| {}).expect_err("no server")
    };
    assert!(matches!(start(["one", "two"]), ServeError::MixedAdapters { first_rank: 2, other_rank: 3, .. }));
    assert!(matches!(start(["one", "one"]), ServeError::Name { name } if name == "one"));
}
