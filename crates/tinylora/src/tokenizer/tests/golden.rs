//! The answers of others.

use super::*;

pub(super) const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../golden/tokenizer");

pub(super) fn golden(name: &str) -> Value {
    let path = Path::new(ROOT).join(name);
    serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

/// A real model's file, or the reason why it is not tested.
pub(super) fn real(name: &str) -> Option<PathBuf> {
    let Some(folder) = std::env::var_os("TINYLORA_TEST_MODELS") else {
        eprintln!("skipped: TINYLORA_TEST_MODELS names no folder with {name}");
        return None;
    };
    let path = PathBuf::from(folder).join(name);
    if !path.exists() {
        eprintln!("skipped: {} does not exist", path.display());
        return None;
    }
    Some(path)
}

/// All cases, and how many there were; every difference is listed before the test fails.
pub(super) fn compare(tokenizer: &Tokenizer, golden: &Value) -> usize {
    let cases = golden["cases"].as_array().unwrap();
    let mut differences = Vec::new();
    for case in cases {
        let text = case["text"].as_str().unwrap();
        let expected = ids(&case["ids"]);
        let got = tokenizer.encode(text, false).unwrap();
        if got != expected {
            differences.push(format!("{text:?}: {got:?}, expected {expected:?}"));
        }
        for (key, got) in [
            ("decoded", tokenizer.decode(&expected)),
            ("decoded_with_special", tokenizer.decode_with_special(&expected)),
        ] {
            if !case[key].is_null() && case[key] != got {
                differences.push(format!("{key} {expected:?}: {got:?}, expected {}", case[key]));
            }
        }
        let mut stream = tokenizer.stream_decoder();
        let mut streamed: String = expected.iter().filter_map(|&id| stream.push(id)).collect();
        streamed.extend(stream.finish());
        assert_eq!(streamed, tokenizer.decode(&expected));
    }
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
    cases.len()
}

fn compare_model(name: &str, end_tokens: &[&str]) {
    let Some(path) = real(&format!("{name}.gguf")) else { return };
    let golden = golden(&format!("{name}.json"));
    let tokenizer = open_gguf(&path).unwrap();
    assert_eq!(tokenizer.vocab_size() as u64, golden["vocab_size"].as_u64().unwrap());
    assert_eq!(tokenizer.bos().map(u64::from), golden["bos"].as_u64());
    let names: Vec<String> =
        tokenizer.end_tokens().iter().map(|&id| tokenizer.decode_with_special(&[id])).collect();
    assert_eq!(names, end_tokens);
    assert!(compare(&tokenizer, &golden) > 250);
    for pair in golden["with_special"].as_array().unwrap() {
        let text = pair[0].as_str().unwrap();
        assert_eq!(tokenizer.encode(text, true).unwrap(), ids(&pair[1]), "{text:?}");
    }
    let chats = golden["chats"].as_array().unwrap();
    assert_eq!(tokenizer.has_chat_template(), !chats.is_empty());
    for chat in chats {
        let messages: Vec<Message> = serde_json::from_value(chat["messages"].clone()).unwrap();
        let prompt = chat["add_generation_prompt"].as_bool().unwrap();
        assert_eq!(tokenizer.apply_chat_template(&messages, prompt).unwrap(), chat["text"]);
        assert_eq!(tokenizer.encode_chat(&messages, prompt).unwrap(), ids(&chat["ids"]));
    }
}

#[test]
fn smollm2_is_that_of_transformers() {
    compare_model("smollm2-135m", &["<|im_end|>", "<|endoftext|>"]);
}

#[test]
fn gemma3_is_that_of_transformers() {
    compare_model("gemma3-270m", &["<eos>", "<end_of_turn>"]);
}

#[test]
fn a_small_vocabulary_is_that_of_sentencepiece() {
    let tokenizer = open_gguf(&Path::new(ROOT).join("tiny-spm.gguf")).unwrap();
    assert!(compare(&tokenizer, &golden("tiny-spm.json")) > 200);
}

#[test]
fn templates_give_what_transformers_gives() {
    let golden = golden("templates.json");
    let names: Vec<(String, String)> = golden["names"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, token)| (name.clone(), token.as_str().unwrap().to_owned()))
        .collect();
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() > 50);
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let text = golden["templates"][name].as_str().unwrap().to_owned();
        let template =
            ChatTemplate::new(template::Source { origin: name.into(), text }, names.clone(), 0).unwrap();
        let messages: Vec<Message> = serde_json::from_value(case["messages"].clone()).unwrap();
        let rendered = template.render(&messages, case["add_generation_prompt"].as_bool().unwrap());
        match case["text"].as_str() {
            Some(expected) => assert_eq!(rendered.unwrap(), expected, "{name}"),
            None => assert!(matches!(rendered, Err(TokenizerError::TemplateRefusal { .. })), "{name}"),
        }
    }
}
