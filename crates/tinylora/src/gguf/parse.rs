//! Bytes of a GGUF file enter, a checked [`Header`] or the first problem leaves. Never panics on any input.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::value::{Array, Strings, Value, ValueType};
use super::{Header, Problem, TensorInfo, TensorType};

/// Far above the files that exist (a few dozen keys, about two thousand tensors); bounds the memory that a
/// header of many tiny entries takes beyond its own length.
const MAX_ENTRIES: u64 = 1 << 16;
const MAX_NAME_BYTES: u64 = 1 << 16;
const MAX_DIMS: u32 = 4;
const DEFAULT_ALIGNMENT: u64 = 32;

pub(super) fn header(path: &Path, bytes: &[u8]) -> Result<Header, Problem> {
    let mut cursor = Cursor { bytes, at: 0 };
    let magic = cursor.array::<4>(|| "the magic".into())?;
    if &magic != b"GGUF" {
        return Err(Problem::Magic { found: magic });
    }
    let version = cursor.u32(|| "the version".into())?;
    if version != 2 && version != 3 {
        return Err(Problem::Version { found: version });
    }
    let tensor_count = cursor.u64(|| "the number of tensors".into())?;
    let key_count = cursor.u64(|| "the number of metadata keys".into())?;
    limit(tensor_count, MAX_ENTRIES, || "the number of tensors".into())?;
    limit(key_count, MAX_ENTRIES, || "the number of metadata keys".into())?;

    let metadata = metadata(&mut cursor, key_count)?;
    let alignment = alignment(&metadata)?;
    let mut tensors = Vec::new();
    for index in 0..tensor_count {
        tensors.push(tensor(&mut cursor, index)?);
    }
    place(&mut tensors, cursor.at as u64, alignment, bytes.len() as u64)?;
    Ok(Header {
        path: path.to_owned(),
        version,
        alignment,
        metadata,
        tensors,
        file_bytes: bytes.len() as u64,
    })
}

fn metadata(cursor: &mut Cursor, count: u64) -> Result<BTreeMap<String, Value>, Problem> {
    let mut metadata = BTreeMap::new();
    for index in 0..count {
        let key = cursor.name(|| format!("metadata key number {index}"))?;
        let value = value(cursor, &key)?;
        if metadata.contains_key(&key) {
            return Err(Problem::DuplicateKey { key });
        }
        metadata.insert(key, value);
    }
    Ok(metadata)
}

fn value(cursor: &mut Cursor, key: &str) -> Result<Value, Problem> {
    let what = || format!("key `{key}`");
    Ok(match value_type(cursor, key)? {
        ValueType::U8 => Value::U8(u8::from_le_bytes(cursor.array(what)?)),
        ValueType::I8 => Value::I8(i8::from_le_bytes(cursor.array(what)?)),
        ValueType::U16 => Value::U16(u16::from_le_bytes(cursor.array(what)?)),
        ValueType::I16 => Value::I16(i16::from_le_bytes(cursor.array(what)?)),
        ValueType::U32 => Value::U32(u32::from_le_bytes(cursor.array(what)?)),
        ValueType::I32 => Value::I32(i32::from_le_bytes(cursor.array(what)?)),
        ValueType::F32 => Value::F32(f32::from_le_bytes(cursor.array(what)?)),
        ValueType::U64 => Value::U64(u64::from_le_bytes(cursor.array(what)?)),
        ValueType::I64 => Value::I64(i64::from_le_bytes(cursor.array(what)?)),
        ValueType::F64 => Value::F64(f64::from_le_bytes(cursor.array(what)?)),
        ValueType::Bool => Value::Bool(boolean(cursor.array::<1>(what)?[0], key)?),
        ValueType::String => Value::String(cursor.string(what)?.to_owned()),
        ValueType::Array => Value::Array(array(cursor, key)?),
    })
}

fn value_type(cursor: &mut Cursor, key: &str) -> Result<ValueType, Problem> {
    let number = cursor.u32(|| format!("the type of key `{key}`"))?;
    ValueType::from_number(number).ok_or_else(|| Problem::ValueType { key: key.to_owned(), found: number })
}

fn boolean(byte: u8, key: &str) -> Result<bool, Problem> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        found => Err(Problem::Bool { key: key.to_owned(), found }),
    }
}

fn array(cursor: &mut Cursor, key: &str) -> Result<Array, Problem> {
    let item = value_type(cursor, key)?;
    let what = || format!("the array of key `{key}`");
    let count = cursor.u64(what)?;
    cursor.expect(count.saturating_mul(item.min_bytes()), what)?;
    let count = count as usize; // no more than the file has bytes
    Ok(match item {
        ValueType::U8 => Array::U8(cursor.numbers(count, u8::from_le_bytes, what)?),
        ValueType::I8 => Array::I8(cursor.numbers(count, i8::from_le_bytes, what)?),
        ValueType::U16 => Array::U16(cursor.numbers(count, u16::from_le_bytes, what)?),
        ValueType::I16 => Array::I16(cursor.numbers(count, i16::from_le_bytes, what)?),
        ValueType::U32 => Array::U32(cursor.numbers(count, u32::from_le_bytes, what)?),
        ValueType::I32 => Array::I32(cursor.numbers(count, i32::from_le_bytes, what)?),
        ValueType::F32 => Array::F32(cursor.numbers(count, f32::from_le_bytes, what)?),
        ValueType::U64 => Array::U64(cursor.numbers(count, u64::from_le_bytes, what)?),
        ValueType::I64 => Array::I64(cursor.numbers(count, i64::from_le_bytes, what)?),
        ValueType::F64 => Array::F64(cursor.numbers(count, f64::from_le_bytes, what)?),
        ValueType::Bool => {
            let bytes = cursor.take(count as u64, what)?;
            Array::Bool(bytes.iter().map(|&byte| boolean(byte, key)).collect::<Result<_, _>>()?)
        }
        ValueType::String => Array::String(strings(cursor, count, key)?),
        ValueType::Array => {
            return Err(Problem::ValueType { key: key.to_owned(), found: ValueType::Array as u32 });
        }
    })
}

/// Two passes, so that the buffer is taken once, in its final size.
fn strings(cursor: &mut Cursor, count: usize, key: &str) -> Result<Strings, Problem> {
    let begin = cursor.at;
    let mut ends = Vec::with_capacity(count);
    let mut total = 0;
    for index in 0..count {
        total += cursor.string(|| format!("string {index} of key `{key}`"))?.len();
        ends.push(total);
    }
    let mut text = String::with_capacity(total);
    cursor.at = begin;
    for index in 0..count {
        text.push_str(cursor.string(|| format!("string {index} of key `{key}`"))?);
    }
    Ok(Strings { text, ends })
}

fn alignment(metadata: &BTreeMap<String, Value>) -> Result<u64, Problem> {
    match metadata.get("general.alignment") {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(Value::U32(x)) if x.is_power_of_two() && (8..=65536).contains(x) => Ok(u64::from(*x)),
        Some(other) => Err(Problem::Alignment { found: other.describe() }),
    }
}

/// One entry of the list; `offset` is still relative to the data's beginning.
fn tensor(cursor: &mut Cursor, index: u64) -> Result<TensorInfo, Problem> {
    let name = cursor.name(|| format!("the name of tensor number {index}"))?;
    let what = || format!("the entry of tensor `{name}`");
    let count = cursor.u32(what)?;
    limit(u64::from(count), u64::from(MAX_DIMS), || format!("the number of dimensions of tensor `{name}`"))?;
    let dims = cursor.numbers(count as usize, u64::from_le_bytes, what)?;
    let number = cursor.u32(what)?;
    let Some(dtype) = TensorType::from_number(number) else {
        return Err(Problem::TensorType { tensor: name, found: number, name: type_name(number) });
    };
    let offset = cursor.u64(what)?;
    let (shape, bytes) = match size(&dims, dtype) {
        Ok(size) => size,
        Err(reason) => return Err(Problem::Shape { tensor: name, dims, reason }),
    };
    Ok(TensorInfo { name, shape, dtype, offset, bytes })
}

/// Shape (slowest first) and length in bytes.
fn size(dims: &[u64], dtype: TensorType) -> Result<(Vec<usize>, u64), String> {
    let Some(&row) = dims.first() else { return Err("there is none".into()) };
    if dims.contains(&0) {
        return Err("one is 0".into());
    }
    let block = dtype.block_len() as u64;
    if !row.is_multiple_of(block) {
        return Err(format!("a row of {row} is not a whole number of blocks of {block} ({dtype:?})"));
    }
    let elements = dims.iter().try_fold(1_u64, |product, &dim| product.checked_mul(dim));
    let bytes = elements.and_then(|n| (n / block).checked_mul(dtype.block_bytes() as u64));
    let bytes = bytes.filter(|&n| n <= i64::MAX as u64).ok_or("the size in bytes overflows")?;
    let shape: Result<Vec<usize>, _> = dims.iter().rev().map(|&dim| usize::try_from(dim)).collect();
    Ok((shape.map_err(|_| "a dimension is too large for this machine")?, bytes))
}

/// Make the offsets absolute and check places.
fn place(tensors: &mut [TensorInfo], end: u64, alignment: u64, file: u64) -> Result<(), Problem> {
    let data = end.next_multiple_of(alignment);
    let mut names = BTreeSet::new();
    for tensor in tensors.iter_mut() {
        if !names.insert(tensor.name.as_str()) {
            return Err(Problem::DuplicateTensor { tensor: tensor.name.clone() });
        }
        let relative = tensor.offset;
        if !relative.is_multiple_of(alignment) {
            return Err(Problem::Misaligned { tensor: tensor.name.clone(), offset: relative, alignment });
        }
        let begin = data.saturating_add(relative);
        if begin.checked_add(tensor.bytes).is_none_or(|end| end > file) {
            let what = format!("the data of tensor `{}`", tensor.name);
            return Err(Problem::Truncated { what, needed: tensor.bytes, offset: begin, file });
        }
        tensor.offset = begin;
    }
    let mut order: Vec<&TensorInfo> = tensors.iter().collect();
    order.sort_by_key(|tensor| tensor.offset);
    for pair in order.windows(2) {
        if pair[0].offset + pair[0].bytes > pair[1].offset {
            return Err(Problem::Overlap {
                first: pair[0].name.clone(),
                first_begin: pair[0].offset,
                first_end: pair[0].offset + pair[0].bytes,
                second: pair[1].name.clone(),
                second_begin: pair[1].offset,
            });
        }
    }
    Ok(())
}

fn limit(found: u64, limit: u64, what: impl Fn() -> String) -> Result<(), Problem> {
    if found > limit { Err(Problem::TooMany { what: what(), found, limit }) } else { Ok(()) }
}

/// Names of types that exist but cannot be read, for the message.
fn type_name(number: u32) -> &'static str {
    match number {
        9 => "Q8_1",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        _ => "unknown",
    }
}

/// Reads forward; every read is checked against the end. `what` names the thing for messages.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    /// An error if fewer bytes than this are left.
    fn expect(&self, count: u64, what: impl Fn() -> String) -> Result<(), Problem> {
        if count <= (self.bytes.len() - self.at) as u64 {
            return Ok(());
        }
        let (offset, file) = (self.at as u64, self.bytes.len() as u64);
        Err(Problem::Truncated { what: what(), needed: count, offset, file })
    }

    fn take(&mut self, count: u64, what: impl Fn() -> String) -> Result<&'a [u8], Problem> {
        self.expect(count, what)?;
        let taken = &self.bytes[self.at..self.at + count as usize];
        self.at += taken.len();
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: impl Fn() -> String) -> Result<[u8; N], Problem> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64, what)?);
        Ok(array)
    }

    fn u32(&mut self, what: impl Fn() -> String) -> Result<u32, Problem> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: impl Fn() -> String) -> Result<u64, Problem> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    fn numbers<T, const N: usize>(
        &mut self,
        count: usize,
        read: fn([u8; N]) -> T,
        what: impl Fn() -> String,
    ) -> Result<Vec<T>, Problem> {
        let (chunks, _) = self.take((count as u64).saturating_mul(N as u64), what)?.as_chunks::<N>();
        Ok(chunks.iter().map(|&chunk| read(chunk)).collect())
    }

    fn string(&mut self, what: impl Fn() -> String) -> Result<&'a str, Problem> {
        let length = self.u64(&what)?;
        let bytes = self.take(length, &what)?;
        std::str::from_utf8(bytes).map_err(|_| Problem::NotUtf8 { what: what() })
    }

    /// A key or a tensor's name.
    fn name(&mut self, what: impl Fn() -> String) -> Result<String, Problem> {
        let name = self.string(&what)?;
        limit(name.len() as u64, MAX_NAME_BYTES, || format!("the length of {}", what()))?;
        Ok(name.to_owned())
    }
}
