//! The names of a data set's files and the metadata of its card enter, its configurations with their splits leave, and
//! of these the one that is wanted. Follows what users of Python's `datasets` expect; asks nobody and opens no file.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{DataRole, reference::is_safe_relative};

/// Endings of files that can be read here.
const READABLE: [&str; 4] = ["parquet", "jsonl", "ndjson", "json"];
/// Endings of files that hold rows too, but not for us.
const OTHER: [&str; 12] =
    ["csv", "tsv", "txt", "arrow", "zip", "gz", "zst", "xz", "bz2", "tar", "lance", "avro"];
/// Files in JSON that hold no rows.
const NO_ROWS: [&str; 5] =
    ["config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"];
/// Words in the names of folders and files, and the splits that they mean.
const WORDS: [(&str, &[&str]); 3] = [
    ("train", &["train", "training"]),
    ("validation", &["validation", "valid", "dev", "val"]),
    ("test", &["test", "testing", "eval", "evaluation"]),
];

/// A part of a data set that has splits of its own.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Configuration {
    pub name: String,
    /// The one that is meant where none is named.
    pub default: bool,
    /// Split → its files, in order.
    pub splits: Vec<(String, Vec<String>)>,
}

/// What was chosen.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Chosen {
    pub config: String,
    pub split: String,
    pub files: Vec<String>,
}

/// The configurations that the card declares, or else the one that the files' names suggest.
pub(super) fn configurations(names: &BTreeSet<String>, card: &Value) -> Vec<Configuration> {
    let declared: Vec<Configuration> =
        card["configs"].as_array().into_iter().flatten().filter_map(|entry| declared(names, entry)).collect();
    if !declared.is_empty() {
        return declared;
    }
    let splits = suggested(names.iter().map(String::as_str));
    if splits.is_empty() {
        return Vec::new();
    }
    vec![Configuration { name: "default".to_owned(), default: true, splits }]
}

/// The configurations of the copy in parquet that the Hub makes: `CONFIG/SPLIT/0000.parquet`.
pub(super) fn converted(names: &BTreeSet<String>) -> Vec<Configuration> {
    let mut configs: BTreeMap<&str, BTreeMap<&str, Vec<String>>> = BTreeMap::new();
    for name in names.iter().filter(|name| ending(name) == "parquet") {
        if let [config, split, _] = name.split('/').collect::<Vec<_>>()[..] {
            // Of a very large split the copy has a part only.
            let split = split.strip_prefix("partial-").unwrap_or(split);
            configs.entry(config).or_default().entry(split).or_default().push(name.clone());
        }
    }
    let splits = |splits: BTreeMap<&str, Vec<String>>| {
        splits.into_iter().map(|(split, files)| (split.to_owned(), files)).collect()
    };
    configs
        .into_iter()
        .map(|(name, found)| Configuration {
            name: name.to_owned(),
            default: name == "default",
            splits: splits(found),
        })
        .collect()
}

/// The split that is wanted. `named` is what the reference says after the colon: nothing, a split (or a
/// configuration), or both. The message of an error says what there is.
pub(super) fn choose(
    configs: &[Configuration],
    (config, split): (Option<&str>, Option<&str>),
    role: DataRole,
) -> Result<Chosen, String> {
    let names = || configs.iter().map(|config| config.name.as_str()).collect::<Vec<_>>().join(", ");
    let by_name = |name: &str| configs.iter().find(|config| config.name == name);
    let usual = || match configs {
        [one] => Some(one),
        several => several.iter().find(|config| config.default).or_else(|| by_name("default")),
    };
    let (config, split) = match (config, split) {
        (Some(name), split) => {
            let found = by_name(name);
            (
                found.ok_or_else(|| format!("it has no configuration \"{name}\"; there are {}", names()))?,
                split,
            )
        }
        (None, Some(split)) if !usual().is_some_and(|config| has_split(config, split)) => {
            // A lone word that is no split may be a configuration.
            match (by_name(split), usual()) {
                (Some(config), _) => (config, None),
                (None, Some(config)) => (config, Some(split)),
                (None, None) => {
                    return Err(format!("\"{split}\" is none of its configurations: {}", names()));
                }
            }
        }
        (None, split) => {
            let several = || format!("it has the configurations {}; name one", names());
            (usual().ok_or_else(several)?, split)
        }
    };
    let (split, files) = split_of(config, split, role)?;
    Ok(Chosen { config: config.name.clone(), split: split.to_owned(), files: files.to_vec() })
}

/// The part of `files` that can be read here. Where kinds are mixed the most frequent one counts, as parts of one table
/// are files of one kind. Err: the ending that can't be read.
pub(super) fn readable(files: &[String]) -> Result<Vec<String>, String> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for file in files.iter().filter(|file| is_data(file)) {
        *counts.entry(ending(file)).or_default() += 1;
    }
    let most = counts.iter().max_by_key(|(_, count)| **count).map(|(ending, _)| ending.clone());
    match most {
        Some(most) if READABLE.contains(&most.as_str()) => {
            Ok(files.iter().filter(|file| ending(file) == most).cloned().collect())
        }
        Some(most) => Err(format!(".{most}")),
        None => Err("no data".to_owned()),
    }
}

/// Whether a name ends as files of rows do.
pub(super) fn is_data(name: &str) -> bool {
    let last = name.rsplit('/').next().unwrap_or(name);
    let hidden = name.split('/').any(|part| part.starts_with('.') || part.starts_with("__"));
    let ending = ending(name);
    !hidden
        && !NO_ROWS.contains(&last)
        && (READABLE.contains(&ending.as_str()) || OTHER.contains(&ending.as_str()))
        && !["README.txt", "LICENSE.txt", "requirements.txt"].contains(&last)
}

/// Whether a pattern of a card fits a name: `*` within a part of a path, `**` across parts, `?` one character.
pub(super) fn fits(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    // fitting[i]: the pattern so far fits the first i bytes of the name.
    let mut fitting = vec![false; name.len() + 1];
    fitting[0] = true;
    let mut at = 0;
    while at < pattern.len() {
        let mut next = vec![false; name.len() + 1];
        let (byte, across) = (pattern[at], pattern[at..].starts_with(b"**"));
        if byte == b'*' {
            let mut open = false;
            for i in 0..=name.len() {
                open |= fitting[i];
                next[i] = open;
                open &= across || name.get(i) != Some(&b'/');
            }
            at += if across { 2 } else { 1 };
            // `**/` may stand for no folder at all.
            if across && pattern.get(at) == Some(&b'/') {
                at += 1;
                let ends_folder = |i: usize| i > 0 && name[i - 1] == b'/';
                next = (0..=name.len()).map(|i| fitting[i] || (next[i] && ends_folder(i))).collect();
            }
        } else {
            for i in 0..name.len() {
                next[i + 1] = fitting[i] && (byte == name[i] || (byte == b'?' && name[i] != b'/'));
            }
            at += 1;
        }
        fitting = next;
    }
    fitting[name.len()]
}

/// One entry of the card's `configs`.
fn declared(names: &BTreeSet<String>, entry: &Value) -> Option<Configuration> {
    let folder = entry["data_dir"].as_str().map(|folder| folder.trim_matches('/'));
    let inside = |name: &str| match folder {
        Some(folder) if !folder.is_empty() => name.strip_prefix(folder)?.strip_prefix('/').map(str::len),
        _ => Some(name.len()),
    };
    let matching = |patterns: &Value| -> Vec<String> {
        let one = patterns.as_str().into_iter();
        let several = patterns.as_array().into_iter().flatten().filter_map(Value::as_str);
        let patterns: Vec<&str> =
            one.chain(several).map(|pattern| pattern.trim_start_matches("./")).collect();
        let fitting = |name: &&String| {
            let Some(length) = inside(name) else { return false };
            let within = &name[name.len() - length..];
            patterns.iter().any(|pattern| fits(pattern, within) || fits(pattern, name))
        };
        names.iter().filter(fitting).cloned().collect()
    };
    let mut splits: Vec<(String, Vec<String>)> = Vec::new();
    let files = &entry["data_files"];
    let by_split = files.as_array().is_some_and(|list| list.iter().any(Value::is_object));
    if by_split {
        for part in files.as_array().into_iter().flatten() {
            let found = matching(&part["path"]);
            splits.push((part["split"].as_str().unwrap_or("train").to_owned(), found));
        }
    } else if let Some(parts) = files.as_object() {
        splits.extend(parts.iter().map(|(split, patterns)| (split.clone(), matching(patterns))));
    } else if files.is_null() {
        splits = suggested(names.iter().map(String::as_str).filter(|name| inside(name).is_some()));
    } else {
        splits.push(("train".to_owned(), matching(files)));
    }
    splits.retain(|(_, files)| !files.is_empty());
    let name = entry["config_name"].as_str().unwrap_or("default").to_owned();
    let default = entry["default"].as_bool().unwrap_or(false);
    (!splits.is_empty()).then_some(Configuration { name, default, splits })
}

/// Splits that names suggest: `data/SPLIT-00000-of-00001…` first, then words in folders, then words in files' names;
/// where nothing speaks, everything is for training.
fn suggested<'a>(names: impl Iterator<Item = &'a str>) -> Vec<(String, Vec<String>)> {
    let names: Vec<&str> = names.filter(|name| is_data(name)).collect();
    let folders = |name: &str| {
        let (folders, _) = name.rsplit_once('/')?;
        folders.split('/').find_map(word_split)
    };
    let file = |name: &str| word_split(name.rsplit('/').next()?);
    let rules: [&dyn Fn(&str) -> Option<String>; 3] = [&sharded, &folders, &file];
    for rule in rules {
        let mut splits: Vec<(String, Vec<String>)> = Vec::new();
        for name in &names {
            let Some(split) = rule(name) else { continue };
            match splits.iter_mut().find(|(known, _)| *known == split) {
                Some((_, files)) => files.push((*name).to_owned()),
                None => splits.push((split, vec![(*name).to_owned()])),
            }
        }
        if !splits.is_empty() {
            return splits;
        }
    }
    let all: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    if all.is_empty() { Vec::new() } else { vec![("train".to_owned(), all)] }
}

/// `data/test-00000-of-00001-0a1b.parquet` → `test`.
fn sharded(name: &str) -> Option<String> {
    let file = name.strip_prefix("data/").filter(|file| !file.contains('/'))?;
    let (front, rest) = file.split_once("-of-")?;
    let (split, number) = front.rsplit_once('-')?;
    let digits = |text: &str| text.len() >= 5 && text.as_bytes()[..5].iter().all(u8::is_ascii_digit);
    (number.len() == 5 && digits(number) && digits(rest) && !split.is_empty()).then(|| split.to_owned())
}

/// The split that a word of a name means, words being set apart by `-._ ` and digits.
fn word_split(name: &str) -> Option<String> {
    let words = || name.split(|c: char| "-._ ".contains(c) || c.is_ascii_digit());
    let known = WORDS.iter().find(|(_, known)| words().any(|word| known.contains(&word)));
    known.map(|(split, _)| (*split).to_owned())
}

fn has_split(config: &Configuration, split: &str) -> bool {
    config.splits.iter().any(|(name, _)| name == split)
}

/// The named split, or the one that the role asks for.
fn split_of<'a>(
    config: &'a Configuration,
    split: Option<&str>,
    role: DataRole,
) -> Result<(&'a str, &'a [String]), String> {
    let splits: Vec<&str> = config.splits.iter().map(|(name, _)| name.as_str()).collect();
    let named = |wanted: &str| config.splits.iter().find(|(name, _)| name == wanted);
    let found = match (split, role) {
        (Some(split), _) => named(split),
        (None, DataRole::Train) => named("train"),
        (None, DataRole::HeldOut) => named("test").or_else(|| named("validation")),
    };
    let found = found.or(match config.splits.as_slice() {
        // A data set of one split needs no name for it.
        [one] if split.is_none() => Some(one),
        _ => None,
    });
    match found {
        Some((name, files)) => Ok((name, files)),
        None => {
            let wanted = split.map_or("a usual name".to_owned(), |split| format!("the name \"{split}\""));
            Err(format!(
                "its configuration {} has no split of {wanted}; there are {}",
                config.name,
                splits.join(", ")
            ))
        }
    }
}

/// The ending of a name without its dot, in small letters.
pub(super) fn ending(name: &str) -> String {
    let last = name.rsplit('/').next().unwrap_or(name);
    last.rsplit_once('.').map(|(_, ending)| ending.to_ascii_lowercase()).unwrap_or_default()
}

/// `CONFIG/SPLIT` or `NAME`, as it stands after the colon of a reference.
pub(super) fn parse_part(text: &str) -> Result<(Option<String>, Option<String>), String> {
    let plain = |part: &str| !part.is_empty() && !part.contains(['[', ']', '+']) && is_safe_relative(part);
    match text.rsplit_once('/') {
        Some((config, split)) if plain(config) && plain(split) => {
            Ok((Some(config.to_owned()), Some(split.to_owned())))
        }
        None if plain(text) => Ok((None, Some(text.to_owned()))),
        _ => Err(format!("\"{text}\" is neither SPLIT nor CONFIG/SPLIT (a split is taken as a whole)")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn splits(names: &[&str]) -> Vec<(String, usize)> {
        let found = configurations(&set(names), &Value::Null);
        found.iter().flat_map(|c| &c.splits).map(|(split, files)| (split.clone(), files.len())).collect()
    }

    fn named<'a>(config: &'a str, split: &'a str) -> (Option<&'a str>, Option<&'a str>) {
        (Some(config).filter(|c| !c.is_empty()), Some(split).filter(|s| !s.is_empty()))
    }

    #[test]
    fn patterns() {
        for (pattern, name, expected) in [
            ("data/train-*", "data/train-00000-of-00002.parquet", true),
            ("data/train-*", "data/test-00000.parquet", false),
            ("*.jsonl", "a/b.jsonl", false),
            ("**/*.jsonl", "a/b.jsonl", true),
            ("**/*.jsonl", "b.jsonl", true),
            ("**", "a/b/c.json", true),
            ("a/**/c.json", "a/c.json", true),
            ("a/**/c.json", "a/x/y/c.json", true),
            ("a/**/c.json", "ab/c.json", false),
            ("main/?.json", "main/x.json", true),
            ("main/?.json", "main//.json", false),
            ("train.json", "train.jsonl", false),
            ("", "", true),
            ("***", "a", true),
        ] {
            assert_eq!(fits(pattern, name), expected, "{pattern} {name}");
        }
        // Stars don't multiply the work.
        assert!(!fits(&"*a".repeat(2000), &"a".repeat(1999)));
    }

    #[test]
    fn names_suggest_splits() {
        let shards = ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002-ab.parquet"];
        assert_eq!(splits(&shards), [("train".to_owned(), 2)]);
        let odd =
            ["data/hard-00000-of-00001.parquet", "README.md", "dataset_infos.json", ".hidden/train.json"];
        assert_eq!(splits(&odd), [("hard".to_owned(), 1)]);
        let folders = ["raw/dev/a.jsonl", "raw/test/a.jsonl", "raw/test/b.jsonl"];
        assert_eq!(splits(&folders), [("validation".to_owned(), 1), ("test".to_owned(), 2)]);
        let files = ["my_train_file.json", "eval.json", "latest.json"];
        assert_eq!(splits(&files), [("test".to_owned(), 1), ("train".to_owned(), 1)]);
        assert_eq!(splits(&["aime24.jsonl"]), [("train".to_owned(), 1)]);
        assert_eq!(splits(&["README.md", "script.py", "dataset_info.json"]), []);
    }

    #[test]
    fn cards_declare_configurations() {
        let names = set(&[
            "main/train-0.parquet",
            "main/test-0.parquet",
            "socratic/train-0.parquet",
            "extra/a.jsonl",
            "x.jsonl",
        ]);
        let card = json!({"configs": [
            {"config_name": "main", "data_files": [
                {"split": "train", "path": "main/train-*"}, {"split": "test", "path": ["main/test-*"]}]},
            {"config_name": "socratic", "data_dir": "socratic"},
            {"config_name": "flat", "data_files": "*.jsonl"},
            {"config_name": "inside", "data_dir": "extra", "data_files": {"test": "a.jsonl"}},
            {"config_name": "gone", "data_files": "nowhere/*"},
        ]});
        let configs = configurations(&names, &card);
        let choose = |config, split| choose(&configs, named(config, split), DataRole::HeldOut);
        assert_eq!(configs.len(), 4);
        assert_eq!(choose("main", "").unwrap().files, ["main/test-0.parquet"]);
        assert_eq!(choose("", "main").unwrap().split, "test");
        assert_eq!(choose("main", "train").unwrap().files, ["main/train-0.parquet"]);
        assert_eq!(choose("socratic", "").unwrap().split, "train");
        assert_eq!(choose("flat", "").unwrap().files, ["x.jsonl"]);
        assert_eq!(choose("inside", "test").unwrap().files, ["extra/a.jsonl"]);
        let message = choose("", "").unwrap_err();
        assert!(message.contains("main, socratic, flat, inside; name one"), "{message}");
        let message = choose("main", "dev").unwrap_err();
        assert!(message.contains("no split of the name \"dev\"; there are train, test"), "{message}");
        let message = choose("other", "test").unwrap_err();
        assert!(message.contains("no configuration \"other\""), "{message}");
        assert!(choose("", "other").is_err());
    }

    #[test]
    fn the_default_configuration_and_the_role_decide() {
        let files = |name: &str| vec![format!("{name}.parquet")];
        let config = |name: &str, default| Configuration {
            name: name.to_owned(),
            default,
            splits: vec![("train".to_owned(), files("a")), ("validation".to_owned(), files("b"))],
        };
        let configs = [config("x", false), config("y", true)];
        let chosen = choose(&configs, (None, None), DataRole::Train).unwrap();
        assert_eq!((chosen.config.as_str(), chosen.split.as_str()), ("y", "train"));
        assert_eq!(choose(&configs, (None, None), DataRole::HeldOut).unwrap().split, "validation");
        assert_eq!(choose(&configs, (None, Some("train")), DataRole::HeldOut).unwrap().split, "train");
        assert_eq!(choose(&configs, (None, Some("x")), DataRole::HeldOut).unwrap().config, "x");
        assert!(choose(&configs, (None, Some("test")), DataRole::HeldOut).is_err());
    }

    #[test]
    fn copies_in_parquet_and_kinds_of_files() {
        let names = set(&["main/train/0000.parquet", "main/partial-test/0000.parquet", "README.md"]);
        let configs = converted(&names);
        assert_eq!(configs.len(), 1);
        assert_eq!(configs[0].splits[0].0, "test");
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(readable(&list(&["a.csv"])), Err(".csv".to_owned()));
        assert_eq!(readable(&list(&["a.jsonl", "b.jsonl", "c.csv"])).unwrap(), list(&["a.jsonl", "b.jsonl"]));
        assert_eq!(readable(&list(&["a.py"])), Err("no data".to_owned()));
    }

    #[test]
    fn parts_of_references() {
        assert_eq!(parse_part("main/test").unwrap(), (Some("main".into()), Some("test".into())));
        assert_eq!(parse_part("test").unwrap(), (None, Some("test".into())));
        for bad in ["", "/", "main/", "train[:100]", "train+test", "a/../b"] {
            assert!(parse_part(bad).is_err(), "{bad}");
        }
    }
}
