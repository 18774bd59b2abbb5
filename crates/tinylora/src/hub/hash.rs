//! A file enters, its hash leaves; a hash is remembered together with the file's size and time of change,
//! so that big files are read once and an altered one is noticed.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    HubOptions, ModelFiles, Progress,
    error::{HubError, io_error},
    layout,
};

/// What is remembered of a file, in `cache/hashes/<hash of its path>.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    path: String,
    sha256: String,
    size: u64,
    modified_ns: u128,
}

/// The identity of a model's weights: the sha256 of its weights file or, for shards, of the list of their hashes.
/// The first call for a file reads all of it, later ones only look at its size and time of change.
///
/// # Errors
/// [`HubError::Io`] where a file can't be read.
pub fn weights_sha256(
    files: &ModelFiles,
    options: &HubOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<String, HubError> {
    let mut hashes = Vec::new();
    for path in layout::weights(&files.layout) {
        hashes.push(remembered(&path, options, progress)?);
    }
    match hashes.as_slice() {
        [one] => Ok(one.clone()),
        several => Ok(hex(&Sha256::digest(several.join("\n")))),
    }
}

/// A file's sha256, from memory where size and time of change are the same.
pub(super) fn remembered(
    path: &Path,
    options: &HubOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<String, HubError> {
    // The real file, not a link to it: links of the Hub's cache are renewed while their target stays.
    let path = fs::canonicalize(path).map_err(io_error("find", path))?;
    let (size, modified_ns) = stamp(&path)?;
    let known = fs::read(record_path(&path, options)).ok();
    let known: Option<Record> = known.and_then(|text| serde_json::from_slice(&text).ok());
    if let Some(record) = known
        && (record.size, record.modified_ns) == (size, modified_ns)
        && record.path == path.to_string_lossy()
    {
        return Ok(record.sha256);
    }
    progress(Progress::Verifying);
    let sha256 = sha256_of(&path)?;
    remember(&path, &sha256, options);
    Ok(sha256)
}

/// Remembers a hash that was just computed. A failure costs only time later, so it isn't one.
pub(super) fn remember(path: &Path, sha256: &str, options: &HubOptions) {
    let Ok(path) = fs::canonicalize(path) else { return };
    let Ok((size, modified_ns)) = stamp(&path) else { return };
    let record =
        Record { path: path.to_string_lossy().into_owned(), sha256: sha256.to_owned(), size, modified_ns };
    if let Ok(text) = serde_json::to_vec(&record) {
        let _ = write_whole(&record_path(&path, options), &text);
    }
}

/// The sha256 of a file's content, in hexadecimal digits.
pub(super) fn sha256_of(path: &Path) -> Result<String, HubError> {
    let mut hasher = Sha256::new();
    feed(path, |bytes| hasher.update(bytes))?;
    Ok(hex(&hasher.finalize()))
}

/// The hash under which git keeps a file, in hexadecimal digits.
pub(super) fn git_sha1_of(path: &Path) -> Result<String, HubError> {
    let mut hasher = sha1::Sha1::new();
    let size = fs::metadata(path).map_err(io_error("read", path))?.len();
    hasher.update(format!("blob {size}\0"));
    feed(path, |bytes| hasher.update(bytes))?;
    Ok(hex(&hasher.finalize()))
}

/// Writes a small file so that it is there whole or not at all.
pub(super) fn write_whole(path: &Path, content: &[u8]) -> Result<(), HubError> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(io_error("make the folder", folder))?;
    }
    let temporary = temporary_name(path);
    fs::write(&temporary, content).map_err(io_error("write", &temporary))?;
    fs::rename(&temporary, path).map_err(io_error("write", path))
}

/// A name beside `path` that no other thread or process uses at the same time.
pub(super) fn temporary_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}-{:?}.tmp", std::process::id(), std::thread::current().id()));
    PathBuf::from(name)
}

/// The sha256 of bytes, in hexadecimal digits.
pub fn bytes_sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Bytes as hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn feed(path: &Path, mut take: impl FnMut(&[u8])) -> Result<(), HubError> {
    let mut file = fs::File::open(path).map_err(io_error("open", path))?;
    let mut buffer = vec![0; 1 << 18];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => take(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(io_error("read", path)(error)),
        }
    }
}

/// Size, and time of change in nanoseconds since 1970.
fn stamp(path: &Path) -> Result<(u64, u128), HubError> {
    let about = fs::metadata(path).map_err(io_error("read", path))?;
    let modified = about.modified().map_err(io_error("read the time of change of", path))?;
    Ok((about.len(), modified.duration_since(UNIX_EPOCH).map(|time| time.as_nanos()).unwrap_or(0)))
}

fn record_path(path: &Path, options: &HubOptions) -> PathBuf {
    let name = hex(&Sha256::digest(path.to_string_lossy().as_bytes())[..16]);
    options.cache.join("hashes").join(format!("{name}.json"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::ModelLayout;

    #[test]
    fn known_answers() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("f");
        fs::write(&path, "hello\n").expect("write");
        // `sha256sum f`, `git hash-object f`
        let sha256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        assert_eq!(sha256_of(&path).expect("hash"), sha256);
        assert_eq!(git_sha1_of(&path).expect("hash"), "ce013625030ba8dba906f756967f9e9ca394464a");
    }

    #[test]
    fn a_hash_is_computed_once_and_again_after_a_change() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let mut options = HubOptions::from_lookup(|_| None);
        options.cache = folder.path().join("cache");
        let path = folder.path().join("m.gguf");
        fs::write(&path, "GGUF one").expect("write");
        let files = ModelFiles { reference: String::new(), layout: ModelLayout::Gguf { path: path.clone() } };
        let mut readings = 0;
        let mut count = |event| readings += usize::from(event == Progress::Verifying);
        let first = weights_sha256(&files, &options, &mut count).expect("hash");
        assert_eq!(weights_sha256(&files, &options, &mut count).expect("hash"), first);
        fs::write(&path, "GGUF three").expect("write");
        let other = weights_sha256(&files, &options, &mut count).expect("hash");
        assert_eq!(other, sha256_of(&path).expect("hash"));
        assert_eq!(readings, 2);
    }
}
