//! A standalone adapter enters, bytes leave, and back: the second kind of `docs/adapter-format.md`, nothing else.
//! Sizes are compared with the file's length before memory is taken for them.

use sha2::{Digest, Sha256};

use super::factors::{Factors, ModuleFactors};
use super::file::{AdapterFileError, BaseIdentity, FORMAT_VERSION, MAGIC};
use super::layout::{
    FAMILIES, HASH_BYTES, HEADER_BYTES, KIND_STANDALONE, Reader, check_frame, code, narrow_u16, narrow_u32,
    sizes,
};
use super::spec::{Module, Target};
use super::standalone::{Method, Standalone};
use crate::recipe::WeightDtype;

/// A method's code is its index. Never reorder.
const METHODS: [Method; 3] = [Method::TinyLora, Method::Lora, Method::LoraXs];
/// Bytes of a module's row in the table.
const MODULE_BYTES: usize = 8;

/// The bytes of the file.
pub(super) fn encode(adapter: &Standalone) -> Result<Vec<u8>, AdapterFileError> {
    let (base, rank) = (&adapter.base, adapter.rank());
    let floats = adapter.v.len()
        + adapter.p.len()
        + adapter.factors.modules.iter().map(|module| module.a.len() + module.b.len()).sum::<usize>();
    let run =
        adapter.run.as_ref().map_or(String::new(), |run| serde_json::to_string(run).expect("plain data"));
    let length = HEADER_BYTES
        + adapter.modules.len() * MODULE_BYTES
        + 4 * floats
        + base.reference.len()
        + adapter.source.len()
        + run.len()
        + HASH_BYTES;

    let mut out = Vec::with_capacity(length);
    out.extend(MAGIC);
    out.extend(FORMAT_VERSION.to_le_bytes());
    out.extend([KIND_STANDALONE, code(&METHODS, adapter.method)]);
    out.extend(narrow_u32("file length", length)?.to_le_bytes());
    out.extend(narrow_u32("rank", rank)?.to_le_bytes());
    out.extend(narrow_u32("u", adapter.u)?.to_le_bytes());
    out.extend(narrow_u32("number of modules", adapter.modules.len())?.to_le_bytes());
    out.extend(narrow_u32("number of groups", adapter.num_groups())?.to_le_bytes());
    out.extend(base.parameters.to_le_bytes());
    sizes(base).into_iter().for_each(|size| out.extend(size.to_le_bytes()));
    out.push(code(&FAMILIES, base.family));
    out.resize(88, 0);
    out.extend(base.sha256);
    out.extend(narrow_u16("base reference", base.reference.len())?.to_le_bytes());
    out.extend(narrow_u16("source", adapter.source.len())?.to_le_bytes());
    out.extend(narrow_u16("run description", run.len())?.to_le_bytes());
    out.resize(HEADER_BYTES, 0);

    for (module, &group) in adapter.modules.iter().zip(&adapter.groups) {
        out.extend(narrow_u16("layer", module.layer)?.to_le_bytes());
        out.extend([code(&Target::ALL, module.target), 0]);
        out.extend(narrow_u32("group", group)?.to_le_bytes());
    }
    let mut write = |values: &[f32]| values.iter().for_each(|value| out.extend(value.to_le_bytes()));
    write(&adapter.v);
    write(&adapter.p);
    for module in &adapter.factors.modules {
        write(&module.a);
        write(&module.b);
    }
    out.extend(base.reference.as_bytes());
    out.extend(adapter.source.as_bytes());
    out.extend(run.as_bytes());
    let hash = Sha256::digest(&out);
    out.extend(hash.as_slice());
    debug_assert_eq!(out.len(), length);
    Ok(out)
}

/// What the header says of sizes.
struct Counts {
    rank: usize,
    u: usize,
    modules: usize,
    groups: usize,
    reference: usize,
    source: usize,
    run: usize,
}

/// The adapter in the bytes; `name` is what messages call them.
pub(super) fn decode(name: &str, bytes: &[u8]) -> Result<Standalone, AdapterFileError> {
    check_frame(name, bytes)?;
    let mut reader = Reader { name, bytes: &bytes[10..bytes.len() - HASH_BYTES] };
    let (method, mut base, counts) = read_header(&mut reader)?;
    let (modules, groups) = read_modules(&mut reader, &base, &counts)?;
    check_length(&reader, &base, &modules, &counts)?;
    let square = counts.rank * counts.rank;
    let v = floats(&mut reader, "v", counts.groups * counts.u)?;
    let p = floats(&mut reader, "P", counts.modules * counts.u * square)?;
    let mut factors = Factors { rank: counts.rank, modules: Vec::with_capacity(modules.len()) };
    for module in &modules {
        let (n, k) = base.shape(module.target);
        let a = floats(&mut reader, "A", counts.rank * k)?;
        let b = floats(&mut reader, "B", n * counts.rank)?;
        factors.modules.push(ModuleFactors { a, b });
    }
    base.reference = reader.text("base reference", counts.reference)?;
    let source = reader.text("source", counts.source)?;
    let run = match reader.text("run description", counts.run)? {
        text if text.is_empty() => None,
        text => Some(
            serde_json::from_str(&text)
                .map_err(|e| reader.bad("run description", text.clone(), format!("it must be JSON: {e}")))?,
        ),
    };
    Ok(Standalone { method, base, modules, groups, u: counts.u, v, p, factors, source, run })
}

/// Bytes 10 to 128.
fn read_header(reader: &mut Reader) -> Result<(Method, BaseIdentity, Counts), AdapterFileError> {
    reader.coded("kind", &[None, None, Some(())])?;
    let method = reader.coded("method", &METHODS.map(Some))?;
    reader.u32()?; // the length, checked with the frame
    let [rank, u, modules, groups] = [reader.u32()?, reader.u32()?, reader.u32()?, reader.u32()?];
    let parameters = reader.u64()?;
    let sizes = reader.sizes()?;
    let family = reader.coded("family", &FAMILIES.map(Some))?;
    zeros(reader, 19)?;
    let sha256 = reader.take(32)?.try_into().expect("32 bytes");
    let (reference, source) = (usize::from(reader.u16()?), usize::from(reader.u16()?));
    let run = usize::from(reader.u16()?);
    zeros(reader, 2)?;
    for (field, value) in
        [("rank", rank), ("u", u), ("number of modules", modules), ("number of groups", groups)]
    {
        if value == 0 {
            return Err(reader.bad(field, "0".into(), "it must be at least 1".into()));
        }
    }
    let [hidden_size, intermediate_size, num_layers, num_heads, num_kv_heads, head_dim, vocab_size] = sizes;
    let base = BaseIdentity {
        reference: String::new(),
        sha256,
        family,
        // The factors are in the file: how the base is held doesn't matter to them.
        dtype: WeightDtype::F32,
        parameters,
        hidden_size,
        intermediate_size,
        num_layers,
        num_heads,
        num_kv_heads,
        head_dim,
        vocab_size,
    };
    let [rank, u, modules, groups] = [rank, u, modules, groups].map(|count| count as usize);
    Ok((method, base, Counts { rank, u, modules, groups, reference, source, run }))
}

fn zeros(reader: &mut Reader, count: usize) -> Result<(), AdapterFileError> {
    match reader.take(count)?.iter().find(|&&byte| byte != 0) {
        None => Ok(()),
        Some(byte) => Err(reader.bad("unused byte", byte.to_string(), "it must be 0".into())),
    }
}

/// The table of modules: in order, none twice, every group in use.
fn read_modules(
    reader: &mut Reader,
    base: &BaseIdentity,
    counts: &Counts,
) -> Result<(Vec<Module>, Vec<usize>), AdapterFileError> {
    if counts.modules.saturating_mul(MODULE_BYTES) > reader.bytes.len() {
        let wanted = format!("only {} bytes follow", reader.bytes.len());
        return Err(reader.bad("number of modules", counts.modules.to_string(), wanted));
    }
    let mut modules: Vec<Module> = Vec::with_capacity(counts.modules);
    let mut groups = Vec::with_capacity(counts.modules);
    for index in 0..counts.modules {
        let layer = usize::from(reader.u16()?);
        let target = reader.coded("target", &Target::ALL.map(Some))?;
        zeros(reader, 1)?;
        let group = reader.u32()? as usize;
        if layer >= base.num_layers as usize {
            let wanted = format!("the base has {} layers", base.num_layers);
            return Err(reader.bad("layer", format!("{layer} in row {index}"), wanted));
        }
        let module = Module { layer, target };
        if modules.last().is_some_and(|last| *last >= module) {
            let wanted = "modules stand depth first, each once".into();
            return Err(reader.bad("module", format!("{module} in row {index}"), wanted));
        }
        if group >= counts.groups {
            let wanted = format!("there are {} groups", counts.groups);
            return Err(reader.bad("group", format!("{group} in row {index}"), wanted));
        }
        modules.push(module);
        groups.push(group);
    }
    let mut used = groups.clone();
    used.sort_unstable();
    used.dedup();
    if used.len() != counts.groups {
        let wanted = format!("the modules use {}", used.len());
        return Err(reader.bad("number of groups", counts.groups.to_string(), wanted));
    }
    Ok((modules, groups))
}

/// What the fields ask for is exactly what is there.
fn check_length(
    reader: &Reader,
    base: &BaseIdentity,
    modules: &[Module],
    counts: &Counts,
) -> Result<(), AdapterFileError> {
    let product = |factors: &[usize]| factors.iter().try_fold(1usize, |all, &x| all.checked_mul(x));
    let needed = || -> Option<usize> {
        let mut floats = product(&[counts.groups, counts.u])?.checked_add(product(&[
            counts.modules,
            counts.u,
            counts.rank,
            counts.rank,
        ])?)?;
        for module in modules {
            let (n, k) = base.shape(module.target);
            floats = floats.checked_add(product(&[counts.rank, n.checked_add(k)?])?)?;
        }
        floats.checked_mul(4)?.checked_add(counts.reference + counts.source + counts.run)
    };
    let there = reader.bytes.len();
    match needed() {
        Some(needed) if needed == there => Ok(()),
        needed => {
            let needed = needed.map_or("more than can be counted".to_owned(), |n| n.to_string());
            let wanted = format!("its fields (rank, u, modules, sizes) ask for {needed}");
            Err(reader.bad("length", format!("{there} bytes after the table of modules"), wanted))
        }
    }
}

fn floats(reader: &mut Reader, field: &'static str, count: usize) -> Result<Vec<f32>, AdapterFileError> {
    let (words, _) = reader.take(4 * count)?.as_chunks::<4>();
    let values: Vec<f32> = words.iter().map(|&word| f32::from_le_bytes(word)).collect();
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(values),
        Some(index) => {
            let found = format!("{} at index {index}", values[index]);
            Err(reader.bad(field, found, "every number must be finite".into()))
        }
    }
}

#[cfg(test)]
#[path = "standalone_tests.rs"]
pub(super) mod tests;
