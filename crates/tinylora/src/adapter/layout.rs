//! An adapter enters, bytes leave, and back: the layout of `docs/adapter-format.md`, nothing else. Bytes are
//! taken only when they are whole, their hash holds and every field makes sense.

use sha2::{Digest, Sha256};

use super::file::{AdapterFile, AdapterFileError, BaseIdentity, FORMAT_VERSION, MAGIC, RunMetadata, hex};
use super::fingerprint::{FactorSketch, FactorSketches, fine_modules};
use super::spec::{Target, TinyLoraSpec, round_to, storage_bytes};
use crate::model::config::Family;
use crate::recipe::{Projection, StoragePrecision, Tying, WeightDtype};

/// A seed, v and fingerprints: this file. The other kind is in [`super::standalone_layout`].
pub(super) const KIND_SEEDED: u8 = 1;
/// An adapter that carries its factors.
pub(super) const KIND_STANDALONE: u8 = 2;
pub(super) const HEADER_BYTES: usize = 128;
pub(super) const HASH_BYTES: usize = 32;
/// Magic, version, kind, one byte and the length: the same in both kinds.
pub(super) const FRAME_BYTES: usize = 16;
/// Bytes of one fine sketch; its module follows from its place.
const FINE_BYTES: usize = 16;

// The codes of closed enums: a value's code is its index. Never reorder.
const PRECISIONS: [StoragePrecision; 3] =
    [StoragePrecision::Fp32, StoragePrecision::Bf16, StoragePrecision::Fp16];
const TYINGS: [Tying; 3] = [Tying::None, Tying::Tiled, Tying::Structured];
const PROJECTIONS: [Projection; 3] = [Projection::Normal, Projection::Uniform, Projection::Basis];
pub(super) const FAMILIES: [Family; 5] =
    [Family::Llama, Family::Mistral, Family::Qwen2, Family::Qwen3, Family::Gemma3];
const DTYPES: [WeightDtype; 2] = [WeightDtype::F32, WeightDtype::Bf16];

/// The bytes of the file.
pub(super) fn encode(file: &AdapterFile) -> Result<Vec<u8>, AdapterFileError> {
    let (spec, base) = (&file.spec, &file.base);
    assert_eq!(file.v.len(), spec.trainable_parameters(), "v has G · u numbers");
    assert_eq!(file.factors.coarse.len(), spec.num_modules(), "one coarse byte a module");
    let run = serde_json::to_string(&file.run).expect("plain data is JSON");
    let length = HEADER_BYTES
        + spec.payload_bytes()
        + file.factors.coarse.len()
        + file.factors.fine.len() * FINE_BYTES
        + base.reference.len()
        + run.len()
        + HASH_BYTES;

    let mut out = Vec::with_capacity(length);
    out.extend(MAGIC);
    out.extend(FORMAT_VERSION.to_le_bytes());
    out.extend([KIND_SEEDED, code(&PRECISIONS, spec.storage_precision)]);
    out.extend(narrow_u32("file length", length)?.to_le_bytes());
    out.extend(narrow_u32("rank", spec.rank)?.to_le_bytes());
    out.extend(narrow_u32("u", spec.u)?.to_le_bytes());
    out.extend(narrow_u32("n_tie", spec.n_tie)?.to_le_bytes());
    out.extend([code(&TYINGS, spec.tying), code(&PROJECTIONS, spec.projection)]);
    out.extend([target_bits(&spec.targets), code(&FAMILIES, base.family)]);
    out.extend(spec.projection_seed.to_le_bytes());
    out.extend(spec.scale.to_le_bytes());
    out.extend(spec.init_bound.to_le_bytes());
    out.extend(base.parameters.to_le_bytes());
    for size in sizes(base) {
        out.extend(size.to_le_bytes());
    }
    out.extend(narrow_u32("number of trained parameters", file.v.len())?.to_le_bytes());
    out.extend(base.sha256);
    out.extend(narrow_u16("base reference", base.reference.len())?.to_le_bytes());
    out.extend(narrow_u16("run description", run.len())?.to_le_bytes());
    out.extend(narrow_u16("number of modules", file.factors.coarse.len())?.to_le_bytes());
    out.extend([file.factors.fine.len() as u8, code(&DTYPES, base.dtype)]);
    debug_assert_eq!(out.len(), HEADER_BYTES);

    write_v(&mut out, spec.storage_precision, &file.v);
    out.extend(file.factors.coarse.iter().map(|&byte| byte as u8));
    for sketch in &file.factors.fine {
        sketch.values.iter().for_each(|value| out.extend(value.to_le_bytes()));
    }
    out.extend(base.reference.as_bytes());
    out.extend(run.as_bytes());
    let hash = Sha256::digest(&out);
    out.extend(hash.as_slice());
    debug_assert_eq!(out.len(), length);
    Ok(out)
}

/// The adapter in the bytes; `name` is what messages call them.
pub(super) fn decode(name: &str, bytes: &[u8]) -> Result<AdapterFile, AdapterFileError> {
    check_frame(name, bytes)?;
    let mut reader = Reader { name, bytes: &bytes[10..bytes.len() - HASH_BYTES] };
    let mut file = read_header(&mut reader)?;
    file.v = reader.v(file.spec.storage_precision, file.v.len())?;
    if let Some((index, value)) = file.v.iter().enumerate().find(|(_, value)| !value.is_finite()) {
        let wanted = "every number must be finite".into();
        return Err(reader.bad("v", format!("{value} at index {index}"), wanted));
    }
    let modules = file.spec.num_modules();
    file.factors.coarse = reader.take(modules)?.iter().map(|&byte| byte as i8).collect();
    for module in fine_modules(modules) {
        let mut values = [0f32; 4];
        for value in &mut values {
            *value = reader.f32()?;
            if !value.is_finite() {
                let found = format!("{value} of module {module}");
                return Err(reader.bad("fine fingerprint", found, "every number must be finite".into()));
            }
        }
        file.factors.fine.push(FactorSketch { module: module as u32, values });
    }
    let (reference_length, run_length) = text_lengths(bytes);
    file.base.reference = reader.text("base reference", reference_length)?;
    let run = reader.text("run description", run_length)?;
    file.run = serde_json::from_str(&run)
        .map_err(|e| reader.bad("run description", run.clone(), format!("it must be JSON: {e}")))?;
    if !reader.bytes.is_empty() {
        let found = format!("{} bytes more than its fields", reader.bytes.len());
        return Err(reader.bad("length", found, "they must agree".into()));
    }
    Ok(file)
}

/// The base's sizes in the order of the file.
pub(super) fn sizes(base: &BaseIdentity) -> [u32; 7] {
    [
        base.hidden_size,
        base.intermediate_size,
        base.num_layers,
        base.num_heads,
        base.num_kv_heads,
        base.head_dim,
        base.vocab_size,
    ]
}

pub(super) fn code<T: PartialEq>(table: &[T], value: T) -> u8 {
    table.iter().position(|entry| *entry == value).expect("the table holds every value") as u8
}

fn target_bits(targets: &[Target]) -> u8 {
    targets.iter().fold(0, |bits, target| bits | 1 << code(&Target::ALL, *target))
}

pub(super) fn narrow_u32(field: &'static str, found: usize) -> Result<u32, AdapterFileError> {
    u32::try_from(found).map_err(|_| AdapterFileError::TooLarge { field, found, limit: u32::MAX as usize })
}

pub(super) fn narrow_u16(field: &'static str, found: usize) -> Result<u16, AdapterFileError> {
    u16::try_from(found).map_err(|_| AdapterFileError::TooLarge { field, found, limit: u16::MAX as usize })
}

fn write_v(out: &mut Vec<u8>, precision: StoragePrecision, v: &[f32]) {
    let mut v = v.to_vec();
    round_to(precision, &mut v);
    for value in v {
        match precision {
            StoragePrecision::Fp32 => out.extend(value.to_le_bytes()),
            StoragePrecision::Bf16 => out.extend(half::bf16::from_f32(value).to_le_bytes()),
            StoragePrecision::Fp16 => out.extend(half::f16::from_f32(value).to_le_bytes()),
        }
    }
}

/// Whether the first bytes of a file are those of an adapter that carries its factors.
pub(super) fn is_standalone(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC) && bytes.get(10) == Some(&KIND_STANDALONE)
}

/// Magic, version, length and hash: after this the bytes are those that were written.
pub(super) fn check_frame(name: &str, bytes: &[u8]) -> Result<(), AdapterFileError> {
    let name = || name.to_owned();
    let truncated =
        |expected| Err(AdapterFileError::Truncated { name: name(), found: bytes.len(), expected });
    let magic = &bytes[..bytes.len().min(MAGIC.len())];
    if !MAGIC.starts_with(magic) {
        let found = String::from_utf8_lossy(magic).into_owned();
        return Err(AdapterFileError::WrongMagic { name: name(), found });
    }
    let (Some(version), Some(length)) = (bytes.get(8..10), bytes.get(12..16)) else {
        return truncated(HEADER_BYTES + HASH_BYTES);
    };
    let version = u16::from_le_bytes(version.try_into().expect("2 bytes"));
    if version > FORMAT_VERSION {
        return Err(AdapterFileError::FutureVersion { name: name(), found: version });
    }
    let length = u32::from_le_bytes(length.try_into().expect("4 bytes")) as usize;
    if bytes.len() < length.max(HEADER_BYTES + HASH_BYTES) {
        return truncated(length.max(HEADER_BYTES + HASH_BYTES));
    }
    if bytes.len() > length {
        let extra = bytes.len() - length;
        return Err(AdapterFileError::TrailingBytes { name: name(), extra, expected: length });
    }
    let (content, stored) = bytes.split_at(length - HASH_BYTES);
    let computed = Sha256::digest(content);
    if stored != computed.as_slice() {
        return Err(AdapterFileError::HashMismatch {
            name: name(),
            expected: hex(&stored[..8]),
            found: hex(&computed[..8]),
        });
    }
    if version == 0 {
        return Err(AdapterFileError::BadField {
            name: name(),
            field: "version",
            found: "0".into(),
            wanted: "versions begin with 1".into(),
        });
    }
    Ok(())
}

/// Lengths of the two texts; the frame has been checked, so the header is there.
fn text_lengths(bytes: &[u8]) -> (usize, usize) {
    let at = |offset: usize| usize::from(u16::from_le_bytes([bytes[offset], bytes[offset + 1]]));
    (at(120), at(122))
}

/// Bytes 10 to 128: everything of fixed size. `v` has its length, the rest that follows is empty.
fn read_header(reader: &mut Reader) -> Result<AdapterFile, AdapterFileError> {
    reader.coded("kind", &[None, Some(())])?;
    let storage_precision = reader.coded("storage precision", &PRECISIONS.map(Some))?;
    reader.u32()?; // the length, checked with the frame
    let rank = reader.u32()? as usize;
    let u = reader.u32()? as usize;
    let n_tie = reader.u32()? as usize;
    let tying = reader.coded("tying", &TYINGS.map(Some))?;
    let projection = reader.coded("projection", &PROJECTIONS.map(Some))?;
    let target_bits = reader.u8()?;
    let family = reader.coded("family", &FAMILIES.map(Some))?;
    let projection_seed = reader.u64()?;
    let scale = reader.f32()?;
    let init_bound = reader.f32()?;
    let parameters = reader.u64()?;
    let sizes = reader.sizes()?;
    let numbers = reader.u32()? as usize;
    let sha256 = reader.take(32)?.try_into().expect("32 bytes");
    reader.take(4)?; // lengths of the texts
    let modules = usize::from(reader.u16()?);
    let fine = usize::from(reader.u8()?);
    let dtype = reader.coded("dtype", &DTYPES.map(Some))?;

    let targets: Vec<Target> = Target::ALL
        .into_iter()
        .enumerate()
        .filter(|(i, _)| target_bits >> i & 1 == 1)
        .map(|(_, t)| t)
        .collect();
    let [hidden_size, intermediate_size, num_layers, num_heads, num_kv_heads, head_dim, vocab_size] = sizes;
    let base = BaseIdentity {
        reference: String::new(),
        sha256,
        family,
        dtype,
        parameters,
        hidden_size,
        intermediate_size,
        num_layers,
        num_heads,
        num_kv_heads,
        head_dim,
        vocab_size,
    };
    let layers = num_layers as usize;
    let spec = TinyLoraSpec {
        rank,
        u,
        n_tie,
        tying,
        targets,
        layers,
        projection_seed,
        projection,
        init_bound,
        scale,
        storage_precision,
    };
    check_header(reader, &spec, &base, (numbers, modules, fine), target_bits)?;
    let factors = FactorSketches { coarse: Vec::new(), fine: Vec::new() };
    Ok(AdapterFile { spec, v: vec![0.0; numbers], base, factors, run: RunMetadata::default() })
}

/// The fields must agree with each other, and their sizes with the bytes that follow, before anything of
/// those sizes is made in memory.
fn check_header(
    reader: &Reader,
    spec: &TinyLoraSpec,
    base: &BaseIdentity,
    (numbers, modules, fine): (usize, usize, usize),
    target_bits: u8,
) -> Result<(), AdapterFileError> {
    let is = |good: bool, field, found: String, wanted: String| {
        if good { Ok(()) } else { Err(reader.bad(field, found, wanted)) }
    };
    let square = spec.rank.saturating_mul(spec.rank);
    is(
        spec.projection != Projection::Basis || spec.u == square,
        "u",
        spec.u.to_string(),
        format!("R of rank {} has {square} entries", spec.rank),
    )?;
    let kinds = spec.targets.len();
    is(
        (1..128).contains(&target_bits),
        "targets",
        format!("{target_bits:#b}"),
        "1 to 7 bits are used".into(),
    )?;
    let smallest = [base.hidden_size, base.intermediate_size]
        .into_iter()
        .map(u64::from)
        .chain([base.num_heads, base.num_kv_heads].map(|n| u64::from(n) * u64::from(base.head_dim)))
        .min();
    let limit = smallest.unwrap_or(0);
    is(
        (1..=limit).contains(&(spec.rank as u64)),
        "rank",
        spec.rank.to_string(),
        format!("this base allows 1 to {limit}"),
    )?;
    is(spec.u >= 1, "u", spec.u.to_string(), "it must be at least 1".into())?;
    is(spec.scale.is_finite(), "scale", spec.scale.to_string(), "it must be finite".into())?;
    is(
        spec.init_bound.is_finite() && spec.init_bound >= 0.0,
        "init_bound",
        spec.init_bound.to_string(),
        "it must be finite and not negative".into(),
    )?;
    let expected = (base.num_layers as usize).saturating_mul(kinds);
    is(
        modules == expected,
        "number of modules",
        modules.to_string(),
        format!("{} layers × {kinds} targets are {expected}", base.num_layers),
    )?;
    let groups = spec.num_groups();
    is(
        groups.checked_mul(spec.u) == Some(numbers),
        "number of trained parameters",
        numbers.to_string(),
        format!("{groups} groups × u {} are needed", spec.u),
    )?;
    let follow = reader.bytes.len();
    is(
        numbers.checked_mul(storage_bytes(spec.storage_precision)).is_some_and(|bytes| bytes <= follow),
        "number of trained parameters",
        numbers.to_string(),
        format!("only {follow} bytes follow"),
    )?;
    let expected = fine_modules(modules).count();
    is(
        fine == expected,
        "number of fine sketches",
        fine.to_string(),
        format!("{modules} modules have {expected}"),
    )
}

/// What is left to read.
pub(super) struct Reader<'a> {
    pub(super) name: &'a str,
    pub(super) bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn bad(&self, field: &'static str, found: String, wanted: String) -> AdapterFileError {
        AdapterFileError::BadField { name: self.name.to_owned(), field, found, wanted }
    }

    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], AdapterFileError> {
        let Some((taken, rest)) = self.bytes.split_at_checked(count) else {
            let found = format!("{} bytes less than its fields", count - self.bytes.len());
            return Err(self.bad("length", found, "they must agree".into()));
        };
        self.bytes = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], AdapterFileError> {
        Ok(self.take(N)?.try_into().expect("as many bytes as asked for"))
    }

    pub(super) fn u8(&mut self) -> Result<u8, AdapterFileError> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(super) fn u16(&mut self) -> Result<u16, AdapterFileError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32, AdapterFileError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, AdapterFileError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// The base's sizes, as [`sizes`] gives them.
    pub(super) fn sizes(&mut self) -> Result<[u32; 7], AdapterFileError> {
        let mut sizes = [0u32; 7];
        for size in &mut sizes {
            *size = self.u32()?;
        }
        Ok(sizes)
    }

    pub(super) fn f32(&mut self) -> Result<f32, AdapterFileError> {
        Ok(f32::from_le_bytes(self.array()?))
    }

    pub(super) fn coded<T: Copy>(
        &mut self,
        field: &'static str,
        table: &[Option<T>],
    ) -> Result<T, AdapterFileError> {
        let code = self.u8()?;
        table.get(usize::from(code)).copied().flatten().ok_or_else(|| {
            self.bad(field, format!("code {code}"), format!("this version knows up to {}", table.len() - 1))
        })
    }

    fn v(&mut self, precision: StoragePrecision, count: usize) -> Result<Vec<f32>, AdapterFileError> {
        (0..count)
            .map(|_| {
                Ok(match precision {
                    StoragePrecision::Fp32 => self.f32()?,
                    StoragePrecision::Bf16 => half::bf16::from_le_bytes(self.array()?).to_f32(),
                    StoragePrecision::Fp16 => half::f16::from_le_bytes(self.array()?).to_f32(),
                })
            })
            .collect()
    }

    pub(super) fn text(&mut self, field: &'static str, length: usize) -> Result<String, AdapterFileError> {
        let bytes = self.take(length)?;
        let text = std::str::from_utf8(bytes).map_err(|_| {
            self.bad(field, String::from_utf8_lossy(bytes).into_owned(), "it must be UTF-8".into())
        })?;
        Ok(text.to_owned())
    }
}
