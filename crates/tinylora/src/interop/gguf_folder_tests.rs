//! A GGUF file of each tiny model, made here from its folder, becomes a folder again: the same tensors bit for bit, a
//! configuration that means the same, and the tokenizer's ids. The folders are those whose log-probs PyTorch's golden files hold.
//! `TINYLORA_TEST_FOLDERS`, a new folder, keeps what was made for `golden/interop.py --folders`.

use std::path::PathBuf;

use super::*;
use crate::gguf::testing::Builder;
use crate::hub::{ModelFiles, ModelLayout};
use crate::model::config::{Family, RopeConfig, RopeScaling};
use crate::model::weights::names;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/models").join(name)
}

fn folder_files(folder: &Path) -> ModelFiles {
    let present = |name: &str| Some(folder.join(name)).filter(|path| path.is_file());
    let mut weights: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            name.starts_with("model") && name.ends_with(".safetensors")
        })
        .collect();
    weights.sort();
    let layout = ModelLayout::HuggingFace {
        config: folder.join("config.json"),
        weights,
        tokenizer: folder.join("tokenizer.json"),
        tokenizer_config: present("tokenizer_config.json"),
        chat_template: present("chat_template.jinja"),
        generation_config: present("generation_config.json"),
    };
    ModelFiles { reference: "folder".into(), layout }
}

fn gguf_files(path: &Path) -> ModelFiles {
    ModelFiles { reference: "file".into(), layout: ModelLayout::Gguf { path: path.to_owned() } }
}

fn rows(weights: &Weights, name: &str) -> Vec<f32> {
    let mut out = vec![0.0; weights.shape(name).unwrap().iter().product()];
    weights.read_rows(name, 0, &mut out).unwrap();
    out
}

/// A vocabulary of so many tokens: the letters of bytes, then unions of pairs; or SentencePiece's with scores.
fn vocabulary(builder: Builder, size: usize, sentence_piece: bool) -> Builder {
    let pairs = (0..).map(|i| format!("{}{}", char::from(b'a' + i % 26), char::from(b'a' + (i / 26) % 26)));
    let (first, model): (Vec<String>, _) = if sentence_piece {
        let bytes = (0..=255u8).map(|byte| format!("<0x{byte:02X}>"));
        let named = ["<unk>", "<bos>", "<eos>", "▁"].map(str::to_owned);
        let letters = ('a'..='z').map(String::from);
        (named.into_iter().chain(bytes).chain(letters).collect(), "llama")
    } else {
        let mut others = '\u{100}'..;
        let letter = |byte: u8| match byte {
            0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
            _ => others.next().unwrap(),
        };
        (
            ["<bos>", "<eos>"]
                .map(str::to_owned)
                .into_iter()
                .chain((0..=255).map(letter).map(String::from))
                .collect(),
            "gpt2",
        )
    };
    let own = first.len();
    let tokens: Vec<String> = first.into_iter().chain(pairs).take(size).collect();
    let kind = |id: usize| match (sentence_piece, id) {
        (true, 0) => 2,
        (true, 1 | 2) | (false, 0 | 1) => 3,
        (true, 4..260) => 6,
        _ => 1,
    };
    let types: Vec<u8> = (0..size).flat_map(|id| i32::to_le_bytes(kind(id))).collect();
    let scores: Vec<u8> = (0..size).flat_map(|id| (-(id as f32)).to_le_bytes()).collect();
    let merges: Vec<String> =
        tokens[own..].iter().map(|pair| format!("{} {}", &pair[..1], &pair[1..])).collect();
    let texts = |list: &[String]| list.iter().map(String::as_str).map(str::to_owned).collect::<Vec<_>>();
    let (tokens, merges) = (texts(&tokens), texts(&merges));
    let builder = builder
        .string("tokenizer.ggml.model", model)
        .strings("tokenizer.ggml.tokens", &tokens.iter().map(String::as_str).collect::<Vec<_>>())
        .array("tokenizer.ggml.token_type", 5, size as u64, &types)
        .u32("tokenizer.ggml.bos_token_id", u32::from(sentence_piece))
        .u32("tokenizer.ggml.eos_token_id", 1 + u32::from(sentence_piece))
        .string("tokenizer.chat_template", "{{ messages[0].content }}{{ eos_token }}");
    if sentence_piece {
        builder
            .array("tokenizer.ggml.scores", 6, size as u64, &scores)
            .u32("tokenizer.ggml.unknown_token_id", 0)
            .raw("tokenizer.ggml.add_space_prefix", 7, &[0])
    } else {
        builder.strings("tokenizer.ggml.merges", &merges.iter().map(String::as_str).collect::<Vec<_>>()).raw(
            "tokenizer.ggml.add_bos_token",
            7,
            &[1],
        )
    }
}

/// The file that a converter would make of a folder.
fn gguf_of(weights: &Weights) -> Vec<u8> {
    let config = weights.config();
    let arch = match config.family {
        // Converters write Mistral as Llama, whose windows llama.cpp doesn't know; a file of its own name keeps them.
        Family::Mistral => "mistral",
        Family::Llama => "llama",
        Family::Qwen2 => "qwen2",
        Family::Qwen3 => "qwen3",
        Family::Gemma3 => "gemma3",
    };
    let mut builder = Builder::default().string("general.architecture", arch);
    for (key, value) in [
        ("block_count", config.num_layers),
        ("context_length", config.max_positions),
        ("embedding_length", config.hidden_size),
        ("feed_forward_length", config.intermediate_size),
        ("attention.head_count", config.num_heads),
        ("attention.head_count_kv", config.num_kv_heads),
        ("attention.key_length", config.head_dim),
    ] {
        builder = builder.u32(&format!("{arch}.{key}"), value as u32);
    }
    builder = builder
        .f32(&format!("{arch}.attention.layer_norm_rms_epsilon"), config.rms_norm_eps)
        .f32(&format!("{arch}.rope.freq_base"), config.ropes[0].theta as f32)
        .f32(&format!("{arch}.attention.scale"), config.attention_scale);
    if let Some(window) = config.layers.iter().find_map(|layer| layer.window) {
        builder = builder.u32(&format!("{arch}.attention.sliding_window"), window as u32);
    }
    if config.family == Family::Gemma3 {
        let local: Vec<u8> = config.layers.iter().map(|layer| u8::from(layer.window.is_some())).collect();
        let key = format!("{arch}.attention.sliding_window_pattern");
        builder = builder.array(&key, 7, local.len() as u64, &local);
    }
    if let RopeScaling::Linear { factor } = config.ropes[0].scaling {
        builder = builder.string(&format!("{arch}.rope.scaling.type"), "linear");
        builder = builder.f32(&format!("{arch}.rope.scaling.factor"), factor as f32);
    }
    builder = vocabulary(builder, config.vocab_size, config.family == Family::Gemma3);
    for (name, shape) in expected_tensors(config) {
        let values = rows(weights, &name);
        let width = shape[shape.len() - 1];
        let mut stored = values.clone();
        let interleaved = matches!(config.family, Family::Llama | Family::Mistral)
            && (name.contains("q_proj") || name.contains("k_proj"));
        if interleaved {
            for (row, values) in values.chunks_exact(width).enumerate() {
                stored[names::interleaved_row(row, config.head_dim) * width..][..width]
                    .copy_from_slice(values);
            }
        }
        if config.norm_plus_one && name.ends_with("norm.weight") {
            stored.iter_mut().for_each(|x| *x += 1.0);
        }
        let dims: Vec<u64> = shape.iter().rev().map(|&size| size as u64).collect();
        builder = builder.tensor_f32(&names::to_gguf(&name, config.family), &dims, &stored);
    }
    if let RopeScaling::Llama3 { .. } = config.ropes[0].scaling {
        let scaled = config.ropes[0].inverse_frequencies(config.head_dim);
        let plain = RopeConfig { scaling: RopeScaling::None, ..config.ropes[0].clone() };
        let plain = plain.inverse_frequencies(config.head_dim);
        let factors: Vec<f32> = plain
            .iter()
            .zip(&scaled)
            .map(|(&plain, &scaled)| (f64::from(plain) / f64::from(scaled)) as f32)
            .collect();
        builder = builder.tensor_f32("rope_freqs.weight", &[factors.len() as u64], &factors);
    }
    builder.build()
}

/// What a vocabulary has and has not.
const TEXTS: [&str; 8] =
    ["", "abc", "ab  ba zz\n", "naïve café 你好 🙂", "<bos>a<eos>b<unk>", " x", "a▁b", "\u{0} \u{7f}"];

/// Ids before and after.
fn check_tokenizer(before: &Tokenizer, after: &Tokenizer) {
    for text in TEXTS {
        for special in [false, true] {
            let ids = before.encode(text, special).unwrap();
            assert_eq!(after.encode(text, special).unwrap(), ids, "{text:?}");
            assert_eq!(after.decode(&ids), before.decode(&ids));
            assert_eq!(after.decode_with_special(&ids), before.decode_with_special(&ids));
        }
    }
    assert_eq!((after.bos(), after.end_tokens()), (before.bos(), before.end_tokens()));
    let message = crate::tokenizer::Message { role: "user".into(), content: "ab".into() };
    let chat =
        |tokenizer: &Tokenizer| tokenizer.apply_chat_template(std::slice::from_ref(&message), true).unwrap();
    assert_eq!(chat(after), chat(before));
    assert!(chat(after).ends_with("<eos>"));
}

#[test]
fn a_file_becomes_the_folder_that_it_was_made_from() {
    for name in ["llama2", "llama2-tied", "llama3", "mistral", "qwen2", "qwen3", "gemma3"] {
        let place = tempfile::tempdir().unwrap();
        let original = Weights::open(&folder_files(&golden(name))).unwrap();
        let path = place.path().join("model.gguf");
        std::fs::write(&path, gguf_of(&original)).unwrap();
        let files = gguf_files(&path);
        let weights = Weights::open(&files).unwrap();
        let tokenizer = Tokenizer::open(&files).unwrap();
        let kept = std::env::var_os("TINYLORA_TEST_FOLDERS").map(PathBuf::from);
        kept.iter().for_each(|folder| std::fs::create_dir_all(folder).unwrap());
        let out = kept.unwrap_or_else(|| place.path().to_owned()).join(name);
        merge_gguf_to_folder(None, &weights, &tokenizer, OutputType::F32, &out, &mut |_, _| {}).unwrap();
        let written = folder_files(&out);
        let again = Weights::open(&written).unwrap();
        // Rope scalings are compared by what they do: the file has divisors in f32.
        let mut config = again.config().clone();
        for (made, wanted) in config.ropes.iter_mut().zip(&original.config().ropes) {
            assert_eq!(made.theta, wanted.theta, "{name}");
            let (made_frequencies, wanted_frequencies) =
                (made.inverse_frequencies(config.head_dim), wanted.inverse_frequencies(config.head_dim));
            assert_eq!(made_frequencies, wanted_frequencies, "{name}");
            made.scaling = wanted.scaling.clone();
        }
        assert_eq!(&config, original.config(), "{name}");
        for (tensor, _) in expected_tensors(original.config()) {
            // 1 + w is rounded in the file of a family whose norms are stored so.
            let rounded = original.config().norm_plus_one && tensor.ends_with("norm.weight");
            for (a, b) in rows(&again, &tensor).iter().zip(rows(&original, &tensor)) {
                let same = if rounded { (a - b).abs() <= 2f32.powi(-23) } else { a.to_bits() == b.to_bits() };
                assert!(same, "{name} {tensor}: {a} {b}");
            }
        }
        check_tokenizer(&tokenizer, &Tokenizer::open(&written).unwrap());
        let ids = TEXTS.map(|text| (text, tokenizer.encode(text, true).unwrap()));
        std::fs::write(out.join("expected_ids.json"), json!(ids).to_string()).unwrap();
        assert!(
            merge_gguf_to_folder(None, &weights, &tokenizer, OutputType::Q8_0, &out, &mut |_, _| {}).is_err(),
            "safetensors have no q8_0"
        );
    }
}

#[test]
fn an_update_is_in_the_folder_and_lost_in_bf16() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("model.gguf");
    std::fs::write(&path, gguf_of(&Weights::open(&folder_files(&golden("llama3"))).unwrap())).unwrap();
    let files = gguf_files(&path);
    let (weights, tokenizer) = (Weights::open(&files).unwrap(), Tokenizer::open(&files).unwrap());
    let module = crate::adapter::Module { layer: 1, target: crate::adapter::Target::K };
    let base =
        crate::adapter::BaseIdentity::new("x", [0; 32], crate::recipe::WeightDtype::F32, weights.config());
    let (n, k) = base.shape(module.target);
    let factors =
        crate::adapter::ModuleFactors { a: vec![1e-6; k], b: (0..n).map(|row| row as f32).collect() };
    let adapter = Standalone {
        method: crate::adapter::Method::Lora,
        base,
        modules: vec![module],
        groups: vec![0],
        u: 1,
        v: vec![1.0],
        p: vec![1.0],
        factors: crate::adapter::Factors { rank: 1, modules: vec![factors] },
        source: String::new(),
        run: None,
    };
    let name = format!("{}.weight", module_name(module));
    for (dtype, kept) in [(OutputType::F32, true), (OutputType::Bf16, false)] {
        let out = place.path().join(dtype.name());
        let survival =
            merge_gguf_to_folder(Some(&adapter), &weights, &tokenizer, dtype, &out, &mut |_, _| {}).unwrap();
        assert_eq!(survival.noise().unwrap() < 0.05, kept, "{survival:?}");
        let merged = Weights::open(&folder_files(&out)).unwrap();
        let off = rows(&merged, &name)
            .iter()
            .zip(rows(&weights, &name))
            .enumerate()
            .fold(0f32, |most, (at, (a, b))| most.max((a - b - (at / k) as f32 * 1e-6).abs()));
        assert_eq!(off < 1e-7, kept, "{off}");
    }
}
