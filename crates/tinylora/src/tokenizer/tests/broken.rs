//! One test a kind of damage: a typed error that names the file, never a crash.

use super::*;

fn is(error: &str, parts: &[&str]) {
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
}

#[test]
fn no_file_and_no_json() {
    let folder = Folder::new(&byte_level());
    folder.write("tokenizer.json", "{\"version\": ");
    is(&folder.error(), &["tokenizer.json", "EOF"]);
    folder.write("tokenizer.json", "[]");
    folder.error();
    std::fs::remove_file(folder.folder.path().join("tokenizer.json")).unwrap();
    is(&folder.error(), &["cannot read"]);
}

#[test]
fn nested_far_too_deep() {
    let folder = Folder::new(&byte_level());
    let open = "{\"type\":\"Sequence\",\"normalizers\":[".repeat(10_000);
    let close = "]}".repeat(10_000);
    folder.write("tokenizer.json", &format!("{{\"normalizer\":{open}{close},\"model\":{{}}}}"));
    is(&folder.error(), &["recursion limit"]);
}

#[test]
fn an_empty_vocabulary() {
    let folder = changed(|it| {
        it["model"]["vocab"] = json!({});
        it["model"]["merges"] = json!([]);
        it["added_tokens"] = json!([]);
        it["post_processor"] = json!(null);
    });
    assert!(matches!(folder.open(), Err(TokenizerError::EmptyVocabulary { .. })));
    folder.error();
}

#[test]
fn merges_of_unknown_tokens() {
    is(&changed(|it| it["model"]["merges"] = json!([["a", "nope"]])).error(), &["nope"]);
    is(&changed(|it| it["model"]["merges"] = json!([["a", "c"]])).error(), &["ac"]);
    changed(|it| it["model"]["merges"] = json!(["a b c"])).error();
}

#[test]
fn ids_out_of_range() {
    let huge = |id: Value| changed(|it| it["model"]["vocab"]["huge"] = id);
    is(&huge(json!(1 << 24)).error(), &["\"<end>\"", "259"]);
    let alone = |id: Value| {
        let folder = changed(|it| {
            it["model"]["vocab"]["huge"] = id;
            it["added_tokens"] = json!([]);
            it["post_processor"] = json!(null);
        });
        folder.error()
    };
    is(&alone(json!(1 << 24)), &["\"huge\"", "16777216"]);
    is(&alone(json!(u32::MAX)), &["4294967295"]);
    alone(json!(1_u64 << 32));
    alone(json!(-1));
    alone(json!("x"));
}

#[test]
fn two_tokens_with_one_id() {
    let folder = changed(|it| it["model"]["vocab"]["abc"] = json!(256));
    is(&folder.error(), &["259"]);
    let folder = changed(|it| {
        it["model"]["vocab"]["abc"] = json!(256);
        it["added_tokens"] = json!([]);
        it["post_processor"] = json!(null);
    });
    is(&folder.error(), &["\"ab\"", "\"abc\"", "256"]);
}

#[test]
fn added_tokens_with_wrong_ids() {
    is(&changed(|it| it["added_tokens"][0]["id"] = json!(300)).error(), &["<end>", "300", "259"]);
    is(&changed(|it| it["added_tokens"][1]["id"] = json!(u64::MAX)).error(), &["u32"]);
    is(&changed(|it| it["added_tokens"][1]["content"] = json!("")).error(), &["none"]);
}

#[test]
fn a_crash_of_the_loader_is_an_error() {
    // The library cuts the prefix's three bytes off every right side; "b" has one.
    let folder = changed(|it| it["model"]["continuing_subword_prefix"] = json!("###"));
    assert!(matches!(folder.open(), Err(TokenizerError::LoaderCrash { .. })));
    folder.error();
}

#[test]
fn random_merges_unknown_decoders_and_absent_unknowns() {
    is(&changed(|it| it["model"]["dropout"] = json!(0.1)).error(), &["dropout"]);
    is(
        &changed(|it| it["decoder"] = json!({"type": "WordPiece", "prefix": "##", "cleanup": true})).error(),
        &["WordPiece"],
    );
    let replace = json!({"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "x"}, "content": "y"}, {"type": "Fuse"}]});
    is(&changed(|it| it["decoder"] = replace).error(), &["Replace"]);
    is(&changed(|it| it["model"]["unk_token"] = json!("<nope>")).error(), &["<nope>"]);
}

#[test]
fn configurations_that_do_not_fit() {
    let with = |name: &str, value: Value| Folder::new(&byte_level()).with(name, &value).error();
    is(&with("tokenizer_config.json", json!({"eos_token": "<nope>"})), &["eos_token", "<nope>", "261"]);
    is(&with("generation_config.json", json!({"eos_token_id": -1})), &["generation_config.json", "-1"]);
    is(&with("generation_config.json", json!({"eos_token_id": [1, "x"]})), &["eos_token_id"]);
    is(&with("config.json", json!({"eos_token_id": 1_u64 << 40})), &["1099511627776"]);
    is(&with("config.json", json!([])), &["object"]);
    is(&with("tokenizer_config.json", json!({"chat_template": 3})), &["chat_template"]);
    is(
        &with("tokenizer_config.json", json!({"chat_template": [{"name": "x", "template": "y"}]})),
        &["default"],
    );
    is(
        &with("tokenizer_config.json", json!({"chat_template": "{% for %}"})),
        &["tokenizer_config.json", "line 1"],
    );
}

#[test]
fn a_template_without_end_names_itself() {
    let endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
    let folder = Folder::new(&byte_level()).with("tokenizer_config.json", &json!({"chat_template": endless}));
    let error = folder.open().unwrap().apply_chat_template(&[], true).unwrap_err();
    assert!(matches!(error, TokenizerError::TemplateLimit { .. }));
    is(&error.to_string(), &["tokenizer_config.json (chat_template)", "2000000 steps"]);
}

#[test]
fn gguf_without_its_keys() {
    is(&gguf_error(&Builder::default()), &["tokenizer.ggml.model"]);
    let model = Builder::default().string("tokenizer.ggml.model", "gpt2");
    is(&gguf_error(&model), &["tokenizer.ggml.tokens"]);
    let tokens = model.strings("tokenizer.ggml.tokens", &["a"]);
    is(&gguf_error(&tokens), &[TYPES]);
    is(&gguf_error(&vocabulary("gpt2", &["a"], &[1])), &["tokenizer.ggml.merges"]);
    is(&gguf_error(&vocabulary("llama", &["a"], &[1])), &["tokenizer.ggml.scores"]);
    is(&gguf_error(&scores(vocabulary("llama", &["a"], &[1]), &[0.0])), &["tokenizer.ggml.bos_token_id"]);
}

#[test]
fn gguf_of_another_kind() {
    is(&gguf_error(&vocabulary("bert", &["a"], &[1])), &["\"bert\"", "gpt2"]);
    let other = vocabulary("gpt2", &["a"], &[1])
        .strings("tokenizer.ggml.merges", &[])
        .string("tokenizer.ggml.pre", "nope");
    is(&gguf_error(&other), &["\"nope\"", "smollm"]);
    is(&gguf_error(&Builder::default().u32("tokenizer.ggml.model", 3)), &["tokenizer.ggml.model"]);
}

#[test]
fn gguf_lists_of_different_lengths() {
    is(&gguf_error(&vocabulary("llama", &["a", "b"], &[1])), &[TYPES, "1 entries for 2 tokens"]);
    let short = scores(vocabulary("llama", &["a", "b"], &[1, 1]), &[0.0]);
    is(&gguf_error(&short), &["tokenizer.ggml.scores", "1 entries for 2 tokens"]);
    is(&gguf_error(&vocabulary("llama", &[], &[])), &["vocabulary is empty"]);
}

#[test]
fn gguf_tokens_that_are_unusable() {
    is(&gguf_error(&vocabulary("gpt2", &["a", "a"], &[1, 1])), &["\"a\"", "twice, as 0 and 1"]);
    is(&gguf_error(&vocabulary("gpt2", &["a", "b"], &[1, 7])), &["token 1 (\"b\")", "type 7"]);
    for wrong in ["<0x-1>", "<0x+1>", "<0x1>", "<0x100>", "<0xGG>", "0x41", "<0x>", ""] {
        let builder = scores(vocabulary("llama", &["a", wrong], &[1, 6]), &[0.0, 0.0]);
        is(&gguf_error(&builder), &["token 1", wrong, "<0x00> to <0xFF>"]);
    }
    is(&gguf_error(&scores(vocabulary("llama", &["a"], &[1]), &[f32::NAN])), &["token 0", "not a number"]);
}

#[test]
fn gguf_merges_that_are_unusable() {
    is(&gguf_error(&small_bpe(&["a b", "a x"])), &["merge 1 (\"a x\")", "\"x\" is not"]);
    is(&gguf_error(&small_bpe(&["b a"])), &["\"ba\" is not"]);
    for wrong in ["ab", "", " ", "a ", " b"] {
        is(&gguf_error(&small_bpe(&[wrong])), &["merge 0", "two tokens"]);
    }
}

#[test]
fn gguf_ids_beyond_the_vocabulary() {
    for key in ["bos", "eos", "eot", "unknown", "padding"] {
        let key = format!("tokenizer.ggml.{key}_token_id");
        is(&gguf_error(&small_bpe(&[]).u32(&key, 5)), &[&key, "the id 5", "5 ids"]);
    }
    is(
        &gguf_error(&small_bpe(&[]).raw("tokenizer.ggml.bos_token_id", 5, &(-1_i32).to_le_bytes())),
        &["bos_token_id"],
    );
    is(&gguf_error(&small_bpe(&[]).raw("tokenizer.ggml.add_bos_token", 7, &[1])), &["bos_token_id"]);
}

#[test]
fn gguf_text_that_cannot_be_expressed() {
    let builder = scores(vocabulary("llama", &["<s>", "a"], &[3, 1]), &[0.0, 0.0])
        .u32("tokenizer.ggml.bos_token_id", 0);
    let error = open_built(&builder).unwrap().encode("xyz", true).unwrap_err();
    is(&error.to_string(), &["xyz", "unknown token"]);
}
