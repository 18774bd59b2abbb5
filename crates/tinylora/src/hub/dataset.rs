//! A data set's name enters, its files of one split leave, in the cache and checked; which files they are is
//! remembered, so that they are found again without a network. Nothing here reads rows.

use std::{fs, path::PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    DataFiles, DataRole, HubOptions, Progress,
    cache::{self, RepoCache},
    error::HubError,
    hash::{hex, write_whole},
    http::{self, Client},
    reference::{DataSet, Repo},
    repository::{self, Listing},
    splits::{self, Chosen},
};

/// Where the Hub keeps its own copy of a data set in parquet.
const CONVERTED: &str = "refs/convert/parquet";

/// Which files a name stood for, in `cache/datasets/<hash of the name>.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    name: String,
    commit: String,
    config: String,
    split: String,
    files: Vec<String>,
}

/// The files of a split.
pub(super) fn files(
    set: &DataSet,
    role: DataRole,
    options: &HubOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<DataFiles, HubError> {
    let cache = cache::repo_cache(&set.repo, options);
    let remembered = remembered(set, role, &cache, options);
    if options.offline {
        return remembered.ok_or_else(|| {
            let why = "this split was never fetched";
            repository::offline(&full_name(set), options, why.to_owned())
        });
    }
    // A commit never changes: what is cached of it needs no question.
    if let (true, Some(files)) = (cache::is_commit(&set.repo.revision), &remembered) {
        return Ok(files.clone());
    }
    let client = http::client(options)?;
    match ask(&client, set, role, options, &cache, progress) {
        Err(error) if error.is_outage() => {
            let files = remembered.ok_or(error)?;
            repository::say_cached(&set.repo, &cache, progress);
            Ok(files)
        }
        other => other,
    }
}

/// Asks the Hub what there is, chooses, fetches.
fn ask(
    client: &Client,
    set: &DataSet,
    role: DataRole,
    options: &HubOptions,
    cache: &RepoCache,
    progress: &mut dyn FnMut(Progress),
) -> Result<DataFiles, HubError> {
    let listing = repository::listing(client, &set.repo)?;
    cache::write_ref(cache, &set.repo.revision, &listing.commit)?;
    let (repo, commit, chosen) = match own(set, role, &listing) {
        Ok(chosen) => (set.repo.clone(), listing.commit, chosen),
        Err(why) => copy(client, set, role, why)?,
    };
    let mut paths = Vec::with_capacity(chosen.files.len());
    for name in &chosen.files {
        paths.push(repository::fetch_file(client, &repo, cache, &commit, name, progress)?);
    }
    progress(Progress::Message(format!(
        "data: {} {}/{} at {} ({} file{})",
        repo.id,
        chosen.config,
        chosen.split,
        commit.get(..8).unwrap_or_default(),
        paths.len(),
        if paths.len() == 1 { "" } else { "s" },
    )));
    remember(set, role, &commit, &chosen, options)?;
    Ok(DataFiles { name: full_name(set), paths })
}

/// Why the repository's own files don't do.
enum Unusable {
    /// What is asked for isn't there; the reason says what is.
    Choice(String),
    /// The files are of a kind that isn't read here, or there are none.
    Kind(String),
}

/// The split among the repository's own files.
fn own(set: &DataSet, role: DataRole, listing: &Listing) -> Result<Chosen, Unusable> {
    let configs = splits::configurations(&listing.names, &listing.card);
    if configs.is_empty() {
        return Err(Unusable::Kind("no data files".to_owned()));
    }
    let named = (set.config.as_deref(), set.split.as_deref());
    let chosen = splits::choose(&configs, named, role).map_err(Unusable::Choice)?;
    let files = splits::readable(&chosen.files).map_err(|ending| {
        let what = format!("{} of {}/{} as {ending}", count(chosen.files.len()), chosen.config, chosen.split);
        Unusable::Kind(what)
    })?;
    Ok(Chosen { files, ..chosen })
}

/// The split in the copy that the Hub makes of many data sets in parquet. It follows the main branch alone.
fn copy(
    client: &Client,
    set: &DataSet,
    role: DataRole,
    why: Unusable,
) -> Result<(Repo, String, Chosen), HubError> {
    let not_one = |why: String| HubError::NotADataSet { place: set.repo.id.clone(), why };
    let own = match why {
        Unusable::Choice(why) => return Err(not_one(format!("{why}. {}", set.form()))),
        Unusable::Kind(own) => own,
    };
    let instead = "Name a file of it as hf:org/name/path/to/file.jsonl, or convert it to parquet or JSONL";
    if set.repo.revision != "main" {
        let which = &set.repo.revision;
        return Err(not_one(format!(
            "it has {own}, which isn't read here (parquet, JSONL and JSON are), and the Hub's copy in parquet follows \
             main, not {which}. {instead}"
        )));
    }
    let repo = Repo { revision: CONVERTED.to_owned(), ..set.repo.clone() };
    let listing = match repository::listing(client, &repo) {
        Ok(listing) => listing,
        Err(HubError::NotFound { .. }) => {
            return Err(not_one(format!(
                "it has {own}, which isn't read here (parquet, JSONL and JSON are), and the Hub has no copy of it in \
                 parquet. {instead}"
            )));
        }
        Err(error) => return Err(error),
    };
    let configs = splits::converted(&listing.names);
    let named = (set.config.as_deref(), set.split.as_deref());
    let chosen = splits::choose(&configs, named, role)
        .map_err(|why| not_one(format!("in the Hub's copy in parquet: {why}. {}", set.form())))?;
    Ok((repo, listing.commit, chosen))
}

fn count(files: usize) -> String {
    if files == 1 { "the file".to_owned() } else { format!("the {files} files") }
}

/// The whole name, as one would write it.
fn full_name(set: &DataSet) -> String {
    let part = match (&set.config, &set.split) {
        (Some(config), Some(split)) => format!(":{config}/{split}"),
        (None, Some(split)) => format!(":{split}"),
        _ => String::new(),
    };
    let revision = match set.repo.revision.as_str() {
        "main" => String::new(),
        other => format!("@{other}"),
    };
    format!("{}{revision}{part}", set.repo.id)
}

fn record_path(set: &DataSet, role: DataRole, options: &HubOptions) -> PathBuf {
    let name = format!("{}\n{}\n{role:?}", options.endpoint, full_name(set));
    options.cache.join("datasets").join(format!("{}.json", hex(&Sha256::digest(name))))
}

/// The files as they were found last, if all of them are still there.
fn remembered(set: &DataSet, role: DataRole, cache: &RepoCache, options: &HubOptions) -> Option<DataFiles> {
    let text = fs::read(record_path(set, role, options)).ok()?;
    let record: Record = serde_json::from_slice(&text).ok()?;
    let safe = record.files.iter().all(|name| super::reference::is_safe_relative(name));
    if record.name != full_name(set) || !cache::is_commit(&record.commit) || !safe {
        return None;
    }
    let folder = cache::snapshot(cache, &record.commit);
    let paths: Vec<PathBuf> = record.files.iter().map(|name| folder.join(name)).collect();
    paths.iter().all(|path| path.is_file()).then(|| DataFiles { name: full_name(set), paths })
}

fn remember(
    set: &DataSet,
    role: DataRole,
    commit: &str,
    chosen: &Chosen,
    options: &HubOptions,
) -> Result<(), HubError> {
    let record = Record {
        name: full_name(set),
        commit: commit.to_owned(),
        config: chosen.config.clone(),
        split: chosen.split.clone(),
        files: chosen.files.clone(),
    };
    let text = serde_json::to_vec_pretty(&record).expect("plain data is JSON");
    write_whole(&record_path(set, role, options), &text)
}
