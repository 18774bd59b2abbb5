//! A SentencePiece vocabulary with scores enters, the text of a `tokenizer.json` with the same encoding leaves. Nothing here
//! encodes.
//!
//! The library's BPE has rules in an order where SentencePiece has scores of tokens: each way to cut a token into two
//! becomes a rule, and rules are ordered by the score of what they make. Ties within a score go by id there, from the left
//! here; and a token both of whose halves are unknown is never made. Vocabularies that were trained have neither.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::Frame;
use super::spm::SPACE;

/// A token of the file, in the order of ids.
pub(super) struct Token<'a> {
    /// As the file spells it.
    pub text: &'a str,
    pub score: f32,
    pub role: Role,
}

/// What a token does in encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Merging may make it.
    Merged,
    /// Taken whole where it stands in a text; left out of decoded text if special, made by merging as well if not.
    Whole { special: bool },
    /// A byte, or unused.
    Other,
}

/// Err: what can't be said in that form.
pub(super) fn to_json(
    tokens: &[Token<'_>],
    unknown: Option<u32>,
    space_prefix: bool,
    frame: &Frame,
) -> Result<String, String> {
    let spelled: Vec<String> = tokens.iter().map(|token| token.text.replace(' ', SPACE)).collect();
    let mut vocabulary = Map::with_capacity(tokens.len());
    for (id, text) in spelled.iter().enumerate() {
        if let Some(other) = vocabulary.insert(text.clone(), json!(id)) {
            return Err(format!("the tokens {other} and {id} are both written {text:?}"));
        }
    }
    let added = added_tokens(tokens, &spelled, space_prefix)?;
    let mut normalizers = vec![json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE})];
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if space_prefix {
        normalizers.insert(0, json!({"type": "Prepend", "prepend": SPACE}));
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let text = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": null,
        "post_processor": around(frame, &spelled),
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": unknown.map(|id| &spelled[id as usize]),
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": true,
            "byte_fallback": true,
            "ignore_merges": false,
            "vocab": vocabulary,
            "merges": merges(tokens, &spelled),
        },
    });
    Ok(text.to_string())
}

fn added_tokens(tokens: &[Token<'_>], spelled: &[String], space_prefix: bool) -> Result<Vec<Value>, String> {
    let mut added = Vec::new();
    for (id, (token, text)) in tokens.iter().zip(spelled).enumerate() {
        let Role::Whole { special } = token.role else { continue };
        // One with spaces is found after spaces were rewritten; where one is put before a text, it would be put before such
        // a token as well.
        let normalized = text.contains(SPACE);
        if normalized && space_prefix {
            return Err(format!("the token {id}, {text:?}, is taken whole and has a space in it"));
        }
        added.push(json!({"id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": normalized, "special": special}));
    }
    Ok(added)
}

/// The rules, best first.
fn merges(tokens: &[Token<'_>], spelled: &[String]) -> Vec<[String; 2]> {
    let merged = |token: &Token<'_>| matches!(token.role, Role::Merged | Role::Whole { special: false });
    let known: HashMap<&str, usize> = spelled
        .iter()
        .enumerate()
        .filter(|(id, _)| merged(&tokens[*id]))
        .map(|(id, text)| (text.as_str(), id))
        .collect();
    let mut rules: Vec<(f32, usize, usize, usize)> = Vec::new();
    for (text, &id) in &known {
        for (at, _) in text.char_indices().skip(1) {
            if let (Some(&left), Some(&right)) = (known.get(&text[..at]), known.get(&text[at..])) {
                rules.push((tokens[id].score, id, left, right));
            }
        }
    }
    rules.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2, a.3).cmp(&(b.1, b.2, b.3))));
    rules.into_iter().map(|(_, _, left, right)| [spelled[left].clone(), spelled[right].clone()]).collect()
}

/// What is put before and after a text.
fn around(frame: &Frame, spelled: &[String]) -> Value {
    if frame.before.is_none() && frame.after.is_none() {
        return Value::Null;
    }
    let one = |id: &Option<u32>, kind: u32| {
        id.map(|id| json!({"SpecialToken": {"id": spelled[id as usize], "type_id": kind}}))
    };
    let whole = |name: &str, kind: u32| {
        let text = json!({"Sequence": {"id": name, "type_id": kind}});
        [one(&frame.before, kind), Some(text), one(&frame.after, kind)]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
    };
    let named = frame.before.iter().chain(&frame.after).map(|&id| {
        let text = &spelled[id as usize];
        (text.clone(), json!({"id": text, "ids": [id], "tokens": [text]}))
    });
    let pair = [whole("A", 0), whole("B", 1)].concat();
    json!({"type": "TemplateProcessing", "single": whole("A", 0), "pair": pair,
        "special_tokens": named.collect::<Map<_, _>>()})
}
