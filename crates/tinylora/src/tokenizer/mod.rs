//! Text enters, ids leave, and back; messages enter, the text or the ids of a conversation leave. A tokenizer comes
//! from a model's tokenizer.json with its configuration files, or from the metadata of a GGUF file. Nothing here
//! knows a model's weights or trains a vocabulary.

mod error;
mod files;
mod gguf;
mod pieces;
mod pretokenizer;
mod spm;
mod spm_json;
mod template;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

pub use error::TokenizerError;
pub use pieces::StreamDecoder;

use crate::gguf::GgufMetadata;
use crate::hub::{ModelFiles, ModelLayout};
use pieces::Pieces;
use template::ChatTemplate;

/// First id that is refused: far above any vocabulary, and low enough that tables by id stay small.
const ID_LIMIT: u64 = 1 << 24;

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, or what else the model's template knows.
    pub role: String,
    /// What was said.
    pub content: String,
}

/// A model's tokenizer.
pub struct Tokenizer {
    reference: String,
    encoder: Encoder,
    pieces: Arc<Pieces>,
    bos: Option<u32>,
    end_tokens: Vec<u32>,
    template: Option<ChatTemplate>,
}

/// How text becomes ids.
enum Encoder {
    /// tokenizer.json, with the special tokens that its post-processor adds.
    Library(Box<tokenizers::Tokenizer>),
    /// Byte-level BPE from a GGUF file, and what goes before and after a text.
    ByteLevel(Box<tokenizers::Tokenizer>, Frame),
    /// SentencePiece from a GGUF file, likewise.
    Spm(Box<spm::Spm>, Frame),
}

/// Ids that `add_special` puts around a text.
#[derive(Debug, Clone, Default)]
struct Frame {
    before: Option<u32>,
    after: Option<u32>,
}

/// What both kinds of files are read into.
struct Opened {
    encoder: Encoder,
    pieces: Pieces,
    bos: Option<u32>,
    end_tokens: Vec<u32>,
    /// Variables of the template, such as `bos_token`.
    names: Vec<(String, String)>,
    template: Option<template::Source>,
}

impl Tokenizer {
    /// Open a model's tokenizer. The date that chat templates can ask for (`strftime_now`; Llama 3's do) is that
    /// of now, in UTC, and stays the same for this tokenizer's life.
    pub fn open(files: &ModelFiles) -> Result<Tokenizer, TokenizerError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        Tokenizer::open_at(files, now)
    }

    /// The same with the date given, as seconds since 1970-01-01 UTC, so that a run can be repeated exactly.
    pub fn open_at(files: &ModelFiles, unix_seconds: u64) -> Result<Tokenizer, TokenizerError> {
        let opened = match &files.layout {
            ModelLayout::Gguf { path } => gguf::open(&crate::gguf::Header::read(path)?)?,
            ModelLayout::HuggingFace {
                config,
                tokenizer,
                tokenizer_config,
                chat_template,
                generation_config,
                ..
            } => files::open(&files::Paths {
                config,
                tokenizer,
                tokenizer_config: tokenizer_config.as_deref(),
                chat_template: chat_template.as_deref(),
                generation_config: generation_config.as_deref(),
            })?,
        };
        let Opened { encoder, pieces, bos, end_tokens, names, template } = opened;
        let template = template.map(|source| ChatTemplate::new(source, names, unix_seconds)).transpose()?;
        let reference = files.reference.clone();
        Ok(Tokenizer { reference, encoder, pieces: Arc::new(pieces), bos, end_tokens, template })
    }

    /// The ids of a text. Special tokens that are written in it are recognised. `add_special` adds what the model
    /// wants around a text, as a rule the BOS token before it.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, TokenizerError> {
        let failed = |problem: String| {
            let text = text.chars().take(40).collect();
            TokenizerError::Encode { text, problem }
        };
        let frame = match &self.encoder {
            Encoder::Library(_) => Frame::default(),
            Encoder::ByteLevel(_, frame) | Encoder::Spm(_, frame) => frame.clone(),
        };
        let ids = match &self.encoder {
            Encoder::Library(library) => encode_with(library, text, add_special).map_err(failed)?,
            Encoder::ByteLevel(library, _) => encode_with(library, text, false).map_err(failed)?,
            Encoder::Spm(spm, _) => spm.encode(text).map_err(|character| {
                failed(format!("the vocabulary has neither {character:?} nor its bytes nor an unknown token"))
            })?,
        };
        if !add_special {
            return Ok(ids);
        }
        Ok(frame.before.into_iter().chain(ids).chain(frame.after).collect())
    }

    /// The text of ids, special tokens left out. Bytes that are no UTF-8 give U+FFFD, ids beyond the vocabulary
    /// nothing.
    pub fn decode(&self, ids: &[u32]) -> String {
        self.pieces.decode(ids, false)
    }

    /// The text of ids with the special tokens as they are written.
    pub fn decode_with_special(&self, ids: &[u32]) -> String {
        self.pieces.decode(ids, true)
    }

    /// Decode a token at a time, special tokens left out.
    pub fn stream_decoder(&self) -> StreamDecoder {
        StreamDecoder::new(self.pieces.clone(), false)
    }

    /// One more than the largest id. The model's head may be larger, where its table is padded.
    pub fn vocab_size(&self) -> usize {
        self.pieces.len()
    }

    /// The token that begins a text, if the model has one. Whether it is added is `encode`'s concern.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The tokens that end a completion, the model's own end token first; possibly none.
    pub fn end_tokens(&self) -> &[u32] {
        &self.end_tokens
    }

    /// The text of a `tokenizer.json` with the same encoding, for the tokenizer of a GGUF file with these metadata; None for that
    /// of a folder, which has its file.
    pub fn to_json(&self, metadata: &GgufMetadata) -> Option<Result<String, TokenizerError>> {
        let json = match &self.encoder {
            Encoder::Library(_) => return None,
            Encoder::ByteLevel(library, frame) => {
                gguf::to_json(library, frame).map_err(|error| error.to_string())
            }
            Encoder::Spm(spm, frame) => gguf::spm_to_json(metadata, spm, frame),
        };
        Some(json.map_err(|problem| TokenizerError::NoJson { reference: self.reference.clone(), problem }))
    }

    /// Whether the model ships a chat template.
    pub fn has_chat_template(&self) -> bool {
        self.template.is_some()
    }

    /// The text of a conversation as the model's template writes it; `add_generation_prompt` ends it with the
    /// beginning of the assistant's turn.
    pub fn apply_chat_template(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String, TokenizerError> {
        let no_template = || TokenizerError::NoChatTemplate { reference: self.reference.clone() };
        self.template.as_ref().ok_or_else(no_template)?.render(messages, add_generation_prompt)
    }

    /// The ids of a conversation, as transformers' `apply_chat_template(tokenize=True)` has them: templates write
    /// the BOS token themselves where the model wants one, so none is added here.
    pub fn encode_chat(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<Vec<u32>, TokenizerError> {
        self.encode(&self.apply_chat_template(messages, add_generation_prompt)?, false)
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("reference", &self.reference)
            .field("vocab_size", &self.vocab_size())
            .field("bos", &self.bos)
            .field("end_tokens", &self.end_tokens)
            .field("has_chat_template", &self.has_chat_template())
            .finish_non_exhaustive()
    }
}

/// A damaged tokenizer.json can make the library panic; that must not end the program.
fn encode_with(library: &tokenizers::Tokenizer, text: &str, add_special: bool) -> Result<Vec<u32>, String> {
    let encoded = catch_unwind(AssertUnwindSafe(|| library.encode_fast(text, add_special)));
    match encoded {
        Ok(Ok(encoding)) => Ok(encoding.get_ids().to_vec()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(panic) => Err(format!("the tokenizer library crashed ({})", panic_message(&*panic))),
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().map(str::to_owned);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

/// The letters that byte-level BPE writes for the 256 bytes: printable bytes of Latin-1 are themselves, the others
/// get the code points from 256 on, in order.
fn byte_letters() -> [char; 256] {
    let mut others = '\u{100}'..;
    std::array::from_fn(|byte| match byte as u8 {
        byte @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => char::from(byte),
        _ => others.next().unwrap_or(char::REPLACEMENT_CHARACTER),
    })
}

/// The bytes that a token of byte-level BPE stands for; its own UTF-8 if it is not written in that alphabet.
fn letters_to_bytes(bytes: &std::collections::HashMap<char, u8>, token: &str) -> Vec<u8> {
    let spelled: Option<Vec<u8>> = token.chars().map(|letter| bytes.get(&letter).copied()).collect();
    spelled.unwrap_or_else(|| token.as_bytes().to_vec())
}

/// The other way round.
fn bytes_of_letters() -> std::collections::HashMap<char, u8> {
    byte_letters().into_iter().zip(0..=255).collect()
}

/// `<0xNN>` with two hexadecimal digits.
fn byte_token(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    let valid = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    if valid { u8::from_str_radix(digits, 16).ok() } else { None }
}

/// For fuzzing: the text of a `tokenizer.json`, which encodes and decodes `texts` if it is accepted.
#[cfg(any(test, fuzzing))]
pub(crate) fn try_json(json: &str, texts: &[&str]) -> Result<(), TokenizerError> {
    let (library, pieces) = files::parse(std::path::Path::new("tokenizer.json"), json)?;
    let tokenizer = Tokenizer {
        reference: String::new(),
        encoder: Encoder::Library(Box::new(library)),
        pieces: Arc::new(pieces),
        bos: None,
        end_tokens: Vec::new(),
        template: None,
    };
    for text in texts {
        if let Ok(ids) = tokenizer.encode(text, true) {
            let mut stream = tokenizer.stream_decoder();
            let streamed: String = ids.iter().filter_map(|&id| stream.push(id)).collect();
            assert!(tokenizer.decode(&ids).starts_with(&streamed), "the stream decodes as the whole does");
        }
    }
    Ok(())
}

/// For fuzzing: the text of a chat template, filled in with two messages if it is accepted.
#[cfg(any(test, fuzzing))]
pub(crate) fn try_template(text: &str) -> Result<(), TokenizerError> {
    let source = template::Source { origin: "template".to_owned(), text: text.to_owned() };
    let names = [("bos_token", "<s>"), ("eos_token", "</s>")].map(|(a, b)| (a.to_owned(), b.to_owned()));
    let template = ChatTemplate::new(source, names.into(), 1_700_000_000)?;
    let message = |role: &str, content: &str| Message { role: role.to_owned(), content: content.to_owned() };
    template.render(&[message("system", "Be kind."), message("user", "What is 7 + 5?")], true).map(drop)
}

#[cfg(test)]
mod tests;
