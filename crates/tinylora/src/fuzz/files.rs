//! Targets whose input is a file of bytes: weights, adapters, checkpoints, parquet.

use std::borrow::Cow;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::Target;
use crate::adapter::{
    AdapterFile, AnyAdapter, BaseIdentity, FactorSketches, Factors, Method, Module, ModuleFactors,
    RunMetadata, Standalone, Target as Matrix, TinyLoraSpec, sketch_factors,
};
use crate::checkpoint::{Checkpoint, Counters, from_bytes, to_bytes};
use crate::gguf::Header;
use crate::gguf::testing::Builder;
use crate::model::config::ModelConfig;
use crate::model::weights::safetensors as tensors;
use crate::optimizer::OptimizerState;
use crate::recipe::{AdapterSection, WeightDtype};

pub(super) fn safetensors() -> Target {
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
    Target::new(seeds, move |bytes| match tensors::header(&bytes) {
        Ok(entries) => {
            // What is accepted lies inside the file.
            assert!(entries.iter().all(|entry| entry.offset + entry.bytes <= bytes.len()));
            true
        }
        Err(problem) => problem.to_string().is_empty(),
    })
}

pub(super) fn gguf() -> Target {
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
    Target::new(seeds, move |bytes| match Header::parse(Path::new("x.gguf"), &bytes) {
        Ok(header) => {
            assert!(header.tensors.iter().all(|tensor| tensor.offset + tensor.bytes <= bytes.len() as u64));
            // The configuration of an accepted header is read or refused.
            let _ = ModelConfig::from_gguf(&header, None);
            true
        }
        Err(error) => error.to_string().is_empty(),
    })
}

/// Both kinds of file. Most changes get a right hash, or nothing would come behind it.
pub(super) fn adapter() -> Target {
    let file = golden().join("models/llama2/config.json");
    let config = ModelConfig::from_config_file(&file).expect("a golden model");
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
    let modules = vec![Module { layer: 0, target: Matrix::K }, Module { layer: 2, target: Matrix::K }];
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
    Target::new(seeds, move |mut bytes| {
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
    })
}

/// Most changes get a right length and hash.
pub(super) fn checkpoint() -> Target {
    let of = |optimizer: OptimizerState, history: Vec<(u64, Vec<f32>)>| {
        to_bytes(&Checkpoint {
            step: 3,
            adapter_version: 3,
            recipe: "name = \"test\"\n".to_owned(),
            base_sha256: [7; 32],
            v: vec![0.5, -0.0].into(),
            optimizer: Cow::Owned(optimizer),
            counters: Counters { problems: 12, completions: 96 },
            history,
            logs: [("metrics.jsonl".to_owned(), 1234)].into(),
            carried: serde_json::json!({"wall_seconds": 0.1}),
        })
    };
    let (mean, square) = (vec![0.1, 0.2], vec![0.3, 0.4]);
    let seeds = [
        of(OptimizerState::Adamw { updates: 3, mean, square }, vec![(2, vec![1.0, 2.0])]),
        of(OptimizerState::Sgd { updates: 3, momentum: vec![1.0, 2.0] }, vec![]),
        of(OptimizerState::Natural { updates: 3, parameters: 2 }, vec![]),
    ];
    Target::new(seeds, |mut bytes| {
        let length = bytes.len();
        if length > 56 && bytes[9] % 4 == 0 {
            bytes[16..24].copy_from_slice(&(length as u64).to_le_bytes());
            let hash = Sha256::digest(&bytes[..length - 32]);
            bytes[length - 32..].copy_from_slice(&hash);
        }
        match from_bytes(Path::new("x"), &bytes) {
            Ok(checkpoint) => {
                let again = to_bytes(&checkpoint);
                let again = from_bytes(Path::new("x"), &again).expect("what was read can be written");
                // NaN differs from itself.
                assert_eq!(to_bytes(&again), to_bytes(&checkpoint));
                true
            }
            Err(error) => error.to_string().is_empty(),
        }
    })
}

pub(super) fn parquet() -> Target {
    let folder = golden().join("data");
    let seeds: Vec<Vec<u8>> =
        ["plain.snappy", "plain.zstd", "plain.gzip", "plain.lz4", "plain.none", "types"]
            .map(|name| std::fs::read(folder.join(format!("{name}.parquet"))).expect("a golden file"))
            .into();
    Target::new(seeds, move |bytes| {
        match crate::data::parquet::columns(bytes::Bytes::from(bytes), &["question", "meta.answer"]) {
            Ok(columns) => {
                assert_eq!(columns[0].len(), columns[1].len());
                true
            }
            Err(message) => message.is_empty(),
        }
    })
}

fn golden() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden")
}
