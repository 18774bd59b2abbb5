//! `adapter_model.safetensors` enters, tensors in f32 leave by what they are: a part of a module's adapter, or a
//! group's v. What belongs to no linear layer of the model is refused by name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::error::{InteropError, io};
use crate::adapter::{Module, Target};
use crate::model::weights::{decode, safetensors};

/// The file's name in a folder.
pub(super) const WEIGHTS: &str = "adapter_model.safetensors";

/// A tensor in f32.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Loaded {
    /// Its name in the file.
    pub name: String,
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

/// The parts of a module's adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    A,
    B,
    /// TinyLoRA's projections.
    P,
    /// LoRA-XS's matrix.
    R,
}

/// The ends of names after the module's, with what they are.
const PARTS: [(&str, Part); 9] = [
    ("tinylora_A", Part::A),
    ("tinylora_B", Part::B),
    ("tinylora_P", Part::P),
    ("lora_A.weight", Part::A),
    ("lora_B.weight", Part::B),
    // With the adapter's name, as programs save that don't go through PEFT's own saving.
    ("lora_A.default.weight", Part::A),
    ("lora_B.default.weight", Part::B),
    ("default_lora_latent_mapping.weight", Part::R),
    ("lora_latent_mapping.weight", Part::R),
];

/// Everything in the file.
pub(super) struct PeftTensors {
    pub file: PathBuf,
    pub modules: BTreeMap<(Module, Part), Loaded>,
    /// v by group.
    pub v: BTreeMap<usize, Loaded>,
}

impl PeftTensors {
    /// Reads the tensors of a folder.
    pub(super) fn read(folder: &Path) -> Result<Self, InteropError> {
        let file = folder.join(WEIGHTS);
        if !file.is_file() {
            let pickled = folder.join("adapter_model.bin").is_file();
            let reason = if pickled {
                format!(
                    "it has adapter_model.bin, which can run code when it is read; save the adapter as {WEIGHTS}"
                )
            } else {
                format!("{WEIGHTS} is not in it")
            };
            return Err(InteropError::NotAnAdapter { folder: folder.to_owned(), reason });
        }
        let bytes = std::fs::read(&file).map_err(io(&file, "read the file"))?;
        let entries = safetensors::header(&bytes)
            .map_err(|problem| InteropError::Safetensors { file: file.clone(), problem })?;
        let mut tensors = Self { file, modules: BTreeMap::new(), v: BTreeMap::new() };
        for entry in entries {
            let loaded = tensors.load(&bytes, entry)?;
            tensors.place(loaded)?;
        }
        Ok(tensors)
    }

    fn load(&self, bytes: &[u8], entry: safetensors::Entry) -> Result<Loaded, InteropError> {
        let (file, tensor) = (self.file.clone(), entry.name);
        let Some(dtype) = entry.dtype.readable() else {
            return Err(InteropError::StorageType { file, tensor, found: format!("{:?}", entry.dtype) });
        };
        let mut values = vec![0.0; entry.shape.iter().product()];
        decode::decode(dtype, &bytes[entry.offset..entry.offset + entry.bytes], &mut values).map_err(
            |reason| InteropError::UnexpectedTensor {
                file: file.clone(),
                tensor: tensor.clone(),
                shape: entry.shape.clone(),
                reason,
            },
        )?;
        match values.iter().position(|x| !x.is_finite()) {
            Some(index) => Err(InteropError::NotFinite { file, tensor, index, value: values[index] }),
            None => Ok(Loaded { name: tensor, shape: entry.shape, values }),
        }
    }

    fn place(&mut self, loaded: Loaded) -> Result<(), InteropError> {
        let refuse = |loaded: &Loaded, reason: &str| InteropError::UnexpectedTensor {
            file: self.file.clone(),
            tensor: loaded.name.clone(),
            shape: loaded.shape.clone(),
            reason: reason.to_owned(),
        };
        if let Some(group) = loaded.name.strip_prefix("base_model.tinylora_v.") {
            let Ok(group) = group.parse() else {
                return Err(refuse(&loaded, "a group's v ends with its number"));
            };
            self.v.insert(group, loaded);
            return Ok(());
        }
        let Some((module, part)) = parse(&loaded.name) else {
            return Err(refuse(&loaded, "only the linear layers of the model's blocks can be adapted here"));
        };
        if self.modules.contains_key(&(module, part)) {
            return Err(refuse(&loaded, "another tensor has the same meaning"));
        }
        self.modules.insert((module, part), loaded);
        Ok(())
    }

    /// A tensor that must be there.
    pub(super) fn take(
        &mut self,
        module: Module,
        part: Part,
        name: &str,
        shape: &[usize],
        reason: &str,
    ) -> Result<Loaded, InteropError> {
        self.modules.remove(&(module, part)).ok_or_else(|| InteropError::MissingTensor {
            file: self.file.clone(),
            tensor: name.to_owned(),
            shape: shape.to_vec(),
            reason: reason.to_owned(),
        })
    }

    /// An error about a tensor's shape.
    pub(super) fn bad_shape(&self, loaded: &Loaded, expected: String) -> InteropError {
        InteropError::Shape {
            file: self.file.clone(),
            tensor: loaded.name.clone(),
            found: loaded.shape.clone(),
            expected,
        }
    }
}

/// `base_model.model.model.layers.3.mlp.up_proj.lora_A.weight` → the module and what of it. Prefixes of models that
/// also see are skipped.
fn parse(name: &str) -> Option<(Module, Part)> {
    let rest = name.strip_prefix("base_model.model.").unwrap_or(name);
    let prefixes = ["model.language_model.layers.", "language_model.model.layers.", "model.layers."];
    let rest = prefixes.into_iter().find_map(|prefix| rest.strip_prefix(prefix))?;
    let (layer, rest) = rest.split_once('.')?;
    let layer = layer.parse().ok().filter(|&layer| layer <= usize::from(u16::MAX))?;
    let target = Target::ALL
        .into_iter()
        .find(|target| rest.strip_prefix(target.path()).is_some_and(|rest| rest.starts_with('.')))?;
    let end = &rest[target.path().len() + 1..];
    let (_, part) = PARTS.into_iter().find(|(name, _)| *name == end)?;
    Some((Module { layer, target }, part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_understood_and_others_are_not() {
        let q = |layer| Module { layer, target: Target::Q };
        for (name, expected) in [
            ("base_model.model.model.layers.0.self_attn.q_proj.tinylora_A", Some((q(0), Part::A))),
            ("base_model.model.model.layers.31.self_attn.q_proj.lora_B.weight", Some((q(31), Part::B))),
            (
                "base_model.model.model.language_model.layers.2.self_attn.q_proj.tinylora_P",
                Some((q(2), Part::P)),
            ),
            (
                "base_model.model.model.layers.2.self_attn.q_proj.default_lora_latent_mapping.weight",
                Some((q(2), Part::R)),
            ),
            (
                "base_model.model.model.layers.2.mlp.up_proj.lora_A.default.weight",
                Some((Module { layer: 2, target: Target::Up }, Part::A)),
            ),
            ("base_model.model.lm_head.lora_A.weight", None),
            ("base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector", None),
            ("base_model.model.model.layers.x.self_attn.q_proj.lora_A.weight", None),
            ("base_model.model.model.layers.99999999.self_attn.q_proj.lora_A.weight", None),
            ("base_model.model.model.layers.0.self_attn.q_projection.lora_A.weight", None),
        ] {
            assert_eq!(parse(name), expected, "{name}");
        }
    }
}
