//! Tests of the second kind of adapter file: written and read again, and refused where a field is wrong.

use super::super::any::{AnyAdapter, load};
use super::super::file::RunMetadata;
use super::super::fingerprint::tests::factors;
use super::super::spec::tests::config;
use super::*;

/// LoRA-like, on q of layer 0 and down of layer 2, with other groups and sizes than a seeded adapter has.
pub(in crate::adapter) fn adapter() -> Standalone {
    let base = BaseIdentity::new("a/b", [7; 32], WeightDtype::F32, &config(3));
    let modules = vec![
        Module { layer: 0, target: Target::Q },
        Module { layer: 2, target: Target::Q },
        Module { layer: 2, target: Target::Down },
    ];
    let (rank, u) = (3, 2);
    let one = |(index, module): (usize, &Module)| {
        let (n, k) = base.shape(module.target);
        let (a, b) = factors(index, rank, n, k);
        ModuleFactors { a, b }
    };
    let factors = Factors { rank, modules: modules.iter().enumerate().map(one).collect() };
    let p = (0..modules.len() * u * rank * rank).map(|i| 0.1 * i as f32 - 1.0).collect();
    let v = vec![0.5, -0.25, 0.125, 1.5];
    let source = "PEFT 0.21.2".to_owned();
    Standalone {
        method: Method::TinyLora,
        base,
        modules,
        groups: vec![1, 0, 1],
        u,
        v,
        p,
        factors,
        source,
        run: Some(RunMetadata { name: "a".into(), steps: 3, ..Default::default() }),
    }
}

fn rehash(bytes: &mut [u8]) {
    let (content, hash) = bytes.split_at_mut(bytes.len() - HASH_BYTES);
    hash.copy_from_slice(Sha256::digest(&*content).as_slice());
}

#[test]
fn written_and_read_again_from_file_and_text() {
    let adapter = adapter();
    let bytes = adapter.to_bytes().unwrap();
    assert_eq!(Standalone::from_bytes("x", &bytes).unwrap(), adapter);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tinylora");
    adapter.write(&path).unwrap();
    assert_eq!(load(path.to_str().unwrap()).unwrap(), AnyAdapter::Standalone(adapter.clone()));
    for method in METHODS {
        let other = Standalone { method, ..adapter.clone() };
        assert_eq!(AnyAdapter::from_bytes("x", &other.to_bytes().unwrap()).unwrap(), other.into());
    }
}

/// The document's rows of the second kind: offsets follow each other and end at the header's size.
#[test]
fn the_document_and_the_code_agree() {
    let document = include_str!("../../../../docs/adapter-format.md");
    let second = document.split("# The second kind").nth(1).expect("the document has the second kind");
    let rows: Vec<(usize, usize, String)> = second
        .lines()
        .filter_map(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            Some((cells.get(1)?.parse().ok()?, cells.get(2)?.parse().ok()?, (*cells.get(3)?).to_owned()))
        })
        .collect();
    let mut end = 0;
    for (offset, size, field) in &rows {
        assert_eq!(*offset, end, "{field}");
        end += size;
    }
    assert_eq!(end, HEADER_BYTES);
    let bytes = adapter().to_bytes().unwrap();
    let field = |name: &str| {
        let (offset, size, _) = rows.iter().find(|row| row.2 == format!("`{name}`")).expect(name);
        bytes[*offset..offset + size].iter().rev().fold(0u64, |all, &byte| all << 8 | u64::from(byte))
    };
    assert_eq!(field("kind"), 2);
    assert_eq!(field("length"), bytes.len() as u64);
    assert_eq!((field("rank"), field("u"), field("modules"), field("groups")), (3, 2, 3, 2));
    assert_eq!((field("hidden_size"), field("num_layers"), field("vocab_size")), (12, 3, 100));
    assert_eq!((field("reference_length"), field("source_length")), (3, 11));
}

#[test]
fn wrong_fields_are_named() {
    let good = adapter().to_bytes().unwrap();
    let table = HEADER_BYTES;
    for (at, value, expected) in [
        (11, 9, "method is code 9"),
        (16, 0, "rank is 0"),
        (16, 4, "length is"),
        (20, 0, "u is 0"),
        (24, 200, "number of modules is 200"),
        (28, 3, "number of groups is 3"),
        (28, 1, "group is 1 in row 0"),
        (68, 77, "family is code 77"),
        (70, 1, "unused byte is 1"),
        (table, 9, "layer is 9 in row 0"),
        (table + 2, 7, "target is code 7"),
        (table + 8, 0, "module is layer 0 q_proj in row 1"),
        (table + 27, 127, "v is NaN"),
    ] {
        let mut bytes = good.clone();
        bytes[at] = value;
        if at == table + 27 {
            bytes[table + 24..table + 28].copy_from_slice(&f32::NAN.to_le_bytes());
        }
        rehash(&mut bytes);
        let message = Standalone::from_bytes("x.tinylora", &bytes).unwrap_err().to_string();
        assert!(message.starts_with("x.tinylora: ") && message.contains(expected), "{message}\n{expected}");
    }
    let mut changed = good.clone();
    changed[200] ^= 1;
    assert!(matches!(Standalone::from_bytes("x", &changed), Err(AdapterFileError::HashMismatch { .. })));
}

/// Whatever the header says, nothing is made of its sizes that the file's length does not carry.
#[test]
fn damaged_headers_never_panic() {
    let good = adapter().to_bytes().unwrap();
    for length in 0..good.len() {
        AnyAdapter::from_bytes("x", &good[..length]).expect_err("cut");
    }
    for at in 10..HEADER_BYTES + 24 {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut bytes = good.clone();
            bytes[at] = value;
            rehash(&mut bytes);
            let _ = AnyAdapter::from_bytes("x", &bytes);
        }
    }
}
