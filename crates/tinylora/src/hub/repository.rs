//! A repository on the Hub enters, paths of its files in the cache leave; asks the Hub only for what the cache
//! doesn't settle, and goes on with the cache where the Hub can't be reached.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use super::{
    HubOptions, ModelLayout, Progress,
    cache::{self, RepoCache},
    download::{self, Check, Wanted},
    error::{HubError, io_error},
    http::{self, Answer, Client},
    layout::{self, Choice},
    reference::{Repo, RepoKind, is_safe_relative},
};

/// How the Hub begins to speak of a token that it doesn't know.
const INVALID_TOKEN: &str = "Invalid credentials";

/// The state of a repository at a revision.
pub(super) struct Listing {
    pub commit: String,
    pub names: BTreeSet<String>,
    /// The metadata at the head of its README, null where it has none.
    pub card: serde_json::Value,
}

/// What the Hub says of one file.
struct About {
    commit: String,
    etag: String,
    size: Option<u64>,
    check: Check,
}

/// The files of a model repository.
pub(super) fn model(
    repo: &Repo,
    options: &HubOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<ModelLayout, HubError> {
    let cache = cache::repo_cache(repo, options);
    if options.offline {
        return cached_model(repo, &cache, options);
    }
    // A commit never changes: what is cached of it needs no question.
    if cache::is_commit(&repo.revision)
        && layout::OPTIONAL.iter().all(|name| cache::is_settled(&cache, &repo.revision, name))
        && let Ok(layout) = cached_model(repo, &cache, options)
    {
        return Ok(layout);
    }
    let client = http::client(options)?;
    let listing = match listing(&client, repo) {
        Ok(listing) => listing,
        Err(error) if error.is_outage() => {
            let layout = cached_model(repo, &cache, options).map_err(|_| error)?;
            say_cached(repo, &cache, progress);
            return Ok(layout);
        }
        Err(error) => return Err(error),
    };
    cache::write_ref(&cache, &repo.revision, &listing.commit)?;
    let choice = layout::choose(&repo.id, &listing.names)?;
    let mut fetch = |name: &str| fetch_file(&client, repo, &cache, &listing.commit, name, progress);
    if let Choice::Gguf(name) = choice {
        let path = fetch(&name)?;
        layout::check_gguf(&path)?;
        return Ok(ModelLayout::Gguf { path });
    }
    // Small files first, so that a repository that can't be used fails before gigabytes are here.
    let config = fetch(layout::CONFIG)?;
    let tokenizer = fetch(layout::TOKENIZER)?;
    let mut optional = Vec::new();
    for name in layout::OPTIONAL {
        let there = listing.names.contains(name);
        if !there {
            cache::mark_absent(&cache, &listing.commit, name);
        }
        optional.push(if there { Some(fetch(name)?) } else { None });
    }
    let shards = match choice {
        Choice::Sharded => {
            let index = fetch(layout::INDEX)?;
            let text = fs::read(&index).map_err(io_error("read", &index))?;
            layout::shards(&text, &format!("{}/{}", repo.id, layout::INDEX))?
        }
        _ => vec![layout::WEIGHTS.to_owned()],
    };
    let weights = shards.iter().map(|name| fetch(name)).collect::<Result<_, _>>()?;
    let mut optional = optional.into_iter();
    Ok(ModelLayout::HuggingFace {
        config,
        weights,
        tokenizer,
        tokenizer_config: optional.next().flatten(),
        chat_template: optional.next().flatten(),
        generation_config: optional.next().flatten(),
    })
}

/// One file of a repository.
pub(super) fn file(
    repo: &Repo,
    name: &str,
    options: &HubOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<PathBuf, HubError> {
    let cache = cache::repo_cache(repo, options);
    let cached = cache::cached_commit(&cache, &repo.revision)
        .map(|commit| cache::snapshot(&cache, &commit).join(name))
        .filter(|path| path.is_file());
    if options.offline {
        return cached
            .ok_or_else(|| offline(&format!("{}/{name}", repo.id), options, "no cached copy".to_owned()));
    }
    if let (Some(path), true) = (&cached, cache::is_commit(&repo.revision)) {
        return Ok(path.clone());
    }
    let client = http::client(options)?;
    match about(&client, repo, &repo.revision, name) {
        Ok(about) => {
            cache::write_ref(&cache, &repo.revision, &about.commit)?;
            fetch_known(&client, repo, &cache, &about, name, progress)
        }
        Err(error) if error.is_outage() => {
            let path = cached.ok_or(error)?;
            say_cached(repo, &cache, progress);
            Ok(path)
        }
        Err(error) => Err(error),
    }
}

/// Puts a file of a commit into the snapshot, unless it is there.
pub(super) fn fetch_file(
    client: &Client,
    repo: &Repo,
    cache: &RepoCache,
    commit: &str,
    name: &str,
    progress: &mut dyn FnMut(Progress),
) -> Result<PathBuf, HubError> {
    let path = cache::snapshot(cache, commit).join(name);
    if path.is_file() {
        return Ok(path);
    }
    let about = about(client, repo, commit, name)?;
    fetch_known(client, repo, cache, &About { commit: commit.to_owned(), ..about }, name, progress)
}

/// The same, when the Hub has said what the file is.
fn fetch_known(
    client: &Client,
    repo: &Repo,
    cache: &RepoCache,
    about: &About,
    name: &str,
    progress: &mut dyn FnMut(Progress),
) -> Result<PathBuf, HubError> {
    let path = cache::snapshot(cache, &about.commit).join(name);
    if path.is_file() {
        return Ok(path);
    }
    let blob = cache::blob(cache, &about.etag);
    if !blob.is_file() {
        let what = format!("{name} ({})", repo.id);
        let lock = cache::lock_blob(cache, &about.etag, &what, progress)?;
        // Whoever held the lock may have brought it.
        if !blob.is_file() {
            let url = file_url(client, repo, &about.commit, name);
            let explain = |answer: Answer| complaint(client, repo, &about.commit, Some(name), answer);
            let wanted = Wanted {
                what,
                url: url.clone(),
                target: &blob,
                size: about.size,
                check: about.check.clone(),
            };
            download::fetch(client, &wanted, &explain, progress)?;
        }
        drop(lock);
    }
    cache::link(cache, &about.commit, name, &about.etag)
}

/// The model as the cache has it.
fn cached_model(repo: &Repo, cache: &RepoCache, options: &HubOptions) -> Result<ModelLayout, HubError> {
    let missing = |why: String| offline(&format!("{}@{}", repo.id, repo.revision), options, why);
    let commit = cache::cached_commit(cache, &repo.revision)
        .ok_or_else(|| missing("this revision was never fetched".to_owned()))?;
    let folder = cache::snapshot(cache, &commit);
    if !folder.is_dir() {
        return Err(missing("this revision was never fetched".to_owned()));
    }
    layout::folder(&folder).map_err(|error| match error {
        HubError::NotAModel { why, .. } => missing(format!("the cached copy isn't complete: {why}")),
        other => other,
    })
}

pub(super) fn offline(what: &str, options: &HubOptions, why: String) -> HubError {
    HubError::Offline { what: what.to_owned(), cache: options.hub_cache.clone(), why }
}

pub(super) fn say_cached(repo: &Repo, cache: &RepoCache, progress: &mut dyn FnMut(Progress)) {
    let commit = cache::cached_commit(cache, &repo.revision).unwrap_or_default();
    let commit = commit.get(..8).unwrap_or_default();
    progress(Progress::Message(format!(
        "the Hub can't be reached; using the cached copy of {} ({commit})",
        repo.id
    )));
}

/// Asks for a repository's commit and the names of its files.
pub(super) fn listing(client: &Client, repo: &Repo) -> Result<Listing, HubError> {
    let kind = match repo.kind {
        RepoKind::Model => "models",
        RepoKind::Dataset => "datasets",
    };
    let revision = http::encode(&repo.revision, false);
    let url = format!("{}/api/{kind}/{}/revision/{revision}", client.endpoint, repo.id);
    let text = http::with_retries(client, || {
        let answer = http::get(client, &url, 0)?;
        if answer.status != 200 {
            return Err(complaint(client, repo, &repo.revision, None, answer));
        }
        http::text(answer, &url)
    })?;
    let bad = |why: &str| HubError::BadAnswer { url: url.clone(), why: why.to_owned() };
    let json: serde_json::Value = serde_json::from_str(&text).map_err(|error| bad(&error.to_string()))?;
    let commit = json["sha"].as_str().filter(|sha| cache::is_commit(sha)).ok_or_else(|| bad("no commit"))?;
    let siblings = json["siblings"].as_array().ok_or_else(|| bad("no list of files"))?;
    let names = siblings.iter().filter_map(|file| file["rfilename"].as_str());
    Ok(Listing {
        commit: commit.to_owned(),
        names: names.filter(|name| is_safe_relative(name)).map(str::to_owned).collect(),
        card: json["cardData"].clone(),
    })
}

/// Asks what one file is.
fn about(client: &Client, repo: &Repo, revision: &str, name: &str) -> Result<About, HubError> {
    let url = file_url(client, repo, revision, name);
    let answer = http::with_retries(client, || {
        let answer = http::head(client, &url)?;
        match answer.status {
            200 => Ok(answer),
            _ if answer.redirected => Ok(answer),
            _ => Err(complaint(client, repo, revision, Some(name), answer)),
        }
    })?;
    let bad = |why: &str| HubError::BadAnswer { url: url.clone(), why: why.to_owned() };
    let etag = http::header(&answer, "x-linked-etag").or_else(|| http::header(&answer, "etag"));
    let etag = etag.ok_or_else(|| bad("no etag"))?.trim_start_matches("W/").trim_matches('"').to_owned();
    // It becomes a file's name.
    if etag.is_empty() || !etag.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)) {
        return Err(bad("an etag that can't be a file's name"));
    }
    let length = || http::header(&answer, "content-length").filter(|_| !answer.redirected);
    let size = http::header(&answer, "x-linked-size").or_else(length).and_then(|text| text.parse().ok());
    let commit = http::header(&answer, "x-repo-commit").filter(|commit| cache::is_commit(commit));
    let commit = commit.or(Some(revision).filter(|revision| cache::is_commit(revision)));
    let hexadecimal = etag.bytes().all(|byte| byte.is_ascii_hexdigit());
    let check = match etag.len() {
        64 if hexadecimal => Check::Sha256(etag.to_ascii_lowercase()),
        40 if hexadecimal => Check::GitSha1(etag.to_ascii_lowercase()),
        _ => Check::Size,
    };
    Ok(About { commit: commit.ok_or_else(|| bad("no commit"))?.to_owned(), etag, size, check })
}

fn file_url(client: &Client, repo: &Repo, revision: &str, name: &str) -> String {
    let prefix = match repo.kind {
        RepoKind::Model => "",
        RepoKind::Dataset => "datasets/",
    };
    let (revision, name) = (http::encode(revision, false), http::encode(name, true));
    format!("{}/{prefix}{}/resolve/{revision}/{name}", client.endpoint, repo.id)
}

/// Makes an error of an answer whose status isn't the one hoped for.
fn complaint(client: &Client, repo: &Repo, revision: &str, name: Option<&str>, answer: Answer) -> HubError {
    let code = http::header(&answer, "x-error-code").unwrap_or_default().to_owned();
    let (status, seconds) = (answer.status, http::retry_after(&answer));
    let url = http::without_query(&answer.url);
    if http::is_from_elsewhere(client, &answer) && status != 429 && status < 500 {
        return HubError::Store { url, status };
    }
    let said = http::said(client, answer);
    let id = &repo.id;
    let page = page(client, repo);
    let not_found =
        |what: String, advice: String| HubError::NotFound { what, endpoint: client.endpoint.clone(), advice };
    let private = "or, if it is private, set HF_TOKEN to a token that may read it";
    let looked_local = format!(
        "check the spelling {private}. (No local path \"{id}\" exists either{}.)",
        if Path::new(id).parent().is_some_and(Path::exists) { ", though its folder does" } else { "" }
    );
    match (status, code.as_str()) {
        (401, _) if said.starts_with(INVALID_TOKEN) => HubError::AccessDenied {
            repo: id.clone(),
            status,
            advice: format!(
                "The token (HF_TOKEN, or the one that `hf auth login` stored) isn't valid, perhaps no longer: make a new one \
                 on {}/settings/tokens, or do without one where the repository is public",
                client.endpoint
            ),
        },
        (401 | 403, "GatedRepo") => HubError::AccessDenied {
            repo: id.clone(),
            status,
            advice: format!(
                "It is gated: accept its terms on {page}, make a token in your settings there, and set HF_TOKEN to it"
            ),
        },
        (401 | 404, "RepoNotFound") | (404, "") if name.is_none() || code == "RepoNotFound" => {
            not_found(id.clone(), looked_local)
        }
        (404, "RevisionNotFound") => not_found(
            format!("revision \"{revision}\" of {id}"),
            format!("{page} lists its branches and commits"),
        ),
        (404, _) => {
            let name = name.unwrap_or_default();
            not_found(format!("file {name} of {id} at \"{revision}\""), format!("{page} lists its files"))
        }
        (401, _) => HubError::AccessDenied {
            repo: id.clone(),
            status: 401,
            advice: format!(
                "The repository doesn't exist, is private, or HF_TOKEN isn't valid: {looked_local}"
            ),
        },
        (403, _) => HubError::AccessDenied {
            repo: id.clone(),
            status: 403,
            advice: format!("The token (HF_TOKEN) may not read it; see {page}. {said}"),
        },
        (status, _) => HubError::Status { url, status, message: said, seconds },
    }
}

fn page(client: &Client, repo: &Repo) -> String {
    match repo.kind {
        RepoKind::Model => format!("{}/{}", client.endpoint, repo.id),
        RepoKind::Dataset => format!("{}/datasets/{}", client.endpoint, repo.id),
    }
}
