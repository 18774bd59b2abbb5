//! A GGUF file's tokenizer written as `tokenizer.json` gives the answers that transformers and sentencepiece gave for the file's.

use super::golden::{ROOT, compare, golden, real};
use super::*;

/// The tokenizer of a file, written and read again.
fn through_json(path: &Path) -> Tokenizer {
    let header = crate::gguf::Header::read(path).unwrap();
    let json = open_gguf(path).unwrap().to_json(&header.metadata).expect("of a GGUF file").unwrap();
    Folder::new(&serde_json::from_str(&json).unwrap()).open().unwrap()
}

fn check(path: &Path, answers: &str, at_least: usize) {
    let golden = golden(answers);
    let tokenizer = through_json(path);
    assert!(compare(&tokenizer, &golden) > at_least);
    for pair in golden["with_special"].as_array().into_iter().flatten() {
        let ids: Vec<u32> = serde_json::from_value(pair[1].clone()).unwrap();
        assert_eq!(tokenizer.encode(pair[0].as_str().unwrap(), true).unwrap(), ids, "{}", pair[0]);
    }
}

#[test]
fn sentence_piece_scores_become_rules() {
    check(&Path::new(ROOT).join("tiny-spm.gguf"), "tiny-spm.json", 200);
}

#[test]
fn real_tokenizers_survive() {
    for name in ["smollm2-135m", "gemma3-270m"] {
        let Some(path) = real(&format!("{name}.gguf")) else { continue };
        check(&path, &format!("{name}.json"), 250);
    }
}

#[test]
fn a_folders_tokenizer_has_its_file() {
    assert!(Folder::new(&byte_level()).open().unwrap().to_json(&Default::default()).is_none());
}

/// What is taken whole and has a space in it has no place where a space is put before every text.
#[test]
fn what_has_no_such_form_is_told() {
    let spm = |prefix: u8, kinds: [u8; 3]| {
        let types: Vec<u8> = kinds.iter().flat_map(|&kind| i32::from(kind).to_le_bytes()).collect();
        let scores: Vec<u8> = [0f32, -1.0, -2.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        Builder::default()
            .string("tokenizer.ggml.model", "llama")
            .strings("tokenizer.ggml.tokens", &["<unk>", "▁▁", "▁"])
            .array("tokenizer.ggml.token_type", 5, 3, &types)
            .array("tokenizer.ggml.scores", 6, 3, &scores)
            .u32("tokenizer.ggml.unknown_token_id", 0)
            .raw("tokenizer.ggml.add_space_prefix", 7, &[prefix])
            .raw("tokenizer.ggml.add_bos_token", 7, &[0])
    };
    let json = |builder: &Builder| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.gguf");
        std::fs::write(&path, builder.build()).unwrap();
        let header = crate::gguf::Header::read(&path).unwrap();
        open_gguf(&path).unwrap().to_json(&header.metadata).unwrap()
    };
    assert!(json(&spm(0, [2, 4, 1])).is_ok() && json(&spm(1, [2, 1, 1])).is_ok());
    let message = json(&spm(1, [2, 4, 1])).unwrap_err().to_string();
    assert!(message.contains("the token 1, \"▁▁\"") && message.contains("write a .gguf"), "{message}");
}
