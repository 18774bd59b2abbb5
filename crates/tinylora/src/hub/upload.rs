//! Files in memory and a repository's name enter, one commit on the Hub leaves: the repository is made if it isn't there,
//! large files go to the store for large files, everything else into the commit itself. Nothing is sent without a
//! token, and the token goes to the Hub alone.
//!
//! The order is the Hub's: create, ask how each file is to be sent, send the large ones (Git LFS's batch protocol, whole or in
//! parts), commit (one JSON object a line).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{
    HubOptions, Progress,
    error::HubError,
    hash::hex,
    http::{self, Answer, Client, Outgoing},
    multipart::{self, Parts},
    reference::{self, Repo, is_safe_relative},
};

const JSON: &str = "application/json";
const LFS: &str = "application/vnd.git-lfs+json";
/// How much of a file's beginning the Hub looks at to decide how it is to be sent.
const SAMPLE: usize = 512;

/// A file to send.
#[derive(Debug, Clone, PartialEq)]
pub struct UploadFile {
    /// Its path in the repository.
    pub path: String,
    /// Its content.
    pub content: Vec<u8>,
}

/// Where files go.
#[derive(Debug, Clone, PartialEq)]
pub struct UploadTarget {
    /// `org/name`
    pub repo: String,
    /// The branch; made from the main one if it isn't there.
    pub revision: String,
    /// Make the repository private, if it has to be made.
    pub private: bool,
    /// The commit's first line.
    pub message: String,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uploaded {
    /// The page of the commit, or of the repository.
    pub url: String,
    /// The commit's id.
    pub commit: String,
    /// Whether the repository was made.
    pub created: bool,
}

/// Sends files as one commit.
///
/// # Errors
/// [`HubError::NoToken`] before anything is sent; [`HubError::AccessDenied`], [`HubError::Refused`],
/// [`HubError::Unclear`] and those of every request. A file that was sent and not committed is in no repository.
pub fn upload(
    files: &[UploadFile],
    target: &UploadTarget,
    options: &HubOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<Uploaded, HubError> {
    let repo = reference::target(&target.repo, &target.revision)?;
    if let Some(file) = files.iter().find(|file| !is_safe_relative(&file.path)) {
        let what = file.path.clone();
        return Err(HubError::Refused { what, status: 0, advice: "that is no path in a repository".into() });
    }
    if options.offline {
        let why = "an upload needs a network".to_owned();
        return Err(super::repository::offline(&repo.id, options, why));
    }
    let client = http::client(options)?;
    if client.token.is_none() {
        return Err(HubError::NoToken { repo: repo.id, endpoint: client.endpoint });
    }
    let hub = Upload { client: &client, repo: &repo };
    let created = hub.create(target.private, progress)?;
    hub.branch()?;
    let large = hub.ask_modes(files)?;
    hub.send_large(files, &large, progress)?;
    let (commit, url) = hub.commit(files, &large, &target.message)?;
    Ok(Uploaded { url, commit, created })
}

/// How a file is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// In the commit.
    Regular,
    /// To the store for large files.
    Large,
}

struct Upload<'a> {
    client: &'a Client,
    repo: &'a Repo,
}

impl Upload<'_> {
    /// Makes the repository. False: it is there already.
    fn create(&self, private: bool, progress: &mut dyn FnMut(Progress)) -> Result<bool, HubError> {
        let (organization, name) = self.repo.id.split_once('/').unwrap_or_default();
        let mut body = json!({"type": "model", "name": name, "organization": organization});
        if private {
            body["private"] = json!(true);
        }
        let url = format!("{}/api/repos/create", self.client.endpoint);
        let answer = self.post(&url, JSON, &body)?;
        match answer.status {
            200 | 201 => Ok(true),
            // Who may write to a repository may still not be allowed to make one.
            409 => self.exists(private, progress),
            403 if self.is_there()? => self.exists(private, progress),
            _ => Err(self.complaint(&format!("the repository {}", self.repo.id), &url, answer)),
        }
    }

    fn exists(&self, private: bool, progress: &mut dyn FnMut(Progress)) -> Result<bool, HubError> {
        if private {
            let id = &self.repo.id;
            progress(Progress::Message(format!("{id} is there already; who may see it stays as it is")));
        }
        Ok(false)
    }

    fn is_there(&self) -> Result<bool, HubError> {
        let url = format!("{}/api/models/{}", self.client.endpoint, self.repo.id);
        let answer = http::with_retries(self.client, || http::get(self.client, &url, 0))?;
        Ok(answer.status == 200)
    }

    /// Makes the branch, unless it is the main one or a pull request's.
    fn branch(&self) -> Result<(), HubError> {
        let revision = &self.repo.revision;
        if revision == "main" || revision.starts_with("refs/") {
            return Ok(());
        }
        let url = self.api("branch");
        let answer = self.post(&url, JSON, &json!({}))?;
        match answer.status {
            200 | 201 | 409 => Ok(()),
            _ => Err(self.complaint(&format!("the branch {revision}"), &url, answer)),
        }
    }

    /// Asks how each file is to be sent.
    fn ask_modes(&self, files: &[UploadFile]) -> Result<Vec<Mode>, HubError> {
        let about = |file: &UploadFile| {
            let sample = STANDARD.encode(&file.content[..file.content.len().min(SAMPLE)]);
            json!({"path": file.path, "size": file.content.len(), "sample": sample})
        };
        let body = json!({"files": files.iter().map(about).collect::<Vec<_>>()});
        let url = self.api("preupload");
        let answer = self.json("the list of files", &url, JSON, &body)?;
        let mode = |file: &UploadFile| {
            let said = answer["files"].as_array().into_iter().flatten();
            let mut said =
                said.filter(|said| said["path"] == json!(file.path)).map(|said| &said["uploadMode"]);
            match said.next().and_then(Value::as_str) {
                // The store takes no empty files.
                Some("lfs") if !file.content.is_empty() => Ok(Mode::Large),
                Some("lfs" | "regular") => Ok(Mode::Regular),
                _ => Err(HubError::BadAnswer {
                    url: url.clone(),
                    why: format!("it doesn't say how {} is to be sent", file.path),
                }),
            }
        };
        files.iter().map(mode).collect()
    }

    /// Sends the large files that the store hasn't.
    fn send_large(
        &self,
        files: &[UploadFile],
        modes: &[Mode],
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), HubError> {
        let large: Vec<(&UploadFile, String)> = files
            .iter()
            .zip(modes)
            .filter(|(_, mode)| **mode == Mode::Large)
            .map(|(file, _)| (file, hex(&Sha256::digest(&file.content))))
            .collect();
        if large.is_empty() {
            return Ok(());
        }
        let object = |(file, oid): &(&UploadFile, String)| json!({"oid": oid, "size": file.content.len()});
        let body = json!({
            "operation": "upload",
            "transfers": ["basic", "multipart"],
            "objects": large.iter().map(object).collect::<Vec<_>>(),
            "hash_algo": "sha256",
            "ref": {"name": self.repo.revision},
        });
        let url = format!("{}/{}.git/info/lfs/objects/batch", self.client.endpoint, self.repo.id);
        let answer = self.json("the list of large files", &url, LFS, &body)?;
        for (file, oid) in &large {
            let mut objects = answer["objects"].as_array().into_iter().flatten();
            let object = objects.find(|object| object["oid"] == json!(oid));
            let object = object.ok_or_else(|| HubError::BadAnswer {
                url: url.clone(),
                why: format!("it says nothing of {}", file.path),
            })?;
            self.send_one(file, oid, object, progress)?;
        }
        Ok(())
    }

    fn send_one(
        &self,
        file: &UploadFile,
        oid: &str,
        object: &Value,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), HubError> {
        if let Some(error) = object["error"].as_object() {
            let number = error.get("code").and_then(Value::as_u64).and_then(|code| u16::try_from(code).ok());
            let message = error.get("message").and_then(Value::as_str).unwrap_or("no reason given");
            return Err(HubError::Refused {
                what: file.path.clone(),
                status: number.unwrap_or(0),
                advice: message.to_owned(),
            });
        }
        let actions = &object["actions"];
        let Some(to) = actions["upload"]["href"].as_str() else {
            // The store has it already.
            return Ok(());
        };
        progress(Progress::Message(format!("sending {} ({} bytes)", file.path, file.content.len())));
        let bad = |why| HubError::BadAnswer { url: http::without_query(to), why };
        match multipart::parts(&actions["upload"], file.content.len()).map_err(bad)? {
            Some(parts) => self.send_parts(file, oid, to, &parts)?,
            None => {
                let headers = headers_of(&actions["upload"]["header"]);
                self.put(&file.path, to, &headers, &file.content)?;
            }
        }
        if let Some(to) = actions["verify"]["href"].as_str() {
            let body = json!({"oid": oid, "size": file.content.len()}).to_string();
            let headers = headers_of(&actions["verify"]["header"]);
            let outgoing = Outgoing {
                method: "POST",
                url: to,
                content_type: LFS,
                headers: &headers,
                body: body.as_bytes(),
            };
            let answer = self.attempt(&outgoing)?;
            if !matches!(answer.status, 200..=299) {
                return Err(self.complaint(&file.path, to, answer));
            }
        }
        Ok(())
    }

    /// Sends a file in parts and closes the upload. A part that fails is sent again alone.
    fn send_parts(
        &self,
        file: &UploadFile,
        oid: &str,
        close: &str,
        parts: &Parts<'_>,
    ) -> Result<(), HubError> {
        let mut etags = Vec::with_capacity(parts.urls.len());
        for (index, (to, part)) in parts.urls.iter().zip(file.content.chunks(parts.chunk)).enumerate() {
            let what = format!("part {} of {} of {}", index + 1, parts.urls.len(), file.path);
            let answer = self.put(&what, to, &[], part)?;
            let etag = multipart::etag(&answer, index + 1);
            etags.push(etag.map_err(|why| HubError::BadAnswer { url: http::without_query(to), why })?);
        }
        let answer = self.post(close, LFS, &multipart::completion(oid, &etags))?;
        match answer.status {
            200..=299 => Ok(()),
            _ => Err(self.complaint(&file.path, close, answer)),
        }
    }

    fn put(
        &self,
        what: &str,
        url: &str,
        headers: &[(String, String)],
        body: &[u8],
    ) -> Result<Answer, HubError> {
        let content_type = "application/octet-stream";
        let answer = self.attempt(&Outgoing { method: "PUT", url, content_type, headers, body })?;
        match answer.status {
            200..=299 => Ok(answer),
            _ => Err(self.complaint(what, url, answer)),
        }
    }

    /// Makes the commit: its id, and its page.
    fn commit(
        &self,
        files: &[UploadFile],
        modes: &[Mode],
        message: &str,
    ) -> Result<(String, String), HubError> {
        let mut lines = vec![json!({"key": "header", "value": {"summary": message, "description": ""}})];
        lines.extend(files.iter().zip(modes).map(|(file, mode)| match mode {
            Mode::Regular => json!({"key": "file", "value": {
                "path": file.path, "encoding": "base64", "content": STANDARD.encode(&file.content)}}),
            Mode::Large => json!({"key": "lfsFile", "value": {
                "path": file.path, "algo": "sha256", "oid": hex(&Sha256::digest(&file.content)),
                "size": file.content.len()}}),
        }));
        let body: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let url = self.api("commit");
        let outgoing = Outgoing {
            method: "POST",
            url: &url,
            content_type: "application/x-ndjson",
            headers: &[],
            body: body.as_bytes(),
        };
        // Sent once: whether a commit was made before a connection broke off can't be known from here.
        let page = format!("{}/{}/commits/{}", self.client.endpoint, self.repo.id, self.repo.revision);
        let unclear = |error| match error {
            HubError::Cut { cause, .. } => HubError::Unclear { page: page.clone(), cause },
            other => other,
        };
        let answer = http::send(self.client, &outgoing).map_err(unclear)?;
        if !matches!(answer.status, 200 | 201) {
            return Err(self.complaint("the commit", &url, answer));
        }
        let answer = http::text(answer, &url).map_err(unclear)?;
        let answer: Value = serde_json::from_str(&answer)
            .map_err(|error| HubError::BadAnswer { url: url.clone(), why: error.to_string() })?;
        let commit = answer["commitOid"].as_str().unwrap_or_default().to_owned();
        let at = answer["commitUrl"].as_str().map(str::to_owned);
        Ok((commit, at.unwrap_or_else(|| format!("{}/{}", self.client.endpoint, self.repo.id))))
    }

    /// `…/api/models/org/name/WHAT/REVISION`
    fn api(&self, what: &str) -> String {
        let revision = http::encode(&self.repo.revision, false);
        format!("{}/api/models/{}/{what}/{revision}", self.client.endpoint, self.repo.id)
    }

    /// The JSON that answers a POST.
    fn json(
        &self,
        what: &str,
        url: &str,
        content_type: &'static str,
        body: &Value,
    ) -> Result<Value, HubError> {
        let answer = self.post(url, content_type, body)?;
        if answer.status != 200 {
            return Err(self.complaint(what, url, answer));
        }
        let text = http::text(answer, url)?;
        serde_json::from_str(&text)
            .map_err(|error| HubError::BadAnswer { url: url.to_owned(), why: error.to_string() })
    }

    fn post(&self, url: &str, content_type: &'static str, body: &Value) -> Result<Answer, HubError> {
        let body = body.to_string();
        let accept = [("Accept".to_owned(), content_type.to_owned())];
        self.attempt(&Outgoing { method: "POST", url, content_type, headers: &accept, body: body.as_bytes() })
    }

    /// Sends what may be sent twice.
    fn attempt(&self, outgoing: &Outgoing<'_>) -> Result<Answer, HubError> {
        http::with_retries(self.client, || {
            let answer = http::send(self.client, outgoing)?;
            match answer.status {
                429 | 500.. => Err(self.complaint("it", outgoing.url, answer)),
                _ => Ok(answer),
            }
        })
    }

    /// Makes an error of an answer whose status isn't the one hoped for.
    fn complaint(&self, what: &str, url: &str, answer: Answer) -> HubError {
        let (status, seconds) = (answer.status, http::retry_after(&answer));
        let said = http::said(self.client, answer);
        let said = if said.is_empty() { String::new() } else { format!(" The Hub says: {said}") };
        let (repo, endpoint) = (self.repo.id.clone(), &self.client.endpoint);
        let refused = |advice: String| HubError::Refused { what: what.to_owned(), status, advice };
        match status {
            401 => HubError::AccessDenied {
                repo,
                status,
                advice: format!(
                    "The token (HF_TOKEN) isn't valid: make one that may write on {endpoint}/settings/tokens.{said}"
                ),
            },
            403 => HubError::AccessDenied {
                repo: repo.clone(),
                status,
                advice: format!(
                    "The token (HF_TOKEN) may not write to {repo}: it needs the right to write, and you need to own the \
                     name or be in the organisation.{said}"
                ),
            },
            404 => refused(format!("there is no {repo} at \"{}\" for this token.{said}", self.repo.revision)),
            409 | 412 => {
                refused(format!("somebody else changes {repo} at this moment; run the command again.{said}"))
            }
            400 | 413 | 422 => {
                refused(if said.is_empty() { "no reason given".into() } else { said.trim().into() })
            }
            _ => {
                let url = http::without_query(url);
                HubError::Status { url, status, message: said.trim().to_owned(), seconds }
            }
        }
    }
}

/// The headers that an LFS action asks for.
fn headers_of(object: &Value) -> Vec<(String, String)> {
    let pairs = object.as_object().into_iter().flatten();
    pairs.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect()
}
