//! A benchmark and what the user said of its data enter, a file on disk leaves: a given file, the set's file in a given
//! folder, or the one on the Hub.

use super::BenchmarkError;
use crate::hub::{self, DataRole, HubOptions, Progress};
use crate::recipe::{Benchmark, Split};
use std::path::{Path, PathBuf};

/// Finds the file of a split. `given` is a file, a folder (with `NAME/test.jsonl` or `test.jsonl` in it),
/// `hf:org/name/file.jsonl`, or empty: the set's own file on the Hub.
pub fn find(
    benchmark: Benchmark,
    split: Split,
    given: &str,
    options: &HubOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<PathBuf, BenchmarkError> {
    let about = benchmark.about();
    let path = Path::new(given);
    if !given.is_empty() && path.is_dir() {
        return in_folder(benchmark, split, path);
    }
    let reference = match (given, benchmark.hub_file(split)) {
        ("", None) if split == Split::Train => {
            return Err(BenchmarkError::NoTrainSplit { name: about.name });
        }
        ("", None) => {
            return Err(BenchmarkError::NotOnHub { name: about.name, folder: about.folders[0] });
        }
        ("", Some(file)) => format!("hf:{}/{}@{}", file.repository, file.file, file.revision),
        (given, _) => given.to_owned(),
    };
    let role = match split {
        Split::Train => DataRole::Train,
        Split::Test => DataRole::HeldOut,
    };
    let mut paths = hub::resolve_data(&reference, role, options, progress)?.paths;
    match paths.pop() {
        Some(path) if paths.is_empty() => Ok(path),
        _ => Err(BenchmarkError::ManyFiles { reference }),
    }
}

/// The set's file in a folder that holds several sets, or in the set's own folder.
fn in_folder(benchmark: Benchmark, split: Split, folder: &Path) -> Result<PathBuf, BenchmarkError> {
    let about = benchmark.about();
    let file = format!("{}.jsonl", split.name());
    let mut tried: Vec<PathBuf> = about.folders.iter().map(|name| folder.join(name).join(&file)).collect();
    let own = folder.file_name().is_some_and(|name| about.folders.iter().any(|known| name == *known));
    if own {
        tried.push(folder.join(&file));
    }
    if let Some(path) = tried.iter().find(|path| path.is_file()) {
        return Ok(path.clone());
    }
    let tried: Vec<String> = tried.iter().map(|path| path.display().to_string()).collect();
    Err(BenchmarkError::NotInFolder { name: about.name, tried: tried.join(" or ") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> HubOptions {
        HubOptions { offline: true, ..HubOptions::from_lookup(|_| None) }
    }

    fn found(benchmark: Benchmark, split: Split, given: &str) -> Result<PathBuf, String> {
        find(benchmark, split, given, &options(), &mut |_| {}).map_err(|error| error.to_string())
    }

    #[test]
    fn folders_hold_sets_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let set = folder.path().join("minerva_math");
        std::fs::create_dir(&set).unwrap();
        std::fs::write(set.join("test.jsonl"), "{}\n").unwrap();
        let all = folder.path().to_str().unwrap();
        assert_eq!(found(Benchmark::Minerva, Split::Test, all).unwrap(), set.join("test.jsonl"));
        let own = set.to_str().unwrap();
        assert_eq!(found(Benchmark::Minerva, Split::Test, own).unwrap(), set.join("test.jsonl"));
        let file = set.join("test.jsonl");
        let given = file.to_str().unwrap();
        assert_eq!(found(Benchmark::Minerva, Split::Test, given).unwrap(), file);
        // Another set's folder is not taken for this one's.
        let message = found(Benchmark::Gsm8k, Split::Test, own).unwrap_err();
        assert!(message.contains("gsm8k") && message.contains("test.jsonl"), "{message}");
        let message = found(Benchmark::Minerva, Split::Train, all).unwrap_err();
        assert!(message.contains("minerva_math/train.jsonl"), "{message}");
    }

    #[test]
    fn what_the_hub_lacks_is_said_with_a_way_out() {
        let message = found(Benchmark::Minerva, Split::Test, "").unwrap_err();
        assert!(message.contains("minerva_math/test.jsonl") && message.contains("--data"), "{message}");
        let message = found(Benchmark::Aime24, Split::Train, "").unwrap_err();
        assert!(message.contains("no training split"), "{message}");
        let message = found(Benchmark::Gsm8k, Split::Test, "").unwrap_err();
        assert!(message.contains("openai/gsm8k/main/test-00000-of-00001.parquet"), "offline: {message}");
        let message = found(Benchmark::Math500, Split::Test, "").unwrap_err();
        assert!(message.contains("HuggingFaceH4/MATH-500"), "offline: {message}");
    }
}
