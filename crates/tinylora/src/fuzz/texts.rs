//! Targets whose input is a text: recipes, sweeps, rows, configurations, tokenizers, templates.

use std::path::{Path, PathBuf};

use super::Target;
use crate::data::{benchmark, jsonl as rows};
use crate::interop::peft_config::PeftConfig;
use crate::recipe::{Benchmark, JsonlTask, Recipe, Split, TaskSection};
use crate::{sweep as sweeps, tokenizer as tokenizers};

pub(super) fn recipe() -> Target {
    let folder = root().join("recipes");
    let read = |name: &str| std::fs::read(folder.join(name)).expect("a recipe");
    let seeds = [read("quickstart.toml"), read("gsm8k-13.toml")];
    Target::new(seeds, move |bytes| {
        let Ok(text) = std::str::from_utf8(&bytes) else { return false };
        match Recipe::from_toml(text, &[]) {
            Ok(recipe) => {
                let again = Recipe::from_toml(&recipe.to_toml(), &[]).expect("what was read can be written");
                assert_eq!(again, recipe);
                true
            }
            Err(error) => error.to_string().is_empty(),
        }
    })
}

/// A sweep whose recipe is one of ours, and sweeps of any content that name it.
pub(super) fn sweep() -> Target {
    let folder = root().join("recipes/sweeps");
    let read = |name: &str| std::fs::read(folder.join(name)).expect("a sweep");
    let seeds = [
        br#"recipe = "../quickstart.toml"
[set]
"train.steps" = 30
[grid]
"optimizer.learning_rate" = [2e-3, 1e-2]
seed = [1, 2, 3]
[[zip]]
"adapter.u" = [1, 13]
"adapter.n_tie" = [16, "all"]
"#
        .to_vec(),
        read("rank-u.toml"),
        read("tied-rank.toml"),
    ];
    let path = folder.join("x.toml");
    Target::new(seeds, move |bytes| {
        let Ok(text) = std::str::from_utf8(&bytes) else { return false };
        match sweeps::parse(&path, text, &[]) {
            Ok(plan) => !plan.runs.is_empty(),
            Err(error) => error.to_string().is_empty(),
        }
    })
}

pub(super) fn jsonl() -> Target {
    let task = task_of_rows();
    let (question, answer) = (&task.question_field, &task.answer_field);
    let line = |q: &str, a: &str| format!("{{\"{question}\": {q}, \"{answer}\": {a}, \"x\": [1, {{}}]}}\n");
    let seeds = [
        line("\"What is 7 + 5?\"", "\"… #### 1,012\"").into_bytes(),
        [line("\"a\\u00e9\\ud83d\\ude00\"", "12.5"), "\r\n".into(), line("\"b\"", "\"c\"")]
            .concat()
            .into_bytes(),
    ];
    Target::new(seeds, move |bytes| match rows::parse(&task, "x.jsonl", &bytes) {
        Ok(problems) => {
            assert!(problems.iter().all(|problem| !problem.question.is_empty()));
            true
        }
        Err(error) => error.to_string().is_empty(),
    })
}

pub(super) fn benchmark_rows() -> Target {
    let seeds = [
        br##"{"question": "Two and three?", "answer": "2+3=<<2+3=5>>5\n#### 5", "final_answer": ["$5$", 1]}"##.to_vec(),
        br#"{"problem": "What?", "solution": "so \\boxed{\\frac{1}{2}}, \\fbox{3", "level": 5, "type": "a", "answer": 27.0}"#
            .to_vec(),
    ];
    Target::new(seeds, move |bytes| {
        let mut read = false;
        for set in Benchmark::ALL {
            match benchmark::parse(set, Split::Test, "x.jsonl", &bytes) {
                Ok(rows) => {
                    assert!(rows.iter().all(|row| !row.problem.question.trim().is_empty()));
                    read = true;
                }
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }
        read
    })
}

pub(super) fn peft_config() -> Target {
    let folder = root().join("golden/interop");
    let read =
        |name: &str| std::fs::read(folder.join(name).join("adapter_config.json")).expect("a golden adapter");
    let seeds = [read("tinylora-pattern"), read("rslora-patterns"), read("lora-layers")];
    Target::new(seeds, move |bytes| {
        let parsed = PeftConfig::parse("x.json".into(), &bytes).and_then(|config| config.modules(2));
        match parsed {
            Ok(modules) => !modules.is_empty(),
            Err(error) => error.to_string().is_empty(),
        }
    })
}

/// `tokenizer.json`; an accepted one encodes and decodes.
pub(super) fn tokenizer() -> Target {
    let byte_level = r##"{"added_tokens": [{"id": 5, "content": "<end>", "single_word": false, "lstrip": false, "rstrip": false,
"normalized": false, "special": true}], "normalizer": {"type": "NFC"}, "pre_tokenizer": {"type": "ByteLevel",
"add_prefix_space": false, "trim_offsets": true, "use_regex": true}, "post_processor": null, "decoder": {"type": "ByteLevel",
"add_prefix_space": false, "trim_offsets": true, "use_regex": true},
"model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
"fuse_unk": false, "byte_fallback": false, "vocab": {"a": 0, "b": 1, "ab": 2, "\u0120": 3, "\u0120a": 4},
"merges": ["a b", "\u0120 a"]}}"##;
    let sentence_piece = r##"{"added_tokens": [{"id": 0, "content": "<unk>", "single_word": false, "lstrip": false,
"rstrip": false, "normalized": false, "special": true}], "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend",
"prepend": "\u2581"}, {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]}, "pre_tokenizer": {"type": "Split",
"pattern": {"Regex": "\\d{1,3}"}, "behavior": "Isolated", "invert": false}, "post_processor": {"type": "TemplateProcessing",
"single": [{"SpecialToken": {"id": "<unk>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}], "pair": [],
"special_tokens": {"<unk>": {"id": "<unk>", "ids": [0], "tokens": ["<unk>"]}}}, "decoder": {"type": "Sequence", "decoders":
[{"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
{"type": "Strip", "content": " ", "start": 1, "stop": 0}]}, "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>",
"fuse_unk": true, "byte_fallback": true, "ignore_merges": false, "vocab": {"<unk>": 0, "\u2581": 1, "a": 2, "\u2581a": 3,
"<0xC3>": 4, "<0xA9>": 5}, "merges": [["\u2581", "a"]]}}"##;
    let seeds = [byte_level.as_bytes().to_vec(), sentence_piece.as_bytes().to_vec()];
    Target::new(seeds, |bytes| {
        let Ok(text) = std::str::from_utf8(&bytes) else { return false };
        match tokenizers::try_json(text, &["ab a<end>\u{e9} 12\n", ""]) {
            Ok(()) => true,
            Err(error) => error.to_string().is_empty(),
        }
    })
}

/// A chat template, compiled and filled in.
pub(super) fn template() -> Target {
    let seeds = [
        "{% for m in messages %}<|{{ m.role }}|>{{ m['content'] | trim }}{{ eos_token }}{% if loop.last and \
         add_generation_prompt %}<|assistant|>{% endif %}{% endfor %}",
        "{%- set ns = namespace(system=none) %}{%- if messages[0]['role'] == 'system' -%}{% set ns.system = \
         messages[0].content %}{%- endif %}{{ bos_token + (ns.system or '')[:3] }}{% generation %}{{ messages | tojson }}\
         {% endgeneration %}{{ strftime_now('%d %b %Y') }}",
        "{% macro say(x, n=2) %}{{ x.split(' ') | join('-') * n }}{% endmacro %}{{ say(messages[1].content) }}{% if not \
         messages %}{{ raise_exception('none') }}{% endif %}{{ {'a': [1, 2.5, none]} | tojson(indent=2) }}",
    ];
    Target::new(seeds.map(|text| text.as_bytes().to_vec()), |bytes| {
        let Ok(text) = std::str::from_utf8(&bytes) else { return false };
        match tokenizers::try_template(text) {
            Ok(()) => true,
            Err(error) => error.to_string().is_empty(),
        }
    })
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn task_of_rows() -> JsonlTask {
    let recipe = root().join("recipes/gsm8k-13.toml");
    let recipe = Recipe::load(&recipe, &[]).expect("a good recipe");
    match recipe.task {
        TaskSection::Jsonl(task) => task,
        _ => panic!("a task of rows"),
    }
}
