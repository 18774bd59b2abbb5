//! An address enters, an answer's head and body leave; redirects are followed here so that the token never goes
//! to another server than the Hub. Nothing is written to disk.
//!
//! Why ureq and not hf-hub: hf-hub 1.0 shares the cache with Python, but it neither resumes a cut download nor
//! checks hashes, and it brings reqwest, tokio and the Xet client (hundreds of crates) into an engine that has no
//! async code. ureq blocks, follows HTTPS_PROXY and NO_PROXY, and with rustls needs a dozen small crates. The Hub
//! serves every file, Xet-backed ones too, over plain HTTP with ranges.

use std::time::Duration;

use ureq::{
    Agent, Body,
    http::{HeaderMap, Response, header},
    tls::{PemItem, RootCerts, TlsConfig, parse_pem},
};

use super::{
    HubOptions,
    error::{HubError, io_error},
    options::DEFAULT_ENDPOINT,
};

const MAX_REDIRECTS: usize = 10;
/// A longer wait than this isn't begun where nothing tells a person of it.
const SILENT_WAIT: Duration = Duration::from_secs(30);

/// A connection pool with what every request to the Hub needs.
pub(super) struct Client {
    agent: Agent,
    /// The Hub's address.
    pub endpoint: String,
    pub token: Option<String>,
    /// The wait before the first new attempt.
    pub retry_wait: Duration,
}

/// The answer to a request, whatever its status.
pub(super) struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Body,
    /// Whether the answer itself is a redirect that wasn't followed.
    pub redirected: bool,
    /// Who answered, after all redirects.
    pub url: String,
}

/// Makes the client.
pub(super) fn client(options: &HubOptions) -> Result<Client, HubError> {
    let mut config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .user_agent(concat!("tinylora/", env!("CARGO_PKG_VERSION")))
        .accept_encoding("identity")
        .timeout_connect(Some(Duration::from_secs(15)))
        .timeout_recv_response(Some(Duration::from_secs(60)))
        .timeout_per_read(Some(Duration::from_secs(60)));
    if authority(&options.endpoint)
        .is_some_and(|host| host.starts_with("127.") || host.starts_with("localhost"))
    {
        // A proxy can't know what listens on this machine.
        config = config.proxy(None);
    }
    if let Some(path) = &options.ca_bundle {
        let text = std::fs::read(path).map_err(io_error("read the certificates in", path))?;
        let certificates = parse_pem(&text).filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        });
        let certificates: Vec<_> = certificates.collect();
        // A file without certificates would mean that nothing is trusted; the built-in roots say more.
        if !certificates.is_empty() {
            let roots = RootCerts::new_with_certs(&certificates);
            config = config.tls_config(TlsConfig::builder().root_certs(roots).build());
        }
    }
    Ok(Client {
        agent: config.build().new_agent(),
        endpoint: options.endpoint.clone(),
        token: options.token.clone(),
        retry_wait: options.retry_wait,
    })
}

/// GET, from byte `from` on where that isn't 0, to the end of all redirects.
pub(super) fn get(client: &Client, url: &str, from: u64) -> Result<Answer, HubError> {
    let mut url = url.to_owned();
    for _ in 0..MAX_REDIRECTS {
        let answer = once(client, "GET", &url, from)?;
        match location(&answer, &url) {
            Some(next) => url = next,
            None => return Ok(answer),
        }
    }
    Err(HubError::BadAnswer { url, why: format!("more than {MAX_REDIRECTS} redirects") })
}

/// HEAD. Redirects within the Hub (renamed repositories) are followed, and those of a mirror to another server; one to the
/// store of large files is the answer, since the Hub's own headers say what the file is.
pub(super) fn head(client: &Client, url: &str) -> Result<Answer, HubError> {
    let mut url = url.to_owned();
    for _ in 0..MAX_REDIRECTS {
        let mut answer = once(client, "HEAD", &url, 0)?;
        match location(&answer, &url) {
            Some(next) if !says_what_it_is(&answer, authority(&next) == authority(&url)) => url = next,
            next => {
                answer.redirected = next.is_some();
                return Ok(answer);
            }
        }
    }
    Err(HubError::BadAnswer { url, why: format!("more than {MAX_REDIRECTS} redirects") })
}

/// The whole body as text, for small answers.
pub(super) fn text(answer: Answer, url: &str) -> Result<String, HubError> {
    let mut body = answer.body;
    let read = body.with_config().limit(64 << 20).read_to_string();
    read.map_err(|error| HubError::Cut { url: url.to_owned(), cause: error.to_string() })
}

/// A header's value as text.
pub(super) fn header<'a>(answer: &'a Answer, name: &str) -> Option<&'a str> {
    answer.headers.get(name).and_then(|value| value.to_str().ok())
}

/// Calls `attempt` again after a wait while the Hub is overloaded or the connection breaks off.
pub(super) fn with_retries<T>(
    client: &Client,
    mut attempt: impl FnMut() -> Result<T, HubError>,
) -> Result<T, HubError> {
    let mut wait = client.retry_wait;
    for _ in 0..2 {
        match attempt() {
            // Without any connection a person waits for nothing, and a cached copy may do.
            Err(error) if error.is_outage() && !matches!(error, HubError::Unreachable { .. }) => {
                let asked = wait_for(&error, wait);
                if asked > SILENT_WAIT {
                    return Err(error);
                }
                std::thread::sleep(asked);
                wait *= 2;
            }
            other => return other,
        }
    }
    attempt()
}

/// How long to wait before the next attempt: as long as the Hub asks for, else `ours`.
pub(super) fn wait_for(error: &HubError, ours: Duration) -> Duration {
    match error {
        HubError::Status { seconds: Some(seconds), .. } => ours.max(Duration::from_secs(*seconds)),
        _ => ours,
    }
}

/// After how many seconds the Hub wants to be asked again: `Retry-After: 55`, or `RateLimit: "api";r=0;t=55`.
pub(super) fn retry_after(answer: &Answer) -> Option<u64> {
    let seconds = |text: &str| text.trim().parse().ok();
    let limit = || {
        let mut parts = header(answer, "ratelimit")?.split([';', ',']);
        parts.find_map(|part| seconds(part.trim().strip_prefix("t=")?))
    };
    header(answer, "retry-after").and_then(seconds).or_else(|| limit().filter(|_| answer.status == 429))
}

/// Whether another server than the Hub gave this answer: its refusals say nothing about rights on the Hub.
pub(super) fn is_from_elsewhere(client: &Client, answer: &Answer) -> bool {
    !is_hub(&answer.url, &client.endpoint) && header(answer, "x-error-code").is_none()
}

/// Percent-encodes what isn't plain in a path; slashes stay where `keep_slash`.
pub(super) fn encode(text: &str, keep_slash: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            b'/' if keep_slash => out.push('/'),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

/// Something to send.
pub(super) struct Outgoing<'a> {
    /// POST or PUT.
    pub method: &'static str,
    pub url: &'a str,
    pub content_type: &'static str,
    /// More headers.
    pub headers: &'a [(String, String)],
    pub body: &'a [u8],
}

/// POST or PUT. Redirects are followed within the same server alone, and only those that keep method and body: what is
/// sent goes where it was meant to go.
pub(super) fn send(client: &Client, outgoing: &Outgoing<'_>) -> Result<Answer, HubError> {
    let mut url = outgoing.url.to_owned();
    for _ in 0..MAX_REDIRECTS {
        let mut request = match outgoing.method {
            "PUT" => client.agent.put(&url),
            _ => client.agent.post(&url),
        };
        request = request.header(header::CONTENT_TYPE, outgoing.content_type);
        for (name, value) in outgoing.headers {
            request = request.header(name, value);
        }
        if let Some(token) = token_for(client, &url) {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let answer = answer(request.send(outgoing.body).map_err(|error| failure(&url, error))?, &url);
        match location(&answer, &url) {
            Some(next) if matches!(answer.status, 307 | 308) && origin(&next) == origin(&url) => url = next,
            Some(_) => {
                let why = format!("a redirect ({}) to another place", answer.status);
                return Err(HubError::BadAnswer { url: without_query(&url), why });
            }
            None => return Ok(answer),
        }
    }
    Err(HubError::BadAnswer { url: without_query(&url), why: format!("more than {MAX_REDIRECTS} redirects") })
}

/// What the Hub says of a failed request: its header, or the `error` of its JSON, cut short; without the token, should
/// it repeat it.
pub(super) fn said(client: &Client, answer: Answer) -> String {
    let in_header = header(&answer, "x-error-message").map(str::to_owned);
    let mut body = answer.body;
    let in_body = || {
        let text = body.with_config().limit(1 << 16).read_to_string().ok()?;
        let json: serde_json::Value = serde_json::from_str(&text).ok()?;
        json["error"].as_str().or_else(|| json["message"].as_str()).map(str::to_owned)
    };
    let mut said: String = in_header.or_else(in_body).unwrap_or_default().chars().take(400).collect();
    if let Some(token) = &client.token {
        said = said.replace(token.as_str(), "…");
    }
    said
}

/// An address without its query, which may hold a signature that opens doors.
pub(super) fn without_query(url: &str) -> String {
    url.split('?').next().unwrap_or_default().to_owned()
}

fn once(client: &Client, method: &str, url: &str, from: u64) -> Result<Answer, HubError> {
    let mut request = match method {
        "HEAD" => client.agent.head(url),
        _ => client.agent.get(url),
    };
    if from > 0 {
        request = request.header(header::RANGE, format!("bytes={from}-"));
    }
    if let Some(token) = token_for(client, url) {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    Ok(answer(request.call().map_err(|error| failure(url, error))?, url))
}

/// Whether a redirect's own headers say what the file is, so that nobody else need be asked.
fn says_what_it_is(answer: &Answer, same_server: bool) -> bool {
    let has = |name: &str| header(answer, name).is_some();
    has("x-linked-etag") || !same_server && has("etag") && has("x-repo-commit")
}

/// The token, for the Hub alone.
fn token_for<'a>(client: &'a Client, url: &str) -> Option<&'a str> {
    client.token.as_deref().filter(|_| is_hub(url, &client.endpoint))
}

/// Whether an address is the chosen Hub's or, where a mirror sends on, that of the Hub which gave the token.
fn is_hub(url: &str, endpoint: &str) -> bool {
    origin(url).is_some_and(|origin_of| [endpoint, DEFAULT_ENDPOINT].map(origin).contains(&Some(origin_of)))
}

fn answer(response: Response<Body>, url: &str) -> Answer {
    let (head, body) = response.into_parts();
    let url = url.to_owned();
    Answer { status: head.status.as_u16(), headers: head.headers, body, redirected: false, url }
}

fn failure(url: &str, error: ureq::Error) -> HubError {
    let url = without_query(url);
    match error {
        ureq::Error::BadUri(_) | ureq::Error::Http(_) => {
            HubError::BadAnswer { url, why: format!("not an address that can be asked ({error})") }
        }
        ureq::Error::Timeout(ureq::Timeout::RecvResponse | ureq::Timeout::PerRead)
        | ureq::Error::Protocol(_) => HubError::Cut { url, cause: error.to_string() },
        ureq::Error::Io(cause) if broke_off(cause.kind()) => HubError::Cut { url, cause: cause.to_string() },
        other => HubError::Unreachable { url, cause: other.to_string() },
    }
}

fn broke_off(kind: std::io::ErrorKind) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(kind, BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

/// Where a redirect leads, as a full address.
fn location(answer: &Answer, url: &str) -> Option<String> {
    if !matches!(answer.status, 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    joined(header(answer, "location")?, url)
}

/// A redirect's target as a full address. A path may have "://" in its query, and so may the address it is relative to.
fn joined(target: &str, url: &str) -> Option<String> {
    let path_ends = |text: &str| text.find(['?', '#']).unwrap_or(text.len());
    if target[..path_ends(target)].contains("://") {
        return Some(target.to_owned());
    }
    let origin = origin(url)?;
    let url = &url[..path_ends(url)];
    match target.strip_prefix("//") {
        Some(rest) => Some(format!("{}://{rest}", origin.split("://").next()?)),
        None if target.starts_with('/') => Some(format!("{origin}{target}")),
        None => Some(format!("{}/{target}", url.rsplit_once('/')?.0)),
    }
}

/// `https://host:port` of an address.
fn origin(url: &str) -> Option<&str> {
    let start = url.find("://")? + 3;
    let end = url[start..].find(['/', '?', '#']).map_or(url.len(), |at| start + at);
    Some(&url[..end])
}

/// `host:port` of an address.
fn authority(url: &str) -> Option<&str> {
    origin(url)?.split_once("://").map(|(_, authority)| authority)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_addresses() {
        assert_eq!(origin("https://a.b:8/c?d"), Some("https://a.b:8"));
        assert_eq!(authority("http://a.b?d"), Some("a.b"));
        assert_eq!(origin("nothing"), None);
        assert_eq!(encode("refs/pr/1 ü", false), "refs%2Fpr%2F1%20%C3%BC");
        assert_eq!(encode("a/b c", true), "a/b%20c");
    }

    #[test]
    fn who_may_see_the_token() {
        let mirror = "https://mirror.example:8";
        for (url, may) in [
            ("https://mirror.example:8/a", true),
            ("https://huggingface.co/a", true),
            ("https://mirror.example/a", false),
            ("http://huggingface.co/a", false),
            ("https://huggingface.co.example/a", false),
            ("https://huggingface.co@example/a", false),
            ("https://cdn.example/a?https://huggingface.co/", false),
            ("nothing", false),
        ] {
            assert_eq!(is_hub(url, mirror), may, "{url}");
        }
    }

    #[test]
    fn targets_of_redirects() {
        let base = "https://hub.example/org/name/resolve/main/a.json?x=/y";
        for (target, full) in [
            ("https://cdn.example/b?c=d", "https://cdn.example/b?c=d"),
            ("/api/b?etag=%22c%22", "https://hub.example/api/b?etag=%22c%22"),
            ("/login?next=https://other.example/", "https://hub.example/login?next=https://other.example/"),
            ("//cdn.example/b", "https://cdn.example/b"),
            ("b.json", "https://hub.example/org/name/resolve/main/b.json"),
        ] {
            assert_eq!(joined(target, base).as_deref(), Some(full));
        }
    }
}
