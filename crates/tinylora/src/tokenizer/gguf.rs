//! The metadata of a GGUF file enters, a tokenizer leaves: byte-level BPE (`gpt2`) or SentencePiece (`llama`).
//! Where a file leaves something open, what llama.cpp assumes is assumed here. No tensor is looked at.

use std::collections::HashMap;
use std::path::Path;

use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, Tokenizer as Library};

use super::error::TokenizerError;
use super::pieces::{Join, Pieces};
use super::spm::{Parts, SPACE, Spm};
use super::spm_json::{self, Role, Token};
use super::{Encoder, Frame, ID_LIMIT, Opened, pretokenizer, template};
use crate::gguf::{GgufError, GgufMetadata, Header, Value};

const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const SCORES: &str = "tokenizer.ggml.scores";
const MERGES: &str = "tokenizer.ggml.merges";

/// Tokens that end a turn or a text in the families that are supported. A file names one end token, while models
/// have several: Gemma's `<eos>` and `<end_of_turn>`, Qwen's `<|im_end|>` and `<|endoftext|>`.
const END_TOKENS: [&str; 8] = [
    "<|im_end|>",
    "<end_of_turn>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<EOT>",
];

/// What a token is for, `tokenizer.ggml.token_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

impl Kind {
    fn of(number: i32) -> Option<Kind> {
        Some(match number {
            1 => Kind::Normal,
            2 => Kind::Unknown,
            3 => Kind::Control,
            4 => Kind::UserDefined,
            5 => Kind::Unused,
            6 => Kind::Byte,
            _ => return None,
        })
    }

    /// Recognised in a text and taken whole.
    fn is_whole(self) -> bool {
        matches!(self, Kind::Unknown | Kind::Control | Kind::UserDefined)
    }

    /// Left out of decoded text.
    fn is_special(self) -> bool {
        matches!(self, Kind::Unknown | Kind::Control)
    }
}

struct Vocabulary<'a> {
    path: &'a Path,
    tokens: Vec<&'a str>,
    kinds: Vec<Kind>,
    ids: HashMap<&'a str, u32>,
}

/// Build the tokenizer that a file describes.
pub(super) fn open(header: &Header) -> Result<Opened, TokenizerError> {
    let model = header.string("tokenizer.ggml.model")?;
    let vocabulary = read_vocabulary(header)?;
    let special = |key: &'static str| special_id(header, &vocabulary, key);
    let bos = special("tokenizer.ggml.bos_token_id")?;
    let eos = special("tokenizer.ggml.eos_token_id")?;
    let mut end_tokens: Vec<u32> = Vec::new();
    for key in ["tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"] {
        end_tokens.extend(special(key)?);
    }
    for name in END_TOKENS {
        let id = vocabulary.ids.get(name).filter(|id| vocabulary.kinds[**id as usize].is_whole());
        end_tokens.extend(id);
    }
    let mut seen = std::collections::HashSet::new();
    let end_tokens = eos.into_iter().chain(end_tokens).filter(|id| seen.insert(*id)).collect();

    let (encoder, pieces) = match model {
        "gpt2" => byte_level(header, &vocabulary, bos, eos)?,
        "llama" => sentence_piece(header, &vocabulary, bos, eos)?,
        other => {
            return Err(TokenizerError::GgufModel { path: header.path.clone(), found: other.to_owned() });
        }
    };
    let mut names = Vec::new();
    for (name, key) in [
        ("bos_token", "tokenizer.ggml.bos_token_id"),
        ("eos_token", "tokenizer.ggml.eos_token_id"),
        ("unk_token", "tokenizer.ggml.unknown_token_id"),
        ("pad_token", "tokenizer.ggml.padding_token_id"),
    ] {
        if let Some(id) = special(key)? {
            names.push((name.to_owned(), vocabulary.tokens[id as usize].to_owned()));
        }
    }
    let key = "tokenizer.chat_template";
    let text = header.optional(key, "a string", Value::as_str)?;
    let origin = || format!("{} ({key})", header.path.display());
    let template = text.map(|text| template::Source { origin: origin(), text: text.to_owned() });
    Ok(Opened { encoder, pieces, bos, end_tokens, names, template })
}

fn read_vocabulary(header: &Header) -> Result<Vocabulary<'_>, TokenizerError> {
    let path = header.path.as_path();
    let tokens: Vec<&str> = header.strings(TOKENS)?.iter().collect();
    if tokens.is_empty() {
        return Err(TokenizerError::EmptyVocabulary { path: path.to_owned() });
    }
    if tokens.len() as u64 > ID_LIMIT {
        let (token, id) = (tokens[tokens.len() - 1].to_owned(), tokens.len() as u64 - 1);
        return Err(TokenizerError::IdOutOfRange { path: path.to_owned(), token, id, limit: ID_LIMIT });
    }
    let types = header.required(TYPES, "an array of whole numbers", Value::as_i32s)?;
    check_length(path, TYPES, types.len(), tokens.len())?;
    let mut kinds = Vec::with_capacity(types.len());
    for (id, number) in types.into_iter().enumerate() {
        kinds.push(Kind::of(number).ok_or_else(|| {
            token_problem(path, &tokens, id, format!("the type {number} is unknown (1 to 6 are)"))
        })?);
    }
    let mut ids = HashMap::with_capacity(tokens.len());
    for (&token, id) in tokens.iter().zip(0..) {
        if let Some(first) = ids.insert(token, id) {
            let token = token.to_owned();
            return Err(TokenizerError::DuplicateToken { path: path.to_owned(), token, first, second: id });
        }
    }
    Ok(Vocabulary { path, tokens, kinds, ids })
}

fn check_length(path: &Path, key: &'static str, found: usize, expected: usize) -> Result<(), TokenizerError> {
    if found == expected {
        return Ok(());
    }
    Err(TokenizerError::GgufLength { path: path.to_owned(), key, found, expected })
}

fn token_problem(path: &Path, tokens: &[&str], id: usize, problem: String) -> TokenizerError {
    TokenizerError::GgufToken { path: path.to_owned(), id, token: tokens[id].to_owned(), problem }
}

fn special_id(
    header: &Header,
    vocabulary: &Vocabulary<'_>,
    key: &'static str,
) -> Result<Option<u32>, TokenizerError> {
    let Some(id) = header.optional(key, "a whole number that is not negative", Value::as_u64)? else {
        return Ok(None);
    };
    let known = u32::try_from(id).ok().filter(|&id| (id as usize) < vocabulary.tokens.len());
    known.map(Some).ok_or_else(|| TokenizerError::SpecialToken {
        path: header.path.clone(),
        key: key.to_owned(),
        token: format!("the id {id}"),
        vocabulary: vocabulary.tokens.len(),
    })
}

/// What goes around a text; a token that must be added and is not named is an error.
fn frame(
    header: &Header,
    bos: Option<u32>,
    eos: Option<u32>,
    bos_by_default: bool,
) -> Result<Frame, TokenizerError> {
    let flag = |key: &str| header.optional(key, "a bool", Value::as_bool);
    let named = |wanted: bool, id: Option<u32>, key: &str| match (wanted, id) {
        (false, _) => Ok(None),
        (true, Some(id)) => Ok(Some(id)),
        (true, None) => Err(GgufError::MissingKey { path: header.path.clone(), key: key.to_owned() }),
    };
    let add_bos = flag("tokenizer.ggml.add_bos_token")?.unwrap_or(bos_by_default);
    let add_eos = flag("tokenizer.ggml.add_eos_token")?.unwrap_or(false);
    Ok(Frame {
        before: named(add_bos, bos, "tokenizer.ggml.bos_token_id")?,
        after: named(add_eos, eos, "tokenizer.ggml.eos_token_id")?,
    })
}

fn byte_level(
    header: &Header,
    vocabulary: &Vocabulary<'_>,
    bos: Option<u32>,
    eos: Option<u32>,
) -> Result<(Encoder, Pieces), TokenizerError> {
    let path = vocabulary.path;
    let name = header.optional("tokenizer.ggml.pre", "a string", Value::as_str)?.unwrap_or("default");
    let rules = pretokenizer::rules(name).ok_or_else(|| TokenizerError::GgufPreTokenizer {
        path: path.to_owned(),
        found: name.to_owned(),
        known: pretokenizer::known_names(),
    })?;
    let crash = |error: tokenizers::Error| TokenizerError::LoaderCrash {
        path: path.to_owned(),
        problem: error.to_string(),
    };
    let vocab: Vocab = vocabulary.ids.iter().map(|(token, id)| ((*token).to_owned(), *id)).collect();
    let model = BPE::builder()
        .vocab_and_merges(vocab, read_merges(header, vocabulary)?)
        .ignore_merges(rules.whole_words)
        .build()
        .map_err(crash)?;
    let mut library = Library::new(model);
    library.with_pre_tokenizer(Some(pretokenizer::build(&rules).map_err(crash)?));
    if rules.nfc {
        library.with_normalizer(Some(NFC));
    }
    let letters = super::bytes_of_letters();
    let mut whole = Vec::new();
    let mut pieces = Pieces::new(Join::Plain);
    for (&token, &kind) in vocabulary.tokens.iter().zip(&vocabulary.kinds) {
        if kind.is_whole() {
            whole.push(AddedToken::from(token, kind.is_special()).normalized(false));
            pieces.push(token.as_bytes(), kind.is_special());
        } else {
            pieces.push(&super::letters_to_bytes(&letters, token), false);
        }
    }
    library.add_tokens(&whole);
    let frame = frame(header, bos, eos, rules.bos_by_default)?;
    Ok((Encoder::ByteLevel(Box::new(library), frame), pieces))
}

/// The whole tokenizer as `tokenizer.json` has it: with the tokens around a text, and with what makes text of ids again.
pub(super) fn to_json(library: &Library, frame: &Frame) -> Result<String, tokenizers::Error> {
    let mut library = library.clone();
    library.with_decoder(Some(ByteLevel::default()));
    let named = |id: Option<u32>| id.and_then(|id| Some((library.id_to_token(id)?, id)));
    let (before, after) = (named(frame.before), named(frame.after));
    if before.is_some() || after.is_some() {
        let whole = |text: &str| {
            let around =
                |token: &Option<(String, u32)>| token.iter().map(|(token, _)| token.clone()).collect();
            let (before, after): (Vec<String>, Vec<String>) = (around(&before), around(&after));
            [before, vec![text.to_owned()], after].concat()
        };
        let special: Vec<(String, u32)> = before.iter().chain(&after).cloned().collect();
        let template = TemplateProcessing::builder()
            .try_single(whole("$A"))
            .and_then(|builder| builder.try_pair([whole("$A"), whole("$B")].concat()))?
            .special_tokens(special)
            .build()?;
        library.with_post_processor(Some(template));
    }
    library.to_string(true)
}

/// The same for SentencePiece, from the metadata that it was made from.
pub(super) fn spm_to_json(metadata: &GgufMetadata, spm: &Spm, frame: &Frame) -> Result<String, String> {
    let array = |key: &str| metadata.get(key).ok_or_else(|| format!("the metadata have no {key}"));
    let (tokens, types, scores) = (array(TOKENS)?, array(TYPES)?, array(SCORES)?);
    let (Some(texts), Some(types), Some(scores)) = (tokens.as_strings(), types.as_i32s(), scores.as_f32s())
    else {
        return Err("the metadata's vocabulary is not that of the tokenizer".to_owned());
    };
    let role = |kind: i32| match Kind::of(kind) {
        Some(Kind::Normal) => Role::Merged,
        Some(kind) if kind.is_whole() => Role::Whole { special: kind.is_special() },
        _ => Role::Other,
    };
    let tokens: Vec<Token<'_>> = texts
        .iter()
        .zip(types)
        .zip(scores)
        .map(|((text, kind), score)| Token { text, score: *score, role: role(kind) })
        .collect();
    spm_json::to_json(&tokens, spm.unknown(), spm.space_prefix(), frame)
}

/// The rules `left right`, best first. All three tokens must exist.
fn read_merges(
    header: &Header,
    vocabulary: &Vocabulary<'_>,
) -> Result<Vec<(String, String)>, TokenizerError> {
    let rules = header.strings(MERGES)?;
    let mut merges = Vec::with_capacity(rules.len());
    for (index, rule) in rules.iter().enumerate() {
        let refuse = |problem: String| TokenizerError::Merge {
            path: vocabulary.path.to_owned(),
            index,
            merge: rule.to_owned(),
            problem,
        };
        // No token of byte-level BPE holds a space, so the first one separates.
        let parts = rule.split_once(' ').filter(|(left, right)| !left.is_empty() && !right.is_empty());
        let (left, right) =
            parts.ok_or_else(|| refuse("expected two tokens with a space between".to_owned()))?;
        for token in [left, right, &[left, right].concat()] {
            if !vocabulary.ids.contains_key(token) {
                return Err(refuse(format!("{token:?} is not in the vocabulary")));
            }
        }
        merges.push((left.to_owned(), right.to_owned()));
    }
    Ok(merges)
}

fn sentence_piece(
    header: &Header,
    vocabulary: &Vocabulary<'_>,
    bos: Option<u32>,
    eos: Option<u32>,
) -> Result<(Encoder, Pieces), TokenizerError> {
    let Vocabulary { path, tokens, kinds, .. } = vocabulary;
    let scores = header.required(SCORES, "an array of f32", Value::as_f32s)?;
    check_length(path, SCORES, scores.len(), tokens.len())?;
    let flag = header.optional("tokenizer.ggml.add_space_prefix", "a bool", Value::as_bool)?;
    let space_prefix = flag.unwrap_or(true);
    let mut parts = Parts {
        merged: Vec::with_capacity(tokens.len()),
        whole: Vec::new(),
        bytes: [None; 256],
        unknown: special_id(header, vocabulary, "tokenizer.ggml.unknown_token_id")?,
        space_prefix,
    };
    let mut pieces = Pieces::new(if space_prefix { Join::DropFirstSpace } else { Join::Plain });
    for (index, (&token, &kind)) in tokens.iter().zip(kinds).enumerate() {
        let id = index as u32;
        if scores[index].is_nan() {
            return Err(token_problem(path, tokens, index, "its score is not a number".to_owned()));
        }
        if kind == Kind::Byte {
            let byte = super::byte_token(token).ok_or_else(|| {
                token_problem(path, tokens, index, "a byte token must be <0x00> to <0xFF>".to_owned())
            })?;
            parts.bytes[usize::from(byte)] = Some(id);
            pieces.push(&[byte], false);
            continue;
        }
        // Some files write the spaces of user-defined tokens as they are.
        let spelled = token.replace(' ', SPACE);
        if kind == Kind::Unknown && parts.unknown.is_none() {
            parts.unknown = Some(id);
        }
        if kind.is_whole() {
            parts.whole.push((spelled.clone(), id));
        }
        match kind.is_special() {
            true => pieces.push(token.as_bytes(), true),
            false => pieces.push(spelled.replace(SPACE, " ").as_bytes(), false),
        }
        if matches!(kind, Kind::Normal | Kind::UserDefined) {
            parts.merged.push((spelled, id, scores[index]));
        }
    }
    let spm = Spm::new(parts)
        .map_err(|problem| TokenizerError::LoaderCrash { path: path.to_path_buf(), problem })?;
    Ok((Encoder::Spm(Box::new(spm), frame(header, bos, eos, true)?), pieces))
}
