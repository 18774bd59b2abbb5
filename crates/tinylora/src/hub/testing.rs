//! Stand-ins for the tests: a Hub on this machine with faults to order, and a pip with wheels of our making.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use sha2::{Digest, Sha256};

use super::{HubOptions, Progress, hash::hex};

pub(super) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What the stand-in Hub serves and how it misbehaves.
#[derive(Default)]
pub(super) struct State {
    /// Name → content, and whether it is kept in the store for large files.
    pub files: BTreeMap<String, (Vec<u8>, bool)>,
    /// Each GET of a large file takes one and ends after so many bytes.
    pub cuts: Vec<usize>,
    /// The metadata at the head of the README, as JSON.
    pub card: String,
    /// Those of the files that the branch with the copy in parquet has, and no other branch.
    pub converted: Vec<String>,
    /// Every answer has this status and error code.
    pub deny: Option<(u16, &'static str)>,
    /// More headers of such an answer, each line ended.
    pub deny_headers: &'static str,
    /// The Hub is a mirror that sends every question about a file on to another server.
    pub relay: bool,
    /// The store answers with this status.
    pub store_denies: Option<u16>,
    /// The store delivers altered bytes.
    pub corrupt: bool,
    /// The store ignores ranges.
    pub no_ranges: bool,
    /// What was uploaded.
    pub uploads: super::upload_tests::Uploads,
    /// `METHOD path [range] [token]`, in order.
    pub log: Vec<String>,
    pub store: String,
}

/// A running Hub; it ends with the process.
pub(super) struct FakeHub {
    pub state: Arc<Mutex<State>>,
    pub options: HubOptions,
    /// Keeps the caches alive.
    pub folder: tempfile::TempDir,
}

/// Starts a Hub with these files; those named `*.safetensors`, `*.gguf` and `*.parquet` are large files.
pub(super) fn hub(files: &[(&str, &[u8])]) -> FakeHub {
    let files = files.iter().map(|(name, content)| {
        let large = [".safetensors", ".gguf", ".parquet"].iter().any(|end| name.ends_with(end));
        ((*name).to_owned(), (content.to_vec(), large))
    });
    let state = Arc::new(Mutex::new(State { files: files.collect(), ..State::default() }));
    // Two addresses, since large files come from another server than the Hub.
    let endpoint = listen(&state);
    let store = listen(&state);
    state.lock().expect("state").store = store;
    let folder = tempfile::tempdir().expect("temporary folder");
    let mut options = HubOptions::from_lookup(|_| None);
    options.cache = folder.path().join("tinylora");
    options.hub_cache = folder.path().join("hub");
    options.endpoint = endpoint;
    options.retry_wait = Duration::from_millis(1);
    FakeHub { state, options, folder }
}

impl FakeHub {
    /// Takes what was asked so far.
    pub fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().expect("state").log)
    }

    /// Where a blob with this content belongs.
    pub fn blob(&self, repo: &str, content: &[u8]) -> PathBuf {
        let folder = format!("models--{}", repo.replace('/', "--"));
        self.options.hub_cache.join(folder).join("blobs").join(sha256(content))
    }
}

/// Hexadecimal sha256.
pub(super) fn sha256(content: &[u8]) -> String {
    hex(&Sha256::digest(content))
}

/// A progress callback that does nothing.
pub(super) fn quiet() -> impl FnMut(Progress) {
    |_| {}
}

fn listen(state: &Arc<Mutex<State>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    let state = Arc::clone(state);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let state = Arc::clone(&state);
            std::thread::spawn(move || answer(stream, &state));
        }
    });
    address
}

/// One request a connection.
fn answer(mut stream: TcpStream, state: &Mutex<State>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let (method, path) = (line.split(' ').next()?.to_owned(), line.split(' ').nth(1)?.to_owned());
    let (mut from, mut note, mut length) = (None, String::new(), 0);
    loop {
        line.clear();
        reader.read_line(&mut line).ok()?;
        let lower = line.trim().to_ascii_lowercase();
        if lower.is_empty() {
            break;
        }
        if let Some(range) = lower.strip_prefix("range: bytes=") {
            from = range.trim_end_matches('-').parse::<usize>().ok();
            note.push_str(&format!(" from {range}"));
        }
        if let Some(text) = lower.strip_prefix("content-length: ") {
            length = text.parse().ok()?;
        }
        if lower.starts_with("authorization: ") {
            note.push_str(" with token");
        }
    }
    let mut sent = vec![0; length];
    reader.read_exact(&mut sent).ok()?;
    let mut state = state.lock().ok()?;
    state.log.push(format!("{method} {path}{note}"));
    let (head, mut body) = match method.as_str() {
        "POST" | "PUT" => super::upload_tests::reply(&mut state, &method, &path, &sent)?,
        _ => reply(&mut state, &path, from),
    };
    if method == "HEAD" {
        body.clear();
    }
    drop(state);
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(&body).ok()?;
    stream.flush().ok()
}

fn reply(state: &mut State, path: &str, from: Option<usize>) -> (String, Vec<u8>) {
    let head =
        |status: u16, headers: &str| format!("HTTP/1.1 {status} X\r\nConnection: close\r\n{headers}\r\n");
    if let Some((status, code)) = state.deny {
        let code = if code.is_empty() { String::new() } else { format!("X-Error-Code: {code}\r\n") };
        return (head(status, &format!("{code}{}Content-Length: 0\r\n", state.deny_headers)), Vec::new());
    }
    if path.starts_with("/api/") {
        let copy = path.ends_with("/revision/refs%2Fconvert%2Fparquet");
        if copy && state.converted.is_empty() {
            return (head(404, "X-Error-Code: RevisionNotFound\r\nContent-Length: 0\r\n"), Vec::new());
        }
        let names = state.files.keys().filter(|name| state.converted.contains(name) == copy);
        let names: Vec<_> = names.map(|name| format!("{{\"rfilename\": \"{name}\"}}")).collect();
        let card = if state.card.is_empty() { "null" } else { &state.card };
        let body =
            format!("{{\"sha\": \"{COMMIT}\", \"cardData\": {card}, \"siblings\": [{}]}}", names.join(","));
        return (head(200, &format!("Content-Length: {}\r\n", body.len())), body.into_bytes());
    }
    if let Some(name) = path.strip_prefix("/store/") {
        return match state.store_denies {
            Some(status) => (head(status, "Content-Length: 0\r\n"), Vec::new()),
            None => stored(state, name, from, &head),
        };
    }
    if state.relay && !path.starts_with("/elsewhere") {
        let to = format!("Location: {}/elsewhere{path}\r\nContent-Length: 0\r\n", state.store);
        return (head(302, &to), Vec::new());
    }
    let name = path.split_once("/resolve/").and_then(|(_, rest)| rest.split_once('/')).map(|(_, name)| name);
    match name.and_then(|name| state.files.get_key_value(name)) {
        Some((name, (content, true))) => {
            let headers = format!(
                "X-Repo-Commit: {COMMIT}\r\nX-Linked-Etag: \"{}\"\r\nX-Linked-Size: {}\r\nETag: \"other\"\r\n\
                 Location: {}/store/{name}\r\nContent-Length: 0\r\n",
                sha256(content),
                content.len(),
                state.store
            );
            (head(302, &headers), Vec::new())
        }
        Some((_, (content, false))) => {
            let mut git = sha1::Sha1::new();
            git.update(format!("blob {}\0", content.len()));
            git.update(content);
            let etag = hex(&git.finalize());
            let length = content.len();
            let headers =
                format!("X-Repo-Commit: {COMMIT}\r\nETag: W/\"{etag}\"\r\nContent-Length: {length}\r\n");
            (head(200, &headers), content.clone())
        }
        None => (head(404, "X-Error-Code: EntryNotFound\r\nContent-Length: 0\r\n"), Vec::new()),
    }
}

fn stored(
    state: &mut State,
    name: &str,
    from: Option<usize>,
    head: &dyn Fn(u16, &str) -> String,
) -> (String, Vec<u8>) {
    let mut content = state.files[name].0.clone();
    if state.corrupt {
        content[0] ^= 1;
    }
    let total = content.len();
    let from = from.filter(|_| !state.no_ranges).unwrap_or(0);
    let mut body = content.split_off(from);
    let range = format!("Content-Range: bytes {from}-{}/{total}\r\n", total - 1);
    let headers = format!("Content-Length: {}\r\n{}", body.len(), if from > 0 { &range } else { "" });
    if !state.cuts.is_empty() {
        body.truncate(state.cuts.remove(0));
    }
    (head(if from > 0 { 206 } else { 200 }, &headers), body)
}

/// A folder with a stand-in `pip` and the wheels that it "downloads".
pub(super) struct FakePip {
    pub folder: tempfile::TempDir,
    pub options: HubOptions,
}

/// Makes the stand-in.
pub(super) fn pip() -> FakePip {
    let folder = tempfile::tempdir().expect("temporary folder");
    let at = folder.path().display();
    let script = format!(
        "#!/bin/sh\n[ \"$1\" = --version ] && exit 0\necho \"$@\" >> '{at}/calls'\n\
         while [ $# -gt 1 ]; do [ \"$1\" = --dest ] && dest=$2; shift; done\n\
         cp \"{at}/$1.whl\" \"$dest/\" 2> /dev/null && exit 0\n\
         echo \"ERROR: No matching distribution found for $1\" >&2\nexit 1\n"
    );
    let bin = folder.path().join("bin");
    fs::create_dir(&bin).expect("folder");
    // A shell writes it: were it open for writing in this process, a fork in another thread could
    // inherit that for a moment, and running the script would fail as "text file busy".
    let mut shell = std::process::Command::new("/bin/sh")
        .args(["-c", "cat > \"$0\" && chmod +x \"$0\""])
        .arg(bin.join("pip"))
        .stdin(std::process::Stdio::piped())
        .spawn()
        .expect("a shell");
    shell.stdin.take().expect("input").write_all(script.as_bytes()).expect("write");
    assert!(shell.wait().expect("wait").success());
    let mut options = HubOptions::from_lookup(|_| None);
    options.cache = folder.path().join("cache");
    options.path = std::env::join_paths([bin, "/usr/bin".into(), "/bin".into()]).ok();
    FakePip { folder, options }
}

impl FakePip {
    /// Adds a wheel whose RECORD tells the truth.
    pub fn add(&self, requirement: &str, member: &str, content: &[u8]) {
        self.add_with_record(requirement, member, content, content);
    }

    /// Adds a wheel whose RECORD has the hash of `recorded`.
    pub fn add_with_record(&self, requirement: &str, member: &str, content: &[u8], recorded: &[u8]) {
        let digest = base64url(&Sha256::digest(recorded));
        let record = format!("{member},sha256={digest},{}\npack-1.dist-info/RECORD,,\n", recorded.len());
        let file = fs::File::create(self.folder.path().join(format!("{requirement}.whl"))).expect("create");
        let mut archive = zip::ZipWriter::new(file);
        let how = zip::write::SimpleFileOptions::default();
        for (name, content) in [(member, content), ("pack-1.dist-info/RECORD", record.as_bytes())] {
            archive.start_file(name, how).expect("start");
            archive.write_all(content).expect("write");
        }
        archive.finish().expect("finish");
    }

    /// How often pip was called to download.
    pub fn calls(&self) -> usize {
        let mut text = String::new();
        if let Ok(mut file) = fs::File::open(self.folder.path().join("calls")) {
            file.read_to_string(&mut text).expect("read");
        }
        text.lines().count()
    }

    /// A path in tinylora's cache of wheels.
    pub fn kept(&self, name: &str) -> PathBuf {
        self.options.cache.join("wheels").join(Path::new(name))
    }
}

fn base64url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let mut word = [0; 4];
        word[1..=chunk.len()].copy_from_slice(chunk);
        let word = u32::from_be_bytes(word);
        for place in 0..=chunk.len() {
            text.push(char::from(ALPHABET[(word >> (18 - 6 * place)) as usize & 63]));
        }
    }
    text
}
