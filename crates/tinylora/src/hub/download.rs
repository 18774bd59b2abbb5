//! An address and the published hash enter, a whole and checked file leaves. A cut transfer goes on where it
//! ended, in this run or the next; nothing unchecked ever gets the final name.

use std::{
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    Progress,
    error::{HubError, io_error},
    hash::{git_sha1_of, sha256_of},
    http::{self, Answer, Client},
};

/// So many attempts in a row without one new byte end a transfer.
const ATTEMPTS: u32 = 5;
/// What the Hub may ask to wait during a transfer; its limits count over five minutes.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// A file to fetch.
pub(super) struct Wanted<'a> {
    /// For people.
    pub what: String,
    pub url: String,
    /// The final name; `.incomplete` is added to it meanwhile.
    pub target: &'a Path,
    pub size: Option<u64>,
    pub check: Check,
}

/// How the content is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Check {
    /// Large files on the Hub.
    Sha256(String),
    /// Small files: git's hash of the blob.
    GitSha1(String),
    /// A mirror that gives other etags: only the size, where there is one.
    Size,
}

/// Fetches a file. Whoever calls holds the lock for its target.
pub(super) fn fetch(
    client: &Client,
    wanted: &Wanted,
    explain: &dyn Fn(Answer) -> HubError,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), HubError> {
    let partial = partial_name(wanted.target);
    if let Some(folder) = partial.parent() {
        fs::create_dir_all(folder).map_err(io_error("make the folder", folder))?;
    }
    loop {
        let resumed = transfer(client, wanted, &partial, explain, progress)?;
        progress(Progress::Verifying);
        match verify(wanted, &partial)? {
            None => break,
            Some(error) => {
                fs::remove_file(&partial).map_err(io_error("remove", &partial))?;
                // The part that an earlier run left may have been the wrong one: once more, from the start.
                if !resumed {
                    return Err(error);
                }
                progress(Progress::Message(format!(
                    "{}: the earlier part was damaged; starting over",
                    wanted.what
                )));
            }
        }
    }
    fs::rename(&partial, wanted.target).map_err(io_error("rename", &partial))?;
    progress(Progress::Finished);
    Ok(())
}

/// `…/abc` → `…/abc.incomplete`. Python's library of today adds a random part before the ending, so neither goes on with
/// what the other left; both clear up after themselves.
pub(super) fn partial_name(target: &Path) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(".incomplete");
    PathBuf::from(name)
}

/// Brings the partial file to its full length. True: some of it was there before.
fn transfer(
    client: &Client,
    wanted: &Wanted,
    partial: &Path,
    explain: &dyn Fn(Answer) -> HubError,
    progress: &mut dyn FnMut(Progress),
) -> Result<bool, HubError> {
    let mut file = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .read(true)
        .open(partial)
        .map_err(io_error("open", partial))?;
    let mut have = length(&file, partial)?;
    if wanted.size.is_some_and(|size| have > size) {
        file.set_len(0).map_err(io_error("empty", partial))?;
        have = 0;
    }
    let resumed = have > 0;
    begin(wanted, have, progress);
    let mut failures = 0;
    let mut wait = client.retry_wait;
    while wanted.size.is_none_or(|size| have < size) {
        let before = have;
        let outcome = stretch(client, wanted, &mut file, partial, &mut have, explain, progress);
        match outcome {
            Ok(()) => break,
            Err(error) if error.is_outage() => {
                if have > before {
                    failures = 0;
                    wait = client.retry_wait;
                }
                failures += 1;
                if failures >= ATTEMPTS {
                    return Err(error);
                }
                let asked = http::wait_for(&error, wait);
                if asked > LONGEST_WAIT {
                    return Err(error);
                }
                let when = if asked > wait { format!(" in {} s", asked.as_secs()) } else { String::new() };
                let cause = cause_of(&error);
                progress(Progress::Message(format!("{}: {cause}; trying again{when}", wanted.what)));
                std::thread::sleep(asked);
                wait *= 2;
            }
            Err(error) => return Err(error),
        }
    }
    file.sync_all().map_err(full(wanted, have, partial))?;
    Ok(resumed)
}

/// One request, appended to the file until its end.
fn stretch(
    client: &Client,
    wanted: &Wanted,
    file: &mut fs::File,
    partial: &Path,
    have: &mut u64,
    explain: &dyn Fn(Answer) -> HubError,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), HubError> {
    let answer = http::get(client, &wanted.url, *have)?;
    let restart = match answer.status {
        200 => *have > 0,
        206 if range_start(&answer) == Some(*have) => false,
        206 => return Err(bad(wanted, "another range than the one asked for")),
        // All was there already, and nobody had said how much that is.
        416 if *have > 0 && wanted.size.is_none() => return Ok(()),
        _ => return Err(explain(answer)),
    };
    if restart {
        file.set_len(0).map_err(io_error("empty", partial))?;
        *have = 0;
        begin(wanted, 0, progress);
    }
    let mut body = answer.body.into_reader();
    let mut buffer = vec![0; 1 << 18];
    loop {
        let count = match body.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(cut(wanted, error.to_string())),
        };
        if wanted.size.is_some_and(|size| *have + count as u64 > size) {
            return Err(bad(wanted, "more bytes than the file has"));
        }
        file.write_all(&buffer[..count]).map_err(full(wanted, *have, partial))?;
        *have += count as u64;
        progress(Progress::Advanced { bytes: count as u64 });
    }
    match wanted.size {
        Some(size) if *have < size => Err(cut(wanted, format!("after {have} of {size} bytes"))),
        _ => Ok(()),
    }
}

/// What is wrong with the whole file, if anything.
fn verify(wanted: &Wanted, partial: &Path) -> Result<Option<HubError>, HubError> {
    let (kind, expected, actual) = match &wanted.check {
        Check::Sha256(expected) => ("sha256", expected, sha256_of(partial)?),
        Check::GitSha1(expected) => ("git sha1", expected, git_sha1_of(partial)?),
        Check::Size => return Ok(None),
    };
    Ok((*expected != actual).then(|| HubError::WrongContent {
        what: wanted.what.clone(),
        expected: format!("{kind} {expected}"),
        actual,
    }))
}

fn begin(wanted: &Wanted, have: u64, progress: &mut dyn FnMut(Progress)) {
    progress(Progress::Started { what: wanted.what.clone(), total_bytes: wanted.size });
    if have > 0 {
        progress(Progress::Advanced { bytes: have });
    }
}

fn length(file: &fs::File, path: &Path) -> Result<u64, HubError> {
    Ok(file.metadata().map_err(io_error("read", path))?.len())
}

/// `Content-Range: bytes 100-199/200` → 100.
fn range_start(answer: &Answer) -> Option<u64> {
    http::header(answer, "content-range")?.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}

fn full(wanted: &Wanted, have: u64, partial: &Path) -> impl FnOnce(io::Error) -> HubError {
    let needed = wanted
        .size
        .map(|size| format!(" ({} MB more needed)", size.saturating_sub(have).div_ceil(1_000_000)));
    let path = partial.to_path_buf();
    move |error| match io_error("write", &path)(error) {
        HubError::DiskFull { path, .. } => {
            HubError::DiskFull { path, needed: needed.unwrap_or_default(), variable: "HF_HOME" }
        }
        other => other,
    }
}

fn cut(wanted: &Wanted, cause: String) -> HubError {
    HubError::Cut { url: wanted.url.clone(), cause }
}

fn bad(wanted: &Wanted, why: &str) -> HubError {
    HubError::BadAnswer { url: wanted.url.clone(), why: why.to_owned() }
}

fn cause_of(error: &HubError) -> String {
    match error {
        HubError::Cut { cause, .. } => format!("the connection broke off ({cause})"),
        HubError::Unreachable { cause, .. } => format!("no connection ({cause})"),
        HubError::Status { status, .. } => format!("the Hub answered with status {status}"),
        other => other.to_string(),
    }
}
