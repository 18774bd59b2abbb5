//! Named tensors enter, a safetensors file leaves, written piece by piece so that a model never is in memory twice.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use serde_json::{Map, json};

use super::error::{InteropError, io};

/// A tensor to write.
pub(super) struct OutTensor {
    pub name: String,
    /// As safetensors names it: F32, BF16, F16 …
    pub dtype: String,
    pub shape: Vec<usize>,
    pub bytes: u64,
}

/// f32 tensors that are in memory.
pub(super) fn write_f32(path: &Path, tensors: &[(String, Vec<usize>, Vec<f32>)]) -> Result<(), InteropError> {
    let list: Vec<OutTensor> = tensors
        .iter()
        .map(|(name, shape, values)| OutTensor {
            name: name.clone(),
            dtype: "F32".into(),
            shape: shape.clone(),
            bytes: 4 * values.len() as u64,
        })
        .collect();
    write(path, &list, |index, out| {
        for value in &tensors[index].2 {
            out(&value.to_le_bytes())?;
        }
        Ok(())
    })
}

/// Writes the header, then what `fill` gives for each tensor in turn, and flushes to disk.
pub(super) fn write(
    path: &Path,
    tensors: &[OutTensor],
    mut fill: impl FnMut(usize, &mut dyn FnMut(&[u8]) -> Result<(), InteropError>) -> Result<(), InteropError>,
) -> Result<(), InteropError> {
    let mut header = Map::new();
    header.insert("__metadata__".into(), json!({"format": "pt"}));
    let mut offset = 0;
    for tensor in tensors {
        let end = offset + tensor.bytes;
        let entry = json!({"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [offset, end]});
        header.insert(tensor.name.clone(), entry);
        offset = end;
    }
    let mut header = serde_json::Value::Object(header).to_string();
    // The data begin at a multiple of 8.
    let padded = header.len().next_multiple_of(8);
    header.push_str(&" ".repeat(padded - header.len()));

    let failed = io(path, "write the file");
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path).map_err(&failed)?);
    file.write_all(&(header.len() as u64).to_le_bytes()).map_err(&failed)?;
    file.write_all(header.as_bytes()).map_err(&failed)?;
    for (index, tensor) in tensors.iter().enumerate() {
        let mut written = 0;
        fill(index, &mut |bytes| {
            written += bytes.len() as u64;
            file.write_all(bytes).map_err(&failed)
        })?;
        debug_assert_eq!(written, tensor.bytes, "{}", tensor.name);
    }
    let file = file.into_inner().map_err(|error| failed(error.into_error()))?;
    file.sync_all().map_err(&failed)
}
