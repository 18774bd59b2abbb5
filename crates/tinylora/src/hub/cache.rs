//! Paths in the cache that is shared with Python's `huggingface_hub`, and the links and locks in it; no network.
//!
//! `hub/models--org--name/refs/main` holds a commit, `snapshots/<commit>/config.json` is a link to
//! `blobs/<etag>`, `.no_exist/<commit>/name` marks a file that the repository lacks, and
//! `hub/.locks/models--org--name/<etag>.lock` is locked while a blob is written.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    HubOptions, Progress,
    error::{HubError, io_error},
    hash::{temporary_name, write_whole},
    reference::{Repo, RepoKind},
};

/// A repository's folders in the cache.
pub(super) struct RepoCache {
    root: PathBuf,
    locks: PathBuf,
}

/// Names the folders of `repo`; makes nothing.
pub(super) fn repo_cache(repo: &Repo, options: &HubOptions) -> RepoCache {
    let kind = match repo.kind {
        RepoKind::Model => "models",
        RepoKind::Dataset => "datasets",
    };
    let name = format!("{kind}--{}", repo.id.replace('/', "--"));
    RepoCache { root: options.hub_cache.join(&name), locks: options.hub_cache.join(".locks").join(name) }
}

/// The commit that a revision stood for when it was last asked for; a commit stands for itself.
pub(super) fn cached_commit(cache: &RepoCache, revision: &str) -> Option<String> {
    if is_commit(revision) {
        return Some(revision.to_owned());
    }
    let commit = fs::read_to_string(cache.root.join("refs").join(revision)).ok()?;
    Some(commit.trim().to_owned()).filter(|commit| is_commit(commit))
}

/// Remembers the commit of a revision.
pub(super) fn write_ref(cache: &RepoCache, revision: &str, commit: &str) -> Result<(), HubError> {
    let path = cache.root.join("refs").join(revision);
    if revision == commit || fs::read_to_string(&path).is_ok_and(|known| known.trim() == commit) {
        return Ok(());
    }
    write_whole(&path, commit.as_bytes())
}

/// The folder of a commit's files.
pub(super) fn snapshot(cache: &RepoCache, commit: &str) -> PathBuf {
    cache.root.join("snapshots").join(commit)
}

/// Where the content with this etag is or will be.
pub(super) fn blob(cache: &RepoCache, etag: &str) -> PathBuf {
    cache.root.join("blobs").join(etag)
}

/// Whether a file of a commit is known to be there or known not to exist.
pub(super) fn is_settled(cache: &RepoCache, commit: &str, name: &str) -> bool {
    snapshot(cache, commit).join(name).is_file()
        || cache.root.join(".no_exist").join(commit).join(name).is_file()
}

/// Remembers that a commit has no such file. Only speed depends on it, so a failure isn't one.
pub(super) fn mark_absent(cache: &RepoCache, commit: &str, name: &str) {
    if !is_settled(cache, commit, name) {
        let _ = write_whole(&cache.root.join(".no_exist").join(commit).join(name), b"");
    }
}

/// Makes `snapshots/<commit>/<name>` stand for a blob, in one step.
pub(super) fn link(cache: &RepoCache, commit: &str, name: &str, etag: &str) -> Result<PathBuf, HubError> {
    let path = snapshot(cache, commit).join(name);
    let folder = path.parent().unwrap_or(&cache.root);
    fs::create_dir_all(folder).map_err(io_error("make the folder", folder))?;
    let temporary = temporary_name(&path);
    let _ = fs::remove_file(&temporary);
    // Relative, as Python's are: the cache may be moved. Up from snapshots/<commit>/a/b to the root.
    let up = "../".repeat(2 + name.split('/').count() - 1);
    point(&PathBuf::from(format!("{up}blobs/{etag}")), &blob(cache, etag), &temporary)?;
    fs::rename(&temporary, &path).map_err(io_error("link", &path))?;
    Ok(path)
}

#[cfg(unix)]
fn point(relative: &Path, _blob: &Path, at: &Path) -> Result<(), HubError> {
    std::os::unix::fs::symlink(relative, at).map_err(io_error("link", at))
}

#[cfg(not(unix))]
fn point(_relative: &Path, blob: &Path, at: &Path) -> Result<(), HubError> {
    // Links need special rights on Windows; two names for one file don't.
    fs::hard_link(blob, at).or_else(|_| fs::copy(blob, at).map(|_| ())).map_err(io_error("link", at))
}

/// Waits until nobody else, here or in Python, writes this blob. Released when the value is dropped.
pub(super) fn lock_blob(
    cache: &RepoCache,
    etag: &str,
    what: &str,
    progress: &mut dyn FnMut(Progress),
) -> Result<fs::File, HubError> {
    lock(&cache.locks.join(format!("{etag}.lock")), what, progress)
}

/// Waits until nobody else holds the lock file at `path`.
pub(super) fn lock(
    path: &Path,
    what: &str,
    progress: &mut dyn FnMut(Progress),
) -> Result<fs::File, HubError> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(io_error("make the folder", folder))?;
    }
    let file = fs::OpenOptions::new().create(true).append(true).open(path).map_err(io_error("open", path))?;
    let mut told = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(fs::TryLockError::WouldBlock) => {
                if !told {
                    progress(Progress::Message(format!("another process fetches {what}; waiting for it")));
                    told = true;
                }
                std::thread::sleep(Duration::from_millis(100));
            }
            // Some network file systems have no locks. Names are final only after a check, so going on is safe
            // for whoever reads; at worst two writers make each other start again.
            Err(fs::TryLockError::Error(error)) if error.kind() == std::io::ErrorKind::Unsupported => {
                return Ok(file);
            }
            Err(fs::TryLockError::Error(error)) => return Err(io_error("lock", path)(error)),
        }
    }
}

/// Whether a revision is a full commit id.
pub(super) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit())
}
