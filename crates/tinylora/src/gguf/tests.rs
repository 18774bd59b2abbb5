//! Good and malformed headers.

use std::path::Path;

use super::testing::Builder;
use super::*;

fn parse(bytes: &[u8]) -> Result<Header, GgufError> {
    Header::parse(Path::new("model.gguf"), bytes)
}

fn good() -> Builder {
    Builder::default()
        .string("general.architecture", "llama")
        .u32("llama.block_count", 2)
        .f32("llama.rope.freq_base", 10000.0)
        .raw("flag", 7, &[1])
        .strings("tokenizer.ggml.tokens", &["a", "", "ñb"])
        .array("tokenizer.ggml.token_type", 5, 2, &[1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff])
        .tensor_f32("one", &[3, 2], &[1.0; 6])
        .tensor("two", &[32, 2], 8, &[0; 68])
}

#[test]
fn a_good_file_is_read() {
    let bytes = good().build();
    let header = parse(&bytes).expect("good");
    assert_eq!((header.version, header.alignment, header.file_bytes), (3, 32, bytes.len() as u64));
    assert_eq!(header.string("general.architecture").expect("there"), "llama");
    assert_eq!(header.unsigned("llama.block_count").expect("there"), 2);
    assert_eq!(header.float("llama.rope.freq_base").expect("there"), 10000.0);
    assert!(header.bool("flag").expect("there"));
    let tokens: Vec<&str> = header.strings("tokenizer.ggml.tokens").expect("there").iter().collect();
    assert_eq!(tokens, ["a", "", "ñb"]);
    let types = header.get("tokenizer.ggml.token_type").and_then(Value::as_i32s);
    assert_eq!(types, Some(vec![1, -1]));
    let (one, two) = (&header.tensors[0], &header.tensors[1]);
    assert_eq!((one.shape.as_slice(), one.dtype, one.bytes), (&[2, 3][..], TensorType::F32, 24));
    assert_eq!((two.shape.as_slice(), two.dtype, two.bytes), (&[2, 32][..], TensorType::Q8_0, 68));
    assert_eq!(two.offset, one.offset + 32);
}

#[test]
fn a_caller_is_told_which_key_is_missing_or_of_another_type() {
    let header = parse(&good().build()).expect("good");
    let missing = header.string("nothing").expect_err("absent").to_string();
    assert!(missing.contains("model.gguf") && missing.contains("`nothing`"), "{missing}");
    let wrong = header.unsigned("general.architecture").expect_err("a string").to_string();
    assert!(wrong.contains("`general.architecture`") && wrong.contains("llama"), "{wrong}");
    assert_eq!(header.optional("nothing", "a bool", Value::as_bool).expect("fine"), None);
}

/// Whatever the length, a cut file is an error and never a panic.
#[test]
fn every_truncation_is_an_error() {
    let bytes = good().build();
    let needed = parse(&bytes).map(|h| h.tensors[1].offset + h.tensors[1].bytes).expect("good") as usize;
    for length in 0..needed {
        let error = parse(&bytes[..length]).expect_err("cut");
        let GgufError::Malformed { problem, .. } = &error else { panic!("{error}") };
        assert!(matches!(problem, Problem::Truncated { .. }), "length {length}: {error}");
    }
    assert!(parse(&bytes[..needed]).is_ok(), "the padding at the end may be missing");
}

/// Any single changed byte gives a header or an error, never a panic or a huge allocation.
#[test]
fn changed_bytes_never_panic() {
    let bytes = good().build();
    for at in 0..bytes.len() {
        for value in [0, 1, 0x7f, 0xff] {
            let mut changed = bytes.clone();
            changed[at] = value;
            let _ = parse(&changed);
        }
    }
}

#[test]
fn malformed_headers_name_what_is_wrong() {
    let patched = |at: usize, with: &[u8]| {
        let mut bytes = good().build();
        bytes[at..at + with.len()].copy_from_slice(with);
        bytes
    };
    let with = |builder: Builder| builder.build();
    let shifted = |number, by| {
        let mut builder = good();
        builder.shift = Some((number, by));
        builder.build()
    };
    let huge = u64::MAX.to_le_bytes();
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("magic", patched(0, b"GGML"), "instead of \"GGUF\""),
        ("version 1", patched(4, &1_u32.to_le_bytes()), "version 1 is not supported"),
        ("big-endian", patched(4, &3_u32.to_be_bytes()), "little-endian"),
        ("tensor count", patched(8, &huge), "the number of tensors: 18446744073709551615"),
        ("key count", patched(16, &huge), "the number of metadata keys: 18446744073709551615"),
        ("key length", patched(24, &huge), "metadata key number 0 needs 18446744073709551615 bytes"),
        ("value type", with(good().raw("k", 13, &[])), "`k` has the unknown value type 13"),
        ("bool", with(good().raw("k", 7, &[2])), "`k` has the bool 2"),
        ("nested array", with(good().array("k", 9, 0, &[])), "`k` has the unknown value type 9"),
        ("array length", with(good().array("k", 10, 1 << 61, &[])), "the array of key `k` needs"),
        (
            "array of strings",
            with(good().array("k", 8, 1 << 40, &[])),
            "the array of key `k` needs 8796093022208",
        ),
        ("not UTF-8", with(good().raw("k", 8, &[1, 0, 0, 0, 0, 0, 0, 0, 0xff])), "key `k` is not UTF-8"),
        ("duplicate key", with(good().u32("flag", 1)), "the key `flag` stands in the metadata twice"),
        ("alignment 0", with(good().u32("general.alignment", 0)), "`general.alignment` is U32(0)"),
        ("alignment 24", with(good().u32("general.alignment", 24)), "`general.alignment` is U32(24)"),
        ("alignment text", with(good().string("general.alignment", "32")), "the string \"32\""),
        (
            "duplicate tensor",
            with(good().tensor_f32("one", &[1], &[0.0])),
            "the tensor `one` stands in the list twice",
        ),
        ("dimensions", with(good().tensor("t", &[1; 5], 0, &[0; 4])), "dimensions of tensor `t`: 5"),
        ("no dimension", with(good().tensor("t", &[], 0, &[0; 4])), "tensor `t` has the dimensions []"),
        (
            "zero",
            with(good().tensor("t", &[4, 0], 0, &[])),
            "tensor `t` has the dimensions [4, 0] (fastest first): one is 0",
        ),
        ("overflow", with(good().tensor("t", &[1 << 32, 1 << 32], 0, &[])), "overflows"),
        ("bytes overflow", with(good().tensor("t", &[1 << 62, 1], 0, &[])), "overflows"),
        (
            "block",
            with(good().tensor("t", &[33], 8, &[0; 68])),
            "a row of 33 is not a whole number of blocks of 32",
        ),
        ("known type", with(good().tensor("t", &[32], 20, &[0; 18])), "tensor `t` has the type 20 (IQ4_NL)"),
        (
            "unknown type",
            with(good().tensor("t", &[32], 99, &[0; 18])),
            "tensor `t` has the type 99 (unknown)",
        ),
        ("beyond the end", shifted(1, 1 << 20), "the data of tensor `two` needs 68 bytes at offset"),
        (
            "offset overflow",
            shifted(1, -64),
            "the data of tensor `two` needs 68 bytes at offset 18446744073709551615",
        ),
        ("misaligned", shifted(1, 8), "`two`: data offset 40 is not a multiple of the alignment 32"),
        ("overlap", shifted(1, -32), "overlap"),
    ];
    for (name, bytes, expected) in cases {
        let message = parse(&bytes).expect_err(name).to_string();
        assert!(message.contains(expected), "{name}: {message}");
        assert!(message.starts_with("model.gguf: "), "{name}: {message}");
    }
}

#[test]
fn a_missing_file_is_named() {
    let message = Header::read(Path::new("/nonexistent/m.gguf")).expect_err("absent").to_string();
    assert!(message.contains("/nonexistent/m.gguf"), "{message}");
}
