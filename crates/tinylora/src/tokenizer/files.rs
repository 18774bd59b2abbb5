//! tokenizer.json and the configuration files beside it enter, a tokenizer leaves. Files are not trusted: what the
//! library does not check is checked here. No weights are read.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::error::TokenizerError;
use super::pieces::{Join, Pieces};
use super::{Encoder, ID_LIMIT, Opened, template};

/// Where the files are.
pub(super) struct Paths<'a> {
    pub(super) config: &'a Path,
    pub(super) tokenizer: &'a Path,
    pub(super) tokenizer_config: Option<&'a Path>,
    pub(super) chat_template: Option<&'a Path>,
    pub(super) generation_config: Option<&'a Path>,
}

/// The parts of tokenizer.json that the library does not check or does not show.
#[derive(Deserialize)]
struct Probe {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    decoder: Option<Value>,
    model: ModelProbe,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u64,
    content: String,
}

#[derive(Deserialize)]
struct ModelProbe {
    dropout: Option<f64>,
    unk_token: Option<String>,
}

/// How the library's decoder turns tokens into text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decoder {
    ByteLevel,
    /// `▁` is a space; `bytes`: `<0xNN>` is a byte.
    SentencePiece {
        bytes: bool,
        drop_first_space: bool,
    },
    /// None: words.
    Words,
}

/// Build the tokenizer that the files describe.
pub(super) fn open(paths: &Paths<'_>) -> Result<Opened, TokenizerError> {
    let (library, pieces) = parse(paths.tokenizer, &read(paths.tokenizer)?)?;

    let config = read_json(paths.config)?;
    let generation = paths.generation_config.map(read_json).transpose()?;
    let settings = paths.tokenizer_config.map(read_json).transpose()?.unwrap_or_default();
    let settings_path = paths.tokenizer_config.unwrap_or(paths.tokenizer);
    let token_id = |key: &str| named_token(settings_path, &settings, key, &library, pieces.len());

    let named_bos = token_id("bos_token")?;
    let bos = match (&named_bos, paths.tokenizer_config) {
        (Some((_, id)), _) => Some(*id),
        (None, Some(_)) => None,
        (None, None) => ids_of(paths.config, &config, "bos_token_id")?.first().copied(),
    };
    let mut end_tokens = match (&generation, paths.generation_config) {
        (Some(generation), Some(path)) => ids_of(path, generation, "eos_token_id")?,
        _ => Vec::new(),
    };
    if end_tokens.is_empty() {
        end_tokens = ids_of(paths.config, &config, "eos_token_id")?;
    }
    end_tokens.extend(token_id("eos_token")?.map(|(_, id)| id));
    let mut seen = std::collections::HashSet::new();
    end_tokens.retain(|id| seen.insert(*id));

    let names = template_names(&settings, bos, &end_tokens, &library);
    let template = match paths.chat_template {
        Some(path) => Some(template::Source { origin: path.display().to_string(), text: read(path)? }),
        None => template_in(settings_path, &settings)?,
    };
    Ok(Opened { encoder: Encoder::Library(Box::new(library)), pieces, bos, end_tokens, names, template })
}

/// The library's tokenizer and the pieces of a `tokenizer.json`, whose path is for messages.
pub(super) fn parse(path: &Path, text: &str) -> Result<(tokenizers::Tokenizer, Pieces), TokenizerError> {
    let (library, decoder) = load(path, text)?;
    let vocabulary = tokens_by_id(path, &library)?;
    let pieces = pieces(&library, &vocabulary, decoder);
    Ok((library, pieces))
}

fn read(path: &Path) -> Result<String, TokenizerError> {
    std::fs::read_to_string(path).map_err(|source| TokenizerError::Io { path: path.to_owned(), source })
}

fn malformed(path: &Path, problem: impl ToString) -> TokenizerError {
    TokenizerError::Json { path: path.to_owned(), problem: problem.to_string() }
}

fn read_json(path: &Path) -> Result<Value, TokenizerError> {
    let value: Value = serde_json::from_str(&read(path)?).map_err(|error| malformed(path, error))?;
    if value.is_object() { Ok(value) } else { Err(malformed(path, "expected a JSON object")) }
}

/// The library's tokenizer, checked, without the truncation and padding that a file may ask for: a prompt is
/// never cut or filled up.
fn load(path: &Path, text: &str) -> Result<(tokenizers::Tokenizer, Decoder), TokenizerError> {
    let probe: Probe = serde_json::from_str(text).map_err(|error| malformed(path, error))?;
    if probe.model.dropout.is_some_and(|dropout| dropout != 0.0) {
        return Err(malformed(
            path,
            "`model.dropout` is set, so that texts would be cut at random; set it to null",
        ));
    }
    let decoder = read_decoder(path, probe.decoder.as_ref())?;
    let loaded = catch_unwind(AssertUnwindSafe(|| tokenizers::Tokenizer::from_bytes(text.as_bytes())));
    let mut library = match loaded {
        Ok(Ok(library)) => library,
        Ok(Err(error)) => return Err(malformed(path, error)),
        Err(panic) => {
            let problem = super::panic_message(&*panic);
            return Err(TokenizerError::LoaderCrash { path: path.to_owned(), problem });
        }
    };
    library.with_padding(None);
    library.with_truncation(None).map_err(|error| malformed(path, error))?;
    for token in &probe.added_tokens {
        let got = library.token_to_id(&token.content);
        if token.content.is_empty() || got.map(u64::from) != Some(token.id) {
            return Err(TokenizerError::AddedTokenId {
                path: path.to_owned(),
                token: token.content.clone(),
                written: token.id,
                got: got.map_or("none".to_owned(), |id| id.to_string()),
            });
        }
    }
    if let Some(unknown) = &probe.model.unk_token
        && library.token_to_id(unknown).is_none()
    {
        let problem = format!("`model.unk_token` is {unknown:?}, which is not in the vocabulary");
        return Err(malformed(path, problem));
    }
    Ok((library, decoder))
}

fn read_decoder(path: &Path, decoder: Option<&Value>) -> Result<Decoder, TokenizerError> {
    let Some(decoder) = decoder.filter(|decoder| !decoder.is_null()) else { return Ok(Decoder::Words) };
    let unsupported = || TokenizerError::Decoder {
        path: path.to_owned(),
        found: decoder.to_string().chars().take(200).collect(),
    };
    match kind(decoder) {
        "ByteLevel" => Ok(Decoder::ByteLevel),
        "Metaspace" => {
            let scheme = decoder["prepend_scheme"].as_str();
            let drop_first_space = scheme.map_or(decoder["add_prefix_space"] != false, |it| it != "never");
            let known = decoder["replacement"] == "▁";
            known.then_some(Decoder::SentencePiece { bytes: false, drop_first_space }).ok_or_else(unsupported)
        }
        "Sequence" => {
            let steps = decoder["decoders"].as_array().ok_or_else(unsupported)?;
            if let [only] = &steps[..]
                && kind(only) != "Sequence"
            {
                return read_decoder(path, Some(only));
            }
            sequence(steps).ok_or_else(unsupported)
        }
        _ => Err(unsupported()),
    }
}

fn kind(step: &Value) -> &str {
    step["type"].as_str().unwrap_or_default()
}

/// The sequence of SentencePiece models, whose order is always the same.
fn sequence(steps: &[Value]) -> Option<Decoder> {
    let (mut bytes, mut spaces, mut drop_first_space) = (false, false, false);
    for step in steps {
        match kind(step) {
            "Replace" if step["pattern"]["String"] == "▁" && step["content"] == " " => spaces = true,
            "ByteFallback" => bytes = true,
            "Fuse" => (),
            "Strip" if step["content"] == " " && step["stop"] == 0 => match step["start"].as_u64() {
                Some(0) => (),
                Some(1) => drop_first_space = true,
                _ => return None,
            },
            _ => return None,
        }
    }
    spaces.then_some(Decoder::SentencePiece { bytes, drop_first_space })
}

/// All tokens by id; an id that no token has is `None`.
fn tokens_by_id(path: &Path, library: &tokenizers::Tokenizer) -> Result<Vec<Option<String>>, TokenizerError> {
    let vocabulary: HashMap<String, u32> = library.get_vocab(true);
    let Some(largest) = vocabulary.values().max().copied() else {
        return Err(TokenizerError::EmptyVocabulary { path: path.to_owned() });
    };
    if u64::from(largest) >= ID_LIMIT {
        let token = vocabulary.into_iter().find(|(_, id)| *id == largest).map(|(token, _)| token);
        let (token, id) = (token.unwrap_or_default(), u64::from(largest));
        return Err(TokenizerError::IdOutOfRange { path: path.to_owned(), token, id, limit: ID_LIMIT });
    }
    let mut tokens: Vec<Option<String>> = vec![None; largest as usize + 1];
    for (token, id) in vocabulary {
        if let Some(other) = tokens[id as usize].replace(token) {
            let second = tokens[id as usize].clone().unwrap_or_default();
            let (first, second) = if other < second { (other, second) } else { (second, other) };
            return Err(TokenizerError::DuplicateId { path: path.to_owned(), id, first, second });
        }
    }
    Ok(tokens)
}

fn pieces(library: &tokenizers::Tokenizer, vocabulary: &[Option<String>], decoder: Decoder) -> Pieces {
    let added = library.get_added_tokens_decoder();
    let letters = super::bytes_of_letters();
    let mut pieces = Pieces::new(match decoder {
        Decoder::SentencePiece { drop_first_space: true, .. } => Join::DropFirstSpace,
        Decoder::ByteLevel | Decoder::SentencePiece { .. } => Join::Plain,
        Decoder::Words => Join::Spaced,
    });
    for (token, id) in vocabulary.iter().zip(0..) {
        let Some(token) = token else {
            pieces.push(b"", false);
            continue;
        };
        let added = added.get(&id);
        if added.is_some_and(|token| token.special) {
            pieces.push(token.as_bytes(), true);
            continue;
        }
        match decoder {
            Decoder::ByteLevel if added.is_none() => {
                pieces.push(&super::letters_to_bytes(&letters, token), false);
            }
            Decoder::ByteLevel | Decoder::Words => pieces.push(token.as_bytes(), false),
            Decoder::SentencePiece { bytes, .. } => match super::byte_token(token).filter(|_| bytes) {
                Some(byte) => pieces.push(&[byte], false),
                None => pieces.push(token.replace('▁', " ").as_bytes(), false),
            },
        }
    }
    pieces
}

/// A special token is written as its text or as an object with `content`.
fn token_text<'a>(settings: &'a Value, key: &str) -> Option<&'a str> {
    let value = &settings[key];
    value.as_str().or_else(|| value["content"].as_str())
}

fn named_token(
    path: &Path,
    settings: &Value,
    key: &str,
    library: &tokenizers::Tokenizer,
    vocabulary: usize,
) -> Result<Option<(String, u32)>, TokenizerError> {
    let Some(token) = token_text(settings, key) else { return Ok(None) };
    match library.token_to_id(token) {
        Some(id) => Ok(Some((token.to_owned(), id))),
        None => Err(TokenizerError::SpecialToken {
            path: path.to_owned(),
            key: key.to_owned(),
            token: format!("{token:?}"),
            vocabulary,
        }),
    }
}

/// One id or a list, also in the `text_config` of models that see images too. The model's head may have more ids
/// than the tokenizer, so only impossible ones are refused.
fn ids_of(path: &Path, config: &Value, key: &str) -> Result<Vec<u32>, TokenizerError> {
    let value = if config[key].is_null() { &config["text_config"][key] } else { &config[key] };
    let list = match value {
        Value::Null => return Ok(Vec::new()),
        Value::Array(list) => list.as_slice(),
        single => std::slice::from_ref(single),
    };
    let id = |value: &Value| value.as_u64().filter(|id| *id < ID_LIMIT).and_then(|id| u32::try_from(id).ok());
    let ids: Option<Vec<u32>> = list.iter().map(id).collect();
    ids.ok_or_else(|| {
        malformed(path, format!("`{key}` is {value}, expected an id below {ID_LIMIT} or a list"))
    })
}

/// The variables of a template. Names come from tokenizer_config.json, without one from the ids.
fn template_names(
    settings: &Value,
    bos: Option<u32>,
    end_tokens: &[u32],
    library: &tokenizers::Tokenizer,
) -> Vec<(String, String)> {
    let keys = ["bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"];
    let mut names: Vec<(String, String)> = Vec::new();
    for key in keys {
        names.extend(token_text(settings, key).map(|token| (key.to_owned(), token.to_owned())));
    }
    if settings.is_null() {
        for (key, id) in [("bos_token", bos), ("eos_token", end_tokens.first().copied())] {
            let token = id.and_then(|id| library.id_to_token(id));
            names.extend(token.map(|token| (key.to_owned(), token)));
        }
    }
    names
}

/// `chat_template` is a template, or a list of named ones of which `default` is meant.
fn template_in(path: &Path, settings: &Value) -> Result<Option<template::Source>, TokenizerError> {
    let origin = |name: &str| format!("{} ({name})", path.display());
    match &settings["chat_template"] {
        Value::Null => Ok(None),
        Value::String(text) => {
            Ok(Some(template::Source { origin: origin("chat_template"), text: text.clone() }))
        }
        Value::Array(list) => {
            let named = list.iter().find(|entry| entry["name"] == "default");
            let text = named.and_then(|entry| entry["template"].as_str()).ok_or_else(|| {
                malformed(path, "`chat_template` is a list without a template of the name \"default\"")
            })?;
            Ok(Some(template::Source { origin: origin("chat_template default"), text: text.to_owned() }))
        }
        _ => Err(malformed(path, "`chat_template` is neither text nor a list of named templates")),
    }
}
