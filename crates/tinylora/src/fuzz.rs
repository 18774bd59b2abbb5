//! Every parser of files from outside against damaged input: good files enter, are changed at random and parsed; none
//! may panic, and what is accepted must mean something. A change is a function of its number alone, so that a failure
//! is found again: the message names the number.
//!
//! An ordinary test run does a few thousand changes a parser; `cargo xtask fuzz PARSER N` does N.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Instant;

use crate::adapter::{
    AdapterFile, AnyAdapter, BaseIdentity, FactorSketches, Factors, Method, Module, ModuleFactors,
    RunMetadata, Standalone, Target, TinyLoraSpec, sketch_factors,
};
use crate::data::{benchmark, jsonl};
use crate::gguf::Header;
use crate::gguf::testing::Builder;
use crate::interop::peft_config::PeftConfig;
use crate::model::config::ModelConfig;
use crate::model::weights::safetensors;
use crate::random::{Purpose, Stream};
use crate::recipe::{AdapterSection, Benchmark, JsonlTask, Recipe, Split, TaskSection, WeightDtype};
use sha2::{Digest, Sha256};

/// Changes in an ordinary test run.
const FEW: u64 = 3000;
/// `FROM..TO`: the numbers of the changes to do.
const VARIABLE: &str = "TINYLORA_FUZZ";

/// Numbers at which parsers tend to break, in the width that is overwritten.
const EDGES: [u64; 12] =
    [0, 1, 2, 7, 0x7f, 0x80, 0xff, 0xffff, 0x7fff_ffff, 0xffff_ffff, i64::MAX as u64, u64::MAX];
/// Pieces of text that mean something to one of the parsers.
const WORDS: [&str; 24] = [
    "{",
    "}",
    "[",
    "]",
    "\"",
    ":",
    ",",
    "null",
    "true",
    "-1",
    "1e999",
    "18446744073709551616",
    "\\u0000",
    "\n",
    "'",
    "=",
    "nan",
    "inf",
    "F32",
    "BF16",
    "data_offsets",
    "shape",
    "((((",
    "\u{feff}",
];

/// Draws of one change, one after the other.
struct Draws {
    stream: Stream,
    next: u64,
}

impl Draws {
    fn below(&mut self, n: usize) -> usize {
        self.next += 1;
        self.stream.below(self.next, n.max(1) as u64) as usize
    }
}

/// Changes a copy of one of the seeds, once to eight times.
fn changed(seeds: &[Vec<u8>], number: u64) -> Vec<u8> {
    let mut draws = Draws { stream: Stream::new(1, Purpose::Shuffle, number), next: 0 };
    let mut bytes = seeds[draws.below(seeds.len())].clone();
    for _ in 0..=draws.below(8) {
        change(&mut bytes, seeds, &mut draws);
    }
    bytes
}

fn change(bytes: &mut Vec<u8>, seeds: &[Vec<u8>], draws: &mut Draws) {
    let at = draws.below(bytes.len());
    let length = (1 + draws.below(32)).min(bytes.len() - at);
    match draws.below(9) {
        0 if !bytes.is_empty() => bytes[at] ^= 1 << draws.below(8),
        1 if !bytes.is_empty() => bytes[at] = draws.below(256) as u8,
        2 => {
            let edge = EDGES[draws.below(EDGES.len())].to_le_bytes();
            let width = [1, 2, 4, 8][draws.below(4)].min(bytes.len() - at);
            bytes[at..at + width].copy_from_slice(&edge[..width]);
        }
        3 => bytes.truncate(at),
        4 => drop(bytes.drain(at..at + length)),
        5 => {
            let piece = bytes[at..at + length].to_vec();
            let to = draws.below(bytes.len() + 1);
            bytes.splice(to..to, piece);
        }
        6 => {
            let word = WORDS[draws.below(WORDS.len())];
            bytes.splice(at..at, word.bytes());
        }
        7 => {
            let other = &seeds[draws.below(seeds.len())];
            let from = draws.below(other.len());
            let end = (from + 1 + draws.below(64)).min(other.len());
            bytes.splice(at..at, other[from..end].iter().copied());
        }
        _ => {
            // A digit of a number in text.
            if let Some(digit) = bytes[at..].iter().position(u8::is_ascii_digit) {
                bytes[at + digit] = b'0' + draws.below(10) as u8;
            }
        }
    }
}

/// Runs the parser, which says whether it accepts the bytes, on all changes; prints how many it accepted.
fn fuzz(name: &str, seeds: &[Vec<u8>], parse: impl Fn(Vec<u8>) -> bool) {
    for (index, seed) in seeds.iter().enumerate() {
        assert!(parse(seed.clone()), "{name}: seed {index} is good");
    }
    let range = std::env::var(VARIABLE).ok().map(|text| {
        let (from, to) = text.split_once("..").expect("FROM..TO");
        from.parse().expect("a number")..to.parse().expect("a number")
    });
    let range = range.unwrap_or(0..FEW);
    let start = Instant::now();
    let mut accepted = 0u64;
    for number in range.clone() {
        let bytes = changed(seeds, number);
        match catch_unwind(AssertUnwindSafe(|| parse(bytes))) {
            Ok(good) => accepted += u64::from(good),
            Err(_) => panic!("{name}: change number {number} makes the parser panic"),
        }
    }
    let count = range.end - range.start;
    assert!(accepted < count, "{name}: some change must be refused");
    println!(
        "{{\"parser\": \"{name}\", \"from\": {}, \"executions\": {count}, \"accepted\": {accepted}, \"panics\": 0, \
         \"seconds\": {:.1}}}",
        range.start,
        start.elapsed().as_secs_f64()
    );
}

fn task_of_rows() -> JsonlTask {
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/gsm8k-13.toml");
    let recipe = Recipe::load(&recipe, &[]).expect("a good recipe");
    match recipe.task {
        TaskSection::Jsonl(task) => task,
        _ => panic!("a task of rows"),
    }
}

fn config() -> ModelConfig {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/models/llama2/config.json");
    ModelConfig::from_config_file(&file).expect("a golden model")
}

#[test]
fn safetensors() {
    let entry = |name: &str, dtype: &str, shape: &str, begin: usize, end: usize| {
        format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]}}"#)
    };
    let file = |header: String, data: usize| {
        [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![7; data]].concat()
    };
    let (a, b, c) = (
        entry("a", "F32", "[2,3]", 0, 24),
        entry("b", "BF16", "[4]", 24, 32),
        entry("c", "U8", "[]", 32, 33),
    );
    let seeds = [
        file(format!("{{{a}}}"), 24),
        file(format!(r#"{{"__metadata__":{{"format":"pt"}},{a},{b},{c}}}   "#), 33),
        file("{}".to_owned(), 0),
    ];
    fuzz("safetensors", &seeds, |bytes| match safetensors::header(&bytes) {
        Ok(entries) => {
            // What is accepted lies inside the file.
            assert!(entries.iter().all(|entry| entry.offset + entry.bytes <= bytes.len()));
            true
        }
        Err(problem) => problem.to_string().is_empty(),
    });
}

#[test]
fn gguf() {
    let plain = Builder::default()
        .string("general.architecture", "llama")
        .u32("llama.block_count", 2)
        .u32("llama.context_length", 64)
        .u32("llama.embedding_length", 8)
        .u32("llama.feed_forward_length", 12)
        .u32("llama.attention.head_count", 2)
        .f32("llama.attention.layer_norm_rms_epsilon", 1e-6)
        .strings("tokenizer.ggml.tokens", &["a", "", "ñb"])
        .array("tokenizer.ggml.token_type", 5, 2, &[1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff])
        .tensor_f32("token_embd.weight", &[8, 3], &[1.0; 24])
        .tensor("two", &[32, 2], 8, &[0; 68]);
    let gemma = Builder::default()
        .string("general.architecture", "gemma3")
        .u32("gemma3.attention.sliding_window", 8)
        .array("gemma3.attention.sliding_window_pattern", 7, 3, &[1, 1, 0])
        .u32("general.alignment", 64);
    let seeds = [plain.build(), gemma.build()];
    fuzz("gguf", &seeds, |bytes| match Header::parse(Path::new("x.gguf"), &bytes) {
        Ok(header) => {
            assert!(header.tensors.iter().all(|tensor| tensor.offset + tensor.bytes <= bytes.len() as u64));
            // The configuration of an accepted header is read or refused.
            let _ = ModelConfig::from_gguf(&header, None);
            true
        }
        Err(error) => error.to_string().is_empty(),
    });
}

/// Both kinds of file. Most changes get a right hash, or nothing would come behind it.
#[test]
fn adapter() {
    let config = config();
    let base = BaseIdentity::new("a/b", [5; 32], WeightDtype::Bf16, &config);
    let section = AdapterSection { u: 3, n_tie: 2, init_bound: 0.5, ..AdapterSection::default() };
    let spec = TinyLoraSpec::new(&section, &config).expect("fits");
    let numbers = |count: usize| (0..count).map(|i| (i % 13) as f32 - 6.0).collect::<Vec<f32>>();
    let factors = |module: &Module, rank: usize| {
        let (n, k) = module.target.shape(&config);
        ModuleFactors { a: numbers(rank * k), b: numbers(rank * n) }
    };
    let sketch = |(index, module): (usize, Module)| {
        let factors = factors(&module, spec.rank);
        sketch_factors(index, spec.rank, &factors.a, &factors.b)
    };
    let sketches: Vec<_> = spec.modules().enumerate().map(sketch).collect();
    let run = RunMetadata { name: "a".into(), ..RunMetadata::default() };
    let v = spec.init_v(1);
    let seeded = AdapterFile {
        v,
        base: base.clone(),
        factors: FactorSketches::new(&sketches),
        run,
        spec: spec.clone(),
    };
    let modules = vec![Module { layer: 0, target: Target::K }, Module { layer: 2, target: Target::K }];
    let standalone = Standalone {
        method: Method::TinyLora,
        base,
        groups: vec![0, 1],
        u: 1,
        v: vec![0.5, -0.5],
        p: numbers(8),
        factors: Factors { rank: 2, modules: modules.iter().map(|module| factors(module, 2)).collect() },
        modules,
        source: "made".into(),
        run: None,
    };
    let standalone =
        Standalone { base: BaseIdentity { dtype: WeightDtype::F32, ..standalone.base }, ..standalone };
    let seeds = [seeded.to_bytes().expect("fits"), standalone.to_bytes().expect("fits")];
    fuzz("adapter", &seeds, |mut bytes| {
        let length = bytes.len();
        if length > 160 && bytes[9] % 4 == 0 {
            // A right length and hash, as a hostile file would have them.
            bytes[12..16].copy_from_slice(&(length as u32).to_le_bytes());
            let hash = Sha256::digest(&bytes[..length - 32]);
            bytes[length - 32..].copy_from_slice(&hash);
        }
        match AnyAdapter::from_bytes("x", &bytes) {
            Ok(adapter) => {
                let again = adapter.to_bytes().expect("what was read can be written");
                assert_eq!(AnyAdapter::from_bytes("x", &again).expect("and read again"), adapter);
                true
            }
            Err(error) => error.to_string().is_empty(),
        }
    });
}

#[test]
fn recipe() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes");
    let read = |name: &str| std::fs::read(folder.join(name)).expect("a recipe");
    let seeds = [read("quickstart.toml"), read("gsm8k-13.toml")];
    fuzz("recipe", &seeds, |bytes| {
        let Ok(text) = std::str::from_utf8(&bytes) else { return false };
        match Recipe::from_toml(text, &[]) {
            Ok(recipe) => {
                let again = Recipe::from_toml(&recipe.to_toml(), &[]).expect("what was read can be written");
                assert_eq!(again, recipe);
                true
            }
            Err(error) => error.to_string().is_empty(),
        }
    });
}

#[test]
fn jsonl() {
    let task = task_of_rows();
    let (question, answer) = (&task.question_field, &task.answer_field);
    let line = |q: &str, a: &str| format!("{{\"{question}\": {q}, \"{answer}\": {a}, \"x\": [1, {{}}]}}\n");
    let seeds = [
        line("\"What is 7 + 5?\"", "\"… #### 1,012\"").into_bytes(),
        [line("\"a\\u00e9\\ud83d\\ude00\"", "12.5"), "\r\n".into(), line("\"b\"", "\"c\"")]
            .concat()
            .into_bytes(),
    ];
    fuzz("jsonl", &seeds, |bytes| match jsonl::parse(&task, "x.jsonl", &bytes) {
        Ok(problems) => {
            assert!(problems.iter().all(|problem| !problem.question.is_empty()));
            true
        }
        Err(error) => error.to_string().is_empty(),
    });
}

#[test]
fn parquet() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/data");
    let seeds: Vec<Vec<u8>> =
        ["plain.snappy", "plain.zstd", "plain.gzip", "plain.lz4", "plain.none", "types"]
            .map(|name| std::fs::read(folder.join(format!("{name}.parquet"))).expect("a golden file"))
            .into();
    fuzz("parquet", &seeds, |bytes| {
        match crate::data::parquet::columns(bytes::Bytes::from(bytes), &["question", "meta.answer"]) {
            Ok(columns) => {
                assert_eq!(columns[0].len(), columns[1].len());
                true
            }
            Err(message) => message.is_empty(),
        }
    });
}

#[test]
fn benchmark_rows() {
    let seeds = [
        br##"{"question": "Two and three?", "answer": "2+3=<<2+3=5>>5\n#### 5", "final_answer": ["$5$", 1]}"##.to_vec(),
        br#"{"problem": "What?", "solution": "so \\boxed{\\frac{1}{2}}, \\fbox{3", "level": 5, "type": "a", "answer": 27.0}"#
            .to_vec(),
    ];
    fuzz("benchmark-rows", &seeds, |bytes| {
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
    });
}

#[test]
fn peft_config() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/interop");
    let read =
        |name: &str| std::fs::read(folder.join(name).join("adapter_config.json")).expect("a golden adapter");
    let seeds = [read("tinylora-pattern"), read("rslora-patterns"), read("lora-layers")];
    fuzz("peft-config", &seeds, |bytes| {
        let parsed = PeftConfig::parse("x.json".into(), &bytes).and_then(|config| config.modules(2));
        match parsed {
            Ok(modules) => !modules.is_empty(),
            Err(error) => error.to_string().is_empty(),
        }
    });
}
