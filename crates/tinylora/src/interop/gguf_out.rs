//! Metadata and tensors enter, a GGUF file (version 3) leaves, written piece by piece. The layout is in
//! [`crate::gguf`].

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use super::error::{InteropError, io};
use crate::gguf::{Array, TensorType, Value, ValueType};

/// Tensor data begin at multiples of this, the format's default.
const ALIGNMENT: u64 = 32;

/// A tensor to write.
pub(super) struct GgufTensor {
    pub name: String,
    /// (out, in): slowest first.
    pub shape: Vec<usize>,
    pub dtype: TensorType,
}

impl GgufTensor {
    fn bytes(&self) -> u64 {
        let numbers: usize = self.shape.iter().product();
        (numbers / self.dtype.block_len() * self.dtype.block_bytes()) as u64
    }
}

/// Writes the header, then what `fill` gives for each tensor in turn, and flushes to disk.
pub(super) fn write(
    path: &Path,
    metadata: &BTreeMap<String, Value>,
    tensors: &[GgufTensor],
    mut fill: impl FnMut(usize, &mut dyn FnMut(&[u8]) -> Result<(), InteropError>) -> Result<(), InteropError>,
) -> Result<(), InteropError> {
    let failed = io(path, "write the file");
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path).map_err(&failed)?);
    let header = header(metadata, tensors);
    file.write_all(&header).map_err(&failed)?;
    for (index, tensor) in tensors.iter().enumerate() {
        let mut written = 0;
        fill(index, &mut |bytes| {
            written += bytes.len() as u64;
            file.write_all(bytes).map_err(&failed)
        })?;
        debug_assert_eq!(written, tensor.bytes(), "{}", tensor.name);
        let padding = written.next_multiple_of(ALIGNMENT) - written;
        file.write_all(&[0; ALIGNMENT as usize][..padding as usize]).map_err(&failed)?;
    }
    let file = file.into_inner().map_err(|error| failed(error.into_error()))?;
    file.sync_all().map_err(&failed)
}

/// Everything before the data, padded.
fn header(metadata: &BTreeMap<String, Value>, tensors: &[GgufTensor]) -> Vec<u8> {
    let mut out = b"GGUF\x03\0\0\0".to_vec();
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        text(&mut out, key);
        out.extend((value_type(value) as u32).to_le_bytes());
        write_value(&mut out, value);
    }
    let mut offset = 0u64;
    for tensor in tensors {
        text(&mut out, &tensor.name);
        out.extend((tensor.shape.len() as u32).to_le_bytes());
        tensor.shape.iter().rev().for_each(|&size| out.extend((size as u64).to_le_bytes()));
        out.extend(tensor.dtype.number().to_le_bytes());
        out.extend(offset.to_le_bytes());
        offset += tensor.bytes().next_multiple_of(ALIGNMENT);
    }
    out.resize(out.len().next_multiple_of(ALIGNMENT as usize), 0);
    out
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn value_type(value: &Value) -> ValueType {
    match value {
        Value::U8(_) => ValueType::U8,
        Value::I8(_) => ValueType::I8,
        Value::U16(_) => ValueType::U16,
        Value::I16(_) => ValueType::I16,
        Value::U32(_) => ValueType::U32,
        Value::I32(_) => ValueType::I32,
        Value::F32(_) => ValueType::F32,
        Value::Bool(_) => ValueType::Bool,
        Value::String(_) => ValueType::String,
        Value::Array(_) => ValueType::Array,
        Value::U64(_) => ValueType::U64,
        Value::I64(_) => ValueType::I64,
        Value::F64(_) => ValueType::F64,
    }
}

fn write_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(x) => out.push(*x),
        Value::I8(x) => out.extend(x.to_le_bytes()),
        Value::U16(x) => out.extend(x.to_le_bytes()),
        Value::I16(x) => out.extend(x.to_le_bytes()),
        Value::U32(x) => out.extend(x.to_le_bytes()),
        Value::I32(x) => out.extend(x.to_le_bytes()),
        Value::F32(x) => out.extend(x.to_le_bytes()),
        Value::Bool(x) => out.push(u8::from(*x)),
        Value::String(x) => text(out, x),
        Value::Array(x) => write_array(out, x),
        Value::U64(x) => out.extend(x.to_le_bytes()),
        Value::I64(x) => out.extend(x.to_le_bytes()),
        Value::F64(x) => out.extend(x.to_le_bytes()),
    }
}

fn write_array(out: &mut Vec<u8>, array: &Array) {
    let mut head = |kind: ValueType| {
        out.extend((kind as u32).to_le_bytes());
        out.extend((array.len() as u64).to_le_bytes());
    };
    match array {
        Array::U8(x) => {
            head(ValueType::U8);
            out.extend(x);
        }
        Array::I8(x) => {
            head(ValueType::I8);
            x.iter().for_each(|x| out.extend(x.to_le_bytes()));
        }
        Array::U16(x) => {
            head(ValueType::U16);
            x.iter().for_each(|x| out.extend(x.to_le_bytes()));
        }
        Array::I16(x) => {
            head(ValueType::I16);
            x.iter().for_each(|x| out.extend(x.to_le_bytes()));
        }
        Array::U32(x) => {
            head(ValueType::U32);
            x.iter().for_each(|x| out.extend(x.to_le_bytes()));
        }
        Array::I32(x) => {
            head(ValueType::I32);
            x.iter().for_each(|x| out.extend(x.to_le_bytes()));
        }
        Array::F32(x) => {
            head(ValueType::F32);
            x.iter().for_each(|x| out.extend(x.to_le_bytes()));
        }
        Array::Bool(x) => {
            head(ValueType::Bool);
            out.extend(x.iter().map(|&x| u8::from(x)));
        }
        Array::String(x) => {
            head(ValueType::String);
            x.iter().for_each(|x| text(out, x));
        }
        Array::U64(x) => {
            head(ValueType::U64);
            x.iter().for_each(|x| out.extend(x.to_le_bytes()));
        }
        Array::I64(x) => {
            head(ValueType::I64);
            x.iter().for_each(|x| out.extend(x.to_le_bytes()));
        }
        Array::F64(x) => {
            head(ValueType::F64);
            x.iter().for_each(|x| out.extend(x.to_le_bytes()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::Header;

    #[test]
    fn what_is_written_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.gguf");
        let values = [
            Value::U8(1),
            Value::I8(-1),
            Value::U16(2),
            Value::I16(-2),
            Value::U32(3),
            Value::I32(-3),
            Value::F32(0.5),
            Value::Bool(true),
            Value::String("text".into()),
            Value::U64(4),
            Value::I64(-4),
            Value::F64(0.25),
            Value::Array(Array::U8(vec![1, 2])),
            Value::Array(Array::I8(vec![-1])),
            Value::Array(Array::U16(vec![1])),
            Value::Array(Array::I16(vec![-1])),
            Value::Array(Array::U32(vec![1])),
            Value::Array(Array::I32(vec![-1, 7])),
            Value::Array(Array::F32(vec![1.5])),
            Value::Array(Array::Bool(vec![true, false])),
            Value::Array(Array::U64(vec![1])),
            Value::Array(Array::I64(vec![-1])),
            Value::Array(Array::F64(vec![1.5])),
        ];
        let metadata: BTreeMap<String, Value> =
            values.into_iter().enumerate().map(|(i, value)| (format!("key.{i}"), value)).collect();
        let tensor = |name: &str, shape: &[usize]| GgufTensor {
            name: name.into(),
            shape: shape.to_vec(),
            dtype: TensorType::F32,
        };
        let tensors = [tensor("a", &[3, 2]), tensor("b", &[5])];
        write(&path, &metadata, &tensors, |index, out| out(&[index as u8 + 1; 24][..24 - 4 * index]))
            .unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let header = Header::parse(&path, &bytes).unwrap();
        assert_eq!(header.metadata, metadata);
        assert_eq!((header.tensors[0].shape.clone(), header.tensors[1].shape.clone()), (vec![3, 2], vec![5]));
        assert_eq!(bytes[header.tensors[1].offset as usize], 2);
    }
}
