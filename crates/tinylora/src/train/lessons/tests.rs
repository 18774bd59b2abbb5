//! Examples for a small tokenizer whose tokens are known by hand: a byte is its own id, "<end>" is 257, "<think>" 258.

use super::*;
use crate::hub::{ModelFiles, ModelLayout};
use crate::tokenizer::Tokenizer;
use serde_json::json;
use std::path::Path;

/// A turn is "<think>", the role's letter, the content and "<end>", and a line feed.
const TEMPLATE: &str = "{% for m in messages %}<think>{{ m.role[0] }}{{ m.content }}<end>{{ '\\n' }}{% endfor %}\
                        {% if add_generation_prompt %}<think>a{% endif %}";
const END: u32 = 257;
const BEGIN: u32 = 258;

fn tokenizer(template: Option<&str>) -> (tempfile::TempDir, Tokenizer) {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, value: &serde_json::Value| {
        std::fs::write(folder.path().join(name), value.to_string()).unwrap();
    };
    let bytes =
        std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/tokenizer/bytes.json"));
    let mut tokens: serde_json::Value = serde_json::from_slice(&bytes.unwrap()).unwrap();
    let added = tokens["added_tokens"].as_array_mut().unwrap();
    let taken = added.len();
    for (id, content) in [(END, "<end>"), (BEGIN, "<think>")] {
        added.push(
            json!({"id": id, "content": content, "special": true, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false}),
        );
    }
    assert_eq!(taken, 1);
    write("tokenizer.json", &tokens);
    let mut settings = json!({"eos_token": "<end>"});
    if let Some(template) = template {
        settings["chat_template"] = json!(template);
    }
    write("tokenizer_config.json", &settings);
    write("config.json", &json!({}));
    let path = |name: &str| folder.path().join(name);
    let layout = ModelLayout::HuggingFace {
        config: path("config.json"),
        weights: Vec::new(),
        tokenizer: path("tokenizer.json"),
        tokenizer_config: Some(path("tokenizer_config.json")),
        chat_template: None,
        generation_config: None,
    };
    let opened = Tokenizer::open(&ModelFiles { reference: "test".into(), layout }).unwrap();
    (folder, opened)
}

fn recipe(settings: &[&str]) -> Recipe {
    let text = "name = \"a\"\nlearner = \"sft\"\n[model]\nref = \"m\"\n[task]\nkind = \"none\"\n[sft]\ndata = \"rows.jsonl\"\n";
    let settings: Vec<String> = settings.iter().map(|text| (*text).to_owned()).collect();
    Recipe::from_toml(text, &settings).unwrap()
}

fn message(role: &str, content: &str) -> Message {
    Message { role: role.into(), content: content.into() }
}

fn lesson(template: Option<&str>, settings: &[&str], content: Content) -> Result<TrainingGroup, String> {
    let (_folder, tokenizer) = tokenizer(template);
    let recipe = recipe(settings);
    let data = TaskData::open_local(&recipe).unwrap();
    let reader = Reader { recipe: &recipe, tokenizer: &tokenizer, data: &data, positions: 100 };
    let example = Example { id: "rows.jsonl:1".into(), content };
    reader.of_example(&example).map(|group| reader.with_loss(group)).map_err(|error| error.to_string())
}

fn ids(text: &str) -> Vec<u32> {
    let mut ids = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let special =
            [("<end>", END), ("<think>", BEGIN)].into_iter().find(|(name, _)| rest.starts_with(name));
        match special {
            Some((name, id)) => {
                ids.push(id);
                rest = &rest[name.len()..];
            }
            None => {
                ids.push(u32::from(rest.as_bytes()[0]));
                rest = &rest[1..];
            }
        }
    }
    ids
}

fn conversation() -> Content {
    let messages = [("user", "p"), ("assistant", " q"), ("user", "r"), ("assistant", "st")];
    let messages = messages.map(|(role, content)| message(role, content)).to_vec();
    Content::Conversation { messages, given: 0 }
}

/// The learned tokens of a completion.
fn learned(group: &TrainingGroup) -> Vec<u32> {
    let completion = &group.completions[0];
    completion.learned().map(|at| completion.tokens[at]).collect()
}

#[test]
fn every_turn_of_the_assistant_is_learned_up_to_its_end() {
    let group = lesson(Some(TEMPLATE), &[], conversation()).unwrap();
    assert_eq!(group.prompt, ids("<think>up<end>\n<think>a"));
    assert_eq!(group.completions[0].tokens, ids("q<end>\n<think>ur<end>\n<think>ast<end>"));
    assert_eq!(learned(&group), ids("q<end>st<end>"));
    let last = lesson(Some(TEMPLATE), &["sft.loss_on=last"], conversation()).unwrap();
    assert_eq!(last.prompt, ids("<think>up<end>\n<think>aq<end>\n<think>ur<end>\n<think>a"));
    assert_eq!(last.completions[0].tokens, ids("st<end>"));
    assert!(last.completions[0].learned.is_empty());
    let all = lesson(Some(TEMPLATE), &["sft.loss_on=all"], conversation()).unwrap();
    assert_eq!(all.prompt, [BEGIN]);
    assert_eq!(learned(&all), ids("up<end>\n<think>aq<end>\n<think>ur<end>\n<think>ast<end>"));
}

#[test]
fn what_is_given_is_not_learned_and_a_system_message_comes_first() {
    let Content::Conversation { messages, .. } = conversation() else { unreachable!() };
    let group =
        lesson(Some(TEMPLATE), &["model.system=x"], Content::Conversation { messages, given: 3 }).unwrap();
    assert_eq!(group.prompt, ids("<think>sx<end>\n<think>up<end>\n<think>aq<end>\n<think>ur<end>\n<think>a"));
    assert_eq!(learned(&group), ids("st<end>"));
}

#[test]
fn prompts_are_those_of_generation() {
    let (_folder, tokenizer) = tokenizer(Some(TEMPLATE));
    let content = || Content::Completion { prompt: "p".into(), completion: " q".into() };
    let group = lesson(Some(TEMPLATE), &[], content()).unwrap();
    assert_eq!(group.prompt, tokenizer.encode_chat(&[message("user", "p")], true).unwrap());
    assert_eq!(group.completions[0].tokens, ids("q<end>"));
    // Without a template the text is kept, and the model's end token closes it.
    let plain = lesson(None, &["model.chat_template=false"], content()).unwrap();
    assert_eq!(plain.completions[0].tokens, ids(" q<end>"));
    assert_eq!(plain.prompt, tokenizer.encode("p", true).unwrap());
}

#[test]
fn a_template_without_an_end_token_gets_the_models() {
    let bare = "{% for m in messages %}{{ m.role[0] }}{{ m.content }}{{ '\\n' }}{% endfor %}\
                {% if add_generation_prompt %}a{% endif %}";
    let group =
        lesson(Some(bare), &[], Content::Completion { prompt: "p".into(), completion: "q".into() }).unwrap();
    assert_eq!((group.prompt, group.completions[0].tokens.clone()), (ids("up\na"), ids("q\n<end>")));
}

#[test]
fn a_template_that_rewrites_is_refused() {
    // What generation sees ends in "<think>a", what it would have written is put elsewhere.
    let other = "{% for m in messages %}{{ m.content }}<end>{% endfor %}{% if add_generation_prompt %}<think>a{% endif %}";
    let message = lesson(Some(other), &[], conversation()).unwrap_err();
    assert!(
        message.contains("rows.jsonl:1, message 2: the chat template does not keep the prompt"),
        "{message}"
    );
    // Earlier turns lose their thoughts, as Qwen3's do.
    let forgets = "{% for m in messages %}<think>{{ m.role[0] }}\
                   {% if m.role == 'assistant' and loop.last %}!{% endif %}{{ m.content }}<end>{{ '\\n' }}{% endfor %}\
                   {% if add_generation_prompt %}<think>a{% endif %}";
    let message = lesson(Some(forgets), &[], conversation()).unwrap_err();
    assert!(message.contains("message 4") && message.contains("sft.loss_on = \"last\""), "{message}");
    let last = lesson(Some(forgets), &["sft.loss_on=last"], conversation()).unwrap();
    assert_eq!(last.completions[0].tokens, ids("!st<end>"));
    let message = lesson(None, &[], conversation()).unwrap_err();
    assert!(message.contains("the model has no chat template"), "{message}");
}

#[test]
fn long_examples_and_held_out_prompts_are_left_out_with_a_count() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rows.jsonl");
    let row = |prompt: &str, completion: &str| {
        format!("{{\"prompt\": {prompt:?}, \"completion\": {completion:?}}}\n")
    };
    let rows = [row("a", "1"), row("b", "123456789"), row("c", "3"), row("d", "4")].concat();
    std::fs::write(&file, rows).unwrap();
    let (_folder, tokenizer) = tokenizer(Some(TEMPLATE));
    let held_out = tokenizer.encode_chat(&[message("user", "c")], true).unwrap();
    let open = |settings: &[&str]| {
        let data = format!("sft.data={:?}", file.to_str().unwrap());
        let recipe = recipe(&[&[&data[..], "rollout.max_tokens=5"], settings].concat());
        let data = TaskData::open_local(&recipe).unwrap();
        let reader = Reader { recipe: &recipe, tokenizer: &tokenizer, data: &data, positions: 100 };
        let options = HubOptions { offline: true, ..HubOptions::from_lookup(|_| None) };
        let opened = reader.open(&HashSet::from([&held_out[..]]), &options, &mut |_| {});
        opened.map_err(|error| error.to_string())
    };
    let message = open(&[]).unwrap_err();
    assert!(
        message.contains("rows.jsonl:2 has 10 tokens behind its prompt") && message.contains("is 5"),
        "{message}"
    );
    let (lessons, told) = open(&["sft.too_long=skip"]).unwrap();
    assert_eq!(told[0], "1 of 4 examples are left out: longer than rollout.max_tokens = 5");
    assert_eq!(told[1], "1 of 4 examples are left out: held out for the evaluation");
    assert_eq!((lessons.count(), lessons.longest()), (Some(2), 7 + 2));
    // Each epoch has each example once, and positions resume.
    for epoch in 0..3 {
        let mut of_epoch: Vec<u32> =
            lessons.at(2 * epoch, 2).iter().map(|group| group.completions[0].tokens[0]).collect();
        of_epoch.sort_unstable();
        assert_eq!(of_epoch, ids("14"));
    }
    assert_eq!([lessons.at(0, 3), lessons.at(3, 3)].concat(), lessons.at(0, 6));
    let message = open(&["sft.too_long=skip", "rollout.max_tokens=1"]).unwrap_err();
    assert!(message.contains("no example is left") && message.contains("4 of 4"), "{message}");
}
