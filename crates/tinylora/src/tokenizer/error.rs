//! Why a tokenizer could not be opened or used. Every message names the file or template, the token or key, and
//! the numbers. Nothing here decides anything.

use std::path::PathBuf;

use crate::gguf::GgufError;

/// Why a tokenizer could not be opened or used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The operating system says no.
    #[error("{}: cannot read the file: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// A JSON file that does not hold what it should.
    #[error("{}: not a usable tokenizer file: {problem}; download it again or save it anew", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The loader broke down on the file.
    #[error("{}: the tokenizer loader crashed on this file ({problem}); the file is damaged or made by hand", path.display())]
    LoaderCrash {
        /// The file.
        path: PathBuf,
        /// What the loader said.
        problem: String,
    },
    /// No token at all.
    #[error("{}: the vocabulary is empty; this file cannot turn text into tokens", path.display())]
    EmptyVocabulary {
        /// The file.
        path: PathBuf,
    },
    /// An id that no model can have.
    #[error("{}: token {token:?} has the id {id}, ids must be below {limit}", path.display())]
    IdOutOfRange {
        /// The file.
        path: PathBuf,
        /// The token.
        token: String,
        /// As read.
        id: u64,
        /// The first id that is refused.
        limit: u64,
    },
    /// Two tokens share an id.
    #[error("{}: the tokens {first:?} and {second:?} share the id {id}; ids must be unique", path.display())]
    DuplicateId {
        /// The file.
        path: PathBuf,
        /// The id.
        id: u32,
        /// One token.
        first: String,
        /// The other token.
        second: String,
    },
    /// A token stands in the list twice.
    #[error("{}: token {token:?} stands in the vocabulary twice, as {first} and {second}", path.display())]
    DuplicateToken {
        /// The file.
        path: PathBuf,
        /// The token.
        token: String,
        /// First place.
        first: u32,
        /// Second place.
        second: u32,
    },
    /// An added token whose written id is not the one that it gets.
    #[error("{}: the added token {token:?} is written with the id {written} but would get {got}; ids of added tokens must agree with the vocabulary and follow it without gaps", path.display())]
    AddedTokenId {
        /// The file.
        path: PathBuf,
        /// The token.
        token: String,
        /// In the file.
        written: u64,
        /// What the vocabulary makes of it.
        got: String,
    },
    /// A decoder that is not known.
    #[error("{}: the decoder {found} is not supported; ByteLevel, Metaspace and Sequence of Replace \"▁\", ByteFallback, Fuse, Strip are", path.display())]
    Decoder {
        /// The file.
        path: PathBuf,
        /// As read.
        found: String,
    },
    /// A configuration names a token that does not exist.
    #[error("{}: `{key}` names {token}, which is not in the vocabulary of {vocabulary} ids", path.display())]
    SpecialToken {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// Token or id as read.
        token: String,
        /// Number of ids.
        vocabulary: usize,
    },
    /// A GGUF file could not be read, or lacks a key.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A kind of GGUF tokenizer that is not known.
    #[error("{}: `tokenizer.ggml.model` is {found:?}; \"gpt2\" (byte-level BPE) and \"llama\" (SentencePiece) are supported", path.display())]
    GgufModel {
        /// The file.
        path: PathBuf,
        /// As read.
        found: String,
    },
    /// A GGUF pre-tokenizer that is not known. Guessing another would silently cut text differently.
    #[error("{}: `tokenizer.ggml.pre` is {found:?}, which is not known; known are {known}", path.display())]
    GgufPreTokenizer {
        /// The file.
        path: PathBuf,
        /// As read.
        found: String,
        /// The names that are.
        known: String,
    },
    /// Two lists of one GGUF vocabulary differ in length.
    #[error("{}: `{key}` has {found} entries for {expected} tokens; the file is damaged, convert the model again", path.display())]
    GgufLength {
        /// The file.
        path: PathBuf,
        /// The shorter or longer list.
        key: &'static str,
        /// Its length.
        found: usize,
        /// Number of tokens.
        expected: usize,
    },
    /// A token's type or score is unusable.
    #[error("{}: token {id} ({token:?}): {problem}", path.display())]
    GgufToken {
        /// The file.
        path: PathBuf,
        /// Its place.
        id: usize,
        /// Its text.
        token: String,
        /// What is wrong.
        problem: String,
    },
    /// A merge rule is unusable.
    #[error("{}: merge {index} ({merge:?}): {problem}", path.display())]
    Merge {
        /// The file.
        path: PathBuf,
        /// Its place.
        index: usize,
        /// As read.
        merge: String,
        /// What is wrong.
        problem: String,
    },
    /// A text that cannot be expressed in the vocabulary.
    #[error("cannot encode the text that begins {text:?}: {problem}")]
    Encode {
        /// Its beginning.
        text: String,
        /// What is wrong.
        problem: String,
    },
    /// A tokenizer of a GGUF file that has no form as `tokenizer.json`.
    #[error(
        "{reference}: its tokenizer can't be written as tokenizer.json: {problem}; write a .gguf instead"
    )]
    NoJson {
        /// The model.
        reference: String,
        /// Why.
        problem: String,
    },
    /// The model ships no chat template.
    #[error(
        "{reference}: the model ships no chat template (a base model?); give plain prompts instead of messages"
    )]
    NoChatTemplate {
        /// The model.
        reference: String,
    },
    /// A chat template that does not compile, or fails on the messages.
    #[error("chat template of {template}: {problem}")]
    Template {
        /// Where the template stands.
        template: String,
        /// What is wrong, with the line.
        problem: String,
    },
    /// A chat template that did not come to its end.
    #[error(
        "chat template of {template}: stopped at the limit of {limit}; the template loops or makes far too much text"
    )]
    TemplateLimit {
        /// Where the template stands.
        template: String,
        /// The limit, with its number.
        limit: String,
    },
    /// The template itself refuses the messages (`raise_exception`).
    #[error("chat template of {template} refuses the messages: {message}")]
    TemplateRefusal {
        /// Where the template stands.
        template: String,
        /// What it says.
        message: String,
    },
}
