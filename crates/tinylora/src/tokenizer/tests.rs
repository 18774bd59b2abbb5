//! Answers of transformers and sentencepiece (`golden/tokenizer.py` made them), small tokenizers made here, and
//! files that are wrong.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::*;
use crate::gguf::testing::Builder;

/// A model's files as the Hub has them, made in a folder of its own.
struct Folder {
    folder: tempfile::TempDir,
}

impl Folder {
    fn new(tokenizer: &Value) -> Folder {
        let files = Folder { folder: tempfile::tempdir().unwrap() };
        files.write("tokenizer.json", &tokenizer.to_string());
        files.write("config.json", "{}");
        files
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join(name), text).unwrap();
    }

    fn with(self, name: &str, value: &Value) -> Folder {
        self.write(name, &value.to_string());
        self
    }

    fn open(&self) -> Result<Tokenizer, TokenizerError> {
        let present = |name: &str| Some(self.folder.path().join(name)).filter(|path| path.exists());
        let layout = ModelLayout::HuggingFace {
            config: self.folder.path().join("config.json"),
            weights: Vec::new(),
            tokenizer: self.folder.path().join("tokenizer.json"),
            tokenizer_config: present("tokenizer_config.json"),
            chat_template: present("chat_template.jinja"),
            generation_config: present("generation_config.json"),
        };
        Tokenizer::open(&ModelFiles { reference: "test".into(), layout })
    }

    fn error(&self) -> String {
        let error = self.open().unwrap_err().to_string();
        assert!(error.contains(".json") || error.contains(".jinja"), "no file is named: {error}");
        error
    }
}

fn open_gguf(path: &Path) -> Result<Tokenizer, TokenizerError> {
    let layout = ModelLayout::Gguf { path: path.to_owned() };
    Tokenizer::open_at(&ModelFiles { reference: path.display().to_string(), layout }, 0)
}

fn open_built(builder: &Builder) -> Result<Tokenizer, TokenizerError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, builder.build()).unwrap();
    open_gguf(&path)
}

fn gguf_error(builder: &Builder) -> String {
    let error = open_built(builder).unwrap_err().to_string();
    assert!(error.contains("model.gguf"), "no file is named: {error}");
    error
}

fn message(role: &str, content: &str) -> Message {
    Message { role: role.into(), content: content.into() }
}

/// Byte-level BPE with all bytes, "ab", "Ġa" and two added tokens.
fn byte_level() -> Value {
    let mut vocab: Vec<String> = byte_letters().iter().map(char::to_string).collect();
    vocab.extend(["ab".into(), "Ġa".into(), "Ġab".into()]);
    let vocab: serde_json::Map<String, Value> =
        vocab.into_iter().zip(0..).map(|(token, id)| (token, json!(id))).collect();
    let added = |id: u32, content: &str, special: bool| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": special})
    };
    json!({
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0},
        "padding": null,
        "added_tokens": [added(259, "<end>", true), added(260, "<think>", false)],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<end>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<end>": {"id": "<end>", "ids": [259], "tokens": ["<end>"]}}},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": [["a", "b"], ["Ġ", "a"], ["Ġ", "ab"]]}
    })
}

fn changed(change: impl FnOnce(&mut Value)) -> Folder {
    let mut tokenizer = byte_level();
    change(&mut tokenizer);
    Folder::new(&tokenizer)
}

const TYPES: &str = "tokenizer.ggml.token_type";

/// Keys of a vocabulary; `types` are i32.
fn vocabulary(model: &str, tokens: &[&str], types: &[i32]) -> Builder {
    let raw: Vec<u8> = types.iter().flat_map(|kind| kind.to_le_bytes()).collect();
    Builder::default().string("tokenizer.ggml.model", model).strings("tokenizer.ggml.tokens", tokens).array(
        TYPES,
        5,
        types.len() as u64,
        &raw,
    )
}

fn scores(builder: Builder, scores: &[f32]) -> Builder {
    let raw: Vec<u8> = scores.iter().flat_map(|score| score.to_le_bytes()).collect();
    builder.array("tokenizer.ggml.scores", 6, scores.len() as u64, &raw)
}

const SPM_TOKENS: [&str; 7] = ["<unk>", "<s>", "</s>", "<0x41>", "▁", "b", "▁b"];
const SPM_TYPES: [i32; 7] = [2, 3, 3, 6, 1, 1, 1];

fn small_spm() -> Builder {
    scores(vocabulary("llama", &SPM_TOKENS, &SPM_TYPES), &[0.0, 0.0, 0.0, 0.0, -2.0, -3.0, -1.0])
        .u32("tokenizer.ggml.bos_token_id", 1)
        .u32("tokenizer.ggml.eos_token_id", 2)
}

fn small_bpe(merges: &[&str]) -> Builder {
    vocabulary("gpt2", &["a", "b", "ab", "Ġ", "<|im_end|>"], &[1, 1, 1, 1, 3])
        .strings("tokenizer.ggml.merges", merges)
        .string("tokenizer.ggml.pre", "smollm")
}

mod broken;
mod golden;
mod json;
mod small;
