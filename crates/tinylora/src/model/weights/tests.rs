//! Decoding against the `gguf` package, whole small models in both formats, and malformed files.

use std::fs;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::gguf::testing::Builder;

/// Values decoded by the `gguf` package; `python quants_golden.py > quants_golden.json` in this folder writes them.
const QUANTS: &str = include_str!("quants_golden.json");

#[test]
fn quantised_types_decode_as_the_gguf_package_does() {
    let golden: Value = serde_json::from_str(QUANTS).expect("JSON");
    let types = [
        ("Q4_0", TensorType::Q4_0),
        ("Q4_1", TensorType::Q4_1),
        ("Q5_0", TensorType::Q5_0),
        ("Q5_1", TensorType::Q5_1),
        ("Q8_0", TensorType::Q8_0),
        ("Q2_K", TensorType::Q2K),
        ("Q3_K", TensorType::Q3K),
        ("Q4_K", TensorType::Q4K),
        ("Q5_K", TensorType::Q5K),
        ("Q6_K", TensorType::Q6K),
        ("Q8_K", TensorType::Q8K),
    ];
    for (name, dtype) in types {
        let hex = golden[name]["bytes"].as_str().expect("hex");
        let bytes: Vec<u8> = (0..hex.len() / 2)
            .map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).expect("hex"))
            .collect();
        let values: Vec<f32> = golden[name]["values"]
            .as_array()
            .expect("array")
            .iter()
            .map(|x| x.as_f64().expect("f64") as f32)
            .collect();
        // Through a file, so that its number of the type is read, too.
        let file = Builder::default().tensor("t", &[values.len() as u64], type_number(dtype), &bytes).build();
        let folder = TempDir::new().expect("folder");
        let path = folder.path().join("t.gguf");
        fs::write(&path, file).expect("written");
        let file = MappedFile::open(&path).expect("opens");
        let header = Header::parse(&path, file.bytes()).expect("parses");
        let at = header.tensors[0].offset as usize;
        let mut out = vec![0.0; values.len()];
        decode::decode(dtype, &file.bytes()[at..at + bytes.len()], &mut out).expect("decodes");
        for (i, (found, expected)) in out.iter().zip(&values).enumerate() {
            // One product and one sum, which either side may fuse.
            assert!(
                (found - expected).abs() <= 1e-6 * expected.abs().max(0.01),
                "{name}[{i}]: {found} {expected}"
            );
        }
    }
}

fn type_number(dtype: TensorType) -> u32 {
    (0..40).find(|&number| TensorType::from_number(number) == Some(dtype)).expect("a number")
}

#[test]
fn half_types_decode_exactly() {
    let numbers = [0.0_f32, -1.5, 65504.0, 6.1e-5, 0.333_251_95];
    let f16: Vec<u8> = numbers.iter().flat_map(|&x| half::f16::from_f32(x).to_le_bytes()).collect();
    let bf16: Vec<u8> = numbers.iter().flat_map(|&x| half::bf16::from_f32(x).to_le_bytes()).collect();
    let mut out = [0.0; 5];
    decode::decode(TensorType::F16, &f16, &mut out).expect("decodes");
    assert_eq!(out, numbers.map(|x| half::f16::from_f32(x).to_f32()));
    decode::decode(TensorType::BF16, &bf16, &mut out).expect("decodes");
    assert_eq!(out, numbers.map(|x| half::bf16::from_f32(x).to_f32()));
    assert!(decode::decode(TensorType::F16, &f16[1..], &mut out).is_err());
}

/// Number `i` of tensor `name`: different for every tensor, exact in bf16.
fn number(name: &str, i: usize) -> f32 {
    let seed: usize = name.bytes().fold(7, |sum, byte| (sum * 31 + byte as usize) % 1009);
    ((seed + 5 * i) % 251) as f32 / 64.0 - 2.0
}

fn numbers(name: &str, shape: &[usize]) -> Vec<f32> {
    (0..shape.iter().product()).map(|i| number(name, i)).collect()
}

fn small_config(model_type: &str) -> Value {
    json!({"model_type": model_type, "vocab_size": 10, "hidden_size": 8, "intermediate_size": 12,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4,
        "max_position_embeddings": 64, "sliding_window": 16, "tie_word_embeddings": false})
}

type Stored = (String, &'static str, Vec<usize>, Vec<u8>);

/// All tensors of a configuration; the types alternate.
fn stored(config: &Value) -> Vec<Stored> {
    let config = ModelConfig::from_config_json(&config.to_string(), Path::new("config.json")).expect("good");
    let store = |(i, (name, shape)): (usize, (String, Vec<usize>))| {
        let values = numbers(&name, &shape);
        let (dtype, bytes): (_, Vec<u8>) = match i % 3 {
            0 => ("F32", values.iter().flat_map(|x| x.to_le_bytes()).collect()),
            1 => ("F16", values.iter().flat_map(|&x| half::f16::from_f32(x).to_le_bytes()).collect()),
            _ => ("BF16", values.iter().flat_map(|&x| half::bf16::from_f32(x).to_le_bytes()).collect()),
        };
        (name, dtype, shape, bytes)
    };
    expected_tensors(&config).into_iter().enumerate().map(store).collect()
}

fn safetensors_bytes(tensors: &[Stored]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".into(), json!({"format": "pt"}));
    let mut data = Vec::new();
    for (name, dtype, shape, bytes) in tensors {
        let end = data.len() + bytes.len();
        header
            .insert(name.clone(), json!({"dtype": dtype, "shape": shape, "data_offsets": [data.len(), end]}));
        data.extend(bytes);
    }
    file_of(&Value::Object(header).to_string(), &data)
}

fn file_of(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

/// Write a model whose weight files are `shards`, and open it.
fn open(config: &Value, shards: &[Vec<u8>]) -> Result<Weights, WeightsError> {
    let folder = TempDir::new().expect("folder");
    let config_file = folder.path().join("config.json");
    fs::write(&config_file, config.to_string()).expect("written");
    let paths: Vec<PathBuf> =
        (0..shards.len()).map(|i| folder.path().join(format!("model-{i}.safetensors"))).collect();
    for (path, bytes) in paths.iter().zip(shards) {
        fs::write(path, bytes).expect("written");
    }
    Weights::open(&ModelFiles {
        reference: "test".into(),
        layout: ModelLayout::HuggingFace {
            config: config_file,
            weights: paths,
            tokenizer: folder.path().join("tokenizer.json"),
            tokenizer_config: None,
            chat_template: None,
            generation_config: None,
        },
    })
}

fn open_gguf_bytes(bytes: &[u8]) -> Result<Weights, WeightsError> {
    let folder = TempDir::new().expect("folder");
    let path = folder.path().join("model.gguf");
    fs::write(&path, bytes).expect("written");
    Weights::open(&ModelFiles { reference: "test".into(), layout: ModelLayout::Gguf { path } })
}

fn all(weights: &Weights, name: &str) -> Vec<f32> {
    let mut out = vec![0.0; weights.shape(name).expect("there").iter().product()];
    weights.read_rows(name, 0, &mut out).expect("reads");
    out
}

#[test]
fn every_family_opens_from_safetensors_in_shards() {
    for family in ["llama", "mistral", "qwen2", "qwen3", "gemma3_text"] {
        let config = small_config(family);
        let tensors = stored(&config);
        let (one, two) = tensors.split_at(tensors.len() / 2);
        let weights = open(&config, &[safetensors_bytes(one), safetensors_bytes(two)]).expect("opens");
        let mut count = 0;
        for (name, _, shape, _) in &tensors {
            assert_eq!(weights.shape(name).expect("there"), shape);
            assert_eq!(all(&weights, name), numbers(name, shape), "{family} {name}");
            count += shape.iter().product::<usize>() as u64;
        }
        assert_eq!(weights.config().parameters, count);
        assert!(weights.gguf_metadata().is_none());
    }
}

#[test]
fn rows_are_read_from_the_middle_and_from_several_threads() {
    let config = small_config("llama");
    let weights = open(&config, &[safetensors_bytes(&stored(&config))]).expect("opens");
    let name = "model.embed_tokens.weight";
    let whole = all(&weights, name);
    std::thread::scope(|scope| {
        for first in 0..8 {
            let (weights, whole) = (&weights, &whole);
            scope.spawn(move || {
                let mut out = [0.0; 16];
                weights.read_rows(name, first, &mut out).expect("reads");
                assert_eq!(out, whole[8 * first..8 * first + 16]);
            });
        }
    });
    let bad = |first, len| {
        let mut out = vec![0.0; len];
        weights.read_rows(name, first, &mut out).expect_err("refused").to_string()
    };
    assert!(bad(9, 16).contains("16 numbers from row 9 were asked for, but it has 10 rows of 8"));
    assert!(bad(0, 7).contains("7 numbers"));
    assert!(bad(usize::MAX, 8).contains("10 rows"));
    assert!(weights.shape("nothing").expect_err("absent").to_string().contains("`nothing`"));
    assert!(!weights.has("nothing") && weights.has(name));
}

#[test]
fn gemma_names_of_models_that_see_are_understood() {
    let mut config = small_config("gemma3_text");
    let text = config.clone();
    config = json!({"model_type": "gemma3", "text_config": text});
    let rename = |rename: &dyn Fn(&str) -> String| {
        let mut tensors = stored(&text);
        tensors.iter_mut().for_each(|tensor| tensor.0 = rename(&tensor.0));
        tensors.push(("vision_tower.x".into(), "F32", vec![1], vec![0; 4]));
        tensors.push(("model.multi_modal_projector.x".into(), "I64", vec![], vec![0; 8]));
        safetensors_bytes(&tensors)
    };
    let outside = rename(&|name| format!("language_model.{name}"));
    let inside = rename(&|name| match name.strip_prefix("model.") {
        Some(rest) => format!("model.language_model.{rest}"),
        None => name.to_owned(),
    });
    for bytes in [outside, inside] {
        let weights = open(&config, &[bytes]).expect("opens");
        let name = "model.layers.1.self_attn.q_norm.weight";
        assert_eq!(all(&weights, name), numbers(name, &[4]));
    }
}

#[test]
fn a_stored_head_counts_only_if_it_differs() {
    let mut config = small_config("llama");
    let mut tensors = stored(&config);
    config["tie_word_embeddings"] = json!(true);
    let weights = open(&config, &[safetensors_bytes(&tensors)]).expect("opens");
    assert!(!weights.config().tied_head && weights.has("lm_head.weight"));
    let (embedding, last) = (tensors[0].clone(), tensors.len() - 1);
    tensors[last] = ("lm_head.weight".into(), embedding.1, embedding.2, embedding.3);
    let weights = open(&config, &[safetensors_bytes(&tensors)]).expect("opens");
    assert!(weights.config().tied_head && !weights.has("lm_head.weight"));
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    let config = small_config("llama");
    let good = stored(&config);
    let with = |change: &dyn Fn(&mut Vec<Stored>)| {
        let mut tensors = good.clone();
        change(&mut tensors);
        open(&config, &[safetensors_bytes(&tensors)]).expect_err("refused").to_string()
    };
    let missing = with(&|tensors| tensors.retain(|tensor| tensor.0 != "model.norm.weight"));
    assert!(missing.contains("the tensor `model.norm.weight`, of shape [8], is missing"), "{missing}");
    let shape = with(&|tensors| tensors[0].2 = vec![8, 10]);
    assert!(shape.contains("`model.embed_tokens.weight` has the shape [8, 10], but"), "{shape}");
    let stored_as = with(&|tensors| tensors[0].1 = "I32");
    assert!(stored_as.contains("is stored as I32"), "{stored_as}");
    let extra = with(&|tensors| {
        tensors.push(("model.layers.0.self_attn.q_proj.bias".into(), "F32", vec![8], vec![0; 32]));
    });
    assert!(extra.contains("`model.layers.0.self_attn.q_proj.bias`, of shape [8], is unknown"), "{extra}");
    let twice = open(&config, &[safetensors_bytes(&good), safetensors_bytes(&good[..1])]).expect_err("twice");
    assert!(twice.to_string().contains("model-1.safetensors"), "{twice}");
    let inv_freq: Stored =
        ("model.layers.0.self_attn.rotary_emb.inv_freq".into(), "F32", vec![2], vec![0; 8]);
    let constant = [good.clone(), vec![inv_freq]].concat();
    open(&config, &[safetensors_bytes(&constant)]).expect("a constant does not matter");
    let none = open(&config, &[]).expect_err("no file");
    assert!(matches!(none, WeightsError::NoFiles { .. }));
}

#[test]
fn malformed_safetensors_are_named() {
    let entry = |name: &str, dtype: &str, shape: &str, begin: u64, end: u64| {
        format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]}}"#)
    };
    let file =
        |entries: &[String], data: usize| file_of(&format!("{{{}}}", entries.join(",")), &vec![0; data]);
    let a = || entry("a", "F32", "[2]", 0, 8);
    let mut cut = file(&[a()], 8);
    cut.truncate(20);
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (vec![], "the file has 0 bytes"),
        (vec![1, 0, 0], "the file has 3 bytes"),
        (file_of("", &[]), "the header is malformed"),
        (
            [&100_000_001_u64.to_le_bytes()[..], b"{}"].concat(),
            "the header has 100000001 bytes, more than the limit",
        ),
        (u64::MAX.to_le_bytes().to_vec(), "18446744073709551615 bytes, more than the limit"),
        (cut, "but the file has only 20"),
        (file_of("{\"a\":", &[]), "the header is malformed"),
        (file_of("[]", &[]), "expected an object of tensors"),
        (file_of("{\"\u{0}\"", &[]), "the header is malformed"),
        (
            file_of("{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", &[]),
            "tensor `a`: missing field `data_offsets`",
        ),
        (file(&[entry("a", "F7", "[2]", 0, 8)], 8), "tensor `a`: unknown variant `F7`"),
        (file(&[entry("a", "F32", "[-2]", 0, 8)], 8), "tensor `a`: invalid value: integer `-2`"),
        (file(&[entry("a", "F32", "[1.5]", 0, 8)], 8), "tensor `a`: invalid type: floating point"),
        (file(&[a(), entry("a", "F32", "[2]", 8, 16)], 16), "the tensor `a` stands in the header twice"),
        (file(&[entry("a", "F32", "[4294967296,4294967296]", 0, 8)], 8), "`a`: the size of the shape"),
        (file(&[entry("a", "F64", "[2305843009213693952]", 0, 0)], 0), "`a`: the size of the shape"),
        (file(&[entry("a", "F32", "[2]", 8, 0)], 8), "data_offsets 8 to 0 run backwards"),
        (file(&[entry("a", "F32", "[3]", 0, 8)], 8), "`a`: 8 bytes of data, but shape [3] in F32 needs 12"),
        (
            file(&[a(), entry("b", "F32", "[2]", 4, 12)], 12),
            "tensor `b` begins at byte 4 of the data, inside `a`",
        ),
        (
            file(&[a(), entry("b", "F32", "[2]", 12, 20)], 20),
            "the bytes 8 to 12 of the data, before tensor `b`",
        ),
        (file(&[entry("a", "F32", "[2]", 4, 12)], 12), "the bytes 0 to 4 of the data, before tensor `a`"),
        (file(&[a()], 7), "the tensors need 8 bytes of data, but the file has 7"),
        (file(&[a()], 9), "the tensors end at byte 8 of the data, but the file has 9"),
        (
            file(&[entry("a", "U8", "[18446744073709551615]", 0, u64::MAX)], 9),
            "need 18446744073709551615 bytes",
        ),
    ];
    for (bytes, expected) in cases {
        let message = open(&small_config("llama"), &[bytes]).expect_err(expected).to_string();
        assert!(
            message.contains(expected) && message.contains("model-0.safetensors"),
            "{message}\n{expected}"
        );
    }
}

/// Every cut of a file is an error and no changed byte of the header makes a panic.
#[test]
fn damaged_safetensors_never_panic() {
    let tensors: Vec<Stored> =
        vec![("a".into(), "F32", vec![2], vec![0; 8]), ("b".into(), "BF16", vec![1, 1], vec![0; 2])];
    let bytes = safetensors_bytes(&tensors);
    assert_eq!(safetensors::header(&bytes).expect("good").len(), 2);
    for length in 0..bytes.len() {
        safetensors::header(&bytes[..length]).expect_err("cut");
    }
    for at in 0..bytes.len() {
        for value in [0, b'0', b'9', b'"', b'}', 0xff] {
            let mut changed = bytes.clone();
            changed[at] = value;
            let _ = safetensors::header(&changed);
        }
    }
}

/// Metadata of [`small_config`].
fn gguf_keys(architecture: &str) -> Builder {
    let key = |name: &str| format!("{architecture}.{name}");
    Builder::default()
        .string("general.architecture", architecture)
        .u32(&key("block_count"), 2)
        .u32(&key("context_length"), 64)
        .u32(&key("embedding_length"), 8)
        .u32(&key("feed_forward_length"), 12)
        .u32(&key("attention.head_count"), 2)
        .u32(&key("attention.head_count_kv"), 1)
        .u32(&key("attention.key_length"), 4)
        .f32(&key("attention.layer_norm_rms_epsilon"), 1e-6)
}

/// A file with all tensors of [`small_config`], with rows and norms as llama.cpp's converter writes them.
fn gguf_model(architecture: &str, model_type: &str) -> (Builder, Vec<(String, Vec<usize>)>) {
    let text = small_config(model_type).to_string();
    let config = ModelConfig::from_config_json(&text, Path::new("config.json")).expect("good");
    let mut builder = gguf_keys(architecture);
    let expected = expected_tensors(&config);
    for (name, shape) in &expected {
        let mut values = numbers(name, shape);
        if architecture == "llama" && (name.contains("q_proj") || name.contains("k_proj")) {
            values = interleave(&values, config.head_dim, 8);
        }
        if architecture == "gemma3" && name.ends_with("norm.weight") {
            values.iter_mut().for_each(|x| *x += 1.0);
        }
        let dims: Vec<u64> = shape.iter().rev().map(|&n| n as u64).collect();
        builder = builder.tensor_f32(&names::to_gguf(name, config.family), &dims, &values);
    }
    (builder, expected)
}

/// `w.reshape(heads, 2, head_dim / 2, d).swapaxes(1, 2)`, the permutation of llama.cpp's converter.
fn interleave(values: &[f32], head_dim: usize, d: usize) -> Vec<f32> {
    let mut out = Vec::new();
    for head in values.chunks(head_dim * d) {
        for i in 0..head_dim / 2 {
            for half in 0..2 {
                let row = half * head_dim / 2 + i;
                out.extend(&head[row * d..(row + 1) * d]);
            }
        }
    }
    out
}

#[test]
fn every_architecture_opens_from_gguf_in_the_order_of_hugging_face() {
    for (architecture, model_type) in
        [("llama", "llama"), ("qwen2", "qwen2"), ("qwen3", "qwen3"), ("gemma3", "gemma3_text")]
    {
        let (builder, expected) = gguf_model(architecture, model_type);
        let weights = open_gguf_bytes(&builder.build()).expect("opens");
        for (name, shape) in &expected {
            assert_eq!(weights.shape(name).expect("there"), shape);
            assert_eq!(all(&weights, name), numbers(name, shape), "{architecture} {name}");
        }
        assert!(weights.gguf_metadata().is_some_and(|keys| keys.contains_key("general.architecture")));
        // Rows from the middle of a permuted tensor.
        let name = "model.layers.0.self_attn.q_proj.weight";
        let mut out = [0.0; 16];
        weights.read_rows(name, 5, &mut out).expect("reads");
        assert_eq!(out, numbers(name, &[8, 8])[40..56], "{architecture}");
    }
}

#[test]
fn gguf_tensors_that_do_not_fit_are_named() {
    let refused = |builder: Builder| open_gguf_bytes(&builder.build()).expect_err("refused").to_string();
    let missing = refused(gguf_keys("llama").tensor_f32("token_embd.weight", &[8, 10], &[0.0; 80]));
    assert!(missing.contains("`model.layers.0.input_layernorm.weight`"), "{missing}");
    let shape = refused(gguf_keys("llama").tensor_f32("token_embd.weight", &[10, 8], &[0.0; 80]));
    assert!(shape.contains("`token_embd.weight` has the shape [8, 10]"), "{shape}");
    let extra = refused(gguf_model("llama", "llama").0.tensor_f32("blk.0.attn_q.bias", &[8], &[0.0; 8]));
    assert!(extra.contains("`blk.0.attn_q.bias`, of shape [8], is unknown"), "{extra}");
    let factors = gguf_model("llama", "llama").0.tensor_f32("rope_freqs.weight", &[2], &[1.0, 8.0]);
    let weights = open_gguf_bytes(&factors.build()).expect("opens");
    assert_eq!(weights.config().ropes[0].inverse_frequencies(4), [1.0, 0.01 / 8.0]);
    let wrong = refused(gguf_model("llama", "llama").0.tensor_f32("rope_freqs.weight", &[2, 1], &[1.0, 8.0]));
    assert!(wrong.contains("`rope_freqs.weight`, of shape [1, 2]"), "{wrong}");
    let message = open_gguf_bytes(b"GGML").expect_err("refused").to_string();
    assert!(message.contains("model.gguf: not a usable GGUF file"), "{message}");
}

#[test]
fn the_hash_covers_every_file() {
    let config = small_config("llama");
    let tensors = stored(&config);
    let (one, two) = tensors.split_at(3);
    let shards = [safetensors_bytes(one), safetensors_bytes(two)];
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();

    let folder = TempDir::new().expect("folder");
    let path = |i: usize| folder.path().join(format!("{i}.safetensors"));
    for (i, bytes) in shards.iter().enumerate() {
        fs::write(path(i), bytes).expect("written");
    }
    let weights = |files: &[usize]| {
        let files = files.iter().map(|&i| MappedFile::open(&path(i)).expect("opens")).collect();
        let text = config.to_string();
        let config = ModelConfig::from_config_json(&text, Path::new("config.json")).expect("good");
        Weights { config, files, tensors: BTreeMap::new(), gguf: None }
    };
    assert_eq!(weights(&[0]).sha256().expect("reads"), hex(&Sha256::digest(&shards[0])));
    let both = [Sha256::digest(&shards[0]), Sha256::digest(&shards[1])].concat();
    assert_eq!(weights(&[0, 1]).sha256().expect("reads"), hex(&Sha256::digest(both)));
    assert_ne!(weights(&[0, 1]).sha256().expect("reads"), weights(&[1, 0]).sha256().expect("reads"));
}

/// The models that transformers wrote for the golden tests: they open, and the spelling of transformers 5
/// (`config.v5.json`) means what the older one (`config.json`) means.
#[test]
fn models_that_transformers_wrote_open_with_either_configuration() {
    let models = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../golden/models"));
    let mut count = 0;
    for folder in fs::read_dir(models).expect("golden models") {
        let folder = folder.expect("an entry").path();
        let old =
            ModelConfig::from_config_file(&folder.join("config.json")).unwrap_or_else(|e| panic!("{e}"));
        let new =
            ModelConfig::from_config_file(&folder.join("config.v5.json")).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(old, new, "{}", folder.display());
        let shards = fs::read_dir(&folder).expect("files").map(|file| file.expect("an entry").path());
        let named = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("model") && name.ends_with(".safetensors")
        };
        let shards: Vec<PathBuf> = shards.filter(named).collect();
        let weights =
            open_safetensors(&folder.join("config.json"), &shards).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(*weights.config(), old, "{}", folder.display());
        count += 1;
    }
    assert!(count >= 5, "{count} models in {}", models.display());
}
