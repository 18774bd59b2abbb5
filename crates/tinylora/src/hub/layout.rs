//! The names of the files in a folder or repository enter, the model's layout leaves; of contents only a
//! shard index and a GGUF file's first four bytes are read.

use std::{
    collections::BTreeSet,
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use super::{
    ModelLayout,
    error::{HubError, io_error},
    reference::is_safe_relative,
};

pub(super) const CONFIG: &str = "config.json";
pub(super) const TOKENIZER: &str = "tokenizer.json";
pub(super) const WEIGHTS: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";
/// Files that are taken where present.
pub(super) const OPTIONAL: [&str; 3] =
    ["tokenizer_config.json", "chat_template.jinja", "generation_config.json"];

/// Which of the files that are there make up the model.
#[derive(Debug, PartialEq)]
pub(super) enum Choice {
    /// config.json, tokenizer.json and one weights file.
    Single,
    /// config.json, tokenizer.json and an index of shards.
    Sharded,
    /// One GGUF file.
    Gguf(String),
}

/// The layout of an existing local folder or file.
pub(super) fn local(path: &Path) -> Result<ModelLayout, HubError> {
    if path.is_dir() {
        return folder(path);
    }
    if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("safetensors")) {
        let why = "give the folder that holds this file, with config.json and tokenizer.json beside it";
        return Err(not_a_model(&path.display().to_string(), why.to_owned()));
    }
    check_gguf(path)?;
    Ok(ModelLayout::Gguf { path: path.to_path_buf() })
}

/// The layout of a folder, which may be a snapshot in the Hub's cache.
pub(super) fn folder(path: &Path) -> Result<ModelLayout, HubError> {
    let place = path.display().to_string();
    let weights = match choose(&place, &names_in(path)?)? {
        Choice::Gguf(name) => {
            let path = path.join(name);
            check_gguf(&path)?;
            return Ok(ModelLayout::Gguf { path });
        }
        Choice::Single => vec![path.join(WEIGHTS)],
        Choice::Sharded => {
            let index = path.join(INDEX);
            let text = fs::read(&index).map_err(io_error("read", &index))?;
            let names = shards(&text, &index.display().to_string())?;
            if let Some(missing) = names.iter().find(|name| !path.join(name).is_file()) {
                let why = format!(
                    "{missing}, which {INDEX} names, is missing; the download or copy isn't complete"
                );
                return Err(not_a_model(&place, why));
            }
            names.iter().map(|name| path.join(name)).collect()
        }
    };
    for file in [path.join(CONFIG), path.join(TOKENIZER)].iter().chain(&weights) {
        check_content(file)?;
    }
    let present = |name: &str| Some(path.join(name)).filter(|file| file.is_file());
    let [tokenizer_config, chat_template, generation_config] = OPTIONAL.map(present);
    Ok(ModelLayout::HuggingFace {
        config: path.join(CONFIG),
        weights,
        tokenizer: path.join(TOKENIZER),
        tokenizer_config,
        chat_template,
        generation_config,
    })
}

/// Chooses the model among `names` (paths relative to the folder or repository `place`).
pub(super) fn choose(place: &str, names: &BTreeSet<String>) -> Result<Choice, HubError> {
    let has = |name: &str| names.contains(name);
    let with_end = |end: &str| -> Vec<&str> {
        names.iter().map(String::as_str).filter(|name| name.to_ascii_lowercase().ends_with(end)).collect()
    };
    let ggufs = with_end(".gguf");
    let weights = if has(WEIGHTS) {
        Some(Choice::Single)
    } else if has(INDEX) {
        Some(Choice::Sharded)
    } else {
        None
    };
    match (weights, has(CONFIG), has(TOKENIZER), ggufs.as_slice()) {
        (Some(choice), true, true, _) => Ok(choice),
        (_, _, _, [one]) => Ok(Choice::Gguf((*one).to_owned())),
        (None, _, _, [_, _, ..]) => {
            let why = format!(
                "holds {} GGUF files ({}); name one, as in {place}/{}",
                ggufs.len(),
                some(&ggufs),
                ggufs[0]
            );
            Err(not_a_model(place, why))
        }
        (Some(_), false, _, _) => Err(not_a_model(place, format!("{CONFIG} is missing"))),
        (Some(_), true, false, _) => {
            let why = format!(
                "{TOKENIZER} is missing (save the tokenizer with transformers' fast tokenizer to get it)"
            );
            Err(not_a_model(place, why))
        }
        (None, _, _, []) => {
            let others = [with_end(".safetensors"), with_end(".bin"), with_end(".pth")].concat();
            let found = if others.is_empty() { "no weights".to_owned() } else { some(&others) };
            let why = format!("neither {WEIGHTS}, {INDEX} nor a .gguf is there (found {found})");
            Err(not_a_model(place, why))
        }
    }
}

/// The shards that an index names, in the order in which they first appear.
pub(super) fn shards(index: &[u8], place: &str) -> Result<Vec<String>, HubError> {
    let bad = |why: String| not_a_model(place, why);
    let json: serde_json::Value =
        serde_json::from_slice(index).map_err(|error| bad(format!("not valid JSON: {error}")))?;
    let map = json.get("weight_map").and_then(|map| map.as_object());
    let map = map.ok_or_else(|| bad("there is no \"weight_map\"".to_owned()))?;
    let mut names: Vec<String> = Vec::new();
    for (tensor, shard) in map {
        let shard = shard.as_str().ok_or_else(|| bad(format!("the file of tensor {tensor} is no text")))?;
        if !is_safe_relative(shard) {
            return Err(bad(format!(
                "tensor {tensor} names the file \"{shard}\", which isn't inside the folder"
            )));
        }
        if !names.iter().any(|name| name == shard) {
            names.push(shard.to_owned());
        }
    }
    if names.is_empty() {
        return Err(bad("it names no file".to_owned()));
    }
    Ok(names)
}

/// Refuses a part of a GGUF model, by its name alone.
pub(super) fn check_whole(name: &str) -> Result<(), HubError> {
    match split_parts(name) {
        None => Ok(()),
        Some(parts) => {
            let why = format!(
                "is one of {parts} parts; join them first (llama-gguf-split --merge), then give the whole file"
            );
            Err(not_a_model(name, why))
        }
    }
}

/// Refuses a file that can't be one whole GGUF model.
pub(super) fn check_gguf(path: &Path) -> Result<(), HubError> {
    let place = path.display().to_string();
    check_whole(&place)?;
    check_content(path)?;
    let mut magic = [0; 4];
    let mut file = fs::File::open(path).map_err(io_error("open", path))?;
    match file.read_exact(&mut magic) {
        Ok(()) if &magic == b"GGUF" => Ok(()),
        _ => Err(not_a_model(
            &place,
            "doesn't begin as a GGUF file does; is it whole, and the right file?".to_owned(),
        )),
    }
}

/// Refuses what a Git clone without LFS has in place of a large file: a few lines that say where it is.
pub(super) fn check_content(path: &Path) -> Result<(), HubError> {
    const POINTER: &[u8] = b"version https://git-lfs.github.com/spec/v";
    let mut head = [0; POINTER.len()];
    // What can't be read is for whoever needs it to say.
    match fs::File::open(path).and_then(|mut file| file.read_exact(&mut head)) {
        Ok(()) if head == *POINTER => Err(HubError::Pointer { path: path.to_path_buf() }),
        _ => Ok(()),
    }
}

/// `model-00001-of-00003.gguf` → 3.
fn split_parts(name: &str) -> Option<u32> {
    let stem = name.strip_suffix(".gguf")?;
    let (front, total) = stem.rsplit_once("-of-")?;
    let (_, number) = front.rsplit_once('-')?;
    number.parse::<u32>().ok()?;
    total.parse().ok().filter(|total| *total > 1)
}

/// Names of the files in a folder; a link to nothing doesn't count.
fn names_in(path: &Path) -> Result<BTreeSet<String>, HubError> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(path).map_err(io_error("read the folder", path))? {
        let entry = entry.map_err(io_error("read the folder", path))?;
        if entry.path().is_file() {
            names.insert(entry.file_name().to_string_lossy().into_owned());
        }
    }
    Ok(names)
}

fn some(names: &[&str]) -> String {
    let more = if names.len() > 8 { ", …" } else { "" };
    format!("{}{more}", names[..names.len().min(8)].join(", "))
}

fn not_a_model(place: &str, why: String) -> HubError {
    HubError::NotAModel { place: place.to_owned(), why }
}

/// The weights files of a layout.
pub(super) fn weights(layout: &ModelLayout) -> Vec<PathBuf> {
    match layout {
        ModelLayout::HuggingFace { weights, .. } => weights.clone(),
        ModelLayout::Gguf { path } => vec![path.clone()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder_with(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("temporary folder");
        for (name, text) in files {
            fs::write(folder.path().join(name), text).expect("write");
        }
        folder
    }

    fn complaint(files: &[(&str, &str)]) -> String {
        local(folder_with(files).path()).expect_err("not a model").to_string()
    }

    #[test]
    fn a_folder_with_one_weights_file() {
        let files = [
            (CONFIG, "{}"),
            (TOKENIZER, "{}"),
            (WEIGHTS, "w"),
            ("chat_template.jinja", "t"),
            ("m.gguf", "GGUF"),
        ];
        let folder = folder_with(&files);
        let ModelLayout::HuggingFace { weights, chat_template, tokenizer_config, .. } =
            local(folder.path()).expect("a model")
        else {
            panic!("not the Hub's layout");
        };
        assert_eq!(weights, [folder.path().join(WEIGHTS)]);
        assert_eq!(chat_template, Some(folder.path().join("chat_template.jinja")));
        assert_eq!(tokenizer_config, None);
    }

    #[test]
    fn shards_keep_the_order_of_the_index() {
        let index = r#"{"weight_map": {"z": "b.safetensors", "a": "a.safetensors", "y": "b.safetensors"}}"#;
        let files =
            [(CONFIG, "{}"), (TOKENIZER, "{}"), (INDEX, index), ("a.safetensors", ""), ("b.safetensors", "")];
        let folder = folder_with(&files);
        let weights = weights(&local(folder.path()).expect("a model"));
        assert_eq!(weights, [folder.path().join("b.safetensors"), folder.path().join("a.safetensors")]);
        assert!(complaint(&files[..4]).contains("b.safetensors, which"));
        let outside = r#"{"weight_map": {"z": "../b.safetensors"}}"#;
        assert!(complaint(&[(CONFIG, ""), (TOKENIZER, ""), (INDEX, outside)]).contains("isn't inside"));
        assert!(complaint(&[(CONFIG, ""), (TOKENIZER, ""), (INDEX, "{")]).contains("not valid JSON"));
    }

    #[test]
    fn gguf_files() {
        let folder = folder_with(&[("m.gguf", "GGUF...")]);
        for path in [folder.path().to_path_buf(), folder.path().join("m.gguf")] {
            assert_eq!(weights(&local(&path).expect("a model")), [folder.path().join("m.gguf")]);
        }
        assert!(complaint(&[("m.gguf", "GG")]).contains("doesn't begin"));
        assert!(
            complaint(&[("m.gguf", "GGUF"), ("n.gguf", "GGUF")])
                .contains("holds 2 GGUF files (m.gguf, n.gguf)")
        );
        assert!(complaint(&[("m-00001-of-00003.gguf", "GGUF")]).contains("one of 3 parts"));
    }

    #[test]
    fn pointers_of_git_lfs_are_no_files() {
        let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 538090408\n";
        for name in [WEIGHTS, TOKENIZER] {
            let text = |file: &str| if file == name { pointer } else { "{}" };
            let message = complaint(&[CONFIG, TOKENIZER, WEIGHTS].map(|file| (file, text(file))));
            assert!(message.contains(name) && message.contains("`git lfs pull`"), "{message}");
        }
        let message = complaint(&[("m.gguf", pointer)]);
        assert!(message.contains("m.gguf") && message.contains("`git lfs pull`"), "{message}");
    }

    #[test]
    fn what_is_missing_is_named() {
        assert!(
            complaint(&[(CONFIG, ""), (TOKENIZER, ""), ("pytorch_model.bin", "")])
                .contains("pytorch_model.bin")
        );
        assert!(complaint(&[(WEIGHTS, ""), (TOKENIZER, "")]).contains("config.json is missing"));
        assert!(complaint(&[(WEIGHTS, ""), (CONFIG, "")]).contains("tokenizer.json is missing"));
        assert!(complaint(&[]).contains("no weights"));
        let folder = folder_with(&[(WEIGHTS, "")]);
        let message = local(&folder.path().join(WEIGHTS)).expect_err("a file").to_string();
        assert!(message.contains("give the folder"), "{message}");
    }
}
