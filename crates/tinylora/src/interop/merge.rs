//! A base model of safetensors and a standalone adapter enter, a folder with merged weights leaves: the same shards,
//! the same tensors, configuration and tokenizer copied. W + ΔW is computed in f32 and rounded once.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::delta::{Delta, deltas};
use super::error::{InteropError, io};
use super::peft_config::module_name;
use super::rounding::{OutputType, Survival};
use super::safetensors_out::{self, OutTensor};
use super::staged::Staged;
use super::trained::NewWeights;
use crate::adapter::Standalone;
use crate::hub::{ModelFiles, ModelLayout};
use crate::model::weights::safetensors::{self, DType, Entry};
use crate::model::weights::{Weights, decode, names};

const INDEX: &str = "model.safetensors.index.json";
/// What stands beside weights and belongs to the model; larger files are something else.
const COPIED: [&str; 4] = ["json", "jinja", "model", "txt"];
const LARGEST_COPIED: u64 = 256 << 20;

/// Writes the merged model. `dtype` is that of all float tensors; None: each as the base stores it. `progress` is told
/// the shards done, of how many. Returns what of the update outlived the rounding.
pub fn merge(
    adapter: &Standalone,
    weights: &Weights,
    files: &ModelFiles,
    dtype: Option<OutputType>,
    out: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Survival, InteropError> {
    let ModelLayout::HuggingFace { config, .. } = &files.layout else {
        return Err(InteropError::OutputType {
            what: files.reference.clone(),
            wanted: "a folder of safetensors",
            instead: "its base is a GGUF file; merge it into a GGUF file",
        });
    };
    if dtype == Some(OutputType::Q8_0) {
        return Err(InteropError::OutputType {
            what: files.reference.clone(),
            wanted: "q8_0",
            instead: "safetensors hold f32, bf16 or f16; give one of these as --dtype",
        });
    }
    let deltas = deltas(adapter)?;
    write_folder(Change { deltas: &deltas, new: None }, weights, (config, dtype), out, progress)
}

/// The same folder with other numbers in its weights.
pub(super) fn write_new(
    new: NewWeights<'_>,
    weights: &Weights,
    files: &ModelFiles,
    out: &Path,
) -> Result<(), InteropError> {
    let ModelLayout::HuggingFace { config, .. } = &files.layout else {
        unreachable!("the caller looked at the layout")
    };
    let change = Change { deltas: &[], new: Some(new) };
    write_folder(change, weights, (config, Some(new.matrices)), out, &mut |_, _| {}).map(drop)
}

/// What the written weights are: those of the base with updates, or others.
#[derive(Clone, Copy)]
struct Change<'a> {
    deltas: &'a [Delta<'a>],
    new: Option<NewWeights<'a>>,
}

fn write_folder(
    change: Change<'_>,
    weights: &Weights,
    (config, dtype): (&Path, Option<OutputType>),
    out: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Survival, InteropError> {
    let staged = Staged::folder(out)?;
    let mut survival = Survival::default();
    let mut index = serde_json::Map::new();
    let mut total_size = 0;
    let shards: Vec<(&Path, &[u8])> = weights.mapped().collect();
    for (number, &(path, bytes)) in shards.iter().enumerate() {
        progress(number as u64, shards.len() as u64);
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let family = weights.config().family;
        let shard = Shard { path, bytes, change, dtype, family };
        for tensor in shard.write(&staged.path().join(&name), &mut survival)? {
            total_size += tensor.bytes;
            index.insert(tensor.name, json!(name));
        }
    }
    if shards.len() > 1 {
        index.sort_keys();
        let index = json!({"metadata": {"total_size": total_size}, "weight_map": index});
        write_json(&staged.path().join(INDEX), &index)?;
    }
    copy_others(config, dtype, staged.path())?;
    staged.commit()?;
    progress(shards.len() as u64, shards.len() as u64);
    Ok(survival)
}

/// One file of the base.
struct Shard<'a, 'c> {
    path: &'a Path,
    bytes: &'a [u8],
    change: Change<'c>,
    dtype: Option<OutputType>,
    family: crate::model::config::Family,
}

impl Shard<'_, '_> {
    /// Writes the merged file and tells what is in it.
    fn write(&self, out: &Path, survival: &mut Survival) -> Result<Vec<OutTensor>, InteropError> {
        let entries = safetensors::header(self.bytes)
            .map_err(|problem| InteropError::Safetensors { file: self.path.to_owned(), problem })?;
        let tensors: Vec<OutTensor> = entries.iter().map(|entry| self.out_tensor(entry)).collect();
        safetensors_out::write(out, &tensors, |index, write| {
            let entry = &entries[index];
            let bytes = &self.bytes[entry.offset..entry.offset + entry.bytes];
            let stored = stored_type(entry.dtype);
            let delta = self.delta(&entry.name);
            let wanted = self.wanted(&entry.shape).or(stored);
            if let (Some(new), Some(wanted)) = (self.new_numbers(entry), wanted.filter(|_| stored.is_some()))
            {
                return write_rows(new, &entry.shape, wanted, write);
            }
            match (stored, wanted) {
                // As it is.
                (None, _) | (_, None) => write(bytes),
                (Some(stored), Some(wanted)) if delta.is_none() && stored == wanted => write(bytes),
                (Some(_), Some(wanted)) => self.write_tensor(entry, wanted, delta, survival, write),
            }
        })?;
        Ok(tensors)
    }

    fn out_tensor(&self, entry: &Entry) -> OutTensor {
        let numbers: usize = entry.shape.iter().product();
        match (stored_type(entry.dtype), self.wanted(&entry.shape)) {
            (Some(_), Some(wanted)) => OutTensor {
                name: entry.name.clone(),
                dtype: wanted.name().to_uppercase(),
                shape: entry.shape.clone(),
                bytes: wanted.bytes(numbers),
            },
            _ => OutTensor {
                name: entry.name.clone(),
                dtype: entry.dtype.name(),
                shape: entry.shape.clone(),
                bytes: entry.bytes as u64,
            },
        }
    }

    fn wanted(&self, shape: &[usize]) -> Option<OutputType> {
        self.change.new.map(|new| new.dtype(shape)).or(self.dtype)
    }

    /// The tensor's new numbers, if it has any.
    fn new_numbers(&self, entry: &Entry) -> Option<&[f32]> {
        let new = self.change.new?;
        (new.find)(&names::from_safetensors(&entry.name, self.family)?)
    }

    /// The update of the tensor, if it is an adapted matrix.
    fn delta(&self, name: &str) -> Option<&Delta<'_>> {
        let name = names::from_safetensors(name, self.family)?;
        let module = name.strip_suffix(".weight")?;
        self.change.deltas.iter().find(|delta| module_name(delta.module) == module)
    }

    /// Row by row: decoded, updated, rounded.
    fn write_tensor(
        &self,
        entry: &Entry,
        wanted: OutputType,
        delta: Option<&Delta<'_>>,
        survival: &mut Survival,
        write: &mut dyn FnMut(&[u8]) -> Result<(), InteropError>,
    ) -> Result<(), InteropError> {
        let row_len = entry.shape.last().copied().unwrap_or(1).max(1);
        let rows = entry.shape.iter().product::<usize>() / row_len;
        let row_bytes = entry.bytes / rows.max(1);
        let dtype = entry.dtype.readable().expect("a float type, as was checked");
        let (mut w, mut update, mut merged) = (vec![0.0; row_len], vec![0.0; row_len], vec![0.0; row_len]);
        let mut encoded = Vec::new();
        for row in 0..rows {
            let bytes = &self.bytes[entry.offset + row * row_bytes..][..row_bytes];
            decode::decode(dtype, bytes, &mut w).map_err(|reason| InteropError::UnexpectedTensor {
                file: self.path.to_owned(),
                tensor: entry.name.clone(),
                shape: entry.shape.clone(),
                reason,
            })?;
            merged.copy_from_slice(&w);
            if let Some(delta) = delta {
                delta.row(row, &mut update);
                merged.iter_mut().zip(&update).for_each(|(merged, update)| *merged += update);
                survival.add(wanted, &w, &update, &merged);
            }
            encoded.clear();
            wanted.encode(&merged, &mut encoded);
            write(&encoded)?;
        }
        Ok(())
    }
}

/// Numbers in the type wanted, row by row.
pub(super) fn write_rows(
    numbers: &[f32],
    shape: &[usize],
    wanted: OutputType,
    write: &mut dyn FnMut(&[u8]) -> Result<(), InteropError>,
) -> Result<(), InteropError> {
    let mut encoded = Vec::new();
    for row in numbers.chunks(shape.last().copied().unwrap_or(1).max(1)) {
        encoded.clear();
        wanted.encode(row, &mut encoded);
        write(&encoded)?;
    }
    Ok(())
}

fn stored_type(dtype: DType) -> Option<OutputType> {
    match dtype {
        DType::F32 => Some(OutputType::F32),
        DType::BF16 => Some(OutputType::Bf16),
        DType::F16 => Some(OutputType::F16),
        _ => None,
    }
}

/// Configuration, tokenizer and templates: whatever of these stands beside the base's configuration.
fn copy_others(config: &Path, dtype: Option<OutputType>, out: &Path) -> Result<(), InteropError> {
    let folder = config.parent().unwrap_or(Path::new("."));
    for entry in std::fs::read_dir(folder).map_err(io(folder, "read the folder"))? {
        let path = entry.map_err(io(folder, "read the folder"))?.path();
        let extension = path.extension().map(|extension| extension.to_string_lossy().into_owned());
        let name: PathBuf = path.file_name().map(PathBuf::from).unwrap_or_default();
        let size = std::fs::metadata(&path).map_err(io(&path, "read the file"))?.len();
        let wanted = extension.is_some_and(|extension| COPIED.contains(&extension.as_str()));
        if !wanted || !path.is_file() || size > LARGEST_COPIED || name == Path::new(INDEX) {
            continue;
        }
        let to = out.join(&name);
        match dtype {
            Some(dtype) if path == config => write_json(&to, &with_dtype(&path, dtype)?)?,
            _ => drop(std::fs::copy(&path, &to).map_err(io(&to, "copy the file"))?),
        }
    }
    Ok(())
}

/// The configuration with the storage type that the weights have now.
fn with_dtype(config: &Path, dtype: OutputType) -> Result<Value, InteropError> {
    let bytes = std::fs::read(config).map_err(io(config, "read the file"))?;
    let mut json: Value = serde_json::from_slice(&bytes)
        .map_err(|error| InteropError::Json { file: config.to_owned(), reason: error.to_string() })?;
    let name = match dtype {
        OutputType::F32 => "float32",
        OutputType::Bf16 => "bfloat16",
        OutputType::F16 | OutputType::Q8_0 => "float16",
    };
    set_dtype(&mut json, name);
    if let Some(text) = json.get_mut("text_config") {
        set_dtype(text, name);
    }
    Ok(json)
}

fn set_dtype(json: &mut Value, name: &str) {
    for key in ["torch_dtype", "dtype"] {
        if let Some(value) = json.get_mut(key) {
            *value = json!(name);
        }
    }
}

fn write_json(path: &Path, json: &Value) -> Result<(), InteropError> {
    let text = serde_json::to_string_pretty(json).expect("plain data is JSON") + "\n";
    std::fs::write(path, text).map_err(io(path, "write the file"))
}
