//! Small tokenizers whose answers are known by hand.

use super::*;

#[test]
fn text_goes_there_and_back() {
    let tokenizer = Folder::new(&byte_level()).open().unwrap();
    let ids = tokenizer.encode("ab ab<end>é<think>", false).unwrap();
    // The id of a byte is the byte.
    assert_eq!(ids, [256, 258, 259, 0xc3, 0xa9, 260]);
    assert_eq!(tokenizer.decode(&ids), "ab abé<think>");
    assert_eq!(tokenizer.decode_with_special(&ids), "ab ab<end>é<think>");
    assert_eq!(tokenizer.vocab_size(), 261);
}

#[test]
fn truncation_in_the_file_is_not_obeyed_and_special_tokens_are_added() {
    let tokenizer = Folder::new(&byte_level()).open().unwrap();
    assert_eq!(tokenizer.encode(&"ab ".repeat(50), false).unwrap().len(), 51);
    assert_eq!(tokenizer.encode("ab", true).unwrap(), [259, 256]);
}

#[test]
fn the_stream_gives_what_decode_gives() {
    let tokenizer = Folder::new(&byte_level()).open().unwrap();
    let ids = tokenizer.encode("né ab 😀<end>!", false).unwrap();
    let mut stream = tokenizer.stream_decoder();
    let mut text: String = ids.iter().filter_map(|&id| stream.push(id)).collect();
    text.extend(stream.finish());
    assert_eq!(text, "né ab 😀!");
}

#[test]
fn end_tokens_come_from_all_files_once() {
    let files = || {
        Folder::new(&byte_level()).with("tokenizer_config.json", &json!({"eos_token": {"content": "<end>"}}))
    };
    assert_eq!(files().open().unwrap().end_tokens(), [259]);
    let both = files().with("generation_config.json", &json!({"eos_token_id": [260, 259]}));
    assert_eq!(both.open().unwrap().end_tokens(), [260, 259]);
    let config = files().with("config.json", &json!({"text_config": {"eos_token_id": 7}}));
    assert_eq!(config.open().unwrap().end_tokens(), [7, 259]);
    assert!(Folder::new(&byte_level()).open().unwrap().end_tokens().is_empty());
}

#[test]
fn bos_comes_from_the_name_or_without_names_from_the_config() {
    let named = Folder::new(&byte_level()).with("tokenizer_config.json", &json!({"bos_token": "<think>"}));
    assert_eq!(named.open().unwrap().bos(), Some(260));
    let unnamed = Folder::new(&byte_level()).with("config.json", &json!({"bos_token_id": 259}));
    assert_eq!(unnamed.open().unwrap().bos(), Some(259));
    let none = Folder::new(&byte_level())
        .with("config.json", &json!({"bos_token_id": 259}))
        .with("tokenizer_config.json", &json!({"bos_token": null}));
    assert_eq!(none.open().unwrap().bos(), None);
}

#[test]
fn a_conversation_gets_no_second_bos() {
    let template = "{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}";
    let settings = json!({"bos_token": "<think>", "eos_token": "<end>", "chat_template": template});
    let tokenizer = Folder::new(&byte_level()).with("tokenizer_config.json", &settings).open().unwrap();
    let messages = [message("user", "ab")];
    assert!(tokenizer.has_chat_template());
    assert_eq!(tokenizer.apply_chat_template(&messages, true).unwrap(), "<think>ab<end>");
    assert_eq!(tokenizer.encode_chat(&messages, true).unwrap(), [260, 256, 259]);
}

#[test]
fn the_default_of_named_templates_and_the_file_before_all() {
    let named =
        json!({"chat_template": [{"name": "tools", "template": "t"}, {"name": "default", "template": "d"}]});
    let folder = Folder::new(&byte_level()).with("tokenizer_config.json", &named);
    assert_eq!(folder.open().unwrap().apply_chat_template(&[], true).unwrap(), "d");
    folder.write("chat_template.jinja", "from the file");
    assert_eq!(folder.open().unwrap().apply_chat_template(&[], true).unwrap(), "from the file");
}

#[test]
fn without_a_template_messages_are_refused() {
    let tokenizer = Folder::new(&byte_level()).open().unwrap();
    assert!(!tokenizer.has_chat_template());
    let error = tokenizer.encode_chat(&[message("user", "a")], true).unwrap_err();
    assert!(matches!(error, TokenizerError::NoChatTemplate { reference } if reference == "test"));
}

#[test]
fn sentence_piece_decoders() {
    let decoder = json!({"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0}]});
    let model = json!({"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true,
        "vocab": {"<unk>": 0, "▁a": 1, "<0xC3>": 2, "<0xA9>": 3, "▁": 4, "a": 5}, "merges": [["▁", "a"]]});
    let normalizer = json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]});
    let make = |decoder: &Value| {
        let text = json!({"version": "1.0", "added_tokens": [], "normalizer": normalizer, "decoder": decoder, "model": model});
        Folder::new(&text).open().unwrap()
    };
    let tokenizer = make(&decoder);
    assert_eq!(tokenizer.encode("a aé", false).unwrap(), [1, 1, 2, 3]);
    assert_eq!(tokenizer.decode(&[1, 1, 2, 3]), "a aé");
    let metaspace = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never"});
    assert_eq!(make(&metaspace).decode(&[1, 1]), " a a");
    assert_eq!(make(&json!(null)).decode(&[1, 5]), "▁a a");
}

#[test]
fn gguf_sentence_piece() {
    let tokenizer = open_built(&small_spm()).unwrap();
    assert_eq!(tokenizer.encode("b bA", true).unwrap(), [1, 6, 6, 3]);
    assert_eq!(tokenizer.encode("b</s>b?", false).unwrap(), [6, 2, 6, 0]);
    assert_eq!(tokenizer.decode(&[1, 6, 6, 3, 2]), "b bA");
    assert_eq!((tokenizer.bos(), tokenizer.end_tokens()), (Some(1), &[2][..]));
    let gemma = small_spm().raw("tokenizer.ggml.add_space_prefix", 7, &[0]).raw(
        "tokenizer.ggml.add_eos_token",
        7,
        &[1],
    );
    let tokenizer = open_built(&gemma).unwrap();
    assert_eq!(tokenizer.encode("b b", true).unwrap(), [1, 5, 6, 2]);
    assert_eq!(tokenizer.decode(&[6]), " b");
}

#[test]
fn gguf_byte_level() {
    let template = "{{ messages[0].content }}{{ eos_token }}";
    let builder =
        small_bpe(&["a b"]).u32("tokenizer.ggml.eos_token_id", 4).string("tokenizer.chat_template", template);
    let tokenizer = open_built(&builder).unwrap();
    assert_eq!(tokenizer.encode("ab a<|im_end|>", true).unwrap(), [2, 3, 0, 4]);
    assert_eq!(tokenizer.decode(&[2, 3, 0, 4]), "ab a");
    assert_eq!((tokenizer.bos(), tokenizer.end_tokens()), (None, &[4][..]));
    assert_eq!(tokenizer.encode_chat(&[message("user", "ab")], true).unwrap(), [2, 4]);
}

#[test]
fn a_tokenizer_goes_between_threads() {
    fn check<T: Send + Sync>() {}
    check::<Tokenizer>();
    check::<StreamDecoder>();
}
